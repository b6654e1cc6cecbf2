"""A learner's life after training: a task more, tasks fewer, a new domain; the first learner stays as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from test_meta_learning import pupils

import manyheads as mh
from manyheads.faults import ConfigError, GateError


@pytest.fixture(scope="module")
def rows():
    """Three targets of five columns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    frame = pd.DataFrame(x, columns=list("abcde"))
    y = x[:, 0] + x[:, 1]
    return frame.assign(up=(y > 0).astype(int), much=y, far=(x[:, 0] - x[:, 2] > 0).astype(int))


@pytest.fixture(scope="module")
def learner(rows):
    tasks = [mh.Binary("up"), mh.Regression("much")]
    made = mh.Learner(tasks, random_state=0, members=2, max_epochs=6, encoder={"name": "tabular", "d_hidden": 16})
    return made.fit(rows.drop(columns="far").iloc[:200])


def same(a, b, table, tasks):
    pd.testing.assert_frame_equal(a.predict(table, tasks), b.predict(table, tasks), check_exact=True)


def test_a_task_more_and_fewer(learner, rows, tmp_path):
    test = rows.iloc[250:]
    before = learner.predict(test)
    more = learner.add_task(mh.Binary("far"), rows.drop(columns=["up", "much"]).iloc[:250])
    assert [t.name for t in more.tasks_] == ["up", "much", "far"]
    assert more.added_.identical
    assert more.added_.labels == 250
    assert float(more.evaluate(test).loc["far", "value"]) > 0.7
    same(learner, more, test, ["up", "much"])
    fewer = more.remove_task("up")
    assert [t.name for t in fewer.tasks_] == ["much", "far"]
    same(more, fewer, test, ["much", "far"])
    same(more, more.subset("far"), test, ["far"])
    again = mh.Learner.load(more.save(tmp_path / "model"))
    same(more, again, test, None)
    same(again, again.remove_task("much"), test, ["up", "far"])
    assert [t.name for t in learner.tasks_] == ["up", "much"]
    pd.testing.assert_frame_equal(learner.predict(test), before, check_exact=True)


def test_what_is_refused(learner, rows):
    new = rows.drop(columns=["up", "much"]).iloc[:100]
    with pytest.raises(ConfigError, match="should be there"):
        learner.add_task(mh.Binary("far"), new, way="finetune")
    with pytest.raises(GateError, match="fell from"):
        learner.add_task(
            mh.Binary("far"), new, {"name": "finetune", "pace": 20}, old=rows.drop(columns="far").iloc[200:]
        )
    with pytest.raises(ConfigError, match="Did you mean `much`"):
        learner.remove_task("mutch")
    with pytest.raises(ConfigError, match="Did you mean `much`"):
        learner.subset("mutch")
    with pytest.raises(ConfigError, match="should have learned to"):
        learner.adapt(rows)
    raw = mh.Learner([mh.Binary("far")])
    for act in (lambda: raw.adapt(new), lambda: raw.subset("far"), lambda: raw.remove_task("far")):
        with pytest.raises(ConfigError, match="should be fitted first"):
            act()


def test_a_learner_follows_a_new_school():
    table = pupils(14, 24)
    known, new = table[table["school"] != "s13"], table[table["school"] == "s13"]
    made = mh.Learner(
        [mh.Regression("score")], objective={"name": "maml", "inner_steps": 5, "inner_lr": 0.1}, lr=0.01, max_epochs=8,
        split={"kind": "group", "by": "school"}, members=1, encoder={"name": "tabular", "d_hidden": 16},
    ).fit(known)  # fmt: skip
    own = made.adapt(new)
    (kept,) = own.adapted_.kept
    assert kept.labels == 24
    assert kept.after > kept.before
    errors = [float(((one.predict(new)["score"] - new["score"]) ** 2).mean()) for one in (made, own)]
    assert errors[1] < errors[0]


def test_learned_rates_go_along(tmp_path):
    """A task more, and tasks fewer: what stays keeps its rates, and what is new follows at `inner_lr`."""
    table = pupils(12, 16).assign(more=lambda t: t["score"] - t["x0"], past=lambda t: (t["score"] > 0).astype(int))
    made = mh.Learner(
        [mh.Regression("more"), mh.Regression("score")], objective={"name": "metasgd", "inner_lr": 0.1}, lr=0.05,
        max_epochs=2, split={"kind": "group", "by": "school"}, members=1, encoder={"name": "tabular", "d_hidden": 8},
    ).fit(table.drop(columns="past"))  # fmt: skip
    domain = table[table["school"] == "s1"]
    fewer, more = made.subset("score"), made.add_task(mh.Binary("past"), table.drop(columns=["more", "score"]))
    rates = [dict(one.model_.named_parameters()) for one in (made, fewer, more)]
    heads = [f"_rates.heads/{one.model_.heads.keys_of['score']}/weight" for one in (made, fewer, more)]
    assert rates[0][heads[0]].std() > 0
    assert all(own[head].equal(rates[0][heads[0]]) for own, head in zip(rates, heads, strict=True))
    assert fewer.adapt(domain.drop(columns=["more", "past"])).adapted_.rows == 16
    followed = more.adapt(domain)
    before, after = (one.model_.heads["past"].weight for one in (more, followed))
    assert not torch.equal(before, after)
    same(followed, mh.Learner.load(followed.save(tmp_path / "model")), domain, None)
