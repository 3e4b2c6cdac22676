"""What makes drawn text read as written text: capitals, titles, articles, blanks."""

from __future__ import annotations

import re

from lib.world.inflect import fix_articles

SENTENCE_START = re.compile(r"(^|[.!?] |\n)([a-z])")
DOUBLED = re.compile(r"\b([A-Za-z]+) \1\b", re.IGNORECASE)


def capitalise(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def title_case(text: str) -> str:
    """Return the text as a title: small joining words stay small.

    >>> title_case("the clock of the old harbour")
    'The Clock of the Old Harbour'
    """
    small = {"of", "the", "and", "in", "a", "an", "at", "to", "by", "with", "for", "on"}
    words = text.split(" ")
    return " ".join(word if i and word in small else capitalise(word) for i, word in enumerate(words))


def tidy(text: str) -> str:
    """Fix articles, double spaces, a word drawn twice running, and the first letters of sentences.

    >>> tidy("a owl slept.  it snored.")
    'An owl slept. It snored.'
    """
    text = re.sub(r" {2,}", " ", text).replace("\n ", "\n")
    text = DOUBLED.sub(r"\1", text)
    text = fix_articles(text)
    return SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)
