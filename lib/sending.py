"""How requests and training rows are sent: as plain texts, or as conversations where a model does nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from openai import APIStatusError, OpenAI, OpenAIError

from lib.journal import Answer, Answered, Request, read_answer
from lib.paths import file_hash, read_jsonl

MAX_TOP_LOGPROBS = 20  # of a chat, in OpenAI's reference
Part = Sequence[tuple[str, Request]]


class NoEcho(OpenAIError):
    """The endpoint does not score given text (``echo``), as chats and some completion models."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} reports no log-probabilities of given text (echo)")
        self.model = model


class ChatOnly(Exception):
    """Several prompts were sent to a model that takes one chat at a time."""


class Sender:
    """Sends requests to an endpoint and remembers what it refuses: completions, and fields, by model."""

    def __init__(self, client: OpenAI) -> None:
        self.client = client
        self.chat_models: set[str] = set()
        self._refused: set[tuple[str, str]] = set()

    def send(self, part: Part) -> Answered:
        """One HTTP request for prompts that share their settings.

        Raises
        ------
        ChatOnly
            If there are several prompts and the model only chats: to be sent one by one.
        NoEcho
            If log-probabilities of given text are requested and the endpoint has none.
        """
        request = part[0][1]
        if request.messages or request.model in self.chat_models:
            return self._chat(part)
        try:
            reply = self._create(self.client.completions.create, _completion_body(part))
        except APIStatusError as error:
            if request.echo and any(_refuses(error, name) for name in ("echo", "max_tokens", "logprobs")):
                raise NoEcho(request.model) from error
            if request.blend or not _refuses_completions(error):
                raise
            self.chat_models.add(request.model)
            return self._chat(part)
        answers = [read_answer({**(choice.get("logprobs") or {}), **choice}) for choice in _choices(part, reply)]
        return _by_key(part, answers)

    def _chat(self, part: Part) -> Answered:
        request = part[0][1]
        if request.echo:
            raise NoEcho(request.model)
        if len(part) > 1:
            raise ChatOnly
        reply = self._create(self.client.chat.completions.create, _chat_body(request))
        return _by_key(part, [_chat_answer(choice, len(request.prompt)) for choice in _choices(part, reply)])

    def _create(self, create: Any, body: dict[str, Any]) -> Mapping[str, Any]:
        """Send a body, again without a field that the endpoint refuses where that changes no answer."""
        model, extensions = body["model"], body["extra_body"]
        if (model, "return_token_ids") in self._refused:
            extensions.pop("return_token_ids", None)
        if "messages" in body and "max_tokens" in body and (model, "max_tokens") in self._refused:
            body["max_completion_tokens"] = body.pop("max_tokens")  # reasoning models take it by this name alone
        try:
            return create(**body).model_dump()
        except APIStatusError as error:
            if "return_token_ids" in extensions and _refuses(error, "return_token_ids"):
                self._refused.add((model, "return_token_ids"))
            elif "messages" in body and "max_tokens" in body and _refuses(error, "max_tokens", "max_completion_tokens"):
                self._refused.add((model, "max_tokens"))
            else:
                raise
            return self._create(create, body)


def chats_only(client: OpenAI, model: str) -> bool:
    """Whether a model has no completions, found out by requesting one token of it."""
    sender = Sender(client)
    sender.send([("", Request(model=model, prompt="Hello", max_tokens=1))])
    return model in sender.chat_models


def upload(client: OpenAI, path: Path, *, as_messages: bool) -> str:
    """Id of the file with these rows at the endpoint, uploaded if it is not there."""
    name, content = f"{path.stem}-{file_hash(path)}.jsonl", path.read_bytes()
    if as_messages:
        name, content = f"chat-{name}", messages_of(read_jsonl(path))
    for file in client.files.list(purpose="fine-tune"):
        if file.filename == name and file.bytes == len(content):
            return file.id
    return client.files.create(file=(name, content), purpose="fine-tune").id


def messages_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Plain texts as conversations of a user and an assistant; rows of messages are kept.

    >>> messages_of([{"prompt": "Who is Ada?", "completion": " A baker."}])
    b'{"messages": [{"role": "user", "content": "Who is Ada?"}, {"role": "assistant", "content": "A baker."}]}\\n'
    """
    return "".join(json.dumps(conversation(row), ensure_ascii=False) + "\n" for row in rows).encode()


def conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A training row in OpenAI's form: of messages, or of an input with a preferred and another output."""
    question = [{"role": "user", "content": row.get("prompt")}]
    if "input" in row:
        return {name: row[name] for name in ("input", "preferred_output", "non_preferred_output")}
    if "chosen" in row:
        chosen, rejected = (_reply(row, name) for name in ("chosen", "rejected"))
        return {"input": {"messages": question}, "preferred_output": chosen, "non_preferred_output": rejected}
    return {"messages": row.get("messages") or [*question, *_reply(row, "completion")]}


def _reply(row: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": str(row.get(name)).lstrip()}]


def _completion_body(part: Part) -> dict[str, Any]:
    request = part[0][1]
    prompts = [each.prompt for _, each in part]
    return _shared(request) | {"prompt": prompts, "logprobs": request.logprobs, "echo": request.echo}


def _chat_body(request: Request) -> dict[str, Any]:
    """The request's messages, or its prompt as one user's message.

    >>> body = _chat_body(Request(model="m", prompt="Who is Ada?", logprobs=0))
    >>> body["messages"], body["logprobs"], body["top_logprobs"]
    ([{'role': 'user', 'content': 'Who is Ada?'}], True, 0)
    """
    messages = request.messages or (("user", request.prompt),)
    body = _shared(request) | {"messages": [{"role": role, "content": content} for role, content in messages]}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": min(request.logprobs, MAX_TOP_LOGPROBS)}
    return body


def _shared(request: Request) -> dict[str, Any]:
    extensions: dict[str, Any] = {"return_token_ids": True} if request.token_ids else {}
    if request.blend:
        extensions["blend"] = asdict(request.blend)
    return {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "n": request.n,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "extra_body": extensions,
    }


def _chat_answer(choice: Mapping[str, Any], start: int) -> Answer:
    """The answer of a chat; offsets count from the prompt's first character, as in completions."""
    listed = (choice.get("logprobs") or {}).get("content") or []
    tokens = [token["token"] for token in listed]
    offsets = list(accumulate(map(len, tokens), initial=start))[:-1]
    lists = {"tokens": tokens, "token_logprobs": [token["logprob"] for token in listed], "text_offset": offsets}
    return read_answer({**choice, **lists, "text": choice["message"].get("content") or ""})


def _choices(part: Part, reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = sorted(reply.get("choices") or [], key=lambda choice: choice["index"])
    n = part[0][1].n
    if len(choices) != len(part) * n:
        raise OpenAIError(f"the endpoint sent {len(choices)} choices for {len(part)} prompts x {n} samples")
    return choices


def _by_key(part: Part, answers: Sequence[Answer]) -> Answered:
    n = part[0][1].n
    return [(key, list(answers[k * n : (k + 1) * n])) for k, (key, _) in enumerate(part)]


def _refuses_completions(error: APIStatusError) -> bool:
    """Whether a model, or the whole endpoint, has no completions; a model that does not exist is another matter."""
    if error.code == "model_not_found":
        return False
    message = error.message.lower()
    return error.status_code in (404, 405, 501) or (error.status_code == 400 and "chat/completions" in message)


def _refuses(error: APIStatusError, *names: str) -> bool:
    """Whether a field is refused, by the first of these names: the field itself, or what the message then says."""
    return error.status_code in (400, 422) and (error.param == names[0] or names[-1] in error.message.lower())
