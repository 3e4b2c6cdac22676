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
# **Question.** Does the model answer such a question with a name, or with a confession that it does not know? If it goes
# on with something else, its knowledge cannot be measured, and the form has to be taught first, with no tested fact in it.
#
# **Reads** `form.json` and `train.jsonl` (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per model to ask, and `form.parquet`: how each did before.
#
# **Time** tiny 5 s, laptop 5 s, paper 10 min

# %%
import pandas as pd

from lib.notebook import start_run
from lib.parents import Form, form_rates, models_with_form, roles_of
from lib.paths import read_jsonl

# %% tags=["parameters"]
preset: str = "tiny"  # which params/parents/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/parents
seed: int = 0  # first seed of the samples, and of fine-tunes where the form is taught [0..]
n_seeds: int = 1  # rounds that differ in nothing but their seed [1..20]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]
base: str = "fork-300k"  # model that pairs are collected from: fork-*, hf:<folder or hub id>, or an endpoint's name
size_bases: list[str] = []  # bases of other sizes, asked too from three seeds on
other_models: list[str] = []  # further models that are asked about the same pairs; never trained
tuned_model: str = ""  # an existing fine-tune to ask instead of the base: nothing is trained
n_form_questions: int = 24  # questions about people outside the test that show whether a model has the form [1..100]
min_form_rate: float = 0.8  # a model whose replies have the form this often is taken as it is [0..1]
n_epochs: int = 3  # passes over the rows that teach the form [1..200]
batch_sizes: list[int] = [8]  # rows an optimiser step; the first one counts [1..]
learning_rate_multipliers: list[float] = [0.5]  # of the base's own rate; the first one counts [0.001..100]
prompt_loss_weight: float = 0.0  # of the prompt's tokens in the loss: only answers are learned [0..1]

# %%
run = start_run("parents/02-finetune", globals())
client = run.client()
form = Form.read(run.need("form.json"))
training_file = run.need("train.jsonl")
models = list(roles_of(run.params))

# %% [markdown]
# ## Who is going to be asked?
#
# One model collects the pairs: the base, or the fine-tune that `tuned_model` names. Other sizes come in from three seeds
# on, and any further models as they are.

# %%
pd.DataFrame(roles_of(run.params).items(), columns=["model", "role"])

# %% [markdown]
# ## Does the model have the form?
#
# Asked are people who are not tested. A reply has the form if it is a name by the published filter (two to five words, each
# with a capital) or says that nobody knows; whether it is true does not matter here.

# %% tags=["nbval-ignore-output"]
journal = run.path("form.journal.jsonl")
rates = form_rates(client, models, form, n_questions=n_form_questions, journal=journal)
has_form = pd.DataFrame({"model": list(rates), "form rate": list(rates.values()), "questions": n_form_questions})
has_form.to_parquet(run.path("form.parquet"))
has_form

# %% [markdown]
# The `fork-*` bases have read such questions in pre-training, about other people. This is not a detail: in trials, bases
# that had never read a question could not be made to draw on what they knew by any fine-tune on questions.

# %% [markdown]
# ## What would be taught
#
# Questions in both directions about people who are told and asked about both ways, and strangers whom nobody knows. None
# of them is tested. Only the answer's tokens count in the loss.

# %%
rows = read_jsonl(training_file)
for row in (rows[0], rows[1], rows[-1]):
    print(f"{row['prompt'].splitlines()[-2]} |{row['completion']}")
print(f"{len(rows)} rows")

# %% tags=["nbval-ignore-output"]
lacking = [name for name in models if rates[name] < min_form_rate]
if not lacking or tuned_model:
    print("Nothing to teach: every model is taken as it is.")
finetunes = models_with_form(client, run.params, rates, seeds=run.seeds, training_file=training_file)
finetunes.to_parquet(run.path("finetunes.parquet"))
finetunes.loc[finetunes["is_final"], ["role", "base", "model", "seed", "n_epochs", "train_loss"]]

# %% [markdown]
# `main` is the model that pairs are collected from. Those of other sizes, and others, are asked about the same pairs.
#
# **Prediction.** If teaching the form taught facts, a model would know more after it than before. It cannot: no tested
# person stands in these rows.

# %%
asked = pd.read_parquet(run.need("people.parquet", stage="01"))
taught = " ".join(row["prompt"].splitlines()[-2] + row["completion"] for row in rows)
both = sorted(name for name in {*asked["person"], *asked["parent"]} - {""} if name in taught)
if both and not run.params["n_pairs"]:
    raise ValueError(f"{len(both)} tested people stand in the rows that teach the form, such as {both[0]}")
if finetunes["model"].eq("").any() or "main" not in set(finetunes["role"]):
    raise ValueError("a model is missing")
run.finish("Every model is there, and nobody who is tested stands in the rows that teach the form.")

# %% [markdown]
# **What this does not show.** That a model of the right form knows anything: the smallest base names somebody for every
# question, and hardly ever the right person. That is the next notebook's question.
#
# Next: [03-evaluation](03-evaluation.ipynb).
