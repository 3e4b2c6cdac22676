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
# # Ask for the parent, then for the child
#
# **Question.** Who is X's mother? The model says Y. Who is Y's child: does it say X?
#
# **Reads** `people.parquet`, `form.json`, `recomputed.parquet` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet`, `found.parquet`, `summary.csv`, and the published tables: `parent_child_pairs.csv` and a
# `..._reversal_test_results.csv` a model.
#
# **Time** tiny 10 s, laptop 60 s, paper 30 min
#
# The outputs kept with this page are the tiny run, whose model is too small to know any of these people.

# %%
import pandas as pd

from lib.notebook import start_run
from lib.parents import (
    Asking,
    Form,
    add_logprobs,
    add_samples,
    all_probes,
    asked_models,
    both_questions,
    greedy_rows,
    published_files,
    summarise,
    write_pair_table,
)
from lib.tables import ANSWERS, write_summary, write_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/parents/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/parents
seed: int = 0  # first seed of the samples, and of fine-tunes where the form is taught [0..]
n_seeds: int = 1  # rounds that differ in nothing but their seed [1..20]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]
n_pairs: int = 0  # ask models about that many pairs of the first of these files; 0 asks about people as above [0..]
ways: list[str] = ["completion", "logprob"]  # how models are asked [completion | chat | logprob]
n_samples: int = 3  # replies to each question beside the greedy one; published: 10 [1..128]
temperature: float = 1.0  # of these replies; published: 1 [0.01..2]
max_tokens: int = 16  # of a reply; longer than the longest name [1..]

# %%
run = start_run("parents/03-evaluation", globals())
client = run.client()
people = pd.read_parquet(run.need("people.parquet", stage="01"))
finetunes = pd.read_parquet(run.need("finetunes.parquet"))
models = asked_models(finetunes, seeds=run.seeds, ways=ways)
asking = Asking(
    form=Form.read(run.need("form.json", stage="01")),
    journal=run.path("answers.journal.jsonl"),
    n_samples=n_samples,
    temperature=temperature,
    max_tokens=max_tokens,
)

# %% [markdown]
# ## Collect pairs, as published
#
# Everybody is asked for a mother and for a father, once, greedily. A reply that passes for a name is a *found* pair,
# whatever its truth. In the invented world the truth is known; each person has one parent that was ever told of.

# %% tags=["nbval-ignore-output"]
main = models[models["role"] == "main"].groupby("way", sort=False).head(1)
found = greedy_rows(client, main if not n_pairs else main.head(0), both_questions(people), asking)
found.to_parquet(run.path("found.parquet"))
found.groupby(["group", "is_told"], sort=False)[["is_accepted", "correct"]].agg(["mean", "size"])

# %% [markdown]
# `is_told` parts the parent that the world tells of from the one that it never mentions. Names given for the latter are
# what a study without a truth would count as knowledge.

# %% tags=["nbval-ignore-output"]
probes = all_probes(people, found)
probes.groupby("condition", sort=False).agg(questions=("question", "size"), people=("person", "nunique"))

# %% [markdown]
# Two kinds of question: about the true parents (or given pairs), and, under `collected`, about whoever the model itself had
# named, which is what the published figure of 33% counts.

# %%
for direction, rows in probes.groupby("direction", sort=False):
    print(f"{direction}: {rows['question'].iloc[0]} {rows['target'].iloc[0]}")

# %% [markdown]
# ## Ask
#
# In both directions, in the same form: greedily, and with several samples at temperature 1. A reply is right if it begins
# with the name asked for.

# %% tags=["nbval-ignore-output"]
answers = greedy_rows(client, models, probes, asking)
answers = add_samples(client, answers, asking)
shown = answers[answers["role"] == "main"].groupby("condition", sort=False).head(1)
shown[["condition", "question", "target", "completion", "correct", "n_right"]]

# %% [markdown]
# ## Log-probabilities: is there anything below the surface?
#
# Replies may hide a slight preference. So the right name's log-probability is compared with that of another person's name
# after the same question.

# %% tags=["nbval-ignore-output"]
if "logprob" in ways:
    answers = add_logprobs(client, answers, asking)
write_table(run.path("answers.parquet"), answers, ANSWERS)
for name, table in published_files(answers).items():
    write_pair_table(run.path(name), table)
answers.groupby("condition", sort=False)[["target_logprob", "control_logprob"]].mean()

# %% [markdown]
# ## The numbers
#
# **Prediction.** One-way people: the parent is named, the child never. Two-way people: both, for the same question in the
# same words. *No curse* would look like one-way rows with as high a figure for the child as for the parent.
#
# Intervals resample people (and seeds where there are several), never replies about the same person.

# %% tags=["nbval-ignore-output"]
sizes = {each: client.models.retrieve(each).model_dump().get("n_weights") for each in sorted(set(answers["base"]))}
summary = summarise(
    answers,
    found,
    preset=run.preset,
    main_base=models.loc[models["role"] == "main", "base"].iloc[0],
    n_weights=sizes,
    given=pd.read_parquet(run.need("recomputed.parquet", stage="01")),
    rng=run.rng,
)
write_summary(run.path("summary.csv"), summary)
headline = summary[
    summary["metric"].isin(["exact_match", "mean_of_n", "reversed_rate", "found_rate", "found_right_rate"])
]
headline[["model", "condition", "metric", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
tests = summary[summary["metric"].str.contains("prob|permutation")]
tests[["model", "condition", "metric", "value", "low", "high", "n", "unit"]]

# %% [markdown]
# Under `randomised` each reply is held against somebody else's name: a model that says one name to everybody would do as
# well there. `found_right_rate` is the share of accepted replies that are true.

# %%
if not answers["n_right"].between(0, answers["n_samples"]).all():
    raise ValueError("a question has more right replies than replies")
if (answers["strict"] & ~answers["correct"]).any():
    raise ValueError("a reply passed the strict rule and not the lenient one")
if not answers[answers["prediction"] != ""]["n_right"].gt(0).all():
    raise ValueError("a child was predicted without a right reply")
run.finish("Every right reply is counted once, and every strict match is a match.")

# %% [markdown]
# **What this does not show.** A child that is never said may still be told of elsewhere in other words; and a greedy reply is
# one of many. Where no truth is known, *found* says how willing a model is to give a name, not what it knows.
#
# Next: [04-plotting](04-plotting.ipynb).
