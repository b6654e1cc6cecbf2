"""What a comparison says beside its numbers: how it was done, what it cost, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..members import Members

if TYPE_CHECKING:
    from .study import Study

MOST_NOTES = 5
"""Remarks on simple models that a protocol has at most."""


def budget(study: Study, name: str) -> dict[str, Any]:
    """What a method and the single-task networks may do, and did."""
    from .study import SINGLE, lead, updates

    spec, rounds = study.spec, study.rounds
    joint = [one.runs[name][""] for one in rounds]
    singles = [run for one in rounds for run in one.runs[SINGLE].values()]
    seconds = {k: v for k, v in study.seconds.items() if k in (name, SINGLE, *study.simple)}
    return {
        "epochs at most": spec.trainer.max_epochs,
        "batch size": lead(joint[0]).sampler.batch_size,
        "patience": spec.trainer.patience,
        "members": len(joint[0].runs) if isinstance(joint[0], Members) else 1,
        "tuning trials": 0,
        "updates of the joint model (mean)": round(float(np.mean([updates(t) for t in joint])), 1),
        "updates of all single-task models (mean)": round(
            float(np.sum([updates(t) for t in singles])) / len(rounds), 1
        ),
        "parameters of the joint model": study.parameters(name),
        "parameters of all single-task models": study.parameters(SINGLE),
        "seconds per repeat": {k: round(v, 2) for k, v in seconds.items()},
    }


def remarks(study: Study) -> list[str]:
    """What simple models could not do, in sentences."""
    rounds = study.rounds
    values = [one.values for one in rounds]
    learnt = [m for m in study.simple if m != "constant"]
    lost = [t.name for t in study.tasks if not any(t.name in v[m] for v in values for m in learnt)]
    layouts = rounds[0].prepared.dataset.preprocess.layouts
    said = []
    if learnt and lost:
        named = ", ".join([*lost[:8], *(["..."] if len(lost) > 8 else [])])
        said.append(
            f"There is no {' and no '.join(learnt)} for {named}: they read columns of numbers and categories, and say "
            "numbers and classes."
        )
    elif learnt and any(":" in kind for layout in layouts.values() for kind in layout):
        said.append(f"Of the columns, {' and '.join(learnt)} read numbers and categories alone.")
    noted = dict.fromkeys(f"{task}, {method}: {note}" for one in rounds for (task, method), note in one.notes.items())
    return [*said, *list(noted)[:MOST_NOTES]]


def protocol(study: Study) -> str:
    """What was re-drawn, and what the intervals cover."""
    split, repeats = study.spec.data.split, len(study.rounds)
    held = any(len(rows) for rows in study.rounds[0].prepared.tasksets["valid"].values())
    chosen = "on validation" if held else "on the rows that each member holds out of the training part"
    if study.fixed:
        return (
            f"The split is the one given; {repeats} seeds, whose deltas are averaged. Intervals are over test rows "
            "(paired bootstrap), so the claim is about this training set. Networks are stopped "
            f"{chosen}; the test part was read once."
        )
    by = f" by {split.by if isinstance(split.by, str) else ', '.join(split.by)}" if split.by else ""
    shares = zip(("train", "validation", "test"), split.sizes, strict=True)
    parts = ", ".join(f"{name} {100 * share / sum(split.sizes):.0f} %" for name, share in shares if share)
    over = "the tasks" if len(study.ways) == 1 else "all tasks of all methods"
    return (
        f"{repeats} re-drawn {split.kind} splits{by} ({parts}). Intervals and p values are of the corrected resampled "
        f"t (Nadeau and Bengio 2003); p values are Holm-adjusted over {over}, the printed intervals are plain 95 % "
        f"ones. Networks are stopped {chosen}; the simple baselines learn and tune on all rows but the test part's; "
        "each test part was read once."
    )
