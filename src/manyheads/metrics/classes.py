"""Metrics of classes: yes or no, one of several, ordered levels, several labels a row."""

from __future__ import annotations

from . import formulas as f
from .contract import TOO_LARGE, VARIED, Metric

_LEVEL, _BINARY, _LABELS = frozenset({"ordinal"}), frozenset({"binary"}), frozenset({"multilabel"})
_CLASS = frozenset({"binary", "multiclass", "ordinal"})
_BOTH, _POSITIVE = (
    "Labels of both classes are needed.",
    "No row is positive, neither by its label nor by its prediction.",
)

CLASSES = (
    Metric("roc_auc", True, 1, "proba", _BINARY | _LABELS, _BOTH, f.auc, f.each(f.auc), constant=0.5,
           matrix_parts=f.by_label(f.auc)),
    Metric("roc_auc_ovr", True, 1, "proba", _CLASS - _BINARY, "Labels of two classes are needed.", f.auc_ovr,
           constant=0.5, dimensions=(2,), parts=f.auc_by_class, of_part="roc_auc"),
    Metric("average_precision", True, 1, "proba", _BINARY | _LABELS, "A positive label is needed.",
           f.average_precision, f.each(f.average_precision), matrix_parts=f.by_label(f.average_precision)),
    Metric("log_loss", False, 0, "proba", _CLASS | _LABELS, TOO_LARGE, f.log_loss, f.each(f.log_loss),
           dimensions=(1, 2), matrix_parts=f.by_label(f.log_loss)),
    Metric("brier_score", False, 0, "proba", _CLASS | _LABELS, TOO_LARGE, f.brier, f.each(f.brier),
           dimensions=(1, 2), matrix_parts=f.by_label(f.brier)),
    Metric("accuracy", True, 1, "value", _CLASS | _LABELS, TOO_LARGE, f.accuracy, f.subset, centre="mode"),
    Metric("balanced_accuracy", True, 1, "value", _CLASS, TOO_LARGE, f.balanced_accuracy, centre="mode",
           parts=f.recall_by_class, of_part="recall"),
    Metric("f1", True, 1, "value", _BINARY, _POSITIVE, f.f1, centre="mode"),
    Metric("precision", True, 1, "value", _BINARY, "No row is predicted positive.", f.precision, centre="mode"),
    Metric("recall", True, 1, "value", _BINARY, "A positive label is needed.", f.recall, centre="mode"),
    Metric("f1_macro", True, 1, "value", _CLASS | _LABELS, _POSITIVE, f.f1_macro, f.each(f.f1), centre="mode",
           parts=f.f1_by_class, matrix_parts=f.by_label(f.f1), of_part="f1"),
    Metric("f1_weighted", True, 1, "value", _CLASS, TOO_LARGE, f.f1_weighted, centre="mode"),
    Metric("f1_micro", True, 1, "value", _LABELS, _POSITIVE, None, f.f1_micro, centre="mode"),
    Metric("f1_samples", True, 1, "value", _LABELS, TOO_LARGE, None, f.f1_samples, centre="mode"),
    Metric("jaccard_samples", True, 1, "value", _LABELS, TOO_LARGE, None, f.jaccard_samples, centre="mode"),
    Metric("matthews_corrcoef", True, 1, "value", _CLASS, "Labels of two classes are needed.", f.matthews,
           constant=0, centre="mode"),
    Metric("quadratic_weighted_kappa", True, 1, "value", _LEVEL, VARIED, f.kappa, constant=0, centre="median"),
)  # fmt: skip


def within(column: str) -> Metric:
    """``gauc:<column>``: the ROC AUC within each group of a column, weighted by the group's number of rows."""
    why = "No group has labels of both classes."
    return Metric(f"gauc:{column}", True, 1, "proba", _BINARY, why, f.auc, constant=0.5, column=column)
