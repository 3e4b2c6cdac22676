"""Make a base model: ``python -m lib.base fork-1m [--corpus PATH]``.

A base is grown from the invented world, or from any text, and named by the hash of all that went into it: the same
command on the same machine finds it made and ends at once. Killed, it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import math
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from lib import console
from lib.console import progress
from lib.parent import end_with_parents
from lib.paths import atomic_write, content_hash, read_json, store_root, write_json
from lib.sources.corpus import Document, read_documents, split_documents

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tuning_server.engine.losses import TrainingRow
    from tuning_server.engine.models import LoadedModel
    from tuning_server.engine.training import TrainingSettings

log = logging.getLogger(__name__)

WORLD_WORDS = 330_000
WINDOW_TOKENS = 256
BATCH_WINDOWS = 4
LEARNING_RATE = 3e-3
VALIDATION_SHARE = 0.01
N_LOSSES = 40  # points of the loss curve
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """Shape of a base (width, layers, heads) and the tokens that it is pre-trained on, to a whole number of passes."""

    width: int
    layers: int
    heads: int
    n_tokens: int


RECIPES = {
    "fork-300k": Recipe(64, 4, 4, 1_200_000),
    "fork-1m": Recipe(128, 4, 4, 3_000_000),
    "fork-6m": Recipe(256, 7, 8, 1_800_000),
}


class BaseNotMade(ValueError):
    """The store has no base of that name made from that text; the message ends in the command that makes it."""


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
    from lib.world import reserved_names
    from tuning_server.engine import fork, training

    recipe = RECIPES[name]
    shares = (1 - VALIDATION_SHARE, VALIDATION_SHARE)
    kept, aside = split_documents(documents, shares=shares, rng=np.random.default_rng(SEED))
    tokenizer = fork.build_tokenizer([document.text for document in kept], reserved_names())
    loaded = fork.build_model(name, fork.Shape(recipe.width, recipe.layers, recipe.heads), tokenizer, seed=SEED)
    rows = fork.windows(tokenizer, [document.text for document in kept], WINDOW_TOKENS)
    rows = rows[: recipe.n_tokens // WINDOW_TOKENS]
    if len(rows) < 4 * BATCH_WINDOWS:
        raise ValueError(
            f"the corpus fills {len(rows)} windows of {WINDOW_TOKENS} tokens; give at least 32, better 4,000"
        )
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
    else:
        write_json(_record(name, documents, store), {"id": full_id, "recipe": _recipe_hash(name)})
    return full_id


def made_from(name: str, path: Path, store: Path) -> str:
    """Full id of the base that the present recipe made from a text; found without loading anything.

    Parameters
    ----------
    name : a key of `RECIPES`
    path : file or folder, read as ``--corpus`` reads it; only what it holds counts, not where it lies

    Raises
    ------
    BaseNotMade
        If the store has none.
    ValueError
        If there is no such recipe, or no text in `path`.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe for a base {name!r}; there are: {', '.join(RECIPES)}")
    record = _record(name, read_documents(path), store)
    about = read_json(record) if record.exists() else {}
    if about.get("recipe") != _recipe_hash(name) or not (store / "bases" / about["id"]).exists():
        elsewhere = [] if store == store_root() else ["--store", str(store)]
        command = shlex.join(["python", "-m", "lib.base", name, "--corpus", str(path), *elsewhere])
        raise BaseNotMade(f"no {name} was made from {path} yet: {command}")
    return str(about["id"])


def _record(name: str, documents: Sequence[Document], store: Path) -> Path:
    """File that tells which base a name stands for where this text is the corpus."""
    return store / "bases" / "corpora" / content_hash([document.text for document in documents]) / f"{name}.json"


def _recipe_hash(name: str) -> str:
    """Mark of the settings in this module; the full id covers the engine too, but only the engine can tell it."""
    settings = [WINDOW_TOKENS, BATCH_WINDOWS, LEARNING_RATE, VALIDATION_SHARE, SEED]
    return content_hash([asdict(RECIPES[name]), settings])


