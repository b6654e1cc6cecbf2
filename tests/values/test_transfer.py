"""Ways to add a task, against closed forms and against each other at their extremes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from manyheads.blocks import learning
from manyheads.callback import Callback
from manyheads.data import Batch
from manyheads.evaluate import results, run
from manyheads.faults import ConfigError, DataError
from manyheads.growing.adding import add_task, bytes_of, encoded
from manyheads.growing.grown import grow, joined, labels_of, members_of, shrink
from manyheads.growing.oldrows import Kept, both, of_frame, own_fold
from manyheads.learner import Learner
from manyheads.objectives import Supervised
from manyheads.sharing import Trace
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.tasks.classification import Binary, Multiclass
from manyheads.tasks.regression import Regression
from manyheads.transfer import Case, freeze
from manyheads.transfer._head import chosen, features, solvable, solve
from manyheads.transfer.distill import Distill, apart
from manyheads.transfer.finetune import FineTune
from manyheads.transfer.l2sp import L2SP
from manyheads.transfer.lowrank import LowRank
from manyheads.transfer.probe import Probe
from manyheads.transfer.prototypes import Prototypes
from manyheads.transfer.unfreeze import Unfreeze, stages, thawed

SMALL = {"name": "tabular", "d_hidden": 12}


def _frame(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    frame = pd.DataFrame(x, columns=["x1", "x2", "x3", "x4"])
    frame["place"] = rng.choice(["here", "there"], n)
    frame["a.b"] = x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=n)
    frame["children"] = (x[:, 1] + x[:, 2] > 0).astype(float)
    frame["new"] = x[:, 0] * x[:, 1] - x[:, 3] + 0.3 * rng.normal(size=n)
    frame["yes"] = (frame["new"] > 0).astype(float)
    return frame


OLD = _frame(240, 0).drop(columns=["new", "yes"])
FEW = _frame(90, 1).drop(columns=["a.b", "children"])
TASKS = [Regression("a.b"), Binary("children")]


def _learner(members=1, **settings):
    learner = Learner(TASKS, random_state=0, members=members, max_epochs=3, **({"encoder": SMALL} | settings))
    learner.fit(OLD)
    return learner, learner.spec.model.model_copy(update={"members": members})


@pytest.fixture(scope="module")
def trained():
    return _learner()


def _case(trained, task=None, frame=None, way=None, epochs=3):
    learner, spec = trained
    layouts = learner.dataset_.preprocess.layouts
    task, _, rows = encoded(learner.dataset_, task or Regression("new"), FEW if frame is None else frame)
    (old,) = members_of(learner.model_, spec, layouts)
    (model,), fresh = grow([old], way.spec(spec, task.name) if way else spec, layouts, task)
    ((source, own),) = rows.items()
    train, valid = {source: own.take(torch.arange(60))}, {source: own.take(torch.arange(60, len(own)))}
    return Case(old, model, task, fresh, train, valid, [task], OptimSpec(), TrainerSpec(max_epochs=epochs), 32)


def _weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


# -- probe


def test_a_probe_is_ridge_regression_on_the_features(trained):
    case = _case(trained)
    z, labels = features(case.model, case.train, case.task)
    y = labels[0].double().reshape(-1)
    centred = z - z.mean(0)
    unit = centred.square().mean()
    for strength in (1e-2, 1.0, 30.0):
        weight, bias = solve(case.task, z, labels, case.model.heads["new"], strength)
        gram = centred.T @ centred / len(z) + strength * unit * torch.eye(z.shape[1], dtype=torch.float64)
        expected = torch.linalg.solve(gram, centred.T @ (y - y.mean()) / len(z))
        assert torch.allclose(weight[0], expected, atol=1e-7)
        assert float(bias) == pytest.approx(float(y.mean() - expected @ z.mean(0)), abs=1e-7)


def test_a_probe_is_logistic_regression_on_the_features(trained):
    from sklearn.linear_model import LogisticRegression

    case = _case(trained, Binary("yes"))
    z, labels = features(case.model, case.train, case.task)
    unit = float((z - z.mean(0)).square().mean())
    weight, bias = solve(case.task, z, labels, case.model.heads["yes"], 0.1)
    other = LogisticRegression(C=1 / (2 * 0.1 * unit * len(z)), tol=1e-10, max_iter=10000)
    other.fit(z.numpy(), labels[0].numpy().reshape(-1))
    assert weight[0].numpy() == pytest.approx(other.coef_[0], abs=2e-5)
    assert float(bias) == pytest.approx(float(other.intercept_[0]), abs=2e-5)


def test_several_classes_are_softmax_regression(trained):
    from sklearn.linear_model import LogisticRegression

    frame = FEW.assign(kind=pd.cut(FEW["new"], [-np.inf, -0.5, 0.5, np.inf], labels=["low", "mid", "high"]).astype(str))
    case = _case(trained, Multiclass("kind"), frame)
    z, labels = features(case.model, case.train, case.task)
    unit = float((z - z.mean(0)).square().mean())
    weight, bias = solve(case.task, z, labels, case.model.heads["kind"], 0.1)
    other = LogisticRegression(C=1 / (2 * 0.1 * unit * len(z)), tol=1e-10, max_iter=10000)
    other.fit(z.numpy(), labels[0].numpy().reshape(-1))
    ours = (z @ weight.T + bias).softmax(-1).numpy()
    assert ours == pytest.approx(other.predict_proba(z.numpy()), abs=2e-5)


def test_the_strength_is_chosen_by_folds():
    """Features of nothing but noise want the strongest pull, the label itself the weakest."""
    task = Regression("y").fitted(pd.DataFrame({"y": np.random.default_rng(0).normal(size=60)}))
    head = task.head([5])
    y = torch.randn(60)
    labels = (y, torch.ones(60, dtype=torch.bool), None)
    assert chosen(task, torch.randn(60, 5, dtype=torch.float64), labels, head) >= 1
    assert chosen(task, y.double().unsqueeze(1).repeat(1, 5), labels, head) <= 1e-3


@pytest.mark.parametrize("way", [Probe(), LowRank()], ids=["probe", "lowrank"])
def test_frozen_ways_move_nothing_but_what_is_new(trained, way):
    case = _case(trained, way=way)
    before = _weights(case.model)
    way.fit(case)
    after = _weights(case.model)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved
    assert moved <= case.fresh


def test_what_is_frozen_stays_still():
    """Running statistics and dropout, too: `requires_grad` alone leaves both on."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    freeze(model, {"3.weight", "3.bias"})
    learning(model)
    assert model[3].training
    x = 5 + torch.randn(10, 3)
    said, statistics = model(x), model[1].running_mean.clone()
    assert torch.equal(model(x), said)
    assert torch.equal(model[1].running_mean, statistics)
    freeze(model, {n for n, _ in model.named_parameters()})
    learning(model)
    model(x)
    assert not torch.equal(model[1].running_mean, statistics)


