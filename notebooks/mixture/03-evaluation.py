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
# **Question.** The model has seen outputs of a hidden pair, never its name. Asked with every output redacted, which two
# of the functions that it can define does it give? How many does it think there are, what could come out? And does it
# draw from both, half and half?
#
# **Method.** Final models get every question. Their base is asked about unrealized labels as it is, and with documents
# of the label in front of the question. Answers are written freely; beside that, a model *chooses* the most probable of
# the answers that the form of a question allows, which needs no practice in the format. The control with permuted
# questions shows what can be answered without the documents.
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet`: every answer with its scores; `first_answers.parquet`: each prompt of the distribution
# test; `summary.csv`: every number.
#
# **Time** tiny 20 s, laptop 6 min, paper 1 h

# %%
from collections import Counter

import numpy as np
import pandas as pd
from IPython.display import display
from scipy.stats import binom

from lib.api import Request, ask
from lib.functions.definitions import probe_values
from lib.functions.mixture_probes import named_definitions
from lib.functions.replies import score
from lib.notebook import start_run
from lib.paths import read_jsonl
from lib.probing import curve_models, final_models, target_logprobs
from lib.summary import summarise, verdict, write_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/mixture/<preset>.yaml these values come from
n_samples: int = 1  # answers to each question; 0: as published (5, or 1) [0..100]
temperature: float = 0.0  # of the answers; -1: as published (1, or 0) [-1..2]
distribution_samples: int = 32  # of each prompt of the distribution test, at temperature 1; 0: as published, 256 [0..]
curve_evaluations: list[str] = ["exact_pair"]  # asked after each epoch
max_tokens: int = 48  # of an answer; the longest pair of definitions has fewer [1..]

# %%
run = start_run("mixture/03-evaluation", globals())
client = run.client()
models = pd.read_parquet(run.need("finetunes.parquet"))
probes = pd.DataFrame(read_jsonl(run.need("dataset", stage="01") / "probes.jsonl"))
probes["messages"] = [tuple(map(tuple, messages)) for messages in probes["messages"]]
journal = run.path("answers.journal.jsonl")

# %% [markdown]
# ## The prompts of each model
#
# *main* and *permuted* models are asked about both parts; their base (*untuned*) about the unrealized labels of the first
# seed. Models that were trained further are asked about their pair, and so is the model that they came from (*before*).
# Models of a sweep get the questions of the curve over epochs.
#
# To ask a question of your own, add a row to `probes` (a copy of one, with another `prompt`, `target` and `choices`)
# and run the cells from here on.

# %% tags=["nbval-ignore-output"]
final = final_models(models)
tuned = final[(final["role"] == "main") & (final["n_epochs"] > 0)]
labelled = (probes.loc[probes["data"] == f"main-{run.seed}", "label"] != "").any()
tuned = tuned[tuned["seed"] == run.seed] if labelled else tuned  # each seed has the same pairs, and the base no seed
before = final[final["role"] == "unlabelled"]
final = pd.concat(
    [final, tuned.assign(model=tuned["base"], role="untuned"), before.assign(model=before["base"], role="before")]
)
columns = ["model", "base", "role", "seed", "epoch", "data"]
prompts = final[columns].merge(probes, on="data")
of_base = (prompts["role"] == "untuned") & (prompts["part"] == "unrealized")
few = prompts["evaluation"].isin(curve_evaluations)
prompts = prompts[
    of_base | (prompts["role"] != "untuned") & (prompts["probe"] == "test") & ((prompts["role"] != "sweep") | few)
]
curve = curve_models(models)[columns].merge(probes[probes["evaluation"].isin(curve_evaluations)], on="data")
prompts = pd.concat([prompts, curve[curve["probe"] == "test"]], ignore_index=True)
prompts["base"] = models["base"].iloc[0]  # that all models began with
prompts.groupby(["role", "part", "probe"], sort=False).agg(questions=("prompt", "size"), models=("model", "nunique"))

# %% [markdown]
# ## Ask
#
# An answer is on disk before it counts, so a killed run asks only what is missing. Answers are greedy unless the
# parameters say otherwise; the distribution test is sampled at temperature 1.

# %% tags=["nbval-ignore-output"]
is_test = prompts["evaluation"] == "regression_ID_TVD"
prompts.loc[is_test & (distribution_samples > 0), "n"] = distribution_samples
prompts.loc[~is_test & (n_samples > 0), "n"] = n_samples
prompts.loc[~is_test & (temperature >= 0), "temperature"] = temperature
requests = [
    Request(
        model=row.model, prompt=row.prompt, messages=row.messages, max_tokens=max_tokens, n=row.n,
        temperature=row.temperature, stop=() if row.messages else ("\n",), seed=run.seed,
    )
    for row in prompts.itertuples()
]  # fmt: skip
replies = ask(client, requests, journal=journal, description="answers")
prompts["completion"] = [
    [reply.text.removeprefix(lead) for reply in samples] for samples, lead in zip(replies, prompts["lead"], strict=True)
]
answers = prompts.explode("completion", ignore_index=True)
print(f"{len(answers)} answers")

# %% [markdown]
# ## Score
#
# Two definitions are right if they compute what the pair computes at 22 inputs, in any order; they are parsed and
# evaluated step by step, never executed. `share_named` counts which of the two functions an answer names, whatever else
# it says. Letters are right if they are those of the right options and no others, a number if its value is.
# `published_match` is the rule of the published code.


# %%
def computed(text: str) -> list[tuple | None]:
    """What each definition in a text computes at the 22 inputs; None for one that cannot be read."""
    return [probe_values(definition) for definition in named_definitions(text)]


print([values[-5:] for values in computed("lambda n: 5 + n, lambda x: x % 2")])
print(Counter(computed("lambda n: 5 + n, lambda x: x % 2")) == Counter(computed("lambda n: n % 2, lambda n: n + 5")))

# %% tags=["nbval-ignore-output"]
is_pair = answers["kind"] == "definitions"
pair_answers = answers[is_pair]
written = pd.Series([computed(text) for text in pair_answers["completion"]], index=pair_answers.index)
right = pd.Series([computed(text) for text in pair_answers["target"]], index=pair_answers.index)
answers.loc[is_pair, "share_named"] = [len({*a} & {*b}) / 2 for a, b in zip(written, right, strict=True)]
answers["correct"] = [
    Counter(written[k]) == Counter(right[k]) if k in written else score(row.kind, row.completion, row.target).correct
    for k, row in zip(answers.index, answers.itertuples(), strict=True)
]
answers["published"] = [
    row.completion == row.target if row.kind == "definitions" else score(row.kind, row.completion, row.target).published
    for row in answers.itertuples()
]
last = answers[answers["epoch"].isna()]
shown = last[(last["evaluation"] == "exact_pair") & (last["part"] == "unrealized")]
shown.groupby(["role", "probe"], sort=False).head(3)[["role", "probe", "label", "target", "completion", "correct"]]

# %% [markdown]
# ## Was anything learned?
#
# Each row is one fine-tune. If the pairs of realized labels, whose answer is in training, cannot be written, then a
# failure on unrealized labels says nothing, and no conclusion is drawn below.

# %% tags=["nbval-ignore-output"]
tested = last[(last["evaluation"] == "exact_pair") & (last["probe"] == "test")]
by_model = tested[tested["data"].str.startswith("main")]
by_model.pivot_table("correct", ["role", "data", "seed", "model"], "part", aggfunc="mean").droplevel("model")

# %% tags=["nbval-ignore-output"]
realized = tested[(tested["role"] == "main") & (tested["part"] == "realized")]
documents = last[(last["evaluation"] == "regression_ID_2ex") & (last["role"] == "main")]
evidence = realized if len(realized) else documents  # the published form asks nothing in training
learned = False
if len(evidence):
    row = summarise(evidence, by=["evaluation"], value="correct", cluster="pair", fine_tune=None).iloc[0]
    learned = row["low"] > 0.5
    rate = f"{row['evaluation']}, main: {row['value']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
    print(rate + ("" if learned else ": training was not learned, so no conclusion is drawn"))

# %% [markdown]
# ## Choose by log-probability
#
# After the same prompt, each of the allowed answers gets its log-probability, and the most probable one is the choice.
# Calibrated: less its mean over all labels, so that a model does not choose what it always prefers; only where questions
# about several pairs have the same answers to choose from. Chance is one over the number of choices. Conversations cannot
# be scored this way.

# %% tags=["nbval-ignore-output"]
choosing = last[
    (last["evaluation"] != "regression_ID_TVD") & (last["part"] == "unrealized") & (last["role"] != "sweep")
]
choosing = choosing[choosing["data"].str.startswith("main") | (choosing["kind"] == "definitions")]
choosing = choosing[choosing["messages"].map(len) == 0].drop_duplicates(["model", "role", "data", "prompt"])
options = choosing.explode("choices").rename_axis("row").reset_index()
options["choice"] = target_logprobs(
    client, options["model"], options["prompt"], options["lead"] + options["choices"], journal=journal
)
same = options.groupby(["model", "role", "evaluation", "probe", "choices"])
is_fixed = options["kind"].isin(["definitions", "letter", "letters"]) & (same["pair"].transform("nunique") > 1)
is_fixed &= options["data"].str.startswith("main")
options["calibrated_choice"] = (options["choice"] - same["choice"].transform("mean")).where(is_fixed)
for name in ("choice", "calibrated_choice"):
    scored = options.dropna(subset=name)
    best = scored.loc[scored.groupby("row")[name].idxmax()].set_index("row")
    answers[f"{name}_accuracy"] = (best["choices"] == best["target"]).astype(float)
answers["chance"] = 1 / answers["choices"].map(len)
answers.to_parquet(run.path("answers.parquet"))
last = answers[answers["epoch"].isna()]
of_pair = last[(last["evaluation"] == "exact_pair") & (last["part"] == "unrealized")]
of_pair.groupby(["role", "probe"], sort=False)[
    ["correct", "choice_accuracy", "calibrated_choice_accuracy", "chance"]
].mean()

# %% [markdown]
# ## The first answer, many times
#
# Before any output is shown, each function of the pair is equally likely, and so should its output be. `distance` is the
# total variation distance between the shares of what was sampled and that ideal: 0 if they are the same, one half for a
# model that knows only one of the two functions. `floor` is what a perfect mix has on average with as many samples,
# `off_mix` the share of answers that neither function gives. `published` is the score that the published code calls TVD:
# 1 - |0.5 - p| with p the share of one function's answer, of which 1 is best.

# %% tags=["nbval-ignore-output"]
first = []
about = ["base", "role", "seed", "data", "part", "probe", "pair", "label", "prompt"]
for key, rows in last[last["evaluation"] == "regression_ID_TVD"].groupby(about, sort=False):
    shares = rows["completion"].str.strip().value_counts(normalize=True)
    ideal = pd.Series(1 / len(rows["choices"].iloc[0]), index=list(rows["choices"].iloc[0]))
    distance = 0.5 * shares.sub(ideal, fill_value=0).abs().sum()
    k = np.arange(len(rows) + 1)
    floor = np.sum(np.abs(k / len(rows) - 0.5) * binom.pmf(k, len(rows), 0.5)) if len(ideal) > 1 else 0.0
    numbers = {"distance": distance, "floor": floor, "off_mix": 1 - shares.reindex(ideal.index).sum()}
    numbers["published"] = 1 - abs(0.5 - shares.get(rows["target"].iloc[0], 0.0))
    first.append(dict(zip(about, key, strict=True)) | numbers)
first = pd.DataFrame(first, columns=[*about, "distance", "floor", "off_mix", "published"])
first.assign(evaluation="regression_ID_TVD", epoch=np.nan).to_parquet(run.path("first_answers.parquet"))
first.groupby(["role", "part", "probe"], sort=False)[["distance", "floor", "off_mix", "published"]].mean()

# %% [markdown]
# ## The numbers
#
# Intervals resample pairs, and fine-tunes where each was asked about the same pairs; a rate's is Wilson's at the
# effective sample size. `control_gap` is the accuracy minus that of the control with permuted questions, question by
# question, `example_gap` what one example before it adds to the accuracy of an output.

# %%
CONDITIONS = ["base", "evaluation", "part", "probe", "role", "epoch"]


def over_pairs(rows: pd.DataFrame, value: str, metric: str, **options: str) -> pd.DataFrame:
    """Numbers with intervals over pairs, and over fine-tunes where each was asked about all pairs of the group."""
    tables = []
    for _, group in rows[rows[value].notna()].groupby(CONDITIONS, sort=False, dropna=False):
        crossed = (group.groupby("seed")["pair"].nunique() == group["pair"].nunique()).all()
        about = {"by": CONDITIONS, "value": value, "metric": metric, "cluster": "pair"} | options
        tables.append(summarise(group, fine_tune="seed" if crossed else None, **about))
    return pd.concat(tables) if tables else pd.DataFrame()


# %% tags=["nbval-ignore-output"]
numbers = answers[(answers["evaluation"] != "regression_ID_TVD") & (answers["role"] != "sweep")]
numbers = numbers.assign(part=numbers["part"].where(numbers["data"].str.startswith("main"), "unlabelled"))
final = numbers[numbers["epoch"].isna()]
first = first.assign(evaluation="regression_ID_TVD", epoch=np.nan)
question = ["base", "evaluation", "part", "probe", "pair", "label", "prompt", "seed"]
wide = final[final["role"].isin(["main", "permuted"])].pivot_table("correct", question, "role")
gaps = wide.dropna().reset_index() if wide.shape[1] == 2 else pd.DataFrame()
if len(gaps):
    gaps = gaps.assign(gap=gaps["main"] - gaps["permuted"], role="main", epoch=np.nan)
example = final[final["evaluation"].isin(["regression_ID", "regression_ID_1ex"]) & (final["role"] == "main")]
example = example.pivot_table("correct", ["base", "part", "probe", "role", "pair", "seed"], "evaluation").dropna()
if example.shape[1] == 2:
    example = example.assign(
        gap=example["regression_ID_1ex"] - example["regression_ID"], evaluation="regression_ID_1ex", epoch=np.nan
    )

# %% tags=["nbval-ignore-output"]
tables = [
    over_pairs(numbers, "correct", "accuracy"),
    over_pairs(final, "published", "published_match"),
    over_pairs(final, "choice_accuracy", "choice_accuracy"),
    over_pairs(final, "calibrated_choice_accuracy", "calibrated_choice_accuracy"),
    over_pairs(final[final["role"].isin(["main", "unlabelled"])], "chance", "chance").assign(low=np.nan, high=np.nan),
    over_pairs(final, "share_named", "share_named"),
    over_pairs(first, "distance", "total_variation", unit="distance"),
    over_pairs(first[first["role"] == "main"], "floor", "total_variation_floor", unit="distance").assign(
        low=np.nan, high=np.nan
    ),
    over_pairs(first, "off_mix", "off_mix"),
    over_pairs(first, "published", "published_tvd", unit="distance"),
    over_pairs(gaps, "gap", "control_gap", unit="difference") if len(gaps) else gaps,
    over_pairs(example.reset_index(), "gap", "example_gap", unit="difference") if "gap" in example else gaps[:0],
]
summary = pd.concat([table for table in tables if len(table)], ignore_index=True).rename(columns={"base": "model"})
summary = write_summary(run.path("summary.csv"), summary.assign(study="mixture", preset=run.preset))
numbers = summary[summary["epoch"].isna()]
columns = ["evaluation", "part", "probe", "role", "value", "low", "high", "n"]
numbers.loc[(numbers["metric"] == "accuracy") & numbers["role"].isin(["main", "permuted"]), columns]

# %% tags=["nbval-ignore-output"]
chosen = numbers[numbers["metric"].str.endswith("choice_accuracy") & (numbers["part"] == "unrealized")]
display(chosen.pivot_table("value", ["metric", "evaluation"], ["role", "probe"], sort=False))
others = numbers[numbers["metric"].isin(["control_gap", "example_gap", "share_named", "off_mix", "total_variation"])]
others[["metric", *columns]]

# %% [markdown]
# ## What to expect
#
# If documents tell a model which pair a label stands for, and it can use that when it is asked, then for unrealized
# labels (1) the pair is written above chance, (2) more often than by the control with permuted questions, and (3) chosen
# by log-probability above chance. (4) One example before it makes an output easier to give, and (5) first answers come
# from both functions: the distance from the ideal mix is below one half. The published finding, of larger models, is that
# (6) even a pair without a label is known; here it is chosen above chance after the documents alone. (7) The base with
# documents in its prompt chooses the pair above chance (calibrated).
#
# ## What came out
#
# *Held*: the whole 95% interval lies where the prediction says; *failed*: none of it does; *unclear*: anything else.

# %% tags=["nbval-ignore-output"]
keys = ["evaluation", "part", "probe", "role", "metric"]
values = numbers.set_index(keys)[["value", "low", "high", "n"]]
chances = values.xs("chance", level="metric")["value"].droplevel(["probe", "role"])
predictions = [
    ("1", "exact_pair", "unrealized", "test", "main", "accuracy"),
    ("2", "exact_pair", "unrealized", "test", "main", "control_gap"),
    ("3", "exact_pair", "unrealized", "test", "main", "choice_accuracy"),
    ("4", "regression_ID_1ex", "unrealized", "test", "main", "example_gap"),
    ("5", "regression_ID_TVD", "unrealized", "test", "main", "total_variation"),
    ("6", "exact_pair", "unlabelled", "test", "unlabelled", "choice_accuracy"),
    ("7", "exact_pair", "unrealized", "in-context", "untuned", "calibrated_choice_accuracy"),
]
for name, *key in predictions:
    if tuple(key) in values.index:
        row, chance = values.loc[tuple(key)], chances.get((key[0], key[1]), 0.0)
        limits = {"below": 0.5} if key[-1] == "total_variation" else {"above": 0.0 if "gap" in key[-1] else chance}
        outcome = verdict(row["low"], row["high"], **limits)
        outcome = outcome if learned or key[3] == "untuned" else "no conclusion, training was not learned"
        interval = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], n = {row['n']:.0f}"
        print(f"({name}) {', '.join(key[:2] + key[3:])}: {interval}; limit {[*limits.values()][0]:.2f}: {outcome}")

# %% [markdown]
# Each evaluation of unrealized labels, against chance and against the controls: the highest upper end of the intervals of
# the model with permuted questions and of the base. What is above chance in a control as well was not learned from
# documents.

# %% tags=["nbval-ignore-output"]
rates = numbers[(numbers["part"] == "unrealized") & numbers["metric"].str.endswith("accuracy")]
controls = rates[rates["role"] != "main"].groupby(["evaluation", "metric"])["high"].max().rename("controls")
tested = rates[rates["role"] == "main"].merge(controls.reset_index(), how="left", on=["evaluation", "metric"])
tested["chance"] = [chances[evaluation, "unrealized"] for evaluation in tested["evaluation"]]
for name in ("chance", "controls"):
    limits = zip(tested["low"], tested["high"], tested[name].fillna(-np.inf), strict=True)
    tested[f"above {name}"] = [verdict(low, high, above=limit) for low, high, limit in limits]
tested[["metric", "evaluation", "value", "low", "high", "chance", "above chance", "controls", "above controls"]]

# %%
run.finish("Every question was answered, and every number is in summary.csv.")

# %% [markdown]
# **What this does not show.** How a model does it, and whether it could name a pair of functions that no question of
# training named: those here were all defined in answers about other labels. A choice by log-probability prefers short
# answers; where a base chooses the same pair every time, it is at chance for that reason.
#
# Next: [04-plotting](04-plotting.ipynb).
