"""What watching a joint run costs: ``python -m benchmarks.affinity_cost``.

A joint model of 8 tasks, width 128 and two hidden layers, on a synthetic table of 3,000 rows and 20 numeric columns (a
fifth of the labels missing; half of the tasks binary), batches of 128, dropout 0.3, AdamW, 8 epochs with validation: a
run as it is, beside one that `cosine` and `lookahead` watch at their default interval, and one that both watch at every
step. Building is counted on no side.

A watched run must cost at most 1.5 times a run that is not, and its weights must be the same to the bit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median

import torch

from manyheads.affinity.cosine import Cosine
from manyheads.affinity.lookahead import Lookahead
from manyheads.affinity.watch import Watch
from manyheads.balance.weighting import Equal
from manyheads.data import Block, Taskset
from manyheads.data.sampler import Sampler
from manyheads.encoders.tabular import Tabular
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.sharing.hard import Hard
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.tasks import Task
from manyheads.tasks.classification import Binary
from manyheads.tasks.regression import Regression
from manyheads.train import Training

from .harness import Bench, Side, labels, ratio, timed

ROWS, VALID_ROWS, N_NUMERIC, BATCH, K = 3000, 600, 20, 128, 8
EPOCHS, QUICK_EPOCHS = 8, 1
WIDTHS = (128, 64)


class Case:
    """Rows of eight tasks, and runs on them."""

    def __init__(self, width: int, epochs: int) -> None:
        generator = torch.Generator().manual_seed(0)
        n = ROWS + VALID_ROWS
        self.width, self.epochs = width, epochs
        self.x = torch.randn(n, N_NUMERIC, generator=generator)
        self.y = labels(self.x, K, generator)
        self.known = torch.rand(n, K, generator=generator) > 0.2
        self.tasks: list[Task] = [
            Binary(f"task {k}", classes=(0, 1)) if k % 2 else Regression(f"task {k}", mean=0.0, sd=1.0)
            for k in range(K)
        ]

    def rows(self, start: int, stop: int) -> dict[str, Taskset]:
        """The rows of one part, a block per family of tasks."""
        blocks = []
        for kind in (0, 1):
            own = list(range(kind, K, 2))
            names = tuple(self.tasks[k].name for k in own)
            y = torch.stack([self.y[k][start:stop] for k in own], 1)
            blocks.append(Block(names, y, self.known[start:stop, own], None, True))
        return {"": Taskset({"numeric": self.x[start:stop]}, tuple(blocks))}

    def run(self, watch: Watch | None = None) -> Training:
        """A run that has not begun."""
        encoder = Tabular({"": {"numeric": N_NUMERIC}}, d_hidden=self.width, n_layers=2, dropout=0.3)
        model = Model(Hard(lambda: encoder, self.tasks), self.tasks, 0)
        settings = TrainerSpec(max_epochs=self.epochs, patience=None, accelerator="cpu")
        return Training(
            model,
            Sampler(self.rows(0, ROWS), BATCH, seed=0, max_epochs=self.epochs),
            self.rows(ROWS, ROWS + VALID_ROWS),
            self.tasks,
            Supervised(),
            Equal(),
            OptimSpec(lr=1e-3, weight_decay=0.01),
            settings,
            callbacks=[] if watch is None else [watch],
        )


def watch(every: int | None = None) -> Watch:
    """Both estimators that watch a joint run."""
    return Watch({"cosine": Cosine(), "lookahead": Lookahead()}, every)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    bench = Bench("affinity_cost", "what watching a joint run costs", rounds=7, quick_rounds=1, argv=argv)
    for width in WIDTHS:
        case = Case(width, QUICK_EPOCHS if bench.quick else EPOCHS)

        def plain(case: Case = case) -> float:
            return timed(case.run().run)

        def watched(case: Case = case) -> float:
            return timed(case.run(watch()).run)

        def often(case: Case = case) -> float:
            return timed(case.run(watch(1)).run)

        sides: dict[str, Side] = {"not watched": plain, "watched": watched, "watched at each step": often}
        seconds = bench.rounds(sides)
        one, seen = case.run(), watch()
        other = case.run(seen)
        one.run()
        other.run()
        looks = len(seen.readings["cosine"])
        for name in sides:
            bench.result(f"width {width}, {name}", seconds=median(seconds[name]), steps=one.step)
        bench.result(
            f"width {width}, ratios", looks=looks, every=seen.every or 0,
            watched=ratio(seconds, "watched", "not watched"),
            each_step=ratio(seconds, "watched at each step", "not watched"),
        )  # fmt: skip
        bench.check(f"width {width}: watched / not watched", ratio(seconds, "watched", "not watched"), "<=", 1.5)
        same = all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
        bench.check(f"width {width}: the same weights", float(same), "==", 1.0)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
