"""`edgeflex up`: flows are moved over to new versions, or back, and one site has one supervisor."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import faulty_kinds
import psutil
import pytest
from broker import Mosquitto, wait_until
from programs import find_program
from supervised import PER_S, Stream, Up, up

from edgeflex_services.broker import free_tcp_port, free_udp_port

pytestmark = pytest.mark.long

CHANGED = "kind: select, columns: [active_power_w], without_quality: [test]"
QUICK = "limits: {settle: 500ms}"
UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "edgeflex@.service"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("yard")
    with up(folder, faulty_kinds.install(folder / "installed")) as site:
        for name in ("loaded", "moved", "taken", "crashing", "hanging", "killed", "misspelt", "beside"):
            site.write(name, top=QUICK)
        site.run_these()
        site.start()
        site.running()
        yield site
        assert "Traceback" not in site.log
        assert site.times("flow 'beside' runs\n") == 1


def test_no_row_of_a_thousand_a_second_is_lost_while_a_flow_moves_over(yard: Up) -> None:
    before = len(yard.written("beside"))
    with Stream(yard, "loaded") as stream, Stream(yard, "beside") as stream_beside:
        wait_until(lambda: stream.sent > PER_S // 2, 10.0)
        yard.write("loaded", CHANGED, top=QUICK)
        yard.wait_for("flow 'loaded' runs its new version\n")
    for name, sent in (("loaded", stream.sent), ("beside", before + stream_beside.sent)):
        yard.wait(lambda name=name, sent=sent: len(yard.written(name)) >= sent, f"{sent} rows did not come")  # type: ignore[misc]
    assert yard.written("loaded") == list(range(stream.sent))
    assert yard.written("beside")[before:] == list(range(stream_beside.sent))


def test_flow_that_moves_over_goes_on_with_its_state_and_no_other_is_touched(yard: Up) -> None:
    moved, beside = yard.member("moved"), yard.member("beside")
    yard.gets("moved", 1)
    yard.write("moved", CHANGED, top=QUICK)
    yard.wait_for("flow 'moved' runs its new version\n")
    yard.gets("moved", 2)
    assert yard.member("moved") != moved
    assert yard.member("beside") == beside
    assert re.search(r"moved: goes on with the state of \d\.\d s ago\n", yard.log)


def test_version_that_cannot_open_leaves_the_old_one_running_and_says_so(yard: Up) -> None:
    yard.gets("taken", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        yard.write("taken", top=QUICK, port=taken.getsockname()[1])
        yard.wait_for(r"flow 'taken': the new version ended: UDP [\d.:]+: the port is in use .*; the old one runs on")
    yard.gets("taken", 2)
    assert re.search(r"taken: goes on with the state of \d\.\d s ago\n", yard.log)
    yard.write("taken", top=QUICK)


def test_version_that_dies_before_it_has_settled_leaves_the_old_one_running(yard: Up) -> None:
    yard.write("crashing", "kind: faulty, fault: exit", top="limits: {settle: 20s}")
    yard.wait_for("flow 'crashing' runs\n", 2)
    yard.send("crashing", 1)
    yard.wait_for("flow 'crashing': the new version ended with exit code 7; the old one runs on")
    yard.gets("crashing", 2)
    yard.member("crashing").kill()  # and not the refused version is started now
    yard.wait_for("flow 'crashing' was killed by signal 9; starting it again at once")
    yard.gets("crashing", 3)
    yard.write("crashing", top=QUICK)


def test_version_that_stands_when_its_trial_is_over_leaves_the_old_one_running(yard: Up) -> None:
    yard.gets("hanging", 1)
    yard.write("hanging", "kind: faulty, fault: hang", top="limits: {settle: 500ms, stalled: 3s}")

    def refused() -> bool:
        yard.send("hanging", 2)
        return yard.times(r"flow 'hanging': the new version stood still for \d s; the old one runs on") > 0

    yard.wait(refused, "it has not come back")
    yard.gets("hanging", 3)
    assert yard.times("flow 'hanging' runs its new version") == 0
    yard.write("hanging", top=QUICK)


def test_rows_that_come_while_a_flow_is_started_again_are_taken_then(yard: Up) -> None:
    yard.gets("killed", 1)
    yard.member("killed").kill()
    yard.wait_for("flow 'killed' was killed by signal 9")
    for number in range(2, 50):
        yard.send("killed", number)
    yard.wait(lambda: set(range(2, 50)) <= set(yard.written("killed")), "rows are missing")


def test_wrong_file_is_told_and_everything_runs_on_until_it_is_mended(yard: Up) -> None:
    yard.write("misspelt", "kind: selct", top=QUICK)
    yard.wait_for("the files have changed and are wrong; everything runs on as it was")
    assert "'selct'" in yard.log
    assert "misspelt.yaml:5:16" in yard.log
    yard.gets("misspelt", 1)
    yard.write("misspelt", CHANGED, top=QUICK)
    yard.wait_for("flow 'misspelt' runs its new version\n")


def test_second_supervisor_of_a_site_is_refused(yard: Up) -> None:
    command = [sys.executable, "-m", "edgeflex_flow", "up", str(yard.site)]
    second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert second.returncode == 3
    assert f"another supervisor runs this site: it holds '{yard.folder}/sites/.yard/supervisor.lock'" in second.stderr


@contextmanager
def small(folder: Path) -> Iterator[Up]:
    with up(folder) as site:
        for name in ("one", "two"):
            site.write(name, top=QUICK)
        site.run_these()
        site.start()
        site.running()
        yield site


def test_flows_come_and_go_with_the_list_and_outlive_what_they_were_forked_from(tmp_path: Path) -> None:
    with small(tmp_path) as site:
        two = site.member("two")
        site.run_these("two")
        site.wait_for("not listed any more, and ended: one")
        assert site.member("two") == two
        parent = two.parent()
        assert parent is not None
        parent.kill()
        site.run_these("one", "two")
        site.wait_for("flow 'one' runs\n", 2)
        site.gets("two", 1)
        assert two.is_running()
        two.kill()
        site.wait_for("flow 'two' ended with exit code 255; starting it again at once")
        site.gets("two", 2)
        members = site.members()
        assert site.end() == 0
        assert psutil.wait_procs(members, 1.0)[1] == []


def test_flows_end_when_their_supervisor_is_killed_and_what_ran_well_is_started_though_files_are_wrong(
    tmp_path: Path,
) -> None:
    with small(tmp_path) as site:
        site.gets("one", 1)
        wait_until((tmp_path / "sites/.yard/proven.json").exists, 20.0)
        wait_until(lambda: (tmp_path / "sites/.yard/proven.json").read_text().count("digest") == 2, 20.0)
        members = site.members()
        assert site.process is not None
        site.process.send_signal(signal.SIGKILL)
        site.process.wait()
        _, alive = psutil.wait_procs(members, 30.0)
        assert alive == []
    site.write("one", "kind: selct")
    with up_again(site) as again:
        again.wait_for("the files are wrong; what ran well last is started")
        again.running("one", "two")
        again.gets("one", 2)
        assert again.end() == 0


def test_flow_whose_supervisor_was_killed_ends_before_it_is_started_again(tmp_path: Path) -> None:
    with small(tmp_path) as site:
        orphan = site.member("one")
        assert site.process is not None
        orphan.suspend()  # as one that takes its time to drain
        try:
            site.process.kill()
            site.process.wait()
            with up_again(site) as again:
                again.wait_for("a supervisor of this site was killed: waits until its flows have ended")
                assert again.times("flow 'one' runs") == 0
                orphan.resume()
                again.running("one", "two")
                assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
                assert again.end() == 0
        finally:
            with suppress(psutil.NoSuchProcess):
                orphan.resume()


TELLING = """\
flow: one
{top}
nodes:
  samples: {{kind: samples_udp, host: 127.0.0.1, port: {port}, format: json.edgeflex, columns: [active_power_w]}}
  out: {{kind: file_write, from: samples, path: ../one.jsonl}}
  tell: {{kind: mqtt_publish, from: samples, bus: databus, topic: meter}}
