"""Masks, and how well they are found.

A mask is an array (height, width) of bytes: a class per pixel, `IGNORED` where nothing is known. Every row gives its
pixels in common and in union with the truth, class by class, once; a metric is then a ratio of weighted sums of those.
"""

from __future__ import annotations

import numpy as np

from .formulas import Array, Parts, Weigh, mean_over

IGNORED = 255
"""The class of a pixel whose label is missing."""


def counts(y: Array, p: Array) -> tuple[Array, Array, Array]:
    """Pixels of each class that a row and its prediction have in common, that the row has, that the prediction has.

    Shape:
        y, p: (rows,) arrays (height, width) of bytes; three times (rows, classes).

    Raises:
        ValueError: a predicted mask has another size than the true one.
    """
    classes = 1 + max((int(m[m != IGNORED].max(initial=0)) for masks in (y, p) for m in masks), default=0)
    found = np.zeros((3, len(y), classes))
    for row, (true, said) in enumerate(zip(y, p, strict=True)):
        if true.shape != said.shape:
            raise ValueError(
                f"A predicted mask should have the size of the true one, {true.shape}. Found {said.shape}."
            )
        known = true != IGNORED
        a, b = true[known].astype(np.int64), said[known].astype(np.int64)
        found[0, row] = np.bincount(a[a == b], minlength=classes)
        found[1, row] = np.bincount(a, minlength=classes)
        found[2, row] = np.bincount(b[b != IGNORED], minlength=classes)[:classes]
    return found[0], found[1], found[2]


def iou_by_class(y: Array, p: Array) -> Parts:
    """(Pixels in common) / (pixels in either) of each class, both summed over all rows.

    A class that no pixel has, neither by its label nor by its prediction, has none.

    Reference:
        Everingham et al.: The PASCAL visual object classes challenge: a retrospective, 2015.
    """
    common, true, said = counts(y, p)
    either = true + said - common

    def weigh(W: Array) -> Array:
        union = W @ either
        return np.divide(W @ common, union, out=np.full_like(union, np.nan), where=union > 0).T

    classes = np.flatnonzero(either.any(0))
    pixels = true.sum(0)
    labels = np.full(len(classes), pixels.sum())
    return Parts(classes.tolist(), lambda W: weigh(W)[classes], labels, pixels[classes])


mean_iou = mean_over(iou_by_class)
"""The mean over classes."""


def pixel_accuracy(y: Array, p: Array) -> Weigh:
    """The share of all labelled pixels whose class is right."""
    common, true, _ = counts(y, p)
    right, total = common.sum(1), true.sum(1)
    return lambda W: np.divide(W @ right, W @ total, out=np.full(len(W), np.nan), where=W @ total > 0)
