"""Fields that an endpoint refuses: ids are left out, max_tokens gets its other name; and keys of answers stay good."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI
from serving import TINY

from lib import api
from lib.journal import Journal
from lib.paths import content_hash, write_jsonl

MODEL = "babbage-002"
UNKNOWN = (400, {"message": "Unrecognized request argument supplied: return_token_ids", "param": None})
NAMED = (422, {"message": "Extra inputs are not permitted", "param": "return_token_ids"})
CHAT_ONLY = (404, {"message": "This is a chat model", "param": "model", "code": None})


@dataclass
class Endpoint:
    """Answers with two tokens, or refuses what it is told to; keeps the bodies that came, by path."""

    refusal: tuple[int, dict[str, Any]] | None = None
    refused: str = "return_token_ids"  # the field
    only_chats: bool = False
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        if path.startswith("/models/"):
            return httpx.Response(200, json={"id": path.split("/")[2], "object": "model"})
        body = json.loads(request.read())
        self.asked.append((path, body))
        refusal = self.refusal if self.refused in body else None
        if self.only_chats and path == "/completions":
            refusal = CHAT_ONLY
        return httpx.Response(refusal[0], json={"error": refusal[1]}) if refusal else httpx.Response(
            200, json=self.reply(body)
        )  # fmt: skip

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = {"token_ids": [7, 8]} if body.get("return_token_ids") else {}
        n = len(body.get("prompt") or [0]) * (body.get("n") or 1)
        content: dict[str, Any] = {"message": {"role": "assistant", "content": "hm hm"}} if "messages" in body else {}
        choices = [{"index": k, "finish_reason": "stop"} | (content or {"text": " hm hm"}) | ids for k in range(n)]
        kind = "chat.completion" if content else "text_completion"
        return {"id": "x", "object": kind, "created": 0, "model": body["model"], "choices": choices}

    def sent_ids(self) -> list[bool]:
        return [bool(body.get("return_token_ids")) for _, body in self.asked]

    def client(self) -> OpenAI:
        http = httpx.Client(transport=httpx.MockTransport(self))
        return OpenAI(base_url="http://there/v1", api_key="none", http_client=http, max_retries=0)


def requests(n_prompts: int, **options: Any) -> list[api.Request]:
    return [
        api.Request(**{"model": MODEL, "prompt": f"fox {k}", "token_ids": True} | options) for k in range(n_prompts)
    ]


def test_ids_that_are_told_are_kept(tmp_path: Path) -> None:
    at = Endpoint()
    told = api.ask(at.client(), requests(3, n=2), journal=tmp_path / "j")
    assert {answer.token_ids for samples in told for answer in samples} == {(7, 8)}
    assert at.asked[0][1]["return_token_ids"] is True
    assert api.ask(at.client(), requests(3, n=2), journal=tmp_path / "j") == told
    assert len(at.asked) == 1
    api.ask(at.client(), requests(3, n=2, token_ids=False), journal=tmp_path / "j")
    assert at.sent_ids() == [True, False], "another request: without ids, and without the word"
    assert "return_token_ids" not in at.asked[1][1]


@pytest.mark.parametrize("refusal", [UNKNOWN, NAMED])
def test_a_refusal_is_met_once_and_remembered(tmp_path: Path, refusal: tuple[int, dict[str, Any]]) -> None:
    at = Endpoint(refusal)
    told = api.ask(at.client(), requests(100), journal=tmp_path / "j", concurrency=1)
    assert at.sent_ids() == [True, False, False, False, False], "four parts, of which the first went out twice"
    assert {(answer.text, answer.token_ids) for (answer,) in told} == {(" hm hm", ())}
    assert api.ask(at.client(), requests(100), journal=tmp_path / "j") == told
    assert len(at.asked) == 5, "nor is it asked again for the ids"


def test_many_at_once_all_get_through_a_refusal(tmp_path: Path) -> None:
    at = Endpoint(UNKNOWN)
    assert len(api.ask(at.client(), requests(320), journal=tmp_path / "j", concurrency=8)) == 320
    assert at.sent_ids().count(False) == 10
    assert at.sent_ids().count(True) <= 8


@pytest.mark.parametrize("options", [{}, {"messages": (("user", "fox"),)}])
def test_chats_refuse_them_too(tmp_path: Path, options: dict[str, Any]) -> None:
    at = Endpoint(UNKNOWN, only_chats=True)
    told = api.ask(at.client(), requests(1, **options) * 2, journal=tmp_path / "j", concurrency=1)
    assert [(answer.text, answer.token_ids) for (answer,) in told] == [("hm hm", ())] * 2
    assert [("chat" in path, ids) for (path, _), ids in zip(at.asked, at.sent_ids(), strict=True)][-2:] == [
        (True, True), (True, False)
    ]  # fmt: skip
    heard = Endpoint(only_chats=True)
    ((answer,),) = api.ask(heard.client(), requests(1, **options), journal=tmp_path / "other")
    assert answer.token_ids == (7, 8)


def test_another_refusal_is_not_taken_for_this_one(tmp_path: Path) -> None:
    for status, about in ((400, {"message": "No such stop", "param": "stop"}), (500, NAMED[1])):
        at = Endpoint((status, about))
        with pytest.raises(APIStatusError):
            api.ask(at.client(), requests(2), journal=tmp_path / "j")
        assert at.sent_ids() == [True]


def test_journals_from_before_there_were_ids_stay_good(tmp_path: Path) -> None:
    (request,) = requests(1, token_ids=False)
    asked = {name: value for name, value in asdict(request).items() if name not in ("blend", "messages", "token_ids")}
    answer = {"text": " hm", "finish_reason": "stop", "tokens": [" hm"], "token_logprobs": [-1.0], "text_offset": [5]}
    row = {"key": content_hash([MODEL, asked], length=24), "answers": [answer]}
    write_jsonl(tmp_path / "j", [row])
    at = Endpoint()
    ((told,),) = api.ask(at.client(), [request], journal=tmp_path / "j")
    assert (told.text, told.token_ids, told.token_logprobs) == (" hm", (), (-1.0,))
    assert at.asked == []
    api.ask(at.client(), [replace(request, token_ids=True)], journal=tmp_path / "j")
    assert len(at.asked) == 1
    book = Journal(tmp_path / "j")
    assert sorted(answers[0].token_ids for answers in book.answers.values()) == [(), (7, 8)]
    book.close()


REASONING = (400, {"message": "Use 'max_completion_tokens' instead.", "param": "max_tokens"})


def test_a_model_that_refuses_max_tokens_gets_max_completion_tokens(tmp_path: Path) -> None:
    at = Endpoint(REASONING, refused="max_tokens", only_chats=True)
    answers = api.ask(at.client(), requests(3, max_tokens=40), journal=tmp_path / "j", concurrency=1)
    assert [answer.text for (answer,) in answers] == ["hm hm"] * 3
    chats = [body for path, body in at.asked if "chat" in path]
    limits = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in chats]
    assert limits == [(40, None), (None, 40), (None, 40), (None, 40)], "the refusal is met once"


class RefusesBoth(Endpoint):
    def __call__(self, request: httpx.Request) -> httpx.Response:
        is_first = b"max_tokens" in request.read()
        self.refused, self.refusal = ("max_tokens", REASONING) if is_first else ("return_token_ids", NAMED)
        return super().__call__(request)


def test_a_model_that_refuses_two_fields_gets_neither(tmp_path: Path) -> None:
    at = RefusesBoth(only_chats=True)
    api.ask(at.client(), requests(2, max_tokens=40), journal=tmp_path / "j", concurrency=1)
    sent = [sorted({"max_tokens", "max_completion_tokens", "return_token_ids"} & body.keys()) for _, body in at.asked]
    assert sent[-3:] == [
        ["max_completion_tokens", "return_token_ids"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]


def test_a_limit_that_is_refused_for_another_reason_is_an_error(tmp_path: Path) -> None:
    at = Endpoint((400, {"message": "too large", "param": "stop"}), refused="max_tokens", only_chats=True)
    with pytest.raises(APIStatusError, match="too large"):
        api.ask(at.client(), requests(1), journal=tmp_path / "j")


def test_keys_of_requests_do_not_depend_on_names_of_fields() -> None:
    plain, blend = api.Request(model="m", prompt="The red"), api.Blend("t", "b", (1.0, 0.5, -0.5), 0.1, (1.0, 0.0))
    full = api.Request(
        model="m", prompt="fox", max_tokens=3, temperature=0.5, top_p=0.9, n=2, seed=7, stop=("\n",), logprobs=2,
        echo=True, blend=blend, messages=(("user", "fox"),), token_ids=True,
    )  # fmt: skip
    marks = {"m": "1f", "t": "2f", "b": "3f"}
    assert (plain.key(marks), full.key(marks)) == ("09f805d63f1b189327f1de90", "2bd14991bd1ea9fb0ac05dc2")
    assert plain.key(marks | {"m": "9f"}) != plain.key(marks)


def test_our_server_tells_an_id_for_every_token(client: OpenAI, tmp_path: Path) -> None:
    options = {"model": TINY, "max_tokens": 8, "temperature": 1.0, "n": 8, "logprobs": 0, "stop": ("a", " the", "\n")}
    spoken = requests(1, **options, messages=(("user", "fox"),))
    for told in api.ask(client, [*requests(4, **options), *spoken], journal=tmp_path / "j"):
        assert any(answer.finish_reason == "stop" for answer in told)
        for answer in told:
            assert len(answer.token_ids) == len(answer.token_logprobs) == len(answer.text_offset)
    (first, *_), (again, *_) = api.ask(client, requests(2, **options)[:1] * 2, journal=tmp_path / "j")
    assert first == again
