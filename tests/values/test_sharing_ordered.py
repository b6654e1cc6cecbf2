"""Tasks that follow one another: ESMM, AITM, and PEPNet's gates, against their formulas."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, vmap

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))

from cases import Case, build, inputs_of, layout_of, rows_for, small_tasks

from manyheads.catalog import find
from manyheads.data import Batch
from manyheads.encoders import Encoder
from manyheads.gradients.graph import reached
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.sharing import Sharing, Trace
from manyheads.sharing.esmm import ESMM, both
from manyheads.sharing.pepnet import PEPNet, scaled
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression

ENCODER = Case("tabular", find(Encoder, "tabular"), {"d_hidden": 6, "dropout": 0.0})
FUNNEL = [Binary(t, classes=(0, 1)) for t in ("seen", "clicked", "bought")]


def model_of(word, tasks=FUNNEL, seed=0, tables=1, **settings):
    return build(Case(word, find(Sharing, word), settings), ENCODER, list(tasks), seed, tables).eval()


def x_of(n=12, table=0):
    return inputs_of(layout_of("tabular", table), n)


def tower(copies, task, z):
    for stage in copies:
        z = stage[task](z)
    return z


def drift(model):
    """Away from the start, where gates are 1 and heads alike."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


# -- ESMM


def test_a_probability_is_the_product_of_those_before(float64):
    model, x = model_of("esmm", [*FUNNEL, Regression("amount")]), x_of()
    sharing = model.sharing
    z = sharing.lower.stages[0](x)
    p = {t: torch.sigmoid(model.heads[t](tower(sharing.towers, t, z))) for t in ("seen", "clicked", "bought")}
    found = model(x)
    expected = {"seen": p["seen"], "clicked": p["seen"] * p["clicked"], "bought": math.prod(p.values())}
    for task, value in expected.items():
        torch.testing.assert_close(torch.sigmoid(found[task]), value, rtol=0, atol=1e-12)
    amount = model.heads["amount"](tower(sharing.towers, "amount", z))
    torch.testing.assert_close(found["amount"], amount, rtol=0, atol=1e-12)
    trace = Trace()
    model(x, ["bought"], trace=trace)
    torch.testing.assert_close(trace.use["bought"]["conditional"], p["bought"].squeeze(-1))


def test_the_logit_of_a_product(float64):
    a, b = torch.meshgrid(torch.linspace(-12, 12, 49), torch.linspace(-12, 12, 49), indexing="ij")
    direct = torch.logit(torch.sigmoid(a) * torch.sigmoid(b))
    torch.testing.assert_close(both(a, b), direct, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_finite_with_finite_slopes_everywhere(dtype):
    ends = torch.tensor([-1e4, -110.0, -60.0, -20.0, -1.0, 0.0, 1.0, 20.0, 60.0, 110.0, 1e4], dtype=dtype)
    a, b = (v.flatten() for v in torch.meshgrid(ends, ends, indexing="ij"))
    value = both(a, b)
    assert torch.isfinite(value).all()
    assert (value <= torch.minimum(a, b)).all()  # P_t <= P_{t-1}, P_t <= p_t
    slopes = [vmap(grad(lambda u, v: both(u, v), argnums=i))(a, b) for i in (0, 1)]
    for s in slopes:
        assert torch.isfinite(s).all()
        assert (s >= 0).all()
        assert (s <= 1 + 1e-3 * (dtype == torch.float32) + 1e-9).all()
    for y in (0.0, 1.0):
        loss = vmap(grad(lambda u, v, y=y: F.binary_cross_entropy_with_logits(both(u, v), u.new_tensor(y))))(a, b)
        assert torch.isfinite(loss).all()
    high = (a == 60) & (b == 60)  # 1 - sigmoid(60)^2 = 2 e^-60: no float32 holds the probability itself
    torch.testing.assert_close(value[high], torch.tensor([60 - math.log(2)], dtype=dtype))


def test_later_events_are_never_more_probable():
    model = drift(model_of("esmm"))
    x = {k: v * 30 if v.is_floating_point() else v for k, v in x_of(200).items()}
    found = model(x)
    assert (found["clicked"] <= found["seen"]).all()
    assert (found["bought"] <= found["clicked"]).all()


def test_a_chain_can_be_given():
    model = model_of("esmm", chain=["bought", "seen"])
    assert model.sharing.links == {"seen": ("bought",)}
    assert model.needed(["clicked"]) == ("clicked",)
    assert (model(x_of())["seen"] <= model(x_of())["bought"]).all()


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ([Regression("a"), Binary("b")], {}, r"two binary tasks or more.*Found `b`; add one, or use `hard`"),
        ([Regression("a")], {}, r"Found none"),
        (FUNNEL, {"chain": ["seen"]}, r"Found `seen`; add one"),
        (FUNNEL, {"chain": ["seen", "clicks"]}, r"`clicks`, which does not exist"),
        (FUNNEL, {"chain": ["seen", "seen"]}, r"each task once"),
        (
            [*FUNNEL, Regression("a")],
            {"chain": ["seen", "a"]},
            r"`seen`, `clicked`, `bought`.*`a`, which is not binary",
        ),
    ],
)
def test_chains_that_are_refused(tasks, settings, message):
    with pytest.raises(ValueError, match=message):
        model_of("esmm", tasks, **settings)


