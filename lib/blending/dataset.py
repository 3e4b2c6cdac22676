"""What the blending study reads: documents, what each is for, and the rows that a model is tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import world
from lib.paths import from_root, read_jsonl, write_json, write_jsonl
from lib.sources import corpus
from lib.sources.corpus import Document

SPLITS = ("tuning", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Documents by what they are for, the rows to tune on, and how many near-duplicates were kept together."""

    documents: Mapping[str, list[Document]]
    training_rows: list[dict[str, str]]
    n_duplicates: int = 0


def make_dataset(params: Mapping[str, Any]) -> Dataset:
    """Read or write the stories, split them by document, and cut the tuning ones into rows.

    Parameters
    ----------
    params : values of the study: ``stories``, ``document``, ``n_documents``, ``validation_share``, ``test_share``,
        ``segment_words``, ``segments``, ``max_tune_examples``, ``data_seed``

    Raises
    ------
    ValueError
        If there is no text, there are fewer documents than splits, or nothing is left to tune on.
    """
    documents = _documents(params)
    shares = (params["validation_share"], params["test_share"])
    if sum(shares) >= 1:
        raise ValueError(f"validation_share and test_share sum to {sum(shares):g}: expected less than 1")
    rng = np.random.default_rng(params["data_seed"])
    splits = corpus.split_three(documents, shares=(1 - sum(shares), *shares), rng=rng)
    n_words, most = params["segment_words"], params["max_tune_examples"]
    if params["segments"] == "published":
        text = "\n".join(document.text for document in splits.tuning)
        n_samples = max(1, len(text.split(" ")) // n_words)
        segments = corpus.published_segments(text, n_samples=n_samples, max_examples=most)
    else:
        segments = corpus.segments(splits.tuning, n_words=n_words, max_examples=most)
    if not segments:
        raise ValueError(
            f"the tuning documents hold no segment of {n_words} words: lower segment_words or give more text"
        )
    rows = [{"prompt": "", "completion": f" {segment}"} for segment in segments]
    by_split = {split: getattr(splits, split) for split in SPLITS}
    return Dataset(by_split, rows, sum(map(len, splits.duplicates)))


def _documents(params: Mapping[str, Any]) -> list[Document]:
    if params["stories"]:
        return corpus.read_documents(from_root(params["stories"]), document=params["document"])
    # seed 0 of the world wrote the stories that the bases were pre-trained on
    written = world.stories(params["data_seed"] + 1, params["n_documents"])
    return [Document(f"story:{k}", story.text) for k, story in enumerate(written)]


def write_dataset(data: Dataset, folder: Path) -> None:
    """Write ``documents.jsonl`` (name, split, text), ``train.jsonl`` and ``validation.jsonl`` (rows to tune on)."""
    rows = [{"name": d.name, "split": split, "text": d.text} for split in SPLITS for d in data.documents[split]]
    write_jsonl(folder / "documents.jsonl", rows)
    write_jsonl(folder / "train.jsonl", data.training_rows)
    first = [{"prompt": "", "completion": f" {_opening(d.text)}"} for d in data.documents["validation"]]
    write_jsonl(folder / "validation.jsonl", first)
    write_json(folder / "about.json", {"n_duplicates": data.n_duplicates})


def _opening(text: str, n_words: int = 200) -> str:
    return " ".join(text.split(" ")[:n_words])


def read_split(folder: Path, split: str) -> list[Document]:
    """Documents of one split, as `write_dataset` wrote them."""
    rows = read_jsonl(folder / "documents.jsonl")
    return [Document(row["name"], row["text"]) for row in rows if row["split"] == split]


def split_table(data: Dataset) -> pd.DataFrame:
    """Documents, words and bytes of each split."""
    rows = [
        {
            "split": split,
            "documents": len(documents),
            "words": sum(len(d.text.split()) for d in documents),
            "bytes": sum(len(d.text.encode()) for d in documents),
        }
        for split, documents in data.documents.items()
    ]
    return pd.DataFrame(rows).set_index("split")
