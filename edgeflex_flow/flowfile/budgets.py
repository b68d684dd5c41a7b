"""Budgets of a flow file: how long messages may take from a source to a sink."""

from __future__ import annotations

from collections.abc import Mapping

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.decode import ConfigDecoder, Decoded
from edgeflex_flow.flowfile.document import Value
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.interpolate import Interpolator
from edgeflex_flow.flowfile.plan import BudgetConfig
from edgeflex_flow.flowfile.report import FileReport, got
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import SinkNode, SourceNode

KEYS = tuple(field.key for field in config_fields(BudgetConfig))


def read_budgets(
    value: Value | None, drafts: Mapping[str, Draft], interpolator: Interpolator, report: FileReport
) -> tuple[BudgetConfig, ...]:
    """Those that are right; what is wrong is reported."""
    if value is None:
        return ()
    if not isinstance(value.data, tuple):
        report.problem(value.place, f"'budgets' is a list of mappings with {', '.join(KEYS)}", got=got(value))
        return ()
    found: list[BudgetConfig] = []
    for item in value.data:
        if item.mapping() is None:
            report.problem(item.place, f"a budget is a mapping with {', '.join(KEYS)}", got=got(item))
            continue
        settings = interpolator.entries(item, node=None, other_than=())
        decoded = ConfigDecoder(report, node=None).decode(BudgetConfig, settings, item.place)
        for name, missing in decoded.missing:
            report.missing(missing, f"'budgets.{name}'")
        budget = decoded.config
        if not isinstance(budget, BudgetConfig) or not _has_path(budget, decoded, drafts, report):
            continue
        if budget.what in (each.what for each in found):
            text = f"a budget of `{budget.of}` from '{budget.from_}' to '{budget.to}' stands here twice"
            report.problem(item.place, text)
            continue
        found.append(budget)
    return tuple(found)


def _has_path(budget: BudgetConfig, decoded: Decoded, drafts: Mapping[str, Draft], report: FileReport) -> bool:
    """Whether a path leads from a source to a sink. Nothing is said of nodes that are wrong themselves."""
    sources = tuple(name for name, draft in drafts.items() if isinstance(draft.node, SourceNode))
    sinks = tuple(name for name, draft in drafts.items() if isinstance(draft.node, SinkNode))
    good = True
    for key, name, known, what in (("from", budget.from_, sources, "source"), ("to", budget.to, sinks, "sink")):
        if name in known or (name in drafts and drafts[name].node is None):
            continue
        text = f"'{key}' names no {what}" if name in drafts else f"'{key}' names the unknown node '{name}'"
        place = decoded.written[key].place
        report.problem(place, text, got=got(decoded.written[key]), known=known, nearest=nearest(name, known))
        good = False
    if not good or not all(draft.wired for draft in drafts.values()):
        return False
    reached = tuple(name for name in sinks if name in behind(budget.from_, drafts))
    if budget.to in reached:
        return True
    text = f"no path leads from '{budget.from_}' to '{budget.to}'"
    report.problem(decoded.written["to"].place, text, got=got(decoded.written["to"]), known=reached)
    return False


def behind(node: str, drafts: Mapping[str, Draft]) -> set[str]:
    """The nodes that a path leads to from this one."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        at = waiting.pop()
        for draft in drafts.values():
            if draft.id not in found and any(reference.id == at for _, reference in draft.references()):
                found.add(draft.id)
                waiting.append(draft.id)
    return found
