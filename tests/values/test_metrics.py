"""Metrics equal scikit-learn's wherever they are defined, and say why where they are not."""

import copy
import pickle
import time

import numpy as np
import pytest
import sklearn.metrics as sk

from manyheads.metrics import METRICS, Measured, Metric, Predicted, bootstrap, constant_prediction, find, redraws
from manyheads.metrics.formulas import FOREIGN
from manyheads.ragged import objects

PLAIN = [
    m.name
    for m in METRICS.values()
    if m.kinds & {"regression", "count", "binary", "multiclass", "ordinal", "multilabel"}
]
"""Metrics of numbers and classes; those whose labels are objects are tested with the tasks they belong to."""


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


def _numbers(rng, n=80):
    y = np.round(rng.gamma(2.0, 2.0, n), 1)  # ties
    return y, np.round(y + rng.normal(0, 1.5, n), 1)


def _binary(rng, n=80):
    y = rng.integers(0, 2, n)
    proba = np.clip(np.round(0.3 * y + rng.uniform(0, 0.7, n), 1), 0.05, 0.95)  # ties
    return y, Predicted((proba > 0.5).astype(int), proba)


def _classes(rng, n=80, c=4):
    y = rng.integers(0, c, n)
    proba = rng.dirichlet(np.ones(c), n)
    proba[np.arange(n), y] += 0.3
    proba /= proba.sum(1, keepdims=True)
    return y, Predicted(proba.argmax(1), proba)


def _labels(rng, n=60, labels=5):
    y = (rng.uniform(size=(n, labels)) < 0.4).astype(int)
    proba = np.clip(np.round(0.3 * y + rng.uniform(0, 0.7, (n, labels)), 1), 0.05, 0.95)
    return y, Predicted((proba > 0.5).astype(int), proba)


def _same(name, y, predicted, weight, expected):
    value, why = find(name)(y, predicted, sample_weight=weight)
    assert why is None
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-12)


NUMBERS = {
    "r2": sk.r2_score,
    "explained_variance": sk.explained_variance_score,
    "mean_squared_error": sk.mean_squared_error,
    "root_mean_squared_error": lambda y, p, sample_weight: (
        sk.mean_squared_error(y, p, sample_weight=sample_weight) ** 0.5
    ),
    "mean_absolute_error": sk.mean_absolute_error,
    "d2_absolute_error_score": sk.d2_absolute_error_score,
}
BINARY_VALUE = {
    "f1": sk.f1_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "matthews_corrcoef": sk.matthews_corrcoef,
    "accuracy": sk.accuracy_score,
}
BINARY_PROBA = {
    "roc_auc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "log_loss": sk.log_loss,
    "brier_score": sk.brier_score_loss,
}
CLASS_VALUE = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "f1_macro": lambda y, p, sample_weight: sk.f1_score(y, p, average="macro", sample_weight=sample_weight),
    "f1_weighted": lambda y, p, sample_weight: sk.f1_score(y, p, average="weighted", sample_weight=sample_weight),
    "matthews_corrcoef": sk.matthews_corrcoef,
    "quadratic_weighted_kappa": lambda y, p, sample_weight: sk.cohen_kappa_score(
        y, p, weights="quadratic", sample_weight=sample_weight
    ),
}
LABELS = {
    "roc_auc": lambda y, p, w: sk.roc_auc_score(y, p.proba, sample_weight=w),
    "average_precision": lambda y, p, w: sk.average_precision_score(y, p.proba, sample_weight=w),
    "log_loss": lambda y, p, w: np.mean(
        [sk.log_loss(a, b, sample_weight=w) for a, b in zip(y.T, p.proba.T, strict=True)]
    ),
    "brier_score": lambda y, p, w: np.mean(
        [sk.brier_score_loss(a, b, sample_weight=w) for a, b in zip(y.T, p.proba.T, strict=True)]
    ),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p.value, sample_weight=w),
    "f1_macro": lambda y, p, w: sk.f1_score(y, p.value, average="macro", sample_weight=w),
    "f1_micro": lambda y, p, w: sk.f1_score(y, p.value, average="micro", sample_weight=w),
    "f1_samples": lambda y, p, w: sk.f1_score(y, p.value, average="samples", sample_weight=w, zero_division=1),
    "jaccard_samples": lambda y, p, w: sk.jaccard_score(
        y, p.value, average="samples", sample_weight=w, zero_division=1
    ),
}


