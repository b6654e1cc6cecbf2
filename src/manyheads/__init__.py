"""manyheads: one model that serves many tasks, and an honest answer to whether it should.

The public words are loaded when they are first used, so that `import manyheads` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import balance, objectives
    from .compare.goals import Goal
    from .compare.modules import compare_modules
    from .data import datasets
    from .data.sampler import Sampler
    from .faults import ConfigError, DataError, Fault
    from .learner import Learner
    from .tasks import Task
    from .tasks.classification import Binary, Multiclass, Multilabel, Ordinal
    from .tasks.dense import Segmentation
    from .tasks.detection import Detection
    from .tasks.regression import Count, Regression
    from .tasks.relation import Relation
    from .tasks.speech import Reconstruction, Transcription
    from .tasks.text import Tagging

_WORDS = {
    "ConfigError": "faults",
    "DataError": "faults",
    "Fault": "faults",
    "Goal": "compare.goals",
    "Learner": "learner",
    "Task": "tasks",
    "Binary": "tasks.classification",
    "Multiclass": "tasks.classification",
    "Multilabel": "tasks.classification",
    "Ordinal": "tasks.classification",
    "Regression": "tasks.regression",
    "Count": "tasks.regression",
    "Detection": "tasks.detection",
    "Segmentation": "tasks.dense",
    "Tagging": "tasks.text",
    "Relation": "tasks.relation",
    "Transcription": "tasks.speech",
    "Reconstruction": "tasks.speech",
    "Sampler": "data.sampler",
    "compare_modules": "compare.modules",
}
_MODULES = {"balance": "balance", "datasets": "data.datasets", "objectives": "objectives"}

__all__ = [
    "Binary", "ConfigError", "Count", "DataError", "Detection", "Fault", "Goal", "Learner", "Multiclass", "Multilabel",
    "Ordinal", "Reconstruction", "Regression", "Relation", "Sampler", "Segmentation", "Tagging", "Task",
    "Transcription", "__version__", "balance", "compare_modules", "datasets", "objectives",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WORDS:
        return getattr(importlib.import_module(f"{__name__}.{_WORDS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
