"""The best weights of a blend, exactly: the mean negative log-likelihood is convex in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from lib.blending.predictions import Aligned

Floats = NDArray[np.float64]

MODELS = ("big", "tuned", "base")
BLOCK_NUMBERS = 2**21  # log-probabilities of one model in memory at once
DETERMINED = 1e-6  # a direction of weights with less than this share of the largest curvature is not determined

# Weights of (big, tuned, base) are start + matrix @ parameters; every form contains the big model alone.
FORMS: dict[str, tuple[Floats, Floats]] = {
    "blended": (np.zeros(3), np.eye(3)),
    "mixture": (np.zeros(3), np.eye(3)[:, :2]),
    "proxy": (np.array([1.0, 0.0, 0.0]), np.array([[0.0], [1.0], [1.0]])),
    "temperature": (np.zeros(3), np.eye(3)[:, :1]),
}


class _Point(NamedTuple):
    """Mean negative log-likelihood, its gradient (3,) and Hessian (3, 3) in the weights, and each target's gradient."""

    value: float
    gradient: Floats
    hessian: Floats
    scores: Floats


def fit_weights(parts: Sequence[Aligned], *, form: str = "blended") -> dict[str, Any]:
    """Minimise the mean negative log-likelihood of the targets over the weights of ``big + tuned - base``.

    Parameters
    ----------
    parts : predictions of the three models, one part per context length; their targets are pooled
    form : what is free: "blended" (three weights), "mixture" (big and tuned, no base), "proxy" (one strength a of the
        difference, weights (1, a, a)) or "temperature" (big alone)

    Returns
    -------
    dict
        ``form``, ``w_<model>`` with ``low_<model>`` and ``high_<model>``, ``nll`` (nats per token), ``n`` targets and
        ``n_documents``. Of weights that the targets cannot tell apart, the smallest, with bounds of NaN.

    Raises
    ------
    ValueError
        If the form is unknown, there are no targets, or a model's log-probability is not a number.

    Notes
    -----
    The blend is an exponential family in its weights, so that gradient and Hessian are means and covariances of
    log-probabilities under it. Intervals: 95%, sandwich clustered by document (Liang and Zeger 1986), factor
    C / (C - 1), t with C - 1 degrees of freedom for C documents.
    """
    if form not in FORMS:
        raise ValueError(f"no form of weights named {form!r}: expected one of {', '.join(FORMS)}")
    if not sum(len(part.target) for part in parts):
        raise ValueError("there are no targets to fit weights to")
    start, matrix = FORMS[form]

    @cache
    def at(*parameters: float) -> _Point:
        return _evaluate(parts, start + matrix @ np.array(parameters))

    optimum = optimize.minimize(
        lambda x: (at(*x).value, matrix.T @ at(*x).gradient), np.linalg.pinv(matrix) @ (np.array([1.0, 0, 0]) - start),
        jac=True, hess=lambda x: matrix.T @ at(*x).hessian @ matrix, method="trust-exact", options={"gtol": 1e-5},
    )  # fmt: skip
    best, hessian = at(*optimum.x), matrix.T @ at(*optimum.x).hessian @ matrix
    inverse = np.linalg.pinv(hessian, rcond=DETERMINED, hermitian=True)
    determined = inverse @ hessian  # projects on the directions that the targets determine
    weights = start + matrix @ determined @ optimum.x
    documents, codes = np.unique(np.concatenate([part.document for part in parts]), return_inverse=True)
    half = np.where(matrix.any(axis=1), np.nan, 0.0)
    if (n := len(documents)) > 1:
        sums = np.stack([np.bincount(codes, weights=column) for column in (best.scores @ matrix).T], axis=1)
        covariance = inverse @ np.cov(sums.T, ddof=1).reshape(hessian.shape) @ inverse * n / len(codes) ** 2
        spread = np.sqrt(np.diag(matrix @ covariance @ matrix.T).clip(0))
        unknown = (np.abs(matrix @ (np.eye(len(hessian)) - determined)) > 1e-3).any(axis=1)
        half = np.where(unknown, np.nan, spread * float(stats.t.ppf(0.975, n - 1)))
    row: dict[str, Any] = {"form": form}
    for name, weight, width in zip(MODELS, weights, half, strict=True):
        row |= {f"w_{name}": float(weight), f"low_{name}": weight - width, f"high_{name}": weight + width}
    return row | {"nll": best.value, "n": len(codes), "n_documents": n}


def _evaluate(parts: Sequence[Aligned], weights: Floats) -> _Point:
    value, curvature, scores = 0.0, np.zeros((3, 3)), []
    for part in parts:
        step = max(1, BLOCK_NUMBERS // part.big.shape[1])
        for start in range(0, len(part.target), step):
            block = part.rows(slice(start, start + step))
            logps = np.stack([block.big, block.tuned, -block.base])  # (3, n, m)
            logps -= np.take_along_axis(logps, block.target[None, :, None], axis=2)
            total = np.tensordot(weights.astype(logps.dtype), logps, axes=1) + block.log_counts  # (n, m)
            peak = total.max(axis=1, keepdims=True)
            probs = np.exp(total - peak)
            mass = probs.sum(axis=1, keepdims=True)
            probs /= mass
            value += float((peak + np.log(mass)).sum(dtype=float))
            weighted = logps * probs
            means = weighted.sum(axis=2).T.astype(float)  # (n, 3)
            curvature += weighted.reshape(3, -1) @ logps.reshape(3, -1).T - means.T @ means
            scores.append(means)
    gradients = np.concatenate(scores)
    if not np.isfinite(gradients).all():
        row = int((~np.isfinite(gradients).all(axis=1)).argmax())
        raise ValueError(f"a log-probability of target {row} is not a number")
    return _Point(value / len(gradients), gradients.mean(axis=0), curvature / len(gradients), gradients)


def weights_of(fits: pd.DataFrame, form: str = "blended") -> tuple[float, float, float]:
    """Weights (big, tuned, base) of one form, from the rows of `fit_weights`."""
    row = fits[fits["form"] == form].iloc[0]
    return float(row["w_big"]), float(row["w_tuned"]), float(row["w_base"])
