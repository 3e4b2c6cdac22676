"""Extensions of the tuning server: tokens of a text (also of an endpoint that echoes), and scores."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import numpy as np
from openai import NotFoundError, OpenAI

NO_SERVER = "Serve the model with tuning-server serve."
PIECE_CHARS = 1_000  # of a text that is echoed: fits the shortest context of a hosted completion model

Columns = dict[str, np.ndarray]
Item = TypeVar("Item")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Tokens:
    r"""A text in tokens.

    Parameters
    ----------
    ids : their numbers; None where the endpoint reports only strings
    texts : their strings; part of a character is written ``bytes:\x..``
    n_bytes : bytes of UTF-8 that each adds to the text
    """

    ids: tuple[int, ...] | None
    texts: tuple[str, ...]
    n_bytes: tuple[int, ...]

    @property
    def items(self) -> tuple[int, ...] | tuple[str, ...]:
        """What `collect` takes for a context: the ids where they are known, else the strings."""
        return self.texts if self.ids is None else self.ids


def tokenize(client: OpenAI, model: str, text: str) -> Tokens:
    """Cut a text into a model's tokens; nothing is put in front of it.

    An endpoint without ``/tokenize`` is made to echo the text, in pieces that begin at a word.

    Raises
    ------
    ValueError
        If the endpoint has no ``/tokenize`` and its echo is not the text.
    openai.OpenAIError
        What the endpoint refused, an unknown model for one.
    """
    body = {"model": model, "prompt": text, "add_special_tokens": False}
    try:
        reply = client.post("/tokenize", cast_to=httpx2.Response, body=body).json()
    except NotFoundError as error:
        if lacks_model(error):
            raise
        return _echoed(client, model, text)
    return Tokens(tuple(reply["tokens"]), tuple(reply["token_strs"]), tuple(reply["n_bytes"]))


def lacks_model(error: NotFoundError) -> bool:
    """Whether it is the model that was not found, and not the address."""
    return error.code == "model_not_found"


def _echoed(client: OpenAI, model: str, text: str) -> Tokens:
    texts: list[str] = []
    for piece in pieces(text, PIECE_CHARS):
        choice = client.completions.create(model=model, prompt=piece, max_tokens=0, echo=True, logprobs=1).choices[0]
        labels = list(choice.logprobs.tokens or []) if choice.logprobs else []
        expected = piece.encode("utf-8", "surrogatepass")
        if b"".join(map(token_bytes, labels)) != expected:
            labels = labels[1:]  # a begin-of-text token that the endpoint puts in front
        if b"".join(map(token_bytes, labels)) != expected:
            raise ValueError(
                f"{model}: expected the tokens of the text that was sent, found {''.join(labels)[:40]!r}: the endpoint "
                "has neither /tokenize nor a faithful echo, so its tokens are not known"
            )
        texts += labels
    return Tokens(None, tuple(texts), tuple(len(token_bytes(label)) for label in texts))


def pieces(text: str, n_chars: int) -> list[str]:
    """A text in pieces of at most `n_chars`, cut where a word with its space begins, if there is one.

    >>> pieces("one two three", 8)
    ['one two', ' three']
    """
    return re.findall(rf".{{1,{n_chars}}}(?:(?<=\S)(?=\s)|\Z)|.{{1,{n_chars}}}", text, flags=re.S)


def token_bytes(label: str) -> bytes:
    r"""The bytes that a token of this label adds to a text.

    >>> token_bytes("bytes:\\xe6\\x9d"), len(token_bytes(" é"))
    (b'\xe6\x9d', 3)
    """
    if label.startswith("bytes:\\x"):
        return bytes.fromhex(label.removeprefix("bytes:").replace("\\x", ""))
    return label.encode("utf-8", "surrogatepass")


def request_scores(client: OpenAI, body: Mapping[str, Any], *, instead: str = NO_SERVER) -> Columns:
    """The arrays of one reply of ``/scores``; errors as of `post`."""
    reply = post(client, "/scores", body, instead=instead)
    with np.load(io.BytesIO(reply.content), allow_pickle=False) as arrays:
        return dict(arrays)


def post(client: OpenAI, path: str, body: Mapping[str, Any], *, instead: str = NO_SERVER) -> httpx2.Response:
    """The reply of an extension of the tuning server.

    Raises
    ------
    ValueError
        If the endpoint has no such address; ends in `instead`, which says what would help.
    openai.OpenAIError
        What the endpoint refused.
    """
    try:
        return client.post(path, cast_to=httpx2.Response, body=dict(body))
    except NotFoundError as error:
        if lacks_model(error):
            raise
        raise ValueError(f"The endpoint has no {path}. {instead}") from error


def in_order(ask: Callable[[Item], Reply], items: Iterable[Item], concurrency: int) -> Iterator[Reply]:
    """Replies in the order of the items, the next ones already under way; no more of them are kept in memory."""
    waiting: deque[Future[Reply]] = deque()
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(ask, item))
                if len(waiting) == concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
