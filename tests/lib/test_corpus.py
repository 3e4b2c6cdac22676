"""Documents come whole out of every kind of file, a broken one is named, and what is alike stays on one side."""

from __future__ import annotations

import json
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sources import corpus
from lib.sources.corpus import Document, published_segments, read_documents, segments, split_three, stream_documents
from lib.sources.duplicates import near_duplicates

WORDS = [f"{a}{b}" for a in ("lan", "mo", "ri", "tu", "se", "po", "ka", "wen") for b in ("tern", "ver", "bo", "dle")]


def write_text(rng: np.random.Generator, n_words: int) -> str:
    return " ".join(rng.choice(WORDS, n_words))


def written(rng: np.random.Generator, n: int, *, n_words: int = 60) -> list[Document]:
    return [Document(f"text:{k}", write_text(rng, n_words)) for k in range(n)]


def names(documents: list[Document]) -> list[str]:
    return [document.name for document in documents]


def test_all_kinds_of_files_give_their_documents(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"text": f"row {k}\nwith é\u2028"}, ensure_ascii=False) for k in range(3))
    (tmp_path / "a.jsonl").write_text(lines + '\n\n{"text": " "}\n', encoding="utf-8")
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (tmp_path / "c.txt").write_text("\ufeff" + "\n\n".join(f"paragraph {k}" for k in range(95)), encoding="utf-8")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jsonl").write_text('{"text": "below"}')
    documents = read_documents(tmp_path)
    assert len(list(stream_documents(tmp_path))) == len(documents) + 1, "a blank one counts there"
    rows = [f"row {k}\nwith é\u2028" for k in range(3)]
    assert [d.text for d in documents[:3]] == [d.text for d in documents[3:6]] == rows
    assert documents[6].text.startswith("paragraph 0\nparagraph 1\n")
    assert [d.text.count("paragraph") for d in documents[6:9]] == [31, 32, 32], "at most 40, and no stump"
    assert names(documents)[2:] == [
        *("a.jsonl:3", "b.jsonl.zst:1", "b.jsonl.zst:2", "b.jsonl.zst:3"),
        *("c.txt:1", "c.txt:63", "c.txt:127", "d/a.jsonl:1"),
    ]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b" \n\n", "no text in"),
        ("a.jsonl", b'{"text": "x"}\n{', "line 2: not JSON"),
        ("a.jsonl", b'{"words": 3}', "line 1: expected an object with a string field 'text'"),
        ("a.jsonl", b'{"text": ""}', "no text in"),
        ("a.jsonl.zst", zstandard.compress(b'{"text": "x"}' * 1000)[:20], "a.jsonl.zst"),
        ("a.bin", b"", "no text in"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A title page, three tales of 8, 30 and 8 paragraphs, one with a heading below its heading, and an end."""
    rng = np.random.default_rng(0)
    lines = ["TALES FOR TUESDAYS", "By Nobody"]
    for title, n_paragraphs in (("THE OLD FOX", 8), ("Chapter 2", 30), ("III.", 8)):
        lines += [title, *(["1. HOW HE WENT OUT"] if title == "III." else [])]
        lines += [f"{write_text(rng, 20)}." for _ in range(n_paragraphs)]
    lines += ["“NEVER”", "THE END"]
    (tmp_path / "book.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return tmp_path / "book.txt"


def test_a_long_file_is_cut_at_its_headings(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = read_documents(book)
    assert names(documents) == ["book.txt:1", "book.txt:23", "book.txt:85"]
    assert [d.text.split("\n")[0] for d in documents] == ["TALES FOR TUESDAYS", "Chapter 2", "III."]
    assert documents[0].text.split("\n")[:3] == ["TALES FOR TUESDAYS", "By Nobody", "THE OLD FOX"]
    assert documents[2].text.split("\n")[1] == "1. HOW HE WENT OUT", "a heading below a heading opens no document"
    assert documents[2].text.endswith("“NEVER”\nTHE END")
    whole = "\n".join(line for line in book.read_text().splitlines() if line)
    assert "\n".join(d.text for d in documents) == whole
    monkeypatch.setattr(corpus, "MAX_PARAGRAPHS", 10)
    finer = read_documents(book)
    assert [d.text.count("\n") + 1 for d in finer] == [5, 6, 7, 8, 8, 8, 6, 6], "a tale of more than 10 is cut evenly"


def test_what_a_document_is_can_be_chosen(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(read_documents(book, document="file")) == ["book.txt:1"]
    assert [d.text.count("\n") + 1 for d in read_documents(book, document="paragraphs")] == [27, 27]
    for k in range(3):
        (tmp_path / f"tale{k}.txt").write_text("A TALE\nIt begins.\nIt ends.")
    assert names(read_documents(tmp_path))[3:] == ["tale0.txt:1", "tale1.txt:1", "tale2.txt:1"]
    monkeypatch.setattr(corpus, "MAX_PARAGRAPHS", 54)
    assert len(read_documents(book)) == 1, "a file that is not long is one document"
    assert len(read_documents(book, document="heading")) == 3


@given(
    st.lists(st.sampled_from(["THE OLD FOX", "Chapter 2", "he sang " * 40, "no."]), min_size=1, max_size=60),
    st.sampled_from(["auto", "file", "heading", "paragraphs"]),
    st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_cutting_loses_no_paragraph(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], document: str, max_paragraphs: int
) -> None:
    file = tmp_path_factory.mktemp("cut") / "a.txt"
    file.write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "MAX_PARAGRAPHS", max_paragraphs)
        documents = read_documents(file, document=document)
    assert "\n".join(d.text for d in documents).split("\n") == lines
    assert all(lines[int(d.name.split(":")[1]) - 1] == d.text.split("\n")[0] for d in documents)
    if document != "file":
        assert max(d.text.count("\n") + 1 for d in documents) <= max_paragraphs


def test_a_split_loses_and_doubles_nothing() -> None:
    documents = written(np.random.default_rng(1), 100)
    splits = split_three(documents, shares=(0.7, 0.2, 0.1), rng=np.random.default_rng(0))
    drawn = [f"text:{k}" for k in np.random.default_rng(0).permutation(100)]
    assert sorted(names(splits.test)) == sorted(drawn[:10])
    assert sorted(names(splits.validation)) == sorted(drawn[10:30])
    aside = splits.validation + splits.test
    assert splits.tuning == [each for each in documents if each not in aside], "in the order that they came in"
    tiny = split_three(documents[:3], shares=(0.01, 0.01, 0.98), rng=np.random.default_rng(0))
    assert [len(part) for part in (tiny.tuning, tiny.validation, tiny.test)] == [1, 1, 1]


def test_near_duplicates_stay_on_one_side() -> None:
    rng = np.random.default_rng(2)
    documents = written(rng, 40)
    for k in range(0, 20, 2):  # each even one is told again with two words changed
        words = documents[k].text.split()
        words[3], words[30] = "elephant", "giraffe"
        documents[k + 1] = Document(f"text:{k + 1}", "\n".join(words).upper() + "!")
    for seed in range(20):
        splits = split_three(documents, rng=np.random.default_rng(seed))
        assert [names(group) for group in splits.duplicates] == [
            [f"text:{k}", f"text:{k + 1}"] for k in range(0, 20, 2)
        ]
        sides = {d.name: side for side in ("tuning", "validation", "test") for d in getattr(splits, side)}
        assert len(sides) == 40
        assert all(sides[a.name] == sides[b.name] for a, b in splits.duplicates)
        assert [len(side) for side in (splits.tuning, splits.validation, splits.test)] == [24, 8, 8]


def test_too_few_documents_say_how_many_came_and_are_needed() -> None:
    documents = written(np.random.default_rng(3), 3)
    assert len(split_three(documents, rng=np.random.default_rng(0)).tuning) == 1
    with pytest.raises(
        ValueError, match="^2 documents cannot be split in 3, expected at least 3: give more text, or cut a long .txt"
    ):
        split_three(documents[:2], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^4 documents \(2 when near-duplicates count as one\) cannot be split in 3"):
        split_three([*documents[:2], *documents[:2]], rng=np.random.default_rng(0))


def test_a_large_group_of_duplicates_does_not_become_the_test_set() -> None:
    documents = written(np.random.default_rng(4), 10)
    documents = [*documents, *(Document(f"copy:{k}", documents[0].text) for k in range(10))]
    for seed in range(10):
        splits = split_three(documents, rng=np.random.default_rng(seed))
        assert (len(splits.validation), len(splits.test)) == (4, 4)
        assert sum(name.startswith("copy") for name in names(splits.tuning)) == 10


def plain_jaccard(one: str, other: str) -> float:
    sets = []
    for text in (one, other):
        words = text.lower().split() or [""]
        sets.append({tuple(words[k : k + 5]) for k in range(max(1, len(words) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=9), st.sampled_from([0.2, 0.5, 1.0])
)
@settings(max_examples=150, deadline=None)
def test_near_duplicates_are_those_of_the_plain_definition(texts: list[str], similarity: float) -> None:
    groups = [{k} for k in range(len(texts))]
    for j, k in combinations(range(len(texts)), 2):
        if plain_jaccard(texts[j], texts[k]) >= similarity and not any({j, k} <= group for group in groups):
            joined = [group for group in groups if j in group or k in group]
            groups = [group for group in groups if group not in joined] + [set.union(*joined)]
    expected = sorted(sorted(group) for group in groups if len(group) > 1)
    assert near_duplicates(texts, similarity=similarity) == expected


def test_memory_does_not_grow_with_the_pairs() -> None:
    """All texts share one sentence: every pair has something in common, and none is alike."""
    rng = np.random.default_rng(5)
    opening = "once upon a time there was an old fox "
    peaks = []
    for n in (1_000, 4_000):
        texts = [opening + " ".join(map(str, rng.integers(0, 10_000, 30))) for _ in range(n)]
        tracemalloc.start()
        assert near_duplicates(texts) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 8 * peaks[0], "four times the texts, sixteen times the pairs"


def test_similarity_has_a_range() -> None:
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        near_duplicates(["a"], similarity=0)


def test_segments_stay_in_their_documents() -> None:
    documents = [
        Document("a", " ".join(f"a{k}" for k in range(10))),
        Document("b", "b0\nb1 b2"),
        Document("c", "c0 c1 c2"),
    ]
    assert segments(documents, n_words=3) == ["a0 a1 a2", "a3 a4 a5", "a6 a7 a8", "b0\nb1 b2", "c0 c1 c2"]
    assert segments(documents, n_words=3, max_examples=2) == ["a0 a1 a2", "a3 a4 a5"]
    assert segments(documents, n_words=10)[0] == documents[0].text


def test_published_segments_are_cut_as_published() -> None:
    words = [f"w{k}" for k in range(5_000 * 3 + 1)]
    cut = published_segments(" ".join(words))
    assert len(cut) == 5_000
    assert (cut[0], cut[-1]) == ("w0 w1 w2", "w14997 w14998 w14999")
    assert published_segments(" ".join(words[:-1]))[-1] == "w14994 w14995 w14996", "it stops one step early"
    assert len(published_segments(" ".join(words), max_examples=7)) == 7
