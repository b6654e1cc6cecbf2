"""An object of torchjd: asked in one order of tasks, with random numbers of its own, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..blocks import seed_of
from ..catalog import index
from . import Balance

OTHER_NAMES = {
    "constant": "fixed",
    "geometricmean": "gls",
    "mean": "equal",
    "random": "rlw",
    "sum": "equal",
    "uw": "uncertainty",
}
"""Objects of torchjd that this library has under another name."""


class Held:
    """An object, and what it takes to ask it.

    Args:
        module: the object.
        part: of it, what is asked.
        tasks: the order of rows.
        seed: of its random numbers.
    """

    def __init__(self, module: nn.Module, part: nn.Module, tasks: Sequence[str] | None, seed: int) -> None:
        from torchjd import Stateful
        from torchjd.aggregation import Weighting as Weights

        self.module, self.part, self.seed = module, part, seed
        self.name = type(module).__name__
        self.tasks = None if tasks is None else tuple(tasks)
        if tasks is None and _goes_by_place(module):
            raise ValueError(
                f"`{self.name}` should come with `tasks`, the names in the order of its rows: it treats them "
                "differently. Found none."
            )
        self.weighs = isinstance(part, Weights)
        self.stateful: tuple[type, ...] = (Stateful,)
        self.remembers = any(isinstance(m, Stateful) for m in module.modules())
        self.calls = 0
        self.known: list[str] | None = None
        """The tasks that its memory is of."""
        self.whole: set[str] | None = None
        """The tasks that it should be asked about in this step."""
        self.columns: int | None = None
        self.adam: torch.optim.Optimizer | None = None
        self.given = {key: (value, _tried(value, module)) for key, value in _attributes(module)}

    def admit(self, present: Sequence[str], lost: Sequence[str]) -> None:
        """Refuse a step whose tasks are not those of the memory, unless the others' losses were not finite."""
        self.whole = {*present, *lost} if self.known is None else set(self.known)
        there = {*present, *(set(lost) & self.whole)}
        if self.tasks is not None and (strange := there - set(self.tasks)):
            raise ValueError(f"`tasks` should name every task. Found `{min(strange)}`, which it does not.")
        if self.remembers and there != self.whole:
            raise ValueError(
                f"`{self.name}` tells tasks by their places, so each step should have the tasks "
                f"{_listed(self.whole)}. Found {_listed(there)}; take batches in which every task has a label, or "
                f"{ours(self.name) or 'a balance of this library'}, whose memory goes by name."
            )

    def lacks(self, tasks: Sequence[str]) -> bool:
        """Whether a task is left out that its memory has a place for."""
        return self.remembers and self.whole is not None and set(tasks) != self.whole

    def places(self, tasks: Sequence[str]) -> list[int]:
        """Where the tasks of its rows stand."""
        order = sorted(tasks) if self.tasks is None else [task for task in self.tasks if task in tasks]
        return [list(tasks).index(task) for task in order]

    def ask(self, values: Tensor, tasks: Sequence[str]) -> Tensor:
        """Its answer, which it may remember."""
        if self.remembers:
            self.known = sorted(tasks) if self.known is None else self.known
            self.columns = values.shape[-1] if self.columns is None else self.columns
            if values.shape[-1] != self.columns:
                raise ValueError(
                    f"`{self.name}` remembers {self.columns} columns. Found {values.shape[-1]}: the tasks of this step "
                    "share other parameters."
                )
        answer = self._asked(self.part, values, tasks)
        self.calls += 1
        return answer

    def apart(self, values: Tensor, tasks: Sequence[str]) -> Tensor:
        """Its answer, which it does not remember."""
        with torch.enable_grad():
            return self._asked(_bare(self.part), values, tasks)

    def try_out(self, ask: Callable[[nn.Module], float]) -> float:
        """The answer of a copy that remembers nothing."""
        copy = _bare(self.part)
        for module in copy.modules():
            if isinstance(module, self.stateful):
                module.reset()  # type: ignore[operator]
        with _draws(0, None):
            return ask(copy)

    def _asked(self, part: nn.Module, values: Tensor, tasks: Sequence[str]) -> Tensor:
        with _draws(seed_of(self.seed, "torchjd", self.calls), values.device):
            try:
                return part(values)
            except (ValueError, RuntimeError, ArithmeticError, TypeError) as error:
                raise ValueError(f"torchjd's `{self.name}` refused the tasks {_listed(tasks)}: {error}") from error

    def move(self, parameters: list[nn.Parameter], lr: float) -> None:
        """A step of Adam along the parameters' gradients, which are then forgotten."""
        if self.adam is None:
            self.adam = torch.optim.Adam(parameters, lr=lr)
        self.adam.step()
        self.adam.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What has changed since it was handed over."""
        changed = []
        for key, value in _attributes(self.module):
            old, was = self.given.get(key, (None, _NOT))
            now = _tried(value, self.module)
            if now is _NOT:
                if value is not old:
                    raise ValueError(
                        f"What `{self.name}` keeps in `{key[1]}` should be numbers or tensors. Found "
                        f"{type(value).__name__}: it cannot be saved and taken up again"
                        + (f"; use {ours(self.name)}." if ours(self.name) else ".")
                    )
            elif was is _NOT or not _same(now, was):
                changed.append([*key, now])
        adam = None if self.adam is None else _plain(self.adam, self.module)
        own = {"calls": self.calls, "known": self.known, "columns": self.columns}
        return own | {"memory": changed, "adam": adam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.calls, self.known, self.columns = state["calls"], state["known"], state["columns"]
        self.whole = None
        self.adam = None if state["adam"] is None else _back(state["adam"], self.module)
        new = {key: was for key, (_, was) in self.given.items() if was is not _NOT}
        for path, name, value in [*([*key, was] for key, was in new.items()), *state["memory"]]:
            owner, found = self.module.get_submodule(path), _back(value, self.module)
            if name in owner._parameters:
                with torch.no_grad():
                    owner.get_parameter(name).copy_(found)
            else:
                setattr(owner, name, found)


def _listed(tasks: Iterable[str]) -> str:
    return ", ".join(f"`{task}`" for task in sorted(tasks))


def ours(name: str) -> str:
    """The balance of this library that stands in for an object of torchjd; "" where there is none."""
    word = name.lower().removesuffix("weighting")
    word = OTHER_NAMES.get(word, word)
    return f"`balance: {word}`" if word in index(Balance) else ""


def _bare(part: nn.Module) -> nn.Module:
    """A copy, without the hooks that would tell their owner of it."""
    copy = deepcopy(part)
    for module in copy.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copy


@contextmanager
def _draws(seed: int, device: torch.device | None) -> Iterator[None]:
    """Random numbers of its own inside, and the others untouched."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


