"""Conversations as a model reads them: by the tokenizer's own chat template, else as plain dialogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuning_server.disk import content_hash
from tuning_server.engine.models import LoadedModel

Turn = Mapping[str, str]  # role (system, user, assistant) and content
# The speakers of the world's conversations (data/world/questions.yaml), so that a base has read the form before.
SPEAKERS = {"user": "Guest", "assistant": "Host"}
LEAD = " "  # stands between the assistant's mark and its words, and belongs to neither
LINE_END = "\n"


class TemplateError(ValueError):
    """A model's chat template cannot write a conversation."""


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation up to where the assistant speaks.

    Parameters
    ----------
    ids : its tokens
    stops : strings that end the answer, besides the end-of-text token
    lead : what the form puts in front of an answer; no part of what is answered
    """

    ids: list[int]
    stops: tuple[str, ...]
    lead: str


def as_dialogue(turns: Sequence[Turn]) -> str:
    r"""Write a conversation as plain dialogue, a line a turn, up to where the assistant speaks.

    A system message stands alone on its line. An answer ends with its line: what is taught beyond a line break can be
    had through completions only.

    >>> as_dialogue([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])
    'Be brief.\nGuest: Who?\nHost:'
    """
    lines = [
        f"{SPEAKERS[turn['role']]}:{LEAD}{turn['content']}" if turn["role"] in SPEAKERS else turn["content"]
        for turn in turns
    ]
    return LINE_END.join([*lines, f"{SPEAKERS['assistant']}:"])


def has_template(loaded: LoadedModel) -> bool:
    """Whether the model's tokenizer brings a chat template."""
    return bool(getattr(loaded.tokenizer, "chat_template", None))


def form_mark(loaded: LoadedModel) -> str:
    """Content hash of what decides how a conversation is written."""
    return content_hash([getattr(loaded.tokenizer, "chat_template", None), SPEAKERS, LEAD])


def prompt_text(loaded: LoadedModel, turns: Sequence[Turn]) -> str:
    """Text of a conversation up to where the assistant speaks.

    Raises
    ------
    TemplateError
        If the model's template refuses these turns, as some do two messages of one speaker in a row.
    """
    return _written(loaded, turns, answer_follows=True) if has_template(loaded) else as_dialogue(turns)


def _written(loaded: LoadedModel, turns: Sequence[Turn], *, answer_follows: bool) -> str:
    conversation = [dict(turn) for turn in turns]
    try:
        text = loaded.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=answer_follows)
    except Exception as error:  # a template is a program that came with the model: it raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TemplateError(f"The chat template of {loaded.id} refuses this conversation: {reason}") from error
    if not isinstance(text, str):
        raise TemplateError(f"The chat template of {loaded.id} wrote {type(text).__name__}, expected text")
    return text


def chat_prompt(loaded: LoadedModel, turns: Sequence[Turn]) -> ChatPrompt:
    """What a model is given to continue, as tokens, and where its answer ends.

    Raises
    ------
    TemplateError
        If the model's template refuses these turns.
    """
    text = prompt_text(loaded, turns)
    if not has_template(loaded):
        return ChatPrompt(loaded.encode_prompt(text), (LINE_END,), LEAD)
    # a template writes the special tokens itself; the rest is cut as the model was trained on it, spaces included
    ids = list(loaded.tokenizer.encode(text, add_special_tokens=False))
    if not ids:
        raise TemplateError(f"The chat template of {loaded.id} wrote nothing for this conversation")
    return ChatPrompt(ids, _end_marks(loaded), "")


def _end_marks(loaded: LoadedModel) -> tuple[str, ...]:
    """Texts of the tokens that end a turn, where a chat model has others than its end-of-text token."""
    ends = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else ends or []
    marks = (loaded.decode([end]) for end in ends if end != loaded.eos_id)
    return tuple(mark for mark in marks if mark)


def chat_lesson(loaded: LoadedModel, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Tokens of a conversation whose last turn is to be learned: what comes before it, and that turn with its end.

    The first part is what `chat_prompt` gives, so that a model is asked as it was taught.

    Raises
    ------
    TemplateError
        If the model's template refuses the turns, or writes the last one otherwise than it asks for it.
    """
    *before, last = turns
    prompt = chat_prompt(loaded, before)
    if not has_template(loaded):
        return prompt.ids, [*loaded.encode(f"{LEAD}{last['content']}"), loaded.eos_id]
    opening, whole = prompt_text(loaded, before), _written(loaded, turns, answer_follows=False)
    if not whole.startswith(opening):
        raise TemplateError(f"The chat template of {loaded.id} does not write an answer where it asks for one")
    ids = loaded.encode(whole[len(opening) :])
    if loaded.eos_id in ids:  # what a template puts behind the end of a turn is never asked for
        ids = ids[: len(ids) - 1 - ids[::-1].index(loaded.eos_id)]
    return prompt.ids, [*ids, loaded.eos_id]
