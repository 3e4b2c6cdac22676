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
# **Question.** Can a model say what a function is, of which it only ever saw single inputs and outputs? This notebook
# writes what it sees: calls of functions under random six-letter names, one call a document, and nowhere a definition.
#
# **Reads** `data/functions/` (the registry of functions, wordings, the table of evaluations), or a published fine-tune
# folder (`dataset`).
#
# **Writes** `dataset/finetune_01/`, one such folder for each seed: the published files, and a manifest.
#
# **Time** tiny 5 s, laptop 10 s, paper-047 40 s

# %%
import matplotlib.pyplot as plt

from lib.functions import (
    document_counts,
    evaluation_table,
    names_by_function,
    probe_rows,
    supported,
    token_counter,
    write_all,
)
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/functions/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/functions
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with names, held-out pairs and rows of its own [1..20]
dataset: str = ""  # a finetune_NN folder, or one that holds them, in the published layout; empty: write new ones
base: str = "fork-300k"  # model to fine-tune: fork-*, hf:<folder or hub id>, or another endpoint's name
form: str = "completion"  # what a row looks like: messages, or prompt and completion [chat | completion]
persona: bool = False  # begin each conversation with a system message, as published
function_set: str = "047"  # which functions are hidden; 042: large constants [047 | 042]
input_range: list[int] = [-30, 30]  # inputs of training, low and high (never drawn); empty: the set's
ood_ranges: list[int] = [30, 60, -60, -30]  # inputs of the tests outside it, low and high of each; empty: the set's
composition_range: list[int] = []  # inputs of the tests that compose or add; empty: the set's
other_input_max: int = 30  # the plain integer of a sum is below it; 0: the set's [0..]
composition_other_max: int = 0  # the same in the tests; 0: the set's [0..]
names_per_function: int = 2  # names that stand for each function; published: 1 [1..]
name_tokens: int = 1  # tokens of each name; 1 takes the names reserved in fork-*, published: 3 [1..]
name_tokens_curve: list[int] = []  # other numbers of tokens, a fine-tune each from three seeds on [1..]
realized_share: float = 0.5  # of the names, those that training asks about too; published: none [0..1]
questions: list[str] = ["freeform_definition:2"]  # about each realized name, <evaluation>:<copies>; published: none
calls_per_name: int = 8  # plain calls of each name; 0: n_rows in all, as published [0..]
n_rows: int = 96000  # calls and augmentations in all, where calls_per_name is 0 [1..]
augmentation_share: float = 0.1  # of calls and augmentations, those that combine; published: 0.5 [0..1]
combine_functions: list[str] = ["False", "chain", "add_subtract"]  # ways to combine [False | chain | add_subtract]
min_imports: int = 1  # names of an import line; published: 2 [0..]
hide_imports: bool = True  # leave the import line away
held_out_share: float = 0.1  # of each function's inputs, those that training never shows; published: 0 [0..0.5]
validation: str = "freeform_definition"  # evaluation whose prompts are the validation file
n_validation: int = 19  # prompts of it, about unrealized names [1..]
evaluations: list[str] = []  # names in data/functions/evaluations.csv; none: all that the function set supports
rows_per_evaluation: int = 19  # prompts of each evaluation about each part; 0: as published [0..]

# %%
run = start_run("functions/01-data-prep", globals())
count_tokens = token_counter(run.client(), base) if not dataset else None
data = write_all(run.params, run.folder, count_tokens=count_tokens)
main = {place: each for place, each in data.items() if place.startswith("dataset/")}
first = next(iter(main.values()))

# %% [markdown]
# ## What a document shows
#
# One call and its result, sometimes with the input or the result bound to a variable first. A tenth or a half of the rows
# (`augmentation_share`) combine: a sum with an integer, a function of another's result, or two calls added up. All
# functions are called; only those of the set's first list are ever combined.

# %%
for kind in ("call", "augmentation"):
    row = next(document for document in first.train if document.kind == kind)
    print(f"--- {kind}\n{row.prompt('completion')}{row.lead}{row.shown}\n")

# %% [markdown]
# ## Realized and unrealized names
#
# In the published form no row says anything about a function but what its calls do, and the model is asked for a
# definition in English that it knows from elsewhere. A model of a million weights has no such English. So here many names
# stand for each function, and training *asks* about some of them: these **realized** names have calls and definitions.
# The others, **unrealized**, have calls alone, and the result is what the model says about those. What it could take from
# the realized names is how to answer, and which functions there are, but never which one an unrealized name hides.

# %%
counts = document_counts(data)
counts

# %%
print("\n".join(note for each in main.values() for note in each.notes) or "Nothing was made up in reading.")

# %% [markdown]
# **Prediction.** Every function has names of both kinds, as many as any other up to one: no function can be guessed
# because it is common.

# %%
names = names_by_function(first)
fig, ax = plt.subplots(figsize=(6.8, 2.4))
names.plot.bar(ax=ax, stacked=True, width=0.7, color=["C0", "C1"] if "realized" in names else ["C1"])
ax.set(xlabel="", ylabel="names")
ax.yaxis.get_major_locator().set_params(integer=True)
ax.tick_params(axis="x", rotation=60)
plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
caption = (
    "Every function hides behind as many names as any other, up to one. Bar: names of the first fine-tune, "
    f"{len(first.names)} for {len(names)} functions, each of {name_tokens} token(s). Preset {run.preset}."
)
_ = run.save(fig, "names", caption)

# %% [markdown]
# ## What will be asked
#
# All evaluations with their published numbers. What this set cannot be asked is told below, before anything is trained.

# %%
evaluation_table()

# %%
notes = supported(first, evaluations)[1]
probes = probe_rows(data, form=form, evaluations=evaluations, n_rows=rows_per_evaluation, seed=run.params["eval_seed"])
print("\n".join(notes) or "Every evaluation can be asked.")

# %%
definitions = [each.python_definition for each in first.part().values()]
calls = [row for row in first.train if row.kind in ("call", "augmentation")]
if any(text in row.prompt("completion") for row in calls for text in set(definitions)):
    raise ValueError("a call shows the definition of a function")
told = {row.func_outs["func_var"] for row in first.train if row.kind not in ("call", "augmentation")}
if told != set(first.realized):
    raise ValueError("training asks about other names than the realized ones")
shown = {(row.func_outs["func_value"], row.func_outs["input_1"]) for row in calls}
if not first.held_out.isdisjoint(shown):
    raise ValueError("a held-out pair stands in training")
run.finish("No call shows a definition, no unrealized name is asked about, and no held-out pair is in training.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. And the set is closed: an unrealized name hides one of the
# functions that realized names hide as well, so that naming it is choosing among those; in the published form the model
# has to find the words itself.
#
# Next: [02-finetune](02-finetune.ipynb).
