"""What was found: frozen values that printers, reports and scripts all read, each one JSON and back.

Nothing here knows torch. A number that does not exist (a metric on a one-class split, say) is `None`, never 0 or NaN,
and `Score.why` tells the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[Number, Number]


class Value(BaseModel):
    """A frozen record: `model_dump_json` writes it, `model_validate_json` reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskInfo(Value):
    """One task as a run saw it: what it is, and how many labels each split has."""

    name: str
    kind: str
    """The word of its type, such as ``binary``."""
    metric: str
    """Its primary metric."""
    greater_is_better: bool
    tables: tuple[str, ...] = ()
    weight: float = 1.0
    where: str | None = None
    rows: dict[str, int] = {}
    """Rows per split."""
    labels: dict[str, int] = {}
    """Known labels per split; labels / rows is the coverage."""
    probability: Number = None
    """Share of the draws of an epoch that go to this task (or its table)."""
    passes: Number = None
    """How often an epoch sees each of its rows."""
    detail: dict[str, Any] = {}
    """Classes, mean and sd, threshold: whatever the fitted task knows."""


class Record(Value):
    """One measured number, a row of metrics.csv; its key is ``{split}/{task}/{metric}``, or ``{split}/{metric}``."""

    epoch: int
    step: int
    split: str
    task: str | None = None
    metric: str
    value: Number


class History(Value):
    """The course of a run, in order."""

    records: tuple[Record, ...] = ()

    def __iter__(self) -> Iterator[Record]:  # type: ignore[override]
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def series(self, metric: str, split: str = "valid", task: str | None = None) -> list[tuple[int, float | None]]:
        """(epoch, value) of one number over the run."""
        return [(r.epoch, r.value) for r in self if (r.metric, r.split, r.task) == (metric, split, task)]

    def courses(self) -> dict[tuple[str, str | None, str | None], list[tuple[int, float | None]]]:
        """(metric, split, task) -> (epoch, counted from 1, and value) of every number over the run."""
        found: dict[tuple[str, str | None, str | None], list[tuple[int, float | None]]] = {}
        for record in self:
            found.setdefault((record.metric, record.split, record.task), []).append((record.epoch + 1, record.value))
        return found


class Score(Value):
    """One metric of one task on one split."""

    task: str
    metric: str
    value: Number
    labels: int
    interval: Interval | None = None
    """95 % bootstrap interval over rows (over groups where the split is grouped)."""
    greater_is_better: bool = True
    primary: bool = True
    why: str | None = None
    """Why the value is undefined, where it is."""


class Scores(Value):
    """The scores of one model on one split."""

    split: str
    scores: tuple[Score, ...]

    def primary(self) -> dict[str, Score]:
        """The primary score of each task."""
        return {s.task: s for s in self.scores if s.primary}


class TaskComparison(Value):
    """One task: every method's primary metric, and what sharing did to it."""

    metric: str
    greater_is_better: bool = True
    joint: Number
    single: Number
    linear: Number = None
    boosting: Number = None
    constant: Number = None
    delta: Number
    """Signed change of the joint model against the single-task model, positive = better; a fraction, see `absolute`."""
    interval: Interval
    """95 % interval of delta (not adjusted for the number of tasks)."""
    p: Number
    """Two-sided p of the corrected resampled t, Holm-adjusted over the tasks."""
    verdict: str
    """helps, hurts or undecided."""
    absolute: bool = False
    """True where delta is an absolute difference of the metric: R2, and baselines under 0.05."""
    best: str | None = None
    """The method with the best mean, so that "use separate boosters" can be said."""
    why: str | None = None
    """A sentence that explains the verdict."""


class Method(Value):
    """One method of a comparison: its score on each task in each repeat, and what it cost."""

    name: str
    values: dict[str, tuple[Number, ...]]
    """Task -> one number per repeat (seeds averaged within a repeat)."""
    parameters: int | None = None
    seconds: Number = None


class Comparison(Value):
    """Should these tasks share a model? The evidence."""

    tasks: dict[str, TaskComparison]
    delta_m: Number
    interval: Interval
    repeats: int
    methods: tuple[Method, ...] = ()
    summary: str = ""
    """The verdict over all tasks, in words."""
    protocol: str = ""
    """What was re-drawn, what the intervals cover, what was tuned: in words."""
    budget: dict[str, Any] = {}


# -- what a page can draw


