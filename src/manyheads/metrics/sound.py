"""Recordings: read, resampled, seen as short spectra and heard again.

Samples are kept as int16. A short-time spectrum is taken under a periodic Hann window of `window` samples every `hop`
samples, with frame i around sample i * hop; a recording of n samples has 1 + ceil(n / hop) frames, so that its last
sample lies under two of them. Padding a batch changes no frame of a shorter row.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FULL = 32768
"""The int16 number that stands for 1."""


def read_wav(source: str | Path | bytes) -> tuple[int, np.ndarray]:
    """(rate in Hz, int16 samples (n,)) of a wav file, or of the bytes of one; channels are averaged.

    Raises:
        ValueError: it is no wav file, has fewer samples than its header says, or none; the message ends a sentence
            that begins with "Found".
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # chunks that hold no sound
            warnings.filterwarnings("error", "Reached EOF prematurely")
            rate, samples = wavfile.read(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise ValueError("nothing there; check the path") from None
    except wavfile.WavFileWarning as error:
        raise ValueError(f"it cut short ({str(error).rpartition(';')[2].strip()})") from None
    except Exception as error:  # scipy has no error of its own for a damaged file
        reason = "it cut short" if "buffer" in str(error) else f"it damaged ({str(error).rstrip('.')})"
        raise ValueError(reason) from None
    if not len(samples):
        raise ValueError("no sample in it")
    return int(rate), as_int16(samples)


def write_wav(samples: np.ndarray, rate: int) -> bytes:
    """The bytes of a mono wav file of 16 bits.

    Args:
        samples: int16, or floats between -1 and 1 (n,).
        rate: in Hz.
    """
    from scipy.io import wavfile

    out = io.BytesIO()
    wavfile.write(out, rate, as_int16(np.asarray(samples)))
    return out.getvalue()


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Samples of any type that a wav file may have, (n,) or (n, channels), as int16 (n,); floats are between -1 and 1.

    Raises:
        ValueError: a float is not finite, or the shape or type is no recording's.
    """
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if samples.ndim not in (1, 2) or kind not in "iuf":
        raise ValueError(f"an array of shape {samples.shape} and type {samples.dtype}")
    if kind == "i" and size == 2 and samples.ndim == 1:
        return np.require(samples, np.int16, ["C", "W"])
    if kind == "f":
        if not np.isfinite(samples).all():
            raise ValueError("a sample that is not a finite number")
        values = samples.astype(np.float64) * FULL
    elif kind == "u" and size == 1:
        values = (samples.astype(np.float64) - 128) * 256
    elif kind == "i" and size in (2, 4):
        values = samples.astype(np.float64) / 2 ** (8 * size - 16)
    else:
        raise ValueError(f"an array of shape {samples.shape} and type {samples.dtype}")
    if values.ndim == 2:
        values = values.mean(1)
    return np.clip(np.round(values), -FULL, FULL - 1).astype(np.int16)


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """int16 samples at another rate, band-limited.

    Args:
        rate, wanted: in Hz.
    """
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    moved = resample_poly(samples.astype(np.float64), wanted // common, rate // common)
    return np.clip(np.round(moved), -FULL, FULL - 1).astype(np.int16)


def samples_of(cell: Any, root: str | None = None) -> tuple[int | None, np.ndarray]:
    """(rate, int16 samples) of a cell of a table: a path, the bytes of a wav file, or an array (whose rate is None).

    Args:
        root: the folder that paths which are not absolute begin at.

    Raises:
        ValueError: as `read_wav`.
    """
    if isinstance(cell, (str, Path)):
        return read_wav(Path(root or "") / cell)
    if isinstance(cell, bytes):
        return read_wav(cell)
    values = np.asarray(cell)
    if values.dtype.kind == "i" and values.dtype.itemsize == 8:  # a list of numbers, as JSON has it
        if values.size and np.abs(values).max() > FULL:
            raise ValueError("an integer beyond 16 bits")
        values = np.clip(values, -FULL, FULL - 1).astype(np.int16)
    if values.dtype.kind == "f" and np.isfinite(values).all() and values.size and np.abs(values).max() > 1:
        raise ValueError(f"a sample of {np.abs(values).max():.4g}, beyond 1")
    found = as_int16(values)
    if not len(found):
        raise ValueError("no sample in it")
    return None, found


# -- short spectra


def n_frames(samples: Tensor | int, hop: int) -> Any:
    """How many frames recordings of so many samples have."""
    return 1 + (samples + hop - 1) // hop


def spectrum(wave: Tensor, window: int, hop: int) -> Tensor:
    """The short-time spectra of waves.

    Shape:
        (..., (frames - 1) * hop) -> complex (..., frames, window // 2 + 1).

    Args:
        window, hop: in samples; `window` is an even multiple of `hop`, or twice it.
    """
    flat = wave.reshape(-1, wave.shape[-1])
    found = torch.stft(
        flat, window, hop, window=torch.hann_window(window, dtype=wave.dtype, device=wave.device), center=True,
        pad_mode="constant", return_complex=True,
    )  # fmt: skip
    return found.mT.unflatten(0, wave.shape[:-1]) if wave.dim() > 1 else found.mT[0]


def waves(spectra: Tensor, frames: Tensor, hop: int) -> Tensor:
    """The waves whose short-time spectra are nearest to these, in the least squares of the frames that count.

    x[t] = sum_i w[t - i hop] y_i[t - i hop] / sum_i w[t - i hop]^2, with y_i the inverse transform of frame i.

    Shape:
        complex (..., frames, bins), frames (..., frames) bool -> (..., (frames - 1) * hop).

    Reference:
        Griffin, Lim: Signal estimation from modified short-time Fourier transform, 1984.
    """
    window = 2 * (spectra.shape[-1] - 1)
    shape = torch.hann_window(window, dtype=spectra.real.dtype, device=spectra.device)
    pieces = torch.fft.irfft(spectra, window) * shape * frames.unsqueeze(-1)
    weight = (shape * shape) * frames.unsqueeze(-1)
    total, scale = _overlapped(pieces, hop), _overlapped(weight, hop)
    middle = slice(window // 2, total.shape[-1] - window // 2)
    return (total / scale.clamp(min=1e-8))[..., middle]


def _overlapped(pieces: Tensor, hop: int) -> Tensor:
    """Pieces (..., n, window), each `hop` after the one before, added up: (..., (n - 1) * hop + window)."""
    parts = pieces.unflatten(-1, (-1, hop))
    each = parts.shape[-2]
    total = sum(F.pad(parts[..., j, :], (0, 0, j, each - 1 - j)) for j in range(each))
    assert isinstance(total, Tensor)
    return total.flatten(-2)


def mel_filters(bands: int, bins: int, rate: int, low: float = 20.0, high: float | None = None) -> Tensor:
    """Triangular filters, evenly spaced on the mel scale mel(f) = 2595 log10(1 + f / 700), each 1 at its centre.

    Shape:
        (bins, bands).

    Args:
        bins: of a spectrum from 0 to rate / 2.
        rate: in Hz.
        low, high: of the first and the last triangle, in Hz; `high` is rate / 2 by default.

    Reference:
        Stevens, Volkmann, Newman: A scale for the measurement of the psychological magnitude pitch, 1937;
        O'Shaughnessy: Speech communication, 1987 (the formula).
    """
    top = rate / 2 if high is None else high
    mels = torch.linspace(_mel(low), _mel(top), bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    f = torch.linspace(0, rate / 2, bins, dtype=torch.float64).unsqueeze(1)
    rising = (f - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - f) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).to(torch.get_default_dtype())


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


def si_sdr(estimate: Tensor, clean: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    r"""How much of an estimate is the clean signal, in decibels, whatever its scale; means are taken out first.

    .. math:: 10 log_{10} |a s|^2 / |a s - e|^2, a = <e, s> / |s|^2

    Shape:
        estimate (..., rows, n), clean (rows, n), mask (rows, n) True where there is a sample -> (..., rows).

    Args:
        eps: share of the energy that is added to both sides, which keeps the answer finite: within 10 log10 of it.

    Reference:
        Le Roux, Wisdom, Erdogan, Hershey: SDR - half-baked or well done?, 2019.
    """
    there = mask.to(estimate.dtype)
    count = there.sum(-1, keepdim=True).clamp(min=1)
    e = (estimate - (estimate * there).sum(-1, keepdim=True) / count) * there
    s = (clean - (clean * there).sum(-1, keepdim=True) / count) * there
    energy = (s * s).sum(-1)
    a = (e * s).sum(-1) / energy.clamp(min=1e-12)
    signal = a * a * energy
    whole = (e * e).sum(-1)
    slack = eps * whole + 1e-12
    return 10 * torch.log10((signal + slack) / ((whole - signal).clamp(min=0) + slack))
