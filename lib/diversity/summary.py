"""The numbers of the diversity study: from totals and measured cells to summary.csv, differences and stage shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from lib import next_token
from lib.diversity.answers import correct_only
from lib.diversity.comparison import DIFFERENCE_COLUMNS, SHARE_COLUMNS, paired_differences, stage_shares
from lib.diversity.lengths import same_sizes
from lib.diversity.prompts import KINDS
from lib.diversity.registry import SHOWN, registry
from lib.next_token import Totals
from lib.stats import Interval, cluster_bootstrap
from lib.tables import Summary

SHOWN_AT_EACH = (*SHOWN, "accuracy")
NEXT_TOKEN, NUMBERS, CORRECT = "next-token", "numbers", "correct"
PROMPT, DOCUMENT = "prompt", "document"
MEASURE_METRICS = {name: measure.unit for name, measure in registry().items()}
NUMBER_METRICS = {
    "valid_mass": "rate",  # of all that could follow, what is an answer at all
    "top_share": "rate",  # of that, what the likeliest answer has: an even choice among n gives 1 / n
    "option_entropy": "nats",  # over answers; an even choice among n gives log n
}
METRICS = {**MEASURE_METRICS, **next_token.METRICS, **NUMBER_METRICS}
DIFFERENCES = ["family", *DIFFERENCE_COLUMNS]
SHARES = ["family", *SHARE_COLUMNS]
ChainTotals = Mapping[str, Sequence[Totals]]  # the fine-tunes of each stage, by label in order of training


def conditions(labels: Iterable[str]) -> list[str]:
    """Every condition that a chain of these stages can have.

    >>> conditions(["SFT"])[:3]
    ['next-token/SFT', 'numbers/SFT', 'creative/SFT']
    """
    found = []
    for label in dict.fromkeys(labels):
        found += [f"{kind}/{label}" for kind in (NEXT_TOKEN, NUMBERS, *KINDS)]
        found.append(f"factual/{label}/{CORRECT}")
    return found


def summarise_next_token(totals: Mapping[str, ChainTotals], *, preset: str) -> pd.DataFrame:
    """Statistics of next-token distributions, a row each in the columns of summary.csv; by family and stage."""
    labels = [label for chain in totals.values() for label in chain]
    summary = Summary(study="diversity", preset=preset, conditions=conditions(labels), metrics=METRICS)
    for family, chain in totals.items():
        for label, of_stage in chain.items():
            for metric, found in next_token.intervals(of_stage).items():
                summary.add(found, model=family, condition=f"{NEXT_TOKEN}/{label}", metric=metric, n_of=DOCUMENT)
    return summary.frame()


def summarise_completions(
    measured: pd.DataFrame, among_correct: pd.DataFrame, options: pd.DataFrame, *, preset: str, rng: np.random.Generator
) -> pd.DataFrame:
    """Every measure of every stage and kind over all temperatures, and some at each temperature.

    Parameters
    ----------
    measured : of `lib.diversity.measure`, with ``family`` and ``seed``
    among_correct : the same among right answers only (`measure_correct`), empty where there are none
    options : of `lib.diversity.sampling.option_probs`

    Returns
    -------
    DataFrame
        In the columns of summary.csv; a cell without a value is left out, and ``n`` counts the prompts that are left.
    """
    labels = [*measured["model"].unique(), *options["model"].unique()]
    summary = Summary(study="diversity", preset=preset, conditions=conditions(labels), metrics=METRICS)
    for suffix, table in (("", measured), (f"/{CORRECT}", among_correct)):
        told = table.dropna(subset="value") if len(table) else table
        for (family, label, kind, metric), rows in told.groupby(["family", "model", "kind", "measure"], sort=False):
            named = {"model": family, "condition": f"{kind}/{label}{suffix}", "metric": metric, "n_of": PROMPT}
            summary.add(over_prompts(rows, rng, is_rate=metric == "accuracy"), **named)
            if metric in SHOWN_AT_EACH:
                for temperature, at in rows.groupby("temperature"):
                    found = over_prompts(at, rng, is_rate=metric == "accuracy")
                    summary.add(found, **named, x=float(temperature), x_name="temperature")
    for (family, label), rows in options.dropna(subset="prob").groupby(["family", "model"], sort=False):
        for metric, values in option_measures(rows).items():
            if not (values := values.dropna()).empty:
                found = over_prompts(values, rng)
                summary.add(found, model=family, condition=f"{NUMBERS}/{label}", metric=metric, n_of=PROMPT)
    return summary.frame()


def over_prompts(rows: pd.DataFrame, rng: np.random.Generator, *, is_rate: bool = False) -> Interval:
    """Mean of ``value`` with its interval over prompts, and over fine-tunes where each was asked every prompt.

    Parameters
    ----------
    is_rate : whether values are shares of successes, which have an interval also where all prompts agree
    """
    asked = rows.groupby(["seed", PROMPT]).ngroups
    crossed = rows["seed"].nunique() > 1 and asked == rows["seed"].nunique() * rows[PROMPT].nunique()
    return cluster_bootstrap(
        rows["value"], rows[PROMPT], rng=rng, seeds=rows["seed"] if crossed else None, rate=is_rate
    )


def option_measures(options: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`NUMBER_METRICS` of each fine-tune and prompt, from the probabilities of its options: ``seed, prompt, value``."""
    cells = options.groupby(["seed", PROMPT], sort=False)["prob"]
    mass = cells.sum()
    shares = options["prob"] / cells.transform("sum")
    terms = -(shares * np.log(shares.where(shares > 0, 1.0)))
    keys = [options["seed"], options[PROMPT]]
    found = {
        "valid_mass": mass.clip(upper=1.0),
        "top_share": shares.groupby(keys, sort=False).max(),
        "option_entropy": terms.groupby(keys, sort=False).sum(min_count=1),
    }
    return {name: values.rename("value").reset_index() for name, values in found.items()}


