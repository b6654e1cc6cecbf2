"""Pretrained backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import Named
from ..metrics.sound import FULL
from ..ranges import Range, between, log
from . import Encoder, Layout
from .backbone import Behind, Call, Cut, Words, architecture, backbone, entered, frames_of, joined, preparation

READS = {"pretrained": "text", "image": "image", "audio": "audio"}
"""The kind of column -> what the backbone reads."""


class _Stage(nn.Module):
    """A stage that may be held as it is."""

    one_by_one = True
    held = False

    def train(self, mode: bool = True) -> Any:
        """As torch has it; a held stage stays in evaluation."""
        return super().train(mode and not self.held)


class Cases(nn.Embedding):
    """What is added for how a word is written; nothing at first, so that the backbone starts as it was pretrained."""

    pace = 1.0
    """It was not pretrained, and learns as fast as the heads."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Entrance(_Stage):
    """Stage 0 of one table: all that the backbone does before its first layer.

    Shape:
        {"pretrained:<column>": Ragged (batch, sub-words, 2), ...} -> a sequence (values, mask of words, where all
        stands, what layers are told); {"image:<column>": (batch, channels, height, width)} -> a sequence of patches, or
        a map; {"audio:<column>": Ragged int16} -> a sequence of frames.
    """

    def __init__(
        self, cut: Cut, keys: Sequence[str], layout: Layout, prepare: Mapping[str, Any], cases: Cases | None
    ) -> None:
        super().__init__()
        self.body, self.call, self.order = cut.body, cut.call, cut.order
        self.keys, self.prepare = list(keys), dict(prepare)
        self.reads = READS[self.keys[0].partition(":")[0]]
        self.told = layout[self.keys[0]]
        self.cases = cases if any("cases" in layout[key] for key in self.keys if _is_text(key)) else None

    def given(self, x: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor | None, tuple[Tensor, ...], Tensor | None]:
        """(what the backbone is given, the mask of what heads read, where everything stands, how words are written)."""
        if self.reads == "text":
            tokens, there = (x[self.keys[0]] if len(self.keys) == 1 else joined([x[k] for k in self.keys])).padded()
            slot, seen, mask, carried = Words.laid(tokens, there)
            pad = getattr(self.body.config, "pad_token_id", None) or 0
            given = {"input_ids": torch.where(seen, tokens[..., 0].gather(1, slot), pad), "attention_mask": seen.long()}
            if len(self.keys) > 1:
                top = max((getattr(self.body.config, "type_vocab_size", 0) or 0) - 1, 0)
                if top:
                    given["token_type_ids"] = tokens[..., 3].gather(1, slot).clamp(max=top) * seen
            return given, mask, carried, None if self.cases is None else tokens[..., 2].gather(1, slot) * seen
        if self.reads == "image":
            return {"pixel_values": self._picture(x[self.keys[0]])}, None, (), None
        wave, there = x[self.keys[0]].padded()
        wave = wave.to(next(self.body.parameters()).dtype) / FULL
        if self.prepare.get("do_normalize", True):
            count = there.sum(1, keepdim=True).clamp(min=1)
            mean = wave.sum(1, keepdim=True) / count
            sd = (((wave - mean) * there).square().sum(1, keepdim=True) / count + 1e-7).sqrt()
            wave = (wave - mean) / sd * there
        return {"input_values": wave, "attention_mask": there.long()}, None, (), None

    def _picture(self, pixels: Tensor) -> Tensor:
        like = next(self.body.parameters())
        told, size = self.told, self.prepare.get("pixels")
        mean = torch.as_tensor(self.prepare.get("image_mean") or [m / 255 for m in told["mean"]], dtype=like.dtype)
        sd = torch.as_tensor(self.prepare.get("image_std") or [s / 255 for s in told["sd"]], dtype=like.dtype)
        values = pixels.to(like.dtype) / 255
        if size is not None and list(values.shape[-2:]) != list(size):
            values = F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
        return (values - mean.to(values.device).view(-1, 1, 1)) / sd.to(values.device).view(-1, 1, 1)

    def forward(self, x: Mapping[str, Any]) -> Any:
        given, mask, carried, written = self.given(x)
        hidden, flat, _ = entered(self.body, given)
        if self.cases is not None and written is not None:
            hidden = hidden + self.cases(written)
        tensors = self.call.of(flat, hidden)
        if hidden.dim() == 4:
            return hidden
        if self.reads == "audio":
            mask = frames_of(self.body, given["attention_mask"], hidden.shape[1])
        elif mask is None:
            mask = torch.arange(hidden.shape[1], device=hidden.device) < hidden.shape[1] - self.order.n  # type: ignore[union-attr]
            mask = mask.expand(len(hidden), -1)
        return (self.order.arranged(hidden, carried), mask, *carried, *tensors)


