"""The laws of a Task whose labels have any length or shape, over every such type."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cases import KINDS, catalogue, fitted, labels_of

from manyheads import metrics
from manyheads.ragged import Ragged, joined
from manyheads.tasks import Task

TASKS = [c for c in catalogue(Task) if c.word in KINDS and KINDS[c.word].output is not None]


@pytest.fixture(params=TASKS, ids=str)
def case(request):
    return request.param


@pytest.fixture
def learnt(case, rng):
    """(task, labels, target, known)"""
    task, labels = fitted(case, rng)
    return task, labels, *task.encode(labels)


def _output(task, target, *lead):
    return KINDS[task.kind].output(task, target, *lead)


def _rows(known):
    return (known if known.dim() == 1 else known.flatten(1).any(1)).nonzero().flatten()


def _same(one, other):
    return json.dumps(one, default=str) == json.dumps(other, default=str)


def test_known_and_errors_have_one_shape(learnt):
    task, labels, target, known = learnt
    assert len(target) == len(known) == len(labels)
    assert known.dtype == torch.bool
    errors = task.errors(_output(task, target), target)
    assert errors.shape == known.shape
    assert torch.isfinite(errors).all()
    if task.sizes(target) is not None:
        assert task.sizes(target).shape == known.shape


def test_mean_loss_is_the_slow_loop(learnt):
    """Row by row; every label counts the same, wherever it stands."""
    task, _, target, known = learnt
    if task.sizes(target) is None:
        pytest.skip("a label is one number")
    output = _output(task, target)
    total, labels = 0.0, 0
    weights = torch.rand(len(known))
    for i in _rows(known).tolist():
        one = torch.tensor([i])
        total += float(task.errors(output[one], target[one])) * float(weights[i])
        labels += int(task.sizes(target[one])) * float(weights[i])
    assert task.mean_loss(output, target, known, weights).item() == pytest.approx(total / labels, rel=1e-5)


def test_nothing_known_is_no_loss(learnt):
    task, _, target, known = learnt
    assert task.mean_loss(_output(task, target), target, torch.zeros_like(known)) is None


@pytest.mark.parametrize("wild", [1e4, -1e30, math.inf, math.nan])
def test_an_unlabelled_row_teaches_nothing(learnt, wild):
    task, _, target, known = learnt
    output = _output(task, target)
    calm = task.mean_loss(output, target, known)
    output = output.clone()
    output[~known] = wild
    output.requires_grad_()
    loss = task.mean_loss(output, target, known)
    loss.backward()
    assert torch.equal(loss, calm)
    assert (output.grad[~known] == 0).all()
    assert torch.isfinite(output.grad).all()


def test_masking_equals_deleting(case, rng):
    task, labels = fitted(case, rng, n=60, missing=0.0)
    target, known = task.encode(labels)
    keep = torch.rand(len(labels)) < 0.3
    output = _output(task, target).requires_grad_()
    task.mean_loss(output, target, known & keep).backward()
    few = output.detach()[keep].requires_grad_()
    task.mean_loss(few, target[keep.nonzero().flatten()], known[keep]).backward()
    assert torch.allclose(output.grad[keep], few.grad, atol=1e-6)
    assert (output.grad[~keep] == 0).all()


def test_the_truth_scores_best(case, rng):
    task, labels = fitted(case, rng, n=80, missing=0.2)
    target, known = task.encode(labels)
    kept = target[_rows(known)]
    predicted = task.predict(task.rows(KINDS[task.kind].perfect(task, kept)))
    noise = task.predict(task.rows(_output(task, kept)))
    for name in task.metrics:
        metric = metrics.find(name)
        value, why = metric(task.truth(kept), predicted)
        assert why is None, f"{name}: {why}"
        assert value == pytest.approx(metric.best, abs=1e-6), name
        assert metric.better(value, metric(task.truth(kept), noise).value)
        assert metrics.bootstrap(metric, task.truth(kept), noise, draws=50) is not None


def test_encode_then_decode_then_encode_is_the_identity(learnt):
    task, labels, target, known = learnt
    index = _rows(known)
    decoded = np.asarray(task.decode(task.truth(target[index])))
    again = labels.iloc[index.numpy()].copy()
    for i, column in enumerate(task.targets):
        again[column] = decoded if decoded.ndim == 1 else decoded[:, i]
    found, there = task.encode(again)
    assert there.all()
    for one, other in zip(found, target[index], strict=True):
        assert torch.equal(one, other)


def test_the_named_columns_are_labels_again(learnt):
    task, labels, target, known = learnt
    kept = target[_rows(known)]
    columns = task.columns(task.predict(task.rows(KINDS[task.kind].perfect(task, kept))))
    assert all(len(v) == len(kept) for v in columns.values())
    assert all(k == task.name or k.startswith(f"{task.name}__") for k in columns)
    assert len(labels) >= len(kept)


def test_what_is_kept_does_not_depend_on_the_batch(learnt):
    """Neighbours, and so padding, change nothing."""
    task, _, target, _ = learnt
    output = _output(task, target)
    together = task.predict(task.rows(output)).value
    alone = joined([task.rows(output[i : i + 1]) for i in range(len(target))])
    assert _same(list(task.predict(alone).value), list(together))


def test_fitted_learns_from_given_labels_only(case, rng):
    task = case("y")
    labels = labels_of(task, rng, missing=0.4)
    for other in (labels.dropna(how="any"), labels.sample(frac=1, random_state=1)):
        assert task.fitted(other).to_json() == task.fitted(labels).to_json()


def test_json_and_back(learnt):
    task = learnt[0]
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_head_gives_what_errors_reads(learnt):
    task, _, target, known = learnt
    if not isinstance(target, Ragged):
        pytest.skip("its head reads no sequence")
    output = _output(task, target)
    if (read := KINDS[task.kind].read) is not None:
        widths, features = read(task, target)
        found = task.head(widths)(features)
    else:
        mask = output[..., 0] > 0.5
        found = task.head([3, 4])((torch.randn(*mask.shape, 7), mask))
    assert found.shape == output.shape
    assert task.errors(found, target).shape == known.shape


def test_members_are_averaged(learnt):
    task, _, target, known = learnt
    outputs = _output(task, target, 4)
    alone = torch.stack([task.mean_loss(o, target, known) for o in outputs]).mean()
    assert task.mean_loss(outputs, target, known).item() == pytest.approx(alone.item(), rel=1e-5)
    same = outputs[:1].expand(4, *outputs.shape[1:])
    one, many = (task.predict(task.rows(o)) for o in (outputs[0], task.ensemble(same)))
    for a, b in zip(one.value, many.value, strict=True):
        assert _close(a, b)


def _close(a, b):
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_close, a, b))
    return np.allclose(a, b, atol=1e-6) if isinstance(a, np.ndarray) else a == b
