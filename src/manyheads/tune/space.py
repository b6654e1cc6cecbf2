"""What is searched: the settings of a config that have a range, and configs made from proposals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from .. import config
from ..balance import Balance
from ..catalog import find, hint, settings
from ..encoders import Encoder
from ..faults import ConfigError
from ..objectives import Objective
from ..penalties import Penalty
from ..ranges import Range
from ..sharing import Sharing
from ..spec import Part, RunSpec, dumped
from ..tasks import Task

Path = tuple[Any, ...]
"""Keys from the top of a config; a number is a place in a list."""

WORDS: dict[Path, tuple[type, int]] = {
    ("model", "encoder"): (Encoder, 1),
    ("model", "sharing"): (Sharing, 2),
    ("optim", "balance"): (Balance, 0),
    ("optim", "objective"): (Objective, 0),
}
"""Where a config names a class: its contract, and how many arguments the contract itself passes."""
OF_SEVERAL: tuple[Path, ...] = (("model", "sharing"), ("optim", "balance"))
"""What a model of one task has no use for."""
FIXED = ("schema_version", "seed", "data", "tune")
_MEASURED = ("type", "target", "metrics", "where")


@dataclass(frozen=True)
class Entry:
    """A setting and where it is looked for.

    Attributes:
        path: its place in a config.
        range: its values.
        given: (the entry that chooses a word, the word) where it belongs to that word alone.
    """

    path: Path
    range: Range
    given: tuple[str, str] | None = None


@dataclass(frozen=True)
class Space:
    """All that is searched at once.

    Attributes:
        entries: name -> setting; those that choose a word come before those of that word.
        simplex: the entries that are weights of tasks: only their ratios matter, and they are brought to a mean of 1.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    simplex: tuple[str, ...] = ()

    def suggest(self, trial: Any) -> dict[str, Any]:
        """A value of each setting, as an optuna trial proposes them; none for a word that was not chosen."""
        found: dict[str, Any] = {}
        for name, entry in self.entries.items():
            if entry.given is None or _chosen(found.get(entry.given[0])) == entry.given[1]:
                found[name] = entry.range.suggest(trial, name)
        return self.normal(found)

    def normal(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The same with the weights of tasks brought to a mean of 1."""
        there = [name for name in self.simplex if name in found]
        total = sum(found[name] for name in there)
        return {k: v * len(there) / total if k in there else v for k, v in found.items()}

    def asked(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Values as optuna keeps them."""
        return {name: self.entries[name].range.asked(value) for name, value in found.items()}

    def own(self, spec: RunSpec) -> dict[str, Any] | None:
        """What a config itself says of these settings; None where it is outside, or says nothing."""
        values = dumped(spec)
        found: dict[str, Any] = {}
        for name, entry in self.entries.items():
            if entry.given is not None and _chosen(found.get(entry.given[0])) != entry.given[1]:
                continue
            value = _said(spec, values, entry)
            if value not in entry.range and (
                entry.path not in WORDS or _chosen(value) not in map(_chosen, entry.range.values)
            ):
                return None
            if entry.path in WORDS:
                value = next(option for option in entry.range.values if _chosen(option) == _chosen(value))
            found[name] = value
        return found

    def applied(self, spec: RunSpec, found: Mapping[str, Any]) -> RunSpec:
        """A config with these values.

        Raises:
            ConfigError: they do not go together.
        """
        values = dumped(spec)
        for name, value in found.items():
            values = placed(values, self.entries[name].path, value)
        return config.check(values, "a trial")

    def overrides(self, spec: RunSpec, found: Mapping[str, Any]) -> list[str]:
        """The same as ``a.b=value``, for a command line; a list, and a word with its settings, is given as a whole.

        Args:
            spec: what they are laid over.
        """
        values, lines = dumped(self.applied(spec, found)), {}
        for name in found:
            path = self.entries[name].path
            path = path[:2] if path[:2] in WORDS or path[:2] == ("optim", "penalties") else path
            lines[dotted(path)] = f"{dotted(path)}={json.dumps(at(values, path), ensure_ascii=False)}"
        return list(lines.values())

    def without(self, keep: Iterable[str]) -> Space:
        """These entries alone."""
        kept = set(keep)
        entries = {n: e for n, e in self.entries.items() if n in kept}
        return Space(entries, tuple(n for n in self.simplex if n in kept))

    def lines(self) -> list[str]:
        """One line per setting, for people."""
        return [f"{name}: {entry.range}" for name, entry in self.entries.items()]

    def to_json(self) -> dict[str, dict[str, list[Any]]]:
        """Name -> range, as a config has it."""
        return {name: entry.range.to_json() for name, entry in self.entries.items()}


def _chosen(option: Any) -> str:
    """The word that an option of a choice stands for, in full: with settings where it has some."""
    if isinstance(option, Mapping):
        rest = {k: v for k, v in option.items() if k != "name"}
        return json.dumps(option, sort_keys=True) if rest else str(option["name"])
    return str(option)


def _said(spec: RunSpec, values: Mapping[str, Any], entry: Entry) -> Any:
    """What a config says at a place; where it says nothing, the default of its class."""
    if entry.path == ("optim", "weight_decay"):
        return spec.optim.decay
    if entry.path in WORDS:
        part = at(values, entry.path)
        return part["name"] if len(part) == 1 else part
    found = at(values, entry.path)
    if found is not None:
        return found
    above = entry.path[:-1]
    if above in WORDS:
        word = at(values, above)["name"]
        return settings(find(WORDS[above][0], word)).get(entry.path[-1])
    if above[:-1] == ("optim", "penalties"):
        return settings(find(Penalty, at(values, above)["name"])).get(entry.path[-1])
    if above[:1] == ("tasks",):
        return settings(find(Task, at(values, above)["type"])).get(entry.path[-1])
    return None


def at(values: Any, path: Path) -> Any:
    """What plain values have at a place; None where there is nothing."""
    for key in path:
        if isinstance(values, Mapping):
            values = values.get(key)
        elif isinstance(values, list) and isinstance(key, int) and key < len(values):
            values = values[key]
        else:
            return None
    return values


def placed(values: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Plain values with another one at a place; a word keeps its settings where it stays the word that it was."""
    result = deepcopy(dict(values))
    place: Any = result
    for key in path[:-1]:
        if isinstance(place, list):
            place = place[key]
            continue
        if not isinstance(place.get(key), dict | list):
            place[key] = {}
        place = place[key]
    old = place.get(path[-1]) if isinstance(place, dict) else None
    if path in WORDS:
        value = {"name": value} if isinstance(value, str) else dict(value)
        if isinstance(old, Mapping) and old.get("name") == value.get("name"):
            value = {**old, **value}
    place[path[-1]] = value
    return result


# ---- what there is to search


def space_of(spec: RunSpec, weights: bool = False) -> Space:
    """What a config's classes and its `tune.space` say.

    Args:
        spec: a run whose encoder is decided.
        weights: the weights of all tasks are searched as well.

    Raises:
        ConfigError: `tune.space` names what does not exist, or what a setting cannot have; all of it at once.
    """
    problems: list[str] = []
    asked: dict[Path, Range | None] = {}
    for text, value in spec.tune.space.items():
        try:
            asked[path_of(text)] = None if value is None else Range.of(value)
        except ConfigError as error:
            problems.append(f'`tune.space."{text}"`: {error}')
    entries = dict(_of_classes(spec, asked))
    if weights and len(spec.tasks) > 1:
        for name in spec.tasks:
            path = ("tasks", name, "weight")
            entries.setdefault(dotted(path), Entry(path, find(Task, spec.tasks[name]["type"]).search["weight"]))  # type: ignore[type-abstract]
    values = dumped(spec)
    for path, range_ in asked.items():
        if range_ is None:
            continue
        found = [f"`tune.space` {reason}" for reason in _reasons(spec, values, path, range_, entries)]
        problems += list(dict.fromkeys(found))
        same = {n: e for n, e in entries.items() if e.path == path}
        entries |= {n: Entry(path, range_, e.given) for n, e in same.items()} or {dotted(path): Entry(path, range_)}
    for path in (path for path, range_ in asked.items() if range_ is None):
        here = [n for n, e in entries.items() if e.path[: len(path)] == path]
        for name in here:  # what is named itself stays
            if asked.get(entries[name].path) is None:
                del entries[name]
        if not here and not _exists(values, path):
            problems.append(f"`tune.space` should name settings. {_refused(values, path, 0) or dotted(path)}")
    if problems:
        many = f"{len(problems)} problems in `tune.space`:\n  " if len(problems) > 1 else "In `tune.space`: "
        raise ConfigError(many + "\n  ".join(problems))
    simplex = [dotted(("tasks", t, "weight")) for t in spec.tasks] if weights else []
    return Space(entries, tuple(n for n in simplex if n in entries))


def of_one_task(space: Space, spec: RunSpec, task: str, kept: Sequence[Part]) -> Space:
    """The same ranges for a model of one task: without what speaks of several.

    Args:
        kept: the penalties that such a model has.
    """

    def wanted(entry: Entry) -> bool:
        path = entry.path
        if path[:2] in OF_SEVERAL or (path[0] == "sampling" and path[1] not in ("batch_size", "augment", "bucket")):
            return False
        if path[0] == "tasks":
            return bool(path[1] == task and path[2] != "weight")
        return path[:2] != ("optim", "penalties") or spec.optim.penalties[path[2]] in kept

    return space.without(n for n, e in space.entries.items() if wanted(e))


def path_of(text: str) -> Path:
    """``optim.lr``, ``tasks."a.b".weight``, ``optim.penalties[0].strength`` as keys.

    Raises:
        ConfigError: it does not read like that, or is no setting that can be tuned.
    """
    nested: Any = config.override(f"{text}=0")
    path: list[Any] = []
    while isinstance(nested, Mapping):
        ((key, nested),) = nested.items()
        match = re.fullmatch(r"(penalties|augment)\[(\d+)\]", key)
        path += [match[1], int(match[2])] if match else [key]
    if path[0] in FIXED:
        raise ConfigError(f"A setting to be tuned should be one of the model or its training. Found `{text}`.")
    if (path[0] == "tasks" and path[-1] in _MEASURED) or path == ["trainer", "monitor"]:
        raise ConfigError(
            f"A setting to be tuned should leave alone what trials are measured by. Found `{text}`; tune it by hand."
        )
    return tuple(path)


def dotted(path: Path) -> str:
    """A path as an override would write it."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            plain = key and not set(key) & set(". \"'=")
            text += ("." if text else "") + (key if plain else f'"{key}"')
    return text


def _of_classes(spec: RunSpec, asked: Mapping[Path, Range | None]) -> Iterator[tuple[str, Entry]]:
    values = dumped(spec)
    for section, part in (("optim", spec.optim), ("model", spec.model), ("sampling", spec.sampling)):
        for key, range_ in getattr(type(part), "search", {}).items():
            plain = spec.optim.optimizer.name.lower() == "adamw" or key != "weight_decay"
            if section != "optim" or (plain and key not in spec.optim.optimizer.settings):
                yield from _entry((section, key), range_, spec, values)
    for path, (contract, _) in WORDS.items():
        words = asked.get(path)
        if words is None:
            cls: Any = find(contract, at(values, path)["name"])
            for key, range_ in cls.search.items():
                yield from _entry((*path, key), range_, spec, values)
            continue
        yield dotted(path), Entry(path, words)
        for option in words.values:
            yield from _of_option(path, contract, option)
    for i, one in enumerate(spec.optim.penalties):
        for key, range_ in find(Penalty, one.name).search.items():  # type: ignore[type-abstract]
            yield from _entry(("optim", "penalties", i, key), range_, spec, values)


def _entry(path: Path, range_: Range, spec: RunSpec, values: Mapping[str, Any]) -> Iterator[tuple[str, Entry]]:
    own = _said(spec, values, Entry(path, range_))
    if own is None or isinstance(own, int | float | str | bool):  # what is given per task, say, is left alone
        yield dotted(path), Entry(path, range_ if own is None else range_.around(own))


def _of_option(path: Path, contract: type, option: Any) -> Iterator[tuple[str, Entry]]:
    """The ranges of a word that may be chosen; what the option itself gives is not searched."""
    word = option["name"] if isinstance(option, Mapping) and "name" in option else option
    try:
        cls: Any = find(contract, str(word))
    except (ValueError, ImportError, AttributeError):
        return  # it is told with all other problems
    given = set(option) if isinstance(option, Mapping) else set()
    for key, range_ in cls.search.items():
        if key not in given:
            name = f"{dotted(path)}[{_chosen(option)}].{key}"
            yield name, Entry((*path, key), range_, (dotted(path), _chosen(option)))


def _exists(values: Mapping[str, Any], path: Path) -> bool:
    return at(values, path) is not None or _refused(values, path, None) is None


def _refused(values: Mapping[str, Any], path: Path, value: Any) -> str | None:
    """Why a config cannot have a value at a place; None where it can."""
    try:
        config.check(placed(values, path, value), "it")
    except ConfigError as error:
        return str(error).removeprefix("In it: ").split(" problems in it:\n  ")[-1]
    except (TypeError, AttributeError, IndexError, KeyError):
        return f"`{dotted(path)}` should be a setting of the config. {hint(str(path[0]), RunSpec.model_fields)}"
    return None


def _reasons(
    spec: RunSpec, values: Mapping[str, Any], path: Path, range_: Range, entries: Mapping[str, Entry]
) -> Iterator[str]:
    """What is wrong with a range that a config gives, at its ends."""
    owners = [entry.given for entry in entries.values() if entry.path == path and entry.given is not None]
    places: list[Mapping[str, Any]] = []
    for chooser, word in owners:  # a setting of a word that is itself chosen is tried with that word
        option = next(o for o in entries[chooser].range.values if _chosen(o) == word)
        places.append(placed(values, entries[chooser].path, option))
    for place in places or [values]:
        for value in range_.ends():
            if reason := _refused(place, path, value):
                yield reason.rstrip()
