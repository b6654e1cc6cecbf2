"""Verdicts in words: every method against a baseline, on every task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .catalog import hint
from .metrics import METRICS
from .results import Comparison, Interval, Method, Number, TaskComparison, Value
from .statistics import (
    ALPHA,
    MOST_REPEATS,
    Change,
    delta,
    delta_m,
    floats,
    holm,
    is_absolute,
    mean_ranks,
    repeats_needed,
    resampled_t,
)

REFERENCES = ("constant", "linear", "boosting")
"""Methods that are shown beside the others, and not judged as ways of sharing."""
PLAIN = ("joint", "single")
"""What is done where nothing else is known to be better: one model for all tasks, or one for each."""
CLEAR = "clear of 0"
_MOST_SENTENCES = 6


class Direction(NamedTuple):
    """A task's metric and which way is up."""

    metric: str
    greater_is_better: bool


class Verdicts(Value):
    """Every method against the baseline."""

    baseline: str
    comparisons: dict[str, Comparison]
    ranks: dict[str, float]
    """Mean rank over the tasks (1 = best) of all methods, the baseline among them."""
    summary: str
    protocol: str = ""


def verdict(change: float | None, p: float | None, alpha: float = ALPHA) -> str:
    """The word for a change, from its Holm-adjusted p: ``helps``, ``hurts`` or ``undecided``."""
    if change is None or p is None or p >= alpha or change == 0:
        return "undecided"
    return "helps" if change > 0 else "hurts"


# ---- the engine


def compare(
    methods: Iterable[Method],
    tasks: Mapping[str, Direction],
    baseline: str = "single",
    ratio: float | Mapping[str, float | None] | None = None,
    tests: Mapping[tuple[str, str], Change] | None = None,
    protocol: str = "",
    unit: str = "repeat",
) -> Verdicts:
    """Every method against a baseline, on every task: deltas, intervals, p values, verdicts, and all of it in words.

    The p values are Holm-adjusted over everything that is judged at once: all tasks, of all methods that are neither
    the baseline nor a reference (constant, linear, boosting). Where there are references only, those are judged.

    Args:
        methods: the scores, each a number per repeat and task; repeats correspond between methods.
        tasks: task -> its metric and direction.
        baseline: the name of the method that the others are compared with.
        ratio: test rows per training row, for the corrected resampled t; `None` for repeats on independent rows.
            One number, or one per task (their largest serves delta-m).
        tests: (method, task) -> a test to use instead of the resampled t, such as `paired_bootstrap`'s; the delta-m of
            a method stands under the task ``""``.
        protocol: what was re-drawn and what the intervals cover, in words.
        unit: the word for one repeat.

    Raises:
        ValueError: the baseline is missing, there is nothing beside it, or a method's repeats are not as many.
    """
    given = {m.name: m for m in methods}
    names = list(given)
    if baseline not in given:
        raise ValueError(f"The baseline `{baseline}` should be one of the methods. {hint(baseline, names)}")
    if len(given) < 2:
        raise ValueError(f"A comparison needs two methods or more. Found `{baseline}` alone.")
    lengths = {len(v) for m in given.values() for v in m.values.values()}
    if len(lengths) > 1:
        raise ValueError(f"Every method and task should have a value per repeat. Found {sorted(lengths)} repeats.")
    n_repeats = max(lengths, default=0)
    judged = [n for n in names if n != baseline and n not in REFERENCES] or [n for n in names if n != baseline]
    ratios = {t: ratio.get(t) if isinstance(ratio, Mapping) else ratio for t in tasks}
    widest = max((r for r in ratios.values() if r is not None), default=None)
    means = {n: {t: mean_of(m.values.get(t, ())) for t in tasks} for n, m in given.items()}

    changes: dict[str, dict[str, NDArray[np.float64]]] = {}
    found: dict[tuple[str, str], Change] = {}
    absolutes: dict[tuple[str, str], bool] = {}
    for name in judged:
        changes[name] = {}
        for task, direction in tasks.items():
            joint, single = (_row(given[n], task, n_repeats) for n in (name, baseline))
            absolute = is_absolute(single, direction.metric)
            absolutes[name, task] = absolute
            changes[name][task] = delta(joint, single, direction.greater_is_better, absolute, direction.metric)
            found[name, task] = (tests or {}).get((name, task)) or resampled_t(changes[name][task], ratios[task])
    keys = list(found)
    adjusted = dict(zip(keys, holm([found[k].p for k in keys]), strict=True))
    family = sum(found[k].p is not None for k in keys)

    best = {t: _best({n: means[n][t] for n in names}, d.greater_is_better) for t, d in tasks.items()}
    comparisons = {}
    for name in judged:
        rows = {}
        for task, direction in tasks.items():
            test, p = found[name, task], adjusted[name, task]
            word = verdict(test.mean, p)
            own = (tests or {}).get((name, task)) is not None
            rows[task] = TaskComparison(
                metric=direction.metric,
                greater_is_better=direction.greater_is_better,
                joint=means[name][task],
                single=means[baseline][task],
                **{r: means[r][task] if r in means else None for r in REFERENCES},
                delta=test.mean,
                interval=(test.low, test.high),
                p=p,
                verdict=word,
                absolute=absolutes[name, task],
                best=best[task],
                skills=_skills(direction.metric, {n: means[n][task] for n in names}),
                why=_explain(
                    test, p, word, absolutes[name, task], family, unit,
                    None if own else partial(repeats_needed, changes[name][task], ratios[task], ALPHA / max(family, 1)),
                ),
            )  # fmt: skip
        overall = (tests or {}).get((name, "")) or delta_m(changes[name], widest)
        interval: Interval = (overall.low, overall.high)
        comparisons[name] = Comparison(
            tasks=rows,
            delta_m=overall.mean,
            interval=interval,
            repeats=n_repeats,
            methods=tuple(given.values()),
            summary=_summary({name: rows}, {name: overall}, baseline, best),
            protocol=protocol,
        )
    return Verdicts(
        baseline=baseline,
        comparisons=comparisons,
        ranks=mean_ranks(means, {t: d.greater_is_better for t, d in tasks.items()}),
        summary=_summary(
            {n: c.tasks for n, c in comparisons.items()},
            {n: Change(c.delta_m, *c.interval) for n, c in comparisons.items()},
            baseline,
            best,
        ),
        protocol=protocol,
    )


