"""Next-token statistics of every model of a chain: totals and curves by family and stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openai import OpenAI

from lib import next_token
from lib.diversity.chain import chain_of
from lib.next_token import Source, Totals

MOST_POINTS = 200  # of a cumulative curve, evenly spread over the logarithm of the number of tokens


def score_chains(
    client: OpenAI, models: pd.DataFrame, source: Source, params: Mapping[str, Any], *, folder: Path
) -> dict[str, dict[str, list[Totals]]]:
    """Score the same documents under every model; divergences are from the first model of each chain.

    Parameters
    ----------
    models : table of `lib.diversity.chain`
    params : ``window``, ``stride``, ``begin_id`` (-1 for the tokenizer's own), ``n_resamples``
    folder : where totals are kept, so that nothing is scored twice

    Returns
    -------
    dict
        By family and stage, in order of training: the totals of each fine-tune.

    Raises
    ------
    ValueError
        As `lib.next_token.score`.
    """
    found: dict[str, dict[str, list[Totals]]] = {}
    for family in models["family"].unique():
        own = models[models["family"] == family]
        labels = chain_of(models, family)
        first = own.loc[own["stage"] == labels[0], "model"].iloc[0]
        for label in labels:
            found.setdefault(family, {})[label] = [
                next_token.score(
                    client,
                    model,
                    source,
                    folder=folder,
                    base="" if label == labels[0] else first,
                    window_tokens=params["window"],
                    stride_tokens=params["stride"],
                    begin_id=None if params["begin_id"] < 0 else params["begin_id"],
                    n_resamples=params["n_resamples"],
                    description=f"next token, {label} of {family}",
                ).totals
                for model in own.loc[own["stage"] == label, "model"]
            ]
    return found


def chain_curves(totals: Mapping[str, Mapping[str, list[Totals]]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the figures draw of next-token distributions.

    Returns
    -------
    tuple of DataFrame
        Cumulative probability: ``family``, ``stage``, ``n_tokens``, ``of_mean``, at `MOST_POINTS` places.
        And by position: ``family``, ``stage``, ``position`` (the first of its span, from 1), ``quantity``, ``value``,
        ``low``, ``high``.
    """
    curves, positions = [], []
    for family, chain in totals.items():
        for label, of_stage in chain.items():
            named = {"family": family, "stage": label}
            whole = next_token.curve(of_stage)
            places = np.unique(np.geomspace(1, len(whole), MOST_POINTS).round().astype(int)) - 1
            curves.append(whole.iloc[places].assign(**named))
            spans = next_token.by_position(of_stage)
            positions.append(spans.assign(position=spans["first"] + 1, **named).drop(columns=["first", "last"]))
    if not curves:
        return pd.DataFrame(columns=["family", "stage", "n_tokens", "of_mean"]), pd.DataFrame()
    return pd.concat(curves, ignore_index=True), pd.concat(positions, ignore_index=True)
