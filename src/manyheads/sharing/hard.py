"""Hard sharing: one trunk for all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..data import Inputs
from ..encoders import Encoder
from ..tasks import Task
from . import Features, Sharing, Trace, depth_of, hand


class Hard(Sharing):
    """One trunk feeds every head: min over Theta_s, Theta_1..K of sum_k L_k(f(x; Theta_s, Theta_k), y^k).

    A task may be attached to an earlier stage than the last (`attach`), or to several; asked alone, it runs no stage
    above the highest it reads.

    Reference:
        Caruana: Multitask learning, 1997.
    """

    attaches = True

    def __init__(self, encoder: Callable[[], Encoder], tasks: Sequence[Task]) -> None:
        super().__init__(encoder, tasks)
        self.encoder = encoder()
        n = len(self.encoder.stages)
        self.depths: dict[str, tuple[int, ...]] = {}
        for task in tasks:
            attach = task.attach if isinstance(task.attach, tuple) else (task.attach,)
            self.depths[task.name] = tuple(depth_of(a, n, task.name) for a in attach)

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
