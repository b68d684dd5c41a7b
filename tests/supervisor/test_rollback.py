"""`edgeflex up`: a flow that goes back to its old version goes on with what that one knew last."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import faulty_kinds
import pytest
from supervised import PASS, Up, up

pytestmark = pytest.mark.long

CHANGED = "kind: select, columns: [active_power_w], without_quality: [test]"
DYING = f"{PASS}, from: [samples, dies]}}\n  dies: {{kind: dying}}\n  more: {{kind: file_write, path: ../more.jsonl"
"""Killed when it takes over, before it has looked at the state."""
MODULE = '''\
"""A source that ends its process."""

import os
import signal

from edgeflex_flow.node import NodeConfig, SourceNode, samples_wire


class DyingConfig(NodeConfig, frozen=True, kw_only=True):
    """Kills its process before anything is open."""


def die(config, context):
    os.kill(os.getpid(), signal.SIGKILL)


NODE = SourceNode("dying", DyingConfig, lambda config, inputs: samples_wire("active_power_w"), die)
'''


def install(folder: Path) -> dict[str, str]:
    environment = faulty_kinds.install(folder)
    (folder / "dying_kinds.py").write_text(MODULE)
    with (folder / faulty_kinds.DISTRIBUTION / "entry_points.txt").open("a") as points:
        points.write("dying = dying_kinds:NODE\n")
    return environment


def start(site: Up, top: str) -> None:
    site.write("one", top=top)
    site.run_these()
    site.start()
    site.running()


def test_version_that_is_killed_as_it_takes_over_leaves_what_the_old_one_has_just_saved(tmp_path: Path) -> None:
    quick = "limits: {settle: 500ms}"
    with up(tmp_path, install(tmp_path / "installed")) as site:
        start(site, quick)
        site.gets("one", 1)
        site.write("one", CHANGED, top=quick)
        site.wait_for("flow 'one' runs its new version\n")
        site.gets("one", 2)
        for number, name in ((3, "dies"), (4, "ends")):  # two versions: the first one leaves nothing to the second
            site.write("one", DYING.replace("dies", name), top=quick)
            site.wait_for("flow 'one': the new version was killed by signal 9; the old one runs on", number - 2)
            site.gets("one", number)
        assert re.findall("one: goes on with the state of .* s ago(.*)\n", site.log) == ["", "", ""]


def saved(folder: Path, what: bytes) -> bool:
    for name in ("state", "state.before"):
        with suppress(FileNotFoundError):  # while it is replaced
            if what in (folder / name).read_bytes():
                return True
    return False


def test_old_version_that_does_not_outlive_the_trial_begins_with_its_own_state(tmp_path: Path) -> None:
    with up(tmp_path, install(tmp_path / "installed")) as site:
        start(site, "")
        site.gets("one", 1)
        (old,) = site.members("one")
        site.write("one", "kind: faulty, fault: exit, after: 5", top="limits: {settle: 30s}")
        site.wait_for("flow 'one' runs\n", 2)
        folder = tmp_path / "sites" / "state" / "yard" / "one"
        site.send("one", 2, rows=5)
        site.wait(lambda: site.written("one")[-5:] == 5 * [2], "the new version gave nothing")
        site.wait(lambda: saved(folder, b"faulty"), "the new version saved nothing")
        old.kill()
        site.send("one", 3)
        site.wait_for("flow 'one': the new version ended with exit code 7")
        site.wait_for("flow 'one' was killed by signal 9; starting it again at once")
        site.gets("one", 4)
        site.wait_for("one: goes on with the state of .*; lost since then: [56] rows of samples\n")
        assert "its state is of kind 'faulty'" not in site.log
