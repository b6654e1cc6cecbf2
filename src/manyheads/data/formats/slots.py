"""Commands with an intent and slots, in three files side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...faults import DataError
from . import Format
from ._lines import lines, parts
from .lines import Lines

if TYPE_CHECKING:
    import pandas as pd

FILES = ("seq.in", "seq.out", "label")


class Slots(Format):
    """Line i of ``seq.in`` holds words, of ``seq.out`` a tag for each, of ``label`` what the whole is about.

    A row per line: ``tokens`` and ``slots`` (lists), ``intent``. The folder holds these files, or has folders named
    after parts (train, dev, test) that do; then there is a column ``split`` as well.

    Reference:
        Goo et al.: Slot-gated modeling for joint slot filling and intent prediction, 2018 (the form).
    """

    @classmethod
    def sketch(cls, path: Path) -> dict[str, Any] | None:
        folders = sorted(f.parent.relative_to(path).as_posix() for f in path.glob(f"**/{FILES[0]}"))
        if not folders or not all((path / f / name).is_file() for f in folders for name in FILES):
            return None
        split = {} if folders == ["."] else {"split": {"kind": "column", "by": "split"}}
        return {
            "data": {"format": "slots", **split},
            "features": {"only": ["tokens"], "types": {"tokens": "text"}},
            "tasks": {"intent": {"type": "multiclass"}, "slots": {"type": "tagging"}},
        }

    def bare(self, path: Path) -> Format:
        """A command per line, where it is a file and no folder."""
        return Lines(self.on_error, "tokens") if path.is_file() else self

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        if not path.is_dir():
            raise DataError(f"`{path}` should be a folder with {', '.join(FILES)}. Found a file.")
        if (path / FILES[0]).exists():
            return pd.DataFrame(self._rows(path))
        found = {folder: part for folder, part in parts(path).items() if folder.is_dir()}
        return pd.concat([pd.DataFrame(self._rows(f)).assign(split=p) for f, p in found.items()], ignore_index=True)

    def _rows(self, folder: Path) -> list[dict[str, Any]]:
        words, tags, labels = (list(lines(folder / name)) for name in FILES)
        for name, found in zip(FILES[1:], (tags, labels), strict=True):
            if len(found) != len(words):
                raise DataError(
                    f"`{folder / name}` should have as many lines as `seq.in`, {len(words)}. Found {len(found)}."
                )
        rows = []
        for (number, sentence), (_, marks), (_, intent) in zip(words, tags, labels, strict=True):
            tokens, slots = sentence.split(), marks.split()
            if not tokens:
                self.refuse(f"{folder / FILES[0]}, line {number}", "hold a sentence", "an empty line")
                continue
            if len(tokens) != len(slots) or not intent.strip():
                where = folder / (FILES[1] if intent.strip() else FILES[2])
                wanted = f"hold {len(tokens)} tags, one a word" if intent.strip() else "hold a label"
                self.refuse(f"{where}, line {number}", wanted, f"{len(slots)}" if intent.strip() else "an empty line")
                continue
            rows.append({"tokens": tokens, "slots": slots, "intent": intent.strip()})
        return rows
