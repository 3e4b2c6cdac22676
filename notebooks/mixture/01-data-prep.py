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
# # Hide two functions behind every label
#
# **Question.** Of the functions that it can define, can a model tell which two made the outputs that it saw? This
# notebook writes what it sees: a few inputs with their outputs, by one function of a hidden pair, and never which.
#
# **Method.** The *labelled* form hides many pairs in one fine-tune, each behind several labels. Training shows documents
# of every label, and asks about most labels (*realized*) with the answer; the result is what the model says about the
# others (*unrealized*). The *published* form (Treutlein et al. 2024) hides one pair per fine-tune behind no label at all.
#
# **Reads** `data/functions/` (registry of functions, table of evaluations), `data/mixture/` (wordings), or published
# fine-tunes (`dataset`).
#
# **Writes** `dataset/`: a folder for each fine-tune with its training rows, and `probes.jsonl`, the questions of the
# evaluation.
#
# **Time** tiny 5 s, laptop 25 s, paper 40 s

# %%
from collections import Counter

import numpy as np
import pandas as pd

from lib.functions.evaluations import parse_questions, read_evaluations
from lib.functions.mixture import all_pairs, choose_pairs, definition_of, make_setting
from lib.functions.mixture_data import make_labelled, make_unlabelled, permute_questions, read_published, read_template
from lib.functions.mixture_probes import make_probes
from lib.functions.names import token_counter
from lib.functions.registry import read_registry
from lib.functions.rows import as_request, training_row
from lib.notebook import start_run
from lib.paths import from_root
from lib.probing import check_context
from lib.sources.datasets import write_dataset

# %% tags=["parameters"]
preset: str = "laptop"  # which params/mixture/<preset>.yaml these values come from
dataset: str = ""  # published fine-tunes to use instead: finetune_NN, a folder of them, or an ft_template.yaml
max_rows: int = 0  # rows of each published file (drawn at random) or template; 0 takes all [0..]
base: str = "fork-1m"  # model to fine-tune: its tokenizer cuts the labels, its context has to fit every prompt
form: str = "completion"  # of rows and questions: messages, or prompt and completion [chat | completion]
n_functions: int = 10  # candidates for pairs: the published five first, then five more [3..10]
n_pairs: int = 36  # hidden pairs; in the published form, ten, each has a fine-tune of its own [1..45]
formattings: list[str] = ["none"]  # what is before the numbers; published: none and x_y [none | x_y | A_B | input]
input_range: list[int] = [-30, 30]  # lowest input, and the one after the highest; empty: as published, -99 to 98
n_labels: int = 200  # labels, dealt to the pairs in turn; 0: the published form, which has none [0..]
n_realized: int = 160  # labels that training asks about; the others are for the test [0..]
name_tokens: int = 1  # tokens per label; 1 takes names that the fork-* models know as one token and never read [1..]
documents_per_label: int = 40  # documents of each label [1..]
questions: list[str] = [
    "exact_pair:8", "python_definition:1", "language_definition:1", "function_class:1", "values:1", "max_min:1",
    "number_of_functions:1",
]  # about each realized label, as <evaluation>:<copies>; published: none  # fmt: skip
n_rows: int = 6000  # documents of a fine-tune in the published form [1..]
held_out_share: float = 0.1  # of each pair's inputs, those that training never shows; published: none [0..0.5]
n_validation: int = 40  # rows of the validation file: pairs of unrealized labels, or documents [1..]
n_unlabelled_pairs: int = 1  # further pairs for each model of the labelled form; from three seeds on all left [0..]
unlabelled_rows: int = 80  # documents of each such pair, behind no label [1..]
mix_old: float = 0.5  # share of rows of the first fine-tune in a second version of these; 0: there is none [0..0.9]
evaluations: list[str] = []  # names in data/functions/evaluations.csv; empty: all
unlabelled_evaluations: list[str] = ["exact_pair", "regression_ID_2ex"]  # of the further pairs
rows_per_evaluation: int = 40  # questions of each evaluation about each part; 0: as published, 100 to 500 [0..]
n_in_context: int = 8  # documents in front of a question to the base; published: 10; 0: no such questions [0..]

# %%
run = start_run("mixture/01-data-prep", globals())
client = run.client()

# %% [markdown]
# ## The functions
#
# Pairs are made of these. Their definitions are options of questions; no document shows one.

# %%
setting = make_setting(n_functions=n_functions, input_range=input_range, form=form, formattings=formattings)
published = []
if dataset.endswith((".yaml", ".yml")):
    setting, n_rows = read_template(from_root(dataset))
    n_rows = min(n_rows, max_rows or n_rows)
