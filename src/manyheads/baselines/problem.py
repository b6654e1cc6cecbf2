"""One column to learn: what a task splits into, its folds, its errors, and the way back to the task's output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from ..tasks import Task

Array = np.ndarray[Any, Any]
Form = Literal["squared", "absolute", "poisson", "classes"]

TUNING_ROWS = 20_000
"""Rows that choose the settings at most; the model itself is fitted on all rows."""
TINY = 1e-12
"""The least share, rate or probability."""
_FEW = 4
"""Labelled rows below which nothing but a constant is fitted."""


class Problem(NamedTuple):
    """One column to learn: `y` in the output's space, or codes 0..K-1 of the `present` classes."""

    form: Form
    rows: Array
    y: Array
    weight: Array
    present: Array | None = None


def problems(task: Task, target: Tensor, known: Tensor, weight: Tensor | None) -> list[Problem]:
    """The columns of a task: one for most, one per label for several labels a row, one per threshold for levels."""
    y: Array = target.numpy().astype(np.float64)
    w: Array = np.ones(y.shape) if weight is None else weight.numpy().astype(np.float64)
    there: Array = known.numpy().astype(bool) & (w > 0)
    if task.kind == "ordinal":
        levels = np.arange(len(getattr(task, "classes", ())) - 1)
        y = y[:, None] > levels
        there, w = (np.repeat(v[:, None], len(levels), 1) for v in (there, w))
    if y.ndim == 1:
        y, there, w = y[:, None], there[:, None], w[:, None]
    form: Form = "classes"
    if task.kind == "count":
        form = "poisson"
    elif task.kind == "regression":
        form = "absolute" if task.loss == "mae" else "squared"
    found = []
    for column in range(y.shape[1]):
        rows = np.flatnonzero(there[:, column])
        labels, weights, present = y[rows, column], w[rows, column], None
        if len(rows):
            weights = weights / weights.mean()
        if form == "classes":
            present, labels = np.unique(labels.astype(np.int64), return_inverse=True)
        found.append(Problem(form, rows, labels, weights, present))
    return found


def alike(problem: Problem) -> str:
    """Why a problem has nothing to learn; empty where it has."""
    if len(problem.rows) < _FEW:
        return f"{len(problem.rows)} labelled training rows are too few; the constant stands in."
    if problem.y.min() == problem.y.max():
        return "All training labels are the same; the constant stands in."
    return ""


def output_of(task: Task, problem: Problem, raw: Array) -> Array:
    """Decision values of the present classes -> the output's units: log odds, or log probabilities of all classes."""
    if problem.present is None or task.kind != "multiclass":
        return raw[:, None]
    logits = np.stack([np.zeros_like(raw), raw], 1) if raw.ndim == 1 else raw
    logits = logits - logits.max(1, keepdims=True)
    share = np.full((len(raw), len(getattr(task, "classes", ()))), np.log(TINY))
    share[:, problem.present] = np.maximum(logits - np.log(np.exp(logits).sum(1, keepdims=True)), np.log(TINY))
    return share


def flat(task: Task, problem: Problem, n: int) -> Array:
    """The output of a problem without anything to learn: the mean, or the only class."""
    if task.kind == "multiclass":
        shares = np.full(len(getattr(task, "classes", ())), TINY)
        if problem.present is not None and len(problem.rows):
            shares[problem.present] += np.bincount(problem.y, problem.weight) / problem.weight.sum()
        return np.tile(np.log(shares), (n, 1))
    if problem.present is not None:
        share = 0.5 if not len(problem.rows) else np.average(problem.present[problem.y], weights=problem.weight)
        share = min(max(float(share), TINY), 1 - TINY)
        return np.full((n, 1), np.log(share) - np.log1p(-share))
    mean = float(np.average(problem.y, weights=problem.weight)) if len(problem.rows) else 0.0
    return np.full((n, 1), np.log(max(mean, TINY)) if problem.form == "poisson" else mean)


def _fold_of_rows(problem: Problem, k: int, seed: int) -> Array:
    """The fold of each row, classes spread evenly; -1 (never held out) for the only row of a class."""
    order = np.random.default_rng(seed).permutation(len(problem.y))
    fold = np.empty(len(order), np.int64)
    if problem.present is None:
        fold[order] = np.arange(len(order)) % k
        return fold
    order = order[np.argsort(problem.y[order], kind="stable")]
    fold[order] = np.arange(len(order)) % k
    fold[(np.bincount(problem.y) == 1)[problem.y]] = -1
    return fold


def cost_of(form: Form, y: Array, raw: Array, weight: Array) -> float:
    """The weighted sum of errors of decision values, up to terms that do not depend on them."""
    if form == "squared":
        return float(weight @ (y - raw) ** 2)
    if form == "absolute":
        return float(weight @ np.abs(y - raw))
    if form == "poisson":
        return float(weight @ (np.exp(raw) - y * raw))
    if raw.ndim == 1:
        return float(weight @ np.logaddexp(0, np.where(y == 1, -raw, raw)))
    top = raw.max(1)
    total = np.log(np.exp(raw - top[:, None]).sum(1)) + top
    return float(weight @ (total - raw[np.arange(len(y)), y]))


def few(problem: Problem, seed: int) -> Problem:
    """The rows that choose the settings."""
    if len(problem.y) <= TUNING_ROWS:
        return problem
    kept = np.sort(np.random.default_rng(seed).permutation(len(problem.y))[:TUNING_ROWS])
    y, present = problem.y[kept], problem.present
    if present is not None:
        codes, y = np.unique(y, return_inverse=True)
        present = present[codes]
    return Problem(problem.form, problem.rows[kept], y, problem.weight[kept], present)


def folds(problem: Problem, k: int, seed: int) -> Iterator[tuple[Array, Array, Problem]]:
    """(training rows, held-out rows, the problem of the training rows) of each fold that holds something out."""
    k = min(k, len(problem.y))
    fold = _fold_of_rows(problem, k, seed)
    for i in range(k):
        train, held = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
        part = Problem(problem.form, problem.rows[train], problem.y[train], problem.weight[train], problem.present)
        # a training part of zero counts, or of equal numbers, has nothing to tell the settings apart
        if len(held) and part.y.min() < part.y.max():
            yield train, held, part