# ---- words


def _percent(value: float, absolute: bool) -> str:
    return f"{value:+.3f}" if absolute else f"{100 * value:+.1f} %"


def _interval(test: Change, absolute: bool) -> str:
    assert test.low is not None
    assert test.high is not None
    return f"[{_percent(test.low, absolute)}, {_percent(test.high, absolute)}]"


def _explain(
    test: Change,
    p: float | None,
    word: str,
    absolute: bool,
    family: int,
    unit: str,
    needed: Callable[[], int | None] | None,
) -> str:
    if test.mean is None:
        return "undecided: there is no pair of values to compare."
    if p is None or test.low is None or test.high is None:
        if test.n < 2:
            return f"undecided: one {unit} ({_percent(test.mean, absolute)}) has no spread to judge by; run more."
        return (
            f"undecided: all {test.n} {unit}s show the same change ({_percent(test.mean, absolute)}), which leaves no "
            "spread to judge by; vary the split."
        )
    change, span = _percent(test.mean, absolute), _interval(test, absolute)
    if word != "undecided":
        return f"{word}: {change}, interval {span}, p = {p:.2g}" + (
            f" for {family} comparisons." if family > 1 else "."
        )
    if test.low == test.high == 0:
        return "undecided: there is no difference in any repeat."
    if test.low <= 0 <= test.high:
        reason = f"undecided: the interval {span} includes 0"
    else:
        reason = (
            f"undecided: the interval {span} excludes 0, but with {family} comparisons p = {p:.2g} is not under {ALPHA}"
        )
    if needed is None:
        return f"{reason}; more test rows would tell."
    count = needed()
    if count is None:
        return f"{reason}; even {MOST_REPEATS:,} {unit}s would not show a change of this size, more rows might."
    return f"{reason}; about {max(count, test.n + 1)} {unit}s would be needed to see a change of this size."


