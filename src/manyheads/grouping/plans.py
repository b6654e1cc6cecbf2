"""The methods of a study of groups, and the models that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..faults import ConfigError
from ..results import Grouping
from .recommend import BRANCHED, Groups


@dataclass(frozen=True)
class Plan:
    """A method: its groups, and whether they are branches."""

    name: str
    groups: Groups
    branched: bool = False

    def models(self) -> list[Model]:
        """The models that it needs."""
        if self.branched:
            return [Model(tuple(dict.fromkeys(t for g in self.groups for t in g)), self.groups)]
        return [Model(g) for g in self.groups]


@dataclass(frozen=True)
class Model:
    """A model: its tasks, and the branches that it divides them into."""

    tasks: tuple[str, ...]
    branches: Groups = ()


def checked(name: str, groups: Grouping | Sequence[Sequence[str]], names: Sequence[str]) -> Grouping:
    """A grouping with its tasks checked; plain groups become one without predictions."""
    if name in ("joint", "single") or name.endswith(BRANCHED):
        raise ConfigError(f"A grouping should have a name of its own. Found `{name}`, which is a method's already.")
    plain = groups.groups if isinstance(groups, Grouping) else tuple(tuple(g) for g in groups if g)
    for group in plain:
        for task in group:
            if task not in names or group.count(task) > 1:
                raise ConfigError(f"The groups of `{name}` should name tasks, each once. Found {', '.join(group)}.")
    if missing := [t for t in names if not any(t in g for g in plain)]:
        raise ConfigError(
            f"The groups of `{name}` should have every task. Found none with {', '.join(missing)}; a task that shares "
            "with nobody is a group of its own."
        )
    if isinstance(groups, Grouping):
        return groups
    serves = {t: next(i for i, g in enumerate(plain) if t in g) for t in names}
    return Grouping(
        groups=plain, serves=serves, gains=dict.fromkeys(names), total=None, exact=False, budget=len(plain),
        cost=len(plain), overlap=sum(map(len, plain)) > len(names), note="Given, not searched for.",
    )  # fmt: skip


def plans_of(given: Mapping[str, Grouping], names: Sequence[str], branched: bool) -> list[Plan]:
    """All methods: joint, single, the groupings, and those with branches."""
    ordered = {
        name: tuple(tuple(t for t in names if t in group) for group in grouping.groups)
        for name, grouping in given.items()
    }
    plans = [Plan("joint", (tuple(names),)), Plan("single", tuple((t,) for t in names))]
    plans += [Plan(name, groups) for name, groups in ordered.items()]
    for name, grouping in given.items() if branched else ():
        served = [tuple(t for t in names if grouping.serves[t] == g) for g in range(len(grouping.groups))]
        plans.append(Plan(name + BRANCHED, tuple(g for g in served if g), True))
    return plans


def stages_of(plans: Sequence[Plan]) -> dict[str, list[Model]]:
    """What is trained in turn: the joint model, single-task models, groups."""
    joint, single = (dict.fromkeys(plan.models()) for plan in plans[:2])
    rest = dict.fromkeys(key for plan in plans[2:] for key in plan.models() if key not in joint | single)
    found = {"joint model": [*joint], "single-task models": [*single], "groups of tasks": [*rest]}
    return {text: keys for text, keys in found.items() if keys}
