"""Which tasks should share: the best groups for a budget of models, by measured gains; and the tree of likeness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..results import Dendrogram, Grouping, Merge, Number, Relatedness
from .subsets import Array, Cost, Prices, Served, Subsets, values_of

Gains = Mapping[str, Mapping[str, float | None]]
"""source -> target -> what the source's presence does to the target; what is not known is None, NaN or not there."""

EXACT = 15
"""Tasks up to which the best grouping is found for certain."""
RESTARTS = 12
TIE = 1e-9
"""Totals this close (relative to the largest gain) are equal: fewer models win, then smaller ones."""


def best(
    gains: Gains,
    budget: float,
    *,
    overlap: bool = True,
    cost: Cost | None = None,
    margin: float = 0.0,
    total: bool = False,
) -> Grouping:
    r"""The groups of tasks, each a model of its own, that promise the largest gain at a given budget.

    .. math:: \max_{\mathcal G} \sum_k \max_{G \in \mathcal G,\, k \in G} v(G, k), \qquad
        v(G, k) = \frac{1}{|G| - 1} \sum_{j \in G,\, j \ne k} Z_{j \to k}, \quad v(\{k\}, k) = 0,

    where :math:`Z_{j \to k}` is the gain of task k from task j, every task is in a group, and the costs of all groups
    sum up to the budget at most. With `overlap` a task may sit in several groups, in all but one of which it is there
    for the others' sake alone; without, groups are a partition.

    Up to 15 tasks the answer is exact. Let W(S) be the largest :math:`\sum_{k \in S} v(G, k)` over groups
    :math:`G \supseteq S` (:math:`G = S` without overlap), so that S is what a model serves. A best grouping divides the
    tasks into served sets, and F_n(R) = max over S of W(S) + F_{n-1}(R - S), S with the first task of R, is the best
    division of R into at most n of them. Where groups have costs, F bounds a depth-first search from above. Beyond 15
    tasks: single additions, removals, moves and exchanges from many fixed starts, each taken while it pays; the result
    is a good grouping, not for certain the best.

    Args:
        gains: source -> target -> gain, positive = better, 0 = none, in one unit for all (a fraction, say). Measures
            whose zero means something else (cosines, RSA, CKA) go through `centred` first. A gain that is not known
            counts as 0, and the result's note says how many there are.
        budget: models at most; with `cost`, the sum of their costs.
        overlap: whether a task may sit in several groups.
        cost: what a model of some tasks costs, more than 0; 1 for each by default.
        margin: what a unit of cost has to add to the sum of gains: the sum minus `margin` times the cost is made as
            large as can be. Measured gains have noise, from which finer groups always seem to win a little.
        total: v is the sum over the others of a group, not their mean: for likenesses rather than gains, see `advised`.

    Raises:
        ValueError: there is no task, a task is not among the sources or the targets, a cost is not positive, or no
            grouping is within the budget.

    Example:
        >>> found = best({"a": {"b": 0.2, "c": -0.1}, "b": {"a": 0.1, "c": -0.1}, "c": {"a": -0.1, "b": -0.3}}, 2)
        >>> found.groups
        (('a', 'b'), ('c',))

    Reference:
        Which Tasks Should Be Learned Together in Multi-task Learning? Standley, Zamir, Chen, Guibas, Malik, Savarese,
        2020. Efficiently Identifying Task Groupings for Multi-Task Learning. Fifty, Amid, Zhao, Yu, Anil, Finn, 2021.

    Differs from the papers:
        A group of one has gain 0, not a penalty; the search is dynamic programming over subsets, whose time does not
        depend on the gains.
    """
    names = names_of(gains)
    z, unknown = _matrix(gains, names)
    price = Prices(names, cost)
    if price.cheapest > budget:
        raise ValueError(
            f"`budget` should be enough for one model, which costs {price.cheapest:g} at least. Found {budget:g}."
        )
    slack = TIE * max(1.0, float(np.abs(z).max())) if len(names) else 0.0
    within = budget * (1 + 1e-12)  # sums of costs are rounded
    exact = len(names) <= EXACT
    if exact:
        found, exact = Subsets(z, overlap, price, slack, margin, total).best(within)
    else:
        found = _search(z, overlap, price, within, slack, margin, total)
    if found is None:
        raise ValueError(f"`budget` should let every task be in a model. Found {budget:g}, for which no grouping does.")
    return _grouping(names, z, found, budget, overlap, price, exact, unknown, total)


