"""Pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ... import exhibits
from ...faults import ConfigError, DataError
from ...pictures import SIZE, Canvas, decoded
from ..values import place, row_of
from . import Column

if TYPE_CHECKING:
    import pandas as pd

    from ...results import Picture

LEARNT_FROM = 256
"""Mean and sd of the colours are taken over at most so many training pictures, evenly spaced."""


@dataclass(frozen=True)
class Image(Column):
    """A picture, as bytes (channels, height, width) on a canvas of one size; read once, and kept as bytes in memory.

    A cell holds a path (absolute, or relative to `root`), the bytes of a file, or an array (height, width[, 3]). A file
    is read by its content, whatever its name ends in. A missing picture has the mean colour of the training pictures.

    ``stretch`` is the default: the whole picture is there and every pixel is used, and masks and boxes move with it
    without its size being known. Choose ``letterbox`` where the shape of things tells (signs, digits of unequal width),
    ``crop`` where the middle is enough.

    Shape:
        (rows, channels, height, width), uint8; the encoder standardises by `mean` and `sd`, one per channel, in units
        of the bytes.

    Args:
        size: height and width of the canvas, or one number for both.
        channels: 3, or 1 for grey.
        resize: ``stretch``, ``letterbox`` or ``crop``, see `manyheads.pictures.Canvas`.
        root: the folder to which paths are relative; by default the working folder.
    """

    size: tuple[int, int] = (SIZE, SIZE)
    channels: int = 3
    resize: str = "stretch"
    root: str | None = None
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()

    kind: ClassVar = "image"

    @classmethod
    def fit(
        cls,
        name: str,
        series: pd.Series,
        size: int | tuple[int, int] = SIZE,
        channels: int = 3,
        resize: str = "stretch",
        root: str | None = None,
    ) -> Image:
        if channels not in (1, 3):
            raise ConfigError(f"Column `{name}`: `channels` should be 1 (grey) or 3 (RGB). Found {channels!r}.")
        try:
            canvas = Canvas(size, resize)  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"Column `{name}`: {error}") from None
        empty = cls(name, canvas.size, channels, resize, root, (127.5,) * channels, (127.5,) * channels)
        known = series[series.notna().to_numpy()]
        chosen = known.iloc[:: -(-len(known) // LEARNT_FROM)] if len(known) else known
        if not len(chosen):
            return empty
        seen = empty.transform(chosen).transpose(1, 0, 2, 3).reshape(channels, -1).astype(np.float64)
        sd = np.where((spread := seen.std(1)) > 1e-6, spread, 127.5)
        return cls(name, canvas.size, channels, resize, root, tuple(seen.mean(1).tolist()), tuple(sd.tolist()))

    def transform(self, series: pd.Series) -> np.ndarray:
        canvas = Canvas(self.size, self.resize)
        pictures = np.empty((len(series), self.channels, *canvas.size), np.uint8)
        missing = np.round(self.mean).astype(np.uint8)[:, None, None]
        gone = series.isna().to_numpy()
        for row, value in enumerate(series):
            if gone[row]:
                pictures[row] = missing
                continue
            try:
                pictures[row] = decoded(value, canvas, self.channels, self.root)
            except ValueError as error:
                shown = f" in `{value}`" if isinstance(value, str) else ""
                raise DataError(
                    f"Column `{self.name}` should hold pictures: paths, bytes, arrays or images of Pillow. Found "
                    f"{error}{shown} in {place(series, row)}; leave the cell empty if the picture is missing.",
                    row_of(series, row),
                ) from None
        return pictures

    def show(self, cell: Any) -> Picture | None:
        missing = cell is None or isinstance(cell, float)
        return None if missing else exhibits.picture(cell, Canvas(self.size, self.resize), self.channels, self.root)

    @property
    def layout(self) -> dict[str, Any]:
        return {"channels": self.channels, "size": list(self.size), "mean": list(self.mean), "sd": list(self.sd)}
