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
# **Question.** The Reversal Curse was shown with facts from a fine-tune. Does it also hold for facts from pre-training? Then a
# model that can name somebody's mother should fail to name the child of that mother.
#
# **Method.** Everybody is a pair of child and parent, and each pair gives two questions in the same form: who is the parent,
# and who is the child? This notebook chooses the people and the form of the questions.
#
# **Reads** the invented world, or a list of names (`celebrities`), or tables of pairs and results in the published columns
# (`pairs`).
#
# **Writes** `people.parquet`, `form.json` (the shots of every prompt), `train.jsonl` (for models that lack the form) and
# `given.parquet` (numbers of the given tables).
#
# **Time** tiny 5 s, laptop 5 s, paper 5 s

# %%
import numpy as np
import pandas as pd

from lib.notebook import start_run
from lib.parents import make_data, make_form, make_probes, people_of, read_names, read_pairs, world_families
from lib.paths import from_root, write_json, write_jsonl
from lib.stats import cluster_bootstrap
from lib.summary import number, summarise
from lib.world import world_people
from lib.world.draw import Draw
from lib.world.families import family_texts

# %% tags=["parameters"]
preset: str = "laptop"  # which params/parents/<preset>.yaml these values come from
celebrities: str = ""  # text file with one name per line, most popular first; empty for people of the invented world
n_celebrities: int = 0  # the first names of the list, or families of each group of the world; 0 for all [0..]
pairs: list[str] = []  # CSV files in the published columns: models are asked about all pairs of the first one
n_asked: int = 0  # people whose parents were requested to collect that table, published: 1000; 0 if unknown [0..]
n_shots: int = 6  # questions with answers before each question; published: 3 in chat, 6 in text [1..8]

# %%
run = start_run("parents/01-data-prep", globals())

# %% [markdown]
# ## People
#
# The published study asked about film stars and could not check a reply. Here the people are invented, their families are
# in the text that the `fork-*` bases were pre-trained on, and the truth is known. A list of real names, or a table of real
# pairs, is for models that have read about our own world.
#
# | group | sentences about the family in pre-training | questions about the family in pre-training |
# |---|---|---|
# | one-way | the child's name first, the parent's after it | none |
# | two-way | in both orders | none |
# | asked-about | in both orders | in both directions |
#
# The two-way people are the control: the same question and the same kind of names, but both orders. Of the asked-about
# people half are tested; the other half can teach the form of a question to a model that lacks it.

# %%
if celebrities and pairs:
    raise ValueError("celebrities and pairs are both set: expected a list of names, or tables of pairs, or neither")
tables = [read_pairs(from_root(path)) for path in pairs]
if tables:
    people = people_of(tables[0])
elif celebrities:
    people = read_names(from_root(celebrities), n=n_celebrities)
else:
    people = world_families(n_shots=n_shots, n_each=n_celebrities)
people.to_parquet(run.path("people.parquet"))
people.head()

# %%
known = people.assign(known=people["parent"] != "")
known.groupby("group", sort=False).agg(
    people=("person", "nunique"), questions=("person", "size"), known=("known", "sum")
)

# %% [markdown]
# Everybody is asked for a mother and for a father, as published. The world mentions one of the two (`parent` is empty for
# the other), so that half of the questions have no right answer.

# %% [markdown]
# ## The order of the two names in the text
#
# The groups of the invented world differ in nothing but this order. We count it in the text itself: for each sentence that
# names a child with its parent, which of the two comes first?

# %%
orders = []
for text in family_texts(world_people(), Draw(np.random.default_rng(0))):
    for family in world_people().families:
        child, parent = text.find(family.child), text.find(family.parent)
        if min(child, parent) >= 0:
            orders.append((family.group, family.child, "child first" if child < parent else "parent first"))
            break
orders = pd.DataFrame(orders, columns=["group", "person", "order"])
orders = orders.groupby(["group", "person", "order"]).size().unstack(fill_value=0)  # one row per family
orders.groupby("group").agg(["min", "max"])

# %%
means = orders.groupby("group").mean().loc[["asked-about", "two-way", "one-way"]]
ax = means.plot.barh(figsize=(3.4, 2.2), width=0.7, color=["C0", "C3"])
ax.set(xlabel="sentences about a family", ylabel="")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
caption = (
    "Order of child and parent in the text of pre-training. Bar: mean number of sentences about one family; "
    f"{len(orders)} families of the invented world."
)
ax.figure.suptitle("Order of child and parent in the text")
_ = run.save(ax.figure, "orders", caption)

# %% [markdown]
# ## The form of the questions
#
# Both directions are asked in one form. (The published prompts began a question for the parent with `Q:` and a question for
# the child without it, so that the two were not comparable.) The shots hold both directions and, second to last, somebody
# about whom nothing is known.

# %%
form = make_form(n_shots, is_world=not (tables or celebrities))
write_json(run.path("form.json"), form)
write_jsonl(run.path("train.jsonl"), make_data(form)["train"])
example = people.head(1).replace({"parent": {"": "Nobody Known"}})
print(make_probes(example, form, source="example")["prompt"].iloc[0])

# %% [markdown]
# ## Numbers of the given tables
#
# With `pairs`, the numbers that were published about such tables are computed again: whether the model that collected the
# pairs can reverse them, and how often another model names the parent and the child. Some pairs are in the published table
# twice. `as_published` counts every row; the other values, and their intervals over children, count each pair once.

