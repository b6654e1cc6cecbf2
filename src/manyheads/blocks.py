"""Small pieces of networks that are used more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Named(nn.Module, Mapping[str, nn.Module]):
    """Modules under any names, `children` and `a.b` included: torch sees t0, t1, ..., the user sees the names.

    Args:
        modules: (name, module) pairs or a mapping.
        alike: copies of one thing, which `initialise` gives one and the same start.
    """

    def __init__(self, modules: Mapping[str, nn.Module] | Iterable[tuple[str, nn.Module]], alike: bool = False) -> None:
        super().__init__()
        self.alike = alike
        self.keys_of: dict[str, str] = {}
        for i, (name, module) in enumerate(dict(modules).items()):
            self.keys_of[name] = f"t{i}"
            self.add_module(f"t{i}", module)

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[self.keys_of[name]]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of)

    def __len__(self) -> int:
        return len(self.keys_of)

    __hash__ = nn.Module.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Head(nn.Linear):
    """A linear head that starts as a constant: weights 0, biases given: training begins at the constant predictor.

    Args:
        width: of the features.
        start: the output at the start, one number per unit.
    """

    def __init__(self, width: int, start: Sequence[float]) -> None:
        self.start = tuple(start)
        super().__init__(width, len(self.start))

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(torch.tensor(self.start))


class BatchedLinear(nn.Linear):
    """`torch.nn.Linear` that also takes several sets of weights at once: (n, out, in) for x (n, ..., in)."""

    several = True

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return nn.functional.linear(x, self.weight, self.bias)
        flat = x.flatten(1, -2) if x.dim() > 3 else x
        bias = self.bias if self.bias.dim() == 2 else self.bias.expand(len(flat), -1)
        if torch.is_autocast_enabled(x.device.type):  # it chooses types, which it does for operations of torch only
            out = torch.baddbmm(bias.unsqueeze(1), flat, self.weight.mT)
        else:
            out = _Affine.apply(flat, self.weight, bias)
        return out.unflatten(1, x.shape[1:-1])


class _Affine(torch.autograd.Function):
    """x W' + b for x (n, rows, in), W (n, out, in), b (n, out), whose gradients are laid out as W and b are.

    Autograd's own gradient of W is transposed, and every leaf that W was stacked from would copy its part.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            g @ weight if needs_x else None,
            g.mT @ x if needs_weight else None,
            g.sum(1) if needs_bias else None,
        )


class Dropout(nn.Module):
    """`torch.nn.Dropout` from 16 random bits per unit: the same to 1 / 65,536, and a multiple faster on a processor.

    There, drawing floating random numbers is a third of a small net's whole step.

    Args:
        p: share of units left out in training.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._below = round(p * 65536) - 32768
        self._scale = 65536 / (32768 - self._below)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        bits = torch.randint(-32768, 32768, x.shape, dtype=torch.int16, device=x.device)
        return x * ((bits >= self._below) * self._scale).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seed_of(*parts: object) -> int:
    """A 63-bit seed made of any words and numbers; the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


SMALL_STEP = 1e8
"""Floating-point operations of a step below which one thread is as good as several; from there on two gain a third."""


@contextmanager
def fitting_threads(weights: int, rows: int) -> Iterator[None]:
    """One torch thread inside where steps are small: there several gain nothing, and lose 30-fold when others compute.

    Args:
        weights: numbers that a step moves.
        rows: rows of a step.
    """
    before = torch.get_num_threads()
    if 6.0 * weights * rows < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def labelled_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """(path, module) for a module and all below it, where what is `Named` goes by its user's name."""
    yield path, module
    if isinstance(module, Named):
        names = {key: "*" if module.alike else name for name, key in module.keys_of.items()}
    else:
        names = {}
    for key, child in module.named_children():
        yield from labelled_modules(child, f"{path}/{names.get(key, key)}")


def learning(model: nn.Module) -> None:
    """Training mode, but for modules that say of themselves that they are to stay `still`: what does not learn keeps
    its running statistics, and drops nothing out."""
    model.train()
    for module in model.modules():
        if getattr(module, "still", False):
            module.eval()


def initialise(model: nn.Module, seed: int) -> None:
    """Start every module from (seed, its own path): neither the order of tasks nor a further task changes the others.

    Modules that say how they start (`reset_parameters`) are started again; all others (pretrained ones) stay as they
    are.
    """
    with torch.random.fork_rng(devices=[]):
        for path, module in labelled_modules(model):
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset) and not getattr(module, "pretrained", False):
                torch.manual_seed(seed_of(seed, path))
                reset()


def pool(features: Tensor | tuple[Tensor, Tensor], eats: str) -> Tensor | tuple[Tensor, Tensor]:
    """Bring richer features down to what a head eats.

    Shape:
        vector (batch, d); sequence (batch, length, d) with a mask (batch, length), and whatever an encoder puts behind
        those for heads that know of it; map (batch, d, height, width).

    Args:
        features: what a stage gave.
        eats: ``vector``, ``sequence`` or ``map``.
    """
    if eats != "vector":
        return features
    if isinstance(features, tuple):
        values, mask = features[:2]  # what follows is for heads that eat sequences
        weight = mask.to(values.dtype).unsqueeze(-1)
        return (values * weight).sum(-2) / weight.sum(-2).clamp(min=1)
    if features.dim() == 4:
        return features.mean((-2, -1))
    return features.mean(-2) if features.dim() == 3 else features


Features = Any
"""A tensor (batch, d) or (batch, d, height, width), or a sequence with its mask."""


def vector(features: Features) -> Tensor:
    """One vector per row (batch, d)."""
    pooled = pool(features, "vector")
    assert isinstance(pooled, Tensor)
    return pooled


def channels_last(features: Features) -> Tensor:
    """The values of features (batch, ..., d), without a mask."""
    values: Tensor = features[0] if isinstance(features, tuple) else features
    return values.movedim(1, -1) if values.dim() == 4 else values


def in_form_of(features: Features, values: Tensor) -> Features:
    """Values (batch, ..., d) in the form of these features."""
    if isinstance(features, tuple):
        return (values, *features[1:])
    return values.movedim(-1, 1) if values.dim() == 4 else values
