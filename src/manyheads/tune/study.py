"""Trials of one side: kept in SQLite, proposed from those that ended, summed up as a value."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..blocks import seed_of
from ..faults import DataError, MissingExtra
from ..results import Number, Trial
from ..spec import RunSpec
from .space import Space
from .trial import Outcome, Past, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna

START = 8
"""Trials at random before optuna's model of the past proposes."""
ENOUGH = 20
"""Trials that ended by themselves, from which on it is told which settings mattered."""
JOINT, WEIGHTS, SINGLE = "joint", "weights", "single:"


@dataclass(frozen=True)
class Side:
    """One way to train, tuned by itself.

    Attributes:
        spec: what its trials are laid over.
        task: the task that is alone; None for a model of all.
    """

    name: str
    spec: RunSpec
    space: Space
    task: str | None = None

    @property
    def axes(self) -> list[str]:
        """The tasks whose skills are objectives of their own; none where the mean is the objective."""
        several = self.spec.tune.objective == "pareto" and self.task is None and len(self.spec.tasks) > 1
        return list(self.spec.tasks) if several else []


@dataclass(frozen=True)
class Proposal:
    """Settings to try: the place in its side's order, and how optuna keeps them."""

    round: int
    slot: int
    settings: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Any] = field(default_factory=dict)


