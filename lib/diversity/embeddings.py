"""Texts as vectors, each distinct one embedded once: a base model's hidden states through the API, or a named SBERT."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openai import OpenAI

Vectors = NDArray[np.float32]

PUBLISHED_MODEL = "sentence-transformers/all-MiniLM-L12-v2"
BATCH_TEXTS = 256


def embed(texts: Sequence[str], *, client: OpenAI, model: str, batch_texts: int = BATCH_TEXTS) -> Vectors:
    """Vectors of texts from an endpoint's ``/v1/embeddings``; of ours, the mean of the last hidden states over tokens.

    Parameters
    ----------
    texts : sequence of n texts; equal ones are sent once, empty ones never
    model : its id there (``fork-1m``, ``hf:...``; a hosted embedding model where the client is hosted)
    batch_texts : texts of one request

    Returns
    -------
    array, shape (n, width), float32
        Zeros for an empty text: it has no direction.

    Raises
    ------
    ValueError
        If there is no text to embed, or a reply holds another number of vectors or other widths.
    """

    def ask(batch: Sequence[str]) -> NDArray[Any]:
        told = client.embeddings.create(model=model, input=list(batch), encoding_format="float").data
        if sorted(each.index for each in told) != list(range(len(batch))):
            raise ValueError(f"{model} gave {len(told)} embeddings for {len(batch)} texts: expected one each")
        widths = {len(each.embedding) for each in told}
        if len(widths) != 1:
            raise ValueError(f"{model} gave embeddings of {len(widths)} different widths: expected one")
        return np.array([each.embedding for each in sorted(told, key=lambda each: each.index)], dtype=np.float32)

    return _each_once(texts, ask, batch_texts)


def embed_by_name(texts: Sequence[str], *, model: str = PUBLISHED_MODEL) -> Vectors:
    """Vectors of texts from a sentence-transformers model on this machine, as published; parameters as `embed`.

    Raises
    ------
    ValueError
        If sentence-transformers is not installed (``pip install sentence-transformers``), or no text is to embed.
    """
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ValueError(
            f"{model} needs sentence-transformers: pip install sentence-transformers, or take embeddings from the API"
        ) from error
    encode = partial(library.SentenceTransformer(model).encode, show_progress_bar=False)
    return _each_once(texts, lambda batch: np.asarray(encode(list(batch)), dtype=np.float32), len(texts))


def embedder(client: OpenAI, *, model: str, name: str = "") -> Callable[[Sequence[str]], Vectors]:
    """What embeds texts: a sentence-transformers model by its name (``organisation/name``), else the endpoint.

    Parameters
    ----------
    model : id at the endpoint, where no other is named
    name : of another model: one of the endpoint, or with a slash in it (and neither ``hf:`` nor ``ft:`` in front) one
        of sentence-transformers
    """
    if "/" in name and not name.startswith(("hf:", "ft:")):
        return partial(embed_by_name, model=name)
    return partial(embed, client=client, model=name or model)


def _each_once(texts: Sequence[str], ask: Callable[[Sequence[str]], NDArray[Any]], batch_texts: int) -> Vectors:
    if batch_texts < 1:
        raise ValueError(f"batch_texts is {batch_texts}: expected at least 1")
    distinct = sorted({text for text in texts if text}, key=len)  # texts of one length share a batch
    if not distinct:
        raise ValueError(f"{len(texts)} texts, none with anything in it: nothing to embed")
    n_batches = math.ceil(len(distinct) / batch_texts)
    found = np.concatenate([ask(distinct[k * batch_texts : (k + 1) * batch_texts]) for k in range(n_batches)])
    places = {text: place for place, text in enumerate(distinct)}
    out = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
    rows = [row for row, text in enumerate(texts) if text]
    out[rows] = found[[places[texts[row]] for row in rows]]
    return out
