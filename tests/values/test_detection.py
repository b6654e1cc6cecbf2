"""Boxes: their geometry, their errors, what is read and what is said, and their metrics against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from manyheads import metrics
from manyheads.augment import Augmentation
from manyheads.catalog import find
from manyheads.data import Block, Taskset
from manyheads.data.formats.pictures import Pictures
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError, DataError
from manyheads.metrics import Predicted
from manyheads.metrics.boxes import Boxes, iou
from manyheads.metrics.overlap import giou, kept
from manyheads.metrics.overlap import iou as iou_of_tensors
from manyheads.model import Model
from manyheads.ragged import Ragged, objects
from manyheads.sharing import Sharing
from manyheads.tasks import Task
from manyheads.tasks.classification import Binary
from manyheads.tasks.detection import Detection

RECIPES = Path(__file__).parent.parent.parent / "recipes"


def _random_boxes(rng, n, side=60, least=1):
    corner = rng.integers(0, side - 10, (n, 2))
    return np.concatenate([corner, corner + rng.integers(least, side // 2, (n, 2))], 1).astype(float)


# -- geometry


def _slow_iou(a, b):
    across = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    down = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    common = across * down
    return common, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common


def test_iou_is_the_slow_loop(rng):
    a, b = _random_boxes(rng, 12), _random_boxes(rng, 9)
    slow = [[common / either for common, either in (_slow_iou(p, q) for q in b)] for p in a]
    np.testing.assert_allclose(iou(a, b), slow, rtol=1e-12)
    found = iou_of_tensors(torch.from_numpy(a)[:, None], torch.from_numpy(b)[None])
    np.testing.assert_allclose(found, slow, rtol=1e-12)


def test_giou_is_the_formula(rng):
    a, b = _random_boxes(rng, 200), _random_boxes(rng, 200)
    slow = []
    for p, q in zip(a, b, strict=True):
        common, either = _slow_iou(p, q)
        around = (max(p[2], q[2]) - min(p[0], q[0])) * (max(p[3], q[3]) - min(p[1], q[1]))
        slow.append(common / either - (around - either) / around)
    found = giou(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, slow, rtol=1e-12)
    assert giou(torch.from_numpy(a), torch.from_numpy(a)).eq(1).all()
    assert found.min() < 0  # some have nothing in common


def test_giou_pulls_boxes_together_that_have_nothing_in_common():
    a = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
    giou(a, torch.tensor([5.0, 0.0, 6.0, 1.0])).backward()
    assert a.grad[2] > 0  # the right side should go right


@pytest.mark.parametrize("limit", [0.1, 0.3, 0.6, 0.9])
def test_suppression_is_the_slow_loop(rng, limit):
    corners = np.stack([_random_boxes(rng, 50, side=40, least=8) for _ in range(6)])
    classes = rng.integers(0, 2, (6, 50))
    found = kept(torch.from_numpy(corners), torch.from_numpy(classes), limit)
    for row in range(6):
        stay: list[int] = []
        for i in range(50):
            rivals = [j for j in stay if classes[row, j] == classes[row, i]]
            if all(np.divide(*_slow_iou(corners[row, i], corners[row, j])) <= limit for j in rivals):
                stay.append(i)
        assert found[row].nonzero().flatten().tolist() == stay
    assert not found.all()


def test_a_box_that_went_covers_nothing():
    """The second goes because of the first; the third, which only the second covers, stays."""
    chain = torch.tensor([[0.0, 0, 10, 1], [4.0, 0, 14, 1], [8.0, 0, 18, 1]])
    assert kept(chain, torch.zeros(3), 0.4).tolist() == [True, False, True]


# -- average precision


def _some(rng, pictures=25, classes=3, sure=0.7):
    """Labels, and predictions that are near some of them, with scores all different."""
    truth, said = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 6))
        own, kinds = _random_boxes(rng, n), rng.integers(0, classes, n)
        near = (own + rng.integers(-4, 5, own.shape))[rng.random(n) < sure]
        extra = _random_boxes(rng, int(rng.integers(0, 5)))
        corners = np.concatenate([near, near[: len(near) // 2] + 1, extra])
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        truth.append(Boxes(own, kinds))
        said.append(Boxes(corners, rng.integers(0, classes, len(corners)), rng.random(len(corners))))
    return objects(truth), objects(said)


def _coco(truth, said):
    """AP and AP50 of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def box(corners):
        return [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]

    labels, answers = [], []
    for picture, (true, found) in enumerate(zip(truth, said, strict=True)):
        for corners, c in zip(true.corners.tolist(), true.classes.tolist(), strict=True):
            area = (corners[2] - corners[0]) * (corners[3] - corners[1])
            labels.append({"id": len(labels) + 1, "image_id": picture, "category_id": c, "bbox": box(corners),
                           "area": area, "iscrowd": 0})  # fmt: skip
        for corners, c, s in zip(found.corners.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True):
            answers.append({"image_id": picture, "category_id": c, "bbox": box(corners), "score": s})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "annotations": labels,
            "categories": [{"id": c} for c in range(4)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(answers), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0], judge.stats[1]


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_that_of_coco(seed):
    rng = np.random.default_rng(seed)
    truth, said = _some(rng, pictures=int(rng.integers(2, 40)), classes=int(rng.integers(1, 4)))
    whole, half = _coco(truth, said)
    assert metrics.find("average_precision_50_95")(truth, Predicted(said)).value == pytest.approx(whole, abs=1e-12)
    assert metrics.find("average_precision_50")(truth, Predicted(said)).value == pytest.approx(half, abs=1e-12)
    assert 0 < whole < half < 1


