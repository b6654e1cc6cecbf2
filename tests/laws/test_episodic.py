"""The laws of objectives that learn from episodes: with every balance, each head its own gradient, nobody is zero."""

from __future__ import annotations

import pytest
import torch
from cases import Case, build, inputs_of, layout_of, targets_for

from manyheads.balance import Balance
from manyheads.catalog import find, index
from manyheads.data import Batch, Block, Taskset
from manyheads.encoders import Encoder
from manyheads.objectives import Objective
from manyheads.sharing import Sharing
from manyheads.tasks import Task

WORDS = [w for w in index(Objective) if find(Objective, w)().shape is not None and w != "proto"]
"""Prototypes are of one task."""
BALANCES = ("equal", "uncertainty", "dwa", "famo", "mgda", "upgrad", "cagrad", "nashmtl", "pcgrad", "graddrop")
OWN = {"mgda", "upgrad", "cagrad", "nashmtl", "pcgrad"}
"""Those that leave a head exactly its own gradient."""


def _there(known=None, sharing="hard"):
    """(model, episodes): two tasks, the second known where `known` says."""
    tasks = [find(Task, "regression")("a"), find(Task, "binary")("b", classes=(0, 1))]
    model = build(Case(sharing, find(Sharing, sharing)), Case("tabular", find(Encoder, "tabular")), tasks)
    model = model.double().eval()  # without dropout
    n, position = 40, torch.arange(40) % 10
    rows = Taskset(
        inputs_of(layout_of("tabular"), n),
        tuple(
            Block((t.name,), targets_for(t, n, i), torch.ones(n, dtype=torch.bool) if known is None or not i else known)
            for i, t in enumerate(tasks)
        ),
        domain=torch.arange(4).repeat_interleave(10),
        support=position < 5,
    ).to(torch.float64)
    return model, Batch({"t0": rows})


def _gradients(model, word, batch, balance=None, task=None):
    objective = find(Objective, word)(inner_lr=0.1, inner_steps=2)
    objective.attach(model)
    model.zero_grad(set_to_none=True)

    def look(tasks=None):
        parts = batch if tasks is None else Batch({t: rows.only(tasks) for t, rows in batch.items()})
        return objective(model, parts)

    losses = look()
    if task is not None:
        losses[task].backward()
    else:
        assert find(Balance, balance)().backward(losses, look)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("word", WORDS)
def test_it_works_with_a_balance(word, balance):
    model, batch = _there()
    found = _gradients(model, word, batch, balance)
    assert all(g.isfinite().all() for g in found.values())
    assert any(n.startswith("sharing.") and g.abs().sum() > 0 for n, g in found.items())
    if balance in OWN and not find(Objective, word).entangled:
        for i, task in enumerate(("a", "b")):
            alone = _gradients(_there()[0], word, batch, task=task)
            for name in (n for n in found if n.startswith(f"heads.t{i}.")):
                torch.testing.assert_close(found[name], alone[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("word", WORDS)
def test_a_task_without_a_label_is_absent(word):
    model, batch = _there(torch.zeros(40, dtype=torch.bool))
    losses = find(Objective, word)()
    losses.attach(model)
    found = losses(model, batch)
    assert found.tasks == ("a",)
    found["a"].backward()
    assert all(p.grad is None for p in model.heads["b"].parameters())


@pytest.mark.parametrize("word", WORDS)
def test_a_task_of_some_episodes_is_a_mean_over_those(word):
    """Labels of b in two episodes of four: as if the others were not there."""
    model, batch = _there(torch.arange(40) < 20)
    objective = find(Objective, word)(inner_lr=0.1)
    objective.attach(model)
    rows = batch["t0"]
    two = Batch({"t0": rows.take(torch.arange(20))})
    torch.testing.assert_close(objective(model, batch)["b"], objective(model, two)["b"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharing", ["mmoe", "ple", "soft", "crossstitch", "mtan", "lowrank"])
def test_side_by_side_is_one_by_one_under_any_sharing(sharing):
    model, batch = _there(sharing=sharing)
    found = [find(Objective, "maml")(inner_lr=0.1, vectorised=v)(model, batch) for v in (True, False)]
    torch.testing.assert_close(found[0].vector, found[1].vector, rtol=1e-10, atol=1e-12)
    found[0].vector.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
