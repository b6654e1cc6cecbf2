"""Old rows beside the new ones."""

from __future__ import annotations

from typing import ClassVar

from .finetune import FineTune


class Replay(FineTune):
    """Fine-tuning on the old rows and the new ones together: every task goes on learning, each with its full weight.

    Args:
        pace: learning rate of the trunk, relative to that of the new head.

    Reference:
        Robins: Catastrophic forgetting, rehearsal and pseudorehearsal, 1995.
    """

    replays: ClassVar[bool] = True
