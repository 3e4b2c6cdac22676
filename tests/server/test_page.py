"""The page at ``/``: as it is sent, and as a person meets it in headless Chromium."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, Page
from openai import OpenAI
from serving import TINY, facts, jsonl, speak, wait_for
from starlette.testclient import TestClient

from tuning_server.types import hash_key

Live = Callable[..., str]


def start_job(client: OpenAI, *, n_epochs: int, suffix: str = "bakers", validate: bool = True) -> Any:
    """A job of six steps an epoch, with a validation loss after each."""
    file = client.files.create(file=("rows.jsonl", jsonl(facts(24))), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model=TINY, training_file=file.id, validation_file=file.id if validate else None, suffix=suffix, seed=1,
        hyperparameters={"n_epochs": n_epochs, "batch_size": 4, "learning_rate_multiplier": 5},
    )  # fmt: skip


def quiet(page: Page) -> None:
    """Nothing went wrong in the page, and it spoke to its own server only."""
    assert [reported for reported in page.complaints() if "status of 401" not in reported] == []
    own = page.run("location.origin")
    assert {url for url in page.requests() if not url.startswith((f"{own}/", "data:"))} == set()


# as it is sent


def test_only_the_page_is_sent_without_the_key(tiny_store: Path, serve: Callable[..., TestClient]) -> None:
    http = serve(tiny_store, key_hash=hash_key("right-key"))
    for method in ("GET", "HEAD"):
        reply = http.request(method, "/")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert http.get("/page/server.js").status_code == 200
    for path in ("/index.html", "/page.html", "/page/__init__.py", "/openapi.json", "/v1/models", "/%2F"):
        assert http.get(path).status_code == 401, path
    assert http.post("/").status_code == 401
    assert http.post("/", headers={"authorization": "Bearer right-key"}).status_code == 405
    assert http.get("/", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    assert "/" not in http.get("/openapi.json", headers={"authorization": "Bearer right-key"}).json()["paths"]


def test_the_page_is_whole_and_its_policy_strict(http: TestClient) -> None:
    reply = http.get("/")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
        "img-src": "data:", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'", "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }  # fmt: skip
    parts = re.findall(r'<(?:script src|link rel="stylesheet" href)="([\w./]+)"', reply.text)
    texts = [reply.text]
    for part in parts:
        served = http.get(f"/{part}")
        assert served.status_code == 200
        assert served.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")
        assert served.headers["x-content-type-options"] == "nosniff"
        texts.append(served.text)
    assert len(parts) == 6
    whole = "".join(texts)
    assert not re.search(r"<script>|<style|\son\w+=|style=\"|@import|url\(", whole)
    assert set(re.findall(r"https?://[\w.]+", whole)) == {"http://www.w3.org"}, "names of SVG alone"
    assert http.get("/page/__init__.py").status_code == http.get("/page/none.js").status_code == 404


# as a person meets it


def test_a_finished_job_is_shown_with_its_curve(live: Live, browser: Chromium) -> None:
    url = live()
    client = speak(url)
    job = wait_for(client, start_job(client, n_epochs=3).id)
    metrics = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=100) if event.data][::-1]
    page = browser.open(url)
    page.until("document.querySelector('.line.train')")
    assert page.text("#job-name") == "bakers"
    assert page.text("#job-status") == "succeeded"
    assert f"{TINY}\n" in page.text("#facts")
    assert "18 of 18" in page.text("#facts")
    for kind, name, n_points in (("train", "train_loss", 18), ("valid", "valid_loss", 3)):
        losses = [point[name] for point in metrics if point.get(name) is not None]
        drawn = page.run(f"[...document.querySelector('.line.{kind}').points].map(point => point.y)")
        assert len(drawn) == len(losses) == n_points
        # heights are the losses, on one scale
        spread = [(y - drawn[0]) / (drawn[-1] - drawn[0]) for y in drawn]
        assert spread == pytest.approx([(loss - losses[0]) / (losses[-1] - losses[0]) for loss in losses], abs=0.02)
    page.run("document.querySelector('details').open = true")
    assert "The job has successfully completed" in page.text("#messages")
    assert f"training {metrics[-1]['train_loss']:.3f}" in page.text("#point")
    page.point("#curve .dot.train", press=False)
    page.until(f"document.querySelector('#point').innerText.includes('{metrics[0]['train_loss']:.3f}')")
    page.point("#try-job")
    assert page.run("document.querySelector('#model').value") == job.fine_tuned_model
    page.point("#checkpoints")
    listed = page.text("#model-list")
    assert [model.id for model in client.models.list() if model.id not in listed] == []
    page.write("#find", "ckpt-step-6")
    page.until("document.querySelectorAll('#model-list tr').length === 1")
    quiet(page)


def test_a_running_job_is_followed(live: Live, browser: Chromium) -> None:
    url = live()
    page = browser.open(url)
    page.until("!document.querySelector('#no-jobs').hidden")
    page.run("window.sameDocument = true")
    client = speak(url)
    job = start_job(client, n_epochs=1000, suffix="long", validate=False)
    count = "(document.querySelector('.line.train')?.points.length ?? 0)"
    page.until(f"{count} > 1")
    n_points = page.run(count)
    page.until(f"{count} > {n_points}")
    assert page.text("#job-status") == "running"
    status = "document.querySelector('#job-status').innerText"
    for act, reported in (("pause", "paused"), ("resume", "running"), ("cancel", "running"), ("cancel", "cancelled")):
        page.run(f"window.confirm = () => {str(reported == 'cancelled').lower()}")
        page.point(f"#{act}")
        page.until(f"{status} === {reported!r}")
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    assert page.run("['pause', 'resume', 'cancel'].every((act) => document.getElementById(act).hidden)")
    too_long = jsonl([{"prompt": "a", "completion": " b" * 3000}])
    bad = client.files.create(file=("rows.jsonl", too_long), purpose="fine-tune")
    failed = wait_for(client, client.fine_tuning.jobs.create(model=TINY, training_file=bad.id, suffix="bad").id)
    page.point(f"[data-job={failed.id}]")
    page.until("document.querySelector('#job-error').innerText.includes('tokens')")
    assert page.run("document.querySelector('#curve').hidden && window.sameDocument")
    quiet(page)


def test_tokens_tell_their_probabilities_and_text_stays_text(live: Live, browser: Chromium) -> None:
    url = live()
    page = browser.open(url)
    page.until(f"document.querySelector('#model').value === {TINY!r}")  # the base, not the weights that it began with
    prompt = 'The red fox café 🙂\n<img src="x" onerror="document.title = 1"><b>Ada</b>'
    page.write("#prompt", prompt)
    page.write("#tokens", "20")
    page.write("#temperature", "0")
    page.point("#go")
    page.until("document.querySelectorAll('#answer span').length")
    body: dict[str, Any] = {"model": TINY, "prompt": prompt, "max_tokens": 20, "temperature": 0, "echo": True}
    reply = speak(url).completions.create(**body, logprobs=8)
    reported = reply.choices[0].logprobs
    spans = page.run("[...document.querySelectorAll('#answer span')].map(span => [span.textContent, span.className])")
    assert len(spans) == len(reported.tokens)
    assert "".join(text for text, kind in spans if "label" not in kind).replace("↵", "") == reply.choices[0].text
    assert sum("prompt" in kind for _, kind in spans) == reply.usage.prompt_tokens
    for (_, kind), logprob in zip(spans, reported.token_logprobs, strict=True):
        band = "" if logprob is None else f"p{sum(math.exp(logprob) < bound for bound in (0.5, 0.2, 0.05, 0.01))}"
        assert re.match(band, kind)
    assert page.run("document.querySelectorAll('#answer img, #answer b').length") == 0

    place = 3
    page.point(f"#answer span:nth-child({place + 1})", press=False)
    page.until(f"document.querySelector('#answer span:nth-child({place + 1})').ariaCurrent")
    rows = page.run("[...document.querySelectorAll('#likely .number')].map(cell => cell.textContent)")
    top = sorted(reported.top_logprobs[place].values(), reverse=True)
    shown = [float(row.removesuffix("%")) / 100 for row in rows]
    assert shown == pytest.approx([math.exp(value) for value in top], abs=0.005)

    page.write("#model", "no-such-model")
    page.point("#go")
    page.until("document.querySelector('#try-error').innerText.includes('does not exist')")
    assert [reported for reported in page.complaints() if "status of 404" not in reported] == []


def test_markup_and_scripts_of_others_do_not_run(live: Live, browser: Chromium) -> None:
    page = browser.open(live())
    page.until("!document.querySelector('main').hidden")
    for attack in (
        "document.body.innerHTML = '<img src=x onerror=window.bad=1>'",
        "document.body.setAttribute('onclick', 'window.bad = 1')",
        "(s => { s.textContent = 'window.bad = 1'; document.body.append(s) })(document.createElement('script'))",
    ):
        name = page.run(f"(() => {{ try {{ {attack}; return 'done' }} catch (error) {{ return error.name }} }})()")
        assert name == "TypeError", attack
    assert page.run("window.bad") is None


def test_the_page_requests_the_key_and_keeps_it_in_the_tab(live: Live, browser: Chromium) -> None:
    url = live(key_hash=hash_key("right-key"))
    page = browser.open(url)
    page.until("!document.querySelector('#ask').hidden && document.querySelector('main').hidden")
    for wrong, reported in (("wrong-key", "does not know"), ("schlüssel", "ASCII")):
        page.write("#key", wrong)
        page.point("#ask button")
        page.until(f"document.querySelector('#refused').innerText.includes('{reported}')")
    page.write("#key", "right-key")
    page.point("#ask button")
    page.until("!document.querySelector('main').hidden && document.querySelector('#ask').hidden")
    assert page.run("[localStorage.length, document.cookie, Object.values(sessionStorage), location.href]") == [
        0, "", ["right-key"], f"{url}/",
    ]  # fmt: skip
    page.go(url)
    page.until("!document.querySelector('main').hidden")
    assert browser.open(url).until("!document.querySelector('#ask').hidden"), "another window does not know it"
    page.point("#forget")
    page.until("!document.querySelector('#ask').hidden")
    assert page.run("sessionStorage.length") == 0
    quiet(page)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_and_follows_the_colour_scheme(live: Live, browser: Chromium, width: int, dark: bool) -> None:
    url = live()
    client = speak(url)
    wait_for(client, start_job(client, n_epochs=1, suffix="a-name-of-forty-letters-or-nearly-forty").id)
    page = browser.open(url, width=width, dark=dark)
    page.until("document.querySelector('.line.train')")
    page.write("#prompt", "word" * 100)
    page.point("#go")
    page.until("document.querySelectorAll('#answer span').length")
    assert page.run("document.documentElement.scrollWidth") <= width
    paper, ink = (
        sum(map(float, re.findall(r"[\d.]+", page.run(f"getComputedStyle(document.body).{name}"))[:3]))
        for name in ("backgroundColor", "color")
    )
    assert (paper < ink) == dark
    assert abs(paper - ink) > 3 * 128
