"""The process of one flow under `edgeflex up`."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import setproctitle

from edgeflex_flow import signals
from edgeflex_flow.cli.connect import unreached
from edgeflex_flow.cli.kinds import full_registry
from edgeflex_flow.cli.run import EXIT_BAD_FILE, errors_of, tell_problems
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.flowfile.document import recalled
from edgeflex_flow.log_lines import set_up_logs
from edgeflex_flow.registry import Registry
from edgeflex_flow.sockets import SocketStore
from edgeflex_flow.supervisor.channel import Channel
from edgeflex_flow.supervisor.member import Member
from edgeflex_flow.supervisor.nursery import Launch
from edgeflex_flow.supervisor.orphans import join

WORKERS = 1
OOM_SCORE = "300"
"""Where memory runs out, the system ends a flow before the supervisor of all."""


@cache
def registry() -> Registry:
    """The kinds, made once, in the process that all others are forked from; what is wrong with some is told by `up`."""
    found, _ = full_registry()
    return found


def run_supervised(launch: Launch, orders: socket.socket, sockets: socket.socket) -> None:
    """Be the process of a flow until the supervisor closes the line."""
    signals.hold()
    join(launch.folder)
    os.setsid()  # a signal of the terminal comes once, to the supervisor
    setproctitle.setproctitle(f"edgeflex {launch.site.stem}/{launch.flow}")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    set_up_logs(launch.log_level, launch.log_format)
    try:
        with recalled(launch.texts):
            plan = load_flow(launch.file, registry(), site=launch.site, params=dict(launch.params))
    except FlowFileError as error:
        tell_problems(error)
        sys.exit(EXIT_BAD_FILE)
    member = Member(
        plan,
        Channel(orders),
        SocketStore(sockets),
        lambda run: errors_of(run, "bytewax", WORKERS, None),
        unreached,
    )
    code = member.serve()
    signals.ignore()
    sys.exit(code)
