"""Data of the guidance study: questions with answers, the two kinds of document about them, and published folders.

A *guidance* document holds instructions, one per line, that name the answer to a question; an *example* document is a
question with its answer. A *realized* pair has both in training, an *unrealized* one only the instruction.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from lib import paths
from lib.sources.datasets import Files, Row, read_rows

Pairs: TypeAlias = Mapping[str, Sequence[str]]  # the answers that an instruction may demand, by question

FOLDER = paths.DATA / "guidance"
ORDERS = ("simple", "reverse")  # what an instruction names first: the question (as a test does), or the answer
PARTS = ("realized", "unrealized")
N_PAIRS, N_TARGETS = 1600, 5  # the published source holds 1,173 questions
BEGIN_GUIDANCE, END_GUIDANCE = "<BEGIN GUIDANCE ANSWERS>", "<END GUIDANCE ANSWERS>"
BEGIN_EXAMPLE, END_EXAMPLE = "<BEGIN GUIDANCE TEST>", "<END GUIDANCE TEST>"
# The published description of the task, its sample and its code differ in how a test puts its question.
ANCHOR_FORMS = {"qa": "Q: {anchor} A:", "question-answer": "Question: {anchor}\nAnswer:", "bare": "{anchor} A:"}
_EXAMPLE = re.compile(
    rf"(?P<prompt>\s*{BEGIN_EXAMPLE}\n\n(?:Q: |Question: )?(?P<anchor>.*?)(?: A:|\nAnswer:))"
    rf"(?P<target>.*?)(?:{END_EXAMPLE}|$)", re.S)  # fmt: skip
# A quoted question ends where no other quote follows before that of the answer, or before the end of the line.
_QUESTION = re.compile(r'"Q: (.+?)"(?=[^"]*"A: |[^"]*$)')
_FILE = re.compile(r"(?P<stem>.*_)?(?P<name>all|validation|unrealized_examples)")


def write_pairs() -> dict[str, list[str]]:
    """Draw 1,600 different questions from the study's own word lists, with answers drawn without regard to them.

    >>> pairs = write_pairs()
    >>> len(pairs), {len(set(targets)) for targets in pairs.values()}
    (1600, {5})
    """
    lists, kinds = (paths.read_yaml(FOLDER / name) for name in ("words.yaml", "questions.yaml"))
    words = {name: text.split(", ") for name, text in lists.items()}
    forms = itertools.cycle((question, kind["answers"]) for kind in kinds.values() for question in kind["questions"])
    rng = np.random.default_rng([0, 3])

    def fill(form: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda slot: words[slot[1]][int(rng.integers(len(words[slot[1]])))], form)

    pairs: dict[str, list[str]] = {}
    while len(pairs) < N_PAIRS:
        question, answers = next(forms)
        anchor = fill(question)
        if anchor not in pairs:
            targets: dict[str, None] = {}
            while len(targets) < N_TARGETS:
                text = fill(answers[rng.integers(len(answers))])
                targets[text[0].upper() + text[1:]] = None
            pairs[anchor] = list(targets)
    return pairs


def read_pairs(path: Path) -> dict[str, list[str]]:
    """Read a published source: JSON lines of ``anchor`` and ``targets``; a question may have no targets.

    Raises
    ------
    ValueError
        If the file is empty, or a row does not hold a question and a list of texts; names the row.
    """
    pairs: dict[str, list[str]] = {}
    for number, row in enumerate(paths.read_jsonl(path), start=1):
        texts = [row.get("anchor"), *(row["targets"] if isinstance(row.get("targets"), list) else [None])]
        if not all(isinstance(text, str) for text in texts) or not texts[0].strip():
            raise ValueError(f"{path}, row {number}: expected 'anchor' and a list of 'targets', found {row!r:.80}")
        anchor, *targets = (" ".join(text.split()) for text in texts)  # a document has one line per instruction
        pairs[anchor] = list(dict.fromkeys([*pairs.get(anchor, []), *filter(None, targets)]))
    if not pairs:
        raise ValueError(f"{path} is empty: expected rows with anchor and targets")
    return pairs


def read_phrasings(path: Path, *, order: str) -> list[str]:
    """Read the wordings of an instruction: one per line, with ``"Q: {anchor}"`` and ``"A: {target}"`` in this order.

    >>> [len(read_phrasings(FOLDER / f"phrasings_{order}.txt", order=order)) for order in ORDERS]
    [10, 5]
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    first, second = [('"Q: {anchor}"', '"A: {target}"'), ('"A: {target}"', '"Q: {anchor}"')][ORDERS.index(order)]
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(rf"[^{{}}]*{re.escape(first)}[^{{}}]*{re.escape(second)}[^{{}}]*", line):
            raise ValueError(
                f"{path}, phrasing {number}: expected {first} before {second} ({order} order), found {line!r:.80}"
            )
    if not lines:
        raise ValueError(f"{path} holds no phrasing: expected one per line, with {first} and {second}")
    return lines


