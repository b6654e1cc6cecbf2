"""Who gives way when tasks disagree. The contract of a balance: from one loss per task to every `.grad`.

```diff
- (loss_a + loss_b).backward()
+ balance.backward({"a": loss_a, "b": loss_b})
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ..catalog import hint
from ..faults import ConfigError
from ..gradients.gramian import Cut
from ..gradients.graph import Walk
from ..gradients.jacobian import Jacobian
from ..ranges import Range

Look = Callable[..., Mapping[str, Tensor]]
"""Another look at the losses: of the same batch after the step, of another batch, of a validation batch; with `tasks=`,
of these tasks alone."""


class Losses(Mapping[str, Tensor]):
    """One scalar loss for each task that has a label in this step, and what a balance may need beside it.

    A task without a label is absent, never 0. A plain dict of losses is as good; this class only says more.

    Args:
        tasks: names, in the order of `vector`.
        vector: their losses (tasks,).
        weight: the user's preference per task, 1 where unsaid.
        counts: known labels per task in this step.
        aux: auxiliary losses and penalties: minimised as they are, outside the balance.
        cut: task -> pairs (shared activation, the task's own view of it), where the sharing scheme gave them; or the
            product that its head is computed in, of whose outputs its loss reads its own alone.
        rows: per-task gradients of the shared parameters that are already known (a vectorised MAML has them).
        apart: the losses before they were put into `vector`, where each has a graph of its own (or `cut` tells what is
            whose); without them every loss depends on whatever `vector` does, and no parameter is one task's own.
        features: shared activations through which all losses reach the shared parameters, where there is no `cut`.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        vector: Tensor,
        *,
        weight: Mapping[str, float] | None = None,
        counts: Mapping[str, float] | None = None,
        aux: Mapping[str, Tensor] | None = None,
        cut: Cut | None = None,
        rows: Mapping[str, Sequence[Tensor]] | None = None,
        apart: Mapping[str, Tensor] | None = None,
        features: Sequence[Tensor] | None = None,
    ) -> None:
        self.tasks, self.vector = tuple(tasks), vector
        self.weight, self.counts = dict(weight or {}), dict(counts or {})
        self.aux, self.cut, self.rows = dict(aux or {}), cut, rows
        self.apart = dict(apart or {})
        self.features = features

    @classmethod
    def of(cls, losses: Mapping[str, Tensor], weight: Mapping[str, float] | None = None) -> Losses:
        """From any mapping of scalar tensors, with a preference per task if wished."""
        if isinstance(losses, Losses):
            return losses
        for task, loss in losses.items():
            if loss.numel() != 1:
                raise ValueError(f"The loss of `{task}` should be a scalar. Found shape {tuple(loss.shape)}.")
        vector = torch.stack([loss.reshape(()) for loss in losses.values()]) if losses else torch.empty(0)
        apart = {task: loss.reshape(()) for task, loss in losses.items()}
        return cls(tuple(losses), vector, weight=weight, apart=apart)

    def only(self, keep: Sequence[int]) -> Losses:
        """The losses at these positions."""
        index = torch.tensor(keep, dtype=torch.long, device=self.vector.device)
        tasks = [self.tasks[i] for i in keep]
        return Losses(
            tasks,
            self.vector[index],
            weight=self.weight,
            counts=self.counts,
            aux=self.aux,
            cut=None if self.cut is None else {t: self.cut[t] for t in tasks if t in self.cut},
            rows=None if self.rows is None else {t: self.rows[t] for t in tasks},
            apart={t: self.apart[t] for t in tasks if t in self.apart},
            features=self.features,
        )

    def numbers(self) -> Losses:
        """The same without a graph."""
        return Losses(self.tasks, self.vector.detach(), weight=self.weight, counts=self.counts)

    def add(self, extra: Tensor) -> None:
        """A further auxiliary loss, whichever tasks are there."""
        self.aux[""] = self.aux[""] + extra if "" in self.aux else extra

    def preferences(self) -> Tensor:
        """The user's preference of each present task (tasks,)."""
        values = [self.weight.get(task, 1.0) for task in self.tasks]
        return torch.tensor(values, dtype=self.vector.dtype, device=self.vector.device)

    def __getitem__(self, task: str) -> Tensor:
        if task in self.apart:
            return self.apart[task]
        try:
            return self.vector[self.tasks.index(task)]
        except ValueError:
            raise KeyError(task) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class Balance(ABC):
    """From one loss per task to every `.grad`.

    What it remembers is keyed by the task's name (`state`): a task that is missing in a step is as one that was never
    there, and the order of tasks does not matter. A class states what it needs: `cut` asks the sharing scheme for each
    task's view of the shared activations.
    """

    cut: ClassVar[bool] = False
    """Whether it reads `Losses.cut`."""
    constant: ClassVar[bool] = False
    """Whether its weights depend on nothing but the tasks' names and preferences."""
    separable: ClassVar[bool] = False
    """Whether a task's weight asks nothing of the step that it is for (its losses, gradients, which tasks there are),
    so that a step in parts needs no gradients of single tasks."""
    looks: bool = False
    """Whether it learns from a look at the same losses after the step, so that `backward` needs its `look`: one answer
    for a class, but for a balance that holds an object of another library."""
    search: ClassVar[Mapping[str, Range]] = {}
    """What is tuned unless a config says otherwise: setting -> where it is looked for; the default lies within."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {}
        self.dropped: dict[str, int] = {}
        """Per task, in how many steps its loss was not finite and was left out."""
        self._told: dict[str, int] = {}
        self.last_weights: dict[str, float] = {}
        """The weights of the last step, for the History."""
        self.named: dict[str, tuple[str, ...]] = {}
        """From a setting to the tasks that it names."""
        self._heard: set[str] = set()
        self._steps = 0
        self._so_far = _Step()

    @final
    def backward(
        self,
        losses: Mapping[str, Tensor],
        look: Look | None = None,
        last: bool = True,
        scale: float = 1.0,
        features: Tensor | Sequence[Tensor] | None = None,
    ) -> bool:
        """Add to every `.grad`.

        A step may come in parts, whose losses sum to the step's. Its weights are then those of the sums, for which the
        gradients of each task are added up (K times the memory, a backward pass per task) unless the method is
        `separable`.

        Args:
            losses: one scalar per task that has a label in this step.
            look: gives another look at the losses, for the methods that want one.
            last: False while gradients are accumulated and more of the same step is to come.
            scale: the factor of a GradScaler; the update after unscaling is the same for every factor.
            features: activations through which all losses reach what they share, the trunk's output: spares methods
                that look at gradients a pass through the trunk for each task.

        Returns:
            False when the step is to be skipped: nothing to learn from (so far), or nothing finite. State is then
            untouched.
        """
        self.require(look)
        self.stepped()  # of a loop that does not say so
        step, every = self._so_far, Losses.of(losses)
        if len(every) and not every.vector.requires_grad:
            raise ValueError(
                "Losses should come from parameters that learn. Found none with a gradient (all frozen, or made under "
                "`torch.no_grad()`)."
            )
        finite = torch.isfinite(every.vector.detach())
        if not bool(finite.all()):
            for i in (~finite).nonzero().flatten().tolist():
                self.dropped[every.tasks[i]] = self.dropped.get(every.tasks[i], 0) + 1
            if scale != 1.0:
                (every.vector.sum() * scale).backward()  # the scaler is to see it
                step.broken, every = True, Losses.of({})
            elif keep := [every.tasks[i] for i in finite.nonzero().flatten().tolist()]:
                every = self._without(losses, keep, look)
            else:
                every = Losses.of({})
        if len(every):
            if features is not None:
                every.features = [features] if isinstance(features, Tensor) else list(features)
            step.looks += [(look, every.tasks)] if look is not None else []
            if self.separable or (last and step.rows is None):
                step.filled |= self._filled(every, scale, None)
            else:
                step.add(every, scale)
        if not last:
            return step.filled or step.rows is not None
        if step.rows is not None and not step.broken:
            step.filled = self._filled(step.losses, scale, step.rows)
        self._so_far = _Step()
        if step.broken or not step.filled:
            return False
        self._heard |= step.seen.keys()
        self._steps += 1
        self.update(step.seen, _together(step.looks) if self.looks else look)
        return True

    @staticmethod
    def _without(losses: Mapping[str, Tensor], keep: Sequence[str], look: Look | None) -> Losses:
        """These losses alone, in a graph that the others are not part of: on the way back, 0 times infinity is NaN."""
        if not isinstance(losses, Losses):
            return Losses.of({task: losses[task] for task in keep})
        if look is not None:
            return Losses.of(look(tasks=keep))
        return losses.only([losses.tasks.index(task) for task in keep])

    def _filled(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        """Fill, and take note of the losses that were heard."""
        before, counts = self.last_weights if self._so_far.seen else {}, dict(self.dropped)
        kept = (deepcopy(self.state_dict()), self._leaves(losses, rows)) if scale != 1.0 else None
        if not self.fill(losses, scale, rows):
            return False
        if kept is not None and not all(bool(torch.isfinite(x.grad).all()) for x in kept[1] if x.grad is not None):
            self.load_state_dict(kept[0])  # the scaler skips this step
            self._so_far.broken = True
            return False
        self.last_weights = before | self.last_weights
        for task, value in zip(losses.tasks, losses.vector.detach().tolist(), strict=True):
            if self.dropped.get(task, 0) == counts.get(task, 0):
                self._so_far.seen[task] = self._so_far.seen.get(task, 0.0) + value
        return True

    @staticmethod
    def _leaves(losses: Losses, rows: Jacobian | None) -> list[Tensor]:
        if rows is not None:
            return [leaf for row in rows.rows().values() for leaf in row]
        return list(Walk([*losses.values(), *losses.aux.values()]).leaves)

    @final
    def check(self, tasks: Sequence[str]) -> None:
        """Refuse settings that name a task which does not exist.

        A run from a config does this first. In a loop of your own nothing else knows of all tasks: call it once, or see
        in `report` which named task never came.

        Args:
            tasks: all there are.

        Raises:
            ConfigError: a ValueError that names the setting, the task and the nearest one.
        """
        for setting, names in self.named.items():
            for task in names:
                if task not in tasks:
                    raise ConfigError(f"`{setting}` names the task `{task}`, which does not exist. {hint(task, tasks)}")
        self._heard |= set(tasks)

    @abstractmethod
    def fill(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        """Add to every `.grad`, unless nothing is finite (False).

        Args:
            losses: at least one, all finite.
            scale: as in `backward`.
            rows: the gradients of a step that came in parts; `losses` are then numbers without a graph.
        """

    def report(self) -> dict[str | None, dict[str, float]]:
        """What is to be seen of the steps since it was last asked: task (None: all) -> label -> number."""
        new = {task: n - self._told.get(task, 0) for task, n in self.dropped.items()}
        self._told = dict(self.dropped)
        found: dict[str | None, dict[str, float]]
        found = {task: {"steps, not finite": float(n)} for task, n in new.items() if n}
        return found | self._never_there()

    def _never_there(self) -> dict[str | None, dict[str, float]]:
        """Named tasks that `check` does not know of and no step had: in how many steps since it was last asked."""
        steps, self._steps = float(self._steps), 0
        absent = {task for names in self.named.values() for task in names} - self._heard
        return {task: {"steps, never there": steps} for task in sorted(absent)} if steps else {}

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:  # noqa: B027
        """Renew `state` at the end of a step, from the loss of each task that it had (the sum over its parts)."""

    def stepped(self) -> None:  # noqa: B027
        """Take note that the optimiser has moved: a loop says so right after, or the next `backward` does it first."""

    def new_epoch(self) -> None:  # noqa: B027
        """Take note that an epoch has ended."""

    def require(self, look: Look | None) -> None:
        """Refuse to go on without the look that the method learns from (ValueError)."""
        if self.looks and look is None:
            raise ValueError(
                f"`{type(self).__name__}` should be given another look at the losses of the same batch. Found none; "
                "`balance.backward(losses, look=lambda: losses_of(batch))`."
            )

    def state_dict(self) -> dict[str, Any]:
        """All that must be kept to go on exactly: plain values by task name."""
        state = {t: dict(s) for t, s in self.state.items()}
        return {"state": state, "dropped": dict(self.dropped), "told": dict(self._told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.state = {t: dict(s) for t, s in state["state"].items()}
        self.dropped, self._told = dict(state["dropped"]), dict(state.get("told", {}))


@dataclass
class _Step:
    """A step so far, which may come in parts."""

    seen: dict[str, float] = field(default_factory=dict)
    """Task -> its loss, the sum over its parts."""
    looks: list[tuple[Look, tuple[str, ...]]] = field(default_factory=list)
    parts: list[Losses] = field(default_factory=list)
    rows: Jacobian | None = None
    filled: bool = False
    broken: bool = False
    """Whether a GradScaler is to skip it."""

    def add(self, losses: Losses, scale: float) -> None:
        """One part more, whose weights depend on the whole; auxiliary losses have none."""
        if self.rows is None:
            self.rows = Jacobian(scale)
        self.rows.add(dict(losses), losses.cut, losses.features)
        if aux := [value for value in losses.aux.values() if value.requires_grad]:
            torch.autograd.backward(aux, [torch.full_like(value, scale) for value in aux])
        self.parts.append(losses.numbers())

    @property
    def losses(self) -> Losses:
        """The sums over its parts."""
        total: dict[str, Tensor] = {}
        weight: dict[str, float] = {}
        for part in self.parts:
            weight |= part.weight
            for task, value in zip(part.tasks, part.vector, strict=True):
                total[task] = total[task] + value if task in total else value
        return Losses(tuple(total), torch.stack(list(total.values())), weight=weight)


def _together(looks: Sequence[tuple[Look, tuple[str, ...]]]) -> Look:
    """One look at a step that was made in parts: the sum over them of the losses that each had."""

    def look() -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for part, tasks in looks:
            found = part()
            for task in tasks:
                loss = found[task].detach()
                total[task] = total[task] + loss if task in total else loss
        return total

    return look


class Weighting(Balance):
    """A balance that only weights the losses: one backward pass of sum_k w_k L_k."""

    own_preference: ClassVar[str] = ""
    """Why a preference is not a factor of its task's weight; "" where it is."""

    @abstractmethod
    def weights(self, losses: Losses) -> Tensor:
        """One weight per present task (tasks,), without a gradient; preferences included."""

    @final
    def weigh(self, losses: Losses, look: Look | None = None) -> Tensor:
        """The weights of a step, and the state renewed: for a loop that sums the losses itself."""
        self.require(look)
        self.stepped()
        weights = self.weights(losses)
        self.last_weights = dict(zip(losses.tasks, weights.tolist(), strict=True))
        self.update(dict(zip(losses.tasks, losses.vector.detach().tolist(), strict=True)), look)
        return weights

    @final
    def fill(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        weights = self.weights(losses)
        self.last_weights = dict(zip(losses.tasks, weights.tolist(), strict=True))
        if rows is not None:
            rows.backward(self.last_weights, everywhere=True)
            return True
        total = losses.vector @ weights
        if losses.aux:
            total = total + torch.stack(list(losses.aux.values())).sum()
        (total * scale if scale != 1.0 else total).backward()
        return True


def __getattr__(name: str) -> Any:
    """The answers of this folder by their class name: ``balance.Equal``."""
    from ..catalog import find, index

    if name.lower() in index(Balance):
        cls = find(Balance, name)  # type: ignore[type-abstract]
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
