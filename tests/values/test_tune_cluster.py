"""A search for settings that a cluster carries out: it finds what one process finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from manyheads import config
from manyheads.build import split_parts
from manyheads.cli import main
from manyheads.tune import search

pytest.importorskip("optuna")


def _trials(backend, n_jobs=1):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(80, 2)), columns=["a", "b"]).assign(y=lambda f: f.a + rng.normal(size=80))
    spec = config.check({
        "tasks": {"y": {"type": "regression"}},
        "model": {"members": 1, "encoder": {"name": "tabular", "d_hidden": 4, "n_layers": 1, "dropout": 0.0}},
        "trainer": {"max_epochs": 2},
        "tune": {"trials": 3, "batch": 1},  # one at a time: workers are threads here
    })  # fmt: skip
    parts = split_parts(spec.data.split, {"t": frame}, config.tasks_of(spec))
    found = search(spec, {"t": frame}, parts, backend=backend, n_jobs=n_jobs)
    return [(t.state, t.settings, t.value) for t in found.sides[0].trials]


def test_who_carries_trials_out_does_not_matter():
    here = _trials("loky")
    assert len(here) == 3
    assert _trials("threading", 2) == here
    distributed = pytest.importorskip("distributed")
    how = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster):
        there = _trials("dask", 2)
        assert cluster.scheduler.transition_counter > 0  # the cluster has had work
    assert [t[:2] for t in there] == [t[:2] for t in here]
    assert [t[2] for t in there] == pytest.approx([t[2] for t in here], abs=1e-4)


@pytest.mark.parametrize("command", ["tune", "deliver"])
def test_an_unknown_cluster_is_refused_before_a_folder_is_made(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,y\n1,2\n3,4\n")
    (tmp_path / "c.yaml").write_text("schema_version: 1\ndata: {train: t.csv}\ntasks: {y: {type: regression}}\n")
    assert main([command, "-c", "c.yaml", "-o", "out", "--backend", "dsk"]) == 2
    assert "Did you mean `dask`?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
