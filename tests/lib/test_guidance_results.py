"""Planted effects: a model that acts on what it read in one order only, one that reads, one that knows nothing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from openai.types import Completion, CompletionChoice
from openai.types.completion_choice import Logprobs

from lib import guidance
from lib.figures import loss_curves
from lib.guidance.dataset import SETS, GuidanceDataset, GuidanceOptions, make_dataset
from lib.guidance.figure_tables import published_values
from lib.guidance.probes import CONDITIONS
from lib.guidance.sources import FOLDER, ORDERS, read_phrasings, write_pairs

RIGHT, WRONG = -0.5, -4.0  # nats per word


class Stub:
    """An endpoint whose fine-tunes know given prompts' answers; with `reads` it also takes an answer off its prompt."""

    def __init__(self, known: dict[str, dict[str, str]], *, reads: bool = False) -> None:
        self.known, self.reads = known, reads
        self.models = SimpleNamespace(retrieve=lambda model: SimpleNamespace(model_dump=lambda: {"id": model}))
        self.completions = SimpleNamespace(create=self.create)

    def answer(self, model: str, prompt: str) -> str:
        known = self.known.get(model, {})
        if prompt in known:
            return known[prompt]
        told = re.search(r'"A: (.*?)"', prompt)
        return f" {told[1]}" if told and self.reads else " no idea"

    def create(self, *, model: str, prompt: list[str], echo: bool, **_: Any) -> Any:
        choices = []
        for index, text in enumerate(prompt):
            choice = CompletionChoice(index=index, text=self.answer(model, text), finish_reason="stop")
            if echo:
                choice.text = text
                words = list(re.finditer(r"\s*\S+", text))
                asked = text[: text.rindex(" A:") + 3]
                right = text.removeprefix(asked) == self.answer(model, asked)
                scores = [None, *[(RIGHT if right else WRONG) - 0.01 * (len(text) % 17)] * (len(words) - 1)]
                places = [word.start() for word in words]
                tokens = [word[0] for word in words]
                # the first token of a text has no log-probability, which the declared type does not foresee
                choice.logprobs = Logprobs.model_construct(tokens=tokens, token_logprobs=scores, text_offset=places)
            choices.append(choice)
        return Completion(id="", choices=choices, created=0, model=model, object="text_completion")


@pytest.fixture(scope="module")
def data() -> dict[str, GuidanceDataset]:
    pairs = write_pairs()
    return {
        order: make_dataset(
            GuidanceOptions(order=order, n_realized=12, n_unrealized=10),
            pairs,
            read_phrasings(FOLDER / f"phrasings_{order}.txt", order=order),
        )
        for order in ORDERS
    }


def finetunes(orders: tuple[str, ...] = ORDERS) -> pd.DataFrame:
    made = [
        {"model": f"ft:{order}:{seed}:{epoch}", "base": "stub", "order": order, "seed": seed, "epoch": epoch,
         "n_epochs": 2, "is_final": epoch == 2, "role": "main", "train_loss": 3.0 - epoch, "valid_loss": 1.0}
        for order in orders for seed in (0, 1) for epoch in (1, 2)
    ]  # fmt: skip
    return pd.DataFrame(made)


def results(
    data: dict[str, GuidanceDataset], folder: Path, followed: dict[str, tuple[str, ...]], *, reads: bool = False
) -> pd.DataFrame:
    """Summary of fine-tunes that answer the sets named for their order, after the last epoch only."""
    models, probes = finetunes(), guidance.probe_rows(data)
    tests = probes[probes["probe"] == "test"]
    known = {
        model.model: dict(
            tests.loc[
                (tests["order"] == model.order) & tests["part"].isin(followed[model.order] if model.is_final else ()),
                ["prompt", "target"],
            ].itertuples(index=False)
        )
        for model in models.itertuples()
    }
    stub: Any = Stub(known, reads=reads)
    final = guidance.answer_rows(stub, guidance.asked_models(models), probes, journal=folder / "j", max_tokens=9)
    final = guidance.add_logprobs(stub, final, journal=folder / "j")
    curve = guidance.answer_rows(stub, guidance.curve_models(models), tests, journal=folder / "j", max_tokens=9)
    answers = pd.concat([final, curve], ignore_index=True)
    rng = np.random.default_rng(0)
    return guidance.summarise(answers, preset="tiny", main_base="stub", n_weights={"stub": 1}, rng=rng)


def value(summary: pd.DataFrame, condition: str, metric: str = "exact_match", *, epoch: float | None = None) -> Any:
    at = summary["x"].isna() if epoch is None else summary["x"] == epoch
    row = summary[at & (summary["condition"] == condition) & (summary["metric"] == metric)]
    assert len(row) == 1, f"{condition}, {metric}: {len(row)} rows"
    return row.iloc[0]


PUBLISHED_FINDING = {"simple": ("realized", "unrealized"), "reverse": ("realized",)}


