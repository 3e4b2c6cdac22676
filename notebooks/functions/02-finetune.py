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
# **Question.** Are the calls learned? And does the right answer about a name that training never asks about become more
# probable on the way?
#
# **Method.** Supervised fine-tuning, through the API that a hosted service offers too. Each seed has names, held-out pairs
# and rows of its own, and a control on the same rows with the names of the questions permuted.
#
# **Reads** `dataset/` of the run folder (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per usable model, with the checkpoints on the way.
#
# **Time** tiny 15 s, laptop 3 min per fine-tune of `fork-1m`, smollm2 15 min, paper-047 8 h (estimate)

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import loss_curves, plot_curves
from lib.finetune import finetune, plan, record
from lib.notebook import start_run
from lib.paths import read_jsonl
from lib.summary import verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/functions/<preset>.yaml these values come from
base: str = "fork-1m"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = ["fork-300k"]  # bases of other sizes, one fine-tune each from three seeds on
permuted: bool = True  # train a control with each seed too: the same rows, the names of the questions permuted
tuned_model: str = ""  # an existing fine-tune on the first dataset to evaluate instead: nothing is trained
n_epochs: int = 4  # passes over the training rows; published: 1 [1..200]
batch_sizes: list[int] = [64]  # rows per optimiser step; the first is the main setting, the others a sweep [1..]
learning_rate_multipliers: list[float] = [1.0]  # of the base's own rate; first and others as above [0.001..100]
prompt_loss_weight: float = 0.0  # of the prompt's tokens in the loss [0..1]

# %%
run = start_run("functions/02-finetune", globals())
client = run.client()
folder = run.need("dataset", stage="01")

# %% [markdown]
# ## Settings
#
# `main` is one setting with each seed. `permuted` is the same on the rows of the control. Bases of another size, and names
# of other numbers of tokens (`names`), are trained once each. A longer list of rates or batch sizes adds a sweep.

# %%
planned = [
    {"role": role, "data": f"seed-{each.seed}", "file": "train", "settings": each}
    for role, jobs in plan(run.params, seeds=run.seeds).items()
    for each in jobs
]
main = [job for job in planned if job["role"] == "main"]
if permuted:
    planned += [
        {**job, "role": "permuted", "file": "permuted"}
        for job in main
        if (folder / job["data"] / "permuted.jsonl").exists()
    ]
further = sorted(path.name for path in folder.glob("tokens-*"))
planned += [{**job, "role": "names", "data": name} for name in further for job in main[:1]]
jobs = pd.DataFrame([{**job, **job["settings"].as_row()} for job in planned]).drop(columns="settings", errors="ignore")
jobs

# %%
for name in ("train", "permuted") if permuted else ("train",):
    path = folder / f"seed-{run.seed}" / f"{name}.jsonl"
    if path.exists():
        rows = read_jsonl(path)
        print(f"{name}: {len(rows)} rows, {sum(len(str(row).split()) for row in rows)} words, for example")
        for row in rows[:3]:
            print("  ", row)

# %% [markdown]
# ## Train, or reuse what was trained
#
# The same rows, base and settings are never trained twice: each job is known by the hash of all three. Running this
# cell again, or after a kill, waits only for what is missing.

# %% tags=["nbval-ignore-output"]
if tuned_model:
    print(f"Nothing is trained: {tuned_model} is used as it is, for the names of the first dataset.")
    models = record(client, tuned_model).assign(seed=run.seed, role="main", data=f"seed-{run.seed}")
else:
    tables = []
    for job in planned:
        files = {
            "training_file": folder / job["data"] / f"{job['file']}.jsonl",
            "validation_file": folder / job["data"] / "validation.jsonl",
        }
        made = finetune(client, [job["settings"]], **files, suffix="functions")
        tables.append(made.assign(role=job["role"], data=job["data"]))
    models = pd.concat(tables, ignore_index=True)
is_further = models["data"].str.startswith("tokens-")
models["name_tokens"] = models["data"].str.split("-").str[1].where(is_further, run.params["name_tokens"]).astype(int)
models.to_parquet(run.path("finetunes.parquet"))
models.loc[models["is_final"], ["role", "data", "base", "seed", "batch_size", "learning_rate_multiplier", "train_loss"]]

# %% [markdown]
# Each row is a model that can be called by its id, and so is the checkpoint of every epoch before it.
#
# ## Does the loss fall where it should?
#
# The validation file holds questions about unrealized names with their answers, none of which is in training.
#
# **What to expect.** The training loss falls. The validation loss falls too, at first because the model learns what a
# definition looks like. If calls say which definition a name has, it ends lower than in the control. *No effect* would be
# two curves that end alike.

# %% tags=["nbval-ignore-output"]
both = models[models["role"].isin(["main", "permuted"])]
curves = loss_curves(both, by=["role"])
curves

# %% tags=["nbval-ignore-output"]
if len(curves):
    fig, axs = plt.subplots(1, curves["role"].nunique(), figsize=(6.8, 2.5), sharey=True, squeeze=False)
    for ax, (role, rows) in zip(axs[0], curves.groupby("role", sort=False), strict=True):
        plot_curves(ax, rows, x="epoch", by="loss", legend=role == "main")
        ax.set_xlabel(f"epoch ({role})")
        ax.label_outer()
    caption = (
        "Training loss, and validation loss on questions about names that training never asks about, of the main "
        f"fine-tunes and of the control. Line: mean of {len(run.seeds)} fine-tune(s), band: their range. {base}, preset "
        f"{run.preset}."
    )
    fig.suptitle("Loss of training rows and of held-out questions, over training")
    _ = run.save(fig, "loss", caption)
else:
    print("This model was trained elsewhere: it comes without losses.")

# %% tags=["nbval-ignore-output"]
last = both[both["is_final"]].pivot_table(index="seed", columns="role", values="valid_loss")
if {"main", "permuted"} <= {*last}:
    gain = last["permuted"] - last["main"]
    word = verdict(gain.min(), gain.max(), above=0)
    print(f"validation loss of the control above that of the main fine-tune, at the end and with every seed: {word}")
last

# %%
run.finish(f"{models['is_final'].sum()} fine-tuned model(s) are in finetunes.parquet.")

# %% [markdown]
# **What this does not show.** A loss is not an answer: a model can give the right definition a higher probability than
# before and still write another one. What it writes is the next notebook's question.
#
# Next: [03-evaluation](03-evaluation.ipynb).
