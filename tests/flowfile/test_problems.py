"""Wrong flow and site files: each mistake gives one problem, at its place, with what is known and what was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flow_kinds
import pytest
from flow_kinds import FLOW, SITE

from edgeflex_flow.errors import Problem
from edgeflex_flow.flowfile import CheckedFlow

Check = Callable[..., CheckedFlow]


class Case(NamedTuple):
    """What replaces what in the good file, and the one problem that follows.

    `▶` in the new text marks the place that the problem must name; `place` gives it where that is elsewhere.
    """

    name: str
    old: str
    new: str
    place: tuple[int, int] | None
    node: str | None
    message: str
    got: str | None = None
    known: tuple[str, ...] = ()
    nearest: str | None = None

    def apply(self, text: str) -> tuple[str, tuple[int, int]]:
        """The wrong file, and the place that the problem must name."""
        assert self.old in text
        wrong = text.replace(self.old, self.new, 1)
        if self.place is not None:
            return wrong, self.place
        before, mark, after = wrong.partition("▶")
        assert mark
        return before + after, (before.count("\n") + 1, len(before) - before.rfind("\n"))


KINDS = ("detect", "inbox", "limit", "meter", "pair", "phase", "rename", "shed", "slope", "tell")
SLOPE = "{kind: slope, from: pmu, window: 500ms}"
PAIR = "{kind: pair, from: {measured: [pmu, slope], events: detect}}"
POLICY = "{policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}"
SHED = "{kind: shed, from: [pmu, slope], store: history}"
READABLE = ("pmu", "detect", "watch", "both", "dead_letters", "flow_alarms")
PORTS = ("measured", "events", "alarms")
TEXT_POLICY_KEYS = ("policy", "field", "default", "allowed")
POLICY_KEYS = ("policy", "field", "default", "min", "max")
FROM_PORTS = "'from: {measured: NODE, events: NODE, alarms: NODE}'"

IN_FLOW = [
    # The top of the file.
    Case("no_name", "flow: events\n", "", (1, 1), None, "'flow' is missing: the name of the flow"),
    Case("bad_name", "flow: events", "flow: ▶My Flow", None, None,
         "'flow' needs a name: lower case letters, digits and '_'", "'My Flow'"),
    Case("number_as_name", "flow: events", "flow: ▶12", None, None,
         "'flow' needs a name: lower case letters, digits and '_'", "12"),
    Case("unknown_top_key", "about:", "▶abut:", None, None, "unknown key 'abut'",
         None, ("flow", "about", "params", "labels", "limits", "nodes", "budgets"), "about"),
    Case("about_is_a_list", "about: Find events.", "about: ▶[a]", None, None, "'about' needs a text", "a list"),
    Case("labels_are_texts", "about: Find events.", "labels: {owner: ▶3}", None, None,
         "'labels.owner' needs a text", "3"),
    Case("params_is_a_list", "params: {meter_port: 4713}", "params: ▶[meter_port]", None, None,
         "'params' is a mapping of names to values", "a list"),
    Case("param_name", "{meter_port: 4713}", "{meter_port: 1, ▶Meter: 2}", None, None,
         "a param's name is lower case letters, digits and '_'", "'Meter'"),
    Case("param_is_a_list", "{meter_port: 4713}", "{meter_port: ▶[1]}", None, None,
         "param 'meter_port' is a single value", "a list"),
    Case("param_site", "{meter_port: 4713}", "{meter_port: 1, ▶site: x}", None, None,
         "param 'site' is the site's name and cannot be set"),
    # Nodes and kinds.
    Case("node_is_text", SLOPE, "▶slope", None, "slope",
         "a node is a mapping with 'kind', 'from' and the settings of its kind", "'slope'"),
    Case("node_name", "  tell: ", "  ▶Tell: ", None, None,
         "a name in 'nodes' is lower case letters, digits and '_'", "'Tell'"),
    Case("reserved_id", "  tell: ", "  ▶dead_letters: ", None, None,
         "'dead_letters' is the reserved name of the wire of dead letters"),
    Case("no_kind", "kind: tell, ", "", (14, 3), "tell", "'kind' needs the name of a kind of node", "nothing"),
    Case("kind_is_number", "kind: tell", "kind: ▶5", None, "tell", "'kind' needs the name of a kind of node", "5"),
    Case("misspelt_kind", "kind: slope", "kind: ▶slopee", None, "slope", "unknown kind", "'slopee'", KINDS, "slope"),
    Case("kind_is_not_interpolated", "kind: slope", 'kind: ▶"${site}"', None, "slope",
         "unknown kind", "'${site}'", KINDS),
    Case("connection_as_node", "kind: tell", "kind: ▶broker", None, "tell",
         "'broker' is a kind of connection: name it in a site file under 'connections'"),
    # Settings.
    Case("unknown_key", "window:", "▶windw:", None, "slope", "unknown key 'windw'",
         None, ("kind", "from", "window"), "window"),
    Case("merge_key", "window: 500ms", "▶<<: {window: 500ms}", None, "slope", "unknown key '<<'",
         None, ("kind", "from", "window")),
    Case("missing_key", '{kind: meter, port: "${meter_port}"}', "{kind: meter}", (5, 3), "pmu",
         "'port' is missing: UDP port."),
    Case("word_or_number", '"${meter_port}"', "1, speed: ▶maxx", None, "pmu",
         "'speed' needs a number or one of max, above 0", "'maxx'", ("max",), "max"),
    Case("number_or_word", '"${meter_port}"', "1, speed: ▶0", None, "pmu",
         "'speed' needs a number or one of max, above 0", "0", ("max",)),
    Case("too_large", '"${meter_port}"', "▶70000", None, "pmu", "'port' needs an integer from 1 to 65535", "70000"),
    Case("text_for_number", '"${meter_port}"', "▶'4713'", None, "pmu",
         "'port' needs an integer from 1 to 65535", "'4713'"),
    Case("float_for_integer", '"${meter_port}"', "▶47.13", None, "pmu",
         "'port' needs an integer from 1 to 65535", "47.13"),
    Case("bool_for_integer", '"${meter_port}"', "▶true", None, "pmu",
         "'port' needs an integer from 1 to 65535", "true"),
    Case("nothing", '"${meter_port}"', "", (5, 25), "pmu", "'port' needs an integer from 1 to 65535", "nothing"),
    Case("list_for_number", '"${meter_port}"', "▶[4713]", None, "pmu",
         "'port' needs an integer from 1 to 65535", "a list"),
    Case("mapping_for_text", "topic: \"edgeflex/${site}/event\"", "topic: ▶{a: b}", None, "tell",
         "'topic' needs a text, at least 1 character", "a mapping"),
    Case("number_for_text", "topic: \"edgeflex/${site}/event\"", "topic: ▶5", None, "tell",
         "'topic' needs a text, at least 1 character (in quotes, or YAML reads it otherwise)", "5"),
    Case("not_a_number", "column: rocof_hz_per_s", "column: rocof_hz_per_s\n    low: ▶.nan", None, "watch",
         "'low' needs a number", "nan"),
    Case("config_refuses_itself", "column: rocof_hz_per_s", "column: rocof_hz_per_s\n    low: 3", (8, 3), "watch",
         "low (3.0) must be below high (1.0)"),
    Case("dotted_list_item", SLOPE, "{kind: meter, port: 1, channels: [a, ▶2]}", None, "slope",
         "'channels[1]' needs a text (in quotes, or YAML reads it otherwise)", "2"),
    Case("list_too_long", SLOPE, "{kind: meter, port: 1, channels: ▶[a, b, c, d]}", None, "slope",
         "'channels' needs a list of texts, at most 3 entries", "4 entries"),
    Case("word", "store: history", "store: history, mode: ▶fasst", None, "shed",
         "'mode' needs one of fast, slow", "'fasst'", ("fast", "slow"), "fast"),
    Case("nested_struct", "store: history", "store: history, steps: [{level: 1}, {level: ▶2}]", None, "shed",
         "'steps[1].level' needs a number from 0 to 1", "2"),
    Case("nested_unknown", "store: history", "store: history, steps: [{level: 1, ▶dely: 1s}]", None, "shed",
         "unknown key 'steps[0].dely'", None, ("level", "delay"), "delay"),
    Case("nested_missing", "store: history", "store: history, steps: [▶{delay: 1s}]", None, "shed",
         "'steps[0].level' is missing: Share of the load."),
    Case("nested_mapping", "store: history", "store: history, levels: {f1: 1, f2: ▶-1}", None, "shed",
         "'levels.f2' needs a number, at least 0", "-1"),
    Case("nested_quantity", "store: history", "store: history, delays: [1s, ▶2]", None, "shed",
         "'delays[1]': write it with its unit, e.g. 1s", "2"),
    # Settings that take one of several forms.
    Case("form_unknown", "store: history", "store: history, course: ▶rampp", None, "shed",
         "'course' is none that is known", "'rampp'", ("swift", "ramp"), "ramp"),
    Case("form_unknown_in_mapping", "store: history", "store: history, course: {type: ▶swft}", None, "shed",
         "'course.type' is none that is known", "'swft'", ("swift", "ramp"), "swift"),
    Case("form_unnamed", "store: history", "store: history, course: ▶{rate: 1 kW}", None, "shed",
         "'course.type' is missing: one of swift, ramp, by name or with its settings", None, ("swift", "ramp")),
    Case("form_of_another_type", "store: history", "store: history, course: ▶3", None, "shed",
         "'course' needs one of swift, ramp, by name or with its settings", "3"),
    Case("form_lacks_settings", "store: history", "store: history, course: ▶ramp", None, "shed",
         "'course.rate' is missing: Power of each bit."),
    Case("form_unknown_key", "store: history", "store: history, course: {type: ramp, rate: 1 kW, ▶lo: 1}", None, "shed",
         "unknown key 'course.lo'", None, ("type", "rate", "low", "stops"), "low"),
    Case("form_wrong_value", "store: history", "store: history, course: {type: ramp, rate: ▶1}", None, "shed",
         "'course.rate': write it with its unit, e.g. 1 kW", "1"),
    Case("form_wrong_part", "history", "history, course: {type: ramp, rate: 1 kW, stops: [{level: ▶2}]}", None, "shed",
         "'course.stops[0].level' needs a number from 0 to 1", "2"),
    Case("form_refuses_itself", "history", "history, course: {type: ramp, rate: 1 kW, low: ▶2}", None, "shed",
         "`low` is above `rate`", "2"),
    # Quantities.
    Case("no_unit", "window: 500ms", "window: ▶500", None, "slope",
         "'window': write it with its unit, e.g. 500ms", "500"),
    Case("no_unit_in_text", "window: 500ms", "window: ▶'500'", None, "slope",
         "'window': a time is a number with its unit (ns, us, µs, ms, s, min, h, d)", "'500'"),
    Case("zero_needs_a_unit_too", "window: 500ms", "window: ▶0", None, "slope",
         "'window': write it with its unit, e.g. 500ms", "0"),
    Case("wrong_unit", "window: 500ms", "window: ▶500kg", None, "slope",
         "'window': unit 'kg' is no unit of time (ns, us, µs, ms, s, min, h, d)", "'500kg'"),
    Case("quantity_too_large", "window: 500ms", "window: ▶2min", None, "slope",
         "'window' needs a time with its unit, above 0s, at most 60s", "'2min'"),
    Case("infinite_quantity", "window: 500ms", "window: ▶1e999s", None, "slope",
         "'window' needs a time with its unit, above 0s, at most 60s", "'1e999s'"),
    # Values that a policy may change.
    Case("policy_lacks", "min: 0.005 Hz/s, ", "", (12, 12), "watch",
         "'onset' is bound to a policy and lacks 'min'", None, POLICY_KEYS),
    Case("policy_unknown_key", "field: onset", "field: onset, ▶defalt: 1", None, "watch",
         "unknown key 'onset.defalt'", None, POLICY_KEYS, "default"),
    Case("policy_order", "max: 1 Hz/s", "max: 0.01 Hz/s", (12, 12), "watch",
         "'onset' needs min <= default <= max", "default '0.02 Hz/s', min '0.005 Hz/s', max '0.01 Hz/s'"),
    Case("policy_beyond_bounds", "max: 1 Hz/s", "max: ▶11 Hz/s", None, "watch",
         "'onset.max' needs a rocof with its unit, above 0 Hz/s, at most 10 Hz/s", "'11 Hz/s'"),
    Case("policy_without_unit", "max: 1 Hz/s", "max: ▶1", None, "watch",
         "'onset.max': write it with its unit, e.g. 1 Hz/s", "1"),
    Case("policy_name", "policy: trigger", "policy: ▶3", None, "watch", "'onset.policy' needs a name", "3"),
    Case("policy_on_text", "column: rocof_hz_per_s", "column: ▶{policy: a}", None, "watch",
         "'column' is bound to a policy and lacks 'field', 'default', 'allowed'", None, TEXT_POLICY_KEYS),
    Case("policy_not_allowed", "column: rocof_hz_per_s",
         "column: {policy: a, field: b, default: ▶rocof_hz_per_s, allowed: [frequency_hz, voltage_*]}", None, "watch",
         "'column.default' is not among what is allowed", "'rocof_hz_per_s'", ("frequency_hz", "voltage_*")),
    Case("policy_allows_nothing", "column: rocof_hz_per_s",
         "column: {policy: a, field: b, default: rocof_hz_per_s, allowed: ▶[]}", None, "watch",
         "'column.allowed' needs a list of texts, at least 1 entry", "0 entries"),
    Case("policy_pattern", "column: rocof_hz_per_s",
         'column: {policy: a, field: b, default: rocof_hz_per_s, allowed: ["*", ▶"ro**"]}', None, "watch",
         "'column.allowed': one `*` is enough", "'ro**'"),
    Case("policy_limits_on_text", "column: rocof_hz_per_s",
         'column: {policy: a, field: b, default: rocof_hz_per_s, allowed: ["*"], ▶min: 1}', None, "watch",
         "unknown key 'column.min'", None, TEXT_POLICY_KEYS),
    Case("policy_on_sink", "store: history",
         "store: history, limit: ▶{policy: a, field: b, default: 5, min: 1, max: 9}",
         None, "shed", "'limit' cannot be bound to a policy: sinks take no new values while the flow runs"),
    # Wires.
    Case("unknown_node", "from: pmu,", "from: ▶pmuu,", None, "slope", "'from' names the unknown node 'pmuu'",
         None, READABLE, "pmu"),
    Case("no_from", "from: pmu, ", "", (6, 3), "slope",
         "'from' is missing: which node does it read? write 'from: NODE'"),
    Case("no_from_with_ports", PAIR, "{kind: pair}", (13, 3), "both",
         f"'from' is missing: which node does it read? write {FROM_PORTS}"),
    Case("from_on_source", "kind: meter,", "kind: meter, ▶from: slope,", None, "pmu",
         "'meter' is a source: nothing can be wired into it, so it has no 'from'"),
    Case("from_is_number", "from: pmu,", "from: ▶3,", None, "slope",
         "'from' needs a node id, a list of ids, or a mapping of ports to them", "3"),
    Case("from_empty_list", "from: pmu,", "from: ▶[],", None, "slope", "'from' names no node"),
    Case("from_empty_mapping", "from: pmu,", "from: ▶{},", None, "slope", "'from' names no node"),
    Case("from_twice", "from: pmu,", "from: [pmu, ▶pmu],", None, "slope", "node 'pmu' stands twice in one 'from'"),
    Case("from_sink", "from: pmu,", "from: ▶shed,", None, "slope",
         "node 'shed' is a sink and gives nothing to read", None, READABLE),
    Case("from_is_not_interpolated", "from: pmu,", 'from: ▶"${site}",', None, "slope",
         "'from' names the unknown node '${site}'", None, READABLE),
    Case("unknown_port", "events: detect", "▶event: detect", None, "both", "unknown port 'event'",
         None, PORTS, "events"),
    Case("no_default_port", "{measured: [pmu, slope], events: detect}", "▶pmu", None, "both",
         f"no default port: write {FROM_PORTS}", None, PORTS),
    Case("unwired_port", ", events: detect", "", (13, 30), "both", "nothing is wired into port 'events'", None, PORTS),
    Case("cycle", "from: pmu,", "from: [pmu, ▶watch],", None, "slope",
         "the wires form a cycle: slope → watch → slope"),
    Case("self_loop", "from: pmu,", "from: [pmu, ▶slope],", None, "slope",
         "the wires form a cycle: slope → slope"),
    # What wires carry.
    Case("message_not_accepted", "from: [detect, watch", "from: [▶pmu, watch", None, "tell",
         "port 'in' does not accept everything that node 'pmu' gives", "samples", ("any message",)),
    Case("event_port_gets_crossings", "events: detect", "events: ▶watch", None, "both",
         "port 'events' does not accept everything that node 'watch' gives", "crossing", ("frequency_event",)),
    Case("column_in_other_unit", "kind: detect, from: slope", "kind: phase, from: ▶slope", None, "detect",
         "port 'in' needs column 'angle_rad', which node 'slope' does not give; it gives 'angle_deg', so put a node "
         "between them: {kind: convert, from: slope, columns: {angle_deg: angle_rad}}",
         None, ("angle_deg", "frequency_hz", "rocof_hz_per_s")),
    Case("column_may_be_unnamed", "kind: detect, from: slope", "kind: detect, from: ▶pmu", None, "detect",
         "port 'in' needs column 'rocof_hz_per_s', which node 'pmu' does not give; if its stream holds this one, name "
         "it under 'channels:' of node 'pmu'", None, ("angle_deg", "frequency_hz")),
    Case("misspelt_column", "column: rocof_hz_per_s", "column: ▶rocf_hz_per_s", None, "watch",
         "port 'in' needs column 'rocf_hz_per_s', which node 'slope' does not give; if its stream holds this one, name "
         "it under 'channels:' of node 'pmu'",
         None, ("angle_deg", "frequency_hz", "rocof_hz_per_s"), "rocof_hz_per_s"),
    Case("output_refuses", SHED, "{kind: rename, from: pmu, columns: {freq_hz: f_hz}}", (15, 3), "shed",
         "'freq_hz' is not among the columns angle_deg, frequency_hz"),
    Case("known_columns_only", SHED,
         "{kind: rename, from: pmu, columns: {angle_deg: a_deg}}\n  more: {kind: limit, from: shed, column: ▶q_hz}",
         None, "more", "port 'in' needs column 'q_hz', which node 'shed' does not give",
         None, ("a_deg", "frequency_hz")),
    # Connections.
    Case("unknown_connection", "store: history", "store: ▶histry", None, "shed",
         "'store' names no connection of site.yaml", "'histry'", ("history",), "history"),
    Case("connection_of_other_family", "store: history", "store: ▶databus", None, "shed",
         "'store' needs a connection of the family 'store'; a broker is of 'bus'", "'databus'", ("history",)),
    Case("connection_is_number", "store: history", "store: ▶5", None, "shed",
         "'store' needs the name of a connection (store) (in quotes, or YAML reads it otherwise)", "5"),
    # Interpolation.
    Case("unknown_param", '"${meter_port}"', '▶"${meter_prt}"', None, "pmu", "unknown param",
         "'meter_prt'", ("meter_port", "site"), "meter_port"),
    Case("unknown_param_with_default", '"${meter_port}"', '▶"${meter_prt:-5}"', None, "pmu", "unknown param",
         "'meter_prt'", ("meter_port", "site"), "meter_port"),
    Case("mixed_case", '"${meter_port}"', '▶"${MeterPort}"', None, "pmu",
         "a name in ${…} is a param (lower case) or an environment variable (upper case)", "'MeterPort'"),
    Case("no_closing_brace", "edgeflex/${site}/event", "edgeflex/${site", (14, 74), "tell",
         "'${' without its '}' (write '$$' for a dollar sign)"),
    Case("param_circle", "{meter_port: 4713}", '{meter_port: 4713, a: "${b}", b: ▶"${a}"}', None, None,
         "param 'a' stands for itself: a → b → a"),
]  # fmt: skip

IN_SITE = [
    Case("no_name", "site: yard_7\n", "", (1, 1), None, "'site' is missing: the name of the site"),
    Case("unknown_top_key", "params:", "▶parms:", None, None, "unknown key 'parms'",
         None, ("site", "flows", "labels", "state", "monitor", "limits", "studio", "connections", "params"), "params"),
    Case("state_is_text", "site: yard_7", "site: yard_7\nstate: ▶here", None, None,
         "'state' is a mapping of settings", "'here'", ("folder", "every")),
    Case("monitor_is_a_port", "site: yard_7", "site: yard_7\nmonitor: ▶9464", None, None,
         "'monitor' is a mapping of settings", "9464", ("host", "port")),
    Case("monitor_unknown_key", "site: yard_7", "site: yard_7\nmonitor: {▶prot: 9464}", None, None,
         "unknown key 'prot'", None, ("host", "port"), "port"),
    Case("monitor_no_port", "site: yard_7", "site: yard_7\nmonitor: {port: ▶70000}", None, None,
         "'port' needs an integer from 0 to 65535", "70000"),
    Case("state_without_unit", "site: yard_7", "site: yard_7\nstate: {folder: s, every: ▶5}", None, None,
         "'every': write it with its unit, e.g. 1s", "5"),
    Case("flows_is_text", "site: yard_7", "site: yard_7\nflows: ▶events", None, None,
         "'flows' needs a list of names", "'events'"),
    Case("flow_name", "site: yard_7", "site: yard_7\nflows: [events, ▶a b]", None, None,
         "'flows' needs names: lower case letters, digits and '_'", "'a b'"),
    Case("connection_is_text", "{kind: table, path: history.db}", "▶history.db", None, None,
         "'connections.history' is a mapping with 'kind' and its settings", "'history.db'"),
    Case("connection_without_kind", "{kind: table, path: history.db}", "{path: history.db}", (4, 3), None,
         "'connections.history.kind' is missing: which kind of connection is it?", None, ("broker", "table")),
    Case("unknown_kind", "kind: table", "kind: ▶tabel", None, None, "unknown kind of connection", "'tabel'",
         ("broker", "table"), "table"),
    Case("node_as_connection", "kind: table", "kind: ▶shed", None, None,
         "'shed' is a kind of node, not of connection: it stands in a flow file under 'nodes'",
         None, ("broker", "table")),
    Case("connection_unknown_key", "path: history.db", "path: history.db, ▶pth: a", None, None,
         "unknown key 'pth'", None, ("kind", "path"), "path"),
    Case("connection_value", "timeout: 2s", "timeout: ▶2", None, None,
         "'timeout': write it with its unit, e.g. 5s", "2"),
    Case("connection_policy", "timeout: 2s", "timeout: ▶{policy: a, field: b, default: 1s, min: 1s, max: 2s}", None,
         None, "'timeout' cannot be bound to a policy: of a connection only `url` can be"),
    Case("unknown_param", "host: bus.example", 'host: ▶"${hst}"', None, None, "unknown param",
         "'hst'", ("meter_port", "site")),
]  # fmt: skip


def found(problem: Problem) -> tuple[object, ...]:
    return (problem.node, problem.message, problem.got, problem.known, problem.nearest)


@pytest.mark.parametrize("case", IN_FLOW, ids=lambda case: case.name)
def test_a_mistake_in_a_flow_gives_one_problem_at_its_place(case: Case, check: Check) -> None:
    flow, place = case.apply(FLOW)
    # Other nodes may read what the mistake took away, so only what stands in the case's own place is compared.
    own = [problem for problem in check(flow).problems if (problem.line, problem.column) == place]
    assert [found(problem) for problem in own] == [case[4:]]
    assert own[0].file == "flow.yaml"


CAUSES_MORE: dict[str, set[str | None]] = {
    # The name of a node changed or is wrong, so that those who read it fail too.
    "node_name": {"pmu"},
    "params_is_a_list": {"pmu"},
    # Another place tells of the same circle.
    "param_circle": {None},
}


@pytest.mark.parametrize("case", IN_FLOW, ids=lambda case: case.name)
def test_a_mistake_in_a_flow_causes_no_others(case: Case, check: Check) -> None:
    flow, place = case.apply(FLOW)
    others = [problem for problem in check(flow).problems if (problem.line, problem.column) != place]
    assert [str(problem) for problem in others if problem.node not in CAUSES_MORE.get(case.name, set())] == []


@pytest.mark.parametrize("case", IN_SITE, ids=lambda case: case.name)
def test_a_mistake_in_a_site_gives_one_problem_at_its_place(case: Case, check: Check) -> None:
    site, place = case.apply(SITE)
    [problem] = check(site=site).problems
    assert (problem.file, (problem.line, problem.column), *found(problem)) == ("site.yaml", place, *case[4:])


def test_all_problems_of_both_files_come_at_once(check: Check) -> None:
    flow = FLOW.replace("500ms", "500").replace("kind: detect", "kind: detct").replace("Hz/s, max", "Hz, max")
    site = SITE.replace("2s", "2kg").replace("table", "tble")
    places = [(problem.file, problem.line) for problem in check(flow, site).problems]
    assert places == [("flow.yaml", 6), ("flow.yaml", 7), ("flow.yaml", 12), ("site.yaml", 3), ("site.yaml", 4)]


def test_all_wrong_fields_of_a_node_come_at_once(check: Check) -> None:
    wrong = "{kind: meter, port: 0, host: 3, chanels: [], period: 5, test: maybe}"
    problems = check(FLOW.replace('{kind: meter, port: "${meter_port}"}', wrong)).problems
    assert [problem.column for problem in problems] == [31, 40, 43, 64, 73]


def test_a_broken_node_leaves_its_readers_unchecked(check: Check) -> None:
    problems = check(FLOW.replace('port: "${meter_port}"', "port: 0")).problems
    assert [problem.node for problem in problems] == ["pmu"]


def test_connections_need_a_site_file(check: Check) -> None:
    problems = check(site=None).problems
    text = "names a connection, and connections stand in a site file: give one with --site FILE"
    assert [(problem.node, problem.message, problem.got) for problem in problems] == [
        ("tell", f"'bus' {text}", "'databus'"),
        ("shed", f"'store' {text}", "'history'"),
    ]


def test_a_flow_without_nodes_is_wrong(check: Check) -> None:
    assert [problem.message for problem in check("flow: a\n").problems] == [
        "'nodes' is missing: the nodes of the flow by id"
    ]
    assert [str(problem) for problem in check("flow: a\nnodes: {}\n").problems] == [
        "flow.yaml:2:8: 'nodes' holds no node"
    ]
    assert [problem.message for problem in check("flow: a\nnodes: [a]\n").problems] == [
        "'nodes' is a mapping of names to nodes"
    ]


def test_a_file_that_is_no_mapping_is_wrong(check: Check) -> None:
    assert [str(problem) for problem in check("- a\n").problems] == [
        "flow.yaml:1:1: the file is a mapping that starts with 'flow: NAME'; got a list"
    ]


def test_a_site_that_cannot_be_read_does_not_hide_the_flows_problems(check: Check) -> None:
    flow = FLOW.replace("500ms", "500").replace("${meter_port}", "${only_the_site_knows}")
    problems = check(flow, "site: [", params={"perhaps": "1"}).problems
    assert [(problem.file, problem.line) for problem in problems] == [("flow.yaml", 6), ("site.yaml", 1)]


def test_a_flow_has_a_limit_of_nodes(check: Check) -> None:
    nodes = "\n".join(f"  n{i}: {{kind: meter, port: 1}}" for i in range(1001))
    [problem] = check(f"flow: a\nnodes:\n{nodes}\n").problems
    assert (problem.line, problem.message, problem.got) == (3, "a flow has at most 1000 nodes", "1001")


def test_two_separate_cycles_are_two_problems(check: Check) -> None:
    nodes = """
  a: {kind: slope, from: b}
  b: {kind: slope, from: a}
  c: {kind: slope, from: d}
  d: {kind: slope, from: e}
  e: {kind: slope, from: c}
  f: {kind: slope, from: e}
"""
    assert [problem.message for problem in check(f"flow: x\nnodes:{nodes}").problems] == [
        "the wires form a cycle: a → b → a",
        "the wires form a cycle: c → e → d → c",
    ]


def test_the_kinds_of_the_table_are_those_of_the_registry() -> None:
    assert tuple(sorted(flow_kinds.registry().nodes)) == KINDS


def test_the_first_thousand_problems_of_a_file_are_shown_and_the_rest_counted(check: Check) -> None:
    wrong = "".join(f"Wrong_{number}: 1\n" for number in range(1500))
    problems = check(FLOW + wrong, site=SITE + "other: 1\n").problems
    messages = [problem.message for problem in problems]
    assert messages[999:] == ["unknown key 'Wrong_999'", "and 500 more", "unknown key 'other'"]
    assert problems[1000].line == 0


def test_a_thousand_problems_are_all_shown(check: Check) -> None:
    wrong = "".join(f"Wrong_{number}: 1\n" for number in range(1000))
    assert [problem.message for problem in check(FLOW + wrong).problems][998:] == [
        "unknown key 'Wrong_998'",
        "unknown key 'Wrong_999'",
    ]
