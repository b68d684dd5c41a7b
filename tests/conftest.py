"""Shared fixtures: what every test folder may use."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from programs import find_program

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_flow.node import Context, Counters, OpenConnection

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Kernels compile in the first example, and machines are shared: how long an example takes says nothing.
settings.register_profile("edgeflex", deadline=None)
settings.load_profile("edgeflex")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most long tests come first, so that in the end no worker has a long one while others wait."""
    long = Counter(item.path for item in items if item.get_closest_marker("long") is not None)
    items.sort(key=lambda item: -long[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if find_program(name) is None:
                pytest.skip(f"needs the program '{name}', which is not installed")


@pytest.fixture
def program() -> Callable[[str], str]:
    """Path of a program that the test's `needs` marker names."""

    def find(name: str) -> str:
        path = find_program(name)
        assert path is not None, f"mark the test with @pytest.mark.needs('{name}')"
        return path

    return find


@dataclass
class ContextMaker:
    """Makes contexts for connectors under test and keeps what they report."""

    folder: Path
    dead_letters: list[tuple[str, str, bytes]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __call__(
        self,
        node: str = "node",
        *,
        connections: dict[str, OpenConnection] | None = None,
        clock: Clock | None = None,
    ) -> Context:
        counters = Counters()

        def dead_letter(reason: str, text: str, payload: bytes) -> None:
            counters.add(reason)
            self.dead_letters.append((reason, text, payload))

        return Context(
            flow="flow",
            site="site",
            node=node,
            clock=clock or SystemClock(),
            counters=counters,
            log=logging.getLogger("edgeflex.test"),
            dead_letter=dead_letter,
            fail=self.failures.append,
            folder=self.folder,
            connections=connections or {},
        )


@pytest.fixture
def make_context(tmp_path: Path) -> ContextMaker:
    """`make_context()` gives a Context whose relative paths start in `tmp_path`."""
    return ContextMaker(tmp_path)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced to the disk from now on, in this order."""
    paths: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from policy_browser import chromium

    with chromium() as started:
        yield started
