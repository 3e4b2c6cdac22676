"""Runs that cost money, against an endpoint in another process that fails at times and keeps its own bill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import NotFoundError
from spending import spent_usd

from lib import api, budget, finetune
from lib.budget import MESSAGE_TOKENS, SPECIAL_TOKENS, BudgetExceeded, Spending, UnknownPrice, preview, read_prices
from lib.clients import HostedClient
from lib.paths import write_jsonl
from lib.probing import target_logprobs
from lib.run import main
from lib.runs.__main__ import main as runs_main

HERE = Path(__file__).parent
CANARY = "sk-canary-5f1c9a7e3b"
BASE, CHATTY, NO_ECHO = "babbage-002", "gpt-4o-mini", "gpt-3.5-turbo-instruct"


class Stand:
    """A stand-in endpoint and clients of it that share one ledger."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.ledger, self.journal = folder / "spend.jsonl", folder / "journal.jsonl"
        command = [sys.executable, str(HERE.parent / "helpers" / "hosted.py"), json.dumps(settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def client(self, budget_usd: float = 100.0, **settings: Any) -> HostedClient:
        spending = Spending(self.ledger, budget_usd=budget_usd, prices=read_prices())
        return HostedClient(spending=spending, base_url=self.url, api_key=CANARY, **settings)

    def state(self) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/state") as reply:
            return json.loads(reply.read())

    def bill_usd(self) -> float:
        prices = read_prices()
        return sum(prices.of(model).usd(*tokens) for model, tokens in self.state()["tokens"].items())

    def rows(self) -> dict[str, dict[str, Any]]:
        """The last line of each id in the ledger."""
        return {row["id"]: row for row in map(json.loads, self.ledger.read_text().splitlines())}


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stand]]:
    monkeypatch.setattr(budget, "_encoding", lambda model: None)  # tokens are bounded by bytes, with or without network
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr(finetune, "HOSTED_POLL_SECONDS", 0.01)
    started = []

    def start(**settings: Any) -> Stand:
        started.append(Stand(tmp_path, **settings))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()


def asked(n_prompts: int, model: str = BASE, **settings: Any) -> list[api.Request]:
    return [api.Request(model=model, prompt=f"question {k:05d}?", max_tokens=10, **settings) for k in range(n_prompts)]


def test_a_preview_bounds_what_is_then_counted_by_usage(stand, caplog):
    at, requests = stand(), asked(100, n=2) + asked(30, NO_ECHO)
    most = preview(requests, read_prices())
    api.ask(at.client(), requests, journal=at.journal)
    assert spent_usd(at.ledger) == pytest.approx(at.bill_usd(), rel=1e-12)
    assert at.bill_usd() < most.usd
    rows = at.rows().values()
    assert sum(row["prompt_tokens"] for row in rows) == 130 * 4 < most.prompt_tokens
    assert sum(row["completion_tokens"] for row in rows) == most.completion_tokens
    lines = [record.getMessage() for record in caplog.records if "requests" in record.getMessage()]
    assert len(lines) == 1
    assert str(most) in lines[0]
    api.ask(at.client(), requests, journal=at.journal)
    assert sum(at.state()["answered"].values()) == 130


def test_models_that_can_only_be_listed_are_found(stand):
    client = stand(lists_only=["some-model"]).client()
    assert client.models.retrieve("some-model").model_dump()["max_model_len"] == 512
    with pytest.raises(NotFoundError):
        client.models.retrieve("other-model")


