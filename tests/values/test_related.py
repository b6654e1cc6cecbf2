"""The study of relatedness: from readings to an answer, and from tables to readings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from manyheads.affinity import Estimator, Reading
from manyheads.affinity.lookahead import Lookahead
from manyheads.affinity.readings import gathered, summary
from manyheads.affinity.related import affinity, estimators_of, related
from manyheads.affinity.rsa import RSA
from manyheads.build import prepare, split_parts
from manyheads.faults import ConfigError
from manyheads.ledger import Ledger
from manyheads.results import Relatedness
from manyheads.spec import RunSpec
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression

# -- from readings to an answer


def _gathered(by_seed, names=("a", "b"), method=None):
    return gathered("m", method or Lookahead(), list(names), by_seed, 1.0)


def test_means_and_intervals_are_over_seeds(rng):
    looks = [
        [(step, {("a", "b"): v, ("a", "a"): 9.0}) for step, v in enumerate(rng.normal(size=5), 1)] for _ in range(4)
    ]
    answer = _gathered([[(s, Reading(c)) for s, c in own] for own in looks])
    each = [np.mean([c["a", "b"] for _, c in own]) for own in looks]
    half = stats.t.ppf(0.975, 3) * np.std(each, ddof=1) / 2
    assert answer.matrix[0][1] == pytest.approx(np.mean(each))
    assert answer.low[0][1] == pytest.approx(np.mean(each) - half)
    assert answer.high[0][1] == pytest.approx(np.mean(each) + half)
    assert answer.matrix[0][0] is None
    assert answer.own[0] == 9.0
    assert answer.matrix[1][0] is None
    assert answer.missing == (("b", "a", "No look saw both tasks."),)
    assert [m[0][1] for m in answer.by_seed] == pytest.approx(each)
    assert Relatedness.model_validate_json(answer.model_dump_json()) == answer


def test_windows_double_and_hold_their_looks():
    looks = [(step, Reading({("a", "b"): float(step), ("b", "a"): 0.0})) for step in range(10, 810, 10)]
    short = [(step, Reading({("a", "b"): float(step), ("b", "a"): 0.0})) for step in range(10, 110, 10)]
    answer = _gathered([looks, short])
    assert [(w.first, w.last) for w in answer.windows] == [(10, 50), (60, 100), (110, 200), (210, 400), (410, 800)]
    assert [w.matrix[0][1] for w in answer.windows] == [30, 80, 155, 305, 605]


def test_looks_after_the_best_epoch_are_in_windows_alone():
    looks = [(step, Reading({("a", "b"): float(step), ("b", "a"): 0.0})) for step in (10, 20, 30, 40)]
    answer = gathered("m", Lookahead(), ["a", "b"], [looks], 1.0, until=[20])
    assert answer.matrix[0][1] == 15
    assert answer.windows[-1].last == 40


def test_a_sentence_says_what_was_found():
    def reading(shift):
        return Reading({("a", "b"): 0.2 + shift, ("b", "a"): -0.1 + shift, ("a", "c"): 0.0 + 2 * shift})

    seeds = [[(0, reading(s))] for s in (-0.01, 0.0, 0.01)]
    said = _gathered(seeds, "abc").summary
    assert said == (
        "m: a helps b most (+0.2), b harms a most (-0.1); 1 of 3 directions help and 1 harm beyond the noise of seeds. "
        "3 of 6 pairs could not be measured."
    )
    assert "no telling what is noise" in _gathered(seeds[:1], "abc").summary
    alike = [[(0, Reading({("a", "b"): 0.9, ("b", "a"): 0.9, ("a", "c"): 0.1, ("c", "a"): 0.1}))]] * 2
    assert _gathered(alike, "abc", RSA()).summary.startswith("m: a and b fit best (+0.9), a and c least (+0.1)")
    assert "1 of 3 pairs could not be measured" in _gathered(alike, "abc", RSA()).summary
    only = [[(0, Reading({("a", "b"): -0.3, ("b", "a"): -0.3}))]]
    assert _gathered(only, "ab", RSA()).summary == "m: a and b: -0.3, with no other pair to compare it with."
    nothing = _gathered([[(0, Reading({}))]])
    assert summary(nothing) == "m could compare no two of these tasks."


# -- the study


def _family(seed=0, n=500):
    """Two groups of three tasks, each group with two tanh units of its own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8))
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(8)])
    for g in "pq":
        units = np.tanh(x @ rng.normal(size=(8, 3)) / 2**0.5)
        for k in range(3):
            y = units @ rng.normal(size=3)
            frame[f"{g}{k}"] = y / y.std() + 0.1 * rng.normal(size=n)
    return frame, [Regression(f"{g}{k}") for g in "pq" for k in range(3)]


