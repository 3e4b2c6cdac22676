"""What a client may ask of ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lib.server.completion_request import CompletionRequest, Sampled
from lib.server.errors import ApiError
from lib.server.messages import BadMessage, Message, read_messages


class ChatRequest(Sampled):
    """A conversation to answer. Without a limit an answer may fill the context."""

    messages: Any
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0)

    def conversation(self) -> list[Message]:
        """The messages, checked.

        Raises
        ------
        ApiError
            Naming the message that does not fit.
        """
        try:
            return read_messages(self.messages)
        except BadMessage as error:
            raise ApiError(f"Invalid value: {error}.", param=error.param, code="invalid_value") from error

    def as_completion(self) -> CompletionRequest:
        """The same request of ``/v1/completions``, but for the prompt and, where there is no limit, the length.

        Raises
        ------
        ApiError
            If two fields contradict each other.
        """
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            message = "'max_tokens' is the older name of 'max_completion_tokens': give one of them."
            raise ApiError(message, param="max_tokens", code="invalid_value")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("'top_logprobs' needs 'logprobs'.", param="top_logprobs", code="invalid_value")
        shared = {name: getattr(self, name) for name in Sampled.model_fields}
        return CompletionRequest(
            prompt="",
            max_tokens=self.limit_tokens or 1,
            logprobs=self.top_logprobs or 0 if self.logprobs else None,
            **shared,
        )

    @property
    def limit_tokens(self) -> int | None:
        """Most tokens of an answer; None for what the context leaves."""
        return self.max_completion_tokens or self.max_tokens
