"""Is a difference more than noise? Corrected tests over re-drawn splits, deltas, and verdicts in words.

One engine, `compare`, serves our own comparisons and, through `compare_scores`, anyone's scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyheads.catalog import hint
from manyheads.metrics import Metric, Predicted, find, redraws
from manyheads.results import Comparison, Interval, Method, TaskComparison, Value

ALPHA = 0.05
SMALL = 0.05
"""Below this size of the baseline's mean a relative change means little, and delta is an absolute one."""
ABSOLUTE = frozenset({"r2"})
"""Metrics whose delta is always absolute."""
REFERENCES = ("constant", "linear", "boosting")
"""Methods that are shown beside the others, and not judged as ways of sharing."""
ASSUMED_RATIO = 0.25
"""Rows of test per row of training where a score table does not tell: an 80/20 split."""
_MOST_REPEATS = 1000
_MOST_SENTENCES = 6


class Change(NamedTuple):
    """A mean difference with its plain 95 % interval and two-sided p; `None` where there is nothing to judge by."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    """Repeats (or bootstrap draws) that it rests on."""


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


# ---- tests


def resampled_t(differences: ArrayLike, ratio: float | None = None) -> Change:
    r"""Student's t of paired differences over n repeats, corrected for splits that are re-drawn from the same rows.

    Training sets of re-drawn splits overlap, so that their differences are correlated and the plain variance of the
    mean is too small. With mean :math:`\bar d` and sample variance :math:`s^2`,

    .. math:: t = \bar d / \sqrt{(1/n + n_{test}/n_{train}) s^2}, \qquad n - 1 \text{ degrees of freedom.}

    Differences that are all the same number, and not 0, have no spread to judge by: there is no interval and no p.
    Differences that are all 0 give the interval [0, 0] and p = 1.

    Shape:
        differences: (n,); NaN are left out.

    Args:
        differences: one number per repeat.
        ratio: n_test / n_train; `None` or 0 for the plain paired t, which repeats on independent rows deserve.

    Raises:
        ValueError: the ratio is negative.

    Example:
        >>> test = resampled_t([1.0, 2.0, 3.0, 4.0], ratio=0.25)
        >>> round(test.mean, 3), round(test.p, 3)
        (2.5, 0.071)

    Reference:
        Inference for the Generalization Error. Nadeau, Bengio, 2003.
    """
    from scipy.special import stdtr, stdtrit

    if ratio is not None and not ratio >= 0:
        raise ValueError(f"`ratio` should be test rows per training row, not negative. Found {ratio}.")
    d = _floats(differences)
    d = d[~np.isnan(d)]
    n = len(d)
    if not n:
        return Change(None)
    mean = float(d.mean())
    if not d.any():
        return Change(0.0, 0.0, 0.0, 1.0, n) if n > 1 else Change(0.0, n=1)
    if n < 2 or float(np.ptp(d)) <= 1e-12 * float(np.abs(d).max()):
        return Change(mean, n=n)
    error = math.sqrt((1 / n + (ratio or 0.0)) * float(d.var(ddof=1)))
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Change(mean, mean - half, mean + half, p, n)


def holm(p: Sequence[float | None]) -> list[float | None]:
    r"""Adjusts p values for their number: of m, the i-th smallest becomes the running maximum of
    :math:`(m - i + 1) p_{(i)}`.

    Args:
        p: p values; `None` is no test, and does not count.

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]

    Reference:
        A Simple Sequentially Rejective Multiple Change Procedure. Holm, 1979.
    """
    there = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    running = 0.0
    for rank, (value, i) in enumerate(there):
        running = max(running, min(1.0, (len(there) - rank) * value))
        adjusted[i] = running
    return adjusted


def repeats_needed(
    differences: ArrayLike, ratio: float | None = None, alpha: float = ALPHA, power: float = 0.8
) -> int | None:
    r"""How many repeats would show a mean difference of the size seen, with the given power.

    The corrected t has non-centrality :math:`|\bar d| / (s \sqrt{1/n + n_{test}/n_{train}})`, which is bounded however
    many splits are drawn: rows, not repeats, may be what is missing.

    Args:
        differences: the repeats seen.
        ratio: as in `resampled_t`.
        alpha: the level that the p value has to reach.
        power: the probability of reaching it.

    Returns:
        The smallest number of repeats; `None` where there is no difference or no spread, or where 1,000 do not do.
    """
    from scipy.special import nctdtr, stdtrit

    d = _floats(differences)
    d = d[~np.isnan(d)]
    if len(d) < 2 or not d.mean() or not d.std():
        return None
    effect = abs(float(d.mean())) / float(d.std(ddof=1))

    def reached(n: int) -> bool:
        shift = min(effect / math.sqrt(1 / n + (ratio or 0.0)), 30.0)
        return 1 - float(nctdtr(n - 1, shift, float(stdtrit(n - 1, 1 - alpha / 2)))) >= power

    low, high = 1, 2
    while not reached(high):
        if high >= _MOST_REPEATS:
            return None
        low, high = high, min(2 * high, _MOST_REPEATS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


# ---- deltas


def is_absolute(single: ArrayLike, metric: str = "") -> bool:
    """Whether a task's delta is an absolute change: for R2, and where the baseline's mean over repeats is under 0.05.

    Args:
        single: the baseline's value in each repeat; NaN are left out.
        metric: the metric's name.
    """
    values = _floats(single)
    values = values[~np.isnan(values)]
    return metric in ABSOLUTE or not len(values) or abs(float(values.mean())) < SMALL


def delta(joint: ArrayLike, single: ArrayLike, greater_is_better: bool, absolute: bool = False) -> NDArray[np.float64]:
    r"""The signed change of the joint model against the single-task model in each repeat, positive = better.

    .. math:: \delta_r = \pm (J_r - S_r) / |\bar S|

    with + where greater is better, and :math:`\bar S` the mean of S over the repeats where it is defined;
    without the division where `absolute`. A negative baseline does not turn the sign round.

    Shape:
        joint, single: (n,); returns (n,), NaN where either is.

    Args:
        joint: J, the metric of the model under test.
        single: S, the metric of the baseline.
        greater_is_better: the metric's direction.
        absolute: from `is_absolute`, decided once per task.

    Raises:
        ValueError: lengths differ, or a relative change is asked of a baseline whose mean is 0.
    """
    j, s = _floats(joint), _floats(single)
    if j.shape != s.shape:
        raise ValueError(f"`joint` and `single` should have one number per repeat each. Found {j.shape} and {s.shape}.")
    change = j - s if greater_is_better else s - j
    there = s[~np.isnan(s)]
    if absolute or not len(there):
        return change
    size = abs(float(there.mean()))
    if size == 0:
        raise ValueError("A relative change needs a baseline that is not 0. Found a mean of 0: use `absolute=True`.")
    return change / size


def delta_m(deltas: Mapping[str, ArrayLike], ratio: float | None = None) -> Change:
    """The mean of the tasks' deltas: averaged over tasks within each repeat, then tested over repeats.

    A task that is undefined in every repeat is left out, and a repeat where another task is undefined too.

    Args:
        deltas: task -> one delta per repeat.
        ratio: as in `resampled_t`.
    """
    rows = [d for d in map(_floats, deltas.values()) if not np.isnan(d).all()]
    return resampled_t(np.stack(rows).mean(0), ratio) if rows else Change(None)


def mean_ranks(
    means: Mapping[str, Mapping[str, float | None]], greater_is_better: Mapping[str, bool]
) -> dict[str, float]:
    """The mean over tasks of each method's rank, 1 for the best; ties share the mean of their ranks.

    Args:
        means: method -> task -> its mean value. A task that some method has no value for is left out.
        greater_is_better: task -> direction.
    """
    tasks = [t for t in greater_is_better if all(values.get(t) is not None for values in means.values())]
    total = dict.fromkeys(means, 0.0)
    for task in tasks:
        sign = -1 if greater_is_better[task] else 1
        keys = {method: sign * float(values[task] or 0.0) for method, values in means.items()}
        for method, key in keys.items():
            before = sum(k < key for k in keys.values())
            same = sum(k == key for k in keys.values())
            total[method] += before + (same + 1) / 2
    return {method: value / len(tasks) for method, value in total.items()} if tasks else {}


def verdict(change: float | None, p: float | None, alpha: float = ALPHA) -> str:
    """The word for a change, from its Holm-adjusted p: ``helps``, ``hurts`` or ``undecided``."""
    if change is None or p is None or p >= alpha or change == 0:
        return "undecided"
    return "helps" if change > 0 else "hurts"


# ---- a fixed split: intervals over its test rows


def paired_draws(
    metric: Metric,
    y: ArrayLike,
    joint: Predicted,
    single: Predicted,
    groups: ArrayLike | None = None,
    **redraw: Any,
) -> tuple[float | None, NDArray[np.float64]]:
    """The delta of two models on a test set, and on bootstrap draws of its rows, the same rows for both.

    Shape:
        returns (delta, (draws,) deltas); NaN for the draws in which either is undefined.

    Args:
        metric, y, groups, redraw: as in `manyheads.metrics.redraws`.
        joint: what the model under test says.
        single: what the baseline says.
    """
    call = {k: v for k, v in redraw.items() if k in ("sample_weight", "known")}
    j, s = (metric(y, model, groups=groups, **call).value for model in (joint, single))
    a, b = (redraws(metric, y, model, groups=groups, **redraw) for model in (joint, single))
    if j is None or s is None:
        return None, np.full(len(a), np.nan)
    sign = 1 if metric.greater_is_better else -1
    size = 1.0 if is_absolute([s], metric.name) else abs(s)
    return sign * (j - s) / size, sign * (a - b) / size


def from_draws(change: float | None, draws: ArrayLike) -> Change:
    """The 95 % percentile interval and two-sided p of a change, from its bootstrap draws.

    p is twice the smaller share of draws on either side of 0, each counted with one draw more, so that it is never 0.
    """
    values = _floats(draws)
    there = values[~np.isnan(values)]
    if change is None or len(there) < 2 or 2 * len(there) < len(values):
        return Change(change, n=len(there))
    low, high = np.quantile(there, [ALPHA / 2, 1 - ALPHA / 2])
    side = 1 + min(int((there <= 0).sum()), int((there >= 0).sum()))
    return Change(change, float(low), float(high), min(1.0, 2 * side / (1 + len(there))), len(there))


def paired_bootstrap(
    metric: Metric,
    y: ArrayLike,
    joint: Predicted,
    single: Predicted,
    groups: ArrayLike | None = None,
    **redraw: Any,
) -> Change:
    """The delta of two models on one test set with its interval over rows (over groups where given).

    What it says holds for the two models as they were trained: another training set is not part of it. For delta-m
    over tasks, average the tasks' `paired_draws` draw by draw and hand them to `from_draws`.

    Args:
        metric, y, joint, single, groups, redraw: as in `paired_draws`.
    """
    return from_draws(*paired_draws(metric, y, joint, single, groups, **redraw))


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
    means = {n: {t: _mean(m.values.get(t, ())) for t in tasks} for n, m in given.items()}

    changes: dict[str, dict[str, NDArray[np.float64]]] = {}
    found: dict[tuple[str, str], Change] = {}
    absolutes: dict[tuple[str, str], bool] = {}
    for name in judged:
        changes[name] = {}
        for task, direction in tasks.items():
            joint, single = (_row(given[n], task, n_repeats) for n in (name, baseline))
            absolute = is_absolute(single, direction.metric)
            absolutes[name, task] = absolute
            changes[name][task] = delta(joint, single, direction.greater_is_better, absolute)
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
        return f"{reason}; even {_MOST_REPEATS:,} {unit}s would not show a change of this size, more rows might."
    return f"{reason}; about {max(count, test.n + 1)} {unit}s would be needed to see a change of this size."


def _count(n: int, noun: str) -> str:
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
            f"`{name}` against `{baseline}`: helps {_count(counts['helps'], 'task')}, hurts {counts['hurts']}, "
            f"undecided {counts['undecided']}"
        )
        m = overall[name]
        if m.mean is not None:
            sentence += f"; delta-m {100 * m.mean:+.1f} %"
            if m.low is not None and m.high is not None:
                sentence += f" [{100 * m.low:+.1f} %, {100 * m.high:+.1f} %]"
        sentences.append(sentence + ".")
    helping = {name: [t for t, c in tasks.items() if c.verdict == "helps"] for name, tasks in rows.items()}
    winners = [name for name, tasks in helping.items() if tasks]
    if not winners:
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
            f"Boosting has the best mean on {wins} of {_count(len(decided), 'task')}: use separate boosters."
        )
    return " ".join(sentences)


# ---- small pieces


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    """Numbers as float64; `None` becomes NaN."""
    return np.asarray(values, dtype=np.float64)


def _row(method: Method, task: str, n: int) -> NDArray[np.float64]:
    values = method.values.get(task)
    return np.full(n, np.nan) if values is None else _floats(values)  # type: ignore[arg-type]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _best(values: Mapping[str, float | None], greater_is_better: bool) -> str | None:
    there = {n: v for n, v in values.items() if v is not None}
    if not there:
        return None
    return (max if greater_is_better else min)(there, key=lambda n: there[n])


# ---- anyone's scores

_COLUMNS = ("task", "method", "split", "seed", "value")


def compare_scores(frame: Any, baseline: str = "single", ratio: float | None = None) -> Verdicts:
    """The verdicts on a table of scores from any library.

    Seeds are averaged within a split, and splits are the repeats. With one split only, seeds are the repeats, and the
    protocol says that other rows are not part of the claim. An empty value is a metric that was undefined.

    Args:
        frame: a pandas DataFrame with the columns ``task, method, split, seed, value``, and optionally ``metric`` or
            ``greater_is_better`` (without either, greater is taken to be better, and the summary says so) and
            ``n_train, n_test``, the rows of each split.
        baseline: the method that the others are compared with.
        ratio: test rows per training row of the splits; 0 for splits that share no rows. `None` takes it from
            ``n_test`` and ``n_train``, or assumes an 80/20 split and says so.

    Raises:
        ValueError: a column is missing, a row is wrong (it is named, counted from 1 below the header), a pair of rows
            says the same thing twice, or the baseline is missing.
    """
    rows = _read(frame)
    tasks = {task: _direction(task, [r for r in rows if r["task"] == task]) for task in _unique(rows, "task")}
    names, splits, seeds = (_unique(rows, column) for column in ("method", "split", "seed"))
    several = len(splits) > 1
    repeats = splits if several else seeds
    cells: dict[tuple[str, str, str], list[float]] = {}
    for r in rows:
        if r["value"] is not None:
            cells.setdefault((r["method"], r["task"], r["split" if several else "seed"]), []).append(r["value"])
    methods = [
        Method(
            name=name,
            values={
                task: tuple(_mean(cells.get((name, task, repeat), ())) for repeat in repeats)
                for task in tasks
                if any((name, task, repeat) in cells for repeat in repeats)
            },
        )
        for name in names
    ]
    ratios: float | dict[str, float | None] | None
    if not several:
        ratios = None
        protocol = (
            f"All scores come from one split: the intervals cover {_count(len(seeds), 'seed')} and nothing else. They "
            "say nothing about other training or test rows; re-draw the split for that."
        )
    else:
        protocol = f"{len(splits)} splits"
        protocol += f", {len(seeds)} seeds averaged within each" if len(seeds) > 1 else ""
        if ratio is not None:
            ratios = ratio
            protocol += f"; {ratio:.3g} test rows per training row, as given."
        elif {"n_train", "n_test"} <= set(rows[0]):
            ratios = {t: float(np.mean([r["n_test"] / r["n_train"] for r in rows if r["task"] == t])) for t in tasks}
            protocol += "; test rows per training row from `n_test` and `n_train`."
        else:
            ratios = ASSUMED_RATIO
            protocol += (
                f"; {ASSUMED_RATIO} test rows per training row assumed (no columns `n_train` and `n_test`): right for "
                "re-drawn 80/20 splits, cautious for splits that share no rows."
            )
        protocol += " Intervals by the corrected resampled t (plain 95 %); verdicts by Holm's adjustment."
    result = compare(methods, tasks, baseline, ratios, protocol=protocol, unit="split" if several else "seed")
    remark = ""
    if not {"metric", "greater_is_better"} & set(rows[0]):
        remark = " Greater was taken to be better on every task: a column `metric` or `greater_is_better` would say."
    if not several:
        remark += " This is about seeds on one split, not about other rows."
    if not remark:
        return result
    return result.model_copy(
        update={
            "summary": result.summary + remark,
            "comparisons": {
                n: c.model_copy(update={"summary": c.summary + remark}) for n, c in result.comparisons.items()
            },
        }
    )


def _unique(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    return list(dict.fromkeys(r[column] for r in rows))


def _missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType") or value == ""


def _read(frame: Any) -> list[dict[str, Any]]:
    """The table's rows as plain values, checked."""
    columns = [str(c) for c in frame.columns]
    for column in _COLUMNS:
        if column not in columns:
            raise ValueError(
                f"A score table should have the columns {', '.join(_COLUMNS)}. Column `{column}` is missing; "
                f"found {', '.join(columns) or 'none'}."
            )
    for one, other in (("n_train", "n_test"), ("n_test", "n_train")):
        if one in columns and other not in columns:
            raise ValueError(f"`n_train` and `n_test` go together. Column `{other}` is missing.")
    wanted = [*_COLUMNS, *(c for c in ("metric", "greater_is_better", "n_train", "n_test") if c in columns)]
    lists = {c: frame.iloc[:, columns.index(c)].tolist() for c in wanted}
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], int] = {}
    for i in range(len(frame)):
        row = {c: lists[c][i] for c in wanted}
        for column in ("task", "method", "split", "seed"):
            if _missing(row[column]):
                raise ValueError(f"Every score should have a {column}. Row {i + 1} has none.")
            row[column] = str(row[column])
        row["value"] = None if _missing(row["value"]) else _number(row["value"], "value", i)
        for column in ("n_train", "n_test"):
            if column in row:
                row[column] = 0.0 if _missing(row[column]) else _number(row[column], column, i)
                if row[column] <= 0:
                    raise ValueError(
                        f"`{column}` should be a positive number of rows. Row {i + 1} has {lists[column][i]!r}."
                    )
        key = tuple(row[c] for c in ("task", "method", "split", "seed"))
        if key in seen:
            raise ValueError(
                f"Each task, method, split and seed should have one score. Rows {seen[key]} and {i + 1} are both for "
                f"{', '.join(key)}."
            )
        seen[key] = i + 1
        rows.append(row)
    if not rows:
        raise ValueError("A score table should have rows. Found none.")
    return rows