@pytest.mark.parametrize("weighted", [False, True])
class TestEqualsScikitLearn:
    def weight(self, rng, n, weighted):
        return rng.integers(0, 4, n) + rng.uniform(size=n) if weighted else None

    @pytest.mark.parametrize("name", NUMBERS)
    def test_numbers(self, name, rng, weighted):
        y, p = _numbers(rng)
        w = self.weight(rng, len(y), weighted)
        _same(name, y, Predicted(p), w, NUMBERS[name](y, p, sample_weight=w))

    def test_counts(self, rng, weighted):
        y, p = rng.poisson(2.0, 80), rng.uniform(0.1, 4, 80)
        w = self.weight(rng, 80, weighted)
        _same("mean_poisson_deviance", y, Predicted(p), w, sk.mean_poisson_deviance(y, p, sample_weight=w))

    def test_median(self, rng, weighted):
        y, p = _numbers(rng)
        w = rng.integers(0, 4, len(y)) if weighted else np.ones(len(y), int)
        repeated = sk.median_absolute_error(np.repeat(y, w), np.repeat(p, w))
        _same("median_absolute_error", y, Predicted(p), w, repeated)

    @pytest.mark.parametrize("name", BINARY_VALUE)
    def test_binary(self, name, rng, weighted):
        y, p = _binary(rng)
        w = self.weight(rng, len(y), weighted)
        _same(name, y, p, w, BINARY_VALUE[name](y, p.value, sample_weight=w))

    @pytest.mark.parametrize("name", BINARY_PROBA)
    def test_binary_probabilities(self, name, rng, weighted):
        y, p = _binary(rng)
        w = self.weight(rng, len(y), weighted)
        _same(name, y, p, w, BINARY_PROBA[name](y, p.proba, sample_weight=w))

    @pytest.mark.parametrize("name", CLASS_VALUE)
    def test_classes(self, name, rng, weighted):
        y, p = _classes(rng)
        w = self.weight(rng, len(y), weighted)
        _same(name, y, p, w, CLASS_VALUE[name](y, p.value, sample_weight=w))

    def test_class_probabilities(self, rng, weighted):
        y, p = _classes(rng)
        w = self.weight(rng, len(y), weighted)
        _same("roc_auc_ovr", y, p, w, sk.roc_auc_score(y, p.proba, multi_class="ovr", sample_weight=w))
        _same("log_loss", y, p, w, sk.log_loss(y, p.proba, sample_weight=w))
        one_hot = np.eye(4)[y]
        _same("brier_score", y, p, w, np.average(((p.proba - one_hot) ** 2).sum(1), weights=w))

    @pytest.mark.parametrize("name", LABELS)
    def test_several_labels(self, name, rng, weighted):
        y, p = _labels(rng)
        w = self.weight(rng, len(y), weighted)
        _same(name, y, p, w, LABELS[name](y, p, w))

    def test_grouped_auc_is_the_double_loop(self, rng, weighted):
        y, p = _binary(rng, 120)
        users = rng.choice(["a", "b", "c", "d", None], 120)
        y[users == "a"] = 1
        w = self.weight(rng, 120, weighted)
        ones = np.ones(120) if w is None else w
        top = bottom = 0.0
        for user in ("b", "c", "d", None):
            mine = np.array([u == user for u in users])
            area = sk.roc_auc_score(y[mine], p.proba[mine], sample_weight=ones[mine])
            top, bottom = top + area * ones[mine].sum(), bottom + ones[mine].sum()
        value, _ = find("gauc:user id")(y, p, w, groups=users)
        assert value == pytest.approx(top / bottom, abs=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_is_best_at_the_truth_and_does_not_mind_order(name, rng):
    metric = METRICS[name]
    if metric.kinds & {"regression", "count"}:
        y, predicted = rng.poisson(3, 70) + 1.0, Predicted(rng.uniform(1, 5, 70))
        truth = Predicted(y)
    elif "multilabel" in metric.kinds:
        y, predicted = _labels(rng)
        truth = Predicted(y, y.astype(float))
    elif metric.kinds == {"binary"}:
        y, predicted = _binary(rng)
        truth = Predicted(y, y.astype(float))
    else:
        y, predicted = _classes(rng)
        truth = Predicted(y, np.eye(4)[y])
    best, value = metric(y, truth).value, metric(y, predicted).value
    assert best == pytest.approx(metric.best, abs=1e-12)
    assert metric.better(best, value)
    assert not metric.better(value, best)
    order = rng.permutation(len(y))
    mixed = Predicted(predicted.value[order], None if predicted.proba is None else predicted.proba[order])
    assert metric(y[order], mixed).value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_without_a_label(name):
    metric = METRICS[name]
    shape = (0, 3) if metric.function is None else (0,)
    proba = np.zeros((0, 3)) if metric.function is None or metric.dimensions == (2,) else np.zeros(0)
    assert metric(np.zeros(shape), Predicted(np.zeros(shape), proba)) == Measured(None, "No label is known.")
    weightless = metric(np.ones((4, *shape[1:])), Predicted(np.ones((4, *shape[1:])), np.ones((4, *proba.shape[1:]))),
                        sample_weight=np.zeros(4))  # fmt: skip
    assert weightless == Measured(None, "Every label has the weight 0.")


@pytest.mark.parametrize("name", PLAIN)
def test_every_metric_of_a_diverged_model(name):
    metric = METRICS[name]
    y = np.array([0, 1, 1]) if metric.function else np.array([[0, 1], [1, 1], [0, 0]])
    proba = np.full((3, 2) if metric.dimensions == (2,) or not metric.function else 3, np.nan)
    found = metric(y, Predicted(np.full(y.shape, np.nan), proba))
    assert found == Measured(None, "A prediction is not a finite number.")


class TestUndefined:
    @pytest.mark.parametrize("name", ["r2", "explained_variance", "d2_absolute_error_score"])
    @pytest.mark.parametrize("y", [[2.0], [0.1, 0.1, 0.1], [1e9, 1e9]])
    def test_constant_labels(self, name, y):
        assert find(name)(y, Predicted(np.zeros(len(y)))) == Measured(None, "At least two different labels are needed.")

    @pytest.mark.parametrize("label", [0, 1])
    def test_one_class(self, label):
        y, p = np.full(5, label), Predicted(np.full(5, label), np.linspace(0, 1, 5))
        assert find("roc_auc")(y, p) == Measured(None, "Labels of both classes are needed.")
        assert find("gauc:u")(y, p, groups=[1, 1, 2, 2, 2]).why == "No group has labels of both classes."
        assert find("matthews_corrcoef")(y, p).why == "Labels of two classes are needed."
        assert find("quadratic_weighted_kappa")(y, p).why == "At least two different labels are needed."
        assert find("roc_auc_ovr")(y, Predicted(y, np.eye(2)[y])).why == "Labels of two classes are needed."

    def test_no_positive(self):
        nothing = np.zeros(4, int)
        assert find("f1")(nothing, Predicted(nothing)).why.startswith("No row is positive")
        assert find("precision")([0, 1], Predicted([0, 0])).why == "No row is predicted positive."
        assert find("recall")([0, 0], Predicted([0, 1])).why == "A positive label is needed."
        assert find("average_precision")([0, 0], Predicted([0, 1], [0.1, 0.2])).why == "A positive label is needed."
        assert find("f1")([0, 1], Predicted([1, 0])).value == 0

    def test_deviance(self):
        why = "Labels must not be negative, and predictions must be positive."
        assert find("mean_poisson_deviance")([0, 1], Predicted([0.0, 1.0])) == Measured(None, why)
        assert find("mean_poisson_deviance")([-1, 1], Predicted([1.0, 1.0])) == Measured(None, why)

    def test_overflow(self):
        assert find("mean_squared_error")([0.0], Predicted([1e200])).why.startswith("An error is too large")

    def test_labels_that_are_undefined_are_left_out(self):
        y = np.array([[0, 1, 1], [1, 1, 0], [0, 1, 1]])
        p = np.array([[0.2, 0.3, 0.4], [0.9, 0.1, 0.6], [0.1, 0.5, 0.2]])
        known = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0]], bool)
        assert find("roc_auc")(y, Predicted(y, p), known=known).value == (1.0 + 0.0) / 2
        assert find("roc_auc")(y[:, 1:2], Predicted(y[:, 1:2], p[:, 1:2])).value is None

    def test_matthews_of_a_constant_is_zero(self):
        assert find("matthews_corrcoef")([0, 1, 1], Predicted([1, 1, 1])) == Measured(0.0)