def centred(similarities: Gains) -> dict[str, dict[str, float | None]]:
    r"""Similarities without a zero of their own (cosine, RSA, CKA) as gains: zero is put between like and unlike pairs.

    Nets of unrelated tasks are alike too, since they read the same inputs: a CKA of 0.5 is not a gain. The pairs of
    tasks are split into two classes, the like and the unlike, where the variance within the classes is smallest, and
    :math:`Z = (s - (\bar s_{like} + \bar s_{unlike}) / 2) / \sigma` with the standard deviation of all pairs. A group
    then pays where its tasks are nearer to each other than the middle between the classes; a task far from all is best
    left alone; where all pairs are alike every gain is 0, and the simplest grouping, all together, wins the tie.

    What it cannot say is whether sharing pays at all: any noise has a smallest variance somewhere. That is for a
    trained comparison to decide (`manyheads.groups`). The mean over all pairs instead of the middle would lie among the
    unlike pairs where groups are many and small; centring row by row would make groups out of tasks that are far from
    everything.

    Args:
        similarities: source -> target -> similarity, on any scale; the measure need not be symmetric.

    Reference:
        A Threshold Selection Method from Gray-Level Histograms. Otsu, 1979.

    Example:
        >>> centred({"a": {"b": 0.9, "c": 0.5}, "b": {"a": 0.9, "c": 0.5}, "c": {"a": 0.5, "b": 0.5}})["c"]["a"] < 0
        True
    """
    names = names_of(similarities)
    s, known = _values(similarities, names)
    values = np.sort(s[known])
    zero, size = _middle(values), float(values.std()) if len(values) else 0.0
    if size <= 1e-12 * max(1.0, float(np.abs(values).max(initial=0.0))):
        zero, size = float(values.mean()) if len(values) else 0.0, math.inf
    gains: dict[str, dict[str, float | None]] = {}
    for i, a in enumerate(names):
        gains[a] = {b: float((s[i, j] - zero) / size) if known[i, j] else None for j, b in enumerate(names) if i != j}
    return gains


