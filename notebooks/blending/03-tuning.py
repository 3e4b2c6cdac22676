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
# **Question.** How much of each model should go into the blend? The published answer came from a search over three
# temperatures. But the mean negative log-likelihood of a blend is convex in its three weights, so its minimum can be
# found exactly, with intervals.
#
# **Reads** `dataset/` (notebook 01, validation documents only) and `finetunes.parquet` (notebook 02).
#
# **Writes** `distributions/` (what each model says after every context), `fits.parquet` and `trials.parquet`.
#
# **Time** tiny 10 s, laptop 45 s, books 3 min, paper 2 h

# %%
import matplotlib.pyplot as plt

from lib.blending.figure_tables import weight_curves
from lib.blending.stages import fit_all, pooled_lengths, run_models, run_predictions
from lib.figures import plot_curves
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/blending/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/blending
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
records: str = ""  # folder of published raw results to analyse instead of asking models
context_tokens: list[int] = [1, 4, 16]  # lengths of the contexts, rising [1..]
min_context_tokens: int = 16  # contexts from here on share one set of weights; published: 25 [1..]
n_validation_targets: int = 60  # tokens to predict, at every context length [2..]
n_trials: int = 6  # of the temperature search; published: 100 [1..]
top_k: int = 0  # see only the k likeliest tokens, as of a hosted endpoint; 0 for all [0..]
vocab_tokens: int = 0  # size of the vocabulary, where an endpoint does not say it [0..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("blending/03-tuning", globals())
models = run_models(run)

# %% [markdown]
# ## Ask all models the same
#
# Targets are drawn once, at even steps through the validation documents, and each is predicted after 1, 2, 4 ... tokens
# of what stands before it. (The published contexts moved their targets along with their length, so that its curves
# compare different words.) Every model is asked for its whole distribution, so nothing is missing from it.

# %% tags=["nbval-ignore-output"]
predictions = run_predictions(run, models, split="validation", n_targets=n_validation_targets)
pooled = pooled_lengths(predictions, min_context_tokens)
n_documents = predictions.tables[pooled[0]]["document"].nunique()
print(
    f"{len(predictions.tables[pooled[0]])} targets in {n_documents} documents, {len(predictions.context_tokens)} context lengths"
)

# %% [markdown]
# ## Five ways to set the weights
#
# | form | what is free | what it is |
# |---|---|---|
# | weights | big, tuned, base | the best blend there is |
# | temperatures | three temperatures within bounds | the published search: weights 1/big, 1/tuned, -1/base |
# | mixture | big, tuned | no base: is the *difference* needed at all? |
# | alpha | one strength a: (1, a, -a) | proxy-tuning |
# | temperature | big | is the big model just too sure of itself, or not sure enough? |
#
# **Prediction.** The exact fit is never worse than the search. The published weights on `base` were two to four times
# smaller than those on `tuned`: what wins is closer to a mixture with a slight push away from the base than to the
# symmetric difference of the idea.

# %% tags=["nbval-ignore-output"]
journal = run.path("temperatures.journal")
fits = fit_all(predictions, models, pooled=pooled, storage=journal, n_trials=n_trials, seed=seed)
fits.to_parquet(run.path("fits.parquet"))
at_pool = fits[fits["context_tokens"].isna() & (fits["big"] == models.bigs[0]) & (fits["seed"] == fits["seed"].min())]
at_pool.set_index("form")[["weight_big", "weight_tuned", "low_tuned", "high_tuned", "weight_base", "nll_nats"]]

# %% [markdown]
# Intervals are 95%, from the fit's own curvature with targets of one document counted as related (a sandwich clustered by
# document). Where the interval of `base` holds zero, the difference of the small pair is not needed: mixing in the tuned model is
# enough. A weight of `big` below 1 says that the blend trusts the big model less than it trusts itself.

# %% [markdown]
# ## Do the weights depend on how much context there is?
#
# **Prediction.** At one or two tokens of context the big model knows little that the small ones do not, so the tuned
# model should carry the blend; with more context the big model's weight should rise.

# %% tags=["nbval-ignore-output"]
curves = weight_curves(fits, big=models.bigs[0])
fig, ax = plt.subplots(figsize=(3.4, 2.6))
ax.set_xscale("log", base=2)
plot_curves(ax, curves, x="context_tokens", by="model")
ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
caption = (
    "Weights of the best blend at each length of context. Line: exponent of each model, band: 95% interval by document. "
    f"{len(predictions.tables[pooled[0]])} targets in {n_documents} validation documents, big model {models.bigs[0]}, preset "
    f"{run.preset}."
)
run.save(fig, "weights", caption)
plt.close(fig)
fig

# %%
exact, searched = (at_pool.loc[at_pool["form"] == form, "nll_nats"].iloc[0] for form in ("weights", "temperatures"))
if exact > searched + 1e-6:
    raise ValueError(f"the search found {searched:.6f} nats, better than the exact fit's {exact:.6f}")
inside = at_pool.set_index("form")["nll_nats"]
if not (inside["weights"] <= inside[["mixture", "alpha", "temperature"]] + 1e-6).all():
    raise ValueError(f"a restricted form fits better than the full one: {inside.to_dict()}")
run.finish("No search and no restricted form fits validation documents better than the exact three weights.")

# %% [markdown]
# **What this does not show.** How the blends do on documents that they were not fitted to: three numbers can hardly be
# overfitted, but that is to be seen, not assumed.
#
# Next: [04-blending](04-blending.ipynb), on test documents.
