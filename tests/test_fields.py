"""The benchmark over five fields: pages say what its figures say, simple models count as said, its cache is kept."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from manyheads import config, metrics
from manyheads.metrics.boxes import Boxes
from manyheads.ragged import Ragged, objects
from manyheads.tasks.classification import Binary, Multiclass, Multilabel
from manyheads.tasks.dense import Segmentation
from manyheads.tasks.detection import Detection
from manyheads.tasks.regression import Regression
from manyheads.tasks.relation import Relation
from manyheads.tasks.speech import Reconstruction, Transcription
from manyheads.tasks.text import Tagging

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fields(monkeypatch):
    """The benchmark, importable as from the repository's folder."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.fields")


@pytest.fixture
def simple(fields):
    return importlib.import_module("benchmarks.simple")


def rows(simple, truth, known=None, frame=None, **inputs):
    """Labelled rows of made values."""
    n = len(truth)
    known = torch.ones(n, dtype=torch.bool) if known is None else torch.as_tensor(known)
    frame = pd.DataFrame(index=range(n)) if frame is None else frame
    return simple.Labelled(frame, inputs, None, known, truth, {})


# -- pages


def test_every_recipe_has_a_place_on_its_page_and_every_place_a_recipe(fields):
    for page in fields.PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        places = [line.split()[2] for line in text.splitlines() if line.startswith("<!-- results: ")]
        assert text.count("<!-- end -->") == len(places) == len(set(places))
        assert set(places) == {name for name, recipe in fields.RECIPES.items() if recipe.page == page}
        assert f"docs/{page}.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pages_say_what_the_figures_say(fields):
    found = json.loads(fields.FIGURES.read_text(encoding="utf-8"))["recipes"]
    for page in fields.PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert fields.with_results(text, found) == text, f"Run `python -m benchmarks.fields --markdown` ({page}.md)."


def test_every_recipe_that_is_named_exists_and_is_read(fields):
    for name in fields.RECIPES:
        spec = config.load([ROOT / "recipes" / f"{name}.yaml"], ["data.root=.", *fields.RECIPES[name].changes])
        assert config.tasks_of(spec)


def test_the_figures_are_of_the_recipes_tasks(fields):
    for name, entry in json.loads(fields.FIGURES.read_text(encoding="utf-8"))["recipes"].items():
        tasks = config.tasks_of(config.load([ROOT / "recipes" / f"{name}.yaml"], ["data.root=."]))
        assert entry["metrics"] == {t.name: t.metrics[0] for t in tasks}
        assert set(entry["methods"]) == {"joint", "single", *fields.RECIPES[name].beside}
        for method in entry["methods"].values():
            assert {len(v) for v in method["values"].values()} == {entry["repeats"]}


# -- verdicts


def entry(joint, single, tests=None, **more):
    """Figures of one task with an accuracy, as a random split gives them, or a given one with these tests."""
    methods = {
        "joint": {"values": {"a": joint}, "seconds": 3.0, "parameters": 12},
        "single": {"values": {"a": single}, "seconds": 150.0, "parameters": 2_400_000},
        "constant": {"values": {"a": [0.5] * len(joint)}, "seconds": 0.0},
        "linear": {"values": {"a": [0.9] * len(joint)}, "seconds": 0.0},
        "boosting": {"values": {"a": [None] * len(joint)}, "seconds": 0.0},
    }
    found = {"fixed": tests is not None, "repeats": len(joint), "changes": [], "metrics": {"a": "accuracy"},
             "labels": {"a": 9}, "methods": methods} | more  # fmt: skip
    return found | ({"ratio": {"a": 0.25}} if tests is None else {"tests": tests})


