"""Many small models trained as one: single-task baselines, repeats and seeds, through torch.func."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .balance import Losses
from .data import Taskset
from .evaluate import Result
from .model import Ensemble, Model, Outputs
from .tasks import Task
from .train import Training, make_optimizer

ELEMENTWISE = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad,
               torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)  # fmt: skip
"""Optimisers that move each weight by itself, so that stacked weights move as single ones do."""

Progress = Callable[[int, int], None]


def run_all(trainings: Sequence[Training], progress: Progress | None = None) -> None:
    """Carry every run to its end, as `Training.run` would one by one; those of one shape are trained as one model.

    Runs can be stacked when their models have one architecture (the tasks may differ) and their losses are plain means
    with constant weights; all others are run one by one. Results equal those of single runs up to rounding, except that
    dropout draws other masks.

    Args:
        progress: called with (runs done, runs).
    """
    groups: dict[Hashable, list[Training]] = {}
    for i, training in enumerate(trainings):
        groups.setdefault(signature(training) or ("alone", i), []).append(training)
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, len(trainings))

    for group in groups.values():
        if len(group) == 1:
            group[0].run()
            tell(1)
        else:
            _Stack(group, tell).run()


def signature(training: Training) -> Hashable | None:
    """Equal for runs that can be trained as one; None where a run must go alone."""
    model, settings = training.model, training.settings
    plain = (
        training.balance.constant
        and training.objective.stackable
        and not training.penalties
        and training.folder is None
        and training.sampler.schedule == "joint"
        and len(training.sampler.tasksets) == 1
        and isinstance(training.optimizer, ELEMENTWISE)
        and len(training.optimizer.param_groups) == 1
        and not isinstance(training.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        and settings.accumulate_grad_batches == 1
        and settings.precision != "bf16"
        and not settings.freeze_stopped
        and training.device.type == "cpu"
    )
    base = model.base if isinstance(model, Ensemble) else model
    if not plain or not isinstance(base, Model) or not _always_labelled(training):
        return None
    if base.groups(tuple(training.tasks)) != [b.tasks for b in _blocks(training)]:
        return None
    shapes = tuple((n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.state_dict(keep_vars=True).items())
    layout = tuple((len(b.tasks), b.stacked) for b in _blocks(training))
    group = {k: v for k, v in training.optimizer.param_groups[0].items() if k != "params"}
    scheduler = None if training.scheduler is None else repr(sorted(map(str, training.scheduler.state_dict().items())))
    kinds = repr(base).replace("\n", "")
    plan = tuple(len(d.rows) for d in training.sampler.plan(0))
    return (shapes, kinds, layout, type(training.optimizer), repr(group), scheduler, plan, settings.model_dump_json())


def _rows(training: Training) -> Taskset:
    return next(iter(training.sampler.tasksets.values()))


def _blocks(training: Training) -> Sequence[Any]:
    return _rows(training).blocks


def _always_labelled(training: Training) -> bool:
    """Whether every batch of the whole run has a label of every task: then no task is ever absent."""
    masks = []
    for block in _blocks(training):
        known = block.known if block.weight is None else block.known & (block.weight > 0)
        known = known.flatten(2).any(2) if block.stacked and known.dim() > 2 else known
        masks.append(known if block.stacked else known.flatten(1).any(1).unsqueeze(1) if known.dim() > 1 else known.unsqueeze(1))
    known = torch.cat(masks, 1).numpy()
    if known.all():
        return True
    n, size = len(known), min(training.sampler.batch_size, len(known) % training.sampler.batch_size or len(known))
    if (~known).sum(0).max() < size:
        return True
    starts = np.arange(0, n, training.sampler.batch_size)
    return all(
        np.logical_or.reduceat(known[np.concatenate([d.rows.numpy() for d in training.sampler.plan(epoch)])], starts).all()
        for epoch in range(training.n_epochs)
    )


class _Stack:
    """Runs of one signature as one model: weights (runs, ...), one optimiser, each run with its own rows and its own end."""

    def __init__(self, runs: Sequence[Training], tell: Callable[[int], None]) -> None:
        self.runs, self.tell = list(runs), tell
        self.template: nn.Module = runs[0].model
        self.tasks = [list(r.tasks) for r in runs]
        weights, buffers = stack_module_state([r.model for r in runs])
        self.weights = {n: p.detach().clone().requires_grad_() for n, p in weights.items()}
        self.buffers = dict(buffers)
        self.optimizer = make_optimizer(list(self.weights.values()), runs[0].optim)
        self.optimizer.param_groups[0]["lr"] = runs[0].optimizer.param_groups[0]["lr"]
        self.inputs, self.which = _stacked_inputs([_rows(r) for r in runs])
        self.labels = [_stacked_labels(runs, i) for i in range(len(_blocks(runs[0])))]
        self.preferences = torch.stack([_preferences(r) for r in runs])
        self.names = [[t for b in _blocks(r) for t in b.tasks] for r in runs]
        self.valid, self.valid_which = _stacked_inputs([next(iter(r.valid.values())) for r in runs]) if runs[0].valid else ({}, None)
        self.table = next(iter(runs[0].sampler.tasksets))

    def run(self) -> None:
        """Train until every run has come to its end."""
        for run in self.runs:
            run._tell("on_start")
        active = [r for r in self.runs if not r.finished and r.epoch < r.n_epochs]
        while active:
            self._epoch()
            ended = [r for r in active if r.finished]
            if ended:
                for run in ended:
                    self._finish(run)
                self.tell(len(ended))
                active = [r for r in active if not r.finished]
                if active and len(active) <= 0.75 * len(self.runs):
                    self._keep([i for i, r in enumerate(self.runs) if not r.finished])

    def _epoch(self) -> None:
        lead = next(r for r in self.runs if not r.finished)
        plans = [torch.stack([d.rows for d in step]) for step in zip(*(r.sampler.plan(lead.epoch) for r in self.runs), strict=True)]
        for rows in plans:
            losses = self._step(rows).tolist()
            for run, names, values in zip(self.runs, self.names, losses, strict=True):
                if not run.finished:
                    run.step += 1
                    run.balance.last_weights = dict(zip(names, self.preferences[self.runs.index(run)].tolist(), strict=True))
                    run.note(dict(zip(names, values, strict=True)))
            if lead.settings.max_steps is not None and lead.step >= lead.settings.max_steps:
                break
        found = self._validation()
        for i, run in enumerate(self.runs):
            if not run.finished:
                run.snapshot = lambda i=i: self._slice(i)  # type: ignore[misc]
                run.optimizer.param_groups[0]["lr"] = self.optimizer.param_groups[0]["lr"]
                run.close_epoch(found[i] if found is not None else None)
        self.optimizer.param_groups[0]["lr"] = lead.optimizer.param_groups[0]["lr"]

    def _step(self, rows: Tensor) -> Tensor:
        """One step of all runs; rows (runs, batch) -> losses (runs, tasks)."""
        self.optimizer.zero_grad(set_to_none=True)
        x = {k: v[self.which.unsqueeze(1), rows] for k, v in self.inputs.items()}
        self.template.train()
        outputs = self._forward(x)
        index = torch.arange(len(self.runs)).unsqueeze(1)
        parts = []
        for (_, output, stacked), labels in zip(outputs.groups, self.labels, strict=True):
            parts.append(self._losses(output, stacked, outputs.members, labels, index, rows))
        losses = torch.cat(parts, 1)
        (losses * self.preferences.to(losses.dtype)).sum().backward()
        clip = self.runs[0].settings.gradient_clip_val
        if clip is not None:
            self._clip(clip)
        self.optimizer.step()
        self._step_scheduler()
        return losses.detach()

    def _losses(self, output: Tensor, stacked: bool, members: int, labels: Any, index: Tensor, rows: Tensor) -> Tensor:
        target, known, weight, families = labels
        target, known = target[index, rows], known[index, rows]
        weight = None if weight is None else weight[index, rows]
        if members:
            output = output.movedim(1, 0)  # (members, runs, batch, ...)
        result = output.new_zeros(len(self.runs), target.shape[2] if stacked else 1)
        for task, where in families:
            whole = len(where) == len(self.runs)
            y, m = (target, known) if whole else (target[where], known[where])
            w = weight if weight is None or whole else weight[where]
            o = output if whole else output[:, where] if members else output[where]
            y = y.to(o.dtype) if task.is_floating else y.long()
            summed, count = task.task.summed(o, y, m, w, (0, 2) if stacked else (0,))
            loss = (summed / count).reshape(len(where), -1)
            result = loss if whole else result.index_put((where,), loss)
        return result

    def _forward(self, x: Mapping[str, Tensor]) -> Outputs:
        shape: list[Any] = []

        def one(state: dict[str, Tensor], x: dict[str, Tensor]) -> list[Tensor]:
            outputs = functional_call(self.template, state, (x, None, self.table))
            shape[:] = [[(n, s) for n, _, s in outputs.groups], outputs.members]
            return [o for _, o, _ in outputs.groups]

        stacked = vmap(one, randomness="different")(self.weights | self.buffers, dict(x))
        return Outputs([(n, o, s) for (n, s), o in zip(shape[0], stacked, strict=True)], members=shape[1])

    def _clip(self, most: float) -> None:
        """`torch.nn.utils.clip_grad_norm_`, run by run."""
        gradients = [w.grad for w in self.weights.values() if w.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) if g.dim() > 1 else g.abs() for g in gradients]).norm(dim=0)
        factor = (most / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))

    def _step_scheduler(self) -> None:
        lead = next(r for r in self.runs if not r.finished)
        if lead.schedule_each != "step":
            return
        for run in self.runs:
            if not run.finished and run.scheduler is not None:
                run.optimizer._opt_called = True  # its weights moved here
                run.scheduler.step()
        self.optimizer.param_groups[0]["lr"] = lead.optimizer.param_groups[0]["lr"]

    @torch.no_grad()
    def _validation(self) -> list[dict[str, Result]] | None:
        if self.valid_which is None:
            return None
        self.template.eval()
        outputs = self._forward({k: v[self.valid_which] for k, v in self.valid.items()})
        found: list[dict[str, Result]] = [{} for _ in self.runs]
        for i, run in enumerate(self.runs):
            rows = next(iter(run.valid.values()))
            names = iter(self.names[i])
            for group, output, stacked in outputs.groups:
                for j in range(len(group)):
                    task = next(names)
                    one = output[i].select(-2, j) if stacked else output[i]
                    one = run.tasks[task].ensemble(one) if outputs.members else one
                    target, known, _ = rows.labels(task)
                    found[i][task] = Result(one[: len(rows)], target, known, rows.extra)
        return found

    def _slice(self, i: int) -> dict[str, Tensor]:
        return {n: v.detach()[i].clone() for n, v in (self.weights | self.buffers).items()}

    def _finish(self, run: Training) -> None:
        i = self.runs.index(run)
        run.model.load_state_dict(run.best_state if run.best_state is not None else self._slice(i))
        run.epoch = min(run.epoch, run.n_epochs)
        run._tell("on_end")

    def _keep(self, positions: Sequence[int]) -> None:
        """Go on with these runs alone."""
        index = torch.tensor(positions)
        old = self.weights
        self.weights = {n: w.detach()[index].clone().requires_grad_() for n, w in old.items()}
        self.buffers = {n: b[index] for n, b in self.buffers.items()}
        group = self.optimizer.param_groups[0]
        for name, weight in old.items():
            state = self.optimizer.state.pop(weight, {})
            self.optimizer.state[self.weights[name]] = {
                k: v[index] if isinstance(v, Tensor) and v.shape == weight.shape else v for k, v in state.items()
            }
        group["params"] = list(self.weights.values())
        keep = [self.runs[p] for p in positions]
        self.names = [self.names[p] for p in positions]
        self.preferences = self.preferences[index]
        self.which = self.which[index]
        if self.valid_which is not None:
            self.valid_which = self.valid_which[index]
        self.labels = [
            (t[index], k[index], None if w is None else w[index], _families(keep, b))
            for b, (t, k, w, _) in enumerate(self.labels)
        ]
        self.runs = keep


class _Kind:
    """A task that stands for all of its family, and whether its targets are numbers."""

    def __init__(self, task: Task, is_floating: bool) -> None:
        self.task, self.is_floating = task, is_floating


def _families(runs: Sequence[Training], block: int) -> list[tuple[_Kind, Tensor]]:
    """(a task, the runs whose block has its error function) for one block of every run."""
    groups: dict[Any, tuple[_Kind, list[int]]] = {}
    for i, run in enumerate(runs):
        own = _blocks(run)[block]
        task = run.tasks[own.tasks[0]]
        key = task.family() if task.family() is not None else (type(task), task.loss)
        groups.setdefault(key, (_Kind(task, own.target.is_floating_point()), []))[1].append(i)
    return [(kind, torch.tensor(where)) for kind, where in groups.values()]


def _stacked_labels(runs: Sequence[Training], block: int) -> tuple[Tensor, Tensor, Tensor | None, Any]:
    """(target, known, weight) of one block of every run (runs, rows, ...), padded with unknown rows."""
    own = [_blocks(r)[block] for r in runs]
    n = max(len(b.target) for b in own)
    dtype = torch.float64 if any(b.target.dtype == torch.float64 for b in own) else torch.float32
    floating = [b.target.to(dtype) for b in own]
    weight = None
    if any(b.weight is not None for b in own):
        weight = torch.stack([_padded(torch.ones_like(t) if b.weight is None else b.weight.to(dtype), n) for b, t in zip(own, floating, strict=True)])
    target = torch.stack([_padded(t, n) for t in floating])
    return target, torch.stack([_padded(b.known, n) for b in own]), weight, _families(runs, block)


def _stacked_inputs(rows: Sequence[Taskset]) -> tuple[dict[str, Tensor], Tensor]:
    """({kind: (tables, rows, ...)}, which table each run reads): tables that several runs share are kept once."""
    unique: dict[tuple[int, ...], int] = {}
    which, kept = [], []
    for taskset in rows:
        key = tuple(id(v) for v in taskset.inputs.values())
        if key not in unique:
            unique[key] = len(kept)
            kept.append(taskset)
        which.append(unique[key])
    n = max(map(len, kept))
    inputs = {k: torch.stack([_padded(t.inputs[k], n) for t in kept]) for k in kept[0].inputs}
    return inputs, torch.tensor(which)


def _padded(values: Tensor, n: int) -> Tensor:
    if len(values) == n:
        return values
    return torch.cat([values, values.new_zeros(n - len(values), *values.shape[1:])])


def _preferences(run: Training) -> Tensor:
    names = [t for b in _blocks(run) for t in b.tasks]
    vector = torch.zeros(len(names))
    return run.balance.weights(Losses(names, vector, weight={t: run.tasks[t].weight for t in names}))  # type: ignore[attr-defined]
