"""Batched decoding: each row has its own seed and settings, and does not depend on its neighbours.

Log-probabilities are those of the model itself: before temperature, nucleus and bias.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch

from tuning_server.engine.kv_cache import Reader, prompt_logits, read_prompts
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.tokenization import label, offsets

BATCH_TOKENS = 16_384  # prompt and new tokens of all rows decoded together
Likeliest = tuple[tuple[int, float], ...]  # token ids and their log-probabilities, nats
TokenScore = tuple[float | None, Likeliest]  # log-probability of a token, and the likeliest tokens at its position
UNSCORED: TokenScore = (None, ())
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """What to continue and how.

    `temperature` 0 is greedy (the lowest id wins a tie). `logprobs` k requests the k likeliest tokens at each position
    besides the chosen one; None for no log-probabilities. `echo` scores the prompt's tokens too.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: int | None = None
    echo: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)


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
    """An answer that is being written; `uniforms` are the random numbers of its new tokens."""

    request: SamplingRequest
    uniforms: np.ndarray
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
    return in_batches(requests, answer)


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
    requests: Sequence[SamplingRequest],
    answer: Callable[[list[SamplingRequest]], list[Answer]],
    *,
    limit_tokens: int = BATCH_TOKENS,
) -> list[Answer]:
    """Answers to requests, in their order, where `answer` decodes a batch of them."""
    answers: dict[int, Answer] = {}
    with torch.inference_mode():
        for batch in _batches(requests, limit_tokens):
            answers |= zip(batch, answer([requests[k] for k in batch]), strict=True)
    return [answers[k] for k in range(len(requests))]


def _batches(requests: Sequence[SamplingRequest], limit_tokens: int) -> Iterator[list[int]]:
    """Indices of the requests to decode together: of similar length, and few enough for memory."""
    sizes = [(len(request.prompt_ids) + request.max_tokens, len(request.prompt_ids)) for request in requests]
    batch: list[int] = []
    for k in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and sizes[k][0] * (len(batch) + 1) > limit_tokens:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def token_scores(logits: torch.Tensor, ids: torch.Tensor, n_top: Sequence[int | None]) -> list[TokenScore]:
    """Log-probabilities of chosen tokens, and the likeliest tokens.

    Parameters
    ----------
    logits : tensor, shape (rows, vocab), normalised or not
    ids : tensor, shape (rows,)
    n_top : how many of the likeliest tokens each row requests; None for no log-probability
    """
    scores = [UNSCORED] * len(n_top)
    rows = [r for r, n in enumerate(n_top) if n is not None]
    if rows:
        logprobs = (logits if len(rows) == len(n_top) else logits[rows]).log_softmax(-1)
        chosen = logprobs.gather(1, ids[rows, None])[:, 0].tolist()
        values, indices = torch.topk(logprobs, min(max(n_top[r] or 0 for r in rows), logprobs.shape[1]), dim=1)
        n_possible = torch.isfinite(values).sum(1).tolist()  # a blend may rule out tokens
        likeliest = zip(indices.tolist(), values.tolist(), n_possible, strict=True)
        for r, logprob, (top_ids, top_values, n) in zip(rows, chosen, likeliest, strict=True):
            scores[r] = logprob, tuple(zip(top_ids, top_values, strict=True))[: min(n_top[r] or 0, n)]
    return scores


