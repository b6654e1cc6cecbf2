"""Learning to learn through the command line: a table of schools, a run that adapts, and a model of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from manyheads import modelfile, objectives
from manyheads.cli import main
from manyheads.evaluate import run

CONFIG = """
schema_version: 1
data: {train: pupils.csv, split: {kind: group, by: school, sizes: [0.6, 0.2, 0.2]}}
tasks: {score: {type: regression, metrics: [r2]}}
model: {encoder: {name: tabular, d_hidden: 16, n_layers: 1}}
trainer: {max_epochs: 4}
"""


def pupils(n_schools=30, each=30):
    """Every school has a slope of its own."""
    rng = np.random.default_rng(0)
    school = np.repeat(np.arange(n_schools), each)
    x = rng.normal(size=(len(school), 2))
    slope = rng.normal(size=(n_schools, 2))[school]
    score = (x * slope).sum(1) + rng.normal(size=len(school)) / 10
    return pd.DataFrame({"school": [f"s{i}" for i in school], "x0": x[:, 0], "x1": x[:, 1], "score": score})


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The table and its config."""
    folder = tmp_path_factory.mktemp("meta")
    pupils().to_csv(folder / "pupils.csv", index=False)
    (folder / "run.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.mark.parametrize("word", ["maml", "fomaml", "anil", "reptile", "metasgd"])
def test_a_run_that_learns_to_learn(there, monkeypatch, capsys, word):
    monkeypatch.chdir(there)
    assert main(["train", "-c", "run.yaml", "-o", word, f"optim.objective={word}", "--json"]) == 0
    json.loads(capsys.readouterr().out.splitlines()[-1])
    model = modelfile.load(f"{word}/model")[0]
    assert any(n.startswith("_rates.") for n, _ in model.named_parameters()) == (word == "metasgd")
    assert main(["train", "-c", f"{word}/config.yaml", "-o", word, "--resume"]) == 0


def test_a_trained_model_adapts_to_a_school(there, monkeypatch, capsys):
    monkeypatch.chdir(there)
    words = ["optim.objective.name=maml", "optim.objective.inner_steps=5", "optim.objective.inner_lr=0.1"]
    assert main(["train", "-c", "run.yaml", "-o", "deep", *words, "trainer.max_epochs=40"]) == 0
    model, _, dataset, _ = modelfile.load("deep/model")
    history = pd.read_csv("deep/metrics.csv")
    r2 = history.query("split == 'valid' and metric == 'r2'")["value"]
    assert r2.max() > 0.3  # no model that is the same for all schools can
    table = pupils(60).query("school >= 's50' and school < 's60'").query("school == 's55'")
    (rows,) = dataset.tasksets({"table": table}).values()
    objective = objectives.MAML(inner_steps=5, inner_lr=0.1)
    errors = []
    for own in (model, objective.fit(model, rows.take(rows.domain.new_tensor(range(10))))):
        output = run(own, rows, ["score"])["score"][10:, 0]
        errors.append(float((output - rows.labels("score")[0][10:]).square().mean()))
    assert errors[1] < errors[0] / 2


def test_what_is_refused(there, monkeypatch, capsys):
    monkeypatch.chdir(there)
    assert main(["train", "-c", "run.yaml", "-o", "no", "optim.objective=maml", "model.members=4"]) == 2
    assert "`model.members` should be 1 with the objective `maml`" in capsys.readouterr().err
    words = ["optim.objective=maml", "data.split.kind=random", "data.split.by=null"]
    assert main(["train", "-c", "run.yaml", "-o", "no", *words]) == 2
    assert "name a column in `by`" in capsys.readouterr().err
