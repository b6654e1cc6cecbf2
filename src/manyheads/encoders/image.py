"""Pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import Dropout, Named
from ..ranges import Range, between, choice
from . import Encoder, Layout

NORMS = ("group", "layer", "none")
"""group: over groups of 8 channels; layer: over all channels; neither makes rows of a batch see each other."""


def _norm(word: str, width: int) -> nn.Module:
    return nn.Identity() if word == "none" else nn.GroupNorm(_groups(width) if word == "group" else 1, width)


def _groups(width: int) -> int:
    """As many groups as there are 8 channels each, or the next number that divides."""
    return next(g for g in range(max(width // 8, 1), 0, -1) if width % g == 0)


class Stem(nn.Module):
    """Stage 0 of one table: bytes to numbers around 0, then a convolution of stride 2.

    Shape:
        {"image:<column>": (batch, channels, height, width) uint8} -> (batch, width, height / 2, width / 2).

    Args:
        column: the key of the pictures.
        layout: {"channels", "mean", "sd"}.
        width: of the map.
        norm: one of `NORMS`.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, column: str, layout: Mapping[str, Any], width: int, norm: str) -> None:
        super().__init__()
        self.column = column
        for name in ("mean", "sd"):
            self.register_buffer(name, torch.tensor(layout[name], dtype=torch.float32).reshape(-1, 1, 1))
        self.conv = nn.Conv2d(int(layout["channels"]), width, 5, stride=2, padding=2, bias=norm == "none")
        self.norm = _norm(norm, width)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        pictures = (x[self.column].to(self.conv.weight.dtype) - self.mean) / self.sd
        return F.silu(self.norm(self.conv(pictures)))


