"""The page at ``/``: jobs with their loss curves, models, and a box to try them.

The page holds no data, so it is served without a key and can ask for one. Text written by models stays text: the policy
lets only scripts of this server run, and forbids them to make markup out of text.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent
FILES = {"/": FOLDER / "page.html"} | {f"/page/{file.name}": file for file in FOLDER.glob("*.[cj]s*")}  # .css, .js
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route("/page/{name}", methods=["GET", "HEAD"])
def read_page(request: Request) -> FileResponse:
    """The page, its scripts and its style."""
    path = request.scope["path"]
    if path not in FILES:
        raise HTTPException(404)
    return FileResponse(FILES[path], headers=HEADERS)
