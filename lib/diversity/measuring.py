"""All measures of the texts of every cell (model, kind, prompt, temperature); failures are counted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.diversity import answers, compression, overlap, similarity
from lib.diversity.cell import Cell, UndefinedMeasure
from lib.diversity.registry import ORDERS, Measure, registry
from lib.diversity.repetition import self_repetition

KEY = ("model", "kind", "prompt", "temperature")
COLUMNS = ("measure", "value", "n_texts", "n_distinct", "n_short", "failure")

Embed = Callable[[Sequence[str]], NDArray[Any]]
Function = Callable[[Cell, int], float]


def _functions() -> dict[str, Function]:
    """What each measure of the registry computes, of a cell and the seed of its draws."""

    def plain(function: Callable[[Cell], float]) -> Function:
        return lambda cell, seed: function(cell)

    def jaccard(n: int, cell: Cell, seed: int) -> float:
        return cell.mean_over_pairs(cell.jaccard(n))

    def order(kernel: str, q: int, cell: Cell, seed: int) -> float:
        return similarity.order_q(similarity.similarity(cell, kernel), q, n_times=cell.n_times)

    def drawn(kernel: str, q: int, cell: Cell, seed: int) -> float:
        places = cell.places
        return similarity.order_q_drawn(similarity.similarity(cell, kernel)[places[:, None], places], q, seed=seed)

    def vendi(kernel: str, cell: Cell, seed: int) -> float:
        return similarity.vendi(similarity.similarity(cell, kernel), n_times=cell.n_times)

    found: dict[str, Function] = {
        "self_bleu": plain(overlap.self_bleu),
        "ncd": plain(compression.compression_distance),
        "compression_ratio_full": plain(compression.compression_ratio_full),
        "compression_ratio_target": plain(compression.compression_ratio_target),
        "cosine": lambda cell, seed: cell.mean_over_pairs(cell.cosine),
        "ead": plain(overlap.expectation_adjusted_distinct),
        "edit_distance": plain(overlap.mean_edit_distance),
        "distinct_texts": lambda cell, seed: len(cell.distinct) / len(cell.texts),
        "answer_entropy": plain(answers.answer_entropy),
        "accuracy": plain(answers.accuracy),
    }
    found |= {f"jaccard_{n}": partial(jaccard, n) for n in (2, 3, 4)}
    found |= {f"distinct_{n}": plain(partial(overlap.distinct_n, n=n)) for n in (1, 2, 3)}
    for kernel in ("jaccard_2", "cosine"):
        found[f"vendi_{kernel}"] = partial(vendi, kernel)
        found |= {f"order_{q}_{kernel}": partial(order, kernel, q) for q in ORDERS}
        found |= {f"order_{q}_{kernel}_drawn": partial(drawn, kernel, q) for q in ORDERS}
    return found


FUNCTIONS = _functions()


def measure(
    completions: pd.DataFrame,
    *,
    measures: Sequence[str] | None = None,
    embed: Embed | None = None,
    by: Sequence[str] = KEY,
    seed: int = 0,
    n_vocabulary: int = 0,
) -> pd.DataFrame:
    """Take every measure of every cell.

    Parameters
    ----------
    completions : DataFrame
        One row per sampled text: the columns of `by`, ``text``, and ``accepted``, a list of answers or missing. What a
        row is travels in its columns; no measure sees a label by its position.
    measures : names, default all that the rows have what they need for
    embed : function of n distinct texts to an array of shape (n, width), called once; None leaves out what needs it
    by : columns that name a cell, ``seed`` too where there are several fine-tunes; the first must be ``model``
    seed : of the draws of the 50-draw forms
    n_vocabulary : words that `ead` expects from, default those in all rows; give one number to compare tables

    Returns
    -------
    DataFrame
        One row per cell and measure: `by`, ``measure``, ``value`` (NaN where there is none), ``n_texts``,
        ``n_distinct``, ``n_short`` (texts below the measure's least length, which are counted in all the same) and
        ``failure`` (why there is no value, else empty). Measures of answers have rows only where a prompt has accepted
        answers.

    Raises
    ------
    ValueError
        If there are no rows, a column or text is missing, a measure is unknown or what it needs is not there.

    >>> rows = pd.DataFrame({"model": "m", "kind": "creative", "prompt": "p", "temperature": 1.0,
    ...                      "text": ["a grey heron", "a grey mouse"]})
    >>> measure(rows, measures=["jaccard_2", "distinct_texts"])["value"].round(3).tolist()
    [0.333, 1.0]
    """
    by = list(by)
    _check(completions, by)
    chosen = _chosen(measures, completions, can_embed=embed is not None)
    vectors = _vectors(completions["text"], embed) if any(each.needs == "embeddings" for each in chosen) else {}
    if not n_vocabulary and any(each.name == "ead" for each in chosen):
        n_vocabulary = len({word for text in completions["text"].unique() for word in text.lower().split()})
    repeated = _repetition(completions, by) if any(each.needs == "corpus" for each in chosen) else {}
    rows: list[dict[str, Any]] = []
    for key, part in completions.groupby(by, sort=False, dropna=False):
        texts = tuple(part["text"])
        cell = Cell(
            texts,
            vectors=np.stack([vectors[text] for text in dict.fromkeys(texts)]) if vectors else None,
            accepted=_accepted(part, key),
            n_vocabulary=n_vocabulary,
        )
        named = dict(zip(by, key, strict=True))
        rows += [named | told for told in _told(cell, chosen, seed, repeated.get(key, np.nan))]
    return pd.DataFrame(rows, columns=[*by, *COLUMNS])


def _told(cell: Cell, chosen: Sequence[Measure], seed: int, repeated: float) -> Iterator[dict[str, Any]]:
    n_words = cell.ngrams.n_words
    sizes = {"n_texts": len(cell.texts), "n_distinct": len(cell.distinct)}
    for each in chosen:
        if each.needs == "answers" and not cell.accepted:
            continue
        value, failure = np.nan, ""
        if len(cell.texts) < each.min_texts:
            failure = f"fewer than {each.min_texts} texts"
        elif each.needs == "corpus":
            value, failure = repeated, "no text of 4 words, or no other prompt" if np.isnan(repeated) else ""
        else:
            try:
                value = FUNCTIONS[each.name](cell, seed)
            except UndefinedMeasure as error:
                failure = str(error)
        n_short = int(cell.n_times[n_words < each.min_words].sum())
        yield {"measure": each.name, "value": value, **sizes, "n_short": n_short, "failure": failure}


def _check(completions: pd.DataFrame, by: Sequence[str]) -> None:
    missing = [name for name in (*by, "text") if name not in completions]
    if missing or not len(completions):
        raise ValueError(
            f"no {'rows' if not missing else 'column ' + ', '.join(missing)} in the completions: expected one row per "
            f"text with {', '.join((*by, 'text'))}"
        )
    wrong = [value for value in completions["text"] if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(completions)} texts are no text (the first is {wrong[0]!r}): drop them")


def _chosen(names: Sequence[str] | None, completions: pd.DataFrame, *, can_embed: bool) -> list[Measure]:
    known = registry()
    has = {"": True, "corpus": True, "embeddings": can_embed, "answers": "accepted" in completions}
    if names is None:
        return [each for each in known.values() if has[each.needs]]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"{name!r} is no measure: did you mean {near[0]!r}?")
        if not has[known[name].needs]:
            want = {"embeddings": "embed=", "answers": "a column accepted"}[known[name].needs]
            raise ValueError(f"{name} needs {known[name].needs}: give {want}")
    return [known[name] for name in names]


def _vectors(texts: pd.Series, embed: Embed | None) -> dict[str, NDArray[Any]]:
    distinct = list(texts.unique())
    found = np.asarray(embed(distinct)) if embed is not None else np.empty((0, 0))
    if found.ndim != 2 or len(found) != len(distinct):
        raise ValueError(f"embed gave shape {found.shape} for {len(distinct)} texts: expected one row per text")
    return dict(zip(distinct, found, strict=True))


def _accepted(part: pd.DataFrame, key: object) -> tuple[str, ...]:
    if "accepted" not in part:
        return ()
    found = set(map(answers.listed, part["accepted"]))
    if len(found) > 1:
        raise ValueError(f"the texts of {key} have {len(found)} different lists of accepted answers: expected one")
    return found.pop()


def _repetition(completions: pd.DataFrame, by: Sequence[str]) -> Mapping[Any, float]:
    """Self-repetition of each cell, among the cells that differ from it in the prompt only."""
    found: dict[Any, float] = {}
    others = [name for name in by if name != "prompt"]
    for _, part in completions.groupby(others, sort=False, dropna=False) if others else [((), completions)]:
        keys = list(zip(*(part[name] for name in by), strict=True))
        found |= self_repetition(list(part["text"]), keys)
    return found


def failures(measured: pd.DataFrame, *, by: Sequence[str] = ("model", "kind")) -> pd.DataFrame:
    """How many cells have no value: one row per measure, `by` and reason, with ``n_failed`` of ``n_cells``.

    >>> rows = pd.DataFrame({"model": "m", "kind": "k", "prompt": "p", "temperature": 1.0, "text": ["", "one"]})
    >>> failures(measure(rows, measures=["ncd", "compression_ratio_target"]))[["measure", "failure"]].values.tolist()
    [['compression_ratio_target', 'an empty text']]
    """
    groups = ["measure", *by]
    sizes = measured.groupby(groups, sort=False).size().rename("n_cells").reset_index()
    failed = measured[measured["failure"] != ""]
    counts = failed.groupby([*groups, "failure"], sort=False).size().rename("n_failed").reset_index()
    return counts.merge(sizes, on=groups)
