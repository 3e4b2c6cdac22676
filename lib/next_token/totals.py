"""Sums over all documents, of the whole and of bootstrap resamples: all that is kept of what was measured.

The bootstrap runs along: each document has a weight in each resample, drawn from a Poisson distribution by its number,
so that a resumed run goes on, and two models of the same documents are resampled alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

COLUMNS = (  # of `sums`; means are over tokens, and for bits_per_byte over bytes
    *("tokens", "bytes", "nll", "entropy", "confidence", "accuracy", "reciprocal_rank", "kl", "bits_per_byte"),
)
N_RANKED = 512  # likeliest tokens that the endpoint sums by rank
N_BINS = 15  # of confidence, equally wide (Guo et al. 2017)
N_SPANS = 32  # of positions, each twice as wide as the one before: 0, 1-2, 3-6, 7-14 ...
POSITION_COLUMNS = ("tokens", "nll", "entropy", "kl")
COUNTS = ("documents", "skipped_documents", "skipped_positions")


@dataclass(frozen=True)
class Measured:
    """What was found of one document.

    Parameters
    ----------
    number : of the document in its source
    n_bytes : of what was scored
    n_skipped : positions without a finite log-probability, which nothing else counts
    positions : DataFrame
        One row per scored position, which is the index: ``nll`` and ``entropy`` (nats), ``confidence`` (probability of
        the likeliest token), ``is_hit`` (whether that is the target), ``rank`` of the target (1 and the number of
        likelier tokens) and, with a base, ``kl`` (nats).
    probs : array, shape (vocab,)
        Sum of the distributions by token.
    ranked : array, shape (min(N_RANKED, vocab),)
        Sum of the distributions, each in falling order.
    """

    number: int
    n_bytes: int
    n_skipped: int
    positions: pd.DataFrame
    probs: np.ndarray
    ranked: np.ndarray


@dataclass(frozen=True)
class Totals:
    """Streaming accumulators.

    Parameters
    ----------
    vocab_tokens : size of the vocabulary
    n_resamples : bootstrap resamples that run along; memory is 8 bytes per token of the vocabulary for each
    seed : of the weights of documents in resamples
    sums : array, shape (1 + n_resamples, columns)
        The first row is the whole, each document once.
    probs, ranked, calibration, spans : array, shape (1 + n_resamples, ...)
        Of distributions by token and by rank, by bins of confidence, and by spans of positions.
    counts : array, shape (3,)
        Documents that were scored, documents and positions that were not.
    """

    vocab_tokens: int
    n_resamples: int = 200
    seed: int = 0
    sums: np.ndarray = field(init=False)
    probs: np.ndarray = field(init=False)
    ranked: np.ndarray = field(init=False)
    calibration: np.ndarray = field(init=False)
    spans: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        if self.vocab_tokens < 2 or self.n_resamples < 0:
            raise ValueError(
                f"vocab_tokens = {self.vocab_tokens}, n_resamples = {self.n_resamples}: expected at least 2 and 0"
            )
        widths = {"sums": len(COLUMNS), "probs": self.vocab_tokens, "ranked": min(N_RANKED, self.vocab_tokens)}
        widths |= {"calibration": 3 * N_BINS, "spans": len(POSITION_COLUMNS) * N_SPANS}
        for name, width in widths.items():
            object.__setattr__(self, name, np.zeros((1 + self.n_resamples, width)))
        object.__setattr__(self, "counts", np.zeros(len(COUNTS), dtype=np.int64))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is added up, by name; to be changed in place only."""
        names = ("sums", "probs", "ranked", "calibration", "spans", "counts")
        return {name: getattr(self, name) for name in names}

    def count(self, name: str) -> int:
        """One of `COUNTS`."""
        return int(self.counts[COUNTS.index(name)])

    def add(self, documents: Sequence[Measured]) -> None:
        """Add documents; one without a scored position is counted as skipped.

        Raises
        ------
        ValueError
            If a document's vocabulary is another one.
        """
        scored = [document for document in documents if len(document.positions)]
        self.counts[:] += [len(scored), len(documents) - len(scored), sum(document.n_skipped for document in documents)]
        if not scored:
            return
        for document in scored:
            if len(document.probs) != self.vocab_tokens:
                raise ValueError(
                    f"document {document.number} has {len(document.probs)} tokens in its vocabulary, "
                    f"expected {self.vocab_tokens}: totals are of one tokenizer"
                )
        weights = self._weights([document.number for document in scored])  # (1 + resamples, documents)
        for name, rows in (
            ("sums", [_sums(document) for document in scored]),
            ("probs", [document.probs for document in scored]),
            ("ranked", [document.ranked for document in scored]),
            ("calibration", [_calibration(document.positions) for document in scored]),
            ("spans", [_spans(document.positions) for document in scored]),
        ):
            getattr(self, name)[:] += weights @ np.array(rows)

    def _weights(self, numbers: Sequence[int]) -> np.ndarray:
        drawn = [np.random.default_rng([self.seed, number]).poisson(1.0, self.n_resamples) for number in numbers]
        return np.vstack([np.ones(len(numbers)), np.array(drawn, dtype=float).T])

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over `arrays` that were kept.

        Raises
        ------
        ValueError
            If one is missing or has another shape.
        """
        for name, array in self.arrays.items():
            if name not in arrays or arrays[name].shape != array.shape:
                found = arrays[name].shape if name in arrays else "none"
                raise ValueError(f"expected {name} of shape {array.shape}, found {found}: the file is of another run")
            array[:] = arrays[name]


def document_means(document: Measured) -> dict[str, float]:
    """Means over the tokens of one document, by column; bits_per_byte over its bytes."""
    sums = dict(zip(COLUMNS, _sums(document).tolist(), strict=True))
    means = {name: sums[name] / sums["tokens"] for name in COLUMNS if name not in ("tokens", "bytes")}
    return means | {"bits_per_byte": sums["bits_per_byte"] / sums["bytes"]}


def _sums(document: Measured) -> np.ndarray:
    found = document.positions
    nll, kl = found["nll"].sum(), found["kl"].sum() if "kl" in found else np.nan
    return np.array(
        [
            *(len(found), max(1, document.n_bytes), nll, found["entropy"].sum(), found["confidence"].sum()),
            *(found["is_hit"].sum(), (1 / found["rank"]).sum(), kl, nll / math.log(2)),
        ]
    )


def _calibration(found: pd.DataFrame) -> np.ndarray:
    """Number, confidence and hits of each bin."""
    bins = np.minimum((found["confidence"] * N_BINS).astype(int), N_BINS - 1)
    columns = (np.ones(len(bins)), found["confidence"], found["is_hit"])
    return np.concatenate([np.bincount(bins, weights=column, minlength=N_BINS) for column in columns])


def _spans(found: pd.DataFrame) -> np.ndarray:
    bins = np.minimum(np.log2(found.index + 1).astype(int), N_SPANS - 1)
    columns = (np.ones(len(bins)), *(found.get(name, np.full(len(bins), np.nan)) for name in POSITION_COLUMNS[1:]))
    return np.concatenate([np.bincount(bins, weights=column, minlength=N_SPANS) for column in columns])
