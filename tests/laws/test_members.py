"""Members hold out folds: disjoint, complete, whole groups, latest rows; and stacked runs equal single ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from cases import catalogue

from manyheads.balance import Balance
from manyheads.balance.aggregation import Aggregation
from manyheads.blocks import Named
from manyheads.build import make_training, prepare, split_parts
from manyheads.evaluate import Seen, results, run
from manyheads.faults import ConfigError
from manyheads.gradients.gramian import Gradients
from manyheads.members import Members, folds
from manyheads.parallel import run_over
from manyheads.penalised import corresponding
from manyheads.sharing import Sharing
from manyheads.spec import RunSpec, merged
from manyheads.stacking.alike import signature
from manyheads.stacking.gradients import StackedGradients
from manyheads.stacking.stacked import run_all
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Count, Regression

QUIET = {"model": {"encoder": {"name": "tabular", "dropout": 0.0, "d_hidden": 8}}, "trainer": {"precision": "64"}}


def frame(n=230):
    random = np.random.default_rng(1)
    x = random.normal(size=(n, 3))
    table = pd.DataFrame(x, columns=["x0", "x1", "x2"])
    table["group"] = np.arange(n) % 17
    table["day"] = pd.date_range("2020-01-01", periods=n).astype(str)[random.permutation(n)]
    table["a"] = np.where(random.random(n) < 0.3, np.nan, x[:, 0] + 0.1 * random.normal(size=n))
    table["b"] = (x[:, 1] > 0).astype(float)
    table["c"] = random.poisson(np.exp(x[:, 2] / 2)).astype(float)
    table["e"] = ((x[:, 1] > 0) & (x[:, 2] + random.normal(size=n) > 0)).astype(float)
    table["rare"] = np.where(random.random(n) < 0.85, np.nan, x[:, 1] + 0.1 * random.normal(size=n))
    return table


TASKS = [Regression("a"), Binary("b"), Count("c"), Binary("e")]


def made(changes, tasks=TASKS, seed=0, complete=False):
    short = {"tasks": {}, "trainer": {"max_epochs": 4, "patience": 2}}
    spec = RunSpec.model_validate(merged(merged(short, QUIET), changes))
    table = frame()
    if complete:
        table["a"] = table["a"].fillna(0.0)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"ids": ("group", "day")})})
    table = table.drop(columns={"rare"} - {t.name for t in tasks})
    parts = split_parts(spec.data.split, {"t": table}, tasks)
    data = prepare(spec, tasks, {"t": table}, parts)
    layouts, sets = data.dataset.preprocess.layouts, data.tasksets
    return make_training(spec, layouts, data.tasks, sets["train"], sets["valid"], seed=seed), sets["train"]["t"]


def test_each_row_is_held_out_by_one_member():
    training, rows = made({"model": {"members": 5}})
    assert isinstance(training, Members)
    held = [run.valid["t"].extra["day"] for run in training.runs]
    assert sorted(np.concatenate(held)) == sorted(rows.extra["day"])
    for member in training.runs:
        learnt = set(member.sampler.rows()["t"].extra["day"])
        assert not learnt & set(member.valid["t"].extra["day"])
        assert len(learnt) + len(member.valid["t"]) == len(rows)


@pytest.mark.parametrize("members", [1, 4, 30])
def test_groups_stay_together(members):
    training, _ = made({"model": {"members": members}, "data": {"split": {"kind": "group", "by": "group"}}})
    for member in getattr(training, "runs", [training]):
        assert len(member.valid["t"])
        assert not set(member.sampler.rows()["t"].extra["group"]) & set(member.valid["t"].extra["group"])


@pytest.mark.parametrize("members", [1, 3])
def test_by_time_the_latest_rows_are_held_out(members):
    training, _ = made({"model": {"members": members}, "data": {"split": {"kind": "time", "by": "day"}}})
    for member in getattr(training, "runs", [training]):
        assert max(member.sampler.rows()["t"].extra["day"]) < min(member.valid["t"].extra["day"])


def test_with_a_validation_part_every_member_stops_on_it():
    training, rows = made({"model": {"members": 3}, "data": {"split": {"sizes": [0.6, 0.2, 0.2]}}})
    for member in training.runs:
        assert len(member.sampler.rows()["t"]) == len(rows)
        assert len(member.valid["t"]) == pytest.approx(46, abs=1)


@pytest.mark.parametrize("groups", [None, torch.arange(100) % 7])
def test_folds(groups):
    parts = folds(100, 6, 3, groups)
    assert sorted(torch.cat(parts).tolist()) == list(range(100))
    assert max(map(len, parts)) <= (17 if groups is None else 30)
    if groups is not None:
        assert sum(len(groups[p].unique()) for p in parts) == 7


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim": {"optimizer": "SGD", "lr": 0.05}},
        {"optim": {"scheduler": {"name": "CosineAnnealingLR"}}},
        {"optim": {"scheduler": {"name": "OneCycleLR", "interval": "step"}}},
        {"trainer": {"gradient_clip_val": 0.5}},
        {"trainer": {"max_steps": 9}},
        {"optim": {"balance": {"name": "fixed", "weights": {"b": 2.0}}}},
        {"optim": {"balance": "uncertainty"}},
        {"sampling": {"batch_size": 64}},
    ],
)
def test_runs_stacked_equal_runs_one_by_one(changes, float64):
    _stacked_equal_alone(changes)


def test_runs_stacked_do_not_depend_on_what_was_drawn_before():
    histories = []
    for before in (0, 17):
        members, _ = made({"model": {"members": 2, "encoder": {"name": "tabular", "dropout": 0.5}}})
        torch.manual_seed(before)
        run_all(members.runs)
        histories.append(members.runs[0].history)
    assert histories[0] == histories[1]


def test_what_is_seen_last_is_of_the_members_that_were_kept():
    members, _ = made({"model": {"members": 3, "sharing": "mmoe"}})
    members.run()
    seen = Seen()
    for one in members.runs:
        results(one.model, one.valid, seen=seen)
    last = [r for r in members.history if r.split == "sharing" and r.epoch == members.epoch]
    assert last
    assert {(r.task, r.metric): r.value for r in last} == {
        (task, label): value for task, own in seen.means().items() for label, value in own.items()
    }
    gates = {t: sum(r.value for r in last if r.task == t) for t in members.tasks}
    assert all(total == pytest.approx(1.0, abs=1e-6) for total in gates.values())


def test_own_parts_are_not_shared():
    """A penalty on shared weights leaves alone what one task owns, gates and transfers included."""
    for word in ("aitm", "crossstitch", "mmoe", "cgc", "soft"):
        training, _ = made({"model": {"members": 1, "sharing": word}})
        tasks = set(training.tasks)
        own = {
            id(p)
            for m in training.model.sharing.modules()
            if isinstance(m, Named) and set(m) <= tasks
            for p in m.parameters()
        }
        weights = dict(training.model.named_parameters())
        shared = [n for _, names in corresponding(training.model, "shared") for n in names]
        assert not {id(weights[n]) for n in shared} & own


@pytest.mark.parametrize("penalties", [[], [{"name": "mean", "on": "heads"}]])
def test_members_of_a_linear_model(penalties):
    members, rows = made(
        {
            "model": {"members": 3, "encoder": {"n_layers": 0}},
            "optim": {"penalties": penalties},
            "trainer": {"precision": "32"},
        }
    )
    members.run()
    assert set(run(members.model, rows)) == set(members.tasks)


SGD = {"optimizer": "SGD", "lr": 0.05}
SOFT = {"name": "soft", "penalty": "pairwise", "strength": 2.0}
SCHEMES = [{"model": {"sharing": {"name": s.word, **s.settings}}, "optim": SGD} for s in catalogue(Sharing)]
PULLS = [{"model": {"sharing": SOFT | {"step": step}}, "optim": SGD} for step in ("prox", "loss", "literal")] + [
    {"optim": SGD | {"penalties": [{"name": p, "on": "shared", "strength": 0.1, "step": step}]}}
    for p in ("l2", "l2sp", "successive", "l1", "l21", "linf1", "trace")
    for step in ("prox", "loss")
]
PULLS += [
    {"model": {"sharing": {"name": "soft", "penalty": p, "strength": 0.1, "step": step}}, "optim": SGD}
    for p in ("graph", "trace", "pairwisel1", "dirty", "outlier")  # robust: the same loop as outlier, and slower
    for step in ("prox", "loss")
]


@pytest.mark.parametrize("changes", [*SCHEMES, *PULLS], ids=str)
def test_every_scheme_and_penalty_stacked_equals_alone(changes, float64):
    _stacked_equal_alone(merged(changes, {"model": {"members": 2}, "trainer": {"max_epochs": 3}}))


SEEING = [Binary("b", sees=("rare", "a")), Regression("a"), Regression("rare"), Count("c", sees="b")]


@pytest.mark.parametrize(
    "optimizer",
    [SGD, SGD | {"penalties": [{"name": "l2", "on": "shared", "strength": 0.1}]}],
    ids=str,
)
def test_tasks_that_see_others_stacked_equal_alone(optimizer, float64):
    """A head that others see moves in steps without a label of its own as well."""
    _stacked_equal_alone({"optim": optimizer, "sampling": {"batch_size": 4}}, SEEING)


def test_what_is_seen_is_part_of_a_runs_shape():
    """A number and a probability are seen in different ways, by heads of one shape."""
    models = [
        [Regression("a"), Binary("b", sees="a")],
        [Regression("a"), Binary("b", sees="a")],
        [Binary("e"), Binary("b", sees="e")],
    ]
    one, same, other = (made({"optim": SGD}, tasks=tasks, complete=True)[0].runs[0] for tasks in models)
    assert signature(one) == signature(same)
    assert signature(one) != signature(other)


GIVING = [case for case in catalogue(Balance) if issubclass(case.cls, Aggregation) or case.cls.looks]
PREFERRED = [Regression("a", weight=2.0), Binary("b"), Count("c", weight=0.5), Regression("rare")]


@pytest.mark.parametrize("case", GIVING, ids=str)
def test_every_balance_stacked_equals_alone(case, float64):
    """In batches so small that tasks are missing in many steps, in one run and not in another."""
    balance = {"name": case.word, **case.settings}
    changes = {"optim": SGD | {"balance": balance}, "sampling": {"batch_size": 12}, "trainer": {"max_epochs": 3}}
    _stacked_equal_alone(merged(changes, {"model": {"members": 2}}), PREFERRED)


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"lr": 0.002, "balance": "gradnorm"}, "sampling": {"batch_size": 2}, "trainer": {"max_epochs": 1}},
        {"optim": {"balance": {"every": 3}}, "sampling": {"batch_size": 8}},
        {"optim": {"balance": {"gramian": "exact", "every": 2}}},
        {"optim": {"optimizer": "AdamW"}, "trainer": {"gradient_clip_val": 0.5}},
        {"optim": {"optimizer": "AdamW", "balance": {"gramian": "features"}}},
        {"model": {"encoder": {"linear_path": False, "n_layers": 3}}},
        {"optim": {"penalties": [{"name": "l2", "on": "shared", "strength": 0.1, "step": "loss"}]}},
        *(
            {"model": {"sharing": s}, "sampling": {"batch_size": 12}}
            for s in ("mmoe", "cgc", "tree", "soft", "lowrank")
        ),
        *({"model": {"sharing": s}, "optim": {"optimizer": "AdamW"}} for s in ("mmoe", "pepnet", "crossstitch")),
        {"model": {"sharing": "aitm"}},
    ],
    ids=str,
)
def test_a_balance_of_gradients_stacked_equals_alone(changes, float64):
    base = {"optim": SGD | {"balance": {"name": "upgrad"}}, "model": {"members": 2}, "trainer": {"max_epochs": 3}}
    _stacked_equal_alone(merged(base, changes))


@pytest.mark.parametrize("balance", ["upgrad", "famo"])
def test_tasks_that_see_others_stacked_equal_alone_under_balances(balance, float64):
    changes = {"optim": SGD | {"balance": balance}, "sampling": {"batch_size": 4}, "trainer": {"max_epochs": 2}}
    _stacked_equal_alone(changes, [*SEEING, Binary("e"), Regression("x2")], in_order=False)


@pytest.mark.parametrize(("complete", "mode"), [(True, "features"), (False, "exact")])
def test_a_stack_measures_as_a_single_run_would(complete, mode):
    members, _ = made({"optim": {"balance": "upgrad"}, "model": {"members": 2}}, complete=complete)
    run_all(members.runs)
    for one in members.runs:
        words = {r.metric for r in one.history if r.metric.startswith("steps, ")}
        assert words == {f"steps, {mode}"}


def test_tasks_of_different_rows_have_no_gramian_of_features():
    changes = {"optim": {"balance": {"name": "upgrad", "gramian": "features"}}, "model": {"members": 2}}
    for sharing in ("hard", "aitm"):
        members, _ = made(merged(changes, {"model": {"sharing": sharing}, "sampling": {"batch_size": 2}}), PREFERRED)
        with pytest.raises(ConfigError, match="gramian: features"):
            run_all(members.runs)


@pytest.mark.parametrize("dropped", [("b",), ("a", "b", "c", "e")])
def test_a_gradient_that_is_not_finite_is_dropped_in_a_stack_as_alone(dropped, monkeypatch, float64):
    """Both sides are told so of the same steps: the second of each run."""
    alone, together = Gradients.measure, StackedGradients.exact
    steps = {"alone": 0, "together": 0}

    def measure(self, mode="auto"):
        gram = alone(self, mode)
        steps["alone"] += 1
        for i in (i for i, task in enumerate(self.tasks) if task in dropped and steps["alone"] % 4 == 2):
            gram[i] = gram[:, i] = np.nan
        return gram

    def exact(self, leaves, runs, masks):
        grams = together(self, leaves, runs, masks)
        steps["together"] += 1
        if steps["together"] % 4 == 2:
            for i in (order.index(task) for task in dropped):
                grams[:, i] = grams[:, :, i] = np.nan
        return grams

    monkeypatch.setattr(Gradients, "measure", measure)
    monkeypatch.setattr(StackedGradients, "exact", exact)
    balance = {"name": "upgrad", "gramian": "exact"}
    changes = {
        "optim": SGD | {"balance": balance},
        "model": {"members": 2},
        "trainer": {"max_epochs": 2, "max_steps": 4},
    }
    order = made(changes)[0].stack.names[0]
    runs = _stacked_equal_alone(changes)
    assert all(run_.balance.dropped == dict.fromkeys(dropped, 1) for run_ in runs)


@pytest.mark.parametrize("balance", [{"name": "mgda", "every": 2}, {"name": "gradnorm"}, {"name": "famo"}], ids=str)
def test_a_stack_goes_on_from_a_checkpoint_as_if_nothing_had_been(balance, tmp_path):
    changes = {"optim": {"balance": balance}, "model": {"members": 3}, "trainer": {"max_epochs": 5, "patience": 1}}

    def fresh(folder):
        members, _ = made(changes)
        members.folder = folder
        for m, one in enumerate(members.runs):
            one.folder = folder / f"member-{m}"
        assert members.stack is not None
        return members

    whole = fresh(tmp_path / "whole")
    whole.run()
    first = fresh(tmp_path / "parts")
    first.advance()
    first.advance()
    second = fresh(tmp_path / "parts")
    assert second.resume()
    second.run()
    assert second.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    assert [r.balance.state_dict() for r in second.runs] == [r.balance.state_dict() for r in whole.runs]


def _stacked_equal_alone(changes, tasks=TASKS, in_order=True):
    # Adam's step count goes on for a task that is absent in a step of a stack; SGD has none, and is exact with holes
    complete = changes.get("optim", {}).get("optimizer") != "SGD"
    together = [made(changes, tasks, seed=s, complete=complete)[0] for s in (1, 2)]
    alone = [made(changes, tasks, seed=s, complete=complete)[0] for s in (1, 2)]
    runs = [r for members in together for r in members.runs]
    assert len({signature(r) for r in runs}) == 1
    assert signature(runs[0]) is not None
    if runs[0].model.sharing.random:
        pytest.skip("runs side by side draw other random numbers")
    run_all(runs)
    for a, run_ in zip((r for m in alone for r in m.runs), runs, strict=True):
        history, other_history = list(a.run()), run_.history
        if not in_order:
            history, other_history = (
                sorted(h, key=lambda r: (r.epoch, r.split, str(r.task), r.metric)) for h in (history, other_history)
            )
        for one, other in zip(history, other_history, strict=True):
            assert (one.epoch, one.step, one.split, one.task, one.metric) == (
                other.epoch, other.step, other.split, other.task, other.metric
            )  # fmt: skip
            assert one.value == pytest.approx(other.value, abs=1e-9)
        for name, value in a.model.state_dict().items():
            torch.testing.assert_close(value, run_.model.state_dict()[name], rtol=0, atol=1e-9)
    return runs


def test_single_tasks_of_different_types_are_stacked(float64):
    singles = [made({}, tasks=[task], complete=True)[0].runs for task in TASKS]
    assert len({signature(r) for runs in singles for r in runs}) == 1
    alone = [made({}, tasks=[task], complete=True)[0].runs for task in TASKS]
    run_all([r for runs in singles for r in runs])
    for a, b in zip((r for runs in alone for r in runs), (r for runs in singles for r in runs), strict=True):
        a.run()
        assert a.best.epoch == b.best.epoch
        assert a.best.value == pytest.approx(b.best.value, abs=1e-9)


def test_an_absent_tasks_head_is_left_alone():
    """In a stack, a step without a label of a task moves nothing of that task, and a run without any label nothing."""
    training, _ = made({"model": {"members": 2}, "optim": {"weight_decay": 0.5}})
    stack = training.stack
    rows = stack._plan()[0].clone()
    known = stack.labels[0].known
    task = stack.names[0].index("a")
    known[..., task] = False
    before = {n: w.detach().clone() for n, w in stack.weights.items()}
    stack._one_step(rows)
    head = next(n for n in stack.weights if n.startswith("heads of a") and n.endswith("weight"))
    assert torch.equal(stack.weights[head], before[head])
    assert any(not torch.equal(w, before[n]) for n, w in stack.weights.items())
    rows[1] = -1
    before = {n: w.detach().clone() for n, w in stack.weights.items()}
    stack._one_step(rows)
    assert all(torch.equal(w[1], before[n][1]) for n, w in stack.weights.items())
    assert any(not torch.equal(w[0], before[n][0]) for n, w in stack.weights.items())


def test_several_processes_end_as_one():
    here, there = made({})[0], made({})[0]
    run_all(here.runs)
    told = []
    run_over(there.runs, lambda done, n: told.append((done, n)), n_jobs=2)
    assert told[-1] == (8, 8)
    for a, b in zip(here.runs, there.runs, strict=True):
        assert [r.model_dump() for r in a.history][:3] == [r.model_dump() for r in b.history][:3]
        for name, value in a.model.state_dict().items():
            torch.testing.assert_close(value, b.model.state_dict()[name], rtol=0, atol=1e-9)


def test_the_ensemble_is_the_mean_of_its_members():
    training, rows = made({"model": {"members": 3}})
    training.run()
    rows = rows.to(torch.float64)
    outputs = [run(r.model, rows)["a"] for r in training.runs]
    torch.testing.assert_close(run(training.model, rows)["a"], torch.stack(outputs).mean(0))
