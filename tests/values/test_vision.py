"""Pictures and masks: what is read, where it lies, what is counted, against slow and obvious computations."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow

from manyheads import metrics
from manyheads.catalog import find
from manyheads.data.assemble import Dataset
from manyheads.data.columns import Column, DataWarning, fitted
from manyheads.data.columns.image import Image
from manyheads.data.formats import Format
from manyheads.data.formats.idx import paired
from manyheads.data.formats.pictures import Pictures, components, voc
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError, DataError
from manyheads.metrics import Predicted
from manyheads.metrics.masks import IGNORED
from manyheads.model import Model
from manyheads.pictures import RESIZES, Canvas, decoded, indices, opened, png
from manyheads.ragged import objects
from manyheads.sharing import Sharing
from manyheads.spec import ModelSpec, build_model, settled
from manyheads.tasks import Task
from manyheads.tasks.classification import Binary
from manyheads.tasks.dense import Segmentation
from manyheads.tasks.detection import Detection


def _bytes(array, form="PNG", **how):
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, form, **how)
    return buffer.getvalue()


def _ramp(h, w):
    """A picture that tells where one is: red grows to the right, green to the bottom."""
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([255 * (x + 0.5) / w, 255 * (y + 0.5) / h, np.full((h, w), 90)], 2).astype(np.uint8)


# -- reading


def test_a_picture_is_read_by_its_content(tmp_path):
    array = _ramp(8, 12)
    path = tmp_path / "liar.jpg"
    path.write_bytes(_bytes(array))
    for value in (str(path), path, "liar.jpg", path.read_bytes(), array, array / 255.0):
        found = decoded(value, Canvas((8, 12)), 3, str(tmp_path))
        assert np.array_equal(found, array.transpose(2, 0, 1)), value


def test_modes_become_grey_or_rgb():
    grey = (np.arange(48).reshape(6, 8) * 5).astype(np.uint8)
    assert np.array_equal(decoded(grey, Canvas((6, 8)), 3), np.stack([grey] * 3))
    assert np.array_equal(
        decoded(_ramp(6, 8), Canvas((6, 8)), 1)[0], np.asarray(Pillow.fromarray(_ramp(6, 8)).convert("L"))
    )
    clear = np.zeros((6, 8, 4), np.uint8)
    assert (decoded(clear, Canvas((6, 8)), 3) == 255).all()  # what is transparent shows white
    palette = Pillow.fromarray(grey).convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert np.abs(decoded(buffer.getvalue(), Canvas((6, 8)), 1)[0].astype(int) - grey).max() <= 2
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(decoded(_bytes(deep), Canvas((6, 8)), 1)[0], grey)


def test_a_large_jpeg_read_at_a_fraction_is_about_the_same():
    array = _ramp(600, 840)
    for resize in RESIZES:
        small = decoded(_bytes(array, "JPEG", quality=95), Canvas((48, 64), resize), 3)
        exact = decoded(array, Canvas((48, 64), resize), 3)
        assert np.abs(small.astype(int) - exact)[:, 4:-4, 4:-4].mean() < 2, resize


@pytest.mark.parametrize(
    ("value", "said"),
    [("nowhere.png", "no file there"), (b"junk", "no picture"), (12.5, "float"), (np.zeros((2, 3, 7)), "shape"),
     (np.full((2, 2), 300), "beyond"), (_bytes(_ramp(40, 40))[:-60], "cannot be read")],
)  # fmt: skip
def test_what_is_no_picture_is_refused_by_column_and_row(value, said):
    series = pd.Series(objects([_ramp(4, 4), value]), name="photo")
    with pytest.raises(DataError, match=rf"`photo`.*{said}.*row 1"):
        fitted("image", series, {"size": 4})


def test_a_column_learns_its_colours_and_comes_back_from_json():
    rng = np.random.default_rng(0)
    series = pd.Series(objects([rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(9)] + [None]), name="p")
    column = fitted("image", series, {"size": [5, 7]})
    pictures = column.transform(series)
    assert pictures.shape == (10, 3, 5, 7)
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(column.mean, pictures[:9].mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(column.sd, pictures[:9].transpose(1, 0, 2, 3).reshape(3, -1).std(1), rtol=1e-9)
    assert np.array_equal(pictures[9], np.broadcast_to(np.round(column.mean)[:, None, None], (3, 5, 7)))
    again = Column.from_json(json.loads(json.dumps(column.to_json())))
    assert again == column
    assert np.array_equal(again.transform(series), pictures)
    x = torch.from_numpy(pictures[:9])
    stem = find(Encoder, "image")({"t": {"image:p": column.layout}}).stages[0]
    seen = (x - stem.mean) / stem.sd
    assert seen.mean((0, 2, 3)).abs().max() < 1e-5
    assert (seen.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": [3]}, {"channels": 2}, {"resize": "squash"}])
def test_settings_of_a_picture_are_checked(settings):
    with pytest.raises(ConfigError, match=rf"`p`.*`{next(iter(settings))}`"):
        Image.fit("p", pd.Series(objects([_ramp(4, 4)]), name="p"), **settings)


# -- geometry


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(("h", "w"), [(60, 30), (30, 60), (37, 91), (20, 20)])
def test_points_go_where_pixels_go(resize, h, w):
    canvas = Canvas((40, 48), resize)
    found = decoded(_ramp(h, w), canvas, 3).astype(float)
    left, top, right, bottom = canvas.place(h, w)
    for y in range(3, 37, 5):
        for x in range(3, 45, 5):
            if not (left + 2 < x < right - 3 and top + 2 < y < bottom - 3):
                continue
            px, py = canvas.off(np.array([x + 0.5, y + 0.5]), h, w)
            assert found[0, y, x] == pytest.approx(255 * px / w, abs=6)
            assert found[1, y, x] == pytest.approx(255 * py / h, abs=6)
    points = np.random.default_rng(0).random((5, 2)) * [w, h]
    np.testing.assert_allclose(canvas.off(canvas.onto(points, h, w), h, w), points)


def test_a_letterbox_keeps_shape_and_leaves_bands():
    white = np.full((20, 40, 3), 255, np.uint8)
    found = decoded(white, Canvas((40, 40), "letterbox"), 3)
    assert Canvas((40, 40), "letterbox").place(20, 40) == (0, 10, 40, 30)
    assert (found[:, 10:30] == 255).all()
    assert (found[:, :10] == 0).all()
    assert (found[:, 30:] == 0).all()


def test_a_crop_keeps_the_middle():
    array = np.zeros((20, 40, 3), np.uint8)
    array[:, 10:30] = 255
    assert (decoded(array, Canvas((20, 20), "crop"), 3) == 255).all()


@pytest.mark.parametrize("resize", RESIZES)
def test_a_mask_lifted_off_the_canvas_is_as_it_was(resize):
    h, w = 30, 50
    mask = np.zeros((h, w), np.uint8)
    mask[8:20, 15:35] = 3
    canvas = Canvas((60, 100) if resize != "crop" else (60, 80), resize)
    laid = np.asarray(canvas.laid(Pillow.fromarray(mask), 255, nearest=True))
    back = canvas.lifted(laid, h, w, 9)
    inside = slice(5, 45) if resize == "crop" else slice(None)
    assert np.array_equal(back[:, inside], mask[:, inside])
    assert resize != "crop" or (back[:, :4] == 9).all()


# -- masks


def test_metrics_are_the_literal_formula():
    rng = np.random.default_rng(1)
    y = objects([rng.choice(np.array([0, 1, 2, 255], np.uint8), (5, 6)) for _ in range(7)])
    p = objects([rng.integers(0, 4, (5, 6)).astype(np.uint8) for _ in range(7)])
    a, b = np.concatenate([m.ravel() for m in y]), np.concatenate([m.ravel() for m in p])
    a, b = a[(known := a != 255)], b[known]
    ious = [((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for c in range(4)]
    assert metrics.find("mean_iou")(y, Predicted(p)).value == pytest.approx(np.mean(ious), rel=1e-12)
    assert metrics.find("pixel_accuracy")(y, Predicted(p)).value == pytest.approx((a == b).mean(), rel=1e-12)
    weight = np.array([2.0, 0, 1, 1, 0, 3, 1])
    repeated = np.repeat(np.arange(7), weight.astype(int))
    for name in ("mean_iou", "pixel_accuracy"):
        weighted = metrics.find(name)(y, Predicted(p), weight).value
        assert weighted == pytest.approx(metrics.find(name)(y[repeated], Predicted(p[repeated])).value, rel=1e-12)


def test_an_absent_class_does_not_count():
    y = objects([np.array([[0, 0, 2, 255]], np.uint8)])
    p = objects([np.array([[0, 2, 2, 1]], np.uint8)])  # class 1 is said only where nothing is known
    assert metrics.find("mean_iou")(y, Predicted(p)).value == pytest.approx((1 / 2 + 1 / 2) / 2)


def _trimap(**more):
    settings = {"size": (4, 6), "values": {1: "animal", 2: "background"}, "ignore": 3} | more
    mask = np.full((4, 6), 2, np.uint8)
    mask[1:3, 1:4], mask[0] = 1, 3
    return Segmentation("animal", target="mask", **settings), mask


def test_numbers_become_classes_and_files_have_them_again():
    task, mask = _trimap()
    labels = pd.DataFrame({"mask": objects([mask, None])})
    task = task.fitted(labels)
    assert task.names == ("animal", "background")
    target, known = task.encode(labels)
    assert known.tolist() == [True, False]
    assert np.array_equal(target[0].numpy(), np.where(mask == 3, 255, mask - 1))
    assert task.sizes(target).tolist() == [18, 1]
    output = torch.nn.functional.one_hot(target.long() % 255, 2).movedim(-1, 1) * 50.0
    said = task.predict(task.rows(output))
    (path, content), _ = task.files(said, ["a", "b"], labels)
    assert path == "a.png"
    written = indices(opened(content))
    assert np.array_equal(written[mask != 3], mask[mask != 3])
    shares = task.columns(said)
    assert shares["animal__share_animal"][0] == pytest.approx((np.asarray(said.value)[0] == 0).mean())


def test_files_have_the_size_of_their_pictures():
    task, mask = _trimap(picture="photo")
    big = mask.repeat(5, 0).repeat(5, 1)
    frame = pd.DataFrame({"mask": objects([big]), "photo": objects([np.zeros((*big.shape, 3), np.uint8)])})
    task = task.fitted(frame)
    target, _ = task.encode(frame)
    ((_, content),) = task.files(Predicted(objects([target[0].numpy() % 255])), ["a"], frame)
    written = indices(opened(content))
    assert written.shape == big.shape
    assert np.array_equal(written[big != 3], big[big != 3])


def test_a_mask_of_another_size_than_its_picture_is_refused():
    task, mask = _trimap(picture="photo")
    frame = pd.DataFrame({"mask": objects([None, mask]), "photo": objects([None, np.zeros((4, 7, 3), np.uint8)])})
    with pytest.raises(DataError, match=r"`animal`.*row 1.*7 x 4. Found 6 x 4"):
        task.fitted(frame)


def test_a_number_that_is_no_class_is_refused():
    task, mask = _trimap(ignore=9)
    with pytest.raises(DataError, match=r"`animal`.*row 0.*1, 2.*Found 3; list it"):
        task.fitted(pd.DataFrame({"mask": objects([mask])}))
    with pytest.raises(DataError, match=r"`animal`.*colours.*row 0"):
        task.fitted(pd.DataFrame({"mask": objects([_ramp(4, 6)])}))
    with pytest.raises(DataError, match=r"`animal`.*2 to 255.*Found 1"):
        Segmentation("animal").fitted(pd.DataFrame({"animal": objects([np.zeros((3, 3), np.uint8)])}))
    for wrong in ({"values": {1: "a", 300: "b"}}, {"values": {1: "a", 255: "b"}}, {"size": 0}, {"resize": "x"}):
        with pytest.raises(ConfigError, match="`m`"):
            Segmentation("m", **wrong)


def test_the_loss_is_the_literal_one():
    torch.manual_seed(0)
    task = Segmentation("m", size=(3, 4), names=("a", "b", "c"), weights=(1.0, 2.0, 0.5))
    output, target = torch.randn(2, 3, 3, 4), torch.randint(0, 3, (2, 3, 4), dtype=torch.uint8)
    target[0, 0, :2] = 255
    total, weight = 0.0, 0.0
    for row in range(2):
        for y in range(3):
            for x in range(4):
                if (c := int(target[row, y, x])) != 255:
                    total -= task.weights[c] * float(output[row, :, y, x].log_softmax(0)[c])
                    weight += task.weights[c]
    known = torch.ones(2, dtype=torch.bool)
    assert task.mean_loss(output, target, known).item() == pytest.approx(total / weight, rel=1e-5)
    dice = Segmentation("m", size=(3, 4), names=("a", "b", "c"), loss="log_loss+dice")
    plain = Segmentation("m", size=(3, 4), names=("a", "b", "c"))
    more = dice.errors(output, target) - plain.errors(output, target)
    p, there = output[0].softmax(0), target[0] != 255
    parts = [
        1 - (2 * p[c][there & (target[0] == c)].sum() + 1) / (p[c][there].sum() + (target[0] == c).sum() + 1)
        for c in range(3)
    ]
    assert more[0].item() == pytest.approx(10 * float(torch.stack(parts).mean()), rel=1e-4)


def test_an_ignored_pixel_teaches_nothing():
    task = Segmentation("m", size=(2, 2), names=("a", "b"), loss="log_loss+dice")
    target = torch.tensor([[[0, 255], [1, 1]]], dtype=torch.uint8)
    output = torch.randn(1, 2, 2, 2)
    calm = task.errors(output, target)
    output[0, :, 0, 1] = float("nan")
    output.requires_grad_()
    wild = task.errors(output, target)
    wild.sum().backward()
    assert torch.equal(wild, calm)
    assert (output.grad[0, :, 0, 1] == 0).all()
    assert torch.isfinite(output.grad).all()


def test_masks_that_would_teach_something_else_are_refused():
    black = pd.DataFrame({"m": objects([np.array([[0, 255]], np.uint8)])})
    with pytest.raises(DataError, match=r"Found 1; if 255 is a class, .*`values: \{0: background, 255: thing\}`"):
        Segmentation("m", size=(1, 2)).fitted(black)
    both = Segmentation("m", size=(1, 2), values={0: "background", 255: "thing"}, ignore=[]).fitted(black)
    assert both.encode(black)[0].tolist() == [[[0, 1]]]
    lossy = pd.DataFrame({"m": [_bytes(np.eye(9, dtype=np.uint8) * 200, "JPEG")]})
    with pytest.raises(DataError, match="Found a JPEG, whose numbers are not exact; save masks as PNG"):
        Segmentation("m", size=9).fitted(lossy)


def test_a_head_for_masks_reads_several_stages_under_every_attachment():
    layout = {"t": {"image:p": {"channels": 3, "size": [32, 48], "mean": [99.0] * 3, "sd": [50.0] * 3}}}
    x = {"image:p": torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)}
    for attach, size in ((None, (16, 24)), ([2, 1], (8, 12)), (-1, (2, 3))):
        tasks = [Segmentation("m", names=("a", "b"), size=(32, 48), attach=attach), Binary("y", classes=(0, 1))]
        sharing = find(Sharing, "hard")(lambda: find(Encoder, "image")(layout, width=8), tasks)
        model = Model(sharing, tasks)
        outputs = model(x)
        assert outputs["m"].shape == (2, 2, *size)
        assert tasks[0].rows(outputs["m"]).shape == (2, 32, 48)
        assert outputs["y"].shape == (2, 1)
        assert sharing.depths["y"] == (3,)
    for scheme in ("hard", "mtan"):  # the fine stage is what a mask wants
        mask = Segmentation("m", names=("a", "b"))
        sharing = find(Sharing, scheme)(lambda: find(Encoder, "image")(layout, width=8, detail=4), [mask])
        assert Model(sharing, [mask])(x)["m"].shape == (2, 2, 8, 12)


def test_places_are_means_over_parts_of_the_map():
    """Against a loop over parts: part i of n has the rows from floor(i h / n) to ceil((i + 1) h / n)."""
    layout = {"t": {"image:p": {"channels": 1, "size": [36, 44], "mean": [99.0], "sd": [50.0]}}}
    x = {"image:p": torch.randint(0, 256, (2, 1, 36, 44), dtype=torch.uint8)}
    encoder = find(Encoder, "image")(layout, width=4, n_stages=3, places=2, dropout=0.5).eval()
    tasks = [Segmentation("m", names=("a", "b"), size=(36, 44)), Binary("y", classes=(0, 1))]
    sharing = find(Sharing, "hard")(lambda: encoder, tasks)
    z = x
    for stage in encoder.stages[:3]:
        z = stage(z)
    parts = []
    for c in range(16):
        for i in range(2):
            for j in range(2):
                rows, columns = (
                    slice(k * n // 2, -(-(k + 1) * n // 2)) for k, n in zip((i, j), z.shape[2:], strict=True)
                )
                parts.append(z[:, c, rows, columns].mean((1, 2)))
    found = sharing(x, ("m", "y"))
    assert torch.allclose(found["y"], torch.stack(parts, 1), atol=1e-6)
    assert [tuple(m.shape[1:]) for m in found["m"]] == [(4, 18, 22), (8, 9, 11), (16, 5, 6)]  # maps keep their places
    assert encoder.widths == [4, 8, 16, 64]
    for wrong in ({"places": -1}, {"detail": -1}):
        with pytest.raises(ValueError, match="`places`"):
            find(Encoder, "image")(layout, **wrong)


def test_a_head_for_masks_needs_places():
    head = Segmentation("m", names=("a", "b")).head([4])
    with pytest.raises(ConfigError, match=r"without places; use the encoder `image`.*features\.only"):
        head(torch.zeros(2, 4))


# -- the encoder that a model takes by itself


PHOTO = {"channels": 3, "size": [32, 32], "mean": [99.0] * 3, "sd": [50.0] * 3}


@pytest.mark.parametrize(
    ("layout", "encoder", "members"),
    [
        ({"numeric": 2, "categorical": [3]}, "tabular", 8),
        ({"numeric": 0, "categorical": [], "image:p": PHOTO}, "image", 1),
        ({"numeric": 1, "categorical": [], "image:p": PHOTO}, "fused", 1),
        ({"numeric": 0, "categorical": [], "image:p": PHOTO, "image:q": PHOTO}, "fused", 1),
    ],
)
def test_auto(layout, encoder, members):
    found = settled(ModelSpec(), {"t": layout})
    assert (found.encoder.name, found.members) == (encoder, members)
    kept = ModelSpec.model_validate({"encoder": "tabular", "members": 8})  # as older models say it
    assert settled(kept, {"t": layout}) == kept
    given = settled(
        ModelSpec.model_validate({"encoder": {"name": "auto", "dropout": 0.1}, "members": 2}), {"t": layout}
    )
    assert (given.encoder.settings, given.members) == ({"dropout": 0.1}, 2)


def test_auto_without_an_encoder_of_the_kind_says_so():
    with pytest.raises(ConfigError, match="smell"):
        build_model(ModelSpec(), {"t": {"smell:x": 3}}, [Binary("y", classes=(0, 1))])


# -- formats


def test_components_are_boxes():
    mask = np.zeros((6, 9), bool)
    mask[1:3, 2:5] = mask[3, 5] = True  # a corner touches
    mask[5, 8] = True
    assert components(mask, "car") == [[2, 1, 6, 4, "car"], [8, 5, 9, 6, "car"]]
    assert components(mask, "car", 2) == [[2, 1, 6, 4, "car"]]


def test_voc_counts_from_one(tmp_path):
    file = tmp_path / "a.xml"
    box = "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>20</xmax><ymax>{}</ymax></bndbox>"
    file.write_text(f"<a><object><name>cat</name>{box.format(10)}</object></a>")
    assert voc(file, (20, 10)) == [[0, 2, 20, 10, "cat"]]
    file.write_text(f"<a><object><name>cat</name>{box.format(2)}</object></a>")
    with pytest.raises(ValueError, match=r"xmin <= xmax .* within its picture of 20 x 10\|\[1, 3, 20, 2\]"):
        voc(file, (20, 10))
    file.write_text("<a>")
    with pytest.raises(ValueError, match="damaged"):
        voc(file, (20, 10))


def test_a_box_that_stands_out_of_its_picture_is_clipped_and_told(tmp_path):
    for stem, right in (("a", 8), ("b", 9), ("c", 90)):  # of 8 pixels; the second counts from 0
        Pillow.new("RGB", (8, 6)).save(tmp_path / f"{stem}.png")
        corners = f"<xmin>0</xmin><ymin>1</ymin><xmax>{right}</xmax><ymax>6</ymax>"
        (tmp_path / f"{stem}.xml").write_text(f"<a><object><name>cat</name><bndbox>{corners}</bndbox></object></a>")
    with pytest.warns(DataWarning, match=r"Found 1 that stand out, the first in `.*c\.xml`; they are clipped"):
        frame = Pictures(boxes=".").frame(tmp_path)
    assert frame["boxes"].tolist() == ['[[0, 0, 8, 6, "cat"]]'] * 3


def test_pairs_overlap_by_their_maximum():
    pictures = np.stack([np.full((4, 4), v, np.uint8) for v in (10, 200, 50)])
    canvas, left, right = paired(pictures, np.array([0, 2]), 20, np.random.default_rng(0), 6)
    assert set(left) | set(right) == {0, 2}
    for one, i, j in zip(canvas, left, right, strict=True):
        a, b = pictures[i][0, 0], pictures[j][0, 0]
        assert one[0, 0] == a
        assert one[5, 5] == b
        assert (one[2:4, 2:4] == max(a, b)).all()
        assert one[0, 5] == 0


def test_pairs_of_parts_have_no_picture_in_common(tmp_path):
    path = tmp_path / "x-images-idx3-ubyte"
    pictures = np.repeat(np.arange(40, dtype=np.uint8), 4)
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0, 0, 2]) + pictures.tobytes())
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 40, *range(40)]))
    frame = find(Format, "idx")(pairs=100, side=3).frame(path)
    assert frame["part"].value_counts().to_dict() == {"train": 60, "test": 25, "valid": 15}
    seen = {part: set(own["left"]) | set(own["right"]) for part, own in frame.groupby("part")}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["valid"]
    row = frame.iloc[0]
    assert row["image"][0, 0] == row["left"]
    assert row["image"][2, 2] == row["right"]


def _zoo(tmp_path):
    for place in ("images", "masks", "boxes"):
        (tmp_path / place).mkdir()
    for i, name in enumerate(("cat_1", "cat_2", "dog_1")):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(_bytes(_ramp(6, 8)))
        if i:
            (tmp_path / "masks" / f"{name}.png").write_bytes(png(np.eye(6, 8, dtype=np.uint8) * i))
    box = "<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>4</xmax><ymax>6</ymax></bndbox>"
    (tmp_path / "boxes" / "cat_2.xml").write_text(f"<a><object><name>head</name>{box}</object></a>")
    (tmp_path / "train.txt").write_text("cat_1 1\ncat_2 1\n")
    (tmp_path / "test.txt").write_text("dog_1 2\n")
    (tmp_path / "list.txt").write_text("# name weight\ncat_1 3\ndog_1 20\n")
    return {"images": "images", "masks": "masks", "pattern": "(?P<kind>.+)_[0-9]"}


def test_a_folder_of_pictures_becomes_a_table(tmp_path):
    settings = _zoo(tmp_path) | {
        "boxes": "boxes", "parts": {"train": "train.txt", "test": "test.txt"}, "table": "list.txt",
        "columns": ["weight"], "present": {2: "stripe"},
    }  # fmt: skip
    frame = find(Format, "pictures")(**settings).frame(tmp_path)
    assert frame["kind"].tolist() == ["cat", "cat", "dog"]
    assert frame["part"].tolist() == ["train", "train", "test"]
    assert frame["weight"].tolist()[::2] == [3, 20]
    assert pd.isna(frame["weight"][1])
    assert pd.isna(frame["mask"][0])
    assert pd.isna(frame["has_stripe"][0])
    assert frame["has_stripe"].tolist()[1:] == [0, 1]
    assert pd.isna(frame["boxes"][0])
    assert json.loads(frame["boxes"][1]) == [[1, 0, 4, 6, "head"]]
    assert frame[["width", "height"]].drop_duplicates().values.tolist() == [[8, 6]]


def test_what_does_not_fit_a_picture_is_refused_by_its_file(tmp_path):
    settings = _zoo(tmp_path)
    (tmp_path / "masks" / "dog_1.png").write_bytes(png(np.zeros((5, 8), np.uint8)))
    with pytest.raises(DataError, match=r"dog_1.png.*8 x 6. Found 8 x 5"):
        find(Format, "pictures")(**settings).frame(tmp_path)
    form = find(Format, "pictures")("skip", **settings)
    assert len(form.frame(tmp_path)) == 2
    with pytest.raises(DataError, match="cat_1"):
        find(Format, "pictures")(**settings | {"pattern": "dog_[0-9]"}).frame(tmp_path)


def test_two_breeds_are_read_as_they_are_published(data_root):
    """A PNG among the JPEGs, one picture with an EXIF orientation that its mask has not, no boxes in the test part."""
    folder = data_root / "oxford_pets_small"
    form = find(Format, "pictures")(
        images="images", masks="annotations/trimaps", boxes="annotations/xmls", pattern="(?P<breed>.+)_[0-9]+",
        parts={"train": "annotations/trainval.txt", "test": "annotations/test.txt"},
    )  # fmt: skip
    frame = form.frame(folder)
    assert frame["part"].value_counts().to_dict() == {"train": 180, "test": 60}
    assert frame["breed"].value_counts().tolist() == [80, 80, 80]
    assert frame["boxes"].isna().equals(frame["part"] == "test")
    odd = frame[frame["image"].str.contains(r"Abyssinian_(?:5|17)\.jpg")]
    assert fitted("image", odd["image"], {"size": 32}).transform(odd["image"]).shape == (2, 3, 32, 32)
    task = Segmentation("m", target="mask", picture="image", values={1: "a", 2: "b"}, ignore=3).fitted(odd)
    assert task.encode(odd)[1].all()
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


# -- a picture's canvas is given once


@pytest.fixture
def album(tmp_path):
    """Six pictures of 40 x 60, their masks and boxes, by paths relative to two folders."""
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    rows = []
    for i in range(6):
        Pillow.fromarray(np.full((40, 60, 3), 30 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
        mask = np.zeros((40, 60), np.uint8)
        mask[:, 30:] = 1
        Pillow.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
        rows.append({"photo": f"{i}.png", "mask": f"{i}.png", "boxes": json.dumps([[0, 10, 30, 30, "cat"]])})
    return pd.DataFrame(rows), tmp_path


def _dataset(album, tasks, **settings):
    frame, folder = album
    photo = {"type": "image", "root": str(folder / "photos"), "size": [20, 30]} | settings
    return Dataset.fit({"t": frame}, tasks, types={"photo": photo})


def test_labels_lie_where_their_pictures_lie(album):
    masks = Segmentation("mask", root=str(album[1] / "masks"))
    fitted = _dataset(album, [masks, Detection("boxes")], resize="letterbox", size=[20, 60])
    for task in fitted.tasks:
        assert (task.picture, task.size, task.resize) == ("photo", (20, 60), "letterbox")
    rows = fitted.tasksets({"t": album[0]})["t"]
    (mask,) = (b.target[0] for b in rows.blocks if b.tasks == ("mask",))
    assert mask.shape == (20, 60)
    assert (mask[:, 15:30] == 0).all()
    assert (mask[:, 30:45] == 1).all()
    assert (mask[:, :15] == IGNORED).all()
    (boxes,) = (next(iter(b.target)) for b in rows.blocks if b.tasks == ("boxes",))
    np.testing.assert_allclose(boxes[0][:4], [15 / 60, 5 / 20, 30 / 60, 15 / 20])  # in pixels of 40 x 60 before
    again = Task.from_json(json.loads(json.dumps(fitted.tasks[0].to_json())))
    assert again.canvas == fitted.tasks[0].canvas


def test_what_a_task_says_of_its_canvas_stands_or_is_refused(album):
    masks = str(album[1] / "masks")
    (half,) = _dataset(album, [Segmentation("mask", root=masks, size=(10, 15))]).tasks
    assert half.canvas == Canvas((10, 15))
    for settings in ({"size": (20, 20)}, {"resize": "crop"}):
        with pytest.raises(ConfigError, match=r"as the pictures of `photo` do, letterbox to 20 x 30. Found .*remove"):
            _dataset(album, [Segmentation("mask", root=masks, **settings)], resize="letterbox")
    with pytest.raises(ConfigError, match="`crop`"):
        _dataset(album, [Detection("boxes")], resize="crop")
    with pytest.raises(ConfigError, match=r"Found `foto`. Did you mean `photo`\?"):
        _dataset(album, [Detection("boxes", picture="foto")])


def test_an_image_of_pillow_is_read_as_its_array_and_stays_as_it_is():
    array = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Pillow.fromarray(array)
    canvas = Canvas((6, 8), "letterbox")
    assert np.array_equal(decoded(image, canvas, 3), decoded(array, canvas, 3))
    with opened(image) as one:
        assert one is not image
    assert np.array_equal(np.asarray(image), array)  # not closed with the copy
