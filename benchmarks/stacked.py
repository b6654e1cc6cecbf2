"""Many small nets trained as one model, beside the same nets one by one: ``python -m benchmarks.stacked``.

What a comparison needs: single-task nets, several seeds of each. 30 nets of width 64 (3 tasks x 10 seeds) and 24 nets
of width 128 (6 tasks x 4 seeds), two hidden layers, plain `Training` runs of one member without dropout, on a synthetic
table of 3,000 rows and 20 numeric columns (a fifth of the labels missing; half of the tasks binary), 600 more rows for
validation, batches of 128, AdamW, a fixed number of epochs without early stopping, so that both sides take the same
steps. Building the nets is counted on neither side.

`run_all` must be 2.5 times as fast, and must give the same history in float64: losses and weights of every epoch,
validation scores, skills.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from statistics import median

import torch

from manyheads.balance.weighting import Equal
from manyheads.data import Block, Taskset
from manyheads.data.sampler import Sampler
from manyheads.encoders.tabular import Tabular
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.sharing.hard import Hard
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.stacking.stacked import run_all
from manyheads.tasks import Task
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression
from manyheads.train import Training

from .harness import Bench, Side, ratio, timed

ROWS, QUICK_ROWS, VALID_ROWS, N_NUMERIC, BATCH = 3000, 400, 600, 20, 128
EPOCHS, QUICK_EPOCHS, EXACT_EPOCHS = 6, 1, 4
CASES = ((64, 3, 10), (128, 6, 4))
"""(width, tasks, seeds)."""


class Data:
    """Synthetic rows: inputs, and per task a label of which one in five is missing."""

    def __init__(self, n_tasks: int, n_rows: int) -> None:
        self.n_rows = n_rows
        generator = torch.Generator().manual_seed(0)
        n = n_rows + VALID_ROWS
        self.x = torch.randn(n, N_NUMERIC, generator=generator)
        shared = torch.tanh(self.x @ torch.randn(N_NUMERIC, 5, generator=generator) / N_NUMERIC**0.5)
        y = shared @ torch.randn(5, n_tasks, generator=generator) + 0.5 * torch.randn(n, n_tasks, generator=generator)
        self.known = torch.rand(n, n_tasks, generator=generator) > 0.2
        self.tasks: list[Task] = []
        for k in range(n_tasks):
            if k % 2:
                self.tasks.append(Binary(f"task {k}", classes=(0, 1)))
                y[:, k] = (y[:, k] > 0).float()
            else:
                self.tasks.append(Regression(f"task {k}", mean=0.0, sd=1.0))
        self.y = y

    def rows(self, k: int, start: int, stop: int) -> dict[str, Taskset]:
        """The rows of one part, with the labels of one task."""
        part = slice(start, stop)
        block = Block((self.tasks[k].name,), self.y[part, k], self.known[part, k])
        return {"": Taskset({"numeric": self.x[part]}, (block,))}

    def nets(self, width: int, seeds: int, epochs: int, precision: str = "32") -> list[Training]:
        """One net per task and seed."""
        made = []
        n, every = self.n_rows, self.n_rows + VALID_ROWS
        parts = [(self.rows(k, 0, n), self.rows(k, n, every)) for k in range(len(self.tasks))]
        for (train, valid), task in zip(parts, self.tasks, strict=True):
            for seed in range(seeds):
                model = Model(Hard(lambda: self._encoder(width), [task]), [task], seed)
                sampler = Sampler(train, BATCH, seed=seed, max_epochs=epochs)
                settings = TrainerSpec(max_epochs=epochs, patience=None, accelerator="cpu", precision=precision)
                optim = OptimSpec(lr=1e-3, weight_decay=0.01)
                made.append(Training(model, sampler, valid, [task], Supervised(), Equal(), optim, settings, seed=seed))
        return made

    @staticmethod
    def _encoder(width: int) -> Tabular:
        return Tabular({"": {"numeric": N_NUMERIC}}, d_hidden=width, n_layers=2, dropout=0.0, linear_path=False)


def one_by_one(nets: Sequence[Training]) -> None:
    """`Training.run` of each."""
    for net in nets:
        net.run()


def difference(ours: Sequence[Training], theirs: Sequence[Training], splits: Sequence[str]) -> float:
    """The largest difference of two histories in these splits; infinite where they do not have the same records."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        records = [[r for r in net.history if r.split in splits] for net in (a, b)]
        keys = [[(r.epoch, r.step, r.split, r.task, r.metric, r.value is None) for r in own] for own in records]
        if not keys[0] or keys[0] != keys[1]:
            return float("inf")
        for one, other in zip(*records, strict=True):
            if one.value is not None and other.value is not None:
                gap = abs(one.value - other.value)
                worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    about = "many small nets trained as one model, beside the same nets one by one"
    bench = Bench(
        "stacked", about, packages=("torch",), rounds=5, quick_rounds=1, argv=argv, threads=os.cpu_count() or 1
    )
    epochs = QUICK_EPOCHS if bench.quick else EPOCHS
    for width, n_tasks, seeds in CASES:
        data = Data(n_tasks, QUICK_ROWS if bench.quick else ROWS)
        n = n_tasks * seeds
        steps = n * epochs * data.nets(width, 1, epochs)[0].sampler.n_steps

        def stacked(data: Data = data, width: int = width, seeds: int = seeds) -> float:
            nets = data.nets(width, seeds, epochs)
            return timed(lambda: run_all(nets))

        def single(data: Data = data, width: int = width, seeds: int = seeds) -> float:
            nets = data.nets(width, seeds, epochs)
            return timed(lambda: one_by_one(nets))

        sides: dict[str, Side] = {"stacked": stacked, "one by one": single}
        seconds = bench.rounds(sides)
        for name in sides:
            bench.result(
                f"{n} nets of width {width}, {name}",
                seconds=median(seconds[name]),
                net_steps_per_second=steps / median(seconds[name]),
            )
        bench.check(f"{n} nets of width {width}: faster", ratio(seconds, "one by one", "stacked"), ">=", 2.5)
        few = QUICK_EPOCHS if bench.quick else EXACT_EPOCHS
        together, alone = (data.nets(width, seeds, few, precision="64") for _ in range(2))
        run_all(together)
        one_by_one(alone)
        for what, split in (("losses", "train"), ("validation scores", "valid")):
            gap = difference(together, alone, (split,))
            gap = min(gap, sys.float_info.max)  # a history of other records: as far away as JSON can say
            bench.check(f"{n} nets of width {width}: difference of {what}, float64", gap, "<=", 1e-10)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
