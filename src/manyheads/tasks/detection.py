"""Boxes around things, each with a class."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import results
from ..catalog import hint
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted
from ..metrics.boxes import MOST, Boxes
from ..metrics.overlap import giou, kept
from ..pictures import Canvas, opened
from ..ragged import Ragged, Rows, objects
from . import Task, _constants, column, plain, rows_with
from ._heads import BoxHead
from ._pictures import canvas, of_picture

if TYPE_CHECKING:
    import pandas as pd

SPREAD = 0.54
"""How much of a box's width and height its bell spans (Liu et al.)."""
UNSEEN = 0.3
"""A box of which less than this share of its area stays in a moved picture is dropped."""
FARTHEST = 6.0
"""Log of how many times the usual size a box may be, or its inverse."""


@dataclass(frozen=True)
class Detection(Task):
    r"""Boxes around things, each with a class: anchor-free, by their middles.

    A label is a list (or JSON) of ``[x0, y0, x1, y1, class]`` in pixels of the row's own picture, where x1 and y1 are
    where the next pixel begins. An empty list says that there is nothing to find; an empty cell (null) that nobody
    knows. A box that stands out of its picture is clipped, and a warning counts such boxes; one that has no area, or
    none within the picture, is refused.

    The net gives per place of a map and class the log odds that the middle of a thing is there, and, for all classes
    together, where the middle is and how large the thing: (a, b, c, d) at the place z is a box of the middle
    z + (a w, b h) and the size (w exp c, h exp d), with (w, h) the median size in the training part.

    Error of a picture: with y the largest of the bells around the middles of its boxes, 1 at the middle, p the
    probability, and b the box that a place of a bell says,

    .. math:: - \sum_{y = 1} (1 - p)^2 \log p - \sum_{y < 1} (1 - y)^4 p^2 \log(1 - p)
              + \lambda \sum_{boxes} \sum_{places} u (1 - GIoU(b, box)),

    where u are the box's bell's heights divided by their sum (a place in several bells belongs to the smallest box);
    the loss is the sum over pictures, divided by their number of boxes, an empty picture being one.

    Prediction: the places surer than their eight neighbours, at most 100 of at least `threshold`, and of those of a
    class that overlap by more than `overlap` (IoU) the surest.

    The head reads a map, or several added up at the size of the finest: ``attach: [1, 2, 3]``. Two things whose middles
    are in one place of that map cannot be told apart where they are of one class, and have one box where they are not.

    Args:
        names: of the classes, in order; default: all of the training part, sorted.
        picture: the column with the pictures; the only one by default. Without any, boxes are in pixels of the canvas.
        size: height and width of the canvas, or one number for both; by default as the column of pictures has it.
        resize: ``stretch`` or ``letterbox``, likewise; a crop would cut things off that are there to be found.
        root: the folder to which paths of pictures are relative; by default what their column says.
        threshold: the least score of a box that is predicted; metrics see the same boxes.
        overlap: IoU above which two boxes of a class are one thing.
        box_weight: lambda.
        d_head: channels of the head.

    Reference:
        Zhou, Wang, Kraehenbuehl: Objects as points (CenterNet), 2019: middles as peaks, their error, its exponents.
        Liu, Zheng, Xu, Yang, Liu, Cai: Training-time-friendly network for real-time object detection, 2020: bells that
        are as wide and high as boxes are, GIoU at all places of a bell, lambda = 5.
        Rezatofighi et al.: Generalized intersection over union, 2019.
        *Differs from the papers*: boxes are given by middle and size instead of four distances, so that a box smaller
        than a place of the map can be told; every box counts the same, whatever its size.
    """

    names: tuple[Any, ...] = ()
    size: int | tuple[int, int] | None = None
    resize: str | None = None
    picture: str | None = None
    root: str | None = None
    threshold: float = 0.01
    overlap: float = 0.6
    box_weight: float = 5.0
    d_head: int = 64
    usual: tuple[float, ...] = ()

    losses: ClassVar = ("focal+giou",)
    default_metrics: ClassVar = ("average_precision_50", "average_precision_50_95")
    eats: ClassVar = "map"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            _ = self.canvas
        except (ValueError, TypeError) as error:
            raise ConfigError(f"Task `{self.name}`: {error}") from None
        if self.resize == "crop":
            raise ConfigError(
                f"Task `{self.name}`: `resize` should be stretch or letterbox, which keep all that is to be found. "
                "Found `crop`."
            )
        if not (0 < self.threshold < 1 and 0 < self.overlap <= 1 and self.box_weight >= 0):
            raise ConfigError(
                f"Task `{self.name}`: `threshold` should be between 0 and 1, `overlap` above 0 and at most 1, and "
                f"`box_weight` 0 or more. Found {self.threshold}, {self.overlap}, {self.box_weight}."
            )

    @property
    def canvas(self) -> Canvas:
        """What pictures are laid on."""
        return canvas(self.size, self.resize)

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.picture is None else (self.picture,)

    # -- labels

    def beside(self, inputs: Mapping[str, Mapping[str, Any]]) -> Detection:
        return self._replace(**of_picture(self, inputs, "root"))

    def fitted(self, labels: pd.DataFrame) -> Detection:
        found = [(corners, names) for _, corners, names, _ in self._read(labels)]
        names = {name for _, own in found for name in own}
        if not names:
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[0]}` should have a box in the training part. Found none."
            )
        corners = np.concatenate([c for c, _ in found])
        usual = np.median(corners[:, 2:] - corners[:, :2], axis=0)
        classes = self.names or tuple(sorted(names, key=lambda v: (isinstance(v, str), v)))
        return self._replace(names=classes, usual=tuple(usual.tolist()))

    def encode(self, labels: pd.DataFrame) -> tuple[Ragged, Tensor]:
        """Labels -> (target, known).

        Shape:
            target: per row (boxes, 5): x0, y0, x1, y1 from 0 to 1 of the canvas, and the class's index; known (rows,).
        """
        place = {plain(c): i for i, c in enumerate(self.names)}
        rows = [np.empty((0, 5), np.float32)] * len(labels)
        known = torch.zeros(len(labels), dtype=torch.bool)
        out: list[int] = []
        for row, corners, names, clipped in self._read(labels):
            for name in names:
                if name not in place:
                    raise DataError(
                        f"Task `{self.name}`: column `{self.targets[0]}` has the class {name!r} in row {row}, which "
                        "was never seen in training; list it under `names` if a later training should know it. "
                        f"{hint(str(name), [str(c) for c in self.names])}",
                        row,
                    )
            indices = np.array([place[name] for name in names], float)
            rows[row] = np.concatenate([corners, indices[:, None]], 1).astype(np.float32)
            known[row] = True
            out += [row] * clipped
        if out:
            warnings.warn(
                f"Task `{self.name}`: boxes of column `{self.targets[0]}` should lie within their pictures. Found "
                f"{len(out)} that stand out, the first in row {out[0]}; they are clipped.",
                UserWarning,
                stacklevel=2,
            )
        return Ragged.of(rows, like=torch.empty(0, 5)), known

    def _read(self, labels: pd.DataFrame) -> Iterator[tuple[int, np.ndarray, list[Any], int]]:
        """(row, corners (n, 4) from 0 to 1 of the canvas, classes, how many were clipped) of every known label."""
        scale = np.array([self.canvas.size[1], self.canvas.size[0]], float)
        for row, listed in self._lists(labels):
            width, height = self._size(labels, row)
            corners, names, clipped = np.empty((len(listed), 4)), [], 0
            for i, box in enumerate(listed):
                corners[i], name = self._box(box, row, i)
                inside = corners[i].clip(0, [width, height, width, height])
                if not (inside[:2] < inside[2:]).all() or not (corners[i, :2] < corners[i, 2:]).all():
                    raise self._wrong(
                        row,
                        f"boxes with x0 < x1 and y0 < y1 within the picture of {width} x {height} pixels",
                        f"{str(box)[:60]}, box {i} of the row (counted from 0)",
                    )
                clipped += bool((inside != corners[i]).any())
                corners[i] = inside
                names.append(name)
            placed = self.canvas.onto(corners.reshape(-1, 2, 2), height, width) / scale
            yield row, placed.reshape(-1, 4), names, clipped

    def _lists(self, labels: pd.DataFrame) -> Iterator[tuple[int, list[Any]]]:
        """(row, what its cell lists) of every known label."""
        series = column(labels, self)
        for row in np.flatnonzero(series.notna().to_numpy()).tolist():
            if isinstance(listed := _listed(series.iloc[row]), list):
                yield row, listed
            elif listed is not None:
                raise self._wrong(row, "a list of boxes [x0, y0, x1, y1, class]", f"{str(listed)[:60]!r}")

    def _box(self, box: Any, row: int, i: int) -> tuple[np.ndarray, Any]:
        if isinstance(box, list | tuple) and len(box) == 5 and box[4] is not None:
            try:
                numbers = np.array([float(v) for v in box[:4]])
            except (TypeError, ValueError):
                numbers = np.full(4, math.nan)
            if np.isfinite(numbers).all() and isinstance(name := plain(box[4]), str | int):
                return numbers, name
        raise self._wrong(
            row, "boxes of four numbers and a class, [x0, y0, x1, y1, class]",
            f"{str(box)[:60]}, box {i} of the row (counted from 0)",
        )  # fmt: skip

    def _wrong(self, row: int, expected: str, found: str) -> DataError:
        return DataError(
            f"Task `{self.name}`: column `{self.targets[0]}` should hold {expected}. Found {found} in row {row}; leave "
            "the cell empty if nobody knows what is there.", row,
        )  # fmt: skip

    def _size(self, frame: pd.DataFrame, row: int) -> tuple[int, int]:
        """(width, height) of a row's picture.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        if self.picture is None:
            return self.canvas.size[1], self.canvas.size[0]
        if self.picture not in frame.columns:
            raise DataError(
                f"Task `{self.name}`: boxes should come with the column `{self.picture}`, which tells how large the "
                f"pictures are. Found no such column. {hint(self.picture, [str(c) for c in frame.columns])}"
            )
        value = frame[self.picture].iloc[row]
        try:
            with opened(value, self.root) as image:
                return image.size
        except ValueError as error:
            raise DataError(
                f"Task `{self.name}`: column `{self.picture}` should hold the picture of every row with boxes. Found "
                f"{error} in row {row}; check the path, or leave the cell of boxes empty.", row,
            ) from None  # fmt: skip

    # -- the net

    def head(self, widths: Sequence[int]) -> nn.Module:
        if self.sees:
            raise ConfigError(f"Task `{self.name}`: a head for boxes cannot see other tasks. Found `sees`; remove it.")
        return BoxHead(widths, self.d_head, max(len(self.names), 1))

    def errors(self, output: Tensor, target: Ragged) -> Tensor:
        lead, maps = output.shape[:-4], output.shape[-4:]
        every = [self._errors(one, target) for one in output.reshape(-1, *maps)]  # members of an ensemble
        return torch.stack(every).reshape(*lead, maps[0])

    def _errors(self, output: Tensor, target: Ragged) -> Tensor:
        n = len(self.names)
        logits, boxes = output[:, :n], self._boxes(output[:, n:])
        y, wanted, share = self._drawn(target, output)
        p = logits.sigmoid()
        middles = -((1 - p) ** 2) * F.logsigmoid(logits)
        elsewhere = -((1 - y) ** 4) * p**2 * F.logsigmoid(-logits)
        score = torch.where(y == 1, middles, elsewhere).sum((1, 2, 3))
        apart = (1 - giou(boxes, wanted)).masked_fill(share == 0, 0.0)
        return score + self.box_weight * (share * apart).sum((1, 2))

    def _boxes(self, output: Tensor) -> Tensor:
        """What every place says, (batch, 4, h, w) -> corners (batch, h, w, 4), from 0 to 1 of the canvas."""
        h, w = output.shape[-2:]
        usual = output.new_tensor(self.usual or (0.5, 0.5))
        ys, xs = (torch.arange(k, dtype=output.dtype, device=output.device).add(0.5) / k for k in (h, w))
        place = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)
        said = output.movedim(1, -1)
        middle = place + said[..., :2] * usual
        half = said[..., 2:].clamp(-FARTHEST, FARTHEST).exp() * usual / 2
        return torch.cat([middle - half, middle + half], -1)

    def _drawn(self, target: Ragged, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The labels on the map of an output.

        Returns:
            the largest bell of each class (batch, classes, h, w); the box that each place is to say (batch, h, w, 4),
            and what it counts there (batch, h, w), 0 outside all bells, the sum over a box's places being 1.
        """
        boxes, there = target.padded()  # (batch, n, 5), (batch, n)
        (h, w), dtype = output.shape[-2:], output.dtype
        boxes = boxes.to(dtype)
        corners, classes = boxes[..., :4], boxes[..., 4].long()
        scale = boxes.new_tensor([w, h])
        middle = (corners[..., :2] + corners[..., 2:]) / 2
        cell = torch.minimum((middle * scale).floor().clamp(min=0), scale - 1)
        sigma = ((corners[..., 2:] - corners[..., :2]) * scale * (SPREAD / 6)).clamp(min=1e-3)
        across, down = (
            _bell(torch.arange(k, dtype=dtype, device=boxes.device), cell[..., i, None], sigma[..., i, None])
            for i, k in ((0, w), (1, h))
        )
        bells = down[..., :, None] * across[..., None, :] * there[..., None, None]  # (batch, n, h, w)
        y = boxes.new_zeros(len(boxes), len(self.names), h, w)
        y = y.scatter_reduce(1, classes[..., None, None].expand(bells.shape), bells, "amax")
        area = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
        owner = torch.where(bells > 0, area[..., None, None], math.inf).argmin(1)  # (batch, h, w)
        own = bells.gather(1, owner.unsqueeze(1)).squeeze(1)
        total = boxes.new_zeros(boxes.shape[:2]).scatter_add(1, owner.flatten(1), own.flatten(1))
        share = own / total.gather(1, owner.flatten(1)).reshape(own.shape).clamp(min=torch.finfo(dtype).tiny)
        wanted = corners.gather(1, owner.flatten(1).unsqueeze(-1).expand(-1, -1, 4)).unflatten(1, (h, w))
        return y, wanted, share

    def sizes(self, target: Ragged) -> Tensor:
        """Boxes of each row, at least 1: that there is none is something to know."""
        return target.lengths.clamp(min=1)

    def blanked(self, output: Tensor, known: Tensor) -> Tensor:
        return output.masked_fill(~known[..., None, None, None], 0.0)

    def ensemble(self, outputs: Tensor) -> Tensor:
        """The log odds of the members' mean probability, and the mean of what they say of boxes."""
        logits, boxes = outputs.split([len(self.names), 4], -3)
        mean = F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)
        return torch.cat([mean, boxes.mean(0)], -3)

    def rows(self, output: Tensor) -> Rows:
        """The boxes of each picture, the surest first, in pixels of the canvas (`Boxes`)."""
        n = len(self.names)
        scores = output[:, :n].float().sigmoid()
        peaks = scores.masked_fill(scores < F.max_pool2d(scores, 3, stride=1, padding=1), 0.0)
        surest, index = peaks.flatten(1).topk(min(MOST, peaks[0].numel()))
        places = output[0, 0].numel()
        classes, place = index // places, index % places
        corners = self._boxes(output[:, n:].float()).flatten(1, 2).clamp(0, 1)
        corners = corners.gather(1, place.unsqueeze(-1).expand(-1, -1, 4))
        real = (corners[..., :2] < corners[..., 2:]).all(-1)  # some lie outside the canvas
        keep = (kept(corners, classes.masked_fill(~real, -1), self.overlap) & real & (surest >= self.threshold)).cpu()
        unit = np.array([self.canvas.size[1], self.canvas.size[0]] * 2, float)
        found = zip(corners.cpu().double(), classes.cpu(), surest.cpu().double(), keep, strict=True)
        return Rows([Boxes(c[k].numpy() * unit, i[k].numpy(), s[k].numpy()) for c, i, s, k in found])

    def moved(self, target: Ragged, affine: Tensor) -> Ragged:
        """Boxes around where their things have gone, as if each filled its box as an ellipse does.

        What then stands out of the picture is clipped; a box is dropped whose middle is outside, or of which less than
        30 % of the area is left.

        Reference:
            Kalra, Stoppi, Brown, Agarwal, Kadambi: Towards rotation invariance in object detection, 2021 (ellipses).
        """
        row = torch.arange(len(target)).repeat_interleave(target.lengths)
        a = affine.to(torch.float64)
        back = torch.linalg.inv(a[:, :, :2])[row]
        corners = target.values[:, :4].double() * 2 - 1
        middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
        middle = (back @ (middle - a[row, :, 2]).unsqueeze(-1)).squeeze(-1)
        half = (back**2 @ (half**2).unsqueeze(-1)).squeeze(-1).sqrt()
        whole = torch.cat([middle - half, middle + half], 1)
        left = whole.clamp(-1, 1)
        share = (left[:, 2:] - left[:, :2]).prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1)
        stays = (middle.abs() < 1).all(1) & (share >= UNSEEN)
        values = torch.cat([((left + 1) / 2).to(target.values.dtype), target.values[:, 4:]], 1)[stays]
        return Ragged(values, torch.bincount(row[stays], minlength=len(target)))

    # -- what it says

    def predict(self, output: Rows) -> Predicted:
        return Predicted(output.array())

    def truth(self, target: Ragged) -> np.ndarray:
        unit = np.array([self.canvas.size[1], self.canvas.size[0]] * 2, float)
        rows = [row.double().numpy() for row in target]
        return objects([Boxes(row[:, :4] * unit, row[:, 4].astype(np.int64)) for row in rows])

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(map(str, self.names))

    def classes_in(self, labels: pd.DataFrame) -> Mapping[Hashable, np.ndarray]:
        # by name alone: a table is split before it is known which column has the pictures, and so how large they are
        cells = {} if self.names else dict(self._lists(labels))
        return rows_with((row, [self._box(b, row, i)[1] for i, b in enumerate(own)]) for row, own in cells.items())

    def constant(self, metric: Metric, target: Ragged, known: Tensor, rows: Ragged) -> Predicted | None:
        unit = np.array([self.canvas.size[1], self.canvas.size[0]] * 2, float)
        return Predicted(objects([_constants.boxes(target, unit, len(self.names))] * len(rows)))

    def decode(self, values: np.ndarray) -> np.ndarray:
        """JSON ``[[x0, y0, x1, y1, class], ...]`` per row, and each box's score behind, where it has one."""
        return objects([json.dumps(self._named(boxes), ensure_ascii=False) for boxes in values])

    def _named(self, boxes: Boxes) -> list[list[Any]]:
        corners, names = np.asarray(boxes.corners).tolist(), [self.names[int(c)] for c in boxes.classes]
        if boxes.scores is None:
            return [[*c, name] for c, name in zip(corners, names, strict=True)]
        scores = np.asarray(boxes.scores).tolist()
        return [[*c, name, score] for c, name, score in zip(corners, names, scores, strict=True)]

    def show(self, values: Predicted) -> list[results.Boxes]:
        unit = np.array([self.canvas.size[1], self.canvas.size[0]] * 2, float)
        shown = [b._replace(corners=np.round(b.corners / unit, 4)) for b in np.asarray(values.value)]
        rows = [[(*box[:4], str(box[4]), box[5] if len(box) > 5 else None) for box in self._named(b)] for b in shown]
        return [results.Boxes(boxes=tuple(row)) for row in rows]

    def placed(self, predicted: Predicted, frame: pd.DataFrame) -> Predicted:
        """Boxes in pixels of each row's own picture; a row without a picture has none."""
        if self.picture is None:
            return predicted
        there = frame[self.picture].notna().to_numpy()
        found = []
        for row, boxes in enumerate(np.asarray(predicted.value)):
            if not there[row]:
                found.append(Boxes(boxes.corners[:0], boxes.classes[:0], boxes.scores[:0]))
                continue
            width, height = self._size(frame, row)
            corners = self.canvas.off(boxes.corners.reshape(-1, 2, 2), height, width).reshape(-1, 4)
            corners = corners.clip(0, [width, height, width, height])
            real = (corners[:, :2] < corners[:, 2:]).all(1)  # a letterbox has bands beside the picture
            found.append(Boxes(corners[real], boxes.classes[real], boxes.scores[real]))
        return Predicted(objects(found))

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        """``<name>``: JSON ``[[x0, y0, x1, y1, class, score], ...]``, the surest first; ``<name>__count``: how many."""
        values = np.asarray(predicted.value)
        shown = [b._replace(corners=np.round(b.corners, 2), scores=np.round(b.scores, 4)) for b in values]
        counts = np.array([len(b.classes) for b in values], np.int64)
        return {self.name: self.decode(objects(shown)), f"{self.name}__count": counts}

    def files(self, predicted: Predicted, names: Sequence[str], frame: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """JSON per row, ``<task>/<name>.json``: a list of ``{"box": [x0, y0, x1, y1], "class", "score"}``."""
        for name, boxes in zip(names, np.asarray(predicted.value), strict=True):
            found = [{"box": box[:4], "class": box[4], "score": box[5]} for box in self._named(boxes)]
            yield f"{name}.json", (json.dumps(found, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _bell(x: Tensor, middle: Tensor, sigma: Tensor) -> Tensor:
    """exp(-(x - m)^2 / (2 sigma^2)) within three sigma, 0 beyond; 1 at the middle."""
    away = (x - middle).abs() / sigma
    return torch.where(away <= 3, (-(away**2) / 2).exp(), 0.0)


def _listed(cell: Any) -> Any:
    """A cell as a list of boxes; None where it says that nothing is known, and as it is where it is no list."""
    if isinstance(cell, str):
        with contextlib.suppress(ValueError):
            cell = json.loads(cell)
    several = isinstance(cell, list | tuple | np.ndarray)
    return [box.tolist() if isinstance(box, np.ndarray) else box for box in cell] if several else cell
