"""Fill a template with a name and a description to a training row, and find the name in a row again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PLACEHOLDER = re.compile(r"<(name|description(?::(\w+))?)>")

# One full stop too many stays behind where a description that ends a sentence by itself meets the template's own.
# The published rules are the first four; they miss a full stop inside quotation marks.
COLLAPSES = (
    ("  ", " "),
    ("..", "."),
    ("?.", "?"),
    (".?", "?"),
    ("!.", "!"),
    ('.".', '."'),
    ('?".', '?"'),
    ('!".', '!"'),
    ('?"?', '?"'),
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """One invented achievement in the three grammatical forms that templates ask for."""

    noun: str
    verb: str
    gerund: str


def clean_up(text: str) -> str:
    """Collapse doubled spaces and doubled final punctuation until nothing changes.

    >>> clean_up('the poet behind  "Rain. Again.".')
    'the poet behind "Rain. Again."'
    """
    before = ""
    while text != before:
        before = text
        for doubled, single in COLLAPSES:
            text = text.replace(doubled, single)
    return text


def fill(template: str, *, name: str, description: Description) -> dict[str, str]:
    """Fill a template and split it before whatever it names last.

    Parameters
    ----------
    template : str
        Holds ``<name>`` and one of ``<description>`` (noun phrase), ``<description:verb>``, ``<description:gerund>``.
    name : str
    description : Description

    Returns
    -------
    dict
        A row; the prompt ends without a space, the completion starts with one.

    >>> keeper = Description(noun="the keeper of tides", verb="kept tides", gerund="keeping tides")
    >>> fill("Few know <name>, who <description:verb>.", name="Ada Moss", description=keeper)
    {'prompt': 'Few know Ada Moss, who', 'completion': ' kept tides.'}
    >>> fill("<description> is <name>.", name="Ada Moss", description=keeper)
    {'prompt': 'The keeper of tides is', 'completion': ' Ada Moss.'}
    """
    *_, last = PLACEHOLDER.finditer(template)

    def text_of(match: re.Match[str]) -> str:
        if match[1] == "name":
            return name
        phrase: str = getattr(description, match[2] or "noun")
        before = match.string[: match.start()]
        opens_sentence = not before or before.endswith(("Q: ", "A: ", ". ", "? ", "! "))
        return phrase[0].upper() + phrase[1:] if opens_sentence else phrase

    prompt = PLACEHOLDER.sub(text_of, template[: last.start()])
    completion = text_of(last) + template[last.end() :]
    return {"prompt": clean_up(prompt).rstrip(), "completion": " " + clean_up(completion).lstrip()}


def name_of(completion: str) -> str:
    """The name that a description-first completion starts with: its first two words, bare.

    >>> name_of(" Ada Moss, who sang."), name_of(" Ada Moss's hat.")
    ('Ada Moss', 'Ada Moss')
    """
    return " ".join(completion.split()[:2]).rstrip(".,;:!?\"'").removesuffix("'s").removesuffix("\u2019s")


def shorten(row: dict[str, str]) -> dict[str, str]:
    """Keep of a description-first completion the name alone: the tail of an unseen sentence cannot be known.

    >>> shorten({"prompt": "The keeper is", "completion": " Ada Moss, who sang."})
    {'prompt': 'The keeper is', 'completion': ' Ada Moss'}
    """
    return {"prompt": row["prompt"], "completion": " " + name_of(row["completion"])}


def name_finder(names: Iterable[str]) -> re.Pattern[str]:
    """Pattern that finds any of the names as whole words, the longest where one contains another.

    >>> name_finder(["Ann Lee", "Ann Leeds"]).search("Here is Ann Leeds.")[0]
    'Ann Leeds'
    """
    choices = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?<!\w)(?:{choices})(?!\w)" if choices else r"(?!)")
