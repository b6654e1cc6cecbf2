"""Which methods are compared: every combination of ways to share, of balances and of objectives that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from .. import yaml12
from ..catalog import hint
from ..config import applied
from ..faults import ConfigError
from ..spec import Part, RunSpec

AXES = {"sharing": "model.sharing", "balance": "optim.balance", "objective": "optim.objective"}
"""What a method is made of, and where it stands in a config."""
EQUAL = "equal"
WEIGHTS = "tuned weights"
Tuned = Mapping[str, Sequence[str]]
"""What was tuned (``joint``, ``weights``, ``single:<task>``) -> its settings, as ``a.b=value``."""


def is_axis(text: str) -> bool:
    """Whether a word of the command line is an axis (``balance=equal,upgrad``), not an override."""
    return text.partition("=")[0].strip() in AXES and "=" in text


def axes_of(texts: Sequence[str]) -> dict[str, list[Part]]:
    """Axis -> its words, from texts as ``sharing=hard,{name: mmoe, n_experts: 4}`` or ``sharing=mmoe,balance=upgrad``.

    Raises:
        ConfigError: an unknown axis, no word, or no YAML.
    """
    found: dict[str, list[Part]] = {}
    for text in texts:
        axis, _, listed = text.partition("=")
        axis = axis.strip()
        if axis not in AXES or "=" not in text:
            raise ConfigError(
                f"Methods should read `sharing=hard,mmoe` (or balance, objective). Found `{text}`. {hint(axis, AXES)}"
            )
        try:
            values = yaml12.parse(f"[{listed}]")
            parts = [Part.of(value) for value in values]
        except Exception as error:
            raise ConfigError(
                f"`{axis}` should be followed by words, or words with settings as {{name: mmoe, n_experts: 4}}. Found "
                f"`{listed}`: {' '.join(str(error).split())[:200]}."
            ) from None
        if not parts:
            raise ConfigError(f"`{axis}` should be followed by a word or more. Found none.")
        for part in parts:
            if is_axis(part.name):  # sharing=mmoe,balance=upgrad
                axis, _, name = (own.strip() for own in part.name.partition("="))
                part = Part.of({"name": name} | part.settings)
            found.setdefault(axis, []).append(part)
    return found


def ways(spec: RunSpec, texts: Sequence[str], tuned: Tuned | None = None) -> dict[str, RunSpec]:
    """Method -> its run: all combinations of the axes; what no axis names is as the config has it.

    Equal weights are always among the balances. The same budget holds for all: what a combination changes is its own
    words alone.

    Args:
        spec: the run.
        texts: as in `axes_of`; none leaves the run itself, as ``joint``.
        tuned: settings of ``joint`` are laid under all methods, those of ``weights`` make one more.

    Raises:
        ConfigError: an unknown axis, word or setting.
    """
    tuned = tuned or {}
    base = applied(spec, tuned["joint"]) if tuned.get("joint") else spec
    axes = axes_of(texts)
    own = {axis: _own(base, axis) for axis in AXES}
    if not axes:
        found = {"joint": base}
        if own["balance"].name.lower() != EQUAL:
            found[EQUAL] = _with(base, {"balance": Part(name=EQUAL)})
        return _and_weights(found, spec, tuned)
    balances = axes.get("balance", [own["balance"]])
    if all(part.name.lower() != EQUAL for part in balances):
        axes["balance"] = [Part(name=EQUAL), *balances]
    found = {}
    for parts in product(*axes.values()):
        chosen = dict(zip(axes, parts, strict=True))
        shown = {axis: part for axis, part in chosen.items() if len(axes[axis]) > 1 or len(axes) == 1}
        label = " + ".join(_label(part) for part in (shown or chosen).values())
        if label in found:
            raise ConfigError(f"Methods should be different ones. Found `{label}` more than once.")
        if label in ("single", "constant", "linear", "boosting"):
            label += " (shared)"
        found[label] = _with(base, chosen)
    return _and_weights(found, spec, tuned)


def _own(spec: RunSpec, axis: str) -> Part:
    return getattr(spec.model if axis == "sharing" else spec.optim, axis)


def _and_weights(found: dict[str, RunSpec], spec: RunSpec, tuned: Tuned) -> dict[str, RunSpec]:
    if tuned.get("weights"):
        equal = _with(spec, {"balance": Part(name=EQUAL)})
        found[WEIGHTS] = applied(equal, tuned["weights"])
    return found


def _with(spec: RunSpec, parts: Mapping[str, Part]) -> RunSpec:
    """The run with other words; a word that stays keeps its settings where it is given none."""
    changes = []
    for axis, part in parts.items():
        before = _own(spec, axis)
        if part.name.lower() == before.name.lower() and not part.settings:
            continue
        changes.append(f"{AXES[axis]}={_yaml({'name': part.name} | part.settings)}")
    return applied(spec, changes) if changes else spec


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value)


def _label(part: Part) -> str:
    told = ", ".join(f"{k}={v}" for k, v in part.settings.items())
    return f"{part.name} ({told})" if told else part.name
