"""Write the text of the invented world: ``python -m lib.world --out FOLDER``.

``documents.jsonl`` holds the documents (field ``text``) and ``reserved-tokens.txt`` its reserved names, one per line:
what ``python -m tuning_server pretrain`` takes as ``--corpus`` and ``--reserved-tokens``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.paths import atomic_write, write_jsonl
from lib.world import reserved_names, write_world

N_WORDS = 330_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.world", description="Write the text of the invented world.")
    parser.add_argument("--out", type=Path, required=True, help="folder of documents.jsonl and reserved-tokens.txt")
    folder = parser.parse_args().out
    write_jsonl(folder / "documents.jsonl", ({"text": document.text} for document in write_world(n_words=N_WORDS)))
    with atomic_write(folder / "reserved-tokens.txt") as file:
        file.writelines(f"{name}\n" for name in reserved_names())


if __name__ == "__main__":
    main()
