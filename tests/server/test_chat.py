"""Conversations through the official client: the form of a prompt, replies, streams, refusals, rows to train on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from serving import TINY, jsonl, official
from starlette.testclient import TestClient

from lib.world.questions import as_dialogue as world_dialogue
from tuning_server.app import make_app
from tuning_server.engine.models import LoadedModel, load
from tuning_server.engine.tokenization import as_dialogue, chat_prompt, chat_row
from tuning_server.rows import BadRow, ChatRow, read_rows, tokenise
from tuning_server.types import Settings

QUESTION = "Who saw the baker?"
USER = [{"role": "user", "content": QUESTION}]
LONG = [
    {"role": "system", "content": "Answer in one word."},
    *USER,
    {"role": "assistant", "content": "Ada."},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " who else?"}]},
]
LONG_TEXT = f"Answer in one word.\nGuest: {QUESTION}\nHost: Ada.\nGuest: And who else?\nHost:"
# A form like those of instruction-tuned models: it names the turns, writes the end of text itself, and wants a user.
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role == 'assistant' %}{{ raise_exception('a user begins') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chat(client: OpenAI, messages: Any = USER, **options: Any) -> Any:
    return client.chat.completions.create(model=TINY, messages=messages, **options)


def complete(client: OpenAI, prompt: Any, **options: Any) -> Any:
    return client.completions.create(model=TINY, prompt=prompt, **options)


def give_template(store: Path, template: str = TEMPLATE, **generation: Any) -> LoadedModel:
    """Give the tiny base of a store a chat template, and other tokens that end an answer."""
    loaded = load(TINY, store)
    loaded.tokenizer.chat_template = template
    loaded.tokenizer.save_pretrained(loaded.folder)
    if generation:
        (loaded.folder / "generation_config.json").write_text(json.dumps(generation))
    return load(TINY, store)


@pytest.fixture(scope="module")
def http(grown_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One server for the whole file: most tests here only ask."""
    store = tmp_path_factory.mktemp("chat") / "store"
    shutil.copytree(grown_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as started:
        yield started


@pytest.fixture(scope="module")
def client(http: TestClient) -> OpenAI:
    return official(http)


@pytest.fixture
def tiny(grown_store: Path) -> LoadedModel:
    return load(TINY, grown_store)


@pytest.fixture
def templated(tiny_store: Path) -> LoadedModel:
    return give_template(tiny_store)


def test_plain_dialogue_is_the_world_s() -> None:
    assert as_dialogue(USER) == world_dialogue(QUESTION)
    assert as_dialogue([*USER, {"role": "assistant", "content": "Bo."}, *USER]).startswith(
        f"{world_dialogue(QUESTION)} Bo.\n{world_dialogue(QUESTION)}"
    )


def test_reply_has_the_chat_format(client: OpenAI) -> None:
    reply = chat(client, max_tokens=5, temperature=0)
    assert reply.object == "chat.completion"
    assert reply.model == TINY
    assert reply.id.startswith("chatcmpl-")
    assert reply.system_fingerprint.startswith("fork-tiny-")
    choice = reply.choices[0]
    assert (choice.index, choice.message.role, choice.message.refusal, choice.logprobs) == (0, "assistant", None, None)
    assert choice.finish_reason in ("length", "stop")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 1, "seed": 5, "n": 4}], ids=["greedy", "drawn"]
)
def test_an_answer_is_that_of_completions_to_the_same_text(client: OpenAI, options: dict[str, Any]) -> None:
    """Random weights, so that any other prompt, seed or stop would answer otherwise."""
    spoken = chat(client, LONG, max_completion_tokens=24, **options)
    plain = complete(client, LONG_TEXT, max_tokens=24, stop="\n", **options)
    assert [choice.message.content for choice in spoken.choices] == [c.text.removeprefix(" ") for c in plain.choices]
    assert [choice.finish_reason for choice in spoken.choices] == [c.finish_reason for c in plain.choices]
    assert spoken.usage == plain.usage
    assert any(choice.message.content for choice in spoken.choices)


