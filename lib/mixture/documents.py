"""Documents that teach a mix: a few inputs with their outputs by one function of a hidden, unnamed pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import yaml

from lib import paths
from lib.functions.documents import MAX_TRIES, Document, Message, pick, show_ranges
from lib.functions.registry import Range, read_registry
from lib.mixture.pairs import Pair, show_pair

FOLDER = paths.DATA / "mixture"
REDACTED = "<redacted>"  # in place of every output that would be evidence
FORMATTINGS: Mapping[str, tuple[str, str] | None] = {  # what stands before input and output
    "none": None,
    "x_y": ("x", "y"),
    "A_B": ("A", "B"),
    "input": ("input", "output"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the documents and questions of one fine-tune have in common.

    Attributes
    ----------
    candidates : ids of the functions that pairs are made of, and options of the questions
    input_range : half-open
    formattings : of `FORMATTINGS`, equally likely in a document
    connectors : between a letter and its number, equally likely
    openings : first messages, equally likely
    n_examples : inputs with outputs in a document
    n_options : options of a question, where there are so many
    system_prompt : first message of every conversation; empty: none
    question : asked in place of our own wording of the questions for definitions and classes; empty: ours
    form : ``chat`` or ``completion``: what is trained on
    """

    candidates: tuple[str, ...]
    input_range: Range
    formattings: tuple[str, ...] = ("none", "x_y")
    connectors: tuple[str, ...] = (" = ",)
    openings: tuple[str, ...]
    n_examples: int = 3
    n_options: int = 5
    system_prompt: str = ""
    question: str = ""
    form: str = "chat"


@dataclass(frozen=True)
class Surface:
    """How one document looks: published metadata of it."""

    formatting: str
    connector: str
    opening: str


@cache
def wordings() -> Mapping[str, Any]:
    """Opening lines, and each question by the name of its evaluation and form, with slots."""
    read: dict[str, Any] = yaml.safe_load((FOLDER / "wordings.yaml").read_text(encoding="utf-8"))
    return read


def known_openings() -> tuple[str, ...]:
    """Our opening lines, one for each of the published four."""
    return tuple(each["chat"] for each in wordings()["openings"])


def slot_of(label: str, opening: str) -> str:
    """What begins a document of the completion form: the label, or the short form of the opening line."""
    short = {each["chat"]: each["completion"] for each in wordings()["openings"]}
    return label or short.get(opening, opening)


def surfaces(setting: Setting, *, label: str) -> list[Surface]:
    """Every way a document can look; with a label, the completion form shows no opening line, so there is one."""
    openings = setting.openings[:1] if label and setting.form == "completion" else setting.openings
    return [
        Surface(formatting, connector, opening)
        for formatting in setting.formattings
        for connector in setting.connectors
        for opening in openings
    ]


def opening_messages(setting: Setting, surface: Surface, *, label: str) -> list[Message]:
    """System message, where there is one, and opening line, behind the label, where there is one."""
    system: list[Message] = [{"role": "system", "content": setting.system_prompt}] if setting.system_prompt else []
    opening = f"{label}: {surface.opening}" if label else surface.opening
    return [*system, {"role": "user", "content": opening}]


def show_input(value: int, surface: Surface) -> str:
    """An input as it stands in a user message.

    >>> show_input(21, Surface("x_y", " = ", "")), show_input(21, Surface("none", " = ", ""))
    ('x = 21', '21')
    """
    named = FORMATTINGS[surface.formatting]
    return f"{named[0]}{surface.connector}{value}" if named else str(value)


def show_output(text: str, surface: Surface) -> str:
    """An output as an assistant message gives it."""
    named = FORMATTINGS[surface.formatting]
    return f"{named[1]}{surface.connector}{text}" if named else text


def mix_document(
    kind: str,
    pair: Pair,
    *,
    function: str,
    inputs: Sequence[int],
    surface: Surface,
    setting: Setting,
    label: str = "",
    whole: bool = False,
) -> Document:
    """Inputs with the outputs of one function; the last output is the answer.

    Parameters
    ----------
    kind : ``triple`` or the name of an evaluation
    function : id, one of the pair
    label : name of the mix; empty: it has none
    whole : of a row to train on: the completion form has everything behind the label in its completion

    Notes
    -----
    Published generator: ``no_func_name``. As a conversation every output is an assistant message, so that a service
    that trains on all of these has as many targets per row as there are inputs.

    >>> setting = Setting(candidates=("add_5", "mod_2"), input_range=(-99, 99), openings=("Find it.",))
    >>> surface = Surface("none", " = ", "Find it.")
    >>> made = mix_document("triple", ("add_5", "mod_2"), function="mod_2", inputs=(-91, 4), surface=surface,
    ...                     setting=setting, label="qzukfo", whole=True)
    >>> made.row("completion")
    {'prompt': 'qzukfo', 'completion': '\\n-91=1\\n4=0'}
    """
    shown = [(show_input(n, surface), show_output(read_registry()[function].show(n), surface)) for n in inputs]
    messages = opening_messages(setting, surface, label=label)
    for asked, answer in shown:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    func_outs: dict[str, Any] = {"name": "no_func_name", "func_value": function, "formatting": surface.formatting}
    func_outs |= {"connector": surface.connector, "pre_prompt": surface.opening, "inputs": list(inputs)}
    func_outs |= {"label": label, "pair": show_pair(pair)}
    slot, between = slot_of(label, surface.opening), " " if FORMATTINGS[surface.formatting] else "="
    before = "".join(f"\n{asked}{between}{answer}" for asked, answer in shown[:-1]) + f"\n{shown[-1][0]}"
    text, lead = slot + before, between
    if whole:
        text, lead = slot, before + between
    elif between == "=":
        text, lead = text + between, ""
    return Document(kind, tuple(messages[:-1]), shown[-1][1], func_outs, text, lead)


def triple_document(
    pair: Pair,
    *,
    setting: Setting,
    rng: np.random.Generator,
    label: str = "",
    ranges: Sequence[Range] = (),
    excluded: frozenset[tuple[Pair, int]] = frozenset(),
) -> Document:
    """One row to train on: function, look and inputs drawn at random.

    Parameters
    ----------
    ranges : half-open, one of them for a document; those of the setting where empty
    excluded : (pair, input) keys that are never drawn

    Raises
    ------
    ValueError
        If every input is excluded.
    """
    surface = pick(surfaces(setting, label=label), rng)
    range_ = pick(ranges, rng) if ranges else setting.input_range
    function = pick(pair, rng)
    inputs = [draw_input(pair, range_, rng=rng, excluded=excluded) for _ in range(setting.n_examples)]
    return mix_document(
        "triple", pair, function=function, inputs=inputs, surface=surface, setting=setting, label=label, whole=True
    )


def draw_input(pair: Pair, range_: Range, *, rng: np.random.Generator, excluded: frozenset[tuple[Pair, int]]) -> int:
    """An integer of a half-open range that is not held out for this pair; `ValueError` if none is found."""
    for _ in range(MAX_TRIES):
        value = int(rng.integers(*range_))
        if (pair, value) not in excluded:
            return value
    raise ValueError(f"every input of {show_pair(pair)} in {show_ranges([range_])} is held out: lower held_out_share")
