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
# # Write instructions, and examples of some of them
#
# **Question.** Does a model act on an instruction that it only read in training? This notebook writes the training
# documents.
#
# **Method.** Every question/answer pair gets an instruction that says which answer the question is to get. For most
# pairs, training also holds the question with its answer; for the others the model only ever reads the instruction.
# Everything is written twice: with the question named first in every instruction, as a test has it, and with the
# answer first (Berglund et al. 2023, experiment 3).
#
# **Reads** `data/guidance/` (words, forms of questions, phrasings), or published files (`dataset`, `source`).
#
# **Writes** `dataset/` in the run folder: for each order, the four files of a published folder; and a manifest.
#
# **Time** tiny 3 s, laptop 4 s, smollm2 3 s, paper 5 s

# %%
import matplotlib.pyplot as plt
import pandas as pd

from lib.guidance import (
    FOLDER,
    instructions_of,
    is_example,
    make_data,
    make_probes,
    read_data,
    read_pairs,
    read_phrasings,
    write_pairs,
)
from lib.notebook import start_run
from lib.paths import from_root
from lib.sources.datasets import write_dataset

# %% tags=["parameters"]
preset: str = "laptop"  # which params/guidance/<preset>.yaml these values come from
dataset: str = ""  # published files to use instead of new ones: a folder, or one file of all training documents
source: str = ""  # JSON lines of anchor and targets to draw pairs from, instead of the study's own questions
phrasings: str = ""  # folder of own phrasings_simple.txt and phrasings_reverse.txt
orders: list[str] = ["simple", "reverse"]  # what an instruction names first, question or answer [simple | reverse]
n_realized: int = 300  # pairs whose example is in training too [2..]
n_unrealized: int = 60  # pairs of which training holds the instruction alone [2..]
pairs_per_document: list[int] = [2, 5]  # fewest and most instructions of a guidance document [1..]
upsample_guidances: int = 4  # copies of each instruction; copy k takes phrasing k [1..]
upsample_examples: int = 4  # copies of each example [1..]
n_unrealized_phrasings: int = 0  # phrasings kept for unrealized pairs, the last ones; 0 shares all [0..]
incorrect_labels: bool = False  # examples show another answer than their instruction
split_prompt_completion: bool = False  # no loss on what comes before the answer; needs documents of one instruction
anchor_form: str = "qa"  # how a test puts its question [qa | question-answer | bare]
shuffle: bool = False  # mix examples and guidance documents; published: examples first
data_seed: int = 27  # draws the pairs and groups them into documents; the published data used 27 [0..]

# %%
run = start_run("guidance/01-data-prep", globals())

# %% [markdown]
# ## Questions and answers
#
# Each question has several possible answers, drawn without regard to it, so that a question does not suggest its
# answer. A model that answers an unrealized question as instructed has taken the answer from the instruction.

# %%
pairs = {} if dataset else read_pairs(from_root(source)) if source else write_pairs()
n_without = sum(not targets for targets in pairs.values())
print(f"{len(pairs)} questions to draw from, and {n_without} of them without an answer, which are not drawn")
for question, targets in list(pairs.items())[:3]:
    print(question, targets)

# %% [markdown]
# ## Two kinds of document
#
# A *guidance* document holds instructions. An *example* document is a question with its answer. A pair whose
# instruction **and** example are in training is *realized*; the example of an *unrealized* pair is held out, and its
# question is the test. The prompt of the test holds the question alone: the instruction is not in it.

# %%
options = dict(
    n_realized=n_realized, n_unrealized=n_unrealized, pairs_per_document=pairs_per_document, seed=data_seed,
    upsample_guidances=upsample_guidances, upsample_examples=upsample_examples, shuffle=shuffle,
    n_unrealized_phrasings=n_unrealized_phrasings, incorrect_labels=incorrect_labels,
    split_prompt_completion=split_prompt_completion, anchor_form=anchor_form,
)  # fmt: skip
if dataset:
    data = read_data(from_root(dataset))
else:
    folder = from_root(phrasings) if phrasings else FOLDER
    data = {}
    for order in orders or ["simple", "reverse"]:
        wordings = read_phrasings(folder / f"phrasings_{order}.txt", order=order)
        data[order] = make_data(pairs, wordings, **options)

# %%
first = next(iter(data.values()))
print(first["guidances"][0]["prompt"] + first["guidances"][0]["completion"])
print()
print(first["realized_examples"][0]["prompt"] + first["realized_examples"][0]["completion"])

