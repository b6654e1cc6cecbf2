"""The command `compare` where more than the joint model is asked for: methods, tuned settings, shares of the labels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from .. import gates
from ..balance import Balance
from ..catalog import hint, index
from ..compare import SIMPLE, processes
from ..compare.fractions import check as check_shares
from ..compare.fractions import label_fractions
from ..compare.methods import compare_methods
from ..compare.ways import is_axis, ways
from ..faults import ConfigError
from ..files import write_atomically
from ..ledger import Ledger
from ..objectives import Objective
from ..parallel import check as check_backend
from ..parallel import cluster
from ..report import write_evidence
from ..report.words import number
from ..results import Comparison, Evidence, Fractions, MethodStudy, Report, Tuned
from ..sharing import Sharing
from ..spec import RunSpec
from ..tune import read as read_tuned
from .display import change, change_span
from .door import Door, comparison_json, interruptible, settings_of
from .runfolder import RunFolder, environment, now
from .runs import Ready, compared
from .studies import study_in

FILE, CURVES, RUNS = "study.json", "fractions.json", "runs"


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked for beside the joint model.

    Attributes:
        methods: axes (``sharing=hard,mmoe``) and simple baselines (``linear,boosting``), as typed.
        tuned: a folder of `manyheads tune`.
        shares: of the labels, for learning curves.
        of: the task that loses labels; all by default.
        backend, n_jobs: who carries runs out, and how many at a time.
    """

    methods: tuple[str, ...] = ()
    tuned: Path | None = None
    shares: tuple[float, ...] = ()
    of: str | None = None
    backend: str | None = None
    n_jobs: int | None = None

    @property
    def axes(self) -> list[str]:
        """Those of `methods` that are ways to train."""
        return [text for text in self.methods if is_axis(text)]

    @property
    def simple(self) -> list[str] | None:
        """The simple baselines that are named; None for all."""
        plain = [text for text in self.methods if not is_axis(text)]
        return [w.strip() for text in plain for w in text.split(",") if w.strip()] if plain else None

    @property
    def more(self) -> bool:
        """Whether the plain comparison does not do."""
        return bool(self.axes or self.tuned or self.shares or self.backend or self.n_jobs)


def shares_of(text: str | None) -> tuple[float, ...]:
    """``0.05,0.1,1`` as numbers.

    Raises:
        ConfigError: it does not read like that.
    """
    try:
        return tuple(float(word) for word in text.split(",") if word.strip()) if text is not None else ()
    except ValueError:
        raise ConfigError(f"--label-fractions should be numbers with commas between. Found `{text}`.") from None


def compare(
    spec: RunSpec, output: Path, door: Door, repeats: int, asked: Asked, strict: bool = False
) -> dict[str, Any]:
    """Methods against single-task networks and simple models, into a folder.

    Args:
        spec: the run.
        output: the folder; with ``--resume`` runs that it holds are not done again.
        repeats: splits that are drawn.
        asked: what is compared.
        strict: fail where the chosen method hurts a task.

    Raises:
        ConfigError, DataError, GateError: as their names say.
    """
    tuned = None if asked.tuned is None else read_tuned(asked.tuned)
    check(asked, spec, tuned)
    with study_in(output, spec, door) as (folder, ready):
        if door.dry_run:
            return ready.planned
        folder.begin(spec)
        door.screen.log = folder.log
        if not asked.more:
            return _plain(ready, folder, door, repeats, asked.simple, strict)
        with interruptible(door):
            study, curves = _studied(ready, door, repeats, asked, tuned, output)
        page = _page(ready, door, study, curves, tuned, output)
    _show(study, curves, door)
    door.screen.end(door.warned, [f"open {shlex.quote(str(page))}"])
    answer = summary(study, curves, page)
    lone = len(study.comparisons) == 1  # nothing to choose from: the gate is about this way to share
    return gates.not_worse(leading(study), answer, strict and (lone or study.choice != "single"))


