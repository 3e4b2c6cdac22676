"""Endpoint ``/v1/completions``: OpenAI's legacy format, with log-probabilities up to the whole vocabulary.

Its extension ``blend`` lets a small tuned model and its base steer the request's model.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from openai.types import Completion
from openai.types.completion_choice import CompletionChoice
from openai.types.completion_usage import CompletionUsage
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from starlette.responses import Response

from tuning_server.disk import content_hash
from tuning_server.engine.blending import BlendSettings, generate
from tuning_server.engine.cache import ModelCache
from tuning_server.engine.models import LoadedModel, check_same_tokens
from tuning_server.engine.registry import UnknownModel
from tuning_server.engine.sampling import Sample, SamplingRequest
from tuning_server.errors import ApiError, at_most, model_error, refusing
from tuning_server.replies import legacy_logprobs, respond
from tuning_server.service import CurrentService
from tuning_server.store import new_id
from tuning_server.types import ModelId, Strict, only, split_prompts
from tuning_server.worker import Sampling, Task

router = APIRouter(prefix="/v1/completions", tags=["completions"])
MAX_ROWS = 16_384  # prompts x n of one request
MAX_BLENDED = 1024  # the same with a blend: nothing else is computed meanwhile
MAX_SCHEDULE = 4096
Weight = Annotated[float, Field(ge=-1000, le=1000)]
TokenId = Annotated[int, Field(strict=False, ge=0)]  # keys of JSON objects are strings
Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(max_length=16),
    BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
]


class Blend(Strict):
    """What to blend the request's model with.

    Parameters
    ----------
    tuned, base : ids of the small model that was tuned and of what it was tuned from
    weights : of the request's model, tuned and base
    plausibility : tokens less probable to the request's model than this times its likeliest one are ruled out
    schedule : factor of the small models' weights at each new token; the last one applies from there on
    """

    tuned: ModelId
    base: ModelId
    weights: list[Weight] = Field(default=[1.0, 1.0, -1.0], min_length=3, max_length=3)
    plausibility: float = Field(default=0.0, ge=0, le=1)
    schedule: list[Weight] = Field(default=[], max_length=MAX_SCHEDULE)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Annotated[bool, only(False)] = False


class SamplingFields(Strict):
    """Fields that completions and chat share. ``return_token_ids`` is an extension."""

    model: ModelId
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, ge=0, le=1)
    n: int = Field(default=1, ge=1, le=1024)
    stop: Stops = []
    seed: int | None = None
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    presence_penalty: Annotated[float, only(0)] = 0.0
    frequency_penalty: Annotated[float, only(0)] = 0.0
    user: str | None = None
    return_token_ids: bool = False


class CompletionRequest(SamplingFields):
    """Prompts to continue; without any, one empty prompt. ``blend`` is an extension."""

    prompt: Annotated[Any, AfterValidator(lambda prompt: split_prompts("" if prompt == [] else prompt))] = [""]
    max_tokens: int = Field(default=16, ge=0)
    best_of: int | None = None
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0)
    suffix: Annotated[str | None, only("")] = None
    blend: Blend | None = None

    @model_validator(mode="after")
    def check_fields(self) -> CompletionRequest:
        """Check what no field can say alone."""
        if self.best_of not in (None, self.n):
            raise ApiError("'best_of' is supported only where it equals 'n'.", param="best_of", code="unsupported")
        if self.blend and self.echo:
            message = "'echo' is not supported with 'blend': score the prompt with one model at a time."
            raise ApiError(message, param="echo", code="unsupported")
        limit = MAX_BLENDED if self.blend else MAX_ROWS
        at_most(limit, len(self.prompt) * self.n, "answers (prompts times 'n')", param="n")
        return self


def row_seed(seed: int, prompt_ids: list[int], repeat: int, index: int) -> int:
    """Seed of one answer: of the request's seed and its prompt, never of what else is in the batch.

    Parameters
    ----------
    repeat : how often the same prompt came before it in the request
    index : which of the prompt's n answers

    >>> row_seed(1, [5, 6], 0, 0) == row_seed(1, [5, 6], 0, 0) != row_seed(1, [5, 6], 1, 0)
    True
    """
    return int(content_hash([seed, prompt_ids, repeat, index], length=16), 16) >> 1


def encode(
    loaded: LoadedModel, prompt: str | list[int], *, n_new: int = 0, param: str = "prompt", name: str = "your prompt"
) -> list[int]:
    """Token ids of a text, or given ones, that fit the model's vocabulary and, with `n_new` more, its context."""
    ids = loaded.codec.encode_prompt(prompt) if isinstance(prompt, str) else prompt or loaded.codec.encode_prompt("")
    unknown = next((token for token in ids if not 0 <= token < loaded.vocab_size), None)
    if unknown is not None:
        message = f"Token id {unknown} is not in the vocabulary of {loaded.id} (0 to {loaded.vocab_size - 1})."
        raise ApiError(message, param=param)
    if len(ids) + n_new > loaded.context_tokens:
        message = (
            f"This model's maximum context length is {loaded.context_tokens} tokens, however you requested "
            f"{len(ids) + n_new} tokens ({len(ids)} in {name}; {n_new} for the completion). Shorten either."
        )
        raise ApiError(message, param=param, code="context_length_exceeded")
    return ids


def load_together(cache: ModelCache, ids: Mapping[str, str], *, param: str) -> list[LoadedModel]:
    """The models that the parameters of one request name; a refusal (`ApiError`) says which parameter is wrong.

    It is `param` where the models do not share a tokenizer.
    """
    models = []
    for name, model_id in ids.items():
        try:
            models.append(cache.get(model_id, beside=ids.values()))
        except UnknownModel as error:
            raise model_error(error, param=name) from error
    with refusing(param, code="different_tokenizers"):
        check_same_tokens(*models)
    return models


