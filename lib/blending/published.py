"""Published records as predictions, and the published pipeline with its flaws, so that its numbers can be compared.

From approximating-finetuning (2023): each file is a list of records, one per target, with the 100 most probable tokens
of each model, keyed by the first GPT-2 id of a token's string.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lib.blending.predictions import LOWEST, Aligned, Predictions, tail_of
from lib.blending.top_k import listed
from lib.paths import DATA
from lib.sources.unpickle import read_pickle

FILE = re.compile(r"raw_api_results_(\d+)ex_(\d+)tb\.pkl")
KEYS = {
    "base": "small_untuned_logprobs",
    "tuned": "small_tuned_logprobs",
    "big": "big_logprobs",
    "davinci_base": "davinci_base_logprobs",  # the second big model came with later runs
}
GPT2_VOCAB_TOKENS = 50_257
FLOOR_NATS = -30.0
CHUNK_ROWS = 50


def read_records(folder: Path) -> pd.DataFrame:
    """All records below a folder, by context length, each in file order; the pickles are not executed.

    Parameters
    ----------
    folder : holds ``raw_api_results_{n}ex_{k}tb.pkl``; of two files for one k the one with more examples is read

    Returns
    -------
    DataFrame, one row per record: ``context_tokens``, ``token`` (GPT-2 id of the target), and for each model of `KEYS`
        lists of ``<model>_ids`` and ``<model>_logprobs``

    Raises
    ------
    ValueError
        If there are no such files, one holds more than plain data, or a record has another shape; names both.
    """
    files = sorted((int(match[2]), int(match[1]), path) for path in folder.glob("*.pkl")
                   if (match := FILE.fullmatch(path.name)))  # fmt: skip
    if not files:
        raise ValueError(f"{folder} holds no raw_api_results_<n>ex_<k>tb.pkl: expected the published results")
    rows = []
    for length, path in {length: path for length, _, path in files}.items():
        records = read_pickle(path)
        if not isinstance(records, list) or len(records) < 2:
            raise ValueError(f"{path}: expected a list of at least two records, found {type(records).__name__}")
        rows += [{"context_tokens": length} | _row(each, f"{path}, record {k}") for k, each in enumerate(records)]
    return pd.DataFrame(rows)


def _row(record: Any, where: str) -> dict[str, Any]:
    expected = ["token", *list(KEYS.values())[:3]]
    if not isinstance(record, dict) or not set(expected) <= record.keys():
        has = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where}: expected a dict with {', '.join(expected)}, found {has or 'nothing'}")
    if not isinstance(record["token"], Integral):
        raise ValueError(f"{where}: token is {record['token']!r:.40}, expected an id")
    row: dict[str, Any] = {"token": int(record["token"])}
    for name, key in KEYS.items():
        if key not in record:
            continue
        lists = record[key]
        if not isinstance(lists, dict) or not lists or not all(isinstance(i, Integral) and int(i) >= 0 for i in lists):
            raise ValueError(f"{where}: {key} is {lists!r:.60}, expected a dict of token ids to log-probabilities")
        logprobs = np.array(list(lists.values()))
        if logprobs.ndim != 1 or logprobs.dtype.kind not in "fiu" or not np.isfinite(logprobs).all():
            raise ValueError(f"{where}: {key} holds a log-probability that is not a finite number")
        row |= {f"{name}_ids": [*map(int, lists)], f"{name}_logprobs": logprobs.astype(float)}
    return row


def as_predictions(records: pd.DataFrame, split: str) -> tuple[pd.DataFrame, dict[str, Predictions]]:
    """Records as targets and predictions: the first half of each length is validation, as published, the rest test.

    The records name no documents: runs of 50 neighbouring targets stand for them in intervals.
    """
    of_length = records.groupby("context_tokens")["token"]
    rows = records[(of_length.cumcount() < of_length.transform("size") // 2) == (split == "validation")]
    number = rows.groupby("context_tokens").cumcount()
    document = "rows " + (number // CHUNK_ROWS * CHUNK_ROWS).astype(str)
    targets = rows[["context_tokens", "token"]].assign(document=document, position=number, n_bytes=0)
    token, predictions = rows["token"].to_numpy(), {}
    for name in KEYS:
        if f"{name}_ids" in rows and rows[f"{name}_ids"].notna().all():
            ids = np.array([*zip_longest(*rows[f"{name}_ids"], fillvalue=-1)]).T
            logprobs = np.array([*zip_longest(*rows[f"{name}_logprobs"], fillvalue=LOWEST)]).T
            own = np.where(ids == token[:, None], logprobs, -np.inf).max(axis=1)
            own[np.isinf(own)] = np.nan
            predictions[name] = Predictions(token, own, logprobs, ids, tail_of(logprobs), GPT2_VOCAB_TOKENS)
    return targets.reset_index(drop=True), predictions


def published_aligned(big: Predictions, tuned: Predictions, base: Predictions) -> Aligned:
    """The lists of the small models at the ids of the big model's list, as published; target -1 where it lacks one.

    Flaws: ids that only a small model lists are dropped with their mass; what a small model lacks gets the lowest of
    its remaining log-probabilities, so that an id that both lack has a difference that is not 0.
    """

    def imputed(lists: Predictions) -> NDArray[np.float64]:
        own = listed(lists, np.asarray(big.ids))
        lowest = np.where(np.isnan(own), np.inf, own).min(axis=1, keepdims=True)
        return np.where(np.isnan(own), np.where(np.isinf(lowest), np.nan, lowest), own)

    is_target = np.asarray(big.ids) == big.target[:, None]
    column = np.where(is_target.any(axis=1), is_target.argmax(axis=1), -1)
    logprobs = np.asarray(big.logprobs, dtype=float)
    return Aligned(logprobs, imputed(tuned), imputed(base), column, column, np.zeros((len(column), 1)))


def published_logprobs(lists: Aligned, *, big: float, tuned: float, base: float) -> NDArray[np.float64]:
    """Log-probability of each target under the blend at three temperatures, as published.

    Flaws: normalised over the big model's list alone, unlike the models by themselves; -30 nats for a target that it
    lacks; exponentials without subtracting the highest, so that extreme temperatures give no number.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scores = np.exp(lists.big / big + (lists.tuned / tuned - lists.base / base))
        chosen = np.take_along_axis(scores, np.maximum(lists.target, 0)[:, None], axis=1)[:, 0]
        return np.where(lists.target >= 0, np.log(chosen / scores.sum(axis=1)), FLOOR_NATS)


def published_perplexity(logprobs: ArrayLike) -> float:
    """Mean of the perplexities of chunks of 50 targets, in the order given; a missing log-probability counts -30 nats.

    Flaws: depends on the order, lies above the perplexity of the whole, gives a short last chunk full weight, and
    rounds twice.

    >>> published_perplexity(np.log([0.5] * 50 + [0.1]))
    6.0
    """
    chunks = pd.Series(np.asarray(logprobs, dtype=float)).fillna(FLOOR_NATS)
    with np.errstate(over="ignore"):
        mean = float(np.exp(-chunks.groupby(np.arange(len(chunks)) // CHUNK_ROWS).mean()).mean())
    return round(round(mean, 2), 1) if np.isfinite(mean) else mean


def published_values() -> pd.DataFrame:
    """Published numbers, read off figures where the source says so; gaps that are closed are of task scores."""
    return pd.read_csv(DATA / "blending" / "published.csv", comment="#")
