"""Each distinct text is sent once, vectors keep the order of the texts, replies that do not fit are refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lib.diversity.embeddings import embed, embed_by_name


def endpoint(reply=None):
    """A client that answers with a text's length and its first letter, in reverse order, and keeps what was sent."""
    sent = []

    def create(*, model, input, encoding_format):
        sent.append(input)
        told = [SimpleNamespace(index=k, embedding=[len(text), ord(text[0])]) for k, text in enumerate(input)]
        return SimpleNamespace(data=reply(told) if reply else told[::-1])

    return SimpleNamespace(embeddings=SimpleNamespace(create=create)), sent


def test_each_distinct_text_is_sent_once_and_empty_ones_never():
    client, sent = endpoint()
    texts = ["moon", "a", "", "moon", "fox", "a"]
    found = embed(texts, client=client, model="m", batch_texts=2)
    assert sent == [["a", "fox"], ["moon"]]
    assert found.dtype == np.float32
    assert found[:, 0].tolist() == [4, 1, 0, 4, 3, 1]
    assert found[2].tolist() == [0, 0]
    assert found[4].tolist() == [3, ord("f")]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (lambda data: data[:1], "m gave 1 embeddings for 2 texts: expected one each"),
        (lambda data: [data[0], data[0]], "m gave 2 embeddings for 2 texts"),
        (lambda data: [data[0], SimpleNamespace(index=1, embedding=[1.0])], "of 2 different widths"),
    ],
)
def test_replies_that_do_not_fit_are_refused(reply, told):
    with pytest.raises(ValueError, match=told):
        embed(["a", "b"], client=endpoint(reply)[0], model="m")


def test_nothing_to_embed_is_said():
    for texts in ([], ["", ""]):
        with pytest.raises(ValueError, match="nothing to embed"):
            embed(texts, client=endpoint()[0], model="m")
    with pytest.raises(ValueError, match="batch_texts is 0"):
        embed(["a"], client=endpoint()[0], model="m", batch_texts=0)


def test_a_named_model_is_used_where_the_library_is_and_else_named_in_the_error(monkeypatch):
    class Model:
        def __init__(self, name):
            self.name = name

        def encode(self, texts, *, show_progress_bar):
            return np.array([[len(text), len(self.name)] for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    assert embed_by_name(["ab", "a", "ab"], model="sbert").tolist() == [[2, 5], [1, 5], [2, 5]]
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="sbert needs sentence-transformers: pip install"):
        embed_by_name(["ab"], model="sbert")
