"""What every test stands on: no key, no endpoint, one thread, and runs that go to a folder of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    os.environ.pop(name, None)
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

HEAD = """preset: str = "tiny"  # values to start from
out: str = ""  # run folder of its own
seed: int = 0  # first seed [0..]
n_seeds: int = 1  # repetitions [1..]
"""

MakeStage = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty house: no study, no preset, no run."""
    monkeypatch.setenv("TUNING_FORK_HOME", str(tmp_path))
    monkeypatch.setenv("TUNING_FORK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNING_FORK_STORE", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def make_stage(home: Path) -> MakeStage:
    """Writes a stage notebook: its parameters cell, then start_run and `body`."""

    def make(stage: str, parameters: str = "", body: str = 'run.finish("done")', *, head: str = HEAD) -> Path:
        path = home / "notebooks" / f"{stage}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = f'from lib.notebook import start_run\nrun = start_run("{stage}", globals())'
        cells = [
            nbformat.v4.new_markdown_cell("# Try\n\n**Time**: tiny 2 s, laptop 3 s"),
            nbformat.v4.new_code_cell(head + parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(start),
            nbformat.v4.new_code_cell(body),
        ]
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return make


@pytest.fixture
def make_preset(home: Path) -> Callable[[str, str, str], Path]:
    """Writes ``params/<study>/<preset>.yaml``."""

    def make(study: str, preset: str, text: str) -> Path:
        path = home / "params" / study / f"{preset}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make
