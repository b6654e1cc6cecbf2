"""Which episodes the next step sees: a few rows to adapt to and a few to be judged by, of each of a few domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..blocks import seed_of
from ..faults import ConfigError, DataError
from . import Batch, Block, Taskset
from .sampler import Draw, Sampler


@dataclass(frozen=True)
class Shape:
    """What the episodes of a step look like.

    Attributes:
        support: rows to adapt to (of each class, where there are ways); of two numbers one between them is drawn for
            each step.
        query: rows to be judged by (of each class).
        episodes: in a step.
        ways: classes of an episode; None where an episode is a domain (a table, or the rows of one school) as it is.
        by: the column that says which domain a row belongs to; None where that is its table.
    """

    support: int | tuple[int, int] = 10
    query: int = 10
    episodes: int = 8
    ways: int | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        low, high = self.sizes
        if not 1 <= low <= high or self.query < 1 or self.episodes < 1 or (self.ways is not None and self.ways < 2):
            raise ConfigError(
                "Episodes should have a row or more in `support` and `query`, and two `ways` or more. Found "
                f"support {self.support}, query {self.query}, episodes {self.episodes}, ways {self.ways}."
            )

    @property
    def sizes(self) -> tuple[int, int]:
        """The fewest and the most support rows."""
        return (self.support, self.support) if isinstance(self.support, int) else self.support


@dataclass(frozen=True)
class EpisodeDraw(Draw):
    """Rows of several episodes, one episode after the other, support before query."""

    episode: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """The number of each row's episode (rows,)."""
    support: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """Whether a row is one to adapt to (rows,)."""
    way: Tensor | None = None
    """The class that each row has within its episode (rows,), where classes are numbered anew."""


