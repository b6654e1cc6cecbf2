"""What a page about sharing shows, as it is printed: relatedness, groups, methods, label fractions, tuning, cost."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ..results import Comparison, Evidence, Grouping, Relatedness, Tuned, TunedSide
from . import charts, figures, words
from .charts import Course, Dot
from .fronts import of_methods, of_trials
from .later import life
from .words import NONE, change, decimals, number, signed

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
    unit: str
    """What the numbers of the matrix are to be taken times, in words."""
    parts: tuple[tuple[str, str, str, str], ...]
    """(part of what tasks share, mean over pairs, the highest pair, the lowest)."""


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
    unit: str
    """What a predicted number is."""


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
        self.methods = evidence.methods
        if evidence.methods is not None:
            self.comparisons = dict(evidence.methods.comparisons) | self.comparisons
        self.standings, self.efficiency = _standings(evidence), _efficiency(evidence)
        known = {name: c for name, c in self.comparisons.items() if any(t.delta is not None for t in c.tasks.values())}
        self.drawn = known
        self.curves, self.curves_left, self.curve_rows = _curves(evidence)
        self.fronts = [f for f in (of_trials(evidence), of_methods(evidence, self.comparisons)) if f is not None]
        self.sides = [_side(side) for side in evidence.tuned.sides] if evidence.tuned is not None else []
        self.search = _search(evidence)
        self.costs = _costs(evidence, self.comparisons)
        self.life = life(evidence)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(id, heading) of what there is."""
        there = (
            ("kept", "What it did to each task", self.life is not None and self.life.kept),
            ("few", "With few labels", self.life is not None and self.life.curves),
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
        if self.life is not None:
            return self.life.lead
        if self.study is not None:
            text = self.study.recommendation
            return text[:1].upper() + text[1:]
        if self.methods is not None and self.methods.recommendation:
            text = self.methods.recommendation
            return text[:1].upper() + text[1:]
        if self.evidence.tuned is not None:
            return _best(self.evidence.tuned)
        if self.comparisons:
            return next((c.summary for c in self.comparisons.values() if c.summary), "")
        advised = {s.groups for s in self.sheets if s.groups}
        if len(self.sheets) > 1 and len(advised) == 1:
            return f"All {len(self.sheets)} estimators speak for the same groups: {advised.pop()}."
        if len(advised) > 1:
            return "The estimators do not agree on who belongs together; training groups decides."
        return ""

    @property
    def trained(self) -> list[tuple[str, bool, str, tuple[str, ...]]]:
        """(way, whether it is advised, what it is, its means on validation and test with the interval), of groups."""
        if self.study is None:
            return []
        plain = {"joint": "one model for all tasks", "single": "one model for each task"}
        rows: list[tuple[str, bool, str, tuple[str, ...]]] = []
        for name, value in self.study.valid.items():
            proposed = " and ".join(name.removesuffix(", branched").split("+"))
            branched = ", as branches of one model" if name.endswith(", branched") else ""
            what = plain.get(name, f"groups that {proposed} proposed{branched}")
            c = self.study.comparisons.get(name)
            test = (NONE, "") if name == "single" or c is None else (change(c.delta_m), words.change_span(c.interval))
            rows.append((name, name == self.study.choice, what, (change(value), *test)))
        return rows

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
    times = 1e6 if 0 < high < 1e-3 else 1.0
    places = decimals([high * times])
    seen = [v for w in found.windows for row in w.matrix for v in row if v is not None]
    sparks = len(found.windows) > 2 and len(order) <= SPARKS and len(seen) > 0

    def cell(i: int, j: int) -> Cell:
        if i == j:
            own = found.own[i] if i < len(found.own) else None
            return Cell(_signed(_by(own, times), places) if found.gain else number(_by(own, times), places), 0.0, "own")
        value, a, b = found.matrix[i][j], found.low[i][j], found.high[i][j]
        if value is None:
            return Cell("?", 0.0)
        show = _signed if signed_scale else number
        span = f"[{show(times * a, places)}, {show(times * b, places)}]" if a is not None and b is not None else ""
        share = (abs(value) - low) / (high - low) if high > low else 0.0
        course: Markup | str = ""
        if sparks:
            course = figures.spark([w.matrix[i][j] for w in found.windows], min(seen), max(seen))
        sure = found.gain and a is not None and b is not None and (a > 0 or b < 0)
        return Cell(show(times * value, places), share, "against" if value < 0 else "", span, sure, course)

    drawn = grown is not None and fits and 1 < len(grown.tasks) <= 2 * MOST
    return Sheet(
        found,
        tuple(found.tasks[i] for i in order),
        tuple((found.tasks[i], tuple(cell(i, j) for j in order)) for i in order),
        left_out,
        charts.tree(grown, found.gain) if grown is not None and drawn else "",
        tuple((a, b, number(h)) for a, b, h in charts.joins(grown)) if grown is not None and drawn else (),
        _told(evidence.advised[found.method]) if found.method in evidence.advised else "",
        f"from {number(times * min(seen))} (bottom) to {number(times * max(seen))} (top)" if sparks else "",
        "In millionths." if times > 1 else "",
        _parts(found),
    )


def _by(value: float | None, times: float) -> float | None:
    return None if value is None else value * times


def _parts(found: Relatedness) -> tuple[tuple[str, str, str, str], ...]:
    """The parts of what tasks share, each in a few numbers; nothing where there is but one."""
    rows = []
    for part, matrix in found.parts.items():
        pairs = {
            (a, b): v
            for i, a in enumerate(found.tasks)
            for j, b in enumerate(found.tasks)
            if i != j and (found.directed or i < j) and (v := matrix[i][j]) is not None
        }
        if pairs:
            top, low = max(pairs, key=lambda p: pairs[p]), min(pairs, key=lambda p: pairs[p])
            high, least = (f"{signed(pairs[p], 3)} ({p[0]}, {p[1]})" for p in (top, low))
            rows.append((part, signed(sum(pairs.values()) / len(pairs), 3), high, least))
    return tuple(rows) if len(rows) > 1 else ()


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
            dots.append(Dot(promise, 100 * real, str(n), front=True))
            keys.append(f"{n} {task}")
    rho = study.agreement.get(name)
    said = f"Predicted against realised gain of {len(dots)} tasks; rank correlation {number(rho, 2)}."
    drawing: Markup | str = ""
    if len(dots) > 1:
        drawing = charts.scatter(
            name, dots, x_name="predicted gain", y_name="realised change, %", words=said, zero=True, rank=4
        )
    agreed = "" if rho is None else f"Rank correlation of predicted and realised gains over tasks: {number(rho, 2)}."
    own = [found for found in evidence.relatedness if found.method in name.split("+")]
    unit = "Predicted gains are in the units of their estimator"
    if own and not any(found.gain and found.lasting for found in own):
        unit = (
            "What is predicted is no per cent: how much a task is like the others of its group, summed over them in "
            "standard deviations of all pairs, above 0 where they are among the like ones"
        )
    return Groups(name, name == study.choice, grouping, tuple(rows), agreed, drawing, ", ".join(keys), unit)


# ---- label fractions


def _curves(evidence: Evidence) -> tuple[list[Markup], str, list[tuple[str, str, str, tuple[str, ...]]]]:
    found = evidence.fractions
    if found is None or not found.comparisons:
        return [], "", []
    tasks = list(found.comparisons[-1].tasks)
    methods = [m.name for m in found.comparisons[-1].methods][:4]
    cards: list[Markup] = []
    rows = []
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
            said = f"{task}, {metric}, from {100 * found.shares[0]:g} % to {100 * found.shares[-1]:g} % of the labels: "
            said += "; ".join(f"{c.name} from {number(c.points[0][1])} to {number(c.points[-1][1])}" for c in courses)
            cards.append(
                charts.bands(task, courses, x_name="labels known", y_name=metric, words=f"{said}.", log=True, rank=3)
            )
    left = f"Shown: {CARDS} of {len(tasks)} tasks; the table has them all." if len(tasks) > CARDS else ""
    return cards, left, rows


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


def _best(tuned: Tuned) -> str:
    """What a search came to, in a sentence: the best trial of a model of all tasks, beside the first one."""
    known = [
        (t.value, side.name, t.number, next((o.value for o in side.trials if o.number == 0), None))
        for side in tuned.sides
        for t in side.trials
        if side.task is None and t.number == side.best and t.value is not None
    ]
    if not known:
        return "No trial came to its end."
    value, name, at, first = max(known, key=lambda one: one[0])
    if at == 0:
        return f"`{name}`: no trial is better than the first one, whose mean skill on validation is {number(value, 3)}."
    said = f"`{name}`: trial {at} is the best, mean skill {number(value, 3)} on validation"
    return f"{said}; the first had {number(first, 3)}." if first is not None else f"{said}."


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
    said = "Best mean skill on validation so far, trial after trial: " + "; ".join(
        f"{c.name} ends at {number(c.points[-1][1])} after {len(c.points)}" for c in courses
    )
    return charts.bands("the search", courses, x_name="trial", y_name="best so far", words=f"{said}.")


def _costs(evidence: Evidence, comparisons: dict[str, Comparison]) -> list[tuple[str, ...]]:
    """(what, how it was counted, parameters, seconds, updates, backward passes, megabytes)."""
    methods = {m.name: m for c in comparisons.values() for m in c.methods}
    known = {} if evidence.methods is None else evidence.methods.costs
    rows: list[tuple[str, ...]] = [
        (
            name,
            "per repeat",
            number(c.parameters),
            number(c.seconds),
            _whole(c.updates),
            _whole(c.backward),
            _megabytes(c.memory),
        )
        for name, c in known.items()
    ]
    rows += [
        (m.name, "per repeat", number(m.parameters), number(m.seconds, 1), NONE, NONE, NONE)
        for m in methods.values()
        if m.name not in known and (m.parameters is not None or m.seconds is not None)
    ]
    rows += [
        (found.method, f"estimator, {found.seeds} seeds", NONE, number(found.seconds, 1), NONE, NONE, NONE)
        for found in evidence.relatedness
        if found.seconds is not None
    ]
    tuned = evidence.tuned
    if tuned is not None and tuned.seconds is not None:
        trials = sum(len(side.trials) for side in tuned.sides)
        rows.append(("search", f"{trials} trials", NONE, number(tuned.seconds, 1), NONE, NONE, NONE))
    return rows


def _whole(count: float | None) -> str:
    return NONE if count is None else number(round(count))


def _megabytes(size: int | None) -> str:
    return NONE if size is None else number(size / 1e6)


def _standings(evidence: Evidence) -> list[tuple[str, bool, tuple[str, ...]]]:
    """(method, whether it was chosen, delta-m on validation and on test, its interval, rank, helps, hurts)."""
    study = evidence.methods
    if study is None:
        return []
    rows: list[tuple[str, bool, tuple[str, ...]]] = []
    for name in dict.fromkeys([*study.ranks, *study.comparisons]):
        c = study.comparisons.get(name)
        counts = words.tally(c.tasks) if c is not None else {}
        test = (NONE, "", NONE, NONE) if c is None else (
            change(c.delta_m), words.change_span(c.interval), number(counts.get("helps", 0)),
            number(counts.get("hurts", 0)),
        )  # fmt: skip
        rows.append(
            (name, name == study.choice, (change(study.valid.get(name)), *test, number(study.ranks.get(name), 2)))
        )
    return rows


def _efficiency(evidence: Evidence) -> list[tuple[str, ...]]:
    """(method, skill, its updates and seconds, those of one model per task together)."""
    study = evidence.methods
    if study is None:
        return []
    return [
        (name, number(e.skill, 3), _whole(e.updates), _whole(e.updates_single), number(e.seconds),
         number(e.seconds_single), number(e.parameters), number(e.parameters_single))
        for name, e in study.efficiency.items()
    ]  # fmt: skip
