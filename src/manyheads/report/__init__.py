"""Results -> one HTML file that opens anywhere, offline: the verdict in words, then the evidence."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..results import Evidence, Report

if TYPE_CHECKING:
    import jinja2

__all__ = ["render", "render_evidence", "write", "write_evidence"]


def render(reports: Sequence[Report]) -> str:
    """One page about one run, or about several with their primary scores side by side.

    Args:
        reports: the runs, in the order they are to stand.

    Raises:
        ValueError: there is no run.
    """
    from .views import View, side_by_side

    if not reports:
        raise ValueError("A page should show at least one report. Found none.")
    several = len(reports) > 1
    titles = _distinct([report.title or "Run" for report in reports])
    views = [
        View(report, f"run{index}-" if several else "", title, 3 if several else 2)
        for index, (report, title) in enumerate(zip(reports, titles, strict=True), start=1)
    ]
    split, rows = side_by_side(views) if several else ("", [])
    title = f"{len(views)} runs compared" if several else titles[0]
    page = _environment().get_template("page.html.jinja")
    return page.render(title=title, views=views, several=several, split=split, rows=rows)


def write(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write a run's page, and the report itself as JSON beside it; each file appears whole or not at all.

    Args:
        report: the run.
        path: the page's file, such as ``report.html``; the JSON takes the suffix ``.json``.

    Raises:
        ValueError: the path ends in ``.json``, which is the other file's name.
    """
    page = Path(path)
    beside = page.with_suffix(".json")
    if beside == page:
        raise ValueError(f"A page should not be named like the JSON beside it, say report.html. Found {page.name!r}.")
    page.parent.mkdir(parents=True, exist_ok=True)
    _replace(beside, report.model_dump_json(indent=1) + "\n")
    write_pages([report], page)
    return page


def write_pages(reports: Sequence[Report], path: Path) -> None:
    """Write several runs as one HTML page, whole or not at all.

    Args:
        reports: the runs, in the order in which they stand on the page.
        path: the page's file.
    """
    _replace(path, render(reports))


def render_evidence(evidence: Evidence) -> str:
    """One page on whether tasks should share: relatedness, groups, methods, label fractions, settings, cost.

    Args:
        evidence: what was found; sections without anything are left out.
    """
    from .sharing import SharingView

    page = _environment().get_template("sharing.html.jinja")
    return page.render(title=evidence.title, view=SharingView(evidence))


def write_evidence(evidence: Evidence, path: str | os.PathLike[str]) -> Path:
    """Write the page of some evidence, and report.json (or the page's name with that suffix) beside it.

    Args:
        evidence: what was found.
        path: the page's file, such as ``report.html``.
    """
    page = Path(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    _replace(page.with_suffix(".json"), evidence.model_dump_json(indent=1) + "\n")
    _replace(page, render_evidence(evidence))
    return page


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        draft.write_bytes(text.encode("utf-8", "xmlcharrefreplace"))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _distinct(titles: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for title in titles:
        seen[title] = seen.get(title, 0) + 1
        found.append(title if seen[title] == 1 else f"{title} ({seen[title]})")
    return found


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    from . import figures, forests, views, words

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=words.number,
        span=words.span,
        change=words.change,
        change_span=words.change_span,
        percent=words.percent,
        p_value=words.p_value,
        block=words.block,
        coded=words.coded,
        tally=words.tally,
        signs=words.SIGNS,
        forest=forests.forest,
        forest_of_many=forests.forest_of_many,
        bar=figures.coverage,
        coverage=views.coverage,
        decimals=words.decimals,
    )
    return environment
