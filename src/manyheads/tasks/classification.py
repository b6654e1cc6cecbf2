"""Classes: binary, multiclass, multilabel, ordinal."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import metrics, results
from ..blocks import Head
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted
from . import Task, _constants, class_indices, column, distinct, numbers, plain, tensor

if TYPE_CHECKING:
    import pandas as pd


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.float64)


def _mean_logit(outputs: Tensor) -> Tensor:
    """The logit of the members' mean probability, exact in the tails."""
    return F.logsigmoid(outputs).logsumexp(0) - F.logsigmoid(-outputs).logsumexp(0)


def weights_of(task: Any, class_weight: Any, counts: Mapping[Any, int]) -> tuple[float, ...]:
    """One weight per class: balanced = n / (classes * n_class), as scikit-learn has it, or as the user gave them.

    Raises:
        ConfigError: it names a class that there is not, or is something else.
    """
    if class_weight is None:
        return ()
    if class_weight == "balanced":
        n = sum(counts.values())
        return tuple(n / (len(counts) * max(c, 1)) for c in counts.values())
    if isinstance(class_weight, Mapping):
        given = {plain(k): float(v) for k, v in class_weight.items()}
        unknown = [k for k in given if k not in counts and str(k) not in map(str, counts)]
        if unknown:
            raise ConfigError(
                f"Task `{task.name}`: `class_weight` names {unknown[0]!r}, but the classes are {list(counts)}."
            )
        by_text = {str(k): v for k, v in given.items()}
        return tuple(by_text.get(str(c), 1.0) for c in counts)
    raise ConfigError(
        f"Task `{task.name}`: `class_weight` should be `balanced` or a weight per class. Found {class_weight!r}."
    )


