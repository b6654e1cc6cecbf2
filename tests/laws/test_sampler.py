"""The laws of the sampler."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import inputs_of, layout_of, rows_for, small_tasks

from manyheads.catalog import find
from manyheads.data import Block, Taskset
from manyheads.data.sampler import MODES, SCHEDULES, Sampler
from manyheads.faults import ConfigError
from manyheads.ragged import Ragged
from manyheads.tasks import Task

GLUE = (6680, 2865, 306798, 1945, 4491, 52616, 284257, 84715)
"""METHODS.md section 7: sizes and probabilities."""
EXPECTED = {
    1: (0.009, 0.004, 0.412, 0.003, 0.006, 0.071, 0.382, 0.114),
    2: (0.044, 0.029, 0.299, 0.024, 0.036, 0.124, 0.288, 0.157),
    5: (0.091, 0.077, 0.196, 0.071, 0.084, 0.137, 0.193, 0.151),
}


def _table(n, task="y", seed=0):
    target = torch.arange(n, dtype=torch.float32)
    return Taskset({"numeric": target.unsqueeze(1)}, (Block((task,), target, torch.ones(n, dtype=torch.bool)),))


def _tables(*sizes):
    return {f"t{i}": _table(n, f"y{i}") for i, n in enumerate(sizes)}


def _mixed():
    """Two tables with missing labels; task `a` is in both."""
    tasks = small_tasks()
    return {"one": rows_for(tasks, 50, 0.5, 0), "two": rows_for(tasks[:2], 31, 0.3, 1)}


def _settings(mode, units):
    return {"weights": {u: i + 1.0 for i, u in enumerate(units)}} if mode == "specified" else {}


def _sampler(mode, schedule, tables=None, batch_size=8, **more):
    tables = _mixed() if tables is None else tables
    units = Sampler(tables, batch_size, schedule=schedule).units
    return Sampler(tables, batch_size, mode=mode, schedule=schedule, **{**_settings(mode, units), **more})


@pytest.fixture(params=[(m, s) for m in MODES for s in SCHEDULES], ids=lambda p: "-".join(p))
def how(request):
    return request.param


@pytest.mark.parametrize("temperature", [1, 2, 5])
def test_temperature_reference_vectors(temperature):
    sampler = Sampler(_tables(*GLUE), 64, mode="temperature", temperature=temperature)
    assert [round(p, 3) for p in sampler.probabilities().values()] == pytest.approx(EXPECTED[temperature], abs=6e-4)


def test_probabilities_are_the_literal_formulas():
    sizes = np.array([10.0, 40.0, 250.0])
    tables = _tables(10, 40, 250)

    def of(epoch=0, **settings):
        return list(Sampler(tables, 16, **settings).probabilities(epoch).values())

    assert of(mode="proportional") == pytest.approx(sizes / sizes.sum())
    assert of(mode="uniform") == pytest.approx([1 / 3] * 3)
    assert of(mode="round_robin") == pytest.approx([1 / 3] * 3)
    assert of(mode="temperature", temperature=1e9) == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert of(mode="specified", weights={"t0": 2, "t2": 5}) == pytest.approx([2 / 8, 1 / 8, 5 / 8])
    for epoch in range(6):
        a = 1 - 0.8 * epoch / 4 if epoch < 4 else 0.2
        assert of(epoch, mode="annealed", max_epochs=5) == pytest.approx(sizes**a / (sizes**a).sum())
    assert of(mode="annealed", max_epochs=1) == pytest.approx(sizes / sizes.sum())


def test_an_epoch_is_a_pure_function_of_seed_and_epoch(how):
    one, other, third = (_sampler(*how, max_epochs=5, seed=s) for s in (3, 3, 4))
    for epoch in (2, 0, 4):
        for a, b in zip(one.plan(epoch), other.plan(epoch), strict=True):
            assert torch.equal(a.rows, b.rows)
            assert a.task == b.task
    assert any(not torch.equal(a.rows, b.rows) for a, b in zip(one.plan(0), third.plan(0), strict=False))
    assert any(not torch.equal(a.rows, b.rows) for a, b in zip(one.plan(0), one.plan(1), strict=False))


def test_resuming_in_the_middle_needs_no_state(how):
    straight = [
        [(d.rows.tolist(), d.task) for d in _sampler_plan]
        for _sampler_plan in map(_sampler(*how, max_epochs=6).plan, range(6))
    ]
    resumed = _sampler(*how, max_epochs=6)
    assert [[(d.rows.tolist(), d.task) for d in resumed.plan(e)] for e in (4, 5)] == straight[4:]


@pytest.mark.parametrize("mode", MODES)
def test_every_row_of_one_table_comes_once_an_epoch(mode):
    sampler = _sampler(mode, "joint", {"t": _table(103)})
    assert sampler.n_steps == len(sampler.plan(0)) == 13
    for epoch in range(3):
        draws = sampler.plan(epoch)
        assert torch.cat([d.rows for d in draws]).sort().values.tolist() == list(range(103))
        assert [len(d.rows) for d in draws] == [8] * 12 + [7]
        assert all(d.task is None for d in draws)


def _unit_counts(sampler, epochs):
    """Times each unit's rows were drawn, per unit."""
    counts = Counter()
    where = {int(r): u for u, rows in sampler.units.items() for r in rows}
    for epoch in epochs:
        for draw in sampler.plan(epoch):
            for row in draw.rows.tolist():
                counts[draw.task if draw.task is not None else where[row]] += 1
    return counts


