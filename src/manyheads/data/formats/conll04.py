"""Sentences with entities and relations, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...faults import DataError
from . import Format
from ._lines import parts
from .lines import Lines

if TYPE_CHECKING:
    import pandas as pd


class Conll04(Format):
    """A JSON list of {"tokens", "tags", "relations", "orig_id"}: tags of BIO or BILOU, relations between the entities
    of a sentence, counted from 0. Instead of tags there may be ``entities``, a list of {"type", "start", "end"}: tokens
    counted from 0, the end not among them, none within another, relations counted as they are listed.

    A row per sentence, with the four columns. A folder whose files are named after parts (``conll04_train.json``) is
    one table with a column ``split``.

    Reference:
        Roth, Yih: A linear programming formulation for global inference in natural language tasks, 2004 (the corpus).
        Eberts, Ulges: Span-based joint entity and relation extraction with transformer pre-training (SpERT), 2020 (the
        split, and files with ``entities``).
    """

    @classmethod
    def sketch(cls, path: Path) -> dict[str, Any] | None:
        try:
            first = json.loads(next(f for f in parts(path) if f.suffix == ".json").read_text(encoding="utf-8"))[0]
        except (DataError, StopIteration, OSError, ValueError, LookupError, TypeError):
            return None
        if _wrong(_tagged(first)) is not None:
            return None
        return {
            "data": {"format": "conll04", "split": {"kind": "column", "by": "split"}},
            "features": {"only": ["tokens"], "types": {"tokens": "text"}},
            "tasks": {
                "tags": {"type": "tagging"},
                "relations": {"type": "relation", "target": ["tags", "relations"]},
            },
        }

    def bare(self, path: Path) -> Format:
        """A sentence per line, where the file is plain text."""
        return Lines(self.on_error, "tokens") if path.suffix.lower() == ".txt" else self

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        if path.is_file():
            return pd.DataFrame(self._rows(path))
        files = {file: part for file, part in parts(path).items() if file.suffix == ".json"}
        return pd.concat([pd.DataFrame(self._rows(f)).assign(split=p) for f, p in files.items()], ignore_index=True)

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(f"`{path}{place}` should be JSON. Found: {error}.") from error
        if not isinstance(records, list):
            raise DataError(f"`{path}` should hold a JSON list. Found {type(records).__name__}.")
        rows = []
        for i, record in enumerate(records, start=1):
            record = _tagged(record)
            wrong = _wrong(record)
            if wrong is not None:
                self.refuse(f"{path}, sentence {i}", *wrong)
                continue
            rows.append({key: record.get(key) for key in ("tokens", "tags", "relations", "orig_id")})
        return rows


def _tagged(record: Any) -> Any:
    """The sentence with tags in place of listed entities, where it has these and they are well."""
    if not isinstance(record, dict) or "tags" in record or not isinstance(record.get("tokens"), list):
        return record
    entities, relations, n = record.get("entities"), record.get("relations"), len(record["tokens"])
    if not isinstance(entities, list) or not all(_is_entity(e, n) for e in entities):
        return record
    order = sorted(range(len(entities)), key=lambda i: entities[i]["start"])
    tags = ["O"] * n
    for i in order:
        start, end, kind = entities[i]["start"], entities[i]["end"], entities[i]["type"]
        if set(tags[start:end]) != {"O"}:
            return record  # one within another has no tags
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    place = {own: i for i, own in enumerate(order)}
    if isinstance(relations, list):
        ends = ("head", "tail")
        relations = [
            r | {k: place.get(r[k], r[k]) for k in ends} if isinstance(r, dict) and all(_whole(r.get(k)) for k in ends)
            else r for r in relations
        ]  # fmt: skip
    return record | {"tags": tags, "relations": relations}


def _is_entity(entity: Any, n: int) -> bool:
    if not isinstance(entity, dict) or not isinstance(entity.get("type"), str):
        return False
    start, end = entity.get("start"), entity.get("end")
    return _whole(start) and _whole(end) and 0 <= start < end <= n  # type: ignore[operator]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(record: Any) -> tuple[str, str] | None:
    """(what a sentence should be, what it is), None where it is well."""
    if isinstance(record, dict) and "tags" not in record and "entities" in record:
        wanted = "have entities with a type, a start and an end among its tokens, none within another"
        return wanted, f"{str(record['entities'])[:80]!r}"
    if not isinstance(record, dict) or not all(
        isinstance(record.get(k), list) for k in ("tokens", "tags", "relations")
    ):
        return "have lists of tokens, tags and relations", f"{str(record)[:60]!r}"
    if not all(isinstance(token, str) for token in [*record["tokens"], *record["tags"]]):
        return "have texts as tokens and tags", f"{str(record)[:60]!r}"
    if not record["tokens"]:
        return "have a token at least", "an empty list"
    if len(record["tokens"]) != len(record["tags"]):
        return "have a tag for each token", f"{len(record['tokens'])} tokens and {len(record['tags'])} tags"
    n = sum(tag[0] in "BUS" for tag in record["tags"] if tag)
    for relation in record["relations"]:
        ends = [relation.get(k) for k in ("head", "tail")] if isinstance(relation, dict) else [None]
        if not all(isinstance(end, int) and 0 <= end < n for end in ends) or "type" not in relation:
            return f"have relations with a type between two of its {n} entities", f"{relation!r}"
    return None
