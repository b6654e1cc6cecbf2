"""Heads that read other tasks' predictions: the formula, what is computed, what learns, and the road to a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))

from cases import Case, build, inputs_of, layout_of, rows_for, targets_for

import manyheads as mh
from manyheads.balance import Balance
from manyheads.catalog import find
from manyheads.cli import main
from manyheads.data import Batch
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError
from manyheads.gradients.graph import reached
from manyheads.model import Ensemble
from manyheads.objectives import Supervised
from manyheads.sharing import Sharing, Trace
from manyheads.tasks.classification import Binary, Multiclass, Ordinal
from manyheads.tasks.regression import Count, Regression

ENCODER = Case("tabular", find(Encoder, "tabular"), {"d_hidden": 8, "dropout": 0.0})
HARD = Case("hard", find(Sharing, "hard"))


def tasks_of(order=(0, 1, 2, 3)):
    tasks = [
        Regression("high", sees=("low", "kind")),
        Binary("low", classes=(0, 1), sees=("base",)),
        Multiclass("kind", classes=(0, 1, 2)),
        Count("base"),
    ]
    return [tasks[i] for i in order]


def model_of(tasks=None, seed=0, scheme=HARD):
    return build(scheme, ENCODER, tasks or tasks_of(), seed).eval()


def x_of(n=12):
    return inputs_of(layout_of("tabular"), n)


def loss_of(model, outputs, task, n=12):
    return model.tasks[task].mean_loss(outputs[task], targets_for(model.tasks[task], n), torch.ones(n).bool())


def test_the_formula(float64):
    """o_high = W [z ; sigmoid(o_low) ; softmax(o_kind)] + b: the rest of W embeds labels, sum_y p(y) w_y."""
    model, x = model_of(), x_of()
    z = model.transform(x)
    head = {t: (model.heads[t].weight, model.heads[t].bias) for t in model.tasks}
    base = z @ head["base"][0].T + head["base"][1]
    kind = z @ head["kind"][0].T + head["kind"][1]
    low = torch.cat([z, base], 1) @ head["low"][0].T + head["low"][1]
    weight, bias = head["high"]
    of_features, of_low, of_kind = weight.split([z.shape[1], 1, 3], 1)
    embedded = torch.sigmoid(low) * of_low.T + sum(
        kind.softmax(1)[:, y : y + 1] * of_kind[:, y].unsqueeze(0) for y in range(3)
    )
    expected = {"base": base, "kind": kind, "low": low, "high": z @ of_features.T + embedded + bias}
    found = model(x)
    for task, value in expected.items():
        torch.testing.assert_close(found[task], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("other", [Ordinal("o", classes=(0, 1, 2)), Regression("o"), Multiclass("o", classes=(0, 1))])
def test_any_output_that_is_a_vector_can_be_seen(other):
    model = model_of([other, Binary("y", classes=(0, 1), sees="o")])
    shown = other.shown(model(x_of())["o"])
    assert model.heads["y"].in_features == 8 + shown.shape[-1]
    assert model(x_of())["y"].shape == (12, 1)


@pytest.mark.parametrize(
    ("sees", "message"),
    [
        ({"a": "b", "b": "c", "c": "a"}, r"circle. Found a -> b -> c -> a"),
        ({"a": "a"}, r"circle. Found a -> a"),
        ({"a": "bb"}, r"`a` sees a task `bb` that there is not.*`b`"),
    ],
)
def test_refusals(sees, message):
    tasks = [Regression(t, sees=sees.get(t, ())) for t in "abc"]
    with pytest.raises(ConfigError, match=message):
        model_of(tasks)


@pytest.mark.parametrize(
    ("asked", "run"),
    [
        (["high"], ["base", "low", "kind", "high"]),
        (["low"], ["base", "low"]),
        (["kind"], ["kind"]),
        (["base"], ["base"]),
        (["kind", "low"], ["base", "low", "kind"]),
    ],
)
@pytest.mark.parametrize("members", [1, 2])
def test_only_what_is_needed_is_computed(asked, run, members):
    model = model_of() if members == 1 else Ensemble([model_of(seed=m) for m in range(members)])
    base = model if members == 1 else model.base
    ran = []
    for task in base.tasks:
        base.heads[task].register_forward_hook(lambda m, i, o, task=task: ran.append(task))
    outputs = model(x_of(), asked)
    assert set(outputs) == set(asked)
    assert sorted(ran) == sorted(run)
    every = model(x_of())
    for task in asked:
        torch.testing.assert_close(outputs[task], every[task])


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 3, 1, 2), (2, 0, 3, 1)])
def test_the_order_of_tasks_does_not_matter(order):
    one, other = model_of(), model_of(tasks_of(order))
    assert list(other.tasks) == [t.name for t in tasks_of(order)]
    for task in one.tasks:
        assert torch.equal(one(x_of())[task], other(x_of())[task])


def test_losses_reach_what_is_seen_and_nothing_above():
    model = model_of()
    losses = {t: loss_of(model, model(x_of()), t) for t in model.tasks}
    heads = {t: set(model.heads[t].parameters()) for t in model.tasks}
    found = {t: {u for u in heads if heads[u] & reached(loss)} for t, loss in losses.items()}
    assert found == {
        "high": {"high", "low", "kind", "base"},
        "low": {"low", "base"},
        "kind": {"kind"},
        "base": {"base"},
    }
    (gradient,) = torch.autograd.grad(losses["high"], [model.heads["base"].weight])
    assert gradient.abs().max() > 0


def test_kept_apart_each_loss_reaches_what_it_reaches_alone():
    model = model_of()
    trace = Trace(cut=True)
    together = model(x_of(), trace=trace)
    assert trace.cut is None
    for task in model.tasks:
        alone = model(x_of(), [task], trace=Trace(cut=True))
        assert reached(loss_of(model, together, task)) == reached(loss_of(model, alone, task))


@pytest.mark.parametrize("name", ["hard", "soft", "aitm", "pepnet"])
def test_an_ensemble_is_its_members(name, float64):
    scheme = Case(name, find(Sharing, name))
    members = [model_of(seed=m, scheme=scheme) for m in range(3)]
    ensemble = Ensemble(members).eval()
    for asked in (None, ["high"], ["low", "base"]):
        together = ensemble(x_of(), asked)
        for task in together:
            alone = torch.stack([m(x_of(), asked)[task] for m in members])
            torch.testing.assert_close(together[task], alone, rtol=0, atol=1e-12)


def test_every_balance_trains_them():
    from cases import catalogue

    for balance in catalogue(Balance):
        if balance.settings:
            continue
        model, arrow = model_of(), balance()
        batch = Batch({"t": rows_for(list(model.tasks.values()))})

        def look(model=model, batch=batch, cut=arrow.cut):
            return Supervised()(model, batch, Trace(cut=cut))

        assert arrow.backward(look(), look)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_auxiliary_losses_are_of_tasks_that_were_asked():
    """A task that is only needed by another one adds no loss of its own."""
    tasks = [Binary(t, classes=(0, 1)) for t in "abc"]
    scheme = Case("aitm", find(Sharing, "aitm"), {"calibrator": 0.6})
    model = model_of(tasks, scheme=scheme)
    for asked in (["a"], ["b"], ["c"], ["a", "c"], ["a", "b", "c"]):
        trace = Trace()
        model(x_of(), asked, trace=trace)
        assert set(trace.aux) == set(asked) - {"a"}
        trace = Trace()
        Ensemble([model, model_of(tasks, 1, scheme)])(x_of(), asked, trace=trace)
        assert set(trace.aux) == set(asked) - {"a"}
    trace = Trace()
    trace.add(torch.ones(()), "b")  # of another table
    model(x_of(), ["c"], trace=trace)
    assert trace.aux["b"] == 1


# -- the road to a file


def frame(n=400):
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 3))
    table = pd.DataFrame(x, columns=["x0", "x1", "x2"])
    table["low"] = np.where((x[:, 0] + x[:, 1] ** 2 + 0.3 * random.normal(size=n)) > 1, "yes", "no")
    table["high"] = 2.0 * (table["low"] == "yes") + 0.3 * x[:, 2] + 0.1 * random.normal(size=n)
    table.loc[random.random(n) < 0.5, "high"] = np.nan
    return table


@pytest.mark.parametrize("members", [1, 3])
def test_saved_and_loaded(members, tmp_path):
    learner = mh.Learner([mh.Regression("high", sees="low"), mh.Binary("low")], members=members, max_epochs=3)
    table = frame()
    learner.fit(table[:300])
    learner.save(tmp_path / "model")
    loaded = mh.Learner.load(tmp_path / "model")
    assert [t.sees for t in loaded.tasks] == [("low",), ()]
    pd.testing.assert_frame_equal(loaded.predict(table[300:]), learner.predict(table[300:]))


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame().to_csv("t.csv", index=False)
    tasks = "tasks: {high: {type: regression, sees: [low]}, low: {type: binary}}"
    common = "schema_version: 1\ndata: {train: t.csv}\ntrainer: {max_epochs: 2}\n"
    Path("run.yaml").write_text(common + tasks)
    assert main(["check", "-c", "run.yaml", "-q"]) == 0
    assert main(["train", "-c", "run.yaml", "-o", "run", "-q", "--json"]) == 0
    json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["predict", "run", "t.csv", "-o", "all.csv", "-q"]) == 0
    assert main(["predict", "run", "t.csv", "-o", "high.csv", "--tasks", "high", "-q"]) == 0
    every, high = pd.read_csv("all.csv"), pd.read_csv("high.csv")
    assert "low" not in high
    np.testing.assert_allclose(every["high"], high["high"], rtol=1e-5)
    Path("bad.yaml").write_text(common + tasks.replace("[low]", "[lo]"))
    capsys.readouterr()
    assert main(["train", "-c", "bad.yaml", "-o", "bad", "-q"]) == 2
    assert "`low`" in capsys.readouterr().err
