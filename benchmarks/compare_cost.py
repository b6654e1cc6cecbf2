"""A whole comparison beside the same runs one by one: ``python -m benchmarks.compare_cost``.

The study of `manyheads compare` on `card` (3,010 rows, K = 6 tasks): 5 repeats, each with the joint model and the 6
single-task models, so 35 runs of one net each (`model.members=1`; all else, early stopping among it, as it is by
default). One side is the engine of `compare`, which trains the nets of a kind beside one another in as many processes
as there are cores; the other carries each run to its end by itself (`Training.run`), one after the other, in this
process, with as many threads as there are cores. Splits, seeds and stopping rules are the same. What is counted is the
training, from rows that are made ready to models that have their best weights; tables are made ready and test parts
are read outside.

The study must be twice as fast. That both ended as they should is checked too: dropout draws other masks on the two
sides, so that early stopping ends single nets at other epochs, and what must agree is delta-m, roughly. Rounds are
interleaved and the ratio is the median over rounds, since other programs may be running: the load average is told.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from statistics import median

from manyheads import Learner, datasets
from manyheads.compare import Study, processes
from manyheads.compare.rounds import each

from .harness import Bench, Side, ratio, timed

REPEATS, QUICK_REPEATS = 5, 1
QUICK_EPOCHS, QUICK_ROWS = 1, 400


def study_of(repeats: int, epochs: int | None) -> Study:
    """The comparison on `card`, its rows made ready."""
    table, tasks = datasets.load("card")
    settings = {} if epochs is None else {"max_epochs": epochs}
    table = table if epochs is None else table[:QUICK_ROWS]
    return Study(Learner(tasks, members=1, **settings).spec, tasks, {"card": table}, repeats=repeats)


def one_by_one(study: Study) -> None:
    """Every run by itself."""
    for name in study.names:
        for one in study.rounds:
            one.runs[name] = study.made(one, name)
            for run in one.runs[name].values():
                for net in each(run):
                    net.primary_only = True
                    net.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    about = "a whole comparison beside the same runs one by one"
    bench = Bench(
        "compare_cost", about, packages=("torch", "joblib"), rounds=3, quick_rounds=1, argv=argv,
        threads=os.cpu_count() or 1,
    )  # fmt: skip
    repeats, epochs = (QUICK_REPEATS, QUICK_EPOCHS) if bench.quick else (REPEATS, None)
    ended: dict[str, Study] = {}

    def together() -> float:
        ended["compare"] = study_of(repeats, epochs)
        return timed(lambda: ended["compare"].train(processes(None)))

    def apart() -> float:
        ended["one by one"] = study_of(repeats, epochs)
        return timed(lambda: one_by_one(ended["one by one"]))

    sides: dict[str, Side] = {"compare": together, "one by one": apart}
    seconds = bench.rounds(sides)
    found: dict[str, float] = {}
    for name in sides:
        study = ended[name]
        nets = [net for one in study.rounds for runs in one.runs.values() for run in runs.values() for net in each(run)]
        study.look()
        study.read()
        found[name] = study.judged()[0].comparisons["joint"].delta_m or 0.0
        bench.result(
            name, seconds=median(seconds[name]), nets=len(nets), updates=sum(net.step for net in nets),
            delta_m=found[name], load=round(os.getloadavg()[0], 1),
        )  # fmt: skip
    bench.check("one by one / compare", ratio(seconds, "one by one", "compare"), ">=", 2.0)
    bench.check("difference of delta-m", abs(found["compare"] - found["one by one"]), "<=", 0.02)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
