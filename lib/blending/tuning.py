"""Fit every blend on validation documents: the convex forms, and the published search beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.blending.blend import Weights
from lib.blending.fit import FORMS, Fit, fit_weights
from lib.blending.support import MODELS, Support
from lib.blending.temperatures import tune_temperatures

UNSCALED = (float("nan"),) * 3


def fit_blends(
    supports: Mapping[int, Support], *, pooled: Sequence[int], storage: Path, n_trials: int, seed: int = 0
) -> pd.DataFrame:
    """Weights of every form for one big model and one tuned one.

    Parameters
    ----------
    supports : the three models' predictions at the validation targets, by context length
    pooled : context lengths that one set of weights is fitted to
    storage : journal of the temperature search

    Returns
    -------
    DataFrame
        One row per fit: ``form``, ``context_tokens`` (NaN: pooled), ``weight_<model>`` with its ``low_`` and ``high_``,
        ``nll_nats``, ``n``, ``n_documents``. The form ``weights`` also comes for each length alone.
    """
    parts = [supports[length] for length in pooled]
    fits = [(form, np.nan, fit_weights(parts, form=form)) for form in FORMS]
    fits += [("weights", length, fit_weights(support)) for length, support in supports.items()]
    rows = [_row(form, length, fit.weights, fit.low, fit.high, fit) for form, length, fit in fits]
    searched = tune_temperatures(parts, storage=storage, n_trials=n_trials, seed=seed)
    row = _row("temperatures", np.nan, searched.weights, UNSCALED, UNSCALED, fits[0][2])
    rows.insert(len(FORMS), row | {"nll_nats": searched.nll_nats})
    return pd.DataFrame(rows)


def _row(form: str, length: float, weights: Weights, low: Weights, high: Weights, fit: Fit) -> dict[str, object]:
    row: dict[str, object] = {"form": form, "context_tokens": length}
    for place, model in enumerate(MODELS):
        row |= {f"weight_{model}": weights[place], f"low_{model}": low[place], f"high_{model}": high[place]}
    return row | {"nll_nats": fit.nll_nats, "n": fit.n, "n_documents": fit.n_documents}


def weights_of(fits: pd.DataFrame, *, form: str = "weights") -> Weights:
    """The pooled weights (big, tuned, base) of one form, from the rows of one big model and one seed."""
    row = fits[(fits["form"] == form) & fits["context_tokens"].isna()].iloc[0]
    big, tuned, base = (float(row[f"weight_{model}"]) for model in MODELS)
    return big, tuned, base
