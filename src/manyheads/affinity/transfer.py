"""How well does what one task has learned serve another?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .. import baselines
from ..data import Taskset
from ..evaluate import Skill
from . import Estimator, Reading, no_common
from .singles import Singles


class Transfer(Estimator[Singles]):
    r"""Skill of the target on the frozen trunk of the source's model, against its skill on its own trunk.

    .. math:: T_{i \to j} = s_j(z^i) - s_j(z^j), \qquad s = (M - M_{constant}) / (M_{best} - M_{constant})

    with :math:`z^i` what the head of task i's own model reads, and :math:`s_j` the skill of task j's primary metric, on
    rows that no model learned from, with a linear head (ridge, logistic or Poisson regression, its strength chosen by
    folds) fitted on the training rows. 0: the source's trunk serves the target as well as its own; negative: worse. The
    own value is :math:`s_j(z^j)`.

    Row i, column j is what i does for j. The trunk is never moved, so this is what is there already, not what sharing
    would make of it; few pairs are above 0.

    Cost:
        1 single-task model per task, which a comparison trains anyway, and a linear model per pair.

    Reference:
        Zamir, Sax, Shen, Guibas, Malik, Savarese: Taskonomy: disentangling task transfer learning, 2018.

    *Differs from the paper*: linear heads, and differences of skill in place of ranks by a pairwise tournament.
    """

    looks_at = "single"
    directed = True
    gain = False
    unit = "skill of the target on the source's frozen trunk, minus that on its own; 0: as good as its own"

    def measure(self, seen: Singles) -> Reading:
        skills: dict[tuple[str, str], float] = {}
        missing: dict[tuple[str, str], str] = {}
        for target in seen.names:
            for source in (target, *(t for t in seen.names if t != target)):
                tables = [t for t in seen.common(source, target) if target in seen.train.get(t, _NONE).tasks]
                if not tables:
                    missing[source, target] = no_common("table of the same feature columns")
                elif (source != target and (why := missing.get((target, target)))) or (
                    why := self._skill(seen, source, target, tables, skills)
                ):
                    missing[source, target] = why
        cells = {(i, j): s if i == j else s - skills[j, j] for (i, j), s in skills.items() if (j, j) in skills}
        return Reading(cells, {pair: why for pair, why in missing.items() if pair[0] != pair[1]})

    def _skill(
        self, seen: Singles, source: str, target: str, tables: list[str], skills: dict[tuple[str, str], float]
    ) -> str:
        """Puts the skill in its place; why not, where there is none."""
        task = seen.tasks[target]
        if task.eats != "vector":
            return f"A linear head does not predict a task of the type {task.kind}."
        train, held = (
            {table: _frozen(seen, source, target, part, table) for table in tables} for part in ("train", "held")
        )
        layouts = {t: {"numeric": rows.inputs["numeric"].shape[1], "categorical": []} for t, rows in train.items()}
        # the strength is chosen on training rows alone; held rows are for the score
        found = baselines.run(("linear",), task, [train], held, layouts, seen.seed % 2**31)["linear"]
        skill = Skill({target: task.metrics[0]}, [task], train, held)(target, found.score.value)
        if skill is None:
            return found.score.why or "The skill of the target is undefined on the held-out rows."
        skills[source, target] = skill
        return ""


_NONE = Taskset({"numeric": torch.empty(0, 1)}, ())


def _frozen(seen: Singles, source: str, target: str, part: str, table: str) -> Taskset:
    """The rows of a table, labelled for the target, with what the source's trunk makes of them in place of inputs."""
    rows: Taskset = getattr(seen, part)[table]
    inputs: dict[str, Any] = {
        "numeric": seen.features(source, table, part).float(),
        "categorical": torch.empty(len(rows), 0, dtype=torch.long),
    }
    return replace(rows.only([target]), inputs=inputs)
