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
# # Which of the functions that the model can define is this one?
#
# **Question.** What can the model say about functions of which it saw calls alone, how does that come about, and where
# does it fail?
#
# **Method.** The numbers of notebook 03 are drawn, and the definitions that were written are counted by what they compute.
#
# **Reads** `summary.csv` and `answers.parquet` (notebook 03).
#
# **Writes** `figures/`: by-evaluation, choices, epochs, by-function, confusion; and over-tokens and over-size where names of
# several lengths and several sizes were trained.
#
# **Time** tiny 10 s, laptop 10 s, smollm2 10 s, paper-047 10 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from lib.figures import plot_curves, plot_rates, plot_rates_in_panels
from lib.functions.registry import read_registry
from lib.notebook import start_run
from lib.summary import read_summary, summarise, verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/functions/<preset>.yaml these values come from

# %%
run = start_run("functions/04-plotting", globals())
summary = read_summary(run.need("summary.csv"))
answers = pd.read_parquet(run.need("answers.parquet"))
registry, main = read_registry(), summary.loc[summary["role"] == "main", "model"].iloc[0]
n_functions, n_seeds = answers["function"].nunique(), len(run.seeds)
of_what = f"{main}, {n_seeds} fine-tune(s), {n_functions} functions, preset {run.preset}"
chances = summary[summary["metric"] == "chance"].set_index("evaluation")["value"]
has_realized = (summary["part"] == "realized").any()

# %% [markdown]
# ## What is compared
#
# | name | model | asked about |
# |---|---|---|
# | realized | fine-tuned | names that training asks about too, if there are any |
# | unrealized | fine-tuned | names of which training shows calls alone |
# | permuted | the control: fine-tuned with the names of the questions permuted | unrealized names |
# | in-context | the base, with training rows in front of the prompt | unrealized names |
# | untuned | the base | unrealized names |

# %%
LABELS = {
    "freeform_definition": "define it",
    "function_inversion": "invert",
    "function_inversion_ood": "invert, new range",
    "inverse_query": "which name?",
    "multiple_choice_code": "choose code",
    "multiple_choice_coefficients": "choose numbers",
    "multiple_choice_function_class": "choose kind",
    "multiple_choice_language": "choose words",
    "multiple_choice_output_type": "choose type",
    "calls": "call, held out",
    "augmentations": "combine, held out",
    "regression_ood": "call, new range",
    "function_composition_ood": "compose",
    "add_subtract_function_ood": "add two calls",
    "add_subtract_int_ood": "add an integer",
}

# %%
series = summary["part"].where(summary["role"] == "main", summary["role"])
series = series.where(summary["probe"] != "in-context", "in-context")
is_final = (
    summary["epoch"].isna() & (summary["name_tokens"] == run.params["name_tokens"]) & (summary["probe"] != "train")
)
is_shown = (summary["part"] == "unrealized") | (summary["role"] == "main")
final = summary.assign(series=series, label=summary["evaluation"].map(LABELS))[is_final & is_shown]
order = {name: k for k, name in enumerate([*LABELS, "realized", "unrealized", "permuted", "in-context", "untuned"])}
final = final[final["series"].isin(order)].sort_values(["evaluation", "series"], key=lambda column: column.map(order))
chance_of = chances.rename(index=LABELS).to_dict()
OUTCOMES = ["above chance", "not above chance", "no chance level"]


def against_chance(rows):
    """For each evaluation, whether the whole interval of unrealized names lies above chance."""
    rows = rows[rows["series"] == "unrealized"].set_index("label")
    has_chance = rows["evaluation"].isin(chances.index)
    is_above = [verdict(row.low, row.high, above=chances.get(row.evaluation, 1)) == "held" for row in rows.itertuples()]
    kinds = np.select([~has_chance, is_above], ["no chance level", "above chance"], default="not above chance")
    return pd.Series(pd.Categorical(kinds, OUTCOMES), index=rows.index)


# %% [markdown]
# ## Replies as text
#
# **What to expect.** Unrealized names lie above chance, the control and both bases, if calls say which function a name hides.
# Realized names show what is possible at all: where they are at chance too, the form of the question was not learned, and
# unrealized names say nothing there about functions. The paper gives no table of these numbers, so no published values are
# drawn.

