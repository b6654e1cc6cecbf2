"""A model of several members: each is a run of its own with its own fold held out; together they are one model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .callback import Callback
from .evaluate import Result, Seen, results
from .faults import DataError
from .files import quoted, to_bytes, write_atomically
from .model import Ensemble, Model
from .results import History, Record
from .stacking.alike import signature
from .stacking.stacked import Stack
from .stopping import Best
from .train import Training


class Members:
    """The runs of an ensemble's members, carried forward together, epoch by epoch; looks like one `Training`.

    Members whose shapes and settings allow it are trained as one stacked model, all others in turn. The history is the
    mean over the members that still go on; each stops by itself. At the end `model` is the `Ensemble` of their best
    weights.

    Args:
        runs: one training per member, on models of one architecture.
        folder: where checkpoints go.
        callbacks: who is told; they are given this object.
    """

    def __init__(
        self, runs: Sequence[Training], folder: Path | None = None, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.runs, self.folder, self.callbacks = list(runs), folder, list(callbacks)
        for m, run in enumerate(self.runs):
            run.checkpoints = False
            run.folder = None if folder is None else folder / f"member-{m}"
        lead = runs[0]
        self.tasks, self.sampler, self.balance, self.settings = lead.tasks, lead.sampler, lead.balance, lead.settings
        self.n_epochs = lead.n_epochs
        self.best, self.best_of = Best(None), {t: Best(None) for t in self.tasks}
        self.history: list[Record] = []
        self.events: list[dict[str, Any]] = []
        self.epoch = self.step = 0
        self.finished = False
        self._stack: Stack | None = None
        self.model: nn.Module = lead.model
        self._rng = lead.rng

    @property
    def stack(self) -> Stack | None:
        """The members as one model, made when it is first needed; None where they must be trained in turn."""
        if self._stack is None:
            signatures = {signature(r) for r in self.runs}
            if len(signatures) == 1 and None not in signatures:
                self._stack = Stack(self.runs)
        return self._stack

    @property
    def interrupted(self) -> bool:
        """Set to stop at the next step; the last epoch's checkpoint is there to go on from."""
        return self.runs[0].interrupted

    @interrupted.setter
    def interrupted(self, value: bool) -> None:
        for run in self.runs:
            run.interrupted = value

    def run(self) -> History:
        """Train to the end, and leave the ensemble in `model`."""
        self.tell("on_start")
        if self.folder is not None and not self.finished:
            self.save()
        while not self.finished:
            self.advance()
        self.close()
        self.tell("on_end")
        return History(records=tuple(self.history))

    def advance(self) -> None:
        """One epoch of every member that goes on."""
        active = [r for r in self.runs if not r.finished]
        seen = {id(r): len(r.history) for r in active}
        if self.stack is not None:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._rng)
                self.stack.epoch()
                self._rng = torch.get_rng_state()
        else:
            for run in active:
                run.advance()
                if run.finished:
                    run.close()
        self._merge(active, seen)
        self.epoch += 1
        self.step = max(r.step for r in self.runs)
        self.finished = all(r.finished for r in self.runs)
        if self.folder is not None:
            self.save()
        self.tell("on_epoch")

    def close(self) -> None:
        """Put the members' best weights together."""
        models = [r.model for r in self.runs]
        assert all(isinstance(m, Model) for m in models)
        ensemble = Ensemble(models)  # type: ignore[arg-type]
        self.model = ensemble
        self._tell_use()
        if self.folder is None:
            return
        write_atomically(self.folder / "best.ckpt", to_bytes({"model": ensemble.state_dict(), "epoch": self.epoch}))
        for task in self.tasks:
            states = [r.best_states[task] for r in self.runs if task in r.best_states]
            if len(states) == len(self.runs):
                path = self.folder / f"best-{quoted(task)}.ckpt"
                write_atomically(path, to_bytes({"model": ensemble.stacked(states), "epoch": self.epoch}))

    def _tell_use(self) -> None:
        """What the sharing of the final members shows (each keeps an epoch of its own), as the last of the history."""
        seen = Seen()
        for run in self.runs:
            results(run.model, run.valid, seen=seen)
        means = seen.means()
        if means and not any(r.split == "sharing" and r.epoch == self.epoch for r in self.history):
            for task in self.tasks:
                for label, value in means.get(task, {}).items():
                    where = {"epoch": self.epoch, "step": self.step}
                    self.history.append(Record(**where, split="sharing", task=task, metric=label, value=value))

    def held_out(self) -> dict[str, Result]:
        """Outputs of each row by the members that did not learn from it, beside the labels."""
        found: dict[str, list[Result]] = {}
        for run in self.runs:
            for task, result in results(run.model, run.valid).items():
                found.setdefault(task, []).append(result)
        return {task: Result.join(parts) for task, parts in found.items()}

    def _merge(self, active: Sequence[Training], seen: dict[int, int]) -> None:
        """The epoch's records: means over the members that went on; events with the member's number."""
        sums: dict[tuple[str, str | None, str], list[float]] = {}
        keys: dict[tuple[str, str | None, str], None] = {}
        for run in active:
            for record in run.history[seen[id(run)] :]:
                key = (record.split, record.task, record.metric)
                keys[key] = None
                if record.value is not None:
                    sums.setdefault(key, []).append(record.value)
        step = max((r.step for r in active), default=self.step)
        for split, task, metric in keys:
            values = sums.get((split, task, metric))
            mean = sum(values) / len(values) if values else None
            self.history.append(Record(epoch=self.epoch, step=step, split=split, task=task, metric=metric, value=mean))
            if split == "valid" and metric == "skill":
                self.best.improved(mean, self.epoch)
        for m, run in enumerate(self.runs):
            self.events += [{"member": m} | e for e in run.events if e["epoch"] == self.epoch and run in active]
        for task, own in self.best_of.items():
            reached = [r.best_of[task] for r in self.runs if r.best_of[task].value is not None]
            if reached:
                own.value = sum(b.value for b in reached if b.value is not None) / len(reached)
                own.epoch = max(b.epoch for b in reached)

    def tell(self, moment: str) -> None:
        """Tell the callbacks."""
        for callback in self.callbacks:
            getattr(callback, moment)(self)

    # -- state

    def save(self) -> None:
        """Renew ``last.ckpt``."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any]
        if self.stack is not None:
            state = {"stack": self.stack.state_dict() | {"rng": self._rng}}
        else:
            state = {"runs": [r.state_dict() for r in self.runs]}
        mine = {
            "epoch": self.epoch,
            "step": self.step,
            "finished": self.finished,
            "best": [self.best.value, self.best.epoch],
            "history": History(records=tuple(self.history)).model_dump_json(),
            "events": json.dumps(self.events),
        }
        write_atomically(self.folder / "last.ckpt", to_bytes(state | {"members": mine}))

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
            state = torch.load(path, weights_only=True)
            if self.stack is not None:
                with torch.random.fork_rng(devices=[]):
                    self.stack.load_state_dict(state["stack"])
                self._rng = state["stack"]["rng"]
            else:
                for run, own in zip(self.runs, state["runs"], strict=True):
                    run.load_state_dict(own)
                    if run.finished:
                        run.close()
            mine = state["members"]
            self.epoch, self.step, self.finished = mine["epoch"], mine["step"], mine["finished"]
            self.best.value, self.best.epoch = mine["best"]
            self.history = list(History.model_validate_json(mine["history"]).records)
            self.events = json.loads(mine["events"])
        except Exception as error:
            raise DataError(f"{path} should be a checkpoint of this run. It cannot be read: {error}.") from error
        return True


def folds(n: int, k: int, seed: int, groups: Tensor | None = None) -> list[Tensor]:
    """k disjoint parts of n rows, of nearly one size, at random; rows of one group stay together.

    Args:
        groups: (n,) the group of each row.
    """
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        return [part.sort().values for part in torch.randperm(n, generator=generator).chunk(k)]
    _, code, count = groups.unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(count), generator=generator)
    order = order[count[order].argsort(descending=True, stable=True)]
    load, where = [0] * k, torch.zeros(len(count), dtype=torch.long)
    for group in order.tolist():
        fold = load.index(min(load))
        where[group] = fold
        load[fold] += int(count[group])
    return [(where[code] == fold).nonzero().flatten() for fold in range(k)]
