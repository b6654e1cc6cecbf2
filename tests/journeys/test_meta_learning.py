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


@pytest.mark.parametrize("word", ["proto", "maml"])
def test_few_classes_at_a_time(tmp_path, monkeypatch, capsys, word):
    """Episodes of five of twelve classes; prototypes of a few rows then serve as the head for all of them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(12), 40)
    x = rng.normal(size=(12, 4))[kind] * 2 + rng.normal(size=(len(kind), 4))
    pd.DataFrame(x, columns=list("abcd")).assign(kind=[f"k{k:02}" for k in kind]).to_csv("kinds.csv", index=False)
    text = "schema_version: 1\ndata: {train: kinds.csv, split: {sizes: [0.5, 0.3, 0.2]}}\n"
    text += "tasks: {kind: {type: multiclass, metrics: [accuracy]}}\nmodel: {encoder: {name: tabular, d_hidden: 16}}\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    objective = [f"optim.objective.name={word}", "optim.objective.ways=5", "optim.objective.support=3"]
    objective += ["optim.objective.query=5", "optim.objective.episodes=2"]
    objective += ["optim.objective.inner_steps=3", "optim.objective.inner_lr=0.3"] if word == "maml" else []
    assert main(["train", "-c", "run.yaml", "-o", "run", *objective, "trainer.max_epochs=15"]) == 0
    values = pd.read_csv("run/metrics.csv").query("split == 'valid' and metric == 'accuracy'")["value"]
    assert values.max() > (0.6 if word == "proto" else 0.4)  # a guess is right in 0.2
    if word == "maml":
        return
    model, _, dataset, _ = modelfile.load("run/model")
    (rows,) = dataset.tasksets({"table": pd.read_csv("kinds.csv")}).values()
    few = rows.known_rows("kind")[::8]
    own = objectives.Proto().fit(model, rows.take(few))
    right = run(own, rows, ["kind"])["kind"].argmax(1) == rows.labels("kind")[0]
    assert right.double().mean() > 0.4  # of twelve


def test_what_is_refused(there, monkeypatch, capsys):
    monkeypatch.chdir(there)
    assert main(["train", "-c", "run.yaml", "-o", "no", "optim.objective=maml", "model.members=4"]) == 2
    assert "`model.members` should be 1 with the objective `maml`" in capsys.readouterr().err
    words = ["optim.objective=maml", "data.split.kind=random", "data.split.by=null"]
    assert main(["train", "-c", "run.yaml", "-o", "no", *words]) == 2
    assert "name a column in `by`" in capsys.readouterr().err
