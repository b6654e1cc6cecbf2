"""Do the gradients of two tasks point the same way?"""

from __future__ import annotations

import numpy as np
import torch

from ..gradients.jacobian import squared
from . import Estimator, Reading, no_common
from .probe import Probe


class Cosine(Estimator[Probe]):
    r"""The cosine of two tasks' gradients over the parameters that both reach, seen while they are trained jointly.

    .. math:: c_{ij} = \langle g_i, g_j \rangle / (\|g_i\| \|g_j\|), \qquad g_i = \partial L_i / \partial \theta_{ij}

    with :math:`L_i` the mean error of task i in a batch and :math:`\theta_{ij}` the parameters that i and j both reach.
    Positive: a small step that lowers one loss lowers the other. Each part of the net has a cosine of its own as well.

    It is a local view. Where a joint model has come to rest the gradients sum to zero, so that the sum over all pairs
    of their products is negative whatever the tasks are: late values say less than early ones, and the course over the
    training time belongs to the answer. Tasks whose gradient is zero (heads that start as constants give the trunk none
    at first) have none.

    Tasks need no row in common: each gradient is over the task's own rows of the batch. Where rows differ so does their
    noise, and cosines are nearer to 0 than over the same rows: compare pairs of one kind.

    Cost:
        1 forward pass and a backward pass per task, at each look.

    Reference:
        Yu, Kumar, Gupta, Levine, Hausman, Finn: Gradient surgery for multi-task learning, 2020 (conflict as a negative
        cosine). Du et al.: Adapting auxiliary losses using gradient similarity, 2018.
    """

    looks_at = "joint"
    directed = False
    gain = False
    unit = "cosine of the two gradients, from -1 to 1; positive: a step for one helps the other"

    def measure(self, seen: Probe) -> Reading:
        names, n = seen.tasks, len(seen.tasks)
        place = {task: i for i, task in enumerate(names)}
        dots: dict[str, np.ndarray] = {}
        sizes: dict[str, np.ndarray] = {}
        for name, part in seen.places.items():
            has = [task for task in names if name in seen.gradients[task]]
            index = np.ix_(*[[place[task] for task in has]] * 2)
            gram = squared(torch.stack([seen.gradients[task][name].flatten() for task in has]))
            dots.setdefault(part, np.zeros((n, n)))[index] += gram
            sizes.setdefault(part, np.zeros((n, n)))[index] += np.diag(gram)[:, None]
        zero = np.zeros((n, n))
        whole = self._cosines(names, sum(dots.values(), zero), sum(sizes.values(), zero))
        missing = {}
        for pair in ((i, j) for i in names for j in names if i != j and (i, j) not in whole):
            both = seen.gradients[pair[0]].keys() & seen.gradients[pair[1]].keys()
            missing[pair] = "The gradient of one of the two was zero." if both else no_common("parameter that learns")
        return Reading(whole, missing, {part: self._cosines(names, dots[part], sizes[part]) for part in dots})

    @staticmethod
    def _cosines(names: tuple[str, ...], dots: np.ndarray, sizes: np.ndarray) -> dict[tuple[str, str], float]:
        """Of inner products [i, j], and of the squared length of i over what it has in common with j."""
        below = np.sqrt(sizes * sizes.T)
        return {
            (a, b): float(np.clip(dots[i, j] / below[i, j], -1.0, 1.0))
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if below[i, j] > 0 and np.isfinite(dots[i, j])
        }
