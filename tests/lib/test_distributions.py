"""Tables of distributions: exact, asked once, whole after a kill, and no larger in memory for more contexts."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from openai import BadRequestError, NotFoundError, OpenAI
from serving import TINY

from lib.distributions import Distributions, collect, collecting, hosted, table, top_k
from lib.tokens import tokenize
from tuning_server.engine import models
from tuning_server.engine.tokenization import label

TEXT = "The red fox saw the old baker. Ada Lind is the mother of Bo Lind."


def draw(n: int, *, seed: int = 0) -> tuple[list[list[int]], list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 250, rng.integers(1, 20)).tolist() for _ in range(n)], rng.integers(0, 250, n).tolist()


def exact(store: Path, contexts: list[list[int]], model: str = TINY) -> np.ndarray:
    loaded = models.load(model, store, dtype=torch.float32)
    with torch.no_grad():
        rows = [loaded.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1).numpy() for ids in contexts]
    return np.array(rows)


@pytest.fixture
def other(tiny_store: Path) -> str:
    """A second model of the store, with weights of its own."""
    loaded = models.load(TINY, tiny_store, dtype=torch.float32)
    for weights in loaded.model.parameters():
        weights.data += 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    models.save(loaded, tiny_store / "bases" / "fork-other@ba9876543210")
    (tiny_store / "bases" / "fork-other.json").write_text(json.dumps({"current": "ba9876543210"}))
    return "fork-other"


@pytest.fixture
def counted(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of what is asked of the server."""
    asked: list[str] = []
    send = client._client.send

    def watched(request: httpx.Request, **options: Any) -> httpx.Response:
        asked.append(request.url.path)
        return send(request, **options)

    monkeypatch.setattr(client._client, "send", watched)
    return asked


def test_a_whole_table_equals_a_forward_pass(client: OpenAI, tiny_store: Path, tmp_path: Path) -> None:
    contexts, targets = draw(40)
    got = collect(client, TINY, contexts, targets, folder=tmp_path / "t")
    expected = exact(tiny_store, contexts)
    assert isinstance(got.logprobs, np.memmap)
    assert (got.logprobs.dtype, got.logprobs.shape) == (np.float16, expected.shape)
    assert got.vocab_size == expected.shape[1]
    assert np.allclose(got.logprobs, expected, atol=0.01)
    assert np.allclose(got.target_logprobs, expected[range(40), targets], atol=1e-4)
    part = Distributions.open(got.folder).rows(5, 9)
    assert len(part) == 4
    assert np.array_equal(part.target_logprobs, got.target_logprobs[5:9])
    assert part.logprobs is not None
    assert np.array_equal(part.logprobs, got.logprobs[5:9])


def test_nothing_is_asked_twice_and_other_questions_have_tables_of_their_own(
    client: OpenAI, other: str, tmp_path: Path, counted: list[str]
) -> None:
    contexts, targets = draw(10)
    first = collect(client, TINY, contexts, targets, folder=tmp_path)
    counted.clear()
    arrays = [np.array(context) for context in contexts]
    assert collect(client, TINY, arrays, np.array(targets), folder=tmp_path).folder == first.folder  # type: ignore[arg-type]
    assert [path for path in counted if path.endswith("/scores")] == []
    others = [
        collect(client, TINY, contexts, targets[::-1], folder=tmp_path),
        collect(client, other, contexts, targets, folder=tmp_path),
        collect(client, TINY, contexts, targets, folder=tmp_path, full=False),
        collect(client, TINY, contexts, targets, folder=tmp_path, top_k=5),
    ]
    assert len({first.folder, *(table.folder for table in others)}) == 5
    assert others[2].logprobs is None
    assert np.array_equal(others[2].target_logprobs, first.target_logprobs)


