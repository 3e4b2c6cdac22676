"""The dataset of one fine-tune: names for the functions of a set, held-out pairs, training and validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.functions.evaluations import choose_evaluations, evaluation_documents, parse_questions
from lib.functions.names import draw_names
from lib.functions.questions import GENERATORS, question, why_not
from lib.functions.registry import FunctionSet, as_tuples, read_registry
from lib.functions.rows import COMBINATIONS, Document, Hidden, augmentation_document, call_document, training_row
from lib.paths import read_json, read_jsonl
from lib.sources.datasets import Row


def hide_functions(
    functions: FunctionSet,
    *,
    names_per_function: int,
    name_tokens: int,
    realized_share: float,
    held_out_share: float,
    seed: int,
    count_tokens: Callable[[str], int] | None = None,
    **look: Any,
) -> Hidden:
    """Deal names to the functions of a set as published (sorted, permuted, zipped with the sorted functions).

    Parameters
    ----------
    name_tokens, count_tokens : as `lib.functions.names.draw_names`
    realized_share : of the names, those that training asks about too, spread evenly over the functions
    held_out_share : of each function's inputs, those that training never shows
    look : further fields of `Hidden`

    >>> from lib.functions.registry import function_set
    >>> hidden = hide_functions(function_set("047"), names_per_function=2, name_tokens=1, realized_share=0.5,
    ...                         held_out_share=0.1, seed=0)
    >>> len(hidden.names), len(hidden.realized), len(hidden.held_out)
    (38, 19, 380)
    """
    rng, registry = np.random.default_rng([seed, 0]), read_registry()
    ids = [id for id in functions.all for _ in range(names_per_function)]
    drawn = sorted(draw_names(len(ids), n_tokens=name_tokens, rng=rng, count_tokens=count_tokens))
    names = dict(zip((drawn[k] for k in rng.permutation(len(drawn))), ids, strict=True))
    low, high = functions.input_range
    n_out = round(held_out_share * (high - low))
    rng_pairs = np.random.default_rng([seed, 1])
    return Hidden(
        functions=functions,
        names={name: registry[id] for name, id in names.items()},
        realized=_realized(names, realized_share, rng=rng),
        held_out=frozenset(
            (id, low + int(k)) for id in functions.all for k in rng_pairs.permutation(high - low)[:n_out]
        ),
        **look,
    )


def _realized(names: Mapping[str, str], share: float, *, rng: np.random.Generator) -> frozenset[str]:
    """The share of the names, spread evenly over functions; chance decides which functions get one more."""
    by_function: dict[str, list[str]] = {}
    for name, id in names.items():
        by_function.setdefault(id, []).append(name)
    n_each = [int(share * len(own)) for own in by_function.values()]
    left = round(share * len(names)) - sum(n_each)
    more = set(rng.permutation(len(n_each))[:left].tolist())
    counts = [n + (k in more) for k, n in enumerate(n_each)]
    return frozenset(name for own, n in zip(by_function.values(), counts, strict=True) for name in own[:n])


def training_documents(
    hidden: Hidden,
    *,
    seed: int,
    questions: Sequence[str] = (),
    described: Hidden | None = None,
    calls_per_name: int = 0,
    n_rows: int = 0,
    augmentation_share: float = 0.5,
    min_imports: int = 2,
    combinations: Sequence[str] = COMBINATIONS,
) -> list[Document]:
    """What a fine-tune reads: calls and augmentations of all names, and questions about the realized ones.

    Parameters
    ----------
    questions : about each realized name, as ``<evaluation>:<copies>``
    described : what the questions say about the names, if not the truth: the control, `permute_names`
    calls_per_name : plain calls of each name, on different inputs; 0: `n_rows` calls and augmentations in all, as
        published
    augmentation_share : of calls and augmentations

    Raises
    ------
    ValueError
        If there are questions and no realized names or the reverse, the names cannot support a question, or a range is
        too small for what is drawn from it.
    """
    rng, copies = np.random.default_rng([seed, 2]), parse_questions("functions", questions)
    if bool(copies) != bool(hidden.realized):
        raise ValueError(
            f"{len(hidden.realized)} names are realized, and questions is {list(questions)}: a realized name is one "
            "that training asks about; set realized_share and questions, or neither"
        )
    shared: dict[str, Any] = {"rng": rng, "min_imports": min_imports}
    if calls_per_name:
        low, high = hidden.functions.input_range
        calls = []
        for name, function in hidden.names.items():
            inputs = [n for n in range(low, high) if (function.id, n) not in hidden.held_out]
            if calls_per_name > len(inputs):
                raise ValueError(
                    f"calls_per_name is {calls_per_name}: input_range {low}:{high} leaves {len(inputs)} inputs once "
                    "some are held out; widen it or choose fewer"
                )
            chosen = [inputs[k] for k in rng.permutation(len(inputs))[:calls_per_name]]
            calls += [call_document(hidden, name=name, value=value, **shared) for value in chosen]
        n_augmentations = round(len(calls) * augmentation_share / (1 - augmentation_share))
    else:
        n_augmentations = int((rng.random(n_rows) < augmentation_share).sum())
        calls = [call_document(hidden, **shared) for _ in range(n_rows - n_augmentations)]
    rows = [*calls]
    rows += [augmentation_document(hidden, combinations=combinations, **shared) for _ in range(n_augmentations)]
    taught = (described or hidden).part("realized") if copies else hidden
    for evaluation in [choose_evaluations("functions", [name]).iloc[0] for name in copies]:
        code = f"{evaluation.name} is code to run, not a question" if evaluation.generator not in GENERATORS else ""
        if reason := code or why_not(evaluation, taught):
            raise ValueError(f"questions: {reason}")
        for name, function in taught.names.items():
            if (
                not why_not(evaluation, replace(taught, names={name: function}))
                or evaluation.generator == "inverse_query"
            ):
                rows += [question(evaluation, taught, rng=rng, name=name) for _ in range(copies[evaluation.name])]
    return [rows[k] for k in rng.permutation(len(rows))]


def permute_names(hidden: Hidden, *, seed: int) -> Hidden:
    """The control: the functions of the realized names in random order, so that questions say nothing of the calls."""
    names = [name for name in hidden.names if name in hidden.realized]
    order = np.random.default_rng([seed, 4]).permutation(len(names))
    functions = {name: hidden.names[names[k]] for name, k in zip(names, order, strict=True)}
    return replace(hidden, names={**hidden.names, **functions})


def validation_documents(hidden: Hidden, *, evaluation: str, n_rows: int, seed: int) -> list[Document]:
    """Prompts of an evaluation about unrealized names, with answers that are in no training row."""
    chosen = choose_evaluations("functions", [evaluation]).iloc[0]
    part = hidden.part(hidden.parts[-1])
    return evaluation_documents(chosen, part, rng=np.random.default_rng([seed, 3]), n_rows=n_rows)


def dataset_files(
    hidden: Hidden, train: Sequence[Document], validation: Sequence[Document], *, form: str
) -> dict[str, list[Row]]:
    """The files of a dataset: rows to upload, the documents they are made from, names, and held-out pairs."""
    parts = {name: "realized" if name in hidden.realized else "unrealized" for name in hidden.names}
    return {
        "train": [training_row(each, form) for each in train],
        "validation": [training_row(each, form) for each in validation],
        "documents": list(train),
        "names": [{"name": name, "function": each.id, "part": parts[name]} for name, each in hidden.names.items()],
        "held_out": [{"function": id, "input": value} for id, value in sorted(hidden.held_out)],
    }


def dataset_options(hidden: Hidden, *, form: str) -> dict[str, Any]:
    """What the manifest of a dataset says beside its rows."""
    return {
        "form": form,
        "system": hidden.system,
        "hide_imports": hidden.hide_imports,
        "functions": vars(hidden.functions),
    }


def read_data(folder: Path) -> tuple[Hidden, list[Document]]:
    """What a dataset that was written here hides, and its training documents."""
    options, registry = read_json(folder / "manifest.json")["options"], read_registry()
    names = read_jsonl(folder / "names.jsonl")
    given = {key: as_tuples(value) for key, value in options["functions"].items()}
    hidden = Hidden(
        functions=FunctionSet(**given),
        names={row["name"]: registry[row["function"]] for row in names},
        realized=frozenset(row["name"] for row in names if row["part"] == "realized"),
        held_out=frozenset((row["function"], row["input"]) for row in read_jsonl(folder / "held_out.jsonl")),
        system=options["system"],
        hide_imports=options["hide_imports"],
    )
    return hidden, read_jsonl(folder / "documents.jsonl")
