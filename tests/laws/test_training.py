"""The laws of training: what a step is, what a run is, and that it can be killed at any moment."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from cases import Case, build, catalogue, inputs_of, layout_of, rows_for, small_tasks, targets_for
from torch import nn

from manyheads import metrics
from manyheads.balance import Balance
from manyheads.balance.famo import FAMO
from manyheads.callback import Callback
from manyheads.catalog import find
from manyheads.data import Batch, Block, Taskset
from manyheads.data.sampler import Sampler
from manyheads.encoders import Encoder
from manyheads.evaluate import alike
from manyheads.faults import ConfigError, DataError, Diverged
from manyheads.model import Ensemble
from manyheads.objectives import Supervised, label_totals
from manyheads.optim import make_optimizer
from manyheads.sharing import Sharing
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.tasks import Task
from manyheads.train import Training

HARD = Case("hard", find(Sharing, "hard"))
TABULAR = Case("tabular", find(Encoder, "tabular"), {"d_hidden": 8})
EQUAL = find(Balance, "equal")


def _net(tasks=None, seed=0, dropout=0.0, tables=1):
    return build(HARD, TABULAR, tasks or small_tasks(), seed, tables, dropout=dropout)


def _training(
    model=None,
    train=None,
    valid=None,
    tasks=None,
    *,
    balance=None,
    optim=None,
    trainer=None,
    batch_size=8,
    sampler=None,
    **more,
):
    tasks = tasks or small_tasks()
    train = {"t": rows_for(tasks, 40, 0.4)} if train is None else train
    valid = {"t": rows_for(tasks, 30, 0.2, 5)} if valid is None else valid
    return Training(
        model if model is not None else _net(tasks),
        sampler or Sampler(train, batch_size, **more.pop("sampling", {})),
        valid,
        tasks,
        more.pop("objective", None) or Supervised(),
        balance or EQUAL(),
        OptimSpec(**{"lr": 0.01, "weight_decay": 0.0, **(optim or {})}),
        TrainerSpec(**{"max_epochs": 4, "accelerator": "cpu", **(trainer or {})}),
        **more,
    )


def _weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def _equal(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name in one:
        same = torch.equal(one[name], other[name])
        assert same or (tolerance and torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance)), name


def _gradients(model, batch, balance=None):
    model.zero_grad()
    (balance or EQUAL()).backward(Supervised()(model, batch))
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


# -- D1: the update, written out


def _by_hand(model, losses, lr):
    """Theta - lr * sum of the gradients, from plain autograd."""
    names, params = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(sum(losses), params, allow_unused=True)
    return {n: p.detach() - (0 if g is None else lr * g) for n, p, g in zip(names, params, gradients, strict=True)}


def _literal(task, output, target):
    """The mean error, from the formula of its type."""
    if task.kind == "regression":
        return ((output.squeeze(-1) - target) ** 2).mean()
    if task.kind == "binary":
        p = output.squeeze(-1).sigmoid()
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    return torch.stack([-row.softmax(-1)[c].log() for row, c in zip(output, target, strict=True)]).mean()


@pytest.mark.parametrize("schedule", ["alternating", "joint"])
def test_a_step_of_plain_descent_is_the_update_written_out(schedule):
    tasks, lr = small_tasks(), 0.1
    rows = rows_for(tasks, 24, 0.4)
    model = _net(tasks)
    sampler = Sampler({"t": rows}, 8, mode="uniform", schedule=schedule, seed=2)
    training = _training(
        model,
        sampler=sampler,
        optim={"optimizer": {"name": "SGD"}, "lr": lr},
        trainer={"max_steps": 1, "max_epochs": 1},
        valid={},
    )
    draw = sampler.plan(0)[0]
    outputs = model({k: v[draw.rows] for k, v in rows.inputs.items()})
    losses = []
    for task in tasks:
        target, known, _ = rows.labels(task.name)
        kept = known[draw.rows]
        if (schedule == "joint" or task.name == draw.task) and kept.any():
            losses.append(_literal(task, outputs[task.name][kept], target[draw.rows][kept]))
    assert len(losses) == (1 if schedule == "alternating" else 4)
    expected = _by_hand(model, losses, lr)
    before = _weights(model)
    training.run()
    _equal(_weights(model), expected, 1e-6)
    if schedule == "alternating":  # the other tasks' own parameters did not move
        for task in tasks:
            moved = any(not torch.equal(p, before[f"heads.{model.heads.keys_of[task.name]}.{n}"])
                        for n, p in model.heads[task.name].named_parameters())  # fmt: skip
            assert moved == (task.name == draw.task)


# -- missing labels


def test_masking_equals_deleting(float64):
    """For each task alone, the rows without its label may as well not be there."""
    tasks = small_tasks()
    rows = rows_for(tasks, 60, 0.9)
    model = _net(tasks)
    for task in tasks:
        alone = rows.only([task.name])
        kept = alone.take(alone.known_rows(task.name))
        _equal(_gradients(model, Batch({"t": alone})), _gradients(model, Batch({"t": kept})), 1e-6)


def test_a_table_with_missing_labels_is_disjoint_tables(float64):
    tasks = small_tasks()
    rows = rows_for(tasks, 40, 0.5)
    model = _net(tasks)
    whole = _gradients(model, Batch({"t": rows}))
    parts = {t.name: rows.only([t.name]).take(rows.known_rows(t.name)) for t in tasks}
    _equal(whole, _gradients(model, Batch(parts)), 1e-12)  # every task in a table (source) of its own
    inputs = {k: torch.cat([p.inputs[k] for p in parts.values()]) for k in rows.inputs}
    n, blocks, start = sum(map(len, parts.values())), [], 0
    for name, part in parts.items():  # one source, one row per label
        known = torch.zeros(n, dtype=torch.bool)
        known[start : start + len(part)] = True
        target = torch.zeros(n, dtype=part.labels(name)[0].dtype)
        target[known] = part.labels(name)[0]
        blocks.append(Block((name,), target, known))
        start += len(part)
    _equal(whole, _gradients(model, Batch({"t": Taskset(inputs, tuple(blocks))})), 1e-12)


def test_labels_stacked_by_family_are_labels_one_by_one(float64):
    tasks = small_tasks()
    rows = rows_for(tasks, 40, 0.5)
    parts = [rows.labels(t) for t in ("a", "b")]
    both = Block(("a", "b"), torch.stack([p[0] for p in parts], 1), torch.stack([p[1] for p in parts], 1), None, True)
    model = _net(tasks)
    stacked = Taskset(rows.inputs, (both, *rows.blocks[2:]))
    assert stacked.tasks == rows.tasks
    _equal(_gradients(model, Batch({"t": rows})), _gradients(model, Batch({"t": stacked})), 1e-12)
    weights = {t: torch.rand(40) for t in ("a", "b")}
    one = replace(rows, blocks=tuple(replace(b, weight=weights.get(b.tasks[0])) for b in rows.blocks))
    many = replace(stacked, blocks=(replace(both, weight=torch.stack(list(weights.values()), 1)), *stacked.blocks[1:]))
    _equal(_gradients(model, Batch({"t": one})), _gradients(model, Batch({"t": many})), 1e-12)


def test_a_task_whose_labels_weigh_nothing_is_absent():
    tasks = small_tasks()
    rows = rows_for(tasks, 20, 0.2)
    nothing = replace(rows, blocks=(replace(rows.blocks[0], weight=torch.zeros(20)), *rows.blocks[1:]))
    losses = Supervised()(_net(tasks), Batch({"t": nothing}))
    assert set(losses) == {"b", "c", "d"}


def test_a_task_without_any_label_changes_nothing_for_the_others():
    tasks = small_tasks()
    unlabelled = torch.zeros(40, dtype=torch.bool)
    rows = rows_for(tasks, 40, 0.4, d=unlabelled)
    valid = rows_for(tasks, 30, 0.2, 5, d=unlabelled[:30])
    for balance in catalogue(Balance):
        with_d, without = _net(tasks, dropout=0.1), _net(tasks[:3], dropout=0.1)
        before = _weights(with_d.heads["d"])
        _training(with_d, {"t": rows}, {"t": valid}, tasks, balance=balance()).run()
        _training(without, {"t": rows.only("abc")}, {"t": valid.only("abc")}, tasks[:3], balance=balance()).run()
        _equal(_weights(with_d.sharing), _weights(without.sharing))
        for task in "abc":
            _equal(_weights(with_d.heads[task]), _weights(without.heads[task]))
        _equal(_weights(with_d.heads["d"]), before)  # and AdamW did not let it decay


@pytest.mark.parametrize("pooled", [False, True])
def test_a_step_in_four_parts_is_one_step(float64, pooled):
    """The same rows as one big batch or as four small ones, some without any label of a task."""
    tasks = small_tasks()
    known = torch.zeros(32, dtype=torch.bool)
    known[[1, 2, 30]] = True
    rows = rows_for(tasks, 32, 0.5, a=known)
    finals, histories = [], []
    for size, parts in ((32, 1), (8, 4)):
        for case in catalogue(Balance):
            model, balance = _net(tasks).double(), case()
            if hasattr(balance, "gramian"):
                balance.gramian = "exact"  # as it is measured over several parts
            training = _training(
                model, {"t": rows}, {"t": rows}, tasks, balance=balance, batch_size=size,
                objective=Supervised(pooled=pooled),
                trainer={"accumulate_grad_batches": parts, "max_epochs": 5, "precision": "64"},
                optim={"optimizer": {"name": "SGD"}, "lr": 0.05},
            )  # fmt: skip
            histories.append(training.run())
            finals.append(_weights(model))
    n = len(finals) // 2
    for i in range(n):
        _equal(finals[i], finals[i + n], 1e-10)
        for a, b in zip(histories[i], histories[i + n], strict=True):
            assert (a.epoch, a.split, a.task, a.metric) == (b.epoch, b.split, b.task, b.metric)
            assert a.value == (None if b.value is None else pytest.approx(b.value, rel=1e-8))


def test_totals_are_the_label_weights_of_the_whole_step():
    tasks = small_tasks()
    rows = rows_for(tasks, 32, 0.5)
    weighted = replace(rows, blocks=(replace(rows.blocks[0], weight=torch.full((32,), 2.0)), *rows.blocks[1:]))
    batches = [Batch({"t": weighted.take(torch.arange(i, i + 8))}) for i in range(0, 32, 8)]
    totals = label_totals(batches)
    counts = rows.counts()
    assert totals == {"a": 2.0 * counts["a"], "b": counts["b"], "c": counts["c"], "d": counts["d"]}


def test_a_small_task_keeps_its_full_weight_unless_pooled():
    tasks = small_tasks()[:2]
    few = torch.zeros(40, dtype=torch.bool)
    few[:4] = True
    rows = rows_for(tasks, 40, 0.0, a=few)
    model = _net(tasks)
    mean = Supervised()(model, Batch({"t": rows}))
    pooled = Supervised(pooled=True)(model, Batch({"t": rows}))
    assert pooled["a"].item() == pytest.approx(mean["a"].item() * 4 / 44, rel=1e-5)
    assert pooled["b"].item() == pytest.approx(mean["b"].item() * 40 / 44, rel=1e-5)
    assert mean.counts == {"a": 4.0, "b": 40.0}


# -- stopped at any moment, and taken up again


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("precision", ["32", "64", "bf16"])
def test_a_second_look_at_a_step_sees_the_same_dropout(parts, precision, monkeypatch):
    """Where nothing moves, nothing improves; and the look takes no random numbers from the steps to come."""
    rates, rate = [], FAMO._rate
    monkeypatch.setattr(FAMO, "_rate", lambda *args: rates.append(rate(*args)) or rates[-1])
    trainer = {"accumulate_grad_batches": parts, "precision": precision, "max_epochs": 2, "patience": None}
    runs = []
    for balance, lr in ((FAMO(), 0.0), (FAMO(), 0.1), (EQUAL(), 0.1)):
        training = _training(_net(dropout=0.5), balance=balance, trainer=trainer, optim={"optimizer": "SGD"})
        training.optimizer.param_groups[0]["lr"] = lr
        training.run()
        runs.append(training)
        if lr == 0:
            assert len(rates) > 8
            assert set(rates) == {0.0}
    assert any(rates)
    assert torch.equal(runs[1].rng, runs[2].rng)


class Stop(Callback):
    """Kills a run after n steps: by an exception, or politely."""

    def __init__(self, step, politely):
        self.step, self.politely = step, politely

    def on_step(self, training):
        if training.step == self.step:
            if not self.politely:
                raise RuntimeError("killed")
            training.interrupted = True


def _make(folder, kind, callbacks=(), trainer=None):
    tasks = small_tasks()
    model = _net(tasks, dropout=0.3)
    if kind == "members":
        model = Ensemble([_net(tasks, seed=s, dropout=0.3) for s in range(2)])
    settings = {
        "plain": {},
        "scheduler": {"scheduler": {"name": "CosineAnnealingLR"}, "optimizer": {"name": "SGD", "momentum": 0.9}},
        "step-scheduler": {"scheduler": {"name": "OneCycleLR", "interval": "step"}},
        "plateau": {"scheduler": {"name": "ReduceLROnPlateau", "patience": 0}},
    }.get(kind, {})
    more = (
        {"accumulate_grad_batches": 2}
        if kind == "parts"
        else {"freeze_stopped": True, "patience": 1}
        if kind == "freezing"
        else {}
    )
    return _training(
        model,
        {"t": rows_for(tasks, 40, 0.4), "u": rows_for(tasks[:2], 17, 0.4, 9)},
        tasks=tasks,
        balance=find(Balance, "uncertainty")(lr=0.05),
        optim=settings,
        trainer={"max_epochs": 4, **more, **(trainer or {})},
        sampling={"mode": "uniform", "schedule": "alternating" if kind == "alternating" else "joint", "seed": 3},
        folder=folder,
        callbacks=callbacks,
        seed=7,
    )


def _found(training, history):
    names = [*training.best_states]
    return {
        "weights": _weights(training.model),
        "history": [r.model_dump() for r in history],
        "events": training.events,
        "balance": training.balance.state_dict(),
        "best": (training.best.value, training.best.epoch),
        "best_of": {t: (b.value, b.epoch) for t, b in training.best_of.items()},
        "best_states": {t: training.best_states[t] for t in sorted(names)},
        "step": training.step,
    }


def _same_run(one, other):
    assert one.keys() == other.keys()
    for key in one:
        if key == "weights":
            _equal(one[key], other[key])
        elif key == "best_states":
            assert not one[key] or not other[key] or one[key].keys() == other[key].keys()  # kept with a folder alone
            for task in one[key].keys() & other[key].keys():
                _equal(one[key][task], other[key][task])
        else:
            assert one[key] == other[key], key


KINDS = ["plain", "scheduler", "step-scheduler", "plateau", "parts", "freezing", "alternating", "members"]


@pytest.mark.parametrize("politely", [False, True], ids=["killed", "interrupted"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, kind, politely):
    straight = _make(tmp_path / "whole", kind)
    (tmp_path / "whole").mkdir()
    expected = _found(straight, straight.run())
    steps = random.Random(f"{kind} {politely}").sample(range(1, expected["step"] + 1), 2)
    for stops in (sorted(steps), [expected["step"]]):
        folder = tmp_path / f"stopped-{'-'.join(map(str, stops))}"
        folder.mkdir(exist_ok=True)
        for i, step in enumerate(stops):
            training = _make(folder, kind, [Stop(step, politely)])
            assert training.resume() == (i > 0)
            with pytest.raises(KeyboardInterrupt if politely else RuntimeError):
                training.run()
        training = _make(folder, kind)
        assert training.resume()
        _same_run(_found(training, training.run()), expected)
        for name in ("last.ckpt", "best.ckpt"):
            a, b = (torch.load(f / name, weights_only=True) for f in (folder, tmp_path / "whole"))
            _equal(a["model"], b["model"])


def test_a_run_is_the_same_with_and_without_a_folder_and_whatever_the_global_seed(tmp_path):
    torch.manual_seed(1)
    one = _make(None, "plain")
    first = _found(one, one.run())
    torch.manual_seed(2)
    other = _make(tmp_path, "plain")
    state = torch.get_rng_state()
    _same_run(first, _found(other, other.run()))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_stopped_at_its_last_step_takes_no_further_one(tmp_path):
    training = _make(tmp_path, "plain", [Stop(5, True)], {"max_steps": 5})
    with pytest.raises(KeyboardInterrupt):
        training.run()
    again = _make(tmp_path, "plain", trainer={"max_steps": 5})
    assert again.resume()
    again.run()
    assert again.step == 5


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = _make(tmp_path, "plain")
    expected = _found(first, first.run())
    again = _make(tmp_path, "plain")
    assert again.resume()
    _same_run(_found(again, again.run()), expected)


def test_no_checkpoint_and_a_damaged_one(tmp_path):
    assert not _make(tmp_path, "plain").resume()
    (tmp_path / "last.ckpt").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"last\.ckpt"):
        _make(tmp_path, "plain").resume()


def test_an_interrupted_run_without_a_folder():
    training = _make(None, "plain", [Stop(3, True)])
    with pytest.raises(KeyboardInterrupt):
        training.run()
    assert training.step == 3


# -- stopping


class Skills(Callback):
    """Writes down the weights after each epoch."""

    def __init__(self):
        self.weights = []

    def on_epoch(self, training):
        self.weights.append({k: v.detach().clone() for k, v in training.model.state_dict().items()})


def test_early_stopping_follows_the_mean_skill_and_restores_the_best(tmp_path):
    tasks = small_tasks()
    seen = Skills()
    training = _training(
        _net(tasks),
        tasks=tasks,
        optim={"lr": 0.1},
        trainer={"max_epochs": 60, "patience": 3},
        callbacks=[seen],
        folder=tmp_path,
    )
    history = training.run()
    skills = [v for _, v in history.series("skill")]
    best = max(range(len(skills)), key=lambda i: skills[i])
    assert len(skills) == best + 4 < 60
    assert training.best.epoch == best
    assert training.best.value == skills[best]
    _equal(training.model.state_dict(), seen.weights[best])
    _equal(torch.load(tmp_path / "best.ckpt", weights_only=True)["model"], seen.weights[best])
    assert training.events[-1]["event"] == "stopped"
    for task in tasks:
        monitor = training.monitor[task.name]
        sign = 1 if metrics.find(monitor).greater_is_better else -1
        values = [v for _, v in history.series(monitor, task=task.name)]
        own = max(range(len(values)), key=lambda i: sign * values[i])
        assert training.best_of[task.name].epoch == own
        _equal(training.best_states[task.name], seen.weights[own])
        _equal(torch.load(tmp_path / f"best-{task.name}.ckpt", weights_only=True)["model"], seen.weights[own])


def test_skill_is_the_mean_of_the_tasks_skills():
    training = _training()
    history = training.run()
    for epoch, value in history.series("skill"):
        skills = []
        for task in training.tasks.values():
            metric = metrics.find(training.monitor[task.name])
            score = dict(history.series(metric.name, task=task.name))[epoch]
            start = 0.0 if task.kind == "regression" else training.skill.constants[task.name]
            skills.append((score - start) / (metric.best - start))
        assert value == pytest.approx(sum(skills) / len(skills))


def test_a_task_with_one_class_on_validation_has_no_say():
    tasks = small_tasks()
    silent = next(t for t in tasks if t.kind == "binary")
    valid = rows_for(tasks, 30, 0.2, 5)
    blocks = [replace(b, target=torch.ones_like(b.target)) if b.tasks == (silent.name,) else b for b in valid.blocks]
    valid = replace(valid, blocks=tuple(blocks))
    training = _training(tasks=tasks, valid={"t": valid})
    assert training.skill.silent == {silent.name}
    history = training.run()
    assert len(history.series(training.monitor[silent.name], task=silent.name)) == 4  # seen, and not counted
    for epoch, value in history.series("skill"):
        found = []
        for task in tasks:
            if task is not silent:
                score = dict(history.series(training.monitor[task.name], task=task.name))[epoch]
                found.append(training.skill.metrics[task.name].skill(score, training.skill.constants[task.name]))
        assert value == pytest.approx(sum(found) / len(found))
    alone = _training(_net([silent]), tasks=[silent], valid={"t": valid.only([silent.name])})
    assert alone.skill.silent == set()  # it is all that there is


def test_labels_are_alike_column_by_column():
    target, known = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), torch.ones(3, 2, dtype=torch.bool)
    assert not alike(target, known)
    known[2, 0] = known[1, 1] = False
    assert alike(target, known)
    assert alike(torch.tensor([2, 2, 2]), torch.ones(3, dtype=torch.bool))
    assert not alike(torch.tensor([2.0, 2.0, 2.5]), torch.ones(3, dtype=torch.bool))
    assert not alike(torch.zeros(3, 4, 4), torch.ones(3, dtype=torch.bool))  # masks


def test_without_validation_rows_the_last_weights_stay():
    seen = Skills()
    training = _training(valid={}, callbacks=[seen], trainer={"max_epochs": 3, "patience": 1})
    training.run()
    assert training.epoch == 3
    _equal(training.model.state_dict(), seen.weights[-1])


def test_a_stopped_task_leaves_the_loss():
    """A task that cannot be learnt freezes; its head no longer moves, the others' do."""
    tasks = small_tasks()
    seen = Skills()
    training = _training(
        _net(tasks),
        tasks=tasks,
        trainer={"max_epochs": 40, "patience": 2, "freeze_stopped": True},
        callbacks=[seen],
        optim={"lr": 0.1},
    )
    training.run()
    frozen = {e["task"]: e["epoch"] for e in training.events if e["event"] == "frozen"}
    assert frozen
    for task, epoch in frozen.items():
        assert epoch - training.best_of[task].epoch == 2
        head = f"heads.{training.model.heads.keys_of[task]}."
        for later in seen.weights[epoch + 1 :]:
            assert all(torch.equal(later[k], seen.weights[epoch][k]) for k in later if k.startswith(head))
    if len(frozen) == len(tasks):
        assert training.epoch == max(frozen.values()) + 1
    trained = {r.task: r.epoch for r in training.history if r.split == "train" and r.metric == "loss"}
    assert all(trained[t] == frozen[t] for t in frozen)


