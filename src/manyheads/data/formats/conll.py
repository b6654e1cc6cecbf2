"""A token per line and a column per kind of tag: CoNLL-U, IOB2 and their relatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...faults import DataError
from . import Format
from ._lines import lines
from .lines import Lines

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    ".conllu": ("id", "tokens", "lemmas", "upos", "xpos", "feats", "heads", "deprels", "deps", "misc"),
    ".iob2": ("id", "tokens", "tags", "links", "annotators"),
}
"""What the columns of a file are called, by its ending; a file of tab-separated columns may have fewer."""
NOTHING = ("upos", "xpos", "heads", "deprels")
"""Columns in which ``_`` says that the treebank does not know."""


class Conll(Format):
    """Sentences as blocks of lines, a token per line, with an empty line after each; ``# key = value`` above.

    A row per sentence: ``sent_id`` (where the file has one) and a list per column. Lines of CoNLL-U whose id is a range
    (``3-4``) or stands for a word that is not there (``3.1``) are left out.

    Args:
        on_error: see `Format`; what is refused or left out is a sentence.
        columns: the columns' names, one of them ``tokens``; by default those of CoNLL-U or IOB2, by the file's ending.
        beside: the ending of a second file of the same name, such as ``.iob2``, whose tags are joined by ``sent_id``:
            a sentence that it lacks, or divides into other tokens, has no tags.
        beside_as: what the joined tags are called.

    Reference:
        Nivre et al.: Universal Dependencies v2, 2020 (CoNLL-U). Mayhew et al.: Universal NER, 2024 (IOB2).
    """

    suffixes: ClassVar = tuple(COLUMNS)

    def __init__(
        self, on_error: str = "raise", columns: Sequence[str] = (), beside: str | None = None, beside_as: str = "ner"
    ) -> None:
        super().__init__(on_error)
        if columns and "tokens" not in columns:
            raise ValueError(f"`columns` should name one `tokens`. Found {', '.join(columns)}.")
        self.columns, self.beside, self.beside_as = tuple(columns), beside, beside_as

    def bare(self, path: Path) -> Format:
        """A sentence per line, where the file is plain text."""
        return Lines(self.on_error, "tokens") if path.suffix.lower() == ".txt" else self

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        rows = list(self._sentences(path, self.columns or self._of_ending(path)))
        if self.beside is not None:
            other = path.with_suffix(self.beside)
            if not other.is_file():
                raise DataError(f"`{path}` should have `{other.name}` beside it. Found no such file.")
            found = {row["sent_id"]: row for row in self._sentences(other, self._of_ending(other)) if "sent_id" in row}
            for row in rows:
                own = found.get(row.get("sent_id"), {})
                row[self.beside_as] = own["tags"] if own.get("tokens") == row["tokens"] else None
        return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in _names(rows)})

    def _of_ending(self, path: Path) -> tuple[str, ...]:
        found = COLUMNS.get(path.suffix.lower())
        if found is None:
            raise DataError(
                f"`{path}` should end in {' or '.join(COLUMNS)}, or its columns should be named, as `format: {{name: "
                f"conll, columns: [tokens, pos, ner]}}`. Found `{path.suffix}`."
            )
        return found

    def _sentences(self, path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        head: dict[str, Any] = {}
        body: list[list[str]] = []
        broken = False
        for number, line in [*lines(path), (0, "")]:
            if not line.strip():
                if body and not broken:
                    yield head | _transposed(body, columns)
                head, body, broken = {}, [], False
            elif line.startswith("# ") and not body:
                key, equals, value = line[2:].partition(" = ")
                if equals and key == "sent_id":
                    head["sent_id"] = value
            elif not broken:
                fields = line.split("\t") if "\t" in line else line.split()
                if (
                    "id" in columns
                    and not fields[0].isdigit()
                    and fields[0].replace("-", "").replace(".", "").isdigit()
                ):
                    continue
                wrong = self._wrong(fields, columns, body)
                if wrong is not None:
                    self.refuse(f"{path}, line {number}", *wrong)
                    broken = True
                body.append(fields)

    def _wrong(self, fields: list[str], columns: Sequence[str], body: list[list[str]]) -> tuple[str, str] | None:
        """(what a line should be, what it is), None where it is well."""
        exact = self.columns or "upos" in columns
        enough = len(fields) == len(columns) if exact else 3 <= len(fields) <= len(columns)
        if not enough:
            few = "" if exact else "at least 3 and at most "
            return f"hold {few}{len(columns)} columns ({', '.join(columns)})", f"{len(fields)}"
        if "id" in columns and fields[columns.index("id")] != str(len(body) + 1):
            return f"be the token {len(body) + 1} of its sentence", f"the id `{fields[columns.index('id')]}`"
        return None


def _transposed(body: list[list[str]], columns: Sequence[str]) -> dict[str, Any]:
    kept = [c for c in columns if c not in ("id", "deps", "misc", "links", "annotators")]
    return {
        name: [None if name in NOTHING and row[i] == "_" else row[i] for row in body]
        for i, name in enumerate(columns)
        if name in kept
    }


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
