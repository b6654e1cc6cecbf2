"""The Learner and the comparison, as a user meets them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import manyheads as mh
from manyheads.build import split_parts
from manyheads.compare import verdicts_of
from manyheads.faults import Diverged
from manyheads.spec import RunSpec, SplitSpec
from manyheads.tasks.classification import Binary, Multiclass
from manyheads.tasks.regression import Regression

QUICK = {"members": 2, "max_epochs": 3}


def table(n=240):
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 3))
    frame = pd.DataFrame(x, columns=["x0", "x1", "x2"])
    frame["when"] = pd.date_range("2021-01-01", periods=n).astype(str)
    frame["buy"] = (x[:, 0] + random.normal(size=n) > 0.8).astype(int)
    frame["amount"] = np.where(random.random(n) < 0.3, np.nan, x[:, 1] + random.normal(size=n))
    frame["kind"] = np.array(["u", "v", "w"])[random.integers(0, 3, n)]
    return frame


TASKS = [Binary("buy"), Regression("amount"), Multiclass("kind")]


def spec_of(changes=None, **settings):
    learner = mh.Learner(TASKS, **(QUICK | settings))
    return learner.spec if changes is None else RunSpec.model_validate(learner.spec.model_dump() | changes)


@pytest.mark.parametrize("members", [1, 3])
def test_a_run_that_diverges_says_so(members):
    with pytest.raises(Diverged, match="Training diverged"):
        mh.Learner(TASKS[:2], members=members, lr=1e30, max_epochs=60, drop=["when", "kind"]).fit(table())


def test_a_task_may_come_alone():
    frame = table().drop(columns=["when", "kind", "buy"])
    learner = mh.Learner([Regression("amount")], **QUICK).fit(frame)
    assert list(learner.predict(frame)) == ["amount"]


def test_thresholds_of_the_nets_are_chosen_as_those_of_the_baselines():
    tasks = [Binary("buy", metrics=["f1"], threshold="f1", class_weight={0: 5.0, 1: 1.0})]
    learner = mh.Learner(tasks, members=2, max_epochs=8, drop=["when", "amount", "kind"])
    found, _ = verdicts_of(learner.spec, tasks, {"t": table()}, repeats=2, methods=("constant", "linear"), n_jobs=1)
    task = found.comparisons["joint"].tasks["buy"]
    assert task.joint > 0.8 * task.linear
    assert task.single > 0.8 * task.linear


def test_a_split_by_time_is_one_split():
    spec = spec_of(split={"kind": "time", "by": "when"})
    found, methods = verdicts_of(spec, TASKS, {"t": table()}, repeats=2, methods=("constant",), n_jobs=1)
    comparison = found.comparisons["joint"]
    assert "The split is the one given" in comparison.protocol
    assert "holds out" in comparison.protocol
    assert {m.name for m in methods} == {"joint", "single", "constant"}


def test_settings_of_the_joint_balance_do_not_reach_the_single_tasks():
    spec = spec_of(balance={"name": "fixed", "weights": {"buy": 2.0, "amount": 0.5}}, drop=["when"])
    found, _ = verdicts_of(spec, TASKS, {"t": table()}, repeats=2, methods=("constant",), n_jobs=1)
    assert set(found.comparisons["joint"].tasks) == {"buy", "amount", "kind"}
    assert found.comparisons["joint"].budget["batch size"] == 32


def test_a_class_of_one_row_is_learnt():
    frame = table()
    frame.loc[7, "kind"] = "z"
    for seed in range(8):
        parts = split_parts(SplitSpec(), {"t": frame}, TASKS, seed)["t"]
        assert parts[7] == "train"
        assert (parts == "test").sum() >= 47


def test_columns_of_predictions_may_not_collide():
    with pytest.raises(mh.ConfigError, match=r"Found a task `y__prob`"):
        mh.Learner([Binary("y", target="buy"), Regression("y__prob", target="amount")]).fit(table())


def test_a_task_that_sees_another_is_compared_with_itself_alone():
    learner = mh.Learner([Binary("buy", sees=("amount",)), Regression("amount")], **QUICK)
    found = learner.compare(table(), repeats=2, methods=())
    assert set(found.tasks) == {"buy", "amount"}


def test_a_task_without_a_label_in_the_given_test_part_is_undecided():
    frame = table().drop(columns=["when"]).assign(part=["train", "train", "valid", "test"] * 60)
    frame["amount"] = frame["amount"].where(frame["part"] != "test")
    split = {"kind": "column", "by": "part"}
    found = mh.Learner(TASKS, split=split, **QUICK).compare(frame, repeats=1, methods=(), n_jobs=1)
    assert found.tasks["amount"].delta is None
    assert found.tasks["buy"].delta is not None


def test_a_monotone_copy_of_a_target_is_refused():
    frame = table().assign(copy=lambda t: np.exp(t.amount))
    with pytest.raises(mh.DataError, match="`copy`"):
        mh.Learner([Regression("amount")], **QUICK).fit(frame)


def test_probabilities_of_disjoint_tables_stay_apart():
    frame = table().drop(columns=["when", "kind"])
    clicks = frame[:150].drop(columns=["amount"])
    spend = frame[150:].drop(columns=["buy"]).assign(more=1.0 * np.arange(90))
    learner = mh.Learner([Binary("buy"), Regression("amount")], **QUICK).fit({"clicks": clicks, "spend": spend})
    found = learner.predict_proba({"clicks": clicks, "spend": spend})
    assert found["clicks"]["buy"].shape == (150,)
    assert "buy" not in found["spend"]
    assert learner.transform({"clicks": clicks, "spend": spend})["spend"].shape[0] == 90
    assert list(learner.predict({"spend": spend})["spend"]) == ["amount"]


def test_an_unlabelled_task_that_was_let_pass_predicts_nothing():
    frame = table().drop(columns=["when"]).assign(kind=None)
    learner = mh.Learner(TASKS, **QUICK).fit(frame, allow_unlabelled=True)
    assert not [c for c in learner.predict(frame) if c.startswith("kind")]


def test_a_table_without_a_row_is_refused():
    frame = table().drop(columns=["when", "kind"])
    learner = mh.Learner([Binary("buy"), Regression("amount")], **QUICK).fit(frame)
    for use, told in (
        (learner.predict, "should have a row to predict"),
        (learner.evaluate, "should have a row. Found none"),
        (learner.score, "should have a row. Found none"),
        (learner.fit, "should have a row in its training part"),
    ):
        with pytest.raises(mh.DataError, match=told):
            use(frame[:0])


def test_weight_decay_says_what_holds():
    assert mh.Learner(TASKS).spec.optim.decay == 0.1
    assert mh.Learner(TASKS, optimizer="SGD").spec.optim.decay is None
    assert mh.Learner(TASKS, optimizer={"name": "AdamW", "weight_decay": 0.3}).spec.optim.decay == 0.3
    assert mh.Learner(TASKS, optimizer="SGD", weight_decay=0.2).spec.optim.decay == 0.2