def check(asked: Asked, spec: RunSpec, tuned: Tuned | None) -> None:
    """See that every word means something, before a folder is claimed and anything is trained.

    Args:
        asked: what was typed.
        spec: the run.
        tuned: what `tune` found.

    Raises:
        ConfigError: an unknown way to share, balance, objective, simple model, backend or task; a share that is none.
    """
    for word in asked.simple or ():
        if word not in SIMPLE:
            kinds = {"sharing": Sharing, "balance": Balance, "objective": Objective}
            meant = [f"`{axis}={word}`" for axis, kind in kinds.items() if word.lower() in index(kind)]
            remedy = f"Write {' or '.join(meant)}." if meant else hint(word, (*SIMPLE, "sharing=", "balance="))
            raise ConfigError(f"`--methods` should name simple models, or ways to share and balances. {remedy}")
    ways(spec, asked.axes, sides_of(tuned))
    if asked.of is not None and not asked.shares:
        raise ConfigError("`--few` should go with `--label-fractions 0.1,0.25`. Found no shares of the labels.")
    check_shares(asked.shares, asked.of, list(spec.tasks))
    check_backend(asked.backend or "loky")


def sides_of(tuned: Tuned | None) -> dict[str, tuple[str, ...]]:
    """What was tuned -> the settings that were found; nothing where nobody tuned."""
    return {} if tuned is None else {s.name: s.overrides for s in tuned.sides if s.best is not None}


def _plain(
    ready: Ready, folder: RunFolder, door: Door, repeats: int, simple: Sequence[str] | None, strict: bool
) -> dict[str, Any]:
    """The joint model alone against single-task models and simple baselines: every method's values, task by task."""
    with interruptible(door):
        comparison = compared(ready, door, repeats, simple, Ledger(folder.path / RUNS))
    report = Report(
        title="Should these tasks share a model?", created=now(), tasks=tuple(ready.infos), comparison=comparison,
        settings=settings_of(ready.spec), environment=environment(), warnings=tuple(door.warned),
    )  # fmt: skip
    page = folder.report(report)
    door.screen.verdicts(comparison)
    door.screen.end(door.warned, [f"open {shlex.quote(str(page))}"])
    return gates.not_worse(comparison, comparison_json(comparison, page), strict)


def _studied(
    ready: Ready, door: Door, repeats: int, asked: Asked, tuned: Tuned | None, output: Path
) -> tuple[MethodStudy, Fractions | None]:
    how: dict[str, Any] = {
        "methods": asked.axes,
        "tuned": sides_of(tuned),
        "targets": ready.intake.targets,
        "parts": ready.intake.parts if ready.intake.given else None,
        "repeats": repeats,
        "simple": SIMPLE if asked.simple is None else tuple(asked.simple),
        "n_jobs": processes(asked.n_jobs),
        "backend": asked.backend or "loky",
        "ledger": Ledger(output / RUNS),
    }
    with cluster(how["backend"], how["n_jobs"]), door.screen.progress() as progress:
        study = compare_methods(ready.spec, ready.tasks, ready.intake.tables, progress=progress, **how)
        _write(output / FILE, study)
        if not asked.shares:
            return study, None
        way = shared(study)
        curves = label_fractions(
            ready.spec, ready.tasks, ready.intake.tables, asked.shares, way=way, of=asked.of, progress=progress, **how
        )
        _write(output / CURVES, curves)
    return study, curves


def _write(path: Path, value: MethodStudy | Fractions) -> None:
    write_atomically(path, (value.model_dump_json(indent=1) + "\n").encode("utf-8"))


def _page(
    ready: Ready, door: Door, study: MethodStudy, curves: Fractions | None, tuned: Tuned | None, output: Path
) -> Path:
    evidence = Evidence(
        title="Should these tasks share a model?",
        created=now(),
        tasks=tuple(ready.infos),
        methods=study,
        fractions=curves,
        tuned=tuned,
        settings=settings_of(ready.spec),
        environment=environment(),
        warnings=tuple(door.warned),
    )
    return write_evidence(evidence, output / "report.html")


