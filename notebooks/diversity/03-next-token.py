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
# **Question.** On text that no stage was tuned on, does a stage make each prediction sharper, or does the model come to use
# fewer tokens at all? Two different things: the mean of the entropies, and the entropy of the mean.
#
# **Method.** Teacher forcing: every token of every document is predicted from those before it, and the distributions are
# summed on the server. Intervals resample documents, and fine-tunes where there are several.
#
# **Reads** `finetunes.parquet` (notebook 02), `dataset/text.jsonl` (notebook 01) or `text`.
#
# **Writes** `next-token/` (sums of every model), `next_token.csv` (numbers, for notebook 05) and figures.
#
# **Time** tiny 10 s, laptop 35 s per seed, smollm2 2 min, paper 4 h (10,000 documents)

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import entropy

from lib.diversity.next_token import log_probs, score, stream
from lib.diversity.statistics import kl_by_position, mean_over_seeds, values_of, with_intervals
from lib.figures import plot_cumulative, plot_curves, plot_intervals
from lib.notebook import start_run
from lib.summary import verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/diversity/<preset>.yaml these values come from
text: str = ""  # a file, a folder, hf:<data set>:<split>; empty: the world's for fork-*, else the project's docs
max_docs: int = 0  # the first documents only; 0: all; published: 10,000 [0..]
window: int = 0  # most tokens of context; 0: all that the model takes; published: 1,024 [0..]
stride: int = 0  # how far the window moves; 0: all of it, as published, so that contexts do not overlap [0..]
n_resamples: int = 200  # of the bootstrap over documents [0..]

# %%
run = start_run("diversity/03-next-token", globals())
models = pd.read_parquet(run.need("finetunes.parquet"))
source = text or str(run.need("dataset/text.jsonl", stage="01"))
main = models["family"].iloc[0] if len(models) else ""
about = f"{main}, {len(run.seeds)} fine-tune(s) per stage, preset {run.preset}"
first = models[models["family"] == main].drop_duplicates("stage")  # one model per stage, in order of training

# %% [markdown]
# ## What is measured, on one sentence
#
# `p` has one row per position and one column per token of the vocabulary. The entropy of a row says how open one prediction
# is, the entropy of their mean how many tokens the predictions use together. Their difference is the Jensen-Shannon
# divergence of the predictions. The mean distribution is sorted, and the tokens that have 70% of it are counted.

# %% tags=["nbval-ignore-output"]
some = next(iter(stream(source)))[:200] if len(models) else ""
computed = []
for row in first.itertuples():
    p = np.exp(log_probs(run.client(), row.model, some))
    p /= p.sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    coverage = 1 + np.searchsorted(np.cumsum(np.sort(mean)[::-1]), 0.7)
    numbers = {
        "mean_entropy": entropy(p, axis=1).mean(),
        "entropy_of_mean": entropy(mean),
        "coverage_70_tokens": coverage,
    }
    computed.append({"stage": row.stage, **numbers, "entropy_gap": entropy(mean) - entropy(p, axis=1).mean()})
print(some)
pd.DataFrame(computed)

# %% [markdown]
# ## Every token of every document
#
# The same sums, over all documents. Only target positions count: what a window reads again as context does not (the
# published code counts it twice), and the last documents count like the first (there, up to 499 were lost). A killed run
# goes on where it ended. Divergences (`kl`) are from the first model of a chain.

# %% tags=["nbval-ignore-output"]
settings = {"max_docs": max_docs, "window": window, "stride": stride, "n_resamples": n_resamples}
totals = {}
for row in models.itertuples():
    bases = models[(models["family"] == row.family) & (models["position"] == 0)]
    base = "" if row.position == 0 else bases["model"].iloc[0]
    name = f"{row.family}, {row.stage}, seed {row.seed}"
    totals[row.family, row.stage, row.seed] = score(
        run.client(), row.model, source, folder=run.path("next-token"), base=base, **settings, description=name
    )
documents = next(iter(totals.values())).documents if totals else pd.DataFrame()
documents.head()

# %% [markdown]
# A row per document: its tokens and bytes, and sums over its tokens in nats. A statistic of the whole text, and of each
# resample of documents, is a row of `values`; the mean over fine-tunes draws fine-tunes too.

# %% tags=["nbval-ignore-output"]
values = {}
for (family, stage), rows in models.groupby(["family", "stage"], sort=False):
    values[family, stage] = mean_over_seeds([values_of(totals[family, stage, seed]) for seed in rows["seed"]])
n_documents = int((documents["tokens"] > 0).sum()) if len(documents) else 0
levels = [
    with_intervals(each).assign(family=family, stage=stage, before=None) for (family, stage), each in values.items()
]
numbers = (
    pd.concat(levels, ignore_index=True)
    if levels
    else pd.DataFrame(columns=["family", "stage", "before", "metric", "unit"])
)
print(f"{n_documents} documents were scored, {len(documents) - n_documents} have nothing to score")
numbers.pivot_table("value", ["family", "metric"], "stage", sort=False) if len(numbers) else numbers

# %% [markdown]
# ## What changes from stage to stage
#
# **What to expect**, from the published runs: perplexity on general text rises at SFT, for the model now expects answers,
# and hardly at DPO. The mean distribution narrows at SFT (fewer tokens have 70% of it) and stays where it is at DPO.
#
# Both stages are resampled alike, so that the difference is paired: it can be clear where the two intervals overlap.

