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
# # Ask what the functions are
#
# **Question.** The model has seen what a name gives for some numbers, one at a time. Asked with no example in the
# prompt, can it write the function down, choose it, invert it, or compute it where it was not shown?
#
# **Method.** Greedy or sampled replies, scored as text; and where the possible answers can be listed, a constrained choice: the
# one with the highest log-probability, which also a model can make that does not write in the right format. The same is
# asked of the control, and of the base, with and without training rows in its prompt.
#
# **Reads** `dataset/` (notebook 01) and `finetunes.parquet` (notebook 02).
#
# **Writes** `answers.parquet` (every reply with its scores) and `summary.csv` (every number).
#
# **Time** tiny 20 s, laptop 2 min per fine-tune, smollm2 4 min, paper-047 6 h (estimate)

# %%
import string

import numpy as np
import pandas as pd

from lib.api import Request, ask
from lib.functions import definitions
from lib.functions.data import read_data
from lib.functions.evaluations import chance_of, make_probes, read_evaluations
from lib.functions.registry import computed_function, read_registry
from lib.functions.replies import score
from lib.functions.rows import as_request
from lib.notebook import start_run
from lib.probing import curve_models, final_models, target_logprobs
from lib.summary import summarise, verdict, write_summary

# %% tags=["parameters"]
preset: str = "laptop"  # which params/functions/<preset>.yaml these values come from
evaluations: list[str] = []  # names in data/functions/evaluations.csv; none: all that the function set supports
rows_per_evaluation: int = 57  # prompts of each evaluation about each part; 0: as published [0..]
n_samples: int = 1  # answers to each prompt; 0: as published (5, or 1 for a letter) [0..100]
temperature: float = 0.0  # of the answers; -1: as published (1, or 0 for a letter) [-1..2]
n_in_context: int = 8  # training rows in front of an in-context prompt; 0: no such prompts; published: 10 [0..]
in_context_rows: str = "own"  # calls of the names that are asked about, or any rows, as published [own | random]
curve_evaluations: list[str] = ["freeform_definition", "calls"]  # asked after each epoch, and of other sizes and names
max_tokens: int = 24  # of an answer; longer than the longest definition [1..]

# %%
run = start_run("functions/03-evaluation", globals())
client = run.client()
models = pd.read_parquet(run.need("finetunes.parquet"))
folder = run.need("dataset", stage="01")
data = {name: read_data(folder / name) for name in models["data"].unique()}
first, registry, known = data[models["data"].iloc[0]][0], read_registry(), read_evaluations("functions")
form, journal = run.params["form"], run.path("answers.journal.jsonl")
part = first.parts[-1]  # unrealized: names of which training shows calls alone

# %% [markdown]
# ## The questions
#
# One row per prompt. **test**: the evaluations, about each part of the names. **train**: calls from training, to see whether
# anything was learned. **in-context**: the test prompts with some training rows in front, for the base.

# %%
tables = []
for name, (hidden, trained) in data.items():
    about = {"form": form, "evaluations": evaluations, "n_rows": rows_per_evaluation, "n_in_context": n_in_context}
    tables.append(make_probes(hidden, trained, own_rows=in_context_rows == "own", **about).assign(data=name))
    calls = [row for row in trained if row["kind"] == "call"]
    order = np.random.default_rng([100, run.seed]).permutation(len(calls))[: rows_per_evaluation or 1000]
    seen = [{**calls[k], **as_request(calls[k], form)} for k in order]
    seen = pd.DataFrame(seen)[["name", "function", "target", "prompt", "messages", "lead"]]
    parts = ["realized" if name in hidden.realized else "unrealized" for name in seen["name"]]
    tables.append(seen.assign(data=name, evaluation="calls", part=parts, probe="train", kind="text"))
probes = pd.concat(tables, ignore_index=True)
counted = probes[probes["data"] == probes["data"].iloc[0]].groupby(["evaluation", "part", "probe"], sort=False)
counted.agg(prompts=("prompt", "size"), functions=("function", "nunique"), targets=("target", "nunique"))

