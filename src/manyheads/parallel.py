"""Many runs over several processes or machines, each of which trains its share as one stacked model."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from .catalog import hint
from .faults import ConfigError, MissingExtra
from .ledger import Ended, Ledger
from .stacking.alike import signature
from .stacking.stacked import Progress, run_all
from .train import Training

SHARE = 64
"""Runs that one process trains at a time, at most: more would not fit a processor's cache."""
BACKENDS = ("loky", "threading", "dask", "ray")
"""Who carries shares out: processes here, threads here, or a cluster's workers."""


def run_over(
    trainings: Sequence[Training],
    progress: Progress | None = None,
    n_jobs: int = 1,
    *,
    backend: str = "loky",
    ledger: Ledger | None = None,
) -> float:
    """`stacked.run_all`, divided among processes of one thread each; the trainings end as if they had run here.

    Results do not depend on who carries them out, up to rounding; but dropout draws other masks where other runs are
    trained beside a run (as after an interruption), and under `threading`, where threads share torch's generator.

    Args:
        progress: called with (runs done, runs), from time to time.
        n_jobs: processes; 1 stays in this one.
        backend: a word of `BACKENDS`; ``dask=ADDRESS`` and ``ray=ADDRESS`` name a cluster (else the one that there is,
            or one of `n_jobs` processes here).
        ledger: runs that it has are not done again, and the others are put there as their shares end.

    Returns:
        The seconds that the runs took together, those of an earlier call counted in.

    Raises:
        ConfigError: an unknown backend.
        MissingExtra: the backend's package is not installed.
    """
    word, _ = _word(backend)
    started, earlier = time.perf_counter(), 0.0
    keys = {} if ledger is None else {id(t): ledger.key(t) for t in trainings}
    left: list[Training] = []
    for training in trainings:
        found = None if ledger is None else ledger.get(keys[id(training)])
        if found is None:
            left.append(training)
        else:
            _ended(training, found[0])
            earlier += found[1]
    before = len(trainings) - len(left)
    if progress is not None and before:
        progress(before, len(trainings))

    def tell(done: int, _: int = 0) -> None:
        if progress is not None:
            progress(before + done, len(trainings))

    if (n_jobs == 1 or len(left) < 2) and word == "loky":
        for share in [left] if ledger is None else _shares(left, 1):
            begun, base = time.perf_counter(), sum(t.finished for t in left)
            run_all(share, lambda done, n, base=base: tell(base + done))  # type: ignore[misc]
            if ledger is not None:
                _keep(ledger, keys, share, [_how(t) for t in share], time.perf_counter() - begun)
    elif left:
        _divided(left, tell, n_jobs, backend, ledger, keys)
    return time.perf_counter() - started + earlier


def check(backend: str) -> None:
    """See that a backend is one that there is, before anything is done.

    Args:
        backend: a word of `BACKENDS`, with ``=ADDRESS`` or without.

    Raises:
        ConfigError: an unknown backend.
    """
    _word(backend)


def _word(backend: str) -> tuple[str, str]:
    """(word, address) of a backend.

    Raises:
        ConfigError: an unknown one.
    """
    word, _, address = backend.partition("=")
    if word not in BACKENDS:
        raise ConfigError(f"`backend` should be one of {', '.join(BACKENDS)}. Found `{word}`. {hint(word, BACKENDS)}")
    return word, address


def _divided(
    trainings: Sequence[Training],
    tell: Progress,
    n_jobs: int,
    backend: str,
    ledger: Ledger | None,
    keys: dict[int, str],
) -> None:
    from joblib import Parallel, delayed

    word, _ = _word(backend)
    shares = _shares(trainings, n_jobs)
    done, begun = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        marks = Path(folder) / "marks"
        marks.touch()
        here = word in ("loky", "threading")
        stack.enter_context(workers(backend, n_jobs))
        if here:
            stack.enter_context(_watching(marks, tell, len(trainings)))
        calls = [delayed(_carry)(share, str(marks) if here else None, word != "threading") for share in shares]
        outcomes: Iterable[list[Ended]]
        if word == "ray":  # its results come all at once: a wave at a time, so that what has ended is kept
            work = stack.enter_context(Parallel(n_jobs=n_jobs, batch_size=1))
            outcomes = chain.from_iterable(work(calls[k : k + n_jobs]) for k in range(0, len(calls), n_jobs))
        else:
            outcomes = Parallel(n_jobs=n_jobs, return_as="list" if ledger is None else "generator")(calls)
        for share, found in zip(shares, outcomes, strict=True):
            for training, end in zip(share, found, strict=True):
                _ended(training, end)
            done += len(share)
            if ledger is not None:
                took = (time.perf_counter() - begun) * len(share) / len(trainings)
                _keep(ledger, keys, share, found, took)
            if not here:
                tell(done, len(trainings))
    tell(len(trainings), len(trainings))