class Text(Value):
    """Words, a class, a number."""

    kind: Literal["text"] = "text"
    text: str
    words: tuple[str, ...] = ()
    """Its words one by one, where they matter: as a model read them, or to be compared with other ones."""
    chance: Number = None
    """How sure a prediction is, 0 to 1."""
    exact: bool = True
    """Whether whatever differs from it is wrong; False for numbers, which are near or far."""


class Tags(Value):
    """What is marked in a sentence; its words are those of the input that has as many."""

    kind: Literal["tags"] = "tags"
    length: int
    """Words of the sentence."""
    spans: tuple[tuple[int, int, str], ...] = ()
    """(first word, the one after the last, type)."""
    relations: tuple[tuple[int, int, str], ...] = ()
    """(number of the head's span, of the tail's, type)."""


class Picture(Value):
    """A picture; what is said of its places is in shares of its width and height."""

    kind: Literal["picture"] = "picture"
    png: str
    """The bytes of a PNG file, base64."""
    width: int
    height: int


class Mask(Value):
    """A class for every pixel of a picture, laid over all of it."""

    kind: Literal["mask"] = "mask"
    png: str
    """A PNG of one byte a pixel, base64: the number of its class in `names`, 255 where nothing is known."""
    names: tuple[str, ...]


class Boxes(Value):
    """Boxes in a picture."""

    kind: Literal["boxes"] = "boxes"
    boxes: tuple[tuple[float, float, float, float, str, Number], ...] = ()
    """(x0, y0, x1, y1, class, score), in shares of width and height; the surest first. A label has no score."""


class Sound(Value):
    """A recording, as a picture of its short spectra: time to the right, frequency upwards, dark where it is loud."""

    kind: Literal["sound"] = "sound"
    png: str
    """A grey PNG, base64: black 60 decibels above white."""
    seconds: float
    hertz: float
    """The frequency of the upper edge."""


Shown = Annotated[Text | Tags | Picture | Mask | Boxes | Sound, Field(discriminator="kind")]


class Pair(Value):
    """What is true of a row and what was predicted."""

    true: Shown | None = None
    """None where nobody knows."""
    said: Shown


class Example(Value):
    """One row: what a model was given, and what it made of it."""

    row: int
    """Its number in the table."""
    table: str | None = None
    inputs: dict[str, Shown] = {}
    tasks: dict[str, Pair] = {}


class Examples(Value):
    """A handful of rows, drawn at random; kept in examples.json."""

    split: str
    rows: tuple[Example, ...]


# -- the whole


class Report(Value):
    """All that report.html shows; report.json is this value without the examples, which have a file of their own."""

    title: str
    created: str = ""
    tasks: tuple[TaskInfo, ...] = ()
    history: History = History()
    scores: tuple[Scores, ...] = ()
    comparison: Comparison | None = None
    settings: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = {}
    """What architectures and balances recorded (gates, weights): name -> value."""
    examples: Examples | None = Field(default=None, exclude=True)


Matrix = tuple[tuple[Number, ...], ...]
"""[source][target]: row i, column j tells what learning i does to j; None on the diagonal and where unknown."""


class Window(Value):
    """A part of the training time, and what was measured in it."""

    first: int
    """Its first step that was looked at."""
    last: int
    matrix: Matrix
    """Means over its looks, and over seeds."""


class Relatedness(Value):
    """How related some tasks are, as one estimator sees it."""

    method: str
    """The word of the estimator."""
    tasks: tuple[str, ...]
    """In the order of rows and columns."""
    matrix: Matrix
    """Means over seeds."""
    low: Matrix
    """Lower ends of 95 % t intervals over seeds; None with a single seed."""
    high: Matrix
    own: tuple[Number, ...]
    """What belongs on the diagonal, kept apart: what learning a task does to itself."""
    unit: str
    """What a number of the matrix is, in words."""
    gain: bool
    """Whether 0 means that learning the source leaves the target as it is, and more is better; False for a similarity,
    whose 0 means nothing of the kind."""
    directed: bool
    """Whether row i, column j may differ from row j, column i."""
    seeds: int
    seconds: Number = None
    """What it cost on top of the runs that it looks at; those too where nobody else needs them."""
    by_seed: tuple[Matrix, ...] = ()
    """The matrix of each seed."""
    windows: tuple[Window, ...] = ()
    """Over the time of training, earlier first; empty where only trained models are looked at."""
    parts: dict[str, Matrix] = {}
    """The same for each part of what tasks share (a stage, say), by its name."""
    missing: tuple[tuple[str, str, str], ...] = ()
    """(source, target, why) of each cell that could not be measured."""
    summary: str = ""
    """What it says, in a sentence."""


