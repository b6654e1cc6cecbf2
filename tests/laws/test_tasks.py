"""The laws of a Task, over every type there is."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from cases import KINDS, Case, catalogue, fitted, labels_of, output_for

from manyheads import metrics
from manyheads.catalog import find
from manyheads.faults import ConfigError, DataError
from manyheads.tasks import Task

TASKS = [c for c in catalogue(Task) if c.word in KINDS and KINDS[c.word].output is None]
KIND_OF = {"regression": "regression", "binary": "binary"}


def _word(word: str) -> Case:
    return next(c for c in TASKS if c.word == word)


@pytest.fixture(params=TASKS, ids=str)
def case(request):
    assert request.param.word in KINDS, f"Give `{request.param.word}` a Kind in tests/laws/cases.py."
    return request.param


@pytest.fixture
def learnt(case, rng):
    """(task, labels, target, known)"""
    task, labels = fitted(case, rng)
    return task, labels, *task.encode(labels)


def _slow_mean(task, output, target, known, weight=None):
    """The loss of one label after the other."""
    errors = task.errors(output, target).flatten().tolist()
    weights = [1.0] * len(errors) if weight is None else weight.flatten().tolist()
    kept = [(e, w) for e, w, k in zip(errors, weights, known.flatten().tolist(), strict=True) if k]
    return sum(e * w for e, w in kept) / sum(w for _, w in kept)


def test_target_known_and_errors_have_one_shape(learnt):
    task, labels, target, known = learnt
    assert target.shape == known.shape == task.errors(output_for(task, len(labels)), target).shape
    assert known.dtype == torch.bool
    assert torch.isfinite(target.float()).all()


def test_mean_loss_is_the_slow_loop(learnt):
    task, labels, target, known = learnt
    output = output_for(task, len(labels))
    weight = torch.rand(target.shape)
    assert task.mean_loss(output, target, known).item() == pytest.approx(
        _slow_mean(task, output, target, known), rel=1e-5
    )
    slow = _slow_mean(task, output, target, known, weight)
    assert task.mean_loss(output, target, known, weight).item() == pytest.approx(slow, rel=1e-5)


def test_nothing_known_is_no_loss(learnt):
    task, labels, target, known = learnt
    assert task.mean_loss(output_for(task, len(labels)), target, torch.zeros_like(known)) is None


@pytest.mark.parametrize("wild", [1e4, -1e4, 1e30, -1e30, math.inf, -math.inf, math.nan])
def test_an_unknown_label_teaches_nothing(learnt, wild):
    """Whatever the net says, or a placeholder holds, where the label is unknown: same loss, gradient exactly 0."""
    task, labels, target, known = learnt
    output = output_for(task, len(labels))
    calm = task.mean_loss(output, target, known)
    unknown = ~known if known.shape == output.shape else (~known).unsqueeze(-1).expand_as(output)
    output = output.masked_fill(unknown, wild).requires_grad_()
    loss = task.mean_loss(output, target, known)
    loss.backward()
    assert torch.equal(loss, calm)
    assert (output.grad[unknown] == 0).all()
    assert torch.isfinite(output.grad).all()


def test_a_placeholder_teaches_nothing(learnt):
    task, labels, target, known = learnt
    output = output_for(task, len(labels)).requires_grad_()
    task.mean_loss(output, target, known).backward()
    other = target.clone()
    other[~known] = 1
    again = output.detach().clone().requires_grad_()
    task.mean_loss(again, other, known).backward()
    assert torch.equal(output.grad, again.grad)


def test_masking_equals_deleting(case, rng):
    task, labels = fitted(case, rng, n=200, missing=0.0)
    target, known = task.encode(labels)
    keep = torch.rand(len(labels)) < 0.1
    known &= keep if known.dim() == 1 else keep.unsqueeze(-1)
    output = output_for(task, len(labels)).requires_grad_()
    task.mean_loss(output, target, known).backward()
    few = output.detach()[keep].requires_grad_()
    task.mean_loss(few, target[keep], known[keep]).backward()
    assert torch.allclose(output.grad[keep], few.grad, atol=1e-6)
    assert (output.grad[~keep] == 0).all()


def test_the_truth_scores_best(case, rng):
    task, labels = fitted(case, rng, n=120, missing=0.2)
    target, known = task.encode(labels)
    index = (known if known.dim() == 1 else known.any(1)).nonzero().flatten()
    predicted = task.predict(KINDS[task.kind].perfect(task, target[index]))
    truth = task.truth(target[index])
    several = known[index].numpy() if known.dim() > 1 else None
    names = [m.name for m in metrics.METRICS.values() if task.kind in m.kinds and math.isfinite(m.best)]
    assert set(task.metrics) <= set(names)
    for name in names:
        value, why = metrics.find(name)(truth, predicted, known=several)
        scale = float(np.abs(truth).max()) if metrics.find(name).best == 0 else 1.0
        assert why is None, f"{name}: {why}"
        assert value == pytest.approx(metrics.find(name).best, abs=1e-6 * max(scale, 1.0)), name


def test_the_truth_scores_better_than_noise(case, rng):
    task, labels = fitted(case, rng, n=200, missing=0.0)
    target, _ = task.encode(labels)
    metric = metrics.find(task.metrics[0])
    several = np.ones(target.shape, bool) if target.dim() > 1 else None
    best = metric(task.truth(target), task.predict(KINDS[task.kind].perfect(task, target)), known=several).value
    noise = metric(task.truth(target), task.predict(output_for(task, len(labels))), known=several).value
    assert metric.better(best, noise)


def test_encode_then_decode_is_the_identity(learnt):
    task, labels, target, known = learnt
    decoded = np.asarray(task.decode(task.truth(target)))
    original = labels[list(task.targets)].to_numpy()
    original = original[:, 0] if decoded.ndim == 1 else original
    for found, said in zip(decoded[known.numpy()], original[known.numpy()], strict=True):
        assert found == said if isinstance(said, str) else found == pytest.approx(float(said), rel=1e-5, abs=1e-4)


def test_the_named_columns_hold_the_truth(learnt):
    task, labels, target, _ = learnt
    columns = task.columns(task.predict(KINDS[task.kind].perfect(task, target)))
    assert all(len(v) == len(labels) for v in columns.values())
    assert all(k == task.name or k.startswith(f"{task.name}__") for k in columns)
    probabilities = [v for k, v in columns.items() if "__prob" in k]
    assert all(((v >= 0) & (v <= 1)).all() for v in probabilities)


def test_fitted_learns_from_given_labels_only(case, rng):
    task = case("y")
    labels = labels_of(task, rng, missing=0.4)
    given = labels.dropna(how="all")
    for other in (given, labels.sample(frac=1, random_state=1)):  # the sums of the same numbers, in another order
        found = task.fitted(other).to_json()
        for key, value in task.fitted(labels).to_json().items():
            assert found[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def test_json_and_back(learnt):
    task = learnt[0]
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    rich = task.__class__(
        "x[0]", weight=2.0, where="clk == 1", sample_weight="w", attach=(0, 1), sees=("other",), target=task.targets
    )
    assert Task.from_json(json.loads(json.dumps(rich.to_json()))) == rich


def test_head_gives_what_errors_reads(learnt):
    task, labels, target, _ = learnt
    head = task.head([3, 4])
    output = head(torch.randn(len(labels), 7))
    assert output.shape == output_for(task, len(labels)).shape
    assert task.errors(output, target).shape == target.shape


def test_a_family_stacked_is_one_by_one(case, rng, float64):
    task, _ = fitted(case, rng)
    if task.family() is None:
        pytest.skip("its heads are computed one by one")
    more = [fitted(case, rng) for _ in range(3)]
    if len({t.family() for t, _ in more}) > 1:
        pytest.skip("these labels gave different families")
    encoded = [t.encode(frame) for t, frame in more]
    outputs = [output_for(t, 40) for t, _ in more]
    target, known = (torch.stack(part, 1) for part in zip(*encoded, strict=True))
    if target.is_floating_point():
        target = target.double()
    weight = torch.rand(target.shape)
    total, count = task.summed(torch.stack(outputs, 1), target, known, weight, keep=(1,))
    for i, ((one, _), output) in enumerate(zip(more, outputs, strict=True)):
        alone, n = one.summed(output, target[:, i], known[:, i], weight[:, i])
        assert total[i].item() == pytest.approx(alone.item(), rel=1e-12)
        assert count[i].item() == pytest.approx(n.item(), rel=1e-12)


def test_members_are_averaged(learnt):
    task, labels, target, known = learnt
    outputs = output_for(task, len(labels), 5)
    alone = torch.stack([task.mean_loss(o, target, known) for o in outputs]).mean()
    assert task.mean_loss(outputs, target, known).item() == pytest.approx(alone.item(), rel=1e-5)
    assert task.ensemble(outputs).shape == outputs.shape[1:]
    same = outputs[:1].expand(5, *outputs.shape[1:])
    one = task.predict(outputs[0])
    many = task.predict(task.ensemble(same))
    np.testing.assert_allclose(many.value, one.value, rtol=1e-5, atol=1e-5)
    if one.proba is not None:
        np.testing.assert_allclose(many.proba, one.proba, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("word", ["binary", "multiclass", "multilabel"])
def test_an_ensemble_of_classes_is_the_mean_probability(word, rng):
    task, labels = fitted(_word(word), rng)
    outputs = output_for(task, len(labels), 3) * 3
    mean = np.mean([task.predict(o).proba for o in outputs], 0)
    np.testing.assert_allclose(task.predict(task.ensemble(outputs)).proba, mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("word", ["binary", "multiclass", "ordinal"])
def test_class_weights(word):
    labels = pd.DataFrame({"y": ["a"] * 6 + ["b"] * 2 + [None]})
    classes = ("a", "b") if word == "binary" else ("a", "b", "c")
    if word != "binary":
        labels.loc[8] = "c"
    task = find(Task, word)("y", class_weight="balanced", classes=classes).fitted(labels)
    n, k = labels["y"].notna().sum(), len(classes)
    target, known = task.encode(labels)
    weight = task.label_weight(target)
    for label, w in zip(labels["y"][known.numpy()], weight[known], strict=True):
        assert w.item() == pytest.approx(n / (k * (labels["y"] == label).sum()))
    chosen = find(Task, word)("y", class_weight={"b": 3.0}, classes=classes).fitted(labels)
    assert chosen.label_weight(torch.tensor([0, 1])).tolist() == [1.0, 3.0]
    assert find(Task, word)("y", classes=classes).fitted(labels).label_weight(target) is None
    with pytest.raises(ConfigError, match="`y`"):
        find(Task, word)("y", class_weight={"nowhere": 3.0}, classes=classes).fitted(labels)


# -- what is refused, by name of task and column


@pytest.mark.parametrize("word", ["binary", "multiclass", "ordinal"])
def test_one_class_is_refused(word):
    with pytest.raises(DataError, match=r"`buy`.*`bought`.*only"):
        find(Task, word)("buy", target="bought").fitted(pd.DataFrame({"bought": [1, 1, None]}))
    with pytest.raises(DataError, match=r"`buy`.*`bought`.*no label"):
        find(Task, word)("buy", target="bought").fitted(pd.DataFrame({"bought": [None, None]}))


def test_three_classes_are_not_binary():
    with pytest.raises(DataError, match=r"`buy`.*`bought`.*two classes"):
        find(Task, "binary")("buy", target="bought").fitted(pd.DataFrame({"bought": [0, 1, 2]}))


@pytest.mark.parametrize("word", ["regression", "count"])
@pytest.mark.parametrize("bad", [math.inf, "much"])
def test_labels_that_are_no_number_are_refused(word, bad):
    task = find(Task, word)("amount", target="eur")
    frame = pd.DataFrame({"eur": pd.Series([1.0, bad, None], dtype=object)})
    with pytest.raises(DataError, match=r"`amount`.*`eur`.*row 1"):
        task.fitted(frame)
    with pytest.raises(DataError, match=r"`amount`.*`eur`.*row 1"):
        task.encode(frame)


def test_an_infinite_multilabel_is_refused():
    task = find(Task, "multilabel")("tags", target=("p", "q"))
    with pytest.raises(DataError, match="`tags`"):
        task.encode(pd.DataFrame({"p": [0.0, math.inf], "q": [1.0, 0.0]}))
    with pytest.raises(DataError, match="0 and 1"):
        task.encode(pd.DataFrame({"p": [0.0, 2.0], "q": [1.0, 0.0]}))


@pytest.mark.parametrize("word", ["binary", "multiclass", "ordinal"])
def test_an_unseen_label_is_refused(word):
    task = find(Task, word)("buy", target="bought").fitted(pd.DataFrame({"bought": ["no", "yes", None]}))
    with pytest.raises(DataError, match=r"`buy`.*`bought`.*'maybe'.*row 1"):
        task.encode(pd.DataFrame({"bought": ["no", "maybe"]}))


def test_negative_counts_and_logs_are_refused():
    with pytest.raises(DataError, match=r"`n`.*-1"):
        find(Task, "count")("n").fitted(pd.DataFrame({"n": [1.0, -1.0]}))
    with pytest.raises(DataError, match=r"`n`.*-1"):
        find(Task, "regression")("n", transform="log1p").fitted(pd.DataFrame({"n": [1.0, -1.0]}))


def test_settings_that_do_not_exist_are_refused_with_a_hint():
    with pytest.raises(ConfigError, match="`huber`"):
        find(Task, "regression")("y", loss="hubber")
    with pytest.raises(ConfigError, match="roc_auc"):
        find(Task, "binary")("y", metrics=["roc_auk"])
    with pytest.raises(ConfigError, match="no metric of a binary"):
        find(Task, "binary")("y", metrics=["r2"])
    with pytest.raises(ConfigError, match="`target`"):
        Task.from_json({"type": "binary", "name": "y", "targt": "z"})
    with pytest.raises(ConfigError, match="`binary`"):
        Task.from_json({"type": "binarry", "name": "y"})
    with pytest.raises(ConfigError, match="empty"):
        find(Task, "binary")("")
    with pytest.raises(ConfigError, match="`weight`"):
        find(Task, "binary")("y", weight=-1)


# -- formulas


@pytest.mark.parametrize("transform", ["standardise", "log1p", "none"])
def test_regression_transforms_are_undone(transform, rng):
    values = rng.gamma(2.0, 300.0, 60)
    frame = pd.DataFrame({"y": values})
    task = find(Task, "regression")("y", transform=transform).fitted(frame)
    target, _ = task.encode(frame)
    if transform != "none":
        assert target.mean().item() == pytest.approx(0, abs=1e-5)
        assert target.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(task.predict(target.unsqueeze(-1)).value, values, rtol=1e-5, atol=1e-3)


def test_a_constant_target_is_no_division_by_zero():
    frame = pd.DataFrame({"y": [7.0, 7.0, None]})
    task = find(Task, "regression")("y").fitted(frame)
    target, known = task.encode(frame)
    assert task.truth(target[known]).tolist() == [7.0, 7.0]


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("mse", lambda e: e * e),
        ("mae", abs),
        ("huber", lambda e: e * e / 2 if abs(e) < 1 else abs(e) - 0.5),
    ],
)
def test_regression_losses(loss, formula):
    errors = [-3.0, -1.0, -0.4, 0.0, 0.2, 1.0, 5.0]
    task = find(Task, "regression")("y", loss=loss)
    found = task.errors(torch.tensor(errors).unsqueeze(-1) + 2.0, torch.full((7,), 2.0))
    assert found.tolist() == pytest.approx([formula(e) for e in errors], rel=1e-5, abs=1e-6)


def test_classification_losses():
    z, y = [-3.0, 0.5, 2.0], [0.0, 1.0, 0.0]
    slow = [
        -math.log(1 / (1 + math.exp(-a))) if b else -math.log(1 - 1 / (1 + math.exp(-a)))
        for a, b in zip(z, y, strict=True)
    ]
    binary = find(Task, "binary")("y", classes=(0, 1))
    assert binary.errors(torch.tensor(z).unsqueeze(-1), torch.tensor(y)).tolist() == pytest.approx(slow, rel=1e-5)
    rows = [[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]]
    slow = [-math.log(math.exp(r[c]) / sum(map(math.exp, r))) for r, c in zip(rows, [2, 1], strict=True)]
    multi = find(Task, "multiclass")("y", classes=(0, 1, 2))
    assert multi.errors(torch.tensor(rows), torch.tensor([2, 1])).tolist() == pytest.approx(slow, rel=1e-5)


def test_count_loss_is_the_poisson_likelihood_up_to_a_constant():
    frame = pd.DataFrame({"y": [0, 3, 5, 4]})
    task = find(Task, "count")("y").fitted(frame)
    target, _ = task.encode(frame)
    output = torch.tensor([0.3, -1.0, 2.0, 0.0])
    rate = task.predict(output.unsqueeze(-1)).value
    literal = (rate - frame["y"].to_numpy() * np.log(rate)) / 3.0
    found = task.errors(output.unsqueeze(-1), target).numpy()
    constant = -frame["y"].to_numpy() / 3.0 * math.log(3.0)
    np.testing.assert_allclose(found, literal - constant, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "accuracy", "matthews_corrcoef"])
def test_the_chosen_threshold_is_the_best(metric, rng):
    target = torch.from_numpy((rng.random(60) < 0.2).astype(np.float32))
    output = torch.from_numpy(rng.normal(size=(60, 1)).astype(np.float32)) + target.unsqueeze(-1)
    known = torch.ones(60, dtype=torch.bool)
    task = find(Task, "binary")("y", classes=(0, 1), threshold=metric).tuned(output, target, known)
    proba = task.predict(output).proba
    measure = metrics.find(metric)
    every = [
        measure(target.numpy(), metrics.Predicted((proba >= c).astype(np.int64), proba)).value or 0.0
        for c in [*proba.tolist(), 0.0, 1.1]
    ]
    assert measure(target.numpy(), task.predict(output)).value == pytest.approx(max(every), abs=1e-12)


def test_a_threshold_needs_both_classes_and_reads_known_labels_only(rng):
    task = find(Task, "binary")("y", classes=(0, 1), threshold="f1")
    output = torch.randn(30, 1)
    target = torch.cat([torch.zeros(20), torch.ones(10)])
    assert task.tuned(output, target, target == 0) == task
    known = torch.rand(30) < 0.7
    wild = torch.where(known, target, 1 - target)
    assert task.tuned(output, target, known) == task.tuned(output, wild, known)
