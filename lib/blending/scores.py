"""Scores of test targets: each model's own, and those of every blend, one row per target, context and contender."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.blending.blend import Weights, target_logprobs
from lib.blending.evaluation import FITTED
from lib.blending.predictions import Predictions
from lib.blending.support import Support
from lib.blending.tuning import weights_of


def model_scores(
    predictions: Predictions, model: str, *, condition: str, big: str = "", seed: int = -1
) -> pd.DataFrame:
    """One model's own scores, raw: no alignment, no support shared with another.

    Returns
    -------
    DataFrame
        Columns of scores.parquet, and ``condition``, ``big`` (the big model that it is compared on; empty for all),
        ``seed`` (of the fine-tune; -1 for none) and ``n_bytes``.
    """
    parts = [
        _rows(
            predictions,
            length,
            predictions.nll_nats(model, length),
            model=model,
            condition=condition,
            big=big,
            seed=seed,
        )
        for length in predictions.context_tokens
    ]
    return pd.concat(parts, ignore_index=True)


def _rows(predictions: Predictions, length: int, nll_nats: np.ndarray, **columns: object) -> pd.DataFrame:
    table = predictions.tables[length][["document", "position", "n_bytes"]]
    return table.assign(context_tokens=length, nll_nats=nll_nats, **columns).reset_index(drop=True)


def blend_scores(
    predictions: Predictions, fits: pd.DataFrame, *, big: str, tuned: str, base: str, seed: int
) -> pd.DataFrame:
    """Scores of every fitted blend and of proxy-tuning at strength 1, in the columns of `model_scores`.

    The rows of ``blended`` also say whether its likeliest token is another than the big model's (``argmax_changed``).
    """
    contenders: dict[str, Weights] = {name: weights_of(fits, form=form) for form, name in FITTED.items()}
    contenders["proxy/alpha-1"] = (1.0, 1.0, -1.0)
    parts = []
    for length in predictions.context_tokens:
        support = predictions.support(length, big=big, tuned=tuned, base=base)
        for condition, weights in contenders.items():
            nll = -target_logprobs(support, weights)
            rows = _rows(predictions, length, nll, model=big, condition=condition, big=big, seed=seed)
            if condition == "blended":
                rows["argmax_changed"] = argmax_changed(support, weights).astype(float)
            parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def argmax_changed(support: Support, weights: Sequence[float]) -> np.ndarray:
    """Whether the blend's likeliest token is another than the big model's, shape (n,)."""
    changed = np.empty(len(support), dtype=bool)
    for rows, block, _ in support.blocks():
        score = np.tensordot(np.asarray(weights, dtype=block.dtype), block, axes=1)  # (n_rows, m)
        changed[rows] = score.argmax(axis=1) != block[0].argmax(axis=1)
    return changed
