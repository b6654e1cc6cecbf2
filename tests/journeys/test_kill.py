"""A run that is killed and resumed ends bit by bit as one that was not. More kills: MANYHEADS_KILLS=200."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

KILLS = int(os.environ.get("MANYHEADS_KILLS", "4"))
SAME = ("metrics.csv", "events.jsonl", "model/weights.safetensors", "splits.parquet", "tasks.json", "config.yaml")
CONFIG = """
schema_version: 1
data: {{train: t.csv, split: {{sizes: {sizes}}}}}
tasks: {{y: {{type: binary}}, y2: {{type: binary}}, z: {{type: regression}}, z2: {{type: regression}}}}
model: {{members: 2, encoder: {{name: tabular, d_hidden: 16, dropout: 0.1}}}}
sampling: {{batch_size: 32}}
trainer: {{max_epochs: 16, patience: 8}}
"""


def _table(rows=240):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["y"] = (x[:, 0] + rng.normal(size=rows) > 0).astype(float)
    frame["y2"] = (x[:, 1] + rng.normal(size=rows) > 0).astype(float)
    frame["z"] = x[:, 1] + rng.normal(size=rows)
    frame["z2"] = x[:, 2] - x[:, 1] + rng.normal(size=rows)
    frame.loc[::4, "y"] = np.nan
    return frame


def _train(folder, output, more):
    """In a process of its own: `manyheads train`, its words in a file."""
    from manyheads.cli import main

    os.chdir(folder)
    torch.set_num_threads(1)
    with open(f"{output}.txt", "w") as said, contextlib.redirect_stderr(said):
        code = main(["train", "-c", "run.yaml", "-o", output, "-q", *more])
    sys.exit(code)


def _start(folder, output, *more):
    """A process that forks from one where torch is imported already: a kill costs a second less."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pandas", "manyheads.commands.runs", "manyheads.stacking.stacked"])
    process = context.Process(target=_train, args=(folder, output, more))
    process.start()
    return process


def _end(process, *codes):
    process.join(120)
    assert process.exitcode in codes, process.exitcode
    return process.exitcode


def _wait_for(process, path):
    while process.is_alive() and not path.exists():
        time.sleep(0.01)


@pytest.fixture(scope="module", params=["[0.7, 0.15, 0.15]", "[0.8, 0, 0.2]"], ids=["validation", "held-out"])
def whole(request, tmp_path_factory):
    """A run that nobody killed, and how long its training took from the first file on."""
    folder = tmp_path_factory.mktemp("kill")
    _table().to_csv(folder / "t.csv", index=False)
    (folder / "run.yaml").write_text(CONFIG.format(sizes=request.param))
    process = _start(folder, "whole")
    _wait_for(process, folder / "whole" / "env.json")
    begun = time.monotonic()
    _end(process, 0)
    return folder, time.monotonic() - begun


def _same(folder, other):
    for name in SAME:
        assert (folder / other / name).read_bytes() == (folder / "whole" / name).read_bytes(), f"{name} differs"
    left = [str(p) for p in (folder / other).rglob(".*")]
    assert not left


def test_killed_anywhere_and_resumed_it_ends_the_same(whole):
    folder, seconds = whole
    rng = random.Random(20)
    for i in range(-(-KILLS // 2)):
        output = f"killed-{i}"
        process = _start(folder, output)
        _wait_for(process, folder / output / "env.json")
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        _end(process, -signal.SIGKILL, 0)
        _end(_start(folder, output, "--resume"), 0)
        _same(folder, output)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_from_there(whole, number, code):
    folder, _ = whole
    output = f"stopped-{code}"
    process = _start(folder, output)
    _wait_for(process, folder / output / "metrics.csv")
    os.kill(process.pid, number)
    if _end(process, code, 0) == code:
        assert (folder / output / "checkpoints" / "last.ckpt").exists()
        assert not (folder / output / "report.json").exists()
    _end(_start(folder, output, "--resume"), 0)
    _same(folder, output)


def test_a_finished_run_is_left_as_it_is(whole):
    folder, _ = whole
    before = (folder / "whole" / "report.json").stat().st_mtime_ns
    _end(_start(folder, "whole", "--resume"), 0)
    assert (folder / "whole" / "report.json").stat().st_mtime_ns == before


def test_a_run_whose_ending_was_cut_off_is_ended(whole):
    folder, _ = whole
    shutil.copytree(folder / "whole", folder / "cut")
    for path in ("report.html", "predictions/test.parquet"):
        (folder / "cut" / path).unlink()
    _end(_start(folder, "cut", "--resume"), 0)
    assert (folder / "cut" / "report.html").exists()
    _same(folder, "cut")


def test_resume_without_a_checkpoint_begins_anew(whole):
    folder, _ = whole
    _end(_start(folder, "fresh", "--resume"), 0)
    _same(folder, "fresh")