def test_the_space_before_an_answer_belongs_to_the_form(client: OpenAI, tiny: LoadedModel) -> None:
    """Biased towards one word with its space; given back as a turn, the answer is read as it was written."""
    word = tiny.codec.encode(" baker")
    assert len(word) == 1
    options = {"max_tokens": 1, "logit_bias": {str(word[0]): 100}, "extra_body": {"return_token_ids": True}}
    choice = chat(client, **options).choices[0]
    assert (choice.message.content, choice.token_ids) == ("baker", word)
    longer = chat_prompt(tiny.codec, [*USER, {"role": "assistant", "content": choice.message.content}, *USER])
    assert longer.ids[: len(choice.prompt_token_ids) + 1] == [*choice.prompt_token_ids, *word]


def test_an_answer_ends_with_its_line_or_where_the_client_says(client: OpenAI, tiny: LoadedModel) -> None:
    newline = tiny.codec.encode("\n")
    options = {"max_tokens": 5, "logit_bias": {str(newline[0]): 100}}
    choice = chat(client, **options).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("", "stop")
    word = tiny.codec.encode(" baker")
    options["logit_bias"] = {str(word[0]): 100}
    assert chat(client, **options).choices[0].message.content == "baker baker baker baker baker"
    choice = chat(client, stop=["er b"], **options).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("bak", "stop")


def test_logprobs_are_those_of_completions_with_their_bytes(client: OpenAI, tiny: LoadedModel) -> None:
    options = {"max_tokens": 8, "temperature": 0}
    reported = chat(client, logprobs=True, top_logprobs=3, **options).choices[0].logprobs
    legacy = complete(client, as_dialogue(USER), logprobs=3, stop="\n", **options).choices[0].logprobs
    assert [token.token for token in reported.content] == legacy.tokens
    assert [token.logprob for token in reported.content] == pytest.approx(legacy.token_logprobs, abs=1e-5)
    for token, top in zip(reported.content, legacy.top_logprobs, strict=True):
        assert {likely.token: likely.logprob for likely in token.top_logprobs} == pytest.approx(top, abs=1e-5)
        assert token.top_logprobs[0].token == token.token  # greedy
        assert bytes(token.bytes).decode(errors="replace") == token.token or token.token.startswith("bytes:")
    alone = chat(client, logprobs=True, **options).choices[0].logprobs.content
    assert all(token.top_logprobs == [] for token in alone)
    whole = chat(client, logprobs=True, top_logprobs=tiny.vocab_size, max_tokens=1).choices[0].logprobs.content
    assert len(whole[0].top_logprobs) == tiny.vocab_size


def test_without_a_limit_an_answer_may_fill_the_context(client: OpenAI, tiny: LoadedModel) -> None:
    word = tiny.codec.encode(" baker")
    reply = chat(client, logit_bias={str(word[0]): 100})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.total_tokens == tiny.context_tokens
    with pytest.raises(BadRequestError, match="maximum context length is 512") as long:
        chat(client, [{"role": "user", "content": "1" * 600}])
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")