@pytest.mark.parametrize("steps", [1, 5, 7, 10])
def test_max_steps(steps):
    training = _training(trainer={"max_steps": steps, "max_epochs": 100, "patience": None})
    training.run()
    assert training.step == steps
    assert training.finished


def test_no_epoch_is_no_step():
    training = _training(trainer={"max_epochs": 0})
    before = _weights(training.model)
    assert len(training.run()) == 0
    _equal(_weights(training.model), before)


# -- trouble


def test_divergence_is_said():
    training = _training(
        optim={"optimizer": {"name": "SGD"}, "lr": 1e30}, trainer={"max_epochs": 100, "patience": None}, valid={}
    )
    with pytest.raises(Diverged, match=r"epoch \d+.*`a`.*optim\.lr"):
        training.run()


def test_one_task_that_is_not_finite_does_not_stop_the_others():
    """The error of a task overflows at every step: it is dropped and counted, the others learn as without it."""
    count = find(Task, "count")("n")
    tasks = [*small_tasks(), count]
    model, without = _net(tasks), _net(tasks[:4])
    with torch.no_grad():
        model.heads["n"].bias.fill_(1e4)
    rows = rows_for(tasks, 40, 0.3)
    training = _training(model, {"t": rows}, {}, tasks)
    training.run()
    plain = _training(without, {"t": rows.only("abcd")}, {}, tasks[:4])
    plain.run()
    assert training.balance.dropped == {"n": training.step}
    _equal(_weights(model.sharing), _weights(without.sharing), 1e-5)


