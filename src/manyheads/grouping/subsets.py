"""The best division of a few tasks into groups: every subset of them, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Cost = Callable[[tuple[str, ...]], float]
"""A group's tasks, in the order of the gains -> what a model of them costs."""

LEVELS = 32
"""Different costs of a group up to which the best division is found for certain."""


def values_of(z: Array, members: NDArray[np.bool_], total: bool = False) -> Array:
    """v(G, k) of each group (..., groups, tasks), minus infinity where the task is not in it.

    Args:
        total: the sum over the others of a group instead of their mean.
    """
    inside = members.astype(np.float64)
    size = 1.0 if total else np.maximum(inside.sum(-1, keepdims=True) - 1, 1)
    return np.where(members, inside @ z / size, -np.inf)


class Prices:
    """What groups cost, asked once for each; 1 by default."""

    def __init__(self, names: Sequence[str], cost: Cost | None) -> None:
        self.names, self.cost = names, cost
        self._known: dict[int, float] = {}
        self.cheapest = 1.0 if cost is None else min(self(1 << i) for i in range(len(names)))

    def __call__(self, group: int) -> float:
        """The price of a group, its tasks given as bits."""
        if self.cost is None:
            return 1.0
        if group not in self._known:
            tasks = tuple(n for i, n in enumerate(self.names) if group >> i & 1)
            price = float(self.cost(tasks))
            if not price > 0 or not math.isfinite(price):
                raise ValueError(f"`cost` should be a number above 0. Found {price} for {', '.join(tasks)}.")
            self._known[group] = price
        return self._known[group]


class Served(NamedTuple):
    """A group, and the tasks that it serves, as bits."""

    group: int
    tasks: int


