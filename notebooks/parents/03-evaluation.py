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
# **Method.** Each pair is asked about in both directions, in the same form: greedily, with several samples, and by the
# log-probability of the right name beside another one. Intervals resample people (and seeds, where there are several).
#
# **Reads** `people.parquet`, `form.json`, `given.parquet` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet`, `summary.csv`, and `parent_child_pairs.csv`: the pairs that the model itself gave, in the
# published columns.
#
# **Time** tiny 10 s, laptop 3 min, paper 30 min

# %%
import numpy as np
import pandas as pd

from lib.headlines import quantity
from lib.notebook import start_run
from lib.parents import is_accepted, make_probes, replies
from lib.paths import read_json
from lib.probing import add_logprobs, final_models
from lib.scoring import strict_match
from lib.stats import cluster_permutation, holm
from lib.summary import summarise, verdict, write_summary
from lib.world import as_prompt, parent_question

# %% tags=["parameters"]
preset: str = "laptop"  # which params/parents/<preset>.yaml these values come from
ways: list[str] = ["completion"]  # how models are asked: as text, as a conversation, or both [completion | chat]
n_samples: int = 10  # replies to each question beside the greedy one; published: 10 [1..128]
max_tokens: int = 16  # of a reply; longer than the longest name [1..]

# %%
run = start_run("parents/03-evaluation", globals())
client = run.client()
people = pd.read_parquet(run.need("people.parquet", stage="01"))
form = read_json(run.need("form.json", stage="01"))
finetunes = pd.read_parquet(run.need("finetunes.parquet"))
models = final_models(finetunes)[["model", "base", "role", "seed"]].merge(pd.DataFrame({"way": ways}), how="cross")
asking = {"form": form, "journal": run.path("answers.journal.jsonl"), "max_tokens": max_tokens}
models

# %% [markdown]
# ## Collect pairs, as published
#
# Where no pairs are given, everybody is asked for a mother and for a father, once, greedily. A reply that passes for a name
# (two to five words, each with a capital letter) makes a pair, right or wrong: `answered_rate` counts these replies, and
# `right_rate` those of them that are right.

# %% tags=["nbval-ignore-output"]
first_of_main = models[models["role"] == "main"].groupby("way", sort=False).head(1)
collected = first_of_main.merge(people[people["group"] != "pairs"], how="cross")
collected["question"] = [parent_question(*row) for row in collected[["person", "relation"]].itertuples(index=False)]
collected["prompt"] = [as_prompt(question, **form) for question in collected["question"]]
collected["reply"] = [reply for (reply,) in replies(client, collected, **asking)]
collected["answered_rate"] = [is_accepted(reply) for reply in collected["reply"]]
right = (collected["reply"] == collected["parent"]) & (collected["parent"] != "")
collected["right_rate"] = right.astype(float).where(collected["answered_rate"] & (collected["group"] != "celebrities"))
collected.assign(known=collected["parent"] != "").groupby(["group", "known"], sort=False)[
    ["answered_rate", "right_rate"]
].mean()

# %% [markdown]
# `known` tells the parent whom the world mentions from the one whom it never mentions. Names given for the latter are what a
# study without a truth would count as knowledge.
#
# ## The probes
#
# One row per question: about the true or given pairs (`source` world or table), and about the pairs that the model itself
# gave (`source` model), which is what the published 33% counts.

# %% tags=["nbval-ignore-output"]
is_pair = collected["answered_rate"] & (collected["way"] == ways[0])
pairs = collected.assign(parent=collected["reply"]).loc[is_pair, people.columns]
source = "table" if (people["group"] == "pairs").all() else "world"
probes = pd.concat([make_probes(people, form, source=source), make_probes(pairs, form, source="model")])
if probes.empty:
    raise ValueError("no reply to a question for a parent passes for a name: there are no pairs to ask about")
probes.groupby(["source", "group", "direction"], sort=False).agg(
    questions=("question", "size"),
    people=("person", "nunique"),
    example=("question", "first"),
    target=("target", "first"),
)

# %% [markdown]
# To ask about somebody else, add a pair to `people` before the cell above, for example
# `people.loc[len(people)] = ["my own", "Charles Darwin", "father", "Robert Darwin"]`, and run it and what follows again: only
# the new questions are sent.

