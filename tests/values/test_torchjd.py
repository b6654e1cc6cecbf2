"""The objects of torchjd through the adapter: the updates of torchjd itself, and what it does not do by itself."""

from __future__ import annotations

import io
import math
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import manyheads.balance.torchjd as adapter
from manyheads.balance import Balance, Losses
from manyheads.balance.torchjd import TorchJD
from manyheads.blocks import seed_of
from manyheads.build import make_balance
from manyheads.catalog import find, make
from manyheads.faults import ConfigError, MissingExtra
from manyheads.spec import Part

aggregation = pytest.importorskip("torchjd.aggregation")
scalarization = pytest.importorskip("torchjd.scalarization")
from torchjd.autojac import jac_to_grad, mtl_backward  # noqa: E402

TASKS = ("a", "b", "c")
VECTOR = [1.0, 2.0, 3.0]

AGGREGATORS = {
    "AlignedMTL": {},
    "AlignedMTL-vector": {"pref_vector": VECTOR},
    "ConFIG": {},
    "ConFIG-vector": {"pref_vector": VECTOR},
    "Constant": {"weights": VECTOR},
    "ExcessMTL": {"robust_step_size": 0.01},
    "ExcessMTL-warm": {"robust_step_size": 0.01, "n_warmup_steps": 3},
    "FairGrad": {"alpha": 1.0},
    "GradDrop": {},
    "GradDrop-leak": {"leak": [0.0, 0.5, 1.0]},
    "GradVac": {},
    "IMTLG": {},
    "Krum": {"n_byzantine": 0, "n_selected": 2},
    "Mean": {},
    "MGDA": {},
    "PCD": {},
    "PCGrad": {},
    "Random": {},
    "Sum": {},
    "TrimmedMean": {"trim_number": 1},
}
if find_spec("cvxpy"):
    AGGREGATORS["CAGrad"] = {"c": 0.5}
WEIGHTINGS = {f"{name}Weighting": AGGREGATORS[name] for name in ("AlignedMTL", "FairGrad", "IMTLG", "MGDA", "PCGrad")}
SCALARIZERS = {
    "Constant": {"weights": VECTOR},
    "COSMOS": {"lambda_": 0.5, "weights": [0.2, 0.3, 0.5]},
    "DWA": {},
    "FAMO": {"shape": 3},
    "GeometricMean": {},
    "IMTLL": {"shape": 3},
    "Mean": {},
    "PBI": {"theta": 1.0, "weights": VECTOR},
    "Random": {},
    "STCH": {"mu": 1.0, "weights": [0.2, 0.3, 0.5]},
    "Sum": {},
    "UW": {"shape": 3},
}
STATEFUL = ["ExcessMTL", "ExcessMTL-warm", "GradVac", "PCD"]
NEED = {"quadprog": ["UPGrad", "DualProj"], "cvxpy": ["CAGrad", "NashMTL"]}
"""What torchjd's other aggregators ask for."""


def _made(place, name, settings):
    """The object, in torchjd's own words."""
    given = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in settings.items()}
    return getattr(place, name.split("-")[0])(**given)


class Net(nn.Module):
    """A trunk without a bias, so that torchjd's columns and ours are in one order, and a head per task."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(5, 4, bias=False)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS})

    def losses(self, step, tasks=TASKS):
        """(the trunk's output, a loss per task)."""
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
        z = self.trunk(x).tanh()
        factor = {"a": 1.0, "b": 5.0, "c": 0.2}
        out = {t: factor[t] * (self.heads[t](z).squeeze(-1) - x[:, i]).square().mean() for i, t in enumerate(TASKS)}
        return z, {t: out[t] for t in tasks}

    def move(self, lr=0.05):
        with torch.no_grad():
            for p in self.parameters():
                if p.grad is not None:
                    p -= lr * p.grad
                    p.grad = None


def _gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def _assert_same(net, literal, tolerance=1e-6):
    one, other = _gradients(net), _gradients(literal)
    assert (one - other).norm() <= tolerance * other.norm()


# -- the updates are torchjd's


@pytest.mark.parametrize("name", AGGREGATORS)
def test_twenty_steps_of_an_aggregator_are_those_of_autojac(name, float64):
    net, literal = Net(), Net()
    aggregator = _made(aggregation, name, AGGREGATORS[name])
    balance = TorchJD(_made(aggregation, name, AGGREGATORS[name]), tasks=TASKS, size="own", seed=3, gramian="exact")
    for step in range(20):
        assert balance.backward(net.losses(step)[1])
        z, losses = literal.losses(step)
        mtl_backward(list(losses.values()), features=z)
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(3, "torchjd", step))
            jac_to_grad(literal.trunk.parameters(), aggregator)
        _assert_same(net, literal)
        net.move()
        literal.move()


