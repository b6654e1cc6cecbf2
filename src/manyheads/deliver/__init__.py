"""Never worse, still one model: for each task the best of what there is, taught to one student.

`deliver` is the whole road; `candidates`, `choice`, `student` and `check` are its stations, `spaces` says in which
space models of different kinds can be mixed, `blend` how.
"""

from __future__ import annotations

from .study import Delivered, Settings, deliver

__all__ = ["Delivered", "Settings", "deliver"]
