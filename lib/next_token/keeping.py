"""Where totals lie while a run goes on: sums in one file, one row per document in Parquet, both whole after a kill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.next_token.requests import TokenizedDocument
from lib.next_token.totals import Measured, Totals, document_means
from lib.paths import atomic_write, read_json, write_json
from lib.tables import Schema, read_table, write_table

ABOUT, STATE, ROWS = "about.json", "totals.npz", "documents"
DOCUMENTS = Schema(
    "documents",
    required={
        "number": "int",
        "document": "text",
        "n_tokens": "int",  # scored ones
        "n_skipped": "int",  # positions without a finite log-probability
        "n_bytes": "int",  # of what was scored
        "skipped": "text",  # why the document counts nowhere, empty where it does
        "nll_nats": "float?",
        "entropy_nats": "float?",
        "confidence": "float?",
        "accuracy": "float?",
        "reciprocal_rank": "float?",
        "kl_nats": "float?",
        "bits_per_byte": "float?",
    },
)
UNITS = {"nll": "nll_nats", "entropy": "entropy_nats", "kl": "kl_nats"}
NO_TOKENS, NO_NUMBERS = "no tokens", "no finite log-probability"


def document_row(document: TokenizedDocument, measured: Measured) -> dict[str, Any]:
    """The row of one document; means are over its scored tokens."""
    n_scored = len(measured.positions)
    means = document_means(measured) if n_scored else {}
    return {
        "number": document.number,
        "document": document.name,
        "n_tokens": n_scored,
        "n_skipped": measured.n_skipped,
        "n_bytes": measured.n_bytes if n_scored else 0,
        "skipped": "" if n_scored else NO_NUMBERS if document.ids else NO_TOKENS,
        **{name: means.get(_column(name), math.nan) for name in list(DOCUMENTS.required)[6:]},
    }


def _column(name: str) -> str:
    return next((column for column, named in UNITS.items() if named == name), name)


class Keeping:
    """The folder of one run: what counts is what `save` has put there."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        if not (folder / ABOUT).is_file():
            write_json(folder / ABOUT, about)
        self.totals = empty_totals(read_json(folder / ABOUT))
        self.n_seen = self.n_parts = 0
        if (folder / STATE).is_file():
            self.n_seen, self.n_parts = load_state(folder, self.totals)

    def save(self, n_seen: int, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the totals and the rows of the documents since the last time; both count once the totals are there."""
        if rows:
            frame = pd.DataFrame(rows, columns=list(DOCUMENTS.required))
            write_table(part_path(self.folder, self.n_parts), frame, DOCUMENTS)
        n_parts = self.n_parts + bool(rows)
        with atomic_write(self.folder / STATE, "wb") as file:
            np.savez(file, allow_pickle=False, progress=np.array([n_seen, n_parts]), **self.totals.arrays)
        self.n_seen, self.n_parts = n_seen, n_parts


def empty_totals(about: dict[str, Any]) -> Totals:
    """Totals of nothing yet, for the settings of a run."""
    return Totals(about["vocab_tokens"], about["n_resamples"], about["seed"])


def load_state(folder: Path, totals: Totals) -> tuple[int, int]:
    """Fill totals with what a folder keeps; returns how many documents and parts of their table it speaks of.

    Raises
    ------
    ValueError
        If the file is damaged or of another run.
    """
    path = folder / STATE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            n_seen, n_parts = arrays["progress"].tolist()
            totals.load(arrays)
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}): remove {folder} to begin anew") from error
    return n_seen, n_parts


def part_path(folder: Path, part: int) -> Path:
    return folder / ROWS / f"{part:06d}.parquet"


def read_rows(paths: Sequence[Path]) -> pd.DataFrame:
    """The table of documents, in the order of the source."""
    parts = [read_table(path, DOCUMENTS) for path in paths]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(DOCUMENTS.required))
    return table.sort_values("number", ignore_index=True)
