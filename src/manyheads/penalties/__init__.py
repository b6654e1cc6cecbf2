"""What weights should be like. The contract of a penalty: a number R(W) to be kept small, and its proximal step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from torch import Tensor

from ..ranges import Range, log

PLACES = ("copies", "heads", "shared", "all")
BETWEEN = ("copies", "heads")
"""The places of penalties between tasks."""
FROM = ("zero", "mean", "start")
STEPS = ("prox", "loss")


class Penalty(ABC):
    """strength * R(W), where W are weights of tasks that correspond to each other.

    By default it is applied after each step of the optimiser, as a proximal step of its own with the current learning
    rate: W <- argmin_V 1/2 ||V - W||^2 + lr * strength * R(V). So it is exact where R has kinks (weights become 0, not
    nearly 0), and an optimiser that rescales gradients does not rescale it. `step="loss"` adds strength * R(W) to the
    loss instead.

    With plain SGD this leads to the minimum of loss + strength * R. With Adam it does not, as AdamW's weight decay does
    not: Adam moves each weight by about the learning rate however small its gradient is, so that the strength counts
    against 1, not against the loss's gradient. Take SGD where the minimum itself is wanted.

    Shape:
        W (tasks, ...): what each task has in the same place, side by side; (1, ...) for weights that tasks share.

    Args:
        strength: the factor in front of R, at least 0.
        on: ``copies``: parameters of which each task has a copy of its own; ``heads``: of heads of one shape;
            ``shared``: those that tasks share, each by itself; ``all``.
        of: what R sees: the weights (``zero``), their deviations from the mean over tasks (``mean``) or from where they
            started (``start``).
        step: ``prox`` or ``loss``.
        biases: vectors (biases, norms) too.

    Raises:
        ValueError: a negative strength, an unknown word, a proximal step on deviations from a mean that it would move.
    """

    places: ClassVar[tuple[str, ...]] = PLACES
    """Where it can be applied; ``features`` stands for pairs of shared and private features."""
    steps: ClassVar[tuple[str, ...]] = STEPS
    keeps_mean: ClassVar[bool] = True
    """Whether the proximal step of tasks whose mean is 0 has mean 0: else it is not the step of R(W - mean)."""
    search: ClassVar[Mapping[str, Range]] = {"strength": log(1e-5, 0.1)}
    """What is tuned unless a config says otherwise: setting -> where it is looked for; the default lies within."""

    def __init__(
        self, strength: float = 1e-3, *, on: str | None = None, of: str = "zero", step: str | None = None,
        biases: bool = False,
    ) -> None:  # fmt: skip
        on, step = on or self.places[0], step or self.steps[0]
        if not strength >= 0:
            raise ValueError(f"`strength` should be 0 or more. Found {strength}.")
        for name, value, known in (("on", on, self.places), ("of", of, FROM), ("step", step, self.steps)):
            if value not in known:
                raise ValueError(f"`{name}` should be one of {', '.join(known)}. Found `{value}`.")
        if of == "mean" and step == "prox" and not self.keeps_mean:
            raise ValueError(
                "`of: mean` should go with `step: loss` here: deviations from a mean sum to 0, so they are hardly ever "
                "sparse, and this proximal step would move the mean. For sparse differences use pairwisel1, dirty, "
                "robust or outlier."
            )
        self.strength, self.on, self.of, self.step, self.biases = strength, on, of, step, biases

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """R(W) without the strength, a scalar with a finite (sub)gradient everywhere."""

    @abstractmethod
    def prox(self, w: Tensor, t: float) -> Tensor:
        """argmin_V 1/2 ||V - W||^2 + t R(V), of W's shape; runs under `torch.func.vmap`."""

    def among(self, tasks: Sequence[str], every: Sequence[str]) -> Penalty:
        """This penalty for a stack of these tasks, in this order; itself, where it does not matter who is who.

        Args:
            every: all tasks of the model.
        """
        return self

    def new_epoch(self, w: Tensor, start: Tensor) -> Tensor:
        """Where deviations from the start are counted from in the next epoch; the start itself by default."""
        return start

    @final
    def loss(self, w: Tensor, start: Tensor | None = None) -> Tensor:
        """strength * R of what `of` says."""
        return self.strength * self.value(w if self.of == "zero" else w - self._centre(w, start))

    @final
    def shrunk(self, w: Tensor, lr: float, start: Tensor | None = None) -> Tensor:
        """W after the proximal step; its centre (the mean over tasks, the start) stays where it is."""
        if self.of == "zero":
            return self.prox(w, lr * self.strength)
        centre = self._centre(w, start)
        return centre + self.prox(w - centre, lr * self.strength)

    def _centre(self, w: Tensor, start: Tensor | None) -> Tensor:
        if self.of == "mean":
            return w.mean(0, keepdim=True)
        assert start is not None
        return start

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in sorted(vars(self).items()))})"


def __getattr__(name: str) -> type[Penalty]:
    """The answers of this folder by their class name: ``penalties.Trace``."""
    from ..catalog import find, index

    if name.lower() in index(Penalty):
        cls = find(Penalty, name)  # type: ignore[type-abstract]
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
