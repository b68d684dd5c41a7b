"""Requests, answers and notifications against the published schemas of network APIs (`tests/data/networks`).

check_request(request)           # what a client sent to a service of `http_service`
check_answer(request, reply)     # what it was answered
check_notification("quality-on-demand.json", content_type, body)

All raise AssertionError. Stricter than the schemas in two things: properties that no schema names are refused, as the
APIs themselves do, and `discriminator`, which plain validators do not know, is followed.

with PublishedService() as service: ...     # an HttpService of which each request and answer is checked
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from http_service import HttpService, Reply, Request
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FOLDER = Path(__file__).parent / "data" / "networks"
BASE = "https://published.invalid/"
USUAL_HEADERS = {
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "user-agent",
}
"""Any request may have them."""


@dataclass(frozen=True)
class Node:
    """A part of a file: references in it are to be read as that file's."""

    file: str
    value: Any

    def part(self, *keys: str) -> Node:
        value = self.value
        for key in keys:
            value = value[key]
        return Node(self.file, value)

    def each(self, key: str) -> list[Node]:
        """The items of a list; none if it is not there."""
        return [Node(self.file, item) for item in self.value.get(key, [])]


# Reading the files ----------------------------------------------------------------------------------------------------


def _as_json_schema(value: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where JSON Schema has a further type."""
    if isinstance(value, list):
        return [_as_json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {name: _as_json_schema(each) for name, each in value.items()}
    return {"anyOf": [changed, {"type": "null"}]} if changed.pop("nullable", False) is True else changed


@cache
def files() -> dict[str, Any]:
    return {path.name: _as_json_schema(json.loads(path.read_bytes())) for path in sorted(FOLDER.glob("*.json"))}


@cache
def registry() -> Registry[Any]:
    resources = [(BASE + name, DRAFT202012.create_resource(contents)) for name, contents in files().items()]
    return Registry().with_resources(resources)


def is_time(value: object) -> bool:
    pattern = r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
    if not isinstance(value, str):
        return True
    return re.fullmatch(pattern, value) is not None and datetime.fromisoformat(value).tzinfo is not None


def is_uri(value: object) -> bool:
    return not isinstance(value, str) or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", value) is not None


@cache
def formats() -> FormatChecker:
    checker = FormatChecker(["uuid", "ipv4", "ipv6"])
    checker.checks("date-time", raises=ValueError)(is_time)
    checker.checks("uri")(is_uri)
    return checker


def resolved(node: Node) -> Node:
    while isinstance(node.value, dict) and "$ref" in node.value:
        file, _, pointer = node.value["$ref"].partition("#")
        keys = [each.replace("~1", "/").replace("~0", "~") for each in pointer.strip("/").split("/")]
        node = Node(file or node.file, files()[file or node.file]).part(*keys)
    return node


# Values ---------------------------------------------------------------------------------------------------------------


def problems(schema: Node, value: Any) -> list[str]:
    """What is wrong with a value."""
    return _plain_problems(schema, value, "$") or list(_strict_problems([schema], value, "$"))


def _plain_problems(schema: Node, value: Any, where: str) -> list[str]:
    return [f"{where}{error.json_path[1:]}: {error.message}" for error in _validator(schema).iter_errors(value)]


def _validator(schema: Node) -> Any:
    return Draft202012Validator(
        _with_files_named(schema.file, schema.value), registry=registry(), format_checker=formats()
    )


def _with_files_named(file: str, value: Any) -> Any:
    """The same with references that can be read from anywhere."""
    if isinstance(value, list):
        return [_with_files_named(file, each) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(reference := value.get("$ref"), str):
        name, _, pointer = reference.partition("#")
        return {"$ref": f"{BASE}{name or file}#{pointer}"}
    return {name: _with_files_named(file, each) for name, each in value.items()}


def _applying(schema: Node, value: Any, seen: list[Node]) -> Iterator[Node]:
    """The schemas that together say what a value is."""
    node = resolved(schema)
    if node in seen:
        return
    seen.append(node)
    yield node
    chosen = [each for each in [*node.each("oneOf"), *node.each("anyOf")] if _validator(each).is_valid(value)]
    for each in [*node.each("allOf"), *chosen, *_concrete(node, value)]:
        yield from _applying(each, value, seen)


def _concrete(node: Node, value: Any) -> list[Node]:
    """The schema that the discriminator names."""
    told = node.value.get("discriminator")
    if told is None or not isinstance(value, dict):
        return []
    reference = told["mapping"].get(value.get(told["propertyName"]))
    return [] if reference is None else [Node(node.file, {"$ref": reference})]


def _strict_problems(schemas: Sequence[Node], value: Any, where: str) -> Iterator[str]:
    """What no plain validator finds: names that no schema has, and what the concrete schema asks for."""
    seen: list[Node] = []
    applying = [each for schema in schemas for each in _applying(schema, value, seen)]
    for each in applying:
        for concrete in _concrete(each, value):
            yield from _plain_problems(concrete, value, where)
    if isinstance(value, list):
        items = [each.part("items") for each in applying if "items" in each.value]
        for number, item in enumerate(value):
            yield from _strict_problems(items, item, f"{where}[{number}]")
    for name, item in value.items() if isinstance(value, dict) else ():
        named = [each.part("properties", name) for each in applying if name in each.value.get("properties", {})]
        further = [each.part("additionalProperties") for each in applying if "additionalProperties" in each.value]
        if not named and not further:
            yield f"{where}.{name}: no schema has this property"
        together = named or [each for each in further if isinstance(each.value, dict)]
        yield from _strict_problems(together, item, f"{where}.{name}")


# Operations -----------------------------------------------------------------------------------------------------------


@cache
def servers() -> dict[str, str]:
    """Files by where their API is."""
    told = {name: contents["servers"][0]["url"] for name, contents in files().items() if "servers" in contents}
    return {url.removeprefix("{apiRoot}"): name for name, url in told.items()}


@dataclass(frozen=True)
class Operation:
    """What a request is, and what it gives for the parameters of its path."""

    node: Node
    parameters: list[Node]
    in_path: Mapping[str, str]


def operation_of(method: str, path: str) -> Operation:
    """AssertionError if no API has it."""
    prefix = next((each for each in servers() if path.startswith(f"{each}/")), None)
    assert prefix is not None, f"no API has {path}; known: {', '.join(sorted(servers()))}"
    file = servers()[prefix]
    for template, item in files()[file]["paths"].items():
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
        match = re.fullmatch(pattern, path.removeprefix(prefix))
        if match is None:
            continue
        assert method.lower() in item, f"{path}: no {method}"
        node = Node(file, item).part(method.lower())
        parameters = [resolved(each) for each in [*Node(file, item).each("parameters"), *node.each("parameters")]]
        return Operation(node, parameters, {name: unquote(text) for name, text in match.groupdict().items()})
    raise AssertionError(f"{file} has no path {path}")


def check_request(request: Request) -> None:
    """That a request is as its API has it: path, query, headers and body."""
    operation = operation_of(request.method, request.path)
    where = f"{request.method} {request.path}"
    given: dict[str, Mapping[str, str]] = {
        "path": operation.in_path,
        "query": {name: texts[0] for name, texts in request.query.items()},
        "header": {name: text for name, text in request.headers.items() if name not in USUAL_HEADERS},
    }
    known: dict[str, set[str]] = {place: set() for place in given}
    for parameter in operation.parameters:
        name, place = parameter.value["name"], parameter.value["in"]
        known[place].add(name)
        _check_text(parameter, given[place].get(name), f"{where}: {place} {name}")
    for place, texts in given.items():
        assert set(texts) <= known[place], f"{where}: unknown in {place}: {set(texts) - known[place]}"
    assert all(len(texts) == 1 for texts in request.query.values()), f"{where}: twice in the query: {request.query}"
    _check_body(operation.node, "requestBody", request.headers.get("content-type"), request.body, where)


def _check_text(parameter: Node, text: str | None, where: str) -> None:
    """A part of a path or query, or a header."""
    if text is None:
        assert not parameter.value.get("required"), f"{where}: is missing"
        return
    if "content" in parameter.value:
        schema, value = parameter.part("content", "application/json", "schema"), json.loads(text)
    else:
        schema = parameter.part("schema")
        value = int(text) if resolved(schema).value.get("type") == "integer" else text
    wrong = problems(schema, value)
    assert not wrong, f"{where}: {wrong}; got {text}"


def _check_body(owner: Node, key: str, content_type: str | None, body: bytes, where: str) -> None:
    contents = owner.value.get(key, {}).get("content", {})
    if not contents:
        assert not body, f"{where}: a body where none belongs: {body[:200]!r}"
        return
    media = (content_type or "").partition(";")[0].strip()
    assert media in contents, f"{where}: Content-Type '{content_type}'; known: {', '.join(contents)}"
    wrong = problems(owner.part(key, "content", media, "schema"), json.loads(body))
    assert not wrong, f"{where}: {wrong}; got {body.decode()[:1000]}"


def check_answer(request: Request, reply: Reply) -> None:
    """That an answer is as the API has it: status, headers and body."""
    responses = operation_of(request.method, request.path).node.part("responses")
    where = f"{request.method} {request.path}: {reply.status}"
    assert str(reply.status) in responses.value, f"{where} is no answer of it; known: {', '.join(responses.value)}"
    told = resolved(responses.part(str(reply.status)))
    headers = {each.lower(): text for each, text in reply.headers.items()}
    for name in told.value.get("headers", {}):
        _check_text(resolved(told.part("headers", name)), headers.get(name.lower()), f"{where}: header {name}")
    _check_body(Node(told.file, {"answer": told.value}), "answer", headers.get("content-type"), reply.body, where)


def check_notification(file: str, content_type: str, body: bytes) -> None:
    """That a notification is as the API of this file has it."""
    [operation] = [
        callback
        for item in files()[file]["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
        for callbacks in operation.get("callbacks", {}).values()
        for urls in callbacks.values()
        for callback in urls.values()
    ]
    _check_body(Node(file, operation), "requestBody", content_type, body, f"a notification of {file}")


# A service that is held to it -----------------------------------------------------------------------------------------


class PublishedService(HttpService):
    """A scripted service. At its end the test fails if a request was not as its API has it, or an answer that the test
    gave."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []

    def reply_to(self, request: Request) -> Reply:
        reply = super().reply_to(request)
        try:
            check_request(request)
            check_answer(request, reply)
        except (AssertionError, ValueError) as error:
            self.complaints.append(str(error))
        return reply

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        assert not self.complaints, self.complaints
