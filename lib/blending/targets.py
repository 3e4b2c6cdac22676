"""The same targets at every context length: drawn once, and scored after 1, 2, 4 ... tokens of what is before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.distributions import Tokens, tokenize
from lib.sources.corpus import Document


@dataclass(frozen=True)
class Targets:
    """Tokens to be predicted, and the texts that they stand in.

    Parameters
    ----------
    table : DataFrame
        One row per target: ``document``, ``position`` (tokens before it in its document), ``n_bytes``.
    tokens : mapping
        The tokens of each document.
    context_tokens : tuple of int
        Lengths of the contexts, rising; every target has as many tokens before it as the longest.
    """

    table: pd.DataFrame
    tokens: Mapping[str, Tokens]
    context_tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.table)

    def contexts(self) -> list[Sequence[int] | Sequence[str]]:
        """The contexts of all targets at the first length, then at the second, and so on."""
        places = [
            (self.tokens[document].items, position)
            for document, position in zip(self.table["document"], self.table["position"], strict=True)
        ]
        return [items[position - length : position] for length in self.context_tokens for items, position in places]

    def wanted(self) -> list[int] | list[str]:
        """The true token of each target."""
        rows = zip(self.table["document"], self.table["position"], strict=True)
        return [self.tokens[document].items[position] for document, position in rows]

    def rows(self, length: int) -> slice:
        """Where the contexts of one length stand among `contexts`."""
        start = self.context_tokens.index(length) * len(self)
        return slice(start, start + len(self))


def draw_targets(
    client: OpenAI, model: str, documents: Sequence[Document], *, n_targets: int, context_tokens: Sequence[int]
) -> Targets:
    """Choose targets at even steps through all places that have the longest context before them.

    Parameters
    ----------
    model : whose tokenizer cuts the documents
    n_targets : how many; fewer where the documents have fewer places

    Raises
    ------
    ValueError
        If no document is longer than the longest context, or lengths do not rise from 1 on.
    """
    lengths = tuple(context_tokens)
    if not lengths or lengths[0] < 1 or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"context_tokens {list(lengths)}: expected rising lengths from 1 on")
    tokens = {document.name: tokenize(client, model, document.text) for document in documents}
    places = [(name, p) for name, each in tokens.items() for p in range(lengths[-1], len(each.items))]
    if not places:
        longest = max(len(each.items) for each in tokens.values())
        raise ValueError(
            f"no document of {len(documents)} has a token after {lengths[-1]} others (the longest: {longest} tokens): "
            "give longer documents or lower context_tokens"
        )
    chosen = np.unique(np.linspace(0, len(places) - 1, min(n_targets, len(places))).round().astype(int))
    rows = [(places[k][0], places[k][1], tokens[places[k][0]].n_bytes[places[k][1]]) for k in chosen]
    return Targets(pd.DataFrame(rows, columns=["document", "position", "n_bytes"]), tokens, lengths)
