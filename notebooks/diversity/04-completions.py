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
# # Let every stage write, and measure how alike its texts are
#
# **Question.** Asked the same thing many times, how different are a model's answers, and which stage changes that? Where an
# answer is right or wrong, is it less diverse because it is less often wrong?
#
# **Reads** `finetunes.parquet` (notebook 02), `dataset/prompts.jsonl` (notebook 01), `next-token/` (notebook 03); or
# `completions`.
#
# **Writes** `completions.jsonl` (every text with token ids, log-probabilities and settings), `measured.parquet` (every
# measure of every cell), `summary.csv` (every number), `differences.csv` and `shares.csv` (stage against stage),
# `options.csv`.
#
# **Time** tiny 20 s, laptop 90 s, paper 6 h

# %%
import textwrap
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.diversity import (
    compare_measures,
    cut_to_length,
    equal_correct,
    failures,
    given_completions,
    greedy_texts,
    length_table,
    measure,
    number_prompts,
    option_probs,
    option_rates,
    sample,
    stored_prompts,
    summarise_completions,
    write_completions,
)
from lib.diversity.embeddings import embedder
from lib.figures import plot_distributions, plot_rates, plot_tokens
from lib.notebook import start_run
from lib.paths import from_root
from lib.tables import read_summary, write_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/diversity/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/diversity
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # chains that differ in nothing but their seed [1..20]
completions: str = ""  # sampled texts to analyse instead: a .jsonl, a published .npy, or a folder of them
prompts: str = "world"  # what is asked: world (fork-*), english, or a .yaml of the same form
temperatures: list[float] = [0.1, 0.7, 1.5]  # published: 0.1, 0.2 ... 1.5 [0..2]
n_samples: int = 6  # of each prompt and temperature; published: 25 [2..1000]
max_tokens: int = 20  # of an answer; published: 70 [1..]
max_tokens_factual: int = 12  # of an answer to a factual prompt; published: 25 [1..]
stop: list[str] = ["\nGuest:"]  # where an answer ends, beside the end of text
n_tokens: int = 12  # texts are cut to so many tokens before they are measured; 0: not at all [0..]
embedding_model: str = ""  # of sentence-transformers (organisation/name), or an id; empty: hidden states of the base
n_texts: int = 2  # likeliest texts of each model that are shown with their probabilities [0..20]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("diversity/04-completions", globals())
models = pd.read_parquet(run.need("finetunes.parquet"))
journal = run.path("answers.journal.jsonl")

# %% [markdown]
# ## Sample
#
# The whole distribution is drawn from: no top k, top p of 1 (the published runs took a library's defaults, which cut to the
# 50 likeliest tokens), each sample with a seed of its own.

# %% tags=["nbval-ignore-output"]
if completions:
    texts = given_completions(from_root(completions))
else:
    limits = {"creative": max_tokens, "seen": max_tokens, "factual": max_tokens_factual}
    asked = stored_prompts(run.need("dataset/prompts.jsonl", stage="01").parent)
    drawing = {"temperatures": temperatures, "n_samples": n_samples, "max_tokens": limits, "stop": stop}
    texts = sample(run.client(), models, asked, **drawing, seed=run.seed, journal=journal)
    write_completions(run.path("completions.jsonl"), texts)
main = texts["family"].iloc[0]
of_what = f"{main}, {n_seeds} fine-tune(s) a stage, preset {run.preset}"
texts.groupby(["family", "model", "kind", "temperature"], sort=False).size().unstack()

# %% [markdown]
# ## How long are they?
#
# **Prediction.** SFT makes answers longer than a base's or ends them sooner; short texts share fewer words, whatever the
# model. So all are cut to the same number of tokens, and those that had fewer are counted.

# %% tags=["nbval-ignore-output"]
cut = cut_to_length(texts, n_tokens)
fig, ax = plt.subplots(figsize=(3.4, 2.3))
words = texts.assign(n_words=texts["text"].str.split().map(len), stage=texts["model"])
plot_distributions(ax, words[words["family"] == main], value="n_words", by="stage", label="words of a text")
caption = (
    "Length of what each stage writes, before it is cut to one length. Line: share of texts with at most so many words, all "
    f"kinds and temperatures. {len(words)} texts in all, {of_what}."
)
_ = run.save(fig, "text-lengths", caption)

# %% tags=["nbval-ignore-output"]
lengths = length_table(texts, by=["model", "kind"]).set_index(["model", "kind"])
lengths.assign(short_rate=cut.groupby(["model", "kind"])["is_short"].mean())

# %% [markdown]
# ## Measure
#
# Every measure of `data/diversity/measures.csv`, in every cell (model, fine-tune, kind, prompt, temperature). A cell that
# has no value of a measure is counted with its reason, never passed over in silence.

# %% tags=["nbval-ignore-output"]
keys = ["model", "family", "seed", "kind", "prompt", "temperature"]
first = models["model"].iloc[0] if len(models) else ""
embed = embedder(run.client(), model=first, name=embedding_model) if first or embedding_model else None
taken = partial(measure, by=keys, embed=embed, seed=run.seed)
measured = taken(cut)
measured.to_parquet(run.path("measured.parquet"))
failures(measured).head(10)

