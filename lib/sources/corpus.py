"""Text from anywhere as documents: ``.txt``, ``.jsonl``, ``.jsonl.zst`` (field ``text``) or a folder of them.

A document is drawn, split and resampled as one; training examples are cut from the documents of one split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.sources.duplicates import near_duplicates
from lib.sources.text_files import SUFFIXES, files_below, line_texts, whole_text

EXPECTED = f"expected {', '.join(SUFFIXES)} with at least one document"
MAX_PARAGRAPHS = 40  # of one document cut from a long text
MAX_HEADING_CHARACTERS = 80
MIN_SECTION_WORDS = 100  # a title page, or a heading below a heading, stays with what follows

_COUNTED = re.compile(
    r"(?i:chapter|adventure|book|part|canto|tale)\s+"
    r"(\d+|[IVXLCDM]+|(?i:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve))\b(?P<title>.*)"
)
_ROMAN = re.compile(r"[IVXLC]+\.?")
_SENTENCE_ENDS = tuple(".!?,;:\"'”’»-")


@dataclass(frozen=True)
class Document:
    """A text that is drawn, split and resampled as one. `name` holds the file and the line where it begins."""

    name: str
    text: str


@dataclass(frozen=True)
class Splits:
    """Documents by their split; `duplicates` holds the groups of near-duplicates, each whole in one split."""

    tuning: list[Document]
    validation: list[Document]
    test: list[Document]
    duplicates: list[list[Document]]


def read_documents(path: Path, *, document: str = "auto") -> list[Document]:
    """All of `stream_documents` that are not blank, at once; at least one (else `ValueError`)."""
    documents = [each for each in stream_documents(path, document=document) if each.text.strip()]
    if not documents:
        raise ValueError(f"no text in {path}: {EXPECTED}")
    return documents


def stream_documents(path: Path, *, document: str = "auto") -> Iterator[Document]:
    """Every document below a path, in the order of the file names; of JSON lines, one is held at a time.

    Parameters
    ----------
    path : a file or a folder
    document : what one is in a ``.txt`` file (a line of ``.jsonl`` always is one, also where its text is blank)
        ``file``: all of it. ``heading``: a run of paragraphs from one heading line to the next. ``paragraphs``: a run
        of paragraphs wherever it begins. ``auto``: ``heading`` for a file of more than `MAX_PARAGRAPHS`, else ``file``.
        A run with more is cut into runs of nearly equal length; a paragraph is a line that is not blank.

    Raises
    ------
    ValueError
        If there is nothing to read, or a file is not UTF-8 or not the JSON lines that its name promises.
    """
    is_empty = True
    for file in files_below(path):
        name = file.relative_to(path) if file != path else file.name
        for line, text in line_texts(file) if ".jsonl" in file.name else _cut(whole_text(file), document):
            yield Document(f"{name}:{line}", text)
            is_empty = False
    if is_empty:
        raise ValueError(f"no text in {path}: {EXPECTED}")


def _cut(text: str, document: str) -> Iterator[tuple[int, str]]:
    """Documents of a text, each with the number of its first line."""
    lines = enumerate(text.splitlines(), start=1)
    for run in _runs([(number, line) for number, line in lines if line.strip()], document):
        yield run[0][0], "\n".join(line for _, line in run)


Paragraphs = list[tuple[int, str]]  # number of the line, the line


def _runs(paragraphs: Paragraphs, document: str) -> Iterator[Paragraphs]:
    if document == "file" or (document == "auto" and len(paragraphs) <= MAX_PARAGRAPHS):
        yield from [paragraphs] if paragraphs else []
        return
    for section in [paragraphs] if document == "paragraphs" else _sections(paragraphs):
        n_runs = -(-len(section) // MAX_PARAGRAPHS)
        for k in range(n_runs):
            yield section[k * len(section) // n_runs : (k + 1) * len(section) // n_runs]


def _sections(paragraphs: Paragraphs) -> list[Paragraphs]:
    sections: list[Paragraphs] = [[]]
    n_words = 0
    for number, line in paragraphs:
        if n_words >= MIN_SECTION_WORDS and is_heading(line):
            sections.append([])
            n_words = 0
        sections[-1].append((number, line))
        n_words += len(line.split())
    if len(sections) > 1 and n_words < MIN_SECTION_WORDS:
        last = sections.pop()
        sections[-1] += last
    return sections


def is_heading(line: str) -> bool:
    """Whether a line heads what follows: short, and in capitals, "Chapter 3" or a Roman number.

    >>> all(map(is_heading, ("THE GOLDEN BIRD", "Chapter 12", "ADVENTURE I. A SCANDAL IN BOHEMIA", "II.")))
    True
    >>> any(map(is_heading, ("DISSOLVED.", "“CAROLINE BINGLEY”", "Chapter 3 was dull.", "IS", "By Jane Austen")))
    False
    """
    line = line.strip()
    if not line or len(line) > MAX_HEADING_CHARACTERS or not line[0].isalnum():
        return False
    counted = _COUNTED.fullmatch(line)
    if _ROMAN.fullmatch(line) or (counted and counted["title"] in ("", ".", ":")):
        return True
    if line.endswith(_SENTENCE_ENDS):
        return False
    return bool(counted) or (line.isupper() and sum(character.isalpha() for character in line) > 2)


def split_three(
    documents: Sequence[Document], *, rng: np.random.Generator, shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
) -> Splits:
    """Draw documents for tuning, validation and test, each in the order that they came in.

    Near-duplicates stay on one side; a group of them that is too large for its split is tuned on.

    Parameters
    ----------
    shares : of the documents, for tuning, validation and test, at least one each; the default is the published one

    Raises
    ------
    ValueError
        If there are fewer than three documents, near-duplicates counted as one.
    """
    groups = near_duplicates([document.text for document in documents])
    grouped = {index for group in groups for index in group}
    units = sorted([*groups, *([index] for index in range(len(documents)) if index not in grouped)])
    if len(units) < 3:
        alike = f" ({len(units)} when near-duplicates count as one)" if groups else ""
        raise ValueError(
            f"{len(documents)} documents{alike} cannot be split in 3, expected at least 3: "
            "give more text, or cut a long .txt finer with document = 'paragraphs'"
        )
    left = [units[k] for k in rng.permutation(len(units))]
    parts: list[list[int]] = []
    for part in (2, 1):  # test, then validation; the rest is tuned on
        room = max(round(shares[part] * len(documents)), min(map(len, left)))
        chosen: list[int] = []
        kept: list[list[int]] = []
        n_spare = len(left) - part  # the parts before this one need a unit each
        for unit in left:
            if len(unit) <= room and n_spare:
                chosen += unit
                room, n_spare = room - len(unit), n_spare - 1
            else:
                kept.append(unit)
        parts.append(chosen)
        left = kept
    parts.append([index for unit in left for index in unit])
    test, validation, tuning = ([documents[index] for index in sorted(part)] for part in parts)
    return Splits(tuning, validation, test, [[documents[index] for index in group] for group in groups])


def segments(documents: Sequence[Document], *, n_words: int, max_examples: int = 0) -> list[str]:
    """Cut each document into consecutive segments of `n_words` words to tune on.

    Parameters
    ----------
    n_words : of a segment; words are separated by single spaces, so that line breaks stay
    max_examples : keep the first ones only; 0 keeps all

    Returns
    -------
    list of str
        A shorter rest is dropped; a document that is shorter than one segment is a segment by itself.

    >>> segments([Document("a", "one two three\\nfour five six"), Document("b", "seven")], n_words=2)
    ['one two', 'three\\nfour five', 'seven']
    """
    found = []
    for document in documents:
        words = document.text.split(" ")
        starts = range(0, len(words) - n_words + 1, n_words) or range(1)
        found += [" ".join(words[start : start + n_words]) for start in starts]
    return found[:max_examples] if max_examples else found


def published_segments(text: str, *, n_samples: int = 5_000, max_examples: int = 0) -> list[str]:
    """Cut one string as the published tuning file was, whatever documents it holds.

    Parameters
    ----------
    n_samples : at most the number of words; a segment has ``step = words // n_samples`` words, and the last one stops
        one step before the end
    max_examples : keep the first ones only; 0 keeps all

    Notes
    -----
    Segments straddle stories, and the last step of the text is never seen: `segments` does neither.

    >>> published_segments("a b c d e f g", n_samples=3)
    ['a b', 'c d', 'e f']
    >>> published_segments("a b c d e f", n_samples=3)
    ['a b', 'c d']
    """
    words = text.split(" ")
    step = len(words) // n_samples
    found = [" ".join(words[start : start + step]) for start in range(0, len(words) - step, step)]
    return found[:max_examples] if max_examples else found