"""
TRIES_SOON = """
from edgeflex_flow.supervisor import keeper
keeper.TRY_AGAIN_S = 1.0
from edgeflex_flow.__main__ import main
main()
"""


@pytest.mark.needs("mosquitto")
def test_version_that_does_not_reach_its_broker_takes_over_once_it_does_or_when_it_need_not(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.port = free_tcp_port()
    bus = f"state: {{folder: state}}\nconnections: {{databus: {{kind: mqtt, url: 'mqtt://127.0.0.1:{broker.port}'}}}}"
    with up(tmp_path) as site:
        for name in ("one", "two"):
            site.write(name, top=QUICK)
        site.run_these(more=bus)
        site.start(command=(sys.executable, "-c", TRIES_SOON, "up", str(site.site)))
        site.running()
        before = site.members()
        site.replace(site.flow("one"), TELLING.format(port=site.ports["one"], top=QUICK))
        told = (
            r"flow 'one': the new version does not reach 'databus': .*; the old one runs on, and the new one is tried"
        )
        site.wait_for(told)
        site.gets("one", 1)
        assert set(before) <= set(site.members())
        next(each for each in before if each.cmdline()[0].endswith("/one")).kill()
        site.wait_for("flow 'one' was killed by signal 9; starting it again at once")
        site.gets("one", 2)  # and not the new version, untried
        assert site.times("flow 'one' runs its new version\n") == 0
        with broker:
            site.wait_for("flow 'one' runs its new version\n")
            site.gets("one", 3)
        assert site.times(told) == 1
        anew = bus.replace(str(broker.port), str(free_tcp_port()))
        site.run_these(more=anew)
        site.wait_for(told, 2)
        site.replace(
            site.flow("one"), TELLING.format(port=site.ports["one"], top="limits: {settle: 500ms, reach: false}")
        )
        site.wait_for("flow 'one' runs its new version\n", 2)
        assert site.end() == 0


@pytest.mark.needs("mosquitto")
def test_secret_that_is_rotated_is_taken_up_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    first, second, wrong = (os.urandom(8).hex() for _ in range(3))
    with Mosquitto(tmp_path, users={"grid": first, "other": second}) as broker, up(tmp_path) as site:
        site.write("two", top=QUICK)
        site.ports["one"] = free_udp_port()
        site.replace(site.flow("one"), TELLING.format(port=site.ports["one"], top=QUICK))
        secret = tmp_path / "sites" / "secret"
        secret.write_text(first)
        bus = f"{{{{kind: mqtt, url: '{broker.url}', username: {{}}, password: '${{{{file:secret}}}}'}}}}"
        site.run_these(more=f"connections: {{databus: {bus.format('grid')}}}")
        site.start()
        site.running()
        site.replace(secret, wrong)
        site.wait_for(r"flow 'one' has changed \(connection databus\.password: \*\*\* → \*\*\*\)")
        site.wait_for(r"flow 'one': the new version does not reach 'databus': .*; the old one runs on")
        site.gets("one", 1)
        site.replace(secret, second)
        site.run_these(more=f"connections: {{databus: {bus.format('other')}}}")
        site.wait_for("flow 'one' runs its new version\n")
        site.gets("one", 2)
        for hidden in (first, wrong, second):
            assert hidden not in site.log
        assert site.end() == 0


def test_whatever_is_written_into_the_site_file_what_runs_goes_on(tmp_path: Path) -> None:
    with small(tmp_path) as site:
        site.run_these(more='state: {folder: "${file:a\\0b}"}')
        site.wait_for("the files have changed and are wrong; everything runs on as it was")
        site.replace(site.site, "\0")
        site.wait_for("the files have changed and are wrong; everything runs on as it was", 2)
        site.gets("one", 1)
        site.run_these()
        site.wait_for("the files are right again")
        site.flow("two").unlink()
        site.wait_for("the files have changed and are wrong; everything runs on as it was", 3)
        site.write("two", top=QUICK)
        site.wait_for("the files are right again", 2)
        site.write("one", CHANGED, top=QUICK)
        site.wait_for("flow 'one' runs its new version\n")
        assert site.end() == 0


def test_limits_that_change_hold_at_once_and_move_nothing(tmp_path: Path) -> None:
    with small(tmp_path) as site:
        one = site.member("one")
        site.write("one", top="limits: {settle: 500ms, memory: 64 MiB}")
        site.wait_for(r"flow 'one' needs \d+ MiB of memory, at most 64 MiB are allowed; starting it again")
        assert site.times("flow 'one' has changed") == 0
        assert not one.is_running()


@contextmanager
def up_again(before: Up) -> Iterator[Up]:
    """Another supervisor of the same site."""
    again = before.again()
    try:
        again.start()
        yield again
    finally:
        again.close()


def test_wrong_files_of_a_site_that_never_ran_end_it_at_once(tmp_path: Path) -> None:
    with up(tmp_path) as site:
        site.write("one", "kind: selct")
        site.run_these()
        site.start()
        assert site.process is not None
        assert site.process.wait(60.0) == 1
        wait_until(lambda: "'selct'" in site.log, 5.0)


def unit_for(site: Up) -> str:
    """The unit that ships, for this site and where this test has its files."""
    text = UNIT.read_text().replace("/opt/edgeflex/bin/edgeflex", str(Path(sys.executable).with_name("edgeflex")))
    for place, here in {"/var/lib/edgeflex/%i": site.folder / "state", "/etc/edgeflex": site.folder}.items():
        text = text.replace(place, str(here))
    return text.replace("%i", "yard")


def command_of_the_unit(site: Up) -> list[str]:
    (line,) = re.findall("^ExecStart=(.*)$", unit_for(site), re.MULTILINE)
    return shlex.split(line)


def test_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    with up(tmp_path) as site:
        unit = tmp_path / "edgeflex@yard.service"
        unit.write_text(unit_for(site))
    told = subprocess.run(
        [find_program("systemd-analyze") or "", "verify", str(unit)], check=False, capture_output=True, text=True
    )
    assert (told.returncode, told.stderr) == (0, "")


def test_systemd_is_told_when_all_run_that_it_lives_and_that_it_ends(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60.0)
        told: list[str] = []

        def until(word: str) -> None:
            while word not in told:
                told.append(systemd.recv(1000).decode())

        environment = {**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "3000000"}
        with up(tmp_path, environment) as site:
            site.write("one", top=QUICK)
            site.run_these()
            site.start(command=command_of_the_unit(site))
            until("READY=1")
            until("STATUS=1 of 1 flows run")
            until("WATCHDOG=1")
            until("WATCHDOG=1")
            assert site.end() == 0
            until("STOPPING=1")


RECORDED = """\
flow: recorded
nodes:
  rows: {{kind: file_replay, path: ../rows.jsonl, columns: [active_power_w]}}
  out: {{kind: file_write, from: rows, path: ../{to}.jsonl}}
"""


def test_flow_that_came_to_its_end_is_not_started_again_before_its_files_change(tmp_path: Path) -> None:
    rows = [
        {"type": "samples", "device": "meter", "time_ns": 10**18 + n, "quality": 0, "active_power_w": float(n)}
        for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    with up(tmp_path) as site:
        site.replace(site.flow("recorded"), RECORDED.format(to="first"))
        site.write("two", top=QUICK)
        site.run_these("recorded", "two")
        site.start()
        site.running("recorded", "two")
        site.wait_for("flow 'recorded' came to its end: it is not started again before its files change")
        site.gets("two", 1)
        assert site.written("first") == [0, 1, 2]
        site.replace(site.flow("recorded"), RECORDED.format(to="second"))
        site.wait_for("flow 'recorded' came to its end", 2)
        assert site.written("second") == [0, 1, 2]
        assert site.end() == 0
