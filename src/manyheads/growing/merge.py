"""Several trained models of one architecture and one start into one: trunks are merged, heads are kept."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..blocks import seed_of
from ..data import Taskset
from ..data.assemble import Dataset
from ..faults import ConfigError
from ..model import AnyModel, Model
from ..spec import ModelSpec, build_model
from ..tasks import Task
from .grown import joined, labels_of, members_of, single

NEAR = 0.5
"""Models whose trunks have a smaller cosine than this did not come of one start."""


class Merging(ABC):
    """How task vectors, what each model has learned since the common start, become one.

    theta = theta_0 + merged(tau_1, ..., tau_K), with tau_k = theta_k - theta_0 over all weights of the trunk.
    """

    needs_start = True
    """Whether the result depends on where the models began."""

    @abstractmethod
    def __call__(self, deltas: Tensor) -> Tensor:
        """The merged task vector.

        Shape:
            deltas (models, weights) float64 -> (weights,).
        """


class Average(Merging):
    """The mean of the models' weights: theta = 1/K sum_k theta_k.

    Reference:
        Wortsman et al.: Model soups: averaging weights of multiple fine-tuned models, 2022.
    """

    needs_start = False

    def __call__(self, deltas: Tensor) -> Tensor:
        return deltas.mean(0)


class Arithmetic(Merging):
    """The sum of the task vectors: theta = theta_0 + scale sum_k tau_k.

    Args:
        scale: 0 is the start, 1 / K the average.

    Reference:
        Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi, Farhadi: Editing models with task arithmetic, 2023.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, deltas: Tensor) -> Tensor:
        return self.scale * deltas.sum(0)


class Ties(Merging):
    """Of each task vector the largest entries; per weight the sign with more mass, and the mean of those that agree.

    The share that stays is counted over the whole trunk, so that a layer which moved little loses more of its entries.

    Args:
        scale: factor of the merged vector.
        density: share of each vector's entries that stays, above 0.

    Raises:
        ValueError: a density outside (0, 1].

    Reference:
        Yadav, Tam, Choshen, Raffel, Bansal: TIES-merging: resolving interference when merging models, 2023.
    """

    def __init__(self, *, scale: float = 1.0, density: float = 0.2) -> None:
        self.scale, self.density = scale, _share(density)

    def __call__(self, deltas: Tensor) -> Tensor:
        n = max(round(self.density * deltas.shape[1]), 1)
        kept = torch.zeros_like(deltas)
        index = deltas.abs().topk(n, dim=1).indices
        kept.scatter_(1, index, deltas.gather(1, index))
        agree = (kept.sign() == kept.sum(0).sign()) & (kept != 0)
        return self.scale * (kept * agree).sum(0) / agree.sum(0).clamp(min=1)


class Dare(Merging):
    """The sum of the task vectors, of each of which random entries are dropped and the others made larger by as much.

    Args:
        scale: factor of the merged vector.
        density: share of each vector's entries that stays, above 0; these are divided by it.
        seed: of what is dropped; it depends on the vector itself, too, and not on its place.

    Raises:
        ValueError: a density outside (0, 1].

    Reference:
        Yu, Yu, Yu, Huang, Li: Language models are super Mario: absorbing abilities from homologous models as a free
        lunch, 2024.
    """

    def __init__(self, *, scale: float = 1.0, density: float = 0.2, seed: int = 0) -> None:
        self.scale, self.density, self.seed = scale, _share(density), seed

    def __call__(self, deltas: Tensor) -> Tensor:
        total = torch.zeros_like(deltas[0])
        for delta in deltas:
            own = hashlib.sha256(delta.numpy().tobytes()).hexdigest()
            random = torch.Generator().manual_seed(seed_of(self.seed, own) % 2**62)
            stays = torch.rand(len(delta), generator=random, dtype=torch.float64) < self.density
            total += delta * stays / self.density
        return self.scale * total


def _share(density: float) -> float:
    if not 0 < density <= 1:
        raise ValueError(f"`density` should be above 0 and at most 1. Found {density}.")
    return density


