"""What a run's parameters ask for: people, question form and given tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.parents.form import Form, real_form, world_form
from lib.parents.pair_tables import PairTable, read_pair_table
from lib.parents.people import listed_rows, paired_rows, world_rows
from lib.paths import from_root


def given_tables(params: Mapping[str, Any]) -> list[PairTable]:
    """Read the tables that ``pairs`` names (`ValueError` as `read_pair_table`)."""
    return [read_pair_table(from_root(path)) for path in params["pairs"]]


def people_for(params: Mapping[str, Any], tables: Sequence[PairTable]) -> pd.DataFrame:
    """Who is asked about: the people of a list, the given pairs, or the world's, in the columns of `world_rows`.

    Raises
    ------
    ValueError
        If a list and pairs are to be asked about at once, pairs are asked for and none given, or too few are.
    """
    n_pairs = params["n_pairs"]
    if n_pairs:
        if params["celebrities"] or not tables:
            found = f"celebrities is {params['celebrities']!r}" if params["celebrities"] else "pairs names no table"
            raise ValueError(f"n_pairs is {n_pairs}, but {found}: ask about either a list or given pairs")
        rows = paired_rows(tables[0].rows, n=n_pairs)
        if len(rows) < n_pairs:
            raise ValueError(f"n_pairs is {n_pairs}, but {tables[0].name} holds {len(rows)} different pairs")
        return rows
    if params["celebrities"]:
        return listed_rows(from_root(params["celebrities"]), n=params["n_celebrities"])
    return world_rows(n_shots=params["n_shots"], n_each=params["n_celebrities"])


def form_for(params: Mapping[str, Any]) -> Form:
    """The shots: of the invented world where its people are asked about, of history otherwise, or as ``shots`` says."""
    is_world = not params["celebrities"] and not params["n_pairs"]
    shots = params["shots"] if params["shots"] != "auto" else ("world" if is_world else "real")
    return world_form(params["n_shots"]) if shots == "world" else real_form(params["n_shots"])
