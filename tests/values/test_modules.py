"""Anyone's module and loaders: the comparison for people who train elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import manyheads as mh
from manyheads.compare import modules
from manyheads.compare.goals import known_rows
from manyheads.compare.loop import Plan, train
from manyheads.faults import ConfigError, DataError, Diverged
from manyheads.spec import Part

BCE = nn.functional.binary_cross_entropy_with_logits
TASKS = {
    "sum": mh.Goal(nn.functional.mse_loss, "r2"),
    "sign": mh.Goal(BCE, "roc_auc", says=torch.sigmoid),
}


class Net(nn.Module):
    """A trunk and a head for each task."""

    def __init__(self, tasks=("sum", "sign"), width=16):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, width), nn.ReLU())
        self.heads = nn.ModuleDict({t: nn.Linear(width, 1) for t in tasks})

    def forward(self, x):
        z = self.trunk(x)
        return {t: head(z).squeeze(-1) for t, head in self.heads.items()}


def build(seed):
    return Net()


def rows(n=240, seed=0, against=False):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    truth = x[:, :3].sum(1)
    total = truth + 0.5 * torch.randn(n, generator=g)
    sign = ((x[:, 3:].sum(1) if against else truth) + 0.5 * torch.randn(n, generator=g) > 0).float()
    total[torch.rand(n, generator=g) < 0.3] = float("nan")
    return x, total, sign


class Named:
    """Batches of a DataLoader, labels by name."""

    def __init__(self, part, shuffle=False):
        self.inner = DataLoader(TensorDataset(*part), batch_size=32, shuffle=shuffle)

    def __iter__(self):
        return ((x, {"sum": a, "sign": b}) for x, a, b in self.inner)


def loaders(repeat):
    every = rows()
    order = torch.randperm(len(every[0]), generator=torch.Generator().manual_seed(repeat))
    parts = (order[:140], order[140:190], order[190:])
    return tuple(Named([v[part] for v in every], shuffle=i == 0) for i, part in enumerate(parts))


def plan(build=build, task=None, own=False, epochs=3, balance="equal", lr=0.01, goals=TASKS):
    return Plan(build, goals, 3, Part(name=balance), task, own, epochs, None, lambda w: torch.optim.SGD(w, lr=lr))


def test_the_question_is_answered_for_anyones_module():
    found = mh.compare_modules(build, loaders, TASKS, repeats=3, max_epochs=8, lr=0.01)
    assert list(found.comparisons) == ["joint"]
    assert set(found.tasks) == {"sum", "sign"}
    assert found.choice in ("joint", "single")
    row = found.comparisons["joint"].tasks["sign"]
    assert row.metric == "roc_auc"
    assert row.joint > 0.8
    assert row.single > 0.8
    assert row.interval[0] < row.delta < row.interval[1]
    assert found.costs["single"].parameters == 2 * (6 * 16 + 16 + 16 + 1)  # what each loss reaches
    assert found.costs["joint"].parameters == 6 * 16 + 16 + 2 * 17
    assert "re-drawn splits" in found.protocol
    again = mh.compare_modules(build, loaders, TASKS, repeats=3, max_epochs=8, lr=0.01)
    assert again.comparisons["joint"].tasks == found.comparisons["joint"].tasks


def test_several_balances_and_one_split():
    fixed = loaders(0)
    found = mh.compare_modules(
        build, fixed, TASKS, balances=["upgrad", {"name": "fixed", "weights": {"sum": 3.0, "sign": 1.0}}],
        repeats=2, max_epochs=3,
    )  # fmt: skip
    assert list(found.comparisons) == ["equal", "upgrad", "fixed"]
    assert "over test rows" in found.protocol
    assert all(c.interval[0] is not None for c in found.comparisons.values())


def test_a_build_with_a_task_makes_the_models_of_one_task():
    asked = []

    def own(seed, task=None):
        asked.append(task)
        return Net() if task is None else Net((task,), 4)

    def needed(seed, task):
        return own(seed, task)

    def both(seed, *task):
        return own(seed, *task)

    plain = mh.compare_modules(own, loaders, TASKS, repeats=1, max_epochs=1)  # a default is no second argument
    assert set(asked) == {None}
    assert plain.costs["single"].parameters > plain.costs["joint"].parameters
    ended = train(plan(build=needed, task="sum", own=True), loaders(0))
    assert ended.parameters == 6 * 4 + 4 + 5
    assert set(ended.valid) == {"sum"}


def test_one_task_alone_is_the_loop_that_anyone_would_write():
    data = loaders(1)
    ended = train(plan(task="sum", epochs=2), data)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Net()
    mover = torch.optim.SGD(model.parameters(), lr=0.01)
    states = []
    from manyheads.blocks import seed_of

    for epoch in range(2):
        torch.manual_seed(seed_of(3, "epoch", epoch) % 2**63)
        for x, y in data[0]:
            known = ~y["sum"].isnan()
            loss = ((model(x)["sum"] - y["sum"])[known] ** 2).mean()
            mover.zero_grad()
            loss.backward()
            mover.step()
        with torch.no_grad():
            errors = [((model(x)["sum"] - y["sum"])[~y["sum"].isnan()] ** 2) for x, y in data[1]]
        states.append((float(torch.cat(errors).mean()), {k: v.clone() for k, v in model.state_dict().items()}))
    best = min(states, key=lambda s: s[0])[1]
    for name, value in best.items():
        torch.testing.assert_close(ended.state[name], value)


def test_an_unknown_label_teaches_nothing():
    x, total, sign = rows()
    part = Named((x, total, torch.full_like(sign, float("nan"))))
    ended = train(plan(epochs=1), (part, part, part))
    assert ended.valid["sign"] is None
    assert ended.labels["sign"] == 0
    with torch.random.fork_rng():
        torch.manual_seed(3)
        start = Net().state_dict()
    assert torch.equal(ended.state["heads.sign.weight"], start["heads.sign.weight"])
    assert not torch.equal(ended.state["heads.sum.weight"], start["heads.sum.weight"])


def test_labels_that_are_none():
    assert known_rows(torch.tensor([1.0, float("nan")])).tolist() == [True, False]
    assert known_rows(torch.tensor([[1, 2], [-100, 2]])).tolist() == [True, False]


def test_the_test_loader_is_gone_through_after_the_choice_and_once(monkeypatch):
    log = []

    class Spied(Named):
        def __iter__(self):
            log.append("test")
            return super().__iter__()

    def data(repeat):
        a, b, c = loaders(repeat)
        spied = Spied.__new__(Spied)
        spied.inner = c.inner
        return a, b, spied

    inner = modules.chosen
    monkeypatch.setattr(modules, "chosen", lambda *given: (log.append("choice"), inner(*given))[1])
    mh.compare_modules(build, data, TASKS, balances=["upgrad"], repeats=2, max_epochs=1)
    assert log == ["choice", *["test"] * 2 * 4]  # two ways and two models of one task, in two repeats


def test_a_metric_may_be_a_function():
    def error(said, label):
        return float(np.abs(said - label).mean())

    goals = {"sum": mh.Goal(nn.functional.mse_loss, error, greater_is_better=False), "sign": TASKS["sign"]}
    found = mh.compare_modules(build, loaders(0), goals, repeats=1, max_epochs=3)
    row = found.comparisons["joint"].tasks["sum"]
    assert (row.metric, row.greater_is_better) == ("error", False)
    assert row.interval[0] <= row.delta <= row.interval[1]
    assert row.delta == pytest.approx((row.single - row.joint) / row.single)


def test_processes_find_the_same():
    here, there = (
        mh.compare_modules(build, loaders, TASKS, repeats=2, max_epochs=2, **how)
        for how in ({}, {"n_jobs": 2, "backend": "loky"})
    )
    for one, other in zip(*(c.comparisons["joint"].tasks.values() for c in (here, there)), strict=True):
        assert one.joint == pytest.approx(other.joint, rel=1e-4)
        assert one.single == pytest.approx(other.single, rel=1e-4)


def test_what_a_module_should_give_is_said():
    class Bare(Net):
        def forward(self, x):
            return {"total": super().forward(x)["sum"]}

    with pytest.raises(ConfigError, match=r"should give an output of `sum`.*Found total"):
        mh.compare_modules(lambda seed: Bare(), loaders, TASKS, repeats=1)
    with pytest.raises(ConfigError, match="`upgrad`"):
        mh.compare_modules(build, loaders, TASKS, balances=["upgrd"], repeats=1)
    with pytest.raises(ConfigError, match="needs tasks"):
        mh.compare_modules(build, loaders, {}, repeats=1)


@pytest.mark.parametrize(
    ("data", "goals", "error", "said"),
    [
        ([iter(loader) for loader in loaders(0)], TASKS, ConfigError, "ends once and for all"),
        (loaders(0)[:2], TASKS, ConfigError, "Found 2"),
        (loaders(0), {"summ": TASKS["sum"]}, DataError, r"to stop on should have .*: summ\. Found none"),
        ((loaders(0)[0], [(torch.ones(2, 6), {"sum": torch.zeros(2)})], loaders(0)[2]), TASKS, DataError,
         r"every task: sign\. Found labels of sum alone"),
        (([(torch.ones(2, 6), {"sign": torch.ones(2)})], *loaders(0)[1:]), TASKS, DataError, "learn from .* task: sum"),
    ],
)  # fmt: skip
def test_a_verdict_about_nothing_is_an_error(data, goals, error, said):
    with pytest.raises(error, match=said):
        mh.compare_modules(build, data, goals, repeats=1, max_epochs=1)


def test_a_run_without_a_finite_loss_says_so():
    goals = {"sum": mh.Goal(lambda a, b: (a - b).mean() * float("nan"), "r2")}
    with pytest.raises(Diverged, match="lower `lr`"):
        train(plan(goals=goals, epochs=9), loaders(0))
