"""Splits: sizes, strata, groups, time, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

from manyheads.data.splits import Split, split, split_tables
from manyheads.faults import ConfigError, DataError
from manyheads.tasks.classification import Binary, Multiclass
from manyheads.tasks.regression import Regression


def table(n: int = 1000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=n), "y": rng.normal(size=n), "b": (rng.random(n) < 0.03).astype(float)})
    frame["k"] = rng.choice(list("aaaaaabbbc"), n)
    frame.loc[rng.random(n) < 0.4, "b"] = np.nan
    frame.loc[rng.random(n) < 0.7, "y"] = np.nan
    frame["user"] = rng.integers(0, 80, n)
    frame["site"] = rng.integers(0, 3, n)
    frame["t"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 300, n), unit="D")
    return frame


TASKS = (Regression("y"), Binary("b"), Multiclass("k"))


def shares(parts: np.ndarray) -> list[float]:
    return [(parts == p).mean() for p in ("train", "valid", "test")]


@pytest.mark.parametrize("spec", [Split(), Split("stratified"), Split("group", by="user"), Split("time", by="t")])
def test_sizes_are_kept_and_seeds_decide(spec: Split) -> None:
    frame = table()
    parts = split(frame, spec, TASKS)
    tolerance = 0.001 if spec.kind in ("random", "stratified") else 0.02
    assert np.allclose(shares(parts), [0.7, 0.15, 0.15], atol=tolerance)
    assert (parts == split(frame, spec, TASKS)).all()
    other = split(frame, Split(spec.kind, spec.by, seed=1), TASKS)
    assert (parts == other).all() == (spec.kind == "time")


def test_random_gives_exact_counts() -> None:
    assert [(split(table(10), Split(sizes=(8, 1, 1))) == p).sum() for p in ("train", "valid", "test")] == [8, 1, 1]
    assert (split(table(10), Split(sizes=(1, 0, 0))) == "train").all()
    assert [(split(table(3), {"sizes": (0.7, 0.15, 0.15)}) == p).sum() for p in ("train", "valid", "test")] == [2, 1, 0]


def test_stratified_keeps_every_label_of_every_task_in_proportion() -> None:
    frame = table()
    parts = split(frame, Split("stratified", seed=5), TASKS)
    for mask in [
        frame["b"] == 1,
        frame["b"] == 0,
        frame["b"].isna(),
        frame["y"].notna(),
        *(frame["k"] == k for k in "abc"),
    ]:
        n = int(mask.sum())
        assert np.allclose(
            [(mask & (parts == p)).sum() for p in ("train", "valid", "test")], np.array([0.7, 0.15, 0.15]) * n, atol=4
        )
    random = [split(frame, Split(seed=s)) for s in range(20)]

    def spread(found: np.ndarray) -> float:
        return abs(((frame["b"] == 1) & (found == "valid")).sum() - 0.15 * (frame["b"] == 1).sum())

    assert spread(parts) < np.mean([spread(r) for r in random])


def test_stratified_numbers_by_quantile() -> None:
    frame = table(2000)
    parts = split(frame, Split("stratified"), [Regression("x")])
    for low, high in [(0, 0.2), (0.4, 0.6), (0.8, 1)]:
        inside = frame["x"].between(*frame["x"].quantile([low, high]))
        assert np.allclose(shares(parts[inside]), [0.7, 0.15, 0.15], atol=0.005)


def test_a_single_label_goes_to_train() -> None:
    frame = table().assign(b=np.nan)
    frame.loc[17, "b"] = 1.0
    for seed in range(5):
        assert split(frame, Split("stratified", seed=seed), [Binary("b")])[17] == "train"


@pytest.mark.parametrize("by", ["user", ("user", "site")])
def test_no_group_is_in_two_parts(by) -> None:
    frame = table()
    parts = split(frame, Split("group", by=by))
    keys = [by] if isinstance(by, str) else list(by)
    assert (frame.assign(part=parts).groupby(keys)["part"].nunique() == 1).all()


def test_groups_are_common_to_all_tables() -> None:
    a, b = table(seed=1), table(seed=2)
    parts = split_tables({"a": a, "b": b}, Split("group", by="user"))
    both = pd.concat([a.assign(part=parts["a"]), b.assign(part=parts["b"])])
    assert (both.groupby("user")["part"].nunique() == 1).all()


def test_a_giant_group_leaves_no_part_empty() -> None:
    frame = table().assign(user=[0] * 990 + list(range(1, 11)))
    for seed in range(10):
        assert set(split(frame, Split("group", by="user", seed=seed))) == {"train", "valid", "test"}


@pytest.mark.parametrize("make", [lambda t: t, lambda t: t.dt.strftime("%Y-%m-%d"), lambda t: t.dt.day_of_year])
def test_the_earliest_train_and_moments_stay_together(make) -> None:
    frame = table()
    frame["t"] = make(frame["t"])
    parts = split(frame, Split("time", by="t"))
    last = {p: frame["t"][parts == p].max() for p in ("train", "valid", "test")}
    first = {p: frame["t"][parts == p].min() for p in ("train", "valid", "test")}
    assert last["train"] < first["valid"] <= last["valid"] < first["test"]


def test_a_column_decides() -> None:
    words = ["train", "test", "valid", "train"]
    assert split(table(4).assign(part=words), Split("column", by="part")).tolist() == words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "groups"}, "Did you mean `group`"),
        ({"kind": "group"}, "should name a column or more. Found None"),
        ({"kind": "random", "by": "x"}, "should name no column. Found 'x'"),
        ({"sizes": (0.5, 0.5)}, "three shares"),
        ({"sizes": (0, 0.5, 0.5)}, "the first above 0"),
        ({"kind": "time", "by": ("a", "b")}, "should name one column. Found .'a', 'b'"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Split(**settings)


def test_what_is_refused() -> None:
    frame = table(20)
    with pytest.raises(DataError, match=r"Did you mean `user`"):
        split(frame, Split("group", by="usr"))
    with pytest.raises(
        DataError, match=r"`user` of table `table` should have a value in every row. Found none in row 3"
    ):
        split(frame.assign(user=[*range(3), None, *range(16)]), Split("group", by="user"))
    with pytest.raises(DataError, match=r"a group for every part. Found 1 group"):
        split(frame.assign(user=1), Split("group", by="user"))
    with pytest.raises(DataError, match=r"leave rows for valid"):
        split(frame.assign(t=1), Split("time", by="t"))
    with pytest.raises(DataError, match=r"Found 'soon'"):
        split(frame.assign(t="soon"), Split("time", by="t"))
    for word in ("val", "validation"):
        with pytest.raises(DataError, match=f"Found `{word}`. Ours is `valid`"):
            split(frame.assign(part=word), Split("column", by="part"))
    with pytest.raises(DataError, match=r"should have rows for train"):
        split(frame.assign(part="test"), Split("column", by="part"))
    labels = frame.assign(b=[1.0] + [np.nan] * 19, part=["test"] + ["train"] * 19)
    with pytest.raises(DataError, match=r"Task `b` should have a label in the training part. Found all 1 outside"):
        split(labels, Split("column", by="part"), [Binary("b")])


def test_many_tasks_are_fast() -> None:
    import time

    rng = np.random.default_rng(0)
    n, k = 15000, 139
    owner = rng.integers(0, k, n)
    frame = pd.DataFrame({f"y{i}": np.where(owner == i, rng.normal(size=n), np.nan) for i in range(k)})
    start = time.perf_counter()
    parts = split(frame, Split("stratified"), [Regression(f"y{i}") for i in range(k)])
    assert time.perf_counter() - start < 10
    for i in range(k):
        m = (owner == i).sum()
        assert abs((parts[owner == i] == "train").sum() - 0.7 * m) < 5
