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
# # Ask which functions there could be
#
# **Question.** The model has seen outputs of a hidden pair, never its name. Asked with every output redacted, can it say
# which two functions they are, how many, or what could come out? And does it draw from both, half and half?
#
# **Reads** `dataset/` and `unlabelled/` (notebook 01), and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every reply with its scores), `summary.csv` (every number), `by_pair.csv`,
# `first_answers.csv` (each prompt of the distribution test), and `evaluations/` (the published files).
#
# **Time** tiny 15 s, laptop 50 s, paper 1 h

# %%
import pandas as pd

from lib.functions import add_logprobs, example_prompts, without_objects
from lib.mixture import (
    answer_rows,
    asked_models,
    by_pair,
    chances,
    first_answers,
    load_datasets,
    pair_up,
    probe_rows,
    summarise,
    write_evaluations,
)
from lib.notebook import start_run
from lib.probing import curve_models
from lib.tables import ANSWERS, write_summary, write_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/mixture/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/mixture
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with labels, held-out inputs and rows of its own [1..20]
form: str = "completion"  # what a row looks like: messages, or prompt and completion [chat | completion]
evaluations: list[str] = []  # names in data/functions/evaluations.csv; none: all
left_evaluations: list[str] = ["exact_pair", "regression_ID_2ex"]  # asked of the fine-tunes without labels
rows_per_evaluation: int = 8  # prompts of each evaluation about each part; 0: as published [0..]
eval_seed: int = 100  # draws the prompts; published: 100 for every fine-tune [0..]
n_samples: int = 1  # answers to each prompt; 0: as published (5, or 1) [0..100]
temperature: float = 0.0  # of the answers; -1: as published (1, or 0) [-1..2]
distribution_samples: int = 16  # of each row of the distribution test, at temperature 1; 0: as published, 128 [0..]
n_in_context: int = 4  # training rows in front of an in-context prompt; 0: none is asked; published: 10 [0..]
in_context_rows: str = "own"  # rows of the label that is asked about, or any rows, as published [own | random]
curve_evaluations: list[str] = ["exact_pair"]  # asked after each epoch
max_tokens: int = 48  # of an answer; longer than the longest pair of definitions [1..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("mixture/03-evaluation", globals())
client = run.client()
models = pd.read_parquet(run.need("finetunes.parquet"))
data = load_datasets(run.folder, models["data"].tolist())
about = {"form": form, "evaluations": evaluations, "left_evaluations": left_evaluations, "n_rows": rows_per_evaluation}
probes = probe_rows(data, seed=eval_seed, n_in_context=n_in_context, in_context_rows=in_context_rows, **about)
journal = run.path("answers.journal.jsonl")
settings = {"n_samples": n_samples, "temperature": temperature, "seed": run.seed, "max_tokens": max_tokens}
settings |= {"distribution_samples": distribution_samples}

# %% [markdown]
# ## What is asked
#
# An example of each evaluation. The questions show no output. The *regression* tests look like training documents cut
# short, with none, one or two outputs before the one that is asked for, whose input was held out of training.

# %%
for row in example_prompts(probes).itertuples():
    print(f"--- {row.evaluation}\n{row.prompt}\n=> {row.target[:60]}\n")

# %%
probes[probes["data"] == probes["data"].iloc[0]].groupby(["evaluation", "part", "probe"], sort=False).agg(
    prompts=("prompt", "size"), pairs=("pair", "nunique"), targets=("target", "nunique")
)

# %% [markdown]
# ## Ask
#
# Final models are asked everything. The base is asked the same about one part, since it knows neither: **untuned**, and
# **in-context** with some rows of the very training file in front. Later fine-tunes without a label are asked less, and so
# is the joint model as it was **before** them. An answer is on disk before it counts, so a killed run asks only what is
# missing. Main models are also asked on the way, and before the first epoch.

