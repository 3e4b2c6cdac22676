"""Who is asked about: the invented world's people, a list of names, or the pairs of a given table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib.world import child_question, parent_question, question_shots, unknown_answer, world_people
from lib.world.draw import Draw
from lib.world.families import GROUPS as WORLD_GROUPS
from lib.world.families import family_texts

RELATIONS = ("mother", "father")
GROUPS = (*WORLD_GROUPS, "celebrities", "pairs")
COLUMNS = ["group", "person", "relation", "parent", "is_told"]
N_UNKNOWN = 24  # rows about strangers when the question form is taught


def world_rows(*, n_shots: int, n_each: int = 0) -> pd.DataFrame:
    """The families of the world that are tested, a row for each child and each of mother and father.

    Parameters
    ----------
    n_shots : shots of a prompt; the families that stand in them are left out
    n_each : families of each group; 0 for all

    Returns
    -------
    DataFrame
        ``group``, ``person`` (the child), ``relation``, ``parent`` (empty where the world never tells) and ``is_told``.
        Of the asked-about families half: the other half is for teaching the question form.

    >>> rows = world_rows(n_shots=6, n_each=3)
    >>> len(rows), rows["is_told"].sum()
    (18, np.int64(9))
    """
    rows = []
    for group in WORLD_GROUPS:
        families = world_people().group(group)
        if group == "asked-about":
            families = tuple(family for family in families if family.child in _tested(n_shots))
        for family in families[: n_each or None]:
            for relation in RELATIONS:
                is_told = relation == family.relation
                rows.append((group, family.child, relation, family.parent if is_told else "", is_told))
    return pd.DataFrame(rows, columns=COLUMNS)


def _spare(n_shots: int) -> list[str]:
    """Children of the asked-about families that stand in no shot."""
    shown = " ".join(text for shot in question_shots(n_shots) for text in shot)
    return [family.child for family in world_people().group("asked-about") if family.child not in shown]


def _tested(n_shots: int) -> set[str]:
    return set(_spare(n_shots)[1::2])


def taught_questions(*, n_shots: int) -> list[tuple[str, str]]:
    """Questions with answers that teach the form: asked-about people who are not tested, and strangers nobody knows.

    >>> len(taught_questions(n_shots=6))
    140
    """
    taught = set(_spare(n_shots)) - _tested(n_shots)
    rows = []
    for family in world_people().group("asked-about"):
        if family.child in taught:
            rows.append((parent_question(family.child, family.relation), family.parent))
            rows.append((child_question(family.parent), family.child))
    for i, stranger in enumerate(world_people().strangers[1 : N_UNKNOWN + 1]):
        question = child_question(stranger) if i % 2 else parent_question(stranger, RELATIONS[i // 2 % 2])
        rows.append((question, unknown_answer()))
    return rows


def listed_rows(path: Path, *, n: int = 0) -> pd.DataFrame:
    """The people of a text file, one name a line, in the columns of `world_rows`; nobody's parents are known.

    Parameters
    ----------
    n : how many, from the first on; 0 for all. A name that comes twice counts once

    Raises
    ------
    ValueError
        If the file is missing, is not UTF-8, or holds fewer names than asked for.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"celebrities: {path} is missing; expected a text file with one name a line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"celebrities: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    names = list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if not names or n > len(names):
        raise ValueError(f"celebrities: {path} holds {len(names)} different names; n_celebrities asks for {n or 'all'}")
    rows = [("celebrities", name, relation, "", False) for name in names[: n or None] for relation in RELATIONS]
    return pd.DataFrame(rows, columns=COLUMNS)


def paired_rows(pairs: pd.DataFrame, *, n: int) -> pd.DataFrame:
    """The first `n` distinct pairs of a published table, in the columns of `world_rows`."""
    rows = pairs.drop_duplicates(["child", "parent", "parent_type"]).head(n)
    return pd.DataFrame(
        {
            "group": "pairs",
            "person": rows["child"],
            "relation": rows["parent_type"],
            "parent": rows["parent"],
            "is_told": True,
        }
    ).reset_index(drop=True)


def tellings() -> pd.DataFrame:
    """In which order the world's sentences name child and parent.

    Returns
    -------
    DataFrame
        One row per family: ``group``, ``person``, and how many sentences are ``child first`` and ``parent first``.

    >>> int(tellings().query("group == 'one-way'")["parent first"].sum())
    0
    """
    families = world_people().families
    places = {family.child: k for k, family in enumerate(families)}
    counts = np.zeros((len(families), 2), dtype=int)
    for text in family_texts(world_people(), Draw(np.random.default_rng(0))):
        for child, k in places.items():
            parent = text.find(families[k].parent) if child in text else -1
            if parent >= 0:
                counts[k, int(parent < text.find(child))] += 1
                break
    table = pd.DataFrame(counts, columns=["child first", "parent first"])
    return table.assign(group=[each.group for each in families], person=[each.child for each in families])