def test_unknown_labels_do_not_count(rng):
    y, p = _labels(rng)
    known = rng.uniform(size=y.shape) < 0.6
    hidden = np.where(known, y, -7)
    hidden_nan = np.where(known, y, np.nan)
    for name in LABELS:
        value = find(name)(y, p, known=known).value
        assert value is not None
        assert find(name)(hidden, p, known=known).value == value
        assert find(name)(hidden_nan, p, known=known).value == value
    one = find("mean_absolute_error")([1.0, np.nan, 3.0], Predicted([1.0, 2.0, 5.0]), known=[True, False, True])
    assert one == Measured(1.0)
    tp, fp, fn = (((y == a) & (np.asarray(p.value) == b) & known).sum() for a, b in [(1, 1), (0, 1), (1, 0)])
    assert find("f1_micro")(y, p, known=known).value == pytest.approx(2 * tp / (2 * tp + fp + fn))


class TestSkill:
    @pytest.mark.parametrize("name", PLAIN)
    def test_identities(self, name):
        metric = METRICS[name]
        start = 0.3 if metric.constant is None else None
        at_constant = 0.3 if metric.constant is None else metric.constant
        assert metric.skill(at_constant, start) == 0
        assert metric.skill(metric.best, start) == 1
        half = (at_constant + metric.best) / 2
        assert metric.skill(half, start) == pytest.approx(0.5)
        worse = at_constant + (-1 if metric.greater_is_better else 1) * 0.1
        assert metric.skill(worse, start) < 0

    def test_conventions(self):
        assert find("r2").skill(0.4) == 0.4
        assert find("roc_auc").skill(0.75) == 0.5
        assert find("root_mean_squared_error").skill(1.0, 4.0) == 0.75
        assert find("root_mean_squared_error").skill(1.0) is None
        assert find("r2").skill(None) is None
        assert find("accuracy").skill(1.0, 1.0) is None
        assert Metric("x", True, np.inf, "value", frozenset(), "").skill(3.0, 1.0) is None

    def test_fitted_constants(self, rng):
        y, p = _numbers(rng)
        for name, centre in [("mean_squared_error", np.mean), ("mean_absolute_error", np.median)]:
            constant = constant_prediction(find(name), y, 3)
            assert constant.value.tolist() == [centre(y)] * 3
            at_constant = find(name)(y, constant_prediction(find(name), y, len(y))).value
            assert at_constant < find(name)(y, Predicted(p + 9)).value
        y, _ = _classes(rng)
        constant = constant_prediction(find("accuracy"), y, len(y), classes=4)
        assert constant.proba.shape == (80, 4)
        assert find("accuracy")(y, constant).value == np.bincount(y).max() / 80
        y, _ = _labels(rng)
        known = rng.uniform(size=y.shape) < 0.6
        constant = constant_prediction(find("log_loss"), y, 7, known=known)
        assert constant.proba.shape == constant.value.shape == (7, 5)
        assert constant.proba[0, 2] == y[known[:, 2], 2].mean()
        with pytest.raises(ValueError, match=r"needs a known label\. Found none\."):
            constant_prediction(find("r2"), [], 3)

    @pytest.mark.parametrize(
        "name", [m.name for m in METRICS.values() if m.name in PLAIN and m.constant is not None and m.function]
    )
    def test_the_constant_is_what_a_constant_gets(self, name, rng):
        metric = METRICS[name]
        y = rng.integers(0, 3, 50) if "multiclass" in metric.kinds else rng.integers(0, 2, 50)
        constant = constant_prediction(metric, y, 50, classes=3 if metric.dimensions == (2,) else None)
        assert metric(y, constant).value == pytest.approx(metric.constant, abs=1e-12)


