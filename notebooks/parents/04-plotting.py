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
# # See the curse in what was learned from plain text
#
# **Question.** How far apart are the two directions of one fact, in which groups of people, and beside what was published?
#
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: groups, by-model, found, and logprobs where they were asked for.
#
# **Time** tiny 5 s, laptop 5 s, paper 5 s
#
# The outputs kept with this page are the tiny run, whose model is too small to know anybody: they show that everything
# works. The figures of the full run lie in `figures/parents/`; the prose is about those.

# %%
import matplotlib.pyplot as plt

from lib.figures import plot_distributions, plot_rates
from lib.notebook import start_run
from lib.parents import asked_groups, found_rates, group_rates, logprob_rows, model_rates, published_rates
from lib.tables import ANSWERS, read_summary, read_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/parents/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/parents
seed: int = 0  # first seed of the samples, and of fine-tunes where the form is taught [0..]
n_seeds: int = 1  # rounds that differ in nothing but their seed [1..20]

# %%
run = start_run("parents/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = read_table(run.need("answers.parquet"), ANSWERS)
first_group = asked_groups(summary)[0]
main = answers.loc[answers["role"] == "main", "base"].iloc[0]
of_what = f"{main}, {answers['person'].nunique()} people, {n_seeds} seed(s), preset {run.preset}"

# %% [markdown]
# ## The gap
#
# **Prediction.** If a fact were stored without an order, the two directions would lie together in every group. The curse
# says: together where the text told both orders, apart where it told one.

# %% tags=["nbval-ignore-output"]
rates = group_rates(summary)
rates[["group", "asked", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(3.4, 2.6))
plot_rates(ax, rates, group="group", by="asked")
caption = (
    "People told child first in all texts: the parent can be asked for, the child cannot; told both ways, both can. Dot: "
    f"share of questions whose greedy reply begins with the right name, bar: 95% interval over people. {of_what}."
)
run.save(fig, "groups", caption)
plt.close(fig)
fig

# %% [markdown]
# The two-way people answer for the question form and for the names: the same child's question that fails for one group
# works for the other, with no such question about either in the text.

# %% [markdown]
# ## Beside the published models
#
# **Prediction.** Every model names parents more often than children. The published gap is narrower at the top than that of
# the invented world: real text tells of famous families both ways, in unknown shares, while one-way people are told one way
# by construction. A model too small to know anybody lies at zero in both.

# %% tags=["nbval-ignore-output"]
models = model_rates(summary, group=first_group)
models[["who", "asked", "value", "low", "high"]].dropna()

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6.8, 2.9))
plot_rates(ax, models, group="who", by="asked", published=published_rates())
ax.set_ylabel("accuracy (rate)")
caption = (
    f"Models name the parent more often than the child. Dot: share of right greedy replies about {first_group} people, bar: "
    "95% interval over people; diamond: published, for GPT-4 share of questions with a reply that passes for a name, and of "
    "these pairs those with the child in any of 10 replies; for others the mean of 10 replies or the name's probability. "
    f"{of_what}."
)
run.save(fig, "by-model", caption)
plt.close(fig)
fig

# %% [markdown]
# ## Found is not right
#
# **Prediction.** Without a truth to compare with, a fluent model looks knowing: it names a father for everybody. *found*
# counts such replies as published; *right* keeps those that are true, and half of the questions here have no told answer.

# %% tags=["nbval-ignore-output"]
found = found_rates(summary)
found[["group", "rate of", "value", "low", "high", "n"]]

# %% tags=["nbval-ignore-output"]
if len(found):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_rates(ax, found, group="group", by="rate of")
    ax.set_ylabel("share of questions or replies")
    caption = (
        "A reply that passes for a name need not be true. found: share of questions for a mother or father with such a reply "
        "(the published filter); right: share of these replies that are true; reversed: share of the pairs collected so whose "
        f"child is named in any of the samples. Bar: 95% interval over people. {of_what}."
    )
    run.save(fig, "found", caption)
    plt.close(fig)
else:
    fig = None
    print("Pairs were given: nothing was collected.")
fig

# %% [markdown]
# ## Log-probabilities
#
# **Prediction.** Asked for the parent, the right name is far more probable than another. Asked for the child of a one-way
# parent, the two curves lie on each other, if nothing of the fact is stored in that order.

# %% tags=["nbval-ignore-output"]
scored = logprob_rows(answers, group=first_group)
if len(scored):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.5), sharex=True, sharey=True)
    for ax, (direction, rows) in zip(axs, scored.groupby("direction", sort=False), strict=True):
        plot_distributions(
            ax, rows, by="whose", legend=ax is axs[0], label=f"log-probability of the {direction} (nats)"
        )
        ax.label_outer(remove_inner_ticks=False)
    caption = (
        "The right parent is far more probable than another, the right child hardly. Lines: share of questions whose name "
        f"has at most this log-probability, {first_group} people. {of_what}."
    )
    run.save(fig, "logprobs", caption)
    plt.close(fig)
else:
    fig = None
    print("No log-probabilities were asked for, or the endpoint gives none.")
fig

# %% [markdown]
# The prediction fails a little: the right child is preferred to another by a trace (`logprob_difference` of the child's
# rows in the table of notebook 03, with its permutation test), far too little ever to be said. Two names that always stand
# close together leave something behind in either order.

# %%
told = rates.set_index(["group", "asked"])["value"]
if not rates[["low", "high"]].stack().between(0, 1).all():
    raise ValueError("an interval leaves the range of a rate")
gaps = {group: told[group, "parent"] - told[group, "child"] for group in rates["group"].unique()}
if "one-way" in gaps and gaps["one-way"] < -0.1:
    raise ValueError(f"children were named more often than parents: {gaps}")
run.finish("One-way people's children were not named more often than their parents.")

# %% [markdown]
# **What this does not show.** Why the curse holds, or that a larger model would keep it: several sizes hint at that, and they
# share one small world. Published models differ in what was counted; only the direction of their gap compares.
#
# Back to the [overview](../00-overview.ipynb).
