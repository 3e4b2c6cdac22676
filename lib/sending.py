"""How a request goes out and comes back: as a completion, or as a chat where a model does nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from typing import Any

from openai import APIStatusError, OpenAI, OpenAIError

from lib.journal import Answer, Request

COMPLETIONS, CHAT = "/completions", "/chat/completions"
MOST_TOP_LOGPROBS = 20  # of a chat, in OpenAI's reference
Part = Sequence[tuple[str, Request]]


class NoEcho(OpenAIError):
    """The endpoint does not tell log-probabilities of given text, as chats and some completion models."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} tells no log-probabilities of given text (echo)")
        self.model = model


class ChatOnly(Exception):
    """Several prompts went to a model that takes one chat at a time."""


class Sender:
    """Sends requests to an endpoint and remembers which of its models only chat."""

    def __init__(self, client: OpenAI) -> None:
        self.client = client
        self.chat_models: set[str] = set()
        self.tells_ids = True  # until it refuses to

    def path(self, request: Request) -> str:
        """Where a request goes, as far as it is known what its model does."""
        return CHAT if request.messages or request.model in self.chat_models else COMPLETIONS

    def as_sent(self, request: Request) -> Request:
        """The request without what the endpoint is known not to take."""
        return request if self.tells_ids else replace(request, token_ids=False)

    def send(self, part: Part) -> list[tuple[str, list[Answer]]]:
        """One HTTP request for prompts that share their settings.

        Raises
        ------
        ChatOnly
            If there are several prompts and the model only chats: to be sent one by one.
        NoEcho
            If log-probabilities of given text are asked for and the endpoint has none.
        """
        part = [(key, self.as_sent(request)) for key, request in part]
        request = part[0][1]
        if self.path(request) == COMPLETIONS:
            try:
                reply = self.client.completions.create(**completion_body(part))
                return read_completions(part, reply.model_dump())
            except APIStatusError as error:
                if request.token_ids and _refuses_ids(error):
                    self.tells_ids = False
                    return self.send(part)
                if request.echo and _refuses_echo(error):
                    raise NoEcho(request.model) from error
                if request.blend or not _refuses_completions(error):
                    raise
                self.chat_models.add(request.model)
        if request.echo:
            raise NoEcho(request.model)
        if len(part) > 1:
            raise ChatOnly
        try:
            chat = self.client.chat.completions.create(**chat_body(request))
        except APIStatusError as error:
            if request.token_ids and _refuses_ids(error):
                self.tells_ids = False
                return self.send(part)
            raise
        return read_chat(part, chat.model_dump())


def chats_only(client: OpenAI, model: str) -> bool:
    """Whether a model has no completions, found out by asking it for one token."""
    sender, request = Sender(client), Request(model=model, prompt="Hello", max_tokens=1)
    sender.send([("", request)])
    return sender.path(request) == CHAT


def completion_body(part: Part) -> dict[str, Any]:
    """Arguments of ``completions.create``."""
    request = part[0][1]
    return _shared(request) | {
        "prompt": [asked.prompt for _, asked in part],
        "logprobs": request.logprobs,
        "echo": request.echo,
    }


def chat_body(request: Request) -> dict[str, Any]:
    """Arguments of ``chat.completions.create``: the request's messages, or its prompt as one user's message.

    >>> body = chat_body(Request(model="m", prompt="Who is Ada?", logprobs=0))
    >>> body["messages"], body["logprobs"], body["top_logprobs"]
    ([{'role': 'user', 'content': 'Who is Ada?'}], True, 0)
    """
    messages = request.messages or (("user", request.prompt),)
    body = _shared(request) | {"messages": [{"role": role, "content": content} for role, content in messages]}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": min(request.logprobs, MOST_TOP_LOGPROBS)}
    return body


def _shared(request: Request) -> dict[str, Any]:
    extensions: dict[str, Any] = {"return_token_ids": True} if request.token_ids else {}
    if request.blend:
        extensions["blend"] = asdict(request.blend)
    return ({"extra_body": extensions} if extensions else {}) | {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "n": request.n,
        "seed": request.seed,
        "stop": list(request.stop) or None,
    }


def read_completions(part: Part, reply: Mapping[str, Any]) -> list[tuple[str, list[Answer]]]:
    """The answers in a completions reply, by key."""
    answers = []
    for choice in _choices(part, reply):
        told = choice.get("logprobs") or {}
        lists = {name: tuple(told.get(name) or ()) for name in ("tokens", "token_logprobs", "text_offset")}
        answers.append(Answer(choice["text"], choice["finish_reason"], token_ids=_ids(choice), **lists))
    return _by_key(part, answers)


def read_chat(part: Part, reply: Mapping[str, Any]) -> list[tuple[str, list[Answer]]]:
    """The answers in a chat reply, by key; offsets count from the prompt's first character, as in completions."""
    answers = []
    for choice in _choices(part, reply):
        text = choice["message"].get("content") or ""
        told = (choice.get("logprobs") or {}).get("content") or []
        tokens = tuple(token["token"] for token in told)
        starts = accumulate((len(token) for token in tokens), initial=len(part[0][1].prompt))
        offsets = tuple(start for start, _ in zip(starts, tokens, strict=False))
        logprobs = tuple(token["logprob"] for token in told)
        answers.append(Answer(text, choice["finish_reason"], tokens, logprobs, offsets, token_ids=_ids(choice)))
    return _by_key(part, answers)


def _ids(choice: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(choice.get("token_ids") or ())


def _choices(part: Part, reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = sorted(reply.get("choices") or [], key=lambda choice: choice["index"])
    n = part[0][1].n
    if len(choices) != len(part) * n:
        raise OpenAIError(f"the endpoint sent {len(choices)} choices for {len(part)} prompts x {n} samples")
    return choices


def _by_key(part: Part, answers: Sequence[Answer]) -> list[tuple[str, list[Answer]]]:
    n = part[0][1].n
    return [(key, list(answers[k * n : (k + 1) * n])) for k, (key, _) in enumerate(part)]


def _refuses_completions(error: APIStatusError) -> bool:
    """Whether a model, or the whole endpoint, has no completions; a model that does not exist is another matter."""
    if error.code == "model_not_found":
        return False
    told = error.message.lower()
    return error.status_code in (404, 405, 501) or (error.status_code == 400 and "chat/completions" in told)


def _refuses_ids(error: APIStatusError) -> bool:
    return error.status_code in (400, 422) and (
        error.param == "return_token_ids" or "return_token_ids" in error.message
    )


def _refuses_echo(error: APIStatusError) -> bool:
    return error.status_code in (400, 422) and (
        error.param in ("echo", "max_tokens", "logprobs") or "echo" in error.message.lower()
    )