def equal_correct(completions: pd.DataFrame) -> pd.DataFrame:
    """Right answers alone, as many of each stage as the stage that has fewest: narrowing apart from fewer wrong ones.

    A base, which has one seed, stands beside every seed of the stages; each set of stages is cut to one size by itself.
    """
    right = correct_only(completions)
    if right.empty:
        return right
    tables = []
    for family, own in completions.groupby("family", sort=False):
        n_seeds, of_family = own.groupby("model")["seed"].nunique(), right[right["family"] == family]
        of_bases = of_family["model"].map(n_seeds) == 1
        spread = [of_family[of_bases].assign(seed=seed) for seed in sorted(own["seed"].unique())]
        rows = pd.concat([*spread, of_family[~of_bases]], ignore_index=True)
        if len(rows):
            tables.append(same_sizes(rows, by=["seed", "kind", PROMPT, "temperature"]))
    return pd.concat(tables, ignore_index=True)


def compare_statistics(totals: Mapping[str, ChainTotals]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How each stage's next-token statistics differ from those before, and its share of the whole change.

    Returns
    -------
    tuple of DataFrame
        In the columns of `compare_measures`, kind ``next-token``; intervals are over documents, and there is no test.
    """
    differences: list[dict[str, object]] = []
    shares: list[dict[str, object]] = []
    for family, chain in totals.items():
        if len(chain) < 2:
            continue
        labels = list(chain)
        steps = list(zip(labels, labels[1:], strict=False))
        whole = next_token.differences(chain[labels[0]], chain[labels[-1]])
        named = {"family": family, "kind": NEXT_TOKEN}
        for first, second in steps if len(labels) == 2 else [*steps, (labels[0], labels[-1])]:
            for metric, found in next_token.differences(chain[first], chain[second]).items():
                differences.append(named | {"measure": metric, "first": first, "second": second} | _numbers(found))
        for metric, of_stages in next_token.shares([chain[label] for label in labels]).items():
            for (before, after), found in zip(steps, of_stages, strict=True):
                about = {"measure": metric, "stage": f"{before} -> {after}", "total": whole[metric].value}
                shares.append(named | about | _numbers(found))
    return pd.DataFrame(differences, columns=DIFFERENCES), pd.DataFrame(shares, columns=SHARES)


def _numbers(found: Interval) -> dict[str, object]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "n_of": DOCUMENT}


def compare_measures(measured: pd.DataFrame, *, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How each stage's texts differ from those before, and its share of the whole change.

    Parameters
    ----------
    measured : of `lib.diversity.measure`, with ``family`` and ``seed``; stages stand in order of training

    Returns
    -------
    tuple of DataFrame
        Of `paired_differences` and of `stage_shares`, with ``family``; empty for chains of one model.
    """
    differences, shares = [], []
    for family, own in measured.groupby("family", sort=False):
        chain = list(own["model"].unique())
        if len(chain) > 1:
            differences.append(paired_differences(own, chain=chain, rng=rng).assign(family=family))
            shares.append(stage_shares(own, chain=chain, rng=rng).assign(family=family))
    if not differences:
        return pd.DataFrame(columns=DIFFERENCES), pd.DataFrame(columns=SHARES)
    return pd.concat(differences, ignore_index=True)[DIFFERENCES], pd.concat(shares, ignore_index=True)[SHARES]
