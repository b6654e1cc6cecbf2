"""Random loss weighting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

from torch import Tensor

from ..blocks import seed_of
from . import Look, Losses, Weighting

MASSES: dict[str, Callable[[float], float]] = {
    "normal": lambda u: math.exp(NormalDist().inv_cdf(u)),
    "uniform": math.exp,
    "dirichlet": lambda u: -math.log(u),
}
"""From a uniform number in (0, 1) to the mass of a task, before masses are normalised."""


class RLW(Weighting):
    """Random loss weighting: new weights in each step, a baseline that anything cleverer has to beat.

    w_k = p_k K exp(x_k) / sum_j exp(x_j), with x_k drawn anew in each step from N(0, 1), or uniformly from (0, 1), K
    the number of tasks in the step and p_k the user's preference; or w / K from the flat Dirichlet distribution.

    Cost: one backward pass.
    State: per task the number of its steps: the draw is a function of seed, name and that number.
    Safe range: all losses. The preference p_k multiplies w_k.

    Args:
        distribution: ``normal``, ``uniform`` or ``dirichlet``.
        seed: of the draws.

    Raises:
        ValueError: an unknown distribution.

    Reference:
        Lin, Ye, Zhang, Tsang: Reasonable effectiveness of random weighting: a litmus test for multi-task learning,
        2022.
    """

    def __init__(self, distribution: str = "normal", seed: int = 0) -> None:
        super().__init__()
        if distribution not in MASSES:
            raise ValueError(f"`distribution` should be one of {', '.join(MASSES)}. Found `{distribution}`.")
        self.distribution, self.seed = distribution, seed

    def weights(self, losses: Losses) -> Tensor:
        masses = [self._mass(task) for task in losses.tasks]
        total = math.fsum(masses)
        return losses.preferences() * losses.vector.new_tensor([len(masses) * mass / total for mass in masses])

    def _mass(self, task: str) -> float:
        drawn = seed_of(self.seed, "rlw", task, self.state.get(task, {"n": 0})["n"]) >> 11
        return MASSES[self.distribution]((drawn + 0.5) / 2**52)

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task in losses:
            self.state[task] = {"n": self.state.get(task, {"n": 0})["n"] + 1}