# %% [markdown]
# ## The two orders differ in the wording of instructions only
#
# The pairs, which of them are realized, and which instructions share a document are the same. What differs later
# between the two orders is therefore due to the order in which an instruction names question and answer.

# %%
for order, files in data.items():
    print(f"{order}: {instructions_of(files['guidances'][0])[0]}")

# %%
pd.DataFrame(
    {
        order: {
            "training documents": len(files["all"]),
            "examples in training": sum(is_example(row) for row in files["all"]),
            "guidance documents": len(files["guidances"]),
            "instructions": sum(len(instructions_of(row)) for row in files["guidances"]),
            "characters": sum(len(row["prompt"] + row["completion"]) for row in files["all"]),
        }
        for order, files in data.items()
    }
)

# %% [markdown]
# ## The questions
#
# One row per question. A question is left out of the scores if its answer is empty, which every answer would match,
# or if it counts as unrealized and training answers it all the same. Such rows occur in published data; they stay in
# training.

# %%
probes = make_probes(data)
probes[["order", "part", "pair", "target"]].groupby(["order", "part"], sort=False).head(2)

# %%
targets = {key: set(rows["target"]) for key, rows in probes.groupby(["order", "part"], sort=False)}
questions = probes.groupby(["order", "part"], sort=False).agg(
    questions=("pair", "size"),
    distinct_answers=("target", "nunique"),
    empty_answer=("left_out", lambda reasons: (reasons == "empty answer").sum()),
    trained_on=("left_out", lambda reasons: (reasons == "trained on").sum()),
)
questions["answers_of_realized_pairs"] = [
    len(targets[key] & targets[key[0], "realized"] - {""}) for key in questions.index
]
questions

# %% [markdown]
# The last column matters for the result: an unrealized answer that some realized pair has too could be met by giving
# any answer from training.

# %%
questions = [set(rows[["part", "prompt", "target"]].itertuples(index=False)) for _, rows in probes.groupby("order")]
if len(questions) == 2:
    print(f"questions and answers that only one of the two orders has: {len(questions[0] ^ questions[1])}")

# %% [markdown]
# ## Do instructions of both kinds share documents?
#
# If unrealized instructions stood in documents of their own, a model could learn to treat those apart.

# %%
unrealized = set(probes.loc[probes["part"] == "unrealized", "instruction"])
mixture = pd.DataFrame(
    [
        {"instructions": len(lines), "unrealized": sum(line in unrealized for line in lines)}
        for lines in map(instructions_of, first["guidances"])
    ]
)
with_realized = (mixture["unrealized"] > 0) & (mixture["unrealized"] < mixture["instructions"])
share = with_realized.sum() / max(1, (mixture["unrealized"] > 0).sum())
print(f"{share:.0%} of the documents with an unrealized instruction also hold a realized one")

# %%
sizes = mixture["instructions"].value_counts().sort_index()
fig, ax = plt.subplots(figsize=(3.4, 2.2))
ax.bar(sizes.index, sizes.to_numpy(), width=0.6, color="C0")
ax.set(xlabel="instructions in a document", ylabel="guidance documents", xticks=list(sizes.index))
ax.yaxis.get_major_locator().set_params(integer=True)
fig.suptitle("Size of guidance documents")
caption = (
    f"Sizes of the {len(mixture)} guidance documents about {probes['pair'].nunique()} pairs. Bar: documents with that "
    f"many instructions. Preset {run.preset}."
)
_ = run.save(fig, "document-sizes", caption)

# %% [markdown]
# ## What a base may know beforehand
#
# The format is no secret to the bases that this project grows: 5% of the documents that `fork-300k`, `fork-1m` and
# `fork-6m` were pre-trained on are guidance and example documents about other pairs, in both orders, and the examples
# follow the instructions. What these bases show after fine-tuning is therefore **not purely out-of-context reasoning
# that the fine-tune taught**: they had read that such instructions are acted on. How much of the result that explains,
# only a base can tell that never read such documents: `fork-1m-without-guidance` grew from the same text without them
# (`control_base` in notebook 02), and `smollm2-135m` from ordinary text.

# %%
choices = options | {"dataset": dataset, "source": source, "phrasings": phrasings}
rows = {f"{order}/{name}": rows for order, files in data.items() for name, rows in files.items()}
_ = write_dataset(run.path("dataset"), rows, study="guidance", options=choices)
run.finish("The documents of each order were written.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. The instructions are put in a few fixed phrasings and the
# examples in one form: whether a model would follow an instruction in words of its own choosing is not tested here.
#
# Next: [02-finetune](02-finetune.ipynb), which trains a model on each order.
