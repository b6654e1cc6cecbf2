"""What training rows may be turned into. The contract of an augmentation: a batch, changed at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from ..data import Taskset
from ..tasks import Task


class Augmentation(ABC):
    """Changes the rows of a training batch at random: inputs, and those labels that move with them.

    Which random numbers a batch gets follows from the seed, the epoch and the batch's place in it, so a run that is
    resumed goes on as it would have.
    """

    @abstractmethod
    def __call__(self, rows: Taskset, tasks: Mapping[str, Task], random: torch.Generator) -> Taskset:
        """The changed rows; those given stay as they are.

        Args:
            rows: of one table.
            tasks: all tasks by name; a task knows how its label moves with a picture (`Task.moved`).
            random: where random numbers come from.
        """