def test_more_than_a_hundred_boxes_of_a_class_do_not_count(rng):
    truth = objects([Boxes(_random_boxes(rng, 3), np.zeros(3, int)) for _ in range(4)])
    said = objects([
        Boxes(np.concatenate([_random_boxes(rng, 110), y.corners]), np.zeros(113, int), rng.random(113)) for y in truth
    ])  # fmt: skip
    whole, half = _coco(truth, said)
    assert metrics.find("average_precision_50_95")(truth, Predicted(said)).value == pytest.approx(whole, abs=1e-12)
    assert metrics.find("average_precision_50")(truth, Predicted(said)).value == pytest.approx(half, abs=1e-12)


@pytest.mark.parametrize("name", ["average_precision_50", "average_precision_50_95"])
def test_a_weight_is_a_number_of_copies(rng, name):
    truth, said = _some(rng)
    times = rng.integers(0, 4, len(truth))
    metric, copies = metrics.find(name), np.repeat(np.arange(len(truth)), times)
    weighted = metric(truth, Predicted(said), sample_weight=times).value
    assert weighted == pytest.approx(metric(truth[copies], Predicted(said[copies])).value, abs=1e-12)
    assert weighted != metric(truth, Predicted(said)).value


def test_bootstrap_is_the_metric_of_each_draw(rng):
    truth, said = _some(rng, pictures=12)
    metric = metrics.find("average_precision_50")
    found = metrics.redraws(metric, truth, Predicted(said), draws=20, seed=3)
    drawn = np.random.default_rng(3).integers(0, 12, size=(20, 12))
    slow = [metric(truth[rows], Predicted(said[rows])).value for rows in drawn]
    np.testing.assert_allclose(found, slow, atol=1e-12)


def test_wrong_boxes_in_an_empty_picture_cost_and_unknown_pictures_do_not():
    box, one = np.array([[0.0, 0.0, 4.0, 4.0]]), np.zeros(1, int)
    nothing = Boxes(box[:0], one[:0])
    truth = objects([Boxes(box, one), nothing])
    said = Predicted(objects([Boxes(box, one, np.array([0.5])), Boxes(box, one, np.array([0.9]))]))
    metric = metrics.find("average_precision_50")
    assert metric(truth, said).value == pytest.approx(0.5)
    assert metric(truth, said, known=[True, False]).value == 1.0
    assert metric(truth[1:], Predicted(said.value[1:])).why == "There is no box to find."
    silent = Predicted(objects([Boxes(box[:0], one[:0], np.zeros(0))] * 2))
    assert metric(truth, silent).value == 0.0


