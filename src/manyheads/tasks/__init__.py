"""What is predicted. The contract of a task: its head, what counts as wrong, and what its output means."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, final

import numpy as np
import torch
from torch import Tensor, nn

from .. import metrics, results
from ..catalog import find, hint, word
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted
from ..ranges import Range, log

if TYPE_CHECKING:
    import pandas as pd

Self = TypeVar("Self", bound="Task")


@dataclass(frozen=True)
class Task(ABC):
    """One thing to predict: a frozen description, and the mathematics of its type.

    A description is made by the user (`Binary("buy", where="clk == 1")`); `fitted` returns a copy that also knows what
    must be learned from the training labels (classes, mean and sd), and that copy is what a model file keeps.

    Args:
        name: any text; predictions are columns ``<name>``, ``<name>__prob``.
        target: the column (or columns) with the labels; NaN or null means that this label is missing. Default: `name`.
        weight: preference, relative to 1; how it enters is the balance's business.
        loss: which error to minimise, one of `losses`.
        metrics: names of scikit-learn's scorers without ``neg_``, plus ``gauc:<column>``; the first is the primary one.
        where: the sample space, such as ``"clk == 1"``: outside it a label is missing, in the loss and the metric.
        sample_weight: a column with a weight per row, in the loss; metrics count every known label once.
        attach: the stage (or stages) that the head reads, by number or by the dotted name of a module of the encoder,
            which stands for the whole stage that it is in; the last one by default, or those that the encoder has for
            heads that read maps (`Encoder.maps`).
        sees: tasks whose predictions this one's head reads as well, beside its features.

    Raises:
        ConfigError: an unknown loss or metric; the message proposes the nearest one.
    """

    name: str
    _: KW_ONLY
    target: str | tuple[str, ...] | None = None
    weight: float = 1.0
    loss: str = ""
    metrics: tuple[str, ...] = ()
    where: str | None = None
    sample_weight: str | None = None
    attach: int | str | tuple[int | str, ...] | None = None
    sees: tuple[str, ...] = ()

    losses: ClassVar[tuple[str, ...]]
    """Errors on offer, the default first."""
    default_metrics: ClassVar[tuple[str, ...]]
    """The primary metric first."""
    proper: ClassVar[str | None] = None
    """The smooth, proper score that early stopping follows (it does not jump with a few labels, as an AUC does); None
    where it should follow the primary metric."""
    eats: ClassVar[str] = "vector"
    """The features its head reads: vector, sequence or map; richer ones are pooled."""
    search: ClassVar[Mapping[str, Range]] = {"weight": log(0.1, 10)}
    """What may be tuned: setting -> where it is looked for; the default lies within."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("A task's name should not be empty.")
        set_ = object.__setattr__
        for field in fields(self):  # lists come from YAML and from users; frozen values hold tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                set_(self, field.name, tuple(value))
        for field_name in ("metrics", "sees"):
            if isinstance(getattr(self, field_name), str):
                set_(self, field_name, (getattr(self, field_name),))
        if self.attach == ():
            raise ConfigError(f"Task `{self.name}`: `attach` should name a stage or several. Found an empty list.")
        set_(self, "loss", self.loss or self.losses[0])
        set_(self, "metrics", self.metrics or self.default_metrics)
        if self.loss not in self.losses:
            raise ConfigError(f"Task `{self.name}`: no loss is called `{self.loss}`. {hint(self.loss, self.losses)}")
        if not self.weight >= 0:
            raise ConfigError(f"Task `{self.name}`: `weight` should be 0 or more. Found {self.weight}.")
        for metric in self.metrics:
            try:
                kinds = metrics.find(metric).kinds
            except ValueError as error:
                raise ConfigError(f"Task `{self.name}`: {error}") from None
            if self.kind not in kinds and any(self.kind in m.kinds for m in metrics.METRICS.values()):
                fit = ", ".join(m.name for m in metrics.METRICS.values() if self.kind in m.kinds)
                raise ConfigError(f"Task `{self.name}`: `{metric}` is no metric of a {self.kind} task. Known: {fit}.")

    # -- the four answers of a type

    @abstractmethod
    def encode(self, labels: pd.DataFrame) -> tuple[Any, Tensor]:
        """Labels -> (target, known); a missing label may hold any finite value.

        Shape:
            target (rows, ...), a tensor or a `Ragged`; known of the shape of `errors`: the target's, or (rows,).

        Raises:
            DataError: a label that this fitted task has never seen, or cannot be read.
        """

    @abstractmethod
    def head(self, widths: Sequence[int]) -> nn.Module:
        """From features of these widths to the output (batch, units); all dimensions but the last are the batch's."""

    @abstractmethod
    def errors(self, output: Any, target: Any) -> Tensor:
        """One number per label, of the target's shape, or one per row (rows,), the sum over its `sizes` labels; leading
        dimensions broadcast (members of an ensemble)."""

    @abstractmethod
    def predict(self, output: Any) -> Predicted:
        """The output (what `rows` made of it) in the target's units: the value, and probabilities if there are any."""

    # -- what most types leave as it is

    def beside(self: Self, inputs: Mapping[str, Mapping[str, Any]]) -> Self:
        """A copy that knows how the inputs are read which its labels lie on: the canvas of their pictures.

        Args:
            inputs: feature column -> ``kind``, and what else its fitted column type says of itself (`Column.to_json`).

        Raises:
            ConfigError: the task says something else.
        """
        return self

    def fitted(self: Self, labels: pd.DataFrame) -> Self:
        """A copy that knows what the training labels teach: classes, mean and sd."""
        return self

    def tuned(self: Self, output: Tensor, target: Tensor, known: Tensor) -> Self:
        """A copy that knows what the validation outputs teach: a decision threshold."""
        return self

    def sizes(self, target: Any) -> Tensor | None:
        """How many labels each row has (rows,), where `errors` gives one number per row; None where a label is one."""
        return None

    def rows(self, output: Any) -> Any:
        """An output row by row, as it is kept until all rows are there: a tensor (rows, ...), or `Rows` of decisions
        where it is too large to be kept or of another size in each batch."""
        return output

    def moved(self, target: Any, affine: Tensor) -> Any:
        """The target where pictures were moved, for a task whose labels have a place in them.

        Args:
            target: of these rows.
            affine: (rows, 2, 3): the point p of the new picture shows the old one's point affine @ (x, y, 1), where
                a picture spans -1 to 1 from left to right and from top to bottom.
        """
        return target

    def family(self) -> Hashable | None:
        """Tasks of an equal, not None, family have heads of one shape and one `errors`: they are computed together."""
        return None

    def ensemble(self, outputs: Tensor) -> Tensor:
        """One output (batch, units) from those of several members (members, batch, units)."""
        return outputs.mean(0)

    def shown(self, output: Tensor) -> Tensor:
        """What a task that sees this one reads: a differentiable prediction (batch, units)."""
        return output

    def blanked(self, output: Any, known: Tensor) -> Any:
        """The output with 0 where its label is unknown; here a label has all units of the output's last dimension."""
        return output.masked_fill(~known.unsqueeze(-1), 0.0) if isinstance(output, Tensor) else output

    def label_weight(self, target: Tensor) -> Tensor | None:
        """A weight per label, of the target's shape (class weights); None for all ones."""
        return None

    def truth(self, target: Any) -> np.ndarray:
        """Encoded targets in the space that metrics compare: units for numbers, indices for classes, objects."""
        return target.numpy()

    def constant(self, metric: Metric, target: Any, known: Tensor, rows: Any) -> Predicted | None:
        """What is best said without looking at the input: of numbers and classes their mean, median or mode.

        Args:
            metric: that is to judge it.
            target, known: labelled training rows.
            rows: targets of the rows to predict, of which their number and their sizes alone are looked at.

        Returns:
            None where there is nothing to say without the input.
        """
        several = known.numpy() if known.dim() > 1 else None
        return metrics.constant_prediction(metric, self.truth(target), len(rows), known=several)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its classes or labels, by the numbers that metrics have for them."""
        return ()

    def classes_in(self, labels: pd.DataFrame) -> Mapping[Hashable, np.ndarray]:
        """Class -> the rows that have it, where a class that no training row has cannot be encoded later; most types
        have none.

        Raises:
            DataError: a label that cannot be read.
        """
        return {}

    def decode(self, values: np.ndarray) -> np.ndarray:
        """From the space that metrics compare back to what the user's table holds."""
        return values

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        """Predictions as named columns."""
        return {self.name: self.decode(np.asarray(predicted.value))}

    def placed(self, predicted: Predicted, frame: pd.DataFrame) -> Predicted:
        """Predictions in the units of the rows' own inputs, where those tell them: pixels of each picture.

        Args:
            frame: the rows that were predicted.
        """
        return predicted

    @property
    def reads(self) -> tuple[str, ...]:
        """Further columns that `encode` is given with the targets, where the table has them."""
        return ()

    def files(self, predicted: Predicted, names: Sequence[str], frame: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """Predictions as files, (path within the task's folder, content) each; none for what fits in a table.

        Args:
            names: of the rows, free of anything that a file's name may not have.
            frame: the rows that were predicted; texts as the lists of words that the model saw.
        """
        return iter(())

    def show(self, values: Predicted) -> Sequence[results.Shown]:
        """Predictions, or labels as `truth` has them, row by row as a page can draw them; not `placed`."""
        decoded = np.asarray(self.decode(np.asarray(values.value)))
        number = decoded.dtype.kind == "f"
        return [results.Text(text=f"{v:.4g}" if number else str(v), exact=not number) for v in decoded]

    # -- final

    @final
    @property
    def kind(self) -> str:
        """The word of its type."""
        return word(type(self))

    @final
    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that hold its labels."""
        if self.target is None:
            return (self.name,)
        return (self.target,) if isinstance(self.target, str) else self.target

    @final
    def mean_loss(
        self,
        output: Any,
        target: Any,
        known: Tensor,
        weight: Tensor | None = None,
        total: Tensor | float | None = None,
    ) -> Tensor | None:
        """sum(errors * known * weight) / sum(known * weight): averaged within the task, None when nothing is known.

        Args:
            total: the divisor of the whole step, where this is a part of it (accumulation, several tables or ranks).
        """
        summed, count = self.summed(output, target, known, weight)
        if total is None:
            total = count
        return summed / total if bool(count > 0) else None

    @final
    def summed(
        self, output: Any, target: Any, known: Tensor, weight: Tensor | None = None, keep: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """(sum of weighted errors of the known labels, sum of their weights).

        An unknown label teaches nothing: what the net says there is taken out before the error (0 times an infinite
        slope would be NaN), and the error before the sum, so that its gradient is exactly 0 whatever the net says.

        Args:
            keep: the dimensions of `target` that hold several tasks of one family, or several models; their sums are
                kept apart.
        """
        every = weight is None and bool(known.all())
        errors = self.errors(output if every else self.blanked(output, known), target)
        axes = [d for d in range(known.dim()) if d not in keep]
        members = errors.dim() - known.dim()
        sizes = self.sizes(target)
        if every and sizes is None:  # nothing to leave out
            kept = [known.shape[d] for d in keep]
            scale = errors.new_full(kept, known.numel() / max(math.prod(kept), 1))
        else:
            full = known.to(errors.dtype) if weight is None else known * weight.to(errors.dtype)
            errors = errors.masked_fill(~known, 0.0) * full
            scale = (full if sizes is None else full * sizes.to(errors.dtype)).sum(axes)
        if members:
            errors = errors.flatten(0, members - 1).mean(0)
        return errors.sum(axes), scale

    @final
    def to_json(self) -> dict[str, Any]:
        """The description as plain values; `from_json` reads it."""
        return {"type": self.kind} | {
            f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v
            for f in fields(self)
            if getattr(self, f.name) != f.default
        }

    @staticmethod
    @final
    def from_json(value: Mapping[str, Any]) -> Task:
        """A task from ``{"type": ..., "name": ..., ...}``.

        Raises:
            ConfigError: an unknown type or setting.
        """
        settings = dict(value)
        try:
            cls = find(Task, settings.pop("type", ""))  # type: ignore[type-abstract]
        except ValueError as error:
            raise ConfigError(str(error)) from None
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"A {word(cls)} task has no setting `{key}`. {hint(key, known)}")
        return cls(**settings)

    @final
    def _replace(self: Self, **changes: Any) -> Self:
        return replace(self, **changes)


def column(labels: pd.DataFrame, task: Task) -> pd.Series:
    """The one target column of a task that has one."""
    if len(task.targets) != 1:
        raise ConfigError(f"Task `{task.name}` should have one target column. Found {', '.join(task.targets)}.")
    return labels[task.targets[0]]


def numbers(series: pd.Series, task: Task) -> np.ndarray:
    """A label column as float64, NaN where missing.

    Raises:
        DataError: text or an infinite number among the labels.
    """
    import pandas as pd

    values = pd.to_numeric(series, errors="coerce")
    broken = values.isna() & series.notna()
    if broken.any():
        raise DataError(
            f"Task `{task.name}`: column `{series.name}` should hold numbers. Found {series[broken].iloc[0]!r} "
            f"in row {(row := int(np.flatnonzero(broken.to_numpy())[0]))}.", row,
        )  # fmt: skip
    array = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(array).any():
        raise DataError(
            f"Task `{task.name}`: column `{series.name}` should hold finite numbers. Found {array[np.isinf(array)][0]} "
            f"in row {(row := int(np.flatnonzero(np.isinf(array))[0]))}; leave the cell empty if the label is missing.",
            row,
        )
    return array


def class_indices(series: pd.Series, classes: Sequence[Any], task: Task) -> np.ndarray:
    """A label column as indices into `classes`, -1 where missing.

    Raises:
        DataError: a label never seen in training.
    """
    import pandas as pd

    key = {plain(c): i for i, c in enumerate(classes)}
    codes, found = pd.factorize(series)  # -1 where missing, which reads the last entry below
    indices = np.array([*(key.get(plain(v), -2) for v in found), -1], dtype=np.int64)[codes]
    if (indices == -2).any():
        row = int(np.flatnonzero(indices == -2)[0])
        shown = ", ".join(map(str, classes[:10])) + (", ..." if len(classes) > 10 else "")
        raise DataError(
            f"Task `{task.name}`: column `{series.name}` has the label {plain(series.iloc[row])!r} in row {row}, which "
            f"was never seen in training. Known labels: {shown}.", row,
        )  # fmt: skip
    return indices


def rows_with(found: Iterable[tuple[int, Iterable[Hashable]]]) -> dict[Hashable, np.ndarray]:
    """(row, classes) pairs -> class -> its rows."""
    answer: dict[Hashable, list[int]] = {}
    for row, classes in found:
        for one in dict.fromkeys(classes):
            answer.setdefault(one, []).append(row)
    return {one: np.array(rows) for one, rows in answer.items()}


def plain(value: Any) -> Any:
    """A label as a plain Python value: 1.0, True and numpy's 1 are the label 1."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def distinct(series: pd.Series) -> list[Any]:
    """The distinct labels in sorted order, as plain values."""
    found = {plain(v) for v in series.dropna().unique()}
    return sorted(found, key=lambda v: (isinstance(v, str), v))


def tensor(array: np.ndarray) -> Tensor:
    """A float32 or int64 tensor of labels."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind in "iu" else np.float32))
