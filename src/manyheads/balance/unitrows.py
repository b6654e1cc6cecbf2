"""The gradients in units of their lengths: what of a Gramian is directions, and how many of those there are."""

from __future__ import annotations

import numpy as np

from .aggregation import Array

RANK = float(np.finfo(np.float32).eps)
"""Relative rounding of the gradients that a Gramian is measured from. Times the number of rows it bounds what rounding
of its entries does to its eigenvalues."""


def unit_rows(gram: Array) -> tuple[Array, Array, Array]:
    """What of a Gramian does not depend on the gradients' sizes.

    Args:
        gram: (tasks, tasks).

    Returns:
        The positions of the gradients that are not zero; the lengths of these; their cosines.
    """
    lengths = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    live = np.flatnonzero(lengths > 0)
    n = lengths[live]
    cosines = np.clip(gram[np.ix_(live, live)] / n[:, None] / n, -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    return live, n, cosines


def spectrum(cosines: Array) -> tuple[Array, Array]:
    """The directions that are told apart from rounding.

    A gradient in float32 is known up to `RANK`, so each of the K x K cosines is, and an eigenvalue up to K `RANK` times
    the largest. What is not above that may be rounding alone, and a method that divides by it would be too.

    Args:
        cosines: C (rows, rows).

    Returns:
        The eigenvalues above that, in rising order, and their eigenvectors as columns.
    """
    values, vectors = np.linalg.eigh(cosines)
    kept = values > RANK * len(cosines) * values[-1]
    return values[kept], vectors[:, kept]


def even_rows(cosines: Array, wanted: Array) -> tuple[Array, float]:
    """Coefficients of unit rows whose sum has these projections onto them, or the nearest that there are.

    Args:
        cosines: C (rows, rows).
        wanted: (rows,), not all 0.

    Returns:
        The shortest v that minimises ||C v - wanted||, and the largest entry of that difference over that of `wanted`.
    """
    values, vectors = spectrum(cosines)
    v = vectors @ ((vectors.T @ wanted) / values)
    missed = wanted - cosines @ v
    v += vectors @ ((vectors.T @ missed) / values)  # once more on what rounding left
    return v, float(np.abs(cosines @ v - wanted).max() / np.abs(wanted).max())
