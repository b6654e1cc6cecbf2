"""The laws of an Estimator of relatedness, over all of them: what it says, and that looking changes nothing."""

from __future__ import annotations

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from cases import build, catalogue, five_tasks, layout_of, rows_for, small_tasks
from torch import nn

from manyheads.affinity import Estimator
from manyheads.affinity.pairs import Together
from manyheads.affinity.probe import Probe, untouched
from manyheads.affinity.singles import Singles
from manyheads.affinity.watch import Watch, interval
from manyheads.balance import Balance
from manyheads.blocks import Dropout
from manyheads.catalog import find
from manyheads.data import Batch
from manyheads.data.sampler import Sampler
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError
from manyheads.objectives import Supervised
from manyheads.sharing import Sharing
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.train import Training

TABULAR = next(c for c in catalogue(Encoder) if c.word == "tabular")
HARD = next(c for c in catalogue(Sharing) if c.word == "hard")
EVERY = catalogue(Estimator)
JOINT = [c for c in EVERY if c.cls.looks_at == "joint"]


def _probe(tasks, missing=0.0, model=None):
    model = model if model is not None else build(HARD, TABULAR, tasks)
    with untouched(model):
        return Probe(model, {t.name: t for t in tasks}, Batch({"t0": rows_for(small_tasks(), 24, missing)}), 0.01)


def _singles(tasks):
    models = {t.name: build(HARD, TABULAR, [t], seed=i + 3) for i, t in enumerate(small_tasks())}
    known = {t.name: t for t in tasks}
    rows = {part: {"t0": rows_for(small_tasks(), 80, 0.2, seed)} for part, seed in (("train", 0), ("held", 9))}
    tables = {t.name: ("t0",) for t in tasks}
    return Singles({t.name: models[t.name] for t in tasks}, known, rows["train"], rows["held"], tables)


def _together(tasks):
    rng = np.random.default_rng(0)
    names = sorted(t.name for t in tasks)
    alone = {name: float(rng.random()) for name in names}
    paired = {(a, b): float(rng.random()) for a in names for b in names if a != b}
    up = {name: i % 2 == 0 for i, name in enumerate(names)}
    order = [t.name for t in tasks]
    return Together({n: alone[n] for n in order}, paired, dict.fromkeys(order, 2.0), up)


SEEN = {"joint": _probe, "single": _singles, "pairs": _together}


def _read(case, tasks=None):
    """What an estimator reads of a small world."""
    tasks = tasks or small_tasks()
    seen = SEEN[case.cls.looks_at](tasks)
    if case.cls.looks_at != "joint":
        return case().measure(seen)
    with untouched(seen.model):
        return case().measure(seen)


@pytest.fixture(params=EVERY, ids=str)
def case(request):
    return request.param


@pytest.fixture(params=JOINT, ids=str)
def watching(request):
    return request.param


def test_it_says_what_it_looks_at_and_what_a_number_is(case):
    assert case.cls.looks_at in SEEN
    assert isinstance(case.cls.directed, bool)
    assert isinstance(case.cls.gain, bool)
    assert case.cls.unit
    assert "Reference:" in case.cls.__doc__
    assert "Cost:" in case.cls.__doc__


def test_every_pair_has_a_finite_number_or_a_reason(case):
    reading = _read(case)
    names = [t.name for t in small_tasks()]
    for a in names:
        for b in names:
            if a != b:
                assert ((a, b) in reading.cells) != ((a, b) in reading.missing)
    for cells in (reading.cells, *reading.parts.values()):
        assert all(np.isfinite(v) for v in cells.values())
        assert set(cells) <= {(a, b) for a in names for b in names}
    assert len(reading.cells) >= 12


def test_what_is_not_directed_is_symmetric(case):
    cells = _read(case).cells
    same = all(cells[a, b] == pytest.approx(cells[b, a], abs=1e-12) for a, b in cells)
    assert same == (not case.cls.directed)