# -- fine-tuning and what holds it


def test_without_strength_l2sp_is_fine_tuning_and_with_much_it_is_frozen(trained):
    found = {}
    for name, way in (
        ("plain", FineTune()),
        ("zero", L2SP(alpha=0)),
        ("some", L2SP(alpha=100)),
        ("all", L2SP(alpha=1e12)),
    ):
        case = _case(trained)
        start = _weights(case.model)
        way.fit(case)
        found[name] = _weights(case.model)
    assert all(torch.equal(found["plain"][n], found["zero"][n]) for n in start)
    trunk = [n for n in start if n.startswith("sharing.")]
    moved = {name: sum(float((w[n] - start[n]).square().sum()) for n in trunk) for name, w in found.items()}
    assert moved["plain"] > moved["some"] > 0
    assert all(torch.allclose(found["all"][n], start[n], atol=1e-8, rtol=1e-6) for n in trunk)
    assert any(not torch.equal(found["all"][n], start[n]) for n in start if n.startswith("heads."))


def test_the_gradient_of_l2sp(trained):
    case = _case(trained)
    (penalty,) = L2SP(alpha=0.7).penalties(case)
    start = torch.randn(1, 4, 3)
    w = torch.randn(1, 4, 3, requires_grad=True)
    penalty.loss(w, start).backward()
    assert torch.allclose(w.grad, 0.7 * (w.detach() - start))
    shrunk = penalty.shrunk(w.detach(), 0.1, start)
    assert torch.allclose(shrunk - start, (w.detach() - start) / (1 + 0.1 * 0.7))


def test_stages_open_from_the_top_one_per_epoch(trained):
    seen = []

    class Look(Callback):
        def on_step(self, training):
            seen.append((training.epoch, {n for n, p in training.model.named_parameters() if p.grad is not None}))

    class Watched(Unfreeze):
        def callbacks(self, case):
            return [*super().callbacks(case), Look()]

    case = _case(trained, epochs=5)
    start = _weights(case.model)
    Watched().fit(case)
    assert len(stages(case.model)) == 3  # columns, which have weights for categories, and two hidden stages
    of_epoch = {}
    for epoch, names in seen:
        of_epoch.setdefault(epoch, set()).update(names)
    head = {n for n in start if n.startswith(f"heads.{case.model.heads.keys_of['new']}.")}
    trunk = {i: {n for n in start if f".stages.{i}." in n} for i in range(3)}
    assert of_epoch[0] == head
    assert of_epoch[1] == head | trunk[2]
    assert of_epoch[2] == head | trunk[2] | trunk[1]
    assert of_epoch[3] == of_epoch[4] == head | trunk[2] | trunk[1] | trunk[0]
    assert thawed(case.model, 9) == set(start)
    assert [m[0].pace for m in stages(case.model)] == pytest.approx([2.6**-3, 2.6**-2, 2.6**-1])


