"""Penalties against formulas written out, slow solvers and the classical linear models of multi-task learning."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Lasso, MultiTaskLasso

from manyheads.data import Batch, Block, Taskset
from manyheads.encoders.tabular import Linear
from manyheads.faults import ConfigError
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.penalised import Penalised
from manyheads.penalties.l1 import L1, PairwiseL1
from manyheads.penalties.l2 import L2, L2SP, Graph, Mean, Pairwise, Successive
from manyheads.penalties.l21 import L21, LInf1
from manyheads.penalties.orthogonal import Orthogonal
from manyheads.penalties.split import Dirty, Outlier, Robust
from manyheads.penalties.trace import Trace
from manyheads.sharing.hard import Hard
from manyheads.tasks.classification import Multiclass
from manyheads.tasks.regression import Regression

pytestmark = pytest.mark.usefixtures("float64")


# -- identities


def test_pairwise_is_the_double_loop():
    w = torch.randn(7, 3, 4)
    pairs = list(itertools.combinations(w, 2))
    assert float(Pairwise().loss(w)) == pytest.approx(float(sum((a - b).square().sum() for a, b in pairs)), rel=1e-12)
    assert float(Pairwise().loss(w)) == pytest.approx(7 * float(Mean().value(w - w.mean(0))), rel=1e-12)
    assert PairwiseL1().value(w) == pytest.approx(float(sum((a - b).abs().sum() for a, b in pairs)), rel=1e-12)
    v = w.clone().requires_grad_()
    Pairwise().loss(v).backward()
    torch.testing.assert_close(v.grad, 2 * 7 * (w - w.mean(0)))


def test_what_weights_have_in_common_does_not_cancel():
    """In float32 an offset of 1e4 would drown K sum ||W_k||^2 - ||sum W_k||^2."""
    w = torch.randn(5, 200)
    far = (w + 1e4).float()
    near = far.double() - 1e4
    for penalty in (Pairwise(), PairwiseL1(), Graph()):
        assert float(penalty.loss(far)) == pytest.approx(float(penalty.loss(near)), rel=1e-4)


def test_edges_of_a_graph():
    w, tasks = torch.randn(4, 3, 2), ("a", "b", "c", "d")
    edges = [("a", "c", 2.0), ("c", "d"), ("b", "a", 0.5)]
    graph = Graph(edges=edges).among(tasks, tasks)
    by_hand = 2 * (w[0] - w[2]).square().sum() + (w[2] - w[3]).square().sum() + 0.5 * (w[0] - w[1]).square().sum()
    assert graph.value(w) == pytest.approx(float(by_hand), rel=1e-12)
    flat = w.flatten(1)
    assert graph.value(w) == pytest.approx(float((flat.T @ graph.laplacian(4) @ flat).trace()), rel=1e-12)
    assert Graph().value(w) == pytest.approx(float((w[1:] - w[:-1]).square().sum()), rel=1e-12)
    every = Graph(edges=list(itertools.combinations(tasks, 2))).among(tasks, tasks)
    assert every.value(w) == pytest.approx(float(Pairwise().value(w - w.mean(0))), rel=1e-12)
    torch.testing.assert_close(every.prox(w, 0.3), Pairwise().shrunk(w, 0.3))
    for wrong in ([("a", "a")], [("a",)], [("a", "b", -1.0)], {"a-b": 1.0}):
        with pytest.raises(ValueError, match=r"\[task, other task"):
            Graph(edges=wrong)
    with pytest.raises(ConfigError, match="Did you mean `a`"):
        Graph(edges=[("A", "b")]).among(tasks, tasks)


def test_a_common_part_with_a_price_is_the_mean_form():
    """Evgeniou and Pontil: min over w_0 of l2 ||w_0||^2 + l1 sum ||w_k - w_0||^2."""
    w, l1, l2, n = torch.randn(6, 9), 0.7, 0.3, 6
    common = n * l1 * w.mean(0) / (l2 + n * l1)
    least = l2 * common.square().sum() + l1 * (w - common).square().sum()
    mean_form = n * l1 * l2 / (l2 + n * l1) * w.mean(0).square().sum() + Mean(l1).loss(w)
    assert float(least) == pytest.approx(float(mean_form), rel=1e-12)
    free = l1 * (w - w.mean(0)).square().sum()
    assert float(Mean(l1).loss(w)) == pytest.approx(float(free), rel=1e-12)


@pytest.mark.parametrize("penalty", [Mean, Pairwise, PairwiseL1, Graph])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_infinite_strength_makes_all_tasks_one(penalty, dtype):
    w = torch.randn(5, 3, 4).to(dtype)
    new = penalty(1e6).shrunk(w, 1.0)
    torch.testing.assert_close(new, w.mean(0, keepdim=True).expand_as(w), rtol=0, atol=2e-5)
    alike = w[:1].expand(5, 3, 4)
    torch.testing.assert_close(penalty(1e6).shrunk(alike, 1.0), alike, rtol=0, atol=2e-6)


def test_tasks_agree_exactly():
    w = torch.tensor([0.0, 0.1, 1.0, 5.0]).reshape(4, 1, 1)
    assert PairwiseL1().prox(w, 0.1).flatten().tolist() == pytest.approx([0.25, 0.25, 0.9, 4.7])
    assert len(set(PairwiseL1().prox(w, 10.0).flatten().tolist())) == 1


def test_many_tasks_in_little_memory():
    w = torch.randn(139, 64, 4)
    new = PairwiseL1().prox(w, 0.002)
    value = torch.randn(139, 1, 1).sort(0)[0]
    assert (new.sort(0)[0].diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(new.mean(0), w.mean(0))
    s, i = value.flatten(), torch.arange(139)
    torch.testing.assert_close(PairwiseL1().prox(value, 1e-6).flatten(), s - 1e-6 * (2 * i - 138), atol=1e-4, rtol=0)


def test_singular_values_are_thresholded():
    """The certificate of the step: G = (W - S) / t has <G, S> = ||S||_* and ||G||_2 <= 1."""
    w = torch.randn(6, 2, 5)
    s = Trace().prox(w, 0.8)
    g = (w - s).flatten(1) / 0.8
    assert float((g * s.flatten(1)).sum()) == pytest.approx(float(Trace().value(s)), rel=1e-12)
    assert float(torch.linalg.matrix_norm(g, 2)) <= 1 + 1e-12
    assert float(Trace().value(w[:1])) == pytest.approx(float(torch.linalg.svdvals(w[0]).sum()), rel=1e-12)


def test_groups():
    w = torch.arange(12.0).reshape(2, 3, 2) + 1
    lengths = {
        "input": [w[:, :, j].norm() for j in range(2)],
        "output": [w[:, i].norm() for i in range(3)],
        "task": [w[k].norm() for k in range(2)],
        "entry": [w[:, i, j].norm() for i in range(3) for j in range(2)],
    }
    for groups, own in lengths.items():
        assert L21(groups=groups).value(w) == pytest.approx(float(sum(own)), rel=1e-12)
    assert LInf1(groups="input").value(w) == 11 + 12
    assert LInf1(groups="task").value(w) == 6 + 12
    with pytest.raises(ValueError, match="`groups` should be one of task, output, input, entry"):
        L21(groups="inputs")


def test_starts():
    w, start = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    assert float(L2SP(0.4).loss(w, start)) == pytest.approx(0.2 * float((w - start).square().sum()), rel=1e-12)
    torch.testing.assert_close(L2SP(0.4).shrunk(w, 0.5, start), start + (w - start) / 1.2)
    torch.testing.assert_close(Successive(0.4).shrunk(w, 0.5, start), start + (w - start) / 1.4)
    assert torch.equal(Successive().new_epoch(w, start), w)
    assert torch.equal(L2SP().new_epoch(w, start), start)


def test_orthogonal():
    shared, private = torch.randn(20, 4), torch.randn(20, 4)
    zs, zp = (z - z.mean(0) for z in (shared, private))
    zs, zp = (z / z.norm(dim=1, keepdim=True) for z in (zs, zp))
    by_hand = sum(float(zs[:, i] @ zp[:, j]) ** 2 for i in range(4) for j in range(4)) / 400
    both = torch.stack([shared, private])
    assert float(Orthogonal().value(both)) == pytest.approx(by_hand, rel=1e-12)
    assert float(Orthogonal().value(torch.cat([both, both], 1))) == pytest.approx(by_hand, rel=1e-12)
    line = torch.tensor([[1.0], [-1.0]]).repeat(5, 1)
    assert float(Orthogonal().value(torch.stack([line, 3 * line]))) == pytest.approx(1.0)
    apart = torch.stack([line, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).repeat(3, 1)[:10]])
    apart = apart[:, :8]
    assert float(Orthogonal().value(apart)) == pytest.approx(0.0, abs=1e-15)
    with pytest.raises(NotImplementedError, match="`step: loss`"):
        Orthogonal().prox(both, 0.1)


# -- the classical linear models: the heads are the model

N, D, K = 40, 8, 5


def world(outliers=(), rank=2, n=N, d=D, k=K, noise=0.3, own=True):
    """Inputs (tasks, rows, columns) of each task, labels (tasks, rows)."""
    w = torch.randn(k, rank) @ torch.randn(rank, d)
    w[:, d // 2 :] *= 0.1
    w = 2 * w / w.norm(dim=1, keepdim=True)
    for task in outliers:
        w[task] = torch.randn(d)
    x = torch.randn(k if own else 1, n, d).expand(k, n, d)
    return x, (x @ w.unsqueeze(-1)).squeeze(-1) + noise * torch.randn(k, n)


def learnt(x, y, *penalties, steps=600, optimizer=None):
    """The heads' weights (tasks, columns) after full-batch training; biases stay 0."""
    k, n, d = x.shape
    tasks = [Regression(f"t{i}", transform="none") for i in range(k)]
    layouts = {"t": {"numeric": d, "categorical": []}}
    model = Model(Hard(lambda: Linear(layouts), tasks), tasks)
    rows, blocks = {"numeric": x.reshape(k * n, d)}, []
    for i, task in enumerate(tasks):
        target, known = torch.zeros(k, n), torch.zeros(k, n, dtype=torch.bool)
        target[i], known[i] = y[i], True
        blocks.append(Block((task.name,), target.flatten(), known.flatten()))
    batch = Batch({"t": Taskset(rows, tuple(blocks))})
    for task in tasks:
        model.heads[task.name].bias.requires_grad_(False)
    lr = 1 / (2 * max(float(torch.linalg.matrix_norm(own, 2)) ** 2 / n for own in x))
    weights = dict(model.named_parameters())
    free = [p for p in weights.values() if p.requires_grad]
    mover = torch.optim.SGD(free, lr=lr) if optimizer is None else optimizer(free)
    pull = Penalised(model, penalties)
    for _ in range(steps):
        mover.zero_grad()
        loss = Supervised()(model, batch).vector.sum()
        beside = pull.loss(weights)
        (loss if beside is None else loss + beside).backward()
        mover.step()
        pull.prox(weights, mover.param_groups[0]["lr"])
    return torch.stack([model.heads[t.name].weight.detach()[0] for t in tasks])