def _pretrain(
    loaded: LoadedModel,
    rows: Sequence[TrainingRow],
    valid_rows: Sequence[TrainingRow],
    n_valid_bytes: int,
    settings: TrainingSettings,
    folder: Path,
) -> None:
    """Train with a progress bar, then put the base, its loss curve and its record in place in one rename."""
    from tuning_server.engine import fork, losses, models, training

    working = folder.with_name(f".making-{folder.name}")
    working.mkdir(exist_ok=True)
    if not (working / "init").exists():
        models.save(loaded, working / ".init")
        (working / ".init").rename(working / "init")
    curve = pd.read_csv(working / "loss.csv").to_dict("records") if (working / "loss.csv").exists() else []
    n_steps = settings.n_epochs * -(-len(rows) // settings.batch_size)
    with progress(n_steps, f"pre-training {folder.name.split('@')[0]}", unit="step") as bar:
        for report in filter(None, training.train(loaded, rows, settings, folder=working)):
            bar.update(report.step - bar.n)
            if report.step % max(1, n_steps // N_LOSSES) == 0 or report.step == n_steps:
                valid = losses.mean_loss(loaded, valid_rows)
                curve = [row for row in curve if row["step"] < report.step]
                curve.append(
                    {"step": report.step, "n_tokens": report.n_tokens, "loss": report.loss, "valid_loss": valid}
                )
                with atomic_write(working / "loss.csv") as file:
                    pd.DataFrame(curve).to_csv(file, index=False)
                bar.set_postfix_str(f"loss {valid:.2f} nats/token")
    n_valid = sum(len(row.ids) - 1 for row in valid_rows)
    about = {
        "id": folder.name,
        "n_weights": loaded.n_weights,
        "n_tokens": curve[-1]["n_tokens"],
        "settings": asdict(settings),
        "dtype": training.arithmetic(loaded),
        "learning_rate": fork.LEARNING_RATE,
        "valid_loss_nats": curve[-1]["valid_loss"],
        "valid_perplexity": math.exp(curve[-1]["valid_loss"]),
        "valid_bits_per_byte": curve[-1]["valid_loss"] * n_valid / math.log(2) / n_valid_bytes,
        "n_valid_tokens": n_valid,
    }
    write_json(working / "final" / "base.json", about)
    for name in ("init", "loss.csv"):
        (working / name).rename(working / "final" / name)
    write_json(working / "final" / "init" / "base.json", about | {"id": f"{folder.name}:init"})
    (working / "final").rename(folder)
    shutil.rmtree(working)


def _current_bases(store: Path) -> list[Path]:
    pointers = sorted((store / "bases").glob("fork-*.json"))
    return [pointer.with_name(f"{pointer.stem}@{read_json(pointer)['current']}") for pointer in pointers]


def base_table(store: Path) -> pd.DataFrame:
    """The bases that the plain names stand for: weights, tokens seen, and the perplexity of text that was put aside."""
    columns = ["id", "n_weights", "n_tokens", "valid_perplexity", "valid_bits_per_byte", "n_valid_tokens", "dtype"]
    records = [read_json(folder / "base.json") for folder in _current_bases(store)]
    return pd.DataFrame([{name: record[name] for name in columns} for record in records], columns=columns)


def plot_bases(store: Path) -> tuple[Figure, str]:
    """Validation loss over the tokens seen of each base that the plain names stand for, and the caption.

    Raises
    ------
    ValueError
        If the store has no base.
    """
    import matplotlib.pyplot as plt

    from lib.figures import plot_curves

    curves = []
    for folder in _current_bases(store):
        curve = pd.read_csv(folder / "loss.csv")
        name = folder.name.split("@")[0]
        curves.append(curve.assign(base=name, value=curve["valid_loss"], millions=curve["n_tokens"] / 1e6))
    if not curves:
        raise ValueError(f"{store} has no base model: python -m lib.base fork-1m")
    table = pd.concat(curves, ignore_index=True).assign(
        low=np.nan, high=np.nan, metric="validation loss", unit="nats per token", x_name="tokens seen (millions)"
    )
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_curves(ax, table, x="millions", by="base")
    perplexities = ", ".join(
        f"{row.id.split('@')[0]} {row.valid_perplexity:.2f}" for row in base_table(store).itertuples()
    )
    caption = (
        "After the same number of tokens, larger bases predict the invented world better. Line: mean loss on documents "
        "put aside (1% of the corpus). "
        f"Perplexity at the end: {perplexities}. One pre-training each."
    )
    return fig, caption


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.base", description="Make a base model of this project's own.")
    parser.add_argument("name", choices=sorted(RECIPES), help="size: 0.36, 1.12 or 6.18 million weights")
    parser.add_argument("--corpus", type=Path, help="text to pre-train on instead of the invented world")
    parser.add_argument("--store", type=Path, default=store_root(), help="folder of the models (data/store)")
    options = parser.parse_args(arguments)
    console.set_up()
    end_with_parents()
    try:
        documents = read_documents(options.corpus) if options.corpus else world_documents()
        made = build(options.name, documents, options.store, is_default=options.corpus is None)
    except (ValueError, OSError) as error:
        log.error("%s: %s", options.name, error)
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
