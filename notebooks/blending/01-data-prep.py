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
# # Part the stories: some to tune on, some to fit on, some to test on
#
# **Question.** Can a small model that was tuned on stories lend its tuning to a big one that was not? An honest answer
# needs three kinds of documents: those that tune the small model, those on which the blend is fitted, and those that
# neither has seen.
#
# **Reads** `stories` (a file or folder of texts), or writes stories of the invented world itself. With `records`, a
# folder of published raw results, nothing is tuned and only those are read.
#
# **Writes** `dataset/`: the documents with their split, and the rows that models are tuned on.
#
# **Time** tiny 3 s, laptop 4 s, books 4 s, paper 20 s

# %%
import matplotlib.pyplot as plt

from lib.blending import read_records, save_records
from lib.blending.dataset import make_dataset, split_table, write_dataset
from lib.notebook import start_run
from lib.paths import from_root

# %% tags=["parameters"]
preset: str = "tiny"  # which params/blending/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/blending
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
stories: str = ""  # text to tune on: a .txt, .jsonl or folder; empty for stories of the invented world
general: str = ""  # text that the fork-* bases are made from; empty for the invented world
records: str = ""  # folder of published raw_api_results_*.pkl to analyse instead of asking models
document: str = "auto"  # what one document of a .txt is [auto | file | heading | paragraphs]
n_documents: int = 24  # stories to write where none are given [3..]
validation_share: float = 0.2  # of the documents, to fit the blends on; published: half of the last 40% [0.01..0.9]
test_share: float = 0.2  # of the documents, to compare on; published: the other half [0.01..0.9]
segment_words: int = 90  # words of one row to tune on; published: about 525 [1..]
segments: str = "document"  # cut rows inside documents, or through the whole text as published [document | published]
max_tune_examples: int = 0  # keep only the first rows; 0 keeps all [0..]
data_seed: int = 1  # draws the splits, and the stories of the invented world [0..]

# %%
run = start_run("blending/01-data-prep", globals())

# %% [markdown]
# ## Splits by document
#
# A target token of a test document must not have a near copy in what a model was tuned on. So whole documents are drawn,
# and documents that share half of their five-word runs count as one. The published study cut one long file at 60% and
# at 80%, in the middle of stories and without a look at doubles.

# %%
if records:
    published = read_records(from_root(records))
    save_records(published, run.path("dataset/records.npz"))
    table = {length: len(each) for length, each in published.items()}
    print(f"Published records of {len(table)} context lengths were read; nothing will be tuned.")
else:
    data = make_dataset(run.params)
    write_dataset(data, run.path("dataset"))
    table = split_table(data)
    print(f"{data.n_duplicates} documents are near-duplicates of another and stay beside it.")
table

# %% [markdown]
# The tuning documents are cut into rows of an empty prompt and a completion: what an ordinary fine-tuning service takes.
# A row ends where its words end, not where its story does; a rest shorter than a row is left out.

# %%
if not records:
    lengths = [len(row["completion"].split()) for row in data.training_rows]
    print(f"{len(lengths)} rows of up to {max(lengths)} words; the first begins:")
    print(data.training_rows[0]["completion"][:300])

# %% [markdown]
# ## How long are the documents?
#
# Every target is predicted after 1, 2, 4 ... tokens of what stands before it, so it needs as many tokens before it as
# the longest context has. **Prediction:** documents of all three splits are alike in length, since chance alone drew
# them; a split of short documents would have no targets at all.

# %%
if not records:
    words = {split: [len(d.text.split()) for d in documents] for split, documents in data.documents.items()}
    fig, ax = plt.subplots(figsize=(3.4, 2.0))
    ax.boxplot(list(words.values()), tick_labels=list(words), orientation="horizontal", widths=0.5)
    ax.set_xlabel("words of a document")
    caption = (
        "Documents of the three splits are alike in length, since chance alone drew them. Box: quartiles, line: median, "
        f"circles: outliers. {sum(map(len, words.values()))} documents, preset {run.preset}."
    )
    _ = run.save(fig, "document-lengths", caption)

# %%
if not records:
    texts = {split: {d.text for d in documents} for split, documents in data.documents.items()}
    shared = texts["tuning"] & (texts["validation"] | texts["test"]) | texts["validation"] & texts["test"]
    if shared:
        raise ValueError(f"{len(shared)} documents are in two splits")
run.finish("No document is in two splits.")

# %% [markdown]
# **What this does not show.** Near-duplicates share runs of words; a story told again in other words is not found.
#
# Next: [02-finetune](02-finetune.ipynb), which tunes the small model, and the big one as the reference to reach.
