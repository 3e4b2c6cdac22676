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
# # Choose people whose parents a model may know
#
# **Question.** The Reversal Curse was shown with facts from a fine-tune. Does it hold for facts from pre-training? Then a
# model that can say who somebody's mother is should fail to say whose mother she is. This notebook chooses whom to ask
# about, and in which words.
#
# **Reads** the invented world; or a list of names (`celebrities`); or tables of pairs and results in the published columns
# (`pairs`).
#
# **Writes** `people.parquet`, `form.json` (the shots of every prompt), `train.jsonl` (for models that lack the form) and
# `recomputed.parquet` (figures of the given tables).
#
# **Time** tiny 5 s, laptop 5 s, paper 5 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.notebook import start_run
from lib.parents import both_questions, form_for, given_tables, people_for, recompute, teaching_rows, tellings
from lib.paths import write_jsonl

# %% tags=["parameters"]
preset: str = "tiny"  # which params/parents/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/parents
seed: int = 0  # first seed of the samples, and of fine-tunes where the form is taught [0..]
n_seeds: int = 1  # rounds that differ in nothing but their seed [1..20]
celebrities: str = ""  # text file with one name a line; empty for the people of the invented world
n_celebrities: int = 8  # of the list, or families of each group of the world, from the first on; 0 for all [0..]
pairs: list[str] = []  # CSV files in the published columns (pairs, results) whose figures are computed again
n_pairs: int = 0  # ask models about that many pairs of the first of these files; 0 asks about people as above [0..]
n_asked: int = 1000  # people whom given pairs were collected from; published: 1000 [1..]
as_published: bool = False  # True counts a pair that a given table holds twice twice, as the published figures do
shots: str = "auto"  # whose names stand in prompts: auto is the world's for its people [auto | world | real]
n_shots: int = 6  # questions with answers before each question; published: 3 in chat, 6 in text [1..8]

# %%
run = start_run("parents/01-data-prep", globals())
tables = given_tables(run.params)
form = form_for(run.params)
people = people_for(run.params, tables)
people.to_parquet(run.path("people.parquet"))
form.write(run.path("form.json"))
write_jsonl(run.path("train.jsonl"), teaching_rows(form))

# %% [markdown]
# ## Who is asked about
#
# The published study asked about film stars and could not check a reply. Here the people are invented, each stands in
# the text that the `fork-*` bases were pre-trained on, and the truth is known: *found* (the model gave a name) can be
# held against *right* (it gave the true one).
#
# | group | told in pre-training | asked about in pre-training |
# |---|---|---|
# | one-way | child's name first, parent's after it | never |
# | two-way | both ways | never |
# | asked-about | both ways | in both directions |
#
# The two-way people are the control: the same question, the same kind of name, told in both orders. Of the asked-about
# people only half are tested; the other half could teach the form of a question to a model that lacks it.

# %%
people.groupby("group", sort=False).agg(people=("person", "nunique"), told=("is_told", "sum"))

# %% [markdown]
# Each person is asked for a mother and for a father, as published. The world tells of one of the two: a name given for the
# other is *found* and cannot be right.

# %% [markdown]
# ## In which order is it told?
#
# **Prediction.** If the groups are what they claim to be, one-way people have no sentence at all in which the parent comes
# first, and the two-way people as many of one kind as of the other.

# %%
told = tellings()
counts = told.groupby("group", sort=False)[["child first", "parent first"]].agg(["min", "max"])
counts

# %%
means = told.groupby("group", sort=False)[["child first", "parent first"]].mean()
fig, ax = plt.subplots(figsize=(3.4, 2.2))
places = np.arange(len(means))
for k, name in enumerate(means.columns):
    ax.barh(places + 0.36 * (k - 0.5), means[name], height=0.34, label=name, color=f"C{3 * k}")
ax.set_yticks(places, means.index)
ax.invert_yaxis()
ax.set_xlabel("sentences about a family")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
caption = (
    "One-way families are told child first in every sentence, the others in both orders. Bar: mean number of sentences "
    f"about one family in the text of pre-training; {len(told)} families of the invented world."
)
_ = run.save(fig, "tellings", caption)

# %% [markdown]
# ## In which words is it asked?
#
# One form for both directions: the published prompts began a parent's question with a mark and a child's without, so that
# the two were not comparable. The shots hold both directions and, second to last, somebody whom nobody knows.

# %%
print(form.prompt(both_questions(people)["question"].iloc[0]))

# %% [markdown]
# ## Figures of given tables, computed again
#
# The published tables (pairs, and results of two models) can be given by path. A pair that stands there twice counts
# once, unless `as_published` says otherwise. Intervals resample children, since a table may hold both parents of one.

# %%
given = [recompute(each, n_asked=n_asked, rng=run.rng, as_published=as_published) for each in tables]
recomputed = pd.concat(given, ignore_index=True) if given else pd.DataFrame({"metric": pd.Series(dtype=str)})
recomputed.to_parquet(run.path("recomputed.parquet"))
for table in tables:
    print(f"{table.name}: {table.kind}, {len(table.rows)} rows, {table.n_twice} of them there before")
recomputed if given else print("No table is given.")

# %%
one_way = told.loc[told["group"] == "one-way", "parent first"].sum()
if one_way:
    raise ValueError(f"{one_way} sentences name the parent of a one-way family first")
if people.duplicated(["person", "relation", "parent"]).any():
    raise ValueError("somebody is asked about twice")
run.finish("No sentence names the parent of a one-way family first, and nobody is asked about twice.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. Sentences of the world are short and plain; in real text the order
# of two names is one thing among many that differ between a famous child and a less famous parent.
#
# Next: [02-finetune](02-finetune.ipynb), which does nothing for a model that can answer such questions.
