"""`edgeflex init`: write the first version of a file that an engineer then edits."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from edgeflex_flow.cli.manual import Setting, page, settings_of
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile.document import Value, read_document
from edgeflex_flow.flowfile.fields import ConfigField, config_fields
from edgeflex_flow.flowfile.outline import Outline, outline
from edgeflex_flow.flowfile.settings import SITE_SETTINGS
from edgeflex_flow.flowfile.shape import NAME, NAME_WORDS, SITE_KEYS
from edgeflex_flow.node import AnyNode, ConnectionNode, NodeConfig
from edgeflex_flow.registry import Registry

USUAL_KINDS = ("mqtt", "sqlite")
"""Of several kinds of a family the one to begin with; the others stand in comments."""
UNKNOWN_VALUE = "CHANGE_ME"
WIDTH = 118


@click.group()
def init() -> None:
    """Write a file to begin with."""


@init.command()
@click.argument("name")
@click.option(
    "--flows",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the flow files; flows/ here if there is one, else this folder.",
)
@click.option("--only", multiple=True, metavar="FLOW", help="Only these flows of the folder.")
@click.pass_obj
def site(registry: Registry, *, name: str, folder: Path | None, only: tuple[str, ...]) -> None:
    """Write sites/NAME.yaml beside flow files: their connections and params, with every setting in a comment.

    The other kinds of brokers, stores and services that can be connected stand there in comments too.

    Never writes over a file.

    Exit codes: 0 written; 1 it cannot be written; 2 wrong usage.
    """
    if not NAME.fullmatch(name):
        raise click.BadParameter(f"a site's name is {NAME_WORDS}; got '{name}'", param_hint="NAME")
    folder = folder or (Path("flows") if Path("flows").is_dir() else Path())
    outlines = [outline(file) for file in sorted(folder.glob("*.yaml"))]
    needs = [_needs(each, registry) for each in outlines if not each.is_site]
    needs = [each for each in needs if each.flow and (not only or each.flow in only)]
    unknown = set(only) - {each.flow for each in needs}
    if unknown or not needs:
        known = ", ".join(each.name for each in outlines if each.name) or "none"
        what = f"no flow '{min(unknown)}'" if unknown else "no flow file"
        raise click.UsageError(f"{what} in {folder.absolute()}; known: {known}")
    file = folder / "sites" / f"{name}.yaml"
    try:
        file.parent.mkdir(exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write("\n".join(site_lines(name, needs, registry)) + "\n")
    except FileExistsError:
        raise click.ClickException(f"{file} exists already; nothing was written") from None
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{file}\n\nedit it, then:\n  edgeflex check {file} --connect\n  edgeflex up {file}")


@dataclass(slots=True)
class Needs:
    """What a flow file needs from its site."""

    flow: str
    connections: dict[str, str] = field(default_factory=dict)
    """Family by name."""
    params: dict[str, Value] = field(default_factory=dict)


def _needs(flow: Outline, registry: Registry) -> Needs:
    """What stands in the file; what is wrong in it is left to the check."""
    found = Needs(flow.name)
    try:
        root = read_document(flow.file).root
    except FlowFileError:
        return found
    top: Mapping[str, Value] = (root.mapping() if root else None) or {}
    found.params = dict((top["params"].mapping() if "params" in top else None) or {})
    nodes = (top["nodes"].mapping() if "nodes" in top else None) or {}
    for value in nodes.values():
        settings = value.mapping() or {}
        kind = registry.nodes.get(str(settings["kind"].data)) if "kind" in settings else None
        for each in _fields(kind) if kind is not None else ():
            named = settings.get(each.key)
            if each.hint.family and named is not None and isinstance(named.data, str) and NAME.fullmatch(named.data):
                found.connections[named.data] = each.hint.family
    return found


def _fields(node: AnyNode) -> tuple[ConfigField, ...]:
    config: type[msgspec.Struct] = node.config
    return config_fields(config)


# The text of the file -------------------------------------------------------------------------------------------------


def site_lines(name: str, needs: Sequence[Needs], registry: Registry) -> Iterator[str]:
    """A site file in which everything that may stand there stands: what is needed, and the rest in comments."""
    yield f"site: {name}"
    yield ""
    yield f"# {SITE_KEYS['flows']}"
    yield f"flows: [{', '.join(each.flow for each in needs)}]"
    yield ""
    yield f"# {SITE_KEYS['labels']}"
    yield "# labels: {region: north}"
    yield ""
    for key, kind in SITE_SETTINGS.items():
        yield f"# {SITE_KEYS[key]}"
        yield from (f"# {line}" for line in _top_lines(key, kind))
        yield ""
    yield f"# {SITE_KEYS['connections']}"
    yield '# Secrets come from the environment, "${NAME}", or from a file, "${file:/run/secrets/name}".'
    yield from _connections_lines(needs, registry)
    if any(each.params for each in needs):
        yield ""
        yield f"# {SITE_KEYS['params']}"
        yield "params:"
        yield from (f"  {line}" for line in _param_lines(needs))


def _top_lines(key: str, config: type[NodeConfig]) -> Iterator[str]:
    """Settings at the top of the file as they hold when nothing else is said; those without a value in comments."""
    examples = {each.key: each.hint.constraint("examples") for each in config_fields(config)}
    yield f"{key}:"
    for setting in settings_of(config):
        yield from _comment(setting.description, "  ")
        example: list[Any] = examples[setting.key] or [UNKNOWN_VALUE]
        value = str(example[0]) if setting.required else setting.default
        yield f"  # {setting.key}: null" if value == "none" else f"  {setting.key}: {value}"


def _connections_lines(needs: Sequence[Needs], registry: Registry) -> Iterator[str]:
    families = {key: family for each in needs for key, family in each.connections.items()}
    kinds = sorted(
        registry.connections.values(), key=lambda node: (node.kind not in USUAL_KINDS, node.family, node.kind)
    )
    used: set[str] = set()
    yield "connections:" if families else "# connections:"
    for key, family in sorted(families.items()):
        node = next(each for each in kinds if each.family == family)
        used.add(node.kind)
        users = ", ".join(each.flow for each in needs if key in each.connections)
        yield from (f"  {line}".rstrip() for line in _connection_lines(key, node, f"Used by {users}."))
    yield "# Other kinds, in comments; `edgeflex nodes KIND` tells more. One that replaces another takes its name."
    for node in (each for each in kinds if each.kind not in used):
        name = f"{node.kind}_2" if node.kind in families else node.kind
        lines = _connection_lines(name, node, page(node).summary)
        yield from (f"  # {line}".rstrip() for line in lines)


def _connection_lines(name: str, node: ConnectionNode[Any], about: str) -> Iterator[str]:
    yield from _comment(about, "")
    yield f"{name}:"
    yield f"  kind: {node.kind}"
    for setting in page(node).settings:
        yield from _setting_lines(setting, _example(node, setting.key, name))


def _setting_lines(setting: Setting, example: str | None) -> Iterator[str]:
    yield from _comment(setting.description, "  ")
    if setting.required:
        yield f"  {setting.key}: {example or UNKNOWN_VALUE}"
    else:
        yield f"  # {setting.key}: {example or setting.default.replace('none', 'null')}"


def _example(node: ConnectionNode[Any], key: str, name: str) -> str | None:
    [hint] = [each.hint for each in _fields(node) if each.key == key]
    login: str | None = hint.noted("login")
    if login is not None or hint.noted("secret"):
        return f'"${{{name.upper()}_USER}}"' if login == "user" else f'"${{file:/run/secrets/{name}}}"'
    examples: list[Any] | None = hint.constraint("examples")
    if not examples:
        return None
    # Two connections must not share a file.
    return f'"{name}{Path(examples[0]).suffix}"' if hint.noted("path") else f'"{examples[0]}"'


def _param_lines(needs: Sequence[Needs]) -> Iterator[str]:
    for name in sorted({name for each in needs for name in each.params}):
        users = [each for each in needs if name in each.params]
        values = [each.params[name] for each in users]
        defaults = {value.plain() for value in values if isinstance(value.data, str | int | float)}
        told = f"# {', '.join(each.flow for each in users)}"
        if not defaults:
            yield f"{name}: {UNKNOWN_VALUE}  {told}"
        else:
            each_its_own = ", each its own" if len(defaults) > 1 else ""
            yield f"# {name}: {_written(min(defaults, key=str))}  {told}{each_its_own}"


def _written(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w~./-]+", text) else f'"{text}"'


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH - len(indent) - 4):
        yield f"{indent}# {line}"
