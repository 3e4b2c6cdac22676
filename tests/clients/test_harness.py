"""The LM Evaluation Harness (`local-completions`): its figures are those of /v1/completions asked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from openai import OpenAI

MODEL = "fork-300k"
HERE = Path(__file__).parent


def prompt(row: dict[str, Any]) -> str:
    return f"Guest: {row['question']}\nHost:"


def evaluated(task: str, url: str, model_folder: Path, **options: Any) -> Any:
    """What the harness finds on one of our tasks, and its samples."""
    settings = {
        "model": MODEL, "base_url": f"{url}/completions", "tokenizer": str(model_folder), "max_length": 512,
        "tokenized_requests": False,
    }  # fmt: skip
    tasks = TaskManager(include_path=str(HERE), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="local-completions", model_args=settings | options, tasks=[task], task_manager=tasks, bootstrap_iters=0
    )
    assert found is not None
    return found["results"][task], sorted(found["samples"][task], key=lambda sample: sample["doc_id"])


def logprob(client: OpenAI, text: str, *, start: int) -> tuple[float, bool]:
    """Log-probability in nats of what follows the first `start` characters of a text, and whether greedy says it."""
    told = client.completions.create(model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    assert told is not None
    assert told.text_offset
    assert told.token_logprobs
    assert told.top_logprobs
    places = [k for k, offset in enumerate(told.text_offset) if offset >= start and told.token_logprobs[k] is not None]
    greedy = all(told.token_logprobs[k] == max(told.top_logprobs[k].values()) for k in places)
    return sum(told.token_logprobs[k] for k in places), greedy


@pytest.mark.parametrize(
    "how",
    [{}, {"tokenized_requests": True}, {"tokenized_requests": True, "batch_size": 8}, {"num_concurrent": 8}],
    ids=["text", "tokens", "batched", "concurrent"],
)
def test_log_likelihoods(
    url: str, model_folder: Path, client: OpenAI, rows: list[dict[str, Any]], how: dict[str, Any]
) -> None:
    result, samples = evaluated("fork_choice", url, model_folder, **how)
    n_right, largest = 0, 0.0
    for row, sample in zip(rows, samples, strict=True):
        by_hand = [logprob(client, f"{prompt(row)} {name}", start=len(prompt(row))) for name in row["choices"]]
        theirs = [(float(value), greedy in (True, "True")) for value, greedy in sample["filtered_resps"]]
        assert [greedy for _, greedy in theirs] == [greedy for _, greedy in by_hand]
        largest = max(largest, *(abs(one[0] - two[0]) for one, two in zip(theirs, by_hand, strict=True)))
        n_right += by_hand[row["answer"]][0] == max(value for value, _ in by_hand)
    print(f"acc {result['acc,none']}, by hand {n_right / len(rows)}; largest difference {largest:.1e} nats")
    assert largest < 1e-4
    assert result["acc,none"] == pytest.approx(n_right / len(rows))


def test_generation(url: str, model_folder: Path, client: OpenAI, rows: list[dict[str, Any]]) -> None:
    for how in ({}, {"num_concurrent": 4}, {"tokenizer": None, "tokenizer_backend": "None"}):
        result, samples = evaluated("fork_answer", url, model_folder, **how)
        asked = client.completions.create(
            model=MODEL, prompt=[prompt(row) for row in rows], max_tokens=16, temperature=0, stop="\n"
        )
        texts = [choice.text for choice in asked.choices]
        assert [sample["resps"][0][0] for sample in samples] == texts
        n_right = sum(text == f" {row['choices'][row['answer']]}" for text, row in zip(texts, rows, strict=True))
        print(f"exact_match {result['exact_match,none']}, by hand {n_right / len(rows)}; {texts[0]!r}")
        assert result["exact_match,none"] == pytest.approx(n_right / len(rows))


def test_rolling_log_likelihoods(url: str, model_folder: Path, client: OpenAI, rows: list[dict[str, Any]]) -> None:
    result, samples = evaluated("fork_rolling", url, model_folder, tokenized_requests=True)
    nats = n_bytes = 0.0
    for row, sample in zip(rows, samples, strict=True):
        text = f"{prompt(row)} {row['choices'][row['answer']]}\n"
        ids = client.post("/tokenize", cast_to=object, body={"model": MODEL, "prompt": text})["tokens"]  # type: ignore[index]
        end = client.post("/tokenize", cast_to=object, body={"model": MODEL, "prompt": "<|endoftext|>"})["tokens"]  # type: ignore[index]
        reply = client.completions.create(model=MODEL, prompt=[*end, *ids], max_tokens=0, echo=True, logprobs=0)
        told = reply.choices[0].logprobs
        assert told is not None
        by_hand = sum(value for value in (told.token_logprobs or [])[1:] if value is not None)
        assert float(sample["filtered_resps"][0]) == pytest.approx(by_hand, abs=1e-3)
        nats, n_bytes = nats + by_hand, n_bytes + len(text.encode())
    print(f"bits_per_byte {result['bits_per_byte,none']:.4f}, by hand {-nats / n_bytes / math.log(2):.4f}")
    assert result["bits_per_byte,none"] == pytest.approx(-nats / n_bytes / math.log(2), rel=1e-4)
