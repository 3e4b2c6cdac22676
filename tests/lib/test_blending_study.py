"""The blending study on distributions that were written by hand: what was planted is found, and a null is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import N_DOCUMENTS, STRENGTH, VOCAB, World, drawn, number, world
from scipy.special import log_softmax

from lib.blending import weights_of
from lib.blending.blend import target_logprobs
from lib.blending.figure_tables import context_curves, gap_rows, pooled_rows, truncation_curves, weight_curves
from lib.blending.models import Models
from lib.blending.predictions import Predictions
from lib.blending.published import prepare
from lib.blending.scores import argmax_changed
from lib.blending.stages import fit_all, score_all, truncate
from lib.blending.summary import summarise
from lib.blending.support import MODELS
from lib.blending.temperatures import Temperatures
from lib.distributions import top_k


def models_of(n_seeds: int = 1, *, further: bool = False) -> Models:
    direct = {("big", k): f"direct:{k}" for k in range(n_seeds)} | ({("bigger", 0): "direct:bigger"} if further else {})
    tuned = {k: f"tuned:{k}" for k in range(n_seeds)}
    return Models("base", ("big", "bigger") if further else ("big",), tuned, direct)


@dataclass
class Told:
    """What notebooks 03 and 04 make of two worlds: one to fit on, one to test on; the context of 4 tokens is pooled."""

    test: World
    fits: pd.DataFrame
    scores: pd.DataFrame
    summary: pd.DataFrame


def compare(made: Models, validation: Predictions, test: Predictions, folder: Path, *, ks: Sequence[int] = ()) -> tuple:
    fits = fit_all(validation, made, pooled=[4], storage=folder / "trials.log", n_trials=2, seed=0)
    scores = score_all(test, made, fits)
    return fits, scores, numbers(scores, fits, made.bigs, truncate(test, made, fits, ks=ks) if ks else None)


def numbers(scores: pd.DataFrame, fits: pd.DataFrame, bigs: Sequence[str], truncated: Any = None) -> pd.DataFrame:
    return summarise(
        scores, fits, preset="tiny", bigs=bigs, pooled=[4], n_weights={"big": 10, "bigger": 70},
        rng=np.random.default_rng(0), truncated=truncated,
    )  # fmt: skip


def tell(folder: Path, made: Models | None = None, *, ks: Sequence[int] = (), **options: Any) -> Told:
    test = world(1, **options)
    return Told(
        test, *compare(made or models_of(), world(2, **options).predictions(), test.predictions(), folder, ks=ks)
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The tuned model knows the domain whole, base and big nothing of it."""
    return tell(tmp_path_factory.mktemp("told"), n=1500, lengths=(1, 4), ks=(8, 500))


def expected_gap_closed(made: World, weights: tuple[float, float, float]) -> float:
    """Part of the gap that weights close when every token counts with its true probability, not only the drawn one."""
    big, tuned, base, direct = (made.logprobs[m, 4].astype(float) for m in ("big", "tuned:0", "base", "direct:0"))
    truth = np.exp(direct)
    blend = log_softmax(weights[0] * big + weights[1] * tuned + weights[2] * base, axis=-1)
    return float((truth * (blend - big)).sum() / (truth * (direct - big)).sum())


WEIGHTS = {"weights": (1, 0.6, -0.6), "mixture": (0.8, 0.4, 0), "alpha": (1, 0.6, -0.6), "temperature": (0.9, 0, 0)}
WEIGHTS["temperatures"] = (0.9, 0.5, -0.4)


def fit_row(form: str, weights: tuple[float, float, float]) -> dict[str, Any]:
    columns = {f"{part}_{m}": w for part in ("weight", "low", "high") for m, w in zip(MODELS, weights, strict=True)}
    return {"form": form, "context_tokens": math.nan, "n_documents": 5, "big": "big", "seed": 0} | columns


def check_gap(told: Told, *, weights: dict[str, tuple[float, float, float]]) -> None:
    for condition, each in weights.items():
        closed, planted = number(told.summary, condition, "gap_closed"), expected_gap_closed(told.test, each)
        assert closed["low"] < planted < closed["high"] < closed["low"] + 0.25, condition
        assert closed["value"] == pytest.approx(planted, abs=0.08)
        assert (closed["n"], closed["unit"]) == (N_DOCUMENTS, "of the gap")


