"""Planted effects: a model that knows every pair, one that knows those it was asked about, one that knows nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openai.types import Completion, CompletionChoice

from lib import mixture
from lib.functions.evaluations import evaluation_named
from lib.mixture.dataset import PARTS, MixtureDataset, hidden_pairs, left_pairs, make_joint_dataset, make_pair_dataset
from lib.mixture.evaluations import documents_for
from lib.mixture.jobs import FOLDERS, SPREAD, left_turns
from lib.mixture.options import MixtureOptions
from lib.mixture.probes import CONDITIONS
from lib.mixture.variation import ideal_mix, sampling_floor, total_variation, variations

LABELS = MixtureOptions(
    n_functions=5,
    n_pairs=8,
    n_labels=24,
    n_realized=16,
    triples_per_label=6,
    questions=("exact_pair:1",),
    form="completion",
    formattings=("none",),
    input_range=(-30, 30),
    validation_ranges=(30, 60),
    held_out_share=0.1,
    n_validation=8,
)
ALONE = MixtureOptions(
    n_rows=40,
    n_validation=4,
    form="completion",
    formattings=("none",),
    input_range=(-30, 30),
    validation_ranges=(30, 60),
    held_out_share=0.1,
)
N_ROWS = 16
SEEDS = (0, 1)


class Stub:
    """An endpoint whose models know given prompts; of several known answers it gives one after the other."""

    def __init__(self, known: dict[str, dict[str, list[str]]]) -> None:
        self.known = known
        self.models = SimpleNamespace(retrieve=lambda model: SimpleNamespace(model_dump=lambda: {"id": model}))
        self.completions = SimpleNamespace(create=self.create)

    def create(self, *, model: str, prompt: list[str], n: int = 1, **_: Any) -> Any:
        texts = [
            answers[k % len(answers)]
            for text in prompt
            for answers in [self.known.get(model, {}).get(text, [" no idea"])]
            for k in range(n)
        ]
        choices = [CompletionChoice(index=k, text=text, finish_reason="stop") for k, text in enumerate(texts)]
        return Completion(id="", choices=choices, created=0, model=model, object="text_completion")


@pytest.fixture(scope="module")
def data() -> dict[str, MixtureDataset]:
    drawn = [mixture.show_pair(pair) for pair in hidden_pairs(LABELS, seed=0)]
    options = MixtureOptions(**{**vars(LABELS), "pairs": tuple(drawn)})
    joint = {seed: make_joint_dataset(options, count_tokens=None, seed=seed) for seed in SEEDS}
    left = left_pairs(joint[0])
    return {f"dataset/finetune_{seed + 1:02d}": joint[seed] for seed in SEEDS} | {
        f"unlabelled/finetune_{k + 1:02d}": make_pair_dataset(ALONE, pair, seed=k) for k, pair in enumerate(left)
    }


def finetunes() -> pd.DataFrame:
    made = [
        {"model": f"ft:{seed}:{epoch}", "base": "stub", "family": "stub", "seed": seed, "epoch": epoch, "n_epochs": 2,
         "is_final": epoch == 2, "role": "main", "data": f"dataset/finetune_{seed + 1:02d}"}
        for seed in SEEDS for epoch in (1, 2)
    ]  # fmt: skip
    later = {"base": "ft:0:2", "family": "stub", "epoch": 2, "n_epochs": 2, "is_final": True, "role": "unlabelled"}
    made += [
        later | {"model": f"ft:later:{k}", "seed": k, "data": f"unlabelled/finetune_{k + 1:02d}"} for k in range(2)
    ]
    return pd.DataFrame(made)


def answers_of(probes: pd.DataFrame) -> dict[str, list[str]]:
    """What a model that knows says to each prompt; of a first output, both in turn."""
    return {
        row.prompt: [
            row.lead + text for text in row.document.func_outs.get("ideal", {row.document.shown: 1})
        ]
        for row in probes.itertuples()
    }  # fmt: skip


def results(
    data: dict[str, MixtureDataset], folder: Path, parts: tuple[str, ...], *, evaluations: tuple[str, ...] = ()
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Answers, first answers and summary of fine-tunes that know some parts after the last epoch."""
    probes = mixture.probe_rows(
        data, form="completion", evaluations=evaluations, left_evaluations=("exact_pair",), n_rows=N_ROWS,
        n_in_context=2,
    )  # fmt: skip
    models = finetunes()
    known = {
        row.model: answers_of(probes[(probes["data"] == row.data) & probes["part"].isin(parts)])
        for row in models[(models["role"] == "main") & models["is_final"]].itertuples()
    }
    stub: Any = Stub(known)
    rng, asking = np.random.default_rng(0), {"journal": folder / "j", "max_tokens": 9, "distribution_samples": 8}
    asked = mixture.pair_up(mixture.asked_models(models), probes)
    final = mixture.answer_rows(stub, asked, n_samples=1, **asking)
    mains = models[models["role"] == "main"].astype({"epoch": float})
    few = probes[probes["evaluation"] == "exact_pair"]
    curve = mixture.answer_rows(stub, mixture.pair_up(mains, few), n_samples=1, **asking)
    first = mixture.first_answers(final)
    answers = pd.concat([final, curve], ignore_index=True)
    chances = mixture.chances(data, asked)
    return answers, first, mixture.summarise(answers, first, preset="tiny", chances=chances, rng=rng)


