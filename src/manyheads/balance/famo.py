"""Fast adaptive multi-task optimisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ranges import Range, log
from . import Look, Losses, Weighting
from .learntscale import adam
from .logarithmic import NEXT_TO_NOTHING, over_sizes, renewed_mean, sizes


class FAMO(Weighting):
    """Fast adaptive multi-task optimisation: the worst rate of improvement is made as good as it can be.

    w_k = p_k K (z_k / D_k) / sum_j (z_j / D_j), with D_k = L_k - min_k the loss above its lower bound, z = softmax(xi)
    over the K tasks in the step and p_k the user's preference: the update of sum_k z_k log D_k. After the optimiser's
    step the same batch's losses are looked at again, and Adam moves xi by the gradient of sum_k z_k delta_k + gamma/2
    |xi|^2, with delta_k = (log D_k before - log D_k after) / p_k: tasks that improved less than others get more.

    Cost: one backward pass, and a further forward pass.
    State: per task xi_k, the moments of its Adam, and the running mean of |D_k|; absent tasks keep theirs.
    Safe range: losses above `min_losses`. Where one is not, or D_k is under a thousandth of its running mean, that mean
    stands in for D_k in w_k, and a thousandth of it in the rate. In a net that draws random numbers (dropout) the look
    should see those of the losses, as that of `Training` does: with other ones, their noise passes for a rate. The
    preference p_k multiplies w_k, and at rest the rates of improvement stand to each other as the preferences do; a
    task of preference 0 has no part in z.

    Args:
        gamma: decay of xi. Too much of it (1e-3) pulls the weights to equal ones before the rates are seen.
        lr: step of the Adam that moves xi.
        min_losses: task -> min_k; 0 for a task that is not named. Needed where a loss may be negative.

    Raises:
        ValueError: a setting is out of range, or `backward` is given no `look`.

    Reference:
        Liu, Feng, Stone, Liu: FAMO: fast adaptive multitask optimization, 2023.

    Differs from the paper: NOTE[DIFF] the weights sum to K, not to 1; 1e-8 is not added to D_k, which small losses
    would notice: the guard against 0 is in units of the loss.
    """

    looks = True
    search: ClassVar[Mapping[str, Range]] = {"gamma": log(1e-6, 1e-2), "lr": log(0.0025, 0.25)}

    def __init__(self, gamma: float = 1e-5, lr: float = 0.025, min_losses: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not (gamma >= 0 and math.isfinite(gamma)):
            raise ValueError(f"`gamma` should be 0 or more. Found {gamma}.")
        if not 0 < lr < math.inf:
            raise ValueError(f"`lr` should be positive. Found {lr}.")
        for task, loss in (min_losses or {}).items():
            if not math.isfinite(loss):
                raise ValueError(f"The lower bound of `{task}` should be finite. Found {loss}.")
        self.gamma, self.lr = gamma, lr
        self._bounds = dict(min_losses or {})
        self.named["min_losses"] = tuple(self._bounds)
        self._preferences: dict[str, float] = {}
        self._pending: tuple[dict[str, float], Look] | None = None

    def weights(self, losses: Losses) -> Tensor:
        above = {t: self._above(t, v) for t, v in zip(losses.tasks, losses.vector.detach().tolist(), strict=True)}
        self._preferences |= {task: losses.weight.get(task, 1.0) for task in above}
        weights = over_sizes(self._log_shares(above), sizes(above, self.state))
        return losses.preferences() * losses.vector.new_tensor(weights)

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        assert look is not None  # `require` has seen to it
        self._pending = dict(losses), look

    def stepped(self) -> None:
        """Look at the losses again, and move xi."""
        if self._pending is None:
            return
        before, look = self._pending
        self._pending = None
        with torch.no_grad():
            found = look()
            after = {task: float(found[task]) for task in before}
        rates = {
            task: self._rate(task, loss, after[task]) / self._preferences.get(task, 1.0)
            for task, loss in before.items()
            if math.isfinite(after[task]) and self._preferences.get(task, 1.0) > 0
        }
        shares = [math.exp(z) for z in self._log_shares(rates)]
        mean = math.fsum(z * rate for z, rate in zip(shares, rates.values(), strict=True))
        for z, (task, rate) in zip(shares, rates.items(), strict=True):
            old = self.state.get(task)
            xi = old["xi"] if old else 0.0
            step, moments = adam(old, z * (rate - mean) + self.gamma * xi, self.lr)
            self.state[task] = {"xi": xi - step, **moments, "mean": renewed_mean(old, self._above(task, before[task]))}

    def _above(self, task: str, loss: float) -> float:
        return loss - self._bounds.get(task, 0.0)

    def _log_shares(self, tasks: Mapping[str, Any]) -> list[float]:
        """log z_k, of these tasks alone."""
        xi = [self.state.get(task, {"xi": 0.0})["xi"] for task in tasks]
        highest = max(xi, default=0.0)
        total = math.fsum(math.exp(x - highest) for x in xi)
        return [x - highest - math.log(total) for x in xi]

    def _rate(self, task: str, before: float, after: float) -> float:
        """log D_k before - log D_k after; 0 for a loss that is nothing."""
        above = self._above(task, before)
        floor = NEXT_TO_NOTHING * self.state.get(task, {"mean": abs(above)})["mean"]
        one, other = max(above, floor), max(self._above(task, after), floor)
        return math.log(one) - math.log(other) if one > 0 and other > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """All that must be kept to go on exactly; a look that is due is taken first."""
        self.stepped()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._pending = None
        super().load_state_dict(state)
