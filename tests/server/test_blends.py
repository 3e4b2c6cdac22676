"""The ``blend`` extension of completions: through the official client, through `lib.api`, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from serving import TINY
from starlette.testclient import TestClient

from lib import api

INIT = f"{TINY}:init"
OTHER = "fork-other"
PROMPTS = ["The red fox", "café 東京", "0"]


@pytest.fixture
def http(family_store: Path, serve: Callable[..., TestClient]) -> TestClient:
    return serve(family_store, cache_bytes=1)  # a limit below one model


def blended(client: OpenAI, prompt: Any, blend: dict[str, Any], **options: Any) -> Any:
    return client.completions.create(model=TINY, prompt=prompt, extra_body={"blend": blend}, **options)


def test_a_blend_without_a_shift_answers_as_its_model(client: OpenAI) -> None:
    options = {"max_tokens": 12, "temperature": 0.9, "seed": 3, "n": 2, "logprobs": 2}
    plain = client.completions.create(model=TINY, prompt=PROMPTS, **options)
    for blend in (
        {"tuned": "fork-kin", "base": "fork-kin"},
        {"tuned": "fork-kin", "base": INIT, "weights": [1, 0, 0]},
        {"tuned": "fork-kin", "base": INIT, "schedule": [0.0]},
    ):
        reply = blended(client, PROMPTS, blend, **options)
        assert [choice.text for choice in reply.choices] == [choice.text for choice in plain.choices]
        for mine, theirs in zip(reply.choices, plain.choices, strict=True):
            assert mine.logprobs.tokens == theirs.logprobs.tokens
            assert mine.logprobs.token_logprobs == pytest.approx(theirs.logprobs.token_logprobs, abs=1e-5)
        assert reply.usage == plain.usage
        assert reply.system_fingerprint.count("+") == 2
    moved = blended(client, PROMPTS, {"tuned": "fork-kin", "base": TINY}, **options)
    kin = client.completions.create(model="fork-kin", prompt=PROMPTS, **options)
    assert [choice.text for choice in moved.choices] == [choice.text for choice in kin.choices]
    assert [choice.text for choice in moved.choices] != [choice.text for choice in plain.choices]


def test_the_models_of_a_blend_are_read_once_however_small_the_cache(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning_server.engine import models

    weights_of, read = models.weights_of, list[str]()

    def counted(model_id: str, *args: Any) -> Any:
        read.append(model_id)
        return weights_of(model_id, *args)

    monkeypatch.setattr(models, "weights_of", counted)
    for _ in range(2):
        blended(client, "The", {"tuned": "fork-kin", "base": INIT}, max_tokens=1)
    assert read == [TINY, "fork-kin", INIT]


def test_a_stream_of_a_blend_adds_up(client: OpenAI) -> None:
    blend, options = {"tuned": "fork-kin", "base": INIT}, {"max_tokens": 8, "seed": 1}
    whole = blended(client, "The red", blend, **options).choices[0].text
    pieces = blended(client, "The red", blend, stream=True, **options)
    assert "".join(piece.choices[0].text for piece in pieces) == whole


def test_asking_keeps_blends_apart_and_old_journals_good(client: OpenAI, tmp_path: Path) -> None:
    journal, settings = tmp_path / "journal.jsonl", {"model": TINY, "max_tokens": 8, "temperature": 1.0, "seed": 2}
    blends = [None, api.Blend("fork-kin", TINY), api.Blend("fork-kin", INIT), api.Blend("fork-kin", TINY, (1, 0, 0))]
    requested = [api.Request(prompt="The red", blend=blend, **settings) for blend in blends]  # type: ignore[arg-type]
    plain, moved, _, unmoved = (answers[0].text for answers in api.ask(client, requested, journal=journal))
    assert plain == unmoved != moved
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(set(keys)) == 4
    assert api.ask(client, requested, journal=journal)[1][0].text == moved
    assert len(journal.read_text().splitlines()) == 4

    from lib.paths import content_hash

    before = {"model": TINY, "prompt": "The red", "max_tokens": 8, "temperature": 1.0, "top_p": 1.0, "n": 1, "seed": 2}
    before |= {"stop": (), "logprobs": None, "echo": False}
    assert content_hash([api.fingerprint(client, TINY), before], length=24) in keys


GOOD = {"tuned": "fork-kin", "base": INIT}
BAD = [
    ({"blend": GOOD | {"tuned": OTHER}}, 400, "blend", f"{TINY} and {OTHER} have different tokenizers"),
    ({"blend": GOOD | {"base": OTHER}}, 400, "blend", f"{TINY} and {OTHER} have different tokenizers"),
    ({"blend": GOOD | {"base": "fork-kind"}}, 404, "blend.base", "Nearest ids: fork-kin"),
    ({"model": "fork-tinny"}, 404, "model", "'fork-tinny' does not exist"),
    ({"blend": {"tuned": TINY}}, 400, "blend.base", "Missing required parameter"),
    ({"blend": GOOD | {"weights": [1, 1]}}, 400, "blend.weights", "at least 3"),
    ({"blend": GOOD | {"weights": [1, 1, "x"]}}, 400, "blend.weights[2]", "valid number"),
    ({"blend": GOOD | {"plausibility": 2}}, 400, "blend.plausibility", "less than or equal to 1"),
    ({"blend": GOOD | {"schedule": [1e9]}}, 400, "blend.schedule[0]", "less than or equal to 1000"),
    ({"blend": GOOD | {"alpha": 1}}, 400, "blend.alpha", "Unrecognized request argument"),
    ({"echo": True}, 400, "echo", "not supported with 'blend'"),
    ({"n": 1024, "prompt": ["a", "b"]}, 400, "n", "At most 1024 answers"),
    (
        {"blend": GOOD | {"tuned": "fork-short"}, "max_tokens": 40},
        400,
        "prompt",
        "fork-short: the model's context is 24",
    ),
    ({"max_tokens": 600}, 400, "prompt", "maximum context length is 512"),
]


@pytest.mark.parametrize(
    ("wrong", "status", "param", "message"), BAD, ids=[f"{k}-{case[2]}" for k, case in enumerate(BAD)]
)
def test_what_cannot_be_blended_is_refused(
    http: TestClient, wrong: dict[str, Any], status: int, param: str, message: str
) -> None:
    reply = http.post("/v1/completions", json={"model": TINY, "prompt": "a", "max_tokens": 2, "blend": GOOD} | wrong)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_the_client_sees_an_ordinary_refusal(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="different tokenizers") as refused:
        blended(client, "a", {"tuned": OTHER, "base": OTHER})
    assert refused.value.code == "different_tokenizers"
