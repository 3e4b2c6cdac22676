"""The blend of the notebooks against oracles, the exact fit, lists of k, and predictions of a server."""

from __future__ import annotations

import ast
import shutil
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from openai import NotFoundError, OpenAI
from scipy.optimize import minimize
from scipy.special import log_softmax
from serving import TINY, official, upload, wait_for
from starlette.testclient import TestClient

from lib.blending import models as of_models
from lib.blending import predictions as of_predictions
from lib.blending.fit import FORMS, MODELS, fit_weights
from lib.blending.models import base_ids, blends_of, check_models
from lib.blending.predictions import Aligned, Predictions, draw_targets, predict
from lib.blending.top_k import aligned, cut
from lib.tokens import tokenize

NOTEBOOKS = Path(__file__).parents[2] / "notebooks" / "blending"
VOCAB, KIN, SHORT, OTHER = 40, "fork-kin", "fork-short", "fork-other"
STORIES = pd.DataFrame({"name": [f"d{k}" for k in range(4)]})
STORIES["text"] = ["The red fox saw the old baker. " * (k + 1) for k in range(4)]


def functions_of(notebook: str) -> dict[str, Any]:
    """The functions that a notebook defines."""
    tree = ast.parse((NOTEBOOKS / f"{notebook}.py").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"np": np}
    exec(
        compile(ast.Module([each for each in tree.body if isinstance(each, ast.FunctionDef)], []), notebook, "exec"),
        names,
    )
    return names


nll = functions_of("03-tuning")["nll"]