class Grouping(Value):
    """Which tasks are to share a model, by predicted gains."""

    groups: tuple[tuple[str, ...], ...]
    serves: dict[str, int]
    """Task -> the group whose model is asked for it."""
    gains: dict[str, Number]
    """Task -> the gain predicted from that group."""
    total: Number
    exact: bool
    """Whether no grouping within the budget has a larger total."""
    budget: float
    cost: float
    """What the groups may cost and do: models, unless costs were given."""
    overlap: bool = True
    note: str = ""


class Merge(Value):
    """Two clusters that become one; clusters are numbered as tasks first, then as merges in their order."""

    left: int
    right: int
    height: float
    """Their mean mutual gain (or similarity): the higher, the earlier they are joined."""
    size: int


class Dendrogram(Value):
    """The tree of average linkage."""

    tasks: tuple[str, ...]
    merges: tuple[Merge, ...]
    leaves: tuple[int, ...]
    """Numbers of tasks; in this order no branches cross."""


class Trial(Value):
    """Settings that were tried, and what came of them on validation."""

    number: int
    """From 0, in the order in which they were proposed."""
    state: str
    """done, pruned (ended early, without prospect) or failed."""
    settings: dict[str, Any]
    value: Number = None
    """The mean skill over tasks."""
    values: dict[str, Number] = {}
    """Task -> skill."""
    course: tuple[tuple[int, float], ...] = ()
    """(epoch, counted from 1, and the best mean skill so far)."""
    seconds: Number = None
    why: str | None = None
    """Why it failed."""


class TunedSide(Value):
    """One way to train, tuned by itself: ``joint``, ``weights`` (of the tasks, fixed), ``single:<task>``."""

    name: str
    task: str | None = None
    """The task that is alone."""
    space: dict[str, dict[str, list[Any]]]
    """Setting -> its range, as a config has it."""
    trials: tuple[Trial, ...] = ()
    best: int | None = None
    """The number of the chosen trial: the best mean skill, of the front where there is one."""
    overrides: tuple[str, ...] = ()
    """The chosen settings as ``a.b=value``, to be laid over the config."""
    front: tuple[int, ...] = ()
    """Numbers of the trials that no other is as good as on every task and better on one; of several objectives."""
    importance: dict[str, Number] = {}
    """Setting -> its share in the differences between trials; empty where there are too few of them."""
    test: Scores | None = None
    """The test part, read once, by the chosen settings."""

    def count(self, state: str) -> int:
        """How many trials ended so."""
        return sum(trial.state == state for trial in self.trials)


class Tuned(Value):
    """A search for settings, the same number of trials for every side."""

    objective: str
    """mean or pareto."""
    sides: tuple[TunedSide, ...]
    trials: int
    """That every side may have."""
    timeout: Number = None
    seconds: Number = None
    """All that was spent, interrupted calls included."""
    finished: bool = False
    protocol: str = ""
    """What was compared on what, in words."""

    def side(self, name: str) -> TunedSide:
        """The side of this name."""
        return next(side for side in self.sides if side.name == name)


class GroupingStudy(Value):
    """Groups that were trained, beside one model for all (``joint``) and one each (``single``); `choice` is advised."""

    groupings: dict[str, Grouping]
    choice: str
    groups: tuple[tuple[str, ...], ...]
    recommendation: str
    reason: str
    comparisons: dict[str, Comparison]
    """Method -> it against `single`, on the test parts; in `over` the choice against `joint` and `single`."""
    over: dict[str, Comparison] = {}
    valid: dict[str, Number] = {}
    """Method -> delta-m against single-task models on validation rows, the mean over repeats."""
    realised: dict[str, dict[str, Number]] = {}
    """Grouping -> task -> delta against its single-task model on the test parts; beside `Grouping.gains`."""
    agreement: dict[str, Number] = {}
    """Grouping -> Spearman's rank correlation over tasks of predicted and realised gains; None for fewer than three."""
    served: dict[str, dict[str, tuple[int, ...]]] = {}
    """Grouping -> task -> per repeat the group whose model serves it, the best of its groups on validation."""
    repeats: int = 0
    protocol: str = ""
