"""Qualities that a run has to reach: ``val/buy/roc_auc=0.7``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from . import metrics
from .catalog import hint
from .faults import ConfigError, GateError
from .results import Comparison, Scores

_SPLITS = {"val": "valid", "validation": "valid", "dev": "valid"}


@dataclass(frozen=True)
class Gate:
    """One demand.

    Attributes:
        split, task, metric: which number; the task is empty for a number over all tasks (``valid/skill``).
        bound: the worst value that passes.
    """

    split: str
    task: str
    metric: str
    bound: float

    @property
    def key(self) -> str:
        """The number's name."""
        return "/".join(part for part in (self.split, self.task, self.metric) if part)

    @staticmethod
    def of(text: str) -> Gate:
        """From ``split/task/metric=value``; a task may hold slashes, as they are or percent-encoded.

        Raises:
            ConfigError: it does not read like that.
        """
        key, equals, value = text.rpartition("=")
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        parts = key.split("/")
        if not equals or len(parts) < 2 or not all(parts) or not math.isfinite(bound):
            raise ConfigError(
                f"--fail-under should read split/task/metric=number, as val/buy/roc_auc=0.7. Found `{text}`."
            )
        split = _SPLITS.get(parts[0], parts[0])
        return Gate(split, unquote("/".join(parts[1:-1])), parts[-1], bound)


def named(gates: Sequence[Gate], tasks: Sequence[str]) -> None:
    """See that gates name tasks that exist, before a run begins.

    Raises:
        ConfigError: one names an unknown task.
    """
    for gate in gates:
        if gate.task and gate.task not in tasks:
            raise ConfigError(f"--fail-under should name a task. Found `{gate.task}`. {hint(gate.task, tasks)}")


class MissedGateError(GateError):
    """A gate was not met; the command's answer is still there to be printed.

    Args:
        message: two sentences.
        answer: what ``--json`` prints.
    """

    def __init__(self, message: str, answer: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.answer = dict(answer)


def check(
    gates: Sequence[Gate], found: Sequence[Scores], answer: Mapping[str, Any], skill: float | None = None
) -> dict[str, Any]:
    """The command's answer, when every gate is met.

    Args:
        found: the scores of each split.
        answer: what ``--json`` prints.
        skill: the best mean skill on validation.

    Raises:
        MissedGateError: a number is worse than demanded, or undefined.
        ConfigError: a gate names a number that was not measured.
    """
    values = {(s.split, x.task, x.metric): x.value for s in found for x in s.scores}
    values["valid", "", "skill"] = skill
    missed = []
    for gate in gates:
        key = (gate.split, gate.task, gate.metric)
        if key not in values:
            known = ["/".join(p for p in k if p) for k in values]
            raise ConfigError(
                f"--fail-under should name a number that was measured. Found `{gate.key}`. {hint(gate.key, known)}"
            )
        greater = True if gate.metric == "skill" else metrics.find(gate.metric).greater_is_better
        value = values[key]
        if value is None or (value < gate.bound if greater else value > gate.bound):
            missed.append(
                f"{gate.key} should be at {'least' if greater else 'most'} {gate.bound:g}. Found {_text(value)}"
            )
    if missed:
        raise MissedGateError("Gate not met: " + "; ".join(missed) + ".", answer)
    return dict(answer)


def _text(value: float | None) -> str:
    return "no value" if value is None else f"{value:.6g}"


def not_worse(comparison: Comparison, answer: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
    """The command's answer, when sharing hurts no task.

    Args:
        answer: what ``--json`` prints.
        strict: whether this is demanded at all.

    Raises:
        MissedGateError: it hurts one beyond noise.
    """
    hurt = [name for name, task in comparison.tasks.items() if task.verdict == "hurts"]
    if hurt and strict:
        names = ", ".join(f"`{name}`" for name in hurt)
        raise MissedGateError(
            f"Gate not met: no task should be worse than with a model of its own. Found {names} worse.", answer
        )
    return dict(answer)
