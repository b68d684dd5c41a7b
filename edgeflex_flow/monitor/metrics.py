"""The metrics of a site, for Prometheus and what reads OpenMetrics.

Names follow Prometheus' rules: base units, `_total` for what only grows. A restart of a flow begins its counters anew,
which `rate()` knows how to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, Literal, NamedTuple, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from edgeflex_flow.gauges import GAUGES
from edgeflex_flow.monitor.counts import COUNTS, Count, Sort
from edgeflex_flow.monitor.machine import ClockState, clock_state
from edgeflex_flow.monitor.status import WORDS, FlowStatus, SiteStatus
from edgeflex_flow.runtime.latency import BOUNDS_S
from edgeflex_flow.runtime.vitals import PathVitals, Vitals

Kind: TypeAlias = Literal["counter", "gauge", "histogram", "info"]


class Told(NamedTuple):
    """One metric: what it counts or measures and by which labels, beside `site`, it is told apart."""

    kind: Kind
    about: str
    labels: tuple[str, ...] = ()


FLOW: Final = ("flow",)
NODE: Final = ("flow", "node")
PATH: Final = ("flow", "source", "sink")
BUDGET: Final = (*PATH, "of")
NAME_OF_GAUGE: Final[Mapping[str, str]] = {
    name: f"edgeflex_{renamed}"
    for name, renamed in {
        **{name: name for name in GAUGES},
        "certificate_until_s": "certificate_expiry_timestamp_seconds",
        "policy_age_s": "policy_age_seconds",
        "state_age_s": "state_age_seconds",
    }.items()
}
"""By name in `GAUGES`."""

METRICS: Final[Mapping[str, Told]] = {
    "edgeflex": Told("info", "The version of edgeflex-flow.", ("version",)),
    "edgeflex_start_time_seconds": Told("gauge", "When the process that tells began, UTC seconds since 1970."),
    "edgeflex_files_wrong": Told("gauge", "1 while the files of the site are wrong, and what runs is older."),
    "edgeflex_clock_synchronized": Told("gauge", "1 while something keeps this machine's clock, 0 while nothing does."),
    "edgeflex_clock_offset_seconds": Told("gauge", "How far the clock of this machine is still to be moved."),
    "edgeflex_clock_max_error_seconds": Told("gauge", "Bound of the error of this machine's clock against UTC."),
    "edgeflex_flow": Told("info", "The version of a flow that runs: what its files said.", ("flow", "digest", "file")),
    "edgeflex_flow_state": Told("gauge", "1 for the state that a flow is in, 0 for the others.", ("flow", "state")),
    "edgeflex_flow_restarts": Told("counter", "How often a flow was started again.", FLOW),
    "edgeflex_flow_moves": Told("counter", "Moves to another version of a flow, by outcome.", ("flow", "outcome")),
    "edgeflex_flow_turn_age_seconds": Told("gauge", "How long ago a flow last took a turn.", FLOW),
    "edgeflex_flow_memory_bytes": Told("gauge", "Resident memory of the process of a flow.", FLOW),
    "edgeflex_flow_cpu_seconds": Told("counter", "Processor time of the process of a flow.", FLOW),
    "edgeflex_messages": Told("counter", "Messages in and out of nodes; a batch is one.", (*NODE, "direction")),
    "edgeflex_rows": Told("counter", "Rows of samples in and out of nodes.", (*NODE, "direction")),
    "edgeflex_wire_messages": Told("counter", "Messages over a wire.", ("flow", "source", "node", "port")),
    "edgeflex_wire_rows": Told("counter", "Rows of samples over a wire.", ("flow", "source", "node", "port")),
    "edgeflex_flagged_rows": Told("counter", "Rows that nodes gave, by quality flag.", (*NODE, "flag")),
    "edgeflex_drops": Told("counter", "What was lost, by reason.", (*NODE, "reason")),
    "edgeflex_dead_letters": Told("counter", "Dead letters.", NODE),
    "edgeflex_errors": Told("counter", "Attempts that failed, by reason.", (*NODE, "reason")),
    "edgeflex_work": Told("counter", "What nodes did, by what it is.", (*NODE, "what")),
    "edgeflex_away_seconds": Told("gauge", "Time between the saved state and the start that found it.", FLOW),
    "edgeflex_path_took_seconds": Told("histogram", "From the poll that a message came by to its sink.", PATH),
    "edgeflex_path_age_seconds": Told("histogram", "From the time tag of a message to its sink.", PATH),
    "edgeflex_budget_seconds": Told("gauge", "How long messages may take on a path, by the flow file.", BUDGET),
    "edgeflex_budget_broken": Told("gauge", "1 while messages on a path take longer than that.", BUDGET),
    "edgeflex_budget_messages": Told("counter", "Messages that reached the sink of a path with a budget.", BUDGET),
    "edgeflex_budget_late_messages": Told("counter", "Those of them that took longer than that.", BUDGET),
    "edgeflex_policy": Told("info", "The version of a policy whose value is in force.", (*NODE, "field", "version")),
    **{NAME_OF_GAUGE[name]: Told("gauge", about, NODE) for name, about in GAUGES.items()},
}
"""By name; counters have `_total` after it, histograms `_bucket`, `_sum` and `_count`, information `_info`."""

METRIC_OF_SORT: Final[Mapping[Sort, str]] = {
    "drop": "edgeflex_drops",
    "error": "edgeflex_errors",
    "work": "edgeflex_work",
}
UNKNOWN: Final = Count("work", "")


class _Families:
    """The metrics of one answer."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._made: dict[str, Metric] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        family = self._family(name)
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric((self._site, *labels), value)

    def add_info(self, name: str, *labels: str) -> None:
        family = self._family(name)
        assert isinstance(family, InfoMetricFamily)
        named = dict(zip(METRICS[name].labels, labels, strict=True))
        family.add_metric((), {"site": self._site, **named})

    def add_times(self, name: str, counts: Iterable[int], sum_s: float, *labels: str) -> None:
        """A histogram, of how many times lie in each of the buckets of `BOUNDS_S` and beyond."""
        family = self._family(name)
        assert isinstance(family, HistogramMetricFamily)
        bounds = (*map(str, BOUNDS_S), "+Inf")
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(counts), strict=True)]
        family.add_metric((self._site, *labels), buckets=buckets, sum_value=sum_s)

    def _family(self, name: str) -> Metric:
        if name not in self._made:
            kind, about, labels = METRICS[name]
            self._made[name] = _EMPTY[kind](name, about, ("site", *labels))
        return self._made[name]

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._made.values())


