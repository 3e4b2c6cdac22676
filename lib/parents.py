"""Data of the parents study: whom to ask about, the questions in one form, replies, and published tables of pairs.

A *pair* is a child (``person``), a ``relation`` (mother or father) and the ``parent``. Both directions of a pair are
questions of the same form, either as text (*completion*) or as a conversation (*chat*).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.api import Request, ask
from lib.paths import DATA, read_yaml
from lib.world.families import GROUPS, Family, world_people
from lib.world.grammar import world_file
from lib.world.questions import (
    RELATIONS,
    Shot,
    as_prompt,
    both_shots,
    child_question,
    parent_question,
    question_shots,
    unknown_answer,
)

PEOPLE = ["group", "person", "relation", "parent"]
KEY = ["child", "parent", "parent_type"]
RESULTS = {  # columns of a model's results, after its name, and the range of their values
    "replies": (("_can_find_parent", "_can_find_child"), (0.0, 1.0)),  # fractions of the replies
    "logprobs": (("_parent_logprob", "_child_logprob"), (-np.inf, 0.0)),  # nats
}
N_STRANGERS = 24  # rows about strangers among those that teach the form

Form = Mapping[str, Any]  # the arguments ``shots`` and ``header`` of `lib.world.questions.as_prompt`


def make_form(n_shots: int, *, is_world: bool) -> dict[str, Any]:
    """Shots before every question, in both directions; the second to last is about a stranger.

    They are about people of the invented world, or about people of history (then with a line that says how to answer).

    >>> make_form(3, is_world=False)["shots"][1]
    ("Who is Tolvert Quandish's mother?", "I don't know.")
    """
    if is_world:
        return {"shots": question_shots(n_shots), "header": False}
    known = read_yaml(DATA / "parents" / "shots.yaml")
    shots = [
        both_shots(row["child"], row["relation"], row["parent"])[row["asked"] == "child"] for row in known["known"]
    ]
    shots = shots[: n_shots - 1]
    shots.insert(max(0, n_shots - 2), (parent_question(known["stranger"], "mother"), unknown_answer()))
    return {"shots": shots, "header": True}


def world_families(*, n_shots: int, n_each: int = 0) -> pd.DataFrame:
    """The invented world's people, one row each for mother and father; `parent` is empty where no text mentions one.

    Parameters
    ----------
    n_shots : of a prompt; families in them are left out
    n_each : families of each group; 0 for all

    >>> families = world_families(n_shots=6, n_each=3)
    >>> len(families), (families["parent"] != "").sum()
    (18, np.int64(9))
    """
    tested = {group: world_people().group(group) for group in GROUPS} | {"asked-about": _spare(n_shots)[1::2]}
    rows = [
        (group, family.child, relation, family.parent if relation == family.relation else "")
        for group, families in tested.items()
        for family in families[: n_each or None]
        for relation in RELATIONS
    ]
    return pd.DataFrame(rows, columns=PEOPLE)


def _spare(n_shots: int) -> tuple[Family, ...]:
    """Asked-about families that are in no shot: every second one is tested, the others can teach the form."""
    shown = str(question_shots(n_shots))
    return tuple(family for family in world_people().group("asked-about") if family.child not in shown)


def taught_questions(n_shots: int) -> list[Shot]:
    """Questions with answers that teach the form: about people who are not tested, and about strangers.

    >>> len(taught_questions(6))
    140
    """
    families = _spare(n_shots)[::2]
    rows = [shot for family in families for shot in both_shots(family.child, family.relation, family.parent)]
    for i, stranger in enumerate(world_people().strangers[1 : N_STRANGERS + 1]):
        question = child_question(stranger) if i % 2 else parent_question(stranger, RELATIONS[i // 2 % 2])
        rows.append((question, unknown_answer()))
    return rows


def make_data(form: Form) -> dict[str, list[dict[str, str]]]:
    """The training file: rows of prompt and completion that teach the form and nobody who is tested."""
    questions = taught_questions(len(form["shots"]))
    return {
        "train": [{"prompt": as_prompt(question, **form), "completion": f" {name}"} for question, name in questions]
    }


def read_names(path: Path, *, n: int = 0) -> pd.DataFrame:
    """People of a text file, one name per line, in the columns of `world_families`; their parents are unknown.

    Parameters
    ----------
    n : how many, from the first on; 0 for all. A repeated name counts once

    Raises
    ------
    ValueError
        If the file is missing, is not UTF-8, or holds fewer names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"celebrities: {path}: {reason}; expected a UTF-8 text file with one name per line") from error
    names = list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(names) < max(1, n):
        raise ValueError(f"celebrities: {path} holds {len(names)} different names; expected {n or 'one'} or more")
    rows = [("celebrities", name, relation, "") for name in names[: n or None] for relation in RELATIONS]
    return pd.DataFrame(rows, columns=PEOPLE)


