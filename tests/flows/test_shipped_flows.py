"""Every flow file that ships, run on real input: recordings, frames over UDP, brokers, a database."""

from __future__ import annotations

import json
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from broker import Amqtt, BrokerProcess, Listener, Mosquitto, wait_until
from http_service import HttpService, Reply, Request, json_reply
from served_grids import GRID, full_sun
from served_grids import running as served_grid
from served_policies import ServedPolicies
from shipped import FLOWS, RUNTIMES, flow_run, running

from edgeflex_connectors.payload_formats import JsonEdgeflex
from edgeflex_connectors.payloads import PayloadEncoder
from edgeflex_connectors.pmu_client import PmuClientConfig, PmuClientSource
from edgeflex_connectors.recordings import read_recording
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_flow.cli.inertia_pipeline import estimate_record
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import check_flows, load_table
from edgeflex_flow.flowfile.document import read_document
from edgeflex_flow.messages import Quality, Samples, Setpoints, encode_message, join_samples
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.policies import apply_policies
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_operators._units import GeneratingUnit
from edgeflex_services.broker import free_tcp_port, free_udp_port
from edgeflex_services.frequency_grid import FrequencyGridService, Inbox
from edgeflex_services.frequency_model import LoadStep as StepOfArea
from edgeflex_services.pmu_simulator import PmuSimulator
from edgeflex_services.powerflow_network import write_network
from edgeflex_services.profiles import make_profiles
from edgeflex_services.swing_grid import Unit, two_areas
from edgeflex_services.swing_record import PmuNoise, measure
from edgeflex_services.swing_simulator import LoadNoise, LoadStep, simulate

if TYPE_CHECKING:
    from conftest import ContextMaker

RECORDING = Path(__file__).parents[1] / "data" / "ieee39_load_step.npz"
START_NS = 1_700_000_000_000_000_000

each_runtime = pytest.mark.parametrize("execute", RUNTIMES.values(), ids=RUNTIMES)


@pytest.mark.parametrize("site", ["local", "postgres", "influxdb", "parquet"])
def test_every_shipped_flow_passes_the_check_with_every_site_that_is_not_for_one_flow(site: str) -> None:
    files = [file for file in sorted(FLOWS.glob("*.yaml")) if file.stem != "policy_to_bus"]
    checked = check_flows(files, shipped_registry(), site=FLOWS / "sites" / f"{site}.yaml")
    assert [problem for flow in checked for problem in flow.problems] == []


@pytest.mark.parametrize("site", ["by_file", "by_policy", "by_file_and_policy"])
def test_the_sites_that_show_how_a_flow_is_configured_pass_with_the_flows_that_they_list(site: str) -> None:
    file = FLOWS / "sites" / f"{site}.yaml"
    flows = read_document(file).root
    assert flows is not None
    files = [FLOWS / f"{name}.yaml" for name in flows.plain()["flows"]]
    checked = check_flows(files, shipped_registry(), site=file)
    assert [problem for flow in checked for problem in flow.problems] == []


def test_every_shipped_site_is_checked_by_a_test_of_this_file() -> None:
    here = Path(__file__).read_text()
    assert [file.stem for file in (FLOWS / "sites").glob("*.yaml") if f'"{file.stem}"' not in here] == []


def test_every_shipped_flow_is_run_by_a_test_of_this_folder() -> None:
    here = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert [file.name for file in FLOWS.glob("*.yaml") if f'"{file.name}"' not in here] == []


def recording(tmp_path: Path) -> Path:
    """The recorded load step as a file that `file_replay` reads, rows in order of time."""
    data = np.load(RECORDING)
    frequency_hz = data["bus_freq"].astype(np.float64)
    samples, machines = frequency_hz.shape
    time_ns = START_NS + np.rint(data["t"].astype(np.float64) * 1e9).astype(np.int64)
    np.savez(
        tmp_path / "recording.npz",
        time_ns=np.repeat(time_ns, machines),
        device=np.tile(np.arange(machines, dtype=np.int32), samples),
        devices=data["gen"].astype(str),
        quality=np.zeros(samples * machines, dtype=np.uint16),
        frequency_hz=frequency_hz.ravel(),
    )
    return tmp_path / "recording.npz"


@each_runtime
def test_replay_events_finds_the_same_events_on_every_runtime(
    tmp_path: Path, execute: Callable[[FlowRun], None]
) -> None:
    def events(run_it: Callable[[FlowRun], None], name: str) -> list[dict[str, Any]]:
        file = tmp_path / name
        run_it(flow_run("replay_events.yaml", recording=tmp_path / "recording.npz", events=file))
        found = [json.loads(line) for line in file.read_text().splitlines()]
        return sorted(found, key=lambda event: (event["id"], event["state"]))

    recording(tmp_path)
    expected = events(run_inline, "expected.jsonl")
    assert len({event["device"] for event in expected if event["state"] == "started"}) == 10
    assert all(event["quality"] == Quality.REPLAYED for event in expected)
    assert events(execute, "events.jsonl") == expected


