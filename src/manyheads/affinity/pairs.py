"""What training two tasks together does to each: the gold standard, and the dearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import Estimator, Reading


@dataclass(frozen=True)
class Together:
    """The scores of one seed on rows that no model learned from: of each task alone, and of each in every pair.

    Attributes:
        alone: task -> its primary metric.
        paired: (task, partner) -> the task's metric where it was trained with that partner.
        baseline: task -> what changes are relative to, the size of its mean over seeds alone; None: changes are
            absolute.
        greater_is_better: task -> the metric's direction.
    """

    alone: Mapping[str, float | None]
    paired: Mapping[tuple[str, str], float | None]
    baseline: Mapping[str, float | None]
    greater_is_better: Mapping[str, bool]


class Pairs(Estimator[Together]):
    r"""The change of the target where it is trained jointly with the source alone, against the target by itself.

    .. math:: \delta_{i \to j} = \pm (M_j^{\{i, j\}} - M_j^{\{j\}}) / |\bar M_j^{\{j\}}|

    with + where greater is better: the delta of `compare`, of models of hard sharing with the same budget, on rows that
    none learned from; absolute for R2, and where the baseline is near 0. Positive: the source helps.

    What pairs do is not yet what larger groups do: the paper averages over pairs to predict those.

    Cost:
        1 joint model per pair and 1 single-task model per task: K (K + 1) / 2 trainings.

    Reference:
        Standley, Zamir, Chen, Guibas, Malik, Savarese: Which tasks should be learned together in multi-task learning?,
        2020 (higher-order approximation).
    """

    looks_at = "pairs"
    directed = True
    gain = True
    unit = "change of the target's metric when trained with the source, against alone; positive: better"

    def measure(self, seen: Together) -> Reading:
        cells: dict[tuple[str, str], float] = {}
        missing: dict[tuple[str, str], str] = {}
        for target, alone in seen.alone.items():
            for source in seen.alone:
                if source == target:
                    continue
                together = seen.paired.get((target, source))
                if alone is None or together is None:
                    missing[source, target] = "The target's metric is undefined on the held-out rows."
                    continue
                change = together - alone if seen.greater_is_better[target] else alone - together
                cells[source, target] = change / (seen.baseline[target] or 1.0)
        return Reading(cells, missing)