def _score_prompts(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> dict[int, list[TokenScore]]:
    """Scores of each token of the prompts that are echoed with log-probabilities, by the index of the request."""
    scores = {k: [UNSCORED] for k, one in enumerate(requests) if one.echo and one.logprobs is not None}
    keys = list(scores)
    for rows, first, logits in prompt_logits(loaded, [requests[k].prompt_ids for k in keys]):
        same = [keys[row] for row in rows]  # requests with one prompt
        ids = torch.tensor(requests[same[0]].prompt_ids[first : first + len(logits)], device=loaded.device)
        n_top = max(requests[k].logprobs or 0 for k in same)
        for logprob, top in token_scores(logits, ids, [n_top] * len(ids)):
            for k in same:
                scores[k].append((logprob, top[: requests[k].logprobs]))
    return scores


def precision(device: torch.device) -> torch.dtype:
    """Of probabilities, and of sums over models: float64, but for devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def distribution(logits: torch.Tensor, requests: Sequence[SamplingRequest]) -> torch.Tensor:
    """What each row is drawn from: bias, temperature and nucleus applied; all on one token where it is greedy.

    Parameters
    ----------
    logits : tensor, shape (rows, vocab), one row per request

    Returns
    -------
    float64 tensor (see `precision`) on the device of the logits, shape (rows, vocab), each row adding up to one
    """
    logits = _biased(logits, requests)
    probs = torch.zeros(logits.shape, dtype=precision(logits.device), device=logits.device)
    probs.scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    warm = [r for r, request in enumerate(requests) if request.temperature > 0]
    if not warm:
        return probs
    temperature, top_p = probs.new_tensor([(requests[r].temperature, requests[r].top_p) for r in warm]).T[..., None]
    drawn_from = (logits[warm].to(probs.dtype) / temperature).softmax(-1)  # (warm, vocab)
    if any(requests[r].top_p < 1 for r in warm):
        ordered, indices = torch.sort(drawn_from, dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        outside[:, 0] = False
        drawn_from = drawn_from.scatter(-1, indices, ordered.masked_fill(outside, 0.0))
        drawn_from /= drawn_from.sum(-1, keepdim=True)
    probs[warm] = drawn_from
    return probs


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Token ids drawn from `probs` (rows, vocab) by inverse transform of one uniform number per row, shape (rows,)."""
    mass = probs.cumsum(-1)
    drawn = torch.searchsorted(mass, uniforms.to(mass)[:, None] * mass[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=probs.shape[-1] - 1)


def _biased(logits: torch.Tensor, requests: Sequence[SamplingRequest]) -> torch.Tensor:
    if not any(request.logit_bias for request in requests):
        return logits
    logits = logits.clone()
    for r, request in enumerate(requests):
        for token_id, bias in request.logit_bias.items():
            logits[r, token_id] += bias
    return logits


def _choose(logits: torch.Tensor, rows: Sequence[Row], step: int) -> torch.Tensor:
    """Next id of each row, shape (rows,): greedy, or drawn with the row's own uniform number."""
    requests = [row.request for row in rows]
    if all(request.temperature == 0 for request in requests):
        return _biased(logits, requests).argmax(-1)
    return draw(distribution(logits, requests), torch.tensor([row.uniforms[step] for row in rows], dtype=torch.float64))


def decode(
    readers: Sequence[Reader],
    requests: Sequence[SamplingRequest],
    combine: Callable[[Sequence[torch.Tensor], int], torch.Tensor] = lambda logits, position: logits[0],
) -> list[Row]:
    """Continue all prompts together; rows that have ended leave the readers.

    `combine` makes one prediction (rows, vocab) of those of the readers, for the new token of a position (from 0).
    """
    rows = [
        Row(request, np.random.Generator(np.random.Philox(key=request.seed)).random(request.max_tokens))
        for request in requests
    ]
    active = [row for row in rows if row.request.max_tokens > 0]
    prompts, step = [row.request.prompt_ids for row in active], 0
    if active:
        logits = combine([read_prompts(reader, prompts) for reader in readers], step)  # (active, vocab)
    while active:
        chosen = _choose(logits, active, step)
        scores = token_scores(logits, chosen, [row.request.logprobs for row in active])
        for row, token_id, score in zip(active, chosen.tolist(), scores, strict=True):
            append(readers[0].loaded, row, token_id, score)
        step += 1
        going = [r for r, row in enumerate(active) if row.finish_reason is None]
        if going and len(going) < len(active):
            for reader in readers:
                reader.keep(going)
        active = [active[r] for r in going]
        if active:
            logits = combine([reader.read(chosen[going, None])[:, -1] for reader in readers], step)
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
