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
# # Measure how diverse the texts are, and which stage changes that
#
# **Question.** Which stage makes the texts to one prompt more alike? Where an answer is right or wrong, is a model less
# diverse because it is less often wrong? And do the published readings hold here?
#
# **Method.** The 20 published measures and a few more, for every set of texts to one prompt. Stages are paired by prompt and
# temperature; six measures that were chosen beforehand are tested, with Holm's correction.
#
# **Reads** `completions.jsonl` and `options.csv` (notebook 04), `next_token.csv` (notebook 03), `finetunes.parquet`
# (notebook 02), `data/diversity/` (measures and published values).
#
# **Writes** `measured.parquet` (every measure of every set of texts), `reading.csv` (beside the published) and `summary.csv`.
#
# **Time** tiny 15 s, laptop 1 min per seed, smollm2 1 min, paper 1 h

# %%
import numpy as np
import pandas as pd

from lib.diversity.measures import contains_answer, direction, read_measures
from lib.diversity.measuring import cut_to_length, embedder, measure, over_prompts, share_seeds
from lib.notebook import start_run
from lib.paths import DATA, read_jsonl
from lib.stats import cluster_permutation, holm
from lib.summary import verdict, write_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/diversity/<preset>.yaml these values come from
n_tokens: int = 16  # texts are cut to so many tokens before they are measured; 0: not at all [0..]
embedding_model: str = ""  # of sentence-transformers (organisation/name), or an id; empty: hidden states of the base

# %%
run = start_run("diversity/05-measures", globals())
texts = pd.DataFrame(read_jsonl(run.need("completions.jsonl", stage="04")))
models = pd.read_parquet(run.need("finetunes.parquet", stage="02"))
first = models["model"].iloc[0] if len(models) else ""
embed = embedder(run.client(), model=first, name=embedding_model) if first or embedding_model else None

# %% [markdown]
# ## What is measured, on a handful of texts
#
# Four texts to one prompt. The **Jaccard** index of two texts is the share of their word pairs that both have; its mean over
# pairs of texts is low where texts differ. The **Vendi score** is the exponential of the entropy of the eigenvalues of a
# matrix of similarities: with four texts it goes from 1 (all the same) to 4 (nothing in common), and is read as an
# effective number of texts. Similarities are Jaccard indices, or cosines of embeddings.

# %% tags=["nbval-ignore-output"]
few = texts["text"].iloc[:4].tolist()
pairs = [set(zip(text.lower().split(), text.lower().split()[1:], strict=False)) for text in few]
similarity = np.array([[len(a & b) / max(1, len(a | b)) for b in pairs] for a in pairs])
np.fill_diagonal(similarity, 1)
eigenvalues = np.linalg.eigvalsh(similarity / len(few))
eigenvalues = eigenvalues[eigenvalues > 1e-12]
print(*few, similarity.round(2), sep="\n")
print(f"Jaccard {similarity[~np.eye(len(few), dtype=bool)].mean():.3f}")
print(f"Vendi score {np.exp(-(eigenvalues * np.log(eigenvalues)).sum()):.3f}")
if embed:
    vectors = embed(few)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    print("cosines of embeddings:", (unit @ unit.T).round(2), sep="\n")
handful = pd.DataFrame({"prompt": "the same", "text": few})
measure(handful, by=["prompt"], names=["jaccard_2", "vendi_jaccard_2"])[["measure", "value"]]

# %% [markdown]
# ## Every set of texts
#
# A set is the texts of one model to one prompt at one temperature, all cut to the same number of tokens. The measures are
# the rows of `data/diversity/measures.csv`, which says where each is from and which direction is more diverse. A set
# without a value of a measure is counted with its reason.

# %%
read_measures()[["published", "direction", "unit", "says"]]

# %% tags=["nbval-ignore-output"]
cut = cut_to_length(texts, n_tokens)
sets = ["family", "stage", "seed", "kind", "prompt", "temperature"]
measured = measure(cut, by=sets, embed=embed)
measured.to_parquet(run.path("measured.parquet"))
print(f"{cut['is_short'].mean():.0%} of the texts are shorter than {n_tokens} tokens")
failed = measured[measured["failure"] != ""].groupby(["measure", "kind", "failure"], sort=False).size()
failed.rename("sets without a value") if len(failed) else "Every measure has a value in every set."

