"""The model card: what a model predicts, how well, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence

from .._version import __version__
from ..results import Scores, TaskInfo

_USE = """
## Use

```python
import manyheads as mh

learner = mh.Learner.load("model/")  # this folder
learner.predict(table)  # a data frame
```

```sh
manyheads predict RUN TABLE.csv -o predictions.csv
```

Missing inputs and unknown categories are accepted. The scores hold for rows drawn like those it was trained on.
"""


def card(title: str, tasks: Sequence[TaskInfo], scores: Sequence[Scores]) -> str:
    """A model card in Markdown.

    Args:
        title: its heading.
        tasks: what it predicts.
        scores: per split.
    """
    lines = [
        f"# {_cell(title)}",
        "",
        f"One model for {len(tasks)} task(s), made by manyheads {__version__}.",
        "",
        "## Tasks",
        "",
    ]
    lines += ["| task | type | metric | training labels | training rows |", "|---|---|---|---:|---:|"]
    lines += [
        f"| {_cell(t.name)} | {t.kind} | {t.metric} | {t.labels.get('train', 0)} | {t.rows.get('train', 0)} |"
        for t in tasks
    ]
    for found in scores:
        lines += [
            "",
            f"## Scores on {found.split}",
            "",
            "| task | metric | value | 95 % interval | labels |",
            "|---|---|---:|---|---:|",
        ]
        lines += [
            f"| {_cell(s.task)} | {s.metric} | {_number(s.value)} | {_interval(s.interval)} | {s.labels} |"
            for s in found.scores
        ]
    return "\n".join([*lines, _USE])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(interval: tuple[float | None, float | None] | None) -> str:
    return "" if interval is None else f"[{_number(interval[0])}, {_number(interval[1])}]"
