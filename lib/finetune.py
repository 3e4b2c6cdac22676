"""Fine-tune through the API, once: the same rows, base and settings are never trained a second time.

Each job carries a content key in its metadata. Before one is made, the endpoint is searched for a job with that key: a
finished one is used, a running one is joined, so a killed notebook or server costs only what was not yet trained.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from openai import APIStatusError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from lib.api import fingerprint
from lib.budget import MESSAGE_TOKENS, BudgetExceeded, Spending, max_tokens_of
from lib.clients import spending_of
from lib.console import progress
from lib.params import CURVE_SEEDS, active_bases
from lib.paths import content_hash, file_hash, read_jsonl
from lib.sending import chats_only, conversation, upload

log = logging.getLogger(__name__)

KEY = "content_key"
POLL_SECONDS, HOSTED_POLL_SECONDS = 0.5, 10.0
# What a checkpoint reports, by method.
MEASURES = {"supervised": ("loss",), "dpo": ("loss", "reward_accuracy", "reward_margin")}


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Settings of one job. `learning_rate_multiplier` multiplies the base's own reference rate.

    Parameters
    ----------
    base : any model, a fine-tune too: so are stages chained
    method : ``supervised``, or ``dpo`` on pairs of answers with the base as the reference
    beta : strength of DPO's KL penalty, above 0

    An unknown method, or a beta or prompt weight that does not fit it, is a `ValueError`.
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

    def as_row(self) -> dict[str, Any]:
        """The settings that count for the method, by the names that content keys are made of: these never change."""
        unused = ("method", "beta") if self.method == "supervised" else ("prompt_loss_weight",)
        return {name: value for name, value in vars(self).items() if name not in unused}

    def key(self, base_fingerprint: str, training_file: Path, validation_file: Path | None) -> str:
        """Content key of the job."""
        files = [file_hash(training_file), file_hash(validation_file) if validation_file else None]
        return content_hash([base_fingerprint, self.as_row(), *files], length=24)


def grid(
    *,
    bases: Sequence[str],
    learning_rate_multipliers: Sequence[float],
    batch_sizes: Sequence[int],
    seeds: Sequence[int],
    **shared: Any,
) -> list[FineTune]:
    """Every combination of bases, rates, batch sizes and seeds, the seeds of one setting together; `shared` by all.

    >>> len(grid(bases=["a", "b"], learning_rate_multipliers=[1.0], batch_sizes=[8, 16], seeds=[0, 1, 2], n_epochs=1))
    12
    """
    return [
        FineTune(base=base, batch_size=size, learning_rate_multiplier=rate, seed=seed, **shared)
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
        seed and from three seeds on. ``base``: likewise on ``further_bases``, which differ in the seed of their
        pre-training. ``sweep``: every other combination of rates and batch sizes with the first seed.
        Empty for a model that is given.
    """
    if params["tuned_model"]:
        return {}
    rates, sizes = params["learning_rate_multipliers"], params["batch_sizes"]
    shared = {"n_epochs": params["n_epochs"], "prompt_loss_weight": params["prompt_loss_weight"]}
    first = {"learning_rate_multipliers": rates[:1], "batch_sizes": sizes[:1], "seeds": seeds}
    main = grid(bases=[params["base"]], **first, **shared)
    further = [base for base in active_bases(params) if base != params["base"]]
    again = params.get("further_bases", []) if len(seeds) >= CURVE_SEEDS else []
    sweep = grid(bases=[params["base"]], learning_rate_multipliers=rates, batch_sizes=sizes, seeds=seeds[:1], **shared)
    jobs = {
        "main": main,
        "size": grid(bases=further, **(first | {"seeds": seeds[:1]}), **shared),
        "base": grid(bases=again, **(first | {"seeds": seeds[:1]}), **shared),
        "sweep": [each for each in sweep if each not in main],
    }
    return {role: planned for role, planned in jobs.items() if planned}


