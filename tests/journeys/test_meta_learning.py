"""Learning to learn through the command line: a table of schools, a run that adapts, and a model of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from manyheads import Learner, Regression, modelfile, objectives
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


@pytest.fixture(scope="module")
def deep(there):
    """A run that learned to follow schools, and the rows of one that it never saw."""
    words = ["optim.objective.name=maml", "optim.objective.inner_steps=5", "optim.objective.inner_lr=0.1"]
    words += ["trainer.max_epochs=12"]
    table = pupils(31)
    table.query("school == 's30'").to_csv(there / "few.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        assert main(["train", "-c", "run.yaml", "-o", "deep", *words, "optim.lr=0.01", "-q"]) == 0
    return there


def test_a_trained_model_adapts_to_a_school(deep, monkeypatch):
    monkeypatch.chdir(deep)
    model, _, dataset, _ = modelfile.load("deep/model")
    history = pd.read_csv("deep/metrics.csv")
    r2 = history.query("split == 'valid' and metric == 'r2'")["value"]
    assert r2.max() > 0.3  # no model that is the same for all schools can
    (rows,) = dataset.tasksets({"table": pd.read_csv("few.csv")}).values()
    objective = objectives.MAML(inner_steps=5, inner_lr=0.1)
    errors = []
    for own in (model, objective.fit(model, rows.take(rows.domain.new_tensor(range(10))))):
        output = run(own, rows, ["score"])["score"][10:, 0]
        errors.append(float((output - rows.labels("score")[0][10:]).square().mean()))
    assert errors[1] < errors[0] / 2


def test_the_scores_of_the_test_part_are_those_of_a_model_that_followed_it(deep):
    report = json.loads((deep / "deep" / "report.json").read_text())
    by_part = {s["split"]: s["scores"][0]["value"] for s in report["scores"]}
    history = pd.read_csv(deep / "deep" / "metrics.csv")
    last = history.query("split == 'valid' and metric == 'r2'")["value"].max()
    assert by_part["valid"] == pytest.approx(last, abs=1e-4)
    assert by_part["test"] > 0.3


def test_the_predictions_of_the_test_part_are_those_that_were_scored(deep):
    report = json.loads((deep / "deep" / "report.json").read_text())
    (score,) = (s["scores"][0] for s in report["scores"] if s["split"] == "test")
    said, table = pd.read_parquet(deep / "deep" / "predictions" / "test.parquet"), pd.read_csv(deep / "pupils.csv")
    assert len(said) == score["labels"]
    assert said["row"].is_monotonic_increasing
    true = table["score"].iloc[said["row"]].to_numpy()
    r2 = 1 - ((true - said["score"]) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    assert r2 == pytest.approx(score["value"], abs=1e-4)


def test_new_domains_are_followed_where_a_model_is_evaluated(deep, monkeypatch, capsys):
    monkeypatch.chdir(deep)
    run = ["evaluate", "deep"]
    assert main([*run, "few.csv", "--json"]) == 0
    out = capsys.readouterr()
    score = json.loads(out.out.splitlines()[-1])["scores"]["score"]["r2"]
    assert score["labels"] == 20  # 10 of 30 were followed
    assert "followed half of the rows of each `school`, 10 at most" in out.out + out.err
    pd.read_csv("few.csv").drop(columns="school").to_csv("nameless.csv", index=False)
    assert main([*run, "nameless.csv", "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out.splitlines()[-1])["scores"]["score"]["r2"]["labels"] == 20
    assert "of each table, 10 at most" in out.out + out.err


def test_a_learner_follows_new_domains_when_it_is_evaluated():
    encoder = {"name": "tabular", "d_hidden": 16, "n_layers": 1}
    settings = {"objective": {"name": "maml", "inner_steps": 5, "inner_lr": 0.1}, "max_epochs": 12, "lr": 0.01}
    split = {"kind": "group", "by": "school", "sizes": [0.6, 0.2, 0.2]}
    learner = Learner([Regression("score", metrics=["r2"])], split=split, encoder=encoder, **settings)
    found = learner.fit(pupils()).evaluate(pupils(40).query("school > 's30'"))
    assert found.loc["score", "value"] > 0.3


def test_add_task_without_a_task_follows_a_new_school(deep, monkeypatch, capsys):
    """What the command writes is what `fit` gives, to the bit; and it says what the following was worth."""
    monkeypatch.chdir(deep)
    before = {p: p.read_bytes() for p in (deep / "deep").rglob("*") if p.is_file()}
    assert main(["add-task", "deep", "--data", "few.csv", "-o", "school", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["objective"], said["rows"], said["folds"]) == ("maml", 30, 5)
    assert said["settings"]["inner_steps"] == 5
    (kept,) = said["kept"]
    assert kept["labels"] == 30
    assert kept["after"] > kept["before"] + 1  # of a school whose slopes are steep
    model, _, dataset, _ = modelfile.load("deep/model")
    (rows,) = dataset.tasksets({"few": pd.read_csv("few.csv")}).values()
    expected = objectives.MAML(inner_steps=5, inner_lr=0.1).fit(model, rows)
    found = modelfile.load("school/model")[0]
    assert all(torch.equal(v, found.state_dict()[k]) for k, v in expected.state_dict().items())
    assert before == {p: p.read_bytes() for p in (deep / "deep").rglob("*") if p.is_file()}
    assert json.loads((deep / "school" / "grown.json").read_text())["adapted"]["by"] == "maml"
    assert "A new domain: few" in (deep / "school" / "report.html").read_text()
    assert main(["predict", "school", "few.csv", "-o", "few_predicted.csv"]) == 0


def test_following_what_makes_it_worse_writes_nothing(deep, monkeypatch, capsys):
    monkeypatch.chdir(deep)
    table = pd.read_csv("few.csv")
    model, _, dataset, _ = modelfile.load("deep/model")
    (rows,) = dataset.tasksets({"few": table}).values()
    said = modelfile.load("deep/model")[1] and run(model, rows, ["score"])["score"][:, 0].double().numpy()
    noise = np.random.default_rng(0).normal(size=len(table))
    task = model.tasks["score"]
    table.assign(score=said * task.sd + task.mean + noise / 100).to_csv("known.csv", index=False)
    table.assign(score=noise).iloc[:6].to_csv("noise.csv", index=False)
    codes = [main(["add-task", "deep", "--data", f"{name}.csv", "-o", f"no-{name}"]) for name in ("known", "noise")]
    assert 5 in codes
    assert "nothing was written" in capsys.readouterr().err
    assert not all((deep / f"no-{name}").exists() for name in ("known", "noise"))


def test_a_curve_of_a_new_school(deep, monkeypatch, capsys):
    monkeypatch.chdir(deep)
    words = ["trainer.max_epochs=2", "model.members=1", "-q"]
    assert main(["train", "-c", "run.yaml", "-o", "plain", *words]) == 0
    command = ["add-task", "deep", "--data", "few.csv", "-o", "curved", "--curve", "5,15", "--beside", "plain"]
    assert main([*command, "--json"]) == 0
    curve = json.loads(capsys.readouterr().out.splitlines()[-1])["curve"]
    assert list(curve["starts"]) == ["scratch", "adapted", "finetune plain"]
    assert set(curve["gains"]) == {"adapted", "finetune plain"}
    adapted = [point["mean"] for point in curve["starts"]["adapted"]]
    assert adapted[1] > adapted[0]


def test_classes_that_are_held_out_whole(tmp_path, monkeypatch, capsys):
    """A split by the class itself: validation and test are of classes that were never trained on."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(24), 20)
    x = rng.normal(size=(24, 4))[kind] * 2 + rng.normal(size=(len(kind), 4))
    table = pd.DataFrame(x, columns=list("abcd")).assign(kind=[f"k{k:02}" for k in kind])
    table.query("kind < 'k18'").to_csv("kinds.csv", index=False)
    new = table.query("kind >= 'k18'").rename(columns={"kind": "sort"})
    new.groupby("sort").head(4).to_csv("few.csv", index=False)
    new.groupby("sort").tail(16).to_csv("more.csv", index=False)
    text = "schema_version: 1\ndata: {train: kinds.csv, split: {kind: group, by: kind, sizes: [0.4, 0.3, 0.3]}}\n"
    text += "tasks: {kind: {type: multiclass, metrics: [accuracy]}}\nmodel: {encoder: {name: tabular, d_hidden: 16}}\n"
    text += "optim: {objective: {name: proto, ways: 5, support: 3, query: 5}}\ntrainer: {max_epochs: 4}\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert main(["train", "-c", "run.yaml", "-o", "run", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    for part in ("valid", "test"):
        found = scores[part]["kind"]["accuracy"]
        assert found["labels"] == 40 * 25
        assert found["interval"][0] > 0.4  # of five classes that it never saw
    add = ["add-task", "run", "--data", "few.csv", "--task", "sort", "--type", "multiclass", "--json"]
    assert main([*add, "--way", "prototypes", "-o", "more"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["identical"]
    assert main(["evaluate", "more", "more.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["sort"]["accuracy"]["value"] > 0.5  # of six
    assert main([*add[:2], "--data", "few.csv", "-o", "no"]) == 3
    assert "target column of the model (kind)" in capsys.readouterr().err
    assert (
        main(
            [
                *add,
                "--way",
                "adapt",
                "--set",
                "inner_lr=0.2",
                "--set",
                "inner_steps=20",
                "-o",
                "steps",
                "--tolerance",
                "1",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["settings"]["inner_steps"] == 20


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
    assert main(["train", "-c", "run.yaml", "-o", "run", *objective, "trainer.max_epochs=10"]) == 0
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
    words = ["optim.objective.name=maml", "optim.objective.adapt=hats"]
    assert main(["check", "-c", "run.yaml", *words]) == 2
    assert "Found `hats`, which fits none" in capsys.readouterr().err
    assert main(["train", "-c", "run.yaml", "-o", "rows", "-q", "trainer.max_epochs=1", "model.members=1"]) == 0
    assert main(["add-task", "rows", "--data", "pupils.csv", "-o", "no"]) == 2
    assert "should have learned to" in capsys.readouterr().err
    assert main(["add-task", "rows", "--data", "pupils.csv", "-o", "no", "--type", "binary"]) == 2
    assert main(["add-task", "rows", "--data", "pupils.csv", "-o", "no", "--task", "x"]) == 2
    assert "should have a type" in capsys.readouterr().err
