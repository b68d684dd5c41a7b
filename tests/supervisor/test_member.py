"""The process of a flow under a supervisor that is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

HANGS = """
import socket, sys, time
sys.path.insert(0, sys.argv[1])
from toy_nodes import CollectingSink, ScriptedSource, plan, planned, sink, source
from edgeflex_flow.sockets import SocketStore
from edgeflex_flow.supervisor import member
from edgeflex_flow.supervisor.channel import Channel

member.END_S = 1
supervisor, orders = socket.socketpair()
flow = plan(planned("pmu", source(ScriptedSource([]))), planned("out", sink(CollectingSink()), "pmu"))

def hang(run):
    supervisor.close()
    time.sleep(60.0)
    return {}

supervisor.sendall(b'{"type":"order","do":"open"}\\n')
member.Member(flow, Channel(orders), SocketStore(socket.socketpair()[0]), hang, lambda plan, names: ()).serve()
"""


def test_a_flow_that_hangs_does_not_outlive_its_supervisor() -> None:
    command = [sys.executable, "-c", HANGS, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == -signal.SIGALRM, done.stderr
