"""Compare the diversity of stages: pairs by prompt, prompts resampled whole, Holm over measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.diversity.registry import registry
from lib.stats import cluster_bootstrap, cluster_permutation, cluster_ratio, holm

PROMPT = "prompt"
ROUNDING = 1e-12
DIFFERENCE_COLUMNS = (
    *("kind", "measure", "first", "second", "value", "low", "high", "n", "n_of", "n_dropped"),
    *("effect_size", "p", "p_holm", "more_diverse"),
)
SHARE_COLUMNS = ("kind", "measure", "stage", "value", "low", "high", "n", "n_of", "total")


def paired_differences(
    measured: pd.DataFrame, *, chain: Sequence[str], rng: np.random.Generator, n_resamples: int = 2000
) -> pd.DataFrame:
    """Difference of each model of a chain from the one before, and of the last from the first.

    Parameters
    ----------
    measured : DataFrame as `lib.diversity.measure` returns it
    chain : two or more labels of the column ``model``, in order of training

    Returns
    -------
    DataFrame
        ``value`` is second - first with its interval over prompts (``n``); ``n_dropped`` counts pairs that lack a
        value; ``effect_size`` is Cohen's d of paired prompts (mean over standard deviation of the prompts' means);
        ``p`` flips signs of whole prompts, ``p_holm`` corrects it over the measures of one kind and pair;
        ``more_diverse`` is the label of the more diverse model, empty where the measure has no direction.

    Raises
    ------
    ValueError
        If the chain is too short or a model of it was not measured.

    Notes
    -----
    Rows are pairs of (prompt, temperature), and of seeds where there is such a column; a model of one seed (a base)
    stands against every seed of the other. Draws take all rows of a prompt together, seeds too.
    """
    wide = _wide(measured, chain)
    pairs = [*zip(chain, chain[1:], strict=False), *([(chain[0], chain[-1])] if len(chain) > 2 else [])]
    rows: list[dict[str, Any]] = []
    for first, second in pairs:
        for kind, of_kind in wide.groupby("kind", sort=False):
            where = {"kind": kind, "first": first, "second": second}
            found = [
                {**where, **estimate}
                for name, part in of_kind.groupby("measure", sort=False)
                if (estimate := _difference(str(name), part, first, second, rng, n_resamples))
            ]
            corrected = holm([row["p"] for row in found])
            rows += [{**row, "p_holm": p} for row, p in zip(found, corrected, strict=True)]
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))


def _difference(
    name: str, part: pd.DataFrame, first: str, second: str, rng: np.random.Generator, n_resamples: int
) -> dict[str, Any]:
    both = part.dropna(subset=[first, second])
    if both.empty:
        return {}
    change = _change(both, first, second)
    estimate = cluster_bootstrap(change, both[PROMPT], rng=rng, n_resamples=n_resamples)
    of_prompts = change.groupby(both[PROMPT]).mean()
    spread = float(of_prompts.std(ddof=1)) if len(of_prompts) > 1 else np.nan
    turned = registry()[name].turned(estimate.value)
    return {
        "measure": name,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "n_of": PROMPT,
        "n_dropped": len(part) - len(both),
        "effect_size": float(of_prompts.mean()) / spread if spread > 0 else np.nan,
        "p": cluster_permutation(change, both[PROMPT], rng=rng).p,
        "more_diverse": "" if np.isnan(turned) or turned == 0 else (second if turned > 0 else first),
    }


def stage_shares(
    measured: pd.DataFrame, *, chain: Sequence[str], rng: np.random.Generator, n_resamples: int = 2000
) -> pd.DataFrame:
    """Share of the total change, from the first model of a chain to the last, that each stage makes.

    Parameters are those of `paired_differences`.

    Returns
    -------
    DataFrame
        One row per kind, measure and stage: ``value`` (shares add up to 1; a stage that works against the total has a
        share below 0), ``low``, ``high`` over prompts, ``n``, ``n_of``, and ``total``, the mean change that it is a
        share of. Bounds are NaN where the interval of the total holds 0: a share of a change that may be none is not
        known. A total of exactly 0 has no shares and no row.
    """
    wide = _wide(measured, chain)
    rows = []
    for (kind, name), part in wide.groupby(["kind", "measure"], sort=False):
        both = part.dropna(subset=list(chain))
        total = _change(both, chain[0], chain[-1])
        if both.empty or total.sum() == 0:
            continue
        whole = cluster_bootstrap(total, both[PROMPT], rng=rng, n_resamples=n_resamples)
        is_clear = whole.low > 0 or whole.high < 0
        for before, after in zip(chain, chain[1:], strict=False):
            estimate = cluster_ratio(
                _change(both, before, after), total, both[PROMPT], rng=rng, n_resamples=n_resamples
            )
            named = {"kind": kind, "measure": name, "stage": f"{before} -> {after}"}
            bounds = {"low": estimate.low, "high": estimate.high} if is_clear else {"low": np.nan, "high": np.nan}
            numbers = {"value": estimate.value, **bounds, "n": estimate.n, "n_of": PROMPT}
            rows.append({**named, **numbers, "total": float(total.mean())})
    return pd.DataFrame(rows, columns=list(SHARE_COLUMNS))


def _change(both: pd.DataFrame, first: str, second: str) -> pd.Series:
    """Of each pair; 0 where it is no more than the rounding of sums in another order."""
    change = both[second] - both[first]
    return change.mask(change.abs() <= ROUNDING * both[[first, second]].abs().max(axis=1).clip(lower=1), 0.0)


def _wide(measured: pd.DataFrame, chain: Sequence[str]) -> pd.DataFrame:
    """One row per kind, measure, prompt, temperature and seed, one column per model of the chain."""
    known = measured["model"].unique()
    absent = [label for label in chain if label not in known]
    if len(set(chain)) < max(2, len(chain)) or absent:
        raise ValueError(
            f"chain is {list(chain)}: expected two or more different models of {', '.join(map(str, known))}"
        )
    index = ["kind", "measure", PROMPT, "temperature"]
    frame = measured[measured["model"].isin(chain)]
    if "seed" not in frame:
        return frame.pivot(index=index, columns="model", values="value").reset_index()
    seeds = frame.groupby("model")["seed"].unique()
    every = sorted({seed for found in seeds for seed in found})
    single = frame["model"].map(seeds.map(len)) == 1
    spread = frame[single].drop(columns="seed").merge(pd.DataFrame({"seed": every}), how="cross")
    frame = pd.concat([frame[~single], spread], ignore_index=True)
    return frame.pivot(index=[*index, "seed"], columns="model", values="value").reset_index()
