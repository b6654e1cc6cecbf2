"""Processes that carry work out for somebody else."""

from __future__ import annotations

import time

from joblib import Parallel, delayed

from manyheads.parallel import workers

KEPT: list[bytes] = []


def _hoard(i):
    """The third call leaves 350 MB behind, for which joblib ends the process and begins another."""
    KEPT.append(b"x" * (350 << 20 if i == 2 else 1))
    time.sleep(1.2 if i == 2 else 0.2)
    return i


def test_a_process_that_has_grown_is_replaced_in_silence():
    """Warnings are errors here: one in the thread that hands work out would leave everybody waiting."""
    with workers("loky", 2):
        assert list(Parallel(n_jobs=2, timeout=60)(delayed(_hoard)(i) for i in range(16))) == list(range(16))
