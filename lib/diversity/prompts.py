"""The prompts: requests, openings of the replies, and accepted answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import yaml

from lib.diversity.answers import holds_answer
from lib.keys import nearest
from lib.paths import DATA, ROOT, from_root
from lib.world import FactualPrompt, factual_prompts, open_prompts
from lib.world.grammar import read_yaml

KINDS = ("creative", "factual", "seen")
WORLD, ENGLISH = "world", "english"
PROMPTS_FILE = DATA / "diversity" / "prompts.yaml"
NUMBERS_FILE = DATA / "diversity" / "numbers.yaml"
NUMBERS = "numbers"


@dataclass(frozen=True)
class Prompt:
    """A request and the opening of a reply.

    Attributes
    ----------
    kind : one of `KINDS`
    prompt : the request
    guide : how the reply begins, without a space in front; empty where the model begins itself
    accepted : answers that count as right; empty but for factual prompts
    """

    kind: str
    prompt: str
    guide: str = ""
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class NumberPrompt:
    """A request for a random choice, the opening of a reply, and the words that are a valid choice (`options`)."""

    prompt: str
    guide: str
    options: tuple[str, ...]


def read_prompts(
    source: str, *, n_prompts: int, kinds: Sequence[str] = KINDS, seen: Sequence[str] = ()
) -> list[Prompt]:
    """The first prompts of each kind, in the order of `kinds`; a smaller `n_prompts` gives the first of them.

    Parameters
    ----------
    source : ``world`` (what the fork models can be asked), ``english`` (``data/diversity/prompts.yaml``), or the path
        of a ``.yaml`` file of the same form
    n_prompts : prompts of each kind
    kinds : of `KINDS`
    seen : requests of the tuning data, where the source has no seen prompts of its own (the world has none). Taken in
        order, each once, but for those that are creative or factual prompts at the same `n_prompts`

    Raises
    ------
    ValueError
        For an unknown source or kind, too few prompts, a factual prompt without answers, an accepted answer that stands
        in its own prompt or guide, and a prompt that stands twice.

    Notes
    -----
    The requests of the tuning data have no guide: each was tuned on with a whole reply, and the first words of the
    reply are what tuning changes most. A guide would put them there for every stage alike.

    >>> [prompt.guide for prompt in read_prompts("world", n_prompts=1, seen=["Give me a name."])]
    ['A heron', 'The capital of Ostrel is', '']
    """
    _check_asked(n_prompts, kinds)
    named, found = _world() if source == WORLD else _of_file(source)
    _refuse_twice(named, found)
    if seen:
        taken = {prompt.prompt for prompts in found.values() for prompt in prompts[:n_prompts]}
        found["seen"] = [Prompt("seen", text) for text in dict.fromkeys(seen) if text.strip() and text not in taken]
    for kind in kinds:
        if (n := len(found.get(kind, []))) < n_prompts:
            hint = "leave 'seen' out of kinds" if kind == "seen" else "add some"
            raise ValueError(f"{named} has {n} {kind} prompts, expected n_prompts = {n_prompts}: lower it, or {hint}")
    return [prompt for kind in kinds for prompt in found[kind][:n_prompts]]


def number_prompts(source: str = ENGLISH) -> list[NumberPrompt]:
    """Prompts that ask for a random choice: those of ``data/diversity/numbers.yaml``, which fit every model here.

    Parameters
    ----------
    source : as for `read_prompts`; a file of your own may hold ``numbers``, a list of prompt, guide and options

    Raises
    ------
    ValueError
        If the source is unknown, or an entry lacks options or names one twice.

    >>> number_prompts()[1].options
    ('one', 'two', 'three', 'four', 'five', 'six')
    """
    path = NUMBERS_FILE if source in (WORLD, ENGLISH) else _path(source)
    rows = _sections(path).get(NUMBERS)
    if not rows:
        path, rows = NUMBERS_FILE, _sections(NUMBERS_FILE)[NUMBERS]
    found = []
    for number, row in enumerate(rows, start=1):
        place = f"{_named(path)}, {NUMBERS} {number}"
        _check_fields(place, row, ("prompt", "guide", "options"))
        options = _texts(place, row, "options")
        if len(options) < 2 or len(set(options)) < len(options):
            raise ValueError(f"{place} has the options {list(options)}: expected two or more different words")
        found.append(NumberPrompt(_text(place, row, "prompt"), _text(place, row, "guide"), options))
    return found


def _check_asked(n_prompts: int, kinds: Sequence[str]) -> None:
    if n_prompts < 1:
        raise ValueError(f"n_prompts = {n_prompts}: expected 1 or more")
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"no kind of prompt is called {kind!r}{nearest(kind, KINDS)}; expected {', '.join(KINDS)}")
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds = {list(kinds)}: expected one or more of {', '.join(KINDS)}, each once")


def _world() -> tuple[str, dict[str, list[Prompt]]]:
    creative = [Prompt("creative", request.prompt, request.guide) for request in open_prompts()]
    factual = [Prompt("factual", fact.question, fact.guide, fact.answers) for fact in _facts_in_turn()]
    return "the world", {"creative": creative, "factual": factual}


def _facts_in_turn() -> list[FactualPrompt]:
    """The world's facts, its kinds taken in turn; none that tells its own answer."""
    rest = iter(factual_prompts())
    by_kind = [list(islice(rest, len(kind["items"]))) for kind in read_yaml("facts").values()]
    in_turn = [fact for row in zip_longest(*by_kind) for fact in row if fact is not None]
    return [fact for fact in in_turn if not holds_answer(f"{fact.question} {fact.guide}", fact.answers)]


