"""The geometric mean of the losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .logarithmic import Logarithmic

FARTHEST = 80.0
"""The largest |log w_k|: float32 ends at 88."""


class GLS(Logarithmic):
    """Geometric loss strategy: the geometric mean in the place of the arithmetic one, so that a task's unit does not
    matter.

    The update of K (prod_k L_k)^(1/K), with K the number of tasks in the step: w_k = p_k GM / L_k, with GM the
    geometric mean and p_k the user's preference. The factor K makes equal losses give their sum.

    Cost: one backward pass.
    State: per task the running mean of |L_k|.
    Safe range: losses above 0. Where one is 0 or less, or under a thousandth of its running mean, that mean stands in
    for it in GM and in w_k, and `note` says so. The preference p_k multiplies w_k: up to its length, the gradient of
    the mean with exponents p_k.

    Reference:
        Chennupati, Sistu, Yogamani, Rawashdeh: MultiNet++: multi-stream feature aggregation and geometric loss strategy
        for multi-task learning, 2019.

    Differs from the paper: NOTE[DIFF] the factor K.
    """

    def ratios(self, divisors: Sequence[float]) -> list[float]:
        logs = [math.log(d) for d in divisors if d]
        mean = math.fsum(logs) / max(len(logs), 1)
        return [math.exp(min(max(mean - math.log(d), -FARTHEST), FARTHEST)) if d else 1.0 for d in divisors]
