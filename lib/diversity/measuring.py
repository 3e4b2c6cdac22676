"""Measure the texts of every cell: cut them to one length, embed each distinct one once, apply all measures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from openai import OpenAI

from lib.diversity.measures import FUNCTIONS, Cell, UndefinedMeasure, ngrams, read_measures
from lib.summary import is_crossed, summarise

Embed = Callable[[Sequence[str]], NDArray[Any]]
BATCH_TEXTS = 256  # embedded by one request
N_REPEATED = 4  # words of an n-gram that is repeated across prompts


def cut_to_length(completions: pd.DataFrame, n: int) -> pd.DataFrame:
    """Cut each ``text`` to `n` tokens, or to `n` words where the endpoint did not report tokens; 0 leaves texts whole.

    Parameters
    ----------
    completions : with ``text`` and, where tokens are known, ``text_offset`` (characters at which each begins)

    Returns
    -------
    DataFrame
        The same rows; ``is_short`` says that a text had fewer, so that its length still differs.

    >>> cut_to_length(pd.DataFrame({"text": ["a  b c", "d"]}), 2)[["text", "is_short"]].values.tolist()
    [['a b', False], ['d', True]]
    """
    if n == 0:
        return completions.assign(is_short=False)
    texts, known = completions["text"], completions.get("text_offset", [None] * len(completions))
    offsets = [each if isinstance(each, list | tuple) else [] for each in known]
    rows = list(zip(texts, offsets, strict=True))
    if all(each or not text for text, each in rows):
        cut = [(text[: each[n] - each[0]] if len(each) > n else text, len(each) < n) for text, each in rows]
    else:
        cut = [(" ".join(words[:n]), len(words) < n) for words in (text.split() for text, _ in rows)]
    return completions.assign(text=[text for text, _ in cut], is_short=[is_short for _, is_short in cut])


def embedder(client: OpenAI, *, model: str, name: str = "") -> Embed:
    """What embeds texts: a sentence-transformers model by its name (``organisation/name``), else the endpoint.

    Parameters
    ----------
    model : id at the endpoint, where no other is named; of ours, the mean of the last hidden states over tokens
    name : of another model: one of the endpoint, or with a slash (and no ``hf:`` or ``ft:`` in front) of
        sentence-transformers, which must be installed (`ValueError`)
    """
    if "/" not in name or name.startswith(("hf:", "ft:")):
        return partial(_each_once, partial(_embed, client, name or model))
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        message = f"{name} needs a package (pip install sentence-transformers); or leave embedding_model empty"
        raise ValueError(message) from error
    return partial(_each_once, partial(library.SentenceTransformer(name).encode, show_progress_bar=False))


def _embed(client: OpenAI, model: str, texts: Sequence[str]) -> NDArray[Any]:
    found = client.embeddings.create(model=model, input=list(texts), encoding_format="float").data
    return np.array([each.embedding for each in sorted(found, key=lambda each: each.index)], dtype=np.float32)


def _each_once(encode: Embed, texts: Sequence[str]) -> NDArray[Any]:
    """Vectors of texts, shape (n, width); equal ones are sent once, empty ones never: they are zeros."""
    distinct = sorted({text for text in texts if text}, key=len)  # texts of one length share a batch
    if not distinct:
        raise ValueError(f"{len(texts)} texts, all of them empty: there is nothing to embed")
    batches = [distinct[start : start + BATCH_TEXTS] for start in range(0, len(distinct), BATCH_TEXTS)]
    vectors = np.concatenate([np.asarray(encode(batch)) for batch in batches])
    known = dict(zip(distinct, vectors, strict=True)) | {"": np.zeros(vectors.shape[1])}
    return np.stack([known[text] for text in texts])


def measure(
    completions: pd.DataFrame, *, by: Sequence[str], embed: Embed | None = None, names: Sequence[str] = ()
) -> pd.DataFrame:
    """Every measure of every cell.

    Parameters
    ----------
    completions : one row per text: the columns `by` that name a cell, ``prompt`` among them, ``text`` and, for factual
        prompts, ``accepted`` (a list of answers)
    embed : from n distinct texts to an array of shape (n, width), called once; None leaves out what needs it
    names : of measures; default all that the rows have what they need for

    Returns
    -------
    DataFrame
        One row per cell and measure: `by`, ``measure``, ``value`` (NaN where there is none), ``n_texts`` and
        ``failure`` (why there is no value, else empty). Measures of answers have rows where a prompt has some.

    >>> rows = pd.DataFrame({"prompt": "p", "text": ["a grey heron", "a grey mouse"]})
    >>> measure(rows, by=["prompt"], names=["jaccard_2", "distinct_texts"])["value"].round(3).tolist()
    [0.333, 1.0]
    """
    table = read_measures()
    if unknown := [name for name in names if name not in table.index]:
        raise ValueError(f"{unknown[0]!r} is no measure: expected some of {', '.join(table.index)}")
    has = {"": True, "corpus": True, "embeddings": embed is not None, "answers": "accepted" in completions}
    chosen = [name for name, needs in table["needs"].items() if (name in names if names else has[needs])]
    distinct_texts = list(completions["text"].unique())
    vectors: Mapping[str, Any] = dict(zip(distinct_texts, embed(distinct_texts), strict=True)) if embed else {}
    n_vocabulary = len({word for text in distinct_texts for word in text.lower().split()})
    repeated = self_repetition(completions, by) if "self_repetition_4" in chosen else {}
    rows = []
    for key, part in completions.groupby(list(by), sort=False):
        own = np.stack([vectors[text] for text in part["text"]]) if vectors else None
        cell = Cell(part["text"].tolist(), own, listed(part.get("accepted", [None])), n_vocabulary)
        about = dict(zip(by, key, strict=True)) | {"n_texts": len(part)}
        for name in chosen:
            value, failure = repeated.get(key, np.nan), ""
            if table.loc[name, "needs"] == "answers" and not cell.accepted:
                continue
            try:
                if len(part) < table.loc[name, "min_texts"]:
                    raise UndefinedMeasure(f"fewer than {table.loc[name, 'min_texts']} texts")
                value = FUNCTIONS[name](cell) if name in FUNCTIONS else value
            except UndefinedMeasure as error:
                value, failure = np.nan, str(error)
            reason = failure or ("no text of 4 words, or no other prompt" if np.isnan(value) else "")
            rows.append(about | {"measure": name, "value": value, "failure": reason})
    return pd.DataFrame(rows, columns=[*by, "n_texts", "measure", "value", "failure"])


def listed(accepted: Any) -> tuple[str, ...]:
    """The accepted answers of a cell from its column, in which they are a list each, or missing."""
    first = next(iter(accepted))
    return () if first is None or isinstance(first, float) else tuple(map(str, first))


def self_repetition(completions: pd.DataFrame, by: Sequence[str]) -> dict[Any, float]:
    """By cell, the share of a text's word 4-grams that a text to another prompt has too (after Salkar et al. 2022).

    Cells are compared that differ in the prompt only; NaN where no text has 4 words, or there is no other prompt.
    """
    found: dict[Any, float] = {}
    others = [name for name in by if name != "prompt"]
    for _, part in completions.groupby(others, sort=False) if others else [((), completions)]:
        sets = [set(ngrams(text.lower(), N_REPEATED)) for text in part["text"]]
        cells = list(part[list(by)].itertuples(index=False, name=None))
        owners: dict[tuple[str, ...], set[Any]] = {}
        for cell, grams in zip(cells, sets, strict=True):
            for gram in grams:
                owners.setdefault(gram, set()).add(cell)
        shares: dict[Any, list[float]] = {cell: [] for cell in cells}
        for cell, grams in zip(cells, sets, strict=True):
            if grams and len(shares) > 1:
                shares[cell].append(sum(len(owners[gram]) > 1 for gram in grams) / len(grams))
        found |= {cell: float(np.mean(each)) if each else np.nan for cell, each in shares.items()}
    return found


def share_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a stage with one seed (a base) beside every seed of its family, so that stages can be paired."""
    n_seeds = rows.groupby(["family", "stage"])["seed"].transform("nunique")
    seeds = rows[["family", "seed"]].drop_duplicates()
    alone = rows[n_seeds == 1].drop(columns="seed").merge(seeds, on="family")
    return pd.concat([alone, rows[n_seeds > 1]], ignore_index=True)[list(rows)]


def over_prompts(rows: pd.DataFrame, by: Sequence[str], *, value: str = "value", unit: str = "") -> pd.DataFrame:
    """`lib.summary.summarise` over prompts; groups in which each fine-tune has every prompt come first."""
    groups = [part for _, part in rows.dropna(subset=[value]).groupby(list(by), sort=False, dropna=False)]
    groups.sort(key=lambda part: not is_crossed(part, "seed", "prompt"))
    return summarise(pd.concat(groups or [rows]), by=by, value=value, cluster="prompt", unit=unit or "unit")
