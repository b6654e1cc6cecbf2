"""A model <-> a folder of safetensors and JSON; no pickle anywhere.

``weights.safetensors`` the weights, ``spec.json`` tasks and architecture, ``preprocess.json`` how columns are read,
``README.md`` the model card.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._version import __version__
from .data.assemble import Dataset
from .faults import DataError
from .model import AnyModel, Ensemble
from .objectives.metasgd import with_rates
from .spec import ModelSpec, build_model, dumped, kept
from .tasks import Task

SCHEMA_VERSION = 1
FILES = ("weights.safetensors", "spec.json", "preprocess.json", "README.md")


def save(
    folder: str | Path,
    model: AnyModel,
    spec: ModelSpec,
    dataset: Dataset,
    card: str = "",
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model folder: to a temporary name first, then renamed over what was there.

    Args:
        card: the text of README.md.
        notes: plain values that come back from `load` (scores, settings).
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    described = {
        "format": "manyheads",
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "model": dumped(kept(spec, dataset.preprocess.layouts)),
        "tasks": [t.to_json() for t in model.tasks.values()],
        "places": (model.base if isinstance(model, Ensemble) else model).places,
        "notes": dict(notes or {}),
    }
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, temporary / FILES[0])
    about = json.dumps(described, indent=1, ensure_ascii=False, default=_plain)
    (temporary / FILES[1]).write_text(about, encoding="utf-8")
    learned = json.dumps(dataset.to_json(), ensure_ascii=False, default=_plain)
    (temporary / FILES[2]).write_text(learned, encoding="utf-8")
    (temporary / FILES[3]).write_text(card or "# A manyheads model\n", encoding="utf-8")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load(folder: str | Path, trust: Sequence[str] = ()) -> tuple[AnyModel, ModelSpec, Dataset, dict[str, Any]]:
    """(model in evaluation mode, its spec, its dataset, notes) from a model folder.

    Args:
        trust: modules from which classes named ``package.module:Class`` may be imported.

    Raises:
        DataError: a file is missing or damaged, the model was written by a newer version, or it names a class of a
            module that is not trusted.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} should be a model folder. It does not exist.")
    described, preprocess = _json(folder / FILES[1]), _json(folder / FILES[2])
    if described.get("format") != "manyheads" or not isinstance(described.get("schema_version"), int):
        raise DataError(f"{folder / FILES[1]} should describe a manyheads model. It does not.")
    if described["schema_version"] > SCHEMA_VERSION:
        raise DataError(
            f"{folder / FILES[1]} has schema_version {described['schema_version']}, and this version of manyheads "
            f"reads up to {SCHEMA_VERSION}. The model was written by manyheads {described.get('version', '?')}; "
            "upgrade manyheads."
        )
    try:
        spec = ModelSpec.model_validate(described["model"])
        words = [spec.encoder.name, spec.sharing.name, *(t["type"] for t in described["tasks"])]
        _refuse_untrusted(words, trust, folder)
        tasks = [Task.from_json(t) for t in described["tasks"]]
        dataset = Dataset.from_json(preprocess, tasks)
        model = build_model(spec, dataset.preprocess.layouts, tasks)
        (model.base if isinstance(model, Ensemble) else model).arrange(described.get("places", ()))
        weights = load_file(folder / FILES[0])
        if any(v.dtype == torch.float64 for v in weights.values()):
            model.double()
        with_rates(model, weights)
        model.load_state_dict(weights)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{folder} should hold {FILES[0]}. It is missing.") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise DataError(f"{folder} should be a model folder. It is damaged: {error}") from error
    model.eval()
    return model, spec, dataset, described.get("notes", {})


def _refuse_untrusted(words: Sequence[str], trust: Sequence[str], folder: Path) -> None:
    for word in words:
        module, colon, _ = word.partition(":")
        if colon and not any(module == t or module.startswith(t + ".") for t in trust):
            raise DataError(
                f"{folder} names the class `{word}` of a module that is not trusted. If you trust it: load(..., "
                f"trust=[{module.split('.')[0]!r}])."
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} should hold {path.name}. It is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} should be JSON. It is damaged: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} should hold a JSON object. Found {type(value).__name__}.")
    return value


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"{type(value).__name__} is no plain value.")
