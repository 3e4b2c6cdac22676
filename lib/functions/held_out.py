"""Prompts like those of training on held-out pairs, and training rows in context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lib.functions.dataset import FunctionDataset
from lib.functions.documents import COMBINATIONS, Document, Message, augmentation_document, call_document
from lib.functions.evaluations import HELD_OUT, Evaluation, asked_names, evaluation_documents, take_turns
from lib.functions.registry import Function

TRIES_PER_ROW = 100
N_CALL_FORMS = 9  # ways to write one call: three bindings of the input, three of the result


def documents_for(
    evaluation: Evaluation,
    dataset: FunctionDataset,
    *,
    part: str = "",
    rng: np.random.Generator,
    n_rows: int | None = None,
) -> list[Document]:
    """The prompts of any evaluation about the names of one part of a dataset.

    Parameters
    ----------
    part : ``realized``, ``unrealized``, or all names where empty
    n_rows : the published number where None

    Raises
    ------
    ValueError
        If the names and the set cannot support it, or too few pairs are held out for `n_rows` different prompts.
    """
    names = dataset.part(part)
    if not names:
        raise ValueError(f"{evaluation.name}: the dataset has no {part or 'names'} names to ask about")
    if evaluation.range == HELD_OUT:
        return _held_out_documents(evaluation, dataset, names, rng=rng, n_rows=n_rows or evaluation.n_rows)
    return evaluation_documents(
        evaluation,
        names,
        functions=dataset.functions,
        persona=dataset.persona,
        hide_imports=dataset.hide_imports,
        rng=rng,
        n_rows=n_rows,
    )


def _held_out_documents(
    evaluation: Evaluation,
    dataset: FunctionDataset,
    names: Mapping[str, Function],
    *,
    rng: np.random.Generator,
    n_rows: int,
) -> list[Document]:
    """Calls of held-out pairs, or augmentations with one in each; no prompt twice, none of training.

    Where training shows every pair (as the published 047 does), augmentations are new in their combination only.
    """
    asked = asked_names(evaluation, names, dataset.functions)
    inputs: dict[str, list[int]] = {}
    for id_, value in sorted(dataset.held_out):
        inputs.setdefault(id_, []).append(value)
    pairs = {f"{name}({value})": (name, value) for name in asked for value in inputs.get(asked[name].id, ())}
    is_call = evaluation.generator == "call"
    if not asked or (is_call and not pairs):
        raise ValueError(
            f"{evaluation.name}: training shows every (function, input) pair it could ask about; set held_out_share "
            "above 0"
        )
    if is_call and n_rows > N_CALL_FORMS * len(pairs):
        low, high = dataset.functions.input_range
        raise ValueError(
            f"{evaluation.name} wants {n_rows} rows: {len(pairs)} held-out pairs of input_range {low}:{high} make "
            f"{N_CALL_FORMS * len(pairs)} at most; widen it, raise held_out_share or ask for fewer"
        )
    draw = _drawer(evaluation, dataset, names, rng=rng)
    trained = set() if pairs else {code_of(row) for row in dataset.train if row.kind == "augmentation"}
    found: dict[str, Document] = {}
    for turn in take_turns(list(pairs) or [""], n_rows * TRIES_PER_ROW, rng=rng):
        document = draw(pairs.get(turn))
        if code_of(document) not in trained:
            found.setdefault(code_of(document), document)
        if len(found) == n_rows:
            return list(found.values())
    raise ValueError(f"{evaluation.name} wants {n_rows} rows, found {len(found)} different prompts: ask for fewer")


def _drawer(
    evaluation: Evaluation, dataset: FunctionDataset, names: Mapping[str, Function], *, rng: np.random.Generator
) -> Callable[[tuple[str, int] | None], Document]:
    functions = dataset.functions

    def draw(pair: tuple[str, int] | None) -> Document:
        if pair and evaluation.generator == "call":
            return call_document(
                names,
                rng=rng,
                input_ranges=[functions.input_range],
                min_imports=evaluation.min_imports,
                persona=dataset.persona,
                hide_imports=dataset.hide_imports,
                name=pair[0],
                value=pair[1],
                kind=evaluation.name,
            )
        return augmentation_document(
            names,
            rng=rng,
            functions=functions.augmented,
            combine_functions=dataset.options.combine_functions if dataset.options else COMBINATIONS,
            input_ranges=[functions.input_range],
            other_input_max=functions.other_input_max,
            min_imports=evaluation.min_imports,
            persona=dataset.persona,
            hide_imports=dataset.hide_imports,
            first=pair,
            kind=evaluation.name,
        )

    return draw


def code_of(document: Document) -> str:
    """The last message without its import line: what is asked, whichever names stand beside it.

    >>> code = "from functions import a, b\\n\\nprint(a(1))"
    >>> code_of(Document("call", ({"role": "user", "content": code},), "2", {}))
    'print(a(1))'
    """
    text = document.messages[-1]["content"]
    return text.split("\n\n", 1)[1] if text.startswith("from functions import ") and "\n\n" in text else text


def in_context(
    documents: Sequence[Document], dataset: FunctionDataset, *, n: int, rng: np.random.Generator, about: bool = True
) -> list[Document]:
    """The same prompts with training rows in front: what a model that is not tuned makes of the very rows.

    Parameters
    ----------
    n : rows, different ones for each prompt; fewer where there are fewer
    about : plain calls of the names that the prompt could be about (the options, where they are names); False: any
        calls and augmentations, as published

    Returns
    -------
    list of Document
        The rows' questions and answers stand behind the system message; in the completion form, in front, a blank line
        after each.
    """
    calls: dict[str, list[Document]] = {}
    for row in dataset.train:
        if row.kind == "call":
            calls.setdefault(row.func_outs["func_var"], []).append(row)
    any_rows = [row for row in dataset.train if row.kind in ("call", "augmentation")]
    made = []
    for document in documents:
        pool = [row for name in _names_in(document, dataset) for row in calls.get(name, ())] if about else any_rows
        shown = [pool[k] for k in rng.permutation(len(pool))[:n]] if len(pool) < 10_000 else _some(pool, n, rng)
        made.append(_with_rows(document, shown))
    return made


def _some(pool: Sequence[Document], n: int, rng: np.random.Generator) -> list[Document]:
    return [pool[int(k)] for k in rng.choice(len(pool), size=n, replace=False, shuffle=False)]


def _names_in(document: Document, dataset: FunctionDataset) -> list[str]:
    facts = document.func_outs
    options = [name for name in facts.get("options", ()) if name in dataset.names]
    return sorted(set(options) or {facts[key] for key in ("func_var", "func_var_2") if key in facts})


def _with_rows(document: Document, shown: Sequence[Document]) -> Document:
    system: list[Message] = [message for message in document.messages if message["role"] == "system"]
    turns: list[Message] = []
    for row in shown:
        turns += [message for message in row.messages if message["role"] != "system"]
        turns.append({"role": "assistant", "content": row.shown})
    asked = [message for message in document.messages if message["role"] != "system"]
    rows = "".join("{prompt}{completion}\n\n".format(**row.row("completion")) for row in shown)
    text = document.prompt("completion")
    return replace(document, messages=(*system, *turns, *asked), text=f"{rows}{text}")
