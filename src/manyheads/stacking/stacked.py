"""Many small models trained as one: single-task baselines, repeats and seeds, through torch.func."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..balance.aggregation import Aggregation
from ..blocks import fitting_threads
from ..evaluate import Result
from ..model import Model, linear_heads
from ..optim import make_optimizer
from ..penalised import Penalised
from ..sharing import Trace
from ..train import Training
from . import beside
from .alike import signature
from .directions import Directions, Measured, Step, Weighted
from .gradients import Glance, Views

Progress = Callable[[int, int], None]
Noted = dict[str, Any]
"""By task: auxiliary losses, or what a scheme wants to be seen."""


def run_all(trainings: Sequence[Training], progress: Progress | None = None) -> None:
    """Carry every run to its end, as `Training.run` would one by one; those of one shape are trained as one model.

    Runs can be stacked when their models have one architecture (the tasks may differ), their losses are plain means and
    their balance weights them, or reads the Gramian of their gradients; all others are run one by one. Results equal
    those of single runs up to rounding, except that dropout draws other masks.

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
            Stack(group).run(tell)


def _model(training: Training) -> Model:
    assert isinstance(training.model, Model)  # `signature` is None for any other
    return training.model


class Stack:
    """Runs of one signature as one model: weights (runs, ...), one optimiser, each run with its own rows and end.

    The heads of a family are one tensor (runs, tasks, ...). Weights that only tasks without a label in a step reach are
    left as they were, as in a single run; only the step count of Adam's bias correction goes on for them. A run with a
    loss that is not finite skips the step (a single run would drop that task alone).

    Args:
        runs: trainings that have one `signature`.
    """

    def __init__(self, runs: Sequence[Training]) -> None:
        self.every = self.runs = list(runs)
        self.template = _model(runs[0])
        weights, buffers = stack_module_state([r.model for r in runs])
        self.heads = beside.heads_of(self.template)
        self.weights = beside.grouped({n: p.detach() for n, p in weights.items()}, self.heads)
        self.buffers = dict(buffers)
        self.optimizer = self._optimizer()
        self.inputs, self.which = beside.stacked_inputs([beside.rows_of(r) for r in runs])
        self.labels = [beside.Labels(runs, i) for i in range(len(beside.blocks_of(runs[0])))]
        self.penalties = Penalised.beside([r.penalties for r in runs if r.penalties is not None])
        for run in runs:
            run.stacked = True
        self.names = [[t for b in beside.blocks_of(r) for t in b.tasks] for r in runs]
        self.table = next(iter(runs[0].sampler.tasksets))
        self.columns = {
            t: i for i, t in enumerate(t for g in self.template.groups(tuple(self.template.tasks)) for t in g)
        }
        self.reached = beside.reached_by(self.template, self.columns, beside.rows_of(runs[0]), self.table)
        self.directions = self._directions()
        self.valid: dict[str, Tensor] = {}
        self.valid_which: Tensor | None = None
        if runs[0].valid:
            self.valid, self.valid_which = beside.stacked_inputs([next(iter(r.valid.values())) for r in runs])

    def _optimizer(self) -> torch.optim.Optimizer:
        lead = self.runs[0]
        optimizer = make_optimizer(beside.in_groups(self.template, self.heads, lead, self.weights), lead.optim)
        beside.follow(optimizer, lead.optimizer)
        return optimizer

    def _directions(self) -> Directions:
        if not isinstance(self.runs[0].balance, Aggregation):
            return Weighted(self.runs, self.names)
        x = {k: v[:2] for k, v in beside.rows_of(self.runs[0]).inputs.items()}
        return Measured(
            self.runs, self.names, self.template, self.columns, lambda: self.weights, self.heads, x, self.table
        )

    @property
    def active(self) -> list[Training]:
        """The runs that have not come to their end."""
        return [r for r in self.runs if not r.finished]

    def run(self, tell: Callable[[int], None] | None = None) -> None:
        """Train until every run has come to its end.

        Args:
            tell: called with how many runs have ended since the last call.
        """
        for run in self.runs:
            run.finished = run.finished or run.epoch >= run.n_epochs
            run.tell("on_start")
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.runs[0].rng)  # dropout as its seed says, whatever ran before
            while self.active:
                ended = self.epoch()
                if tell is not None and ended:
                    tell(ended)

    def epoch(self) -> int:
        """One epoch of every run that goes on; returns how many came to their end."""
        with fitting_threads(sum(w.numel() for w in self.weights.values()), self.runs[0].sampler.batch_size):
            return self._epoch()

    def _epoch(self) -> int:
        before = self.active
        for rows in self._plan():
            self._one_step(rows)
            if before[0].settings.max_steps is not None and before[0].step >= before[0].settings.max_steps:
                break
        if self.penalties.start:
            self.penalties.new_epoch(self._by_name())
        found = self._validation()
        for i, run in enumerate(self.runs):
            if not run.finished:
                run.snapshot = lambda i=i: self._slice(i)  # type: ignore[misc]
                run.close_epoch(found[i] if found is not None else None)
        beside.follow(self.optimizer, before[0].optimizer)
        still = self.active
        for i, run in enumerate(self.runs):
            if run.finished and run in before:
                self._finish(i)
        if still and len(still) <= 0.9 * len(self.runs):
            self._keep([i for i, r in enumerate(self.runs) if not r.finished])
        return len(before) - len(still)

    def _plan(self) -> list[Tensor]:
        """Rows (runs, batch) of each step of the epoch, -1 where a run has none; runs that have ended go along."""
        epoch = self.active[0].epoch
        plans = [[draw.rows for draw in run.sampler.plan(epoch)] for run in self.runs]
        return [
            nn.utils.rnn.pad_sequence(list(step), batch_first=True, padding_value=-1)
            for step in zip_longest(*plans, fillvalue=torch.empty(0, dtype=torch.long))
        ]

    def _one_step(self, rows: Tensor) -> None:
        if any(run.interrupted for run in self.runs):
            raise KeyboardInterrupt
        losses, present, counted = (found.tolist() for found in self._step(rows))
        stepped = (rows >= 0).any(1).tolist()
        for i, run in enumerate(self.runs):
            if not run.finished and stepped[i]:
                run.step += 1
                found = {n: v for n, v, known in zip(self.names[i], losses[i], present[i], strict=True) if known}
                broken = [n for n, v in found.items() if not math.isfinite(v)]
                for task in broken:
                    run.balance.dropped[task] = run.balance.dropped.get(task, 0) + 1
                run.skipped(bool(found) and not any(counted[i]))
                run.note({n: v for n, v in found.items() if n not in broken})

    def _step(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of all runs; rows (runs, batch) -> losses, which there are, and which were heard (runs, tasks)."""
        self.optimizer.zero_grad(set_to_none=True)
        there = rows >= 0
        rows = rows.clamp(min=0)
        x = {k: v[self.which.unsqueeze(1), rows] for k, v in self.inputs.items()}
        self.template.train()
        drawn = torch.get_rng_state()
        roots, aux, views = self._forward(x)
        anew = self.directions.anew
        outputs = [(root.detach().requires_grad_(), stacked) for root, stacked in roots] if anew else roots
        losses, present = self._losses(outputs, rows, there)
        finite = (torch.isfinite(losses.detach()) | ~present).all(1, keepdim=True)

        @cache
        def look() -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(drawn)  # the same dropout
                return self._losses(self._forward(x)[0], rows, there)[0]

        counted = self.directions.backward(
            Step(
                losses,
                present & finite,  # a run with a loss that is not finite skips the step
                outputs,
                [root for root, _ in roots],
                views,
                partial(self._beside_losses, aux),
                look,
            )
        )
        clip = self.runs[0].settings.gradient_clip_val
        if clip is not None:
            beside.clipped([w.grad for w in self.weights.values() if w.grad is not None], clip)
        if bool(counted.all()):
            self._move()
        else:
            self._careful_step(counted)
        self.directions.stepped()
        self._step_scheduler()
        return losses.detach(), present, counted

    def _losses(self, outputs: Sequence[tuple[Tensor, bool]], rows: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """(losses, which of them there are), each (runs, tasks)."""
        index = torch.arange(len(self.runs)).unsqueeze(1)
        parts = [
            beside.losses_of(output, stacked, labels.take(index, rows, there, stacked))
            for (output, stacked), labels in zip(outputs, self.labels, strict=True)
        ]
        return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)

    def _beside_losses(self, aux: Mapping[str, Tensor], counted: Tensor) -> Tensor:
        """Auxiliary losses of the tasks that are there, and penalties, of all runs that take the step."""
        total, alive = counted.new_zeros((), dtype=torch.float32), counted.any(1)
        for task, values in aux.items():
            total = total + torch.where(counted[:, self.columns[task]] if task else alive, values, 0.0).sum()
        if (penalties := self.penalties.loss(self._by_name()) if self.penalties else None) is not None:
            total = total + torch.where(alive, penalties, 0.0).sum()
        return total

    def _move(self) -> None:
        self.optimizer.step()
        if self.penalties:
            self.penalties.prox(self._by_name(), self.optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def _careful_step(self, present: Tensor) -> None:
        """A step that leaves alone what only absent tasks reach, and the runs that have no task at all.

        Proximal steps move absent tasks as well, as they do in a single run.
        """
        idle, always = ~present.any(1), self.penalties.in_loss
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for name, weight in self.weights.items():
            group = self.heads.get(name)
            if always & set(group.names if group is not None else [name]):
                mask = idle
            elif group is None:
                mask = ~present[:, self.reached[name]].any(1)
            elif len(group.names) == 1:  # others may see this one
                mask = ~present[:, self.reached[group.names[0]]].any(1, keepdim=True)
            else:
                mask = ~present[:, group.columns]
            if not bool(mask.any()):
                continue
            for tensor in (weight, *self.optimizer.state.get(weight, {}).values()):
                if isinstance(tensor, Tensor) and tensor.shape == weight.shape:
                    kept.append((tensor, mask.view(*mask.shape, *[1] * (weight.dim() - mask.dim())), tensor.clone()))
        self.optimizer.step()
        for tensor, mask, old in kept:
            tensor.copy_(torch.where(mask, old, tensor))
        if self.penalties:
            before = {n: w.clone() for n, w in self.weights.items()} if bool(idle.any()) else {}
            self.penalties.prox(self._by_name(), self.optimizer.param_groups[0]["lr"])
            for name, old in before.items():
                self.weights[name][idle] = old[idle]

    def _forward(
        self, x: Mapping[str, Tensor], noting: bool = False
    ) -> tuple[list[tuple[Tensor, bool]], Noted, Views | None]:
        """(output, stacked) of each family: (runs, batch, tasks, units), or (runs, batch, units) where not stacked.

        Linear heads are applied outside `vmap`, all of a family in one product.

        Args:
            noting: tell what the scheme wants to be seen, instead of its auxiliary losses.
        """
        base = self.template
        tasks = tuple(base.tasks)
        groups = base.groups(tasks)
        linear = [base.linear(group) for group in groups]
        ungrouped = self._ungrouped([g for g, yes in zip(groups, linear, strict=True) if not yes]) | self.buffers
        inside = {n: w for n, w in ungrouped.items() if not n.startswith("heads.")}
        heads = {n: w for n, w in ungrouped.items() if n.startswith("heads.")}

        pairing = bool(self.penalties.on_features) and not noting
        cut = self.directions.cut and not noting
        places: list[tuple[int, int]] = []

        def one(state: dict[str, Tensor], heads: dict[str, Tensor], x: dict[str, Tensor]) -> tuple[Any, Noted, Any]:
            sharing = {n.removeprefix("sharing."): w for n, w in state.items()}
            # what is made inside `vmap` may leave it as a result only
            trace = (Glance if cut else Trace)(cut, noting, pairing)
            features = functional_call(base.sharing, sharing, (x, tasks, self.table, trace))
            results = base.inside(groups, tasks, features, partial(apart, heads), trace)
            if noting:
                return results, trace.use, []
            of_features = self.penalties.loss_of_features(trace.pairs)
            if of_features is not None:
                trace.add(of_features)
            views = Views.of(trace.cut or {}, self.columns)
            places.extend(views.places)
            return results, trace.aux, views.tensors

        def apart(heads: dict[str, Tensor], task: str, z: Any) -> Tensor:
            key = f"heads.{base.heads.keys_of[task]}."
            own = {n.removeprefix(key): w for n, w in heads.items() if n.startswith(key)}
            return functional_call(base.heads[task], own, (z,))

        results, noted, views = vmap(one, randomness="different")(inside, heads, dict(x))
        outputs: list[tuple[Tensor, bool]] = []
        for group, yes, read in zip(groups, linear, results, strict=True):
            if yes:
                weight, bias = (self.weights[beside.leaf_name(group, n)] for n in ("weight", "bias"))
                outputs.append((linear_heads(weight, bias, read), True))
            else:
                outputs.append((torch.stack(read, -2), True) if len(group) > 1 else (read[0], False))
        return outputs, noted, Views(views, places) if cut else None

    def _step_scheduler(self) -> None:
        active = self.active
        if active[0].schedule_each != "step":
            return
        for run in active:
            if run.scheduler is not None:
                run.optimizer._opt_called = True  # type: ignore[attr-defined]  # the stack's optimiser moved its weights
                run.scheduler.step()
        beside.follow(self.optimizer, active[0].optimizer)

    @torch.no_grad()
    def _validation(self) -> list[dict[str, Result]] | None:
        if self.valid_which is None:
            return None
        self.template.eval()
        outputs, use, _ = self._forward({k: v[self.valid_which] for k, v in self.valid.items()}, noting=True)
        groups = self.template.groups(tuple(self.template.tasks))
        found: list[dict[str, Result]] = [{} for _ in self.runs]
        for i, run in enumerate(self.runs):
            rows = next(iter(run.valid.values()))
            names = iter(self.names[i])
            for task, own in use.items():
                name = self.names[i][self.columns[task]]
                run.use[name] = {
                    label: float(v[i][: len(rows)].mean() if v.dim() > 1 else v[i]) for label, v in own.items()
                }
            for (output, stacked), group in zip(outputs, groups, strict=True):
                for j in range(len(group)):
                    task = next(names)
                    one = output[i].select(-2, j) if stacked else output[i]
                    target, known, _ = rows.labels(task)
                    found[i][task] = Result(one[: len(rows)], target, known, rows.extra)
        return found

    def _ungrouped(self, groups: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Stacked weights by the model's own names, with the heads of these families alone."""
        found = {n: w for n, w in self.weights.items() if n not in self.heads}
        for name, group in self.heads.items():
            if any(group.lead == tasks[0] for tasks in groups):
                found |= dict(zip(group.names, self.weights[name].unbind(1), strict=True))
        return found

    def _slice(self, i: int) -> dict[str, Tensor]:
        every = self._by_name() | self.buffers
        return {n: every[n].detach()[i].clone() for n in self.template.state_dict()}

    def _by_name(self) -> dict[str, Tensor]:
        """All stacked weights by the model's own names: leaves, or views of leaves."""
        return self._ungrouped(self.template.groups(tuple(self.template.tasks)))

    def _finish(self, i: int) -> None:
        run = self.runs[i]
        if run.best_state is None:
            run.best_state = self._slice(i)
        run.close()

    def _keep(self, positions: Sequence[int]) -> None:
        """Go on with these runs alone."""
        index = torch.tensor(positions)
        old_weights, old_state = self.weights, self.optimizer.state
        self.runs = [self.runs[p] for p in positions]
        self.names = [self.names[p] for p in positions]
        self.weights = {n: w.detach()[index].clone().requires_grad_() for n, w in old_weights.items()}
        self.buffers = {n: b[index] for n, b in self.buffers.items()}
        self.optimizer = self._optimizer()
        for name, weight in old_weights.items():
            self.optimizer.state[self.weights[name]] = {
                k: v[index] if isinstance(v, Tensor) and v.shape == weight.shape else v
                for k, v in old_state.get(weight, {}).items()
            }
        self.directions.keep(self.runs, self.names)
        self.penalties.keep(index)
        self.which = self.which[index]
        if self.valid_which is not None:
            self.valid_which = self.valid_which[index]
        for labels in self.labels:
            labels.keep(index, self.runs)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the runs depends on, but their best weights, which have files of their own."""
        return {
            "kept": [self.every.index(r) for r in self.runs],
            "weights": {n: w.detach() for n, w in self.weights.items()},
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
            "penalties": self.penalties.state_dict(),
            "rng": torch.get_rng_state(),
            "runs": [run.progress() for run in self.every],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for run, progress in zip(self.every, state["runs"], strict=True):
            run.load_progress(progress)
        if len(state["kept"]) < len(self.runs):
            self._keep(state["kept"])
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.buffers = dict(state["buffers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.penalties.load_state_dict(state["penalties"])
        torch.set_rng_state(state["rng"])
        for run in self.every:
            if run.finished:
                run.close()
