"""Any set of methods, at shares of the labels, by whoever carries runs out: one engine, the same numbers."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import people

import manyheads as mh
from manyheads.compare import Study, compare, rounds, study, words
from manyheads.compare.cost import course, measured, reached
from manyheads.compare.fractions import label_fractions, thinned
from manyheads.compare.methods import compare_methods, result
from manyheads.compare.ways import axes_of, is_axis, ways
from manyheads.data.splits import PARTS
from manyheads.faults import ConfigError, MissingExtra
from manyheads.ledger import Ledger
from manyheads.parallel import cluster, run_over
from manyheads.results import Comparison, MethodStudy, Record, TaskComparison
from manyheads.tasks.classification import Binary, Multiclass
from manyheads.tasks.regression import Regression

TASKS = [Regression("height"), Binary("clicked")]
PLAIN = {"name": "tabular", "d_hidden": 8, "n_layers": 1, "dropout": 0.0}


def spec_of(**settings):
    return mh.Learner(TASKS, **({"members": 2, "max_epochs": 2, "encoder": PLAIN} | settings)).spec


def table(n=160):
    return people(n)[0].drop(columns=["weight"])


def study_of(methods=(), repeats=2, **more):
    return Study(spec_of(), TASKS, {"t": table()}, ways(spec_of(), methods), repeats=repeats, **more)


def runs_of(one: Study):
    return [
        run for name in one.names for r in one.rounds for whole in r.runs[name].values() for run in rounds.each(whole)
    ]


# ---- which methods


def test_axes_are_words_and_words_with_settings():
    found = axes_of(["sharing=hard, {name: mmoe, n_experts: 3}", "balance=upgrad", "sharing=soft"])
    assert [p.name for p in found["sharing"]] == ["hard", "mmoe", "soft"]
    assert found["sharing"][1].settings == {"n_experts": 3}
    assert is_axis("balance=equal,upgrad")
    assert not is_axis("optim.balance=upgrad")
    assert not is_axis("linear,boosting")


@pytest.mark.parametrize(
    ("text", "said"),
    [("sharng=hard", "`sharing`"), ("sharing=", "a word or more"), ("sharing={", "Found"), ("sharing=hrd", "`hard`"),
     ("sharing=hard,hard", "more than once")],
)  # fmt: skip
def test_what_is_no_method_is_refused_by_name(text, said):
    with pytest.raises(ConfigError, match=said):
        ways(spec_of(), [text])


def test_methods_are_all_combinations_and_equal_weights_are_always_there():
    found = ways(spec_of(), ["sharing=hard,mmoe", "balance=upgrad"])
    assert list(found) == ["hard + equal", "hard + upgrad", "mmoe + equal", "mmoe + upgrad"]
    assert found["mmoe + upgrad"].model.sharing.name == "mmoe"
    assert found["mmoe + upgrad"].optim.balance.name == "upgrad"
    assert list(ways(spec_of(balance="upgrad"), [])) == ["joint", "equal"]
    assert list(ways(spec_of(balance="upgrad"), ["sharing=hard,soft"]))[:2] == ["hard + equal", "hard + upgrad"]
    assert list(ways(spec_of(), ["balance=equal,famo"])) == ["equal", "famo"]


def test_tuned_settings_lie_under_all_methods_and_tuned_weights_are_one_more():
    tuned = {"joint": ["optim.lr=0.02"], "weights": ["optim.lr=0.01", "tasks.height.weight=3.0"]}
    found = ways(spec_of(), ["balance=upgrad"], tuned)
    assert [s.optim.lr for s in found.values()] == [0.02, 0.02, 0.01]
    assert list(found)[-1] == "tuned weights"
    one = Study(spec_of(), TASKS, {"t": table()}, repeats=1, alone_with={"height": ["optim.lr=0.5"]})
    one.rounds[0].runs["joint"] = one.made(one.rounds[0], "joint")
    alone = one.made(one.rounds[0], "single")
    assert {t: rounds.lead(run).optim.lr for t, run in alone.items()} == {"height": 0.5, "clicked": spec_of().optim.lr}


# ---- the engine


def test_one_method_is_the_plain_comparison():
    both = [
        compare(spec_of(), TASKS, {"t": table()}, repeats=2, methods=("linear",), n_jobs=1),
        compare_methods(spec_of(), TASKS, {"t": table()}, repeats=2, simple=("linear",)).comparisons["joint"],
    ]
    for one, other in zip(*(c.tasks.values() for c in both), strict=True):
        assert one == other
    assert both[0].delta_m == both[1].delta_m


def test_all_methods_are_judged_together_and_the_budget_is_one():
    found = compare_methods(
        spec_of(), TASKS, {"t": table()}, ["sharing=hard,mmoe", "balance=upgrad"], repeats=3, simple=()
    )
    assert isinstance(MethodStudy.model_validate_json(found.model_dump_json()), MethodStudy)
    assert list(found.comparisons) == ["hard + equal", "hard + upgrad", "mmoe + equal", "mmoe + upgrad"]
    assert set(found.ranks) == {*found.comparisons, "single"}
    assert set(found.tasks) == {"height", "clicked"}
    budgets = {tuple(c.budget[k] for k in ("epochs at most", "batch size", "patience", "members"))
               for c in found.comparisons.values()}  # fmt: skip
    assert len(budgets) == 1
    p = [row.p for c in found.comparisons.values() for row in c.tasks.values()]
    from manyheads.statistics import delta, holm, resampled_t

    raw = []
    for name, c in found.comparisons.items():
        by = {m.name: m for m in c.methods}
        for t, row in c.tasks.items():
            d = delta(by[name].values[t], by["single"].values[t], True, row.absolute, row.metric)
            raw.append(resampled_t(d, 0.25).p)
    assert p == pytest.approx(holm(raw))


def test_the_test_part_is_read_once_and_after_the_choice(monkeypatch):
    """A spy on every way to the test rows."""
    one = study_of(["balance=upgrad"])
    log = []
    whole = {
        id(block.target) for r in one.rounds for rows in r.prepared.tasksets["test"].values() for block in rows.blocks
    }
    sizes = {len(rows) for r in one.rounds for rows in r.prepared.tasksets["test"].values()}
    assert whole
    assert sizes == {32}
    inner, choose = study.results, Study.choose

    def results(model, tasksets, *more, **how):
        log.extend(["test" if len(rows) == 32 else "other" for rows in tasksets.values()])
        return inner(model, tasksets, *more, **how)

    def spied(self):
        log.append("choice")
        return choose(self)

    monkeypatch.setattr(study, "results", results)
    monkeypatch.setattr("manyheads.members.results", results)
    monkeypatch.setattr("manyheads.objectives.results", results)
    monkeypatch.setattr(Study, "choose", spied)
    one.train()
    assert "test" not in log
    result(one)
    assert log.count("choice") == 1
    assert "test" not in log[: log.index("choice")]
    assert log.count("test") == len(one.rounds) * (len(one.ways) + len(TASKS))


def test_the_choice_does_not_look_at_the_test_part():
    found = []
    for flipped in (False, True):
        one = study_of(["sharing=hard,soft"])
        one.train()
        if flipped:
            for r in one.rounds:
                for rows in r.prepared.tasksets["test"].values():
                    for block in rows.blocks:
                        block.target.copy_(-block.target if block.target.min() < 0 else 1 - block.target)
        one.look()
        found.append(one.choose())
    assert found[0] == found[1]


# ---- costs


def test_a_pass_for_each_task_is_counted():
    one = study_of(["balance=equal,mgda,graddrop"], repeats=1)
    counted = {name: measured(rounds.lead(one.made(one.rounds[0], name)[""])) for name in one.ways}
    assert counted["equal"][0] == 1
    assert counted["mgda"][0] > 1
    weights = sum(p.numel() * 4 for p in rounds.lead(one.made(one.rounds[0], "equal")[""]).model.parameters())
    assert counted["equal"][1] >= 4 * weights  # weights, gradients, two moments of AdamW


def _first(spec):
    one = Study(spec, TASKS, {"t": table()}, repeats=1)
    return one.made(one.rounds[0], "joint")[""]


def test_memory_grows_with_what_is_kept_for_the_way_back():
    small, large = (measured(rounds.lead(_first(spec_of(batch_size=b)))) for b in (8, 64))
    assert large[1] > small[1]


def test_equal_quality_is_found_on_the_course_of_all_runs():
    class Run:
        def __init__(self, *skills):
            self.history = [
                Record(epoch=e, step=10 * (e + 1), split="valid", metric="skill", value=v) for e, v in enumerate(skills)
            ]

    points = course([Run(0.1, 0.3, 0.2), Run(0.5)])
    assert points == [(20, pytest.approx(0.3)), (30, pytest.approx(0.4)), (40, pytest.approx(0.4))]
    assert reached(points, 0.35) == 30
    assert course([Run()]) == []


# ---- words


def _row(verdict, delta):
    return TaskComparison(metric="r2", joint=1, single=1, delta=delta, interval=(0, 0), p=0.5, verdict=verdict)


def _comparison(**rows):
    tasks = {t: _row(*row) for t, row in rows.items()}
    return Comparison(tasks=tasks, delta_m=0.0, interval=(0, 0), repeats=3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": ("undecided", 0.1), "b": ("undecided", -0.1)}, "Within noise: one model for all (`m`)"),
        ({"a": ("helps", 0.1), "b": ("undecided", 0.0), "c": ("hurts", -0.1)},
         "With `m`, share a and b (b: within noise), keep c alone: sharing makes it worse."),
        ({"a": ("hurts", -0.1), "b": ("hurts", -0.1)}, "Keep a and b alone"),
        ({"a": ("helps", 0.1), "b": ("helps", 0.1)}, "Share a and b (`m`): it helps a and b. It has 50 %"),
    ],
)  # fmt: skip
def test_the_advice_in_words(rows, said):
    assert words.recommended("m", {"m": _comparison(**rows)}, {"m": 5, "single": 10}.get).startswith(said)


def test_the_advice_where_the_mean_alone_is_clear():
    found = _comparison(a=("undecided", 0.1), b=("undecided", 0.2))
    found = found.model_copy(update={"delta_m": 0.15, "interval": (0.01, 0.29)})
    said = "One model for all (`m`) gains on the mean over tasks, +15.0 % [+1.0, +29.0], clear of 0; no task by itself"
    assert words.recommended("m", {"m": found}, lambda _: None).startswith(said)


def test_no_noise_is_claimed_where_none_was_measured():
    found = _comparison(a=("undecided", 0.1), b=("undecided", 0.2)).model_copy(update={"interval": (None, None)})
    blind = {t: row.model_copy(update={"p": None, "interval": (None, None)}) for t, row in found.tasks.items()}
    once = {"m": found.model_copy(update={"tasks": blind, "delta_m": 0.15, "repeats": 1})}
    said = words.recommended("m", once, lambda _: None)
    assert "(`m`) changes the mean over tasks by +15.0 %, and has no spread to be judged by; run more" in said
    assert words.by_task(once)["a"] == "undecided, with no spread to judge by: `m` (+10.0 %)."
    gone = {t: row.model_copy(update={"delta": None}) for t, row in blind.items()}
    nothing = {"m": found.model_copy(update={"tasks": gone, "delta_m": None})}
    assert "no pair of values" in words.recommended("m", nothing, lambda _: None)
    assert words.by_task(nothing)["a"] == "undecided: there is no pair of values to compare."


def test_the_advice_where_tasks_are_better_alone():
    found = {"m": _comparison(a=("helps", 0.1)), "n": _comparison(a=("hurts", -0.2))}
    assert "helps a all the same" in words.recommended("single", found, lambda _: 1)
    assert words.by_task(found) == {"a": "better with `m` (+10.0 %) and worse with `n` (-20.0 %) than alone."}


def test_what_speaks_for_one_model_all_the_same_is_said():
    level = _comparison(a=("undecided", 0.1), b=("undecided", -0.1)).model_copy(update={"interval": (-0.1, 0.1)})
    sizes = {"joint": 2, "single": 10}.get
    said = words.recommended("single", {"joint": level}, sizes)
    assert said.endswith("one model for all (`joint`) is within noise of that, with 20 % of the parameters.")
    for worse in (
        level.model_copy(update={"interval": (-0.3, -0.1)}), level.model_copy(update={"interval": (None, None)}),
        level.model_copy(update={"tasks": {"a": _row("hurts", -0.3)}}),
    ):  # fmt: skip
        assert words.recommended("single", {"joint": worse}, sizes).endswith("worth its place on validation.")


# ---- runs that are done


def test_runs_that_are_done_are_not_done_again(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "runs")
    first = study_of(["sharing=hard,mmoe"])
    first.train(ledger=ledger)
    kept = sorted((tmp_path / "runs").iterdir())
    assert len(kept) == len(runs_of(first))
    monkeypatch.setattr("manyheads.parallel.run_all", lambda *_: pytest.fail("trained again"))
    again = study_of(["sharing=hard,mmoe"])
    again.train(ledger=ledger)
    for a, b in zip(runs_of(first), runs_of(again), strict=True):
        assert a.history == b.history
        assert (a.step, a.best.value) == (b.step, b.best.value)
        for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True):
            assert torch.equal(x, y)
    monkeypatch.undo()
    longer = study_of(["sharing=hard,mmoe"], repeats=3)
    longer.train(ledger=ledger)
    assert len(list((tmp_path / "runs").iterdir())) == len(runs_of(longer))


def test_an_interruption_keeps_what_had_ended(tmp_path, monkeypatch):
    ledger, calls, inner = Ledger(tmp_path / "runs"), [], run_over

    def cut(runs, *more, **how):
        calls.append(len(runs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(runs, *more, **how)

    monkeypatch.setattr(study, "run_over", cut)
    with pytest.raises(KeyboardInterrupt):
        study_of(["sharing=hard,mmoe"]).train(ledger=ledger)
    assert len(list((tmp_path / "runs").iterdir())) == calls[0]
    monkeypatch.undo()
    resumed, whole = study_of(["sharing=hard,mmoe"]), study_of(["sharing=hard,mmoe"])
    resumed.train(ledger=ledger)
    whole.train()
    assert [r.history for r in runs_of(resumed)] == [r.history for r in runs_of(whole)]


def test_another_run_has_another_key(tmp_path):
    ledger = Ledger(tmp_path)

    def keys(frame=None, **settings):
        one = Study(spec_of(**settings), TASKS, {"t": table() if frame is None else frame}, repeats=2)
        return [ledger.key(run) for r in one.rounds for run in rounds.each(one.made(r, "joint")[""])]

    same = keys()
    assert keys() == same
    assert len(set(same)) == 4  # two members of two repeats
    other = table()
    other.loc[3, "clicked"] = 1 - other.loc[3, "clicked"]
    assert keys(other) != same  # but where that row is in the test part, whose runs are the same
    for changed in (
        keys(lr=0.01), keys(max_epochs=3), keys(balance="upgrad"), keys(batch_size=16), keys(random_state=1),
        keys(penalties=[{"name": "l2", "on": "heads"}]), keys(encoder=PLAIN | {"dropout": 0.1}), 
        keys(weight_decay=0.2), keys(sharing="mmoe"),
        keys(balance={"name": "fixed", "weights": {"height": 2.0, "clicked": 1.0}}),
    ):  # fmt: skip
        assert not set(changed) & set(same)


def test_a_damaged_file_is_a_run_to_be_done_again(tmp_path):
    ledger = Ledger(tmp_path)
    one = study_of(repeats=1)
    one.train(ledger=ledger)
    file = sorted(tmp_path.glob("*.pt"))[0]
    file.write_bytes(b"nothing")
    assert ledger.get(file.stem) is None
    study_of(repeats=1).train(ledger=ledger)
    assert ledger.get(file.stem) is not None


# ---- who carries runs out


def _histories(**how):
    one = study_of(["sharing=hard,mmoe"])
    one.train(**how)
    return [[(r.epoch, r.metric, r.value) for r in run.history if r.value is not None] for run in runs_of(one)]


def _same(a, b):
    assert [[r[:2] for r in x] for x in a] == [[r[:2] for r in x] for x in b]
    np.testing.assert_allclose([r[2] for x in a for r in x], [r[2] for x in b for r in x], rtol=1e-3, atol=1e-4)


def test_threads_find_what_one_process_finds(tmp_path):
    here = _histories()
    _same(here, _histories(n_jobs=2, backend="threading"))
    _same(here, _histories(n_jobs=2, backend="threading", ledger=Ledger(tmp_path)))


def test_a_dask_cluster_finds_what_one_process_finds(tmp_path):
    distributed = pytest.importorskip("distributed")
    here, told = _histories(), []
    how = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster):
        one = study_of(["sharing=hard,mmoe"])
        one.train(n_jobs=2, backend="dask", ledger=Ledger(tmp_path), progress=lambda *words: told.append(words))
        done = cluster.scheduler.transition_counter
    found = [[(r.epoch, r.metric, r.value) for r in run.history if r.value is not None] for run in runs_of(one)]
    _same(here, found)
    assert done > 0  # the cluster has had work
    assert told[-1] == ("single-task models", 8, 8)
    assert len(list(Path(tmp_path).glob("*.pt"))) == len(found)


@pytest.mark.slow  # every stage has workers of its own, each of which imports torch
def test_a_ray_cluster_finds_what_one_process_finds(tmp_path):
    ray = pytest.importorskip("ray")
    here, told = _histories(), []
    one = study_of(["sharing=hard,mmoe"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray's own
        with cluster("ray", 2):
            one.train(n_jobs=2, backend="ray", ledger=Ledger(tmp_path), progress=lambda *words: told.append(words))
            assert ray.is_initialized()
        assert not ray.is_initialized()  # what was started here ends here
    found = [[(r.epoch, r.metric, r.value) for r in run.history if r.value is not None] for run in runs_of(one)]
    _same(here, found)
    assert told[-1] == ("single-task models", 8, 8)
    assert len(list(Path(tmp_path).glob("*.pt"))) == len(found)


def test_what_a_backend_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"`--backend ray` needs the extra `ray`"), cluster("ray", 1):
        pass


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="`backend` should be one of loky, threading, dask, ray"):
        run_over([], backend="dsk")


# ---- shares of the labels


def kept_rows(share, repeat=0, of=None, frame=None, spec=None, tasks=TASKS):
    frame = table() if frame is None else frame
    parts = {"t": np.array(["train"] * 100 + ["valid"] * 30 + ["test"] * 30, dtype=object)}
    frames, thin = thinned(spec or spec_of(), tasks, share, of)({"t": frame}, parts, repeat)
    assert (thin["t"][130:] == "test").all()
    assert set(thin["t"]) <= {*PARTS, ""}
    return frames["t"], thin["t"]


def test_shares_are_nested_and_of_the_size_asked_for():
    before: set[int] = set()
    for share in (0.05, 0.1, 0.25, 0.5):
        part = kept_rows(share)[1]
        rows = set(np.flatnonzero((part == "train") | (part == "valid")))
        assert before < rows
        assert abs((part == "train").sum() - 100 * share) <= 1
        before = rows
    assert not np.array_equal(kept_rows(0.25, 0)[1], kept_rows(0.25, 1)[1])


def test_groups_stay_whole_where_the_split_is_by_group():
    frame = table().assign(who=np.arange(160) // 5)
    spec = spec_of(split={"kind": "group", "by": "who"}, ids=["who"])
    part = kept_rows(0.3, frame=frame, spec=spec)[1]
    for _, own in pd.Series(part[:130]).groupby(frame.who[:130]):
        assert own.nunique() == 1
    assert 20 <= (part == "train").sum() <= 40


def test_every_class_is_among_the_smallest_share():
    frame = table().assign(kind=["rare" if i == 77 else "often" for i in range(160)])
    for repeat in range(5):
        part = kept_rows(0.02, repeat, frame=frame, tasks=[*TASKS, Multiclass("kind")])[1]
        assert part[77] == "train"


def test_one_task_may_lose_labels_alone():
    frame, part = kept_rows(0.1, of="clicked")
    assert (part[:100] == "train").all()
    assert frame.clicked[:100].notna().sum() == 10
    assert frame.clicked[130:].notna().all()
    assert frame.height.notna().all()


def test_curves_go_up_to_the_whole_comparison():
    found = label_fractions(spec_of(), TASKS, {"t": table()}, [0.3], repeats=2, simple=("linear",))
    whole = compare_methods(spec_of(), TASKS, {"t": table()}, repeats=2, simple=("linear",)).comparisons["joint"]
    assert found.shares == (0.3, 1.0)
    assert found.comparisons[-1].tasks == whole.tasks
    few = {m.name: m.values["height"] for m in found.comparisons[0].methods}
    assert np.mean(few["linear"]) < np.mean({m.name: m.values["height"] for m in whole.methods}["linear"])
    assert "30 % of the labels of each table" in found.comparisons[0].protocol


@pytest.mark.parametrize(
    ("shares", "more", "said"), [([0.0], {}, r"in \(0, 1\]"), ([0.5], {"of": "clickd"}, "`clicked`")]
)
def test_shares_that_are_none_are_refused(shares, more, said):
    with pytest.raises(ConfigError, match=said):
        label_fractions(spec_of(), TASKS, {"t": table()}, shares, repeats=1, **more)
