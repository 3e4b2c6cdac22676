"""The best blend, exactly: mean negative log-likelihood is convex in the weights, so Newton finds its minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from lib.blending.blend import Floats, Weights, log_partition, refuse_undefined, weighted_sum
from lib.blending.support import MODELS, Support

MAX_ITERATIONS = 100
TOLERANCE_NATS = 1e-10  # what a further step could still gain
ROUNDING = 1e-8  # relative error of a mean in float32
DETERMINED = 1e-6  # curvature below this share of the largest is what float16 tables round to

# Weights of (big, tuned, base) are start + map @ parameters: what a form leaves free, and that all begin at `big`.
FORMS: dict[str, tuple[Floats, Floats]] = {
    "weights": (np.zeros(3), np.eye(3)),
    "mixture": (np.zeros(3), np.eye(3)[:, :2]),
    "alpha": (np.array([1.0, 0.0, 0.0]), np.array([[0.0], [1.0], [-1.0]])),
    "temperature": (np.zeros(3), np.eye(3)[:, :1]),
}


@dataclass(frozen=True)
class Fit:
    """Fitted weights of (big, tuned, base) with 95% intervals.

    Intervals: sandwich clustered by document, factor C / (C - 1), t with C - 1 degrees of freedom for C documents.
    A fixed weight has itself as bounds. A weight that the records cannot tell apart from another has NaN bounds, and
    `undetermined` holds the directions of weights, shape (3,) each, along which nothing changes; the weights given are
    then the smallest of the equally good. One document: all bounds of free weights are NaN.
    """

    form: str
    weights: Weights
    low: Weights
    high: Weights
    nll_nats: float
    n: int
    n_documents: int
    n_iterations: int
    converged: bool
    undetermined: tuple[Weights, ...] = ()

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-likelihood."""
        return math.exp(self.nll_nats)


@dataclass(frozen=True)
class _Point:
    """Mean NLL at some parameters (d,), its gradient (d,) and Hessian (d, d), and each record's gradient."""

    parameters: Floats
    value: float
    gradient: Floats
    hessian: Floats
    scores: Floats


def fit_weights(support: Support | Sequence[Support], *, form: str = "weights") -> Fit:
    """Minimise the mean negative log-likelihood of the true tokens over the weights of a blend.

    Parameters
    ----------
    support : Support, or several whose records are pooled (context lengths)
    form : str, default "weights"
        What is free: "weights" (all three), "mixture" (big and tuned, no base), "alpha" (one strength a of the shift,
        weights (1, a, -a)) or "temperature" (big alone).

    Returns
    -------
    Fit
        The global optimum, and never worse than `big` alone.

    Raises
    ------
    ValueError
        If the form is unknown, there are no records, or one holds NaN or infinity.

    Notes
    -----
    The blend is an exponential family in its weights: the gradient is E[l] - l(target) and the Hessian Cov[l] under
    the blend, both exact. Intervals: Liang and Zeger 1986, so that records of one document count as related.

    >>> from lib.blending import full_support
    >>> rng = np.random.default_rng(0)
    >>> sharp = np.log(rng.dirichlet(np.ones(5), size=2000))
    >>> targets = [rng.choice(5, p=row) for row in np.exp(sharp)]
    >>> flat = full_support(sharp / 2, sharp, sharp, targets, np.arange(2000))  # big is twice too flat
    >>> round(fit_weights(flat, form="temperature").weights[0], 1)
    2.0
    """
    if form not in FORMS:
        raise ValueError(f"no form of weights named {form!r}: expected one of {', '.join(FORMS)}")
    parts = [support] if isinstance(support, Support) else list(support)
    if not parts:
        raise ValueError("no records to fit weights to: expected at least one Support")
    start, mapping = FORMS[form]
    at_big = np.linalg.pinv(mapping) @ (np.array([1.0, 0.0, 0.0]) - start)
    best, n_iterations, converged = _newton(parts, start, mapping, at_big)
    kept, dropped = _directions(best.hessian)
    # What nothing depends on is set to nothing: of all equally good parameters, the smallest.
    parameters = kept @ (kept.T @ best.parameters)
    weights = start + mapping @ parameters
    low, high, n_documents = _bounds(best, parts, mapping, weights, (kept, dropped))
    return Fit(
        form=form,
        weights=_three(weights),
        low=_three(low),
        high=_three(high),
        nll_nats=best.value,
        n=len(best.scores),
        n_documents=n_documents,
        n_iterations=n_iterations,
        converged=converged,
        undetermined=tuple(_three(mapping @ direction) for direction in dropped.T),
    )


