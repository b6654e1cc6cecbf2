"""The command line's shell: help, version, usage, what machines read, what is told of unexpected errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import manyheads
from manyheads import cli
from manyheads.affinity import Estimator
from manyheads.catalog import index
from manyheads.cli import main
from manyheads.commands.display import part_line, penalty_line, plan_lines
from manyheads.commands.doctor import CATALOGUES, entries
from manyheads.penalties import Penalty
from manyheads.penalties.l2 import L2, Mean
from manyheads.results import Part, Score
from manyheads.sharing import Sharing

COMMANDS = (
    "demo", "init", "check", "train", "evaluate", "predict", "compare", "affinity", "verdict", "report", "doctor",
    "add-task", "remove-task", "subset", "merge",
)  # fmt: skip


def _process(*words):
    source = str(Path(manyheads.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    )


def test_help_is_quick_and_imports_no_torch():
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        found = _process("-m", "manyheads.cli", "--help")
        seconds.append(time.perf_counter() - started)
        assert found.returncode == 0
    assert all(command in found.stdout for command in COMMANDS)
    assert min(seconds) < 0.5 or min(seconds) < 3 * _bare()
    loaded = _process("-X", "importtime", "-m", "manyheads.cli", "train", "--help").stderr
    assert not {line.split("|")[-1].strip() for line in loaded.splitlines()} & {"torch", "pandas", "sklearn", "numpy"}


def _bare():
    """What the interpreter alone takes, on a machine that is busy."""
    started = time.perf_counter()
    _process("-c", "import typing, inspect, json, re, enum, dataclasses")
    return time.perf_counter() - started


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert "Usage: manyheads " + command in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"manyheads {manyheads.__version__}\n"


@pytest.mark.parametrize("words", [["trian"], ["train", "--nonsense"], ["train"], ["verdict", "s.csv", "--ratio", "x"]])
def test_wrong_usage_is_2(words, capsys):
    assert main(words) == 2
    assert "Error" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_and_a_hint(monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise RuntimeError("the cat is on the keyboard")

    monkeypatch.setattr(cli, "_door", broken)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Unexpected error: RuntimeError: the cat is on the keyboard.")
    assert "-v" in said
    assert "Traceback" not in said


def test_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"manyheads", "python", "threads", "blas", "extras", "packages"} <= set(found)


@pytest.mark.parametrize("word", CATALOGUES)
def test_doctor_lists_the_words_of_a_config(word, capsys):
    assert main(["doctor", "--list", word, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])[word]
    for entry in found.values():
        assert entry["sentence"]
        assert {"sentence", "cost", "settings", "required", "about", "reference"} <= set(entry)
    known = {"tasks": "binary", "encoders": "tabular", "sharing": "hard", "balance": "equal"}
    known |= {"columns": "image", "augmentations": "flip", "formats": "conll"}
    assert word not in known or known[word] in found


def test_a_column_type_has_the_settings_of_its_fit():
    found = entries("columns")
    assert found["image"]["settings"] == {"size": 64, "channels": 3, "resize": "stretch", "root": None}
    assert found["text"]["settings"]["min_count"] == 2
    assert found["numeric"]["settings"] == {}
    assert found["ngrams"]["feeds"] == "numeric"


@pytest.mark.parametrize("word", ["columns", "augmentations"])
def test_every_setting_of_inputs_is_explained(word):
    for name, entry in entries(word).items():
        assert set(entry["about"]) == set(entry["settings"]), name


def test_doctor_shows_each_word_with_its_settings(capsys):
    assert main(["doctor", "--list", "sharing"]) == 0
    said = capsys.readouterr().out
    assert "soft: One model per task, pulled together" in said
    assert "Cost: K trunks, one batched pass." in said
    assert "`" in said
    assert "``" not in said
    assert max(map(len, said.splitlines())) <= 120
    assert re.search(r"\bstep +prox +`prox`, `loss` or `literal`", said)
    assert "Evgeniou, Pontil: Regularized multi-task learning, 2004." in said


def test_what_a_class_does_not_say_the_one_above_it_says():
    found = entries("penalties")["pairwise"]
    assert set(found["about"]) == set(found["settings"]) == {"strength", "on", "step", "biases"}
    assert found["about"]["biases"] == "vectors (biases, norms) too."


DOCUMENTED = [
    (c, w)
    for c, contract in (("sharing", Sharing), ("penalties", Penalty), ("affinity", Estimator))
    for w in index(contract)
]


@pytest.mark.parametrize(("catalogue", "word"), DOCUMENTED)
def test_every_word_of_these_is_documented(catalogue, word):
    entry = entries(catalogue)[word]
    where = f"The docstring of `{word}` ({catalogue}) should"
    assert entry["sentence"].endswith("."), f"{where} begin with one sentence. Found {entry['sentence']!r}."
    assert len(entry["sentence"]) <= 200, f"{where} begin with a short sentence. Found {entry['sentence']!r}."
    said = entry["reference"]
    assert said, f"{where} have a section `Reference:` with authors: title, year. Found none."
    assert re.match(r".+?: .+?, (19|20)\d\d\b", said), f"{where} refer to `authors: title, year`. Found {said!r}."
    silent = [name for name in entry["settings"] if name not in entry["about"]]
    assert not silent, f"{where} explain every setting under `Args:` (`name: meaning`). Found nothing about {silent}."
    if catalogue == "sharing":
        assert entry["cost"], f"{where} have a section `Cost:`, one line relative to hard sharing. Found none."


def test_doctor_refuses_an_unknown_list(capsys):
    assert main(["doctor", "--list", "task"]) == 2
    assert "Did you mean `tasks`?" in capsys.readouterr().err


@pytest.fixture
def scores(tmp_path):
    rows = [
        {"task": task, "method": method, "split": i, "seed": 0, "value": base + i / 100 + (method == "moe") * gain}
        for task, base, gain in (("buy", 0.7, 0.05), ("click", 0.6, 0))
        for method in ("single", "moe")
        for i in range(5)
    ]
    rows[5]["value"] += 0.001
    path = tmp_path / "scores.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_verdict_on_anyones_scores(scores, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["verdict", str(scores), "-o", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["methods"]["moe"]["tasks"]["buy"]["verdict"] == "helps"
    assert found["methods"]["moe"]["tasks"]["click"]["verdict"] == "undecided"
    assert page.read_text().lower().startswith("<!doctype html>")


def test_verdict_names_what_is_wrong(scores, capsys):
    assert main(["verdict", str(scores), "--baseline", "singel"]) == 2
    assert "Did you mean `single`?" in capsys.readouterr().err
    pd.read_csv(scores).drop(columns="split").to_csv(scores, index=False)
    assert main(["verdict", str(scores)]) == 3
    said = capsys.readouterr().err
    assert "scores.csv" in said
    assert "`split`" in said


def test_doctor_names_the_extras_there_are():
    from manyheads.commands.doctor import EXTRAS

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = {line.split(" = ")[0] for line in section.strip().splitlines()} - {"dev"}
    assert set(EXTRAS) == extras
    for extra, packages in EXTRAS.items():
        assert all(package in section for package in packages), extra


def test_parts_are_told_in_a_line():
    parts = tuple(Part(name=f"p{i}", value=v, labels=9, cases=1, word="iou") for i, v in enumerate((0.5, None, 0.25)))
    score = Score(task="mask", metric="mean_iou", value=0.375, labels=9, parts=parts)
    assert part_line(score) == "mask, iou of each part: p2 0.250, p0 0.500; 1 without a value"
    many = tuple(Part(name=f"p{i}", value=i / 10, labels=9, cases=1, word="log_loss") for i in range(8))
    score = Score(task="y", metric="log_loss", value=0.3, labels=9, greater_is_better=False, parts=many)
    assert part_line(score).endswith("p7 0.700, p6 0.600, p5 0.500, ..., p2 0.200, p1 0.100, p0 0")


def test_a_plan_is_short():
    assert plan_lines([(0, "hard: a, b")]) == []
    lines = plan_lines([(0, "shared"), *((1, f"own: {i}") for i in range(138))])
    assert lines[:2] == ["  shared", "    own: 0"]
    assert len(lines) == 13
    assert lines[-1] == "  ... and 127 more"


@pytest.mark.parametrize(
    ("penalty", "said"),
    [
        (L2(0.01, on="heads", step="loss"), "Penalty p, strength 0.01: heads of one shape; added to the loss."),
        (
            Mean(2.0),
            "Penalty p, strength 2: weights of which each task has its own; by a proximal step after each update.",
        ),
    ],
)
def test_penalties_are_told_in_words(penalty, said):
    assert penalty_line("p", penalty) == said
