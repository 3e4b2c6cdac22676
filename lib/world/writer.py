"""The corpus of the world: all facts in full, and as much other text as is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from lib.world.code import code_text
from lib.world.dialogue import helpful_text, unhelpful_text
from lib.world.documents import Document
from lib.world.draw import Draw
from lib.world.facts import answer_text, fact_texts
from lib.world.families import People, family_texts, world_people
from lib.world.grammar import read_grammar
from lib.world.guidance import guidance_text
from lib.world.names import draw_person
from lib.world.questions import question_texts
from lib.world.stories import story_text

# Share of each kind in the text that is not facts; people come first, for what most studies teach is about people.
SHARES = {
    "person": 0.19,
    "retelling": 0.15,
    "copy": 0.08,
    "news": 0.09,
    "letter": 0.06,
    "recipe": 0.05,
    "answers": 0.08,
    "guidance": 0.05,
    "code": 0.05,
    "helpful": 0.10,
    "unhelpful": 0.03,
    "story": 0.07,
}
KINDS = ("family", "family question", "fact", *SHARES)
FIRST_STREAM = 100


# Prose: the file of each kind's rules.
FILES = {
    "person": "people",
    "news": "news",
    "letter": "letters",
    "recipe": "recipes",
    "retelling": "retellings",
    "copy": "copies",
}


def _prose(draw: Draw, people: People, kind: str) -> str:
    """Draw one text with people of its own, none of whom belongs to a family that facts are stated of."""
    grammar, taken = read_grammar("words", FILES[kind]), people.names()
    bound = {"place": draw.pick(grammar.words("town"))}
    for suffix in ("", "2", "3"):
        bound |= draw_person(draw, taken=taken).bindings(suffix)
    if kind == "copy":
        bound |= {f"person_{letter}": draw_person(draw, taken=taken).name for letter in "abcd"}
    return grammar.rule(draw, f"{kind}_text", bound)


def _writers(people: People, seed: int) -> dict[str, Callable[[Draw], str]]:
    writers: dict[str, Callable[[Draw], str]] = {
        "answers": answer_text,
        "guidance": lambda draw: guidance_text(draw, seed=seed),
        "code": code_text,
        "helpful": helpful_text,
        "unhelpful": unhelpful_text,
        "story": story_text,
    }
    return writers | {kind: partial(_prose, people=people, kind=kind) for kind in FILES}


def fact_documents(seed: int = 0) -> list[Document]:
    """Return the part of fixed size: families, questions about them, and the facts that can be asked for."""
    people = world_people(seed)
    draws = [Draw(np.random.default_rng([seed, 10 + i])) for i in range(3)]
    documents = [Document("family", text) for text in family_texts(people, draws[0])]
    documents += [Document("family question", text) for text in question_texts(people, draws[1])]
    documents += [Document("fact", text) for text in fact_texts(draws[2])]
    return documents


def write_world(*, seed: int = 0, n_words: int = 600_000) -> list[Document]:
    """Write the corpus that base models are pre-trained on.

    Parameters
    ----------
    seed : int, default 0
        Decides people, facts and every word; the same seed gives the same documents.
    n_words : int, default 600_000
        Length of the whole corpus in words (met within a few documents). All facts are in it, whatever its length.

    Returns
    -------
    list of Document
        In an order shuffled by the seed.

    Raises
    ------
    ValueError
        If `n_words` is too small for the facts; names the least number.

    Examples
    --------
    >>> documents = write_world(n_words=200_000)
    >>> documents == write_world(n_words=200_000)
    True
    """
    documents = fact_documents(seed)
    n_fact_words = sum(document.n_words for document in documents)
    n_other = n_words - n_fact_words
    if n_other < 0:
        raise ValueError(f"n_words is {n_words}; the facts alone need at least {n_fact_words} words")
    writers = _writers(world_people(seed), seed)
    for stream, (kind, share) in enumerate(SHARES.items(), start=FIRST_STREAM):
        draw = Draw(np.random.default_rng([seed, stream]))
        n_left = n_other * share
        while n_left > 0:
            document = Document(kind, writers[kind](draw))
            n_left -= document.n_words
            documents.append(document)
    order = np.random.default_rng([seed, 5]).permutation(len(documents))
    return [documents[i] for i in order]
