"""Rows per second in training: manyheads, a bare torch loop, torch-rechub, DeepCTR-Torch.

One network for all: 13 numeric columns as they are, 8 categorical ones through tables of 8 columns, two hidden layers
of 64 with ReLU, one linear head for each of 3 binary tasks; batches of 1024, AdamW (fused), one epoch per round, no
validation, nothing written. What a peer cannot do alike:

* torch-rechub has batch normalisation after each hidden layer, always; its losses are averaged over tasks, not summed.
  Its numeric columns are given one by one, as its examples do, and again as one vector of 13, which is faster.
* DeepCTR-Torch sums over rows instead of averaging; categories travel as floats in one matrix; its L2 terms are off.

The arithmetic is the same everywhere, so the wider the layers, the nearer all ratios are to 1; what manyheads can reach
against a peer is what the bare loop reaches, which is why the bare loop's own ratios are in the table.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from statistics import median
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyheads.balance.weighting import Equal
from manyheads.data import Block, Taskset
from manyheads.data.sampler import Sampler
from manyheads.encoders.tabular import Tabular
from manyheads.model import Model
from manyheads.objectives import Supervised
from manyheads.sharing.hard import Hard
from manyheads.spec import OptimSpec, TrainerSpec
from manyheads.tasks.classification import Binary
from manyheads.train import Training

from .harness import Bench, Side, ratio, silent, timed

ROWS, QUICK_ROWS, BATCH, LR = 60_000, 8_192, 1024, 1e-3
N_NUMERIC, CARDINALITIES, D_EMBEDDING, D_HIDDEN = 13, (10, 20, 50, 100, 200, 300, 500, 1000), 8, 64
TASKS = ("click", "cart", "buy")


class Data:
    """Synthetic rows, as arrays: numeric (rows, 13), categorical (rows, 8), labels (rows, 3) of 0 and 1."""

    def __init__(self, rows: int) -> None:
        random = np.random.default_rng(0)
        self.numeric = random.standard_normal((rows, N_NUMERIC), dtype=np.float32)
        self.categorical = np.stack([random.integers(0, c, rows) for c in CARDINALITIES], 1)
        signal = self.numeric @ random.standard_normal((N_NUMERIC, len(TASKS)))
        for i, c in enumerate(CARDINALITIES):
            signal += random.standard_normal((c, len(TASKS)))[self.categorical[:, i]]
        self.labels = (random.logistic(size=signal.shape) < signal - 1).astype(np.float32)

    def __len__(self) -> int:
        return len(self.labels)


# -- the sides: each maker gives (the net, one epoch of work)


def manyheads(data: Data) -> tuple[nn.Module, Callable[[], object]]:
    """The library: `Training` over one stacked block of labels."""
    tasks = [Binary(t, classes=(0, 1)) for t in TASKS]
    labels = torch.from_numpy(data.labels)
    inputs = {"numeric": torch.from_numpy(data.numeric), "categorical": torch.from_numpy(data.categorical)}
    rows = Taskset(inputs, (Block(TASKS, labels, torch.ones_like(labels, dtype=torch.bool), None, stacked=True),))
    layout = {"numeric": N_NUMERIC, "categorical": list(CARDINALITIES)}

    def encoder() -> Tabular:
        return Tabular(
            {"": layout},
            d_hidden=D_HIDDEN,
            n_layers=2,
            activation="relu",
            dropout=0.0,
            d_embedding=D_EMBEDDING,
            linear_path=False,
        )

    model = Model(Hard(encoder, tasks), tasks)
    training = Training(
        model,
        Sampler({"": rows}, BATCH),
        {},
        tasks,
        Supervised(),
        Equal(),
        OptimSpec(lr=LR, weight_decay=0.01),
        TrainerSpec(max_epochs=1, accelerator="cpu"),
    )
    return model, training.run


class Net(nn.Module):
    """The same network by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(c, D_EMBEDDING) for c in CARDINALITIES)
        width = N_NUMERIC + D_EMBEDDING * len(CARDINALITIES)
        self.trunk = nn.Sequential(nn.Linear(width, D_HIDDEN), nn.ReLU(), nn.Linear(D_HIDDEN, D_HIDDEN), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(D_HIDDEN, 1) for _ in TASKS)

    def forward(self, numeric: Tensor, categorical: Tensor) -> list[Tensor]:
        codes = [table(categorical[:, i]) for i, table in enumerate(self.tables)]
        z = self.trunk(torch.cat([numeric, *codes], -1))
        return [head(z).squeeze(-1) for head in self.heads]


def bare(data: Data, fused: bool) -> tuple[nn.Module, Callable[[], object]]:
    """What one writes by hand: shuffled indices into whole tensors, one loss per head, nothing recorded."""
    numeric, categorical = torch.from_numpy(data.numeric), torch.from_numpy(data.categorical)
    labels = torch.from_numpy(data.labels)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=fused)

    def epoch() -> None:
        net.train()
        for index in torch.randperm(len(labels)).split(BATCH):
            y = labels[index]
            outputs = net(numeric[index], categorical[index])
            loss = sum(F.binary_cross_entropy_with_logits(output, y[:, k]) for k, output in enumerate(outputs))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return net, epoch


