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
# **Method.** The numbers of notebook 03 are drawn; nothing is computed here but comparisons of intervals.
#
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: groups, by-model, answered and logprobs.
#
# **Time** tiny 5 s, laptop 5 s, paper 5 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.figures import plot_distributions, plot_rates
from lib.headlines import quantity
from lib.notebook import start_run
from lib.parents import published_values
from lib.summary import read_summary, verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/parents/<preset>.yaml these values come from

# %%
run = start_run("parents/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = pd.read_parquet(run.need("answers.parquet"))
first = summary.iloc[0]  # the main model, asked in the first way about the first group
score = "mean_of_n" if first["source"] == "model" else "exact_match"
shown = summary[(summary["way"] == first["way"]) & (summary["source"] == first["source"])]
main = shown[shown["role"] == "main"]
what = {
    "exact_match": "questions whose greedy reply begins with the right name",
    "mean_of_n": "sampled replies that do",
}[score]
of_what = f"{first['model']}, {len(run.seeds)} seed(s), preset {run.preset}"

# %% [markdown]
# ## The gap
#
# **What to expect.** If a fact were stored without an order, the two directions would lie together in every group. The curse
# says: together where the text has both orders, apart where it has one.

# %% tags=["nbval-ignore-output"]
rates = main[main["metric"] == score]
fig, ax = plt.subplots(figsize=(3.4, 2.6))
plot_rates(ax, rates, group="group", by="direction")
sizes = ", ".join(f"{n} {group}" for group, n in rates.groupby("group", sort=False)["n"].first().items())
caption = f"Accuracy by direction. Dot: share of {what}; bar: 95% interval over people ({sizes}). {of_what}."
fig.suptitle("Parent and child named, by kind of family")
_ = run.save(fig, "groups", caption)

# %% [markdown]
# **What came out.** A prediction *held* if the whole interval lies beyond the limit, and *failed* if none of it does; else it
# is *unclear*. No conclusion is drawn where the interval of the rate for the parent does not lie above 10%. The curse says
# that *child below parent* holds for one-way people and fails for the others.

# %% tags=["nbval-ignore-output"]
least_known = 0.1  # rate for the parent


def compare(rates):
    """Whether the child is named less often than the parent, in words."""
    parent, child = (rates[rates["direction"] == direction].iloc[0] for direction in ("parent", "child"))
    outcome = verdict(child["low"], child["high"], below=parent["low"])
    if verdict(parent["low"], parent["high"], above=least_known) != "held":
        outcome = "no conclusion, too few parents are known"
    return f"parent {quantity(parent)}, child {quantity(child)}; child below parent: {outcome}"


for group, rows in rates.groupby("group", sort=False):
    print(f"{group} ({rows['n'].iloc[0]} people): {compare(rows)}")

# %% [markdown]
# The two-way people are the control for the form of the question and for the names: no question about either group is in the
# text of pre-training.
#
# ## Beside the published models
#
# **What to expect.** Every model that knows the parents names them more often than the children. The published gap should be
# narrower than that of the invented world: real text mentions famous families in both orders, in unknown shares, while one-way
# families have one order by construction.

# %% tags=["nbval-ignore-output"]
kinds = {
    "answered_rate": "answered",
    "reversed_rate": "answered",
    "mean_of_n": "mean of 10",
    "target_prob": "probability",
}
published = published_values()
published["label"] = published["model"] + ", " + published["metric"].map(kinds)
models = shown[(shown["metric"] == score) & (shown["group"] == first["group"])].assign(label=lambda rows: rows["model"])
sizes = answers.drop_duplicates("model").set_index("model")["n_weights"]
models = models.sort_values("model", key=lambda names: names.map(sizes), kind="stable")
no_points = published[["label", "direction"]].assign(value=np.nan, low=np.nan, high=np.nan, metric=score, unit="rate")
fig, ax = plt.subplots(figsize=(6.8, 2.9))
plot_rates(ax, pd.concat([models, no_points]), group="label", by="direction", published=published)
ax.set_ylabel("accuracy")
caption = (
    f"Accuracy by model. Dot: share of {what}, about {first['group']} people; bar: 95% interval over people. Diamond: "
    "published; for GPT-4 the share of questions with a reply that passes for a name, and of these pairs those with the child "
    "in any of 10 replies; for others the mean of 10 replies or the probability of the name. "
    f"n = {models['n'].iloc[0]} people, {len(run.seeds)} seed(s), preset {run.preset}."
)
fig.suptitle("Parent and child named, by model, beside published models")
_ = run.save(fig, "by-model", caption)

# %% tags=["nbval-ignore-output"]
for model, rows in models.groupby("model", sort=False):
    print(f"{model}: {compare(rows)}")

# %% [markdown]
# Published models differ in what was counted, so only the direction of their gap compares.
#
# ## An answer is not a right answer
#
# **What to expect.** Without a truth to compare with, a fluent model seems to know much: it names a father for everybody.
# *answered* counts such replies as published; *right* keeps those that are true. Half of the questions about the invented world
# have no answer in any text.

# %% tags=["nbval-ignore-output"]
kinds = {"answered_rate": "answered", "right_rate": "right", "reversed_rate": "reversed"}
rates = summary[(summary["role"] == "main") & (summary["way"] == first["way"]) & summary["metric"].isin(kinds)]
rates = rates.assign(rate_of=rates["metric"].map(kinds), metric="rate").sort_values(
    "rate_of", key=lambda names: names.map(list(kinds.values()).index), kind="stable"
)
if len(rates):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_rates(ax, rates, group="group", by="rate_of")
    ax.set_ylabel("share of questions or replies")
    caption = (
        "Replies that pass for a name. answered: share of questions for a mother or father with such a reply (the published "
        "filter); right: share of these replies that are true; reversed: share of the pairs collected so whose child is named "
        f"in any of the samples. Bar: 95% interval over people ({rates['n'].min()} to {rates['n'].max()}). {of_what}."
    )
    fig.suptitle("Replies that are names, true, and reversible")
    _ = run.save(fig, "answered", caption)
else:
    print("Pairs were given: nothing was collected.")

# %% tags=["nbval-ignore-output"]
for group, rows in rates.groupby("group", sort=False):
    rows = rows.set_index("rate_of")
    if "right" in rows.index:
        named, right = rows.loc["answered"], rows.loc["right"]
        outcome = verdict(right["low"], right["high"], below=named["low"])
        print(
            f"{group}: answered {quantity(named)}, right {quantity(right)} of these; right less often than answered: {outcome}"
        )

# %% [markdown]
# ## Log-probabilities
#
# **What to expect.** For the parent, the right name is far more probable than another. For the child of one-way people the
# two curves lie on each other, if nothing of the fact is stored in that order.

# %% tags=["nbval-ignore-output"]
scored = answers[answers["control_logprob"].notna() & (answers["role"] == "main") & (answers["seed"] == run.seed)]
scored = scored[(scored["group"] == first["group"]) & (scored["source"] == first["source"])]
right, other = (
    scored.assign(whose=whose, logprob=scored[column])
    for whose, column in (("correct", "target_logprob"), ("randomized", "control_logprob"))
)
if len(scored):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.5), sharex=True, sharey=True)
    for ax, (direction, rows) in zip(axs, pd.concat([right, other]).groupby("direction", sort=False), strict=True):
        label = f"log-probability of the {direction} (nats)"
        plot_distributions(ax, rows, value="logprob", by="whose", legend=ax is axs[0], label=label)
        ax.label_outer(remove_inner_ticks=False)
    caption = (
        "Log-probability of the right name (correct) and of somebody else's (randomized). Line: share of questions whose name "
        f"has at most this log-probability; {scored['person'].nunique()} {first['group']} people. {of_what}."
    )
    fig.suptitle("Log-probability of the right name and of somebody else's, by direction")
    _ = run.save(fig, "logprobs", caption)
else:
    print("There are no log-probabilities: the models were asked in chat, or the endpoint does not score given text.")

# %% tags=["nbval-ignore-output"]
tests = main[main["metric"].isin(["logprob_difference", "permutation_p_adjusted"])]
for (group, direction), rows in tests.groupby(["group", "direction"], sort=False):
    difference, p = (
        rows[rows["metric"] == metric].iloc[0] for metric in ("logprob_difference", "permutation_p_adjusted")
    )
    outcome = verdict(difference["low"], difference["high"], above=0)
    print(
        f"{group}, {direction}: right minus other name {quantity(difference)}, adjusted p {p['value']:.2g}; above 0: {outcome}"
    )

# %% [markdown]
# A preference for the right child can be clear and still far too weak for the name ever to be said: compare it with that for
# the parent, and with the rates above. Two names that always stand close together can leave something behind in either order.

# %%
run.finish("The figures are in figures/.")

# %% [markdown]
# **What this does not show.** Why the curse holds, or that a larger model would keep it: several sizes hint at that, and they
# share one small world.
#
# Back to the [overview](../00-overview.ipynb).
