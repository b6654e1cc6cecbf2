"""What does a step for one task do to the loss of another?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from . import Estimator, Reading, no_common
from .probe import Probe


class Lookahead(Estimator[Probe]):
    r"""Inter-task affinity (TAG): how much a step for the source lowers the target's loss, during a joint run.

    .. math:: Z_{i \to j} = 1 - L_j(\theta_s - \eta \nabla_{\theta_s} L_i, \theta_j) / L_j(\theta_s, \theta_j)

    with :math:`\theta_s` the shared parameters, heads :math:`\theta_j` fixed, the same batch on both sides, and
    :math:`\eta` the current learning rate of each parameter. Positive: the step helps. The step is plain descent along
    the raw gradient, whatever the optimiser. To first order :math:`Z_{i \to j} = \eta \langle g_i, g_j \rangle / L_j`,
    so that numbers scale with the learning rate and with the target's own loss: compare within a column, and the sign.

    On many tables a step for one task helps nearly every other a little, at first above all, which does not say that
    they should share a model: where groups are chosen, zero is put between like and unlike pairs
    (`grouping.partition.centred`).

    Row i, column j is what i does **to** j. What a task does to itself (its own value) is far larger than what others
    do, and kept apart. Late in a joint run, and where tasks label different rows, the same caution holds as for
    `cosine`.

    Cost:
        1 forward pass, a backward pass and a further forward pass per task, at each look; those are batched.

    Reference:
        Fifty, Amid, Zhao, Yu, Anil, Finn: Efficiently identifying task groupings for multi-task learning, 2021.

    *Differs from the paper*: looks are taken every few steps on batches of their own, without dropout; the published
    code looks ahead along the momentum and divides by the learning rate.

    Args:
        eta: another step size for all parameters than the current learning rates.

    Raises:
        ValueError: `eta` is not positive.
    """

    looks_at = "joint"
    directed = True
    gain = True
    lasting = False
    unit = "relative fall of the target's loss after one step for the source; positive: the step helps"

    def __init__(self, *, eta: float | None = None) -> None:
        if eta is not None and not eta > 0:
            raise ValueError(f"`eta` should be a positive step size, or null. Found {eta}.")
        self.eta = eta

    def measure(self, seen: Probe) -> Reading:
        def moves(source: str) -> Mapping[str, Tensor]:
            return {
                name: g * -(self.eta if self.eta is not None else seen.rate(seen.shared[name]))
                for name, g in seen.gradients[source].items()
            }

        found = seen.after(moves)
        cells, missing = {}, {}
        for i in seen.tasks:
            for j in seen.tasks:
                before, after = seen.losses[j], found.get(i, {}).get(j, math.nan)
                if not seen.gradients[i].keys() & seen.gradients[j].keys():
                    missing[i, j] = no_common("parameter that learns")
                elif not before > 0 or not math.isfinite(after):
                    missing[i, j] = "The target's loss was not a positive number, of which a part could be told."
                else:
                    cells[i, j] = 1 - after / before
        return Reading(cells, missing)
