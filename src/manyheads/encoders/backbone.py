"""Backbones of the library transformers: found, read, and taken apart into layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..catalog import hint
from ..faults import ConfigError, MissingExtra
from ..gradients.graph import reached
from ..ragged import Ragged

CLOSE = 1e-4
"""How far the parts may be from the whole model, relative to its largest number."""
TAILS = ("layernorm", "layer_norm", "norm", "final_layer_norm", "final_norm", "ln_f", "post_layernorm")
"""What the last normalisation may be called; which of them it is, and whether there is one, is tried out."""


class _Reached(Exception):
    """The first layer was called with this."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__("the first layer")
        self.args_, self.kwargs = args, kwargs


class Gate(nn.Module):
    """Stands for all layers of a backbone, and ends its pass there."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        raise _Reached(args, kwargs)


def entered(body: nn.Module, given: Mapping[str, Tensor]) -> tuple[Tensor, list[Any], Any]:
    """What the first layer of a gated backbone is given: the hidden state, all else flat, and how that stands."""
    try:
        body(**given)
    except _Reached as found:
        args, kwargs = list(found.args_), dict(found.kwargs)
        hidden = args.pop(0) if args else kwargs.pop("hidden_states")
        return hidden, list(_leaves((args, kwargs))), (args, kwargs)
    raise ConfigError("`model` should run its layers one after the other. It never ran the first.")


def _leaves(value: Any) -> Iterator[Any]:
    """All that is in tuples, lists and dicts, in order."""
    if isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def _filled(like: Any, leaves: Iterator[Any]) -> Any:
    """Other leaves in the same tuples, lists and dicts."""
    if isinstance(like, dict):
        return {k: _filled(v, leaves) for k, v in like.items()}
    return type(like)(_filled(v, leaves) for v in like) if isinstance(like, (tuple, list)) else next(leaves)


class Call:
    """How the layers of a backbone are called beside the hidden state: constants, and tensors of the batch.

    Args:
        flat: all arguments, flat.
        stand: how they stand.
    """

    def __init__(self, flat: Sequence[Any], stand: Any) -> None:
        self.stand = _filled(stand, iter([None] * len(flat)))
        self.tensors = [i for i, v in enumerate(flat) if isinstance(v, Tensor)]
        self.flat = [None if isinstance(v, Tensor) else v for v in flat]
        self.dtypes = [flat[i].dtype for i in self.tensors]

    def of(self, flat: Sequence[Any], values: Tensor) -> list[Tensor]:
        """The tensors of this batch; a mask that the backbone left out since nothing is masked is made here."""
        found = []
        for i, dtype in zip(self.tensors, self.dtypes, strict=True):
            if (value := flat[i]) is None:
                shape = (values.shape[0], 1, 1, values.shape[1])
                value = torch.full(shape, dtype == torch.bool, dtype=dtype, device=values.device)
            found.append(value)
        return found

    def __call__(self, layer: nn.Module, hidden: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """What a layer makes of the hidden state."""
        flat = list(self.flat)
        for i, value in zip(self.tensors, tensors, strict=True):
            flat[i] = value
        args, kwargs = _filled(self.stand, iter(flat))
        out = layer(hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


class Words:
    """Sub-words (batch, sub-words, d) <-> words first (batch, length, d): heads read a sequence that begins with a
    row's words, as many as its mask says; behind them stand the other sub-words, which only layers read.

    With ``first`` a word's place holds its first sub-word, with ``mean`` the mean of all. Both can be undone, so what a
    sharing scheme does to the words between two layers reaches their sub-words.

    Args:
        how: ``first`` or ``mean``.
    """

    carried = 3

    def __init__(self, how: str) -> None:
        self.how = how

    @staticmethod
    def laid(tokens: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Where everything stands.

        Shape:
            tokens (batch, slots, 2 or more): sub-word and word, there (batch, slots) -> the slots of the n sub-words
            that are read (batch, n), which of those are there (batch, n), mask of words (batch, slots), and (the
            sub-word at each place (batch, slots), n for none; the place of each sub-word (batch, n); the word of each
            sub-word (batch, n), `slots` for none).
        """
        ids, word = tokens[..., 0], tokens[..., 1]
        read, own = there & (ids >= 0), there & (word >= 0)
        before = F.pad(word[:, :-1], (1, 0), value=-1)
        first = own & (word != before)
        n = max(int(read.sum(1).max()), 1)
        slot = (~read).to(torch.int8).argsort(dim=1, stable=True)[:, :n]  # of each sub-word
        perm = (~first).to(torch.int8).argsort(dim=1, stable=True)  # the slot at each place
        number = torch.where(read, read.cumsum(1) - 1, n)
        group = torch.where(own & read, first.cumsum(1) - 1, ids.shape[1])
        seen = read.gather(1, slot)
        mask = torch.arange(ids.shape[1], device=ids.device) < first.sum(1, keepdim=True)
        carried = number.gather(1, perm), perm.argsort(1).gather(1, slot), group.gather(1, slot)
        return slot, seen, mask, carried

    def arranged(self, hidden: Tensor, carried: Sequence[Tensor]) -> Tensor:
        """Words first."""
        order, _, group = carried
        padded = torch.cat([hidden, hidden.new_zeros(len(hidden), 1, hidden.shape[2])], 1)
        values = padded.gather(1, _wide(order, hidden))
        if self.how == "first":
            return values
        total, count = self._sums(hidden, group, order.shape[1])
        return torch.where(count > 0, total / count.clamp(min=1), values)

    def restored(self, values: Tensor, carried: Sequence[Tensor]) -> Tensor:
        """Sub-words in their own order: undoes `arranged`."""
        order, place, group = carried
        hidden = values.gather(1, _wide(place, values))
        if self.how == "first":
            return hidden
        n = order.shape[1]
        total, count = self._sums(hidden, group, n)
        first = (group < n) & (group != F.pad(group[:, :-1], (1, 0), value=-1))
        index = group.clamp(max=n - 1)
        back = (count.gather(1, index.unsqueeze(-1)) + 1) * hidden - total.gather(1, _wide(index, values))
        return torch.where(first.unsqueeze(-1), back, hidden)

    @staticmethod
    def _sums(hidden: Tensor, group: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Per word the sum over its sub-words (batch, n, d), and how many it has (batch, n, 1)."""
        total = hidden.new_zeros(len(hidden), n + 1, hidden.shape[2]).scatter_add(1, _wide(group, hidden), hidden)
        count = torch.zeros(len(hidden), n + 1, dtype=hidden.dtype, device=hidden.device)
        count = count.scatter_add(1, group, torch.ones_like(group, dtype=hidden.dtype))
        return total[:, :n], count[:, :n].unsqueeze(-1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, like.shape[2])


class Behind:
    """A picture's patches first, and the tokens that stand before them (a class token) behind them.

    Args:
        n: of those tokens.
    """

    carried = 0

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def arranged(self, hidden: Tensor, carried: Sequence[Tensor]) -> Tensor:
        """Patches first."""
        return torch.cat([hidden[:, self.n :], hidden[:, : self.n]], 1) if self.n else hidden

    def restored(self, values: Tensor, carried: Sequence[Tensor]) -> Tensor:
        """Undoes `arranged`."""
        k = values.shape[1] - self.n
        return torch.cat([values[:, k:], values[:, :k]], 1) if self.n else values


def frames_of(body: nn.Module, there: Tensor, n: int) -> Tensor:
    """Which of n frames hold sound (batch, n), from which samples do."""
    count = getattr(body, "_get_feat_extract_output_lengths", None)
    lengths = there.sum(1)
    frames = count(lengths) if count is not None else (lengths * n + there.shape[1] - 1) // there.shape[1]
    return torch.arange(n, device=there.device) < frames.clamp(1, n).unsqueeze(1)


def joined(columns: Sequence[Ragged]) -> Ragged:
    """Several texts of each row as one: [CLS] a [SEP] b [SEP].

    Shape:
        rows (sub-words, 2 or 3) each -> rows (sub-words, 4): sub-word, word, how that is written (0 where a column
        does not tell), and which text it is of.
    """
    rows = []
    for texts in zip(*columns, strict=True):
        parts, words = [], 0
        for i, text in enumerate(texts):
            if i and len(text) and int(text[0, 1]) < 0:
                text = text[1:]  # what begins a text begins the first alone
            word = torch.where(text[:, 1] < 0, -1, text[:, 1] + words)
            case = text[:, 2] if text.shape[1] > 2 else torch.zeros_like(word)
            parts.append(torch.stack([text[:, 0], word, case, torch.full_like(word, i)], 1))
            words = max(words, int(word.max()) + 1 if len(word) else 0)
        rows.append(torch.cat(parts))
    return Ragged.of(rows, like=torch.empty(0, 4, dtype=torch.long))


class Cut:
    """A backbone taken apart: what comes before its first layer, its layers, its last normalisation.

    Whether the parts give what the whole gives is tried out, on two made-up batches.

    Args:
        body: the model, which keeps what comes before the first layer, with a gate in place of the layers.
        reads: ``text``, ``image`` or ``audio``.
        words: see `Words`.

    Raises:
        ConfigError: it has no list of layers that are run one after the other in the same way.
    """

    tail: nn.Module | None
    grid: tuple[int, int] | None = None
    """Rows and columns of patches, where a picture becomes a sequence of those."""
    pixels: tuple[int, int] | None = None
    """The size of pictures, where it is given by the model."""

    def __init__(self, body: Any, reads: str, words: str) -> None:
        if getattr(body.config, "is_encoder_decoder", False):
            body = body.get_encoder()
        self.body = body.eval()
        probes = [_probe(body.config, reads, k) for k in (0, 1)]
        with torch.no_grad():
            wanted = [body(**probe).last_hidden_state for probe in probes]
            if not any(self._apart(path, probes, wanted) for path in _lists(body)):
                raise ConfigError(
                    "`model` should be a backbone whose layers are run one after the other, each called in the same "
                    f"way. Found a {type(body).__name__}, which the stages would not equal."
                )
        self.order: Words | Behind = Words(words) if reads == "text" else Behind()
        if reads == "image" and self.widest.dim() == 3:
            size, patch = _pair(body.config.image_size), _pair(body.config.patch_size)
            self.pixels, self.grid = size, (size[0] // patch[0], size[1] // patch[1])
            self.order = Behind(self.widest.shape[1] - self.grid[0] * self.grid[1])
        _prune(body, entered(body, probes[0])[0])
        body.train()

    def _apart(self, path: str, probes: Sequence[Mapping[str, Tensor]], wanted: Sequence[Tensor]) -> bool:
        """Whether the layers in this list are those, and the tail can be told."""
        holder = self.body.get_submodule(path.rpartition(".")[0])
        name = path.rpartition(".")[2]
        whole = getattr(holder, name)
        setattr(holder, name, nn.ModuleList([Gate()]))
        try:
            found = [entered(self.body, probe) for probe in probes]
            self.call, self.layers = Call(*found[0][1:]), list(whole)
            states = []
            for hidden, flat, _ in found:
                states.append([hidden])
                tensors = self.call.of(flat, hidden)
                for layer in self.layers:
                    states[-1].append(self.call(layer, states[-1][-1], tensors))
            named = {id(m): m for part in (holder, self.body) for n, m in part.named_children() if n in TAILS}
            for tail in (None, *named.values()):
                ends = [own[-1] if tail is None else tail(own[-1]) for own in states]
                if all(_close(*three, self.body) for three in zip(ends, wanted, probes, strict=True)):
                    self.tail, self.widest = tail, states[0][0]
                    self.widths = [h.shape[1] if h.dim() == 4 else h.shape[-1] for h in states[0]]
                    return True
        except (ConfigError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
            pass
        setattr(holder, name, whole)
        return False


def _lists(body: nn.Module) -> list[str]:
    """The paths of what may be the list of all layers, the largest first."""
    config: Any = body.config
    n = getattr(config, "num_hidden_layers", None) or len(getattr(config, "depths", ()))
    lists = {
        path: sum(p.numel() for p in module.parameters())
        for path, module in body.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n and len({type(m) for m in module}) == 1
    }
    return sorted(lists, key=lambda path: -lists[path])


def _probe(config: Any, reads: str, k: int) -> dict[str, Tensor]:
    """A made-up batch of two rows, of which the second is shorter."""
    random = torch.Generator().manual_seed(k)
    if reads == "image":
        size = (2, config.num_channels, *_pair(getattr(config, "image_size", 64)))
        return {"pixel_values": torch.randn(size, generator=random)}
    length, shorter = ((7, 4), (5, 2))[k] if reads == "text" else ((6400, 4800), (5000, 3200))[k]
    there = torch.arange(length) < torch.tensor([[length], [shorter]])
    if reads == "audio":
        return {"input_values": torch.randn(there.shape, generator=random) * there, "attention_mask": there.long()}
    pad = getattr(config, "pad_token_id", None) or 0
    ids = torch.randint(0, config.vocab_size, there.shape, generator=random)
    ids = torch.where(ids == pad, (pad + 1) % config.vocab_size, ids)
    return {"input_ids": torch.where(there, ids, pad), "attention_mask": there.long()}


def _close(found: Tensor, wanted: Tensor, probe: Mapping[str, Tensor], body: nn.Module) -> bool:
    if found.shape != wanted.shape:
        return False
    if (there := probe.get("attention_mask")) is not None:
        seen = there.bool() if "input_ids" in probe else frames_of(body, there, wanted.shape[1])
        found, wanted = found[seen], wanted[seen]
    return float((found - wanted).abs().max()) <= CLOSE * max(float(wanted.abs().max()), 1e-3)


def _prune(body: nn.Module, hidden: Tensor) -> None:
    """Take out what nothing before the first layer needs: poolers, final norms, heads."""
    used = reached(hidden.sum())

    def walk(module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            own = set(child.parameters())
            if own and not own & used:
                setattr(module, name, nn.Identity())
            else:
                walk(child)

    walk(body)
    for parameter in body.parameters():
        if parameter not in used:
            parameter.requires_grad_(False)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


# -- where models come from


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtra("The encoder `pretrained`", "text") from None
    return transformers


def backbone(model: str | None, config: Mapping[str, Any] | None, changes: Mapping[str, Any] | None = None) -> Any:
    """A model of transformers, in 32 bits: pretrained, or of this architecture with weights at random.

    Args:
        changes: what is other than the architecture says.

    Raises:
        MissingExtra: transformers is not installed.
        ConfigError: there is no such model, or nothing that could be changed under this name.
    """
    library = _library()
    silent = library.utils.logging
    level, bar = silent.get_verbosity(), silent.is_progress_bar_enabled()
    silent.set_verbosity_error()
    silent.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values = architecture(str(model)) if config is None else dict(config)
            for key in changes or {}:
                if key not in values:
                    raise ConfigError(
                        f"`changes` should name settings of the model. Found `{key}`. {hint(key, values)}"
                    )
            described = library.AutoConfig.for_model(**(values | dict(changes or {})))
            described.use_cache = described.apply_spec_augment = False
            if config is not None:
                return library.AutoModel.from_config(described, dtype=torch.float32)
            return library.AutoModel.from_pretrained(model, config=described, dtype=torch.float32)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"`model` should be a folder or a hub's name of a model of transformers. Found `{model}`: "
            f"{str(error).strip().splitlines()[0]}"
        ) from None
    finally:
        silent.set_verbosity(level)
        if bar:
            silent.enable_progress_bar()


@cache
def _read(model: str) -> str:
    """The architecture of a model, and how its inputs are made ready, as JSON."""
    library = _library()
    try:
        found = library.AutoConfig.from_pretrained(model)
        path = library.utils.cached_file(
            model, "preprocessor_config.json",
            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"`model` should be a folder or a hub's name of a model of transformers. Found `{model}`: "
            f"{str(error).strip().splitlines()[0]}"
        ) from None
    values = json.loads(found.to_json_string(use_diff=False))
    values |= {"model_type": found.model_type}
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        values.pop(key, None)
    prepare = {}
    if path is not None:
        with open(path, encoding="utf-8") as handle:
            prepare = json.load(handle)
    known = ("image_mean", "image_std", "do_normalize", "sampling_rate")
    return json.dumps([values, {k: prepare[k] for k in known if k in prepare}])


def architecture(model: str) -> dict[str, Any]:
    """The architecture of a model as plain values."""
    return dict(json.loads(_read(model))[0])


def preparation(model: str) -> dict[str, Any]:
    """How pictures or recordings are made ready for it, as far as it says."""
    return dict(json.loads(_read(model))[1])
