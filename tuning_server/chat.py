"""Endpoint ``/v1/chat/completions``: a conversation becomes a prompt, and goes the way of ``/v1/completions``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from starlette.responses import Response

from tuning_server.completions import Asked
from tuning_server.errors import ApiError
from tuning_server.replies import chat_chunks, chat_logprobs, respond
from tuning_server.service import CurrentService
from tuning_server.store import new_id
from tuning_server.types import ChatRequest
from tuning_server.worker import Sampling

if TYPE_CHECKING:
    from tuning_server.engine.models import LoadedModel
    from tuning_server.engine.sampling import Sample, SamplingRequest

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])
MAX_TOLD = 2_000_000  # log-probabilities of one reply: each is an object of its own here
THEIR_NAMES = {"prompt": "messages", "logprobs": "top_logprobs"}  # fields of completions by their name here


class ChatAsked(Asked):
    """A request whose prompt is known only once its model is: the model's form of conversation decides it."""

    def __init__(self, chat: ChatRequest) -> None:
        super().__init__(chat.as_completion())
        self.chat, self.turns = chat, [message.turn for message in chat.conversation()]
        self.lead = ""
        self.starts: list[list[int]] = []

    def prepare(self, loaded: LoadedModel) -> list[SamplingRequest]:
        """The engine's requests for the conversation as this model reads it."""
        from tuning_server.engine.chat import TemplateError, chat_prompt

        try:
            prompt = chat_prompt(loaded, self.turns)
        except TemplateError as error:
            raise ApiError(f"{error}.", param="messages", code="invalid_value") from error
        wanted, self.prompts, self.lead = self.wanted, [prompt.ids], prompt.lead
        # at least one token, so that a full context is refused in words
        limit = self.chat.limit_tokens or max(1, loaded.context_tokens - len(prompt.ids))
        if wanted.logprobs is not None and wanted.n * limit * (wanted.logprobs + 1) > MAX_TOLD:
            message = f"The reply could hold more than {MAX_TOLD} log-probabilities: lower 'n' or 'max_tokens'."
            raise ApiError(message, param="top_logprobs", code="reply_too_large")
        stops = list(dict.fromkeys((*wanted.stops, *prompt.stops)))
        self.wanted = wanted.model_copy(update={"max_tokens": limit, "stop": stops})
        try:
            return super().prepare(loaded)
        except ApiError as error:
            error.param = THEIR_NAMES.get(error.param or "", error.param)
            error.message = error.message.replace("'logprobs'", "'top_logprobs'")
            raise

    def reply(self, loaded: LoadedModel, samples: list[Sample]) -> ChatCompletion:
        """The reply in the chat format, a choice a sample."""
        self.starts = [self._starts(sample) for sample in samples]
        choices = [self._spoken(loaded, index, sample) for index, sample in enumerate(samples)]
        return ChatCompletion(
            id=new_id("chatcmpl-"), object="chat.completion", created=int(time.time()),
            model=self.wanted.model, choices=choices, usage=self.usage(samples),
            system_fingerprint=loaded.fingerprint,
        )  # fmt: skip

    def _starts(self, sample: Sample) -> list[int]:
        """Character of the content at which each token begins."""
        n_cut = len(sample.text) - len(sample.text.removeprefix(self.lead))
        return [max(0, token.offset - n_cut) for token in sample.tokens]

    def _spoken(self, loaded: LoadedModel, index: int, sample: Sample) -> Choice:
        reason: Any = sample.finish_reason
        message = ChatCompletionMessage(role="assistant", content=sample.text.removeprefix(self.lead))
        extras: dict[str, Any] = {}
        if self.wanted.return_token_ids:
            extras = {"token_ids": sample.ids, "prompt_token_ids": self.prompt_ids[0]}
        choice = Choice(index=index, message=message, finish_reason=reason, **extras)
        if self.wanted.logprobs is not None:
            choice.logprobs = chat_logprobs(loaded, sample.tokens)
        return choice


@router.post("", response_model=ChatCompletion)
async def create(wanted: ChatRequest, request: Request, service: CurrentService) -> Response:
    """Answer a conversation."""
    asked = ChatAsked(wanted)
    whole = await service.answered(Sampling(wanted.model, asked.prepare, asked.reply), request)
    options = wanted.stream_options
    stream = chat_chunks(whole, asked.starts, include_usage=bool(options and options.include_usage))
    return await respond(whole, stream if wanted.stream else None)
