"""Request the statistics of documents: behind a token that begins them, several documents per request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pandas as pd
from openai import NotFoundError, OpenAI

from lib.next_token.totals import Measured
from lib.requesting import request_scores
from lib.tokens import Tokens, tokenize

STATISTICS = ("rank", "entropy", "confidence", "likeliest", "probs", "ranked")
REQUEST_TOKENS = 8_192  # of one request, where a document has no more
REPLY_BYTES = 2**25  # of its sums over documents
END_OF_TEXT = "<|endoftext|>"  # begins a text where a tokenizer puts nothing in front (GPT-2, GPT-NeoX, Qwen)
INSTEAD = "Next-token statistics need one: serve the model with python -m tuning_server serve"


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


def tokenized(client: OpenAI, model: str, number: int, name: str, text: str) -> TokenizedDocument:
    """A document in a model's tokens."""
    tokens = tokenize(client, model, text)
    if tokens.ids is None:
        raise ValueError(f"The endpoint has no /tokenize. {INSTEAD}")
    return TokenizedDocument(number, name, len(text.encode("utf-8", "surrogatepass")), tokens)


def requests_of(documents: Iterable[TokenizedDocument], vocab_tokens: int) -> Iterator[list[TokenizedDocument]]:
    """Documents that are sent together; one that is too long for a request is alone."""
    most = max(1, REPLY_BYTES // (4 * vocab_tokens))
    group: list[TokenizedDocument] = []
    n_tokens = 0
    for document in documents:
        if group and (len(group) == most or n_tokens + len(document.ids) > REQUEST_TOKENS):
            yield group
            group, n_tokens = [], 0
        group.append(document)
        n_tokens += len(document.ids)
    if group:
        yield group


def request_statistics(
    client: OpenAI, group: Sequence[TokenizedDocument], *, begin_id: int, **asked: Any
) -> list[tuple[TokenizedDocument, Measured]]:
    """Request the statistics of some documents.

    Parameters
    ----------
    asked : ``model``, ``base`` (None for no divergence), ``window_tokens`` and ``stride_tokens`` of the request
    """
    documents = [[begin_id, *document.ids] for document in group]
    names = [*STATISTICS, *(["kl"] if asked["base"] else [])]
    reply = request_scores(client, {"documents": documents, "statistics": names, **asked}, instead=INSTEAD)
    probs, ranked = reply.pop("probs"), reply.pop("ranked")
    table, end, found = pd.DataFrame(reply, dtype=float), 0, []
    for k, document in enumerate(group):
        start, end = end, end + len(document.ids)
        found.append((document, _measured(document, table.iloc[start:end], probs[k], ranked[k])))
    return found


def _measured(document: TokenizedDocument, table: pd.DataFrame, probs: np.ndarray, ranked: np.ndarray) -> Measured:
    positions = table.assign(nll=-table["target_logprobs"], is_hit=table["likeliest"] == np.array(document.ids))
    scored = positions.reset_index(drop=True).dropna()
    lost = np.delete(np.array(document.tokens.n_bytes), scored.index).sum()
    n_skipped = len(positions) - len(scored)
    return Measured(document.number, document.n_bytes - int(lost), n_skipped, scored, probs, ranked)
