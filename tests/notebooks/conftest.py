"""For nbval: a server of the tests' own store starts before the first notebook and stops after the last."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


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


def pytest_configure(config: pytest.Config) -> None:
    path = getattr(config.option, "sanitize_with", None)
    if not path:
        return
    rules = configparser.ConfigParser()
    rules.read(path)
    empty = [name for name in rules.sections() if not rules[name].get("replace", "").strip()]
    if empty or not rules.sections():
        raise pytest.UsageError(f"{path}: nbval drops a rule without replacement: {', '.join(empty) or 'no rules'}")
