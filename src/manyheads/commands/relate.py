"""The command `affinity`: how related tasks are, as a matrix per estimator, and what each says in a sentence."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..affinity.related import METHODS, enough, estimators_of, related
from ..compare import processes
from ..faults import DataError
from ..files import write_atomically
from ..ledger import Ledger
from ..parallel import check as check_backend
from ..parallel import cluster
from ..results import Relatedness
from ..spec import RunSpec
from .door import Door, interruptible
from .pages import write_page
from .studies import study_in

FILE, RUNS = "affinity.json", "runs"
MOST = 12
"""Tasks that a matrix on the screen has at most."""


def affinity(
    spec: RunSpec,
    output: Path,
    door: Door,
    methods: Sequence[str] | None = None,
    seeds: int = 3,
    backend: str | None = None,
    n_jobs: int | None = None,
) -> dict[str, Any]:
    """How related the tasks of a config are, into a folder.

    Args:
        spec: the run.
        output: the folder; with ``--resume`` runs that it holds are not done again.
        methods: words of `manyheads.affinity`; `related.METHODS` where nobody says.
        seeds: trainings of each model.
        backend, n_jobs: who carries runs out, and how many at a time.

    Raises:
        ConfigError, DataError: as their names say.
    """
    estimators = estimators_of(METHODS if methods is None else methods)
    enough(len(spec.tasks), seeds)
    word, jobs = backend or "loky", processes(n_jobs)
    check_backend(word)
    with study_in(output, spec, door) as (folder, ready):
        if door.dry_run:
            return ready.planned
        folder.begin(spec)
        door.screen.log = folder.log
        with interruptible(door), cluster(word, jobs), door.screen.progress() as progress:
            found = related(
                spec, ready.prepared, estimators, seeds,
                n_jobs=jobs, backend=word, ledger=Ledger(output / RUNS), progress=progress,
            )  # fmt: skip
    write(found, output)
    page = write_page(spec, output, relatedness=found, tasks=ready.infos, warnings=door.warned)
    for answer in found:
        few = f", the first {MOST} of {len(answer.tasks)} tasks" if len(answer.tasks) > MOST else ""
        sure = "; * = beyond the noise of seeds" if answer.gain else ""
        door.screen.say(f"{answer.method}: row = source, column = target{few}{sure}")
        door.screen.show(matrix_table(answer))
        door.screen.say(f"{answer.summary} ({answer.unit})")
    door.screen.say("No estimator is safe alone: what several agree on is worth trying, and training decides.")
    door.screen.end(door.warned, [f"open {shlex.quote(str(page))}"])
    return {
        "tasks": list(found[0].tasks),
        "methods": {a.method: json.loads(a.model_dump_json(exclude={"by_seed", "windows", "parts"})) for a in found},
        "seeds": seeds,
        "affinity": str(output / FILE),
        "report": str(page),
    }


def write(found: Sequence[Relatedness], output: Path) -> None:
    """Keep answers in a folder; `read` has them back.

    Args:
        output: the folder.
    """
    text = json.dumps([json.loads(answer.model_dump_json()) for answer in found], ensure_ascii=False, indent=1)
    write_atomically(output / FILE, text.encode("utf-8"))


def read(output: Path) -> tuple[Relatedness, ...]:
    """The answers that a folder keeps.

    Args:
        output: the folder.

    Raises:
        DataError: the file is damaged.
    """
    try:
        values = json.loads((output / FILE).read_text(encoding="utf-8"))
        return tuple(Relatedness.model_validate(value) for value in values)
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise DataError(f"`{output / FILE}` should be what estimators found. Found it damaged: {said}.") from None


def matrix_table(found: Relatedness) -> Table:
    """One row per source, one column per target; * where the interval over seeds leaves 0 out.

    Args:
        found: an answer; of more than `MOST` tasks the first are shown.
    """
    shown = range(min(len(found.tasks), MOST))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for j in shown:
        table.add_column(found.tasks[j], justify="right", overflow="fold")
    for i in shown:
        table.add_row(found.tasks[i], *(_cell(found, i, j) for j in shown))
    return table


def _cell(found: Relatedness, i: int, j: int) -> str:
    value, low, high = found.matrix[i][j], found.low[i][j], found.high[i][j]
    if value is None:
        return "–" if i == j else "?"
    sure = found.gain and low is not None and high is not None and (low > 0 or high < 0)
    return f"{value:+.2g}{'*' if sure else ''}"
