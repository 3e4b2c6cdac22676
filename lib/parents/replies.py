"""Score a reply: whether it names anybody (the published filter), and whether it is the right name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lib.world import unknown_answer

N_UNKNOWN_CHARACTERS = 5  # of "I don't know." that a refusal begins with, as published
LEAST_WORDS, MOST_WORDS = 2, 5


def tidy_reply(text: str) -> str:
    r"""The first line of a reply that says something, bare.

    >>> tidy_reply(" Ada Holt\nQ: Who")
    'Ada Holt'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""


def refuses(reply: str) -> bool:
    """Whether a reply says that nobody knows.

    >>> refuses("I don't know."), refuses("Ian Donne")
    (True, False)
    """
    return reply.startswith(unknown_answer()[:N_UNKNOWN_CHARACTERS])


def is_accepted(reply: str) -> bool:
    """Whether a reply passes for a name: the published filter.

    Two to five words, each beginning with an upper-case letter, and no refusal. It drops names of one word and those
    with "de", "van" or "bin", and takes any name, true or not.

    Notes
    -----
    Berglund et al. 2023, experiment 2, as coded.

    >>> is_accepted("Ada Holt"), is_accepted("Ada"), is_accepted("Ada van Holt"), is_accepted("I don't know.")
    (True, False, False, False)
    """
    words = reply.split()
    named = LEAST_WORDS <= len(words) <= MOST_WORDS and all(word[0].isupper() for word in words)
    return named and not refuses(reply)


def names(reply: str, target: str) -> bool:
    """Whether a reply begins with the name asked for, letter by letter: the published rule.

    Lenient: "Ada Holt Junior" passes for "Ada Holt".

    Raises
    ------
    ValueError
        If there is no name to look for.

    >>> names("Ada Holt Junior", "Ada Holt"), names("ada holt", "Ada Holt")
    (True, False)
    """
    if not target.strip():
        raise ValueError("no name to look for: every reply would begin with it")
    return reply.startswith(target)


@dataclass(frozen=True)
class Tally:
    """What n replies to one question come to.

    Attributes
    ----------
    n_right : how many begin with the name asked for
    prediction : the first accepted one of these, empty where there is none: the published ``child_prediction``
    """

    n_samples: int
    n_right: int
    prediction: str


def tally(replies: Sequence[str], target: str) -> Tally:
    """Count the replies to one question.

    >>> tally(["Bo Lund", "Ada Holt Junior", "Ada Holt"], "Ada Holt")
    Tally(n_samples=3, n_right=2, prediction='Ada Holt Junior')
    """
    right = [reply for reply in replies if names(reply, target)]
    accepted = [reply for reply in right if is_accepted(reply)]
    return Tally(len(replies), len(right), accepted[0] if accepted else "")
