"""Experts: limits, formulas written out by hand, what sees what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))

from cases import inputs_of, layout_of, small_tasks

from manyheads.blocks import initialise
from manyheads.encoders import Encoder
from manyheads.encoders.tabular import Tabular
from manyheads.gradients.graph import reached
from manyheads.sharing import Trace, run
from manyheads.sharing.cgc import CGC
from manyheads.sharing.dselectk import DSelectK, Selectors, smooth_step
from manyheads.sharing.experts import mix
from manyheads.sharing.hard import Hard
from manyheads.sharing.mmoe import MMoE
from manyheads.sharing.ple import PLE

pytestmark = pytest.mark.usefixtures("float64")
TASKS = ("a", "b", "c", "d")
N = 12


def made(scheme, n_layers=2, seed=0, **settings):
    layouts = {"t": layout_of("tabular")}
    sharing = scheme(lambda: Tabular(layouts, d_hidden=8, n_layers=n_layers), small_tasks(), **settings)
    initialise(sharing, seed)
    return sharing.eval()


@pytest.fixture
def x():
    return inputs_of(layout_of("tabular"), N)


def expert(stages, name, z):
    """One expert, stage by stage."""
    for copies in stages:
        z = copies[name](z)
    return z


def softmax(logits):
    e = torch.exp(logits)
    return e / e.sum(-1, keepdim=True)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# -- MMoE


def test_mmoe_written_by_hand(x):
    s = made(MMoE, n_experts=3)
    z = s.lower.stages[0](x)
    given = [expert(s.experts, f"expert {i}", z) for i in (1, 2, 3)]
    found = s(x, TASKS)
    for task in TASKS:
        g = softmax(z @ s.gates[task].weight.T)
        close(found[task], sum(g[:, i : i + 1] * given[i] for i in range(3)))
    assert not torch.allclose(found["a"], found["b"])


def test_mmoe_of_one_expert_is_hard_sharing(x):
    one, hard = made(MMoE, n_experts=1), made(Hard)
    hard.encoder.stages[0].load_state_dict(one.lower.stages[0].state_dict())
    for stage, copies in zip(hard.encoder.stages[1:], one.experts, strict=True):
        stage.load_state_dict(copies["expert 1"].state_dict())
    for task, features in one(x, TASKS).items():
        close(features, hard(x, TASKS)[task])


def test_gates_of_zero_give_the_plain_mean(x):
    s = made(MMoE)
    for p in s.gates.parameters():
        torch.nn.init.zeros_(p)
    z = s.lower.stages[0](x)
    mean = torch.stack([expert(s.experts, e, z) for e in s.experts[0]]).mean(0)
    for features in s(x, TASKS).values():
        close(features, mean)


def test_alike_experts_leave_nothing_to_the_gate(x):
    s = made(MMoE)
    for copies in s.experts:
        for name in copies:
            copies[name].load_state_dict(copies["expert 1"].state_dict())
    before = s(x, TASKS)
    for p in s.gates.parameters():
        torch.nn.init.normal_(p, 0, 3)
    for task, features in s(x, TASKS).items():
        close(features, before[task])


def test_what_is_noted_are_the_shares_of_each_row(x):
    s, trace = made(MMoE), Trace()
    s(x, ("a", "c"), trace=trace)
    assert set(trace.use) == {"a", "c"}
    shares = torch.stack([trace.use["a"][f"expert {i}"] for i in (1, 2, 3, 4)])
    assert shares.shape == (4, N)
    close(shares.sum(0), torch.ones(N))


@pytest.mark.parametrize("scheme", [MMoE, CGC, PLE, DSelectK])
def test_experts_need_a_stage_below_and_one_above(scheme):
    for from_stage in (0, 3):
        with pytest.raises(ValueError, match="`from_stage` should"):
            made(scheme, from_stage=from_stage)


# -- mixtures of richer features


def test_a_mixture_weighs_rows_and_its_gradients_are_exact():
    shares = torch.rand(3, 5, 4, requires_grad=True)
    for shape in ((2,), (6, 2), (2, 3, 3)):
        outputs = torch.randn(4, 5, *shape, requires_grad=True)
        expected = torch.stack(
            [torch.stack([sum(shares[k, b, e] * outputs[e, b] for e in range(4)) for b in range(5)]) for k in range(3)]
        )
        close(mix(shares, outputs), expected)
        close(mix(shares, outputs.unsqueeze(1).expand(4, 3, 5, *shape), own=True), expected)
        close(mix(shares[:, 0], outputs), mix(shares[:, :1].expand(-1, 5, -1), outputs))
        assert torch.autograd.gradcheck(mix, (shares, outputs))
        with torch.no_grad():
            assert torch.equal(mix(shares, outputs), expected.new_tensor(mix(shares, outputs).tolist()))


class Sequences(Encoder):
    """Numbers as a sequence of their own, masked where they are negative, then two maps of each step."""

    def __init__(self):
        super().__init__()
        self.stages = torch.nn.ModuleList([Steps(), Step(1, 6), Step(6, 6)])
        self.widths = [1, 6, 6]


class Steps(torch.nn.Module):
    def forward(self, x):
        return x["numeric"].unsqueeze(-1), x["numeric"] > -0.5


class Step(torch.nn.Module):
    def __init__(self, d_in, d_out):
        super().__init__()
        self.linear = torch.nn.Linear(d_in, d_out)

    def forward(self, z):
        return torch.tanh(self.linear(z[0])), z[1]


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [(MMoE, {}), (CGC, {}), (CGC, {"n_own": 2}), (PLE, {}), (DSelectK, {}), (DSelectK, {"per_row": True})],
)
def test_sequences_keep_their_mask_and_gates_read_the_known_steps(scheme, settings, x):
    s = scheme(Sequences, small_tasks(), **settings)
    known = x["numeric"] > -0.5
    for trace in (None, Trace(), Trace(cut=True)):
        for values, mask in s(x, TASKS, trace=trace).values():
            assert values.shape == (N, 3, 6)
            assert torch.equal(mask, known)
    other = {**x, "numeric": torch.where(known, x["numeric"], x["numeric"] - 5)}  # the steps that nobody may read
    for task, (values, _) in s(other, TASKS).items():
        close(values[known], s(x, TASKS)[task][0][known])


# -- CGC


def own(level, task, i=0):
    return [stages[task] for stages in level.own[i]]


def test_cgc_written_by_hand(x):
    s = made(CGC, n_shared=2, n_own=2)
    z, level = s.lower.stages[0](x), s.level
    shared = [expert(level.shared, f"shared {i}", z) for i in (1, 2)]
    trace = Trace()
    found = s(x, TASKS, trace=trace)
    assert len(trace.pairs) == len(TASKS)
    for task, pair in zip(TASKS, trace.pairs, strict=True):
        mine = [expert(level.own[i], task, z) for i in (0, 1)]
        g = softmax(z @ level.gates[task].weight.T)
        close(found[task], sum(g[:, i : i + 1] * f for i, f in enumerate([*shared, *mine])))
        close(pair[0], (shared[0] + shared[1]) / 2)
        close(pair[1], (mine[0] + mine[1]) / 2)
        close(trace.use[task]["own 2"], g[:, 3])


def test_cgc_without_shared_experts_is_independent(x):
    s = made(CGC, n_shared=0, n_own=2)
    stem = set(s.lower.parameters())
    seen = {t: reached(f.sum()) - stem for t, f in s(x, TASKS, trace=Trace(cut=True)).items()}
    assert all(seen.values())
    assert not any(seen[a] & seen[b] for a in TASKS for b in TASKS if a != b)
    before = s(x, TASKS)
    with torch.no_grad():
        for stages in s.level.own[0]:
            for p in stages["a"].parameters():
                p.add_(1.0)
    after = s(x, TASKS)
    assert not torch.allclose(before["a"], after["a"])
    assert all(torch.equal(before[t], after[t]) for t in TASKS[1:])


def test_cgc_without_own_experts_is_mmoe(x):
    cgc, mmoe = made(CGC, n_shared=3, n_own=0), made(MMoE, n_experts=3)
    mmoe.lower.load_state_dict(cgc.lower.state_dict())
    mmoe.gates.load_state_dict(cgc.level.gates.state_dict())
    for there, here in zip(mmoe.experts, cgc.level.shared, strict=True):
        there.load_state_dict(here.state_dict())
    for task, features in cgc(x, TASKS).items():
        close(features, mmoe(x, TASKS)[task])


# -- PLE


def test_ple_of_one_level_is_cgc(x):
    ple, cgc = made(PLE, levels=1, n_own=2), made(CGC, n_own=2, seed=1)
    assert not any("shared_gate" in name for name, _ in ple.named_parameters())
    cgc.lower.load_state_dict(ple.lower.state_dict())
    cgc.level.load_state_dict(ple.levels[0].state_dict())
    for task, features in ple(x, TASKS).items():
        close(features, cgc(x, TASKS)[task])


@pytest.mark.parametrize("traced", [False, True])
def test_ple_written_by_hand(x, traced):
    s = made(PLE, n_layers=3, n_shared=2, n_own=1)
    common = s.lower.stages[0](x)
    each = dict.fromkeys(TASKS, common)
    for level in s.levels:
        shared = [expert(level.shared, f"shared {i}", common) for i in (1, 2)]
        mine = {t: expert(level.own[0], t, each[t]) for t in TASKS}
        if level is not s.levels[-1]:
            names = ["shared 1", "shared 2", *(f"own 1: {t}" for t in TASKS)]
            g = softmax(torch.cat([common @ level.shared_gate[n].weight.T for n in names], 1))
            following = sum(g[:, i : i + 1] * f for i, f in enumerate([*shared, *mine.values()]))
        for t in TASKS:
            g = softmax(each[t] @ level.gates[t].weight.T)
            each[t] = sum(g[:, i : i + 1] * f for i, f in enumerate([*shared, mine[t]]))
        common = following
    for asked in (TASKS, ("c",), ("d", "a")):
        trace = Trace(cut=True) if traced else None
        found = s(x, asked, trace=trace)
        for task in asked:
            close(found[task], each[task])
        if trace is not None:
            assert set(trace.use) == set(asked)
            assert [k for k in trace.use["a" if "a" in asked else "c"] if k.endswith("own 1")] == [
                f"level {i} own 1" for i in (1, 2, 3)
            ]


def test_what_ples_shared_experts_read_does_not_depend_on_who_is_asked(x):
    s = made(PLE)
    read = []
    s.levels[1].outputs, plain = (
        lambda t, shared, own=None: read.append(shared) or plain(t, shared, own),
        s.levels[1].outputs,
    )
    for asked in (TASKS, ("a",), ("d",), ("d", "b")):
        s(x, asked)
    assert len(read) == 4
    for z in read[1:]:
        close(z, read[0])


def test_only_what_a_task_needs_is_reached(x):
    """Every task's experts below the last level, its own ones there; task gates of others nowhere."""
    s = made(PLE)
    seen = reached(s(x, ("a",), trace=Trace(cut=True))["a"].sum())
    lower, last = s.levels
    for t in TASKS:
        assert set(lower.own[0][0][t].parameters()) <= seen
        assert (set(last.own[0][0][t].parameters()) <= seen) == (t == "a")
        assert (last.gates[t].weight in seen) == (lower.gates[t].weight in seen) == (t == "a")


