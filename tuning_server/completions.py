"""Endpoint ``/v1/completions``: OpenAI's legacy format, with log-probabilities up to the whole vocabulary."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from openai.types import Completion
from openai.types.completion_choice import CompletionChoice
from openai.types.completion_usage import CompletionUsage
from starlette.responses import Response

from tuning_server.blends import blending
from tuning_server.errors import ApiError
from tuning_server.replies import chunks, legacy_logprobs, respond
from tuning_server.service import CurrentService
from tuning_server.store import new_id
from tuning_server.types import CompletionRequest, StreamOptions, split_prompts
from tuning_server.worker import Sampling

if TYPE_CHECKING:
    from tuning_server.engine.models import LoadedModel
    from tuning_server.engine.sampling import Sample, SamplingRequest

router = APIRouter(prefix="/v1/completions", tags=["completions"])
MAX_ROWS = 16_384  # prompts x n of one request
MAX_LOGPROBS = 16_000_000  # numbers in one reply: tokens x likeliest tokens


def row_seed(seed: int, prompt_ids: list[int], repeat: int, index: int) -> int:
    """Seed of one answer: of the request's seed and what is asked, never of what else is in the batch.

    Parameters
    ----------
    repeat : how often the same prompt came before it in the request
    index : which of the prompt's n answers

    >>> row_seed(1, [5, 6], 0, 0) == row_seed(1, [5, 6], 0, 0) != row_seed(1, [5, 6], 1, 0)
    True
    """
    text = json.dumps([seed, prompt_ids, repeat, index])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Asked:
    """One request on its way through the engine: what it asks for and how its reply is made."""

    def __init__(self, wanted: CompletionRequest) -> None:
        wanted.check()
        self.wanted, self.prompts = wanted, split_prompts(wanted.prompt)
        if len(self.prompts) * wanted.n > MAX_ROWS:
            raise ApiError(f"At most {MAX_ROWS} answers a request: prompts times 'n'.", param="n", code="invalid_value")
        self.seed = secrets.randbits(63) if wanted.seed is None else wanted.seed
        self.prompt_ids: list[list[int]] = []

    def prepare(self, loaded: LoadedModel) -> list[SamplingRequest]:
        """The engine's requests, ``n`` a prompt; refuses what the model cannot do."""
        from tuning_server.engine.sampling import SamplingRequest

        wanted, seen, rows = self.wanted, Counter[tuple[int, ...]](), []
        bias = self._bias(loaded)
        if wanted.logprobs is not None and wanted.logprobs > loaded.vocab_size:
            message = (
                f"'logprobs' is at most the vocabulary of {loaded.id}, {loaded.vocab_size}; found {wanted.logprobs}."
            )
            raise ApiError(message, param="logprobs", code="invalid_value")
        for prompt in self.prompts:
            ids, given = self._ids(loaded, prompt)
            self.prompt_ids.append(ids if given else [])
            repeat = seen[tuple(ids)]
            seen[tuple(ids)] += 1
            rows += [
                SamplingRequest(
                    prompt_ids=ids, max_tokens=wanted.max_tokens, temperature=wanted.temperature, top_p=wanted.top_p,
                    stop=wanted.stops, seed=row_seed(self.seed, ids, repeat, index), logprobs=wanted.logprobs,
                    echo=wanted.echo and given, logit_bias=bias,
                )
                for index in range(wanted.n)
            ]  # fmt: skip
        if wanted.logprobs is not None:
            n_tokens = sum(len(row.prompt_ids) * row.echo + row.max_tokens for row in rows)
            if n_tokens * (wanted.logprobs + 1) > MAX_LOGPROBS:
                message = (
                    f"The reply would hold more than {MAX_LOGPROBS} log-probabilities: ask for fewer prompts at a time."
                )
                raise ApiError(message, param="logprobs", code="reply_too_large")
        return rows

    def _ids(self, loaded: LoadedModel, prompt: str | list[int]) -> tuple[list[int], bool]:
        """Token ids of a prompt, and whether it has any of its own (an empty one begins a document)."""
        if isinstance(prompt, str):
            ids = loaded.encode_prompt(prompt)
        else:
            beyond = [token for token in prompt if not 0 <= token < loaded.vocab_size]
            if beyond:
                message = (
                    f"Token id {beyond[0]} is not in the vocabulary of {loaded.id} (0 to {loaded.vocab_size - 1})."
                )
                raise ApiError(message, param="prompt", code="invalid_value")
            ids = prompt or [loaded.eos_id]
        total = len(ids) + self.wanted.max_tokens
        if total > loaded.context_tokens:
            message = (
                f"This model's maximum context length is {loaded.context_tokens} tokens, however you requested {total} "
                f"tokens ({len(ids)} in your prompt; {self.wanted.max_tokens} for the completion). Shorten one of them."
            )
            raise ApiError(message, param="prompt", code="context_length_exceeded")
        return ids, bool(prompt)

    def _bias(self, loaded: LoadedModel) -> dict[int, float]:
        bias = {}
        for name, value in (self.wanted.logit_bias or {}).items():
            if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < loaded.vocab_size):
                message = f"'logit_bias' maps token ids below {loaded.vocab_size} to numbers; {name[:40]!r} is none."
                raise ApiError(message, param="logit_bias", code="invalid_value")
            bias[int(name)] = value
        return bias

    def answer(self, loaded: LoadedModel, samples: list[Sample]) -> Completion:
        """The reply, choices in the order of prompts and their answers."""
        choices = [
            self._choice(loaded, index, self.prompt_ids[index // self.wanted.n], sample)
            for index, sample in enumerate(samples)
        ]
        return Completion(
            id=new_id("cmpl-"), object="text_completion", created=int(time.time()), model=self.wanted.model,
            choices=choices, usage=self.usage(samples), system_fingerprint=loaded.fingerprint,
        )  # fmt: skip

    def usage(self, samples: list[Sample]) -> CompletionUsage:
        """Tokens read and written; a prompt counts once, however many answers it has."""
        n_prompt, n_new = sum(map(len, self.prompt_ids)), sum(len(sample.ids) for sample in samples)
        return CompletionUsage(prompt_tokens=n_prompt, completion_tokens=n_new, total_tokens=n_prompt + n_new)

    def _choice(self, loaded: LoadedModel, index: int, prompt_ids: list[int], sample: Sample) -> CompletionChoice:
        extras: dict[str, Any] = {}
        if self.wanted.return_token_ids:
            extras = {"token_ids": sample.ids, "prompt_token_ids": prompt_ids}
        reason: Any = sample.finish_reason
        choice = CompletionChoice(index=index, text=sample.text, finish_reason=reason, **extras)
        if self.wanted.logprobs is not None:
            choice.logprobs = legacy_logprobs(loaded, sample.tokens, tops=self.wanted.logprobs > 0)
        return choice


@router.post("", response_model=Completion)
async def create(wanted: CompletionRequest, request: Request, service: CurrentService) -> Response:
    """Continue prompts."""
    asked = Asked(wanted)
    work = (
        Sampling(wanted.model, asked.prepare, asked.answer)
        if wanted.blend is None
        else blending(asked, wanted.blend, service.settings)
    )
    whole = await service.answered(work, request)
    options = wanted.stream_options or StreamOptions()
    return await respond(whole, chunks(whole, include_usage=options.include_usage) if wanted.stream else None)