FACTORS = {"Sum": 1, "ConFIG": 1, "PCGrad": 1, "GradVac": 1, "GradDrop": 1} | dict.fromkeys(
    ("AlignedMTL", "ExcessMTL", "ExcessMTL-warm", "IMTLG", "Krum", "Mean", "MGDA", "PCD", "Random", "TrimmedMean"), 3
)
"""How many times torchjd's update ours is, with three tasks."""


@pytest.mark.parametrize("name", [*FACTORS, "FairGrad"])
def test_where_all_tasks_agree_the_update_is_the_sum(name, float64):
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    balance = TorchJD(_made(aggregation, name, AGGREGATORS[name]), tasks=TASKS)
    assert balance.backward({t: x.square().sum() for t in TASKS})
    assert torch.allclose(x.grad, 6 * x.detach(), rtol=1e-6)


@pytest.mark.parametrize("name", FACTORS)
def test_sizes_differ_by_a_constant_factor(name, float64):
    one, other = (
        TorchJD(_made(aggregation, name, AGGREGATORS[name]), tasks=TASKS, size=size) for size in ("equal", "own")
    )
    net, literal = Net(), Net()
    for step in range(3):
        one.backward(net.losses(step)[1])
        other.backward(literal.losses(step)[1])
        assert torch.allclose(net.trunk.weight.grad, FACTORS[name] * literal.trunk.weight.grad, rtol=1e-9)
        for head, same in zip(net.heads.parameters(), literal.heads.parameters(), strict=True):
            assert torch.equal(head.grad, same.grad)
        literal.move()
        net.zero_grad()
        net.load_state_dict(literal.state_dict())


def test_weights_that_depend_on_the_gradients_size_sum_to_the_number_of_tasks(float64):
    balance = TorchJD("FairGrad", {"alpha": 1.0})
    for scale in (1e-2, 1.0, 1e2):
        net = Net()
        balance.backward({t: scale * v for t, v in net.losses(0)[1].items()})
        assert sum(balance.last_weights.values()) == pytest.approx(3.0)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_is_its_aggregator(name, float64):
    net, literal = Net(), Net()
    one = TorchJD(_made(aggregation, name, WEIGHTINGS[name]))
    other = TorchJD(_made(aggregation, name.removesuffix("Weighting"), WEIGHTINGS[name]))
    for step in range(5):
        one.backward(net.losses(step)[1])
        other.backward(literal.losses(step)[1])
        _assert_same(net, literal, 1e-12)
        assert one.last_weights == other.last_weights
        net.move()
        literal.move()


@pytest.mark.parametrize("kind", ["gramian", "composed", "rows"])
def test_cr_mogm_around_what_reads_the_gramian_or_the_rows(kind, float64):
    def made():
        if kind == "rows":
            return aggregation.CRMOGMWeighting(aggregation.ExcessMTL(0.01).weighting)
        inner = aggregation.MGDAWeighting()
        return aggregation.CRMOGMWeighting(inner if kind == "gramian" else aggregation.MGDA().weighting)

    balance, weighting = TorchJD(made(), size="own", gramian="exact"), made()
    net, literal = Net(), Net()
    for step in range(10):
        balance.backward(net.losses(step)[1])
        _, losses = literal.losses(step)
        rows = [torch.autograd.grad(v, literal.trunk.weight, retain_graph=True)[0].flatten() for v in losses.values()]
        jacobian = torch.stack(rows)
        weights = weighting(jacobian @ jacobian.T if kind == "gramian" else jacobian)
        sum(losses.values()).backward()
        literal.trunk.weight.grad = (weights @ jacobian).view_as(literal.trunk.weight)
        _assert_same(net, literal)
        net.move()
        literal.move()
    assert type(balance._inner).__name__ == ("_OnGramian" if kind == "gramian" else "_OnRows")