# -- labels


def _frame(*cells, **more):
    return pd.DataFrame({"boxes": objects(cells), **more})


CAT = [10, 20, 30, 40, "cat"]
DOG = [0, 0, 5, 8, "dog"]


def test_empty_is_known_and_null_is_not():
    labels = _frame([CAT], None, [], json.dumps([DOG, CAT]), "null", np.nan, np.array([[1, 2, 3, 4, 1]], object))
    task = Detection("boxes", size=(50, 100), names=("cat", "dog", 1))
    target, known = task.encode(labels)
    assert known.tolist() == [True, False, True, True, False, False, True]
    assert target.lengths.tolist() == [1, 0, 0, 2, 0, 0, 1]
    assert target.values[0].tolist() == pytest.approx([0.1, 0.4, 0.3, 0.8, 0.0])
    assert target.values[:, 4].tolist() == [0, 1, 0, 2]
    assert task.fitted(labels).usual == pytest.approx((0.2 * 0.5 + 0.05 * 0.5, (0.16 + 0.4) / 2), rel=0.5)


def test_an_empty_picture_teaches_that_nothing_is_there_and_an_unknown_one_nothing():
    labels = _frame([CAT], None, [])
    task = Detection("boxes", size=(50, 100)).fitted(labels)
    target, known = task.encode(labels)
    output = torch.zeros(3, 5, 5, 10, requires_grad=True)
    task.mean_loss(output, target, known).backward()
    assert output.grad[1].eq(0).all()
    assert (output.grad[2, 0] > 0).all()  # every place should be less sure
    assert output.grad[2, 1:].eq(0).all()
    assert output.grad[0, 0, 3, 2] < 0  # the middle of the cat should be surer
    assert output.grad[0, 1:, 3, 2].abs().sum() > 0


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([[10, 20, 10, 40, "cat"]], r"row 1.*x0 < x1|x0 < x1.*row 1"),
        ([CAT, [30, 20, 10, 40, "cat"]], r"box 1 of the row.*row 1"),
        ([[100, 20, 120, 40, "cat"]], r"picture of 100 x 50 pixels.*row 1"),
        ([[-9, -9, 0, 40, "cat"]], r"picture of 100 x 50 pixels.*row 1"),
        ([[10, 20, 30, "cat"]], r"four numbers and a class.*row 1"),
        ([[10, 20, 30, math.nan, "cat"]], r"four numbers and a class.*row 1"),
        ([[10, 20, 30, "x", "cat"]], r"four numbers and a class.*row 1"),
        ([[10, 20, 30, 40, None]], r"four numbers and a class.*row 1"),
        ("[[10, 20", r"a list of boxes.*row 1"),
        ('{"x": 3}', r"a list of boxes.*row 1"),
        ([[10, 20, 30, 40, "cow"]], r"'cow' in row 1.*never seen"),
    ],
)
def test_a_wrong_box_is_refused_by_its_row(cell, said):
    task = Detection("pets", target="boxes", size=(50, 100), names=("cat", "dog"))
    with pytest.raises(DataError, match=said) as error:
        task.encode(_frame([CAT], cell))
    assert "`pets`" in str(error.value)
    assert "`boxes`" in str(error.value)


