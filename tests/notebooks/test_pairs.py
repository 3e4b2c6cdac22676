"""Each notebook is one pair: in step, executed, small, free of what changes by machine; by glob, no list of names."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks

from tools.committed import LARGEST_BYTES, is_stale, tidy

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TEXTS = sorted(path for path in NOTEBOOKS.rglob("*.py") if ".ipynb_checkpoints" not in path.parts)
BOOKS = sorted(path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
each_book = pytest.mark.parametrize("path", BOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")


def test_no_half_of_a_pair_is_alone():
    assert [path.with_suffix("") for path in TEXTS] == [path.with_suffix("") for path in BOOKS] != []


@each_book
def test_the_pair_is_in_step(path):
    compare_notebooks(
        jupytext.read(path), jupytext.read(path.with_suffix(".py")), fmt="py:percent", compare_outputs=False
    )


@each_book
def test_it_was_executed_from_top_to_bottom_with_the_code_it_has(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.source.strip() for cell in cells), "an empty code cell"
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "nbval compares nothing in a cell without a count: make publish"
    assert not is_stale(notebook), "outputs of other code: make publish"
    assert any(cell.outputs for cell in cells)
    errors = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not errors
    streams = [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not streams, "a warning or a progress bar in the outputs"


@each_book
def test_it_is_small_and_holds_nothing_of_a_machine(path):
    assert path.stat().st_size < LARGEST_BYTES
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    tidy(notebook)
    assert nbformat.writes(notebook) == before, "times, versions or settings in its metadata: make publish"
    assert str(NOTEBOOKS.parent) not in before, "a path of this machine in its outputs"


@each_book
def test_cells_are_short_and_end_without_a_semicolon(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 30, cell.source
            assert not cell.source.rstrip().endswith(";"), "nbval fails on it: assign to _ instead"
            assert not cell.source.lstrip().startswith(("%", "!")), "a magic or shell line"
