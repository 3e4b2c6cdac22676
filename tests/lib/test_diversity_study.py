"""From tuning rows to texts on a tiny server: stages follow each other, nothing is made twice, bad input is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openai import NotFoundError, OpenAI
from serving import TINY, facts, jsonl, official, preferences
from starlette.testclient import TestClient

from lib import finetune
from lib.diversity import (
    chain,
    chain_curves,
    chain_of,
    compare_measures,
    cut_to_length,
    given_chain,
    given_completions,
    greedy_texts,
    measure,
    number_prompts,
    option_probs,
    sample,
    score_chains,
    train_chain,
    training_curves,
    write_completions,
    write_dataset,
)
from lib.diversity.chain import read_stages
from lib.diversity.embeddings import embedder
from lib.diversity.models import known_models
from lib.diversity.prompts import read_prompts
from lib.next_token import Source
from lib.paths import write_jsonl

PARAMS: dict[str, Any] = {
    "base": TINY, "size_bases": ["fork-kin"], "n_seeds": 1, "stages": ["SFT:supervised:2", "DPO:dpo:1"],
    "form": "dialogue", "template": "own", "supervised_batch_size": 8, "supervised_learning_rate_multiplier": 1.0,
    "dpo_batch_size": 8, "dpo_learning_rate_multiplier": 1.0, "beta": 0.1, "chain": [], "tuned_model": "", "seed": 0,
}  # fmt: skip
DATA: dict[str, Any] = {
    "stages": ["SFT:supervised:1"], "chain": [], "tuned_model": "", "n_sft": 60, "n_preferences": 40,
    "n_validation": 10, "style": "warm", "form": "dialogue", "data_seed": 0, "prompts": "world", "n_prompts": 6,
    "kinds": ["creative", "factual", "seen"], "text": "", "n_documents": 30,
}  # fmt: skip
LIMITS = {"creative": 5, "seen": 5, "factual": 3}
NOBODY: Any = None  # a client that fails whatever it is asked


@pytest.fixture(scope="module")
def client(family_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Of one server for the whole file."""
    from tuning_server.app import make_app
    from tuning_server.types import Settings

    store = tmp_path_factory.mktemp("study") / "store"
    shutil.copytree(family_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as http:
        yield official(http)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for name, told in {"supervised": facts(16), "dpo": preferences(8)}.items():
        for part in ("train", "validation"):
            (folder / f"{name}.{part}.jsonl").write_bytes(jsonl(told))
    return folder


@pytest.fixture(scope="module")
def trained(client: OpenAI, rows: Path) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "POLL_SECONDS", 0.02)
        return train_chain(client, PARAMS, seeds=[3, 4], dataset=rows)


def n_jobs(client: OpenAI) -> int:
    return len(client.fine_tuning.jobs.list(limit=100).data)


def test_each_stage_is_trained_from_the_one_before(trained: pd.DataFrame, client: OpenAI) -> None:
    labels = [("base", 3), ("SFT 1", 3), ("SFT 1", 4), ("SFT 2", 3), ("SFT 2", 4), ("DPO", 3), ("DPO", 4)]
    assert list(zip(trained["stage"], trained["seed"], strict=True)) == labels
    assert trained["position"].tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert chain_of(trained, TINY) == ["base", "SFT 1", "SFT 2", "DPO"]
    assert (trained["family"] == TINY).all()
    assert trained["model"].is_unique
    of = trained.set_index(["stage", "seed"])
    for seed in (3, 4):
        assert of.loc[("SFT 1", seed), "job"] == of.loc[("SFT 2", seed), "job"], "epochs of one job"
        assert of.loc[("SFT 2", seed), "base"] == TINY
        assert of.loc[("DPO", seed), "base"] == of.loc[("SFT 2", seed), "model"]
        assert client.fine_tuning.jobs.retrieve(of.loc[("DPO", seed), "job"]).model == of.loc[("SFT 2", seed), "model"]
    assert of["train_reward_accuracy"].notna().sum() == 2
    assert of.loc["base", "template"].tolist() == ["plain"], "own: the base in plain text, stages as their rows"
    assert set(trained["template"].iloc[1:]) == {"dialogue"}
    assert n_jobs(client) == 4


