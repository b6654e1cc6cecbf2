"""Merging against what the formulas say, on vectors and on models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from manyheads.catalog import find, index
from manyheads.faults import ConfigError
from manyheads.growing.adding import add_task
from manyheads.growing.grown import joined, labels_of, members_of
from manyheads.growing.merge import Average, Merging, Source, fingerprint, merge, nearness, trunk_of
from manyheads.growing.oldrows import of_frame
from manyheads.learner import Learner
from manyheads.spec import TrainerSpec
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression

WORDS = sorted(index(Merging))


def _make(word, **settings):
    cls = find(Merging, word)
    known = {"average": (), "arithmetic": ("scale",), "ties": ("scale", "density"), "dare": ("scale", "density")}[word]
    return cls(**{k: v for k, v in settings.items() if k in known})


@pytest.fixture
def deltas():
    return torch.randn(3, 200, dtype=torch.float64)


def test_the_words():
    assert WORDS == ["arithmetic", "average", "dare", "ties"]


@pytest.mark.parametrize("word", WORDS)
def test_the_order_of_models_does_not_matter(word, deltas):
    how = _make(word, density=0.3)
    assert torch.allclose(how(deltas), how(deltas[[2, 0, 1]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("word", WORDS)
def test_one_model_with_everything_kept_is_itself(word, deltas):
    assert torch.equal(_make(word, scale=1.0, density=1.0)(deltas[:1]), deltas[0])


@pytest.mark.parametrize("word", [w for w in WORDS if w != "average"])
def test_scale_is_linear_and_0_is_the_start(word, deltas):
    one, two = (_make(word, scale=s, density=0.5)(deltas) for s in (1.0, 2.0))
    assert torch.allclose(two, 2 * one)
    assert not _make(word, scale=0.0, density=0.5)(deltas).any()


def test_arithmetic_at_1_over_k_is_the_average(deltas):
    assert torch.allclose(_make("arithmetic", scale=1 / 3)(deltas), Average()(deltas))
    a, b = torch.randn(2, 3, 200, dtype=torch.float64)
    how = _make("arithmetic", scale=0.4)
    assert torch.allclose(how(a + b), how(a) + how(b))


def test_ties_weight_by_weight(deltas):
    """Against the paper's three steps, written out for each weight."""
    density, n = 0.3, 60
    trimmed = deltas.clone().numpy()
    for row in trimmed:
        row[np.argsort(np.abs(row))[: len(row) - n]] = 0
    expected = []
    for column in trimmed.T:
        sign = np.sign(column.sum())
        agree = [v for v in column if v != 0 and np.sign(v) == sign]
        expected.append(np.mean(agree) if agree else 0.0)
    assert _make("ties", density=density)(deltas).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_ties_of_duplicates_is_the_one(deltas):
    same = deltas[:1].expand(4, -1)
    assert torch.allclose(_make("ties", density=0.2)(same), _make("ties", density=0.2)(same[:1]))


def test_ties_counts_over_the_whole_trunk():
    small, large = 0.01 * torch.rand(1, 50), 1 + torch.rand(1, 50)
    kept = _make("ties", density=0.5)(torch.cat([small, large], 1).double())
    assert not kept[:50].any()
    assert bool((kept[50:] > 0).all())


def test_dare_drops_a_share_and_keeps_the_mean(deltas):
    one = torch.ones(1, 20000, dtype=torch.float64)
    found = _make("dare", density=0.25)(one)
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("word", ["ties", "dare"])
def test_a_density_of_0_is_refused(word):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        _make(word, density=0.0)


# -- models

SMALL = {"name": "tabular", "d_hidden": 16}


def _frame(n, seed, name):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    frame = pd.DataFrame(x, columns=["x1", "x2", "x3", "x4"])
    frame["a"] = x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=n)
    frame[name] = (x[:, 2] * x[:, 0] > 0).astype(float)
    return frame


@pytest.fixture(scope="module")
def family():
    """A model, and two copies of it that were fine-tuned on a further task each."""
    base = _frame(300, 0, "unused").drop(columns="unused")
    learner = Learner(
        [Regression("a")], random_state=0, members=2, max_epochs=5, encoder={"name": "tabular", "d_hidden": 16}
    )
    learner.fit(base)
    spec = learner.spec.model.model_copy(update={"members": 2})
    start = Source("start", learner.model_, spec, learner.dataset_)
    found = []
    for i, name in enumerate(("b", "c")):
        kept = of_frame(base, learner.dataset_, torch.float32)
        frame = _frame(200, i + 1, name).drop(columns="a")
        grown = add_task(learner.model_, spec, learner.dataset_, Binary(name), frame, "finetune", kept=kept)
        found.append(Source(name, grown.model, grown.spec, grown.dataset))
    return start, found


def _state(source):
    return [{label: m.state_dict()[key] for label, key in labels_of(m).items()} for m in source.members()]


def _merged(sources, how, start):
    model, spec, dataset = merge(sources, how, start)
    return Source("merged", model, spec, dataset)


