"""One step of each algorithm against its update, written out by hand; and what soft sharing is at its two ends."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))

from cases import Case, targets_for
from test_training import _training, _weights

from manyheads.catalog import find
from manyheads.data import Block, Taskset
from manyheads.data.sampler import Sampler
from manyheads.encoders import Encoder
from manyheads.model import Model
from manyheads.penalties.l2 import Pairwise
from manyheads.sharing import Sharing
from manyheads.tasks import Task

LAYOUT = {"numeric": 3, "categorical": []}
LR, STRENGTH = 0.05, 0.7


def tasks_of(**attach):
    tasks = [find(Task, "regression")("a"), find(Task, "regression")("b"), find(Task, "binary")("c", classes=(0, 1))]
    return [replace(t, attach=attach.get(t.name)) for t in tasks]


def model_of(word, tasks, layouts=None, seed=0, d_hidden=4, n_layers=2, **settings):
    """Stage 0 puts three numbers side by side, stages 1 and 2 are tanh(W z + b)."""
    net = {"d_hidden": d_hidden, "n_layers": n_layers, "activation": "tanh", "dropout": 0.0}
    encoder = Case("tabular", find(Encoder, "tabular"), net)
    sharing = find(Sharing, word)(lambda: encoder(layouts or {"t": LAYOUT}), tasks, **settings)
    return Model(sharing, tasks, seed).double()


def shaken(model):
    """Weights of which no two are alike, tasks' starts and heads included."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return model


def rows_of(tasks, n=24, n_numeric=3, missing=0.4, seed=0):
    g = torch.Generator().manual_seed(seed)
    blocks = [
        Block((t.name,), targets_for(t, n, seed + i), torch.rand(n, generator=g) >= missing)
        for i, t in enumerate(tasks)
    ]
    return Taskset({"numeric": torch.randn(n, n_numeric, generator=g)}, tuple(blocks))


def training_of(model, tasks, rows, steps=1, schedule="joint", optim=None, batch_size=8):
    tables = rows if isinstance(rows, dict) else {"t": rows}
    sampler = Sampler(tables, batch_size, mode="uniform", schedule=schedule, seed=2)
    return _training(
        model, tasks=tasks, sampler=sampler, valid={}, optim=optim or {"optimizer": {"name": "SGD"}, "lr": LR},
        trainer={"max_steps": steps, "max_epochs": 99, "precision": "64"},
    )  # fmt: skip


def draws_of(training, steps):
    """What the first steps see, as the sampler plans it."""
    planned = []
    for epoch in range(99):
        planned += training.sampler.plan(epoch)
        if len(planned) >= steps:
            return planned[:steps]
    return planned


# -- the update, without autograd


def gradients_by_hand(weights, path, x, target, kind):
    """d L / d (W, b) of every layer of z -> tanh(W z + b), the last one linear, for the mean error L."""
    z = [x]
    for layer in path[:-1]:
        z.append(torch.tanh(z[-1] @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]))
    output = (z[-1] @ weights[f"{path[-1]}.weight"].T + weights[f"{path[-1]}.bias"]).squeeze(-1)
    error = 2 * (output - target) if kind == "regression" else 1 / (1 + torch.exp(-output)) - target
    back = (error / len(target)).unsqueeze(-1)
    found = {}
    for i in reversed(range(len(path))):
        found[f"{path[i]}.weight"], found[f"{path[i]}.bias"] = back.T @ z[i], back.sum(0)
        back = (back @ weights[f"{path[i]}.weight"]) * (1 - z[i] ** 2)
    return found


def sums_of_gradients(weights, paths, tasks, rows, draw):
    """(sum over the tasks of a step of d L_k / d theta, those tasks)."""
    total = {n: torch.zeros_like(w) for n, w in weights.items()}
    there = []
    for task in tasks:
        target, known, _ = rows.labels(task.name)
        kept = draw.rows[known[draw.rows]]
        if draw.task in (None, task.name) and len(kept):
            there.append(task.name)
            own = gradients_by_hand(weights, paths[task.name], rows.inputs["numeric"][kept], target[kept], task.kind)
            for name, gradient in own.items():
                total[name] += gradient
    return total, there


def heads(task):
    return f"heads.t{'abc'.index(task)}"


