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
# # Tune the chain: each stage from the one before
#
# **Question.** Is each stage learned? SFT should make good answers likely; DPO should tell preferred answers from others.
#
# **Method.** Fine-tuning jobs of the API, one after the other: a stage begins with the model of the stage before it, and
# DPO's reference is the model that it begins with. Models that exist are looked up and checked instead.
#
# **Reads** `dataset/` (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per model with its family (the base), stage, position, seed, template and losses.
#
# **Time** tiny 12 s, laptop 50 s per seed, smollm2 5 min, paper 1 min (its models exist)

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.diversity.chain import given_chain, read_stages, training_curves
from lib.figures import plot_curves
from lib.finetune import FineTune, finetune, record
from lib.notebook import start_run
from lib.params import active_bases
from lib.summary import verdict

# %% tags=["parameters"]
preset: str = "laptop"  # which params/diversity/<preset>.yaml these values come from
base: str = "fork-1m"  # where the chain begins: fork-*, smollm2-135m, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = ["fork-300k"]  # further bases from three seeds on, one chain each
stages: list[str] = ["SFT:supervised:1", "DPO:dpo:1"]  # label:method:epochs, each tuned from the one before
chain: list[str] = []  # models that exist, base first: names in data/diversity/models.yaml, or label:model id
tuned_model: str = ""  # an existing fine-tune of base as the only stage: nothing is trained
completions: str = ""  # sampled texts to analyse instead: a .jsonl, a published .npy, or a folder of them
form: str = "dialogue"  # of tuning rows: the world's, or by a model's chat template [dialogue | messages]
template: str = ""  # of prompts; empty: as tuned on, or each model's own [dialogue | plain | human | tulu | chat | ]
supervised_batch_size: int = 32  # rows per step of SFT [1..]
supervised_learning_rate_multiplier: float = 0.08  # of the base's own rate, for SFT [0.0001..100]
dpo_batch_size: int = 32  # pairs per step of DPO [1..]
dpo_learning_rate_multiplier: float = 0.02  # of the base's own rate, for DPO [0.0001..100]
beta: float = 0.1  # of DPO: strength of the KL penalty to the model before [0.001..10]

# %%
run = start_run("diversity/02-finetune", globals())
planned = read_stages(stages)
columns = ["family", "stage", "position", "seed", "model", "template", "job", "method"]
pd.DataFrame(planned)

# %% [markdown]
# ## Train, or find what was trained
#
# The same rows, base and settings are never trained twice. Models that are given must have the declared number of weights
# (a published comparison had two models of 2.8 billion weights under the name of 6.9 billion), and the stages of a chain
# must share a tokenizer.
#
# All stages are prompted in one form: that of the tuning rows, or `template`. Published models were tuned in forms of
# their own (`data/diversity/models.yaml`), so a stage and its form are confounded there unless `template` is set.


# %%
def tune_chain(family: str, seeds: list[int]) -> pd.DataFrame:
    """Tune every stage of one base, each from the one before it."""
    before = dict.fromkeys(seeds, family)  # the model that the next stage begins with, by seed
    tables = [record(run.client(), family).assign(stage="base", position=0, seed=seeds[0])]
    for stage in planned:
        rate, size = (run.params[f"{stage.method}_{name}"] for name in ("learning_rate_multiplier", "batch_size"))
        shared = {"n_epochs": stage.n_epochs, "batch_size": size, "learning_rate_multiplier": rate, "beta": beta}
        jobs = [FineTune(base=before[seed], seed=seed, method=stage.method, **shared) for seed in seeds]
        files = [run.need("dataset") / f"{stage.method}.{part}.jsonl" for part in ("train", "validation")]
        made = finetune(run.client(), jobs, training_file=files[0], validation_file=files[1], suffix="diversity")
        made = made.assign(method=stage.method)
        for epoch, label in enumerate(stage.labels, start=1):
            position = sum(table["position"].nunique() for table in tables)
            tables.append(made[made["epoch"] == epoch].assign(stage=label, position=position))
        before = made[made["is_final"]].set_index("seed")["model"].to_dict()
    return pd.concat(tables, ignore_index=True).assign(
        family=family, template=template or {"messages": "chat"}.get(form, form)
    )


# %% tags=["nbval-ignore-output"]
if completions:
    models = pd.DataFrame(columns=columns)
elif chain or tuned_model:
    entries = chain or [f"base:{base}", f"tuned:{tuned_model}"]
    models = given_chain(run.client(), entries, seed=run.seed, template=template)
else:
    own_seeds = {family: run.seeds if family == base else run.seeds[:1] for family in active_bases(run.params)}
    models = pd.concat([tune_chain(family, seeds) for family, seeds in own_seeds.items()], ignore_index=True)
models.to_parquet(run.path("finetunes.parquet"))
for family, rows in models.groupby("family", sort=False):
    print(f"{family}: {' -> '.join(rows.sort_values('position')['stage'].unique())}")
models[[name for name in (*columns[:4], "template", "train_loss", "valid_loss") if name in models]]

# %% [markdown]
# A loss of SFT is nats per token of the answer; of DPO, nats per pair, which begins at log 2 (0.69), where a model prefers
# neither answer more than its reference does.
#
# ## Does each stage learn?
#
# **What to expect.** The loss of SFT falls. DPO soon prefers the right answer of nearly every pair, for evasive answers are
# easy to recognise; from there on it can only press on, and what it presses on is style.

# %% tags=["nbval-ignore-output"]
curves = training_curves(run.client(), models) if len(models) else models
own = curves[curves["family"] == models["family"].iloc[0]] if len(curves) else curves
if len(own):
    of_dpo = set(own.loc[own["quantity"] == "train_reward_accuracy", "stage"])
    losses = own[(own["quantity"] == "train_loss") & ~own["stage"].isin(of_dpo)].assign(metric="loss", unit="nats")
    preferred = own[own["quantity"] == "train_reward_accuracy"].assign(metric="reward accuracy", unit="rate")
    panels = [rows for rows in (losses, preferred) if len(rows)]
    fig, axs = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 2.5), squeeze=False)
    for ax, rows in zip(axs[0], panels, strict=True):
        plot_curves(ax, rows, x="step", by="stage")
    caption = (
        "Training loss of SFT, and reward accuracy of DPO: the share of pairs whose preferred answer has the higher reward. Line: mean "
        f"over spans of steps and {len(run.seeds)} fine-tune(s), band: range over fine-tunes. {base}, preset {run.preset}."
    )
    fig.suptitle("Training of each stage")
    _ = run.save(fig, "training", caption)
else:
    print("These models, or their texts, come from elsewhere: there are no curves.")

# %% [markdown]
# **What came out.** From the first to the last span of steps. A prediction *held* if all fine-tunes agree with it.

# %% tags=["nbval-ignore-output"]
for (stage, quantity), rows in own.groupby(["stage", "quantity"], sort=False) if len(own) else []:
    first, last = rows.iloc[0], rows.iloc[-1]
    if quantity == "train_loss":
        outcome = verdict(last["low"] - first["high"], last["high"] - first["low"], below=0)
        print(f"{stage}: the loss falls from {first['value']:.3f} to {last['value']:.3f} nats: {outcome}")
    else:
        outcome = verdict(last["low"], last["high"], above=0.9)
        print(f"{stage}: reward accuracy is above 90% at the end ({last['value']:.0%}): {outcome}")

# %%
run.finish(f"{len(models)} models are in finetunes.parquet.")

# %% [markdown]
# **What this does not show.** A falling loss says nothing about diversity: a model can learn to answer and stay as broad
# as it was.
#
# Next: [03-next-token](03-next-token.ipynb).
