"""Trained models with a task more or fewer: the weights that both have in common, carried over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import Named, seed_of
from ..catalog import find, hint
from ..data.assemble import Dataset
from ..faults import ConfigError
from ..model import AnyModel, Ensemble, Model
from ..objectives.metasgd import rate_name, with_rates
from ..sharing import Sharing
from ..spec import ModelSpec, Part, build_model
from ..tasks import Task

Layouts = Mapping[str, Any]


def single(spec: ModelSpec) -> ModelSpec:
    """The same architecture with one member."""
    return spec.model_copy(update={"members": 1})


def members_of(model: AnyModel, spec: ModelSpec, layouts: Layouts) -> list[Model]:
    """Copies of a model's members, each a model of its own, in evaluation mode.

    Args:
        spec: the model's.
        layouts: table -> what its inputs look like.
    """
    base = model if isinstance(model, Model) else model.base
    states: list[Mapping[str, Tensor]]
    if isinstance(model, Ensemble):
        stacked = model.state()
        states = [{n: v[m] for n, v in stacked.items()} for m in range(model.n_members)]
    else:
        states = [model.state_dict()]
    found = []
    for state in states:
        one = build_model(single(spec), layouts, list(model.tasks.values()))
        assert isinstance(one, Model)
        if any(v.dtype == torch.float64 for v in state.values()):
            one.double()
        with_rates(one, state)
        one.load_state_dict({n: state[n].detach().clone() for n in one.state_dict()})
        one.arrange(base.places)
        one.eval()
        found.append(one)
    return found


def joined(members: Sequence[Model]) -> AnyModel:
    """One model of these members, in evaluation mode."""
    model: AnyModel = members[0] if len(members) == 1 else Ensemble(members)
    model.eval()
    return model


def labels_of(model: nn.Module) -> dict[str, str]:
    """What each entry of a state dict is called where tasks and tables go by their own names -> its key there."""
    keys = set(model.state_dict())

    def walk(module: nn.Module, label: str, start: str) -> Iterator[tuple[str, str]]:
        for name in (*module._parameters, *module._buffers):
            if f"{start}{name}" in keys:
                yield f"{label}/{name}", f"{start}{name}"
        names = {key: name for name, key in module.keys_of.items()} if isinstance(module, Named) else {}
        for key, child in module.named_children():
            yield from walk(child, f"{label}/{names.get(key, key)}", f"{start}{key}.")

    return dict(walk(model, "", ""))


def carried(old: Model, new: Model) -> frozenset[str]:
    """Give `new` all weights of `old` that it has a place for, learned rates too; the names of those that `old` lacks.

    Raises:
        ConfigError: a place has another shape.
    """
    state, source, of_old = new.state_dict(), old.state_dict(), _translated(old, new)
    fresh = set()
    for label, key in labels_of(new).items():
        if label not in of_old:
            fresh.add(key)
        elif source[of_old[label]].shape != state[key].shape:
            raise ConfigError(
                "A model should have the same weights whatever tasks it has. Found that its sharing scheme gives "
                f"`{label}` the shape {tuple(state[key].shape)} instead of {tuple(source[of_old[label]].shape)}; train "
                "all tasks anew."
            )
        else:
            state[key] = source[of_old[label]].detach().clone()
    if any(v.dtype == torch.float64 for v in source.values()):
        new.double()
    new.load_state_dict(state)
    rate_of = {key: source.get(rate_name(of_old[label])) for label, key in labels_of(new).items() if label in of_old}
    with_rates(new, {rate_name(key): rate for key, rate in rate_of.items() if rate is not None})
    return frozenset(fresh)


def _translated(old: Model, new: Model) -> dict[str, str]:
    """Label in the new model -> key in the old one; hard sharing's stages are low-rank sharing's trunk."""
    found = labels_of(old)
    below = getattr(new.sharing, "lower", None)
    if type(old.sharing) is type(new.sharing) or below is None or not hasattr(old.sharing, "encoder"):
        return found
    first = len(below.stages)

    def moved(match: re.Match[str]) -> str:
        i = int(match[1])
        return f"/sharing/lower/stages/{i}/" if i < first else f"/sharing/upper/{i - first}/"

    return {re.sub(r"^/sharing/encoder/stages/(\d+)/", moved, label): key for label, key in found.items()}


def grow(
    old: Sequence[Model], spec: ModelSpec, layouts: Layouts, task: Task, seed: int = 0
) -> tuple[list[Model], frozenset[str]]:
    """The members with a task more, and the names of the parameters that only it uses.

    Args:
        old: the members.
        spec: the architecture that they are to have.
        layouts: table -> what its inputs look like.
        task: fitted.
        seed: of what is new.

    Raises:
        ConfigError: the sharing scheme makes what a task gets from all the others.
    """
    if find(Sharing, spec.sharing.name).entangled:  # type: ignore[type-abstract]
        raise ConfigError(
            f"A task should be added to a model whose tasks do not depend on each other. Found `{spec.sharing.name}`, "
            "where a further task changes what all others get; train all tasks anew."
        )
    grown, fresh = [], frozenset[str]()
    for m, one in enumerate(old):
        made = build_model(
            single(spec), layouts, [*one.tasks.values(), task], seed_of(seed, "member", m) if m else seed
        )
        assert isinstance(made, Model)
        state = carried(one, made)
        fresh = frozenset(n for n, _ in made.named_parameters() if n in state)
        _start_alike(made, task.name)
        made.arrange([*(one.places or one.groups(tuple(one.tasks))), (task.name,)])
        made.eval()
        grown.append(made)
    return grown, fresh


@torch.no_grad()
def _start_alike(model: Model, task: str) -> None:
    """Copies of the trunk that a new task gets for itself start at the mean of the others'."""
    from ..copies import Copies

    for copies in model.sharing.modules():
        if not isinstance(copies, Copies) or not copies.alike or task not in copies:
            continue
        others = [copies.places(name) for name in copies if name != task]
        for own, *rest in zip(copies.places(task), *others, strict=True):
            values = [module._parameters[key] for _, module, key in rest]
            if values:
                own[1]._parameters[own[2]].copy_(torch.stack(values).mean(0))