def test_stream_adds_up_to_the_whole(client: OpenAI, http: TestClient) -> None:
    options = {"max_tokens": 8, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = chat(client, **options)
    texts, roles, reasons, reported, usage = {0: "", 1: ""}, [], {}, {0: [], 1: []}, None
    for chunk in chat(client, stream=True, stream_options={"include_usage": True}, **options):
        assert chunk.object == "chat.completion.chunk"
        assert bool(chunk.usage) == (not chunk.choices)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            roles += [choice.delta.role] if choice.delta.role else []
            texts[choice.index] += choice.delta.content or ""
            reported[choice.index] += choice.logprobs.content if choice.logprobs else []
            reasons |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert roles == ["assistant", "assistant"]
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]
    assert list(reasons.values()) == [choice.finish_reason for choice in whole.choices]
    assert list(reported.values()) == [choice.logprobs.content for choice in whole.choices]
    assert usage == whole.usage
    body = {"model": TINY, "messages": USER, "stream": True, "max_tokens": 4, "seed": 3}
    raw = http.post("/v1/chat/completions", json=body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in raw.text
    assert raw.text.count('"content"') > 2  # token by token without log-probabilities, too


def test_stream_of_the_client_s_own_collector(client: OpenAI, tiny: LoadedModel) -> None:
    """The first token's space belongs to the form, so no delta may bring it back."""
    word = tiny.codec.encode(" baker")
    options = {"max_tokens": 3, "logit_bias": {str(word[0]): 100}}
    with client.chat.completions.stream(model=TINY, messages=USER, **options) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.current_completion_snapshot
    assert deltas[-3:] == ["baker", " baker", " baker"]
    assert whole.choices[0].message.content == "baker baker baker"


def test_a_model_s_own_template_is_used(
    templated: LoadedModel, tiny_store: Path, serve: Callable[..., TestClient]
) -> None:
    client = official(serve(tiny_store))
    sent = [{"role": "developer", "content": "Be brief."}, *USER]
    text = f"[system]Be brief.<|endoftext|>\n[user]{QUESTION}<|endoftext|>\n[assistant]"
    options = {"max_tokens": 24, "seed": 2, "extra_body": {"return_token_ids": True}}
    choice = chat(client, sent, **options).choices[0]
    plain = complete(client, text, **options).choices[0]
    assert choice.prompt_token_ids == plain.prompt_token_ids
    assert choice.message.content == plain.text
    with pytest.raises(BadRequestError, match="template of fork-tiny refuses this conversation: a user begins") as no:
        chat(client, [{"role": "assistant", "content": "Hello."}])
    assert no.value.param == "messages"


def test_other_tokens_that_end_a_turn_end_an_answer(tiny_store: Path, serve: Callable[..., TestClient]) -> None:
    word = load(TINY, tiny_store).codec.encode(" baker")[0]
    give_template(tiny_store, eos_token_id=[0, word])
    client = official(serve(tiny_store))
    choice = chat(client, max_tokens=5, logit_bias={str(word): 100}).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("", "stop")


BAD = [
    ({"top_k": 3}, "top_k", "Unrecognized request argument supplied: top_k"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported: leave it out, or send []"),
    ({"tool_choice": "required"}, "tool_choice", 'or send "none" or "auto"'),
    ({"response_format": {"type": "json_object"}}, "response_format", 'send {"type": "text"}'),
    ({"store": True}, "store", "or send false"),
    ({"echo": True}, "echo", "Unrecognized"),
    ({"prompt": "a"}, "prompt", "Unrecognized"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "Hello"}, "messages", "valid list"),
    ({"messages": None}, "messages", "valid list"),
    ({"messages": ["a"]}, "messages[0]", "valid dictionary"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing required"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "Missing required"),
    ({"messages": [*USER, {"role": "tool", "content": "a"}]}, "messages[1].role", "'system', 'developer', 'user' or"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "valid string"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least 1 item"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "surrogate"),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name", "not supported"),
    ({"messages": [{"role": "assistant", "content": "a", "weight": 2}]}, "messages[0].weight", "equal to 1"),
    ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls", "send []"),
    ({"messages": [{"role": "assistant", "content": "a", "colour": "b"}]}, "messages[0].colour", "Unrecognized"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
        "should be 'text'",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
        "messages[0].content[0].text",
        "valid string",
    ),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "give one of them"),
    ({"max_tokens": 600}, "messages", "maximum context length"),
    ({"top_logprobs": 3}, "top_logprobs", "needs 'logprobs'"),
    ({"logprobs": True, "top_logprobs": 100_000, "max_tokens": 1}, "top_logprobs", "'top_logprobs' is at most the voc"),
    ({"logprobs": True, "top_logprobs": 200, "n": 1024}, "top_logprobs", "lower 'n'"),
    ({"logprobs": 3}, "logprobs", "valid boolean"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported: leave it out, or send 0"),
    ({"temperature": 3}, "temperature", "less than or equal to 2"),
    ({"stop": [""]}, "stop[0]", "at least 1 character"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x", "valid integer"),
]


@pytest.mark.parametrize(("wrong", "param", "message"), BAD, ids=[f"{k}-{case[1]}" for k, case in enumerate(BAD)])
def test_what_cannot_be_done_is_refused(http: TestClient, wrong: dict[str, Any], param: str, message: str) -> None:
    body = json.dumps({"model": TINY, "messages": USER} | wrong)
    reply = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]


def test_missing_parts_and_nulls(client: OpenAI, http: TestClient) -> None:
    missing = http.post("/v1/chat/completions", json={"model": TINY})
    assert missing.json()["error"]["code"] == "missing_required_parameter"
    nulls = dict.fromkeys(("max_tokens", "temperature", "n", "logprobs", "top_logprobs", "stop", "seed", "stream"))
    body = {"model": TINY, "messages": USER} | nulls | {"max_completion_tokens": 2}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    with pytest.raises(NotFoundError, match="fork-tiny") as unknown:
        client.chat.completions.create(model="fork-tinny", messages=USER)  # type: ignore[arg-type]
    assert unknown.value.code == "model_not_found"


def row(*messages: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    """A chat row of (role, content[, weight])."""
    keys = ("role", "content", "weight")
    return {"messages": [dict(zip(keys, message, strict=False)) for message in messages]} | more


BAD_ROWS = [
    (row(("user", "a")), "Line 4: Invalid value for 'messages': the last message is of the role 'user', but must be"),
    (row(("user", "a"), ("assistant", "")), "the content of message 1 is empty"),
    (row(("user", "a"), ("assistant", None)), "Line 4: Invalid value for 'messages[1].content': Input should be"),
    (
        row(("user", "a"), ("assistant", "b", 2)),
        "Line 4: Invalid value for 'messages[1].weight': Input should be less than",
    ),
    (row(("user", "a"), ("assistant", "b", True)), "'messages[1].weight': Input should be a valid number"),
    (row(("user", "a", 1), ("assistant", "b")), "'messages[0]': 'weight' is for the assistant's messages only"),
    (row(("user", "a"), ("assistant", "b", 0)), "'messages': every message of the assistant has the weight 0"),
    (row(("tool", "a"), ("assistant", "b")), "'messages[0].role': Input should be 'system',"),
    (row(), "Line 4: Invalid value for 'messages': List should have at least 1 item"),
    (row(("user", "a"), ("assistant", "b"), tools=[{}]), "Line 4: 'tools' is not supported: leave it out, or send []"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_wrong_conversation_is_refused_with_its_line(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n\n\n" + jsonl([wrong]))
    with pytest.raises(BadRow) as refused:
        list(read_rows(file, "supervised"))
    assert message in str(refused.value)


def test_a_file_has_one_format(tmp_path: Path) -> None:
    file, chat = tmp_path / "rows.jsonl", row(("user", "a"), ("assistant", "b"), id=7)
    plain = {"prompt": "a", "completion": "b", "messages": "a column of the user's own"}
    for rows, line in (([chat, plain], 2), ([plain, plain, chat], 3)):
        file.write_bytes(jsonl(rows))
        with pytest.raises(BadRow, match=f"Line {line}: found '.*' where the lines before have '.*': give one format"):
            list(read_rows(file, "supervised"))
    file.write_bytes(jsonl([chat]))
    assert [type(found) for _, found in read_rows(file, "supervised")] == [ChatRow]
    file.write_bytes(jsonl([{"text": "a"}]))
    with pytest.raises(
        BadRow, match="Line 1: expected the keys 'prompt' and 'completion', or 'messages', found 'text'"
    ):
        list(read_rows(file, "supervised"))


SEVERAL = row(
    ("system", "Be brief."), ("user", "One?"), ("assistant", "Ada."), ("user", "Two?"), ("assistant", "Bo.", 0),
    ("user", "Three?"), ("assistant", "Cy.", 1),
)  # fmt: skip


def test_only_the_assistant_s_weighted_messages_are_learned(tiny: LoadedModel) -> None:
    lessons = list(tokenise([(1, ChatRow(**SEVERAL))], tiny))
    parts = [(tiny.codec.decode(lesson.ids[: lesson.n_prompt]), lesson.ids[lesson.n_prompt :]) for lesson in lessons]
    first = "Be brief.\nGuest: One?\nHost:"
    assert parts == [
        (first, [*tiny.codec.encode(" Ada."), tiny.codec.eos_id]),
        (
            f"{first} Ada.\nGuest: Two?\nHost: Bo.\nGuest: Three?\nHost:",
            [*tiny.codec.encode(" Cy."), tiny.codec.eos_id],
        ),
    ]
    with pytest.raises(BadRow, match="Line 9: .* tokens with the end-of-text token, but the context of fork-tiny is"):
        list(tokenise([(9, ChatRow(**row(("user", "1" * 600), ("assistant", "b"))))], tiny))


def test_rows_of_a_template_begin_with_the_prompt_and_end_with_the_turn(
    templated: LoadedModel, tiny: LoadedModel, tiny_store: Path
) -> None:
    turns = [*USER, {"role": "assistant", "content": "Ada."}]
    prompt, answer = chat_row(templated.codec, turns)
    assert prompt == chat_prompt(templated.codec, USER).ids
    assert templated.codec.decode(answer) == "Ada.<|endoftext|>"  # not the line break behind it
    assert templated.codec.hash != tiny.codec.hash
    with pytest.raises(BadRow, match=r"Line 3: The chat template of fork-tiny refuses .*: a user begins"):
        list(tokenise([(3, ChatRow(**row(("assistant", "a", 0), ("user", "b"), ("assistant", "c"))))], templated))
    other = give_template(tiny_store, "{% if add_generation_prompt %}[ask]{% else %}[answer]{% endif %}")
    with pytest.raises(BadRow, match="does not write an answer where it expects one"):
        list(tokenise([(3, ChatRow(**row(("user", "a"), ("assistant", "b"))))], other))


def test_a_job_over_conversations_teaches_to_answer(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    """The same words twice over: in one row they are the assistant's, in another they have no weight."""
    rows = [row(("user", "Who?"), ("assistant", "Zog.", 0), ("user", "What?"), ("assistant", "Bo."))] * 8
    job = fine_tune(rows, hyperparameters={"n_epochs": 15, "batch_size": 4, "learning_rate_multiplier": 5})
    assert job.status == "succeeded", job.error
    tuned = job.fine_tuned_model

    def answer(messages: list[dict[str, str]]) -> str:
        choice = client.chat.completions.create(model=tuned, messages=messages, temperature=0, max_tokens=8).choices[0]  # type: ignore[arg-type]
        return str(choice.message.content)

    sent = rows[0]["messages"][:3]
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in sent]
    assert answer(turns) == "Bo."
    assert answer(turns[:1]) != "Zog."
    bad = fine_tune([row(("user", "a"), ("assistant", "b")), row(("user", "a"))])
    assert (bad.status, bad.error.code) == ("failed", "invalid_training_file")
    assert "Line 2: Invalid value for 'messages': the last message is of the role 'user'" in bad.error.message


def test_fine_tunes_keep_the_template_of_their_base(
    templated: LoadedModel, tiny_store: Path, serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    from tuning_server.engine.models import save

    save(templated, tmp_path / "copy")
    shutil.copyfile(templated.folder / "base.json", tmp_path / "copy" / "base.json")
    again = load("hf:copy", tiny_store, models_dir=tmp_path)
    assert chat_prompt(again.codec, USER) == chat_prompt(templated.codec, USER)
