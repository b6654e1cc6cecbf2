"""Folders of pictures: their masks, their boxes, and classes from the names of files and folders."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ...faults import DataError
from ...pictures import indices, opened, pixels
from ..columns import DataWarning
from . import Format
from ._album import sketch

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Of files that are taken for pictures; what they are is told by their content."""
Box = list[Any]
"""[x0, y0, x1, y1, label], in pixels from the left and the top; x1 and y1 are where the next pixel begins."""


class Pictures(Format):
    """A folder with a picture per row, and beside it masks, boxes, classes and lists of parts.

    A row is a picture of the folder, or of a single file; of a picture alone nothing but ``image``, ``width`` and
    ``height`` is known, and so it is predicted.

    Columns: ``image`` (path), ``width``, ``height`` (pixels), and as asked for

    * ``mask``: the path of the file of the same stem in `masks`, null where there is none. A mask of another size than
      its picture is refused;
    * ``boxes``: JSON ``[[x0, y0, x1, y1, label], ...]`` in pixels, from the file of the same stem in `boxes` (Pascal
      VOC's XML), null where there is none: nothing is known, which is not the same as an empty list. Or, with
      `components`, drawn around the connected parts of these classes in the mask (touching objects are one: the boxes
      are derived), where `components` names class numbers and how they are called;
    * a column for each named group of `pattern`, a regular expression for the stem of the file:
      ``(?P<breed>.+)_[0-9]+``;
    * ``class``: the folder in which the picture is, with `classes: folder`;
    * ``has_<name>``: 1 where the mask has `at_least` pixels of that class, with `present`;
    * the columns of `table`, a list with a line per picture, stem first, which `columns` names;
    * ``part``: train, valid or test, from `parts`.

    Args:
        on_error: ``raise`` or ``skip``.
        images: the folder with the pictures, with those in it; or one per part.
        masks: the folder with the masks; or one per part, as `images`.
        behind: what the name of a mask has behind the stem of its picture: ``_mask``.
        boxes: the folder with the XML files.
        pattern: a regular expression that the whole stem of a file matches; other files are refused.
        classes: ``folder``, or nothing.
        parts: part -> a file with the stems of its pictures in the first column. Pictures that no list has are left
            out. Without it, `images` may name a folder per part.
        aside: part -> n: every n-th picture of the list of ``train`` goes to this part instead, where a data set has no
            validation part, or no label of some kind in its test part.
        table: a file with a line per picture, words with spaces between; lines with # are no lines.
        columns: names of the columns of `table` after the stem.
        present: class number in a mask -> name.
        components: class number in a mask -> name.
        at_least: pixels that a component or a present class has.

    Raises:
        ValueError: settings that do not go together.

    Reference:
        Everingham et al.: The PASCAL visual object classes (VOC) challenge, 2010.
    """

    def __init__(
        self,
        on_error: str = "raise",
        images: str | dict[str, str] = ".",
        masks: str | dict[str, str] | None = None,
        behind: str = "",
        boxes: str | None = None,
        pattern: str | None = None,
        classes: str | None = None,
        parts: dict[str, str] | None = None,
        aside: dict[str, int] | None = None,
        table: str | None = None,
        columns: list[str] | None = None,
        present: dict[Any, str] | None = None,
        components: dict[Any, str] | None = None,
        at_least: int = 1,
    ) -> None:
        super().__init__(on_error)
        self.images = {"": images} if isinstance(images, str) else dict(images)
        self.masks = {"": masks} if isinstance(masks, str) else dict(masks or {})
        if masks is not None and set(self.masks) != set(self.images):
            raise ValueError(f"`masks` should have the parts of `images`, {', '.join(self.images)}.")
        if parts is not None and "" not in self.images:
            raise ValueError("`parts` should not be given where `images` names a folder per part.")
        self.aside = {str(part): int(n) for part, n in (aside or {}).items()}
        if self.aside and (parts is None or "train" not in parts or min(self.aside.values()) <= len(self.aside)):
            raise ValueError(
                "`aside` should take every n-th picture of the list of train in `parts`, n above the number of parts "
                f"that it names. Found {self.aside}."
            )
        if classes not in (None, "folder"):
            raise ValueError(f"`classes` should be `folder` or nothing. Found `{classes}`.")
        if (present or components) and not self.masks:
            raise ValueError("`present` and `components` should be given with `masks`.")
        if boxes is not None and components:
            raise ValueError("Boxes should come from files (`boxes`) or from masks (`components`). Found both.")
        if columns and table is None:
            raise ValueError("`columns` should be given with `table`.")
        try:
            self.pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise ValueError(f"`pattern` should be a regular expression. Found: {error}.") from None
        self.behind, self.boxes, self.classes, self.parts = behind, boxes, classes, parts
        self.table, self.columns = table, list(columns or [])
        self.present = {int(k): str(v) for k, v in (present or {}).items()}
        self.components = {int(k): str(v) for k, v in (components or {}).items()}
        self.at_least = at_least
        self.cut: list[Path] = []
        """The file of each box that was clipped to its picture."""

    @classmethod
    def sketch(cls, path: Path) -> dict[str, Any] | None:
        return sketch(path, ENDINGS)

    def bare(self, path: Path) -> Pictures:
        """All pictures of a folder, or one file, where there are not the folders and lists that hold labels."""
        images = [path / folder for folder in self.images.values()]
        labels = [path / f for f in (*self.masks.values(), *(self.parts or {}).values(), self.boxes, self.table) if f]
        if all(p.exists() for p in (*images, *labels)) and path.is_dir():
            return self
        return Pictures(self.on_error, self.images[""] if "" in self.images and images[0].is_dir() else ".")

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        if path.suffix.lower() in ENDINGS and path.is_file() and set(self.images.values()) == {"."}:
            return pd.DataFrame([row for row in [self._row(path, None, None)] if row])
        if not path.is_dir():
            raise DataError(f"`{path}` should be a folder with pictures. Found a file; name the folder.")
        masks = {part: _by_stem(self._folder(path, f, "masks")) for part, f in self.masks.items()}
        boxes = None if self.boxes is None else _by_stem(self._folder(path, self.boxes, "boxes"), (".xml",))
        lists = None if self.parts is None else self._lists(path)
        further = None if self.table is None else self._further(path / self.table)
        taken = {file for found in masks.values() for file in found.values()}  # masks may lie below their pictures
        rows, self.cut = [], []
        for part, folder in self.images.items():
            place = self._folder(path, folder, "images")
            for file in sorted(
                p for p in place.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file() and p not in taken
            ):
                if lists is not None and file.stem not in lists:
                    continue
                row = self._row(file, masks.get(part), boxes)
                if row is None:
                    continue
                if lists is not None or part:
                    row["part"] = part if lists is None else lists[file.stem]
                if further is not None:
                    row |= further.get(file.stem, dict.fromkeys(self.columns))
                rows.append(row)
        if self.cut:
            warnings.warn(
                f"Boxes should lie within their pictures. Found {len(self.cut)} that stand out, the first in "
                f"`{self.cut[0]}`; they are clipped.",
                DataWarning,
                stacklevel=2,
            )
        return pd.DataFrame(rows)

    def _folder(self, path: Path, folder: str, what: str) -> Path:
        found = path / folder
        if not found.is_dir():
            raise DataError(f"`{found}` should be a folder, which `{what}` names. Found no such folder.")
        return found

    def _lists(self, path: Path) -> dict[str, str]:
        """Stem -> part."""
        found: dict[str, str] = {}
        for part, name in (self.parts or {}).items():
            for number, words in _lines(path / name):
                if found.setdefault(words[0], part) != part:
                    raise DataError(
                        f"`{path / name}`, line {number} should name a picture of this part alone. Found `{words[0]}` "
                        f"in the list of {found[words[0]]} too."
                    )
        for i, stem in enumerate([stem for stem, part in found.items() if part == "train"]):
            for place, (part, n) in enumerate(self.aside.items()):
                if i % n == place:
                    found[stem] = part
        return found

    def _further(self, file: Path) -> dict[str, dict[str, Any]]:
        """Stem -> the columns of the table."""
        found = {}
        for number, (stem, *values) in _lines(file):
            if len(values) != len(self.columns):
                wanted = f"have {len(self.columns)} words after the stem, as `columns` says"
                self.refuse(f"{file}, line {number}", wanted, str(len(values)))
                continue
            found[stem] = dict(zip(self.columns, map(_number, values), strict=True))
        return found

    def _row(self, file: Path, masks: Mapping[str, Path] | None, boxes: Mapping[str, Path] | None) -> Any:
        """The columns of one picture; None where it is left out."""
        row: dict[str, Any] = {"image": str(file)}
        try:
            width, height = opened(str(file)).size
        except ValueError as error:
            return self.refuse(file, "be a picture", str(error))
        row |= {"width": width, "height": height}
        if self.pattern is not None:
            match = self.pattern.fullmatch(file.stem)
            if match is None:
                return self.refuse(file, f"have a stem like `{self.pattern.pattern}`", f"`{file.stem}`")
            row |= match.groupdict()
        if self.classes == "folder":
            row["class"] = file.parent.name
        if masks is not None:
            found = masks.get(file.stem + self.behind)
            row["mask"] = None if found is None else str(found)
            derived = self._of_mask(found, (width, height))
            if derived is None:
                return None
            row |= derived
        if boxes is not None:
            found = boxes.get(file.stem)
            row["boxes"] = None
            if found is not None:
                read = self._of_xml(found, (width, height))
                if read is None:
                    return None
                row["boxes"] = json.dumps(read, ensure_ascii=False)
        return row

    def _of_mask(self, file: Path | None, size: tuple[int, int]) -> dict[str, Any] | None:
        """What a mask tells beside itself; None where it is refused."""
        columns = [f"has_{name}" for name in self.present.values()] + (["boxes"] if self.components else [])
        if file is None:
            return dict.fromkeys(columns)
        try:
            image = opened(str(file))
            if image.size != size:
                wanted = f"have the size of its picture, {size[0]} x {size[1]}"
                return self.refuse(file, wanted, f"{image.width} x {image.height}")
            if not columns:
                return {}
            mask = indices(pixels(image))
        except ValueError as error:
            return self.refuse(file, "be a mask", str(error))
        found: dict[str, Any] = {
            f"has_{name}": int((mask == number).sum() >= self.at_least) for number, name in self.present.items()
        }
        if self.components:
            derived = [box for k, name in self.components.items() for box in components(mask == k, name, self.at_least)]
            found["boxes"] = json.dumps(derived, ensure_ascii=False)
        return found

    def _of_xml(self, file: Path, size: tuple[int, int]) -> list[Box] | None:
        try:
            return voc(file, size, self.cut)
        except ValueError as error:
            expected, _, found = str(error).partition("|")
            self.refuse(file, expected, found)
            return None


