"""From losses to every `.grad`, as training asks for it: sharing schemes, steps in parts, scales, halves, states."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))
from cases import build, five_tasks, layout_of, rows_for
from pairs import pairs

from manyheads.balance import Losses
from manyheads.balance.aggregation import Aggregation, Solution
from manyheads.data import Batch
from manyheads.gradients.gramian import Gradients
from manyheads.objectives import Supervised
from manyheads.sharing import Trace


class Given(Aggregation):
    """Weights that somebody says, whatever the gradients."""

    def __init__(self, weights=None, **how):
        super().__init__(**how)
        self.given = weights or {}

    def solve(self, problem):
        return Solution(np.array([self.given.get(task, 1.0) for task in problem.tasks]), 0.0)


class Lengths(Aggregation):
    """Every gradient at one length, that of a moving mean."""

    def solve(self, problem):
        weights = []
        for task, norm in zip(problem.tasks, np.sqrt(problem.gram.diagonal()).tolist(), strict=True):
            kept = self.state.setdefault(task, {"norm": norm})
            kept["norm"] = 0.5 * kept["norm"] + 0.5 * norm
            weights.append(1 / kept["norm"])
        return Solution(np.array(weights), 0.0)


# -- every sharing scheme


def _batch(model, encoder, tables):
    tasks = list(model.tasks.values())
    return Batch(
        {f"t{i}": rows_for(tasks, 14 + i, 0.3, i, layout_of(encoder.word, i)) for i in range(tables)}
        if tables > 1
        else {"t0": rows_for(tasks, 16, 0.3, layout=layout_of(encoder.word))}
    )


def _plain(losses, parameters):
    """task -> parameter -> gradient, of those that it reaches; one backward pass per task."""
    found = {}
    for task in losses:
        g = torch.autograd.grad(losses[task], parameters, retain_graph=True, allow_unused=True)
        found[task] = {p: a for p, a in zip(parameters, g, strict=True) if a is not None and a.any()}
    return found


@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("pair", pairs())
def test_every_scheme_is_plain_autograd(pair, tables, float64):
    """Shared parameters get sum w_k g_k, own ones g_k, auxiliary losses and penalties are added as they are."""
    scheme, encoder = pair
    model = build(scheme, encoder, five_tasks(), tables=tables).double()
    batch = _batch(model, encoder, tables)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step():
        torch.manual_seed(0)  # of dropout
        losses = Supervised()(model, batch, Trace(cut=True))
        losses.add(sum(p.square().sum() for p in parameters) * 0.01)
        return losses

    losses = step()
    plain = _plain(losses, parameters)
    uses = {p: [task for task in plain if p in plain[task]] for p in parameters}
    shared = [p for p in parameters if len(uses[p]) > 1]
    aux = torch.autograd.grad(sum(losses.aux.values()), parameters, allow_unused=True)
    weights = {task: 0.4 + 0.7 * i for i, task in enumerate(losses)}

    losses = step()
    gradients = Gradients({t: losses[t] for t in losses}, losses.cut)
    if shared:
        rows = [torch.cat([row.get(p, torch.zeros_like(p)).flatten() for p in shared]) for row in plain.values()]
        jacobian = torch.stack(rows)
        expected = (jacobian @ jacobian.T).numpy()
        assert np.abs(gradients.measure("exact") - expected).max() <= 1e-10 * expected.max()

    model.zero_grad()
    balance = Given(weights, gramian="exact")
    assert balance.backward(step())
    given = balance.last_weights
    if shared:
        assert given == pytest.approx(dict(zip(weights, np.array(list(weights.values())), strict=True)))
    for p, extra in zip(parameters, aux, strict=True):
        found = [plain[task][p] * (given[task] if len(uses[p]) > 1 else 1) for task in uses[p]]
        right = sum([*found, *([] if extra is None else [extra])])
        assert torch.allclose(p.grad, right, rtol=1e-9, atol=1e-12 + 1e-10 * right.abs().max().item())


# -- a small world of one trunk, with labels that are missing


class World:
    """A net, rows, which of them each task knows, and losses of some of the rows."""

    def __init__(self, tasks=("a", "b", "c"), rows=32, seed=0):
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in tasks})
        self.x = torch.randn(rows, 5)
        self.known = {task: torch.rand(rows) < 0.7 for task in tasks}

    def parameters(self):
        return [*self.trunk.parameters(), *self.heads.parameters()]

    def losses(self, part=slice(None), tasks=None):
        """Sums over the rows of a part, divided by all labels: over parts they add up to the mean."""
        z = self.trunk(self.x[part])
        found = {}
        for i, task in enumerate(self.heads):
            known = self.known[task][part]
            if known.any() and (tasks is None or task in tasks):
                error = (self.heads[task](z).squeeze(1) - (i + 1) * self.x[part, i]).square()
                found[task] = error[known].sum() / self.known[task].sum()
        return found

    def take(self):
        """The gradients that are there, and none afterwards."""
        found = [None if p.grad is None else p.grad.clone() for p in self.parameters()]
        for p in self.parameters():
            p.grad = None
        return found

    def step(self, lr=0.1):
        with torch.no_grad():
            for p, g in zip(self.parameters(), self.take(), strict=True):
                if g is not None:
                    p -= lr * g


def _same(one, other, tolerance):
    for g, h in zip(one, other, strict=True):
        assert (g is None) == (h is None)
        if g is not None:
            assert (g - h).abs().max() <= tolerance * h.abs().max()


PARTS = [slice(0, 9), slice(9, 12), slice(12, 32)]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("layout", ["all in each", "one in a single part", "the last part is empty"])
def test_parts_of_a_step_are_the_whole(layout, scale, float64):
    world, one, other = World(), Lengths(gramian="exact"), Lengths()
    parts = PARTS
    if layout == "one in a single part":
        world.known["b"] &= torch.arange(32) < 9
    for _ in range(3):
        assert one.backward(world.losses())
        whole = world.take()
        for part in parts:
            last = part is parts[-1] and layout != "the last part is empty"
            assert other.backward(world.losses(part), last=last, scale=scale)
        if layout == "the last part is empty":
            other.backward({}, last=True, scale=scale)
        got = [None if g is None else g / scale for g in world.take()]
        _same(got, whole, 1e-10)
        assert other.last_weights == pytest.approx(one.last_weights, rel=1e-10)
        for task in one.state:
            assert other.state[task] == pytest.approx(one.state[task], rel=1e-10)
        for p, g in zip(world.parameters(), whole, strict=True):
            p.data -= 0.1 * g


def test_parts_with_auxiliary_losses_and_preferences(float64):
    world, one, other = World(), Given({"a": 2.0, "b": 0.5}, gramian="exact"), Given({"a": 2.0, "b": 0.5})

    def of(part, share):
        found = world.losses(part)
        penalty = sum(p.square().sum() for p in world.parameters()) * share
        return Losses(
            tuple(found), torch.stack(list(found.values())), apart=found, aux={"": penalty}, weight={"a": 3.0}
        )

    one.backward(of(slice(None), 1.0))
    whole = world.take()
    for i, part in enumerate(PARTS):
        other.backward(of(part, 1 / 3), last=i == 2)
    _same(world.take(), whole, 1e-10)
    assert other.last_weights == pytest.approx(one.last_weights)


@pytest.mark.parametrize("way", ["features", "exact"])
@pytest.mark.parametrize("scale", [2.0**-10, 2.0**16])
def test_a_scale_scales_and_nothing_else(scale, way, float64):
    world = World()
    for task in world.known:
        world.known[task][:] = True
    one, other = Lengths(gramian=way), Lengths(gramian=way)
    for _ in range(3):
        for balance, factor in ((one, 1.0), (other, scale)):
            z = world.trunk(world.x)
            losses = {
                t: (head(z).squeeze(1) - (i + 1) * world.x[:, i]).square().mean()
                for i, (t, head) in enumerate(world.heads.items())
            }
            assert balance.backward(losses, scale=factor, features=z)
            if balance is one:
                plain = world.take()
        _same([g / scale for g in world.take()], plain, 1e-10)
        assert other.state_dict() == one.state_dict()


def test_gradients_are_added_to_those_that_are_there(float64):
    world = World()
    assert Given().backward(world.losses())
    once = world.take()
    for last in (True, False):
        for p in world.parameters():
            p.grad = torch.ones_like(p)
        balance = Given()
        assert balance.backward(world.losses(), last=last)
        balance.backward({}, last=True)
        _same([g - 1 for g in world.take()], once, 1e-10)


# -- what is not finite


def _steep(world, task="b"):
    """Losses of which one is finite, and its gradient is not: a root at 0."""
    losses = world.losses()
    losses[task] = (losses[task] * 0).sqrt() + 1
    return losses


@pytest.mark.parametrize("last", [True, False])
def test_an_infinite_gradient_of_a_finite_loss_is_dropped(last, float64):
    world, one, other = World(), Lengths(gramian="exact"), Lengths(gramian="exact")
    assert torch.isfinite(torch.stack(list(_steep(world).values()))).all()
    assert one.backward(_steep(world), last=last)
    one.backward({}, last=True)
    got = world.take()
    assert other.backward(world.losses(tasks=("a", "c")))
    _same(got, world.take(), 1e-10)
    assert all(
        g is None for p, g in zip(world.parameters(), got, strict=True) if p in set(world.heads["b"].parameters())
    )
    assert one.dropped == {"b": 1}
    assert set(one.state) == set(one.last_weights) == {"a", "c"}


def test_all_gradients_infinite_is_a_skipped_step(float64):
    world, balance = World(), Lengths()
    losses = {task: (loss * 0).sqrt() for task, loss in world.losses().items()}
    assert not balance.backward(losses)
    assert all(g is None for g in world.take())
    assert balance.state == {}
    assert balance.dropped == {"a": 1, "b": 1, "c": 1}


def test_under_a_scale_an_infinite_gradient_is_for_the_scaler_to_see(float64):
    world, balance = World(), Lengths()
    assert balance.backward(world.losses(), scale=8.0)
    world.take()
    before = pickle.dumps([balance.state, balance.last_weights])
    assert not balance.backward(_steep(world), scale=8.0)
    assert pickle.dumps([balance.state, balance.last_weights]) == before
    assert any(not torch.isfinite(g).all() for g in world.take() if g is not None)


def test_under_a_scale_an_infinite_gradient_in_a_part_is_for_the_scaler_to_see(float64):
    world, balance = World(), Lengths()
    balance.backward(world.losses(), last=False, scale=8.0)
    assert not balance.backward(_steep(world), scale=8.0)
    assert balance.state == {}
    assert any(not torch.isfinite(g).all() for g in world.take() if g is not None)


# -- weights that are kept for some steps


class Counting(Lengths):
    """Counts the solutions of whole tasks."""

    def __init__(self, **how):
        super().__init__(**how)
        self.solved = []

    def solve(self, problem):
        if "a" in problem.tasks:
            self.solved.append(problem.tasks)
        return super().solve(problem)


@pytest.mark.parametrize("every", [1, 3])
def test_weights_are_renewed_each_so_many_steps(every, float64, monkeypatch):
    measured = []
    measure = Gradients.measure
    monkeypatch.setattr(Gradients, "measure", lambda self, mode: measured.append(1) or measure(self, mode))
    world, balance, weights = World(), Counting(every=every), []
    for _ in range(7):
        assert balance.backward(world.losses())
        weights.append(dict(balance.last_weights))
        world.step()
    renewed = [i for i in range(7) if i % every == 0]
    assert len(balance.solved) == len(measured) == len(renewed)
    for i in range(1, 7):
        assert (weights[i] == weights[i - 1]) == (i not in renewed)


def test_between_renewals_the_update_has_the_kept_weights(float64):
    world, balance = World(), Lengths(every=4)
    balance.backward(world.losses())
    kept = dict(balance.last_weights)
    world.step()
    balance.backward(world.losses())
    got = world.take()
    plain = _plain(world.losses(), world.parameters())
    for p, g in zip(world.parameters(), got, strict=True):
        rows = {task: row[p] for task, row in plain.items() if p in row}
        right = sum(kept[t] * h for t, h in rows.items()) if len(rows) > 1 else next(iter(rows.values()))
        assert torch.allclose(g, right, rtol=1e-10)


def test_a_task_without_kept_weights_has_them_renewed(float64):
    world, balance = World(), Counting(every=100)
    for tasks in (("a", "b"), ("a", "b"), ("a", "b", "c"), ("a", "b", "c"), ("a", "c")):
        balance.backward(world.losses(tasks=tasks))
    assert balance.solved == [("a", "b"), ("a", "b", "c")]


@pytest.mark.parametrize("every", [1, 3])
def test_state_round_trips_mid_run(every, float64):
    straight, first, fresh = (Lengths(every=every) for _ in range(3))
    one, other = World(), World()
    for i in range(8):
        straight.backward(one.losses())
        one.step()
        if i == 4:
            fresh.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        (first if i < 4 else fresh).backward(other.losses())
        other.step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert fresh.state_dict() == straight.state_dict()


# -- numbers of fewer digits, compiled trunks


def _flat(gradients):
    return torch.cat([g.double().flatten() for g in gradients if g is not None])


@pytest.mark.parametrize("way", ["auto", "exact"])
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05), ("float16", 0.01), ("all bfloat16", 0.1)]
)
def test_fewer_digits_stay_close(kind, tolerance, way, float64):
    world = World()
    exact = Lengths(gramian=way)
    assert exact.backward(world.losses())
    right = _flat(world.take())
    world.trunk.float()
    world.heads.float()
    world.x = world.x.float()
    if kind == "all bfloat16":
        world.trunk.bfloat16()
        world.heads.bfloat16()
        world.x = world.x.bfloat16()
    balance = Lengths(gramian=way)
    with torch.autocast("cpu", getattr(torch, kind.split()[-1]), enabled=kind in ("bfloat16", "float16")):
        losses = world.losses()
    assert balance.backward({task: loss.float() for task, loss in losses.items()})
    got = _flat(world.take())
    assert (got - right).norm() <= tolerance * right.norm()
    assert balance.last_weights == pytest.approx(exact.last_weights, rel=10 * tolerance)


def test_with_a_gradscaler():
    """As many steps as without one, to half precision; an overflow is skipped and the scale goes down."""
    nets = []
    for half in (False, True):
        world, balance = World(), Lengths()
        scaler = torch.amp.GradScaler("cpu", enabled=half, init_scale=2.0**30)
        optimiser = torch.optim.SGD(world.parameters(), 0.05)
        moved = 0
        while moved < 5:
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                losses = {task: loss.float() for task, loss in world.losses().items()}
            scaler.scale(torch.zeros(()))  # makes the scale known
            before = scaler.get_scale()
            balance.backward(losses, scale=before)
            scaler.step(optimiser)
            scaler.update()
            moved += scaler.get_scale() == before
        assert not half or scaler.get_scale() < 2.0**30
        nets.append(world)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert (p - q).abs().max() < 0.01


@pytest.fixture
def compiler():
    """Compiled graphs without code that is compiled for the machine."""
    pytest.importorskip("torch._dynamo")
    torch._dynamo.reset()
    yield lambda module: torch.compile(module, backend="aot_eager")
    torch._dynamo.reset()


def test_a_compiled_trunk(compiler):
    world = World()
    z = world.trunk(world.x)
    assert Lengths(gramian="features").backward(_of(world, z), features=z)
    right = world.take()
    plain, world.trunk = world.trunk, compiler(world.trunk)
    z = world.trunk(world.x)
    assert Lengths(gramian="features").backward(_of(world, z), features=z)
    world.trunk = plain
    _same(world.take(), right, 1e-5)


def test_the_exact_gramian_of_a_compiled_trunk(compiler, monkeypatch):
    """It goes through the trunk several times, for which torch may ask for a setting by name."""
    import torch._functorch.config as settings

    world = World()
    assert Lengths(gramian="exact").backward(world.losses())
    right, plain = world.take(), world.trunk
    for donated in (True, False):
        monkeypatch.setattr(settings, "donated_buffer", donated)
        torch._dynamo.reset()
        world.trunk = compiler(plain)
        refused = ""
        try:
            Lengths(gramian="exact").backward(world.losses())
        except RuntimeError as error:
            refused = str(error)
        world.trunk = plain
        if refused:
            assert donated
            assert "donated_buffer=False" in refused
            world.take()
        else:
            _same(world.take(), right, 1e-5)


def _of(world, z):
    return {
        t: (head(z).squeeze(1) - (i + 1) * world.x[:, i]).square().mean()
        for i, (t, head) in enumerate(world.heads.items())
    }


# -- what a step leaves behind


def test_losses_can_be_used_afterwards(float64):
    """A look at the numbers, and a copy of the net, are possible; nothing hangs on the graph."""
    world, balance = World(), Lengths()
    losses = world.losses()
    balance.backward(losses)
    assert all(loss.item() > 0 for loss in losses.values())
    assert all(p.grad.grad_fn is None and not p.grad.requires_grad for p in world.parameters())
    copy.deepcopy(world.trunk)
    copy.deepcopy(balance)


def test_a_penalty_on_the_gradient_in_a_loss(float64):
    """Losses with a graph of gradients in them, and inputs that are leaves: the inputs are no parameters."""
    world = World()

    def losses():
        x = world.x.clone().requires_grad_()
        z = world.trunk(x)
        a, b = (world.heads[t](z) for t in "ab")
        slope = torch.autograd.grad(b.sum(), x, create_graph=True)[0]
        return {"a": a.square().mean(), "b": b.mean().square() + slope.square().mean()}

    balance = Lengths(gramian="exact")
    balance.backward(losses())
    plain = _plain(losses(), [*world.trunk.parameters(), *world.heads["b"].parameters()])
    norms = {t: torch.cat([row[p].flatten() for p in plain["a"]]).norm().item() for t, row in plain.items()}
    assert balance.last_weights == pytest.approx({t: 1 / n for t, n in norms.items()}, rel=1e-9)
