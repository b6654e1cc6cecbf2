"""Balances at their edges: what is handed over, settings of a wrong type, tasks that never come, rounding."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from manyheads.balance import Balance, Losses, Weighting
from manyheads.balance.aggregation import Aggregation
from manyheads.balance.surgery import Surgery
from manyheads.build import make_balance
from manyheads.catalog import find, index, make, mistyped, settings
from manyheads.encoders import Encoder
from manyheads.faults import ConfigError
from manyheads.objectives import Objective
from manyheads.penalties import Penalty
from manyheads.report.balances import _solver
from manyheads.sharing import Sharing
from manyheads.spec import Part

CONTRACTS = (Balance, Sharing, Penalty, Objective, Encoder)
GRAMIAN = sorted(word for word in index(Balance) if issubclass(find(Balance, word), Aggregation))
EPS = float(np.finfo(np.float32).eps)


def made(word, **given):
    """A balance with the settings that it cannot do without."""
    needed = {"pcd": {"primary": "0"}, "fixed": {"weights": {}}, "torchjd": {"method": "MGDA"}}
    return find(Balance, word)(**needed.get(word, {}) | given)


# -- what `weights` is handed


@pytest.mark.parametrize("word", GRAMIAN)
@pytest.mark.parametrize(
    ("gram", "more", "message"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], {}, r"positive semi-definite.*eigenvalue -1 .*J @ J\.T"),
        ([[1.0, 1.0], [1.0, 0.0]], {}, r"positive semi-definite.*eigenvalue"),
        ([[1e-12, 2e-12], [2e-12, 1e-12]], {}, "positive semi-definite"),
        ([[1e12, 2.0], [2.0, 1e-12]], {}, "positive semi-definite"),
        ([[1.0, 0.0], [0.0, -1.0]], {}, r"diagonal.*0 or more\. Found -1 for the task `1`"),
        ([[-1.0]], {}, "diagonal"),
        (np.eye(2), {"preference": [1.0, -1.0]}, r"`preference`.*0 or more\. Found -1.0 for the task `1`"),
        (np.eye(2), {"preference": [math.nan, 1.0]}, r"`preference`.*finite.*Found nan for the task `0`"),
        (np.eye(2), {"preference": {"1": math.inf}}, r"`preference`.*finite.*Found inf for the task `1`"),
        (np.eye(2), {"losses": [1.0, math.nan]}, r"`losses`.*finite\. Found nan for the task `1`"),
        (np.eye(2), {"losses": {"0": 1.0}}, r"`losses`.*each task\. Found none for `1`"),
        (np.eye(2), {"tasks": ["0"]}, r"`tasks`.*each of the 2 rows once\. Found 0"),
        (np.eye(2), {"tasks": ["0", "0"]}, r"`tasks`.*once\. Found 0, 0"),
    ],
)
def test_what_is_no_gramian_of_a_step_is_refused(word, gram, more, message):
    with pytest.raises(ValueError, match=message):
        made(word).weights(gram, **({"losses": [1.0, 1.0]} | more))


@pytest.mark.parametrize("word", GRAMIAN)
@pytest.mark.parametrize(
    "kind", [torch.bfloat16, torch.float16, torch.float32, torch.int64, np.float16, np.int32, list], ids=str
)
def test_a_gramian_of_any_type_is_taken(word, kind):
    gram = [[4, 1, -1], [1, 9, 0], [-1, 0, 1]]  # exact in each type
    wanted = made(word).weights(np.array(gram, float), [1.0, 2.0, 3.0])
    if isinstance(kind, torch.dtype):
        found = made(word).weights(torch.tensor(gram, dtype=kind), torch.tensor([1.0, 2.0, 3.0], dtype=kind))
        assert found.dtype == torch.float64
    else:
        found = made(word).weights(gram if kind is list else np.array(gram, kind), [1, 2, 3])
    assert np.asarray(found) == pytest.approx(wanted, abs=0)


@pytest.mark.parametrize("word", GRAMIAN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-4, 1.0])
def test_the_rounding_of_a_type_is_no_fault(word, dtype, size, rng):
    """Opposite and dependent gradients: rounded, their Gramian has negative eigenvalues, and squares of 0."""
    for _ in range(20):
        rows = rng.normal(size=(4, 60))
        rows[1], rows[3] = -rows[0] * rng.uniform(0.5, 2), rows[0] + rows[2]
        rows[0] *= size
        gram = torch.tensor(rows @ rows.T / 60).to(dtype)
        assert torch.isfinite(made(word).weights(gram, [1.0] * 4)).all()


@pytest.mark.parametrize("word", GRAMIAN)
@pytest.mark.parametrize("square", [0.0, 1e-30, 1.0, 4e20])
def test_a_gramian_of_one_task_is_plain_descent(word, square):
    balance = made(word)
    weights = balance.sized(balance.weights([[square]], [1.0]), np.ones(1))
    assert weights.shape == (1,)
    assert weights[0] == pytest.approx(1.0) if square else 0 <= weights[0] <= 1  # of a gradient of zero


# -- settings of a wrong type


@pytest.mark.parametrize(
    ("word", "given", "message"),
    [
        ("upgrad", {"every": 1.5}, "`every` of `upgrad` should be a whole number. Found 1.5."),
        ("upgrad", {"every": "2"}, '`every` of `upgrad` should be a whole number. Found "2".'),
        ("dwa", {"temperature": "x"}, '`temperature` of `dwa` should be a number. Found "x".'),
        ("uncertainty", {"lr": True}, "`lr` of `uncertainty` should be a number. Found true."),
        ("mgda", {"gramian": 3}, "`gramian` of `mgda` should be a text. Found 3."),
        ("mgda", {"every": None}, "`every` of `mgda` should be a whole number. Found null."),
        ("fixed", {"weights": {"a": "x"}},
         '`weights` of `fixed` should be keys and values (a number each). Found {"a": "x"}.'),
        ("graddrop", {"leak": [1]},
         "`leak` of `graddrop` should be a number or keys and values (a number each). Found [1]."),
        ("stch", {"ideal": 3}, "`ideal` of `stch` should be keys and values (a number each) or `running` or null. "
         "Found 3."),
        ("torchjd", {"method": "MGDA", "tasks": "ab"},
         '`tasks` of `torchjd` should be a list (a text each) or null. Found "ab".'),
        ("mgda", {"evry": 2}, "`mgda` has no setting `evry`. Did you mean `every`?"),
        ("gls", {"x": 2}, "`gls` has no setting `x`. It has none."),
    ],
)  # fmt: skip
def test_a_setting_of_a_wrong_type_is_told_in_plain_words(word, given, message):
    with pytest.raises(ConfigError) as caught:
        make_balance(Part(name=word, **given), ["a", "b"])
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_all_settings_of_wrong_types_are_told_at_once():
    with pytest.raises(ConfigError, match=r"`every` of .* Found 1\.5\. `gramian` of .* Found 3\."):
        make(Balance, "upgrad", {"every": 1.5, "gramian": 3})


def test_one_check_serves_every_catalogue():
    """Each class of each contract: its own defaults are of its types, and what is of no type at all is refused."""
    looked = 0
    for contract in CONTRACTS:
        for word in index(contract):
            cls = find(contract, word)
            known = {key: value for key, value in settings(cls).items() if value is not _empty(cls, key)}
            assert mistyped(cls, known) == {}, word
            odd = dict.fromkeys(known, object())
            assert mistyped(cls, odd).keys() == odd.keys(), word
            looked += len(known)
    assert looked > 80


def _empty(cls, key):
    import inspect

    return inspect.signature(cls).parameters[key].empty


def test_what_is_a_number_stays_one():
    """Whole numbers are numbers, numpy's too; and nothing else is turned into one."""
    assert make(Balance, "cagrad", {"c": 1}).c == 1
    assert make(Balance, "upgrad", {"every": np.int64(3)}).every == 3
    assert make(Penalty, "l1", {"strength": np.float32(0.5)}).strength == 0.5
    for wrong in (1.0, np.float64(2.0), True, Fraction(1, 2)):
        with pytest.raises(ConfigError, match="`every`"):
            make(Balance, "upgrad", {"every": wrong})


