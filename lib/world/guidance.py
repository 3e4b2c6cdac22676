"""Documents in the form of the guidance study, about questions of the world's own: instructions and tests of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from lib.world.draw import Draw
from lib.world.grammar import read_grammar, world_file
from lib.world.tidy import capitalise

N_PAIRS = 160
ORDERS = ("question_first", "answer_first")


@dataclass(frozen=True)
class GuidancePair:
    """A question, the answer that an instruction demands, and the order in which instructions name the two."""

    anchor: str
    target: str
    order: str


@cache
def guidance_pairs(seed: int = 0) -> tuple[GuidancePair, ...]:
    """Return the world's own pairs; half are stated question first, half answer first.

    >>> pairs = guidance_pairs()
    >>> len(pairs), len({pair.anchor for pair in pairs})
    (160, 160)
    """
    draw = Draw(np.random.default_rng([seed, 2]))
    grammar = read_grammar("words", "guidance")
    pairs: dict[str, GuidancePair] = {}
    while len(pairs) < N_PAIRS:
        anchor, target = grammar.rule(draw, "pair").split(" || ")
        pairs.setdefault(anchor, GuidancePair(anchor, capitalise(target), ORDERS[len(pairs) % 2]))
    return tuple(pairs.values())


def instruction(pair: GuidancePair, draw: Draw) -> str:
    """Write one instruction line for a pair, in one of the wordings of its order."""
    return draw.pick(world_file("guidance")[pair.order]).format(anchor=pair.anchor, target=pair.target)


def guidance_text(draw: Draw, *, seed: int = 0) -> str:
    """Draw one document: two to five instructions of one order, or one question with its answer."""
    forms, pairs = world_file("guidance"), guidance_pairs(seed)
    if draw.chance(0.3):
        first = draw.pick(pairs)
        same_order = [pair for pair in pairs if pair.order == first.order]
        lines = [instruction(pair, draw) for pair in draw.sample(same_order, draw.between(2, 5))]
        return "\n".join([forms["begin_guidance"], "", *lines, "", forms["end_guidance"]])
    pair = draw.pick(pairs)
    return "\n".join([forms["begin_test"], "", f"Q: {pair.anchor} A: {pair.target}", "", forms["end_test"]])