def test_a_planted_effect_is_found_in_its_size(told: Told) -> None:
    for condition in ("base", "tuned", "big", "mixture", "big/temperature", "proxy/alpha-1"):
        saved = number(told.summary, condition, "nats_saved")
        assert 0 < saved["low"] < saved["value"] < saved["high"], condition
        worse, blended = (number(told.summary, name, "perplexity")["value"] for name in (condition, "blended"))
        assert saved["value"] == pytest.approx(math.log(worse / blended), abs=1e-4)
    assert number(told.summary, "direct", "nats_saved")["value"] == pytest.approx(0, abs=0.01)
    check_gap(told, weights={"blended": weights_of(told.fits), "proxy/alpha-1": (1, 1, -1)})
    assert number(told.summary, "blended", "gap_closed")["value"] > 0.95
    assert number(told.summary, "proxy/alpha-1", "gap_closed")["high"] < 0.95, "its strength is the wrong one"


def test_planted_weights_lie_in_their_intervals(told: Told) -> None:
    planted = {"weight_big": 1, "weight_tuned": STRENGTH, "weight_base": -STRENGTH}
    for metric, truth in planted.items():
        weight = number(told.summary, "blended", metric)
        assert weight["low"] < truth < weight["high"] < weight["low"] + 0.5
        assert (weight["n"], weight["unit"]) == (N_DOCUMENTS, "exponent")
    strength = number(told.summary, "proxy", "weight_tuned")
    assert strength["low"] < STRENGTH < strength["high"]
    of_proxy = told.summary[told.summary["condition"] == "proxy"]
    assert "weight_big" not in set(of_proxy["metric"]), "fixed by the form"
    curves = weight_curves(told.fits, big="big")
    assert curves.groupby("model")["context_tokens"].apply(list).to_dict() == dict.fromkeys(MODELS, [1, 4])


def test_what_the_tuned_model_does_not_know_cannot_be_lent(tmp_path: Path) -> None:
    told = tell(tmp_path, n=1500, unknown=0.8)
    check_gap(told, weights={"blended": weights_of(told.fits), "proxy/alpha-1": (1, 1, -1)})
    assert 0.2 < number(told.summary, "blended", "gap_closed")["high"] < 0.9
    assert number(told.summary, "direct", "nats_saved")["high"] < 0
    assert number(told.summary, "big", "nats_saved")["low"] > 0


def test_numbers_are_those_that_a_reader_would_compute(told: Told) -> None:
    perplexities = told.summary[told.summary["metric"] == "perplexity"]
    whole = perplexities[perplexities["x_name"] != "top_k"]
    assert set(told.scores["condition"]) == set(whole["condition"]) - {
        "big/top-k",
        "blended/top-k",
        "big/published",
        "blended/published",
    }
    for length in (1, 4):
        big, tuned, base = (told.test.logprobs[m, length] for m in ("big", "tuned:0", "base"))
        target, n_bytes = (told.test.tables[length][column].to_numpy() for column in ("target", "n_bytes"))
        weights = weights_of(told.fits)
        blend = log_softmax(weights[0] * big + weights[1] * tuned + weights[2] * base, axis=-1)
        for condition, logprobs in {"big": big, "blended": blend}.items():
            nll = -logprobs[np.arange(len(target)), target]
            is_own = (told.scores["condition"] == condition) & (told.scores["context_tokens"] == length)
            np.testing.assert_allclose(told.scores.loc[is_own, "nll_nats"], nll, atol=1e-4)
            bits = nll.sum() / math.log(2) / n_bytes.sum()
            for metric, value in {"perplexity": math.exp(nll.mean()), "bits_per_byte": bits}.items():
                found = number(told.summary, condition, metric, x=length, x_name="context_tokens")
                assert found["value"] == pytest.approx(value, rel=1e-4)
        changed = number(told.summary, "blended", "argmax_changed", x=length, x_name="context_tokens")["value"]
        assert changed == pytest.approx((blend.argmax(axis=1) != big.argmax(axis=1)).mean(), abs=2e-3)
        assert 0.1 < changed < 0.9
    for metric in ("perplexity", "gap_closed"):
        at_length = number(told.summary, "blended", metric, x=4, x_name="context_tokens")
        assert number(told.summary, "blended", metric)["value"] == at_length["value"], "one length is pooled"


