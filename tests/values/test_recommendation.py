"""Recommendation: ratings joined with films and tags against a literal reading, derived labels, products of ids."""

from __future__ import annotations

import csv
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from manyheads.catalog import find
from manyheads.data.assemble import Dataset
from manyheads.data.formats.derived import Derived
from manyheads.data.formats.movielens import MovieLens
from manyheads.data.preprocess import Preprocess
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError, DataError
from manyheads.tasks.regression import Regression

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "laws"))
from samples import lines, movielens  # noqa: E402


def _recipe(name):
    return yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


# -- ratings


def test_ratings_by_hand(tmp_path):
    table = MovieLens().frame(movielens(tmp_path).path)
    assert table["user"].tolist() == [1, 1, 2, 2, 2]
    assert table["like"].tolist() == [1, 0, 1, 0, 0]
    assert table["tagged"].tolist() == [0, 0, 1, 0, 0]
    assert table["genre_War"].tolist() == [1, 1, 1, 0, 1]
    assert table["genre_Comedy"].tolist() == [1, 0, 1, 0, 0]
    assert table["released"].fillna(0).tolist() == [2009, 1999, 2009, 0, 1999]
    assert "genre_(no genres listed)" not in table
    assert MovieLens(like=5).frame(tmp_path / "films")["like"].tolist() == [0, 0, 1, 0, 0]


def test_a_header_makes_no_difference(tmp_path):
    folder = movielens(tmp_path).path
    without = MovieLens().frame(folder)
    for name, header in (("ratings", "userId,movieId,rating,timestamp"), ("movies", "movieId,title,genres")):
        path = folder / f"{name}.csv"
        path.write_text(f"{header}\n{path.read_text()}")
    pd.testing.assert_frame_equal(MovieLens().frame(folder), without)


def test_the_latest_rows_of_each_user_are_the_test(tmp_path):
    folder = movielens(tmp_path).path
    table = MovieLens(latest=0.5).frame(folder)
    assert table["part"].tolist() == ["train", "test", "train", "train", "test"]
    assert "part" not in MovieLens().frame(folder)
    with pytest.raises(ValueError, match="latest"):
        MovieLens(latest=1.0)


def test_ratings_alone_and_what_is_refused(tmp_path):
    path = lines(tmp_path / "ratings.csv", "1,10,4.0,980730861")
    assert list(MovieLens().frame(path).columns) == ["user", "movie", "rated_at", "rating", "like"]
    lines(path, "1,10,4.0,980730861\n1,,4.0,980730862")
    with pytest.raises(DataError, match=r"ratings\.csv, line 2"):
        MovieLens().frame(path)
    with pytest.raises(DataError, match=r"ratings\.csv"):
        MovieLens().frame(tmp_path / "elsewhere")