def _path(source: str) -> Path:
    path = from_root(source)
    if not source.endswith((".yaml", ".yml")):
        near = nearest(source, (WORLD, ENGLISH))
        raise ValueError(f"no prompts are called {source!r}{near}; expected world, english or the path of a .yaml file")
    if not path.is_file():
        raise ValueError(f"there is no file {path}: expected world, english or the path of a .yaml file of prompts")
    return path


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _sections(path: Path) -> dict[str, list[Any]]:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{_named(path)} is not YAML: {' '.join(str(error).split())}") from error
    known = (*KINDS, NUMBERS)
    if not isinstance(told, dict) or not all(isinstance(rows, list) for rows in told.values()):
        raise ValueError(f"{_named(path)}: expected lists of prompts under {', '.join(known)}")
    for name in told:
        if name not in known:
            raise ValueError(f"{_named(path)} has {name!r}{nearest(str(name), known)}: expected {', '.join(known)}")
    return told


def _of_file(source: str) -> tuple[str, dict[str, list[Prompt]]]:
    path = PROMPTS_FILE if source == ENGLISH else _path(source)
    sections = _sections(path)
    found: dict[str, list[Prompt]] = {}
    for kind in KINDS:
        rows = sections.get(kind, [])
        found[kind] = [_prompt(f"{_named(path)}, {kind} {n}", kind, row) for n, row in enumerate(rows, start=1)]
    return _named(path), found


def _prompt(place: str, kind: str, row: Any) -> Prompt:
    _check_fields(place, row, ("prompt", "guide", "answers") if kind == "factual" else ("prompt", "guide"))
    prompt, guide = _text(place, row, "prompt"), _text(place, row, "guide", empty=True)
    if kind != "factual":
        return Prompt(kind, prompt, guide)
    answers = _texts(place, row, "answers")
    if not answers:
        raise ValueError(f"{place} ({prompt!r:.60}) has no answers: expected those that count as right")
    if holds_answer(f"{prompt} {guide}", answers):
        raise ValueError(f"{place} ({prompt!r:.60}) tells an accepted answer in its prompt or guide: {list(answers)}")
    return Prompt(kind, prompt, guide, answers)


def _check_fields(place: str, row: Any, known: Collection[str]) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{place} is {row!r:.60}: expected {{{', '.join(known)}}}")
    for field in row:
        if field not in known:
            raise ValueError(f"{place} has a field {field!r}{nearest(str(field), known)}: expected {', '.join(known)}")


def _text(place: str, row: Mapping[str, Any], field: str, *, empty: bool = False) -> str:
    told = row.get(field, "" if empty else None)
    if not isinstance(told, str) or told != told.strip() or not (told or empty):
        raise ValueError(f"{place} has the {field} {told!r:.60}: expected a text without spaces around it")
    return told


def _texts(place: str, row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    told = row.get(field) or []
    if not isinstance(told, list) or not all(isinstance(text, str) and text and text == text.strip() for text in told):
        raise ValueError(f"{place} has the {field} {told!r:.60}: expected a list of texts (put numbers in quotes)")
    return tuple(told)


def _refuse_twice(named: str, found: Mapping[str, Sequence[Prompt]]) -> None:
    first: dict[str, str] = {}
    for kind, prompts in found.items():
        for number, prompt in enumerate(prompts, start=1):
            place = f"{kind} {number}"
            if prompt.prompt in first:
                other = first[prompt.prompt]
                raise ValueError(f"{named}, {place} asks {prompt.prompt!r:.60}, as {other} does: drop one of the two")
            first[prompt.prompt] = place