@dataclass
class Source:
    """A trained model that is to be merged with others.

    Attributes:
        name: for messages.
        model, spec, dataset: as `modelfile.load` gives them.
    """

    name: str
    model: AnyModel
    spec: ModelSpec
    dataset: Dataset

    def members(self) -> list[Model]:
        """Its members, each a model of its own."""
        return members_of(self.model, self.spec, self.dataset.preprocess.layouts)


def merge(
    sources: Sequence[Source], how: Merging, start: Source | None = None, train: Mapping[str, Taskset] | None = None
) -> tuple[AnyModel, ModelSpec, Dataset]:
    """One model with the tasks of all.

    The trunk's floating weights that all models have are merged; what belongs to one task alone stays as it is in the
    model that has the task. A task that several models have must be fitted alike; where their heads differ, they are
    averaged. Running statistics are never merged: they are measured anew on training rows.

    Args:
        sources: one model at least.
        how: what becomes of the task vectors.
        start: the model that they all began as.
        train: rows to measure running statistics on, for trunks that have such.

    Raises:
        ConfigError: another architecture, other columns, another start; no start where one is needed, or no rows.
    """
    first = sources[0]
    for other in [*sources[1:], *([] if start is None else [start])]:
        _same(first, other)
    if how.needs_start and start is None:
        raise ConfigError(
            "Task vectors should be counted from the model that all began as. Found none; name it (--base), or use "
            "`average`."
        )
    apart = [(a.name, b.name, near) for a, b, near in nearness(sources, start) if near < NEAR]
    if apart:
        a, b, near = apart[0]
        raise ConfigError(
            f"Models to merge should come of one start. Found a cosine of {near:.2f} between the trunks of `{a}` and "
            f"`{b}`: their units are not in the same places. Fine-tune copies of one model instead."
        )
    tasks: dict[str, Task] = {}
    for source in sources:
        for name, task in source.model.tasks.items():
            if _plain(tasks.setdefault(name, task)) != _plain(task):
                raise ConfigError(
                    f"A task that several models have should be fitted alike. Found that `{name}` is not in "
                    f"`{source.name}`; rename it, or remove it from one of them."
                )
    layouts = first.dataset.preprocess.layouts
    members = [source.members() for source in sources]
    begun = None if start is None else start.members()
    merged = []
    for m in range(len(members[0])):
        made = build_model(single(first.spec), layouts, list(tasks.values()))
        assert isinstance(made, Model)
        _in_order(made, sources, [own[m] for own in members])
        _fill(made, [own[m] for own in members], how, None if begun is None else begun[m])
        if renewed := _with_statistics(made):
            if train is None:
                raise ConfigError(
                    "Running statistics should be measured anew on training rows. Found none; merge folders of runs "
                    "whose tables are there."
                )
            renew(made, renewed, train)
        made.eval()
        merged.append(made)
    targets = {
        t: tuple(dict.fromkeys(n for s in sources for n in s.dataset.targets.get(t, ()))) for t in first.dataset.targets
    }
    unlabelled = tuple(dict.fromkeys(n for s in sources for n in s.dataset.unlabelled))
    dataset = replace(first.dataset, tasks=tuple(tasks.values()), targets=targets, unlabelled=unlabelled)
    return joined(merged), first.spec, dataset


def _same(a: Source, b: Source) -> None:
    """See that two models can be merged.

    Raises:
        ConfigError: they cannot.
    """
    if a.spec != b.spec:
        raise ConfigError(
            f"Models to merge should have one architecture. Found another in `{b.name}` than in `{a.name}`."
        )
    if a.dataset.preprocess.to_json() != b.dataset.preprocess.to_json():
        raise ConfigError(
            f"Models to merge should read the same columns in the same way. Found that `{b.name}` does not read as "
            f"`{a.name}` does; fine-tune copies of one model."
        )


def _in_order(made: Model, sources: Sequence[Source], models: Sequence[Model]) -> None:
    """See that each task's features are made from those of the tasks that it learned to read.

    Raises:
        ConfigError: in the merged model other tasks would stand before it.
    """
    for source, own in zip(sources, models, strict=True):
        for task in own.tasks:
            if (now := made.sharing.after(task)) != (was := own.sharing.after(task)):
                raise ConfigError(
                    f"A task should read what it learned to read. Found that `{task}` of `{source.name}` stands after "
                    f"{', '.join(was) or 'nothing'}, and would stand after {', '.join(now) or 'nothing'}; remove what "
                    "comes between, or train the tasks together."
                )