def finetune(
    client: OpenAI,
    planned: Sequence[FineTune],
    *,
    training_file: Path,
    validation_file: Path | None = None,
    suffix: str,
) -> pd.DataFrame:
    """Make (or find) each fine-tune and wait for it.

    Parameters
    ----------
    planned : settings, for example from `grid`
    training_file, validation_file : JSON lines of prompt and completion, or of messages; for DPO of prompt, chosen and
        rejected, or in OpenAI's preference format. To a hosted base that only chats, and for DPO to any hosted one,
        plain texts are sent as conversations of one question and its answer
    suffix : part of the models' ids

    Returns
    -------
    DataFrame
        One row per usable model: the settings of `FineTune` that count for its method, ``job``, ``model``, ``epoch``,
        ``step``, ``is_final``, ``train_loss`` and ``valid_loss`` (nats per token; the epoch's last step, NaN where the
        endpoint does not report it). DPO: losses are nats per pair, with ``train_reward_accuracy``,
        ``train_reward_margin`` and the same of the validation file.

    Raises
    ------
    RuntimeError
        If a job fails or was cancelled; gives the reason.
    lib.budget.BudgetExceeded
        If the jobs could together exceed the budget of a hosted endpoint; none is made.
    """
    spending = spending_of(client)
    keys = [each.key(fingerprint(client, each.base), training_file, validation_file) for each in planned]
    jobs = {key: job for key in keys if (job := _find(client, key))}
    missing = {key: each for key, each in zip(keys, planned, strict=True) if key not in jobs}
    usd = _preview_jobs(spending, missing, training_file) if spending and missing else {}
    bases = {each.base for each in missing.values() if spending}
    chat_bases = {base for base in bases if chats_only(client, base)}
    for key, each in missing.items():
        as_messages = each.base in chat_bases or (each.method == "dpo" and spending is not None)
        files = {"training_file": training_file, "validation_file": validation_file}
        body = {name: upload(client, path, as_messages=as_messages) for name, path in files.items() if path}
        jobs[key] = _create(client, each, usd.get(key), key, suffix=suffix, metadata={KEY: key}, **body)
    tables = []
    for number, (key, each) in enumerate(zip(keys, planned, strict=True), start=1):
        job = _wait(client, jobs[key], f"fine-tune {number}/{len(planned)} of {each.base}, seed {each.seed}")
        if spending and spending.is_charged(f"job:{key}") and job.trained_tokens is not None:
            cost = spending.prices.training_usd(job.model, job.trained_tokens)
            spending.charge(f"job:{key}", cost, model=job.model, training_tokens=job.trained_tokens)
        tables.append(_models(client, each, job))
    return pd.concat(tables, ignore_index=True)


def record(client: OpenAI, model: str) -> pd.DataFrame:
    """The table of `finetune` for a model that exists: it is retrieved, nothing is trained."""
    client.models.retrieve(model)
    settings = FineTune(base=model, n_epochs=0, batch_size=0)
    return pd.DataFrame([_row(settings, job="", model=model, epoch=0, step=0, is_final=True)])


def _find(client: OpenAI, key: str) -> FineTuningJob | None:
    """The newest job with a content key that has not failed and was not cancelled."""
    jobs = client.fine_tuning.jobs.list(limit=100, metadata={KEY: key})
    usable = (job for job in jobs if job.status not in ("failed", "cancelled"))
    return next((job for job in usable if (job.metadata or {}).get(KEY) == key), None)


def _preview_jobs(spending: Spending, missing: Mapping[str, FineTune], training_file: Path) -> dict[str, float]:
    """The most that each job may cost; logs the sum (`BudgetExceeded` if it is more than is left)."""
    tokens = {each.base: max_file_tokens(training_file, each.base) for each in missing.values()}
    price = spending.prices.training_usd
    usd = {key: price(each.base, tokens[each.base] * each.n_epochs) for key, each in missing.items()}
    most, left = math.fsum(usd.values()), max(0.0, spending.left_usd())
    line = f"fine-tuning: {len(usd)} jobs of up to {max(tokens.values()):,} tokens per epoch: up to ${most:.4f}"
    if most > left:
        raise BudgetExceeded(f"{line}, more than the ${left:.4f} left of ${spending.budget_usd:.4f}: none was made")
    log.warning("%s, $%.4f of $%.4f left", line, left, spending.budget_usd)
    return usd


