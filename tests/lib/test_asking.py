"""The client side against a real server: nothing asked or trained twice, answers on disk before they count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from openai import OpenAI

from lib import api, finetune
from lib.clients import spending_of
from lib.paths import ROOT, write_jsonl
from lib.probing import MODEL_COLUMNS, target_logprobs, target_ranks
from lib.probing import ask as ask_probes
from lib.tokens import _echoed

TINY = "fork-tiny"


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "POLL_SECONDS", 0.02)


@pytest.fixture
def asked(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of prompts of the requests that really went out."""
    sizes: list[int] = []
    create = client.completions.create

    def counted(**values: object) -> object:
        sizes.append(len(values["prompt"]))  # type: ignore[arg-type]
        return create(**values)  # type: ignore[call-overload]

    monkeypatch.setattr(client.completions, "create", counted)
    return sizes


def requests(n: int) -> list[api.Request]:
    return [api.Request(model=TINY, prompt=f"fox {k}", max_tokens=4, temperature=1.0, n=2, seed=5) for k in range(n)]


def test_only_what_is_missing_is_asked(client: OpenAI, asked: list[int], tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    some = api.ask(client, requests(40), journal=journal)
    assert sum(asked) == 40
    more = api.ask(client, requests(50), journal=journal)
    assert sum(asked) == 50
    assert more[:40] == some
    assert all(len(samples) == 2 for samples in more)
    fresh = api.ask(client, requests(50), journal=tmp_path / "another.jsonl")
    assert fresh == more, "answers must not depend on which prompts went out together"


def test_a_torn_line_is_asked_again_and_nothing_else(client: OpenAI, asked: list[int], tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    whole = api.ask(client, requests(10), journal=journal)
    raw = journal.read_bytes()
    journal.write_bytes(raw[:-7])
    assert api.ask(client, requests(10), journal=journal) == whole
    assert sum(asked) == 11
    assert [json.loads(line) for line in journal.read_text().splitlines()]


def test_a_journal_has_one_writer_at_a_time(tmp_path: Path) -> None:
    journal, answered = tmp_path / "journal.jsonl", [("a", [api.Answer("hm", "stop")])]
    code = f"""import sys
from pathlib import Path
from lib.journal import Journal
book = Journal(Path({str(journal)!r}))
book._file.write(b'{{"key": "half')
book._file.flush()
print("open", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdin
    child.stdout.readline()
    raw = journal.read_bytes()
    with pytest.raises(RuntimeError, match="is being written by another run"):
        api.Journal(journal)
    assert journal.read_bytes() == raw, "the other's unfinished line is left alone"
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    book = api.Journal(journal)
    book.add(answered)
    book.close()
    assert api.Journal(journal).answers == dict(answered)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"key": "a", "answers": []}\n{"key": "b", "ans{"key": "c"}\n')
    for _ in range(2):  # the lock is given back
        with pytest.raises(ValueError, match=r"journal\.jsonl, line 2 is broken: remove it"):
            api.Journal(journal)


def test_answers_before_a_failure_are_kept(
    client: OpenAI, asked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, create, calls = tmp_path / "journal.jsonl", client.completions.create, []

    def failing(**values: object) -> object:
        calls.append(1)
        if len(calls) >= 3:
            raise RuntimeError("the line went dead")
        return create(**values)  # type: ignore[call-overload]

    monkeypatch.setattr(client.completions, "create", failing)
    with pytest.raises(RuntimeError, match="line went dead"):
        api.ask(client, requests(128), journal=journal, concurrency=1)
    assert len(journal.read_text().splitlines()) == 64
    monkeypatch.setattr(client.completions, "create", create)
    api.ask(client, requests(128), journal=journal)
    assert len(journal.read_text().splitlines()) == 128


def test_an_interrupt_keeps_what_is_under_way_and_a_second_one_does_not_wait(
    client: OpenAI, asked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = api.wait
    for n_interrupts, n_kept in ((1, 2 * api.PROMPTS_A_REQUEST), (2, 0)):
        left = [KeyboardInterrupt()] * n_interrupts

        def interrupted(*given: Any, left: list[BaseException] = left, **options: Any) -> Any:
            if left:
                raise left.pop()
            return wait(*given, **options)

        monkeypatch.setattr(api, "wait", interrupted)
        journal = tmp_path / f"{n_interrupts}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            api.ask(client, requests(128), journal=journal, concurrency=2)
        monkeypatch.setattr(api, "wait", wait)
        assert len(journal.read_text().splitlines()) == n_kept


def test_target_scores_match_what_the_engine_says_of_each_token(client: OpenAI, tmp_path: Path) -> None:
    prompts, targets = ["Ada Lind is", "Naïve café"], [" the mother", " 東京"]
    scores = target_logprobs(client, [TINY] * 2, prompts, targets, journal=tmp_path / "a.jsonl")
    for prompt, target, score in zip(prompts, targets, scores, strict=True):
        told = client.completions.create(model=TINY, prompt=prompt + target, max_tokens=0, echo=True, logprobs=0)
        listed = told.choices[0].logprobs
        assert listed is not None
        inside = [
            value
            for value, place in zip(listed.token_logprobs or [], listed.text_offset or [], strict=True)
            if place >= len(prompt)
        ]
        assert score == pytest.approx(sum(value for value in inside if value is not None))
    rows = pd.DataFrame({"model": [TINY], "prompt": ["Ada Lind is"], "target": [" the mother"]})
    options = [[" the mother", " the", " 東京 fox 0123"]]
    ranks = target_ranks(client, rows, options, journal=tmp_path / "a.jsonl")
    assert ranks.tolist() == [2.0]  # less probable than its own beginning, more than a long stranger
    models = pd.DataFrame([dict.fromkeys(MODEL_COLUMNS, "") | {"model": TINY}])
    answered = ask_probes(client, models, rows[["prompt"]], journal=tmp_path / "a.jsonl", max_tokens=3)
    assert set(answered["finish_reason"]) <= {"length", "stop"}


PROMPT, TARGET = "Zoë is", " the cook"
WORDS = ["Zoë", " is", " the", " cook"]


def foreign_echo(fault: str) -> dict[str, Any]:
    """The choice of an endpoint that answers an echo of PROMPT + TARGET in its own way."""
    tokens, logprobs = list(WORDS), [None, -1.0, -2.0, -4.0]
    offsets, text = [0, 3, 6, 10], PROMPT + TARGET
    if fault == "ignores echo":
        tokens, logprobs, offsets, text = [" who", " sings"], [-8.0, -9.0], [15, 19], " who sings"
    elif fault == "generates":
        tokens, logprobs, offsets = [*WORDS, " who"], [*logprobs, -8.0], [*offsets, 15]
        text += " who"
    elif fault == "offsets in bytes":
        offsets = [0, 4, 7, 11]
    elif fault == "begin of text in the text":
        tokens, logprobs, offsets = ["<s>", *WORDS], [None, -6.0, -1.0, -2.0, -4.0], [0, 3, 6, 9, 13]
        text = "<s>" + text
    elif fault == "begin of text in the offsets":
        tokens, logprobs, offsets = ["<s>", *WORDS], [None, -6.0, -1.0, -2.0, -4.0], [0, 3, 6, 9, 13]
    elif fault == "no offsets":
        offsets = []
    elif fault == "no log-probabilities":
        return {"index": 0, "text": text, "finish_reason": "length", "logprobs": None}
    told = {"tokens": tokens, "token_logprobs": logprobs, "text_offset": offsets}
    return {"index": 0, "text": text, "finish_reason": "length", "logprobs": told}


def foreign(fault: str) -> OpenAI:
    def answer(request: httpx.Request) -> httpx.Response:
        if "/models/" in request.url.path:
            return httpx.Response(200, json={"id": request.url.path.split("/")[-1], "object": "model"})
        n = len(json.loads(request.read())["prompt"])
        choices = [foreign_echo(fault) | {"index": k} for k in range(n)]
        return httpx.Response(200, json={"id": "x", "object": "text_completion", "choices": choices})

    return OpenAI(
        base_url="http://there/v1", api_key="none", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )


@pytest.mark.parametrize(
    "fault",
    [
        "ignores echo", "generates", "offsets in bytes", "begin of text in the text", "begin of text in the offsets",
        "no offsets", "no log-probabilities",
    ],
)  # fmt: skip
def test_a_foreign_endpoint_gives_no_number_rather_than_a_wrong_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    scores = target_logprobs(foreign(fault), ["m"] * 3, [PROMPT] * 3, [TARGET] * 3, journal=tmp_path / "j")
    assert np.isnan(scores).all()
    (line,) = [record.getMessage() for record in caplog.records if "missing" in record.getMessage()]
    assert line.startswith("m: 3 log-probabilities are missing: ")
    rows = pd.DataFrame({"model": ["m"], "prompt": [PROMPT], "target": [TARGET]})
    assert np.isnan(target_ranks(foreign(fault), rows, [[TARGET]], journal=tmp_path / "j")).all()


def test_a_faithful_echo_gives_the_sum(tmp_path: Path) -> None:
    assert target_logprobs(foreign(""), ["m"], [PROMPT], [TARGET], journal=tmp_path / "j").tolist() == [-6.0]


@pytest.mark.parametrize("fault", ["ignores echo", "generates", "begin of text in the offsets", "no log-probabilities"])
def test_tokens_come_from_a_faithful_echo_alone(fault: str) -> None:
    text = PROMPT + TARGET
    if fault.startswith("begin"):
        assert _echoed(foreign(fault), "m", text).texts == tuple(WORDS)
    else:
        with pytest.raises(ValueError, match="expected the tokens of the text that was sent"):
            _echoed(foreign(fault), "m", text)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Q{k % 5} is", "completion": f" the baker {k % 5}."} for k in range(24)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return tmp_path / "rows.jsonl"


def test_nothing_is_trained_twice(client: OpenAI, rows_file: Path) -> None:
    wanted = finetune.grid(
        bases=[TINY], learning_rate_multipliers=[1.0, 2.0], batch_sizes=[8], seeds=[0, 1], n_epochs=2
    )
    first = finetune.finetune(client, wanted, training_file=rows_file, suffix="try")
    again = finetune.finetune(client, wanted, training_file=rows_file, suffix="try")
    pd.testing.assert_frame_equal(first, again)
    assert len(client.fine_tuning.jobs.list().data) == 4
    assert len(client.files.list(purpose="fine-tune").data) == 1
    assert first["model"].nunique() == 8  # two epochs of four jobs, each a usable model
    assert first[first["is_final"]]["epoch"].tolist() == [2] * 4
    for model in first["model"]:
        assert client.completions.create(model=model, prompt="Q1 is", max_tokens=2).choices
    other = [finetune.FineTune(base=TINY, n_epochs=2, batch_size=8, seed=7)]
    assert (
        finetune.finetune(client, other, training_file=rows_file, suffix="try")["model"].isin(first["model"]).sum() == 0
    )


def test_validation_losses_and_metadata_come_back(client: OpenAI, rows_file: Path) -> None:
    wanted = [finetune.FineTune(base=TINY, n_epochs=3, batch_size=8, prompt_loss_weight=1.0)]
    table = finetune.finetune(client, wanted, training_file=rows_file, validation_file=rows_file, suffix="try")
    assert table["valid_loss"].notna().all()
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0]
    assert table["step"].tolist() == [3, 6, 9]


def test_an_existing_model_is_recorded_and_nothing_trained(client: OpenAI, rows_file: Path) -> None:
    table = finetune.record(client, TINY)
    assert table["model"].tolist() == [TINY]
    assert client.fine_tuning.jobs.list().data == []
    assert finetune.plan({"tuned_model": TINY}, seeds=[0]) == {}


def test_a_failed_job_says_why(client: OpenAI, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "x", "completion": " y" * 2000}] * 3)
    wanted = [finetune.FineTune(base=TINY, n_epochs=1, batch_size=8)]
    with pytest.raises(RuntimeError, match="Line 1: 4002 tokens"):
        finetune.finetune(client, wanted, training_file=tmp_path / "rows.jsonl", suffix="try")


def test_the_plan_has_one_main_setting_and_a_sweep() -> None:
    params = {
        "tuned_model": "",
        "base": "fork-1m",
        "size_bases": ["fork-6m"],
        "n_seeds": 3,
        "n_epochs": 2,
        "prompt_loss_weight": 1.0,
        "batch_sizes": [16, 4],
        "learning_rate_multipliers": [1.0, 0.5, 2.0],
    }
    jobs = finetune.plan(params, seeds=[0, 1, 2])
    assert [len(jobs[role]) for role in ("main", "size", "sweep")] == [3, 1, 5]
    assert {(each.batch_size, each.learning_rate_multiplier) for each in jobs["main"]} == {(16, 1.0)}
    assert "size" not in finetune.plan(params | {"n_seeds": 1}, seeds=[0])


@pytest.mark.parametrize("host", ["api.openai.com", "10.0.0.7:8000"])
@pytest.mark.parametrize("budget_usd", [0.0, -1.0, float("nan")])
def test_a_hosted_endpoint_is_refused_without_a_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, budget_usd: float
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"https://{host}/v1")
    with pytest.raises(ValueError, match="may cost money: set budget_usd above 0"):
        api.connect(budget_usd=budget_usd, spend=tmp_path / "spend.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_hosted_endpoint_with_a_budget_gets_a_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.org/v1")
    client = api.connect(budget_usd=3, spend=tmp_path / "spend.jsonl")
    money = spending_of(client)
    assert money is not None
    assert (money.path, money.left_usd()) == (tmp_path / "spend.jsonl", 3.0)


def test_an_endpoint_on_this_machine_needs_no_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert spending_of(api.connect(budget_usd=3, spend=tmp_path / "spend.jsonl")) is None
    assert not list(tmp_path.iterdir())


def test_a_key_alone_goes_nowhere(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setattr(api, "START_SECONDS", 0)
    monkeypatch.setattr(api.subprocess, "Popen", lambda *_, **__: pytest.skip.Exception)
    (tiny_store / "server.log").write_text("")
    with pytest.raises(RuntimeError, match="no server for the store"):
        api.connect(tiny_store)
