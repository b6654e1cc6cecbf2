"""What is best said of a row without looking at it, where labels are objects: tags, masks, boxes, texts, sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..metrics import Metric, Predicted, constant_prediction
from ..metrics.boxes import Boxes
from ..metrics.formulas import Array
from ..ragged import Ragged, objects


def mask(target: Tensor, classes: int) -> Array:
    """The most frequent class at each place of the canvas; where no mask says anything, the most frequent of all.

    Shape:
        target (rows, height, width) bytes -> (height, width) bytes.
    """
    counts = torch.stack([(target == c).sum(0) for c in range(classes)])
    best = counts.argmax(0)
    best[counts.sum(0) == 0] = counts.sum((1, 2)).argmax()
    return best.to(torch.uint8).numpy()


def boxes(target: Ragged, unit: Array, classes: int) -> Boxes:
    """The mean box of each class, as sure as the class is frequent.

    Args:
        target: per row (boxes, 5): x0, y0, x1, y1 from 0 to 1, and the class.
        unit: (4,) what 1 is worth.
        classes: how many there are.
    """
    values = target.values.double().numpy()
    counts = np.bincount(values[:, 4].astype(np.int64), minlength=classes)
    there = np.flatnonzero(counts)
    corners = np.stack([values[values[:, 4] == c, :4].mean(0) for c in there]) if len(there) else np.empty((0, 4))
    return Boxes(corners * unit, there, counts[there] / max(counts.sum(), 1))


def text(metric: Metric, said: Sequence[str]) -> str:
    """The most frequent text or none at all, whichever is better by the metric on the texts themselves."""
    counts = Counter(said)
    y, weight = objects(list(counts)), list(counts.values())
    best, value = "", None
    for candidate in dict.fromkeys(["", counts.most_common(1)[0][0]]):
        found = metric(y, Predicted(objects([candidate] * len(y))), sample_weight=weight).value
        if metric.better(found, value):
            best, value = candidate, found
    return best


def labels(metric: Metric, y: Array, known: Array, rows: int) -> Predicted:
    """Of several labels a row, each label's own share, and of sets the best by the metric on the training labels: the
    labels that most rows have, the most frequent set, no label.

    A label that is nowhere known is as likely as not.

    Shape:
        y, known (m, L) -> value, proba (rows, L).
    """
    lost = ~known.any(0)
    y, known = np.where(lost, 0, y), known | lost
    found = constant_prediction(metric, y, rows, known=known)
    proba = np.where(lost, 0.5, np.asarray(found.proba))
    if metric.needs == "proba":
        return Predicted(found.value, proba)
    whole = y[known.all(1)]
    frequent = [Counter(map(tuple, whole.tolist())).most_common(1)[0][0]] if len(whole) else []
    best, value = np.asarray(found.value)[0] if rows else y[0], None
    for candidate in (best, *map(np.asarray, frequent), np.zeros_like(y[0])):
        own = metric(y, Predicted(np.tile(candidate, (len(y), 1))), known=known & ~lost).value
        if metric.better(own, value):
            best, value = candidate, own
    return Predicted(np.tile(best, (rows, 1)), proba)


def tag(tags: Tensor, names: Sequence[str]) -> str:
    """The most frequent tag.

    Shape:
        tags (tokens,) indices into `names`.
    """
    return names[int(torch.bincount(tags, minlength=len(names)).argmax())]
