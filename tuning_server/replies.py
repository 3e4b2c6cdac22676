"""Replies of completions and chat: log-probabilities in both formats, and the events of a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from starlette.responses import Response, StreamingResponse

from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import TokenInfo
from tuning_server.engine.tokenization import label

FEW_CHOICES = 16
LEAST_LOGPROB = -9999.0  # what chat replies write for minus infinity, which JSON lacks
Reply = Completion | ChatCompletion
Offsets = Sequence[Sequence[int]]  # where each token begins in the text of its choice


async def respond(reply: Reply, offsets: Offsets, *, stream: bool, include_usage: bool) -> Response:
    """A reply's HTTP response: as JSON, or as the events of a stream."""
    if stream:
        parts = events(reply, offsets, include_usage=include_usage)
        return StreamingResponse(parts, media_type="text/event-stream", headers={"cache-control": "no-cache"})
    if len(reply.choices) > FEW_CHOICES or any(choice.logprobs for choice in reply.choices):
        body = await asyncio.to_thread(reply.model_dump_json, warnings=False)
    else:  # a thread of its own takes longer than a short reply
        body = reply.model_dump_json(warnings=False)
    return Response(body, media_type="application/json")


def legacy_logprobs(loaded: LoadedModel, tokens: Sequence[TokenInfo], *, tops: bool) -> Logprobs:
    """Log-probabilities of an answer's tokens (nats); `tops` adds the likeliest tokens at each position."""
    # constructed, not validated: the type lacks the missing value of a first token, and checks each number slowly
    return Logprobs.model_construct(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[named_top(loaded, token) for token in tokens] if tops else None,
        text_offset=[token.offset for token in tokens],
    )


def named_top(loaded: LoadedModel, token: TokenInfo) -> dict[str, float] | None:
    """Likeliest tokens by name, the chosen one among them; None where nothing was predicted."""
    if token.logprob is None:
        return None
    named: dict[str, float] = {}
    for token_id, logprob in dict((*token.top, (token.id, token.logprob))).items():
        name = label(loaded.codec[token_id])
        # two tokens of one text must not hide each other; the chosen one is named by its text at this position
        is_taken = name in named or name == token.text
        named[token.text if token_id == token.id else f"{name}<id {token_id}>" if is_taken else name] = logprob
    return named


def chat_logprobs(loaded: LoadedModel, tokens: Sequence[TokenInfo]) -> ChoiceLogprobs:
    """Log-probabilities of a chat answer's tokens (nats), each with its bytes and the likeliest at its position."""

    def fields(token_id: int, logprob: float | None) -> dict[str, Any]:
        value = LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
        raw = loaded.codec[token_id]
        return {"token": label(raw), "bytes": list(raw), "logprob": value}

    # constructed, not validated: there may be as many as the vocabulary at each position
    content = [
        ChatCompletionTokenLogprob.model_construct(
            **fields(token.id, token.logprob),
            top_logprobs=[TopLogprob.model_construct(**fields(*likely)) for likely in token.top],
        )
        for token in tokens
    ]
    return ChoiceLogprobs.model_construct(content=content, refusal=None)


def events(reply: Reply, offsets: Offsets, *, include_usage: bool) -> Iterator[str]:
    """A reply as server-sent events, one per token; their texts add up to the whole."""
    head: dict[str, Any] = {
        "id": reply.id, "created": reply.created, "model": reply.model, "system_fingerprint": reply.system_fingerprint,
        "object": "chat.completion.chunk" if isinstance(reply, ChatCompletion) else reply.object,
    } | ({"usage": None} if include_usage else {})  # fmt: skip
    for choice, starts in zip(reply.choices, offsets, strict=True):
        for part in parts(choice, starts):
            yield f"data: {json.dumps(head | {'choices': [part]}, ensure_ascii=False)}\n\n"
    if include_usage and reply.usage is not None:
        yield f"data: {json.dumps(head | {'choices': [], 'usage': reply.usage.model_dump()})}\n\n"
    yield "data: [DONE]\n\n"


def pieces(text: str, starts: Sequence[int]) -> list[str]:
    """Split a text into the piece that each token adds: empty for one that ends within a character.

    >>> pieces("né!", [0, 1, 1, 2])
    ['n', '', 'é', '!']
    """
    ends = [*starts[1:], len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def parts(choice: Any, starts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The events of one choice of completions or chat: in chat its role, then its tokens, then why it ended."""
    is_chat, base = isinstance(choice, Choice), {"index": choice.index, "logprobs": None, "finish_reason": None}
    text = (choice.message.content or "") if is_chat else choice.text
    logprobs = choice.logprobs.model_dump(warnings=False) if choice.logprobs else None
    if is_chat:
        yield base | {"delta": {"role": "assistant", "content": ""}}
    for k, piece in enumerate(pieces(text, starts)):
        own = logprobs and {name: values and values[k : k + 1] for name, values in logprobs.items()}
        added: dict[str, Any] = {"delta": {"content": piece}} if is_chat else {"text": piece}
        if piece or own:
            yield base | {"logprobs": own} | added
    ids = {name: getattr(choice, name) for name in ("token_ids", "prompt_token_ids") if hasattr(choice, name)}
    end: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
    yield base | end | {"finish_reason": choice.finish_reason} | ids
