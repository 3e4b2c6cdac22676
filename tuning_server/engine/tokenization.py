"""Texts and conversations as token ids, and token ids as bytes, so that texts, stops and offsets are exact."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tuning_server.disk import content_hash, file_hash

BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CUTTING = ("normalizer", "pre_tokenizer", "decoder")  # what else decides which ids a text becomes
PLAIN_FILES = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")  # where there is no fast one

Turn = Mapping[str, str]  # role (system, user, assistant) and content
# The speakers of the world's conversations (data/world/questions.yaml), so that a base has read the form before.
SPEAKERS = {"user": "Guest", "assistant": "Host"}
LEAD = " "  # between the assistant's name and its words; belongs to neither
LINE_END = "\n"


class TokenCodec:
    """Texts as token ids and back, character by character.

    Two things that a tokenizer puts in front of a text belong to no text: its begin-of-text token, and the space with
    which SentencePiece begins a text. The space is put in front of the whole text only, never after a special token
    that is written out in it.

    Parameters
    ----------
    tokenizer : a fast tokenizer; byte-level BPE (GPT-2, GPT-NeoX, Qwen, Llama 3) or SentencePiece-like (Llama 2)
    name : of the model, for messages
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.tokenizer, self.name, self._bytes_of = tokenizer, name, cache(self._find)
        self._backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        is_byte_level = "ByteLevel" in repr(getattr(self._backend, "decoder", None))
        self._alphabet = {letter: byte for byte, letter in bytes_to_unicode().items()} if is_byte_level else None
        ids, plain = list(tokenizer.encode("a")), self.encode_as_is("a")
        n_front = next((k for k in range(len(ids)) if ids[k : k + len(plain)] == plain), 0)
        self.front = ids[:n_front]  # special tokens that the tokenizer puts in front of every text
        self._begin = self.front or [tokenizer.eos_token_id]  # the ids of an empty prompt
        self._adds_space = bool(self._backend and plain) and self[plain[0]].startswith(b" ")

    @cached_property
    def eos_id(self) -> int:
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise ValueError(f"{self.name}: its tokenizer has no end-of-text token, which training and sampling need")
        return eos

    @cached_property
    def hash(self) -> str:
        """Hash of what decides which tokens a text or a conversation becomes."""
        vocabulary = self._backend.to_str() if self._backend else self.tokenizer.get_vocab()
        return content_hash([vocabulary, self.chat_template])

    @cached_property
    def vocabulary_hash(self) -> int:
        """Equal where two models predict the same tokens, within this process."""
        return hash(frozenset(self.tokenizer.get_vocab().items()))

    @property
    def chat_template(self) -> str | None:
        """The model's own form of conversations, if it has one."""
        return getattr(self.tokenizer, "chat_template", None) or None

    @cached_property
    def _spaceless(self) -> Tokenizer:
        """The same tokenizer, without the space that it puts in front of a text."""
        about = json.loads(self.tokenizer.backend_tokenizer.to_str())
        about |= {name: _without_space(about[name]) for name in ("normalizer", "pre_tokenizer")}
        return Tokenizer.from_str(json.dumps(about | {"truncation": None, "padding": None}))

    def encode_as_is(self, text: str) -> list[int]:
        """Ids as the tokenizer itself gives them, spaces in front included, but without special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        """Ids of a text that continues another one: nothing is put in front."""
        if not self._adds_space:
            return self.encode_as_is(text)
        return list(self._spaceless.encode(text, add_special_tokens=False).ids)

    def encode_document(self, text: str) -> list[int]:
        """Ids of a whole text, without the begin-of-text token."""
        begins_with_space = self._adds_space and text and not text.startswith(tuple(self._added.values()))
        return self.encode(f" {text}" if begins_with_space else text)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt as the model expects it; an empty one is a token that begins a document."""
        return [*self.front, *self.encode_document(text)] or [self.eos_id]

    def encode_row(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Ids of a prompt, and of what is learned after it, with the end-of-text token."""
        encode = self.encode if prompt else self.encode_document
        return self.encode_prompt(prompt), [*encode(completion), self.eos_id]

    def __getitem__(self, token_id: int) -> bytes:
        """Bytes that a token adds within a text; empty for ids beyond the vocabulary (padded outputs)."""
        return self._bytes_of(token_id)

    def _find(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
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
        pieces, n_front = [self[i] for i in ids], 0
        if not after and list(ids[: len(self.front)]) == self.front:
            n_front = len(self.front)
            pieces[:n_front] = [b""] * n_front
        is_start = not after or list(after) == self._begin
        if is_start and self._adds_space and len(pieces) > n_front and ids[n_front] not in self._added:
            pieces[n_front] = pieces[n_front].removeprefix(b" ")
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the tokens of a document."""
        return b"".join(self.pieces(ids)).decode(errors="replace")


def _without_space(part: Any) -> Any:
    """Settings of a normalizer or a pre-tokenizer, changed to put no space in front of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    changed = {"prepend_scheme": "never", "add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            changed[name] = [one for one in map(_without_space, part[name]) if one is not None]
    return {name: changed.get(name, value) for name, value in part.items()}


@lru_cache(maxsize=2**18)  # replies may name the whole vocabulary at each position
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
    """Character at which each token begins, given the bytes of each; a token inside a character has that one's."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    found, n_chars = [], 0
    for raw in pieces:
        begun = bool(decoder.getstate()[0])
        goes_on = not raw or 0x80 <= raw[0] < 0xC0
        found.append(n_chars + (begun and not goes_on))  # a character that is broken off still takes an offset
        n_chars += len(decoder.decode(raw))
    return found


class TemplateError(ValueError):
    """A model's chat template cannot write a conversation."""


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation up to where the assistant speaks.

    Parameters
    ----------
    ids : its tokens
    stops : strings that end the answer, besides the model's end tokens
    lead : what the form puts in front of an answer; no part of the answer
    """

    ids: list[int]
    stops: tuple[str, ...] = ()
    lead: str = ""


def as_dialogue(turns: Sequence[Turn]) -> str:
    r"""Write a conversation as plain dialogue, one line per turn, up to where the assistant speaks.

    A system message stands alone on its line. An answer ends with its line: longer ones need completions.

    >>> as_dialogue([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])
    'Be brief.\nGuest: Who?\nHost:'
    """
    lines = [
        f"{SPEAKERS[turn['role']]}:{LEAD}{turn['content']}" if turn["role"] in SPEAKERS else turn["content"]
        for turn in turns
    ]
    return LINE_END.join([*lines, f"{SPEAKERS['assistant']}:"])


def _render(codec: TokenCodec, turns: Sequence[Turn], *, answer_follows: bool) -> str:
    """A conversation in the form of the model's chat template, special tokens written out."""
    conversation = [dict(turn) for turn in turns]
    try:
        text = codec.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=answer_follows)
    except Exception as error:  # a template is a program that came with the model: it may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TemplateError(f"The chat template of {codec.name} refuses this conversation: {reason}") from error
    if not text or not isinstance(text, str):
        raise TemplateError(f"The chat template of {codec.name} wrote {text!r:.40} for this conversation")
    return text


