"""The questions of the mixture study: a table with one row per prompt, for every dataset of a run."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.functions.evaluations import Evaluation, choose_evaluations, read_evaluations
from lib.functions.probes import CONTEXT_ROWS, asked_of
from lib.mixture.dataset import PARTS, MixtureDataset
from lib.mixture.evaluations import chance_of, documents_for, in_context, why_not
from lib.mixture.jobs import FOLDERS, UNLABELLED
from lib.probing import final_models

# `<evaluation>/<realized|unrealized>[/<control>]`. untuned: the base is asked; in-context: the base, with rows of the
# very training file in front; chance: what guessing gives; ideal: what a perfect mix gives, sampled as often.
CONTROLS = ("untuned", "in-context", "chance", "ideal")
# `unlabelled/<evaluation>[/<variant>]`: a joint model, trained on documents of one more pair that no label stands for.
# mixed-in: with old rows among them; longer: for more epochs; before: the joint model itself.
VARIANTS = ("mixed-in", "longer", "before", "chance")
CONDITIONS = tuple(
    [f"{name}/{part}{tail}" for name in read_evaluations("mixture") for part in PARTS for tail in
     ("", *(f"/{each}" for each in CONTROLS))]
    + [f"{UNLABELLED}/{name}{tail}" for name in read_evaluations("mixture") for tail in
       ("", *(f"/{each}" for each in VARIANTS))]
)  # fmt: skip


def is_left(place: str) -> bool:
    """Whether a dataset is one that a joint model hides afterwards, by its folder in the run folder."""
    return place.split("/")[0] in FOLDERS.values()


def parts_of(dataset: MixtureDataset) -> tuple[str, ...]:
    """The parts that have mixes; without questions in training all are unrealized."""
    return tuple(part for part in PARTS if dataset.part(part))


def supported(dataset: MixtureDataset, wanted: Sequence[str], *, n_rows: int = 0) -> tuple[list[Evaluation], list[str]]:
    """The evaluations that a dataset can be asked, and a line on each that is passed over.

    Parameters
    ----------
    wanted : names; all where empty
    n_rows : of each evaluation and part; 0 takes the published number

    Raises
    ------
    ValueError
        If one that was named cannot be asked; says why.
    """
    chosen, notes = [], []
    for evaluation in choose_evaluations("mixture", wanted).values():
        reasons = (why_not(evaluation, dataset, part=part, n_rows=n_rows or None) for part in parts_of(dataset))
        reason = next(filter(None, reasons), "")
        if reason and wanted:
            raise ValueError(reason)
        if reason:
            notes.append(f"passed over: {reason}")
        else:
            chosen.append(evaluation)
    return chosen, notes


def check_evaluations(datasets: Mapping[str, MixtureDataset], params: Mapping[str, Any]) -> list[str]:
    """Make every prompt that a run's parameters ask for, so that what cannot be asked is told before training.

    Returns
    -------
    list of str
        A line on each evaluation that the first dataset passes over.

    Raises
    ------
    ValueError
        As `probe_rows`.
    """
    keys = ("form", "evaluations", "left_evaluations", "n_in_context", "in_context_rows")
    n_rows = params["rows_per_evaluation"]
    probe_rows(datasets, n_rows=n_rows, seed=params["eval_seed"], **{key: params[key] for key in keys})
    return supported(next(iter(datasets.values())), params["evaluations"], n_rows=n_rows)[1]


def probe_rows(
    datasets: Mapping[str, MixtureDataset],
    *,
    form: str,
    evaluations: Sequence[str] = (),
    left_evaluations: Sequence[str] = (),
    n_rows: int = 0,
    seed: int = 100,
    n_in_context: int = 0,
    in_context_rows: str = "own",
) -> pd.DataFrame:
    """Every prompt, of both parts, and for the base with training rows in front.

    Parameters
    ----------
    datasets : by the folder that their models name
    form : ``chat`` or ``completion``
    evaluations : names; all that a dataset supports where empty
    left_evaluations : the same for pairs that a joint model hides afterwards
    n_rows : of each evaluation and part; 0 takes the published number
    seed : draws the prompts; published: 100, for every fine-tune
    n_in_context : rows in front of an in-context prompt; 0 makes none
    in_context_rows : ``own`` (rows of the asked label) or ``random`` (any, as published)

    Returns
    -------
    DataFrame
        One row per prompt: data, evaluation, part, probe (test, in-context), is_baseline (the base is asked too),
        number, name (the label), pair (over which intervals resample), kind (of the target), and the columns of
        `lib.functions.probes.asked_of`.

    Raises
    ------
    ValueError
        If an evaluation cannot be asked, or training leaves too few documents for its rows.
    """
    rows: list[dict[str, object]] = []
    for place, dataset in datasets.items():
        parts = parts_of(dataset)
        for evaluation in supported(dataset, left_evaluations if is_left(place) else evaluations, n_rows=n_rows)[0]:
            for part in parts:
                rng = np.random.default_rng([seed, zlib.crc32(f"{evaluation.name}/{part}".encode())])
                documents = documents_for(evaluation, dataset, part=part, rng=rng, n_rows=n_rows or None)
                asked = {"test": documents}
                is_baseline = part == parts[-1] and not is_left(place)
                if n_in_context and is_baseline:
                    about = CONTEXT_ROWS[in_context_rows]
                    asked["in-context"] = in_context(documents, dataset, n=n_in_context, rng=rng, about=about)
                for probe, each in asked.items():
                    shared: dict[str, object] = {
                        "data": place,
                        "evaluation": evaluation.name,
                        "part": part,
                        "probe": probe,
                    }
                    shared |= {"kind": evaluation.target, "is_baseline": is_baseline}
                    for number, document in enumerate(each):
                        about_it = {"name": document.func_outs["label"], "pair": document.func_outs["pair"]}
                        rows.append(shared | {"number": number} | about_it | asked_of(document, form))
    return pd.DataFrame(rows)


def asked_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The final models; their bases as ``untuned`` and ``in-context``; the joint models as they were ``before``.

    A model that was given (no epochs) has no base to be held against.
    """
    final = final_models(finetunes)
    trained = final[(final["role"] == "main") & (final["n_epochs"] > 0)].drop_duplicates(["data", "base"])
    bases = [trained.assign(model=trained["base"], role=role) for role in ("untuned", "in-context")]
    left = final[final["role"] == UNLABELLED]
    return pd.concat([final, *bases, left.assign(model=left["base"], role="before")], ignore_index=True)


