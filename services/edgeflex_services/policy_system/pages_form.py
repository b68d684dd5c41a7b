"""Forms made from the JSON Schema of a kind of policy, and documents made from what was typed in them. Pure.

What is typed stays as it was typed: a form is drawn from texts by field, whether they make a document or not. Fields
are named as the places in a document, with dots: `rules.0.when.since`. Rows of names and values are
`fields.0.name` and `fields.0.value`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from edgeflex_services.policy_system.pages_words import label_of

Raw: TypeAlias = dict[str, list[str]]
Schema: TypeAlias = Mapping[str, Any]
Problems: TypeAlias = Sequence[tuple[str, str]]

LONG_TEXT = 1000
TAGS = ("kind", "do")
"""What tells one structure from another; never typed."""
_MOMENT = re.compile(r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?\s*(Z|[+-]\d\d:\d\d)$")
_STEP = re.compile(r"\.[^.\[\]]+$|\[[^\[\]]*\]$")
_MISSING = object()
TIME = r"^([01][0-9]"


class Node(NamedTuple):
    """A part of a form."""

    widget: str
    """text, area, lines, select, checks, check; group, rows, items, choice."""
    name: str
    label: str
    hint: str = ""
    required: bool = False
    values: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()
    placeholder: str = ""
    tag: str = ""
    error: str = ""

    @property
    def id(self) -> str:
        return f"f-{self.name.replace('.', '-')}"

    @property
    def value(self) -> str:
        return self.values[-1] if self.values else ""

    @property
    def has_content(self) -> bool:
        """Whether anything was typed in it or within it, or something is wrong there."""
        own = self.widget != "choice" and any(self.values)
        return own or bool(self.error) or any(child.has_content for child in self.children)


class FormSchema:
    """A form for the documents of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._parts: Schema = schema.get("$defs", {})
        self._top = self._plain(schema)[0]

    # The schema -----------------------------------------------------------------------------------------------------

    def _plain(self, schema: Schema) -> tuple[Schema, bool]:
        """A schema without references and without null, and whether null is allowed."""
        told = {key: schema[key] for key in ("description", "default", "examples") if key in schema}
        while "$ref" in schema:
            schema = self._parts[schema["$ref"].rpartition("/")[2]]
        options = schema.get("anyOf")
        if options is None:
            return {**schema, **told}, False
        some = [each for each in options if each.get("type") != "null"]
        may_be_null = len(some) < len(options)
        if len(some) == 1:
            inner, _ = self._plain(some[0])
            return {**inner, **told}, may_be_null
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**rest, "anyOf": some, **told}, may_be_null

    @staticmethod
    def _widget(schema: Schema) -> str:
        if "discriminator" in schema:
            return "choice"
        if "enum" in schema:
            return "select"
        kind = schema.get("type")
        if kind == "object":
            return "group" if "properties" in schema else "rows"
        if kind == "array":
            return "list"
        if kind == "boolean":
            return "check"
        return "area" if schema.get("maxLength", 0) >= LONG_TEXT else "text"

    def _list_widget(self, items: Schema) -> str:
        inner = self._widget(items)
        return {"select": "checks", "group": "items"}.get(inner, "lines")

    def _look(self, schema: Schema) -> tuple[str, Schema]:
        plain, _ = self._plain(schema)
        widget = self._widget(plain)
        return (self._list_widget(self._plain(plain["items"])[0]), plain) if widget == "list" else (widget, plain)

    # A document as texts --------------------------------------------------------------------------------------------

    def texts(self, document: Mapping[str, Any]) -> Raw:
        """What a form holds that shows a document."""
        raw: Raw = {}
        self._write(raw, "", self._top, document)
        return raw

    def _write(self, raw: Raw, name: str, schema: Schema, value: Any) -> None:  # noqa: PLR0912 - one case a widget
        widget, plain = self._look(schema)
        match widget:
            case "group":
                for key, inner in plain["properties"].items():
                    if key not in TAGS and isinstance(value, Mapping) and key in value:
                        self._write(raw, _join(name, key), inner, value[key])
            case "rows" if isinstance(value, Mapping):
                for at, (key, each) in enumerate(value.items()):
                    raw[f"{name}.{at}.name"] = [key]
                    raw[f"{name}.{at}.value"] = [_text(each)]
            case "items" if isinstance(value, Sequence):
                for at, each in enumerate(value):
                    raw[f"{name}.{at}.at"] = [str(at)]
                    self._write(raw, f"{name}.{at}", plain["items"], each)
            case "choice" if isinstance(value, Mapping):
                tag = plain["discriminator"]["propertyName"]
                chosen = str(value.get(tag, ""))
                raw[f"{name}.{tag}"] = [chosen]
                if chosen in plain["discriminator"]["mapping"]:
                    self._write(raw, f"{name}.{chosen}", self._variant(plain, chosen), value)
            case "lines" if isinstance(value, Sequence) and not isinstance(value, str):
                raw[name] = ["\n".join(_text(each) for each in value)]
            case "checks" if isinstance(value, Sequence):
                raw[name] = [str(each) for each in value]
            case "check":
                raw[name] = ["on"] if value else []
            case _:
                raw[name] = [_text(value)]

    @staticmethod
    def _variant(plain: Schema, tag: str) -> Schema:
        return {"$ref": plain["discriminator"]["mapping"][tag]}

    # Texts as a form ------------------------------------------------------------------------------------------------

    def nodes(self, raw: Raw, errors: Mapping[str, str]) -> tuple[Node, ...]:
        """The form with what was typed, and with what is wrong by field."""
        children = self._node("", "", self._top, raw, errors, required=True).children
        # Rules are long: what is short stands above them.
        return tuple(sorted(children, key=lambda node: node.widget == "items"))

    def _node(  # noqa: PLR0911 - one answer a widget
        self, name: str, label: str, schema: Schema, raw: Raw, errors: Mapping[str, str], *, required: bool
    ) -> Node:
        widget, plain = self._look(schema)
        node = Node(
            widget,
            name,
            label,
            plain.get("description", "").replace("`", ""),
            required,
            tuple(raw.get(name, ())),
            placeholder=_placeholder(plain),
            error=errors.get(name, ""),
        )
        match widget:
            case "group":
                needed = plain.get("required", ())
                children = (
                    self._node(_join(name, key), label_of(key), inner, raw, errors, required=key in needed)
                    for key, inner in plain["properties"].items()
                    if key not in TAGS
                )
                return node._replace(children=tuple(children))
            case "rows":
                return node._replace(children=tuple(self._row(name, at, raw, errors) for at in indices(raw, name)))
            case "items":
                one = label_of(name.rpartition(".")[2]).removesuffix("s")
                children = (
                    self._node(f"{name}.{at}", f"{one} {number}", plain["items"], raw, errors, required=True)
                    for number, at in enumerate(indices(raw, name), 1)
                )
                return node._replace(children=tuple(children))
            case "choice":
                return self._choice(node, plain, raw, errors)
            case "checks":
                return node._replace(options=tuple(self._plain(plain["items"])[0]["enum"]))
            case "select":
                return node._replace(options=tuple(plain["enum"]))
            case _:
                return node

    @staticmethod
    def _row(name: str, at: int, raw: Raw, errors: Mapping[str, str]) -> Node:
        cells = tuple(
            Node(
                "text",
                f"{name}.{at}.{part}",
                label_of(part),
                required=True,
                values=tuple(raw.get(f"{name}.{at}.{part}", ())),
                error=errors.get(f"{name}.{at}.{part}", ""),
            )
            for part in ("name", "value")
        )
        return Node("row", f"{name}.{at}", "", children=cells)

    def _choice(self, node: Node, plain: Schema, raw: Raw, errors: Mapping[str, str]) -> Node:
        tag = plain["discriminator"]["propertyName"]
        mapping = plain["discriminator"]["mapping"]
        variants = (
            self._node(
                f"{node.name}.{option}", label_of(option), self._variant(plain, option), raw, errors, required=False
            )._replace(tag=option)
            for option in mapping
        )
        name = f"{node.name}.{tag}"
        return node._replace(
            name=name,
            values=tuple(raw.get(name, ())),
            error=errors.get(name, node.error),
            options=tuple(mapping),
            children=tuple(variants),
        )

    # Texts as a document --------------------------------------------------------------------------------------------

    def read(self, raw: Raw) -> Reading:
        """What was typed as a document, and what in it no document can be."""
        reading = Reading({}, {}, [])
        value = self._read(reading, raw, "", "", self._top, required=True)
        tags = {key: inner["enum"][0] for key, inner in self._top["properties"].items() if key in TAGS}
        reading.document.update({**tags, **(value if isinstance(value, Mapping) else {})})
        return reading

    def _read(  # noqa: PLR0911 - one answer a widget
        self, reading: Reading, raw: Raw, name: str, place: str, schema: Schema, *, required: bool
    ) -> Any:
        widget, plain = self._look(schema)
        reading.fields[place] = name
        match widget:
            case "group":
                return self._read_group(reading, raw, name, place, plain)
            case "rows":
                return _given(self._read_rows(reading, raw, name, place, plain), required)
            case "items":
                found = [
                    self._read(reading, raw, f"{name}.{at}", f"{place}[{number}]", plain["items"], required=True)
                    for number, at in enumerate(indices(raw, name))
                ]
                return _given(found, required)
            case "choice":
                return self._read_choice(reading, raw, name, place, plain)
            case "lines":
                return _given(self._read_lines(reading, raw, name, place, plain), required)
            case "checks":
                known = self._plain(plain["items"])[0]["enum"]
                return _given([each for each in raw.get(name, ()) if each in known], required)
            case "check":
                return True if raw.get(name) else _MISSING
            case _:
                return self._read_text(reading, name, _last(raw, name), plain, required=required)

    def _read_group(self, reading: Reading, raw: Raw, name: str, place: str, plain: Schema) -> dict[str, Any]:
        needed = plain.get("required", ())
        found: dict[str, Any] = {}
        for key, inner in plain["properties"].items():
            if key in TAGS:
                continue
            value = self._read(
                reading,
                raw,
                _join(name, key),
                _join(place, key),
                inner,
                required=key in needed,
            )
            # A structure in which nothing was typed stands for its defaults, unless it must be there.
            if value is not _MISSING and not (value == {} and key not in needed):
                found[key] = value
        return found

    def _read_rows(self, reading: Reading, raw: Raw, name: str, place: str, plain: Schema) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for at in indices(raw, name):
            key, text = _last(raw, f"{name}.{at}.name"), _last(raw, f"{name}.{at}.value")
            if not key and not text:
                continue
            self._read_text(reading, f"{name}.{at}.name", key, plain.get("propertyNames", {}), required=True)
            if key in found:
                reading.problems.append((f"{name}.{at}.name", f"'{key}' stands above already"))
            value = self._read_text(
                reading, f"{name}.{at}.value", text, self._plain(plain["additionalProperties"])[0], required=True
            )
            reading.fields[f"{place}.{key}"] = f"{name}.{at}.value"
            found[key] = "" if value is _MISSING else value
        most = plain.get("maxProperties")
        if most is not None and len(found) > most:
            reading.problems.append((name, f"at most {most}; got {len(found)}"))
        return found

    def _read_choice(self, reading: Reading, raw: Raw, name: str, place: str, plain: Schema) -> Any:
        tag = plain["discriminator"]["propertyName"]
        chosen = _last(raw, f"{name}.{tag}")
        reading.fields[place] = f"{name}.{tag}"
        if chosen not in plain["discriminator"]["mapping"]:
            return _MISSING
        found = self._read_group(reading, raw, f"{name}.{chosen}", place, self._plain(self._variant(plain, chosen))[0])
        return {tag: chosen, **found}

    def _read_lines(self, reading: Reading, raw: Raw, name: str, place: str, plain: Schema) -> list[Any]:
        lines = [line.strip() for line in _last(raw, name).splitlines()]
        items = self._plain(plain["items"])[0]
        found = [self._read_text(reading, name, line, items, required=True) for line in lines if line]
        reading.fields.update({f"{place}[{at}]": name for at in range(len(found))})
        most = plain.get("maxItems")
        if most is not None and len(found) > most:
            reading.problems.append((name, f"at most {most} lines; got {len(found)}"))
        return found

    def _read_text(self, reading: Reading, name: str, text: str, plain: Schema, *, required: bool) -> Any:
        if not text:
            if required:
                reading.problems.append((name, "is missing"))
            return _MISSING
        options = plain.get("anyOf", [plain])
        if any(option.get("type") == "number" for option in options):
            number = _number(text)
            if number is not None:
                return number
            options = [option for option in options if option.get("type") != "number"]
            if not options:
                reading.problems.append((name, f"'{text}' is no number"))
                return text
        value, wrong = _checked(text, options[0])
        if wrong:
            reading.problems.append((name, wrong))
        return value