def shared(study: MethodStudy) -> str:
    """The way to share whose curves are drawn: the chosen one; the best on validation where tasks are better alone."""
    if study.choice in study.comparisons:
        return study.choice
    values = {name: study.valid.get(name) for name in study.comparisons}
    return max(values, key=lambda name: -np.inf if (v := values[name]) is None else v)


def leading(study: MethodStudy) -> Comparison:
    """The comparison of the method that was chosen; of the first one where tasks are better alone."""
    return study.comparisons.get(study.choice) or next(iter(study.comparisons.values()))


def summary(study: MethodStudy, curves: Fractions | None, page: Path) -> dict[str, Any]:
    """What ``--json`` prints: the chosen method's comparison as ever, and every method beside it.

    Args:
        page: the report.
    """
    methods = {
        name: {
            "delta_m": c.delta_m,
            "interval": list(c.interval),
            "rank": study.ranks.get(name),
            "valid": study.valid.get(name),
            "verdicts": {task: row.verdict for task, row in c.tasks.items()},
            "cost": study.costs[name].model_dump(mode="json"),
            "efficiency": study.efficiency[name].model_dump(mode="json"),
        }
        for name, c in study.comparisons.items()
    }
    answer = comparison_json(leading(study), page) | {
        "choice": study.choice,
        "recommendation": study.recommendation,
        "methods": methods,
    }
    if curves is not None:
        answer["fractions"] = [
            {"share": share, "delta_m": c.delta_m, "interval": list(c.interval),
             "deltas": {task: row.delta for task, row in c.tasks.items()}}
            for share, c in zip(curves.shares, curves.comparisons, strict=True)
        ]  # fmt: skip
    return answer


# ---- what people see


def _show(study: MethodStudy, curves: Fractions | None, door: Door) -> None:
    say = door.screen.say
    door.screen.show(methods_table(study))
    for task, text in study.tasks.items():
        say(f"{task}: {text}")
    if curves is not None:
        door.screen.show(curves_table(curves))
    say(f"Chosen on validation: `{study.choice}`. {study.reason}")
    for name, one in study.efficiency.items():
        if name == study.choice and one.updates and one.updates_single:
            say(
                f"To be as good on validation (mean skill {number(one.skill)}) one model needs "
                f"{number(round(one.updates))} updates, one per task {number(round(one.updates_single))} together."
            )
    say(study.recommendation)


def methods_table(study: MethodStudy) -> Table:
    """One row per method: what it is worth against single-task networks, and what it costs."""
    table = _table("methods against one model per task (positive delta-m = better)")
    for heading in ("method", "delta-m", "95 % interval", "rank", "better", "worse", "seconds", "backward", "MB"):
        table.add_column(heading, justify="left" if heading == "method" else "right", overflow="fold")
    for name in study.ranks or study.comparisons:
        c, cost = study.comparisons.get(name), study.costs.get(name)
        words = [row.verdict for row in c.tasks.values()] if c is not None else []
        table.add_row(
            f"{name} *" if name == study.choice else name,
            "" if c is None else change(c.delta_m), "" if c is None else change_span(c.interval),
            number(study.ranks.get(name), 2), *(("", "") if c is None else
            (str(words.count("helps")), str(words.count("hurts")))),
            *(("", "", "") if cost is None else (number(cost.seconds),
            number(None if cost.backward is None else round(cost.backward)),
            number(None if cost.memory is None else cost.memory / 1e6))),
        )  # fmt: skip
    return table


def curves_table(curves: Fractions) -> Table:
    """One row per task and share: the delta of sharing."""
    table = _table(f"what sharing (`{curves.method}`) gives, by the share of labels (positive = better)")
    table.add_column("task", overflow="fold")
    for share in curves.shares:
        table.add_column(f"{100 * share:g} %", justify="right", overflow="fold")
    for task in curves.comparisons[-1].tasks:
        rows = [c.tasks[task] for c in curves.comparisons]
        table.add_row(task, *(f"{change(r.delta, r.absolute)} {change_span(r.interval, r.absolute)}" for r in rows))
    table.add_row("delta-m", *(f"{change(c.delta_m)} {change_span(c.interval)}" for c in curves.comparisons))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