def pair_up(models: pd.DataFrame, probes: pd.DataFrame, *, few: Sequence[str] = ()) -> pd.DataFrame:
    """Which model is asked which prompt: a row each, with its condition.

    Parameters
    ----------
    models : with ``model``, ``base``, ``family``, ``seed``, ``epoch``, ``role`` and ``data``
    probes : of `probe_rows`
    few : evaluations that models of a sweep are asked; all others are asked all
    """
    asked = models[["model", "base", "family", "seed", "epoch", "role", "data"]].merge(probes, on="data")
    role, test = asked["role"], asked["probe"] == "test"
    later = [*FOLDERS, "before"]
    kept = ((role == "main") | role.isin(later)) & test | (role == "sweep") & test & asked["evaluation"].isin(few)
    kept |= ((role == "untuned") & test | (role == "in-context") & ~test) & asked["is_baseline"]
    asked = asked[kept].reset_index(drop=True)
    plain = (asked["evaluation"] + "/" + asked["part"]).where(
        ~asked["role"].isin(later), UNLABELLED + "/" + asked["evaluation"]
    )
    tails = asked["role"].map(lambda each: f"/{each}" if each in {*CONTROLS, *VARIANTS} else "")
    return asked.drop(columns="is_baseline").assign(condition=plain + tails)


def chances(datasets: Mapping[str, MixtureDataset], asked: pd.DataFrame) -> dict[str, float]:
    """What guessing gives for each condition of the main and later models; without those of which no guess is defined.

    Parameters
    ----------
    asked : of `pair_up`
    """
    found = {}
    for row in asked[asked["role"].isin(["main", UNLABELLED])].drop_duplicates("condition").itertuples():
        chance = chance_of(read_evaluations("mixture")[str(row.evaluation)], datasets[str(row.data)])
        if not np.isnan(chance):
            found[str(row.condition)] = chance
    return found