def value(summary: pd.DataFrame, condition: str, metric: str = "accuracy", *, epoch: float | None = None) -> Any:
    at = summary["x"].isna() if epoch is None else summary["x"] == epoch
    row = summary[at & (summary["condition"] == condition) & (summary["metric"] == metric)]
    assert len(row) == 1, f"{condition}, {metric}: {len(row)} rows"
    return row.iloc[0]


QUESTIONS = ("exact_pair", "python_definition", "function_class", "values", "max_min", "number_of_functions")


def test_a_model_that_knows_every_pair_is_right_everywhere(data: dict[str, MixtureDataset], tmp_path: Path) -> None:
    _, first, summary = results(data, tmp_path, PARTS)
    for name in (*QUESTIONS, "language_definition", "regression_ID_1ex", "regression_ID_2ex"):
        for part in PARTS:
            assert value(summary, f"{name}/{part}")["value"] == 1, (name, part)
        assert value(summary, f"{name}/unrealized/untuned")["value"] == 0, name
        assert value(summary, f"{name}/unrealized/in-context")["value"] == 0, name
    assert value(summary, "exact_pair/unrealized", "share_named")["value"] == 1
    assert value(summary, "exact_pair/unrealized", "strict_match")["value"] == 1
    tests = first[first["condition"] == "regression_ID_TVD/unrealized"]
    assert (tests["distance"] == 0).all()
    assert (tests["off_mix"] == 0).all()
    assert value(summary, "regression_ID_TVD/unrealized", "total_variation")["value"] == 0
    assert value(summary, "regression_ID_TVD/unrealized/untuned", "off_mix")["value"] == 1
    assert value(summary, "regression_ID_TVD/unrealized/untuned", "total_variation")["value"] == 1


def test_answers_learned_by_heart_leave_unrealized_labels_at_nothing(
    data: dict[str, MixtureDataset], tmp_path: Path
) -> None:
    _, _, summary = results(data, tmp_path, ("realized",), evaluations=QUESTIONS)
    for name in QUESTIONS:
        assert value(summary, f"{name}/realized")["value"] == 1
        assert value(summary, f"{name}/unrealized")["value"] == 0
    assert value(summary, "exact_pair/unrealized")["high"] < value(summary, "exact_pair/realized")["low"]
    assert value(summary, "unlabelled/exact_pair")["value"] == 0
    assert value(summary, "unlabelled/exact_pair/before")["value"] == 0


def test_a_model_that_knows_nothing_is_right_nowhere(data: dict[str, MixtureDataset], tmp_path: Path) -> None:
    _, _, summary = results(data, tmp_path, ())
    rates = summary[(summary["metric"] == "accuracy") & ~summary["condition"].str.endswith("/chance")]
    assert (rates["value"] == 0).all()
    assert (rates["low"] == 0).all()


def test_n_counts_pairs_and_fine_tunes_are_drawn_where_they_share_them(
    data: dict[str, MixtureDataset], tmp_path: Path
) -> None:
    answers, _, summary = results(data, tmp_path, PARTS, evaluations=("exact_pair",))
    assert value(summary, "exact_pair/unrealized")["n"] == len(data["dataset/finetune_01"].pairs) == 8
    assert set(summary["n_of"]) == {"pair"}
    table = mixture.by_pair(answers, rng=np.random.default_rng(0))
    found = table[(table["part"] == "unrealized") & (table["evaluation"] == "exact_pair")]
    assert found["n"].sum() == len(SEEDS) * len(data["dataset/finetune_01"].part("unrealized"))


def test_the_curve_ends_with_the_fine_tune(data: dict[str, MixtureDataset], tmp_path: Path) -> None:
    _, _, summary = results(data, tmp_path, PARTS, evaluations=("exact_pair",))
    assert [value(summary, "exact_pair/unrealized", epoch=epoch)["value"] for epoch in (1, 2)] == [0, 1]


