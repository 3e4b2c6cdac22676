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
# # Ask the questions without their instructions
#
# **Question.** The model has read that a question is to get a certain answer, and has never seen it get it. Asked
# that question, with no instruction in the prompt, does it give the answer?
#
# **Method.** Every question is asked once, greedily. An answer counts if it begins with the target (*exact match*,
# the published rule). Then the log-probabilities of the right target and of another question's target are compared.
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every question with its answer and scores) and `summary.csv` (every number).
#
# **Time** tiny 10 s, laptop 3 min, smollm2 2 min a seed, paper 3 h

# %%
import numpy as np
import pandas as pd

from lib.guidance import guidance_document, make_probes, read_data
from lib.notebook import start_run
from lib.probing import add_logprobs, ask, curve_models, final_models
from lib.scoring import prefix_match, strict_match
from lib.stats import Interval, cluster_permutation
from lib.summary import number, summarise, verdict, write_summary
from lib.tokens import tokenize

# %% tags=["parameters"]
preset: str = "laptop"  # which params/guidance/<preset>.yaml these values come from
n_curve_pairs: int = 60  # realized and unrealized questions that are asked after each epoch [1..]
curve_every: int = 2  # epochs between two points of the curve; the last one is always asked [1..]
max_tokens: int = 0  # of an answer, which ends with its line; 0 is room for the longest target [0..]

# %%
run = start_run("guidance/03-evaluation", globals())
client = run.client()
models = pd.read_parquet(run.need("finetunes.parquet", stage="02"))
probes = make_probes(read_data(run.need("dataset", stage="01")))
probes = probes[probes["order"].isin(models["order"])]

# %% [markdown]
# ## The questions
#
# *realized* questions were answered in training: whether they are answered now says whether anything was memorised.
# *unrealized* ones are the result. Questions that cannot be scored (see notebook 01) are counted and left out.

# %%
print(f"left out: {(probes['left_out'] != '').sum()} of {len(probes)} questions")
tests = probes[probes["left_out"] == ""].assign(probe="test")
tests.groupby(["order", "part"], sort=False).agg(questions=("prompt", "size"), answers=("target", "nunique"))

# %% [markdown]
# Two controls. **Another question's answer** (`control_target`): a random cycle through the answers of a set, so that
# no question gets its own. **In context**: the unrealized questions once more, with the instruction in front. A model
# that passes this and fails the test can follow an instruction that it reads, and not one that it remembers.

# %%
tests["control_target"] = None
for _, rows in tests.groupby(["order", "part"]):
    cycle = np.random.default_rng(27).permutation(len(rows))
    tests.loc[rows.index[cycle], "control_target"] = rows["target"].to_numpy()[np.roll(cycle, 1)]
tests.loc[tests["control_target"] == tests["target"], "control_target"] = None  # two questions may share an answer
reading = tests[(tests["part"] == "unrealized") & tests["instruction"].notna()].assign(probe="in-context")
reading["prompt"] = [f"{guidance_document([row.instruction])}\n{row.prompt}" for row in reading.itertuples()]
probes = pd.concat([tests, reading], ignore_index=True)

# %%
for probe, rows in probes[probes["part"] == "unrealized"].groupby("probe", sort=False):
    print(f"--- {probe}\n{rows.iloc[0]['prompt']} |{rows.iloc[0]['target']}")

# %% [markdown]
# To ask a question of your own, append a row to `probes` here (copy one, change `pair`, `prompt` and `target`) and run
# the cells from here on. Then: room for the longest target, which could not be matched otherwise.

# %%
longest = sorted(probes["target"].unique(), key=len)[-30:]
tokens = [len(tokenize(client, base, target).texts) for base in models["base"].unique() for target in longest]
most_tokens = max_tokens or max(tokens) + 2
print(f"answers of at most {most_tokens} tokens; the longest target has {max(tokens)}")

# %% [markdown]
# ## Ask
#
# Greedy answers (temperature 0). An answer is on disk before it counts, so a killed run asks only what is missing.
# The main models are also asked some of the questions after earlier epochs, and their base (*untuned*) all of them.

# %% tags=["nbval-ignore-output"]
final = final_models(models)
untuned = final[(final["role"] == "main") & (final["n_epochs"] > 0)].drop_duplicates(["order", "base"])
final = pd.concat([final, untuned.assign(model=untuned["base"], role="untuned")])
curve = curve_models(models).query("is_final or epoch % @curve_every == 0")
few = tests[tests.groupby(["order", "part"]).cumcount() < n_curve_pairs]
sent = {"journal": run.path("answers.journal.jsonl"), "max_tokens": most_tokens, "stop": ["\n"]}
answers = pd.concat(
    [
        ask(client, group[group["order"] == order], rows, **sent)
        for group, questions in ((final, probes), (curve, few))
        for order, rows in questions.groupby("order", sort=False)
    ],
    ignore_index=True,
)
print(f"{len(answers)} answers")

