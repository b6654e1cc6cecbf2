"""Penalties, tied to the weights of a model that they act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy

import torch
from torch import Tensor
from torch.func import vmap

from .blocks import Named
from .catalog import word
from .copies import Copies, leaves
from .faults import ConfigError
from .model import Model
from .penalties import Penalty


def corresponding(model: Model, on: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Weights that correspond to each other, place by place: the tasks, and a name per task (one name, where shared).

    Args:
        on: one of `penalties.PLACES`.
    """
    own: set[str] = set()
    for path, module in model.sharing.named_modules(prefix="sharing"):
        if not isinstance(module, Named) or not set(module) <= set(model.tasks):
            continue
        own |= {f"{path}.{name}" for name, _, _ in leaves(module)}  # gates and the like are not shared either
        if isinstance(module, Copies) and module.trunk:
            of_task = [
                [f"{path}.{key}.{name}" for name, _, _ in leaves(module[t])] for t, key in module.keys_of.items()
            ]
            places = list(zip(*of_task, strict=True))
            if on in ("copies", "all"):
                yield from ((tuple(module), place) for place in places)
    weights = dict(model.named_parameters())
    if on in ("shared", "all"):
        yield from (((), (n,)) for n in weights if n.startswith("sharing.") and n not in own)
    if on in ("heads", "all"):
        alike: dict[tuple[str, torch.Size], dict[str, str]] = {}
        for task, key in model.heads.keys_of.items():
            for name, _, _ in leaves(model.heads[task]):
                alike.setdefault((name, weights[f"heads.{key}.{name}"].shape), {})[task] = f"heads.{key}.{name}"
        yield from ((tuple(place), tuple(place.values())) for place in alike.values())


class Penalised:
    """The penalties of a run (or of several runs side by side), each with the weights it acts on.

    Weights are handed over by the model's names; those of several runs have a first dimension of runs.

    Args:
        model: its weights as they are now are the start that deviations are counted from.
        penalties: those of the run; the sharing scheme's own come first.

    Raises:
        ConfigError: a penalty of the run finds nothing to act on.
    """

    def __init__(self, model: Model, penalties: Iterable[Penalty] = ()) -> None:
        penalties = list(penalties)
        self.penalties = [*model.sharing.penalties, *penalties]
        self.runs = False
        weights = dict(model.named_parameters())
        self.places: list[tuple[Penalty, tuple[str, ...]]] = [
            (penalty.among(tasks, tuple(model.tasks)), names)
            for penalty in self.penalties
            if penalty.strength and "features" not in penalty.places
            for tasks, names in corresponding(model, penalty.on)
            if penalty.biases or weights[names[0]].dim() > 1
        ]
        self.start = {
            i: torch.stack([weights[n].detach() for n in names])
            for i, (penalty, names) in enumerate(self.places)
            if penalty.of == "start"
        }
        for penalty in penalties:
            bound = {names for p, names in self.places if type(p) is type(penalty) and p.on == penalty.on}
            if penalty.strength and "features" not in penalty.places and not bound:
                raise ConfigError(
                    f"The penalty `{word(type(penalty))}` should have weights to act on. This model has none where "
                    f"`on: {penalty.on}` looks; try {', '.join(p for p in penalty.places if p != penalty.on)}."
                )
        self.on_features = [p for p in self.penalties if "features" in p.places and p.strength]

    @classmethod
    def beside(cls, parts: Sequence[Penalised]) -> Penalised:
        """The penalties of runs of one signature, as one."""
        one = copy(parts[0])
        one.runs = True
        one.start = {i: torch.stack([p.start[i] for p in parts]) for i in one.start}
        return one

    @property
    def in_loss(self) -> set[str]:
        """The weights that a penalty in the loss reaches, whichever tasks are there."""
        return {n for penalty, names in self.places if penalty.step == "loss" for n in names}

    def __bool__(self) -> bool:
        return bool(self.places or self.on_features)

    def __repr__(self) -> str:
        return repr(self.penalties)

    def loss(self, weights: Mapping[str, Tensor]) -> Tensor | None:
        """What penalties with `step="loss"` add to the loss: a scalar, or one per run (runs,)."""
        found = [
            self._each(penalty.loss, self._stacked(weights, names), i)
            for i, (penalty, names) in enumerate(self.places)
            if penalty.step == "loss"
        ]
        return torch.stack(found).sum(0) if found else None

    def loss_of_features(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
        """What penalties on features add to the loss of one run; pairs of (shared, private) features.

        Raises:
            ConfigError: the sharing scheme has no private features beside shared ones.
        """
        if not self.on_features:
            return None
        if not pairs:
            raise ConfigError(
                f"The penalty `{word(type(self.on_features[0]))}` needs shared features with private ones beside them. "
                "The sharing scheme has none as it is set; use cgc or ple with own experts, or sluice with two "
                "subspaces or more, or remove the penalty."
            )
        each = [torch.stack([p.loss(torch.stack(pair)) for pair in pairs]).mean() for p in self.on_features]
        return torch.stack(each).sum()

    @torch.no_grad()
    def prox(self, weights: Mapping[str, Tensor], lr: float) -> None:
        """Take every proximal step, in place; `lr` is the learning rate of the step that was just taken."""
        for i, (penalty, names) in enumerate(self.places):
            if penalty.step != "prox":
                continue

            def shrunk(w: Tensor, start: Tensor | None, penalty: Penalty = penalty) -> Tensor:
                return penalty.shrunk(w, lr, start)

            new = self._each(shrunk, self._stacked(weights, names), i)
            for name, value in zip(names, new.unbind(int(self.runs)), strict=True):
                weights[name].copy_(value)

    @torch.no_grad()
    def new_epoch(self, weights: Mapping[str, Tensor]) -> None:
        """Renew where deviations are counted from, where a penalty does so."""
        for i in self.start:
            penalty, names = self.places[i]
            self.start[i] = self._each(penalty.new_epoch, self._stacked(weights, names), i)

    def _stacked(self, weights: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        return torch.stack([weights[n] for n in names], int(self.runs))

    def _each(self, function: Callable[..., Tensor], w: Tensor, i: int) -> Tensor:
        """A function of (weights, start), run by run."""
        start = self.start.get(i)
        if not self.runs:
            return function(w, start)
        return vmap(function, in_dims=(0, None if start is None else 0))(w, start)

    def keep(self, index: Tensor) -> None:
        """Go on with these runs alone."""
        self.start = {i: start[index] for i, start in self.start.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Where deviations are counted from."""
        return {str(i): start for i, start in self.start.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        self.start = {int(i): start for i, start in state.items()}
