"""Copies of one model, fine-tuned apart and merged, on real pictures of clothes."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from manyheads.cli import main

DATA = Path(os.environ.get("MANYHEADS_DATA", "-")) / "fashion_mnist_t10k"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="MANYHEADS_DATA is not set")
TOLERANCE = 0.03
"""By how much the area under the curve of a task may fall when two fine-tuned copies are merged."""
CONFIG = """
schema_version: 1
data: {train: base.csv}
tasks: {shoe: {type: binary}}
model: {members: 2, encoder: {name: tabular, d_hidden: 32}}
trainer: {max_epochs: 8}
"""
SHOES, TOPS, OUTER = (5, 7, 9), (0, 2, 3, 4, 6), (2, 4)
"""Sandals, sneakers, boots; all that covers the upper body; pullovers and coats among it."""


def _pictures():
    """1,800 pictures as 7 x 7 mean grey values, and their classes."""
    with gzip.open(DATA / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:1800]
    with gzip.open(DATA / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)[:1800]
    coarse = pixels.reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(len(pixels), -1) / 255
    return pd.DataFrame(coarse.round(3), columns=[f"p{i}" for i in range(49)]), labels


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A model that knows shoes, and two copies of it that were fine-tuned on another task each."""
    folder = tmp_path_factory.mktemp("clothes")
    frame, labels = _pictures()
    frame.assign(shoe=np.isin(labels, SHOES).astype(int)).iloc[:800].to_csv(folder / "base.csv", index=False)
    frame.assign(top=np.isin(labels, TOPS).astype(int)).iloc[800:1300].to_csv(folder / "top.csv", index=False)
    frame.assign(warm=np.isin(labels, OUTER).astype(int)).iloc[1300:].to_csv(folder / "warm.csv", index=False)
    (folder / "run.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
        for task in ("top", "warm"):
            add = ["add-task", "run", "--data", f"{task}.csv", "--task", task, "--type", "binary", "-o", task, "-q"]
            assert main([*add, "--way", "finetune", "--tolerance", "0.05"]) == 0
    return folder


@pytest.fixture
def there(family, monkeypatch):
    monkeypatch.chdir(family)
    return family


def _json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("how", ["average", "arithmetic", "ties", "dare"])
def test_two_fine_tuned_copies_become_one(there, capsys, how):
    more = [] if how == "average" else ["--scale", "0.5"] if how == "arithmetic" else ["--density", "0.5"]
    command = ["merge", "top", "warm", "--how", how, *more, "-o", how, "--tolerance", str(TOLERANCE), "--json"]
    assert main(command) == 0
    said = _json(capsys)
    assert said["tasks"] == ["shoe", "top", "warm"]
    assert said["start"].endswith("run")
    assert min(said["nearness"].values()) > 0.9
    lost = {(k["model"], k["task"]): k["before"] - k["after"] for k in said["kept"]}
    assert set(lost) == {("top", "shoe"), ("top", "top"), ("warm", "shoe"), ("warm", "warm")}
    assert max(lost.values()) <= TOLERANCE
    assert min(k["before"] for k in said["kept"]) > 0.8
    assert any(lost.values())
    assert main(["evaluate", how, "top.csv", "--json"]) == 0
    assert _json(capsys)["scores"]["top"]["roc_auc"]["value"] > 0.8


def test_what_falls_too_far_is_not_written(there, capsys):
    command = ["merge", "top", "warm", "--how", "arithmetic", "--scale", "-30", "-o", "bad"]
    assert main([*command, "--tolerance", "0.01"]) == 5
    assert "fell from" in capsys.readouterr().err
    assert not (there / "bad").exists()


def test_a_model_of_another_start_is_refused(there, capsys):
    assert main(["train", "-c", "run.yaml", "-o", "other", "-q", "--seed", "5", "trainer.max_epochs=1"]) == 0
    capsys.readouterr()
    assert main(["merge", "top", "other", "-o", "no"]) == 2
    assert "of one start" in capsys.readouterr().err
    assert main(["merge", "run", "other", "--how", "ties", "-o", "no"]) == 2
    assert "--base" in capsys.readouterr().err
    assert main(["merge", "run", "other", "--how", "tie", "-o", "no"]) == 2
    assert "Did you mean `ties`?" in capsys.readouterr().err