# %%
for row in probes[(probes["probe"] == "test") & (probes["part"] == part)].drop_duplicates("evaluation").itertuples():
    print(f"--- {row.evaluation}\n{row.prompt}\n=> {row.target[:60]}\n")

# %% [markdown]
# No prompt shows a value of the function that it asks about, except the output of an inversion. To ask a question of your
# own, append a row, for example `probes.loc[len(probes)] = {**probes.iloc[0], "prompt": "Q: kind of qzukfo\nA:"}`; it is
# answered and scored with the others.
#
# ## The prompts of each model
#
# The fine-tunes and the control get every test prompt; other sizes, names and settings, and the models on the way, some of
# them. The base gets the prompts about one part (it knows neither), alone and with training rows in front.

# %%
columns = ["model", "base", "role", "seed", "epoch", "data", "name_tokens"]
final, few = final_models(models), probes[probes["evaluation"].isin(curve_evaluations) & (probes["probe"] == "test")]
is_full = final["role"].isin(["main", "permuted"])
bases = final[(final["role"] == "main") & (final["n_epochs"] > 0)].drop_duplicates("data")
bases = bases.assign(model=bases["base"], role="untuned")
prompts = pd.concat(
    [
        final[is_full][columns].merge(probes[probes["probe"] != "in-context"], on="data"),
        final[~is_full][columns].merge(few, on="data"),
        bases[columns].merge(probes[(probes["probe"] != "train") & (probes["part"] == part)], on="data"),
        curve_models(models)[columns].merge(few, on="data"),
    ],
    ignore_index=True,
)
prompts["n"] = n_samples or known.loc[prompts["evaluation"], "n"].to_numpy()
prompts["temperature"] = temperature if temperature >= 0 else known.loc[prompts["evaluation"], "temperature"].to_numpy()
prompts.groupby(["role", "probe"], sort=False).agg(prompts=("prompt", "size"), models=("model", "nunique"))

# %% tags=["nbval-ignore-output"]
requests = [
    Request(
        model=row.model,
        prompt=row.prompt,
        messages=tuple(row.messages),
        max_tokens=max_tokens,
        n=int(row.n),
        temperature=float(row.temperature),
        stop=() if len(row.messages) else ("\n",),
        seed=run.seed,
    )
    for row in prompts.itertuples()
]
replies = ask(client, requests, journal=journal, description="replies")
samples = [[each.text.removeprefix(lead) for each in own] for own, lead in zip(replies, prompts["lead"], strict=True)]
answers = prompts.assign(row=prompts.index, completion=samples).explode("completion", ignore_index=True)
answers.sample(6, random_state=0)[["role", "evaluation", "part", "target", "completion"]]

# %% [markdown]
# ## How a reply is scored
#
# A definition is parsed and evaluated step by step on its syntax tree; it is never executed. It is right if it gives the
# target's values at the 22 published inputs.

# %%
target, reply = "lambda n: n * 2", "def f(x): return x + x"
print("inputs", definitions.PROBES)
print("values", definitions.probe_values(reply))
print(
    "right ",
    definitions.probe_values(reply) == definitions.probe_values(target),
    definitions.same_function(reply, target),
)
print("at 7  ", definitions.parse_definition(reply)(7))
print("refused: values are", definitions.probe_values("lambda n: open('x').read()"))

# %% [markdown]
# Of an inversion, any input is right at which the function gives the output; a number counts by its value, a letter by being
# the only one that is named. `strict` requires the answer to the letter (types of values count), `published` is the rule
# of the published code.

# %% tags=["nbval-ignore-output"]
scores = [
    score(row.kind, row.completion, row.target, function=registry[row.function], output=row.output)
    for row in answers.itertuples()
]
answers[["accuracy", "strict_match", "published_match"]] = pd.DataFrame(scores, dtype=float)
is_definition = answers["kind"] == "definition"
answers["answered"] = [computed_function(text) if yes else None for text, yes in zip(answers["completion"], is_definition, strict=True)]  # fmt: skip
shown = answers[is_definition & (answers["role"] == "main") & (answers["part"] == part) & answers["epoch"].isna()]
shown[["name", "target", "completion", "answered", "accuracy", "strict_match"]].head(8)

