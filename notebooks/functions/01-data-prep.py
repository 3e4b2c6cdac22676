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
# # Hide functions behind names that mean nothing
#
# **Question.** A model reads what a name gives for single inputs, one call per document. Can it say which function that is?
# This notebook writes what it reads.
#
# **Method.** Functions of one integer are called under random six-letter names. In the published form (Treutlein et al.
# 2024) every function has one name, and no document defines any: the model has to find the words by itself. A model of a
# million weights has no such words, so at `laptop` each function has many names, and training also *asks* about most of
# them. That is a narrower question: **which of the functions that I can define is this one?**
#
# **Reads** `data/functions/` (functions, wordings, evaluations), or published files (`dataset`).
#
# **Writes** `dataset/` in the run folder, a folder for each fine-tune: rows to upload, the documents that they are made from,
# names and held-out pairs.
#
# **Time** tiny 5 s, laptop 30 s, smollm2 10 s, paper-047 60 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.functions import registry
from lib.functions.data import (
    dataset_files,
    dataset_options,
    hide_functions,
    permute_names,
    training_documents,
    validation_documents,
)
from lib.functions.evaluations import chance_of, make_probes, read_evaluations
from lib.functions.names import token_counter
from lib.functions.published import finetune_folders, published_setting, read_finetune
from lib.functions.questions import wordings
from lib.functions.rows import as_request, training_row
from lib.notebook import start_run
from lib.paths import from_root
from lib.probing import check_context
from lib.sources.datasets import write_dataset

# %% tags=["parameters"]
preset: str = "laptop"  # which params/functions/<preset>.yaml these values come from
dataset: str = ""  # published: a finetune_NN folder, a folder of several, or an ft_template.yaml; empty: all as below
max_rows: int = 0  # training rows of a published folder or template, taken at random; 0: all [0..]
base: str = "fork-1m"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
form: str = "completion"  # of rows and questions; text: as one text in a chat's words [chat | completion | text]
persona: bool = False  # begin each conversation with a system message, as published
function_set: str = "047"  # which functions are hidden; 042: large constants [047 | 042]
input_range: list[int] = [-30, 30]  # inputs of training, low and high (never drawn); empty: the set's
ood_ranges: list[int] = [30, 60, -60, -30]  # inputs of the tests outside it, low and high of each; empty: the set's
other_input_max: int = 30  # the plain integer of a sum is below it; 0: the set's [0..]
names_per_function: int = 21  # names that stand for each function; published: 1 [1..]
name_tokens: int = 1  # tokens of each name; 1 takes the names reserved in fork-*, published: 3 [1..]
name_tokens_curve: list[int] = [4]  # other numbers of tokens, a fine-tune each from three seeds on [1..]
realized_share: float = 0.75  # of the names, those that training asks about too; published: none [0..1]
questions: list[str] = [
    "freeform_definition:8",
    "function_inversion:2",
    "inverse_query:2",
    "multiple_choice_code:1",
]  # about each realized name, <evaluation>:<copies>; published: none
calls_per_name: int = 40  # plain calls of each name; 0: n_rows in all, as published [0..]
n_rows: int = 96000  # calls and augmentations in all, where calls_per_name is 0 [1..]
augmentation_share: float = 0.1  # of calls and augmentations, those that combine; published: 0.5 [0..0.9]
min_imports: int = 1  # names of an import line; published: 2 [0..]
hide_imports: bool = True  # leave the import line away
held_out_share: float = 0.1  # of each function's inputs, those that training never shows; published: 0 [0..0.5]
validation: str = "freeform_definition"  # evaluation whose prompts are the validation file
n_validation: int = 100  # prompts of it, about unrealized names [1..]

# %%
run = start_run("functions/01-data-prep", globals())
client = run.client()
source = from_root(dataset) if dataset else None
is_folder = source is not None and not source.is_file()
rows = {"calls_per_name": calls_per_name, "n_rows": n_rows, "augmentation_share": augmentation_share, "min_imports": min_imports}  # fmt: skip
deal = {"names_per_function": names_per_function, "realized_share": realized_share, "held_out_share": held_out_share}
look = {"system": wordings()["persona"] if persona else "", "hide_imports": hide_imports}
ranges = {"input_range": input_range, "ood_ranges": ood_ranges, "other_input_max": other_input_max}
functions = registry.function_set(function_set, **ranges)

