r"""Float64 solvers on the Gramian G of the tasks' gradients: G[i, j] = <g_i, g_j>.

All of them work on unit rows: with :math:`n_k = |g_k|` and :math:`C_{ij} = G_{ij} / (n_i n_j)`, the cosines, a weight
:math:`w_k` of :math:`g_k` is a weight :math:`v_k = w_k n_k` of :math:`g_k / n_k`. So gradients of 1e-8, of 1e8, and of
both at once are one problem, and a residual means the same for all. A row of zeros is taken out and gets a finite
weight, with which the update is that of the other rows.

The quadratic programs are non-negative least squares over a root R of C (:math:`R^T R = C`), solved by active sets,
which end after finitely many steps in the exact point. Where rows depend on each other the weights are not the only
ones, but their sum of gradients is.

Gradients that are known up to a `rounding` (the spacing of float32, say) have cosines that are known as far, and the
eigenvalues of K of them K times as far. Methods whose weights may be as large as 1 / rounding for nearly opposite rows
then solve with :math:`C + K\,\mathrm{rounding}\,I`, which keeps rounding from becoming the update.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

Array = np.ndarray

FLAT = 3e-8
"""A combination of unit rows, weights of sum 1, that is shorter than this is 0: C holds its square, to 1e-16 or so."""
STATIONARY = "Pareto-stationary"
ROUNDING = 1e-15
"""Eigenvalues of C below this part of the largest are 0."""
GOOD = 1e-11
"""A residual that is not worth another attempt."""
RIDGES = (1e-12, 1e-13, 1e-14, 1e-15)
"""Proximal terms to try where rows are nearly opposite, so that the plain solution has weights of 1e12 and is lost."""


class Solved(NamedTuple):
    """Weights; how far the conditions that define them are missed, in units of unit rows; what could not be kept."""

    weights: Array
    residual: float
    note: str = ""


class _Rows(NamedTuple):
    """The rows that are not 0, in units of their norms."""

    live: Array
    """(tasks,) bool."""
    norms: Array
    """n (rows,)."""
    cosines: Array
    """C (rows, rows)."""
    root: Array
    """R (rank, rows), with R^T R = C."""


def _rows(gram: Array, take: Array | None = None, rounding: float = 0.0) -> _Rows:
    diagonal = np.diagonal(gram)
    live = diagonal > np.finfo(float).tiny
    if take is not None:
        live = live & take
    norms = np.sqrt(diagonal[live])
    cosines = np.clip(gram[np.ix_(live, live)] / norms[:, None] / norms, -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0 + len(cosines) * rounding)
    values, vectors = np.linalg.eigh(cosines)
    keep = values > ROUNDING * values.max(initial=1.0)
    root = np.sqrt(values[keep])[:, None] * vectors[:, keep].T
    if (values < -1e-13 * len(values)).any():  # gradients of less precision: the nearest matrix that is a Gramian
        cosines = root.T @ root
    return _Rows(live, norms, cosines, root)


def nonnegative(root: Array, target: Array) -> Array:
    r"""The non-negative least squares solution: z >= 0 with the least :math:`|R z - q|`.

    The conditions are :math:`s = R^T (R z - q) \ge 0` and :math:`z_k s_k = 0`. Where they are missed by more than
    rounding (columns that are opposite but for 1e-12), proximal steps
    :math:`z \leftarrow \arg\min |R z' - q|^2 + \rho |z' - z|^2` find a solution that is short enough to be exact.

    Shape:
        root: (rank, rows); target: (rank,); returns (rows,).
    """
    best, least = np.zeros(root.shape[1]), np.inf
    for ridge in (0.0, *RIDGES):
        z = np.zeros(root.shape[1])
        for _ in range(3 if ridge else 1):
            try:
                if ridge:
                    damp = np.sqrt(ridge)
                    z, _ = nnls(np.vstack([root, damp * np.eye(len(z))]), np.concatenate([target, damp * z]))
                else:
                    z, _ = nnls(root, target)
            except RuntimeError:  # it went round in circles among dependent columns
                break
            missed = complementary(z, root.T @ (root @ z - target))
            if missed < least:
                best, least = z, missed
            if least < GOOD:
                return best
    return best


def complementary(z: Array, slack: Array) -> float:
    r"""How far z >= 0, s >= 0, z_k s_k = 0 are missed: :math:`\max_k |\min(z_k, s_k)|`."""
    return float(np.abs(np.minimum(z, slack)).max(initial=0.0))


def min_norm(gram: Array, preference: Array | None = None) -> Solved:
    r"""The shortest convex combination of the rows: w >= 0, sum w = 1, with the least w'Gw where p = 1.

    It is the direction d that serves the worst-served row best. With :math:`b_k = p_k / n_k` and v >= 0 of sum 1 the
    conditions are :math:`v_k \ge 0,\ (Cv)_k \ge t b_k`, one of them an equality for each k, with
    :math:`t = v^T C v / b^T v`: the gains :math:`g_k^T d` are at least :math:`p_k` times one common level, which with
    p = 1 is :math:`|d|^2`. Found as the non-negative least squares of :math:`|R v|^2 + (b^T v - 1)^2`.

    A row of zeros gets its share of the preferences, and the others the rest.

    Args:
        gram: G (K, K).
        preference: p (K,), 0 or more; 1 by default.
    """
    p = np.ones(len(gram)) if preference is None or not preference.any() else preference
    rows = _rows(gram)
    weights = p / p.sum()
    own = p[rows.live]
    if not len(own):
        return Solved(weights, 0.0)
    v, missed = _shortest(rows, (own if own.any() else np.ones(len(own))) / rows.norms)
    scaled = v / (rows.norms / rows.norms.min())
    weights[rows.live] = scaled / scaled.sum() * (1.0 - weights[~rows.live].sum())
    return Solved(weights, missed, STATIONARY if np.linalg.norm(rows.root @ v) < FLAT else "")


def _shortest(rows: _Rows, shares: Array) -> tuple[Array, float]:
    """(v of sum 1 with v >= 0, (Cv)_k >= t b_k, one of them an equality; the residual)."""
    b = shares / shares.max()
    target = np.zeros(len(rows.root) + 1)
    target[-1] = 1.0
    v = nonnegative(np.vstack([rows.root, b]), target)
    v = v / v.sum()
    gains = rows.cosines @ v
    return v, complementary(v, gains - (v @ gains) / (b @ v) * b)


def _nearest(rows: _Rows, u: Array) -> tuple[Array, float]:
    """(v >= u with the least v'Cv, the residual): the combination u of unit rows, brought into their dual cone."""
    extra = nonnegative(rows.root, -(rows.root @ u))
    v = u + extra
    return v, complementary(extra, rows.cosines @ v)


def project_mean(gram: Array, preference: Array | None = None, rounding: float = 0.0) -> Solved:
    r"""The preference-weighted mean of the rows, projected once onto the cone of directions that conflict with no row.

    With :math:`u_k = p_k / K` it is w >= u with the least w'Gw; then (Gw)_k >= 0, with equality where w_k > u_k.

    A row of zeros keeps p_k / K.
    """
    weights = (np.ones(len(gram)) if preference is None else preference) / len(gram)
    rows = _rows(gram, rounding=rounding)
    mean = weights[rows.live] * rows.norms
    size = mean.sum()
    if not size:
        return Solved(weights, 0.0)
    v, missed = _nearest(rows, mean / size)
    weights[rows.live] = v * size / rows.norms
    return Solved(weights, missed)


def mean_projected(gram: Array, preference: Array | None = None, rounding: float = 0.0) -> Solved:
    r"""The mean of the rows' own projections onto the cone of directions that conflict with no row.

    For each i, :math:`v_i` is v >= e_i with the least v'Cv, and :math:`w = \frac1K \sum_i p_i n_i v_i / n`. The
    residual is the largest of the K programs'.

    A row of zeros keeps p_k / K.
    """
    p = np.ones(len(gram)) if preference is None else preference
    rows = _rows(gram, rounding=rounding)
    mean = p[rows.live] / len(gram) * rows.norms
    total, worst = np.zeros(len(mean)), 0.0
    for size, unit in zip(mean, np.eye(len(mean)), strict=True):
        if size:
            v, missed = _nearest(rows, unit)
            total, worst = total + size * v, max(worst, missed)
    weights = p / len(gram)
    weights[rows.live] = total / rows.norms
    return Solved(weights, worst)


def conflict_averse(gram: Array, c: float, preference: Array | None = None, rounding: float = 0.0) -> Solved:
    r"""The direction within c |g_0| of the mean g_0 whose worst inner product with a row is the best.

    .. math:: \max_d \min_k g_k^T d \quad\text{with}\quad |d - g_0| \le c |g_0|, \qquad g_0 = \tfrac1K \sum_k p_k g_k.

    For a level t of that inner product the nearest d to g_0 with :math:`g_k^T d \ge t` is :math:`d = g_0 + |g_0| \sum_k
    v_k g_k / n_k`, where, with :math:`b_k = 1 / n_k` (up to a factor) and e the cosines of the rows with g_0,

    .. math:: v \ge 0, \quad s = C v + e - t b \ge 0, \quad v_k s_k = 0.

    Its distance :math:`\rho(t) = \sqrt{v^T C v}` is convex in t; Newton's steps to :math:`\rho(t) = c`, from above, are
    :math:`t \leftarrow (e^T v + c \rho) / b^T v`, the values of the paper's dual problem. The weights are
    :math:`p_k / K + |g_0| v_k / n_k`. The residual is the larger of what v and s miss and of the duality gap
    per unit of v, :math:`\rho |\rho - c| / \max(1, \sum_k v_k)`.

    Where the rows' hull holds 0, t can be at most 0, and d may be undefined: it is then the nearest to g_0 of the best
    ones, with the note "Pareto-stationary".

    A row of zeros keeps p_k / K.
    """
    weights = (np.ones(len(gram)) if preference is None else preference) / len(gram)
    rows = _rows(gram, rounding=rounding)
    mean = weights[rows.live] * rows.norms
    size = mean.sum()
    if not size or not c:
        return Solved(weights, 0.0)
    length = float(np.linalg.norm(rows.root @ (mean / size)))
    if length < FLAT:  # no direction to stay near to
        return Solved(weights, length, STATIONARY)
    e = rows.cosines @ (mean / size) / length
    b = rows.norms.min() / rows.norms
    t = 0.0
    y, v, rho = _at_least(rows, -e)
    if rho < c:  # more than "no conflict" is allowed
        hull, _ = _shortest(rows, b)
        note = STATIONARY if np.linalg.norm(rows.root @ hull) < FLAT else ""
        y = np.zeros(len(b))
        y[np.argmin(e / b)] = 1.0
    if rho >= c or not note:
        t, v, rho = _level(rows, e, b, c, y)
        note = ""
    missed = complementary(v, rows.cosines @ v + e - t * b)
    weights[rows.live] += size * length * v / rows.norms
    gap = 0.0 if note else rho * abs(rho - c) / max(1.0, v.sum())
    return Solved(weights, max(missed, gap), note)


def _level(rows: _Rows, e: Array, b: Array, c: float, y: Array) -> tuple[float, Array, float]:
    """(t, v, rho) with rho(t) = c; y is a first combination, from which the first t is a bound from above."""
    t, v, rho = np.inf, y, np.inf
    for _ in range(100):
        level = float((e @ y + c * np.linalg.norm(rows.root @ y)) / (b @ y))
        if level >= t:  # the last step was rounding
            break
        t = level
        y, v, rho = _at_least(rows, t * b - e)
        if rho <= c:
            break
    return t, v, rho


def _at_least(rows: _Rows, wanted: Array) -> tuple[Array, Array, float]:
    """The shortest x = Rv with (R'x)_k >= f_k, v >= 0: (v up to a factor, v, |x|); |x| is inf where there is none."""
    target = np.zeros(len(rows.root) + 1)
    target[-1] = 1.0
    y = nonnegative(np.vstack([rows.root, wanted]), target)
    left = 1.0 - wanted @ y
    if left <= 0.0:
        return y, y, np.inf
    v = y / left
    return y, v, float(np.linalg.norm(rows.root @ v))


def fair(gram: Array, alpha: float, preference: Array | None = None) -> Solved:
    r"""The weights a > 0 with :math:`(G a)_k = (p_k / a_k)^{1/\alpha}`; alpha = 1 is the Nash bargaining solution.

    With :math:`x_k = a_k n_k` and :math:`\beta = 1/\alpha` it is :math:`(C x)_k = q_k x_k^{-\beta}`,
    :math:`q_k = p_k^\beta n_k^{\beta - 1}`: the one minimum of the convex
    :math:`\tfrac12 x^T C x - \sum_k q_k x_k^{1-\beta} / (1-\beta)`, found by Newton's steps with a line search. The
    residual is :math:`\max_k |(C x)_k - q_k x_k^{-\beta}| / \bar x`.

    There is no such a where the rows' hull holds 0 (where a combination of unit rows is shorter than `FLAT`). Then the
    weights are those of that combination, the note is "Pareto-stationary", and the residual is its length.

    A row of zeros gets its share, by preferences, of the sum of all weights; a row of preference 0 gets 0.
    """
    p = np.ones(len(gram)) if preference is None else preference
    rows = _rows(gram, p > 0)
    weights = p / max(p.sum(), np.finfo(float).tiny)
    if not rows.live.any():
        return Solved(weights, 0.0)
    beta = 1.0 / alpha
    logs = beta * np.log(p[rows.live]) + (beta - 1.0) * np.log(rows.norms)
    middle = logs.mean()
    q = np.exp(logs - middle)
    v, _ = _shortest(rows, np.ones(len(q)))
    length = float(np.linalg.norm(rows.root @ v))
    x = None if length < FLAT else _balanced(rows.cosines, q, beta)
    if x is None:
        found = Solved(v / rows.norms, length, STATIONARY)
    else:
        missed = float(np.abs(rows.cosines @ x - q * x**-beta).max() / x.mean())
        found = Solved(x * np.exp(middle / (1.0 + beta)) / rows.norms, missed)
    share = weights[rows.live].sum()
    weights *= found.weights.sum() / share
    weights[rows.live] = found.weights
    return found._replace(weights=weights)


def _balanced(cosines: Array, q: Array, beta: float) -> Array | None:
    r"""x > 0 with :math:`(C x)_k = q_k x_k^{-\beta}`; None where rounding hides that the hull does not hold 0."""
    x = q ** (1.0 / (1.0 + beta))
    identity, last = np.eye(len(q)), np.inf
    for _ in range(200):
        if last > 0.01:  # of all multiples of x the least
            square = x @ cosines @ x
            if square <= 0.0:
                return None
            x = x * ((q * x ** (1.0 - beta)).sum() / square) ** (1.0 / (1.0 + beta))
        wanted = q * x**-beta
        slope = cosines @ x - wanted
        unit = np.sqrt(beta * wanted / x)  # in these units the barrier's curvature is 1, and nothing is singular
        try:
            step = np.linalg.solve(cosines / unit[:, None] / unit + identity, -slope / unit) / unit
        except np.linalg.LinAlgError:
            return None
        relative = step / x
        size = float(np.abs(relative).max())
        if size < 0.01:  # from here on it converges quadratically, until rounding stops it
            if size >= 0.5 * last:
                break
            x, last = x + step, size
            continue
        ahead = min(1.0, -0.9 / min(relative.min(), -0.9))
        steep = abs(step @ slope)
        for _ in range(50):
            y = x + ahead * step
            if step @ (cosines @ y - q * y**-beta) <= 0.5 * steep:
                break
            ahead /= 2
        x = y
    return x
