"""The published raw result pickles as top-k lists: read without running them, checked, padded into arrays."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.paths import atomic_write
from lib.sources.unpickle import read_pickle

log = logging.getLogger(__name__)

FILE = re.compile(r"raw_api_results_(\d+)ex_(\d+)tb\.pkl")
KEYS = {
    "base": "small_untuned_logprobs",
    "tuned": "small_tuned_logprobs",
    "big": "big_logprobs",
    "davinci_base": "davinci_base_logprobs",
}
OPTIONAL = ("davinci_base",)  # the second big model came with later runs
GPT2_VOCAB_TOKENS = 50_257
TAIL_FLOOR = 1e-6  # what lists that sum to one or more leave for all other tokens: the replies are rounded


@dataclass(frozen=True)
class PaddedLists:
    """Top-k lists of n records: ids (n, k) padded with -1, log-probabilities (n, k) in nats, log-mass outside (n,)."""

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    tail: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> PaddedLists:
        """Records from `start` up to `stop`."""
        return PaddedLists(self.ids[start:stop], self.logprobs[start:stop], self.tail[start:stop])


@dataclass(frozen=True)
class Records:
    """Predictions of the published models at one context length, in file order; `targets` are GPT-2 ids, shape (n,).

    To blend with the second big model, pass `davinci_base` where `big` is asked for; None where the file has none.
    """

    context_tokens: int
    big: PaddedLists
    tuned: PaddedLists
    base: PaddedLists
    davinci_base: PaddedLists | None
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, start: int, stop: int) -> Records:
        """Records from `start` up to `stop`."""
        big, tuned, base = (each.rows(start, stop) for each in (self.big, self.tuned, self.base))
        davinci_base = None if self.davinci_base is None else self.davinci_base.rows(start, stop)
        return Records(self.context_tokens, big, tuned, base, davinci_base, self.targets[start:stop])


def read_records(folder: Path) -> dict[int, Records]:
    """All records of a folder by context length, the shortest first.

    Parameters
    ----------
    folder : Path
        Holds ``raw_api_results_{n}ex_{k}tb.pkl``; of two files for one k the one with more examples is read.

    Raises
    ------
    ValueError
        If there are no such files, one asks for more than plain data, or its records have another shape; names the
        file, the record and the key.

    Notes
    -----
    approximating-finetuning, notebook 01: each file is a list of dicts, log-probabilities keyed by the first GPT-2 id
    of a token's string, so that colliding strings are already lost.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: expected one with raw_api_results_<n>ex_<k>tb.pkl")
    files: dict[int, tuple[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if found := FILE.fullmatch(path.name):
            n_examples, context_tokens = int(found[1]), int(found[2])
            if context_tokens in files:
                log.warning("%s: several files for %d tokens back, reading the largest", folder, context_tokens)
            files[context_tokens] = max(files.get(context_tokens, (-1, path)), (n_examples, path))
    if not files:
        raise ValueError(f"{folder} holds no raw_api_results_<n>ex_<k>tb.pkl: is it the folder of published results?")
    return {k: _records(read_pickle(path), path, k) for k, (_, path) in sorted(files.items())}


def save_records(records: Mapping[int, Records], path: Path) -> None:
    """Write records as an ``.npz`` of plain arrays, so that the pickles are opened once."""
    arrays = {}
    for length, each in records.items():
        arrays[f"{length}/targets"] = each.targets
        for name in KEYS:
            if (lists := getattr(each, name)) is not None:
                arrays |= {f"{length}/{name}/{field.name}": getattr(lists, field.name) for field in fields(lists)}
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_records(path: Path) -> dict[int, Records]:
    """Records by context length, as `save_records` wrote them."""
    with np.load(path, allow_pickle=False) as arrays:
        lengths = sorted({int(name.partition("/")[0]) for name in arrays})
        return {length: _loaded(arrays, length) for length in lengths}


def _loaded(arrays: Mapping[str, NDArray[Any]], length: int) -> Records:
    lists = {
        name: PaddedLists(*(arrays[f"{length}/{name}/{field.name}"] for field in fields(PaddedLists)))
        if f"{length}/{name}/ids" in arrays
        else None
        for name in KEYS
    }
    return Records(context_tokens=length, targets=arrays[f"{length}/targets"], **lists)  # type: ignore[arg-type]


def _records(value: Any, path: Path, context_tokens: int) -> Records:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{path}: expected a list of records, found {_told(value)}")
    lists: dict[str, PaddedLists | None] = {}
    for name, key in KEYS.items():
        if name in OPTIONAL and not any(isinstance(record, dict) and key in record for record in value):
            lists[name] = None
            continue
        lists[name] = _padded(_column(value, key, path), key, path)
    targets = np.array(_column(value, "token", path))
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise ValueError(f"{path}: token holds {targets.dtype}s of shape {targets.shape}: expected one id a record")
    return Records(context_tokens=context_tokens, targets=targets.astype(np.int64), **lists)  # type: ignore[arg-type]


def _column(records: Sequence[Any], key: str, path: Path) -> list[Any]:
    for number, record in enumerate(records):
        if not isinstance(record, dict) or key not in record:
            has = ", ".join(map(str, record)) if isinstance(record, dict) else _told(record)
            raise ValueError(f"{path}, record {number}: expected a dict with {key}, found {has or 'an empty one'}")
    return [record[key] for record in records]


def _padded(dicts: Sequence[Any], key: str, path: Path) -> PaddedLists:
    for number, each in enumerate(dicts):
        if not isinstance(each, dict):
            raise ValueError(
                f"{path}, record {number}: {key} is {_told(each)}, expected a dict of id to log-probability"
            )
    ids = np.array([token for each in dicts for token in each])
    logprobs = np.array([logprob for each in dicts for logprob in each.values()])
    if not len(ids):
        raise ValueError(f"{path}: {key} is empty in every record")
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or logprobs.ndim != 1 or logprobs.dtype.kind not in "fiu":
        told = f"{ids.dtype} to {logprobs.dtype}"
        raise ValueError(f"{path}: {key} maps {told}, expected token ids to log-probabilities")
    sizes = np.array([len(each) for each in dicts])
    is_listed = np.arange(sizes.max()) < sizes[:, None]  # (n, k)
    table, padded_ids = np.full(is_listed.shape, -np.inf), np.full(is_listed.shape, -1, dtype=np.int64)
    table[is_listed], padded_ids[is_listed] = logprobs, ids
    if not np.isfinite(logprobs).all() or ids.min() < 0:
        row = int((is_listed & (~np.isfinite(table) | (padded_ids < 0))).any(axis=1).argmax())
        raise ValueError(f"{path}, record {row}: {key} holds a negative id or a log-probability that is not finite")
    tail = np.log(np.maximum(1 - np.exp(table).sum(axis=1), TAIL_FLOOR))  # (n,)
    return PaddedLists(padded_ids, table, tail)


def _told(value: Any) -> str:
    is_empty = isinstance(value, list | dict | str | tuple) and not value
    return f"{'an empty' if is_empty else 'a'} {type(value).__name__}"