def test_words_come_from_intervals(fields):
    up = fields.table("hillstrom_esmm", entry([0.8, 0.81, 0.82], [0.7, 0.709, 0.72]))
    assert "| `a` | accuracy | 0.500 | 0.900 | - | 0.710 | 0.810 | +14.1 % [+13.9, +14.4] | helped |" in up
    assert "Sharing helped `a`. The mean change over tasks is +14.1 % [+13.9, +14.4], above noise." in up
    assert "A linear model has the better mean on `a` (0.900 against 0.810); not tested." in up
    assert "takes 3 s of one thread and has 12 parameters; 1 single-task model together: 2 min and 2.4 million." in up
    down = fields.table("hillstrom_esmm", entry([0.7, 0.709, 0.72], [0.8, 0.81, 0.82]))
    assert "| hurt |" in down
    assert "Sharing hurt `a`." in down
    noise = fields.table("hillstrom_esmm", entry([0.8, 0.7, 0.82], [0.7, 0.81, 0.8]))
    assert "Sharing neither helped nor hurt any task beyond noise." in noise
    sure = {"a": [0.1, 0.02, 0.2, 0.01, 9], "": [0.1, 0.02, 0.2, 0.01, 9]}
    given = fields.table("hillstrom_esmm", entry([0.8] * 3, [0.7] * 3, sure))
    assert "+10.0 % [+2.0, +20.0] | helped |" in given
    assert "3 seeds on the given split" in given


def test_where_the_split_is_given_rows_and_seeds_are_drawn(fields):
    rng = np.random.default_rng(1)
    right = rng.random((2, 3, 400)) < np.array([0.8, 0.7])[:, None, None]  # joint and single, three seeds, 400 rows
    y, accuracy = np.ones(400), metrics.find("accuracy")
    cells = {}
    for i, side in enumerate(("joint", "single")):
        cells[side] = []
        for own in right[i]:
            said = metrics.Predicted(own.astype(float))
            draws = [float(v) for v in metrics.redraws(accuracy, y, said)]
            value = accuracy(y, said).value
            cells[side].append({"values": {"a": value}, "value": value, "draws": {"a": draws} if not i else draws})
    found = fields._tests(cells["joint"], {"a": cells["single"]}, {"a": "accuracy"})
    base = right[1].mean()
    seeds = (right[0].mean(1) - right[1].mean(1)) / base
    assert found["a"].mean == pytest.approx(seeds.mean())
    assert found[""][:3] == pytest.approx(found["a"][:3])
    over_rows = (right[0].astype(float) - right[1]).mean(0).std() / base / 400**0.5
    expected = (over_rows**2 + seeds.var(ddof=1) / 3) ** 0.5
    assert (found["a"].high - found["a"].low) / 3.92 == pytest.approx(expected, rel=0.1)


def test_a_recipe_with_a_cell_missing_has_no_figures(fields, tmp_path):
    cells = fields.Cells(None, "full")
    assert fields.figures("snips", cells, 1) is None
    for repeat in range(2):
        cells["snips", "joint", repeat] = {
            "values": {"intent": 0.9}, "draws": {"intent": [0.9] * 1000}, "labels": {"intent": 5}, "ratio": None,
            "metrics": {"intent": "accuracy"}, "seconds": 2.0, "parameters": 3, "epochs": 4.0,
        }  # fmt: skip
        cells["snips", "single", repeat, "intent"] = {
            "value": 0.8 + repeat / 100, "draws": [0.8] * 1000, "seconds": 1.0, "parameters": 3, "epochs": 4.0
        }  # fmt: skip
        cells["snips", "constant", 0, "intent"] = {"value": 0.2, "seconds": 0.0}
    assert fields.figures("snips", cells, 2) is None
    cells["snips", "simple", 0, "intent"] = {"value": 0.5, "seconds": 0.5}
    found = fields.figures("snips", cells, 3)
    assert found["repeats"] == 2  # the third is not there
    assert found["methods"]["simple"]["values"] == {"intent": [0.5, 0.5]}
    assert found["methods"]["joint"]["seconds"] == 2.0
    assert fields.judged(found).tasks["intent"].delta == pytest.approx((0.9 - 0.805) / 0.805, rel=1e-3)


def test_a_single_repeat_is_said_plainly(fields):
    (split,) = [fields.table("hillstrom_esmm", entry([0.8], [0.7]) | {"rows": 2000, "changes": ["model.members=1"]})]
    assert "| 0.800 | +14.3 % | not judged |" in split
    assert "noise" not in split
    assert "1 re-drawn split; intervals of the corrected resampled t" in split
    assert "One split has no spread to judge by: what sharing does is not judged." in split
    assert split.endswith("not the recipe's own: `model.members=1`, at most 2,000 training rows.")
    sure = {"a": [0.1, 0.02, 0.2, 0.01, 9], "": [0.1, 0.02, 0.2, 0.01, 9]}
    assert "1 seed on the given split" in fields.table("hillstrom_esmm", entry([0.8], [0.7], sure))