def shrink(
    old: Sequence[Model], spec: ModelSpec, layouts: Layouts, names: Sequence[str]
) -> tuple[list[Model], ModelSpec]:
    """The members with these tasks alone, and their architecture; what the tasks give stays the same.

    Args:
        names: the tasks that stay, in any order.

    Raises:
        ConfigError: none stays, one is unknown, or one depends on a task that goes.
    """
    tasks = old[0].tasks
    for name in names:
        if name not in tasks:
            raise ConfigError(f"The model has no task `{name}`. {hint(name, tasks)}")
    if not names:
        raise ConfigError("A model should have a task. Found none that stays; remove fewer.")
    stay = [t for t in tasks if t in names]
    needed = dict.fromkeys((*old[0].needed(stay), *(other for t in stay for other in old[0].sharing.after(t))))
    if missing := [t for t in needed if t not in names]:
        raise ConfigError(
            f"Tasks that others are made from should stay. Found that `{missing[0]}` would go, which others see; keep "
            "it, or remove those too."
        )
    if find(Sharing, spec.sharing.name).entangled:  # type: ignore[type-abstract]
        raise ConfigError(
            f"A task should be taken from a model whose tasks do not depend on each other. Found "
            f"`{spec.sharing.name}`, where others are made from its weights; ask for fewer tasks when predicting."
        )
    settings = without(spec.sharing.settings, set(tasks) - set(names))
    spec = spec.model_copy(update={"sharing": Part.of({"name": spec.sharing.name} | settings)})
    found = []
    for one in old:
        made = build_model(single(spec), layouts, [t for t in tasks.values() if t.name in names])
        assert isinstance(made, Model)
        if new := carried(one, made):
            raise ConfigError(f"A smaller model should need no new weights. Found `{min(new)}`; train the tasks anew.")
        places = one.places or one.groups(tuple(tasks))
        kept = [tuple(t if t in names else None for t in own) for own in places]
        made.arrange([own for own in kept if any(own)])
        made.eval()
        found.append(made)
    return found, spec


def without(value: Any, gone: set[str]) -> Any:
    """A setting without some tasks, as keys and in lists."""
    if isinstance(value, Mapping):
        return {k: without(v, gone) for k, v in value.items() if k not in gone}
    if isinstance(value, list | tuple):
        return [without(v, gone) for v in value if not (isinstance(v, str) and v in gone)]
    return value


def with_task(dataset: Dataset, task: Task, source: str) -> Dataset:
    """The same dataset with a task more, which every table of this source is taken to be about.

    Args:
        task: fitted.
        source: the tables whose columns the task is predicted from.
    """
    tables = [t for t, s in dataset.preprocess.sources.items() if s == source]
    targets = {t: (*own, task.name) if t in tables else own for t, own in dataset.targets.items()}
    return replace(dataset, tasks=(*dataset.tasks, task), targets=targets)


def with_only(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The same dataset with these tasks alone."""
    targets = {t: tuple(n for n in own if n in names) for t, own in dataset.targets.items()}
    unlabelled = tuple(n for n in dataset.unlabelled if n in names)
    return replace(
        dataset, tasks=tuple(t for t in dataset.tasks if t.name in names), targets=targets, unlabelled=unlabelled
    )