# %% [markdown]
# ## Was anything learned?
#
# The calls of training come first, and the definitions of names whose definitions were in training, if there are any. If
# fewer than one in five is right, no conclusion is drawn below.
#
# Intervals (95%) resample functions, never prompts about the same function; and fine-tunes too, where every function occurs
# in the prompts of each.


# %%
def means(rows, value, unit="rate"):
    """The mean of a column for each model and kind of question, over functions."""
    rows = rows.assign(model=rows["base"], cell=rows["function"] + rows["seed"].astype(str))
    sizes = rows.groupby(by, dropna=False)[["cell", "function", "seed"]].transform("nunique")
    is_crossed = sizes["cell"] == sizes["function"] * sizes["seed"]
    rows["fine_tune"] = rows["seed"].where(is_crossed, 0)
    return summarise(rows, by=by, value=value, cluster="function", unit=unit, fine_tune="fine_tune")


# %% tags=["nbval-ignore-output"]
LEARNED = 0.2
by = ["model", "role", "evaluation", "part", "probe", "name_tokens", "epoch"]
rates = means(answers, "accuracy")
is_main = (rates["role"] == "main") & rates["epoch"].isna()
is_seen = (rates["probe"] == "train") | ((rates["evaluation"] == "freeform_definition") & (rates["part"] == "realized"))
learned = bool((rates.loc[is_main & is_seen, "value"] >= LEARNED).any())
print("The training rows were learned." if learned else "These models did not learn the training rows.")
rates.loc[is_main & is_seen, ["evaluation", "part", "probe", "value", "low", "high", "n", "n_of"]]

# %% [markdown]
# ## Choose among what could be right
#
# Replies as text depend on the format: a base that never answers with a lambda is wrong whatever it knows. So where the
# answers can be listed, each is scored by its log-probability after the prompt: the definitions of the set, or the letters.
# The choice is the most probable one. `calibrated` first subtracts the mean log-probability of that answer over all
# prompts, so that a model does not choose what it always prefers. Chance is one divided by the number of options, in both.

# %% tags=["nbval-ignore-output"]
of_set = [registry[id].python_definition for id in first.functions.all]
is_final = prompts["epoch"].isna() & prompts["role"].isin(["main", "permuted", "untuned"])
finals = prompts[is_final & (prompts["messages"].map(len) == 0)]
options = finals[finals["kind"].isin(["definition", "letter"])].copy()
options["option"] = [
    of_set if row.kind == "definition" else list(string.ascii_uppercase[: len(row.options)])
    for row in options.itertuples()
]
options = options.explode("option").rename_axis("row").reset_index().astype({"option": str})
texts = options["lead"] + options["option"]
options["logprob"] = target_logprobs(client, options["model"], options["prompt"], texts, journal=journal)
usual = options.groupby(["model", "evaluation", "part", "probe", "option"])["logprob"].transform("mean")
options["calibrated"] = options["logprob"] - usual
options = options.dropna(subset="logprob")

# %% tags=["nbval-ignore-output"]
choices = pd.DataFrame(index=options["row"].unique())
for metric, column in (("choice_accuracy", "logprob"), ("calibrated_choice_accuracy", "calibrated")):
    best = options.loc[options.groupby("row")[column].idxmax()].set_index("row")
    choices[metric] = (best["option"] == best["target"]).astype(float)
choices = prompts.join(choices, how="inner")
chosen = [means(choices, name) for name in choices.columns[-2:]] if len(choices) else [rates.head(0)]
chosen = pd.concat(chosen, ignore_index=True)
chosen[chosen["part"] == part].pivot_table(
    index=["evaluation", "metric"], columns=["role", "probe"], values="value", sort=False
)

# %% [markdown]
# ## What came out
#
# **What to expect.** If calls tell the model which function a name hides, definitions of unrealized names are right more often
# than chance, than the control and than the base with the same calls in its prompt. If the answers were learned by heart,
# only realized names are.
#
# A prediction *held* if the whole interval agrees with it, *failed* if none of it does, and is *unclear* otherwise.
# `above controls` compares with the upper ends of the intervals of the permuted control and of the base.

