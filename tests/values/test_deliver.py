"""Delivering: mixtures against slow oracles, teachers that never saw what they teach, a student that loads alone."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from manyheads import Learner
from manyheads.build import prepare, split_parts
from manyheads.config import check, tasks_of
from manyheads.deliver import Settings, deliver
from manyheads.deliver.between import between
from manyheads.deliver.blend import mixed, weights
from manyheads.deliver.candidates import Candidate, Source, ask, candidates_of, mean_label
from manyheads.deliver.check import Judged, worse
from manyheads.deliver.choice import Evidence, blended, choose
from manyheads.deliver.parts import folds, levels
from manyheads.deliver.spaces import check as supported
from manyheads.deliver.spaces import errors, label, natural, of_predicted, output_of, taught
from manyheads.deliver.student import NONE, joined, lesson, unlabelled
from manyheads.faults import ConfigError
from manyheads.statistics import Change
from manyheads.tasks.classification import Binary, Multiclass, Multilabel, Ordinal
from manyheads.tasks.regression import Count, Regression
from manyheads.tasks.text import Tagging

N = 60
LABELS = {
    "regression": (Regression("y"), lambda r: r.normal(3, 2, N)),
    "log": (Regression("y", transform="log1p"), lambda r: r.exponential(2, N)),
    "count": (Count("y"), lambda r: r.poisson(2, N).astype(float)),
    "binary": (Binary("y"), lambda r: r.integers(0, 2, N)),
    "multiclass": (Multiclass("y"), lambda r: r.integers(0, 3, N)),
    "ordinal": (Ordinal("y"), lambda r: r.integers(0, 4, N)),
    "multilabel": (Multilabel("y", target=("l", "m")), lambda r: r.integers(0, 2, (N, 2))),
}
UNITS = {"regression": 1, "log": 1, "count": 1, "binary": 1, "multiclass": 3, "ordinal": 3, "multilabel": 2}


def labelled(word, rng):
    """(fitted task, target, known, outputs of two models)."""
    task, draw = LABELS[word]
    values = draw(rng)
    frame = pd.DataFrame(values, columns=list(task.targets)) if values.ndim > 1 else pd.DataFrame({"y": values})
    task = task.fitted(frame)
    target, known = task.encode(frame)
    outputs = [torch.from_numpy(rng.normal(size=(N, UNITS[word]))) for _ in range(2)]
    if word == "ordinal":
        outputs = [o.sort(-1, descending=True).values for o in outputs]
    return task, target, known, outputs


@pytest.mark.parametrize("word", LABELS)
def test_the_natural_space_and_back(word, rng):
    task, target, _, (output, _) = labelled(word, rng)
    values = natural(task, output)
    torch.testing.assert_close(natural(task, output_of(task, values)), values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_predicted(task, task.predict(output)), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(task.predict(output_of(task, values)).value, dtype=float),
        np.asarray(task.predict(output).value, dtype=float), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    sure = errors(task, label(task, target).clamp(1e-9, None) if word == "count" else label(task, target), target)
    assert bool((sure <= errors(task, values, target) + 1e-4).all())  # nothing is said better than the label itself


@pytest.mark.parametrize("word", LABELS)
def test_a_mixed_target_has_the_gradient_of_the_mixed_errors(word, rng):
    task, target, _, (output, other) = labelled(word, rng)
    teacher, trust = natural(task, other), 0.3
    slow = output.clone().requires_grad_()
    loss = (1 - trust) * task.errors(slow, target).sum() + trust * task.errors(slow, taught(task, teacher)).sum()
    loss.backward()
    fast = output.clone().requires_grad_()
    task.errors(fast, taught(task, (1 - trust) * label(task, target) + trust * teacher)).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("word", LABELS)
def test_the_weights_of_a_mixture_are_those_of_a_slow_search(word, rng):
    task, target, known, outputs = labelled(word, rng)
    near = natural(task, output_of(task, 0.6 * label(task, target) + 0.4 * natural(task, outputs[0])))
    said = [near, natural(task, outputs[0]), natural(task, outputs[1])]
    known = known.clone()
    known[:7] = False
    heavy = torch.from_numpy(rng.uniform(0.5, 2, tuple(known.shape)))
    steps, slow = 20, {}
    for a, b in itertools.product(range(steps + 1), repeat=2):
        if a + b <= steps:
            w = (a / steps, b / steps, 1 - (a + b) / steps)
            total = 0.0
            for i in range(N):
                mixture = sum(share * p[i] for share, p in zip(w, said, strict=True))
                error = errors(task, mixture[None], target[i : i + 1])
                total += float((error * known[i] * heavy[i]).sum())
            slow[w] = total
    found = weights(task, said, target, known, heavy)
    assert bool((found >= 0).all())
    assert float(found.sum()) == pytest.approx(1)
    whole = float((errors(task, mixed(said, found), target) * known * heavy).sum())
    assert whole <= min(slow.values()) + 1e-6 * abs(min(slow.values()))
    assert np.abs(found.numpy() - np.array(min(slow, key=slow.get))).max() < 1.5 / steps


def test_a_mixture_of_one_and_of_nothing(rng):
    task, target, known, outputs = labelled("binary", rng)
    assert weights(task, [natural(task, outputs[0])], target, known).tolist() == [1.0]
    none = weights(task, [natural(task, o) for o in outputs], target, torch.zeros_like(known))
    assert none.tolist() == [0.5, 0.5]


def test_tasks_whose_outputs_cannot_be_mixed_are_refused():
    with pytest.raises(ConfigError, match="`tags` of type tagging"):
        supported([Tagging("tags")])
    with pytest.raises(ConfigError, match="`b`, which sees `a`"):
        supported([Regression("a"), Regression("b", sees=("a",))])
    with pytest.raises(ConfigError, match=r"Found `boost`. Did you mean `boosting`"):
        Settings(words=("boost",))
    with pytest.raises(ConfigError, match="3 folds or more"):
        Settings(folds=2)
    spec = check({"tasks": {"a": {"type": "regression"}}, "optim": {"objective": "maml"}}, "a test")
    with pytest.raises(ConfigError, match=r"`optim.objective: maml`"):
        deliver(spec, tasks_of(spec), {}, {})


# -- whole tables


def table(n=150, seed=0):
    """A linear task, a curved one with missing labels, classes, and a group."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3))
    a = x[:, 0] + 0.3 * random.normal(size=n)
    b = np.sin(2 * x[:, 1]) + 0.3 * random.normal(size=n)
    b[random.uniform(size=n) < 0.6] = np.nan
    c = (x[:, 0] + x[:, 2] > 0).astype(int) + (x[:, 2] > 1)
    columns = {f"x{i}": x[:, i] for i in range(3)}
    return pd.DataFrame(columns | {"a": a, "b": b, "c": c, "who": np.arange(n) // 3})


def spec_of(**more):
    return check(
        {
            "tasks": {"a": {"type": "regression"}, "b": {"type": "regression"}, "c": {"type": "multiclass"}},
            "model": {"encoder": {"name": "tabular", "d_hidden": 8, "n_layers": 1}, "members": 2},
            "trainer": {"max_epochs": 4},
            "features": {"drop": ["who"]},
        }
        | more,
        "a test",
    )


def source_of(frame, spec):
    tasks = tasks_of(spec)
    prepared = prepare(spec, tasks, {"table": frame}, {"table": np.full(len(frame), "train")})
    return Source(spec, prepared, prepared.tasksets["train"], 0, 2)


@pytest.mark.parametrize("word", ["joint", "group", "alone", "linear", "boosting"])
def test_a_teacher_has_not_seen_the_rows_that_it_teaches(word):
    """Labels of one fold change places: what is said of that fold stays, to the bit, and the rest does not."""
    frame, spec = table(), spec_of()
    source = source_of(frame, spec)
    found = folds(spec, source.rows, 3, 0)
    held = found[1].held["table"].numpy()
    other = frame.copy()
    other.loc[held, "a"] = frame["a"].to_numpy()[np.roll(held, 1)]
    moved = source_of(other, spec)
    candidates = [Candidate(word, {"joint": ("a", "b", "c"), "group": ("a", "b")}.get(word, ("a",)), word)]
    before = ask(source, candidates, found)[0][word]["a"]["table"]
    after = ask(moved, candidates, folds(spec, moved.rows, 3, 0))[0][word]["a"]["table"]
    assert before.isfinite().all()
    torch.testing.assert_close(after[held], before[held], rtol=1e-5, atol=1e-5)
    rest = np.setdiff1d(np.arange(len(frame)), held)
    assert float((after[rest] - before[rest]).abs().max()) > 1e-3


def test_a_row_is_held_out_once_and_the_rehearsal_knows_nothing_of_its_judges():
    frame, spec = table(), spec_of(data={"split": {"kind": "group", "by": "who"}})
    tasks = tasks_of(spec)
    prepared = prepare(spec, tasks, {"table": frame}, {"table": np.full(len(frame), "train")})
    rows = prepared.tasksets["train"]
    first, second = levels(spec, rows, 4, 0)
    assert sorted(torch.cat([f.held["table"] for f in first]).tolist()) == list(range(len(frame)))
    who = frame["who"].to_numpy()
    judges = set(first[0].held["table"].tolist())
    for fold in (*first, *second):
        inside, held = fold.within["table"].numpy(), fold.held["table"].numpy()
        assert not set(who[inside]) & set(who[held])
    assert len(second) == 3
    for fold in second:
        assert not judges & {*fold.within["table"].tolist(), *fold.held["table"].tolist()}
    given = {"table": torch.arange(100, 150)}
    first, second = levels(spec, rows, 4, 0, given)
    assert first[0].held["table"].tolist() == list(range(100, 150))
    assert sorted(torch.cat([f.held["table"] for f in first]).tolist()) == list(range(150))
    assert all(int(fold.within["table"].max()) < 100 for fold in second)
    late = spec_of(data={"split": {"kind": "time", "by": "who"}}, features={})
    prepared = prepare(late, tasks, {"table": frame}, {"table": np.full(len(frame), "train")})
    (one,), (before,) = levels(late, prepared.tasksets["train"], 4, 0)
    assert int(before.held["table"].max()) < int(one.held["table"].min())


def test_a_table_of_two_groups_is_rehearsed_without_its_judges():
    """Three folds and two groups: two folds hold the same group out."""
    frame = table(40)
    frame["who"] = np.arange(40) % 2
    spec = spec_of(data={"split": {"kind": "group", "by": "who"}}, features={})
    prepared = prepare(spec, tasks_of(spec), {"table": frame}, {"table": np.full(40, "train")})
    first, second = levels(spec, prepared.tasksets["train"], 3, 0)
    assert [len(f.held["table"]) for f in first] == [20, 20, 20]
    judges = set(first[0].held["table"].tolist())
    for fold in second:
        assert not judges & {*fold.within["table"].tolist(), *fold.held["table"].tolist()}


def test_candidates_stand_from_what_shares_most_to_what_shares_least():
    found = candidates_of(("boosting", "group", "alone"), "abc", [("b", "a"), ("c",), ("a", "b"), ("a", "b", "c")])
    assert [c.name for c in found] == ["joint", "a + b", "alone", "boosting"]
    assert [c.name for c in candidates_of(("alone", "linear"), ["a"], [], simple=False)] == ["joint"]


def test_the_simplest_that_is_not_clearly_worse_teaches():
    random = np.random.default_rng(1)
    task = Regression("y")
    y = torch.from_numpy(random.normal(size=400))
    near, nearer, far = (
        (y + spread * torch.from_numpy(random.normal(size=400))).unsqueeze(1) for spread in (0.502, 0.5, 0.9)
    )
    fold = torch.arange(400) % 4

    def chosen(said, blend=False):
        return choose(Evidence(task, said, y, torch.ones(400, dtype=torch.bool), None, fold, {}), blend)

    assert chosen({"joint": near, "boosting": nearer}).name == "joint"
    assert chosen({"joint": far, "boosting": nearer}).name == "boosting"
    assert chosen({"joint": far, "linear": near, "boosting": nearer}).single in ("linear", "boosting")
    both = chosen({"joint": near, "boosting": nearer}, True)
    assert both.name == "blend"
    assert set(both.weights) == {"joint", "boosting"}
    assert both.values["blend"] > max(both.values["joint"], both.values["boosting"])


def test_a_mixture_is_tried_where_its_weights_were_not_fitted(rng):
    """Two constants and labels that differ from fold to fold: whatever fits the other folds is wrong in this one."""
    y = torch.tensor([0.0, 1.0]).repeat_interleave(20).double()
    said = {"low": torch.zeros(40, 1).double(), "high": torch.ones(40, 1).double()}
    e = Evidence(Regression("y"), said, y, torch.ones(40, dtype=torch.bool), None, (y > 0).long(), {})
    values, shares = blended(e)
    torch.testing.assert_close(values.squeeze(1), 1 - y)
    assert shares == pytest.approx({"low": 0.5, "high": 0.5}, abs=1e-3)


def test_a_lesson_mixes_labels_and_teaching_row_by_row():
    frame, spec = table(), spec_of()
    source = source_of(frame, spec)
    rows, trust = source.rows["table"], 0.25
    said = torch.full((len(frame), 1), 2.0).double()
    said[:10] = torch.nan  # nobody was asked
    taught_rows = lesson(
        source, "table", rows, {"b": {"table": said}}, torch.arange(len(frame)), dict.fromkeys("abc", trust)
    )
    target, known, weight = taught_rows.labels("b")
    y, there, _ = rows.labels("b")
    heard = torch.arange(len(frame)) >= 10
    alone = int((heard & ~there).sum()), int((heard & there).sum())
    for i in range(len(frame)):
        if there[i] and heard[i]:
            assert float(weight[i]) == pytest.approx(1)
            assert float(target[i]) == pytest.approx((1 - trust) * float(y[i]) + trust * 2.0, rel=1e-5)
        elif there[i]:
            assert (float(weight[i]), float(target[i])) == pytest.approx((1.0, float(y[i])), rel=1e-5)
        elif heard[i]:
            assert float(target[i]) == pytest.approx(2.0)
            assert float(weight[i]) == pytest.approx(trust * min(1, alone[1] / alone[0]))
        else:
            assert not known[i]
            assert float(weight[i]) == 0
    untouched, _, w = taught_rows.labels("a")
    torch.testing.assert_close(untouched, rows.labels("a")[0])
    assert bool((w == 1).all())


def test_a_table_is_taught_its_own_tasks_alone():
    """Two tables of the same columns are one source: rows of the one learn nothing of the other's task."""
    frame = table()
    tables = {"one": frame[["x0", "x1", "x2", "a"]][:90], "two": frame[["x0", "x1", "x2", "c"]][90:]}
    spec = spec_of(tasks={"a": {"type": "regression"}, "c": {"type": "multiclass"}}, features={})
    prepared = prepare(spec, tasks_of(spec), tables, {t: np.full(len(f), "train") for t, f in tables.items()})
    source = Source(spec, prepared, prepared.tasksets["train"], 0, 2)
    ((name, rows),) = source.rows.items()
    said = {"a": {name: torch.zeros(150, 1).double()}, "c": {name: torch.full((150, 3), 1 / 3).double()}}
    found = lesson(source, name, rows, said, torch.arange(150), dict.fromkeys("ac", 0.5))
    assert found.labels("a")[1].nonzero().flatten().tolist() == list(range(90))
    assert found.labels("c")[1].nonzero().flatten().tolist() == list(range(90, 150))
    assert found.labels("c")[0].shape == (150, 3)


def test_rows_between_rows_have_no_new_value_and_no_new_columns_of_parents(rng):
    frame = table()
    frame["kind"] = rng.integers(0, 3, len(frame)).astype(str)
    source = source_of(frame, spec_of())
    rows = source.rows["table"]
    made = between(source.rows, 0.5, 3)["table"]
    assert len(made) == 75
    assert not made.blocks
    again = between(source.rows, 0.5, 3)["table"]
    for kind, values in made.inputs.items():
        assert torch.equal(values, again.inputs[kind])
        for column in range(values.shape[1]):
            assert torch.isin(values[:, column], rows.inputs[kind][:, column]).all()
    # each row has a nearest neighbour among all (500 are drawn, there are 150) and two parents at most, found slowly
    x, kinds = rows.inputs["numeric"], rows.inputs["categorical"]
    apart = torch.cdist(x, x).square() + (kinds.unsqueeze(1) != kinds.unsqueeze(0)).sum(-1)
    apart.fill_diagonal_(torch.inf)
    nearest = apart.argmin(1)
    for i in range(len(made)):
        own = torch.cat([made.inputs["numeric"][i], made.inputs["categorical"][i].float()])
        parents = torch.cat([x, kinds.float()], 1)
        fits = (parents == own) | (parents[nearest] == own)
        assert bool(fits.all(1).any())
    assert between(source.rows, 0.0, 3) == {}


def test_made_up_rows_are_heard_as_much_as_labels_at_most():
    frame, spec = table(), spec_of()
    source = source_of(frame, spec)
    rows, trust = source.rows["table"], 0.4
    share = dict.fromkeys("abc", trust)
    made = between(source.rows, 1.0, 0)["table"]
    said = {"a": {"table": torch.full((150, 1), 3.0).double()}, "c": {"table": torch.full((150, 3), 1 / 3).double()}}
    plain = lesson(source, "table", rows, {}, torch.arange(150), share)
    whole = joined(plain, unlabelled(source, "table", made, said, plain, share))
    assert len(whole) == 300
    target, known, weight = whole.labels("a")
    assert bool(known.all())
    assert target[150:].tolist() == [3.0] * 150
    torch.testing.assert_close(weight, torch.tensor([1.0] * 150 + [trust] * 150))
    assert whole.labels("b")[1].sum() == rows.labels("b")[1].sum()  # nobody says anything of it
    few = lesson(source, "table", rows, {}, torch.arange(150), share)
    b = unlabelled(source, "table", made, {"b": {"table": torch.zeros(150, 1).double()}}, few, share).labels("b")
    assert float(b[2].sum()) == pytest.approx(trust * float(rows.labels("b")[1].sum()), rel=1e-5)
    assert whole.labels("c")[0].shape == (300, 3)


QUICK = Settings(words=("alone", "blend"), folds=3, members=2)


def delivered(frame, seed=0, **more):
    spec = spec_of(seed=seed, **more)
    tables, tasks = {"table": frame}, tasks_of(spec)
    return deliver(spec, tasks, tables, split_parts(spec.data.split, tables, tasks), settings=QUICK)


@pytest.fixture(scope="module")
def once():
    """A delivery, and the table that it is of."""
    frame = table()
    return frame, delivered(frame)


def test_the_same_seed_delivers_the_same_model(once):
    one, two = once[1], delivered(table())
    assert one.delivery == two.delivery
    for a, b in zip(one.training.model.parameters(), two.training.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(one.delivery.tasks) == {"a", "b", "c"}
    own = one.delivery.tasks["a"]
    assert set(own.candidates) == {"joint", "alone", "blend"}
    assert own.single == "alone"
    assert type(one.delivery).model_validate_json(one.delivery.model_dump_json()) == one.delivery


def test_the_test_part_is_never_read(once):
    """Its labels may be anything: nothing of the delivery changes."""
    frame, before = once
    spec = spec_of()
    part = split_parts(spec.data.split, {"table": frame}, tasks_of(spec))["table"]
    other = frame.copy()
    other.loc[part == "test", ["a", "b"]] = 0.0
    assert delivered(other).delivery == before.delivery


def test_a_learner_delivers_a_model_that_loads_alone(tmp_path):
    frame = table()
    tasks = [Regression("a"), Regression("b"), Multiclass("c")]
    learner = Learner(tasks, drop=["who"], members=2, max_epochs=4, encoder={"name": "tabular", "d_hidden": 8})
    learner.deliver(frame, folds=3, members=2, words=("alone",))
    assert learner.delivery_.rows == 50
    before = learner.predict(frame)
    learner.save(tmp_path / "model")
    pd.testing.assert_frame_equal(Learner.load(tmp_path / "model").predict(frame), before)


@pytest.mark.parametrize("word", LABELS)
def test_the_constant_is_the_best_that_can_be_said_without_looking(word, rng):
    task, target, known, (output, _) = labelled(word, rng)
    known = known.clone()
    known[:9] = False
    heavy = torch.from_numpy(rng.uniform(0.5, 2, tuple(known.shape)))
    best = mean_label(task, target, known, heavy)

    def cost(values):
        return float((errors(task, values.expand(N, -1), target) * known * heavy).sum())

    for other in natural(task, output)[:20]:
        for step in (0.02, 1.0):
            assert cost(best) <= cost((1 - step) * best + step * other) + 1e-6


def test_where_inputs_tell_nothing_the_constant_teaches_and_is_no_part_of_a_mixture():
    random = np.random.default_rng(0)
    y, noise = (torch.from_numpy(random.normal(size=300)) for _ in range(2))
    said = {"joint": noise.unsqueeze(1), "boosting": -noise.unsqueeze(1), "constant": torch.zeros(300, 1).double()}
    e = Evidence(Regression("y"), said, y, torch.ones(300, dtype=torch.bool), None, torch.arange(300) % 3, {})
    found = choose(e, blend=False)
    assert (found.name, found.single) == ("constant", "constant")
    assert set(said) == {"joint", "boosting", "constant"}
    mixture = choose(replace(e, said={c: v for c, v in said.items() if c != "boosting"}))
    assert "blend" not in mixture.values  # one is no mixture


@pytest.mark.parametrize(
    ("late", "student", "own"),
    [
        ([()], "plain", set()),
        ([("b",), ()], "richer", set()),
        ([("a", "b"), ("b",), ()], "branches", {"b"}),
        ([("a",), ("a",), ("a",)], "plain", set()),
    ],
)
def test_tasks_that_are_behind_get_more_and_then_branches(monkeypatch, late, student, own):
    """What is rehearsed is told by a script: which tasks are behind at each try."""
    rest, specs = list(late), []

    def rehearsed(self, spec, *_):
        specs.append(spec)
        gone = rest.pop(0)
        bad, good = Change(-0.1, -0.2, -0.05, 0.01), Change(0.0, -0.1, 0.1, 0.9)
        values = {"student": 0.4, "teacher": 0.5, "single": 0.5}
        return {t: Judged(values, bad if t in gone else good, good) for t in "abc"}

    for place in ("candidates", "study"):  # nobody has to learn anything here
        monkeypatch.setattr(f"manyheads.deliver.{place}.carry", lambda runs, *_: [run.close() for run in runs])
    monkeypatch.setattr("manyheads.deliver.study._Study._rehearsed", rehearsed)
    monkeypatch.setattr("manyheads.deliver.study._Study._rehearsal", lambda *_: ({}, NONE))
    spec = spec_of(model={"encoder": {"name": "tabular", "d_hidden": 4, "n_layers": 1}, "members": 2})
    tables, tasks = {"table": table(60)}, tasks_of(spec)
    parts = {"table": np.full(60, "train")}
    found = deliver(spec, tasks, tables, parts, settings=Settings(words=("alone",), folds=3, members=2, between=0))
    assert found.delivery.student == student
    assert list(found.delivery.behind.values()) == late
    assert {t for t, row in found.delivery.tasks.items() if row.branch == "own"} == own
    assert found.delivery.kept == (not late[-1])
    if len(late) > 1:
        assert specs[1].model.encoder.settings["embedding"] == "piecewise"
        assert specs[1].model.encoder.settings["d_hidden"] == 8
    sharing = found.training.runs[0].model.sharing
    assert type(sharing).__name__ == ("Tree" if own else "Hard")
    if own:  # nothing that learns is common to `b` and the others
        assert found.spec.model.sharing.settings["groups"] == [["a", "c"], ["b"]]


def test_what_is_worse_is_worse_beyond_noise():
    assert worse(Change(-0.1, -0.2, -0.01, 0.03))
    assert not worse(Change(-0.1, -0.2, 0.01, 0.07))
    assert not worse(Change(0.1, 0.05, 0.2, 0.01))
    assert not worse(Change(None))
