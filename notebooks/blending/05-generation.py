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
# difference of the small pair act?
#
# **Method.** Every model and blend continues the same openings. The directly tuned big model scores the texts, and at
# each new token of the blend's own texts the most probable token is compared with that of the big model.
#
# **Reads** `dataset/` (openings of test documents, unless `prompts` are given), `finetunes.parquet`, `fits.parquet`.
#
# **Writes** `texts.parquet`, `shift.parquet` and `generation.csv` (their numbers).
#
# **Time** tiny 8 s, laptop 25 s, smollm2 2 min, paper 1 h

# %%
import numpy as np
import pandas as pd

from lib.api import Blend, Request, ask
from lib.blending import fit
from lib.blending.models import blends_of
from lib.blending.predictions import predict
from lib.blending.top_k import aligned
from lib.notebook import start_run
from lib.paths import read_jsonl
from lib.probing import target_logprobs
from lib.stats import cluster_bootstrap, cluster_ratio
from lib.summary import number, summarise, verdict, write_summary
from lib.tokens import tokenize

# %% tags=["parameters"]
preset: str = "laptop"  # which params/blending/<preset>.yaml these values come from
prompts: list[str] = []  # texts to continue; empty for openings of test documents
n_prompts: int = 12  # openings to continue, where no prompts are given [1..]
n_prompt_tokens: int = 16  # tokens of an opening [1..]
n_new_tokens: int = 64  # tokens to write; published: 20 and 50 [1..]
temperature: float = 0.8  # of sampling; 0 is greedy [0..2]
alphas: list[float] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]  # strengths of proxy-tuning
fade_tokens: int = 32  # new tokens over which a fading difference goes to zero [1..]
plausibility: float = 0.0  # tokens below this share of big's most probable one are ruled out [0..1]

# %%
run = start_run("blending/05-generation", globals())
MODELS = fit.MODELS  # big, tuned, base
records = run.params["records"]
row = blends_of(pd.read_parquet(run.need("finetunes.parquet", stage="02"))).iloc[0]
fits = pd.read_parquet(run.need("fits.parquet", stage="03"))
own = fits[(fits["big"] == row["big"]) & (fits["seed"] == row["seed"]) & fits["context_tokens"].isna()]
w_big, w_tuned, w_base = fit.weights_of(own)

# %% tags=["nbval-ignore-output"]
print(f"log-probability of the blend: {w_big:.2f} big + {w_tuned:.2f} tuned - {w_base:.2f} base")
if records:
    print("Published records hold no models to write with: this notebook writes empty tables.")

# %% [markdown]
# ## Everyone continues the same openings
#
# Each contender begins at the prompt itself. (In the published notebook the big model went on from text that the blend
# had already written, and seemed to be in style.)

# %% tags=["nbval-ignore-output"]
if not prompts and not records:
    documents = pd.DataFrame(read_jsonl(run.need("dataset/documents.jsonl", stage="01")))
    tokens = [
        tokenize(run.client(), row["base"], text).texts for text in documents.loc[documents["split"] == "test", "text"]
    ]
    openings = ["".join(each[:n_prompt_tokens]) for each in tokens if len(each) > n_prompt_tokens]
    if not openings:
        raise ValueError(
            f"no test document is longer than {n_prompt_tokens} tokens: lower n_prompt_tokens, or give prompts"
        )
    positions = np.linspace(0, len(openings) - 1, min(n_prompts, len(openings))).round().astype(int)
    prompts = [openings[position] for position in np.unique(positions)]
print(*prompts[:3], sep="\n---\n")

# %% [markdown]
# The server computes the blend at each new token. Its weights are those of a sum, so that the base gets a minus. A
# difference that fades has a factor that falls to 0 over the first tokens.

# %% tags=["nbval-ignore-output"]
tuned, base, weights = row["tuned"], row["base"], (w_big, w_tuned, -w_base)
fading = tuple(np.linspace(1, 0, fade_tokens + 1).round(3).tolist())  # the last factor goes on
writers = [(role, np.nan, row[role], None) for role in ("base", "tuned", "big", "direct") if row[role]]
writers += [("blended", np.nan, row["big"], Blend(tuned, base, weights, plausibility))]
writers += [("alpha", a, row["big"], Blend(tuned, base, (1.0, a, -a), plausibility)) for a in alphas]
writers += [("fade", np.nan, row["big"], Blend(tuned, base, weights, plausibility, fading))]
pairs = [] if records else [(*writer, prompt) for writer in writers for prompt in prompts]
options = {"max_tokens": n_new_tokens, "temperature": temperature, "seed": int(row["seed"])}
requests = [Request(model=model, prompt=prompt, blend=blend, **options) for _, _, model, blend, prompt in pairs]
answers = ask(run.client(), requests, journal=run.path("texts.journal.jsonl"), description="texts") if pairs else []
texts = pd.DataFrame(
    [(name, a, prompt, answer[0].text) for (name, a, _, _, prompt), answer in zip(pairs, answers, strict=True)],
    columns=["contender", "strength", "prompt", "text"],
)
print(f"{len(texts)} texts of {len(writers)} contenders")

# %% tags=["nbval-ignore-output"]
for prompt in prompts[:2] if len(texts) else ():
    print(f"=== {prompt}")
    shown = texts[(texts["prompt"] == prompt) & (texts["strength"].isna() | texts["strength"].isin([0.5, 1.0, 2.0]))]
    for each in shown.itertuples():
        name = each.contender if np.isnan(each.strength) else f"proxy-tuning at strength {each.strength:g}"
        print(f"\n--- {name}\n{each.text[:400]}")
    print()

