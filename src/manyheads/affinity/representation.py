"""Similarities of representations: for every pair of single-task models, on the rows that both can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import Reading, no_common
from .singles import Singles

FEW = 8
"""Rows below which nothing is compared."""


def compared(seen: Singles, prepare: Callable[[Tensor], Any], alike: Callable[[Any, Any], float]) -> Reading:
    """The similarity of every pair's features on their common rows: of what heads read, and of each stage below.

    Args:
        seen: the models.
        prepare: features (rows, d) of one model -> what is compared; None where they do not tell rows apart.
        alike: the similarity of two of those.
    """
    cells: dict[tuple[str, str], float] = {}
    missing: dict[tuple[str, str], str] = {}
    parts: dict[str, dict[tuple[str, str], float]] = {}
    kept: dict[tuple[str, tuple[str, ...], int], Any] = {}

    def of(task: str, tables: tuple[str, ...], stage: int) -> Any:
        key = (task, tables, stage)
        if key not in kept:
            kept[key] = prepare(torch.cat([seen.stages(task, t)[stage] for t in tables]))
        return kept[key]

    for i, a in enumerate(seen.names):
        for b in seen.names[i:]:
            tables = seen.common(a, b)
            if sum(len(seen.held[t]) for t in tables) < FEW:
                missing |= dict.fromkeys(((a, b), (b, a)), no_common("table of the same feature columns"))
                continue
            depths = min(len(seen.stages(task, tables[0])) for task in (a, b))
            for stage in range(-depths, 0):
                one, other = of(a, tables, stage), of(b, tables, stage)
                if one is None or other is None:
                    if stage == -1:
                        missing |= dict.fromkeys(((a, b), (b, a)), "A model told none of the common rows apart.")
                    continue
                value = 1.0 if a == b else min(alike(one, other), 1.0)
                into = [parts.setdefault(f"stage {depths + stage}", {}), *([cells] if stage == -1 else [])]
                for place in into:
                    place[a, b] = place[b, a] = value
    return Reading(cells, {pair: why for pair, why in missing.items() if pair[0] != pair[1]}, parts)
