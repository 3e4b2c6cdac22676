"""What three models say of the same targets: over the whole vocabulary, or what top-k lists show of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

MODELS = ("big", "tuned", "base")
LOWEST_NATS = -65504.0  # float16's lowest, which tables on disk hold for "never"; keeps 0 * log(0) out of every sum
BLOCK_SIZE = 2**18  # numbers of one model held at a time: a block of three stays near the processor


@dataclass(frozen=True)
class Support:
    """What three models say of the same targets, column by column.

    Parameters
    ----------
    big, tuned, base : array, shape (n, m), nats
        Log-probability of each column's token; memory maps and float16 do, they are read block by block.
    target : array of int, shape (n,)
        Column of the true token.
    document : array, shape (n,)
        What the record was drawn from: the cluster of its interval.
    log_counts : array, shape (n, m), optional
        Log of how many tokens stand behind a column, each with the log-probability above; minus infinity for none.

    Raises
    ------
    ValueError
        If there are no records, shapes do not fit or a target is not a column.
    """

    big: NDArray[Any]
    tuned: NDArray[Any]
    base: NDArray[Any]
    target: NDArray[Any]
    document: NDArray[Any]
    log_counts: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.big)
        told = {f.name: np.shape(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None}
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"expected records of shape (n, vocab), got big {shape}: are there any targets?")
        wanted = {name: shape[:1] if name in ("target", "document") else shape for name in told}
        if wrong := [f"{name} {told[name]} (expected {wanted[name]})" for name in told if told[name] != wanted[name]]:
            raise ValueError(f"records do not fit big {shape}: {', '.join(wrong)}")
        if not np.issubdtype(self.target.dtype, np.integer):
            raise ValueError(f"targets are columns, expected integers, got {self.target.dtype}")
        if (outside := (self.target < 0) | (self.target >= shape[1])).any():
            row = int(outside.argmax())
            raise ValueError(
                f"target of record {row} is {self.target[row]}: expected a column from 0 to {shape[1] - 1}"
            )

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, start: int, stop: int) -> Support:
        """Records from `start` up to `stop`; views, nothing is copied."""
        counts = None if self.log_counts is None else self.log_counts[start:stop]
        big, tuned, base = (table[start:stop] for table in (self.big, self.tuned, self.base))
        return Support(big, tuned, base, self.target[start:stop], self.document[start:stop], counts)

    def blocks(self, models: Sequence[str] = MODELS) -> Iterator[tuple[slice, NDArray[Any], NDArray[Any] | None]]:
        """Blocks of records in bounded memory: their rows, the models' log-probabilities, the log-counts.

        Log-probabilities have the shape (n_models, n_rows, m) and are relative to the target's, in float32 unless a
        table is float64: the logarithm of the sum of their exponentials is the target's negative log-likelihood itself.
        """
        tables = [getattr(self, name) for name in models]
        dtype = np.result_type(np.float32, *(table.dtype for table in tables))
        step = max(1, BLOCK_SIZE // self.big.shape[1])
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            block = np.empty((len(tables), rows.stop - start, self.big.shape[1]), dtype=dtype)
            for into, table in zip(block, tables, strict=True):
                np.maximum(table[rows], LOWEST_NATS, out=into, dtype=dtype)
                into -= np.take_along_axis(into, self.target[rows, None], axis=1)
            yield rows, block, None if self.log_counts is None else self.log_counts[rows].astype(dtype)


def full_support(big: Any, tuned: Any, base: Any, targets: ArrayLike, documents: ArrayLike) -> Support:
    """The whole vocabulary as support: arrays or memory maps of shape (n, vocab), taken as they are.

    >>> rows = np.log([[0.5, 0.5], [0.9, 0.1]])
    >>> len(full_support(rows, rows, rows, [0, 1], ["a", "b"]))
    2
    """
    big, tuned, base = (np.asanyarray(each) for each in (big, tuned, base))  # a memory map stays one
    return Support(big, tuned, base, np.asarray(targets), np.asarray(documents))


class TopKRows(Protocol):
    """Top-k lists of n records, padded with id -1: what an endpoint shows of each distribution."""

    @property
    def ids(self) -> NDArray[Any]:
        """Token ids, shape (n, k)."""

    @property
    def logprobs(self) -> NDArray[Any]:
        """Their log-probabilities, shape (n, k), nats."""

    @property
    def tail(self) -> NDArray[Any]:
        """Log of the mass outside the list, shape (n,), nats."""


def top_k_support(
    big: TopKRows, tuned: TopKRows, base: TopKRows, targets: ArrayLike, vocab_size: int, documents: ArrayLike
) -> Support:
    """The union of three top-k lists, record by record, and one column for all other tokens.

    Parameters
    ----------
    big, tuned, base : top-k lists of the same n records; a row may be shorter than k, padded with id -1
    targets : array of int, shape (n,)
        Id of the true token; outside the union it is one of the tokens behind the last column.
    vocab_size : int
        How many tokens there are; ids lie below it.

    Returns
    -------
    Support
        float64, with `log_counts`; columns are ids in rising order, then unused ones, then the rest.

    Raises
    ------
    ValueError
        If the lists do not hold the same records, an id is not in the vocabulary or comes twice in a row.

    Notes
    -----
    A model spreads its tail evenly over the tokens outside its own list. So every model is normalised over the same
    support (the published pipeline normalises the blend alone), and equal small models cancel.
    """
    lists, target = [np.asarray(each.ids) for each in (big, tuned, base)], np.asarray(targets)
    told = [each.shape for each in (*lists, target)]
    if any(each.ndim != 2 or len(each) != len(target) for each in lists) or target.ndim != 1 or not len(target):
        raise ValueError(f"expected lists (n, k) of big, tuned and base and n targets, got shapes {told}")
    ids = np.concatenate(lists, axis=1).astype(np.int64)  # (n, k of all three)
    lowest, highest = min(ids.min() + 1, target.min()), max(ids.max(), target.max())  # an id of -1 is padding
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(f"an id or a target lies outside the vocabulary of {vocab_size} tokens")
    columns, tokens = _union(np.where(ids < 0, vocab_size, ids), vocab_size)
    is_token = tokens < vocab_size  # (n, m - 1)
    n_union = is_token.sum(axis=1)
    start, tables = 0, []
    for name, rows in zip(MODELS, (big, tuned, base), strict=True):
        width = rows.ids.shape[1]
        tables.append(_spread(rows, columns[:, start : start + width], tokens.shape[1] + 1, vocab_size, name))
        start += width
    with np.errstate(divide="ignore"):
        rest = np.log(vocab_size - n_union)[:, None]
    log_counts = np.concatenate([np.where(is_token, 0.0, -np.inf), rest], axis=1)  # (n, m)
    is_target = tokens == target[:, None]
    column = np.where(is_target.any(axis=1), is_target.argmax(axis=1), tokens.shape[1])
    return Support(tables[0], tables[1], tables[2], column, np.asarray(documents), log_counts)


def _union(ids: NDArray[np.int64], vocab_size: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Column of each id in its row's union, and the unions: rising ids, padded with `vocab_size`."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=1)
    is_first = np.diff(ordered, axis=1, prepend=-1) != 0
    place = np.cumsum(is_first, axis=1) - 1
    columns = np.empty_like(place)
    np.put_along_axis(columns, order, place, axis=1)
    tokens = np.full((len(ids), int(place.max()) + 1), vocab_size, dtype=np.int64)
    np.put_along_axis(tokens, place, ordered, axis=1)
    return columns, tokens


def _spread(rows: TopKRows, columns: NDArray[np.intp], width: int, vocab_size: int, name: str) -> NDArray[np.float64]:
    """One model's log-probability of each column of the union, its tail spread evenly; shape (n, width)."""
    listed = np.asarray(rows.ids) >= 0
    n_outside = vocab_size - listed.sum(axis=1)
    per_token = np.asarray(rows.tail, dtype=float) - np.log(np.maximum(n_outside, 1))
    table = np.repeat(np.maximum(per_token, LOWEST_NATS)[:, None], width, axis=1)
    record, place = np.nonzero(listed)
    at = columns[record, place]
    if len(np.unique(record * width + at)) < len(at):
        twice = np.bincount(np.unique(record * width + at) // width, minlength=len(table)) < listed.sum(axis=1)
        raise ValueError(f"record {int(twice.argmax())}: an id comes twice in the list of {name}")
    table[record, at] = np.asarray(rows.logprobs)[record, place]
    return table
