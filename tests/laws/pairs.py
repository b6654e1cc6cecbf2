"""Models of a scheme on an encoder: what the laws of sharing and of ensembles are asked of."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from cases import Case, build, catalogue, five_tasks, inputs_of, layout_of, targets_for

from manyheads.encoders import Encoder
from manyheads.gradients.graph import reached
from manyheads.sharing import Sharing


@cache
def pairs() -> list[Any]:
    """Every scheme on every encoder that has the stages it needs.

    Further settings of a scheme are tried on rows of a table, further settings of an encoder with the plain scheme.
    """
    stages = {str(e): len(e({"t0": layout_of(e.word)}).stages) for e in catalogue(Encoder)}
    return [
        pytest.param((s, e), id=f"{s}-{e}")
        for s in catalogue(Sharing)
        for e in catalogue(Encoder)
        if stages[str(e)] >= s.cls.min_stages
        and (_first(s) or str(e) == str(_first_of(Encoder, "tabular")))
        and (_first(e) or str(s) == "hard")
    ]


def kinds() -> list[Any]:
    """Every scheme on a vector, on a sequence and on a map of features, and every encoder with the plain scheme."""
    return [p for p in pairs() if str(p.values[0][0]) == "hard" or p.values[0][1].word in ("tabular", "text", "image")]


def spread() -> list[Any]:
    """Every scheme once, on rows of a table, and every encoder once, with the plain scheme: for what costs most."""
    return [p for p in pairs() if str(p.values[0][0]) == "hard" or (_on_rows(p) and _first(p.values[0][0]))]


def _on_rows(pair: Any) -> bool:
    return str(pair.values[0][1]) == str(_first_of(Encoder, "tabular"))


def _first(case: Case) -> bool:
    return str(_first_of(Encoder if issubclass(case.cls, Encoder) else Sharing, case.word)) == str(case)


@cache
def _first_of(contract: type, word: str) -> Case:
    return next(c for c in catalogue(contract) if c.word == word)


def model_of(pair, tasks=None, seed=0, **more):
    return build(*pair, five_tasks() if tasks is None else tasks, seed, **more).eval()


def x_of(pair, n=12, table=0):
    return inputs_of(layout_of(pair[1].word, table), n)


def losses_of(model, outputs, n=12):
    tasks = list(model.tasks.values())
    return {
        t.name: t.mean_loss(outputs[t.name], targets_for(t, n, i), torch.ones(n, dtype=torch.bool))
        for i, t in enumerate(tasks)
        if t.name in outputs
    }


def used_by(model, x, task):
    """The tasks whose outputs are made by this one's head, itself among them."""
    head = set(model.heads[task].parameters())
    return [t for t in model.tasks if head & reached(model(x, [t])[t].sum())]
