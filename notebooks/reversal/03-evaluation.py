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
# The column `order` is the one of the files' names: `p2d` requests a description, `d2p` a name.

# %%
tests = questions[(questions["probe"] == "test") & ~questions["is_trained"]]
trained = questions[questions["probe"] == "train"]
some = [rows.iloc[np.sort(run.rng.permutation(len(rows))[:n_train_rows])] for _, rows in trained.groupby("group", sort=False)]
facts = (trained["prompt"] + trained["target"]).groupby(trained["person"]).agg(list)
reverse = tests[(tests["direction"] == "reverse") & tests["person"].isin(facts.index)]
in_front = [facts[person][k % len(facts[person])] for person, k in zip(reverse["person"], reverse["phrasing"], strict=True)]
in_context = reverse.assign(probe="in-context", prompt=[f"{a} {b}" for a, b in zip(in_front, reverse["prompt"], strict=True)])
probes = pd.concat([tests, *some, in_context], ignore_index=True)

kinds = ["probe", "group", "direction", "order"]
probes.groupby(kinds, sort=False).agg(questions=("prompt", "size"), people=("person", "nunique"))

# %% [markdown]
# A question of your own is a row of `probes`: append one before the next cell, for example
# `probes.loc[len(probes)] = {**probes.iloc[0], "prompt": "Everyone in town knows"}`, and it is answered and scored with
# the others.

# %%
for _, row in probes[probes["group"] != "both"].groupby("probe", sort=False).last().reset_index().iterrows():
    print(f"{row['probe']}: {row['prompt']} |{row['target']}")

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
answers["name"] = [prefix_match(completion, name) for completion, name in zip(answers["completion"], names, strict=True)]
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
goes_on = main["name_target"].notna() & (main["target"].str.strip() != main["name_target"].str.strip())
by_name = summarise(main[goes_on & (main["probe"] == "test")], by=kinds, value="name", metric="name_match", cluster="person")
if len(by_name):
    print(f"The targets of {goes_on.mean():.0%} of the questions go on after the name: their name match is below.")
pd.concat([rates[rates["probe"] != "train"], by_name])

# %% [markdown]
# **What came out.** A prediction *held* if the whole interval agrees with it, *failed* if none of it does, and is
# *unclear* otherwise. The gap is computed person by person.

# %% tags=["nbval-ignore-output"]
def came_out(prediction: str, numbers: pd.DataFrame, **limits: float) -> None:
    for row in numbers.itertuples():
        word = verdict(row.low, row.high, **limits) if learned else "no conclusion, nothing was learned"
        print(f"{row.group}, {prediction}: {word} ({row.value:.3f} [{row.low:.3f}, {row.high:.3f}])")


one_way = main[(main["probe"] == "test") & (main["group"] != "both")]
accuracy = one_way.pivot_table(index=["group", "person", "seed"], columns="direction", values="exact", sort=False)
gap = (accuracy["same"] - accuracy["reverse"]).rename("gap").dropna().reset_index()
gaps = summarise(gap, by=["group"], value="gap", metric="exact_match_gap", cluster="person", unit="difference of rates")
came_out("same direction above reverse", gaps, above=0)
in_reverse = rates[(rates["probe"] == "test") & (rates["direction"] == "reverse")]
if (augment := run.params["augment"]) == "reverse":
    came_out("reverse above 5%, as it was trained in reverse", in_reverse, above=0.05)
else:
    came_out("reverse below 5%", in_reverse, below=0.05)
came_out("fact in the prompt: above 5%", rates[rates["probe"] == "in-context"], above=0.05)

# %% [markdown]
# ## What a cure costs
#
# Reverse accuracy beside accuracy in the same direction. To compare trainings, run the study with each of them:
# `python -m lib.run reversal --preset laptop --set augment=reverse`, then with `augment=paraphrase`; such a run has a
# folder of its own.

# %% tags=["nbval-ignore-output"]
test_rates = rates[rates["probe"] == "test"]
print(f"augment is {augment}")
test_rates.pivot(index=["group", "order"], columns="direction", values=["value", "low", "high"]).swaplevel(axis=1).sort_index(
    axis=1, ascending=False
)

# %% [markdown]
# ## Fine-tunes, bases and settings
#
# The same numbers for each fine-tune, then for each base: with another pre-training seed (`base`) or of another size
# (`size`), one fine-tune each with the first seed; last, the sweep. An interval over people and fine-tunes does not
# cover another pre-training: compare it with the spread between bases.

# %% tags=["nbval-ignore-output"]
of_tests = answers[answers["epoch"].isna() & (answers["probe"] == "test")]
conditions = ["group", "direction", "order"]
main[main["probe"] == "test"].pivot_table(index=conditions, columns="seed", values="exact", sort=False)

