"""Relatedness against formulas, slow loops and other libraries, and the study as a whole."""

from __future__ import annotations

import math
import sys
from copy import deepcopy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))

from cases import build, catalogue, layout_of, rows_for, small_tasks

from manyheads.affinity.cka import CKA, hsic
from manyheads.affinity.cosine import Cosine
from manyheads.affinity.lookahead import Lookahead
from manyheads.affinity.pairs import Pairs, Together
from manyheads.affinity.probe import Probe, losses_of, part_of, untouched
from manyheads.affinity.rsa import RSA
from manyheads.affinity.singles import MOST_ROWS, Singles
from manyheads.affinity.transfer import Transfer
from manyheads.copies import batchable
from manyheads.data import Batch, Block, Taskset
from manyheads.encoders import Encoder
from manyheads.objectives import Supervised
from manyheads.sharing import Sharing
from manyheads.tasks.dense import Segmentation
from manyheads.tasks.regression import Regression

TABULAR = next(c for c in catalogue(Encoder) if c.word == "tabular")
HARD = next(c for c in catalogue(Sharing) if c.word == "hard")


# -- quadratic tasks: everything is known


class _Quadratic(nn.Module):
    """All tasks share one vector: L_k = |theta - c_k|^2 / 2 as a mean squared error over its coordinates."""

    def __init__(self, theta, names):
        super().__init__()
        self.theta, self.names = nn.Parameter(theta), names

    def forward(self, x):
        scale = (len(self.theta) / 2) ** 0.5
        return dict.fromkeys(self.names, (scale * self.theta).unsqueeze(-1))


def _quadratic(centres, theta, rate=1.0):
    """A look at quadratic tasks, and their gradients."""
    names = [f"task {k}" for k in range(len(centres))]
    n = len(theta)
    blocks = tuple(
        Block((name,), c * (n / 2) ** 0.5, torch.ones(n, dtype=torch.bool))
        for name, c in zip(names, centres, strict=True)
    )
    model = _Quadratic(theta.clone(), names)
    tasks = {name: Regression(name, mean=0.0, sd=1.0) for name in names}
    probe = Probe(model, tasks, Batch({"": Taskset({"numeric": torch.zeros(n, 1)}, blocks)}), rate)
    return probe, names, theta - centres


def _array(cells, names):
    return np.array([[cells.get((a, b), math.nan) for b in names] for a in names])


@pytest.mark.parametrize("eta", [1e-3, 0.1, 1.5])
def test_lookahead_on_quadratic_tasks_is_its_closed_form(float64, eta):
    centres = torch.randn(4, 6)
    probe, names, g = _quadratic(centres, torch.randn(6), eta)
    gram = (g @ g.T).numpy()
    found = _array(Lookahead().measure(probe).cells, names)
    expected = (2 * eta * gram - eta**2 * np.diag(gram)[:, None]) / np.diag(gram)[None, :]
    assert np.abs(found - expected).max() < 1e-12
    probe, _, _ = _quadratic(centres, torch.zeros(6), 123.0)  # a step size of its own
    other = Lookahead(eta=eta).measure(probe).cells
    gram = (centres @ centres.T).numpy()
    expected = (2 * eta * gram - eta**2 * np.diag(gram)[:, None]) / np.diag(gram)[None, :]
    assert np.abs(_array(other, names) - expected).max() < 1e-12


def test_cosine_on_quadratic_tasks_is_that_of_the_gradients(float64):
    probe, names, g = _quadratic(torch.randn(4, 6), torch.randn(6))
    unit = (g / g.norm(dim=1, keepdim=True)).numpy()
    assert np.abs(_array(Cosine().measure(probe).cells, names) - unit @ unit.T).max() < 1e-12


def test_where_the_joint_model_rests_products_sum_to_zero(float64):
    centres = torch.randn(5, 4)
    probe, names, g = _quadratic(centres, centres.mean(0))
    gram = np.array([[float(probe.gradients[a]["theta"] @ probe.gradients[b]["theta"]) for b in names] for a in names])
    assert np.abs(gram.sum(1)).max() < 1e-13
    assert np.abs(gram - (g @ g.T).numpy()).max() < 1e-13
    assert gram.sum() - np.trace(gram) < 0  # so that the pairs carry as much below 0 as each has with itself above


