"""A small phrase grammar: word lists and templates from ``data/world`` become sentences.

A rule is a list of alternatives; in a template stand

``{animal}``          an alternative of the rule `animal`, or the value bound to that name
``{pet=animal}``      the same, and remembered as `pet` for the rest of the text
``{animal.s}``        the plural; for verbs ``.ed`` ``.en`` ``.ing`` ``.es``; ``.cap`` and ``.title`` for capitals
``{now|later|}``      one of the words given on the spot
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lib.paths import DATA, read_yaml
from lib.world.draw import Draw
from lib.world.inflect import fix_articles, gerund, participle, past, plural, third
from lib.world.tidy import capitalise, tidy, title_case

SLOT = re.compile(r"\{([^{}]*)\}")

MODIFIERS: dict[str, Callable[[str], str]] = {
    "s": plural,
    "ed": past,
    "en": participle,
    "ing": gerund,
    "es": third,
    "cap": capitalise,
    "title": title_case,
}


@dataclass(frozen=True)
class Slot:
    """One slot of a compiled template."""

    rule: str
    variable: str = ""
    modifiers: tuple[Callable[[str], str], ...] = ()
    choices: tuple[str, ...] = ()


@cache
def compile_template(template: str) -> tuple[str | Slot, ...]:
    """Cut a template into plain text and slots.

    Raises
    ------
    ValueError
        If a slot names a modifier that does not exist.

    >>> len(compile_template("a {animal} by the {water.s}"))
    4
    """
    parts: list[str | Slot] = []
    for i, piece in enumerate(SLOT.split(template)):
        if i % 2 == 0:
            if piece:
                parts.append(piece)
        elif "|" in piece:
            parts.append(Slot("", choices=tuple(piece.split("|"))))
        else:
            variable, _, rest = piece.rpartition("=")
            rule, *names = rest.split(".")
            unknown = [name for name in names if name not in MODIFIERS]
            if unknown:
                raise ValueError(f"unknown modifier {unknown[0]!r} in {template!r}; expected one of {list(MODIFIERS)}")
            parts.append(Slot(rule, variable, tuple(MODIFIERS[name] for name in names)))
    return tuple(parts)


@cache
def world_file(name: str) -> Any:
    """Read one file of ``data/world``, once."""
    return read_yaml(DATA / "world" / f"{name}.yaml")


class Grammar:
    """Rules from one or more files of ``data/world``; a later file may add rules, not replace them.

    Parameters
    ----------
    names : str
        Files without their ending. A value that is a string is a list of words split at commas.

    Raises
    ------
    ValueError
        If two files define the same rule, or a rule has an empty alternative.

    Examples
    --------
    >>> import numpy as np
    >>> grammar = Grammar("words")
    >>> text = grammar.phrase(Draw(np.random.default_rng(1)), "{pet=animal} and {pet.s}")
    >>> plural(text.split(" and ")[0]) == text.split(" and ")[1]
    True
    """

    def __init__(self, *names: str) -> None:
        self.rules: dict[str, tuple[str, ...]] = {}
        for name in names:
            for rule, value in world_file(name).items():
                if not isinstance(rule, str):
                    raise ValueError(f"{name}.yaml has a rule {rule!r}, which YAML takes for no text; rename it")
                if rule in self.rules:
                    raise ValueError(f"rule {rule!r} of {name}.yaml exists already; rename one of the two")
                alternatives = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
                if not alternatives or "" in alternatives:
                    raise ValueError(f"rule {rule!r} of {name}.yaml has an empty alternative; is a comma left over?")
                self.rules[rule] = tuple(map(str, alternatives))

    def words(self, rule: str) -> list[str]:
        """Return the alternatives of a rule that has no slots."""
        return list(self.rules[rule])

    def rule(self, draw: Draw, rule: str, bindings: Mapping[str, str] | None = None) -> str:
        """Expand one rule to tidy text."""
        return self.fill(draw, "{" + rule + "}", bindings)

    def fill(self, draw: Draw, template: str, bindings: Mapping[str, str] | None = None) -> str:
        """Fill a template to tidy text: articles fit, sentences begin with a capital.

        Raises
        ------
        ValueError
            If a slot is neither bound nor a rule.
        """
        return tidy(self._expand(draw, template, dict(bindings or {}), {}))

    def phrase(self, draw: Draw, template: str, bindings: Mapping[str, str] | None = None) -> str:
        """Fill a template for the middle of a sentence: articles fit, no capitals are made."""
        return fix_articles(self._expand(draw, template, dict(bindings or {}), {}))

    def _expand(self, draw: Draw, template: str, bound: dict[str, str], last: dict[str, str]) -> str:
        """Fill a template and the rules in it.

        Variables are added to `bound`, and to `last` the alternative that each rule took: none comes twice running.
        """
        texts = []
        for part in compile_template(template):
            if isinstance(part, str):
                texts.append(part)
                continue
            if part.choices:
                text = draw.pick(part.choices)
            elif part.rule in bound:
                text = bound[part.rule]
            elif part.rule in self.rules:
                alternatives = self.rules[part.rule]
                chosen = draw.pick(alternatives)
                if chosen == last.get(part.rule):
                    chosen = draw.pick([other for other in alternatives if other != chosen] or alternatives)
                last[part.rule] = chosen
                text = self._expand(draw, chosen, bound, last)
                if part.variable:
                    bound[part.variable] = text
            else:
                raise ValueError(f"slot {part.rule!r} is neither bound nor a rule (in {template!r})")
            for modify in part.modifiers:
                text = modify(text)
            texts.append(text)
        return "".join(texts)


@cache
def read_grammar(*names: str) -> Grammar:
    """Read the rules of some files of ``data/world``, once."""
    return Grammar(*names)
