"""Endpoints of ``/v1/fine_tuning/jobs``: supervised jobs over prompts or conversations, DPO over pairs of answers."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import ConfigDict, Field

from tuning_server.engine.registry import FINE_TUNE
from tuning_server.errors import ApiError
from tuning_server.service import CurrentService, Service
from tuning_server.sharing import drop_resume
from tuning_server.store import DUE, UNFINISHED, Row, method_of, new_id, was_interrupted
from tuning_server.types import JobRequest, Page, PageQuery

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


class Job(FineTuningJob):
    """OpenAI's job; its client lists every status but the one that its own `pause` leads to."""

    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]  # type: ignore[assignment]


def public(row: Row) -> Job:
    """A job as the API shows it: without what is kept for the server alone."""
    shown = {name: value for name, value in row.items() if not name.startswith("_")}
    kind = method_of(row)
    method = {"type": kind, kind: {"hyperparameters": row["hyperparameters"]}}
    return Job(**shown, method=method)  # type: ignore[arg-type]


def _job(service: Service, job_id: str) -> Row:
    return service.require("jobs", job_id, "fine-tuning job", param="fine_tuning_job_id")


@router.post("", response_model=Job)
def create(request: JobRequest, service: CurrentService) -> Job:
    """Start a job: its files are validated next, then it waits for its turn."""
    chosen = request.chosen()
    service.folder(request.model)
    for param in ("training_file", "validation_file"):
        file_id = getattr(request, param)
        if file_id is None:
            continue
        file = service.store.get("files", file_id)
        if file is None:
            raise ApiError(f"No such file: {file_id}", param=param, code="file_not_found")
        if file["purpose"] != "fine-tune":
            message = f"File {file_id} was made for {file['purpose']!r}: give one uploaded for 'fine-tune'."
            raise ApiError(message, param=param, code="invalid_value")
    short, suffix = new_id("", length=8), re.sub(r"[^A-Za-z0-9._-]", "-", request.suffix or "")
    tuned = FINE_TUNE.fullmatch(request.model)
    base = tuned["base"] if tuned else request.model  # which a chain of fine-tunes began with
    job: Row = {
        "id": new_id("ftjob-"), "object": "fine_tuning.job", "created_at": int(time.time()), "model": request.model,
        "status": "validating_files", "hyperparameters": chosen.model_dump(), "training_file": request.training_file,
        "validation_file": request.validation_file, "metadata": request.metadata, "result_files": [],
        "seed": secrets.randbelow(2**31) if request.seed is None else request.seed, "organization_id": "tuning-fork",
        "fine_tuned_model": None, "finished_at": None, "trained_tokens": None, "error": None, "integrations": [],
        "estimated_finish": None, "user_provided_suffix": request.suffix,
        "_method": request.method.type, "_short": short, "_model_id": f"ft:{base}:{suffix}:{short}",
    }  # fmt: skip
    validating = "Validating training file" + (" and validation file" if request.validation_file else "")
    service.store.add_job(job, messages=[f"Created fine-tuning job: {job['id']}", validating])
    service.worker.wake()
    return public(job)


METADATA_FILTER = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


class JobsQuery(PageQuery):
    """Names of metadata are inside those of parameters, so that these are checked by hand."""

    model_config = ConfigDict(extra="allow")


@router.get("", response_model=Page)
def list_jobs(query: Annotated[JobsQuery, Query()], service: CurrentService) -> Page:
    """Jobs, newest first; ``metadata[k]=v`` (or ``metadata=null``) selects some."""
    where = list[tuple[str, list[str]]]()
    for name, value in (query.model_extra or {}).items():
        key = METADATA_FILTER.fullmatch(name)
        if key:
            where.append(
                ("EXISTS (SELECT 1 FROM json_each(body, '$.metadata') WHERE key = ? AND value = ?)", [key[1], value])
            )
        elif name == "metadata" and not value:
            continue
        elif name == "metadata" and value == "null":
            where.append(("json_extract(body, '$.metadata') IS NULL", []))
        else:
            raise ApiError(f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")
    return service.page("jobs", query, public, where=where)


@router.get("/{job_id}", response_model=Job)
def retrieve(job_id: str, service: CurrentService) -> Job:
    """One job."""
    return public(_job(service, job_id))


def _change(service: Service, job_id: str, done: str, changes: Row, *, only: Sequence[str], which: str) -> Row:
    """Let a job be cancelled, paused or resumed if its status is one of `only`: of a job `which` ..., in words."""
    changes = {"estimated_finish": None, **changes}
    if not service.store.update_job(job_id, changes, only=only, messages=[f"Fine-tuning job {done}"]):
        status = _job(service, job_id)["status"]
        ended = {"succeeded": "succeeded", "failed": "failed", "cancelled": "been cancelled"}.get(status)
        now = f"has already {ended}" if ended else f"is {status.replace('_', ' ')}"
        message = f"Job {job_id} cannot be {done}: it {now}, and only a job that {which} can be."
        raise ApiError(message, param="fine_tuning_job_id", code="invalid_state")
    service.worker.wake()
    return _job(service, job_id)


@router.post("/{job_id}/cancel", response_model=Job)
def cancel(job_id: str, service: CurrentService) -> Job:
    """Stop a job at its next step; whole checkpoints stay usable."""
    changes = {"status": "cancelled", "finished_at": int(time.time())}
    job = _change(service, job_id, "cancelled", changes, only=UNFINISHED, which="has not ended")
    folder = service.settings.weights / "tuned" / job["_short"]
    drop_resume(service.settings, folder)  # the engine does so too, for what it is just writing
    return public(job)


@router.post("/{job_id}/pause", response_model=Job)
def pause(job_id: str, service: CurrentService) -> Job:
    """Stop a job at its next step and keep that; others have their turn meanwhile."""
    return public(_change(service, job_id, "paused", {"status": "paused"}, only=DUE, which="is waiting or running"))


@router.post("/{job_id}/resume", response_model=Job)
def resume(job_id: str, service: CurrentService) -> Job:
    """Take up a paused job where it stopped; it ends with the weights of one that was not paused."""
    job = _job(service, job_id)
    changes = {"status": "queued" if job.get("_validated") else "validating_files", "error": None, "finished_at": None}
    only = ["paused", "failed"] if was_interrupted(job) else ["paused"]
    return public(_change(service, job_id, "resumed", changes, only=only, which="is paused"))


@router.get("/{job_id}/events", response_model=Page)
def events(job_id: str, query: Annotated[PageQuery, Query()], service: CurrentService) -> Page:
    """A job's events, newest first; those of type ``metrics`` carry losses (mean since the one before)."""
    where = [("job = ?", [_job(service, job_id)["id"]])]
    return service.page("events", query, FineTuningJobEvent.model_validate, where=where)


class CheckpointQuery(PageQuery):
    """OpenAI's default for checkpoints is ten."""

    limit: int = Field(default=10, ge=1, le=1000)


@router.get("/{job_id}/checkpoints", response_model=Page)
def checkpoints(job_id: str, query: Annotated[CheckpointQuery, Query()], service: CurrentService) -> Page:
    """A job's checkpoints, newest first: one an epoch, the last of them under the fine-tune's own id."""
    where = [("job = ?", [_job(service, job_id)["id"]])]
    return service.page("checkpoints", query, FineTuningJobCheckpoint.model_validate, where=where)
