"""Pictures with boxes through the command line: from Pascal VOC files, a quarter of them missing, to boxes as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from manyheads.cli import main
from manyheads.metrics.boxes import iou

CONFIG = {
    "schema_version": 1,
    "data": {
        "train": "sky",
        "format": {"name": "pictures", "images": "images", "boxes": "boxes", "pattern": "(?P<kind>[a-z]+)_[0-9]+"},
        "split": {"kind": "random", "sizes": [0.7, 0.15, 0.15]},
    },
    "features": {"only": ["image"], "types": {"image": {"type": "image", "size": 32}}},
    "tasks": {
        "kind": {"type": "binary"},
        "disc": {
            "type": "detection",
            "target": "boxes",
            "attach": [1, 2],
            "d_head": 24,
        },
    },
    "model": {"encoder": {"name": "image", "width": 12, "n_stages": 3}},
    "optim": {"lr": 0.01},
    "sampling": {"batch_size": 8, "augment": ["flip", "crop", "colour"]},
    "trainer": {"max_epochs": 14, "patience": None},
}


def _xml(name, boxes):
    things = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1, label in boxes
    )
    return f"<annotation><filename>{name}</filename>{things}</annotation>"


@pytest.fixture
def sky(tmp_path, monkeypatch):
    """100 pictures of unequal size: a red disc (sun) or a blue one (moon), or none; a quarter has no file of boxes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for place in ("images", "boxes"):
        (tmp_path / "sky" / place).mkdir(parents=True)
    truth = {}
    for i in range(100):
        h, w = rng.integers(40, 90, 2)
        y, x = np.mgrid[0:h, 0:w] + 0.5
        r = rng.uniform(6, 12)
        cy, cx = rng.uniform(r, h - r), rng.uniform(r, w - r)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < r * r
        picture = rng.integers(60, 120, (h, w, 3))
        name, boxes = f"{'sun' if i % 2 else 'moon'}_{i}", []
        if i % 10 != 7:
            picture[disc, 0 if i % 2 else 2] = 230
            down, across = np.flatnonzero(disc.any(1)), np.flatnonzero(disc.any(0))
            corners = [across[0], down[0], across[-1] + 1, down[-1] + 1]
            boxes = [[*map(int, corners), "sun" if i % 2 else "moon"]]
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "sky" / "images" / f"{name}.png")
        truth[name] = boxes
        if i % 8 not in (0, 5):
            (tmp_path / "sky" / "boxes" / f"{name}.xml").write_text(_xml(name, boxes), encoding="utf-8")
    _write(CONFIG)
    return truth


def _write(config):
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def _said(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_pascal_files_to_boxes_in_pixels(sky, capsys):
    assert main(["check", "-c", "run.yaml", "-q"]) == 0
    capsys.readouterr()
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json", "-q"]) == 0
    scores = _said(capsys)["scores"]["test"]["disc"]
    print(scores)
    print(Path("run/log.txt").read_text()[-3000:])
    assert scores["average_precision_50"]["value"] > 0.6
    assert scores["average_precision_50"]["interval"][0] < scores["average_precision_50"]["value"]
    assert 0 < scores["average_precision_50_95"]["value"] < scores["average_precision_50"]["value"]
    assert scores["average_precision_50"]["labels"] < 15  # some of the 15 pictures have no file
    told = json.loads(Path("run/tasks.json").read_text(encoding="utf-8"))["disc"]["splits"]["train"]
    assert (told["rows"], told["labels"]) == (70, round(70 * told["coverage"]))
    assert 0.6 < told["coverage"] < 0.9

    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count('<figure class="example">') == 4
    assert "disc: predicted" in page
    assert main(["predict", "run", "sky", "-o", "out.csv", "--files", "boxes", "--keep-columns", "image", "-q"]) == 0
    said = pd.read_csv("out.csv")
    for path, cell in zip(said["image"], said["disc"], strict=True):
        file = json.loads(Path(f"boxes/disc/{Path(path).stem}.json").read_text(encoding="utf-8"))
        flat = [[*(round(v, 2) for v in b["box"]), b["class"], round(b["score"], 4)] for b in file]
        assert flat == json.loads(cell)
    assert set(said.columns) == {"image", "kind", "kind__prob", "disc", "disc__count"}
    hits, best = [], []
    for path, cell, count in zip(said["image"], said["disc"], said["disc__count"], strict=True):
        found, true = json.loads(cell), sky[Path(path).stem]
        assert len(found) == count
        with Image.open(path) as picture:
            width, height = picture.size
        assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1, *_ in found)
        assert [b[5] for b in found] == sorted((b[5] for b in found), reverse=True)
        best.append((bool(true), found[0][5] if found else 0.0))
        if true and found:
            hits.append(iou([found[0][:4]], [true[0][:4]])[0, 0] > 0.5 and found[0][4] == true[0][4])
    assert np.mean(hits) > 0.75
    assert np.mean([s for there, s in best if there]) > 2 * np.mean([s for there, s in best if not there])

    assert main(["evaluate", "run", "sky", "--json", "-q"]) == 0
    again = _said(capsys)["scores"]["disc"]["average_precision_50"]
    assert again["labels"] == 75
    assert main(["predict", "run", "sky", "-o", "one.jsonl", "--tasks", "disc", "-q"]) == 0
    line = json.loads(Path("one.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(line) == {"image", "disc", "disc__count"}


def test_members_with_boxes(sky, capsys):
    _write(CONFIG | {"model": {"members": 2, "encoder": {"name": "image", "width": 4, "n_stages": 3}}})
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "trainer.max_epochs=1"]) == 0
    assert main(["predict", "run", "sky", "-o", "out.csv", "-q"]) == 0
    assert len(pd.read_csv("out.csv")) == 100


def test_a_box_outside_its_picture_is_named(sky, capsys):
    name = next(n for n, boxes in sky.items() if boxes and Path(f"sky/boxes/{n}.xml").exists())
    Path(f"sky/boxes/{name}.xml").write_text(_xml(name, [[500, 500, 510, 520, "sun"]]), encoding="utf-8")
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 3
    assert f"{name}.xml" in capsys.readouterr().err
