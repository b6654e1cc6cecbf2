"""Tests, deltas and verdicts: against hand computation, scipy, and studies in which nothing is there to be found."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from manyheads.metrics import Predicted, find
from manyheads.results import Comparison, Method
from manyheads.scoretable import compare_scores
from manyheads.statistics import (
    Change,
    delta,
    delta_m,
    from_draws,
    holm,
    is_absolute,
    mean_ranks,
    paired_bootstrap,
    paired_draws,
    repeats_needed,
    resampled_t,
)
from manyheads.verdicts import Direction, compare, verdict


class TestResampledT:
    def test_by_hand(self):
        # mean 2.5, variance 5/3; 1/4 + 5/16 = 9/16; error sqrt(15/16); t = 2.5 / .968246 = 2.582, 3 degrees
        found = resampled_t([1.0, 2.0, 3.0, 4.0], ratio=0.25)
        t = 2.5 / np.sqrt(15 / 16)
        assert found.mean == 2.5
        assert found.n == 4
        assert found.p == pytest.approx(2 * scipy.stats.t.sf(t, 3))
        half = 3.182446305284263 * np.sqrt(15 / 16)  # the table's t of 3 degrees of freedom at .975
        assert (found.low, found.high) == pytest.approx((2.5 - half, 2.5 + half))

    @pytest.mark.parametrize("ratio", [None, 0])
    def test_without_overlap_it_is_the_paired_t(self, ratio):
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(2, 9))
        found, known = resampled_t(a - b, ratio), scipy.stats.ttest_rel(a, b)
        assert found.p == pytest.approx(known.pvalue)
        assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))

    def test_sign_and_scale(self):
        d = np.array([0.1, 0.4, -0.2, 0.5, 0.3])
        there, back = resampled_t(d, 0.25), resampled_t(-1000 * d, 0.25)
        assert back.p == pytest.approx(there.p)
        assert (back.low, back.high) == pytest.approx((-1000 * there.high, -1000 * there.low))

    def test_nothing_to_judge_by(self):
        assert resampled_t([]) == Change(None)
        assert resampled_t([np.nan, np.nan]) == Change(None)
        assert resampled_t([0.3]) == Change(0.3, n=1)
        assert resampled_t([0.3, np.nan]) == Change(0.3, n=1)
        assert resampled_t([0.1, 0.1, 0.1]) == Change(pytest.approx(0.1), n=3)
        assert resampled_t([0.0, 0.0]) == Change(0.0, 0.0, 0.0, 1.0, 2)

    def test_negative_ratio(self):
        with pytest.raises(ValueError, match=r"not negative\. Found -1\."):
            resampled_t([1, 2], -1)


class TestHolm:
    def test_by_hand(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
        assert holm([0.7, 0.6, 0.9]) == [1.0, 1.0, 1.0]
        assert holm([0.2]) == [0.2]
        assert holm([]) == []

    def test_order_does_not_matter_and_order_is_kept(self):
        rng = np.random.default_rng(0)
        p = rng.uniform(size=12) ** 3
        mixed = rng.permutation(12)
        adjusted = np.array(holm(list(p)))
        np.testing.assert_array_equal(np.array(holm(list(p[mixed]))), adjusted[mixed])
        assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
        assert (adjusted >= p).all()

    def test_family_wise_error(self):
        p = np.random.default_rng(0).uniform(size=(4000, 5))
        plain = (p < 0.05).any(1).mean()
        adjusted = np.mean([min(holm(row)) < 0.05 for row in p.tolist()])
        assert plain == pytest.approx(1 - 0.95**5, abs=0.02)  # 22.6 %
        assert adjusted == pytest.approx(0.05, abs=0.01)


def _relative(new, old, greater):
    return delta([new], [old], greater)[0]


class TestDelta:
    def test_sign(self):
        assert _relative(0.9, 0.8, True) == pytest.approx(0.125)
        assert _relative(0.9, 0.8, False) == pytest.approx(-0.125)

    def test_negative_baseline_keeps_the_sign(self):
        assert _relative(-0.5, -1.0, True) == 0.5
        assert _relative(-1.5, -1.0, True) == -0.5

    def test_halving_and_doubling_an_error(self):
        assert _relative(0.5, 1.0, False) == 0.5
        assert _relative(2.0, 1.0, False) == -1.0

    def test_the_published_example(self):
        # two tasks, one with two metrics: the mean within the task, then over tasks
        a = np.mean([_relative(93, 96, True), _relative(99, 98, False)])
        b = _relative(0.5, 0.2, True)
        assert np.mean([a, b]) == pytest.approx(0.7396, abs=5e-5)
        assert delta_m({"A": [a], "B": [b]}).mean == pytest.approx(0.7396, abs=5e-5)

    def test_the_baseline_is_the_mean_over_repeats(self):
        np.testing.assert_allclose(delta([2.0, 5.0], [1.0, 3.0], True), [0.5, 1.0])
        np.testing.assert_allclose(delta([2.0, None], [1.0, 3.0], True), [0.5, np.nan])
        np.testing.assert_allclose(delta([2.0, 5.0], [1.0, 3.0], False, absolute=True), [-1.0, -2.0])

    def test_itself(self):
        values = [0.8, 0.7, None, 0.9]
        np.testing.assert_array_equal(delta(values, values, True), [0, 0, np.nan, 0])

    def test_decibels_are_shares_of_the_thirty_that_count(self):
        assert is_absolute([1.0, 1.8], "si_sdr_gain")
        assert not is_absolute([6.0], "si_sdr_gain")
        np.testing.assert_allclose(delta([4.0], [1.0], True, absolute=True, metric="si_sdr_gain"), [0.1])
        np.testing.assert_allclose(delta([9.0], [6.0], True, metric="si_sdr_gain"), [0.5])

    def test_when_it_is_absolute(self):
        assert is_absolute([0.9, 0.8], "r2")
        assert is_absolute([0.9, 0.8], "r2_log1p")
        assert not is_absolute([0.9, 0.8], "accuracy")
        assert is_absolute([0.04, 0.05], "average_precision")
        assert not is_absolute([0.01, 0.2], "average_precision")  # decided once, by the mean
        assert is_absolute([-1.0, 1.0])
        assert not is_absolute([-1.0, -1.0])
        assert not is_absolute([0.3, np.nan])
        assert is_absolute([np.nan])

    def test_mistakes(self):
        with pytest.raises(ValueError, match="Found a mean of 0: use `absolute=True`"):
            delta([1.0], [0.0], True)
        with pytest.raises(ValueError, match=r"Found \(2,\) and \(1,\)"):
            delta([1.0, 2.0], [0.0], True)

    def test_delta_m_is_tested_over_repeats(self):
        rng = np.random.default_rng(0)
        d = rng.normal(size=(3, 6))
        assert delta_m({"a": d[0], "b": d[1], "c": d[2]}, 0.25) == resampled_t(d.mean(0), 0.25)
        assert delta_m({"a": d[0], "never": np.full(6, np.nan)}) == resampled_t(d[0])
        assert delta_m({"a": d[0], "b": np.r_[np.nan, d[1, 1:]]}) == resampled_t(d[:2].mean(0)[1:])
        assert delta_m({}) == Change(None)


def test_mean_ranks_share_ties():
    means = {
        "single": {"a": 0.8, "b": 2.0, "c": 1.0},
        "joint": {"a": 0.8, "b": 1.0, "c": None},
        "boosting": {"a": 0.9, "b": 3.0, "c": 1.0},
    }
    ranks = mean_ranks(means, {"a": True, "b": False, "c": True})
    assert ranks == {"single": (2.5 + 2) / 2, "joint": (2.5 + 1) / 2, "boosting": (1 + 3) / 2}
    assert sum(ranks.values()) == 6
    assert mean_ranks(means, {"c": True}) == {}


@pytest.mark.parametrize(
    ("change", "p", "word"),
    [
        (0.1, 0.01, "helps"),
        (-0.1, 0.01, "hurts"),
        (0.1, 0.05, "undecided"),
        (0.1, None, "undecided"),
        (None, None, "undecided"),
        (0.0, 0.0, "undecided"),
    ],
)
def test_verdict(change, p, word):
    assert verdict(change, p) == word


class TestRepeatsNeeded:
    def unit(self, effect):
        """Differences of mean `effect` and standard deviation 1."""
        d = np.array([-1.0, 1, -1, 1, 0, 0, 0])
        return effect + d / d.std(ddof=1)

    @pytest.mark.parametrize(("effect", "n"), [(1.0, 10), (0.5, 34), (2.0, 5)])
    def test_known_sample_sizes_of_the_paired_t(self, effect, n):
        assert repeats_needed(self.unit(effect)) == repeats_needed(self.unit(-effect)) == n

    def test_against_simulation(self):
        d = self.unit(1.2)
        n, ratio = repeats_needed(d, 0.1), 0.1
        rng = np.random.default_rng(0)
        # repeats with a common part are correlated as those of overlapping splits: variance of the mean 1/n + common
        common = ratio * (1 + ratio)
        rho = common / (1 + common)
        draws = 1.2 + np.sqrt(1 + common) * (
            np.sqrt(rho) * rng.normal(size=(4000, 1)) + np.sqrt(1 - rho) * rng.normal(size=(4000, n))
        )
        seen = np.mean([resampled_t(row, ratio).p < 0.05 for row in draws])
        assert seen == pytest.approx(0.8, abs=0.06)

    def test_rows_may_be_what_is_missing(self):
        assert repeats_needed(self.unit(0.5), 0.25) is None
        assert repeats_needed(self.unit(0.01)) is None
        assert repeats_needed([0.1, 0.1]) is None
        assert repeats_needed([0.1]) is None
        assert repeats_needed(self.unit(30.0)) == 2


class TestPairedBootstrap:
    def data(self, n=300):
        rng = np.random.default_rng(0)
        y = rng.normal(size=n)
        return y, Predicted(y + 0.5 * rng.normal(size=n)), Predicted(y + 0.9 * rng.normal(size=n))

    def test_better_worse_same(self):
        y, good, bad = self.data()
        metric = find("mean_squared_error")
        up, down = paired_bootstrap(metric, y, good, bad), paired_bootstrap(metric, y, bad, good)
        assert up.low > 0
        assert up.p == pytest.approx(2 / 1001)
        assert down.high < 0
        assert up.mean == pytest.approx(1 - metric(y, good).value / metric(y, bad).value)
        assert paired_bootstrap(metric, y, good, good) == Change(0.0, 0.0, 0.0, 1.0, 1000)

    def test_r2_is_absolute_and_pairs_are_narrower_than_two_intervals(self):
        y, good, bad = self.data()
        metric = find("r2")
        found = paired_bootstrap(metric, y, good, bad)
        assert found.mean == pytest.approx(metric(y, good).value - metric(y, bad).value)
        again = paired_bootstrap(metric, y, good, Predicted(np.asarray(good.value) + 0.01))
        assert again.high - again.low < 0.1 * (found.high - found.low)

    def test_groups(self):
        y, good, _ = self.data()
        metric, schools = find("mean_squared_error"), np.arange(300) // 50
        shift = np.repeat(np.random.default_rng(1).normal(size=6), 50)
        worse = Predicted(np.asarray(good.value) + shift)
        rows, groups = (paired_bootstrap(metric, y, good, worse, groups=g) for g in (None, schools))
        assert groups.high - groups.low > 1.5 * (rows.high - rows.low)

    def test_undefined(self):
        found = paired_bootstrap(find("roc_auc"), [1, 1], Predicted([1, 1], [0.1, 0.2]), Predicted([1, 1], [0.3, 0.2]))
        assert found == Change(None)

    def test_delta_m_draw_by_draw(self):
        y, good, bad = self.data()
        known = np.arange(300) % 3 > 0
        parts = [
            paired_draws(find("mean_squared_error"), y, good, bad, known=known, draws=200),
            paired_draws(find("r2"), y, bad, good, draws=200),
        ]
        both = from_draws(np.mean([p[0] for p in parts]), np.mean([p[1] for p in parts], 0))
        assert both.n == 200
        assert both.low < both.mean < both.high


def _null_studies(studies, repeats, tasks, seed=0):
    """Two models of one study, each a line through one of two equally good features, on re-drawn 80/20 splits.

    Shape: returns the differences of test error, (studies, tasks, repeats).
    """
    rng = np.random.default_rng(seed)
    n, test = 100, 20
    x = rng.normal(size=(studies, tasks, n, 2))
    y = x.sum(-1) + rng.normal(size=(studies, tasks, n))
    out = np.empty((studies, tasks, repeats))
    for r in range(repeats):
        # every study draws its own splits: common ones would make the studies' errors hang together
        order = rng.uniform(size=(studies, 1, n)).argsort(-1)
        xs = np.take_along_axis(x, order[..., None], 2)
        ys = np.take_along_axis(y, order, 2)[..., None]
        slope = (xs[:, :, test:] * ys[:, :, test:]).sum(2) / (xs[:, :, test:] ** 2).sum(2)
        error = ((ys[:, :, :test] - xs[:, :, :test] * slope[:, :, None]) ** 2).mean(2)
        out[:, :, r] = error[..., 0] - error[..., 1]
    return out


def test_false_claims():
    differences = _null_studies(2000, 10, 1)[:, 0]
    plain = np.mean([resampled_t(d).p < 0.05 for d in differences])
    corrected = np.mean([resampled_t(d, 0.25).p < 0.05 for d in differences])
    assert plain > 0.10
    assert corrected <= 0.05


def test_false_claims_over_tasks():
    differences = _null_studies(500, 5, 4, seed=1)
    corrected = np.mean([min(holm([resampled_t(d, 0.25).p for d in study])) < 0.05 for study in differences])
    assert corrected <= 0.05


def _methods(**effects):
    rng = np.random.default_rng(0)
    base = {"buy": 0.7 + 0.02 * rng.normal(size=10), "price": 3.0 + 0.1 * rng.normal(size=10)}
    return [
        Method(
            name=name,
            values={t: tuple(v + effect.get(t, 0) + (0.004 * rng.normal(size=10) if effect else 0))
                    for t, v in base.items()},
        )
        for name, effect in effects.items()
    ]  # fmt: skip


TASKS = {"buy": Direction("roc_auc", True), "price": Direction("root_mean_squared_error", False)}


class TestCompare:
    def test_helps_and_hurts(self):
        found = compare(_methods(single={}, mmoe={"buy": 0.05, "price": 0.4}), TASKS, ratio=0.25)
        tasks = found.comparisons["mmoe"].tasks
        assert (tasks["buy"].verdict, tasks["price"].verdict) == ("helps", "hurts")
        assert tasks["buy"].delta == pytest.approx(0.05 / 0.7, rel=0.1)
        assert tasks["price"].delta == pytest.approx(-0.4 / 3, rel=0.1)
        assert tasks["buy"].interval[0] < tasks["buy"].delta < tasks["buy"].interval[1]
        assert tasks["buy"].best == "mmoe"
        assert tasks["price"].best == "single"
        assert tasks["buy"].why.startswith("helps: +7.")
        assert "helps 1 task, hurts 1, undecided 0; delta-m " in found.summary
        assert found.summary.split("]")[1].startswith((", clear of 0.", ", within noise."))
        assert "Sharing hurts price: give it a model apart." in found.summary
        assert found.comparisons["mmoe"].delta_m == pytest.approx((tasks["buy"].delta + tasks["price"].delta) / 2)
        assert found.ranks == {"single": 1.5, "mmoe": 1.5}

    def test_a_model_against_itself(self):
        found = compare(_methods(single={}, joint={}), TASKS, ratio=0.25)
        comparison = found.comparisons["joint"]
        assert comparison.delta_m == 0
        assert comparison.interval == (0, 0)
        for task in comparison.tasks.values():
            assert (task.delta, task.p, task.verdict) == (0, 1, "undecided")
            assert task.why == "undecided: there is no difference in any repeat."
        assert "[+0.0 %, +0.0 %], within noise." in found.summary
        assert "No method beat `single` beyond noise." in found.summary

    def test_noise_is_undecided_and_says_what_it_would_take(self):
        found = compare(_methods(single={}, joint={"buy": 0.001}), TASKS)
        why = found.comparisons["joint"].tasks["buy"].why
        assert why.startswith("undecided: the interval [")
        assert "includes 0; about " in why
        assert why.endswith(" repeats would be needed to see a change of this size.")
        assert "No method beat `single` beyond noise." in found.summary

    def test_a_mean_may_be_clear_where_no_task_is(self):
        random = np.random.default_rng(0)
        single = {t: tuple(0.5 + 0.01 * random.normal(size=6)) for t in "abcdefgh"}
        joint = {t: tuple(np.array(v) + 0.006 + 0.012 * random.normal(size=6)) for t, v in single.items()}
        methods = [Method(name="single", values=single), Method(name="joint", values=joint)]
        found = compare(methods, dict.fromkeys(single, Direction("accuracy", True)))
        assert found.comparisons["joint"].interval[0] > 0
        assert {t.verdict for t in found.comparisons["joint"].tasks.values()} == {"undecided"}
        assert "], clear of 0." in found.summary
        assert found.summary.endswith(
            "No method beat `single` beyond noise on one task; on the mean of all `joint` did."
        )

    def test_references_are_shown_and_not_judged(self):
        found = compare(
            _methods(single={}, joint={"buy": 0.05}, linear={"buy": -0.1}, boosting={"buy": 0.2, "price": -1}), TASKS
        )
        assert list(found.comparisons) == ["joint"]
        task = found.comparisons["joint"].tasks["buy"]
        assert task.boosting == pytest.approx(0.9, abs=0.02)
        assert task.linear == pytest.approx(0.6, abs=0.02)
        assert task.constant is None
        assert task.best == "boosting"
        said = "Boosting has the best mean on 2 of 2 tasks (means alone, not tested): use separate boosters."
        assert said in found.summary
        one = compare(_methods(single={}, joint={"buy": 0.05}, boosting={"buy": 0.2, "price": 1}), TASKS)
        assert "use separate boosters" not in one.summary
        only = compare(_methods(single={}, boosting={"buy": 0.2}), TASKS)
        assert list(only.comparisons) == ["boosting"]

    def test_more_methods_make_the_level_stricter(self):
        effects = {"single": {}, "joint": {"buy": 0.003}}
        few = compare(_methods(**effects), TASKS)
        many = compare([*_methods(**effects), *_methods(**{f"m{i}": {"buy": 0.0} for i in range(9)})], TASKS)
        assert many.comparisons["joint"].tasks["buy"].p >= few.comparisons["joint"].tasks["buy"].p
        assert many.comparisons["joint"].tasks["buy"].interval == few.comparisons["joint"].tasks["buy"].interval

    def test_identical_changes_decide_nothing(self):
        one = [Method(name=n, values={"a": (v, v, v)}) for n, v in [("single", 0.5), ("joint", 0.6)]]
        task = compare(one, {"a": Direction("accuracy", True)}).comparisons["joint"].tasks["a"]
        assert task.verdict == "undecided"
        assert task.interval == (None, None)
        assert task.why.startswith("undecided: all 3 repeats show the same change (+20.0 %)")

    def test_one_repeat_and_none(self):
        methods = [
            Method(name="single", values={"a": (0.5,), "b": (None,)}),
            Method(name="joint", values={"a": (0.6,)}),
        ]
        found = compare(methods, {"a": Direction("accuracy", True), "b": Direction("roc_auc", True)})
        tasks = found.comparisons["joint"].tasks
        assert tasks["a"].why == "undecided: one repeat (+20.0 %) has no spread to judge by; run more."
        assert tasks["b"].why == "undecided: there is no pair of values to compare."
        assert (tasks["b"].delta, tasks["b"].best) == (None, None)
        assert found.comparisons["joint"].delta_m == pytest.approx(0.2)

    def test_r2_is_an_absolute_change(self):
        methods = [Method(name=n, values={"a": (v, v + 0.1)}) for n, v in [("single", 0.5), ("joint", 0.6)]]
        task = compare(methods, {"a": Direction("r2", True)}).comparisons["joint"].tasks["a"]
        assert task.absolute
        assert task.delta == pytest.approx(0.1)

    def test_own_tests(self):
        tests = {("joint", "buy"): Change(0.3, 0.1, 0.5, 0.001, 1000), ("joint", ""): Change(0.2, 0.1, 0.3, 0.01, 1000)}
        comparison = compare(_methods(single={}, joint={"buy": 0.001}), TASKS, tests=tests).comparisons["joint"]
        assert (comparison.tasks["buy"].delta, comparison.tasks["buy"].interval) == (0.3, (0.1, 0.5))
        assert comparison.tasks["buy"].verdict == "helps"
        assert (comparison.delta_m, comparison.interval) == (0.2, (0.1, 0.3))

    def test_is_json_and_back(self):
        comparison = compare(_methods(single={}, joint={"buy": 0.05}), TASKS).comparisons["joint"]
        assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
        assert json.loads(comparison.model_dump_json())["tasks"]["buy"]["verdict"] == "helps"

    def test_mistakes(self):
        with pytest.raises(
            ValueError, match=r"baseline `singel` should be one of the methods\. Did you mean `single`\?"
        ):
            compare(_methods(single={}, joint={}), TASKS, baseline="singel")
        with pytest.raises(ValueError, match=r"two methods or more\. Found `single` alone\."):
            compare(_methods(single={}), TASKS)
        uneven = [Method(name="single", values={"a": (1.0,)}), Method(name="b", values={"a": (1.0, 2.0)})]
        with pytest.raises(ValueError, match=r"Found \[1, 2\] repeats"):
            compare(uneven, {"a": Direction("r2", True)})


def _table(splits=6, seeds=2, effect=0.05, **more):
    rng = np.random.default_rng(0)
    rows = []
    for split in range(splits):
        for seed in range(seeds):
            for task in ("buy", "price"):
                base = 0.7 + 0.03 * rng.normal()
                for method in ("single", "mmoe"):
                    value = base + effect * (method == "mmoe") + 0.005 * rng.normal()
                    rows.append({"task": task, "method": method, "split": split, "seed": seed, "value": value})
    return pd.DataFrame(rows).assign(**more)


class TestScores:
    def test_seeds_are_averaged_within_a_split(self):
        table = _table(greater_is_better=True, n_train=800, n_test=200)
        found = compare_scores(table)
        mean = table.groupby(["task", "method", "split"])["value"].mean().unstack("method")
        task = found.comparisons["mmoe"].tasks["buy"]
        by_hand = resampled_t(
            (mean.loc["buy", "mmoe"] - mean.loc["buy", "single"]) / mean.loc["buy", "single"].mean(), 0.25
        )
        assert task.delta == pytest.approx(by_hand.mean)
        assert task.interval == pytest.approx((by_hand.low, by_hand.high))
        assert task.verdict == "helps"
        assert found.comparisons["mmoe"].repeats == 6
        assert "test rows per training row from `n_test` and `n_train`" in found.protocol
        assert "6 splits, 2 seeds averaged within each" in found.protocol

    def test_order_of_rows_does_not_matter(self):
        table = _table()
        mixed = compare_scores(table.sample(frac=1, random_state=0)).comparisons["mmoe"]
        ordered = compare_scores(table).comparisons["mmoe"]
        assert mixed.tasks["buy"].p == pytest.approx(ordered.tasks["buy"].p)
        assert mixed.delta_m == pytest.approx(ordered.delta_m)

    def test_direction(self):
        up = compare_scores(_table(metric="roc_auc"))
        down = compare_scores(_table(metric="root_mean_squared_error"))
        said = compare_scores(_table(metric="my own", greater_is_better="False"))
        assert up.comparisons["mmoe"].tasks["buy"].verdict == "helps"
        assert down.comparisons["mmoe"].tasks["buy"].verdict == "hurts"
        assert said.comparisons["mmoe"].tasks["buy"].verdict == "hurts"
        assert said.comparisons["mmoe"].tasks["buy"].metric == "my own"
        assert "Greater was taken to be better" not in up.summary
        assert "Greater was taken to be better on every task" in compare_scores(_table()).summary

    def test_unknown_overlap_is_assumed_and_said(self):
        cautious, free = compare_scores(_table()), compare_scores(_table(), ratio=0)
        assert "0.25 test rows per training row assumed" in cautious.protocol
        assert "0 test rows per training row, as given" in free.protocol
        assert free.comparisons["mmoe"].tasks["buy"].p < cautious.comparisons["mmoe"].tasks["buy"].p

    def test_one_split(self):
        found = compare_scores(_table(splits=1, seeds=5))
        assert found.comparisons["mmoe"].repeats == 5
        assert found.protocol.startswith(
            "All scores come from one split: the intervals cover 5 seeds and nothing else."
        )
        assert "This is about seeds on one split, not about other rows." in found.summary
        assert found.summary in (c.summary for c in found.comparisons.values())

    def test_baseline_by_name(self):
        found = compare_scores(_table(), baseline="mmoe")
        assert found.comparisons["single"].tasks["buy"].verdict == "hurts"
        with pytest.raises(ValueError, match="The baseline `ours` should be one of the methods"):
            compare_scores(_table(), baseline="ours")

    def test_undefined_and_absent_values(self):
        table = _table()
        table.loc[0, "value"] = None
        table = table.drop(index=table.index[-1])
        assert compare_scores(table).comparisons["mmoe"].tasks["price"].verdict == "helps"
        table.loc[table.split == 2, "value"] = None
        assert compare_scores(table).comparisons["mmoe"].methods[0].values["buy"][2] is None

    @pytest.mark.parametrize("column", ["task", "method", "split", "seed", "value"])
    def test_missing_column(self, column):
        with pytest.raises(ValueError, match=f"Column `{column}` is missing; found "):
            compare_scores(_table().drop(columns=column))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"value": "high"}, r"`value` should be a finite number, or empty\. Row 4 has 'high'\."),
            ({"value": np.inf}, r"`value` should be a finite number, or empty\. Row 4 has inf\."),
            ({"task": None}, r"Every score should have a task\. Row 4 has none\."),
            ({"method": "single"}, r"Rows 3 and 4 are both for price, single, 0, 0\."),
            ({"n_test": 0}, r"`n_test` should be a positive number of rows\. Row 4 has 0\."),
            ({"metric": "f1"}, r"Each task should have one metric\. Task `price` has roc_auc, f1\."),
            ({"greater_is_better": "maybe"}, r"the same throughout a task\. Task `price` has true, maybe\."),
        ],
    )
    def test_bad_row(self, change, message):
        table = _table(n_train=80, n_test=20, metric="roc_auc", greater_is_better="true").astype(object)
        for column, value in change.items():
            table.loc[3, column] = value
        with pytest.raises(ValueError, match=message):
            compare_scores(table)

    def test_other_mistakes(self):
        with pytest.raises(ValueError, match="Column `n_train` is missing"):
            compare_scores(_table(n_test=3))
        with pytest.raises(ValueError, match=r"should have rows\. Found none\."):
            compare_scores(_table().iloc[:0])
        with pytest.raises(ValueError, match=r"It is called `roc_auc` here\. Task `buy` names it"):
            compare_scores(_table(metric="auc"))

    def test_from_a_file(self, tmp_path):
        path = tmp_path / "scores.csv"
        _table(metric="roc_auc").to_csv(path, index=False)
        assert compare_scores(pd.read_csv(path)).comparisons["mmoe"].tasks["buy"].verdict == "helps"


def test_doctest():
    import doctest

    import manyheads.statistics

    assert doctest.testmod(manyheads.statistics).failed == 0


def test_skills_are_on_one_scale():
    values = {"joint": (0.7, 2.0), "single": (0.6, 4.0), "constant": (0.5, 5.0)}
    methods = [Method(name=n, values={"tags": (v[0],) * 3, "price": (v[1],) * 3}) for n, v in values.items()]
    tasks = {"tags": Direction("token_accuracy", True), "price": Direction("root_mean_squared_error", False)}
    found = compare(methods, tasks).comparisons["joint"].tasks
    assert found["tags"].skills == pytest.approx({"joint": 0.4, "single": 0.2, "constant": 0.0})
    assert found["price"].skills == pytest.approx({"joint": 0.6, "single": 0.2, "constant": 0.0})
    without = compare(methods[:2], {"price": tasks["price"]}).comparisons["joint"].tasks["price"]
    assert without.skills == {}
    assert compare(methods[:2], {"price": Direction("value", True)}).comparisons["joint"].tasks["price"].skills == {}
