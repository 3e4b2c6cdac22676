"""Word overlap of texts: self-BLEU, distinct-n, expectation-adjusted distinct, edit distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.diversity.cell import Cell, Floats, UndefinedMeasure

BLEU_ORDERS = 4
SMOOTHING = 0.1  # NLTK's method1: what a count of zero becomes


def self_bleu(cell: Cell) -> float:
    """Mean BLEU-4 of each text against all others as references.

    Notes
    -----
    Uniform weights, white space parts words, upper and lower case differ; the brevity penalty takes the reference whose
    length is closest, the shorter of two. As `nltk.translate.bleu_score.sentence_bleu` with smoothing ``method1``.
    Identical texts of fewer than four words do not reach 1.

    >>> round(self_bleu(Cell(("the fox sees the moon",) * 3)), 9)
    1.0
    """
    if len(cell.texts) < 2:
        raise UndefinedMeasure("fewer than 2 texts")
    n_words, again = cell.cased_ngrams.n_words, cell.n_times > 1
    found = []
    for n in range(1, BLEU_ORDERS + 1):
        counts = cell.cased_ngrams.counts(n)  # (m, n_ngrams)
        matched = np.where(again, counts.sum(axis=1), np.minimum(counts, _most_of_others(counts)).sum(axis=1))
        found.append(matched)
    matched = np.stack(found)  # (order, m)
    possible = np.maximum(1, n_words - np.arange(BLEU_ORDERS)[:, None])
    precision = np.where(matched == 0, SMOOTHING, matched) / possible
    scores = np.exp(np.log(precision).mean(axis=0) + _brevity(n_words, again))
    return float(cell.n_times @ np.where(matched[0] == 0, 0.0, scores) / len(cell.texts))


def _most_of_others(counts: Floats) -> Floats:
    """For each text and n-gram, the greatest count among the other texts."""
    if len(counts) < 2 or not counts.shape[1]:
        return np.zeros_like(counts)
    second, first = np.partition(counts, -2, axis=0)[-2:]
    return np.where(counts == first, second, first)


def _brevity(n_words: NDArray[np.intp], again: NDArray[np.bool_]) -> Floats:
    """Logarithm of the brevity penalty of each text; 0 where a text is not shorter than the closest other."""
    ranked = np.abs(n_words[:, None] - n_words).astype(float) + n_words / (1 + n_words.max())  # ties: the shorter one
    np.fill_diagonal(ranked, np.where(again, -1, np.inf))  # a text that was drawn again is its own closest
    closest = n_words[ranked.argmin(axis=1)]
    return np.minimum(0.0, 1 - closest / np.maximum(n_words, 1))


def distinct_n(cell: Cell, n: int) -> float:
    """Different word n-grams over all of them (Li et al. 2016); lower case.

    >>> distinct_n(Cell(("the fox", "the moon")), 1)
    0.75
    """
    counts = cell.ngrams.counts(n)
    if not counts.size:
        raise UndefinedMeasure(f"no text of {n} words")
    return counts.shape[1] / float(cell.n_times @ counts.sum(axis=1))


def expectation_adjusted_distinct(cell: Cell) -> float:
    """Different words over those that as many draws from a uniform vocabulary would give (Liu et al. 2022).

    The vocabulary is `cell.n_vocabulary` words; compare only values with the same one.

    >>> expectation_adjusted_distinct(Cell(("the fox", "the moon"), n_vocabulary=3)) > 1
    True
    """
    counts = cell.ngrams.counts(1)
    if not counts.size:
        raise UndefinedMeasure("no text of 1 words")
    n_different, n_all = counts.shape[1], float(cell.n_times @ counts.sum(axis=1))
    vocabulary = cell.n_vocabulary or n_different
    if vocabulary < n_different:
        raise ValueError(f"n_vocabulary is {vocabulary}, but the texts hold {n_different} different words")
    return float(n_different / (vocabulary * (1 - (1 - 1 / vocabulary) ** n_all)))


def mean_edit_distance(cell: Cell) -> float:
    """Mean over pairs of the fewest word edits that turn one text into the other, over the length of the longer.

    >>> mean_edit_distance(Cell(("the old fox sleeps", "the fox sings")))
    0.5
    """
    longer = np.maximum(1, np.maximum(cell.ngrams.n_words[:, None], cell.ngrams.n_words))
    return cell.mean_over_pairs(edit_distances(cell.ngrams.words) / longer)


def edit_distances(sequences: Sequence[NDArray[np.integer]]) -> NDArray[np.intp]:
    """Levenshtein distances of all pairs of m sequences of numbers, shape (m, m); all pairs advance together.

    >>> edit_distances([np.array([1, 2, 3]), np.array([2, 3]), np.array([2, 4])])[0].tolist()
    [0, 1, 2]
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    width = int(lengths.max(initial=0))
    padded = np.full((width, len(sequences)), -1, dtype=np.int32)  # (word, sequence)
    for k, sequence in enumerate(sequences):
        padded[: len(sequence), k] = sequence
    first, second = np.triu_indices(len(sequences), k=1)
    one, other = padded[:, first], padded[:, second]  # (word, pair)
    steps = np.arange(width + 1, dtype=np.int32)[:, None]
    row = np.repeat(steps, len(first), axis=1)  # edits from no word of one to the first words of the other
    for k in range(width):
        longer = np.empty_like(row)
        longer[0] = k + 1
        np.minimum(row[1:] + 1, row[:-1] + (other != one[k]), out=longer[1:])
        longer = np.minimum.accumulate(longer - steps, axis=0) + steps  # insertions
        row = np.where(k < lengths[first], longer, row)
    found = np.zeros((len(sequences), len(sequences)), dtype=np.intp)
    found[first, second] = found[second, first] = row[lengths[second], np.arange(len(first))]
    return found
