"""Tuning: what is searched, that the search is fair and goes on after an interruption, and that it finds something."""

from __future__ import annotations

import sys
from statistics import median

import numpy as np
import pandas as pd
import pytest

from manyheads import config, tune
from manyheads.build import split_parts
from manyheads.faults import ConfigError, DataError, MissingExtra
from manyheads.ranges import Range, between, choice, log, whole, whole_log
from manyheads.results import Trial, Tuned
from manyheads.spec import TuneSpec
from manyheads.tune import search, sides_of, trial
from manyheads.tune.space import of_one_task, path_of, space_of
from manyheads.tune.study import Study, chosen, front
from manyheads.tune.trial import Outcome, Past, Pruner, Rows

pytest.importorskip("optuna")

NARROW = {"model": None, "optim.weight_decay": None}
"""The learning rate alone is searched."""


def _table(rows=150):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["y"] = (x[:, 0] + 0.5 * rng.normal(size=rows) > 0).astype(float)
    frame["z"] = x[:, 1] - x[:, 2] + 0.3 * rng.normal(size=rows)
    frame.loc[::4, "y"] = np.nan
    return frame


def _spec(lr=1e-4, epochs=6, **settings):
    values = {
        "tasks": {"y": {"type": "binary"}, "z": {"type": "regression"}},
        "data": {"split": {"sizes": [0.6, 0.2, 0.2]}},
        "model": {"members": 1, "encoder": {"name": "tabular", "d_hidden": 8, "n_layers": 1, "dropout": 0.0}},
        "optim": {"lr": lr},
        "sampling": {"batch_size": 32},
        "trainer": {"max_epochs": epochs},
        "tune": {"trials": 8, "space": {**NARROW, "optim.lr": {"log": [1e-4, 0.1]}}},
    }
    return config.check(config.merged(values, settings))


def _spaced(space, **settings):
    """A config that names these ranges and nothing else."""
    spec = _spec(**settings)
    return spec.model_copy(update={"tune": TuneSpec(space=space)})


def _search(spec, frame=None, **more):
    frame = _table() if frame is None else frame
    parts = split_parts(spec.data.split, {"t": frame}, config.tasks_of(spec))
    return search(spec, {"t": frame}, parts, **{"n_jobs": 1, **more})


def _without_clock(found: Tuned):
    sides = [
        side.model_copy(update={"trials": tuple(t.model_copy(update={"seconds": None}) for t in side.trials)})
        for side in found.sides
    ]
    return found.model_copy(update={"sides": tuple(sides), "seconds": None})


# ---- ranges


def test_a_range_is_read_as_a_config_has_it():
    assert Range.of({"log": [1e-4, 1e-1]}) == log(1e-4, 1e-1)
    assert Range.of(["hard", "mmoe"]) == choice("hard", "mmoe")
    assert 3 in whole(1, 3)
    assert 2.5 not in whole(1, 3)
    assert True not in whole(0, 3)
    assert "hard" in choice("hard", {"name": "mmoe", "n_experts": 2})
    assert {"n_experts": 2, "name": "mmoe"} in choice("hard", {"name": "mmoe", "n_experts": 2})
    assert str(log(1e-4, 0.1)) == "log [0.0001, 0.1]"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"log": [0, 1]}, "from low to high above 0"),
        ({"range": [2, 1]}, "from low to high"),
        ({"whole": [1, 2.5]}, "two whole numbers"),
        ({"range": [1, float("nan")]}, "two numbers"),
        ({"loguniform": [1, 2]}, "one of log, range"),
        ([], "different options"),
        (["a", "a"], "different options"),
        (0.1, "should read"),
    ],
)
def test_what_is_no_range_is_told(value, said):
    with pytest.raises(ConfigError, match=said):
        Range.of(value)


def test_a_range_moves_to_a_config_that_is_elsewhere():
    assert log(3e-4, 3e-2).around(3e-3) == log(3e-4, 3e-2)
    moved = log(3e-4, 3e-2).around(1.0)
    assert moved.values == pytest.approx((0.1, 10))
    assert between(0, 0.5).around(0.7) == between(0, 0.7)
    assert whole_log(32, 256).around(8).values[0] >= 1
    assert 8 in whole_log(32, 256).around(8)
    assert choice("a").around("b") == choice("b", "a")


# ---- what is searched