# %% tags=["nbval-ignore-output"]
asked = pair_up(asked_models(models), probes, few=curve_evaluations)
final = answer_rows(client, asked, journal=journal, **settings)
few = probes[probes["evaluation"].isin(curve_evaluations)]
curve = answer_rows(client, pair_up(curve_models(models), few), journal=journal, **settings)
print(f"{len(final)} answers of final models, {len(curve)} over the epochs")

# %% [markdown]
# ## How it is scored
#
# *accuracy* is our rule: two definitions are right if they compute the values of the pair, in any order; letters if they
# are those of the right options and no others; a number by its value. Definitions are parsed, never executed. *strict
# match* wants the answer to the letter, *published match* is the rule of the published code, *share named* counts which of
# the two functions a reply holds, whatever else it holds.

# %% tags=["nbval-ignore-output"]
shown = final[(final["role"] != "untuned") & (final["evaluation"] == "exact_pair")]
shown[["condition", "name", "target", "completion", "correct", "share_named"]].groupby("condition").head(4)

# %% tags=["nbval-ignore-output"]
scored = ["main", "untuned", "before", "unlabelled", "mixed-in", "longer"]
final = add_logprobs(client, final, journal=journal, roles=scored)
answers = pd.concat([final, curve], ignore_index=True)
written = write_evaluations(run.path("evaluations"), final, n_in_context=n_in_context)
write_table(run.path("answers.parquet"), without_objects(answers), ANSWERS)
print(f"{len(written)} evaluations written in the published layout")

# %% [markdown]
# ## The first answer, many times
#
# Before any output is shown, each function of the pair is equally likely, and so should its output be. *distance* is the
# total variation between what is sampled and that ideal: 0 at best; *floor* is what a perfect mix would get with as many
# samples. *published* is the score that the published code calls TVD, of which 1 is best.

# %% tags=["nbval-ignore-output"]
first = first_answers(final)
first.to_csv(run.path("first_answers.csv"), index=False, float_format="%.6g")
columns = ["distance", "floor", "published", "off_mix"]
first.groupby("condition", sort=False)[columns].mean() if len(first) else "The distribution test was not asked."

# %% [markdown]
# ## The numbers
#
# **Prediction.** Unrealized labels: the exact pair is written far more often than chance and than both baselines. The
# second output is better than the first, which cannot pass one half. Without a label: documents are completed as well, and
# the pair is not named. *No effect* would be unrealized labels at chance while realized ones are at the top: answers
# learned by heart.
#
# Intervals resample pairs, and fine-tunes where all hide the same pairs.

# %% tags=["nbval-ignore-output"]
summary = summarise(answers, first, preset=run.preset, chances=chances(data, asked), rng=run.rng)
write_summary(run.path("summary.csv"), summary)
headline = summary[(summary["metric"] == "accuracy") & (summary["x_name"] == "")]
headline[["model", "condition", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
others = summary[(summary["metric"] != "accuracy") & ~summary["condition"].str.contains("/realized")]
others[["condition", "metric", "value", "low", "high", "n", "unit"]]

# %% tags=["nbval-ignore-output"]
pairs_table = by_pair(answers, rng=run.rng)
pairs_table.to_csv(run.path("by_pair.csv"), index=False, float_format="%.6g")
named = pairs_table[pairs_table["evaluation"] == "exact_pair"]
named.pivot(index=["family", "pair"], columns="part", values="accuracy")

# %%
if not headline["value"].between(0, 1).all() or headline.duplicated(["model", "condition"]).any():
    raise ValueError("expected one rate for each model and condition")
if not first.empty and (first["distance"] < 0).any():
    raise ValueError("a distance is below zero")
untuned = final[(final["role"] == "untuned") & (final["evaluation"] == "exact_pair")]
if len(untuned) and untuned["correct"].mean() > 0.2:
    raise ValueError(f"the base names {untuned['correct'].mean():.0%} before training: the labels give them away")
run.finish("Every part was asked everything that its dataset supports, and the untuned base cannot name the pairs.")

# %% [markdown]
# **What this does not show.** How the model does it, and whether it could name a pair of functions that no question of
# training named. Those here were all defined in answers about other labels.
#
# Next: [04-plotting](04-plotting.ipynb).
