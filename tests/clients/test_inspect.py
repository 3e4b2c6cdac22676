"""Inspect (`openai-api/...`): its answers and log-probabilities are those of /v1/chat/completions asked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message, user_message
from openai import OpenAI

MODEL = "fork-300k"
SYSTEM = "Short answers about people and their families."


pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")


def asked(rows: list[dict[str, Any]], *, turns: int) -> Task:
    """Our questions as a task; with two turns the model is asked again after its answer."""
    samples = [Sample(input=row["question"], target=row["choices"][row["answer"]]) for row in rows]
    solver = [system_message(SYSTEM), generate(), *([user_message("And who else?"), generate()] if turns == 2 else [])]
    return Task(dataset=samples, solver=solver, scorer=includes())


@pytest.mark.parametrize(
    ("turns", "options", "stream"),
    [
        (1, {}, False),
        (2, {"logprobs": True, "top_logprobs": 3, "seed": 7, "stop_seqs": ["!"], "top_p": 0.9}, False),
        (1, {"temperature": 1.0, "seed": 7, "num_choices": 2}, False),
        (1, {}, True),
    ],
    ids=["greedy", "two-turns", "drawn", "streamed"],
)
def test_answers(
    url: str,
    client: OpenAI,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    turns: int,
    options: dict[str, Any],
    stream: bool,
) -> None:
    config = GenerateConfig(**({"temperature": 0, "max_tokens": 16} | options))
    model = get_model(f"openai-api/fork/{MODEL}", base_url=url, api_key="any", config=config, stream=stream)
    (log,) = eval(asked(rows, turns=turns), model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    assert log.samples
    assert log.results
    names = {"max_tokens": "max_tokens", "temperature": "temperature", "num_choices": "n", "stop_seqs": "stop"}
    wanted = {names.get(name, name): value for name, value in ({"temperature": 0, "max_tokens": 16} | options).items()}
    n_right = 0
    for row, sample in zip(rows, sorted(log.samples, key=lambda sample: int(sample.id)), strict=True):
        said: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["question"]}]
        if turns == 2:
            first = client.chat.completions.create(model=MODEL, messages=said, **wanted).choices[0].message.content
            said += [{"role": "assistant", "content": first}, {"role": "user", "content": "And who else?"}]
        reply = client.chat.completions.create(model=MODEL, messages=said, **wanted)
        assert [choice.message.text for choice in sample.output.choices] == [c.message.content for c in reply.choices]
        theirs, ours = sample.output.choices[0].logprobs, reply.choices[0].logprobs
        if "logprobs" in options:
            assert theirs is not None
            assert [token.token for token in theirs.content] == [token.token for token in ours.content]
            largest = max(abs(one.logprob - two.logprob) for one, two in zip(theirs.content, ours.content, strict=True))
            assert largest < 1e-4, "other neighbours in a batch, other last digits"
        assert sample.output.usage is not None
        assert sample.output.usage.total_tokens == reply.usage.total_tokens
        n_right += row["choices"][row["answer"]].lower() in reply.choices[0].message.content.lower()
    accuracy = log.results.scores[0].metrics["accuracy"].value
    print(f"accuracy {accuracy}, by hand {n_right / len(rows)}; {log.samples[0].output.completion!r}")
    assert accuracy == pytest.approx(n_right / len(rows))
