"""How well does what one task has learned serve another?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..baselines.learner import learn
from ..baselines.linear import Linear
from ..baselines.problem import Problem
from ..blocks import seed_of
from ..data import Taskset
from ..evaluate import Result, Skill
from . import Estimator, Reading, no_common
from .singles import Singles

MOST_LABELS = 4000
"""Training rows that a linear head learns from at most."""
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of logistic and Poisson regression, of which folds choose one."""


class Transfer(Estimator[Singles]):
    r"""Skill of the target on the frozen trunk of the source's model, against its skill on its own trunk.

    .. math:: T_{i \to j} = s_j(z^i) - s_j(z^j), \qquad s = (M - M_{constant}) / (M_{best} - M_{constant})

    with :math:`z^i` what the head of task i's own model reads, and :math:`s_j` the skill of task j's primary metric, on
    rows that no model learned from, with a linear head (ridge, logistic or Poisson regression, its strength chosen by
    folds) fitted on the training rows. 0: the source's trunk serves the target as well as its own; negative: worse. The
    own value is :math:`s_j(z^j)`.

    Row i, column j is what i does for j. The trunk is never moved, so this is what is there already, not what sharing
    would make of it; few pairs are above 0.

    Cost:
        1 single-task model per task, which a comparison trains anyway, and a linear model per pair.

    Reference:
        Zamir, Sax, Shen, Guibas, Malik, Savarese: Taskonomy: disentangling task transfer learning, 2018.

    *Differs from the paper*: linear heads, and differences of skill in place of ranks by a pairwise tournament.
    """

    looks_at = "single"
    directed = True
    gain = False
    unit = "skill of the target on the source's frozen trunk, minus that on its own; 0: as good as its own"

    def measure(self, seen: Singles) -> Reading:
        skills: dict[tuple[str, str], float] = {}
        missing: dict[tuple[str, str], str] = {}
        for target in seen.names:
            for source in (target, *(t for t in seen.names if t != target)):
                found = missing.get((target, target)) or self._skill(seen, source, target)
                if isinstance(found, str):
                    missing[source, target] = found
                else:
                    skills[source, target] = found
        cells = {(i, j): s if i == j else s - skills[j, j] for (i, j), s in skills.items()}
        return Reading(cells, {pair: why for pair, why in missing.items() if pair[0] != pair[1]})

    def _skill(self, seen: Singles, source: str, target: str) -> float | str:
        """Of the target on the source's trunk; why not, where there is none."""
        task = seen.tasks[target]
        if task.eats != "vector":
            return f"No linear head predicts a task of the type {task.kind}."
        tables = [
            t for t in seen.common(source, target) if target in seen.train[t].tasks and target in seen.held[t].tasks
        ]
        if not tables:
            return no_common("table of the same feature columns")
        learnt = [(t, _some(seen.train[t].known_rows(target), seed_of(seen.seed, "labels", t))) for t in tables]
        scored = [(t, seen.held[t].known_rows(target)) for t in tables]
        if not any(len(rows) for _, rows in learnt):
            return "The target has no label in the common training rows."
        x, y, known, weight, _ = _labelled(seen, source, target, "train", learnt)
        head = learn(_Head, task, x, {"categorical": []}, y, known, weight, seen.seed % 2**31)
        x, y, known, _, extra = _labelled(seen, source, target, "held", scored)
        metric = metrics.find(task.metrics[0])
        groups = None if metric.column is None else extra[metric.column]
        value, why = metric(task.truth(y), head(x), groups=groups, known=known.numpy() if known.dim() > 1 else None)
        train, held = ({t: getattr(seen, part)[t] for t in tables} for part in ("train", "held"))
        skill = Skill({target: metric.name}, [task], train, held)(target, value)
        return skill if skill is not None else why or "The skill of the target is undefined on the held-out rows."


class _Head(Linear):
    """Few strengths of logistic and Poisson regression: there is a head for every pair."""

    def choose(self, X: Any, problem: Problem, seed: int) -> Any:
        if problem.present is None:
            return super().choose(X, problem, seed)
        return self._cross(X, problem, list(STRENGTHS), 3, seed)


def _some(rows: Tensor, seed: int) -> Tensor:
    if len(rows) <= MOST_LABELS:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:MOST_LABELS].sort().values]


def _labelled(
    seen: Singles, source: str, target: str, part: str, where: Sequence[tuple[str, Tensor]]
) -> tuple[dict[str, Tensor], Any, Tensor, Tensor, dict[str, np.ndarray]]:
    """(what the source's trunk makes of rows of some tables, the target's labels, known, weight, columns beside)."""
    parts, weights = [], []
    for table, index in where:
        rows: Taskset = getattr(seen, part)[table].only([target]).take(index)
        y, known, weight = rows.labels(target)
        z = seen.features(source, table, part)[index].float()
        parts.append(Result(z, y, known, rows.extra))
        weights.append(torch.ones(known.shape) if weight is None else weight)
    whole = Result.join(parts)
    x = {"numeric": whole.output, "categorical": torch.empty(len(whole.output), 0, dtype=torch.long)}
    return x, whole.target, whole.known, torch.cat(weights), dict(whole.extra)
