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
# # See which instructions are acted on
#
# **Question.** How large is the gap between instructions read question first and answer first, beside what was
# published, and do training longer or a larger model close it?
#
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: by-order, epochs, logprobs, and over-size where several sizes were trained.
#
# **Time** tiny 5 s, laptop 6 s, paper 10 s
#
# The outputs kept with this page are the tiny run, which is too short to memorise a document: they show that everything
# works. The figures of the full run lie in `figures/guidance/`; the prose is about those.

# %%
import matplotlib.pyplot as plt

from lib.figures import plot_curves, plot_distributions, plot_rates
from lib.guidance import constant_rate, headline_rates, logprob_rows, published_at, published_rates, rate_curves
from lib.notebook import start_run
from lib.tables import ANSWERS, read_summary, read_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/guidance/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/guidance
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]

# %%
run = start_run("guidance/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = read_table(run.need("answers.parquet"), ANSWERS)
main = answers.loc[answers["role"] == "main", "base"].iloc[0]
n_pairs = answers.groupby("part")["pair"].nunique()
of_what = f"{main}, {n_seeds} fine-tune(s) an order, {n_pairs['unrealized']} unrealized pairs, preset {run.preset}"

# %% [markdown]
# ## The gap
#
# **Prediction.** If an instruction were stored as a fact about two things, orange would be as high on the right as on
# the left. The published finding is that it is not: high where the question was named first, at the floor where the
# answer was, while blue (memorised examples) is at the top in both. Diamonds are the published values: about 94% (curie)
# and at most 7% (Llama).

# %% tags=["nbval-ignore-output"]
rates = headline_rates(summary)
rates[["order", "asked", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(3.4, 2.8))
plot_rates(ax, rates, group="order", by="asked", published=published_rates(), chance=constant_rate(summary))
caption = (
    "Instructions read with the question first are acted on, those read with the answer first are not. Dot: share of "
    "questions answered as instructed (the answer starts with the target), bar: 95% interval over pairs"
    + (" and fine-tunes" if n_seeds > 1 else "")
    + f"; chance: one constant answer; diamond: published. {of_what}, {n_pairs['realized']} realized."
)
run.save(fig, "by-order", caption)
plt.close(fig)
fig

# %% [markdown]
# Green puts the instruction into the prompt and so holds only for models that can take an answer from there. Where it
# lies at the floor the model cannot read, and green says nothing; where it is level with orange, the instruction in the prompt adds nothing to the
# memory of it.

# %% [markdown]
# ## Memory first, then action
#
# **Prediction.** Blue rises first, in both orders alike. Orange follows in simple order, later and more slowly, and
# keeps rising after blue is at the top; in reverse order it never leaves the floor.

# %% tags=["nbval-ignore-output"]
epochs = rate_curves(summary, x_name="epoch")
if len(epochs):
    fig, axs = plt.subplots(1, epochs["order"].nunique(), figsize=(6.8, 2.6), sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], epochs.groupby("order", sort=False), strict=True):
        plot_curves(ax, rows, by="asked", published=published_at(order, rows["x"].max()), legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({order} order)")
        ax.label_outer()
    caption = (
        "Memory comes first, acting on what was read follows, and only where instructions name the question first. Line: "
        "share of questions answered as instructed, band: 95% interval over pairs; epoch 0 is the base; diamond: published "
        f"(94%, at most 7%). The first {run.params['n_curve_pairs']} pairs of each set. {of_what}."
    )
    run.save(fig, "epochs", caption)
    plt.close(fig)
else:
    fig = None
    print("This model was trained elsewhere: there is no curve over its epochs.")
fig

# %% [markdown]
# ## Log-probabilities
#
# **Prediction.** In simple order the instructed answer is far more probable than the answer to another question. In
# reverse order the two lie on each other: the instruction left no trace in what the model expects.

# %% tags=["nbval-ignore-output"]
scored = logprob_rows(answers)
if len(scored):
    fig, axs = plt.subplots(1, scored["order"].nunique(), figsize=(6.8, 2.6), sharex=True, sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], scored.groupby("order", sort=False), strict=True):
        plot_distributions(ax, rows, by="whose", legend=ax is axs[0][0])
        ax.set_xlabel(f"{order} order")
        ax.label_outer()
    fig.supxlabel("log-probability of the target (nats)", size="medium")
    caption = (
        "Read question first, the instructed answer is all but certain; read answer first, it is about as unlikely as "
        "another question's. Lines: share "
        f"of unrealized questions whose target has at most this log-probability. {of_what}."
    )
    run.save(fig, "logprobs", caption)
    plt.close(fig)
else:
    fig = None
    print("This endpoint scores no given text: there are no log-probabilities of targets.")
fig

# %% [markdown]
# Where green stands a little to the right of orange in the reverse order, the instruction left a trace, far too small to
# be said. Whether that is more than chance is the *permutation_p* of notebook 03.

# %% [markdown]
# ## Larger models
#
# **Prediction.** A larger base acts on more of what it read in simple order; in reverse order size does not help.

# %% tags=["nbval-ignore-output"]
sizes = rate_curves(summary, x_name="weights of the base")
if len(sizes):
    fig, axs = plt.subplots(1, sizes["order"].nunique(), figsize=(6.8, 2.6), sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], sizes.groupby("order", sort=False), strict=True):
        ax.set_xscale("log")
        plot_curves(ax, rows, by="asked", legend=ax is axs[0][-1])
        ax.set_xlabel(f"weights of the base ({order} order)")
        ax.label_outer()
    caption = (
        "Unrealized accuracy by size of the base. Line: share of questions answered as instructed, band: 95% interval over "
        f"pairs (and fine-tunes of {main}; one an order of each other size). Preset {run.preset}."
    )
    run.save(fig, "over-size", caption)
    plt.close(fig)
else:
    fig = None
    print("One size only: the curve over size needs size_bases and at least three seeds.")
fig

# %%
told = rates.set_index(["order", "asked"])[["value", "low", "high"]]
if not told.stack().between(0, 1).all():
    raise ValueError("an interval leaves the range of a rate")
if not {"realized", "unrealized"} <= set(rates["asked"]):
    raise ValueError(f"a set of questions is missing: {sorted(set(rates['asked']))}")
if not published_rates().query("asked == 'unrealized'")["value"].between(0, 1).all():
    raise ValueError("a published value is no rate")
run.finish("Both sets of questions are drawn for each order, with their intervals and the published values.")

# %% [markdown]
# **What this does not show.** That the reverse order could never work: a model that wrote the instruction out before it
# answered would have both in its prompt. What is shown is that nothing of the kind happens in the forward pass that
# gives the answer. The same curse holds for facts (*reversal*) and for what pre-training taught (*parents*).
#
# Back to the [overview](../00-overview.ipynb).