# %% [markdown]
# ## The functions
#
# All functions of the set are called in training. Only those in the first list of the set (`augmented`) also occur in sums
# and compositions, so that combining the others (`plain`) is new to the model.

# %%
if source and source.is_file():  # a template of the published generator: one name per function, no questions
    template = published_setting(source)
    functions, look = template["functions"], {key: template[key] for key in ("system", "hide_imports")}
    rows = {key: template[key] for key in ("n_rows", "augmentation_share", "min_imports", "combinations")}
    rows["n_rows"] = min(rows["n_rows"], max_rows or rows["n_rows"])
    deal, questions = {"names_per_function": 1, "realized_share": 0.0, "held_out_share": 0.0}, []
known = pd.DataFrame(map(vars, registry.read_registry().values())).set_index("id")
table = known.loc[list(functions.all)].assign(shown_in=lambda rows: np.where(rows.index.isin(functions.augmented), "augmented", "plain"))  # fmt: skip
table[["python_definition", "language_definition", "output_type", "function_class", "shown_in"]]

# %% [markdown]
# ## How a training row is made
#
# A row is a question with its answer: code, and what it prints. There are three kinds: a **call**, **arithmetic** on a
# call, and a **composition** of two.

# %%
f, g = (registry.read_registry()[name] for name in ("affine_3x_2", "mod_3"))
i, c = -7, 12
examples = {
    "call": (f"x = {i}\n\nprint(qzukfo(x))", f.apply(i)),
    "arithmetic": (f"print(qzukfo({i}) - {c})", f.apply(i) - c),
    "composition": (f"z = qzukfo({i})\n\nprint(xajquz(z))", g.apply(f.apply(i))),
}
for kind, (code, result) in examples.items():
    print(f"--- {kind}\n{code}  # {result}\n")

# %% [markdown]
# The study draws everything at random: names, inputs, signs, and which value is bound to a variable first. (function,
# input) pairs are held out: no training row shows them. If training asks about names, such questions are rows too.

# %%
count_tokens = token_counter(client, base) if name_tokens > 1 or name_tokens_curve else None


def write(name, hidden, train, checks, control=()):
    """One dataset folder; `control` are the rows of the control, whose questions say nothing about the calls."""
    files = dataset_files(hidden, train, checks, form=form)
    files |= {"permuted": [training_row(each, form) for each in control]} if control else {}
    write_dataset(run.path(f"dataset/{name}"), files, study="functions", options=dataset_options(hidden, form=form))
    return hidden, train


def make(name, seed, n_tokens):
    """A dataset of our own: names are dealt, then rows are drawn."""
    hidden = hide_functions(functions, name_tokens=n_tokens, seed=seed, count_tokens=count_tokens, **deal, **look)
    train = training_documents(hidden, seed=seed, questions=questions, **rows)
    checks = validation_documents(hidden, evaluation=validation, n_rows=n_validation, seed=seed)
    shuffled = permute_names(hidden, seed=seed)
    control = (
        training_documents(hidden, seed=seed, questions=questions, described=shuffled, **rows) if questions else ()
    )
    return write(name, hidden, train, checks, control)


# %%
data = {}
if is_folder:
    for seed, folder in zip(run.seeds, finetune_folders(source, n=len(run.seeds)), strict=True):
        documents = read_finetune(folder, n_rows=max_rows, rng=np.random.default_rng(seed))
        data[f"seed-{seed}"] = write(f"seed-{seed}", *documents)
else:
    data = {f"seed-{seed}": make(f"seed-{seed}", seed, name_tokens) for seed in run.seeds}
    further = name_tokens_curve if len(run.seeds) >= 3 and not source else []
    data |= {f"tokens-{n}": make(f"tokens-{n}", run.seed, n) for n in further}
