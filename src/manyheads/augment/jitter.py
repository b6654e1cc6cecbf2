"""Noise on numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..data import Taskset
from ..tasks import Task
from . import Augmentation


class Jitter(Augmentation):
    """Normal noise on every numeric column: x + noise * n, n ~ N(0, 1), x standardised. Labels stay.

    Args:
        noise: standard deviation, in standard deviations of the column.

    Raises:
        ValueError: it is negative.

    Reference:
        Bishop: Training with noise is equivalent to Tikhonov regularization, 1995.
    """

    def __init__(self, noise: float = 0.1) -> None:
        if not (noise >= 0 and math.isfinite(noise)):
            raise ValueError(f"`noise` should be 0 or more. Found {noise}.")
        self.noise = noise

    def __call__(self, rows: Taskset, tasks: Mapping[str, Task], random: torch.Generator) -> Taskset:
        if "numeric" not in rows.inputs:
            return rows
        x = rows.inputs["numeric"]
        noise = torch.randn(x.shape, generator=random, dtype=x.dtype) * self.noise
        return replace(rows, inputs={**rows.inputs, "numeric": x + noise})
