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
# # Tune the small model, and the big one as the reference
#
# **Question.** Does tuning on the stories help each model at all? What the small model learns is what it can lend; what
# the big model learns when it is tuned itself is the reference that lending is compared with.
#
# **Method.** Supervised fine-tuning of both on the same rows, repeated with several seeds, through the API that a hosted
# service offers too: upload a file, create a job, wait for the model.
#
# **Reads** `dataset/` (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model; its `role` is `base` or `big` (as they are), `tuned` (small)
# or `direct` (big, tuned itself).
#
# **Time** tiny 8 s, laptop 60 s a seed, smollm2 8 min, paper 3 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.blending.models import base_ids, blends_of, check_models
from lib.figures import loss_curves, plot_curves
from lib.finetune import finetune, grid, record
from lib.notebook import start_run
from lib.summary import verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/blending/<preset>.yaml these values come from
general: str = ""  # text that plain fork-* bases are pre-trained on; empty for the invented world
base: str = "fork-300k"  # small model to tune: fork-*, hf:<folder or hub id>, or another endpoint's name
bigs: list[str] = ["fork-1m"]  # big models to steer; the first is the main one
size_bases: list[str] = ["fork-6m"]  # further big models from three seeds on
tuned_model: str = ""  # an existing fine-tune of base: nothing small is trained
direct_models: list[str] = []  # existing fine-tunes of the big models, in their order: nothing big is trained
tune_bigs: bool = True  # tune each big model too, as the reference
allow_unrelated: bool = False  # accept a tuned model that was not made from base, as the published one was not
n_epochs: int = 6  # passes over the rows [1..200]
big_epochs: int = 0  # the same for the big models; 0: as many [0..200]
batch_size: int = 16  # rows per optimiser step [1..]
learning_rate_multiplier: float = 1.5  # of each base's own rate [0.001..100]
big_learning_rate_multiplier: float = 0.0  # the same for the big models; 0: the same [0..100]

# %%
run = start_run("blending/02-finetune", globals())
records = run.params["records"]
columns = ["role", "base", "seed", "model", "epoch", "step", "is_final", "train_loss", "valid_loss"]

# %% [markdown]
# ## Can they be blended?
#
# Before anything is trained: the models need one tokenizer, and to read the longest context. The published pair took the
# difference between a tuned model and one that it was *not* made from; here the parent of a tuned model is looked up.
# With `general`, small bases are pre-trained on that text first, with the tokenizer of the big model if it has another.

# %%
if records:
    published = pd.read_parquet(run.need("dataset/records.parquet"))
    small, big_models = "base", [name for name in ("big", "davinci_base") if f"{name}_ids" in published]
else:
    client, longest = run.client(), max(run.params["context_tokens"])
    small, big_models = base_ids(run.params)
    if direct_models and len(direct_models) != len(big_models):
        raise ValueError(f"{len(direct_models)} direct_models for {len(big_models)} big models: expected one for each")
    given = [tuned_model] if tuned_model else []
    check_models(client, base=small, bigs=big_models, tuned=given, longest=longest, allow_unrelated=allow_unrelated)
print(f"{small.split('@')[0]} is to steer {', '.join(name.split('@')[0] for name in big_models)}.")

# %% [markdown]
# ## What is trained
#
# The same rows for both sizes; the main big model is tuned with every seed, a further one with the first.

# %%
planned = {}
shared = {"batch_sizes": [batch_size], "learning_rate_multipliers": [learning_rate_multiplier]}
if not records and not tuned_model:
    planned["tuned"] = grid(bases=[small], seeds=run.seeds, n_epochs=n_epochs, **shared)
if not records and tune_bigs and not direct_models:
    shared |= {"n_epochs": big_epochs or n_epochs}
    shared |= {"learning_rate_multipliers": [big_learning_rate_multiplier or learning_rate_multiplier]}
    planned["direct"] = grid(bases=big_models[:1], seeds=run.seeds, **shared)
    planned["direct"] += grid(bases=big_models[1:], seeds=run.seeds[:1], **shared)