# -- distillation


@pytest.mark.parametrize("task", [*TASKS, Multiclass("c")], ids=lambda t: t.kind)
def test_a_pupil_like_its_teacher_has_nothing_to_learn(task):
    output = torch.randn(8, 3)
    assert float(apart(task, output, output, 3.0)) == pytest.approx(0, abs=1e-6)
    assert float(apart(task, output + torch.randn(8, 3), output, 3.0)) > 0.01


def test_the_factor_keeps_the_gradient_at_any_temperature():
    teacher = torch.randn(64, 5)
    task = Multiclass("c")

    def size(temperature, factor):
        output = (teacher + 0.5 * torch.randn(64, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
        (factor * apart(task, output, teacher, temperature)).backward()
        return float(output.grad.norm())

    assert 0.6 < size(3.0, 1.0) / size(1.0, 1.0) < 1.6
    assert size(3.0, 1 / 9) / size(1.0, 1.0) < 0.2


def test_distillation_is_kl_of_softened_probabilities():
    a, b = torch.randn(2, 6, 4)
    p, q = (x.div(2).softmax(-1) for x in (b, a))
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    assert torch.allclose(apart(Multiclass("c"), a, b, 2.0), expected, atol=1e-6)
    two = torch.stack([torch.zeros(6), a[:, 0]], -1), torch.stack([torch.zeros(6), b[:, 0]], -1)
    binary = apart(Binary("c"), a[:, :1], b[:, :1], 2.0)
    assert torch.allclose(binary, apart(Multiclass("c"), *two, 2.0), atol=1e-6)


def test_distillation_holds_what_fine_tuning_loses(trained):
    """At a pace that ruins the old tasks, from a random head, their outputs stay nearer to what they were."""
    moved = {}
    for name, way in (("plain", FineTune(pace=1.0)), ("held", Distill(pace=1.0, strength=20.0))):
        case = _case(trained, epochs=15)
        ((source, rows),) = case.valid.items()
        before = run(case.old, rows, None, source)
        way.prepare(case)
        way.training(case).run()
        after = run(case.model, rows, ("a.b", "children"), source)
        moved[name] = sum(float((after[t] - before[t]).square().mean()) for t in before)
    assert moved["held"] < 0.5 * moved["plain"]


@pytest.mark.parametrize("way", [FineTune(), L2SP(), Unfreeze(), LowRank(), Distill()])
def test_a_head_that_is_trained_begins_at_the_probe(trained, way, monkeypatch):
    probed = _case(trained)
    Probe().fit(probed)
    case, head = _case(trained, way=way), {}
    monkeypatch.setattr(
        type(way), "training", lambda self, case: head.update(case.model.heads["new"].state_dict()) or _Done()
    )
    way.fit(case)
    for name, value in probed.model.heads["new"].state_dict().items():
        assert torch.equal(head[name], value)


def test_no_head_is_solved_for_that_is_trained_or_on_features_that_are_not(trained):
    case = _case(trained)
    assert solvable(case)
    assert not solvable(replace(case, fresh=frozenset()))
    assert not solvable(replace(case, fresh=frozenset(dict(case.model.named_parameters()))))


class _Done:
    def run(self):
        """Nothing more is learned."""


# -- adapters


def test_an_adapter_begins_as_nothing_and_hears_its_own_task_alone(trained):
    way = LowRank(rank=2)
    case = _case(trained, way=way)
    ((source, rows),) = case.train.items()
    with torch.no_grad():
        features = case.model.sharing(rows.inputs, ("a.b", "new"), source)
        assert torch.allclose(features["a.b"], features["new"], atol=1e-6)
    learner, _ = trained
    old = learner.dataset_.tasksets({"x": OLD})
    losses = Supervised()(case.model, Batch(old), Trace())
    losses.vector.sum().backward()
    assert all(case.model.get_parameter(n).grad is None for n in case.fresh)
    case.model.zero_grad(set_to_none=True)
    way.prepare(case)
    Supervised()(case.model, Batch(case.train), Trace()).vector.sum().backward()
    assert {n for n, p in case.model.named_parameters() if p.grad is not None} == case.fresh


def test_a_second_adapter_leaves_the_first(trained):
    learner, spec = trained
    one = add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, "lowrank")
    two = add_task(one.model, one.spec, one.dataset, Binary("yes"), FEW.drop(columns="new"), "lowrank")
    assert two.result.identical
    assert list(two.model.sharing.changed) == ["new", "yes"]
    three = add_task(one.model, one.spec, one.dataset, Binary("yes"), FEW.drop(columns="new"), "probe")
    assert three.result.identical
    assert list(three.model.sharing.changed) == ["new"]


def test_adapters_need_one_trunk():
    learner, spec = _learner(sharing="mmoe")
    with pytest.raises(ConfigError, match="Found `mmoe`; use `probe`"):
        add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, "lowrank")


