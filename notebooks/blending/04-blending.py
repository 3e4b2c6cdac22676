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
# # Compare the blend with every model on stories that none has seen
#
# **Question.** How close does the blend come to the big model that was tuned directly, does it beat what is simpler, and
# is the difference of the small pair needed for it?
#
# **Method.** Each model and each blend scores the same tokens of test documents after contexts of several lengths.
# Perplexity is the exponential of the mean negative log-likelihood; differences are paired token by token, and intervals
# resample documents (and fine-tunes where there are several).
#
# **Reads** `dataset/` (test documents), `finetunes.parquet` (notebook 02), `fits.parquet` (notebook 03).
#
# **Writes** `scores.parquet` (one row per target, a column per contender) and `summary.csv` (every number).
#
# **Time** tiny 12 s, laptop 70 s a seed, smollm2 4 min, paper 4 h

# %%
import numpy as np
import pandas as pd

from lib.blending import fit
from lib.blending import published as old
from lib.blending.models import blends_of
from lib.blending.predictions import draw_targets, predict
from lib.blending.top_k import aligned, cut
from lib.notebook import start_run
from lib.paths import read_jsonl
from lib.stats import Interval, cluster_bootstrap, cluster_permutation, cluster_ratio
from lib.summary import number, summarise, verdict, write_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/blending/<preset>.yaml these values come from
n_test_targets: int = 400  # tokens to predict, at every context length [2..]
top_ks: list[int] = [100, 20, 500]  # cut whole distributions to the k most probable, to see what that does [1..]

# %%
run = start_run("blending/04-blending", globals())
MODELS = fit.MODELS  # big, tuned, base
records, top_k = run.params["records"], run.params["top_k"]
blends = blends_of(pd.read_parquet(run.need("finetunes.parquet", stage="02")))
fits = pd.read_parquet(run.need("fits.parquet"))
fits = fits[fits["context_tokens"].isna()]  # one set of weights for all long contexts
fits.pivot_table(["w_big", "w_tuned", "w_base"], ["big", "seed", "form"], sort=False)

# %% [markdown]
# ## Every model predicts the same tokens of the test documents
#
# Of a directly tuned model the log-probabilities of the targets are enough; the others are needed whole, to be blended.

# %% tags=["nbval-ignore-output"]
if records:
    targets, predictions = old.as_predictions(pd.read_parquet(run.need("dataset/records.parquet", stage="01")), "test")
else:
    documents = pd.DataFrame(read_jsonl(run.need("dataset/documents.jsonl", stage="01")))
    documents = documents[documents["split"] == "test"]
    sizes = {"n_targets": n_test_targets, "context_tokens": run.params["context_tokens"]}
    targets = draw_targets(run.client(), blends["base"].iloc[0], documents, **sizes)
    models = dict.fromkeys(blends[list(MODELS)].to_numpy().ravel(), True)
    models |= {model: False for model in blends["direct"] if model}
    options = {"folder": run.path("predictions"), "top_k": top_k, "vocab_tokens": run.params["vocab_tokens"]}
    predictions = predict(run.client(), models, targets, **options)
lengths = sorted(targets["context_tokens"].unique().tolist())
pooled = [length for length in lengths if length >= run.params["min_context_tokens"]] or lengths[-1:]
print(
    f"{len(targets) // len(lengths)} targets in {targets['document'].nunique()} documents, {len(lengths)} context lengths"
)

# %% [markdown]
# ## Score
#
# Each model scores each target by itself: nothing is aligned to another model's list, and no missing log-probability is
# replaced by a floor. The blend is that of notebook 03, with the weights that were fitted there to other documents.


# %%
def blend(part, weights):
    """Log-probabilities of every token under the blend, shape (n, m)."""
    w_big, w_tuned, w_base = map(float, weights)
    logp = w_big * part.big + w_tuned * part.tuned - w_base * part.base
    logp -= logp.max(axis=1, keepdims=True)
    return logp - np.log(np.exp(logp + part.log_counts).sum(axis=1, keepdims=True))


def nll(part, weights):
    """Negative log-likelihood of each target, shape (n,), in nats."""
    return -np.take_along_axis(blend(part, weights), part.target[:, None], axis=1)[:, 0]


# %% tags=["nbval-ignore-output"]
scores = []
for row in blends.to_dict("records"):
    own = fits[(fits["big"] == row["big"]) & (fits["seed"] == row["seed"])]
    weights = {form: fit.weights_of(own, form) for form in own["form"]} | {"proxy at strength 1": (1, 1, 1)}
    for length in lengths:
        which = targets["context_tokens"] == length
        at = {role: predictions[row[role]].rows(which) for role in ("base", "tuned", "big", "direct") if row[role]}
        part = aligned(*(at[role] for role in MODELS), targets.loc[which, "document"])
        nats = {role: each.nll() for role, each in at.items()} | {
            form: nll(part, each) for form, each in weights.items()
        }
        changed = blend(part, weights["blended"]).argmax(axis=1) != part.big.argmax(axis=1)
        about = targets.loc[which, ["context_tokens", "document", "position", "n_bytes"]]
        scores.append(about.assign(model=row["big"], seed=row["seed"], argmax_changed=changed, **nats))
