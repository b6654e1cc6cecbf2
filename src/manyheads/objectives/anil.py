"""MAML whose inner steps move the heads alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..tasks import Task
from .maml import MAML


class ANIL(MAML):
    """As MAML, but only heads adapt: what they read is learned once, for all episodes.

    Args:
        adapt: the parameters of the heads: `heads`, or a pattern of names in a net that is not ours.
        tasks, inner_steps, inner_lr, by, support, query, episodes, ways, norm, vectorised: as MAML has them.

    Reference:
        Raghu, Raghu, Bengio, Vinyals: Rapid learning or feature reuse? Towards understanding the effectiveness of MAML,
        2020.
    """

    entangled = False

    def __init__(
        self,
        tasks: Sequence[Task] | None = None,
        *,
        inner_steps: int = 1,
        inner_lr: float = 0.01,
        adapt: str = "heads",
        by: str | None = None,
        support: int | Sequence[int] = 10,
        query: int = 10,
        episodes: int = 8,
        ways: int | None = None,
        norm: str | None = None,
        vectorised: bool = True,
    ) -> None:
        super().__init__(
            tasks, inner_steps=inner_steps, inner_lr=inner_lr, adapt=adapt, by=by, support=support, query=query,
            episodes=episodes, ways=ways, norm=norm, vectorised=vectorised,
        )  # fmt: skip
