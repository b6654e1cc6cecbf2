"""Pictures moved, and all labels that have a place in them with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Block, Taskset
from ..tasks import Task


def pictures(rows: Taskset) -> dict[str, Tensor]:
    """The pictures among the inputs, by key: (batch, channels, height, width) bytes each."""
    return {key: value for key, value in rows.inputs.items() if key.startswith("image:")}


def uniform(random: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """n numbers between two, equally likely (n,)."""
    return torch.rand(n, generator=random) * (high - low) + low


def moved(rows: Taskset, tasks: Mapping[str, Task], affine: Tensor) -> Taskset:
    """The rows with every picture moved, and every label that moves with it (`Task.moved`).

    Pictures are interpolated; what comes in from outside has the mean colour of the picture.

    Args:
        rows: of one table.
        tasks: by name.
        affine: (batch, 2, 3): the point p of the new picture shows the old one's point affine @ (x, y, 1), where a
            picture spans -1 to 1 from left to right and from top to bottom.
    """
    inputs: dict[str, Any] = {**rows.inputs, **{key: _moved(old, affine) for key, old in pictures(rows).items()}}
    return replace(rows, inputs=inputs, blocks=tuple(_block(block, tasks, affine) for block in rows.blocks))


def _moved(old: Tensor, affine: Tensor) -> Tensor:
    grid = F.affine_grid(affine.to(torch.float32), list(old.shape), align_corners=False)
    values = old.to(torch.float32)
    mean = values.mean((-2, -1), keepdim=True)
    new = F.grid_sample(values - mean, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (new + mean).round().clamp(0, 255).to(torch.uint8)


def _block(block: Block, tasks: Mapping[str, Task], affine: Tensor) -> Block:
    if not block.stacked:
        if block.tasks[0] not in tasks:
            return block
        return replace(block, target=tasks[block.tasks[0]].moved(block.target, affine))
    old = [block.target[:, i] for i in range(len(block.tasks))]
    new = [tasks[t].moved(y, affine) if t in tasks else y for t, y in zip(block.tasks, old, strict=True)]
    return block if all(a is b for a, b in zip(old, new, strict=True)) else replace(block, target=torch.stack(new, 1))
