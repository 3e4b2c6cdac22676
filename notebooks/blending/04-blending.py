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
# # Compare the blend with every model on stories that nobody has seen
#
# **Question.** How close does the blend come to the big model that was tuned directly, and does it beat what is simpler?
#
# **Reads** `dataset/` (test documents), `finetunes.parquet` (notebook 02), `fits.parquet` (notebook 03).
#
# **Writes** `scores.parquet` (every target under every contender, raw) and `summary.csv` (every number).
#
# **Time** tiny 12 s, laptop 70 s, books 5 min, paper 4 h

# %%
import pandas as pd

from lib.blending.stages import (
    pooled_lengths,
    published_curves,
    run_models,
    run_predictions,
    score_all,
    sizes_of,
    truncate,
)
from lib.blending.summary import summarise
from lib.notebook import start_run
from lib.tables import SCORES, write_summary, write_table

# %% tags=["parameters"]
preset: str = "tiny"  # which params/blending/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/blending
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
records: str = ""  # folder of published raw results to analyse instead of asking models
context_tokens: list[int] = [1, 4, 16]  # lengths of the contexts, rising [1..]
min_context_tokens: int = 16  # contexts from here on share one set of weights; published: 25 [1..]
n_test_targets: int = 80  # tokens to predict, at every context length [2..]
top_k: int = 0  # see only the k likeliest tokens, as of a hosted endpoint; 0 for all [0..]
top_ks: list[int] = [20, 100]  # cut whole distributions to the k likeliest, to see what that does [1..]
vocab_tokens: int = 0  # size of the vocabulary, where an endpoint does not say it [0..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("blending/04-blending", globals())
models = run_models(run)
fits = pd.read_parquet(run.need("fits.parquet"))

# %% [markdown]
# ## Score the same targets after every length of context
#
# Each model scores each target by itself; nothing is aligned to another model's list, and no missing log-probability is
# replaced by a floor. (In the published runs a target outside the big model's hundred likeliest tokens counted -30 nats,
# which made up most of the perplexities of hundreds and thousands that are shown.)

# %% tags=["nbval-ignore-output"]
predictions = run_predictions(run, models, split="test", n_targets=n_test_targets)
scores = score_all(predictions, models, fits)
write_table(run.path("scores.parquet"), scores, SCORES)
pooled = pooled_lengths(predictions, min_context_tokens)
print(f"{len(scores)} scores of {scores['condition'].nunique()} contenders")

# %% [markdown]
# ## What truncation would have done
#
# Whole distributions are cut to the k likeliest tokens, as a hosted endpoint gives them, and scored twice: with the mass
# of the unseen tokens in a bucket of its own, and by the published pipeline. Published records hold only such lists: they
# go through the published pipeline as they are, smoothing included.

# %% tags=["nbval-ignore-output"]
truncated = None if records or top_k else truncate(predictions, models, fits, ks=top_ks)
if records:
    print(published_curves(run, models, n_trials=run.params["n_trials"]))
if truncated is not None:
    shown = truncated[0].groupby(["k", "context_tokens"])["missed"].mean().unstack()
    print("share of test targets outside the big model's k likeliest tokens, by context length")
    print(shown)

# %% [markdown]
# ## The numbers
#
# **Prediction.** From about 32 tokens of context on, the blend is better than base, tuned and big alone, and closes
# most of the gap to the directly tuned big model. At one or two tokens, the tuned model may well be the best. No effect
# would look like a blend no better than the better of tuned and big.
#
# Always beside it: the big model at its best temperature, the mixture without the base, proxy-tuning, and the small
# tuned model alone. Intervals resample documents (and fine-tunes where there are several).

# %% tags=["nbval-ignore-output"]
summary = summarise(
    scores, fits, preset=run.preset, bigs=models.bigs, pooled=pooled, n_weights=sizes_of(run, models), rng=run.rng,
    truncated=truncated,
)  # fmt: skip
write_summary(run.path("summary.csv"), summary)
headline = summary[summary["x"].isna() & summary["metric"].isin(["perplexity", "bits_per_byte", "gap_closed"])]
headline.set_index(["condition", "metric"])["value"].unstack()

# %% tags=["nbval-ignore-output"]
saved = summary[summary["x"].isna() & (summary["metric"] == "nats_saved")]
saved.set_index("condition")[["value", "low", "high", "n", "n_of"]]

# %% [markdown]
# A row of the last table says how many nats per token the blend saves against that contender, target by target. An
# interval above zero is a win. A negative row for `direct` is what is left of the gap; a negative row for `tuned` would be
# a warning: then the small model alone is the better choice.

# %%
finite = scores["nll_nats"].between(0, 1e5)
if not finite.all():
    raise ValueError(f"{(~finite).sum()} scores are not finite: {scores[~finite].head()}")
counts = scores.groupby(["condition", "big", "seed", "context_tokens"]).size()
if not records and counts.nunique() > 1:
    raise ValueError("contenders were scored on different numbers of targets")
run.finish("Every contender was scored on every target, and every score is finite.")

# %% [markdown]
# **What this does not show.** Perplexity is about the next token of text that people wrote. Whether the blend *writes*
# like the tuned big model is looked at next.
#
# Next: [05-generation](05-generation.ipynb).
