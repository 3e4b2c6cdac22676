"""How answers are written: log-probabilities in the legacy and the chat format, and the pieces of a stream."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import CompletionChoice, Logprobs
from openai.types.completion_usage import CompletionUsage
from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    from tuning_server.engine.models import LoadedModel
    from tuning_server.engine.sampling import TokenInfo

FEW_CHOICES = 16
LEAST_LOGPROB = -9999.0  # what chat replies write for minus infinity, which JSON lacks


async def respond(whole: Completion | ChatCompletion, stream: Iterator[str] | None) -> Response:
    """A reply's HTTP response: as JSON, or as the events of a stream."""
    if stream is not None:
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-cache"})
    is_long = len(whole.choices) > FEW_CHOICES or any(choice.logprobs for choice in whole.choices)
    write = functools.partial(whole.model_dump_json, warnings=False)
    body = await asyncio.to_thread(write) if is_long else write()  # a thread of its own takes longer than a short reply
    return Response(body, media_type="application/json")


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
    named: dict[str, float] = {}
    for token_id, logprob in dict((*token.top, (token.id, token.logprob))).items():
        name = loaded.codec.label(token_id)
        # two tokens of one text must not hide each other, and the chosen one goes by the text that it has here
        is_taken = name in named or name == token.text
        named[token.text if token_id == token.id else f"{name}<id {token_id}>" if is_taken else name] = logprob
    return named


def chunks(whole: Completion, *, include_usage: bool) -> Iterator[str]:
    """A reply as server-sent events, a token an event, its pieces of text adding up to the whole."""
    head = {"id": whole.id, "object": whole.object, "created": whole.created, "model": whole.model,
            "system_fingerprint": whole.system_fingerprint}  # fmt: skip
    parts = (piece for choice in whole.choices for piece in pieces(choice))
    yield from _events(head, parts, whole.usage if include_usage else None)


def _events(head: dict[str, Any], parts: Iterator[dict[str, Any]], usage: CompletionUsage | None) -> Iterator[str]:
    """Pieces of choices as server-sent events, the usage after them if there is one to tell."""
    promised = {"usage": None} if usage is not None else {}
    for piece in parts:
        yield f"data: {json.dumps(head | {'choices': [piece]} | promised, ensure_ascii=False)}\n\n"
    if usage is not None:
        yield f"data: {json.dumps(head | {'choices': [], 'usage': usage.model_dump()})}\n\n"
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


def chat_logprobs(loaded: LoadedModel, tokens: Sequence[TokenInfo]) -> ChoiceLogprobs:
    """Log-probabilities of a chat answer's tokens (nats), each with its bytes and the likeliest in its place."""

    def told(token_id: int, logprob: float | None) -> dict[str, Any]:
        known = loaded.codec
        value = LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
        return {"token": known.label(token_id), "bytes": list(known[token_id]), "logprob": value}

    # constructed, not validated: there may be as many as the vocabulary at each place
    content = [
        ChatCompletionTokenLogprob.model_construct(
            **told(token.id, token.logprob),
            top_logprobs=[TopLogprob.model_construct(**told(*likely)) for likely in token.top],
        )
        for token in tokens
    ]
    return ChoiceLogprobs.model_construct(content=content, refusal=None)


def chat_chunks(whole: ChatCompletion, starts: Sequence[Sequence[int]], *, include_usage: bool) -> Iterator[str]:
    """A chat reply as server-sent events, a token an event; `starts` are the tokens' places in each content."""
    head = {"id": whole.id, "object": "chat.completion.chunk", "created": whole.created, "model": whole.model,
            "system_fingerprint": whole.system_fingerprint}  # fmt: skip
    parts = (piece for choice, at in zip(whole.choices, starts, strict=True) for piece in spoken_pieces(choice, at))
    yield from _events(head, parts, whole.usage if include_usage else None)


def spoken_pieces(choice: Choice, starts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The parts of one chat choice: who speaks, what is said token by token, why it ended."""
    text = choice.message.content or ""
    told = (choice.logprobs.content if choice.logprobs else None) or []
    base = {"index": choice.index, "logprobs": None, "finish_reason": None}
    yield base | {"delta": {"role": "assistant", "content": ""}}
    for k, start in enumerate(starts):
        end = starts[k + 1] if k + 1 < len(starts) else len(text)
        logprobs = {"content": [told[k].model_dump(warnings=False)], "refusal": None} if told else None
        yield base | {"delta": {"content": text[start:end]}, "logprobs": logprobs}
    extras = {name: getattr(choice, name) for name in ("token_ids", "prompt_token_ids") if hasattr(choice, name)}
    yield base | {"delta": {}, "finish_reason": choice.finish_reason} | extras
