"""The objects of torchjd as balances."""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args, get_origin

import numpy as np
import torch
from torch import Tensor, nn

from ..catalog import hint
from ..faults import ConfigError, Fault, MissingExtra
from ..gradients.gramian import MODES
from ..gradients.jacobian import Jacobian
from . import Balance, Look, Losses, Weighting
from .aggregation import UNSOLVED, Aggregation, Array, Problem, Solution
from .held import Held, ours
from .surgery import Surgery

SIZES = ("equal", "own")
PLACES = ("aggregation", "scalarization")
SIZE_ONLY = ("MeanWeighting", "SumWeighting", "RandomWeighting", "ConstantWeighting")
"""Weightings of the Jacobian that read nothing of it but its number of rows."""
TWO_BATCHES = ("MoDoWeighting", "SDMGradWeighting")
"""Weightings of the products of two batches' gradients."""
NOT_FINITE = "torchjd's answer was not finite: equal weights"
INCOMPLETE = "a task was not finite: equal weights"


class TorchJD(Balance):
    """Any aggregator, weighting or scalarizer of torchjd.

    What torchjd calls a weighting of the Gramian, and an aggregator that rests on one, is asked for weights w given our
    G in float64, and the update is sum_k w_k g_k. Any other aggregator is given the rows of the Jacobian. A scalarizer
    s gives the weights ds/dL_k. Under the first two each task's own parameters get exactly their own gradient. Rows are
    sorted by the tasks' names, unless `tasks` says otherwise.

    Cost: the Gramian, and one backward pass (Gramian); a backward pass per task (Jacobian); one backward pass
    (scalarizer).
    State: that of the object, copied; and how often it was asked, which seeds its random numbers.
    Safe range: the object's, which is narrower than that of the balance of the same name here, where there is one. An
    object with a memory tells tasks by their places: it is refused another set of tasks. Where its answer is not
    finite the step has equal weights, and a note says so. MoDo and SDMGrad are to see two independent batches; here
    they see one. The user's `weight` p_k scales the loss and the gradient of its task before the object sees them.

    Args:
        method: an object of torchjd; or the name of a class in `torchjd.aggregation` or `torchjd.scalarization`
            (``PCGrad``, ``scalarization.Mean``).
        settings: of the class that `method` names; lists stand for tensors.
        tasks: the order of rows, for settings that go by it.
        size: ``equal``: where all tasks agree, the update is the sum of the gradients: torchjd's times a constant
            factor, or, where its weights depend on the gradients' size, with weights that sum to K; ``own``: torchjd's.
        seed: of its random numbers.
        lr: step of the Adam that moves a scalarizer's parameters; null leaves their gradients to an optimiser of yours.
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`; where it reads the Gramian.

    Raises:
        MissingExtra: torchjd is not installed.
        ValueError: no such object, or settings that it refuses.

    Reference:
        Quinton, Rey: Jacobian descent for multi-objective optimization, 2024.

    Differs from the paper: NOTE[DIFF] the size of the update, unless `size` is ``own``.
    """

    cut = True

    def __init__(
        self,
        method: Any,
        settings: Mapping[str, Any] | None = None,
        tasks: Sequence[str] | None = None,
        size: str = "equal",
        seed: int = 0,
        lr: float | None = 0.01,
        gramian: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, known in (("size", size, SIZES), ("gramian", gramian, MODES)):
            if value not in known:
                raise ValueError(f"`{name}` should be one of {', '.join(known)}. Found `{value}`.")
        if lr is not None and not lr > 0:
            raise ValueError(f"`lr` should be positive, or null. Found {lr}.")
        if not isinstance(method, str) and settings:
            raise ValueError("`settings` should go with a name. Found an object, which has its own.")
        module = _made(method, settings or {}) if isinstance(method, str) else method
        kind, part = _kind(module)
        self.method = module
        """The object of torchjd."""
        self._held = Held(module, part, tasks, seed)
        self.named["tasks"] = tuple(tasks or ())
        self._inner: _OnLosses | _OnGramian | _OnRows
        if kind == "losses":
            self._inner = _OnLosses(self._held, size, lr)
            self.looks = hasattr(module, "update")  # it depends on the object
        elif kind == "gramian":
            self._inner = _OnGramian(self._held, size, gramian)
        else:
            self._inner = _OnRows(self._held, size)
        self._inner.dropped = self.dropped
        self._before: dict[str, int] = {}

    def fill(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        self._held.admit(losses.tasks, [task for task, n in self.dropped.items() if n > self._before.get(task, 0)])
        filled = self._inner.fill(losses, scale, rows)
        self.last_weights = self._inner.last_weights
        return filled

    def report(self) -> dict[str | None, dict[str, float]]:
        return self._inner.report() | self._never_there()

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        self._inner.update(losses, look)

    def stepped(self) -> None:
        self._inner.stepped()
        if not self._so_far.parts:
            self._before = dict(self.dropped)

    def new_epoch(self) -> None:
        self._inner.new_epoch()

    def state_dict(self) -> dict[str, Any]:
        """All that must be kept to go on exactly; a look that is due is taken first.

        Raises:
            ValueError: the object keeps what cannot be copied.
        """
        self._inner.stepped()
        return super().state_dict() | {"inner": self._inner.state_dict(), "object": self._held.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state)
        self._inner.load_state_dict(state["inner"])
        self._inner.dropped = self.dropped
        self._held.load_state_dict(state["object"])
        self.last_weights = self._inner.last_weights


# -- the three ways of asking an object


class _OnGramian(Aggregation):
    """Weights from the Gramian."""

    def __init__(self, held: Held, size: str, gramian: str) -> None:
        super().__init__(gramian=gramian)
        self.held, self.size = held, _Size(size, held, self._agreed)
        self._equal = False  # whether the last solution is ours, in place of the object's

    def solve(self, problem: Problem) -> Solution:
        p, self._equal = problem.preference, True
        if self.held.lacks(problem.tasks):
            return Solution(p, UNSOLVED, INCOMPLETE)
        places = self.held.places(problem.tasks)
        gram = (p[:, None] * problem.gram * p)[np.ix_(places, places)]
        weights = np.empty(len(places))
        weights[places] = p[places] * self.held.ask(torch.from_numpy(gram), problem.tasks).double().cpu().numpy()
        if not np.isfinite(weights).all():
            return Solution(p, UNSOLVED, NOT_FINITE)
        self._equal = False
        one = type(self.held.part).__name__ in TWO_BATCHES
        return Solution(weights, UNSOLVED, "one batch in place of two" if one else "")

    def sized(self, weights: Array, preference: Array) -> Array:
        return weights if self._equal else self.size(weights, preference)

    def _agreed(self, part: nn.Module, preference: Array, scale: float) -> float:
        weights = part(torch.from_numpy(np.outer(preference, preference)) * scale**2)
        return float(preference @ weights.double().cpu().numpy())


class _OnRows(Surgery):
    """An update from the rows of the Jacobian."""

    def __init__(self, held: Held, size: str) -> None:
        super().__init__()
        self.held, self.size = held, _Size(size, held, self._agreed)

    def combine(self, rows: Tensor, tasks: Sequence[str], preference: Tensor) -> Tensor:
        p = preference.double().cpu().numpy()
        equal = (rows * preference[:, None]).sum(0)
        if self.held.lacks(tasks):
            self.note = INCOMPLETE
            return equal
        places = self.held.places(tasks)
        matrix = (rows * preference[:, None])[places]
        found = self.held.ask(matrix, tasks)
        if not bool(torch.isfinite(found).all()):
            self.note = NOT_FINITE
            return equal
        if not self.held.weighs:
            return found * (self.size.factor(p) or 1.0)
        weights = np.empty(len(places))
        weights[places] = p[places] * found.double().cpu().numpy()
        weights = self.size(weights, p)
        self.last_weights = dict(zip(tasks, weights.tolist(), strict=True))
        return rows.new_tensor(weights) @ rows

    def _agreed(self, part: nn.Module, preference: Array, scale: float) -> float:
        matrix = torch.from_numpy(preference)[:, None].expand(-1, 4) * scale
        found = part(matrix.to(torch.get_default_dtype()))
        return float(found.double().cpu().numpy() @ preference if self.held.weighs else found.double().mean() / scale)


class _OnLosses(Weighting):
    """Weights from the losses: the slopes of a scalarizer."""

    def __init__(self, held: Held, size: str, lr: float | None) -> None:
        super().__init__()
        self.held, self.size, self.lr = held, _Size(size, held, self._agreed), lr
        self._preference: dict[str, float] = {}
        self._pending: tuple[tuple[str, ...], Look] | None = None
        self._notes: dict[str, float] = {}

    def weights(self, losses: Losses) -> Tensor:
        preference = losses.preferences()
        self._preference |= {task: losses.weight.get(task, 1.0) for task in losses.tasks}
        if self.held.lacks(losses.tasks):
            self._note(INCOMPLETE)
            return preference
        places = self.held.places(losses.tasks)
        values = self._values(losses.vector.detach() * preference, places)
        found = _slopes(self.held.apart(values, losses.tasks), values)
        weights = np.empty(len(places))
        p = preference.double().cpu().numpy()
        weights[places] = found.double().cpu().numpy()
        if not np.isfinite(weights).all():
            self._note(NOT_FINITE)
            return preference
        return losses.vector.new_tensor(self.size(p * weights, p))

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        """Ask the object itself, which remembers what it was asked, and move its parameters."""
        tasks = tuple(losses)
        if self.held.lacks(tasks):
            return
        p = torch.tensor([self._preference.get(task, 1.0) for task in tasks], dtype=torch.float64)
        values = self._values(p * torch.tensor(list(losses.values()), dtype=torch.float64), self.held.places(tasks))
        module = self.held.module
        parameters = [x for x in module.parameters() if x.requires_grad]
        with torch.enable_grad():
            answer = self.held.ask(values, tasks)
        gradients = torch.autograd.grad(answer, parameters, allow_unused=True) if parameters else ()
        if all(g is None or bool(torch.isfinite(g).all()) for g in gradients):
            for x, g in zip(parameters, gradients, strict=True):
                if g is not None:
                    x.grad = g if x.grad is None or self.lr is not None else x.grad + g
            if self.lr is not None and parameters:
                self.held.move(parameters, self.lr)
        if look is not None and hasattr(module, "update"):
            self._pending = tasks, look

    def stepped(self) -> None:
        """Let the object see the losses after the step, if it wants to."""
        if self._pending is None:
            return
        (tasks, look), self._pending = self._pending, None
        with torch.no_grad():
            found = look()
            after = torch.stack([found[task].detach().double().cpu() * self._preference[task] for task in tasks])
        if bool(torch.isfinite(after).all()):
            self.held.module.update(self._values(after, self.held.places(tasks)).detach())  # type: ignore[operator]

    def new_epoch(self) -> None:
        self.stepped()
        if callable(step := getattr(self.held.module, "step", None)):
            step()

    def _note(self, word: str) -> None:
        self._notes[f"steps, {word}"] = self._notes.get(f"steps, {word}", 0.0) + 1

    def report(self) -> dict[str | None, dict[str, float]]:
        found, self._notes = self._notes, {}
        return super().report() | ({None: found} if found else {})

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"preference": dict(self._preference), "notes": dict(self._notes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._preference, self._notes, self._pending = dict(state["preference"]), dict(state["notes"]), None

    def _values(self, values: Tensor, places: Sequence[int]) -> Tensor:
        """In the object's order, type and place."""
        like = next(itertools.chain(self.held.module.parameters(), self.held.module.buffers()), values)
        return values[list(places)].to(like.device, like.dtype).requires_grad_()

    def _agreed(self, part: nn.Module, preference: Array, scale: float) -> float:
        values = self._values(torch.from_numpy(preference) * scale, range(len(preference)))
        with torch.enable_grad():
            found = _slopes(part(values), values)
        return float(found.double().cpu().numpy() @ preference)


def _slopes(answer: Tensor, values: Tensor) -> Tensor:
    return torch.autograd.grad(answer, values)[0]


class _Size:
    """One size for all methods: where all tasks agree, the update is the sum of their gradients.

    Args:
        size: one of `SIZES`.
        held: the object.
        agreed: (a fresh copy of the object, preferences, scale) -> sum of the weights of gradients, or losses, that are
            equal but for the preferences.
    """

    def __init__(self, size: str, held: Held, agreed: Callable[..., float]) -> None:
        self.size, self.held, self.agreed = size, held, agreed
        self.known: dict[tuple[float, ...], float | None] = {}

    def factor(self, preference: Array) -> float | None:
        """Constant; None where the weights depend on the gradients' size."""
        if self.size == "own":
            return 1.0
        key = tuple(preference.tolist())
        if key not in self.known:
            one, four = (self.held.try_out(partial(self.agreed, preference=preference, scale=s)) for s in (1.0, 4.0))
            if not one > 1e-12:
                self.known[key] = 1.0
            else:
                self.known[key] = float(preference.sum() / one) if abs(four - one) < 1e-3 * one else None
        return self.known[key]

    def __call__(self, weights: Array, preference: Array) -> Array:
        if (factor := self.factor(preference)) is not None:
            return weights * factor
        total = weights.sum()
        return weights * (preference.sum() / total) if abs(total) > 1e-12 * np.abs(weights).sum() else weights


# -- which object, and how it is asked


def _made(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """An object of torchjd by the name of its class."""
    known = {}
    for place in PLACES:
        module = _module(place)
        for word in module.__all__:
            cls = getattr(module, word)
            if not inspect.isabstract(cls) and issubclass(cls, nn.Module) and word not in ("WeightedAggregator",):
                known[f"{place}.{word}"] = cls
    words = {word.split(".")[-1]: word for word in reversed(known)}  # where there are two, the aggregator
    full = name.removeprefix("torchjd.")
    full = words.get(full, full)
    if full not in known:
        raise ConfigError(f"torchjd has no `{name}`. {hint(name, [*words, *known])}")
    parameters = inspect.signature(known[full]).parameters
    for key in settings:
        if key not in parameters:
            raise ConfigError(f"torchjd's `{name}` has no setting `{key}`. {hint(key, parameters)}")
    given = {
        key: torch.tensor(value, dtype=torch.get_default_dtype())
        if isinstance(value, list | tuple) and "Tensor" in str(parameters[key].annotation)
        else value
        for key, value in settings.items()
    }
    try:
        return known[full](**given)
    except ImportError as error:
        here = ours(full.split(".")[-1])
        raise _Missing(f"{error}" + (f" Or use {here}, which needs nothing further." if here else "")) from error


class _Missing(Fault, ImportError):
    """A package that torchjd asks for is not installed."""

    exit_code = MissingExtra.exit_code


def _module(place: str) -> Any:
    try:
        return importlib.import_module(f"torchjd.{place}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != "torchjd":
            raise
        raise MissingExtra("The balance `torchjd`", "torchjd") from None


def _kind(module: Any) -> tuple[str, nn.Module]:
    """How an object is asked (losses, gramian or rows), and which part of it."""
    aggregation, scalarization = _module("aggregation"), _module("scalarization")
    if isinstance(module, scalarization.Scalarizer):
        return "losses", module
    if isinstance(module, aggregation.Aggregator):
        by_weights = getattr(type(module), "forward", None) is aggregation.WeightedAggregator.forward
        if not by_weights:
            return "rows", module
        if isinstance(module, aggregation.GramianWeightedAggregator):
            return "gramian", module.gramian_weighting
        module = module.weighting
    if isinstance(module, aggregation.Weighting):
        return "gramian" if _reads_gramian(module) else "rows", module
    raise ValueError(
        "`method` should be an Aggregator, a Weighting or a Scalarizer of torchjd, or the name of one. Found "
        f"{module!r}."
    )


def _reads_gramian(weighting: Any) -> bool:
    name = type(weighting).__name__
    if name in SIZE_ONLY + TWO_BATCHES:
        return True
    if hasattr(weighting, "fn"):  # it makes what it reads from the Jacobian itself
        return False
    if hasattr(weighting, "weighting"):
        return _reads_gramian(weighting.weighting)
    from torchjd.aggregation import Weighting as Weights
    from torchjd.linalg import Matrix

    bases = (base for cls in type(weighting).__mro__ for base in getattr(cls, "__orig_bases__", ()))
    return not any(get_origin(base) is Weights and get_args(base)[0] is Matrix for base in bases)
