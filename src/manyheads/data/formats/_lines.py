"""What formats of text have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...faults import DataError

PARTS = {"train": "train", "dev": "valid", "valid": "valid", "val": "valid", "test": "test"}
"""Words in names of files and folders, and the part of the rows that they stand for."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""(number from 1, line) of a text in UTF-8; ``\n`` alone ends a line (a text may hold other separators).

    Raises:
        DataError: it is missing, or no UTF-8; the message names the line.
    """
    if not path.is_file():
        raise DataError(f"`{path}` should be a file. Found {'a folder' if path.is_dir() else 'nothing there'}.")
    found = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(found[:-1] if not found[-1] else found, start=1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"`{path}, line {number}` should be UTF-8. Found a byte that is not: {error}.") from error


def parts(folder: Path) -> dict[Path, str]:
    """The files (or folders) in a folder whose names hold the word of a part, and that part: train, valid, test first.

    Raises:
        DataError: there is none, or there are two of one part.
    """
    found: dict[Path, str] = {}
    for path in sorted(folder.iterdir()):
        words = path.stem.lower().replace("-", "_").split("_")
        named = {PARTS[word] for word in words if word in PARTS}
        if len(named) == 1:
            part = named.pop()
            if part in found.values():
                raise DataError(f"`{folder}` should hold one {part} part. Found `{path.name}` beside another.")
            found[path] = part
    if not found:
        raise DataError(f"`{folder}` should hold parts named train, dev or test. Found none.")
    order = list(PARTS.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[1])))
