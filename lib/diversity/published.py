"""Read sampled completions: ours, or the published ones of lauraaisling/analyse-llms (2024).

Every file is read as plain data; nothing in it is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.diversity.prompts import KINDS
from lib.paths import read_jsonl
from lib.sources.unpickle import read_npy

TEMPERATURES = tuple(round(0.1 * k, 1) for k in range(1, 16))
COMPLETION_COLUMNS = ("model", "kind", "prompt", "temperature", "text")

_COMPLETIONS = re.compile(rf"(?P<model>.+)_completions_(?P<kind>{'|'.join(KINDS)})_max_length(?P<n_tokens>\d+)")


def read_completions(path: Path) -> pd.DataFrame:
    """Sampled texts from a ``.jsonl`` file of ours, a published ``.npy`` file, or a folder of these.

    Returns
    -------
    DataFrame
        One row per text: ``model``, ``kind``, ``prompt``, ``temperature``, ``text`` and what else a JSON line holds.
        Published prompts are known by their number only; model and kind stand in the name of the file.

    Raises
    ------
    ValueError
        If there is nothing to read, a name or shape is not the published one, a line lacks a column or holds another
        type; says which file and line.
    """
    if not path.exists():
        raise ValueError(f"{path} is not there: expected a .jsonl or published .npy file, or a folder of them")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix == ".jsonl" or "_completions_" in file.name)
        if not files:
            raise ValueError(
                f"no completions in {path}: expected .jsonl or <model>_completions_<kind>_max_length<n>.npy"
            )
        return pd.concat([read_completions(file) for file in files], ignore_index=True)
    return _of_array(path) if path.suffix == ".npy" else _of_lines(path)


def given_completions(path: Path) -> pd.DataFrame:
    """Texts of `read_completions` as a run has them: with ``family``, ``seed`` and the models in order of the file.

    Raises
    ------
    ValueError
        As `read_completions`, or if no prompt has two texts of one model and temperature to compare.
    """
    rows = read_completions(path)
    missing = {"family": "given", "seed": 0, "model_id": rows["model"]}
    rows = rows.assign(**{name: rows[name].fillna(to) if name in rows else to for name, to in missing.items()})
    if rows.groupby(["family", "seed", "model", "kind", "prompt", "temperature"]).size().max() < 2:
        raise ValueError(
            f"{path} has one text per model, prompt and temperature: expected two or more, as diversity compares texts"
        )
    return rows


def _of_lines(path: Path) -> pd.DataFrame:
    rows = read_jsonl(path)
    wanted = {name: str for name in COMPLETION_COLUMNS} | {"temperature": (int, float)}
    for number, row in enumerate(rows, start=1):
        wrong = next((name for name, kind in wanted.items() if not isinstance(row.get(name), kind)), None)
        if wrong is not None:
            kind = "a number" if wrong == "temperature" else "a text"
            raise ValueError(f"{path}, row {number}: expected {kind} under {wrong!r}, found {row.get(wrong)!r:.60}")
    if not rows:
        raise ValueError(f"{path} is empty: expected one row per text with {', '.join(COMPLETION_COLUMNS)}")
    return pd.DataFrame(rows).astype({"temperature": float})


def _of_array(path: Path) -> pd.DataFrame:
    named = _named(path, _COMPLETIONS, "<model>_completions_<creative|factual|seen>_max_length<n>.npy")
    array = _in_published_shape(read_npy(path), path)
    rows: list[dict[str, Any]] = []
    for t, p in np.ndindex(array.shape):
        texts = array[t, p]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path}, temperature {t}, prompt {p}: expected a list of texts, found {texts!r:.60}")
        at = {"model": named["model"], "kind": named["kind"], "prompt": f"{named['kind']} {p:02d}"}
        rows += [{**at, "temperature": TEMPERATURES[t], "sample": k, "text": text} for k, text in enumerate(texts)]
    return pd.DataFrame(rows)


def _named(path: Path, pattern: re.Pattern[str], form: str) -> dict[str, str]:
    if not (found := pattern.fullmatch(path.stem)):
        raise ValueError(f"{path.name} says neither model nor kind: expected the published form {form}")
    return found.groupdict()


def _in_published_shape(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.ndim != 3 or array.shape[0] > len(TEMPERATURES) or array.shape[2] != 1:
        raise ValueError(f"{path} has shape {array.shape}: expected (15 temperatures, prompts, 1)")
    return array[:, :, 0]