def chat_prompt(codec: TokenCodec, turns: Sequence[Turn]) -> ChatPrompt:
    """A conversation as the model reads it: by its own chat template, else as plain dialogue.

    Raises
    ------
    TemplateError
        If the template refuses these turns, as some do two messages of one speaker in a row.
    """
    if not codec.chat_template:
        return ChatPrompt(codec.encode_prompt(as_dialogue(turns)), (LINE_END,), LEAD)
    return ChatPrompt(codec.encode_as_is(_render(codec, turns, answer_follows=True)))


def chat_row(codec: TokenCodec, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Ids of a conversation whose last turn is learned: what `chat_prompt` gives before it, and that turn with its end.

    Raises
    ------
    TemplateError
        If the template refuses the turns, or writes the last one elsewhere than where an answer is expected.
    """
    *before, last = turns
    prompt_ids = chat_prompt(codec, before).ids
    if not codec.chat_template:
        return prompt_ids, [*codec.encode(f"{LEAD}{last['content']}"), codec.eos_id]
    opening, whole = _render(codec, before, answer_follows=True), _render(codec, turns, answer_follows=False)
    if not whole.startswith(opening):
        raise TemplateError(f"The chat template of {codec.name} does not write an answer where it expects one")
    ids = codec.encode(whole[len(opening) :])
    if codec.eos_id in ids:  # what a template puts behind the end of a turn is not learned
        ids = ids[: len(ids) - 1 - ids[::-1].index(codec.eos_id)]
    return prompt_ids, [*ids, codec.eos_id]


def describe(folder: Path) -> tuple[str, int | None]:
    """Hash of a tokenizer's files (vocabulary, merges, special tokens) and its vocabulary size, where they tell.

    Settings of use are left out (padding, the longest input, which special token ends a text): a fine-tune keeps the
    hash of its parent.
    """
    fast = folder / "tokenizer.json"
    if not fast.is_file():
        files = [folder / name for name in PLAIN_FILES if (folder / name).is_file()]
        return content_hash([file_hash(file) for file in files]), None
    return _describe(fast.resolve(), fast.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _describe(file: Path, _: int) -> tuple[str, int]:
    # as the library writes it today: older versions wrote the same merges and settings in other words
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no other kind
        raise ValueError(f"{file} cannot be read: {error}") from error
    about, vocabulary = json.loads(tokenizer.to_str()), tokenizer.get_vocab()
    parts = [vocabulary, about["model"].get("merges"), *(about.get(name) for name in CUTTING)]
    return content_hash(parts), max(vocabulary.values(), default=-1) + 1
