"""Imports point one way: no cycles, and the studies and the tuning server know nothing of each other.

Imports inside functions and under ``TYPE_CHECKING`` count.
"""

from __future__ import annotations

import graphlib
import re
from importlib import metadata

import grimp
import pytest

from lib.paths import ROOT

SERVER_ONLY = {"tuning_server", "torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft"}
SERVER_ONLY |= {"fastapi", "starlette", "uvicorn"}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules that each module imports."""
    graph = grimp.build_graph("lib", "tools", "tuning_server", include_external_packages=True, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def find_cycle(imports: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_no_import_cycle(imports: dict[str, set[str]]) -> None:
    assert "tuning_server.engine.training" in imports["tuning_server.trainer"]
    assert find_cycle(imports) == []
    assert find_cycle(imports | {"lib.paths": {"lib.run"}}), "a cycle would be found"


def test_lib_and_tools_import_nothing_of_the_server(imports: dict[str, set[str]]) -> None:
    studies = {module: found for module, found in imports.items() if module.split(".")[0] in ("lib", "tools")}
    assert len(studies) > 50
    assert {module: found & SERVER_ONLY for module, found in studies.items() if top(found) & SERVER_ONLY} == {}


def test_what_the_studies_import_is_declared(imports: dict[str, set[str]]) -> None:
    """What only another package needs can go with it; optional packages are not installed here."""
    declared = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.in").read_text(), flags=re.M))
    names = metadata.packages_distributions()
    found = top(set().union(*(each for module, each in imports.items() if module.split(".")[0] in ("lib", "tools"))))
    packages = {name.lower().replace("_", "-") for module in found - {"lib", "tools"} for name in names.get(module, [])}
    assert {"openai", "pyyaml"} <= packages
    assert packages - declared == set()


def test_the_server_imports_nothing_of_the_studies(imports: dict[str, set[str]]) -> None:
    server = {module: found for module, found in imports.items() if module.split(".")[0] == "tuning_server"}
    assert len(server) > 20
    assert {module: found for module, found in server.items() if top(found) & {"lib", "tools"}} == {}


def top(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.py")), ids=lambda path: path.stem)
def test_notebooks_import_nothing_of_the_server(path) -> None:
    found = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), flags=re.M))
    assert "lib" in found
    assert not found & (SERVER_ONLY | {"tools"})
