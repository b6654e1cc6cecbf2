"""Rows that never were: between rows of a table, for a student to hear its teachers where no label is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..blocks import seed_of
from ..data import Taskset

PLAIN = ("numeric", "categorical")
NEIGHBOURS = 500
"""A row's neighbour is the nearest of so many drawn at random."""
SWAP = 0.5
"""The probability with which a value is the neighbour's."""


def between(rows: Mapping[str, Taskset], share: float, seed: int) -> dict[str, Taskset]:
    """Rows each of whose values is that of a row or, with probability one half, that of its nearest neighbour.

    No value is new, only their company is. Rows are made of tables of numbers and categories alone; where an input is
    of another kind there are none.

    Args:
        rows: per table.
        share: new rows per row, at least 0.
        seed: of the draws.

    Returns:
        table -> new rows, without labels; they belong to the user's table that their first parent is of.

    Reference:
        Bucila, Caruana, Niculescu-Mizil: Model compression, 2006 (MUNGE).

    Differs from the paper:
        A swapped number is the neighbour's itself: columns that say whether a value is missing have no values between.
        The neighbour is the nearest of a sample, not of all rows.
    """
    answer = {}
    for table, own in rows.items():
        count = round(share * len(own))
        if count and len(own) > 1 and all(k in PLAIN and isinstance(v, Tensor) for k, v in own.inputs.items()):
            answer[table] = _between(own, count, seed_of(seed, "between", table) % 2**62)
    return answer


def _between(rows: Taskset, count: int, seed: int) -> Taskset:
    draw = torch.Generator().manual_seed(seed)
    first = torch.cat([torch.randperm(len(rows), generator=draw) for _ in range(-(-count // len(rows)))])[:count]
    some = torch.randperm(len(rows), generator=draw)[:NEIGHBOURS]
    second = some[_nearest(rows, first, some)]
    inputs = {}
    for kind, values in rows.inputs.items():
        swap = torch.rand((count, values.shape[-1]), generator=draw) < SWAP
        inputs[kind] = torch.where(swap, values[second], values[first])
    domain = None if rows.domain is None else rows.domain[first]
    blank = {k: np.empty(count, dtype=v.dtype) for k, v in rows.extra.items()}
    return replace(rows, inputs=inputs, blocks=(), extra=blank, domain=domain)


def _nearest(rows: Taskset, asked: Tensor, some: Tensor) -> Tensor:
    """For each row, the nearest of some others, itself left out: squared distances, and 1 per category that differs."""
    found = []
    for part in asked.split(2000):
        distance = torch.zeros(len(part), len(some))
        if "numeric" in rows.inputs:
            x = rows.inputs["numeric"].float()
            distance += torch.cdist(x[part], x[some]).square()
        if "categorical" in rows.inputs:
            for column in rows.inputs["categorical"].T:
                distance += column[part].unsqueeze(1) != column[some]
        distance[part.unsqueeze(1) == some] = torch.inf
        found.append(distance.argmin(1))
    return torch.cat(found)
