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
# # Fine-tune on the one-way facts
#
# **Question.** Can the facts be learned at all, in the order in which they are told? Without that, failing in the other
# order would mean nothing.
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with every epoch's checkpoint.
#
# **Time** tiny 10 s, laptop 75 s, paper 20 h

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.finetune import finetune, plan, record
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/reversal/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/reversal
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
base: str = "fork-300k"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = []  # further bases for the curve over size, one fine-tune each from three seeds on
tuned_model: str = ""  # an existing fine-tune to evaluate instead: nothing is trained
n_epochs: int = 3  # passes over the training rows [1..200]
batch_sizes: list[int] = [8]  # rows an optimiser step; the first is the main setting, the others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 1.0  # of the prompt's tokens in the loss; published: 1, the whole sentence [0..1]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("reversal/02-finetune", globals())
client = run.client()
training_file = run.need("dataset/all_prompts_train.jsonl")
validation_file = run.need("dataset/validation_prompts.jsonl")
planned = plan(run.params, seeds=run.seeds)

# %% [markdown]
# ## What is trained
#
# One main setting, repeated with each seed. A longer list of rates or batch sizes adds a sweep with the first seed, as
# the published study had; further bases add the curve over size. All go through the same API that a hosted service
# offers: upload a file, create a job, wait for the model.
#
# The loss counts the prompt's tokens like the completion's (`prompt_loss_weight`), as published: the whole sentence is
# the document.

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
    print(f"Nothing to train: {run.params['tuned_model']} is taken as it is.")
    models = record(client, run.params["tuned_model"]).assign(role="main")
else:
    files = {"training_file": training_file, "validation_file": validation_file}
    made = [finetune(client, jobs, **files, suffix="reversal").assign(role=role) for role, jobs in planned.items()]
    models = pd.concat(made, ignore_index=True)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"], ["role", "base", "seed", "batch_size", "learning_rate_multiplier", "train_loss"]]

# %% [markdown]
# Each row is a model that can be asked by its id, and so is the checkpoint of every epoch before it.

# %% [markdown]
# ## Does the loss fall where it should?
#
# The validation file holds questions in the *reverse* direction, with the first word of the name as the answer (so
# that tuning on it would leak little). **Prediction:** if training on one order taught the other, this loss would fall
# with the training loss. The Reversal Curse says it will not: it may even rise, while the model grows surer of other
# words in that place.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"] == "main"])
curves

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, ax = plt.subplots(figsize=(3.4, 2.5))
    plot_curves(ax, curves, x="epoch", by="loss")
    caption = (
        "Training loss (sentences in the order told) falls; validation loss (first word of the name, asked in reverse) "
        f"does not follow. Line: mean of {n_seeds} fine-tune(s), band: their range. {base}, preset {run.preset}."
    )
    shown = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %%
n_models = models["is_final"].sum()
expected = 1 if run.params["tuned_model"] else sum(len(jobs) for jobs in planned.values())
if n_models != expected or models["model"].eq("").any():
    raise ValueError(f"{n_models} models are there, {expected} were asked for")
losses = curves[curves["loss"] == "train"].sort_values("epoch")["value"].tolist()
if len(losses) > 1 and not losses[-1] < losses[0]:
    raise ValueError(f"the training loss did not fall: {losses}")
run.finish("Every model that was asked for is there, and no training loss rose from first to last epoch.")

# %% [markdown]
# **What this does not show.** A low training loss says that sentences were memorised, not that a fact is known in new
# words, and the validation loss looks at one word only. Both questions are asked properly next.
#
# Next: [03-evaluation](03-evaluation.ipynb).
