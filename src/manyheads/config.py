"""Config files and overrides -> a checked `RunSpec`; every problem is reported at once, with its path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from . import yaml12
from .faults import ConfigError, DataError
from .problems import of_tasks, of_validation, of_words
from .spec import AUTO, FILES, RunSpec, dumped, merged

if TYPE_CHECKING:
    from .tasks import Task

WORDS: dict[tuple[str, ...], str | None] = {
    ("model", "encoder"): "auto",
    ("model", "sharing"): "hard",
    ("optim", "optimizer"): "AdamW",
    ("optim", "balance"): "equal",
    ("optim", "objective"): "supervised",
    ("optim", "scheduler"): None,
}
"""Places where a word alone may stand for ``{name: word}``, and the word by default."""
_KEY = r"""(?:"[^"]+"|'[^']+'|[^."'])+"""


def load(paths: Sequence[str | os.PathLike[str]], overrides: Sequence[str] = ()) -> RunSpec:
    """One run from config files merged in order, and overrides over them.

    A relative path in a file is relative to `data.root`, or to the file; one in an override to `data.root`, or to the
    working folder.

    Args:
        paths: config files; a mapping is laid over the former file's, anything else replaces it.
        overrides: ``a.b=value`` with a YAML value; a key with dots in it stands in quotes: ``tasks."a.b".weight=2``.

    Raises:
        ConfigError: everything that is wrong, in one message.
        DataError: a file is missing or empty.
    """
    documents = [(read(Path(path)), Path(path).resolve().parent) for path in paths]
    documents += [(override(text), Path.cwd()) for text in overrides]
    return check(_merged(documents), ", ".join(str(p) for p in paths) or "the overrides")


def applied(spec: RunSpec, overrides: Sequence[str]) -> RunSpec:
    """A run with overrides laid over it, as `load` lays them over a file.

    Args:
        spec: the run.
        overrides: ``a.b=value``.

    Raises:
        ConfigError: everything that is wrong, in one message.
    """
    return check(_merged([(values, Path.cwd()) for values in (dumped(spec), *map(override, overrides))]))


def check(values: Mapping[str, Any], where: str = "the config") -> RunSpec:
    """A run from plain values.

    Args:
        values: nested mappings, as a config file holds them.
        where: the file's name, for the message.

    Raises:
        ConfigError: everything that is wrong, in one message.
    """
    spec, problems = None, []
    precision = _at(values, ("trainer", "precision"))
    if isinstance(precision, int):  # 32 and 64 are words here, and read like numbers
        values = merged(values, {"trainer": {"precision": str(precision)}})
    try:
        spec = RunSpec.model_validate(values)
    except ValidationError as error:
        problems = of_validation(error, values)
    tasks = values.get("tasks")
    if isinstance(tasks, Mapping):
        problems += of_tasks(tasks)
    if not tasks and tasks is not None:
        problems.append("`tasks` should hold a task or more. Found none.")
    if spec is not None:
        problems += of_words(spec)
    if problems or spec is None:
        many = f"{len(problems)} problems in {where}:\n  " if len(problems) > 1 else f"In {where}: "
        raise ConfigError(many + "\n  ".join(problems))
    return _alone(spec)


def _alone(spec: RunSpec) -> RunSpec:
    """The same with one member, where the objective is for one net.

    Raises:
        ConfigError: several are asked for.
    """
    from .catalog import find
    from .objectives import Objective

    why = find(Objective, spec.optim.objective.name).alone  # type: ignore[type-abstract]
    if not why or spec.model.members == 1:
        return spec
    if spec.model.members != AUTO:
        raise ConfigError(
            f"`model.members` should be 1 with the objective `{spec.optim.objective.name}`, since {why}. Found "
            f"{spec.model.members}."
        )
    return spec.model_copy(update={"model": spec.model.model_copy(update={"members": 1})})


def tasks_of(spec: RunSpec) -> list[Task]:
    """The tasks that a config describes, in its order.

    Raises:
        ConfigError: an unknown type or setting.
    """
    from .tasks import Task

    return [Task.from_json({"name": name} | settings) for name, settings in spec.tasks.items()]


def dump(spec: RunSpec) -> str:
    """A run as YAML with every setting written out; `load` reads it back to the same run."""
    return yaml12.write(dumped(spec))


