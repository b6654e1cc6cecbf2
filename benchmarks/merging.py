"""What is lost when fine-tuned copies of one model become one: ``python -m benchmarks.merging``.

Fashion-MNIST's 10,000 test pictures (MANYHEADS_DATA), 14 x 14 grey values. A model learns the ten kinds from 3,000 of
them; one copy is then trained on to tell five kinds of tops apart (2,000 pictures), another one three kinds of shoes
(2,000). The copies are merged by every way there is. Scales and densities are chosen on 1,000 pictures, the figures are
accuracies on the last 2,000, which nobody learned from: by the copy that has the task, and by the merged model.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import manyheads as mh
from manyheads.catalog import make
from manyheads.data import Taskset
from manyheads.evaluate import score
from manyheads.growing.merge import Merging, Source, merge
from manyheads.model import AnyModel
from manyheads.tasks import Task

from .harness import Bench

TOLERANCE = 0.03
"""By how much the accuracy of a task may fall, at the way and settings that validation chose."""
TOPS, SHOES = (0, 2, 3, 4, 6), (5, 7, 9)
PARTS = {"base": 3000, "top": 2000, "shoe": 2000, "choose": 1000, "test": 2000}
SCALES, DENSITIES = (0.3, 0.5, 0.7, 1.0), (0.2, 0.5, 0.8)
WAYS: dict[str, list[dict[str, float]]] = {
    "average": [{}],
    "arithmetic": [{"scale": s} for s in SCALES],
    "ties": [{"scale": s, "density": d} for s, d in product(SCALES, DENSITIES)],
    "dare": [{"scale": s, "density": d} for s, d in product(SCALES, DENSITIES)],
}


def pictures(quick: bool) -> dict[str, pd.DataFrame]:
    """The pictures by part, each with its kind, and what kind of top or shoe it is where it is one."""
    folder = Path(os.environ["MANYHEADS_DATA"]) / "fashion_mnist_t10k"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        kind = np.frombuffer(file.read(), np.uint8, offset=8).astype(int)
    coarse = pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(len(pixels), -1) / 255
    frame = pd.DataFrame(coarse, columns=[f"p{i}" for i in range(196)]).assign(kind=kind)
    frame["top"] = frame["kind"].where(frame["kind"].isin(TOPS))
    frame["shoe"] = frame["kind"].where(frame["kind"].isin(SHOES))
    order, start, found = np.random.default_rng(0).permutation(len(frame)), 0, {}
    for part, n in PARTS.items():
        n = n // 10 if quick else n
        found[part] = frame.iloc[order[start : start + n]].reset_index(drop=True)
        start += n
    return found


def accuracies(model: AnyModel, dataset: Any, rows: pd.DataFrame) -> dict[str, float]:
    """{task: accuracy} of a model on some rows."""
    names = list(model.tasks)
    found: dict[str, Taskset] = dataset.tasksets({"rows": rows}, tasks=names)
    return {s.task: float(s.value or 0.0) for s in score(model, found, "rows", draws=0).scores if s.primary}


def one(seed: int, parts: dict[str, pd.DataFrame], epochs: int) -> dict[str, Any]:
    """One family: {"before": {task: accuracy}, way: {"settings", "choose": mean on the rows to choose by, "after"}}."""
    tasks: dict[str, Task] = {t: mh.Multiclass(t, metrics=("accuracy",)) for t in ("kind", "top", "shoe")}
    base = mh.Learner(
        [tasks["kind"]], random_state=seed, members=1, max_epochs=epochs, encoder={"name": "tabular", "d_hidden": 128}
    ).fit(parts["base"].drop(columns=["top", "shoe"]))
    old = parts["base"].iloc[:200].drop(columns=["top", "shoe"])
    copies = {}
    for name in ("top", "shoe"):
        rows = parts[name].dropna(subset=[name])[[c for c in parts[name] if str(c).startswith("p") or c == name]]
        tuning = {"name": "finetune", "pace": 1.0}
        copies[name] = base.add_task(tasks[name], rows, tuning, old=old, tolerance=1.0)
    sources = [Source(n, c.model_, c.spec.model, c.dataset_) for n, c in copies.items()]
    start = Source("base", base.model_, sources[0].spec, base.dataset_)
    train = base.dataset_.tasksets({"rows": parts["base"]}, tasks=["kind"])
    before = {
        part: {f"{n}: {t}": v for n, c in copies.items()
               for t, v in accuracies(c.model_, c.dataset_, parts[part]).items()}
        for part in ("choose", "test")
    }  # fmt: skip
    alone = accuracies(base.model_, base.dataset_, parts["test"])["kind"]
    found: dict[str, Any] = {"before": before["test"], "base: kind": alone}
    for way, grid in WAYS.items():
        tried = []
        for settings in grid:
            model, _, dataset = merge(sources, make(Merging, way, settings), start, train)  # type: ignore[type-abstract]
            chosen = accuracies(model, dataset, parts["choose"])
            tried.append((float(np.mean(list(chosen.values()))), settings, model, dataset))
        best, settings, model, dataset = max(tried, key=lambda row: row[0])
        found[way] = {"settings": settings, "choose": best, "after": accuracies(model, dataset, parts["test"])}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    bench = Bench("merging", "what is lost when copies of one model become one", packages=("torch", "numpy"), argv=argv)
    if not os.environ.get("MANYHEADS_DATA"):
        bench.absent("fashion", "MANYHEADS_DATA is not set")
        return bench.finish()
    parts = pictures(bench.quick)
    families = [one(seed, parts, 2 if bench.quick else 30) for seed in range(1 if bench.quick else 3)]

    def mean(of: Sequence[float]) -> float:
        return float(np.mean(of))

    bench.result("the base model, kind", accuracy=mean([f["base: kind"] for f in families]))
    for name in families[0]["before"]:
        bench.result(f"before, copy {name}", accuracy=mean([f["before"][name] for f in families]))
    lost: dict[str, dict[str, float]] = {}
    for way in WAYS:
        after = {t: mean([f[way]["after"][t] for f in families]) for t in ("kind", "top", "shoe")}
        own = {"top": "top: top", "shoe": "shoe: shoe"}
        lost[way] = {t: mean([f["before"][o] for f in families]) - after[t] for t, o in own.items()}
        bench.result(
            f"after, {way}", **after, **{f"lost, {t}": v for t, v in lost[way].items()},
            settings=" / ".join(str(f[way]["settings"]) for f in families),
        )  # fmt: skip
    chosen = max(WAYS, key=lambda way: mean([f[way]["choose"] for f in families]))
    bench.result("chosen on the rows to choose by", way=chosen)
    for task, fell in lost[chosen].items():
        bench.check(f"accuracy that `{task}` lost, {chosen}", fell, "<=", TOLERANCE)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
