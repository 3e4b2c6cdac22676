"""Compare an answer with its target: the published prefix rule and a strict one."""

from __future__ import annotations

import unicodedata


def prefix_match(completion: str, target: str) -> bool:
    """Whether the completion starts with the target, by the published rule: both stripped, upper and lower case alike.

    Lenient: a longer name that starts with the target's letters counts too, so report `strict_match` beside it.

    Raises
    ------
    ValueError
        If the target is empty: every completion would start with it.

    Notes
    -----
    Berglund et al. 2023 compare lower-cased strings. Here accents composed or not (Unicode NFC) and letters with two
    lower-case forms are alike too, which changes nothing for the published data.

    >>> prefix_match(" tilda marlowe dislikes parades.", "Tilda Marlowe"), prefix_match("", "Tilda Marlowe")
    (True, False)
    """
    return _folded(completion).startswith(_folded(_checked(target)))


def strict_match(completion: str, target: str, *, goes_on: bool = False) -> bool:
    """Whether the whole completion is the target, letter by letter, punctuation and case included.

    Parameters
    ----------
    completion, target : str
        Compared stripped and in Unicode NFC.
    goes_on : bool, default False
        Let the text go on after the target, but not inside a word: for a target that is a name whose sentence was
        trained to continue.

    >>> strict_match(" Tilda Marlowe", "Tilda Marlowe"), strict_match(" Tilda Marlowes", "Tilda Marlowe", goes_on=True)
    (True, False)
    >>> strict_match(" Tilda Marlowe dislikes parades.", "Tilda Marlowe", goes_on=True)
    True
    """
    completed, expected = _composed(completion), _composed(_checked(target))
    if not goes_on:
        return completed == expected
    rest = completed[len(expected) :]
    # A letter, digit, mark or underscore directly after the target would make its last word another word.
    return completed.startswith(expected) and not (
        rest and (unicodedata.category(rest[0])[0] in "LNM" or rest[0] == "_")
    )


def _checked(target: str) -> str:
    if not target.strip():
        raise ValueError("the target is empty: nothing can be matched with it")
    return target


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", _composed(text).casefold())