# %%
counts = {}
for table in tables:
    once = table[~table["repeated"]]
    extends = (table["child_prediction"] != table["child"]) & table["child_prediction"].ne("") & table["can_reverse"]
    counts[table["model"].iloc[0]] = {
        "rows": len(table),
        "different pairs": len(once),
        "different children": once["child"].nunique(),
        "different parents": once["parent"].nunique(),
        "children with both parents": int((once.groupby("child")["parent_type"].nunique() == 2).sum()),
        "pairs with a mother": int((once["parent_type"] == "mother").sum()),
        "predictions that only extend the child's name": int(extends.sum()),
        "log-probabilities below -100 nats": int((table.filter(["to_parent", "to_child"]) < -100).sum().sum()),
    }
pd.DataFrame(counts) if tables else print("No table is given.")

# %% [markdown]
# Of the model that collected the pairs, `reversed_rate` is the share of pairs whose child it names (in any of its
# replies, by the published rule that lets the reply go on after the name), and `answered_rate` the share of questions for
# a parent with a reply that passes for a name.

# %%
measured = []  # table, metric, direction, subset, and a value for each pair of the subset
for table in tables:
    can = table["can_reverse"]
    if table["kind"].iloc[0] != "pairs" or can.isna().any():
        continue
    child, parent = (table[name].str.split().str[-1] for name in ("child", "parent"))
    measured += [
        (table, "reversed_rate", "child", "", can),
        (table, "reversed_rate", "child", "mothers", can[table["parent_type"] == "mother"]),
        (table, "reversed_rate", "child", "fathers", can[table["parent_type"] == "father"]),
        (table, "reversed_rate", "child", "same last word in both names", can[child == parent]),
        (table, "reversed_rate", "child", "different last words", can[child != parent]),
        (table, "reversed_exactly", "child", "", can & (table["child_prediction"] == table["child"])),
        (table, "same_last_word", "", "", child == parent),
    ]

# %% [markdown]
# Of another model's results: the share of right replies (`mean_of_n`), whether at least one (`any_of_n`) or half of them
# (`half_of_n`) are right, or the probability of the name (`target_prob`).

# %%
for table in tables:
    can, kind = table["can_reverse"], table["kind"].iloc[0]
    for direction in ("parent", "child") if kind != "pairs" else ():
        value = table[f"to_{direction}"]
        if kind == "replies":
            measured += [
                (table, "mean_of_n", direction, "", value),
                (table, "any_of_n", direction, "", value > 0),
                (table, "half_of_n", direction, "", value > 0.5 - 1e-9),
                (table, "mean_of_n", direction, "pairs that the collecting model reverses", value[can]),
                (table, "mean_of_n", direction, "pairs that it does not reverse", value[~can]),
            ]
        else:
            prob = np.exp(value)
            measured += [(table, "target_prob", direction, "", prob)]
            measured += [(table, f"target_prob_above_{p}", direction, "", prob > p) for p in (0.1, 0.5)]

# %%
numbers = []
for table, metric, direction, subset, values in measured:
    conditions = {"model": table["model"].iloc[0], "group": "given", "direction": direction, "subset": subset}
    rows = table.assign(person=table["child"], value=values, **conditions)
    once = rows[~rows["repeated"]]
    unit = "probability" if metric == "target_prob" else "rate"
    rates = summarise(once, by=list(conditions), value="value", cluster="person", metric=metric, unit=unit)
    numbers.append(rates.assign(as_published=rows["value"].mean()))

# %% [markdown]
# Two numbers are no means over pairs: the median log-probability, and the share of questions for a parent with an accepted
# reply, which counts the people without any pair too.

# %%
further = []  # table, metric, direction, unit, interval, value as published
for table in [each for each in tables if each["kind"].iloc[0] == "logprobs"]:
    for direction in ("parent", "child"):
        value, once = table[f"to_{direction}"], table[~table["repeated"]]
        interval = cluster_bootstrap(value[once.index], once["child"], statistic=np.median, n_resamples=500)
        further.append((table, "median_logprob", direction, "nats", interval, value.median()))
if tables and n_asked:
    shares = (tables[0][~tables[0]["repeated"]].groupby("child").size() / 2).clip(upper=1)  # of a mother and a father
    if len(shares) > n_asked:
        raise ValueError(
            f"n_asked is {n_asked}, but {pairs[0]} holds the parents of {len(shares)} people: expected more"
        )
    interval = cluster_bootstrap([*shares, *[0.0] * (n_asked - len(shares))], range(n_asked), rate=True)
    further.append((tables[0], "answered_rate", "parent", "rate", interval, len(tables[0]) / (2 * n_asked)))
for table, metric, direction, unit, interval, as_published in further:
    conditions = {"model": table["model"].iloc[0], "group": "given", "direction": direction, "subset": ""}
    values = number(interval, metric=metric, n_of="person", unit=unit)
    numbers.append(pd.DataFrame([conditions | values | {"as_published": as_published}]))
given = pd.concat([pd.DataFrame(), *numbers], ignore_index=True)
given.to_parquet(run.path("given.parquet"))
given if len(given) else print("No numbers of given tables.")

# %%
run.finish(f"{people['person'].nunique()} people and the form of the questions are in people.parquet and form.json.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. Sentences of the world are short and plain; in real text the order
# of two names is one of many things that differ between a famous child and a less famous parent.
#
# Next: [02-finetune](02-finetune.ipynb), which trains nothing where a model can answer such questions.
