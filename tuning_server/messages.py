"""Messages of a conversation, checked alike in a request and in a training file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 2048


class BadMessage(ValueError):
    """A message cannot be used; `param` names its place."""

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"{param!r} {reason}")
        self.param = param


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; a `weight` of 0 keeps an assistant's turn from being learned."""

    role: Role
    content: str
    weight: int = 1

    @property
    def turn(self) -> dict[str, str]:
        """As the engine and chat templates have it."""
        return {"role": self.role, "content": self.content}


def read_messages(value: Any, *, for_training: bool = False) -> list[Message]:
    """Check a list of messages. Content is a string or text parts, which are joined; ``developer`` counts as system.

    Parameters
    ----------
    value : what stands under ``messages``
    for_training : as a row of a training file: the last message is the assistant's, its messages have content, and
        those with ``"weight": 0`` are not learned

    Raises
    ------
    BadMessage
        Naming the first place that does not fit.

    >>> read_messages([{"role": "user", "content": [{"type": "text", "text": "Who?"}]}])
    [Message(role='user', content='Who?', weight=1)]
    >>> read_messages([{"role": "user", "content": "Who?"}], for_training=True)
    Traceback (most recent call last):
    tuning_server.messages.BadMessage: 'messages[0].role' is 'user', but the last message must be the assistant's
    """
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise BadMessage("messages", f"should be a list of at least one message, found {found}")
    if len(value) > MAX_MESSAGES:
        raise BadMessage("messages", f"holds {len(value)} messages, expected at most {MAX_MESSAGES}")
    messages = [_message(f"messages[{k}]", row, for_training=for_training) for k, row in enumerate(value)]
    if for_training:
        last = f"messages[{len(messages) - 1}].role"
        if messages[-1].role != "assistant":
            raise BadMessage(last, f"is {value[-1]['role']!r}, but the last message must be the assistant's")
        if not any(message.weight for message in messages if message.role == "assistant"):
            raise BadMessage("messages", "give every message of the assistant the weight 0: there is nothing to learn")
    return messages


def _message(place: str, row: Any, *, for_training: bool) -> Message:
    if not isinstance(row, Mapping):
        raise BadMessage(place, f"should be an object, found {type(row).__name__}")
    for key in row:
        if key not in ("role", "content", "weight") or (key == "weight" and not for_training):
            raise BadMessage(f"{place}.{key:.60}", "is not supported: a message has 'role' and 'content'")
    for key in ("role", "content"):
        if key not in row:
            raise BadMessage(f"{place}.{key}", "is missing")
    role = row["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise BadMessage(f"{place}.role", f"is {role!r:.60}, expected one of {', '.join(ROLES)}")
    content = _text(f"{place}.content", row["content"])
    if for_training and role == "assistant" and not content:
        raise BadMessage(f"{place}.content", "is empty, so there is nothing to learn")
    return Message(ROLES[role], content, _weight(place, role, row.get("weight")))


def _weight(place: str, role: str, weight: Any) -> int:
    if weight is None:
        return 1
    if role != "assistant":
        raise BadMessage(f"{place}.weight", f"is for the assistant's messages only, found it in a {role} message")
    if type(weight) is not int or weight not in (0, 1):
        raise BadMessage(f"{place}.weight", f"is {weight!r:.60}, expected 0 or 1")
    return weight


def _text(place: str, content: Any) -> str:
    """A message's words, its text parts joined."""
    if isinstance(content, list) and content:
        parts = [_part(f"{place}[{k}]", part) for k, part in enumerate(content)]
        content = "".join(parts)
    if not isinstance(content, str):
        found = "an empty list" if content == [] else type(content).__name__
        raise BadMessage(place, f"should be a string or a list of text parts, found {found}")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadMessage(place, "holds half of a surrogate pair, which is not text") from error
    return content


def _part(place: str, part: Any) -> str:
    if not isinstance(part, Mapping):
        raise BadMessage(place, f"should be an object, found {type(part).__name__}")
    if part.get("type") != "text":
        raise BadMessage(f"{place}.type", f"is {part.get('type')!r:.60}; only 'text' parts are supported")
    if set(part) != {"type", "text"} or not isinstance(part["text"], str):
        raise BadMessage(place, "should hold 'type' and 'text', the latter a string, and nothing else")
    return part["text"]
