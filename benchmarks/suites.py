"""Synthetic tables of tasks whose right grouping is known.

All tasks read the same inputs x ~ N(0, I). Tasks that belong together are combinations of the same few hidden units,
y_k = a_k . tanh(W x) / |.| + noise, with W their group's own; the nets that learn them have H hidden units, too few for
all groups at once. Labels have variance 1 (times a scale), noise included.

`python -m benchmarks.suites groups8 -o FOLDER` (`--seed`, `--epochs`) writes FOLDER/groups8.csv and, for `manyheads`,
FOLDER/groups8.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from manyheads.config import check
from manyheads.spec import RunSpec

INPUTS = 10
NOISE = 0.1
"""Share of a label's variance."""


@dataclass(frozen=True)
class Suite:
    """A family of tables.

    Attributes:
        name: its word on the command line.
        about: what it is.
        truth: the tasks that belong together.
        hidden: H, hidden units of a net that learns.
        latent: hidden units of a group's truth.
        rows: of which the half are the test part.
        scales: of the labels, task by task over and over.
        known: share of the labels that are known, of every second task of a group from its second on.
        adversary: tasks whose truth is a fast wave of its own.
    """

    name: str
    about: str
    truth: tuple[tuple[str, ...], ...]
    hidden: int = 8
    latent: int = 3
    rows: int = 800
    scales: tuple[float, ...] = (1.0,)
    known: float = 1.0
    adversary: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks."""
        return tuple(t for group in self.truth for t in group)

    def table(self, seed: int) -> pd.DataFrame:
        """A table of its own for each seed."""
        random = np.random.default_rng([seed, 20, sum(map(ord, self.name))])
        x = random.normal(size=(self.rows, INPUTS))
        columns = {f"x{i}": x[:, i] for i in range(INPUTS)}
        number = 0
        for group in self.truth:
            units = np.tanh(x @ random.normal(size=(INPUTS, self.latent)) * 2 / INPUTS**0.5)
            for place, task in enumerate(group):
                if task in self.adversary:
                    y = np.sin(3.0 * x @ random.normal(size=INPUTS) / INPUTS**0.5)
                else:
                    y = units @ random.normal(size=self.latent)
                y = (y - y.mean()) / y.std() * (1 - NOISE) ** 0.5 + NOISE**0.5 * random.normal(size=self.rows)
                lost = random.random(self.rows) >= (self.known if place % 2 else 1.0)
                columns[task] = np.where(lost, np.nan, y * self.scales[number % len(self.scales)])
                number += 1
        return pd.DataFrame(columns)

    def spec(self, seed: int, epochs: int) -> RunSpec:
        """How its nets are trained: one hidden layer, no regularisation but early stopping."""
        return check(self.settings(seed, epochs))

    def settings(self, seed: int, epochs: int) -> dict[str, Any]:
        """The same as a config has it, without the table."""
        return {
            "seed": seed,
            "data": {"split": {"kind": "random", "sizes": [0.3, 0.2, 0.5], "seed": seed}},
            "tasks": {t: {"type": "regression", "metrics": ["root_mean_squared_error"]} for t in self.tasks},
            "model": {
                "encoder": {
                    "name": "tabular", "d_hidden": self.hidden, "n_layers": 1, "dropout": 0.0, "activation": "tanh",
                },
                "members": 1,
            },
            "optim": {"lr": 0.02, "weight_decay": 0.0},
            "sampling": {"batch_size": 64},
            "trainer": {"max_epochs": epochs, "patience": max(epochs // 4, 1), "val_check_interval": 5},
        }  # fmt: skip


GROUPS = (("a1", "a2", "a3", "a4"), ("b1", "b2", "b3"), ("adversary",))
EIGHT = tuple(f"t{i}" for i in range(1, 9))
_ODD = {"adversary": ("adversary",)}

SUITES = (
    Suite("groups4", "two groups and an adversary, H = 4", GROUPS, 4, 3, **_ODD),
    Suite("groups8", "two groups and an adversary, H = 8", GROUPS, 8, 3, **_ODD),
    Suite("groups16", "two groups and an adversary, H = 16", GROUPS, 16, 3, **_ODD),
    Suite("independent", "every task has hidden units of its own", tuple((t,) for t in EIGHT)),
    Suite("equal", "all tasks combine the same hidden units", (EIGHT,)),
    Suite("scales", "two groups and an adversary, labels up to 1,000 times as large", GROUPS, scales=(1, 1000, 30),
          **_ODD),
    Suite("labels", "two groups and an adversary, every second task with 10 % of its labels", GROUPS, known=0.1,
          rows=1600, **_ODD),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Write a table and its config."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suites", description=__doc__)
    parser.add_argument("suite", choices=[suite.name for suite in SUITES])
    parser.add_argument("-o", "--output-dir", type=Path, default=Path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=80)
    args = parser.parse_args(argv)
    suite = next(suite for suite in SUITES if suite.name == args.suite)
    settings = suite.settings(args.seed, args.epochs)
    settings["data"]["train"] = f"{suite.name}.csv"
    args.output_dir.mkdir(parents=True, exist_ok=True)
    suite.table(args.seed).to_csv(args.output_dir / f"{suite.name}.csv", index=False)
    text = yaml.safe_dump({"schema_version": 1, **settings}, sort_keys=False)
    (args.output_dir / f"{suite.name}.yaml").write_text(f"# {suite.about}\n{text}", encoding="utf-8")
    print(f"{suite.name}: {suite.about}; {suite.rows} rows, {len(suite.tasks)} tasks.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
