"""Plain text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import Format

if TYPE_CHECKING:
    import pandas as pd


class Lines(Format):
    r"""A text per line, and nothing else.

    Line i is row i: a line without a text is a row whose text is missing. ``\n`` alone ends a line.

    Args:
        on_error: see `Format`; what is refused or left out is a line that is no UTF-8.
        column: the name of the texts.
    """

    def __init__(self, on_error: str = "raise", column: str = "text") -> None:
        super().__init__(on_error)
        self.column = column

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        if path.is_dir():
            self.refuse(path, "be a file with a text per line", "a folder")
            return pd.DataFrame({self.column: []}, dtype=object)
        found = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        texts: list[str | None] = []
        for number, line in enumerate(found[:-1] if not found[-1] else found, start=1):
            try:
                texts.append(line.decode("utf-8").strip() or None)
            except UnicodeDecodeError as error:
                self.refuse(f"{path}, line {number}", "be UTF-8", f"a byte that is not: {error}")
        return pd.DataFrame({self.column: pd.Series(texts, dtype=object)})