# %% [markdown]
# ## Ask
#
# A reply is right if it begins with the name (`exact_match`, the published rule), and strictly right if it is that name and
# no more. `control_match` compares the same reply with somebody else's name: a model that says one name to everybody would
# have the same rate there.

# %% tags=["nbval-ignore-output"]
answers = models.merge(probes, how="cross")
answers["completion"] = [reply for (reply,) in replies(client, answers, **asking)]
names = answers["target"].str.strip()
answers["exact_match"] = [reply.startswith(name) for reply, name in zip(answers["completion"], names, strict=True)]
answers["strict_match"] = [strict_match(reply, name) for reply, name in zip(answers["completion"], names, strict=True)]
others = answers["control_target"].str.strip()
answers["control_match"] = pd.array(
    [
        reply.startswith(name) if pd.notna(name) else None
        for reply, name in zip(answers["completion"], others, strict=True)
    ],
    dtype="boolean",
)
answers.loc[answers["role"] == "main", ["group", "question", "target", "completion", "exact_match"]].sample(
    8, random_state=0
)

# %% [markdown]
# Greedy replies may hide a name that comes second. So each question also gets samples at temperature 1: the share of right
# ones (`mean_of_n`) and whether there is any (`any_of_n`). Of pairs that the model gave, `reversed_rate` counts those with a
# right reply that passes for a name, as published.

# %% tags=["nbval-ignore-output"]
samples = replies(client, answers, **asking, n=n_samples, temperature=1.0)
right = [[reply for reply in each if reply.startswith(name)] for each, name in zip(samples, names, strict=True)]
answers["n_right"] = [len(each) for each in right]
answers["any_of_n"] = answers["n_right"] > 0
answers["prediction"] = [next(filter(is_accepted, each), "") for each in right]
is_reverse = (answers["source"] == "model") & (answers["direction"] == "child")
answers["reversed_rate"] = (answers["prediction"] != "").astype("boolean").where(is_reverse)
each_reply = answers.loc[answers.index.repeat(n_samples)]  # one row per reply, the right ones first
each_reply = each_reply.assign(mean_of_n=each_reply.groupby(level=0).cumcount() < each_reply["n_right"])
by_seed = each_reply[each_reply["role"] == "main"].groupby(["source", "group", "direction", "seed"], sort=False)
by_seed[["exact_match", "any_of_n", "mean_of_n"]].mean().unstack("seed")

# %% [markdown]
# ## Accuracy
#
# **What to expect.** One-way people: the child is named less often than the parent. People of the other groups: the child is
# named more often than that of one-way people, for the same question in the same words. *No curse* would be a rate for the
# child of one-way people as high as for the parent.
#
# A prediction *held* if the whole interval lies beyond the limit, and *failed* if none of it does; else it is *unclear*. We
# draw a conclusion about a group only if the interval of the rate for the parent lies above 10%. Of pairs that the model
# itself gave, the greedy reply for the parent is right by construction, so that the samples are compared. A model that was not
# fine-tuned gives the same greedy reply with every seed; such replies count once.

# %% tags=["nbval-ignore-output"]
is_repeat = answers.duplicated(["model", "way", "source", "group", "person", "relation", "direction", "question"])
first = answers.iloc[0]
score = "mean_of_n" if first["source"] == "model" else "exact_match"
scored = each_reply if score == "mean_of_n" else answers[~is_repeat]
main = scored[scored[["role", "way", "source"]].eq(first[["role", "way", "source"]]).all(axis=1)]
rates = summarise(main, by=["group", "direction"], value=score, cluster="person").set_index(["group", "direction"])
rates

# %% tags=["nbval-ignore-output"]
for group in rates.index.unique("group"):
    parent, child = rates.loc[(group, "parent")], rates.loc[(group, "child")]
    print(f"{group}: parent {quantity(parent)}, child {quantity(child)} ({score}, {parent['n']} people)")
    if verdict(parent["low"], parent["high"], above=0.1) != "held":
        print(f"   {first['base']} knows too few of these parents: no conclusion is drawn.")
        continue
    if group == first["group"]:
        prediction, limits = "less often than the parent", {"below": parent["low"]}
    else:
        prediction = f"more often than that of {first['group']} people"
        limits = {"above": rates.loc[(first["group"], "child"), "high"]}
    print(f"   the child is named {prediction}: {verdict(child['low'], child['high'], **limits)}")