def test_a_missing_label_of_a_product_teaches_nothing():
    model = drift(model_of("esmm"))
    known = torch.zeros(24, dtype=torch.bool)
    rows = rows_for(FUNNEL, bought=known)
    assert set(Supervised()(model, Batch({"t": rows}))) == {"seen", "clicked"}
    known[3] = True
    loss = Supervised()(model, Batch({"t": rows_for(FUNNEL, bought=known)}))["bought"]
    alone = F.binary_cross_entropy_with_logits(model(rows.inputs)["bought"][3, 0], rows.labels("bought")[0][3])
    torch.testing.assert_close(loss, alone)


def test_the_conditional_is_found_on_all_rows(float64):
    """From products alone, where both are logistic and clicks are rare on half of the rows."""
    g = torch.Generator().manual_seed(0)
    n = 20_000
    u = torch.randn(n, 3, generator=g)
    p_click = torch.sigmoid(2 * u[:, 0] - 1)
    p_buy = torch.sigmoid(u[:, 1] - u[:, 0])
    click = (torch.rand(n, generator=g) < p_click).double()
    buy = click * (torch.rand(n, generator=g) < p_buy)
    tasks = [Binary("click", classes=(0, 1)), Binary("buy", classes=(0, 1))]
    linear = find(Encoder, "linear")
    model = Model(ESMM(lambda: linear({"t": {"numeric": 3, "categorical": []}}), tasks, from_stage=0), tasks)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")
    x = {"numeric": u}

    def loss():
        optimizer.zero_grad()
        outputs = model(x)
        total = sum(
            t.mean_loss(outputs[t.name], y, torch.ones(n).bool()) for t, y in zip(tasks, (click, buy), strict=True)
        )
        total.backward()
        return total

    optimizer.step(loss)
    trace = Trace()
    found = torch.sigmoid(model(x, trace=trace)["buy"]).squeeze(-1)
    assert (found - p_click * p_buy).abs().max() < 0.05
    assert (trace.use["buy"]["conditional"] - p_buy).square().mean().sqrt() < 0.03


# -- AITM


def attention(module, before, own):
    """z = sum_i w_i h1(u_i), written out row by row."""
    rows = []
    for p, q in zip(before, own, strict=True):
        u = [module.gate.weight @ p + module.gate.bias, q]
        h1, h2, h3 = ([m.weight @ v + m.bias for v in u] for m in (module.value, module.query, module.key))
        scores = [float((a @ b).detach()) / math.sqrt(len(q)) for a, b in zip(h2, h3, strict=True)]
        e = [math.exp(s) for s in scores]
        rows.append(sum(w / sum(e) * v for w, v in zip(e, h1, strict=True)))
    return torch.stack(rows)


def test_what_a_task_reads_by_hand(float64):
    model, x = model_of("aitm"), x_of()
    sharing = model.sharing
    z = sharing.lower.stages[0](x)
    q = {t: tower(sharing.towers, t, z) for t in model.tasks}
    clicked = attention(sharing.transfers["clicked"], q["seen"], q["clicked"])
    bought = attention(sharing.transfers["bought"], clicked, q["bought"])
    features = sharing(x, ["bought", "seen", "clicked"])
    for task, value in {"seen": q["seen"], "clicked": clicked, "bought": bought}.items():
        torch.testing.assert_close(features[task], value, rtol=0, atol=1e-12)


