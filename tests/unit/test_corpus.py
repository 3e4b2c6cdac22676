"""Documents come whole out of every kind of file, and a broken one is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zstandard

from lib.corpus import read_documents, split_documents


def test_all_kinds_of_files_give_their_documents(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"text": f"row {k}\nwith é"}) for k in range(3))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (tmp_path / "c.txt").write_text("\n\n".join(f"paragraph {k}" for k in range(95)), encoding="utf-8")
    documents = read_documents(tmp_path, max_paragraphs=40)
    assert [d.text for d in documents[:3]] == [d.text for d in documents[3:6]] == [f"row {k}\nwith é" for k in range(3)]
    assert [d.text.count("paragraph") for d in documents[6:]] == [40, 40, 15]
    assert len({d.name for d in documents}) == len(documents)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{', "line 2: not JSON"),
        ("a.jsonl", b'{"words": 3}', "line 1: expected an object with a string field 'text'"),
        ("a.jsonl.zst", zstandard.compress(b'{"text": "x"}' * 1000)[:20], "a.jsonl.zst"),
        ("a.bin", b"", "no text in"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path)


def test_a_split_loses_and_doubles_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("\n".join(f"p {k}" for k in range(200)))
    documents = read_documents(tmp_path, max_paragraphs=2)
    kept, aside = split_documents(documents, share=0.1, rng=np.random.default_rng(0))
    assert len(aside) == 10
    assert sorted(d.name for d in kept + aside) == sorted(d.name for d in documents)
    with pytest.raises(ValueError, match="cannot be split"):
        split_documents(documents[:1], share=0.5, rng=np.random.default_rng(0))
