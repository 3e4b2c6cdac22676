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
# # Write with the blend
#
# **Question.** Does the text of the blend read like that of a big model that was tuned, and where in a text does the
# small pair's shift act?
#
# **Reads** `dataset/` (openings of test documents, unless `prompts` are given), `finetunes.parquet`, `fits.parquet`.
#
# **Writes** `texts.parquet`, `shift.parquet`, and its numbers into `generation.csv`.
#
# **Time** tiny 8 s, laptop 25 s, books 90 s, paper 1 h

# %%
import pandas as pd

from lib.blending import weights_of
from lib.blending.generating import add_bits, contenders, generate_texts, shift_places
from lib.blending.stages import run_models, run_prompts
from lib.blending.text_summary import summarise_texts
from lib.notebook import start_run
from lib.tables import write_summary

# %% tags=["parameters"]
preset: str = "tiny"  # which params/blending/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/blending
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
records: str = ""  # folder of published raw results to analyse instead of asking models
prompts: list[str] = []  # texts to be continued; empty for openings of test documents
n_prompts: int = 2  # openings to continue, where no prompts are given [1..]
n_prompt_tokens: int = 8  # tokens of an opening [1..]
n_new_tokens: int = 16  # tokens to write; published: 20 and 50 [1..]
temperature: float = 0.8  # of sampling; 0 is greedy [0..2]
alphas: list[float] = [0.0, 1.0]  # strengths of the shift in the sweep
fade_tokens: int = 8  # new tokens over which a fading shift goes to zero [1..]
plausibility: float = 0.0  # tokens below this share of big's likeliest are ruled out [0..1]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("blending/05-generation", globals())
models = run_models(run)
fits = pd.read_parquet(run.need("fits.parquet", stage="03"))
seed_used, big = min(models.tuned), models.bigs[0]
tuned, direct = models.tuned[seed_used], models.direct.get((big, seed_used), "")
weights = weights_of(fits[(fits["big"] == big) & (fits["seed"] == seed_used)])

# %% [markdown]
# ## Everyone continues the same prompts
#
# Each contender begins at the prompt itself. (In the published notebook the big model went on from text that the blend
# had already written, and seemed to be in style.)

# %% tags=["nbval-ignore-output"]
if records:
    print("Published records hold no models to write with: this stage is skipped.")
    texts = pd.DataFrame(columns=["condition", "x", "prompt", "text", "bits", "n_bytes"])
else:
    client = run.client()
    chosen = run_prompts(run, models)
    who = contenders(
        big=big, tuned=tuned, base=models.base, direct=direct, weights=weights, alphas=alphas, fade_tokens=fade_tokens,
        plausibility=plausibility,
    )  # fmt: skip
    journal = run.path("texts.journal.jsonl")
    settings = {"max_tokens": n_new_tokens, "temperature": temperature, "seed": seed_used}
    texts = generate_texts(client, chosen, who, journal=journal, **settings)

# %% tags=["nbval-ignore-output"]
for row in texts[texts["prompt"] == texts["prompt"].iloc[0]].to_dict("records") if len(texts) else []:
    strength = "" if pd.isna(row["x"]) else f" {row['x']:g}"
    print(f"--- {row['condition']}{strength}: {row['prompt']} | {row['text'][:240]}")

# %% [markdown]
# ## Would the tuned big model have written that?
#
# The directly tuned big model scores every text (NLL: negative log-likelihood). **Prediction.** The blend's texts have
# a lower NLL than those of the untuned big model, about as little as its own; in the alpha sweep the NLL falls up to some
# strength and rises beyond it; a shift that fades out loses the style again.

# %% tags=["nbval-ignore-output"]
if direct and len(texts):
    texts = add_bits(client, texts, judge=direct, journal=run.path("bits.journal.jsonl"))
    means = (
        texts[texts["bits"].notna()].groupby(["condition", "x"], sort=False, dropna=False)[["bits", "n_bytes"]].sum()
    )
    print((means["bits"] / means["n_bytes"]).rename("bits per byte under the directly tuned big model"))
texts.to_parquet(run.path("texts.parquet"))

# %% [markdown]
# ## Where does the shift act?
#
# At each new token of the blend's texts: is the blend's likeliest token another than the big model's? In the published
# proxy-tuned texts that was so at nearly every first token, at half of the third ones and at a sixth of those after 250.

# %% tags=["nbval-ignore-output"]
shift = pd.DataFrame(columns=["prompt", "place", "changed"])
if len(texts):
    blended = texts[texts["condition"] == "blended"]
    three = {"big": big, "tuned": tuned, "base": models.base}
    shift = shift_places(client, blended, **three, weights=weights, folder=run.path("distributions"))
    print(f"The likeliest token changed at {shift['changed'].mean():.0%} of {len(shift)} new tokens.")
shift.to_parquet(run.path("shift.parquet"))

# %%
numbers = summarise_texts(texts, shift, preset=run.preset, big=big, rng=run.rng)
write_summary(run.path("generation.csv"), numbers)
if 0.0 in alphas and len(texts):
    same = [texts.loc[texts["condition"].eq("alpha") & texts["x"].eq(0), "text"].tolist()]
    same.append(texts.loc[texts["condition"] == "big", "text"].tolist())
    if plausibility == 0 and same[0] != same[1]:
        raise ValueError("a shift of strength zero changed the big model's text")
run.finish("A shift of strength zero changes no text.")

# %% [markdown]
# **What this does not show.** A few prompts say little about quality, and likelihood under one model is that model's taste.
# Diversity of the texts is a study of its own.
#
# Next: [06-plotting](06-plotting.ipynb).
