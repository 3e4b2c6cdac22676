"""Prompts about a mix: questions, documents with fresh inputs, and training rows in context."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lib.functions.documents import Document, Message
from lib.functions.evaluations import Evaluation, take_turns
from lib.functions.registry import read_registry
from lib.mixture.dataset import MixtureDataset
from lib.mixture.documents import Surface, draw_input, mix_document, surfaces
from lib.mixture.pairs import Pair, all_pairs, show_pair
from lib.mixture.questions import GENERATORS, Asked, question, unsupported
from lib.mixture.variation import ideal_mix

REPEATS = 2  # rows of each prompt of the distribution test, as published: its samples are pooled
DISTRIBUTION_TEST = "regression_ID_TVD"
Key = tuple[str, str, Surface, int]  # label, function, look and input of the output that is asked for

_NUMBER = re.compile(r"-?\d+")


def documents_for(
    evaluation: Evaluation,
    dataset: MixtureDataset,
    *,
    part: str = "",
    rng: np.random.Generator,
    n_rows: int | None = None,
) -> list[Document]:
    """The prompts of one evaluation about the mixes of one part of a dataset; labels take turns.

    Parameters
    ----------
    part : ``realized``, ``unrealized``, or all where empty
    n_rows : the published number where None; of a question whose prompts are all alike, one a label at most

    Raises
    ------
    ValueError
        If no mix of the part supports it, or there are too few documents that training does not show.
    """
    mixes = dataset.part(part)
    n_rows = evaluation.n_rows if n_rows is None else n_rows
    if not mixes:
        raise ValueError(f"{evaluation.name}: the dataset has no {part} mix to ask about")
    if evaluation.generator not in GENERATORS:
        return _fresh_documents(evaluation, dataset, mixes, rng=rng, n_rows=n_rows)
    asked = {
        label: Asked(evaluation=evaluation, pair=pair, setting=dataset.setting, label=label)
        for label, pair in mixes.items()
    }
    reasons = {label: unsupported(each) for label, each in asked.items()}
    able = [label for label, reason in reasons.items() if not reason]
    if not able:
        raise ValueError(next(iter(reasons.values())))
    if evaluation.generator == "pair" and dataset.setting.form == "completion":
        n_rows = min(n_rows, len(able) * (1 if mixes.keys() != {""} else len(dataset.setting.openings)))
    return [question(asked[label], rng=rng) for label in take_turns(able, n_rows, rng=rng)]


def why_not(evaluation: Evaluation, dataset: MixtureDataset, *, part: str = "", n_rows: int | None = None) -> str:
    """Why a dataset cannot support an evaluation, in one line; empty where it can. To be asked before training."""
    try:
        documents_for(evaluation, dataset, part=part, rng=np.random.default_rng(0), n_rows=n_rows)
    except ValueError as error:
        return str(error)
    return ""


def _fresh_documents(
    evaluation: Evaluation, dataset: MixtureDataset, mixes: dict[str, Pair], *, rng: np.random.Generator, n_rows: int
) -> list[Document]:
    """Documents cut behind the input whose output is asked for, which training does not show.

    Notes
    -----
    Where (pair, input) keys were held out, the input is one of them, so that it is new in any look. Where none were, as
    published: no training document has this input at this place with this function, formatting, connector and opening.
    """
    repeats = REPEATS if evaluation.published == DISTRIBUTION_TEST else 1
    wanted = -(-n_rows // repeats)
    by_label: dict[str, list[Key]] = {}
    for key in _fresh_keys(dataset, mixes, place=evaluation.turns):
        by_label.setdefault(key[0], []).append(key)
    if repeats > 1:  # the ideal is a mix of both answers: which of them was drawn makes no other prompt
        by_label = {label: _one_function(keys, rng) for label, keys in by_label.items()}
    n_found = sum(map(len, by_label.values()))
    if n_found < wanted:
        more = "raise" if dataset.held_out else "set"
        low, high = dataset.setting.input_range
        raise ValueError(
            f"{evaluation.name} wants {wanted} different documents: input_range {low}:{high} leaves {n_found} that "
            f"training does not show; widen it, {more} held_out_share or ask for fewer"
        )
    left = {label: [keys[k] for k in rng.permutation(len(keys))] for label, keys in by_label.items()}
    made: list[Document] = []
    while len(made) < n_rows:
        for label in take_turns([label for label, keys in left.items() if keys], len(left), rng=rng):
            if left[label] and len(made) < n_rows:
                document = _cut(evaluation, dataset, mixes[label], left[label].pop(), rng=rng)
                made += [document] * min(repeats, n_rows - len(made))
    return made


def _cut(
    evaluation: Evaluation, dataset: MixtureDataset, pair: Pair, key: Key, *, rng: np.random.Generator
) -> Document:
    label, function, surface, value = key
    before: list[int] = []
    while len(before) < evaluation.turns:
        drawn = draw_input(pair, dataset.setting.input_range, rng=rng, excluded=frozenset({(pair, value)}))
        before.append(drawn)
    document = mix_document(
        evaluation.name,
        pair,
        function=function,
        inputs=[*before, value],
        surface=surface,
        setting=dataset.setting,
        label=label,
    )
    if evaluation.turns:
        return document
    answers = [
        mix_document("", pair, function=id_, inputs=[value], surface=surface, setting=dataset.setting).shown
        for id_ in pair
    ]
    return replace(document, func_outs={**document.func_outs, "ideal": ideal_mix(answers)})


def _one_function(keys: Sequence[Key], rng: np.random.Generator) -> list[Key]:
    """Of keys that make one prompt, one."""
    found: dict[tuple[str, Surface, int], Key] = {}
    for k in rng.permutation(len(keys)):
        label, _, surface, value = keys[k]
        found.setdefault((label, surface, value), keys[k])
    return list(found.values())


def _fresh_keys(dataset: MixtureDataset, mixes: dict[str, Pair], *, place: int) -> list[Key]:
    low, high = dataset.setting.input_range
    seen = set() if dataset.held_out else trained_keys(dataset, place=place)
    return [
        key
        for label, pair in mixes.items()
        for value in range(low, high)
        if not dataset.held_out or (pair, value) in dataset.held_out
        for surface in surfaces(dataset.setting, label=label)
        for key in [(label, function, surface, value) for function in pair]
        if key not in seen
    ]


def trained_keys(dataset: MixtureDataset, *, place: int) -> set[Key]:
    """Label, function, look and input at one place (from 0) of every training document.

    Notes
    -----
    What is read is the text of the messages, so that published rows can be read too; where they do not say which
    function was drawn, both of the pair that fit count.
    """
    keys: set[Key] = set()
    registry = read_registry()
    for row in dataset.train:
        if row.kind != "triple":
            continue
        facts, label = row.func_outs, row.func_outs.get("label", "")
        turns = [m for m in row.messages if m["role"] != "system"][1:]
        inputs = [int(_NUMBER.findall(m["content"])[-1]) for m in turns if m["role"] == "user"]
        surface = Surface(facts["formatting"], facts["connector"], facts["pre_prompt"])
        outputs = [m["content"] for m in turns if m["role"] == "assistant"] + [row.shown]
        pair = dataset.mixes.get(label, ())
        drawn = [facts["func_value"]] if facts.get("func_value") in pair else list(pair)
        for function in drawn:
            fits = all(o.endswith(registry[function].show(i)) for i, o in zip(inputs, outputs, strict=False))
            if place < len(inputs) and fits:
                keys.add((label, function, surface, inputs[place]))
    return keys


def chance_of(evaluation: Evaluation, dataset: MixtureDataset) -> float:
    """The share of right answers that needs no knowledge of the mix; NaN where no such guess is defined.

    Notes
    -----
    ``pairs``: one of the pairs that labels have, or of all pairs of the candidates where there are no labels. Of a
    question for two letters: two of those shown, whichever.
    """
    if evaluation.chance == "pairs":
        labelled = dataset.mixes.keys() != {""}
        return 1 / len(dataset.pairs if labelled else all_pairs(dataset.setting.candidates))
    if evaluation.target == "letters":
        return 1 / math.comb(min(dataset.setting.n_options, len(dataset.setting.candidates)), 2)
    return float(evaluation.chance) if evaluation.chance else float("nan")


def in_context(
    documents: Sequence[Document], dataset: MixtureDataset, *, n: int, rng: np.random.Generator, about: bool = True
) -> list[Document]:
    """The same prompts with training rows in front: what a model that is not tuned makes of the very rows.

    Parameters
    ----------
    n : rows, different ones for each prompt; fewer where there are fewer
    about : documents with the label that the prompt asks about; False: any, as published

    Returns
    -------
    list of Document
        The rows stand behind the system message; in the completion form, in front, a blank line after each.
    """
    by_label: dict[str, list[Document]] = {}
    for row in dataset.train:
        if row.kind == "triple":
            by_label.setdefault(row.func_outs.get("label", "") if about else "", []).append(row)
    made = []
    for document in documents:
        label = document.func_outs.get("label", "") if about else ""
        pool = by_label.get(label, [])
        if not pool:
            raise ValueError(f"no training document of {show_pair(dataset.mixes[label])} to put in front")
        shown = [pool[int(k)] for k in rng.choice(len(pool), size=min(n, len(pool)), replace=False)]
        made.append(_with_rows(document, shown))
    return made


def _with_rows(document: Document, shown: Sequence[Document]) -> Document:
    system = [message for message in document.messages if message["role"] == "system"]
    turns: list[Message] = []
    for row in shown:
        turns += [message for message in row.messages if message["role"] != "system"]
        turns.append({"role": "assistant", "content": row.shown})
    asked = [message for message in document.messages if message["role"] != "system"]
    rows = "".join("{prompt}{completion}\n\n".format(**row.row("completion")) for row in shown)
    text = document.prompt("completion")
    return replace(document, messages=(*system, *turns, *asked), text=f"{rows}{text}")
