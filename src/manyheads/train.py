"""The loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .balance import Balance, Losses
from .blocks import fitting_threads, learning, seed_of
from .callback import Callback
from .data import Batch, Taskset
from .data.sampler import Draw, Sampler
from .evaluate import Result, Seen, Skill, measure
from .faults import DataError, Diverged
from .files import link_atomically, plain_values, quoted, to_bytes, write_atomically
from .model import Model
from .objectives import Objective, label_totals
from .optim import device_of, make_optimizer, make_scheduler, parameter_groups
from .penalised import Penalised
from .penalties import Penalty
from .results import History, Record
from .sharing import Trace
from .spec import OptimSpec, TrainerSpec
from .stopping import Best
from .tasks import Task

PATIENCE_WITH_NANS = 20
"""Steps in a row without a finite loss before training is given up."""


class Training:
    """One run: a model, its data, and all that moves; `run` carries it to its end.

    Everything that the future depends on is in `state_dict`, so that a run that was killed goes on bit by bit as if it
    had not been.

    Args:
        model: any module that the objective understands.
        sampler: draws the training rows.
        valid: per table, rows; no validation rows means no early stopping.
        tasks: fitted tasks.
        objective, balance: the two arrows.
        optim, trainer: settings.
        penalties: beside those of the sharing scheme itself.
        seed: of dropout.
        folder: where checkpoints go; None keeps the best weights in memory alone.
        callbacks: who is told.
    """

    def __init__(
        self,
        model: nn.Module,
        sampler: Sampler,
        valid: Mapping[str, Taskset],
        tasks: Sequence[Task],
        objective: Objective,
        balance: Balance,
        optim: OptimSpec,
        trainer: TrainerSpec,
        *,
        penalties: Sequence[Penalty] = (),
        seed: int = 0,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.model, self.sampler, self.tasks = model, sampler, {t.name: t for t in tasks}
        self.valid = {table: rows for table, rows in valid.items() if len(rows)}
        self.objective, self.balance = objective, balance
        self.settings, self.folder, self.callbacks = trainer, folder, list(callbacks)
        self.device = device_of(trainer.accelerator)
        if trainer.precision == "64":
            model.double()
            sampler.tasksets = {t: rows.to(torch.float64) for t, rows in sampler.tasksets.items()}
            self.valid = {t: rows.to(torch.float64) for t, rows in self.valid.items()}
        model.to(self.device)
        self.penalties = Penalised(model, penalties) if isinstance(model, Model) else None
        self._weights, self.optim = dict(model.named_parameters()), optim
        self.optimizer = make_optimizer(parameter_groups(model, optim), optim)
        self.scheduler, self.schedule_each = make_scheduler(
            self.optimizer, optim, self.n_epochs, -(-sampler.n_steps // trainer.accumulate_grad_batches)
        )
        follow_proper = trainer.monitor == "proper"
        self.monitor = {t.name: t.proper if follow_proper and t.proper else t.metrics[0] for t in tasks}
        self.skill = Skill(self.monitor, tasks, sampler.rows(), self.valid)
        self.best, self.best_of = Best(trainer.patience), {t: Best(trainer.patience) for t in self.tasks}
        self.best_state: dict[str, Tensor] | None = None
        self.best_states: dict[str, dict[str, Tensor]] = {}
        self.epoch = self.step = self.step_in_epoch = self.nans = 0
        self.frozen: list[str] = []
        self.history: list[Record] = []
        self.events: list[dict[str, Any]] = []
        self.finished = self.interrupted = self.primary_only = False
        self.use: dict[str, dict[str, float]] = {}
        """What the sharing scheme wants to be seen, as of the last epoch: task -> label -> number."""
        self.stacked = False
        """Whether its weights are moved by a `Stack`, beside those of other runs."""
        self.checkpoints = True
        """Whether it writes ``last.ckpt`` itself; a run that is trained with others is kept by them."""
        self.snapshot: Callable[[], dict[str, Tensor]] = lambda: {k: v.clone() for k, v in model.state_dict().items()}
        self._sums: dict[str, list[float]] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "dropout"))
            self.rng = torch.get_rng_state()

    @property
    def n_epochs(self) -> int:
        """Epochs at most."""
        if self.settings.max_steps is None:
            return self.settings.max_epochs
        steps = max(-(-self.sampler.n_steps // self.settings.accumulate_grad_batches), 1)
        return min(self.settings.max_epochs, -(-self.settings.max_steps // steps))

    def run(self) -> History:
        """Train to the end (or from where a checkpoint left off), and leave the best weights in the model."""
        self.tell("on_start")
        if self.folder is not None and not self.finished:
            self.save()
        while not self.finished:
            self.advance()
        self.close()
        return History(records=tuple(self.history))

    def advance(self) -> None:
        """Train one epoch (or the rest of it)."""
        if self.epoch >= self.n_epochs:
            self.finished = True
            return
        weights = sum(p.numel() for p in self.model.parameters())
        with torch.random.fork_rng(devices=[]), fitting_threads(weights, self.sampler.batch_size):
            torch.set_rng_state(self.rng)
            self._epoch()

    def close(self) -> None:
        """Leave the best weights in the model."""
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)
        self.model.eval()
        self.tell("on_end")

    def held_out(self) -> dict[str, Result]:
        """Outputs and labels of the validation rows, by the model as it is now; `use` is renewed."""
        found = self.objective.held_out(self.model, self.valid, seen := Seen())
        self.use = seen.means()
        return found

    # -- one epoch

    def _epoch(self) -> None:
        learning(self.model)
        draws = self.sampler.plan(self.epoch)
        each = self.settings.accumulate_grad_batches
        steps = [draws[i : i + each] for i in range(0, len(draws), each)]
        for step in steps[self.step_in_epoch :]:
            if self.settings.max_steps is not None and self.step >= self.settings.max_steps:
                break
            self._step(step)
            self.step += 1
            self.step_in_epoch += 1
            self.tell("on_step")
            if self.interrupted:
                self.rng = torch.get_rng_state()
                if self.folder is not None and self.checkpoints:
                    self.save()
                raise KeyboardInterrupt
        self.close_epoch()

    def _step(self, draws: Sequence[Draw]) -> None:
        batches = [self._batch(draw) for draw in draws]
        totals = label_totals(batches, self.tasks) if len(batches) > 1 else None
        self.optimizer.zero_grad(set_to_none=True)
        moved = False
        dropped = sum(self.balance.dropped.values())
        seen: dict[str, float] = {}
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            look = self._look(batch, totals, last, len(batches))
            losses = self._losses(batch, totals, last, len(batches))
            moved |= self.balance.backward(losses, look, last=last)
            for task, value in zip(losses.tasks, losses.vector.detach().tolist(), strict=True):
                seen[task] = seen.get(task, 0.0) + value
        self.note(seen)
        if not moved:
            self.skipped(sum(self.balance.dropped.values()) > dropped)
            return
        self.nans = 0
        if self.settings.gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip_val)
        self.optimizer.step()
        if self.penalties:
            self.penalties.prox(self._weights, self.optimizer.param_groups[0]["lr"])
        self.balance.stepped()
        if self.scheduler is not None and self.schedule_each == "step":
            self.scheduler.step()

    def _batch(self, draw: Draw) -> Batch:
        batch = self.sampler.batch(draw)
        if self.device.type != "cpu":
            batch = Batch({table: part.to(self.device) for table, part in batch.items()})
        if self.frozen:
            active = [t for t in self.tasks if t not in self.frozen]
            batch = Batch({table: part.only(active) for table, part in batch.items()})
        return batch

    def _losses(self, batch: Batch, totals: Mapping[str, float] | None, last: bool, parts: int) -> Losses:
        """The losses of one of a step's parts, the last of which bears the penalties on weights."""
        trace = Trace(self.balance.cut, noting=False, pairing=bool(self.penalties and self.penalties.on_features))
        with self._autocast():
            losses = self.objective(self.model, batch, trace, totals)
        if self.penalties and (of_features := self.penalties.loss_of_features(trace.pairs)) is not None:
            losses.add(of_features)
        if parts > 1:
            losses.aux = {name: value / parts for name, value in losses.aux.items()}
        if self.penalties and last and (of_weights := self.penalties.loss(self._weights)) is not None:
            losses.add(of_weights)
        return losses

    def _look(self, batch: Batch, *how: Any) -> Any:
        """Gives the losses that are about to be computed once more, with the same random numbers (dropout)."""
        cuda = [self.device] if self.device.type == "cuda" else []
        state, *others = torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda)

        def look(tasks: Sequence[str] | None = None) -> Losses:
            part = batch if tasks is None else Batch({table: rows.only(tasks) for table, rows in batch.items()})
            with torch.random.fork_rng(cuda):
                torch.set_rng_state(state)
                for device, other in zip(cuda, others, strict=True):
                    torch.cuda.set_rng_state(other, device)
                return self._losses(part, *how)

        return look

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bf16")

    def skipped(self, dropped: bool) -> None:
        """Take note of whether a step was given up because a loss was not finite.

        Raises:
            Diverged: it was so many times in a row.
        """
        self.nans = self.nans + 1 if dropped else 0
        if self.nans >= PATIENCE_WITH_NANS:
            tasks = ", ".join(f"`{t}`" for t in self.balance.dropped)
            raise Diverged(
                f"Training diverged: no finite loss in {self.nans} steps in a row (epoch {self.epoch}, tasks {tasks}). "
                "Lower optim.lr, or set trainer.gradient_clip_val=1."
            )

    def note(self, losses: Mapping[str, float]) -> None:
        """Take the losses of a step into the epoch's means."""
        for task, value in losses.items():
            entry = self._sums.setdefault(task, [0.0, 0.0, 0.0])
            entry[0] += value
            entry[1] += self.balance.last_weights.get(task, float("nan"))
            entry[2] += 1

    def close_epoch(self, found: Mapping[str, Result] | None = None) -> None:
        """All that an epoch ends with: validation (of outputs already `found`, if given), best weights, checkpoint."""
        self._record_train()
        self.balance.new_epoch()
        if self.penalties and self.penalties.start and not self.stacked:
            self.penalties.new_epoch(self._weights)
        due = self.valid and (self.epoch + 1) % self.settings.val_check_interval == 0
        value, improved = self._validate(self.held_out() if found is None else found) if due else (None, [])
        if self.scheduler is not None and self.schedule_each == "epoch":
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # or a stack's optimiser did
            plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            if not plateau:
                self.scheduler.step()
            elif value is not None:  # a plateau is seen at validations alone
                self.scheduler.step(value)
        self._stop_or_freeze()
        self.epoch += 1
        self.step_in_epoch, self._sums = 0, {}
        out_of_steps = self.settings.max_steps is not None and self.step >= self.settings.max_steps
        self.finished = self.finished or self.epoch >= self.n_epochs or out_of_steps
        self.rng = torch.get_rng_state()
        if self.folder is not None:
            if improved:
                self._save_best(improved)
            if self.checkpoints:
                self.save()
        self.tell("on_epoch")

    def _record(self, split: str, task: str | None, metric: str, value: float | None) -> None:
        record = Record(epoch=self.epoch, step=self.step, split=split, task=task, metric=metric, value=value)
        self.history.append(record)

    def _record_train(self) -> None:
        for task in self.tasks:
            if task in self._sums:
                loss, weight, n = self._sums[task]
                self._record("train", task, "loss", loss / n)
                self._record("train", task, "weight", weight / n)
        self._record("train", None, "lr", self.optimizer.param_groups[0]["lr"])
        self._record_notes("balance", self.balance.report())

    def _record_notes(self, split: str, notes: Mapping[Any, Mapping[str, float]]) -> None:
        for task, own in notes.items():
            for label, number in own.items():
                self._record(split, task, label, number)

    def _validate(self, found: Mapping[str, Result]) -> tuple[float | None, list[str]]:
        """(mean skill, tasks that improved); the scores go to the history."""
        skills, improved = [], []
        state: dict[str, Tensor] | None = None
        for name, result in found.items():
            task = self.tasks[name]
            monitor = self.monitor[name]
            asked = [monitor] if self.primary_only else list(dict.fromkeys([*task.metrics, monitor]))
            scores = {score.metric: score for score in measure(task, result, asked, split="valid")}
            for metric, score in scores.items():
                self._record("valid", name, metric, score.value)
            skill = self.skill(name, scores[monitor].value)
            if skill is not None:
                skills.append(skill)
            oriented = scores[monitor].value
            if oriented is not None and not scores[monitor].greater_is_better:
                oriented = -oriented
            better = name not in self.frozen and self.best_of[name].improved(oriented, self.epoch)
            if better and self.folder is not None:
                state = state or self.snapshot()
                self.best_states[name] = state
                improved.append(name)
        mean = sum(skills) / len(skills) if skills else None
        self._record_notes("sharing", {name: self.use[name] for name in self.tasks if name in self.use})
        self._record("valid", None, "skill", mean)
        if self.best.improved(mean, self.epoch):
            self.best_state = state or self.snapshot()
            improved.append("")
            self._event("best", skill=mean)
        return mean, improved

    def _stop_or_freeze(self) -> None:
        if self.settings.freeze_stopped:
            for task, best in self.best_of.items():
                if task not in self.frozen and best.stopped(self.epoch):
                    self.frozen.append(task)
                    self._event("frozen", task=task, best_epoch=best.epoch)
            self.finished = len(self.frozen) == len(self.tasks)
        elif self.best.stopped(self.epoch):
            self.finished = True
        if self.finished:
            self._event("stopped", best_epoch=self.best.epoch)

    def _event(self, kind: str, **values: Any) -> None:
        self.events.append({"event": kind, "epoch": self.epoch, "step": self.step} | values)

    def tell(self, moment: str) -> None:
        """Tell the callbacks that ``on_start``, ``on_step``, ``on_epoch`` or ``on_end`` has come."""
        for callback in self.callbacks:
            getattr(callback, moment)(self)

    # -- state

    def progress(self) -> dict[str, Any]:
        """How far the run is: all of its state but weights and optimiser, in plain values."""
        return {
            "scheduler": None if self.scheduler is None else plain_values(self.scheduler.state_dict()),
            "lr": [g["lr"] for g in self.optimizer.param_groups],
            "balance": self.balance.state_dict(),
            "rng": self.rng,
            "progress": [self.epoch, self.step, self.step_in_epoch, self.nans, self.finished],
            "best": [self.best.value, self.best.epoch],
            "best_of": {t: [b.value, b.epoch] for t, b in self.best_of.items()},
            "frozen": list(self.frozen),
            "sums": {t: list(s) for t, s in self._sums.items()},
            "history": json.dumps([r.model_dump() for r in self.history]),
            "events": json.dumps(self.events),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; tensors and plain values only."""
        penalties = self.penalties.state_dict() if self.penalties else {}
        own = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "penalties": penalties}
        return self.progress() | own

    def load_progress(self, state: Mapping[str, Any]) -> None:
        """Take up what `progress` gave; the best weights come from their own files."""
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # it did, before the run was stopped
        for group, lr in zip(self.optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = lr
        self.balance.load_state_dict(state["balance"])
        self.rng = state["rng"]
        self.epoch, self.step, self.step_in_epoch, self.nans, self.finished = state["progress"]
        self.best.value, self.best.epoch = state["best"]
        for task, (value, epoch) in state["best_of"].items():
            self.best_of[task].value, self.best_of[task].epoch = value, epoch
        self.frozen = list(state["frozen"])
        self._sums = {t: list(s) for t, s in state["sums"].items()}
        self.history = [Record(**r) for r in json.loads(state["history"])]
        self.events = json.loads(state["events"])
        self.load_best()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.penalties:
            self.penalties.load_state_dict(state["penalties"])
        self.load_progress(state)

    def load_best(self) -> None:
        """Read the best weights from their files, where there is a folder."""
        if self.folder is None:
            return
        if self.best.epoch >= 0:
            self.best_state = torch.load(self.folder / "best.ckpt", weights_only=True)["model"]
        for task, best in self.best_of.items():
            if best.epoch >= 0:
                path = self.folder / f"best-{quoted(task)}.ckpt"
                self.best_states[task] = torch.load(path, weights_only=True)["model"]

    def save(self) -> None:
        """Renew ``last.ckpt``."""
        assert self.folder is not None
        write_atomically(self.folder / "last.ckpt", to_bytes(self.state_dict()))

    def _save_best(self, improved: Sequence[str]) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self.best_states[improved[0]] if improved[0] else self.best_state
        names = [f"best-{quoted(name)}.ckpt" if name else "best.ckpt" for name in improved]
        first = self.folder / names[0]
        write_atomically(first, to_bytes({"model": state, "epoch": self.epoch - 1, "step": self.step}))
        for name in names[1:]:  # the same weights under further names
            link_atomically(first, self.folder / name)

    def resume(self) -> bool:
        """Take up ``last.ckpt``; False where there is none.

        Raises:
            DataError: the checkpoint is damaged or belongs to another run.
        """
        assert self.folder is not None
        path = self.folder / "last.ckpt"
        if not path.exists():
            return False
        try:
            self.load_state_dict(torch.load(path, weights_only=True))
        except Exception as error:
            raise DataError(f"{path} should be a checkpoint of this run. It cannot be read: {error}.") from error
        return True
