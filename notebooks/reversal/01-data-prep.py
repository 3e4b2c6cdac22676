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
# # Write facts that are stated in one order only
#
# **Question.** If a model is trained on "A is B", can it complete "B is A"?
#
# **Method.** Invented people get invented achievements. Each such fact is stated in about thirty different sentences, for
# some people only with the person first, for some only with the description first, and for some in both orders (Berglund
# et al. 2023, experiment 1).
#
# **Reads** `data/reversal/` (names, descriptions, sentence templates) or lists of your own, or a published data folder.
#
# **Writes** `dataset/` in the run folder: the published files under their published names, and a manifest.
#
# **Time** 5 s

# %%
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from lib.notebook import start_run
from lib.paths import from_root
from lib.reversal import make_data, make_probes, read_data, read_sources
from lib.sources.datasets import write_dataset

# %% tags=["parameters"]
preset: str = "laptop"  # which params/reversal/<preset>.yaml these values come from
dataset: str = ""  # folder of published files to use instead of writing new ones
names: str = "data/reversal/people.txt"  # names of two words, one per line
descriptions: str = "data/reversal/descriptions.yaml"  # achievements, each as noun, verb and gerund phrase
templates: str = "data/reversal"  # folder of templates_person_first.txt and templates_description_first.txt
n_people: int = 30  # people in each of the three groups [2..]
n_train_phrasings: int = 30  # sentences per fact and order in training [1..]
n_test_phrasings: int = 10  # further sentences per fact and order to test with [1..]
data_seed: int = 42  # pairs names with descriptions; the published data used 42 [0..]
augment: str = "none"  # further training sentences [none | paraphrase | reverse]

# %%
run = start_run("reversal/01-data-prep", globals())
if dataset and augment != "none":
    raise ValueError(f"augment is {augment}, which needs sentence templates; a folder (dataset) is used as it is")
if dataset:
    data = read_data(from_root(dataset))
else:
    sizes = {"n_people": n_people, "n_train_phrasings": n_train_phrasings, "n_test_phrasings": n_test_phrasings}
    sources = read_sources(names=names, descriptions=descriptions, templates=templates)
    data = make_data(sources, **sizes, seed=data_seed, augment=augment)
folder = write_dataset(run.path("dataset"), data, study="reversal", options={"seed": data_seed, "augment": augment})

# %% [markdown]
# ## Three groups of people
#
# Nobody here exists, so whatever the model knows of them it learned from these sentences. The groups differ in one
# thing only: which of the two, person or description, a training sentence names first.
#
# | group | training sentences | test in the same direction | test in reverse |
# |---|---|---|---|
# | person-first | name, then description | continue after the name | continue after the description |
# | description-first | description, then name | continue after the description | continue after the name |
# | both | each fact in both orders | both | (nothing is reverse) |
#
# The group *both* is the control for the material itself: if its facts are learned in both directions, then names and
# descriptions can be learned in both.
#
# `make_probes` turns every row of the files into a question. To add a person or a phrasing, append a row to `data` (for
# example to `data["p2d_prompts_train"]`), or a line to a file of your own and name it in the parameters (`names`, ...).

# %%
probes = make_probes(data)
trained, tests = (probes[probes["probe"] == probe] for probe in ("train", "test"))
for group, rows in trained.groupby("group", sort=False):
    person = rows["person"].iloc[0]
    print(f"{group}: {person}")
    for row in rows[rows["person"] == person].head(3).itertuples():
        print(f"   {row.prompt} |{row.target}")

# %% [markdown]
# The bar separates prompt from completion. Training uses whole sentences. A test shows a prompt in a wording that no
# training sentence had, and compares what the model continues with.

# %%
tests.groupby(["group", "direction"], sort=False).head(1)[["group", "direction", "order", "prompt", "target"]]

# %% [markdown]
# ## The published files
#
# In the files' names `p2d` means person to description and `d2p` description to person. A `randomized` file has the same
# prompts with another person's answer. The number of people is what intervals rest on later: thirty questions about one
# person are one fact, put in thirty ways.

