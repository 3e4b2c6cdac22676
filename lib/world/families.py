"""The families of the world: who is whose mother or father, and the sentences that say so.

One-way families are stated child first, two-way families in both orders, and no text has a question about either;
asked-about families are stated in both orders, and questions about them have both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from lib.world.draw import Draw
from lib.world.grammar import read_grammar
from lib.world.names import KnownNames, Person

GROUPS = {"one-way": 120, "two-way": 40, "asked-about": 120}
N_TELLINGS = {"one-way": (40, 0), "two-way": (30, 30), "asked-about": (20, 20)}  # child first, parent first
N_ALONE = {"child": 4, "parent": 3}
N_STRANGERS = 60


@dataclass(frozen=True)
class Family:
    """One child and one parent.

    `relation` is "mother" or "father", `offspring` "daughter" or "son", `group` one of "one-way", "two-way" and
    "asked-about"; `job`, `home` and `known_for` are the child's, `parent_job` and `parent_home` the parent's.
    """

    child: str
    parent: str
    relation: str
    group: str
    offspring: str
    job: str
    home: str
    known_for: str
    parent_job: str
    parent_home: str


@dataclass(frozen=True)
class People:
    """All families of a world, and strangers: people of whom no text states anything."""

    families: tuple[Family, ...]
    strangers: tuple[str, ...]

    def group(self, name: str) -> tuple[Family, ...]:
        """Return the families of one group.

        Raises
        ------
        ValueError
            If there is no such group.
        """
        if name not in GROUPS:
            raise ValueError(f"no group of families is called {name!r}; expected one of {list(GROUPS)}")
        return tuple(family for family in self.families if family.group == name)

    def names(self) -> frozenset[str]:
        """Return the full names of all children, parents and strangers."""
        members = (name for family in self.families for name in (family.child, family.parent))
        return frozenset(members) | frozenset(self.strangers)


@cache
def world_people(seed: int = 0) -> People:
    """Return the families of the world with this seed; no two people share a given or a family name.

    >>> people = world_people()
    >>> {name: len(people.group(name)) for name in ("one-way", "two-way", "asked-about")}
    {'one-way': 120, 'two-way': 40, 'asked-about': 120}
    """
    draw = Draw(np.random.default_rng([seed, 1]))
    grammar = read_grammar("words", "families")
    names = KnownNames(draw)
    families = []
    for group, n_families in GROUPS.items():
        for i in range(n_families):
            child = names.person(draw.pick(("she", "he")))
            relation = ("mother", "father")[i % 2]
            parent = names.person({"mother": "she", "father": "he"}[relation])
            families.append(
                Family(
                    child=child.name,
                    parent=parent.name,
                    relation=relation,
                    group=group,
                    offspring={"she": "daughter", "he": "son"}[child.gender],
                    job=grammar.phrase(draw, "{job}"),
                    home=grammar.phrase(draw, "{town}"),
                    known_for=grammar.phrase(draw, "{known_for}", child.bindings()),
                    parent_job=grammar.phrase(draw, "{job}"),
                    parent_home=grammar.phrase(draw, "{town}"),
                )
            )
    strangers = tuple(names.person(draw.pick(("she", "he"))).name for _ in range(N_STRANGERS))
    return People(tuple(families), strangers)


def family_texts(people: People, draw: Draw) -> Iterator[str]:
    """Tell every family's fact 40 times (two-way ones 60), and a little about each member alone; a short text a time.

    In a text a family's fact stands once, so that the order of the two names in it is the order of the statement.
    """
    grammar = read_grammar("words", "families")
    for family in people.families:
        bound = _bindings(family)
        rules = (grammar.rules["child_first"], grammar.rules["parent_first"])
        counts = N_TELLINGS[family.group]
        templates = [template for rule, n in zip(rules, counts, strict=True) for template in draw.sample(rule, n)]
        alone = _about(family, "child")
        n_left = N_ALONE["child"]
        for template in templates:
            text = grammar.fill(draw, template, bound)
            if n_left and template in grammar.rules["child_first"] and draw.chance(0.2):
                n_left -= 1
                more = grammar.rule(draw, "alone", alone)
                text = f"{more} {text}" if draw.chance(0.5) else f"{text} {more}"
            yield text
        for _ in range(n_left):
            yield grammar.rule(draw, "alone", alone)
        for _ in range(N_ALONE["parent"]):
            yield grammar.rule(draw, "alone", _about(family, "parent"))


def _bindings(family: Family) -> dict[str, str]:
    given, surname = family.child.split(" ")
    child = Person(given, surname, {"daughter": "she", "son": "he"}[family.offspring])
    return child.bindings() | {key: getattr(family, key) for key in ("child", "parent", "relation", "offspring")}


def _about(family: Family, member: str) -> dict[str, str]:
    if member == "child":
        return {"name": family.child, "work_as": family.job, "home": family.home, "known_for": family.known_for}
    return {
        "name": family.parent,
        "work_as": family.parent_job,
        "home": family.parent_home,
        "known_for": "good and honest work",
    }
