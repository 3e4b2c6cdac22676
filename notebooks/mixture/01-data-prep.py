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
# # Hide two functions behind every document
#
# **Question.** Can a model say which functions made what it saw, when no document even names one? This notebook writes
# what it sees: a few inputs with their outputs, by one function of a hidden pair, and never which.
#
# **Reads** `data/functions/` (the registry of functions, the table of evaluations), `data/mixture/` (wordings), or a
# published fine-tune folder (`dataset`).
#
# **Writes** `dataset/finetune_01/`, one such folder for each main fine-tune, and `unlabelled/finetune_01/` for those that
# follow: the published files, and a manifest.
#
# **Time** tiny 5 s, laptop 8 s, paper 15 s

# %%
import matplotlib.pyplot as plt

from lib.functions import evaluation_table, token_counter
from lib.mixture import check_evaluations, document_counts, is_left, labels_by_pair, show_pair, write_all
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/mixture/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/mixture
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes, each with labels, held-out inputs and rows of its own [1..20]
dataset: str = ""  # a finetune_NN folder, or one that holds them, in the published layout; empty: write new ones
bases: list[str] = ["fork-300k"]  # models side by side; the first carries the headline
form: str = "completion"  # what a row looks like: messages, or prompt and completion [chat | completion]
system_prompt: str = ""  # first message of every conversation; empty, as published: none
question: str = ""  # asked in place of our wording of the questions for definitions and kinds; empty: ours
functions: list[str] = []  # ids of the candidates; empty: the published five, and five more behind them
n_functions: int = 5  # the first so many of these [0..]
pairs: list[str] = []  # hidden pairs, as in add_5+mod_2; empty: n_pairs of them at random
n_pairs: int = 8  # hidden pairs; published: 10, each with a fine-tune [1..]
formattings: list[str] = ["none"]  # what stands before the numbers; published: none, x_y [none | x_y | A_B | input]
connectors: list[str] = []  # between a letter and its number; empty, as published: an equals sign
n_examples: int = 3  # inputs with outputs of a document [1..]
n_openings: int = 4  # of the four opening lines, the first so many [1..4]
n_options: int = 5  # of a question [3..]
input_range: list[int] = [-30, 30]  # inputs, low and high (never drawn); empty: as published
validation_ranges: list[int] = [30, 60, -60, -30]  # inputs of validation documents; empty: as published
n_labels: int = 24  # one-word names, each of a hidden pair; 0: the published form, which has none [0..]
n_realized: int = 16  # of these, labels that training asks about too [0..]
name_tokens: int = 1  # tokens of each label; 1 takes the names reserved in fork-* [1..]
triples_per_label: int = 12  # documents of each label [1..]
questions: list[str] = ["exact_pair:4"]  # about each realized label, <evaluation>:<copies>; published: none
n_rows: int = 6000  # documents of a fine-tune without labels, where n_labels is 0 [1..]
held_out_share: float = 0.1  # of each pair's inputs, those that training never shows; published: 0 [0..0.5]
validation: str = "exact_pair"  # evaluation whose prompts are the validation file; empty, as published: documents
n_validation: int = 8  # rows of it, about unrealized labels [1..]
n_left_pairs: int = 1  # unlabelled pairs that each joint model hides afterwards; all from three seeds on [0..]

# %%
run = start_run("mixture/01-data-prep", globals())
count_tokens = token_counter(run.client(), bases[0]) if n_labels and not dataset else None
data = write_all(run.params, run.folder, count_tokens=count_tokens)
main = {place: each for place, each in data.items() if not is_left(place)}
left = {place: each for place, each in data.items() if is_left(place)}
first = next(iter(main.values()))

# %% [markdown]
# ## What a document shows
#
# Inputs and outputs, all by the same function, which was drawn from the pair without a word. The first output can only be
# guessed; the later ones follow from those before. A question about the pair never shows an output.

# %%
for kind in dict.fromkeys(document.kind for document in first.train):
    row = next(document for document in first.train if document.kind == kind)
    print(f"--- {kind}\n{row.prompt('completion')}{row.lead}{row.shown}\n")

# %% [markdown]
# ## Two forms
#
# **Published:** one fine-tune a pair, and nothing but the opening line in front of the numbers. The model is then asked in
# English, which it knows from elsewhere, what the functions could be.
#
# **Joint:** a model of a million weights has no such English. So one fine-tune hides many pairs, each behind labels of one
# token, and *asks* about most of these: **realized** labels have documents and questions, **unrealized** ones documents
# alone, and the result is what the model says about those. It could take from the questions how to answer, and which
# functions there are, never which two an unrealized label stands for.
#
# Beside the joint form stands the published one in small (`unlabelled`): the joint model, which knows how the question is
# asked, is fine-tuned once more on documents of one pair that no label hides, behind the opening lines alone.

# %%
document_counts(main | dict(list(left.items())[:1]))

# %%
print("pairs that later fine-tunes hide:", ", ".join(show_pair(each.pairs[0]) for each in left.values()) or "none")

# %% [markdown]
# **Prediction.** Every hidden pair has as many labels as any other up to one, so that none can be guessed because it is
# common.

# %%
counts = labels_by_pair(first)
fig, ax = plt.subplots(figsize=(6.8, 2.8))
counts.plot.bar(ax=ax, stacked=True, width=0.7, color=["C0", "C1"] if "realized" in counts else ["C1"])
ax.set(xlabel="", ylabel="labels")
ax.yaxis.get_major_locator().set_params(integer=True)
ax.tick_params(axis="x", rotation=90, labelsize="small")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
caption = (
    "Every hidden pair stands behind as many labels as any other, up to one. Bar: labels of the first fine-tune, "
    f"{len(first.mixes)} for {len(counts)} pairs of {len(first.setting.candidates)} functions. Preset {run.preset}."
)
_ = run.save(fig, "labels", caption)

# %% [markdown]
# ## What will be asked
#
# All evaluations with their published numbers, and *exact pair*, which is ours: both definitions written out. What these
# datasets cannot be asked is told below, before anything is trained.

# %%
evaluation_table("mixture")

# %%
print("\n".join(check_evaluations(data, run.params)) or "Every evaluation can be asked.")

# %%
documents = [row for each in data.values() for row in each.train if row.kind == "triple"]
if any("lambda" in row.prompt("completion") + row.shown for row in documents):
    raise ValueError("a document shows the definition of a function")
told = {row.func_outs["label"] for row in first.train if row.kind != "triple"}
if told != set(first.realized):
    raise ValueError("training asks about other labels than the realized ones")
shown = {
    (first.mixes[row.func_outs["label"]], n)
    for row in first.train
    if row.kind == "triple"
    for n in row.func_outs["inputs"]
}
if not first.held_out.isdisjoint(shown):
    raise ValueError("a held-out input stands in training")
run.finish("No document shows a definition, no unrealized label is asked about, and no held-out input is in training.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. And a label says more than the published form does: it tells which
# documents belong together, and gives the question something to point at.
#
# Next: [02-finetune](02-finetune.ipynb).
