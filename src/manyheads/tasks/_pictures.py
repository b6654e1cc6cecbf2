"""What tasks have in common whose labels lie on a picture: the canvas is the picture's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..catalog import hint
from ..faults import ConfigError
from ..pictures import SIZE, Canvas, size_pair


def canvas(size: Any, resize: str | None) -> Canvas:
    """What labels are laid on; None where nobody has said so yet."""
    return Canvas(size_pair(SIZE if size is None else size), "stretch" if resize is None else resize)


def of_picture(task: Any, inputs: Mapping[str, Mapping[str, Any]], root: str) -> dict[str, Any]:
    """What the column of its pictures says and the task does not: `picture`, `size`, `resize`, and where files are.

    Args:
        task: with `picture`, `size` and `resize`, each of which may be None.
        inputs: see `Task.beside`.
        root: the task's setting that names the folder of the pictures.

    Raises:
        ConfigError: `picture` is no column of pictures, or the task lays labels elsewhere than the picture lies.
    """
    pictures = {name: own for name, own in inputs.items() if own["kind"] == "image"}
    name = task.picture if task.picture is not None or len(pictures) != 1 else next(iter(pictures))
    if name is None or not pictures:
        return {}
    if name not in pictures:
        raise ConfigError(
            f"Task `{task.name}`: `picture` should name a column of pictures. Found `{name}`. {hint(name, pictures)}"
        )
    own = pictures[name]
    theirs = Canvas(tuple(own["size"]), own["resize"])
    mine = canvas(theirs.size if task.size is None else task.size, task.resize or theirs.resize)
    same_shape = mine.size[0] * theirs.size[1] == mine.size[1] * theirs.size[0]
    if mine.resize != theirs.resize or not (same_shape or mine.resize == "stretch"):
        raise ConfigError(
            f"Task `{task.name}`: labels should lie on a canvas as the pictures of `{name}` do, {_shown(theirs)}. "
            f"Found {_shown(mine)}; remove `size` and `resize` from the task, which has those of its pictures then."
        )
    folder = getattr(task, root)
    return {"picture": name, "size": mine.size, "resize": mine.resize, root: own["root"] if folder is None else folder}


def _shown(canvas: Canvas) -> str:
    return f"{canvas.resize} to {canvas.size[0]} x {canvas.size[1]}"