# %% tags=["nbval-ignore-output"]
changes = []
for family, rows in models.groupby("family", sort=False):
    chain = rows.sort_values("position")["stage"].unique()
    for before, stage in zip(chain, chain[1:], strict=False):
        change = (values[family, stage] - values[family, before]).dropna(axis=1, how="all")
        changes.append(with_intervals(change).assign(family=family, stage=stage, before=before))
numbers = pd.concat([numbers, *changes], ignore_index=True)
for row in numbers[numbers["before"].notna() & (numbers["family"] == main)].itertuples():
    if row.metric in ("perplexity", "coverage_70_tokens", "entropy_of_mean", "mean_entropy"):
        outcome = {"held": "rises", "failed": "falls", "unclear": "no clear change"}[
            verdict(row.low, row.high, above=0)
        ]
        print(f"{row.stage}: {row.metric} {row.value:+.3f} [{row.low:+.3f}, {row.high:+.3f}]: {outcome}")

# %% tags=["nbval-ignore-output"]
is_change = numbers["before"].notna()
numbers = numbers.assign(
    kind="next-token",
    n=n_documents,
    n_of="document",
    metric=numbers["metric"] + is_change.map({True: "_change", False: ""}),
    unit=numbers["unit"].mask(is_change & (numbers["unit"] == "rate"), "difference"),
)
numbers.to_csv(run.path("next_token.csv"), index=False)

# %% [markdown]
# ## How many tokens have the probability?
#
# The mean distribution of each stage, sorted and summed up. A curve that lies further left uses fewer tokens.

# %% tags=["nbval-ignore-output"]
curves = {}
for row in first.itertuples():
    members = [each for (family, stage, _), each in totals.items() if (family, stage) == (main, row.stage)]
    means = [each.arrays["probs"][0] / each.documents["tokens"].sum() for each in members]
    of_mean = np.mean([np.cumsum(np.sort(mean)[::-1]) for mean in means], axis=0)
    curves[row.stage] = pd.DataFrame({"n_tokens": np.arange(1, len(of_mean) + 1), "of_mean": of_mean})
if curves:
    fig, ax = plt.subplots(figsize=(4.2, 2.8))
    plot_cumulative(ax, curves)
    caption = (
        "Cumulative probability of the mean next-token distribution over general text, most probable token first. Line: mean "
        f"over fine-tunes. {n_documents} documents, {about}."
    )
    fig.suptitle("Cumulative probability of the mean prediction")
    _ = run.save(fig, "cumulative", caption)

# %% [markdown]
# ## By stage, and by size
#
# **What to expect.** Perplexity rises most in the smallest models.

# %% tags=["nbval-ignore-output"]
if curves:
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6))
    for ax, metric in zip(axs, ("perplexity", "mean_entropy"), strict=True):
        shown = numbers[numbers["metric"] == metric]
        if shown["family"].nunique() > 1:
            bases = models[models["position"] == 0].set_index("family")["model"]
            sizes = bases.map(lambda model: run.client().models.retrieve(model).model_dump().get("n_weights"))
            ax.set_xscale("log")
            shown = shown.assign(x_name="weights of the base", size=shown["family"].map(sizes))
            plot_curves(ax, shown, x="size", by="stage", legend=ax is axs[-1])
        else:
            plot_intervals(ax, shown, by="stage", zero=False)
    caption = (
        "Perplexity and mean entropy of next-token predictions on general text. Point: mean over tokens, bar or band: 95% "
        f"interval over {n_documents} documents and fine-tunes. {about}."
    )
    fig.suptitle("Next-token predictions on general text, by stage")
    _ = run.save(fig, "by-stage", caption)

# %% [markdown]
# ## Where do the predictions move away from the base?
#
# **What to expect.** The divergence from the base is largest at the start of a document, where a model that was tuned on
# answers expects one, and falls as the text makes clear what it is.

# %% tags=["nbval-ignore-output"]
moved = []
for stage in first["stage"].iloc[1:]:
    members = [kl_by_position(each) for (family, label, _), each in totals.items() if (family, label) == (main, stage)]
    moved.append(with_intervals(mean_over_seeds(members)).assign(stage=stage, unit="nats per token"))
if moved:
    rows = pd.concat(moved, ignore_index=True).rename(columns={"metric": "position"}).assign(metric="KL from the base")
    fig, ax = plt.subplots(figsize=(4.2, 2.6))
    ax.set_xscale("log", base=2)
    plot_curves(ax, rows, x="position", by="stage")
    ax.set_xlabel("position in the document (tokens)")
    caption = (
        "Divergence of each stage from the base, KL(stage || base), by position. Line: mean over tokens, band: 95% interval "
        f"over {n_documents} documents. {about}."
    )
    fig.suptitle("Divergence from the base by position")
    _ = run.save(fig, "divergence", caption)
else:
    print("There is no stage beside the base to compare with.")

# %%
run.finish(f"{len(numbers)} numbers of next-token predictions are in next_token.csv.")

# %% [markdown]
# **What this does not show.** These are predictions on given text. What a model writes by itself, where each word it drew
# becomes its own context, is measured next.
#
# Next: [04-completions](04-completions.ipynb).
