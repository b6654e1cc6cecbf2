"""Squared norms: towards zero, towards the tasks' mean, towards the start, along a graph of tasks."""

from __future__ import annotations

from torch import Tensor

from . import Penalty


class L2(Penalty):
    """The squared norm, R(W) = ||W||^2 = sum_k ||W_k||^2; the proximal step is W / (1 + 2 t).

    Reference:
        Hoerl, Kennard: Ridge regression: biased estimation for nonorthogonal problems, 1970.
    """

    def value(self, w: Tensor) -> Tensor:
        return w.square().sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        return w / (1 + 2 * t)


class Mean(L2):
    """Pull tasks to their mean: R(W) = sum_k ||W_k - mean||^2, whose strength does not grow with the number of tasks.

    The proximal step is W_k <- mean + (W_k - mean) / (1 + 2 t). Without it tasks are independent; with an infinite
    strength and one start for all they are one.

    Reference:
        Evgeniou, Pontil: Regularized multi-task learning, 2004.
    """

    def __init__(
        self, strength: float = 1.0, *, on: str | None = None, step: str | None = None, biases: bool = False
    ) -> None:
        super().__init__(strength, on=on, of="mean", step=step, biases=biases)


class Pairwise(Mean):
    """Pull each pair of tasks together: R(W) = sum over i < j of ||W_i - W_j||^2 = K sum_k ||W_k - mean||^2.

    The right side is what is computed: O(K P) instead of O(K^2 P). (K sum ||W_k||^2 - ||sum W_k||^2 equals it too, and
    cancels in float32.)

    Reference:
        Evgeniou, Pontil: Regularized multi-task learning, 2004.
    """

    def value(self, w: Tensor) -> Tensor:
        return len(w) * super().value(w)

    def prox(self, w: Tensor, t: float) -> Tensor:
        return super().prox(w, len(w) * t)


class L2SP(L2):
    """Stay near the start: R(W) = 1/2 ||W - W_0||^2, with W_0 the weights that training began with.

    Reference:
        Li, Grandvalet, Davoine: Explicit inductive bias for transfer learning with convolutional networks, 2018.
    """

    def __init__(
        self, strength: float = 1e-2, *, on: str = "shared", step: str | None = None, biases: bool = True
    ) -> None:
        super().__init__(strength, on=on, of="start", step=step, biases=biases)

    def value(self, w: Tensor) -> Tensor:
        return super().value(w) / 2

    def prox(self, w: Tensor, t: float) -> Tensor:
        return super().prox(w, t / 2)


class Successive(L2SP):
    """Stay near where the last epoch ended: R(W) = ||W - W'||^2, with W' the weights at the end of the epoch before.

    Reference:
        Hashimoto, Xiong, Tsuruoka, Socher: A joint many-task model: growing a neural network for multiple NLP tasks,
        2017.
    """

    def value(self, w: Tensor) -> Tensor:
        return 2 * super().value(w)

    def prox(self, w: Tensor, t: float) -> Tensor:
        return super().prox(w, 2 * t)

    def new_epoch(self, w: Tensor, start: Tensor) -> Tensor:
        return w.clone()