def counted(n: int, noun: str) -> str:
    """The number and its noun: 1 task, 2 tasks."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _summary(
    rows: Mapping[str, Mapping[str, TaskComparison]],
    overall: Mapping[str, Change],
    baseline: str,
    best: Mapping[str, str | None],
) -> str:
    sentences = []
    for name, tasks in rows.items() if len(rows) <= _MOST_SENTENCES else ():
        counts = {w: sum(c.verdict == w for c in tasks.values()) for w in ("helps", "hurts", "undecided")}
        sentence = (
            f"`{name}` against `{baseline}`: helps {counted(counts['helps'], 'task')}, hurts {counts['hurts']}, "
            f"undecided {counts['undecided']}"
        )
        m = overall[name]
        if m.mean is not None:
            sentence += f"; delta-m {100 * m.mean:+.1f} %"
            if m.low is not None and m.high is not None:
                sentence += f" [{100 * m.low:+.1f} %, {100 * m.high:+.1f} %], {clear_of_zero((m.low, m.high))}"
        sentences.append(sentence + ".")
    helping = {name: [t for t, c in tasks.items() if c.verdict == "helps"] for name, tasks in rows.items()}
    winners = [name for name, tasks in helping.items() if tasks]
    means = [name for name, m in overall.items() if m.low is not None and m.low > 0]
    if not winners and means:
        said = ", ".join(f"`{name}`" for name in means)
        sentences.append(f"No method beat `{baseline}` beyond noise on one task; on the mean of all {said} did.")
    elif not winners:
        sentences.append(f"No method beat `{baseline}` beyond noise.")
    elif len(rows) > 1:
        beaten = "; ".join(f"`{n}` on {', '.join(helping[n])}" for n in winners)
        sentences.append(f"Beyond noise, `{baseline}` was beaten by {beaten}.")
    hurt = [t for t in best if all(tasks[t].verdict == "hurts" for tasks in rows.values())]
    if hurt and baseline == "single":
        sentences.append(f"Sharing hurts {', '.join(hurt)}: give {'it' if len(hurt) == 1 else 'them'} a model apart.")
    decided = [b for b in best.values() if b is not None]
    wins = decided.count("boosting")
    if wins and wins >= len(decided) - len(decided) // 5:
        sentences.append(
            f"Boosting has the best mean on {wins} of {counted(len(decided), 'task')} (means alone, not tested): "
            "use separate boosters."
        )
    return " ".join(sentences)


# ---- small pieces


def _row(method: Method, task: str, n: int) -> NDArray[np.float64]:
    values = method.values.get(task)
    return np.full(n, np.nan) if values is None else floats(values)  # type: ignore[arg-type]


def clear_of_zero(interval: Interval) -> str:
    """What an interval says of 0, in words; nothing where there is no interval.

    Args:
        interval: (low, high).
    """
    low, high = interval
    if low is None or high is None:
        return ""
    return CLEAR if low > 0 or high < 0 else "within noise"


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values there are; `None` where there are none."""
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _skills(metric: str, values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Method -> skill; nothing for a metric that nobody knows, or without a constant."""
    known = METRICS.get(metric)
    skills = {} if known is None else {n: known.skill(v, values.get("constant")) for n, v in values.items()}
    return skills if any(v is not None for v in skills.values()) else {}


def _best(values: Mapping[str, float | None], greater_is_better: bool) -> str | None:
    there = {n: v for n, v in values.items() if v is not None}
    if not there:
        return None
    return (max if greater_is_better else min)(there, key=lambda n: there[n])


def chosen(methods: Mapping[str, Method], tasks: Mapping[str, Direction]) -> tuple[str, dict[str, Number], str]:
    r"""The method to recommend, by what all are worth on validation: (its name, delta-m of each, why).

    All together and all alone (``joint`` and ``single``) need no proof. Of these two the simpler is taken, the one with
    fewer parameters, unless the other is better by more than a standard error of their paired difference over repeats.
    Anything else has to beat both: a single proposal by more than a standard error, the best of m different ones by
    what is as rare for the best of m, :math:`z_{1 - .16 / m}` standard errors (1.4 for two, 1.6 for three). Of those
    that do, the simplest within a standard error of the best is taken. Where there is no ``joint``, no method has to
    prove itself.

    Args:
        methods: ``single`` among them, with values on validation and parameters.
        tasks: task -> metric and direction.

    Reference:
        The standard-error rule: Classification and Regression Trees, Breiman, Friedman, Olshen, Stone, 1984.
    """
    rows = _over_single(methods, tasks)
    means = {name: float(np.nanmean(row)) if not np.isnan(row).all() else 0.0 for name, row in rows.items()}
    plain = [name for name in PLAIN if name in methods] if "joint" in methods else list(methods)
    name, why = _simplest(plain, methods, rows, means)
    proposals = [n for n in methods if n not in plain]
    different = len({rows[n].tobytes() for n in proposals})

    def ahead(proposal: str, other: str) -> bool:
        lead, error = _paired(rows[proposal], rows[other])
        return lead > error * _chance(different)

    proven = [p for p in proposals if all(ahead(p, other) for other in plain)]
    if proven:
        name, why = _simplest(proven, methods, rows, means)
    elif proposals:
        top = max(proposals, key=lambda n: means[n])
        if means[top] > means[name]:
            best = f"the best of {different} proposals" if different > 1 else "the only proposal"
            why += f" `{top}`, {best}, does not lead both plain ways by more than chance can."
    said = ", ".join(f"`{n}` {100 * m:+.1f} %" for n, m in means.items())
    return name, dict(means), f"On validation, the mean over tasks against single-task models: {said}.{why}"


def _over_single(methods: Mapping[str, Method], tasks: Mapping[str, Direction]) -> dict[str, NDArray[np.float64]]:
    """Method -> per repeat, the mean over tasks of its change over single-task models."""
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
    return rows


def _paired(own: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """The mean difference over the repeats that have both, and its standard error."""
    gap = own - other
    gap = gap[~np.isnan(gap)]
    error = float(gap.std(ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return float(gap.mean()) if len(gap) else 0.0, error


def _chance(proposals: int) -> float:
    """How many standard errors the best of some leads by as rarely as a single one by one."""
    from scipy.stats import norm

    return float(norm.isf(norm.sf(1) / proposals))


def _simplest(
    names: Sequence[str],
    methods: Mapping[str, Method],
    rows: Mapping[str, NDArray[np.float64]],
    means: Mapping[str, float],
) -> tuple[str, str]:
    """The method with the fewest parameters within a standard error of the best, and why, if it is not the best."""
    top = max(names, key=lambda name: means[name])
    for name in sorted(names, key=lambda name: methods[name].parameters or 0):
        _, error = _paired(rows[top], rows[name])
        if name == top:
            return name, ""
        if means[top] - means[name] <= error:
            return name, f" `{name}` is simpler than `{top}` and within a standard error of it ({100 * error:.1f} %)."
    raise AssertionError("the best method is within a standard error of itself")