class EpisodeSampler(Sampler):
    """Draws episodes: a pure function of (seed, epoch), as `Sampler` is.

    Domains take turns in random order. An epoch has as many steps as all rows together fill. A domain with too few rows
    gives what it has, half of them at most as support.

    Args:
        tasksets: per table (source), its rows.
        shape: of the episodes.
        task: whose classes are drawn, where there are ways.
        seed, within, change: as `Sampler` has them.

    Raises:
        ConfigError: there is one domain and no ways.
        DataError: no domain has enough rows, or classes.
    """

    def __init__(
        self,
        tasksets: Mapping[str, Taskset],
        shape: Shape,
        *,
        task: str | None = None,
        seed: int = 0,
        within: Mapping[str, Tensor] | None = None,
        change: Callable[[Taskset, torch.Generator], Taskset] | None = None,
        max_epochs: int = 1,
    ) -> None:
        self.shape = shape
        each = (shape.sizes[1] + shape.query) * (shape.ways or 1)
        super().__init__(
            by_domain(tasksets, shape.by),
            shape.episodes * each,
            seed=seed,
            within=within,
            bucket=False,
            change=change,
            max_epochs=max_epochs,
        )
        if shape.ways is None:
            if len(self.units) < 2:
                raise ConfigError(
                    "Episodes should come from several tables, from the values of a column (`by`), or from the classes "
                    f"of a task (`ways`). Found the domains {list(self.units)}; name a column in `by`."
                )
            self.units = {name: rows for name, rows in self.units.items() if len(rows) > 1}
        else:
            self.task = task if task is not None else next(t for rows in self.tasksets.values() for t in rows.tasks)
            self.classes = self._classes(self.task, shape.ways)
            self.units = {name: rows for name, rows in self.units.items() if name in self.classes}
        if not self.units:
            what = "two rows" if shape.ways is None else f"{shape.ways} classes of two rows each"
            raise DataError(f"A domain should have {what} or more. Found none that has.")
        self.weights = self._weights({})
        self.names = list(self.units)

    def _classes(self, wanted: str, ways: int) -> dict[str, list[np.ndarray]]:
        """Unit -> the rows of each of its classes, of those that have two or more."""
        code = np.full(self.n_rows, -1)
        for table, rows in self.tasksets.items():
            if wanted in rows.tasks:
                target, known, _ = rows.labels(wanted)
                if not isinstance(target, Tensor) or target.is_floating_point() or target.dim() != 1:
                    raise ConfigError(f"`ways` should go with a task of one class per row. Found `{wanted}`.")
                start = self.offsets[table]
                code[start : start + len(rows)] = np.where(known.numpy(), target.numpy(), -1)
        found = {}
        for unit, mine in self.units.items():
            own = [mine[code[mine] == c] for c in np.unique(code[mine]) if c >= 0]
            own = [members for members in own if len(members) > 1]
            if len(own) >= ways:
                found[unit] = own
        return found

    def objective(self) -> str:
        """What this draw minimises, in words."""
        ways = "" if self.shape.ways is None else f" of {self.shape.ways} classes"
        return f"sum_k of the mean L_k over {self.shape.episodes} episodes{ways} per step, domains in turn"

    def passes(self, epoch: int = 0) -> dict[str, float]:
        """How often an epoch sees each row of a unit, on average."""
        drawn = self.n_steps * self.batch_size / len(self.units)
        return {u: drawn / len(rows) for u, rows in self.units.items()}

    def probabilities(self, epoch: int = 0) -> dict[str, float]:
        """Share of the draws that go to each unit: all the same."""
        return dict.fromkeys(self.units, 1 / len(self.units))

    def plan(self, epoch: int) -> list[Draw]:
        """The episodes of an epoch's steps."""
        steps, each = self.n_steps, self.shape.episodes
        start = epoch * steps * each
        n = len(self.names)
        turns = range(start // n, (start + steps * each - 1) // n + 1)
        order = np.concatenate([self._random("domains", turn).permutation(n) for turn in turns])[start % n :]
        return [self._step(epoch, i, order[i * each : (i + 1) * each]) for i in range(steps)]

    def _step(self, epoch: int, i: int, domains: np.ndarray) -> EpisodeDraw:
        random = self._random("episodes", epoch, i)
        low, high = self.shape.sizes
        size = int(random.integers(low, high + 1))
        parts, ways = [], []
        for number in domains:
            name = self.names[number]
            if self.shape.ways is None:
                parts.append(self._halves([self.units[name]], size, random))
                continue
            chosen = random.choice(len(self.classes[name]), self.shape.ways, replace=False)
            parts.append(self._halves([self.classes[name][c] for c in chosen], size, random))
            ways += [np.concatenate(part) for part in parts[-1][1]]
        rows = [np.concatenate([np.concatenate(half) for half in halves]) for halves, _ in parts]
        support = [np.arange(len(own)) < sum(map(len, halves[0])) for own, (halves, _) in zip(rows, parts, strict=True)]
        return EpisodeDraw(
            torch.from_numpy(np.concatenate(rows)),
            seed=seed_of(self.seed, "change", epoch, i),
            episode=torch.from_numpy(np.repeat(np.arange(len(rows)), list(map(len, rows)))),
            support=torch.from_numpy(np.concatenate(support)),
            way=torch.from_numpy(np.concatenate(ways)) if ways else None,
        )

    def _halves(
        self, classes: Sequence[np.ndarray], size: int, random: np.random.Generator
    ) -> tuple[tuple[list[np.ndarray], list[np.ndarray]], tuple[list[np.ndarray], list[np.ndarray]]]:
        """((support rows, query rows), the number of the class of each), class by class."""
        rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        ways: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for way, members in enumerate(classes):
            first = min(size, len(members) // 2)
            picked = random.choice(members, min(first + self.shape.query, len(members)), replace=False)
            for half, own in enumerate((picked[:first], picked[first:])):
                rows[half].append(own)
                ways[half].append(np.full(len(own), way))
        return rows, ways

    def batch(self, draw: Draw) -> Batch:
        """The rows of a draw, each with the number of its episode, and whether it is one to adapt to."""
        assert isinstance(draw, EpisodeDraw)
        parts = {}
        for table, rows in self.tasksets.items():
            start = self.offsets[table]
            here = ((draw.rows >= start) & (draw.rows < start + len(rows))).nonzero().flatten()
            if not len(here):
                continue
            part = rows.batch(draw.rows[here] - start)
            if draw.way is not None:
                part = renumbered(part.only([self.task]), draw.way[here])
            parts[table] = replace(part, domain=draw.episode[here], support=draw.support[here])
        if self.change is not None:
            random = torch.Generator().manual_seed(draw.seed)
            parts = {table: self.change(part, random) for table, part in parts.items()}
        return Batch(parts)


def renumbered(rows: Taskset, way: Tensor) -> Taskset:
    """The same rows with their classes as an episode numbers them."""
    (block,) = rows.blocks
    return replace(rows, blocks=(Block(block.tasks, way, torch.ones_like(way, dtype=torch.bool)),))


def by_domain(tasksets: Mapping[str, Taskset], by: str | None) -> dict[str, Taskset]:
    """The same rows, whose domains are the values of a column that was carried along; their tables where it is None.

    Raises:
        ConfigError: no table has the column.
    """
    if by is None:
        return dict(tasksets)
    if not any(by in rows.extra for rows in tasksets.values()):
        known = sorted({c for rows in tasksets.values() for c in rows.extra})
        raise ConfigError(
            "`by` should name a column that is carried along beside the features (`data.ids`, or what the split is "
            f"by). Found `{by}`; known: {', '.join(known) or 'none'}."
        )
    answer = {}
    for table, rows in tasksets.items():
        if by not in rows.extra:
            answer[table] = rows
            continue
        names, codes = np.unique(rows.extra[by].astype(str), return_inverse=True)
        start = f"{table}/" if len(tasksets) > 1 else ""
        answer[table] = replace(rows, domain=torch.from_numpy(codes), domains=tuple(start + n for n in names))
    return answer