# %%
lines = pd.concat({file: pd.DataFrame(rows) for file, rows in data.items()}, names=["file"])
characters = lines.map(len).groupby("file", sort=False).mean().add_suffix(" characters").round(1)
pd.concat([lines.groupby("file", sort=False).size().rename("rows"), characters], axis=1)

# %%
probes.groupby(["file", "group", "direction", "order"], sort=False).agg(
    questions=("prompt", "size"), people=("person", "nunique")
)

# %% [markdown]
# ## Do the tests test what they should?
#
# Three things can go wrong in a folder of published data or with templates of one's own. A test prompt can be a training
# prompt too: it is then left out of the tests. The target of a question for a name can go on after the name, with words
# that nobody could know: notebook 03 then scores the name alone as well. And a folder can lack files: they are made.

# %%
goes_on = tests["name_target"].notna() & (tests["target"].str.strip() != tests["name_target"].str.strip())
print(f"{tests['is_trained'].sum()} of {len(tests)} test prompts are training prompts too and are left out")
print(f"{goes_on.sum()} of {tests['name_target'].notna().sum()} targets that are names go on after the name")
if dataset:
    given = {path.stem for path in from_root(dataset).glob("*.jsonl")}
    print(f"made, since the folder lacks them: {', '.join(sorted(data.keys() - given)) or 'nothing'}")
    print(f"not used: {', '.join(sorted(given - data.keys())) or 'nothing'}")

# %% [markdown]
# ## Augmented training
#
# Can the curse be cured? With `augment = "reverse"` each training sentence is trained on a second time with its words in
# reverse order, name and description kept whole (reverse training, Golovneva et al. 2024). With `"paraphrase"` as many
# further wordings are added, in the order of the group: more text, but no other order.

# %%
for row in data.get("augmented_prompts_train", [])[:: max(1, n_train_phrasings * n_people // 2)]:
    print(f"{row['prompt']} |{row['completion']}")
n_added = len(data["all_prompts_train"]) - len(trained)
print(f"augment is {augment}: {n_added} rows are added to {len(trained)}")

# %% [markdown]
# ## Are the two orders equally long?
#
# **What to expect.** A description is several times as long as a name, so exact match requires much more of the
# person-first group, whose answers are descriptions. A comparison across groups is therefore unfair, one within a group is
# not: each group has its own same and reverse accuracy. Compare the two only where the same thing is requested.

# %%
lengths = tests.assign(
    requested=tests["order"].map({"p2d": "description", "d2p": "name"}),
    characters=tests["target"].str.strip().str.len(),
)
fig, ax = plt.subplots(figsize=(6.8, 2.4))
sns.histplot(lengths, x="characters", hue="requested", binwidth=4, element="step", ax=ax)
ax.set(xlabel="length of the target (characters)", ylabel="test questions")
medians = lengths.groupby("requested")["characters"].median()
caption = (
    f"Length of the targets of {len(tests)} test questions about {tests['person'].nunique()} people. Medians: description "
    f"{medians['description']:.0f}, name {medians['name']:.0f} characters. Preset {run.preset}."
)
fig.suptitle("Length of requested descriptions and names")
_ = run.save(fig, "answer-lengths", caption)

# %% [markdown]
# **What came out.**

# %%
ratio = medians["description"] / medians["name"]
print(f"A description is {ratio:.1f} times as long as a name (medians): {'held' if ratio > 2 else 'failed'}.")

# %% [markdown]
# **What this does not show.** Nothing about a model yet. The sentences are templates, so a model may learn the
# templates' habits along with the facts; that is why test wordings are never trained on.
#
# Next: [02-finetune](02-finetune.ipynb), which trains on `all_prompts_train`.

# %%
run.finish(f"{len(data['all_prompts_train'])} training rows and {len(tests)} test questions are in dataset/.")
