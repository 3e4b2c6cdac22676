"""What the figures and tables of the mixture notebooks show: rows picked and named for people to read."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lib.functions.figure_tables import definition_of
from lib.mixture.dataset import MixtureDataset
from lib.mixture.evaluations import DISTRIBUTION_TEST
from lib.mixture.jobs import UNLABELLED
from lib.mixture.pairs import SIGN, show_pair

ASKED = ("realized", "unrealized", "in-context", "untuned")
LABELS = {  # of the evaluations, in the order in which a figure shows them
    "exact_pair": "write both",
    "python_definition": "choose code",
    "language_definition": "choose words",
    "function_class": "choose kinds",
    "values": "choose values",
    "max_min": "largest or smallest",
    "number_of_functions": "how many?",
    "regression_ID": "first output (best: 0.5)",
    "regression_ID_1ex": "second output",
    "regression_ID_2ex": "third output",
}
VARIANTS = {"before": "before", UNLABELLED: "documents alone", "mixed-in": "old rows mixed in", "longer": "more epochs"}


def document_counts(datasets: Mapping[str, MixtureDataset]) -> pd.DataFrame:
    """What each dataset holds: pairs, labels, documents and questions, held-out inputs."""
    rows = {}
    for place, dataset in datasets.items():
        kinds = [document.kind for document in dataset.train]
        labels = [label for label in dataset.mixes if label]
        rows[place] = {
            "hidden pairs": len(dataset.pairs),
            "realized labels": len(dataset.realized),
            "unrealized labels": len(labels) - len(dataset.realized),
            "documents": kinds.count("triple"),
            "questions": len(kinds) - kinds.count("triple"),
            "validation prompts": len(dataset.validation),
            "held-out (pair, input)": len(dataset.held_out),
        }
    return pd.DataFrame(rows)


def labels_by_pair(dataset: MixtureDataset) -> pd.DataFrame:
    """How many labels of each part stand for each pair."""
    part = {label: "realized" if label in dataset.realized else "unrealized" for label in dataset.mixes}
    pairs = {label: show_pair(pair) for label, pair in dataset.mixes.items()}
    counted = pd.DataFrame({"pair": pairs, "part": part}).groupby(["pair", "part"]).size().unstack(fill_value=0)
    return counted.rename(index=pair_name)


def pair_name(pair: str) -> str:
    """Both definitions of a pair, short enough for an axis.

    >>> pair_name("add_5+mod_2")
    'n + 5 | n % 2'
    """
    return " | ".join(map(definition_of, pair.split(SIGN)))


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    """With the condition's parts: ``evaluation`` (its label), ``part``, ``asked`` (of `ASKED`, chance, ideal)."""
    parts = frame["condition"].str.split("/")
    asked = parts.str[2].where(parts.str.len() > 2, parts.str[1])
    return frame.assign(evaluation=parts.str[0].map(LABELS), part=parts.str[1], asked=asked)


def _in_order(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    places = {name: k for k, name in enumerate((*ASKED, *LABELS.values(), *VARIANTS.values()))}
    return rows.sort_values(list(columns), key=lambda column: column.map(places), kind="stable")


def headline_rates(summary: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Accuracy of one base by ``evaluation`` and what was ``asked``: both parts, and what the controls give."""
    told = summary[(summary["metric"] == "accuracy") & (summary["x_name"] == "") & (summary["model"] == model)]
    rows = _parts(told)
    return _in_order(rows[rows["asked"].isin(ASKED) & rows["evaluation"].notna()], "evaluation", "asked")


def model_rates(summary: pd.DataFrame) -> pd.DataFrame:
    """Accuracy about unrealized mixes by ``evaluation`` and base (``model``), the first base first."""
    rows = _parts(summary[(summary["metric"] == "accuracy") & (summary["x_name"] == "")])
    return _in_order(rows[(rows["asked"] == "unrealized") & rows["evaluation"].notna()], "evaluation")


def chance_rates(summary: pd.DataFrame) -> dict[str, float]:
    """What guessing gives, by label of the evaluation; without those of which no guess is defined."""
    told = summary["condition"].str.endswith("/chance") & ~summary["condition"].str.startswith(UNLABELLED)
    rows = _parts(summary[told])
    return dict(zip(rows["evaluation"], rows["value"], strict=True))


def rate_curves(summary: pd.DataFrame, *, model: str) -> pd.DataFrame:
    """Accuracy of one base over epochs, by ``evaluation`` and what was ``asked``."""
    at = (summary["metric"] == "accuracy") & (summary["x_name"] == "epoch") & (summary["model"] == model)
    return _in_order(_parts(summary[at]), "evaluation", "asked")


def pair_rates(table: pd.DataFrame, evaluation: str, *, family: str, part: str) -> pd.DataFrame:
    """Accuracy of one evaluation by pair, the best first, of `lib.mixture.summary.by_pair`."""
    at = (table["evaluation"] == evaluation) & (table["family"] == family) & (table["part"] == part)
    rows = table[at].sort_values(["accuracy", "pair"], ascending=[False, True])
    named = rows.rename(columns={"accuracy": "value"}).assign(metric="accuracy", unit="rate")
    return named.assign(shown=named["pair"].map(pair_name))


def pair_matrix(table: pd.DataFrame, evaluation: str, *, family: str, part: str) -> pd.DataFrame:
    """Accuracy of one evaluation for each pair, by its two functions; NaN where no mix hides both."""
    rows = pair_rates(table, evaluation, family=family, part=part)
    pairs = {frozenset(pair.split(SIGN)): value for pair, value in zip(rows["pair"], rows["value"], strict=True)}
    functions = sorted(frozenset().union(*pairs))
    cells = [[pairs.get(frozenset({one, other}), float("nan")) for other in functions] for one in functions]
    names = list(map(definition_of, functions))
    return pd.DataFrame(cells, index=names, columns=names)


def distances(first: pd.DataFrame, *, family: str) -> pd.DataFrame:
    """Total variation of first answers, one row per prompt of `lib.mixture.asking.first_answers`, by ``asked``."""
    rows = first[(first["family"] == family) & first["condition"].str.startswith(DISTRIBUTION_TEST)]
    return _in_order(_parts(rows), "asked")


def unlabelled_rates(summary: pd.DataFrame) -> pd.DataFrame:
    """What comes out where a joint model hides one more pair without a label: by ``shown`` and ``variant``.

    Accuracy of each evaluation, and the share of the pair's functions that a reply names.
    """
    parts = summary["condition"].str.split("/")
    rows = summary.assign(evaluation=parts.str[1], variant=parts.str[2].fillna(UNLABELLED).map(VARIANTS))
    rows = rows[
        (parts.str[0] == UNLABELLED) & rows["variant"].notna() & rows["metric"].isin(["accuracy", "share_named"])
    ]
    named = rows["evaluation"].map(LABELS).where(rows["metric"] == "accuracy", "one of both")
    rows = rows.assign(shown=named, metric="accuracy")
    return _in_order(rows.dropna(subset="shown"), "shown", "variant")
