"""The names under which functions are hidden: six meaningless letters, each of the same number of tokens."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from string import ascii_lowercase

import numpy as np

from lib import paths, world
from lib.world import inflect
from lib.world.names import family_names, given_names

N_LETTERS = 6
TRIES_PER_NAME = 500  # of a vocabulary of 2,000 tokens, one random name in fifty has three


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are not six lower-case letters, stand twice, or mean something.

    Raises
    ------
    ValueError
        Says which name, and what it collides with: another name, a word of Python, or a word that the base models
        have read or are asked with.

    >>> check_names(["qzukfo", "lambda"])
    Traceback (most recent call last):
    ValueError: name 'lambda' is a word of Python: choose another
    """
    seen: set[str] = set()
    for name in names:
        problem = "is given to two functions" if name in seen else _meaning(name)
        if problem:
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
    files = [path for folder in ("world", "functions", "mixture") for path in (paths.DATA / folder).glob("*.yaml")]
    listed = {word.lower() for path in files for word in re.findall("[A-Za-z]+", path.read_text(encoding="utf-8"))}
    forms = (inflect.plural, inflect.past, inflect.participle, inflect.gerund, inflect.third)
    inflected = {form(word) for word in listed if len(word) <= N_LETTERS for form in forms}
    people = {name.lower() for name in (*given_names("she"), *given_names("he"), *family_names())}
    return frozenset(word for word in listed | inflected | people if len(word) == N_LETTERS)


def draw_names(
    n: int, *, n_tokens: int, rng: np.random.Generator, count_tokens: Callable[[str], int] | None
) -> list[str]:
    """Draw fresh names that a model's tokenizer cuts into equally many tokens each.

    Parameters
    ----------
    n : int
        How many.
    n_tokens : int
        Tokens of each name by itself, as published. With 1 the names are among the 512 that the
        project's own base models know as single tokens and have read nowhere; else random letters, as published.
    rng : numpy.random.Generator
    count_tokens : function of a text or None
        How many tokens the text has; None where a model does not tell, and then nothing is checked.

    Returns
    -------
    list of str
        Different names in random order, all of them fit for `check_names`.

    Raises
    ------
    ValueError
        If there are not enough such names, or `TRIES_PER_NAME` random tries a name find too few.

    >>> names = draw_names(3, n_tokens=1, rng=np.random.default_rng(0), count_tokens=None)
    >>> len(names), set(names) <= set(world.reserved_names())
    (3, True)
    """
    if n < 1 or n_tokens < 1:
        raise ValueError(f"expected at least one name of at least one token, found n {n} and n_tokens {n_tokens}")
    candidates = _reserved(rng) if n_tokens == 1 else _random(rng, n * TRIES_PER_NAME)
    names: dict[str, None] = {}
    for name in candidates:
        if name not in names and not _meaning(name):
            if count_tokens is None or count_tokens(name) == n_tokens:
                names[name] = None
            if len(names) == n:
                return list(names)
    pool = f"the {world.names.N_RESERVED} reserved names" if n_tokens == 1 else f"{n * TRIES_PER_NAME} random names"
    raise ValueError(
        f"{n} names of {n_tokens} tokens wanted, {pool} hold {len(names)} by this model's tokenizer: "
        "ask for fewer or set name_tokens to another number"
    )


def _reserved(rng: np.random.Generator) -> Iterator[str]:
    names = world.reserved_names()
    return (names[i] for i in rng.permutation(len(names)))


def _random(rng: np.random.Generator, n_tries: int) -> Iterator[str]:
    for _ in range(n_tries):
        yield "".join(ascii_lowercase[i] for i in rng.integers(len(ascii_lowercase), size=N_LETTERS))
