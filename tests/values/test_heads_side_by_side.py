"""Linear heads of a family in one product, for balances that look at gradients: as if each were computed alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))
from cases import KINDS, Case, build, catalogue, fitted, layout_of, output_for, rows_for, targets_for

from manyheads.balance import Balance
from manyheads.balance.aggregation import Aggregation, Solution
from manyheads.catalog import find
from manyheads.data import Batch, Block, Taskset
from manyheads.encoders.tabular import Tabular
from manyheads.faults import ConfigError
from manyheads.gradients.gramian import Gradients
from manyheads.gradients.heads import LinearHeads, Product
from manyheads.gradients.jacobian import Jacobian
from manyheads.objectives import Supervised
from manyheads.sharing import Sharing, Trace
from manyheads.tasks import Task
from manyheads.tasks.regression import Regression

Hard = Case("hard", find(Sharing, "hard"))
Small = Case("tabular", Tabular, {"d_hidden": 8})


class Apart(Trace):
    """Every head alone, whatever an objective vouches for."""

    def __setattr__(self, name, value):
        super().__setattr__(name, frozenset() if name == "beside" else value)


class Lengths(Aggregation):
    """Every gradient at one length."""

    def solve(self, problem):
        return Solution(1 / np.sqrt(problem.gram.diagonal()), 0.0)


def tasks_of(n, lone=True):
    """n of one family, two of another that lie apart, one of a third; if wished, one with a head of another kind."""
    return [
        *(find(Task, "regression")(f"r{i}") for i in range(n)),
        find(Task, "binary")("c", classes=(0, 1)),
        find(Task, "multiclass")("d", classes=(0, 1, 2)),
        find(Task, "binary")("e", classes=(0, 1)),
        *([find(Task, "ordinal")("o", classes=(0, 1, 2))] if lone else []),
    ]


def batch_of(model, tables=1, missing=0.3, n=16):
    tasks = list(model.tasks.values())
    return Batch(
        {f"t{i}": rows_for(tasks, n + i, missing, i, layout_of("tabular", i)) for i in range(tables)}
        if tables > 1
        else {"t0": rows_for(tasks, n, missing)}
    )


def as_family(rows, names):
    """The labels of these tasks as one block."""
    own = [b for b in rows.blocks if b.tasks[0] in names]
    target, known = (torch.stack([getattr(b, key) for b in own], 1) for key in ("target", "known"))
    rest = [b for b in rows.blocks if b.tasks[0] not in names]
    return Taskset(rows.inputs, (*rest, Block(tuple(names), target, known, None, True)))


def losses_of(model, batch, trace=Trace, objective=Supervised):
    torch.manual_seed(0)  # of dropout and gates
    return objective()(model, batch, trace(cut=True))


@dataclass
class Step:
    """All that one step says."""

    losses: dict[str, float]
    rows: dict[str, dict[str, torch.Tensor]]
    exact: np.ndarray
    features: np.ndarray | None
    gradients: dict[str, dict[str, torch.Tensor]]


def step(model, batch, trace, scale=1.0):
    """The gradients of single tasks, both Gramians, and what is left in `.grad` after each way of measuring."""
    names = {p: n for n, p in model.named_parameters()}
    losses = losses_of(model, batch, trace)
    order = sorted(losses)
    weights = {task: 0.4 + 0.7 * i for i, task in enumerate(order)}
    values = {task: losses[task].item() for task in order}
    grams, gradients = {}, {}
    for mode in ("exact", "features", "auto", "unmeasured"):
        losses = losses_of(model, batch, trace)
        found = Gradients({task: losses[task] for task in order}, losses.cut, scale=scale)
        try:
            grams[mode] = None if mode == "unmeasured" else found.measure(mode)
        except ConfigError:
            grams[mode] = None
            continue
        model.zero_grad()
        found.backward(weights, list(losses.aux.values()))
        gradients[mode] = {names[p]: p.grad.clone() / scale for p in names if p.grad is not None}
    losses = losses_of(model, batch, trace)
    jacobian = Jacobian(scale)
    jacobian.add(dict(losses), losses.cut)
    rows = {t: {names[p]: g.to_dense() for p, g in row.items()} for t, row in jacobian.rows().items()}
    return Step(values, rows, grams["exact"], grams["features"], gradients)


def close(one, other, tolerance=1e-10):
    return (one - other).abs().max() <= tolerance * max(other.abs().max().item(), 1e-3)


def same(one, other):
    assert one.losses == pytest.approx(other.losses, rel=1e-12)
    assert np.abs(one.exact - other.exact).max() <= 1e-10 * other.exact.max()
    assert (one.features is None) == (other.features is None)
    if other.features is not None:
        assert np.abs(one.features - other.features).max() <= 1e-10 * other.features.max()
    assert one.gradients.keys() == other.gradients.keys()
    for mode, gradients in other.gradients.items():
        assert one.gradients[mode].keys() == gradients.keys()
        assert all(close(one.gradients[mode][n], g) for n, g in gradients.items()), mode
    for task, row in other.rows.items():
        assert one.rows[task].keys() == row.keys()
        assert all(close(one.rows[task][n], g) for n, g in row.items()), task


def products_of(losses):
    return list({id(p): p for p in (losses.cut or {}).values() if isinstance(p, Product)}.values())


# -- as if each were alone


SCHEMES = catalogue(Sharing)
BRANCHES = Case("tree", find(Sharing, "tree"), {"groups": [["r0", "r1", "c", "e"], ["r2", "d", "o"]]})


def _reads_one(scheme):
    return scheme.word == "hard" or scheme.settings.get("rank") == 0


@pytest.mark.parametrize("lone", [True, False])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_scheme_is_as_if_each_were_alone(scheme, n, lone, float64):
    model = build(scheme, Small, tasks_of(n, lone), n_layers=3).double()
    batch = batch_of(model)
    same(step(model, batch, Trace), step(model, batch, Apart))
    products = products_of(losses_of(model, batch))
    assert [p.tasks for p in products] == ([(*(f"r{i}" for i in range(n)),), ("c", "e"), ("d",)] * _reads_one(scheme))


@pytest.mark.parametrize("lone", [True, False])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if _reads_one(s)], ids=str)
def test_thirty_heads_on_one_activation(scheme, missing, lone, float64):
    """Without missing labels `auto` looks at activations."""
    model = build(scheme, Small, tasks_of(30, lone), n_layers=3).double()
    batch = batch_of(model, missing=missing)
    same(step(model, batch, Trace), step(model, batch, Apart))
    losses = losses_of(model, batch)
    assert isinstance(Gradients(dict(losses), losses.cut)._heads, LinearHeads) != lone


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_several_tables(scheme, float64):
    """A task of several tables is alone; those of one table may be side by side."""
    model = build(scheme, Small, tasks_of(3), tables=2, n_layers=3).double()
    batch, names = batch_of(model, tables=2), ["r0", "r1", "r2"]
    same(step(model, batch, Trace), step(model, batch, Apart))
    disjoint = Batch({"t0": batch["t0"].only(names), "t1": batch["t1"].only(["c", "d", "e"])})
    same(step(model, disjoint, Trace), step(model, disjoint, Apart))
    some = Batch({"t0": batch["t0"].only([*names, "c", "e"]), "t1": batch["t1"].only(["c", "d"])})
    same(step(model, some, Trace), step(model, some, Apart))
    found = {task for product in products_of(losses_of(model, some)) for task in product.tasks}
    assert found == ({*names, "d", "e"} if _reads_one(scheme) else set())


def test_a_branch_is_an_activation(float64):
    """A family is as many products as there are activations that its heads read."""
    model = build(BRANCHES, Small, tasks_of(3), n_layers=3).double()
    batch = batch_of(model)
    same(step(model, batch, Trace), step(model, batch, Apart))
    found = [p.tasks for p in products_of(losses_of(model, batch))]
    assert found == [("r0", "r1"), ("r2",), ("c", "e"), ("d",)]


def test_heads_at_several_stages(float64):
    """Products at two stages, and heads of their own kind that read both."""
    tasks = [replace(t, attach=(0, 1, (0, -1), 2)[i % 4]) for i, t in enumerate(tasks_of(8))]
    model = build(Hard, Small, tasks, n_layers=3).double()
    batch = batch_of(model)
    same(step(model, batch, Trace), step(model, batch, Apart))
    assert len({id(p.shared) for p in products_of(losses_of(model, batch))}) == 3


def test_a_block_with_tasks_that_no_row_labels(float64):
    model = build(Hard, Small, tasks_of(6)).double()
    rows, names = batch_of(model)["t0"], [f"r{i}" for i in range(6)]
    whole = as_family(rows, names)
    block = whole.blocks[-1]
    block.known[:, [1, 4]] = False
    rows = Taskset(rows.inputs, tuple(b for b in rows.blocks if b.tasks[0] not in ("r1", "r4")))
    same(step(model, Batch({"t0": whole}), Trace), step(model, Batch({"t0": rows}), Apart))
    assert ("r0", "r2", "r3", "r5") in [p.tasks for p in products_of(losses_of(model, Batch({"t0": whole})))]


def test_disjoint_rows(float64):
    model = build(Hard, Small, tasks_of(6, lone=False)).double()
    names = list(model.tasks)
    known = {task: torch.arange(27) % 9 == i for i, task in enumerate(names)}
    batch = Batch({"t0": rows_for(list(model.tasks.values()), 27, **known)})
    one, other = step(model, batch, Trace), step(model, batch, Apart)
    same(one, other)
    assert one.features is None
    assert (one.exact != 0).all()


def test_a_scaler(float64):
    model = build(Hard, Small, tasks_of(3)).double()
    batch = batch_of(model)
    one, other = step(model, batch, Trace, scale=1024.0), step(model, batch, Apart)
    other.rows = {t: {n: 1024.0 * g for n, g in row.items()} for t, row in other.rows.items()}
    same(one, other)


# -- what a product cannot stand for


def _naive(losses, parameters):
    found = {}
    for task in losses:
        each = torch.autograd.grad(losses[task], parameters, retain_graph=True, allow_unused=True)
        found[task] = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, each, strict=True)]
    return found


def _one_parameter(model):
    model.heads["r1"].weight = model.heads["r0"].weight


def _tied(model):
    model.heads["m"].weight = next(p for p in model.sharing.parameters() if p.shape == (8, 8))


@pytest.mark.parametrize("how", [_one_parameter, _tied])
def test_weights_in_two_places(how, float64):
    """They are shared: measured, and weighted, through graphs of their own."""
    tasks = [*tasks_of(3), find(Task, "multiclass")("m", classes=tuple(range(8)))]
    model = build(Hard, Small, tasks, n_layers=3).double()
    how(model)
    batch = batch_of(model)
    one, other = step(model, batch, Trace), step(model, batch, Apart)
    same(one, other)
    losses = losses_of(model, batch)
    assert products_of(losses)
    found = Gradients(dict(losses), losses.cut)
    assert any(p is q for p in found.shared for q in (model.heads["r0"].weight, model.heads["m"].weight))
    parameters = list(model.parameters())
    naive = _naive(losses, parameters)
    joint = torch.stack([torch.cat([g.flatten() for g in naive[task]]) for task in losses])
    reached = (joint != 0).sum(0) > 1
    expected = (joint[:, reached] @ joint[:, reached].T).numpy()
    assert np.abs(found.measure("exact") - expected).max() <= 1e-10 * expected.max()
    weights = {task: 0.5 + 0.3 * i for i, task in enumerate(losses)}
    model.zero_grad()
    found.backward(weights)
    right = (joint * torch.tensor(list(weights.values()))[:, None]).sum(0)
    right = torch.where(reached, right, joint.sum(0))
    assert close(torch.cat([p.grad.flatten() for p in parameters]), right)


def test_features_that_somebody_names_beside_a_product(float64):
    """What is named goes before the cut."""
    model = build(Hard, Small, tasks_of(3, lone=False)).double()
    batch = batch_of(model, missing=0.0)
    weights = {task: 0.5 + 0.3 * i for i, task in enumerate(model.tasks)}
    grams, grads = [], []
    for named in (True, False):
        losses = losses_of(model, batch)
        z = products_of(losses)[0].shared
        gradients = Gradients(dict(losses), losses.cut, [z] if named else None)
        grams.append(gradients.measure("features"))
        model.zero_grad()
        gradients.backward(weights)
        grads.append([p.grad.clone() for p in model.parameters()])
    assert np.abs(grams[0] - grams[1]).max() <= 1e-12 * grams[1].max()
    assert all(close(g, h) for g, h in zip(*grads, strict=True))


@dataclass(frozen=True)
class Scaled(Regression):
    """A task with a parameter in its loss."""

    factor: Any = None

    def errors(self, output, target):
        return super().errors(output, target) * self.factor


def test_a_parameter_in_the_losses_of_a_product(float64):
    factor = nn.Parameter(torch.tensor(2.0))
    tasks = [Scaled(f"s{i}", factor=factor) for i in range(2)]
    model = build(Hard, Small, tasks).double()
    batch = Batch({"t0": rows_for([Regression(t.name) for t in tasks])})
    losses = losses_of(model, batch)
    with pytest.raises(ValueError, match=r"outputs alone. Found a parameter of shape \(\) in those of s0, s1; give"):
        Gradients(dict(losses), losses.cut)
    losses = losses_of(model, batch, Apart)
    assert Gradients(dict(losses), losses.cut).measure("exact").shape == (2, 2)


@pytest.mark.parametrize("what", ["the trunk", "a head", "the heads"])
def test_what_does_not_learn(what, float64):
    model = build(Hard, Small, tasks_of(3)).double()
    parts = {"the trunk": [model.sharing], "a head": [model.heads["r1"]], "the heads": [model.heads]}[what]
    for part in parts:
        part.requires_grad_(False)
    batch = batch_of(model)
    if what == "the trunk":  # there is nothing to measure
        grads = []
        for trace in (Trace, Apart):
            losses = losses_of(model, batch, trace)
            model.zero_grad()
            found = Gradients(dict(losses), losses.cut)
            assert found.shared == []
            found.backward(dict.fromkeys(losses, 0.3))
            grads.append([p.grad for p in model.heads.parameters()])
        assert all(close(g, h) for g, h in zip(*grads, strict=True))
    else:
        same(step(model, batch, Trace), step(model, batch, Apart))


# -- a whole step


@pytest.mark.parametrize("looking", [True, False])
def test_a_loss_that_is_not_finite(looking, float64):
    """The others go on as if it had not been there."""
    model = build(Hard, Small, tasks_of(4, lone=False)).double()
    rows = batch_of(model)["t0"]
    for block in rows.blocks:
        if block.tasks == ("r1",):
            block.target[block.known.nonzero()[0]] = torch.inf

    def look(tasks=None):
        return losses_of(model, Batch({"t0": rows if tasks is None else rows.only(tasks)}))

    kept = [task for task in model.tasks if task != "r1"]
    found = []
    for losses, more in ((look(), {"look": look} if looking else {}), (look(kept), {})):
        model.zero_grad()
        assert Lengths(gramian="exact").backward(losses, **more)
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(close(found[0][n], g) for n, g in found[1].items())


@pytest.mark.parametrize("balance", [b for b in catalogue(Balance) if b.cls.cut], ids=str)
def test_every_balance(balance, float64):
    """Three steps in two parts each, with preferences."""
    nets = []
    for trace in (Trace, Apart):
        tasks = [replace(t, weight=1.0 + i % 2) for i, t in enumerate(tasks_of(4))]
        model, arrow = build(Hard, Small, tasks).double(), balance()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for i in range(3):
            optimizer.zero_grad()
            for part in (0, 1):
                batch = Batch({"t0": rows_for(tasks, 16, 0.3, 10 * i + part)})

                def look(tasks=None, batch=batch, model=model, trace=trace):
                    return losses_of(model, batch if tasks is None else Batch({"t0": batch["t0"].only(tasks)}), trace)

                arrow.backward(look(), look, last=bool(part) or i == 0)
            optimizer.step()
            arrow.stepped()
        nets.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (nets[0] - nets[1]).abs().max() <= 1e-8


def test_half_precision():
    """Outputs of half the bits; residuals are multiplied with all of them."""
    model = build(Hard, Small, tasks_of(3))
    batch = batch_of(model)
    found = []
    for trace in (Trace, Apart):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = losses_of(model, batch, trace)
        assert bool(products_of(losses)) == (trace is Trace)
        model.zero_grad()
        assert Lengths().backward(losses)
        found.append([p.grad.clone() for p in model.parameters()])
        assert all(g.dtype == torch.float32 for g in found[-1])
    for g, h in zip(*found, strict=True):
        assert (g - h).norm() <= 0.03 * h.norm()


@pytest.mark.parametrize("task", [c for c in catalogue(Task) if c.word in KINDS], ids=str)
def test_the_errors_of_a_family_read_their_own_outputs_alone(task, rng, float64):
    """What an objective vouches for: no loss of a family reaches the output of another."""
    one, _ = fitted(task, rng)
    if one.family() is None:
        pytest.skip("it stands alone")
    output = torch.stack([output_for(one, 10) for _ in range(3)], 1).requires_grad_()
    target = torch.stack([targets_of(one, 10, i) for i in range(3)], 1)
    known = torch.rand(target.shape) < 0.8
    total, _ = one.summed(output, target, known, None, (1,))
    for k, loss in enumerate(total):
        (slope,) = torch.autograd.grad(loss, output, retain_graph=True)
        others = [i for i in range(3) if i != k]
        assert (slope[:, others] == 0).all()
        assert (slope[:, k] != 0).any()


def targets_of(task, n, seed):
    found = targets_for(task, n, seed)
    return found if found.is_floating_point() else found % max(len(getattr(task, "classes", (0, 1))), 1)
