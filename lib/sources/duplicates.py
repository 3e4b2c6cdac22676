"""Find near-duplicate texts by the word 5-grams they share; exact, not sampled."""

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
    """Groups of near-duplicates, each a list of indices into `texts`; a text without one is in no group.

    Parameters
    ----------
    similarity : the least Jaccard index of the sets of word 5-grams of two near-duplicates, above 0 and up to 1

    Returns
    -------
    list of lists of at least two indices, in order
        Groups are transitive: where A is a near-duplicate of B and B of C, all three are one group.

    Raises
    ------
    ValueError
        If `similarity` is not in its range.

    Notes
    -----
    Capitals, punctuation and line breaks do not count. A text of fewer than five words is one 5-gram, padded, so that
    only an equal text is its near-duplicate. The 5-grams (their 64-bit hashes) that pairs share are counted by a sparse
    product, in blocks of rows.

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
    pairs = list(_pairs(shared, n_own, similarity))
    rows, columns = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    links = sparse.coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(texts), len(texts)))
    _, labels = connected_components(links, directed=False)
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _pairs(shared: sparse.csr_array, n_own: np.ndarray, similarity: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of near-duplicate rows, block by block; `n_own` counts all shingles of each, also those of no other."""
    others = shared.T.tocsr()
    for start in range(0, shared.shape[0], BLOCK_ROWS):
        both = (shared[start : start + BLOCK_ROWS] @ others).tocoo()  # (block, text)
        rows, columns, n_both = both.coords[0] + start, both.coords[1], both.data
        is_alike = (rows < columns) & (n_both >= similarity * (n_own[rows] + n_own[columns] - n_both))
        yield rows[is_alike], columns[is_alike]


def _shingle_sets(texts: Sequence[str]) -> sparse.csr_array:
    hashes: list[int] = []
    starts = [0]
    for text in texts:
        words = _WORD.findall(text.lower())
        words += [""] * (N_WORDS - len(words))
        hashes += {hash(shingle) for shingle in zip(*(words[k:] for k in range(N_WORDS)), strict=False)}
        starts.append(len(hashes))
    distinct, columns = np.unique(hashes, return_inverse=True)
    shape = len(texts), len(distinct)
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, np.array(starts)), shape=shape)