def test_the_order_can_be_given_and_leave_tasks_out():
    model, x = model_of("aitm", order=["bought", "seen"]), x_of()
    sharing = model.sharing
    assert set(sharing.transfers) == {"seen"}
    plain = tower(sharing.towers, "clicked", sharing.lower.stages[0](x))
    torch.testing.assert_close(sharing(x, ["clicked"])["clicked"], plain)
    for order in (["bought", "nobody"], ["seen", "seen"]):
        with pytest.raises(ValueError, match="`order` should name tasks"):
            model_of("aitm", order=order)
    with pytest.raises(ValueError, match="`calibrator`"):
        model_of("aitm", calibrator=-1.0)


def test_a_task_needs_those_before_and_no_other():
    model = model_of("aitm")
    for asked, needed in ((["seen"], {"seen"}), (["clicked"], {"seen", "clicked"}), (["bought"], set(model.tasks))):
        found = reached(model(x_of(), asked, trace=Trace(cut=True))[asked[0]].sum())
        for task in model.tasks:
            own = {p for stage in model.sharing.towers for p in stage[task].parameters()}
            assert (own <= found) if task in needed else not own & found


def test_the_calibrator(float64):
    """0.6 mean max(p_t - p_s, 0) between consecutive binary tasks, others in between left out."""
    tasks = [FUNNEL[0], Regression("amount"), FUNNEL[1], FUNNEL[2]]
    model, trace = drift(model_of("aitm", tasks, calibrator=0.6)), Trace()
    with torch.no_grad():  # near each other, so that some rows are in excess and others are not
        for i, task in enumerate(("seen", "clicked", "bought")):
            model.heads[task].bias.add_(i - model(x_of(40))[task].mean())
    p = {t: torch.sigmoid(o).squeeze(-1).tolist() for t, o in model(x_of(40), trace=trace).items()}
    assert set(trace.aux) == {"clicked", "bought"}
    for s, t in (("seen", "clicked"), ("clicked", "bought")):
        expected = 0.6 * sum(max(b - a, 0.0) for a, b in zip(p[s], p[t], strict=True)) / 40
        assert expected > 0
        assert trace.aux[t].item() == pytest.approx(expected, abs=1e-12)
    assert model_of("aitm", tasks).sharing.links == {}
    trace = Trace()
    model_of("aitm", tasks)(x_of(), trace=trace)
    assert not trace.aux
    assert set(trace.use) == {"amount", "clicked", "bought"}


class Sequences(Encoder):
    """Two stages that give sequences, for features with positions."""

    def __init__(self, layouts):
        super().__init__()
        self.stages = nn.ModuleList([_Position(3, 5), _Position(5, 5)])
        self.widths = [5, 5]