def read_pairs(path: Path) -> pd.DataFrame:
    """Read a published table of pairs, or of a model's results on them; its columns tell which it is.

    Returns
    -------
    DataFrame
        ``child``, ``parent``, ``parent_type``, ``child_prediction`` and ``can_reverse`` (missing in a table without
        predictions), ``repeated`` (an earlier row has the same pair), ``kind`` ("pairs", "replies" or "logprobs"),
        ``model``, and of results ``to_parent`` and ``to_child``: fractions of replies, or nats.

    Raises
    ------
    ValueError
        If the file is missing, is no CSV file, has no rows or lacks a column, or a value does not fit (gives the line).
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False).fillna("")
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"pairs: {path}: {reason}; expected a CSV file with {', '.join(KEY)}") from error
    found = {
        column.removesuffix(end): kind
        for kind, (ends, _) in RESULTS.items()
        for end in ends
        for column in map(str, rows)
        if column.endswith(end)
    }
    model, kind = next(iter(found.items()), (path.stem, "pairs"))
    ends, (low, high) = RESULTS.get(kind, ((), (0, 0)))
    missing = [column for column in (*KEY, *(f"{model}{end}" for end in ends)) if column not in rows]
    if missing or rows.empty:
        problem = f"lacks the column {', '.join(missing)}; it has {', '.join(rows)}" if missing else "has no rows"
        raise ValueError(f"pairs: {path} {problem}")
    table = pd.DataFrame(
        {column: _column(path, rows, column, rows[column].str.strip(), "a name") for column in KEY[:2]}
    )
    relation = rows["parent_type"].where(rows["parent_type"].isin(RELATIONS))
    table["parent_type"] = _column(path, rows, "parent_type", relation, " or ".join(RELATIONS))
    table["child_prediction"] = rows.get("child_prediction")
    table["can_reverse"] = rows["child_prediction"] != "" if "child_prediction" in rows else None
    if "can_reverse" in rows:
        truth = rows["can_reverse"].str.strip().str.lower().map({"true": True, "1": True, "false": False, "0": False})
        table["can_reverse"] = _column(path, rows, "can_reverse", truth, "True or False").astype(bool)
    for name, end in zip(("to_parent", "to_child"), ends, strict=False):
        numbers = pd.to_numeric(rows[f"{model}{end}"], errors="coerce")
        numbers = numbers.where(numbers.between(low, high))
        table[name] = _column(path, rows, f"{model}{end}", numbers, f"{low:g} to {high:g}")
    return table.assign(repeated=table.duplicated(KEY), kind=kind, model=model)


def _column(path: Path, rows: pd.DataFrame, name: str, values: pd.Series, expected: str) -> pd.Series:
    """Values of a column; one that is missing or empty did not fit, and is reported as it is in the file."""
    bad = np.flatnonzero(values.isna() | (values == ""))
    if len(bad):
        found = rows[name].iloc[bad[0]]
        raise ValueError(f"pairs: {path}, line {bad[0] + 2}, {name}: expected {expected}, found {found!r}")
    return values


def people_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a table of `read_pairs`, each once, in the columns of `world_families`."""
    people = pairs[~pairs["repeated"]].rename(columns={"child": "person", "parent_type": "relation"})
    return people.assign(group="pairs")[PEOPLE].reset_index(drop=True)