def _spec(epochs=40, **more):
    return RunSpec(
        tasks={"a": {}},
        model={"encoder": {"name": "tabular", "d_hidden": 4, "n_layers": 1, "activation": "tanh", "dropout": 0.0}},
        optim={"lr": 0.01, "weight_decay": 0.0},
        sampling={"batch_size": 32},
        trainer={"max_epochs": epochs, "patience": None, "accelerator": "cpu"},
        **more,
    )


def _study(frame, tasks, methods, spec=None, **more):
    more = {"seeds": 2, "n_jobs": 1, **more}
    return affinity(spec or _spec(), tasks, {"t": frame}, methods=methods, **more)


def test_known_groups_are_seen_by_what_reads_trained_models():
    frame, tasks = _family()
    for answer in _study(frame, tasks, ("rsa", "cka", "transfer"), seeds=1):
        found = np.array([[np.nan if v is None else v for v in row] for row in answer.matrix])
        group = np.repeat([0, 1], 3)
        same = group[:, None] == group
        assert np.nanmean(found[same]) > np.nanmean(found[~same]) + 0.05, answer.method
        assert answer.gain is False
        assert answer.seeds == 1
        assert answer.low[0][1] is None


def test_joint_runs_are_watched_over_time():
    frame, tasks = _family(n=300)
    cosine, ahead = _study(frame, tasks, ("cosine", {"name": "lookahead", "eta": 0.1}), _spec(6), every=3)
    assert cosine.method == "cosine"
    assert list(cosine.parts) == ["encoder, stage 1"]
    assert len(cosine.windows) >= 3
    assert cosine.windows[0].first == 3
    assert all(v is not None and v > 0 for v in ahead.own)
    assert len(cosine.by_seed) == 2
    assert all(low < high for i, row in enumerate(cosine.low) for j, low in enumerate(row) if i != j
               for high in (cosine.high[i][j],))  # fmt: skip
    assert all(answer.seconds > 0 for answer in (cosine, ahead))


def test_pairs_are_the_models_of_two(monkeypatch):
    frame, tasks = _family(n=300)
    (answer,) = _study(frame, tasks[:3], ("pairs",), _spec(3))
    assert answer.gain
    assert answer.directed
    assert all(v is not None for i, row in enumerate(answer.matrix) for j, v in enumerate(row) if i != j)
    assert answer.own == (None, None, None)


def test_a_study_is_the_same_again_and_over_processes():
    frame, tasks = _family(n=200)
    methods = ("lookahead", "cka", "pairs")
    runs = [_study(frame, tasks[:3], methods, _spec(2), n_jobs=n, every=2) for n in (1, 1, 2)]
    kept = [[a.model_copy(update={"seconds": None}) for a in answers] for answers in runs]
    assert kept[0] == kept[1]
    for one, other in zip(kept[0], kept[2], strict=True):
        for row, again in zip(one.matrix, other.matrix, strict=True):
            assert [v for v in row if v is not None] == pytest.approx([v for v in again if v is not None], rel=1e-3)


