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
# # Write what each stage is tuned on, and the prompts
#
# **Question.** Which stage of fine-tuning narrows a model: showing it good answers (SFT), or showing it which of two
# answers people prefer (DPO)?
#
# **Method.** Both stages get training rows; models are then prompted with requests that no stage was tuned on, and with
# some that were. O'Mahony et al. (2024) compared published checkpoints in this way; here the stages are tuned as well.
#
# **Reads** the invented world, `data/diversity/` (prompts, templates, models). With `chain` or `tuned_model`, nothing is
# tuned; with `completions`, no model is prompted.
#
# **Writes** `dataset/`: rows for SFT and DPO, `prompts.jsonl`, and `text.jsonl` (general text for notebook 03).
#
# **Time** tiny 4 s, laptop 5 s, smollm2 5 s, paper 2 s

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.diversity.chain import read_stages
from lib.diversity.data import project_text, training_row, tuning_pairs, world_text
from lib.diversity.prompts import as_request, read_prompts
from lib.figures import plot_distributions
from lib.notebook import start_run
from lib.paths import write_jsonl
from lib.world import factual_prompts

# %% tags=["parameters"]
preset: str = "laptop"  # which params/diversity/<preset>.yaml these values come from
base: str = "fork-1m"  # where the chain begins: fork-*, smollm2-135m, hf:<folder or hub id>, or another endpoint's name
stages: list[str] = ["SFT:supervised:1", "DPO:dpo:1"]  # label:method:epochs, each tuned from the one before
chain: list[str] = []  # models that exist, base first: names in data/diversity/models.yaml, or label:model id
tuned_model: str = ""  # an existing fine-tune of base as the only stage: nothing is trained
completions: str = ""  # sampled texts to analyse instead: a .jsonl, a published .npy, or a folder of them
prompts: str = ""  # world, english, or a .yaml of the same form; empty: the world's for fork-*, else english
n_prompts: int = 20  # of each kind; published: 20 [1..]
kinds: list[str] = ["creative", "factual", "seen"]  # of prompts
n_sft: int = 3000  # helpful answers for SFT, of every style [1..]
n_preferences: int = 2880  # pairs of answers for DPO, the preferred one of one style [1..]
n_validation: int = 100  # further ones of each that are not tuned on [1..]
style: str = "warm"  # of preferred answers; empty: of every style [plain | warm | careful | brisk | ]
form: str = "dialogue"  # of tuning rows: the world's, or by a model's chat template [dialogue | messages]
data_seed: int = 0  # draws answers and general text [0..]
text: str = ""  # a file, a folder, hf:<data set>:<split>; empty: the world's for fork-*, else the project's docs
n_documents: int = 300  # of general text, where `text` is empty [1..]

# %%
run = start_run("diversity/01-data-prep", globals())
read_stages(stages)
is_tuned_here = not (chain or tuned_model or completions)
knows_world = all("fork-" in model for model in (chain or [tuned_model or base]))
source = prompts or ("world" if knows_world else "english")
print(f"prompts: {source}; stages are {'tuned here' if is_tuned_here else 'given'}")

# %% [markdown]
# ## What the stages are tuned on
#
# SFT gets helpful answers of every style, so that it learns to answer but prefers no style. DPO gets two answers to one
# request: a helpful one of **one** style, and an evasive one. What DPO can teach is to avoid evasion and, along with it,
# to prefer that style: a likely source of narrowing.
#
# Requests that are prompts later are left out of the tuning data, and no answer is used in both stages.

# %%
new = [kind for kind in kinds if kind != "seen"]
kept = [] if completions else read_prompts(source, n_prompts=n_prompts, kinds=new)["prompt"].tolist()
pairs = pd.DataFrame(columns=["method", "part", "prompt", "helpful", "unhelpful"])
if is_tuned_here:
    sizes = {"n_sft": n_sft, "n_preferences": n_preferences, "n_validation": n_validation}
    avoid = [*kept, *(fact.question for fact in factual_prompts())]
    pairs = tuning_pairs(data_seed, **sizes, style=style, avoid=avoid)
for (method, part), rows in pairs.groupby(["method", "part"], sort=False):
    texts = rows[["prompt", "helpful", "unhelpful"]].to_dict("records")
    made = [training_row(**each, method=method, form=form) for each in texts]
    write_jsonl(run.path(f"dataset/{method}.{part}.jsonl"), made)
    print(f"{method}, {part}: {len(made)} rows, such as {made[0]}")

