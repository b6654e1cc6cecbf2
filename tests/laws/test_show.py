"""The laws of what a page shows of single rows, over every task type and every column type there is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from cases import KINDS, Case, catalogue, fitted, output_for
from pydantic import TypeAdapter

from manyheads import results
from manyheads.data.columns import Column
from manyheads.data.columns import fitted as fit_column
from manyheads.metrics import Predicted
from manyheads.metrics.sound import write_wav
from manyheads.pictures import png
from manyheads.report.layers import agreement
from manyheads.tasks import Task

SHOWN = TypeAdapter(results.Shown)
N = 12


def _plain(values) -> None:
    """Plain values there and back."""
    for value in values:
        assert SHOWN.validate_json(SHOWN.dump_json(value)) == value


def _shown(case: Case, rng: np.random.Generator, perfect: bool):
    """(labels, predictions) as shown, of rows whose labels are known."""
    task, labels = fitted(case, rng, N, missing=0.0)
    target, _ = task.encode(labels)
    kind = KINDS[task.kind]
    if perfect:
        output = kind.perfect(task, target)
    else:
        output = kind.output(task, target) if kind.output is not None else output_for(task, N)
    return task.show(Predicted(task.truth(target))), task.show(task.predict(task.rows(output)))


@pytest.mark.parametrize("case", catalogue(Task), ids=str)
def test_labels_and_predictions_are_plain_values_of_one_kind(case, rng):
    for perfect in (True, False):
        true, said = _shown(case, rng, perfect)
        assert len(true) == len(said) == N
        assert {v.kind for v in (*true, *said)} == {true[0].kind}
        _plain([*true, *said])


@pytest.mark.parametrize("case", catalogue(Task), ids=str)
def test_what_is_right_shows_the_same(case, rng):
    true, said = _shown(case, rng, perfect=True)
    for a, b in zip(true, said, strict=True):
        if isinstance(a, results.Boxes):
            assert len(a.boxes) <= len(b.boxes)
        elif isinstance(a, results.Text):
            assert a.exact == b.exact
            assert a.text == b.text or not a.exact
        elif isinstance(a, results.Mask):
            assert a.names == b.names
            assert agreement(a, b) == 1
        elif isinstance(a, results.Sound):
            assert (a.seconds, a.hertz) == (b.seconds, b.hertz)
        else:
            assert a == b


CELLS = {
    "image": lambda rng: [png(rng.integers(0, 255, (8, 6)).astype(np.uint8)) for _ in range(N - 1)] + [None],
    "audio": lambda rng: [write_wav(rng.normal(0, 0.1, 400).clip(-1, 1), 4000) for _ in range(N)],
    "text": lambda rng: ["Is it so?", ["two", "words"], None] * (N // 3),
    "ngrams": lambda rng: ["CCO", "CC=O", None] * (N // 3),
    "numeric": lambda rng: rng.normal(size=N),
    "boolean": lambda rng: [0, 1] * (N // 2),
    "categorical": lambda rng: ["a", "b"] * (N // 2),
    "datetime": lambda rng: ["2020-01-02", "2021-03-04"] * (N // 2),
}
KIND = {"image": "picture", "audio": "sound", "text": "text", "ngrams": "text"}


@pytest.mark.parametrize("word", sorted(CELLS))
def test_a_cell_is_shown_or_not(word, rng):
    series = pd.Series(list(CELLS[word](rng)), name="x", dtype=None if word == "numeric" else object)
    column = fit_column(word, series, {"type": word})
    shown = [column.show(cell) for cell in series]
    assert {v.kind for v in shown if v is not None} == ({KIND[word]} if word in KIND else set())
    assert all(v is None for v, gone in zip(shown, series.isna(), strict=True) if gone)
    _plain([v for v in shown if v is not None])


def test_a_new_column_type_says_what_it_shows():
    from manyheads.catalog import index

    assert set(index(Column)) - {"subwords"} == set(CELLS), "Give the new type cells in CELLS."


def test_words_are_those_that_labels_belong_to():
    series = pd.Series(["Is it so?", ["two", "words"], None], name="x", dtype=object)
    column = fit_column("text", series, {"type": "text"})
    words = list(column.tokens(series))
    assert words == [["Is", "it", "so", "?"], ["two", "words"], []]
    assert [list(v.words) if (v := column.show(cell)) is not None else [] for cell in series] == words
    assert [len(row) for row in words] == column.transform(series).lengths.tolist()


def test_a_class_has_a_chance_and_a_number_is_never_wrong(rng):
    binary = next(c for c in catalogue(Task) if c.word == "binary")
    task, _ = fitted(binary, rng)
    (said,) = task.show(task.predict(torch.tensor([[-2.0]])))
    assert said.text == "0"
    assert said.chance == pytest.approx(1 / (1 + np.exp(-2)))
    regression = next(c for c in catalogue(Task) if c.word == "regression")
    task, _ = fitted(regression, rng)
    assert not task.show(Predicted(np.array([3.0])))[0].exact
