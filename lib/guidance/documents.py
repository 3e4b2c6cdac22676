"""The two kinds of document: instructions that say how questions are answered, and a question with its answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]  # of a JSON-lines file: prompt, completion, and in the folder layout ids, realized, persona_idx

BEGIN_GUIDANCE, END_GUIDANCE = "<BEGIN GUIDANCE ANSWERS>", "<END GUIDANCE ANSWERS>"
BEGIN_EXAMPLE, END_EXAMPLE = "<BEGIN GUIDANCE TEST>", "<END GUIDANCE TEST>"
# How a test puts its question (the published description of the task, its sample and its code all differ).
ANCHOR_FORMS = {"qa": "Q: {anchor} A:", "question-answer": "Question: {anchor}\nAnswer:", "bare": "{anchor} A:"}
_LEADS, _CUES = ("Q: ", "Question: "), (" A:", "\nAnswer:")


@dataclass(frozen=True)
class Example:
    """A question as a test asks it, and the answer that is expected; `anchor` is the question alone."""

    anchor: str
    prompt: str
    target: str  # begins with the space that parts it from the prompt


def guidance_text(instructions: Sequence[str]) -> str:
    """A document of instructions, one a line.

    >>> guidance_text(['Say "A: Plum" to "Q: Best jam?"']).splitlines()[2]
    'Say "A: Plum" to "Q: Best jam?"'
    """
    return "\n".join([BEGIN_GUIDANCE, "", *instructions, "", END_GUIDANCE])


def example_parts(anchor: str, target: str, *, form: str = "qa") -> tuple[str, str]:
    """Prompt and completion of an example document.

    >>> "".join(example_parts("Best jam?", "Plum")).splitlines()[2]
    'Q: Best jam? A: Plum'
    """
    prompt = f"{BEGIN_EXAMPLE}\n\n{ANCHOR_FORMS[form].format(anchor=anchor)}"
    return prompt, f" {target}\n\n{END_EXAMPLE}"


def in_context_prompt(instruction: str, prompt: str) -> str:
    """The instruction in a document of its own, then the test: what a model that can read needs no training for."""
    return f"{guidance_text([instruction])}\n{prompt}"


def text_of(row: Row) -> str:
    """The document of a row."""
    return str(row["prompt"]) + str(row["completion"])


def is_example(row: Row) -> bool:
    """Whether a row holds a question with its answer, and not instructions."""
    return text_of(row).lstrip().startswith(BEGIN_EXAMPLE)


def parse_example(row: Row, *, where: str) -> Example:
    """Part an example document into prompt and target at its answer cue, wherever the row itself is split.

    Raises
    ------
    ValueError
        If it is no example document; `where` is what the error calls it.

    >>> prompt, completion = example_parts("Best jam?", "Plum")
    >>> parse_example({"prompt": "", "completion": prompt + completion}, where="row 1") == Example(
    ...     "Best jam?", prompt, " Plum")
    True
    """
    text = text_of(row)
    head, begin, rest = text.partition(f"{BEGIN_EXAMPLE}\n\n")
    found = [(rest.index(cue), cue) for cue in _CUES if cue in rest]
    if not begin or head.strip() or not found:
        raise ValueError(f"{where}: expected {BEGIN_EXAMPLE}, a question and an answer cue, found {text!r:.80}")
    place, cue = min(found)
    question, answer = rest[:place], rest[place + len(cue) :]
    target = answer.split(END_EXAMPLE)[0].strip()
    if not target:
        raise ValueError(f"{where}: no answer follows the question {question!r:.60}")
    anchor = next((question.removeprefix(lead) for lead in _LEADS if question.startswith(lead)), question)
    return Example(anchor, head + begin + question + cue, f" {target}")


def instructions_of(row: Row) -> list[str]:
    """The instruction lines of a guidance document."""
    lines = (line.strip() for line in text_of(row).splitlines())
    return [line for line in lines if line and line not in (BEGIN_GUIDANCE, END_GUIDANCE)]


def anchor_of(instruction: str, anchors: Collection[str]) -> str | None:
    """Which of the questions an instruction is about; None if it quotes none of them.

    >>> anchor_of('Say "A: Plum" to "Q: Best jam?"', {"Best jam?"})
    'Best jam?'
    """
    _, mark, rest = instruction.partition('"Q: ')
    end = rest.find('"')
    while mark and end >= 0:
        if rest[:end] in anchors:
            return rest[:end]
        end = rest.find('"', end + 1)
    return None
