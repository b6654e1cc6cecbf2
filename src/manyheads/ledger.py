"""Runs that are done, kept in a folder by what they are: an interrupted study does not do them again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._version import __version__
from .files import to_bytes, write_atomically
from .train import Training

Ended = tuple[dict[str, Any], Any]
"""How a run ended: its progress, and its best weights."""


class Ledger:
    """A folder with the ends of runs, and other results that took long, by what they are.

    A run is its model (architecture and first weights), its rows with their labels, the draws, objective, balance,
    penalties and settings, and the versions of this library and of torch: whatever changes one of these makes another
    run. Weights are kept as tensors and everything else as plain values; no code is read from the folder.

    Args:
        folder: made when the first result is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[int, tuple[Any, bytes]] = {}

    def key(self, training: Training) -> str:
        """What a run is, as 32 letters; to be asked before it begins."""
        code = hashlib.sha256()
        sampler = training.sampler
        _feed(
            code,
            [__version__, torch.__version__, training.settings.model_dump_json(), training.optim.model_dump_json()],
        )
        _feed(code, [repr(training.model), _numbers(training.model), training.model.state_dict()])
        for task in training.tasks.values():
            _feed(code, task.to_json())
        for part in (training.objective, training.balance, training.penalties):
            _feed(code, [type(part).__name__, repr(part) if part is training.penalties else _plain(vars(part))])
        how = (
            sampler.batch_size,
            sampler.mode,
            sampler.schedule,
            sampler.temperature,
            sampler.seed,
            sampler.max_epochs,
        )
        _feed(code, [how, sampler.weights, sampler.within, sampler.units, training.rng, training.primary_only])
        _feed(code, None if sampler.change is None else _settings_of(sampler.change))
        for tables in (sampler.tasksets, training.valid):
            for name, rows in tables.items():
                code.update(name.encode() + self._digest(rows))
        return code.hexdigest()[:32]

    def _digest(self, rows: Any) -> bytes:
        """Of a table's rows, found once for each table."""
        parts = [
            *rows.inputs.items(),
            *((b.tasks, (b.target, b.known, b.weight)) for b in rows.blocks),
            *rows.extra.items(),
        ]
        code = hashlib.sha256()
        for name, value in parts:
            _feed(code, name)
            for one in value if isinstance(value, tuple) else (value,):
                if id(one) not in self._rows:
                    own = hashlib.sha256()
                    _feed(own, one)
                    self._rows[id(one)] = one, own.digest()  # holding it keeps its id its own
                code.update(self._rows[id(one)][1])
        return code.digest()

    def get(self, key: str) -> tuple[Ended, float] | None:
        """(how a run ended, its seconds); None where it is not there, or cannot be read."""
        try:
            found = torch.load(self.folder / f"{key}.pt", weights_only=True)
            return (found["state"], found["best"]), float(found["seconds"])
        except Exception:  # whatever is wrong with the file, the run is done again
            return None

    def put(self, key: str, ended: Ended, seconds: float) -> None:
        """Keep the end of a run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state, best = ended
        data = to_bytes({"state": state, "best": dict(best), "seconds": seconds})
        write_atomically(self.folder / f"{key}.pt", data)

    def values(self, what: Any, make: Callable[[], Any]) -> Any:
        """Plain values that belong to `what`: those kept, or those that `make` gives.

        Args:
            what: all that they depend on: tensors, arrays, rows, plain values.
        """
        code = hashlib.sha256()
        _feed(code, [__version__, what])
        path = self.folder / f"{code.hexdigest()[:32]}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found).encode("utf-8"))
        return json.loads(json.dumps(found))


def _feed(code: Any, value: Any) -> None:
    """Every bit of a value into a hash, its kind before it."""
    code.update(type(value).__name__.encode() + b":")
    if isinstance(value, Tensor):
        code.update(f"{value.dtype}{tuple(value.shape)}".encode())
        code.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        code.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _feed(code, key)
            _feed(code, item)
    elif isinstance(value, list | tuple | np.ndarray):
        code.update(str(len(value)).encode())
        for item in value:
            _feed(code, item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _feed(code, getattr(value, field.name))
    elif value is None or isinstance(value, str | bytes | int | float | bool | np.generic):
        code.update(repr(value).encode())
    elif hasattr(value, "__dict__") and all(isinstance(v, Tensor | np.ndarray | list) for v in vars(value).values()):
        _feed(code, vars(value))  # rows of unequal length
    else:
        code.update(pickle.dumps(value, protocol=4))
    code.update(b";")


def _numbers(model: nn.Module) -> list[dict[str, Any]]:
    """The settings of each module that are plain: they may change what it computes without a change of shape."""
    return [_plain(vars(module)) for module in model.modules()]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    hidden = {"training"}
    kinds = (int, float, str, bool, type(None), Tensor)
    return {k: v for k, v in values.items() if k not in hidden and isinstance(v, kinds)} | {
        k: repr(v) for k, v in values.items() if isinstance(v, dict | list | tuple) and "object at 0x" not in repr(v)
    }


def _settings_of(change: Callable[..., Any]) -> list[Any]:
    """The augmentations that a sampler's change goes through: their kinds and settings."""
    held = [cell.cell_contents for cell in getattr(change, "__closure__", None) or ()]
    listed = [one for value in held if isinstance(value, list) for one in value]
    return [[type(one).__name__, _plain(vars(one))] for one in listed]
