"""The laws of ranges: each names a setting, holds its default, and both of its ends can be built and learn."""

from __future__ import annotations

import pytest
import torch
from cases import Case, build, catalogue, five_tasks, inputs_of, layout_of, targets_for

from manyheads import config
from manyheads.balance import Balance
from manyheads.catalog import find, index, settings
from manyheads.encoders import Encoder
from manyheads.objectives import Objective
from manyheads.penalties import Penalty
from manyheads.ranges import Range
from manyheads.sharing import Sharing
from manyheads.spec import OptimSpec, dumped
from manyheads.tasks import Task
from manyheads.tune.space import space_of

CONTRACTS = (Task, Encoder, Sharing, Balance, Penalty, Objective)
RANGES = [
    pytest.param(contract, word, key, range_, id=f"{word}.{key}")
    for contract in CONTRACTS
    for word in index(contract)
    for key, range_ in find(contract, word).search.items()
]


@pytest.mark.parametrize(("contract", "word", "key", "range_"), RANGES)
def test_a_range_names_a_setting_and_holds_its_default(contract, word, key, range_):
    known = settings(find(contract, word))
    assert key in known, f"`{word}` has no setting `{key}`."
    assert known[key] in range_
    assert Range.of(range_.to_json()) == range_


def _first(contract, word):
    """The settings that a class needs, and no more."""
    return next(case.settings for case in catalogue(contract) if case.word == word)


def _learns(model, encoder):
    n = 6
    outputs = model(inputs_of(layout_of(encoder), n), tuple(model.tasks), "t0")
    losses = {
        t.name: t.mean_loss(outputs[t.name], targets_for(t, n, i), torch.ones(n, dtype=torch.bool))
        for i, t in enumerate(model.tasks.values())
    }
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("contract", "word", "key", "range_"), [p for p in RANGES if p.values[0] is Encoder])
def test_an_encoder_can_be_built_at_both_ends(contract, word, key, range_):
    for end in range_.ends():
        case = Case(word, find(Encoder, word), {**_first(Encoder, word), key: end})
        _learns(build(Case("hard", find(Sharing, "hard")), case, five_tasks()), word)


@pytest.mark.parametrize(("contract", "word", "key", "range_"), [p for p in RANGES if p.values[0] is Sharing])
def test_a_sharing_scheme_can_be_built_at_both_ends(contract, word, key, range_):
    for end in range_.ends():
        encoder = Case("tabular", find(Encoder, "tabular"), {"d_hidden": 8, "n_layers": 1})
        _learns(build(Case(word, find(Sharing, word), {key: end}), encoder, five_tasks()), "tabular")


@pytest.mark.parametrize(("contract", "word", "key", "range_"), [p for p in RANGES if p.values[0] is Balance])
def test_a_balance_steps_at_both_ends(contract, word, key, range_):
    for end in range_.ends():
        torch.manual_seed(0)
        trunk = torch.nn.Linear(4, 3)
        heads = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 1), "b": torch.nn.Linear(3, 1)})
        z = trunk(torch.randn(8, 4))
        losses = {name: (head(z) - 1).square().mean() for name, head in heads.items()}
        balance = find(Balance, word)(**{**_first(Balance, word), key: end})

        def look(tasks=None, trunk=trunk, heads=heads):
            z = trunk(torch.randn(8, 4))
            return {name: (heads[name](z) - 1).square().mean() for name in tasks or heads}

        assert balance.backward(losses, look)
        assert torch.isfinite(trunk.weight.grad).all()


@pytest.mark.parametrize(("contract", "word", "key", "range_"), [p for p in RANGES if p.values[0] is Penalty])
def test_a_penalty_can_be_made_at_both_ends(contract, word, key, range_):
    for end in range_.ends():
        assert getattr(find(Penalty, word)(**{**_first(Penalty, word), key: end}), key) == end


def test_ranges_of_the_optimiser_hold_what_is_used_by_default():
    assert OptimSpec().lr in OptimSpec.search["lr"]
    assert OptimSpec().decay in OptimSpec.search["weight_decay"]
    assert set(OptimSpec.search) <= set(OptimSpec.model_fields)


def _config(**model_and_optim):
    tasks = {"a": {"type": "binary"}, "b": {"type": "regression"}}
    return config.check({"tasks": tasks, "model": {"encoder": "tabular"}} | model_and_optim)


CHOSEN = [
    *(("model", "encoder", w) for w in index(Encoder)),
    *(("model", "sharing", w) for w in index(Sharing)),
    *(("optim", "balance", w) for w in index(Balance)),
    *(("optim", "penalties", w) for w in index(Penalty)),
]


@pytest.mark.parametrize(("section", "key", "word"), CHOSEN, ids=[f"{k}={w}" for _, k, w in CHOSEN])
def test_a_config_holds_at_the_corners_of_its_space(section, key, word):
    contract = {"encoder": Encoder, "sharing": Sharing, "balance": Balance, "penalties": Penalty}[key]
    part = {"name": word, **_first(contract, word)}
    if key == "encoder":
        part = {"name": word}  # the example's settings may lie outside, for the sake of speed
    model = {"encoder": "tabular"}
    spec = _config(**{"model": model} | {section: {**(model if section == "model" else {}), key: part}})
    space = space_of(spec)
    names = {n for n, e in space.entries.items() if e.path[:2] == (section, key)}
    given = set(part) if key != "encoder" else set()
    assert len(names) >= len(set(find(contract, word).search) - given)
    for corner in (0, -1):
        found = {name: entry.range.ends()[corner] for name, entry in space.entries.items()}
        changed = dumped(space.applied(spec, found))
        assert changed["optim"]["lr"] == found["optim.lr"]
    assert config.applied(spec, space.overrides(spec, found)) == space.applied(spec, found)


def test_the_config_itself_is_in_its_space():
    for section, key, word in CHOSEN:
        if key in ("encoder", "sharing"):
            spec = _config(model={"encoder": "tabular", key: word})
            own = space_of(spec).own(spec)
            assert own is not None, f"{section}.{key}={word}"
            assert own["optim.lr"] == 3e-3
