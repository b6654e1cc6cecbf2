"""The laws of a Sharing, over every scheme and every encoder."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from cases import build, catalogue, five_tasks, inputs_of, layout_of, rows_for
from pairs import kinds, losses_of, model_of, pairs, spread, used_by, x_of

from manyheads.balance import Balance
from manyheads.catalog import find
from manyheads.data import Batch
from manyheads.encoders import Encoder
from manyheads.gradients.gramian import Gradients
from manyheads.gradients.graph import reached
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.sharing import Sharing, Trace
from manyheads.tasks import Task

ODD = ["children", "a.b", "x[0]", "train", "Buy", "buy", "a/b", "parameters", "weight", "é "]


@pytest.fixture(params=kinds())
def pair(request):
    return request.param


everywhere = pytest.mark.parametrize("pair", pairs())


def _named(model):
    """Parameters by a path in which tasks go by their own names."""
    from manyheads.blocks import labelled_modules

    return {
        f"{path}.{name}": p
        for path, module in labelled_modules(model)
        for name, p in module.named_parameters(recurse=False)
    }


@everywhere
def test_every_parameter_is_reached_by_some_loss(pair):
    model = model_of(pair)
    losses = losses_of(model, model(x_of(pair)))
    found = set().union(*(reached(loss) for loss in losses.values()))
    missing = [name for name, p in model.named_parameters() if p not in found]
    assert not missing


def test_heads_are_each_tasks_own(pair):
    model = model_of(pair)
    rows = rows_for(list(model.tasks.values()), missing=0.3, layout=layout_of(pair[1].word))
    losses = Supervised()(model, Batch({"t": rows}), Trace(cut=True))
    found = Gradients(losses, losses.cut)
    shared, own = found.shared or [], found.own
    for task in model.tasks:
        alone = used_by(model, x_of(pair), task) == [task]
        for p in model.heads[task].parameters():
            assert any(p is q for q in own[task]) == alone
            assert any(p is q for q in shared) != alone


def _in_order(pair, tasks):
    """A scheme for which the order of tasks has a meaning, with this one as its setting."""
    scheme, encoder = pair
    if setting := scheme.cls.ordered:
        order = model_of(pair, tasks).sharing.order
        scheme = replace(scheme, settings={**scheme.settings, setting: order})
    return scheme, encoder


def test_the_order_of_tasks_does_not_matter(pair):
    tasks = five_tasks()
    pair = _in_order(pair, tasks)
    one, other = model_of(pair, tasks), model_of(pair, tasks[::-1])
    a, b = _named(one), _named(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    x = x_of(pair)
    out, tuo = one(x), other(x)
    assert set(out) == set(tuo) == {t.name for t in tasks}
    for task in out:
        assert torch.equal(out[task], tuo[task]), task


def test_a_further_task_leaves_the_others_bit_equal(pair):
    tasks = five_tasks()
    pair = _in_order(pair, tasks)
    few, more = (
        model_of(pair, tasks),
        model_of(pair, [find(Task, "regression")("new"), *tasks, find(Task, "count")("n")]),
    )
    a, b = _named(few), _named(more)
    if pair[0].cls.entangled:  # a weight per pair of tasks is one more; all others start as they did
        assert all(torch.equal(a[k], b[k]) for k in a if a[k].shape == b[k].shape)
        return
    assert all(torch.equal(a[k], b[k]) for k in a)
    x = x_of(pair)
    for task in few.tasks:
        assert torch.equal(few(x)[task], more(x)[task]), task


def test_a_seed_is_a_start(pair):
    a, b, c = _named(model_of(pair)), _named(model_of(pair)), _named(model_of(pair, seed=1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a if a[k].dim() > 1)


def test_odd_names(pair, tmp_path):
    tasks = [find(Task, "regression" if i < 4 else "binary")(name) for i, name in enumerate(ODD)]
    model = model_of(pair, tasks)
    outputs = model(x_of(pair))
    assert set(outputs) == set(ODD)
    sum(losses_of(model, outputs).values()).backward()
    assert all(p.grad is not None for p in model.heads.parameters())
    assert not torch.equal(outputs["Buy"], outputs["buy"])


@everywhere
def test_some_tasks_are_as_all(pair):
    model = model_of(pair)
    x = x_of(pair)
    every = model(x)
    for wanted in (["a"], ["d"], ["e"], ["c", "a"], ["d", "b", "a"]):
        some = model(x, wanted)
        assert set(some) == set(wanted)
        for task in wanted:
            assert torch.allclose(some[task], every[task], rtol=1e-5, atol=1e-6), (wanted, task)


@everywhere
def test_the_cut(pair, float64):
    """One backward pass through the heads, then one through the trunk, is one plain backward pass."""
    model = model_of(pair).double()
    x = x_of(pair)
    plain = torch.autograd.grad(sum(losses_of(model, model(x)).values()), list(model.parameters()), allow_unused=True)
    trace = Trace(cut=True)
    losses = losses_of(model, model(x, trace=trace))
    if not trace.cut:
        pytest.skip("nothing is shared here")
    pairs = [(task, shared, view) for task, cuts in trace.cut.items() for shared, view in cuts]
    views = [v for _, _, v in pairs]
    for task, loss in losses.items():
        found = torch.autograd.grad(loss, views, retain_graph=True, allow_unused=True)
        for (owner, _, _), g in zip(pairs, found, strict=True):
            assert g is None or owner == task
        assert any(g is not None for (owner, _, _), g in zip(pairs, found, strict=True) if owner == task)
    beneath = set().union(*(reached(shared) for _, shared, _ in pairs))
    trunk = [p for p in model.parameters() if p in beneath]
    above = [p for p in model.parameters() if p not in beneath]
    found = torch.autograd.grad(sum(losses.values()), [*views, *above], retain_graph=True)
    down = found[: len(views)]
    below = torch.autograd.grad([s for _, s, _ in pairs], trunk, list(down), allow_unused=True)
    joined = dict(zip(map(id, [*trunk, *above]), [*below, *found[len(views) :]], strict=True))
    for p, g in zip(model.parameters(), plain, strict=True):
        assert (g is None) == (joined[id(p)] is None)
        if g is not None:
            assert torch.allclose(joined[id(p)], g, rtol=0, atol=1e-9)


def test_the_graph_tells_whose_is_whose(pair):
    """With losses kept apart, each reaches just the weights that it reaches where its task is asked alone."""
    model = model_of(pair)
    together = losses_of(model, model(x_of(pair), trace=Trace(cut=True)))
    for task, loss in together.items():
        alone = Trace(cut=True)
        found = reached(losses_of(model, model(x_of(pair), [task], trace=alone))[task])
        assert reached(loss) == found


def test_a_trace_changes_nothing(pair):
    model = model_of(pair)
    x = x_of(pair)
    plain, traced = model(x), model(x, trace=Trace(cut=True))
    for task in plain:
        assert torch.allclose(plain[task], traced[task], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", [s for s in catalogue(Sharing) if s.cls.attaches], ids=str)
def test_a_task_at_a_lower_stage_reaches_nothing_above(scheme):
    encoder = next(e for e in catalogue(Encoder) if e.word == "tabular")
    tasks = [
        replace(five_tasks()[0], attach=0),
        replace(five_tasks()[1], attach=1),
        replace(five_tasks()[2], attach=-1),
    ]
    tasks.append(find(Task, "regression")("two", attach=(0, 2)))
    model = build(scheme, encoder, tasks).eval()
    x = inputs_of(layout_of("tabular"))
    losses = losses_of(model, model(x))
    for stage, params in enumerate(_stage_parameters(model)):
        if not params:
            continue
        assert not params & reached(losses["a"]) or stage == 0
        assert not params & reached(losses["b"]) or stage <= 1
        if stage == len(_stage_parameters(model)) - 1:
            assert params & reached(losses["c"])
            assert params & reached(losses["two"])
    ran = []
    hooks = [
        m.register_forward_hook(lambda m, i, o, k=k: ran.append(k))
        for module in model.sharing.modules()
        if isinstance(module, Encoder)
        for k, m in enumerate(module.stages)
    ]
    model(x, ["b"])
    assert set(ran) <= {0, 1}
    ran.clear()
    model(x, ["a"])
    assert set(ran) == {0}
    for hook in hooks:
        hook.remove()
    with pytest.raises(ValueError, match=r"`a`.*`attach`"):
        build(scheme, encoder, [replace(tasks[0], attach=99)])


def _stage_parameters(model):
    encoders = [m for m in model.sharing.modules() if isinstance(m, Encoder)]
    return [
        {p for e in encoders for p in e.stages[i].parameters()} for i in range(max(len(e.stages) for e in encoders))
    ]


def test_state_dict_and_back(pair):
    one, other = model_of(pair, seed=0), model_of(pair, seed=1)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = x_of(pair)
    for task in one.tasks:
        assert torch.equal(one(x)[task], other(x)[task])


def test_two_tables_have_their_own_entrance_and_one_head(pair):
    model = model_of(pair, tables=2)
    for m in model.sharing.modules():
        if isinstance(m, pair[1].cls):
            assert set(m.stages[0]) == {"t0", "t1"}
    tasks = list(model.tasks.values())
    parts = {f"t{i}": rows_for(tasks, 8 + i, 0.2, i, layout_of(pair[1].word, i)) for i in range(2)}
    losses = Supervised()(model, Batch(parts))
    assert set(losses) == set(model.tasks)
    found = set().union(*(reached(loss) for loss in losses.values()))
    assert all(p in found for p in model.parameters())
    alone = Supervised()(model, Batch({"t0": parts["t0"]}))
    for m in model.sharing.modules():
        if isinstance(m, pair[1].cls) and not m.one_entrance:
            assert not set(m.stages[0]["t1"].parameters()) & reached(alone["a"])
    head = set(model.heads["a"].parameters())
    assert head <= reached(alone["a"])
    assert head <= reached(Supervised()(model, Batch({"t1": parts["t1"]}))["a"])


@pytest.mark.parametrize("pair", spread())
def test_every_scheme_meets_every_balance(pair):
    for balance in catalogue(Balance):
        model = model_of(pair)
        rows = rows_for(list(model.tasks.values()), layout=layout_of(pair[1].word))
        arrow = balance()

        def look(tasks=None, model=model, rows=rows, arrow=arrow):
            part = rows if tasks is None else rows.only(tasks)
            return Supervised()(model, Batch({"t": part}), Trace(cut=arrow.cut))

        assert arrow.backward(look(), look)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_transform_is_what_the_head_reads(pair):
    model = model_of(pair)
    x = x_of(pair)
    features = model.transform(x, task="d")
    assert features.shape == (12, sum(model.sharing.widths("d")))
    assert torch.allclose(model.heads["d"](features), model(x)["d"], rtol=1e-5, atol=1e-6)
    assert isinstance(model, Model)
