"""Pictures: means and majorities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from sklearn.preprocessing import StandardScaler

from manyheads.metrics import Predicted
from manyheads.metrics.boxes import Boxes
from manyheads.metrics.masks import IGNORED
from manyheads.ragged import objects
from manyheads.tasks import Task

from . import Fit, Labelled, classify, of_kind, tensor

SIDE = 12
"""Pixels of the small picture that logistic regression reads, across and down."""


def model_of(task: Task) -> Fit | None:
    """The majority class of each pixel, the mean box of each class, logistic regression for classes."""
    if task.kind == "segmentation":
        return majority
    if task.kind == "detection":
        return mean_box
    return small if task.kind in ("binary", "multiclass", "multilabel") else None


def _matrix(rows: Labelled) -> np.ndarray:
    _, pictures = of_kind(rows.inputs, "image")
    return F.adaptive_avg_pool2d(tensor(pictures).float(), SIDE).flatten(1).numpy()


def small(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """Logistic regression on the picture at 12 x 12."""
    scale = StandardScaler().fit(_matrix(learn))
    predict = classify(task, learn, scale.transform(_matrix(learn)), seed)
    return lambda rows: predict(scale.transform(_matrix(rows)))


def majority(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """The majority class of each pixel; of all pixels, for one whose class is never known."""
    masks = np.stack(list(learn.truth))
    classes = int(masks[masks != IGNORED].max(initial=0)) + 1
    counts = np.stack([(masks == c).sum(0) for c in range(classes)])
    mask = np.where(counts.sum(0) > 0, counts.argmax(0), counts.sum((1, 2)).argmax()).astype(masks.dtype)
    return lambda rows: Predicted(objects([mask] * len(rows)))


def mean_box(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """One box for each class in every picture, the mean of its boxes; its score is the share of pictures with one."""
    corners = np.concatenate([boxes.corners for boxes in learn.truth])
    classes = np.concatenate([boxes.classes for boxes in learn.truth])
    there = np.unique(classes)
    mean = np.stack([corners[classes == c].mean(0) for c in there])
    share = np.array([np.mean([c in boxes.classes for boxes in learn.truth]) for c in there])
    said = Boxes(mean, there, share)
    return lambda rows: Predicted(objects([said] * len(rows)))
