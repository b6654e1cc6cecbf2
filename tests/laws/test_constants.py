"""What is said without looking at the input: of every task type, and what it is worth."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from cases import catalogue, fitted

from manyheads import metrics
from manyheads.data import Block, Taskset
from manyheads.evaluate import Skill
from manyheads.metrics import Predicted
from manyheads.ragged import objects
from manyheads.tasks import Task
from manyheads.tasks.classification import Multilabel
from manyheads.tasks.speech import Transcription

TASKS = catalogue(Task)


@pytest.fixture(params=TASKS, ids=str)
def learnt(request, rng):
    """(task, target, known) of the rows with a label"""
    task, labels = fitted(request.param, rng, 60)
    target, known = task.encode(labels)
    there = (known.flatten(1).any(1) if known.dim() > 1 else known).nonzero().flatten()
    return task, target[there], known[there]


def _value(task, name, target, known, says):
    several = known.numpy() if known.dim() > 1 else None
    return metrics.find(name)(task.truth(target), says, known=several).value


def test_a_constant_says_of_every_row_what_metrics_read(learnt):
    task, target, known = learnt
    for name in task.metrics:
        metric = metrics.find(name)
        says = task.constant(metric, target, known, target[torch.arange(7)])
        if says is None:
            assert metric.constant is not None, "what cannot be said has to be known"
            continue
        found = _value(task, name, target[torch.arange(7)], known[torch.arange(7)], says)
        assert found is None or np.isfinite(found)


def test_a_constant_is_what_the_metric_says_that_it_gets(learnt):
    task, target, known = learnt
    for name in task.metrics:
        metric = metrics.find(name)
        says = task.constant(metric, target, known, target)
        if metric.constant is not None and says is not None:
            assert _value(task, name, target, known, says) == pytest.approx(metric.constant, abs=1e-9)


def test_what_is_said_does_not_depend_on_the_rows_but_for_their_sizes(learnt):
    task, target, known = learnt
    metric = metrics.find(task.metrics[0])
    whole, first = (task.constant(metric, target, known, target[rows]) for rows in (slice(None), slice(0, 5)))
    if whole is None:
        return
    for one, other in zip(first.value, whole.value, strict=False):
        assert str(one) == str(other)


def _taskset(task, target, known):
    return {"t": Taskset({"numeric": torch.zeros(len(target), 1)}, (Block((task.name,), target, known, None, False),))}


def test_a_skill_is_0_for_the_constant_and_1_for_the_best(learnt):
    task, target, known = learnt
    n = len(target)
    parts = [_taskset(task, target[rows], known[rows]) for rows in (slice(0, n // 2), slice(n // 2, n))]
    for name in task.metrics:
        metric, skill = metrics.find(name), Skill({task.name: name}, [task], *parts)
        at = skill.constants[task.name]
        assert at is not None
        if at == metric.best:
            continue
        assert skill(task.name, at) == 0
        assert skill(task.name, metric.best) == 1
        assert skill(task.name, None) is None


# -- literally


def _of(word, rng, **settings):
    case = next(c for c in TASKS if c.word == word)
    task, labels = fitted(type(case)(case.word, case.cls, {**case.settings, **settings}), rng, 60, missing=0)
    return task, *task.encode(labels)


def test_the_most_frequent_tag(rng):
    task, target, known = _of("tagging", rng)
    most = Counter(t for row in task.truth(target) for t in row).most_common(1)[0][0]
    says = task.constant(metrics.find("token_accuracy"), target, known, target)
    assert all(row == [most] * len(true) for row, true in zip(says.value, task.truth(target), strict=True))


def test_the_most_frequent_class_at_each_place(rng):
    task, target, known = _of("segmentation", rng)
    target[:, 0, 0] = 255  # where no mask says anything
    (said,) = {m.tobytes() for m in task.constant(metrics.find("mean_iou"), target, known, target).value}
    said = np.frombuffer(said, np.uint8).reshape(target.shape[1:])
    every = target[target != 255].tolist()
    for y, x in np.ndindex(*said.shape):
        there = [c for c in target[:, y, x].tolist() if c != 255] or every
        counts = Counter(there)
        assert counts[said[y, x]] == max(counts.values())


def test_the_mean_box_of_each_class(rng):
    task, target, known = _of("detection", rng, names=("bus", "car"))
    truth = task.truth(target)
    said = task.constant(metrics.find("average_precision_50"), target, known, target[:3]).value
    assert len(said) == 3
    corners = np.concatenate([b.corners for b in truth])
    classes = np.concatenate([b.classes for b in truth])
    for c in (0, 1):
        np.testing.assert_allclose(said[2].corners[said[2].classes == c][0], corners[classes == c].mean(0), rtol=1e-5)
        assert said[2].scores[said[2].classes == c][0] == pytest.approx((classes == c).mean())


def test_a_class_that_training_lacks_has_no_box(rng):
    task, target, known = _of("detection", rng, names=("sign", "bus", "car"))
    (said,) = task.constant(metrics.find("average_precision_50"), target, known, target[:1]).value
    assert said.classes.tolist() == [1, 2]


@pytest.mark.parametrize(("said", "best"), [(["yes"] * 3 + ["no"], "yes"), (["a b c d", "e", "f"], "")])
def test_the_most_frequent_text_where_it_beats_silence(said, best):
    import pandas as pd

    labels = pd.DataFrame({"t": said})
    task = Transcription("t").fitted(labels)
    target, known = task.encode(labels)
    metric = metrics.find("word_error_rate")
    found = task.constant(metric, target, known, target).value
    assert set(found) == {best}
    most = Counter(said).most_common(1)[0][0]
    value = {v: metric(task.truth(target), Predicted(objects([v] * len(said)))).value for v in (most, "")}
    assert value[best] == min(value.values())


def test_of_sets_the_best_on_the_training_rows():
    """The single most frequent label is not the most frequent set, and for a set metric the set is said."""
    y = torch.tensor([[1, 1, 0]] * 3 + [[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
    known = torch.ones_like(y, dtype=torch.bool)
    task = Multilabel("s", target=("a", "b", "c"))
    for name in ("accuracy", "jaccard_samples", "f1_samples"):
        says = task.constant(metrics.find(name), y, known, y)
        here = metrics.find(name)(y.numpy(), says).value
        for row in ([1, 0, 0], [1, 1, 0], [0, 0, 0]):
            assert here >= metrics.find(name)(y.numpy(), Predicted(np.tile(row, (len(y), 1)))).value
    known[:, 2] = False  # a label that nobody knows is no obstacle
    says = task.constant(metrics.find("log_loss"), y, known, y)
    np.testing.assert_allclose(says.proba[0], [5 / 7, 3 / 7, 0.5])
