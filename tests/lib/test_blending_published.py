"""Published records: how they are read, the published pipeline against plain Python, and the notebooks on records."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.blending import published
from lib.blending.fit import fit_weights
from lib.blending.published import as_predictions, published_aligned, published_logprobs, published_perplexity
from lib.blending.top_k import aligned
from lib.summary import read_summary

NOTEBOOKS = Path(__file__).parents[2] / "notebooks" / "blending"
PUBLISHED = {"base": 8.8268, "tuned": 2.2340, "big": 1.6695}
TEMPERATURES = [PUBLISHED, {"base": 6.0, "tuned": 2.0, "big": 1.5}, {"base": 0.5, "tuned": 0.4, "big": 0.3}]
KEYS = dict(list(published.KEYS.items())[:3])


def record(rng: np.random.Generator, *, k: int = 8, vocab: int = 20, second_big: bool = True) -> dict[str, Any]:
    """Lists of unequal length that overlap in part, in id 0 at least; some true ids are in no list."""
    made: dict[str, Any] = {"token": int(rng.integers(vocab)), "word": " wolf", "prompt_text": "Once upon a time"}
    for key in [*KEYS.values(), *(["davinci_base_logprobs"] if second_big else [])]:
        ids = np.append(rng.choice(np.arange(1, vocab), size=rng.integers(3, k), replace=False), 0)
        logprobs = np.log(rng.dirichlet(np.ones(len(ids) + 5)))[: len(ids)]
        made[key] = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
    return made


def write(folder: Path, records: Any, *, n: int = 600, k: int = 25) -> Path:
    path = folder / f"raw_api_results_{n}ex_{k}tb.pkl"
    path.write_bytes(pickle.dumps(records))
    return path


def read(folder: Path, records: list[dict[str, Any]]) -> tuple[pd.DataFrame, dict[str, published.Predictions]]:
    write(folder, records * 2)  # both halves are alike
    return as_predictions(published.read_records(folder), "test")


def plain_blend(one: dict[str, Any], temperatures: dict[str, float]) -> dict[int, float]:
    """One record's blend, as the notebooks describe it: align, impute, divide, add, softmax, log."""
    big, scaled = one["big_logprobs"], {}
    for name in ("base", "tuned"):
        present = {token: one[KEYS[name]][token] for token in big if token in one[KEYS[name]]}
        lowest = min(present.values(), default=math.nan)
        scaled[name] = {token: present.get(token, lowest) / temperatures[name] for token in big}
    powers = {t: math.exp(v / temperatures["big"] + (scaled["tuned"][t] - scaled["base"][t])) for t, v in big.items()}
    return {token: math.log(power / sum(powers.values())) for token, power in powers.items()}


def plain_perplexity(distributions: list[dict[int, float]], records: list[dict[str, Any]]) -> float:
    found = [each.get(one["token"], -30.0) for each, one in zip(distributions, records, strict=True)]
    chunks = [found[start : start + 50] for start in range(0, len(found), 50)]
    return round(round(sum(math.exp(-sum(chunk) / len(chunk)) for chunk in chunks) / len(chunks), 2), 1)


@pytest.mark.parametrize("n", [2, 50, 51, 120])
@pytest.mark.parametrize("temperatures", TEMPERATURES)
def test_the_pipeline_equals_a_plain_one(tmp_path: Path, n: int, temperatures: dict[str, float]) -> None:
    rng = np.random.default_rng(n)
    records = [record(rng) for _ in range(n)]
    _, found = read(tmp_path, records)
    logprobs = published_logprobs(
        published_aligned(*(found[name] for name in ("big", "tuned", "base"))), **temperatures
    )
    blends = [plain_blend(one, temperatures) for one in records]
    expected = [each.get(one["token"], -30.0) for each, one in zip(blends, records, strict=True)]
    np.testing.assert_allclose(logprobs, expected, rtol=0, atol=1e-9)
    assert published_perplexity(logprobs) == plain_perplexity(blends, records)
    for name, key in KEYS.items():
        alone = plain_perplexity([one[key] for one in records], records)
        assert published_perplexity(found[name].target_logprobs) == alone


def test_lists_without_a_common_id_give_no_number_but_the_floor(tmp_path: Path) -> None:
    records = [record(np.random.default_rng(0)) for _ in range(3)]
    records[1] |= {"big_logprobs": {1: -1.0, 2: -2.0}, "small_tuned_logprobs": {3: -1.0}, "token": 1}
    records[2] |= {"token": 40}
    _, found = read(tmp_path, records)
    logprobs = published_logprobs(published_aligned(found["big"], found["tuned"], found["base"]), **PUBLISHED)
    assert np.isnan(logprobs).tolist() == [False, True, False]
    assert logprobs[2] == -30.0