class Layers(_Stage):
    """A later stage: some of the backbone's layers, and after the last of all its normalisation, if it has one.

    Shape:
        as `Entrance` gives it -> the same, other values; with `grid` a map (batch, d, height, width) of the patches.
    """

    def __init__(self, layers: Sequence[nn.Module], call: Call, order: Words | Behind) -> None:
        super().__init__()
        self.layers, self.call, self.order = nn.ModuleList(layers), call, order
        self.tail: nn.Module | None = None
        self.grid: tuple[int, int] | None = None

    def forward(self, features: Any) -> Any:
        if isinstance(features, Tensor):
            for layer in self.layers:
                features = self.call(layer, features, ())
            return features if self.tail is None else self.tail(features)
        values, mask, *rest = features
        carried, tensors = rest[: self.order.carried], rest[self.order.carried :]
        hidden = self.order.restored(values, carried)
        for layer in self.layers:
            hidden = self.call(layer, hidden, tensors)
        if self.tail is not None:
            hidden = self.tail(hidden)
        values = self.order.arranged(hidden, carried)
        if self.grid is not None:
            return values[:, : self.grid[0] * self.grid[1]].mT.unflatten(2, self.grid)
        return (values, mask, *rest)


class Pretrained(Encoder):
    """A backbone of transformers for texts, pictures or recordings, as it was pretrained, to be fine-tuned.

    Stage 0 is all that comes before its first layer (embeddings, a convolutional front); every later stage is
    `layers_per_stage` of its layers, the last one with the final normalisation. Texts and recordings give sequences,
    pictures a map at the last stage. A text's heads see its words, whose sub-words stay behind them for the layers: see
    `Words`. Whether the stages do what the uncut model does is tried out when the encoder is built.

    A text is a column of the type `subwords`; two of them are read one after the other, as a pair. Where such a column
    tells how words are written (`case`), a learned vector of that is added to what the first layer is given; it learns
    at the full rate, whatever is frozen. With several tables, all have the backbone's one entrance in common.

    Weights start as they were pretrained, whatever the seed. A saved model holds the architecture (`config`) and its
    weights, and needs neither the hub nor the folder. LayerDrop and the random masks of wav2vec 2.0 are left out.

    Args:
        layouts: table -> {"pretrained:<column>": ..., ...}, {"image:<column>": ...} or {"audio:<column>": rate}.
        model: a folder, or a hub's name; by default the one whose sub-words the text column holds.
        config: the architecture as plain values; with it nothing is read from `model`, and weights start at random.
        changes: settings of the architecture that are to be other ones: ``{attention_probs_dropout_prob: 0.0}``, by
            which a BERT is faster on a processor.
        prepare: how pictures or recordings are made ready, as its ``preprocessor_config.json`` says by default.
        layers_per_stage: layers in a stage.
        words: what stands for a word of several sub-words: its ``first``, or their ``mean``.
        rate: how fast the last stage learns, relative to `optim.lr`, which is meant for the heads.
        layer_decay: how fast a stage learns, relative to the one above it.
        freeze: so many stages, from the first on, stay as they are (and know no dropout).

    Raises:
        MissingExtra: transformers is not installed.
        ConfigError: there is no such model, or it cannot be cut.
        ValueError: a table without an input that it reads, or with further ones; a setting out of its range.

    Reference:
        Howard, Ruder: Universal language model fine-tuning for text classification, 2018 (rates per layer).
        Clark, Luong, Le, Manning: ELECTRA, 2020 (their geometric decay).
    """

    alone: ClassVar[str] = "a pretrained backbone is run with one set of weights at a time"
    one_entrance: ClassVar[str] = "all tables are read in the words, or patches, that the backbone was pretrained on"
    search: ClassVar[Mapping[str, Range]] = {"rate": log(0.003, 0.1), "layer_decay": between(0.7, 1)}

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        prepare: dict[str, Any] | None = None,
        layers_per_stage: int = 1,
        words: str = "first",
        rate: float = 0.03,
        layer_decay: float = 0.9,
        freeze: int = 0,
    ) -> None:
        super().__init__()
        if words not in ("first", "mean"):
            raise ValueError(f"`words` should be first or mean. Found `{words}`.")
        if layers_per_stage < 1 or freeze < 0 or not (rate > 0 and 0 < layer_decay <= 1):
            raise ValueError(
                "`layers_per_stage` should be at least 1, `freeze` at least 0, `rate` above 0 and `layer_decay` in "
                f"(0, 1]. Found {layers_per_stage}, {freeze}, {rate} and {layer_decay}."
            )
        keys = {table: _keys(table, layout) for table, layout in layouts.items()}
        named = _named(layouts, model)
        reads = READS[next(iter(keys.values()))[0].partition(":")[0]]
        body = backbone(named, config, changes)
        ready = dict(prepare or (preparation(str(named)) if config is None else {}))
        for table, layout in layouts.items():
            _fits(body.config, table, {key: layout[key] for key in keys[table]}, ready)
        cut = Cut(body, reads, words)
        ready["pixels"] = cut.pixels
        told = [int(layout[key].get("cases", 0)) for layout in layouts.values() for key in layout if _is_text(key)]
        cases = Cases(max(told), cut.widths[0]) if any(told) else None
        entrances = {t: Entrance(cut, keys[t], layout, ready, cases) for t, layout in layouts.items()}
        groups = [cut.layers[i : i + layers_per_stage] for i in range(0, len(cut.layers), layers_per_stage)]
        later = [Layers(group, cut.call, cut.order) for group in groups]
        later[-1].tail, later[-1].grid = cut.tail, cut.grid
        first: nn.Module = Named(entrances) if len(entrances) > 1 else next(iter(entrances.values()))
        self.stages = nn.ModuleList([first, *later])
        self.widths = [cut.widths[0], *(cut.widths[min(i + layers_per_stage, len(cut.layers))]
                                        for i in range(0, len(cut.layers), layers_per_stage))]  # fmt: skip
        if freeze > len(self.stages):
            raise ValueError(f"`freeze` should be at most {len(self.stages)}, as many as stages. Found {freeze}.")
        for i, stage in enumerate(self.stages):
            stage.pace = rate * layer_decay ** (len(self.stages) - 1 - i)  # type: ignore[assignment]
        for stage in self.stages[:freeze]:
            stage.requires_grad_(False)
            for part in stage.modules():
                if isinstance(part, _Stage):
                    part.held = True
            stage.eval()
        if cases is not None:
            cases.requires_grad_(True)
        if config is None:
            for module in self.modules():
                module.pretrained = True  # type: ignore[assignment]

    @classmethod
    def kept(cls, settings: Mapping[str, Any], layouts: Mapping[str, Layout]) -> dict[str, Any]:
        if settings.get("config") is not None:
            return dict(settings)
        named = str(_named(layouts, settings.get("model")))
        return {**settings, "config": architecture(named), "prepare": settings.get("prepare") or preparation(named)}

    @classmethod
    def covers(cls, layout: Layout) -> bool:
        rich = [key for key in layout if ":" in key]
        plain = layout.get("numeric") or layout.get("categorical")
        return bool(rich) and not plain and all(key.startswith("pretrained:") for key in rich)