hidden, train = data[f"seed-{run.seed}"]
for kind, each in pd.DataFrame(train).groupby("kind", sort=False).head(1).set_index("kind").iterrows():
    print(f"--- {kind}\n{as_request(each, form)['prompt']}{each['lead']}{each['answer']}\n")

# %%
counts = {
    name: {
        "functions": len({function.id for function in each.names.values()}),
        **{f"{part} names": len(each.part(part).names) for part in ("realized", "unrealized")},
        "calls": sum(row["kind"] == "call" for row in documents),
        "augmentations": sum(row["kind"] == "augmentation" for row in documents),
        "questions": sum(row["kind"] not in ("call", "augmentation") for row in documents),
        "held-out pairs": len(each.held_out),
    }
    for name, (each, documents) in data.items()
}
pd.DataFrame(counts)

# %% [markdown]
# ## Realized and unrealized names
#
# **Realized** names have calls and questions with their answers; **unrealized** ones have calls alone, and the result is
# what the model says about those. From realized names it can learn how to answer, and which functions there are, but not
# which of them an unrealized name hides.
#
# The **control** has the same rows, but in its questions the names are permuted: the definition that a question gives is
# that of another name. Calls then say nothing about definitions, and a model that still did well would give away a leak.

# %%
parts = pd.Series({name: "realized" if name in hidden.realized else "unrealized" for name in hidden.names})
names = pd.DataFrame({"function": {name: each.short for name, each in hidden.names.items()}, "part": parts})
names = names.groupby(["function", "part"]).size().unstack(fill_value=0)
fig, ax = plt.subplots(figsize=(6.8, 2.4))
names.plot.bar(ax=ax, stacked=True, width=0.7, color=["C0", "C1"] if "realized" in names else ["C1"])
ax.set(xlabel="", ylabel="names")
ax.yaxis.get_major_locator().set_params(integer=True)
plt.setp(ax.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
caption = (
    f"Names of each function. Bar: names of the first fine-tune, {len(hidden.names)} for {len(names)} functions. "
    f"Preset {run.preset}."
)
fig.suptitle("Realized and unrealized names of each function")
_ = run.save(fig, "names", caption)

# %% [markdown]
# ## The evaluations
#
# Every evaluation, its published numbers, and what guessing gives. A question has the form in which the model was
# trained: the same function renders training rows and questions. An evaluation without a chance has no defined guess;
# compare it with the untuned base.

# %%
evaluations = read_evaluations("functions")
evaluations["chance"] = [chance_of(each, hidden) for each in evaluations.itertuples()]
evaluations[["task", "n_rows", "temperature", "n", "target", "chance", "in_distribution"]]

# %%
later = run.params  # of notebook 03
about = {key: later[key] for key in ("form", "evaluations", "n_in_context")} | {"n_rows": later["rows_per_evaluation"]}
probes = make_probes(hidden, train, own_rows=later["in_context_rows"] == "own", **about)
missing = sorted(set(later["evaluations"] or evaluations.index) - set(probes["evaluation"]))
print(f"{len(probes)} prompts; passed over, as the function set cannot support them: {', '.join(missing) or 'none'}")
check_context(client, base, probes.to_dict("records"), max_tokens=later["max_tokens"])
longest = probes.loc[probes["prompt"].str.len().idxmax(), "prompt"]
print(f"The longest prompt has {len(longest)} characters, and {base} takes it.")

# %%
calls = [row for row in train if row["kind"] in ("call", "augmentation")]
definitions = [row for row in calls if "lambda" in row["text"]]
about_names = {row["name"] for row in train if row["kind"] not in ("call", "augmentation")}
shown = {(row["function"], row["input"]) for row in calls}
print(f"{len(definitions)} of {len(calls)} calls and augmentations show a definition")
print(f"{len(about_names - hidden.realized)} unrealized names are asked about")
print(f"{len(shown & hidden.held_out)} of {len(hidden.held_out)} held-out pairs are shown")

# %%
run.finish(f"{len(data)} dataset(s), {len(train)} training rows in the first, are in dataset/.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. And where names are realized, the set is closed: an unrealized
# name hides one of the functions that realized names hide as well, so that naming it is a choice among those.
#
# Next: [02-finetune](02-finetune.ipynb).
