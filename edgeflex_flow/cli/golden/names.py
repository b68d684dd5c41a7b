"""Names in a golden test that nothing has: a test with one could never fail, or never pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NoReturn

import msgspec

from edgeflex_flow.cli.golden.case_file import Expectation, Fault, GoldenTest
from edgeflex_flow.cli.golden.stream import InputError
from edgeflex_flow.cli.on_record import Due
from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.graph import output_wires
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import Message, Samples
from edgeflex_flow.node import SinkNode, Wire
from edgeflex_flow.runtime.policies import VERSION
from edgeflex_flow.units import NS_PER_S

_QUALITY: Final = "quality"
_DEVICE: Final = "device"
"""Of rows; `where` may ask for it, and `values` has numbers alone."""


def check_names(test: GoldenTest, plan: Plan) -> None:
    """Raises InputError for what `expect`, `allow`, `faults` and `policies` name and the flow does not have."""
    nodes = {node.id: node for node in plan.nodes}
    for what, name in [*(("expect", each.of) for each in test.expect), *(("allow", name) for name in test.allow)]:
        if name not in nodes:
            _refuse(f"`{what}`: no node '{name}'", name, nodes)
    for fault in test.faults:
        is_sink = fault.of in nodes and isinstance(nodes[fault.of].node, SinkNode)
        if is_sink != (fault.what == "away") or fault.of not in (*test.record, *(nodes if is_sink else ())):
            what = "a sink" if fault.what == "away" else "a source of `record`"
            raise InputError(f"`faults`: '{fault.what}' is of {what}; got '{fault.of}'")
    for number, each in enumerate(test.expect, 1):
        _check_expectation(f"`expect`, {number}", each, _carried(nodes[each.of], plan))
    bound = plan.policy_fields
    for step in test.policies:
        for policy, fields in step.values.items():
            if policy not in bound:
                _refuse(f"`policies`: nothing is bound to policy '{policy}'", policy, bound)
            for field in fields:
                if field not in bound[policy] and field != VERSION:
                    _refuse(f"`policies`: nothing is bound to field '{field}' of '{policy}'", field, bound[policy])


def _refuse(text: str, got: str, known: Iterable[str]) -> NoReturn:
    names = sorted(known) if isinstance(known, frozenset | set) else list(known)
    near = nearest(got, names)
    meant = f"; did you mean '{near}'?" if near else ""
    raise InputError(f"{text}; known: {', '.join(names) or 'none'}{meant}")


def _carried(node: PlannedNode, plan: Plan) -> list[Wire] | None:
    """What a node gives, or a sink reads; None where that is not known."""
    if not isinstance(node.node, SinkNode):
        return None if node.wire is None else [node.wire]
    wires = output_wires(plan)
    read = [wires[source] for sources in node.inputs.values() for source in sources]
    return None if None in read else [each for each in read if each is not None]


def _check_expectation(place: str, expected: Expectation, wires: Sequence[Wire] | None) -> None:
    if wires is None or any(Message in each.messages for each in wires):
        return
    kinds = {str(each.__struct_config__.tag or Samples.tag): each for wire in wires for each in wire.messages}
    if expected.type and expected.type not in kinds:
        _refuse(f"{place}: '{expected.of}' has no `type` '{expected.type}'", expected.type, sorted(kinds))
    wanted = [expected.type] if expected.type else list(kinds)
    of_rows = _columns(wires) if Samples.tag in wanted else frozenset[str]()
    fields = {name for kind in wanted if kind != Samples.tag for name in _fields(kinds[kind])}
    for part, asked in (("where", expected.where), ("values", expected.values)):
        known = None if of_rows is None else of_rows | fields
        if known is not None and part == "where" and Samples.tag in wanted:
            known |= {_DEVICE}
        for path in asked:
            name = path if wanted == [Samples.tag] else path.partition(".")[0]
            if known is not None and name not in known:
                _refuse(f"{place}: `{part}`: '{expected.of}' has no '{name}'", name, known)
            if Samples.tag in wanted and name in fields - (of_rows or frozenset()) - {_DEVICE}:
                _refuse(f"{place}: '{expected.of}' has rows and messages: say of which `type` '{name}' is", "", wanted)


def _columns(wires: Iterable[Wire]) -> frozenset[str] | None:
    """Of rows; None where the device alone tells all of them."""
    given = [each for each in wires if Samples in each.messages]
    if any(each.more_columns for each in given):
        return None
    return frozenset({_QUALITY}).union(*(each.columns for each in given))


def _fields(kind: type) -> Iterator[str]:
    yield "type"
    yield from (each.encode_name for each in msgspec.structs.fields(kind))


def check_moments(test: GoldenTest, inputs: Sequence[Due], begin_ns: int) -> None:
    """Raises InputError for faults and policies that would touch nothing of what sources give."""
    end_s = (max(each.due_ns for each in inputs) - begin_ns) / NS_PER_S
    for what, at_s, at in [
        *(("faults", each.at_s, each.at) for each in test.faults),
        *(("policies", each.at_s, each.at) for each in test.policies),
    ]:
        if at_s > end_s:
            raise InputError(f"`{what}`: got `at` {at}, and the sources of the test end at {end_s:.3f} s")
    for fault in test.faults:
        if fault.devices or fault.columns:
            _check_rows(fault, inputs)


def _check_rows(fault: Fault, inputs: Sequence[Due]) -> None:
    given = [message for each in inputs if each.source == fault.of and isinstance(message := each.given(), Samples)]
    devices = {each.devices[code] for each in given for code in set(each.device.tolist())}
    columns = {name for each in given for name in each.columns}
    for what, asked, known in (("device", fault.devices, devices), ("column", fault.columns, columns)):
        for name in asked:
            if name not in known:
                _refuse(f"`faults`: '{fault.of}' gives no {what} '{name}'", name, known)
