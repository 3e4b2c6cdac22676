"""Does docs/api.md say what the server does: its routes, its fields, what the client can send, its codes?"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from openai import OpenAI
from starlette.routing import BaseRoute, Route

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^## `(.+)`\n\n(?:Client: (.+)\n\n)?((?:\|.*\n)+)", re.MULTILINE)
NAMES = re.compile(r"`(\w+)`")
STATUSES = {"supported", "differs", "refused", "extension", ""}
# Read out of the request by hand, so that no schema has them.
BY_HAND = {"POST /v1/files": {"file", "purpose"}, "GET /v1/fine_tuning/jobs": {"after", "limit", "metadata"}}
OF_JOBS = {"invalid_training_file", "invalid_validation_file", "training_interrupted"}


class Section(NamedTuple):
    """One table: the client's method for it (of an endpoint), and where each field stands."""

    method: str
    fields: dict[str, str]
    codes: set[str]


def read_section(method: str, table: str) -> Section:
    rows = [[cell.strip() for cell in line.strip("|\n").split("|", 2)] for line in table.splitlines()]
    assert rows[:2] == [["field", "here", "how"], ["---", "---", "---"]]
    fields = {name: here for first, here, _ in rows[2:] for name in NAMES.findall(first)}
    assert set(fields.values()) <= STATUSES
    codes = {code for first, _, how in rows[2:] if first == "errors" for code in NAMES.findall(how)} - {"error"}
    return Section(method.strip("`"), fields, codes)


SECTIONS = {name: read_section(method, table) for name, method, table in HEADING.findall(PAGE)}
ENDPOINTS = {name: section for name, section in SECTIONS.items() if " /" in name}


def routes(of: Any) -> Iterator[Route]:
    """Every route of an app, those of its parts included."""
    for route in of.routes:
        yield from routes(inner) if (inner := getattr(route, "original_router", None)) else [checked(route)]


def checked(route: BaseRoute) -> Route:
    assert isinstance(route, Route), f"{route} is neither an endpoint nor a part of the app"
    return route


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The app, not started."""
    from tuning_server.app import make_app
    from tuning_server.types import Settings

    return make_app(Settings(store=tmp_path_factory.mktemp("table")))


@pytest.fixture(scope="module")
def schema(app: FastAPI) -> Any:
    return app.openapi()


def test_each_endpoint_has_its_table_and_nothing_else_does(app: FastAPI) -> None:
    reported = {
        f"{method} {route.path.replace(':path}', '}')}"
        for route in routes(app)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert len(reported) >= 19
    assert set(ENDPOINTS) == reported


def parts(name: str, schema: Any) -> tuple[set[str], set[str]]:
    """Fields of an endpoint's request, and the objects that it is made of."""
    method, path = name.lower().split(" ", 1)
    known = {place: methods for place, methods in schema["paths"].items() if place.lower() == path}
    reported = next(iter(known.values()))[method] if known else {}
    fields = {field["name"] for field in reported.get("parameters", []) if field["in"] == "query"}
    body = reported.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    objects = references(body)
    for model in objects:
        fields |= set(schema["components"]["schemas"][model]["properties"])
    return BY_HAND.get(name, fields), objects


def references(schema: Any) -> set[str]:
    """Objects that a piece of a schema names."""
    return set(re.findall(r"#/components/schemas/([\w-]+)", str(schema)))


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_fields_are_those_of_the_server_and_of_the_client(name: str, schema: Any) -> None:
    section = ENDPOINTS[name]
    ours, _ = parts(name, schema)
    theirs: set[str] = set()
    if not section.method.startswith("none"):
        act = operator.attrgetter(section.method)(OpenAI(api_key="any"))
        given = list(inspect.signature(act).parameters)[name.count("{") :]  # but for the id in the path
        theirs = {field for field in given if not field.startswith("extra_") and field != "timeout"}
    assert set(section.fields) == ours | theirs
    refused = {field for field, here in section.fields.items() if here == "refused"}
    assert theirs - ours <= refused, "the client can send it, the server does not know it"
    extensions = {field for field, here in section.fields.items() if here == "extension"}
    assert extensions == ours - theirs


def test_objects_inside_requests_have_their_tables(schema: Any) -> None:
    schemas, inside = schema["components"]["schemas"], set[str]()
    waiting = {model for name in ENDPOINTS for model in parts(name, schema)[1]}
    while waiting:
        found = references(schemas[waiting.pop()]["properties"]) - inside
        inside |= found
        waiting |= found
    short = {model.removesuffix("-Input"): model for model in inside}  # a reply has one of the same name
    assert set(short) == set(SECTIONS) - set(ENDPOINTS)
    for name, model in short.items():
        fields = SECTIONS[name].fields
        known = set(schemas[model]["properties"])
        assert known <= set(fields), name
        assert {fields[field] for field in set(fields) - known} <= {"refused"}, name


def test_every_code_is_documented() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tuning_server").rglob("*.py"))
    made = set(re.findall(r'\bcode"?(?:: | ?= ?)"(\w+)"', sources)) | OF_JOBS
    table = PAGE.split("| code | status | when |")[1].split("\n\n")[0]
    reported = {code for line in table.splitlines()[2:] for code in NAMES.findall(line.split("|")[1])}
    assert reported == made
    for name, section in ENDPOINTS.items():
        assert section.codes <= reported, name
