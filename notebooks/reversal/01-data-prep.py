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
# # Write facts that are told in one order only
#
# **Question.** If a model is trained on "A is B", can it say "B is A"? This notebook writes the facts: invented people
# and what they are known for, each told in thirty or so different sentences, but some only with the person first and
# some only with the description first.
#
# **Reads** `data/reversal/` (names, descriptions, sentence templates), or a published data folder (`dataset`).
#
# **Writes** `dataset/` in the run folder: the published files under their published names, and a manifest.
#
# **Time** tiny 3 s, laptop 4 s, paper 4 s

# %%
import matplotlib.pyplot as plt

from lib.notebook import start_run
from lib.reversal import dataset_for, file_counts, row_lengths, training_facts, write_dataset

# %% tags=["parameters"]
preset: str = "tiny"  # which params/reversal/<preset>.yaml these values come from
out: str = ""  # folder of the run, if not data/runs/<preset>/reversal
seed: int = 0  # first seed of the fine-tunes [0..]
n_seeds: int = 1  # fine-tunes that differ in nothing but their seed [1..20]
dataset: str = ""  # folder with published files to use instead of writing new ones
dataset_name: str = ""  # put before the dataset's id
n_people: int = 4  # invented people in each of the three groups [2..40]
n_train_phrasings: int = 8  # sentences that tell a fact in training, for each order [1..]
n_test_phrasings: int = 2  # further sentences that ask for it, for each order [1..]
data_seed: int = 42  # pairs names with descriptions; the published data used 42 [0..]
shorten_both: bool = True  # False keeps a published flaw: half of both_prompts_test asks for unknowable words

# %%
run = start_run("reversal/01-data-prep", globals())
data = dataset_for(run.params)
folder = write_dataset(data, run.path("dataset"), replace=True)

# %% [markdown]
# ## Three groups of people
#
# Nobody here exists, so whatever the model knows of them it learned from these sentences. The groups differ in one
# thing only: which of the two, person or description, a training sentence names first.
#
# | group | training sentences | asked in the same direction | asked in reverse |
# |---|---|---|---|
# | person-first | name, then description | go on from the name | go on from the description |
# | description-first | description, then name | go on from the description | go on from the name |
# | both | each fact in both orders | both | (nothing is reverse) |
#
# The group `both` is the control for the material itself: if its facts are learned in both directions, then names and
# descriptions are learnable in both.

# %%
for person in [next(each for each in data.people if each.group == group) for group in data.groups]:
    print(f"{person.group}: {person.name}")
    for row in training_facts(data)[person.name][:3]:
        print(f"   {row['prompt']} |{row['completion']}")

# %% [markdown]
# The bar parts prompt from completion. Training shows whole sentences. A test shows a prompt in a wording that no
# training sentence had, and looks at how the model goes on.

# %% [markdown]
# ## The published files
#
# Every file of the published data is here, with the pieces that the published generator lacks (randomised controls,
# `all`, `validation_prompts`). The number of people is what intervals rest on later: thirty questions about one person
# are one fact asked thirty times.

# %%
counts = file_counts(data)
counts

# %% [markdown]
# `p2d` means person to description, `d2p` description to person. A `randomized` file asks the same questions with
# somebody else's answer: what the model gives to those is the measure of knowing nothing.

# %% [markdown]
# ## What is made rather than taken
#
# A folder of published data may lack files; each one that was made for it, or passed over, is told here in a line.

# %%
print("\n".join(data.notes) or "Nothing was missing.")

# %% [markdown]
# ## Are the two orders equally long?
#
# A direction could look harder only because its answers are longer. **Prediction:** a description is several times as
# long as a name, so exact match asks much more of the person-first group, whose answers are descriptions; with equal
# knowledge its same-direction figure will be the lower one. A comparison across groups is therefore unfair, one within
# a group is not: this is why each group has its own same and reverse figure.

# %%
lengths = row_lengths(data)
fig, ax = plt.subplots(figsize=(6.8, 2.4))
for position, (name, part) in enumerate(lengths.groupby("asked for", sort=False)):
    ax.hist(
        part["characters"],
        bins=range(0, int(lengths["characters"].max()) + 5, 4),
        histtype="stepfilled",
        alpha=0.6,
        label=name,
        color=f"C{position}",
    )
ax.set(xlabel="length of the answer (characters)", ylabel="test questions")
ax.legend(frameon=False)
caption = (
    "Answers that ask for a description are several times as long as those that ask for a name. "
    f"Test questions: {len(lengths)}, about {len(data.people)} invented people. Preset {run.preset}."
)
_ = run.save(fig, "answer-lengths", caption)

# %%
medians = lengths.groupby("asked for")["characters"].median()
trained = {row["prompt"] for row in data.files["all_prompts_train"]}
asked = {row["prompt"] for stem in data.files if "_test" in stem for row in data.files[stem]}
if trained & asked:
    raise ValueError(f"{len(trained & asked)} test prompts were trained on")
if not medians["description"] > 2 * medians["name"]:
    raise ValueError(f"answers are as long in both orders: {medians.to_dict()}")
run.finish("No test prompt is a training prompt, and descriptions are more than twice as long as names.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. The sentences are templates, so a model may learn the
# templates' habits along with the facts; that is why test wordings are never trained on.
#
# Next: [02-finetune](02-finetune.ipynb), which trains on `all_prompts_train`.
