"""What was found: frozen values that printers, reports and scripts all read, each one JSON and back.

Nothing here knows torch. A number that does not exist (a metric on a one-class split, say) is `None`, never 0 or NaN,
and `Score.why` tells the reason.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .comparisons import Comparison, Method, TaskComparison
from .delivered import DeliveredTask, Delivery
from .evidence import Evidence, Fractions
from .methods import Cost, Efficiency, MethodStudy
from .relations import Dendrogram, Grouping, GroupingStudy, Matrix, Merge, Relatedness, Window
from .runs import History, Part, Record, Score, Scores, TaskInfo
from .shown import Boxes, Example, Examples, Mask, Pair, Picture, Shown, Sound, Tags, Text
from .tuned import Trial, Tuned, TunedSide
from .values import Interval, Number, Value

__all__ = [
    "Boxes",
    "Comparison",
    "Cost",
    "DeliveredTask",
    "Delivery",
    "Dendrogram",
    "Efficiency",
    "Evidence",
    "Example",
    "Examples",
    "Fractions",
    "Grouping",
    "GroupingStudy",
    "History",
    "Interval",
    "Mask",
    "Matrix",
    "Merge",
    "Method",
    "MethodStudy",
    "Number",
    "Pair",
    "Part",
    "Picture",
    "Record",
    "Relatedness",
    "Report",
    "Score",
    "Scores",
    "Shown",
    "Sound",
    "Tags",
    "TaskComparison",
    "TaskInfo",
    "Text",
    "Trial",
    "Tuned",
    "TunedSide",
    "Value",
    "Window",
]


class Report(Value):
    """All that report.html shows; report.json is this value without the examples, which have a file of their own."""

    title: str
    created: str = ""
    tasks: tuple[TaskInfo, ...] = ()
    history: History = History()
    scores: tuple[Scores, ...] = ()
    comparison: Comparison | None = None
    delivery: Delivery | None = None
    """Who taught the model, where it was taught."""
    settings: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = {}
    """What architectures and balances recorded (gates, weights): name -> value."""
    examples: Examples | None = Field(default=None, exclude=True)