class Reading(NamedTuple):
    """A document as far as what was typed makes one."""

    document: dict[str, Any]
    fields: dict[str, str]
    """The field for each place in the document."""
    problems: list[tuple[str, str]]
    """Fields and what is wrong there."""

    def field_of(self, place: str) -> str:
        """The field in which a place was typed, or the nearest that holds it."""
        while place and place not in self.fields:
            shorter = _STEP.sub("", place)
            place = shorter if shorter != place else ""
        return self.fields.get(place, "")


def _checked(text: str, plain: Schema) -> tuple[str, str]:  # noqa: PLR0911 - one answer a keyword
    """A text as a schema has it, and what is wrong with it."""
    if "enum" in plain:
        return text, "" if text in plain["enum"] else f"one of {', '.join(plain['enum'])}; got '{text}'"
    if plain.get("format") == "date-time":
        match = _MOMENT.match(text)
        if match is None:
            return text, f"a moment with its offset, such as 2026-03-01T06:00+01:00; got '{text}'"
        return f"{match[1]}T{match[2]}{match[3] or ':00'}{match[4]}", ""
    longest, pattern = plain.get("maxLength"), plain.get("pattern")
    if longest is not None and len(text) > longest:
        return text, f"at most {longest} characters; got {len(text)}"
    if pattern is not None and re.search(pattern, text) is None:
        if pattern.startswith(TIME):
            return text, f"a time of day, such as 06:00; got '{text}'"
        return text, f"begins with a letter or digit, then letters, digits, _ . - (64 at most); got '{text}'"
    return text, ""


