"""What the commands of a model's later life share: a trained model that is opened, tables, and the folder written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..build import Prepared
from ..data import Taskset
from ..data.assemble import Dataset
from ..faults import ConfigError, DataError
from ..files import write_atomically
from ..growing.oldrows import FILE
from ..model import AnyModel
from ..modelfile import load, save
from ..report import write_evidence
from ..results import Evidence, TaskInfo
from ..results.added import Kept, TransferCurve
from ..spec import ModelSpec
from .card import card
from .door import Door
from .runfolder import RunFolder, environment, now


@dataclass
class Opened:
    """A trained model and where it came from."""

    path: Path
    model: AnyModel
    spec: ModelSpec
    dataset: Dataset
    notes: dict[str, Any]

    @staticmethod
    def of(path: Path, trust: Sequence[str] = ()) -> Opened:
        """From a run's folder, or a model folder.

        Raises:
            DataError: there is none, or it is damaged.
        """
        folder = path / "model" if (path / "model").is_dir() else path
        if not (folder / "spec.json").is_file():
            raise DataError(
                f"`{path}` should be the folder of a finished run, or a model folder. Found no model there; check the "
                "path."
            )
        return Opened(path, *load(folder, trust))

    @property
    def layouts(self) -> Mapping[str, Any]:
        """What the inputs of its tables look like."""
        return self.dataset.preprocess.layouts

    @property
    def dtype(self) -> Any:
        """Of its weights."""
        return next(self.model.parameters()).dtype


def free(path: Path, output: Path, door: Door) -> None:
    """See that the result can be written, and that it is not where the model is.

    Raises:
        ConfigError: it cannot.
    """
    if output.resolve() in (path.resolve(), (path / "model").resolve(), path.resolve().parent):
        raise ConfigError(f"`-o` should be another folder than the model's own. Found `{output}`; choose a new one.")
    if not door.force:
        RunFolder(output).claim(None)


def kept_table(title: str, rows: Sequence[Kept], tolerance: float = 0.0) -> Table:
    """A line per task: its metric before and after.

    Args:
        title: heading.
        rows: the tasks.
        tolerance: what falls by more is marked.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "metric", "before", "after", "labels", ""):
        table.add_column(heading, justify="left" if heading in ("task", "metric", "") else "right", overflow="fold")
    for k in rows:
        told = f"{'fell' if k.fell > tolerance else ''} {k.model} {k.note}".strip()
        table.add_row(k.task, k.metric, number(k.before), number(k.after), f"{k.labels:,}", told)
    return table


def curve_table(curve: TransferCurve) -> Table:
    """A line per number of labels, a column per start; * where the gain on scratch is beyond the noise of draws.

    Args:
        curve: what was found.
    """
    title = f"{curve.task}: {curve.metric} on {curve.test_labels:,} test labels, mean of {curve.seeds} draws"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("labels", *curve.starts):
        table.add_column(heading, justify="right", overflow="fold")
    for i, n in enumerate(curve.counts):
        cells = []
        for start, own in curve.starts.items():
            gain = curve.gains[start][i] if start in curve.gains else None
            low, high = (None, None) if gain is None else (gain.low, gain.high)
            sure = low is not None and high is not None and (low > 0 or high < 0)
            cells.append(f"{number(own[i].mean)}{'*' if sure else ''}")
        table.add_row(f"{n:,}", *cells)
    return table


def number(value: float | None) -> str:
    """A number for the screen.

    Args:
        value: None where there is none.
    """
    return "no value" if value is None else f"{value:.6g}"


def write(
    output: Path, door: Door, model: AnyModel, spec: ModelSpec, dataset: Dataset, notes: Mapping[str, Any],
    told: Mapping[str, Any], found: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """The folder of a model that was not trained in one run, and the page on what became of it.

    Args:
        output: the folder.
        door: how the command was called.
        model, spec, dataset, notes: what a model file is made of.
        told: how it came to be.
        found: fields of `Evidence` for the page; without them there is none.
    """
    folder = RunFolder(output)
    folder.claim(None, force=door.force)
    folder.begin(None)
    none: Mapping[str, Mapping[str, Taskset]] = {}
    infos: list[TaskInfo] = Prepared(dataset, none, {}).describe()
    title = ", ".join(list(model.tasks)[:5]) + (", ..." if len(model.tasks) > 5 else "")
    save(output / "model", model, spec, dataset, card(title, infos, ()), notes)
    write_atomically(output / FILE, (json.dumps(dict(told), ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    page = []
    if found is not None:
        evidence = Evidence(created=now(), environment=environment(), warnings=tuple(door.warned), **found)
        page = [f"open {shlex.quote(str(write_evidence(evidence, output / 'report.html')))}"]
    door.screen.say(f"Written: {output}")
    door.screen.end(door.warned, [f"manyheads evaluate {shlex.quote(str(output))} TABLE.csv", *page])
