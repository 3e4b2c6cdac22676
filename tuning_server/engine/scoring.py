"""Log-probabilities of the whole vocabulary by teacher forcing, and texts as vectors.

Ids are read as they are given: no begin-of-text token is put in front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from tuning_server.engine.kv_cache import group_equal
from tuning_server.engine.models import LoadedModel

BATCH_TOKENS = 2_048  # fed to a processor at once: what lies between layers should stay in its cache
TIMES_ON_GPU = 8  # as much there
LOGITS_BYTES = {"cpu": 2**24, "cuda": 2**30}  # float32 logits in memory at once: more was slower on a processor
LEAST_ROWS = 1_024  # rows of logits in any case: fewer would cut a window into passes that repeat each other
LEAST_FULL = 0.75  # shortest row of a batch, as a share of its longest
LOWEST = float(np.finfo(np.float16).min)  # nats; float16 has nothing below, and minus infinity would poison a mean


@dataclass(frozen=True)
class Scores:
    """Predictions of one model at each scored position, in the order of the input.

    Parameters
    ----------
    target_logprobs : array, shape (n,), nats, float32
    logprobs : array, shape (n, vocab) float16, or (n, k) float32 of the likeliest; None where neither was requested
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
    """Ids to feed, the first column whose prediction is scored (with all after it), and the row of that score."""

    ids: Sequence[int] | np.ndarray
    first: int
    row: int

    @property
    def columns(self) -> range:
        return range(self.first, len(self.ids))


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
        If a context is empty or longer than the model's, or an id has no token.
    """
    for k, ids in enumerate(contexts):
        _check_ids(loaded, ids, f"context {k}", loaded.context_tokens)
    spans = [_Span(ids, len(ids) - 1, k) for k, ids in enumerate(contexts)]
    return _score(loaded, spans, targets, full=full, top_k=top_k)


def score_documents(
    loaded: LoadedModel,
    documents: Sequence[Sequence[int]],
    *,
    window_tokens: int,
    stride_tokens: int,
    full: bool = False,
    top_k: int = 0,
) -> Scores:
    """Score every token of documents but each one's first, once; the rows of one document follow those of another.

    Parameters
    ----------
    window_tokens : most tokens of context
    stride_tokens : how far the window moves; a position has at least ``window_tokens - stride_tokens`` tokens of
        context, where so many stand before it

    Raises
    ------
    ValueError
        If a document is empty or has an id without a token, or window and stride do not fit the model or each other.
    """
    if not 1 <= stride_tokens <= window_tokens <= loaded.context_tokens:
        raise ValueError(
            f"expected 1 <= stride_tokens <= window_tokens <= {loaded.context_tokens} (the context of {loaded.id}), "
            f"found stride_tokens={stride_tokens} and window_tokens={window_tokens}"
        )
    spans, targets = list[_Span](), list[int]()
    for k, ids in enumerate(documents):
        _check_ids(loaded, ids, f"document {k}", math.inf)
        parts = windows(len(ids), window_tokens=window_tokens, stride_tokens=stride_tokens, most=_most_rows(loaded))
        fed = np.asarray(ids)  # windows overlap, and its slices are no copies
        spans += [_Span(fed[start:end], first - 1 - start, len(targets) + first - 1) for start, end, first in parts]
        targets += ids[1:]
    return _score(loaded, spans, targets, full=full, top_k=top_k)


@torch.inference_mode()
def embed(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of the last hidden states (after the final norm) over the tokens of each text; each distinct text once.

    Returns
    -------
    array, shape (texts, width), float32
    """
    vectors = np.zeros((len(texts), loaded.model.get_input_embeddings().weight.shape[1]), np.float32)
    rows = group_equal(texts)
    spans = [_Span(ids, len(ids) - 1, same[0]) for ids, same in rows.items()]
    for batch in _batches(spans, _most_tokens(loaded), len(spans)):
        fed = _right_padded(loaded, batch)
        states = loaded.model.base_model(input_ids=fed, use_cache=False).last_hidden_state  # (batch, longest, width)
        lengths = torch.tensor([[len(span.ids)] for span in batch], device=loaded.device)  # (batch, 1)
        is_padding = torch.arange(fed.shape[1], device=loaded.device) >= lengths
        means = states.float().masked_fill(is_padding[..., None], 0).sum(1) / lengths
        for span, mean in zip(batch, means.cpu().numpy(), strict=True):
            vectors[rows[tuple(span.ids)]] = mean
    return vectors