def test_ranges_come_from_the_classes_that_a_config_names():
    spec = _spaced({}, model={"sharing": "mmoe"}, optim={"balance": "cagrad", "penalties": ["l1", "trace"]})
    names = set(space_of(spec).entries)
    assert names == {
        "optim.lr", "optim.weight_decay", "optim.balance.c", "optim.penalties[0].strength",
        "optim.penalties[1].strength", "model.sharing.n_experts", "model.encoder.d_hidden", "model.encoder.n_layers",
        "model.encoder.dropout",
    }  # fmt: skip
    assert space_of(spec).entries["optim.lr"].range == log(3e-4, 3e-2).around(1e-4)
    with_sgd = config.applied(spec, ["optim.optimizer=SGD"])
    assert "optim.weight_decay" not in space_of(with_sgd).entries


def test_a_word_that_is_chosen_brings_its_own_ranges():
    words = ["hard", "mmoe", {"name": "cgc", "n_own": 2}]
    spec = _spaced({"model.sharing": words, "optim": None, "model.encoder": None, "optim.lr": {"log": [1e-4, 0.1]}})
    space = space_of(spec)
    own = {n for n in space.entries if n.startswith("model.sharing")}
    options = "model.sharing", "model.sharing[mmoe].n_experts"
    assert own == {*options, 'model.sharing[{"n_own": 2, "name": "cgc"}].n_shared'}

    class Fixed:
        def __init__(self, word):
            self.word = word

        def suggest_categorical(self, name, options):
            return self.word

        def suggest_int(self, name, low, high, log):
            return high

        def suggest_float(self, name, low, high, log):
            return low

    assert space.suggest(Fixed("hard")) == {"model.sharing": "hard", "optim.lr": 1e-4}
    found = space.suggest(Fixed("mmoe"))
    assert found == {"model.sharing": "mmoe", "model.sharing[mmoe].n_experts": 8, "optim.lr": 1e-4}
    assert space.applied(spec, found).model.sharing.settings == {"n_experts": 8}
    found = space.suggest(Fixed('{"n_own": 2, "name": "cgc"}'))
    made = space.applied(spec, found)
    assert made.model.sharing.settings == {"n_own": 2, "n_shared": 4}
    assert config.applied(spec, space.overrides(spec, found)) == made


def test_a_setting_of_a_word_that_is_chosen_can_be_narrowed():
    asked = {"model.sharing": ["hard", "mmoe"], "model.sharing.n_experts": [2, 3], "model.encoder.dropout": None}
    space = space_of(_spaced(asked))
    assert space.entries["model.sharing[mmoe].n_experts"].range == choice(2, 3)
    assert "model.encoder.dropout" not in space.entries


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"optim.lrr": {"log": [1e-4, 0.1]}}, "Did you mean `lr`"),
        ({"optim.lr": {"range": [-1, 1]}}, "`optim.lr` should be greater than 0"),
        ({"model.sharing": ["hard", "mmoee"]}, "Did you mean `mmoe`"),
        ({"model.sharing.n_experts": [2, 3]}, "`hard` has no setting `n_experts`"),
        ({"data.train": ["a.csv", "b.csv"]}, "one of the model or its training"),
        ({"tasks.y.metrics": [["roc_auc"], ["log_loss"]]}, "what trials are measured by"),
        ({"tasks.y.weight": {"logs": [1, 2]}}, "one of log, range"),
        ({"optim.lrr": None}, "Did you mean `lr`"),
        ({"optim.penalties[3].strength": {"log": [1, 2]}}, "optim.penalties"),
        ({"optim.penalties[3].strength": None}, "optim.penalties"),
    ],
)
def test_what_cannot_be_searched_is_told_in_plain_words(space, said):
    with pytest.raises(ConfigError, match=said):
        space_of(_spaced(space))


def test_a_config_outside_its_ranges_is_not_tried():
    spec = _spaced({"model": None, "optim": None, "optim.lr": {"log": [1e-3, 1e-1]}})
    assert space_of(spec).own(spec) is None
    near = config.applied(spec, ["optim.lr=0.01"])
    assert space_of(near).own(near) == {"optim.lr": 0.01}


def test_all_problems_of_a_space_are_told_at_once():
    with pytest.raises(ConfigError, match="2 problems"):
        space_of(_spaced({"optim.lrr": [1, 2], "model.sharing": ["hrad"]}))


def test_paths_may_hold_odd_names_and_places_in_a_list():
    assert path_of('tasks."a.b".weight') == ("tasks", "a.b", "weight")
    assert path_of("optim.penalties[0].strength") == ("optim", "penalties", 0, "strength")


