"""Compression distance and leave-one-out compression ratios of texts, by gzip."""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache

import numpy as np

from lib.diversity.cell import Cell, UndefinedMeasure

_GZIP_FRAME = 18  # bytes of header and checksum around the compressed data
_LONGEST_SMALL = 3_800


def gzip_length(data: bytes) -> int:
    """Length of ``gzip.compress(data)``, for short data without its set-up, which costs ten times the compression.

    >>> gzip_length(b"the fox and the moon") == len(gzip.compress(b"the fox and the moon"))
    True
    """
    if len(data) > _LONGEST_SMALL:
        return len(gzip.compress(data))
    # A window and a symbol buffer that hold all of the data find the same matches as the full ones.
    window = max(10, (len(data) + 262).bit_length())
    memory = max(2, (len(data) + 1).bit_length() - 6)
    packer = zlib.compressobj(9, zlib.DEFLATED, -window, memory)
    return len(packer.compress(data)) + len(packer.flush()) + _GZIP_FRAME


def compression_distance(cell: Cell) -> float:
    """Mean normalised compression distance over ordered pairs, joined by a space (Cilibrasi and Vitanyi 2005).

    >>> near, far = ("a grey heron waits",) * 2, ("a grey heron waits", "nobody plays the flute")
    >>> compression_distance(Cell(near)) < compression_distance(Cell(far))
    True
    """
    coded = [text.encode() for text in cell.distinct]
    alone = np.array([gzip_length(data) for data in coded])
    again = cell.n_times > 1
    joint = np.array(
        [
            [gzip_length(b"%b %b" % (one, other)) if k != j or again[k] else 0 for j, other in enumerate(coded)]
            for k, one in enumerate(coded)
        ]
    )  # (m, m)
    least, most = np.minimum(alone[:, None], alone), np.maximum(alone[:, None], alone)
    return cell.mean_over_pairs((joint - least) / most)


def compression_ratio_full(cell: Cell) -> float:
    """Mean over texts of the ratio of all others less that of all with the text at the end.

    Ratio: gzip bytes over raw bytes, joined by spaces. As published; it depends on the order of the texts.
    """
    rest = [_ratio(" ".join(cell.texts[:k] + cell.texts[k + 1 :])) for k in range(len(cell.texts))]
    return float(np.mean(np.array(rest) - _with_last(cell)))


def compression_ratio_target(cell: Cell) -> float:
    """Mean over texts of their own ratio less that of all texts with this one at the end; see `compression_ratio_full`.

    Raises
    ------
    UndefinedMeasure
        If a text is empty: it has no ratio.
    """
    return float(np.mean(np.array([_ratio(text) for text in cell.texts]) - _with_last(cell)))


def _with_last(cell: Cell) -> np.ndarray:
    """Ratio of all texts joined, each of them at the end in turn, shape (n,)."""
    texts = cell.texts
    return np.array([_ratio(" ".join((*texts[:k], *texts[k + 1 :], texts[k]))) for k in range(len(texts))])


@lru_cache(maxsize=4096)
def _ratio_of(data: bytes) -> float:
    return gzip_length(data) / len(data)


def _ratio(text: str) -> float:
    if not text:
        raise UndefinedMeasure("an empty text")
    return _ratio_of(text.encode())