# %% [markdown]
# ## Among right answers only
#
# **Prediction.** Tuning makes factual answers more often right, and right answers to one question are alike. If that were
# all, right answers alone would be as diverse after a stage as before it. Sets are made equal in size first, since most
# measures grow with the number of texts.

# %% tags=["nbval-ignore-output"]
right = equal_correct(cut) if "accepted" in cut else cut.head(0)
among_right = taken(right) if len(right) else measured.head(0)
right.groupby(["family", "model"], sort=False).size() if len(right) else "No right answers."

# %% [markdown]
# ## Pick a number, and say it again
#
# Asked for a random choice, an even one gives each answer as much (dashed). How probable each answer is can be read off
# without drawing. **Prediction.** No stage chooses evenly; tuning moves probability to a few favourites.

# %% tags=["nbval-ignore-output"]
if len(models):
    options = option_probs(run.client(), models, number_prompts(prompts), journal=journal)
    likeliest = greedy_texts(run.client(), models, asked[:n_texts], max_tokens=max_tokens, journal=journal)
else:
    options, likeliest = pd.DataFrame(columns=["family", "model", "seed", "prompt", "option", "prob"]), pd.DataFrame()
options.to_csv(run.path("options.csv"), index=False, float_format="%.6g")
options.groupby(["model", "prompt"], sort=False)["prob"].agg(["sum", "max"]).head(12)

# %% tags=["nbval-ignore-output"]
if len(options):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6))
    first_two = list(dict.fromkeys(options["prompt"]))[:2]
    for ax, prompt in zip(axs, first_two, strict=True):
        rows = option_rates(options, prompt, family=main)
        even = 1 / rows["option"].nunique()
        plot_rates(ax, rows, group="option", by="stage", chance=even, legend=ax is axs[-1])
        ax.set(xlabel=textwrap.fill(prompt, 40), ylabel="share of valid answers")
        ax.tick_params(axis="x", rotation=60)
    caption = (
        "Asked for a random choice, what would each stage say? Point: probability of an answer among the valid ones, mean "
        f"over fine-tunes; dashed: an even choice. {of_what}."
    )
    _ = run.save(fig, "random-choice", caption)

# %% [markdown]
# ## The likeliest text, each token on the colour of its probability

# %% tags=["nbval-ignore-output"]
if len(likeliest):
    shown = likeliest[(likeliest["family"] == main) & (likeliest["prompt"] == likeliest["prompt"].iloc[0])]
    shown = shown.drop_duplicates("model")
    fig, axs = plt.subplots(len(shown), 1, figsize=(6.8, 0.85 * len(shown)), squeeze=False)
    for ax, row in zip(axs[:, 0], shown.itertuples(), strict=True):
        ax.set_title(row.model, loc="left", fontsize="small")
        plot_tokens(ax, row.tokens, np.exp(row.token_logprobs), bar=ax is axs[0, 0])
    caption = (
        "The likeliest continuation under each stage, each token on the colour of its probability. Prompt: "
        f"{shown['prompt'].iloc[0]!r}, opening {shown['guide'].iloc[0]!r}. {of_what}."
    )
    _ = run.save(fig, "likeliest", caption)

# %% [markdown]
# ## Stage against stage
#
# Pairs by prompt, temperature and fine-tune; prompts are drawn whole; Holm corrects over measures. `shares` says what part
# of the whole change each stage makes.

# %% tags=["nbval-ignore-output"]
before = read_summary(run.need("next-token/summary.csv", stage="03"))
own = summarise_completions(measured, among_right, options, preset=run.preset, rng=run.rng)
summary = pd.concat([before, own], ignore_index=True)
write_summary(run.path("summary.csv"), summary)

# %% tags=["nbval-ignore-output"]
for name, own in zip(("differences", "shares"), compare_measures(measured, rng=run.rng), strict=True):
    statistics = pd.read_csv(run.need(f"next-token/{name}.csv", stage="03"))
    both = pd.concat([table for table in (statistics, own) if len(table)] or [own], ignore_index=True)
    both.to_csv(run.path(f"{name}.csv"), index=False, float_format="%.6g")
shown = both[both["measure"].isin(["entropy_of_mean", "mean_entropy", "jaccard_2", "cosine", "vendi_cosine"])]
shown[["family", "kind", "measure", "stage", "value", "low", "high", "total"]]

# %%
sizes = measured.drop_duplicates(keys)["n_texts"]
if not completions and not (sizes == n_samples).all():
    raise ValueError(f"cells hold {sizes.min()} to {sizes.max()} texts, {n_samples} were asked for")
if measured["value"].isna().ne(measured["failure"] != "").any():
    raise ValueError("a value is missing without a reason, or has one")
run.finish("Every cell holds the texts that were asked for, and every missing value has its reason.")

# %% [markdown]
# **What this does not show.** No measure of words says whether texts are good, or mean different things: random letters
# are most diverse of all. Accuracy stands beside diversity for that reason.
#
# Next: [05-plotting](05-plotting.ipynb).
