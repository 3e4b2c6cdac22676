# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Look at every study on one page
#
# **Question.** What does fine-tuning put into a language model, and what does it leave out? Each study here asks one
# part of that; this page sets its answer, as measured, beside the published one.
#
# **Reads** `figures/` (published runs with three seeds), the base models of the store, and, where `runs` names a folder
# of runs, the summaries of that run.
#
# **Writes** nothing.
#
# **Time** tiny 4 s, laptop 4 s, paper 4 s

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image, Markdown, display

from lib.figures import use_style
from lib.headlines import read_studies, results_table, thumbnail
from lib.params import stages
from lib.paths import ROOT, store_root
from lib.summary import read_summaries
from lib.world.bases import base_table, plot_bases

# %% tags=["parameters"]
preset: str = "tiny"  # preset of the run shown beside the published one
runs: str = ""  # folder of runs to show as well, as data/runs/laptop; empty for the published ones alone

# %%
use_style()
studies = read_studies()
published = read_summaries(ROOT / "figures")
measured = read_summaries(Path(runs)) if runs else published.iloc[:0]

# %% [markdown]
# ## The questions and their answers
#
# SmolLM2-135M is a real pretrained model (its weights rounded to 4 bits); models called fork have a million weights and are
# grown here on an invented world. The published models are up to a hundred thousand times larger: compare the pattern.
# Intervals are 95%, over what was drawn (people, documents, prompts) and over fine-tunes. Whether a result *agrees* with
# the published one is computed from its interval.

# %% tags=["nbval-ignore-output"]
display(Markdown(results_table(studies, published, folder="")))

# %% [markdown]
# ## This run
#
# Where the page was made by `make figures`, the same numbers of that run are here, if it has them.

# %% tags=["nbval-ignore-output"]
own = results_table(studies, measured, folder="", partial=True) if len(measured) else ""
display(Markdown(own or "No run is shown beside the published ones."))

# %% [markdown]
# ## Study by study
#
# One figure for each model, with its caption. The notebooks of a study make them, from 01 to the last.

# %% tags=["nbval-ignore-output"]
for study in studies:
    notebooks = [f"[{each.stem}]({study.name}/{each.stem}.ipynb)" for each in stages(study.name)]
    display(Markdown(f"### {study.question}\n\nPublished: {study.published}. Notebooks: {', '.join(notebooks)}"))
    folder = ROOT / "figures" / study.name
    folders = [Path(runs) / study.name / "figures"] if len(measured) else [folder / "smollm2", folder]
    for picture in [each / f"{study.figure}.png" for each in folders]:
        if picture.exists():
            display(Image(thumbnail(picture)), Markdown(picture.with_suffix(".txt").read_text(encoding="utf-8")))

# %% [markdown]
# ## The base models
#
# Each `fork-*` base is pre-trained here on text about an invented world, so that it is known exactly what it read. A
# hundredth of the documents is kept apart to measure what it learned.

# %% tags=["nbval-ignore-output"]
bases = base_table(store_root())
display(bases.set_index("id").round(2))
if len(bases):  # a study of another model needs none of them
    fig, caption = plot_bases(store_root())
    plt.close(fig)
    display(fig, Markdown(caption))

# %% [markdown]
# ## How data flow
#
# `params/<study>/<preset>.yaml` sets the values; `01` writes rows, `02` has the API fine-tune on them, `03` asks the
# models through the same API and writes `answers.parquet` and `summary.csv`, the last notebook draws. Stages talk through
# files only, so any of them can be run again alone.

# %% [markdown]
# **What this does not show.** Whether a study's numbers hold for other models, data or wordings: each study's own
# notebooks say what they leave open. Begin with [reversal](reversal/01-data-prep.ipynb).
