"""Every way to share through the command line: from a table with holes, and from two tables of different columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import people, run

import manyheads as mh
from manyheads.catalog import index
from manyheads.cli import main
from manyheads.results import Report
from manyheads.sharing import Sharing

pytestmark = pytest.mark.usefixtures("empty_folder")
WORDS = list(index(Sharing))
TASKS = """schema_version: 1
tasks:
  height: {type: regression}
  weight: {type: regression}
  clicked: {type: binary}
  bought: {type: binary}
  kind: {type: multiclass}
model: {encoder: {name: tabular, d_hidden: 8}, members: 2}
trainer: {max_epochs: 2}
"""
NAMES = {"height": "r2", "weight": "r2", "clicked": "roc_auc", "bought": "roc_auc", "kind": "accuracy"}


def rows(n=120):
    """Five things to predict, the labels of four of them with holes."""
    frame, rng = people(n)
    frame["bought"] = frame.clicked * (frame.x2 > 0)
    frame["kind"] = np.array(["u", "v", "w"])[rng.integers(0, 3, n)]
    for name in ("height", "weight", "clicked", "bought"):
        frame.loc[rng.random(n) < 0.3, name] = np.nan
    return frame


def used(run):
    """What the scheme noted, as metrics.csv has it."""
    found = pd.read_csv(f"{run}/metrics.csv")
    return found[found["split"] == "sharing"]


def all_there(scores):
    assert set(scores) == set(NAMES)
    for task, metric in NAMES.items():
        assert scores[task][metric]["value"] is not None, task


@pytest.mark.parametrize("word", WORDS)
def test_a_table_with_holes(word, capsys):
    rows().to_csv("table.csv", index=False)
    rows()[["x0", "x1", "x2"]].to_csv("new.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    found = run(capsys, "train", "-c", "run.yaml", "-o", "run", f"model.sharing={word}")
    all_there(found["scores"]["test"])
    assert run(capsys, "predict", "run", "new.csv", "-o", "out.csv")["rows"] == 120
    out = pd.read_csv("out.csv")
    assert {*NAMES, "clicked__prob", "bought__prob", "kind__prob_u"} <= set(out)
    assert np.isfinite(out.select_dtypes("number").to_numpy()).all()
    all_there(run(capsys, "evaluate", "run", "table.csv")["scores"])
    run(capsys, "report", "run", "-o", "page.html")
    noted = used("run")
    assert np.isfinite(noted["value"]).all()
    assert set(noted["task"]) <= set(NAMES)
    assert noted.empty or set(noted["epoch"]) == {0, 1, 2}  # the last of the model that was kept
    page = Path("page.html").read_text(encoding="utf-8")
    assert ('id="use"' in page) == (not noted.empty)
    report = Report.model_validate_json(Path("run/report.json").read_text(encoding="utf-8"))
    assert report.settings["model"]["sharing"]["name"] == word


@pytest.mark.parametrize("word", WORDS)
def test_two_tables_of_different_columns(word, capsys):
    frame = rows(160)
    one = frame[:80][["x0", "x1", "x2", "height", "clicked", "bought"]]
    two = frame[80:][["x0", "x1", "weight", "kind"]].rename(columns={"x0": "z0", "x1": "z1"})
    one.to_csv("one.csv", index=False)
    two.to_csv("two.csv", index=False)
    tables = "one: {path: one.csv, targets: [height, clicked, bought]}, two: {path: two.csv, targets: [weight, kind]}"
    Path("run.yaml").write_text(f"{TASKS}data: {{tables: {{{tables}}}}}\n", encoding="utf-8")
    found = run(capsys, "train", "-c", "run.yaml", "-o", "run", f"model.sharing={word}")
    all_there(found["scores"]["test"])
    two[["z0", "z1"]].to_csv("new.csv", index=False)
    assert run(capsys, "predict", "run", "new.csv", "-o", "out.csv", "--table", "two")["rows"] == 80
    assert {"weight", "kind"} <= set(pd.read_csv("out.csv"))


def test_columns_of_words_are_read(capsys):
    frame = rows().assign(colour=lambda t: np.where(t.x0 > 0, "red", "blue"), town=["Ulm", "Bonn", "Jena"] * 40)
    frame.to_csv("table.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    all_there(run(capsys, "train", "-c", "run.yaml", "-o", "run", "model.sharing=soft")["scores"]["test"])
    all_there(run(capsys, "evaluate", "run", "table.csv")["scores"])


def test_the_plan_and_the_penalties_are_told_at_the_start(capsys):
    rows().to_csv("table.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    words = ["model.sharing={name: soft, from_stage: 1}", "optim.penalties=[{name: l2, on: heads, strength: 0.01}]"]
    assert main(["check", "-c", "run.yaml", *words]) == 0
    said = capsys.readouterr().out
    assert "Sharing soft:\n  shared stages\n    stages of its own: height\n" in said
    assert "Penalty mean, strength 1: weights of which each task has its own" in said
    assert "Penalty l2, strength 0.01: heads of one shape; by a proximal step after each update." in said
    assert main(["check", "-c", "run.yaml"]) == 0
    assert "Penalty" not in capsys.readouterr().out


def test_a_learner_takes_words_and_words_with_settings():
    tasks = [mh.Regression("height"), mh.Binary("clicked")]
    penalties = ["l2", {"name": "l2", "on": "heads", "strength": 50.0, "biases": True}]
    frame = rows().drop(columns=["weight", "bought", "kind"])
    sizes = {}
    for given in ((), penalties):
        learner = mh.Learner(tasks, sharing={"name": "soft", "strength": 0.1}, penalties=given, members=1, max_epochs=3)
        learner.fit(frame)
        assert learner.spec.model.sharing.settings == {"strength": 0.1}
        assert [p.name for p in learner.spec.optim.penalties] == ["l2"] * len(given)
        sizes[len(given)] = sum(float(p.detach().abs().sum()) for p in learner.model_.heads["height"].parameters())
    assert sizes[2] < 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("model.sharing=sfot", "Did you mean `soft`?"),
        ("model.sharing={name: soft, strenth: 1}", "Did you mean `strength`?"),
        ("model.sharing={name: soft, step: later}", "`step` should be prox, loss or literal. Found `later`."),
        ("optim.penalties=[l3]", "No penalty is called `l3`."),
        ("optim.penalties=[{name: l2, strenth: 1}]", "Did you mean `strength`?"),
        ("optim.penalties=[{name: l2, strength: -1}]", "`strength` should be 0 or more. Found -1."),
    ],
)
def test_a_mistake_is_told(wrong, told, capsys):
    rows().to_csv("table.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    assert main(["check", "-c", "run.yaml", wrong]) == 2
    assert told in capsys.readouterr().err
