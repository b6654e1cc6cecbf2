"""What a setting may be tuned within: a small value that lives on the class that the setting belongs to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .faults import ConfigError

Kind = Literal["log", "range", "whole", "whole_log", "choice"]
KINDS: dict[str, str] = {
    "log": "numbers, each power of ten as likely as the next",
    "range": "numbers",
    "whole": "whole numbers",
    "whole_log": "whole numbers, each power of ten as likely as the next",
    "choice": "one of these",
}


@dataclass(frozen=True)
class Range:
    """Where a setting is looked for.

    A class says `search: ClassVar[Mapping[str, Range]]`, setting -> range; a config says the same as
    ``{log: [1e-4, 1e-1]}``, or as a plain list, which is a choice.

    Example:
        >>> str(Range("log", (1e-4, 1e-1)))
        'log [0.0001, 0.1]'

    Args:
        kind: ``log``, ``range`` (numbers), ``whole``, ``whole_log`` (whole numbers) or ``choice``.
        values: (low, high), both of them within; of a choice all options, plain values.

    Raises:
        ConfigError: an unknown kind, ends that are no numbers or not in their order, or a choice of nothing.
    """

    kind: Kind
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"A range should be one of {', '.join(KINDS)}. Found `{self.kind}`.")
        if self.kind == "choice":
            if not self.values or len({_label(v) for v in self.values}) < len(self.values):
                raise ConfigError(f"A choice should hold different options. Found {list(self.values)}.")
            return
        whole = self.kind.startswith("whole")
        if len(self.values) != 2 or not all(_is_number(v, whole) for v in self.values):
            what = "two whole numbers" if whole else "two numbers"
            raise ConfigError(f"`{self.kind}` should have {what}, [low, high]. Found {list(self.values)}.")
        low, high = self.values
        if not low < high or (self.kind.endswith("log") and low <= 0):
            above = " above 0" if self.kind.endswith("log") else ""
            raise ConfigError(f"`{self.kind}` should go from low to high{above}. Found {list(self.values)}.")

    # -- as a config has it

    @staticmethod
    def of(value: Any) -> Range:
        """From ``{log: [low, high]}``, a list of options, or a Range.

        Raises:
            ConfigError: it does not read like that.
        """
        if isinstance(value, Range):
            return value
        if isinstance(value, Mapping) and len(value) == 1:
            ((kind, values),) = value.items()
            if isinstance(values, list | tuple):
                return Range(kind, tuple(values))
        elif isinstance(value, list | tuple):
            return Range("choice", tuple(value))
        raise ConfigError(
            "A range should read `{log: [low, high]}` (or `range`, `whole`, `whole_log`), or be a list of options. "
            f"Found {value!r}."
        )

    def to_json(self) -> dict[str, list[Any]]:
        """As a config has it."""
        return {self.kind: list(self.values)}

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"one of {', '.join(_shown(v) for v in self.values)}"
        low, high = self.values
        return f"{self.kind.replace('_', ', ')} [{low:g}, {high:g}]"

    # -- what is in it

    def ends(self) -> tuple[Any, ...]:
        """Both ends; of a choice every option."""
        return self.values

    def __contains__(self, value: Any) -> bool:
        if self.kind == "choice":
            return _label(value) in {_label(v) for v in self.values}
        low, high = self.values
        return _is_number(value, self.kind.startswith("whole")) and low <= value <= high

    def around(self, value: Any) -> Range:
        """The same range where it holds a value, else one of the same width about it, for a config that is elsewhere.

        A choice gets the value as one more option. Whole numbers and shares of one are not moved below 0.
        """
        if value in self:
            return self
        if self.kind == "choice":
            return Range("choice", (value, *self.values))
        if not _is_number(value, self.kind.startswith("whole")):
            return self
        low, high = self.values
        if self.kind.endswith("log") and value > 0:
            half = math.sqrt(high / low)
            ends: Sequence[float] = (value / half, value * half)
        else:
            ends = (min(low, value), max(high, value))
        if self.kind.startswith("whole"):
            ends = (max(math.floor(ends[0]), min(low, 1)), math.ceil(ends[1]))
        return Range(self.kind, tuple(ends))

    # -- how it is drawn from

    def suggest(self, trial: Any, name: str) -> Any:
        """A value that an optuna trial proposes.

        Args:
            trial: of optuna.
            name: of the setting.
        """
        if self.kind == "choice":
            options = {_label(v): v for v in self.values}
            return options[trial.suggest_categorical(name, list(options))]
        low, high = self.values
        draw = trial.suggest_int if self.kind.startswith("whole") else trial.suggest_float
        return draw(name, low, high, log=self.kind.endswith("log"))

    def asked(self, value: Any) -> Any:
        """A value of this range as optuna keeps it: a number, or the label of an option."""
        return _label(value) if self.kind == "choice" else value


def log(low: float, high: float) -> Range:
    """Numbers from low to high, each power of ten as likely as the next."""
    return Range("log", (low, high))


def between(low: float, high: float) -> Range:
    """Numbers from low to high."""
    return Range("range", (low, high))


def whole(low: int, high: int) -> Range:
    """Whole numbers from low to high, both of them within."""
    return Range("whole", (low, high))


def whole_log(low: int, high: int) -> Range:
    """Whole numbers from low to high, each power of ten as likely as the next."""
    return Range("whole_log", (low, high))


def choice(*options: Any) -> Range:
    """One of several plain values."""
    return Range("choice", options)


def _is_number(value: Any, whole: bool) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=repr)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=repr)