class TestFind:
    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("rmse", "No metric is called `rmse`. It is called `root_mean_squared_error` here."),
            ("AUC", "No metric is called `AUC`. It is called `roc_auc` here."),
            ("gauc", "No metric is called `gauc`. It is called `gauc:<column>` here."),
            ("gauc:", "No metric is called `gauc:`. It is called `gauc:<column>` here."),
            ("neg_log_loss", "No metric is called `neg_log_loss`. Write `log_loss`: its direction is known."),
            ("acuracy", "No metric is called `acuracy`. Did you mean `accuracy`?"),
        ],
    )
    def test_message(self, word, message):
        with pytest.raises(ValueError) as found:
            find(word)
        assert str(found.value) == message

    def test_foreign_words_lead_somewhere(self):
        assert not set(FOREIGN) & set(METRICS)
        for name in FOREIGN.values():
            assert find(name.replace("<column>", "user")).name

    def test_names_and_directions_are_scikit_learns(self):
        scorers = set(sk.get_scorer_names())
        for name, metric in METRICS.items():
            if name in ("d2_absolute_error_score", "quadratic_weighted_kappa", "r2_log1p") or name not in PLAIN:
                continue
            assert (name if metric.greater_is_better else f"neg_{name}") in scorers

    def test_copies(self):
        for metric in (find("roc_auc"), find("gauc:user:id")):
            assert pickle.loads(pickle.dumps(metric)).name == copy.deepcopy(metric).name == metric.name
        assert find("gauc:user:id").column == "user:id"