pd.DataFrame([{"role": role, **each.as_row()} for role, jobs in planned.items() for each in jobs])

# %% [markdown]
# ## Train, or reuse what was trained
#
# The same rows, base and settings are never trained twice; running this cell again, or after a kill, waits only for what
# is missing.

# %% tags=["nbval-ignore-output"]
as_they_are = [("base", small), *(("big", name) for name in big_models), *([("tuned", "tuned")] if records else [])]
models = [pd.DataFrame([{"role": role, "base": name, "seed": run.seed, "model": name, "is_final": True}
                        for role, name in as_they_are], columns=columns)]  # fmt: skip
for role, jobs in planned.items():
    files = {f"{use}_file": run.need(f"dataset/{name}.jsonl") for use, name in
             {"training": "train", "validation": "validation"}.items()}  # fmt: skip
    models.append(finetune(client, jobs, **files, suffix="blending").assign(role=role))
if tuned_model:
    models.append(record(client, tuned_model).assign(role="tuned", base=small, seed=run.seed))
for big, direct in zip(big_models, direct_models, strict=False):
    models.append(record(client, direct).assign(role="direct", base=big, seed=run.seed))
models = pd.concat([each.dropna(axis=1, how="all") for each in models], ignore_index=True).reindex(columns=columns)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"], ["role", "base", "seed", "train_loss", "valid_loss"]]

# %%
if not records:
    tuned = models.loc[models["is_final"] & (models["role"] == "tuned"), "model"].tolist()
    check_models(client, base=small, bigs=big_models, tuned=tuned, longest=longest, allow_unrelated=allow_unrelated)
blends = blends_of(models)
print(f"{len(blends)} blends of {blends['big'].nunique()} big and {blends['tuned'].nunique()} tuned model(s)")

# %% [markdown]
# ## Does the loss fall on stories that were not tuned on?
#
# **What to expect.** The loss on validation documents falls with the training loss in both sizes. Where it turns up
# again, the rows were seen too often, and the tuned model lends what it memorised.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"].isin(["tuned", "direct"])], by=["role"])
if len(curves):
    fig, axs = plt.subplots(1, curves["role"].nunique(), figsize=(6.8, 2.6), sharey=True, squeeze=False)
    for ax, (role, rows) in zip(axs[0], curves.groupby("role", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="loss", legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({'small' if role == 'tuned' else 'big'} model)")
        ax.label_outer()
    caption = (
        "Mean training loss, and loss on the openings of validation documents. Line: mean over fine-tunes, band: their "
        f"range. {base} and {', '.join(bigs)}, {len(run.seeds)} fine-tune(s) each, preset {run.preset}."
    )
    fig.suptitle("Loss of the small and of the big model while they are tuned on stories")
    _ = run.save(fig, "loss", caption)

# %% [markdown]
# **What came out.** The change from the first to the last epoch. A prediction *held* if all fine-tunes agree with it,
# *failed* if none does, and is *unclear* otherwise.

# %% tags=["nbval-ignore-output"]
losses = models[models["role"].isin(["tuned", "direct"])].sort_values("epoch").groupby(["role", "base", "seed"])
changes = (losses[["train_loss", "valid_loss"]].last() - losses[["train_loss", "valid_loss"]].first()).dropna()
for role, rows in changes[losses.size().reindex(changes.index) > 1].groupby("role"):
    for name in ("train_loss", "valid_loss"):
        low, high = rows[name].min(), rows[name].max()
        print(f"{role}, {name} falls: {verdict(low, high, below=0)} ({low:.2f} to {high:.2f} nats per token)")

# %% [markdown]
# **What this does not show.** That the big model *needs* tuning for these stories, or that what tuning changed in the
# small one is of any use to the big one. Both are measured in 04.
#
# Next: [03-tuning](03-tuning.ipynb), which fits the blend on validation documents.

# %%
run.finish(f"{models['is_final'].sum()} models are in finetunes.parquet.")
