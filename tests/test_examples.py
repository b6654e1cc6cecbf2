"""Examples on a page: every kind of value is drawn, has words that say the same, and signs for right and wrong."""

from __future__ import annotations

import base64
import io
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_pages import browse, outside, words

from manyheads import exhibits
from manyheads.commands.examples import DRAWN, PER_TABLE, gather
from manyheads.commands.runs import read_report
from manyheads.data.assemble import Dataset
from manyheads.learner import Learner
from manyheads.pictures import Canvas, png
from manyheads.report import layers, render, write
from manyheads.results import (
    Boxes,
    Example,
    Examples,
    Mask,
    Pair,
    Report,
    Sound,
    Tags,
    Text,
)
from manyheads.spec import ModelSpec, build_model, settled
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression
from manyheads.tasks.text import Tagging

ODD = '<b>x</b> & "y"'


def _mask(array, names=("sky", "road", ODD)):
    return exhibits.mask(np.asarray(array, np.uint8), names)


def _picture(height=30, width=40):
    return exhibits.picture(np.full((height, width, 3), 90, np.uint8), Canvas((16, 16), "stretch"), 3)


def _sound(seconds=0.5, noise=0.0):
    rng = np.random.default_rng(0)
    t = np.arange(int(8000 * seconds)) / 8000
    return exhibits.sound(np.sin(2 * np.pi * 1000 * t) + noise * rng.normal(size=len(t)), 8000)


TRUE = np.zeros((20, 30), np.uint8)
TRUE[10:] = 1
SAID = TRUE.copy()
SAID[:, :6] = 2
WORDS = ("Ann", "Lee", "works", "at", ODD)
EVERY = Example(
    row=17,
    table="places",
    inputs={
        "image": _picture(), "sentence": Text(text=" ".join(WORDS), words=WORDS), "audio": _sound(noise=1.0),
        "note": Text(text="a note beside it"),
    },
    tasks={
        "scene": Pair(true=_mask(TRUE), said=_mask(SAID)),
        "unlabelled": Pair(true=None, said=_mask(SAID)),
        "things": Pair(
            true=Boxes(boxes=((0.1, 0.1, 0.4, 0.5, "cat", None), (0.6, 0.6, 0.9, 0.9, "dog", None))),
            said=Boxes(boxes=(
                (0.1, 0.12, 0.4, 0.5, "cat", 0.9), (0.0, 0.8, 0.2, 1.0, "dog", 0.5), (0.5, 0.5, 0.6, 0.6, "cat", 0.1),
            )),
        ),
        "names": Pair(
            true=Tags(length=5, spans=((0, 2, "Peop"), (4, 5, "Org")), relations=((0, 1, "Work_For"),)),
            said=Tags(length=5, spans=((0, 2, "Peop"), (3, 4, "Loc"))),
        ),
        "upos": Pair(
            true=Tags(length=5, spans=tuple((i, i + 1, "NOUN") for i in range(5))),
            said=Tags(length=5, spans=tuple((i, i + 1, "NOUN" if i else "VERB") for i in range(5))),
        ),
        "clean": Pair(true=_sound(), said=_sound(noise=0.1)),
        "said": Pair(true=Text(text="one two three", words=("one", "two", "three")),
                     said=Text(text="one four three", words=("one", "four", "three"))),
        "breed": Pair(true=Text(text="Bengal"), said=Text(text="Bengal", chance=0.83)),
        "weight": Pair(true=Text(text="3.1", exact=False), said=Text(text="4", exact=False)),
        ODD: Pair(true=None, said=Text(text=ODD)),
    },
)  # fmt: skip
REPORT = Report(title="one of each", examples=Examples(split="test", rows=(EVERY, EVERY)))


@pytest.fixture(scope="module")
def page():
    return render([REPORT])