def test_real_ratings_against_a_literal_reading(data_root):
    folder = data_root / "movielens_small"
    table = MovieLens(latest=0.2).frame(folder)
    rows, films, tags = (
        list(csv.reader((folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()))
        for name in ("ratings", "movies", "tags")
    )
    films = {r[0]: r for r in films}
    tags = {(r[0], r[1]) for r in tags}
    assert len(table) == len(rows) == 100_023
    assert (table["user"].nunique(), table["movie"].nunique()) == (706, 8552)
    genres = [c for c in table.columns if c.startswith("genre_")]
    for i in range(0, len(rows), 997):
        user, movie, rating, stamp = rows[i]
        found = table.loc[i]
        assert (found["user"], found["movie"], found["rating"]) == (int(user), int(movie), float(rating))
        assert found["like"] == (float(rating) >= 4)
        assert found["tagged"] == ((user, movie) in tags)
        assert found["rated_at"] == datetime.fromtimestamp(int(stamp), timezone.utc).replace(tzinfo=None)
        said = set(films[movie][2].split("|")) - {"(no genres listed)"}
        assert {c.removeprefix("genre_") for c in genres if found[c]} == said
    later = table.groupby("user")["rated_at"]
    for user, moments in list(later)[:50]:
        part = table.loc[moments.index, "part"]
        if (part == "train").any() and (part == "test").any():
            assert moments[part == "train"].max() <= moments[part == "test"].min(), user


def test_nothing_is_counted_over_users_or_films(tmp_path):
    """Other people's ratings do not show in a row: what a format reads of one row does not depend on the others."""
    folder = movielens(tmp_path).path
    whole = MovieLens().frame(folder)
    path = folder / "ratings.csv"
    path.write_text("\n".join(path.read_text().splitlines()[2:]) + "\n")
    pd.testing.assert_frame_equal(MovieLens().frame(folder), whole.iloc[2:].reset_index(drop=True))


# -- derived columns


def test_conditions_on_a_table(tmp_path):
    path = lines(tmp_path / "visits.csv", "rate,weekend,month\n0.2,TRUE,Feb\n0,FALSE,\n-,TRUE,May")
    table = Derived(columns={"bounced": "rate > 0", "may": "month == 'May'"}, missing=["-"]).frame(path)
    assert table["bounced"].fillna(-1).tolist() == [1, 0, -1]
    assert table["may"].fillna(-1).tolist() == [0, -1, 1]
    assert table["weekend"].dtype == bool
    assert table["rate"].dtype == np.float64
    with pytest.raises(ConfigError, match=r"`rates`.*Did you mean `rate`"):
        Derived(columns={"bounced": "rates > 0"}).frame(path)
    with pytest.raises(ConfigError, match="name of its own"):
        Derived(columns={"rate": "weekend == true"}).frame(path)
    with pytest.raises(ConfigError, match="where"):
        Derived(columns={"x": "rate >"})


def test_visits_are_read_as_pandas_reads_them(data_root):
    path = data_root / "online_shoppers" / "online_shoppers_intention.csv"
    table = Derived(columns={"bounced": "BounceRates > 0"}).frame(path)
    expected = pd.read_csv(path)
    assert table["bounced"].tolist() == (expected["BounceRates"] > 0).astype(float).tolist()
    pd.testing.assert_frame_equal(table[list(expected.columns)], expected, check_dtype=False)


def test_recipes_leave_out_what_tells_a_label():
    assert "PageValues" not in _recipe("online_shoppers")["features"]["only"]
    told = {"BounceRates", "ExitRates", "ProductRelated_Duration", "Revenue"}
    assert not told & set(_recipe("online_shoppers")["features"]["only"])
    for name in ("hillstrom", "hillstrom_esmm"):
        assert _recipe(name)["features"]["drop"] == ["history_segment"]
    assert _recipe("hillstrom")["tasks"]["conversion"]["where"] == "visit == 1"
    assert "where" not in _recipe("hillstrom_esmm")["tasks"]["conversion"]


# -- ids


def test_thousands_of_numbers_that_name_something(rng):
    users = rng.integers(0, 3000, 20_000)
    made = Preprocess.fit({"t": pd.DataFrame({"user": users})}, {"user": "categorical"})
    counts = np.bincount(users)
    assert made.layouts["t"]["categorical"] == [int((counts >= 3).sum()) + 2]
    codes = made.inputs(pd.DataFrame({"user": [int(counts.argmax()), 999_999, None]}))["categorical"][:, 0]
    assert codes[0] >= 2
    assert codes.tolist()[1:] == [1, 0]  # unknown, missing


def test_a_group_is_read_where_a_type_is_declared():
    table = pd.DataFrame({"user": np.arange(60) % 6, "x": np.linspace(0, 1, 60), "y": np.arange(60) * 7 % 11})
    plain = Dataset.fit({"t": table}, [Regression("y")], keep=["user"])
    assert plain.preprocess.features("t") == ["x"]
    both = Dataset.fit({"t": table}, [Regression("y")], keep=["user"], types={"user": "categorical"})
    assert both.preprocess.features("t") == ["user", "x"]
    assert both.tasksets({"t": table})["t"].extra["user"].tolist() == table["user"].tolist()


def test_products_against_a_double_loop():
    layout = {"numeric": 2, "categorical": [4, 6], "bins": []}
    encoder = find(Encoder, "factorised")({"t": layout}, d_hidden=4, d_embedding=3, start=1.0).eval()
    first = encoder.stages[0]
    x = {"numeric": torch.randn(5, 2), "categorical": torch.tensor([[0, 5], [1, 4], [2, 3], [3, 0], [1, 1]])}
    out = first(x)
    assert out.shape == (5, encoder.widths[0]) == (5, 2 + 3 * 3)
    for row in range(5):
        a, b = x["categorical"][row].tolist()
        vectors = [x["numeric"][row, j] * first.numbers[j] for j in range(2)]
        vectors += [first.values[a], first.values[4 + b]]
        pairs = sum(vectors[i] * vectors[j] for i in range(4) for j in range(i))
        expected = torch.cat([x["numeric"][row], vectors[2], vectors[3], pairs])
        assert torch.allclose(out[row], expected, atol=1e-5)


def test_what_a_factorised_encoder_refuses():
    layouts = {"t": {"numeric": 1, "categorical": [3], "bins": [[0.0, 1.0]]}}
    made = find(Encoder, "factorised")
    for settings, match in [
        ({"d_dropout": 1.0}, "d_dropout"), ({"start": 0.0}, "start"), ({"d_embedding": 0}, "d_embedding"),
        ({"activation": "rleu"}, "activation"), ({"dropout": 1.0}, "dropout"), ({"d_hidden": 0}, "d_hidden"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            made(layouts, **settings)
    with pytest.raises(ValueError, match="column"):
        made({"t": {"numeric": 0, "categorical": []}})