@pytest.mark.parametrize("name", SCALARIZERS)
def test_twenty_steps_of_a_scalarizer_are_those_of_torchjd(name, float64):
    """With its parameters in an Adam, its `update` after the step and its `step` after the epoch, as torchjd says."""
    net, literal = Net(), Net()
    scalarizer = _made(scalarization, name, SCALARIZERS[name])
    balance = TorchJD(_made(scalarization, name, SCALARIZERS[name]), tasks=TASKS, size="own", seed=3, lr=0.1)
    adam = torch.optim.Adam(scalarizer.parameters(), lr=0.1) if name in ("UW", "IMTLL") else None
    for step in range(20):
        assert balance.backward(net.losses(step)[1], lambda tasks=None, step=step: net.losses(step)[1])
        losses = torch.stack(list(literal.losses(step)[1].values()))
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(3, "torchjd", step))
            scalarizer(losses).backward()
        _assert_same(net, literal)
        if adam is not None:
            adam.step()
            adam.zero_grad()
        net.move()
        literal.move()
        balance.stepped()
        if name == "FAMO":
            scalarizer.update(torch.stack(list(literal.losses(step)[1].values())))
        if step % 5 == 4:
            balance.new_epoch()
            if name == "DWA":
                scalarizer.step()


def test_without_a_step_of_its_own_a_scalarizers_parameters_get_gradients(float64):
    module = scalarization.UW(3)
    balance = TorchJD(module, lr=None)
    net = Net()
    _, losses = net.losses(0)
    balance.backward(losses)
    values = torch.stack([v.detach() for v in losses.values()])
    assert torch.allclose(module.log_var.grad, 0.5 - 0.5 * values)
    assert not module.log_var.any()


def test_the_parts_of_a_step_are_one_to_the_object(float64):
    for method, settings in (("GradVac", {}), ("ExcessMTL", {"robust_step_size": 0.01}), ("MGDA", {})):
        one, other = (TorchJD(method, settings, gramian="exact") for _ in range(2))
        net, parts = Net(), Net()
        for step in range(3):
            one.backward(net.losses(step)[1])
            _, losses = parts.losses(step)
            other.backward({t: 0.4 * losses[t] for t in ("a", "b")}, last=False)
            other.backward({t: 0.6 * losses[t] for t in ("a", "b")} | {"c": losses["c"]})
            _assert_same(net, parts, 1e-9)
            net.move()
            parts.move()
        assert one._held.calls == other._held.calls == 3


def test_a_preference_scales_the_loss_that_the_object_sees(float64):
    for method in ("Sum", "MGDA", "ConFIG", "scalarization.Mean"):
        net, literal = Net(), Net()
        _, losses = net.losses(0)
        weight = {"a": 2.0, "c": 0.5}
        given = Losses(TASKS, torch.stack(list(losses.values())), weight=weight, apart=losses)
        TorchJD(method, size="own", gramian="exact").backward(given)
        scaled = {t: weight.get(t, 1.0) * v for t, v in literal.losses(0)[1].items()}
        TorchJD(method, size="own", gramian="exact").backward(scaled)
        assert torch.allclose(net.trunk.weight.grad, literal.trunk.weight.grad, rtol=1e-9)


def test_random_numbers_are_its_own():
    """The same whatever was drawn elsewhere, and nothing elsewhere is disturbed."""

    def run(before):
        net, balance = Net(), TorchJD("PCGrad", seed=1)
        torch.manual_seed(before)
        expected = torch.get_rng_state()
        for step in range(5):
            balance.backward(net.losses(step)[1])
            net.move()
        assert torch.equal(torch.get_rng_state(), expected)
        return net.trunk.weight.detach()

    assert torch.equal(run(0), run(1))


# -- what it remembers


def _case(name):
    if name.startswith("scalar-"):
        return _made(scalarization, name[7:], SCALARIZERS[name[7:]])
    if name == "CRMOGM":
        return aggregation.CRMOGMWeighting(aggregation.GradVacWeighting(), initial_weights=torch.tensor(VECTOR))
    if name == "MoDoWeighting":
        return aggregation.MoDoWeighting()
    if name == "SDMGradWeighting":
        return aggregation.SDMGradWeighting(lr=0.1, n_iter=2)
    return _made(aggregation, name, AGGREGATORS[name])


