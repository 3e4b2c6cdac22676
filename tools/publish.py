"""Publish finished runs with three seeds: ``python -m tools.publish [STUDY ...]``.

Their figures and numbers are copied to ``figures/``, beside a record of what they were made from; notebooks whose
parameters are those of the run get its outputs; the README's table and the overview notebook are made anew.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib import console
from lib.figures import plot_rates, save, use_style
from lib.headlines import headlines, read_studies, results_table
from lib.params import default_preset, home, number, resolve, stages, studies
from lib.paths import ROOT, atomic_write, content_hash, file_hash, read_json, run_folder, store_root, write_json
from lib.reversal import published_values
from lib.run import OVERVIEW, StageFailed, shown
from lib.summary import read_summaries
from lib.world.bases import base_table, bases_of, current_base, plot_bases
from tools.committed import committed, copy_outputs, execute_in_place, source_hash

log = logging.getLogger(__name__)

FIGURES = ROOT / "figures"
PRESETS = {"laptop": "", "smollm2": "smollm2"}  # folder below that of a study
RECORD = "published.json"
N_SEEDS = 3
N_SIZES = 3  # of bases, in the figure of their losses
CAPTION = (
    "Share of questions whose answer starts with the target, in the order of training (same), in the other order "
    "(reverse) and in the other order with the fact in the prompt (in-context). Bar: 95% interval over people and "
    "fine-tunes; diamond: GPT-3 175B as published. Presets smollm2 (15 people per group) and laptop (30), three "
    "fine-tunes each."
)
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


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


def finished_run(study: str, preset: str) -> Path:
    """Folder of a study's run that may be published.

    Raises
    ------
    ValueError
        If a stage is missing, was run with another number of seeds, or from another notebook or preset file than those
        that are here.
    """
    folder = run_folder(study, preset)
    again = f"make figures STUDY={study} PRESET={preset} SEEDS={N_SEEDS}"
    for notebook in stages(study):
        manifest = folder / f"{number(notebook)}.manifest.json"
        if not manifest.exists():
            raise ValueError(f"{study}: {notebook.stem} has not been run: {again}")
        record = read_json(manifest)
        if record["n_seeds"] != N_SEEDS:
            raise ValueError(
                f"{study}: {notebook.stem} was run with {record['n_seeds']} seed(s), expected {N_SEEDS}: {again}"
            )
        for name, known in record["inputs"].items():
            if name.startswith(("notebooks/", "params/")) and file_hash(home() / name) != known:
                raise ValueError(f"{study}: {notebook.stem} was run from another {name}: {again}")
    if not (folder / "summary.csv").exists():
        raise ValueError(f"{study}: the run has no summary.csv: {again}")
    return folder


def made_from(study: str, preset: str) -> dict[str, Any]:
    """What the numbers of a run depend on: values, code of the notebooks, and full ids of the bases in the store."""
    values = resolve(study, preset, {"n_seeds": N_SEEDS})
    bases = [folder.name for name in bases_of(values) if (folder := current_base(store_root(), name))]
    return {
        "study": study,
        "preset": preset,
        "values": content_hash(values),
        "notebooks": {path.stem: source_hash(jupytext.read(path)) for path in stages(study)},
        "bases": bases,
    }


def copy_run(folder: Path, target: Path) -> None:
    """Replace what is published of a study by the figures and the numbers (summary.csv and others) of a run."""
    kinds = (".png", ".svg", ".pdf", ".txt")
    pictures = sorted(path for path in (folder / "figures").glob("*") if path.suffix in kinds)
    files = [*sorted(folder.glob("*.csv")), *pictures]
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        if old.suffix in (*kinds, ".csv") and old.name not in {path.name for path in files}:
            old.unlink()
    for path in files:
        with atomic_write(target / path.name, "wb") as file:
            shutil.copyfileobj(path.open("rb"), file)


def real_and_grown(summary: pd.DataFrame) -> Figure:
    """The figure of the README: the Reversal Curse in a real pretrained model, and in one that was grown here."""
    fig, axs = plt.subplots(1, 2, figsize=(7.6, 2.9), sharey=True)
    published = published_values().rename(columns={"direction": "order"})
    rows = summary[(summary["study"] == "reversal") & (summary["metric"] == "exact_match") & summary["epoch"].isna()]
    rows = rows[rows["role"].isna() & rows["probe"].isin(["test", "in-context"])]
    requested = rows["order"].where(rows["group"] == "both").map({"p2d": "description", "d2p": "name"})
    rows = rows.assign(
        group=("both orders, " + requested + " requested").fillna(rows["group"]),
        order=rows["direction"].where(rows["probe"] == "test", "in-context"),
        metric="exact match",
    ).sort_values("order", key=lambda order: order.map(["same", "reverse", "in-context"].index), kind="stable")
    titles = {"smollm2": "SmolLM2-135M, a real pretrained model", "laptop": "fork-1m, grown on an invented world"}
    for ax, (preset, title) in zip(axs, titles.items(), strict=True):
        shown = rows[rows["preset"] == preset]
        plot_rates(ax, shown, group="group", by="order", published=published, legend=False)
        ax.set_xlabel(title)
        ax.label_outer()
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this module; returns the exit code. Nothing is copied when any study is refused."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description="Publish finished SEEDS=3 runs.")
    parser.add_argument("studies", nargs="*", help="default: all that have been run")
    options = parser.parse_args(arguments)
    console.set_up()
    use_style()
    chosen = [
        (study, preset)
        for study in options.studies or studies()
        for preset in PRESETS
        if run_folder(study, preset).exists() or (options.studies and preset == "laptop")
    ]
    try:
        runs = {pair: finished_run(*pair) for pair in chosen}
        entries, readme = read_studies(), (ROOT / "README.md").read_text(encoding="utf-8")
        fill(readme, "")
        for (study, preset), folder in runs.items():
            target = FIGURES / study / PRESETS[preset]
            copy_run(folder, target)
            write_json(target / RECORD, made_from(study, preset))
            if preset == default_preset(study):
                for notebook in stages(study):
                    copy_outputs(folder / f"{notebook.stem}.ipynb", committed(notebook))
            log.info("published %s", shown(target))
        if len(base_table(store_root())) >= N_SIZES:
            figure, caption = plot_bases(store_root())
            save(figure, FIGURES / "bases", "loss", caption)
        summaries = read_summaries(FIGURES)
        save(real_and_grown(summaries), FIGURES, "real-and-grown", CAPTION)
        with atomic_write(FIGURES / "headlines.csv") as file:
            headlines(entries, summaries).to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
        with atomic_write(FIGURES / "headlines.tex") as file:
            headlines(entries, summaries).to_latex(file, index=False, float_format="%.3g", escape=True)
        with atomic_write(ROOT / "README.md") as file:
            file.write(fill(readme, results_table(entries, summaries)))
        execute_in_place(home() / "notebooks" / f"{OVERVIEW}.ipynb")
    except (ValueError, OSError, StageFailed) as error:
        log.error("make publish: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