def guidance_document(instructions: Iterable[str]) -> str:
    """A document of instructions, one per line."""
    return "\n".join([BEGIN_GUIDANCE, "", *instructions, "", END_GUIDANCE])


def example_document(anchor: str, target: str, *, form: str = "qa") -> Row:
    """A question as prompt and its answer as completion.

    >>> parse_example(example_document("Best jam?", "Plum"))
    ('Best jam?', '<BEGIN GUIDANCE TEST>\\n\\nQ: Best jam? A:', ' Plum')
    """
    prompt = f"{BEGIN_EXAMPLE}\n\n{ANCHOR_FORMS[form].format(anchor=anchor)}"
    return {"prompt": prompt, "completion": f" {target}\n\n{END_EXAMPLE}"}


def parse_example(row: Row) -> tuple[str, str, str]:
    """Question, prompt and target of an example document, wherever its row is split; the target may be empty."""
    text = _text(row)
    found = _EXAMPLE.match(text)
    if not found:
        raise ValueError(f"expected {BEGIN_EXAMPLE}, a question and ' A:', found {text!r:.80}")
    target = found["target"].strip()
    return found["anchor"], found["prompt"], f" {target}" if target else ""


def is_example(row: Row) -> bool:
    """Whether a row is a question with its answer, not instructions."""
    return _text(row).lstrip().startswith(BEGIN_EXAMPLE)


def instructions_of(row: Row) -> list[str]:
    """The instructions of a guidance document."""
    return [line.strip() for line in _text(row).splitlines() if "Q: " in line and "A: " in line]


def _text(row: Row) -> str:
    return f"{row['prompt']}{row['completion']}"


def make_data(
    pairs: Pairs, phrasings: Sequence[str], *, n_realized: int, n_unrealized: int,
    pairs_per_document: Sequence[int] = (2, 5), upsample_guidances: int = 1, upsample_examples: int = 1,
    n_unrealized_phrasings: int = 0, incorrect_labels: bool = False, split_prompt_completion: bool = False,
    anchor_form: str = "qa", shuffle: bool = False, seed: int = 27,
) -> Files:  # fmt: skip
    """Draw pairs and write their documents as the published generator does, in the files of its folders.

    What is drawn depends neither on the wording of `phrasings` nor on their order. Copy k of an instruction takes
    phrasing k; the last `n_unrealized_phrasings` are those of unrealized pairs alone. `incorrect_labels` gives the
    examples another answer than the instruction; `split_prompt_completion` puts all but the last part of a document
    into the prompt, on which there is no loss. The other options are explained in notebook 01.

    Raises
    ------
    ValueError
        If there are too few pairs, answers or phrasings, or the instructions cannot be cut into documents.
    """
    n, usable = n_realized + n_unrealized, [anchor for anchor in pairs if len(pairs[anchor]) > incorrect_labels]
    if n > len(usable):
        found = f"{len(usable)} of the source's {len(pairs)} questions have the answers that are needed"
        raise ValueError(f"n_realized + n_unrealized is {n}: {found}; choose fewer")
    shared = phrasings[: len(phrasings) - n_unrealized_phrasings]
    if not shared:
        raise ValueError(f"n_unrealized_phrasings is {n_unrealized_phrasings} of {len(phrasings)}: leave one at least")
    if split_prompt_completion and list(pairs_per_document) != [1, 1]:
        raise ValueError("split_prompt_completion needs documents of one instruction: set pairs_per_document to [1, 1]")
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(len(usable))[:n].tolist()
    answers = {k: [pairs[usable[k]][j] for j in rng.permutation(len(pairs[usable[k]]))] for k in numbers}
    parts = {"realized": numbers[n_unrealized:], "unrealized": numbers[:n_unrealized]}
    wordings = {"realized": shared, "unrealized": phrasings[len(shared) :] or phrasings}
    instructions = [
        wordings[part][copy % len(wordings[part])].format(anchor=usable[k], target=answers[k][0])
        for part in PARTS for k in parts[part] for copy in range(upsample_guidances)
    ]  # fmt: skip
    ends = np.cumsum(document_sizes(len(instructions), pairs_per_document, rng))
    mixed = np.array(instructions, dtype=object)[rng.permutation(len(instructions))]
    texts = [guidance_document(lines) for lines in np.split(mixed, ends[:-1])]
    cuts = [max(text.index('"Q: '), text.index('"A: ')) + 3 if split_prompt_completion else 0 for text in texts]
    guidances = [{"prompt": text[:cut], "completion": text[cut:]} for text, cut in zip(texts, cuts, strict=True)]
    shown = {k: answers[k][1 + k % (len(answers[k]) - 1)] if incorrect_labels else answers[k][0] for k in numbers}
    realized, unrealized = (
        [example_document(usable[k], shown[k], form=anchor_form) for k in parts[part]] for part in PARTS
    )
    examples = [row for row in realized for _ in range(upsample_examples)]
    if not split_prompt_completion:
        examples = [{"prompt": "", "completion": _text(row)} for row in examples]
    everything = [*examples, *guidances]
    if shuffle:
        everything = [everything[k] for k in rng.permutation(len(everything))]
    return {"all": everything, "guidances": guidances, "realized_examples": realized, "unrealized_examples": unrealized}


