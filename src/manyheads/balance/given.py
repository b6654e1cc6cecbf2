"""What a caller hands over, in plain float64, or refused with what was expected, what was found and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray

ROUNDING = 1e-6
"""What a Gramian's cosines may be off by in float32 or wider; narrower types may be off by their own rounding."""


def whole(name: str, value: Any) -> int:
    """A number of steps, epochs or groups.

    Raises:
        ValueError: it is not a whole number, 1 or more.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` should be a whole number, 1 or more. Found {value!r}.")
    return int(value)


def plain(value: Any) -> Array:
    """A tensor of any type, an array or a list, in float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def gramian(value: Any, tasks: Sequence[str] | None = None) -> tuple[Array, tuple[str, ...]]:
    """(G, names), with G made exactly symmetric.

    Args:
        value: (tasks, tasks).
        tasks: names of its rows; default ``"0"``, ``"1"``, ...

    Raises:
        ValueError: it is not square, finite, symmetric and positive semi-definite up to the rounding of its type, or
            the names are not one for each row.
    """
    matrix = plain(value)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"A Gramian should have shape (tasks, tasks). Found {matrix.shape}.")
    names = tuple(map(str, range(len(matrix)))) if tasks is None else tuple(tasks)
    if len(names) != len(matrix) or len(set(names)) != len(names):
        raise ValueError(
            f"`tasks` should name each of the {len(matrix)} rows once. Found {', '.join(names) or 'none'}."
        )
    if not np.isfinite(matrix).all():
        raise ValueError("A Gramian should be finite. Found NaN or infinity in it; drop that task's row and column.")
    rounding, smallest = _precision(value)
    diagonal = np.diagonal(matrix)
    worst = int(diagonal.argmin())
    if diagonal[worst] < -rounding * np.abs(diagonal).max():
        raise ValueError(
            "The diagonal of a Gramian should hold squared lengths of gradients, 0 or more. Found "
            f"{diagonal[worst]:.3g} for the task `{names[worst]}`; G = J @ J.T has none below 0."
        )
    if np.abs(matrix - matrix.T).max() > rounding * max(np.abs(matrix).max(), 1e-300):
        raise ValueError(
            "A Gramian should be symmetric. Found a matrix that differs from its transpose; G = J @ J.T does not."
        )
    matrix = (matrix + matrix.T) / 2
    lengths = np.sqrt(np.maximum(diagonal, 0.0) + smallest)  # the square of a short gradient may be rounded to 0
    with np.errstate(over="ignore"):
        cosines = np.clip(matrix / lengths[:, None] / lengths, -2.0, 2.0)
    np.fill_diagonal(cosines, 1.0)
    least = float(np.linalg.eigvalsh(cosines)[0])
    if least < -rounding * len(matrix):
        raise ValueError(
            "A Gramian should be positive semi-definite, as inner products of gradients are. Found the eigenvalue "
            f"{least:.3g} in units of unit gradients; take G = J @ J.T of the gradients J (tasks, parameters)."
        )
    return matrix, names


def _precision(value: Any) -> tuple[float, float]:
    """(relative rounding, smallest number) of the type that it came in."""
    kind: Any = torch.finfo(torch.float64)
    if isinstance(value, Tensor) and value.is_floating_point():
        kind = torch.finfo(value.dtype)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        kind = np.finfo(value.dtype)
    return max(ROUNDING, float(kind.eps)), float(kind.tiny) * float(kind.eps)


def vector(value: Any, tasks: Sequence[str], what: str, least: float = -np.inf, default: float | None = None) -> Array:
    """One finite number per task.

    Args:
        value: (tasks,), or task -> number.
        tasks: names.
        what: its name, for the message.
        least: the smallest that is allowed.
        default: for a task that a mapping does not name; None refuses it.

    Raises:
        ValueError: another shape, a task without a number, or a number that is not finite or too small.
    """
    if isinstance(value, Mapping):
        for task in tasks:
            if task not in value and default is None:
                raise ValueError(f"`{what}` should have a number for each task. Found none for `{task}`.")
        value = [float(value.get(task, default)) for task in tasks]
    found = plain(value)
    if found.shape != (len(tasks),):
        raise ValueError(f"`{what}` should have shape ({len(tasks)},). Found {found.shape}.")
    for task, number in zip(tasks, found.tolist(), strict=True):
        if not (np.isfinite(number) and number >= least):
            bound = "" if least == -np.inf else f", {least:g} or more"
            raise ValueError(
                f"`{what}` should be finite{bound}. Found {number} for the task `{task}`; leave that task out, or "
                "mend its number."
            )
    return found