def test_a_chain_is_never_trained_twice(client: OpenAI, trained: pd.DataFrame, rows: Path) -> None:
    before = n_jobs(client)
    pd.testing.assert_frame_equal(train_chain(client, PARAMS, seeds=[3, 4], dataset=rows), trained)
    assert n_jobs(client) == before
    curves = training_curves(client, trained)
    assert curves.groupby(["stage", "quantity"])["step"].max().to_dict() == {
        ("DPO", "train_loss"): 1, ("DPO", "train_reward_accuracy"): 1, ("SFT 1", "train_loss"): 4,
    }  # fmt: skip
    first = curves[(curves["stage"] == "DPO") & (curves["quantity"] == "train_loss")].iloc[0]
    assert first["value"] == pytest.approx(np.log(2), abs=1e-4), "neither answer preferred yet"
    assert (curves["low"] <= curves["value"]).all()
    assert (curves["value"] <= curves["high"]).all()
    assert training_curves(client, trained[trained["stage"] == "base"]).empty


def test_further_bases_have_a_chain_of_one_seed(monkeypatch: pytest.MonkeyPatch, rows: Path) -> None:
    def made(_: Any, wanted: list[finetune.FineTune], **files: Any) -> pd.DataFrame:
        assert files["training_file"].name == f"{wanted[0].method}.train.jsonl"
        told = [
            {
                "model": f"{each.base}+{each.method}{each.seed}",
                "seed": each.seed,
                "epoch": each.n_epochs,
                "is_final": True,
            }
            for each in wanted
        ]
        return pd.DataFrame(told)

    monkeypatch.setattr(chain, "finetune", made)
    monkeypatch.setattr(chain, "record", lambda _, model: pd.DataFrame([{"model": model}]))
    options = PARAMS | {"stages": ["A:dpo:1", "B:supervised:1"], "n_seeds": 3, "template": "human"}
    found = train_chain(NOBODY, options, seeds=[0, 1, 2], dataset=rows)
    assert found.groupby(["family", "stage"], sort=False).size().to_dict() == {
        (TINY, "base"): 1, (TINY, "A"): 3, (TINY, "B"): 3, ("fork-kin", "base"): 1, ("fork-kin", "A"): 1,
        ("fork-kin", "B"): 1,
    }  # fmt: skip
    assert found["model"].iloc[-1] == "fork-kin+dpo0+supervised0"
    assert set(found["template"]) == {"human"}
    few = train_chain(NOBODY, options | {"n_seeds": 2}, seeds=[0, 1], dataset=rows)
    assert set(few["family"]) == {TINY}


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (["SFT:supervised:1", "SFT:dpo:1"], "two stages of one chain are called 'SFT': give each a label of its own"),
        (["SFT:supervised:2", "SFT 1:dpo:1"], "two stages of one chain are called 'SFT 1'"),
        (["base:supervised:1"], "two stages of one chain are called 'base'"),
        (["SFT"], "stage 'SFT': expected label:method:epochs with a method of supervised, dpo"),
        (["SFT:supervised"], "stage 'SFT:supervised': expected"),
        (["SFT:ppo:1"], "stage 'SFT:ppo:1': expected"),
        (["SFT:supervised:0"], "stage 'SFT:supervised:0': expected"),
        ([":supervised:1"], "stage ':supervised:1': expected"),
        (["S/T:dpo:1"], "stage 'S/T:dpo:1': expected"),
    ],
)
def test_wrong_stages_are_refused_before_anything_is_trained(stages: list[str], told: str, tmp_path: Path) -> None:
    for refuse in (
        lambda: read_stages(stages),
        lambda: train_chain(NOBODY, PARAMS | {"stages": stages}, seeds=[0], dataset=tmp_path),
        lambda: write_dataset(DATA | {"stages": stages}, tmp_path),
    ):
        with pytest.raises(ValueError, match="stage") as error:
            refuse()
        assert str(error.value).startswith(told)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_models_that_exist_are_looked_up(client: OpenAI, trained: pd.DataFrame) -> None:
    before, dpo = n_jobs(client), trained["model"].iloc[-1]
    told = ["family", "stage", "position", "seed", "model", "template", "job"]
    found = given_chain(client, PARAMS | {"chain": [f"base:{TINY}", f"my DPO:{dpo}"]})
    assert found[told].to_numpy().tolist() == [
        [TINY, "base", 0, 0, TINY, "plain", ""], [TINY, "my DPO", 1, 0, dpo, "chat", ""]
    ]  # fmt: skip
    single = given_chain(client, PARAMS | {"tuned_model": dpo, "template": "dialogue"})
    assert single[["stage", "model", "template"]].to_numpy().tolist() == [
        ["base", TINY, "dialogue"], ["tuned", dpo, "dialogue"]
    ]  # fmt: skip
    families = given_chain(client, PARAMS | {"chain": [f"a/base:{TINY}", "b/base:fork-other", "a/SFT:fork-kin"]})
    assert families[["family", "stage", "position"]].to_numpy().tolist() == [
        ["a", "base", 0], ["b", "base", 0], ["a", "SFT", 1]
    ]  # fmt: skip
    assert n_jobs(client) == before
    assert training_curves(client, found).empty


