"""The walk through three cases: every command that docs/should-i-share.md prints is one that can be run."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from manyheads.cli import main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "should-i-share.md"
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
COMMANDS = [shlex.split(line.partition("#")[0]) for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_there_are_three_cases_and_the_readme_leads_to_them():
    text = PAGE.read_text(encoding="utf-8")
    assert [title in text for title in ("## Yes", "## No", "## Only these")] == [True] * 3
    assert "docs/should-i-share.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert sum(words[:3] == ["python", "-m", "benchmarks.suites"] for words in COMMANDS) == 3


def test_every_command_can_be_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("benchmarks.suites")
    suites = importlib.import_module("benchmarks.suites")
    monkeypatch.chdir(tmp_path)
    for words in COMMANDS:
        if words[0] == "python":
            assert suites.main(words[3:]) == 0
        else:
            assert words[0] == "manyheads"
            assert main([*words[1:], "--dry-run", "-q"]) == 0, capsys.readouterr().err
