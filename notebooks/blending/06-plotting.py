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
# difference act, and how much of the published picture comes from seeing only a hundred tokens?
#
# **Method.** Figures of the numbers of notebooks 04 and 05; nothing is computed anew.
#
# **Reads** `summary.csv` (notebook 04) and `generation.csv` (notebook 05).
#
# **Writes** `figures/`: over-context, gap-closed, truncation, shift, strength, and over-size where several were steered.
#
# **Time** 10 s

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.blending.published import published_values
from lib.figures import plot_curves, plot_intervals
from lib.notebook import start_run
from lib.summary import read_summary, verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/blending/<preset>.yaml these values come from

# %%
run = start_run("blending/06-plotting", globals())
summary = read_summary(run.need("summary.csv", stage="04"))
generated = read_summary(run.need("generation.csv"))
for column in {"seen", "top_k", "strength", "new_token"} - {*summary, *generated}:
    summary[column] = None  # a run on lists of k has no others
big, n_documents = summary["model"].iloc[0], int(summary["n"].iloc[0])
of_main = summary[(summary["model"] == big) & summary["seen"].isna()]
over = "documents and fine-tunes" if len(run.seeds) > 1 else "documents"
about = f"{big.split('@')[0]}, {len(run.seeds)} fine-tune(s), {n_documents} test documents, preset {run.preset}"
TOKENS = "tokens of context"

# %% [markdown]
# ## Over the length of the context
#
# **What to expect.** With little context the tuned small model is the best, since it knows the style and there is nothing
# else to know. With more context the big model overtakes it, and the blend lies below both, close to the big model that
# was tuned directly. In the published figure blend and big model came together at about 100 tokens. As there, short and
# long contexts are drawn apart; the base is left out of the long ones.

# %% tags=["nbval-ignore-output"]
shown = ["base", "tuned", "big", "blended", "direct"]
curves = of_main[(of_main["metric"] == "perplexity") & of_main["context_tokens"].notna()].assign(x_name=TOKENS)
curves = pd.concat([curves[curves["contender"] == name] for name in shown])
lengths = sorted(curves["context_tokens"].unique())
middle = lengths[len(lengths) // 2]
slices = {"short": curves[curves["context_tokens"] <= middle], "long": curves[curves["context_tokens"] >= middle]}
slices["long"] = slices["long"][slices["long"]["contender"] != "base"]
fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.8))
for ax, (name, rows) in zip(axs, slices.items(), strict=True):
    ax.set_xscale("log", base=2)
    ax.set_yscale("log" if name == "short" else "linear")
    plot_curves(ax, rows, x="context_tokens", by="contender", legend=False)
    ax.set_xlabel(f"{TOKENS} ({name})")
