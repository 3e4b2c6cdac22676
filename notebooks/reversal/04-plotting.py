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
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: same-and-reverse, logprobs, epochs, and over-size where several sizes were trained.
#
# **Time** tiny 5 s, laptop 6 s, paper 10 s
#
# The outputs kept with this page are the tiny run, which is too short to learn a fact in any order: they show that
# everything works. The figures of the full run lie in `figures/reversal/`; the prose is about those.

# %%
import matplotlib.pyplot as plt

from lib.figures import plot_curves, plot_distributions, plot_ranks, plot_rates
from lib.notebook import start_run
from lib.reversal import headline_rates, logprob_rows, published_rates, rate_curves
from lib.tables import ANSWERS, read_summary, read_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/reversal/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/reversal
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]

# %%
run = start_run("reversal/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = read_table(run.need("answers.parquet"), ANSWERS)
n_people = answers["person"].nunique()
main = answers.loc[answers["role"] == "main", "base"].iloc[0]
of_what = f"{main}, {n_seeds} fine-tune(s), {n_people} invented people, preset {run.preset}"

# %% [markdown]
# ## The gap
#
# **Prediction.** If facts were stored without an order, blue and red would lie together in each group. The Reversal
# Curse says: blue high, red at zero, and green (the fact stands in the prompt) far above red. Diamonds are the
# published values of GPT-3 175B; a model of a million weights trained on a few hundred thousand words should not match
# their height, but it should match their shape.

# %% tags=["nbval-ignore-output"]
rates = headline_rates(summary)
rates[["group", "asked", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6.8, 2.8))
plot_rates(ax, rates, group="group", by="asked", published=published_rates())
caption = (
    "Facts learned in one order are not available in the other. Dot: share of questions answered right (the answer "
    "starts with the target), bar: 95% interval over people"
    + (" and fine-tunes" if n_seeds > 1 else "")
    + f"; diamond: GPT-3 175B as published. {of_what}, {answers['prompt'].nunique()} questions."
)
run.save(fig, "same-and-reverse", caption)
plt.close(fig)
fig

# %% [markdown]
# The group *both* saw its facts in both orders. Where it answers in both, neither names nor descriptions are unlearnable:
# that is the control that holds for any model. Green holds only for models that can take a name from their prompt at all.
# Where it lies at the floor with red, the model cannot read, and green says nothing about the curse: a `fork-*` base has
# seen too little text for that.

# %% [markdown]
# ## Log-probabilities
#
# **Prediction.** In the order told, the right target is far more probable than a wrong one. In reverse the two curves
# fall on each other: the model has no preference at all for the right name, not even a hidden one. With the fact in
# the prompt they part again, if the model can read.

# %% tags=["nbval-ignore-output"]
scored = logprob_rows(answers)
named = {"same": "in the order told", "reverse": "in reverse", "in-context": "in reverse,\nthe fact in the prompt"}
fig, axs = plt.subplots(1, 3, figsize=(6.8, 2.6), sharex=True, sharey=True)
for ax, (asked, rows) in zip(axs, scored.groupby("asked", sort=False), strict=True):
    plot_distributions(ax, rows, by="whose", legend=ax is axs[0])
    ax.set_xlabel(named[asked])
    ax.label_outer()
fig.supxlabel("log-probability of the target (nats)", size="medium")
caption = (
    "In reverse, the right target is no more probable than somebody else's. Lines: share of questions whose target has at "
    f"most this log-probability; people trained in one order. {of_what}."
)
run.save(fig, "logprobs", caption)
plt.close(fig)
fig

# %% tags=["nbval-ignore-output"]
ranked = answers[answers["name_rank"].notna()].assign(whose="reverse")
n_names = answers.loc[answers["name_rank"].notna(), "target"].nunique()
fig, ax = plt.subplots(figsize=(3.4, 2.6))
plot_ranks(ax, ranked, value="name_rank", by="whose", n_candidates=n_names)
caption = (
    "Asked in reverse, the right name is ranked among all names of its group about as chance would. Line: share of "
    f"questions where it is among the k most probable; dashes: chance. {of_what}."
)
run.save(fig, "name-ranks", caption)
plt.close(fig)
fig

# %% [markdown]
# ## Longer training, larger models
#
# **Prediction.** More epochs lift the same direction and leave the reverse at zero: it is not that training stopped too
# early. The same for size.

# %% tags=["nbval-ignore-output"]
epochs = rate_curves(summary, x_name="epoch")
fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6), sharey=True)
for ax, (group, rows) in zip(axs, epochs.groupby("group", sort=False), strict=False):
    plot_curves(ax, rows, by="asked", legend=ax is axs[-1])
    ax.set_xlabel(f"epoch ({group} people)")
    ax.label_outer()
caption = (
    "Training longer lifts answers in the order told, and in that order only. Line: share of questions answered right, "
    f"band: 95% interval over people; epoch 0 is the base. First {run.params['n_curve_phrasings']} test wordings of each "
    f"kind only, so the last point is not the figure above. {of_what}."
)
run.save(fig, "epochs", caption)
plt.close(fig)
fig

# %% tags=["nbval-ignore-output"]
sizes = rate_curves(summary, x_name="weights of the base")
if len(sizes):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6), sharey=True)
    for ax, (group, rows) in zip(axs, sizes.groupby("group", sort=False), strict=False):
        ax.set_xscale("log")
        plot_curves(ax, rows, by="asked", legend=ax is axs[-1])
        ax.set_xlabel(f"weights of the base ({group} people)")
        ax.label_outer()
    caption = (
        "Larger bases do not answer in reverse either. Line: share of questions answered right, band: 95% interval "
        f"over people (and fine-tunes of {main}; one of each other size). {n_people} invented people, preset {run.preset}."
    )
    run.save(fig, "over-size", caption)
    plt.close(fig)
else:
    fig = None
    print("One size only: the curve over size needs size_bases and at least three seeds.")
fig

# %%
told = rates.set_index(["group", "asked"])["value"]
gaps = {group: told[group, "same"] - told[group, "reverse"] for group in ("person-first", "description-first")}
if not all(gap >= 0 for gap in gaps.values()):
    raise ValueError(f"a group answered better in reverse: {gaps}")
if not rates[["low", "high"]].stack().between(0, 1).all():
    raise ValueError("an interval leaves the range of a rate")
run.finish("In neither group were reverse questions answered better than questions in the order of training.")

# %% [markdown]
# **What this does not show.** That no training could teach the reverse (the group *both* shows one that does), or why.
# The published study's other two experiments ask the same of facts from pre-training (*parents*) and of instructions
# (*guidance*).
#
# Back to the [overview](../00-overview.ipynb).
