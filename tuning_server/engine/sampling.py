"""Batched decoding: each row has its own seed and settings, and does not depend on its neighbours.

Log-probabilities are those of the model itself: before temperature, nucleus and bias.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import TypeVar

import torch

from tuning_server.engine.batches import batches
from tuning_server.engine.devices import precision
from tuning_server.engine.drawing import Draws, SamplingRequest, random_numbers
from tuning_server.engine.kv_cache import LEAST_REPLAYED, MOST_REPLAYED, Reader, prompt_logits, read_prompts
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.tokenization import label, offsets

LEAST_ENDED = 0.125  # share of rows that must have ended before the others go on without them, for caches are copied
Likeliest = tuple[tuple[int, float], ...]  # token ids and their log-probabilities, nats
TokenScore = tuple[float | None, Likeliest]  # log-probability of a token, and the likeliest tokens at its position
UNSCORED: TokenScore = (None, ())
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TokenInfo:
    """One token of an answer; `logprob` in nats (None for a prompt's first token, and where none was requested)."""

    id: int
    text: str
    offset: int
    logprob: float | None = None
    top: Likeliest = ()


@dataclass(frozen=True)
class Sample:
    """An answer: `ids` are the new tokens; with echo, `text` and `tokens` begin with the prompt's.

    The offsets of `tokens` cut the text into readable pieces: a character of several tokens comes with its last one.
    """

    ids: list[int]
    text: str
    finish_reason: str
    tokens: list[TokenInfo]


@dataclass
class Row:
    """An answer that is being written."""

    request: SamplingRequest
    ids: list[int] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    scores: list[TokenScore] = field(default_factory=list)
    finish_reason: str | None = None
    end: tuple[int, ...] = ()  # the end-of-text token, if one ended it; its score is the last


def sample(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> list[Sample]:
    """Answer requests, whose settings may differ, in as few batches as memory allows; see `check_lengths`."""

    def answer(batch: list[SamplingRequest]) -> list[Sample]:
        rows, prompt_scores = decode([Reader(loaded)], batch), _score_prompts(loaded, batch)
        return [finish(loaded, row, prompt_scores.get(r)) for r, row in enumerate(rows)]

    check_lengths(loaded, requests)
    return in_batches([loaded], requests, answer)


def check_lengths(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> None:
    """Refuse (ValueError) a prompt that with its new tokens is longer than the model's context."""
    for request in requests:
        n_tokens = len(request.prompt_ids) + request.max_tokens
        if n_tokens > loaded.context_tokens:
            raise ValueError(
                f"{loaded.id}: the model's context is {loaded.context_tokens} tokens, but {n_tokens} were requested "
                f"({len(request.prompt_ids)} in the prompt, {request.max_tokens} new): shorten one of them"
            )


def in_batches(
    models: Sequence[LoadedModel],
    requests: Sequence[SamplingRequest],
    answer: Callable[[list[SamplingRequest]], list[Answer]],
) -> list[Answer]:
    """Answers to requests, in their order, where `answer` decodes a batch of them with all `models`."""
    answers: dict[int, Answer] = {}
    with torch.inference_mode():
        for batch in batches(models, [(len(one.prompt_ids) + one.max_tokens, len(one.prompt_ids)) for one in requests]):
            answers |= zip(batch, answer([requests[k] for k in batch]), strict=True)
    return [answers[k] for k in range(len(requests))]


def token_scores(
    logits: torch.Tensor, ids: torch.Tensor, n_top: Sequence[int | None]
) -> tuple[list[int], list[TokenScore]]:
    """Fetch chosen tokens, their log-probabilities and the likeliest tokens from the device, all in one transfer.

    Parameters
    ----------
    logits : tensor, shape (rows, vocab), normalised or not
    ids : tensor, shape (rows,)
    n_top : how many of the likeliest tokens each row requests; None for no log-probability
    """
    scores = [UNSCORED] * len(n_top)
    rows = [r for r, n in enumerate(n_top) if n is not None]
    if not rows:
        return ids.tolist(), scores
    logits, scored = (logits, ids) if len(rows) == len(n_top) else (logits[rows], ids[rows])
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    chosen = logprobs.gather(1, scored[:, None])
    values, indices = torch.topk(logprobs, min(max(n_top[r] or 0 for r in rows), logprobs.shape[1]), dim=1)
    numbers = [part.to(precision(ids.device)).flatten() for part in (ids, chosen, values, indices)]  # exact for ids
    of_ids, of_chosen, of_values, of_indices = torch.cat(numbers).cpu().split([part.numel() for part in numbers])
    likeliest = zip(of_indices.long().view(indices.shape).tolist(), of_values.view(values.shape).tolist(), strict=True)
    for r, logprob, (top_ids, top_values) in zip(rows, of_chosen.tolist(), likeliest, strict=True):
        top = list(zip(top_ids, top_values, strict=True))[: n_top[r]]
        scores[r] = logprob, tuple(pair for pair in top if pair[1] > -math.inf)  # a blend may rule out tokens
    return of_ids.long().tolist(), scores


def _score_prompts(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> dict[int, list[TokenScore]]:
    """Scores of each token of the prompts that are echoed with log-probabilities, by the index of the request."""
    scores = {k: [UNSCORED] for k, one in enumerate(requests) if one.echo and one.logprobs is not None}
    keys = list(scores)
    for rows, first, logits in prompt_logits(loaded, [requests[k].prompt_ids for k in keys]):
        same = [keys[row] for row in rows]  # requests with one prompt
        ids = torch.tensor(requests[same[0]].prompt_ids[first : first + len(logits)], device=loaded.device)
        n_top = max(requests[k].logprobs or 0 for k in same)
        for logprob, top in token_scores(logits, ids, [n_top] * len(ids))[1]:
            for k in same:
                scores[k].append((logprob, top[: requests[k].logprobs]))
    return scores


def decode(
    readers: Sequence[Reader],
    requests: Sequence[SamplingRequest],
    combine: Callable[[Sequence[torch.Tensor], int], torch.Tensor] = lambda logits, position: logits[0],
) -> list[Row]:
    """Continue all prompts together.

    `combine` makes one prediction (rows, vocab) of those of the readers, for the new token of a position (from 0).
    """
    rows = [Row(request) for request in requests]
    active = [row for row in rows if row.request.max_tokens > 0]
    if not active:
        return rows
    uniforms = random_numbers([row.request for row in active], readers[0].loaded.device)
    draws, prompts = Draws([row.request for row in active], uniforms), [row.request.prompt_ids for row in active]
    logits = combine([read_prompts(reader, prompts) for reader in readers], 0)  # (active, vocab)
    n_new = max(row.request.max_tokens for row in active)
    is_replayed = n_new >= LEAST_REPLAYED and all(reader.can_replay for reader in readers)
    for step in count():
        chosen = draws.choose(logits, step)
        n_top = [row.request.logprobs if row.finish_reason is None else None for row in active]
        for row, token_id, score in zip(active, *token_scores(logits, chosen, n_top), strict=True):
            if row.finish_reason is None:
                append(readers[0].loaded, row, token_id, score)
        going = [r for r, row in enumerate(active) if row.finish_reason is None]
        if not going:
            break
        if is_due := is_replayed and step % MOST_REPLAYED == 0:
            for reader in readers:
                reader.release()
        if (is_due or not is_replayed) and len(active) - len(going) >= LEAST_ENDED * len(active):
            for reader in readers:
                reader.keep(going)
            active, chosen, uniforms = [active[r] for r in going], chosen[going], uniforms[going]
            draws = Draws([row.request for row in active], uniforms)
        if is_due:
            for reader in readers:
                reader.reserve(min(n_new - step, MOST_REPLAYED))
        logits = combine([reader.read(chosen[:, None])[:, -1] for reader in readers], step + 1)
    return rows


def append(loaded: LoadedModel, row: Row, token_id: int, score: TokenScore) -> None:
    """Add a token to a row and end the row at end of text, a stop string or its last token."""
    row.scores.append(score)
    if token_id in loaded.end_ids:
        row.finish_reason, row.end = "stop", (token_id,)
        return
    codec = loaded.codec
    row.raw += codec[token_id] if row.ids else codec.pieces([token_id], after=row.request.prompt_ids)[0]
    row.ids.append(token_id)
    for stop in row.request.stop:
        start = row.raw.find(stop.encode())
        if start >= 0:
            del row.raw[start:]
            row.finish_reason = "stop"
    if row.finish_reason is None and len(row.ids) == row.request.max_tokens:
        row.finish_reason = "length"


def finish(loaded: LoadedModel, row: Row, prompt_scores: Sequence[TokenScore] | None = None) -> Sample:
    """Cut what a stop string took away and lay out the tokens, the echoed prompt's first."""
    codec, request = loaded.codec, row.request
    pieces = codec.pieces(row.ids, after=request.prompt_ids)
    ends = list(accumulate(map(len, pieces)))
    if ends and ends[-1] > len(row.raw):  # a stop string took something away
        pieces = pieces[: bisect_left(ends, len(row.raw)) + 1 if row.raw else 0]
    ids = row.ids[: len(pieces)]
    all_ids, scores, raw = ids, row.scores[: len(ids)], bytes(row.raw)
    if request.echo:  # with the end of text: who scores by echo and one token drops the last
        prompt = codec.pieces(request.prompt_ids)
        all_ids = [*request.prompt_ids, *ids, *row.end]
        scores = [*(prompt_scores or [UNSCORED] * len(prompt)), *row.scores[: len(ids) + len(row.end)]]
        pieces, raw = [*prompt, *pieces, *(codec[end] for end in row.end)], b"".join([*prompt, raw])
    tokens = [
        TokenInfo(token_id, label(piece), offset, logprob, top)
        for token_id, piece, offset, (logprob, top) in zip(all_ids, pieces, offsets(pieces), scores, strict=True)
    ]
    return Sample(ids, raw.decode(errors="replace"), row.finish_reason or "length", tokens)
