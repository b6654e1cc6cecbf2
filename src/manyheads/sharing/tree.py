"""A tree: one trunk that branches, so that groups of tasks share a part of their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..blocks import Named
from ..catalog import hint
from ..copies import Copies, stack
from ..data import Inputs
from ..encoders import Encoder
from ..tasks import Task
from . import Beside, Features, Sharing, Trace, by_task, depth_of, depths_of, hand
from .hard import outline

Groups = Sequence[Sequence[str]]
TRUNK = ""
"""The branch of all."""


class Tree(Sharing):
    """One trunk that branches: tasks of one group share a branch, and a branch may branch again.

    At stage s the tasks are divided into groups G, each with stage weights W_{s,G} of its own: task k of group G reads
    z_{s,k} = f(z_{s-1,k}; W_{s,G}). Each division refines the one below it and holds until the next that is given;
    stages below the first one are the trunk, common to all. Branches start alike; those of a stage run as one batched
    computation, each once for all its tasks. By default every task has the last stage to itself.

    With several tables stage 0 belongs to the tables: a division given there holds from stage 1 on. A single task has
    nothing to divide, and its groups are not looked at.

    Cost:
        per stage as many copies as there are groups, one batched pass; up to K trunks where tasks part at stage 0.

    Args:
        levels: stage -> the groups from there on: ``{1: [[a, b], [c]], 2: [[a], [b], [c]]}``. Every task is in one
            group of each level. A stage goes by its number (negative counts from the end) or a module's name.
        groups: a single division, ``[[a, b], [c]]``, such as a measured affinity of tasks suggests.
        from_stage: the stage at which tasks part into `groups`.

    Raises:
        ValueError: a stage or task that there is not, a task in no group or in two, a level that joins tasks which have
            parted below.

    Reference:
        Vandenhende, Georgoulis, De Brabandere, Van Gool: Branched multi-task networks: deciding what layers to share,
        2020. Standley, Zamir, Chen, Guibas, Malik, Savarese: Which tasks should be learned together in multi-task
        learning?, 2020.

    Differs from the paper:
        The groups are given, not searched for.
    """

    attaches = True

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        levels: Mapping[int | str, Groups] | None = None,
        groups: Groups | None = None,
        from_stage: int | str = -1,
    ) -> None:
        super().__init__(encoder, tasks)
        self.trunk = encoder()
        if levels is not None and (groups is not None or from_stage != -1):
            raise ValueError("Either `levels` or `groups` with `from_stage` should say who shares. Found both.")
        if levels is None:
            levels = {from_stage: [[t] for t in self.tasks] if groups is None else groups}
        divided = self._divided(levels, "`from_stage`" if groups is not None or from_stage != -1 else "`levels`")
        self.depths = {t.name: depths_of(t, self.trunk) for t in tasks}
        self.branches: list[dict[str, str]] = []
        """Per stage, task -> the branch that it passes there; a branch of one task has the task's name."""
        for stage, level in enumerate(divided):
            there = [[t for t in group if stage <= max(self.depths[t])] for group in level]
            self.branches.append({t: "\x1f".join(group) for group in there for t in group})
        self._plant(encoder)

    def _divided(self, levels: Mapping[int | str, Groups], what: str) -> list[list[list[str]]]:
        """The groups at each stage, tasks in the model's order."""
        whole = [list(self.tasks)]
        given: dict[int, list[list[str]]] = {}
        for key, groups in levels.items():
            stage = depth_of(key, self.trunk, what)
            if stage in given:
                raise ValueError(f"`levels` should give a stage once. Found stage {stage} twice, as `{key}` too.")
            given[stage] = whole if len(self.tasks) < 2 else self._checked(groups, stage)
        result: list[list[list[str]]] = []
        for stage in range(len(self.trunk.stages)):
            below = result[-1] if result else whole
            level = given.get(stage, below)
            for group in level:
                if not any(set(group) <= set(other) for other in below):
                    raise ValueError(
                        f"Tasks that have parted should stay apart. Found {group} as a group at stage {stage} and "
                        f"{below} below it; part them at stage {stage} at the earliest, or keep them apart there."
                    )
            result.append(level)
        return result

    def _checked(self, groups: Groups, stage: int) -> list[list[str]]:
        where = f"The groups at stage {stage}"
        if isinstance(groups, str) or not all(isinstance(g, Iterable) and not isinstance(g, str) for g in groups):
            raise ValueError(f"{where} should be a list of lists of tasks, such as [[a, b], [c]]. Found {groups!r}.")
        named = [t for group in groups for t in group]
        for task in named:
            if task not in self.tasks:
                raise ValueError(f"{where} name a task `{task}` that there is not. {hint(task, self.tasks)}")
            if named.count(task) > 1:
                raise ValueError(f"{where} should have every task once. Found `{task}` {named.count(task)} times.")
        if missing := [t for t in self.tasks if t not in named]:
            raise ValueError(
                f"{where} should have every task, one that shares with nobody as a group of its own. "
                f"Found none with {', '.join(f'`{t}`' for t in missing)}; add {'it' if len(missing) == 1 else 'them'}."
            )
        return [[t for t in self.tasks if t in group] for group in groups if group]

    def _plant(self, encoder: Callable[[], Encoder]) -> None:
        """The trunk, as far up as all go together or nothing is learnt, and copies of each stage above it."""
        stages = self.trunk.stages
        first = int(len(stages) > 0 and isinstance(stages[0], Named))
        while first < len(stages) and (len({*self.branches[first].values()}) < 2 or not [*stages[first].parameters()]):
            first += 1
        for branches in self.branches[:first]:
            branches |= dict.fromkeys(branches, TRUNK)
        made: dict[str, Encoder] = {}
        copies = []
        for i, branches in enumerate(self.branches[first:], first):
            leads: dict[str, str] = {}
            for task, branch in branches.items():
                if leads.setdefault(branch, task) == task and task not in made:
                    made[task] = encoder() if made else self.trunk
            copies.append(Copies({branch: made[task].stages[i] for branch, task in leads.items()}))
        self.copies = nn.ModuleList(copies)
        self.trunk.stages = stages[:first]

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        top = max(max(self.depths[t]) for t in tasks)
        z: Features = x
        seen: list[dict[str, Features]] = []  # per stage, branch -> what it gave
        for stage in self.trunk.path(table)[: top + 1]:
            z = stage(z)
            seen.append({TRUNK: z})
        below: Mapping[str, str] = dict.fromkeys(tasks, TRUNK)
        given: dict[str, Features] = {TRUNK: z}
        for copies, here in zip(self.copies, self.branches[len(seen) : top + 1], strict=False):
            way = {here[t]: below[t] for t in tasks if t in here}
            read = {branch: self._view(trace, branch, under, given[under]) for branch, under in way.items()}
            given = _grown(copies, read, given, trace is not None and trace.apart)  # type: ignore[arg-type]
            seen.append(given)
            below = here
        if list(given) == list(tasks) and all(self.depths[t] == (top,) for t in tasks):
            return given  # each has the last stage to itself: their features lie side by side already
        features = {}
        for task in tasks:
            branches = [self.branches[d][task] for d in self.depths[task]]
            views = [self._view(trace, task, b, seen[d][b]) for d, b in zip(self.depths[task], branches, strict=True)]
            features[task] = views[0] if len(views) == 1 else views
        return features

    def _view(self, trace: Trace | None, reader: str, branch: str, z: Features) -> Features:
        """What a branch (or a task's head) reads of a branch below: where a task goes on alone, a view of its own."""
        return hand(trace, reader, z) if reader in self.depths and reader != branch else z

    def widths(self, task: str) -> list[int]:
        return [self.trunk.widths[d] for d in self.depths[task]]

    def plan(self) -> list[tuple[int, str]]:
        return outline(self.depths, self.branches)


def _grown(copies: Copies, read: Mapping[str, Features], given: Mapping[str, Features], apart: bool) -> dict[str, Any]:
    """What each of these branches gives for what it reads: one pass, or apart a pass each.

    Args:
        given: what the stage below gave: read as it lies there where each branch goes straight on.
    """
    if apart or len(read) == 1:
        return {branch: copies[branch](z) for branch, z in read.items()}
    names, inputs = tuple(read), list(read.values())
    if all(z is inputs[0] for z in inputs):
        return by_task(names, copies(inputs[0], names))
    straight = len(inputs) == len(given) and all(z is y for z, y in zip(inputs, given.values(), strict=True))
    whole = given.whole if straight and isinstance(given, Beside) else stack(inputs)
    return by_task(names, copies(whole, names, own_input=True))
