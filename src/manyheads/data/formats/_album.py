"""What a folder of pictures seems to hold: a first config for it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...faults import DataError
from ...metrics.masks import IGNORED
from ...pictures import SIZE, indices, opened, pixels

PARTS = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid",
         "test": "test", "testing": "test"}  # fmt: skip
"""What people call the parts of a data set -> what they are called here."""
_MASKS_OF = re.compile(r"[\W_]*(annot\w*|masks?|labels?|gt)$")
"""What they put behind that for the folder of its masks."""
LOOKED_AT = 40
"""At most so many files of a folder are opened, evenly spaced."""
MOST_NUMBERS = 64
"""A mask has no more different numbers than this, over all that are looked at."""
NUMBERED = r"(?P<class>.*[^\W\d_])[\W_]*\d+"
"""A word and a number: the names of files that say what is on them."""


def sketch(path: Path, endings: Sequence[str]) -> dict[str, Any] | None:
    """Sections of a config for a folder of pictures; None where it has none.

    Masks are pictures of one channel with few different numbers, in a folder of their own, under the names of other
    pictures; boxes are XML files under their names. Folders named as parts are parts, other folders are classes; else
    the names of files may tell classes, where each is a word and a number.

    Args:
        path: the folder.
        endings: of files that are pictures.
    """
    folders = _folders(path, lambda file: file.suffix.lower() in endings)
    behind = _behind(folders)
    masks = {f: stems for f, stems in folders.items() if _has_others(stems, folders, f, behind)}
    masks = {f: stems for f, stems in masks.items() if _masks(path / f, stems)}
    images = {f: stems for f, stems in folders.items() if f not in masks}
    if not images:  # pictures of few numbers, of which each looks like a mask
        masks, images = {}, folders
    if not images:
        return None
    if not masks:
        _refuse_colours(path, folders)
    boxes = _folders(path, lambda file: file.suffix.lower() == ".xml")
    boxed = [f for f, stems in boxes.items() if any(stems.keys() & own.keys() for own in images.values())]
    form: dict[str, Any] = {"name": "pictures"}
    tasks: dict[str, Any] = {}
    base, parts, inner = _divided(list(images))
    form["images"] = {part: str(base / word) for part, word in parts.items()} if parts else str(base)
    stems = [stem for own in images.values() for stem in own]
    classes = [name for f, own in images.items() for name in [PurePosixPath(f).name] * len(own)] if inner else None
    if classes and (kind := _kind(classes)):
        form["classes"] = "folder"
        tasks["class"] = {"type": kind}
    elif not classes and (found := _named(stems)) and (kind := _kind(found)):
        form["pattern"] = NUMBERED
        tasks["class"] = {"type": kind}
    if masks:
        base, own_parts, _ = _divided(list(masks))
        if set(own_parts) == set(parts):
            form["masks"] = {p: str(base / word) for p, word in own_parts.items()} if parts else str(base)
            form |= {"behind": behind} if behind else {}
            tasks["mask"] = {"type": "segmentation", **_numbers(path, masks)}
    if len(boxed) == 1:
        form["boxes"] = boxed[0]
        tasks["boxes"] = {"type": "detection"}
    split: dict[str, Any] = {"kind": "column", "by": "part"}
    if not {"train", "test"} <= set(parts):
        split = {"kind": "stratified" if "class" in tasks else "random", "sizes": [0.7, 0.15, 0.15]}
    files = [path / f / name for f, own in images.items() for name in own.values()]
    return {
        "data": {"format": form, "split": split},
        "features": {"only": ["image"], "types": {"image": {"type": "image", "size": _size(files)}}},
        "tasks": tasks,
        "optim": {"lr": 2e-3, "weight_decay": 0.05, "scheduler": "CosineAnnealingLR"},
        "sampling": {"batch_size": 8 if len(files) < 1000 else 32, "augment": ["crop", "colour"]},
        "trainer": {"max_epochs": 60 if len(files) < 1000 else 30, "patience": None},
    }


def _folders(path: Path, wanted: Callable[[Path], bool]) -> dict[str, dict[str, str]]:
    """Folder, relative to `path` -> stem -> file's name, of the wanted files in it; hidden ones are left out."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(path.rglob("*")):
        place = file.relative_to(path)
        if wanted(file) and not any(part.startswith(".") for part in place.parts) and file.is_file():
            found.setdefault(place.parent.as_posix(), {})[file.stem] = file.name
    return found


def _behind(folders: dict[str, dict[str, str]]) -> str:
    """What the files of one folder have behind the stems of another's (``_mask``); empty where no two are so."""
    for one, own in folders.items():
        first = next(iter(own))
        for other, theirs in folders.items():
            for end in (first[k:] for k in range(1, len(first)) if one != other and first[:k] in theirs):
                if not end[0].isalnum() and all(s.endswith(end) and s.removesuffix(end) in theirs for s in own):
                    return end
    return ""