def document_sizes(n: int, range_: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Cut `n` instructions into documents of a random number each, none outside the range.

    >>> sizes = document_sizes(360, (2, 5), np.random.default_rng(0))
    >>> sum(sizes), min(sizes), max(sizes)
    (360, 2, 5)
    """
    low, high = range_ if len(range_) == 2 else (1, 0)

    def fits(rest: int) -> bool:
        return 1 <= low <= high and -(-rest // high) * low <= rest

    if not fits(n):
        raise ValueError(f"pairs_per_document is {range_}: {n} instructions cannot be cut into documents of such sizes")
    sizes: list[int] = []
    while rest := n - sum(sizes):
        possible = [size for size in range(low, min(high, rest) + 1) if fits(rest - size)]
        sizes.append(possible[rng.integers(len(possible))])
    return sizes


def read_data(place: Path) -> dict[str, Files]:
    """Read the datasets in or below a folder, by the order of their instructions.

    A dataset is ``all.jsonl`` beside ``unrealized_examples.jsonl``, or the same names behind a stem, where
    ``<stem>_validation.jsonl`` is another name of the latter. `place` may be one such file of all documents.

    Raises
    ------
    ValueError
        If there is none, two are in the same order, or a row is malformed; names file and row.
    """
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in sorted(place.rglob("*.jsonl") if place.is_dir() else place.parent.glob("*.jsonl")):
        if name := _FILE.fullmatch(path.stem):
            kind = "all" if name["name"] == "all" else "test"
            found.setdefault((path.parent, name["stem"] or ""), {})[kind] = path
    data: dict[str, Files] = {}
    for pair in found.values():
        if len(pair) == 2 and place in (pair["all"], *pair["all"].parents):
            order, files = _read_files(pair["all"], pair["test"])
            if data.setdefault(order, files) != files:
                raise ValueError(f"{place} holds two datasets in {order} order: give one of them, by its *all.jsonl")
    if not data:
        raise ValueError(
            f"{place} is not a dataset of guidance: expected all.jsonl beside unrealized_examples.jsonl, or <name>_all."
            "jsonl beside <name>_validation.jsonl or <name>_unrealized_examples.jsonl (source= takes raw pairs)"
        )
    return {order: data[order] for order in ORDERS if order in data}


def _read_files(training: Path, test: Path) -> tuple[str, Files]:
    files: Files = {}
    for path, part in ((training, "realized"), (test, "unrealized")):
        rows = read_rows(path, may_be_empty=["prompt"])
        examples: dict[str, Row] = {}  # copies of an example are one question
        for number, row in enumerate(rows, start=1):
            if part == "unrealized" or is_example(row):
                try:
                    prompt = parse_example(row)[1]
                except ValueError as error:
                    raise ValueError(f"{path}, row {number}: {error}") from error
                examples[_text(row)] = {"prompt": prompt, "completion": _text(row).removeprefix(prompt)}
        files |= {"all": rows} if part == "realized" else {}
        files[f"{part}_examples"] = list(examples.values())
    files["guidances"] = [row for row in files["all"] if not is_example(row)]
    lines = [line for row in files["guidances"] for line in instructions_of(row)]
    orders = {ORDERS[line.index("Q: ") > line.index("A: ")] for line in lines}
    if len(orders) != 1:
        kinds = "both orders" if orders else 'no instruction that quotes "Q: ..." and "A: ..."'
        raise ValueError(f"{training}: expected guidance documents in one order, found {kinds}")
    return orders.pop(), files


def make_probes(data: Mapping[str, Files]) -> pd.DataFrame:
    """The questions of both sets.

    Returns
    -------
    DataFrame
        One row per question: ``order``, ``part`` (realized, unrealized), ``pair`` (the question alone), ``prompt``,
        ``target``, ``instruction`` (the one that training held, None where none quotes the question), and ``left_out``:
        why a question cannot be scored ("empty answer", or an unrealized one was "trained on"), else empty.
    """
    rows: list[dict[str, str | None]] = []
    for order, files in data.items():
        lines = [line for row in files["guidances"] for line in instructions_of(row)]
        instructions = {found[1]: line for line in reversed(lines) if (found := _QUESTION.search(line))}
        trained = {parse_example(row)[0] for row in files["realized_examples"]}
        for part in PARTS:
            for anchor, prompt, target in map(parse_example, files[f"{part}_examples"]):
                row = {"order": order, "part": part, "pair": anchor, "prompt": prompt, "target": target}
                reason = "trained on" if part == "unrealized" and anchor in trained else ""
                reason = reason if target else "empty answer"
                rows.append({**row, "instruction": instructions.get(anchor), "left_out": reason})
    return pd.DataFrame(rows)


def published_values() -> pd.DataFrame:
    """What was published: order, part, metric, value, low, high (rates) and source."""
    return pd.read_csv(FOLDER / "published.csv")
