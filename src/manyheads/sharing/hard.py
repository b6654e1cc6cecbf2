"""Hard sharing: one trunk for all tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..data import Inputs
from ..encoders import Encoder
from ..tasks import Task
from . import Features, Sharing, Trace, depths_of, hand


class Hard(Sharing):
    """One trunk feeds every head: min over Theta_s, Theta_1..K of sum_k L_k(f(x; Theta_s, Theta_k), y^k).

    A task may be attached to an earlier stage than the last (`attach`), or to several; asked alone, it runs no stage
    above the highest it reads, and its loss reaches none.

    Cost:
        1 trunk, one pass: what all others are measured by.

    Reference:
        Caruana: Multitask learning, 1997.
    """

    attaches = True

    def __init__(self, encoder: Callable[[], Encoder], tasks: Sequence[Task]) -> None:
        super().__init__(encoder, tasks)
        self.encoder = encoder()
        self.depths = {t.name: depths_of(t, self.encoder) for t in tasks}

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        top = max(max(self.depths[task]) for task in tasks)
        seen: list[Features] = []
        z: Features = x
        for stage in self.encoder.path(table)[: top + 1]:
            z = stage(z)
            seen.append(z)
        features = {}
        for task in tasks:
            read = [hand(trace, task, seen[d]) for d in self.depths[task]]
            features[task] = read[0] if len(read) == 1 else read
        return features

    def widths(self, task: str) -> list[int]:
        return [self.encoder.widths[d] for d in self.depths[task]]

    def plan(self) -> list[tuple[int, str]]:
        return outline(self.depths, [dict.fromkeys(self.tasks, "")] * len(self.encoder.stages))


def outline(
    depths: Mapping[str, Sequence[int]], branches: Sequence[Mapping[str, str]], at: int = 0, indent: int = 0
) -> list[tuple[int, str]]:
    """Stages, and the heads that read them, as an indented list.

    Args:
        depths: task -> the stages that its head reads.
        branches: per stage, task -> the branch that it passes there.
        at: the stage to begin at, on a branch that all these tasks pass.
    """
    tasks, end = list(depths), at
    while not any(end in depths[t] for t in tasks) and len({branches[end + 1][t] for t in tasks}) == 1:
        end += 1
    lines = [(indent, f"stage{'' if end == at else 's'} {at}{'' if end == at else f' to {end}'}: {', '.join(tasks)}")]
    if here := [t for t in tasks if end in depths[t]]:
        lines.append((indent + 1, f"head{'' if len(here) == 1 else 's'}: {', '.join(here)}"))
    above: dict[str, dict[str, Sequence[int]]] = {}
    for task in tasks:
        if max(depths[task]) > end:
            above.setdefault(branches[end + 1][task], {})[task] = depths[task]
    for group in above.values():
        lines += outline(group, branches, end + 1, indent + 1)
    return lines