_EMPTY: Final[Mapping[Kind, Callable[[str, str, tuple[str, ...]], Metric]]] = {
    "counter": lambda name, about, labels: CounterMetricFamily(name, about, labels=labels),
    "gauge": lambda name, about, labels: GaugeMetricFamily(name, about, labels=labels),
    "histogram": lambda name, about, labels: HistogramMetricFamily(name, about, labels=labels),
    "info": lambda name, about, _labels: InfoMetricFamily(name, about),
}


class SiteCollector(Collector):
    """Tells what is known at the moment in which somebody asks."""

    def __init__(self, known: Callable[[], SiteStatus], clock: Callable[[], ClockState | None] = clock_state) -> None:
        self._known = known
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        known = self._known()
        made = _Families(known.site)
        made.add_info("edgeflex", known.version)
        made.add("edgeflex_start_time_seconds", known.started_ns / 1e9)
        made.add("edgeflex_files_wrong", float(bool(known.problem)))
        _add_clock(made, self._clock())
        for flow in known.flows:
            _add_flow(made, flow)
            if flow.vitals is not None:
                _add_vitals(made, flow.name, flow.vitals)
        yield from made


def _add_clock(made: _Families, state: ClockState | None) -> None:
    if state is None:
        return
    made.add("edgeflex_clock_synchronized", float(state.is_synchronized))
    if state.offset_s is not None:
        made.add("edgeflex_clock_offset_seconds", state.offset_s)
    if state.most_error_s is not None:
        made.add("edgeflex_clock_max_error_seconds", state.most_error_s)


