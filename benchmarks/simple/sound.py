"""Sound: its mean spectrum, and itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from manyheads.metrics import Predicted
from manyheads.metrics.sound import FULL
from manyheads.ragged import objects
from manyheads.tasks import Task

from . import Fit, Labelled, classify, of_kind

WINDOW = 256
"""Samples of a window; one begins at every half of it."""


def model_of(task: Task) -> Fit | None:
    """What was heard for clean sound, logistic regression for classes; nothing simple writes down words."""
    if task.kind == "reconstruction":
        return unchanged
    return spectrum if task.kind in ("binary", "multiclass", "multilabel") else None


def _matrix(rows: Labelled) -> np.ndarray:
    _, recordings = of_kind(rows.inputs, "audio")
    window, found = torch.hann_window(WINDOW), []
    for samples in recordings:
        wave = torch.nn.functional.pad(samples.float() / FULL, (0, max(WINDOW - len(samples), 0)))
        frames = torch.stft(wave, WINDOW, window=window, center=False, return_complex=True).abs().square()
        logs = (frames + 1e-8).log()
        found.append(torch.cat([logs.mean(1), logs.std(1, correction=0)]))
    return torch.stack(found).numpy()


def spectrum(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """Logistic regression on mean and spread over time of the log spectrum."""
    own = _matrix(learn)
    scale = StandardScaler().fit(own)
    predict = classify(task, learn, scale.transform(own), seed)
    return lambda rows: predict(scale.transform(_matrix(rows)))


def unchanged(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """What was heard, as it is."""

    def predict(rows: Labelled) -> Predicted:
        _, recordings = of_kind(rows.inputs, "audio")
        heard = [samples.numpy().astype(np.float32) / FULL for samples in recordings]
        return Predicted(objects([np.stack([wave, wave]) for wave in heard]))

    return predict
