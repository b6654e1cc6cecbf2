"""Examples of every answer to every contract, so that a new file is tested by being there.

A class whose constructor asks for nothing beyond what its contract gives is its own example. Any other one needs a line
here; `tests/test_house.py` names those that have none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from manyheads.affinity import Estimator
from manyheads.augment import Augmentation
from manyheads.balance import Balance
from manyheads.blocks import seed_of
from manyheads.catalog import find, index
from manyheads.data import Block, Taskset
from manyheads.data.formats import Format
from manyheads.encoders import Encoder
from manyheads.metrics.spans import spans
from manyheads.model import Model
from manyheads.objectives import Objective
from manyheads.penalties import Penalty
from manyheads.ragged import Ragged, objects
from manyheads.sharing import Sharing
from manyheads.tasks import Task
from manyheads.tasks._pairs import RANK, WIDTH
from manyheads.transfer import Way

GIVEN: dict[type, tuple[str, ...]] = {
    Task: ("name",),
    Encoder: ("layouts",),
    Sharing: ("encoder", "tasks"),
    Balance: (),
    Penalty: (),
    Objective: (),
    Augmentation: (),
    Format: (),
    Estimator: (),
    Way: (),
}
"""The contracts, and the arguments that everybody who builds an answer passes."""

TINY_BERT = {
    "model_type": "bert", "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 24,
}  # fmt: skip

SETTINGS: dict[type, dict[str, list[dict[str, Any]]]] = {
    Task: {
        "regression": [{}, {"loss": "huber"}, {"loss": "mae"}, {"transform": "log1p"}, {"transform": "none"}],
        "binary": [{}, {"class_weight": "balanced"}, {"threshold": "f1"}],
        "multiclass": [{}, {"class_weight": "balanced"}],
        "multilabel": [{"target": ("l1", "l2", "l3")}],
        "transcription": [{}, {"units": "characters", "beam": 3}],
        "reconstruction": [
            {"rate": 800, "window": 0.04, "hop": 0.02, "d_head": 6},
            {"rate": 800, "window": 0.08, "hop": 0.02, "d_head": 6, "mask": "complex", "loss": "spectral"},
        ],
        "tagging": [{}, {"scheme": "none"}],
        "segmentation": [
            {"size": (6, 8)},
            {"size": (6, 8), "loss": "log_loss+dice", "values": {0: "no", 1: "a", 2: "b"}},
        ],
        "relation": [{"target": ("tags", "links")}],
        "detection": [{"size": (24, 32)}, {"size": (24, 32), "names": ("sign", "car", "bus")}],
    },
    Encoder: {
        "audio": [
            {"d_hidden": 8, "bands": 6, "window": 0.04, "hop": 0.02},
            {
                "d_hidden": 8,
                "bands": 6,
                "window": 0.04,
                "hop": 0.01,
                "halvings": 2,
                "full": 0,
                "normalise": "utterance",
            },
        ],
        "image": [
            {"width": 8},
            {"width": 4, "depth": 2, "detail": 2, "norm": "layer"},
            {"width": 4, "n_stages": 3, "places": 2, "dropout": 0.1},
        ],
        "fused": [{"d_hidden": 8, "d_part": 5, "parts": {"image": {"width": 4}}}],
        "factorised": [{"d_hidden": 8, "d_embedding": 5}, {"d_hidden": 8, "n_layers": 0}],
        "pretrained": [{"config": TINY_BERT, "words": "mean", "layers_per_stage": 2}],
        "tabular": [
            {"d_hidden": 8, "linear_path": True},
            {"d_hidden": 8, "linear_path": False, "n_layers": 3, "residual": True},
        ],
        "text": [
            {"d_word": 4, "d_parts": 3, "d_case": 2, "d_hidden": 8},
            {"d_word": 6, "d_parts": 0, "d_hidden": 8, "n_layers": 2, "cell": "attention", "n_heads": 2},
        ],
    },
    Sharing: {
        "hierarchical": [{}, {"shared_from": 1}],
        "soft": [{}, {"penalty": "pairwise", "step": "literal"}, {"step": "loss", "from_stage": -1}],
        "mixing": [{}, {"penalty": "share", "per": "stage"}, {"penalty": "binary", "per": "tensor", "from_stage": -1}],
        "lowrank": [{}, {"rank": 0}, {"rank": 2, "from_stage": 1}],
        "esmm": [{}, {"from_stage": -1}],
        "aitm": [{}, {"calibrator": 0.6, "from_stage": 0}],
        "pepnet": [{}, {"d_gate": 4, "d_table": 3}],
        "mmoe": [{}, {"n_experts": 3, "from_stage": -1}],
        "cgc": [{}, {"n_shared": 0, "n_own": 2}, {"n_shared": 3, "n_own": 0}],
        "ple": [{}, {"n_own": 2, "n_shared": 1, "levels": 1}],
        "dselectk": [{}, {"n_experts": 3, "per_row": True}],
        "crossstitch": [{}, {"own": 0.6, "per": "channel", "from_stage": 0}],
        "sluice": [{}, {"n_subspaces": 3, "last": 0.5, "from_stage": 0}],
        "mtan": [{}, {"d_attention": 4, "from_stage": 0}],
    },
    Balance: {
        "fixed": [{"weights": {"a": 2.0, "b": 0.5}}],
        "dwa": [{}, {"steps_per_epoch": 3}],
        "rlw": [{"distribution": d} for d in ("normal", "uniform", "dirichlet")],
        "go4align": [{}, {"n_groups": 3}],
        "famo": [{}, {"gamma": 1e-3, "lr": 0.1}],
        "pcd": [{"primary": "a"}],
        "mgda": [{}, {"gramian": "exact", "every": 2}],
        "graddrop": [{}, {"leak": 0.2, "seed": 3}],
        "torchjd": [
            {"method": m} for m in ("MGDA", "PCGrad", "AlignedMTL", "ConFIG", "GradDrop", "scalarization.Mean")
        ],
        "stch": [{}, {"mu": 3.0, "ideal": {"a": 0.1}}, {"ideal": "running"}],
    },
    Estimator: {"lookahead": [{}, {"eta": 0.01}]},
    Penalty: {
        "graph": [{}, {"edges": [["a", "b"], ["b", "c", 2.0], ["a", "d", 0.3]]}],
        "l21": [{"groups": g} for g in ("input", "output", "task", "entry")] + [{"of": "mean"}],
        "linf1": [{"groups": g} for g in ("input", "output", "task", "entry")],
        "trace": [{}, {"of": "mean"}],
        "dirty": [{}, {"ratio": 0.6}],
        "robust": [{}, {"ratio": 0.6}],
        "outlier": [{}, {"ratio": 0.8}],
    },
}
"""Further settings to try; one empty dict where a word is not named."""


@dataclass(frozen=True)
class Case:
    """One answer with one set of settings."""

    word: str
    cls: type
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self.cls(*args, **{**self.settings, **more})

    def __str__(self) -> str:
        return self.word + "".join(f"-{k}={v}" for k, v in self.settings.items())


def missing_arguments(contract: type, word: str) -> list[str]:
    """Constructor arguments without a default that neither the contract nor the table above gives."""
    parameters = inspect.signature(find(contract, word)).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    known = {*GIVEN[contract], *(k for s in SETTINGS.get(contract, {}).get(word, []) for k in s)}
    return [name for name in required if name not in known]


def catalogue(contract: type) -> list[Case]:
    """Every answer to a contract, with its example settings."""
    table = SETTINGS.get(contract, {})
    return [Case(word, find(contract, word), s) for word in index(contract) for s in table.get(word, [{}])]


# -- tasks: labels and outputs


def _some_missing(values: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    result = values.astype(object)
    result[rng.random(len(values)) < share] = None
    return result


@dataclass(frozen=True)
class Kind:
    """A task type: labels to learn from, and the output that says the truth.

    Where a label is of any length or shape, `output` gives a random output (lead..., rows, ...) for a target, the laws
    are those of `test_tasks_of_rows.py`, and `units` is not asked for.
    """

    labels: Callable[[np.random.Generator, int], np.ndarray]
    perfect: Callable[[Any, Any], Any]
    units: Callable[[Task], int] = lambda task: 0
    output: Callable[..., Any] | None = None
    read: Callable[[Any, Any], tuple[list[int], Any]] | None = None
    """(task, target) -> the widths of what its head reads, and that, where it is no plain sequence."""


def _one_hot(task: Any, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(target.long(), len(task.classes)).to(torch.float32) * 60


def _signs(task: Task, target: torch.Tensor) -> torch.Tensor:
    return (target * 2 - 1) * 60


def _tags(rng: np.random.Generator, n: int) -> np.ndarray:
    """Sentences of one to six tokens; some have two names, the first of two tokens."""
    two = ["B-PER", "I-PER", "O", "B-LOC"]
    return objects([[*two, *["O"] * int(k - 4)] if k >= 4 else ["O"] * int(k) for k in rng.integers(1, 7, n)])


def _linked(rng: np.random.Generator, n: int) -> np.ndarray:
    """Such sentences, and what their names have to do with one another."""
    tags = _tags(rng, n)
    links = [[{"head": 0, "tail": 1, "type": "lives"}] if len(row) == 4 else [] for row in tags]
    links = [
        [*own, {"head": 1, "tail": 0, "type": "holds"}] if len(row) > 3 else []
        for own, row in zip(links, tags, strict=True)
    ]
    return np.stack([tags, objects(links)], axis=1)


def _tokens(target: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    """Tags, -1 where there is no token, and the mask, of an encoded label."""
    if target.values.dim() == 2:  # relations come after the tags
        target = Ragged.of([row[row[:, 1] < 0, 0] for row in target], like=target.values[:, 0])
    return target.padded(-1)


def _random_scores(task: Any, target: Ragged, *lead: int) -> torch.Tensor:
    tags, mask = _tokens(target)
    units = task.head([2])((torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))).shape[-1]
    scores = torch.randn(*lead, *tags.shape, units)
    scores[..., 0] = mask.to(scores.dtype)
    return scores


def _true_scores(task: Any, target: Ragged) -> torch.Tensor:
    tags, mask = _tokens(target)
    output = torch.zeros_like(_random_scores(task, target))
    n = len(task.tags)
    output[..., 0] = mask
    output[..., 1 : 1 + n] = torch.nn.functional.one_hot(tags.clamp(min=0), n) * 60.0
    if task.kind == "relation":  # each place is a factor of its own as a head; a tail answers to the right ones
        for i, row in enumerate(target):
            own = output[i, :, 1 + n :].view(-1, len(task.types), WIDTH)
            found = spans(task.names(row[row[:, 1] < 0, 0].tolist()))
            own[:, :, [2 * RANK, 2 * RANK + 1]] = -30.0
            for h, (start, stop, _) in enumerate(found):
                own[start:stop, :, h] = 60.0
            for h, t, kind in row[row[:, 1] >= 0].tolist():
                own[found[t][0] : found[t][1], kind, RANK + h] = 60.0
    return output


def _masks(rng: np.random.Generator, n: int) -> np.ndarray:
    """Small masks of three classes; some pixels say nothing."""
    return objects([rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 8)) for _ in range(n)])


def _true_masks(task: Any, target: torch.Tensor) -> torch.Tensor:
    known = target.long() % 255
    return torch.nn.functional.one_hot(known, len(task.names)).movedim(-1, 1) * 60.0


def _things(rng: np.random.Generator, n: int) -> np.ndarray:
    """Boxes of two classes in pictures of 24 x 32 pixels, none to three in each, their middles 3 pixels apart."""
    rows = []
    for k in rng.integers(0, 4, n):
        rows.append([])
        for cell in rng.permutation(12)[:k]:
            x, y = 8 * (cell % 4) + rng.uniform(2.5, 5.5), 8 * (cell // 4) + rng.uniform(2.5, 5.5)
            w, h = rng.uniform(1, 5, 2)
            rows[-1].append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, str(rng.choice(["bus", "car"]))])
    return objects(rows)


def _true_boxes(task: Any, target: Ragged) -> torch.Tensor:
    """Sure of the middles alone, each with its own box, on a map of stride 4."""
    n = len(task.names)
    output = torch.full((len(target), n + 4, 6, 8), -60.0)
    for i, row in enumerate(target):
        for x0, y0, x1, y1, c in row.double().tolist():
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            at, down = int(x * 8), int(y * 6)
            place = (x - (at + 0.5) / 8) / task.usual[0], (y - (down + 0.5) / 6) / task.usual[1]
            size = np.log((x1 - x0) / task.usual[0]), np.log((y1 - y0) / task.usual[1])
            output[i, int(c), down, at] = 60.0
            output[i, n:, down, at] = torch.tensor([*place, *size])
    return output


def _masked(frames: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scores (..., rows, frames, units) with the mask in front."""
    mask = torch.arange(scores.shape[-2]) < frames.unsqueeze(1)
    return torch.cat([mask.unsqueeze(-1).to(scores.dtype).expand(*scores.shape[:-1], 1), scores], -1)


