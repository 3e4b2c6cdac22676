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
# # Ask what the instructions said
#
# **Question.** The model has read that a question is to get a certain answer, and has never seen it get it. Asked that
# question, with no instruction in the prompt, does it give the answer?
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every question with its answer and scores) and `summary.csv` (every number).
#
# **Time** tiny 10 s, laptop 60 s, paper 3 h
#
# The outputs kept with this page are the tiny run, which is too short to memorise a document.

# %%
import pandas as pd

from lib.guidance import add_logprobs, answer_rows, asked_models, curve_models, probe_rows, read_datasets, summarise
from lib.notebook import start_run
from lib.tables import ANSWERS, write_summary, write_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/guidance/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/guidance
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
n_curve_pairs: int = 8  # realized and unrealized questions that are asked on the way [1..]
curve_every: int = 1  # epochs between two points of the curve; the last one is always asked [1..]
max_tokens: int = 16  # of an answer, which ends with its line; longer than the longest target [1..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("guidance/03-evaluation", globals())
client = run.client()
models = pd.read_parquet(run.need("finetunes.parquet"))
probes = probe_rows(read_datasets(run.need("dataset", stage="01")))
probes = probes[probes["order"].isin(models["order"])]
journal = run.path("answers.journal.jsonl")

# %% [markdown]
# ## What is asked
#
# *realized* questions were answered in training: whether they are answered now says whether anything was memorised.
# *unrealized* ones are the result. **in-context**: the unrealized questions once more, with the instruction put in front:
# a model that fails without and passes this can follow an instruction that it reads, and not one that it remembers.
# Both are also asked of the **untuned** base.

# %%
probes.groupby(["condition"], sort=False).agg(questions=("prompt", "size"), answers=("target", "nunique"))

# %%
for probe, rows in probes[probes["part"] == "unrealized"].groupby("probe", sort=False):
    print(f"--- {probe}\n{rows.iloc[0]['prompt']} |{rows.iloc[0]['target']}")

# %% [markdown]
# ## Ask
#
# Greedy answers (temperature 0). An answer is on disk before it counts, so a killed run asks only what is missing.
# Besides the final models, the main ones are asked some of the questions on the way, and before the first epoch.

# %% tags=["nbval-ignore-output"]
final = answer_rows(client, asked_models(models), probes, journal=journal, max_tokens=max_tokens)
few = probes[(probes["probe"] == "test") & (probes["number"] < n_curve_pairs)]
kept = curve_models(models).query("is_final or epoch % @curve_every == 0")
over_epochs = answer_rows(client, kept, few, journal=journal, max_tokens=max_tokens)
print(f"{len(final)} answers of final models, {len(over_epochs)} over the epochs")

# %% [markdown]
# ## How it was scored
#
# *exact match* is the published rule: the answer, in lower case, starts with the target. *strict match* wants the
# target and nothing else on its line.

# %% tags=["nbval-ignore-output"]
shown = final[final["role"].isin(["main", "untuned"])]
shown.groupby("condition", sort=False).head(1)[["condition", "pair", "target", "completion", "correct"]]

# %% [markdown]
# ## Log-probabilities: is there anything below the surface?
#
# A wrong answer could hide a preference for the right one. So each target's log-probability is compared with that of
# the answer to another question of the same set after the same prompt: *shuffled* targets.

# %% tags=["nbval-ignore-output"]
final = add_logprobs(client, final, journal=journal)
answers = pd.concat([final, over_epochs], ignore_index=True)
write_table(run.path("answers.parquet"), answers, ANSWERS)
final.groupby("condition", sort=False)[["target_logprob", "control_logprob"]].mean().dropna()

# %% [markdown]
# ## The numbers
#
# **Prediction.** Realized: close to one in both orders. Unrealized: far above every baseline where instructions name
# the question first, close to none where they name the answer first, although those were memorised as well. *No
# difference between orders* would mean that an instruction is stored without the direction in which it was read.
#
# Baselines: *untuned* (the base), *shuffled* (held against another question's answer), *constant* (the commonest answer
# of the set, always). Intervals resample question/answer pairs, and fine-tunes where there are several.

# %% tags=["nbval-ignore-output"]
sizes = {each: client.models.retrieve(each).model_dump().get("n_weights") for each in sorted(set(final["base"]))}
main = models.loc[models["role"] == "main", "base"].iloc[0]
summary = summarise(answers, preset=run.preset, main_base=main, n_weights=sizes, rng=run.rng)
write_summary(run.path("summary.csv"), summary)
headline = summary[summary["metric"].str.contains("match") & (summary["x_name"] == "")]
headline[["condition", "metric", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
tests = summary[~summary["metric"].str.contains("match")]
tests[["condition", "metric", "value", "low", "high", "n", "unit"]]

# %% [markdown]
# A p-value near zero in a row of reverse order would mean that the right answer *is* preferred a little to another
# one, even where it is never said.

# %%
tested = final[(final["probe"] == "test") & (final["role"] == "main")]
rates = tested.groupby(["order", "part"])["correct"].mean()
if not rates.between(0, 1).all() or len(rates) != 2 * models["order"].nunique():
    raise ValueError(f"expected a rate for both sets in each order, found {rates.to_dict()}")
if (final["strict"] & ~final["correct"]).any():
    raise ValueError("an answer passed the strict rule and not the lenient one")
untuned = final.loc[(final["role"] == "untuned") & (final["probe"] == "test"), "correct"]
if len(untuned) and untuned.mean() > 0.2:
    raise ValueError(f"the base answers {untuned.mean():.0%} before training: the questions give their answers away")
run.finish("Both sets were asked in each order, and the untuned base does not know the answers.")

# %% [markdown]
# **What this does not show.** Why the order matters. A test has the form of the examples, which the model was trained
# on: whether it would follow an instruction in a form of question that no example had is another matter.
#
# Next: [04-plotting](04-plotting.ipynb).
