"""The documents to score: all of a source, its first ones or those of a list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from lib.paths import from_root, read_json
from lib.sources.corpus import Document, stream_documents

HUB = "hf:"


class Survey(NamedTuple):
    """Number of documents and a hash of their texts."""

    n_documents: int
    hash: str


@dataclass(frozen=True)
class Source:
    """Documents in their order, each with its number in the source; streamed, so that there may be any number.

    An empty text has a number too (as in published lists of numbers): `score` counts it as skipped.

    Parameters
    ----------
    text : a file or folder as `lib.sources.corpus.stream_documents` reads it, or ``hf:<data set>:<split>`` of the hub
    document : what a document of a ``.txt`` file is
    max_docs : the first ones only; 0 for all. Reading ends there
    documents : path of a JSON list of document numbers, counted from 0; empty for all

    Raises
    ------
    ValueError
        If `max_docs` and `documents` are both given, or the list is none.
    """

    text: str
    document: str = "auto"
    max_docs: int = 0
    documents: str = ""

    def __post_init__(self) -> None:
        if self.max_docs < 0:
            raise ValueError(f"max_docs = {self.max_docs}: expected at least 0 (for all)")
        if self.max_docs and self.documents:
            raise ValueError(f"max_docs = {self.max_docs} and documents = {self.documents!r}: give one of them")
        _ = self._listed

    @cached_property
    def _listed(self) -> frozenset[int]:
        """Numbers of the documents that a list names; empty for all."""
        if not self.documents:
            return frozenset()
        numbers = read_json(from_root(self.documents))
        if not isinstance(numbers, list) or not numbers or not all(type(k) is int and k >= 0 for k in numbers):
            raise ValueError(f"{self.documents}: expected a JSON list of document numbers, each a whole number from 0")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{self.documents} names a document twice: {len(numbers) - len(set(numbers))} too many")
        return frozenset(numbers)

    def __iter__(self) -> Iterator[tuple[int, Document]]:
        if self.text.startswith(HUB):
            stream = _hub_documents(self.text)
        else:
            stream = stream_documents(from_root(self.text), document=self.document, keep_blank=True)
        end = self.max_docs or (max(self._listed) + 1 if self._listed else 0)
        n_read = 0
        for number, found in enumerate(stream):
            n_read = number + 1
            if not self._listed or number in self._listed:
                yield number, found
            if n_read == end:
                return
        if self._listed:
            raise ValueError(f"{self.documents} asks for document {end - 1}, {self.text} has 0 to {n_read - 1}")

    def survey(self) -> Survey:
        """Read all documents once, so that an error is raised before anything slow begins.

        Raises
        ------
        ValueError
            What reading finds: a line that is not JSON, a file cut short, a number beyond the last document.
        """
        digest, n_documents = hashlib.sha256(), 0
        for number, found in self:
            raw = found.text.encode("utf-8", "surrogatepass")
            digest.update(f"{number} {len(raw)} ".encode() + raw)
            n_documents += 1
        if not n_documents:
            raise ValueError(f"{self.text} has no documents")
        return Survey(n_documents, digest.hexdigest()[:16])


def _hub_documents(name: str) -> Iterator[Document]:
    try:
        import datasets
    except ImportError as error:
        message = f"{name}: data sets of the hub need a package (pip install -e .[hub]); or give a file or a folder"
        raise ValueError(message) from error
    path, _, split = name.removeprefix(HUB).partition(":")
    for number, row in enumerate(datasets.load_dataset(path, split=split or "validation", streaming=True)):
        text = row.get("text")
        if not isinstance(text, str):
            raise ValueError(f"{name}, row {number}: expected a string field 'text', found {', '.join(row)}")
        yield Document(f"{path}:{number}", text)