SCHEMES = {
    "hard": (
        {"a": 1, "b": 2},
        {},
        {
            "a": ["sharing.encoder.stages.1.linear", heads("a")],
            **{t: [f"sharing.encoder.stages.{i}.linear" for i in (1, 2)] + [heads(t)] for t in "bc"},
        },
    ),
    "tree": (
        {},
        {"levels": {1: [["a", "b"], ["c"]], 2: [["a"], ["b"], ["c"]]}},
        {
            "a": ["sharing.copies.0.t0.linear", "sharing.copies.1.t0.linear", heads("a")],
            "b": ["sharing.copies.0.t0.linear", "sharing.copies.1.t1.linear", heads("b")],
            "c": ["sharing.copies.0.t1.linear", "sharing.copies.1.t2.linear", heads("c")],
        },
    ),
    "hierarchical": (
        {},
        {},
        {t: [f"sharing.own.1.t{k}.linear", "sharing.top.0.linear", heads(t)] for k, t in enumerate("abc")},
    ),
}
"""Word -> (stages that heads are attached to, settings, per task the layers between its inputs and its output)."""
SOFT = {t: [f"sharing.copies.{i}.t{k}.linear" for i in (1, 2)] + [heads(t)] for k, t in enumerate("abc")}


@pytest.mark.parametrize("schedule", ["alternating", "joint"])
@pytest.mark.parametrize("word", SCHEMES)
def test_steps_of_plain_descent_are_the_update_written_out(word, schedule, float64):
    """D3 both ways, and heads at a lower stage: Theta -= lr * sum of d L_k of the step's tasks; three steps."""
    attach, settings, paths = SCHEMES[word]
    tasks = tasks_of(**attach)
    rows, model = rows_of(tasks), shaken(model_of(word, tasks, **settings))
    training = training_of(model, tasks, rows, 3, schedule)
    weights = _weights(model)
    assert {n.rpartition(".")[0] for n in weights} == {layer for path in paths.values() for layer in path}
    for draw in draws_of(training, 3):
        total, there = sums_of_gradients(weights, paths, tasks, rows, draw)
        assert len(there) == (1 if schedule == "alternating" else 3)
        weights = {n: w - LR * total[n] for n, w in weights.items()}
    training.run()
    for name, weight in _weights(model).items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-10)


def pulled(weights, there, step):
    """What the pull of all pairs adds to the gradient (or does after it), by a loop over pairs."""
    new = {n: torch.zeros_like(w) for n, w in weights.items()}
    for mine, k in [(n, k) for n in weights if n.startswith("sharing") for k in range(3) if f".t{k}." in n]:
        if step == "literal" and "abc"[k] not in there:
            continue
        for j in range(3):
            new[mine] += STRENGTH * 2 * (weights[mine] - weights[mine.replace(f".t{k}.", f".t{j}.")])
    return new


@pytest.mark.parametrize("schedule", ["alternating", "joint"])
@pytest.mark.parametrize("step", ["literal", "loss", "prox"])
def test_steps_of_soft_sharing_are_the_update_written_out(step, schedule, float64):
    """D2: Theta_k -= lr (d L_k + lambda d_k sum over i < j of ||Theta_i - Theta_j||^2); or the pull after the step."""
    tasks = tasks_of()
    rows = rows_of(tasks)
    model = shaken(model_of("soft", tasks, penalty="pairwise", strength=STRENGTH, step=step))
    training = training_of(model, tasks, rows, 3, schedule)
    start = weights = _weights(model)
    drawn = []
    for draw in draws_of(training, 3):
        total, there = sums_of_gradients(weights, SOFT, tasks, rows, draw)
        drawn += there
        pull = dict.fromkeys(weights, 0.0) if step == "prox" else pulled(weights, there, step)
        weights = {n: w - LR * (total[n] + pull[n]) for n, w in weights.items()}
        if step == "prox":  # argmin 1/2 ||V - W||^2 + lr lambda sum over pairs: (I + 2 lr lambda (3 I - 1 1^T)) V = W
            system = torch.eye(3) + 2 * LR * STRENGTH * (3 * torch.eye(3) - torch.ones(3, 3))
            for n in [n for n in weights if n.startswith("sharing") and ".t0." in n]:
                names = [n.replace(".t0.", f".t{k}.") for k in range(3)]
                solved = torch.linalg.solve(system, torch.stack([weights[m].flatten() for m in names]))
                weights |= {m: v.view_as(weights[m]) for m, v in zip(names, solved, strict=True)}
    training.run()
    for name, weight in _weights(model).items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-10)
    moved = {t for t in "abc" if not torch.equal(weights[f"{SOFT[t][0]}.weight"], start[f"{SOFT[t][0]}.weight"])}
    assert moved == (set(drawn) if step == "literal" else set("abc"))
    assert (set(drawn) == set("abc")) == (schedule == "joint")


