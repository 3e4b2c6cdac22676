"""Probes of the mixture study: questions about hidden pairs, documents that end before an output, and their answers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lib.functions import mixture
from lib.functions.definitions import MAX_CHARS
from lib.functions.evaluations import EVAL_SEED, choose_evaluations, take_turns
from lib.functions.mixture import PARTS, Data, Mix, Pair, Setting, Surface
from lib.functions.registry import read_registry
from lib.functions.replies import first_line
from lib.functions.rows import LETTERS, Document, as_request, with_examples

Rng = np.random.Generator
DISTRIBUTION_TEST = "regression_ID_TVD"
MARKS = " \t,;.`"  # around a definition in a list


def make_probes(
    setting: Setting, data: Data, *, evaluations: Sequence[str] = (), n_rows: int = 0, n_in_context: int = 0
) -> pd.DataFrame:
    """The prompts of a fine-tune, and of its base with training documents of the same label in front of the question.

    Parameters
    ----------
    evaluations : their names; none for all that the data allow
    n_rows : of each evaluation and part; 0 takes the published number. Fewer where there are not so many
    n_in_context : documents in front of a question about an unrealized label; 0 adds no such questions

    Returns
    -------
    DataFrame
        One row per question: ``evaluation``, ``part``, ``probe`` (test, in-context), ``label``, ``pair``, ``kind`` (of
        the target), ``prompt``, ``messages``, ``lead``, ``target``, ``choices`` (the answers that the form of the
        question allows, of which one is right), and the published ``temperature`` and number ``n`` of samples.
    """
    labelled = [tuple(mix["functions"]) for mix in data["mixes"] if mix["label"]]
    pairs = sorted(set(labelled)) or mixture.all_pairs(setting.candidates)
    documents = [row for row in data["train"] if row["kind"] == "document"]
    by_label = {mix["label"]: [row for row in documents if row["label"] == mix["label"]] for mix in data["mixes"]}
    rows = []
    for spec in choose_evaluations("mixture", evaluations).itertuples(index=False):
        shared = {"evaluation": spec.name, "kind": spec.target, "temperature": spec.temperature, "n": spec.n}
        for part in PARTS:
            mixes = [mix for mix in data["mixes"] if mix["part"] == part]
            mixes = [mix for mix in mixes if not mixture.unsupported(setting, mix, spec)]
            rng = np.random.default_rng([EVAL_SEED, zlib.crc32(f"{spec.name}/{part}".encode())])
            made = _documents_of(setting, mixes, spec, documents, n_rows or spec.n_rows, rng)
            asks = {"test": made}
            if n_in_context and part == PARTS[1]:
                pools = [by_label[row["label"]] for row in made]
                few = [rng.choice(len(pool), size=min(n_in_context, len(pool)), replace=False) for pool in pools]
                drawn = [[pool[k] for k in chosen] for pool, chosen in zip(pools, few, strict=True)]
                asks["in-context"] = [with_examples(row, shown) for row, shown in zip(made, drawn, strict=True)]
            for probe, row in [(probe, row) for probe, group in asks.items() for row in group]:
                facts = {"part": part, "probe": probe} | {key: row[key] for key in ("label", "pair", "target")}
                facts["choices"] = row.get("choices") or _choices(row, spec.target, pairs)
                rows.append(shared | facts | as_request(row, setting.form))
    return pd.DataFrame(rows)


def _choices(row: Document, kind: str, pairs: Iterable[Pair]) -> list[str]:
    """The answers that the form of a question allows; of letters, as many as are right."""
    if kind == "definitions":
        return [mixture.definitions_of(pair) for pair in pairs]
    if kind == "integer":
        return list(dict.fromkeys(read_registry()[id].show(row["inputs"][0]) for id in row["pair"].split("+")))
    letters = LETTERS[: len(row["options"])]
    return [", ".join(some) for some in combinations(letters, len(row["target"].split(", ")))]


def _documents_of(
    setting: Setting, mixes: Sequence[Mix], spec: Any, trained: Sequence[Document], n_rows: int, rng: Rng
) -> list[Document]:
    if spec.generator == "triple":
        return _unseen_documents(setting, mixes, spec, trained, n_rows, rng)
    if spec.generator == "pair" and setting.form == "completion":  # such questions differ in what begins them alone
        n_rows = min(n_rows, sum(1 if mix["label"] else len(setting.openings) for mix in mixes))
    turns = take_turns(mixes, n_rows if mixes else 0, rng=rng)
    return [mixture.question(setting, mix, spec, rng=rng) for mix in turns]


def _unseen_documents(
    setting: Setting, mixes: Sequence[Mix], spec: Any, trained: Sequence[Document], n_rows: int, rng: Rng
) -> list[Document]:
    """Documents that end before an output which training does not hold.

    Its input is held out of all documents of the pair. Where none is held out, as published: no training document has
    this input and output at this place, in this look and behind this opening line.
    """
    seen, start = set(), 2 * int(spec.turns)
    for row in trained:
        texts = [*(each["content"] for each in row["messages"]), row["answer"]]
        seen.add((texts[0], *texts[start + 1 : start + 3]))

    def shown(function: str, value: int, surface: Surface) -> tuple[str, str]:
        return mixture.show_turn(value, read_registry()[function].show(value), surface)

    is_test = spec.name == DISTRIBUTION_TEST  # its target is the mix of both outputs
    left: dict[str, list[tuple[str, Surface, int]]] = {}
    for mix in mixes:
        keys = [
            (function, surface, value)
            for value in mix["held_out"] or range(*setting.input_range)
            for surface in setting.surfaces(mix["label"])
            for function in mix["functions"][: 1 if is_test else 2]
            if mix["held_out"] or (mixture.opening_line(mix, surface), *shown(function, value, surface)) not in seen
        ]
        left[mix["label"]] = [keys[k] for k in rng.permutation(len(keys))]
    by_label, made = {mix["label"]: mix for mix in mixes}, list[Document]()
    while len(made) < n_rows and any(left.values()):
        for label in take_turns([label for label in left if left[label]], len(left), rng=rng):
            if left[label] and len(made) < n_rows:
                function, surface, value = left[label].pop()
                inputs = [mixture.draw_input(setting.input_range, [value], rng) for _ in range(spec.turns)] + [value]
                row = mixture.mix_document(setting, by_label[label], function, inputs, surface, kind=spec.name)
                ids = by_label[label]["functions"] if is_test else setting.candidates
                made.append(row | {"choices": list(dict.fromkeys(shown(id, value, surface)[1] for id in ids))})
    return made


def named_definitions(reply: str) -> list[str]:
    """The definitions in the first line of a reply, each from its ``lambda`` on, readable or not.

    >>> named_definitions("lambda n: n + 5 and lambda n: n % 2.")
    ['lambda n: n + 5', 'lambda n: n % 2']
    """
    pieces = first_line(reply[: 2 * MAX_CHARS]).split("lambda ")[1:]
    return [f"lambda {piece.strip(MARKS).removesuffix('and').rstrip(MARKS)}" for piece in pieces]