@each_runtime
def test_replay_store_finds_the_events_of_a_stored_stretch_of_time(
    tmp_path: Path, execute: Callable[[FlowRun], None]
) -> None:
    with np.load(recording(tmp_path)) as data:
        samples = Samples(
            time_ns=data["time_ns"],
            device=data["device"],
            devices=tuple(data["devices"].tolist()),
            columns={"frequency_hz": data["frequency_hz"]},
            quality=data["quality"],
            received_ns=0,
        )
    store = SqliteStore(SqliteConfig(path="history.db"), tmp_path / "history.db")
    with closing(store):
        store.open()
        store.write([samples], [])
    run_inline(flow_run("replay_events.yaml", recording=tmp_path / "recording.npz", events=tmp_path / "expected.jsonl"))
    run = flow_run("replay_store.yaml", data_folder=tmp_path, events=tmp_path / "events.jsonl")
    execute(run)
    expected, found = (
        sorted((tmp_path / name).read_text().splitlines()) for name in ("expected.jsonl", "events.jsonl")
    )
    assert len(expected) >= 10
    assert found == expected
    params: dict[str, Any] = {
        "data_folder": tmp_path,
        "events": tmp_path / "none.jsonl",
        "begin": "2023-11-15T00:00:00Z",
    }
    execute(flow_run("replay_store.yaml", **params))
    assert (tmp_path / "none.jsonl").read_text() == ""


@pytest.fixture(scope="module")
def ambient_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of two areas whose loads wander, as a file that `file_replay` reads."""
    run = simulate(two_areas(), 621.0, noise=LoadNoise(share=0.01), seed=1)
    samples = measure(run, noise=PmuNoise(), seed=1).samples(start_ns=START_NS)
    file = tmp_path_factory.mktemp("ambient") / "recording.npz"
    np.savez(
        file,
        time_ns=samples.time_ns,
        device=samples.device,
        devices=np.array(samples.devices),
        quality=samples.quality,
        frequency_hz=samples.columns["frequency_hz"],
        active_power_w=samples.columns["active_power_w"],
    )
    return file


@pytest.mark.long
@each_runtime
def test_inertia_ambient_estimates_every_unit_of_a_recording(
    tmp_path: Path, ambient_recording: Path, execute: Callable[[FlowRun], None]
) -> None:
    file = tmp_path / "estimates.jsonl"
    execute(flow_run("inertia_ambient.yaml", recording=ambient_recording, estimates=file))
    found = {each["device"]: each for each in map(json.loads, file.read_text().splitlines())}
    assert {each["status"] for each in found.values()} == {"ok"}
    truth = {unit.name: unit.inertia_s for unit in two_areas().units}
    assert {name: each["h_s"] for name, each in found.items()} == pytest.approx(truth, rel=0.1)


@pytest.fixture
def any_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Amqtt(folder) as broker:
        yield broker


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[BrokerProcess]:
    """For what only a broker with MQTT 5 can do."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with Mosquitto(folder) as broker:
        yield broker


