"""Classes that training has to see: each type names them, and a split puts one row of each into the training part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cases import catalogue, labels_of

from manyheads import metrics
from manyheads.build import split_parts
from manyheads.faults import DataError
from manyheads.spec import SplitSpec
from manyheads.tasks import Task
from manyheads.tasks.detection import Detection
from manyheads.tasks.text import Tagging

TASKS = catalogue(Task)


@pytest.mark.parametrize("case", TASKS, ids=str)
def test_a_row_of_each_class_is_enough_to_read_all_labels(case, rng):
    task = case("y")
    labels = labels_of(task, rng, 60)
    rows = task.classes_in(labels)
    for found in rows.values():
        assert len(found)
        assert (np.diff(found) > 0).all()
        assert labels[list(task.targets)].notna().all(axis=1).to_numpy()[found].all()
    if not rows:
        return
    first = sorted({int(found[0]) for found in rows.values()})
    task.fitted(labels.iloc[first]).encode(labels)
    lost = set(min(rows.values(), key=len).tolist())
    labelled = np.flatnonzero(labels[list(task.targets)].notna().all(axis=1))
    rest = [row for row in labelled.tolist() if row not in lost]
    if len(rows) > 2 and rest:  # and none of them can be spared
        with pytest.raises(DataError, match=r"never seen|of its classes|should have two"):
            task.fitted(labels.iloc[rest]).encode(labels)


@pytest.mark.parametrize("case", TASKS, ids=str)
def test_parts_are_named_by_the_numbers_that_metrics_have(case, rng):
    task = case("y")
    labels = labels_of(task, rng, 60, missing=0)
    task = task.fitted(labels)
    target, known = task.encode(labels)
    truth = task.truth(target)
    if task.parts:
        several = known.numpy() if known.dim() > 1 else None
        perfect = metrics.Predicted(truth, truth if known.dim() > 1 else None)
        for name in task.metrics:
            metric = metrics.find(name)
            if metric.needs == "value":
                for part in metric.by_part(truth, perfect, task.parts, several):
                    assert part.name in task.parts
                    assert part.value is None or part.value == metric.best


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_tag_is_in_the_training_part_of_every_split(seed):
    rows = [["O", "B-LOC"]] * 40 + [["O", "B-PER", "I-PER"]]
    frame = pd.DataFrame({"x": np.arange(41.0), "tags": rows})
    parts = split_parts(SplitSpec(sizes=(0.4, 0.3, 0.3)), {"t": frame}, [Tagging("tags")], seed)
    assert parts["t"][40] == "train"
    Tagging("tags").fitted(frame[parts["t"] == "train"]).encode(frame)


def test_boxes_may_lie_beyond_a_canvas_that_is_smaller_than_their_picture():
    """A table is split before the column of pictures, and with it their size, is known."""
    rows = ['[[100, 10, 120, 30, "sun"]]'] * 9 + ['[[200, 10, 220, 30, "moon"]]']
    parts = split_parts(SplitSpec(sizes=(0.4, 0.3, 0.3)), {"t": pd.DataFrame({"b": rows})}, [Detection("b")])
    assert parts["t"][9] == "train"