def torch_rechub(data: Data, vector: bool) -> tuple[nn.Module, Callable[[], object]]:
    """Its SharedBottom, its data generator and one training epoch of its MTLTrainer."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import SharedBottom
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    x = {f"c{i}": data.categorical[:, i] for i in range(len(CARDINALITIES))}
    features = [SparseFeature(f"c{i}", c, embed_dim=D_EMBEDDING) for i, c in enumerate(CARDINALITIES)]
    if vector:
        x["n"] = data.numeric
        features.append(DenseFeature("n", embed_dim=N_NUMERIC))
    else:
        x |= {f"n{i}": data.numeric[:, i] for i in range(N_NUMERIC)}
        features += [DenseFeature(f"n{i}") for i in range(N_NUMERIC)]
    kinds = ["classification"] * len(TASKS)
    net = SharedBottom(features, kinds, {"dims": [D_HIDDEN, D_HIDDEN], "dropout": 0.0}, [{"dims": []} for _ in TASKS])
    settings = {"lr": LR, "weight_decay": 0.01, "fused": True}
    trainer = MTLTrainer(net, kinds, optimizer_fn=torch.optim.AdamW, optimizer_params=settings, n_epoch=1)
    loader, _, _ = DataGenerator(x, data.labels).generate_dataloader(
        x_val=x, y_val=data.labels, x_test=x, y_test=data.labels, batch_size=BATCH
    )
    return net, lambda: trainer.train_one_epoch(loader)


def deepctr_torch(data: Data) -> tuple[nn.Module, Callable[[], object]]:
    """Its SharedBottom and its `fit`."""
    with mock.patch("threading.Thread.start"):  # its import asks the package index for a newer version
        from deepctr_torch.inputs import DenseFeat, SparseFeat
        from deepctr_torch.models.multitask import SharedBottom

    columns = [SparseFeat(f"c{i}", c, embedding_dim=D_EMBEDDING) for i, c in enumerate(CARDINALITIES)]
    columns.append(DenseFeat("n", N_NUMERIC))
    net = SharedBottom(
        columns,
        bottom_dnn_hidden_units=(D_HIDDEN, D_HIDDEN),
        tower_dnn_hidden_units=(),
        l2_reg_linear=0,
        l2_reg_embedding=0,
        init_std=0.05,
        task_types=["binary"] * len(TASKS),
        task_names=list(TASKS),
    )
    net.compile(torch.optim.AdamW(net.parameters(), lr=LR, fused=True), loss=["binary_crossentropy"] * len(TASKS))
    x = {f"c{i}": data.categorical[:, i] for i in range(len(CARDINALITIES))} | {"n": data.numeric}
    return net, lambda: net.fit(x, data.labels, batch_size=BATCH, epochs=1, verbose=0)


def once(make: Callable[[], tuple[nn.Module, Callable[[], object]]]) -> Side:
    """A side that makes its net anew, and counts its epoch alone."""

    def side() -> float:
        with silent():
            _, epoch = make()
            return timed(epoch)

    return side


def main() -> int:
    """Run it."""
    bench = Bench(
        "fit_throughput",
        "rows per second in training, one network, one batch size",
        packages=("torch", "numpy", "torch-rechub", "deepctr-torch"),
        rounds=9,
        threads=os.cpu_count() or 1,
    )
    data = Data(QUICK_ROWS if bench.quick else ROWS)
    makers = {
        "manyheads": lambda: manyheads(data),
        "bare loop": lambda: bare(data, fused=True),
        "bare loop, not fused": lambda: bare(data, fused=False),
        "torch-rechub": lambda: torch_rechub(data, vector=False),
        "torch-rechub, one vector": lambda: torch_rechub(data, vector=True),
        "DeepCTR-Torch": lambda: deepctr_torch(data),
    }
    parameters: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for name, make in makers.items():
        try:
            with silent():
                parameters[name] = sum(p.numel() for p in make()[0].parameters())
        except ImportError as error:
            reasons[name] = f"not installed ({error}); pip install 'manyheads[bench]'"
    seconds = bench.rounds({name: once(make) for name, make in makers.items() if name in parameters})
    for name in makers:
        if name in reasons:
            bench.absent(name, reasons[name])
            continue
        bench.result(
            name,
            rows_per_second=len(data) / median(seconds[name]),
            step_ms=1e3 * median(seconds[name]) / -(-len(data) // BATCH),
            manyheads_is=ratio(seconds, name, "manyheads"),
            bare_loop_is=ratio(seconds, name, "bare loop"),
            parameters=parameters[name],
        )
    for name, bound in (("bare loop", 0.85), ("torch-rechub", 4.0), ("DeepCTR-Torch", 2.5)):
        if name in seconds:
            bench.check(f"manyheads / {name}, rows per second", ratio(seconds, name, "manyheads"), ">=", bound)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