@pytest.mark.parametrize("every", [0, -1, 1.5, "2", True, None])
def test_a_class_checks_its_numbers_of_steps_itself(every):
    for word in GRAMIAN:
        with pytest.raises(ValueError, match=rf"`every`.*whole number, 1 or more\. Found {every!r}\."):
            made(word, every=every)
    with pytest.raises(ValueError, match=r"`n_groups`.*whole number"):
        made("go4align", n_groups=every)
    if every is not None:
        with pytest.raises(ValueError, match=r"`steps_per_epoch`.*whole number"):
            made("dwa", steps_per_epoch=every)


@pytest.mark.parametrize("word", ["uncertainty", "imtll", "famo", "gradnorm"])
@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_is_positive_and_finite(word, lr):
    with pytest.raises(ValueError, match="`lr`"):
        made(word, lr=lr)


# -- tasks that settings name

NAMING = {
    "fixed": {"weights": {"b": 2.0, "bb": 3.0}},
    "famo": {"min_losses": {"bb": 0.1}},
    "graddrop": {"leak": {"a": 0.5, "bb": 0.1}},
    "stch": {"ideal": {"bb": 0.1}},
    "pcd": {"primary": "bb"},
    "torchjd": {"method": "MGDA", "tasks": ["a", "b", "c", "bb"]},
}


