"""Shows people where a message comes from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeflex_flow.cli.explained.again import Again
from edgeflex_flow.cli.explained.behind import MessageBehind, NodeBehind, SamplesBehind
from edgeflex_flow.cli.explained.evidence import Found
from edgeflex_flow.cli.explained.identity import type_of
from edgeflex_flow.cli.problems import table_console

MOST_DEVICES: Final = 6


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message comes from."""

    id: str
    type: str
    node: str
    given_ns: int
    """When the node gave it, UTC nanoseconds."""
    message: msgspec.Raw
    flow: str
    site: str
    revision: str
    """Digest of the flow that ran."""
    revision_now: str = ""
    """Digest of the flow file that was named; empty if none was."""
    version: str
    """Of edgeflex-flow."""
    places: tuple[str, ...]
    """Files and stores that tell it."""
    computed: bool
    """Whether an operator gave it: else it came from outside, or of the run itself."""
    nodes: tuple[NodeBehind, ...]
    devices: tuple[str, ...] = ()
    """Those on whose samples it rests; none: all."""
    samples: tuple[SamplesBehind, ...]
    window_known: bool
    """Whether the message or the nodes on the way tell which samples are behind it; else these are all before it."""
    messages: tuple[MessageBehind, ...]
    notes: tuple[str, ...] = ()
    again: Again | None = None


def when(time_ns: int | None) -> str:
    """A time for people, to the microsecond."""
    if time_ns is None:
        return "-"
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 1_000_000_000 // 1000:06d}Z"


def show_list(found: Sequence[tuple[str, Found]], most: int) -> None:
    """What there is to explain, the newest last."""
    table = Table("ID", "type", "node", "given")
    for name, each in found[-most:]:
        table.add_row(name, type_of(each.message), each.given.node, when(each.given.at_ns))
    out = table_console()
    out.print(table)
    if len(found) > most:
        out.print(f"the newest {most} of {len(found)}; --last {len(found)} lists all")


def show(told: Explanation) -> None:
    console = table_console()
    console.print(Text.assemble((told.id, "bold"), f": {told.type} of node '{told.node}', {when(told.given_ns)}"))
    console.print(Text(bytes(told.message).decode(), "dim"))
    named = "" if not told.revision_now else ", as the flow file is now"
    if told.revision_now and told.revision_now != told.revision:
        named = f"; the flow file is another one now: {told.revision_now}"
    console.print(f"flow {told.flow} at {told.site}, revision {told.revision}{named}; edgeflex-flow {told.version}")
    console.print(_nodes(told.nodes))
    console.print(_settings(told.nodes))
    if told.messages:
        console.print(_messages(told.messages))
    console.print(_samples(told))
    for note in told.notes:
        console.print(Text(f"note: {note}", "yellow"))
    if told.again is not None:
        _show_again(console, told.again)


def _nodes(nodes: Sequence[NodeBehind]) -> Table:
    table = Table("node", "kind", "reads", "version", "code", "policies", title="way")
    for each in nodes:
        code = each.code if each.code == each.code_now else f"{each.code} (now {each.code_now or 'unknown'})"
        policies = "\n".join(f"{name} {version}" for name, version in each.policies.items())
        table.add_row(each.node, each.kind, ", ".join(each.reads), each.version, code, policies)
    return table


def _settings(nodes: Sequence[NodeBehind]) -> Table:
    table = Table("node", "setting", "value", "as the kind has it", title="settings then")
    for node in nodes:
        for each in node.settings:
            mark = "yes" if each.is_default else ""
            table.add_row(node.node, each.name, each.value, mark, style="dim" if each.is_default else None)
    return table


def _messages(messages: Sequence[MessageBehind]) -> Table:
    table = Table("from", "type", "ID", "given", title="messages that it took")
    for each in messages:
        table.add_row(each.node, each.type, each.id, when(each.at_ns))
    return table


def _samples(told: Explanation) -> Table:
    title = "samples behind it" if told.window_known else "samples before it (how far back it looks is not told)"
    table = Table("source", "rows", "devices", "time tags", "quality", "values, least to most", title=title)
    for each in told.samples:
        devices = ", ".join(each.devices[:MOST_DEVICES])
        devices += f" and {len(each.devices) - MOST_DEVICES} more" if len(each.devices) > MOST_DEVICES else ""
        flags = "\n".join(f"{name}: {count}" for name, count in each.flags.items()) or "good"
        values = "\n".join(
            f"{column.name} {column.least:.7g} to {column.most:.7g}"
            for column in each.columns
            if column.least is not None and column.most is not None
        )
        table.add_row(
            each.source, f"{each.rows:,}", devices, f"{when(each.first_ns)}\n{when(each.last_ns)}", flags, values
        )
    return table


def _show_again(console: Console, again: Again) -> None:
    if not again.same:
        console.print(Text(f"✗ computed again: {again.why}", "red"))
        if again.differences:
            table = Table("field", "recorded", "now")
            for each in again.differences:
                table.add_row(each.name, each.recorded, each.again)
            console.print(table)
        return
    how = "to the last bit" if again.exact else "but for rounding"
    text = f"the same {how}, from the {_rows(again.rows)} of the {again.recorded_s:.1f} s before it"
    console.print(Text(f"✓ computed again: {text}", "green"))
    least = again.suffices
    if least is not None:
        whose = f" of {', '.join(least.devices)}" if least.devices else ""
        text = f"the same but for rounding, from the {_rows(least.rows)}{whose} since {when(least.since_ns)} alone"
        console.print(Text(f"✓ and {text}", "green"))


def _rows(rows: int) -> str:
    return f"{rows:,} row" if rows == 1 else f"{rows:,} rows"
