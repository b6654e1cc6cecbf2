"""Shared and private features that say different things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..ranges import Range, log
from . import Penalty


class Orthogonal(Penalty):
    """What is private should not say what is shared: R = ||Z_s^T Z_p||_F^2 / n^2, between 0 and 1.

    Z_s and Z_p (n rows) are the shared and the private features of n rows, each column centred over the rows, then each
    row scaled to length 1. R does not depend on the batch size: a batch that is doubled has the same R.

    For sharing schemes with both kinds of features, of one width; there, R is the mean over the pairs.

    Shape:
        (2, batch, d): shared features, private features.

    Args:
        strength: the factor in front of R, at least 0.

    Reference:
        Bousmalis, Trigeorgis, Silberman, Krishnan, Erhan: Domain separation networks, 2016.

    Differs from the paper:
        There the norm is not divided by n^2.
    """

    places = ("features",)
    steps = ("loss",)
    search: ClassVar[Mapping[str, Range]] = {"strength": log(0.001, 10)}

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__(strength)

    def value(self, w: Tensor) -> Tensor:
        z = w - w.mean(-2, keepdim=True)
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        z = torch.where(length > 0, z / length.clamp(min=torch.finfo(z.dtype).tiny), 0.0)
        return (z[0].mT @ z[1] / w.shape[-2]).square().sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        raise NotImplementedError(
            "`orthogonal` is a penalty on features, which has no proximal step: use `step: loss`."
        )
