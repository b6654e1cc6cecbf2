"""Few pictures of each of a few new characters: Omniglot (MANYHEADS_DATA), an alphabet held out, for `benchmarks.meta`.

Five alphabets of `omniglot_small1`, 28 x 28. Korean is never learned from. What is learned from is made more: each
character turned by 90, 180 and 270 degrees is a character of its own, and each picture that is drawn is moved, turned
and stretched a little. The settings were fixed beforehand; others are to be chosen with Greek held out and Korean left
out (`--held Greek`). Batch normalisation goes by the rows of an episode, query rows among them, as is usual.
"""

from __future__ import annotations

import io
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyheads import objectives
from manyheads.adaptation import adapt, linear_head, prototypes, settled
from manyheads.data import Block, Taskset
from manyheads.data.episodes import EpisodeSampler, Shape
from manyheads.objectives import Objective
from manyheads.tasks.classification import Multiclass

from .adapting import Net, outputs, step, weights_of

NEW = "Korean"
TESTS = ((5, 1), (5, 5), (20, 1))
"""(classes, pictures of each)."""
INNER = 0.4
"""MAML's rate of the inner steps."""


def characters(held: str = NEW) -> tuple[Taskset, Taskset]:
    """(the other alphabets and their rotations, the alphabet that is held out): 28 x 28, ink 1.

    Args:
        held: an alphabet; where it is not the one of the figures, that one is left out as well.
    """
    from PIL import Image

    path = Path(os.environ["MANYHEADS_DATA"]) / "omniglot_small1" / "images_background_small1.zip"
    pictures: dict[str, list[Tensor]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
            raw = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"), dtype=np.float32)
            small = nn.functional.interpolate(1 - torch.from_numpy(raw)[None, None] / 255, size=28, mode="area")[0]
            pictures.setdefault("/".join(name.split("/")[1:3]), []).append(small)
    known = [torch.stack(p) for n, p in pictures.items() if not n.startswith((held, NEW))]
    new = [torch.stack(p) for n, p in pictures.items() if n.startswith(held)]
    return classes_of([torch.rot90(p, k, (2, 3)) for p in known for k in range(4)]), classes_of(new)


def classes_of(groups: Sequence[Tensor]) -> Taskset:
    """Pictures and the number of their class."""
    y = torch.arange(len(groups)).repeat_interleave(torch.tensor(list(map(len, groups))))
    return Taskset({"x": torch.cat(list(groups))}, (Block(("y",), y, torch.ones_like(y, dtype=torch.bool)),))


def moved(rows: Taskset, random: torch.Generator) -> Taskset:
    """Each picture turned by up to 12 degrees, stretched by up to 15 %, sheared, and moved by up to 2 pixels."""
    x = rows.inputs["x"]

    def draw(most: float) -> Tensor:
        return most * (2 * torch.rand(len(x), generator=random) - 1)

    angle, shear = draw(math.pi / 15), draw(0.15)
    wide, tall, across, down = 1 + draw(0.15), 1 + draw(0.15), draw(2 / 14), draw(2 / 14)
    first = torch.stack([wide * angle.cos(), shear - angle.sin(), across], -1)
    second = torch.stack([angle.sin(), tall * angle.cos(), down], -1)
    grid = nn.functional.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    return replace(rows, inputs={"x": nn.functional.grid_sample(x, grid, align_corners=False)})


def conv_net(width: int, units: int | None, strided: bool, seed: int = 0) -> Net:
    """Four blocks of convolution, batch normalisation and ReLU, each of which halves the size.

    Args:
        width: channels.
        units: of a linear head; None gives the features.
        strided: halved by the stride of the convolution, not by the largest of four.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [
            nn.Conv2d(width if i else 1, width, 3, stride=2 if strided else 1, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        layers += [] if strided else [nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    if units is not None:
        layers.append(nn.Linear(width * (4 if strided else 1), units))
    return Net(nn.Sequential(*layers))


def accuracy(rows: Taskset, ways: int, shots: int, n: int, answer: Callable[..., Tensor]) -> tuple[float, float]:
    """(share of query pictures named rightly, half its 95 % interval over episodes)."""
    sampler = EpisodeSampler({"t": rows}, Shape(shots, min(15, 20 - shots), n, ways), seed=1)
    part = sampler.batch(sampler.plan(0)[0])["t"]
    right = []
    assert part.domain is not None
    assert part.support is not None
    for e in range(n):
        own = part.domain == e
        x, y, support = part.inputs["x"][own], part.blocks[0].target[own], part.support[own]
        with torch.no_grad():
            scores = answer(x[support], y[support], x[~support], ways)
        right.append(float((scores.argmax(1) == y[~support]).float().mean()))
    return float(np.mean(right)), float(1.96 * np.std(right) / n**0.5)


def nearest(x: Tensor, y: Tensor, new: Tensor, ways: int) -> Tensor:
    """The class of the nearest picture, by pixels."""
    near = torch.cdist(new.flatten(1), x.flatten(1)).argmin(1)
    return nn.functional.one_hot(y[near], ways).float()


def trained(
    model: Net, objective: Objective, train: Taskset, iterations: int, lr: float, minutes: float = math.inf
) -> dict[str, float]:
    """Carry the training out: Adam, the rate falling to 0 along a cosine; how many steps in how many seconds."""
    assert objective.shape is not None
    sampler = EpisodeSampler({"t": train}, objective.shape, seed=0, change=moved)
    optimizer = torch.optim.Adam(model.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(iterations, 1))
    started, done = time.process_time(), 0
    for epoch in range(iterations):
        for draw in sampler.plan(epoch):
            if done == iterations or time.process_time() - started > 60 * minutes:
                return {"iterations": done, "seconds": time.process_time() - started}
            step(model, objective, sampler.batch(draw), optimizer)
            schedule.step()
            done += 1
    return {"iterations": done, "seconds": time.process_time() - started}


def of_pixels(held: str, n_test: int) -> dict[str, Any]:
    """The floor: the nearest picture by pixels."""
    return scores(characters(held)[1], TESTS, n_test, nearest)


def of_prototypes(held: str, iterations: int, n_test: int, lr: float = 2e-3, query: int = 4) -> dict[str, Any]:
    """Prototypes of a net with 64 channels, learned from episodes of 20 classes with two pictures each."""
    train, test = characters(held)
    task, model = Multiclass("y", classes=tuple(range(20))), conv_net(64, None, strided=False)
    found = trained(
        model, objectives.Proto([task], ways=20, support=2, query=query, norm="batch"), train, iterations, lr
    )
    weights = weights_of(model)

    def answer(x: Tensor, y: Tensor, new: Tensor, ways: int) -> Tensor:
        old, features = outputs(model, weights, torch.cat([x, new])).split([len(x), len(new)])
        head, bias = linear_head(prototypes(old, y, ways))
        return features @ head.mT + bias

    with settled(model, "batch"):
        return found | scores(test, TESTS, n_test, answer)


def of_maml(
    held: str, iterations: int, n_test: int, lr: float = 2e-3, width: int = 32, steps: int = 1, later: int = 3,
    episodes: int = 8, query: int = 5, ways: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """MAML of a net with strided convolutions, learned from episodes of 5 classes with one picture each.

    Args:
        held: the alphabet of the test.
        iterations, lr: of the outer steps.
        n_test: episodes of the test.
        width: channels.
        steps, later: inner steps while it learns, and on the test's episodes.
        episodes, query: of an outer step; pictures of a class that it is judged by.
        ways: classes of an episode.
    """
    train, test = characters(held)
    task, model = Multiclass("y", classes=tuple(range(ways))), conv_net(width, ways, strided=True)
    objective = objectives.MAML(
        [task], ways=ways, support=1, query=query, episodes=episodes, inner_steps=steps, inner_lr=INNER, norm="batch"
    )
    found = trained(model, objective, train, iterations, lr)
    weights = weights_of(model)

    def loss(own: Mapping[str, Tensor], rows: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(outputs(model, own, rows[0]), rows[1])

    def answer(x: Tensor, y: Tensor, new: Tensor, ways: int) -> Tensor:
        return outputs(model, adapt(loss, weights, (x, y), later, INNER, True), new)

    with settled(model, "batch"):
        return found | scores(test, [(w, s) for w, s in TESTS if w == ways], n_test, answer)


def scores(rows: Taskset, tests: Sequence[tuple[int, int]], n: int, answer: Callable[..., Tensor]) -> dict[str, float]:
    """{"5w1s": accuracy, "ci_5w1s": half its interval, ...}."""
    found = {}
    for ways, shots in tests:
        episodes = n if ways < 20 else max(n // 4, 2)  # of many classes, which have as many pictures
        found[f"{ways}w{shots}s"], found[f"ci_{ways}w{shots}s"] = accuracy(rows, ways, shots, episodes, answer)
    return found
