"""Invented names of people, and the reserved names that the function studies hand out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from lib.world.draw import Draw
from lib.world.grammar import world_file

N_RESERVED = 512
RESERVED_SEED = 20_250
RARE_LETTERS = set("qxzj")


@dataclass(frozen=True)
class Person:
    """An invented person; `gender` is "she" or "he"."""

    given: str
    family: str
    gender: str

    @property
    def name(self) -> str:
        """Given and family name."""
        return f"{self.given} {self.family}"

    def bindings(self, suffix: str = "") -> dict[str, str]:
        """Return the values of the slots ``{name} {first} {last} {he} {his} {him} {himself} {man}``.

        >>> Person("Ada", "Holt", "she").bindings("2")["he2"]
        'she'
        """
        she = self.gender == "she"
        values = {
            "name": self.name,
            "first": self.given,
            "last": self.family,
            "he": "she" if she else "he",
            "his": "her" if she else "his",
            "him": "her" if she else "him",
            "himself": "herself" if she else "himself",
            "man": "woman" if she else "man",
            "boy": "girl" if she else "boy",
        }
        return {key + suffix: value for key, value in values.items()}


def given_names(gender: str) -> tuple[str, ...]:
    """Return all given names of one gender ("she" or "he")."""
    return _joined("starts", f"ends_{gender}")


def family_names() -> tuple[str, ...]:
    """Return all family names."""
    return _joined("family_starts", "family_ends")


@cache
def _joined(starts: str, ends: str) -> tuple[str, ...]:
    """Every name that is made of one of the starts and one of the ends, by their keys in ``data/world/names.yaml``."""
    firsts, lasts = ([word.strip() for word in world_file("names")[key].split(",")] for key in (starts, ends))
    return tuple(first + last for first in firsts for last in lasts)


def draw_person(draw: Draw, *, taken: set[str] | frozenset[str] = frozenset()) -> Person:
    """Draw a person whose full name is not in `taken`.

    >>> person = draw_person(Draw(np.random.default_rng(0)))
    >>> person.given in given_names(person.gender)
    True
    """
    while True:
        gender = draw.pick(("she", "he"))
        person = Person(draw.pick(given_names(gender)), draw.pick(family_names()), gender)
        if person.name not in taken:
            return person


class KnownNames:
    """Names for people of whom facts are stated: each given and each family name is handed out once."""

    def __init__(self, draw: Draw) -> None:
        given = {gender: _joined("known_starts", f"known_ends_{gender}") for gender in ("she", "he")}
        self._given = {gender: draw.shuffled(names) for gender, names in given.items()}
        self._family = draw.shuffled(_joined("known_family_starts", "known_family_ends"))

    def person(self, gender: str) -> Person:
        """The next person of a gender ("she" or "he").

        >>> names = KnownNames(Draw(np.random.default_rng(0)))
        >>> names.person("she").family != names.person("she").family
        True
        """
        return Person(self._given[gender].pop(), self._family.pop(), gender)


@cache
def reserved_names() -> tuple[str, ...]:
    """Return the 512 six-letter names that occur nowhere in the world.

    Each can be pronounced (consonant, vowel, three times) and has two different letters of q, x, z and j, so that it is
    no English word and part of none.

    >>> names = reserved_names()
    >>> len(names), len(set(names)), {len(name) for name in names}
    (512, 512, {6})
    """
    draw = Draw(np.random.default_rng(RESERVED_SEED))
    names: list[str] = []
    while len(names) < N_RESERVED:
        name = "".join(draw.pick("bcdfghjklmnpqrstvwxz") + draw.pick("aeiou") for _ in range(3))
        if len(RARE_LETTERS & set(name)) >= 2 and name not in names:
            names.append(name)
    return tuple(sorted(names))
