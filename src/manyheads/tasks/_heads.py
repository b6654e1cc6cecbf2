"""Heads that say where: from maps to masks and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..faults import ConfigError

START = 0.1
"""The probability of a middle, everywhere at the start (Zhou et al.)."""


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (batch, channels, h, w) in another size (height, width), bilinear."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class MaskHead(nn.Module):
    """One map or several -> logits at the size of the finest; begins at the shares of the classes.

    Shape:
        (batch, d_i, h_i, w_i) each -> (batch, classes, max h_i, max w_i).
    """

    def __init__(self, widths: Sequence[int], d_head: int, start: Sequence[float]) -> None:
        super().__init__()
        self.join = Joined(widths, d_head)
        self.conv = nn.Conv2d(d_head, d_head, 3, padding=1)
        self.last = Level(d_head, start)

    def forward(self, maps: Any) -> Tensor:
        z = self.join(maps)
        return self.last(z + F.silu(self.conv(z)))


class Joined(nn.Module):
    """One map or several -> one: silu of the sum of 1 x 1 convolutions of each, at the size of the finest.

    Shape:
        (batch, d_i, h_i, w_i) each -> (batch, width, max h_i, max w_i).
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.thin = nn.ModuleList(nn.Conv2d(d, width, 1) for d in widths)

    def forward(self, maps: Any) -> Tensor:
        maps = maps if isinstance(maps, list) else [maps]
        if any(not isinstance(m, Tensor) or m.dim() != 4 for m in maps):
            raise ConfigError(
                "A task whose labels lie on a picture should read maps (batch, channels, height, width). Found "
                "features without places; use the encoder `image`, which reads a picture alone "
                "(`features.only: [image]`), and attach the task to one of its stages."
            )
        size = max(tuple(m.shape[-2:]) for m in maps)
        first, *others = (resized(thin(m), size) for thin, m in zip(self.thin, maps, strict=True))
        for part in others:
            first = first + part
        return F.silu(first)


class Level(nn.Conv2d):
    """A 1 x 1 convolution that starts as a constant.

    Args:
        width: channels that it reads.
        start: what it says everywhere at the start, one number per channel.
    """

    def __init__(self, width: int, start: Sequence[float]) -> None:
        self.start = tuple(start)
        super().__init__(width, len(self.start), 1)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.zero_()
            if self.bias is not None:
                self.bias.copy_(torch.tensor(self.start))


class BoxHead(nn.Module):
    """One map or several -> per place of the finest the log odds of a middle per class, and a box.

    Shape:
        (batch, d_i, h_i, w_i) each -> (batch, classes + 4, max h_i, max w_i).
    """

    def __init__(self, widths: Sequence[int], d_head: int, classes: int) -> None:
        super().__init__()
        self.join = Joined(widths, d_head)
        self.conv_scores, self.conv_boxes = (nn.Conv2d(d_head, d_head, 3, padding=1) for _ in range(2))
        self.scores = Level(d_head, [math.log(START / (1 - START))] * classes)
        self.boxes = Level(d_head, [0.0] * 4)

    def forward(self, maps: Any) -> Tensor:
        z = self.join(maps)
        scores, boxes = z + F.silu(self.conv_scores(z)), z + F.silu(self.conv_boxes(z))
        return torch.cat([self.scores(scores), self.boxes(boxes)], 1)
