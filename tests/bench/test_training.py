"""Training tokens a second against Hugging Face's Trainer with its defaults, on the same rows in the same run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from measuring import Way, compare, load, share_in_models, speed
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from tuning_server.engine import losses, training
from tuning_server.engine.models import LoadedModel

BATCH = 32


def rows_of(loaded: LoadedModel, n_rows: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, loaded.vocab_size, rng.integers(15, 70)).tolist() for _ in range(n_rows)]


def ours(loaded: LoadedModel, rows: list[list[int]], folder: Path) -> float:
    settings = training.TrainingSettings(n_epochs=1, batch_size=BATCH, learning_rate=1e-4)
    documents = [losses.TrainingRow(ids) for ids in rows]
    return speed(lambda: list(training.train(loaded, documents, settings, folder=folder)), sum(map(len, rows)))


def reference(loaded: LoadedModel, rows: list[list[int]], folder: Path) -> float:
    loaded.tokenizer.pad_token = loaded.tokenizer.eos_token
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=loaded.device.type == "cpu",
    )
    trainer = Trainer(
        model=loaded.model.train(),
        args=arguments,
        train_dataset=[{"input_ids": ids} for ids in rows],
        data_collator=DataCollatorForLanguageModeling(loaded.tokenizer, mlm=False),
    )
    return speed(trainer.train, sum(map(len, rows)))


@pytest.mark.parametrize(("name", "n_rows", "target"), [("fork-1m", 960, 1.3), ("fork-6m", 320, 1.7)])
def test_training_is_faster_than_the_trainer(
    name: str, n_rows: int, target: float, tmp_path: Path, report: Callable
) -> None:
    rows, number = rows_of(load(name), n_rows), itertools.count()
    ours(load(name), rows[:BATCH], tmp_path / "warm-up")
    precision = training.arithmetic(load(name))
    ratio = compare(
        f"training, {name}",
        lambda: ours(load(name), rows, tmp_path / f"ours-{next(number)}"),
        Way("Trainer, padded by default, float32", lambda: reference(load(name), rows, tmp_path / "trainer")),
        unit="tokens/s",
        n_repetitions=3,
        target=target if precision == "bfloat16" else None,
        note="" if precision == "bfloat16" else "no bfloat16 here",
    )

    def limit() -> str:
        loaded = load(name)
        share = share_in_models(lambda: ours(loaded, rows, tmp_path / "limit"), loaded)
        return f"{share:.0%} of our time is forward passes in {precision}, the rest gradients and AdamW"

    report(ratio, limit)
