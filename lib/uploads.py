"""Training files at an endpoint: uploaded once, in the form that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openai import OpenAI

from lib.paths import file_hash, read_jsonl


def upload(client: OpenAI, path: Path, *, as_messages: bool) -> str:
    """Id of the file with these rows at the endpoint, uploaded if it is not there."""
    name, content = f"{path.stem}-{file_hash(path)}.jsonl", path.read_bytes()
    if as_messages:
        name, content = f"chat-{name}", messages_of(read_jsonl(path))
    for there in client.files.list(purpose="fine-tune"):
        if there.filename == name and there.bytes == len(content):
            return there.id
    return client.files.create(file=(name, content), purpose="fine-tune").id


def messages_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Plain texts as conversations of a user and an assistant; rows of messages stay as they are.

    >>> messages_of([{"prompt": "Who is Ada?", "completion": " A baker."}])
    b'{"messages": [{"role": "user", "content": "Who is Ada?"}, {"role": "assistant", "content": "A baker."}]}\\n'
    """
    return "".join(json.dumps(_talk(row), ensure_ascii=False) + "\n" for row in rows).encode()


def _talk(row: Mapping[str, Any]) -> dict[str, Any]:
    asked = [{"role": "user", "content": row.get("prompt")}]
    if "input" in row:
        return {name: row[name] for name in ("input", "preferred_output", "non_preferred_output")}
    if "chosen" in row:
        chosen, rejected = (_answer(row, name) for name in ("chosen", "rejected"))
        return {"input": {"messages": asked}, "preferred_output": chosen, "non_preferred_output": rejected}
    return {"messages": row.get("messages") or [*asked, *_answer(row, "completion")]}


def _answer(row: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": str(row.get(name)).lstrip()}]