scores = pd.concat(scores, ignore_index=True)
scores.to_parquet(run.path("scores.parquet"))
contenders = [name for name in scores if name not in (*about, "model", "seed", "argmax_changed")]
main, is_pooled = scores["model"] == blends["big"].iloc[0], scores["context_tokens"].isin(pooled)
print(f"{len(scores)} rows, {(~np.isfinite(scores[contenders])).sum().sum()} missing or infinite scores")
scores[main & is_pooled].head()

# %% [markdown]
# ## Perplexity
#
# **What to expect.** From about 32 tokens of context on, the blend is better than base, tuned and big alone, and close to
# the directly tuned big model. No effect would look like a blend no better than the better of tuned and big.

# %% tags=["nbval-ignore-output"]
perplexity = np.exp(scores[is_pooled].groupby("model", sort=False)[contenders].mean())
perplexity.T

# %% [markdown]
# ## By the length of the context
#
# **What to expect.** With one or two tokens of context the small tuned model may well be the best, since it knows the
# style and there is nothing else to know. With more context the big model overtakes it.

# %% tags=["nbval-ignore-output"]
by_length = np.exp(scores[main].groupby("context_tokens")[contenders].mean())
by_length

# %% [markdown]
# ## What truncation would have done
#
# Whole distributions are cut to the k most probable tokens, as a hosted endpoint gives them, and scored twice: with all
# other tokens sharing the mass that is left (*top-k*), and by the published pipeline (*published*), in which a target
# outside the big model's list counts -30 nats.

# %% tags=["nbval-ignore-output"]
first = blends.iloc[0]
own = fits[(fits["big"] == first["big"]) & (fits["seed"] == first["seed"])]
temperatures = {role: 1 / weight for role, weight in zip(MODELS, fit.weights_of(own, "search"), strict=True)}
is_whole = not records and not top_k
cuts, pipeline = [], []
for k, length in [(k, length) for k in top_ks if is_whole for length in lengths]:
    which = targets["context_tokens"] == length
    lists = [cut(predictions[first[role]].rows(which), k) for role in MODELS]
    part = aligned(*lists, targets.loc[which, "document"])
    about = targets.loc[which, ["context_tokens", "document"]].assign(top_k=k, model=first["big"])
    nats = {"big": nll(part, (1, 0, 0)), "blended": nll(part, fit.weights_of(own))}
    cuts.append(about.assign(miss_rate=np.isnan(lists[0].target_logprobs), **nats))
    floored = old.published_logprobs(old.published_aligned(*lists), **temperatures)
    for name, logprobs in {"big": lists[0].target_logprobs, "blended": floored}.items():
        value = old.published_perplexity(logprobs)
        pipeline.append({"contender": name, "context_tokens": length, "top_k": k, "value": value})
if is_whole:
    cuts, pipeline = pd.concat(cuts, ignore_index=True), pd.DataFrame(pipeline)
    print(cuts.pivot_table("miss_rate", "top_k", "context_tokens", sort=False))

# %% [markdown]
# ## Published records through the published pipeline
#
# The search minimises the published perplexity on the validation halves of contexts of 25 tokens and more; the curve is
# that of the test halves without the shortest length, smoothed three times by a trailing mean of three, as published.


# %%
def published_curve(searched, enough, big):
    """Published search for one big model, and its smoothed perplexities over the length of the context."""
    lists = old.published_aligned(*(searched[name].rows(enough) for name in (big, "tuned", "base")))

    def objective(trial):
        files = {
            name: trial.suggest_float(name, 0.05, high) for name, high in (("base", 10), ("tuned", 10), ("big", 5))
        }
        return old.published_perplexity(old.published_logprobs(lists, **files))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=run.seed))
    study.enqueue_trial({"base": 6.0, "tuned": 2.0, "big": 1.5})
    study.optimize(objective, n_trials=run.params["n_trials"])
    curve = {}
    for length in lengths[1:]:
        at = {name: predictions[name].rows(targets["context_tokens"] == length) for name in (big, "tuned", "base")}
        logprobs = {name: each.target_logprobs for name, each in at.items()}
        logprobs["blended"] = old.published_logprobs(old.published_aligned(*at.values()), **study.best_params)
        curve[length] = {name: old.published_perplexity(each) for name, each in logprobs.items()}
    curve = pd.DataFrame(curve).T
    for _ in range(3):
        curve = curve.rolling(3, min_periods=1).mean()
    return curve, study.best_params