def test_a_killed_run_goes_on_where_it_ended(
    client: OpenAI, tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CHUNK_ROWS", 8)
    contexts, targets = draw(40)
    whole = collect(client, TINY, contexts, targets, folder=tmp_path / "whole")
    write, n_written = table.Filling.add, 0

    def killed(self: Any, columns: Any) -> None:
        nonlocal n_written
        if n_written == 3:
            path = self.folder / "logprobs.npy"  # it got as far as half of the next rows
            with path.open("r+b") as file:
                file.seek(path.stat().st_size - (self.n - self.done) * 2 * whole.vocab_size)
                file.write(b"\xff" * 3_000)
            raise KeyboardInterrupt
        n_written += 1
        write(self, columns)

    monkeypatch.setattr(table.Filling, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(client, TINY, contexts, targets, folder=tmp_path / "t")
    [folder] = (tmp_path / "t").iterdir()
    with pytest.raises(ValueError, match=r"has 24 of 40 rows: collect\(\) continues"):
        Distributions.open(folder)
    monkeypatch.setattr(table.Filling, "add", write)
    counted.clear()
    resumed = collect(client, TINY, contexts, targets, folder=tmp_path / "t")
    assert [path for path in counted if path.endswith("/scores")] == ["/v1/scores"] * 2
    assert resumed.logprobs is not None
    assert whole.logprobs is not None
    assert np.allclose(resumed.logprobs, whole.logprobs, atol=0.01)
    assert np.allclose(resumed.target_logprobs, whole.target_logprobs, atol=1e-4)


def test_truncated_by_the_server_or_here_is_the_same(client: OpenAI, tmp_path: Path) -> None:
    contexts, targets = draw(30)
    whole = collect(client, TINY, contexts, targets, folder=tmp_path)
    asked = collect(client, TINY, contexts, targets, folder=tmp_path, top_k=20)
    assert whole.logprobs is not None
    assert asked.logprobs is not None
    assert asked.tail is not None
    here = top_k(whole.logprobs, 20)
    assert np.allclose(asked.logprobs, here.logprobs, atol=0.01)
    assert np.allclose(asked.tail, here.tail, atol=0.01)
    missed = np.isnan(asked.target_logprobs)
    assert 0 < missed.sum() < 30
    assert np.array_equal(asked.target_logprobs[~missed], whole.target_logprobs[~missed])


def test_an_endpoint_without_scores_fills_the_same_table(
    client: OpenAI, other: str, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models.load(TINY, tiny_store, dtype=torch.float32)
    texts = tokenize(client, TINY, TEXT).texts
    contexts, targets = [texts[:k] for k in range(1, len(texts))], list(texts[1:])
    monkeypatch.setattr(collecting, "PROMPTS_A_REQUEST", 4)
    got = collect(client, TINY, contexts, targets, folder=tmp_path, top_k=10)
    again = collect(client, other, contexts, targets, folder=tmp_path, top_k=10)
    names = json.loads((tmp_path / "vocab.json").read_text())
    assert len(set(names)) == len(names)
    ids = [loaded.codec.encode("".join(context)) for context in contexts]
    for model, one in ((TINY, got), (other, again)):  # numbers mean the same strings in both
        expected = exact(tiny_store, ids, model)
        assert one.ids is not None
        assert one.logprobs is not None
        assert one.tail is not None
        assert np.allclose(one.logprobs, -np.sort(-expected, axis=1)[:, :10], atol=1e-4)
        assert np.allclose(np.exp(one.logprobs).sum(1) + np.exp(one.tail), 1, atol=1e-5)
        likeliest = [label(loaded.codec[int(best)]) for best in expected.argmax(1)]
        assert [names[number] for number in one.ids[:, 0]] == likeliest
        hit = [target in {names[number] for number in row} for target, row in zip(targets, one.ids, strict=True)]
        assert (~np.isnan(one.target_logprobs)).tolist() == hit


def stub(rows: list[list[dict[str, float] | None]]) -> Any:
    """A completions endpoint that answers each attempt with these likeliest tokens (None: the text ended)."""
    attempts = iter(rows)

    def create(**asked: Any) -> Any:
        choices = [
            SimpleNamespace(index=k, logprobs=SimpleNamespace(top_logprobs=[named] if named else []))
            for k, named in enumerate(next(attempts))
        ]
        assert len(choices) == len(asked["prompt"])
        return SimpleNamespace(choices=choices)

    return SimpleNamespace(completions=SimpleNamespace(create=create))


def test_hosted_rows_that_are_odd() -> None:
    full = {"a": np.log(0.7), "b": np.log(0.2), "c": np.log(0.1)}
    columns = hosted.ask_top_k(stub([[full, None], [{"a": -0.0}]]), "m", ["x", "y"], ["b", "b"], 2)
    assert columns["ids"].tolist() == [["a", "b"], ["a", None]]  # the drawn one is left out; a short row is filled up
    assert columns["target_logprobs"][0] == pytest.approx(np.log(0.2))
    assert np.isnan(columns["target_logprobs"][1])
    assert np.exp(columns["tail"]) == pytest.approx([0.1, hosted.LEAST_MASS], abs=1e-6)
    with pytest.raises(Exception, match="sent no log-probabilities for 1 of 1 contexts"):
        hosted.ask_top_k(stub([[None]] * hosted.TRIES), "m", ["x"], ["b"], 2)


def test_numbers_of_strings_are_kept(tmp_path: Path) -> None:
    first = hosted.Vocabulary(tmp_path / "vocab.json")
    assert first.number(np.array([["b", "a"], ["a", None]], dtype=object)).tolist() == [[0, 1], [1, -1]]
    later = hosted.Vocabulary(tmp_path / "vocab.json")
    assert later.number(np.array([["c", "b"]], dtype=object)).tolist() == [[2, 0]]


def test_top_k_agrees_with_sorting(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (50, 37)).round(1)  # with ties
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    path = tmp_path / "l.npy"
    np.save(path, logprobs.astype(np.float16))
    mapped = np.load(path, mmap_mode="r")
    for k in (1, 5, 36, 37):
        part = top_k(mapped, k)
        order = np.argsort(-mapped.astype(np.float32), axis=1, kind="stable")
        assert np.array_equal(part.ids, order[:, :k])
        assert np.array_equal(part.logprobs, np.take_along_axis(mapped.astype(np.float32), order[:, :k], axis=1))
        rest = np.take_along_axis(mapped.astype(float), order[:, k:], axis=1)
        if k < 37:
            assert np.allclose(part.tail, np.logaddexp.reduce(rest, axis=1), atol=1e-4)
    assert (top_k(mapped, 37).tail == -65504).all()
    sure = np.full((1, 4), -np.inf)
    sure[0, 2] = 0.0
    assert top_k(sure, 1).tail.tolist() == [-65504]
    with pytest.raises(ValueError, match="k between 1 and the vocabulary of 37, found 38"):
        top_k(mapped, 38)
    with pytest.raises(ValueError, match=r"shape \(n, vocab\), found \(37,\)"):
        top_k(mapped[0], 3)


def test_bad_input_is_told(client: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no contexts"):
        collect(client, TINY, [], [], folder=tmp_path)
    with pytest.raises(ValueError, match="one target per context, found 2 for 1"):
        collect(client, TINY, [[1]], [1, 2], folder=tmp_path)
    with pytest.raises(ValueError, match="need a top_k of 1 or more"):
        collect(client, TINY, [["a"]], ["b"], folder=tmp_path)
    with pytest.raises(NotFoundError, match="fork-none"):
        collect(client, "fork-none", [[1]], [1], folder=tmp_path)
    with pytest.raises(BadRequestError, match="token id 99999 is not"):
        collect(client, TINY, [[99_999]], [1], folder=tmp_path)
    with pytest.raises(ValueError, match="holds no distributions"):
        Distributions.open(tmp_path / "none")

    def gone(*args: Any, **options: Any) -> Any:
        reply = httpx.Response(404, json={}, request=httpx.Request("POST", "http://testserver/v1/scores"))
        raise NotFoundError("Unknown request URL", response=reply, body=None)

    monkeypatch.setattr(client, "post", gone)
    with pytest.raises(ValueError, match="has no /scores. It may report its top_k likeliest tokens"):
        collect(client, TINY, [[1]], [1], folder=tmp_path, full=False)


def test_memory_does_not_grow_with_the_number_of_contexts(
    client: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = table.Filling.add

    def tidied(self: Any, columns: Any) -> None:
        gc.collect()  # cycles of the HTTP library, which go when Python finds the time
        write(self, columns)

    monkeypatch.setattr(table.Filling, "add", tidied)
    monkeypatch.setattr(collecting, "CHUNK_ROWS", 50)
    collect(client, TINY, *draw(50, seed=9), folder=tmp_path)  # what is made once
    gc.freeze()  # torch's many objects would make each collection slow
    largest = []
    few, many = 250, 2_000
    for n in (few, many):
        contexts, targets = draw(n, seed=n)
        tracemalloc.start()
        got = collect(client, TINY, contexts, targets, folder=tmp_path)
        largest.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(got) == n
    gc.unfreeze()
    assert got.logprobs is not None
    grown = got.logprobs.nbytes * (many - few) // many
    assert largest[1] - largest[0] < 0.25 * grown, "what was asked before stays in memory"
