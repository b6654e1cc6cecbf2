"""What is read. The contract of an encoder: a list of stages, so that sharing can happen between any two of them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import nn

from ..blocks import Named
from ..ranges import Range

Layout = Mapping[str, Any]
"""What the inputs of one table look like, by kind: ``{"numeric": 13, "categorical": [5, 12]}``; plain values, saved
with the model."""


class Encoder(nn.Module, ABC):
    """Rows in, features out, through a list of stages.

    Stage 0 reads the raw inputs. With several tables there is one stage 0 per table (a `Named`), since their columns
    differ; all later stages are shared by all tables. A stage gives a vector (batch, d), a sequence
    ((batch, length, d), mask) or a map (batch, d, height, width).

    A stage, as any module, may say how fast it learns, relative to `optim.lr`: an attribute `pace`.

    Args of every encoder: `layouts` {table: layout}, then its own settings by keyword.
    """

    alone: ClassVar[str] = ""
    """Why several members of it cannot be run as one model, in words; empty where they can."""

    one_entrance: ClassVar[str] = ""
    """Why all tables have stage 0 in common, in words; empty where each has its own."""

    stages: nn.ModuleList
    widths: list[int]
    """The width d after each stage."""
    maps: tuple[int, ...] = ()
    """The stages that a head which reads a map is attached to unless its task says otherwise (`Task.attach`), coarse
    ones for what and fine ones for where; empty where that is the last one, as for all other heads."""
    search: ClassVar[Mapping[str, Range]] = {}
    """What is tuned unless a config says otherwise: setting -> where it is looked for; the default lies within."""

    @classmethod
    def covers(cls, layout: Layout) -> bool:
        """Whether it reads all there is in a table, so that ``auto`` may choose it: one rich column, no other."""
        return sum(":" in key for key in layout) == 1 and not (layout.get("numeric") or layout.get("categorical"))

    @classmethod
    def single(cls, layouts: Mapping[str, Layout]) -> str:
        """Why several members of it that read these inputs cannot be run as one model; empty where they can."""
        return cls.alone

    @classmethod
    def kept(cls, settings: Mapping[str, Any], layouts: Mapping[str, Layout]) -> dict[str, Any]:
        """Settings from which a saved model builds it again, where there is nothing but the model's own folder."""
        return dict(settings)

    @final
    def path(self, table: str | None = None) -> list[nn.Module]:
        """The stages that rows of this table pass, in order."""
        if not self.stages:
            return []
        first = self.stages[0]
        if isinstance(first, Named):
            first = first[table if table is not None else next(iter(first))]
        return [first, *self.stages[1:]]
