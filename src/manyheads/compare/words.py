"""What a comparison says beside its numbers: how it was done, what it cost, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..members import Members
from ..results import Comparison, TaskComparison
from ..verdicts import CLEAR, clear_of_zero, counted
from .rounds import lead, updates

if TYPE_CHECKING:
    from .study import Study

MOST_NOTES = 5
"""Remarks on simple models that a protocol has at most."""


def budget(study: Study, name: str) -> dict[str, Any]:
    """What a method and the single-task networks may do, and did."""
    from .study import SINGLE

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


# ---- what follows


def by_task(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """Task -> what sharing does to it, over all methods, in words."""
    found = {}
    for task in next(iter(comparisons.values())).tasks:
        rows = {name: c.tasks[task] for name, c in comparisons.items()}
        better = {n: row for n, row in rows.items() if row.verdict == "helps"}
        worse = {n: row for n, row in rows.items() if row.verdict == "hurts"}
        said = []
        if better:
            said.append(f"better with {_each(better)}")
        if worse:
            said.append(f"worse with {_each(worse)}")
        if not said:
            known = {n: row for n, row in rows.items() if row.delta is not None}
            of = f": {_each(known)}" if 0 < len(known) <= MOST_NOTES else ""
            judged = any(row.p is not None for row in rows.values())
            noise = "within noise of a model of its own" if judged else "undecided, with no spread to judge by"
            found[task] = f"{noise}{of}." if known else "undecided: there is no pair of values to compare."
            continue
        rest = [n for n in rows if n not in better and n not in worse]
        within = f"; within noise with {_list(rest)}" if rest else ""
        found[task] = f"{' and '.join(said)} than alone{within}."
    return found


def _level(comparisons: Mapping[str, Comparison], parameters: Callable[[str], int | None]) -> str:
    """What speaks for one model for all where validation preferred single-task ones: it may be as good, and smaller."""
    found = comparisons.get("joint")
    if found is None or any(row.verdict == "hurts" for row in found.tasks.values()):
        return ""
    if clear_of_zero(found.interval) in ("", CLEAR):
        return ""
    one, many = parameters("joint"), parameters("single")
    size = f", with {100 * one / many:.0f} % of the parameters" if one and many else ""
    return f" On the test parts one model for all (`joint`) is within noise of that{size}."


def recommended(choice: str, comparisons: Mapping[str, Comparison], parameters: Callable[[str], int | None]) -> str:
    """What to share, in a sentence or two.

    Args:
        choice: the method that validation chose; ``single`` is one.
        comparisons: method -> it against single-task networks.
        parameters: of a method.
    """
    if choice not in comparisons:
        helped = sorted({t for c in comparisons.values() for t, row in c.tasks.items() if row.verdict == "helps"})
        but = f" On the test parts some way of sharing helps {_list(helped)} all the same." if helped else ""
        but = but or _level(comparisons, parameters)
        return f"Keep each task alone: no way of sharing was worth its place on validation.{but}"
    tasks = comparisons[choice].tasks
    helps = [t for t, row in tasks.items() if row.verdict == "helps"]
    hurts = [t for t, row in tasks.items() if row.verdict == "hurts"]
    rest = [t for t in tasks if t not in helps and t not in hurts]
    one, many = parameters(choice), parameters("single")
    size = ""
    if one and many:
        size = f" It has {100 * one / many:.0f} % of the parameters of {counted(len(tasks), 'model')}."
    if not helps and not hurts:
        mean, (low, high) = comparisons[choice].delta_m, comparisons[choice].interval
        if all(row.delta is None for row in tasks.values()):
            return f"Undecided: there is no pair of values to compare one model for all (`{choice}`) by."
        if all(row.p is None for row in tasks.values()):
            by = "" if mean is None else f" changes the mean over tasks by {100 * mean:+.1f} %, and"
            return (
                f"Undecided: one model for all (`{choice}`){by} has no spread to be judged by; run more repeats.{size}"
            )
        if mean is not None and low is not None and high is not None and clear_of_zero((low, high)) == CLEAR:
            word = "gains" if mean > 0 else "loses"
            return (
                f"One model for all (`{choice}`) {word} on the mean over tasks, {100 * mean:+.1f} % "
                f"[{100 * low:+.1f}, {100 * high:+.1f}], clear of 0; no task by itself is beyond noise.{size}"
            )
        return f"Within noise: one model for all (`{choice}`) is neither better nor worse than one per task.{size}"
    if len(hurts) == len(tasks):
        return f"Keep {_list(hurts)} alone: sharing (`{choice}`) makes each of them worse."
    if hurts:
        kept = [t for t in tasks if t not in hurts]
        within = f" ({_list(rest)}: within noise)" if rest else ""
        share = f"share {_list(kept)}" if len(kept) > 1 else f"let {kept[0]} have the model"
        return f"With `{choice}`, {share}{within}, keep {_list(hurts)} alone: sharing makes {_them(hurts)} worse."
    within = f"; {_list(rest)}: within noise" if rest else ""
    return f"Share {_list(list(tasks))} (`{choice}`): it helps {_list(helps)}{within}.{size}"


def _each(rows: Mapping[str, TaskComparison]) -> str:
    return ", ".join(f"`{n}` ({_delta(row)})" for n, row in rows.items())


def _delta(row: TaskComparison) -> str:
    assert row.delta is not None
    return f"{row.delta:+.3f}" if row.absolute else f"{100 * row.delta:+.1f} %"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
