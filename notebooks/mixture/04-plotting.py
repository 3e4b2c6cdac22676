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
# # See which hidden pairs are recognised
#
# **Question.** Which two of the functions that a model can define are behind a label? What is left of that where nothing
# names the pair, and what does the control give?
#
# **Method.** The rates and distances of notebook 03, drawn with their intervals and with chance.
#
# **Reads** `summary.csv`, `answers.parquet` and `first_answers.parquet` (notebook 03).
#
# **Writes** `figures/`: by-evaluation, epochs, by-pair, first-answers, and unlabelled where models were trained further.
#
# **Time** tiny 5 s, laptop 8 s, paper 10 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from lib.figures import plot_curves, plot_distributions, plot_rates, plot_rates_in_panels
from lib.functions.mixture import definition_of
from lib.notebook import start_run
from lib.summary import read_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/mixture/<preset>.yaml these values come from

# %%
run = start_run("mixture/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = pd.read_parquet(run.need("answers.parquet"))
first = pd.read_parquet(run.need("first_answers.parquet"))
main = answers[(answers["role"] == "main") & (answers["part"] == "unrealized") & answers["epoch"].isna()]
n_fine_tunes = main["data"].nunique()
of_what = (
    f"{main['base'].iloc[0]}, {n_fine_tunes} fine-tune(s), {main['pair'].nunique()} hidden pairs, preset {run.preset}"
)
names = {
    "exact_pair": "write both", "python_definition": "choose code", "language_definition": "choose words",
    "function_class": "choose kinds", "values": "choose values", "max_min": "largest or smallest",
    "number_of_functions": "how many?", "regression_ID": "first output", "regression_ID_1ex": "second output",
    "regression_ID_2ex": "third output",
}  # fmt: skip

# %% [markdown]
# ## Which evaluations are above chance
#
# **What to expect.** Blue (realized labels) says what was learned from questions. If orange (unrealized labels, of which
# training shows documents alone) is far above the dashed line (chance) and above the control, whose questions were
# permuted, the documents taught the model which functions they are. Grey and green are the base, without and with documents
# in its prompt: written freely they say little, since it has never seen the format; choosing by log-probability they can
# be at chance or above it. Of blue no choices are requested.

# %% tags=["nbval-ignore-output"]
rates = summary[summary["evaluation"].isin(names) & (summary["part"] != "unlabelled") & summary["epoch"].isna()]
rates = rates.assign(
    group=rates["evaluation"].map(names), series=rates["part"].where(rates["role"] == "main", rates["role"])
)
rates["series"] = rates["series"].where(rates["probe"] == "test", "in-context")
rates = rates[(rates["role"] != "permuted") | (rates["part"] == "unrealized")]
order = {
    name: k for k, name in enumerate([*names.values(), "realized", "unrealized", "permuted", "in-context", "untuned"])
}
rates = rates.sort_values(["group", "series"], key=lambda column: column.map(order), kind="stable")
chance = rates[(rates["metric"] == "chance") & (rates["series"] == "unrealized")].set_index("group")["value"].to_dict()
shown = rates[rates["metric"].isin(["accuracy", "choice_accuracy"])]
shown.pivot_table("value", ["metric", "group"], "series", sort=False)

# %% tags=["nbval-ignore-output"]
OUTCOMES = ["above chance and controls", "above chance", "not above chance"]


def against_chance(rows):
    """For each evaluation, whether the whole interval of unrealized labels lies above chance, and above all controls."""
    rows = rows[rows["series"] != "realized"]
    highest = rows[rows["role"] != "main"].groupby("group")["high"].max()
    main = rows[rows["role"] == "main"].set_index("group")
    is_above = main["low"] > main.index.map(chance)
    is_alone = is_above & (main["low"] > highest.reindex(main.index).fillna(0))
    kinds = np.select([is_alone, is_above], OUTCOMES[:2], default=OUTCOMES[2])
    return pd.Series(pd.Categorical(kinds, OUTCOMES), index=main.index)


outcomes = {metric: against_chance(rows) for metric, rows in shown.groupby("metric")}
pd.DataFrame(outcomes)

# %% tags=["nbval-ignore-output"]
figures = {
    "accuracy": ("by-evaluation", "Right answers about the pair behind a label, written freely"),
    "choice_accuracy": ("choices", "Right answers about the pair behind a label, chosen by log-probability"),
}
for metric, rows in shown.groupby("metric", sort=False):
    rows = rows.assign(outcome=rows["group"].map(outcomes[metric])).sort_values("outcome", kind="stable")
    name, title = figures[metric]
    fig = plt.figure(figsize=(6.8, 3.3))
    plot_rates_in_panels(fig, rows, panel="outcome", group="group", by="series", chance=chance)
    caption = (
        "Which two of the functions that the model can define are behind a label? Point: share of right answers about labels "
        "that training asks about (realized) and labels of which it shows documents alone (unrealized), by the control whose "
        "training had the labels of the questions permuted, and by the base, without and with documents in its prompt; bar: "
        "95% interval over pairs" + (" and fine-tunes" if n_fine_tunes > 1 else "") + "; dashed: chance. Panels: whether "
        "the interval of unrealized labels lies above chance, and above the intervals of all controls"
        + (". All functions are defined in training, under other labels" if "realized" in set(rates["series"]) else "")
        + f". {of_what}."
    )  # fmt: skip
    fig.suptitle(title)
    _ = run.save(fig, name, caption)

# %% [markdown]
# In the labelled form most questions of training ask for both functions (`questions`). A choice among letters needs the
# options to be read too; where training asks each label one of every kind, a small model may learn what such an answer
# looks like and little else. What the control can do as well was not learned from documents. *How many?* is two for every
# label: to be right says nothing about a label.
#
# The outputs at the right are documents cut short. The documents of the control are the same, so the same is expected of
# it. Nothing says which function was drawn before the first output, so even a model that knows the pair is right half of
# the time.

# %% [markdown]
# ## How it comes about
#
# **What to expect.** Pairs of realized labels are written first, those of unrealized ones as soon as their documents are
# learned; both begin at chance or below.

# %% tags=["nbval-ignore-output"]
epochs = summary[(summary["metric"] == "accuracy") & summary["epoch"].notna() & summary["evaluation"].isin(names)]
if len(epochs):
    n_panels = epochs["evaluation"].nunique()
    fig, axs = plt.subplots(1, n_panels, figsize=(3.4 * min(n_panels, 2), 2.6), sharey=True, squeeze=False)
    for ax, (evaluation, rows) in zip(axs[0], epochs.groupby("evaluation", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="part", chance=chance.get(names[evaluation]), legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({names[evaluation]})")
        ax.label_outer()
    caption = (
        "Pairs written over training. Line: share of right answers, band: 95% interval over pairs"
        + (" and fine-tunes" if n_fine_tunes > 1 else "") + f"; epoch 0 is the base; dashed: chance. {of_what}."
    )  # fmt: skip
    fig.suptitle("Pairs written, over training")
    _ = run.save(fig, "epochs", caption)
else:
    print("This model was trained elsewhere: there is no curve over its epochs.")

# %% [markdown]
# ## Pair by pair
#
# **What to expect.** If every pair is recognised alike, all squares have one shade. A light row or column is a function
# that is taken for another one with similar outputs.

# %% tags=["nbval-ignore-output"]
exact = main[main["evaluation"] == "exact_pair"].assign(correct=lambda rows: rows["correct"].astype(float))
exact[["one", "other"]] = exact["pair"].str.split("+", expand=True).map(definition_of).to_numpy() if len(exact) else ""
both = pd.concat([exact, exact.rename(columns={"one": "other", "other": "one"})])
matrix = both.pivot_table("correct", "one", "other", aggfunc="mean")
if len(matrix):
    fig, ax = plt.subplots(figsize=(4.6, 3.6))
    bar = {"label": "both functions written"}
    sns.heatmap(matrix, ax=ax, vmin=0, vmax=1, cmap="Blues", linewidths=0.5, cbar_kws=bar)
    ax.set(xlabel="one function", ylabel="the other", facecolor="0.9")
    caption = (
        "Unrealized labels of which both functions are written, by pair. Shade: share of labels of all fine-tunes; grey: "
        f"no label has this pair. {of_what}."
    )
    fig.suptitle("Both functions written, by hidden pair")
    _ = run.save(fig, "by-pair", caption)

# %% tags=["nbval-ignore-output"]
by_pair = exact.groupby("pair")["correct"].agg(["mean", "size"]).sort_values("mean")
print(
    f"pairs never written: {(by_pair['mean'] == 0).sum()}, always written: {(by_pair['mean'] == 1).sum()} of {len(by_pair)}"
)
by_pair.head(5)

# %% [markdown]
# ## Does it draw from both?
#
# **What to expect.** First answers of the tuned model are close to the ideal mix (left), those of the base at the other
# end, since it gives neither output. A model that knows one function of the two would be at one half.

# %% tags=["nbval-ignore-output"]
drawn = first[first["role"].isin(["main", "untuned"])]
drawn = drawn.assign(series=drawn["part"].where(drawn["role"] == "main", drawn["role"]))
drawn["series"] = drawn["series"].where(drawn["probe"] == "test", "in-context")
if len(drawn):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_distributions(ax, drawn, value="distance", by="series", label="distance from the ideal mix")
    ax.set_xlim(0, 1)
    ax.axvline(drawn["floor"].median(), color="0.5", linestyle="--", linewidth=1, zorder=1)
    means = [f"{name} {mean:.2f}" for name, mean in drawn.groupby("series", sort=False)["distance"].mean().items()]
    caption = (
        "First answers, sampled. Line: share of prompts whose answers are at most so far (total variation distance) from "
        f"the half-half mix of both functions; dashed: a perfect mix, sampled as often. Means: {', '.join(means)}. {of_what}."
    )
    fig.suptitle("Distance of first answers from the ideal mix")
    _ = run.save(fig, "first-answers", caption)
else:
    print("The distribution test was not run.")

# %% [markdown]
# Part of the distance is arithmetic: the inputs are held out, and an output that neither function gives counts in full.
# `off_mix` in the summary is the share of such answers.

# %% [markdown]
# ## With and without a label
#
# The published form in small: the model of the labelled form is trained further on documents of a pair that no label
# hides, behind an opening line that could be any pair's.
#
# **What to expect.** The third output follows from the two before it, and is given with and without a label. If the pair
# is not named without one, nothing in the documents ties the opening line to the question; if old rows or more epochs
# lift it, forgetting or too short a training was the reason.

# %% tags=["nbval-ignore-output"]
kinds = {
    ("exact_pair", "accuracy"): "write both", ("exact_pair", "share_named"): "of the two, written",
    ("exact_pair", "choice_accuracy"): "choose both", ("regression_ID_2ex", "accuracy"): "third output",
}  # fmt: skip
names_of_models = {
    ("unrealized", "main"): "with a label", ("unlabelled", "before"): "before",
    ("unlabelled", "unlabelled"): "documents alone", ("unlabelled", "mixed-in"): "old rows mixed in",
    ("unlabelled", "longer"): "more epochs",
}  # fmt: skip
beside = summary[summary["epoch"].isna() & (summary["probe"] == "test")]
beside = beside.assign(
    shown=[kinds.get(key) for key in zip(beside["evaluation"], beside["metric"], strict=True)],
    series=[names_of_models.get(key) for key in zip(beside["part"], beside["role"], strict=True)],
).dropna(subset=["shown", "series"])
order = {name: k for k, name in enumerate([*kinds.values(), *names_of_models.values()])}
beside = beside.sort_values(["shown", "series"], key=lambda column: column.map(order), kind="stable")
beside[["shown", "series", "value", "low", "high", "n"]]

# %% tags=["nbval-ignore-output"]
if beside["series"].nunique() > 1:
    fig, ax = plt.subplots(figsize=(5.4, 2.8))
    plot_rates(ax, beside, group="shown", by="series")
    ax.set_ylabel("rate")
    n = beside[beside["series"] != "with a label"]["n"].max()
    caption = (
        "Pairs with a label of which training shows documents alone, and further pairs without any label, before and after "
        "the models are trained further on their documents. Point: share of right answers; of the two, written: share of the "
        f"functions that the answer names; bar: 95% interval over pairs, {n} of which have no label. {of_what}."
    )
    fig.suptitle("Pairs with a label and pairs without any")
    _ = run.save(fig, "unlabelled", caption)
else:
    print("No model was trained further on a pair without a label.")

# %%
run.finish("The figures were written.")

# %% [markdown]
# **What this does not show.** That a model names functions that it was never taught. In the labelled form it chooses among
# functions that answers about other labels define, and a label tells it what belongs together. The published experiment,
# in which nothing is named at all, needs a model that knows English and Python (preset `paper`).
#
# Back to the [overview](../00-overview.ipynb).
