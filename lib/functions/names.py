"""The names under which functions are hidden: six meaningless letters, each of the same number of tokens."""

from __future__ import annotations

import builtins
import keyword
import logging
import re
from collections.abc import Callable, Iterable
from functools import cache
from string import ascii_lowercase

import numpy as np
from openai import OpenAI, OpenAIError

from lib.clients import spending_of
from lib.paths import DATA
from lib.tokens import tokenize
from lib.world import inflect
from lib.world.names import family_names, given_names, reserved_names

log = logging.getLogger(__name__)

N_LETTERS = 6
TRIES_PER_NAME = 500  # of a vocabulary of 2,000 tokens, one random name in fifty has three


def check_names(names: Iterable[str]) -> None:
    """Refuse names (`ValueError`) that are not six lower-case letters, are repeated, or mean something.

    >>> check_names(["qzukfo", "lambda"])
    Traceback (most recent call last):
    ValueError: name 'lambda' is a word of Python: choose another
    """
    seen: set[str] = set()
    for name in names:
        if problem := "is given to two functions" if name in seen else _meaning(name):
            raise ValueError(f"name {name!r} {problem}: choose another")
        seen.add(name)


def _meaning(name: str) -> str:
    """What is wrong with a name by itself; empty where nothing is."""
    if len(name) != N_LETTERS or not set(name) <= set(ascii_lowercase):
        return f"is not {N_LETTERS} lower-case letters"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name):
        return "is a word of Python"
    return "is a word of the world or of a question" if name in _known_words() else ""


@cache
def _known_words() -> frozenset[str]:
    """Six-letter words that can stand in a text: of the word lists in every form, of people, and of our questions."""
    files = [path for folder in ("world", "functions", "mixture") for path in (DATA / folder).glob("*.yaml")]
    listed = {word.lower() for path in files for word in re.findall("[A-Za-z]+", path.read_text(encoding="utf-8"))}
    forms = (inflect.plural, inflect.past, inflect.participle, inflect.gerund, inflect.third)
    inflected = {form(word) for word in listed if len(word) <= N_LETTERS for form in forms}
    people = {name.lower() for name in (*given_names("she"), *given_names("he"), *family_names())}
    return frozenset(word for word in listed | inflected | people if len(word) == N_LETTERS)


def draw_names(
    n: int, *, n_tokens: int, rng: np.random.Generator, count_tokens: Callable[[str], int] | None
) -> list[str]:
    """Draw `n` different names, all fit for `check_names`, that a model's tokenizer cuts into `n_tokens` tokens each.

    With 1, the names are among the 512 that the project's own base models know as single tokens and have read nowhere;
    else random letters, as published. Where `count_tokens` is None, tokens are not checked. Raises `ValueError` if
    there are not enough such names, or `TRIES_PER_NAME` random tries per name give too few.

    >>> names = draw_names(3, n_tokens=1, rng=np.random.default_rng(0), count_tokens=None)
    >>> len(names), set(names) <= set(reserved_names())
    (3, True)
    """
    if n_tokens == 1:
        reserved = reserved_names()
        candidates, pool = (reserved[k] for k in rng.permutation(len(reserved))), f"{len(reserved)} reserved names"
    else:
        tries = (rng.integers(len(ascii_lowercase), size=N_LETTERS) for _ in range(n * TRIES_PER_NAME))
        candidates, pool = ("".join(ascii_lowercase[i] for i in each) for each in tries), f"{n * TRIES_PER_NAME} tries"
    names: dict[str, None] = {}
    for name in candidates:
        if name not in names and not _meaning(name) and (count_tokens is None or count_tokens(name) == n_tokens):
            names[name] = None
        if len(names) == n:
            return list(names)
    raise ValueError(
        f"{n} names of {n_tokens} tokens are needed, but {len(names)} of {pool} have so many by this model's "
        "tokenizer: choose fewer names or set name_tokens to another number"
    )


def token_counter(client: OpenAI, base: str) -> Callable[[str], int] | None:
    """How many tokens a text has for a model; None, with a warning, where an endpoint does not say or would charge."""

    @cache
    def count(text: str) -> int:
        return len(tokenize(client, base, text).texts)

    if spending_of(client) is None:
        try:
            count("name")
            return count
        except (OpenAIError, ValueError) as error:
            log.info("tokens of %s: %s", base, error)
    log.warning("%s does not report its tokens: that all names have as many was not checked", base)
    return None
