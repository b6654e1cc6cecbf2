"""What a page about sharing shows, as it is printed: relatedness, groups, methods, label fractions, tuning, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import correlation

from markupsafe import Markup

from manyheads.report import charts, figures
from manyheads.report.charts import Course, Dot
from manyheads.report.words import NONE, change, decimals, number, signed
from manyheads.results import Comparison, Evidence, Grouping, Relatedness, TunedSide

MOST = 30
"""Tasks that a matrix has at most, and a figure with a card for each task 12."""
CARDS = 12
SPARKS = 8
"""Tasks up to which a matrix shows the course over the time of training."""


@dataclass(frozen=True)
class Cell:
    """A number of a matrix, how dark it stands (0 to 1), its interval and its course over training."""

    text: str
    share: float
    kind: str = ""
    span: str = ""
    sure: bool = False
    course: Markup | str = ""


@dataclass(frozen=True)
class Sheet:
    """What one estimator says: a matrix, its tree, and the groups that it speaks for."""

    found: Relatedness
    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    left_out: str
    tree: Markup | str
    joins: tuple[tuple[str, str, str], ...]
    groups: str
    courses: str


@dataclass(frozen=True)
class Groups:
    """A grouping, task by task: a sign for each group, the promise, and what came of it."""

    name: str
    chosen: bool
    grouping: Grouping
    rows: tuple[tuple[str, tuple[str, ...], str, str], ...]
    agreement: str
    drawing: Markup | str
    keys: str


@dataclass(frozen=True)
class Front:
    """A Pareto view of two tasks."""

    drawing: Markup
    rows: tuple[tuple[str, str, str, str], ...]
    heading: tuple[str, str, str]


class SharingView:
    """The page of some evidence, section by section; what was not looked at is empty."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.sheets = [_sheet(found, evidence) for found in evidence.relatedness]
        study = evidence.study
        self.study = study
        names = [] if study is None else sorted(study.groupings, key=lambda name: name != study.choice)
        self.groupings = [_groups(name, evidence) for name in names]
        self.comparisons = dict(evidence.comparisons)
        if study is not None:
            self.comparisons |= {name: c for name, c in study.comparisons.items() if name != "single"}
        known = {name: c for name, c in self.comparisons.items() if any(t.delta is not None for t in c.tasks.values())}
        self.drawn = known
        self.curves, self.curves_left, self.curve_rows = _curves(evidence)
        self.fronts = [f for f in (_of_trials(evidence), _of_methods(evidence, self.comparisons)) if f is not None]
        self.sides = [_side(side) for side in evidence.tuned.sides] if evidence.tuned is not None else []
        self.search = _search(evidence)
        self.costs = _costs(evidence, self.comparisons)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(id, heading) of what there is."""
        there = (
            ("related", "How related the tasks are", self.sheets),
            ("groups", "Groups that were trained", self.groupings),
            ("methods", "Every method against single-task models", self.drawn),
            ("labels", "With fewer labels", self.curves),
            ("pareto", "Two tasks at once", self.fronts),
            ("tuned", "Settings that were tried", self.sides),
            ("cost", "What it cost", self.costs),
            ("settings", "Settings", self.evidence.settings),
            ("environment", "Environment", self.evidence.environment),
        )
        return [(id, heading) for id, heading, found in there if found]

    @property
    def lead(self) -> str:
        """The finding in a sentence."""
        if self.study is not None:
            text = self.study.recommendation
            return text[:1].upper() + text[1:]
        if self.comparisons:
            return next((c.summary for c in self.comparisons.values() if c.summary), "")
        advised = {s.groups for s in self.sheets if s.groups}
        if len(self.sheets) > 1 and len(advised) == 1:
            return f"All {len(self.sheets)} estimators speak for the same groups: {advised.pop()}."
        if len(advised) > 1:
            return "The estimators do not agree on who belongs together; training groups decides."
        return ""

    @property
    def absolute(self) -> bool:
        """Whether a delta on the page is an absolute difference."""
        return any(t.absolute for c in self.drawn.values() for t in c.tasks.values())


# ---- relatedness


def _sheet(found: Relatedness, evidence: Evidence) -> Sheet:
    grown = evidence.trees.get(found.method)
    fits = grown is not None and grown.tasks == found.tasks
    order = list(grown.leaves) if grown is not None and fits else list(range(len(found.tasks)))
    left_out = f"Shown: {MOST} of {len(order)} tasks; report.json has them all." if len(order) > MOST else ""
    order = order[:MOST]
    values = [v for i in order for j in order if i != j and (v := found.matrix[i][j]) is not None]
    signed_scale = found.gain or min(values, default=0.0) < 0
    low = 0.0 if signed_scale else min(values, default=0.0)
    high = max((abs(v) for v in values), default=1.0)
    places = decimals([high])
    seen = [v for w in found.windows for row in w.matrix for v in row if v is not None]
    sparks = len(found.windows) > 2 and len(order) <= SPARKS and len(seen) > 0

    def cell(i: int, j: int) -> Cell:
        if i == j:
            own = found.own[i] if i < len(found.own) else None
            return Cell(_signed(own, places) if found.gain else number(own, places), 0.0, "own")
        value, a, b = found.matrix[i][j], found.low[i][j], found.high[i][j]
        if value is None:
            return Cell("?", 0.0)
        show = _signed if signed_scale else number
        span = f"[{show(a, places)}, {show(b, places)}]" if a is not None and b is not None else ""
        share = (abs(value) - low) / (high - low) if high > low else 0.0
        course: Markup | str = ""
        if sparks:
            course = figures.spark([w.matrix[i][j] for w in found.windows], min(seen), max(seen))
        sure = found.gain and a is not None and b is not None and (a > 0 or b < 0)
        return Cell(show(value, places), share, "against" if value < 0 else "", span, sure, course)

    drawn = grown is not None and fits and 1 < len(grown.tasks) <= 2 * MOST
    return Sheet(
        found,
        tuple(found.tasks[i] for i in order),
        tuple((found.tasks[i], tuple(cell(i, j) for j in order)) for i in order),
        left_out,
        charts.tree(grown, found.gain) if grown is not None and drawn else "",
        tuple((a, b, number(h)) for a, b, h in charts.joins(grown)) if grown is not None and drawn else (),
        _told(evidence.advised[found.method]) if found.method in evidence.advised else "",
        f"from {number(min(seen))} (bottom) to {number(max(seen))} (top)" if sparks else "",
    )


def _signed(value: float | None, places: int) -> str:
    return signed(value, places)


def _told(grouping: Grouping) -> str:
    """The groups in words."""
    return "; ".join(" + ".join(group) for group in grouping.groups)


# ---- groups


def _groups(name: str, evidence: Evidence) -> Groups:
    study = evidence.study
    assert study is not None
    grouping, came = study.groupings[name], study.realised.get(name, {})
    judged = study.comparisons.get(name)
    absolute = {} if judged is None else {task: found.absolute for task, found in judged.tasks.items()}
    places = decimals([v for v in grouping.gains.values() if v is not None])
    rows, dots, keys = [], [], []
    for n, task in enumerate(grouping.serves, start=1):
        at = grouping.serves[task]
        signs = tuple("●" if i == at else "○" if task in group else "" for i, group in enumerate(grouping.groups))
        promise, real = grouping.gains.get(task), came.get(task)
        rows.append((task, signs, signed(promise, places), change(real, absolute.get(task, False))))
        if promise is not None and real is not None:
            dots.append(Dot(promise, 100 * real, str(n), "front"))
            keys.append(f"{n} {task}")
    rho = study.agreement.get(name)
    words = f"Predicted against realised gain of {len(dots)} tasks; rank correlation {number(rho, 2)}."
    drawing: Markup | str = ""
    if len(dots) > 1:
        drawing = charts.scatter(
            name, dots, x_name="predicted gain", y_name="realised change, %", words=words, zero=True, rank=4
        )
    agreed = "" if rho is None else f"Rank correlation of predicted and realised gains over tasks: {number(rho, 2)}."
    return Groups(name, name == study.choice, grouping, tuple(rows), agreed, drawing, ", ".join(keys))


# ---- label fractions


def _curves(evidence: Evidence) -> tuple[list[Markup], str, list[tuple[str, str, str, tuple[str, ...]]]]:
    found = evidence.fractions
    if found is None or not found.comparisons:
        return [], "", []
    tasks = list(found.comparisons[-1].tasks)
    methods = [m.name for m in found.comparisons[-1].methods][:4]
    cards, rows = [], []
    for task in tasks:
        metric = found.comparisons[-1].tasks[task].metric
        courses = []
        for method in methods:
            points = []
            for share, comparison in zip(found.shares, found.comparisons, strict=True):
                own = next((m.values.get(task, ()) for m in comparison.methods if m.name == method), ())
                known = [v for v in own if v is not None]
                mean = sum(known) / len(known) if known else None
                points.append((share, mean, min(known, default=None), max(known, default=None)))
            if any(mean is not None for _, mean, _, _ in points):
                courses.append(Course(method, tuple(points)))
                cells = (f"{number(m)} [{number(a)}, {number(b)}]" if m is not None else NONE for _, m, a, b in points)
                rows.append((task, metric, method, tuple(cells)))
        if courses and len(cards) < CARDS:
            words = (
                f"{task}, {metric}, from {100 * found.shares[0]:g} % to {100 * found.shares[-1]:g} % of the labels: "
            )
            words += "; ".join(f"{c.name} from {number(c.points[0][1])} to {number(c.points[-1][1])}" for c in courses)
            cards.append(
                charts.bands(task, courses, x_name="labels known", y_name=metric, words=f"{words}.", log=True, rank=3)
            )
    left = f"Shown: {CARDS} of {len(tasks)} tasks; the table has them all." if len(tasks) > CARDS else ""
    return cards, left, rows


# ---- two tasks at once


def _of_trials(evidence: Evidence) -> Front | None:
    tuned = evidence.tuned
    if tuned is None:
        return None
    trials = [(side, t) for side in tuned.sides if side.task is None for t in side.trials if len(t.values) > 1]
    pair = _pair(evidence, [t.values for _, t in trials])
    if pair is None:
        return None
    a, b = pair
    there = [
        (s, t, x, y) for s, t in trials if (x := t.values.get(a)) is not None and (y := t.values.get(b)) is not None
    ]
    best = _undominated([(x, y) for _, _, x, y in there])
    dots, rows = [], []
    many = len({s.name for s, _ in trials}) > 1
    for (side, trial, x, y), front in zip(there, best, strict=True):
        chosen = trial.number == side.best
        kind = "chosen" if chosen else "front" if front else "plain"
        named = f"{side.name} {trial.number}" if many else f"trial {trial.number}"
        dots.append(Dot(x, y, f"{trial.number}" if kind != "plain" else "", kind))
        rows.append((named, number(x), number(y), _standing(front, chosen)))
    alone = {side.task: value for side in tuned.sides if side.task in (a, b) and (value := _best(side)) is not None}
    words = (
        f"Skill of {a} and of {b} in {len(dots)} trials; {sum(best)} of them are on the front, where no other trial is "
        "as good on both and better on one."
    )
    drawing = charts.scatter(
        "trials of the search", dots, x_name=f"skill of {a}", y_name=f"skill of {b}", words=words, front=False,
        uprights=[(alone[a], "alone")] if a in alone else (), levels=[(alone[b], "alone")] if b in alone else (),
    )  # fmt: skip
    return Front(drawing, tuple(rows), ("trial", a, b))


def _of_methods(evidence: Evidence, comparisons: dict[str, Comparison]) -> Front | None:
    """Methods by their delta on two tasks; single-task models stand at 0, 0."""
    deltas = {name: {t: d.delta for t, d in c.tasks.items()} for name, c in comparisons.items()}
    pair = _pair(evidence, list(deltas.values()))
    if pair is None:
        return None
    a, b = pair
    there = [(n, x, y) for n, d in deltas.items() if (x := d.get(a)) is not None and (y := d.get(b)) is not None]
    there.append(("single", 0.0, 0.0))
    best = _undominated([(x, y) for _, x, y in there])
    chosen = None if evidence.study is None else evidence.study.choice
    dots = [
        Dot(100 * x, 100 * y, name, "chosen" if name == chosen else "front" if front else "plain")
        for (name, x, y), front in zip(there, best, strict=True)
    ]
    rows = [
        (name, signed(100 * x, 1, " %"), signed(100 * y, 1, " %"), _standing(front, name == chosen))
        for (name, x, y), front in zip(there, best, strict=True)
    ]
    on = ", ".join(name for (name, _, _), front in zip(there, best, strict=True) if front)
    words = f"Change of {a} and of {b} against single-task models by {len(there)} methods; on the front: {on}."
    drawing = charts.scatter(
        "methods", dots, x_name=f"change of {a}, %", y_name=f"change of {b}, %", words=words, zero=True
    )
    return Front(drawing, tuple(rows), ("method", a, b))


def _standing(front: bool, chosen: bool) -> str:
    return ", ".join(word for word, there in (("on the front", front), ("chosen", chosen)) if there)


def _best(side: TunedSide) -> float | None:
    return next((t.values.get(side.task) for t in side.trials if side.task and t.number == side.best), None)


def _undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    return [
        not any(u >= x and v >= y and (u > x or v > y) for u, v in points) for x, y in points
    ]  # fmt: skip


def _pair(evidence: Evidence, values: Sequence[dict[str, float | None]]) -> tuple[str, str] | None:
    """The two tasks to look at: those asked for, else those whose values go together least."""
    if not values:
        return None
    tasks = [t for t in values[0] if sum(own.get(t) is not None for own in values) > 0]
    if evidence.pair is not None:
        return evidence.pair if set(evidence.pair) <= set(tasks) else None
    if len(tasks) < 2:
        return None
    pairs = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    return min(pairs, key=lambda pair: _together(values, *pair))


def _together(values: Sequence[dict[str, float | None]], a: str, b: str) -> float:
    """The rank correlation of two tasks' values; 2 where there is none."""
    both = [(x, y) for own in values if (x := own.get(a)) is not None and (y := own.get(b)) is not None]
    if len(both) < 2:
        return 2.0
    from scipy.stats import rankdata

    xs, ys = (rankdata(column) for column in zip(*both, strict=True))
    if min(xs) == max(xs) or min(ys) == max(ys):
        return 2.0
    return correlation(xs.tolist(), ys.tolist())