REMEMBERING = [
    *STATEFUL,
    "CRMOGM",
    "MoDoWeighting",
    "SDMGradWeighting",
    *(f"scalar-{n}" for n in ("DWA", "FAMO", "IMTLL", "UW")),
]


def _run(balance, net, steps):
    for step in steps:
        balance.backward(net.losses(step)[1], lambda tasks=None, step=step: net.losses(step)[1])
        net.move()
        if step % 4 == 3:
            balance.new_epoch()
    return net


@pytest.mark.parametrize("name", [*REMEMBERING, "PCGrad", "GradDrop", "scalar-Random"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_run_goes_on_exactly_where_it_was_saved(name, used):
    """Through a file that runs no code; into a new object, or one that has seen other steps."""
    whole = _run(TorchJD(_case(name), tasks=TASKS), Net(), range(14))
    first = TorchJD(_case(name), tasks=TASKS)
    half = _run(first, Net(), range(7))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    fresh = TorchJD(_case(name), tasks=TASKS)
    if used:
        _run(fresh, Net(), range(50, 55))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    both = _run(fresh, half, range(7, 14))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), both.parameters(), strict=True))


@pytest.mark.parametrize("name", REMEMBERING)
def test_the_memory_matters_and_is_a_copy(name):
    """Without it the run would go on differently, so that the test above is one."""
    first = TorchJD(_case(name), tasks=TASKS)
    half = _run(first, Net(), range(8))
    kept = first.state_dict()
    assert kept["object"]["memory"]
    forgetful = TorchJD(_case(name), tasks=TASKS)
    other = Net()
    other.load_state_dict(half.state_dict())
    _run(first, half, range(8, 12))
    _run(forgetful, other, range(8, 12))
    assert not torch.equal(half.trunk.weight, other.trunk.weight)
    again = TorchJD(_case(name), tasks=TASKS)
    again.load_state_dict(kept)
    _run(again, Net(), range(3))
    file = io.BytesIO()
    torch.save(kept, file)
    assert file.getvalue()


class Odd(aggregation.Weighting):
    """A weighting that keeps what cannot be copied into tensors."""

    def __init__(self):
        super().__init__()
        self.fn_of_size = math.sqrt
        self.last = None

    def forward(self, gramian, /):
        self.last = lambda: gramian
        return torch.ones(len(gramian), dtype=gramian.dtype)


def test_what_cannot_be_kept_is_refused_when_it_is_saved():
    balance = TorchJD(Odd())
    assert balance.state_dict()["object"]["memory"] == []
    balance.backward(Net().losses(0)[1])
    with pytest.raises(ValueError, match=r"`Odd` keeps in `last` should be numbers or tensors. Found function"):
        balance.state_dict()


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_memory_by_places_is_refused_other_tasks(name):
    balance, net = TorchJD(_case(name), tasks=TASKS), Net()
    _run(balance, net, range(2))
    before = balance.state_dict()["object"]["calls"]
    with pytest.raises(ValueError, match=r"tells tasks by their places.*`a`, `b`, `c`. Found `a`, `c`; take batches"):
        balance.backward(net.losses(2, ("a", "c"))[1], lambda tasks=None: net.losses(2, ("a", "c"))[1])
    assert balance.state_dict()["object"]["calls"] == before


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_task_whose_loss_is_not_finite_leaves_the_memory_alone(name):
    balance, net = TorchJD(_case(name), tasks=TASKS), Net()
    _run(balance, net, range(2))
    before = balance.state_dict()["object"]
    losses = net.losses(2)[1]
    losses["b"] = losses["b"] * math.nan
    net.zero_grad()
    assert balance.backward(losses, lambda tasks=None: losses)
    assert balance.dropped == {"b": 1}
    now = balance.state_dict()["object"]
    assert now["calls"] == before["calls"]
    literal = Net()
    literal.load_state_dict(net.state_dict())
    sum(literal.losses(2, ("a", "c"))[1].values()).backward()
    assert torch.allclose(net.trunk.weight.grad, literal.trunk.weight.grad, rtol=1e-5)
    net.move()
    _run(balance, net, range(3, 5))
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_without_a_memory_a_missing_task_is_one_that_was_never_there(float64):
    for method in ("MGDA", "ConFIG", "PCGrad", "TrimmedMean"):
        settings = {"trim_number": 0} if method == "TrimmedMean" else {}
        one, other = TorchJD(method, settings), TorchJD(method, settings)
        net, literal = Net(), Net()
        one.backward(net.losses(0)[1])
        other.backward(literal.losses(0)[1])
        net.zero_grad()
        literal.zero_grad()
        assert one.backward(net.losses(1, ("c", "a"))[1])
        assert other.backward(literal.losses(1, ("a", "c"))[1])
        assert torch.allclose(net.trunk.weight.grad, literal.trunk.weight.grad, rtol=1e-12)
        assert net.heads["b"].weight.grad is None
        assert "b" not in one.last_weights