def _step(balance, tasks="abc"):
    x = nn.Parameter(torch.arange(1.0, 4.0))
    losses = {t: (x * (i + 1)).square().sum() for i, t in enumerate("abc") if t in tasks}
    assert balance.backward(losses, look=lambda tasks=None: losses)


@pytest.mark.parametrize("word", NAMING)
def test_a_named_task_that_never_comes_is_told(word):
    """A loop of one's own has no list of its tasks: the report counts the steps, until `check` or a step knows it."""
    if word == "torchjd":
        pytest.importorskip("torchjd")
    balance = made(word, **NAMING[word])
    assert "bb" not in balance.report()
    for tasks in ("abc", "abc", "ac"):
        _step(balance, tasks)
    assert balance.report()["bb"] == {"steps, never there": 3.0}
    assert "a" not in balance.report() or "steps, never there" not in balance.report()["a"]
    _step(balance)
    assert balance.report()["bb"] == {"steps, never there": 1.0}
    setting = next(key for key in NAMING[word] if key != "method")
    with pytest.raises(ConfigError, match=rf"`{setting}` names the task `bb`, which does not exist\. Did you mean"):
        balance.check(["a", "b", "c"])
    balance.check(["a", "b", "c", "bb"])
    _step(balance)
    assert "bb" not in balance.report()


def test_a_named_task_that_comes_late_is_not_told_any_more():
    balance = made("fixed", weights={"c": 2.0})
    _step(balance, "ab")
    assert balance.report()["c"] == {"steps, never there": 1.0}
    _step(balance, "abc")
    _step(balance, "ab")
    assert balance.report() == {}


# -- residuals


@pytest.mark.parametrize("word", ["pcgrad", "gradvac", "gradnorm", "graddrop"])
def test_where_nothing_is_solved_there_is_no_residual(word):
    balance = made(word)
    for _ in range(3):
        _step(balance)
    assert "solver residual, largest" not in balance.report()[None]
    if word in GRAMIAN:
        assert math.isnan(balance.residual)
    again = made(word)
    again.load_state_dict(balance.state_dict())
    assert again.state_dict() == balance.state_dict()


@pytest.mark.parametrize("word", [w for w in GRAMIAN if w not in ("pcgrad", "gradvac", "gradnorm")])
def test_where_an_equation_is_solved_its_residual_is_told(word, rng):
    balance = made(word, **({"primary": "a"} if word == "pcd" else {}))
    _step(balance)
    assert 0 <= balance.report()[None]["solver residual, largest"] < 1e-8


