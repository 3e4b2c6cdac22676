"""The answer of each study in one row: `data/studies.yaml` names the numbers, a summary holds them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from lib.params import stages
from lib.paths import DATA
from lib.summary import COLUMNS

THUMBNAIL_SCALE = 0.47  # a figure as wide as a page is 640 pixels wide
PLURALS = {"person": "people"}


@dataclass(frozen=True)
class Study:
    """A study's row in the README's table and the overview.

    Attributes
    ----------
    headline : tuple of dict
        The numbers of its answer: a ``label`` each, and the ``metric`` and conditions of a row of its summary. A
        condition that is not named is empty in that row.
    figure : str
        Name of the picture that shows the answer.
    """

    name: str
    question: str
    published: str
    headline: tuple[Mapping[str, str], ...]
    figure: str


def read_studies(path: Path = DATA / "studies.yaml") -> list[Study]:
    """The studies in the order in which they are shown (`ValueError` if an entry lacks something)."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return [Study(name, **{**entry, "headline": tuple(entry["headline"])}) for name, entry in entries.items()]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error


def answer(study: Study, summary: pd.DataFrame, *, partial: bool = False) -> str:
    """The measured answer with its intervals in words; empty where the study has no rows yet.

    Parameters
    ----------
    summary : DataFrame
        Rows of summary.csv, of any studies.
    partial : leave out numbers that it lacks, as another form of the study may

    Raises
    ------
    ValueError
        If the summary has rows of the study, but not exactly one for a number of its headline.
    """
    rows = summary[summary["study"] == study.name]
    if rows.empty:
        return ""
    found: list[tuple[object, pd.Series]] = []
    for each in study.headline:
        conditions = {name: value for name, value in each.items() if name != "label"}
        row = _row_of(study, conditions, rows, partial=partial)
        found += [] if row is None else [(each["label"], row)]
    sizes = [f"n = {row['n']} {PLURALS.get(row['n_of'], row['n_of'] + 's')}" for _, row in found]
    same = len(set(sizes)) == 1
    parts = [
        f"{label} {quantity(row)}" + ("" if same else f" ({size})")
        for (label, row), size in zip(found, sizes, strict=True)
    ]
    about = [*sizes[:1] * same, *(row["model"] for _, row in found[:1])]
    return f"{'; '.join(parts)} (95% intervals, {', '.join(about)})" if found else ""


def _row_of(study: Study, named: Mapping[str, object], rows: pd.DataFrame, *, partial: bool) -> pd.Series | None:
    """The row with these conditions and no others; None where `partial` and there is none."""
    for column in ("metric", *(column for column in rows.columns if column not in COLUMNS)):
        values = rows[column].astype("object").where(rows[column].notna(), "").astype(str)
        rows = rows[values == str(named.get(column, ""))]
    if len(rows) > 1:  # of several bases, the first carries the headline
        rows = rows[rows["model"] == rows["model"].iloc[0]]
    if rows.empty and partial:
        return None
    if len(rows) != 1:
        what = " ".join(map(str, named.values()))
        raise ValueError(f"{study.name}: expected one row {what} in its summary, found {len(rows)}")
    return rows.iloc[0]


def quantity(row: Mapping[str, object] | pd.Series) -> str:
    """One number with its interval and unit; a rate as percent.

    >>> quantity({"value": 0.9, "low": 0.854, "high": 0.93, "unit": "rate"})
    '90% [85, 93]'
    >>> quantity({"value": 1.25, "low": float("nan"), "high": float("nan"), "unit": "nats"})
    '1.25 nats'
    """
    value, low, high = (float(str(row[name])) for name in ("value", "low", "high"))
    has_interval = low == low and high == high  # nan is not itself
    if row["unit"] == "rate":
        return f"{100 * value:.0f}%" + (f" [{100 * low:.0f}, {100 * high:.0f}]" if has_interval else "")
    return f"{value:.3g}" + (f" [{low:.3g}, {high:.3g}]" if has_interval else "") + f" {row['unit']}"


def results_table(entries: Sequence[Study], summary: pd.DataFrame, *, partial: bool = False) -> str:
    """The README's table: question, answer (see `answer`), published, notebook."""
    lines = ["| question | measured here | published | notebook |", "|---|---|---|---|"]
    for study in entries:
        last = stages(study.name)[-1]
        link = f"[{study.name}](notebooks/{study.name}/{last.stem}.ipynb)"
        measured = answer(study, summary, partial=partial) or "not yet published"
        lines.append(f"| {study.question} | {measured} | {study.published} | {link} |")
    return "\n".join(lines)


def thumbnail(picture: Path) -> bytes:
    """A figure as a small PNG, so that a page can hold those of all studies."""
    from PIL import Image

    with Image.open(picture) as image:
        size = round(image.width * THUMBNAIL_SCALE), round(image.height * THUMBNAIL_SCALE)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.quantize(64, Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)  # keeps rare colours
    return file.getvalue()
