"""The tokens of a text, from the endpoint of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from openai import NotFoundError, OpenAI

PIECE_CHARS = 1_000  # of a text that is echoed: fits the shortest context of a hosted completion model


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
        reply = client.post("/tokenize", cast_to=httpx.Response, body=body).json()
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


def pieces(text: str, n_chars: int) -> Iterator[str]:
    """A text in pieces of at most `n_chars`, cut where a word with its space begins, if there is one.

    >>> list(pieces("one two three", 8))
    ['one two', ' three']
    """
    while len(text) > n_chars:
        breaks = [match.start() for match in re.finditer(r"(?<=\S)\s", text[: n_chars + 1])]
        end = breaks[-1] if breaks else n_chars
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def token_bytes(label: str) -> bytes:
    r"""The bytes that a token of this label adds to a text.

    >>> token_bytes("bytes:\\xe6\\x9d"), len(token_bytes(" é"))
    (b'\xe6\x9d', 3)
    """
    if label.startswith("bytes:\\x"):
        return bytes.fromhex(label.removeprefix("bytes:").replace("\\x", ""))
    return label.encode("utf-8", "surrogatepass")
