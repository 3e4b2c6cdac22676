"""Log-probabilities of the whole vocabulary by teacher forcing, and texts as vectors.

Ids are read as they are given: no begin-of-text token is put in front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from tuning_server.engine.devices import free_bytes
from tuning_server.engine.kv_cache import group_equal
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.statistics import TARGETS_ONLY, Block, Outputs, of_documents, of_positions

BATCH_TOKENS = 2_048  # fed to a processor at once: what lies between layers should stay in its cache
BATCH_TOKENS_ON_GPU = 65_536  # fed to a GPU at once, where memory allows
SHARE_OF_FREE = 0.25  # of a GPU's free memory for float32 logits, had every token some
LOGITS_BYTES = 2**24  # of float32 logits in memory at once on a processor: more was slower
LEAST_ROWS = 1_024  # rows of logits in any case: fewer would cut a window into passes that repeat each other
LEAST_FULL = 0.75  # shortest row of a batch, as a share of its longest
BLOCK_BYTES = {"cuda": 2**28}  # of float32 logits reduced at once
BLOCK_BYTES_ELSEWHERE = 2**23  # these and what is computed of them should stay in a processor's cache

Scores = dict[str, np.ndarray]  # by name: target_logprobs (nats, float32), and what `Outputs` requests


@dataclass(frozen=True)
class _Span:
    """Ids to feed, the first column whose prediction is scored (with all after it), its row, and its document."""

    ids: Sequence[int] | np.ndarray
    first: int
    row: int
    document: int = 0

    @property
    def columns(self) -> range:
        return range(self.first, len(self.ids))


def score_contexts(
    loaded: LoadedModel, contexts: Sequence[Sequence[int]], targets: Sequence[int], outputs: Outputs = TARGETS_ONLY
) -> Scores:
    """Score the token that follows each context.

    Raises
    ------
    ValueError
        If a context is empty or longer than the model's, or an id has no token.
    """
    for k, ids in enumerate(contexts):
        _check_ids(loaded, ids, f"context {k}", loaded.context_tokens)
    spans = [_Span(ids, len(ids) - 1, k) for k, ids in enumerate(contexts)]
    return _score(loaded, spans, targets, outputs)


def score_documents(
    loaded: LoadedModel,
    documents: Sequence[Sequence[int]],
    *,
    window_tokens: int,
    stride_tokens: int,
    outputs: Outputs = TARGETS_ONLY,
) -> Scores:
    """Score every token of documents but each one's first, once; the rows of one document follow those of another.

    Statistics of documents have one row per document.

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
    _, most = _limits(loaded)
    for k, ids in enumerate(documents):
        _check_ids(loaded, ids, f"document {k}", math.inf)
        parts = windows(len(ids), window_tokens=window_tokens, stride_tokens=stride_tokens, most=most)
        fed = np.asarray(ids)  # windows overlap, and its slices are no copies
        spans += [_Span(fed[start:end], first - 1 - start, len(targets) + first - 1, k) for start, end, first in parts]
        targets += ids[1:]
    return _score(loaded, spans, targets, outputs, n_documents=len(documents))


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
    for batch in _batches(spans, _limits(loaded)[0], len(spans)):
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