def fit_of(w, x, y):
    """sum_k (1/n) ||y_k - X_k w_k||^2."""
    return ((x @ w.unsqueeze(-1)).squeeze(-1) - y).square().mean(1).sum()


def slope_of(w, x, y):
    v = w.clone().requires_grad_()
    return torch.autograd.grad(fit_of(v, x, y), v)[0]


def test_l21_is_the_multi_task_lasso():
    x, y = world(own=False)
    for alpha in (0.05, 0.4):
        theirs = MultiTaskLasso(alpha, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x[0], y.T).coef_
        ours = learnt(x, y, L21(2 * alpha, on="heads", groups="input"))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ((ours == 0).all(0).numpy() == (theirs == 0).all(0)).all()
    most = float((x[0].T @ y.T).norm(dim=1).max()) / N
    assert (learnt(x, y, L21(2 * most * 1.001, on="heads"), steps=300) == 0).all()
    assert not (learnt(x, y, L21(2 * most * 0.99, on="heads"), steps=300) == 0).all()


def test_l1_is_the_lasso_of_each_task():
    x, y = world()
    ours = learnt(x, y, L1(2 * 0.2, on="heads"))
    for k in range(K):
        theirs = Lasso(0.2, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x[k], y[k]).coef_
        np.testing.assert_allclose(ours[k], theirs, atol=1e-6)


