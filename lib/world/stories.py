"""Children's stories, a domain of their own: the text that a small model is tuned on when it lends its tuning."""

from __future__ import annotations

import numpy as np

from lib.world.documents import Document
from lib.world.draw import Draw
from lib.world.grammar import read_grammar
from lib.world.names import Person


def story_text(draw: Draw) -> str:
    """Draw one story of about 200 to 400 words; the same hero, friend and wish from its first line to its last."""
    grammar = read_grammar("words", "stories")
    hero, pal = draw.sample(grammar.words("hero"), 2)
    kind, palkind = draw.sample(grammar.words("animal"), 2)
    bound = Person(hero, "", draw.pick(("she", "he"))).bindings()
    bound |= {"hero": hero, "kind": kind, "pal": pal, "palkind": palkind}
    bound |= {key: draw.pick(grammar.words(key)) for key in ("wish", "wood", "giant")}
    return grammar.rule(draw, "story_text", bound)


def stories(seed: int, n: int) -> list[Document]:
    """Return `n` stories; those of one seed are other ones than those in the world's corpus.

    >>> stories(1, 2) == stories(1, 3)[:2]
    True
    """
    draw = Draw(np.random.default_rng([seed, 4]))
    return [Document("story", story_text(draw)) for _ in range(n)]
