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
# # Fit the blend: a search of a hundred trials beside the exact optimum
#
# **Question.** How much of each model should go into the blend?
#
# **Method.** The blend adds the log-probabilities of three models with three weights. The published weights came from a
# search over three temperatures (Optuna, 100 trials). But the mean negative log-likelihood is convex in the weights, so
# that its minimum is known exactly, with intervals. Both are computed here on the same validation documents.
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `predictions/` (each model's next-token distributions), `fits.parquet` (weights) and `trials.parquet`.
#
# **Time** tiny 10 s, laptop 45 s a seed, smollm2 4 min, paper 2 h

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from lib.blending import fit
from lib.blending.models import blends_of
from lib.blending.predictions import draw_targets, predict
from lib.blending.published import as_predictions
from lib.blending.top_k import aligned
from lib.figures import plot_curves
from lib.notebook import start_run
from lib.paths import content_hash, read_jsonl
from lib.summary import verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/blending/<preset>.yaml these values come from
context_tokens: list[int] = [1, 2, 4, 8, 16, 32, 64, 128, 256]  # lengths of the contexts, rising [1..]
min_context_tokens: int = 32  # contexts from here on share one set of weights; published: 25 [1..]
n_validation_targets: int = 240  # tokens to predict, at every context length [2..]
n_trials: int = 100  # of the search; published: 100 [1..]
storage: str = ""  # URL of a database that several searches share, as sqlite:////tmp/trials.db; empty: in memory
top_k: int = 0  # see only the k most probable tokens, as at a hosted endpoint; 0 for all [0..]
vocab_tokens: int = 0  # size of the vocabulary, where an endpoint does not report it [0..]

# %%
run = start_run("blending/03-tuning", globals())
MODELS = fit.MODELS  # big, tuned, base
records = run.params["records"]
blends = blends_of(pd.read_parquet(run.need("finetunes.parquet")))
blends

# %% [markdown]
# ## Every model predicts the same tokens
#
# Targets are drawn once, at even steps through the validation documents, and each is predicted after 1, 2, 4 ... tokens
# of what stands before it. (The published contexts moved their targets along with their length, so that its curves
# compare different words.) Whole distributions are requested, so that nothing is missing from them.

# %% tags=["nbval-ignore-output"]
if records:
    published = pd.read_parquet(run.need("dataset/records.parquet", stage="01"))
    targets, predictions = as_predictions(published, "validation")
else:
    documents = pd.DataFrame(read_jsonl(run.need("dataset/documents.jsonl", stage="01")))
    documents = documents[documents["split"] == "validation"]
    sizes = {"n_targets": n_validation_targets, "context_tokens": context_tokens}
    targets = draw_targets(run.client(), blends["base"].iloc[0], documents, **sizes)
    models = dict.fromkeys(blends[["big", "tuned", "base"]].to_numpy().ravel(), True)
    options = {"folder": run.path("predictions"), "top_k": top_k, "vocab_tokens": vocab_tokens}
    predictions = predict(run.client(), models, targets, **options)
lengths = sorted(targets["context_tokens"].unique().tolist())
pooled = [length for length in lengths if length >= min_context_tokens] or lengths[-1:]
n_documents = targets["document"].nunique()
print(
    f"{len(targets)} predictions per model: {len(targets) // len(lengths)} targets in {n_documents} documents, {len(lengths)} lengths"
)

# %% [markdown]
# A few targets with the probability that each model gives them after the longest context. Where *tuned* is above *base*,
# tuning on stories raised it.

# %% tags=["nbval-ignore-output"]
longest = targets["context_tokens"] == lengths[-1]
shown = targets.loc[longest, targets.columns.intersection(["document", "word", "token"])].copy()
for name in MODELS:
    shown[name] = np.exp(-predictions[blends[name].iloc[0]].rows(longest).nll())
shown.iloc[:: max(1, len(shown) // 8)]

# %% [markdown]
# ## The blend
#
# A weighted sum of log-probabilities, normalised over all tokens. With weights (1, 1, 1) it is the big model plus the
# difference that tuning made to the small one (proxy-tuning); a weight of 0 leaves a model out.


# %%
def blend(part, weights):
    """Log-probabilities of every token under the blend, shape (n, m)."""
    w_big, w_tuned, w_base = map(float, weights)
    logp = w_big * part.big + w_tuned * part.tuned - w_base * part.base
    logp -= logp.max(axis=1, keepdims=True)
    # log_counts is 0, but in lists of k: there, the last column stands for all tokens that no list has
    return logp - np.log(np.exp(logp + part.log_counts).sum(axis=1, keepdims=True))


def nll(part, weights):
    """Negative log-likelihood of each target, shape (n,), in nats."""
    return -np.take_along_axis(blend(part, weights), part.target[:, None], axis=1)[:, 0]


def part_of(row, length):
    """Predictions of a blend's three models after contexts of one length."""
    which = targets["context_tokens"] == length
    return aligned(*(predictions[row[name]].rows(which) for name in MODELS), targets.loc[which, "document"])


main = blends.iloc[0]
part = part_of(main, lengths[-1])
print(f"perplexity after {lengths[-1]} tokens: big {np.exp(nll(part, (1, 0, 0)).mean()):.2f}, ", end="")
print(f"tuned {np.exp(nll(part, (0, 1, 0)).mean()):.2f}, proxy-tuning {np.exp(nll(part, (1, 1, 1)).mean()):.2f}")

# %% [markdown]
# ## Does the formula do what it should?
#
# If the base equals the tuned model, nothing is lent. If the big model is the base, the blend is the tuned model. What is
# added to all log-probabilities of a context changes nothing, and probabilities sum to one.

# %% tags=["nbval-ignore-output"]
shifted = part._replace(big=part.big + np.float32(3.0))
sums = np.log(np.exp(blend(part, (0.7, 0.9, 0.4)) + part.log_counts).sum(axis=1))
differences = {
    "base = tuned gives big": nll(part._replace(base=part.tuned), (1, 1, 1)) - nll(part, (1, 0, 0)),
    "big = base gives tuned": nll(part._replace(big=part.base), (1, 1, 1)) - nll(part, (0, 1, 0)),
    "a constant changes nothing": nll(shifted, (0.7, 0.9, 0.4)) - nll(part, (0.7, 0.9, 0.4)),
    "probabilities sum to one": sums,
}
for what, nats in differences.items():
    largest = np.abs(nats).max()
    print(f"{what}: {'held' if largest < 1e-5 else 'failed'}, largest difference {largest:.0e} nats")

# %% [markdown]
# ## The published search
#
# Three temperatures within the published bounds; their inverses are the weights. The first trial is the published one.
# The study is an ordinary `optuna.Study`: look at `studies[0].best_trial`, or name a database in `storage` and let
# several notebooks search together.

# %%
import optuna  # after start_run, which keeps the remarks of imported libraries out of the page

optuna.logging.set_verbosity(optuna.logging.ERROR)


def search(parts, name):
    """Minimise the mean negative log-likelihood of the targets over three temperatures."""

    def objective(trial):
        t_base = trial.suggest_float("base", 0.05, 10.0)
        t_tuned = trial.suggest_float("tuned", 0.05, 10.0)
        t_big = trial.suggest_float("big", 0.05, 5.0)
        return float(np.concatenate([nll(part, (1 / t_big, 1 / t_tuned, 1 / t_base)) for part in parts]).mean())

    sampler = optuna.samplers.TPESampler(seed=None if storage else run.seed)  # searches that share it differ
    study = optuna.create_study(study_name=name, storage=storage or None, sampler=sampler, load_if_exists=True)
    if not study.trials:
        study.enqueue_trial({"base": 6.0, "tuned": 2.0, "big": 1.5})
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    if len(study.get_trials(deepcopy=False, states=ended)) < n_trials:  # of all searches together
        study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(n_trials, states=ended)])
    return study


# %% tags=["nbval-ignore-output"]
parts = [part_of(main, length) for length in pooled]
data = targets[["document", "position", "context_tokens"]].to_numpy().tolist()
studies = [search(parts, f"blending-{content_hash([*main[[*MODELS]], pooled, data, run.seed])}")]
best = studies[0].best_trial
print(
    f"trial {best.number} of {len(studies[0].trials)} is the best: {best.value:.4f} nats, perplexity {np.exp(best.value):.2f}"
)
print(
    ", ".join(f"{name} at temperature {best.params[name]:.2f}, weight {1 / best.params[name]:.2f}" for name in MODELS)
)

# %% [markdown]
# ## The exact fit
#
# One call, by the gradient and the curvature of the same objective. What is free differs:
#
# | form | free | what it is |
# |---|---|---|
# | blended | big, tuned, base | the best blend |
# | mixture | big, tuned | no base: is the *difference* needed at all? |
# | proxy | one strength a: (1, a, a) | proxy-tuning |
# | temperature | big | is the big model just too sure of itself, or not sure enough? |
#
# **What to expect.** The exact fit is never worse than the search, and a form with less freedom never better than
# *blended*. The published weights of `base` were two to four times smaller than those of `tuned`: closer to a mixture
# with a slight push away from the base than to the symmetric difference of the idea.

# %% tags=["nbval-ignore-output"]
exact = pd.DataFrame([fit.fit_weights(parts, form=form) for form in fit.FORMS]).set_index("form")
exact["perplexity"] = np.exp(exact["nll"])
exact[[*(f"w_{name}" for name in MODELS), "low_base", "high_base", "nll", "perplexity", "n", "n_documents"]]

# %% [markdown]
# Intervals are 95%, from the curvature of the fit, with targets of one document counted as related. Where the interval of
# `base` contains zero, mixing in the tuned model would do: notebook 04 tests that on other documents. A weight of `big`
# below 1 says that the blend trusts the big model less than it trusts itself.

# %% tags=["nbval-ignore-output"]
trials = studies[0].trials_dataframe(attrs=("number", "value", "params", "state"))
above = (trials["value"] - exact.loc["blended", "nll"]).clip(lower=1e-7)
fig, ax = plt.subplots(figsize=(4.2, 2.6))
sns.scatterplot(x=trials["number"], y=above, color="0.6", s=14, label="trial", ax=ax)
sns.lineplot(x=trials["number"], y=above.cummin(), drawstyle="steps-post", label="best so far", ax=ax)
ax.set(yscale="log", xlabel="trial", ylabel="nats per token above\nthe exact fit")
sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), frameon=False)
caption = (
    f"Mean negative log-likelihood of each trial of the search, above that of the exact fit, on {len(parts[0].target)} targets "
    f"at {len(pooled)} context lengths of {n_documents} validation documents. {main['big']}, preset {run.preset}."
)
fig.suptitle("History of the search over three temperatures")
_ = run.save(fig, "search", caption)