@pytest.mark.parametrize("where", ["at zero", "at rest"])
@pytest.mark.parametrize("estimator", [Cosine(), Lookahead()], ids=["cosine", "lookahead"])
def test_two_clusters_of_centres_are_seen(float64, estimator, where):
    middle = torch.tensor([[3.0, 1.0, 0.0], [-1.0, 3.0, 1.0]]).repeat_interleave(3, 0)
    centres = middle + 0.3 * torch.randn(6, 3)
    theta = torch.zeros(3) if where == "at zero" else centres.mean(0)
    probe, names, _ = _quadratic(centres, theta, 0.05)
    found = _array(estimator.measure(probe).cells, names)
    within = [found[i, j] for i in range(6) for j in range(6) if i != j and i // 3 == j // 3]
    between = [found[i, j] for i in range(6) for j in range(6) if i // 3 != j // 3]
    assert min(within) > max(between)


def test_lookahead_is_the_gradient_product_for_small_steps(float64):
    tasks = small_tasks()
    model = build(HARD, TABULAR, tasks)
    batch, known = Batch({"t0": rows_for(tasks, 40, 0.2)}), {t.name: t for t in tasks}
    ratios = []
    for eta in (0.3, 1e-2, 1e-5):
        with untouched(model):
            probe = Probe(model, known, batch, eta)
            cells = Lookahead().measure(probe).cells
        dot = sum(float((probe.gradients["a"][n] * probe.gradients["c"][n]).sum()) for n in probe.shared)
        ratios.append(cells["a", "c"] / (eta * dot / probe.losses["c"]))
    gaps = [abs(r - 1) for r in ratios]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


# -- real nets, against plain autograd


def _by_hand(model, tasks, batch):
    """Task -> its loss, its gradients, and the parameters it reaches, by name: a graph of its own for each task."""
    losses, grads, reach = {}, {}, {}
    params = dict(model.named_parameters())
    for task in tasks:
        only = Batch({t: part.only([task.name]) for t, part in batch.items()})
        loss = Supervised(tasks)(model, only)[task.name]
        found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        losses[task.name] = loss.detach()
        reach[task.name] = {n for (n, p), g in zip(params.items(), found, strict=True) if g is not None}
        grads[task.name] = {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), found, strict=True)
        }
    return losses, grads, reach


SCHEMES = [c for c in catalogue(Sharing) if c.word in ("hard", "mmoe", "cgc", "crossstitch", "mtan", "tree", "soft")]


@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("sharing", SCHEMES, ids=str)
def test_cosines_of_each_part_are_those_of_naive_autograd(float64, sharing, tables):
    tasks = small_tasks()
    model = build(sharing, TABULAR, tasks, tables=tables)
    batch = Batch({f"t{i}": rows_for(tasks, 20, 0.3, i, layout_of("tabular", i)) for i in range(tables)})
    with untouched(model):
        probe = Probe(model, {t.name: t for t in tasks}, batch)
        reading = Cosine().measure(probe)
        _, grads, reach = _by_hand(model, tasks, batch)
    for a, b in combinations("abcd", 2):
        both = [n for n in probe.shared if n in reach[a] and n in reach[b]]
        for part, cells in {"": reading.cells, **reading.parts}.items():
            names = [n for n in both if not part or probe.places[n] == part]
            flat = [torch.cat([grads[t][n].flatten() for n in names]) if names else torch.zeros(1) for t in (a, b)]
            below = float(flat[0].norm() * flat[1].norm())
            if below == 0:
                assert (a, b) not in cells
            else:
                assert cells[a, b] == pytest.approx(float(flat[0] @ flat[1]) / below, abs=1e-10)


