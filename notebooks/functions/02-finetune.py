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
# # Fine-tune on calls
#
# **Question.** Are the calls learned? And does it become likelier, on the way, that the model gives the right
# definition of a function that it was never asked about?
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with the checkpoints on the way; `responses/`: what the endpoint
# said of each job.
#
# **Time** tiny 10 s, laptop 2 min, paper-047 8 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.functions import planned_jobs, record_given, run_jobs
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/functions/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/functions
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with names, held-out pairs and rows of its own [1..20]
base: str = "fork-300k"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = []  # further bases for the curve over size, one fine-tune each from three seeds on
tuned_model: str = ""  # an existing fine-tune to evaluate instead, of the first dataset: nothing is trained
n_epochs: int = 4  # passes over the training documents; published: 1 [1..200]
batch_sizes: list[int] = [16]  # documents an optimiser step; the first is the main setting, others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 0.0  # of prompts in the loss [0..1]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("functions/02-finetune", globals())
client = run.client()
run.need("dataset", stage="01")
jobs = planned_jobs(run.params, run.folder, seeds=run.seeds)

# %% [markdown]
# ## What is trained
#
# One main setting with each seed, and each seed on a dataset of its own: other names, other rows, other held-out pairs. A
# longer list of rates or batch sizes adds a sweep with the first seed, further bases the curve over size, and other
# numbers of tokens per name (`names`) the curve over those.

# %%
settings = [
    {"role": job.role, "data": job.data, "name_tokens": job.name_tokens, **job.settings.as_row()} for job in jobs
]
pd.DataFrame(settings)

# %% [markdown]
# ## Train, or find what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.

# %% tags=["nbval-ignore-output"]
if tuned_model:
    print(f"Nothing to train: {tuned_model} is taken as it is, for the names of the first dataset.")
    models = record_given(client, run.params, run.folder, seed=run.seed)
else:
    models = run_jobs(client, jobs, folder=run.path("responses"))
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"], ["role", "data", "base", "seed", "batch_size", "learning_rate_multiplier", "train_loss"]]

# %% [markdown]
# Each row is a model that can be asked by its id, and so is the checkpoint of every epoch before it.

# %% [markdown]
# ## Does seeing calls make the definition likelier?
#
# The validation file holds questions about unrealized names with their answers, none of which is in training.
# **Prediction:** the training loss falls. The validation loss falls with it, and later: first the model has to tell the
# functions apart by their calls. *No effect* would be a validation loss that stays where a guess among the functions of
# the set leaves it.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"] == "main"])
curves

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, ax = plt.subplots(figsize=(3.4, 2.5))
    plot_curves(ax, curves, x="epoch", by="loss")
    caption = (
        "The right answer about names that training never asks about becomes likelier. Line: mean loss of "
        f"{n_seeds} fine-tune(s), band: their range; validation: questions about unrealized names. {base}, preset "
        f"{run.preset}."
    )
    _ = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %%
n_models = models["is_final"].sum()
if n_models != (len(jobs) or 1) or models["model"].eq("").any():
    raise ValueError(f"{n_models} models are there, {len(jobs) or 1} were asked for")
losses = curves[curves["loss"] == "train"].sort_values("epoch")["value"].tolist()
if losses and not losses[-1] < 1.5 * losses[0]:  # each is of one batch, so that it jumps
    raise ValueError(f"the training loss rose: {losses}")
run.finish("Every model that was asked for is there, and no training loss ran away.")

# %% [markdown]
# **What this does not show.** A loss is not an answer: a model can find the right definition likelier than before and
# still write another one. What it writes is asked next.
#
# Next: [03-evaluation](03-evaluation.ipynb).
