"""How answers are written: log-probabilities in the legacy format, and the pieces of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openai.types import Completion
from openai.types.completion_choice import CompletionChoice, Logprobs

if TYPE_CHECKING:
    from lib.engine.models import LoadedModel
    from lib.engine.sampling import TokenInfo


def legacy_logprobs(loaded: LoadedModel, tokens: Sequence[TokenInfo], *, tops: bool) -> Logprobs:
    """Log-probabilities of an answer's tokens (nats); `tops` adds the likeliest tokens at each place."""
    told = Logprobs()
    # set, not passed: the type has no place for the missing value of a first token, and checks each number slowly
    told.tokens = [token.text for token in tokens]
    told.token_logprobs = [token.logprob for token in tokens]  # type: ignore[misc]
    told.top_logprobs = [named_top(loaded, token) for token in tokens] if tops else None  # type: ignore[misc]
    told.text_offset = [token.offset for token in tokens]
    return told


def named_top(loaded: LoadedModel, token: TokenInfo) -> dict[str, float] | None:
    """Likeliest tokens by name, the chosen one among them; None where nothing was predicted."""
    if token.logprob is None:
        return None
    label = loaded.token_bytes.label
    named: dict[str, float] = {}
    for token_id, logprob in dict((*token.top, (token.id, token.logprob))).items():
        name = label(token_id)
        # two tokens of one text must not hide each other
        named[name if name not in named else f"{name}<id {token_id}>"] = logprob
    return named


def chunks(whole: Completion, *, include_usage: bool) -> Iterator[str]:
    """A reply as server-sent events, a token an event, its pieces of text adding up to the whole."""
    head = {"id": whole.id, "object": whole.object, "created": whole.created, "model": whole.model,
            "system_fingerprint": whole.system_fingerprint}  # fmt: skip
    usage = {"usage": None} if include_usage else {}
    for choice in whole.choices:
        for piece in pieces(choice):
            yield f"data: {json.dumps(head | {'choices': [piece]} | usage, ensure_ascii=False)}\n\n"
    if include_usage and whole.usage is not None:
        yield f"data: {json.dumps(head | {'choices': [], 'usage': whole.usage.model_dump()})}\n\n"
    yield "data: [DONE]\n\n"


def pieces(choice: CompletionChoice) -> Iterator[dict[str, Any]]:
    """The parts of one choice; the last one says why it ended."""
    text = choice.text
    logprobs = choice.logprobs.model_dump(warnings=False) if choice.logprobs else {}
    starts = logprobs.get("text_offset") or []
    base = {"index": choice.index, "finish_reason": None}
    for k, start in enumerate(starts):
        end = starts[k + 1] if k + 1 < len(starts) else len(text)
        part = {name: None if values is None else values[k : k + 1] for name, values in logprobs.items()}
        yield base | {"text": text[start:end], "logprobs": part}
    ended = {"text": "" if starts else text, "logprobs": None, "finish_reason": choice.finish_reason}
    yield (
        base
        | ended
        | {name: getattr(choice, name) for name in ("token_ids", "prompt_token_ids") if hasattr(choice, name)}
    )
