"""Manual pages of node kinds, made from their docstrings, annotations and ports."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgeflex_flow.flowfile.document import plain_scalar
from edgeflex_flow.flowfile.fields import (
    ConfigField,
    Hint,
    config_fields,
    entry_hints,
    forms,
    is_list,
    is_mapping,
    is_struct,
    item_hint,
    tag_field,
)
from edgeflex_flow.flowfile.wires import message_name
from edgeflex_flow.flowfile.wording import bounds, format_quantity, type_words
from edgeflex_flow.node import AnyNode, ConnectionNode, Input, OperatorNode, SinkNode, SourceNode
from edgeflex_flow.registry import Registry

ROLES = ("source", "operator", "sink", "connection")

_SECTION = re.compile(r"(?P<title>[A-Z][A-Za-z]+(?: [a-z]+)?):(?:\s+(?P<text>\S.*))?")
_SECTIONS = frozenset({"Input", "Output", "Errors", "Source", "Drops"})
"""Sections whose text may begin on the line of the title; others are known by the indented block that follows."""


class Setting(msgspec.Struct, frozen=True):
    """One field of a config."""

    key: str
    type: str
    bounds: str
    required: bool
    default: str
    """As it would be written in a flow file; empty when the field is required."""
    description: str


class Form(msgspec.Struct, frozen=True):
    """One of the forms that a setting may take, or the entries that it holds, with settings of their own."""

    setting: str
    """For entries with the places where they stand: `inverters.*`."""
    name: str
    """Empty for entries."""
    text: str
    settings: tuple[Setting, ...]


class Port(msgspec.Struct, frozen=True):
    """One input port."""

    name: str
    accepts: tuple[str, ...]
    needs: tuple[str, ...]
    """Columns; empty also when they depend on the settings."""
    needs_by_settings: bool
    optional: bool


class Section(msgspec.Struct, frozen=True):
    """A titled part of the page, in Markdown."""

    title: str
    text: str


class Page(msgspec.Struct, frozen=True):
    """The manual page of a kind."""

    kind: str
    role: str
    package: str
    summary: str
    text: str
    sections: tuple[Section, ...]
    example: str
    settings: tuple[Setting, ...]
    forms: tuple[Form, ...]
    ports: tuple[Port, ...]
    family: str | None = None
    """For connections: which settings may name it."""


def pages(registry: Registry) -> list[Page]:
    """All pages, by role and then by name."""
    return sorted((page(node) for node in registry), key=lambda each: (ROLES.index(each.role), each.kind))


def page(node: AnyNode) -> Page:
    """The manual page of a kind."""
    config: type[msgspec.Struct] = node.config
    text, sections, example = read_docstring(config.__doc__ or "")
    inputs = node.inputs if isinstance(node, OperatorNode | SinkNode) else {}
    return Page(
        kind=node.kind,
        role=_role(node),
        package=config.__module__.partition(".")[0],
        summary=first_sentence(text),
        text=text,
        sections=sections,
        example=example,
        settings=settings_of(config),
        forms=tuple(_forms(config)),
        ports=tuple(_port(name, port) for name, port in inputs.items()),
        family=node.family if isinstance(node, ConnectionNode) else None,
    )


def settings_of(config: type[msgspec.Struct]) -> tuple[Setting, ...]:
    """The settings of a config, in its order."""
    return tuple(_setting(field) for field in config_fields(config))


def _role(node: AnyNode) -> str:
    if isinstance(node, SourceNode):
        return "source"
    if isinstance(node, OperatorNode):
        return "operator"
    return "sink" if isinstance(node, SinkNode) else "connection"


def first_sentence(text: str) -> str:
    r"""The first sentence of a text, on one line.

    >>> first_sentence("Slope over 0.5 s, e.g. of\nfrequency. More.")
    'Slope over 0.5 s, e.g. of frequency.'
    """
    paragraph = " ".join(text.partition("\n\n")[0].split())
    match = re.match(r".*?(?<!e\.g)(?<!i\.e)[.!?](?=\s+[A-Z`]|$)", paragraph)
    return match[0] if match else paragraph


def read_docstring(docstring: str) -> tuple[str, tuple[Section, ...], str]:
    r"""A docstring's text, its sections and its doctest.

    >>> read_docstring("Sums.\n\nInput:\n    Numbers.\n\n>>> 1 + 1\n2")
    ('Sums.', (Section(title='Input', text='Numbers.'),), '>>> 1 + 1\n2')
    """
    prose, prompt, example = inspect.cleandoc(docstring).partition("\n>>> ")
    text: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    lines = prose.splitlines()
    for index, line in enumerate(lines):
        match = _SECTION.fullmatch(line)
        follows = lines[index + 1] if index + 1 < len(lines) else ""
        if match and (match["title"] in _SECTIONS or (not match["text"] and follows.startswith(" "))):
            sections.append((match["title"], [match["text"] or ""]))
        elif sections and (not line or line.startswith(" ")):
            sections[-1][1].append(line)
        else:
            text.append(line)
    made = tuple(Section(title, _dedented(body)) for title, body in sections)
    return "\n".join(text).strip(), made, (prompt.lstrip() + example).strip()


def _dedented(lines: list[str]) -> str:
    first, rest = lines[0], textwrap.dedent("\n".join(lines[1:]))
    return f"{first}\n{rest}".strip()


def _forms(config: type[msgspec.Struct]) -> Iterator[Form]:
    for field in config_fields(config):
        tagged = [(field.key, name, kind) for name, kind in forms(field.hint).items()]
        entries = [(key, "", kind) for kind, key in _parts(field.hint, field.key) if tag_field(kind) is None]
        for key, name, kind in (*tagged, *entries):
            text, _, _ = read_docstring(kind.__doc__ or "")
            yield Form(key, name, text, tuple(_form_settings(kind, "")))


def _form_settings(kind: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    """The settings of a form, and behind each one those of the mappings that it holds."""
    for field in config_fields(kind):
        yield _setting(field, prefix)
        for part, key in _parts(field.hint, prefix + field.key):
            yield from _form_settings(part, f"{key}.")


def _parts(hint: Hint, key: str) -> Iterator[tuple[type[msgspec.Struct], str]]:
    for kind in hint.choices:
        if is_struct(kind):
            yield kind, key
        elif is_list(kind):
            yield from _parts(item_hint(kind, 0), f"{key}[*]")
        elif is_mapping(kind):
            yield from _parts(entry_hints(kind)[1], f"{key}.*")


def _setting(field: ConfigField, prefix: str = "") -> Setting:
    return Setting(
        key=prefix + field.key,
        type=type_words(field.hint),
        bounds=bounds(field.hint),
        required=field.required,
        default="" if field.required else written(field.default, field.hint.unit),
        description=field.hint.description,
    )


def written(value: Any, unit: str | None) -> str:
    """A default as it would stand in a flow file.

    >>> written(0.5, "s"), written(None, None), written((1, 2), None), written("", None), written("1.2", None)
    ('500ms', 'none', '[1, 2]', '""', '"1.2"')
    """
    if value is None:
        return "none"
    if unit is not None and isinstance(value, int | float):
        return format_quantity(value, unit)
    if tag_field(type(value)) is not None and value == type(value)():
        return str(value.__struct_config__.tag)
    plain = msgspec.to_builtins(value)
    if isinstance(plain, str) and plain and plain_scalar(plain) == plain:
        return plain
    return msgspec.json.format(msgspec.json.encode(plain), indent=0).decode()


def _port(name: str, port: Input) -> Port:
    fixed = () if callable(port.needs) else tuple(port.needs)
    accepts = tuple(message_name(kind) for kind in port.accepts)
    return Port(name, accepts, fixed, callable(port.needs), port.optional)


def port_needs(port: Port) -> str:
    """Columns that a port needs, in words."""
    return "by its settings" if port.needs_by_settings else ", ".join(port.needs)


def to_markdown(each: Page) -> str:
    """The page in Markdown."""
    return "\n".join(_markdown_lines(each)).rstrip() + "\n"


def _markdown_lines(each: Page) -> Iterator[str]:
    yield f"# `{each.kind}`"
    yield ""
    family = f" of the family `{each.family}`" if each.family else ""
    yield f"*{each.role}{family}, from `{each.package}`*"
    yield ""
    yield each.text
    yield ""
    for section in each.sections:
        yield f"## {section.title}"
        yield ""
        yield section.text
        yield ""
    yield from _settings_lines(each)
    yield from _ports_lines(each)
    if each.example:
        yield from ("## Example", "", "```python", each.example, "```")


def _settings_lines(each: Page) -> Iterator[str]:
    yield "## Settings"
    yield ""
    if not each.settings:
        yield "None."
        yield ""
        return
    yield from _settings_table(each.settings)
    for form in each.forms:
        yield f"### `{form_title(form)}`"
        yield ""
        yield form.text
        yield ""
        yield from _settings_table(form.settings)


def form_title(form: Form) -> str:
    return f"{form.setting}: {form.name}" if form.name else form.setting


def _settings_table(settings: Sequence[Setting]) -> Iterator[str]:
    yield "| setting | type | limits | default | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for setting in settings:
        default = "**required**" if setting.required else f"`{_cell(setting.default)}`"
        cells = (f"`{setting.key}`", _cell(setting.type), _cell(setting.bounds), default, _cell(setting.description))
        yield f"| {' | '.join(cells)} |"
    yield ""


def _ports_lines(each: Page) -> Iterator[str]:
    if not each.ports:
        return
    yield "## Ports"
    yield ""
    yield "| port | accepts | columns it needs | |"
    yield "| --- | --- | --- | --- |"
    for port in each.ports:
        needs = _cell(port_needs(port)) if port.needs_by_settings else ", ".join(f"`{name}`" for name in port.needs)
        yield f"| `{port.name}` | {', '.join(port.accepts)} | {needs} | {'optional' if port.optional else ''} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