def test_boxes_that_stand_out_are_clipped_and_counted():
    task = Detection("boxes", size=(50, 100), names=("cat",))
    with pytest.warns(UserWarning, match=r"`boxes`.*Found 2 that stand out, the first in row 1"):
        target, _ = task.encode(_frame([CAT], [[-5, 20, 30, 40, "cat"], [90, 40, 130, 90, "cat"], CAT]))
    assert target.values[1].tolist() == pytest.approx([0, 0.4, 0.3, 0.8, 0])
    assert target.values[2].tolist() == pytest.approx([0.9, 0.8, 1, 1, 0])


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match=r"`pets`.*`boxes`.*Found none"):
        Detection("pets", target="boxes").fitted(_frame([], None))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resize": "crop"}, "`crop`"),
        ({"size": 0}, "`size`"),
        ({"threshold": 0}, "`threshold`"),
        ({"overlap": 1.5}, "`overlap`"),
        ({"metrics": "accuracy"}, "average_precision_50"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(ConfigError, match=said):
        Detection("pets", **settings)
    with pytest.raises(ConfigError, match="sees"):
        Detection("pets", sees=("other",)).head([3])


# -- the net


def test_the_error_is_the_slow_loop(rng):
    """Place by place, from the formulas."""
    task = Detection("boxes", size=(24, 32), names=("a", "b")).fitted(_frame([[3, 2, 15, 20, "a"]]))
    labels = _frame([[3, 2, 15, 20, "a"], [6, 8, 12, 15, "b"], [20, 10, 31, 23, "a"]], [], [[0.5, 0.5, 1, 1, "b"]])
    target, known = task.encode(labels)
    output = torch.randn(3, 6, 6, 8, dtype=torch.float64)
    found = task.errors(output, target)
    for row, boxes in enumerate(target):
        total, owners = 0.0, {}
        bells = np.zeros((len(boxes), 6, 8))
        for i, (x0, y0, x1, y1, _) in enumerate(boxes.double().tolist()):
            at, down = math.floor((x0 + x1) / 2 * 8), math.floor((y0 + y1) / 2 * 6)
            sx, sy = max((x1 - x0) * 8 * 0.54 / 6, 1e-3), max((y1 - y0) * 6 * 0.54 / 6, 1e-3)
            for y in range(6):
                for x in range(8):
                    if abs(x - at) <= 3 * sx and abs(y - down) <= 3 * sy:
                        bells[i, y, x] = math.exp(-((x - at) ** 2) / 2 / sx**2 - (y - down) ** 2 / 2 / sy**2)
        for y in range(6):
            for x in range(8):
                for c in range(2):
                    bell = max([bells[i, y, x] for i in range(len(boxes)) if boxes[i, 4] == c], default=0.0)
                    p = 1 / (1 + math.exp(-output[row, c, y, x]))
                    if bell == 1:
                        total -= (1 - p) ** 2 * math.log(p)
                    else:
                        total -= (1 - bell) ** 4 * p**2 * math.log(1 - p)
                inside = [i for i in range(len(boxes)) if bells[i, y, x] > 0]
                if inside:
                    owners[y, x] = min(inside, key=lambda i: float((boxes[i, 2:4] - boxes[i, :2]).prod()))
        for i in range(len(boxes)):
            own = [place for place, owner in owners.items() if owner == i]
            height = sum(bells[i, y, x] for y, x in own)
            for y, x in own:
                a, b, c, d = output[row, 2:, y, x].tolist()
                mx, my = (x + 0.5) / 8 + a * task.usual[0], (y + 0.5) / 6 + b * task.usual[1]
                w, h = task.usual[0] * math.exp(c), task.usual[1] * math.exp(d)
                box = torch.tensor([mx - w / 2, my - h / 2, mx + w / 2, my + h / 2], dtype=torch.float64)
                total += 5 * bells[i, y, x] / height * float(1 - giou(box, boxes[i, :4].double()))
        assert found[row].item() == pytest.approx(total, rel=1e-6)
    assert task.sizes(target).tolist() == [3, 1, 1]
    assert known.all()


def test_a_fresh_head_says_a_box_of_the_usual_size_everywhere_and_is_unsure():
    task = Detection("boxes", size=40).fitted(_frame([[0, 0, 10, 20, "a"]], [[5, 5, 19, 29, "b"]]))
    head = task.head([7])
    for module in head.modules():
        getattr(module, "reset_parameters", lambda: None)()
    output = head(torch.randn(2, 7, 4, 4))
    assert output[:, :2].sigmoid().detach().numpy() == pytest.approx(0.1)
    found = task.predict(task.rows(output.detach())).value[0]
    middle = found.corners[((found.corners > 0) & (found.corners < 40)).all(1)]
    assert (middle[:, 2:] - middle[:, :2]).tolist() == [pytest.approx([12, 22])] * len(middle)


def test_features_without_places_are_refused():
    with pytest.raises(ValueError, match="attach"):
        Detection("boxes", names=("a",)).head([7])(torch.randn(2, 7))


def test_a_net_learns_where_squares_are(rng):
    """A few pictures of one bright and one dark square, through a small convolution, are learnt by heart."""
    pictures, cells = torch.full((24, 3, 32, 32), 0.5), []
    for i in range(24):
        cells.append([])
        for kind, value, left in (("bright", 1.0, 0), ("dark", 0.0, 16)):
            if rng.random() < 0.8:
                x, y = int(rng.integers(left, left + 7)), int(rng.integers(0, 22))
                w, h = (int(v) for v in rng.integers(5, 9, 2))
                pictures[i, :, y : y + h, x : x + w] = value
                cells[-1].append([x, y, x + w, y + h, kind])
    torch.manual_seed(0)
    task = Detection("boxes", size=32).fitted(_frame(*cells))
    target, known = task.encode(_frame(*cells))
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 5, 2, 2), torch.nn.SiLU(), torch.nn.Conv2d(24, 32, 5, 2, 2), torch.nn.SiLU(),
        torch.nn.Conv2d(32, 32, 3, 1, 1), torch.nn.SiLU(),
    )  # fmt: skip
    head = task.head([32])
    optimiser = torch.optim.Adam([*body.parameters(), *head.parameters()], 3e-3)
    metric = metrics.find("average_precision_50")
    before = metric(task.truth(target), task.predict(task.rows(head(body(pictures)).detach()))).value
    for _ in range(250):
        loss = task.mean_loss(head(body(pictures)), target, known)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = metric(task.truth(target), task.predict(task.rows(head(body(pictures)).detach()))).value
    assert before < 0.2
    assert after > 0.9


