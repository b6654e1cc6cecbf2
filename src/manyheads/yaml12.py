"""YAML as its version 1.2 reads scalars, on PyYAML: ``1e-3`` is a number, ``no`` is a text, a key stands once."""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema; keys are texts, as written."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are texts, each written once.

        Raises:
            ConstructorError: a key stands twice, or is no scalar.
        """
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key should be a text", key.start_mark)
            if key.value in lines and key.tag != f"{_TAG}merge":
                first = lines[key.value]
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` stands twice, first in line {first}", key.start_mark
                )
            lines[key.value] = key.start_mark.line + 1
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads: a text that it would take for something else is quoted."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Anchors are never written."""
        return True


for _word, _pattern, _first in _SCALARS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_word}", re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _number(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


Loader.add_constructor(f"{_TAG}int", _integer)
Loader.add_constructor(f"{_TAG}float", _number)
Loader.add_constructor(f"{_TAG}merge", lambda loader, node: node.value)


def parse(text: str) -> Any:
    """The value of one document.

    Raises:
        yaml.YAMLError: the text is no YAML, or a key stands twice.
    """
    return yaml.load(text, Loader=Loader)


def write(value: Any) -> str:
    """A value as YAML that `parse` reads back."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
