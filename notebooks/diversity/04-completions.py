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
# # Let every stage write
#
# **Question.** Given one prompt many times, how different are a model's answers, and does it choose at random where a
# prompt asks for that?
#
# **Method.** Many samples per prompt and temperature from every stage; the probabilities of the valid answers to requests
# for a random choice; and the most probable text of each stage.
#
# **Reads** `finetunes.parquet` (notebook 02), `dataset/prompts.jsonl` (notebook 01); or `completions`.
#
# **Writes** `completions.jsonl` (every text with token ids, log-probabilities and settings) and `options.csv`.
#
# **Time** tiny 15 s, laptop 1 min per seed, smollm2 5 min, paper 6 h

# %%
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.diversity.prompts import read_choices
from lib.diversity.published import read_completions
from lib.diversity.sampling import likeliest_texts, option_probs, sample
from lib.figures import plot_distributions, plot_rates, plot_tokens
from lib.notebook import start_run
from lib.paths import from_root, read_jsonl, write_jsonl

# %% tags=["parameters"]
preset: str = "laptop"  # which params/diversity/<preset>.yaml these values come from
chain: list[str] = []  # models that exist, base first; with completions, the order of their labels
completions: str = ""  # sampled texts to analyse instead: a .jsonl, a published .npy, or a folder of them
prompts: str = ""  # world, english, or a .yaml of the same form; empty: the world's for fork-*, else english
temperatures: list[float] = [0.1, 0.5, 1.0, 1.5]  # published: 0.1, 0.2 ... 1.5 [0..2]
n_samples: int = 25  # of each prompt and temperature; published: 25 [2..1000]
max_tokens: int = 40  # of an answer; published: 70 [1..]
max_tokens_factual: int = 16  # of an answer to a factual prompt; published: 25 [1..]
stop: list[str] = ["\nGuest:"]  # where an answer ends, beside the end of text
n_texts: int = 2  # prompts whose most probable texts are shown [0..20]

# %%
run = start_run("diversity/04-completions", globals())
models = pd.read_parquet(run.need("finetunes.parquet", stage="02"))
journal = run.path("answers.journal.jsonl")

# %% [markdown]
# ## Sample
#
# The whole distribution is drawn from: no top k, top p of 1 (the published runs took a library's defaults, which cut to the
# 50 most probable tokens), each sample with a seed of its own. Texts that are given keep their own settings; the order of
# their stages is printed, since every difference below depends on it.

# %% tags=["nbval-ignore-output"]
requests = pd.DataFrame(read_jsonl(run.need("dataset/prompts.jsonl", stage="01")))
if completions:
    texts, origin = read_completions(from_root(completions), chain)
else:
    limits = {"creative": max_tokens, "seen": max_tokens, "factual": max_tokens_factual}
    drawing = {"temperatures": temperatures, "n_samples": n_samples, "max_tokens": limits, "stop": stop}
    texts, origin = sample(run.client(), models, requests, **drawing, seed=run.seed, journal=journal), "notebook 02"
write_jsonl(run.path("completions.jsonl"), texts.to_dict("records"))
for family, rows in texts.groupby("family", sort=False):
    print(f"{family}: stages in the order {' -> '.join(rows['stage'].unique())} (from {origin})")
texts.groupby(["family", "stage", "kind", "temperature"], sort=False).size().unstack()

# %% [markdown]
# Look at some: the first two samples of each stage at the temperature closest to 1.

# %% tags=["nbval-ignore-output"]
main = texts["family"].iloc[0]
about = f"{main}, {len(run.seeds)} fine-tune(s) per stage, preset {run.preset}"
near = texts["temperature"].iloc[(texts["temperature"] - 1).abs().argmin()]
shown = texts[(texts["family"] == main) & (texts["temperature"] == near)]
examples = shown[shown["prompt"] == shown.groupby("kind", sort=False)["prompt"].transform("first")]
for (kind, prompt), rows in examples.groupby(["kind", "prompt"], sort=False):
    print(f"{kind}: {prompt}")
    for row in rows.groupby("stage", sort=False).head(2).itertuples():
        print(f"    {row.stage}: {textwrap.shorten(row.text, 100)}")

