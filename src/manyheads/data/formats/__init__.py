"""How a field keeps its data. The contract of a format: from a file or a folder to an ordinary table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from ...faults import DataError

if TYPE_CHECKING:
    import pandas as pd


class Format(ABC):
    """Reads one form of data: a row per sentence, picture or recording, and a column per input and label.

    Args of every format: `on_error`, then its own settings by keyword.

    Args:
        on_error: ``raise`` refuses what cannot be read, and names file and line; ``skip`` leaves that row out and
            counts it.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of files that are read in this form without being told."""

    def __init__(self, on_error: str = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` should be raise or skip. Found `{on_error}`.")
        self.on_error = on_error
        self.skipped: list[str] = []
        """What was left out, a sentence each."""

    @classmethod
    def sketch(cls, path: Path) -> dict[str, Any] | None:
        """What a folder seems to hold, as sections of a config: ``data`` (its `format` and `split`), ``features``,
        ``tasks``, and where they should not be left as they are ``optim``, ``sampling``, ``trainer``; None where it is
        not of this form, or nobody can tell."""
        return None

    def bare(self, path: Path) -> Format:
        """The form in which rows are read that a model is to say something of: itself, unless what holds their labels
        is not there."""
        return self

    @abstractmethod
    def frame(self, path: Path) -> pd.DataFrame:
        """The table.

        Args:
            path: a file or a folder, which exists.

        Raises:
            DataError: it is damaged; the message names the file and the line.
        """

    @final
    def refuse(self, where: str | Path, expected: str, found: str) -> None:
        """Complain about a row, or leave it out: the caller goes on with the next.

        Args:
            where: the file, with ``, line 12`` where it has lines.
            expected, found: the rest of the sentence.

        Raises:
            DataError: unless rows that cannot be read are skipped.
        """
        message = f"`{where}` should {expected}. Found {found}."
        if self.on_error == "raise":
            raise DataError(f"{message[:-1]}; mend it, or leave such rows out with `data.on_error=skip`.")
        self.skipped.append(message)
