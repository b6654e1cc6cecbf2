"""How every study of several models begins: its folder is claimed, its rows are read, and what is known is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..spec import RunSpec
from .door import Door
from .runfolder import RunFolder
from .runs import Ready, make_ready


@contextmanager
def study_in(output: Path, spec: RunSpec, door: Door) -> Iterator[tuple[RunFolder, Ready]]:
    """(the claimed folder, the run that is ready), with warnings said at the door as long as this lasts.

    Nothing is written yet: `RunFolder.begin` is for the study to say, once it knows that it can.

    Args:
        output: the folder; with ``--resume`` it may hold the same study.
        spec: the run.

    Raises:
        ConfigError, DataError: as their names say.
    """
    folder = RunFolder(output)
    if not door.dry_run:
        folder.claim(spec, door.resume, door.force)
    with door.hearing():
        ready = make_ready(spec, door)
        door.screen.begin(ready.infos, ready.training.sampler.objective(), ready.remarks)
        yield folder, ready
