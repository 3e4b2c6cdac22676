"""What does a person see at ``/``: one page, sent whole, that asks this server and nobody else.

The page holds no data, so it is served without a key and can ask for one. What models wrote reaches it as data: its
policy lets only its own scripts run, and forbids them to make markup out of text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter()
HERE = Path(__file__).parent
STYLE = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">')
SCRIPT = re.compile(r'<script src="(\w+\.js)"></script>')


def put_together() -> str:
    """The page in one file: its style and its scripts in the places where ``page.html`` names them."""

    def read(name: str) -> str:
        return (HERE / name).read_text(encoding="utf-8")

    styled = STYLE.sub(lambda found: f"<style>{read(found[1])}</style>", read("page.html"))
    return SCRIPT.sub(lambda found: f"<script>{read(found[1])}</script>", styled)


def hashes(html: str, tag: str) -> str:
    """What a Content-Security-Policy calls the inline elements of this name (CSP level 3, section 2.3.1).

    >>> hashes("<p>a</p><script>alert(1)</script>", "script")
    "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    """
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def policy(html: str) -> str:
    """Content-Security-Policy of a page: its own inline scripts and style, its own server, nothing else."""
    return "; ".join((
        "default-src 'none'", f"script-src {hashes(html, 'script')}", f"style-src {hashes(html, 'style')}",
        "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    ))  # fmt: skip


@cache
def read_page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that it is sent with."""
    html = put_together()
    headers = {
        "content-security-policy": policy(html), "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-cache",
    }  # fmt: skip
    return html, headers


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def page() -> Response:
    """Jobs with their loss curves, models, and a box to try them."""
    html, headers = read_page()
    return Response(html, headers=headers, media_type="text/html")
