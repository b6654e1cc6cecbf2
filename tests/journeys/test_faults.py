"""Every mistake a user can make has its exit code and one message that names file, key or column; never a traceback."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from manyheads.cli import main
from manyheads.spec import OptimSpec

TASKS = {"y": {"type": "binary"}, "y2": {"type": "binary"}, "z": {"type": "regression"}, "z2": {"type": "regression"}}


def table(rows=120):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["y"] = (x[:, 0] + rng.normal(size=rows) > 0).astype(int)
    frame["y2"] = np.where(x[:, 1] + rng.normal(size=rows) > 0, "yes", "no")
    frame["z"] = x[:, 1] + rng.normal(size=rows)
    frame["z2"] = x[:, 2] + rng.normal(size=rows)
    return frame


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table and a config that work."""
    monkeypatch.chdir(tmp_path)
    table().to_csv("t.csv", index=False)
    config()
    return tmp_path


def config(tasks=TASKS, data=None, **sections):
    values = {
        "schema_version": 1, "data": data or {"train": "t.csv"}, "tasks": tasks,
        "model": {"members": 2, "encoder": {"name": "tabular", "d_hidden": 8}}, "trainer": {"max_epochs": 1},
    }  # fmt: skip
    with open("run.yaml", "w") as file:
        json.dump(values | sections, file)  # JSON is YAML


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that went well."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        table().to_csv("t.csv", index=False)
        config()
        assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
    return folder / "run"


def fails(capsys, code, words, *said):
    """Run a command; it should end with this code and one message that holds these words."""
    assert main(list(words)) == code
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    for word in said:
        assert word in errors, errors


def refused(capsys, code, *said, command="check"):
    fails(capsys, code, [command, "-c", "run.yaml", *(["-o", "run"] if command == "train" else [])], *said)


def test_a_missing_table(here, capsys):
    config(data={"train": "nowhere.csv"})
    refused(capsys, 3, "nowhere.csv", "should be a file")


@pytest.mark.parametrize("text", ["", "a,b,y,y2,z,z2\n"])
def test_an_empty_table(here, capsys, text):
    (here / "t.csv").write_text(text)
    refused(capsys, 3, "t.csv")


def test_a_missing_target_column(here, capsys):
    config(tasks=TASKS | {"z": {"type": "regression", "target": "zz9"}})
    refused(capsys, 3, "`z`", "`zz9`")


def test_a_missing_feature_column(here, trained, capsys):
    table().drop(columns="b").to_csv("less.csv", index=False)
    fails(capsys, 3, ["predict", str(trained), "less.csv", "-o", "p.csv"], "less.csv", "`b`")


def test_a_column_missing_in_one_of_the_parts(here, capsys):
    table(40).drop(columns="b").to_csv("test.csv", index=False)
    config(data={"train": "t.csv", "test": "test.csv"})
    refused(capsys, 3, "test.csv", "`b`")


def test_an_unknown_column_type(here, capsys):
    config(features={"types": {"a": "numbr"}})
    refused(capsys, 2, "`numbr`", "Did you mean `numeric`?")


def test_a_target_among_the_features(here, capsys):
    config(features={"only": ["a", "y"]})
    assert main(["check", "-c", "run.yaml", "-q"]) == 0  # a target is kept out of the features by itself


@pytest.mark.parametrize("make", [lambda z: z, lambda z: -2 * z + 1])
def test_a_copy_of_a_target_among_the_features(here, capsys, make):
    frame = table()
    frame.assign(again=make(frame["z"])).to_csv("t.csv", index=False)
    refused(capsys, 3, "`z`", "`again`", "`drop`")


def test_a_task_without_any_label(here, capsys):
    table().assign(z=np.nan).to_csv("t.csv", index=False)
    refused(capsys, 3, "`z`", "should have a label in the training part")


def test_a_task_with_one_class(here, capsys):
    table().assign(y=1).to_csv("t.csv", index=False)
    refused(capsys, 3, "`y`", "two classes")


@pytest.mark.parametrize("column", ["a", "z"])
def test_infinite_values(here, capsys, column):
    frame = table()
    frame.loc[3, column] = np.inf
    frame.to_csv("t.csv", index=False)
    refused(capsys, 3, f"`{column}`", "inf")


def test_a_task_described_twice(here, capsys):
    (here / "run.yaml").write_text("data: {train: t.csv}\ntasks:\n  y: {type: binary}\n  y: {type: binary}\n")
    refused(capsys, 2, "run.yaml", "`y` stands twice", "line 4")


def test_a_label_never_seen_in_training(here, trained, capsys):
    frame = table(40)
    frame.loc[5, "y2"] = "perhaps"
    frame.to_csv("new.csv", index=False)
    fails(capsys, 3, ["evaluate", str(trained), "new.csv"], "`y2`", "'perhaps'", "row 5")
    config(data={"train": "t.csv", "test": "new.csv"})
    refused(capsys, 3, "`y2`", "'perhaps'")