def dendrogram(gains: Gains) -> Dendrogram:
    r"""The tree that average linkage makes of tasks: those of the highest mutual gain are joined first.

    The likeness of two tasks is :math:`(Z_{ij} + Z_{ji}) / 2`, that of two clusters the mean over their pairs. Gains
    that are not known count as the mean of those known.

    Args:
        gains: source -> target -> gain, or a similarity on any scale.

    Raises:
        ValueError: there is no task.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    names = names_of(gains)
    if len(names) == 1:
        return Dendrogram(tasks=tuple(names), merges=(), leaves=(0,))
    z, known = _values(gains, names)
    np.fill_diagonal(known, False)
    z = np.where(known, z, z[known].mean() if known.any() else 0.0)
    like = (z + z.T) / 2
    top = float(like.max())
    far = top - like
    np.fill_diagonal(far, 0.0)
    tree = linkage(squareform(np.maximum(far, 0.0), checks=False), "average")
    merges = tuple(Merge(left=int(a), right=int(b), height=top - float(h), size=int(n)) for a, b, h, n in tree)
    return Dendrogram(tasks=tuple(names), merges=merges, leaves=tuple(int(i) for i in leaves_list(tree)))


def advised(
    found: Relatedness, budget: float, *, overlap: bool | None = None, cost: Cost | None = None, margin: float = 0.0
) -> Grouping:
    r"""The groups that an estimator's answer speaks for: `best` of its gains, or of its likenesses.

    A gain says what a source brings, and a group's is the mean over its sources (`best`). A likeness says who belongs
    together, and its mean would have like tasks parted for the sake of the likest pairs, and an odd one joined to them
    where its share in the mean is small. So likenesses are `centred` and summed over pairs: like pairs together and
    unlike ones apart count for a grouping, the others against it. The gain of a single step (`lookahead`) is taken as a
    likeness: on many tables nearly all are a little above 0, which would mean all together.

    Args:
        found: the answer.
        overlap: whether a task may sit in several groups; by default where the answer is gains.
        budget, cost, margin: as in `best`.

    Reference:
        Correlation Clustering. Bansal, Blum, Chawla, 2004 (the sum over pairs).
    """
    promised = found.gain and found.lasting
    shared = promised if overlap is None else overlap
    return best(gains_of(found), budget, overlap=shared, cost=cost, margin=margin, total=not promised)


def gains_of(found: Relatedness) -> Gains:
    """What an estimator found, as gains: as they are where their 0 means that sharing changes nothing, else `centred`.

    Args:
        found: the answer.
    """
    rows = {a: {b: found.matrix[i][j] for j, b in enumerate(found.tasks) if i != j} for i, a in enumerate(found.tasks)}
    return rows if found.gain and found.lasting else centred(rows)


def names_of(gains: Gains) -> list[str]:
    """The tasks, in the order of the sources.

    Raises:
        ValueError: there is none, or a target is no source.
    """
    names = list(gains)
    if not names:
        raise ValueError("Gains should be given for a task or more. Found none.")
    for source, row in gains.items():
        for target in row:
            if target not in gains:
                raise ValueError(f"Every target should be among the sources. Found `{target}` under `{source}` alone.")
    return names


def value_of(gains: Gains, groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """The predicted gain of each task from these groups: that of the best group it is in.

    Raises:
        ValueError: a task is in no group.
    """
    names = names_of(gains)
    z, _ = _matrix(gains, names)
    members = np.array([[n in group for n in names] for group in groups], bool)
    values = values_of(z, members)
    if missing := [n for n, count in zip(names, members.sum(0).tolist(), strict=True) if not count]:
        raise ValueError(f"Every task should be in a group. Found none with `{missing[0]}`.")
    return dict(zip(names, values.max(0).tolist(), strict=True))


# ---- gains as numbers


def _values(gains: Gains, names: Sequence[str]) -> tuple[Array, NDArray[np.bool_]]:
    """(gains (tasks, tasks) [source, target], which of them are known); the diagonal is not looked at."""
    rows = [[gains[a].get(b) if a != b else None for b in names] for a in names]
    values = np.array([[np.nan if v is None else float(v) for v in row] for row in rows], np.float64)
    known = np.isfinite(values)
    return np.where(known, values, 0.0).reshape(len(names), len(names)), known.reshape(len(names), len(names))


def _matrix(gains: Gains, names: Sequence[str]) -> tuple[Array, int]:
    """(gains with 0 for what is not known, how many are not known)."""
    values, known = _values(gains, names)
    return values, int((~known).sum()) - len(names)


def _middle(values: Array) -> float:
    """The middle between the means of the two classes that sorted values fall into; their mean where they do not."""
    n = len(values)
    if n < 2:
        return float(values.mean()) if n else 0.0
    low = np.cumsum(values)[:-1]
    counts = np.arange(1, n)
    means = low / counts, (values.sum() - low) / (n - counts)
    at = int((counts * (n - counts) * (means[1] - means[0]) ** 2).argmax())
    return float(means[0][at] + means[1][at]) / 2


# ---- beyond: a local search


def _search(
    z: Array, overlap: bool, price: Prices, budget: float, slack: float, margin: float, total: bool
) -> list[Served] | None:
    """The best of some starts, each improved by single changes while they pay; always the same for the same gains."""
    k = len(z)
    most = min(k, int(budget / price.cheapest))
    if price.cost is None:
        counts = sorted({1, 2, most, *range(max(1, most - 2), most + 1)} & set(range(1, most + 1)))
    else:
        counts = list(range(1, most + 1)) if most <= RESTARTS else sorted({1 + i * most // RESTARTS for i in range(12)})
    random = np.random.default_rng(0)
    record: tuple[float, float, int] | None = None
    found: NDArray[np.bool_] | None = None
    for n in counts:
        starts = [_clusters(z, n)] + [random.integers(n, size=k) for _ in range(max(1, RESTARTS // len(counts)))]
        for labels in starts:
            members = np.zeros((n, k), bool)
            members[labels, np.arange(k)] = True
            members = _improved(z, members, False, price, budget, slack, margin, total)
            if overlap:
                members = _improved(z, members, True, price, budget, slack, margin, total)
            members = members[members.any(1)]
            spent = _cost(members, price)
            if spent > budget or not members.any(0).all():
                continue
            worth = float(values_of(z, members, total).max(0).sum()) - margin * spent
            key = (round(worth / slack) if slack else worth, -spent, -int(members.sum()))
            if record is None or key > record:
                record, found = key, members
    if found is None:
        return None
    serves = values_of(z, found, total).argmax(0)
    bits = [sum(1 << i for i in np.flatnonzero(row).tolist()) for row in found]
    served = [sum(1 << i for i in np.flatnonzero(serves == g).tolist()) for g in range(len(found))]
    return [Served(group, tasks) for group, tasks in zip(bits, served, strict=True) if tasks]


def _clusters(z: Array, n: int) -> NDArray[np.int64]:
    """n clusters by average linkage on mutual gains."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    like = (z + z.T) / 2
    far = like.max() - like
    np.fill_diagonal(far, 0.0)
    return fcluster(linkage(squareform(far, checks=False), "average"), n, "maxclust").astype(np.int64) - 1


