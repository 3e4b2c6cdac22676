"""A table of distributions on disk: plain numpy arrays that are read as memory maps and filled row by row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.paths import read_json, write_json

ABOUT, PROGRESS = "about.json", "progress.json"


@dataclass(frozen=True)
class Distributions:
    """Log-probabilities of a model after n contexts: of all tokens, of the k likeliest, or of the target alone.

    Parameters
    ----------
    vocab_size : tokens of the model; None where a hosted endpoint does not say
    target_logprobs : array, shape (n,), nats, float32
        NaN where the target is not among the k likeliest.
    logprobs : array, shape (n, vocab) float16 or (n, k) float32, nats; None for the target alone
    ids : array, shape (n, k), int32
        Likeliest first, None where the vocabulary is whole; -1 (log-probability -65504) fills up a shorter row.
    tail : array, shape (n,), nats, float32
        Log of the mass outside the k likeliest, never minus infinity; None where the vocabulary is whole.
    """

    folder: Path
    model: str
    fingerprint: str
    vocab_size: int | None
    target_logprobs: np.ndarray
    logprobs: np.ndarray | None = None
    ids: np.ndarray | None = None
    tail: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target_logprobs)

    @classmethod
    def open(cls, folder: Path) -> Distributions:
        """Open a whole table; its arrays stay on disk.

        Raises
        ------
        ValueError
            If there is none in the folder, or it has not been filled to the end.
        """
        if not (folder / ABOUT).is_file():
            raise ValueError(f"{folder} holds no distributions: collect() makes them")
        about, n_done = read_json(folder / ABOUT), rows_done(folder)
        if n_done < about["n"]:
            raise ValueError(f"{folder} has {n_done} of {about['n']} rows: collect() continues where it ended")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in about["arrays"]}
        return cls(folder, about["model"], about["fingerprint"], about["vocab_size"], **arrays)

    def rows(self, start: int, stop: int) -> Distributions:
        """The rows from `start` up to `stop`, still on disk."""
        arrays = {name: getattr(self, name) for name in ("target_logprobs", "logprobs", "ids", "tail")}
        return replace(self, **{name: array[start:stop] for name, array in arrays.items() if array is not None})


def rows_done(folder: Path) -> int:
    """How many rows of a table are whole."""
    return int(read_json(folder / PROGRESS)["rows"]) if (folder / PROGRESS).is_file() else 0


class Filling:
    """A table while it is filled; what an earlier, killed one wrote is kept.

    Rows are written as plain bytes and not through a memory map: a full disk is then an error and not a crash, and
    what has been written does not stay in memory.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], arrays: Mapping[str, tuple[Any, tuple[int, ...]]]
    ) -> None:
        self.folder, self.n = folder, int(about["n"])
        if not (folder / ABOUT).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for name, (dtype, row) in arrays.items():
                np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(self.n, *row))
            write_json(folder / ABOUT, {**about, "arrays": list(arrays)})
        self.done = rows_done(folder)
        self._arrays = arrays

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Write the next rows; they count once all their arrays are on disk."""
        n_rows = len(columns["target_logprobs"])
        for name, (dtype, row) in self._arrays.items():
            values = np.ascontiguousarray(columns[name], dtype=dtype)
            if values.shape != (n_rows, *row):
                raise ValueError(f"expected {name} of shape {(n_rows, *row)} from the endpoint, found {values.shape}")
            path = self.folder / f"{name}.npy"
            n_bytes = values.dtype.itemsize * int(np.prod(row, dtype=int))
            with path.open("r+b") as file:
                file.seek(path.stat().st_size - (self.n - self.done) * n_bytes)
                file.write(values.data)
                file.flush()
                os.fsync(file.fileno())
        self.done += n_rows
        write_json(self.folder / PROGRESS, {"rows": self.done})
