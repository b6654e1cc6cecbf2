"""Pictures in another light."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..data import Taskset
from ..tasks import Task
from . import Augmentation
from .moving import pictures, uniform


class Colour(Augmentation):
    """Brightness, contrast and saturation changed at random; labels stay.

    x -> b (m + c (x - m)), with m the picture's mean grey, b within 1 +- `brightness`, c within 1 +- `contrast`; then
    every pixel g + s (x - g), with g its own grey, s within 1 +- `saturation` (a grey picture has none).

    Args:
        brightness, contrast, saturation: 0 for no change.

    Raises:
        ValueError: one of them is negative.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` should be 0 or more. Found {value}.")
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def __call__(self, rows: Taskset, tasks: Mapping[str, Task], random: torch.Generator) -> Taskset:
        found = pictures(rows)
        if not found:
            return rows
        factors = [
            uniform(random, len(rows), max(1 - width, 0.0), 1 + width).reshape(-1, 1, 1, 1)
            for width in (self.brightness, self.contrast, self.saturation)
        ]
        return replace(rows, inputs={**rows.inputs, **{key: _lit(old, *factors) for key, old in found.items()}})


def _lit(old: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    x = old.to(torch.float32)
    x = brightness * (x.mean((1, 2, 3), keepdim=True) * (1 - contrast) + contrast * x)
    grey = x.mean(1, keepdim=True)
    return (grey + saturation * (x - grey)).round().clamp(0, 255).to(torch.uint8)
