"""Next-token statistics of documents: how spread out a model's predictions are, each of them and all together.

Every token of every document is scored once; tokens that are read only as context never count. Sums are kept, never
distributions, so that memory depends on the vocabulary and not on the number of documents. The bootstrap over documents
runs along: each document has a Poisson(1) weight in each resample, drawn by its number, so that a resumed run goes on
and two models of the same documents are resampled alike.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from openai import OpenAI

from lib.console import progress
from lib.paths import atomic_write, content_hash, from_root, write_json
from lib.sources.corpus import stream_documents
from lib.tokens import in_order, post, request_scores

STATISTICS = ("rank", "entropy", "confidence", "likeliest", "probs", "ranked")
SUMMED = ("nll", "entropy", "confidence", "accuracy", "reciprocal_rank", "kl")
COLUMNS = ("document", "skipped", "tokens", "bytes", *SUMMED)
N_RANKED = 512  # likeliest tokens that the endpoint sums by rank
N_SPANS = 32  # of positions, each twice as wide as the one before: 0, 1-2, 3-6, 7-14 ...
REQUEST_TOKENS = 8_192  # of one request, unless one document has more
REPLY_BYTES = 2**25  # of a reply's sums over documents
SAVE_SECONDS = 15
END_OF_TEXT = "<|endoftext|>"  # begins a text where a tokenizer puts nothing in front (GPT-2, GPT-NeoX, Qwen)


class Document(NamedTuple):
    """A document in a model's tokens: its number in the source, their ids, and the bytes that each adds."""

    number: int
    ids: list[int]
    n_bytes: list[int]