@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("sharing", SCHEMES, ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_lookahead_equals_a_copy_that_takes_the_step(float64, sharing, tables, batched, monkeypatch):
    tasks = small_tasks()
    model = build(sharing, TABULAR, tasks, tables=tables)
    batch = Batch({f"t{i}": rows_for(tasks, 20, 0.3, i, layout_of("tabular", i)) for i in range(tables)})
    if not batched:
        monkeypatch.setattr("manyheads.affinity.probe.batchable", lambda model: False)
    rates = {p: 0.01 if "stages.1" in n else 0.03 for n, p in model.named_parameters()}
    with untouched(model):
        probe = Probe(model, {t.name: t for t in tasks}, batch, rates)
        cells = Lookahead().measure(probe).cells
        before, grads, reach = _by_hand(model, tasks, batch)
    count = {n: sum(n in own for own in reach.values()) for n in _by_name(model, rates)}
    for source in "abcd":
        moved = deepcopy(model).eval()
        with torch.no_grad():
            for name, p in moved.named_parameters():
                if count[name] > 1 and name in reach[source]:
                    p -= _by_name(model, rates)[name] * grads[source][name]
        after, _, _ = _by_hand(moved, tasks, batch)
        for target in "abcd":
            expected = 1 - float(after[target]) / float(before[target])
            if reach[source] & reach[target] & {n for n, k in count.items() if k > 1}:
                assert cells[source, target] == pytest.approx(expected, abs=1e-10)
            else:
                assert (source, target) not in cells


def _by_name(model, rates):
    return {n: rates[p] for n, p in model.named_parameters()}


def test_losses_of_are_the_supervised_ones(float64):
    tasks = small_tasks()
    model = build(HARD, TABULAR, tasks).eval()
    batch = Batch({"t0": rows_for(tasks, 40, 0.3)})
    with torch.no_grad():
        found, expected = losses_of(model, {t.name: t for t in tasks}, batch), Supervised()(model, batch)
    assert {t: float(v) for t, v in found.items()} == pytest.approx({t: float(v) for t, v in expected.items()})


def test_a_net_that_torch_cannot_batch_is_looked_at_in_turn(float64):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(3, 5, batch_first=True)
            self.heads = nn.ModuleDict({"a": nn.Linear(5, 1), "b": nn.Linear(5, 1)})

        def forward(self, x):
            z = self.cell(x["numeric"].unsqueeze(1))[0][:, -1]
            return {name: head(z) for name, head in self.heads.items()}

    model, tasks = Recurrent(), small_tasks()[:2]
    assert not batchable(model)
    batch = Batch({"": rows_for(tasks, 20, 0.0)})
    with untouched(model):
        cells = Lookahead(eta=0.01).measure(Probe(model, {t.name: t for t in tasks}, batch)).cells
        before, grads, _ = _by_hand(model, tasks, batch)
        moved = deepcopy(model)
        with torch.no_grad():
            for name, p in moved.cell.named_parameters():
                p -= 0.01 * grads["a"][f"cell.{name}"]
        after, _, _ = _by_hand(moved, tasks, batch)
    assert cells["a", "b"] == pytest.approx(1 - float(after["b"]) / float(before["b"]), abs=1e-12)


def test_parts_have_names_that_people_know():
    assert part_of("/sharing/encoder/stages/1/linear") == "encoder, stage 1"
    assert part_of("/sharing/encoder/stages/0") == "encoder, stage 0"
    assert part_of("/sharing/gate") == "gate"
    assert part_of("") == ""


# -- representations


class _Fixed(nn.Module):
    """A trained model of one task, as far as it is looked at: features of the inputs."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def transform(self, x, table=None, task=None):
        return torch.tanh(x["numeric"]) @ self.matrix


def _seen(matrices, n=60, labels=None, held=60, tables=None):
    """Models of fixed features over the same rows."""
    d = next(iter(matrices.values())).shape[0]
    tasks = {name: Regression(name, mean=0.0, sd=1.0) for name in matrices}

    def rows(count, seed):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(count, d, generator=g)
        z = torch.tanh(x)
        made = {t: labels(t, z) if labels else torch.randn(count, generator=g) for t in matrices}
        blocks = tuple(Block((t,), y, torch.ones(count, dtype=torch.bool)) for t, y in made.items())
        return Taskset({"numeric": x}, blocks)

    of = tables or dict.fromkeys(matrices, ("t",))
    names = sorted({t for own in of.values() for t in own})
    train, kept = ({t: rows(k, s + i) for i, t in enumerate(names)} for k, s in ((n, 0), (held, 50)))
    return Singles({t: _Fixed(m) for t, m in matrices.items()}, tasks, train, kept, of)


@pytest.mark.parametrize("estimator", [RSA(), CKA()], ids=["rsa", "cka"])
def test_representations_are_compared_up_to_rotation_and_scale(float64, estimator):
    one, other = torch.randn(5, 5), torch.randn(5, 5)
    turn = torch.linalg.qr(torch.randn(5, 5)).Q
    cells = estimator.measure(_seen({"a": one, "b": one @ turn, "c": 7 * one @ turn, "d": other})).cells
    assert cells["a", "b"] == pytest.approx(1, abs=1e-12)
    assert cells["a", "c"] == pytest.approx(1, abs=1e-12)
    assert cells["a", "d"] == pytest.approx(cells["c", "d"], abs=1e-12)
    assert cells["a", "d"] < 0.99


def test_rsa_is_spearmans_rho_of_distances(float64):
    a, b = torch.randn(5, 5), torch.randn(5, 5)
    seen = _seen({"a": a, "b": b}, held=20)
    z = [torch.tanh(seen.held["t"].inputs["numeric"]) @ m for m in (a, b)]
    distances = [[float((x[i] - x[j]).norm()) for i in range(20) for j in range(i)] for x in z]
    assert RSA().measure(seen).cells["a", "b"] == pytest.approx(stats.spearmanr(*distances).statistic, abs=1e-12)


def _hsic_loops(k, m):
    """The unbiased estimate from its definition: means over tuples of distinct rows."""
    n = len(k)
    two = np.mean([k[i, j] * m[i, j] for i in range(n) for j in range(n) if i != j])
    three = np.mean([k[i, j] * m[i, q] for i in range(n) for j in range(n) for q in range(n) if len({i, j, q}) == 3])
    four = np.mean([
        k[i, j] * m[q, r]
        for i in range(n) for j in range(n) for q in range(n) for r in range(n) if len({i, j, q, r}) == 4
    ])  # fmt: skip
    return two + four - 2 * three


def test_the_independence_criterion_is_its_mean_over_distinct_rows(rng):
    z, w = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    kernels = [x @ x.T for x in (z, w)]
    expected = _hsic_loops(*kernels)
    for k in kernels:
        np.fill_diagonal(k, 0.0)
    assert hsic(*kernels) == pytest.approx(expected, abs=1e-12)


def test_cka_of_unrelated_wide_features_is_near_zero(float64):
    """The plain estimate is near 1 there: more features than rows."""
    found, plain = [], []
    for seed in range(20):
        torch.manual_seed(seed)
        z = {name: torch.randn(30, 300) for name in ("a", "b")}
        models = {name: _Table(value) for name, value in z.items()}
        rows = Taskset({"numeric": torch.arange(30).unsqueeze(1).double()}, ())
        seen = Singles(models, {}, {"t": rows}, {"t": rows}, dict.fromkeys(models, ("t",)))
        found.append(CKA().measure(seen).cells["a", "b"])
        k, m = (x - x.mean(0) for x in z.values())
        plain.append(float((k.T @ m).norm() ** 2 / ((k.T @ k).norm() * (m.T @ m).norm())))
    assert abs(np.mean(found)) < 0.02
    assert np.mean(plain) > 0.8


class _Table(nn.Module):
    """Features given row by row."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def transform(self, x, table=None, task=None):
        return self.values[x["numeric"][:, 0].long()]


def test_features_that_tell_nothing_apart_have_a_reason(float64):
    for estimator in (RSA(), CKA()):
        reading = estimator.measure(_seen({"a": torch.randn(4, 3), "b": torch.zeros(4, 3)}))
        assert reading.cells.keys() == {("a", "a")}
        assert reading.missing["a", "b"] == "A model told none of the common rows apart."


def test_models_of_tables_that_differ_are_not_compared(float64):
    matrices = {name: torch.randn(4, 3) for name in "abc"}
    seen = _seen(matrices, tables={"a": ("t",), "b": ("u",), "c": ("t", "u")})
    for estimator in (RSA(), CKA(), Transfer()):
        reading = estimator.measure(seen)
        assert reading.missing["a", "b"] == "The two have no table of the same feature columns in common."
        assert ("a", "c") in reading.cells
        assert ("c", "b") in reading.cells


def test_many_rows_are_thinned_the_same_way_for_all(float64):
    seen = _seen({"a": torch.eye(3), "b": torch.eye(3)}, held=MOST_ROWS + 500)
    z = [seen.stages(name, "t")[-1] for name in "ab"]
    assert z[0].shape == (MOST_ROWS, 3)
    assert torch.equal(*z)


def test_transfer_is_the_skill_of_a_linear_head(float64):
    """Task a is in a's features and half of it in b's: 1 and about one half, and the other way round."""
    matrices = {"a": torch.eye(4)[:, :2], "b": torch.eye(4)[:, 1:3]}
    own = {"a": torch.tensor([1.0, 1.0, 0, 0]), "b": torch.tensor([0, 1.0, 1.0, 0])}
    reading = Transfer().measure(_seen(matrices, 800, lambda t, z: z @ own[t], 800))
    assert reading.cells["a", "a"] == pytest.approx(1, abs=1e-4)
    for pair in (("a", "b"), ("b", "a")):
        assert reading.cells[pair] == pytest.approx(-0.5, abs=0.06)
    twin = Transfer().measure(_seen({"a": torch.eye(4), "b": 3 * torch.eye(4)}, 80))
    assert twin.cells["a", "b"] == pytest.approx(0, abs=1e-6)


def test_transfer_of_what_no_linear_head_predicts_has_a_reason():
    seen = _seen({"a": torch.eye(3), "b": torch.eye(3)})
    seen.tasks["b"] = Segmentation("b", size=(6, 8))
    reading = Transfer().measure(seen)
    assert reading.missing["a", "b"] == "No linear head predicts a task of the type segmentation."
    assert ("b", "a") in reading.cells


# -- pairs


def test_pairs_are_signed_changes_of_the_target():
    seen = Together(
        {"a": 0.5, "b": 2.0, "c": None},
        {("a", "b"): 0.6, ("b", "a"): 1.5, ("a", "c"): 0.4, ("c", "a"): 0.1, ("b", "c"): 3.0, ("c", "b"): 0.1},
        {"a": None, "b": 4.0, "c": None},
        {"a": True, "b": False, "c": True},
    )
    reading = Pairs().measure(seen)
    assert reading.cells == pytest.approx(
        {("b", "a"): 0.1, ("c", "a"): -0.1, ("a", "b"): 0.5 / 4, ("c", "b"): -1.0 / 4}
    )
    assert set(reading.missing) == {("a", "c"), ("b", "c")}