def windows(n_tokens: int, *, window_tokens: int, stride_tokens: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Parts of a document that predict each token but the first once: start, end, first predicted position.

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


def _check_ids(loaded: LoadedModel, ids: Sequence[int], name: str, most: float) -> None:
    """Refuse (ValueError) too few or too many ids, and ids without a token."""
    if not 1 <= len(ids) <= most:
        raise ValueError(
            f"{name} has {len(ids) or 'no'} tokens; {loaded.id} takes 1 to {loaded.context_tokens} at once"
        )
    if min(ids) < 0 or max(ids) >= loaded.vocab_size:
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise ValueError(
            f"{name}: token id {wrong} is not in the vocabulary of {loaded.id} (0 to {loaded.vocab_size - 1})"
        )


def _most_rows(loaded: LoadedModel) -> int:
    """Rows of logits that may be in memory at once."""
    return max(LEAST_ROWS, LOGITS_BYTES.get(loaded.device.type, 2**26) // (4 * loaded.n_outputs))


def _most_tokens(loaded: LoadedModel) -> int:
    """Tokens that may be fed at once, padding included; a row may be longer."""
    return BATCH_TOKENS * (1 if loaded.device.type == "cpu" else TIMES_ON_GPU)


def _batches(spans: Sequence[_Span], most_tokens: int, most_rows: int) -> Iterator[list[_Span]]:
    """Spans of about one length together, the longest first."""
    batch: list[_Span] = []
    columns: set[int] = set()
    for span in sorted(spans, key=lambda span: (-len(span.ids), span.first)):
        n_rows = len(batch) + 1
        if batch and (
            n_rows * len(batch[0].ids) > most_tokens
            or n_rows * len(columns.union(span.columns)) > most_rows
            or len(span.ids) < LEAST_FULL * len(batch[0].ids)
        ):
            yield batch
            batch, columns = [], set()
        batch.append(span)
        columns.update(span.columns)
    if batch:
        yield batch


def _right_padded(loaded: LoadedModel, batch: Sequence[_Span]) -> torch.Tensor:
    """Ids of a batch, shape (batch, longest): causal attention keeps padding behind a token from changing it."""
    rows = [torch.tensor(span.ids) for span in batch]
    return pad_sequence(rows, batch_first=True).to(loaded.device)


@torch.inference_mode()
def _forward(loaded: LoadedModel, batch: Sequence[_Span]) -> torch.Tensor:
    """Log-probabilities of a batch, shape (rows of all spans, vocab), by one pass with logits at scored columns."""
    fed = _right_padded(loaded, batch)
    columns = sorted(set().union(*(span.columns for span in batch)))
    scored = torch.tensor(columns, device=loaded.device)
    logits = loaded.model(input_ids=fed, use_cache=False, logits_to_keep=scored).logits  # (batch, columns, outputs)
    is_scored = torch.tensor([[column in span.columns for column in columns] for span in batch], device=loaded.device)
    # outputs beyond the tokenizer's tokens are padding: cut off before normalising
    return logits[is_scored][:, : loaded.vocab_size].float().log_softmax(-1)


def _score(loaded: LoadedModel, spans: Sequence[_Span], targets: Sequence[int], *, full: bool, top_k: int) -> Scores:
    n, vocab = len(targets), loaded.vocab_size
    if not 0 <= top_k <= vocab:
        raise ValueError(f"top_k is at most the vocabulary of {loaded.id}, {vocab}; found {top_k}")
    if targets:
        _check_ids(loaded, targets, "targets", math.inf)
    target_ids = torch.tensor(targets, dtype=torch.long)
    scores = Scores(
        np.empty(n, np.float32),
        np.empty((n, vocab), np.float16) if full else np.empty((n, top_k), np.float32) if top_k else None,
        np.empty((n, top_k), np.int32) if top_k else None,
        np.empty(n, np.float32) if top_k else None,
    )
    for batch in _batches(spans, _most_tokens(loaded), _most_rows(loaded)):
        rows = np.concatenate([np.arange(span.row, span.row + len(span.columns)) for span in batch])
        _fill(scores, rows, _forward(loaded, batch), target_ids[rows].to(loaded.device))
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
