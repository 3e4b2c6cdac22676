"""The published pipeline on top-k lists, flaws included, so that its numbers can be compared; each flaw is named.

From approximating-finetuning (2023). For anything else use `lib.blending`: whole distributions or a tail bucket, one
support for all models, mean log-likelihood. Every record is aligned once: that does not depend on the temperatures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lib.blending.support import TopKRows
from lib.blending.temperatures import Search, Temperatures, search_temperatures

Floats = NDArray[np.float64]

FLOOR_NATS = -30.0
CHUNK_ROWS = 50
MIN_CONTEXT_TOKENS = 25  # shorter contexts are not tuned on
MODELS = ("base", "tuned", "big")
BLOCK_ROWS = 512


@dataclass(frozen=True)
class Prepared:
    """Records aligned to the big model and imputed, n of them with up to k ids.

    `big`, `tuned`, `base`: log-probabilities, shape (n, k), nats; where a list is shorter, big is minus infinity.
    `target`: column of the true id, shape (n,), -1 where big's list lacks it. `listed`: each model's log-probability of
    the true id in its own list, before alignment, shape (n,), NaN where the list lacks it.
    """

    big: Floats
    tuned: Floats
    base: Floats
    target: NDArray[np.intp]
    listed: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, start: int, stop: int) -> Prepared:
        """Records from `start` up to `stop`."""
        big, tuned, base = (each[start:stop] for each in (self.big, self.tuned, self.base))
        listed = {name: found[start:stop] for name, found in self.listed.items()}
        return Prepared(big, tuned, base, self.target[start:stop], listed)

    def logprobs(self, temperatures: Temperatures) -> Floats:
        """Log-probability of each true id under the blend, shape (n,), nats; -30 where big's list lacks it.

        Flaws: the blend is normalised over big's list alone, which gives it the mass outside for free; the softmax does
        not subtract the maximum, so that extreme temperatures make NaN or minus infinity.
        """
        big, tuned, base = 1 / temperatures.big, 1 / temperatures.tuned, 1 / temperatures.base
        out = np.full(len(self), FLOOR_NATS)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for start in range(0, len(self), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                scores = self.tuned[rows] * tuned
                scores -= self.base[rows] * base
                scores += self.big[rows] * big  # (n_rows, k)
                np.exp(scores, out=scores)
                chosen = np.take_along_axis(scores, np.maximum(self.target[rows, None], 0), axis=1)[:, 0]
                found = np.log(chosen / scores.sum(axis=1))  # (n_rows,)
                out[rows] = np.where(self.target[rows] >= 0, found, FLOOR_NATS)
        return out

    def perplexity(self, temperatures: Temperatures, *, rounded: bool = True) -> float:
        """Published perplexity of the blend; NaN if any record's is."""
        return chunk_perplexity(self.logprobs(temperatures), rounded=rounded)

    def model_perplexity(self, model: str, *, rounded: bool = True) -> float:
        """Published perplexity of "base", "tuned" or "big" alone.

        Flaw: from its own list, normalised over the whole vocabulary, unlike the blend.
        """
        found = self.listed[model]
        return chunk_perplexity(np.where(np.isnan(found), FLOOR_NATS, found), rounded=rounded)


def prepare(big: TopKRows, tuned: TopKRows, base: TopKRows, targets: ArrayLike) -> Prepared:
    """Align small models' lists to big's and impute what they lack.

    Parameters
    ----------
    big, tuned, base : top-k lists of the same n records, padded with id -1
    targets : array of int, shape (n,)
        True ids.

    Raises
    ------
    ValueError
        If there are no records, their numbers differ, or big's list of one is empty.
    """
    truth = np.asarray(targets)
    sizes = {"big": len(big.ids), "tuned": len(tuned.ids), "base": len(base.ids), "targets": len(truth)}
    if len(set(sizes.values())) > 1 or not len(truth):
        raise ValueError(f"expected the same number of records, and at least one, got {sizes}")
    is_listed = big.ids >= 0
    if not is_listed.any(axis=1).all():
        raise ValueError(f"record {int((~is_listed.any(axis=1)).argmax())}: big's list is empty, nothing to align to")
    lists = {"base": base, "tuned": tuned, "big": big}
    small = {}
    for name in ("tuned", "base"):
        aligned = impute(np.where(is_listed, align(lists[name], big.ids), np.nan))
        small[name] = np.where(is_listed | np.isnan(aligned), aligned, 0.0)
    is_target = is_listed & (big.ids == truth[:, None])
    return Prepared(
        big=np.where(is_listed, big.logprobs, -np.inf).astype(float),
        **small,
        target=np.where(is_target.any(axis=1), is_target.argmax(axis=1), -1),
        listed={name: align(each, truth[:, None])[:, 0] for name, each in lists.items()},
    )


