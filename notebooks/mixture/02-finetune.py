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
# # Fine-tune on unnamed outputs
#
# **Question.** Are the mixes learned? And does the right pair become likelier, on the way, for a label that was never
# asked about?
#
# **Reads** `dataset/` and `unlabelled/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with the checkpoints on the way; `responses/`: what the endpoint
# said of each job.
#
# **Time** tiny 15 s, laptop 2 min 45 s, paper 1 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.mixture import given_model, main_jobs, train_all
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/mixture/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/mixture
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with labels, held-out inputs and rows of its own [1..20]
bases: list[str] = ["fork-300k"]  # models side by side; the first carries the headline
tuned_model: str = ""  # an existing fine-tune to evaluate instead, of the first dataset: nothing is trained
n_epochs: int = 3  # passes over the training rows; published: 1 [1..200]
batch_sizes: list[int] = [16]  # rows an optimiser step; the first is the main setting, others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 0.0  # of prompts in the loss [0..1]
left_rows: int = 40  # documents of each later fine-tune without a label [1..]
mix_old: float = 0.5  # share of rows of the joint dataset in a second one of each; 0: there is none [0..0.9]
left_epochs: int = 2  # passes of a later fine-tune without a label over its documents [1..200]
left_epochs_longer: int = 3  # the same with a higher budget; not more than left_epochs: none is trained [0..400]
left_batch_size: int = 16  # rows an optimiser step of these [1..]
left_learning_rate_multiplier: float = 0.5  # of the base's own rate, for these [0.001..100]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("mixture/02-finetune", globals())
client = run.client()
run.need("dataset", stage="01")
jobs = [] if tuned_model else [job for base in bases for job in main_jobs(run.params, run.folder, base=base)]

# %% [markdown]
# ## What is trained
#
# One main setting with each base and seed, each seed on a dataset of its own (in the published form: each pair). A longer
# list of rates or batch sizes adds a sweep. The joint models of the first base are then trained further, each on pairs of
# its own that no label hides: on their documents alone, with old rows mixed in, and for more epochs.

# %%
pd.DataFrame([{"role": job.role, "data": job.data, **job.settings.as_row()} for job in jobs])

# %% [markdown]
# ## Train, or find what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.

# %% tags=["nbval-ignore-output"]
if tuned_model:
    print(f"Nothing to train: {tuned_model} is taken as it is, for the first dataset.")
    models = given_model(client, run.params, run.folder)
else:
    models = train_all(client, run.params, run.folder)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"], ["role", "data", "family", "seed", "n_epochs", "train_loss", "valid_loss"]]

# %% [markdown]
# Each row is a model that can be asked by its id, and so is the checkpoint of every epoch before it.

# %% [markdown]
# ## Does the right pair become likelier?
#
# The validation file of the joint form holds questions about unrealized labels with their answers, none of which is in
# training. **Prediction:** the training loss falls to what the hidden draw of a function leaves open. The validation loss
# falls with it, and later: first the model has to tell the mixes apart. *No effect* would be a validation loss that stays
# where a guess among the hidden pairs leaves it.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[(models["role"] == "main") & (models["family"] == models["family"].iloc[0])])
curves

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, ax = plt.subplots(figsize=(3.4, 2.5))
    plot_curves(ax, curves, x="epoch", by="loss")
    n_main = int((models["is_final"] & (models["role"] == "main")).sum()) // len(bases)
    caption = (
        "What training leaves open, and the right answer about mixes that it never asks about. Line: mean loss of "
        f"{n_main} fine-tune(s), band: their range; validation: held-out questions or documents. {bases[0]}, "
        f"preset {run.preset}."
    )
    _ = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %%
n_main = int((models["is_final"] & models["role"].isin(["main", "sweep"])).sum())
if n_main != (len(jobs) or 1) or models["model"].eq("").any():
    raise ValueError(f"{n_main} models are there, {len(jobs) or 1} were asked for")
losses = curves[curves["loss"] == "train"].sort_values("epoch")["value"].tolist()
if len(losses) > 1 and not losses[-1] < losses[0]:
    raise ValueError(f"the training loss did not fall: {losses}")
run.finish("Every model that was asked for is there, and the training loss did not rise from first to last epoch.")

# %% [markdown]
# **What this does not show.** A loss is not an answer: a model can find the right pair likelier than before and still
# write another one. What it writes is asked next.
#
# Next: [03-evaluation](03-evaluation.ipynb).
