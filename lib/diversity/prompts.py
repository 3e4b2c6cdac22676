"""The prompts: requests, openings of the replies and accepted answers; and the forms in which they are put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, zip_longest
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from lib.diversity.measures import contains_answer
from lib.keys import nearest
from lib.paths import DATA, from_root, read_yaml
from lib.world.facts import factual_prompts
from lib.world.grammar import world_file
from lib.world.questions import as_dialogue

KINDS = ("creative", "factual", "seen")
WORLD, ENGLISH = "world", "english"
NUMBERS_FILE = DATA / "diversity" / "numbers.yaml"
Text = Annotated[str, Field(strict=True, pattern=r"^\S(.*\S)?$")]


class _Entry(BaseModel, extra="forbid"):
    prompt: Text
    guide: Text | Annotated[str, Field(max_length=0)] = ""
    answers: list[Text] = []


class _Choice(BaseModel, extra="forbid"):
    prompt: Text
    guide: Text
    options: Annotated[list[Text], Field(min_length=2)]


class _File(BaseModel, extra="forbid"):
    creative: list[_Entry] = []
    factual: list[_Entry] = []
    seen: list[_Entry] = []
    numbers: list[_Choice] = []


def read_prompts(
    source: str, *, n_prompts: int, kinds: Sequence[str] = KINDS, seen: Sequence[str] = ()
) -> pd.DataFrame:
    """The first prompts of each kind; a smaller `n_prompts` gives the first of them.

    Parameters
    ----------
    source : ``world`` (what the fork models know), ``english`` (``data/diversity/prompts.yaml``), or the path
        of a ``.yaml`` file of the same form
    kinds : of `KINDS`, in the order of the result
    seen : requests of the tuning data, in place of the source's own; those that are other prompts too are left out

    Returns
    -------
    DataFrame
        ``kind``, ``prompt``, ``guide`` (how the reply begins; empty where the model begins itself) and ``accepted``
        (list of answers that count as right; of factual prompts only).

    Raises
    ------
    ValueError
        For an unknown source or kind, too few prompts, a factual prompt without answers or that contains one, and a
        prompt that occurs twice.

    Notes
    -----
    Requests of the tuning data have no guide: its first words are what tuning changes most, and a guide would put them
    there for every stage alike.

    >>> read_prompts("world", n_prompts=1, seen=["Give me a name."])["guide"].tolist()
    ['A heron', 'The capital of Ostrel is', '']
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"no kind of prompt is called {unknown[0]!r}{nearest(unknown[0], KINDS)}: {', '.join(KINDS)}")
    table = pd.DataFrame(_rows(source), columns=["kind", "prompt", "guide", "accepted"])
    if twice := table.loc[table["prompt"].duplicated(), "prompt"].tolist():
        raise ValueError(f"{source} has the prompt {twice[0]!r:.60} twice: remove one of the two")
    if seen:
        others = set(table[table["kind"] != "seen"].groupby("kind").head(n_prompts)["prompt"])
        own = [["seen", text, "", []] for text in dict.fromkeys(seen) if text.strip() and text not in others]
        table = pd.concat([table[table["kind"] != "seen"], pd.DataFrame(own, columns=table.columns)], ignore_index=True)
    for kind in kinds:
        if (n := (table["kind"] == kind).sum()) < n_prompts:
            hint = "leave 'seen' out of kinds" if kind == "seen" else "add some"
            raise ValueError(f"{source} has {n} {kind} prompts, expected n_prompts = {n_prompts}: lower it, or {hint}")
    chosen = [table[table["kind"] == kind].head(n_prompts) for kind in kinds]
    return pd.concat(chosen or [table.head(0)], ignore_index=True)


def read_choices(source: str = ENGLISH) -> pd.DataFrame:
    """Requests for a random choice: ``prompt``, ``guide`` and ``options`` (list of the words that are a valid choice).

    Parameters
    ----------
    source : as for `read_prompts`; without ``numbers`` of its own it has those of ``data/diversity/numbers.yaml``

    >>> read_choices()["options"][1]
    ['one', 'two', 'three', 'four', 'five', 'six']
    """
    own = [] if source in (WORLD, ENGLISH) else _file(source).numbers
    return pd.DataFrame([each.model_dump() for each in own or _file(str(NUMBERS_FILE)).numbers])


def _world() -> _File:
    """The world's requests and facts, kinds of facts taken in turn, without those that contain their answer."""
    rest = iter(factual_prompts())
    by_kind = [list(islice(rest, len(kind["items"]))) for kind in world_file("facts").values()]
    facts = [fact for row in zip_longest(*by_kind) for fact in row if fact is not None]
    factual = [
        _Entry(prompt=fact.question, guide=fact.guide, answers=list(fact.answers))
        for fact in facts
        if not contains_answer(f"{fact.question} {fact.guide}", fact.answers)
    ]
    return _File(creative=world_file("open_prompts"), factual=factual)


def _rows(source: str) -> Iterator[list[Any]]:
    entries = _world() if source == WORLD else _file(source)
    for kind in KINDS:
        for number, entry in enumerate(getattr(entries, kind), start=1):
            where = f"{source}, {kind} {number} ({entry.prompt!r:.60})"
            if (kind == "factual") != bool(entry.answers):
                raise ValueError(f"{where} has {len(entry.answers)} answers: factual prompts have some, others none")
            if contains_answer(f"{entry.prompt} {entry.guide}", entry.answers):
                raise ValueError(f"{where} contains an accepted answer in its prompt or guide: {entry.answers}")
            yield [kind, entry.prompt, entry.guide, entry.answers]


def _file(source: str) -> _File:
    path = DATA / "diversity" / "prompts.yaml" if source == ENGLISH else from_root(source)
    if not (path.suffix in (".yaml", ".yml") and path.is_file()):
        near = nearest(source, (WORLD, ENGLISH))
        raise ValueError(f"no prompts {source!r}{near}: expected world, english or the path of a .yaml file of prompts")
    try:
        return _File.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ", ".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        raise ValueError(f"{path}, {where}: {first['msg']}, found {first['input']!r:.60}") from None


@cache
def templates() -> Mapping[str, str]:
    """The forms of a prompt, by name; that of a model's own chat template is empty.

    >>> ", ".join(templates())
    'dialogue, plain, human, tulu, chat'
    """
    return dict(read_yaml(DATA / "diversity" / "templates.yaml"))


def as_request(prompt: str, guide: str, template: str) -> str:
    r"""A request as one text that ends where the model goes on: behind the guide, without a space.

    >>> as_request("Write a poem.", "A heron", "dialogue")
    'Guest: Write a poem.\nHost: A heron'
    >>> as_request("Write a poem.", "", "human")
    'Human: Write a poem. Assistant:'
    """
    if not templates().get(template):
        texts = [name for name, form in templates().items() if form]
        raise ValueError(f"no template of one text is called {template!r}; expected {', '.join(texts)}")
    return templates()[template].format(prompt=prompt, guide=guide, dialogue=as_dialogue(prompt)).rstrip(" ")
