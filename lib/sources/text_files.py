"""Read the texts of files: ``.jsonl`` and ``.jsonl.zst`` line by line, however large; other files whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from lib.paths import numbered_rows

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst", ".zst")
BLOCK_BYTES = 2**16  # of a file at a time


def files_below(path: Path) -> list[Path]:
    """The file itself, or all files of a folder that can hold text, by name.

    Raises
    ------
    ValueError
        If there is no such file or folder.
    """
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}")
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))


def whole_text(file: Path) -> str:
    """All text of one file.

    Raises
    ------
    ValueError
        If it cannot be read, is cut short or is not UTF-8.
    """
    try:
        return b"".join(_blocks(file)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}): convert it first") from error


def line_texts(file: Path) -> Iterator[tuple[int, str]]:
    """Number of the line and field ``text`` of each JSON line; little is held at a time.

    Raises
    ------
    ValueError
        If the file cannot be read or is cut short, or a line is no JSON object with a string field ``text``; names the
        line.
    """
    for number, row in numbered_rows(_lines(_blocks(file)), name=str(file)):
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{file}, line {number}: expected an object with a string field 'text'")
        yield number, row["text"]


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def _blocks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as source:
            blocks = iter(partial(source.read, BLOCK_BYTES), b"")
            yield from _decompressed(blocks) if file.suffix == ".zst" else blocks
    except Exception as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _decompressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """All frames of a .zst file; one that is cut short is an error, which the library's own reader passes over."""
    import zstandard

    frame = None
    for block in blocks:
        left = block
        while left:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(left)
            left, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise ValueError("the compressed file is cut short")
