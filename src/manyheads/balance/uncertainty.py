"""Learnt uncertainties of the tasks."""

from __future__ import annotations

from .learntscale import LearntScale


class Uncertainty(LearntScale):
    """Homoscedastic uncertainty: minimise sum_k p_k (exp(-s_k) L_k + s_k) over the net and over s_k = log sigma_k^2.

    At the optimum of s_k the weight is 1 / L_k, so tasks of any scale get one size; s_k starts at 0, which is `Equal`.

    Cost: one backward pass.
    State: s_k and its Adam moments.
    Safe range: losses above 0 (a loss of 0 drives s_k to its limit of -30); the preference p_k multiplies the weight.

    Args:
        lr: step of the Adam that moves s_k, in units of s.

    Raises:
        ValueError: `lr` is not positive.

    *Differs from the paper*: NOTE[DIFF] one form for regression and classification (the paper has 1/2 exp(-s) L + s/2
    for regression, the same up to the factor 1/2); s_k is moved by its own Adam, so that a bare `balance.backward` in
    anyone's loop learns it.

    Reference:
        Kendall, Gal, Cipolla: Multi-task learning using uncertainty to weigh losses for scene geometry and semantics,
        2018.
    """

    sign = -1