def _number(value: Any, column: str, i: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{column}` should be a finite number, or empty. Row {i + 1} has {value!r}.")
    return number


_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}


def _direction(task: str, rows: Sequence[Mapping[str, Any]]) -> Direction:
    names = list(dict.fromkeys(str(r["metric"]) for r in rows if "metric" in r and not _missing(r["metric"])))
    if len(names) > 1:
        raise ValueError(f"Each task should have one metric. Task `{task}` has {', '.join(names)}.")
    name = names[0] if names else "value"
    if "greater_is_better" in rows[0]:
        said = list(dict.fromkeys(str(r["greater_is_better"]).strip().lower() for r in rows))
        if len({_TRUTH.get(s) for s in said}) > 1 or said[0] not in _TRUTH:
            raise ValueError(
                f"`greater_is_better` should be true or false, the same throughout a task. Task `{task}` has "
                f"{', '.join(said)}."
            )
        return Direction(name, _TRUTH[said[0]])
    if "metric" not in rows[0]:
        return Direction(name, True)
    if not names:
        raise ValueError(f"Each task should name its metric. Task `{task}` has none in the column `metric`.")
    try:
        return Direction(name, find(name).greater_is_better)
    except ValueError as unknown:
        raise ValueError(
            f"{unknown} Task `{task}` names it; for a metric of your own add a column `greater_is_better`."
        ) from None
