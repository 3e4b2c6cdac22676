"""Next-token statistics against a version that goes window by window and keeps full probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from measuring import Way, compare, load, speed

from lib.next_token import METRICS, Totals, intervals
from lib.next_token.positions import measure_positions
from lib.next_token.statistics import LEVELS, TOP
from lib.next_token.totals import N_BINS, Measured
from tuning_server.engine import scoring

N_DOCUMENTS, TOKENS, WINDOW = 16, 384, 128
Documents = list[tuple[np.ndarray, np.ndarray]]  # log-probabilities (half precision, as a reply holds them), targets


@pytest.fixture(scope="module")
def documents() -> Documents:
    """What fork-1m says of random tokens, which take as long as others."""
    loaded = load("fork-1m")
    loaded.model.eval()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(N_DOCUMENTS):
        ids = rng.integers(1, loaded.vocab_size, TOKENS + 1).tolist()
        told = scoring.score_documents(loaded, [ids], window_tokens=WINDOW, stride_tokens=WINDOW, full=True)
        assert told.logprobs is not None
        found.append((told.logprobs, np.array(ids[1:])))
    return found


def streamed(documents: Documents, *, n_resamples: int) -> Totals:
    totals = Totals(documents[0][0].shape[1], n_resamples)
    totals.add([Measured(k, TOKENS, measure_positions(*document)) for k, document in enumerate(documents)])
    return totals


def kept(documents: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Softmax of each window, kept; then each statistic in turn from all of them."""
    windows, targets = [], []
    for logprobs, ids in documents:
        for start in range(0, len(ids), WINDOW):
            scores = logprobs[start : start + WINDOW].astype(float)
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            windows.append(powers / powers.sum(axis=1, keepdims=True))
            targets.append(ids[start : start + WINDOW])
    entropies = np.concatenate([-(p * np.log(np.where(p == 0, 1, p))).sum(axis=1) for p in windows])
    confidence = np.concatenate([p.max(axis=1) for p in windows])
    hits = np.concatenate([p.argmax(axis=1) == t for p, t in zip(windows, targets, strict=True)])
    told = np.concatenate([p[np.arange(len(t)), t] for p, t in zip(windows, targets, strict=True)])
    ranks = np.concatenate(
        [1 + (p > p[np.arange(len(t)), t][:, None]).sum(axis=1) for p, t in zip(windows, targets, strict=True)]
    )
    mean = np.concatenate(windows).mean(axis=0)
    ranked = np.concatenate([-np.sort(-p, axis=1) for p in windows]).mean(axis=0)
    spread = -(mean * np.log(np.where(mean == 0, 1, mean))).sum()
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    falling, choices = np.cumsum(-np.sort(-mean)), np.cumsum(ranked)
    found = {
        "perplexity": math.exp(-np.log(told).mean()),
        "bits_per_byte": -np.log2(told).mean(),
        "entropy_of_mean": spread,
        "mean_entropy": entropies.mean(),
        "entropy_gap": spread - entropies.mean(),
        "effective_vocabulary": math.exp(spread),
        "effective_choices": math.exp(entropies.mean()),
        "confidence": confidence.mean(),
        "accuracy": hits.mean(),
        "reciprocal_rank": (1 / ranks).mean(),
        "calibration_error": sum(abs((confidence - hits)[bins == b].sum()) for b in range(N_BINS)) / len(bins),
    }
    for name, level in LEVELS.items():
        found[f"coverage_{name}_tokens"] = 1 + int((falling < level).sum())
        found[f"coverage_{name}"] = found[f"coverage_{name}_tokens"] / len(mean)
        found[f"choices_{name}_tokens"] = 1 + int((choices < level).sum())
    return found | {f"top_{k}_mass": choices[k - 1] for k in TOP}


@pytest.mark.parametrize("n_resamples", [0, 200])
def test_statistics_of_distributions(documents: Documents, n_resamples: int, report: Callable) -> None:
    """The reference has no intervals: the second row, without a target, says what ours cost."""
    ours = intervals(streamed(documents, n_resamples=n_resamples))
    plain = kept(documents)
    assert set(ours) == set(METRICS) - {"kl"} == set(plain)
    assert {name: each.value for name, each in ours.items()} == pytest.approx(plain, rel=1e-9, abs=1e-9)
    n_tokens = N_DOCUMENTS * TOKENS
    ratio = compare(
        f"next-token statistics, {n_resamples} resamples",
        lambda: speed(lambda: intervals(streamed(documents, n_resamples=n_resamples)), n_tokens),
        Way("window by window, full probabilities kept", lambda: speed(lambda: kept(documents), n_tokens)),
        unit="tokens/s",
        n_repetitions=3,
        target=None if n_resamples else 3.0,
    )
    report(ratio, lambda: "looking up, sorting and summing the probabilities are all of our time")
