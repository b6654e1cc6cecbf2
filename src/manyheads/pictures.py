"""Pictures: read from files, bytes or arrays, and laid onto a canvas of one size for all.

A picture is read by what is in it, whatever its file is called, and as its pixels are stored: an orientation in its
EXIF notes is not applied, since masks and boxes are drawn on the stored pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

RESIZES = ("stretch", "letterbox", "crop")
"""How a picture comes to lie on a canvas of another shape."""
SIZE = 64
"""Height and width of a canvas, where nobody says."""


def opened(value: Any, root: str | None = None) -> Image.Image:
    """A picture, its header read and its pixels not yet.

    Args:
        value: a path (absolute, or relative to `root`), the bytes of a file, an array (height, width[, 1, 3 or 4]) of
            bytes, or of numbers from 0 to 1, or an image of Pillow (a copy is made).
        root: a folder.

    Raises:
        ValueError: it is none of these, or no picture; the message says why, to be put after "Found".
    """
    if isinstance(value, str | Path):
        try:
            source = io.BytesIO(located(value, root).read_bytes())  # a file that stays open would be one too many
        except FileNotFoundError:
            raise ValueError("no file there") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"a file that cannot be read ({_short(error)})") from None
    elif isinstance(value, bytes | bytearray | memoryview):
        source = io.BytesIO(bytes(value))
    elif isinstance(value, np.ndarray | list | tuple):
        return _of_array(np.asarray(value))
    elif isinstance(value, Image.Image):
        return pixels(value).copy()
    else:
        raise ValueError(f"a {type(value).__name__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(source)
    except UnidentifiedImageError:
        raise ValueError("no picture in it") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"a picture that cannot be read ({_short(error)})") from None


def located(value: str | Path, root: str | None = None) -> Path:
    """The path of a picture's file.

    Args:
        value: absolute, or relative to `root`.
    """
    path = Path(value)
    return path if root is None or path.is_absolute() else Path(root) / path


def _of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise ValueError(f"an array of shape {array.shape}; (height, width) or (height, width, 3) is read")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError("an array of floating numbers beyond 0 to 1")
        array = np.round(array * 255)
    elif array.dtype.kind not in "iub" or array.min() < 0 or array.max() > 255:
        raise ValueError("an array of numbers beyond 0 to 255")
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def pixels(image: Image.Image) -> Image.Image:
    """The same picture with its pixels read.

    Raises:
        ValueError: the file is damaged; the message says how, to be put after "Found".
    """
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise ValueError(f"a picture that cannot be read ({_short(error)})") from None
    return image


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:120].rstrip(".")


def in_colours(image: Image.Image, channels: int) -> Image.Image:
    """Grey (1 channel) or RGB (3); what is transparent shows white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    elif image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16 bits a pixel, which `convert` would clip
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def indices(image: Image.Image) -> np.ndarray:
    """The number in each pixel of a mask (height, width): a palette's index, not its colour.

    Raises:
        ValueError: it has colours; the message says so, to be put after "Found".
    """
    array = np.asarray(pixels(image))
    if array.ndim == 3:
        if not (array[..., :1] == array[..., : min(3, array.shape[2])]).all():
            raise ValueError("colours, where a mask has one number a pixel")
        array = array[..., 0]
    return array.astype(np.int64)


def size_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one number for both, or two.

    Raises:
        ValueError: it is neither, or not positive.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in pair):
        raise ValueError(f"`size` should be a number of pixels, or height and width. Found {size!r}.")
    return pair[0], pair[1]


