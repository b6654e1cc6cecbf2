"""Pictures through the command line: classes and masks, predictions as files, and the recipes as far as they get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from manyheads.cli import main

RECIPES = Path(__file__).parent.parent.parent / "recipes"
CONFIG = {
    "schema_version": 1,
    "data": {
        "train": "zoo",
        "format": {"name": "pictures", "images": "images", "masks": "masks", "pattern": "(?P<kind>[a-z]+)_[0-9]+"},
        "split": {"kind": "stratified", "sizes": [0.6, 0.2, 0.2]},
    },
    "features": {"only": ["image"], "types": {"image": {"type": "image", "size": 32}}},
    "tasks": {
        "kind": {"type": "binary"},
        "shape": {"type": "segmentation", "target": "mask", "attach": [0, 1, 2]},
    },
    "model": {"encoder": {"name": "auto", "width": 8, "n_stages": 3}},
    "optim": {"lr": 0.01},
    "sampling": {"batch_size": 8, "augment": ["flip", "crop", "colour"]},
    "trainer": {"max_epochs": 6},
}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """60 pictures of discs: red ones are called sun, blue ones moon; their masks; sizes differ."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for place in ("images", "masks"):
        (tmp_path / "zoo" / place).mkdir(parents=True)
    for i in range(60):
        h, w = rng.integers(30, 60, 2)
        y, x = np.mgrid[0:h, 0:w]
        disc = (y - rng.uniform(10, h - 10)) ** 2 + (x - rng.uniform(10, w - 10)) ** 2 < 81
        picture = rng.integers(60, 120, (h, w, 3))
        picture[disc, 0 if i % 2 else 2] = 230
        name = f"{'sun' if i % 2 else 'moon'}_{i}.png"
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "zoo" / "images" / name)
        Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "zoo" / "masks" / name)
    _write(CONFIG)
    return tmp_path


def _write(config):
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def _said(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_a_folder_of_pictures_to_masks(zoo, capsys):
    assert main(["check", "-c", "run.yaml", "-q"]) == 0
    capsys.readouterr()
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json", "-q"]) == 0
    scores = _said(capsys)["scores"]["test"]
    assert scores["shape"]["mean_iou"]["value"] > 0.7
    assert scores["shape"]["mean_iou"]["interval"][0] > 0.5
    assert scores["shape"]["mean_iou"]["labels"] == 12
    spec = json.loads((zoo / "run" / "model" / "spec.json").read_text(encoding="utf-8"))["model"]
    assert spec["encoder"]["name"] == "image"
    assert spec["members"] == 1
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert page.count('<figure class="example">') == 4
    assert "shape: predicted" in page
    assert "of the labelled pixels are right" in page
    assert Path("run/examples.json").stat().st_size < 1_500_000
    valid = pd.read_parquet("run/predictions/valid.parquet")
    assert {"kind", "kind__prob", "shape__share_0", "shape__share_1"} <= set(valid.columns)

    assert main(["predict", "run", "zoo", "-o", "out.csv", "--files", "found", "-q"]) == 0
    said = pd.read_csv("out.csv")
    assert len(said) == 60
    agreed = []
    for path in said["image"]:
        name = Path(path).name
        found, true = (np.asarray(Image.open(folder / name)) for folder in (Path("found/shape"), Path("zoo/masks")))
        assert found.shape == true.shape
        agreed.append((found == true).mean())
    assert np.mean(agreed) > 0.85
    assert main(["predict", "run", "zoo", "-o", "other.csv", "--files", "found", "-q"]) == 2  # it exists
    assert "found" in capsys.readouterr().err

    new = zoo / "new"
    new.mkdir()
    Image.open("zoo/images/sun_1.png").convert("RGB").save(new / "a.png")
    assert main(["predict", "run", "new", "-o", "new.csv", "--files", "cut", "--json", "-q"]) == 0  # no masks, no names
    assert _said(capsys)["files"] == 1
    assert (zoo / "cut" / "shape" / "a.png").is_file()
    assert main(["predict", "run", "new/a.png", "-o", "a.csv", "-q"]) == 0
    both = [pd.read_csv(file) for file in ("new.csv", "a.csv")]
    assert both[0]["image"].tolist() == ["new/a.png"]  # a folder's rows are named by their files
    pd.testing.assert_frame_equal(both[0].drop(columns="image"), both[1])
    assert main(["evaluate", "run", "new", "-q"]) == 3  # there is nothing to compare with
    assert "new/masks" in capsys.readouterr().err
    pd.DataFrame({"image": [str(new / "a.png")] * 2}).to_csv("list.csv", index=False)
    assert main(["predict", "run", "list.csv", "-o", "two.csv", "--files", "two", "-q"]) == 0
    assert sorted(p.name for p in (zoo / "two" / "shape").iterdir()) == ["0.png", "1.png"]
    capsys.readouterr()
    assert main(["evaluate", "run", "zoo", "--json", "-q"]) == 0
    assert _said(capsys)["scores"]["shape"]["mean_iou"]["labels"] == 60


def test_a_config_from_a_folder(zoo, capsys):
    """What `init` writes trains as it is, and finds what there is to find."""
    assert main(["init", "zoo", "-o", "first.yaml", "--json"]) == 0
    assert _said(capsys)["tasks"] == {"class": "binary", "mask": "segmentation"}
    assert main(["check", "-c", "first.yaml", "-q"]) == 0
    quick = ["model.encoder={name: image, width: 8}", "trainer.max_epochs=8"]
    assert main(["train", "-c", "first.yaml", "-o", "run", "--json", "-q", *quick]) == 0
    found = _said(capsys)["scores"]["test"]
    assert found["mask"]["mean_iou"]["value"] > 0.7
    assert main(["init", "zoo", "-o", "masks.yaml", "--targets", "mask", "--json"]) == 0
    assert set(_said(capsys)["tasks"]) == {"mask"}
    assert main(["init", "zoo", "-o", "no.yaml", "--targets", "musk"]) == 2
    assert "Did you mean `mask`?" in capsys.readouterr().err
    (zoo / "nothing").mkdir()
    assert main(["init", "nothing", "-o", "no.yaml"]) == 3
    assert "a folder of pictures" in capsys.readouterr().err
    assert main(["init", "zoo/masks", "-o", "no.yaml", "-q"]) == 0  # pictures too, for all that anybody knows
    Path("zoo/images/sun_1.png").write_bytes(b"no picture")
    assert main(["init", "zoo", "-o", "damaged.yaml", "-q"]) == 0  # `check` and `train` say which file is damaged
    assert main(["check", "-c", "damaged.yaml", "-q"]) == 3
    assert "sun_1.png" in capsys.readouterr().err


def test_masks_and_classes_compared_with_a_model_each(zoo, capsys):
    small = ["model.encoder={name: image, width: 4, n_stages: 3}", "trainer.max_epochs=2"]
    assert main(["compare", "-c", "run.yaml", "-o", "against", "--repeats", "2", "--json", "-q", *small]) == 0
    said = _said(capsys)
    for name, metric in (("kind", "roc_auc"), ("shape", "mean_iou")):
        found = said["tasks"][name]
        assert found["metric"] == metric
        assert 0 <= found["joint"] <= 1
        assert 0 <= found["single"] <= 1
        assert found["linear"] is found["boosting"] is None  # there is no such model of pictures
    page = Path("against/report.html").read_text(encoding="utf-8")
    costs = page[page.index("What each method cost") :].partition("</table>")[0]
    assert "single" in costs
    assert "boosting" not in costs


def test_members_of_pictures(zoo, capsys):
    _write(CONFIG | {"model": {"members": 2, "encoder": {"name": "image", "width": 4, "n_stages": 3}}})
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "trainer.max_epochs=1"]) == 0
    assert main(["predict", "run", "zoo", "-o", "out.csv", "--files", "found", "-q"]) == 0
    assert len(list(Path("found/shape").iterdir())) == 60


