"""Batched decoding: each row has its own seed, temperature, stop strings and bias, and never depends on its neighbours.

Log-probabilities are those of the model itself: before temperature, nucleus and bias.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch

from tuning_server.engine.kv_cache import Reader, Source, prompt_logprobs, read_prompts
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.tokenization import as_text, label, offsets

BATCH_TOKENS = 16_384  # prompt and new tokens of all rows decoded together


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
    """An answer: `ids` are the new tokens; with echo, `text` and `tokens` begin with the prompt's."""

    ids: list[int]
    text: str
    finish_reason: str
    tokens: list[TokenInfo]


Mark = tuple[float | None, tuple[tuple[int, float], ...]]  # log-probability of a token, and the likeliest ones
NO_MARK: Mark = (None, ())


@dataclass
class Row:
    """An answer that is being written; `uniforms` are the random numbers of its new tokens."""

    request: SamplingRequest
    uniforms: np.ndarray
    ids: list[int] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    marks: list[Mark] = field(default_factory=list)
    finish_reason: str | None = None
    end: tuple[int, ...] = ()  # the end-of-text token, if one ended it; its mark is the last


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
    check_lengths(loaded, requests)
    answers: dict[int, Sample] = {}
    with torch.inference_mode():
        for batch in batches(requests):
            chosen = [requests[k] for k in batch]
            rows = decode(loaded, Reader(loaded), chosen)
            prompt_marks = _score_prompts(loaded, chosen)
            for k, row, marks in zip(batch, rows, prompt_marks, strict=True):
                answers[k] = finish(loaded, row, marks)
    return [answers[k] for k in range(len(requests))]


