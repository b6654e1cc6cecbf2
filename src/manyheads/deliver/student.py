"""The one model that learns from labels and from what the chosen candidates say of the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..build import make_training
from ..data import Block, Taskset
from ..data.sampler import Sampler
from ..members import Members
from ..spec import Part, RunSpec, settled
from ..tasks import Task
from ..train import Training
from .candidates import Source
from .parts import Rows, take
from .spaces import label, taught

Targets = Mapping[str, Mapping[str, Tensor]]
"""Task -> table -> natural outputs of its teacher (rows, units), NaN where it says nothing."""


Trust = Mapping[str, float]
"""Task -> lambda."""


class Further(NamedTuple):
    """Rows without labels, and what the teachers say of them."""

    rows: Mapping[str, Taskset]
    targets: Targets


NONE = Further({}, {})


def student(
    source: Source, spec: RunSpec, targets: Targets, within: Rows, trust: Trust, seed: int, further: Further = NONE
) -> Training | Members:
    r"""A run of all tasks that minimises, per task, a mean over rows of

    .. math:: (1 - \lambda) \, m_i \, \mathrm{error}(o_i, y_i) + \lambda \, u_i \, \mathrm{error}(o_i, t_i)

    with :math:`m_i` the weight of the label (0 where it is missing), :math:`t_i` what the teacher says of row i, a mean
    or probabilities, and :math:`u_i` 1 in rows with a label. Rows without one of the tables that label the task are
    taught as well, and so are further rows; each kind together weighs at most as much as the rows with labels. Where
    the teacher says nothing, the label has its whole weight. When to stop is told by true labels of rows that the net
    holds out.

    Squared errors, log losses and the Poisson loss are linear in the target up to what no output changes: there the two
    targets of a row are one, their mean. NOTE[DIFF] For absolute and Huber errors the mean of the targets stands in for
    the mean of the errors.

    Args:
        source: the rows.
        spec: the student's architecture and training.
        targets: what the teachers say.
        within: the rows that may be learned from.
        trust: lambda of each task, 0 to 1.
        seed: of the run.
        further: rows that were made up.

    Reference:
        Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015. Clark, Luong, Khandelwal, Manning,
        Le: BAM! Born-again multi-task networks for natural language understanding, 2019.
    """
    train = take(source.rows, within)
    run = make_training(spec, source.layouts, list(source.prepared.tasks), train, {}, seed=seed)
    lessons = {t: lesson(source, t, rows, targets, within[t], trust) for t, rows in train.items()}
    for t, rows in further.rows.items():
        lessons[t] = joined(lessons[t], unlabelled(source, t, rows, further.targets, lessons[t], trust))
    for one in run.runs if isinstance(run, Members) else [run]:
        old = one.sampler
        drawn = {t: torch.cat([index, torch.arange(len(train[t]), len(lessons[t]))]) for t, index in old.within.items()}
        dtype = torch.float64 if one.settings.precision == "64" else torch.float32
        one.sampler = Sampler(
            {t: lessons[t].to(dtype) for t in old.tasksets},
            old.batch_size, mode=old.mode, schedule=old.schedule, temperature=old.temperature,
            weights=spec.sampling.weights, max_epochs=old.max_epochs, seed=old.seed, within=drawn,
            bucket=spec.sampling.bucket, change=old.change,
        )  # fmt: skip
    if isinstance(run, Members):
        run.sampler = run.runs[0].sampler
    return run


def lesson(source: Source, table: str, rows: Taskset, targets: Targets, which: Tensor, trust: Trust) -> Taskset:
    """Rows of a table with labels and teaching mixed.

    Args:
        rows: its rows that are learned from.
        which: their numbers among all rows of the table.
        trust: lambda of each task.
    """
    blocks = []
    for block in rows.blocks:
        parts = [_mixed(source, table, rows, t, targets.get(t, {}).get(table), which, trust) for t in block.tasks]
        if block.stacked:
            target, known, weight = (torch.stack(list(v), 1) for v in zip(*parts, strict=True))
            blocks.append(Block(block.tasks, target, known, weight, True))
        else:
            blocks.append(Block(block.tasks, *parts[0]))
    return Taskset(rows.inputs, tuple(blocks), rows.extra, rows.domain, rows.domains)


def unlabelled(
    source: Source, table: str, rows: Taskset, targets: Targets, taught_rows: Taskset, trust: Trust
) -> Taskset:
    """Rows without labels as lessons.

    Args:
        rows: of the table, in its columns.
        targets: what the teachers say of them.
        taught_rows: the table's lessons with labels; these weigh at most as much.
        trust: lambda of each task.
    """
    blocks = []
    for block in taught_rows.blocks:
        parts = []
        for name in block.tasks:
            target, known, weight = taught_rows.labels(name)
            said = targets.get(name, {}).get(table)
            heard = torch.zeros(len(rows), dtype=torch.bool) if said is None else of_tables(source, rows, name)
            full = known.new_zeros(len(rows), *known.shape[1:]) | heard.view(-1, *[1] * (known.dim() - 1))
            share = min(1.0, float((known & (weight > 0)).sum()) / max(int(full.sum()), 1))
            values = torch.zeros(len(rows), *target.shape[1:]) if said is None else taught(source.tasks[name], said)
            parts.append((values, full, full * (trust[name] * share)))
        if block.stacked:
            target, known, weight = (torch.stack(list(v), 1) for v in zip(*parts, strict=True))
            blocks.append(Block(block.tasks, target, known, weight, True))
        else:
            blocks.append(Block(block.tasks, *parts[0]))
    return Taskset(rows.inputs, tuple(blocks), rows.extra, rows.domain, rows.domains)


def joined(rows: Taskset, more: Taskset) -> Taskset:
    """The rows of both; columns that are kept by name stay behind."""
    inputs = {k: torch.cat([v, more.inputs[k]]) for k, v in rows.inputs.items()}
    blocks = tuple(
        Block(
            a.tasks, torch.cat([a.target, b.target]), torch.cat([a.known, b.known]), torch.cat([a.weight, b.weight]),
            a.stacked,
        )
        for a, b in zip(rows.blocks, more.blocks, strict=True)
    )  # fmt: skip
    domain = None if rows.domain is None or more.domain is None else torch.cat([rows.domain, more.domain])
    return Taskset(inputs, blocks, {}, domain, rows.domains)


def _mixed(
    source: Source, table: str, rows: Taskset, name: str, said: Tensor | None, which: Tensor, trust: Trust
) -> tuple[Tensor, Tensor, Tensor]:
    """(target, known, weight) of one task."""
    task = source.tasks[name]
    target, known, weight = rows.labels(name)
    y = label(task, target)
    m = known.double() if weight is None else known * weight.double()
    by_row = known if known.dim() == 1 else known.any(1)
    t = torch.full_like(y, torch.nan) if said is None else said[which]
    heard = t.isfinite().all(1) & of_tables(source, rows, name)
    u = _heard(heard, by_row)
    if m.dim() > 1:  # several labels a row, each by itself
        u, heard = u.unsqueeze(1).expand_as(m), heard.unsqueeze(1).expand_as(m)
    labels = torch.where(heard, (1 - trust[name]) * m, m)
    lessons = trust[name] * u
    total = labels + lessons
    wide = (lambda v: v) if m.dim() > 1 else (lambda v: v.unsqueeze(1))
    both = (wide(labels) * y + wide(lessons) * t.nan_to_num(0.0)) / wide(total).clamp(min=1e-12)
    return taught(task, both), total > 0, total.float()


def _heard(heard: Tensor, labelled: Tensor) -> Tensor:
    """u: 1 in rows with a label, less in the others where they are more."""
    own, others = int((heard & labelled).sum()), int((heard & ~labelled).sum())
    share = 1.0 if others <= own else max(own, 1) / others
    return heard.double() * torch.where(labelled, 1.0, share)


def of_tables(source: Source, rows: Taskset, name: str) -> Tensor:
    """Which rows come from a table that labels the task."""
    if rows.domain is None:
        return torch.ones(len(rows), dtype=torch.bool)
    own = [i for i, t in enumerate(rows.domains) if name in source.prepared.dataset.targets.get(t, (name,))]
    return torch.isin(rows.domain, torch.tensor(own, dtype=rows.domain.dtype))


def wider(spec: RunSpec, layouts: Mapping[str, object], factor: float) -> RunSpec:
    """The run with hidden stages so many times as wide, for encoders that have such a width."""
    model = settled(spec.model, layouts)
    if factor == 1 or model.encoder.name.lower() != "tabular":
        return spec.model_copy(update={"model": model})
    own = {"d_hidden": 128} | model.encoder.settings
    own["d_hidden"] = max(round(own["d_hidden"] * factor), 1)
    encoder = Part.of({"name": model.encoder.name} | own)
    return spec.model_copy(update={"model": model.model_copy(update={"encoder": encoder})})


def richer(spec: RunSpec, layouts: Mapping[str, object]) -> RunSpec | None:
    """The run with piecewise-linear embeddings of its numbers, which say steps as trees do, and twice the width.

    Returns:
        None for an encoder that has no such thing, or has it already.

    Reference:
        Gorishniy, Rubachev, Babenko: On embeddings for numerical features in tabular deep learning, 2022.
    """
    encoder = settled(spec.model, layouts).encoder
    if encoder.name.lower() != "tabular" or encoder.settings.get("embedding", "none") != "none":
        return None
    spec = wider(spec, layouts, 2.0)
    own = Part.of({"name": spec.model.encoder.name} | spec.model.encoder.settings | {"embedding": "piecewise"})
    return spec.model_copy(update={"model": spec.model.model_copy(update={"encoder": own})})


def branched(spec: RunSpec, tasks: Mapping[str, Task], apart: Sequence[str]) -> RunSpec:
    """The run in which these tasks have all stages to themselves, inside the same model."""
    groups = [[t for t in tasks if t not in apart], *([t] for t in tasks if t in apart)]
    sharing = Part.of({"name": "tree", "groups": [g for g in groups if g], "from_stage": 0})
    return spec.model_copy(update={"model": spec.model.model_copy(update={"sharing": sharing})})
