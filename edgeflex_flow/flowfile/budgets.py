"""Budgets of a flow file: how long messages may take from a source to a sink, and whether settings leave that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from edgeflex_flow.errors import ConfigError, nearest
from edgeflex_flow.flowfile.decode import ConfigDecoder, Decoded
from edgeflex_flow.flowfile.delays import NEARLY, BudgetSum, PathNodes, duration
from edgeflex_flow.flowfile.document import Value
from edgeflex_flow.flowfile.fields import config_fields, unit_of
from edgeflex_flow.flowfile.interpolate import Interpolator
from edgeflex_flow.flowfile.plan import BudgetConfig, PlannedNode
from edgeflex_flow.flowfile.report import FileReport, got
from edgeflex_flow.flowfile.secrecy import Place
from edgeflex_flow.flowfile.wiring import Draft
from edgeflex_flow.node import NodeConfig, SinkNode, SourceNode
from edgeflex_flow.policy import PolicyBinding

KEYS = tuple(field.key for field in config_fields(BudgetConfig))


class WrittenBudget(NamedTuple):
    """A budget, and where its `within` stands."""

    config: BudgetConfig
    within: Place


def read_budgets(
    value: Value | None, drafts: Mapping[str, Draft], interpolator: Interpolator, report: FileReport
) -> tuple[WrittenBudget, ...]:
    """Those that are right; what is wrong is reported."""
    if value is None:
        return ()
    if not isinstance(value.data, tuple):
        report.problem(value.place, f"'budgets' is a list of mappings with {', '.join(KEYS)}", got=got(value))
        return ()
    found: list[WrittenBudget] = []
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
        if budget.what in (each.config.what for each in found):
            text = f"a budget of `{budget.of}` from '{budget.from_}' to '{budget.to}' stands here twice"
            report.problem(item.place, text)
            continue
        found.append(WrittenBudget(budget, decoded.written["within"].place))
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


def judge_budgets(
    budgets: Sequence[WrittenBudget], drafts: Mapping[str, Draft], nodes: Sequence[PlannedNode], report: FileReport
) -> tuple[BudgetSum, ...]:
    """What the paths need by their settings; it is a problem where that is more than the budget.

    `nodes`: those that are right, each after all that it reads from. Nothing is said of a path on which one is wrong.
    """
    sums: list[BudgetSum] = []
    for written in budgets:
        path = PathNodes.between(written.config.from_, written.config.to, nodes)
        if not _is_known(written.config, path, drafts):
            continue
        found = path.sum(written.config)
        sums.append(found)
        if not found.is_kept:
            text = f"'within' is less than settings need from '{found.budget.from_}' to '{found.budget.to}': {found}"
            report.problem(written.within, text)
            continue
        for text in _notes(path, found):
            report.note(written.within, text)
    return tuple(sums)


def _is_known(budget: BudgetConfig, path: PathNodes, drafts: Mapping[str, Draft]) -> bool:
    """Whether all nodes between the ends are right, and no setting of theirs stands for one that is not there."""
    planned = {node.id for node in path.nodes}
    ahead = {budget.from_, *behind(budget.from_, drafts)}
    between = {name for name in ahead if name == budget.to or budget.to in behind(name, drafts)}
    return between == planned and not any(drafts[name].decoded.missing for name in between)


class _Bound(NamedTuple):
    """A setting at the bound of its policy, at which a path needs more than with the default."""

    node: str
    field: str
    config: NodeConfig
    text: str
    sum_s: float


def _notes(path: PathNodes, found: BudgetSum) -> Iterator[str]:
    """Which bounds of policies could break a budget that holds with the defaults: each by itself, else together."""
    bounds = tuple(_bounds(path, found))
    most_s = found.budget.within * (1.0 + NEARLY)
    to = f"the path from '{found.budget.from_}' to '{found.budget.to}'"
    within = duration(found.budget.within)
    broken = [bound for bound in bounds if bound.sum_s > most_s]
    for bound in broken:
        yield f"with {bound.text} {to} would need {duration(bound.sum_s)} of {within}"
    if broken or not bounds:
        return
    configs = {node.id: node.config for node in path.nodes}
    for bound in bounds:
        configs[bound.node] = _with(configs[bound.node], bound.field, getattr(bound.config, bound.field))
    together_s = path.sum(found.budget, configs).sum_s
    if together_s > most_s:
        texts = " and ".join(bound.text for bound in bounds)
        yield f"with {texts} {to} would need {duration(together_s)} of {within}"


def _bounds(path: PathNodes, found: BudgetSum) -> Iterator[_Bound]:
    """Of each setting that a policy may change, the bound at which the path needs most, if that is more than now."""
    for node in path.nodes:
        for name, binding in node.policies.items():
            if not isinstance(binding, PolicyBinding):
                continue
            sums: list[_Bound] = []
            for value in (binding.min, binding.max):
                config = _with(node.config, name, value)
                text = f"{value:g}{unit_of(type(node.config), name)}"
                told = f"`{name}` of '{node.id}' at {text}, which policy '{binding.policy}' may say,"
                sums.append(_Bound(node.id, name, config, told, path.sum(found.budget, {node.id: config}).sum_s))
            worst = max(sums, key=lambda bound: bound.sum_s)
            if worst.sum_s > found.sum_s * (1.0 + NEARLY):
                yield worst


def _with(config: NodeConfig, field: str, value: object) -> NodeConfig:
    """The config with another value; the same if the node would refuse it, as it would refuse the policy."""
    try:
        return replace(config, **{field: value})
    except ConfigError:
        return config
