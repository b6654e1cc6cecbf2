"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .. import exhibits, results
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted
from ..metrics.masks import IGNORED
from ..pictures import Canvas, indices, opened, png
from ..ragged import objects
from . import Task, _constants, column, rows_with
from ._heads import MaskHead, resized
from ._pictures import canvas, of_picture
from .classification import weights_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Segmentation(Task):
    """A class for every pixel of a picture.

    A label is a mask: the path of a PNG (absolute, or relative to `root`), its bytes, or an array (height, width), with
    one number a pixel. It is laid on the same canvas as its picture. Error of a pixel: cross-entropy -log p_y; the loss
    is the mean over all labelled pixels. ``log_loss+dice`` adds, for every row and weighted by its labelled pixels,
    1 - the mean over classes of (2 sum p y + 1) / (sum p + sum y + 1), small classes counting as much as large ones.

    The head reads a map. It can be attached to several stages, coarse ones for what and fine ones for where:
    ``attach: [0, 1, 2, 3]``; each is brought to `d_head` channels and to the size of the finest, and they are added up.

    Args:
        values: number in a mask -> name of its class; several numbers may be one class. By default every number from 0
            to the largest of the training part is a class of its own.
        ignore: numbers that say nothing: pixels whose label is missing.
        names: of the classes, in order; default: those of `values`, or the numbers.
        picture: the column with the pictures, the only one by default: a mask of another size than its picture is
            refused, and masks are written in the size of the picture.
        size: height and width of the canvas, or one number for both; by default that of the pictures, so that it is
            given once, with the column type ``image``.
        resize: ``stretch``, ``letterbox`` or ``crop``, likewise.
        root: the folder to which paths are relative.
        picture_root: the folder to which the paths of pictures are relative; by default what their column says, or
            `root`.
        class_weight: None, ``balanced`` or {class: weight}.
        d_head: channels of the head.

    Reference:
        Long, Shelhamer, Darrell: Fully convolutional networks for semantic segmentation, 2015; Milletari, Navab,
        Ahmadi: V-Net, 2016 (dice).
    """

    values: Mapping[int, str] | None = None
    ignore: int | tuple[int, ...] = (IGNORED,)
    names: tuple[str, ...] = ()
    size: int | tuple[int, int] | None = None
    resize: str | None = None
    root: str | None = None
    picture: str | None = None
    picture_root: str | None = None
    class_weight: Any = None
    d_head: int = 32
    weights: tuple[float, ...] = ()
    priors: tuple[float, ...] = ()

    losses: ClassVar = ("log_loss", "log_loss+dice")
    default_metrics: ClassVar = ("mean_iou", "pixel_accuracy")
    eats: ClassVar = "map"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_ = object.__setattr__
        try:
            set_(self, "ignore", (self.ignore,) if isinstance(self.ignore, int) else tuple(map(int, self.ignore)))
            if self.values is not None:
                set_(self, "values", {int(k): str(v) for k, v in self.values.items()})
            set_(self, "names", tuple(map(str, self.names)))
            _ = self.canvas
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"Task `{self.name}`: {error}") from None
        named = dict.fromkeys((self.values or {}).values())
        if self.values is not None and self.names and set(named) != set(self.names):
            raise ConfigError(
                f"Task `{self.name}`: `names` should be those of `values`, {', '.join(named)}. "
                f"Found {', '.join(self.names)}."
            )
        if beyond := [n for n in (*(self.values or ()), *self.ignored) if not 0 <= n <= IGNORED]:
            raise ConfigError(f"Task `{self.name}`: a number in a mask should be 0 to {IGNORED}. Found {beyond[0]}.")
        if both := set(self.values or ()) & set(self.ignored):
            raise ConfigError(f"Task `{self.name}`: a number should be a class or ignored. Found {min(both)} as both.")
        if len(named) > IGNORED or len(self.names) > IGNORED:
            raise ConfigError(f"Task `{self.name}`: at most {IGNORED} classes fit in a mask. Found {len(named)}.")

    @property
    def ignored(self) -> tuple[int, ...]:
        """The numbers that say nothing."""
        return (self.ignore,) if isinstance(self.ignore, int) else self.ignore

    @property
    def canvas(self) -> Canvas:
        """What masks are laid on."""
        return canvas(self.size, self.resize)

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.picture is None else (self.picture,)

    # -- labels

    def beside(self, inputs: Mapping[str, Mapping[str, Any]]) -> Segmentation:
        return self._replace(**of_picture(self, inputs, "picture_root"))

    def fitted(self, labels: pd.DataFrame) -> Segmentation:
        names = self.names or tuple(dict.fromkeys((self.values or {}).values()))
        if not names:
            largest = -1
            for _, array in self._masks(labels):
                largest = max(largest, int(array[~np.isin(array, self.ignored)].max(initial=-1)))
            names = tuple(map(str, range(largest + 1)))
        if not 2 <= len(names) <= IGNORED:
            black = "; if 255 is a class, as in masks of black and white, set `values: {0: background, 255: thing}`, "
            raise DataError(
                f"Task `{self.name}`: the masks of column `{self.targets[0]}` should have 2 to {IGNORED} classes in "
                f"the training part. Found {len(names)}{black + '`ignore: []`' if IGNORED in self.ignored else ''}."
            )
        known = self._replace(names=names)
        target = known.encode(labels)[0]
        found = torch.bincount(target[target != IGNORED].long(), minlength=len(names)).numpy()
        weights = weights_of(self, self.class_weight, dict(zip(names, found.tolist(), strict=True)))
        mass = found * np.array(weights or [1.0] * len(names))
        priors = (mass + 0.5) / (mass.sum() + 0.5 * len(names))
        return known._replace(weights=weights, priors=tuple(priors.tolist()))

    def encode(self, labels: pd.DataFrame) -> tuple[Tensor, Tensor]:
        """Target (rows, height, width) uint8 on the canvas, `IGNORED` where unknown; known (rows,)."""
        laid, table = self.canvas.laid, self._table()
        target = np.full((len(labels), *self.canvas.size), IGNORED, np.uint8)
        for row, array in self._masks(labels):
            inside = (array >= 0) & (array < len(table))
            found = table[np.where(inside, array, 0)]
            wrong = ~inside | (found < 0)
            if wrong.any():
                shown = ", ".join(map(str, [*(self.values or range(len(self.names)))][:12]))
                raise DataError(
                    f"Task `{self.name}`: the mask in {self._place(labels, row)} should hold the numbers {shown} of "
                    f"its classes. Found {int(array[wrong][0])}; list it under `values` or `ignore`.",
                    row,
                )
            target[row] = np.asarray(laid(Image.fromarray(found.astype(np.uint8)), IGNORED, nearest=True))
        return torch.from_numpy(target), torch.from_numpy((target != IGNORED).any((1, 2)))

    def _table(self) -> np.ndarray:
        """Number in a mask -> class; `IGNORED` where it says nothing, -1 where there is no such class."""
        table = np.full(256, -1, np.int64)
        for number, name in (self.values or dict(enumerate(self.names))).items():
            table[number] = self.names.index(name)
        table[list(self.ignored)] = IGNORED
        return table

    def _masks(self, labels: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
        """(row, numbers (height, width)) of every mask that is there."""
        series = column(labels, self)
        pictures = labels[self.picture] if self.picture in labels.columns else None
        for row in np.flatnonzero(series.notna().to_numpy()).tolist():
            try:
                image = opened(series.iloc[row], self.root)
                if pictures is not None and pictures.notna().iloc[row]:
                    self._same_size(image, pictures.iloc[row], labels, row)
                if image.format == "JPEG":
                    raise ValueError("a JPEG, whose numbers are not exact; save masks as PNG,")
                array = indices(image)
            except DataError:
                raise
            except ValueError as error:
                raise DataError(
                    f"Task `{self.name}`: column `{series.name}` should hold masks: paths, bytes, arrays or images of "
                    f"Pillow. Found {error} in {self._place(labels, row)}; leave the cell empty if it is missing.",
                    row,
                ) from None
            yield row, array

    def _same_size(self, mask: Image.Image, picture: Any, labels: pd.DataFrame, row: int) -> None:
        try:
            other = opened(picture, self.picture_root or self.root)
        except ValueError:
            return  # the column's own reading says what is wrong with it
        if mask.size != other.size:
            raise DataError(
                f"Task `{self.name}`: the mask in {self._place(labels, row)} should have the size of its picture, "
                f"{other.width} x {other.height}. Found {mask.width} x {mask.height}; leave the cell empty if there is "
                "no mask for it.",
                row,
            )

    def _place(self, labels: pd.DataFrame, row: int) -> str:
        value = labels[self.targets[0]].iloc[row]
        return f"row {row}" + (f" (`{value}`)" if isinstance(value, str) else "")

    # -- the net

    def head(self, widths: Sequence[int]) -> nn.Module:
        if self.sees:
            raise ConfigError(f"Task `{self.name}`: a head for masks cannot see other tasks. Found `sees`; remove it.")
        n = max(len(self.names), 2)
        return MaskHead(widths, self.d_head, np.log(self.priors or [1 / n] * n).tolist())

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        lead = output.shape[:-3]
        logits = resized(output.flatten(0, -4), target.shape[-2:])
        labels = target.expand(*lead, *target.shape[-2:]).flatten(0, -3)
        ignored = labels == IGNORED
        logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        labels = labels.long().masked_fill(ignored, 0)
        logp = logits.log_softmax(1)
        wrong = -logp.gather(1, labels.unsqueeze(1)).squeeze(1)
        if self.weights:
            wrong = wrong * wrong.new_tensor(self.weights)[labels]
        summed = wrong.masked_fill(ignored, 0.0).sum((-2, -1)).reshape(lead)
        if self.loss == "log_loss+dice":
            summed = summed + self._dice(logp, labels, ignored).reshape(lead) * self.sizes(target).to(summed.dtype)
        return summed

    def _dice(self, logp: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
        p = logp.exp().masked_fill(ignored.unsqueeze(1), 0.0)
        y = F.one_hot(labels, p.shape[1]).movedim(-1, 1).to(p.dtype).masked_fill(ignored.unsqueeze(1), 0.0)
        both = (p * y).sum((-2, -1))
        return 1 - ((2 * both + 1) / (p.sum((-2, -1)) + y.sum((-2, -1)) + 1)).mean(1)

    def sizes(self, target: Tensor) -> Tensor:
        """Labelled pixels of each row (their summed weight, with class weights), at least 1."""
        known = target != IGNORED
        if self.weights:
            weights = torch.tensor([*self.weights, *[0.0] * (256 - len(self.weights))], device=target.device)
            return weights[target.long()].sum((-2, -1)).clamp(min=1)
        return known.sum((-2, -1)).clamp(min=1)

    def blanked(self, output: Tensor, known: Tensor) -> Tensor:
        return output.masked_fill(~known[..., None, None, None], 0.0)

    def ensemble(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(-3).logsumexp(0)

    def rows(self, output: Tensor) -> Tensor:
        """The class of every pixel of the canvas (rows, height, width), uint8."""
        return resized(output, self.canvas.size).argmax(-3).to(torch.uint8)

    def moved(self, target: Tensor, affine: Tensor) -> Tensor:
        """Nearest pixels; what comes in from outside is ignored."""
        grid = F.affine_grid(affine.to(torch.float32), [len(target), 1, *target.shape[-2:]], align_corners=False)
        shifted = (target.to(torch.float32) - IGNORED).unsqueeze(1)
        found = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return (found.squeeze(1) + IGNORED).round().to(torch.uint8)

    # -- what it says

    @property
    def _empty(self) -> int:
        """The number of a pixel of which nothing is said."""
        return self.ignored[0] if self.ignored else IGNORED

    def predict(self, output: Tensor) -> Predicted:
        return Predicted(objects(list(output.cpu().numpy())))

    def truth(self, target: Tensor) -> np.ndarray:
        return objects(list(target.cpu().numpy()))

    @property
    def parts(self) -> tuple[str, ...]:
        return self.names

    def classes_in(self, labels: pd.DataFrame) -> Mapping[Hashable, np.ndarray]:
        if self.names or self.values:
            return {}
        return rows_with((row, set(np.unique(mask).tolist()) - {*self.ignored}) for row, mask in self._masks(labels))

    def constant(self, metric: Metric, target: Tensor, known: Tensor, rows: Tensor) -> Predicted | None:
        return Predicted(objects([_constants.mask(target, len(self.names))] * len(rows)))

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Masks with the numbers that the labels have."""
        numbers = np.full(256, self._empty, np.uint8)
        for number, name in reversed(list((self.values or dict(enumerate(self.names))).items())):
            numbers[self.names.index(name)] = number
        return objects([numbers[mask] for mask in values])

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        """The share of each class among the pixels; the masks themselves are files (`files`)."""
        masks = np.asarray(predicted.value)
        shares = np.array([np.bincount(m.ravel(), minlength=256)[: len(self.names)] / m.size for m in masks])
        shares = shares.reshape(len(masks), len(self.names))
        return {f"{self.name}__share_{name}": shares[:, i] for i, name in enumerate(self.names)}

    def show(self, values: Predicted) -> list[results.Mask]:
        return [exhibits.mask(mask, self.names) for mask in np.asarray(values.value)]

    def files(self, predicted: Predicted, names: Sequence[str], frame: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """A PNG per row, ``<task>/<name>.png``, with the numbers that the labels have."""
        pictures = frame[self.picture] if self.picture in frame.columns else None
        masks = self.decode(np.asarray(predicted.value))
        for row, (name, mask) in enumerate(zip(names, masks, strict=True)):
            if pictures is not None and pictures.notna().iloc[row]:
                image = opened(pictures.iloc[row], self.picture_root or self.root)
                mask = self.canvas.lifted(mask, image.height, image.width, self._empty)
            yield f"{name}.png", png(mask)