def test_what_was_trained_is_kept(tmp_path, monkeypatch):
    frame, tasks = _family(n=120)
    spec = _spec(2)
    prepared = prepare(spec, tasks[:3], {"t": frame}, split_parts(spec.data.split, {"t": frame}, tasks[:3]))
    asked = estimators_of(("cka", "pairs"))
    first = related(spec, prepared, asked, 1, ledger=Ledger(tmp_path))
    assert len(list(tmp_path.glob("*.pt"))) == 6  # three tasks, three pairs
    monkeypatch.setattr("manyheads.parallel.run_all", lambda runs, tell=None: pytest.fail("trained again"))
    again = related(spec, prepared, asked, 1, ledger=Ledger(tmp_path))
    for one, other in zip(first, again, strict=True):
        assert one.matrix == other.matrix


def test_the_test_part_is_never_read():
    frame, tasks = _family(n=200)
    parts = {"t": np.array(["train"] * 140 + ["test"] * 60)}
    broken = frame.copy()
    broken.iloc[140:, 8:] = -1e6  # labels
    broken.iloc[140:, :8] *= 100  # and inputs
    methods = ("cosine", "rsa", "transfer", "pairs")
    one, other = (_study(f, tasks[:3], methods, _spec(2), parts=parts, every=2) for f in (frame, broken))
    for a, b in zip(one, other, strict=True):
        assert a.matrix == b.matrix


def test_disjoint_tables_are_compared_where_that_is_right():
    frame, tasks = _family(n=240)
    own = frame.drop(columns=["p1", "p2", "q1", "q2"])
    left, right = own.iloc[:120].drop(columns="q0"), own.iloc[120:].drop(columns="p0")
    other = right.rename(columns={f"x{i}": f"z{i}" for i in range(8)})
    two = [t for t in tasks if t.name in ("p0", "q0")]
    same = affinity(_spec(2), two, {"l": left, "r": right}, methods=("cosine", "rsa"), seeds=1, n_jobs=1)
    assert all(answer.matrix[0][1] is not None for answer in same)
    differ = affinity(_spec(2), two, {"l": left, "r": other}, methods=("cosine", "rsa", "transfer"), seeds=1, n_jobs=1)
    assert differ[0].matrix[0][1] is not None  # later stages are shared
    for answer in differ[1:]:
        assert answer.matrix[0][1] is None
        assert answer.missing[0] == ("p0", "q0", "The two have no table of the same feature columns in common.")


def test_rows_with_few_labels_and_classes_are_fine():
    frame, tasks = _family(n=240)
    frame["click"] = (frame["p0"] > 0).astype(float).where(np.arange(240) % 3 > 0)
    frame.loc[frame.index % 4 > 0, "q0"] = np.nan
    mixed = [tasks[0], tasks[3], Binary("click")]
    for answer in _study(frame, mixed, ("cosine", "lookahead", "rsa", "cka", "transfer", "pairs"), _spec(4), seeds=1):
        assert all(v is not None for i, row in enumerate(answer.matrix) for j, v in enumerate(row) if i != j)


def test_words_are_checked():
    frame, tasks = _family(n=60)
    with pytest.raises(ConfigError, match="Did you mean `cosine`"):
        estimators_of(["cosin"])
    with pytest.raises(ConfigError, match="Found `rsa` twice"):
        estimators_of(["rsa", "RSA"])
    with pytest.raises(ConfigError, match="Found none"):
        estimators_of([])
    with pytest.raises(ConfigError, match=r"step size, or null\. Found -1"):
        estimators_of([{"name": "lookahead", "eta": -1}])
    with pytest.raises(ConfigError, match=r"two tasks or more, with one seed or more\. Found 1 and 3"):
        affinity(_spec(), tasks[:1], {"t": frame})
    assert set(estimators_of(["cka", "Pairs"])) == {"cka", "pairs"}
    assert all(isinstance(e, Estimator) for e in estimators_of(["cka"]).values())
