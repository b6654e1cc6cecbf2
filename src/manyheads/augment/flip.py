"""Pictures mirrored."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..data import Taskset
from ..tasks import Task
from . import Augmentation
from .moving import moved, pictures


class Flip(Augmentation):
    """Left and right exchanged with probability `p`, top and bottom with probability `vertical`; masks and boxes too.

    Args:
        p: of an exchange of left and right.
        vertical: of an exchange of top and bottom; 0 where there is an up and a down.

    Raises:
        ValueError: one of them is no probability.
    """

    def __init__(self, p: float = 0.5, vertical: float = 0.0) -> None:
        for name, value in (("p", p), ("vertical", vertical)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` should be a probability. Found {value}.")
        self.p, self.vertical = p, vertical

    def __call__(self, rows: Taskset, tasks: Mapping[str, Task], random: torch.Generator) -> Taskset:
        if not pictures(rows):
            return rows
        n = len(rows)
        affine = torch.zeros(n, 2, 3)
        affine[:, 0, 0] = 1 - 2 * (torch.rand(n, generator=random) < self.p).float()
        affine[:, 1, 1] = 1 - 2 * (torch.rand(n, generator=random) < self.vertical).float()
        return moved(rows, tasks, affine)
