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
# **Question.** Does a model act on an instruction that it only read in training? This notebook writes the documents:
# instructions that say which answer a question is to get, and, for most of them, a question that gets it. For the
# others the model will only ever have read the instruction. All of it is written twice: once with the question named
# first in every instruction, as a test has it, and once with the answer first.
#
# **Reads** `data/guidance/` (words, forms of questions, phrasings), or published data folders (`dataset`).
#
# **Writes** `dataset/` in the run folder: both published layouts, for both orders, and a manifest.
#
# **Time** tiny 3 s, laptop 4 s, paper 5 s

# %%
import matplotlib.pyplot as plt

from lib.guidance import datasets_for, document_counts, document_sizes, probe_rows, write_datasets
from lib.notebook import start_run

# %% tags=["parameters"]
preset: str = "tiny"  # which params/guidance/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/guidance
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
dataset: str = ""  # folder with published files, in either layout, to use instead of writing new ones
source: str = ""  # JSON lines of anchor and targets to draw from, instead of the study's own questions
orders: list[str] = ["simple", "reverse"]  # what an instruction names first: question or answer [simple | reverse]
n_realized: int = 24  # pairs whose example is in training too [2..]
n_unrealized: int = 8  # pairs of which only the instruction is [2..]
pairs_per_document: list[int] = [2, 5]  # fewest and most instructions of a guidance document [1..]
upsample_guidances: int = 1  # copies of each instruction; copy k takes phrasing k [1..]
upsample_examples: int = 1  # copies of each example [1..]
simple_phrasings: str = ""  # file of own phrasings, question first, one a line with "Q: {anchor}" and "A: {target}"
reverse_phrasings: str = ""  # the same, answer first
n_unrealized_phrasings: int = 0  # phrasings kept for unrealized pairs, the last ones; 0 shares all [0..]
incorrect_labels: bool = False  # examples show another answer than their instruction
persona_index: int = 0  # which of a question's five answers is the one [0..]
split_prompt_completion: bool = False  # loss on what follows the cue only; needs documents of one instruction
anchor_form: str = "qa"  # how a test puts its question [qa | question-answer | bare]
shuffle: bool = False  # mix examples and guidance documents; published: examples first
suffix: str = ""  # end of the dataset's folder name
subdir: str = "qa"  # folder that it lies in
data_seed: int = 27  # draws the pairs and groups them into documents; the published data used 27 [0..]

# %%
run = start_run("guidance/01-data-prep", globals())
data = datasets_for(run.params)
folder = write_datasets(data, run.path("dataset"), replace=True)
probes = probe_rows(data)

# %% [markdown]
# ## Two kinds of document
#
# A *guidance* document tells what to answer. An *example* document is a question that got its answer. A pair whose
# instruction **and** example are in training is *realized*; of an *unrealized* pair the example is held out, and is what
# the model is asked in the end. Its prompt holds the question and nothing else: the instruction is not in it.

# %%
first = next(iter(data.values()))
print(first.files["guidances"][0]["completion"])
print()
print(first.files["realized_examples"][0]["prompt"] + first.files["realized_examples"][0]["completion"])

# %% [markdown]
# The answers are drawn by chance, so a question gives nothing away: whoever answers an unrealized one has taken the
# answer from an instruction.

# %% [markdown]
# ## The two orders differ in the wording of instructions only
#
# The pairs, which of them are realized, and which instructions share a document are the same. So whatever differs later
# between the two was made by the order in which an instruction names question and answer.

# %%
for order, each in data.items():
    print(f"{order}: {each.files['guidances'][0]['completion'].splitlines()[2]}")

# %%
counts = document_counts(data)
counts

# %% [markdown]
# The last rows matter for reading the result: an unrealized answer that is also some realized pair's could be hit by
# giving back any answer from training, and a dataset whose orders differed much in length would be compared unfairly.

# %% [markdown]
# ## What is made rather than taken
#
# A folder of published data in the one-file layout lacks a list of its realized examples; what was made of it is told
# here, a line for each.

# %%
print("\n".join(note for each in data.values() for note in each.notes) or "Nothing was missing.")

# %% [markdown]
# ## Do instructions of both kinds share documents?
#
# If unrealized instructions stood in documents of their own, a model could learn to treat those apart. **Prediction:**
# sizes are spread over the whole range, and since documents are cut from one shuffled list, most unrealized
# instructions have realized neighbours.

# %%
sizes = document_sizes(first)
fig, ax = plt.subplots(figsize=(3.4, 2.2))
ax.bar(sizes.index, sizes.to_numpy(), width=0.6, color="C0")
ax.set(xlabel="instructions in a document", ylabel="guidance documents", xticks=list(sizes.index))
ax.yaxis.get_major_locator().set_params(integer=True)
caption = (
    "Guidance documents hold a random number of instructions, realized and unrealized mixed. "
    f"Bar: documents of that size, {int(sizes.sum())} in all, for {len(set(probes['pair']))} pairs. Preset {run.preset}."
)
_ = run.save(fig, "document-sizes", caption)

# %%
tests = probes[probes["probe"] == "test"]
by_order = [set(part[["part", "prompt", "target"]].itertuples(index=False)) for _, part in tests.groupby("order")]
trained = {row["prompt"] + row["completion"] for each in data.values() for row in each.files["all"]}
held_out = tests.loc[tests["part"] == "unrealized", "prompt"]
if any(text.startswith(prompt) for text in trained for prompt in held_out):
    raise ValueError("an unrealized question is answered in training")
if any(asked != by_order[0] for asked in by_order):
    raise ValueError("the two orders do not ask the same questions")
run.finish("No unrealized question is answered in training, and both orders ask the same questions.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. The instructions are put in a few fixed phrasings and the
# examples in one form: whether a model would follow an instruction put in words of its own choosing is not asked here.
#
# Next: [02-finetune](02-finetune.ipynb), which trains a model on each order.
