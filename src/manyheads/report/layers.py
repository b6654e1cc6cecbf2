"""What lies over a picture: classes of pixels, and boxes; and how far one recording is from another."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from ..results import Boxes, Mask, Sound
from .words import percent

if TYPE_CHECKING:
    import numpy as np

NOTHING = 255
"""The number of a pixel of which nothing is known."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#7f7f7f")
"""Of classes, again and again (Okabe, Ito: Color universal design, 2008); numbers tell classes apart that share one."""
FINE = 288
"""Pixels of the longer side of a layer."""
LEAST, LABELS = 0.012, 14
"""A region is numbered from this share of the picture on, and so many regions at most."""
MOST_BOXES, NAMED = 12, 3
"""Boxes that are drawn at most, and so many that have their names beside them, where there is room."""
DECIBELS = 60.0
"""From white to black in the picture of a recording."""
COVERS = 0.5
"""Area in common over area in either from which a box is found."""
_DARK, _LIGHT = 250, 251


@dataclass(frozen=True)
class Layer:
    """A drawing over a picture, in shares of its width and height."""

    shape: tuple[int, int]
    png: str = ""
    numbers: tuple[tuple[float, float, str], ...] = ()
    """(x, y, text), the middle of the text."""
    frames: tuple[tuple[float, float, float, float, str, str, bool], ...] = ()
    """(x0, y0, x1, y1, long and short text, whether it is right)."""

    def drawing(self, width: float, height: float) -> str:
        """SVG in a frame of this size."""
        parts = []
        if self.png:
            parts.append(
                f'<image width="{width}" height="{height:.1f}" preserveAspectRatio="none" class="crisp" '
                f'href="data:image/png;base64,{self.png}"/>'
            )
        for x, y, text in self.numbers:
            parts.append(_letters(x * width, y * height + 4.5, text, "middle"))
        for x0, y0, x1, y1, _, _, right in self.frames:
            x, y, w, h = x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height
            box = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
            parts.append(f'<rect class="halo" {box}/><rect class="box{"" if right else " wrong"}" {box}/>')
        placed, crowded = self._placed(width, height, 4)
        if crowded or len(self.frames) > NAMED:
            placed, _ = self._placed(width, height, 5)
        for x, y, text in placed:
            parts.append(_letters(x, y, text, "start"))
        return "".join(parts)

    def _placed(self, width: float, height: float, which: int) -> tuple[list[tuple[float, float, str]], bool]:
        """A text at each frame, above it or where there is room, and whether some lie over each other."""
        taken: list[tuple[float, float, float, float]] = []
        found, crowded = [], False
        for frame in self.frames:
            text = str(frame[which])
            x0, y0, x1, y1 = frame[0] * width, frame[1] * height, frame[2] * width, frame[3] * height
            wide = 7.5 * len(text) + 4
            places = [
                (x0 + 2, y0 - 4),
                (x0 + 2, y1 + 14),
                (x0 - wide - 1, y0 + 12),
                (x1 + 4, y0 + 12),
                (x0 + 3, y0 + 14),
            ]
            inside = [(x, y) for x, y in places if x >= 0 and x + wide <= width and 11 <= y <= height - 3]
            free = [p for p in inside if not any(_meet((p[0], p[1] - 11, p[0] + wide, p[1] + 2), t) for t in taken)]
            crowded = crowded or not free
            x, y = (free or inside or [(max(min(x0 + 2, width - wide), 1), max(min(y0 + 14, height - 3), 12))])[0]
            taken.append((x, y - 11, x + wide, y + 2))
            found.append((x, y, text))
        return found, crowded


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _letters(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="over" x="{max(x, 2):.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


# -- masks


@lru_cache(maxsize=64)
def _array(png: str) -> np.ndarray:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def mask(value: Mask, true: Mask | None = None) -> Layer:
    """Tints with outlines and numbers; where it differs from the truth it is hatched.

    Args:
        true: what is compared; None for no hatching.
    """
    import numpy as np

    classes = _array(value.png)
    labels = tuple(_numbered(classes, value.names))
    times = max(round(FINE / max(classes.shape)), 1)
    fine = classes.repeat(times, 0).repeat(times, 1)
    out = np.where(fine == NOTHING, 0, fine.astype(int) % len(COLOURS) + 1).astype(np.uint8)
    if true is not None and (known := _array(true.png)).shape == classes.shape:
        wrong = ((known != classes) & (known != NOTHING)).repeat(times, 0).repeat(times, 1)
        stripes = np.add.outer(np.arange(fine.shape[0]), np.arange(fine.shape[1])) % 7
        out[wrong & (stripes == 0)] = _DARK
        out[wrong & (stripes == 1)] = _LIGHT
    edge = np.zeros(fine.shape, bool)
    edge[1:] |= fine[1:] != fine[:-1]
    edge[:, 1:] |= fine[:, 1:] != fine[:, :-1]
    beside = edge.copy()
    beside[:-1] |= edge[1:]
    beside[:, :-1] |= edge[:, 1:]
    out[beside] = _LIGHT
    out[edge] = _DARK
    return Layer(classes.shape, _png(out), labels)


def _png(out: np.ndarray) -> str:
    from PIL import Image

    palette, alpha = [0] * 768, [0] * 256
    for i, colour in enumerate(COLOURS, 1):
        palette[3 * i : 3 * i + 3] = [int(colour[j : j + 2], 16) for j in (1, 3, 5)]
        alpha[i] = 105
    palette[3 * _LIGHT : 3 * _LIGHT + 3] = [255, 255, 255]
    alpha[_DARK] = alpha[_LIGHT] = 255
    image = Image.fromarray(out, "P")
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(alpha), optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _numbered(classes: np.ndarray, names: Sequence[str]) -> list[tuple[float, float, str]]:
    """The innermost place of every region that is large enough, and the mark of its class."""
    import numpy as np
    from scipy import ndimage

    found = []
    for number in np.unique(classes[classes != NOTHING]).tolist():
        regions, n = ndimage.label(classes == number)
        sizes = np.bincount(regions.ravel(), minlength=n + 1)
        for region in np.flatnonzero(sizes[1:] >= LEAST * classes.size) + 1:
            depth = ndimage.distance_transform_cdt(np.pad(regions == region, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            place = ((float(x) + 0.5) / classes.shape[1], (float(y) + 0.5) / classes.shape[0], _sign(names, number))
            found.append((int(sizes[region]), place))
    return [place for _, place in sorted(found, reverse=True)[:LABELS]]


def legend(names: Sequence[str], masks: Sequence[Mask]) -> Markup:
    """The mark, colour and name of each class that some mask has."""
    import numpy as np

    there = sorted({int(c) for value in masks for c in np.unique(_array(value.png))} - {NOTHING})
    return Markup(" ").join(
        Markup('<span class="key"><i style="background:{}">{}</i> {}</span>').format(
            COLOURS[c % len(COLOURS)], _sign(names, c), _class(names, c)
        )
        for c in there
    )


def _class(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _sign(names: Sequence[str], number: int) -> str:
    """What stands for a class in a drawing: its number from 1 on, or its name where all names are numbers."""
    return _class(names, number) if all(n.isdigit() and len(n) <= 3 for n in names) else str(number + 1)


def mask_in_words(value: Mask) -> str:
    """The share of each class."""
    import numpy as np

    classes = _array(value.png)
    known = classes[classes != NOTHING]
    counts = np.bincount(known, minlength=len(value.names))
    parts = [f"{_class(value.names, c)} {percent(counts[c] / known.size)}" for c in np.argsort(-counts) if counts[c]]
    return ", ".join(parts) or "nothing is known"


def agreement(true: Mask, said: Mask) -> float | None:
    """The share of labelled pixels that are right; None where it is undefined."""
    a, b = _array(true.png), _array(said.png)
    known = a != NOTHING
    return float((a == b)[known].mean()) if a.shape == b.shape and known.any() else None


# -- recordings


def apart(a: Sound, b: Sound) -> float | None:
    """Decibels between two recordings at a place of their spectra, on average; None where they are not as long."""
    x, y = (_array(sound.png).astype(float) for sound in (a, b))
    return float(abs(x - y).mean() / 255 * DECIBELS) if x.shape == y.shape else None


# -- boxes


def boxes(value: Boxes, true: Boxes | None = None) -> Layer:
    """Frames with a name each, or with numbers where names have no room; one that finds no true box is dashed.

    Args:
        true: what is compared; None for no comparison.
    """
    right = hits(value, true) if isinstance(true, Boxes) else [True] * len(value.boxes)
    frames = []
    for i, (box, hit) in enumerate(zip(value.boxes, right, strict=True), start=1):
        sign = "" if not isinstance(true, Boxes) else " ✓" if hit else " ✗"
        frames.append((*box[:4], _named(value, i - 1) + sign, str(i), hit))
    return Layer((1, 1), frames=tuple(frames))


def hits(value: Boxes, true: Boxes) -> list[bool]:
    """Whether each box covers a true one of its class that none before it has, by half or more of what both cover."""
    left = list(true.boxes)
    found = []
    for box in value.boxes:
        best = max((b for b in left if b[4] == box[4]), key=lambda b: _overlap(box, b), default=None)
        found.append(best is not None and _overlap(box, best) >= COVERS)
        if found[-1] and best is not None:
            left.remove(best)
    return found


def _overlap(a: Sequence[object], b: Sequence[object]) -> float:
    ax0, ay0, ax1, ay1 = (float(v) for v in a[:4])  # type: ignore[arg-type]
    bx0, by0, bx1, by1 = (float(v) for v in b[:4])  # type: ignore[arg-type]
    common = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    either = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - common
    return common / either if either > 0 else 0.0


def listed(true: Boxes, said: Boxes, known: object) -> Markup:
    """What the numbers stand for: true boxes, then predicted ones with their scores."""
    right = hits(said, true) if isinstance(known, Boxes) else [None] * len(said.boxes)
    parts = []
    if isinstance(known, Boxes):
        own = ", ".join(_named(true, i) for i in range(len(true.boxes))) or "no box"
        parts.append(Markup("true: {}").format(own))
    else:
        parts.append(Markup("true: nobody knows"))
    told = []
    for i, (box, hit) in enumerate(zip(said.boxes, right, strict=True)):
        sign = "" if hit is None else " ✓" if hit else " ✗"
        told.append(_named(said, i) + sign + ("" if box[5] is None else f" ({percent(box[5], 0)} sure)"))
    parts.append(Markup("predicted: {}").format(", ".join(told) or "no box"))
    return Markup("; ").join(parts)


def _named(value: Boxes, i: int) -> str:
    return (f"{i + 1} " if len(value.boxes) > 1 else "") + value.boxes[i][4]


def boxes_in_words(value: Boxes) -> str:
    """Each box with its place."""
    found = [
        f"{name} from {percent(x0, 0)} to {percent(x1, 0)} across and {percent(y0, 0)} to {percent(y1, 0)} down"
        for x0, y0, x1, y1, name, _ in value.boxes
    ]
    return "; ".join(found) or "no box"
