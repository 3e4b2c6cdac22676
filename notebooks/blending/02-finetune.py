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
# # Tune the small model, and the big one as the mark to reach
#
# **Question.** Does tuning on the stories help each model at all? What the small model learns is what it can lend; what
# the big model learns when it is tuned itself is the most that lending could give.
#
# **Reads** `dataset/` (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model; its `role` is `tuned` (small) or `direct` (big).
#
# **Time** tiny 8 s, laptop 60 s, books 6 min, paper 3 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.blending.models import base_ids, models_to_tune, read_models, tune
from lib.blending.pair import check_models
from lib.figures import loss_curves, plot_curves
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/blending/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/blending
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
records: str = ""  # folder of published raw results to analyse instead of asking models
general: str = ""  # text that the fork-* bases are made from; empty for the invented world
base: str = "fork-300k"  # small model to tune: fork-*, hf:<folder or hub id>, or another endpoint's name
bigs: list[str] = ["fork-300k:init"]  # big models that are to be steered; the first carries the headline
size_bases: list[str] = []  # further big models from three seeds on
tuned_model: str = ""  # an existing fine-tune of base: nothing small is trained
direct_models: list[str] = []  # existing fine-tunes of the big models, in their order: nothing big is trained
tune_bigs: bool = True  # tune each big model too, as the mark to reach
allow_unrelated: bool = False  # let a tuned model pass that was not made from base, as the published one was not
n_epochs: int = 2  # passes over the rows [1..200]
batch_size: int = 8  # rows an optimiser step [1..]
learning_rate_multiplier: float = 1.0  # of each base's own rate [0.001..100]
context_tokens: list[int] = [1, 4, 16]  # lengths of the contexts, rising [1..]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("blending/02-finetune", globals())
planned = {} if records else models_to_tune(run.params, seeds=run.seeds)

# %% [markdown]
# ## What is trained
#
# The same rows and settings for both sizes. The published pair took the difference between a tuned model and one that it
# was *not* made from; here the tuned model's parent is looked up and must be the base, unless that is allowed by name.

# %%
pd.DataFrame([{"role": role, **each.as_row()} for role, jobs in planned.items() for each in jobs])

# %% [markdown]
# ## Can they be blended?
#
# Before anything is trained: one tokenizer, and contexts that every model can read. Anything else ends here with the
# reason.

# %%
longest = max(context_tokens)
if not records:
    small, big_models = base_ids(run.params)
    check_models(run.client(), base=small, tuned=[], bigs=big_models, longest=longest)
    print(f"{small} and {len(big_models)} big model(s) share a tokenizer and read {longest} tokens and a target.")

# %% [markdown]
# ## Train, or find what was trained
#
# Through the same API that a hosted service offers: upload a file, create a job, wait for the model.

# %% tags=["nbval-ignore-output"]
models = tune(run.client(), run.params, planned, folder=run.need("dataset"))
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"].astype(bool), ["role", "base", "seed", "train_loss", "valid_loss"]]

# %%
if not records:
    pair = read_models(models, run.params)
    tuned = list(pair.tuned.values())
    check_models(
        run.client(), base=pair.base, tuned=tuned, bigs=pair.bigs, longest=longest, allow_unrelated=allow_unrelated
    )
    print(f"{len(tuned)} tuned model(s) were made from the base; {len(pair.direct)} big model(s) were tuned directly.")

# %% [markdown]
# ## Does the loss fall on stories that were not tuned on?
#
# **Prediction.** Loss on validation documents falls with the training loss in both sizes; where it turns up again, the
# rows were seen too often, and the tuned model lends what it memorised.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models, by=["role"])
if len(curves):
    fig, axs = plt.subplots(1, curves["role"].nunique(), figsize=(6.8, 2.5), sharey=True, squeeze=False)
    for ax, (role, rows) in zip(axs[0], curves.groupby("role", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="loss", legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({'small' if role == 'tuned' else 'big'} model)")
        ax.label_outer()
    caption = (
        "Tuning on stories lowers the loss on other stories. Lines: mean loss over fine-tunes, band: their range; the "
        f"validation loss is on the openings of validation documents. {base} and {', '.join(bigs)}, {n_seeds} "
        f"fine-tune(s) each, preset {run.preset}."
    )
    shown = run.save(fig, "loss", caption)

# %%
if not records and models["model"].eq("").any():
    raise ValueError("a fine-tune has no model id")
losses = curves[curves["loss"] == "train"].sort_values("epoch").groupby("role")["value"]
if not (losses.last() <= losses.first()).all():
    raise ValueError(f"a training loss rose: {curves}")
run.finish("Every model that was asked for is there and fits the others, and no training loss rose.")

# %% [markdown]
# **What this does not show.** That the big model *needs* tuning for these stories, or that what tuning changed in the
# small one is of any use to the big one. Both are measured in 04.
#
# Next: [03-tuning](03-tuning.ipynb), which fits the blend on validation documents.