def test_equal_small_models_lend_nothing(tmp_path: Path) -> None:
    made = []
    for seed in (1, 2):
        null, rng = world(seed, n=1500), np.random.default_rng(seed + 10)
        # direct knows which of two kinds a record is of, big what both are like on average
        kinds = np.exp([null.logprobs[model, 4] for model in ("direct:0", "big")])
        of_kind = kinds[rng.integers(2, size=1500), np.arange(1500)]
        null.logprobs |= {("big", 4): np.log(kinds.mean(axis=0)), ("direct:0", 4): np.log(of_kind)}
        null.logprobs |= dict.fromkeys(
            [("base", 4), ("tuned:0", 4)], log_softmax(rng.normal(size=of_kind.shape), axis=1)
        )
        null.tables[4]["target"] = drawn(np.log(of_kind), rng)
        made.append(null.predictions())
    _, scores, summary = compare(models_of(), *made, tmp_path)
    assert not argmax_changed(made[1].support(4, big="big", tuned="tuned:0", base="base"), (1, 1, -1)).any()
    nll = scores.pivot(index="position", columns="condition", values="nll_nats")
    for condition in ("proxy", "proxy/alpha-1"):
        np.testing.assert_allclose(nll[condition], nll["big"], atol=1e-5)
        assert number(summary, condition, "gap_closed")["value"] == pytest.approx(0, abs=1e-5)
    closed, saved = number(summary, "blended", "gap_closed"), number(summary, "big", "nats_saved")
    assert closed["low"] < 0 < closed["high"]
    assert saved["low"] < 0 < saved["high"]
    assert closed["value"] == pytest.approx(0, abs=0.03)
    assert number(summary, "direct", "nats_saved")["high"] < 0, "there is a gap"
    assert number(summary, "blended", "argmax_changed")["value"] < 0.05
    strength = number(summary, "proxy", "weight_tuned")
    assert strength["value"] == 0
    assert math.isnan(strength["low"]), "the records do not tell the strength"


def test_several_big_models_and_fine_tunes_keep_their_numbers_apart(tmp_path: Path) -> None:
    made = models_of(2, further=True)
    told = tell(tmp_path, made, n_seeds=2, further=True)
    fits, scores, summary = told.fits, told.scores, told.summary
    assert made.seeds_of("bigger") == [0]
    assert sorted(map(tuple, fits[["big", "seed"]].drop_duplicates().to_numpy())) == [
        ("big", 0), ("big", 1), ("bigger", 0),
    ]  # fmt: skip
    assert not summary.duplicated(["model", "condition", "metric", "x_name", "x"]).any()
    headline = summary[summary["x"].isna()]
    assert set(headline["model"]) == {"big"}
    assert not headline.duplicated(["condition", "metric"]).any()
    sized = summary[summary["x_name"] == "weights of the big model"]
    assert set(sized["model"]) == {"bigger"}
    assert set(sized["x"]) == {70.0}
    assert set(sized["metric"]) == set(headline["metric"])
    # the mean over fine-tunes, and for what no fine-tune changes the one score
    for condition, metric in (("blended", "perplexity"), ("base", "perplexity"), ("direct", "perplexity")):
        rows = scores[
            (scores["condition"] == condition) & (scores["context_tokens"] == 4) & (scores["big"] != "bigger")
        ]
        assert rows["seed"].nunique() == (1 if condition == "base" else 2)
        assert number(summary, condition, metric)["value"] == pytest.approx(math.exp(rows["nll_nats"].mean()), rel=1e-5)
    apart = [number(summary, "blended", "perplexity", big=b, x=4, x_name="context_tokens")["value"] for b in made.bigs]
    assert apart[0] != apart[1]
    assert list(gap_rows(summary)["model"].drop_duplicates()) == ["big", "bigger"]
    assert set(pooled_rows(summary, metric="perplexity")["model"]) == {"big"}, "further big models have their size as x"
    bigger = summary[(summary["model"] == "bigger") & (summary["metric"] == "gap_closed")]
    assert 70.0 in set(bigger["x"])
    curves = context_curves(summary, big="bigger", conditions=["blended", "big"])
    assert curves["condition"].tolist() == ["blended", "big"]
    assert set(curves["model"]) == {"bigger"}


