"""The rows that a trained model's tasks were learned from and are judged by, found again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import config
from ..blocks import seed_of
from ..build import HELD_OUT, held_out
from ..data import Block, Taskset, pick
from ..data.assemble import Dataset
from ..data.splits import PARTS
from ..evaluate import Result, measure, results
from ..faults import DataError
from ..intake import take_in
from ..members import folds
from ..model import Model
from ..ragged import joined as stacked_rows
from ..results import Score
from ..spec import ModelSpec, RunSpec, settled

if TYPE_CHECKING:
    import pandas as pd

FILE = "grown.json"
"""How a model came to be, where it was not trained in one run."""
SHARE = 5
"""One row in so many of old data is held out, where nobody says which."""
Rows = Mapping[str, Taskset]


@dataclass
class Kept:
    """Rows of a model's tasks.

    Attributes:
        train: source -> rows, per member, or once for all of them.
        valid: the same, of rows to judge by.
        notes: task -> what should be known of its rows.
    """

    train: list[Rows] = field(default_factory=list)
    valid: list[Rows] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a label among the rows to judge by."""
        found: dict[str, None] = {}
        for rows in (part for own in self.valid for part in own.values()):
            found |= {task: None for task, n in rows.counts().items() if n}
        return tuple(found)

    def of(self, parts: Sequence[Rows], m: int) -> Rows:
        """A member's rows."""
        return parts[m] if len(parts) > 1 else parts[0] if parts else {}

    def results(self, members: Sequence[Model], whole: Any) -> dict[str, Result]:
        """Outputs and labels: by the whole model on rows that no member learned from, by each on what it held out."""
        if len(self.valid) <= 1:
            return results(whole, self.valid[0], self.tasks) if self.valid else {}
        found: dict[str, list[Result]] = {}
        for member, rows in zip(members, self.valid, strict=True):
            for task, result in results(member, rows, self.tasks).items():
                found.setdefault(task, []).append(result)
        return {task: Result.join(parts) for task, parts in found.items()}

    def scores(self, members: Sequence[Model], whole: Any) -> dict[str, Score]:
        """The primary score of each task."""
        tasks = members[0].tasks
        return {
            name: measure(tasks[name], result, tasks[name].metrics[:1], split="its validation rows")[0]
            for name, result in self.results(members, whole).items()
        }


def of_run(run: Path, dataset: Dataset, spec: ModelSpec, dtype: torch.dtype) -> Kept:
    """The training and validation rows of a run's model, as it saw them.

    Args:
        run: its folder.
        dataset: the model's.
        spec: the model's.
        dtype: of the model's weights.

    Raises:
        DataError: the run's config or tables are gone, or have changed.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise DataError(f"`{run}` should be the folder of a run, with its config. Found no config.yaml there.")
    own = config.load([path])
    intake = take_in(own, config.tasks_of(own))
    _same_split(run, intake.splits())
    known = {t.name for t in dataset.tasks}
    tables = {t: f for t, f in intake.tables.items() if t in dataset.preprocess.sources}
    tasksets = dataset.tasksets(tables, tasks=[t for t in own.tasks if t in known])
    parts: dict[str, dict[str, Taskset]] = {part: {} for part in PARTS}
    for part in PARTS:
        index: dict[str, list[np.ndarray]] = {}
        for name, (source, start, _) in dataset.offsets(tables).items():
            index.setdefault(source, []).append(start + np.flatnonzero(intake.parts[name] == part))
        for source, rows in index.items():
            chosen = torch.from_numpy(np.concatenate(rows))
            if len(chosen) and tasksets[source].blocks:
                parts[part][source] = tasksets[source].take(chosen).to(dtype)
    train = parts["train"]
    if parts["valid"]:
        return Kept([train], [parts["valid"]])
    n = int(settled(spec, dataset.preprocess.layouts).members)
    found = held_out(own, train, n, own.seed)
    return Kept([{t: train[t].take(w) for t, w in within.items()} for within, _ in found], [h for _, h in found])


def of_frame(frame: pd.DataFrame, dataset: Dataset, dtype: torch.dtype, learn: bool = False, seed: int = 0) -> Kept:
    """Old rows from a table that somebody gives.

    Args:
        frame: features, and the target columns of some of the tasks.
        learn: keep four in five of them to learn from; else all are there to judge by.
    """
    names = [t.name for t in dataset.tasks if set(t.targets) <= set(frame.columns) and t.name not in dataset.unlabelled]
    if not names:
        wanted = ", ".join(dict.fromkeys(c for t in dataset.tasks for c in t.targets))
        raise DataError(f"--old-data should have a target column of the model ({wanted}). Found none of them.")
    rows = {s: r.to(dtype) for s, r in dataset.tasksets({free_name(dataset): frame}, tasks=names).items()}
    if not learn:
        return Kept([], [rows])
    ((source, whole),) = rows.items()
    held, *rest = folds(len(whole), SHARE, seed)
    return Kept([{source: whole.take(torch.cat(rest))}], [{source: whole.take(held)}])


def free_name(dataset: Dataset) -> str:
    """A name that no table has."""
    name = "given"
    while name in dataset.preprocess.sources:
        name += "_"
    return name


def history(path: Path) -> dict[str, Any]:
    """How a model came to be: ``{"runs": [folder], "added": [{"task", "data", "way"}]}``."""
    try:
        found: dict[str, Any] = json.loads((path / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"runs": [str(path.resolve())], "added": []}
    except (OSError, ValueError) as error:
        raise DataError(f"`{path / FILE}` should say how the model came to be. It is damaged: {error}.") from error
    return found


def config_of(path: Path) -> RunSpec | None:
    """The config of the run that a model was first trained in; None where there is none."""
    own = Path(history(path)["runs"][0]) / "config.yaml"
    return config.load([own]) if own.is_file() else None


def own_fold(rows: int, members: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per member (rows to learn from, rows that it holds out) of the labelled rows of a task that is added.

    Args:
        rows: how many there are.
        members: of the model; a single one holds out one row in five.
        seed: of what is new.
    """
    if rows < 2:
        return [(torch.arange(rows), torch.empty(0, dtype=torch.long))] * members
    count = min(members if members > 1 else HELD_OUT, rows)
    parts = folds(rows, count, seed_of(seed, "folds", "new") % 2**62)
    held = [m % len(parts) for m in range(members)]
    return [(torch.cat([p for i, p in enumerate(parts) if i != h]), parts[h]) for h in held]