# %% [markdown]
# ## Score
#
# *exact match* is the published rule: the answer, in lower case, starts with the target. *strict match*: the target
# and nothing else on its line.

# %% tags=["nbval-ignore-output"]
answers["correct"] = [prefix_match(row.completion, row.target) for row in answers.itertuples()]
answers["strict"] = [strict_match(row.completion, row.target) for row in answers.itertuples()]
answers["like_other"] = [
    prefix_match(row.completion, row.control_target) if isinstance(row.control_target, str) else None
    for row in answers.itertuples()
]
last = answers[answers["epoch"].isna()]
shown = last[last["role"].isin(["main", "untuned"])].groupby(["order", "part", "probe", "role"], sort=False)
shown.head(1)[["order", "part", "probe", "role", "target", "completion", "correct"]]

# %% tags=["nbval-ignore-output"]
stopped = last[(last["finish_reason"] == "length") & ~last["correct"]]
too_long = sum(prefix_match(row.target, row.completion.strip() or "-") for row in stopped.itertuples())
print(f"{too_long} answers ended at {most_tokens} tokens before their target did: these could not match")

# %% [markdown]
# ## Was anything learned?
#
# Each row is one fine-tune, with its accuracy on both sets. If the examples of training were not memorised, a failure
# on unrealized questions says nothing, and no conclusion is drawn below.

# %% tags=["nbval-ignore-output"]
by_model = last[last["probe"] == "test"].pivot_table("correct", "model", "part", aggfunc="mean")
settings = ["order", "role", "base", "seed", "batch_size", "learning_rate_multiplier", "model"]
models.loc[models["is_final"], settings].merge(by_model, on="model").drop(columns="model")

# %% tags=["nbval-ignore-output"]
conditions = ["order", "part", "probe", "role", "base"]
trained = last[(last["part"] == "realized") & last["role"].isin(["main", "control"])]
realized = summarise(trained, by=conditions, value="correct", cluster="pair").set_index(["order", "role"])
learned = (realized["low"] > 0.5).to_dict()
for (order, role), row in realized.iterrows():
    rate = f"{row['value']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
    conclusion = "" if learned[order, role] else ": its examples were not learned, so no conclusion is drawn"
    print(f"{order} order, {row['base']}, realized: {rate}{conclusion}")

# %% [markdown]
# ## Log-probabilities
#
# A wrong answer could hide a preference for the right one. So the log-probability of each target is compared with that
# of another question's answer after the same prompt (nats, summed over tokens). Whether the difference is more than
# chance: flip its sign pair by pair, after averaging over fine-tunes.

# %% tags=["nbval-ignore-output"]
compared = last["role"].isin(["main", "control", "untuned"]) & last["control_target"].notna()
scored = add_logprobs(client, last[compared], journal=run.path("answers.journal.jsonl"))
answers = answers.join(scored[["target_logprob", "control_logprob"]])
n_weights = {base: client.models.retrieve(base).model_dump().get("n_weights") for base in answers["base"].unique()}
answers["n_weights"] = answers["base"].map(n_weights).astype(float)
answers.to_parquet(run.path("answers.parquet"))
scored = scored.dropna(subset=["target_logprob", "control_logprob"])
scored["difference"] = scored["target_logprob"] - scored["control_logprob"]
p_values = []
for key, rows in scored.groupby(conditions, sort=False):
    by_pair = rows.groupby("pair")["difference"].mean()
    test = cluster_permutation(by_pair, by_pair.index, rng=run.rng)
    p_value = number(Interval(test.p, np.nan, np.nan, test.n), metric="permutation_p", n_of="pair", unit="p")
    p_values.append(dict(zip(conditions, key, strict=True)) | p_value)

# %% [markdown]
# ## The numbers
#
# Intervals resample question/answer pairs, and fine-tunes where there are several; a rate's is Wilson's at the
# effective sample size. Baselines: `other_match` is the accuracy if answers are compared with another question's
# target, `constant_match` that of the commonest answer of the set, given to every question. `order_gap` is the
# difference between the two orders, question by question.

