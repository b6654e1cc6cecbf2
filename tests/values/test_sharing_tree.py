"""Trees, own inputs under a shared top, heads at a module's stage: who reads what, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))

import test_members as of_members
import test_sharing as laws
from cases import Case, build, inputs_of, layout_of, small_tasks
from pairs import model_of

from manyheads.blocks import initialise
from manyheads.catalog import find, make
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError
from manyheads.gradients.graph import reached
from manyheads.model import Ensemble
from manyheads.sharing import Sharing, Trace
from manyheads.sharing.hard import Hard
from manyheads.sharing.hierarchical import Hierarchical
from manyheads.sharing.tree import Tree

DEEP = Case("tabular", find(Encoder, "tabular"), {"d_hidden": 8, "n_layers": 3})
BRANCHING = {"levels": {1: [["a", "b"], ["c", "d"]], "2": [["a"], ["b"], ["d", "c"]]}}
OF_FIVE = [
    {"levels": {1: [["a", "b"], ["c", "d", "e"]], "2": [["a"], ["b"], ["e", "c"], ["d"]]}},
    {"groups": [["a", "b", "d"], ["c"], ["e"]], "from_stage": 1},
    {"groups": [["a", "d"], ["b", "c", "e"]], "from_stage": 0},
    {"from_stage": 0},
]


def tree(tasks=None, encoder=DEEP, seed=0, tables=1, **settings):
    return build(Case("tree", Tree, settings), encoder, tasks or small_tasks(), seed, tables).eval()


def shaken(model):
    """Weights of which no two are alike."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def x_of(n=12, table=0):
    return inputs_of(layout_of("tabular", table), n)


# -- a tree


def test_each_task_goes_its_way(float64):
    """A tree of two levels, one module after the other."""
    model = shaken(tree(**BRANCHING).double())
    trunk, copies = model.sharing.trunk, model.sharing.copies
    assert len(trunk.stages) == 1
    assert [len(c) for c in copies] == [2, 3, 3]
    z = trunk.stages[0](x_of())
    ab, cd = (stage(z) for stage in copies[0].values())
    (a2, b2, cd2), (a3, b3, cd3) = copies[1].values(), copies[2].values()
    expected = {"a": a3(a2(ab)), "b": b3(b2(ab)), "c": cd3(cd2(cd)), "d": cd3(cd2(cd))}
    found = model.sharing(x_of(), ["d", "a", "b", "c"])
    for task, features in expected.items():
        torch.testing.assert_close(found[task], features, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.sharing(x_of(), [task])[task], features, rtol=0, atol=1e-12)
    assert found["c"] is found["d"]  # computed once


def test_tasks_share_what_the_levels_say():
    model = shaken(tree(**BRANCHING))
    of = {t: reached(z.sum()) for t, z in model.sharing(x_of(), "abcd", trace=Trace(cut=True)).items()}
    count = {p: "".join(t for t in "abcd" if p in of[t]) for p in model.sharing.parameters()}
    stages = [*model.sharing.trunk.stages, *model.sharing.copies]
    by_stage = [{count[p] for p in stage.parameters()} for stage in stages]
    assert by_stage == [{"abcd"}, {"ab", "cd"}, {"a", "b", "cd"}, {"a", "b", "cd"}]


def test_what_a_task_does_not_need_is_not_computed():
    model = shaken(tree(**BRANCHING))
    whole = model(x_of())["c"]
    with torch.no_grad():
        for stage in model.sharing.copies:
            for branch, module in stage.items():
                if "c" not in branch:
                    for p in module.parameters():
                        p.fill_(torch.nan)
    assert torch.equal(model(x_of(), ["c"])["c"], model(x_of(), ["d", "c"])["c"])
    torch.testing.assert_close(model(x_of(), ["c"])["c"], whole)