def check_lengths(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> None:
    """Refuse (ValueError) an empty prompt, and one that with its new tokens is longer than the model's context."""
    for request in requests:
        wanted = len(request.prompt_ids) + request.max_tokens
        if not request.prompt_ids:
            raise ValueError("a prompt has no tokens; the end-of-text token begins a document")
        if wanted > loaded.context_tokens:
            raise ValueError(
                f"the model's context is {loaded.context_tokens} tokens, and {wanted} were asked for "
                f"({len(request.prompt_ids)} in the prompt, {request.max_tokens} to come): shorten one of them"
            )


def batches(requests: Sequence[SamplingRequest], *, limit_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Places in `requests` of those to decode together: of similar length, and few enough for memory."""
    order = sorted(range(len(requests)), key=lambda k: (len(requests[k].prompt_ids), requests[k].max_tokens))
    batch: list[int] = []
    longest = 0
    for k in order:
        size = len(requests[k].prompt_ids) + requests[k].max_tokens
        if batch and max(longest, size) * (len(batch) + 1) > limit_tokens:
            yield batch
            batch, longest = [], 0
        batch.append(k)
        longest = max(longest, size)
    if batch:
        yield batch


def mark(logprobs: torch.Tensor, ids: torch.Tensor, wanted: Sequence[int | None]) -> list[Mark]:
    """Log-probability of each chosen id and of the likeliest tokens. `logprobs` (rows, vocab), `ids` (rows,)."""
    if all(want is None for want in wanted):
        return [NO_MARK] * len(wanted)
    chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
    k = min(max(want or 0 for want in wanted), logprobs.shape[1])
    values, places = torch.topk(logprobs, k, dim=1)  # (rows, k)
    n_possible = torch.isfinite(values).sum(1).tolist()  # what a blend has ruled out has no log-probability to tell
    tops = [list(zip(*pair, strict=True)) for pair in zip(places.tolist(), values.tolist(), strict=True)]
    return [
        NO_MARK if want is None else (chosen[r], tuple(tops[r][: min(want, n_possible[r])]))
        for r, want in enumerate(wanted)
    ]


def _score_prompts(loaded: LoadedModel, requests: Sequence[SamplingRequest]) -> list[list[Mark]]:
    """For echoed prompts, what `mark` says of each token; empty for the others."""
    is_scored = [request.echo and request.logprobs is not None for request in requests]
    marks: list[list[Mark]] = [
        [NO_MARK] * (1 if scored else len(request.prompt_ids) * request.echo)
        for request, scored in zip(requests, is_scored, strict=True)
    ]
    scored = [k for k, is_asked in enumerate(is_scored) if is_asked]
    prompts = [requests[k].prompt_ids for k in scored]
    for rows, first, logprobs in prompt_logprobs(loaded, prompts) if scored else ():
        ids = torch.tensor(prompts[rows[0]][first : first + len(logprobs)], dtype=torch.long, device=loaded.device)
        told: dict[int | None, list[Mark]] = {}  # by how many of the likeliest are wanted
        for k in (scored[row] for row in rows):
            want = requests[k].logprobs
            if want not in told:
                told[want] = mark(logprobs, ids, [want] * len(logprobs))
            marks[k] += told[want]
    return marks


def distribution(logits: torch.Tensor, requests: Sequence[SamplingRequest]) -> torch.Tensor:
    """What a row is drawn from: bias, temperature and nucleus applied; all on one token where it is greedy.

    Parameters
    ----------
    logits : tensor, shape (rows, vocab), a request a row

    Returns
    -------
    float64 tensor on the processor, shape (rows, vocab), each row adding up to one
    """
    logits = _biased(logits, requests)
    probs = torch.zeros(logits.shape, dtype=torch.float64)
    probs[torch.arange(len(requests)), logits.argmax(-1).cpu()] = 1.0
    warm = [r for r, request in enumerate(requests) if request.temperature > 0]
    if not warm:
        return probs
    temperature = torch.tensor([requests[r].temperature for r in warm], dtype=torch.float64)
    drawn_from = (logits[warm].cpu().double() / temperature[:, None]).softmax(-1)  # (warm, vocab)
    top_p = torch.tensor([requests[r].top_p for r in warm], dtype=torch.float64)
    if bool((top_p < 1).any()):
        ordered, places = torch.sort(drawn_from, dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= top_p[:, None]
        drawn_from = drawn_from.scatter(-1, places, ordered.masked_fill(outside, 0.0))
        drawn_from /= drawn_from.sum(-1, keepdim=True)
    probs[warm] = drawn_from
    return probs


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Inverse transform of a uniform number a row, shape (rows,): ids drawn from `probs` (rows, vocab)."""
    mass = probs.cumsum(-1)
    drawn = torch.searchsorted(mass, (uniforms * mass[:, -1])[:, None], right=True)[:, 0]
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
    chosen = _biased(logits, [row.request for row in rows]).argmax(-1)
    warm = [r for r, row in enumerate(rows) if row.request.temperature > 0]
    if warm:
        uniforms = torch.tensor([rows[r].uniforms[step] for r in warm], dtype=torch.float64)
        probs = distribution(logits[warm], [rows[r].request for r in warm])
        chosen[warm] = draw(probs, uniforms).to(logits.device)
    return chosen


def _mark_new(logits: torch.Tensor, ids: torch.Tensor, rows: Sequence[Row]) -> list[Mark]:
    """What `mark` says of a new token a row; only rows that ask for log-probabilities are looked at."""
    marks = [NO_MARK] * len(rows)
    asked = [r for r, row in enumerate(rows) if row.request.logprobs is not None]
    if asked:
        told = mark(logits[asked].log_softmax(-1), ids[asked], [rows[r].request.logprobs for r in asked])
        for r, each in zip(asked, told, strict=True):
            marks[r] = each
    return marks


def decode(loaded: LoadedModel, source: Source, requests: Sequence[SamplingRequest]) -> list[Row]:
    """Continue all prompts together; rows that have ended leave the source."""
    rows = [
        Row(request, np.random.Generator(np.random.Philox(key=request.seed)).random(request.max_tokens))
        for request in requests
    ]
    active = [row for row in rows if row.request.max_tokens > 0]
    step = 0
    if active:
        logits = read_prompts(loaded, source, [row.request.prompt_ids for row in active])  # (active, vocab)
    while active:
        chosen = _choose(logits, active, step)
        for row, token_id, told in zip(active, chosen.tolist(), _mark_new(logits, chosen, active), strict=True):
            append(loaded, row, token_id, told)
        step += 1
        going = [r for r, row in enumerate(active) if row.finish_reason is None]
        if going and len(going) < len(active):
            source.keep(going)
        active = [active[r] for r in going]
        if active:
            logits = source.read(chosen[going, None])[:, -1]
    return rows


def append(loaded: LoadedModel, row: Row, token_id: int, told: Mark) -> None:
    """Add a token to a row and end the row at end of text, a stop string or its last token."""
    if token_id in loaded.end_ids:
        row.finish_reason, row.end = "stop", (token_id,)
        row.marks.append(told)
        return
    piece = loaded.codec[token_id] if row.ids else loaded.codec.pieces([token_id], after=row.request.prompt_ids)[0]
    row.ids.append(token_id)
    row.marks.append(told)
    row.raw += piece
    for stop in row.request.stop:
        place = row.raw.find(stop.encode())
        if place >= 0:
            del row.raw[place:]
            row.finish_reason = "stop"
    if row.finish_reason is None and len(row.ids) == row.request.max_tokens:
        row.finish_reason = "length"


def finish(loaded: LoadedModel, row: Row, prompt_marks: Sequence[Mark] = ()) -> Sample:
    """Cut what a stop string took away and lay out the tokens, the echoed prompt's first."""
    codec, prompt_ids = loaded.codec, list(row.request.prompt_ids)
    pieces = codec.pieces(row.ids, after=prompt_ids)
    ends = list(accumulate(map(len, pieces)))
    if ends and ends[-1] > len(row.raw):  # cut by a stop string
        pieces = pieces[: bisect_left(ends, len(row.raw)) + 1 if row.raw else 0]
    ids = row.ids[: len(pieces)]
    prompt = prompt_ids if row.request.echo else []
    echoed = codec.pieces(prompt)
    told = [*prompt, *ids, *(row.end if row.request.echo else ())]  # who scores by echo and one token drops the last
    marks = [*prompt_marks, *row.marks[: len(told) - len(prompt)]]
    pieces = [*echoed, *pieces, *(codec[token_id] for token_id in told[len(prompt) + len(ids) :])]
    tokens = [
        TokenInfo(token_id, label(piece), offset, logprob, top)
        for token_id, piece, offset, (logprob, top) in zip(told, pieces, offsets(pieces), marks, strict=True)
    ]
    return Sample(ids, as_text(b"".join([*echoed, row.raw])), row.finish_reason or "length", tokens)