def test_an_answer_that_is_not_finite_is_replaced_and_noted(float64):
    class Bad(aggregation.Weighting):
        def forward(self, gramian, /):
            return torch.full((len(gramian),), math.nan)

    class Worse(aggregation.Aggregator):
        def forward(self, matrix, /):
            return matrix.sum(0) * math.inf

    for module in (Bad(), Worse()):
        balance, net, literal = TorchJD(module), Net(), Net()
        assert balance.backward(net.losses(0)[1])
        sum(literal.losses(0)[1].values()).backward()
        _assert_same(net, literal, 1e-9)
        assert any("not finite" in word for word in balance.report()[None])
    balance, net, literal = TorchJD("scalarization.GeometricMean"), Net(), Net()
    losses = net.losses(0)[1]
    losses["a"] = losses["a"] * 0
    assert balance.backward(losses)
    assert bool(torch.isfinite(_gradients(net)).all())
    assert balance.report() == {None: {"steps, torchjd's answer was not finite: equal weights": 1.0}}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_gradient_that_is_not_finite_leaves_the_memory_alone(name, float64):
    """Its loss is: the step has the sum of the others; under a scaler it is left to the scaler."""
    balance, net, literal = TorchJD(_case(name), tasks=TASKS), Net(), Net()
    before = balance.state_dict()["object"]["calls"]
    for scale in (1.0, 2.0):
        net.zero_grad()
        z, losses = net.losses(0)
        losses["b"] = losses["b"] + (z - z).sum().abs().sqrt()
        assert torch.isfinite(losses["b"])
        assert balance.backward(losses, scale=scale) == (scale == 1.0)
        assert balance.state_dict()["object"]["calls"] == before
        if scale == 1.0:
            sum(literal.losses(0, ("a", "c"))[1].values()).backward()
            assert torch.allclose(net.trunk.weight.grad, literal.trunk.weight.grad, rtol=1e-9)
            assert "a task was not finite" in " ".join(balance.report()[None])
    assert balance.dropped == {"b": 2}


# -- names, settings and refusals


