"""Formulas of compounds: runs of their characters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from manyheads.baselines.learner import quiet
from manyheads.metrics import Predicted
from manyheads.tasks import Task

from . import Fit, Labelled

COLUMN = "smiles"
"""The column that holds the formula."""
LONGEST, RARE, STRENGTH = 4, 3, 3.0
"""Characters of a run at most, compounds that a run is in at least, inverse penalty of the regression."""


def model_of(task: Task) -> Fit | None:
    """For yes or no."""
    return runs if task.kind == "binary" else None


def runs(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """TF-IDF of runs of 1 to 4 characters, logistic regression with both classes of one weight."""
    vectors = TfidfVectorizer(
        analyzer="char", ngram_range=(1, LONGEST), lowercase=False, sublinear_tf=True, min_df=min(RARE, len(learn))
    )
    model = LogisticRegression(C=STRENGTH, max_iter=300, class_weight="balanced")
    with quiet():
        model.fit(vectors.fit_transform(learn.frame[COLUMN]), np.asarray(learn.truth).astype(int))

    def predict(rows: Labelled) -> Predicted:
        proba = model.predict_proba(vectors.transform(rows.frame[COLUMN]))[:, 1]
        return Predicted((proba > 0.5).astype(int), proba)

    return predict