def _create(client: OpenAI, settings: FineTune, usd: float | None, key: str, **body: Any) -> FineTuningJob:
    """Make a job; the request is never repeated, since an endpoint may have made the job before a reply was lost."""
    spending, method = spending_of(client), settings.method
    hyperparameters = {key: value for key, value in settings.as_row().items() if key not in ("base", "seed", "method")}
    if not settings.prompt_loss_weight:
        hyperparameters.pop("prompt_loss_weight", None)  # an extension: only sent when used
    body |= {"method": {"type": method, method: {"hyperparameters": hyperparameters}}}
    if spending and usd is not None:
        spending.reserve(f"job:{key}", usd, model=settings.base)
    try:
        jobs = client.with_options(max_retries=0).fine_tuning.jobs
        return jobs.create(model=settings.base, seed=settings.seed, **body)
    except APIStatusError:
        if spending:
            spending.charge(f"job:{key}", 0.0)
        raise


def _wait(client: OpenAI, job: FineTuningJob, description: str) -> FineTuningJob:
    """Follow a job to its end with a progress bar that counts steps."""
    if job.status == "succeeded":
        return job
    with progress(0, description, unit="step") as bar:
        while job.status not in ("succeeded", "failed", "cancelled"):
            time.sleep(HOSTED_POLL_SECONDS if spending_of(client) else POLL_SECONDS)
            events = client.fine_tuning.jobs.list_events(job.id, limit=5).data
            latest = next((data for event in events if "step" in (data := dict(event.data or {}))), None)  # type: ignore[call-overload]
            if latest:
                bar.total = latest.get("total_steps") or bar.total
                bar.update(int(latest["step"]) - bar.n)
            before, job = job.status, client.fine_tuning.jobs.retrieve(job.id)
            if job.status == "paused" != before:
                log.warning("job %s is paused: resume or cancel it", job.id)
    if job.status != "succeeded":
        reason = job.error.message if job.error and job.error.message else "the endpoint gives no reason"
        raise RuntimeError(f"fine-tuning job {job.id} {job.status}: {reason}")
    return job


def _measures(method: str) -> list[str]:
    return [f"{part}_{name}" for name in MEASURES[method] for part in ("train", "valid")]


def _row(settings: FineTune, **values: object) -> dict[str, object]:
    return {**settings.as_row(), **dict.fromkeys(_measures(settings.method), float("nan")), **values}


def _models(client: OpenAI, settings: FineTune, job: FineTuningJob) -> pd.DataFrame:
    """One row for each checkpoint of a finished job, the final model last."""
    checkpoints = sorted(client.fine_tuning.jobs.checkpoints.list(job.id), key=lambda each: each.step_number)
    per_epoch = max((each.step_number for each in checkpoints), default=0) / settings.n_epochs
    rows = []
    for each in checkpoints:
        measured = {name: getattr(each.metrics, name, None) for name in _measures(settings.method)}
        values = {
            "job": job.id,
            "model": each.fine_tuned_model_checkpoint,
            "epoch": round(each.step_number / per_epoch),
            "step": int(each.step_number),
            "is_final": each is checkpoints[-1],
        }
        rows.append(_row(settings, **values, **{name: value for name, value in measured.items() if value is not None}))
    if not rows:
        rows = [_row(settings, job=job.id, epoch=settings.n_epochs, step=0, is_final=True, model="")]
    rows[-1]["model"] = job.fine_tuned_model or rows[-1]["model"]
    return pd.DataFrame(rows)


def max_file_tokens(path: Path, model: str) -> int:
    """At most how many tokens an epoch of a training file has: all texts of its rows, as conversations."""
    n_tokens = 0
    for row in map(conversation, read_jsonl(path)):
        messages = row.get("messages", [])
        if "input" in row:  # a pair of answers: each is trained on after the input
            messages = [*row["input"]["messages"] * 2, *row["preferred_output"], *row["non_preferred_output"]]
        texts = [str(message.get("content") or "") for message in messages]
        n_tokens += sum(max_tokens_of(text, model) + MESSAGE_TOKENS for text in texts)
    return n_tokens
