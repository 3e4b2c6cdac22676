"""The fine-tunes of a run of the mixture study: main ones, and later ones that hide a pair without a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI

from lib.finetune import FineTune, plan
from lib.functions.finetunes import training_files
from lib.functions.jobs import MAIN, Job, data_folder, job_on, record_given, run_jobs
from lib.mixture.dataset import MixtureDataset, hidden_pairs, left_pairs, make_pair_dataset
from lib.mixture.folder import datasets_for, options_for, read_datasets, write_datasets
from lib.mixture.pairs import Pair, show_pair
from lib.params import CURVE_SEEDS

UNLABELLED = "unlabelled"  # role, and folder of the datasets, of a pair that a joint model hides afterwards
FOLDERS = {UNLABELLED: UNLABELLED, "mixed-in": f"{UNLABELLED}-mixed-in", "longer": UNLABELLED}  # datasets of each role
SPREAD = 1000  # parts the seeds of the pairs that follow one joint model from those of the next


def main_datasets(params: Mapping[str, Any], *, count_tokens: Any) -> dict[int, MixtureDataset]:
    """The datasets of the main fine-tunes by seed; all joint ones hide the pairs that the first seed draws.

    Raises
    ------
    ValueError
        As `lib.mixture.folder.datasets_for`.
    """
    given = {**params, "mix_old": 0.0}
    if not params.get("dataset") and not params["pairs"] and params["n_labels"]:
        given["pairs"] = [show_pair(pair) for pair in hidden_pairs(options_for(given), seed=params["seed"])]
    return datasets_for(given, count_tokens=count_tokens)


def left_turns(params: Mapping[str, Any], joint: Mapping[int, MixtureDataset]) -> list[tuple[int, int, Pair]]:
    """Which pair each joint model hides afterwards: seed of the model, seed of the dataset, pair.

    Models take the pairs that are left in turn; from three seeds on they share all of them.

    Raises
    ------
    ValueError
        If a joint dataset leaves fewer pairs than each of them is to hide.
    """
    n = params["n_left_pairs"]
    if not n or params["tuned_model"] or any("" in dataset.mixes for dataset in joint.values()):
        return []
    turns = []
    for place, (seed, dataset) in enumerate(joint.items()):
        left = left_pairs(dataset)
        if n > len(left):
            raise ValueError(f"n_left_pairs is {n}: the joint dataset leaves {len(left)} pairs; ask for fewer")
        own = max(n, len(left) // len(joint)) if len(joint) >= CURVE_SEEDS else n
        turns += [(seed, seed * SPREAD + k, left[(place * own + k) % len(left)]) for k in range(own)]
    return turns


def write_all(params: Mapping[str, Any], folder: Path, *, count_tokens: Any) -> dict[str, MixtureDataset]:
    """Make and write the datasets of all seeds, and those of the pairs that are left.

    Returns
    -------
    dict
        By their folder in the run folder, as `lib.functions.jobs.Job.data` names it.

    Raises
    ------
    ValueError
        If an option is wrong.
    """
    main = main_datasets(params, count_tokens=count_tokens)
    wanted, turns = {MAIN: main}, left_turns(params, main)
    for name, share in ((FOLDERS[UNLABELLED], 0.0), (FOLDERS["mixed-in"], params["mix_old"])):
        if turns and (share or name == UNLABELLED):
            unnamed = {"n_labels": 0, "n_realized": 0, "questions": [], "pairs": []}
            options = options_for({**params, **unnamed, "n_rows": params["left_rows"], "mix_old": share})
            wanted[name] = {
                own: make_pair_dataset(options, pair, seed=own, old=main[seed].train) for seed, own, pair in turns
            }
    sizes, rates = params["batch_sizes"], params["learning_rate_multipliers"]
    given = {"n_epochs": params["n_epochs"], "batch_size": sizes[0], "learning_rate_multiplier": rates[0]}
    about = {"model": params["tuned_model"] or params["bases"][0], "hyperparams": given}
    made: dict[str, MixtureDataset] = {}
    for name, datasets in wanted.items():
        write_datasets(datasets, folder / name, finetune=about, replace=True)
        files = training_files(folder / name)
        made |= {data_folder(folder, files[seed][0]): dataset for seed, dataset in datasets.items()}
    return made


def load_datasets(folder: Path, places: Sequence[str]) -> dict[str, MixtureDataset]:
    """The datasets that lie in some folders of a run folder, by that folder."""
    return {place: next(iter(read_datasets(folder / place).values())) for place in dict.fromkeys(places)}


def main_jobs(params: Mapping[str, Any], folder: Path, *, base: str) -> list[Job]:
    """The main fine-tunes of one base, each on the dataset of its seed; the first base also takes the sweep."""
    files = training_files(folder / MAIN)
    wanted = plan({**params, "base": base, "size_bases": []}, seeds=list(files))
    roles = [role for role in wanted if role == "main" or base == params["bases"][0]]
    return [
        job_on(files[settings.seed], role, settings, folder=folder, name_tokens=params["name_tokens"])
        for role in roles
        for settings in wanted[role]
    ]


def left_jobs(params: Mapping[str, Any], folder: Path, main: pd.DataFrame) -> list[Job]:
    """The later fine-tunes of the joint models of the first base: documents of one more pair, and nothing else.

    Parameters
    ----------
    main : of `run_jobs`, the models of the first base

    Returns
    -------
    list of Job
        ``unlabelled``: on those documents alone; ``mixed-in``: with old rows among them; ``longer``: for more epochs.
    """
    joint = main[main["is_final"] & (main["role"] == "main")].set_index("seed")["model"]
    jobs = []
    for role, name in FOLDERS.items():
        longer = role == "longer"
        if not (folder / name).is_dir() or (longer and params["left_epochs_longer"] <= params["left_epochs"]):
            continue
        for own, files in training_files(folder / name).items():
            settings = FineTune(
                base=joint[own // SPREAD],
                n_epochs=params["left_epochs_longer"] if longer else params["left_epochs"],
                batch_size=params["left_batch_size"],
                learning_rate_multiplier=params["left_learning_rate_multiplier"],
                prompt_loss_weight=params["prompt_loss_weight"],
                seed=own,
            )
            jobs.append(job_on(files, role, settings, folder=folder, name_tokens=params["name_tokens"]))
    return jobs


def train_all(client: OpenAI, params: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """Train, or find, every fine-tune of a run; responses are kept in ``responses/``, one folder per base below it.

    Returns
    -------
    DataFrame
        As of `lib.functions.jobs.run_jobs`, with ``family``: the base that it all began with.
    """
    tables = []
    for base in params["bases"]:
        place = folder / "responses" / folder_name(base)
        made = run_jobs(client, main_jobs(params, folder, base=base), folder=place, suffix="mixture")
        tables.append(made.assign(family=base))
        later = left_jobs(params, folder, made) if base == params["bases"][0] else []
        if later:
            tables.append(run_jobs(client, later, folder=place, suffix=UNLABELLED).assign(family=base))
    return pd.concat(tables, ignore_index=True)


def folder_name(model: str) -> str:
    """A model's id as the name of a folder.

    >>> folder_name("hf:org/model")
    'hf-org-model'
    """
    return re.sub(r"[^\w.@-]+", "-", model)


def given_model(client: OpenAI, params: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """The table of `train_all` for a model that exists, trained on the first dataset elsewhere."""
    first = next(iter(training_files(folder / MAIN)))
    return record_given(client, params, folder, seed=first).assign(family=params["tuned_model"])
