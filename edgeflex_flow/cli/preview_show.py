"""A preview as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeflex_flow.cli.preview_compare import Changed, Comparison, MessagesDifference, Told
from edgeflex_flow.cli.preview_policies import Change, Unbound
from edgeflex_flow.cli.preview_samples import SamplesDifference
from edgeflex_flow.cli.preview_setpoints import SetpointsDifference
from edgeflex_flow.cli.preview_words import (
    amount,
    field_difference,
    field_value,
    moment,
    quantity_name,
    setting,
    within_a_day,
)

MOST_ROWS: Final = 20
"""Of each table; `--json` tells all."""
MOST_SHOWN_FIELDS: Final = 4
OPEN_LOOP: Final = (
    "Open loop: the record does not answer. With other set-points other things would have been measured; what is shown "
    "is what the controllers would have said to what was measured."
)


class RecordFacts(Struct, frozen=True):
    """What the flow was run on."""

    begin_ns: int
    end_ns: int
    rows: int
    messages: int
    sources: dict[str, list[str]]
    """By source, the files or stores that stand in for it."""


class Preview(Struct, frozen=True):
    """All that a preview tells; its JSON is what `--json` prints."""

    flow: str
    site: str
    policy: str
    """The file of the proposed policy."""
    today: str | None
    """Where today's policies were found; None: the defaults that the flow file declares."""
    record: RecordFacts
    changes: list[Change]
    refused: list[str]
    unbound: list[Unbound]
    differs: bool
    summary: str
    comparison: Comparison
    open_loop: str | None
    """What that means, when the flow has controllers."""
    notes: list[str]


def show(preview: Preview, out: Console) -> None:
    """What the policy changes, what would have been different, and what to bear in mind."""
    dated = not within_a_day(preview.record.begin_ns, preview.record.end_ns)
    out.print(_heading(preview))
    out.print(_changes(preview))
    out.print(Text(preview.summary, style="bold"))
    out.print()
    comparison = preview.comparison
    for each in comparison.messages:
        out.print(_messages(each, dated=dated))
    if comparison.setpoints:
        out.print(_setpoints(comparison.setpoints, dated=dated))
    if any(each.differs for each in comparison.samples):
        out.print(_samples(comparison.samples, dated=dated))
    if preview.open_loop is not None:
        out.print(Text(preview.open_loop, style="yellow"))
    for note in preview.notes:
        out.print(Text.assemble(("note", "bold yellow"), f": {note}"))


def _heading(preview: Preview) -> Text:
    record = preview.record
    today = preview.today or "the defaults that the flow file declares"
    return Text.assemble(
        (f"{preview.flow} at {preview.site}", "bold"),
        f" on a record from {moment(record.begin_ns)} to {moment(record.end_ns)} ",
        f"({record.rows:,} rows, {record.messages:,} messages).\n",
        f"Today: {today}. Proposed: {preview.policy}.\n",
    )


def _changes(preview: Preview) -> RenderableType:
    table = Table(
        "setting", "policy and field", "today", "proposed", title="What the policy changes", title_justify="left"
    )
    for each in preview.changes:
        values = (setting(value, each.unit) for value in (each.before, each.after))
        table.add_row(f"{each.node}.{each.setting}", f"{each.policy}.{each.field}", *values)
    lines: list[RenderableType] = [table] if preview.changes else [Text("The policy changes no setting of the flow.")]
    lines += [Text(text, style="red") for text in preview.refused]
    for unbound in preview.unbound:
        hint = f"; did you mean '{unbound.nearest}'?" if unbound.nearest else ""
        lines.append(Text(f"nothing in the flow is bound to '{unbound.policy}.{unbound.field}'{hint}", style="yellow"))
    return Group(*lines, "")


def _messages(found: MessagesDifference, *, dated: bool) -> RenderableType:
    """Messages of one type of a node: how many, and those that differ."""
    title = f"{found.node}: {found.type}: today {found.today:,}, proposed {found.proposed:,}, the same {found.same:,}"
    if not found.differs:
        return Text(title, style="dim")
    table = Table("", "time", "of", "what", title=title, title_justify="left")
    rows = sorted(_rows(found, dated=dated), key=lambda row: row[0])
    for _, sign, told, text in rows[:MOST_ROWS]:
        table.add_row(sign, moment(told.time_ns, dated=dated), ", ".join(told.who.values()), text)
    return Group(table, *_and_more(len(rows)))