@dataclass(frozen=True)
class Canvas:
    """One size for all pictures, and how a picture of any other comes to lie on it.

    ``stretch`` fills the canvas, each axis by its own factor: the whole picture is there, nothing else is, and a place
    in it is the same share of height and width before and after. ``letterbox`` keeps the shape of things, and leaves
    bands empty beside or above the picture. ``crop`` keeps the shape and fills the canvas: what stands out on the
    longer side is cut off, in equal parts.

    Args:
        size: (height, width) in pixels.
        resize: one of `RESIZES`.

    Raises:
        ValueError: another word.
    """

    size: tuple[int, int]
    resize: str = "stretch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", size_pair(self.size))
        if self.resize not in RESIZES:
            raise ValueError(f"`resize` should be one of {', '.join(RESIZES)}. Found `{self.resize}`.")

    def scales(self, height: int, width: int) -> tuple[float, float]:
        """Pixels of the canvas per pixel of a picture: down, across."""
        down, across = self.size[0] / height, self.size[1] / width
        if self.resize == "stretch":
            return down, across
        both = min(down, across) if self.resize == "letterbox" else max(down, across)
        return both, both

    def place(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Where the whole picture lies on the canvas: (left, top, right, bottom) in pixels; cut off where beyond.

        A letterbox lies on whole pixels.
        """
        down, across = self.scales(height, width)
        h, w = height * down, width * across
        if self.resize == "letterbox":
            h, w = max(round(h), 1), max(round(w), 1)
            corner = (self.size[1] - w) // 2, (self.size[0] - h) // 2
            return *corner, corner[0] + w, corner[1] + h
        left, top = (self.size[1] - w) / 2, (self.size[0] - h) / 2
        return left, top, left + w, top + h

    def onto(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Points (..., 2), x and y in pixels of a picture of this size, in pixels of the canvas."""
        left, top, right, bottom = self.place(height, width)
        return np.asarray(points, float) * [(right - left) / width, (bottom - top) / height] + [left, top]

    def off(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Points of the canvas (..., 2) in pixels of a picture of this size: the inverse of `onto`."""
        left, top, right, bottom = self.place(height, width)
        return (np.asarray(points, float) - [left, top]) / [(right - left) / width, (bottom - top) / height]

    def laid(self, image: Image.Image, fill: int = 0, nearest: bool = False) -> Image.Image:
        """The picture on the canvas.

        Args:
            fill: the value of pixels where there is no picture.
            nearest: take the nearest pixel, as masks need it, instead of a mean.
        """
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        gap = None if nearest else 2.0
        if self.resize == "stretch":
            return _resized(image, (self.size[1], self.size[0]), how, None, gap)
        left, top, right, bottom = self.place(image.height, image.width)
        if self.resize == "crop":
            ends = np.array([[0, 0], [self.size[1], self.size[0]]])
            box = tuple(self.off(ends, image.height, image.width).ravel().tolist())
            box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], image.width), min(box[3], image.height))
            return _resized(image, (self.size[1], self.size[0]), how, box, gap)
        canvas = Image.new(image.mode, (self.size[1], self.size[0]), (fill,) * 3 if image.mode == "RGB" else fill)
        canvas.paste(_resized(image, (int(right - left), int(bottom - top)), how, None, gap), (int(left), int(top)))
        return canvas

    def lifted(self, mask: np.ndarray, height: int, width: int, fill: int = 0) -> np.ndarray:
        """A mask on the canvas (height, width of the canvas) in the size of its picture: the inverse of `laid`.

        Args:
            mask: of bytes.
            fill: the value of pixels that were cut off.
        """
        ys, xs = np.arange(height) + 0.5, np.arange(width) + 0.5
        corner = self.onto(np.stack([xs, np.zeros_like(xs)], 1), height, width)[:, 0]
        side = self.onto(np.stack([np.zeros_like(ys), ys], 1), height, width)[:, 1]
        columns, rows = np.floor(corner).astype(int), np.floor(side).astype(int)
        inside = ((rows >= 0) & (rows < self.size[0]))[:, None] & ((columns >= 0) & (columns < self.size[1]))[None]
        found = mask[rows.clip(0, self.size[0] - 1)[:, None], columns.clip(0, self.size[1] - 1)[None]]
        return np.where(inside, found, np.uint8(fill)).astype(np.uint8)


def _resized(
    image: Image.Image, size: tuple[int, int], how: Image.Resampling, box: Any, gap: float | None
) -> Image.Image:
    return image if image.size == size and box is None else image.resize(size, how, box, gap)


def decoded(value: Any, canvas: Canvas, channels: int, root: str | None = None) -> np.ndarray:
    """A picture on a canvas, (channels, height, width) bytes.

    Raises:
        ValueError: see `opened`.
    """
    image = opened(value, root)
    if image.format == "JPEG":  # a large one is read at a half, quarter or eighth of its size
        down, across = canvas.scales(image.height, image.width)
        wanted = (2 * round(image.width * across), 2 * round(image.height * down))
        place = image.size
        image.draft("RGB" if channels == 3 else "L", wanted)
        if canvas.resize != "stretch" and abs(image.width * place[1] - image.height * place[0]) > max(place):
            image = opened(value, root)  # the rounding of its sides would show
    laid = canvas.laid(in_colours(pixels(image), channels))
    array = np.asarray(laid)
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def png(mask: np.ndarray) -> bytes:
    """A mask (height, width) of bytes as a PNG file: one number a pixel, 0 to 255."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