def test_a_step_in_parts_is_counted_in_pixels(zoo, capsys):
    whole = ["trainer.max_epochs=1", "sampling.batch_size=16", "sampling.augment=[]"]
    parts = [
        "trainer.max_epochs=1",
        "sampling.batch_size=8",
        "trainer.accumulate_grad_batches=2",
        "sampling.augment=[]",
    ]
    values = []
    for i, more in enumerate((whole, parts)):
        assert main(["train", "-c", "run.yaml", "-o", f"run{i}", "-q", "optim.lr=0.001", *more]) == 0
        metrics = pd.read_csv(f"run{i}/metrics.csv")
        values.append(metrics[(metrics.split == "train") & (metrics.metric == "loss")].value.to_numpy())
    np.testing.assert_allclose(values[0], values[1], rtol=0.02)


def test_what_is_wrong_is_named(zoo, capsys):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("zoo/masks/sun_1.png")
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 3
    assert "sun_1.png" in capsys.readouterr().err
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "data.on_error=skip", "trainer.max_epochs=1"]) == 0
    assert "1 row was left out" in json.loads(Path("run/report.json").read_text(encoding="utf-8"))["warnings"][0]
    capsys.readouterr()
    assert main(["train", "-c", "run.yaml", "-o", "other", "-q", "model.encoder.widht=3"]) == 2
    assert "Did you mean `width`?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pets", "camvid", "multifashion"])
def test_the_recipes_begin(name, data_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = {
        "pets": ["features.types.image.size=32"],
        "camvid": ["features.types.image.size=[24, 32]"],
        "multifashion": ["data.format.pairs=300"],
    }[name]
    command = ["train", "-c", str(RECIPES / f"{name}.yaml"), "-o", "run", f"data.root={data_root}"]
    assert main([*command, *quick, "trainer.max_epochs=1", "model.encoder.width=4", "--json", "-q"]) == 0
    found = _said(capsys)["scores"]["test"]
    described = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["tasks"]
    assert set(found) == set(described)
