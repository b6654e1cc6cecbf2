"""Rows that no tensor holds: of unequal length (sentences, recordings, the boxes of a picture), or any objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Ragged:
    """Rows of unequal length, end to end in one tensor; rows are picked by indexing it, and padded when they are used.

    Args:
        values: all rows one after the other (total, ...).
        lengths: of each row (rows,).

    Raises:
        ValueError: the lengths do not add up to the values.
    """

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        if int(lengths.sum()) != len(values):
            raise ValueError(f"`lengths` should sum to {len(values)}, as many as values. Found {int(lengths.sum())}.")
        self.values, self.lengths = values, lengths
        self._starts = lengths.cumsum(0) - lengths

    @staticmethod
    def of(rows: Sequence[np.ndarray | Tensor], like: Tensor | None = None) -> Ragged:
        """From one array (length, ...) per row.

        Args:
            like: gives the type and the further dimensions where there is no row.
        """
        tensors = [torch.as_tensor(row) for row in rows]
        lengths = torch.tensor([len(row) for row in tensors], dtype=torch.long)
        if tensors:
            return Ragged(torch.cat(tensors), lengths)
        return Ragged(torch.empty(0) if like is None else like[:0], lengths)

    @staticmethod
    def cat(parts: Sequence[Ragged]) -> Ragged:
        """The rows of several, one after the other."""
        return Ragged(torch.cat([p.values for p in parts]), torch.cat([p.lengths for p in parts]))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Tensor | slice) -> Ragged:
        """These rows."""
        lengths, starts = self.lengths[rows], self._starts[rows]
        first = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum()), device=lengths.device)
        return Ragged(self.values[(starts - first).repeat_interleave(lengths) + within], lengths)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.values.split(self.lengths.tolist()))

    def padded(self, fill: float = 0) -> tuple[Tensor, Tensor]:
        """(values (rows, longest, ...), mask (rows, longest), True where there is a value); one column at least."""
        longest = max(int(self.lengths.max()), 1) if len(self) else 1
        mask = torch.arange(longest, device=self.lengths.device) < self.lengths.unsqueeze(1)
        values = self.values.new_full((*mask.shape, *self.values.shape[1:]), fill)
        values[mask] = self.values
        return values, mask

    def to(self, where: torch.dtype | torch.device) -> Ragged:
        """In this floating type (integers stay as they are), or on this device."""
        if isinstance(where, torch.dtype):
            return Ragged(self.values.to(where), self.lengths) if self.values.is_floating_point() else self
        return Ragged(self.values.to(where), self.lengths.to(where))

    def is_floating_point(self) -> bool:
        """Whether its values are floating-point numbers."""
        return self.values.is_floating_point()

    def __repr__(self) -> str:
        return f"Ragged({len(self)} rows, {tuple(self.values.shape)} {self.values.dtype})"


class Rows:
    """One object per row (the spans found in a sentence, a mask, a transcript), picked by indexing it.

    Args:
        items: in the order of the rows.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: Tensor | slice) -> Rows:
        """These rows."""
        return Rows(self.items[rows] if isinstance(rows, slice) else [self.items[i] for i in rows.tolist()])

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def array(self) -> np.ndarray:
        """The objects as they are, in an array (rows,) of objects."""
        return objects(self.items)


def objects(items: Sequence[Any]) -> np.ndarray:
    """An array (n,) of objects, whatever they are (numpy would look inside)."""
    found = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        found[i] = item
    return found


def joined(parts: Sequence[Any]) -> Any:
    """The rows of several tensors, `Ragged` or `Rows`, one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Rows):
        return Rows([item for part in parts for item in part])
    return Ragged.cat(parts) if isinstance(first, Ragged) else torch.cat(list(parts))
