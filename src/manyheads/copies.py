"""Copies of one module side by side, run as one batched computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from .blocks import Named

Place = tuple[str, nn.Module, str]
"""A parameter: its name, the module that holds it, its name there."""


def leaves(module: nn.Module) -> Iterator[Place]:
    """(name, the module that holds it, its name there) of every parameter, as it is now.

    Inside `functional_call` a module holds the tensors that it was called with, which `named_parameters` gives too.
    """
    for path, inner in module.named_modules():
        for name, value in inner._parameters.items():
            if value is not None:
                yield (f"{path}.{name}" if path else name), inner, name


def side_by_side(
    module: nn.Module, weights: Mapping[str, Tensor], x: Any, own_input: bool, places: Sequence[Place] | None = None
) -> Any:
    """One module with n sets of weights, in one batched computation.

    A module with an attribute ``several`` computes with (n, ...) weights as they are; any other goes through `vmap`.

    Args:
        weights: by the module's own names, each (n, ...).
        x: what the module reads; where each set of weights has an input of its own, with a first dimension n.
        own_input: whether it has.
        places: the module's `leaves`, where they are known: the walk costs more than a small step.

    Returns:
        What the module gives, every tensor with a first dimension n.
    """
    if isinstance(module, nn.Sequential):
        for name, stage in module.named_children():
            own = {n.removeprefix(f"{name}."): w for n, w in weights.items() if n.startswith(f"{name}.")}
            if own or own_input:
                x, own_input = side_by_side(stage, own, x, own_input), True
            else:
                x = stage(x)
        return x if own_input else stack([x] * len(next(iter(weights.values()))))
    places = list(leaves(module)) if places is None else places

    def one(weights: dict[str, Tensor], x: Any) -> Any:
        before = [holder._parameters[key] for _, holder, key in places]
        try:  # as `functional_call` does, without its walks
            for name, holder, key in places:
                holder._parameters[key] = weights.get(name, holder._parameters[key])  # type: ignore[assignment]
            return module(x)
        finally:
            for (_, holder, key), value in zip(places, before, strict=True):
                holder._parameters[key] = value

    if getattr(module, "several", False) and isinstance(x, Tensor):  # it takes them as they are, which is faster
        return one(dict(weights), x if own_input else x.expand(len(next(iter(weights.values()))), *x.shape))
    return vmap(one, in_dims=(0, 0 if own_input else None), randomness="different")(dict(weights), x)


def batchable(module: nn.Module) -> bool:
    """Whether torch can run a module for several sets of weights at once: no recurrent nets, no running statistics, and
    nothing that says it should be run `one_by_one`."""
    refusing = ("track_running_stats", "one_by_one")
    return not any(
        isinstance(m, nn.RNNBase | nn.RNNCellBase) or any(getattr(m, name, False) for name in refusing)
        for m in module.modules()
    )


class Copies(Named):
    """Copies of one module under names (tasks, experts), each with parameters of its own, run as one.

    Every parameter is a leaf of one copy alone, stacked when it is used: what one task owns is never a slice of a
    tensor that an optimiser moves as a whole.

    Args:
        modules: name -> a copy; all of one architecture.
        alike: they start from the same weights (`blocks.initialise`).
        trunk: they are stages of a net, which tasks may have in common; gates and the like are not.
    """

    def __init__(self, modules: Mapping[str, nn.Module], alike: bool = True, trunk: bool = True) -> None:
        super().__init__(modules, alike)
        self.trunk = trunk
        self.batchable = all(batchable(m) for m in modules.values())
        self.learns = any(True for m in modules.values() for _ in m.parameters())
        """Whether they have parameters at all."""
        self._leaves: dict[str, list[Place]] = {}

    def weights(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The copies' parameters side by side: name within a copy -> (copies, ...)."""
        own = [self.places(name) for name in (self if names is None else names)]
        return {
            same[0][0]: torch.stack([module._parameters[key] for _, module, key in same])
            for same in zip(*own, strict=True)
        }

    def places(self, name: str) -> list[Place]:
        """The parameters of one copy, in the order that all copies have."""
        if name not in self._leaves:
            self._leaves[name] = list(leaves(self[name]))
        return self._leaves[name]

    def forward(self, x: Any, names: Sequence[str] | None = None, own_input: bool = False) -> Any:
        """These copies (all of them by default) of what they read.

        Args:
            x: one input for all copies; with `own_input` one for each, tensors having a first dimension of copies.

        Returns:
            What a copy gives, every tensor with a first dimension of copies.
        """
        names = tuple(self) if names is None else tuple(names)
        weights = self.weights(names) if self.batchable else {}
        if weights and len(names) > 1:
            return side_by_side(self[names[0]], weights, x, own_input, self.places(names[0]))
        return stack([self[n](part(x, i) if own_input else x) for i, n in enumerate(names)])


def stack(values: Sequence[Any]) -> Any:
    """Tensors (or tuples or dicts of tensors) of one shape, as one with a new first dimension."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(list(values))
    if isinstance(first, Mapping):
        return {k: stack([v[k] for v in values]) for k in first}
    return tuple(stack([v[i] for v in values]) for i in range(len(first)))


def unstack(value: Any) -> list[Any]:
    """All entries of what `stack` gave (on the way back one stack, where single `part`s are as many sums)."""
    if isinstance(value, Tensor):
        return list(value.unbind(0))
    if isinstance(value, Mapping):
        return [dict(zip(value, parts, strict=True)) for parts in zip(*map(unstack, value.values()), strict=True)]
    return list(zip(*map(unstack, value), strict=True))


def part(value: Any, i: int) -> Any:
    """The i-th entry of what `stack` gave."""
    if isinstance(value, Tensor):
        return value[i]
    if isinstance(value, Mapping):
        return {k: part(v, i) for k, v in value.items()}
    return tuple(part(v, i) for v in value)