# %% [markdown]
# ## Among right answers only
#
# **What to expect.** Tuning makes factual answers more often right, and right answers to one question are alike. If that
# were all, right answers alone would be as diverse before a stage as after it. Each stage keeps as many right answers as the
# stage that has fewest, since most measures depend on the number of texts.

# %% tags=["nbval-ignore-output"]
accepted = cut["accepted"] if "accepted" in cut else [None] * len(cut)
answers = [list(each) if isinstance(each, list) else [] for each in accepted]
cut["right"] = [contains_answer(text, each) for text, each in zip(cut["text"], answers, strict=True)]
right = share_seeds(cut)
right["rank"] = right[right["right"]].groupby(sets, sort=False).cumcount()
of_set = [name for name in sets if name != "stage"]
fewest = right.groupby(sets)["right"].sum().groupby(of_set).min().rename("fewest").reset_index()
right = right.merge(fewest, on=of_set)
right = right[right["right"] & (right["rank"] < right["fewest"])]
among_right = measure(right, by=sets, embed=embed) if len(right) else measured.head(0)
right.groupby(["family", "stage"], sort=False).size().rename("right answers kept")

# %% [markdown]
# ## Levels
#
# Means over prompts, temperatures and fine-tunes; prompts (and fine-tunes) are resampled. Some measures also by temperature.

# %% tags=["nbval-ignore-output"]
TESTED = ["self_bleu", "jaccard_2", "ncd", "cosine", "vendi_jaccard_2", "vendi_cosine"]  # chosen beforehand
where = ["family", "stage", "kind", "measure"]
everything = pd.concat([measured, among_right.assign(texts="right")], ignore_index=True)
by_temperature = measured[measured["measure"].isin([*TESTED, "accuracy"])]
levels = []
for rows, by in ((everything, [*where, "texts"]), (by_temperature, [*where, "temperature"])):
    for is_rate in (True, False):
        some = rows[(rows["measure"] == "accuracy") == is_rate]
        if len(some):
            levels.append(over_prompts(some, by, unit="rate" if is_rate else ""))
levels = pd.concat(levels, ignore_index=True)
levels["metric"], levels["unit"] = levels["measure"], levels["measure"].map(read_measures()["unit"])
overall = levels[levels["temperature"].isna() & levels["texts"].isna()]
overall.pivot_table("value", ["family", "kind", "metric"], "stage", sort=False).query("metric in @TESTED")

# %% [markdown]
# ## Can the tests reject?
#
# A permutation test flips the sign of whole prompts, so its smallest p-value depends on their number. Six measures are
# tested for each kind of prompts and each step; Holm's procedure compares the smallest of six p-values with 0.05 / 6.

# %%
ALPHA = 0.05
n_prompts = texts.groupby("kind")["prompt"].nunique()
smallest = (2.0 ** (1 - n_prompts)).clip(lower=1 / 10_001)  # of all sign patterns, or of 10,000 random ones
can_reject = smallest <= ALPHA / len(TESTED)
limit = pd.Series(f"{ALPHA / len(TESTED):.4f}", index=n_prompts.index)
shown = {"prompts": n_prompts, "smallest p": smallest.map("{:.4f}".format), "limit": limit, "can reject": can_reject}
pd.DataFrame(shown)

# %% [markdown]
# ## Changes
#
# Each stage less the one before it, paired by prompt, temperature and fine-tune (the base stands beside every fine-tune).
#
# **What to expect**, from the published runs: what is written narrows at SFT and at DPO, and on factual prompts more than on
# creative ones.

# %% tags=["nbval-ignore-output"]
paired = share_seeds(measured[measured["measure"].isin([*TESTED, "accuracy"])])
steps = []
for family, rows in paired.groupby("family", sort=False):
    wide = rows.pivot(index=["kind", "measure", "prompt", "temperature", "seed"], columns="stage", values="value")
    chain = list(texts.loc[texts["family"] == family, "stage"].unique())
    whole = [(chain[0], chain[-1])] if len(chain) > 2 else []
    for before, stage in [*zip(chain, chain[1:], strict=False), *whole]:
        step = (wide[stage] - wide[before]).rename("value").reset_index()
        steps.append(step.assign(family=family, stage=stage, before=before, whole=(before, stage) in whole))