def test_records_are_read_by_context_length_and_halved_in_file_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {k: [record(rng, vocab=10) for _ in range(120)] for k in (100, 6)}
    for k, records in written.items():
        write(tmp_path, records, k=k)
    write(tmp_path, written[6][:9], n=9, k=6)  # of two files for one length the larger is read
    (tmp_path / "notes.txt").write_text("not a result")
    records = published.read_records(tmp_path)
    assert records.groupby("context_tokens").size().to_dict() == {6: 120, 100: 120}
    targets, found = as_predictions(records, "test")
    assert targets["context_tokens"].tolist() == [6] * 60 + [100] * 60
    assert targets["document"][:60].tolist() == ["rows 0"] * 50 + ["rows 50"] * 10
    for index, one in enumerate([*written[6][60:], *written[100][60:]]):
        ids, logprobs = found["tuned"].ids[index], found["tuned"].logprobs[index]
        assert (
            dict(zip(ids[ids >= 0].tolist(), logprobs[ids >= 0].tolist(), strict=True)) == one["small_tuned_logprobs"]
        )
        outside = 1 - sum(map(math.exp, one["big_logprobs"].values()))
        assert found["big"].tail[index] == pytest.approx(math.log(outside))
    parts = [aligned(found[big], found["tuned"], found["base"], targets["document"]) for big in ("big", "davinci_base")]
    fits = [fit_weights([part]) for part in parts]
    assert fits[0]["n"] == 120
    assert fits[0]["w_big"] != fits[1]["w_big"], "the second big model in place of the first"


def test_a_second_big_model_may_be_missing(tmp_path: Path) -> None:
    _, found = read(tmp_path, [record(np.random.default_rng(0), second_big=False) for _ in range(3)])
    assert [*found] == ["base", "tuned", "big"]


def broken(**changes: Any) -> dict[str, Any]:
    row = record(np.random.default_rng(0)) | changes
    return {key: value for key, value in row.items() if value is not None}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": 1}, "expected a list of at least two records, found dict"),
        ([broken()], "expected a list of at least two records"),
        ([broken(), 3], "record 1: expected a dict with token, small_untuned_logprobs"),
        ([broken(), broken(big_logprobs=None)], "record 1: expected a dict with token"),
        ([broken(token="wolf"), broken()], "record 0: token is 'wolf', expected an id"),
        ([broken(big_logprobs=[1.0]), broken()], "record 0: big_logprobs is [1.0], expected a dict"),
        ([broken(big_logprobs={}), broken()], "record 0: big_logprobs is {}, expected a dict"),
        ([broken(big_logprobs={" wolf": -1.0}), broken()], "expected a dict of token ids to log-probabilities"),
        ([broken(big_logprobs={1: "x"}), broken()], "holds a log-probability that is not a finite number"),
        ([broken(), broken(big_logprobs={1: float("nan")})], "record 1: big_logprobs holds"),
        ([broken(), broken(big_logprobs={-1: -1.0})], "record 1: big_logprobs is {-1"),
    ],
)
def test_records_of_the_wrong_shape_are_one_clear_line(tmp_path: Path, value: Any, why: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(ValueError) as refused:
        published.read_records(tmp_path)
    assert why in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.pkl").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"holds no raw_api_results_<n>ex_<k>tb.pkl: expected the published"):
            published.read_records(folder)


def test_the_notebooks_run_on_published_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNING_FORK_RUNS", str(tmp_path / "runs"))
    folder, rng = tmp_path / "records", np.random.default_rng(0)
    folder.mkdir()
    for k in (6, 25, 50):
        write(folder, [record(rng) for _ in range(130)], k=k)
    for path in sorted(NOTEBOOKS.glob("0*.py")):
        code = path.read_text(encoding="utf-8").replace('preset: str = "laptop"', 'preset: str = "tiny"')
        code = code.replace('records: str = ""', f"records: str = {str(folder)!r}")
        exec(compile(code, str(path), "exec"), {"__name__": path.stem})
    plt.close("all")
    printed, run = capsys.readouterr().out, tmp_path / "runs" / "tiny-changed" / "blending"
    assert re.search(r"No trial is better than the exact fit: held", printed)
    assert "failed, largest difference" not in printed
    summary = read_summary(run / "summary.csv")
    perplexities = summary[summary["metric"] == "perplexity"]
    assert set(perplexities["model"]) == {"big", "davinci_base"}
    assert {"base", "tuned", "big", "blended", "search"} <= set(perplexities["contender"])
    for big in ("big", "davinci_base"):
        curve = pd.read_csv(run / f"published-{big}.csv")
        assert curve["context_tokens"].tolist() == [25, 50], "the shortest is left out"
        assert set(curve) == {"context_tokens", big, "tuned", "base", "blended"}
    assert len(pd.read_parquet(run / "trials.parquet")) == 2 * 6
