"""The laws of an augmentation, over every one there is."""

from __future__ import annotations

import pytest
import torch
from cases import catalogue, rows_for, small_tasks

from manyheads.augment import Augmentation
from manyheads.data.sampler import Sampler


@pytest.fixture(params=catalogue(Augmentation), ids=str)
def case(request):
    return request.param


def _changed(case, seed):
    tasks = small_tasks()
    rows = rows_for(tasks, 16, 0.3)
    before = {k: v.clone() for k, v in rows.inputs.items()}
    found = case()(rows, {t.name: t for t in tasks}, torch.Generator().manual_seed(seed))
    assert all(torch.equal(rows.inputs[k], v) for k, v in before.items())  # those given stay as they are
    return rows, found


def test_the_same_seed_gives_the_same_rows(case):
    (_, one), (_, other) = _changed(case, 3), _changed(case, 3)
    assert all(torch.equal(one.inputs[k], other.inputs[k]) for k in one.inputs)


def test_tasks_and_rows_stay(case):
    rows, found = _changed(case, 1)
    assert len(found) == len(rows)
    assert found.tasks == rows.tasks
    for task in rows.tasks:
        assert torch.equal(found.labels(task)[1], rows.labels(task)[1])


def test_jitter_is_noise_of_the_size_that_was_asked():
    case = next(c for c in catalogue(Augmentation) if c.word == "jitter")
    tasks = small_tasks()
    rows = rows_for(tasks, 4000, 0.0)
    found = case.cls(noise=0.5)(rows, {}, torch.Generator().manual_seed(0))
    assert (found.inputs["numeric"] - rows.inputs["numeric"]).std().item() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="`noise`.*-1"):
        case.cls(noise=-1)


def test_a_batch_is_changed_by_its_own_seed_whoever_asks_first():
    tasks = small_tasks()
    rows = {"t": rows_for(tasks, 40, 0.0)}

    def noisy(part, random):
        return case_of_jitter(part, {}, random)

    case_of_jitter = next(c for c in catalogue(Augmentation) if c.word == "jitter")()
    one, other = (Sampler(rows, 16, seed=1, change=noisy) for _ in range(2))
    draws = one.plan(2)
    last_first = [other.batch(d)["t"].inputs["numeric"] for d in reversed(other.plan(2))][::-1]
    for draw, x in zip(draws, last_first, strict=True):
        assert torch.equal(one.batch(draw)["t"].inputs["numeric"], x)
    assert not torch.equal(one.batch(one.plan(3)[0])["t"].inputs["numeric"], last_first[0])
