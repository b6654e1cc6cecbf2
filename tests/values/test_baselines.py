"""Simple models: equal to scikit-learn's, blind to what is masked, and always with an answer."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score

from manyheads.baselines import BASELINES, run, run_all
from manyheads.baselines.boosting import Boosting
from manyheads.baselines.linear import Linear
from manyheads.data import Block, Taskset
from manyheads.data.assemble import Dataset
from manyheads.faults import ConfigError
from manyheads.tasks.classification import Binary, Multiclass, Multilabel, Ordinal
from manyheads.tasks.regression import Count, Regression
from manyheads.tasks.text import Tagging

TASKS = {
    "number": Regression("number"),
    "median": Regression("number", loss="mae", metrics=("mean_absolute_error",)),
    "price": Regression("price", transform="log1p"),
    "visits": Count("visits"),
    "bought": Binary("bought"),
    "cut": Binary("bought", threshold="f1", metrics=("f1",)),
    "colour": Multiclass("colour"),
    "grade": Ordinal("grade"),
    "tags": Multilabel("tags", target=("t1", "t2", "t3")),
}


def _frame(n=160, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    shop = rng.choice(list("abcd"), n)
    signal = x[:, 0] - 0.5 * x[:, 1] + 0.8 * (shop == "a")
    noisy = signal + 0.5 * rng.standard_normal((3, n))
    return pd.DataFrame(
        {
            **{f"x{i}": x[:, i] for i in range(3)},
            "shop": shop,
            "number": 10 + 3 * noisy[0],
            "price": np.expm1(np.abs(noisy[1])),
            "visits": rng.poisson(np.exp(signal)),
            "bought": (noisy[2] > 0).astype(float),
            "colour": np.where(noisy[0] > 0.7, "red", np.where(noisy[1] > 0, "green", "blue")),
            "grade": np.digitize(noisy[0], [-1, 0, 1]),
            **{f"t{i + 1}": (noisy[i] > 0).astype(float) for i in range(3)},
        }
    )


LABELS = ["number", "price", "visits", "bought", "colour", "grade", "t1", "t2", "t3"]


def _data(task, frame, train=110):
    task = TASKS[task] if isinstance(task, str) else task
    used = [*task.targets, *([task.sample_weight] if task.sample_weight else [])]
    frame = frame.drop(columns=[c for c in LABELS if c not in used])
    data = Dataset.fit({"t": frame}, [task], train={"t": np.arange(train)})
    parts = [data.tasksets({"t": frame.iloc[r]}) for r in (slice(0, train - 30), slice(train - 30, train))]
    return data.tasks[0], parts, data.tasksets({"t": frame.iloc[train:]}), data.preprocess.layouts


def _value(task, frame, method, seed=0):
    fitted, parts, test, layouts = _data(task, frame)
    return run([method], fitted, parts, test, layouts, seed)[method]


@pytest.mark.parametrize("word", TASKS)
def test_every_type_runs_and_learns(word):
    task, parts, test, layouts = _data(word, _frame())
    found = run(list(BASELINES), task, parts, test, layouts)
    shapes = {"colour": (50, 3), "grade": (50, 4), "tags": (50, 3), "bought": (50,), "cut": (50,)}
    for method, baseline in found.items():
        proba = baseline.predicted.proba
        assert (None if proba is None else np.shape(proba)) == shapes.get(word), method
        assert np.shape(baseline.predicted.value) == np.shape(baseline.truth)
        assert baseline.rows == 110
        assert not baseline.note
        if word in ("colour", "grade"):
            np.testing.assert_allclose(np.sum(proba, 1), 1)
    up = found["constant"].score.greater_is_better
    for method in ("linear", "boosting"):
        assert (found[method].score.value > found["constant"].score.value) == up, method


@pytest.mark.parametrize("method", ["linear", "boosting"])
@pytest.mark.parametrize("word", ["number", "colour"])
def test_the_same_twice(word, method):
    a, b = (_value(word, _frame(), method) for _ in range(2))
    np.testing.assert_array_equal(a.predicted.value, b.predicted.value)


def _design(taskset):
    x = taskset.inputs
    return np.concatenate([x["numeric"].numpy(), np.eye(6)[x["categorical"].numpy()[:, 0]]], 1).astype(float)


def test_linear_is_ridge_with_leave_one_out():
    task, parts, test, layouts = _data("number", _frame())
    assert layouts["t"]["categorical"] == [6]
    X, Z = np.concatenate([_design(p["t"]) for p in parts]), _design(test["t"])
    y = np.concatenate([task.truth(p["t"].labels("number")[0]) for p in parts])
    expected = RidgeCV(np.logspace(-2, 6, 33)).fit(X, y).predict(Z)
    found = run(["linear"], task, parts, test, layouts)["linear"]
    np.testing.assert_allclose(found.predicted.value, expected, rtol=1e-5)
    assert found.score.value == pytest.approx(r2_score(found.truth, expected), rel=1e-4)


def test_linear_is_logistic_regression():
    task, parts, test, layouts = _data("bought", _frame())
    X, Z = np.concatenate([_design(p["t"]) for p in parts]), _design(test["t"])
    y = np.concatenate([task.truth(p["t"].labels("bought")[0]) for p in parts])
    strengths = [c * f for c in Linear.strengths for f in (1, 10**-0.5, 10**0.5)]
    expected = [LogisticRegression(C=c, max_iter=1000).fit(X, y).predict_proba(Z)[:, 1] for c in strengths]
    found = run(["linear"], task, parts, test, layouts)["linear"].predicted.proba
    assert min(np.abs(found - e).max() for e in expected) < 1e-8


def test_many_columns_are_sparse_and_the_same(monkeypatch):
    task, parts, test, layouts = _data("number", _frame())
    x, (y, known, _) = parts[0]["t"].inputs, parts[0]["t"].labels("number")
    dense = Linear(x, layouts["t"]).matrix(x)
    monkeypatch.setattr(Linear, "dense", 2)
    sparse = Linear(x, layouts["t"]).matrix(x)
    np.testing.assert_array_equal(sparse.toarray(), dense)
    fit = BASELINES["linear"](task, x, layouts["t"], y, known, None, 0)
    best = Ridge(alpha=1.0).fit(dense, y).predict(_design(test["t"]))
    assert np.corrcoef(fit(test["t"].inputs).value, best)[0, 1] > 0.99


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("word", ["number", "visits", "bought", "colour", "grade", "tags"])
def test_masked_and_weightless_rows_are_ignored(word, method):
    task, parts, test, layouts = _data(word, _frame())
    rows, layout = parts[0]["t"], layouts["t"]
    y, known, _ = rows.labels(task.name)
    keep = torch.arange(len(y)) % 3 > 0
    gone = ~keep.reshape(-1, *[1] * (y.dim() - 1)).expand(y.shape)
    fit, x = BASELINES[method], test["t"].inputs
    small = {k: v[keep] for k, v in rows.inputs.items()}
    wrong = torch.where(gone, torch.zeros_like(y), y)
    expected = fit(task, small, layout, y[keep], known[keep], None, 0)(x)
    masked = fit(task, rows.inputs, layout, wrong, known & ~gone, None, 0)(x)
    np.testing.assert_allclose(masked.value, expected.value, rtol=1e-6)
    if method != "constant":
        weightless = fit(task, rows.inputs, layout, wrong, known, (~gone).float(), 0)(x)
        np.testing.assert_allclose(weightless.value, expected.value, rtol=1e-6)


@pytest.mark.parametrize("method", ["linear", "boosting"])
def test_weights_are_respected(method):
    frame = _frame(400)
    frame.loc[frame.index % 2 == 0, "number"] = 10.0  # half of the rows say nothing, and say so loudly
    task, parts, test, layouts = _data("number", frame, 300)
    rows = parts[0]["t"]
    y, known, _ = rows.labels("number")
    odd = torch.arange(len(y)) % 2 > 0
    slope = {}
    for name, w in {
        "odd": odd.float() + 0.01,
        "even": (~odd).float() + 0.01,
        "twice": torch.full((len(y),), 2.0),
    }.items():
        slope[name] = np.std(BASELINES[method](task, rows.inputs, layouts["t"], y, known, w, 0)(test["t"].inputs).value)
    plain = np.std(BASELINES[method](task, rows.inputs, layouts["t"], y, known, None, 0)(test["t"].inputs).value)
    assert slope["odd"] > 1.5 * plain > 1.5 * slope["even"]
    assert slope["twice"] == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("word", ["bought", "tags", "number", "visits", "colour"])
def test_a_single_class_is_a_constant_and_says_so(word):
    task, parts, test, layouts = _data(word, _frame())
    same = []
    for part in parts:
        blocks = tuple(replace(b, target=torch.ones_like(b.target)) for b in part["t"].blocks)
        same.append({"t": replace(part["t"], blocks=blocks)})
    for method in ("linear", "boosting"):
        found = run([method], task, same, test, layouts)[method]
        assert found.note == "All training labels are the same; the constant stands in."
        assert len(np.unique(np.asarray(found.predicted.value), axis=0)) == 1


def test_one_label_of_several_with_a_single_class():
    frame = _frame()
    frame["t2"] = 0.0
    frame["t3"] = np.nan
    for method in BASELINES:
        found = _value("tags", frame, method)
        assert np.shape(found.predicted.proba) == (50, 3)
        assert np.max(found.predicted.proba[:, 1]) < 1e-9
        np.testing.assert_allclose(found.predicted.proba[:, 2], 0.5)


def test_class_missing_in_training_has_next_to_no_probability():
    task, parts, test, layouts = _data(Multiclass("colour", classes=("blue", "green", "red", "grey")), _frame())
    for method in ("linear", "boosting"):
        found = run([method], task, parts, test, layouts)[method]
        assert np.shape(found.predicted.proba) == (50, 4)
        assert found.predicted.proba[:, 3].max() < 1e-9


def test_a_model_per_source():
    a, b = _frame(160, 1)[["x0", "x1", "number"]], _frame(160, 2)[["x0", "x2", "shop", "number"]]
    data = Dataset.fit({"a": a, "b": b}, [Regression("number")])
    task, layouts = data.tasks[0], data.preprocess.layouts
    train = data.tasksets({"a": a[:100], "b": b[:100]})
    test = data.tasksets({"a": a[100:], "b": b[100:]})
    both = run(["linear"], task, [train], test, layouts)["linear"]
    alone = [run(["linear"], task, [{s: train[s]}], {s: test[s]}, layouts)["linear"] for s in ("a", "b")]
    np.testing.assert_array_equal(both.predicted.value, np.concatenate([f.predicted.value for f in alone]))
    assert both.score.labels == 120
    lost = run(["linear"], task, [{"a": train["a"]}], test, layouts)["linear"]
    assert lost.note == "Source `b`: no training label; the constant of the other sources stands in."
    assert lost.score.value is not None


def test_few_or_no_labels():
    task, parts, test, layouts = _data("number", _frame())
    three = {"t": parts[0]["t"].take(torch.arange(3))}
    found = run(["boosting"], task, [three], test, layouts)["boosting"]
    assert found.note == "3 labelled training rows are too few; the constant stands in."
    for learn, score, word in (([{}], test, "training"), (parts, {}, "test")):
        found = run(["linear"], task, learn, score, layouts)["linear"]
        assert found.score.value is None
        assert found.score.why == f"No label in the {word} rows."


def test_many_levels_and_a_level_never_seen():
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(rng.integers(0, 400, (3000, 1)))
    x = {"numeric": torch.zeros(3000, 1), "categorical": codes}
    y = torch.from_numpy((rng.standard_normal(400)[codes[:, 0]]).astype(np.float32))
    known = torch.ones(3000, dtype=torch.bool)
    layout = {"numeric": 1, "categorical": [402]}
    new = {"numeric": torch.zeros(402, 1), "categorical": torch.arange(402)[:, None]}
    for method in ("linear", "boosting"):
        fit = BASELINES[method](Regression("y"), x, layout, y, known, None, 0)
        assert r2_score(y, fit(x).value) > 0.2
        assert np.isfinite(fit(new).value).all()
    assert np.nanmax(Boosting(x, layout).matrix(x)[:, 1]) == Boosting.levels - 1


def test_processes_change_nothing_and_progress_is_in_order():
    frame = _frame()
    tasks = [Regression("number"), Binary("bought")]
    frame = frame[["x0", "x1", "x2", "number", "bought"]]
    data = Dataset.fit({"t": frame}, tasks)
    train, test = data.tasksets({"t": frame[:110]}), data.tasksets({"t": frame[110:]})
    answers, seen = [], []
    for n_jobs in (1, 2):
        answers.append(
            run_all(["linear"], data.tasks, [train], test, data.preprocess.layouts, n_jobs=n_jobs, progress=seen.append)
        )
    assert seen == ["number", "bought"] * 2
    for name in ("number", "bought"):
        assert answers[0][name]["linear"].score == answers[1][name]["linear"].score


def test_unknown_word():
    task, parts, test, layouts = _data("number", _frame())
    with pytest.raises(ConfigError, match=r"No baseline is called `bosting`. Did you mean `boosting`\?"):
        run(["bosting"], task, parts, test, layouts)


def test_what_reads_more_than_a_vector_has_a_constant_alone():
    """Tags, masks, boxes and sound: the comparison goes on without simple models of theirs."""
    labels = pd.DataFrame({"tags": [["NOUN", "VERB"], ["NOUN"], ["VERB"], ["NOUN"]]})
    tagging = Tagging("tags", scheme="none").fitted(labels)
    target, known = tagging.encode(labels)
    rows = {"t": Taskset({"numeric": torch.zeros(4, 1)}, (Block(("tags",), target, known),))}
    found = run(list(BASELINES), tagging, [rows], rows, {})
    assert list(found) == ["constant"]
    assert found["constant"].score.value == pytest.approx(3 / 5)


def test_where_there_is_nothing_to_read_there_is_a_constant_alone():
    """A table of pictures or texts has no column that a simple model reads."""
    task, parts, test, layouts = _data("number", _frame())
    empty = [{"t": replace(part["t"], inputs={"numeric": torch.zeros(len(part["t"]), 0)})} for part in (*parts, test)]
    assert list(run(list(BASELINES), task, empty[:2], empty[2], layouts)) == ["constant"]
