"""Completions through the official client: format, log-probabilities, seeds, streams, refusals."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from starlette.testclient import TestClient

TINY = "fork-tiny"
ACCENTS = "Zoë saw 東京 🙂 à la carte"


def ask(client: OpenAI, prompt: Any, **options: Any) -> Any:
    return client.completions.create(model=TINY, prompt=prompt, **options)


def test_reply_has_the_legacy_format(client: OpenAI) -> None:
    reply = ask(client, "The red fox", max_tokens=5, temperature=0)
    assert reply.object == "text_completion"
    assert reply.model == TINY
    assert reply.id.startswith("cmpl-")
    assert reply.system_fingerprint.startswith("fork-tiny-")
    assert reply.choices[0].logprobs is None
    assert reply.choices[0].finish_reason in ("length", "stop")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens <= 5


def test_prompts_come_as_text_or_token_ids_alone_or_many(client: OpenAI) -> None:
    known = ask(client, "The red fox", max_tokens=0, echo=True, extra_body={"return_token_ids": True}).choices[0]
    ids = known.prompt_token_ids
    assert known.text == "The red fox"
    assert known.token_ids == []
    options = {"max_tokens": 6, "temperature": 0}
    text = ask(client, "The red fox", **options).choices[0].text
    assert ask(client, ids, **options).choices[0].text == text
    both = ask(client, [ids, ids], n=2, **options).choices
    assert [choice.index for choice in both] == [0, 1, 2, 3]
    assert [choice.text for choice in both] == [text] * 4
    assert len(ask(client, ["a", "", "b"], max_tokens=1).choices) == 3


def test_logprobs_of_the_whole_vocabulary_add_up_to_one(client: OpenAI, http: TestClient) -> None:
    from tuning_server.engine.models import load

    loaded = load(TINY, http.app.state.service.settings.store)  # type: ignore[attr-defined]
    reply = ask(client, ACCENTS, echo=True, max_tokens=3, logprobs=loaded.vocab_size)
    logprobs = reply.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        if top is not None:
            assert len(top) == loaded.vocab_size
            assert math.isclose(sum(map(math.exp, top.values())), 1.0, rel_tol=1e-4)
            assert math.isclose(top[token], logprob, rel_tol=1e-6)


def test_echoed_logprobs_equal_those_of_generation(client: OpenAI) -> None:
    made = ask(client, "The red", max_tokens=8, temperature=0, logprobs=0, extra_body={"return_token_ids": True})
    choice = made.choices[0]
    assert choice.logprobs.top_logprobs is None
    again = ask(client, choice.prompt_token_ids + choice.token_ids, max_tokens=0, echo=True, logprobs=0)
    reported = again.choices[0].logprobs.token_logprobs[len(choice.prompt_token_ids) :]
    assert reported == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)


def test_text_offsets_are_characters_of_the_returned_text(client: OpenAI) -> None:
    choice = ask(client, ACCENTS, max_tokens=0, echo=True, logprobs=1).choices[0]
    logprobs = choice.logprobs
    assert choice.text == ACCENTS
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset : offset + len(token)] == token
    assert any(token.startswith("bytes:\\x") for token in logprobs.tokens)  # the test has split characters in it
    without = ask(client, ACCENTS, max_tokens=4, temperature=0, logprobs=1).choices[0]
    assert without.logprobs.text_offset[0] == 0


def test_answers_depend_on_the_seed_and_not_on_their_neighbours(client: OpenAI) -> None:
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
    alone = ask(client, "The red", **options).choices[0].text
    assert ask(client, "The red", **options).choices[0].text == alone
    assert ask(client, ["café", "The red"], **options).choices[1].text == alone
    assert ask(client, "The red", n=3, **options).choices[0].text == alone
    repeated = [choice.text for choice in ask(client, ["The red", "x", "The red"], **options).choices]
    assert repeated[0] == alone != repeated[2]
    assert ask(client, "The red", **(options | {"seed": 8})).choices[0].text != alone
    assert len({choice.text for choice in ask(client, "The red", n=4, max_tokens=12).choices}) == 4


def test_many_clients_at_once_get_their_own_answers(client: OpenAI) -> None:
    prompts = [f"fox {k}" for k in range(24)]
    options = {"max_tokens": 6, "seed": 1}
    alone = [ask(client, prompt, **options).choices[0].text for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prompt: ask(client, prompt, **options).choices[0].text, prompts))
    assert together == alone


def test_stop_strings_end_an_answer_and_are_not_in_it(client: OpenAI) -> None:
    whole = ask(client, "The red fox", max_tokens=20, temperature=0).choices[0].text
    stop = whole[6:8]
    choice = ask(client, "The red fox", max_tokens=20, temperature=0, stop=[stop, "never"], logprobs=1).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.text == whole[: whole.find(stop)]
    echoed = ask(client, "The red fox", max_tokens=20, temperature=0, stop=stop, echo=True).choices[0]
    assert echoed.text == "The red fox" + choice.text


def test_bias_decides(client: OpenAI) -> None:
    ids = ask(client, "fox", max_tokens=0, echo=True, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
    forced = ask(client, "The", max_tokens=3, logit_bias={str(ids[0]): 100}, extra_body={"return_token_ids": True})
    assert forced.choices[0].token_ids == [ids[0]] * 3


def test_stream_adds_up_to_the_whole(client: OpenAI, http: TestClient) -> None:
    options = {"max_tokens": 8, "seed": 3, "n": 2, "logprobs": 2, "echo": True}
    whole = ask(client, ACCENTS, **options)
    texts, reasons, n_tokens, usage = {0: "", 1: ""}, {}, 0, None
    for chunk in ask(client, ACCENTS, stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            n_tokens += len(choice.logprobs.tokens) if choice.logprobs else 0
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    assert list(reasons.values()) == [choice.finish_reason for choice in whole.choices]
    assert n_tokens == sum(len(choice.logprobs.tokens) for choice in whole.choices)
    assert usage == whole.usage
    raw = http.post("/v1/completions", json={"model": TINY, "prompt": "a", "stream": True, "max_tokens": 2})
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.endswith("data: [DONE]\n\n")


def test_no_tokens_are_an_empty_answer(client: OpenAI) -> None:
    reply = ask(client, "The red", max_tokens=0, logprobs=1, stream_options={"include_usage": True})
    choice = reply.choices[0]
    assert (choice.text, choice.finish_reason, choice.logprobs.tokens) == ("", "length", [])
    assert reply.usage.completion_tokens == 0


BAD = [
    ({"top_k": 3}, "top_k", "Unrecognized request argument supplied: top_k"),
    ({"suffix": "x"}, "suffix", "not supported"),
    ({"best_of": 3}, "best_of", "equals 'n'"),
    ({"presence_penalty": 0.5}, "presence_penalty", "'presence_penalty' is not supported: leave it out, or send 0"),
    ({"max_tokens": "5"}, "max_tokens", "valid integer"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"temperature": True}, "temperature", "valid number"),
    ({"logprobs": 100_000}, "logprobs", "at most the vocabulary"),
    ({"stop": [""]}, "stop[0]", "at least 1 character"),
    ({"stop": 3}, "stop", "valid list"),
    ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x", "valid integer"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "token ids below"),
    ({"logit_bias": {"1": 500}}, "logit_bias.1", "less than or equal to 100"),
    ({"prompt": [1, "a"]}, "prompt", "expected a string"),
    ({"prompt": 3}, "prompt", "expected a string"),
    ({"prompt": [99_999]}, "prompt", "not in the vocabulary"),
    ({"prompt": [-1]}, "prompt", "not in the vocabulary"),
    ({"prompt": "\ud800"}, "prompt", "surrogate"),
    ({"stop": ["a", "\ud800"]}, "stop[1]", "unable to parse raw data as a unicode string"),
]


@pytest.mark.parametrize(("wrong", "param", "message"), BAD, ids=[f"{k}-{case[1]}" for k, case in enumerate(BAD)])
def test_what_cannot_be_done_is_refused(http: TestClient, wrong: dict[str, Any], param: str, message: str) -> None:
    import json

    body = json.dumps({"model": TINY, "prompt": "a"} | wrong)
    reply = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]


def test_a_long_prompt_and_an_unknown_model_are_refused(client: OpenAI) -> None:
    with pytest.raises(
        BadRequestError, match="maximum context length is 512 tokens, however you requested 616"
    ) as long:
        ask(client, "1" * 600)
    assert long.value.code == "context_length_exceeded"
    assert len(ask(client, "1" * 511, max_tokens=1).choices) == 1
    with pytest.raises(NotFoundError, match="fork-tiny") as unknown:
        client.completions.create(model="fork-tinny", prompt="a")
    assert unknown.value.code == "model_not_found"


def test_offsets_hold_for_bytes_that_are_no_text(client: OpenAI) -> None:
    """Random weights write broken characters; each takes one place."""
    for seed in range(5):
        choice = ask(client, "é", max_tokens=60, seed=seed, echo=True, logprobs=0).choices[0]
        for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
            if token == "<|endoftext|>":
                assert offset == len(choice.text)
            elif not token.startswith("bytes:"):
                assert choice.text[offset : offset + len(token)] == token


def test_a_text_scored_by_echo_and_one_token_has_a_place_for_each(client: OpenAI) -> None:
    """As the LM Evaluation Harness asks: it drops the last place, also where the model would end the text there."""
    sent: dict[str, Any] = {"model": TINY, "prompt": "The red fox", "echo": True, "logprobs": 1, "temperature": 0}
    known = client.completions.create(max_tokens=0, **sent).choices[0].logprobs
    end = client.post("/tokenize", cast_to=object, body={"model": TINY, "prompt": "<|endoftext|>"})["tokens"]  # type: ignore[index]
    for bias in ({}, {str(end[0]): 100}):
        whole = client.completions.create(max_tokens=1, logit_bias=bias, **sent)
        scored, reason = whole.choices[0].logprobs, whole.choices[0].finish_reason
        assert known is not None
        assert scored is not None
        assert scored.tokens is not None
        assert scored.tokens[:-1] == known.tokens
        assert scored.token_logprobs == pytest.approx(
            [*(known.token_logprobs or []), scored.token_logprobs[-1]], abs=1e-5
        )  # type: ignore[index]
    assert (reason, scored.tokens[-1], whole.choices[0].text) == ("stop", "<|endoftext|>", "The red fox")
    assert scored.text_offset is not None
    assert scored.text_offset[-1] == len("The red fox")
