"""The texts that answer one prompt, each distinct one taken apart once: words, n-grams, similarities, pair means."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.diversity.ngrams import NGrams

Floats = NDArray[np.float64]


class UndefinedMeasure(ValueError):
    """A set of texts has no value of a measure; says why. `measure` counts it as NaN, never passes over it."""


@dataclass(frozen=True)
class Cell:
    """A set of texts, as the measures see it.

    Attributes
    ----------
    texts : n texts, in the order in which they were drawn
    vectors : array, shape (m, width), or None
        Embeddings of the m texts in `distinct`.
    accepted : accepted answers, empty where the prompt has none
    n_vocabulary : different words in all that is compared; 0 takes those of the cell
    """

    texts: tuple[str, ...]
    vectors: NDArray[Any] | None = None
    accepted: tuple[str, ...] = ()
    n_vocabulary: int = 0
    _jaccard: dict[int, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("expected a set of at least one text, got none")
        if self.vectors is not None and (self.vectors.ndim != 2 or len(self.vectors) != len(self.distinct)):
            raise ValueError(
                f"expected one vector for each of {len(self.distinct)} distinct texts, got shape {self.vectors.shape}"
            )

    @cached_property
    def distinct(self) -> tuple[str, ...]:
        """The m distinct texts, in order of first occurrence."""
        return tuple(dict.fromkeys(self.texts))

    @cached_property
    def places(self) -> NDArray[np.intp]:
        """Which of the distinct texts each text is, shape (n,)."""
        numbers = {text: number for number, text in enumerate(self.distinct)}
        return np.array([numbers[text] for text in self.texts])

    @cached_property
    def n_times(self) -> NDArray[np.intp]:
        """How often each distinct text was drawn, shape (m,)."""
        return np.bincount(self.places)

    @cached_property
    def ngrams(self) -> NGrams:
        """Of the lower-cased distinct texts."""
        return NGrams(text.lower() for text in self.distinct)

    @cached_property
    def cased_ngrams(self) -> NGrams:
        """Of the distinct texts as they stand."""
        return NGrams(self.distinct)

    def mean_over_pairs(self, matrix: Floats) -> float:
        """Mean over ordered pairs of two draws, from a matrix over distinct texts, shape (m, m).

        >>> Cell(("a", "a", "b")).mean_over_pairs(np.array([[1.0, 0.0], [0.0, 1.0]]))
        0.3333333333333333
        """
        n, times = len(self.texts), self.n_times
        if n < 2:
            raise UndefinedMeasure("fewer than 2 texts")
        return float((times @ matrix @ times - times @ np.diagonal(matrix)) / (n * (n - 1)))

    def jaccard(self, n: int) -> Floats:
        """Jaccard index of the sets of lower-cased word n-grams of distinct texts, shape (m, m).

        Two texts too short for an n-gram are alike (1) if they have the same words, else not (0).
        """
        if n not in self._jaccard:
            sets = (self.ngrams.counts(n) > 0).astype(float)  # (m, n_ngrams)
            shared, sizes = sets @ sets.T, sets.sum(axis=1)
            union = sizes[:, None] + sizes - shared
            found = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
            if (short := np.flatnonzero(sizes == 0)).size:
                words = [tuple(self.ngrams.words[k]) for k in short]
                found[np.ix_(short, short)] = [[float(one == other) for other in words] for one in words]
            self._jaccard[n] = found
        return self._jaccard[n]

    @cached_property
    def cosine(self) -> Floats:
        """Cosines of the embeddings of distinct texts, shape (m, m)."""
        if self.vectors is None:
            raise UndefinedMeasure("no embeddings")
        vectors = np.asarray(self.vectors, dtype=float)
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise UndefinedMeasure("a text without an embedding")
        unit = vectors / lengths[:, None]
        return np.clip(unit @ unit.T, -1, 1)