class Totals:
    """Sums over documents, of the whole (first row) and of bootstrap resamples.

    Attributes
    ----------
    arrays : shape (1 + n_resamples, ...): ``probs`` by token, ``ranked`` (each distribution in falling order), and
        ``spans``, numbers of tokens and divergences by span of positions
    rows : one per document, in the columns of `COLUMNS`: positions without a finite log-probability, tokens
        and bytes, and sums over tokens (nats)
    """

    def __init__(self, vocab_tokens: int, n_resamples: int = 200, seed: int = 0) -> None:
        self.n_resamples, self.seed, self.rows = n_resamples, seed, list[list[float]]()
        widths = {"probs": vocab_tokens, "ranked": min(N_RANKED, vocab_tokens), "spans": 2 * N_SPANS}
        self.arrays = {name: np.zeros((1 + n_resamples, width)) for name, width in widths.items()}

    @property
    def documents(self) -> pd.DataFrame:
        """`rows` as a table."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def weights(self, numbers: Sequence[float]) -> np.ndarray:
        """How often each document counts, shape (1 + n_resamples, n)."""
        drawn = [np.random.default_rng([self.seed, int(n)]).poisson(1.0, self.n_resamples) for n in numbers]
        return np.vstack([np.ones(len(drawn)), np.array(drawn, dtype=float).reshape(len(drawn), -1).T])

    def add(self, documents: Sequence[Document], reply: dict[str, np.ndarray]) -> None:
        """Add the statistics of some documents, as ``/scores`` reports them."""
        positions = pd.DataFrame({name: reply[name] for name in reply if name not in ("probs", "ranked")}, dtype=float)
        positions = positions.assign(nll=-positions["target_logprobs"], reciprocal_rank=1 / positions["rank"])
        positions["kl"] = positions.get("kl", 0.0)
        end, spans = 0, []
        for document in documents:
            start, end = end, end + len(document.ids)
            part = positions.iloc[start:end].reset_index(drop=True)
            part = part.assign(accuracy=part["likeliest"] == document.ids, bytes=document.n_bytes, tokens=1).dropna()
            sums = part[["tokens", "bytes", *SUMMED]].sum()
            about = {"document": document.number, "skipped": len(document.ids) - len(part)} | sums.to_dict()
            self.rows.append([float(about[name]) for name in COLUMNS])
            span = np.log2(part.index.to_numpy() + 1).astype(int)
            of_spans = [np.bincount(span, weights=part[name], minlength=N_SPANS) for name in ("tokens", "kl")]
            spans.append(np.concatenate(of_spans))
        weights = self.weights([document.number for document in documents])
        for name, sums_of in {"probs": reply["probs"], "ranked": reply["ranked"], "spans": spans}.items():
            self.arrays[name] += weights @ np.asarray(sums_of, dtype=float)

    def save(self, path: Path) -> None:
        """Write everything, whole or not at all."""
        with atomic_write(path, "wb") as file:
            np.savez(file, allow_pickle=False, rows=np.array(self.rows), **self.arrays)

    def load(self, path: Path) -> None:
        """Take over what was saved."""
        with np.load(path, allow_pickle=False) as saved:
            self.rows = saved["rows"].reshape(-1, len(COLUMNS)).tolist()
            self.arrays = {name: saved[name] for name in self.arrays}


def stream(text: str, max_docs: int = 0) -> Iterator[str]:
    """Documents of a file or folder (`lib.sources.corpus.stream_documents`) or of ``hf:<data set>:<split>``.

    Parameters
    ----------
    max_docs : the first ones only, and reading ends there; 0 for all
    """
    found = _hub_texts(text) if text.startswith("hf:") else (each.text for each in stream_documents(from_root(text)))
    return islice(found, max_docs or None)


def _hub_texts(name: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{name} needs a package (pip install datasets); or give a file or a folder") from error
    path, _, split = name.removeprefix("hf:").partition(":")
    for number, row in enumerate(datasets.load_dataset(path, split=split or "validation", streaming=True)):
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{name}, row {number}: expected a string field 'text', found {', '.join(row)}")
        yield row["text"]


def score(
    client: OpenAI, model: str, text: str, *, folder: Path, base: str = "", max_docs: int = 0, window: int = 0,
    stride: int = 0, n_resamples: int = 200, seed: int = 0, description: str = "next token",
) -> Totals:  # fmt: skip
    """Score every token of documents once; what is done stays on disk, and a killed run goes on.

    Parameters
    ----------
    text, max_docs : as for `stream`
    folder : where sums are kept, in a file named by a hash of the request and the weights
    base : a model of the same tokenizer, for KL(model || base)
    window : most tokens of context; 0 for all that the model takes
    stride : how far the window moves; 0 for the whole window, so that contexts do not overlap (as published)
    n_resamples, seed : of the bootstrap over documents

    Raises
    ------
    ValueError
        If the text or a setting is refused, the two models' tokenizers differ, or the endpoint has no ``/scores``.
    """
    digest, n_documents = hashlib.sha256(), 0
    for each in stream(text, max_docs):  # all is read once, so that an error is raised before anything slow begins
        raw = each.encode("utf-8", "surrogatepass")
        digest.update(f"{n_documents} {len(raw)} ".encode() + raw)
        n_documents += 1
    facts = [client.models.retrieve(each).model_dump() for each in (model, base) if each]
    if len({(each.get("vocab_tokens"), each.get("tokenizer")) for each in facts}) > 1:
        raise ValueError(f"{model} and {base} have different tokenizers: there is no divergence between them")
    if not (vocab_tokens := int(facts[0].get("vocab_tokens") or 0)):
        raise ValueError(f"the endpoint does not report the vocabulary of {model}: serve it with tuning-server serve")
    window = window or min(int(each.get("context_tokens") or 0) for each in facts)
    stride, begin = stride or window, begin_token(client, model)
    if not 1 <= stride <= window:
        raise ValueError(f"stride is {stride}, window is {window}: expected a stride from 1 up to the window")
    settings: dict[str, Any] = {
        "weights": [str(each.get("fingerprint") or each.get("id")) for each in facts],
        "source": digest.hexdigest()[:16], "begin": begin, "window": window, "stride": stride,
        "n_resamples": n_resamples, "seed": seed,
    }  # fmt: skip
    path = folder / f"{content_hash(settings)}.npz"
    write_json(path.with_suffix(".json"), {"model": model, "base": base} | settings)
    totals = Totals(vocab_tokens, n_resamples, seed)
    if path.is_file():
        totals.load(path)
    names = {"statistics": [*STATISTICS, "kl"], "base": base} if base else {"statistics": list(STATISTICS)}
    body = {"model": model, "window_tokens": window, "stride_tokens": stride} | names
    left = islice(enumerate(stream(text, max_docs)), len(totals.rows), None)
    groups = _groups(client, model, left, most=max(1, REPLY_BYTES // (4 * vocab_tokens)))

    def scored(group: list[Document]) -> tuple[list[Document], dict[str, np.ndarray]]:
        return group, request_scores(client, body | {"documents": [[begin, *each.ids] for each in group]})

    saved = time.monotonic()
    with progress(n_documents, description, unit="document") as bar:
        for group, reply in in_order(scored, groups, 2):  # one request is answered while the next is prepared
            totals.add(group, reply)
            bar.update(len(totals.rows) - bar.n)
            if time.monotonic() - saved > SAVE_SECONDS:
                totals.save(path)
                saved = time.monotonic()
    totals.save(path)
    if not totals.documents["tokens"].sum():
        raise ValueError(f"nothing of {text} was scored: its {n_documents} documents have no tokens")
    return totals


def begin_token(client: OpenAI, model: str) -> int:
    """The token that begins a text: what the tokenizer puts in front of one by itself, else its end-of-text token."""
    bare, whole = (_tokenize(client, model, "a", special)["tokens"] for special in (False, True))
    if len(whole) > len(bare) and whole[-len(bare) :] == bare:
        return int(whole[-len(bare) - 1])
    ends = _tokenize(client, model, END_OF_TEXT)["tokens"]
    if len(ends) != 1:
        raise ValueError(f"the tokenizer of {model} has no token that begins a text")
    return int(ends[0])


def _tokenize(client: OpenAI, model: str, text: str, special: bool = False) -> dict[str, Any]:
    body = {"model": model, "prompt": text, "add_special_tokens": special}
    return dict(post(client, "/tokenize", body).json())


def _groups(client: OpenAI, model: str, texts: Iterable[tuple[int, str]], *, most: int) -> Iterator[list[Document]]:
    """Documents that are sent together; one that is too long for a request is alone."""
    group: list[Document] = []
    for number, text in texts:
        found = _tokenize(client, model, text)
        n_tokens = sum(len(each.ids) for each in group) + len(found["tokens"])
        if group and (len(group) == most or n_tokens > REQUEST_TOKENS):
            yield group
            group = []
        group.append(Document(number, found["tokens"], found["n_bytes"]))
    if group:
        yield group


def log_probs(client: OpenAI, model: str, text: str) -> np.ndarray:
    """Log-probabilities (nats) of all tokens at every position of a short text, shape (tokens, vocabulary)."""
    document = [begin_token(client, model), *_tokenize(client, model, text)["tokens"]]
    window = {"window_tokens": len(document), "stride_tokens": len(document)}
    body = {"model": model, "documents": [document], "full": True, **window}
    return request_scores(client, body)["logprobs"].astype(float)