# %% [markdown]
# ## Would the tuned big model have written that?
#
# The directly tuned big model scores every text.
#
# **What to expect.** Its negative log-likelihood of the blend's texts is lower than of those of the untuned big model, and
# close to that of its own. Over the strength of proxy-tuning it falls and rises again; a difference that fades out loses
# the style again.

# %% tags=["nbval-ignore-output"]
texts["bits"], texts["n_bytes"] = np.nan, texts["text"].str.encode("utf-8").str.len()
written = texts[texts["text"] != ""]
if row["direct"] and len(written):
    judge = {"models": [row["direct"]] * len(written), "journal": run.path("bits.journal.jsonl")}
    logprobs = target_logprobs(run.client(), prompts=written["prompt"], targets=written["text"], **judge)
    texts.loc[written.index, "bits"] = -logprobs / np.log(2)
texts.to_parquet(run.path("texts.parquet"))
numbers = []
for (name, a), part in texts.dropna(subset="bits").groupby(["contender", "strength"], sort=False, dropna=False):
    ratio = cluster_ratio(part["bits"], part["n_bytes"], part["prompt"])
    ratio = number(ratio, metric="bits_under_direct", n_of="prompt", unit="bits per byte")
    numbers.append({"contender": name, "strength": a} | ratio)
numbers = pd.DataFrame(
    numbers, columns=["contender", "strength", "metric", "value", "low", "high", "n", "n_of", "unit"]
)
numbers[["contender", "strength", "value", "low", "high", "n"]]

# %% [markdown]
# ## Where does the difference act?
#
# At each new token of the blend's texts: is the most probable token another than the big model's?
#
# **What to expect.** In the published proxy-tuned texts that was so at nearly every first token, at half of the third ones
# and at a sixth of those after 250.

# %% tags=["nbval-ignore-output"]
positions = []
for each in texts[texts["contender"] == "blended"].itertuples():
    before, whole = (tokenize(run.client(), row["big"], part).items for part in (each.prompt, each.prompt + each.text))
    for p in range(len(before), len(whole)):
        at = {"prompt": each.prompt, "new_token": p - len(before) + 1}
        positions.append(at | {"context": list(whole[:p]), "token": whole[p]})
positions = pd.DataFrame(positions, columns=["prompt", "new_token", "context", "token"])
if len(positions):
    options = {
        "folder": run.path("predictions"),
        "top_k": run.params["top_k"],
        "vocab_tokens": run.params["vocab_tokens"],
    }
    predictions = predict(run.client(), dict.fromkeys(row[list(MODELS)], True), positions, **options)
    part = aligned(*(predictions[row[role]] for role in MODELS), positions["prompt"])
    logp = w_big * part.big + w_tuned * part.tuned - w_base * part.base
    positions["argmax_changed"] = logp.argmax(axis=1) != part.big.argmax(axis=1)
    print(
        f"The most probable token changed at {positions['argmax_changed'].mean():.0%} of {len(positions)} new tokens."
    )
positions.drop(columns="context").to_parquet(run.path("shift.parquet"))

# %% [markdown]
# **What came out.** Texts after the same opening are compared.

# %% tags=["nbval-ignore-output"]
by = {name: texts[texts["contender"] == name].set_index("prompt") for name in ("big", "blended", "direct", "fade")}
bits = pd.DataFrame({name: part["bits"] / part["n_bytes"] for name, part in by.items()}).dropna()
for name in ("big", "fade", "direct") if len(bits) else ():
    more = cluster_bootstrap(bits[name] - bits["blended"], bits.index)
    claim, limits = ("fewer bits per byte than", {"above": 0})
    if name == "direct":
        claim, limits = ("as many bits per byte, within a quarter of a bit, as", {"above": -0.25, "below": 0.25})
    print(f"The blend's texts have {claim} those of {name}: {verdict(more.low, more.high, **limits)} ", end="")
    print(f"({more.value:.2f} [{more.low:.2f}, {more.high:.2f}] fewer, {more.n} openings).")
if 0.0 in alphas and not plausibility and len(texts):
    same = texts.loc[texts["strength"] == 0, "text"].tolist() == by["big"]["text"].tolist()
    print(f"A difference of strength 0 changes no text of the big model: {'held' if same else 'failed'}.")
if len(positions):
    spans = [(1, 3), (n_new_tokens // 2, n_new_tokens)]
    parts = [positions[positions["new_token"].between(*span)] for span in spans]
    early, late = (cluster_bootstrap(each["argmax_changed"], each["prompt"]) for each in parts)
    falls = verdict(early.low - late.high, early.high - late.low, above=0)
    print(f"The most probable token changes more often among the first three than in the second half: {falls} ", end="")
    print(
        f"({early.value:.0%} [{early.low:.0%}, {early.high:.0%}] and {late.value:.0%} [{late.low:.0%}, {late.high:.0%}])."
    )

# %% [markdown]
# ## Write the numbers
#
# New tokens are put together in bands that double in width: 1, 2 and 3, 4 to 7 ...

# %% tags=["nbval-ignore-output"]
bands = positions.assign(contender="blended", new_token=2 ** np.floor(np.log2(positions["new_token"].astype(float))))
if len(bands):
    acts = summarise(bands, by=["contender", "new_token"], value="argmax_changed", cluster="prompt")
    numbers = pd.concat([numbers, acts], ignore_index=True)
numbers = numbers.assign(study="blending", preset=run.preset, model=row["big"])
numbers = write_summary(run.path("generation.csv"), numbers)

# %% [markdown]
# **What this does not show.** A few prompts say little about quality, and likelihood under one model is that model's taste.
# Diversity of texts is a study of its own.
#
# Next: [06-plotting](06-plotting.ipynb).

# %%
run.finish("The texts are in texts.parquet, their numbers in generation.csv.")
