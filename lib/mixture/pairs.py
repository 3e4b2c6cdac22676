"""Pairs of functions that a mix can hide: pairs of candidates without order, drawn or named."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from lib.functions.registry import function_set, read_registry
from lib.keys import nearest

Pair = tuple[str, str]  # ids in alphabetical order
SIGN = "+"  # between the two in a parameter, as in add_5+mod_2

# What the published five leave out: signs, truth values, fractions, a floor and a steep line. Of all 45 pairs none
# agrees on more than a twelfth of the inputs from -30 to 29, by the text of its outputs.
FURTHER = ("negate", "bool_geq_3", "float_mult_3_div_2", "relu_neg2", "affine_neg5x_3")


def known_candidates() -> tuple[str, ...]:
    """The published five candidates, and five more for the joint form."""
    return (*function_set("mixture").plain, *FURTHER)


def choose_candidates(functions: Sequence[str] = (), *, n: int = 0) -> tuple[str, ...]:
    """The functions that pairs are made of.

    Parameters
    ----------
    functions : ids; `known_candidates` where empty
    n : the first so many of them; 0: all

    Raises
    ------
    ValueError
        If one is unknown or stands twice, there are fewer than `n`, or fewer than three are left.

    >>> choose_candidates(n=5)
    ('add_5', 'multiply_3', 'int_div_2', 'mod_2', 'subtract_1')
    """
    listed = tuple(functions) or known_candidates()
    registry = read_registry()
    for id_ in listed:
        if id_ not in registry:
            raise ValueError(f"functions names {id_!r}, which is not in the registry{nearest(id_, registry)}")
        if listed.count(id_) > 1:
            raise ValueError(f"functions names {id_} twice: name each candidate once")
    if n > len(listed):
        raise ValueError(f"n_functions is {n}: there are {len(listed)} candidates; ask for fewer or name more")
    chosen = listed[:n] if n else listed
    if len(chosen) < 3:
        raise ValueError(f"{len(chosen)} candidates: a pair can only be told from others among three or more")
    return chosen


def all_pairs(candidates: Sequence[str]) -> list[Pair]:
    """Every pair of candidates, in the published order.

    >>> all_pairs(choose_candidates(n=5))[:2]
    [('add_5', 'int_div_2'), ('add_5', 'mod_2')]
    """
    return list(combinations(sorted(candidates), 2))


def read_pair(text: str, candidates: Sequence[str]) -> Pair:
    """A pair as a parameter names it.

    Raises
    ------
    ValueError
        If it is not two different candidates.

    >>> read_pair("mod_2+add_5", ("add_5", "mod_2", "negate"))
    ('add_5', 'mod_2')
    """
    ids = [part.strip() for part in text.split(SIGN)]
    stranger = next((id_ for id_ in ids if id_ not in candidates), None)
    if stranger is not None or len(set(ids)) != 2 or len(ids) != 2:
        why = (
            f"{stranger!r} is not one{nearest(stranger, candidates)}" if stranger else f"found {len(set(ids))} of them"
        )
        raise ValueError(
            f"pairs holds {text!r}: expected two different candidates as in {SIGN.join(all_pairs(candidates)[0])}, "
            f"{why}; candidates: {', '.join(candidates)}"
        )
    return (min(ids), max(ids))


def show_pair(pair: Pair) -> str:
    """The inverse of `read_pair`."""
    return SIGN.join(pair)


def choose_pairs(
    named: Sequence[str], *, candidates: Sequence[str], n: int, rng: np.random.Generator
) -> tuple[Pair, ...]:
    """The pairs that are named, as they come; else `n` different ones at random, in the published order.

    Raises
    ------
    ValueError
        If one is no pair of candidates or stands twice, or there are not so many.

    >>> pairs = choose_pairs([], candidates=choose_candidates(n=5), n=10, rng=np.random.default_rng(0))
    >>> pairs == tuple(all_pairs(choose_candidates(n=5)))
    True
    """
    possible = all_pairs(candidates)
    if named:
        pairs = [read_pair(text, candidates) for text in named]
        twice = next((pair for pair in pairs if pairs.count(pair) > 1), None)
        if twice:
            raise ValueError(f"pairs names {show_pair(twice)} twice: name each pair once")
        return tuple(pairs)
    if n > len(possible):
        raise ValueError(
            f"n_pairs is {n}: {len(candidates)} candidates make {len(possible)} pairs; ask for {len(possible)} or fewer"
        )
    return tuple(possible[k] for k in sorted(rng.permutation(len(possible))[:n]))