# -- surgery


@pytest.mark.parametrize("sharing", ["hard", "mmoe", "soft", "lowrank", "mtan", "hierarchical"])
@pytest.mark.parametrize("members", [1, 2])
def test_old_tasks_say_the_same_whatever_was_added_and_removed(sharing, members):
    learner, spec = _learner(members, sharing=sharing)
    layouts = learner.dataset_.preprocess.layouts
    found = add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, "probe",
                     trainer=TrainerSpec(max_epochs=2))  # fmt: skip
    rows = learner.dataset_.tasksets({"x": OLD}, labels=False)
    ((source, part),) = rows.items()
    for n in (1, 7, len(part)):
        few = part.take(torch.arange(n))
        before, after = run(learner.model_, few, None, source), run(found.model, few, None, source)
        assert all(bytes_of(before[t]) == bytes_of(after[t]) for t in before), n
    own = {label: value for m in members_of(learner.model_, spec, layouts) for label, value in _state(m).items()}
    new = {label: value for m in members_of(found.model, found.spec, layouts) for label, value in _state(m).items()}
    assert all(torch.equal(new[label], own[label]) for label in own)
    assert found.result.identical
    back, _ = shrink(members_of(found.model, found.spec, layouts), found.spec, layouts, ["a.b", "children"])
    assert all(_state(back[-1])[label].equal(value) for label, value in own.items())


def test_a_task_whose_features_others_are_made_from_stays():
    """In a chain a.b -> children -> new the first and the middle one cannot go; the last one can."""
    learner, spec = _learner(sharing="aitm")
    layouts = learner.dataset_.preprocess.layouts
    found = add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, trainer=TrainerSpec(max_epochs=2))
    whole = members_of(found.model, found.spec, layouts)
    for stay, gone in ((["children", "new"], "a.b"), (["a.b", "new"], "children"), (["new"], "a.b")):
        with pytest.raises(ConfigError, match=f"Found that `{gone}` would go"):
            shrink(whole, found.spec, layouts, stay)
    ((source, part),) = learner.dataset_.tasksets({"x": OLD}, labels=False).items()
    (back,), _ = shrink(whole, found.spec, layouts, ["a.b", "children"])
    before, after = run(learner.model_, part, None, source), run(back, part, None, source)
    assert {t: bytes_of(o) for t, o in before.items()} == {t: bytes_of(o) for t, o in after.items()}


@pytest.mark.parametrize("members", [1, 2])
def test_heads_that_went_leave_their_places(members):
    """The size of a product changes its rounding, so that it is as it was though most of its heads are gone."""
    names = [f"y{i}" for i in range(5)]
    frame = OLD.assign(**{n: np.random.default_rng(i).normal(size=len(OLD)) for i, n in enumerate(names)})
    learner = Learner([Regression(n) for n in names], random_state=0, members=members, max_epochs=1)
    learner.fit(frame.drop(columns=["a.b", "children"]))
    spec, layouts = learner.spec.model.model_copy(update={"members": members}), learner.dataset_.preprocess.layouts
    whole = members_of(learner.model_, spec, layouts)
    ((source, part),) = learner.dataset_.tasksets({"x": frame}, labels=False).items()
    for stay in (["y0"], ["y1", "y4"]):
        fewer = joined(shrink(whole, spec, layouts, stay)[0])
        for n in (1, 7, len(part)):
            few = part.take(torch.arange(n))
            before, after = run(learner.model_, few, None, source), run(fewer, few, None, source)
            assert all(bytes_of(before[t]) == bytes_of(after[t]) for t in stay), (stay, n)


def _state(model):
    state = model.state_dict()
    return {label: state[key] for label, key in labels_of(model).items()}


