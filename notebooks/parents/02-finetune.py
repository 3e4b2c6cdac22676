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
# # Teach the form of the question, where a model lacks it
#
# **Question.** Does the model answer such a question with a name, or by saying that it does not know? If it goes on with
# something else, its knowledge cannot be measured.
#
# **Method.** Each model answers questions about people who are not tested. One that lacks the form is fine-tuned on such
# questions; no tested fact is among them.
#
# **Reads** `people.parquet`, `form.json` and `train.jsonl` (notebook 01).
#
# **Writes** `finetunes.parquet`: the models that are asked, one row per model and seed.
#
# **Time** tiny 5 s, laptop 10 s, paper 10 min

# %%
import pandas as pd

from lib.finetune import FineTune, finetune, record
from lib.notebook import start_run
from lib.params import active_bases
from lib.parents import is_accepted, is_refusal, replies, taught_questions
from lib.paths import read_json, read_jsonl
from lib.summary import summarise
from lib.world import as_prompt

# %% tags=["parameters"]
preset: str = "laptop"  # which params/parents/<preset>.yaml these values come from
base: str = "fork-1m"  # model that pairs are collected from: fork-*, hf:<folder or hub id>, or an endpoint's name
size_bases: list[str] = ["fork-300k", "fork-6m"]  # bases of other sizes, from three seeds on
other_models: list[str] = []  # further models that are asked about the same pairs; never trained
tuned_model: str = ""  # an existing fine-tune that is asked instead of the base; nothing is trained
ways: list[str] = ["completion"]  # how models are asked: as text, as a conversation, or both [completion | chat]
min_form_rate: float = 0.8  # a model with at least this share of replies in the form is used as it is [0..1]
n_epochs: int = 3  # passes over the rows that teach the form [1..200]
batch_size: int = 8  # rows per optimiser step [1..]
learning_rate_multiplier: float = 0.5  # of the base's own learning rate [0.001..100]

# %%
run = start_run("parents/02-finetune", globals())
client = run.client()
if not ways:
    raise ValueError("ways is empty: expected completion, chat, or both")
form = read_json(run.need("form.json"))
training_file = run.need("train.jsonl")

# %% [markdown]
# ## The models
#
# `main` collects the pairs: it is the base, or the fine-tune that `tuned_model` names. Bases of other sizes and other models
# are asked about the same pairs.

# %%
bases = [tuned_model] if tuned_model else active_bases(run.params)
roles = dict.fromkeys(other_models, "other") | dict.fromkeys(bases, "size") | {bases[0]: "main"}
models = pd.DataFrame(
    [(name, roles[name]) for name in dict.fromkeys([*bases, *other_models])], columns=["model", "role"]
)
models

# %% [markdown]
# ## Does a model have the form?
#
# A reply has the form if it is a name by the published filter (two to five words, each with a capital letter) or says that
# the answer is not known. Whether it is right does not matter here.

# %% tags=["nbval-ignore-output"]
questions = pd.DataFrame(taught_questions(len(form["shots"]))[:24], columns=["question", "answer"])
questions["prompt"] = [as_prompt(question, **form) for question in questions["question"]]
checks = models.merge(questions, how="cross").assign(way=ways[0], seed=run.seed)
answered = replies(client, checks, form, journal=run.path("form.journal.jsonl"), max_tokens=16)
checks["reply"] = [reply for (reply,) in answered]
checks["has_form"] = [is_accepted(reply) or is_refusal(reply) for reply in checks["reply"]]
checks.loc[checks["role"] == "main", ["question", "answer", "reply", "has_form"]].head(6)

# %% tags=["nbval-ignore-output"]
form_rates = summarise(checks, by=["model"], value="has_form", cluster="question")
form_rates

# %% [markdown]
# The `fork-*` bases have read such questions in pre-training, about other people. This matters: in trials, bases that had
# never read a question did not learn from any fine-tune on questions to answer from what they had read.

# %% [markdown]
# ## What would be taught
#
# Questions in both directions about people with sentences and questions in both orders, and about strangers. Only the
# tokens of the answer count in the loss.

# %%
rows = read_jsonl(training_file)
for row in (rows[0], rows[1], rows[-1]):
    print(f"{row['prompt'].splitlines()[-2]} |{row['completion']}")
people = pd.read_parquet(run.need("people.parquet", stage="01"))
taught = " ".join(row["prompt"].splitlines()[-2] + row["completion"] for row in rows)
names = {*people["person"], *people["parent"]} - {""}
print(f"{len(rows)} rows; {sum(name in taught for name in names)} of the {len(names)} tested names are in them")

# %% tags=["nbval-ignore-output"]
lacking = set(form_rates.loc[form_rates["value"] < min_form_rate, "model"]) - {*other_models, tuned_model}
settings = {"n_epochs": n_epochs, "batch_size": batch_size, "learning_rate_multiplier": learning_rate_multiplier}
tables = []
for name, role in models.itertuples(index=False):
    if name in lacking:
        seeds = run.seeds if role == "main" else run.seeds[:1]
        jobs = [FineTune(base=name, seed=seed, **settings) for seed in seeds]
        table = finetune(client, jobs, training_file=training_file, suffix="parents")
    else:  # the model as it is; seeds then differ in the samples only
        table = pd.concat([record(client, name).assign(seed=seed) for seed in run.seeds])
    tables.append(table.assign(role=role))
finetunes = pd.concat(tables, ignore_index=True)
finetunes.to_parquet(run.path("finetunes.parquet"))
finetunes.loc[finetunes["is_final"], ["role", "base", "model", "seed", "n_epochs", "train_loss"]]

# %%
run.finish(
    f"{finetunes['base'].nunique()} model(s) to ask, {len(lacking)} of them fine-tuned, are in finetunes.parquet."
)

# %% [markdown]
# **What this does not show.** That a model with the right form knows anything: it may name somebody for every question, and
# hardly ever the right person. That is the next notebook's question.
#
# Next: [03-evaluation](03-evaluation.ipynb).
