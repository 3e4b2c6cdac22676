"""Which bytes a token stands for, so that texts, stop strings and character offsets are exact.

What a model's tokenizer is, read from its files: whether two models share one is asked before either is loaded."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tuning_server.disk import content_hash, file_hash

BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Printable stand-ins that byte-level BPE writes for the 256 bytes (Radford et al. 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + k): byte for k, byte in enumerate(others)}


class TokenCodec:
    """Texts as token ids and back, character by character.

    Two things that a tokenizer puts in front of a text belong to no text: its begin-of-text token, and the space with
    which SentencePiece begins a text. The space is put in front of the whole text only, never after a special token
    that is written out in it.

    Parameters
    ----------
    tokenizer : a fast tokenizer; byte-level BPE (GPT-2, GPT-NeoX, Qwen, Llama 3) or SentencePiece-like (Llama 2)
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        self._labels: dict[int, str] = {}
        plain = self._plain_ids("a")
        ids = list(tokenizer.encode("a"))
        n_front = next((k for k in range(len(ids)) if ids[k : k + len(plain)] == plain), 0)
        self.front = ids[:n_front]  # special tokens that the tokenizer puts in front of every text
        self._begin = self.front or [tokenizer.eos_token_id]  # what a document begins with
        self._adds_space = bool(plain) and self[plain[0]].startswith(b" ")

    def _plain_ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @cached_property
    def _alphabet(self) -> dict[str, int] | None:
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        decoder = json.loads(backend.to_str()).get("decoder") if backend is not None else None
        return _byte_level_alphabet() if "ByteLevel" in json.dumps(decoder) else None

    @cached_property
    def _added(self) -> dict[int, str]:
        return {index: token.content for index, token in self.tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _spaceless(self) -> Tokenizer:
        """The same tokenizer, without the space that it puts in front of a text."""
        about = json.loads(self.tokenizer.backend_tokenizer.to_str())
        about |= {name: _without_space(about[name]) for name in ("normalizer", "pre_tokenizer")}
        return Tokenizer.from_str(json.dumps(about | {"truncation": None, "padding": None}))

    def encode(self, text: str) -> list[int]:
        """Ids of a text that goes on from another one: nothing is put in front."""
        if not self._adds_space:
            return self._plain_ids(text)
        return list(self._spaceless.encode(text, add_special_tokens=False).ids)

    def encode_document(self, text: str) -> list[int]:
        """Ids of a text that nothing stands before, without the begin-of-text token."""
        begins_with_space = self._adds_space and text and not text.startswith(tuple(self._added.values()))
        return self.encode(f" {text}" if begins_with_space else text)

    def __getitem__(self, token_id: int) -> bytes:
        """Bytes that a token adds within a text; empty for ids beyond the vocabulary (padded outputs)."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find(token_id)
        return known

    def _find(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.tokenizer.convert_ids_to_tokens(token_id) if token_id < len(self.tokenizer) else None
        if piece is None:
            return b""
        if self._alphabet is not None:
            return bytes(self._alphabet[letter] for letter in piece)
        fallback = BYTE_FALLBACK.fullmatch(piece)
        return bytes([int(fallback[1], 16)]) if fallback else piece.replace("▁", " ").encode()

    def pieces(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> list[bytes]:
        """Bytes that each token adds to the text that begins with the tokens `after`.

        The begin-of-text token in front, and the space that a tokenizer puts in front of a text, add nothing.
        """
        pieces, n_front = [self[i] for i in ids], len(self.front)
        at_start = not after or list(after) == self._begin
        if not after and list(ids[:n_front]) == self.front:
            pieces[:n_front] = [b""] * n_front
        else:
            n_front = 0
        if at_start and self._adds_space and len(pieces) > n_front and ids[n_front] not in self._added:
            pieces[n_front] = pieces[n_front].removeprefix(b" ")
        return pieces

    def text(self, ids: Sequence[int]) -> str:
        """Text of the tokens of a document; bytes that are not UTF-8 become the replacement character."""
        return as_text(b"".join(self.pieces(ids)))

    def label(self, token_id: int) -> str:
        """Name of one token as the API writes it; see `label`."""
        known = self._labels.get(token_id)
        if known is None:
            known = self._labels[token_id] = label(self[token_id])
        return known


def _without_space(part: Any) -> Any:
    """Settings of a tokenizer's normalizer or pre-tokenizer, changed to put no space in front of a text."""
    if isinstance(part, list):
        return [_without_space(one) for one in part if one.get("type") != "Prepend"]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    parts = ("normalizers", "pretokenizers")
    return {name: changed.get(name, _without_space(value) if name in parts else value) for name, value in part.items()}


def as_text(raw: bytes) -> str:
    """Text of bytes; those that are not UTF-8 become the replacement character."""
    return raw.decode("utf-8", errors="replace")


def label(raw: bytes) -> str:
    r"""Name of a token as the API writes it: its text, or ``bytes:\x..`` if it is part of a character.

    >>> label(b" fox"), label("é".encode()[:1])
    (' fox', 'bytes:\\xc3')
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def offsets(pieces: Sequence[bytes]) -> list[int]:
    """Character at which each token begins, of the bytes of each; a token inside a character has that one's offset."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    found, n_chars = [], 0
    for raw in pieces:
        begun = bool(decoder.getstate()[0])
        goes_on = not raw or 0x80 <= raw[0] < 0xC0
        found.append(n_chars + (begun and not goes_on))  # a character that is broken off still takes an offset
        n_chars += len(decoder.decode(raw))
    return found


CUTTING = ("normalizer", "pre_tokenizer", "decoder")  # what else decides which ids a text becomes
PLAIN_FILES = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")  # where there is no fast one

_known: dict[tuple[str, int, int], tuple[str, int | None]] = {}


def describe(folder: Path) -> tuple[str, int | None]:
    """Hash of a tokenizer (vocabulary, merges, ids of special tokens) and its number of tokens, where its files tell.

    Settings of use are left out (padding, the longest input, which special token ends a text): a fine-tune keeps the
    hash of its parent.
    """
    fast = folder / "tokenizer.json"
    if not fast.is_file():
        files = [folder / name for name in PLAIN_FILES if (folder / name).is_file()]
        return content_hash([file_hash(file) for file in files]), None
    stat = fast.stat()
    key = (str(fast.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _known:
        _known[key] = _read(folder)
    return _known[key]


def _read(folder: Path) -> tuple[str, int]:
    # as the library writes it today: older versions wrote the same merges and settings in other words
    try:
        about = json.loads(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
    except Exception as error:  # the library raises no other kind
        raise ValueError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    added = {str(token["content"]): int(token["id"]) for token in about.get("added_tokens") or []}
    model = about.get("model") or {}
    vocabulary: Any = model.get("vocab") or {}
    ids = vocabulary if isinstance(vocabulary, dict) else {piece: k for k, (piece, *_) in enumerate(vocabulary)}
    parts = [ids, model.get("merges"), added, *(about.get(name) for name in CUTTING)]
    return content_hash(parts), len(ids | added)
