"""Texts that say nearly the same, by the word 5-grams they share; exact, in memory that a block of rows bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

N_WORDS = 5  # of a shingle
SIMILARITY = 0.5
BLOCK_ROWS = 256

_WORD = re.compile(r"\w+")


def near_duplicates(texts: Sequence[str], *, similarity: float = SIMILARITY) -> list[list[int]]:
    """Groups of texts that are alike, each a list of places in `texts`; what is like no other is in none.

    Parameters
    ----------
    similarity : two texts are alike from this Jaccard index of their sets of word 5-grams on, over 0 and up to 1

    Returns
    -------
    list of lists of at least two places, in order
        Being alike is passed on: where A is like B and B like C, all three are one group.

    Raises
    ------
    ValueError
        If `similarity` is not in its range.

    Notes
    -----
    Capitals, punctuation and line breaks do not count. A text of fewer than five words is one shingle, so that it is
    like its equals only. What 5-grams all pairs share is one sparse product, made in blocks of rows.

    >>> tale = "once upon a time there was an old fox who counted the stars"
    >>> near_duplicates([tale, "a quite different beginning of another story", tale.upper() + "!"])
    [[0, 2]]
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity = {similarity}: expected more than 0 and at most 1")
    if not texts:
        return []
    shingles = _shingle_sets(texts)  # (text, shingle), 1 where the text has it
    n_own = np.diff(shingles.indptr)
    shared = shingles[:, np.bincount(shingles.indices, minlength=shingles.shape[1]) > 1]
    pairs = list(_alike(shared, n_own, similarity))
    rows, columns = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    links = sparse.coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(texts), len(texts)))
    _, labels = connected_components(links, directed=False)
    groups: dict[int, list[int]] = {}
    for place, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _alike(shared: sparse.csr_array, n_own: np.ndarray, similarity: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows that are alike, block by block; `n_own` counts the shingles of each, also those of it alone."""
    others = shared.T.tocsr()
    for start in range(0, shared.shape[0], BLOCK_ROWS):
        both = (shared[start : start + BLOCK_ROWS] @ others).tocoo()  # (block, text)
        rows, columns, n_both = both.coords[0] + start, both.coords[1], both.data
        is_alike = (rows < columns) & (n_both >= similarity * (n_own[rows] + n_own[columns] - n_both))
        yield rows[is_alike], columns[is_alike]


def _shingle_sets(texts: Sequence[str]) -> sparse.csr_array:
    numbers: dict[str, int] = {"": 0}
    stream, lengths = [], []
    for text in texts:
        words = _WORD.findall(text.lower())
        words += [""] * (N_WORDS - len(words))
        stream.append(np.array([numbers.setdefault(word, len(numbers)) for word in words]))
        lengths.append(len(words))
    words_of_all = np.concatenate(stream)
    owners = np.repeat(np.arange(len(texts)), lengths)
    codes = words_of_all
    for further in range(1, N_WORDS):
        # numbered anew after each word, so that no code outgrows 64 bits and none stands for two shingles
        codes = np.unique(codes[:-1] * len(numbers) + words_of_all[further:], return_inverse=True)[1]
    is_within = owners[: len(codes)] == owners[N_WORDS - 1 :]
    counts = sparse.coo_array(
        (np.ones(is_within.sum(), np.int32), (owners[: len(codes)][is_within], codes[is_within])),
        shape=(len(texts), int(codes.max()) + 1),
    ).tocsr()
    counts.data[:] = 1  # a set: how often a text says it does not count
    return counts
