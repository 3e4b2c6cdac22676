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
# # See what lending gives, and what truncation makes of it
#
# **Question.** From how much context on does the blend beat its parts, how much of the gap does it close, where does the
# shift act, and how much of the published picture comes from seeing only a hundred tokens?
#
# **Reads** `summary.csv` (notebook 04) and `generation.csv` (notebook 05).
#
# **Writes** `figures/`: over-context, gap-closed, truncation, shift, strength, and over-size where several were steered.
#
# **Time** tiny 6 s, laptop 8 s, books 8 s, paper 10 s
#
# The outputs kept with this page are the tiny run, whose models have learned next to nothing: they show that everything
# works. The figures of the full run lie in `figures/blending/`; the prose is about those.

# %%
import matplotlib.pyplot as plt

from lib.blending.evaluation import published_values
from lib.blending.figure_tables import (
    context_curves,
    gap_rows,
    pooled_rows,
    shift_curve,
    sweep_rows,
    text_rows,
    truncation_curves,
)
from lib.figures import plot_curves, plot_intervals
from lib.notebook import start_run
from lib.tables import read_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/blending/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/blending
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
top_ks: list[int] = [20, 100]  # the first is the one whose curve is drawn [1..]

# %%
run = start_run("blending/06-plotting", globals())
summary = read_summary(run.need("summary.csv", stage="04"))
numbers = read_summary(run.need("generation.csv"))
big = summary["model"].iloc[0]
n_documents = int(summary["n"].iloc[0])
of_what = f"{big}, {n_seeds} fine-tune(s), {n_documents} test documents, preset {run.preset}"

# %% [markdown]
# ## Over the length of the context
#
# **Prediction.** With little context the tuned small model is the best, since it knows the style and there is nothing else
# to know. With more context the big model overtakes it, and the blend lies below both, close to the big model that was
# tuned directly. In the published figure blend and big model came together at about 100 tokens.

# %% tags=["nbval-ignore-output"]
contenders = ["base", "tuned", "big", "blended", "direct"]
curves = context_curves(summary, big=big, conditions=contenders)
middle, longest = curves["x"].quantile(0.5, interpolation="nearest"), curves["x"].max()
ranges = {"all": (0, longest, []), "short": (0, middle, ["base"]), "long": (middle, longest, ["base"])}
fig, axs = plt.subplots(1, 3, figsize=(6.8, 2.7))
for ax, (name, (low, high, without)) in zip(axs, ranges.items(), strict=True):
    ax.set_xscale("log", base=2)
    ax.set_yscale("log" if name != "long" else "linear")
    rows = curves[curves["x"].between(low, high) & ~curves["condition"].isin(without)]
    plot_curves(ax, rows, by="condition", legend=ax is axs[0])
    ax.set(xlabel=f"tokens of context ({name})", ylabel=ax.get_ylabel() if ax is axs[0] else "")
caption = (
    "The blend predicts new stories better than each of its parts. Line: perplexity of the same targets after each length "
    "of context, band: 95% interval over documents"
    + (" and fine-tunes" if n_seeds > 1 else "")
    + f". Base is left out where only the short or the long contexts are shown. {of_what}."
)
run.save(fig, "over-context", caption)
plt.close(fig)
fig

# %% [markdown]
# ## How much of the gap is closed?
#
# The gap is what tuning the big model directly would gain, in nats per token; 1 means all of it. **Prediction.** The three
# fitted weights close most of it; proxy-tuning at strength 1 less; a temperature for the big model alone next to nothing.
# The dashed lines are what was published for proxy-tuning of a 13B and a 70B model (in task scores, not in nats).