def test_one_group_is_hard_sharing_and_groups_of_one_are_models_of_their_own(float64):
    """With the same weights: one branch for all is a trunk; own ways from stage 0 on are K nets."""
    hard = shaken(build(Case("hard", Hard), DEEP, small_tasks()).eval().double())
    one = tree(groups=[list("abcd")], from_stage=0).double()
    one.load_state_dict({k.replace("encoder", "trunk"): v for k, v in hard.state_dict().items()})
    for task in "abcd":
        assert torch.equal(one(x_of())[task], hard(x_of())[task])
    apart = shaken(tree(from_stage=0).double())
    for task in "abcd":
        with torch.no_grad():
            for stage, copies in zip(hard.sharing.encoder.stages, apart.sharing.copies, strict=True):
                stage.load_state_dict(copies[task].state_dict())
            hard.heads[task].load_state_dict(apart.heads[task].state_dict())
        torch.testing.assert_close(apart(x_of())[task], hard(x_of())[task], rtol=0, atol=1e-12)


def test_branches_start_alike():
    model = tree(**BRANCHING)
    for copies in model.sharing.copies:
        first, *others = (list(m.parameters()) for m in copies.values())
        assert all(torch.equal(p, q) for other in others for p, q in zip(first, other, strict=True))


def test_ways_to_say_the_same():
    same = [
        {"levels": {2: [["a", "b"], ["c", "d"]]}},
        {"levels": {"2": [["d", "c"], ("b", "a")]}},
        {"levels": {-2: [["a", "b"], ["c", "d"]]}},
        {"levels": {"stages.2": [["a", "b"], ["c", "d"]]}},
        {"groups": [["a", "b"], ["c", "d"]], "from_stage": -2},
        {"groups": ({"a", "b"}, {"c", "d"}), "from_stage": "stages.2.linear"},
    ]
    plans = [tree(**settings).sharing.plan() for settings in same]
    assert all(plan == plans[0] for plan in plans)
    default = tree().sharing.plan()
    assert default == tree(groups=[["a"], ["b"], ["c"], ["d"]]).sharing.plan()
    assert default[:2] == [(0, "stages 0 to 2: a, b, c, d"), (1, "stage 3: a")]


def test_the_plan_is_the_tree():
    assert tree(**BRANCHING).sharing.plan() == [
        (0, "stage 0: a, b, c, d"),
        (1, "stage 1: a, b"),
        (2, "stages 2 to 3: a"),
        (3, "head: a"),
        (2, "stages 2 to 3: b"),
        (3, "head: b"),
        (1, "stages 1 to 3: c, d"),
        (2, "heads: c, d"),
    ]


def test_heads_can_be_attached_on_the_way(float64):
    a, b, c, d = small_tasks()
    tasks = [replace(a, attach=1), replace(b, attach=(0, 2)), replace(c, attach="stages.1"), d]
    model = shaken(tree(tasks, **BRANCHING).double())
    assert [list(stage) for stage in model.sharing.copies] == [["a\x1fb", "c\x1fd"], ["b", "d"], ["d"]]
    z0 = model.sharing.trunk.stages[0](x_of())
    ab, cd = (stage(z0) for stage in model.sharing.copies[0].values())
    b2, d2 = model.sharing.copies[1].values()
    found = model.sharing(x_of(), "abcd")
    torch.testing.assert_close(found["a"], ab, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["b"][0], z0, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["b"][1], b2(ab), rtol=0, atol=1e-12)
    torch.testing.assert_close(found["c"], cd, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["d"], model.sharing.copies[2]["d"](d2(cd)), rtol=0, atol=1e-12)
    outputs = model(x_of())
    assert set().union(*(reached(o.sum()) for o in outputs.values())) == set(model.parameters())
    trace = Trace(cut=True)
    model(x_of(), trace=trace)
    assert {t: len(views) for t, views in trace.cut.items()} == {"a": 1, "b": 2, "c": 1, "d": 1}