def _placeholder(plain: Schema) -> str:
    if plain.get("format") == "date-time":
        return "2026-03-01T06:00+01:00"
    if str(plain.get("pattern", "")).startswith(TIME):
        return "06:00"
    default = plain.get("examples", [plain.get("default")])[0]
    return default if isinstance(default, str) else ""


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _given(found: Any, required: bool) -> Any:
    return found if found or required else _MISSING


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _last(raw: Raw, name: str) -> str:
    return raw.get(name, [""])[-1].strip()


# Rows that come, go and move ----------------------------------------------------------------------------------------


def indices(raw: Iterable[str], name: str) -> list[int]:
    """Which rows or items of a list there are."""
    start = f"{name}."
    found = {key[len(start) :].partition(".")[0] for key in raw if key.startswith(start)}
    return sorted(int(text) for text in found if text.isascii() and text.isdigit() and len(text) < 6)


def added(raw: Raw, name: str, *, is_rows: bool) -> Raw:
    """The same with an empty row or item at the end."""
    at = max(indices(raw, name), default=-1) + 1
    empty = {f"{name}.{at}.name": [""], f"{name}.{at}.value": [""]} if is_rows else {f"{name}.{at}.at": [str(at)]}
    return {**raw, **empty}


def removed(raw: Raw, item: str) -> Raw:
    """The same without a row or item, such as `rules.2`."""
    return {name: values for name, values in raw.items() if not name.startswith(f"{item}.")}


def moved_up(raw: Raw, item: str) -> Raw:
    """The same with an item before the one that stood before it."""
    name, _, text = item.rpartition(".")
    every = indices(raw, name)
    at = int(text) if text.isdigit() else -1
    if at not in every[1:]:
        return raw
    other = every[every.index(at) - 1]
    return dict(_swapped(raw, f"{name}.{at}.", f"{name}.{other}."))


def _swapped(raw: Raw, one: str, other: str) -> Iterator[tuple[str, list[str]]]:
    for name, values in raw.items():
        if name.startswith(one):
            yield other + name[len(one) :], values
        elif name.startswith(other):
            yield one + name[len(other) :], values
        else:
            yield name, values


def is_rows(nodes: Iterable[Node], name: str) -> bool | None:
    """Whether the list of that name holds rows of names and values, or items; None: there is no such list."""
    for node in nodes:
        if node.name == name and node.widget in ("rows", "items"):
            return node.widget == "rows"
        found = is_rows(node.children, name)
        if found is not None:
            return found
    return None
