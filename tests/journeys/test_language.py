"""Sentences through the command line: commands with slots, treebanks, and names with relations beside sentiment."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from manyheads.cli import main
from manyheads.data.formats.conll import Conll
from manyheads.data.formats.conll04 import Conll04
from manyheads.metrics.spans import bio, spans

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = ["model.encoder.d_word=16", "model.encoder.d_parts=8", "model.encoder.d_hidden=16", "model.encoder.dropout=0.1"]


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def _head(source, target, n):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:n]))


def _run(capsys, *words):
    assert main([*words, "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _shown(page):
    """How many rows a page shows."""
    assert 'id="examples"' in page
    return page.count('<figure class="example">')


def _score(found, part, task, metric):
    scores = found["scores"][part][task]
    return scores[metric] if not isinstance(scores[metric], dict) else scores[metric]["value"]


def test_intent_and_slots(data_root, capsys):
    for part, n in (("train", 900), ("dev", 100), ("test", 100)):
        for name in ("seq.in", "seq.out", "label"):
            _head(data_root / "snips" / part / name, Path("data/snips") / part / name, n)
    settings = [*SMALL, "trainer.max_epochs=8", "data.root=data", "optim.lr=0.01", "sampling.batch_size=16"]
    found = _run(capsys, "train", "-c", str(RECIPES / "snips.yaml"), "-o", "run", *settings)
    assert _score(found, "test", "intent", "accuracy") > 0.8  # one in seven by chance
    assert _score(found, "test", "slots", "entity_f1") > 0.3
    pd.DataFrame({"tokens": ["play some jazz", "will it rain in Paris ?"]}).to_csv("new.csv", index=False)
    assert main(["predict", "run", "new.csv", "-o", "out.csv", "--files", "found", "-q"]) == 0
    out = pd.read_csv("out.csv")
    assert [len(cell.split()) for cell in out["slots"]] == [3, 6]
    assert [path.name for path in Path("found").iterdir()] == ["slots"]  # an intent fits in a table
    tagged = Conll(columns=["tokens", "tags"]).frame(Path("found/slots/tagged.conll"))
    assert tagged["tokens"].tolist() == [["play", "some", "jazz"], ["will", "it", "rain", "in", "Paris", "?"]]
    assert [" ".join(tags) for tags in tagged["tags"]] == out["slots"].tolist()
    assert tagged["sent_id"].tolist() == ["0", "1"]
    assert {"slots", "intent"} <= set(out.columns)
    assert all(bio(cell.split()) == cell.split() for cell in out["slots"])
    assert main(["report", "run", "-o", "report.html", "-q"]) == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "entity_f1" in page
    assert _shown(page) == Path("run/report.html").read_text(encoding="utf-8").count('<figure class="example">') == 4
    examples = json.loads(Path("run/examples.json").read_text(encoding="utf-8"))
    assert examples["split"] == "test"
    assert {task["said"]["kind"] for row in examples["rows"] for task in row["tasks"].values()} == {"text", "tags"}
    assert all(word in page for word in examples["rows"][0]["inputs"]["tokens"]["words"])


def test_a_treebank_whose_names_are_missing_in_places(data_root, capsys):
    for part in ("dev", "test"):
        for ending, n in (("conllu", 6000), ("iob2", None)):  # the two files have their own order of sentences
            name = f"en_ewt-ud-{part}.{ending}"
            _head(data_root / "ewt_pos_ner" / name, Path("data/ewt_pos_ner") / name, n)
    settings = [*SMALL, "trainer.max_epochs=4", "data.root=data", "optim.lr=0.01"]
    found = _run(capsys, "train", "-c", str(RECIPES / "ewt.yaml"), "-o", "run", *settings)
    assert _score(found, "test", "upos", "token_accuracy") > 0.5
    tasks = json.loads(Path("run/tasks.json").read_text(encoding="utf-8"))
    assert "ner" in json.dumps(tasks)
    assert main(["predict", "run", "data/ewt_pos_ner/en_ewt-ud-test.conllu", "-o", "out.jsonl", "-q"]) == 0
    out = pd.read_json("out.jsonl", lines=True)
    assert {"upos", "ner"} <= set(out.columns)


def test_names_relations_and_sentiment_in_one_model(data_root, capsys):
    for part, n in (("train", 150), ("dev", 40), ("test", 40)):
        source = data_root / "conll04" / f"conll04_{part}.json"
        target = Path("data/conll04") / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(json.loads(source.read_text(encoding="utf-8"))[:n]), encoding="utf-8")
    for name in ("amazon_cells", "imdb", "yelp"):
        file = f"sentiment_sentences/{name}_labelled.txt"
        _head(data_root / file, Path("data") / file, 200)
    settings = [*SMALL, "trainer.max_epochs=8", "data.root=data", "optim.lr=0.01"]
    found = _run(capsys, "train", "-c", str(RECIPES / "language.yaml"), "-o", "run", *settings)
    assert set(found["scores"]["test"]) == {"entities", "relations", "products", "films", "restaurants"}
    assert _score(found, "test", "entities", "entity_f1") > 0.1
    assert len(list(Path("run").glob("predictions/*"))) > 0
    pd.DataFrame({"tokens": ["John Wilkes Booth killed President Lincoln in Washington ."]}).to_csv(
        "new.csv", index=False
    )
    words = ["predict", "run", "new.csv", "-o", "out.csv", "--table", "news", "--files", "found", "-q"]
    assert main(words) == 0
    (row,) = pd.read_csv("out.csv").to_dict("records")
    tags = row["relations__tags"].split()
    assert len(tags) == len(row["entities"].split()) == 9
    for relation in json.loads(row["relations"]):
        assert {"head", "tail", "type", "probability"} == set(relation)
        assert max(relation["head"], relation["tail"]) < len(spans(tags))
    (read,) = Conll04().frame(Path("found/relations/relations.json")).to_dict("records")
    assert read["tokens"][-1] == "."
    assert read["tags"] == tags
    assert read["relations"] == json.loads(row["relations"])
    assert Path("found/entities/tagged.conll").is_file()
    assert _shown(Path("run/report.html").read_text(encoding="utf-8")) == 12  # three of each table


def test_a_damaged_file_is_named_with_its_line(data_root, capsys):
    for name in ("seq.in", "seq.out", "label"):
        _head(data_root / "snips" / "dev" / name, Path("data/snips/train") / name, 30)
    file = Path("data/snips/train/seq.out")
    rows = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*rows[:11], rows[11] + " O", *rows[12:]]) + "\n", encoding="utf-8")
    words = ["train", "-c", str(RECIPES / "snips.yaml"), "-o", "run", "data.root=data", "--dry-run"]
    assert main(words) == 3
    assert "line 12" in " ".join(capsys.readouterr().err.split())


def test_new_sentences_come_as_plain_text_or_as_a_table(data_root, capsys):
    """A model of four tables: sentences of a kind are read in its form, or line by line; tags come out as files."""
    for part, n in (("train", 60), ("dev", 12), ("test", 12)):
        source = data_root / "conll04" / f"conll04_{part}.json"
        target = Path("data/conll04") / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(json.loads(source.read_text(encoding="utf-8"))[:n]), encoding="utf-8")
    for name in ("amazon_cells", "imdb", "yelp"):
        file = f"sentiment_sentences/{name}_labelled.txt"
        _head(data_root / file, Path("data") / file, 60)
    settings = [*SMALL, "trainer.max_epochs=1", "data.root=data"]
    _run(capsys, "train", "-c", str(RECIPES / "language.yaml"), "-o", "run", *settings)
    texts = ["Booth shot President Lincoln in Washington .", "", "The plot isn't bad at all."]
    Path("new.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    for table, tasks in (("news", ["entities", "relations"]), ("films", ["films"]), (None, ["entities", "films"])):
        words = ["predict", "run", "new.txt", "-o", "out.csv", "--force", "--files", "files"]
        words += ["--table", table] if table else []
        assert main([*words, "-q"]) == 0
        out = pd.read_csv("out.csv", keep_default_na=False)
        assert len(out) == 3
        assert set(tasks) <= set(out.columns)
        assert ("films" in out.columns) == (table != "news")
    assert [len(cell.split()) for cell in out["entities"]] == [7, 0, 7]
    blocks = Path("files/entities/tagged.conll").read_text(encoding="utf-8").split("\n\n")
    words = [line.split("\t")[0] for line in blocks[2].splitlines()[1:]]
    assert words == ["The", "plot", "isn't", "bad", "at", "all", "."]
    listed = json.loads(Path("files/relations/relations.json").read_text(encoding="utf-8"))
    assert [len(row["tokens"]) for row in listed] == [7, 0, 7]
    pd.DataFrame({"tokens": texts}).to_csv("new.csv", index=False)
    assert main(["predict", "run", "new.csv", "-o", "again.csv", "-q"]) == 0
    assert Path("again.csv").read_bytes() == Path("out.csv").read_bytes()
    found = _run(capsys, "evaluate", "run", "data/sentiment_sentences/imdb_labelled.txt", "--table", "films")
    assert set(found["scores"]) == {"films"}
    assert found["rows"] == 59  # the first line is a header
    found = _run(capsys, "evaluate", "run", "data/conll04/conll04_test.json", "--table", "news")
    assert set(found["scores"]) == {"entities", "relations"}
    assert main(["evaluate", "run", "data/conll04/conll04_test.json"]) == 3
    assert "doctor --list formats" in " ".join(capsys.readouterr().err.split())