# -- boxes that move with their pictures


def _moved(task, boxes, affine):
    target = Ragged.of([torch.tensor([[*b, 0.0]]) for b in boxes])
    return task.moved(target, torch.tensor(affine).expand(len(boxes), 2, 3))


def test_moved_is_where_the_pixels_go(rng):
    """A rectangle is drawn, moved as pictures are, and found again."""
    from manyheads.augment.moving import _moved as moved_pictures

    task = Detection("boxes", size=64, names=("a",))
    for affine in (
        [[-1.0, 0, 0], [0, 1, 0]],
        [[1.0, 0, 0], [0, -1, 0]],
        [[0.8, 0, 0.1], [0, 0.9, -0.15]],
        [[-1.2, 0, 0.1], [0, 1.1, 0.05]],
    ):
        picture = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        picture[0, 0, 20:36, 24:50] = 255
        there = moved_pictures(picture, torch.tensor([affine]))[0, 0] > 127
        down, across = there.any(1).nonzero().flatten(), there.any(0).nonzero().flatten()
        found = _moved(task, [[24 / 64, 20 / 64, 50 / 64, 36 / 64]], affine).values[0] * 64
        drawn = [across[0], down[0], across[-1] + 1, down[-1] + 1]
        np.testing.assert_allclose(found[:4], drawn, atol=1.01)


def test_a_turn_by_a_right_angle_and_a_little_one():
    task = Detection("boxes", size=64, names=("a",))
    quarter = _moved(task, [[0.6, 0.4, 0.9, 0.5]], [[0.0, -1, 0], [1.0, 0, 0]]).values[0]
    assert quarter[:4].tolist() == pytest.approx([0.4, 0.1, 0.5, 0.4], abs=1e-6)
    c, s = math.cos(0.2), math.sin(0.2)
    little = _moved(task, [[0.4, 0.4, 0.6, 0.6]], [[c, -s, 0], [s, c, 0]]).values[0]
    assert little[:4].tolist() == pytest.approx([0.4, 0.4, 0.6, 0.6], abs=1e-6)  # as a disc does