# ---- the search, and what things cost


@dataclass(frozen=True)
class Side:
    """A side of a search, as its row of the table says it."""

    name: str
    cells: tuple[str, ...]
    test: str
    overrides: tuple[str, ...]
    importance: tuple[tuple[str, str, Markup], ...]


def _side(side: TunedSide) -> Side:
    first = next((t.value for t in side.trials if t.number == 0), None)
    best = next((t.value for t in side.trials if t.number == side.best), None)
    counts = (side.count("done"), side.count("pruned"), side.count("failed"))
    cells = (number(len(side.trials)), *(number(c) for c in counts), number(first, 3), number(best, 3),
             number(sum(t.seconds or 0.0 for t in side.trials), 1))  # fmt: skip
    scores = [] if side.test is None else side.test.primary().values()
    test = ", ".join(f"{s.task} {s.metric} {number(s.value)}" for s in scores)
    shares = sorted(side.importance.items(), key=lambda item: -(item[1] or 0.0))[:8]
    top = max((share or 0.0 for _, share in shares), default=0.0)
    bars = tuple((name, number(share, 2), figures.bar(share or 0.0, top)) for name, share in shares)
    return Side(side.name, cells, test, side.overrides, bars)


def _search(evidence: Evidence) -> Markup | str:
    """The best mean skill so far, trial after trial, of each side."""
    if evidence.tuned is None:
        return ""
    courses = []
    for side in evidence.tuned.sides[:4]:
        best, points = None, []
        for n, trial in enumerate(side.trials, start=1):
            if trial.value is not None and trial.state == "done":
                best = trial.value if best is None else max(best, trial.value)
            points.append((float(n), best, None, None))
        if best is not None and len(points) > 1:
            courses.append(Course(side.name, tuple(points)))
    if not courses:
        return ""
    words = "Best mean skill on validation so far, trial after trial: " + "; ".join(
        f"{c.name} ends at {number(c.points[-1][1])} after {len(c.points)}" for c in courses
    )
    return charts.bands("the search", courses, x_name="trial", y_name="best so far", words=f"{words}.")


def _costs(evidence: Evidence, comparisons: dict[str, Comparison]) -> list[tuple[str, str, str, str]]:
    """(what, of which kind, parameters, seconds)."""
    methods = {m.name: m for c in comparisons.values() for m in c.methods}
    rows = [
        (m.name, "trained, all repeats", number(m.parameters), number(m.seconds, 1))
        for m in methods.values()
        if m.parameters is not None or m.seconds is not None
    ]
    rows += [
        (found.method, f"estimator, {found.seeds} seeds", NONE, number(found.seconds, 1))
        for found in evidence.relatedness
        if found.seconds is not None
    ]
    tuned = evidence.tuned
    if tuned is not None and tuned.seconds is not None:
        trials = sum(len(side.trials) for side in tuned.sides)
        rows.append(("search", f"{trials} trials", NONE, number(tuned.seconds, 1)))
    return rows