def test_an_empty_feature_is_dropped_with_a_warning(here, capsys):
    table().assign(hollow=np.nan).to_csv("t.csv", index=False)
    assert main(["check", "-c", "run.yaml"]) == 0
    assert "`hollow`" in capsys.readouterr().out


def test_odd_names_simply_work(here, capsys):
    names = {"a": "children", "b": "train", "y": "a.b", "y2": "x[0]", "z": "a/b", "z2": "train "}
    table().rename(columns=names).to_csv("t.csv", index=False)
    config(tasks={names[k]: v for k, v in TASKS.items()})
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "--fail-under", "val/a/b/r2=-9"]) == 0
    assert main(["predict", "run", "t.csv", "-o", "p.csv", "-q"]) == 0
    assert {"a.b", "a.b__prob", "x[0]", "x[0]__prob", "a/b", "train "} <= set(pd.read_csv("p.csv").columns)


def test_an_unknown_key(here, capsys):
    config(trainer={"max_epochs": 1, "paitence": 3})
    refused(capsys, 2, "run.yaml", "`trainer.paitence`", "Did you mean `patience`?")


def test_a_wrong_type(here, capsys):
    config(trainer={"max_epochs": "many"})
    refused(capsys, 2, "`trainer.max_epochs` should be a whole number. Found 'many'.")


def test_a_missing_config(here, capsys):
    fails(capsys, 3, ["check", "-c", "nowhere.yaml"], "nowhere.yaml")
    fails(capsys, 2, ["train", "-o", "run"], "should have a config")


def test_a_folder_that_is_not_empty(here, trained, capsys):
    (here / "run").mkdir()
    (here / "run" / "thesis.tex").write_text("years of work")
    refused(capsys, 2, "`run` should be empty", command="train")
    fails(capsys, 2, ["train", "-c", "run.yaml", "-o", "run", "--force"], "left alone")
    assert (here / "run" / "thesis.tex").exists()
    fails(capsys, 2, ["train", "-c", str(trained.parent / "run.yaml"), "-o", str(trained)], "--resume", "--force")


def test_force_removes_a_run_and_nothing_else(here):
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
    (here / "run" / "notes.txt").write_text("mine")
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "--force"]) == 0
    assert (here / "run" / "notes.txt").exists()


def test_resume_with_another_config_names_the_key(here, trained, capsys):
    words = ["train", "-c", str(trained.parent / "run.yaml"), "-o", str(trained), "--resume"]
    fails(capsys, 2, [*words, "optim.lr=0.5"], f"`optim.lr` was {OptimSpec().lr} and is 0.5")


def test_resume_with_more_epochs_goes_on(here):
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "--resume", "trainer.max_epochs=3"]) == 0
    assert set(pd.read_csv("run/metrics.csv")["epoch"]) == {0, 1, 2}


@pytest.fixture
def copied(here, trained):
    import shutil

    return shutil.copytree(trained, here / "copied") / "model"


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "preprocess.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_model_file(here, copied, capsys, name, how):
    path = copied / name
    if how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    fails(capsys, 3, ["predict", "copied", "t.csv", "-o", "p.csv"], "copied")


def test_a_model_of_a_newer_version(here, copied, capsys):
    described = json.loads((copied / "spec.json").read_text())
    (copied / "spec.json").write_text(json.dumps(described | {"schema_version": 99}))
    fails(capsys, 3, ["evaluate", "copied", "t.csv"], "spec.json", "schema_version 99", "upgrade")


def test_a_run_that_does_not_exist(here, capsys):
    fails(capsys, 3, ["predict", "nowhere", "t.csv", "-o", "p.csv"], "`nowhere`")
    fails(capsys, 3, ["report", "nowhere"], "`nowhere`")


def test_outputs_that_exist_are_refused(here, trained, capsys):
    (here / "p.csv").write_text("precious")
    fails(capsys, 2, ["predict", str(trained), "t.csv", "-o", "p.csv"], "`p.csv`", "--force")
    fails(capsys, 2, ["init", "t.csv", "-o", "run.yaml"], "`run.yaml`", "--force")
    assert (here / "p.csv").read_text() == "precious"


def test_gates(here, trained, capsys):
    words = ["evaluate", str(trained), "t.csv", "--json", "--fail-under"]
    assert main([*words, "test/y/roc_auc=0"]) == 0
    capsys.readouterr()
    assert main([*words, "test/y/log_loss=0.0001"]) == 5
    said = capsys.readouterr()
    assert "test/y/log_loss should be at most 0.0001" in said.err
    assert json.loads(said.out.splitlines()[-1])["rows"] == 120
    fails(capsys, 2, [*words, "test/yy/roc_auc=0"], "`yy`", "Did you mean")
    fails(capsys, 2, [*words, "roc_auc"], "should read split/task/metric=number")


def test_files_and_tables_at_once(here, capsys):
    config(data={"train": "t.csv", "tables": {"a": "t.csv"}})
    refused(capsys, 2, "`data.train`", "`data.tables`")