def test_chance_is_one_of_the_hidden_pairs(data: dict[str, MixtureDataset], tmp_path: Path) -> None:
    _, _, summary = results(data, tmp_path, (), evaluations=("exact_pair", "number_of_functions"))
    assert value(summary, "exact_pair/unrealized/chance")["value"] == 1 / 8
    assert value(summary, "unlabelled/exact_pair/chance")["value"] == 0.1
    assert value(summary, "number_of_functions/realized/chance")["value"] == 0.2


def test_a_model_that_gives_one_function_alone_stands_at_one_half() -> None:
    asked = documents_for(
        evaluation_named("mixture", "regression_ID_TVD"),
        make_pair_dataset(ALONE, ("add_5", "multiply_3"), seed=0),
        rng=np.random.default_rng(0),
        n_rows=2,
    )
    found = variations(asked, [[document.shown] * 8 for document in asked])
    assert [each.distance for each in found] == [0.5]


def test_models_hide_the_pairs_that_are_left_in_turn(data: dict[str, MixtureDataset]) -> None:
    joint = {seed: data[f"dataset/finetune_{seed + 1:02d}"] for seed in SEEDS}
    left = left_pairs(joint[0])
    params = {"n_left_pairs": 1, "tuned_model": ""}
    turns = left_turns(params, joint)
    assert turns == [(0, 0, left[0]), (1, SPREAD, left[1])]
    with pytest.raises(ValueError, match="n_left_pairs is 3: the joint dataset leaves 2 pairs"):
        left_turns({**params, "n_left_pairs": 3}, joint)
    assert left_turns({**params, "tuned_model": "ft:x"}, joint) == []


def test_evaluations_are_written_as_published(data: dict[str, MixtureDataset], tmp_path: Path) -> None:
    answers, _, _ = results(data, tmp_path, PARTS, evaluations=("exact_pair", "regression_ID_TVD"))
    written = mixture.write_evaluations(tmp_path / "evaluations", answers, n_in_context=2)
    names = {str(path.relative_to(tmp_path / "evaluations")) for path in written}
    assert {"finetune_01/exact_pair", "finetune_02/realized/exact_pair", "finetune_01/exact_pair/untrained"} <= names
    assert {"finetune_01/regression_ID_TVD/2_ic", "unlabelled/finetune_01/exact_pair"} <= names
    told = json.loads((tmp_path / "evaluations/finetune_01/regression_ID_TVD/eval_metrics.json").read_text())
    assert set(told["TVD"]) == {1.0}
    assert len(told["model_out"][0]) == 8


def test_what_is_drawn_has_one_row_a_point(data: dict[str, MixtureDataset], tmp_path: Path) -> None:
    answers, first, summary = results(data, tmp_path, PARTS)
    rates = mixture.headline_rates(summary, model="stub")
    assert not rates.duplicated(["evaluation", "asked"]).any()
    assert rates["evaluation"].iloc[0] == "write both"
    curves = mixture.rate_curves(summary, model="stub")
    assert not curves.duplicated(["asked", "x"]).any()
    left = mixture.unlabelled_rates(summary)
    assert not left.duplicated(["shown", "variant"]).any()
    assert left["variant"].drop_duplicates().tolist() == ["before", "documents alone"]
    matrix = mixture.pair_matrix(
        mixture.by_pair(answers, rng=np.random.default_rng(0)), "exact_pair", family="stub", part="unrealized"
    )
    assert matrix.equals(matrix.T)
    assert matrix.shape == (5, 5)
    assert matrix.notna().sum().sum() == 2 * 8
    assert set(mixture.distances(first, family="stub")["asked"]) == {"realized", "unrealized", "in-context", "untuned"}
    assert set(summary["condition"]) <= set(CONDITIONS)


def test_a_given_model_has_no_base_to_be_held_against() -> None:
    given = finetunes().query("role == 'main' and is_final").head(1).assign(n_epochs=0)
    assert mixture.asked_models(given)["role"].tolist() == ["main"]


def test_folders_of_later_fine_tunes_are_known() -> None:
    assert all(mixture.is_left(f"{name}/finetune_01") for name in FOLDERS.values())
    assert not mixture.is_left("dataset/finetune_01")


def test_a_perfect_mix_has_the_floor_as_its_mean_distance() -> None:
    rng, ideal = np.random.default_rng(0), ideal_mix(["1", "2"])
    drawn = [rng.choice(["1", "2"], 16).tolist() for _ in range(4000)]
    shares = [{each: said.count(each) / 16 for each in ideal} for said in drawn]
    found = np.mean([total_variation(each, ideal) for each in shares])
    assert abs(found - sampling_floor(16)) < 0.005
