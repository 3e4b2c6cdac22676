"""Read sampled completions: ours, or the published ones of lauraaisling/analyse-llms (2024).

Every file is read as plain data; nothing in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.diversity.chain import known_models
from lib.diversity.prompts import KINDS
from lib.paths import read_jsonl
from lib.sources.unpickle import read_npy

TEMPERATURES = tuple(round(0.1 * k, 1) for k in range(1, 16))
COLUMNS: dict[str, Any] = {"stage": str, "kind": str, "prompt": str, "temperature": (int, float), "text": str}
_NAME = re.compile(rf"(?P<label>.+)_completions_(?P<kind>{'|'.join(KINDS)})_max_length\d+")


def read_completions(path: Path, chain: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """Sampled texts from a ``.jsonl`` file, a published ``.npy`` file, or a folder of these.

    Parameters
    ----------
    chain : labels of the models in order of training. Without it, the order is that of ``data/diversity/models.yaml``
        (whose names, and whose labels of stages, are known), or that of the rows of a single ``.jsonl`` file

    Returns
    -------
    DataFrame
        One row per text, stages in order of training: ``family``, ``stage``, ``seed``, ``kind``, ``prompt``,
        ``temperature``, ``text`` and what else a JSON line has. Published prompts are known by their number only; model
        and kind are in the name of the file.
    str
        Where the order of the stages is from.

    Raises
    ------
    ValueError
        If there is nothing to read, a name or shape is not the published one, a line lacks a column, no prompt has two
        texts of one model and temperature, or the order of the stages is not known.
    """
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix in (".jsonl", ".npy"))
    if not files:
        raise ValueError(f"no completions in {path}: expected .jsonl or <model>_completions_<kind>_max_length<n>.npy")
    tables = [_of_array(file) if file.suffix == ".npy" else _of_lines(file) for file in files]
    rows, source = order_stages(pd.concat(tables, ignore_index=True), chain, is_one_file=len(files) == 1)
    if rows.groupby(["family", "seed", "stage", "kind", "prompt", "temperature"]).size().max() < 2:
        raise ValueError(f"{path} has one text per model, prompt and temperature: diversity compares two or more")
    return rows, source


def order_stages(rows: pd.DataFrame, chain: Sequence[str], *, is_one_file: bool) -> tuple[pd.DataFrame, str]:
    """Rows with ``family`` and ``stage`` in order of training, and where that order is from; see `read_completions`."""
    known, labels = known_models(), rows["stage"].unique()
    names = rows["stage"].str.removesuffix("_main")
    stages = list(known["stage"].str.casefold().unique())
    if chain:
        order, keys, source = [entry.partition(":")[0].rpartition("/")[2] for entry in chain], rows["stage"], "chain"
    elif set(names) <= set(known.index):
        order, keys, source = list(known.index), names, "data/diversity/models.yaml"
        rows = rows.assign(family=names.map(known["family"]), stage=names.map(known["stage"]))
    elif set(rows["stage"].str.casefold()) <= set(stages):
        order, keys, source = stages, rows["stage"].str.casefold(), "the stages of data/diversity/models.yaml"
    else:
        order, keys, source = list(labels) if is_one_file else [], rows["stage"], "the rows of the file"
    if missing := [label for label in keys.unique() if label not in order]:
        raise ValueError(
            f"the order of training of {', '.join(labels)} is not known ({missing[0]!r} is not in "
            f"{order or 'a chain'}): name all, as in --set 'chain=[{', '.join(labels)}]'"
        )
    return rows.iloc[np.argsort(keys.map(order.index), kind="stable")].reset_index(drop=True), source


def _of_lines(path: Path) -> pd.DataFrame:
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        row["stage"] = row.get("stage", row.get("model"))
        if wrong := next((name for name, kind in COLUMNS.items() if not isinstance(row.get(name), kind)), ""):
            kind = "a number" if wrong == "temperature" else "a text"
            raise ValueError(f"{path}, row {number}: expected {kind} under {wrong!r}, found {row.get(wrong)!r:.60}")
    if not rows:
        raise ValueError(f"{path} is empty: expected one row per text with {', '.join(COLUMNS)}")
    table = pd.DataFrame(rows).astype({"temperature": float})
    return table.assign(**{name: table.get(name, default) for name, default in (("family", "given"), ("seed", 0))})


def _of_array(path: Path) -> pd.DataFrame:
    if not (named := _NAME.fullmatch(path.stem)):
        expected = "<model>_completions_<creative|factual|seen>_max_length<n>.npy"
        raise ValueError(f"{path.name} does not say model and kind: expected the published form {expected}")
    array = read_npy(path)
    if array.ndim != 3 or array.shape[0] > len(TEMPERATURES) or array.shape[2] != 1:
        raise ValueError(f"{path} has shape {array.shape}: expected (15 temperatures, prompts, 1)")
    rows = []
    about = {"family": "given", "stage": named["label"], "seed": 0, "kind": named["kind"]}
    for t, p in np.ndindex(array.shape[:2]):
        texts = array[t, p, 0]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path}, temperature {t}, prompt {p}: expected a list of texts, found {texts!r:.60}")
        at = about | {"prompt": f"{named['kind']} {p:02d}", "temperature": TEMPERATURES[t]}
        rows += [at | {"sample": k, "text": text} for k, text in enumerate(texts)]
    return pd.DataFrame(rows)
