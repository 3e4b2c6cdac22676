"""Word n-gram counts of texts, made for all texts and each n once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class NGrams:
    """Word n-grams of m texts; words are what white space parts.

    >>> NGrams(["a b a b", "b a"]).counts(2).tolist()  # (a, b) and (b, a)
    [[2.0, 1.0], [0.0, 1.0]]
    """

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        self.words = tuple(
            np.array([numbers.setdefault(word, len(numbers)) for word in text.split()], dtype=np.int64)
            for text in texts
        )
        self.n_words = np.array([len(words) for words in self.words])
        self._n_different = max(1, len(numbers))
        self._stream = np.concatenate(self.words) if self.words else np.zeros(0, np.int64)
        self._owners = np.repeat(np.arange(len(self.words)), self.n_words)
        self._codes = [self._stream]  # of the n-gram that begins at each word, n = 1, 2, ...
        self._counts: dict[int, Floats] = {}

    def counts(self, n: int) -> Floats:
        """How often each text has each n-gram that any of them has, shape (m, n_ngrams)."""
        if n not in self._counts:
            while len(self._codes) < n:
                # numbered anew after each word, so that no code outgrows 64 bits
                k = len(self._codes)
                pairs = self._codes[-1][:-1] * self._n_different + self._stream[k:]
                self._codes.append(np.unique(pairs, return_inverse=True)[1])
            codes, owners = self._codes[n - 1], self._owners
            inside = owners[: len(codes)] == owners[n - 1 :] if len(codes) else np.zeros(0, bool)
            found, columns = np.unique(codes[inside], return_inverse=True)
            rows = owners[: len(codes)][inside]
            flat = np.bincount(rows * len(found) + columns, minlength=len(self.words) * len(found))
            self._counts[n] = flat.reshape(len(self.words), len(found)).astype(float)
        return self._counts[n]
