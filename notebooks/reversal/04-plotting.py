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
# # See the Reversal Curse
#
# **Question.** How large is the gap between "A is B" and "B is A", beside what was published, and does training longer
# or on a larger model close it?
#
# **Method.** Figures of the numbers of notebook 03; nothing is computed anew.
#
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: same-and-reverse, logprobs, name-ranks, epochs, and over-size where several sizes were trained.
#
# **Time** 10 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.figures import plot_curves, plot_distributions, plot_ranks, plot_rates
from lib.notebook import start_run
from lib.reversal import published_values
from lib.summary import read_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/reversal/<preset>.yaml these values come from

# %%
run = start_run("reversal/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = pd.read_parquet(run.need("answers.parquet"))
of_main = summary[summary["role"].isna() & summary["epoch"].isna()]
main = answers[(answers["role"] == "main") & answers["epoch"].isna()]
n_tunes, n_people = main["seed"].nunique(), main["person"].nunique()
over = "people and fine-tunes" if n_tunes > 1 else "people"
about = f"{main['base'].iloc[0]}, {n_tunes} fine-tune(s), {n_people} invented people, preset {run.preset}"
if (augment := run.params["augment"]) != "none":
    about += f", augment {augment}"

# %% [markdown]
# ## Was anything learned?
#
# If fewer than one in five training sentences is completed correctly, the figures below show a run that was too short.

# %% tags=["nbval-ignore-output"]
recalled = main.loc[main["probe"] == "train", "exact"].mean()
word = "learned" if recalled >= 0.2 else "not learned: draw no conclusion from these figures"
print(f"{recalled:.0%} of the training sentences are completed correctly ({word}).")

# %% [markdown]
# ## The gap
#
# **What to expect.** If facts were stored without an order, blue and red would lie together in each group. The Reversal
# Curse is blue high and red at zero. Green (the fact stands in the prompt) is high for models that can take a name from
# their prompt at all; where it lies at zero with red, the model cannot use its prompt, and green says nothing about the curse.
# Diamonds are the published values of GPT-3 175B: a small model should not reach their height, but their shape.
#
# People of the group *both* saw their facts in both orders. Where both of their points are high, neither names nor
# descriptions are too hard to learn: this is the control that is valid for any model.

# %% tags=["nbval-ignore-output"]
REQUESTED = {"p2d": "description", "d2p": "name"}


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Group and question as the figures name them."""
    people = rows["group"].where(rows["group"] != "both", "both, " + rows["order"].map(REQUESTED) + " requested")
    people = people.where(rows["metric"] != "name_match", people + ", name alone")
    return rows.assign(people=people, series=rows["direction"].where(rows["probe"] == "test", "in-context"))


matches = of_main[of_main["metric"].isin(["exact_match", "name_match"]) & of_main["probe"].isin(["test", "in-context"])]
rates = labelled(matches).sort_values("series", key=lambda column: column.map(["same", "reverse", "in-context"].index))
rates[["people", "series", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
published = published_values().assign(people=lambda rows: rows["group"], series=lambda rows: rows["direction"])
fig, ax = plt.subplots(figsize=(6.8, 2.9))
plot_rates(ax, rates.assign(metric="exact match", unit="rate"), group="people", by="series", published=published)
caption = (
    "Share of questions whose answer starts with the target, in the order of training (same), in the other order (reverse) "
    f"and in the other order with the fact in the prompt (in-context). Bar: 95% interval over {over}; diamond: "
    f"GPT-3 175B as published. {about}, {main['prompt'].nunique()} questions."
)
fig.suptitle("Exact match in the order of training, in reverse, and in reverse with the fact in the prompt")
_ = run.save(fig, "same-and-reverse", caption)

# %% [markdown]
# **What came out.** The verdicts are in [03-evaluation](03-evaluation.ipynb); here is the gap with its interval.

# %% tags=["nbval-ignore-output"]
of_main.loc[of_main["metric"] == "exact_match_gap", ["group", "value", "low", "high", "n", "n_of", "unit"]]

# %% [markdown]
# ## Log-probabilities
#
# **What to expect.** In the same direction the right target is far more probable than a wrong one. In reverse the two
# curves coincide if the model has no preference for the right name, not even a hidden one. With the fact in the prompt
# they part again, if the model can read.

# %% tags=["nbval-ignore-output"]
compared = labelled(main[main["difference"].notna() & (main["group"] != "both")].assign(metric="logprob"))
right, wrong = (
    compared.assign(whose="correct"),
    compared.assign(whose="randomized", target_logprob=compared["control_logprob"]),
)
titles = {"same": "same direction", "reverse": "reverse", "in-context": "reverse, the fact in the prompt"}
if len(compared):
    fig, axs = plt.subplots(1, 3, figsize=(6.8, 2.6), sharex=True, sharey=True)
    for ax, (series, title) in zip(axs, titles.items(), strict=True):
        rows = pd.concat([each[each["series"] == series] for each in (right, wrong)])
        plot_distributions(ax, rows, by="whose", legend=ax is axs[0])
        ax.set_xlabel(title)
        ax.label_outer()
    fig.supxlabel("log-probability of the target (nats)", size="medium")
    fig.suptitle("Log-probability of the right target and of another person's")
    caption = (
        "Share of questions whose target has at most this log-probability, for the right target (correct) and another "
        f"person's (randomized); people trained in one order. {about}."
    )
    _ = run.save(fig, "logprobs", caption)

# %% tags=["nbval-ignore-output"]
ranked = main[main["name_rank"].notna()].assign(series="reverse")
if len(ranked):
    n_names = ranked.loc[:, "name_target"].nunique()
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_ranks(ax, ranked, value="name_rank", by="series", n_candidates=n_names)
    caption = (
        "Reverse questions for a name: share where the right one is among the k most probable of its group; dashes: chance. "
        f"Mean rank {ranked['name_rank'].mean():.1f}, by chance {(n_names + 1) / 2:.1f}. {about}."
    )
    fig.suptitle("Rank of the right name, in reverse")
    _ = run.save(fig, "name-ranks", caption)

# %% [markdown]
# ## Longer training, larger models
#
# **What to expect.** More epochs raise the same direction and leave the reverse at zero: it is not that training stopped
# too early. The same for size.

# %% tags=["nbval-ignore-output"]
curves = labelled(summary[summary["epoch"].notna() & (summary["group"] != "both")]).assign(x_name="epoch")
if len(curves):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6), sharey=True)
    for ax, (group, rows) in zip(axs, curves.groupby("group", sort=False), strict=False):
        plot_curves(ax, rows, x="epoch", by="series", legend=ax is axs[-1])
        ax.set_xlabel(f"epoch ({group} people)")
        ax.label_outer()
    caption = (
        f"Exact match over the epochs; band: 95% interval over {over}; epoch 0 is the base. First "
        f"{run.params['n_curve_phrasings']} test wordings of each kind only, so the last point is not that above. {about}."
    )
    fig.suptitle("Exact match over training")
    _ = run.save(fig, "epochs", caption)

# %% tags=["nbval-ignore-output"]
sizes = summary[(summary["metric"] == "exact_match") & summary["role"].isin([np.nan, "size"]) & summary["epoch"].isna()]
weights = answers.groupby("base")["n_weights"].first()
sizes = labelled(sizes[(sizes["probe"] == "test") & (sizes["group"] != "both")]).assign(
    n_weights=lambda rows: rows["model"].map(weights)
)
if sizes["model"].nunique() > 1:
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6), sharey=True)
    for ax, (group, rows) in zip(axs, sizes.groupby("group", sort=False), strict=False):
        ax.set_xscale("log")
        plot_curves(ax, rows, x="n_weights", by="series", legend=ax is axs[-1])
        ax.set_xlabel(f"weights of the base ({group} people)")
        ax.label_outer()
    fig.suptitle("Exact match over the size of the base")
    _ = run.save(fig, "over-size", f"Exact match over the size of the base; band: 95% interval over people. {about}.")
else:
    print("One size only: the curve over size needs size_bases and at least three seeds.")

# %% [markdown]
# **What this does not show.** Why the order matters, or that no training could teach the reverse: the group *both* is one
# that does, and reverse training (`augment` in notebook 01) is meant to be another. The published study's other two
# experiments pose the same question for facts from pre-training (*parents*) and for instructions (*guidance*).
#
# Back to the [overview](../00-overview.ipynb).

# %%
run.finish("The figures are in the run folder's figures/.")
