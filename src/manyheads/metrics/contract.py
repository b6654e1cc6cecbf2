"""The contract of a metric: what it needs, which way is up, what a constant gets, and when it has no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .formulas import Array, Parts, Weigh

TOO_LARGE = "An error is too large for a floating-point number."
VARIED = "At least two different labels are needed."


class Predicted(NamedTuple):
    """What a model says about the rows of one task, in the target's units.

    Shape:
        value: (n,) a number, a class or a level; (n, L) zeros and ones for several labels a row.
        proba: (n,) P(class 1); (n, C) for several classes; (n, L) for several labels a row.
    """

    value: ArrayLike
    proba: ArrayLike | None = None


class Measured(NamedTuple):
    """A metric's value, or `None` and the reason."""

    value: float | None
    why: str | None = None


class Part(NamedTuple):
    """A metric's value on one of its parts: a label, a class, a type of span."""

    name: str
    value: float | None
    labels: int
    """Labels that the value rests on."""
    cases: int
    """How many of these are of this part; cases / labels is its prevalence."""


class Prepared(NamedTuple):
    """A metric made ready: its function of the known rows' weights, which rows those are, and why there is none."""

    weigh: Weigh | None
    rows: Array
    why: str | None


@dataclass(frozen=True)
class Metric:
    """One metric: ``metric(y, predicted)`` is its value on the known labels."""

    name: str
    greater_is_better: bool
    best: float
    """The value of a perfect prediction; infinite where there is none."""
    needs: Literal["value", "proba"]
    kinds: frozenset[str]
    """The words of the task types that it suits."""
    undefined: str
    """Why it has no value, when labels are known and it has none."""
    function: Callable[..., Weigh] | None = None
    """(y, prediction) of one label a row, or (y, prediction, group) where `column` is set."""
    matrix: Callable[[Array, Array, Array], Weigh] | None = None
    """(y, prediction, known), each (n, L)."""
    constant: float | None = None
    """What every constant prediction gets (ROC AUC: 0.5), or `None` where it has to be measured."""
    centre: Literal["mean", "median", "mode", "mean_log1p"] = "mean"
    """The statistic of the labels that is the best constant prediction; mean_log1p: exp(mean(log(1 + y))) - 1."""
    column: str | None = None
    """The column whose groups it needs."""
    dimensions: tuple[int, ...] = (1,)
    """How many dimensions `proba` may have when there is one label a row."""
    parts: Callable[[Array, Array], Parts] | None = None
    """(y, prediction) of one label a row -> the metric by class or type, where it can be told apart."""
    matrix_parts: Callable[[Array, Array, Array], Parts] | None = None
    """(y, prediction, known), each (n, L) -> the metric by label."""
    of_part: str = ""
    """What a part's value is called, where that is not the metric's name."""

    def __reduce__(self) -> tuple[Callable[[str], Metric], tuple[str]]:
        from . import find

        return find, (self.name,)

    def __call__(
        self,
        y_true: ArrayLike,
        prediction: Predicted,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        known: ArrayLike | None = None,
    ) -> Measured:
        """The metric's value; ``(None, reason)`` where it is undefined, never 0 or NaN for that, and no warning.

        Shape:
            y_true: (n,), or (n, L) for several labels a row.

        Args:
            y_true: the labels: numbers, classes or levels as the prediction's value has them, or zeros and ones.
            prediction: what the model says, row by row.
            sample_weight: (n,) weights of the rows, not negative; 1 each when `None`.
            groups: (n,) the group of each row, for a metric with a `column`.
            known: which labels count, of the shape of `y_true`; all when `None`.

        Raises:
            ValueError: shapes do not fit, what the metric needs is missing, or a label that counts is NaN.
        """
        with np.errstate(all="ignore"):
            weigh, rows, why = self.prepared(y_true, prediction, groups, known)
            if weigh is None:
                return Measured(None, why)
            weight = weights(sample_weight, len(rows))[rows]
            if not weight.any():
                return Measured(None, "Every label has the weight 0.")
            value = float(weigh(weight[None])[0])
        return Measured(value) if math.isfinite(value) else Measured(None, self.undefined)

    def skill(self, value: float | None, constant: float | None = None) -> float | None:
        r"""How far a value is from a constant predictor's towards the best there is: 0 for the constant, 1 for perfect.

        .. math:: (M - M_{constant}) / (M_{best} - M_{constant})

        Args:
            value: the metric's value M.
            constant: the value of the constant predictor fitted on the training part; `None` takes the metric's own
                `constant`.

        Returns:
            `None` where the value, the constant's or the best one is missing, or where the constant is perfect already.
        """
        start = self.constant if constant is None else constant
        if value is None or start is None or not math.isfinite(self.best) or start == self.best:
            return None
        return (value - start) / (self.best - start)

    def better(self, a: float | None, b: float | None) -> bool:
        """Whether a is strictly better than b; a number is better than none."""
        if a is None or b is None:
            return a is not None and b is None
        return a > b if self.greater_is_better else a < b

    def by_part(
        self, y_true: ArrayLike, prediction: Predicted, names: Sequence[str] = (), known: ArrayLike | None = None
    ) -> list[Part]:
        """The metric part by part, on the known labels; nothing where it has no parts.

        Args:
            y_true, prediction, known: as in `__call__`.
            names: of labels or classes by their numbers; parts that have names already keep them.
        """
        with np.errstate(all="ignore"):
            y, p, counts, _, why = self._known(y_true, prediction, known)
            parts = self.matrix_parts if y.ndim == 2 else self.parts
            if parts is None or why is not None:
                return []
            found = parts(y, p, counts) if y.ndim == 2 else parts(y, p)  # type: ignore[call-arg]
            values = found.weigh(np.ones((1, len(y))))[:, 0] if len(found.keys) else np.empty(0)
        return [
            Part(
                names[key] if isinstance(key, int) and key < len(names) else str(key),
                float(value) if math.isfinite(value) else None,
                int(n),
                int(count),
            )
            for key, value, n, count in zip(found.keys, values, found.labels, found.counts, strict=True)
        ]

    def prepared(
        self, y_true: ArrayLike, prediction: Predicted, groups: ArrayLike | None, known: ArrayLike | None
    ) -> Prepared:
        """The function of the weights that is left once labels and predictions are known; see `__call__`."""
        y, p, counts, rows, why = self._known(y_true, prediction, known)
        if why is not None:
            return Prepared(None, rows, why)
        if y.ndim == 2:
            assert self.matrix is not None
            return Prepared(self.matrix(y, p, counts), rows, None)
        assert self.function is not None
        if self.column is None:
            return Prepared(self.function(y, p), rows, None)
        if groups is None:
            raise ValueError(f"Metric `{self.name}` needs the column `{self.column}`. Found no `groups`.")
        return Prepared(self.function(y, p, codes(groups, len(rows))[rows]), rows, None)

    def _known(
        self, y_true: ArrayLike, prediction: Predicted, known: ArrayLike | None
    ) -> tuple[Array, Array, Array, Array, str | None]:
        """(labels, prediction, which count) of the rows with a label, those rows, and why there is no value."""
        y = np.asarray(y_true)
        given = prediction.value if self.needs == "value" else prediction.proba
        if given is None:
            raise ValueError(f"Metric `{self.name}` needs probabilities. Found a prediction without `proba`.")
        p = np.asarray(given)
        self._check_shapes(y, p)
        counts = np.ones(y.shape, bool) if known is None else np.asarray(known, bool)
        if counts.shape != y.shape:
            raise ValueError(f"`known` should have the labels' shape {y.shape}. Found {counts.shape}.")
        rows: Array = counts if y.ndim == 1 else np.any(counts, axis=1)
        y, p, counts = y[rows], p[rows], counts[rows]
        why = None
        if not len(y):
            why = "No label is known."
        elif y.dtype.kind == "f" and not np.isfinite(y[counts]).all():
            raise ValueError("Labels that count should be finite. Found NaN or infinity: leave them out by `known`.")
        elif p.dtype.kind == "f" and not np.isfinite(p[counts] if p.shape == counts.shape else p).all():
            why = "A prediction is not a finite number."
        return y, p, counts, rows, why

    def _check_shapes(self, y: Array, p: Array) -> None:
        if y.ndim not in (1, 2):
            raise ValueError(f"Labels should have the shape (n,) or (n, L). Found {y.shape}.")
        if y.ndim == 2 and self.matrix is None:
            raise ValueError(f"Metric `{self.name}` is for one label a row. Found labels of shape {y.shape}.")
        if y.ndim == 1 and self.function is None:
            raise ValueError(f"Metric `{self.name}` is for several labels a row. Found labels of shape {y.shape}.")
        if y.ndim == 2 or self.needs == "value":
            fits = p.shape == y.shape
        else:
            fits = len(p) == len(y) and p.ndim in self.dimensions
        if fits:
            return
        remedy = ""
        if y.ndim == 1 and self.name == "roc_auc" and p.ndim == 2:
            remedy = " For several classes use `roc_auc_ovr`."
        if y.ndim == 1 and self.name == "roc_auc_ovr" and p.ndim == 1:
            remedy = " For two classes use `roc_auc`."
        shapes = (
            str(y.shape)
            if y.ndim == 2 or self.needs == "value"
            else " or ".join({1: f"({len(y)},)", 2: f"({len(y)}, C)"}[d] for d in self.dimensions)
        )
        raise ValueError(f"`{self.needs}` should have the shape {shapes} for `{self.name}`. Found {p.shape}.{remedy}")


def weights(given: ArrayLike | None, n: int) -> Array:
    """Weights of n rows, 1 each where none are given.

    Raises:
        ValueError: they are not as many, or one is negative or not finite.
    """
    if given is None:
        return np.ones(n)
    weight = np.asarray(given, float)
    if weight.shape != (n,):
        raise ValueError(f"`sample_weight` should have the shape ({n},). Found {weight.shape}.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("`sample_weight` should be finite and not negative. Found a value that is not.")
    return weight


def codes(values: ArrayLike, n: int) -> Array:
    """Groups as 0, 1, ...; the rows without one (`None`, NaN) are a group of their own."""
    found = np.asarray(values)
    if found.shape != (n,):
        raise ValueError(f"Groups should have the shape ({n},). Found {found.shape}.")
    if found.dtype.kind != "O":
        return np.unique(found, return_inverse=True)[1]
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(None if v is None or v != v else v, len(seen)) for v in found], int)
