"""Measures of the diversity of a set of texts; `data/diversity/measures.csv` says what each is and where it is from."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from math import log
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.paths import DATA

Floats = NDArray[np.float64]
RIGHT = "\0accepted"  # the one answer that all accepted wordings are; no text contains a zero character
SMOOTHING = 0.1  # NLTK's method1: what a count of zero becomes in self-BLEU


class UndefinedMeasure(ValueError):
    """A set of texts has no value of a measure, for this reason."""


@cache
def read_measures() -> pd.DataFrame:
    """All measures by name, in the order of ``data/diversity/measures.csv``.

    >>> (read_measures()["published"] != "").sum()
    np.int64(20)
    """
    table = pd.read_csv(DATA / "diversity" / "measures.csv", keep_default_na=False)
    return table.set_index("name")


def direction(measure: str) -> int:
    """1 if a larger value is more diverse, -1 if a smaller one is, 0 if the measure does not say."""
    return {"up": 1, "down": -1}.get(read_measures().loc[measure, "direction"], 0)


def jaccard(texts: Sequence[str], n: int) -> Floats:
    """Jaccard index of the lower-cased word n-grams of each two texts; a text of fewer words is one n-gram.

    >>> jaccard(["the old fox", "the old hen"], 2)[0, 1].round(2)
    np.float64(0.33)
    """
    sets = [set(ngrams(text.lower(), n)) or {tuple(text.lower().split())} for text in texts]
    return np.array([[len(one & other) / len(one | other) for other in sets] for one in sets])


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Word n-grams; white space separates words."""
    words = text.split()
    return list(zip(*(words[k:] for k in range(n)), strict=False))


def mean_over_pairs(matrix: Floats) -> float:
    """Mean of a matrix of n texts over ordered pairs of two of them."""
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))


def vendi(similarities: Floats) -> float:
    """Vendi score, 1 (all alike) to n: exponential of the entropy of the eigenvalues of K / n (Friedman, Dieng 2023).

    >>> round(vendi(np.eye(4)), 9), round(vendi(np.ones((4, 4))), 9)
    (4.0, 1.0)
    """
    values = np.linalg.eigvalsh(similarities / len(similarities))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def order_q(similarities: Floats, q: int) -> float:
    """Similarity-sensitive diversity of order q, from the whole matrix (Leinster 2021, example 6.1.7).

    The published code estimates it from 50 random draws of q texts.

    >>> order_q(np.eye(4), 2), order_q(np.ones((4, 4)), 3)
    (4.0, 1.0)
    """
    mean = float((similarities.mean(axis=1) ** (q - 1)).mean())
    if not mean > 0:
        raise UndefinedMeasure("the mean similarity is not above 0")
    return mean ** (1 / (1 - q))


@dataclass
class Cell:
    """The texts that answer one prompt under one model and temperature.

    Attributes
    ----------
    texts : n texts, at least 2
    vectors : array, shape (n, width), their embeddings, or None
    accepted : accepted answers, empty if the prompt has none
    n_vocabulary : different words in all that is compared
    """

    texts: Sequence[str]
    vectors: NDArray[Any] | None = None
    accepted: Sequence[str] = ()
    n_vocabulary: int = 0

    @cached_property
    def jaccard_2(self) -> Floats:
        """Similarities from word pairs, shape (n, n)."""
        return jaccard(self.texts, 2)

    @cached_property
    def cosine(self) -> Floats:
        """Cosines of embeddings, shape (n, n)."""
        if self.vectors is None:
            raise UndefinedMeasure("no embeddings")
        vectors = self.vectors.astype(float)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise UndefinedMeasure("a text without an embedding")
        return np.clip(vectors / lengths @ (vectors / lengths).T, -1, 1)


def self_bleu(cell: Cell) -> float:
    """Mean BLEU-4 of each text against all others, as `nltk.translate.bleu_score` with smoothing ``method1``.

    >>> round(self_bleu(Cell(["the fox sees the moon"] * 3)), 9)
    1.0
    """
    lengths = np.array([len(text.split()) for text in cell.texts])
    logs, matches = [], []
    for n in range(1, 5):
        found = [Counter(ngrams(text, n)) for text in cell.texts]
        index = {gram: k for k, gram in enumerate(set().union(*found))}
        counts = np.zeros((len(found), len(index)))
        for row, grams in enumerate(found):
            counts[row, [index[gram] for gram in grams]] = list(grams.values())
        second, first = np.sort(counts, axis=0)[-2:]
        matched = np.minimum(counts, np.where(counts == first, second, first)).sum(axis=1)
        matches.append(matched)
        logs.append(np.log(np.where(matched == 0, SMOOTHING, matched) / np.maximum(1, lengths - n + 1)))
    gaps = np.abs(lengths[:, None] - lengths) + lengths / (1 + lengths.max())  # of two as close, the shorter one
    np.fill_diagonal(gaps, np.inf)
    brevity = np.minimum(0, 1 - lengths[gaps.argmin(axis=1)] / np.maximum(lengths, 1))
    return float(np.where(matches[0] == 0, 0, np.exp(np.mean(logs, axis=0) + brevity)).mean())


