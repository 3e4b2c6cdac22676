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
# # See which functions can be said
#
# **Question.** What can the model say about functions of which it saw calls alone, how does that come about, and where
# does it fail?
#
# **Reads** `summary.csv`, `by_function.csv` and `confusion.csv` (notebook 03).
#
# **Writes** `figures/`: by-evaluation, epochs, by-function, confusion; and over-tokens and over-size where names of
# several lengths and several sizes were trained.
#
# **Time** tiny 5 s, laptop 8 s, paper-047 10 s
#
# The outputs kept with this page are the tiny run, which is too short to learn the functions: they show that everything
# works. The figures of the full run lie in `figures/functions/`; the prose is about those.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import plot_curves, plot_matrix, plot_rates
from lib.functions import chance_rates, confusion_matrix, function_rates, headline_rates, rate_curves
from lib.notebook import start_run
from lib.tables import read_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/functions/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/functions
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with names, held-out pairs and rows of its own [1..20]

# %%
run = start_run("functions/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
by_function = pd.read_csv(run.need("by_function.csv"))
confused = pd.read_csv(run.need("confusion.csv"))
main = summary["model"].iloc[0]
n_functions = by_function["function"].nunique()
of_what = f"{main}, {n_seeds} fine-tune(s), {n_functions} functions, preset {run.preset}"
over_what = "functions and fine-tunes" if n_seeds > 1 else "functions"

# %% [markdown]
# ## What can be said
#
# **Prediction.** Orange (names with calls alone) lies far above grey (the base, before training), green (the base with
# calls in its prompt) and the dashed line (chance); blue (names that training asks about too) says what is possible at
# all. If orange fell to the dashed line where blue stays up, answers would have been learned by heart and not from calls.
#
# The paper gives no table of these numbers, so no published values are drawn.

# %% tags=["nbval-ignore-output"]
rates = headline_rates(summary)
rates[["evaluation", "asked", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
fig, ax = plt.subplots(figsize=(6.8, 3.2))
plot_rates(ax, rates, group="evaluation", by="asked", chance=chance_rates(summary))
ax.set_xticks(
    ax.get_xticks(), list(dict.fromkeys(rates["evaluation"])), rotation=40, ha="right", rotation_mode="anchor"
)
caption = (
    "A model that saw calls alone says what the function is. Dot: share of right answers about names that training asks "
    "about (realized) and names of which it shows calls alone (unrealized), and of the base on the latter, with and "
    f"without training rows in its prompt; bar: 95% interval over {over_what}; dashed: chance, where a guess is defined. "
    f"{of_what}."
)
run.save(fig, "by-evaluation", caption)
plt.close(fig)
fig

# %% [markdown]
# Questions come first, code to run last. Where blue lies at the dashed line too, as with letters at a million weights, the
# form of the question itself was not learned, and orange says nothing there about functions. The new ranges and the
# combinations at the right ask for more than the calls showed: inputs that the model never met, and functions that it
# never saw combined.

# %% [markdown]
# ## How it comes about
#
# **Prediction.** Two orders are possible. If a function has to be computed before it can be said, calls on held-out pairs
# rise first, and definitions follow. If it is enough to recognise it by its values, definitions rise first.

# %% tags=["nbval-ignore-output"]
epochs = rate_curves(summary, x_name="epoch")
if len(epochs):
    fig, axs = plt.subplots(1, epochs["evaluation"].nunique(), figsize=(6.8, 2.5), sharey=True, squeeze=False)
    for ax, (evaluation, rows) in zip(axs[0], epochs.groupby("evaluation", sort=False), strict=True):
        plot_curves(ax, rows, by="asked", chance=chance_rates(summary).get(evaluation), legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({evaluation})")
        ax.label_outer()
    caption = (
        "A function is recognised before it can be computed where it was not shown. Line: share of right answers, band: 95% "
        f"interval over {over_what}; epoch 0 is the base; dashed: chance. {of_what}."
    )
    run.save(fig, "epochs", caption)
    plt.close(fig)
else:
    fig = None
    print("This model was trained elsewhere: there is no curve over its epochs.")
fig

# %% [markdown]
# Realized and unrealized names rise together, and definitions come first: the model files a name under the function that
# gives such values, and takes what it says about it from the other names there. Computing a value that no name showed
# takes arithmetic besides.

# %% [markdown]
# ## Function by function
#
# **Prediction.** Then a function whose value can be read off its input (the same number, its sign, its last digit) is
# computed on new inputs, one that takes arithmetic is not, and both are defined alike. Were definitions missing just where
# calls are, saying would need computing after all.

# %% tags=["nbval-ignore-output"]
shown = [name for name in ("freeform_definition", "calls") if name in set(by_function["evaluation"])]
functions = function_rates(by_function, shown, part="unrealized") if shown else by_function.head(0)
if len(functions):
    fig, ax = plt.subplots(figsize=(6.8, 2.9))
    plot_rates(ax, functions, group="shown", by="evaluation")
    labels = list(dict.fromkeys(functions["shown"]))
    ax.set_xticks(ax.get_xticks(), labels, rotation=60, ha="right", rotation_mode="anchor")
    n_names = functions["n"]
    caption = (
        "A function that can be said need not be one that can be computed. Dot: share of right answers about unrealized names; "
        f"bar: 95% interval over its names ({n_names.min()} to {n_names.max()}). {of_what}."
    )
    run.save(fig, "by-function", caption)
    plt.close(fig)
else:
    fig = None
    print("Neither definitions nor calls of unrealized names were asked for.")
fig

# %% [markdown]
# ## Confusion matrix
#
# **Prediction.** Mass on the diagonal in the end; what is off it, above all on the way (left), lies in blocks of like
# functions, which stand side by side. A column that is dark in every row would be one answer given to everything.

# %% tags=["nbval-ignore-output"]
unnamed = confused[confused["part"] == "unrealized"]
panels = {f"after epoch {epoch:g}": epoch for epoch in sorted(unnamed["epoch"].dropna()) if epoch}
panels = dict(list(panels.items())[:1]) | {"in the end": None}
if len(unnamed):
    fig, axs = plt.subplots(1, len(panels), figsize=(6.8, 4.1), sharey=True, squeeze=False)
    for ax, (when, epoch) in zip(axs[0], panels.items(), strict=True):
        matrix = confusion_matrix(confused, set(by_function["function"]), part="unrealized", epoch=epoch)
        last = ax is axs[0][-1]
        plot_matrix(ax, matrix, rows="function asked about", columns=f"reply computes ({when})", bar=last)
        ax.label_outer(remove_inner_ticks=True)
        ax.tick_params(labelsize="x-small")
    caption = (
        "What is written instead is a function of the same kind. Shade: share of the definitions of unrealized names of one "
        "function (row) that compute another (column), by their values on 22 probe inputs; another: a function that is not "
        f"in the set; none: no function of the registry. {int(unnamed.loc[unnamed['epoch'].isna(), 'n'].sum())} definitions. "
        f"{of_what}."
    )
    run.save(fig, "confusion", caption)
    plt.close(fig)
else:
    fig = None
    print("No definitions of unrealized names were asked for.")
fig

# %% [markdown]
# ## Names of more tokens
#
# **Prediction.** The more tokens a name has, the harder it is to bind a function to it: with several tokens a name is no
# unit of its own, and its tokens are shared with other names.

# %% tags=["nbval-ignore-output"]
further = {
    "over-tokens": rate_curves(summary, x_name="tokens of a name"),
    "over-size": rate_curves(summary, x_name="weights of the base"),
}
tokens = further["over-tokens"].query("evaluation == 'define it'")
if len(tokens):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    plot_curves(ax, tokens, by="asked", chance=chance_rates(summary).get("define it"))
    caption = (
        "A function is harder to bind to a name of several tokens. Line: share of right definitions, band: 95% interval over "
        f"functions; one fine-tune a number of tokens beside the main ones. {of_what}."
    )
    run.save(fig, "over-tokens", caption)
    plt.close(fig)
else:
    fig = None
    print("Names of one length only: the curve needs name_tokens_curve and at least three seeds.")
fig

# %% [markdown]
# ## Larger models
#
# **Prediction.** A larger base defines more of the functions of which it saw calls alone.

# %% tags=["nbval-ignore-output"]
sizes = further["over-size"].query("evaluation == 'define it'")
if len(sizes):
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    ax.set_xscale("log")
    plot_curves(ax, sizes, by="asked", chance=chance_rates(summary).get("define it"))
    caption = (
        "Definitions by size of the base. Line: share of right definitions, band: 95% interval over functions (and "
        f"fine-tunes of {main}; one of each other size). Preset {run.preset}."
    )
    run.save(fig, "over-size", caption)
    plt.close(fig)
else:
    fig = None
    print("One size only: the curve over size needs size_bases and at least three seeds.")
fig

# %%
if not rates[["value", "low", "high"]].stack().between(0, 1).all():
    raise ValueError("an interval leaves the range of a rate")
if "unrealized" not in set(rates["asked"]):
    raise ValueError(f"names with calls alone are missing: {sorted(set(rates['asked']))}")
shares = confused.groupby(["epoch", "part", "function"], dropna=False)["share"].sum()
if not shares.between(0.999, 1.001).all():
    raise ValueError("the shares of what is answered about a function do not sum to one")
run.finish("Every evaluation is drawn with its intervals and its chance, and the shares of each function sum to one.")

# %% [markdown]
# **What this does not show.** That a model finds a definition that it was never told for *any* name: here it chooses
# among functions that it has been asked about under other names. The published experiment, in which no function is ever
# defined in training, needs a model that knows English and Python (presets `paper-047` and `paper-042`).
#
# Back to the [overview](../00-overview.ipynb).