@contextmanager
def workers(backend: str, n_jobs: int) -> Iterator[None]:
    """joblib's settings for a backend; a cluster that is made here ends here.

    Args:
        backend: a word of `BACKENDS`, ``dask=ADDRESS`` and ``ray=ADDRESS`` too.
        n_jobs: processes of a cluster that is made here.

    Raises:
        ConfigError: an unknown backend, or a scheduler that does not answer.
        MissingExtra: the backend's package is not installed.
    """
    from joblib import parallel_config

    word, _ = _word(backend)
    if word == "loky":
        # A process whose memory grew is replaced and its work done by the next. The warning comes from the thread that
        # hands work out; where warnings are errors it would end that thread, and everybody would wait for ever.
        with warnings.catch_warnings(), parallel_config("loky", inner_max_num_threads=1):
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            yield
        return
    if word == "threading":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with parallel_config("threading"):
                yield
        finally:
            torch.set_num_threads(threads)
        return
    with cluster(backend, n_jobs), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")
        with parallel_config(word):
            yield


@contextmanager
def cluster(backend: str, n_jobs: int) -> Iterator[None]:
    """For dask and ray, the cluster that there is, or one for as long as this lasts, so that several calls share it.

    Args:
        backend, n_jobs: as in `workers`; nothing is done for other backends.

    Raises:
        ConfigError: the cluster does not answer.
        MissingExtra: the backend's package is not installed.
    """
    word, address = _word(backend)
    made = {"dask": _dask, "ray": _ray}.get(word)
    with nullcontext() if made is None else made(address, n_jobs):
        yield


@contextmanager
def _dask(address: str, n_jobs: int) -> Iterator[None]:
    try:
        from distributed import Client, default_client
    except ImportError:
        raise MissingExtra("`--backend dask`", "cluster") from None
    try:
        there = default_client().scheduler.address
    except ValueError:  # there is none
        there = None
    if there is not None and address in ("", there):
        yield
        return
    how: dict[str, Any] = {"n_workers": max(n_jobs, 1), "threads_per_worker": 1, "dashboard_address": None}
    try:
        client = Client(address) if address else Client(**how)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"`--backend dask={address}` should name a scheduler that answers. Found that it does not: {error}."
        ) from None
    with client:
        yield


@contextmanager
def _ray(address: str, n_jobs: int) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise MissingExtra("`--backend ray`", "ray") from None
    register_ray()
    if ray.is_initialized():
        yield
        return
    there = address or os.environ.get("RAY_ADDRESS", "")
    how: dict[str, Any] = {"address": there} if there else {"num_cpus": max(n_jobs, 1), "include_dashboard": False}
    try:
        ray.init(**how, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"`--backend ray={there}` should name a cluster that answers. Found that it does not: {error}."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


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


def _how(training: Training) -> Ended:
    """How a run ended."""
    best = training.best_state if training.best_state is not None else dict(training.model.state_dict())
    return training.progress(), best


def _ended(training: Training, end: Ended) -> None:
    """Let a run be as it was when it ended elsewhere."""
    state, best = end
    training.load_progress(state)
    training.best_state = best
    training.finished = True
    training.close()


def _keep(
    ledger: Ledger, keys: dict[int, str], share: Sequence[Training], ends: Sequence[Ended], seconds: float
) -> None:
    steps = max(sum(t.step for t in share), 1)
    for training, end in zip(share, ends, strict=True):
        ledger.put(keys[id(training)], end, seconds * training.step / steps)


def _carry(share: list[Training], marks: str | None, apart: bool = True) -> list[Ended]:
    """What a process does: run its share, leave a mark for each run that ends, send back how they ended.

    Args:
        marks: the file of the marks; None on another machine.
        apart: whether this is a process of its own.
    """
    if apart:
        torch.set_num_threads(1)
        # a scheduler that came here by pickle does not know its optimiser's step again, and says so
        warnings.filterwarnings("ignore", message=r".*`optimizer\.step\(\)`.*", category=UserWarning)
    seen = 0

    def tell(done: int, _: int) -> None:
        nonlocal seen
        if marks is not None:
            with open(marks, "ab") as file:
                file.write(b"." * (done - seen))
        seen = done

    run_all(share, tell)
    return [_how(t) for t in share]


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
