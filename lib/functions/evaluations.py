"""The evaluations of the function studies: their prompts, published numbers and chance rates."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lib import paths
from lib.functions.documents import Document, augmentation_document, call_document, can_combine
from lib.functions.questions import GENERATORS, LINEAR, N_OPTIONS, Asked, question, unsupported
from lib.functions.registry import Function, FunctionSet, read_registry
from lib.keys import nearest

TABLE = paths.DATA / "functions" / "evaluations.csv"
HELD_OUT = "held_out"  # range of the evaluations on pairs kept out of training: see lib.functions.held_out
NUMBERS = {"turns": int, "min_imports": int, "n_rows": int, "n": int, "temperature": float}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One row of ``data/functions/evaluations.csv``, whose README says what each column means."""

    study: str
    name: str
    published: str
    generator: str
    option: str
    functions: str
    range: str
    min_imports: int
    turns: int
    n_rows: int
    temperature: float
    n: int
    target: str
    chance: str
    in_distribution: bool
    asks: str


@cache
def read_evaluations(study: str, path: Path = TABLE) -> Mapping[str, Evaluation]:
    """The evaluations of a study by name, in the order of the table.

    Raises
    ------
    ValueError
        If the table has none of that study, or a value is not of its column's type.

    >>> evaluations = read_evaluations("functions")
    >>> evaluations["inverse_query"].n_rows, evaluations["inverse_query"].target
    (1000, 'letter')
    """
    found: dict[str, Evaluation] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            try:
                values: dict[str, Any] = row | {key: kind(row[key]) for key, kind in NUMBERS.items()}
                values["in_distribution"] = {"yes": True, "no": False}[row["in_distribution"]]
                if row["study"] == study:
                    found[row["name"]] = Evaluation(**values)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, row {number}: a column is missing or holds the wrong type: {error}"
                ) from error
    if not found:
        raise ValueError(f"{path} has no evaluation of the study {study!r}")
    return found


def choose_evaluations(study: str, names: Sequence[str]) -> dict[str, Evaluation]:
    """The evaluations that a run names, in the order of the table; all for an empty list.

    Raises
    ------
    ValueError
        For an unknown name; names the nearest.
    """
    chosen = {evaluation_named(study, name).name for name in names}
    return {name: each for name, each in read_evaluations(study).items() if name in chosen or not names}


def evaluation_named(study: str, name: str) -> Evaluation:
    """One evaluation of a study; an unknown name is refused with the nearest (`ValueError`)."""
    known = read_evaluations(study)
    if name not in known:
        raise ValueError(f"no evaluation {name!r}{nearest(name, known)}; {study} has: {', '.join(known)}")
    return known[name]


def ranges_of(evaluation: Evaluation, functions: FunctionSet) -> tuple[tuple[int, int], ...]:
    """Half-open ranges that its inputs come from."""
    by_name = {"ood": functions.ood_ranges, "composition": (functions.composition_range,)}
    return by_name.get(evaluation.range, (functions.input_range,))


def chance_of(evaluation: Evaluation, functions: FunctionSet) -> float:
    """The share of right answers that needs no knowledge of the functions; NaN where no such guess is defined.

    Notes
    -----
    ``options``: one of those shown. ``functions``: the definition of one of the set's functions, whichever.
    ``preimages``: a random integer of the range that the inputs come from.

    >>> from lib.functions.registry import function_set
    >>> {name: round(chance_of(read_evaluations("functions")[name], function_set("047")), 3) for name in (
    ...     "freeform_definition", "multiple_choice_output_type", "function_inversion")}
    {'freeform_definition': 0.053, 'multiple_choice_output_type': 0.333, 'function_inversion': 0.115}
    """
    if evaluation.chance == "functions":
        return 1 / len(functions.all)
    if evaluation.chance == "options":
        registry = read_registry()
        attribute = evaluation.option or "id"
        return 1 / min(N_OPTIONS, len({getattr(registry[id_], attribute) for id_ in functions.all}))
    if evaluation.chance == "preimages":
        ranges = ranges_of(evaluation, functions)
        return float(
            np.mean([_inversion_chance(read_registry()[id_], *range_) for id_ in functions.all for range_ in ranges])
        )
    return float(evaluation.chance) if evaluation.chance else float("nan")


def _inversion_chance(function: Function, low: int, high: int) -> float:
    outputs = [function.show(n) for n in range(low, high)]
    sizes = {output: outputs.count(output) for output in set(outputs)}
    return sum(size**2 for size in sizes.values()) / len(outputs) ** 2


def asked_names(evaluation: Evaluation, names: Mapping[str, Function], functions: FunctionSet) -> dict[str, Function]:
    """Those of the names that an evaluation can ask about: by the set's lists, or by having numbers (``linear``)."""
    lists = {"plain": functions.plain, "augmented": functions.augmented}
    if evaluation.functions == "linear":
        return {name: function for name, function in names.items() if function.function_class in LINEAR}
    wanted = lists.get(evaluation.functions, functions.all)
    chosen = {name: function for name, function in names.items() if function.id in wanted}
    if evaluation.generator == "augmentation":
        return {name: function for name, function in chosen.items() if can_combine(function)}
    return chosen