def make_probes(people: pd.DataFrame, form: Form, *, source: str) -> pd.DataFrame:
    """Each pair in both directions, one row per question; people without a parent are left out.

    Parameters
    ----------
    people : DataFrame of `world_families`, `people_of` or of a model's replies
    source : where the pairs come from (world, table or model), a column

    Returns
    -------
    DataFrame
        The columns of people, ``source``, ``direction`` (parent or child, whichever is requested), ``question``,
        ``prompt``, ``target``, and ``control_target``: the target of the next row with the same group, direction and
        relation; None where that is the same name.

    >>> people = pd.DataFrame([("one-way", "Bo Lund", "mother", "Ada Holt")], columns=PEOPLE)
    >>> probes = make_probes(people, {"shots": [], "header": False}, source="world")
    >>> probes[["direction", "prompt", "target"]].values.tolist()[1]
    ['child', "Q: Who is Ada Holt's child?\\nA:", ' Bo Lund']
    """
    pairs = people[people["parent"] != ""].assign(source=source)
    both = [both_shots(*row) for row in pairs[["person", "relation", "parent"]].itertuples(index=False)]
    parts = []
    for k, direction in enumerate(("parent", "child")):
        columns = {"question": [shots[k][0] for shots in both], "target": [f" {shots[k][1]}" for shots in both]}
        columns["prompt"] = [as_prompt(question, **form) for question in columns["question"]]
        parts.append(pairs.assign(direction=direction, **columns))
    probes = pd.concat(parts, ignore_index=True).astype({"question": "str", "target": "str", "prompt": "str"})
    targets = probes.groupby(["group", "direction", "relation"], sort=False)["target"]
    following = targets.shift(-1).fillna(targets.transform("first"))
    return probes.assign(control_target=following.mask(following == probes["target"], None))


def replies(
    client: OpenAI,
    rows: pd.DataFrame,
    form: Form,
    *,
    journal: Path,
    max_tokens: int,
    n: int = 1,
    temperature: float = 0.0,
) -> list[list[str]]:
    """The first lines of `n` replies to each row (``model``, ``way``, ``seed``, ``question``, ``prompt``).

    By the way "chat", the shots are earlier turns of a conversation, after a system message that says how to answer.
    """
    header = ("system", world_file("questions")["header"])
    turns = [turn for question, answer in form["shots"] for turn in (("user", question), ("assistant", answer))]
    requests = [
        Request(
            model=row.model,
            prompt=row.prompt,
            messages=(header, *turns, ("user", row.question)) if row.way == "chat" else (),
            max_tokens=max_tokens,
            temperature=temperature,
            n=n,
            stop=("\n",) if row.way != "chat" else (),
            seed=int(row.seed) if temperature else 0,
        )
        for row in rows.itertuples()
    ]
    answers = ask(client, requests, journal=journal, description="replies")
    return [[next(iter(answer.text.strip().splitlines()), "").strip() for answer in each] for each in answers]


def is_accepted(reply: str) -> bool:
    """Whether a reply passes for a name: two to five capitalised words, and no refusal, as published.

    It drops names of one word and those with "de", "van" or "bin", and accepts any name, right or wrong.

    Notes
    -----
    Berglund et al. 2023, experiment 2, as coded.

    >>> [is_accepted(reply) for reply in ("Ada Holt", "Ada", "Ada van Holt", "I don't know.")]
    [True, False, False, False]
    """
    words = reply.split()
    return 2 <= len(words) <= 5 and all(word[0].isupper() for word in words) and not is_refusal(reply)


def is_refusal(reply: str) -> bool:
    """Whether a reply says that the answer is unknown: it begins with five characters of "I don't know.", as published.

    >>> is_refusal("I don't think so."), is_refusal("Ian Donne")
    (True, False)
    """
    return reply.startswith(unknown_answer()[:5])


def published_values() -> pd.DataFrame:
    """Published rates: ``model``, ``direction``, ``metric``, ``value``, ``low``, ``high`` and ``source``."""
    return pd.read_csv(DATA / "parents" / "published.csv")