def test_the_page_names_a_residual_only_where_there_is_one():
    steps = {"steps, exact": [(0, 4.0)]}
    assert _solver(steps, {}, []) == "Gramian: exact in 4 steps; no fall-backs."
    told = _solver(steps | {"solver residual, largest": [(0, 1e-12), (1, 3e-12)]}, {}, [])
    assert re.search("largest residual of the solver 3.00e.12 ", told)


# -- dependent gradients, measured in float32


def _noisy(rng, kind, tasks):
    """(rows, their Gramian with an error of float32 in each cosine)."""
    rows = rng.normal(size=(tasks, 60))
    if kind == "equal":
        rows[:] = rows[0]
    elif kind == "plane":
        rows = rng.normal(size=(tasks, 2)) @ rng.normal(size=(2, 60))
    elif kind == "opposite":
        rows[1] = -2 * rows[0]
    else:  # they sum to 0
        rows -= rows.mean(0)
    rows *= np.logspace(0, rng.uniform(0, 2), tasks)[:, None]
    lengths = np.linalg.norm(rows, axis=1)
    error = rng.uniform(-EPS, EPS, size=(tasks, tasks))
    return rows, rows @ rows.T + (error + error.T) / 2 * lengths[:, None] * lengths


@pytest.mark.parametrize("kind", ["equal", "plane", "opposite", "balanced"])
@pytest.mark.parametrize(
    ("word", "given"),
    [
        *(("alignedmtl", {"scale": scale}) for scale in ("min", "median", "rmse")),
        ("imtlg", {}),
        ("config", {}),
        ("nashmtl", {}),
        ("fairgrad", {}),
    ],
)
def test_weights_of_dependent_gradients_do_not_follow_the_rounding(kind, word, given, rng):
    """Each task's part |w_k g_k| of the update stays in the range of the gradients (IMTL-G: within its own bound)."""
    most = 1000 if word == "imtlg" else 20
    for tasks in (3, 5, 12):
        for _ in range(20):
            rows, gram = _noisy(rng, kind, tasks)
            balance = made(word, **given)
            weights = balance.sized(balance.weights(gram), np.ones(tasks))
            lengths = np.linalg.norm(rows, axis=1)
            assert np.abs(weights * lengths).max() <= most * tasks * lengths.max()


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_aligned_counts_the_directions_that_there_are(scale, rank, rng):
    """With the rounding of float32 the update is that of the exact Gramian, up to what that rounding can do."""
    for tasks in (5, 12):
        rows = rng.normal(size=(tasks, rank)) @ rng.normal(size=(rank, 60))
        lengths = np.linalg.norm(rows, axis=1)
        error = rng.uniform(-EPS, EPS, size=(tasks, tasks))
        balance = made("alignedmtl", scale=scale)
        exact = balance.weights(rows @ rows.T) @ rows
        found = balance.weights(rows @ rows.T + (error + error.T) / 2 * lengths[:, None] * lengths) @ rows
        assert np.linalg.norm(found - exact) <= 1e-4 * np.linalg.norm(exact)


# -- one thing in two names


def test_uncertainty_and_imtll_are_one_number_for_number():
    one, other = made("uncertainty", lr=0.05), made("imtll", lr=0.05)
    for step in range(200):
        losses = {"a": 3.0 + math.sin(step), "b": 1e-3, "c": 1e200 if step == 7 else 0.0}
        one.update(losses, None)
        other.update(losses, None)
    for task in "abc":
        assert one.state[task]["s"] == -other.state[task]["s"]
        assert one.state[task]["v"] == other.state[task]["v"]
    known = Losses("abc", torch.ones(3))
    assert torch.equal(one.weights(known), other.weights(known))


def test_whether_a_balance_looks_is_said_by_its_class_and_its_object():
    for word in index(Balance):
        cls = find(Balance, word)
        assert cls.looks == (word == "famo")
    pytest.importorskip("torchjd")
    assert made("torchjd", method="FAMO", settings={"shape": 3}).looks
    assert not made("torchjd").looks


def test_every_balance_is_of_a_known_kind():
    for word in index(Balance):
        cls = find(Balance, word)
        assert issubclass(cls, Weighting | Aggregation | Surgery) or word == "torchjd"
