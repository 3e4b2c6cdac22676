"""Text from anywhere as documents: ``.txt``, ``.jsonl``, ``.jsonl.zst`` (field ``text``) or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.paths import json_object

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".zst")
MAX_PARAGRAPHS = 40  # of one document cut from a long text


@dataclass(frozen=True)
class Document:
    """A text that is drawn, split and resampled as one. `name` tells where it comes from."""

    name: str
    text: str


def read_documents(path: Path, *, max_paragraphs: int = MAX_PARAGRAPHS) -> list[Document]:
    """Read every document below a path, in the order of the file names.

    Parameters
    ----------
    path : a file or a folder
    max_paragraphs : a ``.txt`` file with more lines is cut into runs of this many, each a document

    Raises
    ------
    ValueError
        If there is nothing to read, or a file is not UTF-8 or not the JSON lines that its name promises.
    """
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
    documents = [document for file in files for document in _read_file(file, max_paragraphs)]
    if not documents:
        raise ValueError(f"no text in {path}: expected {', '.join(SUFFIXES)} with at least one document")
    return documents


def _read_file(file: Path, max_paragraphs: int) -> Iterator[Document]:
    try:
        if file.suffix == ".zst":
            text = _decompress(file.read_bytes()).decode("utf-8")
        else:
            text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}): convert it first") from error
    except Exception as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if ".jsonl" in file.name:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield Document(f"{file.name}:{number}", _text_field(line, f"{file}, line {number}"))
        return
    paragraphs = [line for line in text.splitlines() if line.strip()]
    for start in range(0, len(paragraphs), max_paragraphs):
        yield Document(f"{file.name}:{start + 1}", "\n".join(paragraphs[start : start + max_paragraphs]))


def _decompress(raw: bytes) -> bytes:
    """All frames of a .zst file; one that is cut short is an error, which the library's own reader passes over."""
    import zstandard

    parts = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(raw))
        if not frame.eof:
            raise ValueError("the compressed file is cut short")
        raw = frame.unused_data
    return b"".join(parts)


def _text_field(line: str, where: str) -> str:
    try:
        row = json_object(line.encode())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(row.get("text"), str):
        raise ValueError(f"{where}: expected an object with a string field 'text'")
    return str(row["text"])


def split_documents(
    documents: Sequence[Document], *, share: float, rng: np.random.Generator
) -> tuple[list[Document], list[Document]]:
    """Put a random `share` of the documents (at least one) aside; returns what stays and what was put aside.

    Raises
    ------
    ValueError
        If there are fewer than two documents.
    """
    if len(documents) < 2:
        raise ValueError(f"{len(documents)} document cannot be split in two: give more text or a lower max_paragraphs")
    n_aside = min(max(1, round(share * len(documents))), len(documents) - 1)
    aside = set(rng.permutation(len(documents))[:n_aside].tolist())
    return (
        [document for k, document in enumerate(documents) if k not in aside],
        [document for k, document in enumerate(documents) if k in aside],
    )
