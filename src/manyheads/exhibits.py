"""Pictures, masks and recordings as plain values that a page can draw."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from . import results
from .pictures import Canvas, in_colours, opened, pixels, png

LONGEST = 240
"""Pixels of a picture's longer side."""
COLOURS = 128
COLUMNS, LINES = 320, 80
"""A recording's picture has at most so many pixels across and down."""
RANGE, LEVELS = 60.0, 24
"""Decibels from white to black, and shades of grey in between."""


def picture(value: Any, canvas: Canvas, channels: int, root: str | None = None) -> results.Picture:
    """A picture as it lies on a canvas, as large as a reader wishes; one that was stretched has its own shape.

    Raises:
        ValueError: see `pictures.opened`.
    """
    image = opened(value, root)
    if image.format == "JPEG":
        image.draft("RGB" if channels == 3 else "L", (2 * LONGEST, 2 * LONGEST))
    image = in_colours(pixels(image), channels)
    if canvas.resize == "stretch":
        image.thumbnail((LONGEST, LONGEST))
    else:
        times = max(LONGEST / max(canvas.size), 1.0)
        height, width = (max(round(n * times), 1) for n in canvas.size)
        image = Canvas((height, width), canvas.resize).laid(image)
    return results.Picture(png=_text(_few(image)), width=image.width, height=image.height)


def _few(image: Image.Image) -> bytes:
    """A PNG of few colours: a third of the bytes."""
    buffer = io.BytesIO()
    if image.mode == "RGB":
        image = image.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG)
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def mask(classes: np.ndarray, names: Sequence[str]) -> results.Mask:
    """A class per pixel (height, width), 255 where nothing is known."""
    return results.Mask(png=_text(png(classes)), names=tuple(map(str, names)))


def sound(samples: np.ndarray, rate: int) -> results.Sound:
    """A recording (n,) of numbers in any unit; the loudest places are black, whatever the unit.

    Args:
        rate: in Hz.
    """
    wave = np.asarray(samples, np.float64)
    window = 2 ** max(round(np.log2(rate * 0.03)), 4)
    hop = max(window // 4, -(-len(wave) // COLUMNS))
    padded = np.pad(wave, (window // 2, window // 2 + hop))
    starts = np.arange(0, len(padded) - window, hop)[:COLUMNS]
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1))[:, : window // 2] ** 2
    lines = min(window // 2, LINES)
    edges = np.linspace(0, window // 2, lines + 1).astype(int)[:-1]
    power = np.maximum.reduceat(power, edges, axis=1).T[::-1]
    level = 10 * np.log10(np.maximum(power, 1e-30))
    share = ((level - np.quantile(level, 0.999)) / RANGE + 1).clip(0, 1) * (power > 0)  # silence is white
    grey = 255 - np.round(share * (LEVELS - 1)) * (255 / (LEVELS - 1))
    return results.Sound(png=_text(png(grey.round().astype(np.uint8))), seconds=len(wave) / rate, hertz=rate / 2)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