def align(lists: TopKRows, ids: NDArray[np.integer]) -> Floats:
    """Log-probabilities that lists give to the ids of each row, shape (n, m); NaN where a list lacks one.

    Flaw: a list's own ids that are not asked for are dropped, and their mass with them.
    """
    stride = 1 + max(int(lists.ids.max(initial=0)), int(ids.max(initial=0)))
    is_listed = lists.ids >= 0
    row = np.arange(len(ids))[:, None] * stride
    keys, values = (row + lists.ids)[is_listed], np.asarray(lists.logprobs)[is_listed]
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order].astype(float)
    if not len(keys):
        return np.full(ids.shape, np.nan)
    place = np.minimum(np.searchsorted(keys, row + ids), len(keys) - 1)  # (n, m)
    return np.where((keys[place] == row + ids) & (ids >= 0), values[place], np.nan)


def impute(aligned: Floats) -> Floats:
    """Rows with NaN filled by the row's minimum; a row of NaN stays so.

    Flaw: an id that both small models lack gets the difference of two minima as its shift, not zero.

    >>> impute(np.array([[-1.0, np.nan, -3.0]])).tolist()
    [[-1.0, -3.0, -3.0]]
    """
    lowest = np.where(np.isnan(aligned), np.inf, aligned).min(axis=1, keepdims=True)
    return np.where(np.isnan(aligned), np.where(np.isinf(lowest), np.nan, lowest), aligned)


def chunk_perplexity(logprobs: ArrayLike, *, rounded: bool = True) -> float:
    """Mean of the perplexities of chunks of 50 rows, in the order given.

    Flaws: depends on the order and on the chunk size, lies above the perplexity of the whole, gives a short last chunk
    full weight, and rounds twice (two decimals, then one).

    >>> chunk_perplexity(np.log([0.5] * 50 + [0.1]))
    6.0
    """
    nats = np.asarray(logprobs, dtype=float)
    if not len(nats):
        raise ValueError("no records to score: expected at least one")
    starts = np.arange(0, len(nats), CHUNK_ROWS)
    sizes = np.diff(np.append(starts, len(nats)))
    with np.errstate(over="ignore"):
        mean = float(np.exp(-np.add.reduceat(nats, starts) / sizes).mean())
    return round(round(mean, 2), 1) if rounded and np.isfinite(mean) else mean


def halves(records: Prepared) -> tuple[Prepared, Prepared]:
    """Validation and test: the first half in file order, and the rest.

    Flaw: neighbours in the text lie on both sides of the cut.
    """
    middle = int(len(records) * 0.5)
    return records.rows(0, middle), records.rows(middle, len(records))


def pool(parts: Sequence[Prepared]) -> Prepared:
    """Records of several context lengths one after the other, padded to the longest list."""
    if not parts:
        raise ValueError("no records to pool: expected at least one context length")
    width = max(part.big.shape[1] for part in parts)

    def joined(name: str, filling: float) -> Floats:
        tables = [getattr(part, name) for part in parts]
        padded = [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=filling) for t in tables]
        return np.concatenate(padded)

    return Prepared(
        joined("big", -np.inf),
        joined("tuned", 0.0),
        joined("base", 0.0),
        np.concatenate([part.target for part in parts]),
        {name: np.concatenate([part.listed[name] for part in parts]) for name in MODELS},
    )


def tuning_records(by_context: Mapping[int, Prepared]) -> Prepared:
    """Validation halves of all contexts of at least 25 tokens, pooled, the shortest first."""
    return pool([halves(by_context[k])[0] for k in sorted(by_context) if k >= MIN_CONTEXT_TOKENS])


def tune_published(records: Prepared, *, storage: Path, n_trials: int = 100, seed: int = 0) -> Search:
    """Search the temperatures whose published perplexity is lowest; `value` and ``trials`` hold perplexities.

    Parameters and errors as `lib.blending.tune_temperatures`. Flaw: the rounded perplexity is what is compared.
    """
    digest = hashlib.sha256(b"published perplexity")
    for table in (records.big, records.tuned, records.base, records.target):
        digest.update(repr(table.shape).encode())
        digest.update(np.ascontiguousarray(table).data)
    return search_temperatures(
        records.perplexity, key=digest.hexdigest(), storage=storage, n_trials=n_trials, seed=seed
    )


def smooth(values: ArrayLike) -> Floats:
    """Trailing mean of three, thrice, over values in order of context length.

    Flaw: values of shorter contexts leak into longer ones, with weights [1, 3, 6, 7, 6, 3, 1] / 27.

    >>> smooth([27.0, 0, 0, 0, 0, 0, 0]).round(1).tolist()[-1]
    1.0
    """
    series = pd.Series(np.asarray(values, dtype=float))
    for _ in range(3):
        series = series.rolling(3, min_periods=1).mean()
    return series.to_numpy()


def published_curve(by_context: Mapping[int, Prepared], temperatures: Temperatures) -> pd.DataFrame:
    """Smoothed perplexities of test halves: one row per context length, columns base, tuned, big and blended.

    The shortest context length is dropped, as published.
    """
    rows = {}
    for k in sorted(by_context)[1:]:
        _, test = halves(by_context[k])
        rows[k] = {name: test.model_perplexity(name) for name in MODELS} | {"blended": test.perplexity(temperatures)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*MODELS, "blended"])
    table.index.name = "context_tokens"
    return table.apply(lambda column: pd.Series(smooth(column), index=column.index))