# %% [markdown]
# **What came out.**

# %% tags=["nbval-ignore-output"]
gap, low, high = best.value - exact.loc["blended", "nll"], *exact.loc["blended", ["low_base", "high_base"]]
restricted = exact["nll"].drop("blended").min() - exact.loc["blended", "nll"]
print(
    f"No trial is better than the exact fit: {'held' if gap > -1e-6 else 'failed'} (the best is {gap:.5f} nats above it)."
)
print(
    f"No form with less freedom is better: {'held' if restricted > -1e-6 else 'failed'} (at least {restricted:.5f} nats above)."
)
print(
    f"The base has a weight above 0: {verdict(low, high, above=0)} ({exact.loc['blended', 'w_base']:.2f} [{low:.2f}, {high:.2f}])."
)
ratio = exact.loc["blended", "w_tuned"] / exact.loc["blended", "w_base"]
print(f"The weight of tuned is {ratio:.1f} times that of base (published: 2 to 4).")

# %% [markdown]
# ## Another big model, another fine-tune
#
# The same small pair can steer any big model with its tokenizer: the override only exchanges what *big* is. Each blend
# gets weights of its own, from a search and from the exact fit.

# %% tags=["nbval-ignore-output"]
fits, tables = [], [trials]
for number, row in blends.iterrows():
    if number:
        parts = [part_of(row, length) for length in pooled]
        studies.append(search(parts, f"blending-{content_hash([*row[[*MODELS]], pooled, data, run.seed])}"))
        tables.append(studies[-1].trials_dataframe(attrs=("number", "value", "params", "state")))
    fitted = pd.DataFrame([fit.fit_weights(parts, form=form) for form in fit.FORMS])
    searched = {f"w_{name}": 1 / studies[-1].best_params[name] for name in MODELS}
    searched |= {
        "form": "search",
        "nll": studies[-1].best_value,
        "n": fitted["n"][0],
        "n_documents": fitted["n_documents"][0],
    }
    fits.append(pd.concat([fitted, pd.DataFrame([searched])]).assign(big=row["big"], seed=row["seed"]))
    tables[-1] = tables[-1].assign(big=row["big"], seed=row["seed"])
