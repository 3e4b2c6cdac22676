"""Pre-train the fork-* bases on any text and put them into the store.

The id of a base, ``NAME@<hash>``, hashes all that decides its weights: recipe, corpus and tokenizer. It is known
before anything is computed (and without torch), so a base that the store has is found at once. A new one is trained in
``bases/.making-<id>``, from where a run that was killed goes on, and put in place by one rename.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import zstandard
from tqdm import tqdm

from tuning_server.disk import BadRow, content_hash, file_hash, json_rows, write_json
from tuning_server.engine.bases import add_base
from tuning_server.engine.folders import drop
from tuning_server.engine.registry import UnknownModel, resolve

ENGINE_VERSION = 1  # part of each id: raise it when `fork` or the training loop change what a base learns
WINDOW_TOKENS = 256
BATCH_WINDOWS = 4
MIN_WINDOWS = 16
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
VALIDATION_SHARE = 0.01  # of the documents, put aside to measure the perplexity
STATE_EVERY_STEPS = 250
N_LOSSES = 40  # points of the loss curve
SEED = 0
SUFFIXES = (".txt", ".jsonl", ".jsonl.zst")
DOCUMENT_CHARACTERS = 5_000  # a longer text file is cut, at the end of a paragraph


@dataclass(frozen=True)
class Recipe:
    """Shape of a base (width, layers, heads) and the tokens that it is pre-trained on, to a whole number of passes.

    The seed decides its first weights and the order of the text, not which documents are put aside.
    """

    width: int
    layers: int
    heads: int
    n_tokens: int
    seed: int = SEED


RECIPES = {
    "fork-300k": Recipe(64, 4, 4, 1_200_000),
    "fork-1m": Recipe(128, 4, 4, 3_000_000),
    "fork-6m": Recipe(256, 7, 8, 1_800_000),
    # the same again with other seeds: how much does a result depend on the pre-training?
    "fork-1m-s1": Recipe(128, 4, 4, 3_000_000, seed=1),
    "fork-1m-s2": Recipe(128, 4, 4, 3_000_000, seed=2),
}


def read_corpus(path: Path) -> list[str]:
    """Documents of a text file (cut at paragraphs if it is long), of JSON lines (field ``text``), or of a folder.

    Raises
    ------
    ValueError
        If there is no text, or a file is not what its name promises; names file and line.
    """
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
    documents: list[str] = []
    for file in files:
        try:
            documents += [text for text in _documents(file) if text.strip()]
        except (ValueError, zstandard.ZstdError) as error:
            raise ValueError(f"{file}: {error}") from error
    if not documents:
        raise ValueError(f"no text in {path}: expected files {', '.join(SUFFIXES)} with at least one document")
    return documents


def _documents(file: Path) -> Iterator[str]:
    content = file.read_bytes()
    if file.suffix == ".zst":
        content = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True).read()
    if ".jsonl" not in file.name:
        yield from _cut(content.decode("utf-8-sig"))
        return
    for number, row in json_rows(content.split(b"\n")):
        if not isinstance(row.get("text"), str):
            raise BadRow(f"Line {number}: expected an object with a string field 'text'")
        yield row["text"]


def _cut(text: str) -> Iterator[str]:
    """Cut a text at ends of paragraphs (blank lines, else lines), each part just longer than `DOCUMENT_CHARACTERS`."""
    text = text.replace("\r\n", "\n")
    separator = "\n\n" if "\n\n" in text else "\n"
    document = ""
    for paragraph in text.split(separator):
        document = f"{document}{separator}{paragraph}" if document else paragraph
        if len(document) > DOCUMENT_CHARACTERS:
            yield document
            document = ""
    yield document


def read_words(path: Path) -> list[str]:
    """Words of a text file, one per line."""
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def pretrain(
    name: str, documents: Sequence[str], store: Path, *, reserved_tokens: Sequence[str] = (),
    tokenizer: str | None = None, is_default: bool = False,
) -> str:  # fmt: skip
    """Pre-train a base on documents, unless the store has it.

    Parameters
    ----------
    name : a key of `RECIPES`, or one with a label behind it (``fork-1m-mine``) for a base of the same shape
    reserved_tokens : words that become one token each
    tokenizer : id or folder of a model whose tokenizer it shares, so that the two can be blended; else one is built
        from the documents
    is_default : let the plain name stand for this base even if it stands for another one already

    Returns
    -------
    str
        Its id, ``<name>@<hash>``.

    Raises
    ------
    ValueError
        If there is no such recipe or tokenizer, the text is too short, or another process is making the same base.
    """
    if tokenizer and reserved_tokens:
        raise ValueError("reserved tokens would change the tokenizer of the other model: give one of the two")
    shared = _tokenizer_folder(tokenizer, store) if tokenizer else None
    make = partial(_make, name, documents, reserved_tokens, shared)
    return add_base(store, name, _hash(name, documents, reserved_tokens, shared), make, is_default=is_default)


def _recipe(name: str) -> Recipe:
    """The recipe of a name such as ``fork-1m`` or, with a label, ``fork-1m-mine``."""
    found = re.fullmatch(r"(fork-\d+[km](?:-s\d+)?)(?:-[a-z]{2,}[a-z0-9]*)*", name)
    if not found or found[1] not in RECIPES:
        raise ValueError(
            f"no recipe for a base {name!r}: expected one of {', '.join(RECIPES)}, alone or with a label (fork-1m-mine)"
        )
    return RECIPES[found[1]]


def _hash(name: str, documents: Sequence[str], reserved_tokens: Sequence[str], shared: Path | None) -> str:
    """Hash of what decides the weights, by names of its own: those of the code may change."""
    recipe = _recipe(name)
    decides = {
        "name": name, "engine": ENGINE_VERSION, "width": recipe.width, "layers": recipe.layers, "heads": recipe.heads,
        "n_tokens": recipe.n_tokens, "window_tokens": WINDOW_TOKENS, "batch_windows": BATCH_WINDOWS,
        "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "validation_share": VALIDATION_SHARE,
        "seed": recipe.seed, "corpus": list(documents), "reserved_tokens": list(reserved_tokens),
    }  # fmt: skip
    if shared:
        files = sorted([*shared.glob("*token*.json"), *shared.glob("chat_template*")])
        decides["tokenizer"] = [[file.name, file_hash(file)] for file in files]
    return content_hash(decides)


def _tokenizer_folder(model: str, store: Path) -> Path:
    """Folder of the tokenizer of a model: one that the store has, ``hf:NAME``, or a folder itself."""
    try:
        folder = Path(model) if Path(model, "tokenizer.json").is_file() else resolve(model, store, download=True)
    except UnknownModel as error:
        expected = "a model of the store, hf:NAME, or a folder with a tokenizer.json"
        raise ValueError(f"expected as the model of a tokenizer {expected}: {error}") from error
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{model} has no tokenizer.json, which a base is pre-trained with: take another model's")
    return folder


def _put_aside(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Documents to train on and to measure with, each in their order."""
    if len(documents) < 2:
        raise ValueError("the corpus has 1 document, expected at least 2, better 100: give more text")
    n_aside = max(1, round(VALIDATION_SHARE * len(documents)))
    order = np.random.default_rng(SEED).permutation(len(documents))
    return [documents[k] for k in sorted(order[n_aside:])], [documents[k] for k in sorted(order[:n_aside])]