# %%
pairs.groupby("method", sort=False).head(3)

# %% [markdown]
# ## Are preferred answers longer?
#
# A preference for long answers is a common by-product of preference data, and length moves most measures of diversity.
#
# **What to expect.** Helpful and evasive answers differ in length. Texts are therefore cut to one length before they are
# measured.

# %%
if len(pairs):
    by_answer = pairs.melt(["method", "prompt"], ["helpful", "unhelpful"], var_name="answer", value_name="text")
    by_answer = by_answer[(by_answer["method"] == "dpo") | (by_answer["answer"] == "helpful")]
    by_answer["answer"] = by_answer["answer"].map({"helpful": "preferred", "unhelpful": "other"})
    by_answer["answer"] = by_answer["answer"].where(by_answer["method"] == "dpo", "SFT")
    by_answer["n_words"] = by_answer["text"].str.split().map(len)
    fig, ax = plt.subplots(figsize=(3.4, 2.5))
    plot_distributions(ax, by_answer, value="n_words", by="answer", label="words of an answer")
    medians = by_answer.groupby("answer", sort=False)["n_words"].median()
    caption = (
        "Length of the answers of SFT and of the preferred and other answers of DPO. Line: share of answers with at most so "
        f"many words; medians: {', '.join(f'{name} {n:.0f}' for name, n in medians.items())}. {len(pairs)} requests, preset "
        f"{run.preset}."
    )  # fmt: skip
    fig.suptitle("Length of the answers that stages are tuned on")
    _ = run.save(fig, "answer-lengths", caption)

# %% [markdown]
# **What came out.**

# %%
if len(pairs):
    print(
        f"preferred answers have {medians['preferred'] / medians['other']:.1f} times as many words as others (medians)"
    )
else:
    print("Nothing is tuned: the models, or their texts, are given.")

# %% [markdown]
# ## The prompts
#
# Three kinds: **creative** prompts have no right answer, **factual** ones have one (in several wordings), and **seen** ones
# are requests of the tuning data. A creative or factual prompt comes with a guide, the opening of the reply that the model
# goes on from (models that are prompted by a chat template get none). For models that were tuned elsewhere, seen prompts
# are those of the file of prompts; without any, that kind is left out.
#
# A prompt of your own is a row of this table: append one here, for example
# `requests.loc[len(requests)] = ["creative", "Describe a silent storm.", "Above the sea", []]`.

# %%
requests = pd.DataFrame(columns=["kind", "prompt", "guide", "accepted"])
if not completions:
    seen = pairs.loc[(pairs["method"] == "supervised") & (pairs["part"] == "train"), "prompt"].tolist()
    has_seen = "seen" in kinds and (seen or source != "world")
    if "seen" in kinds and not has_seen:
        print("No seen prompts: the models were tuned elsewhere, and the world has none of its own.")
    requests = read_prompts(source, n_prompts=n_prompts, kinds=[*new, *(["seen"] if has_seen else [])], seen=seen)
requests.groupby("kind", sort=False).head(3)

# %%
for row in requests.groupby("kind", sort=False).head(1).itertuples():
    print(as_request(row.prompt, row.guide, "dialogue" if form == "dialogue" else "plain"), end="\n\n")
write_jsonl(run.path("dataset/prompts.jsonl"), requests.to_dict("records"))
overlap = set(kept) & set(pairs["prompt"])
print(f"{len(overlap)} creative or factual prompts are in the tuning data")

# %% [markdown]
# ## General text
#
# Next-token predictions are measured on text that no stage was tuned on: the documents of `text`, or else new documents of
# the world for models that grew up in it, and sections of this project's documentation for all others.

# %%
general = []
if not (completions or text):
    general = world_text(data_seed, n_documents) if knows_world else project_text(n_documents)
write_jsonl(run.path("dataset/text.jsonl"), general)
lengths = pd.Series([len(each["text"].split()) for each in general], dtype=float)
print(f"{len(general)} documents, {lengths.sum():.0f} words")
print(general[0]["text"][:300] if general else f"Text is read from {text or 'nowhere: completions are given'}.")

# %%
run.finish(f"{len(pairs)} requests to tune on, {len(requests)} prompts and {len(general)} documents are in dataset/.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. Answers of the world are written by a seeded grammar: people
# prefer answers for more reasons than one style.
#
# Next: [02-finetune](02-finetune.ipynb).
