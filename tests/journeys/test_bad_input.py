"""Rows that cannot be read: each is refused with its file or row and a remedy, or left out and counted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from manyheads.cli import main
from manyheads.metrics.sound import write_wav
from manyheads.pictures import png

N = 40
RATE = 4000


def _picture(i):
    rng = np.random.default_rng(i)
    picture = rng.integers(0, 120, (24, 32, 3)).astype(np.uint8)
    picture[6:16, 8:20, i % 2] = 230
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _mask():
    mask = np.zeros((24, 32), np.uint8)
    mask[6:16, 8:20] = 1
    return png(mask)


def _xml(corners):
    x0, y0, x1, y1 = corners
    box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<annotation><object><name>thing</name><bndbox>{box}</bndbox></object></annotation>".encode()


def _config(data, features, tasks, encoder):
    split = {"kind": "random", "sizes": [0.6, 0.2, 0.2]}
    return {
        "schema_version": 1,
        "data": {"split": split} | data,
        "features": features,
        "tasks": tasks,
        "model": {"encoder": encoder},
        "trainer": {"max_epochs": 1},
        "sampling": {"batch_size": 8},
    }


PICTURES = {"only": ["image"], "types": {"image": {"type": "image", "size": 16}}}
SMALL = {"name": "image", "width": 4, "n_stages": 2}
AREAS = {
    "kind": {"type": "binary"},
    "shape": {"type": "segmentation", "target": "mask", "picture": "image", "size": 16, "attach": [0, 1]},
    "thing": {"type": "detection", "target": "boxes", "picture": "image", "size": 16, "attach": [0, 1]},
}


def folder_of_pictures():
    for place in ("images", "masks", "boxes"):
        Path("zoo", place).mkdir(parents=True)
    for i in range(N):
        stem = f"{'ab'[i % 2]}_{i}"
        Path(f"zoo/images/{stem}.png").write_bytes(_picture(i))
        Path(f"zoo/masks/{stem}.png").write_bytes(_mask())
        Path(f"zoo/boxes/{stem}.xml").write_bytes(_xml((9, 7, 20, 16)))
    form = {"name": "pictures", "images": "images", "masks": "masks", "boxes": "boxes", "pattern": "(?P<kind>[a-z])_.*"}
    return _config({"train": "zoo", "format": form}, PICTURES, AREAS, SMALL)


def table_of_pictures():
    folder_of_pictures()
    stems = [f"{'ab'[i % 2]}_{i}" for i in range(N)]
    frame = pd.DataFrame(
        {"image": [f"zoo/images/{s}.png" for s in stems], "mask": [f"zoo/masks/{s}.png" for s in stems]}
    )
    frame["boxes"], frame["kind"] = '[[8, 6, 20, 16, "thing"]]', [i % 2 for i in range(N)]
    frame["part"] = ["train", "train", "valid", "test"] * (N // 4)
    frame.to_csv("t.csv", index=False)
    return _config({"train": "t.csv", "split": {"kind": "column", "by": "part"}}, PICTURES, AREAS, SMALL)


def _wavs():
    Path("said").mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        wave = np.sin(np.arange(600) * (0.3 + 0.5 * (i % 2))) * 0.5 + rng.normal(0, 0.01, 600)
        Path(f"said/{('low', 'high')[i % 2]}_{i}.wav").write_bytes(write_wav(wave.astype(np.float32), RATE))


AUDIO = {"only": ["audio"], "types": {"audio": "audio"}}
EARS = {"name": "audio", "d_hidden": 8, "bands": 8, "n_layers": 1}


def folder_of_recordings():
    _wavs()
    form = {"name": "wavs", "pattern": "{word}_{index}"}
    return _config({"train": "said", "format": form}, AUDIO, {"word": {"type": "transcription"}}, EARS)


def table_of_recordings():
    _wavs()
    frame = pd.DataFrame({"audio": [f"said/{('low', 'high')[i % 2]}_{i}.wav" for i in range(N)]})
    frame["word"] = ["low", "high"] * (N // 2)
    frame.to_csv("t.csv", index=False)
    return _config({"train": "t.csv"}, AUDIO, {"word": {"type": "binary"}}, EARS)


TEXT = {"only": ["tokens"], "types": {"tokens": "text"}}
READER = {"name": "text", "d_word": 8, "d_parts": 4, "d_hidden": 8, "n_layers": 1}


def commands():
    for part, n in (("train", N), ("test", N // 2)):
        Path("talk", part).mkdir(parents=True)
        lines = {"seq.in": "play some jazz\n", "seq.out": "O O B-genre\n", "label": "play\n"}
        other = {"seq.in": "rain in Paris\n", "seq.out": "O O B-city\n", "label": "weather\n"}
        for name in lines:
            Path("talk", part, name).write_text((lines[name] + other[name]) * (n // 2), encoding="utf-8")
    tasks = {"intent": {"type": "binary"}, "slots": {"type": "tagging"}}
    data = {"train": "talk", "format": "slots", "split": {"kind": "column", "by": "split", "sizes": [0.8, 0, 0.2]}}
    return _config(data, TEXT, tasks, READER)


def table_of_words():
    frame = pd.DataFrame({"tokens": ["play some jazz", "rain in Paris"] * (N // 2)})
    frame["slots"], frame["intent"] = ["O O B-genre", "O O B-city"] * (N // 2), ["play", "weather"] * (N // 2)
    frame.to_csv("t.csv", index=False)
    return _config({"train": "t.csv"}, TEXT, {"intent": {"type": "binary"}, "slots": {"type": "tagging"}}, READER)


def news():
    Path("news").mkdir()
    row = {
        "tokens": ["Ann", "works", "at", "Acme", "."],
        "tags": ["B-Peop", "O", "O", "B-Org", "O"],
        "relations": [{"head": 0, "tail": 1, "type": "Work_For"}],
    }
    for part, n in (("train", N), ("test", N // 2)):
        Path(f"news/n_{part}.json").write_text(json.dumps([row] * n), encoding="utf-8")
    tasks = {"relations": {"type": "relation", "target": ["tags", "relations"]}}
    data = {"train": "news", "format": "conll04", "split": {"kind": "column", "by": "split", "sizes": [0.8, 0, 0.2]}}
    return _config(data, TEXT, tasks, READER)


# -- what is spoiled


def _write(path, content):
    return lambda: Path(path).write_bytes(content)


def _cut(path, n):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-n])


def _line(path, number, text):
    def change():
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        lines[number - 1] = text
        Path(path).write_text("\n".join(lines), encoding="utf-8")

    return change


def _lines(number, *changes):
    def change():
        for path, text in changes:
            _line(path, number, text)()

    return change


def _cell(row, column, value):
    def change():
        frame = pd.read_csv("t.csv").astype({column: object})
        frame.loc[row, column] = value
        frame.to_csv("t.csv", index=False)

    return change


def _record(path, number, **changes):
    def change():
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        records[number] |= changes
        Path(path).write_text(json.dumps(records), encoding="utf-8")

    return change


COLOURS = _picture(0)
LINKED = [{"head": 0, "tail": 1, "type": "Owns"}]
CASES = {
    "a text instead of a picture": (folder_of_pictures, _write("zoo/images/a_4.png", b"no picture"), "a_4.png"),
    "a picture cut short": (folder_of_pictures, _cut("zoo/images/a_4.png", 300), "a_4.png"),
    "a mask of the wrong size": (folder_of_pictures, _write("zoo/masks/a_4.png", png(np.zeros((5, 5)))), "a_4.png"),
    "a mask with colours": (folder_of_pictures, _write("zoo/masks/a_4.png", COLOURS), "a_4.png"),
    "a mask cut short": (folder_of_pictures, _cut("zoo/masks/a_4.png", 40), "a_4.png"),
    "a box outside": (folder_of_pictures, _write("zoo/boxes/a_4.xml", _xml((50, 50, 60, 60))), "a_4.xml"),
    "a box without area": (folder_of_pictures, _write("zoo/boxes/a_4.xml", _xml((9, 9, 9, 8))), "a_4.xml"),
    "boxes cut short": (folder_of_pictures, _cut("zoo/boxes/a_4.xml", 20), "a_4.xml"),
    "a table: no such picture": (table_of_pictures, _cell(7, "image", "zoo/images/none.png"), "row 7"),
    "a table: a picture cut short": (table_of_pictures, _cut("zoo/images/b_7.png", 300), "row 7"),
    "a table: a mask of the wrong size": (
        table_of_pictures, _write("zoo/masks/b_7.png", png(np.zeros((5, 5)))), "row 7",
    ),
    "a table: a class that no mask had": (
        table_of_pictures, _write("zoo/masks/b_7.png", png(np.full((24, 32), 9))), "row 7",
    ),
    "a table: a box outside": (table_of_pictures, _cell(7, "boxes", '[[50, 50, 60, 60, "thing"]]'), "row 7"),
    "a table: a class that no box had": (table_of_pictures, _cell(7, "boxes", '[[1, 1, 6, 6, "ufo"]]'), "row 7"),
    "a table: a label never seen": (table_of_pictures, _cell(7, "kind", 5), "row 7"),
    "a recording cut short": (folder_of_recordings, _cut("said/low_4.wav", 99), "low_4.wav"),
    "a recording without a sample": (
        folder_of_recordings, _write("said/low_4.wav", write_wav(np.zeros(0, np.int16), RATE)), "low_4.wav",
    ),
    "a table: a recording cut short": (table_of_recordings, _cut("said/high_7.wav", 99), "row 7"),
    "a table: no such recording": (table_of_recordings, _cell(7, "audio", "said/none.wav"), "row 7"),
    "an empty sentence": (
        commands, _lines(12, ("talk/train/seq.in", ""), ("talk/train/seq.out", "")), "seq.in, line 12",
    ),
    "more tags than words": (commands, _line("talk/train/seq.out", 12, "O O O B-city"), "seq.out, line 12"),
    "a table: more tags than words": (table_of_words, _cell(7, "slots", "O O O B-city"), "row 7"),
    "a table: fewer tags than words": (table_of_words, _cell(7, "tokens", "rain in Paris, France"), "row 7"),
    "a tag never seen": (commands, _line("talk/test/seq.out", 12, "O O B-planet"), f"row {N + 11}"),
    "a tag of no scheme": (commands, _line("talk/train/seq.out", 12, "O O city"), "row 11"),
    "a sentence of no words": (news, _record("news/n_train.json", 4, tokens=[], tags=[], relations=[]), "sentence 5"),
    "a relation of no span": (
        news, _record("news/n_train.json", 4, relations=[{"head": 0, "tail": 7, "type": "Work_For"}]), "sentence 5",
    ),
    "a relation never seen": (news, _record("news/n_test.json", 4, relations=LINKED), f"row {N + 4}"),
}  # fmt: skip
REMEDIES = ("leave", "mend", "list it", "check the path", "Known", "Did you mean", "should be `O`", "never seen")


@pytest.mark.parametrize("name", CASES)
def test_a_row_that_cannot_be_read_is_named_or_left_out(name, empty_folder, capsys):
    make, spoil, place = CASES[name]
    config = make()
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    spoil()
    assert main(["check", "-c", "run.yaml", "-q"]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert place in told
    assert "Found" in told or "never seen" in told
    assert any(remedy in told for remedy in REMEDIES), told
    assert "Traceback" not in told

    assert main(["check", "-c", "run.yaml", "-q", "--json", "data.on_error=skip"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    counted = [w for w in answer["warnings"] if "1 row was left out" in w]
    assert len(counted) == 1
    assert place in counted[0]
    rows = {sum(task["rows"].values()) for task in answer["tasks"]}
    assert rows == {N - 1 if make not in (commands, news) else N + N // 2 - 1}


def test_what_a_model_is_given_later_is_sifted_too(empty_folder, capsys):
    config = table_of_pictures()
    config["data"]["on_error"] = "skip"
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
    _cut("zoo/images/b_7.png", 300)()
    _cell(9, "kind", 5)()
    capsys.readouterr()
    assert main(["predict", "run", "t.csv", "-o", "p.csv", "--keep-columns", "image", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == N - 1
    assert "zoo/images/b_7.png" not in set(pd.read_csv("p.csv")["image"])
    assert main(["evaluate", "run", "t.csv", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["rows"] == N - 2
    assert any("2 rows were left out" in warning for warning in answer["warnings"])


def test_several_rows_of_several_kinds_are_counted_together(empty_folder, capsys):
    Path("run.yaml").write_text(yaml.safe_dump(table_of_pictures()), encoding="utf-8")
    _cut("zoo/images/b_7.png", 300)()
    _write("zoo/masks/a_8.png", png(np.zeros((5, 5))))()
    _cell(9, "boxes", '[[50, 50, 60, 60, "thing"]]')()
    _cell(11, "kind", 5)()
    assert main(["check", "-c", "run.yaml", "-q", "--json", "data.on_error=skip"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    told = [warning for warning in answer["warnings"] if "left out" in warning]
    assert len(told) == 2
    assert told[0].startswith("3 rows were left out of")
    assert "t.csv`. The first: Column `image`" in told[0]
    assert told[1].startswith("1 row was left out of `table`. The first: Task `kind`")
    assert {sum(task["rows"].values()) for task in answer["tasks"]} == {N - 4}


def test_where_no_row_can_be_read_the_run_says_so(empty_folder, capsys):
    Path("run.yaml").write_text(yaml.safe_dump(table_of_recordings()), encoding="utf-8")
    for path in Path("said").glob("*.wav"):
        path.write_bytes(b"RIFF")
    assert main(["check", "-c", "run.yaml", "-q", "data.on_error=skip"]) == 3
    assert "should have a row that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("features.only=[tokens,tokenz]", "`features.only` should name columns of the table. Found `tokenz`."),
        ("data.ids=[intend]", "`data.ids` should name columns of the table. Found `intend`. Did you mean `intent`?"),
    ],
)
def test_a_column_misspelt_is_named(word, told, empty_folder, capsys):
    Path("run.yaml").write_text(yaml.safe_dump(table_of_words()), encoding="utf-8")
    assert main(["check", "-c", "run.yaml", "-q", word]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_validation_part_without_a_label_is_told(empty_folder, capsys):
    config = table_of_words()
    frame = pd.read_csv("t.csv").astype(object)
    frame["part"] = ["train", "train", "train", "valid"] * (N // 4)
    frame.loc[frame["part"] == "valid", ["slots", "intent"]] = None
    frame.to_csv("t.csv", index=False)
    config["data"]["split"] = {"kind": "column", "by": "part"}
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["warnings"]
    assert [w for w in told if w.startswith("The validation part has no label of any task: nothing says when to stop")]