# %% tags=["nbval-ignore-output"]
if records:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    of_search, searched = old.as_predictions(
        pd.read_parquet(run.need("dataset/records.parquet", stage="01")), "validation"
    )
    for big in blends["big"].unique():
        enough = (of_search["context_tokens"] >= 25).to_numpy()
        curve, best = published_curve(searched, enough, big)
        curve.to_csv(run.path(f"published-{big}.csv"), index_label="context_tokens")
        print(best, curve, sep="\n")

# %% [markdown]
# ## The numbers
#
# Rows without `context_tokens` are those of all contexts that share one set of weights. `nats_saved` is what the blend
# saves against a contender, target by target; `gap_closed` is the share of the difference between the big model and the
# directly tuned one, in nats per token: 1 means all of it. It is given where that difference is clear, that is, where its
# interval lies above zero: a share of next to nothing can be any number.

# %% tags=["nbval-ignore-output"]
BY, VALUES = ["model", "contender", "context_tokens"], ["value", "low", "high"]
both = pd.concat([scores[is_pooled].assign(context_tokens=np.nan), scores], ignore_index=True)
rows = both.melt(["model", "seed", "context_tokens", "document"], contenders, var_name="contender", value_name="nll")
rows["nats_saved"] = rows["nll"] - np.tile(both["blended"], len(contenders))
nats = {"unit": "nats per token", "cluster": "document"}
perplexities = summarise(rows, by=BY, value="nll", metric="perplexity", **nats).assign(unit="per token")
perplexities[VALUES] = np.exp(perplexities[VALUES])
saved = summarise(rows[rows["contender"] != "blended"], by=BY, value="nats_saved", **nats)
changed = summarise(both.assign(contender="blended"), by=BY, value="argmax_changed", cluster="document")
saved.loc[saved["context_tokens"].isna(), ["model", "contender", *VALUES, "n", "n_of"]]

# %% tags=["nbval-ignore-output"]
ratios = []
for (model, length), part in both.groupby(["model", "context_tokens"], dropna=False, sort=False):
    options = {"clusters": part["document"], "seeds": part["seed"] if part["seed"].nunique() > 1 else None}
    gap = part["big"] - part["direct"] if "direct" in part else 0 * part["big"]
    has_gap = cluster_bootstrap(gap, **options).low > 0 and (np.isnan(length) or length in pooled)
    for name in contenders:
        about = {"model": model, "contender": name, "context_tokens": length}
        if part["n_bytes"].sum() and np.isnan(length):
            bits = cluster_ratio(part[name] / np.log(2), part["n_bytes"], **options)
            ratios.append(about | number(bits, metric="bits_per_byte", n_of="document", unit="bits per byte"))
        if has_gap and name not in ("base", "big", "direct"):
            closed = cluster_ratio(part["big"] - part[name], gap, **options)
            ratios.append(about | number(closed, metric="gap_closed", n_of="document", unit="of the gap in nats"))
ratios = pd.DataFrame(ratios, columns=[*BY, "metric", *VALUES, "n", "n_of", "unit"])
closed = ratios[(ratios["metric"] == "gap_closed") & ratios["context_tokens"].isna()]
closed.sort_values("value")[["model", "contender", *VALUES, "n"]]

# %% [markdown]
# ## Is the difference needed?
#
# The mixture has the big and the tuned model and no base. If it is as good, the *difference* of the small pair is not
# what helps. The test is paired: what the mixture's negative log-likelihood exceeds the blend's by, target by target. The
# interval resamples documents and fine-tunes; the permutation test flips the sign of whole documents.
#
# **What to expect.** If what is lent is the difference that tuning made, the blend is better.

# %% tags=["nbval-ignore-output"]
tests = []
for model, part in scores[is_pooled].groupby("model", sort=False):
    difference = part["mixture"] - part["blended"]
    tested = cluster_permutation(difference, part["document"])
    p = number(Interval(tested.p, np.nan, np.nan, tested.n), metric="permutation_p", n_of="document", unit="p")
    tests.append({"model": model, "contender": "mixture", "context_tokens": np.nan} | p)
    row = saved[(saved["model"] == model) & (saved["contender"] == "mixture") & saved["context_tokens"].isna()].iloc[0]
    print(f"{model}: the difference is needed: {verdict(row['low'], row['high'], above=0)}.")
    print(f"   The blend saves {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}] nats per token", end="")
    print(f" ({tested.n} documents, permutation p = {tested.p:.4f}); by fine-tune ", end="")
    print(", ".join(f"{value:.4f}" for value in difference.groupby(part["seed"]).mean()))

