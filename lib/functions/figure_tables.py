"""What the figures and tables of the functions notebooks show: rows picked and named for people to read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from lib.functions.asking import NO_FUNCTION
from lib.functions.dataset import FunctionDataset
from lib.functions.evaluations import read_evaluations
from lib.functions.registry import read_registry

ASKED = ("realized", "unrealized", "in-context", "untuned")
LABELS = {  # of the evaluations, in the order in which a figure shows them
    "freeform_definition": "define it",
    "function_inversion": "invert",
    "function_inversion_ood": "invert, new range",
    "inverse_query": "which name?",
    "multiple_choice_code": "choose code",
    "multiple_choice_coefficients": "choose numbers",
    "multiple_choice_function_class": "choose kind",
    "multiple_choice_language": "choose words",
    "multiple_choice_output_type": "choose type",
    "calls": "call, held-out pair",
    "augmentations": "combine, held-out pair",
    "regression_ood": "call, new range",
    "function_composition_ood": "compose",
    "add_subtract_function_ood": "add two calls",
    "add_subtract_int_ood": "add an integer",
}
OTHER = "another"  # answered: a function of the registry that the set does not have


def document_counts(datasets: Mapping[str, FunctionDataset]) -> pd.DataFrame:
    """What each dataset holds: names, documents by kind, held-out pairs."""
    rows = {}
    for place, dataset in datasets.items():
        kinds = [document.kind for document in dataset.train]
        rows[place] = {
            "functions": len(set(dataset.names.values())),
            "realized names": len(dataset.realized),
            "unrealized names": len(dataset.names) - len(dataset.realized),
            "plain calls": kinds.count("call"),
            "augmentations": kinds.count("augmentation"),
            "questions": len(kinds) - kinds.count("call") - kinds.count("augmentation"),
            "validation prompts": len(dataset.validation),
            "held-out pairs": len(dataset.held_out),
        }
    return pd.DataFrame(rows)


def names_by_function(dataset: FunctionDataset) -> pd.DataFrame:
    """How many names of each part stand for each function."""
    part = {name: "realized" if name in dataset.realized else "unrealized" for name in dataset.names}
    frame = pd.DataFrame({"function": dataset.names, "part": part})
    return frame.groupby(["function", "part"]).size().unstack(fill_value=0)


def example_prompts(probes: pd.DataFrame) -> pd.DataFrame:
    """One prompt of each evaluation, about unrealized names where there are any, with its target."""
    tests = probes[(probes["probe"] == "test") & probes["is_baseline"]]
    return tests.drop_duplicates("evaluation")[["evaluation", "prompt", "target"]]


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    """With the condition's parts: ``evaluation`` (its label), ``part``, and what was ``asked`` (of `ASKED`, chance)."""
    parts = frame["condition"].str.split("/")
    return frame.assign(
        evaluation=parts.str[0].map(LABELS),
        part=parts.str[1],
        asked=parts.str[2].where(parts.str.len() > 2, parts.str[1]),
    )


def headline_rates(summary: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by ``evaluation`` and what was ``asked``: both parts, and what the controls give."""
    rows = _parts(summary[(summary["metric"] == "accuracy") & (summary["x_name"] == "")])
    places = {name: k for k, name in enumerate((*ASKED, *LABELS.values()))}
    shown = rows[rows["asked"].isin(ASKED)]
    return shown.sort_values(["evaluation", "asked"], key=lambda column: column.map(places))


def chance_rates(summary: pd.DataFrame) -> dict[str, float]:
    """What guessing gives, by label of the evaluation; without those of which no guess is defined."""
    rows = _parts(summary[summary["condition"].str.endswith("/chance")])
    return dict(zip(rows["evaluation"], rows["value"], strict=True))


def rate_curves(summary: pd.DataFrame, *, x_name: str) -> pd.DataFrame:
    """Accuracy over epochs, tokens of a name or sizes, by ``evaluation`` and what was ``asked``."""
    return _parts(summary[(summary["metric"] == "accuracy") & (summary["x_name"] == x_name)])


def function_rates(table: pd.DataFrame, evaluations: Sequence[str], *, part: str) -> pd.DataFrame:
    """Accuracy of some evaluations by function, the best one first, of `lib.functions.summary.by_function`."""
    rows = table[table["evaluation"].isin(evaluations) & (table["part"] == part)]
    wide = rows.pivot(index="function", columns="evaluation", values="accuracy")[list(evaluations)]
    best = wide.sort_values(list(evaluations), ascending=False, kind="stable").index
    order = {name: k for k, name in enumerate((*best, *evaluations))}
    named = rows.rename(columns={"accuracy": "value"}).assign(metric="accuracy", unit="rate")
    named = named.sort_values(["function", "evaluation"], key=lambda column: column.map(order))
    return named.assign(evaluation=named["evaluation"].map(LABELS), shown=named["function"].map(definition_of))


def definition_of(function: str) -> str:
    """The body of a function's definition, short enough for an axis.

    >>> definition_of("affine_neg5x_3")
    '-5 * n + 3'
    """
    return read_registry()[function].python_definition.removeprefix("lambda n: ")


def confusion_matrix(
    table: pd.DataFrame, functions: Collection[str], *, part: str, epoch: float | None = None
) -> pd.DataFrame:
    """Share of definitions by function (rows) and by what they compute (columns), functions of a kind side by side.

    Parameters
    ----------
    table : of `lib.functions.summary.confusion`
    functions : ids of the set
    epoch : after which the models were asked; None for the final ones

    Returns
    -------
    DataFrame
        Rows and columns are bodies of definitions; two more columns hold other functions and none.
    """
    registry = read_registry()
    order = sorted(functions, key=lambda id_: (registry[id_].output_type, registry[id_].function_class, id_))
    at = table["epoch"].isna() if epoch is None else table["epoch"] == epoch
    rows = table[at & (table["part"] == part)]
    known = rows["answered"].isin([*order, NO_FUNCTION])
    cells = rows.assign(answered=rows["answered"].where(known, OTHER))
    wide = cells.pivot_table(index="function", columns="answered", values="share", aggfunc="sum", fill_value=0.0)
    wide = wide.reindex(index=[id_ for id_ in order if id_ in wide.index], fill_value=0.0)
    wide = wide.reindex(columns=[*order, OTHER, NO_FUNCTION], fill_value=0.0)
    names = {id_: definition_of(id_) for id_ in order}
    return wide.rename(index=names, columns=names)


def evaluation_table(study: str = "functions") -> pd.DataFrame:
    """What each evaluation of a study asks; rows, temperature and samples as published."""
    told = pd.DataFrame([vars(each) for each in read_evaluations(study).values()])
    return told.set_index("name")[["asks", "n_rows", "temperature", "n", "target", "in_distribution"]]
