"""The ledger's copy in Weights & Biases, without the package and without its network."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ledgers import HEADER, ROW, endpoint, job, make_run

from lib import api
from lib.runs.__main__ import main


@pytest.fixture
def connected(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Lets the command line meet an endpoint with these jobs."""
    caplog.set_level(logging.INFO)
    return lambda *jobs: monkeypatch.setattr(api, "connect", lambda *_, **__: endpoint(*jobs))


class Recorder:
    """Stands in for the package wandb: keeps what it is given."""

    Error = type("Error", (Exception,), {})

    def __init__(self) -> None:
        self.runs: list[Any] = []
        self.fails_at = -1

    def init(self, **options: Any) -> Any:
        if len(self.runs) == self.fails_at:
            raise self.Error("no such\nentity")
        run = MagicMock(options=options, logged=[], tags=())
        run.__enter__.return_value = run
        run.__exit__.return_value = None
        run.log = run.logged.append
        self.runs.append(run)
        return run

    def Settings(self, **settings: Any) -> Any:
        return SimpleNamespace(base_url="https://api.wandb.ai", **settings)

    def Table(self, *, columns: list[str], data: list[list[Any]]) -> Any:
        return ("table", columns, data)

    def Image(self, path: str, *, caption: str) -> Any:
        return ("image", Path(path).name, caption)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """The stub in the place of the package, offline."""
    recorder = Recorder()
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", recorder)  # type: ignore[arg-type]
    return recorder


def test_sync_sends_runs_tables_and_figures_once_and_then_what_changed(
    home: Path, connected: Any, wandb: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connected(job(1), job(2, status="running"))
    folder = make_run(home, "ft:fork-1m:demo:1", n_facts=5)
    assert main(["sync", "--dry-run"]) == 0
    assert "would send fine-tune ft:fork-1m:demo:1" in caplog.text
    assert (wandb.runs, (home / "runs" / "wandb.json").exists()) == ([], False)

    monkeypatch.setenv("WANDB_ENTITY", "lab")
    assert main(["sync"]) == 0
    tuned, study = wandb.runs
    assert (tuned.options["project"], tuned.options["entity"], tuned.options["id"]) == ("tuning-fork", "lab", "ftjob-1")
    assert (tuned.options["group"], tuned.options["job_type"], study.options["job_type"]) == (
        "demo",
        "fine-tune",
        "study",
    )
    config = tuned.config.update.call_args.args[0]
    assert (config["model"], config["hyperparameters"], config["tokens"]) == (
        "ft:fork-1m:demo:1",
        {"n_epochs": 2},
        1000,
    )
    assert tuned.logged == [{"step": 4, "train_loss": 1.5}]
    assert study.config.update.call_args.args[0]["n_facts"] == 5
    table, figures = study.logged
    kind, columns, data = table["summary"]
    assert (kind, len(columns), data[0][columns.index("value")], data[0][columns.index("epoch")]) == (
        "table",
        12,
        0.5,
        None,
    )
    assert figures == {"hero": ("image", "hero.png", "What it shows.")}
    study.summary.update.assert_called_once_with({"fork-1m/a/match": 0.5})
    assert all(run.__exit__.called for run in wandb.runs)

    assert main(["sync"]) == 0
    assert "lab/tuning-fork: nothing is new" in caplog.text
    assert len(wandb.runs) == 2
    main(["tag", "ftjob-1", "paper"])
    assert main(["sync"]) == 0
    assert (len(wandb.runs), wandb.runs[2].logged, wandb.runs[2].tags) == (3, [], ("paper",))
    (folder / "summary.csv").write_text(HEADER + ROW.replace("0.5", "0.55"))
    assert main(["sync"]) == 0
    assert len(wandb.runs[3].logged) == 2
    monkeypatch.setenv("WANDB_PROJECT", "other")
    assert main(["sync"]) == 0
    assert len(wandb.runs) == 6, "another place has nothing yet"


def test_a_sync_that_is_broken_off_goes_on_where_it_was(
    home: Path, connected: Any, wandb: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    connected(job(1), job(2))
    wandb.fails_at = 1
    assert main(["sync"]) == 1
    assert "ft:fork-1m:demo:2: no such entity" in caplog.text
    wandb.fails_at = -1
    assert main(["sync"]) == 0
    assert [run.options["id"] for run in wandb.runs] == ["ftjob-1", "ftjob-2"]


def test_sync_says_what_is_missing(
    home: Path, connected: Any, wandb: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connected(job(1))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["sync"]) == 1
    assert "nothing is sent" in caplog.text
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["sync"]) == 1
    assert "the package wandb is not installed" in caplog.text
    assert not wandb.runs
    assert not (home / "runs" / "wandb.json").exists()
