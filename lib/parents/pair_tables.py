"""The published tables of pairs and of test results: read, told apart by their columns, and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.parents.people import RELATIONS
from lib.parents.probes import COLLECTED
from lib.paths import atomic_write

KEY = ["child", "parent", "parent_type"]
BEGINNING = [*KEY, "child_prediction"]
PAIRS = "parent_child_pairs.csv"
RESULTS = "reversal_test_results.csv"
ENDINGS = {  # the two columns of a model's results, parent's first
    "samples": ("_can_find_parent", "_can_find_child"),
    "logprobs": ("_parent_logprob", "_child_logprob"),
}


@dataclass(frozen=True)
class PairTable:
    """A given table.

    Attributes
    ----------
    kind : "pairs" (who collected them can reverse them), "samples" or "logprobs" (another model's results)
    model : whose results they are; of a pairs table its file's name
    rows : ``child``, ``parent``, ``parent_type``, ``child_prediction``, ``can_reverse``, and of results ``to_parent``
        and ``to_child``: fractions of replies, or log-probabilities in nats
    n_twice : rows that say what an earlier one said, about the same child and parent
    """

    name: str
    kind: str
    model: str
    rows: pd.DataFrame
    n_twice: int

    def counted(self, *, as_published: bool = False) -> pd.DataFrame:
        """The rows that count: each pair once, or all of them as in the published figures."""
        return self.rows if as_published else self.rows.drop_duplicates(KEY)


def read_pair_table(path: Path) -> PairTable:
    """Read a pairs table or either table of results, and tell by the columns which it is.

    Raises
    ------
    ValueError
        If the file is missing, no table, or lacks a column; if a value is not what its column holds (says the line).
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"pairs: {path} is missing; expected a CSV file with {', '.join(BEGINNING)}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"pairs: {path} is no table of comma-separated values ({error})") from error
    _need(path, rows, BEGINNING)
    kind, model = _kind(rows)
    if kind == "pairs":
        _need(path, rows, ["can_reverse"])
        model = path.stem
    bad = [number for number, row in enumerate(rows[KEY].values.tolist(), start=2) if not all(row)]
    if bad or rows.empty:
        raise ValueError(f"pairs: {path} has " + (f"an empty name in line {bad[0]}" if bad else "no rows"))
    strange = ~rows["parent_type"].isin(RELATIONS)
    if strange.any():
        found = rows.loc[strange, "parent_type"].iloc[0]
        raise ValueError(f"pairs: {path}, parent_type: expected {' or '.join(RELATIONS)}, found {found!r}")
    table = rows[BEGINNING].assign(can_reverse=rows["child_prediction"] != "")
    if kind == "pairs":
        table["can_reverse"] = _booleans(path, rows["can_reverse"])
    else:
        low, high = (0.0, 1.0) if kind == "samples" else (-np.inf, 0.0)
        for column, ending in zip(("to_parent", "to_child"), ENDINGS[kind], strict=True):
            table[column] = _numbers(path, rows, f"{model}{ending}", low, high)
    return PairTable(path.name, kind, model, table, int(table.duplicated(KEY).sum()))


def _kind(rows: pd.DataFrame) -> tuple[str, str]:
    for kind, endings in ENDINGS.items():
        for column in rows.columns:
            if column.endswith(endings):
                return kind, re.sub(f"({'|'.join(endings)})$", "", column)
    return "pairs", ""


def _need(path: Path, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        found = ", ".join(map(str, rows.columns))
        raise ValueError(f"pairs: {path} lacks the column {', '.join(missing)}; it has {found[:200]}")


def _booleans(path: Path, values: pd.Series) -> pd.Series:
    known = {"true": True, "false": False, "1": True, "0": False}
    read = values.str.strip().str.lower().map(known)
    if read.isna().any():
        line = int(np.flatnonzero(read.isna())[0])
        raise ValueError(f"pairs: {path}, line {line + 2}, can_reverse: expected True or False, found {values[line]!r}")
    return read.astype(bool)


def _numbers(path: Path, rows: pd.DataFrame, column: str, low: float, high: float) -> pd.Series:
    _need(path, rows, [column])
    read = pd.to_numeric(rows[column], errors="coerce")
    bad = np.flatnonzero(read.isna() | (read < low) | (read > high))
    if len(bad):
        found = rows[column][bad[0]]
        raise ValueError(f"pairs: {path}, line {bad[0] + 2}, {column}: expected {low:g} to {high:g}, found {found!r}")
    return read.astype(float)


def pair_file(answers: pd.DataFrame) -> pd.DataFrame:
    """The pairs that a model collected, in the published columns.

    Parameters
    ----------
    answers : questions about the children of collected parents, answered by one model with one seed
    """
    asked = answers[answers["direction"] == "child"]
    return pd.DataFrame(
        {
            "child": asked["person"],
            "parent": asked["parent"],
            "parent_type": asked["relation"],
            "child_prediction": asked["prediction"],
            "can_reverse": asked["prediction"] != "",
        }
    ).reset_index(drop=True)


def result_file(pairs: pd.DataFrame, answers: pd.DataFrame, *, model: str, kind: str) -> pd.DataFrame:
    """A model's results on pairs, in the published columns.

    Parameters
    ----------
    pairs : table of `pair_file`
    answers : the model's answers about these pairs in both directions, with one seed
    kind : "samples" or "logprobs"
    """
    values = answers["n_right"] / answers["n_samples"] if kind == "samples" else answers["target_logprob"]
    keyed = answers.assign(value=values).set_index(["person", "relation", "direction"])["value"]
    table = pairs[BEGINNING].copy()
    for direction, ending in zip(("parent", "child"), ENDINGS[kind], strict=True):
        keys = [
            (child, relation, direction) for child, relation in zip(pairs["child"], pairs["parent_type"], strict=True)
        ]
        table[f"{model}{ending}"] = keyed.loc[keys].to_numpy()
    return table


def published_files(answers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A run's pairs and every model's results on them, by file name, under the published names and columns.

    Parameters
    ----------
    answers : a run's answers, sampled; those about collected pairs count, of the first seed and way

    Returns
    -------
    dict
        Without entries where no pairs were collected.
    """
    rows = answers[answers["condition"].str.endswith(f"/{COLLECTED}")]
    first = rows.groupby("model")[["seed", "way"]].transform("first")
    rows = rows[(rows["seed"] == first["seed"]) & (rows["way"] == first["way"])]
    main = rows[rows["role"] == "main"]
    if main.empty:
        return {}
    pairs = pair_file(main[main["model"] == main["model"].iloc[0]])
    files = {PAIRS: pairs}
    for model, own in rows.groupby("model", sort=False):
        name = re.sub(r"[^\w.-]+", "_", str(model))
        files[f"{name}_{RESULTS}"] = result_file(pairs, own, model=str(model), kind="samples")
        if own["target_logprob"].notna().all():
            files[f"{name}_logprob_{RESULTS}"] = result_file(pairs, own, model=str(model), kind="logprobs")
    return files


def write_pair_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of `pair_file` or `result_file` as CSV; numbers so that they are read back as they were."""
    with atomic_write(path) as file:
        table.to_csv(file, index=False, lineterminator="\n")
