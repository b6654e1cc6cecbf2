"""The command line. What commands do is in `runs`, `apply`, `starter`, `doctor`; torch is imported when one begins."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ._version import __version__
from .commands.typed import own_config, spec_of, words
from .faults import Fault, GateError

if TYPE_CHECKING:
    from .commands.door import Door

app = typer.Typer(
    name="manyheads",
    help="One model that serves many tasks, and an honest answer to whether it should.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than all the rest
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[list[Path], typer.Option("-c", "--config", help="Config file; several are merged in order.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Laid over the config.", metavar="[a.b=value]...")]
Folder = Annotated[Path, typer.Option("-o", "--output-dir", help="The folder to write.")]
File = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]
Run = Annotated[Path, typer.Argument(help="A run's folder.")]
Rows = Annotated[Path, typer.Argument(help="A table (csv, parquet, jsonl, ...), or a folder of pictures.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights, batches and dropout.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds, or else begin anew.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run left there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything up to the first step, and write nothing.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object as the last line of stdout; the rest goes to stderr.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an unexpected error.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads.")]
FailUnder = Annotated[
    list[str] | None, typer.Option("--fail-under", help="split/task/metric=number; exit code 5 if worse.")
]
NoWorse = Annotated[bool, typer.Option("--fail-if-worse-than-single", help="Exit code 5 if sharing hurts a task.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Splits that are drawn.")]
Table = Annotated[str | None, typer.Option("--table", help="Which of the run's tables these rows are like.")]
Form = Annotated[
    str | None, typer.Option("--format", help="How the rows are kept: a word of `doctor --list formats`, or YAML.")
]
Backend = Annotated[str | None, typer.Option("--backend", help="loky, threading, dask[=ADDRESS] or ray.")]
Jobs = Annotated[int | None, typer.Option("--n-jobs", min=1, help="Runs at a time.")]
Trust = Annotated[list[str] | None, typer.Option("--trust", help="A module whose classes the model may use.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"manyheads {__version__}")
        raise typer.Exit


@app.command()
def demo(
    output: Folder, overrides: Overrides = None, repeats: Repeats = 5, seed: Seed = None, device: Device = None,
    force: Force = False, no_worse: NoWorse = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """The whole road on built-in real data: train a joint model, compare it with others, write a report."""
    door = _door(as_json, quiet, verbose, threads, force=force)
    from .commands.runs import demo

    more = [*([f"trainer.accelerator={device}"] if device else []), *(overrides or [])]
    _answer(as_json, lambda: demo(output, door, repeats, more, seed, no_worse), door)


@app.command()
def init(
    table: Rows, output: File = Path("run.yaml"),
    targets: Annotated[str | None, typer.Option("--targets", help="Columns to predict, with commas between.")] = None,
    force: Force = False, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Write a commented config, guessed from a table."""
    door = _door(as_json, quiet, verbose, force=force)
    from .commands.starter import init

    _answer(as_json, lambda: init(table, output, door, words(targets)))


