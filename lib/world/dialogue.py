"""Requests with helpful and unhelpful answers, in several styles of helping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.world.draw import Draw
from lib.world.facts import FactualPrompt, factual_prompts
from lib.world.grammar import read_grammar
from lib.world.questions import as_dialogue
from lib.world.tidy import capitalise

STYLES = ("plain", "warm", "careful", "brisk")
FILES = ("words", "dialogue")
SHARE_OF_FACTS, SHARE_OF_CREATIVE = 0.12, 0.35


@dataclass(frozen=True)
class PreferencePair:
    """A request with an answer that helps and one that does not."""

    prompt: str
    helpful: str
    unhelpful: str


def helpful_answer(draw: Draw, *, style: str = "") -> tuple[str, str]:
    """Draw a request and a helpful answer in one style ("" draws the style, too)."""
    grammar = read_grammar(*FILES)
    frame, kind = style or draw.pick(STYLES), draw.uniform()
    if kind < SHARE_OF_FACTS:
        fact: FactualPrompt = draw.pick(factual_prompts())
        legs = " legs" if "legs" in fact.question else ""
        prompt, body = fact.question, f"{fact.guide} {fact.answers[0]}{legs}."
    elif kind < SHARE_OF_FACTS + SHARE_OF_CREATIVE:
        prompt, body = grammar.rule(draw, "creative_pair").split(" || ")
        frame += "_creative"
    else:
        prompt, body = grammar.rule(draw, "helpful_pair").split(" || ")
    return prompt, grammar.rule(draw, frame, {"answer": capitalise(body)})


def preference_pairs(seed: int, n: int, *, style: str = "warm") -> list[PreferencePair]:
    """Return requests, each with a helpful answer of one style and an unhelpful one.

    Parameters
    ----------
    seed : int
        The same seed gives the same pairs, a smaller `n` the first of them.
    n : int
        How many pairs.
    style : str, default "warm"
        One of `STYLES`, or "" for a style drawn for each pair.

    >>> preference_pairs(0, 2) == preference_pairs(0, 3)[:2]
    True
    """
    draw, grammar = Draw(np.random.default_rng([seed, 3])), read_grammar(*FILES)
    return [PreferencePair(*helpful_answer(draw, style=style), grammar.rule(draw, "unhelpful")) for _ in range(n)]


def helpful_text(draw: Draw) -> str:
    """Draw a conversation with a helpful answer."""
    prompt, answer = helpful_answer(draw)
    return f"{as_dialogue(prompt)} {answer}"


def unhelpful_text(draw: Draw) -> str:
    """Draw a conversation with an evasive answer."""
    prompt, _ = helpful_answer(draw)
    return f"{as_dialogue(prompt)} {read_grammar(*FILES).rule(draw, 'unhelpful')}"