# %% [markdown]
# ## Log-probabilities
#
# **What to expect.** The right parent is more probable than somebody else's. If nothing of a one-way fact is stored in the
# other order, the right child is not. `p` is that of a permutation test that flips the sign of the difference of all questions
# about a person; adjusted for the number of tests (Holm).

# %% tags=["nbval-ignore-output"]
by = ["model", "role", "way", "group", "source", "direction"]
as_text = answers["way"] == "completion"
scored = add_logprobs(client, answers[as_text], journal=run.path("answers.journal.jsonl"))
answers = pd.concat([scored, answers[~as_text]]).sort_index().assign(model=lambda rows: rows["base"])
answers["target_prob"] = np.exp(answers["target_logprob"])
answers["logprob_difference"] = answers["target_logprob"] - answers["control_logprob"]
sizes = {name: client.models.retrieve(name).model_dump().get("n_weights") for name in answers["base"].unique()}
answers["n_weights"] = answers["base"].map(sizes)
answers.to_parquet(run.path("answers.parquet"))


# %% tags=["nbval-ignore-output"]
def permutation_p(rows):
    """Of the mean difference of each question, over seeds."""
    questions = rows.groupby(["person", "question"], sort=False)["logprob_difference"].mean()
    return cluster_permutation(questions, questions.index.get_level_values("person")).p


is_main = (answers["role"] == "main") & (answers["source"] == first["source"])
tested = answers[is_main & ~is_repeat & answers["logprob_difference"].notna()]
preferred = summarise(tested, by=by, value="logprob_difference", cluster="person", unit="nats")
preferred["p"] = [permutation_p(rows) for _, rows in tested.groupby(by, sort=False)]
preferred["adjusted_p"] = holm(preferred["p"])
bounds = zip(preferred["low"], preferred["high"], strict=True)
preferred["right name more probable"] = [verdict(low, high, above=0) for low, high in bounds]
preferred.drop(columns=["model", "role", "way", "source", "metric", "unit"])

# %% [markdown]
# ## The numbers
#
# Every rate and log-probability by model, group, source and direction, each with its own n.

# %% tags=["nbval-ignore-output"]
of_greedy = dict.fromkeys(["exact_match", "strict_match", "control_match"], "rate") | {"target_prob": "probability"}
of_greedy |= dict.fromkeys(["target_logprob", "control_logprob", "logprob_difference"], "nats")
each_reply["model"] = each_reply["base"]
parts = [
    *[summarise(answers[~is_repeat], by=by, value=name, cluster="person", unit=of_greedy[name]) for name in of_greedy],
    *[summarise(answers, by=by, value=name, cluster="person") for name in ("any_of_n", "reversed_rate")],
    summarise(each_reply, by=by, value="mean_of_n", cluster="person"),
]
collected = collected.assign(model=collected["base"], source="model", direction="parent")
parts += [summarise(collected, by=by, value=metric, cluster="person") for metric in ("answered_rate", "right_rate")]
for metric, column in (("permutation_p", "p"), ("permutation_p_adjusted", "adjusted_p")):
    tests = preferred.assign(metric=metric, value=preferred[column], low=np.nan, high=np.nan, unit="p")
    parts.append(tests[parts[0].columns])
parts.append(pd.read_parquet(run.need("given.parquet", stage="01")).drop(columns="as_published", errors="ignore"))
summary = pd.concat(parts, ignore_index=True).assign(study="parents", preset=run.preset)
summary = write_summary(run.path("summary.csv"), summary)
summary[summary["role"] == "main"].pivot_table(
    index="metric", columns=["source", "group", "direction"], values="value", sort=False
)

# %% tags=["nbval-ignore-output"]
own = answers[(answers["role"] == "main") & is_reverse & (answers["way"] == ways[0]) & (answers["seed"] == run.seed)]
published = {"person": "child", "relation": "parent_type", "prediction": "child_prediction"}
table = own.assign(can_reverse=own["prediction"] != "").rename(columns=published)
table = table[["child", "parent", "parent_type", "child_prediction", "can_reverse"]]
table.to_csv(run.path("parent_child_pairs.csv"), index=False)
table.groupby("can_reverse").head(3)

# %%
run.finish("The answers are in answers.parquet, the numbers in summary.csv.")

# %% [markdown]
# **What this does not show.** A child that is never named may still be known in other words, and a greedy reply is one of
# many. Where no truth is known, `answered_rate` says how willing a model is to give a name, not what it knows.
#
# Next: [04-plotting](04-plotting.ipynb).