@pytest.mark.parametrize("mode", MODES)
def test_the_passes_printed_are_those_made_jointly(mode):
    sampler = _sampler(mode, "joint", _tables(10, 40, 250), max_epochs=4)
    for epoch in range(4):
        counts = _unit_counts(sampler, [epoch])
        for unit, passes in sampler.passes(epoch).items():
            assert abs(counts[unit] - passes * len(sampler.units[unit])) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_the_passes_printed_are_those_made_alternatingly(mode):
    """A random draw: right on average. The smallest unit has fewer rows than a batch."""
    sampler = _sampler(mode, "alternating", _tables(5, 40, 250), batch_size=16, max_epochs=60)
    counts = _unit_counts(sampler, range(60))
    for unit, rows in sampler.units.items():
        printed = sum(sampler.passes(e)[unit] for e in range(60)) * len(rows)
        draws = printed / min(16, len(rows))
        assert abs(counts[unit] - printed) <= 4 * draws**0.5 * min(16, len(rows)), unit


@pytest.mark.parametrize("mode", MODES)
def test_alternating_draws_only_rows_labelled_for_the_task(mode):
    sampler = _sampler(mode, "alternating", max_epochs=3)
    for epoch in range(3):
        for draw in sampler.plan(epoch):
            batch = sampler.batch(draw)
            assert sum(len(part) for part in batch.values()) == len(draw.rows)
            for part in batch.values():
                assert part.tasks == (draw.task,)
                assert part.labels(draw.task)[1].all()


