"""Messages of a conversation, checked alike in a chat request and in a training file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tuning_server.types import Strict, Text, only

MAX_MESSAGES = 2048


class TextPart(Strict):
    """A part of a message's content; other kinds, as images, are refused."""

    type: Literal["text"]
    text: Text


Parts = Annotated[list[TextPart], Field(min_length=1)]
Content = Annotated[
    Annotated[Text, Tag("[text]")] | Annotated[Parts, Tag("[parts]")],
    Discriminator(lambda content: "[parts]" if isinstance(content, list) else "[text]"),
    AfterValidator(lambda content: content if isinstance(content, str) else "".join(part.text for part in content)),
]


class Message(Strict):
    """One turn of a conversation: its content as one string, whether it came as a string or in parts.

    A `weight` of 0 keeps an assistant's turn from being learned. A reply's message, whose further fields are empty, may
    be sent back as it came.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    weight: Annotated[float, Field(ge=0, le=1, multiple_of=1)] | None = None
    name: Annotated[Any, only()] = None
    refusal: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    annotations: Annotated[Any, only([])] = None

    @model_validator(mode="after")
    def check_weight(self) -> Message:
        if self.weight is not None and self.role != "assistant":
            raise ValueError(f"'weight' is for the assistant's messages only, found it in a {self.role} message")
        return self

    @property
    def is_learned(self) -> bool:
        """Whether training learns this turn."""
        return self.role == "assistant" and self.weight != 0

    @property
    def turn(self) -> dict[str, str]:
        """As the engine and chat templates have it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": str(self.content)}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


def check_learned(messages: list[Message]) -> list[Message]:
    """Refuse a conversation from which nothing would be learned, or that ends with another than the assistant."""
    if messages[-1].role != "assistant":
        raise ValueError(f"the last message is of the role {messages[-1].role!r}, but must be the assistant's")
    for k, message in enumerate(messages):
        if message.role == "assistant" and not message.content:
            raise ValueError(f"the content of message {k} is empty, so there is nothing to learn")
    if not any(message.is_learned for message in messages):
        raise ValueError("every message of the assistant has the weight 0: there is nothing to learn")
    return messages


TrainingMessages = Annotated[Messages, AfterValidator(check_learned)]
