"""What stands at the top of flow and site files: enough to choose among them, without checking anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile.document import Value, read_document


@dataclass(frozen=True, slots=True)
class Outline:
    """A flow or site file. What is wrong in it is left out: the check tells of it."""

    file: Path
    is_site: bool = False
    name: str = ""
    flows: tuple[str, ...] = ()
    """Of a site file: names of its flows."""
    labels: Mapping[str, str] = field(default_factory=dict)


def outline(file: Path) -> Outline:
    """The outline of a file; an empty one of a file that cannot be read."""
    try:
        root = read_document(file).root
    except FlowFileError:
        return Outline(file)
    top = (root.mapping() if root else None) or {}
    is_site = "site" in top and "flow" not in top
    return Outline(file, is_site, _text(top.get("site" if is_site else "flow")), _texts(top), _labels(top))


def broken_beside(site: Path) -> list[Outline]:
    """Files of a site's folder that are no YAML, so that nobody knows which flow they hold."""
    return [Outline(file) for file in sorted(flow_folder(site).glob("*.yaml")) if _is_broken(file)]


def _is_broken(file: Path) -> bool:
    try:
        return bool(read_document(file).problems)
    except FlowFileError:
        return True


def _text(value: Value | None) -> str:
    return value.data if value is not None and isinstance(value.data, str) else ""


def _texts(top: Mapping[str, Value]) -> tuple[str, ...]:
    items = top["flows"].data if "flows" in top else ()
    return tuple(_text(item) for item in items) if isinstance(items, tuple) else ()


def _labels(top: Mapping[str, Value]) -> dict[str, str]:
    labels = (top["labels"].mapping() if "labels" in top else None) or {}
    return {name: value.data for name, value in labels.items() if isinstance(value.data, str)}


def flow_folder(site: Path) -> Path:
    """Where the flow files of a site stand: around its folder `sites/`, else beside it."""
    folder = site.absolute().parent
    return folder.parent if folder.name == "sites" else folder


def flows_beside(site: Path) -> dict[str, list[Outline]]:
    """The flow files of a site's folder by the names of their flows: one each, unless two have the same name."""
    found: dict[str, list[Outline]] = {}
    for each in (outline(file) for file in sorted(flow_folder(site).glob("*.yaml"))):
        if each.name and not each.is_site:
            found.setdefault(each.name, []).append(each)
    return found
