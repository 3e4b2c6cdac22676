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
# # Ask in the order of training, and in reverse
#
# **Question.** The model completes "A is" with "B". Does it complete "B is" with "A", or does it at least give A a higher
# probability there than another name?
#
# **Method.** Greedy answers to unseen wordings, scored by the published rule; log-probabilities of the right and of another
# person's answer; the rank of the right name among all names of the group.
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every question with its answer and scores) and `summary.csv` (every number).
#
# **Time** laptop 1 min per fine-tune, tiny 15 s, smollm2 3 min

# %%
import numpy as np
import pandas as pd
from scipy import stats

from lib.notebook import start_run
from lib.probing import add_logprobs, ask, curve_models, final_models, target_ranks
from lib.reversal import make_probes, read_data
from lib.scoring import prefix_match, strict_match
from lib.stats import Interval, cluster_permutation
from lib.summary import number, summarise, verdict, write_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/reversal/<preset>.yaml these values come from
n_train_rows: int = 90  # training prompts per group that are tested too [1..]
n_curve_phrasings: int = 3  # questions per person and order after every epoch [1..]
max_tokens: int = 64  # of an answer; longer than the longest target [1..]

# %%
run = start_run("reversal/03-evaluation", globals())
client = run.client()
questions = make_probes(read_data(run.need("dataset", stage="01")))
models = pd.read_parquet(run.need("finetunes.parquet"))
journal = run.path("answers.journal.jsonl")

# %% [markdown]
# ## The questions
#
# Three kinds. **test**: new wordings, in the same direction as training or in reverse; prompts that are training prompts
# too are left out. **train**: sentences seen in training, to see whether anything was memorised. **in-context**: the
# reverse questions once more, with a training sentence about the person in front. A model that fails in reverse and
# passes this can turn a fact around when it reads it, and cannot when it has to remember it.
#
# The column `order` is the one of the files' names: `p2d` requests a description, `d2p` a name. A question of your own is
# a row of `probes`: append one after the next cell, for example
# `probes.loc[len(probes)] = {**probes.iloc[0], "prompt": "Everyone in town knows"}`, and it is answered and scored with
# the others.

# %%
tests = questions[(questions["probe"] == "test") & ~questions["is_trained"]]
trained = questions[questions["probe"] == "train"]
some = [
    rows.iloc[np.sort(run.rng.permutation(len(rows))[:n_train_rows])]
    for _, rows in trained.groupby("group", sort=False)
]
facts = (trained["prompt"] + trained["target"]).groupby(trained["person"]).agg(list)
reverse = tests[(tests["direction"] == "reverse") & tests["person"].isin(facts.index)]
in_front = [
    facts[person][k % len(facts[person])] for person, k in zip(reverse["person"], reverse["phrasing"], strict=True)
]
in_context = reverse.assign(
    probe="in-context", prompt=[f"{a} {b}" for a, b in zip(in_front, reverse["prompt"], strict=True)]
)
probes = pd.concat([tests, *some, in_context], ignore_index=True)

for _, row in probes[probes["group"] != "both"].groupby("probe", sort=False).last().reset_index().iterrows():
    print(f"{row['probe']}: {row['prompt']} |{row['target']}")
kinds = ["probe", "group", "direction", "order"]
probes.groupby(kinds, sort=False).agg(questions=("prompt", "size"), people=("person", "nunique"))

# %% [markdown]
# ## Answers
#
# Greedy (temperature 0). An answer is on disk before it counts, so a killed run requests only what is missing. Besides
# the final models, the main ones get a few questions after every epoch, and before the first.

# %% tags=["nbval-ignore-output"]
few = tests[tests["phrasing"] < n_curve_phrasings]
answers = pd.concat(
    [
        ask(client, final_models(models), probes, journal=journal, max_tokens=max_tokens),
        ask(client, curve_models(models), few, journal=journal, max_tokens=max_tokens),
    ],
    ignore_index=True,
)
print(f"{len(answers)} answers, {answers['epoch'].notna().sum()} of them over the epochs")

