"""What every test stands on: one thread, one seed, warnings as errors, and two options."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the full product of kinds instead of a covering part")
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config):
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read where transformers is imported


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow") or config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture(autouse=True)
def _seeded():
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def rng():
    """A seeded numpy generator."""
    return np.random.default_rng(0)


@pytest.fixture
def float64():
    """New tensors and modules are float64 for the length of a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def people(n):
    """(rows of three columns, with two numbers and a click to predict from them; the generator, to go on with)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    frame = pd.DataFrame(x, columns=["x0", "x1", "x2"])
    frame["height"] = x[:, 0] + rng.normal(size=n) / 2
    frame["weight"] = x[:, 0] + x[:, 1] + rng.normal(size=n) / 2
    frame["clicked"] = (x[:, 0] + rng.normal(size=n) / 2 > 0).astype(float)
    return frame, rng


def run(capsys, *words):
    """What a command of the library prints as JSON."""
    from manyheads.cli import main

    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def everything(request):
    """Whether the full product of kinds was asked for."""
    return request.config.getoption("--all")


@pytest.fixture
def data_root():
    """The folder with real data sets that the environment names."""
    root = os.environ.get("MANYHEADS_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("MANYHEADS_DATA names no folder with data sets")
    return Path(root)