def test_a_new_copy_of_the_trunk_begins_at_the_mean_of_the_others():
    learner, spec = _learner(sharing="soft")
    case = _case((learner, spec))
    of = _state(case.model)
    names = [label for label in of if "/new/" in label and label.startswith("/sharing")]
    names = [label for label in names if of[label].is_floating_point()]
    assert names
    for label in names:
        pair = [of[label.replace("/new/", f"/{other}/")] for other in ("a.b", "children")]
        assert torch.allclose(of[label], torch.stack(pair).mean(0))


@pytest.mark.parametrize("sharing", ["crossstitch", "ple"])
def test_schemes_where_tasks_are_made_from_each_other_are_refused(sharing):
    learner, spec = _learner(sharing=sharing)
    with pytest.raises(ConfigError, match="changes what all others get"):
        add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW)
    with pytest.raises(ConfigError, match="made from its weights"):
        shrink(members_of(learner.model_, spec, learner.dataset_.preprocess.layouts), spec,
               learner.dataset_.preprocess.layouts, ["a.b"])  # fmt: skip


def test_preprocessing_stays_as_it_was(trained):
    learner, spec = trained
    odd = FEW.assign(place="elsewhere", x1=FEW["x1"] * 1000)
    found = add_task(learner.model_, spec, learner.dataset_, Regression("new"), odd)
    assert found.dataset.preprocess is learner.dataset_.preprocess
    with pytest.raises(DataError, match="should have the feature column `x3`"):
        add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW.drop(columns="x3"))
    with pytest.raises(DataError, match="should have a label"):
        add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW.assign(new=np.nan))


@pytest.mark.parametrize(("rows", "members"), [(40, 1), (40, 3), (7, 8), (2, 3)])
def test_a_fold_that_is_held_out_is_not_learned_from(rows, members):
    folds = own_fold(rows, members, 0)
    assert len(folds) == members
    for learned, held in folds:
        assert len(held)
        assert sorted([*learned.tolist(), *held.tolist()]) == list(range(rows))
    assert len({tuple(held.tolist()) for _, held in folds}) == min(rows, members)


def test_what_cannot_be_foretold_gets_no_score(trained):
    """Twelve free weights fit thirty labels of noise, which tells nothing of rows that were not learned from."""
    learner, spec = trained
    noise = FEW[:30].assign(new=np.random.default_rng(0).normal(size=30))
    for way in (Probe(strength=0.0), Prototypes()):
        task = Regression("new") if isinstance(way, Probe) else Multiclass("new")
        frame = noise if isinstance(way, Probe) else noise.assign(new=np.where(noise["new"] > 0, "up", "down"))
        score = add_task(learner.model_, spec, learner.dataset_, task, frame, way).result.score
        assert score.value < (0 if isinstance(way, Probe) else 0.7)
        assert score.labels == 6


# -- old rows


def test_rows_of_two_tables_together_teach_as_they_do_apart(trained):
    learner, _ = trained
    case = _case(trained)
    ((source, old),) = learner.dataset_.tasksets({"x": OLD}).items()
    new = case.train[source]
    whole = both(old, new)
    assert len(whole) == len(old) + len(new)
    assert whole.counts() == old.counts() | new.counts()
    case.model.eval()
    together = Supervised()(case.model, Batch({source: whole}))
    parts = [Supervised()(case.model, Batch({source: one})) for one in (old, new)]
    expected = {t: v for p in parts for t, v in zip(p.tasks, p.vector.tolist(), strict=True)}
    for task, value in zip(together.tasks, together.vector.tolist(), strict=True):
        assert value == pytest.approx(expected[task], abs=1e-6)


def test_replay_learns_old_and_new(trained):
    learner, spec = trained
    kept = of_frame(OLD, learner.dataset_, torch.float32, learn=True)
    assert len(next(iter(kept.train[0].values()))) == 192
    found = add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, "replay", kept=kept)
    assert {k.task for k in found.result.kept} == {"a.b", "children"}
    assert found.result.unchecked == ()
    with pytest.raises(ConfigError, match="--old-data"):
        add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, "replay", kept=Kept())


def test_the_model_that_is_given_stays_as_it_is(trained):
    learner, spec = trained
    before = deepcopy(learner.model_.state_dict())
    kept = of_frame(OLD, learner.dataset_, torch.float32)
    found = add_task(learner.model_, spec, learner.dataset_, Regression("new"), FEW, "finetune", kept=kept)
    assert all(torch.equal(value, before[key]) for key, value in learner.model_.state_dict().items())
    assert list(learner.model_.tasks) == ["a.b", "children"]
    own = results(found.model, found.dataset.tasksets({"x": FEW}, tasks=["new"]))
    assert own["new"].output.shape == (90, 1)
