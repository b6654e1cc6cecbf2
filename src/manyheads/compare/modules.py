"""Should these tasks share a model? The question for anyone's module and loaders, whatever trains them otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..balance import Balance
from ..blocks import seed_of
from ..catalog import make
from ..faults import ConfigError
from ..parallel import workers
from ..results import Cost, Method, MethodStudy
from ..spec import Part
from ..verdicts import chosen
from ..verdicts import compare as judge
from . import words
from .goals import Data, Goal
from .loop import Ended, Plan, said_of, train
from .rounds import tests_of
from .study import SINGLE


def compare_modules(
    build: Callable[..., nn.Module],
    data: Data | Callable[[int], Data],
    tasks: Mapping[str, Goal],
    *,
    balances: Sequence[str | Mapping[str, Any]] = (),
    repeats: int = 5,
    max_epochs: int = 50,
    patience: int | None = 8,
    lr: float = 1e-3,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    seed: int = 0,
    n_jobs: int = 1,
    backend: str = "loky",
) -> MethodStudy:
    """Should these tasks share a model? Asked of anyone's module, against one of it per task, at the same budget.

    ```python
    def build(seed):                                    # nn.Module: inputs -> {"age": ..., "smiles": ...}
        return MyNet()

    found = mh.compare_modules(build, lambda repeat: loaders(repeat), {
        "age": mh.Goal(nn.functional.mse_loss, "r2"),
        "smiles": mh.Goal(nn.functional.binary_cross_entropy_with_logits, "roc_auc", says=torch.sigmoid),
    })
    print(found.recommendation)
    ```

    Where `build` takes a second argument, `build(seed, task)` makes the model of one task; otherwise that is
    `build(seed)` with the loss of the one task alone, and the weights that are counted are those that it reaches. All
    runs have the same optimiser, epochs at most and patience; each stops on the mean over its tasks of the validation
    loss, relative to what it was before the first step, and keeps the best weights. The same seed goes before an epoch
    of each run of a repeat, so that loaders that shuffle with torch's generator give all of them the same batches.

    Equal weights are always among the balances. Simple models are not: nobody knows the features of these inputs.

    Args:
        build: a seed -> a module, whose outputs are a dict of tensors (rows, ...) by task.
        data: number of the repeat -> loaders of a newly drawn split; or three loaders, then the split is fixed and
            intervals are over test rows. Labels are NaN (whole numbers: -100) where unknown; a task that a batch has
            no labels for may be left out of it.
        tasks: by name.
        balances: words of `manyheads doctor --list balance`, or mappings of a word and its settings.
        repeats: splits, or seeds.
        max_epochs, patience, lr: of every run; patience None never stops early.
        optimizer: parameters -> optimiser; AdamW by default.
        seed: of everything.
        n_jobs, backend: as in `parallel.run_over`.

    Raises:
        ConfigError: no task, a module that gives no output of a task, an unknown balance, or data that are no three
            loaders to be gone through again and again.
        DataError: a task without a label to learn from, or to stop on.
        Diverged: a run has no finite loss.
    """
    if not tasks or repeats < 1:
        raise ConfigError(f"A comparison needs tasks and repeats. Found {len(tasks)} tasks and {repeats} repeats.")
    parts = [Part.of(b) for b in balances]
    if all(part.name.lower() != "equal" for part in parts):
        parts = [Part(name="equal"), *parts]
    for part in parts:
        make(Balance, part.name, part.settings).check(list(tasks))  # type: ignore[type-abstract]
    ways = {"joint" if len(parts) == 1 else part.name: part for part in parts}
    own = len([p for p in inspect.signature(build).parameters.values() if p.default is p.empty]) > 1
    drawn = [_gone_through(data(r) if callable(data) else data) for r in range(repeats)]
    make_optimizer = optimizer or (lambda weights: torch.optim.AdamW(weights, lr=lr))
    plans: dict[tuple[int, str, str | None], Plan] = {}
    for r in range(repeats):
        first = seed_of(seed, "repeat", r) % 2**31
        equal = Part(name="equal")
        plan = Plan(build, dict(tasks), first, equal, None, own, max_epochs, patience, make_optimizer, strict=True)
        plans |= {(r, name, None): replace(plan, balance=part) for name, part in ways.items()}
        plans |= {(r, SINGLE, task): replace(plan, task=task) for task in tasks}
    ended = dict(zip(plans, _trained(plans, drawn, n_jobs, backend), strict=True))
    return _judged(dict(tasks), list(ways), plans, ended, drawn, fixed=not callable(data))


def _gone_through(data: Data) -> Data:
    """Three loaders, each of which can be gone through again and again."""
    found = tuple(data)
    if len(found) != 3:
        raise ConfigError(
            "The data of a repeat should be three loaders: rows to learn from, to stop on and to judge by. Found "
            f"{len(found)}."
        )
    for loader in found:
        if hasattr(loader, "__next__"):
            raise ConfigError(
                "A loader should be something that can be gone through again and again, such as a list or a "
                f"DataLoader. Found a {type(loader).__name__}, which ends once and for all; wrap it in `list(...)`."
            )
    return found


def _trained(plans: Mapping[Any, Plan], drawn: Sequence[Data], n_jobs: int, backend: str) -> list[Ended]:
    if n_jobs == 1 and backend == "loky":
        return [train(plan, drawn[key[0]]) for key, plan in plans.items()]
    from joblib import Parallel, delayed

    with workers(backend, n_jobs):
        return Parallel(n_jobs=n_jobs)(delayed(train)(plan, drawn[key[0]]) for key, plan in plans.items())


# ---- judging


def _judged(
    goals: Mapping[str, Goal],
    ways: Sequence[str],
    plans: Mapping[tuple[int, str, str | None], Plan],
    ended: Mapping[tuple[int, str, str | None], Ended],
    drawn: Sequence[Data],
    fixed: bool,
) -> MethodStudy:
    names, repeats = [*ways, SINGLE], len(drawn)
    directions = {t: goal.direction for t, goal in goals.items()}

    def key(r: int, name: str, task: str) -> tuple[int, str, str | None]:
        return (r, name, task if name == SINGLE else None)

    def keys(r: int, name: str) -> list[tuple[int, str, str | None]]:
        return list(dict.fromkeys(key(r, name, t) for t in goals))

    parameters = {name: sum(ended[k].parameters for k in keys(0, name)) for name in names}
    seconds = {name: sum(ended[k].seconds for r in range(repeats) for k in keys(r, name)) / repeats for name in names}

    def described(values: Callable[[int, str, str], float | None]) -> dict[str, Method]:
        return {
            name: Method(
                name=name,
                values={t: tuple(values(r, name, t) for r in range(repeats)) for t in goals},
                parameters=parameters[name],
                seconds=seconds[name],
            )
            for name in names
        }

    choice, valid, reason = chosen(described(lambda r, n, t: ended[key(r, n, t)].valid.get(t)), directions)
    said: dict[tuple[int, str, str | None], dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for k, plan in plans.items():  # the test part, once
        model = plan.made()
        model.load_state_dict(dict(ended[k].state))
        said[k] = said_of(model, plan, drawn[k[0]][2])
    on_test = described(lambda r, n, t: goals[t].value(*said[key(r, n, t)][t]) if t in said[key(r, n, t)] else None)
    tests = ratios = None
    if fixed:

        def changed(name: str, r: int, task: str) -> tuple[float | None, np.ndarray] | None:
            joint, single = said[r, name, None].get(task), said[r, SINGLE, task].get(task)
            return None if joint is None or single is None else goals[task].draws(joint[1], joint[0], single[0])

        tests = {
            (name, t): test for name in ways for t, test in tests_of([*goals], repeats, partial(changed, name)).items()
        }
    else:
        ratios = {
            t: len(said[0, ways[0], None][t][1]) / max(ended[0, ways[0], None].labels[t], 1)
            if t in said[0, ways[0], None]
            else None
            for t in goals
        }
    how = "One split; intervals are over test rows" if fixed else f"{repeats} re-drawn splits; intervals are of the "
    how += "." if fixed else "corrected resampled t (Nadeau and Bengio 2003)."
    protocol = (
        f"{how} p values are Holm-adjusted over all tasks of all methods. Every run has the same optimiser, epochs at "
        "most and patience, and is stopped on validation, where the method was chosen; then each test part was read, "
        "once. There are no simple models beside these."
    )
    verdicts = judge(list(on_test.values()), directions, SINGLE, ratios, tests, protocol, "seed" if fixed else "repeat")
    return MethodStudy(
        choice=choice,
        reason=reason,
        recommendation=words.recommended(choice, verdicts.comparisons, parameters.get),
        tasks=words.by_task(verdicts.comparisons),
        comparisons=verdicts.comparisons,
        ranks=verdicts.ranks,
        valid=valid,
        costs={
            name: Cost(
                seconds=seconds[name],
                updates=sum(ended[k].updates for r in range(repeats) for k in keys(r, name)) / repeats,
                parameters=parameters[name],
            )
            for name in names
        },
        repeats=repeats,
        summary=verdicts.summary,
        protocol=protocol,
    )
