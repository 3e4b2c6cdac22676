"""Publish a finished run: ``python -m lib.publish [STUDY ...]`` copies figures and numbers of SEEDS=3 runs to figures/.

The README's table between its two markers and the overview notebook are made anew from them. `data/studies.yaml` says
what stands in it.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lib import console
from lib.base import plot_bases
from lib.keys import home, stages, studies
from lib.paths import DATA, ROOT, atomic_write, read_json, run_folder, store_root
from lib.references import execute_in_place
from lib.run import OVERVIEW, StageFailed, number, shown

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

FIGURES = ROOT / "figures"
PRESET = "laptop"
N_SEEDS = 3
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


@dataclass(frozen=True)
class Study:
    """What the README's table and the overview say of a study.

    Attributes
    ----------
    headline : tuple of dict
        The numbers of its answer: ``label``, ``condition`` and ``metric`` of a row of its summary each.
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


def answer(study: Study, summary: pd.DataFrame) -> str:
    """The measured answer with its intervals in words; empty where the study has no rows yet.

    Parameters
    ----------
    summary : DataFrame
        Rows of summary.csv, of any studies.

    Raises
    ------
    ValueError
        If the summary has rows of the study, but not exactly one for a number of its headline.
    """
    rows = summary[(summary["study"] == study.name) & summary["x"].isna()]
    if rows.empty:
        return ""
    told = []
    for number_of in study.headline:
        found = rows[(rows["condition"] == number_of["condition"]) & (rows["metric"] == number_of["metric"])]
        if len(found) > 1:  # of several bases, the first carries the headline
            found = found[found["model"] == rows["model"].iloc[0]]
        if len(found) != 1:
            what = f"{number_of['condition']} {number_of['metric']}"
            raise ValueError(f"{study.name}: expected one row {what} in its summary, found {len(found)}")
        told.append(f"{number_of['label']} {quantity(found.iloc[0])}")
    first = rows[rows["condition"] == study.headline[0]["condition"]].iloc[0]
    return f"{'; '.join(told)} (95% intervals; {first['n']} x {first['n_of']}, {first['model']})"


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


def results_table(entries: Sequence[Study], summary: pd.DataFrame) -> str:
    """The README's table: question, answer, published, notebook."""
    lines = ["| question | measured here | published | notebook |", "|---|---|---|---|"]
    for study in entries:
        last = stages(study.name)[-1]
        link = f"[{study.name}](notebooks/{study.name}/{last.name})"
        measured = answer(study, summary) or "not yet published"
        lines.append(f"| {study.question} | {measured} | {study.published} | {link} |")
    return "\n".join(lines)


def thumbnail(picture: Path, *, width_px: int = 640, n_colors: int = 32) -> bytes:
    """A figure as a small PNG, so that a page can hold those of all studies."""
    from PIL import Image

    with Image.open(picture) as image:
        size = width_px, round(image.height * width_px / image.width)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.quantize(n_colors).save(file, "PNG", optimize=True)
    return file.getvalue()


def fill(text: str, table: str) -> str:
    """Put a table between the markers of a page.

    Raises
    ------
    ValueError
        If the page has not each marker once, in order.

    >>> fill(f"a\\n{BEGIN}\\nold\\n{END}\\nb", "new") == f"a\\n{BEGIN}\\nnew\\n{END}\\nb"
    True
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", flags=re.S)
    if len(pattern.findall(text)) != 1 or text.count(BEGIN) != 1:
        raise ValueError(f"README.md: expected {BEGIN} and {END} once, in this order")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text)


def finished_run(study: str) -> Path:
    """Folder of a study's run that may be published.

    Raises
    ------
    ValueError
        If a stage is missing or was run with another number of seeds.
    """
    folder = run_folder(study, PRESET)
    again = f"make figures STUDY={study} SEEDS={N_SEEDS}"
    for notebook in stages(study):
        manifest = folder / f"{number(notebook)}.manifest.json"
        if not manifest.exists():
            raise ValueError(f"{study}: {notebook.stem} has not been run: {again}")
        n_seeds = read_json(manifest)["n_seeds"]
        if n_seeds != N_SEEDS:
            raise ValueError(f"{study}: {notebook.stem} was run with {n_seeds} seed(s), expected {N_SEEDS}: {again}")
    if not (folder / "summary.csv").exists():
        raise ValueError(f"{study}: the run has no summary.csv: {again}")
    return folder


def copy_run(folder: Path, target: Path) -> None:
    """Replace what is published of a study by the figures and the numbers (summary.csv and others) of a run."""
    kinds = (".png", ".svg", ".txt")
    pictures = sorted(path for path in (folder / "figures").glob("*") if path.suffix in kinds)
    files = [*sorted(folder.glob("*.csv")), *pictures]
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        if old.suffix in (*kinds, ".csv") and old.name not in {path.name for path in files}:
            old.unlink()
    for path in files:
        with atomic_write(target / path.name, "wb") as file:
            shutil.copyfileobj(path.open("rb"), file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit code. Nothing is copied when any study is refused."""
    from lib.figures import save, use_style
    from lib.tables import read_summaries

    parser = argparse.ArgumentParser(prog="python -m lib.publish", description="Publish finished SEEDS=3 runs.")
    parser.add_argument("studies", nargs="*", help="default: all that have been run")
    options = parser.parse_args(arguments)
    console.set_up()
    use_style()
    wanted = options.studies or [study for study in studies() if run_folder(study, PRESET).exists()]
    try:
        runs = {study: finished_run(study) for study in wanted}
        entries, readme = read_studies(), (ROOT / "README.md").read_text(encoding="utf-8")
        fill(readme, "")
        for study, folder in runs.items():
            copy_run(folder, FIGURES / study)
            log.info("published %s", shown(FIGURES / study))
        figure, caption = plot_bases(store_root())
        save(figure, FIGURES / "bases", "loss", caption)
        with atomic_write(ROOT / "README.md") as file:
            file.write(fill(readme, results_table(entries, read_summaries(FIGURES))))
        execute_in_place(home() / "notebooks" / f"{OVERVIEW}.ipynb")
    except (ValueError, OSError, StageFailed) as error:
        log.error("make publish: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