def _goes_by_place(module: nn.Module) -> bool:
    """Whether it treats its rows differently: a vector with entries that differ, or a first row that leads."""
    if any(type(m).__name__ == "PCDWeighting" for m in module.modules()):
        return True
    vectors = (v for _, v in _attributes(module) if isinstance(v, Tensor) and v.dim() == 1 and len(v))
    return any(bool((v != v[0]).any()) for v in vectors)


# -- what it keeps, as plain values

_NOT = object()
_INTERNAL = frozenset(vars(nn.Module()))


def _attributes(module: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    """((path of the module, name), value) of everything that it and its parts hold."""
    for path, part in module.named_modules():
        own = {name: value for name, value in vars(part).items() if name not in _INTERNAL}
        for name, value in {**own, **part._parameters, **part._buffers}.items():
            yield (path, name), value


def _tried(value: Any, module: nn.Module) -> Any:
    try:
        return _plain(value, module)
    except TypeError:
        return _NOT


def _plain(value: Any, module: nn.Module) -> Any:
    """A copy in tensors, numbers, words, lists and dicts alone, which can be saved and loaded without running code."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": value.detach().cpu().clone(), "device": str(value.device)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(v, module) for v in value]}
    if type(value) is dict:
        return {"dict": [[_plain(k, module), _plain(v, module)] for k, v in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"on": str(value)}
    if isinstance(value, torch.optim.Optimizer):
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        of = [names[id(parameter)] for group in value.param_groups for parameter in group["params"]]
        return {"optimizer": type(value).__name__, "of": of, "state": _plain(value.state_dict(), module)}
    raise TypeError(type(value).__name__)


def _back(value: Any, module: nn.Module) -> Any:
    """The value that `_plain` made this of."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return value["tensor"].clone().to(value["device"])
    if "array" in value:
        return value["array"].numpy().copy()
    if "dict" in value:
        return {_back(k, module): _back(v, module) for k, v in value["dict"]}
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "on" in value:
        return torch.device(value["on"])
    if "optimizer" in value:
        found = getattr(torch.optim, value["optimizer"])([module.get_parameter(name) for name in value["of"]])
        found.load_state_dict(_back(value["state"], module))
        return found
    (kind, entries), *_ = value.items()
    return {"list": list, "tuple": tuple}[kind](_back(v, module) for v in entries)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other