def _cost(members: NDArray[np.bool_], price: Prices) -> float:
    """The cost of groups (groups, tasks); an empty one costs nothing."""
    return sum(price(sum(1 << i for i in np.flatnonzero(row).tolist())) for row in members if row.any())


def _improved(
    z: Array,
    members: NDArray[np.bool_],
    overlap: bool,
    price: Prices,
    budget: float,
    slack: float,
    margin: float,
    total: bool,
) -> NDArray[np.bool_]:
    """The groups after the best single change, again and again until none pays.

    Shape:
        z: (tasks, tasks). members: (groups, tasks).
    """
    reached = _worth(z, members[None], margin, total)[0]
    while True:
        better = False
        for changes in (_flips(members) if overlap else _moves(members), _exchanges(members)):
            best_gain, best_one = slack, None
            for part in changes:
                totals = _worth(z, part, margin, total)
                order = np.argsort(-totals, kind="stable")
                for i in order[:20].tolist():
                    if totals[i] - reached <= best_gain:
                        break
                    if price.cost is None or _cost(part[i], price) <= budget:
                        best_gain, best_one = totals[i] - reached, part[i].copy()
                        break
            if best_one is not None:
                members, reached, better = best_one, reached + best_gain, True
                break
        if not better:
            return members


def _worth(z: Array, members: NDArray[np.bool_], margin: float, total: bool) -> Array:
    """The totals of many groupings (many, groups, tasks), the margin for each group taken off.

    Minus infinity where a task is in no group.
    """
    return np.asarray(values_of(z, members, total).max(1).sum(1)) - margin * members.any(-1).sum(-1)


def _flips(members: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """A task more or less in a group: per group (tasks, groups, tasks)."""
    g, k = members.shape
    changed = []
    for group in range(g):
        many = np.repeat(members[None], k, 0)
        many[np.arange(k), group, np.arange(k)] ^= True
        changed.append(many)
    return changed


def _moves(members: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """A task in another group instead: per group (tasks, groups, tasks)."""
    g, k = members.shape
    changed = []
    for group in range(g):
        many = np.repeat(members[None], k, 0)
        many[np.arange(k), :, np.arange(k)] = False
        many[np.arange(k), group, np.arange(k)] = True
        changed.append(many)
    return changed


def _exchanges(members: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Two tasks in each other's place: (pairs, groups, tasks), some pairs at a time."""
    k = members.shape[1]
    changed = []
    for first in range(k - 1):
        others = np.arange(first + 1, k)
        others = others[(members[:, first, None] != members[:, others]).any(0)]
        if not len(others):
            continue
        many = np.repeat(members[None], len(others), 0)
        many[:, :, first] = members[:, others].T
        many[np.arange(len(others)), :, others] = members[:, first]
        changed.append(many)
    return changed


# ---- the result


def _grouping(
    names: Sequence[str],
    z: Array,
    found: Sequence[Served],
    budget: float,
    overlap: bool,
    price: Prices,
    exact: bool,
    unknown: int,
    total: bool,
) -> Grouping:
    """The answer in the order of the tasks."""
    k = len(names)
    found = sorted(found, key=lambda one: one.tasks & -one.tasks)
    members = np.array([[bool(one.group >> i & 1) for i in range(k)] for one in found])
    values = values_of(z, members, total)
    serves = {n: next(g for g, one in enumerate(found) if one.tasks >> i & 1) for i, n in enumerate(names)}
    gains: dict[str, Number] = {n: float(values[serves[n], i]) for i, n in enumerate(names)}
    notes = []
    if unknown:
        notes.append(f"{unknown} of {k * (k - 1)} gains are not known and count as 0.")
    if not exact:
        notes.append(f"Found by a search from {RESTARTS} starts: a good grouping, not for certain the best.")
    return Grouping(
        groups=tuple(tuple(n for n, there in zip(names, row, strict=True) if there) for row in members),
        serves=serves,
        gains=gains,
        total=float(sum(values[g, i] for i, g in enumerate(serves.values()))),
        exact=exact,
        budget=budget,
        cost=sum(price(one.group) for one in found),
        overlap=overlap,
        note=" ".join(notes),
    )