def _limits(loaded: LoadedModel) -> tuple[int, int]:
    """Tokens that may be fed at once, padding included (a row may be longer), and rows of logits in memory at once."""
    row_bytes = 4 * loaded.n_outputs
    if loaded.device.type != "cuda":
        return BATCH_TOKENS, max(LEAST_ROWS, LOGITS_BYTES // row_bytes)
    most = max(LEAST_ROWS, min(BATCH_TOKENS_ON_GPU, int(SHARE_OF_FREE * free_bytes(loaded.device)) // row_bytes))
    return most, most


def _batches(spans: Sequence[_Span], most_tokens: int, most_rows: int) -> Iterator[list[_Span]]:
    """Spans of about one length together, the longest first."""
    batch: list[_Span] = []
    n_rows = 0
    for span in sorted(spans, key=lambda span: (-len(span.ids), span.first)):
        n_rows += len(span.columns)
        if batch and (
            (len(batch) + 1) * len(batch[0].ids) > most_tokens
            or n_rows > most_rows
            or len(span.ids) < LEAST_FULL * len(batch[0].ids)
        ):
            yield batch
            batch, n_rows = [], len(span.columns)
        batch.append(span)
    if batch:
        yield batch


def _right_padded(loaded: LoadedModel, batch: Sequence[_Span]) -> torch.Tensor:
    """Ids of a batch, shape (batch, longest): causal attention keeps padding behind a token from changing it."""
    rows = [torch.tensor(span.ids) for span in batch]
    return pad_sequence(rows, batch_first=True).to(loaded.device)


def _logits_at(loaded: LoadedModel, fed: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Logits at `scored` places of a batch laid out flat, shape (n, outputs); no others are computed."""

    def choose(module: torch.nn.Module, inputs: Any, states: Any) -> Any:
        states.last_hidden_state = states.last_hidden_state.flatten(0, 1).index_select(0, scored)[None]
        return states

    hook = loaded.model.base_model.register_forward_hook(choose)
    try:
        return loaded.model(input_ids=fed, use_cache=False).logits[0]
    finally:
        hook.remove()


def _blocks(
    models: Sequence[LoadedModel], batch: Sequence[_Span], targets: torch.Tensor
) -> Iterator[tuple[np.ndarray, torch.Tensor, Block]]:
    """Rows of a batch (twice, here and on the device) and each model's predictions there, by one pass of each model."""
    loaded = models[0]
    fed = _right_padded(loaded, batch)
    rows = np.concatenate([np.arange(span.row, span.row + len(span.columns)) for span in batch])
    scored = np.concatenate([r * fed.shape[1] + np.array(span.columns) for r, span in enumerate(batch)])
    places, rows_there = (torch.from_numpy(each).to(loaded.device) for each in (scored, rows))
    logits = [_logits_at(each, fed, places) for each in models]
    step = max(1, BLOCK_BYTES.get(loaded.device.type, BLOCK_BYTES_ELSEWHERE) // (4 * loaded.n_outputs))
    for start in range(0, len(rows), step):
        part, part_there = rows[start : start + step], rows_there[start : start + step]
        # outputs beyond the tokenizer's tokens are padding
        of_tokens = [each[start : start + step, : loaded.vocab_size] for each in logits]
        yield part, part_there, Block(of_tokens[0], targets[part_there], *of_tokens[1:])


@torch.inference_mode()
def _score(
    loaded: LoadedModel, spans: Sequence[_Span], targets: Sequence[int], outputs: Outputs, *, n_documents: int = 0
) -> Scores:
    vocab, models = loaded.vocab_size, [loaded]
    if not 0 <= outputs.top_k <= vocab:
        raise ValueError(f"top_k is at most the vocabulary of {loaded.id}, {vocab}; found {outputs.top_k}")
    if targets:
        _check_ids(loaded, targets, "targets", math.inf)
    if outputs.base:
        models.append(outputs.base)
        if outputs.base.vocab_size != vocab:
            raise ValueError(f"{outputs.base.id} predicts {outputs.base.vocab_size} tokens and {loaded.id} {vocab}")
        if (longest := max((len(span.ids) for span in spans), default=0)) > outputs.base.context_tokens:
            raise ValueError(f"{outputs.base.id} takes {outputs.base.context_tokens} tokens at once, found {longest}")
    target_ids = torch.tensor(targets, dtype=torch.long, device=loaded.device)
    documents = np.empty(len(targets), dtype=int)
    for span in spans:
        documents[span.row : span.row + len(span.columns)] = span.document
    empty = torch.empty((0, vocab), device=loaded.device)
    nothing = Block(empty, target_ids[:0], empty)
    scores = {k: v.new_empty((len(targets), *v.shape[1:])) for k, v in of_positions(nothing, outputs).items()}
    sums = {k: v.new_zeros((n_documents, *v.shape[1:])) for k, v in of_documents(nothing, outputs).items()}
    for batch in _batches(spans, *_limits(loaded)):
        for rows, rows_there, block in _blocks(models, batch, target_ids):
            for name, values in of_positions(block, outputs).items():
                scores[name][rows_there] = values
            of_rows = [(document, len([*same])) for document, same in groupby(documents[rows].tolist())]
            for name, values in of_documents(block, outputs).items():
                for (document, _), part in zip(of_rows, values.split([n for _, n in of_rows]), strict=True):
                    sums[name][document] += part.sum(0)
    return {name: values.cpu().numpy() for name, values in (scores | sums).items()}
