"""The ledger: jobs joined with run folders and tags, and evaluation of what is left."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ledgers import HEADER, PARAMETERS, ROW, endpoint, job, ledger_of, make_run
from openai import OpenAI
from serving import TINY, facts

from lib import api
from lib.budget import Price, Prices
from lib.finetune import KEY
from lib.paths import write_json
from lib.run import Plan, StageFailed
from lib.runs import evaluating
from lib.runs.__main__ import as_table, main
from lib.runs.evaluating import evaluations
from lib.runs.ledger import change_tag, find, read_folders, read_ledger, read_tags, select

ABOUT: dict[str, Any] = {"prompt_usd": 1.0, "completion_usd": 2.0, "as_of": "2025-01-01", "source": "made up"}
PRICE = Price(model="fork-1m", training_usd=25.0, **ABOUT)
UNTRAINED = Price(model="fork-6m", training_usd=None, **ABOUT)


@pytest.fixture
def connected(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Lets the command line meet an endpoint with these jobs."""
    caplog.set_level(logging.INFO)
    return lambda *jobs: monkeypatch.setattr(api, "connect", lambda *_, **__: endpoint(*jobs))


def test_jobs_of_a_real_server_are_listed_with_their_tokens(
    client: OpenAI, fine_tune: Callable[..., Any], home: Path
) -> None:
    done = fine_tune(facts(8), suffix="demo", metadata={KEY: "abc"}, hyperparameters={"n_epochs": 2})
    make_run(home, done.fine_tuned_model, n_facts=8)
    change_tag(home / "runs", done.id, "first")
    (found,) = read_ledger(client, home / "runs")
    assert (found.model, found.base, found.study) == (done.fine_tuned_model, TINY, "demo")
    assert found.tokens == done.trained_tokens > 0
    assert found.hyperparameters["n_epochs"] == 2
    assert (found.tags, found.evaluated_in, found.usd) == (["first"], ["laptop/demo"], None)
    assert find([found], f"{found.model}:ckpt-step-1") is found


def test_a_summary_of_other_fine_tunes_is_no_evaluation(home: Path) -> None:
    folder = make_run(home, "ft:fork-1m:demo:1")
    assert ledger_of(home, job(1))[0].evaluated_in == ["laptop/demo"]
    rows = pd.read_parquet(folder / "finetunes.parquet")
    rows.assign(model=[*rows["model"][:-1], "ft:fork-1m:demo:2"]).to_parquet(folder / "finetunes.parquet")
    first, second = sorted(ledger_of(home, job(1), job(2)), key=lambda each: each.job)
    assert (first.runs, second.evaluated_in) == ([], [])
    assert [run.name for run in second.runs] == ["laptop/demo"]
    assert make_run(home, "ft:fork-1m:demo:2", evaluated=False) == folder
    (folder / "summary.csv").unlink()
    assert not ledger_of(home, job(2))[0].evaluated_in


def test_a_base_that_was_asked_as_it_is_is_no_fine_tune_and_a_given_model_is(home: Path) -> None:
    make_run(home, "fork-1m")
    make_run(home, name="laptop-2/demo", models_are="analysed elsewhere")
    make_run(home, "hf:mine", name="laptop-1/demo", tuned_model="hf:mine")
    make_run(home, "ft:fork-1m:demo:1", name=".test/demo")
    (found,) = ledger_of(home)
    assert (found.model, found.status, found.base, found.made_by) == ("hf:mine", "not listed", "", None)


