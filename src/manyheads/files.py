"""Files that are there whole or not at all, and names that any file system takes."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary name, then rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def link_atomically(source: Path, path: Path) -> None:
    """Give a file a further name (a copy where the file system has no links), replacing what was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, path)


def quoted(name: str) -> str:
    """A task's name as part of a file name or a metric key: percent-encoded where it must be."""
    return quote(name, safe=" ()[]{},=+@&'!$;~")


def to_bytes(state: Any) -> bytes:
    """What `torch.load(weights_only=True)` reads."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def plain_values(value: Any) -> Any:
    """Nested plain values: what a checkpoint may hold."""
    if isinstance(value, Mapping):
        return {k: plain_values(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return [plain_values(v) for v in value]
    return value