class Residual(nn.Module):
    """y = silu(s(x) + f(x)), with f two 3 x 3 convolutions and s a mean over `stride` and a 1 x 1 convolution.

    s is the identity where neither size nor width changes.

    Shape:
        (batch, d_in, h, w) -> (batch, d_out, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, d_in: int, d_out: int, stride: int, norm: str, dropout: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.first = nn.Conv2d(d_in, d_out, 3, stride=stride, padding=1, bias=bias)
        self.first_norm = _norm(norm, d_out)
        self.second = nn.Conv2d(d_out, d_out, 3, padding=1, bias=bias)
        self.second_norm = _norm(norm, d_out)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.stride = stride
        self.short = nn.Conv2d(d_in, d_out, 1, bias=False) if d_in != d_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(self.dropout(y)))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        return F.silu(self.short(x) + y)


class Down(nn.Module):
    """One stage: residual blocks, the first of which halves the size; and what a finer map leaves to be remembered.

    With `detail` d the stage gives [h, s]: h its own map, and s finer detail in channels instead of places. The stage
    at which detail begins makes d channels of its map; every later one folds what it is given, four places to one.

    Shape:
        (batch, d_in + 0 or d_detail, h, w) -> (batch, d_out + d_kept, h / 2, w / 2).
    """

    def __init__(
        self, d_in: int, d_out: int, blocks: int, norm: str, dropout: float, carried: int = 0, detail: int = 0
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Residual(d_in if i == 0 else d_out, d_out, 2 if i == 0 else 1, norm, dropout) for i in range(blocks))
        )
        self.carried = carried
        self.remember = nn.Conv2d(d_out, detail, 1) if detail else None

    def forward(self, x: Tensor) -> Tensor:
        h, s = (x[:, : -self.carried], x[:, -self.carried :]) if self.carried else (x, None)
        h = self.blocks(h)
        if s is not None:
            return torch.cat([h, F.pixel_unshuffle(s, 2)], 1)
        return h if self.remember is None else torch.cat([h, self.remember(h)], 1)


class Up(nn.Module):
    """The last stage with detail: a fine map again, from the coarse one and the detail that was carried along.

    Each step doubles the size: the coarse map, thinned to d channels and brought to the finer size, plus what the
    detail says there; then a 3 x 3 convolution.

    Shape:
        (batch, d_in + carried, h, w) -> (batch, d_out, h * 2^steps, w * 2^steps).
    """

    def __init__(self, d_in: int, carried: int, steps: int, d_out: int, norm: str) -> None:
        super().__init__()
        self.carried, self.steps = carried, steps
        self.thin = nn.Conv2d(d_in, d_out, 1)
        self.detail = nn.Conv2d(carried // 4**steps, d_out, 1, bias=False)
        self.conv = nn.Conv2d(d_out, d_out, 3, padding=1, bias=norm == "none")
        self.norm = _norm(norm, d_out)

    def forward(self, x: Tensor) -> Tensor:
        h, s = x[:, : -self.carried], x[:, -self.carried :]
        s = self.detail(F.pixel_shuffle(s, 2**self.steps))
        h = F.interpolate(self.thin(h), size=s.shape[-2:], mode="bilinear", align_corners=False)
        z = h + s
        return F.silu(z + self.norm(self.conv(F.silu(z))))


class Grid(nn.Module):
    """The last stage with `places`: the map's means over a grid of places x places parts, side by side, with dropout.

    Shape:
        (batch, d, h, w) -> (batch, d * places^2).
    """

    def __init__(self, places: int, dropout: float) -> None:
        super().__init__()
        self.places = places
        self.dropout = Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(F.adaptive_avg_pool2d(x, self.places).flatten(1))


class Image(Encoder):
    """A small residual convolutional net over one picture per row.

    Stage 0 standardises and halves the size; each further stage halves it again with `depth` residual blocks, so stages
    0 to 3 give maps at strides 2, 4, 8 and 16, of `width`, 2, 4 and 8 `width` channels (at most `max_width`).

    Heads that read vectors take the mean over the whole map, so that a thing is the same wherever it is. Where its
    place tells (one thing at the left, another at the right), `places` adds a last stage of means over parts of it.

    Heads that read maps (masks, boxes) are attached to all stages that are maps, where the sharing scheme allows it and
    their tasks do not say otherwise; with any scheme, `detail` adds a stage that is fine again (stride 4), and then
    they read that one.

    No norm looks across rows: batches may be small, and what is said of a row should not depend on the others.

    Args:
        layouts: table -> {"image:<column>": {"channels", "size", "mean", "sd"}}; one picture per row.
        width: channels at stride 2.
        depth: residual blocks per stage.
        n_stages: stages, the stem included; the stride doubles at each.
        norm: ``group``, ``layer`` or ``none``.
        dropout: share of channels left out within a block in training.
        detail: channels of the map at stride 4 that are carried along to a last, fine stage; 0 for no such stage.
        places: rows and columns of parts whose means make the last stage, a vector; 0 for no such stage.
        max_width: no map has more channels.

    Raises:
        ValueError: a setting out of its range; a table without a picture, with several, or with other columns.

    Reference:
        He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016; Wu, He: Group normalization, 2018; for
        the fine stage Lin et al.: Feature pyramid networks for object detection, 2017.
        *Differs from the papers*: a stage may read the one before it alone, so that any of them can be shared or not;
        detail of a finer map therefore passes through them, folded into channels.
    """

    search: ClassVar[Mapping[str, Range]] = {"width": choice(16, 24, 32, 48), "dropout": between(0, 0.3)}

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        width: int = 24,
        depth: int = 1,
        n_stages: int = 4,
        norm: str = "group",
        dropout: float = 0.0,
        detail: int = 0,
        places: int = 0,
        max_width: int = 192,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"`norm` should be one of {', '.join(NORMS)}. Found `{norm}`.")
        if min(width, depth, n_stages, max_width) < 1 or min(detail, places) < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "`width`, `depth`, `n_stages` and `max_width` should be at least 1, `detail` and `places` at least 0 "
                "and `dropout` in [0, 1). Found "
                f"{width}, {depth}, {n_stages}, {max_width}, {detail}, {places}, {dropout}."
            )
        if detail and n_stages < 3:
            raise ValueError(f"`detail` should be 0 with fewer than 3 stages. Found {detail} with {n_stages}.")
        pictures = {table: _picture(table, layout) for table, layout in layouts.items()}
        for table, (_, layout) in pictures.items():
            if detail and any(n % 2**n_stages for n in layout["size"]):
                raise ValueError(
                    f"With `detail` the pictures of table `{table}` should have sides of a multiple of {2**n_stages} "
                    f"pixels. Found {' x '.join(map(str, layout['size']))}."
                )
        d = [min(width * 2**i, max_width) for i in range(n_stages)]
        stems = {table: Stem(*picture, d[0], norm) for table, picture in pictures.items()}
        first: nn.Module = Named(stems) if len(stems) > 1 else next(iter(stems.values()))
        carried = [0, *(detail * 4**i for i in range(n_stages - 1))] if detail else [0] * n_stages
        downs = [
            Down(d[i - 1], d[i], depth, norm, dropout, carried[i - 1], detail if i == 1 else 0)
            for i in range(1, n_stages)
        ]
        self.widths = [w + s for w, s in zip(d, carried, strict=True)]
        stages: list[nn.Module] = [first, *downs]
        if detail:
            fine = min(4 * width, max_width)
            stages.append(Up(d[-1], carried[-1], n_stages - 2, fine, norm))
            self.widths.append(fine)
        if places:
            stages.append(Grid(places, dropout))
            self.widths.append(self.widths[-1] * places**2)
        self.maps = (n_stages,) if detail else tuple(range(n_stages))
        self.stages = nn.ModuleList(stages)


def _picture(table: str, layout: Layout) -> tuple[str, Mapping[str, Any]]:
    """(key, layout) of the one picture of a table."""
    found = [key for key in layout if key.startswith("image:")]
    rich = [key.partition(":")[2] for key in layout if ":" in key]
    others = int(layout.get("numeric", 0)) + len(layout.get("categorical", ()))
    if len(found) != 1 or len(rich) > 1 or others:
        beside = [*rich, *([f"{others} numeric or categorical inputs"] if others else [])]
        raise ValueError(
            f"Table `{table}` should have one picture column and no other feature for the encoder `image`. Found "
            f"{', '.join(beside) or 'no feature'}; use `fused`, or name the features under `features.only`."
        )
    return found[0], layout[found[0]]
