"""The loss part of impartial multi-task learning."""

from __future__ import annotations

from .learntscale import LearntScale


class IMTLL(LearntScale):
    """Impartial multi-task learning, the loss part: scales are learnt under which all losses are 1.

    Minimises sum_k p_k (exp(s_k) L_k - s_k) over the net and over s_k, with p_k the user's preference: w_k = p_k
    exp(s_k), which is 1 / L_k where s_k is at rest; s_k starts at 0, which is `Equal`.

    Cost: one backward pass.
    State: per task s_k and the moments of its Adam.
    Safe range: losses above 0; s_k ends at -30 and 30. The preference p_k multiplies w_k and leaves s_k as it is.

    Args:
        lr: step of the Adam that moves s_k, in units of s.

    Raises:
        ValueError: `lr` is not positive.

    Reference:
        Liu et al.: Towards impartial multi-task learning, 2021.

    Differs from the paper: NOTE[DIFF] s_k is moved by its own Adam, so that a bare `balance.backward` in anyone's loop
    learns it. With s_k in the place of -s_k it is then `Uncertainty`, number for number.
    """

    sign = 1
