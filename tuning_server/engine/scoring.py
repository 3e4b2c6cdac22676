"""Full-vocabulary log-probabilities by teacher forcing: after each of many contexts, or rolling over whole documents.

Ids are scored as they are given: no begin-of-text token is put in front. Memory is bounded by the size of a batch,
never by the number of contexts or documents; rows come as their batch is done, not in the order of the input.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tuning_server.engine.models import LoadedModel

BATCH_TOKENS = 2_048  # fed to a processor at once: what lies between layers should stay in its cache
TIMES_ON_GPU = 8  # as much there
LOGITS_BYTES = {"cpu": 2**24, "cuda": 2**30}  # float32 logits held at once: more was slower on a processor
LEAST_ROWS = (
    1_024  # but so many rows of logits in any case: fewer would cut a window into passes that repeat each other
)
BATCHES_SORTED = 64  # as many batches are put in order of length together, so that little is padded
LEAST_FULL = 0.75  # shortest row of a batch, as a share of its longest
LOWEST = float(np.finfo(np.float16).min)  # nats; float16 holds nothing below, and minus infinity would poison a mean


@dataclass(frozen=True)
class Scores:
    """What one model says at each scored place, in the order of the input.

    Parameters
    ----------
    target_logprobs : array, shape (n,), nats, float32
    logprobs : array, shape (n, vocab) float16, or (n, k) float32 of the likeliest; None where neither was asked for
    ids : array, shape (n, k), int32, likeliest first
    tail : array, shape (n,), nats, float32
        Log of the mass outside the k likeliest.
    """

    target_logprobs: np.ndarray
    logprobs: np.ndarray | None = None
    ids: np.ndarray | None = None
    tail: np.ndarray | None = None


@dataclass(frozen=True)
class _Span:
    """Ids to feed and the first column whose prediction is wanted; the columns after it are wanted too."""

    ids: Sequence[int]
    first: int
    place: int  # which context, or where its first row lies among all rows


def next_logprobs(loaded: LoadedModel, contexts: Iterable[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities of the token that follows each context.

    Parameters
    ----------
    contexts : token ids, 1 up to the model's context each; may be a generator, of which little is held at a time

    Yields
    ------
    indices : array, shape (rows,), of the contexts in this batch
    logprobs : array, shape (rows, vocab), nats, float32

    Raises
    ------
    ValueError
        If a context is empty, longer than the model's, or holds an id that the model has no token for.
    """
    for batch, logprobs in _passes(loaded, _next_spans(loaded, contexts)):
        yield np.array([span.place for span in batch]), logprobs.cpu().numpy()


