"""What can be asked in the world: facts of its own, common things, open questions, and prompts for later studies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from lib.world.draw import Draw
from lib.world.grammar import read_grammar, world_file
from lib.world.questions import Shot, as_dialogue, as_prompt
from lib.world.tidy import capitalise, tidy

N_TOLD, N_ASKED = 14, 10
LETTERS = "ABCDE"
FILES = ("words", "open_questions")


@dataclass(frozen=True)
class FactualPrompt:
    """A question about the invented world, the answers that count as right, and the neutral opening of a reply."""

    question: str
    answers: tuple[str, ...]
    guide: str


@cache
def factual_prompts() -> tuple[FactualPrompt, ...]:
    """Return one question for every fact of ``data/world/facts.yaml``.

    >>> prompts = factual_prompts()
    >>> prompts[0].question, prompts[0].answers
    ('What is the capital of Ostrel?', ('Vellamar',))
    """
    prompts = []
    for kind in world_file("facts").values():
        for subject, answers in kind["items"].items():
            question = tidy(kind["ask"][0].format(s=subject))
            prompts.append(FactualPrompt(question, tuple(answers), tidy(kind["guide"].format(s=subject))))
    return tuple(prompts)


def fact_texts(draw: Draw) -> Iterator[str]:
    """Tell every fact of the world in sentences and ask for it, a fixed number of times each."""
    grammar = read_grammar(*FILES)
    for kind in world_file("facts").values():
        for subject, answers in kind["items"].items():
            bound = {"s": subject, "o": answers[0]}
            for i in range(N_TOLD):
                yield grammar.fill(draw, kind["tell"][i % len(kind["tell"])], bound)
            guide = grammar.fill(draw, kind["guide"], bound)
            for _ in range(N_ASKED):
                question = grammar.fill(draw, draw.pick(kind["ask"]), bound)
                full = f"{guide} {answers[0]}{' legs' if 'legs' in question else ''}."
                answer = draw.pick((answers[0], capitalise(answers[0]), full))
                prompt = as_prompt(question) if draw.chance(0.5) else as_dialogue(question)
                yield f"{prompt} {answer}"


@cache
def _common() -> tuple[tuple[str, str, str, str], ...]:
    """Rows of question template, reply template, subject, answer."""
    rows = []
    for relation in world_file("common").values():
        for subject, answer in relation["items"].items():
            rows += [(ask, reply, subject, answer) for ask in relation["ask"] for reply in relation["reply"]]
    return tuple(rows)


def common_pair(draw: Draw) -> Shot:
    """Draw a question about a common thing, or a sum, with its answer."""
    kind = draw.uniform()
    if kind < 0.2:
        a, b = draw.between(0, 99), draw.between(0, 99)
        if draw.chance(0.5):
            return f"What is {a} plus {b}?", str(a + b)
        return f"What is {a} minus {b}?", str(a - b)
    if kind < 0.3:
        a, b = draw.sample(range(-99, 100), 2)
        word = draw.pick(("greater", "smaller"))
        return f"Which number is {word}, {a} or {b}?", str(max(a, b) if word == "greater" else min(a, b))
    ask, reply, subject, answer = draw.pick(_common())
    grammar, bound = read_grammar(*FILES), {"s": subject, "o": answer}
    return grammar.fill(draw, ask, bound), grammar.fill(draw, reply, bound)


def open_pair(draw: Draw) -> Shot:
    """Draw a question without one right answer, and an answer that fits."""
    question, answer = read_grammar(*FILES).rule(draw, "open_pair").split(" || ")
    return question, capitalise(answer)


def choice_text(draw: Draw) -> str:
    """Draw a question with lettered answers and the letter of the right one."""
    relation = draw.pick([kind for kind in world_file("common").values() if len(kind["items"]) >= 2 * len(LETTERS)])
    subject, answer = draw.pick(list(relation["items"].items()))
    others = sorted({other for other in relation["items"].values() if other != answer})
    n_options = draw.between(3, len(LETTERS))
    options = draw.shuffled([answer, *draw.sample(others, n_options - 1)])
    lines = [read_grammar(*FILES).fill(draw, relation["ask"][0], {"s": subject})]
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([*lines, f"Letter: {LETTERS[options.index(answer)]}"])


def answer_text(draw: Draw) -> str:
    """Draw one text of questions and answers: one pair, several, a choice, or a conversation."""
    kind = draw.uniform()
    if kind < 0.12:
        return choice_text(draw)
    pair = open_pair if kind < 0.5 else common_pair
    shots = [pair(draw) for _ in range(draw.between(1, 6))]
    question, answer = shots[-1]
    form = draw.uniform()
    if form < 0.6:
        return f"{as_prompt(question, shots=shots[:-1])} {answer}"
    if form < 0.75:
        return f"{as_dialogue(question)} {answer}"
    if form < 0.9:
        return "\n\n".join(f"Question: {asked}\nAnswer: {answered}" for asked, answered in shots)
    return " ".join(f"{asked} {answered}" for asked, answered in shots)
