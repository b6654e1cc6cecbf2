"""Inner products of the tasks' gradients, G[i, j] = <g_i, g_j> over the parameters that tasks share."""

from __future__ import annotations

MODES = ("auto", "features", "exact")


class Gradients:
    """The gradients of one step."""
