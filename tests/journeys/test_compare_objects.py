"""Should tags, masks, boxes, texts and sound share a model? The comparison from a table to the page, every type."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import run

import manyheads as mh
from manyheads.ragged import objects
from manyheads.tasks.relation import Relation
from manyheads.tasks.speech import Reconstruction, Transcription
from manyheads.tasks.text import Tagging

SMALL = {"max_epochs": 3, "members": 1, "random_state": 0, "batch_size": 16, "lr": 0.02}


def _sentences(n, seed=0):
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        who, place = rng.choice(["anna", "bob", "carl", "dora"]), rng.choice(["oslo", "rome", "kyiv"])
        mood = rng.choice(["good", "bad"])
        there = rng.random() < 0.5
        words = [who, "lives", "in", place, mood] if there else [mood, who, "walks"]
        tags = ["B-PER", "O", "O", "B-LOC", "O"] if there else ["O", "B-PER", "O"]
        rows.append((words, tags, [{"head": 0, "tail": 1, "type": "lives"}] if there else [], mood))
    words, tags, links, mood = zip(*rows, strict=True)
    frame = pd.DataFrame({"words": objects(words), "ner": objects(tags), "spans": objects(tags), "mood": mood})
    return frame.assign(links=objects(links))


def _pictures(n, seed=0):
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        picture, mask = rng.integers(0, 60, (16, 16)).astype(np.uint8), np.zeros((16, 16), np.uint8)
        (x, y), (w, h), light = rng.integers(0, 9, 2), rng.integers(4, 7, 2), int(rng.integers(0, 2))
        picture[y : y + h, x : x + w], mask[y : y + h, x : x + w] = 140 + 100 * light, 1 + light
        box = [int(x), int(y), int(x + w), int(y + h), ["dark", "light"][light]]
        rows.append((picture, mask, [box], x < 4, y < 4, light))
    photo, mask, boxes, left, top, light = zip(*rows, strict=True)
    frame = pd.DataFrame({"photo": objects(photo), "mask": objects(mask), "boxes": objects(boxes), "light": light})
    return frame.assign(left=np.array(left, int), top=np.array(top, int))


def _sounds(n, seed=0, rate=1000):
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        said, high = rng.choice(["la", "lo"], rng.integers(1, 3)), int(rng.integers(0, 2))
        t = np.arange(100) / rate
        tones = [0.3 * np.sin(2 * np.pi * (100 if v == "la" else 220) * (1 + 0.3 * high) * t) for v in said]
        clean = np.concatenate([np.append(tone, np.zeros(40)) for tone in tones])
        rows.append(((clean + 0.1 * rng.normal(size=len(clean))).clip(-1, 1), clean, " ".join(said), high))
    heard, clean, said, high = zip(*rows, strict=True)
    return pd.DataFrame({"heard": objects(heard), "clean": objects(clean), "said": said, "high": high})


def _texts():
    tasks = [Tagging("ner"), Relation("facts", target=("spans", "links")), mh.Multiclass("mood")]
    encoder = {"name": "text", "d_word": 8, "d_parts": 0, "d_hidden": 12}
    return _sentences(70), tasks, {"types": {"words": {"type": "text"}}, "encoder": encoder}


def _views():
    tasks = [
        mh.Segmentation("mask", attach=[0, 1], d_head=8),
        mh.Detection("boxes", attach=[0, 1], d_head=8),
        mh.Multilabel("where", target=("left", "top")),
        mh.Binary("light"),
    ]
    return (
        _pictures(70),
        tasks,
        {"types": {"photo": {"type": "image", "size": 16}}, "encoder": {"name": "image", "width": 4}},
    )


def _voices():
    tasks = [Transcription("said"), Reconstruction("clean", rate=1000, d_head=8), mh.Binary("high")]
    encoder = {"name": "audio", "d_hidden": 8, "bands": 8}
    return _sounds(60), tasks, {"types": {"heard": {"type": "audio", "rate": 1000}}, "encoder": encoder}


@pytest.mark.parametrize("given", [False, True], ids=["re-drawn", "given"])
@pytest.mark.parametrize("make", [_texts, _views, _voices], ids=["texts", "pictures", "sound"])
def test_every_type_is_compared(make, given, tmp_path):
    table, tasks, settings = make()
    if given:
        table["part"] = np.random.default_rng(1).choice(["train", "valid", "test"], len(table), p=[0.5, 0.2, 0.3])
        settings["split"] = {"kind": "column", "by": "part"}
    else:
        settings["split"] = {"sizes": [0.6, 0.2, 0.2]}
    table.loc[table.index[:4], tasks[0].targets[0]] = None  # unknown stays unknown
    learner = mh.Learner(tasks, **SMALL, **settings)
    found = learner.compare(table, repeats=2, n_jobs=1)
    assert set(found.tasks) == {t.name for t in tasks}
    for name, task in found.tasks.items():
        assert None not in (task.joint, task.single, task.constant, task.delta), name
        assert task.verdict in ("helps", "hurts", "undecided")
        assert task.why
        assert task.linear is None, "there is no number to read"
        assert task.boosting is None
        if task.constant < 1:
            assert task.skills["constant"] == pytest.approx(0)
            assert {"joint", "single"} <= set(task.skills)
    assert "There is no linear and no boosting for" in found.protocol
    assert "stopped on validation" in found.protocol
    page = learner.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in found.tasks)
    assert "Skill of every method" in page
    again = type(found).model_validate_json(found.model_dump_json())
    assert again == found


def test_the_command_compares_tags_and_classes_and_reports_their_parts(tmp_path, capsys):
    frame = _sentences(80)
    frame.assign(words=frame.words.map(" ".join), ner=frame.ner.map(" ".join))[["words", "ner", "mood"]].to_csv(
        tmp_path / "t.csv", index=False
    )
    config = {
        "schema_version": 1,
        "data": {"train": str(tmp_path / "t.csv"), "split": {"sizes": [0.6, 0.2, 0.2]}},
        "features": {"types": {"words": {"type": "text", "split": "spaces"}}},
        "tasks": {"ner": {"type": "tagging"}, "mood": {"type": "multiclass"}},
        "model": {"encoder": {"name": "text", "d_word": 8, "d_parts": 0, "d_hidden": 12}, "members": 1},
        "optim": {"lr": 0.02},
        "trainer": {"max_epochs": 6},
        "sampling": {"batch_size": 16},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    said = run(capsys, "compare", "-c", str(path), "-o", str(tmp_path / "evidence"), "--repeats", "2")
    assert set(said["tasks"]) == {"ner", "mood"}
    assert said["tasks"]["ner"]["metric"] == "entity_f1"
    assert said["tasks"]["ner"]["linear"] is None
    trained = run(capsys, "train", "-c", str(path), "-o", str(tmp_path / "run"))
    parts = trained["scores"]["test"]["ner"]["entity_f1"]["parts"]
    assert set(parts) == {"LOC", "PER"}
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    (test,) = (s for s in report["scores"] if s["split"] == "test")
    (score,) = (s for s in test["scores"] if s["metric"] == "entity_f1")
    assert {p["name"]: p["value"] for p in score["parts"]} == parts
    assert sum(p["cases"] for p in score["parts"]) == score["parts"][0]["labels"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "part by part" in page