def test_a_single_task_has_the_same_ranges_but_those_of_sharing():
    spec = _spec(
        model={"sharing": "mmoe"},
        optim={"balance": "famo", "penalties": [{"name": "l1", "on": "all"}, "mean"]},
    )
    spec = spec.model_copy(update={"tune": TuneSpec(space={"tasks.y.weight": {"log": [0.1, 1]}}, single=True)})
    joint, y, z = sides_of(spec)
    assert (joint.name, y.name, z.name) == ("joint", "single:y", "single:z")
    left = set(joint.space.entries) - set(y.space.entries)
    assert left == {
        "model.sharing.n_experts", "optim.balance.gamma", "optim.balance.lr", "optim.penalties[1].strength",
        "tasks.y.weight",
    }  # fmt: skip
    assert all(y.space.entries[n] == joint.space.entries[n] for n in y.space.entries)
    assert set(of_one_task(joint.space, spec, "y", ()).entries) == set(y.space.entries) - {
        "optim.penalties[0].strength"
    }


def test_weights_of_tasks_have_a_mean_of_one_and_equal_weighting():
    spec = _spec(optim={"balance": "famo"}, tune={"weights": True})
    joint, weights = sides_of(spec)
    assert joint.spec.optim.balance.name == "famo"
    assert weights.spec.optim.balance.name == "equal"
    assert weights.space.simplex == ("tasks.y.weight", "tasks.z.weight")
    found = weights.space.normal({"tasks.y.weight": 0.1, "tasks.z.weight": 0.3, "optim.lr": 1.0})
    assert found == pytest.approx({"tasks.y.weight": 0.5, "tasks.z.weight": 1.5, "optim.lr": 1.0})
    assert weights.space.applied(weights.spec, found).tasks["y"]["weight"] == pytest.approx(0.5)


# ---- the search


@pytest.fixture(scope="module")
def found():
    """One search, without an interruption."""
    return _search(_spec())


def test_a_learning_rate_that_matters_is_found(found):
    (joint,) = found.sides
    first, best = joint.trials[0], chosen(joint.trials)
    assert first.settings == {"optim.lr": 1e-4}  # what the config says
    assert first.value < 0.2
    assert best.value > first.value + 0.3
    assert best.settings["optim.lr"] > 3e-3
    assert joint.overrides == (f"optim.lr={best.settings['optim.lr']!r}",)
    assert {s.task for s in joint.test.scores} == {"y", "z"}
    assert joint.test.primary()["z"].value > 0.3
    assert found.finished
    assert Tuned.model_validate_json(found.model_dump_json()) == found


def test_trials_that_were_ended_count(found):
    (joint,) = found.sides
    assert len(joint.trials) == 8
    assert joint.count("done") + joint.count("pruned") + joint.count("failed") == 8
    longer = _search(_spec(epochs=10, tune={"warm_up": 2, "trials": 12})).sides[0]
    ended = [t for t in longer.trials if t.state == "pruned"]
    assert ended
    assert all(2 <= max(e for e, _ in t.course) < 10 for t in ended)
    assert len(longer.trials) == 12
    assert chosen(longer.trials).state == "done"


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(found, tmp_path):
    class Interrupted(Exception):
        pass

    def stop_at(n):
        def tell(found, done, total):
            if done == n:
                raise Interrupted

        return tell

    for n in (3, 4, 6):  # in a round, between two, in a later one
        with pytest.raises(Interrupted):
            _search(_spec(), store=tmp_path / "study.db", tell=stop_at(n))
    carried = []
    again = _search(_spec(), store=tmp_path / "study.db", tell=lambda found, done, total: carried.append(done))
    assert carried == [7, 8]
    assert _without_clock(again) == _without_clock(found)
    assert again.seconds > 0


def test_more_trials_later_are_those_of_a_longer_search(found, tmp_path):
    _search(_spec(tune={"trials": 5}), store=tmp_path / "study.db")
    assert _search(_spec(), store=tmp_path / "study.db").sides[0].trials[4].value == found.sides[0].trials[4].value
    again = _search(_spec(), store=tmp_path / "study.db")
    assert _without_clock(again) == _without_clock(found)


def test_the_number_of_processes_does_not_matter(found):
    assert _without_clock(_search(_spec(), n_jobs=2)) == _without_clock(found)