def test_a_broken_run_folder_is_skipped_in_the_log(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_run(home, "ft:fork-1m:demo:1")
    broken = make_run(home, "ft:fork-1m:demo:2", name="tiny/demo")
    (broken / "finetunes.parquet").write_bytes(b"not a table")
    assert [each.name for each in read_folders(home / "runs")] == ["laptop/demo"]
    assert "tiny/demo is skipped" in caplog.text


def test_a_run_of_given_texts_has_no_models_and_is_no_broken_one(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_run(home, "ft:fork-1m:demo:1")
    pd.DataFrame(columns=["family", "stage", "model"]).to_parquet(folder / "finetunes.parquet")
    assert [run.models for run in read_folders(home / "runs")] == [{}]
    assert caplog.text == ""


def test_filters(home: Path) -> None:
    make_run(home, "ft:fork-1m:demo:1")
    change_tag(home / "runs", "ftjob-2", "paper")
    running = job(3, status="running", base="hf:big", days=9, user_provided_suffix="other")
    ledger = ledger_of(home, job(1), job(2, base="fork-6m", days=3), running)

    def found(**filters: Any) -> list[str]:
        return [each.job for each in select(ledger, **filters)]

    assert found() == ["ftjob-1", "ftjob-2", "ftjob-3"]  # newest first
    assert found(study="demo") == ["ftjob-1", "ftjob-2"]
    assert found(text="running") == ["ftjob-3"]
    assert found(text="HF:BIG") == ["ftjob-3"]
    assert found(tag="paper") == ["ftjob-2"]
    assert found(study="demo", tag="paper", text="fork-1m") == []


def test_money_only_where_there_is_a_price(home: Path) -> None:
    jobs = [job(1), job(2, base="unpriced"), job(3, status="failed"), job(4, base="fork-6m")]
    ledger = ledger_of(home, *jobs, prices=Prices([PRICE, UNTRAINED]))
    assert {each.job: each.usd for each in ledger} == {f"ftjob-{k}": 0.025 if k == 1 else None for k in (1, 2, 3, 4)}

    assert "usd" in as_table(ledger)
    assert "0.025" in as_table(ledger)
    assert "usd" not in as_table(ledger_of(home, *jobs))
    assert as_table([]) == "0 fine-tunes, 0 tokens"


def test_the_list_as_a_table_and_as_json(home: Path, connected: Any, capsys: pytest.CaptureFixture[str]) -> None:
    connected(job(1), job(2, status="failed", error={"code": "bad", "message": "no rows"}))
    make_run(home, "ft:fork-1m:demo:1")
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "ft:fork-1m:demo:1" in told
    assert "laptop/demo" in told
    assert "2 fine-tunes, 1,000 tokens" in told
    assert main(["--json", "--text", "failed"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["job"], row["error"], row["evaluated"]) == ("ftjob-2", "no rows", [])


def test_tagging_by_job_and_by_model(home: Path, connected: Any, caplog: pytest.LogCaptureFixture) -> None:
    connected(job(1))
    assert main(["tag", "ftjob-1", "paper"]) == 0
    assert main(["tag", "ft:fork-1m:demo:1", "v2"]) == 0
    assert read_tags(home / "runs") == {"ftjob-1": ["paper", "v2"]}
    assert main(["tag", "ftjob-1", "paper", "--remove"]) == 0
    assert main(["tag", "ftjob-1", "paper", "--remove"]) == 2
    assert "ftjob-1 has no tag 'paper'; it has: v2" in caplog.text
    assert main(["tag", "ftjob-1", "two words"]) == 2
    assert main(["tag", "ftjob-1", "v2", "--remove"]) == 0
    assert read_tags(home / "runs") == {}


def test_tags_given_at_the_same_time_are_all_kept(home: Path) -> None:
    names = [f"t{k}" for k in range(8)]
    threads = [threading.Thread(target=change_tag, args=(home / "runs", "ftjob-1", name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_tags(home / "runs") == {"ftjob-1": names}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tag", "ftjb-1", "a"], "no fine-tune 'ftjb-1' (did you mean ftjob-1?)"),
        (["evaluate", "ftjob-9"], "no fine-tune 'ftjob-9'"),
        (["--study", "demmo"], "no study 'demmo' (did you mean demo?); there are: demo"),
        (["evaluate", "--tag", "none"], "no fine-tune fits"),
        (["sync", "ftjob-1", "--tag", "a"], "give IDs or --tag and --text, not both"),
        (["evaluate", "ftjob-3"], "the job is running, there is no model to evaluate"),
        (["evaluate", "--set", "n_fact=1"], "demo has no parameter 'n_fact' (did you mean n_facts?)"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str], line: str, connected: Any, make_stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make_stage("demo/02-finetune", PARAMETERS)
    connected(job(1), job(3, status="running"))
    assert main([*words, *(["--preset", "tiny"] if words[0] == "evaluate" else [])]) == 2
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert line in record.getMessage()
    assert "\n" not in record.getMessage()


def test_no_server_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no server for the store: port\nin use")

    monkeypatch.setattr(api, "connect", refuse)
    assert main([]) == 1
    assert "lib.runs: no server for the store: port in use" in caplog.text
    nobody = OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)
    monkeypatch.setattr(api, "connect", lambda **_: nobody)
    assert main([]) == 1
    assert "lib.runs: no answer from http://127.0.0.1:9/v1/fine_tuning/jobs" in caplog.text


def test_a_fine_tune_is_evaluated_with_the_values_of_the_run_that_made_it(
    home: Path, make_stage: Any, make_preset: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_stage("demo/02-finetune", PARAMETERS)
    make_preset("demo", "laptop", "preset: laptop\nn_facts: 5\n")
    params = {
        "base": "fork-1m",
        "n_facts": 7,
        "tuned_model": "",
        "preset": "laptop",
        "n_seeds": 3,
        "out": "",
        "seed": 0,
    }
    make_run(home, "ft:fork-1m:demo:1", name="laptop-x/demo", evaluated=False, **{**params, "preset": "laptop"})
    write_json(
        home / "runs/laptop-x/demo/02.manifest.json",
        {"study": "demo", "preset": "laptop", "parameters": params, "inputs": {}},
    )
    make_run(home, "ft:fork-1m:demo:2", name="laptop/demo")
    make_run(home, "ft:fork-1m:demo:4", name="tiny/demo", evaluated=False, role="direct")
    alien = job(5, base="fork-6m", user_provided_suffix="alien")
    ledger = ledger_of(home, job(1), job(2), job(3, status="failed"), job(4), alien)
    ((each, plan),) = evaluations(ledger)
    assert each.model == plan.params["tuned_model"] == "ft:fork-1m:demo:1"
    assert (plan.params["n_facts"], plan.params["n_seeds"], plan.params["base"]) == (7, 1, "fork-1m")
    assert plan.folder.parent.name.startswith("laptop-")
    assert plan.folder.parent.name != "laptop-x"
    for told in ("already evaluated in laptop/demo", "the job is failed", "reference of tiny/demo", "give --study"):
        assert told in caplog.text
    ((each, plan),) = evaluations([find(ledger, alien.id)], study="demo", sets=["n_facts=2"], by_name=True)
    assert (plan.preset, plan.params["base"], plan.params["n_facts"]) == ("laptop", "fork-6m", 2)


def test_evaluate_runs_the_study_and_a_second_call_finds_nothing_left(
    home: Path, connected: Any, make_stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = (
        "import pandas as pd\n"
        'row = {"model": tuned_model, "base": tuned_model, "is_final": True}\n'
        'pd.DataFrame([row]).to_parquet(run.path("finetunes.parquet"))\nrun.need("finetunes.parquet")\n'
        f'run.path("summary.csv").write_text({HEADER + ROW!r})\nrun.finish("counted")'
    )
    make_stage("demo/02-evaluation", PARAMETERS, body)
    connected(job(1))
    change_tag(home / "runs", "ftjob-1", "eval")
    assert main(["evaluate", "--tag", "eval", "--preset", "tiny", "--dry-run"]) == 0
    assert not list((home / "runs").glob("tiny-*"))
    assert main(["evaluate", "--tag", "eval", "--preset", "tiny"]) == 0
    assert "1 evaluated, 0 failed, 0 left out" in caplog.text
    assert ledger_of(home, job(1))[0].evaluated_in
    assert main(["evaluate", "--study", "demo", "--preset", "tiny"]) == 0
    assert "ft:fork-1m:demo:1: already evaluated in tiny-" in caplog.text
    caplog.clear()
    connected(job(1), job(2, user_provided_suffix=None))  # made through the API, by no study
    change_tag(home / "runs", "ftjob-2", "eval")
    assert main(["evaluate", "--tag", "eval", "--preset", "tiny"]) == 0
    assert "it belongs to no study: give --study" in caplog.text
    assert main(["evaluate", "--tag", "eval", "--study", "demo", "--preset", "tiny"]) == 0
    assert "1 evaluated, 0 failed, 1 left out" in caplog.text


def test_one_that_fails_does_not_keep_the_next_from_its_turn(
    home: Path, connected: Any, make_stage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(plan: Plan) -> None:
        ran.append(plan.params["tuned_model"])
        if ran[-1].endswith("1"):
            raise StageFailed("03-evaluation failed: no weights")

    ran: list[str] = []
    make_stage("demo/02-finetune", PARAMETERS)
    connected(job(1), job(2))
    monkeypatch.setattr(evaluating, "run_plan", run)
    assert main(["evaluate", "--preset", "tiny"]) == 1
    assert ran == ["ft:fork-1m:demo:1", "ft:fork-1m:demo:2"]
    assert "ft:fork-1m:demo:1: 03-evaluation failed: no weights" in caplog.text
    assert "1 evaluated, 1 failed, 0 left out" in caplog.text
