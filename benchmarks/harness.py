"""What every benchmark shares: interleaved rounds, medians, ratios, checks, and the JSON object on the last line.

```python
bench = Bench("step", "What one step costs.", packages=("torch",))
seconds = bench.rounds({"ours": ours, "bare": bare}, rounds=7)    # each side: () -> seconds
bench.result("ours", milliseconds=1e3 * median(seconds["ours"]))
bench.check("ours / bare", ratio(seconds, "ours", "bare"), "<=", 1.2)
sys.exit(bench.finish())
```
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import operator
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from manyheads._version import __version__

OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq}

Side = Callable[[], float]
"""One side of a comparison: does its work once and returns the seconds that count."""


class Bench:
    """One benchmark: its command line, its results, its checks, its exit status.

    Args:
        name: the word after ``benchmarks.``.
        about: one line for ``--help``.
        packages: distributions whose versions belong to the figures.
        rounds, quick_rounds: interleaved rounds by default, and in the smoke run.
        argv: the command line; that of the process by default.
        threads: threads of torch by default; a benchmark of many small steps is steadier with one.

    Attributes:
        quick: a smoke run: does the benchmark work? Checks are printed, but their figures are not judged.
        n_rounds: rounds asked for.
        threads: threads of torch, set at once.
    """

    def __init__(
        self,
        name: str,
        about: str,
        packages: Sequence[str] = ("torch",),
        rounds: int = 7,
        quick_rounds: int = 2,
        argv: Sequence[str] | None = None,
        threads: int = 1,
    ) -> None:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
        parser.add_argument("--quick", action="store_true", help="a smoke run; figures are not judged")
        parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {rounds})")
        parser.add_argument("--threads", type=int, default=threads, help=f"threads of torch (default {threads})")
        given = parser.parse_args(argv)
        self.name, self.packages = name, tuple(packages)
        self.quick: bool = given.quick
        self.n_rounds: int = given.rounds or (quick_rounds if given.quick else rounds)
        self.threads: int = given.threads
        self.results: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.missing: list[str] = []
        torch.set_num_threads(self.threads)
        print(f"# {name}: {about}" + (" (quick)" if self.quick else ""), flush=True)

    def rounds(self, sides: Mapping[str, Side], rounds: int | None = None) -> dict[str, list[float]]:
        """The seconds of each side in each round; a first round is thrown away.

        In a round every side runs once, one after the other, and each round begins with another side, so that a machine
        that is busy for a while is busy for all of them.
        """
        names, n = list(sides), rounds if rounds is not None else self.n_rounds
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(-1, n):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                took = sides[name]()
                if turn >= 0:
                    seconds[name].append(took)
        return seconds

    def result(self, name: str, **figures: Any) -> None:
        """One row of the table: printed now, and part of the object at the end."""
        self.results.append({"name": name} | {k: _tidy(v) for k, v in figures.items()})
        shown = "  ".join(f"{k} {_text(v)}" for k, v in figures.items())
        print(f"{name:<34} {shown}", flush=True)

    def absent(self, name: str, why: str) -> None:
        """A side that could not run: its row says so, its checks are left out, and a full run fails."""
        self.missing.append(name)
        self.result(name, missing=why)

    def check(self, name: str, value: float, op: str, bound: float) -> None:
        """One figure against its bound."""
        holds = bool(OPERATORS[op](value, bound))
        self.checks.append({"name": name, "value": _tidy(value), "op": op, "bound": bound, "holds": holds})

    def finish(self) -> int:
        """Print the checks and, as the last line, the object; the exit status."""
        for check in self.checks:
            mark = "holds" if check["holds"] else "FAILS"
            print(f"{mark}  {check['name']}: {_text(check['value'])} {check['op']} {check['bound']}")
        if self.missing:
            print(f"not run: {', '.join(self.missing)}" + ("" if self.quick else " (so this run fails)"))
        if self.quick:
            print("quick: figures are not judged")
        line = {
            "name": self.name,
            "machine": machine(),
            "versions": versions(self.packages),
            "results": self.results,
            "checks": self.checks,
        }
        print(json.dumps(line, allow_nan=False), flush=True)
        if self.quick:
            return 0
        return int(bool(self.missing) or not all(check["holds"] for check in self.checks))


def ratio(seconds: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """The median over rounds of seconds(above) / seconds(below): both were measured in the same minute."""
    return median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def labels(x: Tensor, n_tasks: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Per task a label (rows,), linear in the columns of x (rows, columns); of every second task only its sign, 0 or 1.

    Args:
        x: inputs.
        n_tasks: how many.
        generator: of the coefficients; torch's own by default.
    """
    y = x @ torch.randn(x.shape[1], n_tasks, generator=generator) / x.shape[1] ** 0.5
    return [(y[:, k] > 0).float() if k % 2 else y[:, k] for k in range(n_tasks)]


def timed(work: Callable[[], Any]) -> float:
    """The seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Throw away what a peer prints: the table and the last line are ours."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python, of manyheads, and of the named distributions that are installed."""
    found = {"python": platform.python_version(), "manyheads": __version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _tidy(value: Any) -> Any:
    """Four significant digits are more than a clock gives."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
