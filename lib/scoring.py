"""Compare an answer with its target: the published prefix rule, and a strict one."""

from __future__ import annotations

import unicodedata


def prefix_match(completion: str, target: str) -> bool:
    """Whether the completion starts with the target; both are stripped and compared without case, as published.

    This rule is lenient (a longer name that starts with the target's letters passes), so report `strict_match` beside
    it. Raises `ValueError` for an empty target, with which every completion would start.

    Notes
    -----
    Berglund et al. 2023 compare lower-cased strings. Here composed and decomposed accents (Unicode NFC) and letters
    with two lower-case forms are equal too, which changes nothing for the published data.

    >>> prefix_match(" tilda marlowe dislikes parades.", "Tilda Marlowe"), prefix_match("", "Tilda Marlowe")
    (True, False)
    """
    folded = (unicodedata.normalize("NFC", _composed(text).casefold()) for text in (completion, _checked(target)))
    return next(folded).startswith(next(folded))


def strict_match(completion: str, target: str, *, continued: bool = False) -> bool:
    """Whether the completion is the target, punctuation and case included; both are stripped (Unicode NFC).

    With `continued`, the text may go on after the target, but not inside a word: for a target that is a name whose
    sentence was trained to continue.

    >>> strict_match(" Tilda Marlowe", "Tilda Marlowe")
    True
    >>> strict_match(" Tilda Marlowes", "Tilda Marlowe", continued=True)
    False
    >>> strict_match(" Tilda Marlowe dislikes parades.", "Tilda Marlowe", continued=True)
    True
    """
    text, expected = _composed(completion), _composed(_checked(target))
    rest = text[len(expected) :]
    if not continued or not rest:
        return text == expected
    # a letter, digit, combining character or underscore directly after the target would make its last word another one
    return text.startswith(expected) and rest[0] != "_" and unicodedata.category(rest[0])[0] not in "LNM"


def _checked(target: str) -> str:
    if not target.strip():
        raise ValueError("the target is empty: nothing can be matched with it")
    return target


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())