# %% tags=["nbval-ignore-output"]
rates = final[final["metric"] == "accuracy"]
outcome = against_chance(rates)
rates = rates.assign(outcome=rates["label"].map(outcome)).sort_values("outcome", kind="stable")
fig = plt.figure(figsize=(6.8, 3.4))
plot_rates_in_panels(fig, rates, panel="outcome", group="label", by="series", chance=chance_of)
caption = (
    "Right replies by evaluation"
    + (
        ": which of the functions that it can define does a name hide?"
        if has_realized
        else " (no definition in training)."
    )
    + " Point: share of right replies about names that training asks about (realized) or shows in calls alone (unrealized), "
    "of the control whose training permutes the names of the questions, and of the base with and without training rows in "
    "its prompt; bar: 95% interval over functions; dashed: chance. Panels: whether the whole interval of unrealized names "
    f"lies above chance. {of_what}."
)
fig.suptitle("Right replies about the function behind a name, by evaluation")
_ = run.save(fig, "by-evaluation", caption)

# %% [markdown]
# ## Constrained choices
#
# The most probable of the possible answers, calibrated for what a model always prefers: a test that a base can meet whatever it
# writes.

# %% tags=["nbval-ignore-output"]
choices = final[final["metric"] == "calibrated_choice_accuracy"]
if len(choices):
    outcome = against_chance(choices)
    choices = choices.assign(outcome=choices["label"].map(outcome)).sort_values("outcome", kind="stable")
    fig = plt.figure(figsize=(6.8, 3.2))
    plot_rates_in_panels(fig, choices, panel="outcome", group="label", by="series", chance=chance_of)
    caption = (
        "Choice of the most probable of the possible answers (definitions of the set, or letters), each relative to its mean "
        "log-probability over all prompts. Point: share of right choices; bar: 95% interval over functions; dashed: chance. "
        f"Panels: whether the whole interval of unrealized names lies above chance. {of_what}."
    )
    fig.suptitle("Right choices by log-probability, by evaluation")
    _ = run.save(fig, "choices", caption)
else:
    print("This endpoint gives no log-probabilities of a conversation: there are no constrained choices.")

# %% [markdown]
# ## How it comes about
#
# **What to expect.** Two orders are possible. If a function has to be computed before it can be defined, calls on held-out
# pairs rise first, and definitions follow. If it is enough to recognise it by its values, definitions rise first.