def test_levels_divide_the_stages():
    assert [len(level.shared) for level in made(PLE, n_layers=5, levels=2).levels] == [3, 2]
    assert [len(level.shared) for level in made(PLE, n_layers=3).levels] == [1, 1, 1]
    assert [len(level.shared) for level in made(PLE, n_layers=3, from_stage=2).levels] == [1, 1]
    for levels in (0, 4):
        with pytest.raises(ValueError, match="between 1 and the 3 stages"):
            made(PLE, n_layers=3, levels=levels)
    with pytest.raises(ValueError, match="`n_own` should be at least 1"):
        made(PLE, n_own=0)


# -- DSelect-k


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_the_smooth_step_ends_flat(gamma):
    t = torch.tensor([-9.0, -gamma / 2, 0.0, gamma / 2, 9.0], requires_grad=True)
    value = smooth_step(t, gamma)
    assert value.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    (slope,) = torch.autograd.grad(value.sum(), t)
    close(slope[[0, 1, 3, 4]], torch.zeros(4))
    close(slope[2], torch.tensor(1.5 / gamma))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 9])
@pytest.mark.parametrize("width", [None, 3])
def test_weights_of_selectors_sum_to_one(n, width):
    gate = Selectors(n, 2, 1.0, width)
    rows = torch.randn(7, 3)
    for scale in (0.0, 1.0, 20.0, 1000.0):
        with torch.no_grad():
            for p in gate.parameters():
                p.uniform_(-0.01 * scale, 0.01 * scale)
        shares, entropy = gate(rows)
        assert shares.shape == ((n,) if width is None else (7, n))
        assert (shares >= 0).all()
        assert entropy >= 0
        close(shares.sum(-1), torch.ones(shares.shape[:-1]))


