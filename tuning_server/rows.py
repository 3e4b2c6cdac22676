"""Rows of training files: read, checked line by line, and turned into tokens.

A supervised file has prompts with completions, or conversations; a preference file has pairs of answers, to prompts or
to conversations. Other keys are ignored, since published data sets carry ids and groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tuning_server.disk import BadRow, json_rows
from tuning_server.engine.losses import PreferenceRow, TrainingRow
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.tokenization import TemplateError, chat_row
from tuning_server.errors import from_validation
from tuning_server.types import Messages, Text, TrainingMessages, only

Encoded = list[tuple[list[int], list[int]]]  # tokens of each prompt and of its answer
NoTools = Annotated[Any, only([])]


def check_answer(text: str) -> str:
    """Refuse an answer without text."""
    if not text:
        raise ValueError("it is empty, so there is nothing to learn")
    return text


Answer = Annotated[Text, AfterValidator(check_answer)]


class Checked(BaseModel):
    """A row, or a part of one; keys that it does not have are ignored."""

    model_config = ConfigDict(strict=True)


class Conversation(Checked):
    """What rows of conversations share."""

    tools: NoTools = None
    functions: NoTools = None


class PromptRow(Checked):
    """A prompt and the completion to be learned."""

    prompt: Text
    completion: Answer

    def encode(self, loaded: LoadedModel) -> Encoded:
        """Tokens of the prompt and of the completion with the end-of-text token."""
        return [loaded.codec.encode_row(self.prompt, self.completion)]


class ChatRow(Conversation):
    """A conversation whose assistant is to be learned."""

    messages: TrainingMessages

    def encode(self, loaded: LoadedModel) -> Encoded:
        """Tokens of each answer to be learned, with all messages before it as its prompt.

        So the loss is on the assistant's words alone, and each is learned behind the tokens that will ask for it.
        """
        turns = [message.turn for message in self.messages]
        learned = [k for k, message in enumerate(self.messages) if message.is_learned]
        return [chat_row(loaded.codec, turns[: k + 1]) for k in learned]


class PairRow(Checked):
    """A prompt and two completions, of which one is preferred: an extension of ours."""

    prompt: Text
    chosen: Answer
    rejected: Answer

    def encode(self, loaded: LoadedModel) -> Encoded:
        """Tokens of the prompt with the chosen and with the rejected completion."""
        return [loaded.codec.encode_row(self.prompt, answer) for answer in (self.chosen, self.rejected)]


class Input(Conversation):
    """The conversation that two answers are given to."""

    messages: Messages


OneAnswer = Annotated[TrainingMessages, Field(max_length=1)]


class ChatPairRow(Checked):
    """A conversation and two answers of the assistant, of which one is preferred: OpenAI's format."""

    input: Input
    preferred_output: OneAnswer
    non_preferred_output: OneAnswer

    def encode(self, loaded: LoadedModel) -> Encoded:
        """Tokens of the conversation with the preferred and with the other answer."""
        turns = [message.turn for message in self.input.messages]
        answers = (self.preferred_output[0], self.non_preferred_output[0])
        return [chat_row(loaded.codec, [*turns, answer.turn]) for answer in answers]


Row = PromptRow | ChatRow | PairRow | ChatPairRow
FORMATS: dict[str, dict[str, type[Row]]] = {  # by method, and by the key that only rows of this format have
    "supervised": {"completion": PromptRow, "messages": ChatRow}, "dpo": {"chosen": PairRow, "input": ChatPairRow},
}  # fmt: skip
EXPECTED_KEYS = {
    "supervised": "'prompt' and 'completion', or 'messages'",
    "dpo": "'prompt', 'chosen' and 'rejected', or 'input', 'preferred_output' and 'non_preferred_output'",
}


def read_rows(path: Path, method: str) -> Iterator[tuple[int, Row]]:
    """Rows of a training file for a method, with their line numbers.

    Raises
    ------
    BadRow
        If a line is wrong or there is none, or the file mixes two formats.
    """
    before = None
    with path.open("rb") as file:
        for number, row in json_rows(file):
            key = next((key for key in FORMATS[method] if row.get(key) is not None), None)
            if key is None:
                raise BadRow(f"Line {number}: {missing_keys(row, method)}")
            if before not in (None, key):
                raise BadRow(f"Line {number}: found {key!r} where the lines before have {before!r}: give one format")
            before = key
            try:
                yield number, FORMATS[method][key].model_validate(row)
            except ValidationError as error:
                raise BadRow(f"Line {number}: {reason_of(error, row, method)}") from error
    if before is None:
        raise BadRow("The file has no rows")


def missing_keys(row: dict[str, Any], method: str) -> str:
    """What a row has, in place of what its method expects."""
    found = ", ".join(f"{name!r:.60}" for name in list(row)[:5]) or "none"
    is_pair = method == "supervised" and {"chosen", "preferred_output"} & set(row)
    hint = "; pairs of answers are for the method 'dpo'" if is_pair else ""
    return f"expected the keys {EXPECTED_KEYS[method]}, found {found}{hint}"


def reason_of(error: ValidationError, row: dict[str, Any], method: str) -> str:
    """What is wrong with a row."""
    complaints = error.errors()
    first = complaints[0]
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"no {first['loc'][0]!r}; {missing_keys(row, method)}"
    reason = from_validation(complaints).message.rstrip(".")
    shown = first["type"].endswith("_type") or first["type"] == "literal_error"
    return f"{reason}, found {json.dumps(first['input']):.60}" if shown else reason


def tokenise(rows: Iterable[tuple[int, Row]], loaded: LoadedModel) -> Iterator[TrainingRow | PreferenceRow]:
    """Token ids of rows, with their line numbers: one for each answer, or pair of answers, to be learned.

    Raises
    ------
    BadRow
        If a row is longer than the model's context, or its chat template refuses it.
    """
    for number, row in rows:
        try:
            encoded = row.encode(loaded)
        except TemplateError as error:
            raise BadRow(f"Line {number}: {error}") from error
        if isinstance(row, PairRow | ChatPairRow) and encoded[0] == encoded[1]:
            raise BadRow(f"Line {number}: the two answers are the same, so neither is preferred")
        n_tokens = max(len(prompt) + len(answer) for prompt, answer in encoded)
        if n_tokens > loaded.context_tokens:
            raise BadRow(
                f"Line {number}: {n_tokens} tokens with the end-of-text token, "
                f"but the context of {loaded.id} is {loaded.context_tokens}"
            )
        if (last := max(max(prompt + answer) for prompt, answer in encoded)) >= loaded.vocab_size:
            token = loaded.codec.decode([last])
            raise BadRow(f"Line {number}: {token!r} is a token of the tokenizer that {loaded.id} lacks")
        examples = [TrainingRow([*prompt, *answer], len(prompt)) for prompt, answer in encoded]
        if isinstance(row, PairRow | ChatPairRow):
            yield PreferenceRow(chosen=examples[0], rejected=examples[1])
        else:
            yield from examples
