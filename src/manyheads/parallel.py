"""Many runs over several processes, each of which trains its share as one stacked model."""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .alike import signature
from .stacked import Progress, run_all
from .train import Training

SHARE = 64
"""Runs that one process trains at a time, at most: more would not fit a processor's cache."""


def run_over(trainings: Sequence[Training], progress: Progress | None = None, n_jobs: int = 1) -> None:
    """`stacked.run_all`, divided among processes of one thread each; the trainings end as if they had run here.

    Args:
        progress: called with (runs done, runs), from time to time.
        n_jobs: processes; 1 stays in this one.
    """
    if n_jobs == 1 or len(trainings) < 2:
        run_all(trainings, progress)
        return
    from joblib import Parallel, delayed, parallel_config

    shares = _shares(trainings, n_jobs)
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks"
        marks.touch()
        with _watching(marks, progress, len(trainings)), parallel_config("loky", inner_max_num_threads=1):
            outcomes = Parallel(n_jobs=n_jobs)(delayed(_carry)(share, str(marks)) for share in shares)
    for share, found in zip(shares, outcomes, strict=True):
        for training, (state, best) in zip(share, found, strict=True):
            training.load_progress(state)
            training.best_state = best
            training.finished = True
            training.close()
    if progress is not None:
        progress(len(trainings), len(trainings))


def _shares(trainings: Sequence[Training], n_jobs: int) -> list[list[Training]]:
    """Runs of one signature stay together, in shares of nearly one size."""
    groups: dict[Any, list[Training]] = {}
    for i, training in enumerate(trainings):
        groups.setdefault(signature(training) or ("alone", i), []).append(training)
    shares = []
    for group in groups.values():
        n = min(len(group), n_jobs * -(-len(group) // (n_jobs * SHARE)))
        shares += [group[k::n] for k in range(n)]
    return sorted(shares, key=len, reverse=True)


def _carry(share: list[Training], marks: str) -> list[tuple[dict[str, Any], Any]]:
    """What a process does: run its share, leave a mark for each run that ends, send back how they ended."""
    torch.set_num_threads(1)
    # a scheduler that came here by pickle does not know its optimiser's step again, and says so
    warnings.filterwarnings("ignore", message=r".*`optimizer\.step\(\)`.*", category=UserWarning)
    seen = 0

    def tell(done: int, _: int) -> None:
        nonlocal seen
        with open(marks, "ab") as file:
            file.write(b"." * (done - seen))
        seen = done

    run_all(share, tell)
    return [(t.progress(), t.best_state if t.best_state is not None else dict(t.model.state_dict())) for t in share]


@contextmanager
def _watching(marks: Path, progress: Callable[[int, int], None] | None, n: int) -> Iterator[None]:
    """Count marks now and then, and tell."""
    stop = threading.Event()

    def watch() -> None:
        last = 0
        while not stop.wait(0.5):
            done = os.stat(marks).st_size
            if progress is not None and done != last:
                progress(done, n)
            last = done

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