def rolling_logprobs(
    loaded: LoadedModel, ids: Sequence[int], *, window_tokens: int, stride_tokens: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities at every position of a document but the first, each position once.

    Parameters
    ----------
    window_tokens : most tokens of context
    stride_tokens : how far the window moves; a position has at least ``window_tokens - stride_tokens`` tokens of
        context, where so many stand before it

    Yields
    ------
    positions : array, shape (n,), of the tokens in `ids` that are predicted
    logprobs : array, shape (n, vocab), nats, float32

    Raises
    ------
    ValueError
        If the document is empty, or window and stride do not fit the model or each other.
    """
    for batch, logprobs in _passes(loaded, _rolling_spans(loaded, [ids], window_tokens, stride_tokens)):
        rows, start = logprobs.cpu().numpy(), 0
        for span in batch:
            n = len(span.ids) - span.first
            yield np.arange(span.place + 1, span.place + 1 + n), rows[start : start + n]
            start += n


def score_contexts(
    loaded: LoadedModel,
    contexts: Sequence[Sequence[int]],
    targets: Sequence[int],
    *,
    full: bool = False,
    top_k: int = 0,
) -> Scores:
    """Score the token that follows each context; with `full` the whole vocabulary, with `top_k` its likeliest tokens.

    Raises
    ------
    ValueError
        As `next_logprobs`, and if there is not one target a context.
    """
    if len(contexts) != len(targets):
        raise ValueError(f"expected one target a context, found {len(targets)} for {len(contexts)} contexts")
    return _collect(loaded, _next_spans(loaded, contexts), targets, full=full, top_k=top_k)


def score_documents(
    loaded: LoadedModel,
    documents: Sequence[Sequence[int]],
    *,
    window_tokens: int,
    stride_tokens: int,
    full: bool = False,
    top_k: int = 0,
) -> Scores:
    """Score every token of documents but each one's first, as `rolling_logprobs` does; rows of one follow another's."""
    targets = [token for ids in documents for token in ids[1:]]
    spans = _rolling_spans(loaded, documents, window_tokens, stride_tokens)
    return _collect(loaded, spans, targets, full=full, top_k=top_k)


def windows(n_tokens: int, *, window_tokens: int, stride_tokens: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Which tokens to feed so that each but the first is predicted once: start, end, first predicted position.

    Parameters
    ----------
    most : predictions that one pass may make

    >>> list(windows(10, window_tokens=4, stride_tokens=2, most=100))
    [(0, 4, 1), (2, 6, 5), (4, 8, 7), (6, 9, 9)]
    """
    done = 0  # positions up to this one have been predicted
    while done < n_tokens - 1:
        end = min(window_tokens, done + most) if done < window_tokens else done + min(stride_tokens, most)
        yield max(0, end - window_tokens), min(end, n_tokens - 1), done + 1
        done = end


def _next_spans(loaded: LoadedModel, contexts: Iterable[Sequence[int]]) -> Iterator[_Span]:
    for k, ids in enumerate(contexts):
        if not len(ids):
            raise ValueError(f"context {k} has no tokens; the end-of-text token begins a document")
        if len(ids) > loaded.context_tokens:
            raise ValueError(
                f"context {k} has {len(ids)} tokens, {loaded.id} takes at most {loaded.context_tokens}: shorten it"
            )
        yield _Span(ids, len(ids) - 1, k)


def _rolling_spans(
    loaded: LoadedModel, documents: Iterable[Sequence[int]], window_tokens: int, stride_tokens: int
) -> Iterator[_Span]:
    if not 1 <= stride_tokens <= window_tokens <= loaded.context_tokens:
        raise ValueError(
            f"expected 1 <= stride_tokens <= window_tokens <= {loaded.context_tokens} (the context of {loaded.id}), "
            f"found stride_tokens={stride_tokens} and window_tokens={window_tokens}"
        )
    n_before = 0
    for k, ids in enumerate(documents):
        if not len(ids):
            raise ValueError(f"document {k} has no tokens: leave it out")
        parts = windows(len(ids), window_tokens=window_tokens, stride_tokens=stride_tokens, most=_most_rows(loaded))
        for start, end, position in parts:
            yield _Span(ids[start:end], position - 1 - start, n_before + position - 1)
        n_before += len(ids) - 1


def _most_rows(loaded: LoadedModel) -> int:
    """Rows of logits that may be held at once."""
    width = int(getattr(loaded.model.config, "vocab_size", loaded.vocab_size))
    return max(LEAST_ROWS, LOGITS_BYTES.get(loaded.device.type, 2**26) // (4 * width))


def _most_tokens(loaded: LoadedModel) -> int:
    """Tokens that may be fed at once, padding included; a row may be longer."""
    return BATCH_TOKENS * (1 if loaded.device.type == "cpu" else TIMES_ON_GPU)


def _batches(spans: Iterable[_Span], most_tokens: int, most_rows: int) -> Iterator[list[_Span]]:
    """Spans of about one length together; a buffer of several batches is sorted at a time."""
    buffer: list[_Span] = []
    n_tokens = 0
    for span in spans:
        buffer.append(span)
        n_tokens += len(span.ids)
        if n_tokens >= BATCHES_SORTED * most_tokens or len(buffer) >= BATCHES_SORTED * most_rows:
            yield from _sorted_batches(buffer, most_tokens, most_rows)
            buffer, n_tokens = [], 0
    yield from _sorted_batches(buffer, most_tokens, most_rows)


def _sorted_batches(spans: list[_Span], most_tokens: int, most_rows: int) -> Iterator[list[_Span]]:
    batch: list[_Span] = []
    columns: set[int] = set()
    for span in sorted(spans, key=lambda span: (-len(span.ids), span.first)):
        wider = columns.union(range(span.first, len(span.ids)))
        n_rows = len(batch) + 1
        if batch and (
            n_rows * len(batch[0].ids) > most_tokens
            or n_rows * len(wider) > most_rows
            or len(span.ids) < LEAST_FULL * len(batch[0].ids)
        ):
            yield batch
            batch, wider = [], set(range(span.first, len(span.ids)))
        batch.append(span)
        columns = wider
    if batch:
        yield batch


def _passes(loaded: LoadedModel, spans: Iterable[_Span]) -> Iterator[tuple[list[_Span], torch.Tensor]]:
    """Batches of spans and their log-probabilities, shape (rows of all spans, vocab)."""
    for batch in _batches(spans, _most_tokens(loaded), _most_rows(loaded)):
        yield batch, _forward(loaded, batch)


@torch.inference_mode()
def _forward(loaded: LoadedModel, batch: Sequence[_Span]) -> torch.Tensor:
    """One pass; logits are made at the columns that some span wants, and no others."""
    longest = len(batch[0].ids)
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    for r, span in enumerate(batch):
        ids[r, : len(span.ids)] = span.ids  # right padding: causal attention keeps it from changing what stands before
    if ids.min() < 0 or ids.max() >= loaded.vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"token id {wrong} is not in the vocabulary of {loaded.id} (0 to {loaded.vocab_size - 1})")
    columns = sorted(set().union(*(range(span.first, len(span.ids)) for span in batch)))
    fed = torch.from_numpy(ids).to(loaded.device)
    wanted = torch.tensor(columns, device=loaded.device)
    if "logits_to_keep" in inspect.signature(loaded.model.forward).parameters:
        is_end = len(columns) == longest - columns[0]  # every model knows how to keep the last ones without a copy
        keep = len(columns) if is_end else wanted
        logits = loaded.model(input_ids=fed, use_cache=False, logits_to_keep=keep).logits
    else:
        logits = loaded.model(input_ids=fed, use_cache=False).logits[:, wanted]
    # (batch, columns, output width)
    if all(len(span.ids) == longest and span.first == batch[0].first for span in batch):
        rows = logits.flatten(0, 1)
    else:
        at = {column: k for k, column in enumerate(columns)}
        rows = torch.cat([logits[r, at[span.first] : at[len(span.ids) - 1] + 1] for r, span in enumerate(batch)])
    # outputs beyond the tokenizer's tokens are padding: cut off before normalising
    return rows[:, : loaded.vocab_size].float().log_softmax(-1)  # (rows, vocab)


def _collect(loaded: LoadedModel, spans: Iterator[_Span], targets: Sequence[int], *, full: bool, top_k: int) -> Scores:
    n, vocab = len(targets), loaded.vocab_size
    if full and top_k:
        raise ValueError("ask for the full vocabulary or for its top_k, not for both")
    if not 0 <= top_k <= vocab:
        raise ValueError(f"top_k is at most the vocabulary of {loaded.id}, {vocab}; found {top_k}")
    wanted = np.asarray(targets, dtype=np.int64)
    if n and (wanted.min() < 0 or wanted.max() >= vocab):
        wrong = wanted.min() if wanted.min() < 0 else wanted.max()
        raise ValueError(f"target {wrong} is not in the vocabulary of {loaded.id} (0 to {vocab - 1})")
    scores = Scores(
        np.empty(n, np.float32),
        np.empty((n, vocab), np.float16) if full else np.empty((n, top_k), np.float32) if top_k else None,
        np.empty((n, top_k), np.int32) if top_k else None,
        np.empty(n, np.float32) if top_k else None,
    )
    for batch, logprobs in _passes(loaded, spans):
        rows = np.concatenate([np.arange(span.place, span.place + len(span.ids) - span.first) for span in batch])
        _fill(scores, rows, logprobs, torch.from_numpy(wanted[rows]).to(logprobs.device))
    return scores


@torch.inference_mode()
def _fill(scores: Scores, rows: np.ndarray, logprobs: torch.Tensor, targets: torch.Tensor) -> None:
    scores.target_logprobs[rows] = logprobs.gather(1, targets[:, None])[:, 0].cpu().numpy()
    if scores.ids is not None and scores.logprobs is not None and scores.tail is not None:
        top, ids = torch.topk(logprobs, scores.ids.shape[1], dim=1)
        scores.logprobs[rows], scores.ids[rows] = top.cpu().numpy(), ids.cpu().numpy()
        tail = logprobs.scatter(1, ids, -torch.inf).logsumexp(-1).clamp(min=LOWEST)
        scores.tail[rows] = tail.cpu().numpy()
    elif scores.logprobs is not None:
        scores.logprobs[rows] = logprobs.clamp(min=LOWEST).half().cpu().numpy()