def test_heads_are_kept_and_trunks_averaged(family):
    _, sources = family
    merged = _merged(sources, Average(), None)
    assert list(merged.model.tasks) == ["a", "b", "c"]
    a, b = map(_state, sources)
    for own, first, second in zip(_state(merged), a, b, strict=True):
        assert own.keys() == first.keys() | second.keys()
        for label, value in own.items():
            if label in first and label in second and label.startswith("/sharing"):
                mean = (first[label].double() + second[label].double()) / 2
                assert torch.allclose(value.double(), mean, atol=1e-7)
            else:
                assert torch.equal(value, first[label] if label in first else second[label])


@pytest.mark.parametrize("word", [w for w in WORDS if w != "average"])
def test_no_scale_is_the_start_and_one_model_is_itself(family, word):
    start, sources = family
    back = _merged(sources, _make(word, scale=0.0), start)
    for own, begun in zip(back.members(), start.members(), strict=True):
        mine, theirs = trunk_of(own), trunk_of(begun)
        assert all(torch.equal(mine[label], theirs[label]) for label in theirs)
    same = _merged(sources[:1], _make(word, scale=1.0, density=1.0), start)
    for own, one in zip(_state(same), _state(sources[0]), strict=True):
        assert all(torch.equal(own[label], one[label]) for label in one)


def test_another_start_is_refused(family):
    _, sources = family
    learner = Learner(
        [Regression("a")], random_state=7, members=2, max_epochs=1, encoder={"name": "tabular", "d_hidden": 16}
    )
    learner.fit(_frame(300, 0, "unused").drop(columns="unused"))
    other = Source("other", learner.model_, sources[0].spec, sources[0].dataset)
    ((_, _, near),) = nearness([sources[0], other])
    assert near < 0.3
    with pytest.raises(ConfigError, match="of one start"):
        merge([sources[0], other], Average())
    ((_, _, near),) = nearness(sources)
    assert near > 0.9


def test_what_reads_or_labels_otherwise_is_refused(family):
    """One start is not enough: columns of another scale, or a task of another kind under the same name."""
    start, sources = family
    table = _frame(300, 0, "unused").drop(columns="unused")
    again = Learner([Regression("a")], random_state=0, members=2, max_epochs=1, encoder=SMALL)
    again.fit(table.assign(x1=table["x1"] * 7))
    with pytest.raises(ConfigError, match="`scaled` does not read as `start` does"):
        merge([start, Source("scaled", again.model_, start.spec, again.dataset_)], Average())
    frame = _frame(60, 1, "b").drop(columns="a")
    grown = add_task(start.model, start.spec, start.dataset, Regression("b"), frame)
    with pytest.raises(ConfigError, match="Found that `b` is not in `number`"):
        merge([sources[0], Source("number", grown.model, grown.spec, grown.dataset)], Average())


def test_a_task_that_would_read_another_is_refused():
    """In two chains a -> b and a -> c the merged one, a -> b -> c, would give c what it never read."""
    learner = Learner([Regression("a")], random_state=0, members=1, max_epochs=1, encoder=SMALL, sharing="aitm")
    learner.fit(_frame(100, 0, "unused").drop(columns="unused"))
    spec, chains = learner.spec.model.model_copy(update={"members": 1}), []
    for name in ("b", "c"):
        frame = _frame(60, 1, name).drop(columns="a")
        grown = add_task(learner.model_, spec, learner.dataset_, Binary(name), frame, trainer=TrainerSpec(max_epochs=1))
        chains.append(Source(name, grown.model, grown.spec, grown.dataset))
    with pytest.raises(ConfigError, match=r"`c` of `c` stands after a, and would stand after a, b;"):
        merge(chains, Average())
    assert list(_merged(chains[:1], Average(), None).model.tasks) == ["a", "b"]


def test_task_vectors_need_a_start_and_prints_tell_it(family):
    start, sources = family
    with pytest.raises(ConfigError, match="--base"):
        merge(sources, _make("arithmetic"))
    assert fingerprint(start.members()) == fingerprint(start.members())
    assert fingerprint(start.members()) != fingerprint(sources[0].members())


def test_running_statistics_are_measured_not_merged(family):
    from torch import nn

    from manyheads.growing.merge import _with_statistics, renew

    start, _ = family
    (one,) = [joined(m) for m in [members_of(start.model, start.spec, start.dataset.preprocess.layouts)[:1]]]
    one.sharing.encoder.stages[1] = nn.Sequential(one.sharing.encoder.stages[1], nn.BatchNorm1d(16))
    (norm,) = _with_statistics(one)
    norm.running_var.fill_(-0.5)
    rows = start.dataset.tasksets({"x": _frame(300, 0, "unused")})
    renew(one, [norm], rows)
    with torch.no_grad():
        (part,) = rows.values()
        z = one.sharing.encoder.stages[1][0](one.sharing.encoder.stages[0](part.inputs))
    halves = [z[:256], z[256:]]
    assert torch.allclose(norm.running_mean, torch.stack([h.mean(0) for h in halves]).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([h.var(0) for h in halves]).mean(0), atol=1e-6)
    assert not norm.training
