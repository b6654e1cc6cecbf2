"""Which rows, and which tasks, the next step sees: a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..blocks import seed_of
from ..catalog import hint
from ..faults import ConfigError
from ..ragged import Ragged
from . import Batch, Taskset

MODES = ("proportional", "uniform", "temperature", "specified", "round_robin", "annealed")
SCHEDULES = ("joint", "alternating")
POOL = 16
"""Rows of so many batches are sorted by length where batches are to have rows of like length: few enough that batches
differ from epoch to epoch, and enough that little is padded."""


@dataclass(frozen=True)
class Draw:
    """The rows of one step (indices over all tables in order), and the task it is for; None for all tasks."""

    rows: Tensor
    task: str | None = None
    seed: int = 0
    """Of what is changed at random in these rows."""


class Sampler:
    """Draws batches.

    Schedule *joint*: every step learns all tasks that its rows label; what is sampled are the user's tables. Schedule
    *alternating*: every step learns one task, drawn at random; sampled are the tasks. With n_u the rows (labelled
    rows) of unit u:

    proportional p_u ~ n_u; uniform p_u ~ 1; temperature p_u ~ n_u^(1/T); specified p_u ~ weights; round_robin: each in
    turn; annealed p_u ~ n_u^a, with a from 1 (proportional) at the first epoch down to 0.2 at the last.

    Each unit is read through in random order and shuffled anew when it wraps. An epoch has as many steps as all units'
    rows together fill. Nothing is remembered: an epoch's draws follow from (seed, epoch), so resuming needs no state.

    Args:
        tasksets: per table (source), its rows.
        batch_size: rows per step.
        mode: see above.
        schedule: ``joint`` or ``alternating``.
        temperature: T of `temperature`.
        weights: unit -> weight, for `specified`.
        max_epochs: length of the annealing.
        within: per table, the rows to draw from; all by default.
        bucket: whether a batch has rows of like length, so that little of it is padding; auto: where an input has rows
            of unequal length.
        change: what becomes of the rows of one table in a step, given random numbers; they stay as they are by default.

    Raises:
        ConfigError: an unknown mode, schedule or unit.

    Reference:
        Stickland, Murray: BERT and PALs, 2019 (annealed); Raffel et al.: T5, 2020 (temperature).
    """

    def __init__(
        self,
        tasksets: Mapping[str, Taskset],
        batch_size: int,
        *,
        mode: str = "proportional",
        schedule: str = "joint",
        temperature: float = 2.0,
        weights: Mapping[str, float] | None = None,
        max_epochs: int = 1,
        seed: int = 0,
        within: Mapping[str, Tensor] | None = None,
        bucket: bool | str = "auto",
        change: Callable[[Taskset, torch.Generator], Taskset] | None = None,
    ) -> None:
        for name, value, known in (("sampling", mode, MODES), ("schedule", schedule, SCHEDULES)):
            if value not in known:
                raise ConfigError(f"No {name} is called `{value}`. {hint(value, known)}")
        if batch_size < 1 or not temperature > 0:
            raise ConfigError(
                f"`batch_size` and `temperature` should be positive. Found {batch_size} and {temperature}."
            )
        self.tasksets, self.batch_size = dict(tasksets), batch_size
        self.mode, self.schedule, self.temperature = mode, schedule, temperature
        self.max_epochs, self.seed = max_epochs, seed
        self.within, self.change = dict(within or {}), change
        self.offsets: dict[str, int] = {}
        self.n_rows = 0
        for table, rows in self.tasksets.items():
            self.offsets[table] = self.n_rows
            self.n_rows += len(rows)
        self.lengths = lengths_of(self.tasksets) if bucket else None
        self.units = self._tasks() if schedule == "alternating" else self._tables()
        self.weights = self._weights(weights or {})
        self._picked: list[np.ndarray] = []

    def _tables(self) -> dict[str, np.ndarray]:
        units: dict[str, np.ndarray] = {}
        for table, rows in self.tasksets.items():
            mine = self._mine(table)
            if rows.domain is None or len(rows.domains) < 2:
                units[rows.domains[0] if rows.domains else table] = self.offsets[table] + mine
                continue
            domain = rows.domain.numpy()[mine]
            for i, name in enumerate(rows.domains):
                if (domain == i).any():
                    units[name] = self.offsets[table] + mine[domain == i]
        return {name: rows for name, rows in units.items() if len(rows)}

    def _mine(self, table: str) -> np.ndarray:
        return self.within[table].numpy() if table in self.within else np.arange(len(self.tasksets[table]))

    def rows(self) -> dict[str, Taskset]:
        """The rows that are drawn from, per table."""
        return {t: rows.take(self.within[t]) if t in self.within else rows for t, rows in self.tasksets.items()}

    def _tasks(self) -> dict[str, np.ndarray]:
        units: dict[str, list[np.ndarray]] = {}
        for table, rows in self.tasksets.items():
            for task in rows.tasks:
                known = np.intersect1d(rows.known_rows(task).numpy(), self._mine(table))
                if len(known):
                    units.setdefault(task, []).append(self.offsets[table] + known)
        return {task: np.concatenate(parts) for task, parts in units.items()}

    def _weights(self, weights: Mapping[str, float]) -> np.ndarray:
        for name in weights:
            if name not in self.units:
                raise ConfigError(f"`sampling.weights` names `{name}`, which does not exist. {hint(name, self.units)}")
        if self.mode == "specified" and not weights:
            raise ConfigError("`sampling.mode: specified` needs `sampling.weights`. Found none.")
        values = np.array([weights.get(name, 1.0) for name in self.units], dtype=float)
        if (values < 0).any() or values.sum() <= 0:
            raise ConfigError(f"`sampling.weights` should be 0 or more, and not all 0. Found {dict(weights)}.")
        return values

    @property
    def n_steps(self) -> int:
        """Steps in an epoch."""
        return -(-sum(map(len, self.units.values())) // self.batch_size)

    def probabilities(self, epoch: int = 0) -> dict[str, float]:
        """Share of the draws that go to each unit."""
        sizes = np.array([len(rows) for rows in self.units.values()], dtype=float)
        exponent = {"proportional": 1.0, "temperature": 1 / self.temperature, "annealed": 1.0}.get(self.mode, 0.0)
        if self.mode == "annealed" and self.max_epochs > 1:
            exponent = 1 - 0.8 * min(epoch / (self.max_epochs - 1), 1.0)
        p = self.weights if self.mode == "specified" else sizes**exponent
        return dict(zip(self.units, (p / p.sum()).tolist(), strict=True))

    def passes(self, epoch: int = 0) -> dict[str, float]:
        """How often an epoch sees each row of a unit, on average."""
        if self.schedule == "alternating":  # a step has `batch_size` rows of one unit, or all of a smaller one
            drawn = {u: self.n_steps * min(self.batch_size, len(rows)) for u, rows in self.units.items()}
        else:
            drawn = dict.fromkeys(self.units, sum(map(len, self.units.values())))
        return {u: p * drawn[u] / len(self.units[u]) for u, p in self.probabilities(epoch).items()}

    def objective(self) -> str:
        """What this draw minimises, in words."""
        if self.schedule == "joint":
            if len(self.units) == 1:
                return "sum_k L_k: every step learns all tasks that its rows label"
            return "sum_k L_k over the labels of each step, rows drawn " + self.mode
        text = {"uniform": "sum_k L_k", "round_robin": "sum_k L_k", "proportional": "sum_k N_k L_k"}
        return text.get(self.mode, "sum_k p_k L_k with the printed p_k") + ": every step learns one task"

    def plan(self, epoch: int) -> list[Draw]:
        """The draws of an epoch."""
        draws = self._alternating(epoch) if self.schedule == "alternating" else self._joint(epoch)
        return [replace(draw, seed=seed_of(self.seed, "change", epoch, i)) for i, draw in enumerate(draws)]

    def batch(self, draw: Draw) -> Batch:
        """The rows of a draw, and the labels it is for."""
        if len(self.tasksets) == 1:
            table, rows = next(iter(self.tasksets.items()))
            parts = {table: rows.batch(draw.rows)}
        else:
            parts = {}
            for table, rows in self.tasksets.items():
                start = self.offsets[table]
                here = draw.rows[(draw.rows >= start) & (draw.rows < start + len(rows))]
                if len(here):
                    parts[table] = rows.batch(here - start)
        if draw.task is not None:
            parts = {table: part.only([draw.task]) for table, part in parts.items()}
        if self.change is not None:
            random = torch.Generator().manual_seed(draw.seed)
            parts = {table: self.change(part, random) for table, part in parts.items()}
        return Batch(parts)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        return map(self.batch, self.plan(epoch))

    def _random(self, *words: object) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.seed, *words))

    def _stream(self, unit: str, start: int, count: int) -> np.ndarray:
        """`count` rows of a unit from position `start` of its endless sequence of permutations."""
        rows = self.units[unit]
        n = len(rows)
        first, last = start // n, (start + max(count, 1) - 1) // n
        turns = [self._random("rows", unit, turn).permutation(rows) for turn in range(first, last + 1)]
        return np.concatenate(turns)[start - first * n : start - first * n + count]

    def _quota(self, epoch: int) -> dict[str, int]:
        """Rows of each unit in an epoch, by largest remainder."""
        total = sum(map(len, self.units.values()))
        share = np.array(list(self.probabilities(epoch).values())) * total
        quota = np.floor(share).astype(int)
        for i in np.argsort(-(share - quota), kind="stable")[: total - quota.sum()]:
            quota[i] += 1
        return dict(zip(self.units, quota.tolist(), strict=True))

    def _joint(self, epoch: int) -> list[Draw]:
        if len(self.units) == 1 or self.mode == "proportional":
            rows = self._random("epoch", epoch).permutation(np.concatenate(list(self.units.values())))
        else:
            parts = []
            for unit, count in self._quota(epoch).items():
                changing = self.mode == "annealed"
                before = sum(self._quota(e)[unit] for e in range(epoch)) if changing else epoch * count
                parts.append(self._stream(unit, before, count))
            rows = self._random("epoch", epoch).permutation(np.concatenate(parts))
        parts = np.split(rows, np.arange(self.batch_size, len(rows), self.batch_size))
        if self.lengths is not None:
            parts = bucketed(parts, self.lengths, self._random("buckets", epoch))
        return [Draw(torch.from_numpy(part)) for part in parts]

    def _picks(self, epoch: int) -> np.ndarray:
        while len(self._picked) <= epoch:
            e, k = len(self._picked), len(self.units)
            if self.mode == "round_robin":
                self._picked.append((np.arange(self.n_steps) + e * self.n_steps) % k)
            else:
                p = list(self.probabilities(e).values())
                self._picked.append(self._random("tasks", e).choice(k, size=self.n_steps, p=p))
        return self._picked[epoch]

    def _alternating(self, epoch: int) -> list[Draw]:
        names = list(self.units)
        before = np.zeros(len(names), dtype=int)
        for e in range(epoch):
            before += np.bincount(self._picks(e), minlength=len(names))
        sizes = [min(self.batch_size, len(self.units[u])) for u in names]
        draws, seen = [], before.copy()
        for i in self._picks(epoch).tolist():
            rows = self._stream(names[i], int(seen[i]) * sizes[i], sizes[i])
            draws.append(Draw(torch.from_numpy(rows), names[i]))
            seen[i] += 1
        if self.lengths is None:
            return draws
        for unit in names:
            own = [i for i, draw in enumerate(draws) if draw.task == unit]
            parts = [draws[i].rows.numpy() for i in own]
            for i, rows in zip(own, bucketed(parts, self.lengths, self._random("buckets", unit, epoch)), strict=True):
                draws[i] = Draw(torch.from_numpy(rows), unit)
        return draws


def lengths_of(tasksets: Mapping[str, Taskset]) -> np.ndarray | None:
    """How long the rows of all tables are, one after the other; None where they are all of one length."""
    found = []
    for rows in tasksets.values():
        own = [v.lengths.cpu().numpy() for v in rows.inputs.values() if isinstance(v, Ragged)]
        found.append(sum(own, np.zeros(len(rows), dtype=np.int64)))
    lengths = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    return lengths if len(np.unique(lengths)) > 1 else None


def bucketed(batches: Sequence[np.ndarray], lengths: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """The same rows in batches of the same sizes, rows of like length together, the batches in random order.

    Args:
        batches: rows in random order.
        lengths: of all rows.
    """
    found: list[np.ndarray] = []
    for start in range(0, len(batches), POOL):
        pool = batches[start : start + POOL]
        rows = np.concatenate(pool)
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        sizes = [len(batch) for batch in pool]
        found += np.split(rows, np.cumsum(random.permutation(sizes))[:-1])
    return [found[i] for i in random.permutation(len(found))]
