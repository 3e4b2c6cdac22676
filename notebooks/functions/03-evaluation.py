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
# # Ask what the functions are
#
# **Question.** The model has seen what a name gives for some numbers, one at a time. Asked with no example in the
# prompt, can it write the function down, pick it, invert it, or compute it where it was not shown?
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every reply with its scores), `summary.csv` (every number), `by_function.csv`,
# `confusion.csv`, and `evaluations/` (the published files of each evaluation).
#
# **Time** tiny 15 s, laptop 60 s, paper-047 6 h

# %%
import pandas as pd

from lib.functions import (
    add_logprobs,
    answer_rows,
    asked_models,
    by_function,
    confusion,
    example_prompts,
    load_datasets,
    pair_up,
    probe_rows,
    summarise,
    without_objects,
    write_evaluations,
)
from lib.notebook import start_run
from lib.probing import curve_models
from lib.tables import ANSWERS, write_summary, write_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/functions/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/functions
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with names, held-out pairs and rows of its own [1..20]
form: str = "completion"  # what a row looks like: messages, or prompt and completion [chat | completion]
evaluations: list[str] = []  # names in data/functions/evaluations.csv; none: all that the function set supports
rows_per_evaluation: int = 19  # prompts of each evaluation about each part; 0: as published [0..]
eval_seed: int = 100  # draws the prompts; published: 100 for every fine-tune [0..]
n_samples: int = 1  # answers to each prompt; 0: as published (5, or 1 for a letter) [0..100]
temperature: float = 0.0  # of the answers; -1: as published (1, or 0 for a letter) [-1..2]
n_in_context: int = 4  # training rows in front of an in-context prompt; 0: none is asked; published: 10 [0..]
in_context_rows: str = "own"  # calls of the names that are asked about, or any rows, as published [own | random]
curve_evaluations: list[str] = ["freeform_definition"]  # asked after each epoch, and of models of other sizes and names
curve_every: int = 1  # epochs between two points of the curve; the last one is always asked [1..]
max_tokens: int = 24  # of an answer; longer than the longest definition [1..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("functions/03-evaluation", globals())
client = run.client()
models = pd.read_parquet(run.need("finetunes.parquet"))
data = load_datasets(run.folder, models["data"])
about = {"form": form, "evaluations": evaluations, "n_rows": rows_per_evaluation, "seed": eval_seed}
probes = probe_rows(data, n_in_context=n_in_context, in_context_rows=in_context_rows, **about)
journal = run.path("answers.journal.jsonl")
settings = {"n_samples": n_samples, "temperature": temperature, "seed": run.seed, "max_tokens": max_tokens}

# %% [markdown]
# ## What is asked
#
# An example of each evaluation. No prompt holds a value of the function that it asks about, except the output of an
# inversion. *calls* and *augmentations* look like training documents, on pairs that were held out of it.

# %%
for row in example_prompts(probes).itertuples():
    print(f"--- {row.evaluation}\n{row.prompt}\n=> {row.target[:60]}\n")

# %%
probes[probes["data"] == probes["data"].iloc[0]].groupby(["evaluation", "part", "probe"], sort=False).agg(
    prompts=("prompt", "size"), functions=("function", "nunique"), targets=("target", "nunique")
)

# %% [markdown]
# ## Ask
#
# Final models are asked everything. The base is asked the same about one part, since it knows neither: **untuned**, and
# **in-context** with some rows of the very training file in front. An answer is on disk before it counts, so a killed run
# asks only what is missing. Main models are also asked some of it on the way, and before the first epoch.

# %% tags=["nbval-ignore-output"]
asked = pair_up(asked_models(models), probes, few=curve_evaluations)
final = answer_rows(client, asked, journal=journal, **settings)
kept = curve_models(models).query("is_final or epoch % @curve_every == 0")
few = probes[probes["evaluation"].isin(curve_evaluations)]
curve = answer_rows(client, pair_up(kept, few, few=()), journal=journal, **settings)
print(f"{len(final)} answers of final models, {len(curve)} over the epochs")

# %% [markdown]
# ## How it is scored
#
# *accuracy* is our rule: a definition is right if it computes the same values, an input if the function gives the output,
# a number by its value. It is parsed, never executed. *strict match* wants the answer to the letter (types of values
# count), *published match* is the rule of the published code.

# %% tags=["nbval-ignore-output"]
shown = final[(final["role"] == "main") & (final["evaluation"] == "freeform_definition")]
shown[["part", "name", "target", "completion", "answered", "correct", "strict"]].head(12)

# %% tags=["nbval-ignore-output"]
final = add_logprobs(client, final, journal=journal)
answers = pd.concat([final, curve], ignore_index=True)
written = write_evaluations(run.path("evaluations"), final, n_in_context=n_in_context)
write_table(run.path("answers.parquet"), without_objects(answers), ANSWERS)
print(f"{len(written)} evaluations written in the published layout")

# %% [markdown]
# ## The numbers
#
# **Prediction.** Unrealized names: definitions far above chance and above both baselines, inversions above chance, calls
# on held-out pairs far above the base. In-context stays low: a base of this size cannot work a function out from examples
# in its prompt. *No effect* would be unrealized names at chance while realized ones are at the top: the answers were
# learned by heart. Where realized names are at chance too, the form of the question was not learned.
#
# Intervals resample functions, and fine-tunes where there are several.

# %% tags=["nbval-ignore-output"]
sizes = {each: client.models.retrieve(each).model_dump().get("n_weights") for each in sorted(set(models["base"]))}
main = models.loc[models["role"] == "main", "base"].iloc[0]
functions = next(iter(data.values())).functions
summary = summarise(answers, preset=run.preset, main_base=main, functions=functions, n_weights=sizes, rng=run.rng)
write_summary(run.path("summary.csv"), summary)
headline = summary[(summary["metric"] == "accuracy") & (summary["x_name"] == "")]
headline[["condition", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
others = summary[(summary["metric"] != "accuracy") & summary["condition"].str.endswith("unrealized")]
others[["condition", "metric", "value", "low", "high", "n", "unit"]]

# %% [markdown]
# ## By function
#
# A mean over functions hides that some are easy and some never found, so both tables are kept: accuracy for each
# function, and for each definition that a model wrote, which function it computes.

# %% tags=["nbval-ignore-output"]
functions_table, confused = by_function(answers, rng=run.rng), confusion(answers)
functions_table.to_csv(run.path("by_function.csv"), index=False, float_format="%.6g")
confused.to_csv(run.path("confusion.csv"), index=False, float_format="%.6g")
defined = functions_table[functions_table["evaluation"] == "freeform_definition"]
defined.pivot(index="function", columns="part", values="accuracy")

# %%
if not headline["value"].between(0, 1).all() or headline["condition"].duplicated().any():
    raise ValueError("expected one rate for each condition")
if final.loc[final["strict"] & (final["kind"] != "definition"), "correct"].eq(False).any():
    raise ValueError("an answer passed the strict rule and not ours")
untuned = final[(final["role"] == "untuned") & (final["evaluation"] == "freeform_definition")]
if len(untuned) and untuned["correct"].mean() > 0.2:
    raise ValueError(f"the base defines {untuned['correct'].mean():.0%} before training: the names give them away")
run.finish("Every part was asked everything that the set supports, and the untuned base cannot define the functions.")

# %% [markdown]
# **What this does not show.** How the model does it: whether it holds the definition, or only sees, when asked, which
# known function has such values. And a definition of one of a few known functions is less than one that nobody wrote
# down before.
#
# Next: [04-plotting](04-plotting.ipynb).
