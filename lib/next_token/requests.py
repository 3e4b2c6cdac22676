"""Request the scores of documents: behind a token that begins them, in windows, several documents per request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import httpx
import numpy as np
from openai import NotFoundError, OpenAI

from lib.distributions import Tokens, tokenize
from lib.distributions.requesting import Columns, request_scores
from lib.next_token.positions import Positions, measure_positions

REPLY_BYTES = 2**23  # of one request, where a document's window does not need more
END_OF_TEXT = "<|endoftext|>"  # begins a text where a tokenizer puts nothing in front (GPT-2, GPT-NeoX, Qwen)
INSTEAD = "Statistics of whole distributions need one: serve the model with python -m tuning_server serve"


@dataclass(frozen=True)
class TokenizedDocument:
    """One document: its index in the source, name, size and tokens without the one that begins it."""

    number: int
    name: str
    n_bytes: int
    tokens: Tokens

    @property
    def ids(self) -> tuple[int, ...]:
        return self.tokens.ids or ()


@dataclass(frozen=True)
class Windows:
    """How the tokens of a document are fed.

    Parameters
    ----------
    begin_id : the token in front of each document, never scored
    window_tokens : most tokens of context
    stride_tokens : how far the window moves; equal to the window, contexts do not overlap (as published)
    reply_rows : predictions a request is to stay below
    """

    begin_id: int
    window_tokens: int
    stride_tokens: int
    reply_rows: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride_tokens <= self.window_tokens:
            raise ValueError(
                f"stride_tokens = {self.stride_tokens}: expected 1 up to window_tokens, {self.window_tokens}"
            )


def begin_token(client: OpenAI, model: str) -> int:
    """The token that begins a text: what the tokenizer puts in front of one by itself, else its end-of-text token.

    Raises
    ------
    ValueError
        If it has neither, or the endpoint has no /tokenize; says what would help.
    """
    bare, whole = (_tokens(client, model, "a", add_special_tokens=special) for special in (False, True))
    n_before = len(whole) - len(bare)
    if n_before > 0 and whole[n_before:] == bare:
        return whole[n_before - 1]
    ends = _tokens(client, model, END_OF_TEXT, add_special_tokens=False)
    if len(ends) != 1:
        raise ValueError(f"the tokenizer of {model} has no token that begins a text: name one with begin_id")
    return ends[0]


def _tokens(client: OpenAI, model: str, text: str, *, add_special_tokens: bool) -> list[int]:
    body = {"model": model, "prompt": text, "add_special_tokens": add_special_tokens}
    try:
        return list(client.post("/tokenize", cast_to=httpx.Response, body=body).json()["tokens"])
    except NotFoundError as error:
        if error.code == "model_not_found":
            raise
        raise ValueError(f"The endpoint has no /tokenize. {INSTEAD}") from error


def pieces(n_tokens: int, windows: Windows) -> Iterator[tuple[int, int, int]]:
    """Parts of a long document: from which token to which to feed, and how many of its predictions were made before.

    Each is predicted from the same context as if the document were fed whole.

    >>> list(pieces(11, Windows(0, window_tokens=4, stride_tokens=2, reply_rows=6)))
    [(0, 7, 0), (4, 11, 2)]
    """
    window, stride = windows.window_tokens, windows.stride_tokens
    done = 0  # tokens up to this one have been predicted
    while done < n_tokens - 1:
        start, known = (done - window + stride, window - stride) if done else (0, 0)
        first = window if not done else stride
        more = max(0, windows.reply_rows - known - first) // stride
        end = min(done + first + more * stride, n_tokens - 1)
        yield start, end + 1, known
        done = end


def requests_of(documents: Iterable[TokenizedDocument], windows: Windows) -> Iterator[list[TokenizedDocument]]:
    """Documents that are sent together; one that is too long for a request is alone."""
    group: list[TokenizedDocument] = []
    n_rows = 0
    for document in documents:
        if group and n_rows + len(document.ids) > windows.reply_rows:
            yield group
            group, n_rows = [], 0
        group.append(document)
        n_rows += len(document.ids)
    if group:
        yield group


def tokenized(client: OpenAI, model: str, number: int, name: str, text: str) -> TokenizedDocument:
    """A document in a model's tokens."""
    tokens = tokenize(client, model, text)
    if tokens.ids is None:
        raise ValueError(f"The endpoint has no /tokenize. {INSTEAD}")
    return TokenizedDocument(number, name, len(text.encode("utf-8", "surrogatepass")), tokens)


def ask_documents(
    client: OpenAI, models: Sequence[str], group: Sequence[TokenizedDocument], windows: Windows
) -> Iterator[tuple[TokenizedDocument, list[Columns]]]:
    """Replies of each model for parts of documents, in order; a part's columns hold no prediction that came before."""
    fed = [(document, [windows.begin_id, *document.ids]) for document in group if document.ids]
    parts = [(document, ids, *piece) for document, ids in fed for piece in pieces(len(ids), windows)]
    alone = len(group) == 1
    for together in [[part] for part in parts] if alone else [parts] if parts else []:
        body = {
            "documents": [ids[start:stop] for _, ids, start, stop, _ in together],
            "window_tokens": windows.window_tokens,
            "stride_tokens": windows.stride_tokens,
            "full": True,
        }
        replies = [request_scores(client, body | {"model": model}, instead=INSTEAD) for model in models]
        at = 0
        for document, _, start, stop, known in together:
            rows = slice(at + known, at + stop - start - 1)
            at = rows.stop
            yield document, [{name: reply[name][rows] for name in ("logprobs", "target_logprobs")} for reply in replies]


def measure_reply(document: TokenizedDocument, start: int, replies: Sequence[Columns]) -> Positions:
    """Statistics of the predictions of a document from its token `start` on."""
    n = len(replies[0]["target_logprobs"])
    return measure_positions(
        replies[0]["logprobs"],
        np.array(document.ids[start : start + n]),
        target_logprobs=replies[0]["target_logprobs"],
        base_logprobs=replies[1]["logprobs"] if len(replies) > 1 else None,
    )