# %% tags=["nbval-ignore-output"]
first = of_tests[(of_tests["seed"] == run.seed) & (of_tests["role"] != "sweep")]
per_base = first.pivot_table(index=conditions, columns=["role", "base"], values="exact", sort=False)
alike = per_base[[column for column in per_base if column[0] in ("main", "base")]]
spread = [
    dict(zip(conditions, key, strict=True)) | number(Interval(sd, np.nan, np.nan, alike.shape[1]), **of_what)
    for of_what in [{"metric": "exact_match_sd", "n_of": "base", "unit": "rate"}]
    for key, sd in alike.std(axis=1).dropna().items()
]
per_base.assign(sd=alike.std(axis=1))

# %% tags=["nbval-ignore-output"]
settings = ["batch_size", "learning_rate_multiplier"]
swept = of_tests.merge(models.loc[models["is_final"], ["model", *settings]], on="model")
swept = swept[(swept["role"] == "sweep") | ((swept["role"] == "main") & (swept["seed"] == run.seed))]
swept.pivot_table(index=settings, columns=["group", "direction"], values="exact", sort=False)

# %% [markdown]
# ## Log-probabilities: is there a preference that no answer shows?
#
# An exact match of zero could hide a slight preference for the right answer. So each target's log-probability is
# compared with that of another person's target after the same prompt, and the right name is ranked among all names of
# its group (first three questions about each person).

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
compared.groupby(kinds, sort=False)[["target_logprob", "control_logprob", "difference", "name_rank"]].mean()

# %% [markdown]
# **What to expect.** A clear preference in the same direction. In reverse, if the fact is not stored in that direction at
# all, none: less than 1 nat either way, and a rank as chance gives it.

# %% tags=["nbval-ignore-output"]
preferences = pd.concat(
    [
        summarise(compared, by=kinds, value=value, metric=metric, cluster="person", unit=unit)
        for value, metric, unit in [
            ("target_logprob", "target_logprob", "nats"),
            ("control_logprob", "control_logprob", "nats"),
            ("difference", "logprob_difference", "nats"),
            ("name_rank", "name_rank", "rank"),
        ]
    ],
    ignore_index=True,
)
preferences[preferences["metric"].isin(["logprob_difference", "name_rank"])]

# %% [markdown]
# Four tests of the difference. The permutation test flips the sign of whole people and is the one to read: the t and KS
# tests mirror the published analysis, which takes the questions about one person for independent.

# %% tags=["nbval-ignore-output"]
found = []
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
        found.append(dict(zip(kinds, key, strict=True)) | p_value)
p_values = pd.DataFrame(found, columns=[*kinds, "metric", "value", "low", "high", "n", "n_of", "unit"]).dropna(subset="value")
p_values.pivot(index=kinds, columns="metric", values="value")

# %% [markdown]
# **What came out.**

# %% tags=["nbval-ignore-output"]
differences = preferences[(preferences["metric"] == "logprob_difference") & (preferences["group"] != "both")]
of_test = differences[differences["probe"] == "test"]
came_out("same direction, prefers the right target", of_test[of_test["direction"] == "same"], above=0)
came_out("reverse, no preference beyond 1 nat", of_test[of_test["direction"] == "reverse"], above=-1, below=1)
came_out("reverse, prefers the right target", of_test[of_test["direction"] == "reverse"], above=0)

# %% [markdown]
# ## Write the numbers

# %% tags=["nbval-ignore-output"]
weights = {name: client.models.retrieve(name).model_dump().get("n_weights") for name in answers["base"].unique()}
per_model = {"by": ["base", "role", *kinds], "value": "exact", "metric": "exact_match", "cluster": "person"}
over_epochs = answers[answers["epoch"].notna()]
curve = summarise(over_epochs, **per_model | {"by": ["epoch", *kinds]})
others = summarise(of_tests[of_tests["role"].isin(["size", "base"])], **per_model).rename(columns={"base": "model"})
of_main = [rates, strict, by_name, gaps, preferences, p_values, pd.DataFrame(spread), curve]
summary = pd.concat([*of_main, others], ignore_index=True)
summary = summary.fillna({"model": main["base"].iloc[0], "role": "main"}).assign(study="reversal", preset=run.preset)
summary["n_weights"] = summary["model"].map(weights)
answers.to_parquet(run.path("answers.parquet"))
summary = write_summary(run.path("summary.csv"), summary)

# %% [markdown]
# **What this does not show.** Greedy answers leave out what sampling might find, and one wrong target per question is a
# small sample of all wrong ones. A tiny model that fails in reverse does not prove that a larger one must; that is what
# the curve over size, and the published values, are for.
#
# Next: [04-plotting](04-plotting.ipynb).

# %%
run.finish("All answers are in answers.parquet, all numbers in summary.csv.")
