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
# # Measure how spread out next-token predictions are
#
# **Question.** On text that nobody tuned on, does a stage make each prediction sharper, or does the model come to use
# fewer tokens at all? Two different things: the mean of the entropies, and the entropy of the mean.
#
# **Reads** `finetunes.parquet` (notebook 02), `dataset/text.jsonl` (notebook 01) or `text`.
#
# **Writes** `next-token/`: running totals of every model and one row per document; `summary.csv`, `differences.csv` and
# `shares.csv`, which notebook 04 takes up; and `curves.csv`.
#
# **Time** tiny 10 s, laptop 35 s, paper 4 h (10,000 documents of Pile-like text)

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.diversity import by_size, chain_curves, compare_statistics, score_chains, summarise_next_token
from lib.figures import plot_cumulative, plot_curves, plot_intervals
from lib.next_token import Source
from lib.notebook import start_run
from lib.tables import write_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/diversity/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/diversity
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # chains that differ in nothing but their seed [1..20]
text: str = ""  # general text: .txt, .jsonl(.zst), a folder, hf:<data set>:<split>; empty: the world's
document: str = "auto"  # what one document of a .txt is [auto | file | heading | paragraphs]
max_docs: int = 0  # the first documents only; 0: all; published: 10,000 [0..]
documents: str = ""  # path of a JSON list of document numbers, instead of max_docs
window: int = 0  # most tokens of context; 0: all that the model takes; published: 1,024 [0..]
stride: int = 0  # how far the window moves; 0: all of it, as published, so that contexts do not overlap [0..]
begin_id: int = -1  # token in front of each document, never scored; -1: what the tokenizer puts there [-1..]
n_resamples: int = 200  # of the bootstrap over documents [0..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("diversity/03-next-token", globals())
models = pd.read_parquet(run.need("finetunes.parquet"))

# %% [markdown]
# ## Score every token of every document once
#
# Only target positions count: what a window reads again as context does not (the published code counts it twice), and the
# last documents count like the first (there, up to 499 fell away). Sums are kept, never distributions, so that memory does
# not grow with the text; a killed run goes on.

# %% tags=["nbval-ignore-output"]
totals = {}
if len(models):
    place = text or str(run.need("dataset/text.jsonl", stage="01"))
    source = Source(place, document=document, max_docs=max_docs, documents=documents)
    totals = score_chains(run.client(), models, source, run.params, folder=run.path("next-token/x").parent)
summary = summarise_next_token(totals, preset=run.preset)
write_summary(run.path("next-token/summary.csv"), summary)
for name, table in zip(("differences", "shares"), compare_statistics(totals), strict=True):
    table.to_csv(run.path(f"next-token/{name}.csv"), index=False, float_format="%.6g")
for family, chain in totals.items():
    first = next(iter(chain.values()))[0]
    print(f"{family}: {first.count('documents')} documents, {first.count('skipped_documents')} skipped")
n_documents = int(summary["n"].max()) if len(summary) else 0
main = summary["model"].iloc[0] if len(summary) else ""
of_what = f"{main}, {n_seeds} fine-tune(s) a stage, preset {run.preset}"

# %% [markdown]
# ## Stage by stage
#
# **Prediction, from the published runs.** Perplexity on general text rises at SFT, for the model now expects answers, and
# hardly at DPO. The averaged distribution narrows at SFT (fewer tokens hold 70% of it) and stays where it is at DPO. *No
# effect* would be intervals that hold the base's value.
#
# `mean_entropy` says how open each prediction is, `entropy_of_mean` how many tokens are used at all, `entropy_gap` their
# difference (a Jensen-Shannon divergence). Perplexities compare models of one tokenizer only, bits per byte all models.

# %% tags=["nbval-ignore-output"]
shown = [
    "perplexity",
    "bits_per_byte",
    "entropy_of_mean",
    "mean_entropy",
    "entropy_gap",
    "coverage_70_tokens",
    "coverage_90_tokens",
]
shown += ["confidence", "calibration_error", "kl"]
wide = summary[summary["metric"].isin(shown)].assign(stage=summary["condition"].str.split("/").str[1])
wide.pivot_table(index=["model", "metric"], columns="stage", values="value", sort=False) if len(wide) else wide

# %% [markdown]
# ## What a model expects: how many tokens hold its probability?
#
# The mean distribution, sorted. A line that lies further left uses fewer tokens.

# %% tags=["nbval-ignore-output"]
curves, positions = chain_curves(totals)
curves.to_csv(run.path("curves.csv"), index=False, float_format="%.6g")
own = dict(iter(curves[curves["family"] == main].groupby("stage", sort=False)))
if own:
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.7))
    plot_cumulative(axs[0], own)
    plot_cumulative(axs[1], own, zoom=(0.6, 1.0), legend=False)
    caption = (
        "How many tokens hold how much of the average next-token probability. Line: cumulative probability of the mean "
        f"distribution over general text, likeliest token first; right: its upper part. {n_documents} documents, {of_what}."
    )
    _ = run.save(fig, "cumulative", caption)

# %% [markdown]
# ## By stage, and by size
#
# **Prediction, from the published runs.** Perplexity rises most in the smallest models.

# %% tags=["nbval-ignore-output"]
if own:
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6))
    for ax, metric in zip(axs, ("perplexity", "mean_entropy"), strict=True):
        rows = by_size(summary, metric)
        if rows["size"].nunique() > 1:
            ax.set_xscale("log")
            plot_curves(ax, rows, x="size", by="stage", legend=ax is axs[-1])
        else:
            plot_intervals(ax, rows, by="stage", zero=False)
    caption = (
        "Perplexity and mean entropy of next-token predictions on general text, by stage (and size of the base). Point: "
        f"mean over tokens, bar or band: 95% interval over {n_documents} documents and fine-tunes. {of_what}."
    )
    _ = run.save(fig, "by-stage", caption)

# %% [markdown]
# ## Where do the predictions move away from the base?
#
# **Prediction.** The divergence from the base is largest at the start of a document, where a model that was tuned on
# answers expects one, and falls as the text makes clear what it is.

# %% tags=["nbval-ignore-output"]
diverging = positions[positions["quantity"] == "kl"] if len(positions) else positions
if len(diverging):
    fig, ax = plt.subplots(figsize=(3.4, 2.5))
    shown = diverging[diverging["family"] == main]
    ax.set_xscale("log", base=2)
    plot_curves(ax, shown.assign(metric="KL from the base", unit="nats per token"), x="position", by="stage")
    ax.set_xlabel("position in the document (tokens)")
    caption = (
        "How far each stage has moved from the base, by position. Line: mean divergence KL(stage || base), band: 95% "
        f"interval over {n_documents} documents. {of_what}."
    )
    _ = run.save(fig, "divergence", caption)
else:
    print("There is no stage beside the base to compare with.")

# %%
for family, chain in totals.items():
    numbers = {label: [each.count("documents") for each in of_stage] for label, of_stage in chain.items()}
    if len({number for counts in numbers.values() for number in counts}) != 1:
        raise ValueError(f"the models of {family} were scored on different documents: {numbers}")
gaps = summary.loc[summary["metric"] == "entropy_gap", "value"]
if (gaps < 0).any():
    raise ValueError("the entropy of a mean distribution lies below the mean entropy")
run.finish(
    "Every model was scored on the same documents, and no mean distribution is narrower than what it is the mean of."
)

# %% [markdown]
# **What this does not show.** These are predictions on given text. What a model writes by itself, where each word it drew
# becomes its own context, is measured next.
#
# Next: [04-completions](04-completions.ipynb).
