"""What models predict at the same targets: drawn once, requested once, kept on disk.

An endpoint with ``/scores`` gives whole distributions, or their k most probable tokens by id. Any other endpoint gives
the k most probable tokens by their strings, from completions of one token. Whatever a list of k lacks shares the
remaining probability evenly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from openai import OpenAI, OpenAIError

from lib.api import PROMPTS_A_REQUEST, Request, announce
from lib.console import progress
from lib.paths import atomic_write
from lib.tokens import Columns, in_order, request_scores, tokenize

CHUNK_ROWS, CHUNK_TOKENS, CHUNK_BYTES = 4_096, 2**18, 2**24  # most of one request, and of its reply
LOWEST = float(np.finfo(np.float16).min)  # nats; stands for no probability at all
LEAST_MASS = 1e-7  # of all tokens outside a list: log-probabilities are rounded
TRIES = 8  # for an answer that does not end the text at once, which comes without log-probabilities
INSTEAD = "Set top_k and vocab_tokens: completions of one token then report the most probable ones."


class Predictions(NamedTuple):
    """One model's predictions at n targets: of all tokens, of the k most probable ones, or of the targets alone.

    `target`: the true token's id (n,). `target_logprobs`: (n,) in nats, NaN where a list lacks the target. `logprobs`:
    (n, vocab), (n, k) or None. `ids`: of lists, (n, k), -1 for none. `tail`: log of the mass outside a list, (n,).
    """

    target: NDArray[np.int64]
    target_logprobs: NDArray[Any]
    logprobs: NDArray[Any] | None
    ids: NDArray[Any] | None
    tail: NDArray[Any] | None
    vocab_size: int

    def rows(self, which: Any) -> Predictions:
        """The predictions at some of the targets."""
        fields = self._asdict().items()
        return self._replace(**{name: value[which] for name, value in fields if isinstance(value, np.ndarray)})

    def tail_per_token(self) -> NDArray[np.float64]:
        """Log-probability of each token that a list lacks: they share its tail evenly, (n,), nats."""
        assert self.ids is not None
        assert self.tail is not None
        return np.maximum(self.tail - np.log(np.maximum(self.vocab_size - (self.ids >= 0).sum(axis=1), 1)), LOWEST)

    def nll(self) -> NDArray[np.float64]:
        """Negative log-likelihood of each target, (n,), nats."""
        logprobs = np.array(self.target_logprobs, dtype=float)
        return -(logprobs if self.ids is None else np.where(np.isnan(logprobs), self.tail_per_token(), logprobs))


class Aligned(NamedTuple):
    """Log-probabilities of three models, (n, m) each, column by column for the same tokens, and the target's column.

    `log_counts`: log of how many tokens a column stands for, (n, m): 0 but for the tokens that no list of k has.
    """

    big: NDArray[Any]
    tuned: NDArray[Any]
    base: NDArray[Any]
    target: NDArray[Any]
    document: NDArray[Any]
    log_counts: NDArray[Any]

    def rows(self, which: slice) -> Aligned:
        """Some of the targets."""
        return self._replace(**{name: value[which] for name, value in self._asdict().items()})


def draw_targets(
    client: OpenAI, model: str, documents: pd.DataFrame, *, n_targets: int, context_tokens: Sequence[int]
) -> pd.DataFrame:
    """Tokens to predict, at even steps through all that have the longest context before them.

    Parameters
    ----------
    model : whose tokenizer cuts the documents (``name``, ``text``)
    n_targets : how many, each after every number of `context_tokens`; fewer where the documents are shorter

    Returns
    -------
    DataFrame, one row per length and target: ``context_tokens``, ``document``, ``position``, ``context`` and
        ``token`` (ids, or strings where the endpoint reports no ids), ``word`` and ``n_bytes``

    Raises
    ------
    ValueError
        If no document is longer than the longest context, or lengths do not rise from 1 on.
    """
    lengths = list(context_tokens)
    if not lengths or lengths[0] < 1 or lengths != sorted(set(lengths)):
        raise ValueError(f"context_tokens {lengths}: expected rising lengths from 1 on")
    cut = {name: tokenize(client, model, text) for name, text in zip(documents["name"], documents["text"], strict=True)}
    positions = [(name, p) for name, tokens in cut.items() for p in range(lengths[-1], len(tokens.items))]
    if not positions:
        longest = max(len(tokens.items) for tokens in cut.values())
        raise ValueError(
            f"no document of {len(cut)} has a token after {lengths[-1]} others (the longest: {longest} tokens): give "
            "longer documents or lower context_tokens"
        )
    chosen = np.unique(np.linspace(0, len(positions) - 1, min(n_targets, len(positions))).round().astype(int))
    columns = ["context_tokens", "document", "position", "context", "token", "word", "n_bytes"]
    rows = [
        (length, name, p, list(tokens.items[p - length : p]), tokens.items[p], tokens.texts[p], tokens.n_bytes[p])
        for length in lengths
        for name, p in (positions[k] for k in chosen)
        for tokens in (cut[name],)
    ]
    return pd.DataFrame(rows, columns=columns)


def predict(
    client: OpenAI, models: Mapping[str, bool], targets: pd.DataFrame, *, folder: Path, top_k: int = 0,
    vocab_tokens: int = 0,
) -> dict[str, Predictions]:  # fmt: skip
    """Predictions of models at targets; what lies in the folder is not requested again.

    Parameters
    ----------
    models : by id, whether the whole distribution is needed, or the targets' log-probabilities alone
    targets : with ``context`` and ``token``, as of `draw_targets`
    top_k : 0 requests all tokens; else the k most probable ones are seen, as at a hosted endpoint
    vocab_tokens : size of the vocabulary, where the endpoint does not report it

    Raises
    ------
    ValueError
        If the endpoint has no such numbers, or the size of the vocabulary is not known; says what would help.
    openai.OpenAIError
        What the endpoint refused; what had come by then stays.
    """
    as_text = isinstance(targets["token"].iloc[0], str)
    if as_text and not top_k:
        raise ValueError(f"The endpoint reports no ids of tokens, so that it has no /scores. {INSTEAD}")
    tables: dict[str, Columns] = {}
    sizes = {vocab_tokens}
    for model, full in models.items():
        about = client.models.retrieve(model).model_dump()
        sizes.add(int(about.get("vocab_tokens") or 0))
        weights = str(about.get("fingerprint") or about.get("id") or model)
        k = min(top_k, about.get("vocab_tokens") or top_k)
        row_bytes = 4 + 8 * k + (0 if k or not full else 2 * max(sizes))
        n_rows = PROMPTS_A_REQUEST if as_text else min(CHUNK_ROWS, max(1, CHUNK_BYTES // row_bytes))
        chunks = _chunks(targets, n_rows)
        if as_text:
            requests = (Request(model=model, prompt="".join(each), max_tokens=1) for each in targets["context"])
            announce(client, requests, f"predictions of {model}")
            one = partial(_complete, client, model, k=k)
        else:
            one = partial(_score, client, model, full=full and not k, k=k)
        name = f"predictions of {model.split(':')[0]}{', tuned' if ':' in model else ''}"
        with progress(len(chunks), name, unit="request") as bar:
            parts = []
            for columns in in_order(partial(_once, one, folder, [weights, full, k]), chunks, 8 if as_text else 2):
                parts.append(columns)
                bar.update(1)
        tables[model] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if not (vocab_size := max(sizes)):
        raise ValueError("the endpoint does not report how many tokens its vocabulary has: set vocab_tokens")
    token = targets["token"].to_numpy()
    if as_text:  # the same number for a string in all models
        texts = np.unique(np.concatenate([token.astype(str), *(each["ids"].ravel() for each in tables.values())]))
        texts = texts[texts != ""]
        token = np.searchsorted(texts, token.astype(str))
        for each in tables.values():
            each["ids"] = np.where(each["ids"] == "", -1, np.searchsorted(texts, each["ids"]))
    known = {"target": token.astype(np.int64), "logprobs": None, "ids": None, "tail": None, "vocab_size": vocab_size}
    return {model: Predictions(**(known | columns)) for model, columns in tables.items()}


def _chunks(targets: pd.DataFrame, most_rows: int) -> list[pd.DataFrame]:
    """Rows of each request: as many as fit its limits on rows and tokens."""
    starts, n_tokens = [0], 0
    for row, size in enumerate(targets["context"].map(len)):
        if row > starts[-1] and (row - starts[-1] == most_rows or n_tokens + size > CHUNK_TOKENS):
            starts.append(row)
            n_tokens = 0
        n_tokens += size
    return [targets.iloc[start:stop] for start, stop in zip(starts, [*starts[1:], len(targets)], strict=True)]


def _once(request: Any, folder: Path, about: Sequence[Any], chunk: pd.DataFrame) -> Columns:
    """The reply to a request, from its file if there is one; the file is named by the hash of weights and request."""
    contexts, tokens = chunk["context"].tolist(), chunk["token"].tolist()
    path = folder / f"{hashlib.sha256(repr([*about, contexts, tokens]).encode()).hexdigest()[:24]}.npz"
    if not path.exists():
        columns = request(contexts, tokens)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            np.savez(file, **columns)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _score(
    client: OpenAI, model: str, contexts: Sequence[Any], tokens: Sequence[int], *, full: bool, k: int
) -> Columns:
    body = {"model": model, "contexts": contexts, "targets": tokens, "full": full, "top_k": k}
    columns = request_scores(client, body, instead=INSTEAD)
    if k:  # a list of k alone would not have shown the others
        seen = (columns["ids"] == np.array(tokens)[:, None]).any(axis=1)
        columns["target_logprobs"] = np.where(seen, columns["target_logprobs"], np.nan)
    return columns


def _complete(client: OpenAI, model: str, contexts: Sequence[Any], tokens: Sequence[str], *, k: int) -> Columns:
    """The k most probable tokens after each context by their strings, from completions of one token."""
    replies: dict[int, dict[str, float]] = {}
    for attempt in range(TRIES):
        if not (missing := [row for row in range(len(contexts)) if row not in replies]):
            break
        reply = client.completions.create(
            model=model, prompt=["".join(contexts[row]) for row in missing], max_tokens=1, logprobs=k, seed=attempt,
            temperature=2 if attempt else 0,
        )  # fmt: skip
        for choice in reply.choices:
            listed = choice.logprobs.top_logprobs if choice.logprobs else None
            if listed and listed[0]:  # the token that was drawn may stand beside the k most probable ones
                likeliest = sorted(listed[0].items(), key=lambda item: -item[1])[:k]
                replies[missing[choice.index]] = dict(likeliest)
    if len(replies) < len(contexts):
        raise OpenAIError(
            f"{model} sent no log-probabilities for {len(contexts) - len(replies)} of {len(contexts)} contexts in "
            f"{TRIES} tries: the endpoint gives none, or the text ends there"
        )
    lists = [replies[row] for row in range(len(contexts))]
    ids = np.array([[*each, *[""] * (k - len(each))] for each in lists])
    logprobs = np.array([[*each.values(), *[LOWEST] * (k - len(each))] for each in lists]).clip(LOWEST)
    true = np.array([each.get(token, np.nan) for each, token in zip(lists, tokens, strict=True)])
    return {"target_logprobs": true, "ids": ids, "logprobs": logprobs, "tail": tail_of(logprobs)}


def tail_of(logprobs: NDArray[Any]) -> NDArray[np.float64]:
    """Log of the mass that lists of log-probabilities, (n, k), leave for all other tokens."""
    return np.log(np.maximum(1 - np.exp(logprobs.astype(float)).sum(axis=1), LEAST_MASS))