def test_a_stretch_without_labels_is_no_divergence():
    """One dropped loss early on, then many steps that have no label at all."""
    tasks = small_tasks()[:1]
    known = torch.zeros(400, dtype=torch.bool)
    known[:3] = True
    rows = rows_for(tasks, 400, 0.0, a=known)

    class Bad(Supervised):
        first = True

        def __call__(self, model, batch, trace=None, totals=None):
            losses = super().__call__(model, batch, trace, totals)
            if len(losses) and self.first:
                self.first = False
                losses.vector = losses.vector * math.nan
            return losses

    training = _training(_net(tasks), {"t": rows}, {}, tasks, objective=Bad(), batch_size=4)
    training.run()
    assert training.step == 400
    assert training.balance.dropped == {"a": 1}


# -- precision, optimisers, other people's modules


def test_double_precision():
    training = _training(trainer={"precision": "64"})
    training.run()
    assert all(p.dtype == torch.float64 for p in training.model.parameters())


def test_bfloat16_runs_and_its_losses_are_float32():
    training = _training(trainer={"precision": "bf16"}, batch_size=40)
    history = training.run()
    plain = _training(batch_size=40).run()
    for task in training.tasks:
        for (_, a), (_, b) in zip(
            history.series("loss", "train", task), plain.series("loss", "train", task), strict=True
        ):
            assert a == pytest.approx(b, rel=0.03)
    tasks = small_tasks()[:1]
    rows = rows_for(tasks, 1001, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = Supervised()(_net(tasks), Batch({"t": rows}))
    assert losses.vector.dtype == torch.float32
    assert losses.counts == {"a": 1001.0}


ONES_OWN_WAY = {"LBFGS": "asks for a closure", "SparseAdam": "is for sparse gradients", "Muon": "is for matrices alone"}


@pytest.mark.parametrize(
    "name",
    sorted(
        n for n, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and n not in {"Optimizer", *ONES_OWN_WAY}
    ),
)  # fmt: skip
def test_any_optimiser_of_torch(name):
    training = _training(trainer={"max_epochs": 1})
    assert type(training.optimizer).__name__ == "AdamW"
    spec = OptimSpec(optimizer={"name": name.lower()}, lr=0.01)
    training.optimizer = make_optimizer(list(training.model.parameters()), spec)
    before = _weights(training.model)
    training.run()
    assert type(training.optimizer).__name__ == name
    assert any(not torch.equal(before[n], p) for n, p in training.model.named_parameters())
    assert all(torch.isfinite(p).all() for p in training.model.parameters())


def test_optimisers_and_schedulers_that_do_not_exist():
    with pytest.raises(ConfigError, match="`Adam`"):
        _training(optim={"optimizer": {"name": "AdamV"}})
    with pytest.raises(ConfigError, match="SGD"):
        _training(optim={"optimizer": {"name": "SGD", "momentun": 0.9}})
    with pytest.raises(ConfigError, match="`CosineAnnealingLR`"):
        _training(optim={"scheduler": {"name": "CosineAnealingLR"}})
    with pytest.raises(ConfigError, match="StepLR"):
        _training(optim={"scheduler": {"name": "StepLR"}})


def test_settings_reach_the_optimiser():
    training = _training(
        optim={"optimizer": {"name": "SGD", "momentum": 0.9, "nesterov": True}, "lr": 0.3, "weight_decay": 0.1}
    )
    group = training.optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["lr"], group["weight_decay"]) == (0.9, True, 0.3, 0.1)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_scheduler_by_step_runs_its_whole_course(parts):
    rates = []

    class Rates(Callback):
        def on_step(self, training):
            rates.append(training.optimizer.param_groups[0]["lr"])

    training = _training(
        optim={"scheduler": {"name": "OneCycleLR", "interval": "step"}, "lr": 0.1},
        trainer={"accumulate_grad_batches": parts, "max_epochs": 3, "patience": None},
        callbacks=[Rates()],
    )
    training.run()
    assert max(rates) == pytest.approx(0.1, rel=0.1)
    assert rates[-2] < 1e-4  # of the last step


