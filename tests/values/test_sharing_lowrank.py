"""LowRank: hard sharing at rank 0 and at the start, W + (alpha / rank) B A in between, changes of one task alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from manyheads.blocks import initialise
from manyheads.catalog import find
from manyheads.encoders import Encoder
from manyheads.sharing import Trace
from manyheads.sharing.hard import Hard
from manyheads.sharing.lowrank import LowRank
from manyheads.tasks import Task


class Net(Encoder):
    """Codes, then a linear stage, a norm and a second linear stage."""

    def __init__(self, kernel=False):
        super().__init__()
        if kernel:
            self.stages = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1)])
            self.widths = [4, 3]
        else:
            hidden = nn.Sequential(nn.Linear(3, 6), nn.Tanh())
            self.stages = nn.ModuleList([nn.Embedding(7, 3), hidden, nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5))])
            self.widths = [3, 6, 5]


class Recurrent(Encoder):
    """A stage that torch cannot run for several sets of weights at once."""

    def __init__(self):
        super().__init__()
        self.stages, self.widths = nn.ModuleList([nn.GRU(3, 2, batch_first=True)]), [2]


def tasks_of(names):
    return [find(Task, "regression")(name) for name in names]


def lowrank(names="ab", encoder=Net, changed=True, **settings):
    sharing = LowRank(encoder, tasks_of(names), **settings)
    initialise(sharing, 0)
    if changed:
        with torch.no_grad():
            for name, p in sharing.changes.named_parameters():
                if name.endswith("b"):
                    p.normal_()
    return sharing


CODES = torch.arange(7)


def test_rank_0_is_hard_sharing_and_so_is_the_start_of_any_rank(float64):
    plain = Hard(Net, tasks_of("ab"))
    expected = plain(CODES, ["a", "b"])
    none, some = lowrank(rank=0), lowrank(changed=False, rank=2)
    for sharing in (none, some):
        stages = nn.ModuleList([*sharing.lower.stages, *sharing.upper])
        stages.load_state_dict(plain.encoder.stages.state_dict())
        for task, z in sharing(CODES, ["a", "b"]).items():
            torch.testing.assert_close(z, expected[task], rtol=0, atol=1e-12)
    assert sum(p.numel() for p in none.parameters()) == sum(p.numel() for p in plain.parameters())


def test_rank_0_trains_as_hard_sharing(float64):
    plain, none = Hard(Net, tasks_of("ab")), lowrank(rank=0)
    none.upper.load_state_dict(plain.encoder.stages.state_dict())
    y = torch.randn(2, 7, 5)
    for _ in range(10):
        for sharing in (plain, none):
            step = torch.optim.SGD(sharing.parameters(), lr=0.1)
            step.zero_grad()
            sum((z - t).square().mean() for z, t in zip(sharing(CODES, ["a", "b"]).values(), y, strict=True)).backward()
            step.step()
    torch.testing.assert_close(none(CODES, ["b"])["b"], plain(CODES, ["b"])["b"], rtol=0, atol=1e-12)


def test_changed_weights_are_the_trunk_with_a_path_beside_each_matrix(float64):
    """E x + s B A x, layer by layer, without ever making W_k."""
    sharing = lowrank(rank=2, alpha=3.0)
    table, (linear, _), (norm, last) = sharing.upper
    for task, z in sharing(CODES, ["a", "b"]).items():
        (a0, b0), (a1, b1), (a2, b2) = ((c.a, c.b) for c in sharing.changes[task])
        h = table(CODES) + 1.5 * b0[CODES] @ a0
        h = torch.tanh(linear(h) + 1.5 * (h @ a1.T) @ b1.T)
        h = norm(h)
        torch.testing.assert_close(z, last(h) + 1.5 * (h @ a2.T) @ b2.T, rtol=0, atol=1e-12)


def test_kernels_count_as_matrices(float64):
    """A convolution with a change of rank r is the convolution plus one to r channels and one of 1 x 1 back."""
    sharing = lowrank(encoder=lambda: Net(kernel=True), rank=2, alpha=1.0)
    x = torch.randn(3, 2, 5, 5)
    one, two = sharing.upper
    for task, z in sharing(x, ["a", "b"]).items():
        first, second = sharing.changes[task]
        assert first.a.shape == (2, 18)
        h = one(x) + 0.5 * f.conv2d(f.conv2d(x, first.a.view(2, 2, 3, 3), padding=1), first.b[..., None, None])
        expected = two(h) + 0.5 * f.conv2d(f.conv2d(h, second.a[..., None, None]), second.b[..., None, None])
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)


def test_recurrent_stages_are_changed_as_well(float64):
    sharing = lowrank(encoder=Recurrent, rank=1)
    x, weights = torch.randn(4, 5, 3), sharing.weights(["a", "b"])
    for i, (_, z) in enumerate(sharing(x, ["a", "b"]).items()):
        merged = nn.GRU(3, 2, batch_first=True)
        merged.load_state_dict(
            dict(sharing.upper[0].named_parameters()) | {n.removeprefix("0."): w[i] for n, w in weights.items()}
        )
        torch.testing.assert_close(z[0], merged(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("apart", [False, True])
def test_a_task_moves_no_other_tasks_changes(apart, float64):
    sharing = lowrank("abc", rank=2)
    trace = Trace(cut=True) if apart else None
    sharing(CODES, ["a", "b", "c"], None, trace)["b"].square().sum().backward()
    for task in "abc":
        for p in sharing.changes[task].parameters():
            moved = p.grad is not None and bool(p.grad.any())
            assert moved == (task == "b")
            assert not apart or task == "b" or p.grad is None
    assert all(p.grad.any() for p in sharing.upper.parameters())


def test_a_change_has_its_rank_and_no_more_than_fits(float64):
    weights = lowrank(rank=2).weights(["a"])
    base = dict(lowrank(rank=2).upper.named_parameters())
    for name, w in weights.items():
        assert torch.linalg.matrix_rank(w[0] - base[name]) == 2
    shapes = [tuple(c.b.shape) for c in lowrank(rank=9).changes["a"]]
    assert shapes == [(7, 3), (6, 3), (5, 5)]
    assert [tuple(c.b.shape) for c in lowrank(rank=2, from_stage=-1).changes["a"]] == [(5, 2)]


def test_errors():
    with pytest.raises(ValueError, match="`rank` should be 0 or more"):
        lowrank(rank=-1)

    class Bare(Encoder):
        def __init__(self):
            super().__init__()
            self.stages, self.widths = nn.ModuleList([nn.LayerNorm(3)]), [3]

    with pytest.raises(ValueError, match="should have matrices to change"):
        LowRank(Bare, tasks_of("a"))
