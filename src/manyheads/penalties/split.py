"""Two parts: what tasks have in common in one, what is special to few in the other."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from . import BETWEEN, Penalty
from .l1 import L1
from .l21 import L21, LInf1, matrices
from .trace import Trace, matrix


class _Split(Penalty):
    """R(W) = min over P + Q = W of R_1(P) + ratio R_2(Q)."""

    places = BETWEEN
    keeps_mean = False

    def __init__(
        self,
        strength: float = 1e-3,
        *,
        ratio: float | None = None,
        on: str | None = None,
        of: str = "zero",
        step: str | None = None,
        biases: bool = False,
    ) -> None:
        if ratio is not None and not ratio > 0:
            raise ValueError(f"`ratio` should be above 0. Found {ratio}.")
        self.ratio = ratio
        super().__init__(strength, on=on, of=of, step=step, biases=biases)

    @abstractmethod
    def parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(P, Q) with P + Q = W and the least R_1(P) + ratio R_2(Q)."""


class Dirty(_Split):
    """Common and private features: R(W) = min over P + Q = W of sum_j max |P_j| + ratio sum |Q|, j the input columns.

    P (`LInf1` by input) holds inputs that all tasks read, Q (`L1`) what few entries need beyond that. Both the value
    and the proximal step W - U are exact, where U is the projection of W, column by column, on the entries within
    t ratio whose absolute values sum to at most t.

    With a ratio up to 1/n, n the entries of a column over all tasks, P is empty, from 1 on Q is.

    Args:
        strength: the factor in front of R, at least 0.
        ratio: of the two factors; 1/sqrt(n) by default.
        on, of, step, biases: see `Penalty`.

    Raises:
        ValueError: a ratio that is not above 0, an unknown word.

    Reference:
        Jalali, Ravikumar, Sanghavi, Ruan: A dirty model for multi-task learning, 2010.
    """

    def _columns(self, w: Tensor) -> tuple[Tensor, float]:
        """(columns, entries of a column), and the ratio."""
        rows = matrices(w).movedim(2, 0).flatten(1)
        return rows, rows.shape[1] ** -0.5 if self.ratio is None else self.ratio

    def _back(self, rows: Tensor, w: Tensor) -> Tensor:
        m = matrices(w).movedim(2, 0)
        return rows.reshape(m.shape).movedim(0, 2).reshape(w.shape)

    def value(self, w: Tensor) -> Tensor:
        _, ratio = self._columns(w)
        p, q = self.parts(w)
        return LInf1().value(p) + ratio * L1().value(q)

    def prox(self, w: Tensor, t: float) -> Tensor:
        rows, ratio = self._columns(w)
        size, box = rows.abs(), ratio * t
        # U = sign(W) min(max(|W| - theta, 0), box); its sum falls with theta, at rates that change at `knots`
        knots, order = torch.cat([size, size - box], 1).sort(1, descending=True)
        rate = torch.where(order < size.shape[1], 1.0, -1.0).to(w.dtype)
        area, rate = (rate * knots).cumsum(1), rate.cumsum(1)
        within = ((area - rate * knots) <= t).sum(1, keepdim=True).clamp(min=1) - 1
        area, rate = area.gather(1, within), rate.gather(1, within)
        theta = ((area - t) / rate.clamp(min=1)).clamp(min=0)
        u = rows.sign() * (size - theta).clamp(min=0, max=box)
        return self._back(rows - u, w)

    def parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        rows, ratio = self._columns(w)
        over = int(1 / ratio + 1e-9)  # so many entries may stick out of P
        if over >= rows.shape[1]:
            return torch.zeros_like(w), w
        top = rows.abs().sort(1, descending=True)[0][:, over : over + 1]
        p = self._back(torch.minimum(torch.maximum(rows, -top), top), w)
        return p, w - p


