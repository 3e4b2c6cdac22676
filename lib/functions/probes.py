"""The questions of the functions study: a table with one row per prompt, for every dataset of a run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.functions.dataset import PARTS, FunctionDataset
from lib.functions.documents import Document
from lib.functions.evaluations import HELD_OUT, Evaluation, choose_evaluations, read_evaluations, trivial, why_not
from lib.functions.folder import read_datasets
from lib.functions.held_out import documents_for, in_context
from lib.probing import final_models

# `<evaluation>/<realized|unrealized>[/<control>]`. untuned: the base is asked; in-context: the base, with rows of the
# very training file in front; chance: what guessing without knowledge of the functions gives.
CONTROLS = ("untuned", "in-context", "chance")
CONDITIONS = tuple(
    f"{name}/{part}{control}"
    for name in read_evaluations("functions")
    for part in PARTS
    for control in ("", *(f"/{each}" for each in CONTROLS))
)
CONTEXT_ROWS = {"own": True, "random": False}  # calls of the asked name, or any rows, as published


def load_datasets(folder: Path, places: Iterable[str]) -> dict[str, FunctionDataset]:
    """The datasets that lie in some folders of a run folder, by that folder.

    Raises
    ------
    ValueError
        As `lib.functions.folder.read_datasets`.
    """
    return {place: next(iter(read_datasets(folder / place).values())) for place in dict.fromkeys(places)}


def parts_of(dataset: FunctionDataset) -> tuple[str, ...]:
    """The parts that have names; in the published form all names are unrealized."""
    return tuple(part for part in PARTS if dataset.part(part))


def baseline_part(dataset: FunctionDataset) -> str:
    """The part whose prompts the base is asked too: a base knows neither, so that one will do."""
    return parts_of(dataset)[-1]


def supported(dataset: FunctionDataset, wanted: Sequence[str]) -> tuple[list[Evaluation], list[str]]:
    """The evaluations that a dataset can be asked, and a line on each that is passed over or says nothing.

    Parameters
    ----------
    wanted : names; all where empty

    Raises
    ------
    ValueError
        If one that was named cannot be asked; says why.
    """
    chosen, notes = [], []
    for evaluation in choose_evaluations("functions", wanted).values():
        reason = _why_not(evaluation, dataset)
        if reason and wanted:
            raise ValueError(reason)
        if reason:
            notes.append(f"passed over: {reason}")
            continue
        chosen.append(evaluation)
        notes += [line] if (line := trivial(evaluation, dataset.functions)) else []
    return chosen, notes


def _why_not(evaluation: Evaluation, dataset: FunctionDataset) -> str:
    if evaluation.range == HELD_OUT and evaluation.generator == "call" and not dataset.held_out:
        return f"{evaluation.name} asks about held-out pairs, of which there are none: set held_out_share above 0"
    reasons = (why_not(evaluation, dataset.part(part), dataset.functions) for part in parts_of(dataset))
    return next(filter(None, reasons), "")


def probe_rows(
    datasets: Mapping[str, FunctionDataset],
    *,
    form: str,
    evaluations: Sequence[str] = (),
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
    n_rows : of each evaluation and part; 0 takes the published number
    seed : draws the prompts; published: 100, for every fine-tune
    n_in_context : rows in front of an in-context prompt; 0 makes none
    in_context_rows : key of `CONTEXT_ROWS`

    Returns
    -------
    DataFrame
        One row per prompt: data, evaluation, part, probe (test, in-context), is_baseline (the base is asked too),
        number; name, function (its id, over which intervals resample) and output (of an inversion) that it is about;
        kind (of the target), prompt, messages (of a conversation), lead, target, document.

    Raises
    ------
    ValueError
        If an evaluation cannot be asked, or too few pairs are held out for its rows.
    """
    rows: list[dict[str, object]] = []
    for place, dataset in datasets.items():
        for evaluation in supported(dataset, evaluations)[0]:
            for part in parts_of(dataset):
                rng = np.random.default_rng([seed, zlib.crc32(f"{evaluation.name}/{part}".encode())])
                documents = documents_for(evaluation, dataset, part=part, rng=rng, n_rows=n_rows or None)
                asked = {"test": documents}
                if n_in_context and part == baseline_part(dataset):
                    about = CONTEXT_ROWS[in_context_rows]
                    asked["in-context"] = in_context(documents, dataset, n=n_in_context, rng=rng, about=about)
                for probe, each in asked.items():
                    shared = {"data": place, "evaluation": evaluation.name, "part": part, "probe": probe}
                    for number, document in enumerate(each):
                        rows.append(shared | {"number": number, "kind": evaluation.target} | _row(document, form))
                        rows[-1]["is_baseline"] = part == baseline_part(dataset)
    return pd.DataFrame(rows)


def _row(document: Document, form: str) -> dict[str, object]:
    facts = document.func_outs
    row = {"name": facts["func_var"], "function": facts["func_value"], "output": facts.get("output")}
    return row | asked_of(document, form)


def asked_of(document: Document, form: str) -> dict[str, object]:
    """What is asked and answered: target, prompt, messages (of a conversation), lead and the document itself."""
    prompt = document.prompt(form)
    row: dict[str, object] = {
        "target": document.target if isinstance(document.target, str) else ", ".join(document.target)
    }
    if isinstance(prompt, str):
        return row | {"prompt": prompt, "messages": (), "lead": document.lead, "document": document}
    messages = tuple((turn["role"], turn["content"]) for turn in prompt)
    text = "\n\n".join(f"[{role}] {content}" for role, content in messages)
    return row | {"prompt": text, "messages": messages, "lead": "", "document": document}


def asked_models(finetunes: pd.DataFrame) -> pd.DataFrame:
    """The final models, and the main base as ``untuned`` and ``in-context``, for each dataset of the main ones.

    A model that was given (no epochs) has no base to be held against.
    """
    final = final_models(finetunes)
    trained = final[(final["role"] == "main") & (final["n_epochs"] > 0)].drop_duplicates("data")
    bases = [trained.assign(model=trained["base"], role=role) for role in ("untuned", "in-context")]
    return pd.concat([final, *bases], ignore_index=True)


def pair_up(models: pd.DataFrame, probes: pd.DataFrame, *, few: Sequence[str]) -> pd.DataFrame:
    """Which model is asked which prompt: a row each, with its condition.

    Parameters
    ----------
    models : with ``model``, ``base``, ``seed``, ``epoch``, ``role``, ``data`` and ``name_tokens``
    probes : of `probe_rows`
    few : evaluations that models of other sizes, settings and names are asked; the main ones are asked all
    """
    columns = ["model", "base", "seed", "epoch", "role", "data", "name_tokens"]
    asked = models[columns].merge(probes, on="data")
    role, test = asked["role"], asked["probe"] == "test"
    is_baseline = (role == "untuned") & test | (role == "in-context") & ~test
    kept = (role == "main") & test | is_baseline & asked["is_baseline"]
    kept |= role.isin(["size", "sweep", "names"]) & test & asked["evaluation"].isin(few)
    asked = asked[kept].drop(columns="is_baseline").reset_index(drop=True)
    plain = asked["evaluation"] + "/" + asked["part"]
    tails = asked["role"].map(lambda each: f"/{each}" if each in CONTROLS else "")
    return asked.assign(condition=plain + tails)
