"""Parquet tables: answers to questions, checked when written and read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.paths import atomic_write

KINDS = {"text": "str", "int": "int64", "float": "float64", "text?": "str", "bool?": "boolean", "float?": "float64"}


@dataclass(frozen=True)
class Schema:
    """Columns of a table and their kinds: text, int or float; a trailing ? lets values be missing (also bool?)."""

    name: str
    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)


ANSWERS = Schema(
    "answers",
    required={
        "prompt": "text",
        "target": "text",
        "completion": "text?",  # missing where only the log-probability was requested
        "target_logprob": "float?",  # nats, summed over the target's tokens
        "correct": "bool?",
        "model": "text",
        "condition": "text",
        "seed": "int",
    },
    optional={"finish_reason": "text?"},
)


def write_table(path: Path, frame: pd.DataFrame, schema: Schema) -> None:
    """Write a Parquet table.

    Raises
    ------
    ValueError
        If a column of the schema is missing or holds something else than its kind; says which.
    """
    table = pa.Table.from_pandas(_checked(frame, schema, name=path.name), preserve_index=False)
    with atomic_write(path, "wb") as file:
        pq.write_table(table, file)


def read_table(path: Path, schema: Schema) -> pd.DataFrame:
    """Read a Parquet table, checked as `write_table` does; errors (`ValueError`, `FileNotFoundError`) name the file."""
    try:
        with path.open("rb") as file:
            frame = pq.read_table(file).to_pandas()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet table: {error}") from error
    return _checked(frame, schema, name=str(path))


def _checked(frame: pd.DataFrame, schema: Schema, *, name: str) -> pd.DataFrame:
    refuse_missing(frame, schema.required, name=name, what=schema.name)
    kinds = {**schema.required, **{key: kind for key, kind in schema.optional.items() if key in frame.columns}}
    checked = frame.reset_index(drop=True)
    for column, kind in kinds.items():
        values = checked[column]
        if not kind.endswith("?") and values.isna().any():
            raise ValueError(f"{name}, column {column}: {int(values.isna().sum())} values are missing")
        present = values.dropna()
        if kind.startswith("text") and not present.map(lambda value: isinstance(value, str)).all():
            raise ValueError(f"{name}, column {column}: expected text, got {_first_other(present, str)!r}")
        try:
            checked[column] = values.astype(KINDS[kind])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}, column {column}: expected {kind.rstrip('?')} ({error})") from error
        if kind == "int" and not (checked[column] == values).all():
            raise ValueError(f"{name}, column {column}: expected whole numbers")
    return checked


def refuse_missing(frame: pd.DataFrame, columns: Collection[str], *, name: str, what: str) -> None:
    """Refuse a table that lacks columns, naming them all (`ValueError`)."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name}: a table of {what} needs the columns {', '.join(missing)}")


def _first_other(values: pd.Series, kind: type) -> Any:
    return next(value for value in values if not isinstance(value, kind))
