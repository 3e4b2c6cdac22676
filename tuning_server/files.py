"""Endpoints of ``/v1/files``: what is uploaded for training is checked line by line and kept whole or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Annotated, Literal

from fastapi import APIRouter, Query, Request
from openai.types import FileDeleted, FileObject
from pydantic import Field
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from tuning_server.disk import BadRow, json_rows
from tuning_server.errors import ApiError, from_os_error
from tuning_server.service import CurrentService, Service
from tuning_server.store import UNFINISHED, new_id
from tuning_server.types import Page, PageQuery

MAX_LINE_BYTES = 16 * 2**20
router = APIRouter(prefix="/v1/files", tags=["files"])


def _copied(source: IO[bytes], target: IO[bytes], limit: int) -> Iterator[bytes]:
    """Lines of an upload, each written as it is read."""
    n_bytes = 0
    while line := source.readline(limit + 1):
        n_bytes += len(line)
        if n_bytes > limit:
            raise ApiError(f"The file is larger than {limit} bytes.", status=413, param="file", code="file_too_large")
        target.write(line)
        yield line


def keep_upload(source: IO[bytes], part: Path, *, limit: int) -> int:
    """Write an upload to `part` while checking that each line is a JSON object.

    Returns
    -------
    int
        Its size in bytes.

    Raises
    ------
    ApiError
        If it is too large, empty, not UTF-8 or not JSON lines, or the disk is full; nothing is kept then.
    """
    try:
        with part.open("xb") as target:
            n_rows = sum(1 for _ in json_rows(_copied(source, target, limit), max_line_bytes=MAX_LINE_BYTES))
        if n_rows == 0:
            raise ApiError(
                "The file is empty: expected one JSON object a line.", param="file", code="invalid_file_format"
            )
        return part.stat().st_size
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, BadRow):
            message = f"Invalid file format. {error}. Expected JSON lines in UTF-8."
            raise ApiError(message, param="file", code="invalid_file_format") from error
        if isinstance(error, OSError):
            raise from_os_error(error, "storing the file") from error
        raise


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The form of an upload, or 400 in words."""
    try:
        form = await request.form(max_files=1, max_fields=8)
    except HTTPException as error:
        message = f"{error.detail.rstrip('.')}: send a multipart form with one 'file' and its 'purpose'."
        raise ApiError(message, code="invalid_value") from error
    try:
        yield form
    finally:
        await form.close()


@router.post("", response_model=FileObject)
async def create(request: Request, service: CurrentService) -> FileObject:
    """Upload a file (multipart form: ``file`` and ``purpose``)."""
    async with _form(request) as form:
        unknown = set(form) - {"file", "purpose"}
        if unknown:
            name = sorted(unknown)[0]
            raise ApiError(f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")
        upload, purpose = form.get("file"), form.get("purpose")
        if not isinstance(upload, UploadFile):
            raise ApiError(
                "Missing 'file': send a multipart form with a file.", param="file", code="missing_required_parameter"
            )
        if purpose != "fine-tune":
            message = f"Invalid purpose {purpose!r}: this server keeps files for 'fine-tune' only."
            raise ApiError(message, param="purpose", code="invalid_value")
        file_id = new_id("file-")
        part = service.store.file_path(file_id).with_suffix(".part")
        n_bytes = await asyncio.to_thread(keep_upload, upload.file, part, limit=service.settings.max_file_bytes)
        name = (upload.filename or "").replace("\\", "/").rsplit("/", 1)[-1][:255] or "file.jsonl"
        body = FileObject(
            id=file_id, object="file", bytes=n_bytes, created_at=int(time.time()), filename=name, purpose="fine-tune",
            status="processed",
        )  # fmt: skip
        await asyncio.to_thread(service.store.add_file, body.model_dump(), part)
        return body


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
    rows, more = service.page("files", after=query.after, limit=query.limit, where=where, ascending=ascending)
    return Page.of([FileObject(**row) for row in rows], more)


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
    return FileResponse(service.store.file_path(file.id, file.purpose), media_type="application/octet-stream")


@router.delete("/{file_id}", response_model=FileDeleted)
def delete(file_id: str, service: CurrentService) -> FileDeleted:
    """Delete a file; refused while a job still needs it."""
    file = _file(service, file_id)
    for job in service.store.jobs_in(*UNFINISHED):
        if file_id in (job["training_file"], job["validation_file"]):
            raise ApiError(
                f"File {file_id} is in use by job {job['id']}: cancel that first.", param="id", code="file_in_use"
            )
    service.store.delete_file(file.id, file.purpose)
    return FileDeleted(id=file_id, deleted=True, object="file")
