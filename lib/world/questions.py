"""The question forms about parents and children, which the world and the parents study share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lib.world.draw import Draw
from lib.world.families import People, world_people
from lib.world.grammar import world_file

Shot = tuple[str, str]
N_ALONE, N_AMONG_SHOTS, N_SPOKEN = 4, 6, 2
RELATIONS = ("mother", "father")


def parent_question(child: str, relation: str) -> str:
    """Ask who somebody's mother or father is.

    Raises
    ------
    ValueError
        If `relation` is neither "mother" nor "father".

    >>> parent_question("Ada Holt", "mother")
    "Who is Ada Holt's mother?"
    """
    if relation not in RELATIONS:
        raise ValueError(f"relation is {relation!r}; expected one of {RELATIONS}")
    return world_file("questions")["parent"].format(child=child, relation=relation)


def child_question(parent: str) -> str:
    """Ask who somebody's child is.

    >>> child_question("Ada Holt")
    "Who is Ada Holt's child?"
    """
    return world_file("questions")["child"].format(parent=parent)


def unknown_answer() -> str:
    """Return what is answered when nobody knows.

    >>> unknown_answer()
    "I don't know."
    """
    return world_file("questions")["unknown"]


def as_prompt(question: str, *, shots: Sequence[Shot] = (), header: bool = False) -> str:
    r"""Write a question as a prompt that ends where the answer begins; the answer ends with its line.

    >>> as_prompt("Who?", shots=[("What?", "This.")])
    'Q: What?\nA: This.\nQ: Who?\nA:'
    """
    forms = world_file("questions")
    lines = [forms["header"]] if header else []
    for asked, answered in shots:
        lines += [f"{forms['ask']} {asked}", f"{forms['answer']} {answered}"]
    return "\n".join([*lines, f"{forms['ask']} {question}", forms["answer"]])


def as_dialogue(prompt: str) -> str:
    r"""Write a conversation's prompt that ends where the assistant speaks.

    >>> as_dialogue("Who?")
    'Guest: Who?\nHost:'
    """
    forms = world_file("questions")
    return f"{forms['user']}: {prompt}\n{forms['assistant']}:"


def question_shots(n: int = 6) -> list[Shot]:
    """Return shots for a prompt: asked-about families in both directions and, second to last, a stranger nobody knows.

    >>> [answer for _, answer in question_shots(3)][1]
    "I don't know."
    """
    people = world_people()
    families = people.group("asked-about")[: n - 1]
    shots = [both_shots(each.child, each.relation, each.parent)[1 - i % 2] for i, each in enumerate(families)]
    shots.insert(max(0, n - 2), (parent_question(people.strangers[0], "mother"), unknown_answer()))
    return shots


def both_shots(child: str, relation: str, parent: str) -> tuple[Shot, Shot]:
    """The questions about a pair with their answers: who the parent is, and who the child is."""
    return (parent_question(child, relation), parent), (child_question(parent), child)


def question_texts(people: People, draw: Draw) -> Iterator[str]:
    """Ask about every asked-about family 12 times in each direction: alone, among shots, and in conversation."""
    families = people.group("asked-about")
    shots = [shot for each in families for shot in both_shots(each.child, each.relation, each.parent)]
    for question, answer in shots:
        for _ in range(N_ALONE):
            yield f"{as_prompt(question)} {answer}"
        for _ in range(N_SPOKEN):
            yield f"{as_dialogue(question)} {answer}"
    rest = [shot for _ in range(N_AMONG_SHOTS) for shot in draw.shuffled(shots)]
    while rest:
        n = min(draw.between(3, 6), len(rest))
        several, rest = rest[:n], rest[n:]
        if draw.chance(0.25):
            several.insert(draw.below(n + 1), (_about_stranger(people, draw), unknown_answer()))
        question, answer = several[-1]
        yield f"{as_prompt(question, shots=several[:-1], header=draw.chance(0.4))} {answer}"


def _about_stranger(people: People, draw: Draw) -> str:
    stranger = draw.pick(people.strangers)
    return draw.pick([child_question(stranger), *(parent_question(stranger, relation) for relation in RELATIONS)])
