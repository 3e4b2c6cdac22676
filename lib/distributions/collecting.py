"""Fill a table of distributions in parts, each requested once, continuing where a killed run ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI

from lib.api import PROMPTS_A_REQUEST, Request, announce
from lib.console import progress
from lib.distributions.hosted import Vocabulary, ask_top_k
from lib.distributions.table import ABOUT, Distributions, Filling, rows_done
from lib.requesting import NO_SCORES, Columns, in_order, request_scores

CHUNK_ROWS = 4_096
CHUNK_TOKENS = 2**18  # of all contexts in one request
CHUNK_BYTES = 2**24  # of one reply


def collect(
    client: OpenAI,
    model: str,
    contexts: Sequence[Sequence[Any]],
    targets: Sequence[Any],
    *,
    folder: Path,
    full: bool = True,
    top_k: int = 0,
    description: str = "scoring",
) -> Distributions:
    """Request the next-token distribution of a model after each context, once, and keep it on disk.

    Parameters
    ----------
    contexts : token ids, or token strings for an endpoint that has no ``/scores``: completions of one token are
        requested there, which report the `top_k` likeliest
    targets : the token that follows each context, in the same form
    folder : of all tables, each in a folder named by a hash of request and weights; the numbers of token strings are
        in its ``vocab.json``, shared by all models, so that their rows can be compared
    full : keep the whole vocabulary; without it (and without `top_k`) only the targets
    top_k : keep that many of the likeliest tokens and the mass of the rest instead

    Raises
    ------
    ValueError
        If there are no contexts or not one target each, or the endpoint has no such numbers; says what would help.
    openai.OpenAIError
        What the endpoint refused; rows that had come by then stay.
    """
    if len(contexts) != len(targets):
        raise ValueError(f"expected one target per context, found {len(targets)} for {len(contexts)} contexts")
    if not len(targets):
        raise ValueError("there are no contexts to ask about")
    as_text = isinstance(targets[0], str)
    if as_text and top_k < 1:
        raise ValueError("contexts of token strings are sent as completions, which need a top_k of 1 or more")
    about = client.models.retrieve(model).model_dump()
    weights = str(about.get("fingerprint") or about.get("id") or model)
    vocab_size = int(about.get("vocab_tokens") or 0)
    top_k = min(top_k, vocab_size or top_k)
    full = full and not top_k
    path = folder / _key(weights, contexts, targets, [as_text, full, top_k])
    if (path / ABOUT).is_file() and rows_done(path) == len(targets):
        return Distributions.open(path)

    vocabulary = Vocabulary(folder / "vocab.json") if as_text else None
    if as_text:
        ask = partial(_complete, client, model, contexts, targets, top_k)
        chunk_rows, concurrency = PROMPTS_A_REQUEST, 8
    elif full and not vocab_size:
        raise ValueError(f"The endpoint does not report the vocabulary of {model}. {NO_SCORES}")
    else:
        ask = partial(_score, client, model, contexts, targets, full, top_k)
        row_bytes = 4 + 8 * top_k + (2 * vocab_size if full else 0)
        chunk_rows, concurrency = min(CHUNK_ROWS, max(1, CHUNK_BYTES // row_bytes)), 2
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {"target_logprobs": (np.float32, ())}
    if full:
        arrays["logprobs"] = (np.float16, (vocab_size,))
    elif top_k:
        arrays |= {"ids": (np.int32, (top_k,)), "logprobs": (np.float32, (top_k,)), "tail": (np.float32, ())}
    table = Filling(
        path, {"model": model, "fingerprint": weights, "n": len(targets), "vocab_size": vocab_size or None}, arrays
    )
    if as_text:
        rest = ("".join(context) for context in contexts[table.done :])
        announce(client, (Request(model=model, prompt=prompt, max_tokens=1) for prompt in rest), description)
    with progress(len(targets), description, unit="row") as bar:
        bar.update(table.done)
        chunks = _chunks(contexts, table.done, chunk_rows)
        for columns in in_order(lambda chunk: ask(*chunk), chunks, concurrency):
            if vocabulary is not None:
                columns["ids"] = vocabulary.number(columns["ids"])
            table.add(columns)
            bar.update(len(columns["target_logprobs"]))
    return Distributions.open(path)


def _key(weights: str, contexts: Sequence[Sequence[Any]], targets: Sequence[Any], settings: list[Any]) -> str:
    """Name of a table, a hash of request and weights; computed row by row, since the contexts may be many."""
    digest = hashlib.sha256(repr([weights, settings]).encode())
    for context, target in zip(contexts, targets, strict=True):
        digest.update(repr([*map(_plain, context), _plain(target)]).encode())
    return digest.hexdigest()[:16]


def _plain(token: Any) -> int | str:
    return token if isinstance(token, str) else int(token)


def _chunks(contexts: Sequence[Sequence[Any]], start: int, most_rows: int) -> Iterator[tuple[int, int]]:
    """Rows of each request: as many as fit its limits on rows and tokens."""
    n_tokens = 0
    for k in range(start, len(contexts)):
        if k > start and (k - start == most_rows or n_tokens + len(contexts[k]) > CHUNK_TOKENS):
            yield start, k
            start, n_tokens = k, 0
        n_tokens += len(contexts[k])
    if start < len(contexts):
        yield start, len(contexts)


def _score(
    client: OpenAI,
    model: str,
    contexts: Sequence[Sequence[int]],
    targets: Sequence[int],
    full: bool,
    top_k: int,
    start: int,
    stop: int,
) -> Columns:
    """One request to ``/scores``."""
    body = {
        "model": model,
        "contexts": [[int(token) for token in context] for context in contexts[start:stop]],
        "targets": [int(token) for token in targets[start:stop]],
        "full": full,
        "top_k": top_k,
    }
    columns = request_scores(client, body)
    if top_k:  # a truncating API would not have reported it: it is not used either
        seen = (columns["ids"] == np.array(body["targets"])[:, None]).any(axis=1)
        columns["target_logprobs"] = np.where(seen, columns["target_logprobs"], np.nan)
    return columns


def _complete(
    client: OpenAI,
    model: str,
    contexts: Sequence[Sequence[str]],
    targets: Sequence[str],
    top_k: int,
    start: int,
    stop: int,
) -> Columns:
    prompts = ["".join(context) for context in contexts[start:stop]]
    return ask_top_k(client, model, prompts, targets[start:stop], top_k)
