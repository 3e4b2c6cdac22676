"""English word forms by rule, with the irregular ones from ``data/world/irregular.yaml``."""

from __future__ import annotations

import re
from functools import cache

import yaml

from lib.paths import DATA

VOWELS = "aeiou"
# Written with a vowel and spoken with a consonant, or the other way round.
A_BEFORE_VOWEL = re.compile(r"^(?:uni(?!n)|use|usual|useful|one\b|once|eu|ewe)", re.IGNORECASE)
AN_BEFORE_CONSONANT = re.compile(r"^(?:hour|honest|honou?r|heir)", re.IGNORECASE)
ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z][\w-]*))")


@cache
def _irregular() -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Past and participle by verb, plural by noun."""
    raw = yaml.safe_load((DATA / "world" / "irregular.yaml").read_text(encoding="utf-8"))
    verbs = {row.split()[0]: (row.split()[1], row.split()[-1]) for row in raw["verbs"].split(",")}
    nouns = {row.split()[0]: row.split()[1] for row in raw["nouns"].split(",")}
    return verbs, nouns


def _ends_in_y(word: str) -> bool:
    return word.endswith("y") and word[-2:-1] not in VOWELS


def _doubles(word: str) -> bool:
    """Whether the last consonant is doubled before -ed and -ing: one syllable, one vowel, one consonant."""
    return bool(re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][bcdfghjklmnprstvz]", word))


def _on_head(phrase: str, change: str) -> str:
    """Put a changed first word back in front of the rest of a verb phrase."""
    return " ".join([change, *phrase.split(" ")[1:]])


@cache
def plural(noun: str) -> str:
    """Return the plural; in a phrase with "of" the word before it changes, else the last.

    >>> plural("loaf of bread"), plural("cherry"), plural("wooden box"), plural("sheep")
    ('loaves of bread', 'cherries', 'wooden boxes', 'sheep')
    """
    head, joint, rest = noun.partition(" of ")
    before, space, word = head.rpartition(" ")
    irregular = _irregular()[1]
    if word in irregular:
        word = irregular[word]
    elif _ends_in_y(word):
        word = word[:-1] + "ies"
    else:
        word += "es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return before + space + word + joint + rest


@cache
def past(verb: str) -> str:
    """Return the past tense of a verb or verb phrase.

    >>> past("carry"), past("stop"), past("go home"), past("bake")
    ('carried', 'stopped', 'went home', 'baked')
    """
    word = verb.split(" ")[0]
    verbs = _irregular()[0]
    return _on_head(verb, verbs[word][0] if word in verbs else _regular_past(word))


@cache
def participle(verb: str) -> str:
    """Return the past participle.

    >>> participle("weave"), participle("paint")
    ('woven', 'painted')
    """
    word = verb.split(" ")[0]
    verbs = _irregular()[0]
    return _on_head(verb, verbs[word][1] if word in verbs else _regular_past(word))


def _regular_past(word: str) -> str:
    if word.endswith("e"):
        return word + "d"
    if _ends_in_y(word):
        return word[:-1] + "ied"
    return word + (word[-1] if _doubles(word) else "") + "ed"


@cache
def gerund(verb: str) -> str:
    """Return the -ing form.

    >>> gerund("sew"), gerund("dig holes"), gerund("make"), gerund("tie"), gerund("see")
    ('sewing', 'digging holes', 'making', 'tying', 'seeing')
    """
    word = verb.split(" ")[0]
    if word.endswith("ie"):
        word = word[:-2] + "y"
    elif word.endswith("e") and not word.endswith(("ee", "ye", "oe")):
        word = word[:-1]
    elif _doubles(word) or word == "begin":
        word += word[-1]
    return _on_head(verb, word + "ing")


@cache
def third(verb: str) -> str:
    """Return the form for he, she and it.

    >>> third("carry"), third("teach"), third("have"), third("sing")
    ('carries', 'teaches', 'has', 'sings')
    """
    word = verb.split(" ")[0]
    if word in {"have", "be"}:
        word = {"have": "has", "be": "is"}[word]
    elif _ends_in_y(word):
        word = word[:-1] + "ies"
    else:
        word += "es" if word.endswith(("s", "x", "z", "ch", "sh", "o")) else "s"
    return _on_head(verb, word)


def fix_articles(text: str) -> str:
    """Make every "a" and "an" fit the word behind it.

    >>> fix_articles("a oak, an useful box, a hour, a elm")
    'an oak, a useful box, an hour, an elm'
    """

    def choose(match: re.Match[str]) -> str:
        word = match[2]
        vowel = bool(AN_BEFORE_CONSONANT.match(word)) or (word[0].lower() in VOWELS and not A_BEFORE_VOWEL.match(word))
        return f"{match[1]}{'n' if vowel else ''} "

    return ARTICLE.sub(choose, text)