def _by_stem(folder: Path, endings: Sequence[str] = ENDINGS) -> dict[str, Path]:
    """Stem -> file; hidden files are none."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and not p.name.startswith("."))
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise DataError(
                f"`{folder}` should have one file per stem. Found `{found[file.stem].name}`, `{file.name}`."
            )
        found[file.stem] = file
    return found


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(number, words) of every line that has any."""
    if not file.is_file():
        raise DataError(f"`{file}` should be a list with a line per picture. Found no such file.")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _number(word: str) -> int | str:
    return int(word) if re.fullmatch(r"-?\d{1,15}", word) else word


def components(inside: np.ndarray, label: str, at_least: int = 1) -> list[Box]:
    """Boxes around the connected parts (corners touching count) of a mask (height, width)."""
    from scipy import ndimage

    parts, n = ndimage.label(inside, structure=np.ones((3, 3), int))
    sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
    boxes = []
    for place, size in zip(ndimage.find_objects(parts), sizes, strict=True):
        if size >= at_least:
            down, across = place
            boxes.append([across.start, down.start, across.stop, down.stop, label])
    return boxes


def voc(file: Path, size: tuple[int, int], cut: list[Path] | None = None) -> list[Box]:
    """The boxes of a Pascal VOC file, clipped to their picture.

    VOC counts pixels from 1 and names the last one inside: x0 = xmin - 1, x1 = xmax.

    Args:
        size: (width, height) of the picture.
        cut: is given the file once for each box that stands out by more than a pixel.

    Raises:
        ValueError: the file is damaged, or a box is none; expected and found with ``|`` between.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise ValueError(f"be XML|it damaged: {error}") from None
    boxes: list[Box] = []
    for thing in root.iter("object"):
        label, corners = thing.findtext("name"), thing.find("bndbox")
        if not label or corners is None:
            raise ValueError("have a `name` and a `bndbox` in every `object`|one without")
        try:
            x0, y0, x1, y1 = (float(corners.findtext(k) or "") for k in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise ValueError("have numbers xmin, ymin, xmax, ymax in every `bndbox`|one without") from None
        given = [_whole(v) for v in (x0, y0, x1, y1)]
        wide, high = float(size[0]), float(size[1])
        if cut is not None and (min(x0, y0) < 0 or x1 > wide + 1 or y1 > high + 1):  # a pixel is a matter of counting
            cut.append(file)
        x0, y0, x1, y1 = max(x0 - 1, 0.0), max(y0 - 1, 0.0), min(x1, wide), min(y1, high)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(
                f"have boxes with xmin <= xmax and ymin <= ymax within its picture of {size[0]} x {size[1]}|{given}"
            )
        boxes.append([_whole(v) for v in (x0, y0, x1, y1)] + [label])
    return boxes


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value
