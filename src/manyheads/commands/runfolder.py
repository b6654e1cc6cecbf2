"""A run's folder: what is in it, when each file is written, and who may write there."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config
from .._version import __version__
from ..callback import Callback
from ..faults import ConfigError, DataError
from ..files import write_atomically
from ..results import Record, Report, TaskInfo
from ..spec import FILES, RunSpec, dumped
from ..train import Training

if TYPE_CHECKING:
    import pandas as pd

NAMES = (
    "config.yaml", "tasks.json", "env.json", "splits.parquet", "log.txt", "metrics.csv", "events.jsonl", "checkpoints",
    "predictions", "model", "report.html", "report.json", "examples.json", "scores.csv",
    "table.csv", "study.db", "study.db-journal", "trials.csv", "tune.json", "best.yaml",
    "study.json", "fractions.json", "runs", "affinity.json", "groups.json", "grown.json", "curve.json", "deliver.json",
)  # fmt: skip
"""All that the folder of a run, a comparison or a search holds."""
MARK = "manyheads-run"
MAY_GROW = ("trainer.max_epochs", "trainer.max_steps", "tune.trials", "tune.timeout", "tune.single", "tune.weights")
COLUMNS = ("epoch", "step", "split", "task", "metric", "value")
PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "safetensors", "pydantic", "pyarrow")


class RunFolder(Callback):
    """Keeps a run's folder: a callback of its training, and the files around it.

    Args:
        path: the folder; it is made when the first file is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._written = [0, 0]

    # -- who may write

    def claim(self, spec: RunSpec | None, resume: bool = False, force: bool = False) -> bool:
        """See that this run may write here; True where a run's state is there to be resumed.

        Args:
            spec: the run; None for folders that cannot be resumed.
            resume: go on with what is there.
            force: remove what an earlier run left here.

        Raises:
            ConfigError: something is there, and neither was asked for; it is no run of ours; its config is another.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"`{self.path}` should be a folder. Found a file; choose another name.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return False
        if not self.ours:
            raise ConfigError(
                f"`{self.path}` should be empty, or the folder of a run. Found other files there, which are left "
                "alone; choose another folder."
            )
        if resume and spec is not None:
            self._same_config(spec)
            self._sweep()
            return True
        if not force:
            remedy = (
                "add --resume to go on with it, or --force to remove it"
                if spec is not None
                else "add --force to remove it"
            )
            raise ConfigError(f"`{self.path}` should be empty. Found an earlier run; {remedy}.")
        self.clear()
        return False

    @property
    def ours(self) -> bool:
        """Whether the folder was made by a run."""
        try:
            return json.loads((self.path / "env.json").read_text(encoding="utf-8")).get("format") == MARK
        except (OSError, ValueError, AttributeError):
            return False

    def clear(self) -> None:
        """Remove what a run's folder holds, and nothing else; env.json, which says whose it is, goes last."""
        self._sweep()
        for name in sorted(NAMES, key=lambda n: n == "env.json"):
            found = self.path / name
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove temporary files of a run that was killed."""
        for found in [self.path, *(self.path / name for name in NAMES)]:
            lefts = found.glob(".*") if found == self.path else found.rglob(".*")
            for left in list(lefts) if found.is_dir() and not found.is_symlink() else ():
                if re.fullmatch(r"\..+\.(tmp|old)|\.\d+\..+", left.name):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _same_config(self, spec: RunSpec) -> None:
        path = self.path / "config.yaml"
        if not path.exists():
            return
        before = dumped(config.load([path]))
        changes = [
            (key, old, new)
            for key, old, new in differences(before, dumped(spec))
            if not (key in MAY_GROW and (new is None or (old is not None and new > old)))
        ]
        if changes:
            listed = "; ".join(f"`{key}` was {old!r} and is {new!r}" for key, old, new in changes)
            raise ConfigError(
                f"--resume should have the config that the run in `{self.path}` began with (only trainer.max_epochs "
                f"and trainer.max_steps may grow). Found that {listed}; start anew in another folder, or with --force."
            )

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run here came to its end, of which the page is the last file."""
        return (self.path / "report.html").exists() and (self.path / "model" / "spec.json").exists()

    # -- what is written

    def begin(self, spec: RunSpec | None, tasks: Sequence[TaskInfo] = (), splits: pd.DataFrame | None = None) -> None:
        """Write what is known before the first step.

        Args:
            spec: the run, resolved.
            tasks: each task as the run sees it.
            splits: the part of every row.

        Raises:
            DataError: the run that goes on had other rows.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._json("env.json", environment())
        if splits is not None:
            self._splits(splits)
        if spec is not None:
            self._text("config.yaml", config.dump(self._within(spec)))
        if tasks:
            self._json("tasks.json", table_of(tasks))
            self.checkpoints.mkdir(exist_ok=True)
        for name in ("report.json", "examples.json"):
            (self.path / name).unlink(missing_ok=True)

    def _within(self, spec: RunSpec) -> RunSpec:
        """Files inside the folder by their names there, so that it can be moved."""
        here = self.path.resolve()

        def near(path: str | None) -> str | None:
            return (
                None if path is None else str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
            )

        data = spec.data.model_copy(update={part: near(getattr(spec.data, part)) for part in FILES})
        return spec.model_copy(update={"data": data})

    def _splits(self, splits: pd.DataFrame) -> None:
        import pandas as pd

        path = self.path / "splits.parquet"
        if path.exists() and not pd.read_parquet(path).astype(str).equals(splits.reset_index(drop=True).astype(str)):
            raise DataError(
                f"--resume should find the rows that the run in `{self.path}` began with. Found that tables or split "
                "have changed since; start anew in another folder, or with --force."
            )
        self.parquet("splits.parquet", splits)

    def on_start(self, training: Training) -> None:
        """Rewrite metrics and events from the training's state: nothing, or what a checkpoint holds."""
        self._text("metrics.csv", ",".join(COLUMNS) + "\n" + _rows(training.history))
        self._text("events.jsonl", _lines(training.events))
        self._written = [len(training.history), len(training.events)]

    def on_epoch(self, training: Training) -> None:
        """Append what is new."""
        records, events = self._written
        self._append("metrics.csv", _rows(training.history[records:]))
        self._append("events.jsonl", _lines(training.events[events:]))
        self._written = [len(training.history), len(training.events)]

    def on_end(self, training: Training) -> None:
        """Append what came with the end: what the sharing of the final model shows."""
        self.on_epoch(training)

    def log(self, text: str) -> None:
        """Lines into log.txt, each with the time of day."""
        if self.path.is_dir():
            stamp = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
            self._append("log.txt", "".join(f"{stamp}  {line}\n" for line in text.splitlines()))

    def parquet(self, name: str, frame: pd.DataFrame) -> None:
        """A table into a parquet file, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())

    def report(self, report: Report) -> Path:
        """Write report.html, report.json and what it shows of single rows; a run that has them is finished."""
        from ..report import write

        if report.examples is not None:
            self._text("examples.json", report.examples.model_dump_json() + "\n")
        return write(report, self.path / "report.html")

    def _json(self, name: str, value: Any) -> None:
        self._text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def _text(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text.encode("utf-8"))

    def _append(self, name: str, text: str) -> None:
        with open(self.path / name, "a", encoding="utf-8", newline="") as file:
            file.write(text)


def differences(old: Any, new: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """The keys at which two nested mappings differ, as (path, old, new).

    Args:
        place: the path of both.
    """
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [(place, old, new)]
    found = []
    for key in dict.fromkeys([*old, *new]):
        found += differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    return found


def table_of(tasks: Sequence[TaskInfo]) -> dict[str, Any]:
    """What tasks.json holds: per task and split the rows, labels and coverage, and how it is sampled."""
    answer = {}
    for task in tasks:
        splits = {
            part: {
                "rows": n,
                "labels": task.labels.get(part, 0),
                "coverage": task.coverage(part),
            }
            for part, n in task.rows.items()
        }
        rest = task.model_dump(mode="json", exclude={"name", "rows", "labels", "probability", "passes"})
        answer[task.name] = rest | {
            "splits": splits,
            "sampling": {"probability": task.probability, "passes": task.passes},
        }
    return answer


def environment() -> dict[str, Any]:
    """What a run ran on: versions, platform, threads; no names of hosts, users or folders."""
    import torch

    return {
        "format": MARK,
        "manyheads": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {package: installed(package) for package in PACKAGES},
    }


def installed(package: str) -> str | None:
    """The version of a package, `None` where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def now() -> str:
    """The time of day, for a page."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _rows(records: Sequence[Record]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for r in records:
        value = "" if r.value is None else repr(r.value)
        writer.writerow([r.epoch, r.step, r.split, "" if r.task is None else r.task, r.metric, value])
    return buffer.getvalue()


def _lines(events: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
