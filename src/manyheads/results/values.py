"""What every result is: a frozen value, JSON and back, without a number that is none."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[Number, Number]


class Value(BaseModel):
    """A frozen record: `model_dump_json` writes it, `model_validate_json` reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
