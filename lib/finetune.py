"""Fine-tune through the API, once: the same rows, base and settings are never trained a second time.

Each job carries a content key in its metadata. Before one is made, the endpoint is asked for a job with that key: a
finished one is used, a running one is joined, so a killed notebook or server costs only what was not yet trained.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from lib import hosted
from lib.api import fingerprint
from lib.integrations import for_endpoint
from lib.job_costs import JobCosts
from lib.params import active_bases
from lib.paths import content_hash, file_hash
from lib.progress import progress
from lib.sending import chats_only
from lib.uploads import upload

log = logging.getLogger(__name__)

KEY = "content_key"
POLL_SECONDS = 0.5
MEASURES = {
    "supervised": ("loss",),
    "dpo": ("loss", "reward_accuracy", "reward_margin"),
}  # that a checkpoint tells, by method


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Settings of one job. `learning_rate_multiplier` multiplies the base's own reference rate.

    Parameters
    ----------
    base : any model, a fine-tune too: so are stages chained
    method : ``supervised``, or ``dpo`` on pairs of answers with the base as the reference
    beta : of DPO, above 0: how dear it is to move away from the reference

    Raises
    ------
    ValueError
        If there is no such method, or beta or the prompt's weight does not go with it.
    """

    base: str
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float = 1.0
    prompt_loss_weight: float = 0.0
    seed: int = 0
    method: str = "supervised"
    beta: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in MEASURES:
            raise ValueError(f"no method is called {self.method!r}; expected one of {', '.join(MEASURES)}")
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; expected a number above 0, usually 0.1")
        if self.method == "dpo" and self.prompt_loss_weight:
            raise ValueError(f"prompt_loss_weight is {self.prompt_loss_weight}; DPO has none: leave it at 0")

    def told(self) -> dict[str, Any]:
        """The settings that count: as part of the content key, those of a supervised job must not change."""
        settings = asdict(self)
        unused = ("method", "beta") if self.method == "supervised" else ("prompt_loss_weight",)
        return {name: value for name, value in settings.items() if name not in unused}


def grid(
    *,
    bases: Sequence[str],
    learning_rate_multipliers: Sequence[float],
    batch_sizes: Sequence[int],
    seeds: Sequence[int],
    n_epochs: int,
    prompt_loss_weight: float = 0.0,
    method: str = "supervised",
    beta: float = 0.1,
) -> list[FineTune]:
    """Every combination of bases, rates, batch sizes and seeds; the seeds of one setting come together.

    >>> len(grid(bases=["a", "b"], learning_rate_multipliers=[1.0], batch_sizes=[8, 16], seeds=[0, 1, 2], n_epochs=1))
    12
    """
    return [
        FineTune(
            base=base,
            n_epochs=n_epochs,
            batch_size=size,
            learning_rate_multiplier=rate,
            prompt_loss_weight=prompt_loss_weight,
            seed=seed,
            method=method,
            beta=beta,
        )
        for base, rate, size, seed in itertools.product(bases, learning_rate_multipliers, batch_sizes, seeds)
    ]


def plan(params: Mapping[str, Any], *, seeds: Sequence[int]) -> dict[str, list[FineTune]]:
    """The jobs that a study's parameters ask for, by their role.

    Parameters
    ----------
    params : a study's values: ``base``, ``size_bases``, ``n_epochs``, ``batch_sizes``, ``learning_rate_multipliers``,
        ``prompt_loss_weight``, ``tuned_model``

    Returns
    -------
    dict
        ``main``: the first rate and batch size with every seed. ``size``: the same on further bases, with the first
        seed and from three seeds on. ``sweep``: every other combination of rates and batch sizes with the first seed.
        Empty for a model that is given.
    """
    if params["tuned_model"]:
        return {}
    rates, sizes = params["learning_rate_multipliers"], params["batch_sizes"]
    shared = {"n_epochs": params["n_epochs"], "prompt_loss_weight": params["prompt_loss_weight"]}
    first = {"learning_rate_multipliers": rates[:1], "batch_sizes": sizes[:1], "seeds": seeds}
    main = grid(bases=[params["base"]], **first, **shared)
    further = [base for base in active_bases(params) if base != params["base"]]
    sweep = grid(bases=[params["base"]], learning_rate_multipliers=rates, batch_sizes=sizes, seeds=seeds[:1], **shared)
    jobs = {
        "main": main,
        "size": grid(bases=further, **(first | {"seeds": seeds[:1]}), **shared),
        "sweep": [each for each in sweep if each not in main],
    }
    return {role: wanted for role, wanted in jobs.items() if wanted}