def of_model(path: Path, dataset: Dataset, spec: ModelSpec, dtype: torch.dtype) -> Kept:
    """The rows of a model's tasks: of the run that trained it, and of each task that was added since.

    Raises:
        DataError: its tables are gone, or have changed.
    """
    from ..intake import of_file

    told = history(path)
    known = {t.name for t in dataset.tasks}
    later = {one["task"]: one["data"] for one in told["added"] if one["task"] in known}
    seeds = {one["task"]: int(one.get("seed", 0)) for one in told["added"]}
    first = [t for t in dataset.tasks if t.name not in later]
    kept = of_run(Path(told["runs"][0]), replace(dataset, tasks=tuple(first)), spec, dtype) if first else Kept()
    for task, data in later.items():
        frame = of_file(data)
        rows = {s: r.to(dtype) for s, r in dataset.tasksets({free_name(dataset): frame}, tasks=[task]).items()}
        rows = {s: r.take(r.known_rows(task)) for s, r in rows.items()}
        n = len(kept.valid)
        if n > 1:  # each member is judged by the fold that it held out when the task was added
            ((source, own),) = rows.items()
            parts = own_fold(len(own), n, seeds[task])
            kept.train = [beside(k, {source: own.take(p)}) for k, (p, _) in zip(kept.train, parts, strict=True)]
            kept.valid = [beside(k, {source: own.take(h)}) for k, (_, h) in zip(kept.valid, parts, strict=True)]
            continue
        kept.train = [beside(one, rows) for one in kept.train] or [rows]
        kept.valid = [beside(one, rows) for one in kept.valid] or [rows]
        kept.notes[task] = "on the rows that it was added from"
    return kept


def _same_split(run: Path, found: pd.DataFrame) -> None:
    import pandas as pd

    path = run / "splits.parquet"
    if path.is_file() and not pd.read_parquet(path).astype(str).equals(found.reset_index(drop=True).astype(str)):
        raise DataError(
            f"The tables of the run in `{run}` should be what they were. Found that they have changed since; give the "
            "old rows with --old-data."
        )


def beside(first: Rows, second: Rows) -> dict[str, Taskset]:
    """Rows of the first, then of the second, per source; a label that only one of them has is unknown in the other."""
    found = dict(first)
    for source, rows in second.items():
        found[source] = both(found[source], rows) if source in found else rows
    return found


def both(first: Taskset, second: Taskset) -> Taskset:
    """The rows of two tasksets of one source; each task as it is in the one that labels it, or in both."""
    shared = [t for t in first.tasks if t in second.tasks]
    blocks = [
        *(_longer(b, len(second), after=True) for b in _apart(first, shared)),
        *(_longer(b, len(first), after=False) for b in _apart(second, shared)),
    ]
    for task in shared:
        (y0, k0, w0), (y1, k1, w1) = first.labels(task), second.labels(task)
        weight = None
        if w0 is not None or w1 is not None:
            pair = [(w, y) for w, y in ((w0, y0), (w1, y1))]
            weight = stacked_rows([torch.ones_like(y, dtype=torch.float32) if w is None else w for w, y in pair])
        blocks.append(Block((task,), stacked_rows([y0, y1]), stacked_rows([k0, k1]), weight))
    inputs = {k: stacked_rows([v, second.inputs[k]]) for k, v in first.inputs.items()}
    columns = [c for c in first.extra if c in second.extra]
    extra = {c: np.concatenate([first.extra[c], second.extra[c]]) for c in columns}
    return Taskset(inputs, tuple(blocks), extra)


def _apart(rows: Taskset, shared: Sequence[str]) -> list[Block]:
    return list(rows.only([t for t in rows.tasks if t not in shared]).blocks)


def _longer(block: Block, n: int, after: bool) -> Block:
    """A block with n more rows of unknown labels, before or after its own."""
    blank = torch.zeros(n, dtype=torch.long)

    def grown(values: Any, unknown: bool = False) -> Any:
        more = pick(values, blank)
        more = more & False if unknown else more
        return stacked_rows([values, more] if after else [more, values])

    weight = None if block.weight is None else grown(block.weight)
    return replace(block, target=grown(block.target), known=grown(block.known, True), weight=weight)
