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
# # See which stage narrows the model
#
# **Question.** Both kinds of diversity side by side, what a model expects on given text and what it writes: which stage
# changed which, and is it what was published?
#
# **Method.** Figures of the numbers of notebook 05; nothing is computed anew.
#
# **Reads** `summary.csv` and `reading.csv` (notebook 05).
#
# **Writes** `figures/`: which-stage, over-temperature, by-measure and, where prompts have accepted answers, right-answers.
#
# **Time** 10 s

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.figures import plot_curves, plot_intervals
from lib.notebook import start_run
from lib.summary import read_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/diversity/<preset>.yaml these values come from

# %%
run = start_run("diversity/06-plotting", globals())
summary = read_summary(run.need("summary.csv"))
reading = pd.read_csv(run.need("reading.csv"))
written = summary[summary["metric"] == "distinct_texts"]
main = written["model"].iloc[0]
own = summary[summary["model"] == main]
chain = list(dict.fromkeys(own.loc[own["metric"] == "distinct_texts", "stage"]))
kinds = list(dict.fromkeys(own.loc[own["metric"] == "distinct_texts", "kind"]))
n_prompts = own.loc[own["metric"] == "distinct_texts", "n"].max()
over = "prompts and fine-tunes" if len(run.seeds) > 1 else "prompts"
about = f"{main}, {len(run.seeds)} fine-tune(s) per stage, preset {run.preset}"
steps = list(zip(chain, chain[1:], strict=False))
vendi = next(name for name in ("vendi_cosine", "vendi_jaccard_2") if (own["metric"] == name).any())