def test_without_a_directly_tuned_model_there_is_no_gap() -> None:
    predictions = world(1, n=60).predictions()
    fits = pd.DataFrame([fit_row(form, weights) for form, weights in WEIGHTS.items()])
    scores = score_all(predictions, replace(models_of(), direct={}), fits)
    summary = numbers(scores, fits, ["big"])
    assert "direct" not in set(scores["condition"])
    assert "gap_closed" not in set(summary["metric"])
    assert number(summary, "big", "nats_saved")["value"] > 0


def test_a_directly_tuned_model_that_was_given_stands_for_every_fine_tune() -> None:
    predictions, given = world(1, n=60, n_seeds=2).predictions(), replace(models_of(2), direct={("big", 0): "direct:0"})
    fits = pd.DataFrame([fit_row(form, weights) | {"seed": k} for k in (0, 1) for form, weights in WEIGHTS.items()])
    scores = score_all(predictions, given, fits)
    direct = scores[scores["condition"] == "direct"]
    assert direct.groupby("seed")["model"].unique().map(list).to_dict() == {0: ["direct:0"], 1: ["direct:0"]}
    assert number(numbers(scores, fits, ["big"]), "blended", "gap_closed")["value"] > 0


def test_targets_that_a_list_lacks_share_its_tail(tmp_path: Path) -> None:
    k, made = 5, world(1, n=400)
    predictions, whole = made.predictions(k=k), made.predictions()
    target = made.tables[4]["target"].to_numpy()
    rows = made.logprobs["big", 4].astype(float)
    missed = (rows > rows[np.arange(400), target][:, None]).sum(axis=1) >= k
    assert 0.2 < missed.mean() < 0.8
    np.testing.assert_array_equal(np.isnan(predictions.parts["big", 4].target_logprobs), missed)
    assert not np.isnan(whole.parts["big", 4].target_logprobs).any()
    nll = predictions.nll_nats("big", 4)
    np.testing.assert_allclose(nll[~missed], whole.nll_nats("big", 4)[~missed], atol=1e-5)
    tail = np.sort(rows, axis=1)[:, :-k]
    np.testing.assert_allclose(nll[missed], -np.log(np.exp(tail).sum(axis=1) / (VOCAB - k))[missed], atol=1e-4)
    support = predictions.support(4, big="big", tuned="tuned:0", base="base")
    np.testing.assert_allclose(-target_logprobs(support, (1, 0, 0)), nll, atol=1e-5)
    _, scores, summary = compare(models_of(), world(2, n=400).predictions(k=k), predictions, tmp_path)
    assert scores["nll_nats"].between(0, 50).all()
    assert number(summary, "big", "nats_saved")["low"] > 0


def test_what_truncation_does_is_measured_on_whole_distributions(told: Told) -> None:
    def at(condition: str, metric: str, k: int) -> float:
        return float(number(told.summary, condition, metric, x=k, x_name="top_k")["value"])

    rows, target = told.test.logprobs["big", 4], told.test.tables[4]["target"].to_numpy()
    missed = ((rows > rows[np.arange(len(rows)), target][:, None]).sum(axis=1) >= 8).mean()
    assert at("big/top-k", "miss_rate", 8) == pytest.approx(missed, abs=1e-5)
    assert at("big/top-k", "miss_rate", VOCAB) == 0, "no list is longer than the vocabulary"
    for name in ("big", "blended"):
        exact = number(told.summary, name, "perplexity")["value"]
        assert at(f"{name}/top-k", "perplexity", VOCAB) == pytest.approx(exact, rel=1e-4)
        assert exact < at(f"{name}/top-k", "perplexity", 8) < VOCAB
        assert at(f"{name}/published", "perplexity", 8) > 100, "a floor of -30 nats at every miss"
    lists = [top_k(told.test.logprobs[model, 4], 8) for model in ("big", "tuned:0", "base")]
    of_big, of_tuned, of_base = weights_of(told.fits, form="temperatures")
    searched = Temperatures(big=1 / of_big, tuned=1 / of_tuned, base=-1 / of_base)
    published = prepare(*lists, target).perplexity(searched)
    assert at("blended/published", "perplexity", 8) == pytest.approx(published, rel=1e-5)
    curves = truncation_curves(told.summary, big="big")
    assert set(curves.groupby("contender")["how"].nunique()) == {3}
    assert set(curves["x"]) == {1.0, 4.0}
