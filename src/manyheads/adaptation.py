"""Weights that follow a few rows: pure functions from dicts of tensors to dicts of tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from .faults import ConfigError

Params = Mapping[str, Tensor]
NORMS = ("batch", "frozen")
"""batch: every batch is normed by its own rows, support and query alike; frozen: by the running statistics as they are.
Neither changes those."""


def adapt(
    loss: Callable[[dict[str, Tensor], Any], Tensor],
    params: Params,
    support: Any,
    steps: int,
    lr: float | Params,
    first_order: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """phi_0 = theta, phi_(s+1) = phi_s - lr * grad L(phi_s): the weights after some steps of plain descent.

    The answer is a function of `params` that can be differentiated (with `first_order` as if the gradients were
    constants), and nothing is written to: neither parameters nor buffers. Runs under `torch.func.vmap`.

    Args:
        loss: (weights, rows) -> a scalar.
        params: theta.
        support: the rows to adapt to, handed to `loss`.
        steps: how many; 0 gives theta.
        lr: one rate, or one per parameter (of its shape).
        first_order: leave out how the gradients change with theta.
        only: the names that move; all by default. The others are given back as they came.

    Reference:
        Finn, Abbeel, Levine: Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    """
    moving = {n: p for n, p in params.items() if only is None or n in only}
    rest = {n: p for n, p in params.items() if n not in moving}
    if not moving:
        return dict(params)
    slope = grad(lambda own, rows: loss({**rest, **own}, rows))
    for _ in range(steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
            slopes = slope(moving, support)
        moving = {n: p - (lr if isinstance(lr, float | int) else lr[n]) * slopes[n] for n, p in moving.items()}
    return {n: moving.get(n, p) for n, p in params.items()}


def prototypes(features: Tensor, classes: Tensor, n: int) -> Tensor:
    """The mean feature of each class: c_k = mean of f(x) over the rows of class k; 0 for a class without rows.

    Shape:
        features (rows, d), classes (rows,) whole numbers below n -> (n, d).
    """
    member = nn.functional.one_hot(classes.long(), n).to(features.dtype)
    return member.mT @ features / member.sum(0).clamp(min=1).unsqueeze(-1)


def linear_head(centres: Tensor) -> tuple[Tensor, Tensor]:
    """(W, b) = (2 c, -|c|^2): the linear head whose softmax is that of -|f - c|^2, since |f|^2 cancels.

    Shape:
        (n, d) -> (n, d), (n,).

    Reference:
        Snell, Swersky, Zemel: Prototypical networks for few-shot learning, 2017, section 2.4.
    """
    return 2 * centres, -centres.square().sum(-1)


def running(model: nn.Module) -> list[Any]:
    """The layers of a net that keep running statistics of what passes through them."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]


@contextmanager
def settled(model: nn.Module, norm: str | None, second_order: bool = False) -> Iterator[None]:
    """A model whose forward pass can be mapped and differentiated twice, and writes to no buffer.

    Attention is computed by plain products, for which alone there is a second derivative.

    Args:
        norm: one of `NORMS`, for layers that keep running statistics.
        second_order: layers that norm are computed by sums and products, which costs more: the second derivatives of
            torch's own are wrong under `vmap` (by 0.5 % to 5 % of the largest gradient, without a word; torch 2.13).

    Raises:
        ConfigError: it has such layers and nobody said what they should do.
    """
    if norm not in NORMS and (layers := running(model)):
        raise ConfigError(
            "A net that adapts should say what its batch normalisation does: `norm: batch` (by the rows of each "
            f"episode) or `norm: frozen` (by the running statistics). Found {norm!r} and a "
            f"`{type(layers[0]).__name__}`; say which, or norm by groups or layers."
        )
    plain: list[Any] = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.modules.batchnorm._NormBase)]
    try:
        for layer in plain:
            if not isinstance(layer, nn.LayerNorm):
                layer.forward = partial(channel_norm, layer, frozen=norm == "frozen", plain=second_order)
            elif second_order:
                layer.forward = partial(layer_norm, layer)  # type: ignore[method-assign]
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for layer in plain:
            layer.__dict__.pop("forward", None)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """What a `torch.nn.LayerNorm` does, by sums and products."""
    axes = tuple(range(-len(layer.normalized_shape), 0))
    y = _normed(x, x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True), layer.eps)
    y = y if layer.weight is None else y * layer.weight
    return y if layer.bias is None else y + layer.bias


def channel_norm(layer: Any, x: Tensor, frozen: bool = False, plain: bool = True) -> Tensor:
    """What a `torch.nn.BatchNorm` or `torch.nn.InstanceNorm` does, and nothing that it remembers.

    Shape:
        (batch, channels, ...) -> the same.

    Args:
        frozen: by the running statistics, where it keeps any; else by those of x.
        plain: by sums and products.
    """
    apart = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    mean, variance = (layer.running_mean, layer.running_var) if frozen else (None, None)
    plain = plain or (mean is None and x.numel() == x.shape[1])  # a row alone has no statistics, and becomes 0
    if not plain and apart:
        return F.instance_norm(x, mean, variance, layer.weight, layer.bias, mean is None, 0.0, layer.eps)
    if not plain:
        return F.batch_norm(x, mean, variance, layer.weight, layer.bias, mean is None, 0.0, layer.eps)
    each = (-1, *(1 for _ in x.shape[2:]))
    if mean is not None and variance is not None:
        y = _normed(x, mean.view(each), variance.view(each), layer.eps)
    else:
        axes = tuple(range(2, x.dim())) if apart else (0, *range(2, x.dim()))
        y = _normed(x, x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True), layer.eps)
    return y if layer.weight is None else y * layer.weight.view(each) + layer.bias.view(each)


def _normed(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (x - mean) * (variance + eps).rsqrt()
