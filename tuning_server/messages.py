"""Messages of a conversation, checked alike in a chat request and in a training file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from tuning_server.errors import from_validation
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
    weight: float | None = None
    name: Annotated[Any, only()] = None
    refusal: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    annotations: Annotated[Any, only([])] = None

    @model_validator(mode="after")
    def check_weight(self) -> Message:
        if self.weight not in (None, 0, 1):
            raise ValueError(f"'weight' is {self.weight}, expected 0 or 1")
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


class Conversation(Strict):
    """Messages to answer."""

    messages: Messages


class TrainingConversation(Strict):
    """Messages to learn from."""

    messages: TrainingMessages


class BadMessage(ValueError):
    """Messages of a training file cannot be used."""


def read_messages(value: Any, *, for_training: bool = False) -> list[Message]:
    """Check the messages of a training row; content in parts is joined.

    Raises
    ------
    BadMessage
        Naming the first field that is wrong.

    >>> [message] = read_messages([{"role": "user", "content": [{"type": "text", "text": "Who?"}]}])
    >>> message.turn
    {'role': 'user', 'content': 'Who?'}
    >>> read_messages([message.turn], for_training=True)
    Traceback (most recent call last):
    tuning_server.messages.BadMessage: Invalid value for 'messages': the last message is of the role 'user', but must be
    the assistant's
    """
    try:
        return (TrainingConversation if for_training else Conversation).model_validate({"messages": value}).messages
    except ValidationError as error:
        raise BadMessage(from_validation(error.errors()).message.rstrip(".")) from error
