"""Token ids are asked for once: an endpoint that refuses gives its texts all the same, and old journals stay good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI
from serving import TINY

from lib import api, hosted
from lib.budget import Spending
from lib.hosted import HostedClient
from lib.journal import Journal
from lib.paths import content_hash, write_jsonl
from lib.prices import read_prices

MODEL = "babbage-002"
UNKNOWN = (400, {"message": "Unrecognized request argument supplied: return_token_ids", "param": None})
NAMED = (422, {"message": "Extra inputs are not permitted", "param": "return_token_ids"})
CHAT_ONLY = (404, {"message": "This is a chat model", "param": "model", "code": None})


@dataclass
class Endpoint:
    """Answers with two tokens, or refuses what it is told to; keeps the bodies that came, by path."""

    refusal: tuple[int, dict[str, Any]] | None = None
    only_chats: bool = False
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)  # of batches

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        if path.startswith("/models/"):
            return httpx.Response(200, json={"id": path.split("/")[2], "object": "model"})
        if path == "/batches" and request.method == "GET":
            return httpx.Response(200, json={"object": "list", "data": [], "has_more": False})
        if path == "/files":
            text = request.read().split(b"filename=", 1)[1].split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0].decode()
            self.lines = [json.loads(line) for line in text.splitlines()]
            about = {"id": "f", "object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "batch"}
            return httpx.Response(200, json=about | {"status": "processed"})
        if path == "/files/out/content":
            replies = [
                {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": self.reply(line["body"])}}
                for line in self.lines
            ]
            return httpx.Response(200, text="\n".join(map(json.dumps, replies)))
        body = json.loads(request.read())
        if path == "/batches":
            about = {"id": "b", "object": "batch", "status": "completed", "created_at": 0, "output_file_id": "out"}
            return httpx.Response(200, json=about | body)
        self.asked.append((path, body))
        refusal = self.refusal if "return_token_ids" in body else None
        if self.only_chats and path == "/completions":
            refusal = CHAT_ONLY
        return httpx.Response(refusal[0], json={"error": refusal[1]}) if refusal else httpx.Response(
            200, json=self.reply(body)
        )  # fmt: skip

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = {"token_ids": [7, 8]} if body.get("return_token_ids") else {}
        n = len(body.get("prompt") or [0]) * (body.get("n") or 1)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": "hm hm"}} if "messages" in body else {}
        choices = [{"index": k, "finish_reason": "stop"} | (said or {"text": " hm hm"}) | ids for k in range(n)]
        kind = "chat.completion" if said else "text_completion"
        return {"id": "x", "object": kind, "created": 0, "model": body["model"], "choices": choices}

    def sent_ids(self) -> list[bool]:
        return [bool(body.get("return_token_ids")) for _, body in self.asked]

    def settings(self) -> dict[str, Any]:
        http = httpx.Client(transport=httpx.MockTransport(self))
        return {"base_url": "http://there/v1", "api_key": "none", "http_client": http}

    def client(self) -> OpenAI:
        return OpenAI(**self.settings(), max_retries=0)


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


@pytest.fixture
def batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Endpoint], HostedClient]:
    monkeypatch.setattr(hosted, "POLL_SECONDS", 0.01)
    spending = Spending(tmp_path / "spend.jsonl", budget_usd=1, prices=read_prices())
    return lambda at: HostedClient(spending=spending, batch=True, **at.settings())


@pytest.mark.parametrize("options", [{}, {"messages": (("user", "fox"),)}])
def test_batches_have_their_extensions_flat(
    batched: Callable[[Endpoint], HostedClient], tmp_path: Path, options: dict[str, Any]
) -> None:
    at, wanted = Endpoint(), requests(4, **options)
    wanted = [replace(request, seed=k) for k, request in enumerate(wanted)]
    told = api.ask(batched(at), wanted, journal=tmp_path / "j")
    assert [answer.token_ids for (answer,) in told] == [(7, 8)] * 4
    assert (len(at.asked), len(at.lines)) == (1, 3), "the first goes alone"
    for line in at.lines:
        assert line["body"]["return_token_ids"] is True
        assert "extra_body" not in line["body"]
        assert None not in line["body"].values()


def test_batches_leave_out_what_the_first_request_was_refused(
    batched: Callable[[Endpoint], HostedClient], tmp_path: Path
) -> None:
    at = Endpoint(UNKNOWN)
    told = api.ask(batched(at), requests(4), journal=tmp_path / "j")
    assert [answer.token_ids for (answer,) in told] == [()] * 4
    assert at.sent_ids() == [True, False]
    assert not any("return_token_ids" in line["body"] or "extra_body" in line["body"] for line in at.lines)


def test_our_server_tells_an_id_for_every_token(client: OpenAI, tmp_path: Path) -> None:
    options = {"model": TINY, "max_tokens": 8, "temperature": 1.0, "n": 8, "logprobs": 0, "stop": ("a", " the", "\n")}
    spoken = requests(1, **options, messages=(("user", "fox"),))
    for told in api.ask(client, [*requests(4, **options), *spoken], journal=tmp_path / "j"):
        assert any(answer.finish_reason == "stop" for answer in told)
        for answer in told:
            assert len(answer.token_ids) == len(answer.token_logprobs) == len(answer.text_offset)
    (first, *_), (again, *_) = api.ask(client, requests(2, **options)[:1] * 2, journal=tmp_path / "j")
    assert first == again