@dataclass(frozen=True)
class _Classes(Task):
    """What tasks with a list of classes have in common."""

    classes: tuple[Any, ...] = ()
    class_weight: Any = None
    weights: tuple[float, ...] = ()
    priors: tuple[float, ...] = ()

    def fitted(self, labels: pd.DataFrame) -> Any:
        series = column(labels, self)
        classes = self.classes or tuple(distinct(series))
        found = class_indices(series, classes, self)
        counts = {c: int((found == i).sum()) for i, c in enumerate(classes)}
        self._check(classes)
        weights = weights_of(self, self.class_weight, counts)
        mass = np.array(list(counts.values())) * np.array(weights or [1.0] * len(classes))
        priors = (mass + 0.5) / (mass.sum() + 0.5 * len(classes))
        return self._replace(classes=classes, weights=weights, priors=tuple(priors.tolist()))

    @property
    def _start(self) -> np.ndarray:
        """The share of each class (under class weights), where a net without knowledge starts."""
        n = max(len(self.classes), 2)
        return np.array(self.priors or [1 / n] * n)

    def _check(self, classes: Sequence[Any]) -> None:
        if len(classes) < 2:
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[0]}` should have two classes or more in the training part. "
                f"Found {'only ' + repr(classes[0]) if classes else 'no label'}."
            )

    def encode(self, labels: pd.DataFrame) -> tuple[Tensor, Tensor]:
        indices = class_indices(column(labels, self), self.classes, self)
        return tensor(np.maximum(indices, 0)), torch.from_numpy(indices >= 0)

    def label_weight(self, target: Tensor) -> Tensor | None:
        return torch.tensor(self.weights)[target.long()] if self.weights else None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(map(str, self.classes))

    def classes_in(self, labels: pd.DataFrame) -> Mapping[Hashable, np.ndarray]:
        import pandas as pd

        codes, found = pd.factorize(column(labels, self))
        return {value: np.flatnonzero(codes == i) for i, value in enumerate(found)}

    def constant(self, metric: Metric, target: Tensor, known: Tensor, rows: Any) -> Predicted | None:
        return metrics.constant_prediction(metric, self.truth(target), len(rows), len(self.classes))

    def decode(self, values: np.ndarray) -> np.ndarray:
        classes = np.empty(len(self.classes), dtype=object)
        classes[:] = self.classes
        decoded = classes[np.asarray(values, dtype=np.int64)]
        return decoded.astype(np.int64) if all(isinstance(c, int) for c in self.classes) else decoded

    def show(self, values: Predicted) -> list[results.Text]:
        """The class, and how sure it is."""
        indices = np.asarray(values.value, dtype=np.int64)
        names = [str(name) for name in self.decode(indices)]
        if values.proba is None:
            return [results.Text(text=name) for name in names]
        proba = np.asarray(values.proba, dtype=np.float64)
        proba = np.stack([1 - proba, proba], axis=1) if proba.ndim == 1 else proba
        chances = proba[np.arange(len(indices)), indices].tolist()
        return [results.Text(text=name, chance=chance) for name, chance in zip(names, chances, strict=True)]

    def _columns_per_class(self, predicted: Predicted) -> dict[str, np.ndarray]:
        proba = np.asarray(predicted.proba)
        shown = {f"{self.name}__prob_{c}": proba[:, i] for i, c in enumerate(self.classes)}
        return {self.name: self.decode(np.asarray(predicted.value))} | shown


@dataclass(frozen=True)
class Binary(_Classes):
    """Yes or no: the net gives the log odds of the positive class.

    Error: -y log p - (1 - y) log(1 - p), with p = sigmoid(output).

    Args:
        classes: (negative, positive); default: the two labels in sorted order, so 1, True and "yes" are positive.
        class_weight: None, ``balanced`` or {class: weight}.
        threshold: probability from which the positive class is predicted, or ``f1``, ``balanced_accuracy``,
            ``accuracy`` or ``matthews_corrcoef`` to choose it on the validation part.
    """

    threshold: float | str = 0.5
    cut: float | None = None

    losses: ClassVar = ("log_loss",)
    default_metrics: ClassVar = ("roc_auc", "average_precision", "log_loss", "accuracy")
    proper: ClassVar = "log_loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = ("f1", "balanced_accuracy", "accuracy", "matthews_corrcoef")
        if isinstance(self.threshold, str) and self.threshold not in chosen:
            raise ConfigError(
                f"Task `{self.name}`: `threshold` should be a probability or one of {', '.join(chosen)}. "
                f"Found `{self.threshold}`."
            )

    def _check(self, classes: Sequence[Any]) -> None:
        super()._check(classes)
        if len(classes) > 2:
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[0]}` should have two classes. Found {len(classes)} "
                f"({', '.join(map(str, classes[:5]))}, ...); use type multiclass or regression."
            )

    def encode(self, labels: pd.DataFrame) -> tuple[Tensor, Tensor]:
        target, known = super().encode(labels)
        return target.float(), known

    def shown(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def head(self, widths: Sequence[int]) -> nn.Module:
        return Head(sum(widths), [float(np.log(self._start[1] / self._start[0]))])

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        logit = output.squeeze(-1)
        return F.binary_cross_entropy_with_logits(logit, target.expand_as(logit), reduction="none")

    def ensemble(self, outputs: Tensor) -> Tensor:
        return _mean_logit(outputs)

    def predict(self, output: Tensor) -> Predicted:
        proba = 1.0 / (1.0 + np.exp(-_numpy(output.squeeze(-1)).clip(-700, 700)))
        return Predicted((proba >= self._cut).astype(np.int64), proba)

    @property
    def _cut(self) -> float:
        if self.cut is not None:
            return self.cut
        return 0.5 if isinstance(self.threshold, str) else float(self.threshold)

    def tuned(self, output: Tensor, target: Tensor, known: Tensor) -> Binary:
        if not isinstance(self.threshold, str) or len(torch.unique(target[known])) < 2:
            return self
        metric = metrics.find(self.threshold)
        y = self.truth(target[known])
        proba = self.predict(output[known]).proba
        assert proba is not None
        levels = np.unique(proba)
        candidates = np.unique(np.quantile(levels, np.linspace(0, 1, min(len(levels), 200))))
        values = [metric(y, Predicted((proba >= c).astype(np.int64), proba)).value or 0.0 for c in candidates]
        scored = [(value, -abs(c - 0.5), c) for value, c in zip(values, candidates, strict=True)]
        return self._replace(cut=float(max(scored)[2]))

    def truth(self, target: Tensor) -> np.ndarray:
        return target.cpu().numpy().astype(np.int64)

    def constant(self, metric: Metric, target: Tensor, known: Tensor, rows: Any) -> Predicted | None:
        return Task.constant(self, metric, target, known, rows)  # one probability a row

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        return {self.name: self.decode(np.asarray(predicted.value)), f"{self.name}__prob": np.asarray(predicted.proba)}

    def family(self) -> Hashable:
        return type(self)


@dataclass(frozen=True)
class Multiclass(_Classes):
    """One of several classes: softmax and cross-entropy -log p_y.

    Args:
        classes: the classes in order; default: all labels of the training part, sorted.
        class_weight: None, ``balanced`` or {class: weight}.
    """

    losses: ClassVar = ("log_loss",)
    default_metrics: ClassVar = ("accuracy", "balanced_accuracy", "log_loss", "f1_macro")
    proper: ClassVar = "log_loss"

    def shown(self, output: Tensor) -> Tensor:
        return torch.softmax(output, -1)

    def head(self, widths: Sequence[int]) -> nn.Module:
        return Head(sum(widths), np.log(self._start).tolist())

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        logp = output.log_softmax(-1)
        if target.is_floating_point():  # shares of the classes, as a teacher says them
            return -(target * logp).sum(-1)
        return -logp.gather(-1, target.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def ensemble(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(-1).logsumexp(0)

    def predict(self, output: Tensor) -> Predicted:
        proba = _numpy(output.double().softmax(-1))
        return Predicted(proba.argmax(-1), proba)

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        return self._columns_per_class(predicted)

    def family(self) -> Hashable:
        return (type(self), len(self.classes))


@dataclass(frozen=True)
class Ordinal(_Classes):
    """One of several ordered levels 0 < 1 < ... < C-1: one score against C-1 thresholds.

    P(y > j) = sigmoid(s(x) + b_j); the error is the mean over j of the binary cross-entropies of [y > j].

    Args:
        classes: the levels in order; default: all labels of the training part, sorted.

    Reference:
        Cao, Mirjalili, Raschka: Rank consistent ordinal regression for neural networks (CORAL), 2020.
    """

    losses: ClassVar = ("log_loss",)
    default_metrics: ClassVar = ("quadratic_weighted_kappa", "mean_absolute_error", "accuracy")
    proper: ClassVar = "log_loss"

    def shown(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def head(self, widths: Sequence[int]) -> nn.Module:
        above = 1 - self._start.cumsum()[:-1]
        return _Thresholds(sum(widths), np.log(above / (1 - above)).tolist())

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        soft = target.is_floating_point()  # P(y > j), as a teacher says them
        above = target if soft else target.unsqueeze(-1) > torch.arange(output.shape[-1], device=target.device)
        above = above.to(output.dtype)
        return F.binary_cross_entropy_with_logits(output, above.expand_as(output), reduction="none").mean(-1)

    def ensemble(self, outputs: Tensor) -> Tensor:
        return _mean_logit(outputs)

    def predict(self, output: Tensor) -> Predicted:
        above = np.minimum.accumulate(_numpy(output.double().sigmoid()), axis=-1)
        edges = np.concatenate([np.ones_like(above[..., :1]), above, np.zeros_like(above[..., :1])], axis=-1)
        return Predicted((above > 0.5).sum(-1), edges[..., :-1] - edges[..., 1:])

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        return self._columns_per_class(predicted)


class _Thresholds(nn.Module):
    """A score and its thresholds: (batch, width) -> (batch, thresholds)."""

    def __init__(self, width: int, start: Sequence[float]) -> None:
        super().__init__()
        self.start = tuple(start)
        self.weight = nn.Parameter(torch.zeros(width, 1))
        self.bias = nn.Parameter(torch.tensor(self.start))

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(torch.tensor(self.start))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@dataclass(frozen=True)
class Multilabel(Task):
    """Several yes/no labels at once, one column each; each label may be missing by itself.

    Error of each label: binary cross-entropy; the task's loss is the mean over all known labels of all columns.

    Args:
        target: the columns, one per label, of 0/1 or True/False.
    """

    priors: tuple[float, ...] = ()

    losses: ClassVar = ("log_loss",)
    default_metrics: ClassVar = ("roc_auc", "average_precision", "f1_macro")
    proper: ClassVar = "log_loss"

    def fitted(self, labels: pd.DataFrame) -> Multilabel:
        target, known = self.encode(labels)
        ones, n = (target * known).sum(0).numpy(), known.sum(0).numpy()
        return self._replace(priors=tuple(((ones + 0.5) / (n + 1)).tolist()))

    def encode(self, labels: pd.DataFrame) -> tuple[Tensor, Tensor]:
        values = np.stack([numbers(labels[c], self) for c in self.targets], axis=1)
        known = ~np.isnan(values)
        wrong = known & ~np.isin(values, (0.0, 1.0))
        if wrong.any():
            row, at = (int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[at]}` should hold 0 and 1. Found {values[row, at]:g} in "
                f"row {row}; leave the cell empty if the label is missing.",
                row,
            )
        return tensor(np.where(known, values, 0.0)), torch.from_numpy(known)

    def shown(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def head(self, widths: Sequence[int]) -> nn.Module:
        p = np.array(self.priors or [0.5] * len(self.targets))
        return Head(sum(widths), np.log(p / (1 - p)).tolist())

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output, target.expand_as(output), reduction="none")

    def blanked(self, output: Tensor, known: Tensor) -> Tensor:
        return output.masked_fill(~known, 0.0)  # each unit has a label of its own

    def ensemble(self, outputs: Tensor) -> Tensor:
        return _mean_logit(outputs)

    def predict(self, output: Tensor) -> Predicted:
        proba = 1.0 / (1.0 + np.exp(-_numpy(output).clip(-700, 700)))
        return Predicted((proba >= 0.5).astype(np.int64), proba)

    def truth(self, target: Tensor) -> np.ndarray:
        return target.cpu().numpy().astype(np.int64)

    def show(self, values: Predicted) -> list[results.Text]:
        """The labels that hold."""
        rows = [[c for c, holds in zip(self.targets, row, strict=True) if holds] for row in np.asarray(values.value)]
        return [results.Text(text=", ".join(row) or f"none of {len(self.targets)}") for row in rows]

    @property
    def parts(self) -> tuple[str, ...]:
        return self.targets

    def constant(self, metric: Metric, target: Tensor, known: Tensor, rows: Any) -> Predicted | None:
        return _constants.labels(metric, self.truth(target), known.numpy(), len(rows))

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        value, proba = np.asarray(predicted.value), np.asarray(predicted.proba)
        values = {f"{self.name}__{c}": value[:, i] for i, c in enumerate(self.targets)}
        return values | {f"{self.name}__prob_{c}": proba[:, i] for i, c in enumerate(self.targets)}
