"""Hospital stays and compounds through the command line: recipe, train, report, predict, on slices of real data."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from manyheads.cli import main

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ["model.members=1", "model.encoder.d_hidden=16", "trainer.max_epochs=2"]


def _json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _train(name, folder, capsys, *more):
    words = ["train", "-c", str(RECIPES / f"{name}.yaml"), "-o", str(folder / "run"), "--json", f"data.root={folder}"]
    assert main([*words, *QUICK, *more]) == 0
    return _json(capsys)["scores"]["test"]


@pytest.fixture
def stays(data_root, tmp_path):
    """The first 4,000 hospital stays, as the zip file of a folder."""
    with zipfile.ZipFile(data_root / "diabetes130" / "dataset_diabetes.zip") as archive:
        lines = archive.read("dataset_diabetes/diabetic_data.csv").splitlines(keepends=True)[:4001]
    (tmp_path / "diabetes130").mkdir()
    with zipfile.ZipFile(tmp_path / "diabetes130" / "dataset_diabetes.zip", "w") as archive:
        archive.writestr("dataset_diabetes/diabetic_data.csv", b"".join(lines))
    return tmp_path


def test_hospital_stays(stays, capsys):
    scores = _train("diabetes130", stays, capsys)
    assert set(scores) == {
        "diagnosis", "symptoms", "readmitted_30", "readmitted_any", "a1c_high", "insulin", "metformin", "medication",
        "stay",
    }  # fmt: skip
    assert scores["stay"]["r2_log1p"]["value"] > 0
    assert 0 < scores["medication"]["jaccard_samples"]["value"] < 1
    run = stays / "run"
    tasks = json.loads((run / "tasks.json").read_text())
    assert tasks["medication"]["splits"]["train"]["coverage"] == 1
    assert tasks["a1c_high"]["splits"]["train"]["coverage"] < 0.5 < tasks["symptoms"]["splits"]["train"]["coverage"]
    parts = pd.read_parquet(run / "splits.parquet")["part"].to_numpy()
    from manyheads.data.formats.diabetes130 import Diabetes130

    table = Diabetes130().frame(stays / "diabetes130" / "dataset_diabetes.zip")
    patients = {part: set(table["patient_nbr"][parts == part]) for part in ("train", "test")}
    assert all(patients.values())
    assert not patients["train"] & patients["test"]
    table.drop(columns=["diagnosis", "insulin", "time_in_hospital"]).head(50).to_csv(stays / "new.csv", index=False)
    out = stays / "out.csv"
    words = ["predict", str(run), str(stays / "new.csv"), "-o", str(out), "--keep-columns", "encounter_id"]
    said = main([*words, "--format", "derived", "--json"])
    assert said == 0, capsys.readouterr().err
    found = pd.read_csv(out)
    assert found["encounter_id"].tolist() == table["encounter_id"].tolist()[:50]
    assert found["stay"].gt(0).all()
    assert found["medication__prob_glipizide"].between(0, 1).all()
    capsys.readouterr()
    assert (
        main(["predict", str(run), str(stays / "diabetes130/dataset_diabetes.zip"), "-o", str(stays / "all.csv")]) == 0
    )
    assert len(pd.read_csv(stays / "all.csv")) == len(table)
    assert main(["report", str(run), "-o", str(stays / "page.html"), "-q"]) == 0
    assert "jaccard_samples" in (stays / "page.html").read_text()


def test_compounds(data_root, tmp_path, capsys):
    (tmp_path / "tox21").mkdir()
    with gzip.open(data_root / "tox21" / "tox21.csv.gz", "rt") as handle:
        lines = handle.readlines()[:1201]
    (tmp_path / "tox21" / "tox21.csv.gz").write_bytes(gzip.compress("".join(lines).encode()))
    scores = _train("tox21", tmp_path, capsys, "features.types.smiles={type: ngrams, most: 200}")
    assert len(scores) == 12
    table = pd.read_csv(tmp_path / "tox21" / "tox21.csv.gz")
    parts = pd.read_parquet(tmp_path / "run" / "splits.parquet")["part"].to_numpy()
    assert not set(table["smiles"][parts == "train"]) & set(table["smiles"][parts == "test"])
    tasks = json.loads((tmp_path / "run" / "tasks.json").read_text())
    for name, task in tasks.items():
        labels = sum(split["labels"] for split in task["splits"].values())
        assert labels == table[name].notna().sum(), name
    table[["smiles"]].head(20).to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]) == 0
    assert np.isfinite(pd.read_csv(tmp_path / "out.csv")["NR-AR__prob"]).all()


def test_intensive_care(data_root, tmp_path, capsys):
    (tmp_path / "mimic3_demo").symlink_to(data_root / "mimic3_demo")
    scores = _train("mimic3_demo", tmp_path, capsys)
    assert set(scores) == {"diagnosis", "symptoms", "died", "stay", "medication"}
    tasks = json.loads((tmp_path / "run" / "tasks.json").read_text())
    assert sum(s["labels"] for s in tasks["medication"]["splits"].values()) == 122 * 10