@pytest.mark.parametrize("entry", ["pythia-70", "SFT=", "=fork-tiny", ""])
def test_entries_of_no_chain_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is neither label:model nor a name of data/diversity/models.yaml") as error:
        given_chain(NOBODY, PARAMS | {"chain": [f"base:{TINY}", entry]})
    assert "\n" not in str(error.value)


def test_given_chains_that_do_not_go_together_are_refused(client: OpenAI) -> None:
    with pytest.raises(ValueError, match=rf"^fork-other and {TINY} have different tokenizers \(\d+ tokens and"):
        given_chain(client, PARAMS | {"chain": ["base:fork-other", f"SFT:{TINY}"]})
    with pytest.raises(ValueError, match="two stages of one chain are called 'SFT'"):
        given_chain(client, PARAMS | {"chain": [f"a/SFT:{TINY}", "a/SFT:fork-kin"]})
    with pytest.raises(NotFoundError, match="fork-nowhere"):
        given_chain(client, PARAMS | {"chain": ["base:fork-nowhere"]})


def stub(**about: dict[str, Any]) -> Any:
    retrieve = lambda model: SimpleNamespace(model_dump=lambda: {"id": model, **about[model]})  # noqa: E731
    return SimpleNamespace(models=SimpleNamespace(retrieve=retrieve))


def test_known_names_are_held_against_what_is_declared() -> None:
    names = [name for name, known in known_models().items() if known.family == "410m"]
    declared = [known_models()[name] for name in names]
    about = {known.model_id: {"n_weights": known.n_parameters, "tokenizer": "t"} for known in declared}
    found = given_chain(stub(**about), PARAMS | {"chain": names})
    assert found["stage"].tolist() == ["base", "SFT", "DPO"]
    assert found["template"].tolist() == [known.template for known in declared]
    about[declared[1].model_id]["n_weights"] //= 2
    with pytest.raises(ValueError, match=f"weights.* for {names[1]}: another model stands behind that id"):
        given_chain(stub(**about), PARAMS | {"chain": names})


def test_a_model_of_ones_own_continues_the_named_chain() -> None:
    known = known_models()["pythia-410m"]
    about = {known.model_id: {"n_weights": known.n_parameters, "tokenizer": "t"}, "hf:mine": {"tokenizer": "t"}}
    found = given_chain(stub(**about), PARAMS | {"chain": ["pythia-410m", "mine:hf:mine"]})
    assert found["family"].tolist() == ["410m", "410m"]
    assert found["position"].tolist() == [0, 1]


def test_documents_are_scored_under_every_model_once(client: OpenAI, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "text.jsonl", [{"text": f"The red fox saw the old baker. {k}"} for k in range(4)])
    models = given_chain(client, PARAMS | {"chain": [f"base:{TINY}", "SFT:fork-kin"]})
    options = {"window": 0, "stride": 0, "begin_id": -1, "n_resamples": 20}
    source = Source(str(tmp_path / "text.jsonl"))
    found = score_chains(client, models, source, options, folder=tmp_path / "totals")
    assert {family: list(stages) for family, stages in found.items()} == {TINY: ["base", "SFT"]}
    curves, positions = chain_curves(found)
    assert curves.groupby("stage")["of_mean"].last().to_numpy() == pytest.approx(1, abs=1e-3)
    divergences = positions[positions["quantity"] == "kl"]
    assert set(divergences["stage"]) == {"SFT"}, "from the first model of the chain, which has none"
    assert (divergences["value"] > 0).all()
    assert positions["position"].min() == 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "totals").rglob("*") if path.is_file()}
    silent: Any = SimpleNamespace(models=client.models, post=client.post)  # it has no completions
    again = score_chains(silent, models, source, options, folder=tmp_path / "totals")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(chain_curves(again)[0], curves)
    assert [len(table) for table in chain_curves({})] == [0, 0]


