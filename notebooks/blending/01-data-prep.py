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
# # Split the stories: some to tune on, some to fit on, some to test on
#
# **Question.** Can a small model that was tuned on stories lend its tuning to a big one that was not? An honest answer
# needs three kinds of documents: those that the small model is tuned on, those on which the blend is fitted, and those
# that neither has seen.
#
# **Method.** Whole documents are drawn for the three splits; documents that share half of their five-word runs stay
# together. The published study cut one long file at 60% and at 80%, in the middle of stories.
#
# **Reads** `stories` (a file or folder of texts), or writes stories of the invented world itself. With `records`, a
# folder of published results, nothing is tuned and only those are read.
#
# **Writes** `dataset/`: `documents.jsonl` with each document's split, and the rows that models are tuned on
# (`train.jsonl`, `validation.jsonl`); or `records.parquet`.
#
# **Time** tiny 3 s, laptop 4 s, smollm2 4 s, paper 20 s

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from lib import world
from lib.blending.published import read_records
from lib.notebook import start_run
from lib.paths import from_root, write_jsonl
from lib.sources import corpus

# %% tags=["parameters"]
preset: str = "laptop"  # which params/blending/<preset>.yaml these values come from
stories: str = ""  # text to tune on: a .txt, .jsonl or folder; empty for stories of the invented world
records: str = ""  # folder of published raw_api_results_*.pkl to analyse instead of requesting predictions
document: str = "auto"  # what one document of a .txt is [auto | file | heading | paragraphs]
n_documents: int = 240  # stories to write where none are given [3..]
validation_share: float = 0.2  # of the documents, to fit the blends on; published: half of the last 40% [0.01..0.9]
test_share: float = 0.2  # of the documents, to compare on; published: the other half [0.01..0.9]
segment_words: int = 90  # words of one row to tune on; published: about 525 [1..]
segments: str = "document"  # cut rows inside documents, or through the whole text as published [document | published]
max_tune_examples: int = 0  # keep only the first rows; 0 keeps all [0..]
data_seed: int = 1  # draws the splits, and the stories of the invented world [0..]

# %%
run = start_run("blending/01-data-prep", globals())
if validation_share + test_share >= 1:
    raise ValueError(
        f"validation_share and test_share sum to {validation_share + test_share:g}: nothing is left to tune on"
    )

# %% [markdown]
# ## The stories
#
# One row per document. To use your own, name a file or a folder of texts in `stories`.

# %%
if records:
    published = read_records(from_root(records))
    published.to_parquet(run.path("dataset/records.parquet"))
    documents = []
    print(
        f"{len(published)} published records of {published['context_tokens'].nunique()} context lengths; nothing is tuned."
    )
elif stories:
    documents = corpus.read_documents(from_root(stories), document=document)
else:  # seed 0 of the world wrote the stories that the bases were pre-trained on
    written = world.stories(data_seed + 1, n_documents)
    documents = [corpus.Document(f"story:{k}", story.text) for k, story in enumerate(written)]
for each in documents[:2]:
    print(f"{each.name}: {each.text[:400]}\n")

# %% [markdown]
# ## Splits by document
#
# A token of a test document must not have a near copy in what a model was tuned on. So chance draws whole documents, and
# near-duplicates are drawn together.

# %%
if documents:
    shares = (1 - validation_share - test_share, validation_share, test_share)
    drawn = corpus.split_three(documents, shares=shares, rng=np.random.default_rng(data_seed))
    splits = {"tuning": drawn.tuning, "validation": drawn.validation, "test": drawn.test}
    rows = [(each.name, split, each.text) for split, part in splits.items() for each in part]
    table = pd.DataFrame(rows, columns=["name", "split", "text"])
    table["words"], table["bytes"] = table["text"].str.split().str.len(), table["text"].str.encode("utf-8").str.len()
    write_jsonl(run.path("dataset/documents.jsonl"), table[["name", "split", "text"]].to_dict("records"))
    print(f"{sum(map(len, drawn.duplicates))} documents are near-duplicates of another and stay in its split.")
    print(
        table.groupby("split", sort=False).agg(
            documents=("name", "size"), words=("words", "sum"), bytes=("bytes", "sum")
        )
    )

# %% [markdown]
# ## Rows to tune on
#
# The tuning documents are cut into rows of an empty prompt and a completion: what an ordinary fine-tuning service takes.
# A row ends where its words end, not where its story does; a rest shorter than a row is left out. The validation loss of
# notebook 02 is measured on the openings of validation documents.

# %%
if documents:
    if segments == "published":
        text = "\n".join(each.text for each in splits["tuning"])
        n_samples = max(1, len(text.split(" ")) // segment_words)
        texts = corpus.published_segments(text, n_samples=n_samples, max_examples=max_tune_examples)
    else:
        texts = corpus.segments(splits["tuning"], n_words=segment_words, max_examples=max_tune_examples)
    openings = [" ".join(each.text.split(" ")[:200]) for each in splits["validation"]]
    if not texts:
        raise ValueError(f"no tuning document has {segment_words} words: lower segment_words, or give more text")
    for name, part in {"train": texts, "validation": openings}.items():
        write_jsonl(run.path(f"dataset/{name}.jsonl"), [{"prompt": "", "completion": f" {each}"} for each in part])
    print(
        f"{len(texts)} rows of up to {max(len(each.split()) for each in texts)} words; the first begins:\n{texts[0][:300]}"
    )

# %% [markdown]
# ## How long are the documents?
#
# Every target is predicted after 1, 2, 4 ... tokens of what stands before it, so it needs as many tokens before it as
# the longest context has.
#
# **What to expect.** Documents of all three splits are alike in length, since chance alone drew them; a split of short
# documents would have no targets at all.

# %%
if documents:
    fig, ax = plt.subplots(figsize=(3.4, 2.0))
    sns.boxplot(table, x="words", y="split", color="0.85", width=0.5, fliersize=2, ax=ax)
    ax.set(xlabel="words of a document", ylabel="")
    caption = f"Box: quartiles, line: median, circles: outliers. {len(table)} documents, preset {run.preset}."
    fig.suptitle("Length of the documents of each split")
    _ = run.save(fig, "document-lengths", caption)

# %% [markdown]
# **What came out.**

# %%
if documents:
    medians = table.groupby("split", sort=False)["words"].median()
    twice = table["text"].duplicated().sum()
    print(f"Median words: {', '.join(f'{split} {words:.0f}' for split, words in medians.items())}.")
    print(
        f"No split's median is more than twice another's: {'held' if medians.max() <= 2 * medians.min() else 'failed'}."
    )
    print(f"{twice} texts occur more than once; each of these is in one split only.")

# %% [markdown]
# **What this does not show.** Near-duplicates share runs of words; the same story in other words goes unnoticed.
#
# Next: [02-finetune](02-finetune.ipynb), which tunes the small model, and the big one as the reference.

# %%
run.finish("The published records are in dataset/." if records else "Documents and rows to tune on are in dataset/.")