def test_boxes_that_leave_are_dropped_and_the_row_stays_known_to_be_empty():
    task = Detection("boxes", size=64, names=("a",))
    right = [[1.0, 0, -0.5], [0, 1, 0]]  # things go to the right by a quarter of the width
    boxes = [[0.0, 0, 0.2, 1], [0.5, 0, 0.9, 1], [0.6, 0, 1.0, 1], [0.1, 0, 1.0, 1], [0.9, 0, 1.0, 1]]
    found = _moved(task, boxes, right)
    assert found.lengths.tolist() == [1, 1, 0, 1, 0]
    assert found.values[0, :4].tolist() == pytest.approx([0.25, 0, 0.45, 1])
    assert found.values[1, :4].tolist() == pytest.approx([0.75, 0, 1, 1])
    assert len(found[torch.tensor([2])].values) == 0
    twice = [[0.4, 0, 0], [0, 0.4, 0]]  # 2.5 times as large: a fifth of the whole picture's box is left
    assert _moved(task, [[0.0, 0, 1, 1]], twice).lengths.tolist() == [0]


def test_augmentations_move_boxes_with_their_pictures():
    """A bright rectangle among others is still in its box after a flip and a crop."""
    task = Detection("boxes", size=64, names=("a",)).fitted(_frame([[0, 0, 20, 20, "a"]]))
    pictures, cells = torch.zeros(40, 1, 64, 64, dtype=torch.uint8), []
    for i in range(40):
        x, y = 20 + i % 7, 18 + i % 11
        pictures[i, 0, y : y + 16, x : x + 20] = 255
        cells.append([[x, y, x + 20, y + 16, "a"]] if i % 3 else None)
    target, known = task.encode(_frame(*cells))
    rows = Taskset({"image:photo": pictures}, (Block(("boxes",), target, known),))
    for word in ("flip", "crop"):
        found = find(Augmentation, word)()(rows, {"boxes": task}, torch.Generator().manual_seed(0))
        boxes, there, _ = found.labels("boxes")
        assert torch.equal(there, known)
        assert torch.equal(boxes.lengths, target.lengths)
        assert not torch.equal(boxes.values, target.values)
        for picture, own in zip(found.inputs["image:photo"], boxes, strict=True):
            for x0, y0, x1, y1 in (own[:, :4] * 64).tolist():
                inside = (picture[0] > 127).nonzero().float()
                drawn = [*inside.amin(0).flip(0).tolist(), *(inside.amax(0).flip(0) + 1).tolist()]
                np.testing.assert_allclose([x0, y0, x1, y1], drawn, atol=1.01)


# -- pixels of the pictures themselves


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_boxes_come_back_in_pixels_of_their_own_pictures(tmp_path, resize):
    sizes = [(60, 40), (30, 90), (64, 64)]
    for i, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    cells = [[[6, 10, 30, 38, "a"], [40, 2, 55, 9, "b"]], [[3, 50, 20, 89, "a"]], []]
    frame = _frame(*cells, photo=[f"{i}.png" for i in range(3)])
    task = Detection("boxes", picture="photo", root=str(tmp_path), size=(64, 128), resize=resize).fitted(frame)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    target, _ = task.encode(frame)
    truth = [Boxes(b.corners, b.classes, np.ones(len(b.classes))) for b in task.truth(target)]
    columns = task.columns(task.placed(Predicted(objects(truth)), frame))
    for cell, told in zip(cells, columns["boxes"], strict=True):
        assert [b[:5] for b in json.loads(told)] == [[*map(pytest.approx, b[:4]), b[4]] for b in cell]
    assert columns["boxes__count"].tolist() == [2, 1, 0]
    gone = task.placed(Predicted(objects(truth)), frame.assign(photo=[None, "1.png", "2.png"]))
    assert [len(b.classes) for b in gone.value] == [0, 1, 0]