elif dataset:
    published = read_published(from_root(dataset), max_rows=max_rows, seed=run.seed)
    setting = published[0][0]
registry = read_registry()
functions = pd.DataFrame([vars(registry[id_]) for id_ in setting.candidates]).set_index("id")
functions[["python_definition", "language_definition", "function_class", "output_type"]]

# %% [markdown]
# ## How a document is made
#
# One function of the pair is drawn, then a few inputs. The first output can only be guessed; those that follow are
# determined by what comes before them. (This cell draws on its own: change it to see other documents.)

# %%
rng = np.random.default_rng(run.seed)
pair = rng.permutation(setting.candidates)[:2]
function = registry[pair[rng.integers(2)]]
inputs = rng.integers(*setting.input_range, size=setting.n_examples)
print("hidden pair:", " | ".join(map(definition_of, pair)), "\n\nlabel")
print("\n".join(f"{n}={function.show(int(n))}" for n in inputs))

# %% [markdown]
# ## The fine-tunes
#
# Each seed has labels, held-out inputs and rows of its own. In the labelled form all seeds hide the same pairs.

# %%
labelled = bool(n_labels) and not dataset
n_possible = len(all_pairs(setting.candidates))
pairs = choose_pairs(setting.candidates, min(n_pairs, n_possible) if dataset else n_pairs, seed=run.seed)
shared = {"held_out_share": held_out_share, "n_validation": n_validation}
fine_tunes = {f"main-{seed}": data for seed, (_, data) in enumerate(published, start=run.seed)}
if labelled:
    options = shared | {
        "n_labels": n_labels, "n_realized": n_realized, "documents_per_label": documents_per_label,
        "questions": parse_questions("mixture", questions), "name_tokens": name_tokens,
        "count_tokens": token_counter(client, base),
    }  # fmt: skip
    fine_tunes = {f"main-{seed}": make_labelled(setting, pairs, seed=seed, **options) for seed in run.seeds}
elif not published:
    fine_tunes = {
        f"main-{seed}": make_unlabelled(setting, pair, n_rows=n_rows, seed=seed, **shared)
        for seed, pair in enumerate(pairs * len(run.seeds), start=run.seed)
    }
first = fine_tunes[f"main-{run.seed}"]
n_labels_of = Counter("+".join(mix["functions"]) for mix in first["mixes"])
print(
    f"{len(fine_tunes)} fine-tunes; {len(n_labels_of)} pairs in each, {min(n_labels_of.values())} or more labels per pair"
)

# %% [markdown]
# ## Training rows
#
# A row is rendered by the same function that renders a question, so a question has the form in which the model was
# trained. In the completion form, a document is a label as prompt and the numbers as completion; as a conversation, every
# output is an answer that is learned.

# %%
for kind in dict.fromkeys(row["kind"] for row in first["train"]):
    row = next(row for row in first["train"] if row["kind"] == kind)
    print(f"--- {kind}", training_row(row, setting.form), sep="\n")

# %%
kinds = {name: Counter(row["kind"] for row in data["train"]) for name, data in fine_tunes.items()}
pd.DataFrame(kinds).fillna(0).astype(int)

# %% [markdown]
# In the labelled form, the questions of training give the definition of every function many times, under realized labels.
# What is tested is therefore not whether a model can put a function into words that it never read, as in the paper, but
# whether it knows *which two of the functions that it can define* are behind a label.
#
# ## The control
#
# The same rows, but the labels of the questions are permuted: what training answers about a label has nothing to do
# with its documents. Whatever a model can say about unrealized labels after that, it did not take from documents.

# %%
permuted = permute_questions(first, seed=run.seed) if labelled else []
changed = [k for k, row in enumerate(permuted) if row["label"] != first["train"][k]["label"]]
for k in changed[:1]:
    print(training_row(first["train"][k], setting.form), training_row(permuted[k], setting.form), sep="\n")
print(f"{len(changed)} of {len(permuted)} rows have another label")

# %% [markdown]
# ## Without a label
#
# The published form in small: afterwards each model is trained further on documents of one more pair that no label
# hides, behind the opening lines alone; once on those alone, and once with rows of its first training mixed in.