def test_nothing_is_told_of_the_test_part_before_the_end(found, monkeypatch):
    spec, frame = _spec(), _table()
    parts = split_parts(spec.data.split, {"t": frame}, config.tasks_of(spec))
    order = []
    prepare, score = trial.prepare, tune.scored

    def spy(spec, tasks, tables, parts, **more):
        if "test" not in order:
            assert not any((p == "test").any() for p in parts.values()), "a trial should not see the test part"
        assert all(len(tables[name]) == len(p) for name, p in parts.items())
        order.append("prepared")
        return prepare(spec, tasks, tables, parts, **more)

    def last(*args):
        order.append("test")
        return score(*args)

    monkeypatch.setattr(trial, "prepare", spy)
    monkeypatch.setattr(tune, "scored", last)
    spoilt = frame.copy()
    outside = parts["t"] == "test"
    spoilt.loc[outside, ["a", "b", "c", "z"]] = 1e3  # rows that would change everything that reads them
    again = search(spec, {"t": spoilt}, parts, n_jobs=1, tell=lambda *told: order.append("told"))
    assert _without_clock(again).sides[0].trials == _without_clock(found).sides[0].trials
    assert order == ["prepared", *["told"] * 8, "test", "prepared"]


def test_the_chosen_trial_is_trained_again_to_the_same_skill(found):
    spec, frame = _spec(), _table()
    parts = split_parts(spec.data.split, {"t": frame}, config.tasks_of(spec))
    best = chosen(found.sides[0].trials)
    spec = config.applied(spec, found.sides[0].overrides)
    prepared = trial.prepare(spec, config.tasks_of(spec), {"t": frame}, parts)
    training = trial.training_of(prepared, spec, None, 32)
    training.run()
    assert trial.skills(training) == best.values
    assert trial.mean(list(best.values.values())) == pytest.approx(best.value)
    assert training.best.value == pytest.approx(best.value)


def test_every_side_has_as_many_trials():
    spec = _spec(tune={"trials": 3, "batch": 2, "single": True, "weights": True}, epochs=3)
    found = _search(spec)
    assert [side.name for side in found.sides] == ["joint", "weights", "single:y", "single:z"]
    assert [len(side.trials) for side in found.sides] == [3] * 4
    y = found.side("single:y")
    assert {t for trial in y.trials for t in trial.values} == {"y"}
    assert [s.task for s in y.test.scores if s.primary] == ["y"]
    for trial_ in found.side("weights").trials:
        assert trial_.settings["tasks.y.weight"] + trial_.settings["tasks.z.weight"] == pytest.approx(2)
    assert found.side("weights").trials[0].value == found.side("joint").trials[0].value


def test_time_ends_a_search_between_two_rounds_of_all_sides(monkeypatch):
    spec = _spec(tune={"trials": 40, "batch": 2, "single": True, "timeout": 1e-3}, epochs=2)
    found = _search(spec)
    assert [len(side.trials) for side in found.sides] == [2, 2, 2]
    assert found.finished


def test_a_trial_that_fails_is_counted_and_the_search_goes_on():
    spec = _spec(tune={"trials": 4, "space": {"optim.lr": [1e-2, 1e38]}}, lr=1e38)
    (joint,) = _search(spec).sides
    assert joint.count("failed") >= 1
    assert "not finite" in next(t.why for t in joint.trials if t.state == "failed")
    assert len(joint.trials) == 4


def test_several_objectives_give_a_front():
    spec = _spec(tune={"trials": 8, "objective": "pareto"})
    (joint,) = _search(spec).sides
    assert joint.front
    assert joint.best in joint.front
    done = [t for t in joint.trials if t.state == "done"]
    for t in done:  # by hand: every other trial is under one of the front
        under = any(
            all(o.values[k] >= t.values[k] for k in t.values) and o.values != t.values
            for o in done
            if o.number in joint.front
        )
        assert under != (t.number in joint.front)


def test_the_front_of_a_few_trials():
    def made(number, a, b, state="done"):
        return Trial(number=number, state=state, settings={}, value=0.0, values={"a": a, "b": b})

    trials = [
        made(0, 1, 0),
        made(1, 0, 1),
        made(2, 0.5, 0.5),
        made(3, 0.4, 0.4),
        made(4, 9, 9, "pruned"),
        made(5, 0, 0),
    ]
    assert front(trials, ["a", "b"]) == (0, 1, 2)
    assert front([made(0, 1, 1), made(1, 1, 1)], ["a", "b"]) == (0, 1)
    assert front([made(0, None, 1), made(1, 1, 1)], ["a", "b"]) == (1,)


