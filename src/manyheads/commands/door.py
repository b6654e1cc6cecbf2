"""How a command was called, where it speaks, and what it tells machines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..faults import ConfigError
from ..results import Comparison, Scores
from ..spec import FILES, RunSpec, dumped
from .display import Screen


@dataclass
class Door:
    """How a command was called, and where it speaks.

    Attributes:
        resume, force, dry_run: as on the command line.
        warned: the warnings so far.
    """

    screen: Screen = field(default_factory=Screen)
    resume: bool = False
    force: bool = False
    dry_run: bool = False
    warned: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Say a warning once, and keep it for the end."""
        if text not in self.warned:
            self.warned.append(text)
            self.screen.say(f"Warning: {text}")

    def told(self, answer: Any) -> Any:
        """What a command answers machines, with the warnings."""
        return {**answer, "warnings": self.warned} if isinstance(answer, dict) else answer

    def claim(self, output: Path) -> None:
        """Refuse to write over a file, unless forced.

        Raises:
            ConfigError: the file exists.
        """
        if output.exists() and not self.force:
            raise ConfigError(f"`{output}` should not exist yet. Found a file; choose another name, or add --force.")

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Python's warnings are said here instead."""
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *args, **kwargs: self.warn(str(message))
            yield


@contextmanager
def interruptible(door: Door) -> Iterator[None]:
    """Say what an interruption leaves."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        door.screen.say("Interrupted: runs that ended are kept; the same command with --resume goes on.")
        raise


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """A config for a page: files by their names, without the folders of this machine."""
    values = dumped(spec)
    data = values["data"]
    for part in (*FILES, "root"):
        data[part] = None if data[part] is None else Path(data[part]).name
    for name, table in data["tables"].items():
        data["tables"][name] = (
            {**table, "path": Path(table["path"]).name} if isinstance(table, Mapping) else Path(table).name
        )
    return values


def scores_json(found: Sequence[Scores]) -> dict[str, dict[str, dict[str, Any]]]:
    """{split: {task: {metric: {"value", "interval", "labels"}}}}, and "parts" {name: value} where there are."""
    answer: dict[str, dict[str, dict[str, Any]]] = {}
    for scores in found:
        for s in scores.scores:
            entry: dict[str, Any] = {
                "value": s.value,
                "interval": None if s.interval is None else list(s.interval),
                "labels": s.labels,
            }
            if s.parts:
                entry["parts"] = {part.name: part.value for part in s.parts}
            answer.setdefault(scores.split, {}).setdefault(s.task, {})[s.metric] = entry
    return answer


def comparison_json(comparison: Comparison, report: Path | None) -> dict[str, Any]:
    """What `demo` and `compare` print for machines."""
    keys = ("metric", "joint", "single", "linear", "boosting", "delta", "interval", "p", "verdict")
    tasks = {
        name: {k: v for k, v in t.model_dump(mode="json").items() if k in keys} for name, t in comparison.tasks.items()
    }
    return {
        "tasks": tasks,
        "delta_m": comparison.delta_m,
        "interval": list(comparison.interval),
        "repeats": comparison.repeats,
        "summary": comparison.summary,
        "report": None if report is None else str(report),
    }
