"""Statistics of a stage, and differences between stages: means over fine-tunes, resampled with the documents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lib.next_token.statistics import statistic_values
from lib.next_token.totals import Totals
from lib.stats import Interval

Stage = Totals | Sequence[Totals]  # one model, or the fine-tunes of one stage, in the order of their seeds
METHOD, METHOD_OF_SEVERAL = "Poisson bootstrap over documents", "Poisson bootstrap over documents and fine-tunes"
FINETUNES = 1  # sets the draws of fine-tunes apart from those of documents
ROUNDING = 1e-12


def intervals(totals: Stage) -> dict[str, Interval]:
    """Every statistic by name, as in `METRICS`; of several fine-tunes the mean of theirs.

    Parameters
    ----------
    totals : of one model, or of fine-tunes that differ in their seed

    Returns
    -------
    dict of Interval
        `n` counts documents; bounds are NaN for one document or without resamples. ``kl`` is there with a base only.

    Raises
    ------
    ValueError
        If nothing was scored, or fine-tunes were not asked alike.

    Notes
    -----
    Percentile intervals of resamples in which each document counts Poisson(1) times, which for many documents is the
    multinomial bootstrap (Chamandy, Muralidharan, Najmi and Naidu 2012). All fine-tunes of a resample have the same
    documents, and are drawn with replacement themselves (pigeonhole bootstrap; Owen 2007). Resamples have
    fewer distinct documents, hence a narrower mean distribution: `entropy_of_mean` and `effective_vocabulary` can lie
    above their percentile bounds, which are reported as they are.
    """
    (members,) = alike([totals])
    resampled = _stage_values(members)
    return {name: interval_of(values, [members]) for name, values in resampled.items()}


def differences(first: Stage, second: Stage) -> dict[str, Interval]:
    """Second less first of every statistic that both have, paired: both are resampled by the same documents.

    Raises
    ------
    ValueError
        As `intervals`, and if the two were not asked alike: vocabulary, seed, resamples and number of documents.

    Notes
    -----
    Of as many fine-tunes the same ones are drawn (the k-th of the second was made from the k-th of the first, or shares
    its seed); a single base stands against every fine-tune. That the documents are the same ones is for the caller to
    know: `NextToken.source` is then the same. Models of different tokenizers have nothing to pair but bits per byte,
    and those `intervals` gives for each.
    """
    stages = alike([first, second])
    before, after = (_stage_values(members) for members in stages)
    return {name: interval_of(_less(after[name], before[name]), stages) for name in before if name in after}


def shares(chain: Sequence[Stage]) -> dict[str, list[Interval]]:
    """Share of the total change, from the first stage of a chain to the last, that each stage makes.

    Parameters
    ----------
    chain : two or more stages in order of training, the base first

    Returns
    -------
    dict of lists of Interval
        One list per statistic that all stages have, with an interval for each stage after the first. Shares add up to
        1; a stage that works against the total has one below 0. Bounds are NaN where the interval of the total holds 0:
        a share of a change that may be none is not known. A statistic whose total change is 0 is left out.

    Raises
    ------
    ValueError
        As `differences`, and if the chain is too short.
    """
    if len(chain) < 2:
        raise ValueError(f"a chain of {len(chain)}: expected two or more stages, the base first")
    stages = alike(chain)
    resampled = [_stage_values(members) for members in stages]
    found = {}
    for name in [name for name in resampled[0] if all(name in values for values in resampled)]:
        levels = np.array([values[name] for values in resampled])  # (stages, 1 + resamples)
        total = _less(levels[-1], levels[0])
        if not abs(total[0]) <= ROUNDING * max(1, np.abs(levels[:, 0]).max()):
            found[name] = [_share(_less(b, a), total, stages) for a, b in pairwise(levels)]
    return found


def _share(change: np.ndarray, total: np.ndarray, stages: Sequence[Sequence[Totals]]) -> Interval:
    with np.errstate(divide="ignore", invalid="ignore"):
        values = change / total
    value, n = float(values[0]), stages[0][0].count("documents")
    drawn = ~np.isnan(total[1:])  # a resample without documents has nothing
    if n > 1 and drawn.any():
        whole = interval_of(total, stages)
        if not (whole.low > 0 or whole.high < 0):
            return Interval(value, np.nan, np.nan, n, "the total may be none")
        if np.ptp(values[1:][drawn]) <= ROUNDING * max(1, np.abs(values[1:][drawn]).max()):
            return Interval(value, np.nan, np.nan, n, "no spread")
    return interval_of(values, stages)


def alike(stages: Sequence[Stage]) -> list[list[Totals]]:
    """The fine-tunes of each stage.

    Raises
    ------
    ValueError
        If a stage has none, or two totals differ in vocabulary, seed, resamples or number of documents.
    """
    found = [[stage] if isinstance(stage, Totals) else list(stage) for stage in stages]
    if not all(found):
        raise ValueError("a stage has no fine-tunes: expected the totals of at least one")
    first = _asked(found[0][0])
    for name, ours, theirs in (
        (k, first[k], v) for members in found for each in members for k, v in _asked(each).items()
    ):
        if ours != theirs:
            raise ValueError(
                f"totals differ in {name}, {ours} and {theirs}: expected the same vocabulary, seed, resamples and "
                "documents of all; score them alike"
            )
    return found


def _asked(totals: Totals) -> dict[str, int]:
    return {
        "vocab_tokens": totals.vocab_tokens,
        "seed": totals.seed,
        "n_resamples": totals.n_resamples,
        "documents": totals.count("documents"),
    }


def _stage_values(members: Sequence[Totals]) -> dict[str, np.ndarray]:
    each = [statistic_values(totals) for totals in members]
    names = [name for name in each[0] if all(name in values for values in each)]
    return {name: mean_of([values[name] for values in each], seed=members[0].seed) for name in names}


def mean_of(values: Sequence[np.ndarray], *, seed: int) -> np.ndarray:
    """Mean over fine-tunes, shape (1 + n_resamples, ...): of all for the whole, of drawn ones for each resample.

    Parameters
    ----------
    values : one array per fine-tune, shape (1 + n_resamples, ...)
    """
    resampled = np.array(values)  # (fine-tunes, 1 + resamples, ...)
    n, n_rows = resampled.shape[:2]
    drawn = np.random.default_rng([seed, n, FINETUNES]).integers(n, size=(n_rows, n))
    drawn[0] = np.arange(n)
    mean: np.ndarray = resampled[drawn, np.arange(n_rows)[:, None]].mean(axis=1)
    return mean


def _less(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # two infinite perplexities
        return values - other


def interval_of(values: np.ndarray, stages: Sequence[Sequence[Totals]]) -> Interval:
    """A number of the whole and its percentile interval over resamples, shape (1 + n_resamples,)."""
    value, n = float(values[0]), stages[0][0].count("documents")
    resamples = values[1:][np.isfinite(values[1:])]
    if n < 2 or not len(resamples):
        return Interval(value, np.nan, np.nan, n, "one document" if n < 2 else "no resamples")
    low, high = np.quantile(resamples, [0.025, 0.975])
    method = METHOD if all(len(members) == 1 for members in stages) else METHOD_OF_SEVERAL
    return Interval(value, float(low), float(high), n, method)
