"""Base models of this project's own: which a run needs, making one from a text, and what those in the store learned.

The tuning server makes and owns them (``python -m tuning_server pretrain``); here its files are read.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.params import CURVE_SEEDS, active_bases
from lib.paths import ROOT, read_json, store_root

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORK = r"fork-\d+[km](?:-s\d+)?(?:-[a-z]{2,}[a-z0-9]*)*"  # size, pre-training seed, label


def bases_of(values: Mapping[str, Any]) -> list[str]:
    """Names of the base models that a run with these values needs in the store.

    Those of a curve over size (`size_bases`), of other pre-training seeds (`further_bases`) and a `control_base` are
    needed from three seeds on. With ``general``, plain names stand for bases of that text, which the run makes itself.

    >>> bases_of({"base": "fork-1m", "general": "my/texts"})
    []
    >>> bases_of({"base": "fork-1m@3f2a:init", "bases": ["fork-300k", "hf:gpt2"], "size_bases": ["fork-6m"]})
    ['fork-1m', 'fork-300k']
    >>> bases_of({"control_base": "fork-1m-without-guidance", "n_seeds": 3})
    ['fork-1m-without-guidance']
    """
    pattern = r"smollm2-\d+m\b|" + (FORK + r"(?=@)" if values.get("general") else FORK + r"\b")
    late = ("size_bases", "further_bases", "control_base")
    active = {name: value for name, value in values.items() if name not in late}
    if values.get("n_seeds", 1) >= CURVE_SEEDS:
        active = dict(values)
    texts = [text for value in active.values() for text in (value if isinstance(value, list) else [value])]
    return sorted({found.group() for text in texts if isinstance(text, str) and (found := re.match(pattern, text))})


def bases_from_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Bases that a run makes from the text ``general``, with the model whose tokenizer each shares ("" for their own).

    Those are the plain ``fork-*`` names; beside a big model of another kind, they share its tokenizer.

    >>> bases_from_text({"base": "fork-300k", "bigs": ["fork-1m:init"], "general": "my/texts"})
    {'fork-300k': '', 'fork-1m': ''}
    >>> bases_from_text({"base": "fork-1m", "bigs": ["smollm2-135m"], "general": "my/texts"})
    {'fork-1m': 'smollm2-135m'}
    """
    if not values.get("general"):
        return {}
    names = [*active_bases(values), *values.get("bigs", [])]
    others = [name for name in names if not re.fullmatch(FORK + r"(:init)?", name)]
    plain = dict.fromkeys(name.removesuffix(":init") for name in names if name not in others)
    return dict.fromkeys(plain, others[0] if others else "")


def make_base(name: str, corpus: Path, *, tokenizer: str = "") -> str:
    """Pre-train a base on a text unless the store has it, showing the progress; returns its full id.

    With `tokenizer`, it shares that of another model.

    Raises
    ------
    ValueError
        If it cannot be made; repeats the server's line.
    """
    command = [sys.executable, "-m", "tuning_server", "pretrain", name, "--corpus", str(corpus)]
    command += ["--store", str(store_root()), *(["--tokenizer", tokenizer] if tokenizer else [])]
    lines = [""]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stdout
        for line in process.stderr:
            sys.stderr.write(line)
            lines.append(line.strip())
        printed = process.stdout.read()
    if process.returncode:
        reason = lines[-1] or f"it ended with code {process.returncode}"
        raise ValueError(f"no base model {name} from {corpus}: {reason}")
    return printed.split()[-1]


def current_base(store: Path, name: str) -> Path | None:
    """Folder of the base that a plain name stands for; its name is the full id. None where there is none."""
    pointer = store / "bases" / f"{name}.json"
    return pointer.with_name(f"{name}@{read_json(pointer)['current']}") if pointer.exists() else None


def _current_bases(store: Path) -> list[Path]:
    """One base of each size: not those with another seed or text."""
    names = [pointer.stem for pointer in sorted((store / "bases").glob("fork-*.json"))]
    return [folder for name in names if name.count("-") == 1 and (folder := current_base(store, name))]


def base_table(store: Path) -> pd.DataFrame:
    """The bases that the plain names stand for: weights, tokens seen, and the perplexity of held-out text."""
    import pandas as pd

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
    import pandas as pd

    from lib.figures import plot_curves

    folders = _current_bases(store)
    if not folders:
        raise ValueError(f"{store} has no base model: make figures makes them")
    curves = [pd.read_csv(folder / "loss.csv").assign(base=folder.name.split("@")[0]) for folder in folders]
    table = pd.concat(curves, ignore_index=True)
    table = table.assign(value=table["valid_loss"], millions=table["n_tokens"] / 1e6, low=float("nan"))
    table = table.assign(
        high=float("nan"), metric="validation loss", unit="nats per token", x_name="tokens seen (millions)"
    )
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_curves(ax, table, x="millions", by="base")
    perplexities = ", ".join(
        f"{row.id.split('@')[0]} {row.valid_perplexity:.2f}" for row in base_table(store).itertuples()
    )
    caption = (
        "Loss of the bases over pre-training. Line: mean loss on held-out documents (1% of the corpus). Perplexity at "
        f"the end: {perplexities}. One pre-training each."
    )
    return fig, caption
