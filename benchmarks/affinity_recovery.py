"""How often estimators of relatedness see two known groups: ``python -m benchmarks.affinity_recovery``.

Two groups of three tasks (`benchmarks.suites`: combinations of the same few hidden units of a group, with noise), nets
of H = 4, 8 and 16 hidden units, too few for both groups at once; for each seed a table of its own. Every estimator's
matrix is made symmetric, its average-linkage tree is cut into two, and it is told in which share of the seeds those are
the true groups: for estimators that watch a joint run, as a mean over the run and over its first and later parts. One
synthetic family: which estimator to trust elsewhere does not follow from it.

The check: what reads trained single-task models is right as often as training all pairs, less one seed in ten.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence

import numpy as np

from manyheads.affinity.related import TEXTS, Study, estimators_of
from manyheads.build import prepare, split_parts
from manyheads.config import tasks_of
from manyheads.results import Matrix, Relatedness
from manyheads.stacking.stacked import run_all

from .harness import Bench
from .suites import Suite

TRUTH = (("a1", "a2", "a3"), ("b1", "b2", "b3"))
FAMILY = (
    Suite("two4", "two groups of three, H = 4", TRUTH, 4, 3),
    Suite("two8", "two groups of three, H = 8", TRUTH, 8, 6),
    Suite("two16", "two groups of three, H = 16", TRUTH, 16, 12),
)
METHODS = ("cosine", "lookahead", "rsa", "cka", "transfer", "pairs")
PARTS = ("1/16", "1/8", "1/4", "1/2", "the end")
"""Of the training time: where windows end."""
SEEDS, EPOCHS = 20, 80
TOGETHER = 10
"""Seeds whose nets are trained at once."""


def recovery(
    suite: Suite, seeds: Iterable[int], methods: Sequence[str] = METHODS, epochs: int = EPOCHS
) -> dict[str, list[bool]]:
    """Word (of estimators that watch, also with a part of the training time) -> whether each seed's groups were found.

    Args:
        suite: a family of tables and its truth.
        seeds: of tables and nets.
        methods: words of `manyheads.affinity`.
        epochs: of training at most.
    """
    found: dict[str, list[bool]] = {}
    for answers in answered(suite, list(seeds), methods, epochs):
        for answer in answers:
            matrices: dict[str, Matrix | None] = {answer.method: answer.matrix}
            if answer.windows:
                parts = zip(PARTS[-len(answer.windows) :], answer.windows, strict=True)
                matrices |= {f"{answer.method}, to {part}": window.matrix for part, window in parts}
            for word, matrix in matrices.items():
                groups = [] if matrix is None else cut(matrix, answer.tasks, len(suite.truth))
                found.setdefault(word, []).append(same(groups, suite.truth))
    return found


def answered(suite: Suite, seeds: Sequence[int], methods: Sequence[str], epochs: int) -> list[tuple[Relatedness, ...]]:
    """What estimators say about the table of each seed; nets of several seeds are trained together."""
    parts = [seeds[start : start + TOGETHER] for start in range(0, len(seeds), TOGETHER)]
    return [study.result() for part in parts for study in studied(suite, part, methods, epochs)]


def studied(suite: Suite, seeds: Sequence[int], methods: Sequence[str], epochs: int) -> list[Study]:
    """A study of the table of each seed, all of them trained together."""
    studies = []
    for seed in seeds:
        table, spec = suite.table(seed), suite.spec(seed, epochs)
        tasks = tasks_of(spec)
        parts = split_parts(spec.data.split, {"t": table}, tasks)
        studies.append(Study(spec, prepare(spec, tasks, {"t": table}, parts), estimators_of(methods), 1))
    for study in studies:
        study.watch()
    runs = [study.runs() for study in studies]
    for kind in TEXTS:
        started = time.perf_counter()
        run_all([run for own in runs for run in own.get(kind, [])])
        for study in studies:
            study.seconds[kind] = (time.perf_counter() - started) / len(studies)
    return studies


def cut(matrix: Matrix, tasks: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """So many groups of tasks, by average linkage on the mean of both directions; unknown is as the mean of all.

    Args:
        matrix: [source][target].
        tasks: in the order of its rows.
        n: groups.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    values = np.array([[np.nan if v is None else v for v in row] for row in matrix], dtype=np.float64)
    if np.isnan(values).all():
        return [tuple(tasks)]
    values = np.where(np.isnan(values), np.nanmean(values), values)
    far = -(values + values.T) / 2
    far -= far.min()
    np.fill_diagonal(far, 0.0)
    labels = fcluster(linkage(squareform(far, checks=False), "average"), n, "maxclust")
    return [tuple(t for t, own in zip(tasks, labels, strict=True) if own == k) for k in sorted(set(labels.tolist()))]


def same(groups: Iterable[Sequence[str]], truth: Iterable[Sequence[str]]) -> bool:
    """Whether two groupings are one."""
    return {frozenset(g) for g in groups} == {frozenset(g) for g in truth}


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"tables of each H (default {SEEDS})")
    parser.add_argument("--methods", default=",".join(METHODS), help="by commas (default all)")
    given, rest = parser.parse_known_args(list(sys.argv[1:] if argv is None else argv))
    about = "how often estimators of relatedness see two known groups"
    bench = Bench("affinity_recovery", about, packages=("torch", "numpy", "scipy"), rounds=1, argv=rest)
    seeds, epochs = (2, 2) if bench.quick else (given.seeds, EPOCHS)
    methods = given.methods.split(",")
    everything: dict[str, list[bool]] = {}
    for suite in FAMILY[:1] if bench.quick else FAMILY:
        started = time.perf_counter()
        found = recovery(suite, range(seeds), methods, epochs)
        figures = {word.replace(", ", "_").replace(" ", "_"): share(v) for word, v in found.items()}
        bench.result(suite.name, seconds_per_seed=(time.perf_counter() - started) / seeds, **figures)
        for word, values in found.items():
            everything.setdefault(word, []).extend(values)
    if "pairs" in everything:
        for word in ("rsa", "cka", "transfer"):
            if word in everything:
                gap = share(everything[word]) - share(everything["pairs"])
                bench.check(f"known groups found: {word} - pairs", gap, ">=", -0.1)
    return bench.finish()


def share(found: Sequence[bool]) -> float:
    """Of the seeds in which it was so."""
    return float(np.mean(found))


if __name__ == "__main__":
    sys.exit(main())
