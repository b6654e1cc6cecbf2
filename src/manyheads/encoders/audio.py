"""Recordings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import Dropout, Named
from ..metrics.sound import FULL, mel_filters, n_frames, spectrum
from ..ragged import Ragged
from ..ranges import Range, between, choice, whole
from . import Encoder, Layout

Heard = tuple[Tensor, Tensor, Tensor, Tensor]
"""A sequence, its mask, the recording in pieces of one hop, and how many samples it has: what is made of the sound is
further on in the tuple, for heads that work on the sound itself."""


class LogMel(nn.Module):
    """Stage 0 of one table: log energies in mel bands, normalised; in training, bands and moments are masked at random.

    Shape:
        {"audio:<column>": Ragged int16} -> (values (batch, frames, bands), mask (batch, frames), the recording
        (batch, frames - 1, hop) between -1 and 1, its lengths in samples (batch,)).
    """

    filters: Tensor
    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(
        self, key: str, rate: int, bands: int, window: int, hop: int, normalise: str, masks: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.key, self.rate, self.window, self.hop, self.normalise = key, rate, window, hop, normalise
        self.masks = dict(masks)
        self.register_buffer("filters", mel_filters(bands, window // 2 + 1, rate))
        if normalise == "running":
            self.register_buffer("mean", torch.zeros(bands))
            self.register_buffer("square", torch.ones(bands))
            self.register_buffer("seen", torch.zeros(()))
            self.track_running_stats = True  # copies with statistics of their own are run one by one

    def forward(self, x: Mapping[str, Any]) -> Heard:
        recordings: Ragged = x[self.key]
        wave, _ = recordings.padded()
        lengths = recordings.lengths
        frames = n_frames(wave.shape[1], self.hop)
        like = self.filters
        wave = F.pad(wave.to(like.dtype) / FULL, (0, (frames - 1) * self.hop - wave.shape[1]))
        mask = torch.arange(frames, device=wave.device) < n_frames(lengths, self.hop).unsqueeze(1)
        energy = spectrum(wave, self.window, self.hop).abs().square()
        values = self._normalised(torch.log(energy @ like + 1e-5), mask)
        if self.training:
            values = self._masked(values, lengths)
        return values * mask.unsqueeze(-1), mask, wave.unflatten(1, (-1, self.hop)), lengths

    def _normalised(self, values: Tensor, mask: Tensor) -> Tensor:
        there = mask.to(values.dtype).unsqueeze(-1)
        if self.normalise == "none":
            return values
        if self.normalise == "running":
            return (values - self._running(values, there)) / (self.square - self.mean**2).clamp(min=1e-4).sqrt()
        axes = (1, 2) if self.normalise == "level" else (1,)
        count = there.sum(1, keepdim=True) * (values.shape[2] if self.normalise == "level" else 1)
        mean = (values * there).sum(axes, keepdim=True) / count
        variance = ((values - mean).square() * there).sum(axes, keepdim=True) / count
        return (values - mean) / (variance + 1e-2).sqrt()

    def _running(self, values: Tensor, there: Tensor) -> Tensor:
        """The mean of each band over the frames of training; a batch counts for a hundredth, at first more."""
        if self.training:
            with torch.no_grad():
                share = (1 / (self.seen + 1)).clamp(min=0.01)
                count = there.sum()
                first, second = ((values**p * there).sum((0, 1)) / count for p in (1, 2))
                self.mean.lerp_(first, share)
                self.square.lerp_(second, share)
                self.seen.add_(1)
        return self.mean

    def _masked(self, values: Tensor, lengths: Tensor) -> Tensor:
        """SpecAugment without warping: stripes of bands, and stripes of moments, are set to the mean, 0."""
        rows, bands = values.shape[0], values.shape[2]
        steps = n_frames(lengths, self.hop).to(values.dtype)
        for axis, n, count in ((2, torch.full_like(steps, bands), "bands"), (1, steps, "moments")):
            place = torch.arange(values.shape[axis], device=values.device)
            for _ in range(int(self.masks[count])):
                width = torch.rand(rows, device=values.device) * self.masks[f"{count}_share"] * n
                start = torch.rand(rows, device=values.device) * (n - width)
                stripe = (place >= start.unsqueeze(1)) & (place < (start + width.floor()).unsqueeze(1))
                values = values.masked_fill(stripe.unsqueeze(3 - axis), 0.0)
        return values

    def extra_repr(self) -> str:
        return f"rate={self.rate}, window={self.window}, hop={self.hop}, normalise={self.normalise}"


class Convolution(nn.Module):
    """One stage: h = dropout(silu(norm(W * x))) (+ x), over 5 frames; at every second frame where the stride is 2.

    Shape:
        values (batch, frames, d_in), mask -> (batch, ceil(frames / stride), d_out), every stride-th of the mask.
    """

    def __init__(self, d_in: int, d_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d_in, d_out, 5, stride=stride, padding=2)
        self.norm = nn.LayerNorm(d_out)
        self.dropout = Dropout(dropout) if dropout else None
        self.stride = stride
        self.residual = stride == 1 and d_in == d_out

    def forward(self, x: Heard) -> Heard:
        values, mask, *rest = x
        h = F.silu(self.norm(self.conv(values.mT).mT))
        if self.dropout is not None:
            h = self.dropout(h)
        if self.residual:
            h = h + values
        mask = mask[..., :: self.stride]
        return (h * mask.unsqueeze(-1), mask, *rest)  # type: ignore[return-value]


class Recurrent(nn.Module):
    """One stage: gated recurrent units over the frames of each row, forwards and backwards, side by side.

    r = sigmoid(W_r x + U_r h), z = sigmoid(W_z x + U_z h), n = tanh(W_n x + r * (U_n h)), h' = (1 - z) n + z h.

    Both directions run as one; the backward one begins at the last frame of each row. Written out, since torch's own
    cannot be computed for several sets of weights at once; it takes the same time.

    Shape:
        values (batch, frames, d_in), mask -> (batch, frames, d_out); d_out / 2 per direction.

    Reference:
        Cho et al.: Learning phrase representations using RNN encoder-decoder, 2014.
    """

    def __init__(self, d_in: int, d_out: int, dropout: float, both: bool = True) -> None:
        super().__init__()
        n = 2 if both else 1
        self.d_hidden = d_out // n
        self.read = nn.Parameter(torch.empty(n, d_in, 3 * self.d_hidden))
        self.keep = nn.Parameter(torch.empty(n, self.d_hidden, 3 * self.d_hidden))
        self.read_bias = nn.Parameter(torch.empty(n, 1, 3 * self.d_hidden))
        self.keep_bias = nn.Parameter(torch.empty(n, 1, 3 * self.d_hidden))
        self.dropout = Dropout(dropout) if dropout else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in self.parameters():
            bound = 1 / math.sqrt(self.d_hidden)
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Heard) -> Heard:
        values, mask, *rest = x
        z = values if self.dropout is None else self.dropout(values)
        n, d = len(self.read), self.d_hidden
        ways = [z, _turned(z, mask)][:n]
        read = torch.baddbmm(self.read_bias, torch.stack(ways).flatten(1, 2), self.read)
        read = read.unflatten(1, z.shape[:2])
        h = read.new_zeros(n, len(z), d)
        states = []
        for now in read.unbind(2):
            kept = torch.baddbmm(self.keep_bias, h, self.keep)
            reset, update = (now[..., : 2 * d] + kept[..., : 2 * d]).sigmoid().chunk(2, -1)
            new = torch.addcmul(now[..., 2 * d :], reset, kept[..., 2 * d :]).tanh()
            h = torch.lerp(new, h, update)
            states.append(h)
        seen = torch.stack(states, 2)
        found = seen[0] if n == 1 else torch.cat([seen[0], _turned(seen[1], mask)], -1)
        return (found * mask.unsqueeze(-1), mask, *rest)  # type: ignore[return-value]


def _turned(values: Tensor, mask: Tensor) -> Tensor:
    """Each row's frames in the opposite order, its padding still behind them."""
    place = torch.arange(mask.shape[-1], device=mask.device)
    last = mask.sum(-1, keepdim=True) - 1
    index = torch.where(mask, last - place, place)
    return values.gather(1, index.unsqueeze(-1).expand(*index.shape, values.shape[-1]))


