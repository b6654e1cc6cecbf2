"""Noise on recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data import Taskset
from ..metrics.sound import FULL
from ..ragged import Ragged
from ..tasks import Task
from . import Augmentation

KINDS = ("white", "babble")


class Noise(Augmentation):
    """Recordings are mixed with noise at a random ratio; labels stay, a clean recording as a label too.

    Args:
        share: of the rows that are mixed.
        kinds: ``white`` (normal) and ``babble`` (the sum of `voices` other rows of the batch), equally often.
        snr: least and most decibels between signal and noise, drawn evenly.
        voices: rows that babble is made of.

    Raises:
        ValueError: a setting that does not fit.
    """

    def __init__(
        self,
        share: float = 0.5,
        kinds: Sequence[str] = KINDS,
        snr: Sequence[float] = (0.0, 20.0),
        voices: int = 4,
    ) -> None:
        if not kinds or set(kinds) - set(KINDS):
            raise ValueError(f"`kinds` should be among {', '.join(KINDS)}. Found {list(kinds)}.")
        if not 0 <= share <= 1 or len(snr) != 2 or not snr[0] <= snr[1] or voices < 1:
            raise ValueError(
                "`share` should be between 0 and 1, `snr` two numbers with the least first and `voices` at least 1. "
                f"Found {share}, {list(snr)}, {voices}."
            )
        self.share, self.kinds, self.snr, self.voices = share, tuple(kinds), tuple(snr), voices

    def __call__(self, rows: Taskset, tasks: Mapping[str, Task], random: torch.Generator) -> Taskset:
        changed = {
            key: self._mixed(values, random)
            for key, values in rows.inputs.items()
            if key.startswith("audio:") and isinstance(values, Ragged)
        }
        return replace(rows, inputs={**rows.inputs, **changed}) if changed else rows

    def _mixed(self, values: Ragged, random: torch.Generator) -> Ragged:
        voices = [v.to(torch.float32) / FULL for v in values]
        n, floating = len(voices), values.values.is_floating_point()
        chosen = (torch.rand(n, generator=random) < self.share).tolist()
        which = torch.randint(len(self.kinds), (n,), generator=random).tolist()
        ratios = (self.snr[0] + (self.snr[1] - self.snr[0]) * torch.rand(n, generator=random)).tolist()
        mixed = []
        for i, voice in enumerate(voices):
            if not chosen[i] or not len(voice) or (self.kinds[which[i]] == "babble" and n < 2):
                mixed.append(voice)
            elif self.kinds[which[i]] == "white":
                mixed.append(_laid(voice, torch.randn(len(voice), generator=random), ratios[i]))
            else:
                mixed.append(_laid(voice, self._babble(voices, i, random), ratios[i]))
        joined = torch.cat(mixed) * FULL
        if floating:
            return Ragged(joined.to(values.values.dtype), values.lengths)
        return Ragged(joined.round().clamp(-FULL, FULL - 1).to(values.values.dtype), values.lengths)

    def _babble(self, voices: Sequence[Tensor], i: int, random: torch.Generator) -> Tensor:
        """Other rows of the batch on top of each other, each again and again from a random place."""
        length = len(voices[i])
        total = torch.zeros(length)
        for _ in range(self.voices):
            other = voices[(i + int(torch.randint(1, len(voices), (), generator=random))) % len(voices)]
            start = int(torch.randint(max(len(other), 1), (), generator=random))
            if len(other):
                place = (torch.arange(length) + start) % len(other)
                total = total + other[place] / other.square().mean().sqrt().clamp(min=1e-6)
        return total


def _laid(voice: Tensor, noise: Tensor, ratio: float) -> Tensor:
    """Both, the noise at this ratio; turned down where it would be too loud."""
    wanted = voice.square().sum() / 10 ** (ratio / 10)
    heard = voice + noise * (wanted / noise.square().sum().clamp(min=1e-12)).sqrt()
    return heard * (0.98 / heard.abs().max().clamp(min=1e-9)).clamp(max=1.0)
