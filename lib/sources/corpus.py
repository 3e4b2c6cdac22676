"""Text from anywhere as documents: ``.txt``, ``.jsonl``, ``.jsonl.zst`` (field ``text``) or a folder of them.

A document is drawn, split and resampled as one; training examples are cut from the documents of one split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.sources.duplicates import SIMILARITY, near_duplicates
from lib.sources.text_files import SUFFIXES, files_below, holds_lines, line_texts, whole_text

CUTS = ("auto", "file", "heading", "paragraphs")
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


def read_documents(path: Path, *, document: str = "auto", max_paragraphs: int = MAX_PARAGRAPHS) -> list[Document]:
    """All of `stream_documents` at once."""
    return list(stream_documents(path, document=document, max_paragraphs=max_paragraphs))


def stream_documents(
    path: Path, *, document: str = "auto", max_paragraphs: int = MAX_PARAGRAPHS, keep_blank: bool = False
) -> Iterator[Document]:
    """Every document below a path, in the order of the file names; of JSON lines, one is held at a time.

    Parameters
    ----------
    path : a file or a folder
    document : what one is in a ``.txt`` file (a line of ``.jsonl`` always is one)
        ``file``: all of it. ``heading``: a run of paragraphs from one heading line to the next. ``paragraphs``: a run
        of paragraphs wherever it begins. ``auto``: ``heading`` for a file of more than `max_paragraphs`, else ``file``.
    max_paragraphs : a run with more is cut into runs of nearly equal length; a paragraph is a line that is not blank
    keep_blank : count a JSON line whose text is blank as a document, too

    Raises
    ------
    ValueError
        If there is nothing to read, or a file is not UTF-8 or not the JSON lines that its name promises.
    """
    if document not in CUTS:
        raise ValueError(f"document = {document!r}: expected one of {', '.join(CUTS)}")
    if max_paragraphs < 1:
        raise ValueError(f"max_paragraphs = {max_paragraphs}: expected at least 1")
    is_empty = True
    for file in files_below(path):
        name = file.relative_to(path) if file != path else file.name
        for line, text in _read_file(file, document, max_paragraphs, keep_blank):
            yield Document(f"{name}:{line}", text)
            is_empty = False
    if is_empty:
        raise ValueError(f"no text in {path}: expected {', '.join(SUFFIXES)} with at least one document")


def _read_file(file: Path, document: str, max_paragraphs: int, keep_blank: bool) -> Iterator[tuple[int, str]]:
    """Documents of one file, each with the number of its first line."""
    if holds_lines(file):
        yield from line_texts(file, keep_blank=keep_blank)
        return
    lines = enumerate(whole_text(file).splitlines(), start=1)
    for run in _runs([(number, line) for number, line in lines if line.strip()], document, max_paragraphs):
        yield run[0][0], "\n".join(line for _, line in run)


Paragraphs = list[tuple[int, str]]  # number of the line, the line


def _runs(paragraphs: Paragraphs, document: str, max_paragraphs: int) -> Iterator[Paragraphs]:
    if document == "file" or (document == "auto" and len(paragraphs) <= max_paragraphs):
        yield from [paragraphs] if paragraphs else []
        return
    for section in [paragraphs] if document == "paragraphs" else _sections(paragraphs):
        n_runs = -(-len(section) // max_paragraphs)
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


def split_documents(
    documents: Sequence[Document],
    *,
    shares: Sequence[float],
    rng: np.random.Generator,
    groups: Sequence[Sequence[int]] = (),
) -> list[list[Document]]:
    """Draw documents into parts, each in the order that the documents came in.

    Parameters
    ----------
    shares : of the documents that each part gets, at least one each; sum to 1
    groups : indices into `documents` that stay together; one too large for a part's share goes to the first part

    Raises
    ------
    ValueError
        If there are fewer documents (a group counts as one) than parts, or the shares are none.
    """
    if min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"shares {tuple(shares)}: expected numbers above 0 that sum to 1")
    grouped = {index for group in groups for index in group}
    units = sorted([*map(list, groups), *([index] for index in range(len(documents)) if index not in grouped)])
    if len(units) < len(shares):
        alike = f" ({len(units)} when near-duplicates count as one)" if grouped else ""
        raise ValueError(
            f"{len(documents)} documents{alike} cannot be split in {len(shares)}, expected at least {len(shares)}: "
            "give more text, or cut it finer with document='paragraphs' or a lower max_paragraphs"
        )
    left = [units[k] for k in rng.permutation(len(units))]
    parts: list[list[int]] = []
    for part in range(len(shares) - 1, 0, -1):
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
    return [[documents[index] for index in sorted(part)] for part in reversed(parts)]


def split_three(
    documents: Sequence[Document],
    *,
    rng: np.random.Generator,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    similarity: float = SIMILARITY,
) -> Splits:
    """Draw documents for tuning, validation and test; near-duplicates stay on one side.

    Parameters
    ----------
    shares : of the documents, for tuning, validation and test; the default is the published one
    similarity : the least Jaccard index of the word 5-grams of near-duplicates

    Raises
    ------
    ValueError
        If there are fewer than three documents, near-duplicates counted as one.
    """
    groups = near_duplicates([document.text for document in documents], similarity=similarity)
    tuning, validation, test = split_documents(documents, shares=shares, rng=rng, groups=groups)
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
    if n_words < 1 or max_examples < 0:
        raise ValueError(f"n_words = {n_words}, max_examples = {max_examples}: expected at least 1 and at least 0")
    found = []
    for document in documents:
        words = document.text.split(" ")
        starts = range(0, len(words) - n_words + 1, n_words) or range(1)
        found += [" ".join(words[start : start + n_words]) for start in starts]
    return found[:max_examples] if max_examples else found


def published_segments(text: str, *, n_samples: int = 5_000, n_words: int = 0, max_examples: int = 0) -> list[str]:
    """Cut one string as the published tuning file was, whatever documents it holds.

    Parameters
    ----------
    n_samples : segments begin every ``step = words // n_samples`` words, and stop one step before the end
    n_words : of a segment; 0 takes `step`, more lets segments overlap
    max_examples : keep the first ones only; 0 keeps all

    Raises
    ------
    ValueError
        If the text has fewer words than `n_samples`.

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
    if not step:
        raise ValueError(f"{len(words)} words cannot begin {n_samples} segments: give more text or fewer n_samples")
    found = [" ".join(words[start : start + (n_words or step)]) for start in range(0, len(words) - step, step)]
    return found[:max_examples] if max_examples else found