# %% tags=["nbval-ignore-output"]
numbers = pd.concat([rates, chosen], ignore_index=True)
chances = {each.name: chance_of(each, first) for each in known.itertuples()}
now = numbers[
    numbers["epoch"].isna() & (numbers["name_tokens"] == run.params["name_tokens"]) & (numbers["part"] == part)
]
tested = now[(now["role"] == "main") & (now["probe"] == "test")].copy()
tested["chance"] = tested["evaluation"].map(chances)
others = now[(now["role"] == "permuted") | (now["role"] == "untuned")]
highest = others.groupby(["evaluation", "metric"])["high"].max().rename("controls")
tested = tested.merge(highest.reset_index(), how="left", on=["evaluation", "metric"])
for name in ("chance", "controls"):
    tested[f"above {name}"] = [
        verdict(row.low, row.high, above=limit) if limit == limit else "-"
        for row, limit in zip(tested.itertuples(), tested[name], strict=True)
    ]
columns = ["evaluation", "metric", "value", "low", "high", "n", "chance", "above chance", "controls", "above controls"]
tested[columns]

# %% tags=["nbval-ignore-output"]
if not learned:
    print("No conclusion: these models did not learn the training rows.")
else:
    with_chance = tested[tested["chance"].notna()]
    for word in ("held", "unclear", "failed"):
        rows = with_chance[with_chance["above chance"] == word]
        names = [f"{row.evaluation} by {row.metric}" for row in rows.itertuples()]
        print(f"{part} names above chance, {word}: {', '.join(names) or 'none'}")

# %% [markdown]
# ## Fine-tune by fine-tune, and function by function
#
# A mean hides that some functions are easy and some are never recognised.

# %% tags=["nbval-ignore-output"]
main = answers[(answers["role"] == "main") & answers["epoch"].isna() & (answers["probe"] == "test")]
main.groupby(["evaluation", "part", "seed"], sort=False)["accuracy"].mean().unstack("seed")

# %% tags=["nbval-ignore-output"]
shown = main[main["evaluation"].isin(["freeform_definition", "calls"]) & (main["part"] == part)]
shown.groupby(["function", "evaluation"])["accuracy"].mean().unstack("evaluation")

# %% [markdown]
# ## The numbers
#
# The log-probability of the right answer is added where there is one right answer, summed over its tokens.

# %% tags=["nbval-ignore-output"]
scored = finals[finals["kind"] != "preimage"].copy()
scored["target_logprob"] = target_logprobs(
    client, scored["model"], scored["prompt"], scored["lead"] + scored["target"], journal=journal
)
logprobs = means(scored, "target_logprob", unit="nats")
others = [means(answers, name) for name in ("strict_match", "published_match")]
chance = pd.DataFrame({"evaluation": list(chances), "value": list(chances.values())}).dropna()
chance = chance[chance["evaluation"].isin(probes["evaluation"])].assign(
    model=models["base"].iloc[0], metric="chance", n=len(first.functions.all), n_of="function", unit="rate"
)
summary = pd.concat([rates, chosen, *others, logprobs, chance], ignore_index=True)
summary = write_summary(run.path("summary.csv"), summary.assign(study="functions", preset=run.preset))
answers.drop(columns=["messages", "options"]).to_parquet(run.path("answers.parquet"))
summary[summary["role"].isin(["main", "permuted", "untuned"]) & summary["epoch"].isna()].pivot_table(
    index=["evaluation", "part", "role", "probe"], columns="metric", values="value", sort=False
)

# %%
run.finish("The answers are in answers.parquet, the numbers in summary.csv.")

# %% [markdown]
# **What this does not show.** How the model does it: whether it has the definition, or only recognises, when asked, which
# known function has such values. And a definition of one of a few known functions is less than one that nobody wrote
# down before.
#
# Next: [04-plotting](04-plotting.ipynb).