class Subsets:
    """All subsets at once: W by cost, and F by number of models; the symbols are those of `manyheads.grouping.best`.

    Args:
        z: (K, K) gains, source by target, 0 on the diagonal.
        slack: totals this close are equal.
        margin: what a unit of cost has to add.
        total: as in `values_of`.
    """

    def __init__(
        self, z: Array, overlap: bool, price: Prices, slack: float, margin: float = 0.0, total: bool = False
    ) -> None:
        self.z, self.overlap, self.slack, self.total = z, overlap, slack, total
        self.k = len(z)
        self.full = (1 << self.k) - 1
        everything = np.arange(1, self.full + 1)
        prices = np.array([price(int(g)) for g in everything]) if price.cost is not None else np.ones(self.full)
        self.levels, which = np.unique(prices, return_inverse=True)
        self.exact = len(self.levels) <= LEVELS
        if not self.exact:  # prices are rounded up to a few: what is found is within the budget, if not the best
            cuts = np.unique(np.quantile(prices, np.linspace(0, 1, LEVELS), method="higher"))
            which = np.searchsorted(cuts, prices)
            self.levels = cuts
        self.level_of = np.concatenate([[0], which.ravel()])
        self.size_of = ((np.arange(self.full + 1)[:, None] >> np.arange(self.k)) & 1).sum(1)
        self.by_size = [np.flatnonzero(self.size_of == size) for size in range(self.k + 1)]
        self.worth = self._worths() - margin * self.levels[:, None]

    def _bits(self, groups: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """(groups, size): the tasks of groups of one size, as bits, the lowest first."""
        there = (groups[:, None] >> np.arange(self.k)) & 1
        return (1 << np.nonzero(there)[1]).reshape(len(groups), size)

    def _worths(self) -> Array:
        """W (levels, subsets): the best sum of v(G, k) over the tasks of S, among groups around S of each cost."""
        worth = np.full((len(self.levels), self.full + 1), -np.inf)
        for size, groups in enumerate(self.by_size):
            if not size:
                continue
            tasks = self._bits(groups, size)
            members = ((groups[:, None] >> np.arange(self.k)) & 1).astype(bool)
            v = values_of(self.z, members, self.total)[members].reshape(len(groups), size)
            level = self.level_of[groups]
            if not self.overlap:
                worth[level, groups] = v.sum(1)
                continue
            chosen = ((np.arange(1 << size)[:, None] >> np.arange(size)) & 1).astype(np.int64)
            step = max(1, (1 << 21) >> size)
            for start in range(0, len(groups), step):
                part = slice(start, start + step)
                where = tasks[part] @ chosen.T
                np.maximum.at(worth, (level[part, None], where), v[part] @ chosen.T.astype(np.float64))
        return worth

    def best(self, budget: float) -> tuple[list[Served] | None, bool]:
        """(the groups and whom each serves, whether this is the best for certain); None where nothing is affordable."""
        most = min(self.k, int(budget / self.levels[0]))
        plain = len(self.levels) == 1
        over = self.worth.max(0)
        tables = self._tables(over, most)
        if plain:
            n = next(n for n, f in enumerate(tables) if n and f[self.full] >= tables[-1][self.full] - self.slack)
            parts = self._divided(over, tables, n)
            return [Served(self._around(s, 0), s) for s in parts], True
        found = self._descend(tables, budget)
        return (None if found is None else [Served(self._around(s, level), s) for s, level in found]), self.exact

    def _tables(self, worth: Array, most: int) -> list[Array]:
        """F_n (subsets,) for n = 0 .. most."""
        empty = np.full(self.full + 1, -np.inf)
        empty[0] = 0.0
        tables = [empty, worth.copy()]
        tables[1][0] = 0.0
        subsets = [self._with_first(size) for size in range(self.k + 1)]
        for _ in range(2, most + 1):
            before, table = tables[-1], np.full(self.full + 1, -np.inf)
            table[0] = 0.0
            for size in range(1, self.k + 1):
                own, rows = subsets[size], self.by_size[size]
                for start in range(0, len(rows), 256):
                    part = slice(start, start + 256)
                    s = own[part]
                    table[rows[part]] = (worth[s] + before[rows[part, None] ^ s]).max(1)
            tables.append(table)
            if np.array_equal(table, before):
                break
        return tables

    def _with_first(self, size: int) -> NDArray[np.int64]:
        """(sets of this size, 2^(size-1)): their subsets that have the first task."""
        if not size:
            return np.zeros((0, 0), np.int64)
        tasks = self._bits(self.by_size[size], size)
        chosen = ((np.arange(1 << (size - 1))[:, None] >> np.arange(size - 1)) & 1).astype(np.int64)
        return (tasks[:, :1] + tasks[:, 1:] @ chosen.T).astype(np.int32)

    def _subsets(self, rest: int) -> NDArray[np.int64]:
        """Subsets of a set that have its first task, small ones first."""
        tasks = [1 << i for i in range(self.k) if rest >> i & 1]
        found = np.array([tasks[0]], np.int64)
        for task in tasks[1:]:
            found = np.concatenate([found, found | task])
        return found[np.lexsort((found, self.size_of[found]))]

    def _divided(self, worth: Array, tables: Sequence[Array], n: int) -> list[int]:
        """The served sets that the n-th table rests on."""
        parts, rest = [], self.full
        while rest:
            s = self._subsets(rest)
            totals = worth[s] + tables[n - 1][rest ^ s]
            took = int(s[int((totals >= totals.max() - self.slack * 1e-3).argmax())])
            parts.append(took)
            rest, n = rest ^ took, n - 1
        return parts

    def _descend(self, tables: Sequence[Array], budget: float) -> list[tuple[int, int]] | None:
        """Depth first over served sets and costs; what cannot beat the best so far is left."""
        found: list[tuple[int, int]] | None = None
        record = (-np.inf, np.inf)

        def bound(left: Array) -> NDArray[np.int64]:
            return np.clip(np.floor(left / self.levels[0] + 1e-9), -1, len(tables) - 1).astype(np.int64)

        stacked = np.stack(tables)

        def go(rest: int, left: float, total: float, taken: list[tuple[int, int]]) -> None:
            nonlocal found, record
            if not rest:
                if total > record[0] + self.slack or (total > record[0] - self.slack and budget - left < record[1]):
                    found, record = list(taken), (total, budget - left)
                return
            s = self._subsets(rest)
            after = left - self.levels
            n = bound(after)
            hopes = np.where(
                (n >= 0)[:, None], self.worth[:, s] + stacked[np.maximum(n, 0)[:, None], (rest ^ s)[None]], -np.inf
            )
            order = np.argsort(-hopes, axis=None, kind="stable")
            for flat in order:
                level, i = divmod(int(flat), len(s))
                if not total + hopes[level, i] > record[0] + self.slack:
                    return
                taken.append((int(s[i]), level))
                go(rest ^ int(s[i]), float(after[level]), total + float(self.worth[level, s[i]]), taken)
                taken.pop()

        go(self.full, budget, 0.0, [])
        return found

    def _around(self, served: int, level: int) -> int:
        """The smallest group of this cost that is worth W to the tasks it serves."""
        if not self.overlap:
            return served
        groups = np.arange(1, self.full + 1)
        groups = groups[((groups & served) == served) & (self.level_of[groups] == level)]
        members = ((groups[:, None] >> np.arange(self.k)) & 1).astype(bool)
        mine = ((served >> np.arange(self.k)) & 1).astype(bool)
        totals = np.where(mine, np.where(members, values_of(self.z, members, self.total), 0.0), 0.0).sum(1)
        good = groups[totals >= totals.max() - self.slack * 1e-3]
        return int(good[np.lexsort((good, self.size_of[good]))[0]])
