"""What a folder of pictures is taken for, and that the config it gives reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from manyheads.cli import main
from manyheads.data.formats.pictures import Pictures
from manyheads.faults import DataError
from manyheads.intake import of_file
from manyheads.spec import Part


def _photo(path, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path.name)))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)


def _mask(path, numbers=(0, 1), size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(numbers, np.uint8), size)).save(path)


def _xml(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    path.write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>", encoding="utf-8")


def _read(folder, columns):
    """The sketch of a folder, which must be readable as it says."""
    found = Pictures.sketch(folder)
    frame = of_file(folder, Part.of(found["data"]["format"]))
    for name, task in found["tasks"].items():
        assert frame[task.get("target", name)].notna().any()
    assert set(columns) <= set(frame.columns)
    return found, frame


@pytest.mark.parametrize("places", [("images", "masks"), (".", "masks"), ("a/photos", "labels/one")])
def test_masks_are_told_from_pictures(tmp_path, places):
    for i in range(6):
        _photo(tmp_path / places[0] / f"{i}.jpg")
        _mask(tmp_path / places[1] / f"{i}.png", (0, 1, 2))
    found, frame = _read(tmp_path, ["mask"])
    assert found["tasks"] == {"mask": {"type": "segmentation"}}
    assert found["data"]["split"]["kind"] == "random"
    assert len(frame) == 6
    assert frame["image"].str.endswith(".jpg").all()


def test_masks_may_be_named_by_what_is_behind(tmp_path):
    for i in range(12):
        _photo(tmp_path / "images" / f"{i}.jpg")
        if i < 9:
            _mask(tmp_path / "masks" / f"{i}_mask.png", (0, 1, 2))
    found, frame = _read(tmp_path, ["mask"])
    assert found["data"]["format"]["behind"] == "_mask"
    assert set(found["tasks"]) == {"mask"}
    assert frame["mask"].notna().sum() == 9


def test_masks_in_colours_are_refused(tmp_path):
    for i in range(4):
        _photo(tmp_path / "images" / f"{i}.png")
        colours = np.zeros((20, 30, 3), np.uint8)
        colours[:, 10 + i :, 0] = 200
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(colours).save(tmp_path / "masks" / f"{i}.png")
    with pytest.raises(DataError, match=r"masks` should hold masks with one number a pixel. Found colours; save"):
        Pictures.sketch(tmp_path)


def test_black_and_white_masks_are_two_classes(tmp_path):
    for i in range(4):
        _photo(tmp_path / "x" / f"{i}.png")
        _mask(tmp_path / "y" / f"{i}.png", (0, 255))
    found, _ = _read(tmp_path, ["mask"])
    assert found["tasks"]["mask"]["values"] == {0: "background", 255: "thing"}
    assert found["tasks"]["mask"]["ignore"] == []


def test_folders_are_classes_and_parts(tmp_path):
    for part in ("train", "val", "test"):
        for kind in ("cat", "dog", "owl"):
            for i in range(2):
                _photo(tmp_path / part / kind / f"{i}.png")
    found, frame = _read(tmp_path, ["class", "part"])
    assert found["tasks"] == {"class": {"type": "multiclass"}}
    assert found["data"]["split"] == {"kind": "column", "by": "part"}
    assert set(frame["part"]) == {"train", "valid", "test"}
    assert set(frame["class"]) == {"cat", "dog", "owl"}


def test_parts_with_masks_of_their_own(tmp_path):
    for part in ("train", "val", "test"):
        for i in range(3):
            _photo(tmp_path / part / f"{part}{i}.png")
            _mask(tmp_path / f"{part}annot" / f"{part}{i}.png")
    found, frame = _read(tmp_path, ["mask", "part"])
    assert set(found["tasks"]) == {"mask"}
    assert frame["mask"].notna().all()


def test_names_of_files_tell_classes_and_xml_files_boxes(tmp_path):
    for i in range(8):
        _photo(tmp_path / "pictures" / f"{'big_cat' if i % 2 else 'Dog'}_{i:02d}.png")
        if i < 4:
            _xml(tmp_path / "xmls" / f"{'big_cat' if i % 2 else 'Dog'}_{i:02d}.xml")
    found, frame = _read(tmp_path, ["class", "boxes"])
    assert found["tasks"] == {"class": {"type": "binary"}, "boxes": {"type": "detection"}}
    assert set(frame["class"]) == {"big_cat", "Dog"}
    assert frame["boxes"].notna().sum() == 4


def test_pictures_of_few_numbers_are_pictures_where_there_is_nothing_else(tmp_path):
    for kind in ("0", "1"):
        for i in range(3):
            _mask(tmp_path / kind / f"{i}.png", (0, int(kind)))
    found, _ = _read(tmp_path, ["class"])
    assert set(found["tasks"]) == {"class"}


def test_nothing_is_made_up(tmp_path):
    assert Pictures.sketch(tmp_path) is None
    for i in range(5):
        _photo(tmp_path / f"IMG_{i}.png")  # one word: no classes
    assert Pictures.sketch(tmp_path)["tasks"] == {}


@pytest.mark.parametrize(("size", "expected"), [((24, 30), [24, 32]), ((480, 640), [56, 72]), ((300, 300), 64)])
def test_the_canvas_has_the_shape_of_the_pictures(tmp_path, size, expected):
    for i in range(4):
        _photo(tmp_path / "ab"[i % 2] / f"{i}.png", size)
    canvas = Pictures.sketch(tmp_path)["features"]["types"]["image"]["size"]
    assert canvas == expected


def test_a_config_from_an_idx_file(tmp_path, capsys):
    """Its pictures are arrays, which nobody wants to predict."""
    path = tmp_path / "x-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(160))
    labels = bytes(i % 4 for i in range(40))
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 40]) + labels)
    assert main(["init", str(path), "-o", str(tmp_path / "run.yaml"), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"] == {"label": "multiclass"}