class Audio(Encoder):
    """Log-mel spectra, convolutions that shorten them, gated recurrent units.

    Stage 0 gives the spectra; then come `full` convolutions at the full rate of frames, `halvings` that halve it, and
    `n_layers` recurrent stages. Every stage gives a sequence with its mask, followed by the recording itself, in pieces
    of one hop, and its length, for heads that make sound.

    Args:
        layouts: table -> {"audio:<column>": rate}.
        column: which recording is read, where a table has several.
        bands: mel bands.
        window, hop: of the short spectra, in seconds; the window is rounded to an even number of hops.
        normalise: ``utterance`` (mean 0 and sd 1 of each band within a recording), ``level`` (of all bands
            together: the colour of a voice stays), ``running`` (of each band over the training rows), ``none``.
        bands_masked, moments_masked: stripes that are masked in training, and `bands_share`, `moments_share`: the
            widest, as a share of the whole.
        d_hidden: width of every stage but the first.
        full: convolutions before the first halving.
        halvings: convolutions that keep every second frame.
        n_layers: recurrent stages.
        both: recurrent stages read backwards as well.
        dropout: share of units left out in training.

    Reference:
        Park et al.: SpecAugment, 2019 (masks); Amodei et al.: Deep Speech 2, 2016 (convolutions below recurrent
        layers).
    """

    search: ClassVar[Mapping[str, Range]] = {
        "d_hidden": choice(64, 128, 192, 256),
        "n_layers": whole(1, 3),
        "dropout": between(0, 0.4),
    }

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        column: str | None = None,
        bands: int = 40,
        window: float = 0.032,
        hop: float = 0.016,
        normalise: str = "level",
        bands_masked: int = 1,
        bands_share: float = 0.25,
        moments_masked: int = 2,
        moments_share: float = 0.1,
        d_hidden: int = 128,
        full: int = 1,
        halvings: int = 1,
        n_layers: int = 2,
        both: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if normalise not in (known := ("utterance", "level", "running", "none")):
            raise ValueError(f"`normalise` should be one of {', '.join(known)}. Found `{normalise}`.")
        if d_hidden < 2 or d_hidden % 2 or min(bands, 1 + full, 1 + halvings, 1 + n_layers) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                "`d_hidden` should be even, `bands` at least 1, `full`, `halvings` and `n_layers` at least 0 and "
                f"`dropout` in [0, 1). Found {d_hidden}, {bands}, {full}, {halvings}, {n_layers}, {dropout}."
            )
        if not 0 < hop <= window / 1.5:
            raise ValueError(f"`hop` should be at most half of `window`, both in seconds. Found {hop} and {window}.")
        masks = {"bands": bands_masked, "bands_share": bands_share, "moments": moments_masked,
                 "moments_share": moments_share}  # fmt: skip
        if min(masks.values()) < 0 or max(bands_share, moments_share) > 1:
            raise ValueError(f"Masks should be 0 or more, their shares at most 1. Found {masks}.")
        entrances: dict[str, nn.Module] = {}
        for table, layout in layouts.items():
            key, rate = _chosen(table, layout, column)
            step = max(round(rate * hop), 1)
            wide = 2 * max(round(window / hop / 2), 1) * step
            entrances[table] = LogMel(key, rate, bands, wide, step, normalise, masks)
        first = Named(entrances) if len(entrances) > 1 else next(iter(entrances.values()))
        stages: list[nn.Module] = [first]
        width = bands
        for stride in [1] * full + [2] * halvings:
            stages.append(Convolution(width, d_hidden, stride, dropout))
            width = d_hidden
        for _ in range(n_layers):
            stages.append(Recurrent(width, d_hidden, dropout, both))
            width = d_hidden
        self.stages = nn.ModuleList(stages)
        self.widths = [bands] + [d_hidden] * (len(stages) - 1)


def _chosen(table: str, layout: Layout, column: str | None) -> tuple[str, int]:
    """(the kind under which a table's recordings come, their rate)."""
    found = {key: int(rate) for key, rate in layout.items() if key.startswith("audio:")}
    others = int(layout.get("numeric", 0)) + len(layout.get("categorical", ()))
    if others:
        raise ValueError(
            f"The audio encoder reads recordings alone. Found {others} other feature columns in table `{table}`; name "
            "the recording under `features.only`."
        )
    if column is not None and f"audio:{column}" not in found:
        raise ValueError(
            f"`column` should name a recording of table `{table}`. Found `{column}`, not among {list(found)}."
        )
    if column is None and len(found) != 1:
        raise ValueError(
            f"Table `{table}` should have one column of type audio. Found {len(found)}; "
            + ("name one by `column`." if found else "declare it under `features.types`.")
        )
    key = f"audio:{column}" if column is not None else next(iter(found))
    return key, found[key]