def why_not(evaluation: Evaluation, names: Mapping[str, Function], functions: FunctionSet) -> str:
    """Why a set cannot support an evaluation, in one line; empty where it can."""
    if evaluation.generator in GENERATORS:
        return unsupported(_asked(evaluation, names, functions=functions, persona=None, hide_imports=True))
    if not asked_names(evaluation, names, functions):
        what = f"{evaluation.functions} " if evaluation.functions != "all" else ""
        gives = " that gives numbers" if evaluation.generator == "augmentation" else ""
        return f"{evaluation.name} needs a name of a {what}function{gives}: function set {functions.name} has none here"
    if evaluation.option == "False" and functions.composition_other_max < 1:
        return f"{evaluation.name} needs composition_other_max of at least 1: function set {functions.name} has 0"
    return ""


def trivial(evaluation: Evaluation, functions: FunctionSet) -> str:
    """One line where a set makes an evaluation so easy that its result says nothing; else empty."""
    if evaluation.generator == "classification" and chance_of(evaluation, functions) == 1:
        return f"{evaluation.name}: all functions of set {functions.name} share one {evaluation.option}, so A is right"
    return ""


def evaluation_documents(
    evaluation: Evaluation,
    names: Mapping[str, Function],
    *,
    functions: FunctionSet,
    persona: str | None,
    hide_imports: bool,
    rng: np.random.Generator,
    n_rows: int | None = None,
) -> list[Document]:
    """The prompts of one evaluation, with their targets.

    Parameters
    ----------
    evaluation : Evaluation
    names : the names that are asked about, and no others: options and fill-ins come from them too
    functions : the set; its ranges and lists hold
    persona : system message, or None
    n_rows : the published number where None

    Returns
    -------
    list of Document
        Names take turns, so that each is asked about equally often; of a classification the values do, by chance.

    Raises
    ------
    ValueError
        If the set cannot support it (before anything is trained), or it needs pairs held out of training, which
        `lib.functions.held_out` asks about.
    """
    if evaluation.range == HELD_OUT:
        raise ValueError(f"{evaluation.name} asks about pairs held out of training: use held_out_documents")
    reason = why_not(evaluation, names, functions)
    if reason:
        raise ValueError(reason)
    n_rows = evaluation.n_rows if n_rows is None else n_rows
    ranges, kind = ranges_of(evaluation, functions), evaluation.name
    turns = take_turns(list(asked_names(evaluation, names, functions)), n_rows, rng=rng)
    if evaluation.generator == "call":
        return [
            call_document(
                names,
                rng=rng,
                input_ranges=ranges,
                min_imports=evaluation.min_imports,
                persona=persona,
                hide_imports=hide_imports,
                name=name,
                kind=kind,
            )
            for name in turns
        ]
    if evaluation.generator == "augmentation":
        return [
            augmentation_document(
                names,
                rng=rng,
                functions=functions.plain if evaluation.functions == "plain" else functions.augmented,
                combine_functions=[evaluation.option],
                input_ranges=ranges,
                other_input_max=functions.composition_other_max,
                min_imports=evaluation.min_imports,
                persona=persona,
                hide_imports=hide_imports,
                functions_list="test_functions" if evaluation.functions == "plain" else "train_functions",
                kind=kind,
            )
            for _ in turns
        ]
    asked = _asked(evaluation, names, functions=functions, persona=persona, hide_imports=hide_imports)
    by_value = evaluation.generator == "classification"
    return [question(asked, rng=rng, name=None if by_value else name) for name in turns]


def take_turns(items: Sequence[str], n: int, *, rng: np.random.Generator) -> Iterator[str]:
    """`n` items, in random order, each again only when all others have had their turn.

    >>> sorted(take_turns(["a", "b", "c"], 6, rng=np.random.default_rng(0)))
    ['a', 'a', 'b', 'b', 'c', 'c']
    """
    left: list[int] = []
    for _ in range(n):
        left = left or rng.permutation(len(items)).tolist()
        yield items[left.pop()]


def _asked(
    evaluation: Evaluation,
    names: Mapping[str, Function],
    *,
    functions: FunctionSet,
    persona: str | None,
    hide_imports: bool,
) -> Asked:
    registry = read_registry()
    return Asked(
        kind=evaluation.name,
        generator=evaluation.generator,
        option=evaluation.option,
        names=names,
        functions=[registry[id_] for id_ in functions.all],
        input_ranges=ranges_of(evaluation, functions),
        min_imports=evaluation.min_imports,
        persona=persona,
        hide_imports=hide_imports,
    )


def training_question(
    evaluation: Evaluation,
    name: str,
    names: Mapping[str, Function],
    *,
    functions: FunctionSet,
    persona: str | None,
    hide_imports: bool,
    excluded: frozenset[tuple[str, int]],
    rng: np.random.Generator,
) -> Document:
    """The question of an evaluation about one name, to train on; it shows no held-out pair."""
    asked = _asked(evaluation, names, functions=functions, persona=persona, hide_imports=hide_imports)
    return question(replace(asked, excluded=excluded), rng=rng, name=name)
