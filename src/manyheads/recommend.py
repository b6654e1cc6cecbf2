"""What to share: the choice among methods that were trained, what was promised against what came, and the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .results import Grouping, Method, Number
from .statistics import delta, floats, is_absolute
from .verdicts import Direction

Groups = tuple[tuple[str, ...], ...]
BRANCHED = ", branched"
"""What stands behind a grouping's name where its groups are branches of one model."""


def chosen(methods: Mapping[str, Method], tasks: Mapping[str, Direction]) -> tuple[str, dict[str, Number], str]:
    """The method to recommend, by what all are worth on validation: (its name, delta-m of each, why).

    Args:
        methods: ``single`` among them, with values on validation and parameters.
        tasks: task -> metric and direction.
    """
    single = methods["single"]
    rows = {}
    for name, method in methods.items():
        deltas = []
        for task, direction in tasks.items():
            own, base = floats(method.values[task]), floats(single.values[task])  # type: ignore[arg-type]
            absolute = is_absolute(base, direction.metric)
            deltas.append(delta(own, base, direction.greater_is_better, absolute, direction.metric))
        there = [d for d in deltas if not np.isnan(d).all()]
        rows[name] = np.mean(there, axis=0) if there else np.zeros(len(next(iter(single.values.values()), ())))
    means = {name: float(np.nanmean(row)) if not np.isnan(row).all() else 0.0 for name, row in rows.items()}
    top = max(means, key=lambda name: means[name])
    for name in sorted(methods, key=lambda name: methods[name].parameters or 0):
        gap = rows[top] - rows[name]
        gap = gap[~np.isnan(gap)]
        spread = float(gap.std(ddof=1)) if len(gap) > 1 else 0.0
        error = spread / max(len(gap), 1) ** 0.5
        if name == top or means[top] - means[name] <= error:
            said = ", ".join(f"`{n}` {100 * m:+.1f} %" for n, m in means.items())
            why = f"On validation, the mean over tasks against single-task models: {said}."
            if name != top:
                why += f" `{name}` is simpler than `{top}` and within a standard error of it ({100 * error:.1f} %)."
            return name, dict(means), why
    raise AssertionError("the best method is within a standard error of itself")


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


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
