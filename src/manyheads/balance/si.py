"""The scale-invariant sum: of the losses' logarithms."""

from __future__ import annotations

from collections.abc import Sequence

from .logarithmic import Logarithmic, over_sizes


class SI(Logarithmic):
    """Scale-invariant sum: that of the logarithms, so that a task's unit does not matter.

    The update of sum_k p_k log L_k, with p_k the user's preference, whose weights are p_k / L_k; they are brought to
    w_k = p_k K (1 / L_k) / sum_j (1 / L_j), with K the number of tasks in the step.

    Cost: one backward pass.
    State: per task the running mean of |L_k|.
    Safe range: losses above 0. Where one is 0 or less, or under a thousandth of its running mean, that mean stands in
    for it, and `note` says so. Where one loss is far nearer 0 than all others, the sum K leaves the others little: an
    optimiser like Adam does not mind, plain descent does (`GLS` has the same direction and does not shrink so). The
    preference p_k multiplies w_k, which is the sum's own gradient.

    Reference:
        Navon et al.: Multi-task learning as a bargaining game, 2022 (as a baseline).

    Differs from the paper: NOTE[DIFF] there the weights are 1 / L_k as they are, so that the update grows without bound
    as the losses fall; here they sum to K.
    """

    def ratios(self, divisors: Sequence[float]) -> list[float]:
        return over_sizes([0.0] * len(divisors), divisors)