@app.command()
def check(
    config: Config, overrides: Overrides = None, seed: Seed = None, device: Device = None, as_json: Json = False,
    quiet: Quiet = False, verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Try everything but training: schema, label table, leakage, one tiny forward pass."""
    door = _door(as_json, quiet, verbose, threads)
    from .commands.runs import check

    _answer(as_json, lambda: check(spec_of(config, overrides, seed, device), door))


@app.command()
def train(
    output: Folder, config: Annotated[list[Path] | None, typer.Option("-c", "--config", help="Config files.")] = None,
    overrides: Overrides = None, fail_under: FailUnder = None, seed: Seed = None, device: Device = None,
    resume: Resume = False, force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Train one model for all tasks."""
    door = _door(as_json, quiet, verbose, threads, resume=resume, force=force, dry_run=dry_run)
    from .commands.runs import train
    from .gates import Gate

    paths = config or [own_config(output, resume)]
    demands = [Gate.of(text) for text in fail_under or ()]
    _answer(as_json, lambda: train(spec_of(paths, overrides, seed, device), output, door, demands), door)


@app.command()
def evaluate(
    run: Run, table: Rows, fail_under: FailUnder = None, name: Table = None, trust: Trust = None, form: Form = None,
    as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Score a trained model on a table; gates call this split `test`."""
    door = _door(as_json, quiet, verbose, threads)
    from .commands.apply import evaluate
    from .gates import Gate

    demands = [Gate.of(text) for text in fail_under or ()]
    _answer(as_json, lambda: evaluate(run, table, door, demands, name, trust or (), form))


@app.command()
def predict(
    run: Run, table: Rows, output: File,
    tasks: Annotated[str | None, typer.Option("--tasks", help="Only these, with commas between.")] = None,
    keep: Annotated[str | None, typer.Option("--keep-columns", help="Columns to copy, with commas between.")] = None,
    files: Annotated[Path | None, typer.Option("--files", help="A folder for masks, boxes, tags, sounds.")] = None,
    name: Table = None, trust: Trust = None, form: Form = None, force: Force = False, dry_run: DryRun = False,
    as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Predict every task for the rows of a table, in their order; label columns are not needed."""
    door = _door(as_json, quiet, verbose, threads, force=force, dry_run=dry_run)
    from .commands.apply import predict

    named = words(tasks), words(keep) or ()
    _answer(as_json, lambda: predict(run, table, output, door, *named, name, trust or (), form, files))


@app.command()
def compare(
    config: Config, output: Folder, overrides: Overrides = None, repeats: Repeats = 10,
    methods: Annotated[
        list[str] | None,
        typer.Option("--methods", help="sharing=a,b, balance=..., objective=..., or linear,boosting; may be repeated."),
    ] = None,
    tuned: Annotated[Path | None, typer.Option("--tuned", help="A folder of `tune` whose settings are taken.")] = None,
    fractions: Annotated[str | None, typer.Option("--label-fractions", help="Shares of the labels: 0.1,0.25.")] = None,
    few: Annotated[str | None, typer.Option("--few", help="The task that loses labels; all by default.")] = None,
    backend: Backend = None, n_jobs: Jobs = None, no_worse: NoWorse = False, seed: Seed = None, device: Device = None,
    resume: Resume = False, force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Should these tasks share a model? Joint against single-task models, linear models and boosting."""
    door = _door(as_json, quiet, verbose, threads, resume=resume, force=force, dry_run=dry_run)
    from .commands.comparing import Asked, compare, is_axis, shares_of

    beside = [text for text in overrides or () if is_axis(text)]  # as many words as were typed behind --methods
    spec = spec_of(config, [text for text in overrides or () if text not in beside], seed, device)
    asked = Asked((*(methods or ()), *beside), tuned, shares_of(fractions), few, backend, n_jobs)
    _answer(as_json, lambda: compare(spec, output, door, repeats, asked, no_worse), door)


@app.command()
def affinity(
    config: Config, output: Folder, overrides: Overrides = None,
    methods: Annotated[str | None, typer.Option("--methods", help="Estimators to ask, with commas between.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each model.")] = 3,
    backend: Backend = None, n_jobs: Jobs = None, seed: Seed = None, device: Device = None, resume: Resume = False,
    force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """How related are these tasks? What learning each does to each other one, by several estimators."""
    door = _door(as_json, quiet, verbose, threads, resume=resume, force=force, dry_run=dry_run)
    from .commands.relate import affinity

    more = words(methods), seeds, backend, n_jobs
    _answer(as_json, lambda: affinity(spec_of(config, overrides, seed, device), output, door, *more), door)


@app.command()
def group(
    config: Config, output: Folder, overrides: Overrides = None,
    budget: Annotated[int, typer.Option("--budget", min=1, help="Models at most.")] = 2,
    methods: Annotated[str | None, typer.Option("--methods", help="Estimators that propose groups.")] = None,
    measured: Annotated[Path | None, typer.Option("--affinity", help="A folder of `affinity` to take.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings that estimators look at.")] = 3,
    repeats: Repeats = 5,
    branches: Annotated[str | None, typer.Option("--branches", help="Try one model too, branching there.")] = None,
    backend: Backend = None, n_jobs: Jobs = None, seed: Seed = None, device: Device = None, resume: Resume = False,
    force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Which of these tasks should share a model? Groups are proposed by estimators and decided by training."""
    door = _door(as_json, quiet, verbose, threads, resume=resume, force=force, dry_run=dry_run)
    from .commands.divide import group

    more = words(methods), measured, seeds, repeats, branches, backend, n_jobs
    _answer(as_json, lambda: group(spec_of(config, overrides, seed, device), output, door, budget, *more), door)


@app.command()
def deliver(
    config: Config, output: Folder, overrides: Overrides = None,
    candidates: Annotated[str | None, typer.Option("--candidates", help="Of joint, group, alone, ..., blend.")] = None,
    groups: Annotated[Path | None, typer.Option("--groups", help="A folder of `group` whose groups are tried.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="folds=5, members=4, trust=0.5, ...")] = None,
    backend: Backend = None, n_jobs: Jobs = None, seed: Seed = None, device: Device = None, resume: Resume = False,
    force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """One model that learns from the best there is for each task, and is checked to be no worse than it."""
    door = _door(as_json, quiet, verbose, threads, resume=resume, force=force, dry_run=dry_run)
    from .commands.delivering import deliver

    more = words(candidates), groups, settings or (), backend, n_jobs
    _answer(as_json, lambda: deliver(spec_of(config, overrides, seed, device), output, door, *more), door)


@app.command()
def tune(
    output: Folder, config: Annotated[list[Path] | None, typer.Option("-c", "--config", help="Config files.")] = None,
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Settings to try, for every side.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds, for all sides together.")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="mean or pareto.")] = None,
    single: Annotated[bool, typer.Option("--single", help="Tune each task alone as well.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Tune fixed weights of the tasks as well.")] = False,
    backend: Backend = None, n_jobs: Jobs = None, seed: Seed = None, device: Device = None, resume: Resume = False,
    force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Search settings within a budget, on validation; the test part is read once, at the end."""
    door = _door(as_json, quiet, verbose, threads, resume=resume, force=force, dry_run=dry_run)
    from .commands.tuning import tune

    asked = {"trials": trials, "timeout": timeout, "objective": objective, "single": single, "weights": weights}
    more = [*(overrides or []), *(f"tune.{k}={json.dumps(v)}" for k, v in asked.items() if v not in (None, False))]
    paths = config or [own_config(output, resume, "tune")]
    _answer(as_json, lambda: tune(spec_of(paths, more, seed, device), output, door, backend, n_jobs), door)


@app.command("add-task")
def add_task(
    run: Run, output: Folder, data: Annotated[Path, typer.Option("--data", help="Rows that label it.")],
    task: Annotated[str | None, typer.Option("--task", help="Its name; without one the run's tasks adapt.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="A word of `doctor --list tasks`.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="The column of its labels, if not its name.")] = None,
    way: Annotated[str | None, typer.Option("--way", help="A word of `doctor --list transfer`; or probe.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value: a setting of the way.")] = None,
    old_data: Annotated[Path | None, typer.Option("--old-data", help="Rows that label the other tasks.")] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="How far another task may fall.")] = 0.0,
    curve: Annotated[str | None, typer.Option("--curve", help="Numbers of labels to compare at: 10,30,100.")] = None,
    beside: Annotated[list[Path] | None, typer.Option("--beside", help="A run more to compare there.")] = None,
    seed: Seed = None, trust: Trust = None, force: Force = False, dry_run: DryRun = False, as_json: Json = False,
    quiet: Quiet = False, verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Add a task to a trained model, or adapt it to a new domain; exit code 5, and no file, if a task falls."""
    door = _door(as_json, quiet, verbose, threads, force=force, dry_run=dry_run)
    from .commands.later import add_task

    named = (task, kind, target, way, settings or (), old_data, tolerance, seed, trust or (), words(curve) or ())
    _answer(as_json, lambda: add_task(run, data, output, door, *named, beside or ()))


@app.command("remove-task")
def remove_task(
    run: Run, output: Folder, tasks: Annotated[str, typer.Option("--tasks", help="That go, with commas between.")],
    trust: Trust = None, force: Force = False, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Take tasks from a trained model; the others' outputs stay the same, to the bit."""
    from .commands.later import remove

    door = _door(as_json, quiet, verbose, force=force)
    _answer(as_json, lambda: remove(run, words(tasks) or (), output, door, False, trust or ()))


@app.command()
def subset(
    run: Run, output: Folder, tasks: Annotated[str, typer.Option("--tasks", help="That stay, with commas between.")],
    trust: Trust = None, force: Force = False, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """A model with some of a trained model's tasks, whose outputs stay the same, to the bit."""
    from .commands.later import remove

    door = _door(as_json, quiet, verbose, force=force)
    _answer(as_json, lambda: remove(run, words(tasks) or (), output, door, True, trust or ()))


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or models, of one start.")], output: Folder,
    how: Annotated[str, typer.Option("--how", help="average, arithmetic, ties or dare.")] = "average",
    scale: Annotated[float | None, typer.Option("--scale", help="Of what was learned since the start.")] = None,
    density: Annotated[float | None, typer.Option("--density", help="Share of it that stays: ties, dare.")] = None,
    base: Annotated[Path | None, typer.Option("--base", help="The model that all began as.")] = None,
    tolerance: Annotated[float | None, typer.Option("--tolerance", min=0, help="How far a task may fall.")] = None,
    trust: Trust = None, force: Force = False, dry_run: DryRun = False, as_json: Json = False, quiet: Quiet = False,
    verbose: Verbose = False, threads: Threads = None,
) -> None:  # fmt: skip
    """Several models of one start into one, with the heads of all; each task is scored before and after."""
    door = _door(as_json, quiet, verbose, threads, force=force, dry_run=dry_run)
    from .commands.later import merge

    given = {k: v for k, v in (("scale", scale), ("density", density)) if v is not None}
    _answer(as_json, lambda: merge(runs, output, door, how, given, base, tolerance, trust or ()))


@app.command()
def verdict(
    scores: Annotated[Path, typer.Argument(help="A table with the columns task, method, split, seed, value.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A page to write, as report.html.")] = None,
    baseline: Annotated[str, typer.Option("--baseline", help="The method that others are compared with.")] = "single",
    ratio: Annotated[float | None, typer.Option("--ratio", min=0, help="Test rows per training row.")] = None,
    force: Force = False, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """The statistics of `compare` on anyone's scores."""
    door = _door(as_json, quiet, verbose, force=force)
    from .commands.apply import verdict

    _answer(as_json, lambda: verdict(scores, door, output, baseline, ratio))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")], output: File = Path("report.html"),
    force: Force = False, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """One page about one run, or several side by side."""
    door = _door(as_json, quiet, verbose, force=force)
    from .commands.runs import report

    _answer(as_json, lambda: report(runs, output, door))


@app.command()
def doctor(
    listed: Annotated[
        str | None, typer.Option("--list", help="A catalogue: tasks, encoders, sharing, balance, columns, ...")
    ] = None,
    as_json: Json = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Versions, threads and extras; or with --list, the words that a config may use."""
    door = _door(as_json, False, verbose)
    from .commands.doctor import catalogue, health

    _answer(as_json, lambda: health(door) if listed is None else catalogue(listed, door))


# ---- what they share


def _door(as_json: bool, quiet: bool, verbose: bool, threads: int | None = None, **how: Any) -> Door:
    _State.verbose = verbose
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        import torch

        torch.set_num_threads(threads)
    from .commands.display import Screen
    from .commands.door import Door

    return Door(Screen(as_json, quiet), **how)


class _State:
    verbose = False


def _answer(as_json: bool, act: Callable[[], Any], door: Door | None = None) -> None:
    missed, value = None, None
    try:
        value = act()
    except GateError as error:
        missed, value = error, getattr(error, "answer", None)
    value = value if door is None else door.told(value)
    if as_json and value is not None:
        sys.stdout.flush()
        print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)
    if missed is not None:
        raise missed


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        argv: arguments; those of the process by default.
    """
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminated)
    try:
        app(args=None if argv is None else list(argv), prog_name="manyheads")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except Fault as fault:
        print(f"Error: {fault}", file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _unexpected(error)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _unexpected(error: Exception) -> int:
    if _State.verbose:
        import traceback

        traceback.print_exc()
    text = " ".join(str(error).split()) or "no message"
    hint = "" if _State.verbose else " Run again with -v for the traceback, and please report it."
    print(f"Unexpected error: {type(error).__name__}: {text[:500]}.{hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
