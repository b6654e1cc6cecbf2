"""What tasks have in common whose labels lie on words: there are as many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalog import hint
from ..faults import ConfigError, DataError
from ..words import tokens_of

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("text", "pretrained")
"""Inputs that have words."""
SPLITS = ("words", "spaces")
"""Ways to cut a text into words that need nothing but the text."""


def of_words(task: Any, inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the column of its words says and the task does not: `text` and `split`.

    Args:
        task: with `text` and `split`, each of which may be None.
        inputs: see `Task.beside`.

    Raises:
        ConfigError: `text` is no column of words.
    """
    texts = {name: own for name, own in inputs.items() if own["kind"] in KINDS and "split" in own}
    name = task.text if task.text is not None or len(texts) != 1 else next(iter(texts))
    if name is None or not texts:
        return {}
    if name not in texts:
        raise ConfigError(
            f"Task `{task.name}`: `text` should name a column of words. Found `{name}`. {hint(name, texts)}"
        )
    return {"text": name, "split": str(texts[name]["split"]) if task.split is None else task.split}


def refuse_uneven(labels: pd.DataFrame, rows: Sequence[list[str] | None], task: Any) -> None:
    """See that every labelled row has a tag for each of its words.

    A text that a tokenizer of its own cuts into words is not looked at here.

    Args:
        labels: with the column `task.text`, or without it, and then there is nothing to compare.
        rows: tags, None where they are missing.

    Raises:
        DataError: a row has more or fewer.
    """
    if task.text is None or task.text not in labels.columns:
        return
    for row, (cell, tags) in enumerate(zip(labels[task.text].array, rows, strict=True)):
        if tags is None:
            continue
        if isinstance(cell, str):
            if task.split not in SPLITS:
                continue
            words = tokens_of(cell, task.split)
        elif isinstance(cell, list | tuple | np.ndarray):
            words = list(cell)
        else:
            words = []
        if len(words) != len(tags):
            cut = "" if not isinstance(cell, str) or task.split == "spaces" else (
                ", give the words as a list, declare the column {type: text, split: spaces}"
            )  # fmt: skip
            raise DataError(
                f"Task `{task.name}`: column `{task.targets[0]}`, row {row}: a row should have as many tags as words. "
                f"Found {len(tags)} tags for {len(words)} words of column `{task.text}`; mend it{cut}, or leave such "
                "rows out with `data.on_error=skip`.",
                row,
            )
