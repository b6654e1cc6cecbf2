"""What to share, in words, and how far what was promised came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..results import Comparison, Grouping, Number
from ..verdicts import clear_of_zero

Groups = tuple[tuple[str, ...], ...]
BRANCHED = ", branched"
"""What stands behind a grouping's name where its groups are branches of one model."""


def agreement(predicted: Mapping[str, Number], realised: Mapping[str, Number]) -> float | None:
    """Spearman's rank correlation over the tasks that have both; None where that is fewer than three, or no spread."""
    from scipy.stats import rankdata

    pairs = [(p, r) for t, p in predicted.items() if p is not None and (r := realised.get(t)) is not None]
    if len(pairs) < 3:
        return None
    a, b = (rankdata(column) for column in zip(*pairs, strict=True))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def recommendation(choice: str, groups: Groups, grouping: Grouping | None, branched: bool = False) -> str:
    """What to share, in a sentence.

    Args:
        choice: the method.
        groups: its groups.
        grouping: where it was a grouping: which group serves whom.
        branched: whether its groups are branches of one model.
    """
    names = list(dict.fromkeys(t for g in groups for t in g))
    if choice == "single":
        return f"nothing to group: keep {_list(names)} alone."
    if choice == "joint":
        return f"nothing to group: share {_list(names)} in one model."
    parts, apart = [], []
    for i, group in enumerate(groups):
        served = [t for t in group if grouping is None or branched or grouping.serves[t] == i]
        beside = [t for t in group if t not in served]
        if len(group) == 1:
            apart.append(group[0])
        elif beside:
            parts.append(f"train {_list(served)} with {_list(beside)} beside {'it' if len(served) == 1 else 'them'}")
        else:
            parts.append(f"share {_list(served)}")
    if apart:
        parts.append(f"keep {_list(apart)} alone")
    return ", ".join(parts) + (" (as branches of one model)." if branched else ".")


def outcome(over: Mapping[str, Comparison]) -> str:
    """What the advised way is worth on the test parts, in a sentence; empty where nothing is known.

    Args:
        over: ``single`` and ``joint`` (those of them that are not advised) -> the advised way against it.
    """
    named = {"single": "one model per task", "joint": "one model for all"}
    said = []
    for other in ("single", "joint"):
        found = over.get(other)
        if found is None or found.delta_m is None:
            continue
        low, high = found.interval
        span = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        noted = clear_of_zero((low, high))
        said.append(f"{100 * found.delta_m:+.1f} %{span} against {named[other]}{f' ({noted})' if noted else ''}")
    return f"On the test parts, the mean over tasks: {' and '.join(said)}." if said else ""


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