def test_without_a_validation_part_members_hold_out_their_folds():
    values = {"data": {"split": {"sizes": [0.8, 0.0, 0.2]}}, "model": {"members": 2}, "tune": {"trials": 2}}
    (joint,) = _search(_spec(lr=1e-2, **values)).sides
    assert joint.trials[0].value > 0.2
    assert [t.state for t in joint.trials] == ["done", "done"]


def test_disjoint_tables_are_searched_as_one_is():
    frame = _table()
    tables = {"one": frame[["a", "b", "c", "y"]].dropna(), "two": frame[["a", "b", "c", "z"]].iloc[:90]}
    spec = _spec(lr=1e-2, tune={"trials": 2, "batch": 2, "single": True}, epochs=3)
    parts = split_parts(spec.data.split, tables, config.tasks_of(spec))
    found = search(spec, tables, parts, targets={"one": ["y"], "two": ["z"]}, n_jobs=1)
    assert [len(side.trials) for side in found.sides] == [2, 2, 2]
    assert all(t.state == "done" for side in found.sides for t in side.trials)
    assert {s.task for s in found.side("joint").test.scores} == {"y", "z"}
    assert {s.task for s in found.side("single:z").test.scores} == {"z"}


# ---- its parts


@pytest.mark.parametrize("seed", range(5))
def test_the_median_rule_is_that_of_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    past = []
    for _ in range(9):
        course = np.maximum.accumulate(rng.random(10))[: rng.integers(5, 11)]
        state = "done" if rng.random() < 0.7 else "pruned"
        past.append(Past(state, dict(enumerate(course.tolist(), 1)), float(course[-1]), {}))
    pruner = Pruner(TuneSpec(warm_up=3), past)
    best = np.maximum.accumulate(rng.random(10)).tolist()
    done = [one for one in past if one.state == "done"]
    for epoch, value in enumerate(best, 1):
        others = [one.course[epoch] for one in done if epoch in one.course]
        expected = len(done) >= 4 and epoch >= 3 and bool(others) and value < median(others)
        assert pruner.ends(epoch, value) == expected


def test_halving_ends_most_trials_and_remembers_its_rungs():
    spec = TuneSpec(pruner="halving", warm_up=1)
    past, lengths = [], []
    for i in range(12):
        pruner = Pruner(spec, past)
        value, course = (i * 7 % 12) / 12, {}
        for epoch in range(1, 20):
            course[epoch] = value
            if pruner.ends(epoch, value):
                break
        lengths.append(len(course))
        past.append(Past("done" if len(course) == 19 else "pruned", course, value, pruner.rungs()))
        assert pruner.rungs()
    assert sum(n < 19 for n in lengths) >= 6
    assert lengths[5] == 19  # the best of all goes on to the end


def test_no_pruner_ends_nothing():
    past = [Past("done", {1: 1.0, 9: 1.0}, 1.0, {})] * 9
    assert not Pruner(TuneSpec(pruner="none"), past).ends(9, -5.0)


def test_proposals_depend_on_the_rounds_before_alone(tmp_path):
    side = sides_of(_spec(tune={"trials": 12}))[0]
    one, other = Study(side, tmp_path / "a.db"), Study(side, tmp_path / "b.db")

    def outcome(proposal):
        value = -abs(np.log10(proposal.settings["optim.lr"]) + 2)
        return Outcome("done", {"y": value, "z": value}, value, {1: value}, {}, 0.0)

    while proposals := one.proposals():
        for p in proposals:
            one.tell(p, outcome(p))
    while proposals := other.proposals():  # one at a time, the last of its round first
        other.tell(proposals[-1], outcome(proposals[-1]))
        other = Study(side, tmp_path / "b.db")
    assert [t.model_dump() for t in one.values()] == [t.model_dump() for t in other.values()]
    assert [t.number for t in one.values()] == list(range(12))
    assert max(t.value for t in one.values()) > -0.2  # found: 10 to the power of -2


def test_a_damaged_file_of_trials_is_told(tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="Start anew"):
        Study(sides_of(_spec())[0], tmp_path / "study.db")


def test_without_optuna_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install 'manyheads\[tune\]'"):
        _search(_spec())


def test_trials_do_not_hold_rows_of_the_test_part():
    frame = _table(20)
    parts = {"t": np.array(["train"] * 10 + ["test"] * 5 + ["valid"] * 5)}
    rows = Rows.of({"t": frame}, parts, None)
    assert len(rows.tables["t"]) == 15
    assert set(rows.parts["t"]) == {"train", "valid"}
    assert rows.tables["t"]["a"].tolist() == frame["a"][[*range(10), *range(15, 20)]].tolist()