class _Found(_Split):
    """Parts that Douglas-Rachford splitting finds.

    It solves min over P, Q of R_1(P) + ratio R_2(Q) + 1/(2 t) ||W - P - Q||^2; where t is 0, under P + Q = W.
    """

    iterations: ClassVar[int]

    @abstractmethod
    def _first(self, w: Tensor, t: Tensor) -> Tensor:
        """The proximal step of R_1."""

    @abstractmethod
    def _second(self, w: Tensor, t: Tensor) -> Tensor:
        """The proximal step of R_2."""

    @abstractmethod
    def _sum(self, p: Tensor, q: Tensor, ratio: float) -> Tensor:
        """R_1(P) + ratio R_2(Q)."""

    @abstractmethod
    def _ratio(self, w: Tensor) -> float:
        """The given ratio, or the middle of those with which neither part is always empty."""

    def _solve(self, w: Tensor, t: float, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        """(P, Q, U), where U is a subgradient of R at P + Q."""
        step = (0.15 * torch.linalg.vector_norm(w)).clamp(min=torch.finfo(w.dtype).tiny ** 0.5)
        z = torch.zeros_like(w)
        p = q = z
        for _ in range(self.iterations):
            p = self._first(z, step)
            rest = w - 2 * p + z
            q = self._second(rest, (step + t) * ratio)
            z = z + w - rest - step / (step + t) * (q - rest) - p
        p = self._first(z, step)
        return p, q, (z - p) / step

    def value(self, w: Tensor) -> Tensor:
        here, ratio = w.detach(), self._ratio(w)
        _, q, u = self._solve(here, 0.0, ratio)
        slope = (u * w).sum()
        return slope + (self._sum(here - q, q, ratio) - slope).detach()

    def prox(self, w: Tensor, t: float) -> Tensor:
        p, q, u = self._solve(w, t, self._ratio(w))
        zero = (p + q == 0) & (w.abs() <= t)
        return torch.where(zero, 0.0, w - t * u)  # P + Q as well, with an error that t makes smaller

    def parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        _, q, _ = self._solve(w, 0.0, self._ratio(w))
        return w - q, q


class Robust(_Found):
    """A common subspace and outlier tasks: R(W) = min over P + Q = W of ||P||_* + ratio sum_k ||Q_k||_2, k the tasks.

    P (`Trace`) makes tasks combinations of few common ones; Q_k (`L21` by task) is 0 but for tasks that do not fit in.
    `parts` tells which these are. With a ratio up to 1/sqrt(K) P is empty, from 1 on Q is.

    Cost:
        200 singular value decompositions of a K x K matrix per place and step. The step is right to about 1e-6 t, the
        value to about 1e-5 of itself, and never too low.

    Args:
        strength: the factor in front of R, at least 0.
        ratio: of the two factors; K^(-1/4) by default.
        on, of, step, biases: see `Penalty`.

    Raises:
        ValueError: a ratio that is not above 0, an unknown word.

    Reference:
        Chen, Zhou, Ye: Integrating low-rank and group-sparse structures for robust multi-task learning, 2011.
    """

    iterations = 200

    def _first(self, w: Tensor, t: Tensor) -> Tensor:
        return Trace().prox(w, t)  # type: ignore[arg-type]

    def _second(self, w: Tensor, t: Tensor) -> Tensor:
        return L21(groups="task").prox(w, t)  # type: ignore[arg-type]

    def _sum(self, p: Tensor, q: Tensor, ratio: float) -> Tensor:
        return Trace().value(p) + ratio * L21(groups="task").value(q)

    def _ratio(self, w: Tensor) -> float:
        return len(w) ** -0.25 if self.ratio is None else self.ratio

    def _solve(self, w: Tensor, t: float, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        if len(w) == 1:
            return super()._solve(w, t, ratio)
        basis, core = torch.linalg.qr(matrix(w).mT)  # neither norm sees a rotation of the entries
        p, q, u = (part @ basis.mT for part in super()._solve(core.mT, t, ratio))
        return p.reshape(w.shape), q.reshape(w.shape), u.reshape(w.shape)


class Outlier(_Found):
    """Common features and outlier tasks: R(W) = min over P + Q = W of sum_j ||P_j||_2 + ratio sum_k ||Q_k||_2.

    j are the input columns, k the K tasks: P (`L21` by input) reads few inputs, the same for all tasks; Q_k (`L21` by
    task) is 0 but for tasks that do not fit in. `parts` tells which these are. With a ratio up to 1/sqrt(K) P is empty,
    from sqrt(d) on, d the number of inputs, Q is.

    Cost:
        100 cheap iterations per place and step. The step is right to about 1e-6 t, the value to about 1e-5 of itself,
        and never too low.

    Args:
        strength: the factor in front of R, at least 0.
        ratio: of the two factors; (d/K)^(1/4) by default.
        on, of, step, biases: see `Penalty`.

    Raises:
        ValueError: a ratio that is not above 0, an unknown word.

    Reference:
        Gong, Ye, Zhang: Robust multi-task feature learning, 2012.
    """

    iterations = 100

    def _first(self, w: Tensor, t: Tensor) -> Tensor:
        return L21(groups="input").prox(w, t)  # type: ignore[arg-type]

    def _second(self, w: Tensor, t: Tensor) -> Tensor:
        return L21(groups="task").prox(w, t)  # type: ignore[arg-type]

    def _sum(self, p: Tensor, q: Tensor, ratio: float) -> Tensor:
        return L21(groups="input").value(p) + ratio * L21(groups="task").value(q)

    def _ratio(self, w: Tensor) -> float:
        return (matrices(w).shape[2] / len(w)) ** 0.25 if self.ratio is None else self.ratio
