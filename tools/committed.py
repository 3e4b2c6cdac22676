"""The outputs of the committed notebooks, without what differs between machines or runs."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from lib.headlines import with_few_colors
from lib.paths import atomic_write, content_hash
from lib.run import OwnKernel, StageFailed, shown

LARGEST_BYTES = 200_000
_LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """Name for a notebook by its code alone."""
    return content_hash([cell.source for cell in notebook.cells if cell.cell_type == "code"], length=16)


def is_stale(notebook: nbformat.NotebookNode) -> bool:
    """Whether the outputs were made by other code, or are missing."""
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    return notebook.metadata.get("tuning_fork", {}).get("source_hash") != source_hash(notebook) or None in counts


def tidy(content: dict[str, Any]) -> None:
    """Take out of a notebook what changes with the machine, the time or the reader's JupyterLab; keep cell ids.

    >>> notebook = {"metadata": {"language_info": {"name": "python", "version": "3.11.7"}}, "cells": []}
    >>> tidy(notebook)
    >>> "version" in notebook["metadata"]["language_info"]
    False
    """
    metadata = content["metadata"]
    for name in set(metadata) - {"jupytext", "kernelspec", "tuning_fork"}:
        del metadata[name]
    metadata["language_info"] = dict(_LANGUAGE)
    metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata.get("jupytext", {}).get("text_representation", {}).pop("jupytext_version", None)
    for cell in content["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}


def pre_save(model: dict[str, Any], **_: Any) -> None:
    """Hook of JupyterLab's file manager: what is saved there is as tidy as what is made here."""
    if model["type"] == "notebook" and model.get("content", {}).get("nbformat") == 4:
        tidy(model["content"])


def committed(notebook: Path) -> Path:
    """The half of a pair that carries the outputs."""
    return notebook.with_suffix(".ipynb")


def execute_in_place(path: Path) -> None:
    """Execute a notebook and write its outputs into it, whole or not at all.

    Raises
    ------
    StageFailed
        If a cell fails or the result is too large to be committed; the file is as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_manager_class=OwnKernel,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=CRITICAL"],
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise StageFailed(f"{shown(path)}: {error.ename}: {error.evalue}") from error
    write_committed(path, notebook)


def copy_outputs(executed: Path, path: Path) -> None:
    """Give a committed notebook the outputs of a run, whole or not at all.

    Raises
    ------
    StageFailed
        If the run was of other cells, or the result is too large to be committed; the file is as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    done = [cell for cell in nbformat.read(executed, as_version=4).cells if not is_injected(cell)]
    if [cell.source for cell in done] != [cell.source for cell in notebook.cells]:
        raise StageFailed(f"{shown(executed)} has other cells than {shown(path)}: make sync, then run it again")
    code = [pair for pair in zip(notebook.cells, done, strict=True) if pair[0].cell_type == "code"]
    for count, (cell, other) in enumerate(code, start=1):
        cell.execution_count = count
        cell.outputs = [output for output in other.outputs if output.get("name") != "stderr"]  # progress bars
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if "image/png" in output.get("data", {}):
                with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as image:
                    output.data["image/png"] = base64.b64encode(with_few_colors(image)).decode()
    write_committed(path, notebook)


def is_injected(cell: nbformat.NotebookNode) -> bool:
    """Whether papermill put a cell into a notebook, to set its parameters."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def write_committed(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write an executed notebook as it is committed (`StageFailed` if it is too large)."""
    tidy(notebook)
    notebook.metadata["tuning_fork"] = {"source_hash": source_hash(notebook)}
    size = len(nbformat.writes(notebook).encode())
    if size > LARGEST_BYTES:
        raise StageFailed(f"{shown(path)} would have {size / 1000:.0f} kB, at most {LARGEST_BYTES // 1000}: show less")
    _write(path, notebook)


def _write(path: Path, notebook: nbformat.NotebookNode) -> None:
    text = f"{nbformat.writes(notebook).rstrip()}\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as file:
            file.write(text)


def main(paths: Sequence[str]) -> None:
    """Tidy notebooks in place, after jupytext has written cells into them."""
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        tidy(notebook)
        _write(path, notebook)


if __name__ == "__main__":
    main(sys.argv[1:])