def finetune(
    client: OpenAI,
    wanted: Sequence[FineTune],
    *,
    training_file: Path,
    validation_file: Path | None = None,
    suffix: str,
    integrations: Sequence[Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Make (or find) each fine-tune and wait for it.

    Parameters
    ----------
    wanted : settings, for example from `grid`
    training_file, validation_file : JSON lines of prompt and completion, or of messages; for DPO of prompt, chosen and
        rejected, or in OpenAI's preference format. To a hosted base that only chats, and for DPO to any hosted one,
        plain texts are sent as conversations of one question and its answer
    suffix : part of the models' ids
    integrations : where the endpoint is to report the jobs; None for those of `lib.integrations`

    Returns
    -------
    DataFrame
        One row a usable model: the settings of `FineTune` that count for its method, ``job``, ``model``, ``epoch``,
        ``step``, ``is_final``, ``train_loss`` and ``valid_loss`` (nats a token; the epoch's last step, NaN where the
        endpoint does not say). DPO: losses are nats a pair, and ``train_reward_accuracy``, ``train_reward_margin`` and
        the same of the validation file stand beside them.

    Raises
    ------
    RuntimeError
        If a job fails or was cancelled; says why.
    lib.budget.BudgetExceeded
        If the jobs could pass the budget of a hosted endpoint together; none is made.
    """
    reported = for_endpoint(client, tag=suffix) if integrations is None else integrations
    costs, keys = JobCosts(client, training_file), []
    for settings in wanted:
        parts = [fingerprint(client, settings.base), settings.told(), file_hash(training_file)]
        keys.append(content_hash([*parts, file_hash(validation_file) if validation_file else None], length=24))
    if costs.ledger:
        missing = {key: each for key, each in zip(keys, wanted, strict=True) if not _find(client, key)}
        costs.reserve({key: (each.base, each.n_epochs) for key, each in missing.items()})
    jobs = []
    for key, settings in zip(keys, wanted, strict=True):
        make = partial(_create, client, settings, key, training_file, validation_file, suffix, reported)
        jobs.append(_find(client, key) or costs.create(key, make))
    tables = []
    for number, (key, settings, job) in enumerate(zip(keys, wanted, jobs, strict=True), start=1):
        done = _wait(client, job, f"fine-tune {number}/{len(jobs)} of {settings.base}, seed {settings.seed}")
        costs.settle(key, done)
        tables.append(_models(client, settings, done))
    return pd.concat(tables, ignore_index=True)


def record(client: OpenAI, model: str) -> pd.DataFrame:
    """The table of `finetune` for a model that exists: it is looked up, nothing is trained."""
    client.models.retrieve(model)
    settings = FineTune(base=model, n_epochs=0, batch_size=0)
    return pd.DataFrame([_row(settings, job="", model=model, epoch=0, step=0, is_final=True)])


def _find(client: OpenAI, key: str) -> FineTuningJob | None:
    """The newest job with a content key that has not come to a bad end."""
    for job in client.fine_tuning.jobs.list(limit=100, metadata={KEY: key}):
        if (job.metadata or {}).get(KEY) == key and job.status not in ("failed", "cancelled"):
            return job
    return None


def _create(
    client: OpenAI,
    settings: FineTune,
    key: str,
    training_file: Path,
    validation_file: Path | None,
    suffix: str,
    integrations: Sequence[Mapping[str, Any]],
) -> FineTuningJob:
    kind, is_hosted = settings.method, hosted.spending_of(client) is not None
    as_messages = is_hosted and (kind == "dpo" or chats_only(client, settings.base))
    uploaded = partial(upload, client, as_messages=as_messages)
    hyperparameters: dict[str, float] = {
        "n_epochs": settings.n_epochs,
        "batch_size": settings.batch_size,
        "learning_rate_multiplier": settings.learning_rate_multiplier,
    }
    if settings.prompt_loss_weight:
        hyperparameters["prompt_loss_weight"] = settings.prompt_loss_weight  # an extension: only sent when used
    if kind == "dpo":
        hyperparameters["beta"] = settings.beta
    method = {"type": kind, kind: {"hyperparameters": hyperparameters}}
    return client.fine_tuning.jobs.create(
        model=settings.base,
        training_file=uploaded(training_file),
        method=method,  # type: ignore[arg-type]
        seed=settings.seed,
        suffix=suffix,
        metadata={KEY: key},
        validation_file=uploaded(validation_file) if validation_file else None,
        integrations=list(integrations) or None,  # type: ignore[arg-type]
    )


def _wait(client: OpenAI, job: FineTuningJob, description: str) -> FineTuningJob:
    """Follow a job to its end with a bar that counts steps."""
    if job.status == "succeeded":
        return job
    seconds = hosted.POLL_SECONDS if hosted.spending_of(client) else POLL_SECONDS
    with progress(0, description, unit="step") as bar:
        while job.status not in ("succeeded", "failed", "cancelled"):
            time.sleep(seconds)
            events = client.fine_tuning.jobs.list_events(job.id, limit=5).data
            told = next((data for event in events if "step" in (data := dict(event.data or {}))), None)  # type: ignore[call-overload]
            if told:
                bar.total = told.get("total_steps") or bar.total
                bar.update(int(told["step"]) - bar.n)
            before, job = job.status, client.fine_tuning.jobs.retrieve(job.id)
            if job.status == "paused" != before:
                log.warning("job %s is paused: resume or cancel it", job.id)
    if job.status != "succeeded":
        why = job.error.message if job.error and job.error.message else "the endpoint gives no reason"
        raise RuntimeError(f"fine-tuning job {job.id} {job.status}: {why}")
    return job


def _row(settings: FineTune, **values: object) -> dict[str, object]:
    told = [f"{part}_{name}" for name in MEASURES[settings.method] for part in ("train", "valid")]
    return {**settings.told(), **dict.fromkeys(told, float("nan")), **values}


def _models(client: OpenAI, settings: FineTune, job: FineTuningJob) -> pd.DataFrame:
    """A row for each checkpoint of a finished job, the final model last."""
    checkpoints = sorted(client.fine_tuning.jobs.checkpoints.list(job.id), key=lambda kept: kept.step_number)
    per_epoch = max((kept.step_number for kept in checkpoints), default=0) / settings.n_epochs
    rows = []
    for kept in checkpoints:
        names = [f"{part}_{name}" for name in MEASURES[settings.method] for part in ("train", "valid")]
        told = {name: value for name in names if (value := getattr(kept.metrics, name, None)) is not None}
        rows.append(
            _row(
                settings,
                job=job.id,
                model=kept.fine_tuned_model_checkpoint,
                epoch=round(kept.step_number / per_epoch),
                step=int(kept.step_number),
                is_final=kept is checkpoints[-1],
                **told,
            )
        )
    if not rows:
        rows = [_row(settings, job=job.id, epoch=settings.n_epochs, step=0, is_final=True, model="")]
    rows[-1]["model"] = job.fine_tuned_model or rows[-1]["model"]
    return pd.DataFrame(rows)