@pytest.mark.long
@each_runtime
def test_frequency_events_detects_publishes_and_stores(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    port = free_udp_port()
    run = flow_run("frequency_events.yaml", pmu_port=port, mqtt_port=any_broker.port, data_folder=tmp_path)
    with Listener(any_broker, "edgeflex/local/event/frequency") as listener:
        with running(run, execute):
            report = PmuSimulator("127.0.0.1", port, event_at_s=2.0).run(seconds=4.0)
            time.sleep(0.2)
        wait_until(lambda: len(listener.received) >= 10)
    sent = run.counters["pmu"].get("frames") - run.counters["pmu"].get("config_frames")
    assert sent == report.frames == 2400
    received = [json.loads(payload) for _, payload in listener.received]
    assert len({event["device"] for event in received if event["state"] == "started"}) == 10
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        stored = store.execute(
            "SELECT count(*) FROM samples JOIN quantities ON quantities.id = quantity_id WHERE name = 'frequency_hz'"
        ).fetchone()
        events = store.execute("SELECT count(*) FROM messages WHERE type = 'frequency_event'").fetchone()
    assert stored == (2400,)
    assert events == (len(received),)


@pytest.mark.long
@each_runtime
def test_inertia_estimation_estimates_every_unit_and_the_store_gives_the_same_again(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    port, log = free_udp_port(), tmp_path / "inertia.jsonl"
    run = flow_run(
        "inertia_estimation.yaml", pmu_port=port, mqtt_port=any_broker.port, data_folder=tmp_path, log_file=log
    )
    apply_policies(run, {"inertia_bounds": {"max_deviation": 0.4}})
    with Listener(any_broker, "edgeflex/local/inertia/#") as listener, running(run, execute):
        PmuSimulator("127.0.0.1", port, event_at_s=2.5).run(seconds=10.0)
        wait_until(lambda: len(listener.received) >= 11)
    received = [json.loads(payload) for _, payload in listener.received]
    units = {each["device"]: each for each in received if each["type"] == "inertia_estimate"}
    assert {each["status"] for each in units.values()} == {"ok"}
    assert len(units) == 10
    [system] = [each for each in received if each["type"] == "system_inertia"]
    assert system["kinetic_energy_mws"] == pytest.approx(90_692, rel=0.04)
    assert system["ci95_low_mws"] < 90_692 < system["ci95_high_mws"]
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert {each["type"] for each in kept} >= {"frequency_event", "inertia_estimate", "system_inertia"}
    again = estimate_record(
        read_recording(tmp_path / "history.db").batches(),
        load_table(FLOWS / "units" / "ieee39.yaml", GeneratingUnit),
        on_progress=lambda _rows: None,
    )
    assert {device: unit.estimate.h_s for device, unit in again.units.items()} == {
        device: each["h_s"] for device, each in units.items()
    }


@pytest.mark.long
@each_runtime
def test_inertia_estimation_estimates_units_that_are_measured_by_the_databus(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    grid = two_areas()
    record = measure(simulate(grid, 10.0, [LoadStep(at_s=3.0, load=0, power_mw=150.0)]), noise=PmuNoise(), seed=2)
    units = tmp_path / "units.yaml"
    units.write_text("".join(f"{unit.name}: {{{nameplate(unit)}}}\n" for unit in grid.units))
    run = flow_run(
        "inertia_estimation.yaml",
        pmu_port=free_udp_port(),
        mqtt_port=any_broker.port,
        data_folder=tmp_path,
        log_file=tmp_path / "inertia.jsonl",
        units=units,
    )
    with Listener(any_broker, "edgeflex/local/inertia/#") as listener, running(run, execute):
        wait_until(lambda: run.counters["measurements"].get("messages_out") > 0 or probe(listener, run, "pmu"))
        encoder = PayloadEncoder(JsonEdgeflex())
        for batch in record.batches(frames=10, start_ns=START_NS):
            listener.publish("edgeflex/local/pmu/all", encoder.encode(batch)[0])
        wait_until(lambda: len(listener.received) > len(grid.units))
    received = [json.loads(payload) for _, payload in listener.received]
    found = {each["device"]: each["h_s"] for each in received if each["type"] == "inertia_estimate"}
    assert found == pytest.approx({unit.name: unit.inertia_s for unit in grid.units}, rel=0.1)


@pytest.mark.long
@pytest.mark.needs("mosquitto")
@each_runtime
def test_inertia_on_request_estimates_when_the_policy_system_sees_what_a_policy_waits_for(
    tmp_path: Path, mosquitto: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    port, log = free_udp_port(), tmp_path / "inertia.jsonl"
    run = flow_run(
        "inertia_on_request.yaml", pmu_port=port, mqtt_port=mosquitto.port, data_folder=tmp_path, log_file=log
    )
    state = [{"quantity": "rocof_hz_per_s", "above": "20 mHz/s", "magnitude": True}]
    then = {"do": "run_service", "service": "inertia_estimation"}
    rule = {"name": "excited", "effect": "act", "when": {"state": state}, "then": then}
    policies = ServedPolicies(tmp_path / "policy", "--bus", mosquitto.url, "--trust", "local=edgeflex/local/rocof")
    with policies, Listener(mosquitto, "edgeflex/local/inertia/#") as listener, running(run, execute):
        policies.make_group("local")
        policies.save("excitation", {"kind": "trigger", "rules": [rule]}, group="local")
        PmuSimulator("127.0.0.1", port, event_at_s=2.5).run(seconds=10.0)
        wait_until(lambda: len(listener.received) >= 11)
    received = [json.loads(payload) for _, payload in listener.received]
    assert {each["status"] for each in received if each["type"] == "inertia_estimate"} == {"ok"}
    [system] = [each for each in received if each["type"] == "system_inertia"]
    assert system["kinetic_energy_mws"] == pytest.approx(90_692, rel=0.04)
    events = [json.loads(line) for line in log.read_text().splitlines() if '"frequency_event"' in line]
    assert {json.dumps(each["policies"]) for each in [*events, *received]} == {'{"local/excitation": "1"}'}


@pytest.mark.long
@each_runtime
def test_inertia_online_tells_and_keeps_an_estimate_of_each_unit(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    port, log = free_udp_port(), tmp_path / "online.jsonl"
    run = flow_run("inertia_online.yaml", pmu_port=port, mqtt_port=any_broker.port, data_folder=tmp_path, log_file=log)
    with Listener(any_broker, "edgeflex/local/inertia/online") as listener:
        with running(run, execute):
            PmuSimulator("127.0.0.1", port, event_at_s=2.0).run(seconds=3.0)
            time.sleep(0.2)
        wait_until(lambda: len(listener.received) >= 8)
    received = [json.loads(payload) for _, payload in listener.received]
    assert {(each["type"], each["method"], each["indicative"]) for each in received} == {
        ("inertia_estimate", "online", True)
    }
    # The governors of this system are faster than the window: the method has to notice.
    assert {each["status"] for each in received} <= {"ok", "model_mismatch"}
    assert len({each["device"] for each in received}) >= 8
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(each["event_id"] for each in kept) == sorted(each["event_id"] for each in received)
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        stored = store.execute("SELECT count(*) FROM messages WHERE type = 'inertia_estimate'").fetchone()
    assert stored == (len(received),)


@pytest.mark.long
@each_runtime
def test_concentrator_passes_four_stations_on_as_one_stream(
    tmp_path: Path, make_context: ContextMaker, execute: Callable[[FlowRun], None]
) -> None:
    port, stop = free_tcp_port(), threading.Event()
    stations = PmuSimulator("127.0.0.1", port, transport="tcp", event_at_s=1.0)
    served = threading.Thread(target=stations.run, args=(stop,))
    served.start()
    assert stations.listening.wait(10.0)
    stream_port = free_tcp_port()
    run = flow_run("concentrator.yaml", pmu_port=port, stream_port=stream_port, data_folder=tmp_path)
    context = make_context("reader")
    reader = PmuClientSource(
        PmuClientConfig(host="127.0.0.1", port=stream_port, idcode=100, channels={"V1": "voltage_v"}), context
    )
    found: list[Samples] = []
    try:
        with running(run, execute):
            reader.open()
            while sum(batch.rows for batch in found) < 1000:
                found += reader.poll()
                time.sleep(0.005)
            reader.close()
    finally:
        stop.set()
        served.join()
    rows = join_samples(found)
    assert rows.devices == ("GENROU_1", "GENROU_2", "GENROU_3", "GENROU_4")
    times, count = np.unique(rows.time_ns, return_counts=True)
    # Each time once, in order, with a row of every station.
    assert set(count) == {4}
    assert rows.time_ns.tolist() == sorted(rows.time_ns.tolist())
    frames = np.diff(times) * (60 / 1e9)
    assert np.abs(frames - np.rint(frames)).max() < 1e-4
    # As measured, or flagged and told where a busy machine was too slow for `lag`.
    absent = rows.quality != 0
    assert set(rows.quality.tolist()) <= {0, Quality.BAD_DATA}
    assert np.array_equal(np.isnan(rows.columns["voltage_v"]), absent)
    assert run.counters["together"].get("missing") >= np.count_nonzero(absent)
    assert np.count_nonzero(~absent) > 500
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        stored = store.execute(
            "SELECT count(*) FROM samples JOIN quantities ON quantities.id = quantity_id WHERE name = 'frequency_hz'"
        ).fetchone()
    assert stored[0] >= np.count_nonzero(~absent)


@each_runtime
def test_edge_pmu_samples_finds_the_event_in_samples_that_come_over_udp(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    port = free_udp_port()
    run = flow_run("edge_pmu_samples.yaml", samples_port=port, mqtt_port=any_broker.port, data_folder=tmp_path)
    data = np.load(RECORDING)
    frequency_hz = data["bus_freq"][:600, 0].astype(np.float32)
    with Listener(any_broker, "edgeflex/local/event/frequency") as listener:
        with running(run, execute), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
            for number, value in enumerate(frequency_hz.tolist()):
                seconds, part = divmod(number, 60)
                # VILLAS binary as its documentation has it: version 2, three values, sequence, time.
                tag = 1_700_000_000 + seconds, round(part * 1e9 / 60)
                datagram = struct.pack(">BBHIIIfff", 0x20, 0, 3, number, *tag, value, 230.0, 0.5)
                device.sendto(datagram, ("127.0.0.1", port))
                if number % 50 == 0:
                    wait_until(lambda: run.counters["samples"].get("received") >= number - 100)  # noqa: B023
            wait_until(lambda: run.counters["samples"].get("rows") == 600)
        wait_until(lambda: len(listener.received) >= 1)
    [event] = [each for each in map(json.loads, (p for _, p in listener.received)) if each["state"] == "started"]
    assert event["device"] == "127.0.0.1"
    onset_s = event["onset_time_ns"] / 1e9 - 1_700_000_000
    assert onset_s == pytest.approx(float(data["event_time"]), abs=0.1)
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        stored = store.execute(
            "SELECT count(*) FROM samples JOIN quantities ON quantities.id = quantity_id WHERE name = 'voltage_v'"
        ).fetchone()
    assert stored == (600,)


@each_runtime
def test_frequency_limits_warns_and_keeps_what_it_could_not_read(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    log = tmp_path / "limits.jsonl"
    run = flow_run("frequency_limits.yaml", mqtt_port=any_broker.port, data_folder=tmp_path, log_file=log)
    topic = "edgeflex/local/measurement/T1"

    def publish(listener: Listener, second: int, frequency_hz: float, voltage_kv: float) -> None:
        row = {
            "created": 1_700_000_000_000 + 1000 * second,
            "device": "T1",
            "frequency_hz": frequency_hz,
            "voltage_kv": voltage_kv,
        }
        listener.publish(topic, json.dumps([row]).encode())

    with Listener(any_broker, "edgeflex/local/event/limit") as listener, running(run, execute):
        wait_until(lambda: run.counters["measurements"].get("messages_out") > 0 or probe(listener, run, "measurement"))
        for second, (frequency_hz, voltage_kv) in enumerate([(50.0, 110.0), (49.7, 110.0), (49.7, 116.0)]):
            publish(listener, second, frequency_hz, voltage_kv)
        listener.publish(topic, b"not json")
        wait_until(lambda: len(listener.received) >= 2)
        wait_until(lambda: run.counters["measurements"].get("dead_letters") >= 1)
    warnings = {(event["column"], event["state"]) for event in map(json.loads, (p for _, p in listener.received))}
    assert warnings == {("frequency_hz", "below"), ("voltage_v", "above")}
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(entry["type"] == "crossing" for entry in kept) == 2
    assert "measurements" in {entry["node"] for entry in kept if entry["type"] == "dead_letter"}


@each_runtime
def test_edge_pmu_events_reads_edge_pmus_and_speaks_sogno(
    any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    data = np.load(RECORDING)
    created = 1_700_000_000_000 + np.rint(data["t"] * 1e3).astype(int)
    rows = [
        {"created": time_ms, "frequency": frequency, "amplitude": 325.1, "phase": 1.57, "rocof": 0.0}
        for time_ms, frequency in zip(created.tolist(), data["bus_freq"][:, 0].tolist(), strict=True)
    ]
    run = flow_run("edge_pmu_events.yaml", mqtt_port=any_broker.port)
    with Listener(any_broker) as listener, running(run, execute):

        def published(payload: bytes) -> bool:
            listener.publish("/edgeflex/edgepmu7/ch0", payload)
            time.sleep(0.05)
            return run.counters["pmu"].get("messages_out") > 0

        wait_until(lambda: published(json.dumps(rows[:1]).encode()))
        for first in range(1, len(rows), 20):
            listener.publish("/edgeflex/edgepmu7/ch0", json.dumps(rows[first : first + 20]).encode())
        listener.publish("/edgeflex/edgepmu7/ch0", b'[{"created":1,"frequency":NaN}]')
        received = listener.received
        wait_until(lambda: any("frequency_event" in topic for topic, _ in received))
        wait_until(lambda: any("dead_letter" in topic for topic, _ in received))
        wait_until(lambda: sum(topic == "sogno/edgepmu7" for topic, _ in received) >= len(rows))
    events = [json.loads(payload) for topic, payload in received if topic == "edgeflex/local/event/frequency_event"]
    assert {event["device"] for event in events} == {"edgepmu7"}
    readings = [json.loads(payload) for topic, payload in received if topic == "sogno/edgepmu7"]
    last = max(readings, key=lambda each: int(each["time_ns"]))
    assert last["time_ns"] == rows[-1]["created"] * 1_000_000
    assert last["readings"] == [{"component": "edgepmu7", "measurand": "frequency", "data": rows[-1]["frequency"]}]


@each_runtime
def test_service_limits_tells_one_service_what_another_measured(
    tmp_path: Path, execute: Callable[[FlowRun], None]
) -> None:
    log = tmp_path / "limits.jsonl"

    def meters(request: Request) -> Reply:
        moment = f"2023-11-14T22:13:{len(service.of('/meters')) % 60:02d}Z"
        kilowatts = 200.0 if len(service.of("/meters")) < 3 else 260.0
        meter = {"id": "feeder 7", "measured_at": moment, "power": {"active": kilowatts}}
        return json_reply({"data": {"meters": [meter]}})

    with HttpService() as service:
        service.script("/meters", meters)
        service.answers("/sites/local/events/feeder%207", Reply(status=503), Reply(status=204))
        run = flow_run("service_limits.yaml", rest_port=service.port, log_file=log, period="0.1s")
        with running(run, execute):
            wait_until(lambda: run.counters["operator"].get("sent") >= 1)
        first, again = service.of("/sites/local/events/feeder%207")
    assert first.body == again.body
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert (first.json["type"], first.json["state"], first.json["value"]) == ("crossing", "above", 260_000.0)
    assert [json.loads(line)["device"] for line in log.read_text().splitlines()] == ["feeder 7"]


@pytest.mark.long
@each_runtime
def test_vpp_dispatch_plans_orders_and_asks_the_market(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    run = flow_run("vpp_dispatch.yaml", mqtt_port=any_broker.port, data_folder=tmp_path, step="1s", vpp_mode="control")
    given, asked = "edgeflex/local/vpp/#", "/edgeflex/goflex/flex_request"

    def row(device: str, column: str, value: float, ago_s: float) -> bytes:
        created = round((time.time() - ago_s) * 1000)
        return json.dumps([{"created": created, "device": device, column: value}]).encode()

    def measure() -> None:
        for device, power_w in {"wind": 4e6, "pv": 2e6, "load": 3e6}.items():
            for ago_s in (8.0, 7.0, 0.0):
                topic = f"edgeflex/local/vpp/measurement/{device}"
                listener.publish(topic, row(device, "active_power_w", power_w, ago_s))
        listener.publish("edgeflex/local/vpp/price/market", row("market", "price_eur_per_mwh", 120.0, 60.0))
        listener.publish("edgeflex/local/vpp/charge/battery", row("battery", "state_of_charge_percent", 50.0, 0.0))

    def answered() -> bool:
        measure()
        for request in requests.received[-1:]:
            content = json.loads(request[1])
            answer = {"variable": content["variable"], "nodes": [4], "flex_response": content["flex_request"]}
            listener.publish("/edgeflex/goflex/flex_result", json.dumps(answer).encode())
        time.sleep(0.2)
        return any(topic.endswith("/flex_response") for topic, _ in listener.received)

    with Listener(any_broker, given) as listener, Listener(any_broker, asked) as requests:
        with running(run, execute):
            wait_until(answered, timeout_s=40.0)
        received = [json.loads(payload) for topic, payload in listener.received if topic.count("/") == 3]
    content = json.loads(requests.received[-1][1])
    assert (content["variable"], content["nodes"], content["unit"]) == ("active_power", [4], "kW")
    assert list(content["flex_request"]) == [f"prediction {step}" for step in range(1, 5)]
    assert "type" not in content
    # Between two steps a plan may be made before its forecasts are.
    plans = [each for each in received if each["type"] == "dispatch_plan" and each["status"] == "ok"]
    assert plans[-1]["exchange_w"][0] == pytest.approx(4e6 + 2e6 - 3e6 + plans[-1]["powers_w"]["battery"][0])
    orders = [each for each in received if each["type"] == "setpoints"]
    assert {each["quantity"] for each in orders} == {"active_power_w", "active_power_limit_w"}
    assert {each["policies"]["vpp_limits.export"] for each in orders} == {"default"}
    assert orders[-1]["status"] == "safe"
    kept = {json.loads(line)["type"] for line in (tmp_path / "vpp_dispatch.jsonl").read_text().splitlines()}
    assert {"forecast", "dispatch_plan", "setpoints", "flex_response"} <= kept


class Battery:
    """A battery of 10 MWh that does what it was told last, in the time of the clock."""

    def __init__(self) -> None:
        self.power_w = 0.0
        self.energy_wh = 5e6
        self._since_s = time.monotonic()

    def follow(self, power_w: float) -> float:
        """Go on to now, then do this; the state of charge, %."""
        now_s = time.monotonic()
        stored_w = -self.power_w * 0.95 if self.power_w < 0.0 else -self.power_w / 0.95
        self.energy_wh += stored_w * (now_s - self._since_s) / 3600.0
        self._since_s, self.power_w = now_s, power_w
        return self.energy_wh / 1e5


@pytest.mark.long
def test_vpp_dispatch_runs_a_battery_by_prices_in_closed_loop_over_the_databus(
    tmp_path: Path, any_broker: BrokerProcess
) -> None:
    run = flow_run("vpp_dispatch.yaml", mqtt_port=any_broker.port, data_folder=tmp_path, step="1s", vpp_mode="control")
    battery, course = Battery(), [(0.0, 0.0, 50.0)]
    begin_s = time.time()

    def row(kind: str, device: str, column: str, value: float, at_s: float) -> None:
        payload = json.dumps([{"created": round(1000 * at_s), "device": device, column: value}]).encode()
        listener.publish(f"edgeflex/local/vpp/{kind}/{device}", payload)

    def price_at(at_s: float) -> float:
        return 200.0 if at_s - begin_s < 25.0 else 5.0 if at_s - begin_s < 35.0 else 50.0

    def go_on() -> bool:
        now_s = time.time()
        told = [json.loads(payload) for topic, payload in listener.received if topic.endswith("/setpoints")]
        powers = [each["values"]["battery"] for each in told if each["quantity"] == "active_power_w"]
        charge = battery.follow(powers[-1] if powers else 0.0)
        course.append((now_s - begin_s, battery.power_w, charge))
        for device, power_w in {"wind": 2e6, "pv": 1e6, "load": 4e6}.items():
            for ago_s in (8.0, 7.0, 0.0):
                row("measurement", device, "active_power_w", power_w, now_s - ago_s)
        for ahead_s in range(-2, 100):
            row("price", "market", "price_eur_per_mwh", price_at(now_s + ahead_s), float(int(now_s) + ahead_s))
        row("charge", "battery", "state_of_charge_percent", charge, now_s)
        time.sleep(0.25)
        return now_s - begin_s > 36.0

    with Listener(any_broker, "edgeflex/local/vpp/#") as listener, running(run, run_bytewax):
        wait_until(go_on, timeout_s=60.0)
    dear = [power_w for at_s, power_w, _ in course if 15.0 < at_s < 24.0]
    cheap = [power_w for at_s, power_w, _ in course if at_s > 28.0]
    assert max(dear) == pytest.approx(5e6)
    assert min(cheap) == pytest.approx(-5e6)
    lowest = min(charge for at_s, _, charge in course if at_s < 27.0)
    assert 49.0 < lowest < 49.95  # 5 MW for some seconds
    assert course[-1][2] > lowest + 0.05


def test_flow_that_waits_for_a_service_drains_at_once(tmp_path: Path) -> None:
    with HttpService() as service:
        service.answers("/meters", Reply(hangs=True))
        run = flow_run("service_limits.yaml", rest_port=service.port, log_file=tmp_path / "limits.jsonl")
        with running(run, run_inline):
            wait_until(lambda: service.requests)
        assert run.counters["meters"].get("retries") == 0  # it did not come to the end of the connection's timeout


@pytest.mark.long
@each_runtime
def test_voltage_control_brings_a_feeder_within_limits_over_the_databus(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    run = flow_run(
        "voltage_control.yaml", mqtt_port=any_broker.port, data_folder=tmp_path, log_file=tmp_path / "log.jsonl"
    )
    with Listener(any_broker, "edgeflex/local/voltage/#") as listener:
        with served_grid(any_broker.url, extension=True) as grid:
            wait_until(lambda: grid.events("state"))
            before = grid.events("state")[-1]["max_voltage_pu"]
            with running(run, execute):
                wait_until(lambda: grid.events("state")[-1]["max_voltage_pu"] < 1.051, 30.0)
                time.sleep(2.0)
                controlled = grid.events("state")[-1]["max_voltage_pu"]
            # The flow has told the safe state, in which nothing is asked of the inverters.
            wait_until(lambda: grid.events("state")[-1]["max_voltage_pu"] > 1.1, 10.0)
        received = [json.loads(payload) for _, payload in listener.received]
    assert before == pytest.approx(1.1189, abs=5e-4)
    assert controlled == pytest.approx(1.05, abs=1e-3)
    assert grid.events("refused") == []
    assert {each["type"] for each in received} <= {"setpoints", "alarm"}
    reactive = [each for each in received if each.get("quantity") == "reactive_power_pu"]
    assert (reactive[0]["status"], reactive[-1]["status"]) == ("ok", "safe")
    assert any("voltage_max" in names for names in reactive[-2]["limits"].values())
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        kept = store.execute("SELECT count(*) FROM messages WHERE type = 'setpoints'").fetchone()
    assert kept[0] == sum(each["type"] == "setpoints" for each in received)


@pytest.mark.long
@each_runtime
def test_voltage_mpc_asks_the_market_and_keeps_a_feeder_within_limits_over_the_databus(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    params: dict[str, Any] = {
        "mqtt_port": any_broker.port,
        "data_folder": tmp_path,
        "log_file": tmp_path / "log.jsonl",
    }
    write_network(tmp_path / "grid", GRID, make_profiles(GRID, "constant").at(0.0))
    run = flow_run("voltage_mpc.yaml", period="1s", mpc_mode="control", grid=tmp_path / "grid", **params)
    with Listener(any_broker, "#") as listener, served_grid(any_broker.url, extension=True) as grid:
        wait_until(lambda: grid.events("state"))
        with running(run, execute):
            wait_until(lambda: run.counters["sun"].get("messages_out"), 30.0)
            for forecast in full_sun():
                listener.publish("edgeflex/local/forecast/sun", encode_message(forecast))
            asked = "/edgeflex/goflex/flex_request"
            wait_until(lambda: [topic for topic, _ in listener.received if topic == asked], 30.0)
            request = next(json.loads(payload) for topic, payload in listener.received if topic == asked)
            given = {"flex_response": request["flex_request"], "variable": "active_power", "nodes": request["nodes"]}
            listener.publish("/edgeflex/goflex/flex_result", json.dumps({**given, "unit": request["unit"]}).encode())
            wait_until(lambda: grid.events("state")[-1]["max_voltage_pu"] < 1.0515, 30.0)
            time.sleep(2.0)
    told = [json.loads(payload) for topic, payload in listener.received if "/voltage_mpc/" in topic]
    assert request["nodes"] == [24, 26]
    assert {each["type"] for each in told} >= {"setpoints", "flex_request"}
    stored = [each for each in told if each.get("quantity") == "active_power_ess_pu" and each["status"] == "ok"]
    assert sum(stored[-1]["values"].values()) < -0.05  # storages charge, and forecasts are there
    assert grid.events("refused") == []


@pytest.mark.long
def test_voltage_control_in_shadow_sends_nothing_that_an_asset_obeys(tmp_path: Path, any_broker: BrokerProcess) -> None:
    run = flow_run(
        "voltage_control.yaml",
        mqtt_port=any_broker.port,
        data_folder=tmp_path,
        log_file=tmp_path / "log.jsonl",
        voltage_mode="shadow",
    )
    with Listener(any_broker) as listener, served_grid(any_broker.url, extension=True) as grid:
        with running(run, run_bytewax):
            shadows = "edgeflex/local/voltage/shadow_setpoints"
            wait_until(lambda: sum(topic == shadows for topic, _ in listener.received) > 5, 30.0)
        assert not [topic for topic, _ in listener.received if topic.startswith("/voltage_control/control")]
    assert grid.report is not None
    assert grid.report.applied == 0
    assert grid.report.max_voltage_pu > 1.11


@pytest.mark.long
@each_runtime
def test_frequency_control_holds_a_grid_over_the_databus(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    port, topic = free_udp_port(), "edgeflex/local/setpoints/units"
    run = flow_run("frequency_control.yaml", pmu_port=port, mqtt_port=any_broker.port, data_folder=tmp_path)
    step = StepOfArea(at_s=2.0, area="north", power_w=50e6)
    with closing(Inbox("127.0.0.1", any_broker.port, topic)) as inbox, Listener(any_broker, "edgeflex/#") as listener:
        service = FrequencyGridService("127.0.0.1", port, events=[step], inbox=inbox)
        with running(run, execute):
            report = service.run(seconds=7.0)
        wait_until(lambda: any(json.loads(payload).get("status") == "safe" for _, payload in listener.received))
    assert report.obeyed > 100
    assert (report.late, report.expired, report.unreadable, service.grid.counts.unknown) == (0, 0, 0, 0)
    assert -0.15 < report.nadir_hz < -0.1  # -272 mHz without the flow
    assert abs(report.last_deviation_hz) < 0.07
    told = [json.loads(payload) for topic, payload in listener.received if "/setpoints/" in topic]
    assert {each["controller"] for each in told} == {"droop", "inertia", "agc", "dispatch"}
    assert [each for each in listener.received if "/alarm/" in each[0]] == []
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        stored = store.execute("SELECT count(*) FROM messages WHERE type = 'setpoints'").fetchone()
    assert stored == (len(told),)


@pytest.mark.long
@each_runtime
def test_setpoint_watchdog_sends_the_safe_state_while_dispatch_is_silent(
    tmp_path: Path, any_broker: BrokerProcess, execute: Callable[[FlowRun], None]
) -> None:
    run = flow_run("setpoint_watchdog.yaml", mqtt_port=any_broker.port, data_folder=tmp_path)
    topic = "edgeflex/local/setpoints/units"

    def publish() -> None:
        told = Setpoints(
            controller="dispatch",
            time_ns=time.time_ns(),
            quantity="active_power_w",
            values={"north_bess": 1e6},
            valid_for_s=2.0,
            status="ok",
        )
        listener.publish(topic, encode_message(told))

    def received(kind: str) -> list[dict[str, Any]]:
        told = [json.loads(payload) for name, payload in list(listener.received) if f"/{kind}/" in name]
        return [each for each in told if each.get("controller", "watchdog") == "watchdog"]

    with Listener(any_broker, "edgeflex/#") as listener, running(run, execute):
        while run.counters["heard"].get("messages_out") < 3:
            publish()
            time.sleep(0.1)
        assert received("setpoints") == []
        wait_until(lambda: len(received("setpoints")) >= 3)
        publish()
        wait_until(lambda: len(received("alarm")) >= 2)
    assert [each["severity"] for each in received("alarm")] == ["critical", "info"]
    first = received("setpoints")[0]
    assert (first["values"], first["status"]) == ({"north_bess": 0.0, "north_chp": 200e6}, "safe")


def probe(listener: Listener, run: FlowRun, topic: str) -> bool:
    """Publish something harmless until the flow's subscription is in place."""
    row = {"created": 1_600_000_000_000, "device": "probe", "frequency_hz": 50.0, "voltage_kv": 110.0}
    listener.publish(f"edgeflex/local/{topic}/probe", json.dumps([row]).encode())
    time.sleep(0.05)
    return run.counters["measurements"].get("messages_out") > 0


def nameplate(unit: Unit) -> str:
    """What the table of units says of it."""
    return (
        f"rated_power: {unit.rated_power_mva} MVA, rated_voltage: {unit.rated_voltage_kv} kV, "
        f"transient_reactance_pu: {unit.xd1_pu}, subtransient_reactance_pu: {unit.xd2_pu}, "
        f"armature_resistance_pu: {unit.resistance_pu}"
    )
