"""Single rows, as people see them: what was given, what is true, what was said."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .values import Number, Value


class Text(Value):
    """Words, a class, a number."""

    kind: Literal["text"] = "text"
    text: str
    words: tuple[str, ...] = ()
    """Its words one by one, where they matter: as a model read them, or to be compared with other ones."""
    chance: Number = None
    """How sure a prediction is, 0 to 1."""
    exact: bool = True
    """Whether whatever differs from it is wrong; False for numbers, which are near or far."""


class Tags(Value):
    """What is marked in a sentence; its words are those of the input that has as many."""

    kind: Literal["tags"] = "tags"
    length: int
    """Words of the sentence."""
    spans: tuple[tuple[int, int, str], ...] = ()
    """(first word, the one after the last, type)."""
    relations: tuple[tuple[int, int, str], ...] = ()
    """(number of the head's span, of the tail's, type)."""


class Picture(Value):
    """A picture; what is said of its places is in shares of its width and height."""

    kind: Literal["picture"] = "picture"
    png: str
    """The bytes of a PNG file, base64."""
    width: int
    height: int


class Mask(Value):
    """A class for every pixel of a picture, laid over all of it."""

    kind: Literal["mask"] = "mask"
    png: str
    """A PNG of one byte a pixel, base64: the number of its class in `names`, 255 where nothing is known."""
    names: tuple[str, ...]


class Boxes(Value):
    """Boxes in a picture."""

    kind: Literal["boxes"] = "boxes"
    boxes: tuple[tuple[float, float, float, float, str, Number], ...] = ()
    """(x0, y0, x1, y1, class, score), in shares of width and height; the surest first. A label has no score."""


class Sound(Value):
    """A recording, as a picture of its short spectra: time to the right, frequency upwards, dark where it is loud."""

    kind: Literal["sound"] = "sound"
    png: str
    """A grey PNG, base64: black 60 decibels above white."""
    seconds: float
    hertz: float
    """The frequency of the upper edge."""


Shown = Annotated[Text | Tags | Picture | Mask | Boxes | Sound, Field(discriminator="kind")]


class Pair(Value):
    """What is true of a row and what was predicted."""

    true: Shown | None = None
    """None where nobody knows."""
    said: Shown


class Example(Value):
    """One row: what a model was given, and what it made of it."""

    row: int
    """Its number in the table."""
    table: str | None = None
    inputs: dict[str, Shown] = {}
    tasks: dict[str, Pair] = {}


class Examples(Value):
    """A handful of rows, drawn at random; kept in examples.json."""

    split: str
    rows: tuple[Example, ...]


# -- the whole