def read(path: Path) -> dict[str, Any]:
    """The mapping in one config file.

    Raises:
        DataError: the file is missing or empty.
        ConfigError: it is no YAML, holds a key twice, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"`{path}` should be a config file. Found nothing there; `manyheads init` writes one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` should be a config file. It cannot be read: {error}.") from error
    value = _parsed(text, f"`{path}`")
    if value is None:
        raise DataError(f"`{path}` should hold a config. Found an empty file; `manyheads init` writes one.")
    if not isinstance(value, Mapping):
        raise ConfigError(f"`{path}` should hold keys and values. Found {_short(value)}.")
    return dict(value)


def override(text: str) -> dict[str, Any]:
    """``a.b=value`` as a nested mapping.

    Raises:
        ConfigError: it does not read like that.
    """
    match = re.match(r"""((?:"[^"]*"|'[^']*'|[^="'])+)=(.*)$""", text, re.DOTALL)
    path = "" if match is None else match[1].strip()
    if match is None or not re.fullmatch(rf"{_KEY}(?:\.{_KEY})*", path):
        raise ConfigError(f"An override should read `section.key=value`. Found `{text}`.")
    value = _parsed(match[2], f"The override `{text}`")
    for key in reversed(re.findall(_KEY, path)):
        value = {_unquoted(key): value}
    return value


def _unquoted(key: str) -> str:
    key = key.strip()
    return key[1:-1] if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'" else key


def _parsed(text: str, what: str) -> Any:
    try:
        return yaml12.parse(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{what} should be YAML. Found{place}: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} should be YAML. Found: {error}.") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- merging


def _merged(documents: Sequence[tuple[dict[str, Any], Path]]) -> dict[str, Any]:
    root = None
    for values, folder in documents:
        found = _at(values, ("data", "root"))
        root = str(_absolute(found, folder)) if isinstance(found, str) else root
    result: dict[str, Any] = {}
    for values, folder in documents:
        normal = _with_paths(_with_names(values), Path(root) if root else folder)
        result = _laid(result, normal, ())
    for place, default in WORDS.items():
        found = _at(result, place)
        if isinstance(found, Mapping) and "name" not in found and default is not None:
            result = _laid(result, {place[0]: {place[1]: {"name": default}}}, ())
    return result


def _laid(base: Mapping[str, Any], changes: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """A mapping over another; another word takes the former word's settings away."""
    result = dict(base)
    for key, value in changes.items():
        old, here = result.get(key), (*place, key)
        if not isinstance(old, Mapping) or not isinstance(value, Mapping) or _another_word(here, old, value):
            result[key] = value
        else:
            result[key] = _laid(old, value, here)
    return result


def _another_word(place: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return place in WORDS and "name" in old and new.get("name", old["name"]) != old["name"]


def _with_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Words as ``{name: word}`` and tables as ``{path: file}``, so that settings can be laid over them."""
    result = dict(values)
    for section, key in WORDS:
        if isinstance(part := result.get(section), Mapping) and isinstance(part.get(key), str):
            result[section] = {**part, key: {"name": part[key]}}
    tables = _at(result, ("data", "tables"))
    if isinstance(tables, Mapping):
        named = {name: {"path": table} if isinstance(table, str) else table for name, table in tables.items()}
        result["data"] = {**result["data"], "tables": named}
    return result


def _with_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    data = values.get("data")
    if not isinstance(data, Mapping):
        return values
    data = dict(data)
    for key in FILES:
        if isinstance(data.get(key), str):
            data[key] = str(_absolute(data[key], folder))
    tables = data.get("tables")
    if isinstance(tables, Mapping):
        data["tables"] = {
            name: {**table, "path": str(_absolute(table["path"], folder))}
            if isinstance(table, Mapping) and isinstance(table.get("path"), str)
            else table
            for name, table in tables.items()
        }
    if isinstance(data.get("root"), str):
        data["root"] = str(folder)
    return {**values, "data": data}


def _absolute(path: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / Path(path).expanduser()))


def _at(values: Any, place: Sequence[str]) -> Any:
    for key in place:
        if not isinstance(values, Mapping) or key not in values:
            return None
        values = values[key]
    return values
