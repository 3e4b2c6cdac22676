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
# **Method.** One fine-tune per order and seed on all documents, with the loss on the whole document. The held-out
# examples of unrealized pairs are the validation file.
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with the checkpoints on the way.
#
# **Time** tiny 10 s, laptop 15 min, smollm2 5 min a seed, paper 12 h

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.finetune import finetune, plan, record
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "laptop"  # which params/guidance/<preset>.yaml these values come from
base: str = "fork-1m"  # model to fine-tune: fork-*, smollm2-135m, hf:<folder or hub id>, or another endpoint's name
control_base: str = "fork-1m-without-guidance"  # base without guidance documents in its pre-training; "" for none
size_bases: list[str] = ["fork-300k"]  # further bases for the curve over size, from three seeds on
tuned_model: str = ""  # a fine-tune to ask instead, of the order in its name, else the first: nothing is trained
n_epochs: int = 10  # passes over the training documents [1..200]
batch_sizes: list[int] = [32]  # documents per optimiser step; the first is the main setting, others a sweep [1..]
learning_rate_multipliers: list[float] = [2.5]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 0.0  # of prompts in the loss; whole documents have an empty one [0..1]

# %%
run = start_run("guidance/02-finetune", globals())
client = run.client()
folder = run.need("dataset", stage="01")
order_names = [order for order in ("simple", "reverse") if (folder / order).is_dir()]

# %% [markdown]
# ## What is trained
#
# For each order: one main setting, repeated with each seed. A longer list of rates or batch sizes adds a sweep with the
# first seed. From three seeds on, `size_bases` add the curve over size, and `control_base` a base that never read a
# guidance document before, both with the first seed and the main setting.

# %%
planned = plan(run.params, seeds=run.seeds)
if control_base and not tuned_model and len(run.seeds) >= 3:
    planned["control"] = [replace(planned["main"][0], base=control_base)]
pd.DataFrame([{"role": role, **job.as_row()} for role, jobs in planned.items() for job in jobs])

# %% [markdown]
# ## Train, or use what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.

# %% tags=["nbval-ignore-output"]
if tuned_model:
    order = next((order for order in order_names if f"guidance-{order}" in tuned_model), order_names[0])
    print(f"Nothing to train: {tuned_model} is taken as it is, for the order {order}.")
    models = record(client, tuned_model).assign(role="main", order=order)
else:
    trained = []
    for order in order_names:
        training, held_out = folder / order / "all.jsonl", folder / order / "unrealized_examples.jsonl"
        for role, jobs in planned.items():
            made = finetune(client, jobs, training_file=training, validation_file=held_out, suffix=f"guidance-{order}")
            trained.append(made.assign(role=role, order=order))
    models = pd.concat(trained, ignore_index=True)
models.to_parquet(run.path("finetunes.parquet"))
settings = ["order", "role", "base", "seed", "batch_size", "learning_rate_multiplier"]
models.loc[models["is_final"], [*settings, "train_loss", "valid_loss"]]

# %% [markdown]
# Each row is a model that can be called by its id, and so is the checkpoint of every epoch before it.

# %% [markdown]
# ## Does reading the instruction make the held-out answer likelier?
#
# The validation file is the unrealized questions with their answers, none of which is in training.
#
# **What to expect.** The training loss falls alike in both orders. The validation loss falls where instructions have
# the order of a test, if the model comes to act on them; in the reverse order it stays up or rises, while the model
# grows surer of answers that belong to other questions.

# %% tags=["nbval-ignore-output"]
curves = loss_curves(models[models["role"] == "main"], by=["order"])
curves

# %% [markdown]
# **What came out** (mean over fine-tunes, nats per token):

# %% tags=["nbval-ignore-output"]
for (order, loss), rows in curves.groupby(["order", "loss"], sort=False):
    losses = rows.sort_values("epoch")["value"].tolist()
    change = "fell" if losses[-1] < losses[0] else "did not fall"
    print(f"{order} order, {loss}: {losses[0]:.2f} after the first epoch, {losses[-1]:.2f} after the last ({change})")

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, axs = plt.subplots(1, curves["order"].nunique(), figsize=(6.8, 2.5), sharey=True, squeeze=False)
    for ax, (order, rows) in zip(axs[0], curves.groupby("order", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="loss", legend=ax is axs[0][-1])
        ax.set_xlabel(f"epoch ({order} order)")
        ax.label_outer()
    caption = (
        "Training loss, and loss on the held-out answers of unrealized questions, by the order of instructions. Line: "
        f"mean of {len(run.seeds)} fine-tune(s), band: their range. {base}, preset {run.preset}."
    )
    fig.suptitle("Loss of training documents and of held-out answers, over training")
    _ = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %%
run.finish(f"{models['is_final'].sum()} fine-tunes are in finetunes.parquet.")

# %% [markdown]
# **What this does not show.** A low loss says that documents were memorised, not that they are acted on; and the loss
# of an answer is not the answer that is given. Both are tested next.
#
# Next: [03-evaluation](03-evaluation.ipynb).