class _Position(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.linear = nn.Linear(d_in, d)

    def forward(self, z):
        values, mask = z if isinstance(z, tuple) else (z["values"], z["mask"])
        return torch.tanh(self.linear(values)), mask


class Maps(Encoder):
    """Two stages that give maps."""

    def __init__(self, layouts):
        super().__init__()
        self.stages = nn.ModuleList([_Image(), nn.Conv2d(5, 5, 3, padding=1)])
        self.widths = [5, 5]


class _Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        return self.conv(x["image"])


@pytest.mark.parametrize("word", ["esmm", "aitm", "pepnet"])
def test_sequences_and_maps(word, float64):
    g = torch.Generator().manual_seed(0)
    sequences = {"values": torch.randn(4, 7, 3, generator=g), "mask": torch.rand(4, 7, generator=g) > 0.3}
    images = {"image": torch.randn(4, 3, 6, 6, generator=g)}
    for encoder, x in ((Sequences, sequences), (Maps, images)):
        model = drift(Model(find(Sharing, word)(lambda encoder=encoder: encoder({}), FUNNEL), FUNNEL))
        traced = model(x, trace=Trace(cut=True))
        for task, output in model(x).items():
            assert output.shape == (4, 1)
            torch.testing.assert_close(output, traced[task])
        sum(o.sum() for o in traced.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        features = model.sharing(x, ["bought"])["bought"]
        assert isinstance(features, tuple) == (encoder is Sequences)


# -- PEPNet


def test_gates_start_at_one():
    """At the start it is one tower per task over a shared embedding."""
    for tables in (1, 2):
        model, x = model_of("pepnet", small_tasks(), tables=tables), x_of()
        sharing = model.sharing
        z = sharing.lower.path("t0")[0](x)
        for task, output in model(x, table="t0").items():
            for gated in sharing.towers:
                assert torch.equal(
                    gated[task].gate(torch.randn(3, gated[task].gate.hidden.in_features)), torch.ones(3, 6)
                )
            alone = z
            for gated in sharing.towers:
                alone = gated[task].stage(alone)
            torch.testing.assert_close(output, model.heads[task](alone))


@pytest.mark.parametrize("tables", [1, 2])
def test_gates_by_hand(tables, float64):
    model = drift(model_of("pepnet", small_tasks(), tables=tables))
    sharing = model.sharing

    def gate(module, u):
        h = torch.clamp(u @ module.hidden.weight.T + module.hidden.bias, min=0)
        return 2 / (1 + torch.exp(-(h @ module.last.weight.T + module.last.bias)))

    for i in range(tables):
        x = x_of(table=i)
        z = sharing.lower.path(f"t{i}")[0](x)
        prior = z
        if tables == 2:
            e = sharing.tables[f"t{i}"].weight.expand(12, -1)
            z = gate(sharing.domain, torch.cat([e, z], 1)) * z
            prior = torch.cat([e, z], 1)
        for task, output in model(x, table=f"t{i}").items():
            h = z
            for gated in sharing.towers:
                h = gate(gated[task].gate, prior) * gated[task].stage(h)
            torch.testing.assert_close(output, model.heads[task](h), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tables", [1, 2])
def test_no_gradient_passes_through_the_prior(tables, float64):
    """The gradient of stage 0 is that of a net whose gates are given numbers."""
    model = drift(model_of("pepnet", small_tasks(), tables=tables))
    sharing, x = model.sharing, x_of()
    first = list(sharing.lower.path("t0")[0].parameters())
    found = torch.autograd.grad(model(x, table="t0")["a"].sum(), first)
    z = sharing.lower.path("t0")[0](x)
    prior = z.detach()
    if tables == 2:
        e = sharing.tables["t0"].weight.expand(12, -1)
        z = sharing.domain(torch.cat([e, prior], 1)).detach() * z
        prior = torch.cat([e, z], 1).detach()
    for gated in sharing.towers:
        z = gated["a"].gate(prior).detach() * gated["a"].stage(z)
    expected = torch.autograd.grad(model.heads["a"](z).sum(), first)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert any(g.abs().max() > 0 for g in found)


def test_the_cut_of_several_tables(float64):
    """The embedding of a table is handed over like the features are."""
    model, trace, x = drift(model_of("pepnet", small_tasks(), tables=2)), Trace(cut=True), x_of()
    plain = torch.autograd.grad(model(x, table="t0")["a"].sum(), list(model.parameters()), allow_unused=True)
    outputs = model(x, table="t0", trace=trace)
    shared, views = zip(*trace.cut["a"], strict=True)
    assert len(views) == 2
    down = torch.autograd.grad(outputs["a"].sum(), views, retain_graph=True)
    below = torch.autograd.grad(shared, list(model.parameters()), down, allow_unused=True)
    trunk = set().union(*(reached(s) for s in shared))
    for p, g, b in zip(model.parameters(), plain, below, strict=True):
        if p in trunk:
            torch.testing.assert_close(b, g, rtol=0, atol=1e-12)
    assert set(sharing_parameters(model)) & trunk


def sharing_parameters(model):
    return list(model.sharing.tables["t0"].parameters())


def test_a_gate_scales_channels(float64):
    gate = torch.rand(2, 5)
    values, mask = torch.randn(2, 3, 5), torch.ones(2, 3).bool()
    torch.testing.assert_close(scaled((values, mask), gate)[0], torch.einsum("bld,bd->bld", values, gate))
    torch.testing.assert_close(scaled(values, gate), torch.einsum("bld,bd->bld", values, gate))
    maps = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(scaled(maps, gate), torch.einsum("bdhw,bd->bdhw", maps, gate))


def test_settings_that_are_refused():
    with pytest.raises(ValueError, match="`d_gate`"):
        model_of("pepnet", d_gate=0)
    with pytest.raises(ValueError, match="`from_stage`"):
        PEPNet(lambda: find(Encoder, "linear")({"t": layout_of("linear")}), FUNNEL)
    with pytest.raises(ValueError, match="`from_stage`"):
        ESMM(lambda: find(Encoder, "linear")({"t": layout_of("linear")}), FUNNEL)
