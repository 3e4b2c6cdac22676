"""Endpoints of ``/v1/files``: what is uploaded for training is checked line by line and kept whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from openai.types import FileDeleted, FileObject
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse

from tuning_server.disk import BadRow, atomic_write, json_rows
from tuning_server.errors import ApiError
from tuning_server.service import CurrentService, Service
from tuning_server.store import UNFINISHED, file_path, new_id
from tuning_server.types import Page, PageQuery

MAX_LINE_BYTES = 16 * 2**20
SLICE_S, PAUSE_S = 0.001, 0.004  # of checking an upload, and between two such slices while others need the interpreter
router = APIRouter(prefix="/v1/files", tags=["files"])


class UploadForm(BaseModel):
    """The multipart form of an upload."""

    model_config = ConfigDict(extra="forbid")
    file: UploadFile
    purpose: Literal["fine-tune"]


def check_rows(lines: Iterable[bytes], *, is_needed: Callable[[], bool] = lambda: False) -> None:
    """Refuse (`ApiError`) what is not JSON lines in UTF-8, each an object.

    Parameters
    ----------
    is_needed : whether others need the interpreter. It is then left to them most of the time: each operation of a model
        that answers would have to wait for it, and an answer consists of thousands
    """
    n_rows, until = 0, time.monotonic() + SLICE_S
    try:
        for _ in json_rows(lines, max_line_bytes=MAX_LINE_BYTES):
            n_rows += 1
            if time.monotonic() > until:
                time.sleep(PAUSE_S if is_needed() else 0)
                until = time.monotonic() + SLICE_S
        if not n_rows:
            raise BadRow("The file is empty")
    except BadRow as error:
        message = f"Invalid file format. {error}. Expected JSON lines in UTF-8."
        raise ApiError(message, param="file", code="invalid_file_format") from error


@router.post("", response_model=FileObject)
def create(form: Annotated[UploadForm, Form()], service: CurrentService) -> FileObject:
    """Upload a file."""
    source, limit = form.file.file, service.settings.max_file_bytes
    if form.file.size is None or form.file.size > limit:
        raise ApiError(f"The file is larger than {limit} bytes.", status=413, param="file", code="file_too_large")
    check_rows(source, is_needed=lambda: service.n_in_flight > 1)
    source.seek(0)
    name = (form.file.filename or "").replace("\\", "/").rsplit("/", 1)[-1][:255] or "file.jsonl"
    file_id = new_id("file-")
    with atomic_write(file_path(service.store.folder, file_id), "wb") as target:
        shutil.copyfileobj(source, target)
    return FileObject(**service.store.add_file(file_id, name))


class FilesQuery(PageQuery):
    """Filters of the list of files."""

    limit: int = Field(default=10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


@router.get("", response_model=Page)
def list_files(query: Annotated[FilesQuery, Query()], service: CurrentService) -> Page:
    """Files, newest first."""
    where = [] if query.purpose is None else [("json_extract(body, '$.purpose') = ?", (query.purpose,))]
    ascending = query.order == "asc"
    return service.page("files", query, FileObject.model_validate, where=where, ascending=ascending)


def _file(service: Service, file_id: str) -> FileObject:
    return FileObject(**service.require("files", file_id, "file object", param="id"))


@router.get("/{file_id}", response_model=FileObject)
def retrieve(file_id: str, service: CurrentService) -> FileObject:
    """One file's record."""
    return _file(service, file_id)


@router.get("/{file_id}/content")
def content(file_id: str, service: CurrentService) -> FileResponse:
    """A file's bytes: as they were uploaded, or the table of a job's results."""
    file = _file(service, file_id)
    return FileResponse(file_path(service.store.folder, file.id, file.purpose), media_type="application/octet-stream")


@router.delete("/{file_id}", response_model=FileDeleted)
def delete(file_id: str, service: CurrentService) -> FileDeleted:
    """Delete a file; refused while a job still needs it."""
    file = _file(service, file_id)
    for job in service.store.jobs_in(*UNFINISHED):
        if file_id in (job["training_file"], job["validation_file"]):
            message = f"File {file_id} is in use by job {job['id']}: cancel that first."
            raise ApiError(message, param="id", code="file_in_use")
    service.store.delete_file(file.id, file.purpose)
    return FileDeleted(id=file_id, deleted=True, object="file")