@lru_cache(maxsize=65_536)
def gzip_length(text: str) -> int:
    """Bytes of ``gzip.compress(text.encode())``; a small window finds the same in a short text, many times faster."""
    data = text.encode()
    window = min(15, max(10, (len(data) + 262).bit_length()))
    packer = zlib.compressobj(9, zlib.DEFLATED, -window, min(8, max(2, (len(data) + 1).bit_length() - 6)))
    return len(packer.compress(data)) + len(packer.flush()) + 18  # header and checksum


def compression_distance(cell: Cell) -> float:
    """Mean normalised compression distance over ordered pairs (Cilibrasi and Vitanyi 2005)."""
    alone = np.array([gzip_length(text) for text in cell.texts])
    joint = np.array([[gzip_length(f"{one} {other}") for other in cell.texts] for one in cell.texts])
    return mean_over_pairs((joint - np.minimum.outer(alone, alone)) / np.maximum.outer(alone, alone))


def compression_ratio(cell: Cell, *, of_rest: bool) -> float:
    """Mean over texts of a ratio of gzip to raw bytes less that of all texts with this one at the end.

    The first ratio is that of all other texts, or of the text alone. As published; the order of the texts matters.
    """

    def ratio(texts: Sequence[str]) -> float:
        joined = " ".join(texts)
        if not joined:
            raise UndefinedMeasure("an empty text")
        return gzip_length(joined) / len(joined.encode())

    rests = [([*cell.texts[:k], *cell.texts[k + 1 :]], [text]) for k, text in enumerate(cell.texts)]
    return float(np.mean([ratio(rest if of_rest else own) - ratio(rest + own) for rest, own in rests]))


def distinct(cell: Cell, n: int) -> float:
    """Different word n-grams over all of them (Li et al. 2016); lower case."""
    grams = [gram for text in cell.texts for gram in ngrams(text.lower(), n)]
    if not grams:
        raise UndefinedMeasure(f"no text of {n} words")
    return len(set(grams)) / len(grams)


def expectation_adjusted_distinct(cell: Cell) -> float:
    """Different words over those expected of as many draws from a uniform vocabulary (Liu et al. 2022)."""
    words = " ".join(cell.texts).lower().split()
    if not words:
        raise UndefinedMeasure("no words")
    vocabulary = cell.n_vocabulary or len(set(words))
    return len(set(words)) / (vocabulary * (1 - (1 - 1 / vocabulary) ** len(words)))


def contains_answer(text: str, accepted: Sequence[str]) -> bool:
    """Whether a text contains an accepted answer, in any case, not inside another word.

    >>> contains_answer("It is PARIS, I think.", ["Paris"]), contains_answer("It is 1976", ["7"])
    (True, False)
    """
    return bool(accepted) and _pattern(tuple(accepted)).search(_folded(text)) is not None


@cache
def _pattern(accepted: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<!\w){re.escape(_folded(answer))}(?!\w)" for answer in accepted))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip().casefold())


def accuracy(cell: Cell) -> float:
    """Share of texts that contain an accepted answer."""
    return float(np.mean([contains_answer(text, cell.accepted) for text in cell.texts]))


def answer_entropy(cell: Cell) -> float:
    """Shannon entropy (nats) of the answers: one for all accepted wordings, else a text's first clause.

    >>> answer_entropy(Cell(("Paris", "It is Paris."), accepted=("Paris",)))
    0.0
    """
    clauses = [re.split(r"[.,;:!?\n]", _folded(text), maxsplit=1)[0].strip() for text in cell.texts]
    right = [contains_answer(text, cell.accepted) for text in cell.texts]
    counts = Counter(RIGHT if ok else clause for ok, clause in zip(right, clauses, strict=True)).values()
    return sum(count / len(right) * log(len(right) / count) for count in counts)


def _of_kernel(cell: Cell, *, kernel: str, function: Callable[..., float], **settings: int) -> float:
    return function(getattr(cell, kernel), **settings)


FUNCTIONS: dict[str, Callable[[Cell], float]] = {
    "self_bleu": self_bleu,
    "ncd": compression_distance,
    "compression_ratio_full": partial(compression_ratio, of_rest=True),
    "compression_ratio_target": partial(compression_ratio, of_rest=False),
    "ead": expectation_adjusted_distinct,
    "distinct_texts": lambda cell: len(set(cell.texts)) / len(cell.texts),
    "jaccard_3": lambda cell: mean_over_pairs(jaccard(cell.texts, 3)),
    "jaccard_4": lambda cell: mean_over_pairs(jaccard(cell.texts, 4)),
    "answer_entropy": answer_entropy,
    "accuracy": accuracy,
}
FUNCTIONS |= {f"distinct_{n}": partial(distinct, n=n) for n in (1, 2, 3)}
for _name in ("jaccard_2", "cosine"):
    _measured = partial(_of_kernel, kernel=_name)
    FUNCTIONS |= {
        _name: partial(_measured, function=mean_over_pairs),
        f"vendi_{_name}": partial(_measured, function=vendi),
    }
    FUNCTIONS |= {f"order_{q}_{_name}": partial(_measured, function=order_q, q=q) for q in range(2, 7)}
