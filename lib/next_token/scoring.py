"""Score documents through the API into totals: each once, resuming where a killed run ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI

from lib.console import progress
from lib.next_token.keeping import ABOUT, STATE, Keeping, document_row, empty_totals, load_state, part_path, read_rows
from lib.next_token.requests import INSTEAD, TokenizedDocument, begin_token, request_statistics, requests_of, tokenized
from lib.next_token.source import Source
from lib.next_token.totals import N_RANKED, Measured, Totals
from lib.paths import content_hash, read_json
from lib.requesting import in_order

SAVE_SECONDS = 15  # between two times that totals are kept; results do not depend on it
CONCURRENCY = 2  # requests under way: the server scores one while the other is prepared and summed up


@dataclass(frozen=True)
class NextToken:
    """Statistics of one model, and the request that they come from.

    Parameters
    ----------
    model, base : ids; base is empty where no divergence was measured
    source : hash of the documents' texts
    about : every setting, as in ``about.json``
    tables : files of the table of documents
    """

    model: str
    base: str
    source: str
    about: dict[str, Any]
    totals: Totals
    tables: tuple[Path, ...]

    @cached_property
    def documents(self) -> pd.DataFrame:
        """One row per document, as in `lib.next_token.keeping.DOCUMENTS`, in the order of the source."""
        return read_rows(self.tables)


def score(
    client: OpenAI,
    model: str,
    source: Source,
    *,
    folder: Path,
    base: str = "",
    window_tokens: int = 0,
    stride_tokens: int = 0,
    begin_id: int | None = None,
    n_resamples: int = 200,
    seed: int = 0,
    description: str = "next token",
) -> NextToken:
    """Score every token of documents once, and keep what is found.

    Parameters
    ----------
    folder : each run has a folder of its own there, named by a hash of the request and the weights
    base : a model of the same tokenizer, for KL(model || base)
    window_tokens : most tokens of context; 0 for all that the model takes
    stride_tokens : how far the window moves; 0 for the whole window, so that contexts do not overlap (as published)
    begin_id : the token in front of each document, never scored; None for what the tokenizer puts there
    n_resamples, seed : of the bootstrap over documents, as in `Totals`

    Raises
    ------
    ValueError
        If source or settings are refused, the two models' tokenizers differ, or the endpoint has no ``/scores``.
    openai.OpenAIError
        What the endpoint refused; documents that were done by then stay.
    """
    surveyed = source.survey()
    models = [model, base] if base else [model]
    reported = [client.models.retrieve(each).model_dump() for each in models]
    vocab_tokens = _vocabulary(models, reported)
    window = window_tokens or min(int(each.get("context_tokens") or 0) for each in reported)
    if not window:
        raise ValueError(f"The endpoint does not report how much context {model} takes: set window_tokens")
    stride = stride_tokens or window
    if not 1 <= stride <= window:
        raise ValueError(f"stride_tokens = {stride}: expected 1 up to window_tokens, {window}")
    about: dict[str, Any] = {
        "model": model,
        "base": base,
        "fingerprints": [str(each.get("fingerprint") or each.get("id")) for each in reported],
        "tokenizer": reported[0].get("tokenizer"),
        "vocab_tokens": vocab_tokens,
        "source": surveyed.hash,
        "n_documents": surveyed.n_documents,
        "begin_id": begin_token(client, model) if begin_id is None else begin_id,
        "window_tokens": window,
        "stride_tokens": stride,
        "n_ranked": N_RANKED,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    path = folder / content_hash({k: v for k, v in about.items() if k not in ("model", "base")})
    keeping = Keeping(path, about)
    if keeping.n_seen < surveyed.n_documents:
        left = (
            tokenized(client, model, number, found.name, found.text)
            for number, found in islice(source, keeping.n_seen, None)
        )
        ask = partial(
            request_statistics,
            client,
            begin_id=about["begin_id"],
            model=model,
            base=base or None,
            window_tokens=window,
            stride_tokens=stride,
        )
        with progress(surveyed.n_documents, description, unit="document") as bar:
            bar.update(keeping.n_seen)
            _fill(keeping, in_order(ask, requests_of(left, vocab_tokens), CONCURRENCY), bar)
    return read(path)


def _vocabulary(models: Sequence[str], reported: Sequence[dict[str, Any]]) -> int:
    sizes = [int(each.get("vocab_tokens") or 0) for each in reported]
    if not all(sizes):
        raise ValueError(f"The endpoint does not report the vocabulary of {models[sizes.index(0)]}. {INSTEAD}")
    if len({(size, each.get("tokenizer")) for size, each in zip(sizes, reported, strict=True)}) > 1:
        raise ValueError(
            f"{models[0]} and {models[1]} have different tokenizers ({sizes[0]} and {sizes[1]} tokens): there is no "
            "divergence between them; leave out base, and compare bits_per_byte"
        )
    return sizes[0]


def _fill(keeping: Keeping, replies: Iterator[list[tuple[TokenizedDocument, Measured]]], bar: Any) -> None:
    rows: list[dict[str, Any]] = []
    n_seen, saved = keeping.n_seen, time.monotonic()
    for group in replies:
        keeping.totals.add([measured for _, measured in group])
        rows += [document_row(document, measured) for document, measured in group]
        n_seen += len(group)
        if time.monotonic() - saved >= SAVE_SECONDS:
            keeping.save(n_seen, rows)
            rows, saved = [], time.monotonic()
        bar.update(len(group))
    keeping.save(n_seen, rows)


def read(path: Path) -> NextToken:
    """A finished run from its folder.

    Raises
    ------
    ValueError
        If there is none, or it has not been filled to the end.
    """
    if not (path / ABOUT).is_file() or not (path / STATE).is_file():
        raise ValueError(f"{path} holds no next-token statistics: score() makes them")
    about = read_json(path / ABOUT)
    totals = empty_totals(about)
    n_seen, n_parts = load_state(path, totals)
    if n_seen < about["n_documents"]:
        raise ValueError(f"{path} has {n_seen} of {about['n_documents']} documents: score() continues where it ended")
    tables = tuple(part_path(path, part) for part in range(n_parts))
    return NextToken(about["model"], about["base"], about["source"], about, totals, tables)
