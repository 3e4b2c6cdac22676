"""Fields that change nothing: null for every optional field of the official client, and the values of its defaults."""

from __future__ import annotations

import inspect
import operator
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from serving import TINY, facts, jsonl, official, upload
from starlette.testclient import TestClient

from tuning_server.app import make_app
from tuning_server.rows import ChatRow
from tuning_server.types import Settings

USER: Any = [{"role": "user", "content": "Who saw the baker?"}]
NOT_FIELDS = {"extra_headers", "extra_query", "extra_body", "timeout"}


@pytest.fixture(scope="module")
def http(grown_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = tmp_path_factory.mktemp("noop") / "store"
    shutil.copytree(grown_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as started:
        yield started


@pytest.fixture(scope="module")
def client(http: TestClient) -> OpenAI:
    return official(http)


def end(client: OpenAI, job_id: str) -> None:
    """Cancel a job that is of no further use."""
    with suppress(BadRequestError):
        client.fine_tuning.jobs.cancel(job_id)


def optional(method: Any, required: set[str]) -> list[str]:
    """Optional fields of a method of the official client."""
    return sorted(set(inspect.signature(method).parameters) - NOT_FIELDS - required)


REQUIRED: dict[str, dict[str, Any]] = {
    "completions.create": {"model": TINY, "prompt": "a"},
    "chat.completions.create": {"model": TINY, "messages": USER},
    "embeddings.create": {"model": TINY, "input": "a"},
    "fine_tuning.jobs.create": {"model": TINY},
}
PATHS = {"completions.create": "completions", "chat.completions.create": "chat/completions"} | {
    "embeddings.create": "embeddings", "fine_tuning.jobs.create": "fine_tuning/jobs",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_every_optional_field_may_be_null(client: OpenAI, http: TestClient, name: str) -> None:
    body = dict(REQUIRED[name])
    if name.startswith("fine_tuning"):
        body["training_file"] = upload(client, jsonl(facts(2))).id
    fields = optional(operator.attrgetter(name)(client), set(body))
    assert len(fields) >= 3
    for nulls in (*([field] for field in fields), fields):
        reply = http.post(f"/v1/{PATHS[name]}", json=body | dict.fromkeys(nulls))
        assert reply.status_code == 200, (nulls, reply.text)
        if name.startswith("fine_tuning"):
            end(client, reply.json()["id"])


def test_nulls_inside_objects_and_of_extensions(client: OpenAI, http: TestClient) -> None:
    file = upload(client, jsonl(facts(2))).id
    schemas = http.get("/openapi.json").json()["components"]["schemas"]

    def nulls(name: str) -> dict[str, None]:
        schema = schemas.get(name) or schemas[f"{name}-Input"]
        return dict.fromkeys(set(schema["properties"]) - set(schema.get("required", [])))

    job = {"model": TINY, "training_file": file}
    for method in (
        nulls("Method") | {"type": "supervised"},
        {"type": "supervised", "supervised": {"hyperparameters": nulls("Hyperparameters")}},
        {"type": "supervised", "supervised": {"hyperparameters": {"lora": nulls("Lora")}}},
        {"type": "dpo", "dpo": {"hyperparameters": nulls("DpoHyperparameters")}},
        {"type": "dpo", "dpo": nulls("Dpo")},
    ):
        reply = http.post("/v1/fine_tuning/jobs", json=job | {"method": method, "hyperparameters": None})
        assert reply.status_code == 200, reply.text
        end(client, reply.json()["id"])
    scored = {"model": TINY, "contexts": [[1, 2]], "targets": [3]}
    options = {"stream": True, "stream_options": nulls("StreamOptions")}
    blend = nulls("Blend") | {"tuned": TINY, "base": TINY}
    for path, body in (
        ("scores", nulls("ScoresRequest") | scored), 
        ("tokenize", nulls("TokenizeRequest") | {"model": TINY, "prompt": "a"}),
        ("completions", {"model": TINY, "prompt": "a", "blend": blend}), ("completions", {"model": TINY, **options}),
        ("chat/completions", {"model": TINY, "messages": USER, "max_tokens": 2, **options}),
    ):  # fmt: skip
        reply = http.post(f"/v1/{path}", json=body)
        assert reply.status_code == 200, reply.text


def test_lists_take_empty_parameters(client: OpenAI, http: TestClient) -> None:
    job = client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, jsonl(facts(2))).id)
    end(client, job.id)
    lists = {
        "files": client.files.list,
        "fine_tuning/jobs": client.fine_tuning.jobs.list,
        f"fine_tuning/jobs/{job.id}/events": client.fine_tuning.jobs.list_events,
        f"fine_tuning/jobs/{job.id}/checkpoints": client.fine_tuning.jobs.checkpoints.list,
    }
    for path, method in lists.items():
        fields = optional(method, {"fine_tuning_job_id"})
        for empty in ("", "null"):
            reply = http.get(f"/v1/{path}", params=dict.fromkeys(fields, empty))
            assert reply.status_code == 200, reply.text
    assert client.files.list(after=None, limit=None, order=None, purpose=None).data  # type: ignore[arg-type]
    assert client.files.create(file=("a.jsonl", jsonl(facts(1))), purpose="fine-tune", expires_after=None)  # type: ignore[arg-type]


CHAT_NOOPS: dict[str, list[Any]] = {
    "tools": [[]], "tool_choice": ["none", "auto"], "parallel_tool_calls": [True, False], "functions": [[]],
    "function_call": ["none"], "response_format": [{"type": "text"}], "store": [False], "modalities": [["text"]],
    "service_tier": ["auto", "default"], "metadata": [{}], "reasoning_effort": ["none"], "verbosity": ["medium"],
    "prompt_cache_key": ["a"], "safety_identifier": ["a"], "user": ["a"], "presence_penalty": [0, 0.0],
    "logit_bias": [{}],
}  # fmt: skip


def test_values_that_ask_for_nothing_change_nothing(client: OpenAI, http: TestClient) -> None:
    body = {"model": TINY, "messages": USER, "seed": 3, "max_tokens": 6}
    plain = http.post("/v1/chat/completions", json=body).json()["choices"]
    for field, values in CHAT_NOOPS.items():
        for value in values:
            reply = http.post("/v1/chat/completions", json=body | {field: value})
            assert reply.status_code == 200, reply.text
            assert reply.json()["choices"] == plain
    width = len(client.embeddings.create(model=TINY, input="a").data[0].embedding)
    assert client.embeddings.create(model=TINY, input="a", dimensions=width).data
    job = {"model": TINY, "training_file": upload(client, jsonl(facts(2))).id, "integrations": [], "metadata": {}}
    end(client, http.post("/v1/fine_tuning/jobs", json=job).json()["id"])


def test_a_reply_is_sent_back_as_it_came(client: OpenAI, http: TestClient) -> None:
    reply = client.chat.completions.create(model=TINY, messages=USER, max_tokens=4).choices[0].message
    again = client.chat.completions.create(model=TINY, messages=[*USER, reply, *USER], max_tokens=4)
    assert again.choices
    whole = {"refusal": None, "tool_calls": None, "function_call": None, "audio": None, "annotations": [], "name": None}
    answer = {"role": "assistant", "content": "Ada."}
    prompts = []
    for message in (answer, answer | whole, answer | {"tool_calls": [], "weight": 1.0}, answer | {"weight": None}):
        body = {"model": TINY, "messages": [*USER, message, *USER], "max_tokens": 1, "return_token_ids": True}
        answered = http.post("/v1/chat/completions", json=body)
        assert answered.status_code == 200, answered.text
        prompts.append(answered.json()["choices"][0]["prompt_token_ids"])
    assert prompts == prompts[:1] * 4
    with pytest.raises(BadRequestError, match=r"'messages\[1\].refusal' is not supported"):
        client.chat.completions.create(model=TINY, messages=[*USER, {**answer, "refusal": "No."}])  # type: ignore[list-item]


def test_training_rows_take_the_same_messages() -> None:
    """A conversation of replies, as a client dumps it, teaches what the same conversation without its nulls does."""
    turns = [*USER, {"role": "assistant", "content": "Ada.", "weight": 1}]
    empty = {"refusal": None, "tool_calls": None, "function_call": None, "audio": None, "annotations": [], "name": None}
    dumped = [turns[0] | {"name": None, "weight": None}, turns[1] | empty | {"weight": 1.0}]
    plain, same = (ChatRow.model_validate({"messages": messages, "tools": []}) for messages in (turns, dumped))
    assert [(message.turn, message.is_learned) for message in same.messages] == [
        (message.turn, message.is_learned) for message in plain.messages
    ]
    assert [message.is_learned for message in same.messages] == [False, True]


def test_no_prompt_is_an_empty_one(http: TestClient) -> None:
    body = {"model": TINY, "max_tokens": 4, "seed": 1}
    replies = [
        http.post("/v1/completions", json=body | prompt)
        for prompt in ({"prompt": ""}, {"prompt": None}, {"prompt": []}, {})
    ]
    assert [reply.status_code for reply in replies] == [200] * 4
    assert len({reply.json()["choices"][0]["text"] for reply in replies}) == 1
    assert {reply.json()["usage"]["prompt_tokens"] for reply in replies} == {0}


def test_a_nucleus_of_nothing_is_greedy(client: OpenAI) -> None:
    greedy = client.completions.create(model=TINY, prompt="The red", max_tokens=8, temperature=0).choices[0].text
    drawn = client.completions.create(model=TINY, prompt="The red", max_tokens=8, top_p=0, seed=5, n=3).choices
    assert [choice.text for choice in drawn] == [greedy] * 3


@pytest.mark.parametrize("path", ["/v1/fine-tunes", "/v1/fine-tunes/ft-1/cancel", "/v1/engines/davinci/completions"])
def test_retired_clients_learn_where_to_read(http: TestClient, path: str) -> None:
    reply = http.post(path, json={"training_file": "file-x"})
    error = reply.json()["error"]
    assert (reply.status_code, set(error)) == (404, {"message", "type", "param", "code"})
    assert "docs/migrating.md" in error["message"]
    assert "docs/migrating.md" not in http.post("/v1/responses", json={}).json()["error"]["message"]


def test_streams_have_an_event_for_each_token(client: OpenAI) -> None:
    """With and without log-probabilities; the three tokens of a character make one event."""
    options: dict[str, Any] = {"model": TINY, "max_tokens": 12, "seed": 3, "extra_body": {"return_token_ids": True}}
    for prompt, echo in (("The red", False), ("Zoë saw 東京 🙂", True)):
        whole = client.completions.create(prompt=prompt, echo=echo, logprobs=1, **options).choices[0]
        pieces = [
            chunk.choices[0].text
            for chunk in client.completions.create(prompt=prompt, echo=echo, stream=True, **options)
        ]
        assert "".join(pieces) == whole.text
        assert whole.logprobs is not None
        assert whole.logprobs.text_offset is not None
        inside = {offset for offset in whole.logprobs.text_offset if offset < len(whole.text)}
        assert len(pieces) == len(inside) + 1 > 5, "and one event says why it ended"
