"""The laws of a Format, over all of them."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
from samples import SAMPLES

from manyheads.catalog import find, index
from manyheads.data.columns import DataWarning
from manyheads.data.formats import Format
from manyheads.data.readers import read
from manyheads.faults import DataError
from manyheads.intake import of_file
from manyheads.spec import Part


@pytest.fixture(params=list(index(Format)))
def word(request):
    return request.param


@pytest.fixture
def sample(word, tmp_path):
    return SAMPLES[word](tmp_path)


def _made(word, sample, **more):
    return find(Format, word)(**{**sample.settings, **more})


def test_every_format_has_a_sample():
    assert set(SAMPLES) == set(index(Format)), "Give the new format a sample in tests/laws/samples.py."


def test_it_yields_a_table(word, sample):
    form = _made(word, sample)
    frame = form.frame(sample.path)
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == sample.rows
    assert all(isinstance(c, str) for c in frame.columns)
    assert frame.columns.is_unique
    assert set(sample.columns) <= set(frame.columns)
    assert list(frame.index) == list(range(len(frame)))
    assert form.skipped == []


def test_it_reads_the_same_again(word, sample):
    form = _made(word, sample)
    first, second = form.frame(sample.path), _made(word, sample).frame(sample.path)
    assert list(first.columns) == list(second.columns)
    assert repr(first.to_dict("records")) == repr(second.to_dict("records"))


def test_what_is_there_is_read_as_it_is_for_predictions(word, sample):
    """A form without labels is asked for only where there are none."""
    form = _made(word, sample)
    bare = form.bare(sample.path).frame(sample.path)
    columns = list(form.frame(sample.path).columns)
    assert list(bare.columns) == [c for c in columns if c in bare.columns]  # what a form makes itself need not be there
    assert columns[0] in bare.columns
    assert len(bare) == sample.rows


def test_a_sketch_reads_what_it_was_made_of(word, sample, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert find(Format, word).sketch(tmp_path / "nothing") is None
    if not sample.path.is_dir() or (found := find(Format, word).sketch(sample.path)) is None:
        return
    frame = of_file(sample.path, Part.of(found["data"]["format"]))
    assert len(frame)
    for name, task in found["tasks"].items():
        targets = task.get("target", name)
        assert set([targets] if isinstance(targets, str) else targets) <= set(frame.columns)


def test_it_refuses_what_is_damaged_and_says_where(word, sample):
    said = sample.damage()
    with pytest.raises(DataError) as error:
        _made(word, sample).frame(sample.path)
    for part in said:
        assert part in str(error.value)


def test_skipping_counts(word, sample):
    said = sample.damage()
    form = _made(word, sample, on_error="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        assert len(form.frame(sample.path)) == sample.left
    assert len(form.skipped) == 1
    assert all(part in form.skipped[0] for part in said)
    with pytest.warns(DataWarning, match="left out"):
        read(sample.path, _made(word, sample, on_error="skip"))


def test_an_unknown_way_with_errors(word, sample):
    with pytest.raises(ValueError, match="on_error"):
        _made(word, sample, on_error="ignore")


def test_nothing_there(word, sample):
    with pytest.raises(DataError, match="nothing there"):
        read(sample.path.with_name("elsewhere"), _made(word, sample))
