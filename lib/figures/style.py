"""Style of all figures, a fixed look for each model and condition, and saving with stable bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from lib.paths import atomic_write

SINGLE_IN, DOUBLE_IN = 3.4, 6.8  # widths of a column and of a page
PNG_DPI = 200

_BLUE, _ORANGE, _GREEN, _RED, _PINK = "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"
_BROWN, _GREY, _SKY, _BLACK = "#ca9161", "#949494", "#56b4e9", "#000000"  # with the above: seaborn "colorblind"
_SPARE_COLORS, _SPARE_MARKERS = (_BLUE, _ORANGE, _GREEN, _RED, _PINK, _BROWN, _SKY), "hp*"


@dataclass(frozen=True)
class Look:
    """Colour and marker of a model or condition."""

    color: str
    marker: str


LOOKS: Mapping[str, Look] = {
    # models
    "base": Look(_GREY, "o"),
    "tuned": Look(_BLUE, "s"),
    "big": Look(_BROWN, "^"),
    "blended": Look(_GREEN, "P"),
    "direct": Look(_PINK, "v"),  # the big model, tuned directly
    "mixture": Look(_ORANGE, "D"),  # big and tuned without base
    "proxy": Look(_RED, "D"),
    "alpha": Look(_RED, "P"),  # proxy-tuning at a given strength
    "fade": Look(_SKY, "P"),  # a blend whose shift fades out
    "SFT": Look(_ORANGE, "s"),
    "DPO": Look(_RED, "^"),
    "PPO": Look(_PINK, "P"),
    "chat": Look(_GREEN, "v"),
    "preferred": Look(_PINK, "^"),  # answers of DPO
    "other": Look(_GREY, ">"),
    "fork-300k": Look(_SKY, "o"),
    "fork-1m": Look(_BLUE, ">"),
    "fork-6m": Look(_BROWN, "s"),
    # conditions
    "same": Look(_BLUE, "o"),
    "reverse": Look(_RED, "X"),
    "in-context": Look(_GREEN, "^"),
    "control": Look(_GREY, "v"),
    "correct": Look(_GREEN, "o"),
    "randomized": Look(_ORANGE, "v"),
    "realized": Look(_BLUE, "P"),
    "unrealized": Look(_ORANGE, "o"),
    "permuted": Look(_PINK, "X"),  # a control trained on permuted names
    "untuned": Look(_GREY, "X"),  # the base with the prompts of the fine-tune
    "parent": Look(_BLUE, "<"),
    "child": Look(_RED, ">"),
    "one-way": Look(_ORANGE, "<"),
    "two-way": Look(_GREEN, ">"),
    "asked-about": Look(_PINK, "o"),
    "answered": Look(_BLUE, "^"),
    "right": Look(_GREEN, "s"),
    "reversed": Look(_RED, "<"),
    "before": Look(_GREY, "D"),
    "documents alone": Look(_ORANGE, "P"),
    "old rows mixed in": Look(_GREEN, "D"),
    "more epochs": Look(_RED, "s"),
    "train": Look(_SKY, "s"),
    "validation": Look(_RED, "o"),
    "whole": Look(_BLACK, "o"),  # distributions that were not cut to top k
    "tail bucket": Look(_BLUE, "D"),
    "floor of -30": Look(_RED, "v"),
    # what others measured, and what guessing gives
    "published": Look(_BLACK, "D"),
    "chance": Look(_GREY, ""),
}


_spare: dict[str, Look] = {}  # of names without a look of their own, in the order in which figures needed them


def look(name: str) -> Look:
    """Colour and marker of one model or condition.

    A name that is not in `LOOKS` has the look of its last part that is (`person-first/reverse` is a `reverse`). Any
    other name gets the next spare look and keeps it until `use_style`, so over all figures of a notebook.

    >>> look("person-first/reverse") == look("reverse")
    True
    >>> look("self bleu / SFT") == look("SFT")
    True
    >>> look("same") == look("reverse")
    False
    """
    if name in LOOKS:
        return LOOKS[name]
    known = [part for part in map(str.strip, name.split("/")) if part in LOOKS]
    return LOOKS[known[-1]] if known else _spare_look(name)


def looks(names: Iterable[object]) -> dict[str, Look]:
    """Colour and marker of all names in one legend, no two alike.

    Names are looked up in alphabetical order, so that the order of a table's rows does not matter. Where two names
    share a part of `LOOKS`, the second one gets a spare look.

    >>> len(set(looks(["fork-1m/SFT", "fork-6m/SFT"]).values()))
    2
    """
    found: dict[str, Look] = {}
    for name in sorted({str(name) for name in names}, key=lambda name: (name not in LOOKS, name)):
        shape = look(name)
        found[name] = _spare_look(name) if shape in found.values() else shape
    return found


def _spare_look(name: str) -> Look:
    if name not in _spare:
        row, column = divmod(len(_spare), len(_SPARE_COLORS))
        marker = _SPARE_MARKERS[row] if row < len(_SPARE_MARKERS) else f"${row}$"  # a number when markers run out
        _spare[name] = Look(_SPARE_COLORS[column], marker)
    return _spare[name]


def use_style() -> None:
    """Set the project's style for all figures that follow (seaborn paper, ticks, colorblind), and forget spare looks.

    >>> use_style()
    >>> mpl.rcParams["savefig.dpi"]
    200.0
    """
    _spare.clear()
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.85, rc=_STYLE)


_STYLE: dict[str, Any] = {
    # The font that comes with matplotlib, so that a figure does not depend on what a machine has installed.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "figure.figsize": (SINGLE_IN, 2.5),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": PNG_DPI,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "tuning-fork",
    "svg.fonttype": "path",
}


def save(fig: Figure, folder: Path, name: str, caption: str) -> Path:
    """Write `name`.png (200 dpi), .svg, .pdf and the caption as .txt; the same figure gives the same bytes.

    The caption holds the claim, what dot and bar are, n of facts, prompts and seeds, preset and model.

    Returns
    -------
    Path
        The png.

    Raises
    ------
    ValueError
        If the name is not letters, digits, `-` and `_`, or the caption is empty.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"figure name {name!r}: expected letters, digits, - and _")
    if not caption.strip():
        raise ValueError(f"figure {name}: expected a caption (the claim, what dot and bar are, n, preset, model)")
    # A date, a version or random ids would change the bytes of an unchanged figure.
    metadata: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    metadata["pdf"] = {"CreationDate": None, "Creator": None, "Producer": None}
    with mpl.rc_context({"svg.hashsalt": _STYLE["svg.hashsalt"], "savefig.bbox": None}):
        for kind, without in metadata.items():
            picture = io.BytesIO()
            fig.savefig(picture, format=kind, dpi=PNG_DPI, metadata=without)
            with atomic_write(folder / f"{name}.{kind}", "wb") as file:
                file.write(picture.getvalue())
    with atomic_write(folder / f"{name}.txt") as file:
        file.write(" ".join(caption.split()) + "\n")
    return folder / f"{name}.png"
