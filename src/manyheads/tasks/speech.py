"""Speech: what is said, and how it sounds without the noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import exhibits, results
from ..blocks import Head
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted, spoken
from ..metrics.sound import FULL, n_frames, resampled, samples_of, si_sdr, spectrum, waves, write_wav
from ..ragged import Ragged, Rows, objects
from . import Task, _constants, column, plain

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "\ufffd"
"""A unit that no training transcript has."""


@dataclass(frozen=True)
class Transcription(Task):
    """A text that is said in a recording, without knowing when: connectionist temporal classification.

    The net gives each frame a distribution over the units and a blank. A path says the text that is left when repeats
    are joined and blanks taken out; the error is -log of the summed probability of all paths that say the label, and
    the task's loss its mean per unit (an empty text counts as one).

    A text with more units than there are frames (and one more between two equal units) cannot be said: it teaches
    nothing, and a warning names the task. Units that no training text has are one unknown unit, which is never learned.

    Args:
        units: ``words`` or ``characters``.
        beam: prefixes that decoding keeps; 0 takes the likeliest path instead, which is quicker.
        vocabulary: the units; default: all of the training part, sorted.

    Reference:
        Graves, Fernandez, Gomez, Schmidhuber: Connectionist temporal classification, 2006.
    """

    units: str = "words"
    beam: int = 0
    vocabulary: tuple[str, ...] = ()

    losses: ClassVar = ("ctc",)
    default_metrics: ClassVar = ("word_error_rate", "char_error_rate")
    eats: ClassVar = "sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units not in ("words", "characters"):
            raise ConfigError(f"Task `{self.name}`: `units` should be words or characters. Found `{self.units}`.")
        if not (isinstance(self.beam, int) and self.beam >= 0):
            raise ConfigError(f"Task `{self.name}`: `beam` should be 0 or more. Found {self.beam!r}.")

    def _split(self, value: Any) -> list[str]:
        said = str(plain(value)).split()
        return said if self.units == "words" else list(" ".join(said))

    def _joined(self, units: Sequence[int]) -> str:
        known = [self.vocabulary[u - 1] if u <= len(self.vocabulary) else UNKNOWN for u in units]
        return " ".join(known) if self.units == "words" else "".join(known)

    def fitted(self, labels: pd.DataFrame) -> Transcription:
        found = {unit for value in column(labels, self).dropna() for unit in self._split(value)}
        vocabulary = self.vocabulary or tuple(sorted(found))
        if not vocabulary:
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[0]}` should hold a text that is not empty in the training "
                "part. Found none."
            )
        return self._replace(vocabulary=vocabulary)

    def encode(self, labels: pd.DataFrame) -> tuple[Ragged, Tensor]:
        series = column(labels, self)
        known = series.notna().to_numpy(copy=True)
        place = {unit: i for i, unit in enumerate(self.vocabulary, 1)}
        strange = len(place) + 1
        rows = [
            np.array([place.get(u, strange) for u in self._split(v)] if there else [], dtype=np.int64)
            for v, there in zip(series, known, strict=True)
        ]
        return Ragged.of(rows, torch.empty(0, dtype=torch.long)), torch.from_numpy(known)

    # -- the net

    def head(self, widths: Sequence[int]) -> nn.Module:
        if self.sees:
            raise ConfigError(f"Task `{self.name}`: a head for texts cannot see other tasks. Found `sees`; remove it.")
        return _Frames(sum(widths), len(self.vocabulary) + 2)

    def errors(self, output: Tensor, target: Ragged) -> Tensor:
        logits, mask = _taken_apart(output)
        lead = logits.shape[:-2]
        copies = math.prod(lead[:-1])
        frames = mask.sum(-1).flatten()
        labels, _ = target.padded()
        labels, lengths = labels.repeat(copies, 1), target.lengths.repeat(copies)
        self._tell_too_long(labels, lengths, frames)
        paths = logits.log_softmax(-1).flatten(0, -3).transpose(0, 1)
        return F.ctc_loss(paths, labels, frames, lengths, reduction="none", zero_infinity=True).reshape(lead)

    def _tell_too_long(self, labels: Tensor, lengths: Tensor, frames: Tensor) -> None:
        inside = torch.arange(labels.shape[1], device=labels.device) < lengths.unsqueeze(1)
        twice = ((labels[:, 1:] == labels[:, :-1]) & inside[:, 1:]).sum(1)
        wrong = ((lengths + twice > frames) & (frames > 0)).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            _warn_once(self.name, len(wrong), len(labels), int(lengths[row]), int(frames[row]))

    def sizes(self, target: Ragged) -> Tensor:
        """Units of each row, at least 1."""
        return target.lengths.clamp(min=1)

    def blanked(self, output: Tensor, known: Tensor) -> Tensor:
        return output.masked_fill(~known[..., None, None], 0.0)

    def ensemble(self, outputs: Tensor) -> Tensor:
        return torch.cat([outputs[0, ..., :1], outputs[..., 1:].log_softmax(-1).logsumexp(0)], -1)

    # -- what it says

    def rows(self, output: Tensor) -> Rows:
        """The text of each row."""
        logits, mask = _taken_apart(output)
        paths = logits.detach().double().log_softmax(-1).cpu().numpy()
        frames = mask.sum(-1).tolist()
        if self.beam:
            found = [spoken.beam(path[:n], self.beam) for path, n in zip(paths, frames, strict=True)]
        else:
            found = spoken.greedy(paths, frames)
        return Rows([self._joined(units) for units in found])

    def predict(self, output: Rows) -> Predicted:
        return Predicted(output.array())

    def truth(self, target: Ragged) -> np.ndarray:
        return objects([self._joined(row.tolist()) for row in target])

    def constant(self, metric: Metric, target: Ragged, known: Tensor, rows: Ragged) -> Predicted | None:
        return Predicted(objects([_constants.text(metric, self.truth(target).tolist())] * len(rows)))

    def show(self, values: Predicted) -> list[results.Text]:
        return [results.Text(text=said, words=tuple(said.split())) for said in np.asarray(values.value)]


_TOLD: set[str] = set()
"""Tasks of which it was said that some texts are too long."""


def _warn_once(name: str, wrong: int, rows: int, units: int, frames: int) -> None:
    if name in _TOLD:
        return
    _TOLD.add(name)
    warnings.warn(
        f"Task `{name}`: a text should have no more units than its recording has frames. Found {wrong} of {rows} rows "
        f"in a batch that do, the first {units} units in {frames} frames; they teach nothing. Take words as units, or "
        "an encoder that shortens less.",
        UserWarning,
        stacklevel=4,
    )


def _taken_apart(output: Tensor) -> tuple[Tensor, Tensor]:
    """(logits (..., frames, units), mask (..., frames))."""
    return output[..., 1:], output[..., 0] > 0.5


class _Linear(nn.Linear):
    """A linear layer that starts at random, at the size of its input.

    From weights of 0 all frames say the same at first, and learn to say nothing: it took ten times as many steps to
    leave that place again.
    """

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.normal_(0, 1 / math.sqrt(self.in_features))
            self.bias.zero_()


class _Frames(nn.Module):
    """A linear head on every frame: (batch, frames, d), mask -> the mask and logits (batch, frames, 1 + units)."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.linear = _Linear(width, units)

    def forward(self, features: Any) -> Tensor:
        parts = features if isinstance(features, list) else [features]
        if not all(isinstance(p, tuple) for p in parts) or len({p[0].shape[-2] for p in parts}) > 1:
            raise ValueError(
                "A head for texts should read sequences of one length. Found something else; attach the task to one "
                "stage of an encoder of sequences."
            )
        logits = self.linear(torch.cat([p[0] for p in parts], -1))
        return torch.cat([parts[0][1].unsqueeze(-1).to(logits.dtype), logits], -1)