# %% [markdown]
# ## How long are the texts?
#
# **What to expect.** SFT makes answers longer than a base's or ends them sooner. Short texts share fewer words, whatever the
# model, so notebook 05 cuts all to one length and counts those that are shorter.

# %% tags=["nbval-ignore-output"]
words = texts.assign(n_words=texts["text"].str.split().map(len))
own = words[words["family"] == main]
fig, ax = plt.subplots(figsize=(3.4, 2.5))
plot_distributions(ax, own, value="n_words", by="stage", label="words of a text")
caption = (
    "Length of the texts of each stage, before they are cut to one length. Line: share of texts with at most so many words, "
    f"all kinds and temperatures. {len(own)} texts, {about}."
)
fig.suptitle("Length of what each stage writes")
_ = run.save(fig, "text-lengths", caption)
words.groupby(["family", "stage", "kind"], sort=False)["n_words"].describe().drop(columns=["std", "min"])

# %% [markdown]
# ## Pick a number
#
# Where a prompt asks for a random choice, an even one gives each answer the same probability. It can be read off without
# drawing: how probable is each valid answer, of all that could follow?
#
# **What to expect.** No stage chooses evenly, and tuning moves probability to a few favourites.

# %% tags=["nbval-ignore-output"]
options = pd.DataFrame(columns=["family", "stage", "seed", "prompt", "option", "prob"])
if len(models):
    choices = read_choices(prompts or "english")
    options = option_probs(run.client(), models, choices, journal=journal)[list(options)]
options.to_csv(run.path("options.csv"), index=False, float_format="%.6g")
by_prompt = options.groupby(["family", "stage", "seed", "prompt"], sort=False)["prob"]
shares = options.assign(share=options["prob"] / by_prompt.transform("sum"))
by_prompt.agg(valid="sum", most_probable="max").groupby(["family", "stage"], sort=False).mean()

# %% tags=["nbval-ignore-output"]
if shares["share"].notna().any():
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.8))
    own = shares[shares["family"] == main]
    for ax, (prompt, rows) in zip(axs, own.groupby("prompt", sort=False), strict=False):
        points = rows.groupby(["option", "stage"], sort=False)["share"].agg(value="mean", low="min", high="max")
        even = 1 / rows["option"].nunique()
        plot_rates(ax, points.reset_index(), group="option", by="stage", chance=even, legend=ax is axs[-1])
        ax.set(xlabel=textwrap.fill(prompt, 40), ylabel="share of valid answers" if ax is axs[0] else "")
        ax.tick_params(axis="x", rotation=60)
    caption = (
        "Share of the probability of all valid answers that each has, where a prompt asks for a random choice. Point: mean "
        f"over fine-tunes, bar: their range; dashed: an even choice. {about}."
    )
    fig.suptitle("Answers to requests for a random choice")
    _ = run.save(fig, "random-choice", caption)

# %% [markdown]
# ## The most probable text
#
# Greedy continuations, each token on the colour of its probability.

# %% tags=["nbval-ignore-output"]
if len(models) and n_texts:
    likeliest = likeliest_texts(run.client(), models, requests[:n_texts], max_tokens=max_tokens, journal=journal)
    own = likeliest[(likeliest["family"] == main) & (likeliest["prompt"] == likeliest["prompt"].iloc[0])]
    own = own.drop_duplicates("stage")
    fig, axs = plt.subplots(len(own), 1, figsize=(6.8, 0.3 + 0.85 * len(own)), squeeze=False)
    for ax, row in zip(axs[:, 0], own.itertuples(), strict=True):
        ax.set_title(row.stage, loc="left", fontsize="small")
        plot_tokens(ax, row.tokens, np.exp(row.token_logprobs), bar=ax is axs[0, 0])
    caption = (
        "The greedy continuation of each stage, each token on the colour of its probability. Prompt: "
        f"{own['prompt'].iloc[0]!r}, opening {own['guide'].iloc[0]!r}. {about}."
    )
    fig.suptitle("The most probable text of each stage")
    _ = run.save(fig, "likeliest", caption)

# %%
run.finish(f"{len(texts)} texts are in completions.jsonl.")

# %% [markdown]
# **What this does not show.** Whether the texts are diverse: that needs measures, and there are many.
#
# Next: [05-measures](05-measures.ipynb).
