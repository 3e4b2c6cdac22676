"""For nbval: copies of the notebooks that run at preset ``tiny``, and one server of the tests' own store for them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="session")
def root() -> Path:
    return NOTEBOOKS.parent


def write_tiny_copies(folder: Path) -> None:
    """Write each notebook without outputs, with the preset in its parameters cell set to ``tiny``."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in NOTEBOOKS.rglob("[0-9][0-9]-*.ipynb"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                cell.source, n_found = re.subn(r'^preset: str = "\w+"', 'preset: str = "tiny"', cell.source, flags=re.M)
                assert n_found == 1, f"{path}: its parameters cell names no preset"
        copy = folder / path.relative_to(NOTEBOOKS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, copy)


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "nbval_lax", False):
        write_tiny_copies(Path(os.environ["TUNING_FORK_RUNS"]) / "notebooks")


def pytest_collection_finish(session: pytest.Session) -> None:
    if runs_notebooks(session):
        from lib.api import connect

        connect().models.list()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if runs_notebooks(session):
        from lib.paths import store_root
        from tools.clean import stop_server

        stop_server(store_root())


def runs_notebooks(session: pytest.Session) -> bool:
    """Whether cells are going to be executed now."""
    is_cell = any(type(item).__name__ == "IPyNbCell" for item in getattr(session, "items", []))
    return is_cell and not session.config.option.collectonly
