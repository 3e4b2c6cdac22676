"""What a page of another origin, open in a person's browser, can do to a server on the loopback: nothing."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from chromium import Chromium, wait_until
from serving import TINY, facts, jsonl, speak

Live = Callable[..., str]
ELSEWHERE = b"""<!doctype html><body><form><input></form><script>
function submit(form, input) { Object.assign(document.forms[0].elements[0], input)
  Object.assign(document.forms[0], form).submit() }
</script>"""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Address of a web page that another server sends."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(ELSEWHERE)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_of_another_origin_starts_nothing_and_reads_nothing(
    live: Live, browser: Chromium, elsewhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tuning_server.app")
    url = live()
    client = speak(url)
    file = client.files.create(file=("rows.jsonl", jsonl(facts(8))), purpose="fine-tune")
    body = {"model": TINY, "training_file": file.id}
    page = browser.open(elsewhere)
    caplog.clear()

    def fetched(path: str, **options: Any) -> Any:
        sent = f"fetch({json.dumps(url + path)}, {json.dumps(options)})"
        return page.run(f"{sent}.then(reply => [reply.type, reply.status], error => error.name)")

    jobs = "/v1/fine_tuning/jobs"
    plain = {"method": "POST", "body": json.dumps(body)}
    as_json = {"headers": {"content-type": "application/json"}}
    assert fetched(jobs, mode="no-cors", **plain) == ["opaque", 0]
    assert fetched(jobs, mode="no-cors", **plain, referrerPolicy="no-referrer") == ["opaque", 0]
    assert fetched(jobs, **plain) == "TypeError"
    assert fetched(jobs, **plain, **as_json) == "TypeError"  # the question beforehand is refused
    assert page.run(f"navigator.sendBeacon({json.dumps(url + jobs)}, {json.dumps(plain['body'])})")
    for path in ("/", "/v1/models", f"/v1/files/{file.id}/content", "/openapi.json"):
        assert fetched(path) == "TypeError"
    assert fetched("/v1/models/hf:a/b", mode="no-cors") == ["opaque", 0]  # as a picture would: it has no origin
    start, end = json.dumps({**body, "suffix": "="}).split("=")
    forms = (
        (jobs, "text/plain", start, end), (jobs, "application/x-www-form-urlencoded", "model", TINY),
        ("/v1/files", "multipart/form-data", "purpose", "fine-tune"),
    )  # fmt: skip
    for action, kind, name, value in forms:
        form = json.dumps([{"method": "POST", "action": url + action, "enctype": kind}, {"name": name, "value": value}])
        page.run(f"submit(...{form})")
        page.until("document.body.innerText.includes('foreign_origin')")
        page.go(elsewhere)
    lines = [record.getMessage().split(" ", 1)[1].rsplit(" ", 2)[0] for record in caplog.records]
    posted = sorted(line for line in lines if not line.startswith("GET"))
    assert posted == [f"OPTIONS '{jobs}' 403", "POST '/v1/files' 403", *[f"POST '{jobs}' 403"] * 6]
    assert {line.split()[-1] for line in lines if line.startswith("GET '/v1")} == {"403"}
    assert client.fine_tuning.jobs.list().data == []
    assert [kept.id for kept in client.files.list()] == [file.id]
    page.run(f"document.body.appendChild(document.createElement('iframe')).src = {json.dumps(url + '/')}")
    wait_until(lambda: any("frame-ancestors" in reported for reported in page.complaints()), "the page is not framed")
    assert client.fine_tuning.jobs.create(**body).status, "what was sent would have been taken from anyone else"
