"""Recordings through the command line: strings of words in noise, to texts, speakers and sound without the noise."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from manyheads.cli import main
from manyheads.metrics import spoken
from manyheads.metrics.sound import FULL, read_wav, write_wav

RATE = 4000
CONFIG = {
    "schema_version": 1,
    "data": {
        "train": "said",
        "format": {
            "name": "wavs",
            "pattern": "{word}_{speaker}_{index}",
            "valid": {"index": "0-3"},
            "test": {"index": "4-7"},
            "transcript": "word",
            "strings": {"by": "speaker", "n": [1, 3], "passes": 5},
            "noise": ["none", "white", "babble"],
            "snr": [0, 5],
        },
        "split": {"kind": "column", "by": "split"},
    },
    "features": {"only": ["audio"], "types": {"audio": "audio"}},
    "tasks": {
        "words": {"type": "transcription", "target": "transcript"},
        "speaker": {"type": "binary", "attach": [1, 3]},
        "clean": {"type": "reconstruction", "attach": [1, 3], "d_head": 32},
    },
    "model": {"encoder": {"name": "audio", "d_hidden": 32, "bands": 20, "n_layers": 1, "bands_masked": 0}},
    "optim": {"lr": 0.005},
    "sampling": {"batch_size": 8, "augment": [{"name": "noise", "share": 0.2, "snr": [10, 20]}]},
    "trainer": {"max_epochs": 10, "patience": None, "gradient_clip_val": 5},
}
WORDS = {"low": 400, "mid": 800, "high": 1400}


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Words are tones that swell and fade, and the second speaker has a high note in all of them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "said").mkdir()
    for word, hertz in WORDS.items():
        for speaker in ("ann", "bob"):
            for index in range(24):
                n = int(rng.integers(500, 900))
                t = np.arange(n) / RATE
                wave = np.sin(2 * np.pi * hertz * rng.uniform(0.95, 1.05) * t) * np.hanning(n)
                wave = wave if speaker == "ann" else 0.7 * wave + 0.3 * np.sin(2 * np.pi * 1900 * t) * np.hanning(n)
                content = write_wav((0.5 * wave).astype(np.float32), RATE)
                (tmp_path / "said" / f"{word}_{speaker}_{index}.wav").write_bytes(content)
    Path("run.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return tmp_path


def test_from_a_folder_to_texts_and_clean_sound(said, capsys):
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["test"]
    assert scores["words"]["word_error_rate"]["value"] < 0.5
    assert scores["clean"]["si_sdr_gain"]["value"] > 3
    assert scores["speaker"]["roc_auc"]["value"] > 0.8

    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count('<figure class="example">') == 4
    assert page.count("clean: predicted") >= 4
    assert "decibels from the true one" in page

    rng = np.random.default_rng(1)
    (said / "new").mkdir()
    rows = []
    for i, (first, second) in enumerate([("low", "high"), ("high", "mid"), ("mid", "low")]):
        parts = [read_wav(said / "said" / f"{word}_ann_5.wav")[1] / FULL for word in (first, second)]
        clean = np.concatenate(parts)
        noisy = clean + 0.15 * rng.normal(size=len(clean))
        (said / "new" / f"{i}.wav").write_bytes(write_wav((0.9 * noisy).clip(-1, 1), RATE))
        rows.append((f"new/{i}.wav", clean))
    pd.DataFrame({"audio": [path for path, _ in rows]}).to_csv("new.csv", index=False)
    assert main(["predict", "run", "new.csv", "-o", "found.csv", "--files", "made", "--keep-columns", "audio"]) == 0
    found = pd.read_csv("found.csv")
    assert list(found["audio"]) == [path for path, _ in rows]
    assert found["clean__quieter_db"].notna().all()
    assert [path.name for path in (said / "made").iterdir()] == ["clean"]  # what was said fits in a table
    assert set(" ".join(found["words"].astype(str)).split()) <= set(WORDS)
    made = sorted((said / "made").rglob("*.wav"))
    assert len(made) == 3
    for file, (path, clean) in zip(made, rows, strict=True):
        rate, samples = read_wav(file)
        assert rate == RATE
        assert spoken.sdr(samples, clean) > spoken.sdr(read_wav(path)[1], clean) + 1

    (said / "new" / "2.wav").rename(said / "new" / "2.WAV")
    assert (
        main(["predict", "run", "new", "-o", "folder.csv", "--files", "again"]) == 0
    )  # as they are: no noise, no strings
    folder = pd.read_csv("folder.csv")
    assert [Path(path).name for path in folder["audio"]] == ["0.wav", "1.wav", "2.WAV"]
    pd.testing.assert_frame_equal(folder.drop(columns="audio"), found.drop(columns="audio"))
    assert [f.name for f in sorted((said / "again" / "clean").iterdir())] == ["0.wav", "1.wav", "2.wav"]
    assert main(["predict", "run", "new/1.wav", "-o", "one.csv"]) == 0
    assert pd.read_csv("one.csv")["words"].tolist() == found["words"].tolist()[1:2]
    (said / "new" / "2.WAV").rename(said / "new" / "2.wav")

    (said / "new" / "1.wav").write_bytes((said / "new" / "1.wav").read_bytes()[:-99])
    capsys.readouterr()
    assert main(["predict", "run", "new.csv", "-o", "again.csv"]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "new/1.wav" in told
    assert "cut short" in told


@pytest.mark.data
@pytest.mark.skipif("MANYHEADS_DATA" not in os.environ, reason="MANYHEADS_DATA is not set")
def test_a_slice_of_spoken_digits(tmp_path, capsys):
    """Three digits of two speakers: both are learned within seconds."""
    source = Path(os.environ["MANYHEADS_DATA"]) / "fsdd" / "recordings"
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in (1, 6, 9):
        for speaker in ("jackson", "nicolas"):
            for index in range(40):
                shutil.copy(source / f"{digit}_{speaker}_{index}.wav", folder)
    recipe = Path(__file__).parents[2] / "recipes" / "fsdd_digits.yaml"
    changes = [f"data.root={tmp_path}", "trainer.max_epochs=14", "model.encoder.d_hidden=48", "optim.scheduler=null"]
    assert main(["train", "-c", str(recipe), "-o", str(tmp_path / "run"), "--json", "-q", *changes]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["test"]
    assert scores["digit"]["accuracy"]["value"] > 0.6
    assert scores["speaker"]["accuracy"]["value"] > 0.9
