"""Shops and films through the command line: recipe, train, report, predict, on slices of real data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from manyheads.cli import main

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ["model.members=1", "model.encoder.d_hidden=16"]


def _json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _train(name, folder, capsys, *more, run="run"):
    words = ["train", "-c", str(RECIPES / f"{name}.yaml"), "-o", str(folder / run), "--json", f"data.root={folder}"]
    assert main([*words, *QUICK, *more]) == 0
    return _json(capsys)["scores"]["test"]


@pytest.fixture
def films(data_root, tmp_path):
    """The ratings of 80 people."""
    folder = tmp_path / "movielens_small"
    folder.mkdir()
    for name in ("movies.csv", "tags.csv"):
        shutil.copy(data_root / "movielens_small" / name, folder / name)
    ratings = (data_root / "movielens_small" / "ratings.csv").read_text().splitlines()
    chosen = [line for line in ratings if int(line.split(",")[0]) <= 80]
    (folder / "ratings.csv").write_text("\n".join(chosen) + "\n")
    return tmp_path


def test_films(films, capsys):
    scores = _train("movielens", films, capsys, "trainer.max_epochs=8")
    assert list(scores["rating"]) == ["root_mean_squared_error", "r2"]
    assert scores["rating"]["r2"]["value"] > 0.05
    assert scores["like"]["gauc:user"]["value"] > 0.55
    new = pd.DataFrame({"user": [1, 1, 999_999], "movie": [1, 2, 3], "rated_at": "2014-01-01", "released": 1995.0})
    sample = pd.read_csv(films / "movielens_small" / "movies.csv", header=None)
    genres = sorted({g for text in sample[2] for g in text.split("|")} - {"(no genres listed)"})
    new.assign(**dict.fromkeys([f"genre_{g}" for g in genres], 0)).to_csv(films / "new.csv", index=False)
    words = ["predict", str(films / "run"), str(films / "new.csv"), "-o", str(films / "out.csv")]
    assert main([*words, "--keep-columns", "user,movie", "--format", "derived"]) == 0
    found = pd.read_csv(films / "out.csv")
    assert found["user"].tolist() == [1, 1, 999_999]
    assert found["rating"].between(0, 6).all()
    assert found["like__prob"].between(0, 1).all()  # by which films are put in order
    assert set(found.columns) == {"user", "movie", "rating", "like", "like__prob", "tagged", "tagged__prob"}
    assert not (films / "run" / "examples.json").exists()  # nothing but numbers and classes
    assert main(["report", str(films / "run"), "-o", str(films / "page.html"), "-q"]) == 0
    assert "gauc:user" in (films / "page.html").read_text()


def test_what_people_say_later(films, capsys):
    more = ["data.format.latest=0.2", "data.split={kind: column, by: part, sizes: [0.8, 0, 0.2]}"]
    scores = _train("movielens", films, capsys, "trainer.max_epochs=1", *more)
    ratings = pd.read_csv(films / "movielens_small" / "ratings.csv", header=None)
    later = sum(int(0.2 * n + 1e-9) for n in ratings.groupby(0).size())
    assert scores["rating"]["r2"]["labels"] == later


@pytest.mark.parametrize("recipe", ["hillstrom", "hillstrom_esmm"])
def test_a_funnel(data_root, tmp_path, capsys, recipe):
    (tmp_path / "hillstrom").mkdir()
    table = pd.read_csv(data_root / "hillstrom" / "hillstrom.csv")
    slice_ = pd.concat([table[table["visit"] == 1].head(2500), table[table["visit"] == 0].head(1500)])
    slice_.sample(frac=1, random_state=0).to_csv(tmp_path / "hillstrom" / "hillstrom.csv", index=False)
    _train(recipe, tmp_path, capsys, "trainer.max_epochs=2")
    tasks = json.loads((tmp_path / "run" / "tasks.json").read_text())
    labels = {name: sum(s["labels"] for s in task["splits"].values()) for name, task in tasks.items()}
    assert labels["visit"] == 4000
    assert labels["conversion"] == (2500 if recipe == "hillstrom" else 4000)
    assert labels["spend"] == slice_["conversion"].sum()
    slice_.drop(columns=["visit", "conversion", "spend"]).to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]) == 0
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["spend"].ge(0).all()
    if recipe == "hillstrom_esmm":  # a purchase is a visit first
        assert (found["conversion__prob"] <= found["visit__prob"]).all()


def test_visits_to_a_shop(data_root, tmp_path, capsys):
    folder = tmp_path / "online_shoppers"
    folder.mkdir()
    lines = (data_root / "online_shoppers" / "online_shoppers_intention.csv").read_text().splitlines()
    (folder / "online_shoppers_intention.csv").write_text("\n".join(lines[:3001]) + "\n")
    scores = _train("online_shoppers", tmp_path, capsys, "trainer.max_epochs=6")
    assert scores["dwell"]["r2_log1p"]["value"] > 0.2
    assert set(scores) == {"purchase", "dwell", "bounced"}
    words = ["predict", str(tmp_path / "run"), str(folder / "online_shoppers_intention.csv")]
    assert main([*words, "-o", str(tmp_path / "out.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "out.csv")) == 3000
