"""Metrics of objects: tags and relations, masks, boxes, texts, sound."""

from __future__ import annotations

from . import boxes, masks, spans, spoken
from .contract import Metric

_TAGS, _MASKS, _BOXES = frozenset({"tagging", "relation"}), frozenset({"segmentation"}), frozenset({"detection"})
_SPOKEN, _SOUND = frozenset({"transcription"}), frozenset({"reconstruction"})
_NO_BOX = "There is no box to find."

OBJECTS = (
    Metric("entity_f1", True, 1, "value", _TAGS, "There is no span, neither labelled nor predicted.",
           spans.entity_f1, parts=spans.entity_f1_by_type, of_part="f1"),
    Metric("token_accuracy", True, 1, "value", _TAGS, "There is no token.", spans.token_accuracy,
           parts=spans.accuracy_by_tag, of_part="recall"),
    Metric("relation_f1", True, 1, "value", frozenset({"relation"}),
           "There is no relation, neither labelled nor predicted.", spans.relation_f1, constant=0,
           parts=spans.relation_f1_by_type, of_part="f1"),
    Metric("mean_iou", True, 1, "value", _MASKS, "No pixel has a label.", masks.mean_iou,
           parts=masks.iou_by_class, of_part="iou"),
    Metric("pixel_accuracy", True, 1, "value", _MASKS, "No pixel has a label.", masks.pixel_accuracy),
    Metric("average_precision_50", True, 1, "value", _BOXES, _NO_BOX, boxes.at_50, parts=boxes.by_class_50),
    Metric("average_precision_50_95", True, 1, "value", _BOXES, _NO_BOX, boxes.at_50_95, parts=boxes.by_class_50_95),
    Metric("word_error_rate", False, 0, "value", _SPOKEN, "No word was said.", spoken.word_errors),
    Metric("char_error_rate", False, 0, "value", _SPOKEN, "No word was said.", spoken.char_errors),
    Metric("si_sdr_gain", True, spoken.MOST, "value", _SOUND, "All heard is clean.", spoken.gain, constant=0),
)  # fmt: skip