def test_mean_is_mean_regularised_ridge():
    x, y = world()
    strength = 0.3
    centring = torch.eye(K) - torch.ones(K, K) / K
    a = torch.block_diag(*(own.T @ own / N for own in x)) + strength * torch.kron(centring, torch.eye(D))
    b = torch.cat([own.T @ label / N for own, label in zip(x, y, strict=True)])
    torch.testing.assert_close(
        learnt(x, y, Mean(strength, on="heads")), torch.linalg.solve(a, b).reshape(K, D), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("penalty", [L2, Mean, Pairwise, Graph])
def test_in_the_loss_or_after_the_step_it_is_one_minimum(penalty):
    x, y = world()
    ways = [learnt(x, y, penalty(0.1, on="heads", step=step)) for step in ("prox", "loss")]
    torch.testing.assert_close(*ways, atol=1e-8, rtol=0)


def test_trace_is_low_rank_regression():
    x, y = world()
    strength = 0.8
    ours = learnt(x, y, Trace(strength, on="heads"), steps=1000)
    certificate = -slope_of(ours, x, y) / strength
    assert float(torch.linalg.matrix_norm(certificate, 2)) <= 1 + 1e-6
    assert float((certificate * ours).sum()) == pytest.approx(float(Trace().value(ours)), rel=1e-6)
    assert 0 < torch.linalg.matrix_rank(ours, rtol=1e-8) < K

    def factored(flat):  # ||W||_* = min over W = A B of (||A||^2 + ||B||^2) / 2
        v = torch.tensor(flat, requires_grad=True)
        a, b = v[: K * K].reshape(K, K), v[K * K :].reshape(K, D)
        goal = fit_of(a @ b, x, y) + strength * v.square().sum() / 2
        return goal.item(), torch.autograd.grad(goal, v)[0].numpy()

    start = torch.randn(K * K + K * D).numpy()
    found = minimize(factored, start, jac=True, method="L-BFGS-B", options={"maxiter": 20000, "ftol": 1e-15})
    least = float(fit_of(ours, x, y) + strength * Trace().value(ours))
    assert least == pytest.approx(found.fun, rel=1e-6)


def slow_split(x, y, first, second, one, other):
    """Proximal gradient on both parts, one small step at a time."""
    k, n, d = x.shape
    lr = 1 / (4 * max(float(torch.linalg.matrix_norm(own, 2)) ** 2 / n for own in x))
    p = q = torch.zeros(k, 1, d)
    for _ in range(3000):
        g = slope_of((p + q).squeeze(1), x, y).unsqueeze(1)
        p, q = first.prox(p - lr * g, lr * one), second.prox(q - lr * g, lr * other)
    goal = fit_of((p + q).squeeze(1), x, y) + one * first.value(p) + other * second.value(q)
    return float(goal), p, q


SPLITS = [
    (Dirty, LInf1(groups="input"), L1(), 0.5),
    (Robust, Trace(), L21(groups="task"), 0.7),
    (Outlier, L21(groups="input"), L21(groups="task"), 0.9),
]


@pytest.mark.parametrize(("penalty", "first", "second", "ratio"), SPLITS, ids=lambda v: getattr(v, "__name__", ""))
def test_splits_reach_the_minimum_of_a_slow_solver(penalty, first, second, ratio):
    x, y = world(outliers=(1,))
    strength = 0.3
    least, p, q = slow_split(x, y, first, second, strength, ratio * strength)
    pull = penalty(strength, ratio=ratio, on="heads")
    ours = learnt(x, y, pull, steps=200)
    goal = float(fit_of(ours, x, y) + pull.loss(ours.unsqueeze(1)))
    assert goal == pytest.approx(least, rel=1e-5)
    np.testing.assert_allclose(ours, (p + q).squeeze(1), atol=1e-3)
    parts = pull.parts(ours.unsqueeze(1))
    torch.testing.assert_close(sum(parts), ours.unsqueeze(1))
    value = first.value(parts[0]) + ratio * second.value(parts[1])
    assert float(value) <= float(first.value(p) + ratio * second.value(q)) * (1 + 1e-3)


@pytest.mark.parametrize(("penalty", "ratio"), [(Robust, 0.7), (Outlier, 1.3)])
def test_outlier_tasks_are_found(penalty, ratio):
    x, y = world(outliers=(2, 7), k=10, d=12, n=60, noise=0.1)
    pull = penalty(0.5, ratio=ratio, on="heads")
    _, special = pull.parts(learnt(x, y, pull, steps=40).unsqueeze(1))
    size = special.flatten(1).norm(dim=1)
    assert set(size.topk(2).indices.tolist()) == {2, 7}
    assert (size != 0).sum() == 2


@pytest.mark.parametrize(("penalty", "first", "second", "ratio"), SPLITS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_part_is_empty_where_its_price_is_too_high(penalty, first, second, ratio):
    w = torch.randn(4, 1, 6)
    torch.testing.assert_close(penalty(ratio=50.0).prox(w, 0.3), first.prox(w, 0.3), atol=1e-7, rtol=0)
    torch.testing.assert_close(penalty(ratio=0.01).prox(w, 5.0), second.prox(w, 0.05), atol=1e-7, rtol=0)
    assert float(penalty(ratio=50.0).value(w)) == pytest.approx(float(first.value(w)), rel=1e-6)
    assert float(penalty(ratio=0.01).value(w)) == pytest.approx(0.01 * float(second.value(w)), rel=1e-6)


def test_the_minima_are_those_of_a_solver_of_cones():
    cvxpy = pytest.importorskip("cvxpy")
    x, y = world(outliers=(1,))
    w, p, q = (cvxpy.Variable((K, D)) for _ in range(3))
    fit = sum(cvxpy.sum_squares(x[k].numpy() @ w[k] - y[k].numpy()) / N for k in range(K))
    by_input, by_task = (lambda m: cvxpy.sum(cvxpy.norm(m, 2, axis=0))), (lambda m: cvxpy.sum(cvxpy.norm(m, 2, axis=1)))
    largest = lambda m: cvxpy.sum(cvxpy.max(cvxpy.abs(m), axis=0))  # noqa: E731
    models = [
        (Trace(0.5, on="heads"), cvxpy.normNuc(w), 400),
        (LInf1(0.5, on="heads"), largest(w), 400),
        (PairwiseL1(0.1, on="heads"), sum(cvxpy.norm1(w[i] - w[j]) for i in range(K) for j in range(i)), 400),
        (Dirty(0.5, ratio=0.5, on="heads"), largest(p) + 0.5 * cvxpy.sum(cvxpy.abs(q)), 400),
        (Robust(0.5, ratio=0.7, on="heads"), cvxpy.normNuc(p) + 0.7 * by_task(q), 100),
        (Outlier(0.5, ratio=0.9, on="heads"), by_input(p) + 0.9 * by_task(q), 100),
    ]
    for pull, value, steps in models:
        problem = cvxpy.Problem(cvxpy.Minimize(fit + pull.strength * value), [p + q == w])
        problem.solve(solver="CLARABEL")
        ours = learnt(x, y, pull, steps=steps)
        goal = float(fit_of(ours, x, y) + pull.loss(ours.unsqueeze(1)))
        assert goal == pytest.approx(problem.value, rel=1e-5), pull
        np.testing.assert_allclose(ours, w.value, atol=2e-3, err_msg=str(pull))


def test_only_a_step_of_its_own_gives_zeros():
    """Adam on the norm leaves columns that are nearly 0, the proximal step zeros."""
    x, y = world(own=False)
    adam = lambda p: torch.optim.Adam(p, lr=0.01)  # noqa: E731
    after = learnt(x, y, L21(1.2, on="heads"))
    within = learnt(x, y, L21(1.2, on="heads", step="loss"), optimizer=adam)
    np.testing.assert_allclose(within, after, atol=0.05)
    theirs = MultiTaskLasso(0.6, fit_intercept=False, tol=1e-12).fit(x[0], y.T).coef_
    assert (theirs == 0).all(0).sum() >= 2
    assert (after == 0).all(0).sum() >= 2
    assert (within == 0).all(0).sum() == 0


# -- penalties, tied to a model


def _model():
    tasks = [Regression("a"), Multiclass("m", classes=(0, 1, 2)), Regression("b"), Regression("c")]
    return Model(Hard(lambda: Linear({"t": {"numeric": 3, "categorical": []}}), tasks), tasks)


def test_edges_follow_the_names_where_heads_have_different_shapes():
    model = _model()
    weights = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    pull = Penalised(model, [Graph(0.5, edges=[("c", "a", 3.0), ("a", "m")], on="heads", step="loss")])
    head = {t: weights[f"heads.{key}.weight"] for t, key in model.heads.keys_of.items()}
    by_hand = 0.5 * 3 * (head["a"] - head["c"]).square().sum()
    assert float(pull.loss(weights)) == pytest.approx(float(by_hand), rel=1e-12)
    with pytest.raises(ConfigError, match="Found `z`"):
        Penalised(model, [Graph(edges=[("a", "z")], on="heads")])


def test_a_penalty_without_weights_is_refused():
    with pytest.raises(ConfigError, match=r"`l21` should have weights.*`on: copies`.*heads"):
        Penalised(_model(), [L21()])
    assert not Penalised(_model(), [L21(0.0)])
