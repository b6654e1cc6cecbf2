"""MAML without second derivatives."""

from __future__ import annotations

from .maml import MAML


class FOMAML(MAML):
    """As MAML, with d phi / d theta = 1: the gradient of the query error at phi is taken for that at theta.

    Args:
        tasks, inner_steps, inner_lr, adapt, by, support, query, episodes, ways, norm, vectorised: as MAML has them.

    Reference:
        Finn, Abbeel, Levine: Model-agnostic meta-learning for fast adaptation of deep networks, 2017, section 5.2.
    """

    first_order = True
    entangled = False