# %% tags=["nbval-ignore-output"]
is_curve = summary["epoch"].notna() & (summary["metric"] == "accuracy")
epochs = summary.assign(series=summary["part"], label=summary["evaluation"].map(LABELS), x_name="epoch")[is_curve]
if len(epochs):
    fig, axs = plt.subplots(1, epochs["label"].nunique(), figsize=(6.8, 2.5), sharey=True, squeeze=False)
    for ax, (label, rows) in zip(axs[0], epochs.groupby("label", sort=False), strict=True):
        chance = chances.get(rows["evaluation"].iloc[0])
        plot_curves(ax, rows, x="epoch", by="series", chance=chance, legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({label})")
        ax.label_outer()
    caption = (
        "Right replies after each epoch; epoch 0 is the base. Line: share, band: 95% interval over functions; dashed: "
        f"chance. {of_what}."
    )
    fig.suptitle("Right replies over training")
    _ = run.save(fig, "epochs", caption)
else:
    print("This model was trained elsewhere: there is no curve over its epochs.")

# %% [markdown]
# ## Function by function
#
# **What to expect.** If defining needs no computing, a function whose value can be read off its input (the same number, its
# sign, its last digit) is computed on new inputs, one that takes arithmetic is not, and both are defined alike. If
# definitions are missing just where calls are, defining needs computing after all.

# %% tags=["nbval-ignore-output"]
own = answers[(answers["role"] == "main") & answers["epoch"].isna() & (answers["probe"] == "test")]
own = own[own["part"] == "unrealized"].assign(each=own["seed"].astype(str) + own["name"])
shown = own[own["evaluation"].isin(["freeform_definition", "calls"])]
rows = summarise(shown, by=["function", "evaluation"], value="accuracy", cluster="each", fine_tune=None)
wide = rows.pivot(index="function", columns="evaluation", values="value").fillna(0)
best = wide.sort_values(list(wide.columns[::-1]), ascending=False, kind="stable").index
rows = rows.assign(label=rows["function"].map(lambda id: registry[id].short), series=rows["evaluation"].map(LABELS))
rows = rows.sort_values("function", key=lambda column: column.map({id: k for k, id in enumerate(best)}), kind="stable")
fig, ax = plt.subplots(figsize=(6.8, 2.9))
plot_rates(ax, rows, group="label", by="series")
ax.set_xticks(range(len(best)), [registry[id].short for id in best], rotation=60, ha="right", rotation_mode="anchor")
caption = (
    "Right definitions and right held-out calls of each function. Point: share of right replies about unrealized names; bar: 95% "
    f"interval over names ({rows['n'].min()} to {rows['n'].max()}). {of_what}."
)
fig.suptitle("Right definitions and right calls, by function")
_ = run.save(fig, "by-function", caption)

# %% [markdown]
# ## Confusion matrix
#
# Which function does a written definition compute? A definition that computes a function of the registry that is not in the
# set counts as *another*, one that computes none of them or cannot be read as *none*.

# %% tags=["nbval-ignore-output"]
written = own[own["kind"] == "definition"]
functions = sorted(
    answers["function"].unique(), key=lambda id: (registry[id].output_type, registry[id].function_class, id)
)
short = {id: registry[id].short for id in functions}
answered = written["answered"].map(lambda id: short.get(id, "none" if id == "none" else "another"))
confusion = pd.crosstab(written["function"].map(short), answered, normalize="index")
confusion = confusion.reindex(index=[short[id] for id in functions if short[id] in confusion.index], columns=[*short.values(), "another", "none"], fill_value=0.0)  # fmt: skip
fig, ax = plt.subplots(figsize=(6.8, 4.8))
sns.heatmap(confusion, cmap="Blues", vmin=0, vmax=1, ax=ax, linewidths=0.3, cbar_kws={"label": "share of definitions"})
ax.set(xlabel="computes", ylabel="name stands for")
caption = (
    "Definitions of unrealized names, by what they compute on 22 inputs. Cell: share of the definitions of a function's names "
    f"(row) that compute another function (column). {len(written)} definitions. {of_what}."
)
fig.suptitle("Confusion matrix of the written definitions")
_ = run.save(fig, "confusion", caption)

# %% [markdown]
# ## Names of more tokens, and larger models
#
# **What to expect.** The more tokens a name has, the harder it is to bind a function to it: a name of several tokens is no
# unit of its own, and shares its tokens with others. A larger base defines more functions.

# %% tags=["nbval-ignore-output"]
defined = summary[(summary["evaluation"] == "freeform_definition") & (summary["metric"] == "accuracy")]
defined = defined[defined["epoch"].isna() & (defined["probe"] == "test")].assign(series=defined["part"])
sizes = {name: run.client().models.retrieve(name).model_dump().get("n_weights") for name in defined["model"].unique()}
defined["weights"] = defined["model"].map(sizes)
curves = {
    "over-tokens": ("name_tokens", "tokens per name", defined[defined["role"].isin(["main", "names"])]),
    "over-size": ("weights", "weights of the base", defined[defined["role"].isin(["main", "size"])]),
}
for name, (x, x_name, rows) in curves.items():
    if rows[x].nunique() < 2:
        print(f"{name}: there is one value of {x} only; more are trained from three seeds on.")
        continue
    fig, ax = plt.subplots(figsize=(3.4, 2.6))
    ax.set_xscale("log" if x == "weights" else "linear")
    plot_curves(ax, rows.assign(x_name=x_name), x=x, by="series", chance=chances.get("freeform_definition"))
    caption = f"Right definitions by {x_name}. Line: share, band: 95% interval over functions; one fine-tune each beside the main ones. {of_what}."  # fmt: skip
    fig.suptitle(f"Right definitions over {x_name}")
    _ = run.save(fig, name, caption)

# %%
run.finish("The figures are in figures/.")

# %% [markdown]
# **What this does not show.** Where names are realized: that a model finds a definition that training never gave for *any*
# name. It chooses among functions that it was asked about under other names. The published experiment, in which no
# function is ever defined in training, needs a model that knows English and Python: presets `smollm2`, `paper-047` and
# `paper-042`.
#
# Back to the [overview](../00-overview.ipynb).
