"""Words and the classes they stand for: a folder is a catalogue, and it is read without importing it.

A contract (an abstract class such as `Balance`) sits in the ``__init__.py`` of a folder; each public, concrete class
in a file of that folder is an answer, known by its name in lower case. Adding one is adding a file.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .faults import ConfigError

T = TypeVar("T")


def hint(word: str, known: Iterable[str]) -> str:
    """The second sentence of an error about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(word).lower(), lowered, n=1)
    return f"Did you mean `{lowered[near[0]]}`?" if near else f"Known: {', '.join(known)}."


def _is_abstract(definition: ast.ClassDef) -> bool:
    return any(
        isinstance(d, ast.Name) and d.id == "abstractmethod"
        for member in definition.body
        if isinstance(member, ast.FunctionDef)
        for d in member.decorator_list
    )


@cache
def index(contract: type) -> dict[str, str]:
    """From each word (a class name in lower case) to ``file:Class``, for every answer to a contract."""
    path = sys.modules[contract.__module__].__file__
    assert path is not None
    files = [Path(path), *sorted(Path(path).parent.glob("[!_]*.py"))] if path.endswith("__init__.py") else [Path(path)]
    classes = [
        (definition, file)
        for file in files
        for definition in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(definition, ast.ClassDef)
    ]
    kinds = {contract.__name__}
    found: dict[str, str] = {}
    while True:
        new = [
            (d, f)
            for d, f in classes
            if d.name not in kinds and kinds & {ast.unparse(b).split("[")[0].split(".")[-1] for b in d.bases}
        ]
        if not new:
            return dict(sorted(found.items()))
        kinds |= {d.name for d, _ in new}
        found |= {
            d.name.lower(): f"{'' if f.stem == '__init__' else f.stem}:{d.name}"
            for d, f in new
            if not d.name.startswith("_") and not _is_abstract(d)
        }


def find(contract: type[T], word: str) -> type[T]:
    """The class that a word stands for.

    Args:
        contract: the abstract class.
        word: a word of the catalogue, in any case, or ``package.module:Class``.

    Raises:
        ValueError: the word is unknown; the message proposes the nearest one.
    """
    if ":" in word:
        module, _, attribute = word.partition(":")
    else:
        known = index(contract)  # type: ignore[arg-type]  # a class is hashable
        if word.lower() not in known:
            raise ValueError(f"No {contract.__name__.lower()} is called `{word}`. {hint(word, known)}")
        file, _, attribute = known[word.lower()].partition(":")
        # a contract that sits in a plain module has its answers beside it; in a folder, in the folder's files
        module = f"{contract.__module__}.{file}" if file and _is_package(contract) else contract.__module__
    found = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, contract)):
        raise ValueError(f"`{word}` should name a {contract.__name__}. Found {found!r}.")
    return found


def _is_package(contract: type) -> bool:
    return hasattr(sys.modules[contract.__module__], "__path__")


def word(cls: type) -> str:
    """The word of a class: its name in lower case, or ``module:Class`` where it is not one of ours."""
    if cls.__module__.split(".")[0] == __name__.split(".")[0]:
        return cls.__name__.lower()
    return f"{cls.__module__}:{cls.__qualname__}"


def settings(cls: Callable[..., Any]) -> dict[str, Any]:
    """The keyword parameters of a class, or of a method that makes its objects, and their defaults;
    `inspect.Parameter.empty` where one is needed."""
    parameters = list(inspect.signature(cls).parameters.values())
    return {p.name: p.default for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def mistyped(cls: type, given: Mapping[str, Any]) -> dict[str, str]:
    """Settings whose values are not of the types that the class says it takes.

    Nothing is read as something else: 1.5 and "2" are no whole numbers, and true is no number. What the class says in
    words that cannot be looked up is not looked at.

    Args:
        cls: a class with annotated parameters.
        given: settings by name.

    Returns:
        Name -> "should be a whole number. Found 1.5.", for those that are wrong.
    """
    import numpy as np
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        hints = get_type_hints(inspect.getattr_static(cls, "__init__"))
    except NameError:
        return {}
    strict = ConfigDict(strict=True, arbitrary_types_allowed=True)
    wrong = {}
    for key in given.keys() & hints.keys():
        value = given[key].item() if isinstance(given[key], np.generic) else given[key]
        try:
            TypeAdapter(hints[key], config=strict).validate_python(value)
        except ValidationError:
            wrong[key] = f"should be {_meant(hints[key])}. Found {json.dumps(value, default=repr)}."
        except PydanticUserError:
            continue
    return {key: wrong[key] for key in given if key in wrong}


def _meant(hint: Any, inside: bool = False) -> str:
    """A type in plain words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_meant(part, inside) for part in parts)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping | Sequence) and kind is not str:
        what = "keys and values" if issubclass(kind, Mapping) else "a list"
        known = parts and not inside and parts[-1] is not Any
        return f"{what} ({_meant(parts[-1], True)} each)" if known else what
    return _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))


def make(contract: type[T], name: str, given: Mapping[str, Any], *first: Any) -> T:
    """An object of a catalogue from its word and its settings.

    Args:
        contract: the abstract class.
        name: its word.
        given: settings by name.
        first: what the contract itself passes before them.

    Raises:
        ConfigError: an unknown word or setting, a value of a wrong type, or one that the class refuses.
    """
    try:
        cls = find(contract, name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(str(error)) from None
    known = list(settings(cls))[len(first) :]
    for key in given:
        if key not in known:
            listed = hint(key, known) if known else "It has none."
            raise ConfigError(f"`{name}` has no setting `{key}`. {listed}")
    if wrong := mistyped(cls, given):
        raise ConfigError(" ".join(f"`{key}` of `{name}` {found}" for key, found in wrong.items()))
    try:
        return cls(*first, **given)
    except ConfigError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:  # of a wrong type, say
        raise ConfigError(f"`{name}` cannot be made from these settings: {error}") from error