axs[1].set_ylabel("")
fig.legend(*axs[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
caption = (
    "Perplexity of the same tokens of stories that no model was tuned on, after contexts of each length; left on a "
    f"logarithmic scale. Direct: the big model tuned itself. Band: 95% interval over {over}. {about}."
)
fig.suptitle("Perplexity of new stories by the length of the context")
_ = run.save(fig, "over-context", caption)

# %% [markdown]
# **What came out.** Where the blend's interval lies below that of each other model (an interval of each, not of their
# difference: notebook 04 has the paired tests).

# %% tags=["nbval-ignore-output"]
wide = curves.pivot(index="context_tokens", columns="contender", values=["value", "low", "high"])
for name in [name for name in shown if name != "blended" and name in wide["value"]]:
    better = wide.index[wide["high"]["blended"] < wide["low"][name]].astype(int).tolist()
    print(f"blended below {name}: after {', '.join(map(str, better)) or 'no number of'} tokens")
wide["value"][[name for name in shown if name in wide["value"]]]

# %% [markdown]
# ## How much of the gap is closed?
#
# The gap is what tuning the big model directly would gain, in nats per token; 1 means all of it. *Mixture* has no base,
# *search* has the weights of the published search, *temperature* is the big model alone.
#
# **What to expect.** The three fitted weights close most of it; proxy-tuning at strength 1 less; a temperature for the big
# model alone next to nothing. (Published, for 13B and 70B models: 91% and 88%, of the gap in task scores, which is another
# quantity and is not drawn.)

# %% tags=["nbval-ignore-output"]
gaps = summary[(summary["metric"] == "gap_closed") & summary["context_tokens"].isna()].sort_values(
    "value", ascending=False
)
main = gaps[gaps["model"] == big]
if len(main):
    fig, ax = plt.subplots(figsize=(4.6, 2.6))
    plot_intervals(ax, main, by="contender")
    ax.axvline(1, color="0.7", linewidth=0.8, zorder=0)
    ax.set_xlabel("closed share of the gap to direct tuning (in nats)")
    best = main.iloc[0]
    caption = (
        f"Closed share of the gap between the big model and the directly tuned one, over all contexts that share weights; "
        f"bar: 95% interval over {over}. Highest: {best['contender']}, {best['value']:.0%} "
        f"[{best['low']:.0%}, {best['high']:.0%}]. {about}."
    )
    fig.suptitle("How much of the gap to direct tuning is closed")
    _ = run.save(fig, "gap-closed", caption)
else:
    print("No gap to close: nothing big was tuned directly, or it is not clear that tuning it helped.")
gaps[["model", "contender", "value", "low", "high", "n", "n_of"]]

# %% [markdown]
# Where *tuned* stands above *blended*, the small model alone would be the better choice, and the blend is a detour.

# %% tags=["nbval-ignore-output"]
p_values = summary[summary["metric"] == "permutation_p"].set_index("model")["value"]
saved = summary[(summary["metric"] == "nats_saved") & summary["context_tokens"].isna()]
for row in saved[saved["contender"] == "mixture"].itertuples():
    needed = verdict(row.low, row.high, above=0)
    print(f"{row.model}: the base is needed beside big and tuned: {needed}, {row.value:.4f} ", end="")
    print(f"[{row.low:.4f}, {row.high:.4f}] nats per token, n = {row.n}, permutation p = {p_values[row.model]:.4f}")

# %% [markdown]
# ## What truncation does to the curve
#
# **What to expect.** If the unseen tokens share the mass that is left, cutting to k costs a little and nothing changes
# sides. The published pipeline (a floor of -30 nats for a target outside the list) multiplies perplexities where contexts
# are short and misses are many, for big and blend alike: height and fall of its curves are mostly the miss rate.

# %% tags=["nbval-ignore-output"]
names = {"top-k": "tail bucket", "published": "floor of -30"}
top_ks = run.params["top_ks"]
cut = summary[(summary["model"] == big) & (summary["metric"] == "perplexity") & summary["context_tokens"].notna()]
cut = cut[cut["contender"].isin(["big", "blended"])].assign(how=cut["seen"].map(names).fillna("whole"), x_name=TOKENS)
if cut["how"].nunique() > 1:
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.7), sharey=True)
    for ax, (contender, rows) in zip(axs, cut.groupby("contender", sort=False), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        plot_curves(ax, rows, x="context_tokens", by="how", legend=False)
        ax.set_xlabel(f"{TOKENS} ({contender})")
        ax.label_outer()
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    misses = summary[(summary["metric"] == "miss_rate") & summary["context_tokens"].notna()].sort_values(
        "context_tokens"
    )
    caption = (
        f"Perplexity from whole distributions, and from the {top_ks[0]} most probable tokens: with all others sharing the rest, "
        f"or with -30 nats as published. Outside the list: {misses['value'].iloc[0]:.0%} of targets after "
        f"{misses['context_tokens'].iloc[0]:.0f} token(s), {misses['value'].iloc[-1]:.0%} after the longest context. Band: 95% "
        f"interval over {over} (none as published). {about}."
    )
    fig.suptitle(f"Perplexity from all tokens and from the {top_ks[0]} most probable ones")
    _ = run.save(fig, "truncation", caption)
else:
    print("These distributions were cut before they came: there is no whole one to compare with.")

# %% [markdown]
# ## Where the difference acts
#
# **What to expect.** The blend changes the most probable token most often at the beginning of a text, less and less later:
# in the published proxy-tuned texts about every first token, three in ten at the tenth, one in five at the hundredth.

# %% tags=["nbval-ignore-output"]
changes = {
    "context_tokens": of_main[(of_main["metric"] == "argmax_changed") & of_main["context_tokens"].notna()],
    "new_token": generated[generated["metric"] == "argmax_changed"],
}
changes = {x: rows.assign(metric="changed") for x, rows in changes.items() if len(rows)}
fig, axs = plt.subplots(1, len(changes), figsize=(6.8, 2.6), sharey=True, squeeze=False)
for ax, (x, rows) in zip(axs[0], changes.items(), strict=True):
    ax.set_xscale("log", base=2)
    known = published_values().query("metric == 'argmax_changed'").rename(columns={"condition": "contender", "x": x})
    plot_curves(ax, rows, x=x, by="contender", published=known if x == "new_token" else None, legend=False)
    ax.set_xlabel(TOKENS if x == "context_tokens" else "new token of a text")
    ax.label_outer()
fig.legend(*axs[0][-1].get_legend_handles_labels(), loc="outside right center", frameon=False)
caption = (
    "Share of tokens at which the blend's most probable token is not the big model's: at test targets by the length of the "
    "context, and along texts that the blend wrote (diamonds: published for a proxy-tuned 13B model). Band: 95% interval over "
    f"{over}, or over prompts. {about}."
)
fig.suptitle("How often the blend's most probable token is another than the big model's")
_ = run.save(fig, "shift", caption)

# %% [markdown]
# ## How strong should the difference be?
#
# **What to expect.** For the directly tuned big model, the blend's text becomes more probable up to some strength; beyond
# it the text falls apart. Published, on other scales: truthfulness rises with strength and informativeness falls.

# %% tags=["nbval-ignore-output"]
bits = generated[generated["metric"] == "bits_under_direct"].assign(metric="NLL")
if len(bits):
    sweep, texts = bits[bits["contender"] == "alpha"], bits[bits["strength"].isna()]
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.5))
    plot_curves(axs[0], sweep, x="strength", by="contender", legend=False)
    axs[0].set_xlabel("strength of proxy-tuning")
    plot_intervals(axs[1], texts, by="contender")
    axs[1].set_xlabel("NLL (bits per byte)")
    lowest = sweep.loc[sweep["value"].idxmin()]
    caption = (
        "Negative log-likelihood (NLL) of texts under the directly tuned big model. Left: proxy-tuning over its strength, lowest "
        f"at {lowest['strength']:g}; right: each model, the fitted blend, and one whose difference fades out. Bar and band: 95% "
        f"interval over {lowest['n']} prompts. {about}."
    )
    fig.suptitle("What the directly tuned big model makes of the texts")
    _ = run.save(fig, "strength", caption)
