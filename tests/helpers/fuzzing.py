"""Requests made at random out of an OpenAPI description: mostly what it allows, and now and then anything at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

BOUNDARY = "fuzzed"
ODD_TEXTS = [
    "", " ", "\0", "null", "../../etc/passwd", "..%2f..", "\ud800", "𝔘🙂" * 9, "a" * 5000, "ftjob-", "%00",
    "'; DROP TABLE", "__proto__", "hf:../x", "fork-tiny@" + "0" * 12, "ft:fork-tiny::aaaaaaaa", "\r\nX: y", "é\u0301",
]  # fmt: skip
ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 10**400, -(2**63), 2**64, 1e308, -0.0, float("nan"), float("inf"), [], {}, [[]],
     [None], [[[[[[]]]]]], {"": {}}, *ODD_TEXTS]
)  # fmt: skip
TEXT = st.text(max_size=20) | st.sampled_from(ODD_TEXTS)
NUMBER_LISTS = st.lists(st.integers(-2, 300), max_size=12)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "user", "tool"]), "content": TEXT | ODD},
    optional={"name": TEXT, "weight": ODD},
)
# What the description cannot say, or says so widely that a request would be refused or take an hour.
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "prompt": TEXT | st.lists(TEXT, max_size=4) | NUMBER_LISTS | st.lists(NUMBER_LISTS, max_size=4),
    "input": TEXT | st.lists(TEXT, max_size=4) | NUMBER_LISTS,
    "messages": st.lists(MESSAGE, max_size=4),
    "n_epochs": st.sampled_from([1, 2, 1, 3, 0, 1001]),
    "n": st.sampled_from([1, 2, 5, 0, 64]),
    "max_tokens": st.integers(0, 16),
    "max_completion_tokens": st.integers(1, 16) | st.none(),
    "logprobs": st.sampled_from([None, 0, 1, 5, 300, True, False]),
    "contexts": st.lists(NUMBER_LISTS, max_size=3),
    "targets": NUMBER_LISTS,
    "documents": st.lists(NUMBER_LISTS, max_size=3),
    "window_tokens": st.integers(1, 20) | st.none(),
    "stride_tokens": st.integers(1, 20) | st.none(),
    "integrations": st.none(),
    "best_of": st.none(),
    "suffix": st.sampled_from([None, "", "a b/c"]),
    "dimensions": st.none(),
    "logit_bias": st.dictionaries(st.integers(0, 300).map(str), st.integers(-100, 100), max_size=3) | st.none(),
    "stop": TEXT.filter(bool) | st.none(),
    "training_file": st.just("<file>"),
    "validation_file": st.sampled_from([None, "<file>"]),
    "after": st.sampled_from(["<file>", "<job>", *ODD_TEXTS]),
    "file_id": st.just("<file>"),
    "job_id": st.just("<job>"),
}

PLACES = st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=12), min_size=1, max_size=3)
# Bodies whose fields have to go together.
BODIES: dict[str, list[st.SearchStrategy[Any]]] = {
    "ScoresRequest": [
        PLACES.map(lambda places: {"contexts": places, "targets": [ids[0] for ids in places], "top_k": len(places)}),
        st.builds(dict, documents=PLACES, window_tokens=st.integers(4, 9), stride_tokens=st.integers(1, 4)),
    ]
}


@dataclass(frozen=True)
class Fuzzed:
    """One request; ``<file>``, ``<job>`` and ``<model>`` stand for ids that are known when it is sent."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"


def mostly(usual: st.SearchStrategy, odd: st.SearchStrategy, times: int) -> st.SearchStrategy:
    """So many times as often the one as the other; `one_of` counts what it is given twice once."""
    return st.sampled_from([usual] * times + [odd]).flatmap(lambda chosen: chosen)


def values(schema: dict[str, Any], parts: dict[str, Any], models: Sequence[str], name: str = "") -> st.SearchStrategy:
    """What a schema allows, known names in their places, and now and then something else."""
    if "$ref" in schema:
        return values(parts[schema["$ref"].rpartition("/")[2]], parts, models, name)
    if name in ("model", "tuned", "base", "model_id"):
        good: st.SearchStrategy[Any] = st.sampled_from([*models, *models, "<model>"])
    elif name in KNOWN:
        good = KNOWN[name]
    elif "enum" in schema or "const" in schema:
        good = st.sampled_from(schema.get("enum") or [schema["const"]])
    elif "anyOf" in schema:
        good = st.one_of([values(branch, parts, models) for branch in schema["anyOf"]])
    else:
        good = _typed(schema, parts, models)
    return mostly(good, ODD, 40)