trials = pd.concat(tables, ignore_index=True)
trials.to_parquet(run.path("trials.parquet"))
fits = pd.concat(fits, ignore_index=True)
fits.pivot_table("nll", ["big", "seed"], "form", sort=False)

# %% [markdown]
# ## Do the weights depend on how much context there is?
#
# **What to expect.** At one or two tokens of context the big model knows little that the small ones do not, so that the
# tuned model should carry the blend; with more context the weight of the big model should rise.

# %% tags=["nbval-ignore-output"]
by_length = [fit.fit_weights([part_of(main, length)]) | {"context_tokens": length} for length in lengths]
by_length = pd.DataFrame(by_length).assign(big=main["big"], seed=main["seed"])
fits = pd.concat([fits.assign(context_tokens=np.nan), by_length], ignore_index=True)
fits.to_parquet(run.path("fits.parquet"))
curves = [
    by_length[["context_tokens", f"w_{name}", f"low_{name}", f"high_{name}"]].set_axis(["x", "value", "low", "high"], axis=1)
    .assign(model=name, metric="weight", x_name="tokens of context") for name in MODELS
]  # fmt: skip
fig, ax = plt.subplots(figsize=(3.8, 2.6))
ax.set_xscale("log", base=2)
plot_curves(ax, pd.concat(curves), by="model")
ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
caption = (
    "Weights of the best blend of big + tuned - base at each length of context. Line: estimate, band: 95% interval by "
    f"document. {longest.sum()} targets in {n_documents} validation documents, {main['big']}, preset {run.preset}."
)
fig.suptitle("Weights over the length of the context")
_ = run.save(fig, "weights", caption)

# %% [markdown]
# **What came out.**

# %% tags=["nbval-ignore-output"]
first, last = by_length.iloc[0], by_length.iloc[-1]
rises = verdict(last["low_big"] - first["high_big"], last["high_big"] - first["low_big"], above=0)
carries = verdict(first["low_tuned"] - first["high_big"], first["high_tuned"] - first["low_big"], above=0)
print(
    f"The weight of big is higher after {lengths[-1]} tokens than after {lengths[0]}: {rises} ({first['w_big']:.2f} to {last['w_big']:.2f})."
)
print(
    f"After {lengths[0]} token(s), tuned weighs more than big: {carries} ({first['w_tuned']:.2f} and {first['w_big']:.2f})."
)

# %% [markdown]
# **What this does not show.** How the blends do on documents that they were not fitted to: three numbers can hardly be
# overfitted, but that is to be seen, not assumed.
#
# Next: [04-blending](04-blending.ipynb), on test documents.

# %%
run.finish("The weights of every blend are in fits.parquet, every trial of the search is in trials.parquet.")
