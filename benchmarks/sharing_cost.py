"""What each sharing scheme costs per training step, over hard sharing: ``python -m benchmarks.sharing_cost``.

K = 2, 8 and 32 tasks (half of them binary, one in five labels missing) on one synthetic table of 20 numeric columns,
two hidden layers of 128 without dropout, batches of 128 (and of 32 at K = 8), AdamW; plain `Training` runs of one
member, epoch by epoch, validation not counted. Every scheme of the catalogue takes part, with its default settings. All
sides of one K are interleaved in one run; figures are medians, and medians of the ratios within a round.

Two comparisons are judged. K copies of a trunk that run as one batched computation (soft, mixing, crossstitch) against
K separate models, each with its own `Training`, stepped one after the other, at K = 8: at most 0.6. And `mmoe` with
eight experts against the same network with Python loops over the experts and over their mixture: at most 0.7. The
smaller the batch, the more a step is overhead, which a batched computation has once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from manyheads.balance.weighting import Equal
from manyheads.catalog import find, index
from manyheads.data import Block, Inputs, Taskset
from manyheads.data.sampler import Sampler
from manyheads.encoders.tabular import Tabular
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.sharing import Features, Sharing, Trace, run
from manyheads.sharing.mmoe import MMoE
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.tasks import Task
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression
from manyheads.train import Training

from .harness import Bench, Side, labels, ratio, timed

ROWS, QUICK_ROWS, N_NUMERIC, WIDTH = 128 * 12, 128 * 2, 20, 128
SIZES, QUICK_SIZES = ((2, 128), (8, 128), (8, 32), (32, 128)), ((2, 128),)
"""(tasks, batch)."""
COPIED = ("soft", "mixing", "crossstitch")
"""Schemes with a trunk per task, all in one batched computation."""
EXPERTS = 8


class Data:
    """Synthetic rows: inputs, and per task a label of which one in five is missing."""

    def __init__(self, n_tasks: int, batch: int, n_rows: int) -> None:
        self.batch = batch
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(n_rows, N_NUMERIC, generator=generator)
        self.y = labels(self.x, n_tasks, generator)
        self.known = torch.rand(n_rows, n_tasks, generator=generator) > 0.2
        self.tasks: list[Task] = [
            Binary(f"task {k}", classes=(0, 1)) if k % 2 else Regression(f"task {k}", mean=0.0, sd=1.0)
            for k in range(n_tasks)
        ]

    def rows(self, places: Sequence[int]) -> dict[str, Taskset]:
        """The table with the labels of some tasks, those of one type side by side."""
        blocks = []
        for kind in (0, 1):
            own = [k for k in places if k % 2 == kind]
            if len(own) == 1:
                blocks.append(Block((self.tasks[own[0]].name,), self.y[own[0]], self.known[:, own[0]]))
            elif own:
                target = torch.stack([self.y[k] for k in own], 1)
                blocks.append(Block(tuple(self.tasks[k].name for k in own), target, self.known[:, own], None, True))
        return {"": Taskset({"numeric": self.x}, tuple(blocks))}

    def training(self, scheme: str | type[Sharing], places: Sequence[int] | None = None, **settings: Any) -> Training:
        """A run of these tasks (all by default) that goes on for ever."""
        places = range(len(self.tasks)) if places is None else places
        tasks = [self.tasks[k] for k in places]
        sharing = find(Sharing, scheme) if isinstance(scheme, str) else scheme  # type: ignore[type-abstract]
        model = Model(sharing(self._encoder, tasks, **settings), tasks, 0)
        sampler = Sampler(self.rows(places), self.batch, seed=0, max_epochs=10**6)
        trainer = TrainerSpec(max_epochs=10**6, patience=None, accelerator="cpu")
        optim = OptimSpec(lr=1e-3, weight_decay=0.01)
        return Training(model, sampler, {}, tasks, Supervised(), Equal(), optim, trainer)

    @staticmethod
    def _encoder() -> Tabular:
        return Tabular({"": {"numeric": N_NUMERIC}}, d_hidden=WIDTH, n_layers=2, dropout=0.0)


def epoch(*trainings: Training) -> Side:
    """One epoch of these runs, one after the other: the seconds of a step of all."""
    steps = trainings[0].sampler.n_steps

    def side() -> float:
        return timed(lambda: [training.advance() for training in trainings]) / steps

    return side


class Looped(MMoE):
    """The same network as MMoE, with Python loops over the experts and over their mixture."""

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)
        outputs = []
        for label in self.labels:
            output = z
            for stage in self.experts:
                output = stage[label](output)  # type: ignore[index]
            outputs.append(output)
        features = {}
        for task in tasks:
            shares = self.gates[task](z).softmax(-1)
            features[task] = sum(shares[:, i : i + 1] * output for i, output in enumerate(outputs))
        return features


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    about = "what each sharing scheme costs per training step, over hard sharing"
    bench = Bench("sharing_cost", about, rounds=9, quick_rounds=1, argv=argv, threads=os.cpu_count() or 1)
    for k, batch in QUICK_SIZES if bench.quick else SIZES:
        data, case = Data(k, batch, QUICK_ROWS if bench.quick else ROWS), f"K = {k}, batch {batch}"
        sides: dict[str, Side] = {}
        for word in index(Sharing):  # type: ignore[type-abstract]
            try:
                sides[word] = epoch(data.training(word))
            except ValueError as error:  # a scheme that asks for other tasks
                bench.result(f"{case}, {word}", not_run=str(error))
        sides["separate models"] = epoch(*(data.training("hard", [i]) for i in range(k)))
        if "mmoe" in sides:
            sides["mmoe, 8 experts"] = epoch(data.training("mmoe", n_experts=EXPERTS))
            sides["mmoe, 8 experts, looped"] = epoch(data.training(Looped, n_experts=EXPERTS))
        seconds = bench.rounds(sides)
        for name in sides:
            bench.result(
                f"{case}, {name}",
                ms_per_step=1e3 * median(seconds[name]),
                over_hard=ratio(seconds, name, "hard"),
                over_separate=ratio(seconds, name, "separate models"),
            )
        if k == 8 or bench.quick:
            for word in COPIED:
                if word in sides:
                    value = ratio(seconds, word, "separate models")
                    bench.check(f"{case}, {word} / separate models", value, "<=", 0.6)
            if "mmoe" in sides:
                value = ratio(seconds, "mmoe, 8 experts", "mmoe, 8 experts, looped")
                bench.check(f"{case}, mmoe with {EXPERTS} experts / looped", value, "<=", 0.7)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
