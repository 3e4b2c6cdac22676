"""DPO in the engine: its loss and gradient equal the closed form, and a stopped run ends with the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.paths import file_hash
from tuning_server.engine import losses, models
from tuning_server.engine.losses import Preference, PreferenceRow, margins
from tuning_server.engine.training import TrainingSettings, train

TINY = "fork-tiny"
SETTINGS = TrainingSettings(n_epochs=3, batch_size=8, learning_rate=1e-3, seed=3, state_every=4, beta=0.3)


def fresh(store: Path) -> models.LoadedModel:
    return models.load(TINY, store, dtype=torch.float32)


def pairs_of(loaded: models.LoadedModel, n: int = 40) -> list[PreferenceRow]:
    rows = []
    for k in range(n):
        prompt = loaded.codec.encode_prompt("The fox " * (k % 5 + 1))
        documents = [
            losses.TrainingRow([*prompt, *loaded.codec.encode(text), loaded.codec.eos_id], len(prompt))
            for text in (f" baker {k}", " old " * (k % 3 + 1))
        ]
        rows.append(PreferenceRow(*documents))
    return rows


def log_probability(loaded: models.LoadedModel, row: losses.TrainingRow) -> torch.Tensor:
    """Of a row's answer behind its prompt, alone and token by token, in float64."""
    logprobs = loaded.model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return torch.stack([logprobs[k - 1, row.ids[k]] for k in range(row.n_prompt, len(row.ids))]).sum()


def test_loss_and_gradient_equal_the_closed_form(tiny_store: Path) -> None:
    loaded, beta = fresh(tiny_store), 0.3
    parameters = list(loaded.model.parameters())
    rows = [replace(row, reference_margin=shift) for row, shift in zip(pairs_of(loaded, 6), range(-3, 3), strict=True)]
    sums = Preference(beta).sums(loaded.model, *Preference(beta).inputs(rows))
    sums["loss"].backward()
    found = [parameter.grad.clone() for parameter in parameters]
    # Rafailov et al. 2023: the gradient is -beta sigmoid(-reward) (grad log p(chosen) - grad log p(rejected))
    expected, total, rewards = [torch.zeros_like(parameter) for parameter in parameters], 0.0, []
    for row in rows:
        difference = log_probability(loaded, row.chosen) - log_probability(loaded, row.rejected)
        reward = beta * (float(difference.detach()) - row.reference_margin)
        rewards.append(reward)
        total += np.log1p(np.exp(-reward))
        for target, gradient in zip(expected, torch.autograd.grad(difference, parameters), strict=True):
            target -= beta / (1 + np.exp(reward)) * gradient
    assert float(sums["loss"].detach()) == pytest.approx(total, rel=1e-5)
    assert sums["reward_margin"] == pytest.approx(sum(rewards), rel=1e-4)
    assert sums["reward_accuracy"] == sum(reward > 0 for reward in rewards)
    assert 0 < sums["reward_accuracy"] < len(rows)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    assert max(float(one.abs().max()) for one in found) > 1e-3


def test_it_begins_at_ln_2_and_learns_to_prefer(tiny_store: Path, tmp_path: Path) -> None:
    loaded = fresh(tiny_store)
    rows = pairs_of(loaded)
    with torch.no_grad():
        before = margins(loaded.model, *Preference(0.3).inputs(rows)[:2])
    steps = list(train(loaded, rows, SETTINGS, folder=tmp_path, validation_rows=rows[:10] + rows[:2]))
    reports = [report for report in steps if report is not None]
    assert steps[: -len(reports)] == [None] * (len(steps) - len(reports)) != []
    assert reports[0].loss == pytest.approx(np.log(2), abs=1e-4)
    assert reports[0].measures["reward_margin"] == pytest.approx(0, abs=1e-4)
    tie = Preference(0.3).inputs([PreferenceRow(rows[0].chosen, rows[0].chosen)])
    assert Preference(0.3).sums(loaded.model, *tie)["reward_accuracy"] == 0.5
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert reports[-1].measures["reward_accuracy"] == 1
    assert reports[-1].n_tokens == 3 * sum(row.n_tokens for row in rows)
    with torch.no_grad():
        after = margins(loaded.model, *Preference(0.3).inputs(rows[:10] + rows[:2])[:2])
        gained = SETTINGS.beta * (after - torch.cat([before[:10], before[:2]]))
    assert reports[-1].valid_measures["reward_margin"] == pytest.approx(float(gained.mean()), rel=1e-4)
    assert reports[-1].valid_loss == pytest.approx(float(torch.log1p(torch.exp(-gained)).mean()), rel=1e-4)


@pytest.mark.parametrize("stop_after", [1, 3, 9, 13])
def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(
    tiny_store: Path, tmp_path: Path, stop_after: int
) -> None:
    rows = pairs_of(fresh(tiny_store))
    whole = list(train(fresh(tiny_store), rows, SETTINGS, folder=tmp_path / "whole"))
    broken = train(fresh(tiny_store), rows, SETTINGS, folder=tmp_path / "broken")
    for _ in range(stop_after):
        next(broken)
    broken.close()  # type: ignore[attr-defined]
    rest = list(train(fresh(tiny_store), rows, SETTINGS, folder=tmp_path / "broken"))
    assert whole[-1] == rest[-1]
    assert whole[:3] == [None, None, None], "several batches for the reference"
    assert rest[:3] == [None, None, None], "the reference is computed again"
    for name in ("step-5", "step-10", "final"):
        one, other = (tmp_path / run / name / "model.safetensors" for run in ("whole", "broken"))
        assert file_hash(one) == file_hash(other)


def test_another_run_is_not_continued(tiny_store: Path, tmp_path: Path) -> None:
    rows = pairs_of(fresh(tiny_store))
    steps = train(fresh(tiny_store), rows, SETTINGS, folder=tmp_path)
    for _ in range(3 + 6):  # batches of the reference, then steps
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    for other in (replace(SETTINGS, beta=0.2), replace(SETTINGS, seed=4)):
        with pytest.raises(ValueError, match="holds another run"):
            list(train(fresh(tiny_store), rows, other, folder=tmp_path))


def test_a_batch_cut_for_memory_has_the_same_gradient(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = []
    for limit in (2**28, 1):
        monkeypatch.setitem(losses.MICRO_BATCH_BYTES, "cpu", limit)
        loaded = fresh(tiny_store)
        steps = train(loaded, pairs_of(loaded), SETTINGS, folder=tmp_path / str(limit))
        reported.append([report.loss for report in steps if report is not None])
    assert np.allclose(reported[0], reported[1], rtol=1e-3)