def of_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Changes from one stage to the next, in order of training."""
    rows = rows[[step in steps for step in zip(rows["before"], rows["stage"], strict=True)]]
    return rows.sort_values("stage", key=lambda stages: stages.map(chain.index), kind="stable")


# %% [markdown]
# ## Levels, stage by stage

# %% tags=["nbval-ignore-output"]
shown = ["perplexity", "coverage_70_tokens", "entropy_of_mean", "mean_entropy", "jaccard_2", "cosine", "vendi_cosine"]
shown += ["accuracy", "answer_entropy", "top_share"]
levels = own[own["metric"].isin(shown) & own["before"].isna() & own["temperature"].isna()]
levels = levels.assign(texts=levels["texts"].astype(object).fillna("all"))
levels.pivot_table("value", ["kind", "texts", "metric"], "stage", sort=False)[chain]

# %% [markdown]
# ## Which stage narrows what
#
# **What to expect**, from the published runs: next-token predictions narrow at SFT and hardly at DPO; what is written narrows
# at both, on factual prompts more than on creative ones. *No effect* is an interval that contains 0.

# %% tags=["nbval-ignore-output"]
changes = own[own["metric"].isin(["coverage_70_tokens_change", "mean_entropy_change", f"{vendi}_change"])]
changes = of_steps(changes)
of_texts = changes[changes["kind"] != "next-token"]
of_tokens = changes[changes["kind"] == "next-token"].copy()
before = own[own["before"].isna()].set_index(["kind", "metric", "stage"])["value"]
NAMES = {"coverage_70_tokens_change": "tokens with 70%\nof the probability", "mean_entropy_change": "mean entropy"}
for k, row in of_tokens.iterrows():  # in percent of the stage before
    level = before["next-token", row["metric"].removesuffix("_change"), row["before"]]
    of_tokens.loc[k, ["value", "low", "high"]] = [100 * row[name] / level for name in ("value", "low", "high")]
of_tokens = of_tokens.assign(row=of_tokens["metric"].map(NAMES) + " / " + of_tokens["stage"])
of_texts = of_texts.assign(row=of_texts["kind"] + " / " + of_texts["stage"])
panels = [
    (of_tokens.sort_values("metric", kind="stable"), "change of next-token predictions (%)"),
    (of_texts.sort_values("kind", kind="stable"), "change of effective texts (Vendi score)"),
]
panels = [(rows, label) for rows, label in panels if len(rows)]

# %% tags=["nbval-ignore-output"]
if panels:
    fig, axs = plt.subplots(1, len(panels), figsize=(6.8, 2.7), squeeze=False)
    for ax, (rows, label) in zip(axs[0], panels, strict=True):
        plot_intervals(ax, rows, by="row", zero=False)
        ax.axvline(0, color="0.5", linewidth=0.8, zorder=0)
        ax.set_xlabel(f"{label}\n\u2190 narrower          broader \u2192")
    caption = (
        "Change at each stage against the stage before it. Left: predictions on general text, in percent of the stage before, "
        f"95% interval over documents; right: effective number of texts to one prompt ({vendi}), 95% interval "
        f"over {over}, {n_prompts} prompts of each kind. {about}."
    )
    fig.suptitle("What each stage does to predictions (left) and to texts (right)")
    _ = run.save(fig, "which-stage", caption)
else:
    print("There is one stage only: nothing to compare.")

# %% [markdown]
# ## Beside the published
#
# *agrees*, *disagrees* or *unclear*, as notebook 05 computed it: does a measure move in the published direction at the same
# step?

# %% tags=["nbval-ignore-output"]
beside = reading[reading["family"] == main]
print(beside["reading"].value_counts().to_string())
beside.assign(step=beside["before"] + " -> " + beside["stage"]).pivot_table(
    "reading", ["kind", "measure"], "step", aggfunc="first", sort=False
)

# %% [markdown]
# ## Over temperature
#
# **What to expect.** At a low temperature every stage repeats itself. Stages separate as the temperature rises: a tuned model
# stays alike where the base scatters.

# %% tags=["nbval-ignore-output"]
curves = own[own["temperature"].notna() & (own["metric"] == vendi)]
fig, axs = plt.subplots(1, len(kinds), figsize=(6.8, 2.5), sharex=True, sharey=True, squeeze=False)
for ax, kind in zip(axs[0], kinds, strict=True):
    rows = curves[curves["kind"] == kind].sort_values("stage", key=lambda stage: stage.map(chain.index), kind="stable")
    plot_curves(ax, rows, x="temperature", by="stage", legend=kind == kinds[-1])
    ax.set(xlabel=f"temperature ({kind})", ylabel="effective texts")
    ax.label_outer()
caption = (
    f"Effective number of texts to one prompt ({vendi}; more is more diverse) over temperature. Line: mean over prompts, "
    f"band: 95% interval over {over}; {n_prompts} prompts of each kind. {about}."
)
fig.suptitle("Effective number of texts, by stage")
_ = run.save(fig, "over-temperature", caption)

# %% [markdown]
# ## Do the measures agree?
#
# The six measures that were chosen beforehand, as effects: a change in standard deviations over prompts, turned so that
# below 0 is narrower.

# %% tags=["nbval-ignore-output"]
effects = of_steps(own[own["metric"].str.endswith("_effect")])
if len(effects):
    effects = effects.assign(
        row=effects["metric"].str.removesuffix("_effect").str.replace("_", " ") + " / " + effects["stage"]
    )
    effects = effects.sort_values("metric", kind="stable")
    height = 1.0 + 0.15 * effects["row"].nunique()
    fig, axs = plt.subplots(1, len(kinds), figsize=(6.8, height), sharey=True, squeeze=False)
    for ax, kind in zip(axs[0], kinds, strict=True):
        plot_intervals(ax, effects[effects["kind"] == kind].assign(metric=kind, unit=""), by="row")
        ax.axvline(0, color="0.5", linewidth=0.8, zorder=0)
        ax.set_xlabel(f"{kind}\n\u2190 narrower   broader \u2192")
    caption = (
        "Effect of each stage on six measures of the texts, against the stage before it. Point: mean change in standard "
        f"deviations over prompts, below 0 narrower; bar: 95% interval over {over}; {n_prompts} prompts of each kind. {about}."
    )
    fig.suptitle("Effect of each stage on the diversity of texts, by measure")
    _ = run.save(fig, "by-measure", caption)

# %% [markdown]
# ## Less diverse, or less often wrong?
#
# **What to expect.** Tuned models answer factual prompts more often right. Where right answers alone are as diverse before a
# stage as after it, what the stage removed were errors.

# %% tags=["nbval-ignore-output"]
answered = own[(own["metric"] == "accuracy") & own["temperature"].notna()]
among = own[(own["kind"] == "factual") & own["temperature"].isna() & own["before"].isna()]
among = among[among["metric"] == vendi].assign(texts=among["texts"].astype(object).fillna("all") + " answers")
if len(answered):
    fig, axs = plt.subplots(1, 2, figsize=(6.8, 2.6))
    plot_curves(axs[0], answered, x="temperature", by="stage")
    among = among.assign(row=among["texts"] + " / " + among["stage"], metric="effective texts", unit="")
    plot_intervals(axs[1], among, by="row")
    caption = (
        "Factual prompts. Left: share of texts that contain an accepted answer, over temperature. Right: effective number of "
        "texts among all answers, and among right ones (as many of each stage). Band and bar: 95% interval over "
        f"{over}. {about}."
    )
    fig.suptitle("Right answers (left) and the diversity of all and of right answers (right)")
    _ = run.save(fig, "right-answers", caption)
else:
    print("No prompt has accepted answers.")

# %%
run.finish("The figures are in the run folder's figures/.")

# %% [markdown]
# **What this does not show.** One seed is one fine-tune of each stage; preference data of one style are a strong push, and
# people's preferences are of many styles. What narrows a model of a million weights need not be what narrows a large one.
#
# The overview of all studies: [00-overview](../00-overview.ipynb).
