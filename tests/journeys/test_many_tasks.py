"""139 schools and 29 mine fields through the command line: as disjoint tables, and as one table with holes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from manyheads.cli import main
from manyheads.data.datasets import load

QUICK = ["model.members=2", "trainer.max_epochs=2", "data.split.sizes=[0.75, 0, 0.25]"]


@pytest.fixture(autouse=True)
def _data(data_root, monkeypatch, tmp_path):
    monkeypatch.setenv("MANYHEADS_DATA", str(data_root))
    monkeypatch.chdir(tmp_path)


def _config(tasks, data):
    described = {t.name: {"type": t.kind, "target": t.targets[0]} for t in tasks}
    with open("run.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump({"schema_version": 1, "data": data, "tasks": described}, file)


def _tables(tables):
    for name, frame in tables.items():
        frame.to_csv(f"{name}.csv", index=False)
    return {"tables": {name: {"path": f"{name}.csv"} for name in tables}}


@pytest.mark.parametrize(("name", "n_tasks"), [("school", 139), ("landmine", 29)])
def test_disjoint_tables(name, n_tasks, capsys):
    tables, tasks = load(name)
    assert len(tasks) == len(tables) == n_tasks
    _config(tasks, _tables(tables))
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json", "-q", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["scores"]["test"]) == {t.name for t in tasks}
    metrics = pd.read_csv("run/metrics.csv")
    assert set(metrics[metrics.split == "train"].task.dropna()) == {t.name for t in tasks}
    first = next(iter(tables))
    assert main(["predict", "run", f"{first}.csv", "-o", "out.csv", "--table", first, "-q"]) == 0
    assert len(pd.read_csv("out.csv")) == len(tables[first])


def test_one_table_with_holes(capsys):
    table, tasks = load("school", as_table=True)
    table.to_parquet("school.parquet")
    _config(tasks, {"train": "school.parquet", "split": {"kind": "stratified"}})
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json", "-q", *QUICK]) == 0
    capsys.readouterr()
    described = json.loads(Path("run/tasks.json").read_text(encoding="utf-8"))
    rows = described["tasks"] if isinstance(described, dict) and "tasks" in described else described
    assert len(rows) == 139