columns = ["family", "stage", "before", "kind", "measure", "prompt", "temperature", "seed", "whole", "value"]
steps = pd.concat(steps, ignore_index=True).dropna(subset="value") if steps else pd.DataFrame(columns=columns)
at = ["family", "stage", "before", "whole", "kind", "measure"]
changes = over_prompts(steps, at) if len(steps) else pd.DataFrame(columns=[*at, "value", "low", "high", "n", "n_of"])
changes["unit"] = changes["measure"].map(read_measures()["unit"]).replace("rate", "difference")
changes["metric"] = changes["measure"] + "_change"

# %% tags=["nbval-ignore-output"]
tests, effects = [], []
for key, rows in steps[steps["measure"].isin(TESTED)].groupby(at, sort=False):
    of_prompts = rows.groupby("prompt")["value"].mean()
    test = cluster_permutation(rows["value"], rows["prompt"], rng=run.rng)
    about = dict(zip(at, key, strict=True)) | {"n": test.n, "n_of": "prompt", "low": np.nan, "high": np.nan}
    tests.append(about | {"value": test.p})
    change = changes[(changes[at] == list(key)).all(axis=1)].iloc[0]
    scale = direction(key[-1]) / of_prompts.std() if of_prompts.std() > 0 else np.nan  # above 0 is broader
    low, high = sorted((scale * change["low"], scale * change["high"]))
    effects.append(about | {"value": scale * change["value"], "low": low, "high": high})
tests = pd.DataFrame(tests, columns=[*at, "value", "low", "high", "n", "n_of"])
tests["value"] = tests.groupby(at[:-1], sort=False)["value"].transform(holm)
tests = tests.assign(metric=tests["measure"] + "_p_holm", unit="p")
effects = pd.DataFrame(effects, columns=list(tests)[:11]).dropna(subset="value")
effects = effects.assign(metric=effects["measure"] + "_effect", unit="standard deviations")

# %% [markdown]
# **What came out.** A change is clear where Holm's test rejects. (An effect is a mean change in standard deviations over
# prompts, turned so that below 0 is narrower.)

# %% tags=["nbval-ignore-output"]
table = changes.merge(tests[[*at, "value"]].rename(columns={"value": "p_holm"}), on=at)
table["direction"] = [direction(name) for name in table["measure"]]
table["came out"] = np.where(np.sign(table["value"]) == table["direction"], "broader", "narrower")
table["came out"] = table["came out"].where(table["p_holm"] <= ALPHA, "unclear")
print(table.groupby(["family", "stage", "before", "kind"], sort=False)["came out"].value_counts().unstack(fill_value=0))
table.pivot_table("came out", ["family", "kind", "measure"], ["before", "stage"], aggfunc="first", sort=False)

# %% [markdown]
# Of the change from the first stage to the last, how much does each stage make? Only where the interval of the whole change
# does not contain 0.

# %% tags=["nbval-ignore-output"]
is_clear = (table["low"] > 0) | (table["high"] < 0)
of_whole = table[table["whole"] & is_clear]
shares = table[~table["whole"]].merge(of_whole, on=["family", "kind", "measure"], suffixes=("", " of the whole"))
shares["share"] = shares["value"] / shares["value of the whole"]
shares.pivot_table("share", ["family", "kind", "measure"], "stage", sort=False) if len(
    shares
) else "No whole change is clear."

# %% [markdown]
# ## Beside the published
#
# Every measure that was published too: does it move in the same direction at the same step? Heights cannot be compared
# between a model of a million weights and one of billions; directions can. A published direction is that of most of the
# published models (creative and factual under their right labels, which are exchanged in the published figure). A reading is
# *unclear* where the interval of the change here contains 0, or where as many published models rise as fall.

# %% tags=["nbval-ignore-output"]
published = pd.read_csv(DATA / "diversity" / "published.csv").fillna({"temperature": -1.0})
published["measure"] = published["measure"].replace("first_document_entropy", "mean_entropy")
wide = published.pivot(index=["kind", "measure", "family", "temperature"], columns="stage", values="value")
directions = []
for before, stage in (("base", "SFT"), ("SFT", "DPO")):
    signs = np.sign((wide[stage] - wide[before]).dropna().groupby(["kind", "measure", "family"]).mean().round(9))
    counted = signs.groupby(["kind", "measure"]).agg(sign="mean", models="size").reset_index()
    directions.append(counted.assign(before=before, stage=stage))
