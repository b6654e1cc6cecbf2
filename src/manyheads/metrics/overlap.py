"""Boxes as nets see them: how well two agree, and which of many that agree are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def _area(boxes: Tensor) -> Tensor:
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _shared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Area in common and area in either."""
    inner = torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1)
    common = _area(inner)
    return common, _area(a) + _area(b) - common


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Area in common over area in either.

    Shape:
        a, b (..., 4), x0, y0, x1, y1, of shapes that broadcast -> (...).
    """
    common, either = _shared(a, b)
    return common / either.clamp(min=torch.finfo(either.dtype).tiny)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """IoU minus the share of the smallest box around both that neither covers: from -1 to 1, 1 where they are equal.

    Where two boxes have nothing in common it tells how far they are from one another, and has a slope.

    Shape:
        a, b (..., 4), x0, y0, x1, y1, of shapes that broadcast -> (...).

    Example:
        >>> giou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([2.0, 0, 3, 1]))
        tensor(-0.3333)

    Reference:
        Rezatofighi et al.: Generalized intersection over union: a metric and a loss for bounding box regression, 2019.
    """
    least = torch.finfo(a.dtype).tiny
    common, either = _shared(a, b)
    around = _area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    return common / either.clamp(min=least) - (around - either) / around.clamp(min=least)


def kept(corners: Tensor, classes: Tensor, limit: float) -> Tensor:
    """Non-maximum suppression: a box goes where one of its class that is kept and surer covers it.

    All at once instead of one by one: who goes is asked of all boxes again until nothing changes. The first n answers
    are right after n rounds at the latest, and mostly after two or three.

    Shape:
        corners (..., n, 4), classes (..., n), the surest first -> (..., n), True where a box is kept.

    Args:
        limit: IoU above which a box covers another.

    Reference:
        Zheng et al.: Enhancing geometric factors in model learning and inference for object detection and instance
        segmentation, 2021 (the rounds).
    """
    n = corners.shape[-2]
    covers = iou(corners.unsqueeze(-2), corners.unsqueeze(-3)) > limit
    covers &= classes.unsqueeze(-1) == classes.unsqueeze(-2)
    covers &= torch.ones(n, n, dtype=torch.bool, device=corners.device).triu(1)
    keep = torch.ones_like(classes, dtype=torch.bool)
    for _ in range(n):
        again = ~(covers & keep.unsqueeze(-1)).any(-2)
        if torch.equal(again, keep):
            break
        keep = again
    return keep