def test_the_cut_is_where_a_task_goes_on_alone():
    model = shaken(tree(**BRANCHING))
    trace = Trace(cut=True)
    model(x_of(), trace=trace)
    below = {t: reached(views[0][0]) for t, views in trace.cut.items()}
    assert all(len(views) == 1 for views in trace.cut.values())
    copies = model.sharing.copies
    trunk = set(model.sharing.trunk.parameters())
    assert below["a"] == below["b"] == trunk | set(copies[0]["a\x1fb"].parameters())
    assert below["c"] == below["d"] == trunk | {p for stage in copies for p in stage["c\x1fd"].parameters()}


def test_stage_0_of_several_tables_stays_the_tables():
    model = shaken(tree(tables=2, groups=[["a", "b"], ["c", "d"]], from_stage=0))
    assert len(model.sharing.trunk.stages) == 1
    assert [len(c) for c in model.sharing.copies] == [2, 2, 2]
    for i in (0, 1):
        assert set(model(x_of(table=i), table=f"t{i}")) == set("abcd")


def test_one_task_has_nothing_to_divide():
    """A single-task model of the same config: its groups speak of tasks that are not there."""
    model = tree(small_tasks()[:1], **BRANCHING)
    assert len(model.sharing.trunk.stages) == 4
    assert model.sharing.plan() == [(0, "stages 0 to 3: a"), (1, "head: a")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": [["a", "b"]]}, "every task.*Found none with `c`, `d`; add them"),
        ({"groups": [["a", "b", "d"]]}, "Found none with `c`; add it"),
        ({"groups": [["a", "b"], ["c", "d", "aa"]]}, "stage 3 name a task `aa`.*Did you mean `a`"),
        ({"groups": [["a", "b"], ["b", "c", "d"]]}, "every task once. Found `b` 2 times"),
        ({"groups": ["ab", ["c", "d"]]}, r"should be a list \(a list each\).*Found \[\"ab\", \[\"c\", \"d\"\]\]"),
        ({"groups": [["a", "b"], ["c", "d"]], "from_stage": 4}, "`from_stage` should be between -4 and 3.*Found 4"),
        ({"levels": {"stages.7": [["a"], ["b"], ["c"], ["d"]]}}, "`levels` should be.*Found `stages.7`. Did you mean"),
        ({"levels": {-1: [list("abcd")], 3: [list("abcd")]}}, "stage once. Found stage 3 twice, as `3`"),
        ({"levels": {1: [["a", "b"], ["c", "d"]], 2: [["a", "c"], ["b"], ["d"]]}}, r"stay apart. Found \['a', 'c'\]"),
        ({"levels": {1: [list("abcd")]}, "groups": [list("abcd")]}, "Either `levels` or `groups`.*Found both"),
    ],
)
def test_what_a_tree_refuses(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(Sharing, "tree", settings, lambda: DEEP({"t0": layout_of("tabular")}), small_tasks())


@pytest.mark.parametrize("settings", OF_FIVE, ids=str)
@pytest.mark.parametrize(
    "law",
    [
        laws.test_every_parameter_is_reached_by_some_loss,
        laws.test_the_order_of_tasks_does_not_matter,
        laws.test_some_tasks_are_as_all,
        laws.test_the_graph_tells_whose_is_whose,
        laws.test_a_trace_changes_nothing,
        laws.test_state_dict_and_back,
        laws.test_two_tables_have_their_own_entrance_and_one_head,
        laws.test_every_scheme_meets_every_balance,
        laws.test_transform_is_what_the_head_reads,
    ],
    ids=lambda law: law.__name__,
)
def test_the_laws_of_sharing_hold_for_groups(law, settings):
    law((Case("tree", Tree, settings), DEEP))


@pytest.mark.parametrize("settings", OF_FIVE, ids=str)
def test_the_laws_in_double_precision_hold_for_groups(settings, float64):
    pair = (Case("tree", Tree, settings), DEEP)
    laws.test_the_cut(pair, float64)
    members = [model_of(pair, seed=m) for m in range(2)]
    together = Ensemble(members).eval()(x_of())
    for task in together:
        torch.testing.assert_close(together[task], torch.stack([m(x_of())[task] for m in members]))


def test_stacked_runs_of_groups_equal_runs_alone(float64):
    sharing = {"name": "tree", "levels": {"1": [["a", "c", "e"], ["b"]], 2: [["a"], ["b"], ["c", "e"]]}}
    of_members._stacked_equal_alone({"model": {"sharing": sharing}, "optim": of_members.SGD})


# -- own inputs under a shared top


class Wide(Encoder):
    """Stages over sequences or maps: a stand-in that mixes within a row alone."""

    def __init__(self, layouts, kind="sequence"):
        super().__init__()
        self.stages = nn.ModuleList(_Mixing(kind) for _ in range(3))
        self.widths = [4, 4, 4]


class _Mixing(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(4, 4)

    def forward(self, z):
        if isinstance(z, dict):
            z = (z["values"], z["mask"]) if self.kind == "sequence" else z["values"]
        if self.kind == "map":
            return self.linear(z.movedim(1, -1)).tanh().movedim(-1, 1)
        values, mask = z
        return (self.linear(values) + values.mean(1, keepdim=True)).tanh(), mask


def _rows(kind):
    if kind == "sequence":
        return {"values": torch.randn(6, 5, 4), "mask": torch.rand(6, 5) < 0.7}
    return {"values": torch.randn(6, 4, 3, 2)}


@pytest.mark.parametrize("shared_from", [1, -1])
@pytest.mark.parametrize("kind", ["sequence", "map"])
def test_sequences_and_maps_go_through_the_top_together(kind, shared_from, float64):
    sharing = Hierarchical(lambda: Wide({}, kind), small_tasks(), shared_from=shared_from)
    initialise(sharing, 0)
    shaken(sharing)
    x = _rows(kind)
    found = sharing(x, "abcd")
    for task in "abcd":
        z = x
        for stage in [*(own[task] for own in sharing.own), *sharing.top]:
            z = stage(z)
        torch.testing.assert_close(found[task], z, rtol=0, atol=1e-12)
        torch.testing.assert_close(sharing(x, task)[task], z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["sequence", "map"])
def test_sequences_and_maps_go_through_a_tree(kind, float64):
    sharing = Tree(lambda: Wide({}, kind), small_tasks(), **BRANCHING)
    shaken(sharing)
    x = _rows(kind)
    found = sharing(x, "abcd")
    for task in "abcd":
        z = x
        for stage in [*sharing.trunk.stages, *(c[b[task]] for c, b in zip(sharing.copies, sharing.branches[1:]))]:  # noqa: B905
            z = stage(z)
        torch.testing.assert_close(found[task], z, rtol=0, atol=1e-12)


def hierarchical(tasks=None, tables=1, **settings):
    return build(Case("hierarchical", Hierarchical, settings), DEEP, tasks or small_tasks(), 0, tables).eval()


def test_own_inputs_one_top(float64):
    model = shaken(hierarchical(shared_from=2).double())
    own, top = model.sharing.own, model.sharing.top
    assert (len(own), len(top)) == (2, 2)
    for task, features in model.sharing(x_of(), "abcd").items():
        expected = top[1](top[0](own[1][task](own[0][task](x_of()))))
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
    assert model.sharing.plan() == [*((0, f"stages 0 to 1: {t}") for t in "abcd"), (1, "stages 2 to 3: a, b, c, d")]
    before = model(x_of())
    with torch.no_grad():
        own[1]["a"].linear.weight.mul_(2)
    after = model(x_of())
    assert [t for t in "abcd" if not torch.equal(before[t], after[t])] == ["a"]


def test_what_a_task_is_told_does_not_hang_on_how_many_are_asked():
    """In evaluation to the bit, even for one row; in training all go through the top as one batch."""
    wide = replace(DEEP, settings={"d_hidden": 64, "n_layers": 3, "dropout": 0.0})
    model = shaken(build(Case("hierarchical", Hierarchical, {}), wide, small_tasks(), 0, 1)).eval()
    for x in (x_of(1), x_of(7)):
        every = model.sharing(x, "abcd")
        assert all(torch.equal(every[t], model.sharing(x, some)[t]) for some in ("a", "ab", "dca") for t in some)
        model.train()
        together = model.sharing(x, "abcd")
        model.eval()
        assert all(torch.allclose(every[t], together[t], atol=1e-5) for t in "abcd")


def test_no_activation_separates_the_tasks_of_a_shared_top():
    model = hierarchical()
    trace = Trace(cut=True)
    outputs = model(x_of(), trace=trace)
    assert trace.cut is None
    for task in "abcd":
        own = {p for stage in model.sharing.own for p in stage[task].parameters()}
        expected = own | set(model.sharing.top.parameters()) | set(model.heads[task].parameters())
        assert reached(outputs[task].sum()) == expected


def test_tables_keep_their_entrance_below_own_stages():
    model = hierarchical(tables=2)
    assert len(model.sharing.own) == 2
    assert len(model.sharing.top) == 1
    assert set(model(x_of(table=1), table="t1")) == set("abcd")


@pytest.mark.parametrize("shared_from", [0, 4, -4, 9])
def test_own_and_shared_stages_there_must_be(shared_from):
    with pytest.raises(ValueError, match=rf"`shared_from` should be one of the.* 4 stages.*Found {shared_from};"):
        hierarchical(shared_from=shared_from)


# -- heads at a module's stage


def _hard(**attach):
    return build(Case("hard", Hard), DEEP, [replace(t, attach=attach.get(t.name)) for t in small_tasks()]).eval()


def test_a_modules_name_stands_for_its_stage(float64):
    x = x_of()
    named = _hard(a="stages.1", b="stages.2.linear", c=("stages.0", "stages.3"), d="1").double()
    numbered = _hard(a=1, b=2, c=(0, -1), d=1).double()
    assert named.sharing.depths == numbered.sharing.depths == {"a": (1,), "b": (2,), "c": (0, 3), "d": (1,)}
    for task in "abcd":
        assert torch.equal(named(x)[task], numbered(x)[task])


def test_a_module_that_stages_only_borrow_has_its_stage():
    """Wrapped nets keep their own names for what is a stage as well."""

    class Wrapped(Wide):
        def __init__(self, layouts):
            super().__init__(layouts)
            self.net = nn.ModuleDict({"bottom": self.stages[0], "upper": self.stages[1:]})

    task = replace(small_tasks()[0], attach="net.upper.0.linear")
    assert Hard(lambda: Wrapped({}), [task]).depths == {"a": (1,)}


@pytest.mark.parametrize(
    ("attach", "message"),
    [
        ("stages.9", "Task `a`: `attach` should be.*Found `stages.9`. Did you mean `stages.*Known: stages.0, sta"),
        ("encoder.stages.2", "Found `encoder.stages.2`. Did you mean `stages.2`"),
        ("stages", "Found `stages`"),
        ("", "Found ``. Known: stages.0, stages.1, stages.2, stages.3 and the modules in them"),
        ("--1", "Found `--1`"),
        (1.5, "Found `1.5`"),
        (4, "between -4 and 3, the number of a stage. Found 4"),
        ("-5", "Found -5"),
    ],
)
def test_a_stage_that_there_is_not(attach, message):
    with pytest.raises(ValueError, match=message):
        _hard(a=attach)


def test_the_plan_of_hard_sharing_says_where_heads_are():
    assert _hard().sharing.plan() == [(0, "stages 0 to 3: a, b, c, d"), (1, "heads: a, b, c, d")]
    assert _hard(a=0, b=(0, 2), d="stages.2").sharing.plan() == [
        (0, "stage 0: a, b, c, d"),
        (1, "heads: a, b"),
        (1, "stages 1 to 2: b, c, d"),
        (2, "heads: b, d"),
        (2, "stage 3: c"),
        (3, "head: c"),
    ]
