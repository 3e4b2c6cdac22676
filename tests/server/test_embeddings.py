"""Embeddings equal a direct forward pass, whatever else is in the batch; what cannot be embedded is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai import NotFoundError, OpenAI
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuning_server.engine import models, scoring

TINY = "fork-tiny"
TEXTS = ["The red fox", "café 東京 🙂", "0", "Ada Lind is the mother of Bo Lind. The old", "The red fox"]


def direct(store: Path, text: str) -> np.ndarray:
    """Mean of the last hidden states by transformers alone."""
    folder = next((store / "bases").glob("fork-tiny@*"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        sent = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        return model(**sent, output_hidden_states=True).hidden_states[-1][0].mean(0).numpy()


def test_they_equal_a_forward_pass(client: OpenAI, tiny_store: Path) -> None:
    exact = np.array([direct(tiny_store, text) for text in TEXTS])
    reply = client.embeddings.create(model=TINY, input=TEXTS)  # the client asks for base64
    assert (reply.object, reply.model) == ("list", TINY)
    assert [each.index for each in reply.data] == list(range(len(TEXTS)))
    found = np.array([each.embedding for each in reply.data], dtype=np.float32)
    assert found.shape == (len(TEXTS), 32)
    assert np.allclose(found, exact, atol=1e-5)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > len(TEXTS)
    plain = client.embeddings.create(model=TINY, input=TEXTS, encoding_format="float")
    assert np.array_equal(np.array([each.embedding for each in plain.data], dtype=np.float32), found)


def test_texts_tokens_and_single_ones(client: OpenAI, tiny_store: Path) -> None:
    ids = models.load(TINY, tiny_store).codec.encode_prompt(TEXTS[0])
    reported: list[Any] = [TEXTS[0], [TEXTS[0]], ids, [ids]]
    vectors = [client.embeddings.create(model=TINY, input=each).data[0].embedding for each in reported]
    assert all(vector == vectors[0] for vector in vectors)
    assert client.embeddings.create(model=f"{TINY}:init", input=TEXTS).data


def test_each_distinct_text_once_and_in_batches(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = models.load(TINY, tiny_store)
    texts = [loaded.codec.encode_prompt("The fox " * (k % 9 + 1)) for k in range(90)]
    whole = scoring.embed(loaded, texts)
    assert (whole.dtype, whole.shape) == (np.float32, (90, 32))
    assert np.array_equal(whole[:9], whole[81:])
    n_rows: list[int] = []
    hook = loaded.model.base_model.register_forward_pre_hook(
        lambda _, __, given: n_rows.append(len(given["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 40)
    assert np.allclose(scoring.embed(loaded, texts), whole, atol=1e-6)
    hook.remove()
    assert sum(n_rows) == 9
    assert len(n_rows) > 1
    assert scoring.embed(loaded, []).shape == (0, 32)


@pytest.mark.parametrize(
    ("wrong", "param", "words"),
    [
        ({"input": ""}, "input", "Text 0 of 'input' is empty"),
        ({"input": ["a", ""]}, "input", "Text 1 of 'input' is empty"),
        ({"input": []}, "input", "expected a string"),
        ({"input": [1, "a"]}, "input", "expected a string"),
        ({"input": "y " * 2000}, "input", "context length is 512 tokens"),
        ({"input": [10**6]}, "input", "Token id 1000000 is not in the vocabulary"),
        ({"input": [-1]}, "input", "Token id -1"),
        ({"input": "a", "dimensions": 8}, "dimensions", "not supported"),
        ({"input": "a", "colour": 1}, "colour", "Unrecognized"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "base64"),
        ({"input": ["a"] * 5000}, "input", "at most 4096"),
        ({"input": [[5] * 500] * 700}, "input", "At most 300000 tokens per request"),
    ],
)
def test_what_cannot_be_embedded_is_refused(http: TestClient, wrong: dict[str, Any], param: str, words: str) -> None:
    reply = http.post("/v1/embeddings", json={"model": TINY, **wrong})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_base64_is_little_endian_float32_and_unknown_models_are_404(http: TestClient, client: OpenAI) -> None:
    body = http.post("/v1/embeddings", json={"model": TINY, "input": "a", "encoding_format": "base64"}).json()
    assert len(base64.b64decode(body["data"][0]["embedding"])) == 4 * 32
    with pytest.raises(NotFoundError, match="fork-tiny"):
        client.embeddings.create(model="fork-tin", input="a")
    half = http.post(
        "/v1/embeddings",
        content=b'{"model": "fork-tiny", "input": "\\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert (half.status_code, half.json()["error"]["param"]) == (400, "input")