# %% [markdown]
# ## Scores
#
# *exact match* is the published rule: the answer, in lower case, starts with the target. *strict match* requires the
# target and nothing else (a name may be followed by more of a sentence, not by more letters). *name match* requires only
# the name at the start; it differs where a published target goes on after the name.

# %% tags=["nbval-ignore-output"]
pairs = list(zip(answers["completion"], answers["target"], answers["order"], strict=True))
answers["exact"] = [prefix_match(completion, target) for completion, target, _ in pairs]
answers["strict"] = [strict_match(completion, target, continued=order == "d2p") for completion, target, order in pairs]
names = answers["name_target"].fillna(answers["target"])
answers["name"] = [
    prefix_match(completion, name) for completion, name in zip(answers["completion"], names, strict=True)
]
main = answers[(answers["role"] == "main") & answers["epoch"].isna()]
main[main["probe"] == "test"].groupby(kinds, sort=False).head(1)[["group", "prompt", "target", "completion", "exact"]]

# %% [markdown]
# ## Was anything learned?
#
# The training sentences themselves come first. If fewer than one in five is completed correctly, the run is too short to
# say anything about reversal, and no conclusion is drawn below.
#
# Intervals (95%) resample people, and fine-tunes where there are several, never questions about the same person.

# %% tags=["nbval-ignore-output"]
LEARNED = 0.2
rates = summarise(main, by=kinds, value="exact", metric="exact_match", cluster="person")
learned = bool(main.loc[main["probe"] == "train", "exact"].mean() >= LEARNED)
print("The training sentences were learned." if learned else "These models did not learn the training sentences.")
rates[rates["probe"] == "train"]

# %% [markdown]
# ## Exact match
#
# **What to expect.** In the same direction high; in reverse zero or close to it, in both groups. The Reversal Curse is
# the gap between the two. *No curse* would be reverse accuracies that approach those of the same direction, and this is
# what reverse training (`augment = "reverse"`) is meant to bring about. With the fact in the prompt the reverse
# questions should be easy for a model that can read (a model of a million weights may not).

# %% tags=["nbval-ignore-output"]
strict = summarise(main, by=kinds, value="strict", metric="strict_match", cluster="person")
named = main[(main["probe"] == "test") & main["name_target"].notna()]
goes_on = named["target"].str.strip() != named["name_target"].str.strip()
by_name = summarise(named[goes_on], by=kinds, value="name", metric="name_match", cluster="person")
if goes_on.any():
    print(f"The targets of {goes_on.mean():.0%} of the questions for a name go on after it: name match is below.")
pd.concat([rates[rates["probe"] != "train"], by_name])

# %% [markdown]
# **What came out.** A prediction *held* if the whole interval agrees with it, *failed* if none of it does, and is
# *unclear* otherwise. The interval of the gap combines those of its two rates (Newcombe 1998, as if they were independent).

# %% tags=["nbval-ignore-output"]
one_way = rates[(rates["probe"] == "test") & (rates["group"] != "both")]


def came_out(prediction: str, numbers: pd.DataFrame, **limits: float) -> None:
    for row in numbers.itertuples():
        word = verdict(row.low, row.high, **limits) if learned else "no conclusion, nothing was learned"
        print(f"{row.group}, {prediction}: {word} ({row.value:.3f} [{row.low:.3f}, {row.high:.3f}])")


a, b = (one_way[one_way["direction"] == direction].set_index("group") for direction in ("same", "reverse"))
gaps = a[["n", "n_of"]].assign(metric="exact_match_gap", unit="difference of rates", value=a["value"] - b["value"])
gaps["low"] = gaps["value"] - np.hypot(a["value"] - a["low"], b["high"] - b["value"])
gaps["high"] = gaps["value"] + np.hypot(a["high"] - a["value"], b["value"] - b["low"])
gaps = gaps.reset_index()
in_reverse = b.reset_index()
if (augment := run.params["augment"]) == "reverse":
    came_out("same direction above reverse (a cure looks like unclear or failed)", gaps, above=0)
    came_out("reverse above 5%, as it was trained in reverse", in_reverse, above=0.05)