def test_a_row_with_boxes_and_no_picture_is_refused(tmp_path):
    task = Detection("boxes", picture="photo", names=("cat",))
    with pytest.raises(DataError, match=r"`photo`.*Found no such column"):
        task.encode(_frame([CAT]))
    with pytest.raises(DataError, match=r"`photo`.*Found no file there in row 0"):
        task.encode(_frame([CAT], photo=[str(tmp_path / "none.png")]))
    assert task.encode(_frame())[0].values.shape == (0, 5)


def test_pictures_are_set_aside_from_the_list_of_train(tmp_path):
    for i in range(9):
        Image.new("RGB", (4, 4)).save(tmp_path / f"p{i}.png")
    (tmp_path / "train.txt").write_text("\n".join(f"p{i} 1" for i in range(7)), encoding="utf-8")
    (tmp_path / "test.txt").write_text("p7\np8", encoding="utf-8")
    parts = {"train": "train.txt", "test": "test.txt"}
    frame = Pictures(parts=parts, aside={"valid": 3, "test": 4}).frame(tmp_path)
    assert frame["part"].tolist() == ["valid", "test", "train", "valid", "train", "test", "valid", "test", "test"]
    for wrong in ({"aside": {"valid": 1}, "parts": parts}, {"aside": {"valid": 3}}):
        with pytest.raises(ValueError, match="`aside`"):
            Pictures(**wrong)


def test_the_mean_box_of_pets_finds_next_to_nothing(data_root):
    """The floor that the recipe names; only the picture's own size is read, so it is quick."""
    recipe = yaml.safe_load((RECIPES / "pets.yaml").read_text(encoding="utf-8"))
    settings = {k: v for k, v in recipe["data"]["format"].items() if k != "name"}
    frame = Pictures(**settings).frame(data_root / recipe["data"]["train"])
    assert frame["boxes"].notna().groupby(frame["part"]).agg(["size", "sum"]).to_numpy().tolist() == [
        [89, 29],  # of test, with the 60 official ones
        [120, 120],
        [31, 31],
    ]
    pictures = {"picture": "image", "size": recipe["features"]["types"]["image"]["size"]}
    task = Task.from_json({**recipe["tasks"]["head"], **pictures, "name": "head"})
    task = task.fitted(frame[frame["part"] == "train"])
    train, test = (task.encode(frame[frame["part"] == part]) for part in ("train", "test"))
    mean, shares = train[0].values[:, :4].mean(0), torch.bincount(train[0].values[:, 4].long()).double()
    both = Boxes(mean.expand(2, 4).numpy() * 96, np.arange(2), (shares / shares.sum()).numpy())
    truth = task.truth(test[0][test[1].nonzero().flatten()])
    value = metrics.find("average_precision_50")(truth, Predicted(objects([both] * len(truth)))).value
    assert value == pytest.approx(0.05, abs=0.01)


# -- whatever gives the features


@pytest.mark.parametrize("sharing", ["hard", "mmoe", "ple", "crossstitch", "mtan"])
def test_a_head_reads_one_map_or_several_where_the_scheme_allows_it(sharing):
    layout = {"t": {"image:photo": {"channels": 3, "size": [32, 48], "mean": [100.0] * 3, "sd": [60.0] * 3}}}
    x = {"image:photo": torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)}
    task = Detection("boxes", names=("a", "b", "c"), size=(32, 48), attach=[1, 2] if sharing == "hard" else None)
    tasks = [task, Binary("y", classes=(0, 1))]
    scheme = find(Sharing, sharing)(lambda: find(Encoder, "image")(layout, width=8, n_stages=3), tasks)
    outputs = Model(scheme, tasks)(x)
    assert outputs["boxes"].shape == (2, 7, *((8, 12) if sharing == "hard" else (4, 6)))
    assert len(task.rows(outputs["boxes"].detach())) == 2
    target, known = task.encode(_frame([[1, 2, 20, 20, "a"]], None))
    task.mean_loss(outputs["boxes"], target, known).backward()