def test_names():
    assert type(TorchJD("mean".capitalize()).method) is aggregation.Mean
    assert type(TorchJD("scalarization.Mean").method) is scalarization.Mean
    assert type(TorchJD("torchjd.aggregation.MGDAWeighting").method) is aggregation.MGDAWeighting
    assert type(TorchJD("FAMO", {"shape": 3}).method) is scalarization.FAMO
    with pytest.raises(ConfigError, match=r"torchjd has no `MGDAA`. Did you mean `MGDA`\?"):
        TorchJD("MGDAA")
    with pytest.raises(ConfigError, match=r"`Krum` has no setting `byzantine`. Did you mean `n_byzantine`\?"):
        TorchJD("Krum", {"byzantine": 1})
    with pytest.raises(ValueError, match="Aggregator, a Weighting or a Scalarizer"):
        TorchJD(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`settings` should go with a name"):
        TorchJD(aggregation.Mean(), {"a": 1})
    with pytest.raises(ValueError, match=r"`size` should be one of equal, own. Found `big`"):
        TorchJD("Mean", size="big")
    with pytest.raises(ValueError, match="`gramian`"):
        TorchJD("Mean", gramian="big")
    with pytest.raises(ValueError, match="`lr`"):
        TorchJD("scalarization.Mean", lr=-1)


def test_a_config_makes_it():
    part = Part.of(
        {"name": "torchjd", "method": "AlignedMTL", "settings": {"pref_vector": VECTOR}, "tasks": ["c", "b", "a"]}
    )
    balance = make_balance(part, TASKS)
    assert balance.method.pref_vector.tolist() == VECTOR
    with pytest.raises(ConfigError, match=r"`tasks` names the task `d`"):
        make_balance(Part.of({"name": "torchjd", "method": "MGDA", "tasks": ["a", "d"]}), TASKS)
    with pytest.raises(ConfigError, match="cannot be made"):
        make(Balance, "torchjd", {"method": "Krum", "settings": {"n_byzantine": -1}})
    assert find(Balance, "TorchJD") is TorchJD


def test_rows_in_the_order_of_tasks(float64):
    weights = torch.tensor(VECTOR)
    net = Net()
    balance = TorchJD(aggregation.Constant(weights), tasks=["c", "a", "b"], size="own")
    balance.backward(net.losses(0)[1])
    assert balance.last_weights == {"c": 1.0, "a": 2.0, "b": 3.0}
    with pytest.raises(ValueError, match=r"`tasks` should name every task. Found `c`"):
        TorchJD("Mean", tasks=["a", "b"]).backward(Net().losses(0)[1])
    with pytest.raises(ValueError, match=r"torchjd's `Constant` refused the tasks `a`, `c`: .*rows"):
        balance.backward(Net().losses(0, ("a", "c"))[1])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("Constant", {"weights": VECTOR}),
        ("PCD", {}),
        ("scalarization.STCH", {"mu": 1.0, "weights": VECTOR}),
        ("GradDrop", {"leak": [0.0, 0.5]}),
    ],
)
def test_what_goes_by_place_asks_for_the_places(method, settings):
    with pytest.raises(ValueError, match=r"should come with `tasks`.*Found none"):
        TorchJD(method, settings)
    assert TorchJD("Constant", {"weights": [1.0, 1.0]})


def test_famo_asks_for_its_look():
    with pytest.raises(ValueError, match="look"):
        TorchJD("FAMO", {"shape": 3}).backward(Net().losses(0)[1])
    assert TorchJD("FAMO", {"shape": 3}).looks
    assert not TorchJD("UW", {"shape": 3}).looks


@pytest.mark.parametrize(("package", "name"), [(p, n) for p, names in NEED.items() for n in names])
def test_what_torchjd_asks_for_is_said_and_what_is_here_without_it(package, name, monkeypatch):
    given = {"NashMTL": {"n_tasks": 3}, "CAGrad": {"c": 0.5}, "UPGrad": {}, "DualProj": {}}
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"{package}.*Or use `balance: {name.lower()}`") as caught:
        make(Balance, "torchjd", {"method": name, "settings": given[name]})
    assert caught.value.exit_code == 6


def test_without_torchjd_the_command_is_said(monkeypatch):
    for word in [m for m in sys.modules if m.split(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, word)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(MissingExtra, match=r"pip install 'manyheads\[torchjd\]'") as caught:
        make(Balance, "torchjd", {"method": "MGDA"})
    assert caught.value.exit_code == 6


def test_every_object_of_torchjd_is_in_one_of_the_lists():
    known = {*(n.split("-")[0] for n in (*AGGREGATORS, *SCALARIZERS)), *(n for names in NEED.values() for n in names)}
    known |= {
        "Aggregator",
        "GramianWeightedAggregator",
        "WeightedAggregator",
        "Weighting",
        "Scalarizer",
        "CRMOGM",
        "MoDo",
        "SDMGrad",
    }
    for place in (aggregation, scalarization):
        assert {word.removesuffix("Weighting") or word for word in place.__all__} <= known


def test_kinds_are_found_from_types():
    def kind(module):
        return adapter._kind(module)[0]

    assert (
        kind(aggregation.PCGrad())
        == kind(aggregation.PCGradWeighting())
        == kind(aggregation.MeanWeighting())
        == "gramian"
    )
    assert kind(aggregation.ConFIG()) == kind(aggregation.ExcessMTLWeighting()) == "rows"
    assert kind(aggregation.MGDA().weighting) == "rows"
    assert kind(scalarization.Mean()) == "losses"
    assert kind(Odd()) == "gramian"
