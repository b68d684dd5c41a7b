"""What the policy loader keeps on disk, over restarts and faults."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from broker import wait_until
from policy_flows import Running, running
from policy_server import PolicyServer

from edgeflex_connectors.policy_system import POLICIES_PATH
from edgeflex_flow.messages import Crossing
from edgeflex_flow.policy_keep import PolicyKeep


def kept(folder: Path, name: str = "toy") -> Path:
    return folder / "keep" / f"test.{name}.json"


def test_a_restart_without_the_policy_system_goes_on_with_what_it_said_last(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, keep="keep"):
        pass
    server.stop()
    with caplog.at_level(logging.INFO), running(server, tmp_path, keep="keep") as flow:
        wait_until(lambda: flow.out.messages)
        assert [each.limit for each in flow.out.of_type(Crossing)[:1]] == [0.1]
    assert "until it answers, what it said then holds" in caplog.text


def test_after_a_restart_the_first_question_names_the_answer_that_is_known(
    server: PolicyServer, tmp_path: Path
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, keep="keep"):
        pass
    asked = len(server.of(POLICIES_PATH))
    with running(server, tmp_path, keep="keep", refresh=60.0) as flow:
        assert flow.onset == 0.1
        assert server.of(POLICIES_PATH)[asked].headers["if-none-match"].startswith('"')
        assert flow.count("not_modified") == 1


def test_age_is_counted_over_restarts(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, keep="keep", max_age=3.0):
        pass
    server.stop()
    contact_s = time.monotonic()
    with running(server, tmp_path, keep="keep", max_age=3.0) as flow:
        assert flow.onset == 0.1
    with running(server, tmp_path, keep="keep", max_age=3.0) as flow:
        wait_until(lambda: flow.onset == 0.02)
        assert time.monotonic() - contact_s < 10.0
        wait_until(flow.alarms)
    with running(server, tmp_path, keep="keep", max_age=3.0) as flow:
        assert flow.onset == 0.02
        wait_until(flow.alarms)


def test_age_is_not_forgotten_when_the_clock_is_set_back_between_two_runs(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, keep="keep", max_age=2.0) as flow:
        server.stop()
        wait_until(lambda: flow.onset == 0.02)
    late = Running(server.connection(keep="keep", max_age=2.0), tmp_path)
    late.clock.jump_ns = -3600 * 1_000_000_000
    with late:
        assert late.onset == 0.02


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"{", b"[]", b'{"layout": 9, "sha256": "", "kept": {}}', b"[" * 100_000, "whole"],
    ids=["empty", "zeros", "cut", "list", "layout", "deep", "flipped"],
)
def test_a_damaged_file_is_set_aside_and_told(
    server: PolicyServer, tmp_path: Path, content: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, keep="keep"):
        pass
    file = kept(tmp_path)
    damaged = file.read_bytes().replace(b"0.1 Hz/s", b"0.9 Hz/s") if isinstance(content, str) else content
    file.write_bytes(damaged)
    server.stop()
    with running(server, tmp_path, keep="keep") as flow:
        assert flow.onset == 0.02
        assert flow.count("keep_corrupt") == 1
    assert "is damaged" in caplog.text
    assert file.with_name(f"{file.name}.corrupt").read_bytes() == damaged


def test_flows_of_a_site_share_the_folder(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with (
        running(server, tmp_path, keep="keep", name="first", refresh=0.1) as first,
        running(server, tmp_path, keep="keep", name="second", refresh=0.1) as second,
    ):
        for version in range(2, 8):
            server.save("trigger", onset=f"{version / 10:g} Hz/s")
            wait_until(lambda version=version: first.onset == second.onset == version / 10)  # type: ignore[misc]
    server.stop()
    for name in ("first", "second"):
        with running(server, tmp_path, keep="keep", name=name) as flow:
            assert flow.onset == 0.7


def test_a_disk_that_is_full_costs_only_what_a_restart_would_need(
    server: PolicyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", onset="0.1 Hz/s")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with running(server, tmp_path, keep="keep", refresh=0.1) as flow:
        before = kept(tmp_path).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("edgeflex_flow.policy_keep.os.fsync", full)
            server.save("trigger", onset="0.2 Hz/s")
            wait_until(lambda: flow.count("keep_errors"))
            assert flow.onset == 0.2
            assert kept(tmp_path).read_bytes() == before
            assert sorted(each.name for each in kept(tmp_path).parent.iterdir()) == [kept(tmp_path).name]
    assert "No space left on device; a restart may begin with defaults" in caplog.text
    assert b"0.2 Hz/s" in kept(tmp_path).read_bytes()


def test_a_folder_that_cannot_be_written_does_not_stop_the_flow(server: PolicyServer, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("a file, no folder")
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, keep="keep") as flow:
        assert flow.onset == 0.1
        wait_until(lambda: flow.count("keep_errors"))


WRITER = """
import itertools, sys
from pathlib import Path
from edgeflex_flow.messages import Policy
from edgeflex_flow.policy_keep import KeptPolicies, PolicyKeep
keep = PolicyKeep(Path(sys.argv[1]), ("site", "toy"))
print("begun", flush=True)
for version in itertools.count(1):
    policy = Policy(policy_id="trigger", policy_group="g", policy_kind="trigger", version=version,
                    fields={"text": "x" * 200_000})
    keep.save(KeptPolicies(url="u", group="g", asked=(), policies=(policy,), etag="", contact_ns=version, age_s=0.0))
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    keep = PolicyKeep(tmp_path, ("site", "toy"))
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            wait_until(keep.file.exists)
            time.sleep(random.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
        found = keep.load()
        assert found is not None
        assert found.policies[0].version == found.contact_ns


def test_what_a_killed_writer_left_is_removed_later(tmp_path: Path) -> None:
    keep = PolicyKeep(tmp_path, ("site", "toy"))
    left = tmp_path / "site.toy.json.4711.new"
    left.write_text("half")
    assert keep.load() is None
    assert left.exists()
    os.utime(left, (time.time() - 3600, time.time() - 3600))
    assert keep.load() is None
    assert not left.exists()
