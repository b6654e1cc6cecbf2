"""Bad input: every message names the file or table, the column, what was found, and what to do."""

import gzip

import numpy as np
import pandas as pd
import pytest

from manyheads.data import readers
from manyheads.data.assemble import Dataset
from manyheads.data.columns.plain import Boolean, Datetime, Numeric
from manyheads.data.datasets import load
from manyheads.data.infer import infer
from manyheads.data.preprocess import Preprocess
from manyheads.faults import ConfigError, DataError
from manyheads.tasks.classification import Binary, Multiclass, Multilabel
from manyheads.tasks.regression import Count, Regression
from manyheads.tasks.text import Tagging


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=40), "c": ["a", "b"] * 20, "y": rng.normal(size=40), "z": [0, 1] * 20})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "Found nothing there"),
        ("t.xlsx", b"x", r"should end in one of \.csv.*Found `\.xlsx`"),
        ("t", b"x", "Found `no suffix`"),
        ("empty.csv", b"", "Found an empty file"),
        ("header.csv", b"a,b\n", "Found the header only"),
        ("twice.csv", b"a,b,a\n1,2,3\n", "Found `a` more than once"),
        ("long.csv", b"a,b\n1,2,3\n4,5,6\n", r"the header \(2\). Found rows with more"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "damaged"),
        ("latin.csv", "a\ngr\u00fcn\n".encode("latin-1"), "damaged.*utf-8"),
        ("cut.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 999, mtime=0)[:-20], "damaged"),
        ("no.csv.gz", b"a,b\n1,2\n", "damaged"),
        ("t.parquet", b"PAR1 nonsense", "damaged"),
        ("t.feather", b"nonsense", "damaged"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "one JSON object per line. Found in line 2"),
        ("u.jsonl", b"[1, 2]\n", r"Found \[1, 2\] in line 1"),
    ],
)
def test_files(name: str, content: bytes | None, message: str, tmp_path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        readers.read(tmp_path / name)
    assert name in str(caught.value)


def test_a_folder_and_other_things_are_no_table(tmp_path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(DataError, match=r"Found a folder"):
        readers.read(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"Found int"):
        readers.frame_of(3)
    with pytest.raises(DataError, match=r"`a` more than once"):
        readers.frame_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(DataError, match=r"columns of one length"):
        readers.frame_of({"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match=r"create it first"):
        readers.write(pd.DataFrame({"a": [1]}), tmp_path / "no" / "t.csv")


def test_values() -> None:
    series = pd.Series([1.0, np.inf], name="x")
    with pytest.raises(DataError, match=r"Column `x` should hold finite numbers. Found inf in row 1") as caught:
        Numeric.fit("x", series)
    assert caught.value.row == 1
    with pytest.raises(DataError, match=r"Column `x` should hold numbers. Found 'two' in row 1"):
        Numeric("x").transform(pd.Series([1, "two"], dtype=object))
    with pytest.raises(DataError, match=r"Column `x` should hold 0, 1, true, false or nothing. Found 2.* in row 0"):
        Boolean("x").transform(pd.Series([2]))
    with pytest.raises(DataError, match=r"Column `x` should hold dates \(ISO8601\). Found 'soon' in row 0"):
        Datetime("x").transform(pd.Series(["soon"]))
    with pytest.raises(ConfigError, match=r"Did you mean `numeric`"):
        infer(pd.DataFrame({"x": [1]}), {"x": "numerik"})


@pytest.mark.parametrize(
    ("task", "cells"),
    [
        (Multilabel("k", target=("a", "b")), {"a": [0, 1, 0], "b": [1, 0, 2]}),
        (Regression("k", target="a", transform="log1p"), {"a": [0.5, 1.0, -3.0]}),
        (Count("k", target="a"), {"a": [0, 1, -1]}),
        (Regression("k", target="a"), {"a": [0.5, 1.0, "two"]}),
        (Multiclass("k", target="a", classes=("p", "q")), {"a": ["p", "q", "r"]}),
        (Tagging("k", target="a", tags=("O", "B-x", "I-x")), {"a": ["O", "B-x O", "y"]}),
    ],
    ids=["multilabel", "log1p", "count", "number", "class", "tag"],
)
def test_a_label_that_cannot_be_read_has_its_row(task, cells) -> None:
    with pytest.raises(DataError, match=r"[Tt]ask `k`: .*\brow 2\b") as caught:
        task.encode(pd.DataFrame(cells, dtype=object))
    assert caught.value.row == 2


def test_a_value_is_found_in_its_table(table: pd.DataFrame) -> None:
    features = table[["x", "c"]]
    broken = features.copy()
    broken.loc[7, "x"] = -np.inf
    with pytest.raises(DataError, match=r"Column `x` should hold finite numbers. Found -inf in row 7 of table `b`"):
        Preprocess.fit({"a": features, "b": broken})
    with pytest.raises(DataError, match=r"row 7 of table `b`") as caught:
        Preprocess.fit({"b": broken}, train={"b": np.arange(5, 20)})
    assert caught.value.row == 7


def test_a_label_within_a_sample_space_is_found_in_its_table() -> None:
    frame = pd.DataFrame({"x": np.arange(8.0), "there": [0, 1] * 4, "c": ["p", "q"] * 2 + ["q", "p"] * 2})
    made = Dataset.fit({"t": frame}, [Multiclass("k", target="c", where="there == 1")])
    frame.loc[5, "c"] = "r"
    with pytest.raises(DataError, match=r"Task `k`: column `c` has the label 'r' in row 5, which was never") as caught:
        made.tasksets({"t": frame})
    assert caught.value.row == 5


def test_features(table: pd.DataFrame) -> None:
    made = Preprocess.fit({"t": table[["x", "c"]]})
    with pytest.raises(DataError, match=r"Table `t` should have the feature column `x`. Found no such column."):
        made.inputs(table[["c"]], "t")
    with pytest.raises(DataError, match=r"Found `u`. Known: t."):
        made.source_of("u")
    with pytest.raises(ConfigError, match=r"Found `xx`. Did you mean `x`"):
        Preprocess.fit({"t": table[["x"]]}, {"xx": "numeric"})
    two = Preprocess.fit({"a": table[["x"]], "b": table[["c"]]})
    with pytest.raises(DataError, match=r"one source \(a, b\). Found z"):
        two.source_of(table[["z"]])
    with pytest.raises(DataError, match=r"Table `t` should have a usable feature column"):
        Dataset.fit({"t": table[["y"]]}, [Regression("y")])


def test_tasks(table: pd.DataFrame) -> None:
    y = Regression("y")
    with pytest.raises(ConfigError, match=r"Found `y` more than once"):
        Dataset.fit({"t": table}, [y, Binary("y", target="z")])
    with pytest.raises(DataError, match=r"Task `Y` should have its target column `Y` in table `t`. .*Did you mean `y`"):
        Dataset.fit({"t": table}, [Regression("Y")])
    with pytest.raises(DataError, match=r"Table `u` should have the target column `y` of task `y`"):
        Dataset.fit({"t": table, "u": table[["x", "c"]]}, [y], targets={"t": ["y"], "u": ["y"]})
    with pytest.raises(ConfigError, match=r"Found `v`. Known: t"):
        Dataset.fit({"t": table}, [y], targets={"v": ["y"]})
    with pytest.raises(ConfigError, match=r"Table `t` should label known tasks. Found `yy`"):
        Dataset.fit({"t": table}, [y], targets={"t": ["yy"]})
    with pytest.raises(ConfigError, match=r"Task `z` should be labelled by a table"):
        Dataset.fit({"t": table}, [y, Binary("z")], targets={"t": ["y"]})
    with pytest.raises(
        DataError, match=r"Task `z` should have a label in the training part. Found none in column `z`;"
    ):
        Dataset.fit({"t": table.assign(z=np.nan)}, [y, Binary("z")])
    with pytest.raises(DataError, match=r"Found none in column `y` where z == 7"):
        Dataset.fit({"t": table}, [Regression("y", where="z == 7")])
    with pytest.raises(DataError, match=r"should have the where column `clk` of task `y`"):
        Dataset.fit({"t": table}, [Regression("y", where="clk == 7")])
    with pytest.raises(DataError, match=r"should have the sample_weight column `w` of task `y`"):
        Dataset.fit({"t": table}, [Regression("y", sample_weight="w")])
    with pytest.raises(DataError, match=r"sample weight column `w` should hold numbers of 0 or more .* Found -1.0"):
        Dataset.fit({"t": table.assign(w=-1.0)}, [Regression("y", sample_weight="w")]).tasksets(
            {"t": table.assign(w=-1.0)}
        )
    with pytest.raises(ConfigError, match=r"Found `user`."):
        Dataset.fit({"t": table}, [y], drop=["user"])
    with pytest.raises(DataError, match=r"`copy` is a copy of its target `y`.*list it under `drop`"):
        Dataset.fit({"t": table.assign(copy=-table["y"])}, [y])


def test_labels_never_seen_name_their_table(table: pd.DataFrame) -> None:
    made = Dataset.fit({"a": table, "b": table}, [Multiclass("k", target="c")], drop=["z"])
    later = table.assign(c=[*["a"] * 39, "q"])
    with pytest.raises(DataError, match=r"Table `b`: Task `k`: column `c` has the label 'q' in row 39"):
        made.tasksets({"a": table, "b": later})
    with pytest.raises(DataError, match=r"Table `a` should have the target column `c`"):
        made.tasksets({"a": table.drop(columns="c")})


def test_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean `card`"):
        load("cards")
    monkeypatch.delenv("MANYHEADS_DATA", raising=False)
    with pytest.raises(DataError, match=r"MANYHEADS_DATA names. Found the variable unset"):
        load("school")
    monkeypatch.setenv("MANYHEADS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"LandmineData.mat` should be the data set's file"):
        load("landmine")
