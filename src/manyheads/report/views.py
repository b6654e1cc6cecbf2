"""A report arranged for the page: its sections, the order of their tasks, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from ..results import Report, Score, TaskComparison, TaskInfo
from . import balances, examples, figures, notes, parts
from .words import NONE, decimals, number, span

METHODS = ("joint", "single", "linear", "boosting", "constant")
VALID = ("valid", "val", "validation")
CARDS = 12
"""Learning curves a page shows at most."""
_CHIPS = 24


@dataclass(frozen=True)
class Cell:
    """A number in a table of methods."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Course:
    """How one task learned: for the table under the curves."""

    name: str
    metric: str
    best: str
    epoch: str
    last: str
    loss: str


class View:
    """One run, ready for the template.

    Args:
        report: the run.
        anchor: a prefix of this run's ids on the page.
        title: its heading; by default the report's.
        level: the rank of its section headings.
    """

    def __init__(self, report: Report, anchor: str = "", title: str | None = None, level: int = 2) -> None:
        self.report = report
        self.anchor = anchor
        self.title = title or report.title
        self.level = level
        self.comparison = report.comparison
        self.tasks = {task.name: task for task in report.tasks}

    @property
    def verdicts(self) -> tuple[list[tuple[str, TaskComparison]], list[tuple[str, TaskComparison]]]:
        """Tasks whose verdict is shown at once, and those behind a fold: of many, decided ones come first."""
        if self.comparison is None:
            return [], []
        items = list(self.comparison.tasks.items())
        if len(items) <= _CHIPS:
            return items, []
        decided = [item for item in items if item[1].verdict != "undecided"]
        shown = sorted(decided, key=lambda item: -abs(item[1].delta or 0.0))[:CARDS]
        names = {name for name, _ in shown}
        return shown, [item for item in items if item[0] not in names]

    @property
    def methods(self) -> list[str]:
        """The columns of the table of methods: those with a number for some task."""
        if self.comparison is None:
            return []
        tasks = self.comparison.tasks.values()
        found = [name for name in METHODS if any(getattr(task, name) is not None for task in tasks)]
        return found + [method.name for method in self.comparison.methods if method.name not in METHODS]

    @property
    def skills(self) -> dict[str, dict[str, float | None]]:
        """Task -> method -> skill, of the tasks that have any."""
        tasks = {} if self.comparison is None else self.comparison.tasks
        return {name: task.skills for name, task in tasks.items() if task.skills}

    def cells(self, name: str) -> list[Cell]:
        """The row of one task in the table of methods, the best marked.

        Args:
            name: the task.
        """
        assert self.comparison is not None
        task = self.comparison.tasks[name]
        extra = {method.name: _mean(method.values.get(name, ())) for method in self.comparison.methods}
        row = {method: getattr(task, method) if method in METHODS else extra[method] for method in self.methods}
        places = decimals(row.values())
        known = {method: value for method, value in row.items() if value is not None}
        winner = task.best
        if winner is None and known:
            winner = max(known, key=lambda method: known[method] if task.greater_is_better else -known[method])
        return [Cell(number(value, places), method == winner and value is not None) for method, value in row.items()]

    @property
    def repeats(self) -> list[tuple[str, str, list[str]]]:
        """(task, method, one number per repeat), where they are few enough to print."""
        if self.comparison is None or len(self.comparison.tasks) > _CHIPS:
            return []
        return [
            (task, method.name, [number(value) for value in method.values[task]])
            for task in self.comparison.tasks
            for method in self.comparison.methods
            if method.values.get(task)
        ]

    @property
    def splits(self) -> list[str]:
        """The splits of the table of tasks, in the order they were given."""
        return list(dict.fromkeys(split for task in self.report.tasks for split in (*task.rows, *task.labels)))

    @property
    def score_splits(self) -> list[str]:
        """The splits with scores."""
        return list(dict.fromkeys(scores.split for scores in self.report.scores))

    @property
    def score_rows(self) -> list[tuple[Score, list[Score | None]]]:
        """One row per task and metric: any of its scores (for its names), then the score on each split."""
        table: dict[tuple[str, str], dict[str, Score]] = {}
        for scores in self.report.scores:
            for score in scores.scores:
                table.setdefault((score.task, score.metric), {})[scores.split] = score
        splits = self.score_splits
        return [(next(iter(found.values())), [found.get(split) for split in splits]) for found in table.values()]

    @cached_property
    def parts(self) -> list[parts.Table]:
        """Scores by label, class or type."""
        return parts.tables(self.report)

    @property
    def valid(self) -> str | None:
        """The split that validation numbers of the history carry."""
        present = {record.split for record in self.report.history}
        return next((split for split in VALID if split in present), None)

    def curve(self, metric: str, split: str | None, task: str | None = None) -> list[tuple[float, float | None]]:
        """A course over epochs; several numbers within an epoch are spread evenly over it.

        Args:
            metric: the number's name.
            split: its split.
            task: its task, None for a number over all tasks.
        """
        series = self._series.get((metric, split, task), [])
        counts: dict[int, int] = {}
        for epoch, _ in series:
            counts[epoch] = counts.get(epoch, 0) + 1
        seen: dict[int, int] = {}
        points = []
        for epoch, value in series:
            seen[epoch] = seen.get(epoch, 0) + 1
            points.append((epoch - 1 + seen[epoch] / counts[epoch], value))
        return points

    @property
    def _series(self) -> dict[tuple[str, str | None, str | None], list[tuple[int, float | None]]]:
        if not hasattr(self, "_series_found"):
            self._series_found = self.report.history.courses()
        return self._series_found

    @property
    def chosen(self) -> tuple[float, float] | None:
        """The epoch of the best mean skill on validation, and that skill."""
        return figures.best(self.curve("skill", self.valid))

    @property
    def learned(self) -> list[str]:
        """The tasks with a course, in the order of the table of tasks."""
        named = dict.fromkeys([*self.tasks, *(task for _, _, task in self._series if task is not None)])
        return [name for name in named if any(_known(part) for part in self._courses(name)[1:])]

    def _courses(self, name: str) -> tuple[str, list[tuple[float, float | None]], list[tuple[float, float | None]]]:
        info = self.tasks.get(name)
        loss = self.curve("loss", "train", name)
        for metric in (info.metric if info else "", "skill", "loss"):
            points = self.curve(metric, self.valid, name)
            if _known(points):
                return metric, points, loss
        return "", [], loss

    def _up(self, name: str, metric: str) -> bool:
        info = self.tasks.get(name)
        return info.greater_is_better if info and metric == info.metric else metric != "loss"

    @property
    def shown(self) -> list[str]:
        """The tasks whose curves are drawn: all of a few, else those that changed for the best and for the worst."""
        names = self.learned
        if len(names) <= CARDS:
            return names
        ranked = sorted(names, key=self._rank)
        chosen = {*ranked[: CARDS // 2], *ranked[-(CARDS // 2) :]}
        return [name for name in reversed(ranked) if name in chosen]

    def _rank(self, name: str) -> float:
        if self.comparison is not None:
            task = self.comparison.tasks.get(name)
            return task.delta if task is not None and task.delta is not None else 0.0
        metric, points, _ = self._courses(name)
        found = figures.best(points, self._up(name, metric))
        first = next((value for _, value in points if value is not None), None)
        if found is None or first is None:
            return 0.0
        skill = figures.best(self.curve("skill", self.valid, name))
        return skill[1] if skill else abs(found[1] - first) / (abs(first) or 1.0)

    @property
    def cards(self) -> list[Markup]:
        """The small multiples: the mean skill, then the tasks of `shown`."""
        chosen = self.chosen
        epoch = chosen[0] if chosen else None
        level = self.level + 1
        found = []
        skill = self.curve("skill", self.valid)
        if _known(skill):
            found.append(
                figures.card(
                    "All tasks: mean skill", skill, upper_name=f"skill on {self.valid}", chosen=epoch, level=level
                )
            )
        for name in self.shown:
            metric, points, loss = self._courses(name)
            found.append(
                figures.card(
                    name,
                    points,
                    loss,
                    upper_name=f"{metric} on {self.valid}",
                    chosen=epoch,
                    greater_is_better=self._up(name, metric),
                    level=level,
                )
            )
        return found

    @property
    def courses(self) -> list[Course]:
        """The table under the curves, every task."""
        found = []
        for name in self.learned:
            metric, points, loss = self._courses(name)
            best = figures.best(points, self._up(name, metric))
            last, last_loss = _last(points), _last(loss)
            places = decimals([best[1] if best else None, last])
            value, epoch = (number(best[1], places), f"{best[0]:g}") if best else (NONE, NONE)
            found.append(Course(name, metric, value, epoch, number(last, places), number(last_loss)))
        return found

    @cached_property
    def use(self) -> notes.Use | None:
        """What each task takes from where, as the sharing scheme noted it in the epoch of `used`."""
        found: dict[str, dict[str, list[tuple[int, float | None]]]] = {}
        for (label, split, task), series in self._series.items():
            if split == "sharing" and task is not None and _known(series):
                found.setdefault(task, {})[label] = series
        order = {name: found[name] for name in dict.fromkeys([*self.tasks, *found]) if name in found}
        return notes.use(order, self.used)

    @cached_property
    def giving(self) -> balances.Giving | None:
        """Who gives way, where the balance has something to tell."""
        return balances.giving(self._series, self.report.tasks, self.level + 1, self.report.settings)

    @cached_property
    def final(self) -> bool:
        """Whether the last record of the sharing scheme is of the model that was kept, after the last epoch."""
        epochs = {own: [r.epoch for r in self.report.history if (r.split == "sharing") == own] for own in (True, False)}
        return bool(epochs[True] and epochs[False]) and max(epochs[True]) > max(epochs[False])

    @cached_property
    def used(self) -> float | None:
        """The epoch that "who uses what" shows: that of the final model, the chosen one, else the last."""
        epochs = [record.epoch + 1 for record in self.report.history if record.split == "sharing"]
        if self.final:
            return max(epochs)
        chosen = self.chosen
        return chosen[0] if chosen and chosen[0] in epochs else max(epochs, default=None)

    @cached_property
    def examples(self) -> list[examples.Drawn]:
        """Single rows, arranged."""
        found = self.report.examples
        rows = () if found is None else found.rows
        return [examples.drawn(row, f"{self.anchor}example{i}-") for i, row in enumerate(rows, start=1)]

    @cached_property
    def kinds(self) -> set[str]:
        """The kinds of values that the examples show."""
        return set() if self.report.examples is None else examples.kinds(self.report.examples.rows)

    @property
    def notes(self) -> list[notes.Note]:
        """What was recorded: the notes, and each task's weight over the epochs where no other section has it and some
        weight was not 1."""
        found = [part for name, value in self.report.notes.items() for part in notes.note(name, value)]
        weights: dict[str, Any] = {}
        for (metric, split, task), series in self._series.items():
            if metric == "weight" and split == "train" and task is not None:
                weights[task] = [value for _, value in series]
        known = [value for item in weights.values() for value in item if value is not None]
        if self.giving is None and any(value != 1 for value in known):
            found.append(notes.courses("Task weights over the epochs", weights))
        return found

    @property
    def details(self) -> dict[str, dict[str, Any]]:
        """What the fitted tasks know, by task."""
        return {task.name: task.detail for task in self.report.tasks if task.detail}

    @property
    def several_tables(self) -> bool:
        """Whether the tasks come from more than one table."""
        return len({table for task in self.report.tasks for table in task.tables}) > 1

    def any(self, field: str, usual: Any = None) -> bool:
        """Whether some task has something to say in a column.

        Args:
            field: a field of TaskInfo.
            usual: the value that says nothing.
        """
        return any(getattr(task, field) not in (usual, None, ()) for task in self.report.tasks)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(id, heading) of the sections this run has."""
        found = [
            ("verdict", "Verdict", self.comparison is not None),
            ("delivery", "Who taught each task", self.report.delivery is not None),
            ("tasks", "Tasks", bool(self.report.tasks)),
            ("curves", "Learning curves", bool(self.learned) or self.chosen is not None),
            ("scores", "Scores", bool(self.report.scores)),
            ("examples", "Examples", bool(self.examples)),
            ("use", "Who uses what", self.use is not None),
            ("giving", "Who gives way", self.giving is not None),
            ("notes", "What the methods recorded", bool(self.notes)),
            ("settings", "Settings", bool(self.report.settings)),
            ("environment", "Environment", bool(self.report.environment)),
        ]
        return [(self.anchor + name, heading) for name, heading, there in found if there]


@dataclass(frozen=True)
class Side:
    """One task's primary score in each of several runs."""

    task: str
    metric: str
    up: bool
    cells: tuple[Cell, ...]
    spans: tuple[str, ...]


def side_by_side(views: Sequence[View]) -> tuple[str, list[Side]]:
    """The primary scores of several runs, and the split they are on (each run's last where no split is common).

    Args:
        views: the runs.
    """
    common = [split for split in ("test", *VALID) if all(split in view.score_splits for view in views)]
    split = common[0] if common else ""
    found: list[dict[str, Score]] = []
    for view in views:
        scores = [scores for scores in view.report.scores if not split or scores.split == split]
        found.append(scores[-1].primary() if scores else {})
    rows = []
    for task in dict.fromkeys(name for scores in found for name in scores):
        metrics = dict.fromkeys(scores[task].metric for scores in found if task in scores)
        for metric in metrics:
            row = [scores[task] if task in scores and scores[task].metric == metric else None for scores in found]
            up = next(score.greater_is_better for score in row if score is not None)
            values = [score.value if score is not None else None for score in row]
            places = decimals(values)
            known = [value for value in values if value is not None]
            top = (max(known) if up else min(known)) if len(known) > 1 else None
            cells = tuple(Cell(number(value, places), value is not None and value == top) for value in values)
            spans = tuple(span(score.interval if score else None, places) for score in row)
            rows.append(Side(task, metric, up, cells, spans))
    return split, rows


def coverage(info: TaskInfo, split: str) -> tuple[int, int] | None:
    """(labels, how many there would be, were none missing) of a task on a split, None where it is not the task's.

    Args:
        info: the task.
        split: the split.
    """
    if split not in info.rows and split not in info.labels:
        return None
    labels = info.labels.get(split, 0)
    return labels, info.places(split) if split in info.rows else labels


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _known(points: Sequence[tuple[float, float | None]]) -> bool:
    return any(value is not None for _, value in points)


def _last(points: Sequence[tuple[float, float | None]]) -> float | None:
    return next((value for _, value in reversed(points) if value is not None), None)
