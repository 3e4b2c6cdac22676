"""Rows of training files: read, checked as OpenAI checks them (line and reason), and turned into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.paths import json_object

if TYPE_CHECKING:
    from lib.engine.models import LoadedModel
    from lib.engine.training import TrainingRow

MAX_LINE_BYTES = 16 * 2**20


class BadRow(ValueError):
    """A training file cannot be used; says which line and why."""


@dataclass(frozen=True)
class Row:
    """One prompt and its completion; `line` counts from 1."""

    line: int
    prompt: str
    completion: str


def json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects of a file with their line numbers; blank lines are passed over.

    Raises
    ------
    BadRow
        If a line is not UTF-8, not JSON, or not an object.

    >>> list(json_rows([b'{"a": 1}', b"oops"]))
    Traceback (most recent call last):
    lib.server.rows.BadRow: Line 2: not JSON (Expecting value, column 1)
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
    lib.server.rows.BadRow: Line 3: 'completion' is empty, so there is nothing to learn
    """
    for key in ("prompt", "completion"):
        if key not in row:
            found = ", ".join(repr(name) for name in list(row)[:5]) or "none"
            raise BadRow(f"Line {number}: no {key!r}; expected the keys 'prompt' and 'completion', found {found}")
        if not isinstance(row[key], str):
            raise BadRow(f"Line {number}: {key!r} should be a string, found {type(row[key]).__name__}")
        try:
            row[key].encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow(f"Line {number}: {key!r} holds half of a surrogate pair, which is not text") from error
    if not row["completion"]:
        raise BadRow(f"Line {number}: 'completion' is empty, so there is nothing to learn")
    return Row(number, row["prompt"], row["completion"])


def read_rows(path: Path) -> list[Row]:
    """All rows of a training file.

    Raises
    ------
    BadRow
        If a line is wrong or there is none.
    """
    with path.open("rb") as file:
        rows = [check_row(number, row) for number, row in json_rows(file)]
    if not rows:
        raise BadRow("The file has no rows")
    return rows


def tokenise(rows: Iterable[Row], loaded: LoadedModel) -> list[TrainingRow]:
    """Token ids of rows: prompt and completion apart, as a client will ask for them, then the end-of-text token.

    Raises
    ------
    BadRow
        If a row is longer than the model's context; says which line.
    """
    from lib.engine.training import TrainingRow

    ready = []
    for row in rows:
        prompt = loaded.encode_prompt(row.prompt)
        ids = [*prompt, *loaded.encode(row.completion), loaded.eos_id]
        if len(ids) > loaded.context_tokens:
            raise BadRow(
                f"Line {row.line}: {len(ids)} tokens with the end-of-text token, "
                f"but the context of {loaded.id} is {loaded.context_tokens}"
            )
        ready.append(TrainingRow(ids, len(prompt)))
    return ready