def three_models(n: int = 50, *, seed: int = 0, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [log_softmax(rng.normal(0, scale, (n, VOCAB)), axis=1) for _ in range(3)]


def part_of(big: Any, tuned: Any, base: Any, target: Any, document: Any = None) -> Aligned:
    document = np.arange(len(target)) if document is None else document
    return Aligned(big, tuned, base, np.asarray(target), document, np.zeros((len(target), 1)))


def planted(weights: tuple[float, ...], *, n: int = 4000, seed: int = 0, n_documents: int = 200) -> Aligned:
    """Targets that are drawn from a known blend."""
    big, tuned, base = three_models(n, seed=seed)
    probs = np.exp(log_softmax(weights[0] * big + weights[1] * tuned - weights[2] * base, axis=1))
    drawn = (probs.cumsum(axis=1) < np.random.default_rng(seed + 1).random((n, 1))).sum(axis=1).clip(0, VOCAB - 1)
    return part_of(big, tuned, base, drawn, np.arange(n) % n_documents)


@pytest.mark.parametrize("notebook", ["03-tuning", "04-blending"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_oracles_of_the_blend(notebook: str, dtype: Any) -> None:
    blend, own = (functions_of(notebook)[name] for name in ("blend", "nll"))
    big, tuned, base = (each.astype(dtype) for each in three_models(scale=3.0))
    target = np.arange(50) % VOCAB
    part, at = part_of(big, tuned, base, target), (np.arange(50), target)
    for weights in ((1, 1, 1), (1, 0, 0), (0.5, 0.7, 0.2), (-0.3, 2.0, 1.5)):
        by_hand = log_softmax(weights[0] * big + weights[1] * tuned - weights[2] * base, axis=1)
        np.testing.assert_allclose(own(part, weights), -by_hand[at], rtol=0, atol=1e-5)
    np.testing.assert_allclose(own(part._replace(base=tuned), (1, 1, 1)), -big[at], rtol=0, atol=1e-5)
    np.testing.assert_allclose(own(part._replace(big=base), (1, 1, 1)), -tuned[at], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.exp(blend(part, (0.7, 0.9, 0.4))).sum(axis=1), 1, rtol=0, atol=1e-5)


def test_planted_weights_lie_inside_their_intervals() -> None:
    truth = {"big": 0.7, "tuned": 0.9, "base": 0.5}
    fit = fit_weights([planted(tuple(truth.values()))])
    assert (fit["n"], fit["n_documents"]) == (4000, 200)
    for name, value in truth.items():
        assert fit[f"low_{name}"] < value < fit[f"high_{name}"] < fit[f"low_{name}"] + 0.3


def test_intervals_cover_the_planted_strength_in_about_95_percent() -> None:
    covered = 0
    for seed in range(100):
        fit = fit_weights([planted((1, 0.8, 0.8), n=300, seed=1000 + 2 * seed, n_documents=60)], form="proxy")
        covered += fit["low_tuned"] <= 0.8 <= fit["high_tuned"]
    assert 87 <= covered <= 100


def test_a_document_that_comes_twice_does_not_narrow_the_interval() -> None:
    part = planted((1, 1, 1), n=500, n_documents=500)
    once, twice = fit_weights([part]), fit_weights([part, part])
    for name in MODELS:
        widths = [fit[f"high_{name}"] - fit[f"low_{name}"] for fit in (once, twice)]
        assert widths[1] == pytest.approx(widths[0], rel=1e-4)
    alone = fit_weights([part._replace(document=np.zeros(500))], form="mixture")
    assert np.isnan([alone["low_big"], alone["high_tuned"]]).all()
    assert alone["low_base"] == alone["high_base"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_the_fit_is_the_optimum_of_its_form(form: str) -> None:
    part, (start, matrix) = planted((0.7, 0.9, 0.5), n=300), FORMS[form]

    def mean(parameters: np.ndarray) -> float:
        return float(nll(part, start + matrix @ parameters).mean())

    found = minimize(mean, np.zeros(matrix.shape[1]), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    fit = fit_weights([part], form=form)
    assert fit["nll"] == pytest.approx(found.fun, abs=1e-8)
    weights = np.array([fit[f"w_{name}"] for name in MODELS])
    assert fit["nll"] == pytest.approx(nll(part, weights).mean(), abs=1e-9)
    np.testing.assert_allclose(weights, start + matrix @ found.x, atol=1e-3)


def test_the_search_of_the_notebook_is_never_better_than_the_fit() -> None:
    import optuna

    parts = [planted((0.7, 0.9, 0.5), n=150, seed=seed) for seed in (0, 7)]
    names = functions_of("03-tuning")
    names |= {"optuna": optuna, "run": SimpleNamespace(seed=0), "storage": "", "n_trials": 100}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = names["search"](parts, "a")
    assert len(study.trials) == 100
    assert study.trials[0].params == {"base": 6.0, "tuned": 2.0, "big": 1.5}
    weights = [1 / study.best_params[name] for name in MODELS]
    assert study.best_value == pytest.approx(np.concatenate([nll(part, weights) for part in parts]).mean())
    assert fit_weights(parts)["nll"] <= study.best_value + 1e-9


def test_a_search_goes_on_in_its_database(tmp_path: Path) -> None:
    import optuna

    names = functions_of("03-tuning") | {"optuna": optuna, "run": SimpleNamespace(seed=0)}
    names |= {"storage": f"sqlite:///{tmp_path}/trials.db", "n_trials": 3}
    names["search"].__globals__.update(names)
    parts = [planted((1, 1, 1), n=30)]
    assert len(names["search"](parts, "a").trials) == 3
    names["search"].__globals__["n_trials"] = 5
    study = names["search"](parts, "a")
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3, 4]
    assert sum(trial.params["base"] == 6.0 for trial in study.trials) == 1, "the first trial is enqueued once"


def test_weights_that_cannot_be_told_apart_have_no_bounds() -> None:
    part = planted((1, 1, 1), n=400)
    fit = fit_weights([part._replace(base=part.tuned)])
    assert fit["w_tuned"] == pytest.approx(-fit["w_base"]), "of the equally good ones the smallest"
    assert np.isfinite(fit["low_big"])
    assert np.isnan([fit[f"{end}_{name}"] for end in ("low", "high") for name in ("tuned", "base")]).all()
    strength = fit_weights([part._replace(base=part.tuned)], form="proxy")
    assert (strength["w_tuned"], strength["w_base"]) == (0.0, 0.0)


def test_bad_predictions_are_refused() -> None:
    part = planted((1, 1, 1), n=4)
    part.tuned[2, 7] = np.nan
    with pytest.raises(ValueError, match="a log-probability of target 2 is not a number"):
        fit_weights([part])
    with pytest.raises(ValueError, match="no form of weights named 'beta': expected one of blended, mixture"):
        fit_weights([part], form="beta")
    with pytest.raises(ValueError, match="there are no targets"):
        fit_weights([])


def test_memory_of_a_fit_does_not_grow_with_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.blending.fit.BLOCK_NUMBERS", 2**13)
    peaks = []
    for n in (1000, 8000):
        part = planted((1, 1, 1), n=n)
        tracemalloc.start()
        fit_weights([part])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.25 * (part.big.nbytes * 3)


def whole(logprobs: np.ndarray, target: Any) -> Predictions:
    target = np.asarray(target)
    return Predictions(target, logprobs[np.arange(len(target)), target], logprobs, None, None, VOCAB)


def written_out(lists: Predictions) -> np.ndarray:
    """Lists over the whole vocabulary, the tail spread evenly."""
    assert lists.ids is not None
    table = np.repeat(lists.tail_per_token()[:, None], VOCAB, axis=1)
    for row, (ids, logprobs) in enumerate(zip(lists.ids, lists.logprobs, strict=True)):
        table[row, ids[ids >= 0]] = logprobs[ids >= 0]
    return table


def test_lists_equal_their_distributions_written_out() -> None:
    target, models = np.random.default_rng(0).integers(VOCAB, size=20), three_models(20, seed=3)
    lists = [cut(whole(each, target), k) for each, k in zip(models, (6, 9, 4), strict=True)]
    for each in lists:  # rows of unequal length, as published records have
        each.ids[::3, 3:] = -1
        each.target_logprobs[(each.ids != target[:, None]).all(axis=1)] = np.nan
    short, full = aligned(*lists, np.arange(20)), part_of(*map(written_out, lists), target)
    for weights in ((1, 0, 0), (0, 1, 0), (1, 1, 1), (0.6, 0.4, 0.1)):
        np.testing.assert_allclose(nll(short, weights), nll(full, weights), atol=1e-6)
    np.testing.assert_allclose(
        *([fit[f"w_{name}"] for name in MODELS] for fit in map(fit_weights, ([short], [full]))), atol=1e-4
    )
    equal = aligned(lists[0], lists[1], lists[1], np.arange(20))
    np.testing.assert_allclose(nll(equal, (1, 1, 1)), nll(equal, (1, 0, 0)), atol=1e-9)
    own = np.array([-written_out(each)[np.arange(20), target] for each in lists])
    np.testing.assert_allclose([each.nll() for each in lists], own, atol=1e-6)


def test_lists_of_all_tokens_are_the_whole_distribution() -> None:
    target, models = np.arange(20), three_models(20)
    lists = aligned(*(cut(whole(each, target), VOCAB) for each in models), target)
    everything = aligned(*(whole(each, target) for each in models), target)
    np.testing.assert_allclose(nll(lists, (1, 1, 1)), nll(everything, (1, 1, 1)), atol=1e-5)


@pytest.fixture(scope="module")
def client(family_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A client of one server for all tests of this file."""
    from tuning_server.app import make_app
    from tuning_server.types import Settings

    store = tmp_path_factory.mktemp("blending") / "store"
    shutil.copytree(family_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as http:
        yield official(http)


@pytest.fixture(scope="module")
def targets(client: OpenAI) -> pd.DataFrame:
    return draw_targets(client, TINY, STORIES, n_targets=12, context_tokens=[1, 5])


def test_targets_are_the_same_after_every_length(client: OpenAI, targets: pd.DataFrame) -> None:
    assert targets.groupby("context_tokens").size().to_dict() == {1: 12, 5: 12}
    short, long = (rows.reset_index(drop=True) for _, rows in targets.groupby("context_tokens"))
    assert short[["document", "position", "token"]].equals(long[["document", "position", "token"]])
    assert (long["context"].map(lambda ids: ids[-1:]) == short["context"]).all()
    assert long["document"].nunique() == 4
    with pytest.raises(ValueError, match="no document of 4 has a token after 500 others"):
        draw_targets(client, TINY, STORIES, n_targets=2, context_tokens=[1, 500])
    with pytest.raises(ValueError, match="expected rising lengths"):
        draw_targets(client, TINY, STORIES, n_targets=2, context_tokens=[5, 1])


def test_predictions_are_requested_once(
    client: OpenAI, targets: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_predictions, "CHUNK_ROWS", 5)
    requested, send = [], client._client.send

    def watched(request: httpx.Request, **options: Any) -> httpx.Response:
        requested.append(request.url.path.endswith("/scores"))
        return send(request, **options)

    monkeypatch.setattr(client._client, "send", watched)
    ask = partial(predict, client, {TINY: True, KIN: False}, targets, folder=tmp_path)
    found = ask()
    assert sum(requested) == 2 * 5
    next(tmp_path.glob("*.npz")).unlink()
    again = ask()
    assert sum(requested) == 2 * 5 + 1, "only what is missing"
    assert found[KIN].logprobs is None
    np.testing.assert_allclose(found[KIN].nll(), again[KIN].nll(), atol=1e-4)
    own = found[TINY].logprobs[np.arange(24), targets["token"]].astype(float)
    np.testing.assert_allclose(-own, found[TINY].nll(), atol=0.01)
    few = predict(client, {TINY: True}, targets, folder=tmp_path, top_k=20)[TINY]
    missed = np.isnan(few.target_logprobs)
    assert 0 < missed.sum() < 24
    np.testing.assert_allclose(few.nll()[~missed], found[TINY].nll()[~missed], atol=1e-4)


def test_an_endpoint_without_scores_gives_the_same_lists(
    client: OpenAI, targets: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_predictions, "PROMPTS_A_REQUEST", 8)
    monkeypatch.setattr(of_predictions, "tokenize", lambda *about: replace(tokenize(*about), ids=None))
    as_text = draw_targets(client, TINY, STORIES, n_targets=12, context_tokens=[1, 5])
    assert as_text["token"].tolist() == targets["word"].tolist()
    texts = predict(client, dict.fromkeys([TINY, KIN], True), as_text, folder=tmp_path, top_k=20)
    ids = predict(client, dict.fromkeys([TINY, KIN], True), targets, folder=tmp_path, top_k=20)
    for model in (TINY, KIN):
        np.testing.assert_allclose(texts[model].logprobs, ids[model].logprobs, atol=1e-3)
        np.testing.assert_allclose(texts[model].nll(), ids[model].nll(), atol=1e-3)
    parts = [aligned(each[KIN], each[TINY], each[TINY], np.arange(24)) for each in (texts, ids)]
    np.testing.assert_allclose(*(nll(part, (1, 0.5, 0.2)) for part in parts), atol=1e-3)
    with pytest.raises(ValueError, match="Set top_k and vocab_tokens"):
        predict(client, {TINY: True}, as_text, folder=tmp_path)


def models_table() -> pd.DataFrame:
    rows = [("base", "b", 0, "b"), ("big", "x", 0, "x"), ("big", "y", 0, "y")]
    rows += [("tuned", "b", seed, f"t{seed}") for seed in (0, 1)] + [
        ("direct", "x", seed, f"d{seed}") for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["role", "base", "seed", "model"]).assign(is_final=True)


def test_which_models_are_blended() -> None:
    expected = [("x", "t0", "b", "d0", 0), ("x", "t1", "b", "d1", 1), ("y", "t0", "b", "", 0)]
    assert list(blends_of(models_table()).itertuples(index=False, name=None)) == expected
    given = models_table().query("role != 'direct' or seed == 0")
    assert blends_of(given)["direct"].tolist() == ["d0", "d0", ""], "one that was given serves all seeds"


def test_which_bases_a_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"base": TINY, "bigs": [KIN], "size_bases": [SHORT, KIN], "general": "", "n_seeds": 3}
    assert base_ids(params) == (TINY, [KIN, SHORT]), "each big model once"
    assert base_ids(params | {"n_seeds": 2}) == (TINY, [KIN])
    with pytest.raises(ValueError, match="bigs is empty"):
        base_ids(params | {"bigs": [], "n_seeds": 1})
    monkeypatch.setattr(of_models, "make_base", lambda name, text, tokenizer: f"{name}@{text.name}{tokenizer}")
    general = params | {"general": "my/texts", "base": "fork-1m:init", "size_bases": []}
    assert base_ids(general | {"bigs": ["fork-6m"]}) == ("fork-1m@texts:init", ["fork-6m@texts"])
    assert base_ids(general | {"bigs": ["hf:b", "fork-6m@a"]}) == ("fork-1m@textshf:b:init", ["hf:b", "fork-6m@a"])


@pytest.fixture(scope="module")
def tuned(client: OpenAI) -> str:
    file = upload(client, b'{"prompt": "", "completion": " the fox"}\n' * 8)
    job = client.fine_tuning.jobs.create(model=TINY, training_file=file.id, seed=0)
    return str(wait_for(client, job.id).fine_tuned_model)


def test_models_that_cannot_be_blended_are_one_clear_line(client: OpenAI, tuned: str) -> None:
    fits: dict[str, Any] = {"base": TINY, "tuned": [tuned], "bigs": [KIN], "longest": 8}
    check_models(client, **fits)
    check_models(client, **(fits | {"base": f"{TINY}@0123456789ab"}))  # the same weights by another name
    for changed, why in (
        ({"bigs": [KIN, OTHER]}, f"{OTHER} and {TINY} have different tokenizers"),
        ({"longest": 512}, f"512 tokens and the target are too long for {TINY}, which reads 512"),
        ({"bigs": [SHORT], "longest": 24}, f"too long for {SHORT}, which reads 24"),
        ({"base": KIN}, f"was made from {TINY}, not from {KIN}"),
        ({"tuned": [KIN]}, f"{KIN} does not say what it was made from, not from {TINY}"),
    ):
        with pytest.raises(ValueError) as error:
            check_models(client, **(fits | changed))
        assert why in str(error.value)
        assert "\n" not in str(error.value)
        if "made from" in why:
            check_models(client, **(fits | changed), allow_unrelated=True)


def endpoint(models: Mapping[str, dict[str, Any]]) -> Any:
    """An endpoint that reports no more than this of its models."""

    def retrieve(model: str) -> Any:
        if model not in models:
            response = httpx.Response(404, request=httpx.Request("GET", f"http://testserver/v1/models/{model}"))
            raise NotFoundError("no such model", response=response, body=None)
        return SimpleNamespace(model_dump=lambda: {"id": model} | models[model])

    return SimpleNamespace(models=SimpleNamespace(retrieve=retrieve))


@pytest.mark.parametrize("parent", ["other", "gone"])
def test_models_without_a_fingerprint_are_not_taken_for_related(parent: str) -> None:
    hosted = endpoint({"base": {}, "other": {}, "tuned": {"parent": parent}})
    with pytest.raises(ValueError, match=f"tuned was made from {parent}, not from base"):
        check_models(hosted, base="base", tuned=["tuned"], bigs=["other"], longest=9_999)
    check_models(hosted, base="base", tuned=["tuned"], bigs=["other"], longest=9_999, allow_unrelated=True)
