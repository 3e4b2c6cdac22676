"""Training tokens a second against Hugging Face's Trainer with its defaults, on the same rows in the same run."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from lib.engine import models, training
from lib.paths import store_root

N_ROWS, BATCH = 2_400, 32


def rows_of(loaded: models.LoadedModel) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, loaded.vocab_size, rng.integers(15, 70)).tolist() for _ in range(N_ROWS)]


def ours(name: str, folder: Path) -> float:
    loaded = models.load(name, store_root(), dtype=torch.float32)
    rows = [training.TrainingRow(ids) for ids in rows_of(loaded)]
    settings = training.TrainingSettings(n_epochs=1, batch_size=BATCH, learning_rate=1e-4)
    started = time.perf_counter()
    reports = list(training.train(loaded, rows, settings, folder=folder / "ours"))
    return reports[-1].n_tokens / (time.perf_counter() - started)


def reference(name: str, folder: Path) -> float:
    loaded = models.load(name, store_root(), dtype=torch.float32)
    rows = rows_of(loaded)
    loaded.tokenizer.pad_token = loaded.tokenizer.eos_token
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model=loaded.model.train(),
        args=arguments,
        train_dataset=[{"input_ids": ids} for ids in rows],
        data_collator=DataCollatorForLanguageModeling(loaded.tokenizer, mlm=False),
    )
    started = time.perf_counter()
    trainer.train()
    return sum(map(len, rows)) / (time.perf_counter() - started)


@pytest.mark.parametrize("name", ["fork-1m"])
def test_training_is_faster_than_the_trainer(name: str, tmp_path: Path) -> None:
    ratios = [ours(name, tmp_path / str(k)) / reference(name, tmp_path / str(k)) for k in range(3)]
    print(f"\ntraining, {name}: {np.median(ratios):.2f} x Trainer ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    loaded = models.load(name, store_root(), dtype=torch.float32)
    if training.precision(loaded) == "bf16":
        assert np.median(ratios) >= 1.3
