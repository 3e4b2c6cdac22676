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
# # Ask in the order told, and in reverse
#
# **Question.** The model goes on from "A is" with "B". Does it go on from "B is" with "A", or does it at least find A
# more likely there than another name?
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every question with its answer and scores) and `summary.csv` (every number).
#
# **Time** tiny 12 s, laptop 50 s, paper 10 h
#
# The outputs kept with this page are the tiny run, which is too short to learn a fact in any order.

# %%
import pandas as pd

from lib.notebook import start_run
from lib.reversal import add_logprobs, answer_rows, curve_models, final_models, probe_rows, read_dataset, summarise
from lib.tables import ANSWERS, write_summary, write_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/reversal/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/reversal
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
n_train_rows: int = 6  # training prompts asked again in each group [1..]
n_curve_phrasings: int = 1  # questions about each person and order at every epoch [1..]
max_tokens: int = 48  # of an answer; longer than the longest target [1..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("reversal/03-evaluation", globals())
client = run.client()
data = read_dataset(run.need("dataset", stage="01"))
models = pd.read_parquet(run.need("finetunes.parquet"))
probes = probe_rows(data, n_train_rows=n_train_rows, rng=run.rng)
journal = run.path("answers.journal.jsonl")

# %% [markdown]
# ## What is asked
#
# Three kinds of question. **test**: new wordings, in the same direction as training or in reverse. **train**: sentences
# seen in training, to see whether anything was memorised. **in-context**: the reverse questions once more, but with the
# fact itself put in front, in the order it was told. A model that fails in reverse and passes this can turn a fact around
# when it reads it, and cannot when it has to remember it.

# %%
probes.groupby(["probe", "condition"], sort=False).agg(questions=("prompt", "size"), people=("person", "nunique"))

# %%
for probe, rows in probes[probes["group"] != "both"].groupby("probe", sort=False):
    row = rows.iloc[-1]
    print(f"{probe}: {row['prompt']} |{row['target']}")

# %% [markdown]
# ## Ask
#
# Greedy answers (temperature 0). An answer is on disk before it counts, so a killed run asks only what is missing.
# Besides the final models, the main ones are asked a few questions after every epoch, and before the first.

# %% tags=["nbval-ignore-output"]
final = answer_rows(client, final_models(models), probes, journal=journal, max_tokens=max_tokens)
few = probes[(probes["probe"] == "test") & (probes["phrasing"] < n_curve_phrasings)]
over_epochs = answer_rows(client, curve_models(models), few, journal=journal, max_tokens=max_tokens)
print(f"{len(final)} answers of final models, {len(over_epochs)} over the epochs")

# %% [markdown]
# ## How it was scored
#
# *exact match* is the published rule: the answer, in lower case, starts with the target. *strict match* wants the
# target and nothing else (a name may be followed by more of a sentence, not by more letters).

# %% tags=["nbval-ignore-output"]
shown = final[(final["probe"] == "test") & (final["role"] == "main")]
shown.groupby("condition").head(1)[["condition", "prompt", "target", "completion", "correct"]]

# %% [markdown]
# ## Log-probabilities: is there anything below the surface?
#
# An exact match of zero could hide a slight preference for the right name. So each target's log-probability is compared
# with that of somebody else's target after the same prompt, and the right name is ranked among all names of its group.

# %% tags=["nbval-ignore-output"]
final = add_logprobs(client, final, journal=journal)
answers = pd.concat([final, over_epochs], ignore_index=True)
write_table(run.path("answers.parquet"), answers, ANSWERS)
final.groupby("condition")[["target_logprob", "control_logprob"]].mean().dropna()

# %% [markdown]
# ## The numbers
#
# **Prediction.** Same direction: high for the description-first group (a name is short), lower for the person-first
# group (a description must be right to its last word). Reverse: zero or close to it in both. Reverse with the fact in
# the prompt: far above zero in a model that can read (a model of a million weights may not). *No curse* would look like
# reverse figures that approach the same-direction ones.
#
# Intervals resample people, and fine-tunes where there are several, never questions about the same person.

# %% tags=["nbval-ignore-output"]
sizes = {each: client.models.retrieve(each).model_dump().get("n_weights") for each in sorted(set(final["base"]))}
main = models.loc[models["role"] == "main", "base"].iloc[0]
summary = summarise(answers, preset=run.preset, main_base=main, n_weights=sizes, rng=run.rng)
write_summary(run.path("summary.csv"), summary)
headline = summary[summary["metric"].isin(["exact_match", "train_exact_match"]) & (summary["x_name"] == "")]
headline[["condition", "metric", "value", "low", "high", "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
tests = summary[~summary["metric"].str.contains("match")]
tests[["condition", "metric", "value", "low", "high", "n", "unit"]]

# %% [markdown]
# A p-value near zero in a reverse row would mean that the right target *is* preferred a little, even where it is never
# said. The person-clustered permutation test is the one to read: the t and KS tests mirror the published analysis,
# which takes the questions about one person for independent.

# %%
tested = final[(final["probe"] == "test") & (final["role"] == "main")]
reverse = tested.loc[tested["direction"] == "reverse", "correct"].mean()
same = tested.loc[tested["direction"] == "same", "correct"].mean()
if not 0 <= reverse <= same <= 1:
    raise ValueError(
        f"reverse questions were answered better than same-direction ones: {reverse:.3f} against {same:.3f}"
    )
if (final["strict"] & ~final["correct"]).any():
    raise ValueError("an answer passed the strict rule and not the lenient one")
run.finish("Reverse questions were answered no better than those in the order of training.")

# %% [markdown]
# **What this does not show.** Greedy answers leave out what sampling might find, and log-probabilities of one wrong
# target a question are a small sample of all wrong ones. A tiny model that fails in reverse does not prove that a
# larger one must; that is what the curve over size, and the published values, are for.
#
# Next: [04-plotting](04-plotting.ipynb).