def _has_others(stems: dict[str, str], folders: dict[str, dict[str, str]], own: str, behind: str) -> bool:
    """Whether half of these or more are in one other folder too."""
    names = {stem.removesuffix(behind) for stem in stems}
    return any(2 * len(names & other.keys()) >= len(names) for f, other in folders.items() if f != own)


def _refuse_colours(path: Path, folders: dict[str, dict[str, str]]) -> None:
    """Complain about pictures of few colours that have the names of others: they are masks that nobody can read."""
    few = {}
    for folder, stems in folders.items():
        seen = _some([path / folder / name for name in stems.values()])
        colours: set[int] = set()
        for file in seen:
            try:
                pixel = np.asarray(pixels(opened(str(file))).convert("RGB")).astype(np.int64)
            except ValueError:
                continue
            colours |= set(np.unique(pixel @ np.array([65536, 256, 1])).tolist())
            if len(colours) > MOST_NUMBERS:
                break
        few[folder] = len(colours) <= MOST_NUMBERS
    for folder, stems in folders.items():
        if few[folder] and any(2 * len(stems.keys() & folders[f].keys()) >= len(stems) for f in few if not few[f]):
            raise DataError(
                f"`{path / folder}` should hold masks with one number a pixel. Found colours; save them as PNG files "
                "of one channel (or with a palette), a number per class."
            )


def _some(files: Sequence[Path]) -> Sequence[Path]:
    return files[:: -(-len(files) // LOOKED_AT)] if files else files


def _read(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """The numbers of the masks that can be read."""
    for file in _some(files):
        try:
            yield indices(pixels(opened(str(file))))
        except ValueError:
            continue


def _masks(folder: Path, stems: dict[str, str]) -> bool:
    files = [folder / name for name in stems.values()]
    numbers: set[int] = set()
    seen = 0
    for array in _read(files):
        numbers |= set(np.unique(array).tolist())
        seen += 1
        if len(numbers) > MOST_NUMBERS:
            return False
    return seen == len(_some(files))


def _numbers(path: Path, masks: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Black and white masks are two classes, though 255 is what says nothing in others."""
    files = [path / f / name for f, own in masks.items() for name in own.values()]
    numbers = {n for array in _read(files) for n in np.unique(array).tolist()}
    return {"values": {0: "background", IGNORED: "thing"}, "ignore": []} if numbers == {0, IGNORED} else {}


def _divided(folders: Sequence[str]) -> tuple[PurePosixPath, dict[str, str], bool]:
    """(the folder that all are in, part -> its folder in that one, whether there are folders below)."""
    paths = [PurePosixPath(f) for f in folders]
    if len(paths) == 1:
        return paths[0], {}, False
    common = [p[0] for p in zip(*(p.parts for p in paths), strict=False) if len(set(p)) == 1]
    base = PurePosixPath(*common)
    rest = [p.parts[len(common) :] for p in paths]
    parts = {part: r[0] for r in rest if r and (part := PARTS.get(_MASKS_OF.sub("", r[0].lower())))}
    if "train" in parts and all(r and r[0] in parts.values() for r in rest):
        return base, parts, any(len(r) > 1 for r in rest)
    return base, {}, True


def _kind(classes: Sequence[str]) -> str | None:
    """The type of task that these classes make, one per picture: every second class has two pictures or more."""
    counts = Counter(classes)
    repeated = 2 * sum(n > 1 for n in counts.values()) > len(counts)
    return None if len(counts) < 2 or not repeated else "binary" if len(counts) == 2 else "multiclass"


def _named(stems: Sequence[str]) -> list[str] | None:
    """The word in the name of each file, where each has a number behind it, and these are not the parts' names."""
    found = [m["class"] for stem in stems if (m := re.fullmatch(NUMBERED, stem))]
    return found if len(found) == len(stems) and not all(word.lower() in PARTS for word in found) else None


def _size(files: Sequence[Path]) -> int | list[int]:
    """Height and width of a canvas of about `SIZE`^2 pixels, of the shape that pictures have in the median."""
    sizes = []
    for file in _some(files):
        try:
            sizes.append(opened(str(file)).size)
        except ValueError:
            continue
    if not sizes:
        return SIZE
    width, height = np.median(np.array(sizes, float), 0)
    small = min(1.0, SIZE / math.sqrt(width * height))
    h, w = (max(round(n * small / 8) * 8, 16) for n in (height, width))
    return h if h == w else [h, w]
