"""Metrics of numbers."""

from __future__ import annotations

from . import formulas as f
from .contract import TOO_LARGE, VARIED, Metric

_NUMBER, _LEVEL = frozenset({"regression", "count"}), frozenset({"ordinal"})

NUMBERS = (
    Metric("r2", True, 1, "value", _NUMBER, VARIED, f.r2, constant=0),
    Metric("r2_log1p", True, 1, "value", _NUMBER, "Numbers above -1 that differ are needed.", f.r2_log1p,
           constant=0, centre="mean_log1p"),
    Metric("explained_variance", True, 1, "value", _NUMBER, VARIED, f.explained_variance, constant=0),
    Metric("d2_absolute_error_score", True, 1, "value", _NUMBER, VARIED, f.d2_absolute, constant=0,
           centre="median"),
    Metric("mean_squared_error", False, 0, "value", _NUMBER | _LEVEL, TOO_LARGE, f.squared),
    Metric("root_mean_squared_error", False, 0, "value", _NUMBER | _LEVEL, TOO_LARGE, f.root),
    Metric("mean_absolute_error", False, 0, "value", _NUMBER | _LEVEL, TOO_LARGE, f.absolute, centre="median"),
    Metric("median_absolute_error", False, 0, "value", _NUMBER | _LEVEL, TOO_LARGE, f.median_absolute,
           centre="median"),
    Metric("mean_poisson_deviance", False, 0, "value", _NUMBER,
           "Labels must not be negative, and predictions must be positive.", f.poisson_deviance),
)  # fmt: skip