def _spelled(task: Any, target: Ragged) -> torch.Tensor:
    """Every unit between two blanks."""
    units, _ = target.padded()
    path = torch.stack([torch.zeros_like(units), units], -1).flatten(1)
    path = torch.nn.functional.pad(path, (0, 3))
    return _masked(target.lengths * 2 + 3, torch.nn.functional.one_hot(path, len(task.vocabulary) + 2) * 60.0)


def _sequence(lengths: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    return torch.randn(*mask.shape, width) * mask.unsqueeze(-1), mask


def _heard(target: Ragged, made: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What was made, the clean recordings with noise, and where there are samples."""
    clean = _pieces(target).flatten(1)
    mask = torch.arange(clean.shape[1]) < target.lengths.unsqueeze(1)
    noisy = (clean + 0.1 * torch.randn(clean.shape)) * mask
    first = made(clean)
    return torch.stack([first, noisy.expand(first.shape), mask.to(first.dtype).expand(first.shape)], -2)


def _clean(task: Any, target: Ragged) -> torch.Tensor:
    return _heard(target, lambda clean: clean)


def _pieces(target: Ragged) -> torch.Tensor:
    """The recordings in pieces of ten samples."""
    clean, _ = target.padded()
    return torch.nn.functional.pad(clean / 32768, (0, -clean.shape[1] % 10)).unflatten(1, (-1, 10))


KINDS: dict[str, Kind] = {
    "segmentation": Kind(
        _masks, _true_masks, output=lambda t, y, *lead: torch.randn(*lead, len(y), len(t.names), *y.shape[1:])
    ),
    "detection": Kind(
        _things,
        _true_boxes,
        output=lambda t, y, *lead: torch.randn(*lead, len(y), len(t.names) + 4, 6, 8),
        read=lambda t, y: ([3, 5], [torch.randn(len(y), 3, 6, 8), torch.randn(len(y), 5, 3, 4)]),
    ),
    "binary": Kind(lambda rng, n: rng.integers(0, 2, n), lambda t, y: _signs(t, y).unsqueeze(-1), lambda t: 1),
    "multiclass": Kind(
        lambda rng, n: np.array(["red", "green", "blue"])[rng.integers(0, 3, n)], _one_hot, lambda t: len(t.classes)
    ),
    "ordinal": Kind(
        lambda rng, n: rng.integers(1, 5, n),
        lambda t, y: ((y.unsqueeze(-1) > torch.arange(len(t.classes) - 1)).float() * 2 - 1) * 60,
        lambda t: len(t.classes) - 1,
    ),
    "multilabel": Kind(lambda rng, n: rng.integers(0, 2, (n, 3)), _signs, lambda t: 3),
    "regression": Kind(lambda rng, n: rng.gamma(2.0, 30.0, n), lambda t, y: y.unsqueeze(-1), lambda t: 1),
    "transcription": Kind(
        lambda rng, n: objects([" ".join(rng.choice(["yes", "no", "so"], k)) for k in rng.integers(0, 5, n)]),
        _spelled,
        output=lambda task, y, *lead: _masked(
            y.lengths * 2 + 3, torch.randn(*lead, len(y), int(y.lengths.max()) * 2 + 3, len(task.vocabulary) + 2)
        ),
        read=lambda task, y: ([4], _sequence(y.lengths * 2 + 3, 4)),
    ),
    "reconstruction": Kind(
        lambda rng, n: objects([rng.normal(0, 0.2, k).clip(-1, 1) for k in rng.integers(20, 60, n)]),
        _clean,
        output=lambda task, y, *lead: _heard(y, lambda clean: torch.randn(*lead, *clean.shape)),
        read=lambda task, y: ([4], (*_sequence(1 + (y.lengths + 9) // 10, 4), _pieces(y), y.lengths)),
    ),
    "tagging": Kind(_tags, _true_scores, output=_random_scores),
    "relation": Kind(_linked, _true_scores, output=_random_scores),
    "count": Kind(lambda rng, n: rng.poisson(3.0, n), lambda t, y: y.clamp(min=1e-30).log().unsqueeze(-1), lambda t: 1),
}


def labels_of(task: Task, rng: np.random.Generator, n: int = 40, missing: float = 0.3) -> pd.DataFrame:
    """A frame with the label columns of a task, some of them missing."""
    values = KINDS[task.kind].labels(rng, n)
    if values.ndim == 1:
        values = values[:, None]
    return pd.DataFrame({c: _some_missing(v, rng, missing) for c, v in zip(task.targets, values.T, strict=True)})


def fitted(case: Case, rng: np.random.Generator, n: int = 40, missing: float = 0.3) -> tuple[Any, pd.DataFrame]:
    """(fitted task, its labels)."""
    task = case("y")
    labels = labels_of(task, rng, n, missing)
    return task.fitted(labels), labels


def output_for(task: Task, n: int, *lead: int, **options: Any) -> torch.Tensor:
    """A random output of a task's head."""
    return torch.randn(*lead, n, KINDS[task.kind].units(task), **options)


# -- encoders: layouts and inputs

BINS = [[-1.0, 0.0, 1.0], [-2.0, 0.5, 2.0], [0.0, 1.0]]


def layout_of(word: str, table: int = 0) -> dict[str, Any]:
    """What one table looks like to an encoder; a second table has other columns."""
    if word == "fused":
        other = {"numeric": 1 + table, "categorical": [] if table else [3], "bins": BINS[: 1 + table]}
        return layout_of("image", table) | other
    if word == "audio":
        return {"numeric": 0, "categorical": [], "bins": [], f"audio:voice{table or ''}": 800}
    if word == "image":
        own = {"channels": 1 if table else 3, "size": [16, 32], "mean": [100.0] * 3, "sd": [60.0] * 3}
        own |= {"mean": own["mean"][:1], "sd": own["sd"][:1]} if table else {}
        return {"numeric": 0, "categorical": [], "bins": [], "image:photo": own}
    if word == "pretrained":
        own = {"model": "a tiny one", "subwords": 12, "longest": 20} | ({} if table else {"cases": 4})
        return {"numeric": 0, "categorical": [], "bins": [], f"pretrained:{'title' if table else 'review'}": own}
    if word == "text":
        own = {"words": 9 + table, "cases": 4, "buckets": 11 + table, "parts": 3}
        return {"numeric": 0, "categorical": [], "bins": [], "text:review": own} | (
            {"text:title": own} if table else {}
        )
    if table:
        return {"numeric": 2, "categorical": [3], "bins": BINS[:2]}
    return {"numeric": 3, "categorical": [4, 20], "bins": BINS}


def _words(layout: Mapping[str, int], n: int, g: torch.Generator) -> Ragged:
    lengths = torch.randint(1, 6, (n,), generator=g)
    tops = [layout["words"], layout["cases"], *[layout["buckets"]] * layout["parts"]]
    return Ragged(torch.stack([torch.randint(1, k, (int(lengths.sum()),), generator=g) for k in tops], 1), lengths)


def _pictures(layout: Mapping[str, Any], n: int, g: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 256, (n, layout["channels"], *layout["size"]), generator=g, dtype=torch.uint8)


def _recordings(rate: int, n: int, g: torch.Generator) -> Ragged:
    lengths = torch.randint(30, 90, (n,), generator=g)
    return Ragged(torch.randint(-9000, 9000, (int(lengths.sum()),), generator=g, dtype=torch.int16), lengths)


def _subwords(layout: Mapping[str, Any], n: int, g: torch.Generator) -> Ragged:
    rows = []
    for _ in range(n):
        words = torch.arange(int(torch.randint(1, 4, (1,), generator=g)))
        words = words.repeat_interleave(torch.randint(1, 4, words.shape, generator=g))
        words = torch.cat([torch.tensor([-1]), words, torch.tensor([-1])])
        columns = [torch.randint(1, layout["subwords"], words.shape, generator=g), words]
        if "cases" in layout:
            columns.append(torch.randint(1, layout["cases"], words.shape, generator=g) * (words >= 0))
        rows.append(torch.stack(columns, 1))
    return Ragged.of(rows)


OTHER_INPUTS: dict[str, Callable[[Any, int, torch.Generator], Any]] = {
    "image": _pictures,
    "text": _words,
    "pretrained": _subwords,
    "audio": _recordings,
}
"""A kind of column beside numbers and categories -> random rows for its layout."""


def inputs_of(layout: Mapping[str, Any], n: int = 12, seed: int = 0) -> dict[str, Any]:
    """Rows for a layout."""
    g = torch.Generator().manual_seed(seed)
    codes = [torch.randint(0, c, (n,), generator=g) for c in layout["categorical"]] or [torch.empty(n, 0).long()]
    others = {k: OTHER_INPUTS[k.partition(":")[0]](v, n, g) for k, v in layout.items() if ":" in k}
    return {
        "numeric": torch.randn(n, layout["numeric"], generator=g, dtype=torch.get_default_dtype()),
        "categorical": torch.stack(codes, 1) if layout["categorical"] else codes[0],
    } | others


# -- a small world: tasks of three types, rows with missing labels


def small_tasks() -> list[Task]:
    """Two of one family, one of another, one binary and one ordinal."""
    return [
        find(Task, "regression")("a"),
        find(Task, "regression")("b"),
        find(Task, "binary")("c", classes=(0, 1)),
        find(Task, "multiclass")("d", classes=(0, 1, 2)),
    ]


def five_tasks() -> list[Task]:
    """The small ones and a second binary one, for schemes that chain such tasks."""
    return [*small_tasks(), find(Task, "binary")("e", classes=(0, 1))]


def build(sharing: Case, encoder: Case, tasks: list[Task], seed: int = 0, tables: int = 1, **settings: Any) -> Model:
    """A model of these parts."""
    layouts = {f"t{i}": layout_of(encoder.word, i) for i in range(tables)}
    model = Model(sharing(lambda: encoder(layouts, **settings), tasks), tasks, seed)
    for task in tasks:  # heads may start at 0, where nothing could be told apart
        g = torch.Generator().manual_seed(seed_of(seed, task.name))
        with torch.no_grad():
            for p in model.heads[task.name].parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


def targets_for(task: Task, n: int, seed: int = 0) -> torch.Tensor:
    """Encoded labels."""
    g = torch.Generator().manual_seed(seed)
    if task.kind in ("regression", "count"):
        return torch.randn(n, generator=g, dtype=torch.get_default_dtype()).abs()
    if task.kind == "binary":
        return torch.randint(0, 2, (n,), generator=g).to(torch.get_default_dtype())
    return torch.randint(0, len(task.classes), (n,), generator=g)  # type: ignore[attr-defined]


def rows_for(
    tasks: list[Task],
    n: int = 24,
    missing: float = 0.4,
    seed: int = 0,
    layout: Mapping[str, Any] | None = None,
    **known: Any,
) -> Taskset:
    """A Taskset with one block per task; `known` gives a mask by task name."""
    g = torch.Generator().manual_seed(seed + 1)
    blocks = []
    for i, task in enumerate(tasks):
        mask = torch.rand(n, generator=g) >= missing
        blocks.append(Block((task.name,), targets_for(task, n, seed + i), known.get(task.name, mask)))
    return Taskset(inputs_of(layout or layout_of("tabular"), n, seed), tuple(blocks))