def test_alternating_draws_follow_the_probabilities():
    sampler = Sampler(_tables(30, 100, 870), 10, mode="temperature", schedule="alternating", temperature=2)
    picks = Counter(d.task for e in range(50) for d in sampler.plan(e))
    n = sum(picks.values())
    for task, p in sampler.probabilities().items():
        assert abs(picks[task] / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_round_robin_takes_turns_across_epochs():
    sampler = Sampler(_tables(7, 9, 8), 5, mode="round_robin", schedule="alternating")
    order = [d.task for e in range(4) for d in sampler.plan(e)]
    assert order == [f"y{i % 3}" for i in range(len(order))]


def test_wrapping_around_shuffles_anew():
    """A small unit is read through completely before any row comes again, each time in another order."""
    sampler = Sampler(_tables(12, 100), 4, mode="uniform", schedule="alternating", seed=1)
    rows = [r for e in range(6) for d in sampler.plan(e) if d.task == "y0" for r in d.rows.tolist()]
    turns = [rows[i : i + 12] for i in range(0, len(rows) - 11, 12)]
    assert len(turns) > 3
    assert all(sorted(turn) == list(range(12)) for turn in turns)
    assert all(a != b for a, b in pairwise(turns))
    joint = Sampler(_tables(12, 100), 4, mode="uniform", seed=1)
    counts = Counter(r for d in joint.plan(0) for r in d.rows.tolist() if r < 12)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_batch_of_several_tables_holds_the_right_rows():
    tables = _tables(20, 30)
    sampler = Sampler(tables, 10)
    seen = []
    for draw, batch in zip(sampler.plan(0), sampler.batches(0), strict=True):
        for table, part in batch.items():
            target = part.labels("y" + table[1:])[0]
            assert torch.equal(target, part.inputs["numeric"][:, 0])
            seen += [(table, v) for v in target.tolist()]
        assert sum(map(len, batch.values())) == len(draw.rows)
    assert Counter(seen) == Counter([("t0", float(i)) for i in range(20)] + [("t1", float(i)) for i in range(30)])


def test_sources_of_one_table_are_units():
    rows = rows_for(small_tasks(), 30)
    table = Taskset(rows.inputs, rows.blocks, domain=torch.tensor([0] * 20 + [1] * 10), domains=("A", "B"))
    sampler = Sampler({"t": table}, 5, mode="uniform")
    assert {u: len(r) for u, r in sampler.units.items()} == {"A": 20, "B": 10}
    counts = _unit_counts(sampler, range(2))
    assert counts["A"] == counts["B"] == 30


def test_a_task_without_labels_is_never_drawn():
    rows = rows_for(small_tasks(), 30, b=torch.zeros(30, dtype=torch.bool))
    sampler = Sampler({"t": rows}, 5, mode="uniform", schedule="alternating")
    assert set(sampler.units) == {"a", "c", "d"}


def test_what_is_minimised_is_said():
    tables = _tables(10, 20)
    assert "every step learns all" in Sampler({"t": _table(5)}, 2).objective()
    assert "sum_k N_k L_k" in Sampler(tables, 2, schedule="alternating").objective()
    assert Sampler(tables, 2, mode="uniform", schedule="alternating").objective().startswith("sum_k L_k")
    assert "p_k" in Sampler(tables, 2, mode="temperature", schedule="alternating").objective()


def test_what_is_refused():
    tables = _tables(10, 20)
    for settings, match in [
        ({"mode": "unifrom"}, "`uniform`"),
        ({"schedule": "jiont"}, "`joint`"),
        ({"mode": "specified"}, "weights"),
        ({"mode": "specified", "weights": {"tt0": 1.0}}, "`tt0`"),
        ({"mode": "specified", "weights": {"t0": -1.0}}, "0 or more"),
        ({"mode": "specified", "weights": {"t0": 0.0, "t1": 0.0}}, "not all 0"),
        ({"temperature": 0.0}, "temperature"),
    ]:
        with pytest.raises(ConfigError, match=match):
            Sampler(tables, 4, **settings)
    with pytest.raises(ConfigError, match="batch_size"):
        Sampler(tables, 0)


def test_rows_come_whole():
    """Indexing keeps a row's inputs and labels together."""
    task = find(Task, "multilabel")("m", target=("p", "q"))
    x = inputs_of(layout_of("tabular"), 20)
    target = x["numeric"][:, :2].clone()
    rows = Taskset(x, (Block((task.name,), target, torch.ones(20, 2, dtype=torch.bool)),))
    for batch in Sampler({"t": rows}, 6).batches(0):
        part = batch["t"]
        assert torch.equal(part.inputs["numeric"][:, :2], part.labels("m")[0])


def _ragged(n, seed=0):
    """Sentences of one to forty words."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 41, (n,), generator=g)
    target = torch.arange(n, dtype=torch.float32)
    block = Block(("y",), target, torch.ones(n, dtype=torch.bool))
    return Taskset({"text:t": Ragged(torch.zeros(int(lengths.sum()), 1), lengths)}, (block,))


def _padding(sampler, lengths, epoch=0):
    padded = sum(int(lengths[d.rows].max()) * len(d.rows) for d in sampler.plan(epoch))
    return padded / sum(int(lengths[d.rows].sum()) for d in sampler.plan(epoch))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_of_like_length_are_in_one_batch(schedule):
    rows = _ragged(500)
    lengths = rows.inputs["text:t"].lengths
    samplers = {b: Sampler({"t": rows}, 16, schedule=schedule, bucket=b, seed=3) for b in (False, True, "auto")}
    plans = {b: [d.rows.tolist() for d in s.plan(1)] for b, s in samplers.items()}
    assert plans[True] == plans["auto"] != plans[False]
    assert sorted(r for b in plans[True] for r in b) == sorted(r for b in plans[False] for r in b)
    assert sorted(map(len, plans[True])) == sorted(map(len, plans[False]))
    assert _padding(samplers[True], lengths) < 1.12 < 1.7 < _padding(samplers[False], lengths)
    means = [float(lengths[torch.tensor(batch)].float().mean()) for batch in plans[True]]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5, "batches should come in random order"
    assert plans[True] != [d.rows.tolist() for d in samplers[True].plan(2)]
    assert plans[True] == [d.rows.tolist() for d in Sampler({"t": rows}, 16, schedule=schedule, seed=3).plan(1)]


def test_rows_of_one_length_are_drawn_as_ever():
    tables = _mixed()
    one, other = (Sampler(tables, 8, seed=1, bucket=bucket) for bucket in (True, False))
    assert [d.rows.tolist() for d in one.plan(0)] == [d.rows.tolist() for d in other.plan(0)]