def test_every_kind_is_drawn_in_one_safe_file(page):
    assert outside(page) == []
    assert "<script" not in page
    assert "<b>x</b>" not in page
    assert ODD in unescape(page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    assert len(figures) == 2
    for figure in figures:
        assert "Row 17 of places" in words(figure)
        assert figure.count('role="img"') == 9  # the picture, two sounds beside the heard one, three masks, two boxes
        assert figure.count('role="img"') == len(re.findall(r'role="img" aria-label="[^"]{8,}"', figure))
        assert "<details>" in figure


def test_a_picture_is_kept_once_per_row(page):
    assert page.count(EVERY.inputs["image"].png) == 2
    assert len(page.encode()) < 300_000


def test_words_say_what_drawings_show(page):
    text = " ".join(words(page).split())
    for part in (
        "sky 50.0 %, road 50.0 %", "80.0 % of the labelled pixels are right", "nobody knows",
        "cat from 10 % to 40 % across and 10 % to 50 % down", "true boxes found: 1 of 2", "not drawn, as they are less",
        "Ann Lee: Peop", "Work_For from Ann Lee to", "decibels from the true one", "a note beside it",
    ):  # fmt: skip
        assert part in text, part


def test_right_and_wrong_have_signs(page):
    text = " ".join(words(page).split())
    for part in ("1 cat ✓ (90 % sure)", "2 dog ✗ (50 % sure)", "✗ Loc", "✓ Peop", "Org, missed", "✗ VERB", "true: NOUN",
                 "✓ Bengal (83 % sure)", "[two]", "Work_For →"):  # fmt: skip
        assert part in text, part
    assert "<del>four</del>" in page
    assert "✗ 4" not in text
    assert page.count('class="box wrong"') == 2  # one in each of two figures


def _layer(layer):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(layer.png))))


def test_wrong_pixels_are_hatched_and_others_are_not():
    plain, hatched = _layer(layers.mask(_mask(SAID))), _layer(layers.mask(_mask(SAID), _mask(TRUE)))
    times = plain.shape[0] // 20
    changed = plain != hatched
    assert changed[:, : 6 * times].mean() > 0.1
    assert not changed[:, 6 * times :].any()


def test_what_is_unknown_has_neither_tint_nor_hatching():
    unknown = TRUE.copy()
    unknown[:, 15:] = 255
    drawn = _layer(layers.mask(_mask(unknown)))
    assert (drawn[:, drawn.shape[1] // 2 + 4 :] == 0).all()
    said = _layer(layers.mask(_mask(SAID), _mask(unknown)))
    assert (said == _layer(layers.mask(_mask(SAID), _mask(np.where(unknown == 255, SAID, TRUE))))).all()


def test_regions_have_the_number_of_their_class():
    layer = layers.mask(_mask(SAID))
    for x, y, number in layer.numbers:
        assert SAID[int(y * 20), int(x * 30)] + 1 == int(number)
    assert {number for *_, number in layer.numbers} == {"1", "2", "3"}


def test_boxes_are_found_as_a_slow_loop_finds_them(rng):
    for _ in range(50):
        true, said = (
            Boxes(boxes=tuple((*np.round(c, 2), *np.round(c + s, 2), "ab"[k], 0.5) for c, s, k in zip(
                rng.uniform(0, 0.5, (4, 2)), rng.uniform(0.2, 0.5, (4, 2)), rng.integers(0, 2, 4), strict=True)))
            for _ in range(2)
        )  # fmt: skip
        taken, slow = set(), []
        for box in said.boxes:
            best, which = 0.0, None
            for i, other in enumerate(true.boxes):
                w = min(box[2], other[2]) - max(box[0], other[0])
                h = min(box[3], other[3]) - max(box[1], other[1])
                both = max(w, 0) * max(h, 0)
                areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
                iou = both / (areas - both)
                if i not in taken and box[4] == other[4] and iou > best:
                    best, which = iou, i
            slow.append(best >= 0.5)
            if best >= 0.5:
                taken.add(which)
        assert layers.hits(said, true) == slow


@pytest.mark.parametrize("n", [1, 2, 12])
def test_letters_of_boxes_stay_in_the_frame(n, rng):
    corners = [(x, y, min(x + 0.05, 1), min(y + 0.05, 1)) for x, y in rng.uniform(0, 0.95, (n, 2))]
    drawing = layers.boxes(Boxes(boxes=tuple((*c, "pedestrian", 0.5) for c in corners))).drawing(288, 216)
    places = [(float(x), float(y)) for x, y in re.findall(r'<text class="over" x="([\d.]+)" y="([\d.]+)"', drawing)]
    assert len(places) == n
    assert all(0 <= x < 288 and 10 <= y <= 216 for x, y in places)


# -- what is drawn from


def test_a_pure_tone_is_a_dark_line_at_its_height():
    sound = _sound()
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(sound.png))))
    darkest = grey[:, 4:-4].mean(1).argmin()
    assert (sound.seconds, sound.hertz) == (0.5, 4000)
    assert 1 - (darkest + 0.5) / len(grey) == pytest.approx(1000 / 4000, abs=0.03)
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(exhibits.sound(np.zeros(900), 8000).png)))) == 255).all()