def test_the_pairwise_pull_is_the_double_loop(float64):
    w = torch.randn(5, 4, 3, requires_grad=True)
    slow = sum((w[i] - w[j]).square().sum() for i in range(5) for j in range(i + 1, 5))
    fast = Pairwise(1.0).loss(w)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    gradients = [torch.autograd.grad(v, w)[0] for v in (slow, fast)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    far = (torch.randn(3, 50, dtype=torch.float32) + 1e4).requires_grad_()  # where a difference of squares cancels
    exact = sum((far[i].double() - far[j].double()).square().sum() for i in range(3) for j in range(i + 1, 3))
    assert Pairwise(1.0).loss(far).item() == pytest.approx(exact.item(), rel=1e-4)


# -- the two ends of soft sharing


def _copied(single, soft, task):
    """The weights of one task of a soft model, as those of a single model."""
    k = "abc".index(task)
    weights = soft.state_dict()
    single.load_state_dict(
        {n: weights[n.replace("encoder.stages", "copies").replace(".linear", f".t{k}.linear")]
         if n.startswith("sharing") else weights[n.replace("heads.t0", f"heads.t{k}")] for n in single.state_dict()}
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("step", ["literal", "loss", "prox"])
def test_without_a_pull_tasks_are_models_of_their_own(step, optimizer, float64):
    tasks = tasks_of()
    rows = rows_of(tasks)
    soft = shaken(model_of("soft", tasks, strength=0.0, step=step))
    start = copy.deepcopy(soft)
    optim = {"optimizer": {"name": optimizer}, "lr": 0.02}
    training_of(soft, tasks, rows, 12, optim=optim).run()
    for task in tasks:
        single, end = model_of("hard", [task]), model_of("hard", [task])
        _copied(single, start, task.name)
        _copied(end, soft, task.name)
        training_of(single, [task], rows.only([task.name]), 12, optim=optim).run()
        assert not torch.equal(single.heads[task.name].weight, start.heads[task.name].weight)
        for name, weight in single.state_dict().items():
            torch.testing.assert_close(weight, end.state_dict()[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("strength", [1e6, float("inf")])
@pytest.mark.parametrize("penalty", ["mean", "pairwise"])
def test_a_strong_pull_is_one_common_model(penalty, strength, float64):
    """From one start, tasks stay together, and their trunk moves by the mean of their gradients."""
    tasks = tasks_of()
    rows = rows_of(tasks)
    soft = model_of("soft", tasks, penalty=penalty, strength=strength)
    hard = model_of("hard", tasks)
    _copied_trunk(hard, soft)
    paths = {t: [f"sharing.encoder.stages.{i}.linear" for i in (1, 2)] + [heads(t)] for t in "abc"}
    training = training_of(soft, tasks, rows, 8)
    weights = _weights(hard)
    for draw in draws_of(training, 8):
        total, _ = sums_of_gradients(weights, paths, tasks, rows, draw)
        weights = {n: w - LR * total[n] / (3 if n.startswith("sharing") else 1) for n, w in weights.items()}
    training.run()
    tolerance = 1e-15 if strength == float("inf") else 1e-5
    for copies in soft.sharing.copies:
        for w in copies.weights().values():
            assert (w - w[:1]).abs().max() <= tolerance
    found = model_of("hard", tasks)
    _copied_trunk(found, soft)
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=max(tolerance, 1e-10))


def _copied_trunk(hard, soft):
    weights = soft.state_dict()
    hard.load_state_dict(
        {n: weights[n.replace("encoder.stages", "copies").replace(".linear", ".t0.linear")] for n in hard.state_dict()}
    )


def test_a_strong_pull_brings_tasks_together_from_anywhere(float64):
    tasks = tasks_of()
    soft = shaken(model_of("soft", tasks, strength=1e6))
    training_of(soft, tasks, rows_of(tasks), 1).run()
    for copies in soft.sharing.copies:
        for w in copies.weights().values():
            assert (w - w.mean(0)).abs().max() < 1e-4


# -- one head for two tables


def test_a_task_of_two_tables_has_one_head(float64):
    """Tables of other columns: L_a is the mean over the labels of both, and one head moves by their sum."""
    tasks = tasks_of()[:2]
    layouts = {"t": LAYOUT, "u": {"numeric": 2, "categorical": []}}
    rows = {"t": rows_of(tasks, 16), "u": rows_of(tasks[:1], 16, 2, seed=5)}
    model = shaken(model_of("hard", tasks, layouts))
    training = training_of(model, tasks, rows, batch_size=16)
    batch = training.sampler.batch(draws_of(training, 1)[0])
    assert set(batch) == {"t", "u"}
    before = _weights(model)
    slopes, count = [], 0
    with torch.no_grad():
        for table, part in batch.items():
            target, known, _ = part.labels("a")
            z = model.transform(part.inputs, table, "a")[known]
            error = z @ before["heads.t0.weight"].T + before["heads.t0.bias"] - target[known].unsqueeze(-1)
            slopes.append(2 * error.T @ z)
            count += int(known.sum())
            assert known.any()
    training.run()
    expected = before["heads.t0.weight"] - LR * sum(slopes) / count
    torch.testing.assert_close(model.heads["a"].weight.detach(), expected, rtol=0, atol=1e-10)


# -- what it is good for


def _teachers(seed, spread=0.1, n_tasks=8, n=24, n_test=500, d=10, d_hidden=8, noise=0.3):
    """Tasks that are noisy copies of one another, y = v_k tanh(W_k x): (labels of 24 rows each, clean test rows)."""
    g = torch.Generator().manual_seed(seed)
    blocks, inputs, tests = [], [], []
    w_0, v_0 = torch.randn(d_hidden, d, generator=g) / d**0.5, torch.randn(d_hidden, generator=g) / d_hidden**0.5
    for k in range(n_tasks):
        w = w_0 + spread * torch.randn(d_hidden, d, generator=g) / d**0.5
        v = v_0 + spread * torch.randn(d_hidden, generator=g) / d_hidden**0.5
        x = torch.randn(n + n_test, d, generator=g)
        y = 1.5 * torch.tanh(1.5 * x @ w.T) @ v
        here = torch.arange(n_tasks * n) // n == k
        target = torch.zeros(n_tasks * n)
        target[here] = y[:n] + noise * torch.randn(n, generator=g)
        blocks.append(Block((f"t{k}",), target, here))
        inputs.append(x[:n])
        tests.append((x[n:], y[n:]))
    return Taskset({"numeric": torch.cat(inputs)}, tuple(blocks)), tests


def _test_error(word, seed, **settings):
    rows, tests = _teachers(seed)
    tasks = [find(Task, "regression")(t) for t in rows.tasks]
    layouts = {"t": {"numeric": 10, "categorical": []}}
    model = model_of(word, tasks, layouts, seed, d_hidden=16, n_layers=1, **settings)
    adam = {"optimizer": {"name": "Adam"}, "lr": 0.02}
    training_of(model, tasks, rows, 150, optim=adam, batch_size=len(rows)).run()
    model.eval()
    with torch.no_grad():
        errors = [
            (model({"numeric": x}, [t])[t].squeeze(-1) - y).square().mean().item()
            for t, (x, y) in zip(rows.tasks, tests, strict=True)
        ]
    return sum(errors) / len(errors)


def test_soft_sharing_beats_hard_sharing_beats_independent_models(float64):
    """Eight like tasks of 24 rows each, mean of three worlds; measured: .256, .295 and .334."""

    def mean(word, **settings):
        return sum(_test_error(word, seed, **settings) for seed in range(3)) / 3

    soft, hard, alone = mean("soft", strength=3.0, heads=True), mean("hard"), mean("soft", strength=0.0)
    assert soft < 0.9 * hard
    assert hard < 0.95 * alone
