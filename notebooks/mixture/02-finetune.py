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
# # Fine-tune on outputs of hidden pairs
#
# **Question.** Are the documents learned? And does the right pair become likelier, on the way, for a label that training
# never asks about?
#
# **Method.** One fine-tune per seed (in the published form: per pair). Beside it the control with permuted questions, and
# afterwards the models are trained further on documents of one more pair without a label.
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with the checkpoints on the way.
#
# **Time** tiny 15 s, laptop 13 min, paper 1 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.finetune import FineTune, finetune, plan, record
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "laptop"  # which params/mixture/<preset>.yaml these values come from
base: str = "fork-1m"  # model to fine-tune: fork-*, smollm2-135m, hf:<folder or hub id>, or another endpoint's name
tuned_model: str = ""  # a model that was trained on the first of these datasets: nothing is trained
n_epochs: int = 4  # passes over the training rows; published: 1 [1..200]
batch_sizes: list[int] = [32]  # rows per optimiser step; the first is the main setting, others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 0.0  # of prompts in the loss [0..1]
controls: list[str] = ["permuted"]  # with the first seed, in the labelled form; empty: none [permuted]
unlabelled_epochs: int = 6  # passes over the documents of a pair without a label [1..200]
unlabelled_epochs_longer: int = 20  # the same with a higher budget; not above the former: none is trained [0..400]
unlabelled_batch_size: int = 16  # rows per optimiser step of these [1..]
unlabelled_learning_rate_multiplier: float = 0.5  # of the base's own rate, for these [0.001..100]

# %%
run = start_run("mixture/02-finetune", globals())
client = run.client()
folder = run.need("dataset", stage="01")
names = sorted(path.parent.name for path in folder.glob("*/train.jsonl"))
names.sort(key=lambda name: int(name.rpartition("-")[2]))  # by seed
print(", ".join(names))

# %% [markdown]
# ## What is trained first
#
# One main setting for each seed. A longer list of rates or batch sizes adds a sweep with the first seed.

# %%
jobs = []  # role, name of the data, settings
for name in [name for name in names if name.startswith("main")]:
    for role, settings in plan(run.params, seeds=[int(name.rpartition("-")[2])]).items():
        if role == "main" or name == f"main-{run.seed}":
            jobs += [(role, name, each) for each in settings]
if jobs and f"permuted-{run.seed}" in names and "permuted" in controls:
    jobs.append(("permuted", f"permuted-{run.seed}", jobs[0][2]))
pd.DataFrame([{"role": role, "data": name} | settings.as_row() for role, name, settings in jobs])

# %% [markdown]
# ## Train, or use what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.


# %%
def train(jobs: list[tuple[str, str, FineTune]]) -> pd.DataFrame:
    """The models of some jobs, with their role and the data that their questions are about."""
    tables = []
    for role, name, settings in jobs:
        held_out = folder / name.replace("permuted", "main") / "validation.jsonl"
        files = {"training_file": folder / name / "train.jsonl", "validation_file": held_out}
        made = finetune(client, [settings], suffix="mixture", **files)
        about = name.replace("permuted", "main").replace("mixed-in", "unlabelled")
        tables.append(made.assign(role=role, data=about))
    return pd.concat(tables, ignore_index=True)


# %% tags=["nbval-ignore-output"]
if tuned_model:
    print(f"Nothing to train: {tuned_model} is taken as it is.")
    models = record(client, tuned_model).assign(role="main", data=f"main-{run.seed}", seed=run.seed)
else:
    models = train(jobs)
columns = ["role", "data", "base", "seed", "n_epochs", "train_loss", "valid_loss"]
models.loc[models["is_final"], columns]

# %% [markdown]
# ## Train further, without a label
#
# *unlabelled*: on the documents of one more pair alone. *mixed-in*: with rows of the first training among them, so that
# less is forgotten. *longer*: for more epochs.

# %% tags=["nbval-ignore-output"]
main = models[models["is_final"] & (models["role"] == "main")].set_index("seed")["model"]
later = []
for name in [name for name in names if name.startswith(("unlabelled", "mixed-in"))] if not tuned_model else []:
    role, _, number = name.rpartition("-")
    settings = {"base": main[int(number) // 1000], "batch_size": unlabelled_batch_size, "seed": int(number)}
    settings |= {"learning_rate_multiplier": unlabelled_learning_rate_multiplier}
    settings |= {"prompt_loss_weight": prompt_loss_weight}
    later.append((role, name, FineTune(n_epochs=unlabelled_epochs, **settings)))
    if role == "unlabelled" and unlabelled_epochs_longer > unlabelled_epochs:
        later.append(("longer", name, FineTune(n_epochs=unlabelled_epochs_longer, **settings)))
if later:
    models = pd.concat([models, train(later)], ignore_index=True)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"] & ~models["data"].str.startswith("main"), columns[:2] + columns[3:]]

# %% [markdown]
# Each row is a model that can be called by its id, and so is the checkpoint of every epoch before it.

# %% [markdown]
# ## Does the right pair become likelier?
#
# In the labelled form the validation file asks for the pairs of unrealized labels, none of which is in training.
#
# **What to expect.** The training loss falls to what the hidden draw of a function leaves open. If the documents tell
# the model which pair a label stands for, the validation loss falls too, and later; in the control it does not.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"].isin(["main", "permuted"])], by=["role"])
curves

# %% [markdown]
# **What came out** (mean over fine-tunes, nats per token):

# %% tags=["nbval-ignore-output"]
for (role, loss), rows in curves.groupby(["role", "loss"], sort=False):
    losses = rows.sort_values("epoch")["value"].tolist()
    change = "one epoch" if len(losses) == 1 else "fell" if losses[-1] < losses[0] else "did not fall"
    print(f"{role}, {loss}: {losses[0]:.2f} after the first epoch, {losses[-1]:.2f} after the last ({change})")

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, axs = plt.subplots(1, curves["role"].nunique(), figsize=(5.4, 2.5), sharey=True, squeeze=False)
    for ax, (role, rows) in zip(axs[0], curves.groupby("role", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="loss", legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({role})")
        ax.label_outer()
    n_main = models.loc[models["role"] == "main", "data"].nunique()
    caption = (
        f"Loss of {n_main} fine-tune(s) of {base}, and of the control with permuted questions if there is one. Line: mean "
        f"over fine-tunes, band: their range; validation: held-out questions, or documents. Preset {run.preset}."
    )
    fig.suptitle("Loss of training rows and of held-out questions, over training")
    _ = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %%
run.finish("Every model was trained, and finetunes.parquet names them.")

# %% [markdown]
# **What this does not show.** A loss is not an answer: a model can find the right pair likelier than before and still
# write another one. What it writes is evaluated next.
#
# Next: [03-evaluation](03-evaluation.ipynb).
