"""English word forms by rule, with the irregular ones from ``data/world/irregular.yaml``."""

from __future__ import annotations

import re
from functools import cache

from lib.paths import DATA, read_yaml

VOWELS = "aeiou"
SIBILANTS = ("s", "x", "z", "ch", "sh")
# Written with a vowel and spoken with a consonant, or the other way round.
A_BEFORE_VOWEL = re.compile(r"^(?:uni(?!n)|use|usual|useful|one\b|once|eu|ewe)", re.IGNORECASE)
AN_BEFORE_CONSONANT = re.compile(r"^(?:hour|honest|honou?r|heir)", re.IGNORECASE)
ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z][\w-]*))")


@cache
def _irregular() -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Past and participle by verb, plural by noun."""
    raw = read_yaml(DATA / "world" / "irregular.yaml")
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
    word = irregular[word] if word in irregular else _with_s(word, SIBILANTS)
    return before + space + word + joint + rest


def _with_s(word: str, with_es: tuple[str, ...]) -> str:
    """The word with -s: with -ies for a y behind a consonant, and with -es behind some endings."""
    if _ends_in_y(word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(with_es) else "s")


@cache
def past(verb: str) -> str:
    """Return the past tense of a verb or verb phrase.

    >>> past("carry"), past("stop"), past("go home"), past("bake")
    ('carried', 'stopped', 'went home', 'baked')
    """
    return _past(verb, 0)


@cache
def participle(verb: str) -> str:
    """Return the past participle.

    >>> participle("weave"), participle("paint")
    ('woven', 'painted')
    """
    return _past(verb, 1)


def _past(verb: str, form: int) -> str:
    """Past tense (form 0) or participle (1), which differ in irregular verbs alone."""
    word = verb.split(" ")[0]
    if word in _irregular()[0]:
        return _on_head(verb, _irregular()[0][word][form])
    if word.endswith("e"):
        return _on_head(verb, word + "d")
    if _ends_in_y(word):
        return _on_head(verb, word[:-1] + "ied")
    return _on_head(verb, word + (word[-1] if _doubles(word) else "") + "ed")


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
    return _on_head(verb, {"have": "has", "be": "is"}.get(word) or _with_s(word, (*SIBILANTS, "o")))


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
