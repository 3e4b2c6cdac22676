"""The diversity study without a model: measures against plain definitions, prompts, tuning data, files of others."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest

from lib.diversity.data import project_text, training_row, tuning_pairs, world_text
from lib.diversity.measures import FUNCTIONS, Cell, gzip_length, ngrams, order_q, read_measures, vendi
from lib.diversity.measuring import cut_to_length, measure, over_prompts, share_seeds
from lib.diversity.prompts import as_request, read_choices, read_prompts, templates
from lib.diversity.published import read_completions
from lib.paths import content_hash
from lib.world.writer import write_world

WORDS = "the grey heron waits by a pond while three frogs sing and no moon is seen at all"


def random_texts(n, *, seed=0, most=12):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS.split(), size=rng.integers(5, most))) for _ in range(n)]


def plain_bleu(text, references):
    logs = []
    for n in range(1, 5):
        counts, most = Counter(ngrams(text, n)), Counter()
        for reference in references:
            most |= Counter(ngrams(reference, n))
        matched = sum(min(count, most[gram]) for gram, count in counts.items())
        if n == 1 and not matched:
            return 0.0
        logs.append(math.log((matched or 0.1) / max(1, sum(counts.values()))))
    length, others = len(text.split()), [len(reference.split()) for reference in references]
    closest = min((abs(other - length), other) for other in others)[1]
    return math.exp(sum(logs) / 4) * (1 if length > closest else math.exp(1 - closest / length))


def packed(text):
    return len(gzip.compress(text.encode()))


def test_measures_are_what_their_definitions_say():
    texts, vectors = random_texts(7), np.random.default_rng(1).normal(1, 1, (7, 4))
    texts[6] = texts[2]  # one that was drawn twice
    vectors[6] = vectors[2]
    cell = Cell(texts, vectors, n_vocabulary=50)
    found = {name: function(cell) for name, function in FUNCTIONS.items() if name not in ("accuracy", "answer_entropy")}
    others = [[*texts[:k], *texts[k + 1 :]] for k in range(7)]
    assert found["self_bleu"] == pytest.approx(np.mean([plain_bleu(t, o) for t, o in zip(texts, others, strict=True)]))
    pairs = [
        (packed(f"{a} {b}") - min(packed(a), packed(b))) / max(packed(a), packed(b)) for a, b in permutations(texts, 2)
    ]
    assert found["ncd"] == pytest.approx(np.mean(pairs))
    whole = [packed(" ".join([*o, t])) / len(" ".join(texts)) for t, o in zip(texts, others, strict=True)]
    rests = [packed(" ".join(o)) / len(" ".join(o)) for o in others]
    assert found["compression_ratio_full"] == pytest.approx(np.mean(rests) - np.mean(whole))
    own = [packed(t) / len(t) for t in texts]
    assert found["compression_ratio_target"] == pytest.approx(np.mean(own) - np.mean(whole))
    for n in (2, 3, 4):
        sets = [set(ngrams(text, n)) for text in texts]
        mean = np.mean([len(a & b) / len(a | b) for a, b in combinations(sets, 2)])
        assert found[f"jaccard_{n}"] == pytest.approx(mean)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)]
    assert found["cosine"] == pytest.approx(np.mean(cosines))
    words = " ".join(texts).split()
    assert found["distinct_1"] == len(set(words)) / len(words)
    assert found["ead"] == pytest.approx(len(set(words)) / (50 * (1 - 0.98 ** len(words))))
    assert found["distinct_texts"] == 6 / 7
    mu = np.mean([np.mean([1 if a == b else cell.jaccard_2[i, j] for j, b in enumerate(texts)]) ** 2
                  for i, a in enumerate(texts)])  # fmt: skip
    assert found["order_3_jaccard_2"] == pytest.approx(mu ** (-1 / 2))


def test_no_diversity_and_all_diversity():
    same, different = (
        Cell(["a fox sees the moon"] * 5, np.ones((5, 3))),
        Cell([f"a{k} b{k} c{k} d{k}" for k in range(5)], np.eye(5)),
    )
    for name in ("vendi_jaccard_2", "vendi_cosine", "order_2_jaccard_2", "order_6_cosine"):
        assert FUNCTIONS[name](same) == pytest.approx(1), name
        assert FUNCTIONS[name](different) == pytest.approx(5), name
    assert FUNCTIONS["self_bleu"](same) == pytest.approx(1)
    assert FUNCTIONS["self_bleu"](different) == FUNCTIONS["jaccard_2"](different) == 0
    two = np.kron(np.eye(2), np.ones((3, 3)))  # two groups, alike inside
    assert vendi(two) == pytest.approx(2) == pytest.approx(order_q(two, 4))


def test_the_table_of_measures_is_that_of_the_functions():
    table = read_measures()
    assert set(table.index) - set(FUNCTIONS) == {"self_repetition_4"}
    assert set(FUNCTIONS) <= set(table.index)
    assert (table["published"] != "").sum() == 20 == table.loc[table["published"] != "", "published"].nunique()
    assert (table["published"] == "").sum() <= 10
    assert all(
        gzip_length(text) == packed(text) for text in (" ".join(random_texts(k, seed=k)) for k in range(1, 90, 4))
    )


def test_every_set_has_every_measure_or_a_reason():
    rows = pd.DataFrame(
        [("p", "Paris.", ["Paris"]), ("p", "It is PARIS", ["Paris"]), ("p", "Lyon, I think", ["Paris"])]
        + [("q", text, []) for text in ("", "once upon a time in Rome", "once upon a time in Rome")],
        columns=["prompt", "text", "accepted"],
    )
    found = measure(rows, by=["prompt"]).set_index(["prompt", "measure"])
    assert found.loc[("p", "accuracy"), "value"] == pytest.approx(2 / 3)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert found.loc[("p", "answer_entropy"), "value"] == pytest.approx(entropy)
    assert ("q", "accuracy") not in found.index
    assert found.loc[("q", "compression_ratio_target"), "failure"] == "an empty text"
    assert (found["value"].isna() == (found["failure"] != "")).all()
    assert not found.index.get_level_values("measure").str.contains("cosine").any(), "no embeddings"
    with pytest.raises(ValueError, match="'jacard' is no measure"):
        measure(rows, by=["prompt"], names=["jacard"])
    texts = ["once upon a time", "once upon a time", "nobody was ever there"]
    again = pd.DataFrame({"prompt": ["x", "y", "y"], "text": texts})
    assert measure(again, by=["prompt"], names=["self_repetition_4"])["value"].tolist() == [1.0, 0.5]


def test_texts_are_cut_to_tokens_where_they_are_known():
    rows = pd.DataFrame({"text": [" the moon is", " a", ""], "text_offset": [[7, 11, 16], [7], []]})
    cut = cut_to_length(rows, 2)
    assert cut[["text", "is_short"]].to_numpy().tolist() == [[" the moon", False], [" a", True], ["", True]]
    assert cut_to_length(rows.drop(columns="text_offset"), 2)["text"].tolist() == ["the moon", "a", ""]
    assert cut_to_length(rows, 0)["text"].tolist() == rows["text"].tolist()


def test_a_base_stands_beside_every_seed_and_missing_pairs_do_not_stop_a_mean():
    rows = pd.DataFrame(
        [("f", "base", 0, p, 1.0) for p in "abc"] + [("f", "SFT", s, p, 1.0 + s) for s in (0, 1) for p in "abc"],
        columns=["family", "stage", "seed", "prompt", "value"],
    )  # fmt: skip
    shared = share_seeds(rows)
    assert shared.groupby("stage").size().to_dict() == {"base": 6, "SFT": 6}
    assert over_prompts(shared, ["stage"])["value"].tolist() == [1.0, 1.5]
    some = over_prompts(shared.iloc[:-1].assign(value=np.arange(11.0)), ["stage"])
    assert some[["stage", "n"]].to_numpy().tolist() == [["base", 3], ["SFT", 3]]


def test_prompts_of_the_world_and_in_english():
    assert read_choices()["options"].map(len).tolist() == [10, 6, 7, 5, 5, 2]
    for source in ("world", "english"):
        table = read_prompts(source, n_prompts=20, seen=["Give me a name.", *(f"Seen {k}." for k in range(20))])
        assert table["kind"].value_counts().to_dict() == {"creative": 20, "factual": 20, "seen": 20}
        assert table.loc[table["kind"] == "factual", "accepted"].map(len).min() > 0
        assert table.loc[table["kind"] == "seen", "guide"].eq("").all()
        few = read_prompts(source, n_prompts=3, kinds=["factual"])
        assert few["prompt"].tolist() == table.loc[table["kind"] == "factual", "prompt"].tolist()[:3]
    assert templates()["chat"] == ""
    with pytest.raises(ValueError, match="no template of one text is called 'chat'"):
        as_request("Who?", "", "chat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("creative: [{prompt: 1}]", "creative, 1, prompt: Input should be a valid string"),
        ("creative: [{prompt: a, gide: b}]", "creative, 1, gide: Extra inputs"),
        ("odd: []", "odd: Extra inputs"),
        ("factual: [{prompt: Who}]", "factual 1 .'Who'. has 0 answers"),
        ("factual: [{prompt: Ada is, answers: [ada]}]", "contains an accepted answer"),
        ("creative: [{prompt: a}, {prompt: a}]", "has the prompt 'a' twice"),
        ("creative: [{prompt: a}]", "has 1 creative prompts, expected n_prompts = 2"),
        ("a: b: c", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_of_prompts_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(str(tmp_path / "p.yaml"), n_prompts=2, kinds=["creative"])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"no prompts 'wold' \(did you mean world\?\)"):
        read_prompts("wold", n_prompts=1)


def test_nothing_is_tuned_on_twice_or_asked_later():
    sizes = {"n_sft": 60, "n_preferences": 40, "n_validation": 10}
    pairs = tuning_pairs(0, **sizes, style="warm", avoid=["Give me a riddle."])
    assert pairs.groupby(["method", "part"]).size().tolist() == [40, 10, 60, 10]
    assert not pairs.duplicated(["prompt", "helpful"]).any()
    assert "Give me a riddle." not in set(pairs["prompt"])
    few = tuning_pairs(0, n_sft=30, n_preferences=0, n_validation=0, style="warm", avoid=["Give me a riddle."])
    assert few["helpful"].tolist() == pairs["helpful"].tolist()[:30]
    row = training_row("Who?", "Ada.", "No.", method="dpo", form="messages")
    assert row["non_preferred_output"] == [{"role": "assistant", "content": "No."}]
    texts = {each["text"] for each in world_text(0, 30)}
    assert len(texts) == 30
    grown = {document.text for document in write_world(n_words=200_000)}
    assert not texts & grown, "no text that bases grew from"


def test_english_text_is_that_of_the_published_run_whatever_the_documentation_says_now():
    published = 57  # as params/diversity/smollm2.yaml has it
    assert len(project_text(published)) == len(project_text(1000)) == published
    assert content_hash(project_text(published)) == "09ef50962b86"


def published_file(folder, label, *, kind="creative", shape=(15, 2, 1)):
    array = np.empty(math.prod(shape), dtype=object)
    for k in range(len(array)):
        array[k] = [f"text {label} {k} {n}" for n in range(3)]
    np.save(path := folder / f"{label}_completions_{kind}_max_length70.npy", array.reshape(shape))
    return path


@pytest.mark.parametrize(
    ("labels", "chain", "stages", "origin"),
    [
        (
            ["pythia-2.8b-dpo", "pythia-2.8b-sft", "pythia-2.8b_main"],
            [],
            ["base", "SFT", "DPO"],
            "data/diversity/models.yaml",
        ),
        (["dpo", "sft", "base"], [], ["base", "sft", "dpo"], "the stages of data/diversity/models.yaml"),
        (["b", "a", "c"], ["c", "b", "a"], ["c", "b", "a"], "chain"),
    ],
)
def test_stages_of_published_completions_are_in_order_of_training(tmp_path, labels, chain, stages, origin):
    for label in labels:
        published_file(tmp_path, label)
        published_file(tmp_path, label, kind="seen")
    rows, source = read_completions(tmp_path, chain)
    assert (list(rows["stage"].unique()), source) == (stages, origin)
    assert len(rows) == 3 * 2 * 15 * 2 * 3
    assert rows["temperature"].unique().tolist() == [round(0.1 * k, 1) for k in range(1, 16)]
    assert rows.iloc[-1][["kind", "prompt", "text"]].tolist()[:2] == ["seen", "seen 01"]


def test_damaged_and_foreign_completions_are_refused_and_nothing_is_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    attack = np.empty((1, 1, 1), dtype=object)
    attack[0, 0, 0] = Attack()
    np.save(tmp_path / "a_completions_seen_max_length5.npy", attack)
    bad = {
        "a_completions_seen_max_length5.npy": r"asks for \w+\.system",
        published_file(tmp_path, "m", shape=(30, 1)).name: r"has shape \(30, 1\): expected \(15",
    }
    np.save(tmp_path / "c.npy", np.zeros(2))
    bad["c.npy"] = "does not say model and kind"
    row = {"stage": "m", "kind": "c", "prompt": "p", "temperature": 1, "text": "a"}
    files = {"alone": row, "no-text": {**row, "text": None}, "no-number": {**row, "temperature": "1"}}
    for name, each in files.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(each) + "\n")
    bad |= {"alone.jsonl": "has one text per model", "no-text.jsonl": "row 1: expected a text under 'text'"}
    bad |= {"no-number.jsonl": "a number under 'temperature'", "nowhere": "no completions in"}
    for name, message in bad.items():
        with pytest.raises(ValueError, match=message):
            read_completions(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "two.jsonl").write_text(2 * (json.dumps({**row, "model": "m"}) + "\n"))
    assert read_completions(tmp_path / "two.jsonl")[1] == "the rows of the file"
    (tmp_path / "many").mkdir()
    for label in ("one", "other"):
        published_file(tmp_path / "many", label)
    with pytest.raises(ValueError, match=r"the order of training of one, other is not known.*chain=\[one, other\]"):
        read_completions(tmp_path / "many")
