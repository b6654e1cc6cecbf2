"""Transcripts and clean sound: decoding, distances, and the formulas of their metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .formulas import Array, Weigh

MOST = 30.0
"""Decibels beyond which a gain counts no further, in either direction."""
CLEAR = 60.0
"""Decibels from which on what was heard counts as clean."""


def edits(a: Sequence[object], b: Sequence[object]) -> int:
    """The least number of insertions, deletions and substitutions that turn one sequence into the other.

    Reference:
        Levenshtein: Binary codes capable of correcting deletions, insertions, and reversals, 1966.
    """
    place = {unit: i for i, unit in enumerate(dict.fromkeys([*a, *b]))}
    other = np.array([place[unit] for unit in b], dtype=np.int64)
    steps = np.arange(len(other) + 1)
    row = steps.copy()
    for i, unit in enumerate(a, 1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (other != place[unit]))
        row = np.minimum.accumulate(np.concatenate([[i], changed]) - steps) + steps  # insertions, one after the other
    return int(row[-1])


# -- decoding: from log probabilities of units, with the blank first, to units


def greedy(log_probabilities: Array, lengths: Sequence[int]) -> list[list[int]]:
    """The units of the likeliest path of each row: repeats are joined, blanks left out.

    Shape:
        (rows, frames, units), the blank at 0.
    """
    best = log_probabilities.argmax(-1)
    answer = []
    for path, n in zip(best, lengths, strict=True):
        own = path[:n]
        kept = own[np.concatenate([[True], own[1:] != own[:-1]])] if n else own
        answer.append(kept[kept > 0].tolist())
    return answer


def beam(log_probabilities: Array, width: int) -> list[int]:
    """The likeliest units of one row, summed over all paths that say them, as far as the beam sees.

    Per prefix two numbers are kept: the probability of all paths that end in a blank, and of those that do not.

    Shape:
        (frames, units), the blank at 0.

    Args:
        width: prefixes that are kept after each frame.

    Reference:
        Hannun, Maas, Jurafsky, Ng: First-pass large vocabulary continuous speech recognition using bi-directional
        recurrent DNNs, 2014.
    """
    never = -np.inf
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, never)}
    for frame in log_probabilities:
        found: dict[tuple[int, ...], list[float]] = {}

        def add(prefix: tuple[int, ...], blank: bool, value: float, found: dict = found) -> None:
            entry = found.setdefault(prefix, [never, never])
            entry[not blank] = float(np.logaddexp(entry[not blank], value))

        units = [int(u) for u in np.argsort(frame)[::-1][: width + 1] if u > 0]
        for prefix, (blank, voiced) in kept.items():
            either = float(np.logaddexp(blank, voiced))
            add(prefix, True, either + float(frame[0]))
            if prefix:
                add(prefix, False, voiced + float(frame[prefix[-1]]))
            for unit in units:
                again = bool(prefix) and unit == prefix[-1]
                add((*prefix, unit), False, (blank if again else either) + float(frame[unit]))
        ranked = sorted(found.items(), key=lambda item: -float(np.logaddexp(item[1][0], item[1][1])))
        kept = {prefix: (entry[0], entry[1]) for prefix, entry in ranked[:width]}
    return list(max(kept.items(), key=lambda item: float(np.logaddexp(item[1][0], item[1][1])))[0])


# -- metrics


def _rate(split: Callable[[str], Sequence[str]]) -> Callable[[Array, Array], Weigh]:
    def function(y: Array, p: Array) -> Weigh:
        wrong = np.array([edits(split(said), split(heard)) for said, heard in zip(y, p, strict=True)], dtype=float)
        units = np.array([len(split(said)) for said in y], dtype=float)

        def weigh(W: Array) -> Array:
            total = W @ units
            return np.divide(W @ wrong, total, out=np.full(len(W), np.nan), where=total > 0)

        return weigh

    return function


word_errors = _rate(str.split)
"""Edits between words that were said and heard, over all words that were said."""
char_errors = _rate(list)
"""The same of characters, spaces included."""


def gain(y: Array, p: Array) -> Weigh:
    """The mean over rows of the gain in SI-SDR over what was heard, in decibels, each within 30 either way; rows whose
    recording was clean already do not count.

    Args:
        y: clean recordings (rows,) of arrays (n,).
        p: (rows,) of arrays (2, n): what was made, and what was heard.
    """
    before = np.array([sdr(heard, clean) for clean, (_, heard) in zip(y, p, strict=True)])
    after = np.array([sdr(made, clean) for clean, (made, _) in zip(y, p, strict=True)])
    counts = (before < CLEAR).astype(float)
    gains = np.where(before < CLEAR, np.clip(after - before, -MOST, MOST), 0.0)

    def weigh(W: Array) -> Array:
        total = W @ counts
        return np.divide(W @ gains, total, out=np.full(len(W), np.nan), where=total > 0)

    return weigh


def sdr(estimate: Array, clean: Array) -> float:
    """The SI-SDR of one recording in decibels (`sound.si_sdr`), within 100 either way."""
    e, s = (np.asarray(v, dtype=np.float64) for v in (estimate, clean))
    e, s = e - e.mean(), s - s.mean()
    energy = float(s @ s)
    part = (float(e @ s) / energy) * s if energy > 0 else np.zeros_like(s)
    rest, signal = float(((e - part) ** 2).sum()), float(part @ part)
    if not signal > 0:
        return -100.0
    return float(np.clip(10 * np.log10(signal / max(rest, 1e-10 * signal)), -100.0, 100.0))
