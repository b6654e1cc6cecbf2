"""Pictures seen from nearer, from aside, and turned a little."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..data import Taskset
from ..tasks import Task
from . import Augmentation
from .moving import moved, pictures, uniform


class Crop(Augmentation):
    """A window of another size, place and angle, brought back to the size of the canvas; masks and boxes move with it.

    Things are enlarged by a factor exp(u), u between -log(1 + `scale`) and log(1 + `scale`), and by a second such
    factor for the shape, u within log(1 + `shape`) / 2, across, and its inverse down; the window's middle is moved by
    up to `shift`, and turned by up to `rotate`; all are equally likely within their bounds. What comes in from outside
    has the mean colour of its picture, and no label.

    Args:
        scale: 0.25 enlarges to 1.25 and shrinks to 1 / 1.25 at most.
        shift: share of width and of height.
        rotate: degrees.
        shape: 0.2 changes width to height by a factor of 1.2 at most.

    Raises:
        ValueError: one of them is negative.
    """

    def __init__(self, scale: float = 0.25, shift: float = 0.1, rotate: float = 0.0, shape: float = 0.0) -> None:
        for name, value in (("scale", scale), ("shift", shift), ("rotate", rotate), ("shape", shape)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` should be 0 or more. Found {value}.")
        self.scale, self.shift, self.rotate, self.shape = scale, shift, rotate, shape

    def __call__(self, rows: Taskset, tasks: Mapping[str, Task], random: torch.Generator) -> Taskset:
        found = pictures(rows)
        if not found:
            return rows
        n, (height, width) = len(rows), next(iter(found.values())).shape[-2:]
        log_scale, log_shape = math.log1p(self.scale), math.log1p(self.shape) / 2
        size = torch.exp(uniform(random, n, -log_scale, log_scale))
        shape = torch.exp(uniform(random, n, -log_shape, log_shape))
        angle = uniform(random, n, -math.radians(self.rotate), math.radians(self.rotate))
        across, down = 1 / (size * shape), shape / size
        cos, sin, aspect = angle.cos(), angle.sin(), height / width
        affine = torch.empty(n, 2, 3)  # a turn is one in pixels, of which there are more along the longer side
        affine[:, 0, 0], affine[:, 0, 1] = cos * across, -sin * down * aspect
        affine[:, 1, 0], affine[:, 1, 1] = sin * across / aspect, cos * down
        affine[:, 0, 2] = uniform(random, n, -2 * self.shift, 2 * self.shift)
        affine[:, 1, 2] = uniform(random, n, -2 * self.shift, 2 * self.shift)
        return moved(rows, tasks, affine)