def check_installed() -> None:
    """See that optuna is here.

    Raises:
        MissingExtra: it is not; the message has the command.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise MissingExtra("`manyheads tune`", "tune") from None


class Study:
    """The trials of one side; those that ended are in an SQLite file, if there is one.

    Nothing but trials that ended is kept, and each round of proposals is drawn by a sampler of its own seed from the
    rounds before it: a search that was interrupted goes on as if it had not been.

    Args:
        side: whose trials they are.
        path: the file; None keeps them in memory.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, side: Side, path: Path | None) -> None:
        import optuna

        quiet()
        self.side = side
        self.directions: list[Any] = ["maximize"] * max(len(side.axes), 1)
        try:
            self._kept = optuna.create_study(
                study_name=side.name,
                storage=None if path is None else f"sqlite:///{path}",
                directions=self.directions,
                load_if_exists=True,
            )
            self.trials = self._sorted()
        except Exception as error:  # whatever the database says
            if path is None:
                raise
            said = " ".join(str(error).split())[:200]
            raise DataError(
                f"`{path}` should be the trials of this search. It cannot be read: {said}. Start anew in another "
                "folder, or with --force."
            ) from error

    def _sorted(self) -> list[optuna.trial.FrozenTrial]:
        return sorted(self._kept.get_trials(deepcopy=False), key=_place)

    @property
    def seconds(self) -> float:
        """What was noted by `spent`."""
        return float(self._kept.user_attrs.get("seconds", 0.0))

    def spent(self, seconds: float) -> None:
        """Note how long the search has taken, all calls together."""
        self._kept.set_user_attr("seconds", seconds)

    @property
    def round(self) -> int:
        """The first round that has not all of its trials."""
        return len(self.trials) // self.side.spec.tune.batch

    def proposals(self) -> list[Proposal]:
        """What is left of the first round that has not all of its trials, within `tune.trials`."""
        tune, now = self.side.spec.tune, self.round
        first = now * tune.batch
        drawn = self._drawn(now, [t for t in self.trials if _place(t)[0] < now])
        there = {_place(t) for t in self.trials}
        return [p for p in drawn if (now, p.slot) not in there and first + p.slot < tune.trials]

    def _drawn(self, now: int, before: Sequence[optuna.trial.FrozenTrial]) -> list[Proposal]:
        """All proposals of a round, from the trials of the rounds before."""
        import optuna

        side = self.side
        seed = seed_of(side.spec.seed, "tune", side.name, now) % 2**32
        with _hushed():
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=START)
            study = optuna.create_study(directions=self.directions, sampler=sampler)
            study.add_trials(list(before))
            if now == 0 and (own := side.space.own(side.spec)) is not None:
                study.enqueue_trial(side.space.asked(own))
            found = []
            for slot in range(side.spec.tune.batch):
                trial = study.ask()
                settings = side.space.suggest(trial)
                asked = study.get_trials(deepcopy=False)[-1]
                found.append(Proposal(now, slot, settings, asked.params, asked.distributions))
        return found

    def tell(self, proposal: Proposal, outcome: Outcome) -> None:
        """Keep a trial that ended."""
        import optuna

        states = optuna.trial.TrialState
        kept = {"done": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        values: list[Any] = [outcome.values.get(axis) for axis in self.side.axes] or [outcome.value]
        state, why = outcome.state, outcome.why
        if state == "done" and any(v is None for v in values):
            state, why = "failed", "The metric of a task is not defined on validation."
        told = {
            "place": [proposal.round, proposal.slot],
            "settings": json.dumps(dict(proposal.settings)),
            "value": outcome.value,
            "values": json.dumps(dict(outcome.values)),
            "rungs": json.dumps(dict(outcome.rungs)),
            "seconds": outcome.seconds,
            "why": why,
        }
        with _hushed():
            self._kept.add_trial(
                optuna.trial.create_trial(
                    state=kept[state],
                    values=values if state == "done" else None,
                    params=dict(proposal.asked),
                    distributions=dict(proposal.ranges),
                    intermediate_values=dict(outcome.course) if outcome.state != "failed" else None,
                    user_attrs=told,
                )
            )
        self.trials = self._sorted()

    def past(self) -> list[Past]:
        """What the trials of the rounds that are over showed, for a pruner."""
        over = [t for t in self.trials if _place(t)[0] < self.round]
        return [
            Past(
                _state(t),
                dict(t.intermediate_values),
                t.user_attrs["value"],
                json.loads(t.user_attrs["rungs"]),
            )
            for t in over
        ]

    def values(self) -> tuple[Trial, ...]:
        """The trials in their order, as values."""
        return tuple(
            Trial(
                number=self.number(t),
                state=_state(t),
                settings=json.loads(t.user_attrs["settings"]),
                value=t.user_attrs["value"],
                values=json.loads(t.user_attrs["values"]),
                course=tuple(sorted(t.intermediate_values.items())),
                seconds=t.user_attrs["seconds"],
                why=t.user_attrs["why"],
            )
            for t in self.trials
        )

    def number(self, trial: optuna.trial.FrozenTrial) -> int:
        """The place of a trial in the order of proposals."""
        now, slot = _place(trial)
        return now * self.side.spec.tune.batch + slot

    def importance(self) -> dict[str, Number]:
        """Setting -> its share in the differences of the mean skill, by PED-ANOVA; settings that all trials have.

        Reference:
            Watanabe, Bansal, Hutter: PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary
            subspaces, 2023.
        """
        import optuna

        done = [t for t in self.trials if _state(t) == "done"]
        if len(done) < ENOUGH or len({t.user_attrs["value"] for t in done}) < 2:
            return {}
        with _hushed():
            study = optuna.create_study(directions=self.directions)
            study.add_trials(done)
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25),
                target=lambda t: -t.user_attrs["value"],  # it takes less to be better
            )
        return {name: float(share) for name, share in found.items()}


def chosen(trials: Sequence[Trial]) -> Trial | None:
    """The best mean skill among those that ended by themselves; the earliest of equal ones."""
    done = [t for t in trials if t.state == "done" and t.value is not None]
    return max(done, key=lambda t: (t.value, -t.number), default=None)


def front(trials: Sequence[Trial], axes: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the trials that no other equals or betters on every axis and betters on one."""
    done = [t for t in trials if t.state == "done" and all(t.values.get(a) is not None for a in axes)]

    def better(one: Trial, other: Trial) -> bool:
        pairs = [(one.values[a], other.values[a]) for a in axes]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)  # type: ignore[operator]

    return tuple(t.number for t in done if not any(better(o, t) for o in done))


def _place(trial: optuna.trial.FrozenTrial) -> tuple[int, int]:
    now, slot = trial.user_attrs["place"]
    return int(now), int(slot)


def _state(trial: optuna.trial.FrozenTrial) -> str:
    return {"COMPLETE": "done", "PRUNED": "pruned"}.get(trial.state.name, "failed")


@contextmanager
def _hushed() -> Iterator[None]:
    """optuna's warnings that something of it is new, or sampled by itself, are for its developers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna.*")
        warnings.filterwarnings("ignore", message=".*experimental.*")
        yield