@pytest.mark.parametrize("how", ["stretch", "letterbox", "crop"])
def test_a_picture_has_the_shape_in_which_labels_lie_on_it(how):
    image = np.zeros((60, 120, 3), np.uint8)
    shown = exhibits.picture(image, Canvas((32, 64) if how == "stretch" else (32, 32), how), 3)
    assert shown.width / shown.height == pytest.approx(2 if how == "stretch" else 1)
    assert max(shown.width, shown.height) <= exhibits.LONGEST


def test_a_large_picture_is_few_bytes(rng):
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)).resize((1600, 1200)))
    assert len(exhibits.picture(png(smooth[..., 0]), Canvas((64, 64), "stretch"), 3).png) < 60_000
    assert len(exhibits.picture(smooth, Canvas((64, 64), "stretch"), 3).png) < 60_000


# -- which rows


def _trained(n=60, text=True):
    frame = pd.DataFrame({"x": np.arange(n) / n, "y": [0, 1] * (n // 2), "z": np.arange(n) / 7})
    tasks = [Binary("y"), Regression("z")]
    types = {}
    if text:
        frame["words"] = [f"one {'two' if i % 2 else 'three'}" for i in range(n)]
        frame["tags"] = ["O B-two" if i % 2 else "O O" for i in range(n)]
        tasks.append(Tagging("tags"))
        types = {"words": "text"}
        frame.loc[: n // 2, "tags"] = None
    dataset = Dataset.fit({"t": frame}, tasks, types=types, leakage=False)
    layouts = dataset.preprocess.layouts
    return build_model(settled(ModelSpec(members=1), layouts), layouts, dataset.tasks, 0), dataset, frame


def _parts(n, **sizes):
    return np.repeat(list(sizes), list(sizes.values())) if sizes else np.full(n, "test")


def test_rows_are_seeded_labelled_first_and_the_same_for_all_tasks():
    model, dataset, frame = _trained()
    parts = {"t": _parts(60, train=10, valid=10, test=40)}
    first, again, other = (gather(model, dataset, {"t": frame}, parts, seed) for seed in (0, 0, 5))
    assert first == again != other
    assert first.split == "test"
    assert len(first.rows) == PER_TABLE
    assert Examples.model_validate_json(first.model_dump_json()) == first
    for example in first.rows:
        assert 31 <= example.row < 60  # those before have no tags
        assert example.inputs["words"].text == frame["words"][example.row]
        assert set(example.tasks) == {"y", "z", "tags"}
        assert example.tasks["y"].true.text == str(frame["y"][example.row])
        assert float(example.tasks["z"].true.text) == pytest.approx(frame["z"][example.row], rel=1e-3)


def test_without_a_test_part_rows_are_of_the_validation_part():
    model, dataset, frame = _trained()
    found = gather(model, dataset, {"t": frame}, {"t": _parts(60, train=30, valid=30)}, 0)
    assert found.split == "valid"
    assert all(example.row >= 30 for example in found.rows)
    assert gather(model, dataset, {"t": frame}, {"t": _parts(60, train=60)}, 0) is None


def test_numbers_and_classes_alone_are_not_shown():
    model, dataset, frame = _trained(text=False)
    assert gather(model, dataset, {"t": frame}, {"t": _parts(60)}, 0) is None


def test_a_label_that_is_not_there_is_unknown():
    model, dataset, frame = _trained()
    found = gather(model, dataset, {"t": frame}, {"t": _parts(60, test=25, train=35)}, 0)
    assert all(example.tasks["tags"].true is None for example in found.rows)
    assert "nobody knows" in words(render([Report(title="x", examples=found)]))


def test_what_is_too_large_is_left_out(monkeypatch):
    model, dataset, frame = _trained()
    whole = gather(model, dataset, {"t": frame}, {"t": _parts(60)}, 0)
    monkeypatch.setattr("manyheads.commands.examples.LARGEST", len(whole.model_dump_json()) // 2)
    few = gather(model, dataset, {"t": frame}, {"t": _parts(60)}, 0)
    assert 1 <= len(few.rows) < len(whole.rows) <= DRAWN
    assert few.rows == whole.rows[: len(few.rows)]


def test_a_run_is_left_as_it_was():
    model, dataset, frame = _trained()
    model.train()
    before = torch.get_rng_state()
    gather(model, dataset, {"t": frame}, {"t": _parts(60)}, 0)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


# -- files and browsers


def test_examples_are_a_file_beside_the_report(tmp_path):
    from manyheads.commands.runfolder import RunFolder
    from manyheads.faults import DataError

    RunFolder(tmp_path).report(REPORT)
    assert Examples.model_validate_json((tmp_path / "examples.json").read_text(encoding="utf-8")) == REPORT.examples
    assert "png" not in (tmp_path / "report.json").read_text(encoding="utf-8")
    assert read_report(tmp_path) == REPORT
    (tmp_path / "examples.json").write_text("{")
    with pytest.raises(DataError, match=r"examples\.json"):
        read_report(tmp_path)


def test_several_runs_keep_their_pictures_apart():
    page = render([REPORT, REPORT.model_copy(update={"title": "again"})])
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert page.count('<figure class="example">') == 4


def test_a_browser_paints_them(tmp_path):
    import matplotlib.image

    file = write(REPORT, tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    browse(file, tmp_path, f"--screenshot={shot}", "--window-size=1100,1500")
    seen = matplotlib.image.imread(shot)
    assert seen[..., :3].std() > 0.03


@pytest.mark.parametrize("sound", [Sound(png=_sound().png, seconds=0.5, hertz=4000.0)])
@pytest.mark.parametrize("mask", [Mask(png=_mask(TRUE).png, names=())])
def test_odd_values_are_drawn_too(sound, mask):
    tasks = {"m": Pair(said=mask), "s": Pair(said=sound), "b": Pair(said=Boxes()), "t": Pair(said=Tags(length=0))}
    page = render([Report(title="x", examples=Examples(split="test", rows=(Example(row=0, tasks=tasks),)))])
    assert page.count('role="img"') == 3


@pytest.mark.parametrize(
    ("names", "signs"), [(("0", "7", "12"), ["0", "7", "12"]), (("sky", "7", "12"), ["1", "2", "3"])]
)
def test_classes_that_are_numbers_stand_for_themselves(names, signs):
    said = _mask(SAID, names)
    drawn = layers.mask(said)
    assert sorted({text for *_, text in drawn.numbers}, key=int) == signs
    assert re.findall(r">(\w+)</i> (\w+)<", layers.legend(names, [said])) == list(zip(signs, names, strict=True))


def test_a_learner_shows_rows_that_it_was_evaluated_on(tmp_path):
    texts = ["play some jazz", "rain in Paris"] * 20
    table = pd.DataFrame({"text": texts, "wet": [0, 1] * 20, "slots": ["O O B-genre", "O O B-city"] * 20})
    learner = Learner(
        [Binary("wet"), Tagging("slots")], types={"text": "text"}, max_epochs=1, callbacks=[],
        encoder={"name": "text", "d_word": 8, "d_parts": 4, "d_hidden": 8, "n_layers": 1},
    ).fit(table[:30])  # fmt: skip
    assert learner.as_report().examples is None
    learner.evaluate(table[30:].drop(columns="wet"), split="later", draws=0)
    found = learner.as_report().examples
    assert found.split == "later"
    assert len(found.rows) == PER_TABLE
    for example in found.rows:
        assert example.inputs["text"].text == texts[30 + example.row]
        assert set(example.tasks) == {"slots"}  # the table has no other label
        assert example.tasks["slots"].true is not None
    page = learner.report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Examples" in page
    assert "Paris" in page
