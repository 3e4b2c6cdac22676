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
# **Reads** `dataset/` (notebook 01).
#
# **Writes** `finetunes.parquet`: one row per model with its family (the base), stage, seed, template and losses.
#
# **Time** tiny 12 s, laptop 50 s, paper 1 min (its models exist)

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.diversity import chain_of, given_chain, train_chain, training_curves
from lib.figures import plot_curves
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/diversity/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/diversity
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # chains that differ in nothing but their seed [1..20]
base: str = "fork-300k"  # where the chain begins: fork-*, hf:<folder or hub id>, or another endpoint's name
size_bases: list[str] = []  # further bases from three seeds on, one chain each
stages: list[str] = ["SFT:supervised:1", "DPO:dpo:1"]  # label:method:epochs, each tuned from the one before
chain: list[str] = []  # models that exist, base first: names in data/diversity/models.yaml, or label:model id
tuned_model: str = ""  # an existing fine-tune of base as the only stage: nothing is trained
completions: str = ""  # sampled texts to analyse instead: a .jsonl, a published .npy, or a folder of them
form: str = "dialogue"  # of tuning rows: the world's, or by a model's chat template [dialogue | messages]
template: str = "dialogue"  # of all models; own: as each was tuned [own | dialogue | plain | human | tulu | chat]
supervised_batch_size: int = 8  # rows per step of SFT [1..]
supervised_learning_rate_multiplier: float = 0.25  # of the base's own rate, for SFT [0.0001..100]
dpo_batch_size: int = 8  # pairs a step of DPO [1..]
dpo_learning_rate_multiplier: float = 0.05  # of the base's own rate, for DPO [0.0001..100]
beta: float = 0.1  # of DPO: strength of the KL penalty to the model before [0.001..10]
budget_usd: float = 0.0  # most that a hosted endpoint may cost; 0 for models of one's own [0..]

# %%
run = start_run("diversity/02-finetune", globals())

# %% [markdown]
# ## Train, or find what was trained
#
# The first stage is tuned from the base, every other one from the stage before it; DPO's reference is the model that it
# starts from. Models that are given are looked up instead: their number of weights must be the declared one (a published
# comparison had two models of 2.8 billion weights under the name of 6.9 billion), and the stages of a chain must share a
# tokenizer.

# %% tags=["nbval-ignore-output"]
if completions:
    print("Texts are given: no model is needed.")
    models = pd.DataFrame(columns=["family", "stage", "position", "seed", "model", "template", "job", "method"])
elif chain or tuned_model:
    models = given_chain(run.client(), run.params)
else:
    models = train_chain(run.client(), run.params, seeds=run.seeds, dataset=run.need("dataset"))
models.to_parquet(run.path("finetunes.parquet"))
models[[name for name in ("family", "stage", "seed", "template", "train_loss", "valid_loss") if name in models]]

# %% [markdown]
# A loss of SFT is nats per token of the answer; of DPO, nats per pair, which begins at log 2 (0.69), where a model prefers
# neither answer more than its reference does.
#
# ## Does each stage learn?
#
# **Prediction.** The loss of SFT falls. DPO soon prefers the right answer of nearly every pair, for evasive answers are
# easy to tell; from there on it can only press on, and what it presses on is style.

# %% tags=["nbval-ignore-output"]
curves = training_curves(run.client(), models) if len(models) else models
own = curves[curves["family"] == models["family"].iloc[0]] if len(curves) else curves
shown = {"train_loss": ("loss", "nats"), "train_reward_accuracy": ("preferred answers told apart", "rate")}
if len(own):
    told_apart = set(own.loc[own["quantity"] == "train_reward_accuracy", "stage"])
    panels = {"train_loss": own[~own["stage"].isin(told_apart)], "train_reward_accuracy": own}
    panels = {name: rows[rows["quantity"] == name] for name, rows in panels.items()}
    panels = {name: rows for name, rows in panels.items() if len(rows)}
    fig, axs = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 2.4), squeeze=False)
    for ax, (name, rows) in zip(axs[0], panels.items(), strict=True):
        plot_curves(ax, rows.assign(metric=shown[name][0], unit=shown[name][1]), x="step", by="stage")
    caption = (
        "SFT makes helpful answers likelier; DPO soon tells the preferred answer of nearly every pair. Line: mean over "
        f"spans of steps and {n_seeds} fine-tune(s), band: range over fine-tunes. {base}, preset {run.preset}."
    )
    _ = run.save(fig, "training", caption)
else:
    print("These models were trained elsewhere: there are no curves.")

# %%
for family in models["family"].unique():
    if len(chain_of(models, family)) < 2:
        raise ValueError(f"the chain of {family} has one model: there is no stage to compare")
if len(models) and models["model"].eq("").any():
    raise ValueError("a fine-tune has no model id")
run.finish("Every stage that was asked for is there, each tuned from the one before.")

# %% [markdown]
# **What this does not show.** A falling loss says nothing about diversity: a model can learn to answer and stay as broad
# as it was.
#
# Next: [03-next-token](03-next-token.ipynb).