class CompletionTask:
    """One request on its way through the engine; `reply` sets `offsets`, where each token begins in its choice."""

    max_logprobs = 16_000_000  # numbers in one reply: tokens x likeliest tokens
    prompt_field, logprobs_field = "prompt", "logprobs"  # as errors name them

    def __init__(self, request: CompletionRequest) -> None:
        self.request = request
        self.seed = secrets.randbits(63) if request.seed is None else request.seed
        self.prompt_ids: list[list[int]] = []
        self.offsets: list[list[int]] = []

    def prepare(self, loaded: LoadedModel) -> list[SamplingRequest]:
        """The engine's requests, ``n`` per prompt; refuses what the model cannot do."""
        request, seen, rows = self.request, Counter[tuple[int, ...]](), []
        if (request.logprobs or 0) > loaded.vocab_size:
            message = f"{self.logprobs_field!r} is at most the vocabulary, {loaded.vocab_size}."
            raise ApiError(message, param=self.logprobs_field)
        bias = request.logit_bias or {}
        if max(bias, default=0) >= loaded.vocab_size:
            message = f"'logit_bias' maps token ids below {loaded.vocab_size} to numbers; found {max(bias)}."
            raise ApiError(message, param="logit_bias")
        for prompt in request.prompt:
            ids = encode(loaded, prompt, n_new=request.max_tokens, param=self.prompt_field)
            self.prompt_ids.append(ids if prompt else [])  # an empty prompt begins a document and has no tokens
            repeat = seen[tuple(ids)]
            seen[tuple(ids)] += 1
            rows += [
                SamplingRequest(
                    prompt_ids=ids, max_tokens=request.max_tokens, top_p=request.top_p or 1.0,
                    temperature=request.temperature if request.top_p else 0.0, stop=tuple(request.stop),
                    seed=row_seed(self.seed, ids, repeat, index), logprobs=request.logprobs,
                    echo=request.echo and bool(prompt), logit_bias=bias,
                )
                for index in range(request.n)
            ]  # fmt: skip
        n_tokens = sum(len(row.prompt_ids) * row.echo + row.max_tokens for row in rows)
        n_numbers = 0 if request.logprobs is None else n_tokens * (request.logprobs + 1)
        at_most(
            self.max_logprobs, n_numbers, "log-probabilities", advice="lower 'n' or 'max_tokens'",
            param=self.logprobs_field, code="reply_too_large",
        )  # fmt: skip
        return rows

    def run_blend(self, cache: ModelCache) -> Completion:
        """The reply of a request with a blend, which shares no batch with others.

        Raises
        ------
        ApiError
            If a model is unknown, they do not share a tokenizer, or a prompt is too long for one.
        """
        blend = self.request.blend
        assert blend is not None
        ids = {"model": self.request.model, "blend.tuned": blend.tuned, "blend.base": blend.base}
        big, tuned, base = models = load_together(cache, ids, param="blend")
        requests = self.prepare(big)
        settings = BlendSettings(tuple(blend.weights), blend.plausibility, tuple(blend.schedule))
        with refusing("prompt", code="context_length_exceeded"):
            samples = generate(big, tuned, base, requests, settings)
        reply = self.reply(big, samples)
        reply.system_fingerprint = "+".join(loaded.fingerprint for loaded in models)
        return reply

    def reply(self, loaded: LoadedModel, samples: list[Sample]) -> Completion:
        """The reply, choices in the order of prompts and their answers."""
        self.offsets = [[token.offset for token in sample.tokens] for sample in samples]
        n_top = self.request.logprobs
        choices = []
        for index, sample in enumerate(samples):
            logprobs = None if n_top is None else legacy_logprobs(loaded, sample.tokens, tops=n_top > 0)
            choices.append(CompletionChoice(text=sample.text, logprobs=logprobs, **self.ending(index, sample)))
        return Completion(object="text_completion", choices=choices, **self.head("cmpl-", loaded, samples))

    def head(self, prefix: str, loaded: LoadedModel, samples: list[Sample]) -> dict[str, Any]:
        """Fields of a reply but its choices; a prompt's tokens count once, however many answers it has."""
        n_prompt, n_new = sum(map(len, self.prompt_ids)), sum(len(sample.ids) for sample in samples)
        usage = CompletionUsage(prompt_tokens=n_prompt, completion_tokens=n_new, total_tokens=n_prompt + n_new)
        about = {"id": new_id(prefix), "created": int(time.time()), "model": self.request.model}
        return about | {"usage": usage, "system_fingerprint": loaded.fingerprint}

    def ending(self, index: int, sample: Sample) -> dict[str, Any]:
        """Fields of a choice but its text, with the tokens if ``return_token_ids`` requests them."""
        fields = {"index": index, "finish_reason": sample.finish_reason}
        ids = {"token_ids": sample.ids, "prompt_token_ids": self.prompt_ids[index // self.request.n]}
        return fields | ids if self.request.return_token_ids else fields


@router.post("", response_model=Completion)
async def create(body: CompletionRequest, request: Request, service: CurrentService) -> Response:
    """Continue prompts."""
    task = CompletionTask(body)
    work = Task(task.run_blend) if body.blend else Sampling(body.model, task.prepare, task.reply)
    reply = await service.answered(work, request)
    return await respond(reply, task.offsets, stream=body.stream, include_usage=body.stream_options.include_usage)
