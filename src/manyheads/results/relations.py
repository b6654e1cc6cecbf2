"""How related tasks are, and which are to share a model."""

from __future__ import annotations

from .comparisons import Comparison
from .values import Number, Value

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
    lasting: bool = True
    """Of a gain: whether it is that of training together to the end, so that groups may be chosen by it as it is. False
    for that of a single step, which on many tables is small and positive for nearly all pairs."""
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
    summary: str = ""
    """What the advised way is worth on the test parts, on the mean over tasks, in a sentence."""
    repeats: int = 0
    protocol: str = ""
