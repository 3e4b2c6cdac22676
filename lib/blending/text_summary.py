"""Numbers of the generated texts: negative log-likelihood under the directly tuned model, and where the shift acted."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lib.blending.evaluation import CONDITIONS, METRICS
from lib.blending.generating import place_bands
from lib.stats import cluster_bootstrap, cluster_ratio
from lib.tables import Summary

PROMPT = "prompt"


def summarise_texts(
    texts: pd.DataFrame, shift: pd.DataFrame, *, preset: str, big: str, rng: np.random.Generator
) -> pd.DataFrame:
    """Every number of the texts.

    Parameters
    ----------
    texts : DataFrame of `generate_texts` and `add_bits`
    shift : DataFrame of `shift_places`; a band of places has its first one as x

    Returns
    -------
    DataFrame in the columns of summary.csv
    """
    summary = Summary(study="blending", preset=preset, conditions=CONDITIONS, metrics=METRICS)
    known = texts[texts["bits"].notna()] if "bits" in texts else texts.iloc[:0]
    for (condition, x), rows in known.groupby(["condition", "x"], sort=False, dropna=False):
        interval = cluster_ratio(rows["bits"], rows["n_bytes"], rows[PROMPT], rng=rng)
        at = {} if math.isnan(x) else {"x": float(x), "x_name": "alpha"}
        summary.add(interval, model=big, condition=condition, metric="bits_under_direct", n_of=PROMPT, **at)  # type: ignore[arg-type]
    for first, last in place_bands(int(shift["place"].max()) if len(shift) else 0):
        rows = shift[shift["place"].between(first, last)]
        interval = cluster_bootstrap(rows["changed"], rows[PROMPT], rng=rng, rate=True)
        at = {"x": float(first), "x_name": "new_token"}
        summary.add(interval, model=big, condition="blended", metric="argmax_changed", n_of=PROMPT, **at)  # type: ignore[arg-type]
    return summary.frame()