def _three(values: Floats) -> Weights:
    big, tuned, base = (float(value) for value in values)
    return big, tuned, base


def _evaluate(parts: Sequence[Support], start: Floats, mapping: Floats, parameters: Floats) -> _Point:
    weights = start + mapping @ parameters
    used = [i for i in range(3) if mapping[i].any() or start[i]]
    nll, curvature, scores = 0.0, np.zeros((len(used), len(used))), []
    for part in parts:
        for rows, block, log_counts in part.blocks([MODELS[i] for i in used]):
            logs, probs = log_partition(weighted_sum(block, weights[used].tolist()), log_counts, first=rows.start)
            nll += float(logs.sum(dtype=float))
            weighted = block * probs  # (n_models, n_rows, m)
            expected = weighted.sum(axis=2).T.astype(float)  # (n_rows, n_models)
            refuse_undefined(expected, first=rows.start)  # a model whose weight is zero so far is looked at too
            flat = weighted.reshape(len(used), -1) @ block.reshape(len(used), -1).T  # (n_models, n_models)
            curvature += flat - expected.T @ expected
            scores.append(expected)
    gradients = np.concatenate(scores) @ mapping[used]  # (n, d)
    hessian = mapping[used].T @ curvature @ mapping[used] / len(gradients)
    return _Point(parameters, nll / len(gradients), gradients.mean(axis=0), hessian, gradients)


def _directions(hessian: Floats) -> tuple[Floats, Floats]:
    """Directions that the records determine and those that they do not, as columns."""
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    kept = values > DETERMINED * max(float(values[-1]), 1e-12)
    return vectors[:, kept], vectors[:, ~kept]


def _newton(parts: Sequence[Support], start: Floats, mapping: Floats, parameters: Floats) -> tuple[_Point, int, bool]:
    """The best point of a damped Newton descent, the number of its steps, and whether nothing is left to gain."""
    now = _evaluate(parts, start, mapping, parameters)
    for n_steps in range(MAX_ITERATIONS):
        kept, _ = _directions(now.hessian)
        step = -kept @ np.linalg.solve(kept.T @ now.hessian @ kept, kept.T @ now.gradient)
        gain = float(-now.gradient @ step)
        if gain < TOLERANCE_NATS:
            return now, n_steps, True
        size, slack = 1.0, ROUNDING * (1 + abs(now.value))
        while True:
            tried = _evaluate(parts, start, mapping, now.parameters + size * step)
            if tried.value <= now.value - 1e-4 * size * gain + (slack if gain < 1e-6 else 0.0):
                break
            size /= 2
            if size < 1e-6:
                return now, n_steps, gain < slack
        now = tried
    return now, MAX_ITERATIONS, False


def _bounds(
    best: _Point, parts: Sequence[Support], mapping: Floats, weights: Floats, directions: tuple[Floats, Floats]
) -> tuple[Floats, Floats, int]:
    """Lower and upper bounds of the three weights, and the number of documents."""
    _, codes = np.unique(np.concatenate([np.asarray(part.document) for part in parts]), return_inverse=True)
    n_documents = int(codes.max()) + 1
    is_free = mapping.any(axis=1)
    kept, dropped = directions
    unknown = is_free & (np.abs(mapping @ dropped) > 1e-3).any(axis=1) if dropped.size else np.zeros(3, dtype=bool)
    if n_documents < 2:
        half = np.where(is_free, np.nan, 0.0)
        return weights - half, weights + half, n_documents
    sums = np.stack([np.bincount(codes, weights=column) for column in best.scores.T], axis=1) / len(codes)
    sums -= sums.mean(axis=0)  # (n_documents, d); the sum is zero at the optimum but for rounding
    bread = kept @ np.linalg.inv(kept.T @ best.hessian @ kept) @ kept.T
    covariance = mapping @ bread @ (sums.T @ sums) @ bread @ mapping.T * n_documents / (n_documents - 1)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    half = np.where(unknown, np.nan, spread * float(scipy_stats.t.ppf(0.975, n_documents - 1)))
    return weights - half, weights + half, n_documents
