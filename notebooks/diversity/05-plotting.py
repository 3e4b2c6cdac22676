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
# # See which stage narrows the model
#
# **Question.** Both readings side by side: what a model expects on given text, and what it writes. Which stage changed
# which, and is it what was published?
#
# **Reads** `summary.csv`, `differences.csv`, `shares.csv` (notebook 04), `data/diversity/published.csv`.
#
# **Writes** `figures/`.
#
# **Time** tiny 8 s, laptop 8 s, paper 10 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.diversity import (
    accuracy_curves,
    change_rows,
    published_values,
    reading_table,
    stage_table,
    stages_of,
    temperature_curves,
)
from lib.figures import plot_curves, plot_intervals
from lib.notebook import start_run
from lib.tables import read_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/diversity/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/diversity
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # chains that differ in nothing but their seed [1..20]
kinds: list[str] = ["creative", "factual", "seen"]  # of prompts
n_samples: int = 6  # of each prompt and temperature; published: 25 [2..1000]

# %%
run = start_run("diversity/05-plotting", globals())
summary = read_summary(run.need("summary.csv"))
differences, shares = (pd.read_csv(run.need(f"{name}.csv")) for name in ("differences", "shares"))
main = summary["model"].iloc[0]
stages = stages_of(summary, family=main)
over_what = "prompts and fine-tunes" if n_seeds > 1 else "prompts"
n_prompts = int(summary.loc[summary["condition"].str.startswith(tuple(kinds)), "n"].max())
of_what = f"{main}, {n_seeds} fine-tune(s) a stage, preset {run.preset}"

# %% [markdown]
# ## Every number, stage by stage
#
# **Prediction, from the published runs.** Next-token distributions narrow at SFT and hardly at DPO; what is written narrows
# at both, most clearly at DPO, and on factual prompts more than on creative ones. *No effect* would be intervals that
# overlap from stage to stage.

# %% tags=["nbval-ignore-output"]
table = stage_table(summary, family=main)
chosen = [
    "perplexity",
    "bits_per_byte",
    "entropy_of_mean",
    "mean_entropy",
    "coverage_70_tokens",
    "self_bleu",
    "jaccard_2",
]
chosen += ["cosine", "vendi_cosine", "distinct_2", "accuracy", "answer_entropy", "top_share", "option_entropy"]
table[table["metric"].isin(chosen)].set_index(["kind", "metric"])

# %% [markdown]
# ## Set against the published reading
#
# Each measure that was published too: does it move the same way at the same stage? Heights cannot be compared between a
# model of a million weights and one of billions, directions can. Published labels are the right ones (in the published
# figure, creative and factual are exchanged).

# %% tags=["nbval-ignore-output"]
reading = reading_table(summary, published_values(), main, differences=differences)
reading[["kind", "measure", "stage", "measured", "published", "agrees"]] if len(reading) else "Nothing to compare."

# %% [markdown]
# ## What a model writes: measures over temperature
#
# **Prediction.** At a low temperature every stage repeats itself. Stages part as the temperature rises: a tuned model stays
# alike where the base scatters.

# %% tags=["nbval-ignore-output"]
names = {"jaccard_2": "shared word pairs (rate)", "vendi_cosine": "effective texts"}
drawn = [kind for kind in kinds if summary["condition"].str.startswith(f"{kind}/").any()]
rows_of = [name for name in names if (summary["metric"] == name).any()]
grid = {"sharex": True, "sharey": "row", "squeeze": False}
fig, axs = plt.subplots(len(rows_of), len(drawn), figsize=(6.4, 1.7 * len(rows_of)), **grid)
for line, metric in zip(axs, rows_of, strict=True):
    for ax, kind in zip(line, drawn, strict=True):
        plot_curves(ax, temperature_curves(summary, kind, metric, main), by="stage", legend=ax is axs[0][-1])
        ax.set(xlabel=f"temperature ({kind})", ylabel=names[metric])
        ax.label_outer()
caption = (
    f"How alike {n_samples} texts to one prompt are, over temperature. Upper row: word pairs that two texts share (Jaccard; "
    "less is more diverse); lower row: effective number of texts (Vendi score of embeddings; more is more diverse). Line: "
    f"mean over {n_prompts} prompts a kind, band: 95% interval over {over_what}. {of_what}."
)
run.save(fig, "over-temperature", caption)
plt.close(fig)
fig

# %% [markdown]
# ## Which stage, by how much?
#
# Effect sizes, paired by prompt, turned so that below zero is narrower.

# %% tags=["nbval-ignore-output"]
of_texts = differences[differences["kind"].isin(drawn)]
changes = change_rows(of_texts, main) if len(of_texts) else of_texts
if len(changes):
    height = 0.6 + 0.13 * changes["measure"].nunique() * (len(stages) - 1)
    fig, axs = plt.subplots(1, len(drawn), figsize=(6.4, height), sharey=True, squeeze=False)
    for ax, kind in zip(axs[0], drawn, strict=True):
        rows = changes[changes["kind"] == kind]
        rows = rows.assign(change=rows["measure"].str.replace("_", " ") + " / " + rows["stage"], unit=kind)
        plot_intervals(ax, rows, by="change")
        ax.axvline(0, color="0.5", linewidth=0.8, zorder=0)
    caption = (
        "What each stage does to the diversity of texts. Point: effect size (Cohen's d of paired prompts) of a stage against "
        f"the one before, below 0 narrower; bar: 95% interval over {over_what}. {of_what}."
    )
    run.save(fig, "by-measure", caption)
    plt.close(fig)
fig if len(changes) else "There is one stage only: nothing to compare."

# %% [markdown]
# ## Less diverse, or less often wrong?
#
# **Prediction.** Tuned models answer factual prompts more often right. Where right answers alone (below, `correct`) are as
# alike before a stage as after it, what the stage removed were errors.

# %% tags=["nbval-ignore-output"]
table[table["kind"].isin(["factual", "factual/correct"]) & table["metric"].isin(chosen)].set_index(["kind", "metric"])

# %% tags=["nbval-ignore-output"]
answered = ((summary["metric"] == "accuracy") & (summary["x_name"] == "temperature")).any()
if answered:
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_curves(ax, accuracy_curves(summary, main), by="stage")
    caption = (
        "How often factual answers are right, over temperature. Line: share of texts that hold an accepted answer, band: 95% "
        f"interval over {over_what}. {of_what}."
    )
    run.save(fig, "accuracy", caption)
    plt.close(fig)
fig if answered else "No prompt has accepted answers."

# %%
changed = shares.groupby(["family", "kind", "measure"])["value"].sum() if len(shares) else pd.Series(dtype=float)
if not np.allclose(changed, 1.0, atol=1e-3):
    raise ValueError(f"the shares of stages add up to {changed.min()} to {changed.max()}, expected 1")
run.finish("Every figure is drawn, and the shares of the stages add up to the whole change.")

# %% [markdown]
# **What this does not show.** One seed is one fine-tune of each stage; preference data of one style are a strong push, and
# people's preferences are of many styles. What narrows a model of a million weights need not be what narrows a large one.
#
# The overview of all studies: [00-overview](../00-overview.ipynb).