class TestMistakes:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: find("roc_auc")([0, 1], Predicted([0, 1])), "needs probabilities"),
            (lambda: find("roc_auc")([0, 1], Predicted([0, 1], np.ones((2, 3)))), "classes use `roc_auc_ovr`"),
            (lambda: find("roc_auc_ovr")([0, 1], Predicted([0, 1], [0.1, 0.2])), "For two classes use `roc_auc`"),
            (lambda: find("r2")([0, 1], Predicted([0, 1, 2])), r"`value` should have the shape \(2,\) for `r2`"),
            (lambda: find("r2")(np.ones((2, 2)), Predicted(np.ones((2, 2)))), "is for one label a row"),
            (lambda: find("f1_micro")([0, 1], Predicted([0, 1])), "is for several labels a row"),
            (lambda: find("r2")(np.ones((2, 2, 2)), Predicted([0])), r"shape \(n,\) or \(n, L\)"),
            (lambda: find("r2")([0.0, np.nan], Predicted([0, 1])), "Labels that count should be finite"),
            (lambda: find("r2")([0, 1], Predicted([0, 1]), known=[True]), "`known` should have the labels' shape"),
            (lambda: find("r2")([0, 1], Predicted([0, 1]), [1.0]), r"`sample_weight` should have the shape \(2,\)"),
            (lambda: find("r2")([0, 1], Predicted([0, 1]), [1.0, -1.0]), "should be finite and not negative"),
            (lambda: find("gauc:u")([0, 1], Predicted([0, 1], [0, 1])), "needs the column `u`"),
            (lambda: find("gauc:u")([0, 1], Predicted([0, 1], [0, 1]), groups=[1]), "Groups should have the shape"),
        ],
    )
    def test_message(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestBootstrap:
    def test_a_draw_is_the_metric_of_the_drawn_rows(self, rng):
        y, p = _binary(rng, 40)
        for name in ("roc_auc", "average_precision", "f1", "log_loss", "matthews_corrcoef", "mean_absolute_error"):
            found = redraws(find(name), y, p, draws=5, seed=3)
            drawn = np.random.default_rng(3).integers(0, 40, (5, 40))
            for value, rows in zip(found, drawn, strict=True):
                again = find(name)(y[rows], Predicted(p.value[rows], p.proba[rows])).value
                assert value == pytest.approx(again, abs=1e-12)

    def test_whole_groups_are_drawn(self, rng):
        y, p = _numbers(rng, 60)
        schools = np.repeat(np.arange(12), 5)
        found = redraws(find("r2"), y, Predicted(p), groups=schools, draws=5, seed=3)
        drawn = np.random.default_rng(3).integers(0, 12, (5, 12))
        for value, picked in zip(found, drawn, strict=True):
            rows = np.concatenate([np.flatnonzero(schools == s) for s in picked])
            assert value == pytest.approx(find("r2")(y[rows], Predicted(p[rows])).value)

    def test_unknown_rows_are_drawn_but_do_not_count(self, rng):
        y, p = _numbers(rng, 30)
        known = rng.uniform(size=30) < 0.7
        found = redraws(find("mean_squared_error"), np.where(known, y, np.nan), Predicted(p), known=known, draws=4)
        drawn = np.random.default_rng(0).integers(0, 30, (4, 30))
        for value, rows in zip(found, drawn, strict=True):
            rows = rows[known[rows]]
            assert value == pytest.approx(np.mean((y[rows] - p[rows]) ** 2))

    def test_pieces_do_not_change_it(self, rng, monkeypatch):
        y, p = _labels(rng)
        whole = redraws(find("roc_auc"), y, p, draws=50)
        monkeypatch.setattr("manyheads.metrics.draws._CELLS", 500)
        np.testing.assert_allclose(redraws(find("roc_auc"), y, p, draws=50), whole, rtol=1e-13)

    def test_interval(self, rng):
        y, p = _binary(rng, 200)
        low, high = bootstrap(find("roc_auc"), y, p)
        assert 0 < low < find("roc_auc")(y, p).value < high < 1
        assert bootstrap(find("roc_auc"), y, p) == (low, high)
        wide = bootstrap(find("roc_auc"), y[:50], Predicted(p.value[:50], p.proba[:50]))
        assert wide[1] - wide[0] > high - low

    def test_coverage_of_the_mean(self):
        rng = np.random.default_rng(5)
        hits = 0
        for _ in range(200):
            errors = Predicted(rng.exponential(1.0, 50))
            low, high = bootstrap(find("mean_absolute_error"), np.zeros(50), errors, draws=300)
            hits += low <= 1 <= high
        assert 0.88 <= hits / 200 <= 0.98

    def test_none(self):
        assert bootstrap(find("roc_auc"), [1, 1], Predicted([1, 1], [0.1, 0.2])) is None
        assert bootstrap(find("mean_absolute_error"), [1.0], Predicted([0.0])) is None
        assert bootstrap(find("mean_absolute_error"), [1.0, 2.0], Predicted([0.0, 0.0]), groups=["a", "a"]) is None
        assert bootstrap(find("mean_absolute_error"), [1.0, np.nan], Predicted([0.0, 0.0]), known=[True, False]) is None
        one_positive = np.eye(30, dtype=int)[0]
        low, high = bootstrap(find("roc_auc"), one_positive, Predicted(one_positive, np.linspace(0, 1, 30)))
        assert low == high == 0  # undefined draws are left out

    def test_grouped_auc_draws_its_groups(self, rng):
        y, p = _binary(rng, 200)
        low, high = bootstrap(find("gauc:u"), y, p, groups=rng.integers(0, 20, 200))
        assert low < high

    def test_is_quick(self):
        rng = np.random.default_rng(0)
        y, p = _binary(rng, 1000)
        start = time.perf_counter()
        for name in ("roc_auc", "average_precision", "log_loss", "brier_score", "accuracy", "f1"):
            assert bootstrap(find(name), y, p) is not None
        assert time.perf_counter() - start < 2  # 0.2 on an idle core


def test_doctest():
    import doctest

    import manyheads.metrics

    assert doctest.testmod(manyheads.metrics).failed == 0


class TestParts:
    """A metric by label or class: each value is the metric's own on that part alone, and macros are their means."""

    @pytest.mark.parametrize("name", ["roc_auc", "average_precision", "log_loss", "brier_score", "f1_macro"])
    def test_labels(self, name, rng):
        y, p = _labels(rng)
        known = rng.uniform(size=y.shape) < 0.7
        known[:, 1] = False
        y[:, 3] = 0
        names = ("a", "b", "c", "d", "e")
        parts = find(name).by_part(y, p, names, known)
        assert [part.name for part in parts] == ["a", "c", "d", "e"]
        single = find("f1" if name == "f1_macro" else name)
        for part in parts:
            i, rows = names.index(part.name), known[:, names.index(part.name)]
            alone = single(y[rows, i], Predicted(p.value[rows, i], p.proba[rows, i])).value
            assert part.value == (None if alone is None else pytest.approx(alone))
            assert (part.labels, part.cases) == (rows.sum(), y[rows, i].sum())
        values = [part.value for part in parts if part.value is not None]
        assert find(name)(y, p, known=known).value == pytest.approx(np.mean(values))

    @pytest.mark.parametrize(("name", "oracle"), [
        ("balanced_accuracy", lambda y, p, c: sk.recall_score(y == c, p.value == c)),
        ("f1_macro", lambda y, p, c: sk.f1_score(y == c, p.value == c)),
        ("roc_auc_ovr", lambda y, p, c: sk.roc_auc_score(y == c, p.proba[:, c])),
    ])  # fmt: skip
    def test_classes(self, name, oracle, rng):
        y, p = _classes(rng)
        parts = find(name).by_part(y, p, ("north", "east", "south", "west"))
        assert [part.name for part in parts] == ["north", "east", "south", "west"]
        for c, part in enumerate(parts):
            assert part.value == pytest.approx(oracle(y, p, c))
            assert (part.labels, part.cases) == (80, (y == c).sum())
        assert find(name)(y, p).value == pytest.approx(np.mean([part.value for part in parts]))

    def test_spans_by_type_and_tokens_by_tag(self):
        y = objects([["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"], ["O"]])
        p = Predicted(objects([["B-PER", "I-PER", "O", "O"], ["B-LOC", "B-LOC"], ["B-ORG"]]))
        parts = {part.name: part for part in find("entity_f1").by_part(y, p)}
        assert {k: v.value for k, v in parts.items()} == {"LOC": 0.5, "ORG": 0.0, "PER": 1.0}
        assert [(v.labels, v.cases) for v in parts.values()] == [(3, 2), (3, 0), (3, 1)]
        tags = {part.name: part.value for part in find("token_accuracy").by_part(y, p)}
        assert tags == {"B-LOC": 0.5, "B-PER": 1.0, "I-PER": 1.0, "O": pytest.approx(1 / 3)}

    def test_masks_by_class(self):
        y = objects([np.array([[0, 0, 1], [1, 255, 3]], np.uint8)])
        p = Predicted(objects([np.array([[0, 1, 1], [1, 2, 1]], np.uint8)]))
        parts = find("mean_iou").by_part(y, p, ("sky", "road", "car", "tree"))
        assert [(part.name, part.value, part.cases) for part in parts] == [
            ("sky", 0.5, 2), ("road", 0.5, 2), ("tree", 0.0, 1),
        ]  # fmt: skip
        assert find("mean_iou")(y, p).value == pytest.approx(1 / 3)

    def test_what_has_no_parts(self, rng):
        assert find("r2").by_part(*_numbers(rng)[:1], Predicted(_numbers(rng)[1])) == []
        assert find("roc_auc").by_part(*_binary(rng)) == []
        assert find("entity_f1").by_part(objects([]), Predicted(objects([]))) == []
