"""What was typed, as what commands are given; light, since every command begins here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..faults import ConfigError

if TYPE_CHECKING:
    from ..spec import RunSpec


def spec_of(paths: Sequence[Path], overrides: Sequence[str] | None, seed: int | None, device: str | None) -> RunSpec:
    """The config of these files, with what was typed laid over it.

    Args:
        paths: config files, merged in order.
        overrides: ``a.b=value``.
        seed, device: shared options, which are overrides too.

    Raises:
        ConfigError: see `config.load`.
    """
    from ..config import load

    more = [*(overrides or [])]
    more += [f"seed={seed}"] if seed is not None else []
    more += [f"trainer.accelerator={device}"] if device is not None else []
    return load(paths, more)


def own_config(output: Path, resume: bool, command: str = "train") -> Path:
    """The config that a run's folder keeps, where a run goes on without ``-c``.

    Raises:
        ConfigError: there is none, or the run does not go on.
    """
    path = output / "config.yaml"
    if not resume or not path.exists():
        raise ConfigError(f"`{command}` should have a config. Found no `-c`; `manyheads init TABLE` writes one.")
    return path


def words(text: str | None) -> list[str] | None:
    """``a, b`` as a list."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