directions = pd.concat(directions, ignore_index=True)
WORDS = {1.0: "rises", -1.0: "falls", 0.0: "either"}
directions["published"] = np.sign(directions["sign"]).map(WORDS)
directions.groupby(["stage", "published"]).size().unstack(fill_value=0)

# %% tags=["nbval-ignore-output"]
path = run.need("next_token.csv", stage="03")
next_token = pd.read_csv(path) if path.stat().st_size > 100 else pd.DataFrame(columns=[*levels, "before"])
of_tokens = next_token[next_token["metric"].str.endswith("_change")]
ours = pd.concat([changes, of_tokens], ignore_index=True)
ours["measure"] = ours["metric"].str.removesuffix("_change")
reading = ours.merge(directions, on=["kind", "measure", "before", "stage"])
outcomes = [verdict(low, high, above=0) for low, high in zip(reading["low"], reading["high"], strict=True)]
reading["here"] = pd.Series(outcomes, dtype=object).map({"held": "rises", "failed": "falls", "unclear": "unclear"})
reading["reading"] = np.where(reading["here"] == reading["published"], "agrees", "disagrees")
reading.loc[(reading["here"] == "unclear") | (reading["published"] == "either"), "reading"] = "unclear"
reading = reading[
    ["family", "kind", "measure", "before", "stage", "value", "low", "high", "here", "published", "models", "reading"]
]
reading.to_csv(run.path("reading.csv"), index=False, float_format="%.6g")
counts = reading.groupby(["family", "reading"]).size().unstack(fill_value=0)
counts = counts.reindex(columns=["agrees", "disagrees", "unclear"], fill_value=0)
for family, row in counts.iterrows():
    print(
        f"{family}: of {row.sum()} published readings {row['agrees']} agree, {row['disagrees']} disagree, {row['unclear']} unclear"
    )
rows = counts.stack().rename("value").reset_index()
rows["n"] = rows.groupby("family")["value"].transform("sum")
counted = rows.assign(metric="readings", kind="all", n_of="published reading", unit="readings")
reading

# %% [markdown]
# ## Requests for a random choice
#
# `valid_mass` is the probability of all valid answers together, `top_share` that of the most probable one among them (1 / n
# for an even choice among n), `option_entropy` the entropy over them (log n).

# %% tags=["nbval-ignore-output"]
options = pd.read_csv(run.need("options.csv", stage="04")).dropna(subset="prob")
keys = ["family", "stage", "seed", "prompt"]
mass = options.groupby(keys, sort=False)["prob"].transform("sum")
options = options.assign(
    mass=mass, share=options["prob"] / mass, nats=-(options["prob"] / mass) * np.log(options["prob"] / mass)
)
choices = options.groupby(keys, sort=False).agg(
    valid_mass=("mass", "first"), top_share=("share", "max"), option_entropy=("nats", "sum")
)
choices = choices.reset_index().assign(kind="numbers")
units = {"valid_mass": "rate", "top_share": "rate", "option_entropy": "nats"}
numbers = [
    over_prompts(choices, ["family", "stage", "kind"], value=name).assign(metric=name, unit=unit)
    for name, unit in units.items()
]
numbers = pd.concat(numbers, ignore_index=True)
numbers

# %% [markdown]
# ## Write the numbers
#
# `stage` less `before` where there is a `before`; `texts` is "right" for right answers alone; rows with a `temperature` are of
# that one.

# %% tags=["nbval-ignore-output"]
parts = [levels, changes, tests, effects, numbers, counted, next_token]
summary = pd.concat([part for part in parts if len(part)], ignore_index=True).rename(columns={"family": "model"})
conditions = ["kind", "stage", "before", "temperature", "texts", "reading"]
kept = ["model", "metric", *conditions, "value", "low", "high", "n", "n_of", "unit"]
summary = summary.reindex(columns=kept).dropna(subset="value").assign(study="diversity", preset=run.preset)
summary = write_summary(run.path("summary.csv"), summary)
run.finish(f"{len(summary)} numbers are in summary.csv.")

# %% [markdown]
# **What this does not show.** No measure of words says whether texts are good, or mean different things: random letters are
# most diverse of all. Accuracy stands beside diversity for that reason.
#
# Next: [06-plotting](06-plotting.ipynb).