def test_texts_come_with_every_setting_and_are_read_back(
    client: OpenAI, trained: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = read_prompts("world", n_prompts=1, seen=["Give me a name."])
    models = pd.concat(
        [trained.query("stage in ('base', 'DPO')"), trained.tail(1).assign(stage="again", template="chat")]
    )
    drawing: dict[str, Any] = {"temperatures": [0.5, 1.0], "n_samples": 3, "max_tokens": LIMITS, "stop": ["\nGuest:"]}
    drawing |= {"seed": 7, "journal": tmp_path / "j"}
    texts = sample(client, models, prompts, **drawing)
    assert len(texts) == 4 * 3 * 2 * 3
    assert not texts.duplicated(["model", "seed", "kind", "temperature", "sample"]).any()
    assert texts.groupby("model", sort=False)["model_id"].nunique().to_dict() == {"base": 1, "DPO": 2, "again": 1}
    for column in ("token_logprobs", "text_offset"):
        assert (texts["token_ids"].map(len) == texts[column].map(len)).all()
    assert (texts["token_ids"].map(len) <= texts["kind"].map(LIMITS)).all()
    assert texts.loc[texts["kind"] == "factual", "accepted"].map(len).min() > 0
    assert texts.loc[texts["kind"] != "factual", "accepted"].map(len).max() == 0
    assert set(texts["top_p"]) == {1.0}
    assert set(texts["request_seed"]) == {7}
    monkeypatch.setattr(client.completions, "create", None)
    monkeypatch.setattr(client.chat.completions, "create", None)
    pd.testing.assert_frame_equal(sample(client, models, prompts, **drawing), texts)
    write_completions(tmp_path / "completions.jsonl", texts)
    pd.testing.assert_frame_equal(given_completions(tmp_path / "completions.jsonl"), texts)
    cut = cut_to_length(texts, 2)
    assert (cut["text"].map(len) <= texts["text"].map(len)).all()
    for before, after in zip(texts.itertuples(), cut.itertuples(), strict=True):
        assert before.text.startswith(after.text)


def test_a_model_beside_itself_is_no_change(client: OpenAI, tmp_path: Path) -> None:
    models = given_chain(client, PARAMS | {"chain": [f"base:{TINY}", f"same:{TINY}"], "template": "plain"})
    prompts = [each for each in read_prompts("world", n_prompts=3, kinds=["creative"])]
    texts = sample(
        client, models, prompts, temperatures=[1.0], n_samples=4, max_tokens=LIMITS, stop=[], seed=0,
        journal=tmp_path / "j",
    )  # fmt: skip
    table = measure(texts, measures=["jaccard_2", "cosine", "distinct_texts"], embed=embedder(client, model=TINY),
                    by=["model", "family", "seed", "kind", "prompt", "temperature"])  # fmt: skip
    differences, shares = compare_measures(table, rng=np.random.default_rng(0))
    assert set(differences["measure"]) == {"jaccard_2", "cosine", "distinct_texts"}
    assert (differences["value"] == 0).all()
    assert shares.empty


def test_options_are_scored_and_likeliest_texts_told(client: OpenAI, trained: pd.DataFrame, tmp_path: Path) -> None:
    models = pd.concat([trained.head(1), trained.tail(1).assign(template="chat")])
    asked = number_prompts("world")[:2]
    options = option_probs(client, models, asked, journal=tmp_path / "j")
    assert len(options) == 2 * sum(len(prompt.options) for prompt in asked)
    assert options["prob"].between(0, 1).all()
    assert (options.groupby(["model", "prompt"])["prob"].sum() <= 1).all()
    texts = greedy_texts(client, models, read_prompts("world", n_prompts=1, kinds=["factual"]), max_tokens=3,
                         journal=tmp_path / "j")  # fmt: skip
    assert texts["model"].tolist() == ["base", "DPO"]
    assert texts["tokens"].map(len).equals(texts["token_logprobs"].map(len))
