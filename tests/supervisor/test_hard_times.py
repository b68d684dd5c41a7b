"""`edgeflex up` where the machine misbehaves: its clock jumps, its disk is full or cannot be written."""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
from programs import find_program
from supervised import Up, up

from edgeflex_services.broker import free_tcp_port, free_udp_port

HOUR_S = 3600


def fake_time(folder: Path) -> dict[str, str]:
    """An environment whose programs have the clock that a file says, which may change at any moment."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }


def set_clock(folder: Path, offset_s: int) -> None:
    new = folder / "clock.part"
    new.write_text(f"{offset_s:+d}\n")
    new.replace(folder / "clock")


def test_clock_that_jumps_by_an_hour_either_way_stops_nothing(tmp_path: Path) -> None:
    set_clock(tmp_path, 0)
    with up(tmp_path, fake_time(tmp_path)) as site:
        site.write("one", top="limits: {stalled: 3s, silent: 3s, settle: 1s}")
        site.run_these()
        site.start()
        site.running()
        site.gets("one", 1)
        for number, offset_s in enumerate((HOUR_S, -HOUR_S), start=2):
            set_clock(tmp_path, offset_s)
            site.gets("one", number)
            time.sleep(5.0)  # longer than all limits
            site.gets("one", 10 * number)
        assert site.times("runs\n") == 1
        site.write("one", "kind: select, columns: [active_power_w], without_quality: [test]")
        site.wait_for("flow 'one' runs its new version\n")
        site.gets("one", 100)
        assert site.end() == 0
        assert "Traceback" not in site.log


def write_site(site: Up, disk: Path) -> None:
    site.write("one", top="limits: {settle: 500ms}")
    site.run_these(more=f"state: {{folder: {disk}/state, every: 100ms}}")


def fill(disk: Path) -> None:
    """Leave no room."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_full_disk_costs_the_state_and_not_the_flow_and_is_told_once(tmp_path: Path, small_disk: Path) -> None:
    with up(tmp_path) as site:
        write_site(site, small_disk)
        site.start("--state", str(small_disk / "own"))
        site.running()
        site.gets("one", 1)
        fill(small_disk)

        def told(times: int) -> bool:
            site.send("one", 2)
            return site.times("the state cannot be saved in .*No space left on device") == times

        site.wait(lambda: told(1), "nothing was told")
        site.gets("one", 3)
        site.member("one").kill()
        site.wait_for("flow 'one' runs\n", 2)
        site.wait(lambda: told(2), "nothing was told by the second run")
        site.gets("one", 4)
        (small_disk / "filler").unlink()

        def saved_again() -> bool:
            site.send("one", 5)
            return site.times("the state is saved again") > 0

        site.wait(saved_again, "nothing was told")
        assert site.end() == 0
        assert site.times("the state cannot be saved") == 2
        assert "Traceback" not in site.log


def test_disk_that_cannot_be_written_keeps_no_site_from_running(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run([find_program("mount") or "", "-o", "remount,ro", str(small_disk)], check=True)
    with up(tmp_path) as site:
        write_site(site, small_disk)
        site.start("--state", str(small_disk / "own"))
        site.running()
        site.gets("one", 1)
        assert site.times("the state cannot be saved") == 1
        assert "Read-only file system" in site.log
        assert site.end() == 0
        assert "Traceback" not in site.log


FLOOD = """\
flow: flood
nodes:
  samples: {{kind: samples_udp, host: 127.0.0.1, port: {port}, format: json.edgeflex, columns: [active_power_w]}}
  out: {{kind: mqtt_publish, from: samples, bus: databus, topic: meters, queue: 100}}
"""
OUTBOX_BYTES = 2**20


def test_outbox_that_is_flooded_drops_and_counts_and_neither_memory_nor_disk_nor_another_flow_suffers(
    tmp_path: Path,
) -> None:
    monitor = free_tcp_port()
    away = f"mqtt://127.0.0.1:{free_tcp_port()}"
    with up(tmp_path) as site:
        site.ports["flood"] = free_udp_port()
        site.replace(site.flow("flood"), FLOOD.format(port=site.ports["flood"]))
        site.write("beside")
        bus = f"connections: {{databus: {{kind: mqtt, url: '{away}', outbox: {tmp_path}/outbox, outbox_size: 1 MiB}}}}"
        site.run_these(more=f"{bus}\nmonitor: {{port: {monitor}}}")
        site.start()
        site.running()
        before = site.member("flood").memory_info().rss

        def overflows() -> bool:
            for number in range(50):
                site.send("flood", number, rows=500)
            time.sleep(0.1)
            told = httpx.get(f"http://127.0.0.1:{monitor}/metrics").text
            return re.search(r'edgeflex_drops_total{.*node="out".*reason="overflow".*} [1-9]', told) is not None

        site.wait(overflows, "nothing overflowed")
        site.gets("beside", 1)
        held = sum(file.stat().st_size for file in (tmp_path / "outbox").rglob("*") if file.is_file())
        assert held < 2 * OUTBOX_BYTES
        assert site.member("flood").memory_info().rss - before < 64 * 2**20
        assert site.times("runs\n") == 2
