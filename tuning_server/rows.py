"""Rows of training files: read, checked as OpenAI checks them (line and reason), and turned into tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tuning_server.disk import json_object
from tuning_server.messages import BadMessage, Message, read_messages

if TYPE_CHECKING:
    from tuning_server.engine.losses import TrainingRow
    from tuning_server.engine.models import LoadedModel

MAX_LINE_BYTES = 16 * 2**20
Plain = TypeVar("Plain")
Spoken = TypeVar("Spoken")
Made = TypeVar("Made")
Format: TypeAlias = tuple[str, Callable[[int, dict[str, Any]], Made]]


class BadRow(ValueError):
    """A training file cannot be used; says which line and why."""


@dataclass(frozen=True)
class Row:
    """One prompt and its completion; `line` counts from 1."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class ChatRow:
    """One conversation whose assistant is to be learned; `line` counts from 1."""

    line: int
    messages: tuple[Message, ...]


def json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects of a file with their line numbers; blank lines are passed over.

    Raises
    ------
    BadRow
        If a line is not UTF-8, not JSON, or not an object.

    >>> list(json_rows([b'{"a": 1}', b"oops"]))
    Traceback (most recent call last):
    tuning_server.rows.BadRow: Line 2: not JSON (Expecting value, column 1)
    """
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_BYTES:
            raise BadRow(f"Line {number}: longer than {MAX_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            row = json_object(line, is_first=number == 1)
        except ValueError as error:
            raise BadRow(f"Line {number}: {error}") from error
        yield number, row


def check_text(number: int, key: str, value: Any) -> None:
    """Refuse what is not text (`BadRow`)."""
    if not isinstance(value, str):
        raise BadRow(f"Line {number}: {key!r} should be a string, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"Line {number}: {key!r} holds half of a surrogate pair, which is not text") from error


def check_row(number: int, row: dict[str, Any]) -> Row:
    """A prompt/completion row. Further keys are allowed and ignored: published data sets carry ids and groups.

    Raises
    ------
    BadRow
        If prompt or completion is missing, not a string, not Unicode, or the completion is empty.

    >>> check_row(3, {"prompt": "", "completion": " a", "person": 7})
    Row(line=3, prompt='', completion=' a')
    >>> check_row(3, {"prompt": "x", "completion": ""})
    Traceback (most recent call last):
    tuning_server.rows.BadRow: Line 3: 'completion' is empty, so there is nothing to learn
    """
    for key in ("prompt", "completion"):
        if key not in row:
            found = ", ".join(f"{name!r:.60}" for name in list(row)[:5]) or "none"
            either = "" if "prompt" in row or "completion" in row else ", or 'messages'"
            hint = "; pairs of answers are for the method 'dpo'" if {"chosen", "preferred_output"} & set(row) else ""
            raise BadRow(
                f"Line {number}: no {key!r}; expected the keys 'prompt' and 'completion'{either}, found {found}{hint}"
            )
        check_text(number, key, row[key])
    if not row["completion"]:
        raise BadRow(f"Line {number}: 'completion' is empty, so there is nothing to learn")
    return Row(number, row["prompt"], row["completion"])


def check_chat_row(number: int, row: dict[str, Any]) -> ChatRow:
    """A row of the chat format. Further keys are ignored as above, but for those that would change what is learned.

    Raises
    ------
    BadRow
        If a message is wrong, the last one is not the assistant's, or none of the assistant's has a weight of 1.

    >>> check_chat_row(2, {"messages": [{"role": "assistant", "content": "Yes.", "weight": 2}]})
    Traceback (most recent call last):
    tuning_server.rows.BadRow: Line 2: Invalid value for 'messages[0]': 'weight' is 2.0, expected 0 or 1
    """
    for key in ("tools", "functions"):
        if row.get(key):
            raise BadRow(f"Line {number}: {key!r} is not supported: a conversation has system, user and assistant")
    try:
        return ChatRow(number, tuple(read_messages(row["messages"], for_training=True)))
    except BadMessage as error:
        raise BadRow(f"Line {number}: {error}") from error


def read_rows(path: Path) -> Iterator[Row | ChatRow]:
    """Rows of a training file: prompts with completions, or conversations.

    Raises
    ------
    BadRow
        As `read_one_format`.
    """
    return read_one_format(path, plain=("completion", check_row), spoken=("messages", check_chat_row))


def read_one_format(path: Path, *, plain: Format[Plain], spoken: Format[Spoken]) -> Iterator[Plain | Spoken]:
    """Rows of a file that has one of two formats.

    Parameters
    ----------
    plain, spoken : the key that only this format has, and what makes a row of a line; what has neither key is plain

    Raises
    ------
    BadRow
        If a line is wrong or there is none, or the file mixes the two formats.
    """
    is_chat = None
    with path.open("rb") as file:
        for number, row in json_rows(file):
            was_chat, is_chat = is_chat, spoken[0] in row and plain[0] not in row
            if was_chat not in (None, is_chat):
                found, before = (repr(spoken[0]), plain[0]) if is_chat else (f"no {spoken[0]!r}", spoken[0])
                raise BadRow(f"Line {number}: found {found} where the lines before have {before!r}: one format a file")
            yield spoken[1](number, row) if is_chat else plain[1](number, row)
    if is_chat is None:
        raise BadRow("The file has no rows")


def tokenise(rows: Iterable[Row | ChatRow], loaded: LoadedModel) -> Iterator[TrainingRow]:
    """Token ids of rows: what a client will ask, and apart from it the answer with the end-of-text token.

    A conversation gives a training row for each answer to be learned, all that was said before being its prompt: so
    the loss is on the assistant's words alone, and each is learned behind the very tokens that will ask for it.

    Raises
    ------
    BadRow
        If a row is longer than the model's context, or its chat template refuses it; says which line.
    """
    for row in rows:
        for prompt, answer in _lessons(row, loaded):
            yield fitting(row.line, prompt, answer, loaded)


def fitting(line: int, prompt: list[int], answer: list[int], loaded: LoadedModel) -> TrainingRow:
    """The training row of a prompt and an answer, if the model's context holds it (`BadRow` if not)."""
    from tuning_server.engine.losses import TrainingRow

    ids = [*prompt, *answer]
    if max(ids) >= loaded.vocab_size:
        raise BadRow(f"Line {line}: {loaded.decode([max(ids)])!r} is a token of the tokenizer that {loaded.id} lacks")
    if len(ids) > loaded.context_tokens:
        raise BadRow(
            f"Line {line}: {len(ids)} tokens with the end-of-text token, "
            f"but the context of {loaded.id} is {loaded.context_tokens}"
        )
    return TrainingRow(ids, len(prompt))


def _lessons(row: Row | ChatRow, loaded: LoadedModel) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and answers of a row as token ids."""
    from tuning_server.engine.tokenization import TemplateError, chat_row

    if isinstance(row, Row):
        yield loaded.codec.encode_row(row.prompt, row.completion)
        return
    turns = [message.turn for message in row.messages]
    for k, message in enumerate(row.messages):
        if message.is_learned:
            try:
                yield chat_row(loaded.codec, turns[: k + 1])
            except TemplateError as error:
                raise BadRow(f"Line {row.line}: {error}") from error