# %% [markdown]
# **What came out.** Of the main big model, over all contexts that share weights.

# %% tags=["nbval-ignore-output"]
of_main = saved[(saved["model"] == first["big"]) & saved["context_tokens"].isna() & (saved["contender"] != "direct")]
for row in of_main.itertuples():
    outcome = verdict(row.low, row.high, above=0)
    interval = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}] nats per token"
    print(f"The blend is better than {row.contender}: {outcome} ({interval}).")
if "direct" in scores:
    gains = scores[is_pooled & main].assign(gain=scores["big"] - scores["direct"])
    gain = summarise(gains, by=["model"], value="gain", **nats).iloc[0]
    print(
        f"Direct tuning gains {gain['value']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] nats per token on the big model."
    )
for row in closed[(closed["model"] == first["big"]) & (closed["contender"] == "blended")].itertuples():
    outcome = verdict(row.low, row.high, above=0.5)
    print(f"It closes most of the gap to direct tuning: {outcome} ({row.value:.0%} [{row.low:.0%}, {row.high:.0%}]).")
ahead = scores[main].assign(ahead=scores["tuned"] - scores["big"])
ahead = summarise(ahead, by=["context_tokens"], value="ahead", **nats).set_index("context_tokens")
behind = verdict(ahead["low"].iloc[0], ahead["high"].iloc[0], below=0)
overtakes = verdict(ahead["low"].iloc[-1], ahead["high"].iloc[-1], above=0)
print(f"After {lengths[0]} token(s) of context, tuned is better than big: {behind}.")
print(
    f"After {lengths[-1]}, big has overtaken tuned: {overtakes} ({ahead['value'].iloc[-1]:.3f} nats per token ahead)."
)

# %% [markdown]
# ## Write the numbers
#
# Weights are those of the first fine-tune. `seen` is empty for whole distributions; of lists, it says how they were
# scored, and `top_k` how long they were.

# %% tags=["nbval-ignore-output"]
weights = []
known = pd.read_parquet(run.need("fits.parquet")).rename(columns={"big": "model", "form": "contender"})
known = known[known["seed"] == blends["seed"].iloc[0]]
for role in MODELS:
    renamed = known.rename(columns=dict(zip([f"{what}_{role}" for what in ("w", "low", "high")], VALUES, strict=True)))
    weights.append(renamed[[*BY, *VALUES]].assign(metric=f"weight_{role}", n=known["n_documents"]))
weights = pd.concat(weights).assign(n_of="document", unit="exponent")
weights = weights[weights["low"] != weights["high"]]  # the others are fixed by the form

# %% tags=["nbval-ignore-output"]
lists = []
if is_whole:
    seen = pd.concat([cuts[cuts["context_tokens"].isin(pooled)].assign(context_tokens=np.nan), cuts])
    seen = seen[seen["context_tokens"].isna() | (seen["top_k"] == top_ks[0])]
    melted = seen.melt(["model", "context_tokens", "top_k", "document"], ["big", "blended"], "contender", "nll")
    of_lists = summarise(melted, by=[*BY, "top_k"], value="nll", metric="perplexity", **nats).assign(unit="per token")
    of_lists[VALUES] = np.exp(of_lists[VALUES])
    missed = summarise(seen.assign(contender="big"), by=[*BY, "top_k"], value="miss_rate", cluster="document")
    means = (
        pipeline[pipeline["context_tokens"].isin(pooled)].groupby(["contender", "top_k"], sort=False)["value"].mean()
    )
    pipeline = pd.concat([means.reset_index(), pipeline[pipeline["top_k"] == top_ks[0]]])
    pipeline = pipeline[np.isfinite(pipeline["value"])].assign(
        model=first["big"], metric="perplexity", unit="per token"
    )
    pipeline = pipeline.assign(low=np.nan, high=np.nan, n=cuts["document"].nunique(), n_of="document")
    lists = [of_lists.assign(seen="top-k"), missed.assign(seen="top-k"), pipeline.assign(seen="published")]
tables = [perplexities, saved, changed, ratios, pd.DataFrame(tests), weights, *lists]
summary = pd.concat([table.dropna(axis=1, how="all") for table in tables], ignore_index=True)
summary = summary.assign(study="blending", preset=run.preset).reindex(columns=[*summary, "study", "preset"])
summary = write_summary(run.path("summary.csv"), summary)

# %% [markdown]
# **What this does not show.** Perplexity is about the next token of text that people wrote. Whether the blend *writes*
# like the tuned big model is looked at next.
#
# Next: [05-generation](05-generation.ipynb).

# %%
run.finish("The scores are in scores.parquet, all numbers in summary.csv.")
