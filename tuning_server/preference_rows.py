"""Rows of DPO training files: pairs of answers in OpenAI's format or as plain texts, checked and turned into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning_server.messages import BadMessage, Message, read_messages
from tuning_server.rows import BadRow, check_text, fitting, read_one_format

if TYPE_CHECKING:
    from tuning_server.engine.losses import PreferenceRow
    from tuning_server.engine.models import LoadedModel

OUTPUTS = ("preferred_output", "non_preferred_output")


@dataclass(frozen=True)
class Pair:
    """A prompt and two completions of it; `line` counts from 1."""

    line: int
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ChatPair:
    """A conversation and two answers of its assistant; `line` counts from 1."""

    line: int
    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message


def check_pair(number: int, row: dict[str, Any]) -> Pair:
    """A pair of completions, an extension of ours. Further keys are allowed and ignored.

    Raises
    ------
    BadRow
        If a text is missing, no text or (an answer) empty, or both answers are the same.

    >>> check_pair(1, {"prompt": "Who?", "chosen": " Ada.", "rejected": " No."})
    Pair(line=1, prompt='Who?', chosen=' Ada.', rejected=' No.')
    >>> check_pair(4, {"prompt": "Who?", "chosen": " Ada."})
    Traceback (most recent call last):
    tuning_server.rows.BadRow: Line 4: no 'rejected'; expected the keys 'prompt', 'chosen' and 'rejected', or 'input',
    'preferred_output' and 'non_preferred_output', found 'prompt', 'chosen'
    """
    for key in ("prompt", "chosen", "rejected"):
        if key not in row:
            found = ", ".join(f"{name!r:.60}" for name in list(row)[:5]) or "none"
            raise BadRow(
                f"Line {number}: no {key!r}; expected the keys 'prompt', 'chosen' and 'rejected', or 'input', "
                f"'preferred_output' and 'non_preferred_output', found {found}"
            )
        check_text(number, key, row[key])
        if key != "prompt" and not row[key]:
            raise BadRow(f"Line {number}: {key!r} is empty, so there is nothing to compare")
    if row["chosen"] == row["rejected"]:
        raise BadRow(f"Line {number}: 'chosen' and 'rejected' are the same, so neither is preferred")
    return Pair(number, row["prompt"], row["chosen"], row["rejected"])


def check_chat_pair(number: int, row: dict[str, Any]) -> ChatPair:
    """A row of OpenAI's preference format. Further keys are ignored, but for those that would change what is learned.

    Raises
    ------
    BadRow
        If a message is wrong, an output is not one message of the assistant, or both outputs are the same.

    >>> check_chat_pair(2, {"input": {"messages": [{"role": "user", "content": "Who?"}]}, "preferred_output": []})
    Traceback (most recent call last):
    tuning_server.rows.BadRow: Line 2: Invalid value for 'preferred_output': List should have at least 1 item after
    validation, not 0
    """
    given = row["input"]
    if not isinstance(given, dict):
        raise BadRow(f"Line {number}: 'input' should be an object with 'messages', found {type(given).__name__}")
    for key in ("tools", "functions"):
        if given.get(key):
            raise BadRow(
                f"Line {number}: 'input.{key}' is not supported: a conversation has system, user and assistant"
            )
    messages = _messages(number, "input.messages", given.get("messages"))
    chosen, rejected = (_answer(number, name, row.get(name)) for name in OUTPUTS)
    if chosen.content == rejected.content:
        raise BadRow(f"Line {number}: 'preferred_output' and 'non_preferred_output' are the same: neither is preferred")
    return ChatPair(number, tuple(messages), chosen, rejected)


def _answer(number: int, name: str, value: Any) -> Message:
    messages = _messages(number, name, value, for_training=True)
    if len(messages) != 1:
        raise BadRow(f"Line {number}: {name!r} should be one message of the assistant, found {len(messages)} messages")
    return messages[0]


def _messages(number: int, name: str, value: Any, *, for_training: bool = False) -> list[Message]:
    try:
        return read_messages(value, for_training=for_training)
    except BadMessage as error:
        told = str(error).replace("'messages", f"'{name}", 1)
        raise BadRow(f"Line {number}: {told}") from error


def read_pairs(path: Path) -> Iterator[Pair | ChatPair]:
    """Rows of a preference file.

    Raises
    ------
    BadRow
        As `tuning_server.rows.read_one_format`.
    """
    return read_one_format(path, plain=("chosen", check_pair), spoken=("input", check_chat_pair))


def tokenise_pairs(rows: Iterable[Pair | ChatPair], loaded: LoadedModel) -> Iterator[PreferenceRow]:
    """Token ids of pairs: each answer behind the very tokens that will ask for it, with the end-of-text token.

    Raises
    ------
    BadRow
        If a document is longer than the model's context, or its chat template refuses it; says which line.
    """
    from tuning_server.engine.losses import PreferenceRow
    from tuning_server.engine.tokenization import TemplateError, chat_row

    for row in rows:
        if isinstance(row, Pair):
            lessons = [loaded.codec.encode_row(row.prompt, text) for text in (row.chosen, row.rejected)]
        else:
            turns = [message.turn for message in row.messages]
            try:
                lessons = [chat_row(loaded.codec, [*turns, answer.turn]) for answer in (row.chosen, row.rejected)]
            except TemplateError as error:
                raise BadRow(f"Line {row.line}: {error}") from error
        chosen, rejected = (fitting(row.line, prompt, answer, loaded) for prompt, answer in lessons)
        yield PreferenceRow(chosen, rejected)