def _add_flow(made: _Families, flow: FlowStatus) -> None:
    made.add_info("edgeflex_flow", flow.name, flow.digest, flow.file)
    for word in WORDS:
        made.add("edgeflex_flow_state", float(flow.word == word), flow.name, word)
    made.add("edgeflex_flow_restarts", flow.restarts, flow.name)
    made.add("edgeflex_flow_moves", flow.moves_worked, flow.name, "worked")
    made.add("edgeflex_flow_moves", flow.moves_failed, flow.name, "failed")


def _add_vitals(made: _Families, flow: str, vitals: Vitals) -> None:
    made.add("edgeflex_flow_turn_age_seconds", vitals.turn_age_s, flow)
    made.add("edgeflex_flow_memory_bytes", vitals.memory_bytes, flow)
    made.add("edgeflex_flow_cpu_seconds", vitals.cpu_s, flow)
    for node, counts in vitals.nodes.items():
        for name, count in counts.items():
            _add_count(made, flow, node, name, count)
    _add_wires(made, flow, vitals.wires)
    for node, flags in vitals.quality.items():
        for flag, rows in flags.items():
            made.add("edgeflex_flagged_rows", rows, flow, node, flag)
    for path in vitals.paths:
        _add_path(made, flow, path)
    for budget in vitals.budgets:
        labels = (flow, budget.source, budget.sink, budget.of)
        made.add("edgeflex_budget_seconds", budget.within_s, *labels)
        made.add("edgeflex_budget_broken", float(budget.is_broken), *labels)
        made.add("edgeflex_budget_messages", budget.messages, *labels)
        made.add("edgeflex_budget_late_messages", budget.late, *labels)
    for node, gauges in vitals.gauges.items():
        for name, value in gauges.items():
            if name in NAME_OF_GAUGE:  # a flow's process may be of a newer version than the one that tells
                made.add(NAME_OF_GAUGE[name], value, flow, node)
    for node, versions in vitals.policies.items():
        for field, version in versions.items():
            made.add_info("edgeflex_policy", flow, node, field, version)


def _add_count(made: _Families, flow: str, node: str, name: str, count: int) -> None:
    match name:
        case "messages_out":
            made.add("edgeflex_messages", count, flow, node, "out")
        case "rows_out":
            made.add("edgeflex_rows", count, flow, node, "out")
        case "dead_letters":
            made.add("edgeflex_dead_letters", count, flow, node)
        case "away_s":
            made.add("edgeflex_away_seconds", count, flow)
        case _:
            made.add(METRIC_OF_SORT[COUNTS.get(name, UNKNOWN).sort], count, flow, node, name)


def _add_wires(made: _Families, flow: str, wires: Mapping[str, Mapping[str, int]]) -> None:
    """Each wire, and of each node the sum of what came in."""
    came: dict[str, list[int]] = {}
    for wire, counts in wires.items():
        source, _, reader = wire.partition(" -> ")
        node, _, port = reader.partition(".")
        messages, rows = counts["messages"], counts["rows"]
        made.add("edgeflex_wire_messages", messages, flow, source, node, port)
        made.add("edgeflex_wire_rows", rows, flow, source, node, port)
        total = came.setdefault(node, [0, 0])
        total[0] += messages
        total[1] += rows
    for node, (messages, rows) in came.items():
        made.add("edgeflex_messages", messages, flow, node, "in")
        made.add("edgeflex_rows", rows, flow, node, "in")


def _add_path(made: _Families, flow: str, path: PathVitals) -> None:
    made.add_times("edgeflex_path_took_seconds", path.took, path.took_sum_s, flow, path.source, path.sink)
    if any(path.age):  # messages without a time tag have none
        made.add_times("edgeflex_path_age_seconds", path.age, path.age_sum_s, flow, path.source, path.sink)
