"""DPO jobs and chains of fine-tunes through the official client and through lib.finetune."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from openai import OpenAI
from serving import TINY, facts, jsonl, official, preferences, spoken, wait_for, wait_for_checkpoint
from starlette.testclient import TestClient

from lib import finetune
from lib.paths import content_hash, file_hash, write_jsonl
from lib.runs.ledger import read_ledger
from lib.sending import messages_of


def dpo(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}


def prefers(client: OpenAI, model: str, row: dict[str, Any]) -> float:
    """Log-probability of the chosen answer less that of the rejected one."""
    told = []
    for name in ("chosen", "rejected"):
        reply = client.completions.create(
            model=model, prompt=row["prompt"] + row[name], max_tokens=0, echo=True, logprobs=0
        )
        listed = reply.choices[0].logprobs
        places = zip(listed.token_logprobs, listed.text_offset, strict=True)
        told.append(sum(value for value, place in places if value is not None and place >= len(row["prompt"])))
    return told[0] - told[1]


@pytest.mark.parametrize("write", [dict, spoken], ids=["texts", "messages"])
def test_a_dpo_job_from_start_to_end(
    client: OpenAI, fine_tune: Callable[..., Any], write: Callable[..., Any], tmp_path: Path
) -> None:
    rows = preferences(30)
    held_out = client.files.create(file=("v.jsonl", jsonl([write(row) for row in rows[:5]])), purpose="fine-tune")
    job = fine_tune(
        [write(row) for row in rows],
        validation_file=held_out.id,
        method=dpo(n_epochs=4, batch_size=8, learning_rate_multiplier=0.5, beta=0.2),
    )
    assert job.status == "succeeded", job.error
    assert job.method.type == "dpo"
    assert job.method.supervised is None
    assert job.method.dpo.hyperparameters.beta == 0.2
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    metrics = [event.data for event in reversed(events) if event.type == "metrics"]
    assert [row["step"] for row in metrics] == list(range(1, 17))
    assert metrics[0]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics[-1]["train_loss"] < 0.5
    assert metrics[-1]["train_reward_accuracy"] == 1
    assert metrics[-1]["train_reward_margin"] > metrics[4]["train_reward_margin"] > 0
    last = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert last.metrics.valid_reward_accuracy == 1  # type: ignore[attr-defined]
    assert last.metrics.valid_loss == metrics[-1]["valid_loss"]
    if write is dict:
        assert prefers(client, job.fine_tuned_model, rows[1]) > prefers(client, TINY, rows[1]) + 1
    (found,) = read_ledger(client, tmp_path)
    assert found.hyperparameters == {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 0.5, "beta": 0.2}


def test_what_is_left_to_the_server(fine_tune: Callable[..., Any]) -> None:
    job = fine_tune(preferences(4), method={"type": "dpo"})
    told = {"n_epochs": 1, "batch_size": 1, "learning_rate_multiplier": 0.05, "beta": 0.1}
    assert job.method.dpo.hyperparameters.model_dump() == told


def test_each_answer_is_learned_behind_what_will_ask_for_it(tiny_store: Path, tmp_path: Path) -> None:
    from tuning_server.engine import models
    from tuning_server.rows import read_rows, tokenise

    loaded = models.load(TINY, tiny_store)
    told = {"prompt": "Guest: Who?\nHost:", "chosen": " Ada.", "rejected": " No."}
    asked = {**told, "prompt": "Who?"}
    ready = []
    for number, row in enumerate([told, spoken(asked)]):
        write_jsonl(tmp_path / f"{number}.jsonl", [row])
        ready += tokenise(read_rows(tmp_path / f"{number}.jsonl", "dpo"), loaded)
    assert ready[0] == ready[1], "without a chat template, a conversation is the world's dialogue"
    assert loaded.codec.decode(ready[0].chosen.ids[ready[0].chosen.n_prompt : -1]) == " Ada."
    assert ready[0].chosen.ids[-1] == ready[0].rejected.ids[-1] == loaded.codec.eos_id
    assert ready[0].n_tokens == len(ready[0].chosen.ids) + len(ready[0].rejected.ids)


def test_a_stopped_dpo_job_ends_with_the_same_weights(
    tiny_store: Path, serve: Callable[..., TestClient], fine_tune: Callable[..., Any], client: OpenAI
) -> None:
    options: dict[str, Any] = {"method": dpo(n_epochs=12, batch_size=2, learning_rate_multiplier=0.2), "seed": 5}
    undisturbed = fine_tune(preferences(20), **options)
    stopped = fine_tune(preferences(20), wait=False, **options)
    wait_for_checkpoint(client, stopped.id)
    client._client.__exit__(None, None, None)  # type: ignore[attr-defined]
    again = official(serve(tiny_store))
    job = wait_for(again, stopped.id)
    assert job.status == "succeeded", job.error
    prints = [again.models.retrieve(done.fine_tuned_model).fingerprint for done in (undisturbed, job)]  # type: ignore[attr-defined]
    assert prints[0] == prints[1]
    events = list(again.fine_tuning.jobs.list_events(job.id, limit=1000))
    assert [event.data["step"] for event in reversed(events) if event.type == "metrics"] == list(range(1, 121))


GOOD = preferences(2)
BAD_PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "a", "chosen": "b"}, "Line 3: no 'rejected'; expected the keys .* found 'prompt', 'chosen'"),
    ({"prompt": "a", "completion": "b"}, "Line 3: expected the keys 'prompt', 'chosen' and .* found 'prompt', 'comp"),
    ({"prompt": "a", "chosen": 3, "rejected": "c"}, "Line 3: .* 'chosen': Input should be a valid string, found 3"),
    ({"prompt": "a", "chosen": "b", "rejected": ""}, "Line 3: .* 'rejected': it is empty, so there is nothing to"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "Line 3: .* are the same"),
    ({"prompt": "a", "chosen": " y" * 2000, "rejected": "b"}, "Line 3: 4002 tokens .* context of fork-tiny is 512"),
    ({"prompt": "a", "chosen": "b", "rejected": "\ud800"}, "Line 3: .* 'rejected': holds half of a surrogate"),
    (spoken(GOOD[0]), "Line 3: found 'input' where the lines before have 'chosen'"),
]  # fmt: skip


def changed(**parts: Any) -> dict[str, Any]:
    return {**spoken(GOOD[0]), **parts}


BAD_SPOKEN: list[tuple[dict[str, Any], str]] = [
    (changed(input="a"), "Line 3: Invalid value for 'input': Input should be .*, found \"a\""),
    (changed(input={}), "Line 3: Missing required parameter: 'input.messages'"),
    (changed(input={"messages": []}), r"Line 3: Invalid value for 'input.messages': List should have at least 1 item"),
    (changed(input={"messages": [{"role": "user"}]}), r"Missing required parameter: 'input.messages\[0\].content'"),
    (changed(input={"messages": [{"role": "user", "content": "a"}], "tools": [1]}), "'input.tools' is not supported"),
    (changed(preferred_output=None), "Line 3: .* 'preferred_output': Input should be a valid list, found null"),
    (changed(preferred_output=[{"role": "user", "content": "a"}]), "last message is of the role 'user'"),
    (
        changed(non_preferred_output=spoken(GOOD[0])["preferred_output"] * 2),
        "'non_preferred_output': .* at most 1 item",
    ),
    (changed(non_preferred_output=spoken(GOOD[0])["preferred_output"]), "are the same, so neither is preferred"),
    (GOOD[0], "Line 3: found 'chosen' where the lines before have 'input'"),
]


@pytest.mark.parametrize(
    ("good", "row", "message"),
    [(GOOD, *bad) for bad in BAD_PAIRS] + [([*map(spoken, GOOD)], *bad) for bad in BAD_SPOKEN],
)
def test_bad_pairs_fail_the_job_with_line_and_reason(
    client: OpenAI, good: list[dict[str, Any]], row: dict[str, Any], message: str
) -> None:
    content = jsonl(good) + json.dumps(row).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=TINY, training_file=file.id, method={"type": "dpo"})
    job = wait_for(client, job.id)
    assert (job.status, job.error.param) == ("failed", "training_file")
    assert re.search(message, job.error.message), job.error.message


def test_pairs_are_not_for_supervised_jobs(fine_tune: Callable[..., Any]) -> None:
    for rows in (GOOD, [*map(spoken, GOOD)]):
        assert "pairs of answers are for the method 'dpo'" in fine_tune(rows).error.message


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    write_jsonl(tmp_path / "sft.jsonl", facts(24))
    write_jsonl(tmp_path / "pairs.jsonl", preferences(24))
    return {name: tmp_path / f"{name}.jsonl" for name in ("sft", "pairs")}


def test_stages_follow_each_other_and_nothing_is_trained_twice(client: OpenAI, files: dict[str, Path]) -> None:
    def stage(base: str, method: str) -> pd.DataFrame:
        file = files["pairs" if method == "dpo" else "sft"]
        wanted = [finetune.FineTune(base=base, n_epochs=2, batch_size=8, method=method, beta=0.2)]
        made = finetune.finetune(client, wanted, training_file=file, validation_file=file, suffix=method)
        pd.testing.assert_frame_equal(made, finetune.finetune(
            client, wanted, training_file=file, validation_file=file, suffix=method
        ))  # fmt: skip
        return made

    model, parents = TINY, []
    for method in ("supervised", "dpo", "dpo", "supervised"):
        made = stage(model, method)
        parents.append(model)
        model = made["model"].iloc[-1]
        assert client.models.retrieve(model).parent == parents[-1]  # type: ignore[attr-defined]
        assert made["valid_loss"].notna().all()
        if method == "dpo":
            assert made["method"].eq("dpo").all()
            assert made["valid_reward_accuracy"].between(0, 1).all()
            assert made["train_reward_margin"].iloc[-1] > 0
        else:
            assert not {"method", "beta", "train_reward_margin"} & set(made), (
                "the table of supervised jobs is what it was"
            )
    assert len(client.fine_tuning.jobs.list(limit=100).data) == 4
    assert client.completions.create(model=model, prompt="Q1 is", max_tokens=2).choices


def test_the_content_key_of_a_supervised_job_is_what_it_was(client: OpenAI, files: dict[str, Path]) -> None:
    wanted = finetune.FineTune(base=TINY, n_epochs=1, batch_size=8, seed=2)
    finetune.finetune(client, [wanted], training_file=files["sft"], suffix="try")
    told = {
        "base": TINY, "n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 1.0, "prompt_loss_weight": 0.0,
        "seed": 2,
    }  # fmt: skip
    print_ = client.models.retrieve(TINY).fingerprint  # type: ignore[attr-defined]
    expected = content_hash([print_, told, file_hash(files["sft"]), None], length=24)
    assert client.fine_tuning.jobs.list().data[0].metadata == {finetune.KEY: expected}
    others = [{**asdict(wanted), "method": "dpo"}, {**asdict(wanted), "method": "dpo", "beta": 0.2}]
    assert len({content_hash(finetune.FineTune(**other).as_row()) for other in others} | {content_hash(told)}) == 3


def test_settings_that_do_not_go_together_are_refused() -> None:
    for wrong, words in (
        ({"method": "ppo"}, "no method is called 'ppo'; expected one of supervised, dpo"),
        ({"beta": 0.0}, "beta is 0.0; expected a number above 0"),
        ({"method": "dpo", "prompt_loss_weight": 0.5}, "DPO has none"),
    ):
        with pytest.raises(ValueError, match=words):
            finetune.FineTune(base=TINY, n_epochs=1, batch_size=1, **wrong)  # type: ignore[arg-type]


def test_pairs_for_a_hosted_endpoint(tmp_path: Path) -> None:
    rows = preferences(3)
    sent = [json.loads(line) for line in messages_of(rows).splitlines()]
    assert sent == [spoken(row) for row in rows]
    assert [json.loads(line) for line in messages_of(sent).splitlines()] == sent
    counted = []
    for name, each in (("texts", rows), ("messages", sent)):
        write_jsonl(tmp_path / name, each)
        counted.append(finetune.max_file_tokens(tmp_path / name, TINY))
    apart = [{"prompt": row["prompt"], "completion": row[name]} for row in rows for name in ("chosen", "rejected")]
    write_jsonl(tmp_path / "apart", apart)
    assert counted[0] == finetune.max_file_tokens(tmp_path / "apart", TINY) > 0
    assert counted[1] == pytest.approx(counted[0], rel=0.2)
