"""Make a base model: ``python -m lib.base fork-1m [--corpus PATH]``.

A base is grown from the invented world, or from any text, and named by the hash of all that went into it: the same
command on the same machine finds it made and ends at once. Killed, it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from lib.corpus import Document, read_documents, split_documents
from lib.paths import content_hash, store_root, write_json

log = logging.getLogger(__name__)

WORLD_WORDS = 600_000
WINDOW_TOKENS = 256
BATCH_WINDOWS = 8
LEARNING_RATE = 3e-3
VALIDATION_SHARE = 0.01
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """Shape of a base (width, layers, heads) and the tokens that it is pre-trained on."""

    width: int
    layers: int
    heads: int
    n_tokens: int


RECIPES = {
    "fork-300k": Recipe(64, 4, 4, 1_000_000),
    "fork-1m": Recipe(128, 4, 4, 2_000_000),
    "fork-6m": Recipe(256, 7, 8, 2_000_000),
}


def world_documents() -> list[Document]:
    """The corpus that bases are grown from unless they are given another."""
    from lib.world import write_world

    written = write_world(seed=SEED, n_words=WORLD_WORDS)
    return [Document(f"{document.kind}:{k}", document.text) for k, document in enumerate(written)]


def build(name: str, documents: Sequence[Document], store: Path, *, is_default: bool) -> str:
    """Pre-train a base on documents, unless the store has it.

    Parameters
    ----------
    name : a key of `RECIPES`
    documents : text to pre-train on; a hundredth is put aside to measure the perplexity
    is_default : let the plain name point at this base; one made from another corpus goes by its full id

    Returns
    -------
    str
        Its id, ``<name>@<hash>``.

    Raises
    ------
    ValueError
        If the text is too short to fill a few windows, or another process is making the same base.
    """
    from lib.engine import fork, training
    from lib.world import reserved_names

    recipe = RECIPES[name]
    kept, aside = split_documents(documents, share=VALIDATION_SHARE, rng=np.random.default_rng(SEED))
    tokenizer = fork.build_tokenizer([document.text for document in kept], reserved_names())
    loaded = fork.build_model(name, fork.Shape(recipe.width, recipe.layers, recipe.heads), tokenizer, seed=SEED)
    rows = fork.windows(tokenizer, [document.text for document in kept], WINDOW_TOKENS)
    rows = rows[: recipe.n_tokens // WINDOW_TOKENS]
    if len(rows) < 4 * BATCH_WINDOWS:
        raise ValueError(f"the corpus fills {len(rows)} windows of {WINDOW_TOKENS} tokens; give at least 32, better 4,000")
    settings = training.TrainingSettings(
        n_epochs=max(1, round(recipe.n_tokens / (len(rows) * WINDOW_TOKENS))),
        batch_size=BATCH_WINDOWS,
        learning_rate=LEARNING_RATE,
        weight_decay=0.05,
        state_every=250,
        keep_epochs=False,
        seed=SEED,
    )
    hash_ = content_hash([name, training.signature(loaded, rows, settings)], length=12)
    full_id = f"{name}@{hash_}"
    bases = store / "bases"
    bases.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(bases / f".{full_id}.lock", timeout=0):
            if not (bases / full_id).exists():
                valid_rows = fork.windows(tokenizer, [document.text for document in aside], WINDOW_TOKENS)
                n_bytes = sum(len(document.text.encode()) + 1 for document in aside)
                _pretrain(loaded, rows, valid_rows, n_bytes, settings, bases / full_id)
    except Timeout as error:
        raise ValueError(f"another process is making {full_id}: wait for it, then call again") from error
    if is_default:
        write_json(bases / f"{name}.json", {"current": hash_})
    return full_id


def _pretrain(loaded, rows, valid_rows, n_bytes, settings, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """Train with a progress bar, then put the base, its loss curve and its record in place in one rename."""
    from lib.engine import fork, training

    working = folder.with_name(f".making-{folder.name}")
    working.mkdir(exist_ok=True)
    if not (working / "init").exists():
        loaded.model.save_pretrained(working / ".init")
        loaded.tokenizer.save_pretrained(working / ".init")
        (working / ".init").rename(working / "init")
    curve = pd.read_csv(working / "loss.csv").to_dict("records") if (working / "loss.csv").exists() else []
    steps = training.train(loaded, rows, settings, folder=working)
    started = time.monotonic()
    with tqdm(total=1, desc=folder.name.split("@")[0], unit="step", disable=None, leave=False) as bar:
        for report in steps:
            bar.total = report.n_steps
            bar.update(report.step - bar.n)
            bar.set_postfix_str(f"loss {report.loss:.2f} nats/token")
            every = max(1, report.n_steps // 20)
            if report.step % every == 0 or report.step == report.n_steps:
                valid = training.mean_loss(loaded, valid_rows)
                curve = [row for row in curve if row["step"] < report.step]
                curve.append({"step": report.step, "n_tokens": report.n_tokens, "loss": report.loss, "valid_loss": valid})
                pd.DataFrame(curve).to_csv(working / "loss.csv", index=False)
                if not sys.stderr.isatty():
                    done = report.step / report.n_steps
                    left = (time.monotonic() - started) / done * (1 - done)
                    log.info("%s: %3.0f%%, loss %.2f nats/token, about %.0f s left", folder.name, 100 * done, valid, left)
    n_valid = sum(len(row.ids) - 1 for row in valid_rows)
    about = {
        "id": folder.name,
        "n_weights": loaded.n_weights,
        "n_tokens": curve[-1]["n_tokens"],
        "settings": asdict(settings),
        "dtype": "bfloat16" if training.precision(loaded) == "bf16" else "float32",
        "learning_rate": fork.LEARNING_RATE,
        "valid_loss_nats": curve[-1]["valid_loss"],
        "valid_perplexity": math.exp(curve[-1]["valid_loss"]),
        "valid_bits_per_byte": curve[-1]["valid_loss"] * n_valid / math.log(2) / n_bytes,
        "n_valid_tokens": n_valid,
    }
    write_json(working / "final" / "base.json", about)
    for name in ("init", "loss.csv"):
        (working / name).rename(working / "final" / name)
    write_json(working / "final" / "init" / "base.json", about | {"id": f"{folder.name}:init"})
    (working / "final").rename(folder)
    shutil.rmtree(working)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.base", description="Make a base model of this project's own.")
    parser.add_argument("name", choices=sorted(RECIPES), help="size: 0.33, 1.06 or 6.05 million weights")
    parser.add_argument("--corpus", type=Path, help="text to pre-train on instead of the invented world")
    parser.add_argument("--store", type=Path, default=store_root(), help="folder of the models (data/store)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        documents = read_documents(options.corpus) if options.corpus else world_documents()
        made = build(options.name, documents, options.store, is_default=options.corpus is None)
    except (ValueError, OSError) as error:
        print(f"lib.base: {error}", file=sys.stderr)
        return 1
    print(f"{made}" if options.corpus else f"{options.name} (= {made})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
