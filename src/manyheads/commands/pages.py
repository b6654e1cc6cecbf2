"""The page of evidence that `affinity`, `group` and `tune` leave in their folders: report.html, and report.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ..faults import DataError
from ..files import write_atomically
from ..grouping.partition import advised, dendrogram
from ..report import render_evidence, write_evidence
from ..results import Evidence, GroupingStudy, Relatedness, TaskInfo, Tuned
from ..spec import RunSpec
from .door import settings_of
from .runfolder import environment, now

BUDGET = 2
"""Models that the groups of a page may have where nobody says."""
MOST = 12
"""Tasks up to which a page tells the groups that an estimator speaks for without being asked."""


def write_page(
    spec: RunSpec,
    output: Path,
    *,
    relatedness: Sequence[Relatedness] = (),
    budget: float | None = None,
    study: GroupingStudy | None = None,
    tuned: Tuned | None = None,
    tasks: Sequence[TaskInfo] = (),
    warnings: Sequence[str] = (),
) -> Path:
    """Write what was found on whether tasks should share, as a page; returns its path.

    Args:
        spec: the run.
        output: the folder.
        relatedness: answers of estimators; their trees are drawn with them.
        budget: models at most of the groups that an estimator speaks for; for up to 12 tasks 2 where nobody says.
        study: groups that were trained.
        tuned: a search for settings.
        tasks: of the run.
        warnings: to be read first.
    """
    n = len(relatedness[0].tasks) if relatedness else 0
    grouped = relatedness if budget is not None or 2 < n <= MOST else ()
    title = "Should these tasks share a model?" if tuned is None else "Which settings suit these tasks?"
    evidence = Evidence(
        title=title,
        created=now(),
        tasks=tuple(tasks),
        relatedness=tuple(relatedness),
        trees={found.method: dendrogram(_rows(found)) for found in relatedness},
        advised={found.method: advised(found, budget or BUDGET) for found in grouped},
        study=study,
        tuned=tuned,
        settings=settings_of(spec),
        environment=environment(),
        warnings=tuple(warnings),
    )
    return write_evidence(evidence, output / "report.html")


def redrawn(folders: Sequence[Path], output: Path) -> bool:
    """Write the page of a folder of evidence once more; whether it is one, and not a run's.

    Args:
        folders: of which several cannot stand on one page.
        output: the page's file.

    Raises:
        DataError: one of several is a folder of evidence.
    """
    found = {folder: evidence for folder in folders if (evidence := _kept(folder)) is not None}
    if found and len(folders) > 1:
        raise DataError(f"Pages of several should be of trained runs. Found evidence in `{next(iter(found))}`.")
    for evidence in found.values():
        write_atomically(output, render_evidence(evidence).encode("utf-8", "xmlcharrefreplace"))
    return bool(found)


def _kept(folder: Path) -> Evidence | None:
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        return Evidence.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _rows(found: Relatedness) -> dict[str, dict[str, float | None]]:
    """The matrix by names: a tree needs no zero, so that likenesses keep their own numbers."""
    return {a: {b: found.matrix[i][j] for j, b in enumerate(found.tasks) if i != j} for i, a in enumerate(found.tasks)}