def test_training_rows_at_most(fields, monkeypatch):
    with fields.made() as root:
        recipe = fields.RECIPES["hillstrom_esmm"]._replace(rows=50)
        monkeypatch.setitem(fields.RECIPES, "hillstrom_esmm", recipe)
        run = fields.Run("hillstrom_esmm", root, fields.Cells(None, "full"), fields.QUICK["hillstrom_esmm"])
        rows = {part: sum(map(len, own.values())) for part, own in run.prepared(0).tasksets.items()}
        assert rows == {"train": 50, "valid": 0, "test": 90}


# -- simple models


def test_runs_of_characters_tell_compounds(simple):
    task = Binary("toxic")
    formulas = ["CCO", "CCN", "COC", "CCCl", "ClCC", "CCl"] * 5
    learn = rows(simple, np.array([0, 0, 0, 1, 1, 1] * 5), frame=pd.DataFrame({"smiles": formulas}))
    assert simple.measured(task, learn, simple.simple("formulas")(task)(task, learn, 0)(learn)).value == 1.0


def test_the_most_frequent_tag_of_each_word(simple):
    task = Tagging("pos", scheme="none", tags=("N", "V", "D"))
    frame = pd.DataFrame({"tokens": [["the", "run"], ["dogs", "run"], ["a", "Run"], ["cats"]]})
    truth = objects([["D", "N"], ["N", "V"], ["D", "V"], ["N"]])
    learn = rows(simple, truth, frame=frame, **{"text:tokens": torch.zeros(4)})
    model = simple.simple("text")(task)(task, learn, 0)
    new = pd.DataFrame({"tokens": ["The RUN zebra"]})
    assert list(model(rows(simple, objects([[]]), frame=new, **{"text:tokens": torch.zeros(1)})).value) == [
        ["D", "V", "N"]
    ]


def test_relations_by_the_types_of_their_ends(simple):
    task = Relation("r", target=("tags", "relations"))
    frame = pd.DataFrame({"tokens": [["Ann", "Rome"], ["Bob", "Rome"], ["Ann", "Bob"]]})
    tags = [["B-Per", "B-Loc"], ["B-Per", "B-Loc"], ["B-Per", "B-Per"]]
    held = [[(0, 1, "Live")], [(0, 1, "Live")], []]
    truth = objects([{"tags": t, "relations": r} for t, r in zip(tags, held, strict=True)])
    inputs = {"text:tokens": torch.zeros(3)}
    model = simple.simple("text")(task)(task, rows(simple, truth, frame=frame, **inputs), 0)
    said = model(rows(simple, truth, frame=frame.assign(tokens=[["Rome", "Ann"]] * 3), **inputs)).value
    assert said[0] == {"tags": ["B-Loc", "B-Per"], "relations": [(1, 0, "Live")]}
    assert metrics.find("relation_f1")(truth, model(rows(simple, truth, frame=frame, **inputs))).value == 1.0


def test_words_tell_classes(simple):
    task = Multiclass("c", classes=("x", "y", "z"))
    texts = ["good film", "bad film", "so so"] * 10
    learn = rows(simple, np.array([0, 1, 2] * 10), frame=pd.DataFrame({"t": texts}), **{"text:t": torch.zeros(30)})
    said = simple.simple("text")(task)(task, learn, 0)(learn)
    assert simple.measured(task, learn, said).value == 1.0
    assert np.asarray(said.proba).shape == (30, 3)


def test_the_majority_class_of_each_pixel(simple):
    task = Segmentation("m", names=("a", "b"), size=(1, 3))
    masks = [np.array([[0, 1, 255]], np.uint8), np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 255]], np.uint8)]
    learn = rows(simple, objects(masks))
    said = simple.simple("pictures")(task)(task, learn, 0)(learn).value
    assert [m.tolist() for m in said] == [[[0, 1, 0]]] * 3


