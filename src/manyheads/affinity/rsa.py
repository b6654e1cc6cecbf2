"""Do two tasks, learned alone, find the same rows alike?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from . import Estimator, Reading
from .representation import compared
from .singles import Singles


class RSA(Estimator[Singles]):
    r"""Representational similarity of single-task models: rank correlation of the distances between rows.

    .. math:: r_{ij} = \mathrm{Spearman}(\{\|z_a^i - z_b^i\|\}_{a<b}, \{\|z_a^j - z_b^j\|\}_{a<b})

    with :math:`z_a^i` what the head of task i's own model reads for row a, over all pairs of some 1,000 rows that no
    model learned from. It does not change when features are rotated, mirrored, moved or scaled. 1: the two tasks find
    the same rows alike. It is symmetric, and its zero is no boundary between help and harm: what matters is which pairs
    are more alike than others. Earlier stages have values of their own.

    Cost:
        1 single-task model per task, which a comparison trains anyway.

    Reference:
        Dwivedi, Roig: Representation similarity analysis for efficient task taxonomy and transfer learning, 2019.
        Vandenhende, Georgoulis, De Brabandere, Van Gool: Branched multi-task networks, 2020.

    *Differs from the papers*: distances are Euclidean rather than 1 - Pearson's correlation, which a rotation of the
    features would change.
    """

    looks_at = "single"
    directed = False
    gain = False
    unit = "rank correlation of the distances between rows, as two single-task models see them; at most 1"

    def measure(self, seen: Singles) -> Reading:
        return compared(seen, _ranks, lambda a, b: float(a @ b))


def _ranks(z: Tensor) -> np.ndarray | None:
    """Ranks of all distances between rows (n, d), of mean 0 and length 1; None where they are all the same."""
    from scipy.spatial.distance import pdist
    from scipy.stats import rankdata

    distances = pdist(z.numpy(), "sqeuclidean")
    if len(distances) < 2 or not np.isfinite(distances).all() or np.ptp(distances) <= 1e-12 * max(distances.max(), 0):
        return None
    ranks = rankdata(distances)
    ranks -= ranks.mean()
    return ranks / np.linalg.norm(ranks)
