"""One look at a joint run: losses, each task's gradient, and losses at weights that are a little further on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..blocks import labelled_modules
from ..copies import batchable
from ..data import Batch
from ..gradients.gramian import Gradients
from ..model import Outputs
from ..objectives import Supervised, at_full_width, matching, present
from ..sharing import Trace
from ..tasks import Task

MOST_NUMBERS = 2**25
"""Weights of several models that are run side by side at most: more would not fit a processor's cache anyway."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside (no dropout, no running statistics); modes and random numbers are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def losses_of(
    model: nn.Module, tasks: Mapping[str, Task], batch: Batch, weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The mean error of each task over its known labels in a batch, as `objectives.Supervised` has it.

    It asks for the value of no tensor that the weights reach, so that `vmap` can map it over weights.

    Args:
        weights: other values for some parameters, by name.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for table, part in batch.items():
        blocks = present(part)
        wanted = [t for b in blocks for t in b.tasks]
        if not wanted:
            continue
        arguments = (part.inputs, wanted, table) if hasattr(model, "tasks") else (part.inputs,)
        outputs = model(*arguments) if weights is None else functional_call(model, dict(weights), arguments)
        if not isinstance(outputs, Outputs):
            outputs = Outputs([((t,), outputs[t], False) for t in wanted])
        for names, output, stacked in outputs.groups:
            block = matching(blocks, names, stacked)
            output, target = at_full_width(output, block.target)
            found = tasks[names[0]].summed(output, target, block.known, block.weight, (1,) if stacked else ())
            for into, values in zip((sums, counts), found, strict=True):
                for name, value in zip(names, values.reshape(-1).unbind(), strict=True):
                    into[name] = into[name] + value if name in into else value
    return {name: sums[name] / counts[name] for name in sums}


class Probe:
    """One look at a model on one batch; what several estimators ask for is computed once.

    The model is looked at in evaluation mode: without dropout the same weights give the same losses. Tasks without a
    label in the batch are left out. To be used inside `untouched`.

    Args:
        model: a joint model, or any module that maps inputs to {task: output}.
        tasks: fitted tasks.
        batch: rows and labels.
        rates: parameter -> current learning rate; one number for all of them.
    """

    def __init__(
        self, model: nn.Module, tasks: Mapping[str, Task], batch: Batch, rates: Mapping[Tensor, float] | float = 1.0
    ) -> None:
        self.model, self.known, self.batch = model, tasks, batch
        self._rates = rates
        self._names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
        trace = Trace(cut=True, noting=False, pairing=False)
        found = Supervised(list(tasks.values()))(model, batch, trace)
        self.losses = dict(zip(found.tasks, found.vector.detach().double().tolist(), strict=True))
        """Task -> its loss."""
        self.gradients: dict[str, dict[str, Tensor]] = {t: {} for t in self.losses}
        """Task -> parameter by name -> its gradient, for the parameters that two tasks or more reach."""
        if not found.tasks or not found.vector.requires_grad:
            return
        rows = Gradients(dict(found), found.cut, found.features).rows()
        count: dict[Tensor, int] = {}
        for row in rows.values():
            for leaf in row:
                count[leaf] = count.get(leaf, 0) + 1
        self.gradients |= {
            task: {
                self._names[leaf]: g.detach().to_dense() if g.is_sparse else g.detach()
                for leaf, g in row.items()
                if count[leaf] > 1 and leaf in self._names
            }
            for task, row in rows.items()
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those with a label in the batch."""
        return tuple(self.losses)

    @cached_property
    def shared(self) -> dict[str, nn.Parameter]:
        """The parameters that two tasks or more reach, by name, in the model's order."""
        reached = {name for own in self.gradients.values() for name in own}
        return {n: p for n, p in self.model.named_parameters() if n in reached}

    def rate(self, parameter: Tensor) -> float:
        """The learning rate of a parameter."""
        return self._rates.get(parameter, 0.0) if isinstance(self._rates, Mapping) else self._rates

    @cached_property
    def places(self) -> dict[str, str]:
        """Shared parameter -> the part it belongs to: the stage of an encoder, or else the module that holds it."""
        found: dict[str, str] = {}
        ids = {id(p): n for n, p in self.shared.items()}
        for path, module in labelled_modules(self.model):
            for own in module.parameters(recurse=False):
                if id(own) in ids:
                    found[ids[id(own)]] = part_of(path)
        return {name: found.get(name, "") for name in self.shared}

    def after(self, moves: Callable[[str], Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
        """Source -> target -> the target's loss where shared weights are moved as the source wants, heads fixed.

        All sources are computed side by side where torch can; one after the other elsewhere.

        Args:
            moves: source -> shared parameter by name -> what is added to it; those it does not name stay.
        """
        sources = [t for t in self.tasks if self.gradients[t]]
        each = sum(p.numel() for p in self.shared.values())
        size = max(MOST_NUMBERS // max(each, 1), 1) if batchable(self.model) else 1
        found: dict[str, dict[str, float]] = {}
        with torch.no_grad():
            for start in range(0, len(sources), size):
                some = sources[start : start + size]
                found |= self._side_by_side(some, moves) if len(some) > 1 else self._in_turn(some, moves)
        return found

    def _side_by_side(
        self, sources: Sequence[str], moves: Callable[[str], Mapping[str, Tensor]]
    ) -> dict[str, dict[str, float]]:
        own = [moves(source) for source in sources]
        weights = {
            name: torch.stack([p + m[name] if name in m else p.detach() for m in own])
            for name, p in self.shared.items()
        }

        def one(weights: dict[str, Tensor]) -> Any:
            losses = losses_of(self.model, self.known, self.batch, weights)
            return torch.stack([losses[t] for t in self.tasks])

        try:
            values = vmap(one, randomness="same")(weights).double().tolist()
        except RuntimeError:  # an operation that torch cannot run for several sets of weights at once
            return self._in_turn(sources, moves)
        return {s: dict(zip(self.tasks, row, strict=True)) for s, row in zip(sources, values, strict=True)}

    def _in_turn(
        self, sources: Sequence[str], moves: Callable[[str], Mapping[str, Tensor]]
    ) -> dict[str, dict[str, float]]:
        found = {}
        for source in sources:
            weights = {name: self.shared[name] + move for name, move in moves(source).items()}
            losses = losses_of(self.model, self.known, self.batch, weights)
            found[source] = {t: float(losses[t]) for t in self.tasks}
        return found


def part_of(path: str) -> str:
    """The part of a model that a module belongs to, from its path: as far as a stage, where there is one.

    Example:
        >>> part_of("/sharing/encoder/stages/1/linear")
        'encoder, stage 1'
        >>> part_of("/sharing/gate")
        'gate'
    """
    words = [w for w in path.split("/") if w]
    words = words[1:] if words[:1] == ["sharing"] else words
    if "stages" in words[:-1]:
        at = words.index("stages")
        return ", ".join([*words[:at], f"stage {words[at + 1]}"])
    return ", ".join(words)
