"""Batched decoding: each row has its own seed, temperature, stop strings and bias, and never depends on its neighbours.

Log-probabilities are those of the model itself: before temperature, nucleus and bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache

from lib.engine.models import LoadedModel

BATCH_TOKENS = 16_384  # prompt and new tokens of all rows decoded together
LOGITS_BYTES = 2**29  # float32 logits held at once when prompts are scored


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """What to continue and how.

    `temperature` 0 is greedy (the lowest id wins a tie). `logprobs` k asks for the k likeliest tokens at each place
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
    """One token of an answer; `logprob` in nats (None for a prompt's first token or where none was asked for)."""

    id: int
    text: str
    offset: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Sample:
    """An answer: `ids` and `text` hold only what is new, `tokens` begins with the prompt's when it was echoed."""

    ids: list[int]
    text: str
    finish_reason: str
    tokens: list[TokenInfo]


@dataclass
class _Row:
    request: SamplingRequest
    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    marks: list[tuple[float | None, tuple[tuple[int, float], ...]]] = field(default_factory=list)
    finish_reason: str | None = None


def sample(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> list[Sample]:
    """Answer requests in as few batches as memory allows.

    Parameters
    ----------
    requests : any mixture of settings; the answer to one does not depend on the others (but for the last digits of
        float arithmetic)

    Returns
    -------
    list of Sample, in the order of `requests`

    Raises
    ------
    ValueError
        If a prompt is empty or, with the tokens asked for, longer than the model's context.
    """
    for request in requests:
        wanted = len(request.prompt_ids) + request.max_tokens
        if not request.prompt_ids:
            raise ValueError("a prompt has no tokens; the end-of-text token begins a document")
        if wanted > loaded.context_tokens:
            raise ValueError(
                f"the model's context is {loaded.context_tokens} tokens, and {wanted} were asked for "
                f"({len(request.prompt_ids)} in the prompt, {request.max_tokens} to come): shorten one of them"
            )
    answers: dict[int, Sample] = {}
    order = sorted(range(len(requests)), key=lambda k: (len(requests[k].prompt_ids), requests[k].max_tokens))
    with torch.inference_mode():
        for batch in _batches(order, requests):
            chosen = [requests[k] for k in batch]
            rows = _decode(loaded, chosen)
            marks = _score_prompts(loaded, chosen)
            for k, row, mark in zip(batch, rows, marks, strict=True):
                answers[k] = _finish(loaded, row, mark)
    return [answers[k] for k in range(len(requests))]


def _batches(order: Sequence[int], requests: Sequence[SamplingRequest]) -> Iterator[list[int]]:
    batch: list[int] = []
    longest = 0
    for k in order:
        size = len(requests[k].prompt_ids) + requests[k].max_tokens
        if batch and max(longest, size) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch, longest = [], 0
        batch.append(k)
        longest = max(longest, size)
    if batch:
        yield batch


def _mark(
    logprobs: torch.Tensor, ids: torch.Tensor, wanted: Sequence[int | None]
) -> list[tuple[float | None, tuple[tuple[int, float], ...]]]:
    """Log-probability of each chosen id and of the likeliest tokens. `logprobs` (rows, vocab), `ids` (rows,)."""
    chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
    k = min(max((want or 0 for want in wanted), default=0), logprobs.shape[1])
    values, places = (part.tolist() for part in torch.topk(logprobs, k, dim=1)) if k else ([], [])
    return [
        (None, ())
        if want is None
        else (chosen[r], tuple(zip(places[r][:want], values[r][:want], strict=True)) if want else ())
        for r, want in enumerate(wanted)
    ]


def _score_prompts(
    loaded: LoadedModel, requests: Sequence[SamplingRequest]
) -> list[list[tuple[float | None, tuple[tuple[int, float], ...]]]]:
    """For echoed prompts, what `_mark` says of each token after the first; empty for the others."""
    marks: list[list[tuple[float | None, tuple[tuple[int, float], ...]]]] = [[] for _ in requests]
    echoed = [k for k, request in enumerate(requests) if request.echo]
    if not echoed:
        return marks
    longest = max(len(requests[k].prompt_ids) for k in echoed)
    width = int(getattr(loaded.model.config, "vocab_size", loaded.vocab_size))
    n_rows = max(1, LOGITS_BYTES // (4 * width * longest))
    for start in range(0, len(echoed), n_rows):
        part = echoed[start : start + n_rows]
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        for r, k in enumerate(part):
            ids[r, : len(requests[k].prompt_ids)] = torch.tensor(requests[k].prompt_ids)
        # right padding: causal attention keeps what stands behind a token from changing its score
        logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False).logits  # (rows, longest, vocab)
        for r, k in enumerate(part):
            n = len(requests[k].prompt_ids)
            logprobs = logits[r, : n - 1].float().log_softmax(-1)  # (n - 1, vocab)
            marks[k] = [(None, ()), *_mark(logprobs, ids[r, 1:n].to(loaded.device), [requests[k].logprobs] * (n - 1))]
    return marks


def _choose(logits: torch.Tensor, rows: Sequence[_Row], step: int) -> torch.Tensor:
    """Next id of each row, shape (rows,): greedy, or by inverse transform of the row's own uniform number."""
    biased = logits
    if any(row.request.logit_bias for row in rows):
        biased = logits.clone()
        for r, row in enumerate(rows):
            for token_id, bias in row.request.logit_bias.items():
                biased[r, token_id] += bias
    chosen = biased.argmax(-1)  # (rows,)
    warm = [r for r, row in enumerate(rows) if row.request.temperature > 0]
    if not warm:
        return chosen
    temperature = torch.tensor([rows[r].request.temperature for r in warm], dtype=torch.float64)
    probs = (biased[warm].cpu().double() / temperature[:, None]).softmax(-1)  # (warm, vocab)
    top_p = torch.tensor([rows[r].request.top_p for r in warm], dtype=torch.float64)
    if bool((top_p < 1).any()):
        ordered, places = torch.sort(probs, dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= top_p[:, None]
        probs = probs.scatter(-1, places, ordered.masked_fill(outside, 0.0))
    mass = probs.cumsum(-1)
    uniform = torch.tensor([rows[r].uniforms[step] for r in warm], dtype=torch.float64)
    drawn = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)[:, 0]
    chosen[warm] = drawn.clamp(max=probs.shape[-1] - 1).to(chosen.device)
    return chosen


def _decode(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> list[_Row]:
    """Continue all prompts together with a shared cache; rows that have ended leave it."""
    rows = [
        _Row(request, np.random.Generator(np.random.Philox(key=request.seed)).random(request.max_tokens))
        for request in requests
    ]
    active = [row for row in rows if row.request.max_tokens > 0]
    if not active:
        return rows
    longest = max(len(row.request.prompt_ids) for row in active)
    ids = torch.full((len(active), longest), loaded.eos_id)
    mask = torch.zeros(len(active), longest, dtype=torch.long)
    for r, row in enumerate(active):
        ids[r, longest - len(row.request.prompt_ids) :] = torch.tensor(row.request.prompt_ids)
        mask[r, longest - len(row.request.prompt_ids) :] = 1
    ids, mask = ids.to(loaded.device), mask.to(loaded.device)
    cache = DynamicCache(config=loaded.model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    step = 0
    while active:
        out = loaded.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits = out.logits[:, -1].float()  # (active, vocab)
        chosen = _choose(logits, active, step)
        wanted = [row.request.logprobs for row in active]
        marks = _mark(logits.log_softmax(-1), chosen, wanted) if any(w is not None for w in wanted) else None
        for r, token_id in enumerate(chosen.tolist()):
            _append(loaded, active[r], token_id, marks[r] if marks else (None, ()))
        step += 1
        going = [r for r, row in enumerate(active) if row.finish_reason is None]
        if len(going) < len(active):
            keep = torch.tensor(going, dtype=torch.long, device=loaded.device)
            if going:
                cache.batch_select_indices(keep)
            chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
            active = [active[r] for r in going]
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return rows


def _append(
    loaded: LoadedModel, row: _Row, token_id: int, mark: tuple[float | None, tuple[tuple[int, float], ...]]
) -> None:
    """Add a token to a row and end the row at end of text, a stop string or its last token."""
    if token_id == loaded.eos_id:
        row.finish_reason = "stop"
        return
    row.ids.append(token_id)
    row.marks.append(mark)
    row.raw += loaded.token_bytes[token_id]
    for stop in row.request.stop:
        place = row.raw.find(stop.encode())
        if place >= 0:
            del row.raw[place:]
            row.finish_reason = "stop"
    if row.finish_reason is None and len(row.ids) == row.request.max_tokens:
        row.finish_reason = "length"


def _finish(
    loaded: LoadedModel, row: _Row, prompt_marks: list[tuple[float | None, tuple[tuple[int, float], ...]]]
) -> Sample:
    """Cut what a stop string took away and lay out the tokens, the echoed prompt's first."""
    kept, length = 0, 0
    for token_id in row.ids:
        if length >= len(row.raw):
            break
        length += len(loaded.token_bytes[token_id])
        kept += 1
    ids = row.ids[:kept]
    prompt = list(row.request.prompt_ids) if row.request.echo else []
    offsets = loaded.token_bytes.offsets(prompt + ids)
    tokens = [
        TokenInfo(token_id, loaded.token_bytes.label(token_id), offset, logprob, top)
        for token_id, offset, (logprob, top) in zip(prompt + ids, offsets, prompt_marks + row.marks[:kept], strict=True)
    ]
    return Sample(ids, row.raw.decode("utf-8", errors="replace"), row.finish_reason or "length", tokens)