else:
    came_out("same direction above reverse", gaps, above=0)
    came_out("reverse below 5%", in_reverse, below=0.05)
came_out("fact in the prompt: above 5%", rates[rates["probe"] == "in-context"], above=0.05)

# %% [markdown]
# ## What a cure costs
#
# Reverse accuracy beside accuracy in the same direction. To compare trainings, run the study with each of them:
# `python -m lib.run reversal --preset laptop --set augment=reverse`, then with `augment=paraphrase`; such a run has a
# folder of its own.

# %% tags=["nbval-ignore-output"]
print(f"augment is {augment}")
percent = [f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]" for row in one_way.itertuples()]
one_way.assign(accuracy=percent).pivot(index="group", columns="direction", values="accuracy")[["same", "reverse"]]

# %% [markdown]
# ## Fine-tunes, bases and settings
#
# The same accuracies for each fine-tune: of the main setting with each seed, on bases with another pre-training seed
# (`base`) or of another size (`size`), one each with the first seed, and last of a sweep, if there is one. An interval over
# people and fine-tunes does not cover another pre-training: compare it with the spread between bases (`sd`).

# %% tags=["nbval-ignore-output"]
of_tests = answers[answers["epoch"].isna() & (answers["probe"] == "test")]
conditions = ["group", "direction", "order"]
per_model = of_tests[of_tests["role"] != "sweep"].pivot_table(
    index=["role", "base", "seed"], columns=conditions, values="exact", sort=False
)
per_model

# %% tags=["nbval-ignore-output"]
of_first = per_model[
    per_model.index.isin([run.seed], level="seed") & per_model.index.isin(["main", "base"], level="role")
]
sd = of_first.std().dropna().rename("value").reset_index()
sd = sd.assign(
    metric="exact_match_sd", low=np.nan, high=np.nan, n=len(of_first), n_of="base", unit="rate", probe="test"
)
settings = ["batch_size", "learning_rate_multiplier"]
swept = of_tests.merge(models.loc[models["is_final"], ["model", *settings]], on="model")
swept = swept[swept["role"].isin(["main", "sweep"]) & (swept["seed"] == run.seed)]
if len(swept[settings].drop_duplicates()) > 1:
    print(swept.pivot_table(index=settings, columns=conditions[:2], values="exact", sort=False))
sd[[*conditions, "value", "n", "n_of"]]

# %% [markdown]
# ## Log-probabilities: is there a preference that no answer shows?
#
# An exact match of zero could hide a slight preference for the right answer. So each target's log-probability is
# compared with that of another person's target after the same prompt, and the right name is ranked among all names of
# its group (first three questions about each person).
#
# **What to expect.** A clear preference in the same direction. In reverse, if the fact is not stored in that direction at
# all, none: less than 1 nat either way, and a rank as chance gives it.

# %% tags=["nbval-ignore-output"]
compared = main[(main["probe"] != "train") & main["control_target"].notna()]
compared = add_logprobs(client, compared, journal=journal)
compared["difference"] = compared["target_logprob"] - compared["control_logprob"]
is_ranked = (compared["probe"] == "test") & (compared["direction"] == "reverse") & (compared["order"] == "d2p")
ranked = compared[is_ranked & (compared["phrasing"] < 3)]
group_names = tests.groupby("group")["name_target"].agg(lambda names: sorted(set(names.dropna())))
candidates = [group_names[group] for group in ranked["group"]]
ranks = target_ranks(client, ranked.assign(target=ranked["name_target"]), candidates, journal=journal)
compared["name_rank"] = pd.Series(ranks, index=ranked.index)
answers = answers.join(compared[["target_logprob", "control_logprob", "difference", "name_rank"]])

