"""Linear probe: logistic regression on frozen features, its strength validation-tuned.

Features are standardized with the mean and deviation of the training samples in use. The L2
strength is the one of GRID with the least mean log-loss over all validation labels, one for the
whole probe: a label with few validation cases cannot choose well alone. Each label has a regression
of its own; labels that exclude each other share a multinomial one. The problem is convex and the
solver starts at zero, so the head has no random seed.

Axes: N samples (M others), C feature channels, L labels, G strengths, K classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ..metrics import Floats, Part, Scored, settle

GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 strength, weights summed over samples
WITHOUT_VALIDATION = 1e-2


def probe(train: Part, validate: Part, test: Part, *, exclusive: bool = False) -> Scored:
    """Fit on `train`, choose strength and thresholds on `validate`, score `test`.

    With `exclusive`, each sample has exactly one label that is present, and scores are the shares
    of a softmax over the labels that could be learned.
    """
    mean_C = train.features.mean(axis=0, dtype=np.float64)
    spread_C = train.features.std(axis=0, dtype=np.float64)
    # what is left of a constant channel is rounding, and must not be blown up
    spread_C[spread_C <= 1e-6 * np.abs(mean_C)] = 1.0
    x_train, x_validate, x_test = (
        (part.features - mean_C) / spread_C for part in (train, validate, test)
    )
    labels = train.targets.shape[1]
    skipped = {
        label: reason
        for label in range(labels)
        if (reason := untaught(train.targets[:, label])) is not None
    }
    score_GNL = np.full((len(GRID), len(x_validate) + len(x_test), labels), np.nan)
    both = np.concatenate([x_validate, x_test])
    taught = [label for label in range(labels) if label not in skipped]
    if taught:
        fit = _fit_together if exclusive else _fit_apart
        score_GNL[:, :, taught] = fit(x_train, train.targets[:, taught], both)
    best = _choose(score_GNL[:, : len(x_validate)], validate.targets, exclusive=exclusive)
    validate_NL, test_NL = np.split(score_GNL[best], [len(x_validate)])
    return Scored(
        scores=test_NL,
        settled=settle(validate.targets, validate_NL),
        skipped=skipped,
        strength=GRID[best],
    )


def untaught(target_N: Floats) -> str | None:
    """Return why nothing can be learned of a label; None if it can."""
    known_N = target_N[~np.isnan(target_N)]
    if not len(known_N):
        return "no training label"
    if len(np.unique(known_N)) < 2:
        return "one class only among the training labels"
    return None


def _fit_apart(x_NC: Floats, target_NL: Floats, other_MC: Floats) -> Floats:
    """Return the probability of each label, each of a regression of its own [G, M, L]."""
    scores = []
    for target_N in target_NL.T:
        known_N = ~np.isnan(target_N)
        scores.append(_path(x_NC[known_N], target_N[known_N], other_MC)[:, :, 1])
    return np.stack(scores, axis=2)


def _fit_together(x_NC: Floats, target_NL: Floats, other_MC: Floats) -> Floats:
    """Return the probability of each label, all of one multinomial regression [G, M, L]."""
    return _path(x_NC, target_NL.argmax(axis=1), other_MC)


def _path(x_NC: Floats, class_N: npt.NDArray[Any], other_MC: Floats) -> Floats:
    """Return each class's share of `other_MC` at every strength [G, M, K], strongest first."""
    head = LogisticRegression(C=GRID[0], tol=1e-6, max_iter=1000, warm_start=True)
    scores = []
    for strength in GRID:
        head.set_params(C=strength)
        with warnings.catch_warnings():
            # the grid's weakest strengths may not converge; validation judges what they give
            warnings.simplefilter("ignore", ConvergenceWarning)
            head.fit(x_NC, class_N)
        none = np.empty((0, len(head.classes_)))
        scores.append(head.predict_proba(other_MC) if len(other_MC) else none)
    return np.stack(scores)


def _choose(score_GNL: Floats, target_NL: Floats, *, exclusive: bool) -> int:
    """Return the index of the strength with the least mean log-loss; the stronger at a tie."""
    used_NL = ~np.isnan(target_NL) & ~np.isnan(score_GNL[0])
    if exclusive:
        used_NL &= target_NL == 1  # the loss of a softmax is that of the class which is there
    if not used_NL.any():
        return GRID.index(WITHOUT_VALIDATION)
    score_GK = np.clip(score_GNL[:, used_NL], 1e-12, 1 - 1e-12)
    target_K = target_NL[used_NL]
    loss_GK = -np.where(target_K > 0, np.log(score_GK), np.log1p(-score_GK))
    return int(np.argmin(loss_GK.mean(axis=1)))
