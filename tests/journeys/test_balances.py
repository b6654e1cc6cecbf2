"""What users see of balances: each word on the command line, `doctor --list balance`, the report's section."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import people, run

import manyheads as mh
from manyheads.balance import Balance
from manyheads.balance.gradnorm import GradNorm
from manyheads.catalog import find, index
from manyheads.cli import main
from manyheads.commands.doctor import entries
from manyheads.report import render
from manyheads.results import History, Record, Report, TaskInfo

pytestmark = pytest.mark.usefixtures("empty_folder")
WORDS = list(index(Balance))
NEEDED = {"fixed": "weights: {height: 2.0, clicked: 0.5}", "pcd": "primary: height", "torchjd": "method: PCGrad"}
"""Settings that a word cannot do without."""
NAMES = {"height": "r2", "weight": "r2", "clicked": "roc_auc"}
TASKS = """schema_version: 1
tasks: {height: {type: regression}, weight: {type: regression}, clicked: {type: binary}}
model: {encoder: {name: tabular, d_hidden: 8}, members: 1}
sampling: {batch_size: 32}
trainer: {max_epochs: 3}
"""


def rows(n=120):
    """Three things to predict, all with holes."""
    frame, rng = people(n)
    for name in NAMES:
        frame.loc[rng.random(n) < 0.3, name] = np.nan
    return frame


def chosen(word):
    """The override that picks a balance."""
    if word == "torchjd" and importlib.util.find_spec("torchjd") is None:
        pytest.skip("torchjd is not here")
    return f"optim.balance={{name: {word}, {NEEDED[word]}}}" if word in NEEDED else f"optim.balance={word}"


def all_there(scores):
    assert set(scores) == set(NAMES)
    assert all(scores[task][metric]["value"] is not None for task, metric in NAMES.items())


# -- the command line


@pytest.mark.parametrize("word", WORDS)
def test_a_table_with_holes(word, capsys):
    rows().to_csv("table.csv", index=False)
    rows()[["x0", "x1", "x2"]].to_csv("new.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    all_there(run(capsys, "train", "-c", "run.yaml", "-o", "run", chosen(word))["scores"]["test"])
    assert run(capsys, "predict", "run", "new.csv", "-o", "out.csv")["rows"] == 120
    out = pd.read_csv("out.csv")
    assert {*NAMES, "clicked__prob"} <= set(out)
    assert np.isfinite(out.select_dtypes("number").to_numpy()).all()
    all_there(run(capsys, "evaluate", "run", "table.csv")["scores"])
    run(capsys, "report", "run", "-o", "page.html")
    cls = find(Balance, word)
    page = Path("page.html").read_text(encoding="utf-8")
    assert ('id="giving"' in page) == (not cls.constant)
    seen = pd.read_csv("run/metrics.csv")
    weights = seen[(seen["split"] == "train") & (seen["metric"] == "weight")]
    assert set(weights["task"]) == set(NAMES)
    assert np.isfinite(weights["value"]).all()
    if word == "fixed":
        assert dict(zip(weights["task"], weights["value"], strict=False)) == {"height": 2, "weight": 1, "clicked": 0.5}
    if entries("balance")[word]["kind"] == "Gramian":
        noted = seen[seen["split"] == "balance"]
        assert np.isfinite(noted["value"]).all()
        assert {"gradient norm", "cosine with height", "conflicting pairs"} <= set(noted["metric"])
        assert "Do gradients agree?" in page
        assert "Length of each task's gradient" in page


@pytest.mark.parametrize("word", WORDS)
def test_two_tables_of_different_columns(word, capsys):
    frame = rows(160)
    one = frame[:80][["x0", "x1", "x2", "height", "clicked"]]
    two = frame[80:][["x0", "x1", "weight"]].rename(columns={"x0": "z0", "x1": "z1"})
    one.to_csv("one.csv", index=False)
    two.to_csv("two.csv", index=False)
    tables = "one: {path: one.csv, targets: [height, clicked]}, two: {path: two.csv, targets: [weight]}"
    Path("run.yaml").write_text(f"{TASKS}data: {{tables: {{{tables}}}}}\n", encoding="utf-8")
    all_there(run(capsys, "train", "-c", "run.yaml", "-o", "run", chosen(word))["scores"]["test"])
    two[["z0", "z1"]].to_csv("new.csv", index=False)
    assert run(capsys, "predict", "run", "new.csv", "-o", "out.csv", "--table", "two")["rows"] == 80


def test_a_run_that_was_interrupted_amid_an_epoch_ends_as_one_that_was_not(capsys, monkeypatch):
    rows().to_csv("table.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    words = ["train", "-c", "run.yaml", "optim.balance=gradnorm", "trainer.max_epochs=4", "-o"]
    run(capsys, *words, "whole")
    asked, solve = [], GradNorm.solve

    def stopped(self, problem):
        asked.append(problem)
        if len(asked) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return solve(self, problem)

    with monkeypatch.context() as patch:
        patch.setattr(GradNorm, "solve", stopped)
        assert main([*words, "run"]) == 130
    assert len(asked) == 5
    assert not Path("run/report.json").exists()
    run(capsys, *words, "run", "--resume")
    assert Path("run/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    seen = pd.read_csv("whole/metrics.csv")
    assert seen[seen["metric"] == "weight"]["value"].nunique() > 4


@pytest.mark.parametrize(
    ("balance", "said"),
    [
        ("upgrd", "Did you mean `upgrad`?"),
        ("{name: fixed, weights: {heigt: 2.0}}", "Did you mean `height`?"),
        ("{name: pcd, primary: wieght}", "Did you mean `weight`?"),
        ("{name: mgda, gramian: sketchy}", "`gramian` should be one of"),
    ],
)
def test_a_wrong_balance_is_refused_before_training(balance, said, capsys):
    rows().to_csv("table.csv", index=False)
    Path("run.yaml").write_text(f"{TASKS}data: {{train: table.csv}}\n", encoding="utf-8")
    assert main(["train", "-c", "run.yaml", "-o", "run", f"optim.balance={balance}"]) == 2
    assert said in capsys.readouterr().err


# -- doctor


FIELDS = {"name", "kind", "cost", "state", "safe_range", "paper", "year", "reference", "sentence"}


@pytest.mark.parametrize("word", WORDS)
def test_every_balance_is_documented(word):
    entry = entries("balance")[word]
    where = f"The docstring of `{word}` should"
    assert entry["sentence"].endswith("."), f"{where} begin with one sentence. Found {entry['sentence']!r}."
    for field, heading in (("cost", "Cost"), ("state", "State"), ("safe_range", "Safe range")):
        assert entry[field], f"{where} have a section `{heading}:`. Found none."
    assert "pass" in entry["cost"], f"{where} count backward passes under `Cost:`. Found {entry['cost']!r}."
    assert entry["reference"], f"{where} have a section `Reference:` with authors: title, year. Found none."
    assert entry["paper"], f"{where} refer to `authors: title, year`. Found {entry['reference']!r}."
    silent = [name for name in entry["settings"] if name not in entry["about"]]
    assert not silent, f"{where} explain every setting under `Args:` (`name: meaning`). Found nothing about {silent}."


def test_doctor_lists_balances_with_what_they_read_cost_and_remember(capsys):
    found = run(capsys, "doctor", "--list", "balance")["balance"]
    assert list(found) == WORDS
    assert all(set(entry) >= FIELDS for entry in found.values())
    nash = found["nashmtl"]
    assert (nash["name"], nash["kind"], nash["year"]) == ("NashMTL", "Gramian", 2022)
    assert nash["paper"] == "Multi-task learning as a bargaining game"
    assert nash["cost"] == "the Gramian, and one backward pass."
    assert nash["state"] == "none."
    assert nash["safe_range"].startswith("exact for all sizes and ratios of sizes.")
    assert "Args" not in nash["safe_range"]
    assert found["gradvac"]["state"].startswith("per task, in how many steps it was there")
    assert "Safe range" not in found["gradvac"]["state"]
    kinds = {word: entry["kind"] for word, entry in found.items()}
    assert {kinds[w] for w in ("equal", "fixed", "uncertainty", "dwa", "famo")} == {"losses"}
    assert {kinds[w] for w in ("mgda", "upgrad", "pcgrad", "gradnorm")} == {"Gramian"}
    assert kinds["graddrop"] == "Jacobian"


def test_doctor_shows_the_same_to_people(capsys):
    assert main(["doctor", "--list", "balance"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 120
    part = " ".join(said[said.index("pcgrad: ") : said.index("rlw: ")].split())
    order = ("Cost: the Gramian, and one backward pass.", "State: per task, in how many", "Safe range: gradients of",
             "Reads: Gramian", "Class: PCGrad", "Reference: Yu, Kumar")  # fmt: skip
    places = [part.index(words) for words in order]
    assert places == sorted(places)
    assert re.search(r"\bevery +1 +weights are renewed each so many steps", said)


# -- the report


def page(values, weights=((1.0, 1.0), (1.0, 1.0)), labels=(100, 100), tables=(("t",), ("t",)), **pairs):
    """The section's words of a made-up run of two tasks, a and b.

    Args:
        values: what the balance recorded of all tasks, per epoch.
        weights: of each task, per epoch.
        labels: of 100 training rows.
        tables: of each task.
        pairs: further numbers of task a.
    """
    records = []

    def put(split, task, metric, numbers):
        for epoch, value in enumerate(numbers):
            records.append(Record(epoch=epoch, step=epoch, split=split, task=task, metric=metric, value=value))

    for name, own in zip("ab", weights, strict=True):
        put("train", name, "weight", own)
    for metric, numbers in values.items():
        put("balance", None, metric, numbers)
    for metric, numbers in pairs.items():
        put("balance", "a", metric.replace("_", " "), numbers)
    tasks = tuple(
        TaskInfo(name=name, kind="regression", metric="r2", greater_is_better=True, tables=own,
                 rows={"train": 100}, labels={"train": known})
        for name, known, own in zip("ab", labels, tables, strict=True)
    )  # fmt: skip
    text = render([Report(title="run", tasks=tasks, history=History(records=tuple(records)))])
    found = re.search(r'<section aria-labelledby="giving">(.*?)</section>', text, re.DOTALL)
    return None if found is None else " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


def seen(share, mode="exact", **more):
    """What a balance records in two epochs of ten steps with this share of conflicting pairs."""
    return {
        "conflicting pairs": (share, share),
        "cosine, mean over pairs": (0.5 - share, 0.5 - share),
        "solver residual, largest": (1e-14, 3e-12),
        f"steps, {mode}": (10.0, 10.0),
        **{f"steps, {note}": counts for note, counts in more.items()},
    }


CANNOT = "cannot help here"


def test_where_nothing_moved_there_is_no_section():
    assert page({}) is None


def test_where_gradients_agree_and_that_is_sure_it_is_said():
    text = page(seen(0.02), cosine_with_b=(0.4, 0.5))
    assert f"gradients agree in 98 % of the pairs and steps, so a balance that resolves conflicts {CANNOT}." in text
    assert CANNOT not in page(seen(0.02))  # of many tasks pairs are not recorded: two may always disagree
    one = page(seen(0.02), cosine_with_b=(0.4, -0.9))
    assert CANNOT not in one
    assert "“a” and “b” do (mean cosine of an epoch down to −0.90)" in one
    assert CANNOT in page(seen(0.0, "exact"), labels=(50, 80))
    assert CANNOT in page(seen(0.0, "features"))
    assert "agree in all pairs and steps" in page(seen(0.0))
    assert "agree in 99.9 % of the pairs and steps" in page(seen(0.0001))


@pytest.mark.parametrize("different", [{"labels": (50, 100)}, {"tables": (("t",), ("u",))}])
def test_from_features_of_different_rows_less_is_said(different):
    text = page(seen(0.02, "features"), **different)
    assert "gradients at the shared features agree in 98 %" in text
    assert CANNOT not in text
    mixed = page(seen(0.02) | {"steps, features": (0.0, 1.0)}, **different)
    assert CANNOT not in mixed


def test_conflict_is_said_with_its_share():
    text = page(seen(0.4), weights=((1.0, 2.0), (1.0, 0.5)), cosine_with_b=(0.3, -0.5), gradient_norm=(1.0, 2.0))
    assert "Gradients point against each other in 40 % of the pairs and steps (mean cosine 0.10)." in text
    assert CANNOT not in text
    assert "largest residual of the solver 3.00e−12" in text
    assert "Gramian: exact in 20 steps" in text
    assert "no fall-backs" in text


def test_where_no_direction_helped_it_is_said():
    text = page(seen(0.02, **{"Pareto-stationary": (0.0, 3.0)}))
    assert "Pareto-stationary in 3 of 20 steps: no direction helped all tasks." in text
    assert CANNOT not in text
    assert "notes: Pareto-stationary in 3 steps" in text


def test_what_was_not_finite_is_counted():
    text = page(seen(0.4), **{"steps,_not_finite": (2.0, 1.0)})
    assert "left out because not finite: “a” in 3 steps." in text


def test_of_a_balance_that_records_weights_alone_no_more_is_said_than_it_saw():
    text = page({}, weights=((1.0, 3.0), (1.0, 0.5)))
    assert "“a” weighed most (3.000) and “b” least (0.500)" in text
    assert "whether gradients conflict is not something that this balance records." in text
    assert "Do gradients agree?" not in text
    assert "Task weights over the epochs" in text
    assert "Gramian" not in text


NOTHING = "only one task had labels, or no weight was shared"


def test_where_nothing_was_shared_it_is_said():
    text = page({"steps, nothing shared": (10.0, 10.0)})
    assert f"In all 20 steps {NOTHING}: the balance had nothing to decide." in text
    assert "Gramian" not in text
    assert "Task weights" not in text
    assert "schedule" not in text


def test_where_in_most_steps_nothing_was_shared_it_is_said_first():
    most = page(seen(0.4, **{"nothing shared": (30.0, 10.0)}))
    assert f"In 40 of 60 steps {NOTHING}: there the balance had nothing to decide. Gradients point against" in most
    few = page(seen(0.4, **{"nothing shared": (1.0, 0.0)}))
    assert NOTHING not in few
    assert "nothing shared in 1 step" in few


def test_the_console_says_it_as_well(capsys):
    rows().to_csv("rows.csv", index=False)
    Path("run.yaml").write_text(TASKS)
    words = (
        "train",
        "-c",
        "run.yaml",
        "-o",
        "run",
        "data.train=rows.csv",
        "optim.balance=mgda",
        "sampling.schedule=alternating",
    )
    (said,) = [w for w in run(capsys, *words)["warnings"] if NOTHING in w]
    assert said.startswith("In all ")
    assert "with joint, a step has every task" in said


@pytest.mark.parametrize("settings", [{"schedule": "alternating"}, {"sharing": "soft"}], ids=str)
@pytest.mark.parametrize("balance", ["mgda", "graddrop"])
def test_a_run_in_which_nobody_had_to_give_way(balance, settings):
    learner, text = fitted(3, balance=balance, **settings)
    section = re.search(r'<section aria-labelledby="giving">(.*?)</section>', text, re.DOTALL)[1]
    steps = sum(value for _, value in learner.history_.series("steps, nothing shared", "balance"))
    assert steps > 2
    assert f"In all {steps:.0f} steps {NOTHING}: the balance had nothing to decide." in section
    remedy = "`sampling.schedule` is alternating; with joint, a step has every task."
    assert (remedy in section) == ("schedule" in settings)
    assert "solver" not in section


def fitted(n_tasks, **settings):
    """The page of a real run."""
    frame = rows()[["x0", "x1", "x2"]]
    rng = np.random.default_rng(1)
    for k in range(n_tasks):
        frame[f"t{k}"] = frame.x0 * (k + 1) + rng.normal(size=len(frame))
    tasks = [mh.Regression(f"t{k}") for k in range(n_tasks)]
    learner = mh.Learner(tasks, members=1, max_epochs=2, batch_size=32, random_state=0, **settings).fit(frame)
    learner.report("page.html")
    return learner, Path("page.html").read_text(encoding="utf-8")


def test_the_matrix_has_the_means_of_the_history():
    learner, text = fitted(3, balance={"name": "upgrad", "gramian": "exact"})
    table = re.search(r'<table class="heat pairs">.*?</table>', text, re.DOTALL)[0]
    cells = re.findall(r"<td class=.*?</td>", table)
    assert len(cells) == 9
    found = [value for _, value in learner.history_.series("cosine with t2", "balance", "t1")]
    assert len(found) == 2
    shown = f"{sum(found) / 2:.2f}".replace("-", "−")
    assert f">{shown}<br>" in cells[5]
    assert f">{shown}<br>" in cells[7]
    assert "→" in cells[5]
    lengths = {t: learner.history_.series("gradient norm", "balance", t)[-1][1] for t in ("t0", "t1", "t2")}
    longest = max(lengths, key=lengths.get)
    assert f"longest gradient (“{longest}”," in text or "about equally long" in text


def test_with_many_tasks_there_is_no_matrix_but_a_verdict():
    _, text = fitted(14, balance="pcgrad")
    assert "heat pairs" not in text
    assert "conflicting pairs, %" in text
    assert re.search(r"No conflict to speak of|point against each other in \d+ %", text)