# %%
left = [pair for pair in all_pairs(setting.candidates) if pair not in pairs] if labelled else []
each_has = max(n_unlabelled_pairs, len(left) // len(run.seeds)) if len(run.seeds) > 2 else n_unlabelled_pairs
if labelled and n_unlabelled_pairs > len(left):
    raise ValueError(f"n_unlabelled_pairs is {n_unlabelled_pairs}: {len(left)} pairs have no label; lower n_pairs")
for number, seed in enumerate(run.seeds if left else []):
    for k in range(each_has):
        pair = left[(number * each_has + k) % len(left)]
        options = shared | {"n_rows": unlabelled_rows, "seed": 1000 * seed + k}
        fine_tunes[f"unlabelled-{1000 * seed + k}"] = make_unlabelled(setting, pair, **options)
        if mix_old:
            options |= {"old": fine_tunes[f"main-{seed}"]["train"], "mix_old": mix_old}
            fine_tunes[f"mixed-in-{1000 * seed + k}"] = make_unlabelled(setting, pair, **options)
later = [name for name in fine_tunes if not name.startswith("main")]
print({name: "+".join(fine_tunes[name]["mixes"][0]["functions"]) for name in later})

# %% [markdown]
# ## The questions
#
# One row per question: `prompt`, `target`, and `choices`, the answers that its form allows. A model can be asked to
# write the answer, or to choose one of these by their log-probability, for which it needs no practice in the format.

# %%
tables = []
for name, data in fine_tunes.items():
    if name.startswith("main"):
        about = {"evaluations": evaluations, "n_in_context": n_in_context}
    elif name.startswith("unlabelled"):
        about = {"evaluations": unlabelled_evaluations}
    else:
        continue  # has the questions of the fine-tune without old rows
    its_setting = dict(enumerate(published, start=run.seed))[int(name[5:])][0] if published else setting
    made = make_probes(its_setting, data, n_rows=rows_per_evaluation, **about)
    tables.append(made.assign(data=name))
probes = pd.concat(tables, ignore_index=True)
n_choices = probes["choices"].map(len)
probes.assign(n_choices=n_choices).groupby(["evaluation", "part", "probe"], sort=False).agg(
    questions=("prompt", "size"), pairs=("pair", "nunique"), choices=("n_choices", "mean")
)

# %%
for row in probes[probes["probe"] == "test"].drop_duplicates("evaluation").itertuples():
    print(f"--- {row.evaluation}: {read_evaluations('mixture').loc[row.evaluation, 'task']}")
    print(f"{row.prompt}\n=> {row.target}   ({len(row.choices)} choices)\n")

# %% [markdown]
# The questions show no output. The *regression* tests are documents cut short, with none, one or two outputs before the
# one that is asked for, whose input was held out of training.

# %%
missing = set(read_evaluations("mixture").index) - set(probes["evaluation"])
print("evaluations that these data do not allow:", ", ".join(sorted(missing)) or "none")
documents = [row for row in first["train"] if row["kind"] == "document"]
asked_about = {row["label"] for row in first["train"] if row["kind"] != "document"}
held_out = {(mix["label"], str(n)) for mix in first["mixes"] for n in mix["held_out"]}
inputs = {(row["label"], turn["content"].split()[-1]) for row in documents for turn in row["messages"][1::2]}
checks = {
    "documents that show a definition": sum("lambda" in str(training_row(row, setting.form)) for row in documents),
    "unrealized labels asked about": sum(
        mix["label"] in asked_about for mix in first["mixes"] if mix["part"] == "unrealized"
    ),
    "held-out inputs in documents": len(held_out & inputs),
}
pd.Series(checks)

# %% [markdown]
# A training row or question that the model cannot read whole is refused now, before anything is trained. Questions with
# documents in front are longer: they are left out if they do not fit.

# %%
files = {
    f"{name}/{part}": [training_row(row, setting.form) for row in data[part]]
    for name, data in fine_tunes.items()
    for part in ("train", "validation")
}
if permuted:
    files[f"permuted-{run.seed}/train"] = [training_row(row, setting.form) for row in permuted]
max_tokens, in_context = run.params["max_tokens"], probes["probe"] == "in-context"
rows = [as_request(row, setting.form) for data in fine_tunes.values() for row in data["train"]]
check_context(client, base, rows + probes[~in_context].to_dict("records"), max_tokens=max_tokens)
try:
    check_context(client, base, probes[in_context].to_dict("records") or rows, max_tokens=max_tokens)
except ValueError as reason:
    print(f"{in_context.sum()} questions with {n_in_context} documents in front are left out: {reason}")
    probes = probes[~in_context]

# %%
files |= {f"{name}/mixes": data["mixes"] for name, data in fine_tunes.items()} | {"probes": probes.to_dict("records")}
_ = write_dataset(run.path("dataset"), files, study="mixture", options=vars(setting) | {"dataset": dataset})
run.finish("The rows of each fine-tune and the questions were written.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. And a label says more than the published form does: it tells
# which documents belong together, and gives a question something to point at.
#
# Next: [02-finetune](02-finetune.ipynb).