def test_the_order_of_the_tasks_does_not_matter(case, float64):
    one, other = _read(case), _read(case, small_tasks()[::-1])
    assert one.cells.keys() == other.cells.keys()
    for pair, value in one.cells.items():
        assert other.cells[pair] == pytest.approx(value, abs=1e-9)


def test_measuring_leaves_models_and_random_numbers_as_they_were(case):
    tasks = small_tasks()
    seen = SEEN[case.cls.looks_at](tasks)
    models = {"joint": lambda: [seen.model], "single": lambda: list(seen.models.values()), "pairs": list}
    nets = models[case.cls.looks_at]()
    for net in nets:
        net.train()
        next(iter(net.modules())).training = False  # modes that differ are kept too
    before = deepcopy([net.state_dict() for net in nets])
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    if case.cls.looks_at == "joint":
        with untouched(seen.model):
            case().measure(seen)
    else:
        case().measure(seen)
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    assert np.random.get_state()[1].tolist() == drawn[2]
    for net, state in zip(nets, before, strict=True):
        for name, value in net.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert all(p.grad is None for p in net.parameters())
        assert [m.training for m in net.modules()][:2] == [False, True]


# -- a joint run that is watched


class _Net(nn.Module):
    """Somebody's own module, with running statistics and dropout, which the library does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 1), "b": nn.Linear(8, 1), "c": nn.Linear(8, 1)})

    def forward(self, x):
        z = self.trunk(x["numeric"])
        return {name: head(z) for name, head in self.heads.items()}


def _run(watch, sharing=None, balance="equal", schedule="joint", folder=None, epochs=3, tables=1):
    """A short run; everything that its future would depend on."""
    tasks = small_tasks()[:3] if sharing is None else five_tasks()
    torch.manual_seed(0)
    model = _Net() if sharing is None else build(sharing, TABULAR, tasks, tables=tables, dropout=0.2)
    train = {f"t{i}": rows_for(tasks, 40, 0.4, i, layout_of("tabular", i)) for i in range(tables)}
    valid = {f"t{i}": rows_for(tasks, 30, 0.2, 5 + i, layout_of("tabular", i)) for i in range(tables)}
    if sharing is None:
        train, valid = ({"": own["t0"]} for own in (train, valid))
    sampler = Sampler(train, 8, schedule=schedule, seed=4)
    optim = OptimSpec(lr=0.01, weight_decay=0.1)
    settings = TrainerSpec(max_epochs=epochs, accelerator="cpu", patience=None)
    training = Training(
        model, sampler, valid, tasks, Supervised(tasks if sharing is None else None), find(Balance, balance)(), optim,
        settings, seed=1, folder=folder, callbacks=[] if watch is None else [watch],
    )  # fmt: skip
    training.run()
    return training


def _equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _watch(case, every=2):
    return Watch({case.word: case()}, every)


SCHEMES = [None, *(c for c in catalogue(Sharing) if c.word not in ("esmm", "aitm") and not c.settings)]


@pytest.mark.parametrize("sharing", SCHEMES, ids=lambda c: "own module" if c is None else str(c))
def test_a_watched_run_is_bit_equal_to_one_that_is_not(watching, sharing):
    watch = _watch(watching)
    seen, plain = _run(watch, sharing), _run(None, sharing)
    assert _equal(seen.state_dict(), plain.state_dict())
    assert all(
        _equal(p.grad, q.grad) if p.grad is not None else q.grad is None
        for p, q in zip(seen.model.parameters(), plain.model.parameters(), strict=True)
    )
    looks = watch.readings[watching.word]
    assert [step for step, _ in looks] == list(range(2, seen.step + 1, 2))


@pytest.mark.parametrize("balance", ["upgrad", "gradnorm", "famo", "dwa"])
def test_so_it_is_with_balances_that_remember(watching, balance):
    assert _equal(_run(_watch(watching), HARD, balance).state_dict(), _run(None, HARD, balance).state_dict())


def test_so_it_is_where_a_step_learns_one_task_and_all_are_seen(watching):
    watch = _watch(watching)
    seen, plain = (_run(w, HARD, schedule="alternating") for w in (watch, None))
    assert _equal(seen.state_dict(), plain.state_dict())
    pairs = {pair for _, reading in watch.readings[watching.word] for pair in reading.cells}
    assert {("a", "c"), ("c", "a")} <= pairs


def test_tables_of_their_own_are_seen_together(watching):
    watch = _watch(watching)
    seen, plain = (_run(w, HARD, tables=2) for w in (watch, None))
    assert _equal(seen.state_dict(), plain.state_dict())
    assert all(np.isfinite(v) for _, reading in watch.readings[watching.word] for v in reading.cells.values())


def test_a_resumed_run_sees_what_an_uninterrupted_one_would(watching, tmp_path):
    whole, rest = _watch(watching), _watch(watching)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    _run(whole, HARD, folder=tmp_path / "a", epochs=4)
    _run(_watch(watching), HARD, folder=tmp_path / "b", epochs=2)
    again = _run(None, HARD, epochs=0)
    again.folder, again.callbacks = tmp_path / "b", [rest]
    again.settings = again.settings.model_copy(update={"max_epochs": 4})
    assert again.resume()
    again.finished = False
    again.run()
    late = [(s, r) for s, r in whole.readings[watching.word] if s > 2 * again.sampler.n_steps]
    assert late
    assert [(s, r.cells) for s, r in late] == [(s, r.cells) for s, r in rest.readings[watching.word]]


@pytest.mark.parametrize("encoder", catalogue(Encoder), ids=str)
def test_sources_side_by_side_are_as_in_turn(watching, encoder, monkeypatch):
    """Whatever is read: where torch cannot batch it, there is another way, and nobody is told."""
    tasks = small_tasks()
    layout = layout_of(encoder.word)
    model = build(HARD, encoder, tasks)
    batch = Batch({"t0": rows_for(tasks, 12, 0.2, layout=layout)})
    found = []
    for alone in (False, True):
        if alone:
            monkeypatch.setattr("manyheads.affinity.probe.batchable", lambda model: False)
        with untouched(model):
            found.append(watching().measure(Probe(model, {t.name: t for t in tasks}, batch, 0.05)))
    assert len(found[0].cells) == 16
    for pair, value in found[0].cells.items():
        assert found[1].cells[pair] == pytest.approx(value, abs=1e-5, rel=1e-4)


def test_a_look_is_without_dropout(watching):
    model = build(HARD, TABULAR, small_tasks(), dropout=0.5)
    assert any(isinstance(m, Dropout | nn.Dropout) for m in model.modules())
    first, second = _probe(small_tasks(), model=model), _probe(small_tasks(), model=model)
    assert first.losses == second.losses


def test_a_task_without_a_label_is_left_out(watching):
    tasks = small_tasks()
    rows = rows_for(tasks, 24, 0.0, b=torch.zeros(24, dtype=torch.bool))
    model = build(HARD, TABULAR, tasks)
    with untouched(model):
        reading = watching().measure(Probe(model, {t.name: t for t in tasks}, Batch({"t0": rows}), 0.01))
    assert {t for pair in reading.cells for t in pair} == {"a", "c", "d"}


def test_where_nothing_shared_learns_there_is_a_reason(watching):
    model = build(HARD, TABULAR, small_tasks())
    for p in model.sharing.parameters():
        p.requires_grad_(False)
    seen = _probe(small_tasks(), model=model)
    with untouched(model):
        reading = watching().measure(seen)
    assert not reading.cells
    assert set(reading.missing.values()) == {"The two have no parameter that learns in common."}


def test_looks_keep_their_distance():
    assert interval(2, 10_000) == 10
    assert interval(8, 10_000) == 12
    assert interval(8, 50) == 5
    assert interval(8, 3) == 1
    with pytest.raises(ConfigError, match=r"`every` should be at least 1\. Found 0"):
        Watch({}, 0)