def _plain(task: Task) -> dict[str, object]:
    """What a head depends on; a decision threshold does not count."""
    return {k: v for k, v in task.to_json().items() if k not in ("threshold", "weight", "metrics")}


def trunk_of(model: Model) -> dict[str, Tensor]:
    """The floating weights of the trunk by label; no running statistics, no counters."""
    weights = dict(model.named_parameters())
    return {
        label: weights[key].detach()
        for label, key in labels_of(model).items()
        if label.startswith("/sharing/") and key in weights and weights[key].is_floating_point()
    }


def fingerprint(members: Sequence[Model]) -> str:
    """A hash of the trunk's weights: equal for models of one start before they were trained on."""
    digest = hashlib.sha256()
    for member in members:
        for label, weight in sorted(trunk_of(member).items()):
            digest.update(label.encode() + weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def nearness(sources: Sequence[Source], start: Source | None = None) -> list[tuple[Source, Source, float]]:
    """The cosine of each model's trunk with the start's (or the first model's)."""
    lead = sources[0] if start is None else start
    reference = [trunk_of(m) for m in lead.members()]
    found = []
    for source in sources:
        if source is lead:
            continue
        own = [trunk_of(m) for m in source.members()]
        pairs = [(a[k].double(), b[k].double()) for a, b in zip(reference, own, strict=True) for k in a if k in b]
        dot = float(sum((x * y).sum() for x, y in pairs))
        size = float(sum(x.square().sum() for x, _ in pairs) * sum(y.square().sum() for _, y in pairs)) ** 0.5
        found.append((lead, source, dot / size if size else 1.0))
    return found


@torch.no_grad()
def _fill(made: Model, models: Sequence[Model], how: Merging, start: Model | None) -> None:
    """Give a model its weights: the merged trunk, and all else from the models that have it."""
    keys, state = labels_of(made), made.state_dict()
    states = [{label: own.state_dict()[key] for label, key in labels_of(own).items()} for own in models]
    if any(v.dtype == torch.float64 for v in states[0].values()):
        made.double()
        state = made.state_dict()
    weights = dict(made.named_parameters())
    shared = [
        label
        for label, key in keys.items()
        if label.startswith("/sharing/") and key in weights and all(label in own for own in states)
    ]
    for label, key in keys.items():
        own = [s[label] for s in states if label in s]
        alike = key not in weights or all(torch.equal(own[0], other) for other in own[1:])
        state[key] = own[0].clone() if alike else torch.stack([o.double() for o in own]).mean(0).to(own[0].dtype)
    if shared:
        base_of = states[0] if start is None else {k: start.state_dict()[v] for k, v in labels_of(start).items()}
        base = torch.cat([base_of[label].double().flatten() for label in shared])
        vectors = torch.stack([torch.cat([s[label].double().flatten() for label in shared]) - base for s in states])
        merged = base + how(vectors)
        parts = merged.split([state[keys[label]].numel() for label in shared])
        for label, part in zip(shared, parts, strict=True):
            state[keys[label]] = part.reshape(state[keys[label]].shape).to(state[keys[label]].dtype)
    made.load_state_dict(state)


def _with_statistics(model: Model) -> list[nn.Module]:
    return [m for m in model.modules() if getattr(m, "track_running_stats", False)]


@torch.no_grad()
def renew(model: Model, modules: Sequence[nn.Module], train: Mapping[str, Taskset], rows: int = 256) -> None:
    """Give layers the running statistics of some rows, their mean over batches.

    Args:
        model: left in evaluation mode.
        modules: its layers that keep any.
        train: source -> rows.
        rows: of a batch.
    """
    model.eval()
    for module in modules:
        module.reset_running_stats()  # type: ignore[operator]
        module.momentum = None  # type: ignore[assignment]  # a mean over all batches
        module.train()
    for source, part in train.items():
        for start in range(0, len(part), rows):
            index = torch.arange(start, min(start + rows, len(part)))
            if len(index) > 1:
                model(part.batch(index).inputs, part.tasks or None, source)
    model.eval()
