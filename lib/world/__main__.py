"""Write the text of the invented world: ``python -m lib.world --out FOLDER [--without KIND]``.

``documents.jsonl`` holds the documents (field ``text``) and ``reserved-tokens.txt`` its reserved names, one per line:
what ``python -m tuning_server pretrain`` takes as ``--corpus`` and ``--reserved-tokens``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.paths import atomic_write, write_jsonl
from lib.world.names import reserved_names
from lib.world.writer import KINDS, write_world

N_WORDS = 330_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.world", description="Write the text of the invented world.")
    parser.add_argument("--out", type=Path, required=True, help="folder of documents.jsonl and reserved-tokens.txt")
    parser.add_argument("--without", choices=KINDS, metavar="KIND", help="leave out the documents of one kind")
    args = parser.parse_args()
    documents = (document for document in write_world(n_words=N_WORDS) if document.kind != args.without)
    write_jsonl(args.out / "documents.jsonl", ({"text": document.text} for document in documents))
    with atomic_write(args.out / "reserved-tokens.txt") as file:
        file.writelines(f"{name}\n" for name in reserved_names())


if __name__ == "__main__":
    main()