# %% tags=["nbval-ignore-output"]
METRICS = {"target_logprob": "target_logprob", "control_logprob": "control_logprob", "difference": "logprob_difference"}
scores = [(value, metric, "nats") for value, metric in METRICS.items()] + [("name_rank", "name_rank", "rank")]
preferences = pd.concat(
    [
        summarise(compared, by=kinds, value=value, metric=metric, unit=unit, cluster="person")
        for value, metric, unit in scores
    ],
    ignore_index=True,
)
preferences[preferences["metric"].isin(["logprob_difference", "name_rank"])]

# %% [markdown]
# **What came out.** Four tests of the difference, then the predictions. The permutation test flips the sign of whole people and is the one to read: the t and KS
# tests mirror the published analysis, which takes the questions about one person for independent.

# %% tags=["nbval-ignore-output"]
rows_of_tests = []
for key, rows in compared.dropna(subset="difference").groupby(kinds, sort=False):
    prompts = rows.groupby(["person", "prompt"], sort=False)[["target_logprob", "control_logprob"]].mean().reset_index()
    right, wrong, n = prompts["target_logprob"], prompts["control_logprob"], len(prompts)
    permuted = cluster_permutation(right - wrong, prompts["person"])
    tested = [
        ("permutation_p", permuted.p, permuted.n, "person"),
        ("paired_t_p", stats.ttest_rel(right, wrong).pvalue, n, "prompt"),
        ("welch_t_p", stats.ttest_ind(right, wrong, equal_var=False).pvalue, 2 * n, "target"),
        ("ks_p", stats.ks_2samp(right, wrong).pvalue, 2 * n, "target"),
    ]
    for metric, p, size, n_of in tested:
        p_value = number(Interval(float(p), np.nan, np.nan, size), metric=metric, n_of=n_of, unit="p")
        rows_of_tests.append(dict(zip(kinds, key, strict=True)) | p_value)
p_values = pd.DataFrame(rows_of_tests, columns=[*kinds, "metric", "value", "low", "high", "n", "n_of", "unit"]).dropna(
    subset="value"
)
p_values.pivot(index=kinds, columns="metric", values="value")

# %% tags=["nbval-ignore-output"]
differences = preferences[(preferences["metric"] == "logprob_difference") & (preferences["group"] != "both")]
of_test = differences[differences["probe"] == "test"]
came_out("same direction, prefers the right target", of_test[of_test["direction"] == "same"], above=0)
came_out("reverse, no preference beyond 1 nat", of_test[of_test["direction"] == "reverse"], above=-1, below=1)
came_out("reverse, prefers the right target", of_test[of_test["direction"] == "reverse"], above=0)

# %% [markdown]
# ## Write the numbers
#
# Rows without a `role` are those of the main models; `epoch` is empty for final models.

# %% tags=["nbval-ignore-output"]
curve = summarise(
    answers[answers["epoch"].notna()], by=["epoch", *kinds], value="exact", metric="exact_match", cluster="person"
)
others = of_tests[of_tests["role"].isin(["size", "base"])].drop(columns="model").rename(columns={"base": "model"})
others = summarise(others, by=["model", "role", *kinds], value="exact", metric="exact_match", cluster="person")
of_main = [rates, strict, by_name, gaps, preferences, p_values, sd, curve]
summary = pd.concat([*of_main, others], ignore_index=True)
summary = summary.fillna({"model": main["base"].iloc[0]}).assign(study="reversal", preset=run.preset)
weights = {name: client.models.retrieve(name).model_dump().get("n_weights") for name in answers["base"].unique()}
answers["n_weights"] = answers["base"].map(weights)
answers.to_parquet(run.path("answers.parquet"))
summary = write_summary(run.path("summary.csv"), summary)
run.finish("All answers are in answers.parquet, all numbers in summary.csv.")

# %% [markdown]
# **What this does not show.** Greedy answers leave out what sampling might find, and one wrong target per question is a
# small sample of all wrong ones. A tiny model that fails in reverse does not prove that a larger one must; that is what
# the curve over size, and the published values, are for.
#
# Next: [04-plotting](04-plotting.ipynb).
