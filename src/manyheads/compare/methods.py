"""Which way to share, if any? Any set of methods at an equal budget, chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import baselines
from ..ledger import Ledger
from ..parallel import cluster
from ..results import MethodStudy
from ..spec import RunSpec
from ..tasks import Task
from . import words
from .cost import costs, efficiency
from .study import Progress, Study
from .ways import Tuned, ways

if TYPE_CHECKING:
    import pandas as pd


def compare_methods(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    methods: Sequence[str] = (),
    *,
    tuned: Tuned | None = None,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    simple: Sequence[str] = tuple(baselines.BASELINES),
    n_jobs: int = 1,
    backend: str = "loky",
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> MethodStudy:
    """Every combination of ways to share, balances and objectives, beside single-task networks and simple models.

    All see the same splits, with the same epochs at most, batches, patience and encoder; equal weights are always among
    the balances. Each is judged against single-task networks, and p values are Holm-adjusted over all tasks of all
    methods. The method to take is chosen on validation, with a bias to the plain and the simple (`verdicts.chosen`);
    after that each test part is read, once.

    Args:
        spec: the run; its split is re-drawn with seeds ``split.seed + repeat``.
        tasks: not fitted.
        tables: {name: frame}.
        methods: axes, as ``sharing=hard,mmoe`` and ``balance=equal,upgrad``.
        tuned: what was tuned (``joint``, ``weights``, ``single:<task>``) -> its settings, as ``a.b=value``.
        targets: {table: tasks it labels}.
        parts: a split of the user's own; then it is kept, and intervals are over test rows.
        repeats: splits (or seeds).
        simple: simple baselines to show.
        n_jobs, backend, ledger: as in `parallel.run_over`.
        progress: told what is being done.

    Raises:
        ConfigError: an unknown axis, word or setting.

    Reference:
        In Defense of the Unitary Scalarization for Deep Multi-Task Learning. Kurin, De Palma, Kostrikov, Whiteson,
        Kumar, 2022. Do Current Multi-Task Optimization Methods in Deep Learning Even Help? Xin, Ghorbani, Garg, Firat,
        Gilmer, 2022 (why equal and tuned weights are always there, and single-task networks have the same tuning).
    """
    tuned = tuned or {}
    own = {name.partition(":")[2]: settings for name, settings in tuned.items() if name.startswith("single:")}
    study = Study(
        spec,
        tasks,
        tables,
        ways(spec, methods, tuned),
        targets=targets,
        parts=parts,
        repeats=repeats,
        simple=simple,
        alone_with=own,
    )
    with cluster(backend, n_jobs):
        study.train(n_jobs, progress, backend=backend, ledger=ledger)
    found = result(study, n_jobs, progress, ledger)
    return found.model_copy(update={"protocol": f"{found.protocol} {_of_search(list(tuned), study)}".strip()})


def _of_search(sides: Sequence[str], study: Study) -> str:
    """Where settings come from that were searched for, in words."""
    if not sides:
        return ""
    seen = "" if study.fixed else ", some of whose rows are in the test parts of other splits"
    apart = [t for t in study.directions if f"single:{t}" not in sides]
    unfair = f" Nobody tuned {', '.join(apart)} alone: their single-task networks have the config's settings." * bool(
        apart
    )
    return f"Settings of {', '.join(sides)} were searched for on the config's own split{seen}.{unfair}"


def result(
    study: Study, n_jobs: int = 1, progress: Progress | None = None, ledger: Ledger | None = None
) -> MethodStudy:
    """The choice, on validation, and then what the test parts say.

    Args:
        study: trained.
        n_jobs, progress, ledger: for the simple baselines.
    """
    study.look()
    choice, valid, reason = study.choose()
    study.read()
    study.fit_simple(n_jobs, progress, ledger)
    verdicts, _ = study.judged()
    comparisons = verdicts.comparisons
    lone = len(study.ways) == 1
    return MethodStudy(
        choice=choice,
        reason=reason,
        recommendation=words.recommended(choice, comparisons, study.parameters),
        tasks=words.by_task(comparisons),
        comparisons=comparisons,
        ranks=verdicts.ranks,
        valid=valid,
        costs=costs(study),
        efficiency={name: efficiency(study, name) for name in study.ways},
        repeats=len(study.rounds),
        summary=verdicts.summary,
        protocol=verdicts.protocol
        if lone
        else f"{verdicts.protocol} The method was chosen on validation, before the test parts were read.",
    )
