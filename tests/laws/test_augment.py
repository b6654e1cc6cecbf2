"""The laws of an augmentation, over every one there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import catalogue, rows_for, small_tasks

from manyheads.augment import Augmentation
from manyheads.catalog import find
from manyheads.data import Block, Taskset
from manyheads.data.sampler import Sampler
from manyheads.tasks import Task


@pytest.fixture(params=catalogue(Augmentation), ids=str)
def case(request):
    return request.param


def _rows(n=16):
    """Rows of numbers, pictures and masks."""
    g = torch.Generator().manual_seed(5)
    masks = find(Task, "segmentation")("m", size=(12, 16), names=("a", "b", "c"))
    tasks = [*small_tasks(), masks]
    rows = rows_for(small_tasks(), n, 0.3)
    target = torch.randint(0, 3, (n, 12, 16), generator=g, dtype=torch.uint8)
    pictures = {"image:p": torch.randint(0, 256, (n, 3, 12, 16), generator=g, dtype=torch.uint8)}
    block = Block(("m",), target, torch.rand(n, generator=g) < 0.8)
    return tasks, replace(rows, inputs={**rows.inputs, **pictures}, blocks=(*rows.blocks, block))


def _changed(case, seed):
    tasks, rows = _rows()
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


def test_pictures_stay_bytes_of_their_size(case):
    rows, found = _changed(case, 2)
    assert found.inputs["image:p"].dtype == torch.uint8
    assert found.inputs["image:p"].shape == rows.inputs["image:p"].shape
    assert found.labels("m")[0].dtype == torch.uint8
    assert found.labels("m")[0].shape == rows.labels("m")[0].shape


MOVES = {"flip": {"p": 0.6, "vertical": 0.4}, "crop": {"scale": 0.5, "shift": 0.2, "rotate": 40, "shape": 0.3}}


@pytest.mark.parametrize("word", MOVES)
def test_masks_move_with_their_pictures(word):
    """Discs drawn as a picture and as a mask lie upon each other afterwards; beyond the picture nothing is known."""
    n, (h, w) = 24, (48, 64)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    middle = torch.rand(n, 2, 1, 1) * torch.tensor([h, w]).reshape(1, 2, 1, 1)
    disc = ((y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2 < 14**2).to(torch.uint8)
    task = find(Task, "segmentation")("m", size=(h, w), names=("a", "b"))
    rows = Taskset({"image:p": (disc * 255).unsqueeze(1)}, (Block(("m",), disc, torch.ones(n, dtype=torch.bool)),))
    moving = find(Augmentation, word)(**MOVES[word])
    found = moving(rows, {"m": task}, torch.Generator().manual_seed(0))
    mask, picture = found.labels("m")[0], found.inputs["image:p"][:, 0]
    assert not torch.equal(mask, disc)
    inside = mask != 255
    assert ((picture > 127) == (mask == 1))[inside].float().mean() > 0.98
    assert bool((~inside).any()) == (word == "crop")


def test_a_turn_keeps_angles():
    """On a canvas that is no square, too: a square that is turned is a square of the same size."""
    h, w = 60, 120
    square = torch.zeros(1, h, w, dtype=torch.uint8)
    square[:, 20:40, 50:70] = 1
    task = find(Task, "segmentation")("m", size=(h, w), names=("a", "b"))
    angle = torch.tensor(torch.pi / 4)
    moving = find(Augmentation, "crop")(scale=0.0, shift=0.0, rotate=45)
    for seed in range(5):
        rows = Taskset({"image:p": square.unsqueeze(1)}, (Block(("m",), square, torch.ones(1, dtype=torch.bool)),))
        mask = moving(rows, {"m": task}, torch.Generator().manual_seed(seed)).labels("m")[0][0] == 1
        assert mask.sum().item() == pytest.approx(400, rel=0.05)
        rows_of, columns_of = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert rows_of == pytest.approx(columns_of, abs=2)
        assert rows_of <= 20 * (angle.cos() + angle.sin()) + 2


def test_a_flip_is_exact():
    tasks, rows = _rows()
    found = find(Augmentation, "flip")(p=1.0)(rows, {t.name: t for t in tasks}, torch.Generator())
    assert torch.equal(found.inputs["image:p"], rows.inputs["image:p"].flip(-1))
    assert torch.equal(found.labels("m")[0], rows.labels("m")[0].flip(-1))
    found = find(Augmentation, "flip")(p=0.0, vertical=1.0)(rows, {t.name: t for t in tasks}, torch.Generator())
    assert torch.equal(found.inputs["image:p"], rows.inputs["image:p"].flip(-2))


def test_light_changes_pictures_alone():
    tasks, rows = _rows()
    by_name = {t.name: t for t in tasks}
    found = find(Augmentation, "colour")()(rows, by_name, torch.Generator().manual_seed(0))
    assert not torch.equal(found.inputs["image:p"], rows.inputs["image:p"])
    assert torch.equal(found.labels("m")[0], rows.labels("m")[0])
    still = find(Augmentation, "colour")(0, 0, 0)(rows, by_name, torch.Generator().manual_seed(0))
    assert torch.equal(still.inputs["image:p"], rows.inputs["image:p"])


@pytest.mark.parametrize(
    ("word", "settings"), [("flip", {"p": 2}), ("crop", {"scale": -1}), ("colour", {"contrast": -1})]
)
def test_what_they_refuse(word, settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        find(Augmentation, word)(**settings)


def test_jitter_is_noise_of_the_size_that_was_asked():
    case = next(c for c in catalogue(Augmentation) if c.word == "jitter")
    tasks = small_tasks()
    rows = rows_for(tasks, 4000, 0.0)
    found = case.cls(noise=0.5)(rows, {}, torch.Generator().manual_seed(0))
    assert (found.inputs["numeric"] - rows.inputs["numeric"]).std().item() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match=r"`noise`.*-1"):
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