class Foreign(nn.Module):
    """Somebody else's module: inputs in, {task: output} out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.a, self.c = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x):
        z = self.body(x["numeric"])
        return {"a": self.a(z), "c": self.c(z)}


@pytest.mark.parametrize("validate", [False, True])
def test_a_foreign_module_trains(validate):
    tasks = [t for t in small_tasks() if t.name in "ac"]
    rows = rows_for(tasks, 60, 0.3)
    training = _training(
        Foreign(),
        {"t": rows},
        {"t": rows} if validate else {},
        tasks,
        objective=Supervised(tasks),
        trainer={"max_epochs": 20},
    )
    history = training.run()
    for task in ("a", "c"):
        losses = [v for _, v in history.series("loss", "train", task)]
        assert losses[-1] < losses[0]
    if validate:
        assert all(v is not None for _, v in history.series("skill"))


def test_frozen_parameters_stay():
    model = _net()
    for p in model.sharing.encoder.stages[1].parameters():
        p.requires_grad_(False)
    before = _weights(model)
    _training(model, optim={"weight_decay": 0.1}).run()
    for name, p in model.named_parameters():
        assert torch.equal(before[name], p) == name.startswith("sharing.encoder.stages.1."), name


def test_clipping_bounds_the_total_norm():
    model = _net()
    before = _weights(model)
    _training(
        model,
        valid={},
        optim={"optimizer": {"name": "SGD"}, "lr": 1.0},
        trainer={"gradient_clip_val": 0.01, "max_steps": 1},
    ).run()
    moved = torch.cat([(p - before[n]).flatten() for n, p in model.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_module_may_bring_its_own_groups():
    class Grouped(Foreign):
        def parameter_groups(self, lr, weight_decay):
            return [
                {"params": self.body.parameters(), "lr": lr / 10},
                {"params": [*self.a.parameters(), *self.c.parameters()]},
            ]

    tasks = [t for t in small_tasks() if t.name in "ac"]
    training = _training(Grouped(), {"t": rows_for(tasks, 20)}, {}, tasks, objective=Supervised(tasks))
    assert [g["lr"] for g in training.optimizer.param_groups] == pytest.approx([0.001, 0.01])
    assert make_optimizer is not None


class Diary(Callback):
    """Writes down who was told what."""

    def __init__(self, name, pages):
        self.name, self.pages = name, pages

    def on_start(self, training):
        self.pages.append((self.name, "start", training.step))

    def on_step(self, training):
        self.pages.append((self.name, "step", training.step))

    def on_epoch(self, training):
        self.pages.append((self.name, "epoch", training.epoch))

    def on_end(self, training):
        self.pages.append((self.name, "end", training.step))


def test_callbacks_are_told_in_order():
    pages = []
    _training(
        callbacks=[Diary("x", pages), Diary("y", pages)], trainer={"max_epochs": 2, "patience": None}, batch_size=20
    ).run()
    x = [(what, n) for who, what, n in pages if who == "x"]
    assert x == [
        ("start", 0), ("step", 1), ("step", 2), ("epoch", 1), ("step", 3), ("step", 4), ("epoch", 2), ("end", 4),
    ]  # fmt: skip
    assert [who for who, *_ in pages] == ["x", "y"] * len(x)


def test_training_learns_several_tables_with_columns_of_their_own():
    tasks = small_tasks()
    model = _net(tasks, tables=2)
    train = {f"t{i}": rows_for(tasks, 40, 0.3, i, layout_of("tabular", i)) for i in range(2)}
    history = _training(
        model, train, train, tasks, trainer={"max_epochs": 30, "patience": None}, sampling={"mode": "uniform"}
    ).run()
    for task in tasks:
        losses = [v for _, v in history.series("loss", "train", task.name)]
        assert losses[-1] < losses[0]
    assert set(model(inputs_of(layout_of("tabular", 1)), table="t1")) == set("abcd")
    assert targets_for(tasks[0], 3).shape == (3,)
