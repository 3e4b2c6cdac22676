"""Endpoint ``/v1/chat/completions``: a conversation becomes a prompt, and is completed as by ``/v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from pydantic import Field, model_validator
from starlette.responses import Response

from tuning_server.completions import CompletionRequest, CompletionTask, SamplingFields
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import Sample, SamplingRequest
from tuning_server.engine.tokenization import chat_prompt
from tuning_server.errors import ApiError, refusing
from tuning_server.replies import chat_logprobs, respond
from tuning_server.service import CurrentService
from tuning_server.types import Messages, only
from tuning_server.worker import Sampling

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])


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


class ChatTask(CompletionTask):
    """A request whose prompt is known only once its model is: the model's chat template decides it."""

    max_logprobs = 2_000_000  # of one reply: each is an object of its own here
    prompt_field, logprobs_field = "messages", "top_logprobs"

    def __init__(self, chat: ChatRequest) -> None:
        self.limit_tokens = chat.max_completion_tokens or chat.max_tokens  # None for what the context leaves
        self.turns, self.lead = [message.turn for message in chat.messages], ""
        shared = {name: getattr(chat, name) for name in SamplingFields.model_fields}
        n_top = chat.top_logprobs or 0 if chat.logprobs else None
        super().__init__(CompletionRequest(max_tokens=self.limit_tokens or 1, logprobs=n_top, **shared))

    def prepare(self, loaded: LoadedModel) -> list[SamplingRequest]:
        """The engine's requests for the conversation as this model reads it."""
        with refusing("messages"):
            prompt = chat_prompt(loaded.codec, self.turns)
        request, self.lead = self.request, prompt.lead
        # at least one token, so that a full context is refused in words
        limit = self.limit_tokens or max(1, loaded.context_tokens - len(prompt.ids))
        stops = list(dict.fromkeys((*request.stop, *prompt.stops)))
        self.request = request.model_copy(update={"prompt": [prompt.ids], "max_tokens": limit, "stop": stops})
        return super().prepare(loaded)

    def chat_reply(self, loaded: LoadedModel, samples: list[Sample]) -> ChatCompletion:
        """The reply in the chat format, one choice per sample."""
        choices = []
        for index, sample in enumerate(samples):
            content = sample.text.removeprefix(self.lead)
            n_cut = len(sample.text) - len(content)
            self.offsets.append([max(0, token.offset - n_cut) for token in sample.tokens])
            message = ChatCompletionMessage(role="assistant", content=content)
            logprobs = None if self.request.logprobs is None else chat_logprobs(loaded, sample.tokens)
            choices.append(Choice(message=message, logprobs=logprobs, **self.ending(index, sample)))
        return ChatCompletion(object="chat.completion", choices=choices, **self.head("chatcmpl-", loaded, samples))


@router.post("", response_model=ChatCompletion)
async def create(body: ChatRequest, request: Request, service: CurrentService) -> Response:
    """Answer a conversation."""
    task = ChatTask(body)
    reply = await service.answered(Sampling(body.model, task.prepare, task.chat_reply), request)
    return await respond(reply, task.offsets, stream=body.stream, include_usage=body.stream_options.include_usage)
