"""What scripts written for OpenAI count on: its client, sync and async, pages, streams, errors, retries; raw HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import httpx2
import pytest
from openai import (
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
)
from serving import TINY, facts, jsonl, listening, wait_for

from tuning_server.types import Settings, hash_key

USER: Any = [{"role": "user", "content": "Who saw the baker?"}]
KEY = "the-key"


class Trained(TypedDict):
    """Ids of what the module's server holds."""

    files: list[str]
    jobs: list[str]


@pytest.fixture(scope="module")
def url(grown_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a key, with a socket of its own."""
    store = tmp_path_factory.mktemp("conformance") / "store"
    shutil.copytree(grown_store, store)
    with listening(Settings(store=store, key_hash=hash_key(KEY))) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def raw(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def trained(client: OpenAI) -> Trained:
    """Five files and three jobs, the last of five epochs."""
    files = [client.files.create(file=(f"{k}.jsonl", jsonl(facts(8))), purpose="fine-tune").id for k in range(5)]
    jobs = [
        client.fine_tuning.jobs.create(
            model=TINY, training_file=files[0], hyperparameters={"n_epochs": n_epochs, "batch_size": 4}
        ).id
        for n_epochs in (1, 1, 5)
    ]
    assert {wait_for(client, job).status for job in jobs} == {"succeeded"}
    return {"files": files, "jobs": jobs}


def asynchronous(url: str, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, **options)


# pages


def test_pages_follow_each_other_over_every_list(client: OpenAI, trained: Trained) -> None:
    jobs, last = client.fine_tuning.jobs, trained["jobs"][-1]
    assert [file.id for file in client.files.list(limit=2, purpose="fine-tune")] == trained["files"][::-1]
    assert [job.id for job in jobs.list(limit=2)] == trained["jobs"][::-1]
    whole = [event.id for event in jobs.list_events(last, limit=1000).data]
    assert [event.id for event in jobs.list_events(last, limit=3)] == whole
    assert len(whole) > 10
    steps = [checkpoint.step_number for checkpoint in jobs.checkpoints.list(last, limit=2)]
    assert steps == [10, 8, 6, 4, 2]
    page = jobs.checkpoints.list(last, limit=2)
    assert page.has_next_page()
    assert [checkpoint.step_number for checkpoint in page.get_next_page().data] == [6, 4]
    assert not jobs.checkpoints.list(last, limit=5).has_next_page()
    assert {job.id for page in jobs.list(limit=1).iter_pages() for job in page.data} == set(trained["jobs"])


def test_pages_follow_each_other_asynchronously(url: str, trained: Trained) -> None:
    async def all_of(client: AsyncOpenAI) -> tuple[list[str], list[str], int, int]:
        jobs, last = client.fine_tuning.jobs, trained["jobs"][-1]
        return (
            [file.id async for file in client.files.list(limit=2, purpose="fine-tune")],
            [job.id async for job in jobs.list(limit=2)],
            len([event async for event in jobs.list_events(last, limit=3)]),
            len([checkpoint async for checkpoint in jobs.checkpoints.list(last, limit=2)]),
        )

    async def run() -> tuple[list[str], list[str], int, int]:
        async with asynchronous(url) as client:
            return await all_of(client)

    files, jobs, n_events, n_checkpoints = asyncio.run(run())
    assert (files, jobs, n_checkpoints) == (trained["files"][::-1], trained["jobs"][::-1], 5)
    assert n_events > 10


# the asynchronous client


def test_a_job_from_start_to_end_asynchronously(url: str) -> None:
    async def run() -> None:
        async with asynchronous(url) as client:
            file = await client.files.create(file=("rows.jsonl", jsonl(facts(4))), purpose="fine-tune")
            assert (await client.files.wait_for_processing(file.id)).status == "processed"
            assert (await client.files.content(file.id)).content == jsonl(facts(4))
            job = await client.fine_tuning.jobs.create(
                model=TINY, training_file=file.id, method={"type": "supervised"}, hyperparameters={"n_epochs": 1}
            )
            for _ in range(600):
                job = await client.fine_tuning.jobs.retrieve(job.id)
                if job.status == "succeeded":
                    break
                await asyncio.sleep(0.1)
            assert job.fine_tuned_model
            reply = await client.completions.create(model=job.fine_tuned_model, prompt="Q1 is", max_tokens=2)
            assert reply.choices[0].finish_reason in ("stop", "length")
            assert (await client.models.delete(job.fine_tuned_model)).deleted
            assert (await client.files.delete(file.id)).deleted
            with pytest.raises(NotFoundError):
                await client.models.retrieve(job.fine_tuned_model)

    asyncio.run(run())


def test_streams_and_many_requests_at_once_asynchronously(url: str, client: OpenAI) -> None:
    options: dict[str, Any] = {"model": TINY, "max_tokens": 8, "seed": 3}
    text = client.completions.create(prompt="The red", **options).choices[0].text
    answer = client.chat.completions.create(messages=USER, **options).choices[0].message.content

    async def run() -> None:
        async with asynchronous(url) as many:
            parts = [part async for part in await many.completions.create(prompt="The red", stream=True, **options)]
            assert "".join(choice.text for part in parts for choice in part.choices) == text
            deltas = [
                part.choices[0].delta
                async for part in await many.chat.completions.create(messages=USER, stream=True, **options)
            ]
            assert deltas[0].role == "assistant"
            assert "".join(delta.content or "" for delta in deltas) == answer
            sent = [many.completions.create(prompt="The red", **options) for _ in range(16)]
            assert {reply.choices[0].text for reply in await asyncio.gather(*sent)} == {text}

    asyncio.run(run())


def test_a_stream_that_nobody_reads_to_its_end_harms_nobody(client: OpenAI) -> None:
    with client.completions.create(model=TINY, prompt="The", max_tokens=200, stream=True) as stream:
        assert next(iter(stream)).object == "text_completion"
    with client.completions.with_streaming_response.create(model=TINY, prompt="The", max_tokens=2) as reply:
        assert json.loads(reply.read())["object"] == "text_completion"
    assert client.completions.create(model=TINY, prompt="The", max_tokens=2).choices


# errors, retries, request ids


def test_each_refusal_is_the_error_that_scripts_catch(url: str, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as bad:
        client.completions.create(model=TINY, prompt="a", temperature=3)
    assert (bad.value.status_code, bad.value.param, bad.value.code) == (400, "temperature", "invalid_value")
    assert (bad.value.type, bad.value.request_id) == (
        "invalid_request_error",
        bad.value.response.headers["x-request-id"],
    )
    with pytest.raises(NotFoundError) as missing:
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert missing.value.param == "fine_tuning_job_id"
    with OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as other, pytest.raises(AuthenticationError):
        other.models.list()
    with pytest.raises(PermissionDeniedError) as kept:
        client.models.delete(TINY)
    assert kept.value.code == "not_deletable"
    with pytest.raises(BadRequestError, match="'tools' is not supported: leave it out"):
        client.chat.completions.create(
            model=TINY, messages=USER, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )
    with pytest.raises(NotFoundError, match="Unknown request URL: POST /v1/responses"):
        client.responses.create(model=TINY, input="a")
    with pytest.raises(BadRequestError, match="supplied: whatever"):
        client.fine_tuning.jobs.create(model=TINY, training_file="file-x", extra_body={"whatever": 1})


def test_errors_of_the_asynchronous_client(url: str) -> None:
    async def run() -> None:
        async with asynchronous(url) as client:
            with pytest.raises(NotFoundError, match="Nearest ids: fork-tiny"):
                await client.completions.create(model="fork-tine", prompt="a", stream=True)
            with pytest.raises(BadRequestError):
                await client.chat.completions.create(model=TINY, messages=[])

    asyncio.run(run())


def test_the_client_comes_again_after_503_and_not_after_400(
    url: str, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning_server.errors import ApiError
    from tuning_server.worker import Worker

    submit, n_asked = Worker.submit, 0

    def busy_at_first(worker: Worker, work: Any) -> Any:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 1:
            raise ApiError("The server is stopping.", status=503)
        return submit(worker, work)

    monkeypatch.setattr(Worker, "submit", busy_at_first)
    patient = client.with_options(max_retries=2)
    assert patient.completions.create(model=TINY, prompt="a", max_tokens=1).choices
    assert n_asked == 2
    n_asked = 0
    with pytest.raises(InternalServerError) as refused:
        client.completions.create(model=TINY, prompt="a", max_tokens=1)
    assert refused.value.response.headers["retry-after"] == "1"
    n_asked = 5
    with pytest.raises(BadRequestError):
        patient.completions.create(model=TINY, prompt=[99_999], max_tokens=1)
    assert n_asked == 6


def test_request_ids_are_with_each_reply(client: OpenAI) -> None:
    replies = [client.models.with_raw_response.list() for _ in range(2)]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == 2
    assert all(name.startswith("req_") for name in ids)
    assert {TINY, f"{TINY}:init"} <= {model.id for model in replies[0].parse()}
    reply = client.completions.create(model=TINY, prompt="a", max_tokens=1)
    assert (reply._request_id or "").startswith("req_")


# raw HTTP


def test_methods_and_addresses_that_are_not_there(raw: httpx2.Client) -> None:
    for method, path in (("GET", "/v1/completions"), ("PUT", "/v1/files"), ("PATCH", "/v1/models/fork-tiny")):
        reply = raw.request(method, path)
        assert reply.status_code == 405
        assert reply.json()["error"]["message"] == f"Not allowed to {method} on {path}."
        assert reply.headers["allow"]
    for path in ("/v1/completions/", "/v2/models", "/v1/batches", "/v1/fine_tunes", "/docs"):
        reply = raw.get(path)
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_content_types(raw: httpx2.Client, trained: Trained) -> None:
    body = {"model": TINY, "prompt": "a", "max_tokens": 1}
    for path in ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs"):
        assert raw.get(path).headers["content-type"] == "application/json"
    assert raw.post("/v1/completions", json=body).headers["content-type"] == "application/json"
    streamed = raw.post("/v1/completions", json=body | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["cache-control"] == "no-cache"
    for line in filter(None, streamed.text.split("\n")):
        assert line == "data: [DONE]" or json.loads(line.removeprefix("data: "))["object"] == "text_completion"
    stored = raw.get(f"/v1/files/{trained['files'][0]}/content")
    assert (stored.headers["content-type"], stored.content) == ("application/octet-stream", jsonl(facts(8)))
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):  # what pages may send unasked
        refused = raw.post("/v1/completions", content=json.dumps(body), headers={"content-type": content_type})
        assert refused.status_code == 400, content_type
        assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_headers(raw: httpx2.Client, url: str) -> None:
    organisation = {"openai-organization": "org-a", "openai-project": "proj-b", "openai-beta": "assistants=v2"}
    reply = raw.get("/v1/models", headers=organisation)
    assert reply.status_code == 200
    assert "access-control-allow-origin" not in reply.headers
    assert "server" not in reply.headers or "/" not in reply.headers["server"]  # no version
    refused = httpx2.get(f"{url}/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refused.headers["x-request-id"].startswith("req_")
    reported = raw.post("/v1/completions", json={"model": TINY, "prompt": "a", "n": 0})
    assert reported.status_code == 400, "never 422"