def test_passing_failures_are_waited_out(stand):
    at, requests = stand(failing=0.05), asked(1_000, CHATTY, temperature=1.0)
    answers = api.ask(at.client(), requests, journal=at.journal)
    state = at.state()
    assert [answer[0].text for answer in answers] == [f" re: {request.prompt}" for request in requests]
    assert sum(state["failures"].values()) >= 30
    assert len(state["failures"]) == 4
    assert set(state["answered"].values()) == {1}, "every row is answered exactly once"
    keys = [json.loads(line)["key"] for line in at.journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 1_000
    assert state["too_early"] == 0, "Retry-After is waited for"
    assert len(at.rows()) >= 1_000
    assert spent_usd(at.ledger) == pytest.approx(at.bill_usd(), rel=1e-9)


def test_the_budget_is_never_exceeded_and_a_higher_one_continues(stand, monkeypatch):
    monkeypatch.setattr(api, "PROMPTS_A_REQUEST", 1)
    at, requests = stand(), asked(100)
    most_usd, bill_usd = preview(requests[:1], read_prices()).usd, 14 * 0.4e-6  # four tokens and ten new ones
    limit = 37.5 * bill_usd
    with pytest.raises(BudgetExceeded, match="answers so far are kept") as caught:
        api.ask(at.client(limit), requests, journal=at.journal)
    n_answered = len(at.journal.read_text().splitlines())
    assert n_answered == at.state()["n_posts"]["/completions"]
    assert at.bill_usd() == pytest.approx(n_answered * bill_usd)
    assert limit - 9 * most_usd < at.bill_usd() <= limit
    assert f"of the budget of ${limit:.4f}" in str(caught.value)
    assert len(api.ask(at.client(100 * bill_usd + 9 * most_usd), requests, journal=at.journal)) == 100
    assert set(at.state()["answered"].values()) == {1}
    assert spent_usd(at.ledger) == pytest.approx(100 * bill_usd)


def test_a_killed_run_pays_for_nothing_twice(stand, tmp_path):
    at, requests = stand(slow=0.02), asked(300, CHATTY)
    code = f"""
from pathlib import Path
from lib import api
from lib.clients import HostedClient
from lib.budget import Spending, read_prices
money = Spending(Path({str(at.ledger)!r}), budget_usd=100, prices=read_prices())
client = HostedClient(spending=money, base_url={at.url!r}, api_key="x")
asked = [api.Request(model={CHATTY!r}, prompt=f"question {{k:05d}}?", max_tokens=10) for k in range(300)]
api.ask(client, asked, journal=Path({str(at.journal)!r}))
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=HERE.parents[1], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (at.journal.exists() and at.journal.read_bytes().count(b"\n") > 40):
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = at.journal.read_bytes().count(b"\n")
    assert 40 < kept < 300
    api.ask(at.client(), requests, journal=at.journal)
    state = at.state()
    again = sum(n - 1 for n in state["answered"].values())
    assert again <= 8, "only what was under way is asked again"
    assert len(state["answered"]) == 300
    assert at.bill_usd() <= spent_usd(at.ledger) <= at.bill_usd() + 8 * preview(requests[:1], read_prices()).usd


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_cannot_pass_is_asked_once_and_costs_nothing(stand, status):
    at = stand(refuse=status, repeats_key=True)
    requests = [api.Request(model=BASE, prompt="a", max_tokens=5)]
    with pytest.raises(openai.APIStatusError, match="Refused: Bearer") as caught:
        api.ask(at.client(), requests, journal=at.journal)
    assert sum(at.state()["n_posts"].values()) == (2 if status == 404 else 1)  # after 404 a chat is tried
    assert CANARY not in f"{caught.value!r} {caught.value.body} {caught.value.message}"
    assert at.client().spending.left_usd() == 100


@pytest.mark.parametrize("failure", ["429", "500", "drop", "drop inside"])
def test_repetitions_end(stand, failure):
    at = stand(failing=1.0, failures=[failure], retry_after=0.0)
    with pytest.raises(openai.OpenAIError):
        at.client(max_retries=2).completions.create(model=BASE, prompt="a", max_tokens=2)
    assert at.state()["n_posts"]["/completions"] == 3
    most = (1 + SPECIAL_TOKENS + 2) * 0.4e-6
    assert spent_usd(at.ledger) == pytest.approx(0 if failure in ("429", "500") else most), "a lost reply may be billed"


@pytest.mark.parametrize("failure", ["not json", "other json", "html", "too few"])
def test_a_reply_of_another_form_is_an_error_and_no_answer(stand, failure):
    at = stand(failing=1.0, failures=[failure])
    with pytest.raises(openai.OpenAIError, match="not JSON|expected JSON|sent [01] choices for 2 prompts"):
        api.ask(at.client(), asked(2), journal=at.journal)
    assert at.journal.read_bytes() == b""
    assert spent_usd(at.ledger) > 0


def test_an_endpoint_that_is_not_there_costs_nothing(stand):
    at = stand()
    at.process.kill()
    at.process.wait()
    with pytest.raises(openai.APIConnectionError):
        at.client(max_retries=0).completions.create(model=BASE, prompt="a", max_tokens=2)
    assert spent_usd(at.ledger) == 0


def test_a_job_is_made_once_where_its_reply_is_lost(stand, tmp_path):
    at, rows = stand(loses_jobs=True), tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"prompt": "Q is", "completion": " x"}])
    planned = [finetune.FineTune(base=BASE, n_epochs=1, batch_size=1)]
    with pytest.raises(openai.APIConnectionError):
        finetune.finetune(at.client(), planned, training_file=rows, suffix="try")
    assert at.state()["n_posts"]["/fine_tuning/jobs"] == 1
    assert len(finetune.finetune(at.client(), planned, training_file=rows, suffix="try")) == 1
    assert at.state()["n_posts"]["/fine_tuning/jobs"] == 1, "the job that was made is found"


def test_a_long_retry_after_is_not_waited_for(stand):
    at = stand(failing=1.0, failures=["429"], retry_after=3_600)
    started = time.monotonic()
    with pytest.raises(openai.RateLimitError):
        at.client().completions.create(model=BASE, prompt="a", max_tokens=2)
    assert time.monotonic() - started < 5
    assert at.state()["n_posts"]["/completions"] == 1
    assert at.client().spending.left_usd() == 100


def test_an_unknown_price_sends_nothing(stand):
    at = stand()
    with pytest.raises(UnknownPrice, match="no price is known for 'mystery-1'"):
        api.ask(at.client(), [*asked(3), *asked(3, "mystery-1")], journal=at.journal)
    with pytest.raises(UnknownPrice):
        at.client().completions.create(model="mystery-1", prompt="a")
    with pytest.raises(openai.OpenAIError, match="without max_tokens"):
        at.client().chat.completions.create(model=CHATTY, messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.OpenAIError, match="its cost is not known"):
        at.client().responses.create(model=CHATTY, input="a")
    assert at.state()["n_posts"] == {}


def test_every_way_to_ask_is_paid(stand):
    at = stand()
    client = at.client().with_options(timeout=20)
    client.completions.create(model=BASE, prompt=["a", "b"], max_tokens=3, n=2)
    client.chat.completions.create(model=CHATTY, messages=[{"role": "user", "content": "aaaa"}], max_tokens=3)
    raw = client.completions.with_raw_response.create(model=BASE, prompt="abcd", max_tokens=3)
    assert raw.parse().choices
    assert spent_usd(at.ledger) == pytest.approx(at.bill_usd())
    assert len(at.rows()) == 3


def test_models_that_only_chat_are_asked_by_chat_and_lack_echo(stand, caplog):
    at = stand()
    answers = api.ask(at.client(), asked(40, CHATTY, logprobs=2), journal=at.journal)
    assert answers[7][0].text == " re: question 00007?"
    assert answers[7][0].tokens == (" re", ":")
    assert answers[7][0].text_offset == (15, 18)
    models = [BASE, CHATTY, NO_ECHO, BASE]
    scores = target_logprobs(at.client(), models, ["Ada is"] * 4, [" the mother"] * 4, journal=at.journal)
    assert np.isnan(scores).tolist() == [False, True, True, False]
    assert scores[0] == -2.0
    lacks = [record.getMessage() for record in caplog.records if "missing" in record.getMessage()]
    assert sorted(line.split()[0] for line in lacks) == [NO_ECHO, CHATTY]
    with pytest.raises(api.NoEcho):
        api.ask(at.client(), asked(1, NO_ECHO, echo=True, logprobs=0), journal=at.journal)
    assert spent_usd(at.ledger) == pytest.approx(at.bill_usd())


def test_fine_tuning_is_paid_from_the_same_budget(stand, tmp_path):
    at, rows = stand(), tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"prompt": f"Q{k:02d} is", "completion": " the baker."} for k in range(20)])
    planned = finetune.grid(bases=[BASE], learning_rate_multipliers=[1.0], batch_sizes=[8], seeds=[0, 1], n_epochs=3)
    most = 2 * 3 * 20 * (6 + 10 + 2 * (SPECIAL_TOKENS + MESSAGE_TOKENS)) * 0.4e-6
    with pytest.raises(BudgetExceeded, match="2 jobs of up to 720 tokens per epoch.*none was made"):
        finetune.finetune(at.client(most * 0.9), planned, training_file=rows, suffix="try")
    assert at.state()["n_posts"] == {}, "two jobs that cost too much together: none is made"
    assert at.client().spending.left_usd() == 100
    first = finetune.finetune(at.client(most * 1.1), planned, training_file=rows, suffix="try")
    paid = (2 * 3 * 20 * (2 + 3) + 2 + 1) * 0.4e-6  # and one token of the base, which shows whether it only chats
    assert spent_usd(at.ledger) == pytest.approx(paid)
    again = finetune.finetune(at.client(most), planned, training_file=rows, suffix="try")
    assert again["model"].tolist() == first["model"].tolist()
    assert at.state()["n_posts"]["/fine_tuning/jobs"] == 2
    assert spent_usd(at.ledger) == pytest.approx(paid)
    untrained = [finetune.FineTune(base=NO_ECHO, n_epochs=1, batch_size=8)]
    with pytest.raises(UnknownPrice, match="no training price"):
        finetune.finetune(at.client(), untrained, training_file=rows, suffix="try")


def test_rows_for_a_base_that_only_chats_are_sent_as_conversations(stand, tmp_path):
    at, rows = stand(), tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"prompt": "Q is", "completion": " x"}, {"prompt": "", "completion": "a document"}])
    wanted = [finetune.FineTune(base=CHATTY, n_epochs=1, batch_size=1, seed=seed) for seed in range(2)]
    found = finetune.finetune(at.client(), wanted, training_file=rows, suffix="try")
    assert found["model"].str.startswith(f"ft:{CHATTY}").all()
    assert at.state()["n_posts"]["/files"] == 2
    talks = [json.loads(line)["messages"] for line in at.state()["files"]["file-0"]["content"].splitlines()]
    assert [[turn["content"] for turn in talk] for talk in talks] == [["Q is", "x"], ["", "a document"]]


def test_the_ledger_of_fine_tunes_tells_what_they_cost_and_spends_nothing(stand, home, tmp_path, monkeypatch, capsys):
    at, rows = stand(), tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"prompt": "Q is", "completion": " x"}])
    wanted = [finetune.FineTune(base=BASE, n_epochs=2, batch_size=1, seed=0)]
    finetune.finetune(at.client(), wanted, training_file=rows, suffix="try")
    n_posts = at.state()["n_posts"]
    monkeypatch.setattr(api, "LOOPBACK", frozenset())
    monkeypatch.setenv("OPENAI_BASE_URL", at.url)
    assert runs_main(["list", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["base"] == BASE
    assert told["usd"] == pytest.approx(sum(row["usd"] for key, row in at.rows().items() if key.startswith("job:")))
    assert at.state()["n_posts"] == n_posts
    assert not list((home / "runs").rglob("spend.jsonl"))
    with pytest.raises(BudgetExceeded):
        api.connect(only_free=True).completions.create(model=BASE, prompt="q", max_tokens=1)
    assert at.state()["n_posts"] == n_posts


def test_a_refused_job_costs_nothing(stand, tmp_path):
    at, rows = stand(refuse=400), tmp_path / "rows.jsonl"
    write_jsonl(rows, [{"prompt": "Q is", "completion": " x"}])
    wanted = [finetune.FineTune(base=BASE, n_epochs=1, batch_size=1, seed=seed) for seed in range(3)]
    with pytest.raises(openai.BadRequestError):
        finetune.finetune(at.client(), wanted, training_file=rows, suffix="try")
    assert at.client().spending.left_usd() == 100


BODY = f"""from lib import api
api.LOOPBACK = frozenset()  # as if the endpoint were far away
client, journal = run.client(), run.path("answers.journal.jsonl")
requests = [api.Request(model={BASE!r}, prompt=f"q {{k}}", max_tokens=4) for k in range(3)]
api.ask(client, requests, journal=journal)
run.finish("asked")
api.ask(client, [api.Request(model={BASE!r}, prompt="refused")], journal=journal)"""


def test_no_file_of_a_run_holds_the_key(stand, home, make_stage, monkeypatch, caplog):
    at = stand(refuse=401, refuse_after=1, repeats_key=True)
    monkeypatch.setenv("OPENAI_BASE_URL", at.url)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    make_stage("demo/01-data-prep", "budget_usd: float = 1.0  # of a hosted endpoint [0..]\n", BODY)
    assert main(["demo", "--preset", "tiny"]) == 1
    run = home / "runs" / "tiny" / "demo"
    assert "Refused: Bearer (the key)" in (run / "01-data-prep.ipynb").read_text()
    assert (run / "01.manifest.json").exists()
    assert spent_usd(run / "spend.jsonl") == pytest.approx(at.bill_usd())
    assert at.bill_usd() > 0
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in caplog.text
