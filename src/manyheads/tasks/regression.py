"""Numbers: regression, counts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import Head
from ..faults import ConfigError, DataError
from ..metrics import Predicted
from . import Task, column, numbers, tensor

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Regression(Task):
    """A number. The net works on the transformed target, predictions come back in the target's own units.

    The transformed target has mean 0 and sd 1 on the training labels, so tasks of different units start with losses of
    one size. Losses, with e = output - target: mse e^2; mae |e|; huber e^2 / 2 where |e| < 1, else |e| - 1/2, at a
    width of one sd of the target.

    Args:
        transform: ``standardise``; ``log1p`` (then standardised; the prediction is the exponential of a mean of
            logarithms, nearer to the median than to the mean); ``none``.

    Raises:
        DataError: a label of -1 or less under ``log1p``.
    """

    transform: str = "standardise"
    mean: float = 0.0
    sd: float = 1.0

    losses: ClassVar = ("mse", "huber", "mae")
    default_metrics: ClassVar = ("r2", "root_mean_squared_error", "mean_absolute_error")
    proper: ClassVar = "r2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform not in ("standardise", "log1p", "none"):
            raise ConfigError(
                f"Task `{self.name}`: `transform` should be standardise, log1p or none. Found `{self.transform}`."
            )

    def _forth(self, values: np.ndarray) -> np.ndarray:
        if self.transform != "log1p":
            return values
        if (values <= -1).any():
            row = int(np.nanargmin(values))
            raise DataError(f"Task `{self.name}`: log1p needs labels above -1. Found {values[row]} in row {row}.", row)
        return np.log1p(values)

    def fitted(self, labels: pd.DataFrame) -> Regression:
        values = self._forth(numbers(column(labels, self), self))
        if self.transform == "none" or np.isnan(values).all():
            return self
        mean, sd = float(np.nanmean(values)), float(np.nanstd(values))
        return self._replace(mean=mean, sd=sd if sd > 1e-12 * max(1.0, abs(mean)) else 1.0)

    def encode(self, labels: pd.DataFrame) -> tuple[Tensor, Tensor]:
        values = self._forth(numbers(column(labels, self), self))
        known = ~np.isnan(values)
        return tensor(np.where(known, (values - self.mean) / self.sd, 0.0)), torch.from_numpy(known)

    def head(self, widths: Sequence[int]) -> nn.Module:
        return Head(sum(widths), [0.0])

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        error = output.squeeze(-1) - target
        if self.loss == "mse":
            return error.square()
        if self.loss == "mae":
            return error.abs()
        return F.huber_loss(error, torch.zeros_like(error), reduction="none")

    def predict(self, output: Tensor) -> Predicted:
        return Predicted(self.truth(output.squeeze(-1)))

    def truth(self, target: Tensor) -> np.ndarray:
        values = target.detach().cpu().numpy().astype(np.float64) * self.sd + self.mean
        return np.expm1(values) if self.transform == "log1p" else values

    def family(self) -> Hashable:
        return (type(self), self.loss)


@dataclass(frozen=True)
class Count(Task):
    """A count, by Poisson regression: the net gives log(rate / mean training count).

    With r = exp(output), the error is r - (y / mean) output, the Poisson negative log likelihood over the mean count
    and without the terms that do not depend on the output.

    Raises:
        DataError: a negative label.
    """

    mean: float = 1.0

    losses: ClassVar = ("poisson",)
    default_metrics: ClassVar = ("mean_poisson_deviance", "root_mean_squared_error", "r2")
    proper: ClassVar = "mean_poisson_deviance"

    def _counts(self, labels: pd.DataFrame) -> np.ndarray:
        values = numbers(column(labels, self), self)
        if (values < 0).any():
            row = int(np.nanargmin(values))
            raise DataError(f"Task `{self.name}`: a count should be 0 or more. Found {values[row]} in row {row}.", row)
        return values

    def fitted(self, labels: pd.DataFrame) -> Count:
        values = self._counts(labels)
        mean = float(np.nanmean(values)) if (~np.isnan(values)).any() else 1.0
        return self._replace(mean=mean if mean > 0 else 1.0)

    def encode(self, labels: pd.DataFrame) -> tuple[Tensor, Tensor]:
        values = self._counts(labels)
        known = ~np.isnan(values)
        return tensor(np.where(known, values / self.mean, 0.0)), torch.from_numpy(known)

    def head(self, widths: Sequence[int]) -> nn.Module:
        return Head(sum(widths), [0.0])

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        return F.poisson_nll_loss(output.squeeze(-1), target.expand_as(output.squeeze(-1)), reduction="none")

    def ensemble(self, outputs: Tensor) -> Tensor:
        return outputs.exp().mean(0).log()

    def predict(self, output: Tensor) -> Predicted:
        return Predicted(np.exp(output.squeeze(-1).detach().cpu().numpy().astype(np.float64)) * self.mean)

    def truth(self, target: Tensor) -> np.ndarray:
        return target.detach().cpu().numpy().astype(np.float64) * self.mean

    def family(self) -> Hashable:
        return type(self)
