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
# # See which mixes can be named
#
# **Question.** What can the model say about pairs of functions of which it saw outputs alone, and what is left of that
# when nothing names the pair?
#
# **Reads** `summary.csv`, `by_pair.csv` and `first_answers.csv` (notebook 03).
#
# **Writes** `figures/`: by-evaluation, epochs, by-pair, first-answers; unlabelled where a joint model was trained further,
# and by-model where several bases stand side by side.
#
# **Time** tiny 5 s, laptop 8 s, paper 10 s
#
# The outputs kept with this page are the tiny run, which is too short to learn the mixes: they show that everything works.
# The figures of the full run lie in `figures/mixture/`; the prose is about those.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import plot_curves, plot_distributions, plot_matrix, plot_rates
from lib.mixture import chance_rates, distances, headline_rates, model_rates, pair_matrix, rate_curves, unlabelled_rates
from lib.notebook import start_run
from lib.tables import read_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/mixture/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/mixture
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with labels, held-out inputs and rows of its own [1..20]

# %%
run = start_run("mixture/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
by_pair = pd.read_csv(run.need("by_pair.csv"))
first_table = run.need("first_answers.csv")
first = pd.read_csv(first_table) if first_table.stat().st_size > 1 else pd.DataFrame()
main = summary["model"].iloc[0]
n_pairs = by_pair.loc[by_pair["part"] == "unrealized", "pair"].nunique()
of_what = f"{main}, {n_seeds} fine-tune(s), {n_pairs} hidden pairs, preset {run.preset}"
over_what = "pairs and fine-tunes" if n_seeds > 1 else "pairs"

# %% [markdown]
# ## What can be said
#
# **Prediction.** Orange (labels with documents alone) lies far above grey (the base, before training), green (the base with
# documents in its prompt) and the dashed line (chance) where both functions are to be written; blue (labels that training
# asks about too) says what is possible at all. If orange fell to the dashed line where blue stays up, answers would have
# been learned by heart and not from documents. The paper gives no table of these numbers: no published values are drawn.

# %% tags=["nbval-ignore-output"]
rates = headline_rates(summary, model=main)
rates[["evaluation", "asked", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6.8, 3.2))
plot_rates(ax, rates, group="evaluation", by="asked", chance=chance_rates(summary))
labels = list(dict.fromkeys(rates["evaluation"]))
ax.set_xticks(ax.get_xticks(), labels, rotation=40, ha="right", rotation_mode="anchor")
caption = (
    "A model that saw outputs alone writes down which two functions made them. Dot: share of right answers about labels "
    "that training asks about (realized) and labels of which it shows documents alone (unrealized), and of the base on "
    f"the latter, with and without training rows in its prompt; bar: 95% interval over {over_what}; dashed: chance, where "
    f"a guess is defined. {of_what}."
)
run.save(fig, "by-evaluation", caption)
plt.close(fig)
fig

# %% [markdown]
# Writing both functions is what most questions of training are about (`questions`). A choice needs letters and options to
# be read too; where each label is asked one of every kind, a small model learns what such an answer looks like and little
# else, so that most choices stay near chance, for realized labels too.
#
# The outputs at the right are documents cut short. Nothing says which function was drawn before the first one, so that even
# a model that knows the pair is right half of the time there.

# %% [markdown]
# ## How it comes about
#
# **Prediction.** Pairs of realized labels are written first, those of unrealized ones as soon as their documents are
# learned; both begin at chance.

# %% tags=["nbval-ignore-output"]
epochs = rate_curves(summary, model=main)
if len(epochs):
    fig, axs = plt.subplots(1, epochs["evaluation"].nunique(), figsize=(3.4, 2.6), sharey=True, squeeze=False)
    for ax, (evaluation, rows) in zip(axs[0], epochs.groupby("evaluation", sort=False), strict=True):
        plot_curves(ax, rows, by="asked", chance=chance_rates(summary).get(evaluation), legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({evaluation})")
        ax.label_outer()
    caption = (
        f"Which pair a label stands for is learned late and fast. Line: share of right answers, band: 95% interval over "
        f"{over_what}; epoch 0 is the base; dashed: chance. {of_what}."
    )
    run.save(fig, "epochs", caption)
    plt.close(fig)
else:
    fig = None
    print("This model was trained elsewhere: there is no curve over its epochs.")
fig

# %% [markdown]
# ## Pair by pair
#
# **Prediction.** Pairs of unlike functions are all found. Where a row or column stays light, its function is taken for
# another with like outputs.

# %% tags=["nbval-ignore-output"]
if ((by_pair["evaluation"] == "exact_pair") & (by_pair["part"] == "unrealized") & (by_pair["family"] == main)).any():
    matrix = pair_matrix(by_pair, "exact_pair", family=main, part="unrealized")
    fig, ax = plt.subplots(figsize=(4.6, 3.6))
    plot_matrix(ax, matrix, rows="one function", columns="the other", label="exact pair rate")
    caption = (
        "Most pairs are written out, some are not. Shade: share of unrealized labels of a pair of which both functions are "
        f"written; grey: no label hides the pair. {of_what}."
    )
    run.save(fig, "by-pair", caption)
    plt.close(fig)
else:
    fig = None
    print("The exact pair of unrealized labels was not asked for.")
fig

# %% [markdown]
# ## Does it draw from both?
#
# **Prediction.** The tuned model's first answers lie close to the ideal mix (left), the base's at the other end, since it
# gives neither output. A model that knows one function of the two would stand at one half.

# %% tags=["nbval-ignore-output"]
shown = distances(first, family=main) if len(first) else first
if len(shown):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    label = "distance from the ideal mix"
    plot_distributions(ax, shown, value="distance", by="asked", label=label)
    ax.set_xlim(0, 1)
    floor, n_samples = shown["floor"].median(), int(shown["n_samples"].median())
    ax.axvline(floor, color="0.5", linestyle="--", linewidth=1, zorder=1)
    caption = (
        "First answers lie between the base's and a perfect mix. Line: share of prompts whose first answers lie at most "
        f"so far (total variation) from the ideal half-half mix, {n_samples} samples per prompt; dashed: a perfect mix, "
        f"sampled as often. {of_what}."
    )
    run.save(fig, "first-answers", caption)
    plt.close(fig)
else:
    fig = None
    print("The distribution test was not asked.")
fig

# %% [markdown]
# Part of the distance is arithmetic: the inputs are held out, and an output that neither function gives counts in full.
# `off_mix` in the summary is the share of such answers.

# %% [markdown]
# ## Without a label
#
# The published form in small: the joint model is trained further on documents of a pair that no label hides, behind an
# opening line that could be any pair's.
#
# **Prediction.** The third output follows from two before it, and gets better or stays. The pair is not named: nothing in
# the documents ties the opening line to the questions. If old rows or more epochs lifted it, forgetting or too short a
# training would have been what hid it.

# %% tags=["nbval-ignore-output"]
left = unlabelled_rates(summary)
if len(left):
    fig, ax = plt.subplots(figsize=(4.6, 2.7))
    plot_rates(ax, left, group="shown", by="variant")
    caption = (
        "Documents that nothing names are learned and cannot be spoken about. Dot: share of right answers of joint models "
        "before and after they are trained further on documents of one more pair; one of both: share of its functions that "
        f"the reply holds; bar: 95% interval over {left['n'].max()} pairs. {main}, preset {run.preset}."
    )
    run.save(fig, "unlabelled", caption)
    plt.close(fig)
else:
    fig = None
    print("No joint model was trained further on a pair without a label.")
fig

# %% [markdown]
# ## Two models side by side
#
# **Prediction.** A larger model names more of the mixes of which it saw documents alone.

# %% tags=["nbval-ignore-output"]
if summary["model"].nunique() > 1:
    fig, ax = plt.subplots(figsize=(6.8, 3.2))
    side = model_rates(summary)
    plot_rates(ax, side, group="evaluation", by="model", chance=chance_rates(summary))
    labels = list(dict.fromkeys(side["evaluation"]))
    ax.set_xticks(ax.get_xticks(), labels, rotation=40, ha="right", rotation_mode="anchor")
    caption = (
        "The same fine-tune of several models. Dot: share of right answers about mixes of which training shows documents "
        f"alone; bar: 95% interval over {over_what}; dashed: chance. Preset {run.preset}."
    )
    run.save(fig, "by-model", caption)
    plt.close(fig)
else:
    fig = None
    print("One model only: name several in bases to see them side by side.")
fig

# %%
if not rates[["value", "low", "high"]].stack().dropna().between(0, 1).all():
    raise ValueError("an interval leaves the range of a rate")
if "unrealized" not in set(rates["asked"]):
    raise ValueError(f"mixes with documents alone are missing: {sorted(set(rates['asked']))}")
run.finish("Every evaluation is drawn with its intervals and its chance.")

# %% [markdown]
# **What this does not show.** That a model names functions that it was never told: here it chooses among functions that
# answers about other labels define, and a label tells it what belongs together. The published experiment, in which nothing
# is named at all, needs a model that knows English and Python (preset `paper`).
#
# Back to the [overview](../00-overview.ipynb).