def _is_text(key: str) -> bool:
    return key.startswith("pretrained:")


def _keys(table: str, layout: Layout) -> list[str]:
    """The inputs of a table that are read: texts, or one picture, or one recording, and nothing else."""
    rich = [key for key in layout if ":" in key]
    kinds = [key.partition(":")[0] for key in rich]
    others = int(layout.get("numeric", 0)) + len(layout.get("categorical", ()))
    whole = bool(kinds) and kinds[0] in READS and len(set(kinds)) == 1 and (kinds[0] == "pretrained" or len(kinds) == 1)
    if not whole or others:
        beside = [key.partition(":")[2] for key in rich]
        beside += [f"{others} numeric or categorical inputs"] if others else []
        raise ValueError(
            f"Table `{table}` should have texts of the type `subwords`, or one picture or recording, and no other "
            f"feature for the encoder `pretrained`. Found {', '.join(beside) or 'no feature'}; use `fused`, or name "
            "the features under `features.only`."
        )
    return rich


def _named(layouts: Mapping[str, Layout], model: str | None) -> str | None:
    """The model that is meant: the one named, or that of the text columns."""
    told = {layout[key]["model"] for layout in layouts.values() for key in layout if key.startswith("pretrained:")}
    if model is not None:
        told.add(str(model))
    if len(told) > 1:
        raise ValueError(
            "`model` should be the one whose sub-words the text columns hold, the same for all. Found "
            f"{', '.join(sorted(told))}."
        )
    return next(iter(told), None)


def _fits(config: Any, table: str, told: Mapping[str, Any], prepare: Mapping[str, Any]) -> None:
    """Refuse inputs that this backbone does not read.

    Raises:
        ValueError: too many sub-words, another rate, other channels.
    """
    for key, own in told.items():
        kind, _, column = key.partition(":")
        checks = {
            "pretrained": lambda own: ("sub-words", own["subwords"], "at most", getattr(config, "vocab_size", 0)),
            "image": lambda own: ("channels", own["channels"], "just", getattr(config, "num_channels", 3)),
            "audio": lambda own: ("rate", int(own), "just", int(prepare.get("sampling_rate", 16000))),
        }
        what, found, how, wanted = checks[kind](own)
        if found > wanted or (how == "just" and found != wanted):
            raise ValueError(
                f"Column `{column}` of table `{table}` should have {how} {wanted} as its {what} for this model. Found "
                f"{found}."
            )
    longest = sum(own["longest"] for key, own in told.items() if key.startswith("pretrained:"))
    most = getattr(config, "max_position_embeddings", None)
    if most and longest > most:
        raise ValueError(
            f"Table `{table}` should have texts of at most {most} sub-words together. Found columns that have up to "
            f"{longest}; set their `max_length`."
        )