def _make(
    name: str, documents: Sequence[str], reserved_tokens: Sequence[str], shared: Path | None, working: Path,
    folder: Path,
) -> None:  # fmt: skip
    """Train, resuming what a kill left; the last step is the rename that puts the base in place."""
    # only now: a base that is there is found without torch
    from tuning_server.engine import fork, losses, models, training

    recipe, (kept, aside) = _recipe(name), _put_aside(documents)
    tokenizer = models.tokenizer_of(str(shared), shared) if shared else fork.build_tokenizer(kept, reserved_tokens)
    untrained = partial(
        fork.build_model, name, tokenizer, width=recipe.width, layers=recipe.layers, heads=recipe.heads,
        seed=recipe.seed,
    )  # fmt: skip
    loaded = untrained()
    rows = fork.windows(loaded.codec, kept, WINDOW_TOKENS)[: recipe.n_tokens // WINDOW_TOKENS]
    if len(rows) < MIN_WINDOWS:
        raise ValueError(
            f"the corpus fills {len(rows)} windows of {WINDOW_TOKENS} tokens, expected at least {MIN_WINDOWS}, better "
            "4,000: give more text"
        )
    settings = training.TrainingSettings(
        n_epochs=max(1, round(recipe.n_tokens / (len(rows) * WINDOW_TOKENS))), batch_size=BATCH_WINDOWS,
        learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, state_every=STATE_EVERY_STEPS, keep_epochs=False,
        seed=recipe.seed,
    )  # fmt: skip
    valid_rows = fork.windows(loaded.codec, aside, WINDOW_TOKENS)
    drop(working / "final")  # of a run that was killed before its last step; its state is still there
    final, curve = working / "final", working / "loss.csv"
    n_steps = settings.n_epochs * -(-len(rows) // settings.batch_size)
    seconds = 1.0 if sys.stderr.isatty() else 30.0  # a log keeps every state of the bar
    with tqdm(total=n_steps, desc=f"pre-training {name}", unit="step", mininterval=seconds, ncols=100) as bar:
        for report in filter(None, training.train(loaded, rows, settings, folder=working)):
            bar.update(report.step - bar.n)
            if report.step % max(1, n_steps // N_LOSSES) and report.step < n_steps:
                continue
            valid_loss = losses.evaluate(loaded, valid_rows, losses.Supervised())["loss"]
            with curve.open("a") as file:
                file.write(f"{report.step},{report.n_tokens},{report.loss},{valid_loss}\n")
            bar.set_postfix_str(f"loss {valid_loss:.2f} nats/token")
    n_valid_tokens = sum(len(row.ids) - 1 for row in valid_rows)
    n_valid_bytes = sum(len(text.encode()) + 1 for text in aside)  # with one for each end of a text
    record = {
        "id": folder.name, "n_weights": loaded.n_weights, "n_tokens": report.n_tokens, "settings": asdict(settings),
        "dtype": training.arithmetic(loaded), "learning_rate": fork.LEARNING_RATE,
        "valid_perplexity": math.exp(valid_loss), "n_valid_tokens": n_valid_tokens,
        "valid_bits_per_byte": valid_loss * n_valid_tokens / math.log(2) / n_valid_bytes,
    }  # fmt: skip
    models.save(untrained(), final / "init")
    write_json(final / "init" / "base.json", record | {"id": f"{folder.name}:init"})
    write_json(final / "base.json", record)
    lines = {line.partition(",")[0]: line for line in curve.read_text().splitlines()}  # a kill makes steps repeat
    (final / curve.name).write_text("\n".join(["step,n_tokens,loss,valid_loss", *lines.values(), ""]))
    final.rename(folder)