def test_the_mean_box_of_each_class(simple):
    task = Detection("d", names=("cat", "dog"))
    several = Boxes(np.array([[2.0, 2, 6, 6], [0, 0, 1, 1]]), np.array([0, 1]))
    truth = objects([Boxes(np.array([[0.0, 0, 4, 4]]), np.array([0])), several])
    (said, _) = simple.simple("pictures")(task)(task, rows(simple, truth), 0)(rows(simple, truth)).value
    assert said.corners.tolist() == [[1, 1, 5, 5], [0, 0, 1, 1]]
    assert said.classes.tolist() == [0, 1]
    assert said.scores.tolist() == [1.0, 0.5]


def test_small_pictures_and_several_labels(simple):
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, 60)
    pictures = (rng.integers(0, 60, (60, 3, 24, 24)) + 150 * bright[:, None, None, None]).astype(np.uint8)
    known = np.stack([np.ones(60, bool), rng.random(60) < 0.5], 1)
    task = Multilabel("l", target=("p", "q"))
    learn = rows(simple, np.stack([bright, 1 - bright], 1), known, **{"image:picture": pictures})
    assert simple.measured(task, learn, simple.simple("pictures")(task)(task, learn, 0)(learn)).value == 1.0


def test_a_spectrum_tells_speakers_and_noise_gains_nothing(simple):
    time = torch.arange(800) / 8000
    waves = [(8000 * torch.sin(2 * torch.pi * f * time[:n])).to(torch.int16) for f, n in [(300, 700), (900, 500)] * 8]
    recordings = Ragged.of(waves)
    learn = rows(simple, np.array([0, 1] * 8), **{"audio:audio": recordings})
    task = Binary("who", metrics=["accuracy"])
    assert simple.measured(task, learn, simple.simple("sound")(task)(task, learn, 0)(learn)).value == 1.0
    clean = Reconstruction("clean")
    generator = torch.Generator().manual_seed(0)
    truth = objects([(w.float() + 999 * torch.randn(len(w), generator=generator)).numpy() / 32768 for w in waves])
    heard = rows(simple, truth, **{"audio:audio": recordings})
    assert simple.measured(clean, heard, simple.simple("sound")(clean)(clean, heard, 0)(heard)).value == 0.0
    assert simple.simple("sound")(Transcription("words")) is None


def test_biases_of_users_and_films(simple):
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 20, 4000), rng.integers(0, 30, 4000)], 1)
    true = rng.normal(size=20)[codes[:, 0]] + rng.normal(size=30)[codes[:, 1]] + 3
    learn = rows(simple, true + 0.1 * rng.normal(size=4000), categorical=torch.from_numpy(codes))
    task = Regression("stars", metrics=["r2"])
    assert simple.measured(task, learn, simple.simple("ratings")(task)(task, learn, 0)(learn)).value > 0.99
    yes = Binary("like")
    liked = rows(simple, (true > 3).astype(int), categorical=torch.from_numpy(codes))
    said = simple.simple("ratings")(yes)(yes, liked, 0)(liked)
    assert simple.measured(yes, liked, said).value > 0.97
    assert 0 <= np.min(said.proba) <= np.max(said.proba) <= 1


def test_labelled_rows_are_those_of_the_users_table(fields, simple, tmp_path):
    with fields.made() as root:
        run = fields.Run("snips", root, fields.Cells(None, "full"), fields.QUICK["snips"])
        data = run.prepared(0)
        for task in data.tasks:
            both = simple.labelled(data, run.intake.tables, task, ("train", "valid"))
            assert len(both) == 80
            if task.name == "slots":
                assert [list(cell) for cell in both.frame["slots"]] == list(both.truth)
            else:
                assert [task.classes[i] for i in both.truth] == list(both.frame["intent"])


# -- the command


def test_a_cache_is_taken_up(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    cells = tmp_path / "cells.json"
    command = [sys.executable, "-m", "benchmarks.fields", "--quick", "--cache", str(cells)]

    def run():
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1]), done.stderr

    first, progress = run()
    assert "snips, single, repeat 1: slots" in progress
    kept = json.loads(cells.read_text())
    del kept["quick/snips/single/1/slots"]
    cells.write_text(json.dumps(kept))
    again, progress = run()
    assert [line.split(", ")[:3] for line in progress.splitlines()] == [["snips", "single", "repeat 1: slots"]]
    pairs = zip(first["results"], again["results"], strict=True)
    assert all(a == b for a, b in pairs if "metric" in a)