def test_selectors_written_by_hand():
    gate = Selectors(4, 2, 1.0)
    numbers = torch.tensor([[0.3, 0.2, -0.1], [-0.4, -0.3, 0.45]])  # a, t_0, t_1 of each selector
    with torch.no_grad():
        gate.bias.copy_(numbers.flatten())
    s = -2 * numbers[:, 1:] ** 3 + 1.5 * numbers[:, 1:] + 0.5
    r = torch.stack(
        [(1 - s[:, 0]) * (1 - s[:, 1]), s[:, 0] * (1 - s[:, 1]), (1 - s[:, 0]) * s[:, 1], s[:, 0] * s[:, 1]], 1
    )
    shares, entropy = gate(None)
    close(shares, softmax(numbers[:, 0]) @ r)
    close(entropy, -(r * r.log()).sum())


@pytest.mark.parametrize("n", [3, 5, 8])
def test_a_saturated_gate_selects_at_most_k(n):
    g = torch.Generator().manual_seed(0)
    for k in (1, 2, 3):
        gate = Selectors(n, k, 1.0)
        for _ in range(20):
            with torch.no_grad():
                gate.bias.copy_((torch.rand(gate.bias.shape, generator=g) > 0.5) * 2.0 - 1)
            shares, entropy = gate(None)
            assert 1 <= (shares > 0).sum() <= k
            assert entropy == 0
            (slope,) = torch.autograd.grad(entropy + shares.square().sum(), gate.bias)
            assert torch.isfinite(slope).all()


