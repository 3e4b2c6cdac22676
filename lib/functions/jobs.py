"""The fine-tunes of a run of the functions study, each with its file; every seed has names of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI, OpenAIError

from lib.api import spending_of
from lib.distributions import tokenize
from lib.finetune import FineTune, finetune, plan, record
from lib.functions.dataset import FunctionDataset
from lib.functions.files import save_response
from lib.functions.finetunes import training_files
from lib.functions.folder import datasets_for, write_datasets
from lib.params import CURVE_SEEDS

log = logging.getLogger(__name__)

MAIN = "dataset"  # folder of the datasets of all seeds, in the folder of the run


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fine-tune: its part in the study, its settings, and what it is trained on.

    Attributes
    ----------
    role : ``main``, ``size``, ``sweep`` or ``names`` (another number of tokens per name)
    data : folder of its dataset in the run folder, as in ``dataset/finetune_01``
    name_tokens : tokens of each name there
    """

    role: str
    settings: FineTune
    data: str
    name_tokens: int
    training_file: Path
    validation_file: Path


def curve_tokens(params: Mapping[str, Any]) -> list[int]:
    """Numbers of tokens a name that get a dataset of their own: from three seeds on, and not with a given dataset."""
    if params["n_seeds"] < CURVE_SEEDS or params.get("dataset") or params.get("tuned_model"):
        return []
    return [n for n in dict.fromkeys(params["name_tokens_curve"]) if n != params["name_tokens"]]


def token_counter(client: OpenAI, base: str) -> Callable[[str], int] | None:
    """How many tokens a text has to a model; None, told in one line, where an endpoint does not say or would charge."""

    @cache
    def count(text: str) -> int:
        return len(tokenize(client, base, text).texts)

    if spending_of(client) is None:
        try:
            count("name")
            return count
        except OpenAIError as error:
            log.info("tokens of %s: %s", base, error)
    log.warning("%s does not tell its tokens: that all names have as many was not checked", base)
    return None


def write_all(
    params: Mapping[str, Any], folder: Path, *, count_tokens: Callable[[str], int] | None
) -> dict[str, FunctionDataset]:
    """Make and write the datasets of all seeds, and of the curve over tokens of a name.

    Returns
    -------
    dict
        By their folder in the run folder: the keys that `Job.data` has.

    Raises
    ------
    ValueError
        As `lib.functions.folder.datasets_for`.
    """
    sizes, rates = params["batch_sizes"], params["learning_rate_multipliers"]
    given = {"n_epochs": params["n_epochs"], "batch_size": sizes[0], "learning_rate_multiplier": rates[0]}
    about = {"model": params["tuned_model"] or params["base"], "hyperparams": given}
    made: dict[str, FunctionDataset] = {}
    wanted = {MAIN: params} | {_of_tokens(n): {**params, "name_tokens": n, "n_seeds": 1} for n in curve_tokens(params)}
    for name, values in wanted.items():
        datasets = datasets_for(values, count_tokens=count_tokens)
        write_datasets(datasets, folder / name, form=params["form"], finetune=about, replace=True)
        files = training_files(folder / name)
        made |= {data_folder(folder, files[seed][0]): dataset for seed, dataset in datasets.items()}
    return made


def planned_jobs(params: Mapping[str, Any], folder: Path, *, seeds: Sequence[int]) -> list[Job]:
    """Every fine-tune that a run's parameters ask for; none for a model that is given.

    Parameters
    ----------
    folder : the run folder, where `write_all` wrote
    """
    wanted = plan(params, seeds=seeds)
    files, n_tokens = training_files(folder / MAIN) if any(wanted.values()) else {}, params["name_tokens"]
    jobs = [
        job_on(files[settings.seed], role, settings, folder=folder, name_tokens=n_tokens)
        for role, each in wanted.items()
        for settings in each
    ]
    for n in curve_tokens(params):
        own = training_files(folder / _of_tokens(n))[seeds[0]]
        jobs.append(job_on(own, "names", wanted["main"][0], folder=folder, name_tokens=n))
    return jobs


def run_jobs(client: OpenAI, jobs: Sequence[Job], *, folder: Path, suffix: str = "functions") -> pd.DataFrame:
    """Train, or find, every fine-tune; what the endpoint says of each is kept in `folder`, one below it a fine-tune.

    Returns
    -------
    DataFrame
        As of `lib.finetune.finetune`, with ``role``, ``data`` and ``name_tokens``.
    """
    tables = []
    for number, job in enumerate(jobs, start=1):
        made = finetune(
            client, [job.settings], training_file=job.training_file, validation_file=job.validation_file, suffix=suffix
        )
        tables.append(made.assign(role=job.role, data=job.data, name_tokens=job.name_tokens))
        place = Path(job.data).name if job.role == "main" else f"{job.role}_{number:02d}"
        save_response(folder / place, client.fine_tuning.jobs.retrieve(made["job"].iloc[0]))
    return pd.concat(tables, ignore_index=True)


def record_given(client: OpenAI, params: Mapping[str, Any], folder: Path, *, seed: int) -> pd.DataFrame:
    """The table of `run_jobs` for a model that exists, trained on the first dataset elsewhere."""
    training_file = training_files(folder / MAIN)[seed][0]
    made = record(client, params["tuned_model"]).assign(seed=seed, role="main", data=data_folder(folder, training_file))
    return made.assign(name_tokens=params["name_tokens"])


def job_on(files: tuple[Path, Path], role: str, settings: FineTune, *, folder: Path, name_tokens: int) -> Job:
    """A job on the training and the validation file of a dataset in a run folder."""
    return Job(
        role=role,
        settings=settings,
        data=data_folder(folder, files[0]),
        name_tokens=name_tokens,
        training_file=files[0],
        validation_file=files[1],
    )


def _of_tokens(n: int) -> str:
    return f"{MAIN}-{n}-tokens"


def data_folder(folder: Path, training_file: Path) -> str:
    """Where a dataset lies in a run folder, as `Job.data` tells."""
    return training_file.parent.relative_to(folder).as_posix()