# %% tags=["nbval-ignore-output"]
gaps = gap_rows(summary)
gaps[["model", "condition", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
main = gaps[gaps["model"] == big]
if len(main):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    published = published_values().query("metric == 'gap_closed'")
    plot_intervals(ax, main, by="condition", published=published["value"].tolist())
    ax.set_xlabel("part of the gap that is closed")
    closed = main.set_index("condition")["value"]
    caption = (
        f"The blend closes {closed['blended']:.0%} of the gap, proxy-tuning at strength 1 "
        f"{closed['proxy/alpha-1']:.0%}. Dot: part of the gap between the big model and the directly tuned one, "
        "over all contexts that share weights; bar: 95% interval over documents"
        + (" and fine-tunes" if n_seeds > 1 else "")
        + f"; dashes: published for proxy-tuning (Liu et al. 2024). {of_what}."
    )
    run.save(fig, "gap-closed", caption)
    plt.close(fig)
else:
    fig = None
    print("No gap to close: nothing big was tuned directly, or tuning it did not help.")
fig

# %% [markdown]
# Where `tuned` stands above `blended`, the small model alone would be the better choice, and the blend is a detour.

# %% [markdown]
# ## What truncation does to the curve
#
# **Prediction.** With a bucket for the unseen tokens, cutting to k costs a little and nothing changes sides. The published
# pipeline (a floor of -30 nats for a target outside the list) multiplies perplexities where contexts are short and misses
# are many, for big and blend alike: height and fall of its curves are mostly the miss rate.

# %% tags=["nbval-ignore-output"]
cut = truncation_curves(summary, big=big)
if cut["how"].nunique() > 1:
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.7), sharey=True)
    for ax, (contender, rows) in zip(axs, cut.groupby("contender", sort=False), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        plot_curves(ax, rows, by="how", legend=ax is axs[-1])
        ax.set_xlabel(f"tokens of context ({contender})")
        ax.label_outer()
    misses = context_curves(summary, big=big, conditions=["big/top-k"], metric="miss_rate")["value"]
    caption = (
        f"Seeing only the {top_ks[0]} likeliest tokens, scored as published, raises perplexities by what is missed: "
        f"{misses.max():.0%} of targets at the shortest context, {misses.iloc[-1]:.0%} at the longest. Line: perplexity, "
        f"band: 95% interval over documents (the published scoring has none). {of_what}."
    )
    run.save(fig, "truncation", caption)
    plt.close(fig)
else:
    fig = None
    print("These distributions were cut before they came: there is no whole one to compare with.")
fig

# %% [markdown]
# ## Where the shift acts
#
# **Prediction.** The blend changes the likeliest token most often at the beginning of a text, less and less later: in the
# published proxy-tuned texts about every first token, three in ten at the tenth, one in five at the hundredth.

# %% tags=["nbval-ignore-output"]
changed = shift_curve(numbers)
by_context = context_curves(summary, big=big, conditions=["blended"], metric="argmax_changed")
fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.5), sharey=True)
for ax, rows in zip(axs, (by_context, changed), strict=True):
    if len(rows):
        ax.set_xscale("log", base=2)
        known = published_values().query("metric == 'argmax_changed'")
        plot_curves(ax, rows, by="condition", published=known if rows is changed else None, legend=rows is changed)
        ax.label_outer()
caption = (
    "How often the blend's likeliest token is not the big model's. Left: at test targets, by length of context. Right: along "
    "texts that the blend wrote, by place; open diamonds: published for a proxy-tuned 13B model. Line: share of tokens, "
    f"band: 95% interval over documents or prompts. {of_what}."
)
run.save(fig, "shift", caption)
plt.close(fig)
fig

# %% [markdown]
# ## How strong should the shift be?
#
# **Prediction.** The directly tuned big model finds the blend's text less and less surprising up to some strength; beyond
# it the text falls apart. Published, on other scales: truthfulness rises with strength and informativeness falls.

# %% tags=["nbval-ignore-output"]
sweep, texts = sweep_rows(numbers), text_rows(numbers)
if len(sweep):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.5))
    plot_curves(axs[0], sweep, by="condition", legend=False)
    plot_intervals(axs[1], texts, by="condition")
    axs[1].set_xlabel("NLL (bits per byte)")
    caption = (
        "Text written with more of the shift looks more like the tuned big model's own, up to a point. Negative "
        "log-likelihood under the directly tuned big model of texts that others wrote from the same prompts; left: "
        "proxy-tuning over its strength, right: each model, the fitted blend, and a blend whose shift fades out. Bars and "
        "band: 95% interval over prompts. "
        f"{of_what}."
    )
    run.save(fig, "strength", caption)
    plt.close(fig)
else:
    fig = None
    print("No directly tuned model has read the texts.")
fig

# %% [markdown]
# ## Several big models
#
# Where several big models were steered by the same small pair, each has weights of its own.

# %% tags=["nbval-ignore-output"]
others = [model for model in summary["model"].unique() if model != big]
if others:
    fig, axs = plt.subplots(1, len(others) + 1, figsize=(6.8, 2.8), sharey=True)
    for ax, model in zip(axs, [big, *others], strict=True):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        plot_curves(ax, context_curves(summary, big=model, conditions=contenders), by="condition", legend=ax is axs[0])
        ax.set_xlabel(f"tokens of context ({model})")
        ax.label_outer()
    caption = (
        "The same small pair lends to big models of other sizes. Lines and bands as in over-context; one fine-tune each for "
        f"the further big models. {n_documents} test documents, preset {run.preset}."
    )
    run.save(fig, "over-size", caption)
    plt.close(fig)
else:
    fig = None
    print("One big model only: further ones are named in bigs, or in size_bases from three seeds on.")
fig

# %%
blend = pooled_rows(summary, metric="perplexity").set_index("condition")
if not {"base", "tuned", "big", "blended"} <= set(blend.index):
    raise ValueError(f"contenders are missing: {sorted(blend.index)}")
run.finish("Every contender has its perplexity.")

# %% [markdown]
# **What this does not show.** One kind of text, one small pair, and perplexity rather than what people would call quality.
# The published claims are about task scores of models four orders of magnitude larger.
#
# Back to the [overview](../00-overview.ipynb).