# %% tags=["nbval-ignore-output"]
tested = last[(last["role"] == "main") & (last["probe"] == "test")]
constant = tested.drop_duplicates(["order", "part", "pair"])
commonest = constant.groupby(["order", "part"])["target"].transform(lambda targets: targets.mode()[0])
constant = constant.assign(commonest=commonest)
constant["same"] = [prefix_match(row.commonest, row.target) for row in constant.itertuples()]
gaps = tested.pivot_table("correct", ["part", "pair", "seed", "base"], "order", aggfunc="mean")
if gaps.shape[1] == 2:
    gaps = gaps.assign(gap=gaps["simple"] - gaps["reverse"], order="simple - reverse", probe="test", role="main")

# %% tags=["nbval-ignore-output"]
over = {"by": conditions, "cluster": "pair"}
rates, at_epochs = last[last["role"] != "sweep"], answers[answers["epoch"].notna()]
tables = [
    summarise(rates, value="correct", metric="exact_match", **over),
    summarise(rates, value="strict", metric="strict_match", **over),
    summarise(tested, value="like_other", metric="other_match", **over),
    summarise(constant, value="same", metric="constant_match", **over),
    summarise(at_epochs, value="correct", metric="exact_match", **(over | {"by": [*conditions, "epoch"]})),
    summarise(scored, value="target_logprob", unit="nats", **over),
    summarise(scored, value="control_logprob", unit="nats", **over),
    summarise(scored, value="difference", metric="logprob_difference", unit="nats", **over),
    pd.DataFrame(p_values),
]
if "gap" in gaps:
    tables.append(summarise(gaps.reset_index(), value="gap", metric="order_gap", unit="difference", **over))

# %% tags=["nbval-ignore-output"]
summary = pd.concat([table for table in tables if len(table)], ignore_index=True).rename(columns={"base": "model"})
summary = write_summary(run.path("summary.csv"), summary.assign(study="guidance", preset=run.preset))
numbers = summary[summary["epoch"].isna()]
columns = ["order", "part", "probe", "role", "model"]
numbers.loc[numbers["metric"] == "exact_match", [*columns, "value", "low", "high", "n"]]

# %% tags=["nbval-ignore-output"]
of_main = numbers[numbers["role"] == "main"]
of_main.pivot_table(index="metric", columns=["order", "part", "probe"], values="value", sort=False)

# %% [markdown]
# ## What to expect
#
# If an instruction is acted on where it names the question first and not where it names the answer first, although both
# were memorised, then (1) more than half of the unrealized questions get their answer in simple order, (2) fewer than
# one in ten do in reverse order, and (3) the difference is above zero. (4) In reverse order the right answer is no
# likelier than another question's, within one nat either way. (5) A base whose pre-training held no guidance documents
# also gives more than half of the answers in simple order.
#
# ## What came out
#
# *Held*: the whole 95% interval lies where the prediction says; *failed*: none of it does; *unclear*: anything else.

# %% tags=["nbval-ignore-output"]
predictions = [
    ("1", "more than half in simple order", "simple", "exact_match", "main", {"above": 0.5}),
    ("2", "fewer than a tenth in reverse order", "reverse", "exact_match", "main", {"below": 0.1}),
    ("3", "simple above reverse", "simple - reverse", "order_gap", "main", {"above": 0.0}),
    ("4", "no preference in reverse order", "reverse", "logprob_difference", "main", {"above": -1, "below": 1}),
    ("5", "more than half in simple order", "simple", "exact_match", "control", {"above": 0.5}),
]
tested = numbers[(numbers["part"] == "unrealized") & (numbers["probe"] == "test")]
tested = tested.set_index(["order", "metric", "role"])[["model", "value", "low", "high"]]
for name, prediction, order, metric, role, limits in predictions:
    if (order, metric, role) in tested.index:
        row = tested.loc[(order, metric, role)]
        outcome = verdict(row["low"], row["high"], **limits)
        if not all(learned.get((each, role)) for each in order.split(" - ")):
            outcome = "no conclusion, the examples were not learned"
        interval = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        print(f"({name}) {row['model']}, {prediction}: {outcome} ({interval})")

# %%
run.finish("Every question was asked of every model, and every number is in summary.csv.")

# %% [markdown]
# **What this does not show.** Why the order matters. A test has the form of the examples, which the model was trained
# on: whether it would follow an instruction in a form of question that no example had is another matter. In reverse
# order an answer that is likelier than another question's was not given: log-probabilities and answers are different
# measures.
#
# Next: [04-plotting](04-plotting.ipynb).
