"""A fake endpoint that lists fine-tuning jobs, and run folders that name them: what the tests of the ledger share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from openai.types.fine_tuning import FineTuningJob

from lib.finetune import KEY
from lib.paths import file_hash, write_json
from lib.runs.ledger import FineTuned, read_ledger

NOW = 1_800_000_000
ROW = "demo,laptop,fork-1m,match,a,,0.5,0.4,0.6,30,person,rate\n"
HEADER = "study,preset,model,metric,group,epoch,value,low,high,n,n_of,unit\n"
PARAMETERS = 'base: str = "fork-1m"  # base\ntuned_model: str = ""  # given\nn_facts: int = 3  # facts [1..]\n'


def job(
    number: int, *, status: str = "succeeded", base: str = "fork-1m", days: float = 1, **more: Any
) -> FineTuningJob:
    """A job of the fake endpoint; its model is ``ft:<base>:demo:<number>``."""
    done = status == "succeeded"
    told = {
        **{"id": f"ftjob-{number}", "object": "fine_tuning.job", "model": base, "status": status, "seed": 0},
        **{"created_at": NOW - int(days * 86_400), "organization_id": "o", "result_files": [], "training_file": "f"},
        **{"fine_tuned_model": f"ft:{base}:demo:{number}" if done else None, "trained_tokens": 1000 if done else None},
        **{"hyperparameters": {"n_epochs": 2}, "metadata": {KEY: f"key{number}"}, "user_provided_suffix": "demo"},
    }
    return FineTuningJob.model_validate({**told, **more})


def endpoint(*jobs: FineTuningJob) -> Any:
    """An endpoint that lists these jobs, each with one checkpoint."""
    kept = SimpleNamespace(step_number=4, metrics=SimpleNamespace(train_loss=1.5, valid_loss=None))
    listing = SimpleNamespace(list=lambda **_: list(jobs), checkpoints=SimpleNamespace(list=lambda _: [kept]))
    return SimpleNamespace(fine_tuning=SimpleNamespace(jobs=listing), base_url="http://127.0.0.1:1/v1")


def make_run(
    home: Path, *models: str, name: str = "laptop/demo", evaluated: bool = True, role: str = "main", **params: Any
) -> Path:
    """A run folder that has reached its fine-tunes, and perhaps its numbers."""
    folder = home / "runs" / name
    rows = [{"model": each, "base": "fork-1m", "role": role, "is_final": True} for each in models]
    early = [{**row, "model": f"{row['model']}:ckpt-step-2", "is_final": False} for row in rows]
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    pd.DataFrame([*early, *rows], columns=["model", "base", "role", "is_final"]).to_parquet(
        folder / "finetunes.parquet"
    )
    about = {"study": "demo", "preset": name.partition("/")[0], "parameters": params}
    write_json(folder / "02.manifest.json", {**about, "inputs": {}})
    if evaluated:
        (folder / "summary.csv").write_text(HEADER + ROW)
        (folder / "figures" / "hero.png").write_bytes(b"picture")
        (folder / "figures" / "hero.txt").write_text("What it shows.")
        read = {"finetunes.parquet": file_hash(folder / "finetunes.parquet")}
        write_json(folder / "03.manifest.json", {**about, "inputs": read})
    return folder


def ledger_of(home: Path, *jobs: FineTuningJob, **options: Any) -> list[FineTuned]:
    return read_ledger(endpoint(*jobs), home / "runs", **options)
