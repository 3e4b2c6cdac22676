"""Tokens of a text: from the endpoint's own list, or from its echo."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from serving import TINY

from lib import tokens
from lib.tokens import tokenize
from tuning_server.engine import models


def test_tokens_with_and_without_an_endpoint_for_them(
    client: OpenAI, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models.load(TINY, tiny_store)
    text = "A torn leaf, seen twice: it fell. café 東京"
    reported = tokenize(client, TINY, text)
    assert reported.ids == tuple(loaded.codec.encode(text))
    assert sum(reported.n_bytes) == len(text.encode())
    monkeypatch.setattr(tokens, "PIECE_CHARS", 30)
    echoed = tokens._echoed(client, TINY, text)
    assert echoed.ids is None
    assert (echoed.texts, echoed.n_bytes) == (reported.texts, reported.n_bytes)
    with pytest.raises(NotFoundError):
        tokenize(client, "fork-none", text)