def _typed(schema: dict[str, Any], parts: dict[str, Any], models: Sequence[str]) -> st.SearchStrategy:
    kind = schema.get("type")
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", -3))
        most = min(schema.get("maximum", least + 40), least + 4000)
        whole = st.integers(int(least), int(most))
        return whole if kind == "integer" else whole | st.floats(least, most)
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    if kind == "string":
        return TEXT
    if kind == "array":
        return st.lists(values(schema.get("items", {}), parts, models), max_size=4)
    if kind == "object" and "properties" in schema:
        fields = {name: values(field, parts, models, name) for name, field in schema["properties"].items()}
        needed = set(schema.get("required", ()))
        right = st.fixed_dictionaries(
            {name: field for name, field in fields.items() if name in needed},
            optional={name: field for name, field in fields.items() if name not in needed},
        )
        unknown = st.fixed_dictionaries({}, optional={**fields, "top_k": ODD, "__class__": ODD})
        return mostly(right, unknown, 20)
    if kind == "object":
        return st.dictionaries(TEXT, values(schema.get("additionalProperties") or {}, parts, models), max_size=3)
    return ODD


def requests(spec: dict[str, Any], models: Sequence[str], rows: Sequence[bytes]) -> st.SearchStrategy[Fuzzed]:
    """Requests to every route of a description, uploads of `rows` and requests to no route at all."""
    parts, ways = spec["components"]["schemas"], [_uploads(rows), _strays()]
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            ways.append(_of_route(method.upper(), path, operation, parts, models))
            if "requestBody" in operation:
                ways += 3 * [ways[-1]]  # what has a body has more to get wrong
    return st.sampled_from(ways).flatmap(lambda way: way)


def _of_route(
    method: str, path: str, operation: dict[str, Any], parts: dict[str, Any], models: Sequence[str]
) -> st.SearchStrategy[Fuzzed]:
    asked = operation.get("parameters", [])
    inside, query = (
        {p["name"]: values(p["schema"], parts, models, p["name"]) for p in asked if p["in"] == place}
        for place in ("path", "query")
    )
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    body = st.none() if schema is None else values(schema, parts, models)
    for whole in BODIES.get(schema["$ref"].rpartition("/")[2], []) if schema else []:
        model = st.sampled_from(models)
        body |= st.builds(lambda given, model: given | {"model": model}, whole, model)

    def put(inside: dict[str, Any], query: dict[str, Any], body: Any, raw: bytes | None) -> Fuzzed:
        filled = path
        for name, value in inside.items():
            filled = filled.replace("{" + name + "}", _quoted(value))
        filled += "?" + urlencode(query, errors="surrogatepass") if query else ""
        return Fuzzed(method, filled, json.dumps(body).encode() if raw is None and schema else raw or b"")

    extra = st.fixed_dictionaries({}, optional={**query, "limit": ODD, "metadata[k]": TEXT, "metadata": TEXT})
    queries = mostly(st.fixed_dictionaries({}, optional=query), extra, 4)
    junk = st.sampled_from(
        [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'"a"', b'{"model": 1' + b"0" * 9999 + b"}"]
    )
    raw = mostly(st.none(), junk | st.binary(max_size=50), 30)
    return st.builds(put, st.fixed_dictionaries(inside), queries, body, raw)


def _quoted(value: Any) -> str:
    return value if value in ("<file>", "<job>", "<model>") else quote(str(value), safe=":", errors="surrogatepass")


def _strays() -> st.SearchStrategy[Fuzzed]:
    methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
    paths = st.sampled_from(["/", "/v1", "/v1/", "//", "/openapi.json", "/v1/files/", "/v1/models/", "/v1/fine_tunes"])
    return st.builds(Fuzzed, methods, paths | TEXT.map(lambda text: "/" + _quoted(text)), st.binary(max_size=20))


def _uploads(rows: Sequence[bytes]) -> st.SearchStrategy[Fuzzed]:
    """Forms with a file: rows that can be trained on, or bytes; names and purposes of all kinds."""

    def put(content: bytes, name: str, purpose: str, end: bytes) -> Fuzzed:
        given = quote(name, safe=" ./\\:", errors="surrogatepass")
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
        body = f'{head}purpose"\r\n\r\n{purpose}\r\n{head}file"; filename="{given}"\r\n\r\n'.encode("utf-8", "replace")
        return Fuzzed("POST", "/v1/files", body + content + end, f"multipart/form-data; boundary={BOUNDARY}")

    bytes_of_any_kind = st.binary(max_size=60) | TEXT.map(lambda text: text.encode("utf-8", "replace"))
    contents = mostly(st.sampled_from(list(rows)), bytes_of_any_kind, 4)
    purposes = mostly(st.just("fine-tune"), st.just("assistants") | TEXT, 9)
    ends = st.sampled_from([f"\r\n--{BOUNDARY}--\r\n".encode()] * 9 + [b"", b"\r\n--fuzzed"])
    return st.builds(put, contents, TEXT, purposes, ends)