@dataclass(frozen=True)
class Reconstruction(Task):
    """The clean recording within a noisy one, by a mask on the noisy one's short spectra.

    With S the short-time spectrum of what was heard and M in the net's hands, the clean sound is the wave whose
    spectrum is nearest to M S. Errors, per recording: ``si_sdr``, minus the scale-invariant signal-to-distortion ratio,
    a 1 for 30 decibels, beyond which nothing counts; ``spectral``, sum | |M S| - |C| | / sum |C| over the clean
    recording's spectrum C.

    The target column holds recordings as a column of type audio has them, each as long as the one that is heard. The
    encoder's features must carry the recording itself, as those of `audio` do.

    Args:
        mask: ``magnitude`` (0 to 1, the noisy phase is kept) or ``complex`` (real and imaginary part within -2 and 2).
        window, hop: of the short spectra, in seconds; the window is rounded to an even number of hops.
        d_head: width of the head.
        rate: samples per second; by default the first training file's. It must be that of what is heard.
        root: the folder that paths which are not absolute begin at.

    Reference:
        Le Roux et al.: SDR - half-baked or well done?, 2019; Williamson, Wang, Wang: Complex ratio masking for
        monaural speech separation, 2016.
    """

    mask: str = "magnitude"
    window: float = 0.032
    hop: float = 0.016
    d_head: int = 128
    rate: int | None = None
    root: str | None = None

    losses: ClassVar = ("si_sdr", "spectral")
    default_metrics: ClassVar = ("si_sdr_gain",)
    eats: ClassVar = "sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask not in ("magnitude", "complex"):
            raise ConfigError(f"Task `{self.name}`: `mask` should be magnitude or complex. Found `{self.mask}`.")
        if not 0 < self.hop <= self.window / 1.5:
            raise ConfigError(
                f"Task `{self.name}`: `hop` should be at most half of `window`, both in seconds. Found {self.hop} and "
                f"{self.window}."
            )

    def fitted(self, labels: pd.DataFrame) -> Reconstruction:
        if self.rate is not None:
            return self
        series = column(labels, self)
        rate, _ = self._read(series, int(series.notna().to_numpy().argmax()))
        if rate is None:
            raise ConfigError(
                f"Task `{self.name}` should have a `rate`: arrays do not say how many samples make a second. Found "
                "none."
            )
        return self._replace(rate=rate)

    def _read(self, series: pd.Series, row: int) -> tuple[int | None, np.ndarray]:
        try:
            rate, samples = samples_of(series.iloc[row], self.root)
            if not (samples != samples[0]).any():
                raise ValueError("silence")
        except ValueError as error:
            raise DataError(
                f"Task `{self.name}`: column `{series.name}` should hold recordings that are not silent. Found "
                f"{error}, in row {row}; leave the cell empty if it is missing.",
                row,
            ) from None
        return rate, samples

    def encode(self, labels: pd.DataFrame) -> tuple[Ragged, Tensor]:
        series = column(labels, self)
        known = series.notna().to_numpy(copy=True)
        rows = []
        for row, there in enumerate(known):
            rate, samples = self._read(series, row) if there else (None, np.empty(0, np.int16))
            rows.append(resampled(samples, rate or self._rate, self._rate))
        return Ragged.of(rows, torch.empty(0, dtype=torch.int16)), torch.from_numpy(known)

    @property
    def _rate(self) -> int:
        return self.rate or 16000

    # -- the net

    @property
    def _step(self) -> int:
        return max(round(self._rate * self.hop), 1)

    @property
    def _window(self) -> int:
        return 2 * max(round(self.window / self.hop / 2), 1) * self._step

    def head(self, widths: Sequence[int]) -> nn.Module:
        if self.sees:
            raise ConfigError(f"Task `{self.name}`: a head for sound cannot see other tasks. Found `sees`; remove it.")
        return _SoundHead(widths, self._window, self._step, self.d_head, self.mask)

    def errors(self, output: Tensor, target: Ragged) -> Tensor:
        made, wanted = output[..., 0, :], target.lengths
        lengths = (output[..., 2, :] > 0.5).sum(-1).reshape(-1, len(wanted))
        wrong = ((wanted != lengths) & (wanted > 0) & (lengths > 0)).any(0).nonzero().flatten()
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"Task `{self.name}`: a clean recording should be as long as what is heard. Found {int(wanted[row])} "
                f"and {int(lengths[0, row])} samples; give both one `rate`."
            )
        values, there = Ragged(target.values.to(made.dtype) / FULL, wanted).padded()
        spare = made.shape[-1] - values.shape[-1]
        clean, there = F.pad(values, (0, spare)), F.pad(there, (0, spare))
        if self.loss == "si_sdr":
            return -si_sdr(made, clean, there, eps=10 ** (-spoken.MOST / 10)) / spoken.MOST
        step, window = self._step, self._window
        full = (0, (int(n_frames(made.shape[-1], step)) - 1) * step - made.shape[-1])
        found, right = (spectrum(F.pad(w, full), window, step).abs() for w in (made * there, clean))
        return (found - right).abs().sum((-2, -1)) / right.sum((-2, -1)).clamp(min=1e-6)

    def blanked(self, output: Tensor, known: Tensor) -> Tensor:
        return output.masked_fill(~known[..., None, None], 0.0)

    def ensemble(self, outputs: Tensor) -> Tensor:
        return torch.cat([outputs[..., :1, :].mean(0), outputs[0, ..., 1:, :]], -2)

    # -- what it says

    def rows(self, output: Tensor) -> Rows:
        """Of each row (2, samples): what was made, and what was heard."""
        lengths = (output[:, 2] > 0.5).sum(-1).tolist()
        both = output[:, :2].detach().float().cpu().numpy()
        return Rows([row[:, :n].copy() for row, n in zip(both, lengths, strict=True)])

    def predict(self, output: Rows) -> Predicted:
        return Predicted(output.array())

    def constant(self, metric: Metric, target: Ragged, known: Tensor, rows: Ragged) -> Predicted | None:
        return None  # what was heard is said again, a gain of 0: no target tells it

    def truth(self, target: Ragged) -> np.ndarray:
        return objects([row.numpy().astype(np.float32) / FULL for row in target])

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Samples as int16; of what was made, where what was heard stands beside it."""
        made = [np.asarray(v)[0] if np.ndim(v) == 2 else np.asarray(v) for v in values]
        return objects([np.clip(np.round(m * FULL), -FULL, FULL - 1).astype(np.int16) for m in made])

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        """By how many decibels each recording became quieter; the recordings themselves are files (`files`)."""
        powers = np.array([np.square(v, dtype=np.float64).sum(-1) for v in np.asarray(predicted.value)]).reshape(-1, 2)
        return {f"{self.name}__quieter_db": 10 * np.log10((powers[:, 1] + 1e-12) / (powers[:, 0] + 1e-12))}

    def show(self, values: Predicted) -> list[results.Sound]:
        return [exhibits.sound(samples, self._rate) for samples in self.decode(np.asarray(values.value))]

    def files(self, predicted: Predicted, names: Sequence[str], frame: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """A wav file per row, ``<task>/<name>.wav``."""
        for name, samples in zip(names, self.decode(np.asarray(predicted.value)), strict=True):
            yield f"{name}.wav", write_wav(samples, self._rate)


class _SoundHead(nn.Module):
    """Features and the short spectra of what was heard -> a mask, and the wave behind it.

    Features of any rate are held until the next one comes.

    Shape:
        (values (batch, frames, d), mask, the recording (batch, n, hop), lengths) or several such
        -> (batch, 3, samples): what is made, what was heard, and 1 where there is a sample.
    """

    def __init__(self, widths: Sequence[int], window: int, hop: int, d_head: int, mask: str) -> None:
        super().__init__()
        self.window, self.hop, self.mask = window, hop, mask
        bins = window // 2 + 1
        self.thin = nn.ModuleList(nn.Linear(d, d_head) for d in widths)
        self.own = nn.Linear(bins, d_head)
        self.conv = nn.Conv1d(d_head, d_head, 3, padding=1)
        self.last = Head(d_head, [2.0] * bins if mask == "magnitude" else [1.0] * bins + [0.0] * bins)

    def forward(self, features: Any) -> Tensor:
        parts = features if isinstance(features, list) else [features]
        if not all(isinstance(p, tuple) and len(p) >= 4 for p in parts):
            raise ValueError(
                "A head for sound should read features that carry the recording. Found features without it; attach the "
                "task to a stage of an encoder of recordings."
            )
        pieces, lengths = parts[0][2], parts[0][3]
        wave = pieces.flatten(-2)
        frames = int(n_frames(wave.shape[-1], self.hop))
        heard = F.pad(wave, (0, (frames - 1) * self.hop - wave.shape[-1]))
        found = spectrum(heard, self.window, self.hop)
        there = torch.arange(frames, device=wave.device) < n_frames(lengths, self.hop).unsqueeze(-1)
        z = self.own(self._level(found, there))
        for thin, part in zip(self.thin, parts, strict=True):
            z = z + thin(self._held(part, frames))
        z = F.silu(z) * there.unsqueeze(-1)
        z = z + F.silu(self.conv(z.mT).mT)
        out = self.last(z)
        if self.mask == "magnitude":
            masked = found * out.sigmoid()
        else:
            real, imaginary = (2 * torch.tanh(out / 2)).chunk(2, -1)
            masked = found * torch.complex(real, imaginary)
        made = waves(masked, there, self.hop)[..., : wave.shape[-1]]
        inside = torch.arange(wave.shape[-1], device=wave.device) < lengths.unsqueeze(-1)
        return torch.stack([made, wave, inside.to(made.dtype)], -2)

    def _level(self, found: Tensor, there: Tensor) -> Tensor:
        """Log energies around their mean over the recording."""
        energy = torch.log(found.abs().square() + 1e-5)
        weight = there.unsqueeze(-1).to(energy.dtype)
        mean = (energy * weight).sum((-2, -1), keepdim=True) / (weight.sum((-2, -1), keepdim=True) * energy.shape[-1])
        return (energy - mean) / 4 * weight

    def _held(self, part: tuple[Tensor, ...], frames: int) -> Tensor:
        """Features at the times of this head's frames, within each row."""
        values, mask, pieces = part[:3]
        full, step = pieces.shape[-2] + 1, 1
        while -(-full // step) > values.shape[-2]:
            step *= 2
        place = torch.arange(frames, device=values.device) * self.hop // (step * pieces.shape[-1])
        place = torch.minimum(place, (mask.sum(-1, keepdim=True) - 1).clamp(min=0))
        return values.gather(-2, place.unsqueeze(-1).expand(*place.shape, values.shape[-1]))
