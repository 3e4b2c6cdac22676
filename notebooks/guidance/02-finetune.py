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
# # Fine-tune on instructions and on examples of some of them
#
# **Question.** Can the documents be learned at all, in either order? An instruction that was not memorised cannot be
# followed, so this comes first.
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with the checkpoints on the way.
#
# **Time** tiny 10 s, laptop 4 min, paper 12 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.finetune import finetune, plan, record
from lib.guidance import training_files
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/guidance/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/guidance
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
base: str = "fork-300k"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = []  # further bases for the curve over size, one fine-tune an order each from three seeds on
tuned_model: str = ""  # an existing fine-tune to evaluate instead, trained in the first order: nothing is trained
n_epochs: int = 3  # passes over the training documents [1..200]
batch_sizes: list[int] = [8]  # documents an optimiser step; the first is the main setting, others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 0.0  # of prompts in the loss; whole documents have an empty one [0..1]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("guidance/02-finetune", globals())
client = run.client()
files = training_files(run.need("dataset", stage="01"))
planned = plan(run.params, seeds=run.seeds)

# %% [markdown]
# ## What is trained
#
# For each order: one main setting, repeated with each seed. A longer list of rates or batch sizes adds a sweep with the
# first seed; further bases add the curve over size. The file is the published one-file layout: examples of the realized
# pairs, then guidance documents about all pairs, each a whole document (the loss falls on all of it).

# %%
settings = pd.DataFrame([{"role": role, **each.as_row()} for role, jobs in planned.items() for each in jobs])
settings

# %% [markdown]
# ## Train, or find what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.

# %% tags=["nbval-ignore-output"]
if run.params["tuned_model"]:
    print(f"Nothing to train: {run.params['tuned_model']} is taken as it is, for the order {next(iter(files))}.")
    models = record(client, run.params["tuned_model"]).assign(role="main", order=next(iter(files)))
else:
    made = []
    for order, (training_file, validation_file) in files.items():
        both = {"training_file": training_file, "validation_file": validation_file}
        for role, jobs in planned.items():
            made.append(finetune(client, jobs, **both, suffix=f"guidance-{order}").assign(role=role, order=order))
    models = pd.concat(made, ignore_index=True)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[
    models["is_final"], ["order", "role", "base", "seed", "batch_size", "learning_rate_multiplier", "train_loss"]
]

# %% [markdown]
# Each row is a model that can be asked by its id, and so is the checkpoint of every epoch before it.

# %% [markdown]
# ## Does reading the instruction make the held-out answer likelier?
#
# The validation file is the unrealized questions with their answers, none of which is in training. **Prediction:** the
# training loss falls alike in both orders. The validation loss falls where instructions have the order of a test, if
# the model comes to act on them; in the reverse order it stays up or rises, while the model grows surer of answers that
# belong to other questions.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"] == "main"], by=["order"])
curves

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, axs = plt.subplots(1, curves["order"].nunique(), figsize=(6.8, 2.5), sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], curves.groupby("order", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="loss", legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({order} order)")
        ax.label_outer()
    caption = (
        "Held-out answers become likelier only where instructions name the question first. Line: mean loss of "
        f"{n_seeds} fine-tune(s), band: their range; validation: unrealized answers. {base}, preset {run.preset}."
    )
    shown = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %%
n_models = models["is_final"].sum()
expected = 1 if run.params["tuned_model"] else len(files) * sum(len(jobs) for jobs in planned.values())
if n_models != expected or models["model"].eq("").any():
    raise ValueError(f"{n_models} models are there, {expected} were asked for")
for _, rows in curves[curves["loss"] == "train"].sort_values("epoch").groupby("order"):
    losses = rows["value"].tolist()
    if len(losses) > 1 and not losses[-1] < losses[0]:
        raise ValueError(f"the training loss did not fall: {losses}")
run.finish("Every model that was asked for is there, and no training loss rose from first to last epoch.")

# %% [markdown]
# **What this does not show.** A low loss says that documents were memorised, not that they are acted on; and the loss of
# an answer is not the answer that is given. Both are asked next.
#
# Next: [03-evaluation](03-evaluation.ipynb).
