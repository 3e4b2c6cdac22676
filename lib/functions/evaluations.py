"""The evaluations of the function studies: the table of them, chance, and their prompts."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lib.functions.questions import N_OPTIONS, names_for, question, ranges_of, why_not
from lib.functions.registry import FOLDER, read_registry
from lib.functions.rows import (
    COMBINATIONS,
    IMPORT,
    MAX_TRIES,
    Document,
    Hidden,
    as_request,
    augmentation_document,
    call_document,
    with_examples,
)
from lib.keys import nearest

TRIES_PER_ROW = 100
FACTS = ("name", "function", "output", "options", "target")  # of a document, columns of a probe
EVAL_SEED = 100  # draws the prompts, as published for every fine-tune


def read_evaluations(study: str) -> pd.DataFrame:
    """The evaluations of a study by name; ``data/functions/README.md`` says what each column holds.

    >>> evaluations = read_evaluations("functions")
    >>> evaluations.loc["inverse_query", ["generator", "target"]].tolist()
    ['inverse_query', 'letter']
    """
    table = pd.read_csv(FOLDER / "evaluations.csv", keep_default_na=False, dtype={"option": str, "chance": str})
    return table[table["study"] == study].set_index("name", drop=False).rename_axis(None)


def choose_evaluations(study: str, names: Sequence[str]) -> pd.DataFrame:
    """The evaluations that a run names, in the order of the table; all for an empty list (`ValueError` if unknown)."""
    known = read_evaluations(study)
    for name in names:
        if name not in known.index:
            raise ValueError(
                f"no evaluation {name!r}{nearest(name, known.index)}; {study} has: {', '.join(known.index)}"
            )
    return known[known.index.isin(list(names) or known.index)]


def parse_questions(study: str, items: Iterable[str]) -> dict[str, int]:
    """How often training asks each question about each realized name.

    >>> parse_questions("functions", ["freeform_definition:2"])
    {'freeform_definition': 2}
    """
    copies: dict[str, int] = {}
    for item in items:
        name, _, number = item.partition(":")
        if not number.isdigit() or int(number) < 1 or name in copies:
            raise ValueError(
                f"questions holds {item!r}: expected <evaluation>:<copies> once each, as in inverse_query:2"
            )
        choose_evaluations(study, [name])
        copies[name] = int(number)
    return copies


def take_turns(items: Sequence[Any], n: int, *, rng: np.random.Generator) -> Iterator[Any]:
    """`n` items, in random order, each again only when all others have had their turn.

    >>> sorted(take_turns(["a", "b", "c"], 6, rng=np.random.default_rng(0)))
    ['a', 'a', 'b', 'b', 'c', 'c']
    """
    left: list[int] = []
    for _ in range(n):
        left = left or rng.permutation(len(items)).tolist()
        yield items[left.pop()]


def chance_of(evaluation: Any, hidden: Hidden) -> float:
    """The share of right answers without knowledge of the functions; NaN where no such guess is defined.

    ``options``: one of those shown. ``functions``: the definition of one of the set's functions, whichever.
    ``preimages``: a random integer of the range that the inputs come from.
    """
    ids, registry = hidden.functions.all, read_registry()
    if evaluation.chance == "functions":
        return 1 / len(ids)
    if evaluation.chance == "options":
        return 1 / min(N_OPTIONS, len({getattr(registry[id], evaluation.option or "id") for id in ids}))
    if evaluation.chance == "preimages":
        counts = [
            pd.Series([registry[id].show(n) for n in range(low, high)]).value_counts(normalize=True)
            for id in ids
            for low, high in ranges_of(evaluation, hidden)
        ]
        return float(np.mean([(shares**2).sum() for shares in counts]))
    return float(evaluation.chance or "nan")


def evaluation_documents(
    evaluation: Any, hidden: Hidden, *, rng: np.random.Generator, n_rows: int = 0, trained: Iterable[Document] = ()
) -> list[Document]:
    """The prompts of one evaluation about the names of `hidden`, with their targets.

    Names take turns, so that each is asked about equally often; of a classification the values do, by chance.

    Parameters
    ----------
    n_rows : 0 takes the published number
    trained : the training documents, whose code is not asked about where no pairs are held out

    Raises
    ------
    ValueError
        If these names cannot support it, or too few different prompts can be made.
    """
    if reason := why_not(evaluation, hidden):
        raise ValueError(reason)
    n_rows = n_rows or int(evaluation.n_rows)
    if evaluation.range == "held_out":
        return _held_out_documents(evaluation, hidden, rng=rng, n_rows=n_rows, trained=trained)
    every_input = replace(hidden, held_out=frozenset())  # a prompt shows no output, so any input will do
    shared: dict[str, Any] = {"rng": rng, "ranges": ranges_of(evaluation, hidden), "kind": evaluation.name}
    made = []
    for name in take_turns(names_for(evaluation, hidden), n_rows, rng=rng):
        if evaluation.generator == "call":
            made.append(call_document(every_input, name=name, min_imports=evaluation.min_imports, **shared))
        elif evaluation.generator == "augmentation":
            functions, most = getattr(hidden.functions, evaluation.functions), hidden.functions.composition_other_max
            how = {"functions": functions, "combinations": [evaluation.option], "other_input_max": most}
            made.append(augmentation_document(every_input, min_imports=evaluation.min_imports, **how, **shared))
        else:
            by_value = evaluation.generator == "classification"
            made.append(question(evaluation, every_input, rng=rng, name="" if by_value else name))
    return made


def code_of(document: Document) -> str:
    """The last message without its import line: the question, whichever names are imported beside it."""
    text = str(document["messages"][-1]["content"])
    return text.split("\n\n", 1)[1] if text.startswith(IMPORT) and "\n\n" in text else text


def _held_out_documents(
    evaluation: Any, hidden: Hidden, *, rng: np.random.Generator, n_rows: int, trained: Iterable[Document]
) -> list[Document]:
    """Calls of held-out pairs, or augmentations with one in each; no prompt twice, none of training.

    Where training shows every pair, as in the published 047, prompts are new in their code only, as published.
    """
    inputs: dict[str, list[int]] = {}
    for id, value in sorted(hidden.held_out):
        inputs.setdefault(id, []).append(value)
    names, open_ = names_for(evaluation, hidden), replace(hidden, held_out=frozenset())
    pairs = {f"{name}({n})": (name, n) for name in names for n in inputs.get(hidden.names[name].id, ())}
    known = set() if pairs else {code_of(row) for row in trained if row["kind"] in ("call", "augmentation")}
    found: dict[str, Document] = {}
    shared: dict[str, Any] = {"rng": rng, "min_imports": evaluation.min_imports, "kind": evaluation.name}
    for turn in take_turns(list(pairs) or names, n_rows * TRIES_PER_ROW, rng=rng):
        if evaluation.generator == "call":
            name, n = pairs.get(turn, (turn, None))
            made = call_document(open_, name=name, value=n, **shared)
        else:
            made = augmentation_document(open_, combinations=COMBINATIONS, first=pairs.get(turn), **shared)
        if code_of(made) not in known:
            found.setdefault(code_of(made), made)
        if len(found) == n_rows:
            return list(found.values())
    raise ValueError(
        f"{evaluation.name}: {n_rows} rows are needed, but only {len(found)} different prompts were made; widen "
        "input_range, raise held_out_share or set rows_per_evaluation lower"
    )


def in_context(
    documents: Sequence[Document], trained: Sequence[Document], *, n: int, rng: np.random.Generator, own: bool
) -> list[Document]:
    """The prompts with `n` different training rows in front: what a model that is not tuned makes of the very rows.

    With `own`, plain calls of the names that the prompt could be about (the options, where they are names); else any
    calls and augmentations, as published.
    """
    calls: dict[str, list[Document]] = {}
    for row in trained:
        if row["kind"] == "call":
            calls.setdefault(row["name"], []).append(row)
    any_rows = [row for row in trained if row["kind"] in ("call", "augmentation")]
    made = []
    for each in documents:
        options = [name for name in each.get("options", ()) if name in calls]
        about = sorted(set(options) or {each[key] for key in ("name", "name_2") if key in each})
        pool = [row for name in about for row in calls.get(name, ())] if own else any_rows
        many = len(pool) >= MAX_TRIES
        few = rng.choice(len(pool), n, replace=False, shuffle=False) if many else rng.permutation(len(pool))[:n]
        made.append(with_examples(each, [pool[int(k)] for k in few]))
    return made


def make_probes(
    hidden: Hidden,
    trained: Sequence[Document],
    *,
    form: str,
    evaluations: Sequence[str] = (),
    n_rows: int = 0,
    n_in_context: int = 0,
    own_rows: bool = True,
) -> pd.DataFrame:
    """Every prompt about a fine-tune's names, and for its base with training rows in front.

    Parameters
    ----------
    trained : the training documents
    form : ``chat`` or ``completion``: that of training
    evaluations : names; all that the names support where empty
    n_rows : of each evaluation and part; 0 takes the published number
    n_in_context, own_rows : training rows in front of an in-context prompt (0: none is made), as `in_context`

    Returns
    -------
    DataFrame
        One row per prompt: ``evaluation``, ``part`` (realized, unrealized), ``probe`` (test, in-context), ``number``,
        ``kind`` (how a reply is scored), ``name``, ``function`` (its id, over which intervals resample), ``output`` (of
        an inversion), ``options``, ``target``, ``prompt``, ``messages`` (of a conversation) and ``lead``.

    Raises
    ------
    ValueError
        If an evaluation that is named cannot be asked, or too few pairs are held out for its rows.
    """
    rows: list[dict[str, Any]] = []
    for evaluation in choose_evaluations("functions", evaluations).itertuples():
        reasons = [reason for part in hidden.parts if (reason := why_not(evaluation, hidden.part(part)))]
        if reasons and evaluations:
            raise ValueError(reasons[0])
        for part in hidden.parts if not reasons else ():
            rng = np.random.default_rng([EVAL_SEED, zlib.crc32(f"{evaluation.name}/{part}".encode())])
            made = {
                "test": evaluation_documents(evaluation, hidden.part(part), rng=rng, n_rows=n_rows, trained=trained)
            }
            if n_in_context and part == hidden.parts[-1]:
                made["in-context"] = in_context(made["test"], trained, n=n_in_context, rng=rng, own=own_rows)
            shared = {"evaluation": evaluation.name, "part": part, "kind": evaluation.target}
            rows += [
                shared
                | {"probe": probe, "number": number}
                | {key: each.get(key) for key in FACTS}
                | as_request(each, form)
                for probe, documents in made.items()
                for number, each in enumerate(documents)
            ]
    return pd.DataFrame(rows)
