"""Metrics that know which way is up, what a constant gets, and when they have no value.

A metric is prepared once from labels and predictions (sorting, ties, row-wise errors), and is then a function of the
rows' weights alone, for a whole stack of weights at a time: plain scores, weighted scores and the bootstrap, whose
draws are counts of rows, are one and the same computation. A metric that is undefined is `None` with a reason; NaN
leaves this folder through `redraws` alone. scikit-learn is the oracle of the tests.

A new metric is a line in the file of its kind (`numbers`, `classes`, `objects`); its formula is in `formulas`, or
beside what it is about (`spans`, `masks`, `boxes`, `spoken`).
"""

from __future__ import annotations

from ..catalog import hint
from .classes import CLASSES, within
from .constants import constant_prediction
from .contract import Measured, Metric, Part, Predicted
from .draws import bootstrap, redraws
from .formulas import FOREIGN
from .numbers import NUMBERS
from .objects import OBJECTS

__all__ = ["METRICS", "Measured", "Metric", "Part", "Predicted", "bootstrap", "constant_prediction", "find", "redraws"]

METRICS: dict[str, Metric] = {m.name: m for m in (*NUMBERS, *CLASSES, *OBJECTS)}
"""Name -> metric."""


def find(name: str) -> Metric:
    """The metric of a name: a scikit-learn scorer's without ``neg_``, or ``gauc:<column>``.

    ``gauc:<column>`` is the ROC AUC within each group of that column, weighted by the group's number of rows; groups
    whose labels are all of one class are left out.

    Raises:
        ValueError: no metric has this name; the message names the one that is meant.

    Example:
        >>> find("roc_auc")([0, 0, 1, 1], Predicted([0, 0, 0, 1], [0.1, 0.4, 0.35, 0.8]))
        Measured(value=0.75, why=None)
        >>> find("r2")([3.0], Predicted([2.5]))
        Measured(value=None, why='At least two different labels are needed.')
    """
    if name in METRICS:
        return METRICS[name]
    word, _, column = str(name).partition(":")
    if word == "gauc" and column:
        return within(column)
    lowered = str(name).lower().strip()
    if lowered.removeprefix("neg_") in METRICS and lowered != lowered.removeprefix("neg_"):
        remedy = f"Write `{lowered.removeprefix('neg_')}`: its direction is known."
    elif word.lower() in FOREIGN:
        remedy = f"It is called `{FOREIGN[word.lower()]}` here."
    else:
        remedy = hint(str(name), [*METRICS, "gauc:<column>"])
    raise ValueError(f"No metric is called `{name}`. {remedy}")
