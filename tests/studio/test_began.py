"""When processes began."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from edgeflex_flow.studio import began
from edgeflex_flow.studio.began import began_ms


def test_a_process_began_when_the_system_says() -> None:
    told = began_ms(os.getpid())
    assert told is not None
    assert told / 1000 == pytest.approx(psutil.Process().create_time(), abs=1.1)  # psutil knows whole seconds of boot
    before_ms = time.time() * 1000
    with subprocess.Popen(["sleep", "60"]) as process:
        told = began_ms(process.pid)
        process.kill()
    assert told is not None
    assert before_ms - 20 <= told <= time.time() * 1000


def test_of_a_process_that_is_gone_or_of_another_system_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(began, "PROCESSES", tmp_path)
    assert began_ms(os.getpid()) is None
