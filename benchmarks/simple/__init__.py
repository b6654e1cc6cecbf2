"""The simple models of each field: what one would try first, and what a net has to beat.

| inputs | tasks | model |
|---|---|---|
| words | classes | TF-IDF of words and pairs of words, logistic regression |
| words | tags | the most frequent tag of each word |
| words | relations | the most frequent relation of two types, where it is frequent enough |
| pictures | classes | logistic regression on the picture at 12 x 12 |
| pictures | masks | the majority class of each pixel |
| pictures | boxes | the mean box of each class |
| sound | classes | logistic regression on mean and spread of the log spectrum |
| sound | clean sound | what was heard, as it is |
| two factors | numbers, yes or no | mean + bias of the one + bias of the other |
| formulas | yes or no | TF-IDF of runs of characters with logistic regression |

Every one learns from the rows that a net may see (training and validation), from encoded labels, and answers as a
task's `predict` does. Constants, and linear models and boosting for tables, are the library's
own (`manyheads.baselines`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from manyheads import metrics
from manyheads.baselines.learner import quiet
from manyheads.metrics import Measured, Predicted
from manyheads.ragged import joined
from manyheads.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from manyheads.build import Prepared

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties of logistic regression that three folds choose from."""
FEW = 4000
"""Rows that choose it at most."""


class Labelled(NamedTuple):
    """The rows of one task that have a label, over all tables.

    Attributes:
        frame: the user's own columns.
        inputs: what encoders read, by kind.
        target, known: encoded labels.
        truth: the labels as metrics see them.
        extra: columns kept beside the features.
    """

    frame: pd.DataFrame
    inputs: dict[str, Any]
    target: Any
    known: Any
    truth: np.ndarray
    extra: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.truth)


Fit = Callable[[Task, Labelled, int], Callable[[Labelled], Predicted]]
"""(task, rows to learn from, seed) -> a function of other rows."""


def labelled(
    prepared: Prepared, tables: Mapping[str, pd.DataFrame], task: Task, parts: Sequence[str]
) -> Labelled | None:
    """The labelled rows of these parts, one after the other; None where there are none."""
    import pandas as pd

    found = []
    offsets = prepared.dataset.offsets(tables)
    for part in parts:
        for source, rows in prepared.tasksets[part].items():
            if task.name not in rows.tasks:
                continue
            own = [name for name, (where, _, _) in offsets.items() if where == source]
            frame = pd.concat([tables[name][prepared.parts[name] == part] for name in own], ignore_index=True)
            index = rows.known_rows(task.name)
            if not len(index):
                continue
            target, known, _ = rows.labels(task.name)
            kept = rows.take(index)
            found.append((frame.iloc[index.numpy()], dict(kept.inputs), target[index], known[index], dict(kept.extra)))
    if not found:
        return None
    frames, inputs, targets, knowns, extras = zip(*found, strict=True)
    target = joined(targets)
    kinds = [k for k in inputs[0] if all(k in one for one in inputs)]
    return Labelled(
        pd.concat(frames, ignore_index=True),
        {k: np.concatenate([np.asarray(one[k]) for one in inputs]) if isinstance(inputs[0][k], np.ndarray)
         else joined([one[k] for one in inputs]) for k in kinds},
        target,
        joined(knowns),
        task.truth(target),
        {k: np.concatenate([one[k] for one in extras]) for k in extras[0] if all(k in one for one in extras)},
    )  # fmt: skip


def measured(task: Task, rows: Labelled, said: Predicted) -> Measured:
    """The task's first metric on these rows."""
    metric = metrics.find(task.metrics[0])
    groups = None if metric.column is None else rows.extra[metric.column]
    several = rows.known.numpy() if rows.known.dim() > 1 else None
    return metric(rows.truth, said, groups=groups, known=several)


def classify(task: Task, learn: Labelled, X: Any, seed: int) -> Callable[[Any], Predicted]:
    """Logistic regression of classes, or of each label by itself: a function of the matrix of other rows.

    Args:
        X: the matrix of the rows to learn from, dense or sparse.
    """
    rng = np.random.default_rng(seed)

    def fitted(rows: np.ndarray, y: np.ndarray) -> Any:
        if len(np.unique(y)) < 2:
            return float(y[0]) if len(y) else 0.0
        some = rng.permutation(len(rows))[:FEW]
        search = GridSearchCV(LogisticRegression(max_iter=300), {"C": STRENGTHS}, cv=3, scoring="accuracy")
        with quiet():
            chosen = search.fit(X[rows[some]], y[some]).best_params_ if len(np.unique(y[some])) > 1 else {"C": 1.0}
            return LogisticRegression(max_iter=1000, **chosen).fit(X[rows], y)

    def positive(model: Any, Z: Any) -> np.ndarray:
        return np.full(Z.shape[0], model) if isinstance(model, float) else model.predict_proba(Z)[:, 1]

    everything = np.arange(len(learn))
    if task.kind == "multilabel":
        known = learn.known.numpy().astype(bool)
        models = [
            fitted(np.flatnonzero(known[:, j]), learn.truth[known[:, j], j].astype(int)) for j in range(known.shape[1])
        ]

        def several(Z: Any) -> Predicted:
            proba = np.stack([positive(m, Z) for m in models], 1)
            return Predicted((proba > 0.5).astype(int), proba)

        return several
    y = np.asarray(learn.truth).astype(int)
    model = fitted(everything, y)
    if task.kind == "binary":

        def two(Z: Any) -> Predicted:
            proba = positive(model, Z)
            return Predicted((proba > 0.5).astype(int), proba)

        return two

    def one(Z: Any) -> Predicted:
        proba = np.zeros((Z.shape[0], len(task.classes)))  # type: ignore[attr-defined]
        if isinstance(model, float):
            proba[:, int(model)] = 1.0
        else:
            proba[:, model.classes_] = model.predict_proba(Z)
        return Predicted(proba.argmax(1), proba)

    return one


def simple(field: str) -> Callable[[Task], Fit | None]:
    """Which model is the simple one of a task, by the word of the field: text, pictures, sound, ratings or formulas."""
    from . import formulas, pictures, ratings, sound, text

    models = {"text": text, "pictures": pictures, "sound": sound, "ratings": ratings, "formulas": formulas}
    return models[field].model_of


def of_kind(inputs: Mapping[str, Any], *kinds: str) -> tuple[str, Any]:
    """(column, values) of the first input of one of these kinds.

    Raises:
        KeyError: there is none.
    """
    for name, values in inputs.items():
        kind, _, column = name.partition(":")
        if kind in kinds:
            return column, values
    raise KeyError(f"An input should be one of {', '.join(kinds)}. Found {', '.join(inputs)}.")


def tensor(values: Any) -> torch.Tensor:
    """Bytes of pictures as a tensor, however they are kept."""
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values))
