"""The ledger: every fine-tuning job of the endpoint, joined with the run folders and tags that name it."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from lib.budget import Prices, UnknownPrice
from lib.finetune import KEY
from lib.keys import nearest
from lib.runs.folders import RunFolder, final_id

STATUSES = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
NOT_LISTED = "not listed"  # a run folder names the model, but the endpoint has no job of it
DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """One fine-tune.

    Attributes
    ----------
    model : str
        Its id; empty until the job has ended well.
    created_at : int or None
        Seconds since 1970; None for one that only a run folder names.
    tokens : int or None
        Tokens trained on, over all epochs, as the endpoint counts them.
    usd : float or None
        What they cost by the price table; None on an endpoint of one's own, or without a price.
    """

    job: str = ""
    model: str = ""
    base: str = ""
    study: str = ""
    status: str = NOT_LISTED
    created_at: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seed: int | None = None
    key: str = ""
    suffix: str = ""
    error: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    runs: tuple[RunFolder, ...] = ()

    @property
    def id(self) -> str:
        """What tags and uploads are kept under: the job's id where there is one."""
        return self.job or self.model

    @property
    def title(self) -> str:
        """The model, or what it is to become."""
        return self.model or f"{self.base} ({self.job})"

    @property
    def evaluated_in(self) -> list[str]:
        """Runs that hold numbers of it."""
        return [run.name for run in self.runs if run.is_evaluated]

    @property
    def made_by(self) -> RunFolder | None:
        """The run that had it trained, if its folder is there."""
        return next((run for run in self.runs if run.has_trained(self.model)), None)

    @property
    def role(self) -> str:
        """Its role in the run that made it (``main`` if none is known)."""
        return self.made_by.roles[self.model] if self.made_by else "main"

    def as_row(self) -> dict[str, Any]:
        """What ``--json`` shows."""
        told = {name: value for name, value in vars(self).items() if name != "runs"}
        runs = {run.name: run.spent_usd for run in self.runs}
        spent = {name: usd for name, usd in runs.items() if usd}
        return {**told, "tags": list(self.tags), "runs": [*runs], "spent_usd": spent, "evaluated": self.evaluated_in}


def read_ledger(
    client: OpenAI,
    folders: Sequence[RunFolder],
    tags: Mapping[str, Sequence[str]],
    *,
    prices: Prices | None = None,
    studies: Collection[str] = (),
) -> list[FineTuned]:
    """Every fine-tune that the endpoint or a run folder knows, newest first.

    Parameters
    ----------
    prices : what training costs; None on an endpoint of one's own
    studies : names of studies, to know a job by its suffix where no run folder names it

    Raises
    ------
    openai.OpenAIError
        If the endpoint does not answer, or has no fine-tuning jobs.
    """
    naming: dict[str, list[RunFolder]] = {}
    for folder in folders:
        for model in folder.roles:
            naming.setdefault(model, []).append(folder)
    found = [
        _of_job(job, naming.get(job.fine_tuned_model or "", []), tags, prices, studies)
        for job in client.fine_tuning.jobs.list(limit=100)
    ]
    known = {each.model for each in found}
    found += [_of_runs(model, runs, tags) for model, runs in naming.items() if model not in known]
    return sorted(found, key=lambda each: -(each.created_at or 0))


def _of_job(
    job: FineTuningJob,
    runs: Sequence[RunFolder],
    tags: Mapping[str, Sequence[str]],
    prices: Prices | None,
    studies: Collection[str],
) -> FineTuned:
    suffix = str(getattr(job, "user_provided_suffix", None) or "")  # sent, but no field of the client's type
    how = job.method and (job.method.dpo if job.method.type == "dpo" else job.method.supervised)
    chosen = how.hyperparameters if how else job.hyperparameters
    return FineTuned(
        job=job.id,
        model=job.fine_tuned_model or "",
        base=job.model,
        study=_study(runs) or (suffix if suffix in studies else ""),
        status=job.status,
        created_at=job.created_at,
        tokens=job.trained_tokens,
        usd=_cost(job, prices),
        seed=job.seed,
        key=(job.metadata or {}).get(KEY, ""),
        suffix=suffix,
        error=(job.error.message or "") if job.error else "",
        hyperparameters=chosen.model_dump(exclude_none=True) if chosen else {},
        tags=tuple(tags.get(job.id, ())),
        runs=tuple(runs),
    )


def _cost(job: FineTuningJob, prices: Prices | None) -> float | None:
    if prices is None or job.trained_tokens is None:
        return None
    try:
        return prices.training_usd(job.model, job.trained_tokens)
    except UnknownPrice:
        return None


def _of_runs(model: str, runs: Sequence[RunFolder], tags: Mapping[str, Sequence[str]]) -> FineTuned:
    base = next((run.bases[model] for run in runs if run.bases[model]), "")
    return FineTuned(model=model, base=base, study=_study(runs), tags=tuple(tags.get(model, ())), runs=tuple(runs))


def _study(runs: Sequence[RunFolder]) -> str:
    """The study that made it, else the first that took it; empty if none."""
    makers = sorted(runs, key=lambda run: bool(run.params.get("tuned_model")))
    return makers[0].study if makers else ""


def select(
    ledger: Iterable[FineTuned],
    *,
    now: float,
    study: str = "",
    base: str = "",
    status: str = "",
    days: float | None = None,
    text: str = "",
    tag: str = "",
) -> list[FineTuned]:
    """Those that fit every filter given; `base` may hold ``*``, `text` is looked for in every name.

    >>> ledger = [FineTuned(job="a", base="hf:one", created_at=0), FineTuned(job="b", base="two", created_at=90_000)]
    >>> [each.job for each in select(ledger, now=100_000, days=1)]
    ['b']
    >>> [each.job for each in select(ledger, now=100_000, base="hf:*", text="ONE")]
    ['a']
    """

    def fits(each: FineTuned) -> bool:
        names = (each.job, each.model, each.base, each.study, each.suffix, each.error, *each.tags)
        return (
            (not study or study in (each.study, *(run.study for run in each.runs)))
            and (not base or fnmatch.fnmatchcase(each.base, base))
            and (not status or each.status == status)
            and (days is None or (each.created_at is not None and now - each.created_at <= days * DAY_S))
            and (not tag or tag in each.tags)
            and any(text.casefold() in name.casefold() for name in names)
        )

    return [each for each in ledger if fits(each)]


def the_one(ledger: Iterable[FineTuned], wanted: str) -> FineTuned:
    """The fine-tune with this id, of a job, a model or one of its checkpoints.

    Raises
    ------
    ValueError
        If there is none; names the nearest.
    """
    by_id = {name: each for each in ledger for name in (each.job, each.model) if name}
    if final_id(wanted) not in by_id:
        raise ValueError(f"no fine-tune {wanted!r}{nearest(wanted, by_id)}: python -m lib.runs lists them")
    return by_id[final_id(wanted)]
