"""What did others sample and measure? Completions, result arrays, perplexities and per-document data, from their files.

Of lauraaisling/analyse-llms (2024). Every file is read as plain data; nothing in it is run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.diversity.prompts import KINDS
from lib.diversity.registry import published_measures
from lib.paths import read_json, read_jsonl
from lib.sources.unpickle import read_npy, read_torch

log = logging.getLogger(__name__)


TEMPERATURES = tuple(round(0.1 * k, 1) for k in range(1, 16))
SWAPPED = {"creative": "factual", "factual": "creative"}
COMPLETION_COLUMNS = ("model", "kind", "prompt", "temperature", "text")

_COMPLETIONS = re.compile(rf"(?P<model>.+)_completions_(?P<kind>{'|'.join(KINDS)})_max_length(?P<n_tokens>\d+)")
_RESULTS = re.compile(r"(?P<model>.+)_results_(?P<n_words>\d+)_words")
_PERPLEXITY = re.compile(r"(?P<model>.+)-perplexity")


def read_completions(path: Path) -> pd.DataFrame:
    """Sampled texts from a ``.jsonl`` file of ours, a published ``.npy`` file, or a folder of these.

    Returns
    -------
    DataFrame
        A row a text: ``model``, ``kind``, ``prompt``, ``temperature``, ``text`` and what else a JSON line holds.
        Published prompts are known by their number only; model and kind stand in the name of the file, and these
        files are named rightly (the result arrays are not: `read_results`).

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
            f"{path} has one text a model, prompt and temperature: expected two or more, since diversity compares texts"
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
        raise ValueError(f"{path} is empty: expected a row a text with {', '.join(COMPLETION_COLUMNS)}")
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


def read_results(path: Path) -> pd.DataFrame:
    """Published values of the 20 measures, their swapped labels put right.

    Returns
    -------
    DataFrame
        A row a cell and measure, as `lib.diversity.measure` gives them (``measure`` is our name, ``value`` NaN where
        published so, ``failure`` then "published as NaN"), with ``n_words`` (the cut) and ``published_kind``: the label
        in the file, which is the other one of creative and factual.

    Raises
    ------
    ValueError
        If name, kinds, measures or shapes are not the published ones.

    Notes
    -----
    The published script reads the factual file into what it stores as "creative" and the other way round; Jaccard-2
    recomputed from the completions shows it. Files of seen prompts are right.
    """
    named = _named(path, _RESULTS, "<model>_results_<n>_words.npy")
    array = read_npy(path)
    results = array[()] if array.shape == () else None
    if not isinstance(results, dict) or not set(results) <= set(KINDS):
        raise ValueError(f"{path}: expected one dict of creative and factual, or of seen, found {results!r:.60}")
    ours = published_measures()
    rows = []
    for label, of_kind in results.items():
        kind = SWAPPED.get(label, label)
        unknown = [name for name in of_kind if name not in ours]
        if unknown:
            raise ValueError(f"{path}: {unknown[0]!r} is no published measure")
        for name, values in of_kind.items():
            for (t, p), value in np.ndenumerate(_in_published_shape(np.asarray(values, dtype=float), path)):
                at = {"model": named["model"], "kind": kind, "prompt": f"{kind} {p:02d}"}
                told = {"temperature": TEMPERATURES[t], "measure": ours[name], "value": float(value)}
                rows.append({**at, **told, "failure": "published as NaN" if np.isnan(value) else ""})
    if set(results) & set(SWAPPED):
        log.warning("%s: creative and factual are swapped in the file, as published; put right here", path.name)
    frame = pd.DataFrame(rows).assign(n_words=int(named["n_words"]))
    return frame.assign(published_kind=frame["kind"].map(lambda kind: SWAPPED.get(kind, kind)))


def read_perplexity(path: Path) -> dict[str, Any]:
    """A published perplexity: ``model``, ``perplexity`` (of a token) and ``nll_nats``, its logarithm.

    The key "entropy" of the file is this logarithm and no entropy of predictions; one that is neither is refused.

    Raises
    ------
    ValueError
        If the file is not of the published form.
    """
    named = _named(path, _PERPLEXITY, "<model>-perplexity.json")
    told = read_json(path)
    perplexity = told.get("perplexity") if isinstance(told, Mapping) else None
    if not isinstance(perplexity, float | int) or not perplexity >= 1:
        raise ValueError(f"{path}: expected a perplexity of at least 1, found {perplexity!r:.60}")
    nll = float(np.log(perplexity))
    entropy = told.get("entropy", nll)
    if not isinstance(entropy, float | int) or abs(entropy - nll) > 1e-3:
        raise ValueError(f"{path}: its entropy {entropy!r:.60} is not the logarithm of its perplexity, {nll:.6g}")
    return {"model": named["model"], "perplexity": float(perplexity), "nll_nats": nll}


@dataclass(frozen=True)
class Calculations:
    """Published per-document data of one model.

    Attributes
    ----------
    documents : DataFrame
        A row a document: ``n_tokens``, ``nll_nats`` (sum), and where the file has them ``entropy_nats`` and
        ``confidence``: means over every input position, so that those read twice as context count twice.
    n_tokens, n_bytes : of all documents
    mean_probs : array, shape (vocab,), or None
        Mean over windows, each weighing the same; documents after the last multiple of 500 are not in it.
    n_windows : that `mean_probs` is of
    """

    documents: pd.DataFrame
    n_tokens: int
    n_bytes: int
    mean_probs: NDArray[np.float64] | None
    n_windows: int

    @property
    def perplexity(self) -> float:
        """Of a token, all tokens weighing the same."""
        return float(np.exp(self.documents["nll_nats"].sum() / self.n_tokens))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers, unlike `perplexity`."""
        return float(self.documents["nll_nats"].sum() / np.log(2) / self.n_bytes)


def read_calculations(path: Path) -> Calculations:
    """Published calculation data (``<model>-calculation_data<docs>.p``, a file of ``torch.save``).

    Raises
    ------
    ValueError
        If a key is missing, or the documents do not hold as many tokens as the file says.
    """
    told = read_torch(path)
    wanted = ("all_logprobs", "aggregate_length", "aggregate_utf8_length")
    missing = [key for key in wanted if not isinstance(told, dict) or key not in told]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: expected published calculation data")
    logprobs = [np.asarray(each, dtype=float).ravel() for each in told["all_logprobs"]]
    columns: dict[str, Any] = {
        "n_tokens": [each.size for each in logprobs],
        "nll_nats": [-each.sum() for each in logprobs],
    }
    for key, name in (("entropy", "entropy_nats"), ("next_pred_confidence", "confidence")):
        values = [np.asarray(each, dtype=float) for each in told.get(key, [])]
        if len(values) == len(logprobs) and all(each.size for each in values):
            columns[name] = [each.mean() for each in values]
    documents = pd.DataFrame(columns)
    n_tokens = int(told["aggregate_length"])
    if documents.empty or int(documents["n_tokens"].sum()) != n_tokens:
        raise ValueError(f"{path}: {int(documents['n_tokens'].sum())} log-probabilities for {n_tokens} tokens")
    blocks = [np.asarray(each, dtype=float) for each in told.get("mean_probs", [])]
    n_windows = sum(len(block) for block in blocks)
    summed = sum(block.sum(axis=0) for block in blocks) if n_windows else None
    mean = None if summed is None else summed / n_windows
    return Calculations(documents, n_tokens, int(told["aggregate_utf8_length"]), mean, n_windows)