@pytest.mark.parametrize("per_row", [False, True])
def test_entropy_is_handed_back_and_nothing_is_trained_inside(x, per_row):
    s = made(DSelectK, per_row=per_row, entropy=0.5)
    trace = Trace()
    found = s(x, ("a", "c"), trace=trace)
    assert set(trace.aux) == {"a", "c"}
    assert all(p.grad is None for p in s.parameters())
    z = run(s.lower, x, None)
    for task in ("a", "c"):
        shares, entropy = s.gates[task](z)
        close(trace.aux[task], 0.5 * entropy)
        own = set(s.gates[task].parameters())
        assert own <= reached(trace.aux[task])
        given = [expert(s.experts, f"expert {i}", z) for i in (1, 2, 3, 4)]
        close(found[task], sum(shares[..., i, None] * f for i, f in enumerate(given)))
    quiet = Trace()
    made(DSelectK, entropy=0.0)(x, TASKS, trace=quiet)
    assert not quiet.aux


def test_selectors_come_to_a_decision(x):
    """With a strong entropy alone, every selector ends on one expert."""
    s = made(DSelectK, n_experts=8)
    optimizer = torch.optim.Adam(s.gates.parameters(), 0.01)
    for _ in range(300):
        trace = Trace()
        s(x, TASKS, trace=trace)
        optimizer.zero_grad()
        (sum(trace.aux.values()) * 1e6).backward()
        optimizer.step()
    s(x, TASKS, trace=trace)
    for task in TASKS:
        assert sum(float(v) > 1e-6 for v in trace.use[task].values()) <= 2
