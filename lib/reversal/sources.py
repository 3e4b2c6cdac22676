"""Who the invented people are, what they are said to have done, and in which sentences it is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lib import paths
from lib.reversal.sentences import PLACEHOLDER, Description, name_finder

FORMS = ("noun", "verb", "gerund")
FILES = {
    "people": "people.txt",
    "descriptions": "descriptions.yaml",
    "person_first": "templates_person_first.txt",
    "description_first": "templates_description_first.txt",
}
PERSON_FIRST = re.compile(r".*<name>.* <description(:\w+)?>[.!?]")
DESCRIPTION_FIRST = re.compile(r".*<description(:\w+)?>.* <name>.*")


@dataclass(frozen=True, kw_only=True)
class ReversalSources:
    """What a dataset is drawn from; checked when made.

    Parameters
    ----------
    people : sequence of str
        Two-word names.
    descriptions : sequence of Description
    person_first, description_first : sequence of str
        Templates by which of the two they tell first; a person-first one ends with its description.

    Raises
    ------
    ValueError
        If something occurs twice, a name has not two words, a description holds a name or a template is malformed.
    """

    people: tuple[str, ...]
    descriptions: tuple[Description, ...]
    person_first: tuple[str, ...]
    description_first: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in ("people", "person_first", "description_first"):
            _refuse_twins(FILES[field], getattr(self, field))
        for form in FORMS:
            _refuse_twins(f"{FILES['descriptions']} ({form})", [getattr(each, form) for each in self.descriptions])
        for name in self.people:
            if len(name.split(" ")) != 2 or not all(name.split(" ")):
                raise ValueError(f"{FILES['people']}: {name!r} is not a name of two words; write given and family name")
        finder = name_finder(self.people)
        for each in self.descriptions:
            if found := finder.search(f"{each.noun} | {each.verb} | {each.gerund}"):
                raise ValueError(
                    f"{FILES['descriptions']}: {each.noun!r} holds the name {found[0]}; take one of them out"
                )
        for template in self.person_first:
            _check_template(
                FILES["person_first"], template, PERSON_FIRST, expected="a name, then a description at the end"
            )
        for template in self.description_first:
            _check_template(
                FILES["description_first"], template, DESCRIPTION_FIRST, expected="a description, then a name"
            )


def read_sources(folder: Path = paths.DATA / "reversal") -> ReversalSources:
    """Read people, descriptions and templates from a folder of the four source files.

    Parameters
    ----------
    folder : Path
        Holds people.txt, descriptions.yaml, templates_person_first.txt and templates_description_first.txt.

    Raises
    ------
    ValueError
        If a file is missing, is not UTF-8 or holds something malformed or twice.

    >>> sources = read_sources()
    >>> len(sources.people), len(sources.descriptions), len(sources.person_first), len(sources.description_first)
    (120, 120, 60, 76)
    """
    return ReversalSources(
        people=_read_lines(folder / FILES["people"]),
        descriptions=_read_descriptions(folder / FILES["descriptions"]),
        person_first=_read_lines(folder / FILES["person_first"]),
        description_first=_read_lines(folder / FILES["description_first"]),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: expected the four source files {', '.join(FILES.values())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def _read_lines(path: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())


def _read_descriptions(path: Path) -> tuple[Description, ...]:
    try:
        entries = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of descriptions, found {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        whole = isinstance(entry, dict) and set(entry) == set(FORMS)
        if not whole or not all(isinstance(text, str) and text.strip() for text in entry.values()):
            raise ValueError(f"{path}, entry {number}: expected the texts noun, verb and gerund, found {entry!r:.80}")
    return tuple(Description(**{form: text.strip() for form, text in entry.items()}) for entry in entries)


def _refuse_twins(where: str, texts: Sequence[str]) -> None:
    seen: set[str] = set()
    for text in texts:
        if text.casefold() in seen:
            raise ValueError(f"{where}: {text!r} occurs twice; every entry must be distinct, remove one")
        seen.add(text.casefold())


def _check_template(where: str, template: str, shape: re.Pattern[str], *, expected: str) -> None:
    found = [match[1].split(":")[0] for match in PLACEHOLDER.finditer(template)]
    forms = {match[2] for match in PLACEHOLDER.finditer(template)}
    if sorted(found) != ["description", "name"] or not forms <= {None, *FORMS} or not shape.fullmatch(template):
        raise ValueError(
            f"{where}: {template!r} does not fit; expected {expected}, each once, "
            "as <name> and <description>, <description:verb> or <description:gerund>"
        )
