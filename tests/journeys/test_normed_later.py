"""Life after training of a net with batch normalisation, of a class that somebody else wrote."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_meta_learning import pupils
from torch import nn

from manyheads import modelfile
from manyheads.cli import main
from manyheads.encoders.tabular import Tabular
from manyheads.evaluate import run
from manyheads.growing.adding import bytes_of

TRUST = ["--trust", "test_normed_later"]
CONFIG = """
schema_version: 1
data: {train: pupils.csv, split: {kind: group, by: school, sizes: [0.6, 0.2, 0.2]}}
tasks: {score: {type: regression, metrics: [r2]}}
model: {members: 1, encoder: {name: "test_normed_later:Normed"}}
optim: {objective: {name: maml, norm: batch}}
trainer: {max_epochs: 1}
"""


class Normed(Tabular):
    """A table's columns, a hidden layer, and batch normalisation."""

    def __init__(self, layouts):
        super().__init__(layouts, d_hidden=16, n_layers=2)
        self.stages[1] = nn.Sequential(self.stages[1], nn.BatchNorm1d(16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("normed")
    table = pupils(13, 20)
    table[table["school"] != "s12"].to_csv(found / "pupils.csv", index=False)
    new = table[table["school"] == "s12"]
    new.to_csv(found / "few.csv", index=False)
    table.assign(up=(table["x0"] > 0).astype(int)).drop(columns="score")[:60].to_csv(found / "up.csv", index=False)
    (found / "run.yaml").write_text(CONFIG, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        assert main(["train", "-c", "run.yaml", "-o", "run", "-q"]) == 0
    return found


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def _open(name):
    model, _, dataset, _ = modelfile.load(f"{name}/model", trust=["test_normed_later"])
    ((source, rows),) = dataset.tasksets({"x": pd.read_csv("few.csv")}, labels=False).items()
    return model, source, rows


def _norm(model):
    return next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))


def test_a_copy_that_followed_is_kept_and_opened_again(there, capsys):
    """It norms by the rows that it followed, so that a row alone is told what it is told among others."""
    assert main(["add-task", "run", "--data", "few.csv", "-o", "mine", "--tolerance", "9", *TRUST]) == 0
    (model, source, rows), old = _open("mine"), _norm(_open("run")[0])
    assert not np.allclose(_norm(model).running_mean.numpy(), old.running_mean.numpy(), atol=1e-2)
    every = run(model, rows, None, source)["score"]
    alone = run(model, rows.take(rows.domain.new_tensor([3])), None, source)["score"]
    assert abs(float(alone[0, 0] - every[3, 0])) < 1e-5
    pd.read_csv("few.csv")[:1].to_csv("single.csv", index=False)
    capsys.readouterr()
    assert main(["add-task", "run", "--data", "single.csv", "-o", "one", *TRUST]) == 0
    assert "Followed: 1 row, by maml. What that is worth cannot be told" in capsys.readouterr().out
    assert _norm(_open("one")[0]).running_mean.equal(old.running_mean)


def test_frozen_ways_and_merging_of_a_class_that_is_trusted(there):
    add = ["add-task", "run", "--data", "up.csv", "--task", "up", "--type", "binary", *TRUST]
    assert main([*add, "-o", "more"]) == 0
    (old, source, rows), (new, _, _) = _open("run"), _open("more")
    assert bytes_of(run(old, rows, None, source)["score"]) == bytes_of(run(new, rows, None, source)["score"])
    assert main([*add, "-o", "again", "--seed", "1"]) == 0
    merge = ["merge", "more", "again", "--how", "ties", "-o", "both", *TRUST]
    assert main(merge) == 0  # the start that both folders name is opened as well
    assert list(_open("both")[0].tasks) == ["score", "up"]
