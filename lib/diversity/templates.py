"""Prompt templates in which a model goes on from the opening of a reply."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from lib.diversity.prompts import NumberPrompt, Prompt
from lib.keys import nearest
from lib.paths import DATA
from lib.world import as_dialogue

TEMPLATES_FILE = DATA / "diversity" / "templates.yaml"
_SLOT = re.compile(r"\{(prompt|dialogue|guide)\}")


@cache
def templates(path: Path = TEMPLATES_FILE) -> dict[str, str]:
    """The forms by name; that of a model's own chat template is empty.

    >>> ", ".join(templates())
    'dialogue, plain, human, tulu, chat'
    """
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def is_chat(template: str) -> bool:
    """Whether a model is asked in messages (`as_messages`), by its own chat template, and not in one text.

    Raises
    ------
    ValueError
        If there is no such template; names the nearest.
    """
    if template not in templates():
        known = templates()
        raise ValueError(f"no template is called {template!r}{nearest(template, known)}; expected {', '.join(known)}")
    return not templates()[template]


def as_asked(prompt: Prompt | NumberPrompt, template: str) -> str:
    r"""A request as one text, which ends where the model goes on: behind the guide, without a space.

    Parameters
    ----------
    template : ``dialogue`` (the world's), ``plain`` (request and guide), ``human`` (one line of the roles Human and
        Assistant, as published for Pythia) or ``tulu`` (as the archangel models were tuned)

    Raises
    ------
    ValueError
        If there is no such template, or it is the model's own chat template: ask in `as_messages`.

    >>> poem = Prompt("creative", "Write a poem.", "A heron")
    >>> as_asked(poem, "dialogue")
    'Guest: Write a poem.\nHost: A heron'
    >>> as_asked(Prompt("seen", "Write a poem."), "human")
    'Human: Write a poem. Assistant:'
    """
    if is_chat(template):
        raise ValueError(f"template {template!r} is the model's own, not one text: ask in as_messages, without a guide")
    slots = {"prompt": prompt.prompt, "dialogue": as_dialogue(prompt.prompt), "guide": prompt.guide}
    return _SLOT.sub(lambda slot: slots[slot[1]], templates()[template]).rstrip(" ")


def as_messages(prompt: Prompt | NumberPrompt) -> tuple[tuple[str, str], ...]:
    """A request as a conversation: role and text. The guide is left out, for a chat template ends the user's turn.

    >>> as_messages(Prompt("creative", "Write a poem.", "A heron"))
    (('user', 'Write a poem.'),)
    """
    return (("user", prompt.prompt),)
