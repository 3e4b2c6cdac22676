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
# # Write what each stage is tuned on, and what will be asked
#
# **Question.** Which stage of fine-tuning narrows a model: showing it good answers (SFT), or showing it which of two
# answers people prefer (DPO)? Both stages need data, and both need to be asked about something they were not tuned on.
#
# **Reads** the invented world, `data/diversity/` (prompts, templates, models). With `chain` or `tuned_model`, nothing is
# tuned; with `completions`, nothing is asked.
#
# **Writes** `dataset/`: rows for SFT and DPO, `prompts.jsonl`, and `text.jsonl` (general text for notebook 03).
#
# **Time** tiny 4 s, laptop 5 s, paper 2 s

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.diversity import answer_lengths, as_asked, write_dataset
from lib.figures import plot_distributions
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/diversity/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/diversity
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # chains that differ in nothing but their seed [1..20]
stages: list[str] = ["SFT:supervised:1", "DPO:dpo:1"]  # label:method:epochs, each tuned from the one before
chain: list[str] = []  # models that exist, base first: names in data/diversity/models.yaml, or label:model id
tuned_model: str = ""  # an existing fine-tune of base as the only stage: nothing is trained
completions: str = ""  # sampled texts to analyse instead: a .jsonl, a published .npy, or a folder of them
prompts: str = "world"  # what is asked: world (fork-*), english, or a .yaml of the same form
n_prompts: int = 2  # of each kind [1..20]
kinds: list[str] = ["creative", "factual", "seen"]  # of prompts
n_sft: int = 96  # helpful answers that SFT is shown, of every style [1..]
n_preferences: int = 64  # pairs of answers for DPO, the preferred one of one style [1..]
n_validation: int = 16  # further ones of each that are not tuned on [1..]
style: str = "warm"  # of preferred answers; empty: of every style [plain | warm | careful | brisk | ]
form: str = "dialogue"  # of tuning rows: the world's, or by a model's chat template [dialogue | messages]
data_seed: int = 0  # draws answers and general text [0..]
text: str = ""  # general text: .txt, .jsonl(.zst), a folder, hf:<data set>:<split>; empty: the world's
n_documents: int = 60  # of general text that the world writes [1..]

# %%
run = start_run("diversity/01-data-prep", globals())
data, asked = (None, []) if completions else write_dataset(run.params, run.path("dataset/text.jsonl").parent)

# %% [markdown]
# ## What the stages see
#
# SFT sees helpful answers of every style, so that it learns to answer but prefers no style. DPO sees two answers to one
# request: a helpful one of **one** style, and an evasive one. What DPO can teach is to avoid evasion, and, unasked, to
# prefer that style: a likely source of narrowing.

# %%
if data:
    for pair in (data.sft[0], data.preferences[0]):
        print(f"request   {pair.prompt}\nhelpful   {pair.helpful}\nunhelpful {pair.unhelpful}\n")
else:
    print("Nothing is tuned: the models, or their texts, are given.")

# %% [markdown]
# ## Are preferred answers longer?
#
# A preference for long answers is a common by-product of preference data, and length moves most measures of diversity.
# **Prediction:** helpful and evasive answers differ in length, so that lengths have to be looked at (and texts cut to one
# length) before any measure is believed.

# %%
if data:
    fig, ax = plt.subplots(figsize=(3.4, 2.3))
    lengths = answer_lengths(data)
    plot_distributions(ax, lengths, value="n_words", by="answer", label="words of an answer")
    caption = (
        "Preferred answers and those of SFT are longer than evasive ones. Line: share of answers that have at most so many "
        f"words. {len(data.sft)} answers of SFT, {len(data.preferences)} pairs of DPO, preset {run.preset}."
    )
    _ = run.save(fig, "answer-lengths", caption)

# %% [markdown]
# ## What will be asked
#
# Three kinds: **creative** prompts have no right answer, **factual** ones have one (in several wordings), **seen** ones
# stood in the tuning data. No creative or factual prompt did. Every prompt comes with a guide, the opening of the reply
# that the model goes on from; each has a guide of its own, and one template asks all models alike unless `template` says
# otherwise. (The published runs asked each model by a template of its own, and let prompts share a guide.)

# %%
table = pd.DataFrame([{"kind": each.kind, "prompt": each.prompt, "guide": each.guide} for each in asked])
table.groupby("kind", sort=False).head(2) if len(table) else table

# %%
print(as_asked(asked[0], "dialogue") if asked else "Nothing is asked.")

# %%
if data:
    tuned_on = {pair.prompt for part in (data.sft, data.preferences) for pair in part}
    new = {each.prompt for each in asked if each.kind != "seen"}
    if tuned_on & new:
        raise ValueError(f"{len(tuned_on & new)} creative or factual prompts stand in the tuning data")
    both = {(pair.prompt, pair.helpful) for pair in data.sft} & {
        (pair.prompt, pair.helpful) for pair in data.preferences
    }
    if both:
        raise ValueError(f"{len(both)} answers stand in both stages' data")
run.finish("No new prompt stands in the tuning data, and no answer in the data of both stages.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. Answers of the world are written by a seeded grammar: people
# prefer for more reasons than one style.
#
# Next: [02-finetune](02-finetune.ipynb).
