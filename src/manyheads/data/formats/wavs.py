"""A folder of recordings, with what is known of each in its file's name."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...blocks import seed_of
from ...faults import ConfigError, DataError
from ...metrics.sound import FULL, read_wav, write_wav
from . import Format

if TYPE_CHECKING:
    import pandas as pd

NOISES = ("none", "white", "babble")
PARTS = ("train", "valid", "test")
MOST = 0.98
"""The loudest sample of a mixture; louder ones are turned down, together with what is clean."""


class Wavs(Format):
    """A row per wav file: ``audio`` (the file), its fields by `pattern`, ``split``; or rows that are made of several.

    With `strings`, recordings of one value of a field (a speaker) are joined at random, in the order of ``transcript``;
    with `noise`, recordings are mixed with noise at a stated ratio, and there are ``clean``, ``noise`` (its kind) and
    ``snr`` beside ``audio``. Whatever is mixed or joined comes from one part of the split: nothing of a test recording
    is heard in training. The same folder, settings and seeds give the same rows. For predictions recordings are read as
    they are (`bare`).

    Args:
        pattern: of a file's name without its ending, such as ``{digit}_{speaker}_{index}``; whole numbers become such.
        valid, test: which rows they are: {field: value, list of values, or a range such as "0-4"}; the rest is train.
        transcript: the field that says what is said, and `words`, what is written for each of its values (by default
            the value itself).
        strings: {``by``: field, ``n``: [least, most] recordings in a row, ``passes``: how often each recording is used
            (a number, or one by part), ``gap``: [least, most] seconds of silence between them, ``seed``: 0}.
        noise: kinds that rows are mixed with, each equally often: ``none``, ``white`` (normal), ``babble`` (the sum of
            `voices` other recordings).
        snr: least and most decibels between signal and noise, drawn evenly.
        voices: recordings that babble is made of.
        seed: of the noise.

    Raises:
        ConfigError: a setting that does not fit.
    """

    def __init__(
        self,
        on_error: str = "raise",
        *,
        pattern: str = "{name}",
        valid: Mapping[str, Any] | None = None,
        test: Mapping[str, Any] | None = None,
        transcript: str | None = None,
        words: Mapping[Any, str] | None = None,
        strings: Mapping[str, Any] | None = None,
        noise: Sequence[str] = (),
        snr: Sequence[float] = (0.0, 10.0),
        voices: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(on_error)
        pieces = re.split(r"\{(\w+)\}", pattern)
        self.fields = pieces[1::2]
        if not self.fields or len(set(self.fields)) < len(self.fields):
            raise ConfigError(f"`pattern` should have fields in braces, each once. Found `{pattern}`.")
        self.pattern = re.compile("".join(f"(.+?){re.escape(p)}" if i else re.escape(p) for i, p in
                                          enumerate(pieces[::2])))  # fmt: skip
        self.shown, self.as_they_are = pattern, False
        self.parts = {"valid": dict(valid or {}), "test": dict(test or {})}
        self.transcript, self.words = transcript, {str(k): v for k, v in (words or {}).items()}
        self.strings = None if strings is None else _Strings(**strings)
        self.noise, self.snr, self.voices, self.seed = tuple(noise), (snr[0], snr[-1]), voices, seed
        named = [transcript, self.strings and self.strings.by, *self.parts["valid"], *self.parts["test"]]
        for field in named:
            if field is not None and field not in self.fields:
                raise ConfigError(f"`{field}` should be a field of the pattern `{pattern}`. Found {self.fields}.")
        if self.strings is not None and transcript is None:
            raise ConfigError("Strings should have a `transcript`, the field that says what is said. Found none.")
        if set(self.noise) - set(NOISES):
            raise ConfigError(f"`noise` should be among {', '.join(NOISES)}. Found {list(self.noise)}.")
        if len(snr) != 2 or not self.snr[0] <= self.snr[1] or voices < 1:
            raise ConfigError(
                f"`snr` should be two numbers, the least first, and `voices` at least 1. Found {list(self.snr)} and "
                f"{voices}."
            )

    def bare(self, path: Path) -> Wavs:
        """Every recording as it is, a single file too: none is joined to others, mixed with noise, or refused for its
        name or its rate."""
        form = copy.copy(self)
        form.skipped, form.as_they_are, form.strings, form.noise = [], True, None, ()
        form.parts = {part: {} for part in self.parts}
        if not all(self.pattern.fullmatch(file.stem) for file in _wavs(path)):
            form.pattern, form.fields, form.transcript = re.compile("(.+)"), ["name"], None
        return form

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        if not path.is_dir() and not self.as_they_are:
            raise DataError(f"`{path}` should be a folder of wav files. Found a file.")
        files = self._files(path)
        if not files:
            return pd.DataFrame(columns=["audio"])
        table = pd.DataFrame([fields for _, fields in files])
        for field in self.fields:
            if table[field].str.fullmatch(r"\d{1,15}").all():
                table[field] = table[field].astype(np.int64)
        table["split"] = self._split(table)
        if self.transcript is not None:
            table["transcript"] = [self.words.get(str(v), str(v)) for v in table[self.transcript]]
        table.insert(0, "audio", [str(file) for file, _ in files])
        sounds, rate = self._read(table)
        table = table[[s is not None for s in sounds]].reset_index(drop=True)
        if self.strings is None and not self.noise:
            return table
        known = [s for s in sounds if s is not None]
        groups = [[i] for i in range(len(known))]
        if self.strings is not None:
            groups = self.strings.groups(table)
            table = self._joined(table, groups)
        return self._mixed(table, groups, known, rate)

    def _files(self, path: Path) -> list[tuple[Path, dict[str, str]]]:
        answer = []
        for file in _wavs(path):
            found = self.pattern.fullmatch(file.stem)
            if found is None:
                self.refuse(file, f"be named like `{self.shown}.wav`", f"`{file.name}`")
            else:
                answer.append((file.resolve(), dict(zip(self.fields, found.groups(), strict=True))))
        return answer

    def _split(self, table: pd.DataFrame) -> np.ndarray:
        parts = np.full(len(table), "train", dtype=object)
        for part, rules in self.parts.items():
            chosen = np.full(len(table), bool(rules))
            for field, rule in rules.items():
                chosen &= _matches(table[field], rule)
            if rules and not chosen.any():
                raise ConfigError(f"`{part}` should name rows of the folder. Found none where {rules}.")
            parts[chosen] = part
        return parts

    def _read(self, table: pd.DataFrame) -> tuple[list[np.ndarray | None], int]:
        sounds: list[np.ndarray | None] = []
        rate = None
        for file in table["audio"]:
            try:
                own, samples = read_wav(file)
                if rate is not None and own != rate and not self.as_they_are:
                    raise ValueError(f"{own} samples per second, and {rate} in others")
                rate = own
                sounds.append(samples.astype(np.float32) / FULL)
            except ValueError as error:
                self.refuse(file, "be a wav file like the others", str(error))
                sounds.append(None)
        if rate is None:
            raise DataError(
                f"`{table['audio'].iloc[0]}` and the others should be wav files. Found none that can be read."
            )
        return sounds, rate

    def _joined(self, table: pd.DataFrame, groups: Sequence[Sequence[int]]) -> pd.DataFrame:
        """A row per string: what its recordings have in common, and their texts one after the other."""
        assert self.strings is not None
        first = table.iloc[[g[0] for g in groups]].reset_index(drop=True)
        texts, files = table["transcript"].to_numpy(), table["audio"].to_numpy()
        first["transcript"] = [" ".join(texts[i] for i in g) for g in groups]
        first["made_of"] = [" ".join(Path(files[i]).stem for i in g) for g in groups]
        return first[["audio", self.strings.by, "split", "transcript", "made_of"]]

    def _mixed(
        self, table: pd.DataFrame, groups: Sequence[Sequence[int]], sounds: Sequence[np.ndarray], rate: int
    ) -> pd.DataFrame:
        part_of = {i: part for group, part in zip(groups, table["split"], strict=True) for i in group}
        others = {p: [i for i in range(len(sounds)) if part_of.get(i) == p] for p in PARTS}
        gaps = self.strings.gap if self.strings is not None else (0.0, 0.0)
        audio, clean, kinds, ratios = [], [], [], []
        for row, (group, part) in enumerate(zip(groups, table["split"], strict=True)):
            rng = np.random.default_rng(seed_of(self.seed, "row", part, row))
            pieces = [sounds[group[0]]]
            for i in group[1:]:
                pieces += [np.zeros(round(rng.uniform(*gaps) * rate), np.float32), sounds[i]]
            voice = np.concatenate(pieces)
            kind = self.noise[rng.integers(len(self.noise))] if self.noise else "none"
            ratio = float(rng.uniform(*self.snr)) if kind != "none" else np.nan
            heard = voice
            if kind != "none" and voice.any():
                noise = rng.standard_normal(len(voice)) if kind == "white" else self._babble(
                    rng, sounds, [i for i in others[part] if i not in group], len(voice))  # fmt: skip
                heard = voice + at_ratio(noise, voice, ratio)
            scale = min(1.0, MOST / max(float(np.abs(heard).max()), 1e-9)) if kind != "none" else 1.0
            audio.append(write_wav(heard * scale, rate))
            clean.append(write_wav(voice * scale, rate))
            kinds.append(kind)
            ratios.append(ratio)
        table = table.assign(audio=audio)
        return table.assign(clean=clean, noise=kinds, snr=ratios) if self.noise else table

    def _babble(
        self, rng: np.random.Generator, sounds: Sequence[np.ndarray], others: Sequence[int], length: int
    ) -> np.ndarray:
        """Several voices at once, each speaking on as long as it takes."""
        if not others:
            raise ConfigError("Babble should be made of other recordings of the same part. Found no other one.")
        total = np.zeros(length)
        for _ in range(self.voices):
            said: list[np.ndarray] = []
            while sum(map(len, said)) < 2 * length:
                voice = sounds[others[int(rng.integers(len(others)))]]
                said.append(voice / max(float(np.sqrt(np.mean(voice**2))), 1e-6))
            start = rng.integers(length + 1)
            total += np.concatenate(said)[start : start + length]
        return total


def _wavs(path: Path) -> list[Path]:
    """The wav files of a folder by name, or the one file."""
    return sorted(f for f in path.iterdir() if f.suffix.lower() == ".wav") if path.is_dir() else [path]


class _Strings:
    """Which recordings are joined to a row."""

    def __init__(
        self,
        by: str,
        n: Sequence[int] | int = (2, 6),
        passes: Mapping[str, int] | int = 1,
        gap: Sequence[float] = (0.0, 0.1),
        seed: int = 0,
    ) -> None:
        least, most = (n, n) if isinstance(n, int) else n
        if not 1 <= least <= most or len(gap) != 2 or not 0 <= gap[0] <= gap[1]:
            raise ConfigError(
                f"`strings` should have `n` of at least 1 and a `gap` of 0 or more, the least first. Found {n} and "
                f"{gap}."
            )
        self.by, self.least, self.most, self.seed = by, least, most, seed
        self.gap = (gap[0], gap[1])
        self.passes = passes if isinstance(passes, Mapping) else dict.fromkeys(PARTS, passes)

    def groups(self, table: pd.DataFrame) -> list[list[int]]:
        """Rows of the table, string by string; a pass deals all recordings of a part and a speaker out once."""
        answer: list[list[int]] = []
        kinds = table.groupby(["split", self.by], sort=True).indices
        for key, own in kinds.items():
            part, who = map(str, key)  # type: ignore[call-overload]
            for turn in range(self.passes.get(part, 1)):
                rng = np.random.default_rng(seed_of(self.seed, "strings", part, who, turn))
                left = rng.permutation(own).tolist()
                while left:
                    size = int(rng.integers(self.least, self.most + 1))
                    answer.append(left[:size])
                    left = left[size:]
                if len(answer[-1]) < self.least:
                    answer.pop()
        return answer


def at_ratio(noise: np.ndarray, voice: np.ndarray, ratio: float) -> np.ndarray:
    """The noise as loud as it must be: 10 log10 of the energies' ratio is `ratio`."""
    energy = float(np.square(noise, dtype=np.float64).sum())
    wanted = float(np.square(voice, dtype=np.float64).sum()) / 10 ** (ratio / 10)
    return noise * np.sqrt(wanted / max(energy, 1e-12))


def _matches(values: pd.Series, rule: Any) -> np.ndarray:
    found = re.fullmatch(r"(\d+)-(\d+)", rule) if isinstance(rule, str) else None
    if found is not None and values.dtype.kind in "iu":
        return values.between(int(found[1]), int(found[2])).to_numpy()
    wanted = rule if isinstance(rule, list | tuple) else [rule]
    return values.astype(str).isin([str(w) for w in wanted]).to_numpy()