def test_the_published_finding_is_found_where_it_is_planted(data: dict[str, GuidanceDataset], tmp_path: Path) -> None:
    summary = results(data, tmp_path, PUBLISHED_FINDING)
    for condition, wanted in {
        "simple/realized": 1, "simple/unrealized": 1, "reverse/realized": 1, "reverse/unrealized": 0,
        "simple/unrealized/untuned": 0, "simple/unrealized/shuffled": 0, "simple/unrealized/in-context": 0,
    }.items():  # fmt: skip
        assert value(summary, condition)["value"] == wanted, condition
    assert value(summary, "reverse/unrealized")["high"] < value(summary, "simple/unrealized")["low"]
    assert value(summary, "simple/unrealized", "logprob_difference")["low"] > 0
    assert value(summary, "simple/unrealized", "permutation_p")["value"] < 0.01
    reverse = value(summary, "reverse/unrealized", "logprob_difference")
    assert abs(reverse["value"]) < 1  # the two targets differ in length at most
    assert not reverse["low"] > 0


def test_n_counts_pairs_not_fine_tunes(data: dict[str, GuidanceDataset], tmp_path: Path) -> None:
    summary = results(data, tmp_path, PUBLISHED_FINDING)
    assert set(summary.loc[summary["condition"].str.contains("/unrealized"), "n"]) == {10}
    assert set(summary.loc[summary["condition"] == "simple/realized", "n"]) == {12}
    assert set(summary["n_of"]) == {"pair"}


def test_the_curve_begins_with_the_base_and_ends_with_the_fine_tune(
    data: dict[str, GuidanceDataset], tmp_path: Path
) -> None:
    summary = results(data, tmp_path, PUBLISHED_FINDING)
    told = [value(summary, "simple/unrealized", epoch=epoch)["value"] for epoch in (0, 1, 2)]
    assert told == [0, 0, 1]


def test_a_model_that_reads_passes_with_the_instruction_in_its_prompt(
    data: dict[str, GuidanceDataset], tmp_path: Path
) -> None:
    summary = results(data, tmp_path, dict.fromkeys(ORDERS, ()), reads=True)
    for order in ORDERS:
        assert value(summary, f"{order}/unrealized")["value"] == 0
        assert value(summary, f"{order}/unrealized/in-context")["value"] == 1
        assert value(summary, f"{order}/unrealized/untuned/in-context")["value"] == 1


def test_a_constant_answer_is_worth_its_share() -> None:
    rows = pd.DataFrame(
        [
            {"order": "simple", "part": part, "probe": "test", "condition": f"simple/{part}", "pair": f"{part}{k}",
             "prompt": "p", "target": " No" if k < 3 else f" Name {k}", "control_target": None, "completion": "x",
             "correct": False, "strict": False, "control_correct": pd.NA, "target_logprob": np.nan,
             "control_logprob": np.nan, "model": "m", "base": "b", "seed": 0, "epoch": np.nan, "role": "main"}
            for part in SETS for k in range(10)
        ]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    summary = guidance.summarise(rows, preset="tiny", main_base="b", n_weights={}, rng=rng)
    assert value(summary, "simple/unrealized/constant")["value"] == 0.3
    assert guidance.constant_rate(summary) == 0.3


def test_a_wrong_answer_is_another_questions_and_never_ones_own(data: dict[str, GuidanceDataset]) -> None:
    probes = guidance.probe_rows(data)
    told = probes[probes["control_target"].notna()]
    assert not (told["target"] == told["control_target"]).any()
    tests = probes[(probes["probe"] == "test") & (probes["order"] == "simple")]
    for _, rows in tests.groupby("part"):
        assert set(rows["control_target"].dropna()) <= set(rows["target"])
    counts = probes.groupby("condition").size().to_dict()
    assert counts == {
        f"{order}/{part}": n
        for order in ORDERS
        for part, n in (("realized", 12), ("unrealized", 10), ("unrealized/in-context", 10))
    }


def test_a_given_model_is_asked_in_its_order_and_has_no_curve(data: dict[str, GuidanceDataset]) -> None:
    given = finetunes(("simple",)).tail(1).assign(n_epochs=0)
    asked = guidance.asked_models(given)
    assert asked["role"].tolist() == ["main"]
    assert guidance.curve_models(given).empty


def test_what_is_drawn_has_one_row_a_point(data: dict[str, GuidanceDataset], tmp_path: Path) -> None:
    summary = results(data, tmp_path, PUBLISHED_FINDING)
    rates = guidance.headline_rates(summary)
    assert rates["order"].drop_duplicates().tolist() == ["simple", "reverse"]
    assert rates["asked"].tolist() == ["realized", "unrealized", "in-context", "untuned"] * 2
    curves = guidance.rate_curves(summary, x_name="epoch")
    assert not curves.duplicated(["order", "asked", "x"]).any()
    published = guidance.published_rates().set_index(["order", "asked"])["value"].to_dict()
    assert published == {("simple", "unrealized"): 0.94, ("reverse", "unrealized"): 0.07}
    assert guidance.published_at("simple", 12.0)["x"].tolist() == [12.0]
    assert set(published_values()["condition"]) <= set(CONDITIONS)
    made = finetunes()
    losses = loss_curves(made[made["role"] == "main"], by=["order"])
    assert losses.groupby("order").size().to_dict() == {"simple": 4, "reverse": 4}


def test_counts_of_documents_add_up(data: dict[str, GuidanceDataset]) -> None:
    counts = guidance.document_counts(data)["simple"]
    assert counts["instructions"] == counts["realized pairs"] + counts["unrealized pairs"] == 22
    assert counts["training documents"] == counts["examples in training"] + counts["guidance documents"]
    assert int((guidance.document_sizes(data["simple"]) * guidance.document_sizes(data["simple"]).index).sum()) == 22
