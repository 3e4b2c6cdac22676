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
# # Which instructions were acted on
#
# **Question.** Does it matter whether an instruction names the question first or the answer first, and for how long,
# for which models?
#
# **Method.** The rates and log-probabilities of notebook 03, drawn with their intervals and the published values.
#
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: by-order, epochs, logprobs, and over-size where several sizes were trained.
#
# **Time** tiny 5 s, laptop 6 s, smollm2 6 s, paper 10 s

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import plot_curves, plot_distributions, plot_rates
from lib.guidance import published_values
from lib.notebook import start_run
from lib.summary import read_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/guidance/<preset>.yaml these values come from

# %%
run = start_run("guidance/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = pd.read_parquet(run.need("answers.parquet"))
main = answers[answers["role"] == "main"]
n_pairs = main.groupby("part")["pair"].nunique()
model = main["base"].iloc[0]
n_fine_tunes = main["seed"].nunique()
over = "pairs and fine-tunes" if n_fine_tunes > 1 else "pairs"
ORDERS = {"simple": "question first", "reverse": "answer first"}  # what an instruction names first
of_what = (
    f"{model}, {n_fine_tunes} fine-tune(s) per order, {n_pairs['unrealized']} unrealized pairs, preset {run.preset}"
)

# %% [markdown]
# ## The two orders
#
# **What to expect.** If an instruction were stored as a fact about two things, orange (unrealized) would be as high
# where it names the answer first (reverse order) as where it names the question first (simple order). The published
# finding is that it is not: high where the question was named first, at the floor where the answer was, while blue
# (memorised examples) is at the top in both. Diamonds are the published values: about 94% (curie) and at most 7%
# (Llama). Both are of larger models whose pre-training held no such documents.

# %% tags=["nbval-ignore-output"]
rates = summary[(summary["metric"] == "exact_match") & summary["epoch"].isna()]
test = rates["probe"] == "test"
series = rates["part"].where(test, "in-context").mask(rates["role"] == "untuned", "untuned")
shown = ((rates["part"] == "unrealized") & (test | (rates["role"] != "untuned"))) | (series == "realized")
drawn = rates.assign(series=series)[shown & rates["role"].isin(["main", "untuned", "control"])]
drawn["group"] = drawn["order"].map(ORDERS) + drawn["role"].map({"control": " (control base)"}).fillna("")
ranks = ["main", "untuned", "control", *ORDERS, "realized", "unrealized", "in-context"]
drawn["series"] = drawn["series"].astype(str)
drawn = drawn.sort_values(["role", "order", "series"], key=lambda column: column.map(ranks.index))
drawn[["group", "series", "model", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
published = published_values().assign(series="unrealized", group=lambda rows: rows["order"].map(ORDERS))
chance = summary.loc[(summary["metric"] == "constant_match") & (summary["part"] == "unrealized"), "value"].max()
control_bases = drawn.loc[drawn["role"] == "control", "model"].unique()
fig, ax = plt.subplots(figsize=(5.0, 2.9))
plot_rates(ax, drawn, group="group", by="series", published=published, chance=chance)
caption = (
    "Questions answered as instructed, by what an instruction names first: the question (simple order) or the answer "
    f"(reverse order). Dot: share of answers that start with the target, bar: 95% interval over {over}; chance: one "
    f"constant answer; diamond: published. {of_what}, {n_pairs['realized']} realized."
    + "".join(f" Control base: {name}, one fine-tune per order." for name in control_bases)
)
fig.suptitle("Answers as instructed, by what the instruction names first")
_ = run.save(fig, "by-order", caption)

# %% [markdown]
# Green puts the instruction into the prompt and is informative only for models that can take an answer from there.
# Where it lies at the floor the model cannot use its prompt, and green says nothing; where it is level with orange, the
# instruction in the prompt adds nothing to the memory of it. The *control base* was pre-trained without guidance
# documents.

# %% [markdown]
# **What came out**, as shares of questions:

# %% tags=["nbval-ignore-output"]
for group, rows in drawn.groupby("group", sort=False):
    parts = [f"{row.series} {row.value:.0%} [{row.low:.0%}, {row.high:.0%}]" for row in rows.itertuples()]
    learned = (rows.loc[rows["series"] == "realized", "low"] > 0.5).all()
    print(f"{group}: {', '.join(parts)}" + ("" if learned else "; its examples were not learned, so no conclusion"))

# %% [markdown]
# ## Memory first, then action
#
# **What to expect.** Blue rises first, in both orders alike. Orange follows where the question is named first, later and
# more slowly; where the answer is, it never leaves the floor.

# %% tags=["nbval-ignore-output"]
epochs = summary[(summary["metric"] == "exact_match") & summary["epoch"].notna()]
if len(epochs):
    fig, axs = plt.subplots(1, epochs["order"].nunique(), figsize=(6.8, 2.6), sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], epochs.groupby("order", sort=False), strict=True):
        values = published[published["order"] == order].assign(epoch=rows["epoch"].max())
        plot_curves(ax, rows, x="epoch", by="part", published=values, legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({ORDERS[order]})")
        ax.label_outer()
    caption = (
        "Questions answered as instructed, over training, by the order of instructions. Line: share of questions, "
        "band: 95% interval over " + over + "; epoch 0 is the base; diamond: published (94%, at most 7%), at "
        f"the last epoch. The first {rows['n'].max()} pairs of each set. {of_what}."
    )
    fig.suptitle("Questions answered as instructed, over training")
    _ = run.save(fig, "epochs", caption)
else:
    print("This model was trained elsewhere: there is no curve over its epochs.")

# %% [markdown]
# ## Log-probabilities
#
# **What to expect.** In simple order the instructed answer is far more probable than the answer to another question.
# In reverse order the two curves lie on each other, if the instruction left no trace in what the model expects.

# %% tags=["nbval-ignore-output"]
scored = main[(main["probe"] == "test") & (main["part"] == "unrealized")].dropna(
    subset=["target_logprob", "control_logprob"]
)
long = scored.melt(["order"], ["target_logprob", "control_logprob"], var_name="whose", value_name="nats")
long["whose"] = long["whose"].map({"target_logprob": "correct", "control_logprob": "randomized"})
tests = summary[summary["metric"].isin(["logprob_difference", "permutation_p"]) & (summary["part"] == "unrealized")]
tests = tests[(tests["role"] == "main") & (tests["probe"] == "test")]
tests[["order", "metric", "value", "low", "high", "n", "unit"]]

# %% tags=["nbval-ignore-output"]
if len(long):
    fig, axs = plt.subplots(1, long["order"].nunique(), figsize=(6.8, 2.6), sharex=True, sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], long.groupby("order", sort=False), strict=True):
        plot_distributions(ax, rows, value="nats", by="whose", legend=ax is axs[0][0])
        ax.set_xlabel(ORDERS[order])
        ax.label_outer()
    fig.supxlabel("log-probability of the target (nats)", size="medium")
    differences = tests[tests["metric"] == "logprob_difference"]
    means = [
        f"{ORDERS[row.order]} {row.value:+.2f} [{row.low:.2f}, {row.high:.2f}]" for row in differences.itertuples()
    ]
    caption = (
        "Log-probability of the instructed answer (correct) and of another question's (randomized). Lines: share of "
        f"unrealized questions at or below. Mean difference in nats, 95% interval over pairs: {'; '.join(means)}. "
        f"{of_what}."
    )
    fig.suptitle("Log-probability of the instructed answer and of another question's")
    _ = run.save(fig, "logprobs", caption)
else:
    print("This endpoint scores no given text: there are no log-probabilities of targets.")

# %% [markdown]
# **What came out.** A difference above zero means that the instruction left a trace in what the model expects,
# whether or not the answer is given:

# %% tags=["nbval-ignore-output"]
for order, rows in tests.groupby("order", sort=False):
    row, p = rows[rows["metric"] == "logprob_difference"].iloc[0], rows.loc[rows["metric"] == "permutation_p", "value"]
    what = "likelier than" if row["low"] > 0 else "less likely than" if row["high"] < 0 else "not distinguishable from"
    size = f"{row['value']:+.2f} nats [{row['low']:.2f}, {row['high']:.2f}], p = {p.iloc[0]:.2g}"
    print(f"{ORDERS[order]}: the instructed answer is {what} another question's ({size})")

# %% [markdown]
# ## Larger models
#
# **What to expect.** A larger base acts on more of what it read in simple order; in reverse order size does not help.

# %% tags=["nbval-ignore-output"]
n_weights = answers.groupby("base")["n_weights"].first()
sizes = rates[(rates["probe"] == "test") & rates["role"].isin(["main", "size"])]
sizes = sizes.assign(n_weights=sizes["model"].map(n_weights)).dropna(subset="n_weights")
if sizes["n_weights"].nunique() > 1:
    fig, axs = plt.subplots(1, sizes["order"].nunique(), figsize=(6.8, 2.6), sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], sizes.groupby("order", sort=False), strict=True):
        ax.set_xscale("log")
        plot_curves(ax, rows, x="n_weights", by="part", legend=ax is axs[0][-1])
        ax.set_xlabel(f"weights of the base ({ORDERS[order]})")
        ax.label_outer()
    caption = (
        "Questions answered as instructed, by size of the base. Line: share of questions, band: 95% interval over "
        f"pairs (and fine-tunes of {model}; one per order of each other size, with the same settings). Preset {run.preset}."
    )
    fig.suptitle("Questions answered as instructed, over the size of the base")
    _ = run.save(fig, "over-size", caption)
else:
    print("One size only: the curve over size needs size_bases and at least three seeds.")

# %%
run.finish("The figures were written.")

# %% [markdown]
# **What this does not show.** That the reverse order could never work: a model that wrote the instruction out before
# it answered would have both in its prompt. The test is of the forward pass that gives the answer. The same question
# is put about facts in *reversal*, and about what pre-training taught in *parents*.
#
# Back to the [overview](../00-overview.ipynb).
