"""Which assets the nodes of a flow move by set-points: one asset has one controller.

Configs say so by `NodeConfig.commands`. A node that only advises another one, which decides for it, moves nothing by
itself; nor does one whose set-points go to files and stores alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.report import FileReport
from edgeflex_flow.flowfile.secrecy import Place
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import NodeConfig, OperatorNode, SinkNode

_OUTWARD = frozenset({"bus", "rest"})
"""Families of connections that set-points leave by."""


class _Controller(NamedTuple):
    node: str
    file: str
    place: Place


class Commands:
    """The controllers of all files that are checked together, by asset."""

    def __init__(self) -> None:
        self._controllers: dict[str, _Controller] = {}

    def take(self, drafts: Mapping[str, Draft], report: FileReport) -> None:
        """Report nodes that move assets which another one moves already."""
        for draft, config in _controllers(drafts):
            own = _Controller(draft.id, report.file, draft.place)
            taken: dict[_Controller, list[str]] = {}
            for asset in config.commands():
                first = self._controllers.setdefault(asset, own)
                if first != own:
                    taken.setdefault(first, []).append(asset)
            for first, assets in taken.items():
                report.problem(draft.place, _refused(assets, first, own), node=draft.id)


def _controllers(drafts: Mapping[str, Draft]) -> Iterator[tuple[Draft, NodeConfig]]:
    """Nodes whose set-points leave the flow, and go into no node that decides after them."""
    leave: set[str] = set()
    advise: set[str] = set()
    for draft in drafts.values():
        if isinstance(draft.node, SinkNode) and _leads_outwards(draft.node.config):
            leave |= {reference.id for _, reference in draft.references()}
        elif isinstance(draft.node, OperatorNode):
            deciding = {port for port, each in draft.ports.items() if each.decides_after}
            advise |= {reference.id for port, reference in draft.references() if port in deciding}
    for name in (name for name in drafts if name in leave - advise):
        config = drafts[name].decoded.config
        if config is not None:
            yield drafts[name], config


def _leads_outwards(config: type[NodeConfig]) -> bool:
    return any(field.hint.family in _OUTWARD for field in config_fields(config))


def _refused(assets: list[str], first: _Controller, own: _Controller) -> str:
    where = f"line {first.place.line}" if first.file == own.file else f"{first.file}:{first.place.line}"
    names = f"'{assets[0]}'" if len(assets) == 1 else f"'{assets[0]}' and {len(assets) - 1} more"
    whose = "is" if len(assets) == 1 else "are"
    return (
        f"would control {names}, which {whose} controlled by node '{first.node}' ({where}) already; "
        "an asset has one controller: let the other one run in shadow"
    )
