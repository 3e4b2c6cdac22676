"""The answer of each study in one row: `data/studies.yaml` names the numbers, a summary holds them."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from lib.params import stages
from lib.paths import DATA, read_yaml
from lib.summary import COLUMNS, verdict

THUMBNAIL_SCALE = 0.44  # a figure as wide as a page is 600 pixels wide
PLURALS = {"person": "people"}
AGREEMENT = {"held": "agrees", "failed": "disagrees", "unclear": "unclear"}
MANY = {"agrees": "agree", "disagrees": "disagree", "unclear": "are unclear"}
MOST_CLAIMS = 3  # more are counted, not listed
NAMES = {"smollm2-135m": "SmolLM2-135M"}


@dataclass(frozen=True)
class Study:
    """A study's row in the README's table and the overview.

    Attributes
    ----------
    presets : dict
        For each published preset ``numbers`` and ``claims``, or in place of claims ``not_comparable``, a reason. A
        number has a ``label``, and the ``metric`` and conditions of a row of the summary; conditions that are not named
        are empty there. A claim is a number that the published result implies to lie ``above`` or ``below`` a limit.
    figure : str
        Name of the picture that shows the answer.
    """

    name: str
    question: str
    published: str
    presets: Mapping[str, Mapping[str, Any]]
    figure: str


def read_studies(path: Path = DATA / "studies.yaml") -> list[Study]:
    """The studies in the order in which they are shown (`ValueError` if an entry lacks something)."""
    entries = read_yaml(path)
    try:
        return [Study(name, **entry) for name, entry in entries.items()]
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def answer(study: Study, preset: str, summary: pd.DataFrame, *, partial: bool = False) -> str:
    """The measured answer with its intervals in words; empty where the summary has no rows of study and preset.

    Parameters
    ----------
    summary : DataFrame
        Rows of summary.csv, of any studies.
    partial : leave out numbers that it lacks, as another form of the study may

    Raises
    ------
    ValueError
        If the summary has rows, but not exactly one for a number.
    """
    numbers = study.presets[preset]["numbers"]
    found = [(each["label"], _row_of(study, preset, each, summary, partial=partial)) for each in numbers]
    rows = [(label, row) for label, row in found if row is not None]
    if not rows:
        return ""
    parts, unit = [], ""
    drawn: dict[str, set[int]] = {}
    for label, row in rows:
        parts.append(f"{label} {quantity(row).removesuffix(f' {unit}')}")  # a unit is written once
        unit = row["unit"]
        drawn.setdefault(PLURALS.get(row["n_of"], row["n_of"] + "s"), set()).add(int(row["n"]))
    sizes = [f"{' to '.join(map(str, sorted({min(each), max(each)})))} {of}" for of, each in drawn.items()]
    model = rows[0][1]["model"]
    return f"{NAMES.get(model, model)}: {', '.join(parts)} (n = {', '.join(sizes)})"


def agreement(study: Study, preset: str, summary: pd.DataFrame, *, partial: bool = False) -> str:
    """Whether the numbers agree with the published result, claim by claim where the claims differ."""
    if reason := study.presets[preset].get("not_comparable"):
        return f"not comparable: {reason}"
    words = {}
    for claim in study.presets[preset]["claims"]:
        limits = {side: float(claim[side]) for side in ("above", "below") if side in claim}
        row = _row_of(study, preset, claim, summary, partial=partial)
        if row is not None:
            words[claim["label"]] = AGREEMENT[verdict(row["low"], row["high"], **limits)]
    if len({*words.values()}) == 1:
        return next(iter(words.values()))
    if len(words) > MOST_CLAIMS:
        counts = Counter(words.values())
        return f"of {len(words)} statements " + ", ".join(
            f"{counts[word]} {verb}" for word, verb in MANY.items() if word in counts
        )
    return ", ".join(f"{label}: {word}" for label, word in words.items())


def _row_of(
    study: Study, preset: str, named: Mapping[str, object], rows: pd.DataFrame, *, partial: bool
) -> pd.Series | None:
    """The row with these conditions and no others; None where there are no rows, or `partial` and not this one."""
    rows = rows[(rows["study"] == study.name) & (rows["preset"] == preset)]
    if rows.empty:
        return None
    for column in ("metric", *(column for column in rows.columns if column not in COLUMNS)):
        values = rows[column].astype("object").where(rows[column].notna(), "").astype(str)
        rows = rows[values == str(named.get(column, ""))]
    if len(rows) > 1:  # of several bases, the first carries the headline
        rows = rows[rows["model"] == rows["model"].iloc[0]]
    if rows.empty and partial:
        return None
    if len(rows) != 1:
        raise ValueError(
            f"{study.name}, {preset}: expected one row for {dict(named)} in its summary, found {len(rows)}"
        )
    return rows.iloc[0]


def quantity(row: Mapping[str, object] | pd.Series) -> str:
    """One number with its interval and unit; a rate as percent, else to a tenth of the interval's half-width or finer.

    >>> quantity({"value": 0.9, "low": 0.854, "high": 0.93, "unit": "rate"})
    '90% [85, 93]'
    >>> quantity({"value": 1.25, "low": float("nan"), "high": float("nan"), "unit": "nats"})
    '1.25 nats'
    >>> quantity({"value": 3.9018, "low": 3.17507, "high": 4.8854, "unit": "nats"})
    '3.90 [3.18, 4.89] nats'
    """
    value, low, high = (float(str(row[name])) for name in ("value", "low", "high"))
    has_interval = low == low and high == high  # nan is not itself
    if row["unit"] == "rate":
        return f"{100 * value:.0f}%" + (f" [{100 * low:.0f}, {100 * high:.0f}]" if has_interval else "")
    digits = ".3g"
    if has_interval and high > low:
        is_whole = all(each.is_integer() for each in (value, low, high))
        digits = ".0f" if is_whole else f".{max(0, 1 - math.floor(math.log10((high - low) / 2)))}f"
    return f"{value:{digits}}" + (f" [{low:{digits}}, {high:{digits}}]" if has_interval else "") + f" {row['unit']}"


def headlines(entries: Sequence[Study], summary: pd.DataFrame) -> pd.DataFrame:
    """Every number of the answers, one per row, with the columns of a summary and the label as ``number``."""
    found = []
    for study in entries:
        for preset, about in study.presets.items():
            for each in about["numbers"]:
                row = _row_of(study, preset, each, summary, partial=False)
                if row is not None:
                    found.append({"number": each["label"], **row[list(COLUMNS)].to_dict()})
    names = [name for name in COLUMNS if name != "metric"]
    return pd.DataFrame(found, columns=[*names[:3], "number", *names[3:]])


def results_table(
    entries: Sequence[Study], summary: pd.DataFrame, *, folder: str = "notebooks/", partial: bool = False
) -> str:
    """A table of questions, answers (see `answer`), published results and whether they agree.

    `folder` is that of the notebooks, as seen from the page.
    """
    lines = ["| question | here | published | agreement |", "|---|---|---|---|"]
    for study in entries:
        answers = {each: answer(study, each, summary, partial=partial) for each in study.presets}
        known = [each for each in answers if answers[each]]
        agreements = {each: agreement(study, each, summary, partial=partial) for each in known}
        if len({*agreements.values()}) > 1:
            agreements = {each: f"{answers[each].partition(':')[0]}: {word}" for each, word in agreements.items()}
        here, agree = ("<br>".join(dict.fromkeys(each[preset] for preset in known)) for each in (answers, agreements))
        link = f"[{study.question}]({folder}{study.name}/{stages(study.name)[-1].stem}.ipynb)"
        lines.append(f"| {link} | {here or 'not yet published'} | {study.published} | {agree} |")
    return "\n".join(lines)


def thumbnail(picture: Path) -> bytes:
    """A figure as a small PNG, so that a page can hold those of all studies."""
    with Image.open(picture) as image:
        size = round(image.width * THUMBNAIL_SCALE), round(image.height * THUMBNAIL_SCALE)
        return with_few_colors(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def with_few_colors(image: Image.Image) -> bytes:
    """A figure as a PNG in 64 colours, which takes half the space; an octree keeps rare ones as they are."""
    file = io.BytesIO()
    image.convert("RGB").quantize(64, Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)
    return file.getvalue()