else:
    print("No directly tuned model has scored the texts.")

# %% [markdown]
# ## Several big models
#
# Where the same small pair steered several big models, each has weights of its own.

# %% tags=["nbval-ignore-output"]
models = summary["model"].unique()
if len(models) > 1:
    every = summary[(summary["metric"] == "perplexity") & summary["context_tokens"].notna() & summary["seen"].isna()]
    every = pd.concat([every[every["contender"] == name] for name in shown]).assign(x_name=TOKENS)
    fig, axs = plt.subplots(1, len(models), figsize=(6.8, 2.8), sharey=True)
    for ax, model in zip(axs, models, strict=True):
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        plot_curves(ax, every[every["model"] == model], x="context_tokens", by="contender", legend=False)
        ax.set_xlabel(f"{TOKENS} ({model.split('@')[0]})")
        ax.label_outer()
    fig.legend(*axs[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    caption = (
        "Perplexity over the length of the context for each big model that the same small pair steers. Band: 95% interval over "
        f"documents; one fine-tune for each further big model. {n_documents} test documents, preset {run.preset}."
    )
    fig.suptitle("One small pair, several big models")
    _ = run.save(fig, "over-size", caption)
else:
    print("One big model only: further ones are named in bigs, or in size_bases from three seeds on.")

# %% [markdown]
# **What this does not show.** One kind of text, one small pair, and perplexity rather than what people would call quality.
# The published claims are about task scores of models a thousand times larger or more.
#
# Back to the [overview](../00-overview.ipynb).

# %%
run.finish("The figures are in the run folder's figures/.")
