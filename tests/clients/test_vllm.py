"""vLLM serves what was trained here, whole models and adapters, and the client gets the answers of our own server."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from openai import APIConnectionError, OpenAI
from serving import facts, jsonl, served, upload, wait_for

from lib.clients import EndpointClient

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
Answers = list[tuple[str, list[float]]]
PROMPTS = ["The capital of France is", "Q3 is", "Once upon a time, a fox"]


@contextmanager
def vllm(*options: str, log: Path) -> Iterator[OpenAI]:
    """A vLLM on the processors, and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [VLLM, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
               "--max-model-len", "512", "--dtype", "float32", "--enforce-eager", *options]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}, start_new_session=True
        )
    client = EndpointClient(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                client.models.list()
                break
            except APIConnectionError:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.5)
        yield client
    finally:
        process.terminate()
        process.wait()


def answers(client: OpenAI, model: str) -> Answers:
    """Greedy continuations, and the log-probabilities of the prompts' tokens."""
    client.models.retrieve(model)
    replies = []
    for prompt in PROMPTS:
        text = client.completions.create(model=model, prompt=prompt, max_tokens=12, temperature=0).choices[0].text
        echoed = client.completions.create(model=model, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
        replies.append((text, echoed.choices[0].logprobs.token_logprobs[1:]))
    return replies


def mean_difference(one: Answers, other: Answers) -> float:
    """Of the log-probabilities of the prompts' tokens, in nats."""
    return fmean(abs(a - b) for (_, x), (_, y) in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize(
    ("base", "method", "tolerance"),
    [
        ("fork-1m", "all weights", 1e-4),  # float32 on both sides; heads of 16, as in fork-300k, are too small for vLLM
        ("smollm2-135m", "adapters", 0.1),  # bfloat16 here, where the processor has it, and float32 there
    ],
)
def test_vllm_answers_as_our_server(tmp_path: Path, base: str, method: str, tolerance: float) -> None:
    bases = ROOT / "data" / "store" / "bases"
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "bases").symlink_to(bases.resolve())
    hyperparameters: dict[str, Any] = {"n_epochs": 4, "batch_size": 8}
    hyperparameters |= {"lora": {"rank": 8}} if method == "adapters" else {}
    with served(tmp_path / "store") as (_, url):
        client = OpenAI(base_url=url, api_key="any")
        file = upload(client, jsonl(facts(16)))
        job = client.fine_tuning.jobs.create(
            model=base, training_file=file.id, seed=0, hyperparameters=hyperparameters,
        )  # fmt: skip
        model = wait_for(client, job.id, patience_s=600).fine_tuned_model
        ours = answers(client, model)
        untrained = answers(client, base)
    folder = tmp_path / "store" / "tuned" / model.rpartition(":")[2] / "final"
    options = ["--model", str(folder), "--served-model-name", model]
    if method == "adapters":
        (weights,) = bases.glob(f"{base}@*")
        options = ["--model", str(weights), "--enable-lora", "--max-lora-rank", "8"]
        options += ["--lora-modules", f"{model}={folder}"]
    with vllm(*options, log=tmp_path / "vllm.log") as client:
        theirs = answers(client, model)
    difference, effect = (mean_difference(ours, others) for others in (theirs, untrained))
    print(f"{base}, {method}: log-probabilities differ by {difference:.1e} nats on average (training: {effect:.1e})")
    assert difference < min(tolerance, 0.2 * effect)
    if tolerance < 0.01:
        assert [text for text, _ in theirs] == [text for text, _ in ours]
