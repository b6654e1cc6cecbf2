"""The files of MNIST and its followers."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...faults import DataError
from ...ragged import objects
from . import Format

if TYPE_CHECKING:
    import pandas as pd

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""The third byte of a file -> what its numbers are."""
PARTS = ("train", "valid", "test")


class Idx(Format):
    """Pictures in an idx file, plain or gzipped, and their classes in another.

    Columns: ``image``, an array (height, width), and ``label``. With `pairs`, every row is a canvas instead, with one
    picture at the top left and one at the bottom right, which overlap by their maximum: ``image``, ``left``, ``right``
    (the classes), ``part`` (train, valid, test). Parts have no picture in common: pictures are divided first, pairs
    are drawn within each part.

    Args:
        on_error: ``raise`` or ``skip``.
        labels: the file with the classes; default: the one beside the pictures, with ``labels-idx1`` instead of
            ``images-idx3`` in its name.
        pairs: how many canvases; 0 for the pictures themselves.
        side: height and width of a canvas.
        valid, test: shares of the canvases.
        seed: of parts and pairs.

    Reference:
        LeCun, Cortes, Burges: The MNIST database; Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017; pairs: Sabour, Frosst,
        Hinton: Dynamic routing between capsules, 2017, Lin et al.: Pareto multi-task learning, 2019.
    """

    suffixes = ("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")

    def __init__(
        self,
        on_error: str = "raise",
        labels: str | None = None,
        pairs: int = 0,
        side: int = 36,
        valid: float = 0.15,
        test: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__(on_error)
        if pairs < 0 or not (valid >= 0 and test >= 0 and valid + test < 1):
            raise ValueError(
                "`pairs` should be 0 or more, `valid` and `test` shares that leave something to train on. "
                f"Found {pairs}, {valid}, {test}."
            )
        self.labels, self.pairs, self.side = labels, pairs, side
        self.valid, self.test, self.seed = valid, test, seed

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        pictures = self._pictures(path)
        if pictures.ndim != 3:
            raise DataError(f"`{path}` should hold pictures (n, height, width). Found shape {pictures.shape}.")
        other = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        file = path.with_name(self.labels) if self.labels else other
        classes = array(file).astype(np.int64) if file != path and file.is_file() else None
        if classes is None and (self.pairs or self.labels):
            raise DataError(f"`{file}` should hold the classes of `{path}`. Found no such file; name it by `labels`.")
        if classes is not None and self.skipped:
            classes = classes[: len(pictures)]
        if classes is not None and classes.shape != pictures.shape[:1]:
            raise DataError(f"`{file}` should hold {len(pictures)} classes. Found shape {classes.shape}.")
        if not self.pairs:
            frame = pd.DataFrame({"image": objects(list(pictures))})
            return frame if classes is None else frame.assign(label=classes)
        assert classes is not None
        if self.side < max(pictures.shape[1:]):
            raise DataError(f"`side` should be at least {max(pictures.shape[1:])}, for `{path}`. Found {self.side}.")
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(pictures))
        shares = {"train": 1 - self.valid - self.test, "valid": self.valid, "test": self.test}
        stops = np.round(np.cumsum(list(shares.values())) * len(pictures)).astype(int)
        frames = []
        for part, pool in zip(PARTS, np.split(order, stops[:-1]), strict=True):
            if n := round(shares[part] * self.pairs):
                canvas, left, right = paired(pictures, pool, n, rng, self.side)
                own = {"left": classes[left], "right": classes[right], "part": part}
                frames.append(pd.DataFrame({"image": objects(list(canvas)), **own}))
        return pd.concat(frames, ignore_index=True)

    def _pictures(self, file: Path) -> np.ndarray:
        shape, values = parsed(file)
        whole = len(values) // max(math.prod(shape[1:]), 1)
        if whole < shape[0]:
            self.refuse(
                f"{file}, picture {whole}", f"be there, as {shape[0]} pictures are said to be", "the file cut off"
            )
        elif len(values) != math.prod(shape):
            raise DataError(f"`{file}` should hold {math.prod(shape):,} numbers, as it says. Found {len(values):,}.")
        whole = min(whole, shape[0])
        return values[: whole * math.prod(shape[1:])].reshape(whole, *shape[1:])


def array(file: Path) -> np.ndarray:
    """The numbers of an idx file, plain or gzipped.

    Raises:
        DataError: it is missing, or damaged.
    """
    shape, values = parsed(file)
    if len(values) != math.prod(shape):
        raise DataError(f"`{file}` should hold {math.prod(shape):,} numbers, as it says. Found {len(values):,}.")
    return values.reshape(shape)


def parsed(file: Path) -> tuple[list[int], np.ndarray]:
    """(the shape that an idx file says it has, the numbers that are there one after the other).

    Raises:
        DataError: it is missing, or no idx file.
    """
    if not file.is_file():
        raise DataError(f"`{file}` should be an idx file. Found {'a folder' if file.is_dir() else 'nothing there'}.")
    raw = file.read_bytes()
    try:
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"`{file}` should be a gzipped idx file. Found it damaged: {error}.") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES:
        raise DataError(f"`{file}` should be an idx file, which begins with two zeros and a type. Found {data[:4]!r}.")
    n = data[3]
    shape = np.frombuffer(data, ">i4", count=n, offset=4).tolist() if len(data) >= 4 + 4 * n else [-1]
    if not shape or min(shape) < 0:
        raise DataError(f"`{file}` should say how many numbers it holds. Found {shape}.")
    kind = np.dtype(TYPES[data[2]])
    there = (len(data) - 4 - 4 * n) // kind.itemsize
    return shape, np.frombuffer(data, kind, count=there, offset=4 + 4 * n).astype(kind.newbyteorder("="))


def paired(
    pictures: np.ndarray, pool: np.ndarray, n: int, random: np.random.Generator, side: int = 36
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(canvases (n, side, side) of bytes, which picture is at the top left, which at the bottom right).

    Args:
        pictures: (m, height, width) bytes.
        pool: which of them are drawn from, with repetition.
        n: how many canvases.
        random: where draws come from: first all of the left, then all of the right.
        side: height and width of a canvas.
    """
    left, right = (random.choice(pool, n) for _ in range(2))
    h, w = pictures.shape[1:]
    canvas = np.zeros((n, side, side), np.uint8)
    canvas[:, :h, :w] = pictures[left]
    canvas[:, side - h :, side - w :] = np.maximum(canvas[:, side - h :, side - w :], pictures[right])
    return canvas, left, right
