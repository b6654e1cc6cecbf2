"""The laws of members run as one, over every scheme and every encoder."""

from __future__ import annotations

import pytest
import torch
from cases import layout_of, rows_for
from pairs import kinds, losses_of, model_of, used_by, x_of

from manyheads.data import Batch
from manyheads.gradients.gramian import Gradients
from manyheads.model import Ensemble
from manyheads.objectives import Supervised
from manyheads.sharing import Trace


@pytest.fixture(params=kinds())
def pair(request):
    return request.param


def _together(pair):
    """Leave out what no two members of can be run as one, for the reason that its class gives."""
    if pair[1].cls.alone:
        pytest.skip(pair[1].cls.alone)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_an_ensemble_is_its_members(pair, dtype, tolerance):
    _together(pair)
    torch.set_default_dtype(dtype)
    try:
        members = [model_of(pair, seed=m).to(dtype) for m in range(3)]
        ensemble = Ensemble(members).eval()
        x = x_of(pair)
        together = ensemble(x)
        for task in together:
            alone = torch.stack([m(x)[task] for m in members])
            assert torch.allclose(together[task], alone, rtol=tolerance, atol=tolerance), task
        sum(losses_of(ensemble, together).values()).backward()
        for member in members:
            (sum(losses_of(member, member(x)).values()) / len(members)).backward()
        for name, stacked in zip(ensemble.names, ensemble.weights, strict=True):
            alone = torch.stack([dict(m.named_parameters())[name].grad for m in members])
            assert torch.allclose(stacked.grad, alone, rtol=10 * tolerance, atol=10 * tolerance), name
        features = ensemble.transform(x)
        assert torch.allclose(features, torch.cat([m.transform(x) for m in members], 1), atol=10 * tolerance)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_ensemble_saves_and_loads(pair):
    _together(pair)
    ensembles = [Ensemble.of(lambda s: model_of(pair, seed=s), 2, seed).eval() for seed in (0, 1)]
    ensembles[1].load_state_dict(ensembles[0].state_dict())
    x = x_of(pair)
    for task in ensembles[0].tasks:
        assert torch.equal(ensembles[0](x)[task], ensembles[1](x)[task])
    first = Ensemble.of(lambda s: model_of(pair, seed=s), 2, 5).eval()(x)["a"][0]
    assert torch.allclose(first, model_of(pair, seed=5)(x)["a"], atol=1e-6)


def test_an_ensemble_can_be_traced(pair):
    _together(pair)
    """It has no cut, but the graph still tells whose head is whose, and no tensor of a member leaks out of `vmap`."""
    ensemble = Ensemble([model_of(pair, seed=m) for m in range(2)]).eval()
    trace = Trace(cut=True)
    rows = rows_for(list(ensemble.tasks.values()), layout=layout_of(pair[1].word))
    losses = Supervised()(ensemble, Batch({"t": rows}), trace)
    assert losses.cut is None
    assert all(value.dim() == 0 for value in trace.aux.values())
    own = Gradients(losses).own
    weights = dict(zip(ensemble.names, ensemble.weights, strict=True))
    for task, key in ensemble.base.heads.keys_of.items():
        users = used_by(model_of(pair), x_of(pair), task)
        for w in (w for n, w in weights.items() if n.startswith(f"heads.{key}.")):
            assert [t for t in own if any(w is p for p in own[t])] == (users if len(users) == 1 else [])
    plain = Supervised()(ensemble, Batch({"t": rows}))
    assert all(torch.allclose(losses[t], plain[t], rtol=1e-5) for t in plain)
