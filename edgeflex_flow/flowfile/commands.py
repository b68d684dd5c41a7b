"""What the nodes of a flow move by set-points: one power of an asset has one controller.

Configs say so by `NodeConfig.commands`. What only advises another node, which decides after it, moves nothing by
itself; nor does a node whose set-points go to files and stores alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.report import FileReport, line_words
from edgeflex_flow.flowfile.secrecy import Place
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import Command, NodeConfig, SinkNode

_OUTWARD = frozenset({"bus", "rest"})
"""Families of connections that set-points leave by."""


@dataclass(frozen=True, slots=True, eq=False)
class _Controller:
    node: str
    file: str
    place: Place
    config: NodeConfig

    def goes_with(self, other: _Controller) -> bool:
        """Whether both may move the same, since one of them does only while the other is silent."""
        return self.config.stands_in_for(other.config) or other.config.stands_in_for(self.config)


class Commands:
    """The controllers of all files that are checked together, by what they move."""

    def __init__(self) -> None:
        self._controllers: dict[Command, list[_Controller]] = {}

    def take(self, drafts: Mapping[str, Draft], report: FileReport) -> None:
        """Report nodes that move what another one moves already."""
        for draft, config, commands in _controllers(drafts):
            own = _Controller(draft.id, report.file, draft.place, config)
            taken: dict[tuple[_Controller, str], list[str]] = {}
            for command in dict.fromkeys(commands):
                others = self._controllers.setdefault(command, [])
                first = next((each for each in others if not own.goes_with(each)), None)
                if first is not None:
                    taken.setdefault((first, command.power), []).append(command.asset)
                others.append(own)
            for (first, power), assets in taken.items():
                report.problem(draft.place, _refused(power, assets, first, own), node=draft.id)


def _controllers(drafts: Mapping[str, Draft]) -> Iterator[tuple[Draft, NodeConfig, list[Command]]]:
    """Nodes whose set-points leave the flow, with what those move that are no advice."""
    leave = {
        reference.id
        for draft in drafts.values()
        if isinstance(draft.node, SinkNode) and _leads_outwards(draft.node.config)
        for _, reference in draft.references()
    }
    deciders = _deciders(drafts, leave)
    for name, draft in drafts.items():
        config = draft.decoded.config
        if name in leave and config is not None:
            after = deciders.get(name, [])
            yield draft, config, [each for each in config.commands() if not _is_advice(config, each, after)]


def _deciders(drafts: Mapping[str, Draft], leave: set[str]) -> dict[str, list[NodeConfig | None]]:
    """By node, the configs of those that may decide after it, since their own set-points leave; None of a wrong one."""
    deciders: dict[str, list[NodeConfig | None]] = {}
    for draft in drafts.values():
        config = draft.decoded.config
        decides = config is None or (draft.id in leave and any(True for _ in config.commands()))
        for port, reference in draft.references() if decides else ():
            if port in draft.ports and draft.ports[port].decides_after:
                deciders.setdefault(reference.id, []).append(config)
    return deciders


def _is_advice(config: NodeConfig, command: Command, deciders: Sequence[NodeConfig | None]) -> bool:
    """A wrong config may mean to decide: what would only follow from its error is not told."""
    return any(each is None or each.advised_by(config, command) for each in deciders)


def _leads_outwards(config: type[NodeConfig]) -> bool:
    return any(field.hint.family in _OUTWARD for field in config_fields(config))


def _refused(power: str, assets: list[str], first: _Controller, own: _Controller) -> str:
    where = line_words(first.place, first.file, seen_from=own.file)
    names = f"'{assets[0]}'" if len(assets) == 1 else f"'{assets[0]}' and {len(assets) - 1} more"
    return (
        f"would control the {power.replace('_', ' ')} of {names}, as node '{first.node}' ({where}) does already; "
        "an asset has one controller: let the other one run in shadow"
    )
