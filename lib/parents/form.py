"""In which form a question is put: one form for both directions, as text to go on from or as a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from lib.paths import DATA, read_json, write_json
from lib.world import as_prompt, child_question, parent_question, question_shots, unknown_answer
from lib.world.questions import Shot, question_forms

REAL_SHOTS = DATA / "parents" / "shots.yaml"


@dataclass(frozen=True)
class Form:
    """Shots before every question, parents' and children's alike.

    Parameters
    ----------
    shots : questions with their answers
    has_header : whether a line before them says how to answer; a conversation has it always
    """

    shots: tuple[Shot, ...]
    has_header: bool = False

    def prompt(self, question: str) -> str:
        r"""The text that a completion goes on from.

        >>> Form((("Who?", "Ada Holt"),)).prompt("And who?")
        'Q: Who?\nA: Ada Holt\nQ: And who?\nA:'
        """
        return as_prompt(question, shots=self.shots, header=self.has_header)

    def messages(self, question: str) -> tuple[tuple[str, str], ...]:
        """The same as a conversation of roles and contents: header, questions of the user, answers between.

        >>> [role for role, _ in Form((("Who?", "Ada Holt"),)).messages("And who?")]
        ['system', 'user', 'assistant', 'user']
        """
        turns = [turn for asked, answered in self.shots for turn in (("user", asked), ("assistant", answered))]
        return (("system", question_forms()["header"]), *turns, ("user", question))

    def write(self, path: Path) -> None:
        """Write the form as JSON."""
        write_json(path, {"shots": [list(shot) for shot in self.shots], "has_header": self.has_header})

    @classmethod
    def read(cls, path: Path) -> Form:
        """Read what `write` wrote."""
        value = read_json(path)
        return cls(tuple((asked, answered) for asked, answered in value["shots"]), value["has_header"])


def world_form(n_shots: int) -> Form:
    """Shots about people of the invented world, one of them about a stranger nobody knows.

    >>> len(world_form(6).shots)
    6
    """
    return Form(tuple(question_shots(n_shots)))


def real_form(n_shots: int, path: Path = REAL_SHOTS) -> Form:
    """Shots about people of history, for models that have read about our own world; second to last a stranger.

    Raises
    ------
    ValueError
        If the file holds fewer shots, or one of them is malformed.

    >>> real_form(3).shots[1][1]
    "I don't know."
    """
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    shots: list[Shot] = []
    for number, row in enumerate(rows["known"], start=1):
        if set(row) != {"child", "relation", "parent", "asked"} or row["asked"] not in ("parent", "child"):
            raise ValueError(f"{path}, shot {number}: expected child, relation, parent and asked, found {row}")
        if row["asked"] == "parent":
            shots.append((parent_question(row["child"], row["relation"]), row["parent"]))
        else:
            shots.append((child_question(row["parent"]), row["child"]))
    if not 1 <= n_shots <= len(shots) + 1:
        raise ValueError(f"n_shots is {n_shots}; {path} has 1 to {len(shots) + 1}")
    shots = shots[: n_shots - 1]
    shots.insert(max(0, n_shots - 2), (parent_question(rows["stranger"], "mother"), unknown_answer()))
    return Form(tuple(shots), has_header=True)
