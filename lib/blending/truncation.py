"""What top-k lists do to the comparison: the same scores from whole distributions that were cut to k tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.blending.blend import Weights, target_logprobs
from lib.blending.predictions import Predictions
from lib.blending.published import prepare
from lib.blending.support import top_k_support
from lib.blending.temperatures import Temperatures
from lib.distributions import top_k


def truncated_scores(
    predictions: Predictions,
    *,
    big: str,
    tuned: str,
    base: str,
    weights: Weights,
    temperatures: Temperatures,
    ks: Sequence[int],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the test targets once more as if an endpoint had shown only the k likeliest tokens.

    Parameters
    ----------
    predictions : whole distributions
    weights : of the blend, as fitted to whole distributions
    temperatures : of the published pipeline

    Returns
    -------
    DataFrame, DataFrame
        One row per target (``k``, ``context_tokens``, ``document``, ``missed`` by big's list, ``nll_big`` and
        ``nll_blended`` with a tail bucket), and one row per curve point (``k``, ``context_tokens``, ``big`` and
        ``blended`` as published: floor of -30, mean of chunks).
    """
    rows, published = [], []
    for length in predictions.context_tokens:
        table = predictions.tables[length]
        documents, targets = table["document"].to_numpy(), table["target"].to_numpy()
        for k in ks:
            of_big, of_tuned, of_base = (
                top_k(np.asarray(predictions.parts[model, length].logprobs), k) for model in (big, tuned, base)
            )
            support = top_k_support(of_big, of_tuned, of_base, targets, predictions.vocab_size, documents)
            missed = ~(of_big.ids == targets[:, None]).any(axis=1)
            scored = {
                "nll_big": -target_logprobs(support, (1, 0, 0)),
                "nll_blended": -target_logprobs(support, weights),
            }
            rows.append(
                pd.DataFrame({"k": k, "context_tokens": length, "document": documents, "missed": missed} | scored)
            )
            old = prepare(of_big, of_tuned, of_base, targets)
            perplexities = {"big": old.model_perplexity("big"), "blended": old.perplexity(temperatures)}
            published.append({"k": k, "context_tokens": length} | perplexities)
    return pd.concat(rows, ignore_index=True), pd.DataFrame(published)
