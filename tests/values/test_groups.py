"""Groups that are trained: the same models as by hand, the choice on validation, and the words."""

import numpy as np
import pandas as pd
import pytest

from manyheads.build import make_training, prepare, split_parts
from manyheads.config import check, tasks_of
from manyheads.evaluate import measure, results
from manyheads.faults import ConfigError
from manyheads.grouping.groups import Study, validate
from manyheads.grouping.ofgroup import labelled_rows, of_group
from manyheads.grouping.recommend import agreement, recommendation
from manyheads.results import Grouping, GroupingStudy, Method
from manyheads.verdicts import Direction, chosen

NAMES = ("a", "b", "c")
UP = {"a": Direction("accuracy", True), "b": Direction("accuracy", True)}
UP1 = {"a": UP["a"]}


def table(n=240, seed=0):
    """Two tasks that read one hidden unit, and one that reads another."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4))
    one, two = np.tanh(2 * x[:, 0] + x[:, 1]), np.tanh(x[:, 2] - 2 * x[:, 3])
    y = {"a": one, "b": -2 * one, "c": two}
    noisy = {k: v + 0.1 * random.normal(size=n) for k, v in y.items()}
    return pd.DataFrame({f"x{i}": x[:, i] for i in range(4)} | noisy)


def run_spec(**more):
    return check(
        {
            "tasks": {t: {"type": "regression"} for t in NAMES},
            "data": {"split": {"sizes": [0.4, 0.2, 0.4]}},
            "model": {"encoder": {"name": "tabular", "d_hidden": 4, "n_layers": 1, "dropout": 0.0}, "members": 1},
            "trainer": {"max_epochs": 6},
            "optim": {"lr": 0.02},
        }
        | more
    )


@pytest.fixture(scope="module")
def studied():
    """One study of every kind of group: an overlapping grouping with predictions, and plain groups with branches."""
    spec = run_spec()
    overlapping = Grouping(
        groups=(("a", "b"), ("a", "c")), serves={"a": 0, "b": 0, "c": 1}, gains={"a": 0.3, "b": 0.2, "c": -0.1},
        total=0.4, exact=True, budget=2, cost=2,
    )  # fmt: skip
    groupings = {"two": overlapping, "plain": [["a", "b"], ["c"]]}
    study = Study(spec, tasks_of(spec), {"t": table()}, groupings, repeats=2, branches_from=-1)
    study.train()
    return study, study.result()


def values(found, method):
    return next(m for m in found.comparisons["joint"].methods if m.name == method).values


def test_a_group_is_the_model_that_one_makes_by_hand(studied):
    study, found = studied
    spec = run_spec()
    for r, one in enumerate(study.rounds):
        parts = split_parts(spec.data.split, {"t": table()}, tasks_of(spec), r)
        data = prepare(spec, tasks_of(spec), {"t": table()}, parts)
        mine = [t for t in data.tasks if t.name in ("a", "b")]
        size = batch(study)
        own = of_group(spec, ("a", "b"), NAMES, size)
        run = make_training(
            own, data.dataset.preprocess.layouts, mine, data.tasksets["train"], data.tasksets["valid"], seed=one.seed
        )
        run.run()
        by_hand = results(run.model, data.tasksets["test"], ["a", "b"])
        for t in mine:
            score = measure(t, by_hand[t.name], t.metrics[:1])[0].value
            assert values(found, "plain")[t.name][r] == pytest.approx(score, rel=1e-3)


def batch(study):
    return study.runs("joint model")[0].sampler.batch_size


def test_every_model_is_trained_once(studied):
    study, _ = studied
    counts = {stage: len(study.runs(stage)) for stage in study.stages}
    # per repeat: one for all; three alone; a with b (both groupings' own), a with c, and two models of branches, whose
    # served sets are the same
    assert counts == {"joint model": 2, "single-task models": 6, "groups of tasks": 6}


def test_what_a_study_says_holds(studied):
    _, found = studied
    assert set(found.comparisons) == {"joint", "two", "plain", "two, branched", "plain, branched"}
    assert values(found, "plain")["c"] == values(found, "single")["c"]
    for r, (group, value) in enumerate(zip(found.served["two"]["a"], values(found, "two")["a"], strict=True)):
        if group == 0:
            assert value == values(found, "plain")["a"][r]
    assert found.served["two"]["b"] == (0, 0)
    assert found.served["two"]["c"] == (1, 1)
    assert found.choice in {"joint", "single", "two", "plain", "two, branched", "plain, branched"}
    assert set(found.over) == {"joint", "single"} - {found.choice}
    assert found.realised["two"] == {t: c.delta for t, c in found.comparisons["two"].tasks.items()}
    assert found.agreement["plain"] is None  # nothing was predicted
    assert found.valid["single"] == 0
    assert found.summary.startswith("On the test parts, the mean over tasks: ")
    for other, comparison in found.over.items():
        named = {"single": "one model per task", "joint": "one model for all"}[other]
        assert f"{100 * comparison.delta_m:+.1f} % [" in found.summary
        assert f"against {named} (" in found.summary
    parameters = {m.name: m.parameters for m in found.comparisons["joint"].methods}
    assert parameters["joint"] < parameters["two"] < parameters["single"]
    assert GroupingStudy.model_validate_json(found.model_dump_json()) == found


def test_only_some_may_be_chosen(studied):
    study, _ = studied
    found = study.result(["plain"])
    assert set(found.groupings) == {"plain"}
    assert "two" not in found.valid


def test_a_split_of_ones_own_is_judged_over_rows():
    spec = run_spec(trainer={"max_epochs": 2})
    parts = {"t": np.array(["train", "valid", "test"] * 80)}
    found = validate(spec, tasks_of(spec), {"t": table()}, {"g": [["a", "b"], ["c"]]}, parts=parts, repeats=2, n_jobs=1)
    assert found.protocol.startswith("The split is the one given; 2 seeds")
    comparison = found.comparisons["joint"]
    assert all(c.interval[0] < c.delta < c.interval[1] for c in comparison.tasks.values())
    assert found.comparisons["g"].tasks["c"].delta == 0


def test_mistakes():
    spec = run_spec()
    tasks, tables = tasks_of(spec), {"t": table(30)}
    for groups, said in [
        ([["a", "x"], ["b", "c"]], "should name tasks, each once. Found a, x"),
        ([["a", "b"]], "Found none with c; a task that shares with nobody is a group of its own"),
        ([["a", "a"], ["b", "c"]], "each once. Found a, a"),
    ]:
        with pytest.raises(ConfigError, match=said):
            Study(spec, tasks, tables, {"g": groups})
    with pytest.raises(ConfigError, match="Found `joint`, which is a method's already"):
        Study(spec, tasks, tables, {"joint": [NAMES]})
    with pytest.raises(ConfigError, match="Found 3 tasks and 0 repeats"):
        Study(spec, tasks, tables, {}, repeats=0)


def test_the_run_of_some_tasks_says_nothing_of_the_others():
    spec = run_spec(
        sampling={"weights": {"a": 2.0, "c": 1.0}},
        model={"sharing": {"name": "tree", "groups": [["a", "b"], ["c"]]}, "members": 1},
        optim={"balance": {"name": "fixed", "weights": {"a": 1.0, "b": 2.0, "c": 3.0}}},
    )
    few = of_group(spec, ("a", "b"), NAMES, 16)
    assert few.sampling.weights == {"a": 2.0}
    assert few.model.sharing.settings["groups"] == [["a", "b"]]
    assert few.optim.balance.settings["weights"] == {"a": 1.0, "b": 2.0}
    assert few.sampling.batch_size == 16


def test_rows_that_label_none_of_a_group_are_left_out_where_they_are_many():
    frame = table(100)
    frame.loc[10:, "a"] = np.nan
    frame.loc[:9, "b"] = np.nan
    frame.loc[40:, "b"] = np.nan
    spec = run_spec()
    data = prepare(spec, tasks_of(spec), {"t": frame}, {"t": np.full(100, "train")})
    train = data.tasksets["train"]
    assert {t: len(rows) for t, rows in labelled_rows(train, ("a", "b")).items()} == {"t": 40}
    assert len(labelled_rows(train, ("a", "c"))["t"]) == 100
    assert len(labelled_rows(train, ("a",))["t"]) == 10


def methods(**rows):
    """Methods whose two tasks have the same values; single has the most parameters."""
    size = {"joint": 1, "pair": 2, "single": 3}
    return {
        name: Method(name=name, values={"a": tuple(row), "b": tuple(row)}, parameters=size[name])
        for name, row in rows.items()
    }


class TestChosen:
    single = np.array([0.70, 0.72, 0.71, 0.69])

    def test_what_is_clearly_better(self):
        name, valid, why = chosen(methods(joint=self.single - 0.1, pair=self.single + 0.05, single=self.single), UP)
        assert name == "pair"
        assert valid["pair"] == pytest.approx(0.05 / self.single.mean())
        assert valid["single"] == 0
        assert why.endswith("`joint` -14.2 %, `pair` +7.1 %, `single` +0.0 %.")

    wobble = np.array([0.02, -0.02, 0.02, -0.01])

    def test_the_simpler_one_of_the_plain_ways_within_a_standard_error(self):
        name, _, why = chosen(methods(joint=self.single, single=self.single + self.wobble), UP)
        assert name == "joint"
        assert "`joint` is simpler than `single` and within a standard error of it" in why

    def test_a_proposal_has_to_lead_by_more_than_chance(self):
        found = methods(joint=self.single, pair=self.single + self.wobble, single=self.single - 0.001)
        name, _, why = chosen(found, UP)
        assert name == "joint"
        assert why.endswith(". `pair`, the only proposal, does not lead both plain ways by more than chance can.")

    def test_it_has_to_lead_both_plain_ways(self):
        found = methods(joint=self.single, pair=self.single + 0.01, single=self.single + self.wobble)
        assert chosen(found, UP)[0] == "joint"  # within a standard error of single, which pair is not clear of

    def test_fewer_parameters_are_no_reason_to_fall_behind(self):
        found = methods(joint=self.single - 0.1, pair=self.single - 0.0001 + self.wobble / 100, single=self.single)
        assert chosen(found, UP)[0] == "single"

    def test_the_best_of_many_is_asked_for_more(self):
        def take(lead, proposals, alike=1):
            values = {"joint": self.single, "single": self.single - 0.01}
            values |= {f"p{i}": self.single + lead + np.roll(self.wobble, i // alike) for i in range(proposals)}
            return chosen({n: Method(name=n, values={"a": tuple(v)}, parameters=1) for n, v in values.items()}, UP1)[0]

        error = self.wobble.std(ddof=1) / 2
        lead = 1.68 * error - self.wobble.mean()
        assert take(lead, 1) == take(lead, 3) == "p0"  # 1 and 1.62 standard errors are asked
        assert take(lead, 4) == "joint"  # 1.75
        assert take(lead, 8, alike=4) == "p0"  # the same proposal by several names is one

    def test_by_chance_alone_proposals_are_taken_little_more_often_than_a_standard_error_is_exceeded(self):
        random, base = np.random.default_rng(0), np.full(20, 0.7)
        taken = 0
        for _ in range(1000):
            values = {n: base + 0.05 * random.standard_normal(20) for n in ("joint", "p0", "p1", "p2", "p3", "p4")}
            found = {n: Method(name=n, values={"a": tuple(v)}, parameters=1) for n, v in values.items()}
            found["single"] = Method(name="single", values={"a": tuple(base - 0.5)}, parameters=1)
            taken += chosen(found, UP1)[0].startswith("p")
        assert 0.05 < taken / 1000 < 0.2

    def test_without_a_joint_model_the_simplest_within_a_standard_error(self):
        found = methods(pair=self.single, single=self.single + self.wobble)
        assert chosen(found, UP)[0] == "pair"

    def test_a_constant_lead_has_no_error(self):
        found = methods(joint=self.single, pair=self.single + 0.001, single=self.single)
        assert chosen(found, UP)[0] == "pair"

    def test_undefined_values_are_left_out(self):
        rows = {"joint": [None] * 4, "pair": [0.8, None, 0.8, 0.8], "single": [0.7, 0.7, None, 0.7]}
        found = {n: Method(name=n, values={"a": tuple(v)}, parameters=1) for n, v in rows.items()}
        assert chosen(found, UP1)[0] == "pair"


def test_agreement_is_spearmans():
    import scipy.stats

    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 7))
    a[3] = a[4]
    names = [f"t{i}" for i in range(7)]
    found = agreement(dict(zip(names, a, strict=True)), dict(zip(names, b, strict=True)))
    assert found == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert agreement({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}) is None
    assert agreement({"a": 1.0, "b": None, "c": 2.0}, {"a": 1.0, "b": 2.0, "c": 1.0}) is None
    assert agreement(dict.fromkeys("abc", 1.0), {"a": 1.0, "b": 2.0, "c": 1.0}) is None


def test_words():
    def grouping(groups, **serves):
        return Grouping(groups=groups, serves=serves, gains={}, total=0, exact=True, budget=2, cost=2)

    assert recommendation("joint", (NAMES,), None) == "nothing to group: share a, b and c in one model."
    assert recommendation("single", (("a",), ("b",)), None) == "nothing to group: keep a and b alone."
    two = (("a", "b"), ("c",))
    assert recommendation("g", two, grouping(two, a=0, b=0, c=1)) == "share a and b, keep c alone."
    helped = (("a", "b"), ("a", "c"))
    assert recommendation("g", helped, grouping(helped, a=0, b=0, c=1)) == "share a and b, train c with a beside it."
    assert recommendation("g, branched", two, None, True) == "share a and b, keep c alone (as branches of one model)."
