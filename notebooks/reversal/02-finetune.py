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
# **Question.** Can the facts be learned at all, in the order in which they are stated? Without that, failing in the other
# order would mean nothing.
#
# **Method.** Supervised fine-tuning on the sentences, repeated with several seeds, through the API that a hosted service
# offers too: upload a file, create a job, wait for the model.
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with every epoch's checkpoint.
#
# **Time** laptop 2 min per fine-tune of `fork-1m`, tiny 10 s, smollm2 6 min

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.finetune import finetune, plan, record
from lib.notebook import start_run
from lib.summary import verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/reversal/<preset>.yaml these values come from
base: str = "fork-1m"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = ["fork-300k", "fork-6m"]  # bases of other sizes, one fine-tune each from three seeds on
further_bases: list[str] = ["fork-1m-s1", "fork-1m-s2"]  # bases that differ in their pre-training seed, likewise
tuned_model: str = ""  # an existing fine-tune to evaluate instead: nothing is trained
n_epochs: int = 8  # passes over the training rows [1..200]
batch_sizes: list[int] = [32]  # rows per optimiser step; the first is the main setting, the others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 1.0  # of the prompt's tokens in the loss; published: 1, the whole sentence [0..1]

# %%
run = start_run("reversal/02-finetune", globals())
client = run.client()
files = {f"{use}_file": run.need(f"dataset/{name}.jsonl") for use, name in
         {"training": "all_prompts_train", "validation": "validation_prompts"}.items()}  # fmt: skip

# %% [markdown]
# ## Settings
#
# One main setting, repeated with each seed. Further bases are trained once each: those of another size for the curve over
# size, those of another pre-training seed to see how much hangs on one pre-training. A longer list of rates or batch sizes
# adds a sweep with the first seed, as the published study had.
#
# The loss counts the prompt's tokens like the completion's (`prompt_loss_weight`), as published: the whole sentence is
# the document.

# %%
planned = plan(run.params, seeds=run.seeds)
pd.DataFrame([{"role": role, **each.as_row()} for role, jobs in planned.items() for each in jobs])

# %%
rows = pd.read_json(files["training_file"], lines=True)
print(f"{len(rows)} training rows, {rows.sum(axis=1).str.split().str.len().sum()} words per epoch")
rows.sample(4, random_state=0)

# %% [markdown]
# ## Train, or reuse what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.

# %% tags=["nbval-ignore-output"]
if tuned_model:
    print(f"Nothing is trained: {tuned_model} is used as it is.")
    models = record(client, tuned_model).assign(role="main")
else:
    made = [finetune(client, jobs, **files, suffix="reversal").assign(role=role) for role, jobs in planned.items()]
    models = pd.concat(made, ignore_index=True)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"], ["role", "base", "seed", "batch_size", "learning_rate_multiplier", "train_loss"]]

# %% [markdown]
# Each row is a model that can be called by its id, and so is the checkpoint of every epoch before it.
#
# ## Does the loss fall where it should?
#
# The validation file holds questions in the *reverse* direction, with the first word of the name as the answer (so
# that tuning on it would leak little).
#
# **What to expect.** If training on one order taught the other, the validation loss would fall with the training loss. The
# Reversal Curse predicts that it does not: it may even rise, while the model grows surer of other words there.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"] == "main"])
if len(curves):
    fig, ax = plt.subplots(figsize=(3.4, 2.5))
    plot_curves(ax, curves, x="epoch", by="loss")
    caption = (
        "Training loss (sentences in the order of training) and validation loss (first word of the name, reverse). "
        f"Line: mean of {len(run.seeds)} fine-tune(s), band: their range. {base}, preset {run.preset}."
    )
    fig.suptitle("Loss in the order of training and in reverse")
    _ = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %% [markdown]
# **What came out.** The change from the first to the last epoch. A prediction *held* if all fine-tunes agree with it,
# *failed* if none does, and is *unclear* otherwise.

# %% tags=["nbval-ignore-output"]
losses = models[models["role"] == "main"].sort_values("epoch").groupby("seed")[["train_loss", "valid_loss"]]
changes = (losses.last() - losses.first()).dropna()
if len(changes) and n_epochs > 1:
    low, high = changes.min(), changes.max()
    print(changes.to_string())
    print(f"The training loss falls: {verdict(low['train_loss'], high['train_loss'], below=0)}.")
    print(f"The validation loss does not fall with it: {verdict(low['valid_loss'], high['valid_loss'], above=0)}.")

# %% [markdown]
# **What this does not show.** A low training loss means that sentences were memorised, not that a fact is known in new
# words, and the validation loss is of one word only: it can fall because the model learns which names exist. The next
# notebook tests both properly.
#
# Next: [03-evaluation](03-evaluation.ipynb).

# %%
run.finish(f"{models['is_final'].sum()} models are in finetunes.parquet.")
