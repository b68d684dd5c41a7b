"""Metrics: every name of the table comes out, as Prometheus' own tool and a parser of OpenMetrics want it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from monitored_sites import VERSION, flow_known, full_vitals, run_of_rows, site_known
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from edgeflex_flow.messages import Quality
from edgeflex_flow.monitor.machine import ClockState
from edgeflex_flow.monitor.metrics import METRICS, SiteCollector
from edgeflex_flow.monitor.status import SiteStatus
from edgeflex_flow.runtime.vitals import vitals_of

KEPT = ClockState(is_synchronized=True, offset_s=-0.000012, most_error_s=0.004)
SAMPLES = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "histogram": ("_bucket", "_sum", "_count")}


def registry(known: SiteStatus, clock: ClockState | None = KEPT) -> CollectorRegistry:
    made = CollectorRegistry(support_collectors_without_names=True)
    made.register(SiteCollector(lambda: known, lambda: clock))
    return made


def value(known: SiteStatus, name: str, /, **labels: str) -> float | None:
    return registry(known).get_sample_value(name, {"site": "yard", **labels})


@pytest.mark.parametrize("name", METRICS)
def test_a_site_that_knows_everything_tells_every_metric(name: str) -> None:
    text = generate_latest(registry(site_known(flow_known()))).decode()
    for ending in SAMPLES[METRICS[name].kind]:
        assert f"\n{name}{ending}{{" in text


@pytest.mark.needs("promtool")
def test_prometheus_own_tool_finds_nothing_wrong(program: Callable[[str], str]) -> None:
    text = generate_latest(registry(site_known(flow_known())))
    done = subprocess.run(
        [program("promtool"), "check", "metrics", "--extended"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_openmetrics_can_be_parsed() -> None:
    text = openmetrics(registry(site_known(flow_known()))).decode()  # type: ignore[no-untyped-call]
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    found = {family.name for family in families}
    assert found == METRICS.keys()


def test_what_nodes_gave_and_took_is_told() -> None:
    known = site_known(flow_known())
    for name, direction, expected in (("src", "out", 3), ("out", "in", 3)):
        told = value(known, "edgeflex_rows_total", flow="one", node=name, direction=direction)
        assert told == expected
    wire = {"flow": "one", "source": "src", "node": "out", "port": "in"}
    assert value(known, "edgeflex_wire_rows_total", **wire) == 3
    assert value(known, "edgeflex_wire_messages_total", **wire) == 1


def test_counters_are_told_apart_by_what_they_mean() -> None:
    known = site_known(flow_known())
    assert value(known, "edgeflex_drops_total", flow="one", node="src", reason="bad_crc") == 1
    assert value(known, "edgeflex_dead_letters_total", flow="one", node="src") == 1
    assert value(known, "edgeflex_errors_total", flow="one", node="out", reason="retries") == 2
    assert value(known, "edgeflex_work_total", flow="one", node="out", what="commits") == 5
    assert value(known, "edgeflex_work_total", flow="one", node="out", what="a_name_from_elsewhere") == 7
    assert value(known, "edgeflex_away_seconds", flow="one") == 12


def test_rows_are_counted_for_each_of_their_flags() -> None:
    known = site_known(flow_known())
    for flag, expected in (("sync_lost", 3), ("stale", 3), ("bad_data", None)):
        assert value(known, "edgeflex_flagged_rows_total", flow="one", node="src", flag=flag) == expected


def test_rows_without_flags_cost_no_counters() -> None:
    assert vitals_of(run_of_rows()).quality == {}
    assert vitals_of(run_of_rows(Quality.TEST)).quality == {"src": {"test": 3}}


def test_buckets_of_a_path_add_up() -> None:
    known = site_known(flow_known())
    path = {"flow": "one", "source": "src", "sink": "out"}
    assert value(known, "edgeflex_path_took_seconds_bucket", **path, le="+Inf") == 1
    assert value(known, "edgeflex_path_took_seconds_count", **path) == 1
    age_s = value(known, "edgeflex_path_age_seconds_sum", **path)
    assert age_s is not None
    assert age_s > 1e9  # the rows are of 1970


def test_a_path_whose_messages_have_no_time_tells_no_age() -> None:
    vitals = full_vitals()
    path = replace(vitals.paths[0], age=(0,) * len(vitals.paths[0].age), age_sum_s=0.0)
    known = site_known(flow_known(vitals=replace(vitals, paths=(path,))))
    labels = {"flow": "one", "source": "src", "sink": "out"}
    assert value(known, "edgeflex_path_age_seconds_count", **labels) is None
    assert value(known, "edgeflex_path_took_seconds_count", **labels) == 1


def test_budgets_are_told_with_what_was_late() -> None:
    path = {"flow": "one", "source": "src", "sink": "out", "of": "age"}
    told = [value(site_known(flow_known()), f"edgeflex_budget_{name}", **path) for name in (
        "seconds", "broken", "messages_total", "late_messages_total")]  # fmt: skip
    assert told == [0.1, 1, 50, 2]


def test_a_flow_without_vitals_tells_its_state_alone() -> None:
    known = site_known(flow_known(word="waiting", restarts=4, moves_worked=2, moves_failed=1, vitals=None))
    assert value(known, "edgeflex_flow_state", flow="one", state="waiting") == 1
    assert value(known, "edgeflex_flow_state", flow="one", state="running") == 0
    assert value(known, "edgeflex_flow_restarts_total", flow="one") == 4
    assert value(known, "edgeflex_flow_moves_total", flow="one", outcome="worked") == 2
    assert value(known, "edgeflex_flow_moves_total", flow="one", outcome="failed") == 1
    assert value(known, "edgeflex_flow_memory_bytes", flow="one") is None


@pytest.mark.parametrize(
    ("clock", "synchronized", "offset_s"),
    [
        (KEPT, 1, -0.000012),
        (ClockState(is_synchronized=False, offset_s=None, most_error_s=None), 0, None),
        (None, None, None),
    ],
)
def test_a_clock_that_nobody_keeps_has_no_offset(
    clock: ClockState | None, synchronized: float | None, offset_s: float | None
) -> None:
    made = registry(site_known(), clock)
    assert made.get_sample_value("edgeflex_clock_synchronized", {"site": "yard"}) == synchronized
    assert made.get_sample_value("edgeflex_clock_offset_seconds", {"site": "yard"}) == offset_s


def test_version_and_digest_are_told() -> None:
    known = site_known(flow_known(), problem="one.yaml:3: unknown key")
    assert value(known, "edgeflex_info", version=VERSION) == 1
    assert value(known, "edgeflex_flow_info", flow="one", digest="abc", file="one.yaml") == 1
    assert value(known, "edgeflex_files_wrong") == 1
    policy = {"flow": "one", "node": "out", "field": "rocof_trigger.onset", "version": "3"}
    assert value(known, "edgeflex_policy_info", **policy) == 1


def test_gauges_of_a_newer_version_are_left_out() -> None:
    vitals = replace(full_vitals(), gauges={"out": {"a_new_one": 1.0, "queue_rows": 2.0}})
    known = site_known(flow_known(vitals=vitals))
    assert value(known, "edgeflex_queue_rows", flow="one", node="out") == 2
    assert "a_new_one" not in generate_latest(registry(known)).decode()
