"""Norms of groups: whole input columns, output units, tasks or entries become 0 together."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Penalty

GROUPS = {"task": 0, "output": 1, "input": 2, "entry": None}
"""What a group is, and the dimension of (tasks, outputs, inputs, ...) that tells groups apart."""


class _Grouped(Penalty):
    """Groups of entries; a vector counts as the weights of one constant input."""

    def __init__(
        self,
        strength: float = 1e-3,
        *,
        groups: str = "input",
        on: str | None = None,
        of: str = "zero",
        step: str | None = None,
        biases: bool = False,
    ) -> None:
        if groups not in GROUPS:
            raise ValueError(f"`groups` should be one of {', '.join(GROUPS)}. Found `{groups}`.")
        self.groups = groups
        super().__init__(strength, on=on, of=of, step=step, biases=biases)

    def _within(self, w: Tensor) -> tuple[int, ...]:
        """The dimensions that a group spans."""
        if self.groups == "entry":
            return (0,)
        return tuple(i for i in range(w.dim()) if i != GROUPS[self.groups])


def matrices(w: Tensor) -> Tensor:
    """(tasks, outputs, inputs, ...)."""
    return w if w.dim() > 2 else w.reshape(len(w), -1, 1)


class L21(_Grouped):
    """The sum of the groups' lengths, R(W) = sum over groups g of ||W_g||_2, which makes whole groups 0.

    The proximal step is W_g <- max(0, 1 - t / ||W_g||) W_g. Groups are not weighted by their size.

    With the encoder ``linear``, on heads, groups ``input`` and beside the sum over tasks of (1/n) ||y_k - X w_k||^2
    (the loss ``mse``), a strength of 2 alpha gives scikit-learn's MultiTaskLasso,
    (1/2n) ||Y - X W||^2 + alpha ||W||_21: columns that no task needs go for all at once.

    Args:
        strength: the factor in front of R, at least 0.
        groups: ``input``: an input column, over all tasks and outputs (which features are read); ``output``: an output
            unit, over all tasks (which units there are); ``task``: all that a task has in this place; ``entry``: one
            entry, over all tasks.
        on, of, step, biases: see `Penalty`.

    Raises:
        ValueError: an unknown word.

    Reference:
        Yuan, Lin: Model selection and estimation in regression with grouped variables, 2006. Argyriou, Evgeniou,
        Pontil: Multi-task feature learning, 2007.
    """

    @property
    def keeps_mean(self) -> bool:  # type: ignore[override]
        """A group over all tasks is scaled as a whole."""
        return self.groups != "task"

    def value(self, w: Tensor) -> Tensor:
        w = matrices(w)
        return torch.linalg.vector_norm(w, dim=self._within(w)).sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        m = matrices(w)
        length = torch.linalg.vector_norm(m, dim=self._within(m), keepdim=True)
        shrunk = m * (1 - t / length.clamp(min=torch.finfo(w.dtype).tiny)).clamp(min=0)
        return shrunk.reshape(w.shape)


class LInf1(_Grouped):
    """The sum of the groups' largest entries, R(W) = sum over groups g of max |W_g|; also called l1,inf.

    Within a group the largest entries become equal; whole groups become 0. The proximal step is what is left of W_g
    after its projection on the l1 ball of radius t: entries are cut at theta = max(0, max_m (sum of the m largest
    |W_g| - t) / m).

    Args:
        strength: the factor in front of R, at least 0.
        groups: ``input``, ``output``, ``task`` or ``entry``, as for `L21`.
        on, of, step, biases: see `Penalty`.

    Raises:
        ValueError: an unknown word.

    Reference:
        Turlach, Venables, Wright: Simultaneous variable selection, 2005. Quattoni, Carreras, Collins, Darrell: An
        efficient projection for l1,infinity regularization, 2009.
    """

    keeps_mean = False

    def value(self, w: Tensor) -> Tensor:
        w = matrices(w)
        return w.abs().amax(self._within(w)).sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        m = matrices(w)
        within = self._within(m)
        rest = [i for i in range(m.dim()) if i not in within]
        rows = m.abs().permute(*rest, *within).flatten(len(rest))
        largest = rows.sort(-1, descending=True)[0].cumsum(-1)
        count = torch.arange(1, rows.shape[-1] + 1, dtype=w.dtype, device=w.device)
        theta = ((largest - t) / count).amax(-1).clamp(min=0)
        theta = theta.reshape([1 if i in within else m.shape[i] for i in range(m.dim())])
        return torch.minimum(torch.maximum(m, -theta), theta).reshape(w.shape)