def _and_more(rows: int) -> list[Text]:
    return [Text(f"and {rows - MOST_ROWS:,} more: --json tells them", style="dim")] if rows > MOST_ROWS else []


def _rows(found: MessagesDifference, *, dated: bool) -> Iterator[tuple[int, str, Told | Changed, str]]:
    for told in found.only_today:
        yield told.time_ns, "[red]- only today[/]", told, _told(told.fields)
    for told in found.only_proposed:
        yield told.time_ns, "[green]+ only proposed[/]", told, _told(told.fields)
    for changed in found.changed:
        yield changed.time_ns, "~ changed", changed, _some(list(_field_texts(changed, dated=dated)))


def _field_texts(changed: Changed, *, dated: bool) -> Iterator[str]:
    """What changed, without what looks the same to people."""
    for name, each in changed.fields.items():
        before, after = (field_value(name, value, dated=dated) for value in (each.today, each.proposed))
        if before != after:
            by = f" ({field_difference(name, each.by)})" if each.by is not None else ""
            yield f"{name.removesuffix('_ns')} {before} -> {after}{by}"


def _told(fields: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in fields.items() if _worth(name, value)}
    return _some([f"{name} {field_value(name, value)}" for name, value in shown.items()])


def _worth(name: str, value: Any) -> bool:
    """Whether a field says something beside the time that stands in front."""
    if name in ("state", "quality") or name.endswith("_ns"):
        return False
    return value not in (None, "", 0) and not isinstance(value, dict | list | tuple)


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - MOST_SHOWN_FIELDS} more" if len(texts) > MOST_SHOWN_FIELDS else ""
    return ", ".join(texts[:MOST_SHOWN_FIELDS]) + more


def _setpoints(found: Sequence[SetpointsDifference], *, dated: bool) -> RenderableType:
    table = Table(title="Set-points, and as energy", title_justify="left")
    table.add_column("set-points", overflow="fold", min_width=12)
    table.add_column("differ")
    table.add_column("by up to")
    for heading in ("at", "today", "proposed", "shifted"):
        table.add_column(heading, no_wrap=True)
    differing = [each for each in found if each.differs]
    for each in differing[:MOST_ROWS]:
        count = each.changed + each.only_today + each.only_proposed
        energy = each.energy
        energies = (energy.today, energy.proposed, energy.shifted) if energy else ()
        table.add_row(
            f"{_controller(each)}: {quantity_name(each.quantity)} of {each.asset}",
            f"{count:,} of {max(each.today, each.proposed):,}",
            "" if each.largest is None else amount(each.largest, each.unit),
            "" if each.largest_time_ns is None else moment(each.largest_time_ns, dated=dated),
            *(amount(value, energy.unit) for value in energies if energy),
        )
    same = dict.fromkeys(f"{_controller(each)} ({quantity_name(each.quantity)})" for each in found if not each.differs)
    parts: list[RenderableType] = [table, *_and_more(len(differing))] if differing else []
    if same:
        parts.append(Text(f"set-points that are the same: {', '.join(same)}", style="dim"))
    return Group(*parts)


def _controller(found: SetpointsDifference) -> str:
    return found.controller if found.node == found.controller else f"{found.controller}, node {found.node}"


def _samples(samples: Sequence[SamplesDifference], *, dated: bool) -> RenderableType:
    table = Table("node", "column", "rows that differ", "by up to", "at", title="Samples", title_justify="left")
    for found in samples:
        for name, each in found.columns.items():
            at = f"{each.device}, {moment(each.time_ns, dated=dated)}"
            table.add_row(found.node, name, f"{each.changed:,} of {found.today:,}", f"{each.largest:.4g}", at)
        for told, count in (("only today", found.only_today), ("only proposed", found.only_proposed)):
            if count:
                table.add_row(found.node, told, f"{count:,}", "", "")
    return table
