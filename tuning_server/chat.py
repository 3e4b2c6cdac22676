"""Endpoint ``/v1/chat/completions``: a conversation becomes a prompt, and is completed as by ``/v1/completions``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from pydantic import Field, model_validator
from starlette.responses import Response

from tuning_server.completions import CompletionRequest, CompletionTask, SamplingFields
from tuning_server.errors import ApiError, refusing
from tuning_server.messages import Messages
from tuning_server.replies import chat_logprobs, respond
from tuning_server.service import CurrentService
from tuning_server.store import new_id
from tuning_server.types import only
from tuning_server.worker import Sampling

if TYPE_CHECKING:
    from tuning_server.engine.models import LoadedModel
    from tuning_server.engine.sampling import Sample, SamplingRequest

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])
CHAT_NAMES = {"prompt": "messages", "logprobs": "top_logprobs"}  # fields of completions by their name here


class ChatRequest(SamplingFields):
    """A conversation to answer. Without a limit an answer may fill the context.

    Fields from ``tools`` on are accepted at the values that ask for nothing.
    """

    messages: Messages
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0)
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    parallel_tool_calls: bool | None = None
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    verbosity: Annotated[Any, only("medium")] = None
    web_search_options: Annotated[Any, only()] = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    store: Annotated[bool | None, only(False)] = None
    metadata: Annotated[Any, only({})] = None
    moderation: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only({})] = None
    prompt_cache_retention: Annotated[Any, only("in_memory")] = None

    @model_validator(mode="after")
    def check_fields(self) -> ChatRequest:
        """Check what no field can say alone."""
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            message = "'max_tokens' is the older name of 'max_completion_tokens': give one of them."
            raise ApiError(message, param="max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("'top_logprobs' needs 'logprobs'.", param="top_logprobs")
        return self

    @property
    def limit_tokens(self) -> int | None:
        """Most tokens of an answer; None for what the context leaves."""
        return self.max_completion_tokens or self.max_tokens

    def as_completion(self) -> CompletionRequest:
        """The same request of ``/v1/completions``, but for the prompt and, where there is no limit, the length."""
        return CompletionRequest(
            max_tokens=self.limit_tokens or 1,
            logprobs=self.top_logprobs or 0 if self.logprobs else None,
            **{name: getattr(self, name) for name in SamplingFields.model_fields},
        )


class ChatTask(CompletionTask):
    """A request whose prompt is known only once its model is: the model's chat template decides it."""

    max_logprobs = 2_000_000  # of one reply: each is an object of its own here

    def __init__(self, chat: ChatRequest) -> None:
        super().__init__(chat.as_completion())
        self.limit_tokens, self.turns = chat.limit_tokens, [message.turn for message in chat.messages]
        self.lead = ""

    def prepare(self, loaded: LoadedModel) -> list[SamplingRequest]:
        """The engine's requests for the conversation as this model reads it."""
        from tuning_server.engine.tokenization import chat_prompt

        with refusing("messages"):
            prompt = chat_prompt(loaded.codec, self.turns)
        request, self.lead = self.request, prompt.lead
        # at least one token, so that a full context is refused in words
        limit = self.limit_tokens or max(1, loaded.context_tokens - len(prompt.ids))
        stops = list(dict.fromkeys((*request.stop, *prompt.stops)))
        self.request = request.model_copy(update={"prompt": [prompt.ids], "max_tokens": limit, "stop": stops})
        try:
            return super().prepare(loaded)
        except ApiError as error:
            error.param = CHAT_NAMES.get(error.param or "", error.param)
            error.message = error.message.replace("'logprobs'", "'top_logprobs'")
            raise

    def chat_reply(self, loaded: LoadedModel, samples: list[Sample]) -> ChatCompletion:
        """The reply in the chat format, one choice per sample."""
        choices = []
        for index, sample in enumerate(samples):
            content = sample.text.removeprefix(self.lead)
            n_cut = len(sample.text) - len(content)
            self.offsets.append([max(0, token.offset - n_cut) for token in sample.tokens])
            message, reason = ChatCompletionMessage(role="assistant", content=content), sample.finish_reason
            choice = Choice(index=index, message=message, finish_reason=reason, **self.token_ids(index, sample))  # type: ignore[arg-type]
            if self.request.logprobs is not None:
                choice.logprobs = chat_logprobs(loaded, sample.tokens)
            choices.append(choice)
        return ChatCompletion(
            id=new_id("chatcmpl-"), object="chat.completion", created=int(time.time()), model=self.request.model,
            choices=choices, usage=self.usage(samples), system_fingerprint=loaded.fingerprint,
        )  # fmt: skip


@router.post("", response_model=ChatCompletion)
async def create(body: ChatRequest, request: Request, service: CurrentService) -> Response:
    """Answer a conversation."""
    task = ChatTask(body)
    reply = await service.answered(Sampling(body.model, task.prepare, task.chat_reply), request)
    return await respond(reply, task.offsets, stream=body.stream, include_usage=body.include_usage)
