"""Boxes around things in pictures, and how well they are found.

A box is found where a predicted one of its class covers it well enough; each predicted box finds one at most, and each
box is found once at most, by the likeliest first. Which predictions find something is settled picture by picture, so a
metric is then a function of the pictures' weights alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .formulas import Array, Parts, mean_over

MOST = 100
"""Boxes of a class that count in a picture, the likeliest first."""
RECALLS = np.linspace(0, 1, 101)
"""Where precision is read off."""
STRICTER = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""IoU from which on a box counts as found, from .50 to .95."""
_CELLS = 2_000_000
"""Weights of boxes held at a time: 16 MB."""


class Boxes(NamedTuple):
    """The boxes of a picture.

    Shape:
        corners: (n, 4) numbers x0, y0, x1, y1 with x0 < x1 and y0 < y1, in any unit for x and any for y.
        classes: (n,) indices.
        scores: (n,) how sure a prediction is; `None` for labels.
    """

    corners: Array
    classes: Array
    scores: Array | None = None


def iou(a: Array, b: Array) -> Array:
    """Area in common over area in either, of every box with every other one.

    Shape:
        a (n, 4), b (m, 4) -> (n, m).

    Example:
        >>> iou(np.array([[0, 0, 2, 1]]), np.array([[1, 0, 3, 1], [5, 5, 6, 6]]))
        array([[0.33333333, 0.        ]])
    """
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(0).prod(-1)
    either = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    return np.divide(common, either, out=np.zeros_like(common), where=either > 0)


def _found(overlap: Array, thresholds: Array) -> Array:
    """Which predictions, the likeliest first, find a box that none before them has found.

    Each takes the box that it covers best among those that are left.

    Shape:
        overlap (predictions, boxes) -> (thresholds, predictions).
    """
    found = np.zeros((len(thresholds), len(overlap)), bool)
    if not overlap.shape[1]:
        return found
    taken = np.zeros((len(thresholds), overlap.shape[1]), bool)
    every = np.arange(len(thresholds))
    for i in np.flatnonzero(overlap.max(1) >= thresholds.min()):
        left = np.where(~taken & (overlap[i] >= thresholds[:, None]), overlap[i], -1.0)
        best = left.shape[1] - 1 - left[:, ::-1].argmax(1)  # of equal ones the last, as pycocotools has it
        found[:, i] = left[every, best] >= 0
        taken[every, best] |= found[:, i]
    return found


class _Class(NamedTuple):
    """The predictions of one class over all pictures, the likeliest first."""

    pictures: Array
    """In which picture each is (predictions,)."""
    found: Array
    """Whether it finds a box (thresholds, predictions)."""
    boxes: Array
    """How many there are to find in each picture (pictures,)."""

    def weigh(self, W: Array) -> Array:
        """Precision, read off at 101 recalls, averaged over thresholds; NaN where there is nothing to find."""
        total = W @ self.boxes
        said = W[:, self.pictures].cumsum(1)
        areas = np.zeros(len(W))
        for found in self.found:
            at = np.flatnonzero(found)
            right = W[:, self.pictures[at]].cumsum(1)
            precision = np.divide(right, said[:, at], out=np.zeros_like(right), where=said[:, at] > 0)
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            recall = np.divide(right, total[:, None], out=np.zeros_like(right), where=total[:, None] > 0)
            for draw in range(len(W)):
                places = np.searchsorted(recall[draw], RECALLS)
                areas[draw] += precision[draw, places[places < len(at)]].sum() / len(RECALLS)
        return np.where(total > 0, areas / len(self.found), np.nan)


def _of_class(y: Array, p: Array, c: int, thresholds: Array) -> _Class:
    pictures, scores, found, boxes = [], [], [], np.zeros(len(y))
    for row, (true, said) in enumerate(zip(y, p, strict=True)):
        own, theirs = np.asarray(true.classes) == c, np.asarray(said.classes) == c
        boxes[row] = own.sum()
        values = np.zeros(len(theirs)) if said.scores is None else np.asarray(said.scores, float)
        order = np.flatnonzero(theirs)[np.argsort(-values[theirs], kind="stable")[:MOST]]
        pictures.append(np.full(len(order), row))
        scores.append(values[order])
        found.append(_found(iou(said.corners[order], true.corners[own]), thresholds))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Class(np.concatenate(pictures)[order], np.concatenate(found, 1)[:, order], boxes)


def by_class(thresholds: Sequence[float]) -> Callable[[Array, Array], Parts]:
    """The mean over these IoU of each class's precision, averaged over recalls of 0, .01, ..., 1.

    The precision at a recall is the best at that recall or any higher one; 0 where it is not reached. A class without a
    box among the pictures has none; a box that is predicted in a picture known to have none is wrong. IoU does
    not depend on units, so pictures may have been stretched.

    Returns:
        (y, p) -> its parts; y and p (pictures,) arrays of `Boxes`.

    Reference:
        Lin et al.: Microsoft COCO: common objects in context, 2014 (its evaluation over all sizes, 100 boxes at most).
    """
    limits = np.asarray(thresholds, float)

    def parts(y: Array, p: Array) -> Parts:
        there = sorted({int(c) for boxes in y for c in boxes.classes})
        classes = [_of_class(y, p, c, limits) for c in there]
        most = max((len(c.pictures) for c in classes), default=0)
        size = max(1, _CELLS // max(most, 1))

        def weigh(W: Array) -> Array:
            some = [np.stack([c.weigh(W[i : i + size]) for c in classes]) for i in range(0, len(W), size)]
            return np.concatenate(some, 1)

        counts = np.array([c.boxes.sum() for c in classes], dtype=int)
        return Parts(there, weigh, np.full(len(there), counts.sum()), counts)

    return parts


by_class_50, by_class_50_95 = by_class((0.5,)), by_class(STRICTER)
at_50 = mean_over(by_class_50)
"""Average precision where an IoU of .50 is enough, the mean over classes."""
at_50_95 = mean_over(by_class_50_95)
"""Average precision as COCO has it, averaged over IoU of .50, .55, ..., .95."""
