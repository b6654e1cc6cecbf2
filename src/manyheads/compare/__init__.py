"""Should these tasks share a model? Same-budget single-task models and simple baselines, beside the joint model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import baselines
from ..ledger import Ledger
from ..results import Comparison, Method
from ..spec import RunSpec
from ..tasks import Task
from ..verdicts import Verdicts
from . import words
from .single import alone, labelled_part
from .study import Progress, Study

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SIMPLE", "Progress", "Study", "alone", "compare", "labelled_part", "processes", "verdicts_of"]

SIMPLE = tuple(baselines.BASELINES)


def compare(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    methods: Sequence[str] = SIMPLE,
    n_jobs: int | None = None,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """The joint model against one single-task network per task of the same budget, and against simple models.

    Each repeat re-draws the split as the config says; the joint and the single-task networks have the same encoder,
    epochs at most, batch size, patience and learning rate, are chosen on the validation part, and the test part is read
    once, at the end. Constant, linear and boosting baselines learn from training and validation rows together and tune
    themselves there. All networks of all repeats are trained together where their shapes allow.

    Args:
        spec: the run; its split is re-drawn with seeds ``split.seed + repeat``.
        tasks: not fitted.
        tables: {name: frame}.
        targets: {table: tasks it labels}.
        parts: a split of the user's own; then it is kept, repeats differ by their seed alone, and intervals are over
            test rows: the claim is about this training set.
        repeats: splits (or seeds).
        methods: simple baselines to show.
        n_jobs: processes; one per core by default.
        ledger: runs that it has are not done again.
        progress: told what is being done.

    Raises:
        ConfigError: the split has no test part.
    """
    verdicts, _ = verdicts_of(
        spec,
        tasks,
        tables,
        targets=targets,
        parts=parts,
        repeats=repeats,
        methods=methods,
        n_jobs=n_jobs,
        ledger=ledger,
        progress=progress,
    )
    return verdicts.comparisons["joint"]


def verdicts_of(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    methods: Sequence[str] = SIMPLE,
    n_jobs: int | None = None,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> tuple[Verdicts, list[Method]]:
    """What `compare` rests on: every method's values, and the judgement."""
    n_jobs = processes(n_jobs)
    study = Study(spec, tasks, tables, targets=targets, parts=parts, repeats=repeats, simple=methods)
    study.train(n_jobs, progress, ledger=ledger)
    study.look()
    choice, _, _ = study.choose()
    study.read()
    study.fit_simple(n_jobs, progress, ledger)
    verdicts, described = study.judged()
    said = words.recommended(choice, verdicts.comparisons, study.parameters)
    told = {n: c.model_copy(update={"summary": f"{said} {c.summary}"}) for n, c in verdicts.comparisons.items()}
    return verdicts.model_copy(update={"comparisons": told}), described


def processes(n_jobs: int | None) -> int:
    """So many; one per core by default."""
    return len(os.sched_getaffinity(0)) if n_jobs is None and hasattr(os, "sched_getaffinity") else n_jobs or 1
